package allocation_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/allocation"
)

// A fault tells in fields, not in its words alone, what it is about.
func TestFaultFields(t *testing.T) {
	t.Parallel()
	const twin = "{\"tags\": {\"a\": {\"b\": {\"c\": {\"d\": {\"e\": {\"f\": {\"g\": {\"h\": {\"i\": {\"j\": {\"k\": {\"l\": {\"m\": 1}}}}}}}}}}}}}}"
	for _, c := range []struct {
		name, rules string
		kind        allocation.FaultKind
		entry       string
		places      []string
	}{
		{"foreign hub", `hub := "elsewhere.azure-devices.net"`, allocation.BadVerdict, "hub", nil},
		{"hub of a wrong type", `hub := 1`, allocation.BadVerdict, "hub", nil},
		{"twin", "hub := input.linkedHubs[0]\n\ninitial_twin := " + twin, allocation.BadVerdict, "initial_twin", nil},
		{"payload", "hub := input.linkedHubs[0]\n\npayload := [1]", allocation.BadVerdict, "payload", nil},
		{"a built-in", `hub := input.linkedHubs[to_number(input.deviceRuntimeContext.registrationId)]`, allocation.Undecided, "", []string{"rules/default.rego:3"}},
		{"silence", `hub := input.linkedHubs[9]`, allocation.Undecided, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			allocator, err := allocation.New(allocation.Options{Rules: load(t, map[string]string{"default.rego": "package allocation[\"default\"]\n\n" + c.rules})})
			if err != nil {
				t.Fatal(err)
			}
			_, err = allocator.Allocate(t.Context(), request(t))
			got := fault(t, err)
			if got.Kind != c.kind || got.Entry != c.entry {
				t.Errorf("%s, entry %q; want %s, entry %q", got.Kind, got.Entry, c.kind, c.entry)
			}
			if diff := cmp.Diff(c.places, got.BuiltinErrors); diff != "" {
				t.Errorf("built-in errors (-want +got):\n%s", diff)
			}
		})
	}
}
