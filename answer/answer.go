package answer

import (
	"fmt"
	"net/http"
	"time"

	"github.com/usher-dps/usher/dps"
)

// Answer is the answer to one AllocationRequest: an outcome, or a fault if no decision was reached. Result says which.
type Answer struct {
	Result Result

	// Response is what DPS receives; set only for Assigned.
	Response dps.AllocationResponse
	// InitialTwin says what DPS does with the twin of Response; set only for Assigned.
	InitialTwin dps.InitialTwinUse
	// Reasons are the rule's own words for Rejected and Held, or the name of the constraint that decided.
	Reasons []string
	// Overrides are the constraints that changed what the rule said.
	Overrides []Override
	// Throttle replaces status 503 by 429; set only for Held.
	Throttle bool
	// RetryAfter is how long the rule wants DPS to wait; 0 leaves it to the webhook.
	RetryAfter time.Duration
	// Alarm is set if an operator should look although a decision was reached: no rule can satisfy DPS for this device,
	// or the rule failed.
	Alarm bool

	// Detail describes a fault to the caller. It names what is wrong, and no value, file or internal of the service.
	Detail string
	// Violations list where a body departs from the schema; set only for InvalidRequest.
	Violations []Violation
	// Entry is the entry rule whose value may not be sent, such as hub; set only for BadVerdict.
	Entry string

	// Cause is for the log: why the rule failed, with files and lines of rules. It holds no value of the request.
	Cause error
	// BuiltinErrors are the places (file:line of rules) where a built-in function failed. Rego takes that as undefined.
	BuiltinErrors []string

	// Source says which of several sets of rules answered; empty means SourceCurrent.
	Source Source
	// Rules is the digest of the rules that answered, Revision the name of the bundle that they came in. Both are empty
	// if there were no rules; Revision also if the bundle has no name.
	Rules, Revision string
	// Rule is the rule that was evaluated; nil if there was none. It is shared and must not be changed.
	Rule *Rule
	// Lines are the definitions that produced what the rule says.
	Lines []Line
	// Lookups are what the answer depends on besides the request and the rules: rows that were looked up, and calls of
	// built-ins, which only rules have that are allowed such built-ins.
	Lookups []Lookup
}

// Rule identifies a rule, a Rego package that serves enrollments.
type Rule struct {
	Package string // such as allocation.breakroom
	Title   string // from its METADATA
	Place   string // file:line of its METADATA
	// Recordable are the paths that its METADATA allows to be recorded, each as a list of names; the first name is a
	// root such as payload.
	Recordable [][]string
}

// Source names one of several sets of rules.
type Source string

// The sources.
const (
	SourceCurrent Source = "current"
	SourceCanary  Source = "canary" // answers for a share of the devices
	SourceShadow  Source = "shadow" // is evaluated for comparison and answers no one
)

// Line is a definition that produced the value of an entry rule or an element of it: one of the entry rule, or one of a
// library behind it.
type Line struct {
	Entry string `json:"entry"` // hub, initial_twin, payload, reject or hold
	Place string `json:"place"` // file:line
}

// Lookup is a call of a function whose result depends on more than its arguments: a row that was looked up, or a built-in
// of OPA that reads the clock or the network. Values have the types of [dps.AllocationRequest.Document].
type Lookup struct {
	Builtin   string // such as lookup.device
	Arguments []any
	Result    any

	// The rest is about rows, whose Builtin starts with "lookup.".

	// Undefined is set if there is no such row, or if the source failed and the rules take that as no row.
	Undefined bool
	// Source is where the row is from, for people; Version identifies the source's state, if it has a name.
	Source, Version string
	// AsOf is when the source knew it; zero if that was at the time of the decision.
	AsOf time.Time
	// Fault is why the source failed; empty if it did not. Result is then an older row, if there is any.
	Fault string
	// Recordable are the members of the row that may be recorded. It is shared and must not be changed.
	Recordable []string
}

// Override is a constraint that prevailed over the rule.
type Override string

// The constraints that can prevail.
const (
	// NeverReprovision: the enrollment's reprovision policy keeps the device on its current hub, and the rule named
	// another hub or none.
	NeverReprovision Override = "never_reprovision"
	// CurrentHubNotLinked: the reprovision policy keeps the device on a hub that is not in linkedHubs, so the device is
	// rejected.
	CurrentHubNotLinked Override = "current_hub_not_linked"
	// OnUndecided: the rule named no hub, and its METADATA says what happens then.
	OnUndecided Override = "on_undecided"
)

// Violation is one place where a body departs from the schema.
type Violation struct {
	Pointer string `json:"pointer"` // JSON pointer (RFC 6901), empty for the root
	Problem string `json:"problem"`
}

// PackageName is the name of the rule's package; empty if no rule was evaluated.
func (a *Answer) PackageName() string {
	if a.Rule == nil {
		return ""
	}
	return a.Rule.Package
}

// Status is the HTTP status that the webhook answers with.
func (a *Answer) Status() int {
	if a.Result == Held && a.Throttle {
		return http.StatusTooManyRequests
	}
	return a.Result.Meaning().Status
}

// NeedsAttention reports whether an operator should look at it.
func (a *Answer) NeedsAttention() bool { return a.Alarm || a.Result.Meaning().NeedsAttention }

// Effect is what DPS does with the answer.
func (a *Answer) Effect() dps.Effect { return dps.EffectOf(a.Status(), a.Response.IotHubHostName) }

// CauseText is the text of Cause; empty if there is none.
func (a *Answer) CauseText() string {
	if a.Cause == nil {
		return ""
	}
	return a.Cause.Error()
}

// Panicked is the answer if a panic with this value ended the decision. It reports only the type of the value, because
// the value can quote the request.
func Panicked(value any, stack []byte) Answer {
	return Answer{Result: Internal, Detail: "this is a fault of the service itself",
		Cause: fmt.Errorf("panic of type %T\n%s", value, stack)}
}
