package invariants_test

import (
	"encoding/json"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/invariants"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// A `with` replaces a part of the input for its own expression only. Invariants use it to give the library its input.
func TestWithInInvariants(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{
		"a.rego": {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [g]\npackage allocation.a\n\nhub := \"h\"\n")},
		"a_invariants.rego": {Data: []byte(`package allocation.a_invariants

invariant contains "first" if one with input.request.x as 1

invariant contains "second" if input.request.x == 1

one if input.request.x == 1
`)},
	}
	set, err := ruleset.Load(t.Context(), files, ruleset.Options{Name: "rules", InputSchema: map[string]any{"type": "object"}})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := invariants.Load(t.Context(), set, files)
	if err != nil {
		t.Fatal(err)
	}
	broken, err := loaded.Broken(t.Context(), "allocation.a", map[string]any{"request": map[string]any{"x": json.Number("2")}, "decision": map[string]any{}})
	if diff := cmp.Diff([]string{"first"}, broken); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// Invariants see that a constraint prevailed over the rule, in the same form whoever asks them.
func TestInput(t *testing.T) {
	t.Parallel()
	request := map[string]any{"linkedHubs": []any{"a.azure-devices.net"}}
	a := answer.Answer{Result: answer.Assigned, Overrides: []answer.Override{answer.NeverReprovision}}
	a.Response.IotHubHostName = "a.azure-devices.net"
	want := map[string]any{"request": request, "decision": map[string]any{
		"outcome": "assigned", "hub": "a.azure-devices.net", "overrides": []any{"never_reprovision"}}}
	if diff := cmp.Diff(want, invariants.Input(request, &a)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
