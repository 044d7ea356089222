package decider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// accept makes an answer of what a rule said, or of why it said nothing. What it lets pass is safe to send, whatever
// the rule says: it holds the verdict to what DPS and IoT Hub allow.
func accept(request *dps.AllocationRequest, rule *ruleset.Rule, verdict ruleset.Verdict, err error) answer.Answer {
	_, broken := errors.AsType[*ruleset.LoadError](err)
	_, panicked := errors.AsType[panicError](err)
	switch {
	case panicked:
		return answer.Answer{Result: answer.Internal, Detail: "this is a fault of the service itself", Cause: err}
	case errors.Is(err, errTooManyStrays), errors.Is(err, context.DeadlineExceeded):
		return answer.Answer{Result: answer.Timeout, Detail: "the rule exceeded its time limit", Cause: err}
	case errors.Is(err, ruleset.ErrTooLarge):
		return answer.Answer{Result: answer.Timeout, Detail: "the rule made values that take too much memory", Cause: err}
	case errors.Is(err, ruleset.ErrTooLong):
		return answer.Answer{Result: answer.Timeout, Detail: "the rule took too many steps", Cause: err}
	case errors.Is(err, context.Canceled):
		return answer.Answer{Result: answer.Canceled, Detail: "the caller went away", Cause: err}
	case broken:
		// A fault of those who shipped the rule, not a verdict on the device: whatever on_undecided says, the device
		// waits until the rule is fixed.
		return answer.Answer{Result: answer.Undecided, Detail: "the rule does not compile", Cause: err}
	}
	// What the rule said before it failed counts: a rejection, a hold and the reprovision policy come first.
	if a, rejected := rejection(verdict); rejected {
		return a
	}
	stays := request.Enrollment.Reprovision == dps.ReprovisionNever && !request.FirstAssignment()
	current, linked := request.LinkedHub(request.Device.CurrentIotHubHostName)
	if stays && !linked {
		// The policy demands the current hub, DPS demands a linked one.
		return answer.Answer{Result: answer.Rejected, Alarm: true, Reasons: []string{string(answer.CurrentHubNotLinked)},
			Overrides: []answer.Override{answer.CurrentHubNotLinked}, BuiltinErrors: verdict.BuiltinErrors}
	}
	if a, held := holding(verdict); held {
		return a
	}
	if failed, ok := errors.AsType[*ruleset.LookupError](err); ok {
		// It may pass, so on_undecided does not apply, and a device that keeps its hub waits for the rest of its answer.
		return answer.Answer{Result: answer.LookupFailed, Detail: "the look-up " + failed.Lookup + " failed", Cause: err}
	}
	if failed, ok := errors.AsType[*ruleset.EvalError](err); ok {
		if guards := failed.Entry == "reject" || failed.Entry == "hold"; stays && !guards {
			return assign(request, answer.Answer{Response: dps.AllocationResponse{IotHubHostName: current}, Alarm: true, Cause: failed,
				Overrides: []answer.Override{answer.NeverReprovision}, BuiltinErrors: verdict.BuiltinErrors})
		}
		return undecided(request, rule, answer.Answer{Detail: "the rule failed", Cause: failed})
	}
	return acceptVerdict(request, rule, verdict, stays)
}

// acceptVerdict makes an answer of a verdict that neither rejects nor holds. A device that stays keeps its current hub,
// which is linked.
func acceptVerdict(request *dps.AllocationRequest, rule *ruleset.Rule, verdict ruleset.Verdict, stays bool) answer.Answer {
	a := answer.Answer{BuiltinErrors: verdict.BuiltinErrors}
	hub, err := acceptHub(request, verdict.Hub)
	switch {
	case stays:
		current, _ := request.LinkedHub(request.Device.CurrentIotHubHostName)
		if err != nil || hub != current {
			a.Overrides = []answer.Override{answer.NeverReprovision}
		}
		hub = current
	case err != nil:
		return badVerdict("hub", err)
	case hub == "":
		a.Detail, a.Cause = "the rule names no hub", builtinErrors(verdict)
		return undecided(request, rule, a)
	}
	a.Response.IotHubHostName = hub
	if a.Response.InitialTwin, err = acceptTwin(verdict.InitialTwin); err != nil {
		return badVerdict("initial_twin", err)
	}
	if a.Response.Payload, err = acceptPayload(verdict.Payload); err != nil {
		return badVerdict("payload", err)
	}
	return assign(request, a)
}

// assign completes an answer whose response is set.
func assign(request *dps.AllocationRequest, a answer.Answer) answer.Answer {
	a.Result, a.InitialTwin = answer.Assigned, dps.UseOfInitialTwin(request, &a.Response)
	return a
}

func badVerdict(entry string, err error) answer.Answer {
	return answer.Answer{Result: answer.BadVerdict, Entry: entry, Detail: err.Error()}
}

// undecided applies the rule's on_undecided. The answer that it is given says why the rule is undecided.
func undecided(request *dps.AllocationRequest, rule *ruleset.Rule, a answer.Answer) answer.Answer {
	decided := answer.Answer{Overrides: []answer.Override{answer.OnUndecided}, Alarm: a.Cause != nil, Cause: a.Cause}
	switch rule.OnUndecided {
	case ruleset.Reject:
		decided.Result, decided.Reasons = answer.Rejected, []string{string(answer.Undecided) + ": " + a.Detail}
		return decided
	case ruleset.Stay:
		if hub, linked := request.LinkedHub(request.Device.CurrentIotHubHostName); linked {
			decided.Response.IotHubHostName = hub
			return assign(request, decided)
		}
	}
	a.Result = answer.Undecided
	return a
}

// builtinErrors says where a built-in failed, the usual reason for a hub that is undefined; nil if none did.
func builtinErrors(verdict ruleset.Verdict) error {
	if len(verdict.BuiltinErrors) == 0 {
		return nil
	}
	return fmt.Errorf("a built-in function failed at %s", strings.Join(verdict.BuiltinErrors, ", "))
}

// acceptHub returns the hub in the spelling of linkedHubs, or "" if the rule names none.
func acceptHub(request *dps.AllocationRequest, value *dps.Value) (string, error) {
	if value == nil {
		return "", nil
	}
	if value.Kind() != dps.String {
		return "", fmt.Errorf("hub is %s, not a string", kindOf(value))
	}
	name := value.Text()
	hub, linked := request.LinkedHub(name)
	switch {
	case linked:
		return hub, nil
	case looksLikeHub(name):
		return "", fmt.Errorf("hub %s is none of linkedHubs", name)
	case !isASCII(name):
		return "", errors.New("hub is not the host name of an IoT hub: it has characters that are not ASCII, which no host name has")
	}
	return "", errors.New("hub is not the host name of an IoT hub")
}

func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}

// looksLikeHub keeps anything else that a rule may have used as a hub, perhaps from the device's payload, out of the
// log.
func looksLikeHub(name string) bool {
	return len(name) <= 253 && strings.Contains(name, ".azure-devices.") && isASCII(name) &&
		strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

func acceptTwin(twin *dps.Value) (*dps.Value, error) {
	if twin == nil {
		return nil, nil
	}
	if twin.Kind() != dps.Object {
		return nil, fmt.Errorf("initial_twin is %s, not an object", kindOf(twin))
	}
	if problems := dps.CheckInitialTwin(twin); len(problems) > 0 {
		return nil, fmt.Errorf("initial_twin%s%s", problems[0], others(len(problems)-1))
	}
	return twin, nil
}

func acceptPayload(payload *dps.Value) (*dps.Value, error) {
	if payload == nil {
		return nil, nil
	}
	if payload.Kind() != dps.Object {
		return nil, fmt.Errorf("payload is %s, not an object", kindOf(payload))
	}
	var few [1024]byte
	if size := len(payload.AppendJSON(few[:0])); size > dps.MaxMessageSize {
		return nil, fmt.Errorf("payload has %d bytes, over DPS's limit of %d for a message", size, dps.MaxMessageSize)
	}
	return payload, nil
}

// rejection reads the rule's reject: by contract a set of reasons. A rule that says `reject := true`, or gives a plain
// string, means to refuse as well.
func rejection(verdict ruleset.Verdict) (a answer.Answer, rejected bool) {
	for element := range elements(verdict.Reject) {
		a.Reasons = append(a.Reasons, reasonOf(element))
	}
	rejected = len(a.Reasons) > 0
	a.Result, a.Reasons, a.BuiltinErrors = answer.Rejected, firstReasons(a.Reasons), verdict.BuiltinErrors
	return a, rejected
}

// maxReasons bounds how many reasons go into an answer and a log line.
const maxReasons = 16

func firstReasons(reasons []string) []string {
	if len(reasons) <= maxReasons {
		return reasons
	}
	return append(reasons[:maxReasons:maxReasons], fmt.Sprintf("and %d more", len(reasons)-maxReasons))
}

// holding reads the rule's hold: a set of reasons, each a string or an object {reason, status, retry_after}. If one of
// them asks for what cannot be sent, the device waits as well, but because of the rule's mistake.
func holding(verdict ruleset.Verdict) (a answer.Answer, held bool) {
	for element := range elements(verdict.Hold) {
		a.Reasons = append(a.Reasons, reasonOf(element))
		throttle, err := acceptStatus(element)
		if err != nil {
			return badVerdict("hold", err), true
		}
		retryAfter, err := acceptRetryAfter(element)
		if err != nil {
			return badVerdict("hold", err), true
		}
		a.Throttle, a.RetryAfter = a.Throttle || throttle, max(a.RetryAfter, retryAfter)
	}
	held = len(a.Reasons) > 0
	a.Result, a.Reasons, a.BuiltinErrors = answer.Held, firstReasons(a.Reasons), verdict.BuiltinErrors
	return a, held
}

// acceptStatus reports whether a reason to hold asks for 429. DPS calls again after both statuses; others would refuse
// the device or promise a hub.
func acceptStatus(reason *dps.Value) (throttle bool, err error) {
	value := reason.Get("status")
	if value.Kind() == dps.Null {
		return false, nil
	}
	number := value.Number()
	switch status, err := number.Float64(); {
	case err == nil && status == http.StatusTooManyRequests:
		return true, nil
	case err == nil && status == http.StatusServiceUnavailable:
		return false, nil
	case err == nil:
		return false, fmt.Errorf("hold asks for the status %s: use 429 or 503, or reject to refuse the device", shorten(string(number)))
	}
	return false, fmt.Errorf("hold asks for a status that is %s: use the number 429 or 503", kindOf(value))
}

func acceptRetryAfter(reason *dps.Value) (time.Duration, error) {
	value := reason.Get("retry_after")
	if value.Kind() == dps.Null {
		return 0, nil
	}
	number := value.Number()
	if number == "" {
		return 0, fmt.Errorf("hold has a retry_after that is %s: use a number of seconds", kindOf(value))
	}
	seconds, err := number.Float64()
	if err != nil || seconds <= 0 || seconds > maxRetryAfter.Seconds() {
		return 0, fmt.Errorf("hold has the retry_after %s: use more than 0 and at most %.0f seconds", shorten(string(number)), maxRetryAfter.Seconds())
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// maxRetryAfter bounds what a rule may ask for. DPS gives up after about 7 minutes in any case.
const maxRetryAfter = time.Hour

// elements yields the elements of an array, or a single value.
func elements(value *dps.Value) iter.Seq[*dps.Value] {
	return func(yield func(*dps.Value) bool) {
		switch value.Kind() {
		case dps.Null, dps.False:
		case dps.Array:
			for i := range value.Len() {
				if !yield(value.At(i)) {
					return
				}
			}
		default:
			yield(value)
		}
	}
}

func reasonOf(element *dps.Value) string {
	return cmp.Or(element.Text(), element.Get("reason").Text(), "no reason given")
}

// maxReason bounds one text of a rule in answers and logs, in bytes.
const maxReason = 512

// shorten cuts off a long text, if possible at a space or before a quoted word: the first half of a name could not be
// recognized and masked later.
func shorten(text string) string {
	if len(text) <= maxReason {
		return text
	}
	text = text[:maxReason]
	if end := strings.LastIndexAny(text, " \""); end > 0 {
		text = text[:end]
	}
	return strings.ToValidUTF8(text, "") + "…"
}

func others(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", n)
}

func kindOf(value *dps.Value) string {
	switch value.Kind() {
	case dps.String:
		return "a string"
	case dps.Number:
		return "a number"
	case dps.True, dps.False:
		return "a boolean"
	case dps.Array:
		return "an array"
	default:
		return "an object"
	}
}
