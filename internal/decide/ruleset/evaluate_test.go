package ruleset_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}
	return document
}

// said is a verdict in the types of encoding/json.
type said struct {
	Hub, InitialTwin, Payload, Reject, Hold any
	BuiltinErrors                           []string
	Lines                                   []answer.Line
}

func saidBy(v ruleset.Verdict) said {
	return said{v.Hub.Interface(), v.InitialTwin.Interface(), v.Payload.Interface(), v.Reject.Interface(), v.Hold.Interface(), v.BuiltinErrors, v.Lines}
}

func evaluate(t testing.TB, rule *ruleset.Rule, input string) said {
	t.Helper()
	if rule == nil {
		t.Fatal("no rule")
	}
	verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, input)), ruleset.Outside{})
	if err != nil {
		t.Fatalf("%s: %v", rule.Package, err)
	}
	return saidBy(verdict)
}

// bothWays loads rules for the group g, compiled at once and when asked for.
func bothWays(t *testing.T, files fstest.MapFS, test func(t *testing.T, rule *ruleset.Rule)) {
	t.Helper()
	for _, lazy := range []bool{false, true} {
		t.Run(fmt.Sprintf("lazy=%v", lazy), func(t *testing.T) {
			test(t, mustLoad(t, files, ruleset.Options{Name: "rules", Lazy: lazy}).Serving(forGroup("g")))
		})
	}
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	tests := []struct {
		name, rules, input string
		want               said
	}{
		{"everything", `
hub := input.linkedHubs[0]
initial_twin := {"tags": {"n": 1.50, "big": 9007199254740993}}
payload := {"a": [1, "ü", true, null, {}]}
reject contains "never" if false
hold contains "not now" if input.hold`,
			`{"linkedHubs":["h"],"hold":true}`,
			said{Hub: "h", InitialTwin: object{"tags": object{"n": json.Number("1.50"), "big": json.Number("9007199254740993")}},
				Payload: object{"a": []any{json.Number("1"), "ü", true, nil, object{}}}, Reject: []any{}, Hold: []any{"not now"}}},
		{"hub alone", `hub := "h"`, `{}`, said{Hub: "h"}},
		{"all undefined", "hub := input.a\ninitial_twin := input.b\npayload := input.c", `{}`, said{}},
		{"undefined twin leaves the rest", "hub := \"h\"\ninitial_twin := input.b\npayload := {}", `{}`, said{Hub: "h", Payload: object{}}},
		{"undefined hub leaves the rest", "hub := input.a\npayload := {\"x\": 1}", `{}`, said{Payload: object{"x": json.Number("1")}}},
		{"null is undefined", "hub := null\ninitial_twin := null\npayload := input.p", `{"p":null}`, said{}},
		{"false is not undefined", "hub := false\npayload := 0", `{}`, said{Hub: false, Payload: json.Number("0")}},
		{"wrong types are passed on", "hub := {}\ninitial_twin := [1]\npayload := \"p\"\nhold := \"h\"", `{}`,
			said{Hub: object{}, InitialTwin: []any{json.Number("1")}, Payload: "p", Hold: "h"}},
		{"sets are sorted arrays", "hub := \"h\"\npayload := {\"s\": {3, 1, \"b\", \"a\", 2}}\nhold contains x if some x in [\"z\", \"y\", \"x\", \"y\"]", `{}`,
			said{Hub: "h", Payload: object{"s": []any{json.Number("1"), json.Number("2"), json.Number("3"), "a", "b"}}, Hold: []any{"x", "y", "z"}}},
		{"rules below an entry rule", "hub := \"h\"\npayload.a := 1\npayload.b[\"c\"] := input.x\ninitial_twin.tags.site := \"FRA\"", `{"x":2}`,
			said{Hub: "h", Payload: object{"a": json.Number("1"), "b": object{"c": json.Number("2")}}, InitialTwin: object{"tags": object{"site": "FRA"}}}},
		{"partial object", "hub := \"h\"\npayload[k] := v if some k, v in input.o", `{"o":{"a":1,"b":[2]}}`,
			said{Hub: "h", Payload: object{"a": json.Number("1"), "b": []any{json.Number("2")}}}},
		{"default rule", "default hub := \"d\"\nhub := \"h\" if input.x", `{}`, said{Hub: "d"}},
		{"else", "hub := \"h\" if input.x\nelse := \"e\"", `{}`, said{Hub: "e"}},
		{"numbers of the request", "hub := \"h\"\npayload := input.p", `{"p":{"a":1.0,"b":1e2,"c":-0,"d":12345678901234567890123}}`,
			said{Hub: "h", Payload: object{"a": json.Number("1.0"), "b": json.Number("1e2"), "c": json.Number("-0"), "d": json.Number("12345678901234567890123")}}},

		{"rejected: nothing else is asked", "hub := \"a\"\nhub := \"b\"\nreject contains \"bad\" if input.bad\nhold contains \"later\"\npayload := {}", `{"bad":true}`,
			said{Reject: []any{"bad"}}},
		{"rejected by true", "hub := \"h\"\nreject if input.bad", `{"bad":true}`, said{Reject: true}},
		{"rejected by a text", "hub := \"h\"\nreject := \"bad\"", `{}`, said{Reject: "bad"}},
		{"not rejected", "hub := \"h\"\nreject contains \"bad\" if input.bad", `{}`, said{Hub: "h", Reject: []any{}}},
		{"not rejected by default", "hub := \"h\"\ndefault reject := false\nreject if input.bad", `{}`, said{Hub: "h", Reject: false}},
		{"reject alone", "reject contains \"everybody\"", `{}`, said{Reject: []any{"everybody"}}},
		{"held, and all the rest is told", "hub := \"h\"\nhold contains \"later\"\npayload := {}", `{}`,
			said{Hub: "h", Hold: []any{"later"}, Payload: object{}}},

		{"built-in errors", "hub := \"h\"\npayload := {\"x\": to_number(input.secret)}\ninitial_twin := {\"y\": 1 / input.zero}", `{"secret":"SECRET","zero":0}`,
			said{Hub: "h", BuiltinErrors: []string{"rules/a.rego:8", "rules/a.rego:7"}}},
		{"a built-in error beside a reason to reject", "hub := \"h\"\nreject contains \"no\"\nreject contains to_number(input.secret)", `{"secret":"SECRET"}`,
			said{Reject: []any{"no"}, BuiltinErrors: []string{"rules/a.rego:8"}}},
		{"a built-in error beside a reason to hold", "hold contains \"wait\"\nhold contains to_number(input.secret)\nhub := \"h\"", `{"secret":"SECRET"}`,
			said{Hold: []any{"wait"}, Hub: "h", BuiltinErrors: []string{"rules/a.rego:7"}}},
		{"built-in errors at one place are told once", "hub := \"h\"\npayload := {\"x\": [n | some s in input.list; n := to_number(s)]}", `{"list":["a","b","1"]}`,
			said{Hub: "h", Payload: object{"x": []any{json.Number("1")}}, BuiltinErrors: []string{"rules/a.rego:7"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, folder("a.rego", serving("allocation.a", "g", strings.TrimPrefix(test.rules, "\n"))), func(t *testing.T, rule *ruleset.Rule) {
				input := decode(t, test.input)
				for range 2 { // the second by what the first has prepared
					verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(input), ruleset.Outside{})
					if err != nil {
						t.Fatal(err)
					}
					verdict.Lines = nil // see TestLines
					if diff := cmp.Diff(test.want, saidBy(verdict)); diff != "" {
						t.Errorf("-want +got:\n%s", diff)
					}
				}
				if diff := cmp.Diff(decode(t, test.input), input); diff != "" {
					t.Errorf("the input is changed:\n%s", diff)
				}
			})
		})
	}
}

// Every text of an error names places, and no value of the request.
func TestEvaluateErrors(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, rules, want string }{
		{"conflict in hub", "hub := \"a\"\nhub := input.secret", "hub failed: definitions of data.allocation.a.hub give different values (rules/a.rego:6, rules/a.rego:7)"},
		{"conflict in a rule that hub refers to", "hub := x\nx := input.secret\nx := lower(input.secret)", "hub failed: definitions of data.allocation.a.x give different values (rules/a.rego:7, rules/a.rego:8)"},
		{"conflict in a function", "hub := f(input.secret)\nf(_) := input.secret\nf(x) := lower(x)", "hub failed: definitions of data.allocation.a.f give different values for the same arguments (rules/a.rego:7, rules/a.rego:8)"},
		{"conflict in a partial object", "hub := \"h\"\npayload[input.secret] := x if some x in [input.secret, 2]", "payload failed: one key of an object gets different values at rules/a.rego:7"},
		{"conflict in an object comprehension", "hub := \"h\"\npayload := {input.secret: x | some x in [input.secret, 2]}", "payload failed: one key of an object gets different values at rules/a.rego:7"},
		{"conflict with line breaks and places in values", "hub := \"a at nowhere:1\\n\"\nhub := concat(\" at \", [input.secret, \"x\\n at y\"])", "hub failed: definitions of data.allocation.a.hub give different values (rules/a.rego:6, rules/a.rego:7)"},
		{"a built-in error in reject", "hub := \"h\"\nreject contains \"old\" if to_number(input.secret) < 2", "reject is unknown: a built-in function failed at rules/a.rego:7"},
		{"a built-in error in what hold refers to", "hub := \"h\"\nx := to_number(input.secret)\nhold contains \"old\" if x < 2", "hold is unknown: a built-in function failed at rules/a.rego:7"},
		{"conflict in reject", "hub := \"h\"\nreject := true\nreject := input.secret", "reject failed: definitions of data.allocation.a.reject give different values (rules/a.rego:7, rules/a.rego:8)"},
	}
	const canary = "SECRET-4711"
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, folder("a.rego", serving("allocation.a", "g", test.rules)), func(t *testing.T, rule *ruleset.Rule) {
				verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, `{"secret":"`+canary+`"}`)), ruleset.Outside{})
				evalError, ok := errors.AsType[*ruleset.EvalError](err)
				if !ok {
					t.Fatalf("verdict %+v, error %v; want an *EvalError", verdict, err)
				}
				if strings.Contains(strings.ToUpper(err.Error()), canary) {
					t.Errorf("the error shows a value: %v", err)
				}
				if err.Error() != test.want {
					t.Errorf("error %q, want %q", err, test.want)
				}
				if evalError.Conflict != strings.HasPrefix(test.name, "conflict") {
					t.Errorf("conflict: %v", evalError.Conflict)
				}
				if evalError.Place == "" {
					t.Error("the error has no place")
				}
				// What was said before the failure comes along, nothing of what failed.
				before := map[string]*dps.Value{"reject": verdict.Reject, "hold": verdict.Hold, "hub": verdict.Hub, "initial_twin": verdict.InitialTwin, "payload": verdict.Payload}
				if !strings.HasPrefix(test.want, evalError.Entry+" ") || before[evalError.Entry].Len() > 0 || evalError.Entry == "payload" && verdict.Hub.Text() != "h" {
					t.Errorf("%q failed, and the verdict is %v", evalError.Entry, saidBy(verdict))
				}
			})
		})
	}
}

// endless runs for hours unless it is stopped.
const endless = `hub := "h" if count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j == -1]) == 0`

// A plan ends a rule that makes too much, and says where.
func TestEvaluateMemory(t *testing.T) {
	t.Parallel()
	files := folder("a.rego", serving("allocation.a", "g", `hub := "h"`+"\npayload := numbers.range(1, 1000000)"))
	rule := mustLoad(t, files, ruleset.Options{Name: "rules", Memory: 1 << 20}).Serving(forGroup("g"))
	verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(map[string]any{}), ruleset.Outside{})
	if !errors.Is(err, ruleset.ErrTooLarge) || err.Error() != "the rule made values of more than 1 MiB at rules/a.rego:7" {
		t.Errorf("verdict %+v, error %v", verdict, err)
	}
	rule = mustLoad(t, files, ruleset.Options{Name: "rules", Memory: 1 << 30}).Serving(forGroup("g"))
	if verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(map[string]any{}), ruleset.Outside{}); err != nil || verdict.Hub.Text() != "h" {
		t.Errorf("with enough memory: %v", err)
	}
}

// A plan ends a rule that takes too many steps, and says where.
func TestEvaluateSteps(t *testing.T) {
	t.Parallel()
	files := folder("a.rego", serving("allocation.a", "g", "hub := \"h\"\npayload := count([1 | some i in numbers.range(1, 100); some j in numbers.range(1, 100); i == j])"))
	rule := mustLoad(t, files, ruleset.Options{Name: "rules", Steps: 10_000}).Serving(forGroup("g"))
	verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(map[string]any{}), ruleset.Outside{})
	if !errors.Is(err, ruleset.ErrTooLong) || err.Error() != "the rule took more than 10000 steps at rules/a.rego:7" {
		t.Errorf("verdict %+v, error %v", verdict, err)
	}
	rule = mustLoad(t, files, ruleset.Options{Name: "rules"}).Serving(forGroup("g"))
	if verdict, err := rule.Evaluate(t.Context(), dps.ValueOf(map[string]any{}), ruleset.Outside{}); err != nil || verdict.Hub.Text() != "h" {
		t.Errorf("with enough steps: %v", err)
	}
}

func TestEvaluateDeadline(t *testing.T) {
	t.Parallel()
	files := folder(
		"a.rego", serving("allocation.a", "g", endless),
		"b.rego", serving("allocation.b", "one_call", `hub := "h" if count(numbers.range(1, 1000000000)) == 0`),
		"c.rego", serving("allocation.c", "twin", "hub := \"h\"\ninitial_twin := {\"x\": 1} if "+strings.TrimPrefix(endless, `hub := "h" if `)),
	)
	for _, test := range []struct {
		evaluator ruleset.Evaluator
		group     string
	}{{ruleset.ByPlan, "g"}, {ruleset.ByPlan, "twin"}, {ruleset.ByTopdown, "g"}, {ruleset.ByTopdown, "twin"}, {ruleset.ByTopdown, "one_call"}} {
		group := test.group
		t.Run(string(test.evaluator)+" "+group, func(t *testing.T) {
			t.Parallel()
			rs := mustLoad(t, files, ruleset.Options{Name: "rules", Evaluator: test.evaluator, Memory: 1 << 40})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			verdict, err := rs.Serving(forGroup(group)).Evaluate(ctx, dps.ValueOf(map[string]any{}), ruleset.Outside{})
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s with a deadline of 50 ms", took)
			}
			if _, ok := errors.AsType[*ruleset.EvalError](err); !ok || !errors.Is(err, context.DeadlineExceeded) || err.Error() != "the rule exceeded its time limit" {
				t.Errorf("verdict %+v, error %v", verdict, err)
			}
			if diff := cmp.Diff(said{}, saidBy(verdict)); diff != "" {
				t.Errorf("a verdict comes with the error:\n%s", diff)
			}
		})
	}
}

func TestEvaluateCancelled(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, folder("a.rego", serving("allocation.a", "g", endless), "b.rego", serving("allocation.b", "quick", hub)), ruleset.Options{Lazy: true})
	check := func(t *testing.T, err error) {
		t.Helper()
		if _, ok := errors.AsType[*ruleset.EvalError](err); !ok || !errors.Is(err, context.Canceled) || err.Error() != "the request was canceled before the rule had an answer" {
			t.Errorf("error %v", err)
		}
	}
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := rs.Serving(forGroup("quick")).Evaluate(ctx, dps.ValueOf(map[string]any{}), ruleset.Outside{})
		check(t, err)
		// The first request's end is not the rule's.
		if got := evaluate(t, rs.Serving(forGroup("quick")), `{}`).Hub; got != "h" {
			t.Errorf("hub %v after a cancelled request", got)
		}
	})
	t.Run("meanwhile", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		_, err := rs.Serving(forGroup("g")).Evaluate(ctx, dps.ValueOf(map[string]any{}), ruleset.Outside{})
		check(t, err)
	})
}

func TestData(t *testing.T) {
	t.Parallel()
	bothWays(t, folder(
		"a.rego", serving("allocation.a", "g", `payload := {"root": data.x, "tenants": data.tenants, "deep": data.a.b.c, "yaml": data.y.list, "yml": data.z.v, "none": [x | some name in ["other"]; x := data.a[name]]}
hub := "h"`),
		"data.json", `{"x":{"n":1.50}}`, "tenants/data.json", `{"contoso":["h1","h2"]}`, "a/b/data.json", `{"c":true}`,
		"y/data.yaml", "list: [1, two]", "z/data.yml", "v: w", "a/weights.json", `{"other":1}`,
	), func(t *testing.T, rule *ruleset.Rule) {
		want := map[string]any{
			"root": map[string]any{"n": json.Number("1.50")}, "tenants": map[string]any{"contoso": []any{"h1", "h2"}}, "deep": true,
			"yaml": []any{json.Number("1"), "two"}, "yml": "w", "none": []any{},
		}
		if diff := cmp.Diff(want, evaluate(t, rule, `{}`).Payload); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// Editors and shells on Windows write byte order marks and UTF-16.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for name, encode := range map[string]func(string) string{
		"UTF-8 with a mark":                   func(text string) string { return "\ufeff" + text },
		"UTF-16":                              func(text string) string { return inUTF16(text, binary.LittleEndian) },
		"UTF-16, most significant byte first": func(text string) string { return inUTF16(text, binary.BigEndian) },
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, folder("a.rego", encode(serving("allocation.a", "g", "hub := data.line.hub")), "line/data.json", encode(`{"hub":"hü"}`)),
				func(t *testing.T, rule *ruleset.Rule) {
					if got := evaluate(t, rule, `{}`).Hub; got != "hü" {
						t.Errorf("hub %q", got)
					}
				})
		})
	}
}

func inUTF16(text string, order binary.AppendByteOrder) string {
	var encoded []byte
	for _, unit := range utf16.Encode([]rune("\ufeff" + text)) {
		encoded = order.AppendUint16(encoded, unit)
	}
	return string(encoded)
}

func TestPackagesOverFiles(t *testing.T) {
	t.Parallel()
	bothWays(t, folder(
		"a/one.rego", serving("allocation.a", "g", "import data.lib.hubs as h\nhub := h.first\npayload := {\"kind\": kind, \"dynamic\": dynamic, \"bracket\": data[\"lib\"].words.yes}"),
		"a/two.rego", "package allocation.a\nimport data.lib.words\nkind := words.kind(input.model)\ndynamic := {name | some name; data.lib[name].marked}",
		"lib/hubs.rego", "package lib.hubs\nimport data.lib.words\nfirst := words.lower_all(input.linkedHubs)[0]",
		"lib/words.rego", "package lib.words\nkind(m) := \"toaster\" if startswith(m, \"t\")\nlower_all(xs) := [y | some x in xs; y := lower(x)]\nyes := true\nmarked := true",
		"lib/other.rego", "package lib.other\nmarked := true",
		"unrelated.rego", "package unrelated\nx := 1",
	), func(t *testing.T, rule *ruleset.Rule) {
		want := said{Hub: "h1", Payload: map[string]any{"kind": "toaster", "dynamic": []any{"other", "words"}, "bracket": true},
			Lines: []answer.Line{
				{Entry: "hub", Place: "rules/a/one.rego:7"}, {Entry: "hub", Place: "rules/lib/hubs.rego:3"}, {Entry: "hub", Place: "rules/lib/words.rego:3"},
				{Entry: "payload", Place: "rules/a/one.rego:8"}, {Entry: "payload", Place: "rules/lib/other.rego:2"},
				{Entry: "payload", Place: "rules/lib/words.rego:2"}, {Entry: "payload", Place: "rules/lib/words.rego:4"}, {Entry: "payload", Place: "rules/lib/words.rego:5"},
			}}
		if diff := cmp.Diff(want, evaluate(t, rule, `{"linkedHubs":["H1"],"model":"t1"}`)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// A package below the rule's own is part of what an entry rule says, whether the rule was compiled apart or with the
// rest.
func TestPackageBelowAnEntryRule(t *testing.T) {
	t.Parallel()
	bothWays(t, folder("a.rego", serving("allocation.a", "g", "hub := \"h\"\npayload.x := 1"), "b.rego", "package allocation.a.payload\ny := 2"),
		func(t *testing.T, rule *ruleset.Rule) {
			want := map[string]any{"x": json.Number("1"), "y": json.Number("2")}
			if diff := cmp.Diff(want, evaluate(t, rule, `{}`).Payload); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
}

// One broken rule is its own trouble until all are compiled.
func TestLazyWithABrokenRule(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, folder(
		"good.rego", serving("allocation.good", "good", "import data.lib\nhub := lib.hub"),
		"broken.rego", serving("allocation.broken", "broken", "hub := undefined_thing"),
		"unparsable.rego", serving("allocation.unparsable", "unparsable", "hub := := 1"),
		"user.rego", serving("allocation.user", "user", "hub := data.brokenlib.x"),
		"lib.rego", "package lib\nhub := \"h\"", "brokenlib.rego", "package brokenlib\nx := also_undefined",
	), ruleset.Options{Name: "rules", Lazy: true})
	for range 2 {
		if got := evaluate(t, rs.Serving(forGroup("good")), `{}`).Hub; got != "h" {
			t.Errorf("good: hub %v", got)
		}
		for group, place := range map[string]string{"broken": "rules/broken.rego:6: ", "unparsable": "rules/unparsable.rego:6: ", "user": "rules/brokenlib.rego:2: "} {
			_, err := rs.Serving(forGroup(group)).Evaluate(t.Context(), dps.ValueOf(map[string]any{}), ruleset.Outside{})
			if _, ok := errors.AsType[*ruleset.EvalError](err); !ok || !strings.HasPrefix(err.Error(), "the rule does not compile: "+place) {
				t.Errorf("%s: error %v, want one at %s", group, err, place)
			}
			if got := problemsOf(t, errors.Unwrap(err)); len(got) == 0 {
				t.Errorf("%s: no *LoadError as the cause", group)
			}
		}
	}
	got := problemsOf(t, rs.CompileAll(t.Context()))
	if len(got) == 0 || !strings.HasPrefix(got[0], "rules/unparsable.rego:6: rego_parse_error: ") {
		t.Errorf("CompileAll: %q", got)
	}
	if got := evaluate(t, rs.Serving(forGroup("good")), `{}`).Hub; got != "h" {
		t.Errorf("good, after CompileAll failed: hub %v", got)
	}
}

func TestCompileAllNamesEveryBrokenRule(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, folder(
		"good.rego", serving("allocation.good", "good", hub),
		"a.rego", serving("allocation.a", "a", "hub := undefined_thing"),
		"b.rego", serving("allocation.b", "b", "x := input.y\nhub := also_undefined"),
	), ruleset.Options{Name: "rules", Lazy: true})
	want := []string{
		"rules/a.rego:6: rego_unsafe_var_error: var undefined_thing is unsafe",
		"rules/b.rego:7: rego_unsafe_var_error: var also_undefined is unsafe",
	}
	if diff := cmp.Diff(want, problemsOf(t, rs.CompileAll(t.Context()))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The rules that ship say the same whichever way they are compiled.
func TestLazyAndEagerAgree(t *testing.T) {
	t.Parallel()
	options := ruleset.Options{Name: "rules", InputSchema: inputSchema(t), Strict: true}
	eager := mustLoad(t, os.DirFS(shippedRules), options)
	options.Lazy = true
	lazy := mustLoad(t, os.DirFS(shippedRules), options)
	later := mustLoad(t, os.DirFS(shippedRules), options)
	if err := later.CompileAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests: %v", err)
	}
	hubs := 0
	for i, rule := range eager.Rules() {
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := evaluate(t, rule, string(text))
			for name, rs := range map[string]*ruleset.Ruleset{"lazy": lazy, "lazy, then all": later} {
				if got := evaluate(t, rs.Rules()[i], string(text)); !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %s: %s %+v, eager %+v", rule.Package, filepath.Base(file), name, got, want)
				}
			}
			if want.Hub != nil {
				hubs++
			}
		}
	}
	if hubs == 0 {
		t.Error("no rule names a hub for any request")
	}
}

const shippedRules = "../../../rules"

// Requests are decided on a ruleset while the rest of it is being compiled.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	for range 10 {
		files := folder("lib.rego", "package lib\nhub(n) := input.linkedHubs[n]", "data.json", `{"one":1}`)
		for i := range 8 {
			files[fmt.Sprintf("r%d.rego", i)] = &fstest.MapFile{Data: []byte(serving(fmt.Sprintf("allocation.r%d", i), fmt.Sprintf("g%d, 'g%d-*'", i, i),
				fmt.Sprintf("import data.lib\nhub := lib.hub(%d)\npayload := {\"n\": data.one, \"p\": input.deviceRuntimeContext}", i%2)))}
		}
		rs := mustLoad(t, files, ruleset.Options{Lazy: true})
		input := decode(t, `{"linkedHubs":["h0","h1"],"deviceRuntimeContext":{"registrationId":"d","payload":{"x":[1,2]}}}`)
		var group sync.WaitGroup
		for worker := range 8 {
			group.Go(func() {
				for i := range 24 {
					n := (worker + i) % 8
					verdict, err := rs.Serving(forGroup(fmt.Sprintf("g%d-x", n))).Evaluate(t.Context(), dps.ValueOf(input), ruleset.Outside{})
					if want := fmt.Sprintf("h%d", n%2); err != nil || verdict.Hub.Text() != want {
						t.Errorf("rule %d: hub %v, error %v; want %s", n, verdict.Hub, err, want)
					}
				}
			})
		}
		group.Go(func() {
			if err := rs.CompileAll(t.Context()); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
	}
}

// Allowing http.send opens no host that AllowNet does not name.
func TestAllowNet(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"hub":"from the network"}`)
	}))
	defer server.Close()
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, rules := range []string{
		`hub := http.send({"method": "get", "url": input.url}).body.hub`,
		`hub := "from the network" if json.match_schema({}, {"$ref": input.url})[0] == true`,
	} {
		for _, lazy := range []bool{false, true} {
			for _, allowed := range [][]string{nil, {}, {"example.com"}, {address.Hostname()}} {
				calls.Store(0)
				rs := mustLoad(t, folder("a.rego", serving("allocation.a", "g", rules)),
					ruleset.Options{Name: "rules", Lazy: lazy, AllowBuiltins: []string{"http.send", "json.match_schema"}, AllowNet: allowed})
				verdict := evaluate(t, rs.Serving(forGroup("g")), `{"url":"`+server.URL+`"}`)
				open := len(allowed) == 1 && allowed[0] == address.Hostname()
				if reached := calls.Load() > 0; reached != open {
					t.Errorf("%s with AllowNet %q: the server is called: %v", rules, allowed, reached)
				}
				if open && strings.Contains(rules, "http.send") && verdict.Hub != "from the network" {
					t.Errorf("%s with AllowNet %q: %+v", rules, allowed, verdict)
				}
				if !open && (verdict.Hub != nil || len(verdict.BuiltinErrors) != 1) {
					t.Errorf("%s with AllowNet %q: %+v", rules, allowed, verdict)
				}
			}
		}
	}
}

// A slow answer from the network ends with the deadline and is no "undefined".
func TestHTTPSendEndsWithTheDeadline(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(release)
	rs := mustLoad(t, folder("a.rego", serving("allocation.a", "g", `hub := http.send({"method": "get", "url": input.url}).body.hub`)),
		ruleset.Options{AllowBuiltins: []string{"http.send"}, AllowNet: []string{"127.0.0.1"}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	verdict, err := rs.Serving(forGroup("g")).Evaluate(ctx, dps.ValueOf(decode(t, `{"url":"`+server.URL+`"}`)), ruleset.Outside{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("verdict %+v, error %v", verdict, err)
	}
}
