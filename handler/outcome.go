package handler

import (
	"net/http"
	"strconv"
	"time"

	"github.com/usher-dps/usher/allocation"
)

// answer is how one outcome is told to DPS.
type answer struct {
	status int
	title  string // of the problem document; none for an assignment
	// ours marks what an operator should look into.
	ours bool
}

// Answers to what is no allocation.
const (
	unauthorized     = "unauthorized"
	notFound         = "not_found"
	methodNotAllowed = "method_not_allowed"
)

// answers is the one table from outcome to HTTP status. DPS fails the
// registration at once (400207) on a 4xx below 429, and calls again for about
// seven minutes on 429 and above; 401 and a 200 without a hub would tell
// operators something that is not so. dps.EffectOf has the other half.
var answers = map[string]answer{
	string(allocation.Assigned): {status: http.StatusOK},
	string(allocation.Rejected): {status: http.StatusForbidden, title: "The device is refused"},
	string(allocation.Held):     {status: http.StatusServiceUnavailable, title: "The device has to wait"},

	string(allocation.Malformed):      {status: http.StatusBadRequest, title: "The body cannot be read"},
	string(allocation.InvalidRequest): {status: http.StatusBadRequest, title: "The body is not an AllocationRequest"},
	string(allocation.Undecided):      {status: http.StatusServiceUnavailable, title: "No rule decides about the device", ours: true},
	string(allocation.BadVerdict):     {status: http.StatusServiceUnavailable, title: "The rule's verdict may not be sent", ours: true},
	string(allocation.Timeout):        {status: http.StatusServiceUnavailable, title: "The rule took too long", ours: true},
	string(allocation.Canceled):       {status: http.StatusServiceUnavailable, title: "The request did not arrive whole"},
	string(allocation.NotReady):       {status: http.StatusServiceUnavailable, title: "The service is starting", ours: true},
	string(allocation.RulesStale):     {status: http.StatusServiceUnavailable, title: "The rules are out of date", ours: true},
	string(allocation.Internal):       {status: http.StatusServiceUnavailable, title: "The service failed", ours: true},

	// Not of the Functions host's making, which checks keys and routes itself.
	unauthorized:     {status: http.StatusUnauthorized, title: "The function key is missing or wrong"},
	notFound:         {status: http.StatusNotFound, title: "There is nothing here"},
	methodNotAllowed: {status: http.StatusMethodNotAllowed, title: "The webhook takes POST"},
}

// answer reads the table.
func (a *Allocation) answer() answer {
	found := answers[a.Result()]
	if a.Fault == nil && a.Decision.Throttle {
		found.status = throttled
	}
	return found
}

// StatusOf tells the HTTP status that the webhook answers a decision with; or a
// fault, which is nil where a decision was reached.
func StatusOf(decision allocation.Decision, fault *allocation.Fault) int {
	a := Allocation{Decision: decision, Fault: fault}
	return a.answer().status
}

// throttled is what a rule's hold with status 429 asks for.
const throttled = http.StatusTooManyRequests

// defaultRetryAfter goes with a 503 or 429 where the rule names no time. DPS
// keeps to a schedule of its own (1 s, then 9 s longer each time); this is for
// callers that read the header.
const defaultRetryAfter = 10 * time.Second

func retryAfter(wish time.Duration) string {
	if wish <= 0 {
		wish = defaultRetryAfter
	}
	return strconv.Itoa(int((wish + time.Second - 1) / time.Second))
}
