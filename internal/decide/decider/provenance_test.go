package decider_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func provenanceAllocator(t *testing.T, options decider.RulesOptions, files ...string) *decider.Decider {
	t.Helper()
	folder := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		folder[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	options.Name = "rules"
	rules, err := decider.LoadRules(t.Context(), folder, options)
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
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
		allocator := provenanceAllocator(t, decider.RulesOptions{Revision: "v7", Lazy: lazy}, "g.rego", provenanceRule)
		for payload, lines := range map[string]string{
			`{}`:                             "hub:8 payload:12",
			`{"hub": "b.azure-devices.net"}`: "hub:10 payload:12",
			`{"hold": true}`:                 "hold:14",
			`{"reject": true, "hold": true}`: "reject:16",
			`{"hub": "c.azure-devices.net"}`: "hub:10 payload:12", // a fault
		} {
			_, provenance := allocator.AllocateJSON(t.Context(), provenanceBody(payload))
			var got []string
			for _, line := range provenance.Lines {
				got = append(got, line.Entry+strings.TrimPrefix(line.Place, "rules/g.rego"))
			}
			if strings.Join(got, " ") != lines {
				t.Errorf("lazy %t, %s: %v, want %s", lazy, payload, got, lines)
			}
			want := &answer.Rule{Package: "allocation.g", Title: "Presses", Place: "rules/g.rego:1",
				Recordable: [][]string{{"payload", "model"}}}
			if diff := cmp.Diff(want, provenance.Rule); diff != "" || provenance.Revision != "v7" || len(provenance.Lookups) > 0 {
				t.Errorf("%s: %+v, -want +got:\n%s", payload, provenance, diff)
			}
		}
		// The next set of rules has a binding of its own, and nobody has to be told.
		if _, a := allocator.AllocateJSON(t.Context(), provenanceBody(`{}`)); a.Result != answer.Assigned || a.Source != answer.SourceCurrent {
			t.Errorf("%s, source %q", a.Summary(), a.Source)
		}
	}
}

// What was looked up the first time decides the second time.
func TestRepeat(t *testing.T) {
	t.Parallel()
	allocator := provenanceAllocator(t, decider.RulesOptions{AllowBuiltins: []string{"time.now_ns"}}, "g.rego",
		"package allocation.default\nhub := input.linkedHubs[0]\npayload := {\"now\": time.now_ns()}")
	body := provenanceBody(`{}`)
	request, first := allocator.AllocateJSON(t.Context(), body)
	want := []answer.Lookup{{Builtin: "time.now_ns", Arguments: []any{}, Result: first.Response.Payload.Get("now").Interface()}}
	if diff := cmp.Diff(want, first.Lookups); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	known := []answer.Lookup{{Builtin: "time.now_ns", Arguments: []any{}, Result: json.Number("7")}}
	again := allocator.Repeat(t.Context(), request, known)
	if again.Response.Payload.Get("now").Interface() != json.Number("7") {
		t.Errorf("%+v", again)
	}
	for _, entry := range allocator.Explain(t.Context(), request, known).Entries {
		if value, ok := entry.Value.(map[string]any); entry.Name == "payload" && (!ok || value["now"] != json.Number("7")) {
			t.Errorf("explained as %v", entry.Value)
		}
	}
	// Rules that may look up nothing do not take what they are told.
	pure := provenanceAllocator(t, decider.RulesOptions{}, "g.rego", "package allocation.default\nhub := input.linkedHubs[0]")
	if a := pure.Repeat(t.Context(), request, known); a.Result != answer.Assigned || len(a.Lookups) > 0 {
		t.Errorf("%+v", a)
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	const individuals = "# METADATA\n# custom:\n#   individual_enrollments: [one]\npackage allocation.i\nhub := input.linkedHubs[0]"
	allocator := provenanceAllocator(t, decider.RulesOptions{}, "g.rego", provenanceRule, "i.rego", individuals,
		"d.rego", "package allocation.default\nhub := input.linkedHubs[0]\npayload := {\"tags\": input.enrollmentGroup.initialTwin.tags}\nhold contains \"x\" if object.get(input.deviceRuntimeContext, [\"tpm\", \"endorsementKey\"], \"\") == \"e\"",
		"e.rego", "# METADATA\n# custom:\n#   enrollment_groups: [elements]\npackage allocation.e\nhub := input.linkedHubs[0] if input.deviceRuntimeContext.payload.sensors[_].ok")
	group := func(id string) string {
		return `{"enrollmentGroup": {"enrollmentGroupId": "` + id + `"}, "deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["h"]}`
	}
	individual := func(id string) string {
		return `{"individualEnrollment": {"registrationId": "` + id + `"}, "deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["h"]}`
	}
	masked := []string{"/deviceRuntimeContext/payload", "/deviceRuntimeContext/tpm/endorsementKey", "/deviceRuntimeContext/payload/hub",
		"/deviceRuntimeContext/payload/model", "/deviceRuntimeContext/payload/sensors/0/ok", "/deviceRuntimeContext/payload/sensors/0/id",
		"/enrollmentGroup/initialTwin", "/individualEnrollment/registrationId"}
	for _, test := range []struct {
		body string
		want []string
	}{
		{group("g"), []string{"/deviceRuntimeContext/payload", "/deviceRuntimeContext/payload/hub"}},
		{group("other"), []string{"/deviceRuntimeContext/tpm/endorsementKey"}}, // the twin does not choose the hub
		{group("elements"), []string{"/deviceRuntimeContext/payload", "/deviceRuntimeContext/payload/sensors/0/ok"}},
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
