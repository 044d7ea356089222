package allocation_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/dps"
)

func provenanceAllocator(t *testing.T, options allocation.RulesOptions, files ...string) *allocation.Allocator {
	t.Helper()
	folder := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		folder[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	options.Name = "rules"
	rules, err := allocation.LoadRules(t.Context(), folder, options)
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

const provenanceRule = `# METADATA
# title: Presses
# custom:
#   enrollment_groups: [g]
#   recordable: [payload.model]
package allocation.g

default hub := "a.azure-devices.net"

hub := input.deviceRuntimeContext.payload.hub

payload := {"x": 1}

hold contains "wait" if input.deviceRuntimeContext.payload.hold

reject contains "no" if input.deviceRuntimeContext.payload.reject
`

func provenanceBody(payload string) []byte {
	return []byte(`{"enrollmentGroup": {"enrollmentGroupId": "g"}, "linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"],
		"deviceRuntimeContext": {"registrationId": "d1", "payload": ` + payload + `}}`)
}

// A decision and a fault tell where they come from.
func TestProvenance(t *testing.T) {
	t.Parallel()
	for _, lazy := range []bool{false, true} {
		allocator := provenanceAllocator(t, allocation.RulesOptions{Revision: "v7", Lazy: lazy}, "g.rego", provenanceRule)
		for payload, lines := range map[string]string{
			`{}`:                             "hub:8 payload:12",
			`{"hub": "b.azure-devices.net"}`: "hub:10 payload:12",
			`{"hold": true}`:                 "hold:14",
			`{"reject": true, "hold": true}`: "reject:16",
			`{"hub": "c.azure-devices.net"}`: "hub:10 payload:12", // a fault
		} {
			_, decision, err := allocator.AllocateJSON(t.Context(), provenanceBody(payload))
			provenance := decision.Provenance
			if fault, ok := errors.AsType[*allocation.Fault](err); ok {
				provenance = fault.Provenance
			}
			var got []string
			for _, line := range provenance.Lines {
				got = append(got, line.Entry+strings.TrimPrefix(line.Place, "rules/g.rego"))
			}
			if strings.Join(got, " ") != lines {
				t.Errorf("lazy %t, %s: %v, want %s", lazy, payload, got, lines)
			}
			want := &allocation.Binding{Package: "allocation.g", Title: "Presses", Place: "rules/g.rego:1", Groups: []string{"g"},
				Recordable: [][]string{{"payload", "model"}}}
			if diff := cmp.Diff(want, provenance.Binding); diff != "" || provenance.Revision != "v7" || len(provenance.Lookups) > 0 {
				t.Errorf("%s: %+v, -want +got:\n%s", payload, provenance, diff)
			}
		}
		// The next set of rules has a binding of its own, and nobody has to be told.
		if _, decision, err := allocator.AllocateJSON(t.Context(), provenanceBody(`{}`)); err != nil || decision.Provenance.Source != allocation.SourceCurrent {
			t.Errorf("%v, source %q", err, decision.Provenance.Source)
		}
	}
}

// What was looked up the first time decides the second time.
func TestWithLookups(t *testing.T) {
	t.Parallel()
	allocator := provenanceAllocator(t, allocation.RulesOptions{AllowBuiltins: []string{"time.now_ns"}}, "g.rego",
		"package allocation.default\nhub := input.linkedHubs[0]\npayload := {\"now\": time.now_ns()}")
	body := provenanceBody(`{}`)
	_, first, err := allocator.AllocateJSON(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	want := []allocation.Lookup{{Builtin: "time.now_ns", Arguments: []any{}, Result: first.Response.Payload["now"]}}
	if diff := cmp.Diff(want, first.Provenance.Lookups); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	known := []allocation.Lookup{{Builtin: "time.now_ns", Arguments: []any{}, Result: json.Number("7")}}
	ctx := allocation.WithLookups(t.Context(), known)
	request, again, err := allocator.AllocateJSON(ctx, body)
	if err != nil || again.Response.Payload["now"] != json.Number("7") {
		t.Errorf("%v, %v", again.Response.Payload, err)
	}
	for _, entry := range allocator.Explain(ctx, request).Entries {
		if value, ok := entry.Value.(map[string]any); entry.Name == "payload" && (!ok || value["now"] != json.Number("7")) {
			t.Errorf("explained as %v", entry.Value)
		}
	}
	// Rules that may look up nothing do not take what they are told.
	pure := provenanceAllocator(t, allocation.RulesOptions{}, "g.rego", "package allocation.default\nhub := input.linkedHubs[0]")
	if _, decision, err := pure.AllocateJSON(ctx, body); err != nil || len(decision.Provenance.Lookups) > 0 {
		t.Errorf("%v, %v", decision.Provenance.Lookups, err)
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	const individuals = "# METADATA\n# custom:\n#   individual_enrollments: [one]\npackage allocation.i\nhub := input.linkedHubs[0]"
	allocator := provenanceAllocator(t, allocation.RulesOptions{}, "g.rego", provenanceRule, "i.rego", individuals,
		"d.rego", "package allocation.default\nhub := input.linkedHubs[0]\npayload := {\"tags\": input.enrollmentGroup.initialTwin.tags}\nhold contains \"x\" if object.get(input.deviceRuntimeContext, [\"tpm\", \"endorsementKey\"], \"\") == \"e\"")
	group := func(id string) string {
		return `{"enrollmentGroup": {"enrollmentGroupId": "` + id + `"}, "deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["h"]}`
	}
	individual := func(id string) string {
		return `{"individualEnrollment": {"registrationId": "` + id + `"}, "deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["h"]}`
	}
	masked := []string{"/deviceRuntimeContext/payload", "/deviceRuntimeContext/tpm/endorsementKey", "/deviceRuntimeContext/payload/hub",
		"/deviceRuntimeContext/payload/model", "/enrollmentGroup/initialTwin", "/individualEnrollment/registrationId"}
	for _, test := range []struct {
		body string
		want []string
	}{
		{group("g"), []string{"/deviceRuntimeContext/payload", "/deviceRuntimeContext/payload/hub"}},
		{group("other"), []string{"/deviceRuntimeContext/tpm/endorsementKey"}}, // the twin does not choose the hub
		{individual("one"), []string{"/individualEnrollment/registrationId"}},
	} {
		request, err := dps.ParseAllocationRequest([]byte(test.body))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := allocator.Rules().Needs(t.Context(), request, masked); !slices.Equal(got, test.want) {
				t.Errorf("%s: got %v, want %v", test.body, got, test.want)
			}
		}
		if got := allocator.Rules().Needs(t.Context(), request, nil); got != nil {
			t.Errorf("nothing is masked, and %v is needed", got)
		}
	}
}
