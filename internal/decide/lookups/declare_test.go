package lookups_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/usher-dps/usher/internal/decide/lookups"
)

func declare(text string) ([]*lookups.Declaration, []string) {
	declared, found := lookups.Declare("rules", []lookups.File{{Name: "factory/lookups.yaml", Text: []byte(text)}})
	var problems []string
	for _, p := range found {
		problems = append(problems, fmt.Sprintf("%s: %s (%s)", p.Place, p.Message, p.Fix))
	}
	return declared, problems
}

func TestDeclare(t *testing.T) {
	t.Parallel()
	declared, problems := declare(`# comment
device:
  description: The factory's record.
  key: serial
  case_sensitive: true
  row: &row
    type: object
    properties: {hub: {type: string}, tenant: {type: string}}
  on_fault: {stale: 1h}
  ttl: 5m
  negative_ttl: 0s
  timeout: 1s
  recordable: [hub]
  fixture: device_fixture.csv
blocked:
  row: *row
  on_fault: absent
`)
	if problems != nil {
		t.Fatal(problems)
	}
	want := []*lookups.Declaration{
		{Name: "blocked", Place: "rules/factory/lookups.yaml:15", Key: "key", OnFault: lookups.Absent,
			TTL: time.Minute, NegativeTTL: 10 * time.Second, Timeout: 500 * time.Millisecond},
		{Name: "device", Description: "The factory's record.", Place: "rules/factory/lookups.yaml:2", Key: "serial", CaseSensitive: true,
			OnFault: lookups.Stale, StaleFor: time.Hour, TTL: 5 * time.Minute, Timeout: time.Second, Recordable: []string{"hub"},
			Fixture: "factory/device_fixture.csv"},
	}
	if diff := cmp.Diff(want, declared, cmpopts.IgnoreFields(lookups.Declaration{}, "Row", "RowSchema")); diff != "" {
		t.Error(diff)
	}
	for _, d := range declared {
		if got := d.Members(); !slices.Equal(got, []string{"hub", "tenant"}) {
			t.Errorf("%s has %v", d.Name, got)
		}
		if d.Row.Validate(map[string]any{"hub": true}) == nil {
			t.Errorf("%s takes any row", d.Name)
		}
		if diff := cmp.Diff(map[string]any{"hub": "h"}, d.Declared(map[string]any{"hub": "h", "x": "y"})); diff != "" {
			t.Error(diff)
		}
	}
}

func TestWrongDeclarations(t *testing.T) {
	t.Parallel()
	const row = "row: {type: object, properties: {hub: {type: string}}}"
	for text, want := range map[string]string{
		"- device": "lookups.yaml:1: not a mapping (write a mapping",
		"device: {" + row + "}\ndevice: {" + row + "}":                     "lookups.yaml:2: mapping key \"device\" already defined at line 1",
		"device: {\n  row: [":                                              "lookups.yaml:",
		"device:":                                                          "lookups.yaml:1: look-up device says nothing about itself (at least row is needed",
		"device: {ttl: 1m}":                                                "lookups.yaml:1: look-up device has no row (describe",
		"Device: {" + row + "}":                                            `lookups.yaml:1: "Device" cannot be the name of a look-up (write it in lower case`,
		"a-b: {" + row + "}":                                               `"a-b" cannot be the name`,
		"hub: {" + row + "}":                                               "lookup.hub is built in",
		"device_query: {" + row + "}":                                      "a name cannot end in _query",
		"device_token_audience: {" + row + "}":                             "a name cannot end in _token_audience",
		"device:\n  " + row + "\n  on_falt: hold":                          "lookups.yaml:3: look-up device has no member on_falt (did you mean on_fault? The members are case_sensitive, description,",
		"device:\n  " + row + "\n  on_fault: wait":                         "lookups.yaml:3: on_fault of look-up device is none of hold, absent, {stale: 1h}",
		"device:\n  " + row + "\n  on_fault: stale":                        "is none of hold, absent, {stale: 1h}",
		"device:\n  " + row + "\n  on_fault: {stale: forever}":             "has a bound that is not a duration from 1s to 720h0m0s",
		"device:\n  " + row + "\n  ttl: 60":                                "lookups.yaml:3: ttl of look-up device is not a duration from 0s to 24h0m0s, such as 30s",
		"device:\n  " + row + "\n  timeout: 5s":                            "timeout of look-up device is not a duration from 10ms to 4s",
		"device:\n  " + row + "\n  recordable: hub":                        "recordable of look-up device is not a list",
		"device:\n  " + row + "\n  recordable: [hubb]":                     "look-up device makes hubb recordable, which is no member of its row (the members are hub)",
		"device:\n  " + row + "\n  fixture: ../device.csv":                 "is not the name of a fixture in this folder, such as device_fixture.csv",
		"device:\n  " + row + "\n  fixture: ../../device_fixture.csv":      "is not the name of a fixture",
		"device:\n  " + row + "\n  case_sensitive: perhaps":                "is neither true nor false",
		"device:\n  " + row + "\n  key: [a]":                               "key of look-up device is not a text",
		"device: {row: {type: string}}":                                    "does not say what members a row has",
		"device: {row: {type: object}}":                                    "does not say what members a row has",
		"device: {row: [a]}":                                               "is not a JSON Schema",
		"device: {row: {type: object, properties: {hub: {minLength: x}}}}": "is not a usable JSON Schema: /properties/hub/minLength",
		"device: {row: {$ref: 'http://example.com/row.json'}}":             "is not a usable JSON Schema",
	} {
		_, problems := declare(text)
		if !slices.ContainsFunc(problems, func(p string) bool {
			return strings.HasPrefix(p, "rules/factory/lookups.yaml") && strings.Contains(p, want)
		}) {
			t.Errorf("%s\ngot %q\nwant %s", text, problems, want)
		}
	}
	one := lookups.File{Name: "a/lookups.yaml", Text: []byte("device: {" + row + "}")}
	other := lookups.File{Name: "b/lookups.yaml", Text: one.Text}
	if _, found := lookups.Declare("rules", []lookups.File{one, other}); len(found) != 1 || !strings.Contains(found[0].Message, "declared twice, first at rules/a/lookups.yaml:1") {
		t.Errorf("got %v", found)
	}
}

// Names in the schema of a row that there are not are said once, in their own line, with the one that is meant.
func TestWrongNamesInRow(t *testing.T) {
	t.Parallel()
	const types = "The types are array, boolean, integer, null, number, object, string)"
	for text, want := range map[string]string{
		"required: [hub, batsch]":                        "lookups.yaml:5: row of look-up device requires batsch, which is not one of its properties (did you mean batch? The members are batch, hub, site)",
		"required:\n      - hub\n      - zzz":            "lookups.yaml:7: row of look-up device requires zzz, which is not one of its properties (the members are batch, hub, site)",
		"anyOf: [{required: [hub]}, {required: [bach]}]": "lookups.yaml:5: row of look-up device requires bach, which is not one of its properties (did you mean batch?",
		"title: x\n    then: {required: [Hub]}":          "lookups.yaml:6: row of look-up device requires Hub, which is not one of its properties (did you mean hub?",
		"required: [hub]\n    anyOf: [{required: [batch]}]\n    not: {properties: {x: {}}, required: [x]}": "",
	} {
		_, problems := declare("device:\n  row:\n    type: object\n    properties: {hub: {type: string}, batch: {type: integer}, site: {type: object, required: [any]}}\n    " + text)
		if want == "" && problems != nil || want != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0], "rules/factory/"+want)) {
			t.Errorf("%s\ngot  %q\nwant %s", text, problems, want)
		}
	}
	for name, meant := range map[string]string{"int": "integer", "Integer": "integer", "bool": "boolean", "text": "string", "strng": "string", "float": "number",
		"list": "array", "map": "object", "interger": "integer", "[string, int]": "integer", "[string, nul]": "null"} {
		bare := strings.TrimSuffix(strings.TrimPrefix(name, "[string, "), "]")
		want := fmt.Sprintf("rules/factory/lookups.yaml:6: row of look-up device has the type %s, which JSON Schema does not have (did you mean %s? %s", bare, meant, types)
		for _, place := range []string{"%s", "{type: array, items: {type: object, properties: {a: %s}}}", "{anyOf: [{type: string}, %s]}"} {
			text := fmt.Sprintf(place, "{type: "+name+"}")
			if _, problems := declare("device:\n  row:\n    type: object\n    required: [hub]\n    properties:\n      hub: " + text); len(problems) != 1 || problems[0] != want {
				t.Errorf("%s\ngot  %q\nwant %s", text, problems, want)
			}
		}
	}
	// An alias does not contain itself for ever.
	declare("device: {row: &a {type: object, properties: {x: *a}}}")
}

// Whatever the text, what is declared is usable, and what is not is a problem with a place.
func FuzzDeclare(f *testing.F) {
	f.Add("device: {row: {type: object, properties: {hub: {type: string}}}, on_fault: {stale: 1h}, fixture: a_fixture.csv}")
	f.Add("a: &a {row: {type: object, properties: {x: {}}}}\nb: *a")
	f.Fuzz(func(t *testing.T, text string) {
		declared, problems := lookups.Declare("rules", []lookups.File{{Name: "lookups.yaml", Text: []byte(text)}})
		for _, p := range problems {
			if !strings.HasPrefix(p.Place, "rules/lookups.yaml") || p.Message == "" {
				t.Errorf("problem %+v", p)
			}
		}
		for _, d := range declared {
			if len(problems) == 0 && (d.Row == nil || len(d.Members()) == 0 || d.Timeout <= 0) {
				t.Errorf("declared %+v", d)
			}
		}
	})
}
