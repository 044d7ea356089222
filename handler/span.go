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

	"github.com/usher-dps/usher/answer"
)

// begin opens the span of an allocation below the caller's, and notes its place
// in the trace. Without a tracer the place is noted all the same, for records.
func (h *handler) begin(r *http.Request, call *answer.Call) (context.Context, trace.Span) {
	if h.tracer == nil {
		call.Trace = continueTrace(r.Header.Get("Traceparent"))
		return r.Context(), noop.Span{} // whoever embeds the webhook ends a span of their own
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	parent := trace.SpanContextFromContext(ctx)
	ctx, span := h.tracer.Start(ctx, http.MethodPost+" "+AllocatePath, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(call.Start))
	if own := span.SpanContext(); own.IsValid() {
		call.Trace = answer.Trace{TraceID: own.TraceID().String(), SpanID: own.SpanID().String()}
		if parent.IsValid() {
			call.Trace.ParentID = parent.SpanID().String()
		}
	}
	return ctx, span
}

// finish completes the span with what became of the call over HTTP. The URL is left out: its query can contain a key.
func finish(span trace.Span, call *answer.Call) {
	if !span.IsRecording() {
		return
	}
	result := call.Answer.Result
	attributes := []attribute.KeyValue{semconv.HTTPRequestMethodPost, semconv.HTTPRoute(AllocatePath),
		semconv.HTTPResponseStatusCode(call.Answer.Status())}
	if call.InvocationID != "" {
		attributes = append(attributes, semconv.FaaSInvocationID(call.InvocationID))
	}
	if !result.IsOutcome() {
		attributes = append(attributes, semconv.ErrorTypeKey.String(string(result)))
	}
	// A device that has to wait also gets a 503; an error is what someone should look at.
	if call.NeedsAttention() {
		span.SetStatus(codes.Error, string(result))
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
