package answer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

func ExampleCompare() {
	before := answer.Answer{Result: answer.Assigned, Response: dps.AllocationResponse{IotHubHostName: "a.azure-devices.net"}}
	after := answer.Answer{Result: answer.Assigned, Response: dps.AllocationResponse{IotHubHostName: "b.azure-devices.net", Payload: dps.ValueOf(map[string]any{})}}
	fmt.Println(answer.Compare(&before, &after))
	// Output: [hub payload]
}

// What each result is over HTTP, and what DPS does with it.
func TestMeanings(t *testing.T) {
	t.Parallel()
	want := map[answer.Result]string{
		answer.Assigned:       "200 assigned 0",
		answer.Rejected:       "403 failed 400207",
		answer.Held:           "503 assigning 0",
		answer.Malformed:      "400 failed 400207",
		answer.InvalidRequest: "400 failed 400207",
		answer.Undecided:      "503 assigning 0 look",
		answer.BadVerdict:     "503 assigning 0 look",
		answer.LookupFailed:   "503 assigning 0 look",
		answer.Timeout:        "503 assigning 0 look",
		answer.Canceled:       "503 assigning 0",
		answer.NotReady:       "503 assigning 0 look",
		answer.RulesStale:     "503 assigning 0 look",
		answer.Internal:       "503 assigning 0 look",
		"unheard of":          "503 assigning 0 look",
		"":                    "503 assigning 0 look",
	}
	got := map[answer.Result]string{}
	for _, result := range append(answer.Results(), "unheard of", "") {
		a := answer.Answer{Result: result}
		if result == answer.Assigned {
			a.Response.IotHubHostName = "a.azure-devices.net"
		}
		effect := a.Effect()
		got[result] = fmt.Sprint(a.Status(), " ", effect.Result, " ", effect.ErrorCode)
		if a.NeedsAttention() {
			got[result] += " look"
		}
		if (result.Meaning().Title == "") != (result == answer.Assigned) {
			t.Errorf("%q has the title %q", result, result.Meaning().Title)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	throttled := answer.Answer{Result: answer.Held, Throttle: true}
	if throttled.Status() != 429 {
		t.Errorf("a throttled hold has the status %d", throttled.Status())
	}
}

func full() answer.Answer {
	return answer.Answer{
		Result: answer.Assigned, InitialTwin: dps.InitialTwinApplied,
		Response: dps.AllocationResponse{IotHubHostName: "a.azure-devices.net",
			InitialTwin: dps.ValueOf(map[string]any{"tags": map[string]any{"b": "<>", "a": json.Number("1")}}), Payload: dps.ValueOf(map[string]any{})},
		Reasons: []string{"r"}, Overrides: []answer.Override{answer.NeverReprovision}, Throttle: true, RetryAfter: 90 * time.Second,
		Alarm: true, Detail: "d", Violations: []answer.Violation{{Pointer: "/a", Problem: "p"}}, Cause: errors.New("c"),
		Rules: "sha256:1", Rule: &answer.Rule{Package: "allocation.a"},
	}
}

// A document holds what it is asked for, in that order, and nothing that is empty.
func TestDocument(t *testing.T) {
	t.Parallel()
	a := full()
	text, err := json.Marshal(a.Document("violations", "outcome", "fault", "status", "rule", "rules", "hub", "initialTwin", "initialTwinUse",
		"payload", "reasons", "overrides", "throttle", "retryAfter", "alarm", "detail", "cause"))
	want := `{"violations":[{"pointer":"/a","problem":"p"}],"outcome":"assigned","status":200,"rule":"allocation.a","rules":"sha256:1",` +
		`"hub":"a.azure-devices.net","initialTwin":{"tags":{"a":1,"b":"\u003c\u003e"}},"initialTwinUse":"applied","payload":{},"reasons":["r"],` +
		`"overrides":["never_reprovision"],"throttle":true,"retryAfter":"1m30s","alarm":true,"detail":"d","cause":"c"}`
	if err != nil || string(text) != want {
		t.Errorf("%v: got\n%s, want\n%s", err, text, want)
	}
	empty := answer.Answer{Result: answer.Timeout}
	text, err = json.Marshal(empty.Document("outcome", "fault", "hub", "payload", "initialTwin", "initialTwinUse", "reasons", "cause"))
	if err != nil || string(text) != `{"fault":"timeout"}` {
		t.Errorf("%v: got %s", err, text)
	}
}

// A line has the level that the call deserves, and its fields once.
func TestLogCalls(t *testing.T) {
	t.Parallel()
	withKey, err := dps.ParseAllocationRequest([]byte(`{"k": "SECRET"}`))
	if err != nil {
		t.Fatal(err)
	}
	failed := []answer.Lookup{{Builtin: "lookup.hub", Arguments: []any{"SECRET"}}, {Builtin: "lookup.device", Fault: "no answer"}}
	for name, c := range map[string]struct {
		call  answer.Call
		level string
	}{
		"outcome":                 {answer.Call{Answer: answer.Answer{Result: answer.Rejected}}, "INFO"},
		"alarm":                   {answer.Call{Answer: full()}, "ERROR"},
		"probe":                   {answer.Call{Answer: full(), Probe: true}, "INFO"},
		"fault":                   {answer.Call{Answer: answer.Answer{Result: answer.Malformed}}, "WARN"},
		"our fault":               {answer.Call{Answer: answer.Answer{Result: answer.Timeout}}, "ERROR"},
		"look-up that failed":     {answer.Call{Answer: answer.Answer{Result: answer.LookupFailed, Lookups: failed[:]}}, "ERROR"},
		"look-up of an older row": {answer.Call{Answer: answer.Answer{Result: answer.Held, Lookups: failed[:]}}, "INFO"},
		"rows without faults":     {answer.Call{Answer: answer.Answer{Result: answer.Held, Lookups: failed[:1]}}, "INFO"},
		"no result":               {answer.Call{}, "ERROR"},
		"with a key":              {answer.Call{Request: withKey, Answer: answer.Answer{Result: answer.Held}}, "INFO"},
	} {
		var log bytes.Buffer
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		answer.LogCalls(slog.New(slog.NewJSONHandler(&log, nil)))(gone, &c.call)
		if !strings.Contains(log.String(), `"level":"`+c.level+`"`) || strings.Contains(log.String(), "SECRET") {
			t.Errorf("%s: %s", name, &log)
		}
		if fault := strings.Contains(log.String(), `"lookup_fault":"device"`); fault != strings.HasPrefix(name, "look-up") {
			t.Errorf("%s: %s", name, &log)
		}
		if first, last := strings.Index(log.String(), `"rules"`), strings.LastIndex(log.String(), `"rules"`); first != last {
			t.Errorf("%s: a field occurs twice: %s", name, &log)
		}
	}
}
