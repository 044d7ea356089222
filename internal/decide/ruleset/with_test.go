package ruleset_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// What a `with` puts in the place of a part of the request is seen by what it is
// for, and by nothing that is asked after it: not by another rule, nor another time.
func TestWithLeavesTheRequestAlone(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]string{
		"in an entry rule":   "hub := \"h\" if one with input.x.y as 1",
		"behind a rule":      "hub := \"h\" if helper\n\nhelper if one with input.x.y as 1",
		"in an else":         "hub := \"a\" if input.none\n\nelse := \"h\" if one with input.x.y as 1",
		"in a function":      "hub := f(1)\n\nf(n) := \"h\" if one with input.x.y as n",
		"in a comprehension": "hub := \"h\" if count([1 | one with input.x.y as 1]) == 1",
		"below a not":        "hub := \"h\" if not one\n\nhold contains \"x\" if not helper\n\nhelper if one with input.x.y as 1",
		"below another":      "hub := \"h\" if helper with input as {\"x\": input.x}\n\nhelper if one with input.x.y as 1",
		"in every":           "hub := \"h\" if every n in [1] { one with input.x.y as n }",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, folder("a.rego", serving("allocation.a", "g", of+"\n\none if input.x.y == 1\n\npayload := input.x")), func(t *testing.T, rule *ruleset.Rule) {
				document := decode(t, `{"x": {"y": 2, "z": 3}}`)
				for range 2 {
					verdict, err := rule.Evaluate(t.Context(), document)
					if err != nil || verdict.Hub != "h" {
						t.Fatalf("%+v, %v", verdict, err)
					}
					if diff := cmp.Diff(decode(t, `{"y": 2, "z": 3}`), verdict.Payload); diff != "" {
						t.Errorf("payload (-want +got):\n%s", diff)
					}
				}
				e, err := rule.Explain(t.Context(), document)
				if err != nil {
					t.Fatal(err)
				}
				if got := outline(e); !strings.Contains(got, `gave {"y":2,"z":3}`) {
					t.Errorf("explained as\n%s", got)
				}
				if diff := cmp.Diff(decode(t, `{"x": {"y": 2, "z": 3}}`), document); diff != "" {
					t.Errorf("the request (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// The same holds for invariants, which give the library its input by `with`.
func TestWithInInvariants(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{
		"a.rego": {Data: []byte(serving("allocation.a", "g", `hub := "h"`))},
		"a_invariants.rego": {Data: []byte(`package allocation.a_invariants

invariant contains "first" if one with input.request.x as 1

invariant contains "second" if input.request.x == 1

one if input.request.x == 1
`)},
	}
	set := mustLoad(t, files, ruleset.Options{Name: "rules", InputSchema: map[string]any{"type": "object"}})
	invariants, err := set.Invariants(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	broken, err := invariants.Broken(t.Context(), "allocation.a", map[string]any{"request": decode(t, `{"x": 2}`), "decision": map[string]any{}})
	if diff := cmp.Diff([]string{"first"}, broken); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
