package dataflow_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// analyze reads the words of a rule of one line, for the package allocation.default.
func analyze(t *testing.T, rego string, more ...string) *dataflow.Analysis {
	t.Helper()
	fsys := fstest.MapFS{"default.rego": {Data: []byte("package allocation.default\n\n" + rego + "\n")}}
	for i := 0; i+1 < len(more); i += 2 {
		fsys[more[i]] = &fstest.MapFile{Data: []byte(more[i+1])}
	}
	set, err := ruleset.Load(t.Context(), fsys, ruleset.Options{Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	v, err := dataflow.Analyze(set.Serving(dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "any"}))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAnalysisReads(t *testing.T) {
	t.Parallel()
	const device = "/deviceRuntimeContext"
	for rego, want := range map[string][]string{
		`hub := input.linkedHubs[0]`:                                                                      {"/linkedHubs"},
		`hub := "a" if input.deviceRuntimeContext.payload.model == "x"`:                                   {device + "/payload/model"},
		"hub := \"a\" if {\n\tp := input.deviceRuntimeContext.payload\n\tp.model.kind == \"x\"\n}":        {device + "/payload", device + "/payload/model/kind"},
		"said := input.deviceRuntimeContext.payload\n\nhub := \"a\" if said.model == \"x\"":               {device + "/payload", device + "/payload/model"},
		`hub := object.get(input.deviceRuntimeContext, "currentIotHubHostName", "")`:                      {device + "/currentIotHubHostName"},
		`hub := object.get(input.deviceRuntimeContext, ["payload", "hub"], "")`:                           {device + "/payload/hub"},
		"hub := \"a\" if {\n\td := input.deviceRuntimeContext\n\tobject.get(d, \"x509\", {}) == d.tpm\n}": {device, device + "/tpm", device + "/x509"},
		`hub := json.marshal(input)`:                                                                      {""},
		`hub := "a" if count([x | some x in input.enrollmentGroup.iotHubs]) > 1`:                          {"/enrollmentGroup/iotHubs"},
		"f(x) := lower(x)\n\nhub := f(input.enrollmentGroup.etag)":                                        {"/enrollmentGroup/etag"},
		"unused := input.linkedHubs\n\nhub := \"a\"":                                                      nil,
		"reject contains \"x\" if input.deviceRuntimeContext.tpm":                                         {device + "/tpm"},
		"hub := \"a\" if {\n\tfalse\n} else := \"b\" if input.linkedHubs[1]":                              {"/linkedHubs"},
		"hub := \"a\" if every h in input.linkedHubs { h != \"b\" }":                                      {"/linkedHubs"},
		"hub := name if {\n\tname := lower(\"A\") with input as input.enrollmentGroup\n}":                 {"/enrollmentGroup"},
	} {
		v := analyze(t, rego)
		if diff := cmp.Diff(want, v.Reads); diff != "" {
			t.Errorf("%s\n-want +got:\n%s", rego, diff)
		}
	}
	v := analyze(t, `hub := "a" if input.deviceRuntimeContext.payload.model == "x"`)
	for place, want := range map[string]bool{
		device + "/payload": true, device + "/payload/model": true, device + "/payload/model/kind": true,
		device + "/payload/models": false, device + "/tpm": false, "/linkedHubs": false,
	} {
		if got := v.ReadsAt(place); got != want {
			t.Errorf("reads at %s: %t", place, got)
		}
	}
}

// Constants are found beside the place of the input that they are compared with, however many variables, rules,
// functions and data lie between.
func TestAnalysisBeside(t *testing.T) {
	t.Parallel()
	const id, payload = "/deviceRuntimeContext/registrationId", "/deviceRuntimeContext/payload"
	number := func(text string) any { return json.Number(text) }
	for _, c := range []struct {
		rego, place string
		value       any
		use         string
		more        []string
	}{
		{`hub := "a" if startswith(input.deviceRuntimeContext.registrationId, "press-")`, id, "press-", "startswith", nil},
		{`hub := "a" if startswith(lower(input.deviceRuntimeContext.registrationId), "press-")`, id, "press-", "startswith", nil},
		{"kinds := {\"-007\": 1}\n\nhub := \"a\" if {\n\tsome end, _ in kinds\n\tendswith(input.deviceRuntimeContext.registrationId, end)\n}", id, "-007", "endswith", nil},
		{`hub := "a" if input.deviceRuntimeContext.payload.level > 5`, payload + "/level", number("5"), "gt", nil},
		{`hub := "a" if input.deviceRuntimeContext.payload.model in {"x", "y"}`, payload + "/model", "y", "internal.member_2", nil},
		{`hub := {"DE": "contoso-eu"}[input.deviceRuntimeContext.payload.country]`, payload + "/country", "DE", "lookup", nil},
		{`hub := data.hubs[upper(input.deviceRuntimeContext.payload.country)]`, payload + "/country", "FI", "lookup", []string{"hubs/data.json", `{"FI": "contoso-north"}`}},
		{"said(name) := object.get(input.deviceRuntimeContext.payload, name, \"\")\n\nhub := said(\"city\")", payload, "city", "data.allocation[\"default\"].said", nil},
		{"linked := usher.linked(input.linkedHubs)\n\nhub := linked[\"contoso-eu\"]", "/linkedHubs", "contoso-eu", "lookup", nil},
		{`hub := "a" if regex.match("^p-[0-9]+$", input.deviceRuntimeContext.registrationId)`, id, "^p-[0-9]+$", "regex.match", nil},
		{`hub := split(input.deviceRuntimeContext.registrationId, "-")[0]`, id, "-", "split", nil},
	} {
		v := analyze(t, c.rego, c.more...)
		found := slices.ContainsFunc(v.At(c.place), func(l dataflow.Literal) bool {
			return l.Value == c.value && l.Use == c.use && l.Data == (c.more != nil)
		})
		if !found {
			t.Errorf("%s\nat %s: no %v by %s among %v", c.rego, c.place, c.value, c.use, v.At(c.place))
		}
	}
	v := analyze(t, "payload := {\"a\": 1}\n\nhub := \"contoso.azure-devices.net\"")
	if diff := cmp.Diff([]string{"contoso.azure-devices.net"}, v.Hubs); diff != "" {
		t.Errorf("hubs -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"hub", "payload"}, slices.Sorted(maps.Keys(v.Entries))); diff != "" {
		t.Errorf("entries -want +got:\n%s", diff)
	}
}
