package lint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// Whatever rule loads can be looked at, in a time that has an end; and each finding has a place in a file of the rule,
// a known lint, and words.
func FuzzRun(f *testing.F) {
	library, err := os.ReadFile(filepath.Join(shipped, "lib", "dps.rego"))
	if err != nil {
		f.Fatal(err)
	}
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		f.Fatalf("no archives: %v", err)
	}
	for _, name := range archives {
		for _, file := range readArchive(f, name).Files {
			if strings.HasSuffix(file.Name, ".rego") {
				f.Add(string(file.Data))
			}
		}
	}
	// What the compiler leaves in forms that are rare.
	for _, body := range []string{
		"hub := data[x][y][z] if some x, y, z",
		"hub := {k: v | some k; v := input[k]}[\"a\"]",
		"hub := x if [x, {\"a\": [y]}] = input.deviceRuntimeContext.payload",
		"f(x) := g(x)\ng([x, y]) := x if y\nhub := f(input.linkedHubs)",
		"payload[a][b] := c if some a, b, c in input",
		"hub := walk(input)[0][0]",
		"initial_twin.tags[x].y contains z if some x, z in input.linkedHubs",
		"hub := $\"{input.linkedHubs[0]}-x\"",
		"hub := a if { a := {1: 2}[1]; every k, v in input { v == k } }",
		"default f(_) := 1\nhub := f(1) with input as {\"a\": f(2)} with data.x as 3",
		"hub := input.linkedHubs[i][j] if { i := [0, \"x\"][_]; not j = 2 }",
		"hub := object.union({\"tags\": 1}, object.union_n([{}, input]))",
		"payload := {x: {x: x}} if some x in {{1}, [2], {\"3\": null}, 1e400}",
	} {
		f.Add("package allocation[\"default\"]\n\nimport data.dps\n\n" + body + "\n")
	}
	f.Fuzz(func(t *testing.T, module string) {
		fsys := fstest.MapFS{"x.rego": {Data: []byte(module)}, "lib/dps.rego": {Data: library},
			"table/data.json": {Data: []byte(`{"a": {"b": ["c", 1, null]}}`)}}
		rules, err := decider.LoadRules(t.Context(), fsys, decider.RulesOptions{})
		if err != nil {
			t.Skip()
		}
		start := time.Now()
		report, err := lint.Run(t.Context(), fsys, rules, lint.Options{Hubs: []string{"a"},
			Enrollments: []lint.Enrollment{{Enrollment: group("a"), File: "x.rego"}, {Enrollment: individual("b"), Attestation: "tpm", File: "x.rego"}}})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %v", took)
		}
		for _, finding := range report.Findings {
			if _, known := lint.Find(finding.Lint); !known || finding.File != "x.rego" || finding.Line < 1 || finding.Message == "" || finding.Fix == "" {
				t.Errorf("%+v", finding)
			}
		}
	})
}

// A value that doubles with each line does not double the work.
func TestRunHasAnEnd(t *testing.T) {
	t.Parallel()
	library, err := os.ReadFile(filepath.Join(shipped, "lib", "dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	for name, next := range map[string]string{
		"objects":        `{"a": X, "b": X}`,
		"lists":          `[X, X]`,
		"unions":         `object.union({"a": X}, {"b": {"a": X, "b": X}})`,
		"calls":          `f(X, X)`,
		"comprehensions": `[[a, b] | some a in [X, 1]; some b in [X, 2]]`,
		"look-ups":       `[a[b] | some a in [X, {1: 2}]; some b in [X, 1]]`,
		"keys":           `{a: b | some a in [X, "k"]; some b in [X, 1]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			module := "package allocation[\"default\"]\n\nimport data.dps\n\nf(a, b) := {\"a\": [a, b], \"b\": {a, b}}\n\nx0 := dps.payload\n\n"
			for i := range 40 {
				module += fmt.Sprintf("x%d := %s\n\n", i+1, strings.ReplaceAll(next, "X", fmt.Sprintf("x%d", i)))
			}
			// No request that is made up has a number there, so that nobody computes x40.
			module += "reject contains \"x\" if {\n\tdps.payload.never == 4711\n\tx40 != 1\n}\n\nhub := dps.spread(input.linkedHubs)\n"
			start := time.Now()
			report := run(t, fstest.MapFS{"x.rego": {Data: []byte(module)}, "lib/dps.rego": {Data: library}}, lint.Options{})
			if took := time.Since(start); took > 2*time.Minute { // it takes a second; without bounds, longer than anybody waits
				t.Errorf("took %v", took)
			}
			for _, finding := range report.Findings {
				if finding.Level == lint.Error {
					t.Errorf("%+v", finding)
				}
			}
		})
	}
}
