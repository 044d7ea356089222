package play_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/play"
	"github.com/usher-dps/usher/internal/play/workspace"
)

// decode reads the data of an event.
func decode[T any](t testing.TB, e event) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(e.data), &value); err != nil {
		t.Fatalf("%s: %v: %s", e.name, err, e.data)
	}
	return value
}

// collect reads a stream to its end, by the names of the events.
func collect(events <-chan event) map[string][]event {
	found := map[string][]event{}
	for e := range events {
		found[e.name] = append(found[e.name], e)
	}
	return found
}

const lineTest = `package allocation.line_test

import data.allocation.line

test_first if line.hub == "a" with input as {"linkedHubs": ["a"]}

test_wrong if line.hub == "b" with input as {"linkedHubs": ["a"]}

todo_test_later if false

two := 1

two := 2

test_failing if two == 1
`

func TestTests(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{
		"line/line.rego":           lineRule + "\nhub := \"far\" if input.deviceRuntimeContext.payload.far\n",
		"line/line_test.rego":      lineTest,
		"line/new.request.json":    request("line", ""),
		"line/new.decision.json":   `{"outcome": "assigned"}`,
		"line/lone.request.json":   request("line", ""),
		"line/other.decision.json": "{}",
	}, nil)
	found := collect(c.events(t.Context(), "POST", "/api/test", object{"edits": object{}}))
	if len(found["done"]) != 1 {
		t.Fatalf("%+v", found)
	}
	outcomes, messages := map[string]string{}, map[string]string{}
	for _, e := range found["case"] {
		one := decode[struct {
			Name, File, Outcome, Message string
			Line                         int
			FailedAt                     struct {
				File string
				Line int
			}
		}](t, e)
		outcomes[one.Name], messages[one.Name] = one.Outcome, one.Message
		if one.Name == "data.allocation.line_test.test_wrong" && (one.File != "line/line_test.rego" || one.Line != 7 || one.FailedAt.Line != 7) {
			t.Errorf("%+v", one)
		}
	}
	want := map[string]string{
		"data.allocation.line_test.test_first": "passed", "data.allocation.line_test.test_wrong": "failed",
		"data.allocation.line_test.todo_test_later": "skipped", "data.allocation.line_test.test_failing": "errored",
		"line/new": "failed", "line/lone": "failed",
	}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if m := messages["line/new"]; !strings.Contains(m, "/hub: want nothing, got") {
		t.Errorf("exchange: %s", m)
	}
	coverage := decode[map[string]struct{ Covered, Missed []int }](t, found["coverage"][0])
	if diff := cmp.Diff(map[string]struct{ Covered, Missed []int }{"line/line.rego": {[]int{7}, []int{9}}}, coverage); diff != "" {
		t.Errorf("coverage: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(object{"passed": 1.0, "failed": 3.0, "errored": 1.0, "skipped": 1.0}, decode[object](t, found["done"][0])); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	// As edited: the tests are gone, and the answer is the expected one.
	found = collect(c.events(t.Context(), "POST", "/api/test", object{"edits": object{"line/line_test.rego": nil, "line/lone.request.json": nil,
		"line/line.rego":         strings.Replace(lineRule, "hub :=", `reject contains "no"`+"\n\nhub :=", 1),
		"line/new.decision.json": `{"outcome": "rejected", "reasons": ["no"], "rule": "allocation.line"}`}}))
	if len(found["case"]) != 1 || !strings.Contains(found["case"][0].data, `"passed"`) {
		t.Errorf("%+v", found["case"])
	}
	for _, path := range []string{"/api/test", "/api/verify"} {
		found = collect(c.events(t.Context(), "POST", path, object{"edits": object{"line/line.rego": strings.Replace(lineRule, "input.linkedHubs[0]", "x", 1)}}))
		problems := decode[struct{ Problems []problem }](t, found["problem"][0]).Problems
		if len(problems) == 0 || problems[0].File != "line/line.rego" || problems[0].Line != 7 {
			t.Errorf("%s: %+v", path, found)
		}
	}
}

// Work for a page that is gone ends: tests, a search, and a replay.
func TestWorkEnds(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{
		"line/line.rego":      lineRule,
		"line/line_test.rego": "package allocation.line_test\n\ntest_quick if true\n\ntest_loops if payload.n" + endless,
	}, func(options *play.Options, _ *workspace.Options) {
		options.Fleet = fleetOf(t, request("line", ""), request("line", ""))
	})
	for _, test := range []struct{ path, body string }{
		{"/api/test", ""},
		{"/api/verify", lineRule + endless},
		{"/api/fleet/replay", lineRule + endless},
	} {
		ctx, leave := context.WithCancel(t.Context())
		edits := object{}
		if test.body != "" {
			edits["line/line.rego"] = test.body
		}
		events := c.events(ctx, "POST", test.path, object{"edits": edits})
		if test.path == "/api/test" {
			if e := <-events; e.name != "case" || !strings.Contains(e.data, "test_quick") {
				t.Errorf("%+v", e)
			}
		}
		leave()
		for path := range c.ended {
			if path == test.path {
				break
			}
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, func(options *play.Options, _ *workspace.Options) {
		options.PayloadSchema = []byte(`{"properties": {"far": {"type": "boolean"}}}`)
	})
	edited := strings.Replace(lineRule, "hub := input.linkedHubs[0]", `hub := "contoso-gone.azure-devices.net" if input.deviceRuntimeContext.payload.far

else := input.linkedHubs[0]`, 1)
	found := collect(c.events(t.Context(), "POST", "/api/verify", object{"edits": object{"line/line.rego": edited}, "rule": "line", "budget": 200, "seed": 7}))
	if len(found["report"]) != 1 || len(found["progress"]) == 0 {
		t.Fatalf("%+v", found)
	}
	report := decode[struct {
		Rules []struct {
			Rule   string
			Broken []struct {
				Promise string
				Request object
			}
		}
		Seed        int
		Interrupted bool
	}](t, found["report"][0])
	if len(report.Rules) != 1 || report.Seed != 7 || report.Interrupted || len(report.Rules[0].Broken) == 0 || report.Rules[0].Broken[0].Request["linkedHubs"] == nil {
		t.Errorf("%s", found["report"][0].data)
	}
	c.call(400, "POST", "/api/verify", object{"edits": object{}, "budget": -1}, nil)
	found = collect(c.events(t.Context(), "POST", "/api/verify", object{"edits": object{}, "rule": "none"}))
	if len(found["problem"]) != 1 || !strings.Contains(found["problem"][0].data, "allocation.line") {
		t.Errorf("%+v", found)
	}
}
