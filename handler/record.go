package handler

import (
	"context"
	"log/slog"
	"time"

	"github.com/usher-dps/usher/allocation"
)

// record writes the one log line of an allocation. It holds names and reasons;
// of the request it tells who asked, never what a device or an enrollment holds.
func (h *handler) record(a *exchange) {
	level := slog.LevelInfo
	switch {
	case a.answer.ours || a.decision.Alarm:
		level = slog.LevelError
	case a.err != nil:
		level = slog.LevelWarn
	}
	ctx := context.Background() // a line is owed for a request that was given up, too
	if !h.log.Enabled(ctx, level) {
		return
	}
	var few [24]slog.Attr
	attrs := append(few[:0],
		slog.String("decision_id", a.id),
		slog.String("result", a.result()),
		slog.Int("status", a.answer.status),
		slog.Int64("duration_us", time.Since(a.start).Microseconds()),
	)
	text := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	if a.asked != nil {
		text("enrollment_kind", string(a.asked.Enrollment.Kind))
		text("enrollment", bounded(a.asked.Enrollment.ID))
		text("registration_id", bounded(a.asked.Device.RegistrationID))
		text("current_hub", bounded(a.asked.Device.CurrentIotHubHostName))
	}
	if a.err != nil {
		text("rules", a.err.Rules)
		text("rule", a.err.Rule)
		text("detail", a.err.Detail)
		if a.err.Cause != nil {
			text("cause", a.err.Cause.Error())
		}
		if len(a.err.Violations) > 0 {
			attrs = append(attrs, slog.Any("violations", a.err.Violations))
		}
	} else {
		text("rules", a.decision.Rules)
		text("rule", a.decision.Rule)
		if a.decision.Outcome == allocation.Assigned {
			text("hub", a.decision.Response.IotHubHostName)
			text("initial_twin", string(a.decision.InitialTwin))
		}
		if len(a.decision.Reasons) > 0 {
			attrs = append(attrs, slog.Any("reasons", a.decision.Reasons))
		}
		if a.decision.Cause != nil {
			text("cause", a.decision.Cause.Error())
		}
		if len(a.decision.BuiltinErrors) > 0 {
			attrs = append(attrs, slog.Any("builtin_errors", a.decision.BuiltinErrors))
		}
		if len(a.decision.Overrides) > 0 {
			attrs = append(attrs, slog.Any("overrides", a.decision.Overrides))
		}
	}
	trace := continueTrace(a.request.Header.Get("Traceparent"))
	text("trace_id", trace.traceID)
	text("parent_span_id", trace.parentID)
	text("span_id", trace.spanID)
	text("invocation_id", bounded(a.request.Header.Get("X-Azure-Functions-Invocationid")))
	h.log.LogAttrs(ctx, level, "allocation", attrs...)
}

// bounded keeps what a caller sends from swelling the log. DPS's identifiers
// are 128 characters at most, host names 253.
func bounded(text string) string {
	if len(text) > 256 {
		return text[:256]
	}
	return text
}
