package plan_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/plan"
)

// Registers are empty at every call, also when there are more of them than before.
func TestRegistersAreEmpty(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("package r\n\n")
	for n := range 30 {
		fmt.Fprintf(&text, "p%d contains x if {\n", n)
		for v := range 30 {
			fmt.Fprintf(&text, "\tv%d := input.x[%d]\n", v, v%3)
		}
		fmt.Fprintf(&text, "\tx := sum([v0")
		for v := range 29 {
			fmt.Fprintf(&text, ", v%d", v+1)
		}
		fmt.Fprintf(&text, "])\n}\n\np%d contains y if some y in p%d\n\n", n, n+1)
	}
	text.WriteString("p30 := {1 | input.last}\n")
	for n := range 60 {
		fmt.Fprintf(&text, "c%d := [v0, v1, v2, v3, v4, v5] if { [v0, v1, v2, v3, v4] = [1, 2, 3, 4, 5]; v5 := c%d }\n", n, n+1)
	}
	text.WriteString("c60 := input.last\n")
	defined := compile(t, text.String(), "data.r.c0")
	for _, input := range []string{`{"last": 1}`, `{}`, `{}`} {
		if got := len(run(t, defined, input).Bindings); got != strings.Count(input, "last") {
			t.Errorf("%s: %d results", input, got)
		}
	}
	program := compile(t, text.String(), "x = data.r.p0")
	for range 3 {
		for _, input := range []string{`{"x": [1, 2, 3], "last": true}`, `{"x": [1, 2]}`, `{}`, `{"x": [1, 2, 3]}`} {
			want := map[string]any{"x": []any{}}
			if strings.Contains(input, "3") {
				want["x"] = []any{json.Number("60")}
			}
			if strings.Contains(input, "last") {
				want["x"] = []any{json.Number("1"), json.Number("60")}
			}
			if diff := cmp.Diff([]map[string]any{want}, run(t, program, input).Bindings); diff != "" {
				t.Errorf("%s: %s", input, diff)
			}
		}
	}
}

func compile(t testing.TB, text, query string) *plan.Program {
	t.Helper()
	module, err := ast.ParseModuleWithOpts("r.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		t.Fatal(err)
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(map[string]*ast.Module{"r.rego": module}); compiler.Failed() {
		t.Fatal(compiler.Errors)
	}
	program, err := plan.Compile(t.Context(), compiler, ast.MustParseBody(query), plan.Options{Data: ast.NewObject()})
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func run(t testing.TB, program *plan.Program, input string) plan.Result {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(input))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}
	result, err := program.Run(plan.Evaluation{Input: dps.ValueOf(document), Context: topdown.BuiltinContext{
		Context: t.Context(), Metrics: metrics.NoOp(), Cache: builtins.Cache{}, Cancel: topdown.NewCancel(), Time: ast.NumberTerm("0")}})
	if err != nil {
		t.Fatal(err)
	}
	return result
}
