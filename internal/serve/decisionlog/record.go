// Package decisionlog makes one record for each call of the webhook: who called, what was decided, by which lines of
// which rules, and what DPS does with it. A record holds as much of the request as the schema and the rule allow, so
// that it can be replayed, and never a key.
//
// A [Recorder] builds and encodes records and passes them to its sinks, which store or send them; [Decode] reads one.
package decisionlog

import (
	"encoding/json"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// Version is the version of the format, the first member of each record.
const Version = 1

// Record is the record of one call. schemas/decision-record.schema.json describes its JSON.
type Record struct {
	Version    int       `json:"usherRecord"`
	DecisionID string    `json:"decisionId"`
	Time       time.Time `json:"time"` // of the call, in UTC
	DurationUS int64     `json:"durationUs"`
	// Source says which rules decided.
	Source answer.Source `json:"source"`
	// ShadowOf is the decision that was answered in place of this one, which shadow rules made.
	ShadowOf string `json:"shadowOf,omitempty"`
	// Diverged lists in what the two differ.
	Diverged []answer.Difference `json:"diverged,omitempty"`

	// Probe is set where no device stands behind the call.
	Probe bool `json:"probe,omitempty"`

	// Service is a name for the DPS instance that called; empty if the webhook's URL has none.
	Service string `json:"service,omitempty"`

	// RegistrationID is plain, hashed or absent, as the Recorder is configured.
	RegistrationID string      `json:"registrationId,omitempty"`
	Enrollment     *Enrollment `json:"enrollment,omitempty"` // nil if the body could not be read

	Rules *Rules `json:"rules,omitempty"` // nil if no rules were loaded yet
	Rule  *Rule  `json:"rule,omitempty"`  // nil if none was evaluated
	// Lines are the lines that decided, in the order reject, hold, hub, initial_twin, payload.
	Lines []answer.Line `json:"lines,omitempty"`

	Status    int      `json:"status"` // HTTP status of the answer
	Decision  Decision `json:"decision"`
	DPSEffect Effect   `json:"dpsEffect"`

	Certificate *Certificate `json:"certificate,omitempty"`
	// Request is the AllocationRequest without what is masked; nil if the body could not be read.
	Request json.RawMessage `json:"request,omitempty"`
	// Masked are JSON pointers (RFC 6901) into the request as DPS sent it, to what is left out of Request or changed in
	// it. MaskedMore counts those beyond the first 64.
	Masked     []string `json:"masked,omitempty"`
	MaskedMore int      `json:"maskedMore,omitempty"`
	// Lookups are calls of built-in functions whose results depend on more than their arguments. LookupsDropped counts
	// those that may not be recorded.
	Lookups        []Call `json:"lookups,omitempty"`
	LookupsDropped int    `json:"lookupsDropped,omitempty"`

	Trace        *Trace `json:"trace,omitempty"`
	InvocationID string `json:"invocationId,omitempty"`
}

// Enrollment names an enrollment. The ID of an individual enrollment is a registration ID, and recorded like one.
type Enrollment struct {
	Kind dps.EnrollmentKind `json:"kind"`
	ID   string             `json:"id,omitempty"`
}

// Rules identify the rules in use.
type Rules struct {
	Digest   string `json:"digest"`
	Revision string `json:"revision,omitempty"` // of the bundle that they came in
}

// Rule is the rule that was evaluated.
type Rule struct {
	Package string `json:"package"`
	Title   string `json:"title,omitempty"`
	File    string `json:"file,omitempty"`
}

// Decision is what was decided: an outcome, or a fault in place of one.
type Decision struct {
	Outcome answer.Result `json:"outcome,omitempty"`
	Fault   *Fault        `json:"fault,omitempty"`
	Hub     string        `json:"hub,omitempty"`
	// InitialTwin and Payload are those of the answer; nil if it has none.
	InitialTwin    *Part              `json:"initialTwin,omitempty"`
	InitialTwinUse dps.InitialTwinUse `json:"initialTwinUse,omitempty"`
	Payload        *Part              `json:"payload,omitempty"`
	Reasons        []string           `json:"reasons,omitempty"`
	Overrides      []answer.Override  `json:"overrides,omitempty"`
	RetryAfterMS   int64              `json:"retryAfterMs,omitempty"`
	Alarm          bool               `json:"alarm,omitempty"`
	Cause          string             `json:"cause,omitempty"`
	BuiltinErrors  []string           `json:"builtinErrors,omitempty"`
}

// Result is the outcome, or the kind of the fault.
func (d *Decision) Result() string {
	if d.Fault != nil {
		return string(d.Fault.Kind)
	}
	return string(d.Outcome)
}

// Fault says why no decision was reached.
type Fault struct {
	Kind       answer.Result      `json:"kind"`
	Detail     string             `json:"detail,omitempty"`
	Violations []answer.Violation `json:"violations,omitempty"`
}

// Part is a twin or a payload of the answer. It holds the members that the rule declares recordable; size and digest
// show whether another one is the same.
type Part struct {
	Bytes  int    `json:"bytes"`
	Digest string `json:"digest,omitempty"`
	// Value is what may be recorded of it; nil if there is nothing.
	Value json.RawMessage `json:"value,omitempty"`
}

// Effect is what DPS does with the answer.
type Effect struct {
	Result    dps.Result `json:"result"`
	ErrorCode int        `json:"errorCode,omitempty"`
}

// Certificate shows of the device's certificate what an operator looks for.
type Certificate struct {
	Subject          string    `json:"subject,omitempty"` // common names
	Issuer           string    `json:"issuer,omitempty"`
	SHA256Thumbprint string    `json:"sha256Thumbprint,omitempty"`
	NotAfter         time.Time `json:"notAfter"`
	// Attributes are those that the rule declares recordable, with the names of dps.certificate; nil if it declares
	// none.
	Attributes json.RawMessage `json:"attributes,omitempty"`
}

// Trace is the place in a distributed trace, in the digits of W3C Trace Context.
type Trace struct {
	TraceID      string `json:"traceId"`
	ParentSpanID string `json:"parentSpanId"`
	SpanID       string `json:"spanId"`
}

// Call is one call of a built-in function, or a row that was looked up.
type Call struct {
	Builtin string `json:"builtin"`
	// Arguments are nil if the key of a row may not be recorded.
	Arguments json.RawMessage `json:"arguments,omitempty"`
	// Result is nil if there is no row.
	Result json.RawMessage `json:"result,omitempty"`

	// The rest is about rows.

	// Masked are the members of the row that are left out of Result or changed in it.
	Masked    []string  `json:"masked,omitempty"`
	Undefined bool      `json:"undefined,omitempty"` // there is no such row
	Source    string    `json:"source,omitempty"`
	Version   string    `json:"version,omitempty"`
	AsOf      time.Time `json:"asOf,omitzero"`
	// Digest shows whether another row is the same, as that of a [Part].
	Digest string `json:"digest,omitempty"`
	Fault  string `json:"fault,omitempty"` // why the source failed
}
