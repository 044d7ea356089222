package allocation

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// accept holds a verdict to what DPS and IoT Hub allow. What it lets pass is
// safe to send, whatever the rule says.
//
// failed is why the rule could not say all: the verdict is then what it said
// before. A rejection, a hold and the reprovision policy go before it.
func accept(request *dps.AllocationRequest, rule *ruleset.Rule, verdict ruleset.Verdict, failed *ruleset.EvalError) (Decision, *Fault) {
	decision := Decision{Rule: rule.Package, BuiltinErrors: verdict.BuiltinErrors}
	if reasons, rejected := rejection(verdict.Reject); rejected {
		decision.Outcome, decision.Reasons = Rejected, reasons
		return decision, nil
	}
	stays := request.Enrollment.Reprovision == dps.ReprovisionNever && !request.FirstAssignment()
	current, linked := request.LinkedHub(request.Device.CurrentIotHubHostName)
	if stays && !linked {
		// The policy demands the current hub, DPS demands a linked one.
		decision.Outcome, decision.Alarm = Rejected, true
		decision.Reasons = []string{string(CurrentHubNotLinked)}
		decision.Overrides = []Override{CurrentHubNotLinked}
		return decision, nil
	}
	if hold, held := holding(verdict.Hold); held {
		hold.Rule, hold.Outcome, hold.BuiltinErrors = rule.Package, Held, verdict.BuiltinErrors
		return hold, nil
	}
	if failed != nil {
		if guards := failed.Entry == "reject" || failed.Entry == "hold"; stays && !guards {
			decision.Overrides = []Override{NeverReprovision}
			decision.Alarm, decision.Cause = true, failed
			return assign(request, decision, dps.AllocationResponse{IotHubHostName: current}), nil
		}
		return undecided(request, rule, "the rule failed", failed)
	}
	hub, err := acceptHub(request, verdict.Hub)
	switch {
	case stays:
		if err != nil || hub != current {
			decision.Overrides = append(decision.Overrides, NeverReprovision)
		}
		hub = current
	case err != nil:
		return Decision{}, badVerdict(rule, "hub", err)
	case hub == "":
		decision, fault := undecided(request, rule, "the rule names no hub", builtinErrors(verdict))
		if fault != nil {
			fault.BuiltinErrors = verdict.BuiltinErrors
		}
		return decision, fault
	}
	response := dps.AllocationResponse{IotHubHostName: hub}
	if response.InitialTwin, err = acceptTwin(verdict.InitialTwin); err != nil {
		return Decision{}, badVerdict(rule, "initial_twin", err)
	}
	if response.Payload, err = acceptPayload(verdict.Payload); err != nil {
		return Decision{}, badVerdict(rule, "payload", err)
	}
	return assign(request, decision, response), nil
}

func assign(request *dps.AllocationRequest, decision Decision, response dps.AllocationResponse) Decision {
	decision.Outcome = Assigned
	decision.Response = response
	decision.InitialTwin = dps.UseOfInitialTwin(request, &response)
	return decision
}

func badVerdict(rule *ruleset.Rule, entry string, err error) *Fault {
	return &Fault{Kind: BadVerdict, Rule: rule.Package, Entry: entry, Detail: err.Error()}
}

// undecided applies the rule's on_undecided.
func undecided(request *dps.AllocationRequest, rule *ruleset.Rule, detail string, cause error) (Decision, *Fault) {
	decision := Decision{Rule: rule.Package, Overrides: []Override{OnUndecided}, Alarm: cause != nil, Cause: cause}
	switch rule.OnUndecided {
	case ruleset.Reject:
		decision.Outcome, decision.Reasons = Rejected, []string{string(Undecided) + ": " + detail}
		return decision, nil
	case ruleset.Stay:
		if hub, linked := request.LinkedHub(request.Device.CurrentIotHubHostName); linked {
			return assign(request, decision, dps.AllocationResponse{IotHubHostName: hub}), nil
		}
	}
	return Decision{}, &Fault{Kind: Undecided, Rule: rule.Package, Detail: detail, Cause: cause}
}

// builtinErrors tells where a built-in failed, the usual reason for a hub that
// is undefined; nil if none did.
func builtinErrors(verdict ruleset.Verdict) error {
	if len(verdict.BuiltinErrors) == 0 {
		return nil
	}
	return fmt.Errorf("a built-in function failed at %s", strings.Join(verdict.BuiltinErrors, ", "))
}

// acceptHub returns the hub in the spelling of linkedHubs, or "" if the rule
// names none.
func acceptHub(request *dps.AllocationRequest, value any) (string, error) {
	if value == nil {
		return "", nil
	}
	name, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("hub is %s, not a string", kindOf(value))
	}
	hub, linked := request.LinkedHub(name)
	if !linked {
		if !looksLikeHub(name) {
			return "", errors.New("hub is not the host name of an IoT hub")
		}
		return "", fmt.Errorf("hub %s is none of linkedHubs", name)
	}
	return hub, nil
}

// looksLikeHub keeps whatever else a rule may have taken for a hub, perhaps out
// of the device's payload, from being quoted in a log.
func looksLikeHub(name string) bool {
	return len(name) <= 253 && strings.Contains(name, ".azure-devices.") &&
		strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

func acceptTwin(value any) (map[string]any, error) {
	twin, err := acceptObject("initial_twin", value)
	if err != nil || twin == nil {
		return nil, err
	}
	if problems := dps.CheckInitialTwin(twin); len(problems) > 0 {
		return nil, fmt.Errorf("initial_twin%s%s", problems[0], others(len(problems)-1))
	}
	return twin, nil
}

func acceptPayload(value any) (map[string]any, error) {
	payload, err := acceptObject("payload", value)
	if err != nil || payload == nil {
		return nil, err
	}
	var few [1024]byte
	if size := len(dps.AppendValue(few[:0], payload)); size > dps.MaxMessageSize {
		return nil, fmt.Errorf("payload has %d bytes, over DPS's limit of %d for a message", size, dps.MaxMessageSize)
	}
	return payload, nil
}

func acceptObject(name string, value any) (map[string]any, error) {
	if value == nil {
		return nil, nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is %s, not an object", name, kindOf(value))
	}
	return object, nil
}

// rejection reads the rule's reject: a set of reasons by the contract. Whoever
// writes `reject := true` or a plain string means to refuse, too.
func rejection(value any) (reasons []string, rejected bool) {
	for _, element := range elements(value) {
		reasons = append(reasons, reasonOf(element))
	}
	return firstReasons(reasons), len(reasons) > 0
}

// maxReasons bounds how many reasons go into an answer and a log line.
const maxReasons = 16

func firstReasons(reasons []string) []string {
	if len(reasons) <= maxReasons {
		return reasons
	}
	return append(reasons[:maxReasons:maxReasons], fmt.Sprintf("and %d more", len(reasons)-maxReasons))
}

// holding reads the rule's hold: a set of reasons, each a string or an object
// {reason, status, retry_after}.
func holding(value any) (decision Decision, held bool) {
	for _, element := range elements(value) {
		held = true
		decision.Reasons = append(decision.Reasons, reasonOf(element))
		object, _ := element.(map[string]any)
		if number, ok := object["status"].(json.Number); ok {
			status, err := number.Float64()
			decision.Throttle = decision.Throttle || err == nil && status == http.StatusTooManyRequests
		}
		if number, ok := object["retry_after"].(json.Number); ok {
			seconds, err := number.Float64()
			if err == nil && seconds > 0 && seconds <= maxRetryAfter.Seconds() {
				decision.RetryAfter = max(decision.RetryAfter, time.Duration(seconds*float64(time.Second)))
			}
		}
	}
	decision.Reasons = firstReasons(decision.Reasons)
	return decision, held
}

// maxRetryAfter bounds what a rule may ask for. DPS gives up after about 7
// minutes, whatever it is asked.
const maxRetryAfter = time.Hour

func elements(value any) []any {
	switch v := value.(type) {
	case nil:
		return nil
	case []any:
		return v
	case bool:
		if !v {
			return nil
		}
	}
	return []any{value}
}

func reasonOf(element any) string {
	switch v := element.(type) {
	case string:
		return cmp.Or(v, "no reason given")
	case map[string]any:
		if reason, ok := v["reason"].(string); ok {
			return cmp.Or(reason, "no reason given")
		}
	}
	return "no reason given"
}

// maxReason bounds a text of a rule's in answers and logs, in bytes.
const maxReason = 512

// shorten cuts a long text off, after a space or before a quoted word where there is
// one: nobody who hides names in the rest would know the first half of one.
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

func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	default:
		return "an object"
	}
}
