package exchange_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

const rules = `# METADATA
# custom:
#   enrollment_groups: [line]
package allocation.line

said := input.deviceRuntimeContext.payload

hub := said.hub

initial_twin := {"tags": {"n": 4503599627370495, "b~c": "<x>"}} if said.twin

payload := {} if said.empty

reject contains "no" if said.reject

hold contains {"reason": "later", "status": 429, "retry_after": 90} if said.hold
`

func allocator(t *testing.T) *decider.Decider {
	t.Helper()
	loaded, err := decider.LoadRules(t.Context(), fstest.MapFS{"line.rego": {Data: []byte(rules)}}, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := decider.New(decider.Options{Rules: loaded})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(payload string) string {
	return `{"enrollmentGroup": {"enrollmentGroupId": "line"}, "linkedHubs": ["a.azure-devices.net"],
		"deviceRuntimeContext": {"registrationId": "d", "payload": ` + payload + `}}`
}

// folder writes files and finds the exchanges among them.
func folder(t *testing.T, files map[string]string) (string, []exchange.Exchange) {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	exchanges, err := exchange.Find(root)
	if err != nil {
		t.Fatal(err)
	}
	return root, exchanges
}

func TestDecisionFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ request, want string }{
		"assigned": {request(`{"hub": "A.azure-devices.net"}`), `{
  "outcome": "assigned",
  "rule": "allocation.line",
  "hub": "a.azure-devices.net"
}
`},
		"twin and payload": {request(`{"hub": "a.azure-devices.net", "twin": true, "empty": true}`), ""},
		"rejected": {request(`{"reject": true}`), `{
  "outcome": "rejected",
  "rule": "allocation.line",
  "reasons": [
    "no"
  ]
}
`},
		"held": {request(`{"hold": true}`), `{
  "outcome": "held",
  "rule": "allocation.line",
  "reasons": [
    "later"
  ],
  "throttle": true,
  "retryAfter": "1m30s"
}
`},
		"fault": {request(`{"hub": "b.azure-devices.net"}`), `{
  "fault": "bad_verdict",
  "rule": "allocation.line",
  "detail": "hub b.azure-devices.net is none of linkedHubs"
}
`},
		"invalid": {`{"linkedHubs": ["a.azure-devices.net"], "enrollmentGroup": {"enrollmentGroupId": "line"}}`, `{
  "fault": "invalid_request",
  "detail": "the body is not an AllocationRequest as DPS sends it",
  "violations": [
    {
      "pointer": "",
      "problem": "missing property \"deviceRuntimeContext\""
    }
  ]
}
`},
		"malformed": {`{`, ""},
	} {
		decision, err := exchange.Decide(t.Context(), allocator(t), []byte(c.request))
		if err != nil {
			t.Fatal(err)
		}
		got, err := exchange.JSON(&decision)
		if err != nil {
			t.Fatal(err)
		}
		if c.want != "" && string(got) != c.want {
			t.Errorf("%s: -want +got:\n%s", name, cmp.Diff(c.want, string(got)))
		}
		// What --update writes passes from then on.
		_, exchanges := folder(t, map[string]string{"x.request.json": c.request, "x.decision.json": string(got)})
		result, err := exchanges[0].Run(t.Context(), allocator(t), false)
		if err != nil || len(result.Problems) > 0 {
			t.Errorf("%s: %v, %v", name, result.Problems, err)
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	good := request(`{"hub": "a.azure-devices.net", "twin": true}`)
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"another hub": {
			map[string]string{"x.request.json": request(`{"hub": "a.azure-devices.net"}`), "x.decision.json": `{"outcome": "assigned", "rule": "allocation.line", "hub": "b"}`},
			[]string{`/hub: want "b", got "a.azure-devices.net"`},
		},
		"members missing and too many": {
			map[string]string{"x.request.json": request(`{"reject": true}`), "x.decision.json": `{"outcome": "rejected", "hub": "b", "reasons": ["yes"]}`},
			[]string{`/hub: want "b", got nothing`, `/reasons: want ["yes"], got ["no"]`, `/rule: want nothing, got "allocation.line"`},
		},
		"large numbers and odd names": {
			map[string]string{"x.request.json": good, "x.decision.json": `{"outcome": "assigned", "rule": "allocation.line", "hub": "a.azure-devices.net",
				"initialTwin": {"tags": {"n": 4503599627370494, "b~c": "x"}}, "initialTwinUse": "applied"}`},
			[]string{`/initialTwin/tags/b~0c: want "x", got "<x>"`, `/initialTwin/tags/n: want 4503599627370494, got 4503599627370495`},
		},
		"no decision": {map[string]string{"x.request.json": good}, []string{"x.decision.json yet: `usher test --update` writes it"}},
		"no request":  {map[string]string{"x.decision.json": "{}"}, []string{"there is no x.request.json next to"}},
		"not JSON":    {map[string]string{"x.request.json": good, "x.decision.json": "{} {}"}, []string{"x.decision.json is not JSON: something follows the document"}},
		"too large":   {map[string]string{"x.request.json": strings.Repeat(" ", 1<<20+1), "x.decision.json": "{}"}, []string{"larger than 1048576 bytes"}},
	} {
		_, exchanges := folder(t, c.files)
		if len(exchanges) != 1 {
			t.Fatalf("%s: found %v", name, exchanges)
		}
		result, err := exchanges[0].Run(t.Context(), allocator(t), false)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Problems) != len(c.want) {
			t.Errorf("%s: got %q, want %q", name, result.Problems, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(result.Problems[i], want) {
				t.Errorf("%s: got %q, want %q", name, result.Problems[i], want)
			}
		}
	}
}

// What files hold is checked like what is on disk.
func TestCheck(t *testing.T) {
	t.Parallel()
	const rejected = `{"outcome": "rejected", "rule": "allocation.line", "reasons": ["no"]}`
	for name, c := range map[string]struct{ request, decision, want string }{
		"same":          {request(`{"reject": true}`), rejected, ""},
		"another":       {request(`{"reject": true}`), strings.Replace(rejected, "no", "yes", 1), `/reasons: want ["yes"], got ["no"]`},
		"no decision":   {request(`{"reject": true}`), "", "there is no x.decision.json next to it"},
		"no request":    {"", rejected, "there is no x.request.json next to it"},
		"not JSON":      {request(`{"reject": true}`), "{} {}", "x.decision.json is not JSON: something follows the document"},
		"not a request": {"{", rejected, `/outcome: want "rejected", got nothing`},
	} {
		files := fstest.MapFS{}
		for file, text := range map[string]string{"a/x.request.json": c.request, "a/x.decision.json": c.decision} {
			if text != "" {
				files[file] = &fstest.MapFile{Data: []byte(text)}
			}
		}
		problems, err := exchange.Check(t.Context(), allocator(t), files, "a/x")
		if got := strings.Join(problems, "\n"); err != nil || !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	root, exchanges := folder(t, map[string]string{
		"a/new.request.json":     request(`{"reject": true}`),
		"a/other.request.json":   request(`{"reject": true}`),
		"a/other.decision.json":  `{"outcome": "held"}`,
		"a/same.request.json":    request(`{"reject": true}`),
		"a/same.decision.json":   `{"reasons":["no"],"rule":"allocation.line","outcome":"rejected"}`,
		"a/broken.request.json":  request(`{"reject": true}`),
		"a/broken.decision.json": "{",
		".git/x.request.json":    "{}",
	})
	updated := map[string]bool{}
	for _, e := range exchanges {
		result, err := e.Run(t.Context(), allocator(t), true)
		if err != nil || len(result.Problems) > 0 {
			t.Errorf("%s: %v, %v", e.Name, result.Problems, err)
		}
		updated[filepath.Base(e.Name)] = result.Updated
	}
	if diff := cmp.Diff(map[string]bool{"new": true, "other": true, "same": false, "broken": true}, updated); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	again, err := exchange.Find(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range again {
		result, err := e.Run(t.Context(), allocator(t), false)
		if err != nil || len(result.Problems) > 0 || result.Updated || result.Rule != "allocation.line" {
			t.Errorf("after the update: %+v, %v", result, err)
		}
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	_, exchanges := folder(t, map[string]string{"x.request.json": request("{}"), "x.decision.json": "{}"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := exchanges[0].Run(ctx, allocator(t), true); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(exchanges[0].Decision); err != nil || string(text) != "{}" {
		t.Errorf("the file was written: %s, %v", text, err)
	}
}

// The exchanges that ship hold.
func TestShippedExchanges(t *testing.T) {
	t.Parallel()
	loaded, err := decider.LoadRules(t.Context(), os.DirFS("../../../rules"), decider.RulesOptions{Name: "rules", Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	a, err := decider.New(decider.Options{Rules: loaded})
	if err != nil {
		t.Fatal(err)
	}
	exchanges, err := exchange.Find("../../../rules")
	if err != nil || len(exchanges) < 3 {
		t.Fatalf("found %d exchanges: %v", len(exchanges), err)
	}
	for _, e := range exchanges {
		result, err := e.Run(t.Context(), a, false)
		if err != nil || len(result.Problems) > 0 {
			t.Errorf("%s: %q, %v", e.Name, result.Problems, err)
		}
	}
}
