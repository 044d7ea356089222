package explain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func report(t *testing.T, allocator *decider.Decider, body []byte) (*explain.Report, *dps.AllocationRequest) {
	t.Helper()
	request, err := dps.ParseAllocationRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	return explain.New("request.json", request, allocator.Explain(t.Context(), request, nil)), request
}

func allocatorOf(t *testing.T, rules *decider.Rules, err error) *decider.Decider {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

// one is an allocator with one rule for the group g; rules begin at line 7.
func one(t *testing.T, onUndecided, text string) *decider.Decider {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(
		"# METADATA\n# custom:\n#   enrollment_groups: [g]\n#   on_undecided: " + onUndecided + "\npackage allocation.a\n\n" + text + "\n")}},
		decider.RulesOptions{Name: "rules"})
	return allocatorOf(t, rules, err)
}

const (
	eu = "contoso-eu.azure-devices.net"
	us = "contoso-us.azure-devices.net"
)

// asking is a request of group g; more is the start of deviceRuntimeContext.
func asking(policy, more string) []byte {
	return []byte(`{"enrollmentGroup": {"enrollmentGroupId": "g"` + policy + `},
		"deviceRuntimeContext": {` + more + `"registrationId": "dev-1"}, "linkedHubs": ["` + eu + `", "` + us + `"]}`)
}

const (
	never = `, "reprovisionPolicy": {"updateHubAssignment": false, "migrateDeviceData": false}`
	reset = `, "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": false}`
	onUS  = `"currentIotHubHostName": "` + us + `", `
	onOld = `"currentIotHubHostName": "old.azure-devices.net", `
)

// What DPS does with the answer, and which constraint prevailed.
func TestEffect(t *testing.T) {
	t.Parallel()
	const toEU = `hub := "` + eu + `"`
	const twin = toEU + "\n\ninitial_twin := {\"tags\": {\"a\": 1}}"
	for _, test := range []struct {
		name, rules, undecided, policy, device string
		decision                               map[string]any
		result                                 dps.Result
		code                                   int
		twin                                   string
		overrides                              []string
	}{
		{"assigned", toEU, "hold", "", "", map[string]any{"outcome": "assigned", "status": 200, "hub": eu}, dps.Assigned, 0,
			"none: DPS applies that of the enrollment, if it has one", nil},
		{"moves without a twin", toEU, "hold", "", onUS, map[string]any{"outcome": "assigned", "status": 200, "hub": eu}, dps.Assigned, 0,
			"none: the device moves and its twin is migrated", nil},
		{"is reset without a twin", toEU, "hold", reset, onUS, map[string]any{"outcome": "assigned", "status": 200, "hub": eu}, dps.Assigned, 0,
			"none: DPS applies that of the enrollment, if it has one", nil},
		{"twin applied", twin, "hold", "", "", map[string]any{"outcome": "assigned", "status": 200, "hub": eu}, dps.Assigned, 0, "applied", nil},
		{"twin ignored", twin, "hold", "", onUS, map[string]any{"outcome": "assigned", "status": 200, "hub": eu}, dps.Assigned, 0,
			"ignored: the device moves and its twin is migrated", nil},
		{"never", toEU, "hold", never, onUS, map[string]any{"outcome": "assigned", "status": 200, "hub": us}, dps.Assigned, 0,
			"none: the device stays on its hub", []string{"never_reprovision: the reprovision policy keeps the device on " + us + `, though the rule says "` + eu + `"`}},
		{"never, and the rule names none", `hub := input.deviceRuntimeContext.payload.x`, "hold", never, onUS, map[string]any{"outcome": "assigned", "status": 200, "hub": us}, dps.Assigned, 0,
			"none: the device stays on its hub", []string{"never_reprovision: the reprovision policy keeps the device on " + us + `, though the rule names no hub`}},
		{"never, not linked", toEU, "hold", never, onOld, map[string]any{"outcome": "rejected", "status": 403, "alarm": true, "reasons": []any{"current_hub_not_linked"}},
			dps.Failed, 400207, "", []string{"current_hub_not_linked: the reprovision policy keeps the device on old.azure-devices.net, which is not linked: no answer satisfies both"}},
		{"rejected", `reject contains "no"`, "hold", "", "", map[string]any{"outcome": "rejected", "status": 403, "reasons": []any{"no"}}, dps.Failed, 400207, "", nil},
		{"held", `hold contains {"reason": "wait", "status": 429, "retry_after": 90}`, "hold", "", "",
			map[string]any{"outcome": "held", "status": 429, "reasons": []any{"wait"}, "retryAfter": "1m30s"}, dps.Assigning, 0, "", nil},
		{"undecided", `hub := input.deviceRuntimeContext.payload.x`, "hold", "", "", map[string]any{"fault": "undecided", "status": 503, "detail": "the rule names no hub"}, dps.Assigning, 0, "", nil},
		{"undecided, stays", `hub := input.deviceRuntimeContext.payload.x`, "stay", "", onUS, map[string]any{"outcome": "assigned", "status": 200, "hub": us}, dps.Assigned, 0,
			"none: the device stays on its hub", []string{"on_undecided: the rule names no hub, and on_undecided in its METADATA says what happens then"}},
		{"bad verdict", `hub := "elsewhere.azure-devices.net"`, "hold", "", "",
			map[string]any{"fault": "bad_verdict", "status": 503, "detail": "hub elsewhere.azure-devices.net is none of linkedHubs"}, dps.Assigning, 0, "", nil},
		{"conflict", toEU + "\n\nhub := \"" + us + `"`, "hold", "", "", map[string]any{"fault": "undecided", "status": 503, "detail": "the rule failed",
			"cause": "hub failed: definitions of data.allocation.a.hub give different values (rules/a.rego:7, rules/a.rego:9)"}, dps.Assigning, 0, "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, _ := report(t, one(t, test.undecided, test.rules), asking(test.policy, test.device))
			got := map[string]any{}
			for _, member := range r.Decision {
				got[member.Name] = member.Value
			}
			if rules, _ := got["rules"].(string); !strings.HasPrefix(rules, "sha256:") {
				t.Errorf("decided by the rules %q", rules)
			}
			delete(got, "rules")
			delete(got, "initialTwin")
			delete(got, "payload")
			if diff := cmp.Diff(test.decision, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if r.Effect.Result != test.result || r.Effect.ErrorCode != test.code || r.Effect.Message == "" || r.Effect.InitialTwin != test.twin {
				t.Errorf("effect %+v", r.Effect)
			}
			var overrides []string
			for _, o := range r.Overrides {
				overrides = append(overrides, string(o.Name)+": "+o.Text)
			}
			if diff := cmp.Diff(test.overrides, overrides); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestWhyNot(t *testing.T) {
	t.Parallel()
	const literal = "hub := \"" + eu + "\" if input.deviceRuntimeContext.payload.where == \"eu\"\n\nhub := \"" + us +
		"\" if input.deviceRuntimeContext.payload.where == \"us\""
	where := func(name string) string { return `"payload": {"where": "` + name + `"}, ` }
	for _, test := range []struct {
		name, rules, policy, device, hub string
		want                             []string
	}{
		{"it is the answer", literal, "", where("us"), "contoso-us", []string{us + " is the answer"}},
		{"by literal", literal, "", where("us"), eu, []string{
			"yes 7: it would give this hub; fails input.deviceRuntimeContext.payload.where == \"eu\"",
			`no 9: it gives "` + us + `"`}},
		{"not linked", literal, "", where("us"), "contoso-asia", []string{
			"contoso-asia is not linked: the request links " + eu + ", " + us,
			`no 7: it would give "` + eu + `"; fails input.deviceRuntimeContext.payload.where == "eu"`,
			`no 9: it gives "` + us + `"`}},
		{"never reprovision", literal, never, onUS + where("eu"), eu, []string{
			"the enrollment's reprovision policy keeps the device on " + us,
			"yes 7: it gives this hub, but something else decides",
			`no 9: it would give "` + us + `"; fails input.deviceRuntimeContext.payload.where == "us"`}},
		{"rejected", literal + "\n\nreject contains \"bad\" if true", "", where("eu"), eu, []string{
			`reject at rules/a.rego:11 decides: ["bad"]`,
			"yes 7: it gives this hub, but something else decides",
			`no 9: it would give "` + us + `"; fails input.deviceRuntimeContext.payload.where == "us"`}},
		{"held", "hub := \"" + eu + "\"\n\nhold contains \"wait\"", "", "", eu, []string{
			`hold at rules/a.rego:9 decides: ["wait"]`, "yes 7: it gives this hub, but something else decides"}},
		{"another branch", "hub := \"" + us + "\" if {\n\tinput.deviceRuntimeContext.payload\n} else := \"" + eu + `"`, "", where("x"), "CONTOSO-EU", []string{
			`no 7: it gives "` + us + `"`, "yes 9: it would give this hub, but it is not reached: rules/a.rego:7 takes precedence"}},
		{"no weight", `hub := usher.choose(input.deviceRuntimeContext.registrationId, {"contoso-us": 1, "contoso-eu": 0}, input.linkedHubs)`, "", "", eu, []string{
			`no 7: it gives "` + us + `", drawn from ` + us + ": this hub is not among them"}},
		{"unlucky", `hub := usher.choose(input.deviceRuntimeContext.registrationId, {"contoso-us": 1000000, "contoso-eu": 0.000001}, input.linkedHubs)`, "", "", eu, []string{
			`no 7: it gives "` + us + `", drawn from ` + eu + ", " + us + `: this hub is among them, but "dev-1" draws another`}},
		{"unknown", "hub := h if {\n\th := input.deviceRuntimeContext.payload.hub\n}", "", "", eu, []string{
			"no decision is reached (undecided): the rule names no hub",
			"unknown 7: what it would give depends on what does not hold; fails h := input.deviceRuntimeContext.payload.hub"}},
		{"no hub rule", `hold contains "wait"`, "", "", eu, []string{
			`hold at rules/a.rego:7 decides: ["wait"]`, "the rule does not define hub"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, request := report(t, one(t, "hold", test.rules), asking(test.policy, test.device))
			r.ExplainWhyNot(request, test.hub)
			var got []string
			if r.WhyNot.Answer {
				got = append(got, r.WhyNot.Hub+" is the answer")
			}
			got = append(got, r.WhyNot.Obstacles...)
			for _, d := range r.WhyNot.Definitions {
				text := d.Names + " " + strings.TrimPrefix(d.Place, "rules/a.rego:") + ": " + d.Note
				if d.Failed != nil {
					text += "; fails " + d.Failed.Text
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var text bytes.Buffer
			if err := r.WriteText(&text, explain.Plain()); err != nil || !strings.Contains(text.String(), "why not "+r.WhyNot.Hub) {
				t.Errorf("%v: %s", err, &text)
			}
		})
	}
}

// Of every linked hub that a shipped rule does not answer with, there is something to tell; and what would give a hub
// is not said of a hub that is not it.
func TestWhyNotOnExampleRequests(t *testing.T) {
	t.Parallel()
	rules, err := decider.LoadRules(t.Context(), os.DirFS("../../../rules"), decider.RulesOptions{Name: "rules"})
	allocator := allocatorOf(t, rules, err)
	files, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, request := report(t, allocator, body)
		for _, hub := range append(slices.Clone(request.LinkedHubs), "elsewhere") {
			r.ExplainWhyNot(request, hub)
			w := r.WhyNot
			if w.Answer != (r.Answer.Response.IotHubHostName == hub) || w.Linked != (hub != "elsewhere") {
				t.Errorf("%s: of %s it says %+v, the answer is %s", file, hub, w, r.Answer.Response.IotHubHostName)
			}
			if !w.Answer && len(w.Obstacles) == 0 && len(w.Definitions) == 0 {
				t.Errorf("%s: nothing is told of %s", file, hub)
			}
			for _, d := range w.Definitions {
				if d.Note == "" {
					t.Errorf("%s: nothing is told of %s", file, d.Place)
				}
			}
		}
		var text, document bytes.Buffer
		r.WhyNot = nil
		if err := errors.Join(r.WriteText(&text, explain.Plain()), r.WriteJSON(&document)); err != nil {
			t.Fatal(err)
		}
		if !json.Valid(document.Bytes()) || strings.Contains(text.String(), "__local") || strings.Contains(document.String(), "__local") {
			t.Errorf("%s is explained as\n%s\n%s", file, &text, &document)
		}
	}
}

// Keys are masked in the decision, too, which the rule could have put there.
func TestReportHidesKeys(t *testing.T) {
	t.Parallel()
	const canary = "Q0FOQVJZLUNBTkFSWS1DQU5BUlk="
	r, request := report(t, one(t, "hold", "hub := \""+eu+"\"\n\npayload := {\"k\": input.enrollmentGroup.attestation.symmetricKey.primaryKey}\n\ninitial_twin := {\"tags\": payload}"),
		asking(`, "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "`+canary+`"}}`, ""))
	r.ExplainWhyNot(request, us)
	var text bytes.Buffer
	if err := errors.Join(r.WriteJSON(&text), r.WriteText(&text, explain.Plain())); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), canary) || !strings.Contains(text.String(), `{"k":"(masked)"}`) {
		t.Errorf("the key is shown, or not masked:\n%s", &text)
	}
}

// A device cannot give orders to the terminal of whoever asks why.
func TestTextIsPrintable(t *testing.T) {
	t.Parallel()
	r, _ := report(t, one(t, "hold", `hold contains sprintf("no %s", [input.deviceRuntimeContext.payload.x])`), asking("", `"payload": {"x": "a\u001b[2J\u001b[31m\nb\u202e\u009b"}, `))
	coloured := explain.Plain()
	coloured.Good = func(text string) string { return "\x1b[32m" + text + "\x1b[0m" }
	for _, style := range []explain.Style{explain.Plain(), coloured} {
		var text bytes.Buffer
		if err := r.WriteText(&text, style); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(text.String(), "\u202e\u009b") || strings.Contains(text.String(), "\x1b[2J") ||
			style.Good("") == "" && strings.Contains(text.String(), "\x1b") {
			t.Errorf("it has control characters: %q", text.String())
		}
		if !strings.Contains(text.String(), `no a\u001b[2J`) || !strings.Contains(text.String(), `\u000ab\u202e\u009b`) {
			t.Errorf("what the device sent is not shown: %s", &text)
		}
	}
}

// Every reason is explained, those of one definition one by one.
func TestTextExplainsEachReason(t *testing.T) {
	t.Parallel()
	rules := "reject contains sprintf(\"tag %s\", [t]) if some t in input.deviceRuntimeContext.payload.tags"
	text := func(tags []string) string {
		list, err := json.Marshal(tags)
		if err != nil {
			t.Fatal(err)
		}
		r, _ := report(t, one(t, "hold", rules), asking("", `"payload": {"tags": `+string(list)+`}, `))
		var out bytes.Buffer
		if err := r.WriteText(&out, explain.Plain()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got := text([]string{"a"}); strings.Contains(got, "gives") || !strings.Contains(got, `t = "a"`) {
		t.Errorf("one reason:\n%s", got)
	}
	if got := text([]string{"a", "b"}); !strings.Contains(got, "gives \"tag a\"\n      t = \"a\"\n") || !strings.Contains(got, "gives \"tag b\"\n      t = \"b\"\n") {
		t.Errorf("two reasons:\n%s", got)
	}
	if got := text([]string{}); !strings.Contains(got, "payload.tags is empty\n") {
		t.Errorf("no tag:\n%s", got)
	}
	if got := text(nil); !strings.Contains(got, "payload.tags = null: it has no elements\n") {
		t.Errorf("null:\n%s", got)
	}
	if got := text(strings.Split("a b c d e f g h i j k l m n o p q r s t", " ")); strings.Count(got, "gives") != 17 || !strings.Contains(got, `gives "tag q", "tag r", "tag s", "tag t"`) {
		t.Errorf("20 reasons:\n%s", got)
	}
}
