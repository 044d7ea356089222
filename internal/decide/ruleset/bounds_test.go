package ruleset_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Topdown, too, ends a rule that makes much of little, with the line: if it evaluates all rules, and if it decides because
// a built-in function failed in the plan.
func TestBoundsOfTopdown(t *testing.T) {
	times8 := func(line string, times int, end string) string {
		var text strings.Builder
		fmt.Fprintf(&text, "a0 := [concat(\"\", [\"x\" | some i in numbers.range(1, 100)])]\n")
		for n := 1; n <= times; n++ {
			text.WriteString(strings.NewReplacer("NEW", fmt.Sprintf("a%d", n), "OLD", fmt.Sprintf("a%d", n-1)).Replace(line) + "\n")
		}
		return text.String() + end
	}
	const nested = "NEW := [OLD, OLD, OLD, OLD, OLD, OLD, OLD, OLD]"
	for name, test := range map[string]struct {
		text string
		line int // of the end; 0 for any
	}{
		"texts that are joined": {times8("NEW := [concat(\"\", array.concat(array.concat(array.concat(OLD, OLD), array.concat(OLD, OLD)), array.concat(array.concat(OLD, OLD), array.concat(OLD, OLD))))]", 9, "payload := a9"), 0},
		"a range":               {`payload := numbers.range(1, 1000000000)`, 8},
		"a comprehension":       {`payload := count([[i, j] | some i in numbers.range(1, 10000); some j in numbers.range(1, 10000)])`, 8},
		"a partial set":         {"all contains sprintf(\"%d-%d\", [i, j]) if {\n\tsome i in numbers.range(1, 10000)\n\tsome j in numbers.range(1, 10000)\n}\n\npayload := count(all)", 0},
		"an object":             {`payload := count({i: [j | some j in numbers.range(1, 10000)] | some i in numbers.range(1, 10000)})`, 8},
		"literals":              {`payload := count([[i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, {"i": i, "j": [i]}] | some i in numbers.range(1, 100000)])`, 8},
		"a replacement":         {"a := concat(\"\", [\"x\" | some i in numbers.range(1, 20000)])\npayload := replace(a, \"x\", a)", 9},
		"a pattern":             {"a := concat(\"\", [\"x\" | some i in numbers.range(1, 20000)])\npayload := regex.replace(a, \"x\", a)", 9},
		"addresses":             {`payload := net.cidr_expand("10.0.0.0/8")`, 8},
		"products":              {times8("NEW := [OLD[0] * OLD[0] * OLD[0] * OLD[0] * OLD[0] * OLD[0] * OLD[0] * OLD[0]]", 9, "payload := a9[0]"), 0},
		"JSON":                  {times8(nested, 12, `payload := json.marshal(a12)`), 21},
		"YAML":                  {times8(nested, 12, `payload := yaml.marshal(a12)`), 21},
		"the answer":            {times8(nested, 12, `payload := a12`), -1},
		"arrays":                {times8("NEW := array.concat(array.concat(array.concat(OLD, OLD), array.concat(OLD, OLD)), array.concat(array.concat(OLD, OLD), array.concat(OLD, OLD)))", 12, "payload := count(a12)"), 0},
		"paths":                 {times8(nested, 12, `payload := count([path | walk(a12, [path, _])])`), 21},
		"a template":            {times8(nested, 12, `payload := $"{a12}"`), 21},
		"a function of a rule":  {"f(n) := numbers.range(1, n)\npayload := f(1000000000)", 8},
		"a replaced function":   {"payload := x if {\n\tx := p with input as {}\n}\n\np := numbers.range(1, 1000000000)", 12},
	} {
		if name == "products" {
			test.text = strings.Replace(test.text, "a0 := [concat(\"\", [\"x\" | some i in numbers.range(1, 100)])]", "a0 := [99999999999999999999]", 1)
		}
		for _, evaluator := range []ruleset.Evaluator{ruleset.ByTopdown, ruleset.ByPlan} {
			// Not in parallel: what other tests make at the same time would count.
			t.Run(name+" "+string(evaluator), func(t *testing.T) {
				count := &ruleset.Evaluations{}
				files := folder("a.rego", serving("allocation.a", "g", "hub := \"h\" if not to_number(input.id) < 0\n\n"+test.text))
				rule := mustLoad(t, files, ruleset.Options{Name: "rules", Memory: 8 << 20, Evaluator: evaluator, Evaluations: count}).Serving(forGroup("g"))
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(map[string]any{"id": "press"}), ruleset.Outside{})
				runtime.ReadMemStats(&after)
				if !errors.Is(err, ruleset.ErrTooLarge) || count.ByTopdown.Load() != 1 {
					t.Fatalf("verdict %+v, error %v, %d by topdown", verdict, err, count.ByTopdown.Load())
				}
				place := "rules/a.rego:"
				if test.line > 0 {
					place += fmt.Sprint(test.line)
				}
				if failed, _ := errors.AsType[*ruleset.EvalError](err); !strings.HasPrefix(failed.Place, place) && test.line >= 0 {
					t.Errorf("at %q, want %s: %v", failed.Place, place, err)
				}
				if made := after.TotalAlloc - before.TotalAlloc; made > 1<<30 {
					t.Errorf("made %d MiB", made>>20)
				}
				if grown := int64(after.Sys) - int64(before.Sys); grown > 150<<20 {
					t.Errorf("took %d MiB of the system", grown>>20)
				}
			})
		}
	}
}
