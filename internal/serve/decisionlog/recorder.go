package decisionlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

// Sink stores records or sends them on. It is safe for concurrent use.
type Sink interface {
	// Name is for people, such as stdout.
	Name() string
	// Write takes a record: one JSON object without a newline. It must not keep the slice. When it returns nil, the
	// record is as safe as the sink's setting promises.
	Write(record []byte) error
}

// IDMode says how registration IDs, and everything else that names a device, are recorded.
type IDMode string

// The modes.
const (
	Plain  IDMode = "plain"  // as they are
	Hashed IDMode = "hashed" // HMAC-SHA-256 under a key: records of one device still join
	Absent IDMode = "absent"
)

// MinHashKey is the shortest key for Hashed, in bytes. Registration IDs are often serial numbers, so anyone who knows
// the key can find them.
const MinHashKey = 16

// Options configure a [Recorder].
type Options struct {
	// Sinks all receive each record, one after the other.
	Sinks []Sink
	// RegistrationIDs is how they are recorded; empty means Plain.
	RegistrationIDs IDMode
	// HashKey is for Hashed and for the digests of twins and payloads. In the other modes it may be nil.
	HashKey []byte
	// Failed is called for each record that a sink did not take, or with the sink "" that could not be made; may be
	// nil.
	Failed func(sink string, err error)
}

// Recorder makes records. It is safe for concurrent use.
type Recorder struct {
	options Options
	allowed *node
	pool    sync.Pool // of *scratch
}

// scratch is the memory that one record is made in.
type scratch struct {
	mask   mask
	record Record
	out    []byte
	parts  []byte // parts of the record that are JSON already
	whole  []byte // a twin or payload of the answer

	// What the record points to.
	enrollment  Enrollment
	rules       Rules
	rule        Rule
	fault       Fault
	twin        Part
	payload     Part
	certificate Certificate
	trace       Trace
}

// New returns a Recorder. It fails if the options contradict each other.
func New(options Options) (*Recorder, error) {
	options.RegistrationIDs = cmp.Or(options.RegistrationIDs, Plain)
	options.HashKey = bytes.Clone(options.HashKey)
	switch options.RegistrationIDs {
	case Plain, Absent:
	case Hashed:
		if len(options.HashKey) == 0 {
			return nil, errors.New("registration IDs are to be hashed, but there is no key")
		}
	default:
		return nil, fmt.Errorf("registration IDs cannot be recorded %q: use plain, hashed or absent", options.RegistrationIDs)
	}
	if n := len(options.HashKey); n > 0 && n < MinHashKey {
		return nil, fmt.Errorf("the key for registration IDs has %d bytes; it needs at least %d", n, MinHashKey)
	}
	allowed, err := readAllowances(schemas.AllocationRequest())
	if err != nil {
		return nil, err
	}
	r := &Recorder{options: options, allowed: allowed}
	r.pool.New = func() any {
		return &scratch{mask: mask{mode: options.RegistrationIDs, mac: newMAC(options.HashKey)}}
	}
	return r, nil
}

// Observe is an [answer.Observer]: it records a call before it is answered. It reports failures only to Options.Failed.
func (r *Recorder) Observe(_ context.Context, a *answer.Call) {
	s := r.pool.Get().(*scratch)
	defer r.pool.Put(s)
	if err := r.encode(s, a); err != nil {
		r.failed("", err)
		return
	}
	for _, sink := range r.options.Sinks {
		if err := write(sink, s.out); err != nil {
			r.failed(sink.Name(), err)
		}
	}
}

func (r *Recorder) failed(sink string, err error) {
	if r.options.Failed != nil {
		r.options.Failed(sink, err)
	}
}

// encode makes the record. A panic here must not become the answer to a device.
func (r *Recorder) encode(s *scratch, a *answer.Call) (err error) {
	defer func() {
		if p := recover(); p != nil { // its value can quote the request
			err = fmt.Errorf("the record cannot be made: panic of type %T", p)
		}
	}()
	r.build(s, a)
	s.out = s.record.AppendJSON(s.out[:0])
	return nil
}

func write(sink Sink, record []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic of type %T", p)
		}
	}()
	return sink.Write(record)
}

// build makes the record of a call. The record is valid until the scratch is used again.
func (r *Recorder) build(s *scratch, call *answer.Call) {
	a := &call.Answer
	var recordable [][]string
	if a.Rule != nil {
		recordable = a.Rule.Recordable
	}
	var body *dps.Value
	if call.Request != nil {
		body = call.Request.Body()
	}
	m := &s.mask
	m.reset(r.allowed, body, recordable)
	s.parts = s.parts[:0]

	record := &s.record
	*record = Record{
		Version: Version, DecisionID: call.DecisionID, Time: call.Start, DurationUS: call.Duration.Microseconds(),
		Source: cmp.Or(a.Source, answer.SourceCurrent), ShadowOf: call.ShadowOf, Diverged: call.Diverged, Probe: call.Probe,
		Service: m.text(call.Service),
		Lines:   record.Lines[:0], Status: a.Status(), InvocationID: m.text(call.InvocationID),
	}
	if a.Rules != "" {
		s.rules = Rules{Digest: a.Rules, Revision: a.Revision}
		record.Rules = &s.rules
	}
	if rule := a.Rule; rule != nil {
		s.rule = Rule{Package: rule.Package, Title: rule.Title, File: rule.Place}
		if line := strings.LastIndexByte(rule.Place, ':'); line >= 0 {
			s.rule.File = rule.Place[:line]
		}
		record.Rule = &s.rule
	}
	record.Lines = append(record.Lines, a.Lines...)
	if call.Trace.TraceID != "" {
		record.Trace = &s.trace
		s.trace = Trace{TraceID: call.Trace.TraceID, ParentSpanID: call.Trace.ParentID, SpanID: call.Trace.SpanID}
	}
	if call.Request != nil {
		s.request(call.Request)
		start := len(s.parts)
		s.parts, _ = m.request(s.parts, r.allowed, body)
		record.Request = s.parts[start:]
	}
	s.decision(call)
	// What was masked of the request alone: pointers are into that.
	record.Masked, record.MaskedMore = m.masked, m.more
	s.lookups(a.Lookups)
}

// request fills in who called.
func (s *scratch) request(request *dps.AllocationRequest) {
	m, record := &s.mask, &s.record
	id := func(text string) string {
		switch {
		case m.mode == Absent || len(text) > maxText:
			return ""
		case m.mode == Hashed && text != "":
			return m.identity(text)
		default:
			return m.keys.Text(text)
		}
	}
	record.RegistrationID = id(request.Device.RegistrationID)
	if request.Enrollment.Kind != "" {
		s.enrollment = Enrollment{Kind: request.Enrollment.Kind}
		record.Enrollment = &s.enrollment
		if request.Enrollment.Kind == dps.IndividualEnrollment {
			record.Enrollment.ID = id(request.Enrollment.ID)
		} else if len(request.Enrollment.ID) <= maxText {
			record.Enrollment.ID = m.text(request.Enrollment.ID)
		}
	}
	if shown := request.Certificate(); shown != nil {
		if certificate, err := shown.Parse(); err == nil {
			s.summarize(certificate)
			record.Certificate = &s.certificate
		}
	}
}

// summarize shows of a certificate what an operator looks for. It names the device, so it is recorded like registration
// IDs.
func (s *scratch) summarize(c *dps.Certificate) {
	m, shown := &s.mask, &s.certificate
	short := func(text string) string {
		if len(text) > maxText {
			return ""
		}
		return m.text(text)
	}
	*shown = Certificate{Issuer: short(c.Issuer.CommonName), NotAfter: c.NotAfter}
	switch m.mode {
	case Plain:
		shown.Subject, shown.SHA256Thumbprint = short(c.Subject.CommonName), c.SHA256Thumbprint
	case Hashed:
		shown.SHA256Thumbprint = m.identity(c.SHA256Thumbprint)
		if c.Subject.CommonName != "" {
			shown.Subject = m.identity(c.Subject.CommonName)
		}
	}
	var few [8][]string
	if paths := below(few[:0], m.recordable, ruleset.RecordableCertificate); len(paths) > 0 {
		start := len(s.parts)
		s.parts = dps.AppendValue(s.parts, m.attributes(ruleset.CertificateAttributes(c), paths, ""))
		shown.Attributes = s.parts[start:len(s.parts):len(s.parts)]
	}
}

func (s *scratch) decision(call *answer.Call) {
	m, d, a := &s.mask, &s.record.Decision, &call.Answer
	// Not pointers into the request.
	masked, more := m.masked, m.more
	defer func() { m.masked, m.more = masked, more }()
	effect := a.Effect()
	s.record.DPSEffect = Effect{Result: effect.Result, ErrorCode: effect.ErrorCode}
	d.Cause = m.text(a.CauseText())
	if !a.Result.IsOutcome() {
		s.fault = Fault{Kind: a.Result, Detail: m.text(a.Detail)}
		if call.Request == nil && m.mode != Plain {
			// A pointer into a body that could not be read: any of its names may be a device's.
			s.fault.Detail, _, _ = strings.Cut(s.fault.Detail, " at /")
		}
		for _, violation := range a.Violations {
			s.fault.Violations = append(s.fault.Violations,
				answer.Violation{Pointer: m.shown(violation.Pointer), Problem: m.text(violation.Problem)})
		}
		d.Fault = &s.fault
		return
	}
	d.Outcome, d.Alarm, d.RetryAfterMS = a.Result, a.Alarm, a.RetryAfter.Milliseconds()
	d.Overrides, d.BuiltinErrors = a.Overrides, a.BuiltinErrors
	for _, reason := range a.Reasons {
		d.Reasons = append(d.Reasons, m.text(reason))
	}
	d.Hub, d.InitialTwinUse = m.text(a.Response.IotHubHostName), a.InitialTwin
	d.InitialTwin = s.part(&s.twin, a.Response.InitialTwin, answerTwin)
	d.Payload = s.part(&s.payload, a.Response.Payload, answerPayload)
}

// plainDigest marks a digest without a key.
const plainDigest = "sha256:"

// part fills in a twin or a payload of the answer; nil if there is none.
func (s *scratch) part(part *Part, value *dps.Value, root string) *Part {
	if value == nil {
		return nil
	}
	s.whole = value.AppendJSON(s.whole[:0])
	*part = Part{Bytes: len(s.whole), Digest: s.mask.digestOf(s.whole)}
	var few [8][]string
	if paths := below(few[:0], s.mask.recordable, root); len(paths) > 0 {
		start := len(s.parts)
		s.parts, _ = s.mask.declared(s.parts, value, paths)
		part.Value = s.parts[start:]
	}
	return part
}

// maxLookups bounds the look-ups in a record, in bytes.
const maxLookups = 16 << 10

// lookups records calls of built-in functions, as far as they reveal nothing that must not be recorded.
func (s *scratch) lookups(lookups []answer.Lookup) {
	if len(lookups) == 0 {
		return
	}
	m := &s.mask
	defer func(masked []string) { m.masked = masked }(m.masked) // the record has them
	size := 0
	for i := range lookups {
		lookup := &lookups[i]
		if _, isRow := ruleset.LookupName(lookup.Builtin); isRow {
			call := s.row(lookup)
			if size += call.size(); size <= maxLookups {
				s.record.Lookups = append(s.record.Lookups, call)
			} else {
				s.record.LookupsDropped++
			}
			continue
		}
		result, may := recordableLookup(lookup)
		if may {
			m.masked, m.more = nil, 0
			start := len(s.parts)
			s.parts = m.value(s.parts, dps.ValueOf(lookup.Arguments))
			middle := len(s.parts)
			s.parts = m.value(s.parts, dps.ValueOf(result))
			call := Call{Builtin: lookup.Builtin, Arguments: s.parts[start:middle:middle], Result: s.parts[middle:]}
			size += len(s.parts) - start
			if len(m.masked) == 0 && size <= maxLookups {
				s.record.Lookups = append(s.record.Lookups, call)
				continue
			}
		}
		s.record.LookupsDropped++
	}
}

// recordableLookup reports whether a call may be recorded, and which part of its result. Unknown built-ins can return
// anything, such as the environment.
func recordableLookup(lookup *answer.Lookup) (result any, may bool) {
	switch lookup.Builtin {
	case "time.now_ns", "rand.intn", "uuid.rfc4122", "net.lookup_ip_addr":
		return lookup.Result, true
	case "http.send":
		return recordableHTTP(lookup)
	}
	return nil, false
}

// recordableHTTP leaves out calls with anything but a plain URL, and the headers of responses: both can contain
// credentials.
func recordableHTTP(lookup *answer.Lookup) (result any, may bool) {
	if len(lookup.Arguments) == 0 {
		return nil, false
	}
	request, _ := lookup.Arguments[0].(map[string]any)
	for name := range request {
		switch name {
		case "headers", "body", "raw_body":
			return nil, false
		}
		if strings.HasPrefix(name, "tls_") {
			return nil, false
		}
	}
	address, _ := request["url"].(string)
	if address == "" || strings.ContainsAny(address, "?#@") {
		return nil, false
	}
	answer, _ := lookup.Result.(map[string]any)
	kept := map[string]any{}
	for _, name := range []string{"status", "status_code", "body", "error"} {
		if value, ok := answer[name]; ok {
			kept[name] = value
		}
	}
	return kept, true
}
