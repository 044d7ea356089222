package decisionlog_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

const outcomeRule = `# METADATA
# title: Presses
# custom:
#   enrollment_groups: [g]
package allocation.presses

hub := input.deviceRuntimeContext.payload.hub

initial_twin := {"tags": {"line": "a"}}

payload := {"welcome": "you"}

reject contains "refused" if input.deviceRuntimeContext.payload.reject

hold contains {"reason": "wait", "status": 429, "retry_after": 1.5} if input.deviceRuntimeContext.payload.hold

hold contains "n" if to_number(input.deviceRuntimeContext.payload.n) > 1
`

func bodyWith(payload, device, enrollment string) string {
	return `{"enrollmentGroup": {"enrollmentGroupId": "g"` + enrollment + `}, "linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"],
		"deviceRuntimeContext": {"registrationId": "d1"` + device + `, "payload": ` + payload + `}}`
}

// Each outcome and fault is on record with what DPS does with it.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, outcomeRule, decider.RulesOptions{Revision: "v1"})
	const onA = `, "currentIotHubHostName": "a.azure-devices.net", "currentDeviceId": "d1"`
	twin := &decisionlog.Part{} // see TestParts
	for _, test := range []struct {
		name, body string
		status     int
		decision   decisionlog.Decision
		effect     decisionlog.Effect
		lines      string
		rule       bool
	}{
		{"assigned", bodyWith(`{"hub": "A.azure-devices.net"}`, "", ""), 200,
			decisionlog.Decision{Outcome: "assigned", Hub: "a.azure-devices.net", InitialTwin: twin, InitialTwinUse: "applied", Payload: &decisionlog.Part{}},
			decisionlog.Effect{Result: "assigned"}, "hub:7 initial_twin:9 payload:11", true},
		{"never reprovisioned", bodyWith(`{"hub": "b.azure-devices.net"}`, onA, `, "reprovisionPolicy": {"updateHubAssignment": false}`), 200,
			decisionlog.Decision{Outcome: "assigned", Hub: "a.azure-devices.net", InitialTwin: twin, InitialTwinUse: "ignored: the device stays on its hub",
				Payload: &decisionlog.Part{}, Overrides: []answer.Override{"never_reprovision"}},
			decisionlog.Effect{Result: "assigned"}, "hub:7 initial_twin:9 payload:11", true},
		{"current hub not linked", bodyWith(`{"hub": "b.azure-devices.net"}`, strings.ReplaceAll(onA, "a.", "c."), `, "reprovisionPolicy": {"updateHubAssignment": false}`), 403,
			decisionlog.Decision{Outcome: "rejected", Reasons: []string{"current_hub_not_linked"}, Overrides: []answer.Override{"current_hub_not_linked"}, Alarm: true},
			decisionlog.Effect{Result: "failed", ErrorCode: 400207}, "", true},
		{"rejected", bodyWith(`{"hub": "a.azure-devices.net", "reject": true}`, "", ""), 403,
			decisionlog.Decision{Outcome: "rejected", Reasons: []string{"refused"}}, decisionlog.Effect{Result: "failed", ErrorCode: 400207}, "reject:13", true},
		{"held", bodyWith(`{"hub": "a.azure-devices.net", "hold": true}`, "", ""), 429,
			decisionlog.Decision{Outcome: "held", Reasons: []string{"wait"}, RetryAfterMS: 1500}, decisionlog.Effect{Result: "assigning"}, "hold:15", true},
		{"undecided", bodyWith(`{}`, "", ""), 503,
			decisionlog.Decision{Fault: &decisionlog.Fault{Kind: "undecided", Detail: "the rule names no hub"}}, decisionlog.Effect{Result: "assigning"}, "initial_twin:9 payload:11", true},
		{"a built-in failed", bodyWith(`{"hub": "a.azure-devices.net", "n": "SECRET"}`, "", ""), 503,
			decisionlog.Decision{Fault: &decisionlog.Fault{Kind: "undecided", Detail: "the rule failed"}, Cause: "hold is unknown: a built-in function failed at rules/a.rego:17"},
			decisionlog.Effect{Result: "assigning"}, "", true},
		{"bad verdict", bodyWith(`{"hub": "c.azure-devices.net"}`, "", ""), 503,
			decisionlog.Decision{Fault: &decisionlog.Fault{Kind: "bad_verdict", Detail: "hub c.azure-devices.net is none of linkedHubs"}},
			decisionlog.Effect{Result: "assigning"}, "hub:7 initial_twin:9 payload:11", true},
		{"no rule", strings.Replace(bodyWith(`{}`, "", ""), `"g"`, `"other"`, 1), 503,
			decisionlog.Decision{Fault: &decisionlog.Fault{Kind: "undecided", Detail: "no rule serves enrollmentGroup other"}}, decisionlog.Effect{Result: "assigning"}, "", false},
		{"invalid", bodyWith(`{}`, `, "currentDeviceId": 7`, ""), 400,
			decisionlog.Decision{Fault: &decisionlog.Fault{Kind: "invalid_request", Detail: "the body is not an AllocationRequest as DPS sends it",
				Violations: []answer.Violation{{Pointer: "/deviceRuntimeContext/currentDeviceId"}}}},
			decisionlog.Effect{Result: "failed", ErrorCode: 400207}, "", false},
		{"malformed", `{"linkedHubs": ["SECRET`, 400,
			decisionlog.Decision{Fault: &decisionlog.Fault{Kind: "malformed"}}, decisionlog.Effect{Result: "failed", ErrorCode: 400207}, "", false},
	} {
		text, got, response := record(t, allocator, decisionlog.Plain, []byte(test.body))
		if response.Code != test.status || got.Status != test.status || got.DecisionID != response.Header().Get(handler.DecisionIDHeader) || got.DecisionID == "" {
			t.Errorf("%s: answered %d, recorded %d, %s", test.name, response.Code, got.Status, text)
		}
		ignore := []cmp.Option{cmpopts.IgnoreFields(decisionlog.Part{}, "Bytes", "Digest"), cmpopts.IgnoreFields(answer.Violation{}, "Problem")}
		if test.name == "malformed" {
			ignore = append(ignore, cmpopts.IgnoreFields(decisionlog.Fault{}, "Detail"))
		}
		if diff := cmp.Diff(test.decision, got.Decision, ignore...); diff != "" {
			t.Errorf("%s: decision: -want +got:\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.effect, got.DPSEffect); diff != "" {
			t.Errorf("%s: effect: -want +got:\n%s", test.name, diff)
		}
		var lines []string
		for _, line := range got.Lines {
			lines = append(lines, line.Entry+strings.TrimPrefix(line.Place, "rules/a.rego"))
		}
		if strings.Join(lines, " ") != test.lines {
			t.Errorf("%s: lines %v, want %s", test.name, lines, test.lines)
		}
		if (got.Rule != nil) != test.rule || test.rule && *got.Rule != (decisionlog.Rule{Package: "allocation.presses", Title: "Presses", File: "rules/a.rego"}) {
			t.Errorf("%s: rule %+v", test.name, got.Rule)
		}
		if test.name != "malformed" && (got.Rules == nil || got.Rules.Revision != "v1" || got.Rules.Digest != allocator.Rules().Digest()) {
			t.Errorf("%s: rules %+v", test.name, got.Rules)
		}
		if strings.Contains(text, "SECRET") || got.Source != answer.SourceCurrent || time.Since(got.Time) > time.Minute {
			t.Errorf("%s: %s", test.name, text)
		}
		validate(t, text)
	}
}

// Every part of an answer has a size, and a digest by which equals are known.
func TestParts(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, outcomeRule, decider.RulesOptions{})
	body := []byte(bodyWith(`{"hub": "a.azure-devices.net"}`, "", ""))
	for mode, prefix := range map[decisionlog.IDMode]string{decisionlog.Plain: "sha256:", decisionlog.Hashed: "hmac-sha256:", decisionlog.Absent: ""} {
		_, one, answer := record(t, allocator, mode, body)
		_, two, _ := record(t, allocator, mode, body)
		part := one.Decision.InitialTwin
		if !strings.Contains(answer.Body.String(), `{"tags":{"line":"a"}}`) || part.Bytes != len(`{"tags":{"line":"a"}}`) || part.Digest != two.Decision.InitialTwin.Digest {
			t.Errorf("%s: %+v, %+v", mode, part, two.Decision.InitialTwin)
		}
		if !strings.HasPrefix(part.Digest, prefix) || (prefix == "") != (part.Digest == "") || prefix != "" && part.Digest == one.Decision.Payload.Digest {
			t.Errorf("%s: digest %q", mode, part.Digest)
		}
	}
}

// The record of what shadow rules decided tells so.
func TestShadow(t *testing.T) {
	t.Parallel()
	sink := &memory{}
	a := answer.Call{DecisionID: "TWO", Start: time.Now(), ShadowOf: "ONE",
		Answer: answer.Answer{Result: answer.Rejected, Rules: "sha256:1", Source: answer.SourceShadow, Revision: "next"}}
	newRecorder(t, decisionlog.Plain, sink).Observe(t.Context(), &a)
	got, err := decisionlog.Decode(sink.records[0])
	if err != nil || got.Source != answer.SourceShadow || got.ShadowOf != "ONE" || got.DecisionID != "TWO" || got.Rules.Revision != "next" {
		t.Errorf("%v: %s", err, sink.records[0])
	}
	validate(t, string(sink.records[0]))
}

type badSink struct{ panics bool }

func (badSink) Name() string { return "bad" }

func (s badSink) Write([]byte) error {
	if s.panics {
		panic("SECRET")
	}
	return errors.New("the disk is full")
}

// A sink that fails keeps no record from the others, and a device from no answer.
func TestFailingSinks(t *testing.T) {
	t.Parallel()
	good := &memory{}
	var failures []string
	recorder, err := decisionlog.New(decisionlog.Options{Sinks: []decisionlog.Sink{badSink{}, badSink{panics: true}, good},
		Failed: func(sink string, err error) { failures = append(failures, sink+": "+err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	recorder.Observe(t.Context(), &answer.Call{DecisionID: "ID", Answer: answer.Answer{Result: answer.NotReady}})
	if diff := cmp.Diff([]string{"bad: the disk is full", "bad: panic of type string"}, failures); diff != "" || len(good.records) != 1 {
		t.Errorf("%d records; -want +got:\n%s", len(good.records), diff)
	}
	// What cannot be recorded is told, and nothing is written.
	recorder.Observe(t.Context(), nil)
	if len(failures) != 3 || !strings.HasPrefix(failures[2], ": the record cannot be made: panic of type ") || len(good.records) != 1 {
		t.Errorf("%d records, %v", len(good.records), failures)
	}
	// Nobody has to listen.
	recorder, err = decisionlog.New(decisionlog.Options{Sinks: []decisionlog.Sink{badSink{}}})
	if err != nil {
		t.Fatal(err)
	}
	recorder.Observe(t.Context(), &answer.Call{})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for problem, options := range map[string]decisionlog.Options{
		"but there is no key":                {RegistrationIDs: decisionlog.Hashed},
		"use plain, hashed or absent":        {RegistrationIDs: "none"},
		"has 5 bytes; it needs at least 16":  {RegistrationIDs: decisionlog.Hashed, HashKey: []byte("short")},
		"registration IDs has 3 bytes; it n": {HashKey: []byte("abc")},
	} {
		if _, err := decisionlog.New(options); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%+v: %v, want %q", options, err, problem)
		}
	}
}

// Records made at the same time do not mix.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	sink := &memory{}
	recorder := newRecorder(t, decisionlog.Hashed, sink)
	allocator := allocatorOf(t, hubRule, decider.RulesOptions{})
	done := make(chan struct{})
	for g := range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 50 {
				id := strings.Repeat(string(rune('a'+g)), 8+i)
				request, decided := allocator.AllocateJSON(context.Background(), []byte(strings.Replace(bodyWith(`{}`, "", ""), "d1", id, 1)))
				recorder.Observe(context.Background(), &answer.Call{DecisionID: id, Request: request, Answer: decided})
			}
		}()
	}
	for range 8 {
		<-done
	}
	for _, text := range sink.records {
		got, err := decisionlog.Decode(text)
		want := decisionlog.HashID(hashKey, got.DecisionID)
		if err != nil || got.RegistrationID != want || !strings.Contains(string(got.Request), `"registrationId":"`+want+`"`) {
			t.Errorf("%v: %s", err, text)
		}
	}
	if len(sink.records) != 400 {
		t.Errorf("%d records", len(sink.records))
	}
}

func TestLookups(t *testing.T) {
	t.Parallel()
	m := func(members ...any) map[string]any {
		object := map[string]any{}
		for i := 0; i < len(members); i += 2 {
			object[members[i].(string)] = members[i+1]
		}
		return object
	}
	get := func(members ...any) []any {
		return []any{m(append([]any{"method", "GET", "url", "https://example.com/a"}, members...)...)}
	}
	response := m("status_code", "200", "body", m("x", "y"), "headers", m("set-cookie", "SECRET"), "raw_body", "SECRET")
	lookups := []answer.Lookup{
		{Builtin: "time.now_ns", Arguments: []any{}, Result: "7"},
		{Builtin: "opa.runtime", Arguments: []any{}, Result: m("env", "SECRET")},
		{Builtin: "io.jwt.decode_verify", Arguments: []any{"SECRET"}, Result: "x"},
		{Builtin: "http.send", Arguments: get(), Result: response},
		{Builtin: "http.send", Arguments: get("headers", m("authorization", "SECRET")), Result: response},
		{Builtin: "http.send", Arguments: get("body", "SECRET"), Result: response},
		{Builtin: "http.send", Arguments: get("tls_client_key", "SECRET"), Result: response},
		{Builtin: "http.send", Arguments: get("url", "https://example.com/?code=SECRET"), Result: response},
		{Builtin: "http.send", Arguments: get("url", "https://u:SECRET@example.com/"), Result: response},
		{Builtin: "http.send", Arguments: get("url", "https://example.com/press-0001"), Result: response},
		{Builtin: "http.send", Arguments: get("url", "https://example.com/b"), Result: m("body", m("primaryKey", "SECRET"))},
		{Builtin: "http.send", Result: response},
		{Builtin: "rand.intn", Arguments: []any{"s", "9"}, Result: strings.Repeat("SECRET", 16<<10)},
	}
	request, _ := allocatorOf(t, hubRule, decider.RulesOptions{}).AllocateJSON(t.Context(), []byte(strings.Replace(bodyWith(`{}`, "", ""), "d1", "press-0001", 1)))
	for mode, kept := range map[decisionlog.IDMode]int{decisionlog.Plain: 3, decisionlog.Absent: 2} {
		sink := &memory{}
		a := answer.Call{Request: request, Answer: answer.Answer{Result: answer.Assigned, Lookups: lookups}}
		newRecorder(t, mode, sink).Observe(t.Context(), &a)
		text := string(sink.records[0])
		got, err := decisionlog.Decode(sink.records[0])
		if err != nil || len(got.Lookups) != kept || got.LookupsDropped != len(lookups)-kept || strings.Contains(text, "SECRET") {
			t.Errorf("%s: %v: %s", mode, err, text)
		}
		if want := `{"body":{"x":"y"},"status_code":"200"}`; string(got.Lookups[1].Result) != want {
			t.Errorf("the answer is %s, want %s", got.Lookups[1].Result, want)
		}
		if mode == decisionlog.Absent && strings.Contains(text, "press-0001") {
			t.Errorf("the ID is in %s", text)
		}
		validate(t, text)
		replay, err := got.Replay()
		known := replay.Lookups
		if err != nil || len(known) != kept || known[0].Builtin != "time.now_ns" || known[0].Arguments == nil {
			t.Errorf("%v: %+v", err, known)
		}
	}
}
