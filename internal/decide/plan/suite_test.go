package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/plan"
)

var update = flag.Bool("update", false, "rewrite the list of the cases that topdown decides")

// The outcomes of a case; any other is a mistake.
const (
	same    = "the plan has the same result"
	unclear = "a built-in function fails"
	noPlan  = "there is no plan"
)

// decide runs a case of OPA's suite.
func decide(t *testing.T, c cases.TestCase) (outcome string) {
	t.Helper()
	for name, v := range c.Env {
		t.Setenv(name, v)
	}
	modules := map[string]*ast.Module{}
	for i, text := range c.Modules {
		name := fmt.Sprintf("test-%d.rego", i)
		module, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return noPlan
		}
		modules[name] = module
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(modules); compiler.Failed() {
		return noPlan
	}
	query, err := ast.ParseBody(c.Query)
	if err != nil {
		return noPlan
	}
	data := map[string]any{}
	if c.Data != nil {
		data = *c.Data
	}
	var dataValue any = data
	if err := util.RoundTrip(&dataValue); err != nil {
		t.Fatal(err)
	}
	program, err := plan.Compile(t.Context(), compiler, query, plan.Options{Data: ast.MustInterfaceToValue(dataValue)})
	if err != nil {
		return noPlan + ": " + err.Error()
	}
	e := plan.Evaluation{Context: topdown.BuiltinContext{Context: t.Context(), Cache: builtins.Cache{}, Cancel: topdown.NewCancel(), Seed: zeroes{}, Metrics: metrics.NoOp(), Time: ast.NumberTerm(json.Number("1700000000000000000")), Capabilities: ast.CapabilitiesForThisVersion()}}
	switch {
	case c.InputTerm != nil:
		e.Value = ast.MustParseTerm(*c.InputTerm).Value
	case c.Input != nil:
		var input any = *c.Input
		if err := util.RoundTrip(&input); err != nil {
			t.Fatal(err)
		}
		if object, ok := input.(map[string]any); ok {
			e.Input = dps.ValueOf(object)
		} else {
			e.Value = ast.MustInterfaceToValue(input)
		}
	}
	result, err := program.Run(e)
	if err != nil {
		if !errors.Is(err, plan.ErrUnclear) {
			t.Errorf("%v", err)
		}
		return unclear
	}
	if c.WantErrorCode != nil || c.WantError != nil {
		return fmt.Sprintf("no error, but %v", result.Bindings)
	}
	if c.WantResult != nil {
		want := *c.WantResult
		got := result.Bindings
		if !sameResult(want, got, c.SortBindings) {
			a, _ := json.Marshal(want)
			b, _ := json.Marshal(got)
			return fmt.Sprintf("want %.300s got %.300s", a, b)
		}
	} else if c.WantDefined != nil && *c.WantDefined != (len(result.Bindings) > 0) {
		return "defined"
	}
	return same
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

// sameResult compares results as OPA's own test does: without regard to order, and numbers by value.
func sameResult(want, got []map[string]any, sorted bool) bool {
	normal := func(list []map[string]any) *ast.Array {
		var terms []*ast.Term
		for _, one := range list {
			copied := map[string]any{}
			for name, v := range one {
				if l, ok := v.([]any); ok && sorted {
					v = slices.SortedFunc(slices.Values(l), util.Compare)
				}
				copied[name] = v
			}
			terms = append(terms, ast.NewTerm(ast.MustInterfaceToValue(copied)))
		}
		slices.SortFunc(terms, func(a, b *ast.Term) int { return a.Value.Compare(b.Value) })
		return ast.NewArray(terms...)
	}
	return normal(want).Compare(normal(got)) == 0
}

func suite(t *testing.T) []cases.TestCase {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/open-policy-agent/opa").Output()
	if err != nil {
		t.Fatal(err)
	}
	set, err := cases.Load(filepath.Join(strings.TrimSpace(string(out)), "v1/test/cases/testdata/v1"))
	if err != nil {
		t.Fatal(err)
	}
	return set.Sorted().Cases
}

// The file has the cases that topdown decides, with the reason.
const others = "testdata/topdown.txt"

// Every case of OPA's suite gets the same result by a plan, or is in the list. A case that ends in an error must end
// without a result that counts: topdown then decides, and its error is the one that the suite expects.
func TestSuite(t *testing.T) {
	known, err := os.ReadFile(others)
	if err != nil && !*update {
		t.Fatal(err)
	}
	var list []string
	planned := 0
	for _, c := range suite(t) {
		fails := c.WantErrorCode != nil || c.WantError != nil
		outcome := decide(t, c)
		switch {
		case outcome == same:
			planned++
		case fails && (outcome == unclear || strings.HasPrefix(outcome, noPlan)):
		case outcome == unclear, strings.HasPrefix(outcome, noPlan):
			list = append(list, c.Note+": "+outcome)
		default:
			t.Errorf("%s: %s", c.Note, outcome)
		}
	}
	got := strings.Join(list, "\n") + "\n"
	if *update {
		if err := os.WriteFile(others, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(known), got); diff != "" {
		t.Errorf("other cases than listed are decided by topdown (-listed +found), rewrite with -update:\n%s", diff)
	}
	if planned < 2100 {
		t.Errorf("only %d cases were decided by a plan", planned)
	}
}
