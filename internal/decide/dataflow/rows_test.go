package dataflow_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/dataflow"
)

const declaredRows = `device:
  row:
    type: object
    required: [hub]
    properties:
      hub: {type: string}
      tenant: {type: string}
      lot: {type: integer}
      site: {type: object, properties: {hub: {type: string}}}
      tags: {type: array, items: {type: string}}
serial:
  case_sensitive: true
  row: {type: object, properties: {hub: {type: string}}}
`

const (
	rowOf = "lookup.device(input.deviceRuntimeContext.registrationId)"
	said  = "input.deviceRuntimeContext.payload"
)

// Of a row, a rule reads the members that it names, and all of it if it uses it as a whole. That it looks up reads
// whether there is a row.
func TestAnalysisReadsRows(t *testing.T) {
	t.Parallel()
	for rego, want := range map[string][]string{
		`hub := ` + rowOf + `.hub`:                                        {"", "/hub"},
		"hub := d.hub if {\n\td := " + rowOf + "\n\td.tenant == \"x\"\n}": {"", "/hub", "/tenant"},
		"row := " + rowOf + "\n\nhub := row.site.hub":                     {"", "/site/hub"},
		"f(x) := x.hub\n\nhub := f(" + rowOf + ")":                        {"", "/hub"},
		`hub := object.get(` + rowOf + `, "hub", "")`:                     {"", "/hub"},
		`hub := object.get(` + rowOf + `, ["site", "hub"], "")`:           {"", "/site/hub"},
		`reject contains "x" if not ` + rowOf:                             {""},
		"row := " + rowOf + "\n\nreject contains \"x\" if not row.lot":    {"", "/lot"},
		`hub := "a" if some tag in ` + rowOf + `.tags`:                    {"", "/tags/*"},
		`hub := "a" if "x" in ` + rowOf + `.tags`:                         {"", "/tags", "/tags/*"},
		`hub := "a" if json.marshal(` + rowOf + `) == "{}"`:               {"", "/*"},
		`hub := "a" if ` + rowOf + ` == lookup.device("a")`:               {"", "/*"},
		`hub := "a" if ` + rowOf + ` in [lookup.device("a")]`:             {"", "/*"},
		`hub := "a" if some member in ` + rowOf:                           {"", "/*"},
		"hub := \"a\"\npayload := " + rowOf:                               {"", "/*"},
		"hub := \"a\"\npayload := {\"row\": " + rowOf + "}":               {"", "/*"},
		`hub := json.filter(` + rowOf + `, ["hub"]).hub`:                  {"", "/*", "/hub"},
	} {
		v := analyze(t, rego, "lookups.yaml", declaredRows)
		var got []string
		for _, read := range v.Reads {
			if below, ok := strings.CutPrefix(read, dataflow.LookupPointer("device")); ok {
				got = append(got, below)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n-want +got:\n%s", rego, diff)
		}
		if !v.ReadsAt("/deviceRuntimeContext/registrationId") {
			t.Errorf("%s does not read the key", rego)
		}
	}
}

// Constants are found next to the member of the row that they are compared with, and not next to the key.
func TestAnalysisComparesRows(t *testing.T) {
	t.Parallel()
	for rego, place := range map[string]string{
		`hub := "a" if ` + rowOf + `.tenant == "contoso"`:                            "/lookups/device/tenant",
		"row := " + rowOf + "\n\nhub := \"a\" if row.tenant in {\"contoso\", \"b\"}": "/lookups/device/tenant",
		`hub := {"contoso": "a"}[` + rowOf + `.tenant]`:                              "/lookups/device/tenant",
		`hub := "a" if startswith(` + rowOf + `.site.hub, "contoso")`:                "/lookups/device/site/hub",
	} {
		v := analyze(t, rego, "lookups.yaml", declaredRows)
		if !slices.ContainsFunc(v.At(place), func(l dataflow.Literal) bool { return l.Value == "contoso" }) {
			t.Errorf("%s\ncompared: %v", rego, v.Compared)
		}
		if found := v.At("/deviceRuntimeContext/registrationId"); len(found) > 0 {
			t.Errorf("%s\ncompared with the key: %v", rego, found)
		}
	}
}

// What a row says is the operator's word. If the device wrote the key, it picked the row.
func TestAnalysisOfKeys(t *testing.T) {
	t.Parallel()
	for rego, want := range map[string]string{
		`hub := ` + rowOf + `.hub`:                                                                                                 "",
		`hub := lookup.device(` + said + `.serial).hub`:                                                                            "payload.serial",
		`hub := lookup.device(concat("-", ["a", ` + said + `.serial])).hub`:                                                        "payload.serial",
		"key := lower(" + said + ".serial)\n\nhub := lookup.device(key).hub":                                                       "payload.serial",
		"f(k) := lookup.device(k)\n\nhub := f(" + said + ".serial).hub":                                                            "payload.serial",
		`hub := [lookup.device(k).hub | some k in ` + said + `.serials][0]`:                                                        "payload.serials[_]",
		`hub := lookup.device(lookup.serial(` + said + `.serial).hub).hub`:                                                         "payload.serial",
		"hub := lookup.device(k).hub if {\n\tk := " + said + ".serial\n\tk == input.deviceRuntimeContext.registrationId\n}":        "",
		"hub := lookup.device(k).hub if {\n\tk := " + said + ".serial\n\tk in {\"a\", \"b\"}\n}":                                   "",
		"hub := d.hub if {\n\td := lookup.device(" + said + ".serial)\n\td.tenant == input.deviceRuntimeContext.registrationId\n}": "",
		"hub := d.hub if {\n\td := lookup.device(" + said + ".serial)\n\td.tenant == \"contoso\"\n}":                               "",
		"hub := d.hub if {\n\td := lookup.device(" + said + ".serial)\n\td.tenant == " + said + ".tenant\n}":                       "payload.serial",
	} {
		v := analyze(t, rego, "lookups.yaml", declaredRows)
		var got []string
		for _, word := range dataflow.Words(v.Entries["hub"]) {
			got = append(got, word.Name())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s\nwords %v, want %q", rego, got, want)
		}
	}
	v := analyze(t, `hub := `+rowOf+`.hub`+"\n\nreject contains \"x\" if lookup.serial(input.deviceRuntimeContext.registrationId).hub", "lookups.yaml", declaredRows)
	if len(v.Cases) != 1 || v.Cases[0].Lookup != "serial" {
		t.Errorf("cases %+v", v.Cases)
	}
	if len(v.Entries["hub"]) != 1 || !v.Entries["hub"][0].IsText() {
		t.Errorf("the hub of a row is not known to be a text: %+v", v.Entries["hub"])
	}
}
