package decisionlog

import (
	"strconv"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// AppendJSON appends the record to b, on one line. Members are in the order of the struct, usherRecord first.
func (r *Record) AppendJSON(b []byte) []byte {
	e := encoder{append(b, `{"usherRecord":`...)}
	e.int(int64(r.Version))
	e.text("decisionId", r.DecisionID)
	e.time("time", r.Time)
	e.number("durationUs", r.DurationUS)
	e.text("source", string(r.Source))
	e.optional("shadowOf", r.ShadowOf)
	texts(&e, "diverged", r.Diverged)
	if r.Probe {
		e.name("probe")
		e.b = append(e.b, "true"...)
	}
	e.optional("service", r.Service)
	e.optional("registrationId", r.RegistrationID)
	if r.Enrollment != nil {
		e.open("enrollment")
		e.text("kind", string(r.Enrollment.Kind))
		e.optional("id", r.Enrollment.ID)
		e.close()
	}
	if r.Rules != nil {
		e.open("rules")
		e.text("digest", r.Rules.Digest)
		e.optional("revision", r.Rules.Revision)
		e.close()
	}
	if r.Rule != nil {
		e.open("rule")
		e.text("package", r.Rule.Package)
		e.optional("title", r.Rule.Title)
		e.optional("file", r.Rule.File)
		e.close()
	}
	list(&e, "lines", r.Lines, func(line answer.Line) {
		e.b = append(e.b, '{')
		e.text("entry", line.Entry)
		e.text("place", line.Place)
		e.close()
	})
	e.number("status", int64(r.Status))
	e.decision(&r.Decision)
	e.open("dpsEffect")
	e.text("result", string(r.DPSEffect.Result))
	e.positive("errorCode", int64(r.DPSEffect.ErrorCode))
	e.close()
	if c := r.Certificate; c != nil {
		e.open("certificate")
		e.optional("subject", c.Subject)
		e.optional("issuer", c.Issuer)
		e.optional("sha256Thumbprint", c.SHA256Thumbprint)
		e.time("notAfter", c.NotAfter)
		e.raw("attributes", c.Attributes)
		e.close()
	}
	e.raw("request", r.Request)
	texts(&e, "masked", r.Masked)
	e.positive("maskedMore", int64(r.MaskedMore))
	list(&e, "lookups", r.Lookups, func(call Call) {
		e.b = append(e.b, '{')
		e.text("builtin", call.Builtin)
		e.raw("arguments", call.Arguments)
		e.raw("result", call.Result)
		texts(&e, "masked", call.Masked)
		if call.Undefined {
			e.name("undefined")
			e.b = append(e.b, "true"...)
		}
		e.optional("source", call.Source)
		e.optional("version", call.Version)
		if !call.AsOf.IsZero() {
			e.time("asOf", call.AsOf)
		}
		e.optional("digest", call.Digest)
		e.optional("fault", call.Fault)
		e.close()
	})
	e.positive("lookupsDropped", int64(r.LookupsDropped))
	if r.Trace != nil {
		e.open("trace")
		e.text("traceId", r.Trace.TraceID)
		e.text("parentSpanId", r.Trace.ParentSpanID)
		e.text("spanId", r.Trace.SpanID)
		e.close()
	}
	e.optional("invocationId", r.InvocationID)
	e.close()
	return e.b
}

func (e *encoder) decision(d *Decision) {
	e.open("decision")
	e.optional("outcome", string(d.Outcome))
	if f := d.Fault; f != nil {
		e.open("fault")
		e.text("kind", string(f.Kind))
		e.optional("detail", f.Detail)
		list(e, "violations", f.Violations, func(violation answer.Violation) {
			e.b = append(e.b, '{')
			e.text("pointer", violation.Pointer)
			e.text("problem", violation.Problem)
			e.close()
		})
		e.close()
	}
	e.optional("hub", d.Hub)
	e.part("initialTwin", d.InitialTwin)
	e.optional("initialTwinUse", string(d.InitialTwinUse))
	e.part("payload", d.Payload)
	texts(e, "reasons", d.Reasons)
	texts(e, "overrides", d.Overrides)
	e.positive("retryAfterMs", d.RetryAfterMS)
	if d.Alarm {
		e.name("alarm")
		e.b = append(e.b, "true"...)
	}
	e.optional("cause", d.Cause)
	texts(e, "builtinErrors", d.BuiltinErrors)
	e.close()
}

func (e *encoder) part(name string, p *Part) {
	if p == nil {
		return
	}
	e.open(name)
	e.number("bytes", int64(p.Bytes))
	e.optional("digest", p.Digest)
	e.raw("value", p.Value)
	e.close()
}

// encoder appends members of objects. encoding/json would take several times as long, and a record is written before a
// device is answered.
type encoder struct{ b []byte }

func (e *encoder) name(name string) {
	if e.b[len(e.b)-1] != '{' {
		e.b = append(e.b, ',')
	}
	e.b = append(e.b, '"')
	e.b = append(e.b, name...) // letters alone
	e.b = append(e.b, '"', ':')
}

func (e *encoder) open(name string) {
	e.name(name)
	e.b = append(e.b, '{')
}

func (e *encoder) close() { e.b = append(e.b, '}') }

func (e *encoder) int(value int64) { e.b = strconv.AppendInt(e.b, value, 10) }

func (e *encoder) number(name string, value int64) {
	e.name(name)
	e.int(value)
}

func (e *encoder) positive(name string, value int64) {
	if value != 0 {
		e.number(name, value)
	}
}

func (e *encoder) text(name, value string) {
	e.name(name)
	e.b = dps.AppendString(e.b, value)
}

func (e *encoder) optional(name, value string) {
	if value != "" {
		e.text(name, value)
	}
}

func (e *encoder) time(name string, value time.Time) {
	e.name(name)
	e.b = append(e.b, '"')
	e.b = value.UTC().AppendFormat(e.b, time.RFC3339Nano)
	e.b = append(e.b, '"')
}

func (e *encoder) raw(name string, value []byte) {
	if value != nil {
		e.name(name)
		e.b = append(e.b, value...)
	}
}

func list[T any](e *encoder, name string, elements []T, element func(T)) {
	if len(elements) == 0 {
		return
	}
	e.name(name)
	e.b = append(e.b, '[')
	for i := range elements {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		element(elements[i])
	}
	e.b = append(e.b, ']')
}

func texts[T ~string](e *encoder, name string, values []T) {
	list(e, name, values, func(value T) { e.b = dps.AppendString(e.b, string(value)) })
}
