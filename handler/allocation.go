package handler

import (
	"context"
	"log/slog"
	"time"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/dps"
)

// Allocation is one call of the webhook, from the request to what it is answered with.
type Allocation struct {
	// DecisionID is in the answer's header [DecisionIDHeader]: 26 letters and digits.
	DecisionID string
	Start      time.Time
	// Duration is the time from the call to the decision.
	Duration time.Duration
	// Status is the HTTP status of the answer.
	Status int
	// Request is nil if the body could not be read. It holds all that DPS sent,
	// keys and certificates included.
	Request *dps.AllocationRequest
	// Decision is the decision unless there is a Fault in place of one.
	Decision allocation.Decision
	Fault    *allocation.Fault
	// Trace is empty where the caller sent no traceparent and nothing is traced here.
	Trace Trace
	// Probe is set for a call with [ProbeHeader].
	Probe bool
	// InvocationID is the Functions host's name for the call; empty outside Functions.
	InvocationID string
}

// Result is the name of the outcome or of the fault.
func (a *Allocation) Result() string {
	if a.Fault != nil {
		return string(a.Fault.Kind)
	}
	return string(a.Decision.Outcome)
}

// Ours reports whether an operator should look into it: the fault is not the
// caller's, or the decision asks for a look.
func (a *Allocation) Ours() bool { return !a.Probe && (a.answer().ours || a.Decision.Alarm) }

// Observer sees an allocation before it is answered, so it must be quick. It may
// neither change the allocation nor keep it; Request, Decision and Fault are
// never changed after, so a copy may keep those. The context is that of the call,
// which can be done already.
type Observer func(context.Context, *Allocation)

// LogLine returns an observer that writes one line for each allocation. It holds
// names and reasons; of the request it tells who asked, never what a device or
// an enrollment holds.
func LogLine(log *slog.Logger) Observer {
	return func(ctx context.Context, a *Allocation) {
		a.log(context.WithoutCancel(ctx), log) // a line is owed for a request that was given up, too
	}
}

func (a *Allocation) log(ctx context.Context, log *slog.Logger) {
	level := slog.LevelInfo
	switch {
	case a.Ours():
		level = slog.LevelError
	case a.Fault != nil:
		level = slog.LevelWarn
	}
	if !log.Enabled(ctx, level) {
		return
	}
	var few [24]slog.Attr
	attrs := append(few[:0],
		slog.String("decision_id", a.DecisionID),
		slog.String("result", a.Result()),
		slog.Int("status", a.Status),
		slog.Int64("duration_us", a.Duration.Microseconds()),
	)
	text := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	from := func(p allocation.Provenance) {
		text("revision", p.Revision)
		if p.Source != allocation.SourceCurrent {
			text("source", string(p.Source))
		}
	}
	if a.Request != nil {
		text("enrollment_kind", string(a.Request.Enrollment.Kind))
		text("enrollment", bounded(a.Request.Enrollment.ID))
		text("registration_id", bounded(a.Request.Device.RegistrationID))
		text("current_hub", bounded(a.Request.Device.CurrentIotHubHostName))
	}
	if a.Fault != nil {
		text("rules", a.Fault.Rules)
		from(a.Fault.Provenance)
		text("rule", a.Fault.Rule)
		text("detail", a.Fault.Detail)
		if a.Fault.Cause != nil {
			text("cause", a.Fault.Cause.Error())
		}
		if len(a.Fault.Violations) > 0 {
			attrs = append(attrs, slog.Any("violations", a.Fault.Violations))
		}
	} else {
		text("rules", a.Decision.Rules)
		from(a.Decision.Provenance)
		text("rule", a.Decision.Rule)
		if a.Decision.Outcome == allocation.Assigned {
			text("hub", a.Decision.Response.IotHubHostName)
			text("initial_twin", string(a.Decision.InitialTwin))
		}
		if len(a.Decision.Reasons) > 0 {
			attrs = append(attrs, slog.Any("reasons", a.Decision.Reasons))
		}
		if a.Decision.Cause != nil {
			text("cause", a.Decision.Cause.Error())
		}
		if len(a.Decision.BuiltinErrors) > 0 {
			attrs = append(attrs, slog.Any("builtin_errors", a.Decision.BuiltinErrors))
		}
		if len(a.Decision.Overrides) > 0 {
			attrs = append(attrs, slog.Any("overrides", a.Decision.Overrides))
		}
	}
	text("trace_id", a.Trace.TraceID)
	text("parent_span_id", a.Trace.ParentID)
	text("span_id", a.Trace.SpanID)
	text("invocation_id", a.InvocationID)
	if a.Probe {
		attrs = append(attrs, slog.Bool("probe", true))
	}
	log.LogAttrs(ctx, level, "allocation", attrs...)
}

// bounded keeps what a caller sends from swelling the log. DPS's identifiers
// are 128 characters at most, host names 253.
func bounded(text string) string {
	if len(text) > 256 {
		return text[:256]
	}
	return text
}
