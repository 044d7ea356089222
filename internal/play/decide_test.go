package play_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/play"
	"github.com/usher-dps/usher/internal/play/workspace"
)

type problem struct {
	File         string
	Line, Column int
	Level, Code  string
	Message, Fix string
}

type decision struct {
	Problems []problem
	Status   int
	Body     string
	Wait     int
	Explain  object
	Lines    []struct {
		File             string
		Line             int
		State, Text, Why string
	}
}

type answers struct {
	Edited, Saved *decision
	Changes       []object
}

// decide asks with edits; the answer must come.
func (c *client) decide(request string, edits object, more object) answers {
	c.t.Helper()
	body := object{"edits": edits, "request": request, "rows": []any{}}
	for name, value := range more {
		body[name] = value
	}
	var a answers
	c.call(200, "POST", "/api/decide", body, &a)
	return a
}

// line is what the margin says about a line.
func (d *decision) line(file string, number int) string {
	for _, l := range d.Lines {
		if l.File == file && l.Line == number {
			return l.State + ": " + l.Text + " | " + l.Why
		}
	}
	return ""
}

func TestDecide(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	a := c.decide(request("line", ""), object{}, nil)
	if a.Edited.Status != 200 || a.Edited.Body != `{"iotHubHostName":"`+eu+`"}` || a.Saved != nil || len(a.Changes) != 0 {
		t.Errorf("%+v", a.Edited)
	}
	if got := a.Edited.line("line/line.rego", 7); got != `gave: hub := input.linkedHubs[0] | gives "`+eu+`"` {
		t.Errorf("margin: %s", got)
	}
	// An edit that changes nothing is none.
	if a := c.decide(request("line", ""), object{"line/line.rego": lineRule}, nil); a.Saved != nil {
		t.Errorf("%+v", a.Saved)
	}
	edited := strings.Replace(lineRule, "hub := input.linkedHubs[0]", `hub := input.linkedHubs[1] if input.deviceRuntimeContext.payload.far

payload := {"a": 1}

initial_twin := {"tags": {"a": 1}}

hold contains {"reason": "wait", "retry_after": 90} if input.deviceRuntimeContext.payload.wait`, 1)
	a = c.decide(request("line", `"payload": {"far": true}, `), object{"line/line.rego": edited}, object{"whyNot": "contoso-eu"})
	if a.Saved.Body != `{"iotHubHostName":"`+eu+`"}` || !strings.Contains(a.Edited.Body, us) {
		t.Errorf("%+v %+v", a.Saved, a.Edited)
	}
	want := []object{
		{"what": "hub", "before": eu, "after": us},
		{"what": "twin", "before": nil, "after": object{"tags": object{"a": 1.0}}},
		{"what": "payload", "before": nil, "after": object{"a": 1.0}},
	}
	if diff := cmp.Diff(want, a.Changes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	whyNot, _ := a.Edited.Explain["whyNot"].(object)
	if whyNot["hub"] != eu || whyNot["definitions"] == nil {
		t.Errorf("why not: %v", whyNot)
	}
	a = c.decide(request("line", `"payload": {"wait": true}, `), object{"line/line.rego": edited}, nil)
	if a.Edited.Status != 503 || a.Edited.Wait != 90 || !strings.Contains(a.Edited.Body, `"reasons":["wait"]`) || !strings.Contains(a.Edited.Body, `"decisionId":"..."`) {
		t.Errorf("%+v", a.Edited)
	}
	if got := a.Edited.line("line/line.rego", 7); !strings.HasPrefix(got, "not_held: ") || !strings.Contains(got, "payload.far") {
		t.Errorf("margin: %s", got)
	}
	want = []object{
		{"what": "result", "before": "assigned", "after": "held"},
		{"what": "hub", "before": eu, "after": ""},
		{"what": "status", "before": 200.0, "after": 503.0},
		{"what": "reasons", "before": nil, "after": []any{"wait"}},
	}
	if diff := cmp.Diff(want, a.Changes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// A rule that serves the enrollment only as edited.
	a = c.decide(request("press", ""), object{"press/press.rego": strings.ReplaceAll(lineRule, "line", "press")}, nil)
	if a.Edited.Status != 200 || a.Saved.Status != 503 {
		t.Errorf("%+v %+v", a.Edited, a.Saved)
	}
	// Without its rule.
	if a = c.decide(request("line", ""), object{"line/line.rego": nil, "b/b.rego": strings.ReplaceAll(lineRule, "line", "b")}, nil); a.Edited.Status != 503 {
		t.Errorf("%+v", a.Edited)
	}
}

// Each answer is that of the webhook to the example requests, for which rules are tested elsewhere.
func TestDecideExamples(t *testing.T) {
	t.Parallel()
	c := startShipped(t, nil)
	var list []struct{ ID, Name, From, Result string }
	c.call(200, "GET", "/api/requests", nil, &list)
	from := map[string]int{}
	for _, one := range list {
		from[one.From]++
		var got struct {
			Name, Text string
			Rows       []any
			Then       object
		}
		c.call(200, "GET", "/api/requests/"+one.ID, nil, &got)
		a := c.decide(got.Text, object{}, object{"rows": got.Rows})
		if a.Edited.Status == 0 || a.Edited.Explain == nil || len(a.Edited.Problems) > 0 {
			t.Errorf("%s: %+v", one.Name, a.Edited)
			continue
		}
		decided, _ := a.Edited.Explain["decision"].(object)
		if one.From == "exchange" && (got.Then["hub"] != decided["hub"] || one.Result == "" || one.Result != decided["outcome"]) {
			t.Errorf("%s: %v, want %v", one.Name, decided, got.Then)
		}
	}
	if from["example"] < 30 || from["exchange"] < 6 {
		t.Errorf("there are %v", from)
	}
	c.call(404, "GET", "/api/requests/nothing", nil, nil)
}

// What keeps a decision from being reached is a problem with its place.
func TestDecideProblems(t *testing.T) {
	t.Parallel()
	good := request("line", "")
	for name, test := range map[string]struct {
		request string
		edits   object
		want    problem
	}{
		"rule does not parse": {good, object{"line/line.rego": lineRule + "\nhub := := 1\n"},
			problem{File: "line/line.rego", Line: 9, Level: "error", Code: "not-loaded"}},
		"header does not parse": {good, object{"line/line.rego": "# METADATA\n# custom: [\npackage allocation.line\n"},
			problem{File: "line/line.rego", Line: 2, Level: "error", Code: "not-loaded"}},
		"rule does not compile": {good, object{"line/line.rego": lineRule + "\npayload := nothing\n"},
			problem{File: "line/line.rego", Line: 9, Level: "error", Code: "not-loaded"}},
		"misspelt": {good, object{"line/line.rego": strings.Replace(lineRule, "linkedHubs", "linkedHub", 1)},
			problem{File: "line/line.rego", Line: 7, Level: "error", Code: "not-loaded"}},
		"data is not JSON": {good, object{"line/data.json": "{\n  \"a\": 1,\n}"},
			problem{File: "line/data.json", Line: 3, Column: 1, Level: "error", Code: "not-loaded"}},
		"no rules":           {good, object{"line/line.rego": nil}, problem{Level: "error", Code: "not-loaded", Line: 1}},
		"look-ups":           {good, object{"line/lookups.yaml": "a:\n  b: 1\n"}, problem{File: "line/lookups.yaml", Line: 1, Level: "error", Code: "not-loaded"}},
		"request is empty":   {"", object{}, problem{File: "request", Line: 1, Column: 1, Level: "error", Code: "request"}},
		"request is no JSON": {"{\n  \"a\": x\n}", object{}, problem{File: "request", Line: 2, Column: 8, Level: "error", Code: "request"}},
		"member twice":       {"{\n  \"a\": 1,\n  \"a\": 2\n}", object{}, problem{File: "request", Line: 3, Level: "error", Code: "request"}},
		"no hubs":            {strings.Replace(good, `["`+eu+`", "`+us+`"]`, `[]`, 1), object{}, problem{File: "request", Line: 4, Column: 17, Level: "error", Code: "request"}},
		"not a hub":          {strings.Replace(good, `"`+us+`"`, "\n    7", 1), object{}, problem{File: "request", Line: 5, Column: 5, Level: "error", Code: "request"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
			a := c.decide(test.request, test.edits, nil)
			if len(a.Edited.Problems) == 0 || a.Edited.Status != 0 {
				t.Fatalf("%+v", a.Edited)
			}
			got := a.Edited.Problems[0]
			if test.want.Column == 0 {
				got.Column = 0
			}
			if got.Message == "" {
				t.Error("it does not say what is wrong")
			}
			got.Message, got.Fix = "", ""
			if got != test.want {
				t.Errorf("got %+v, want %+v", a.Edited.Problems, test.want)
			}
			if len(test.edits) > 0 && (a.Saved == nil || a.Saved.Status != 200) {
				t.Errorf("saved: %+v", a.Saved)
			}
		})
	}
}

// Another rule that does not compile yet does not keep a rule from being tried.
func TestDecideNextToBrokenRule(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule, "broken/broken.rego": strings.ReplaceAll(lineRule, "line", "broken") + "\npayload := nothing\n"}, nil)
	if a := c.decide(request("line", ""), object{}, nil); a.Edited.Status != 200 {
		t.Errorf("%+v", a.Edited)
	}
	if a := c.decide(request("broken", ""), object{}, nil); len(a.Edited.Problems) != 1 {
		t.Errorf("%+v", a.Edited)
	}
}

// endless computes for hours.
const endless = `
many := numbers.range(1, 100000)

payload := {"n": n} if n := count([1 | some a in many; some b in many; a + b == 0])
`

// A rule that loops exceeds its time limit, as it would in the webhook, and its explanation is not tried. If the lines
// that loop are not needed, there is a decision, and its explanation is cut short.
func TestLoopingRule(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, func(o *play.Options, _ *workspace.Options) { o.Timeout = time.Second })
	a := c.decide(request("line", ""), object{"line/line.rego": lineRule + endless}, nil)
	if a.Edited.Status != 503 || !strings.Contains(a.Edited.Body, "time limit") || a.Edited.Explain["cutShort"] == nil {
		t.Errorf("%+v", a.Edited)
	}
	unreached := strings.Replace(lineRule+endless, "payload := ", "payload := {\"n\": 0} if input.linkedHubs\n\nelse := ", 1)
	a = c.decide(request("line", ""), object{"line/line.rego": unreached}, nil)
	if cut, _ := a.Edited.Explain["cutShort"].(string); a.Edited.Status != 200 || !strings.HasPrefix(cut, "it took longer than 1s") {
		t.Errorf("%+v", a.Edited)
	}
}

// When the page no longer wants an answer, the rule is stopped.
func TestDecideStopsWithThePage(t *testing.T) {
	t.Parallel()
	asked, stopped := make(chan bool), make(chan bool)
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- true
		<-r.Context().Done()
		close(stopped)
	}))
	defer slow.Close()
	rule := lineRule + "\npayload := http.send({\"method\": \"get\", \"url\": \"" + slow.URL + "\", \"timeout\": \"1h\"}).body\n"
	c := start(t, map[string]string{"line/line.rego": rule}, func(o *play.Options, of *workspace.Options) {
		o.Timeout = time.Hour
		of.Rules.AllowBuiltins, of.Rules.AllowNet = []string{"http.send"}, []string{"127.0.0.1"}
		o.Rules = of.Rules
	})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-asked
		leave()
	}()
	body := object{"edits": object{}, "request": request("line", ""), "rows": []any{}}
	if response, err := http.DefaultClient.Do(c.request(ctx, "POST", "/api/decide", body)); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, %v", response, err)
	}
	<-stopped
	<-c.ended
}

const lookupsYAML = `inventory:
  row:
    type: object
    required: [hub]
    properties:
      hub: {type: string}
      count: {type: integer}
  fixture: inventory_fixture.csv
`

const lookupRule = `# METADATA
# custom:
#   enrollment_groups: [line]
package allocation.line

hub := input.linkedHubs[0] if lookup.inventory(input.deviceRuntimeContext.registrationId).hub == "first"

hub := input.linkedHubs[1] if lookup.inventory(input.deviceRuntimeContext.registrationId).hub == "second"

hold contains "unknown" if not lookup.inventory(input.deviceRuntimeContext.registrationId)
`

var lookupFiles = map[string]string{
	"line/line.rego": lookupRule, "line/lookups.yaml": lookupsYAML, "line/inventory_fixture.csv": "key,hub\npress-1,first\nother,second\n",
}

// The rows of the page come before those of the fixture.
func TestRows(t *testing.T) {
	t.Parallel()
	c := start(t, lookupFiles, nil)
	row := func(key string, row any, fails bool) []any {
		return []any{object{"lookup": "inventory", "key": key, "row": row, "fails": fails}}
	}
	for name, test := range map[string]struct {
		rows   []any
		status int
		body   string
	}{
		"fixture":      {[]any{}, 200, eu},
		"another row":  {row("Press-1", object{"hub": "second", "count": 7}, false), 200, us},
		"another key":  {row("press-2", object{"hub": "second"}, false), 200, eu},
		"no row":       {row("press-1", nil, false), 503, "unknown"},
		"fails":        {row("press-1", nil, true), 503, "lookup_failed"},
		"not declared": {row("press-1", object{"hub": 7}, false), 503, "lookup_failed"},
	} {
		a := c.decide(request("line", ""), object{}, object{"rows": test.rows})
		if a.Edited.Status != test.status || !strings.Contains(a.Edited.Body, test.body) {
			t.Errorf("%s: %+v", name, a.Edited)
		}
	}
	// The fixture as it is edited.
	if a := c.decide(request("line", ""), object{"line/inventory_fixture.csv": "key,hub\npress-1,second\n"}, nil); !strings.Contains(a.Edited.Body, us) || !strings.Contains(a.Saved.Body, eu) {
		t.Errorf("%+v %+v", a.Edited, a.Saved)
	}
}

const canary = "Q0FOQVJZLUNBTkFSWS1DQU5BUlk="

// keyRule puts a key wherever a rule can.
const keyRule = `# METADATA
# custom:
#   enrollment_groups: [line]
package allocation.line

key := input.enrollmentGroup.attestation.symmetricKey.primaryKey

hub := input.linkedHubs[0]

payload := {"a": key}

initial_twin := {"tags": {"k": concat(" ", ["x", key])}}

hold contains sprintf("hold %s", [key]) if input.deviceRuntimeContext.payload
`

func keyRequest(more string) string {
	return strings.Replace(request("line", more), `"enrollmentGroupId": "line"`,
		`"enrollmentGroupId": "line", "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "`+canary+`"}}`, 1)
}

// No answer shows a key.
func TestDecideHidesKeys(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": keyRule}, nil)
	for _, more := range []string{"", `"payload": {}, `} {
		for _, edits := range []object{{}, {"line/line.rego": keyRule + "\nother := 1\n"}} {
			body := object{"edits": edits, "request": keyRequest(more), "rows": []any{}, "whyNot": us}
			if text := c.call(200, "POST", "/api/decide", body, nil); strings.Contains(text, canary) || !strings.Contains(text, "(masked)") {
				t.Errorf("with %s: %s", more, text)
			}
		}
	}
}

func (c *client) check(edits object) []problem {
	c.t.Helper()
	var got struct{ Problems []problem }
	c.call(200, "POST", "/api/check", object{"edits": edits}, &got)
	if got.Problems == nil {
		c.t.Error("problems is null")
	}
	return got.Problems
}

func TestCheck(t *testing.T) {
	t.Parallel()
	c := startShipped(t, nil)
	for _, p := range c.check(object{}) {
		if p.Level == "error" || p.File == "" || p.Line == 0 || p.Message == "" || p.Code == "" {
			t.Errorf("%+v", p)
		}
	}
	rule := c.read("breakroom/breakroom.rego")
	for name, test := range map[string]struct {
		edits object
		want  problem
	}{
		"unused variable": {object{"line/line.rego": "# METADATA\n# custom:\n#   enrollment_groups: [line]\npackage allocation.line\n\nhub := h if {\n\th := input.linkedHubs[0]\n\tx := 1\n}\n"},
			problem{File: "line/line.rego", Line: 8, Level: "error", Code: "not-loaded"}},
		"lint": {object{"line/line.rego": "# METADATA\n# custom:\n#   enrollment_groups: [line]\npackage allocation.line\n\nhub := input.deviceRuntimeContext.payload.hub\n"},
			problem{File: "line/line.rego", Line: 6, Level: "error", Code: "payload-decides"}},
		"test does not parse": {object{"breakroom/breakroom_test.rego": "package x\n\nnonsense if if\n"}, problem{File: "breakroom/breakroom_test.rego", Line: 3, Level: "error", Code: "not-loaded"}},
		"invariants": {object{"breakroom/breakroom_invariants.rego": "package allocation.breakroom_invariants\n\nbroken contains \"x\" if nothing\n"},
			problem{File: "breakroom/breakroom_invariants.rego", Line: 3, Level: "error", Code: "not-loaded"}},
		"does not compile": {object{"breakroom/breakroom.rego": rule + "\nx := nothing\n"}, problem{File: "breakroom/breakroom.rego", Line: 2 + strings.Count(rule, "\n"), Level: "error", Code: "not-loaded"}},
	} {
		matches := false
		problems := c.check(test.edits)
		for _, p := range problems {
			p.Column, p.Message, p.Fix = 0, "", ""
			matches = matches || p == test.want
		}
		if !matches {
			t.Errorf("%s: no %+v in %+v", name, test.want, problems)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	c := start(t, nil, nil)
	var got struct {
		Text     *string
		Problems []problem
	}
	c.call(200, "POST", "/api/format", object{"path": "a/a.rego", "text": "package a\nx:=1"}, &got)
	if got.Text == nil || *got.Text != "package a\n\nx := 1\n" {
		t.Errorf("%+v", got)
	}
	got.Text = nil
	c.call(200, "POST", "/api/format", object{"path": "a/a.rego", "text": "package a\n\nx := := 1"}, &got)
	if got.Text != nil || len(got.Problems) == 0 || got.Problems[0].File != "a/a.rego" || got.Problems[0].Line != 3 {
		t.Errorf("%+v", got)
	}
	c.call(200, "POST", "/api/format", object{"path": "a/data.json", "text": "{\"a\":1}"}, &got)
	if got.Text == nil || *got.Text != "{\"a\":1}" {
		t.Errorf("%+v", got)
	}
}

func TestChoices(t *testing.T) {
	t.Parallel()
	c := startShipped(t, func(o *play.Options, _ *workspace.Options) {
		o.Hubs, o.PayloadSchema = []string{"own-hub"}, []byte(`{"type": "object"}`)
	})
	var got struct {
		Enrollments []struct {
			Kind, ID, Pattern, Rule, Title string
			Hubs                           []string
		}
		Hubs         []string
		Attestations []struct {
			Name                string
			Context, Enrollment object
		}
		Reprovision []struct {
			Name   string
			Policy map[string]bool
		}
		PayloadSchema object
		Lookups       []struct {
			Name   string
			Schema object
			Keys   []string
		}
	}
	c.call(200, "GET", "/api/choices", nil, &got)
	named := map[string]string{}
	for _, e := range got.Enrollments {
		named[e.Pattern] = e.ID
	}
	if named["*-factory"] != "1-factory" || got.Hubs[0] != "own-hub.azure-devices.net" || len(got.Hubs) < 4 || got.PayloadSchema["type"] != "object" || len(got.Reprovision) != 3 {
		t.Errorf("%+v", got)
	}
	var ways []string
	for _, a := range got.Attestations {
		ways = append(ways, a.Name)
		if a.Enrollment["type"] != a.Name || a.Context[a.Name] == nil {
			t.Errorf("%+v", a)
		}
	}
	if diff := cmp.Diff([]string{"symmetricKey", "x509", "tpm"}, ways); diff != "" {
		t.Error(diff)
	}
	if len(got.Lookups) != 2 || got.Lookups[0].Name != "inventory" || got.Lookups[0].Schema["properties"] == nil || len(got.Lookups[0].Keys) == 0 {
		t.Errorf("%+v", got.Lookups)
	}
	// Rules that do not load have no enrollments.
	write(t, c.folder+"/default/default.rego", "nonsense")
	text := c.call(200, "GET", "/api/choices", nil, nil)
	if !json.Valid([]byte(text)) || !strings.Contains(text, `"enrollments":[]`) || !strings.Contains(text, eu[:7]) && !strings.Contains(text, "own-hub") {
		t.Error(text)
	}
}

func TestVocabulary(t *testing.T) {
	t.Parallel()
	c := startShipped(t, nil)
	// Completion is of use above all while the rules do not compile.
	write(t, c.folder+"/default/default.rego", "nonsense")
	var got struct {
		Input []struct{ Path, Type, Doc string }
		DPS   []struct {
			Name, Doc, Form string
			Args            []string
		}
		Lookups []struct {
			Name    string
			Members []struct{ Path, Type, Doc string }
		}
		Builtins []struct {
			Name, Doc string
			Args      []string
		}
		Entries []struct{ Name, Doc string }
	}
	c.call(200, "GET", "/api/vocabulary", nil, &got)
	members, names, functions := map[string]string{}, map[string]string{}, map[string]int{}
	for _, m := range got.Input {
		members[m.Path] = m.Type
		if m.Doc == "" {
			t.Errorf("%s has no description", m.Path)
		}
	}
	for _, n := range got.DPS {
		names[n.Name] = n.Form + " " + strings.Join(n.Args, " ")
		if n.Doc == "" {
			t.Errorf("%s has no description", n.Name)
		}
	}
	for _, f := range got.Builtins {
		functions[f.Name] = len(f.Args)
	}
	if members["input.linkedHubs"] != "array" || members["input.enrollmentGroup.attestation.type"] != "string" || members["input.deviceRuntimeContext.x509.clientCertificate"] != "string" {
		t.Errorf("%v", members)
	}
	for name, want := range map[string]string{"registration_id": "rule ", "hub_named": "function name", "in_percentage": "function salt percent", "payload": "rule "} {
		if names[name] != want {
			t.Errorf("%s is %q", name, names[name])
		}
	}
	if functions["usher.choose"] != 3 || functions["concat"] != 2 || functions["http.send"] != 0 || functions["plus"] != 0 || functions["lookup.inventory"] != 0 {
		t.Errorf("%v", functions)
	}
	if len(got.Lookups) != 2 || got.Lookups[0].Name != "inventory" || got.Lookups[0].Members[1].Path != "hub" || got.Lookups[0].Members[1].Type != "string" || len(got.Entries) != 5 {
		t.Errorf("%+v %+v", got.Lookups, got.Entries)
	}
}
