package plan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/plan"
)

// writer writes random Rego. What it writes need not compile: those rules are skipped.
type writer struct {
	*rand.Rand
	rules []string // names of the rules before, which the next one may refer to
	vars  []string // in scope
	depth int
}

func (w *writer) pick(list ...string) string { return list[w.IntN(len(list))] }

// number, str and collection write values of which the compiler knows the type, or nothing.
func (w *writer) number() string {
	if w.depth++; w.depth > 8 {
		return "1"
	}
	defer func() { w.depth-- }()
	switch w.IntN(7) {
	case 0, 1:
		return w.pick("0", "1", "2", "1.0", "-3", "1e2")
	case 2, 3:
		return w.pick("input.n", "input.n", "data.numbers[1]", "input.x")
	case 4:
		return "count(" + w.collection() + ")"
	case 5:
		return w.pick("abs", "floor") + "(" + w.number() + ")"
	default:
		return "(" + w.number() + w.pick(" + ", " - ", " * ") + w.number() + ")"
	}
}

func (w *writer) str() string {
	if w.depth++; w.depth > 8 {
		return `"a"`
	}
	defer func() { w.depth-- }()
	switch w.IntN(6) {
	case 0, 1:
		return w.pick(`"a"`, `"b"`, `"c"`, `""`, `"ä"`)
	case 2, 3:
		return w.pick("input.s", "data.table.a.hub", "input.s", "input.x")
	case 4:
		return w.pick("upper", "lower", "trim_space") + "(" + w.str() + ")"
	default:
		return `concat("-", [` + w.str() + ", " + w.str() + "])"
	}
}

func (w *writer) collection() string {
	if w.depth++; w.depth > 4 {
		return "input.list"
	}
	defer func() { w.depth-- }()
	switch w.IntN(9) {
	case 0, 1, 2:
		return w.pick("input.list", "input.deep", "data.table", "data.list", "input")
	case 3:
		return "[" + w.term() + ", " + w.term() + "]"
	case 4:
		return "{" + w.str() + ": " + w.term() + "}"
	case 5:
		return "{" + w.term() + ", " + w.term() + "}"
	case 6:
		return "[" + w.scoped(func() string { return w.body(2) }, func() string { return w.term() })
	case 7:
		return "{" + w.scoped(func() string { return w.body(2) }, func() string { return w.term() }, "}")
	default:
		return "{" + w.scopedPair() + "}"
	}
}

// unknown writes a value of which the compiler does not know the type.
func (w *writer) unknown() string {
	return w.pick("input.x", "input.y", "input.s", "input.list[0]", "input.deep.a.b", "input.missing", "input.deep[input.s]", "input.list[input.n]")
}

func (w *writer) term() string {
	if w.depth++; w.depth > 6 {
		return w.unknown()
	}
	defer func() { w.depth-- }()
	switch w.IntN(16) {
	case 0, 1:
		return w.number()
	case 2, 3:
		return w.str()
	case 4, 5:
		return w.collection()
	case 6:
		return w.pick("true", "false", "null", "[]", "{}", "set()")
	case 7, 8:
		if len(w.vars) > 0 {
			return w.pick(w.vars...)
		}
		return w.unknown()
	case 9, 10:
		if len(w.rules) > 0 {
			return w.pick(w.rules...)
		}
		return w.unknown()
	case 11:
		return "f(" + w.unknown() + ")"
	case 12:
		return "g(" + w.unknown() + ", " + w.unknown() + ")"
	case 13:
		return "data.table[" + w.str() + "]"
	case 14:
		object := func() string {
			return w.pick("input.deep", "data.table", "{"+w.str()+": "+w.term()+"}", "{1: "+w.unknown()+"}", "input.y")
		}
		switch w.IntN(3) {
		case 0:
			return "object.union(" + object() + ", " + object() + ")"
		case 1:
			return "json.remove(" + object() + ", [" + w.pick(`"a/b"`, `"a"`, `"/a/hub"`, `"b/n"`, `"a~1b"`, `"a/b/0"`, `""`, `["a", "b"]`) + ", " + w.pick(`"a/"`, `"c"`, `"//b"`, "input.s") + "])"
		}
		return `object.get(input, ["deep", ` + w.str() + "], " + w.term() + ")"
	default:
		return w.unknown()
	}
}

// scoped writes a comprehension of a body and a head that sees what the body defines.
func (w *writer) scoped(body, head func() string, ends ...string) string {
	before := len(w.vars)
	b := body()
	h := head()
	w.vars = w.vars[:before]
	end := "]"
	if len(ends) > 0 {
		end = ends[0]
	}
	return h + " | " + b + end
}

func (w *writer) scopedPair() string {
	before := len(w.vars)
	b := w.body(2)
	text := w.term() + ": " + w.term() + " | " + b
	w.vars = w.vars[:before]
	return text
}

func (w *writer) variable() string {
	v := fmt.Sprintf("v%d", w.IntN(1000))
	w.vars = append(w.vars, v)
	return v
}

func (w *writer) expression() string {
	switch w.IntN(16) {
	case 0, 1:
		return w.term() + w.pick(" == ", " != ", " < ", " >= ") + w.unknown()
	case 2:
		t := w.term()
		return w.variable() + " := " + t
	case 3:
		t := w.collection()
		v := w.variable()
		return "some " + v + " in " + t + "; " + v + " != 7"
	case 4:
		t := w.collection()
		k, v := w.variable(), w.variable()
		return "some " + k + ", " + v + " in " + t + "; " + k + " != " + v
	case 5:
		return "not " + w.term()
	case 6:
		return "not " + w.term() + " == " + w.unknown()
	case 7:
		before := len(w.vars)
		t := w.collection()
		v := w.variable()
		text := "every " + v + " in " + t + " { " + v + " != 9; " + w.body(2) + " }"
		w.vars = w.vars[:before]
		return text
	case 8:
		return w.term() + " in " + w.collection()
	case 9:
		return w.term() + " with input" + w.pick("", ".x", ".deep.a", ".new.part") + " as " + w.term()
	case 10:
		return w.term() + " with data" + w.pick(".table", ".table.a", ".list", ".numbers") + " as " + w.term()
	case 11:
		t := w.collection()
		a, b := w.variable(), w.variable()
		return "walk(" + t + ", [" + a + ", " + b + "]); " + a + " != " + b
	case 12:
		return "[" + w.variable() + ", " + w.unknown() + "] = input.list"
	case 13:
		t := w.pick("input.list", "input.deep", "data.table", "data.list")
		return w.variable() + " := " + t + "[_]"
	case 14:
		return w.pick("startswith(", "contains(", "endswith(") + w.str() + ", " + w.str() + ")"
	default:
		return w.term()
	}
}

func (w *writer) body(most int) string {
	list := make([]string, 1+w.IntN(most))
	for i := range list {
		list[i] = w.expression()
	}
	return strings.Join(list, "; ")
}

func (w *writer) module() string {
	var text strings.Builder
	text.WriteString("package r\n\nf(x) := x if x != 1\nf(1) := \"one\"\ng(x, y) := [x, y] if x == y else := y if is_string(x)\n")
	for n := range 2 + w.IntN(4) {
		name := fmt.Sprintf("p%d", n)
		def := func(head string, body func() string) {
			w.vars = nil
			b := body()
			text.WriteString(strings.ReplaceAll(head, "TERM", w.term()) + " if { " + b + " }\n")
		}
		kind := w.IntN(6)
		for range 1 + w.IntN(2) {
			body := func() string { return w.body(3) }
			switch kind {
			case 0, 1:
				def(name+" := TERM", body)
			case 2:
				def(name+" contains TERM", body)
			case 3:
				w.vars = nil
				b := body()
				text.WriteString(name + "[" + w.term() + "] := " + w.term() + " if { " + b + " }\n")
			case 4:
				w.vars = nil
				b := body()
				line := name + " := " + w.term() + " if { " + b + " }"
				w.vars = nil
				b = body()
				text.WriteString(line + " else := " + w.term() + " if { " + b + " }\n")
			default:
				text.WriteString("default " + name + " := " + w.pick("1", `"d"`, "{}") + "\n")
				def(name+" := TERM", body)
				kind = 0
			}
		}
		w.rules = append(w.rules, name, "data.r."+name, name+"["+w.pick(`"a"`, "0", "input.s", "_")+"]")
	}
	return text.String()
}

const randomData = `{"table": {"a": {"hub": "h1", "n": 1}, "b": {"hub": "h2"}}, "list": ["a", "b", 3, {"c": null}], "numbers": [1, 2.5, 1e3]}`

func (w *writer) input() map[string]any {
	return map[string]any{
		"x":    [...]any{json.Number("0"), json.Number("1"), json.Number("1.0"), "a", nil, true}[w.IntN(6)],
		"y":    [...]any{"b", json.Number("2"), []any{"a", "b"}, map[string]any{}}[w.IntN(4)],
		"s":    w.pick("a", "b", "c"),
		"list": [...]any{[]any{}, []any{"a", "b", "a"}, []any{json.Number("1"), "a", nil, []any{"b"}}}[w.IntN(3)],
		"deep": map[string]any{"a": map[string]any{"b": w.pick("a", "z")}, "b": [...]any{nil, json.Number("3")}[w.IntN(2)]},
	}
}

// FuzzDifferential holds the plans of random rules, for random requests, to what topdown says.
func FuzzDifferential(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b uint64) { differential(t, a, b) })
}

// The fuzzing compares results: most random rules compile, and of most requests a plan has the result.
func TestDifferentialCompares(t *testing.T) {
	t.Parallel()
	compared := 0
	for seed := range uint64(100) {
		compared += differential(t, seed, seed)
	}
	if compared < 150 {
		t.Errorf("only %d of 400 results were compared", compared)
	}
}

// differential evaluates random rules for four random requests, and returns how many results of their plan it held to
// topdown's. A plan may find a request unclear; a result of it must be topdown's.
func differential(t *testing.T, a, b uint64) (compared int) {
	t.Helper()
	w := &writer{Rand: rand.New(rand.NewPCG(a, b))}
	text := w.module()
	module, err := ast.ParseModuleWithOpts("r.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return 0
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(map[string]*ast.Module{"r.rego": module}); compiler.Failed() {
		return 0
	}
	query := ast.MustParseBody("x = data.r")
	data := ast.MustParseTerm(randomData).Value
	raw, err := ast.JSON(data)
	if err != nil {
		t.Fatal(err)
	}
	store := inmem.NewFromObject(raw.(map[string]any))
	txn, err := store.NewTransaction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program, err := plan.Compile(t.Context(), compiler, query, plan.Options{Data: data})
	if err != nil {
		return 0
	}
	for range 4 {
		input := w.input()
		got, err := program.Run(plan.Evaluation{Input: dps.ValueOf(input), MaxBytes: 1 << 28, MaxSteps: 1e7, Context: topdown.BuiltinContext{
			Context: t.Context(), Metrics: metrics.NoOp(), Cache: builtins.Cache{}, Cancel: topdown.NewCancel(), Time: ast.NumberTerm("0")}})
		if _, ok := errors.AsType[*plan.LimitError](err); ok || errors.Is(err, plan.ErrUnclear) {
			continue
		} else if err != nil {
			t.Fatalf("%v\n%s\n%v", err, text, input)
		}
		var failures []topdown.Error
		results, err := topdown.NewQuery(query).WithCompiler(compiler).WithStore(store).WithTransaction(txn).
			WithInput(ast.NewTerm(ast.MustInterfaceToValue(input))).WithBuiltinErrorList(&failures).Run(t.Context())
		if err != nil || len(failures) > 0 {
			t.Fatalf("topdown fails, and the plan does not: %v %v\n%s\n%v", err, failures, text, input)
		}
		var want []map[string]any
		for _, r := range results {
			v, err := ast.JSON(r["x"].Value)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, map[string]any{"x": v})
		}
		if !sameResult(want, got.Bindings, false) {
			t.Fatalf("-topdown +plan:\n%s\n%s\n%v", cmp.Diff(want, got.Bindings), text, input)
		}
		compared++
	}
	return compared
}
