package decider_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// A fault tells in fields, not in its words alone, what it is about.
func TestFaultFields(t *testing.T) {
	t.Parallel()
	const twin = "{\"tags\": {\"a\": {\"b\": {\"c\": {\"d\": {\"e\": {\"f\": {\"g\": {\"h\": {\"i\": {\"j\": {\"k\": {\"l\": {\"m\": 1}}}}}}}}}}}}}}"
	for _, c := range []struct {
		name, rules string
		kind        answer.Result
		entry       string
		places      []string
	}{
		{"foreign hub", `hub := "elsewhere.azure-devices.net"`, answer.BadVerdict, "hub", nil},
		{"hub of a wrong type", `hub := 1`, answer.BadVerdict, "hub", nil},
		{"twin", "hub := input.linkedHubs[0]\n\ninitial_twin := " + twin, answer.BadVerdict, "initial_twin", nil},
		{"payload", "hub := input.linkedHubs[0]\n\npayload := [1]", answer.BadVerdict, "payload", nil},
		{"a built-in", `hub := input.linkedHubs[to_number(input.deviceRuntimeContext.registrationId)]`, answer.Undecided, "", []string{"rules/default.rego:3"}},
		{"silence", `hub := input.linkedHubs[9]`, answer.Undecided, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			allocator, err := decider.New(decider.Options{Rules: load(t, map[string]string{"default.rego": "package allocation[\"default\"]\n\n" + c.rules})})
			if err != nil {
				t.Fatal(err)
			}
			got := allocator.Allocate(t.Context(), request(t))
			if got.Result != c.kind || got.Entry != c.entry {
				t.Errorf("%s, entry %q; want %s, entry %q", got.Result, got.Entry, c.kind, c.entry)
			}
			if diff := cmp.Diff(c.places, got.BuiltinErrors); diff != "" {
				t.Errorf("built-in errors (-want +got):\n%s", diff)
			}
		})
	}
}
