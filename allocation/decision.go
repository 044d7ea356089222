package allocation

import (
	"fmt"
	"time"

	"github.com/usher-dps/usher/dps"
)

// Outcome is what was decided about a device.
type Outcome string

// The three outcomes of a decision. When no decision is reached, that is a [Fault].
const (
	Assigned Outcome = "assigned" // the device goes to a hub
	Rejected Outcome = "rejected" // the device is refused for good
	Held     Outcome = "held"     // not now: DPS asks again
)

// Decision is the answer to one request.
type Decision struct {
	Outcome Outcome
	// Rules is the digest of the rules that decided, Rule the package among them.
	Rules, Rule string
	// Response is what DPS is sent; set for Assigned alone.
	Response dps.AllocationResponse
	// InitialTwin tells what DPS will do with the twin of Response.
	InitialTwin dps.InitialTwinUse
	// Reasons are the rule's own words for Rejected and Held, and the name of
	// the constraint where that decided.
	Reasons []string
	// Overrides are the constraints that changed what the rule said.
	Overrides []Override
	// Throttle asks for 429 in place of 503; for Held alone.
	Throttle bool
	// RetryAfter is how long the rule asks to wait; 0 leaves it to the caller.
	RetryAfter time.Duration
	// Alarm is set where an operator should look although a decision was
	// reached: no rule can satisfy DPS for this device, or the rule failed.
	Alarm bool
	// Cause is for the log: why the rule failed, where the decision was reached
	// nevertheless. It holds places and no value of the request.
	Cause error
	// BuiltinErrors are the places (file:line of rules) where a built-in
	// function failed. Rego takes that as undefined.
	BuiltinErrors []string
	// Provenance tells where the decision comes from.
	Provenance Provenance
}

// Provenance tells which rules took a decision, or failed to, and by which lines.
type Provenance struct {
	// Source says which of several sources the rules came from; empty stands
	// for SourceCurrent.
	Source Source
	// Revision is that of the bundle that the rules came in; may be empty.
	Revision string
	// Binding is the rule that was asked; nil if none was. Nobody may change it.
	Binding *Binding
	// Lines are the definitions that gave what the rule says.
	Lines []Line
	// ShadowOf is the ID of the decision that was answered in place of this one;
	// empty unless shadow rules made it.
	ShadowOf string
	// Diverged tells in what the two differ: outcome, hub, twin, payload or
	// fault; empty if in nothing, and for other sources.
	Diverged []string
	// Lookups are what the decision depended on besides the request and the
	// rules; none unless the rules were allowed built-ins that make it so.
	Lookups []Lookup
}

// Source says which rules decided, where there is more than one set.
type Source string

// The sources.
const (
	SourceCurrent Source = "current"
	SourceCanary  Source = "canary" // answers for a share of the devices
	SourceShadow  Source = "shadow" // answers nobody
)

// Line is a definition of an entry rule that gave its value, or an element of it.
type Line struct {
	Entry string // hub, initial_twin, payload, reject or hold
	Place string // file:line
}

// Override is a constraint that prevailed over the rule.
type Override string

// The constraints that can prevail.
const (
	// NeverReprovision: the enrollment's reprovision policy keeps the device
	// on its current hub, and the rule named another or none.
	NeverReprovision Override = "never_reprovision"
	// CurrentHubNotLinked: the reprovision policy keeps the device on a hub
	// that is not in linkedHubs, so the device is rejected.
	CurrentHubNotLinked Override = "current_hub_not_linked"
	// OnUndecided: the rule said nothing, and its METADATA says what then.
	OnUndecided Override = "on_undecided"
)

// FaultKind says why no decision was reached. It serves as reply code, as metric
// label and as log field.
type FaultKind string

// The kinds of fault. Malformed and InvalidRequest are the caller's; asking
// again changes nothing. All others are ours and may pass.
const (
	Malformed      FaultKind = "malformed"       // the body is not JSON that can be read
	InvalidRequest FaultKind = "invalid_request" // it is not an AllocationRequest
	Undecided      FaultKind = "undecided"       // no rule serves the enrollment, or its rule says nothing
	BadVerdict     FaultKind = "bad_verdict"     // what the rule says may not be sent to DPS
	Timeout        FaultKind = "timeout"         // the rule took too long
	Canceled       FaultKind = "canceled"        // the caller went away
	NotReady       FaultKind = "not_ready"       // there are no rules yet
	RulesStale     FaultKind = "rules_stale"     // there are, but nobody knows whether they still hold
	Internal       FaultKind = "internal"        // a bug of Usher's own
)

// Fault is the error of [Allocator.Allocate].
type Fault struct {
	Kind FaultKind
	// Detail is for the caller: it names what is wrong, and no value, file or
	// internal of the service.
	Detail string
	// Violations list where an AllocationRequest is not one; for InvalidRequest.
	Violations []Violation
	// Rules is the digest of the rules in use, Rule the package that was asked;
	// empty where it did not come to that.
	Rules, Rule string
	// Entry is the entry rule whose value may not be sent, such as hub; for BadVerdict.
	Entry string
	// BuiltinErrors are the places where a built-in function failed, which may be
	// why the rule names no hub; for Undecided.
	BuiltinErrors []string
	// Cause is for the log: it may name files and lines of rules. It holds no
	// value of the request either.
	Cause error
	// Provenance tells where the fault comes from.
	Provenance Provenance
}

// Violation is one place where a body departs from the schema.
type Violation struct {
	Pointer string `json:"pointer"` // JSON pointer (RFC 6901), empty for the root
	Problem string `json:"problem"`
}

func (f *Fault) Error() string {
	if f.Cause == nil {
		return fmt.Sprintf("%s: %s", f.Kind, f.Detail)
	}
	return fmt.Sprintf("%s: %s: %v", f.Kind, f.Detail, f.Cause)
}

func (f *Fault) Unwrap() error { return f.Cause }
