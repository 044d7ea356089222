package answer

import "net/http"

// Result names an outcome, or the reason why there is none. It serves as the code of a problem document, as a metric
// label and as a field of log lines and records.
type Result string

// The outcomes.
const (
	Assigned Result = "assigned" // the device goes to a hub
	Rejected Result = "rejected" // the device is refused for good
	Held     Result = "held"     // not now: DPS calls again
)

// The faults. Malformed and InvalidRequest are the caller's, and calling again changes nothing. All others are ours and
// may pass.
const (
	Malformed      Result = "malformed"       // the body cannot be read as JSON
	InvalidRequest Result = "invalid_request" // it is not an AllocationRequest
	Undecided      Result = "undecided"       // no rule serves the enrollment, or its rule names no hub
	BadVerdict     Result = "bad_verdict"     // what the rule says may not be sent to DPS
	LookupFailed   Result = "lookup_failed"   // what the rule looks up is not available
	Timeout        Result = "timeout"         // the rule took too long
	Canceled       Result = "canceled"        // the caller went away
	NotReady       Result = "not_ready"       // no rules are loaded yet
	RulesStale     Result = "rules_stale"     // the rules may be out of date
	Internal       Result = "internal"        // a bug in Usher
)

// Meaning is what a result means outside Usher.
type Meaning struct {
	// Status is the HTTP status of the answer.
	Status int
	// Title is that of the problem document; empty for Assigned, which has none.
	Title string
	// NeedsAttention is set if an operator should look at it.
	NeedsAttention bool
}

// meanings is the one table from results to HTTP statuses. DPS fails the registration at once (400207) on a 4xx below
// 429, and calls again for about seven minutes on 429 and above. 401, or a 200 without a hub, would mislead operators.
// dps.EffectOf has the other half.
var meanings = map[Result]Meaning{
	Assigned: {Status: http.StatusOK},
	Rejected: {Status: http.StatusForbidden, Title: "The device is refused"},
	Held:     {Status: http.StatusServiceUnavailable, Title: "The device has to wait"},

	Malformed:      {Status: http.StatusBadRequest, Title: "The body cannot be read"},
	InvalidRequest: {Status: http.StatusBadRequest, Title: "The body is not an AllocationRequest"},
	Undecided:      {Status: http.StatusServiceUnavailable, Title: "No rule decides about the device", NeedsAttention: true},
	BadVerdict:     {Status: http.StatusServiceUnavailable, Title: "The rule's verdict may not be sent", NeedsAttention: true},
	LookupFailed:   {Status: http.StatusServiceUnavailable, Title: "A look-up failed", NeedsAttention: true},
	Timeout:        {Status: http.StatusServiceUnavailable, Title: "The rule took too long", NeedsAttention: true},
	Canceled:       {Status: http.StatusServiceUnavailable, Title: "The request did not arrive whole"},
	NotReady:       {Status: http.StatusServiceUnavailable, Title: "The service is starting", NeedsAttention: true},
	RulesStale:     {Status: http.StatusServiceUnavailable, Title: "The rules are out of date", NeedsAttention: true},
	Internal:       {Status: http.StatusServiceUnavailable, Title: "The service failed", NeedsAttention: true},
}

// Results lists all results.
func Results() []Result {
	return []Result{Assigned, Rejected, Held,
		Malformed, InvalidRequest, Undecided, BadVerdict, LookupFailed, Timeout, Canceled, NotReady, RulesStale, Internal}
}

// Meaning looks the result up. A result that is not in the table, the empty one included, means Internal.
func (r Result) Meaning() Meaning {
	if meaning, ok := meanings[r]; ok {
		return meaning
	}
	return meanings[Internal]
}

// IsOutcome reports whether a decision was reached. Every other result is a fault.
func (r Result) IsOutcome() bool { return r == Assigned || r == Rejected || r == Held }

// Decides reports whether the result comes from evaluating rules about this request, as opposed to a request that is
// not an AllocationRequest or a service that had no rules to apply.
func (r Result) Decides() bool {
	switch r {
	case Malformed, InvalidRequest, Canceled, NotReady, RulesStale:
		return false
	default:
		return true
	}
}
