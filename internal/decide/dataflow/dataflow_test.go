package dataflow_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
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
		`hub := input.linkedHubs[0]`:                                                                           {"/linkedHubs"},
		`hub := "a" if input.deviceRuntimeContext.payload.model == "x"`:                                        {device + "/payload/model"},
		"hub := \"a\" if {\n\tp := input.deviceRuntimeContext.payload\n\tp.model.kind == \"x\"\n}":             {device + "/payload", device + "/payload/model/kind"},
		"said := input.deviceRuntimeContext.payload\n\nhub := \"a\" if said.model == \"x\"":                    {device + "/payload/model"},
		"said := input.deviceRuntimeContext.payload\n\nhub := \"a\" if said":                                   {device + "/payload"},
		"hub := \"a\" if json.marshal(data.allocation[\"default\"].s) != \"\"\n\ns.e := input.enrollmentGroup": {"/enrollmentGroup"},
		`hub := object.get(input.deviceRuntimeContext, "currentIotHubHostName", "")`:                           {device + "/currentIotHubHostName"},
		`hub := object.get(input.deviceRuntimeContext, ["payload", "hub"], "")`:                                {device + "/payload/hub"},
		"hub := \"a\" if {\n\td := input.deviceRuntimeContext\n\tobject.get(d, \"x509\", {}) == d.tpm\n}":      {device, device + "/tpm", device + "/x509"},
		`hub := json.marshal(input)`: {""},
		`hub := "a" if count([x | some x in input.enrollmentGroup.iotHubs]) > 1`:          {"/enrollmentGroup/iotHubs/*"},
		"f(x) := lower(x)\n\nhub := f(input.enrollmentGroup.etag)":                        {"/enrollmentGroup/etag"},
		"unused := input.linkedHubs\n\nhub := \"a\"":                                      nil,
		"reject contains \"x\" if input.deviceRuntimeContext.tpm":                         {device + "/tpm"},
		"hub := \"a\" if {\n\tfalse\n} else := \"b\" if input.linkedHubs[1]":              {"/linkedHubs"},
		"hub := \"a\" if every h in input.linkedHubs { h != \"b\" }":                      {"/linkedHubs"},
		"hub := name if {\n\tname := lower(\"A\") with input as input.enrollmentGroup\n}": {"/enrollmentGroup"},
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

// library is a rule's import of rules/lib, and its file.
func library(t *testing.T, rego string) (string, string, string) {
	t.Helper()
	text, err := os.ReadFile("../../../rules/lib/dps.rego")
	if err != nil {
		t.Fatal(err)
	}
	return "import data.dps\n\n" + rego, "lib/dps.rego", string(text)
}

// Of the enrollment, a rule reads what the definitions of the library read, and no more.
func TestAnalysisReadsEnrollment(t *testing.T) {
	t.Parallel()
	for rego, want := range map[string][]string{
		`dps.attestation_type == "x509"`:                       {"/attestation/type"},
		`dps.iot_edge`:                                         {"/capabilities/iotEdge"},
		`not dps.iot_edge`:                                     {"/capabilities/iotEdge"},
		`dps.reprovision_policy == "never"`:                    {"/reprovisionPolicy/migrateDeviceData", "/reprovisionPolicy/updateHubAssignment"},
		`dps.enrollment.attestation.type == "x509"`:            {"/attestation/type"},
		`dps.enrollment.initialTwin.tags.line == "a"`:          {"/initialTwin/tags/line"},
		`startswith(dps.enrollment.provisioningStatus, "dis")`: {"/provisioningStatus"},
		`dps.enrollment`:                                       {""},
		`not dps.enrollment`:                                   {""},
		`count(dps.enrollment) > 5`:                            {""},
	} {
		rule, file, text := library(t, `reject contains "x" if `+rego)
		var all []string
		for _, kind := range []string{"/enrollmentGroup", "/individualEnrollment"} {
			for _, below := range want {
				all = append(all, kind+below)
			}
		}
		if diff := cmp.Diff(all, analyze(t, rule, file, text).Reads); diff != "" {
			t.Errorf("%s\n-want +got:\n%s", rego, diff)
		}
	}
}

// Of the payload, a rule reads the members that it names, however it names them, and no others. All of these rules read
// the payload as a whole too, to see whether it is an object.
func TestAnalysisReadsPayload(t *testing.T) {
	t.Parallel()
	const rows = `{"table": {"a": {"hub": "x", "model": "m"}}, "rows": [{"hub": "y", "model": "n"}], "path": ["firmware", "version"]}`
	for _, c := range []struct {
		want  string // below the payload
		rules []string
	}{
		{"/model", []string{ // which leads to a row of data; what is in the row is no part of the payload
			`hub := data.table[dps.payload.model].hub`,
			`hub := object.get(data.table, [dps.payload.model, "hub"], "x")`,
			`hub := json.filter(data.table, [dps.payload.model]).hub`,
			`hub := object.filter(data.table, [dps.payload.model])[_].hub`,
			`hub := object.union(data.table.a, {"model": dps.payload.model}).hub`,
			`hub := object.union_n([data.table.a, {"model": dps.payload.model}]).hub`,
			`hub := json.patch(data.table.a, [{"op": "add", "path": "x", "value": dps.payload.model}]).hub`,
			`hub := object.get({"model": dps.payload.model, "hub": "x"}, "hub", "")`,
			`hub := row.hub if {
				some row in data.rows
				row.model == dps.payload_string("model")
			}`,
			`row := found if {
				some found in data.rows
				found.model == dps.payload_string("model")
			}

			hub := row.hub`,
			`rows := [row | some row in data.rows; row.model == dps.payload.model]

			hub := rows[0].hub`,
			`rows := {row.model: row | some row in data.rows}

			hub := rows[dps.payload.model].hub`,
			`rows[dps.payload.model] := row if some row in data.rows

			hub := rows.n.hub`,
			`row(model) := found if {
				some found in data.rows
				found.model == model
			}

			hub := row(dps.payload.model).hub`,
			`row := max([found | some found in data.rows; found.model == dps.payload.model])

			hub := row.hub`,
			`hub := json.unmarshal(dps.payload.model).hub`,
			`hub := split(dps.payload.model, "-")[0]`,
		}},
		{"/firmware/version", []string{
			`hub := dps.payload.firmware.version`,
			`hub := dps.payload["firmware"]["version"]`,
			`hub := dps.payload_string(["firmware", "version"])`,
			`hub := object.get(dps.payload, ["firmware", "version"], "")`,
			`hub := object.get(dps.payload, data.path, "")`,
			`hub := json.filter(dps.payload, ["firmware/version"]).firmware.version`,
			`hub := json.remove(dps.payload, ["hub"]).firmware.version`,
			`hub := object.union({"firmware": {"version": "1"}}, dps.payload).firmware.version`,
			`hub := object.union_n([{"model": "1"}, dps.payload]).firmware.version`,
			`path := ["firmware", "version"]

			hub := dps.payload_string(path)`,
			`said(path) := object.get(dps.payload, path, "")

			hub := said(["firmware", "version"])`,
			`part(name) := dps.payload_string([name, "version"])

			hub := part("firmware")`,
			`hub := "a" if every path in [["firmware", "version"]] { dps.payload_string(path) }`,
			`hub := version if {
				{"firmware": {"version": version}} = dps.payload
			}`,
		}},
		{"/sensors/*/ok", []string{
			`hub := "a" if dps.payload.sensors[0].ok`,
			`hub := "a" if dps.payload.sensors[_].ok`,
			`hub := "a" if object.get(dps.payload, ["sensors", 0, "ok"], false)`,
			`hub := "a" if object.remove(dps.payload, ["x"]).sensors[_].ok`,
			`hub := "a" if {
				payload := input.deviceRuntimeContext.payload
				payload.sensors[1].ok
			}`,
		}},
	} {
		for _, rego := range c.rules {
			rule, file, text := library(t, rego)
			v := analyze(t, rule, file, text, "data.json", rows)
			below := slices.DeleteFunc(slices.Clone(v.Reads), func(read string) bool { return read == "/deviceRuntimeContext/payload" })
			if diff := cmp.Diff([]string{"/deviceRuntimeContext/payload" + c.want}, below); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", rego, diff)
			}
		}
	}
}

// The elements of an array are not members of the array, however the rule gets to them.
// That the library looks whether the payload is an object is not a read of all of it, if the rule reads members.
func TestAnalysisReadsWholePayload(t *testing.T) {
	t.Parallel()
	for rego, want := range map[string]bool{
		`hub := dps.payload.model`:                                                 false,
		`hub := dps.payload_string("model")`:                                       false,
		`hub := dps.payload_string([dps.enrollment_id, "m"])`:                      false, // but any member
		`reject contains "x" if not dps.payload.model`:                             false,
		"hub := dps.payload.model if count(dps.payload) > 1":                       true,
		"hub := dps.payload.model\npayload := dps.payload":                         true,
		"hub := \"a\" if dps.payload":                                              true,
		"hub := dps.payload.a if x\nx if input.deviceRuntimeContext.payload == {}": true,
	} {
		rule, file, text := library(t, rego)
		v := analyze(t, rule, file, text)
		if got := slices.Contains(v.Reads, "/deviceRuntimeContext/payload"); got != want {
			t.Errorf("%s reads %v", rego, v.Reads)
		}
	}
}

func TestAnalysisReadsElements(t *testing.T) {
	t.Parallel()
	const sensors = "/deviceRuntimeContext/payload/sensors"
	for rego, want := range map[string]string{
		`every s in dps.payload.sensors { s.ok }`:                                   "/*/ok",
		`every s in dps.payload.sensors { s == "x" }`:                               "/*",
		`some s in dps.payload.sensors; s.ok`:                                       "/*/ok",
		`some i, s in dps.payload.sensors; i > 2; s.ok`:                             "/*/ok",
		`some s in dps.payload.sensors; s == "x"`:                                   "/*",
		`"x" in dps.payload.sensors`:                                                "/*",
		`count([s | some s in dps.payload.sensors; s.ok]) > 1`:                      "/*/ok",
		`count({s.ok | some s in dps.payload.sensors}) > 1`:                         "/*/ok",
		`some s in object.get(dps.payload, "sensors", []); s.ok`:                    "/*/ok",
		`s := array.slice(dps.payload.sensors, 0, 2); s[0].ok`:                      "/*/ok",
		`some s in array.concat(dps.payload.sensors, []); s.ok`:                     "/*/ok",
		`sort(dps.payload.sensors)[0].ok`:                                           "/*/ok",
		`[first, _] := dps.payload.sensors; first.ok`:                               "/*/ok",
		`some s in dps.payload.sensors; some part in s.parts; part.name == "fan"`:   "/*/parts/*/name",
		`count(dps.payload.sensors) > 1`:                                            "",
		`input.deviceRuntimeContext.payload.sensors[_].ok == true`:                  "/*/ok",
		`some s in input.deviceRuntimeContext.payload.sensors; lower(s.ok) == "ok"`: "/*/ok",
	} {
		rule, file, text := library(t, "hub := \"a\" if { "+rego+" }")
		v := analyze(t, rule, file, text)
		if !slices.Contains(v.Reads, sensors+want) {
			t.Errorf("%s\nreads %v", rego, v.Reads)
		}
		for _, read := range v.Reads {
			below, ok := strings.CutPrefix(read, sensors)
			if ok && !strings.HasPrefix(want, below) {
				t.Errorf("%s\nreads %s", rego, read)
			}
		}
	}
	rule, file, text := library(t, `hub := "a" if dps.payload.sensors[_].kind in {"fan", "pump"}`)
	if v := analyze(t, rule, file, text); len(v.At(sensors+"/*/kind")) == 0 || len(v.At(sensors+"/0/kind")) == 0 {
		t.Errorf("compared: %v", v.Compared)
	}
}

func TestReadsAtElements(t *testing.T) {
	t.Parallel()
	const payload = "/deviceRuntimeContext/payload"
	v := analyze(t, `hub := "a" if input.deviceRuntimeContext.payload.sensors[_].ok`)
	for place, want := range map[string]bool{
		payload: true, payload + "/sensors": true, payload + "/sensors/*": true, payload + "/sensors/3": true,
		payload + "/sensors/3/ok": true, payload + "/sensors/3/ok/at": true, payload + "/sensors/3/kind": false,
		payload + "/model": false,
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
