package decider

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Stages of a decision, which are the names of their spans.
const (
	stageParse    = "parse"    // bytes to a request
	stageCheck    = "check"    // the request against its schema
	stageEvaluate = "evaluate" // the rule
	stageAccept   = "accept"   // the verdict against the limits of DPS and IoT Hub
)

// stages opens spans below the caller's if that one is recorded. The zero value opens none and costs nothing.
type stages struct {
	ctx    context.Context // has the caller's span, for one decision
	tracer trace.Tracer
}

func stagesOf(ctx context.Context) stages {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return stages{}
	}
	return stages{ctx, span.TracerProvider().Tracer("github.com/usher-dps/usher/allocation")}
}

// begin opens the span of a stage; the caller ends it.
func (s stages) begin(name string) trace.Span {
	if s.tracer == nil {
		return noop.Span{}
	}
	_, span := s.tracer.Start(s.ctx, name)
	return span
}
