package handler

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// begin opens the span of an allocation below the caller's, and notes its place
// in the trace. Without a tracer the place is noted all the same, for records.
func (h *handler) begin(r *http.Request, a *Allocation) (context.Context, trace.Span) {
	if h.tracer == nil {
		a.Trace = continueTrace(r.Header.Get("Traceparent"))
		return r.Context(), noop.Span{} // whoever embeds the webhook ends a span of their own
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	parent := trace.SpanContextFromContext(ctx)
	ctx, span := h.tracer.Start(ctx, http.MethodPost+" "+AllocatePath, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(a.Start))
	if own := span.SpanContext(); own.IsValid() {
		a.Trace = Trace{TraceID: own.TraceID().String(), SpanID: own.SpanID().String()}
		if parent.IsValid() {
			a.Trace.ParentID = parent.SpanID().String()
		}
	}
	return ctx, span
}

// finish says what came of the allocation over HTTP. The URL is left out: its
// query can hold a key.
func (a *Allocation) finish(span trace.Span) {
	if !span.IsRecording() {
		return
	}
	attributes := []attribute.KeyValue{semconv.HTTPRequestMethodPost, semconv.HTTPRoute(AllocatePath), semconv.HTTPResponseStatusCode(a.Status)}
	if a.InvocationID != "" {
		attributes = append(attributes, semconv.FaaSInvocationID(a.InvocationID))
	}
	if a.Fault != nil {
		attributes = append(attributes, semconv.ErrorTypeKey.String(a.Result()))
	}
	// A device that has to wait is answered 503, too; an error is what somebody
	// should look into.
	if a.Ours() {
		span.SetStatus(codes.Error, a.Result())
	}
	span.SetAttributes(attributes...)
}

// stageRecord is the span of the observers.
const stageRecord = "record"

// stage opens a span below the one in ctx, where that is recorded.
func stage(ctx context.Context, name string) trace.Span {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return noop.Span{}
	}
	_, span := parent.TracerProvider().Tracer("github.com/usher-dps/usher/handler").Start(ctx, name)
	return span
}
