package answer

import (
	"context"
	"log/slog"
	"strings"
)

// Summary is the answer in a few words, for a terminal: the result, and the hub or the reasons.
func (a *Answer) Summary() string {
	switch {
	case a.Result == Assigned:
		return string(a.Result) + " " + a.Response.IotHubHostName
	case len(a.Reasons) > 0:
		return string(a.Result) + ": " + strings.Join(a.Reasons, "; ")
	case a.Detail != "":
		return string(a.Result) + ": " + a.Detail
	default:
		return string(a.Result)
	}
}

// LogCalls returns an observer that logs one line per call. The line holds names and reasons. Of the request it shows
// who called, never what a device or an enrollment contains.
func LogCalls(log *slog.Logger) Observer {
	return func(ctx context.Context, c *Call) {
		level := c.Level()
		ctx = context.WithoutCancel(ctx) // a call that was given up gets a line as well
		if log.Enabled(ctx, level) {
			var few [30]slog.Attr
			log.LogAttrs(ctx, level, "allocation", c.appendAttrs(few[:0])...)
		}
	}
}

// Level is the level of the call's log line: error if an operator should look, warning for other faults.
func (c *Call) Level() slog.Level {
	switch {
	case c.NeedsAttention():
		return slog.LevelError
	case !c.Answer.Result.IsOutcome():
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

func (c *Call) appendAttrs(attrs []slog.Attr) []slog.Attr {
	a := &c.Answer
	attrs = append(attrs,
		slog.String("decision_id", c.DecisionID),
		slog.String("result", string(a.Result)),
		slog.Int("status", a.Status()),
		slog.Int64("duration_us", c.Duration.Microseconds()),
	)
	text := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	text("service", c.Service)
	if r := c.Request; r != nil {
		text("enrollment_kind", string(r.Enrollment.Kind))
		text("enrollment", bounded(r.Enrollment.ID))
		text("registration_id", bounded(r.Device.RegistrationID))
		text("current_hub", bounded(r.Device.CurrentIotHubHostName))
	}
	text("rules", a.Rules)
	text("revision", a.Revision)
	if a.Source != SourceCurrent {
		text("source", string(a.Source))
	}
	text("rule", a.PackageName())
	text("detail", a.Detail)
	text("hub", a.Response.IotHubHostName)
	text("initial_twin", string(a.InitialTwin))
	attrs = appendList(attrs, "reasons", a.Reasons)
	text("cause", a.CauseText())
	if a.Result.IsOutcome() { // else the cause names them
		attrs = appendList(attrs, "builtin_errors", a.BuiltinErrors)
	}
	text("lookup_fault", a.lookupFault())
	attrs = appendList(attrs, "overrides", a.Overrides)
	attrs = appendList(attrs, "violations", a.Violations)
	text("trace_id", c.Trace.TraceID)
	text("parent_span_id", c.Trace.ParentID)
	text("span_id", c.Trace.SpanID)
	text("invocation_id", c.InvocationID)
	if c.Probe {
		attrs = append(attrs, slog.Bool("probe", true))
	}
	return attrs
}

// lookupFault is the first look-up whose source failed, whether the decision ended there or not; empty if none did.
func (a *Answer) lookupFault() string {
	for i := range a.Lookups {
		if a.Lookups[i].Fault != "" {
			return strings.TrimPrefix(a.Lookups[i].Builtin, "lookup.")
		}
	}
	return ""
}

func appendList[T any](attrs []slog.Attr, name string, list []T) []slog.Attr {
	if len(list) == 0 {
		return attrs
	}
	return append(attrs, slog.Any(name, list))
}

// bounded keeps what a caller sends from swelling the log. DPS's identifiers have at most 128 characters, host names
// 253.
func bounded(text string) string { return text[:min(len(text), 256)] }
