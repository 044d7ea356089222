package ruleset_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// What a `with` puts in the place of a part of the request is seen by what it is for, and by nothing that is asked
// after it: not by another rule, nor another time.
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
					verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(document), ruleset.Outside{})
					if err != nil || verdict.Hub.Text() != "h" {
						t.Fatalf("%+v, %v", verdict, err)
					}
					if diff := cmp.Diff(decode(t, `{"y": 2, "z": 3}`), verdict.Payload.Interface()); diff != "" {
						t.Errorf("payload (-want +got):\n%s", diff)
					}
				}
				explained, err := explanation.Explain(t.Context(), rule, document, ruleset.Outside{})
				if err != nil {
					t.Fatal(err)
				}
				gave := func(d explanation.Definition) bool {
					return d.State == explanation.Gave && cmp.Equal(d.Value, any(decode(t, `{"y": 2, "z": 3}`)))
				}
				if !slices.ContainsFunc(explained.Entries, func(e explanation.Entry) bool { return slices.ContainsFunc(e.Definitions, gave) }) {
					t.Errorf("explained as %+v", explained.Entries)
				}
				if diff := cmp.Diff(decode(t, `{"x": {"y": 2, "z": 3}}`), document); diff != "" {
					t.Errorf("the request (-before +after):\n%s", diff)
				}
			})
		})
	}
}
