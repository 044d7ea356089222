package ruleset_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// If a function of the library fails because of what a rule passes to it, the line of the rule is named, before that of
// the library.
func TestLinesThatFailInTheLibrary(t *testing.T) {
	t.Parallel()
	library, err := os.ReadFile(filepath.Join(shippedRules, "lib/dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	const choose = "dps.rego:113"
	for name, test := range map[string]struct {
		rules   string
		want    []string
		problem string
	}{
		"a negative weight":    {"hub := dps.weighted({\"a\": -1, \"b\": 2})", []string{"a.rego:8", choose}, ""},
		"in a body":            {"hub := h if {\n\tinput.n == 1\n\th := dps.weighted({\"a\": -1})\n}", []string{"a.rego:10", choose}, ""},
		"by way of a helper":   {"hub := drawn\n\ndrawn := dps.weighted(weights)\n\nweights := {\"a\": -1}", []string{"a.rego:10", choose}, ""},
		"by way of a package":  {"hub := data.fleet.home", []string{"fleet.rego:5", choose}, ""},
		"from two lines":       {"hub := dps.weighted({\"a\": -1})\n\npayload := {\"h\": dps.weighted({\"a\": -2})}", []string{"a.rego:8", "a.rego:10", choose}, ""},
		"outside the library":  {"hub := h if h := to_number(input.t)", []string{"a.rego:8"}, ""},
		"in reject":            {"reject contains \"x\" if dps.weighted({\"a\": -1})", []string{"a.rego:8", choose}, "reject is unknown: a built-in function failed at a.rego:8"},
		"nothing that failed":  {"hub := dps.weighted({\"a\": 1})", nil, ""},
		"what does not matter": {"hub := \"a.azure-devices.net\" if not dps.weighted({\"a\": -1})", []string{"a.rego:8", choose}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, lazy := range []bool{true, false} {
				rs, err := ruleset.Load(t.Context(), fstest.MapFS{
					"dps.rego":   {Data: library},
					"fleet.rego": {Data: []byte("package fleet\n\nimport data.dps\n\nhome := dps.weighted({\"a\": -1})\n")},
					"a.rego":     {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [g]\npackage allocation.a\n\nimport data.dps\n\n" + test.rules)},
				}, ruleset.Options{Lazy: lazy})
				if err != nil {
					t.Fatal(err)
				}
				verdict, err := rs.Serving(forGroup("g")).Evaluate(t.Context(), dps.ValueOf(map[string]any{
					"n": json.Number("1"), "t": "x", "linkedHubs": []any{"a.azure-devices.net"},
					"deviceRuntimeContext": map[string]any{"registrationId": "d"},
				}), ruleset.Outside{})
				problem := ""
				if err != nil {
					problem = err.Error()
				}
				if diff := cmp.Diff(test.want, verdict.BuiltinErrors); diff != "" || problem != test.problem {
					t.Errorf("lazy %t: %q; -want +got:\n%s", lazy, problem, diff)
				}
			}
		})
	}
}

// A percentage that is not a number is noted with the line that passed it; the device is then not among it.
func TestPercentagesThatAreNotNumbers(t *testing.T) {
	t.Parallel()
	library, err := os.ReadFile(filepath.Join(shippedRules, "lib/dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	for percent, fails := range map[string]bool{`"10"`: true, `"100"`: true, "[100]": true, "true": true, "{}": true, "100": false, "0": false, "0.5": false} {
		rs, err := ruleset.Load(t.Context(), fstest.MapFS{
			"dps.rego":       {Data: library},
			"move/data.json": {Data: []byte(`{"percent": ` + percent + `}`)},
			"a.rego": {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [g]\npackage allocation.a\n\nimport data.dps\n\n" +
				"hub := \"new\" if dps.in_percentage(\"s\", data.move.percent)\n\nelse := \"old\"\n")},
		}, ruleset.Options{})
		if err != nil {
			t.Fatal(err)
		}
		verdict, err := rs.Serving(forGroup("g")).Evaluate(t.Context(), dps.ValueOf(map[string]any{"deviceRuntimeContext": map[string]any{"registrationId": "d"}}), ruleset.Outside{})
		if err != nil {
			t.Fatal(err)
		}
		noted := len(verdict.BuiltinErrors) == 2 && verdict.BuiltinErrors[0] == "a.rego:8"
		if noted != fails || fails && verdict.Hub.Text() != "old" {
			t.Errorf("%s: %v, noted at %v", percent, verdict.Hub.Text(), verdict.BuiltinErrors)
		}
	}
}
