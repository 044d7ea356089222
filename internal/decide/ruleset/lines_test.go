package ruleset_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// gave lists the lines that an explanation says gave what the entry rules say.
func gave(t *testing.T, rule *ruleset.Rule, document map[string]any) []answer.Line {
	t.Helper()
	explained, err := explanation.Explain(t.Context(), rule, document, ruleset.Outside{})
	if err != nil || explained.CutShort != nil {
		t.Fatal(err, explained)
	}
	var lines []answer.Line
	for _, name := range ruleset.EntryNames() {
		i := slices.IndexFunc(explained.Entries, func(e explanation.Entry) bool { return e.Name == name })
		if i < 0 {
			continue
		}
		entry := explained.Entries[i]
		reasons, isSet := entry.Value.([]any)
		if !entry.Asked || entry.Value == nil || (name == "reject" || name == "hold") && (isSet && len(reasons) == 0 || entry.Value == false) {
			continue
		}
		for _, d := range entry.Definitions {
			if line := (answer.Line{Entry: name, Place: d.Place}); d.State == explanation.Gave && !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// On every starter rule and example the lines are those that an explanation names.
func TestLinesAreExplained(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, os.DirFS(shippedRules), ruleset.Options{Name: "rules"})
	paths, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(paths) < 20 {
		t.Fatal(paths, err)
	}
	served, noted := map[string]bool{}, 0
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		request, err := dps.ParseAllocationRequest(body)
		if err != nil {
			t.Fatal(err)
		}
		rule := rs.Serving(forGroup(request.Enrollment.ID))
		if request.Enrollment.Kind == dps.IndividualEnrollment {
			rule = rs.Serving(forIndividual(request.Enrollment.ID))
		}
		// Every rule is asked about every request, also those that it does not serve.
		for _, asked := range rs.Rules() {
			verdict, err := asked.Evaluate(t.Context(), request.Body(), ruleset.Outside{})
			if err != nil {
				continue
			}
			if want := gave(t, asked, request.Document()); !slices.Equal(want, verdict.Lines) {
				t.Errorf("%s, %s: noted %v, explained %v", path, asked.Package, verdict.Lines, want)
			}
			noted += len(verdict.Lines)
			served[asked.Package] = served[asked.Package] || asked == rule
		}
	}
	if noted < len(paths) || len(served) != len(rs.Rules()) {
		t.Errorf("%d lines of %d rules", noted, len(served))
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	const head = "# METADATA\n# custom:\n#   enrollment_groups: [g]\npackage allocation.a\n" // 4 lines
	for name, test := range map[string]struct {
		rules string
		input string
		want  []answer.Line
		// some is set where OPA looks at the first of several definitions alone.
		some bool
	}{
		"constant":          {`hub := "h"`, `{}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
		"default":           {"default hub := \"h\"\nhub := \"g\" if input.n > 1", `{"n":1}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
		"before default":    {"default hub := \"h\"\nhub := \"g\" if input.n > 1", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:6"}}, false},
		"else":              {"hub := \"h\" if input.n > 1\nelse := \"g\" if input.n == 1\nelse := \"f\"", `{"n":1}`, []answer.Line{{Entry: "hub", Place: "a.rego:6"}}, false},
		"last else":         {"hub := \"h\" if input.n > 1\nelse := \"g\" if input.n == 1\nelse := \"f\"", `{"n":0}`, []answer.Line{{Entry: "hub", Place: "a.rego:7"}}, false},
		"two that agree":    {"hub := x if x := input.h\nhub := y if y := lower(input.h)", `{"h":"h"}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}, {Entry: "hub", Place: "a.rego:6"}}, false},
		"early exit":        {"hub := \"h\" if input.n > 1\nhub := \"h\" if input.n > 0", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, true},
		"set":               {"hub := \"h\"\nreject contains \"x\" if input.n > 1\nreject contains \"y\" if input.n > 5\nreject contains z if some z in [\"z\", \"w\"]", `{"n":2}`, []answer.Line{{Entry: "reject", Place: "a.rego:6"}, {Entry: "reject", Place: "a.rego:8"}}, false},
		"empty set":         {"hub := \"h\"\nreject contains \"x\" if input.n > 2", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
		"hold":              {"hub := \"h\"\nhold contains \"x\" if input.n == 2", `{"n":2}`, []answer.Line{{Entry: "hold", Place: "a.rego:6"}, {Entry: "hub", Place: "a.rego:5"}}, false},
		"parts":             {"hub := \"h\"\npayload.a := 1\npayload.b := 2 if input.n > 2\ndefault payload.c := 3\npayload.c := 4 if input.n > 3", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}, {Entry: "payload", Place: "a.rego:6"}, {Entry: "payload", Place: "a.rego:8"}}, false},
		"partial object":    {"hub := \"h\"\npayload[k] := v if some k, v in input.tags\npayload.b := 2 if input.n > 2", `{"n":2,"tags":{"x":1,"y":2}}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}, {Entry: "payload", Place: "a.rego:6"}}, false},
		"referred to":       {"hub := \"h\" if input.n == 2\npayload := {\"hub\": hub}", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}, {Entry: "payload", Place: "a.rego:6"}}, false},
		"referred to first": {"hub := \"h\" if input.n == 2\nreject contains \"x\" if hub == \"g\"", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
		"negated":           {"hub := \"h\" if input.n == 2\nreject contains \"x\" if not hub", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
		"undefined twin":    {"hub := \"h\" if input.n == 2\ninitial_twin := {\"tags\": {\"n\": input.m}}", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
		"failed built-in":   {"hub := \"h\" if input.n == 2\ninitial_twin := {\"tags\": {\"n\": to_number(input.n)}}\npayload := {\"n\": to_number(input.h)}", `{"n":2,"h":"x"}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}, {Entry: "initial_twin", Place: "a.rego:6"}}, false},
		"by a helper":       {"hub := f(input.n)\nf(n) := \"h\" if n == 2\nf(n) := \"g\" if n != 2", `{"n":2}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
		"every":             {"hub := \"h\" if every x in input.tags { x > 0 }", `{"tags":{"x":1}}`, []answer.Line{{Entry: "hub", Place: "a.rego:5"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var input map[string]any
			decoder := json.NewDecoder(strings.NewReader(test.input))
			decoder.UseNumber()
			if err := decoder.Decode(&input); err != nil {
				t.Fatal(err)
			}
			for _, lazy := range []bool{true, false} {
				rs, err := ruleset.Load(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(head + test.rules)}}, ruleset.Options{Lazy: lazy})
				if err != nil {
					t.Fatal(err)
				}
				rule := rs.Serving(forGroup("g"))
				for range 2 { // what one evaluation notes is not of the next
					verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(input), ruleset.Outside{})
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(test.want, verdict.Lines); diff != "" {
						t.Errorf("lazy %t: -want +got:\n%s", lazy, diff)
					}
				}
				explained := gave(t, rule, input)
				for _, line := range test.want {
					if !slices.Contains(explained, line) {
						t.Errorf("%v is not explained: %v", line, explained)
					}
				}
				if !test.some && len(explained) != len(test.want) {
					t.Errorf("want %v, explained %v", test.want, explained)
				}
			}
		})
	}
}

// Behind the line of an entry rule are those of libraries that decided: in each branch only the one that held, and
// nothing that the rule negates or supposes.
func TestLinesOfLibraries(t *testing.T) {
	t.Parallel()
	const library = `package fleet

import data.dps

home := "h1" if startswith(dps.registration_id, "press-")
else := "h2"

refusals contains "old" if age > 9
refusals contains "far" if input.far
refusals contains reason if some reason in worn

worn contains "worn" if age > 99

default age := 1
age := input.age

allowed(model) if model == "x"
allowed(model) if model == "y"
`
	at := func(entry string, rows ...string) (lines []answer.Line) {
		for _, row := range rows {
			lines = append(lines, answer.Line{Entry: entry, Place: row})
		}
		return lines
	}
	for name, test := range map[string]struct {
		rule, input string
		want        []answer.Line
	}{
		"a value":                {"hub := fleet.home", `{"deviceRuntimeContext":{"registrationId":"press-1"}}`, at("hub", "a.rego:7", "fleet.rego:5")},
		"another branch":         {"hub := fleet.home", `{"deviceRuntimeContext":{"registrationId":"x"}}`, at("hub", "a.rego:7", "fleet.rego:6")},
		"by way of a helper":     {"hub := near\nnear := fleet.home", `{"deviceRuntimeContext":{"registrationId":"x"}}`, at("hub", "a.rego:7", "fleet.rego:6")},
		"reasons passed on":      {"reject contains r if some r in fleet.refusals", `{"age":100}`, at("reject", "a.rego:7", "fleet.rego:8", "fleet.rego:15", "fleet.rego:10", "fleet.rego:12")},
		"a default":              {"hub := \"h\"\npayload := {\"age\": fleet.age}", `{}`, append(at("hub", "a.rego:7"), at("payload", "a.rego:8", "fleet.rego:14")...)},
		"a function":             {"hub := \"h\" if fleet.allowed(input.model)", `{"model":"y"}`, at("hub", "a.rego:7", "fleet.rego:18")},
		"for each entry rule":    {"hub := fleet.home\npayload := {\"hub\": fleet.home}", `{"deviceRuntimeContext":{"registrationId":"x"}}`, append(at("hub", "a.rego:7", "fleet.rego:6"), at("payload", "a.rego:8", "fleet.rego:6")...)},
		"what is negated":        {"hub := \"h\" if not fleet.allowed(input.model)", `{"model":"z"}`, at("hub", "a.rego:7")},
		"what is supposed":       {"hub := h if h := fleet.home with input.deviceRuntimeContext.registrationId as \"press-1\"", `{}`, at("hub", "a.rego:7")},
		"what an other line saw": {"hub := \"h\"\nreject contains \"x\" if fleet.home == \"h3\"", `{"deviceRuntimeContext":{"registrationId":"x"}}`, at("hub", "a.rego:7")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shipped, err := os.ReadFile(filepath.Join(shippedRules, "lib/dps.rego"))
			if err != nil {
				t.Fatal(err)
			}
			for _, lazy := range []bool{true, false} {
				rs, err := ruleset.Load(t.Context(), fstest.MapFS{
					"dps.rego":   {Data: shipped},
					"fleet.rego": {Data: []byte(library)},
					"a.rego":     {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [g]\npackage allocation.a\nimport data.fleet\n\n" + test.rule)},
				}, ruleset.Options{Lazy: lazy})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, evaluate(t, rs.Serving(forGroup("g")), test.input).Lines); diff != "" {
					t.Errorf("lazy %t: -want +got:\n%s", lazy, diff)
				}
			}
		})
	}
}

// A definition that holds on a supposition has given nothing.
func TestLinesOfSuppositions(t *testing.T) {
	t.Parallel()
	rs, err := ruleset.Load(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(`# METADATA
# custom:
#   enrollment_groups: [g]
package allocation.a

hub := "h" if input.n == 1

hub := "g" if input.n == 2

payload := {"otherwise": other}

other := h if h := hub with input.n as 2
`)}}, ruleset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := rs.Serving(forGroup("g")).Evaluate(t.Context(), dps.ValueOf(map[string]any{"n": json.Number("1")}), ruleset.Outside{})
	if err != nil || verdict.Hub.Text() != "h" {
		t.Fatal(verdict, err)
	}
	if diff := cmp.Diff([]answer.Line{{Entry: "payload", Place: "a.rego:10"}}, verdict.Lines); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// No rule can note anything itself, however it writes the name.
func TestNotesAreNotForRules(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"usher.noted(1)", `usher["noted"](1)`, `data["usher noted"](1)`, "noted(1)"} {
		_, err := ruleset.Load(t.Context(), fstest.MapFS{"a.rego": {Data: []byte("package allocation.default\nhub := \"h\" if " + call)}}, ruleset.Options{})
		if err == nil {
			t.Errorf("%s compiles", call)
		}
	}
	text, err := ruleset.Capabilities(nil, ruleset.Options{})
	if err != nil || strings.Contains(string(text), "noted") {
		t.Error(err, string(text))
	}
}

// Packages that read rules can get them as they are written.
func TestWritten(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, os.DirFS(shippedRules), ruleset.Options{})
	loaded, err := rs.Rules()[0].Syntax()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := rs.Extend(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	noted := 0
	for name, module := range loaded.Compiler.Modules {
		for i, rule := range module.Rules {
			other := plain.Compiler.Modules[name].Rules[i]
			for rule != nil {
				if got, want := ruleset.Written(rule.Body), other.Body; !got.Equal(want) {
					t.Errorf("%s is read as\n%s\nand written as\n%s", rule.Location, got, want)
				}
				noted += len(rule.Body) - len(other.Body)
				rule, other = rule.Else, other.Else
			}
		}
	}
	if noted == 0 {
		t.Error("no definition notes that it holds")
	}
}
