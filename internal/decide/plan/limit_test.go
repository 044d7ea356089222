package plan_test

import (
	"encoding/json"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/plan"
)

// Rules that make much of little end with the line, and before they have made it.
func TestLimits(t *testing.T) {
	for name, body := range map[string]string{
		"texts that are joined": `
	a := concat("", [input.s, input.s, input.s, input.s, input.s, input.s, input.s, input.s])
	b := concat("", [a, a, a, a, a, a, a, a])
	c := concat("", [b, b, b, b, b, b, b, b])
	d := concat("", [c, c, c, c, c, c, c, c])
	e := concat("", [d, d, d, d, d, d, d, d])
	f := concat("", [e, e, e, e, e, e, e, e])
	x := concat("", [f, f, f, f, f, f, f, f])`,
		"a range":               `x := numbers.range(1, 1000000000)`,
		"a range in steps":      `x := numbers.range_step(1, 1000000000, 2)`,
		"a range backwards":     `x := numbers.range(0, -1000000000)`,
		"a comprehension":       `x := [[i, j] | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000)]`,
		"a set":                 `x := {sprintf("%d-%d", [i, j]) | some i in numbers.range(1, 10000); some j in numbers.range(1, 10000)}`,
		"an object":             `x := {sprintf("%d-%d", [i, j]): 1 | some i in numbers.range(1, 10000); some j in numbers.range(1, 10000)}`,
		"a width":               `x := sprintf("%999999999d", [1])`,
		"a precision":           `x := sprintf("%.999999999f", [1.5])`,
		"a replacement":         "a := concat(\"\", [\"x\" | some i in numbers.range(1, 20000)])\n\tx := replace(a, \"x\", a)",
		"replacements":          "a := concat(\"\", [\"x\" | some i in numbers.range(1, 20000)])\n\tx := strings.replace_n({\"x\": a}, a)",
		"a pattern":             "a := concat(\"\", [\"x\" | some i in numbers.range(1, 20000)])\n\tx := regex.replace(a, \"x\", a)",
		"a text that is split":  "a := sprintf(\"%9000000d\", [1])\n\tx := split(a, \"\")",
		"addresses":             `x := net.cidr_expand("10.0.0.0/8")`,
		"addresses of IPv6":     `x := net.cidr_expand("fe80::/64")`,
		"arrays of each other":  doubling("a%d := [a%d, a%d, a%d, a%d, a%d, a%d, a%d, a%d]", 12, "x := json.marshal(a12)"),
		"YAML":                  doubling("a%d := [a%d, a%d, a%d, a%d, a%d, a%d, a%d, a%d]", 12, "x := yaml.marshal(a12)"),
		"the answer":            doubling("a%d := [a%d, a%d, a%d, a%d, a%d, a%d, a%d, a%d]", 12, "x := a12"),
		"the answer of objects": doubling(`a%d := {"a": a%d, "b": a%d, "c": a%d, "d": a%d, "e": a%d, "f": a%d, "g": a%d, "h": a%d}`, 12, "x := a12"),
		"the arguments":         doubling("a%d := [a%d, a%d, a%d, a%d, a%d, a%d, a%d, a%d]", 12, `x := sprintf("%v", [a12])`),
		"arrays":                doubling("a%d := array.concat(array.concat(array.concat(a%d, a%d), array.concat(a%d, a%d)), array.concat(array.concat(a%d, a%d), array.concat(a%d, a%d)))", 12, "x := a12"),
		"paths":                 doubling("a%d := [a%d, a%d, a%d, a%d, a%d, a%d, a%d, a%d]", 12, "x := [path | walk(a12, [path, _])]"),
		"a number":              doubling("a%d := a%d * a%d * a%d * a%d * a%d * a%d * a%d * a%d", 9, "x := a9"),
	} {
		t.Run(name, func(t *testing.T) {
			first := "[input.s]"
			if name == "a number" {
				first = "99999999999999999999"
			}
			module, err := ast.ParseModuleWithOpts("bomb.rego", "package r\n\np := x if {\n\ta0 := "+first+"\n\t"+body+"\n}\n", ast.ParserOptions{RegoVersion: ast.RegoV1})
			if err != nil {
				t.Fatal(err)
			}
			compiler := ast.NewCompiler()
			if compiler.Compile(map[string]*ast.Module{"bomb.rego": module}); compiler.Failed() {
				t.Fatal(compiler.Errors)
			}
			program, err := plan.Compile(t.Context(), compiler, ast.MustParseBody("x = data.r.p"), plan.Options{Data: ast.NewObject()})
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = program.Run(plan.Evaluation{Input: dps.ValueOf(map[string]any{"s": strings.Repeat("s", 1000)}), MaxBytes: 16 << 20, Context: topdown.BuiltinContext{
				Context: t.Context(), Metrics: metrics.NoOp(), Cache: builtins.Cache{}, Cancel: topdown.NewCancel()}})
			runtime.ReadMemStats(&after)
			exceeded, ok := errors.AsType[*plan.LimitError](err)
			if !ok || exceeded.What != plan.Bytes || exceeded.Error() != "the rule made values of more than 16 MiB" {
				t.Fatalf("got %v", err)
			}
			if !strings.HasPrefix(exceeded.Place, "bomb.rego:") && !strings.HasPrefix(name, "the answer") {
				t.Errorf("at %q", exceeded.Place)
			}
			if made := after.TotalAlloc - before.TotalAlloc; made > 200<<20 {
				t.Errorf("made %d MiB", made>>20)
			}
		})
	}
}

// Rules that take too many steps end with the line at which the innermost loop or function begins.
func TestSteps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		line string
	}{
		"a comprehension": {"p := count(\n\t[1 |\n\tsome i in input.list\n\tsome j in input.list\n\ti == j\n\t\"x\" in input.list\n])", ":6"},
		"every":           {"p if {\n\tevery i in input.list {\n\t\tevery j in input.list {\n\t\t\ti + j >= 0\n\t\t}\n\t}\n}", ":5"},
		"a function":      {"f(i, j) if {\n\ti != j\n\ti + j < 0\n}\n\np if {\n\tsome i in input.list\n\tsome j in input.list\n\tf(i, j)\n}", ":3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := compile(t, "package r\n\n"+test.text+"\n", "x = data.r.p")
			list := make([]any, 200)
			for i := range list {
				list[i] = json.Number(strconv.Itoa(i))
			}
			run := func(steps int) error {
				_, err := program.Run(plan.Evaluation{Input: dps.ValueOf(map[string]any{"list": list}), MaxSteps: steps, Context: topdown.BuiltinContext{
					Context: t.Context(), Metrics: metrics.NoOp(), Cache: builtins.Cache{}, Cancel: topdown.NewCancel()}})
				return err
			}
			exceeded, ok := errors.AsType[*plan.LimitError](run(20_000))
			if !ok || exceeded.What != plan.Steps || exceeded.Error() != "the rule took more than 20000 steps" || !strings.HasSuffix(exceeded.Place, test.line) {
				t.Errorf("got %v at %q", exceeded, exceeded.Place)
			}
			if err := run(10_000_000); err != nil {
				t.Errorf("with enough steps: %v", err)
			}
		})
	}
}

// Evaluations that run at the same time share a budget, and give back what they took.
func TestBudget(t *testing.T) {
	t.Parallel()
	program := compile(t, "package r\n\nhuge := concat(\"\", [s | some i in numbers.range(1, 100000); s := \"0123456789\"])\n\nlarge := concat(\"\", [s | some i in numbers.range(1, 5000); s := \"0123456789\"])\n\np := huge if input.huge\n\np := large if not input.huge\n", "x = data.r.p")
	budget := plan.NewBudget(3 << 20)
	for range 3 {
		for _, huge := range []bool{true, false} {
			_, err := program.Run(plan.Evaluation{Input: dps.ValueOf(map[string]any{"huge": huge}), MaxBytes: 1 << 30, Budget: budget, Context: topdown.BuiltinContext{
				Context: t.Context(), Metrics: metrics.NoOp(), Cache: builtins.Cache{}, Cancel: topdown.NewCancel()}})
			exceeded, ok := errors.AsType[*plan.LimitError](err)
			if ok != huge || ok && exceeded.Error() != "the rules that ran at the same time made values of more than 3 MiB" {
				t.Errorf("huge %v: %v", huge, err)
			}
		}
	}
}

// doubling repeats a line that makes one value of several of the value before.
func doubling(line string, times int, end string) string {
	var text strings.Builder
	for n := range times {
		words := strings.Split(line, "a%d")
		for i, word := range words {
			text.WriteString(word)
			if i < len(words)-1 {
				number := n
				if i == 0 {
					number = n + 1
				}
				text.WriteString("a" + string(rune('0'+number/10)) + string(rune('0'+number%10)))
			}
		}
		text.WriteString("\n\t")
	}
	return strings.NewReplacer("a00", "a0", "a01", "a1", "a02", "a2", "a03", "a3", "a04", "a4", "a05", "a5", "a06", "a6", "a07", "a7", "a08", "a8", "a09", "a9").Replace(text.String()) + end
}
