package handler

import (
	"context"
	"crypto/rand"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/usher-dps/usher/answer"
)

// begin opens the span of a call below the caller's, and notes its place in the trace. Without a tracer the place is
// still noted, for records.
func (h *handler) begin(r *http.Request, call *answer.Call) (context.Context, trace.Span) {
	if h.tracer == nil {
		call.Trace = continueTrace(r.Header)
		return r.Context(), noop.Span{} // a service that embeds the webhook ends its own span
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

// continueTrace returns a place below the caller's span, and the zero Trace if the caller sent no valid traceparent. It
// starts from an empty context: a span of the service that embeds the webhook is not the caller's.
func continueTrace(header http.Header) answer.Trace {
	if len(header["Traceparent"]) == 0 {
		return answer.Trace{}
	}
	parent := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(header)))
	if !parent.IsValid() {
		return answer.Trace{}
	}
	var span trace.SpanID
	rand.Read(span[:]) // never fails
	return answer.Trace{TraceID: parent.TraceID().String(), ParentID: parent.SpanID().String(), SpanID: span.String()}
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

// beginRecord opens the span of the observers below the one in ctx, if that is recorded.
func beginRecord(ctx context.Context) trace.Span {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return noop.Span{}
	}
	_, span := parent.TracerProvider().Tracer("github.com/usher-dps/usher/handler").Start(ctx, "record")
	return span
}
