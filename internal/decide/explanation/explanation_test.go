package explanation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// outline writes an explanation in short: definitions by line, then what failed and what it was about.
func outline(e *explanation.Explanation) string {
	var text strings.Builder
	var definitions func(indent string, list []explanation.Definition)
	terms := func(indent string, list []explanation.Term) {
		for _, term := range list {
			fmt.Fprintf(&text, "%s%s", indent, term.Text)
			if len(term.Values) > 0 {
				fmt.Fprintf(&text, " = %s", brief(term.Values...))
			}
			if term.Why != "" {
				fmt.Fprintf(&text, ": %s", term.Why)
			}
			if term.Repeated {
				text.WriteString(" (again)")
			}
			text.WriteString("\n")
			definitions(indent+"  ", term.Definitions)
		}
	}
	definitions = func(indent string, list []explanation.Definition) {
		for _, d := range list {
			row := d.Place[strings.LastIndex(d.Place, ":")+1:]
			fmt.Fprintf(&text, "%s%s %s", indent, row, d.State)
			if d.Value != nil {
				fmt.Fprintf(&text, " %s", brief(d.Value))
			}
			if d.Error != "" {
				fmt.Fprintf(&text, ": %s", d.Error)
			}
			text.WriteString("\n")
			if f := d.Failed; f != nil {
				fmt.Fprintf(&text, "%s  fails %s: %s", indent, f.Place[strings.LastIndex(f.Place, ":")+1:], f.Text)
				if f.Tries > 1 {
					fmt.Fprintf(&text, " x%d", f.Tries)
				}
				if f.Why != "" {
					fmt.Fprintf(&text, ": %s", f.Why)
				}
				text.WriteString("\n")
				terms(indent+"    ", f.Terms)
			}
			terms(indent+"  ", d.Uses)
		}
	}
	for _, entry := range e.Entries {
		fmt.Fprintf(&text, "%s = %s\n", entry.Name, brief(entry.Value))
		definitions("  ", entry.Definitions)
	}
	return text.String()
}

func brief(values ...any) string {
	var texts []string
	for _, value := range values {
		text, err := json.Marshal(value)
		if err != nil {
			return err.Error()
		}
		texts = append(texts, string(text))
	}
	return strings.Join(texts, ", ")
}

func TestExplain(t *testing.T) {
	t.Parallel()
	// Rules begin at line 6.
	const fleet = "package fleet\nrefusals contains \"old\" if input.old\nrefusals contains \"far\" if input.far\nhome(m) := \"h1\" if m == \"x\"\nhome(m) := \"h2\" if m != \"x\"\n"
	for _, test := range []struct{ name, rules, input, want string }{
		{"a constant", `hub := "h"`, `{}`, `
hub = "h"
  6 gave "h"
`},
		{"a member that the request lacks", `hub := "h" if input.a.b == 1`, `{"a": {}}`, `
hub = null
  6 not_held "h"
    fails 6: input.a.b == 1
      input.a.b: the request has no /a/b
`},
		{"a member of something that has none", `hub := input["a/b"].c[1]`, `{"a/b": {"c": [1]}}`, `
hub = null
  6 not_held
    fails 6: input["a/b"].c[1]
      input["a/b"].c[1]: the request has no /a~1b/c/1
`},
		{"a member of a text", `hub := input.a.b`, `{"a": "text"}`, `
hub = null
  6 not_held
    fails 6: input.a.b
      input.a.b: the request has no /a/b, because the value around it is neither an object nor an array
`},
		{"a comparison", "hub := \"h\" if {\n\tinput.a\n\tinput.n > input.m\n}", `{"a": true, "n": 1, "m": 2}`, `
hub = null
  6 not_held "h"
    fails 8: input.n > input.m
      input.n = 1
      input.m = 2
`},
		{"several definitions", "hub := \"a\" if input.x == 1\n\nhub := \"b\" if input.x == 2\n\nhub := \"c\" if input.x == 3", `{"x": 2}`, `
hub = "b"
  6 not_held "a"
    fails 6: input.x == 1
      input.x = 2
  8 gave "b"
    input.x = 2
  10 not_held "c"
    fails 10: input.x == 3
      input.x = 2
`},
		{"two that agree", "hub := \"a\" if input.x\n\nhub := \"a\" if input.y", `{"x": 1, "y": 1}`, `
hub = "a"
  6 gave "a"
    input.x = 1
  8 gave "a"
    input.y = 1
`},
		{"two that do not", "hub := \"a\" if input.x\n\nhub := \"b\" if input.y", `{"x": 1, "y": 1}`, `
hub = null
  6 gave "a"
    input.x = 1
  8 gave "b"
    input.y = 1
`},
		{"a default that is not used", "default hub := \"d\"\n\nhub := \"h\"", `{}`, `
hub = "h"
  6 unreached "d"
  8 gave "h"
`},
		{"a default that is", "default hub := \"d\"\n\nhub := \"h\" if input.x", `{}`, `
hub = "d"
  6 gave "d"
  8 not_held "h"
    fails 8: input.x
      input.x: the request has no /x
`},
		{"else", "hub := \"a\" if {\n\tinput.x\n} else := \"b\" if {\n\tinput.y\n} else := \"c\" if {\n\tinput.z\n} else := \"d\"", `{"y": 1}`, `
hub = "b"
  6 not_held "a"
    fails 7: input.x
      input.x: the request has no /x
  8 gave "b"
    input.y = 1
  10 unreached "c"
    fails 11: input.z
      input.z: the request has no /z
  12 unreached "d"
`},
		{"false", "hub := \"h\" if input.x", `{"x": false}`, `
hub = null
  6 not_held "h"
    fails 6: input.x
      input.x = false
`},
		{"not", "hub := \"h\" if not input.x", `{"x": 1}`, `
hub = null
  6 not_held "h"
    fails 6: not input.x: what it negates holds
      input.x = 1
`},
		{"not that holds", "hub := \"h\" if not helper\n\nhelper if input.x == 1", `{"x": 2}`, `
hub = "h"
  6 gave "h"
    helper
      8 not_held true
        fails 8: input.x == 1
          input.x = 2
`},
		{"not a call", "hub := \"h\" if not good(input.x)\n\ngood(x) if x > 3", `{"x": 4}`, `
hub = null
  6 not_held "h"
    fails 6: not good(input.x): what it negates holds
      input.x = 4
      good(input.x) = true
        8 gave true
          x = 4
`},
		{"a rule behind it", "hub := region.hub\n\nregion := data.a[input.x]", `{"x": "none"}`, `
hub = null
  6 not_held
    fails 6: region.hub
      region.hub
        8 not_held
          fails 8: data.a[input.x]
            input.x = "none"
            data.a[input.x]: data.a has no "none"
`},
		{"a member that a rule lacks", "hub := region.name\n\nregion := data.a[input.x]", `{"x": "eu"}`, `
hub = null
  6 not_held
    fails 6: region.name
      region.name: region has no "name"
`},
		{"a rule twice", "hub := \"h\" if {\n\tx == 1\n\tx == 2\n}\n\npayload := {\"x\": x}\n\nx := input.x", `{"x": 1}`, `
hub = null
  6 not_held "h"
    fails 8: x == 2
      x = 1
        13 gave 1
          input.x = 1
payload = {"x":1}
  11 gave {"x":1}
    x = 1 (again)
`},
		{"each of some values", "hub := h if {\n\tsome h in input.hubs\n\tstartswith(h, input.p)\n}", `{"hubs": ["a", "b", "c"], "p": "x"}`, `
hub = null
  6 not_held
    fails 8: startswith(h, input.p) x3
      input.p = "x"
      h = "a", "b", "c"
      input.hubs = ["a","b","c"]
`},
		{"none of no values", "hub := h if some h in input.hubs", `{"hubs": []}`, `
hub = null
  6 not_held
    fails 6: some h in input.hubs
      input.hubs = []: it is empty
`},
		{"every", "hub := \"h\" if every i, x in input.list {\n\tx.ok\n\tx.n > i\n}", `{"list": [{"ok": true, "n": 3}, {"ok": true, "n": 1}]}`, `
hub = null
  6 not_held "h"
    fails 8: x.n > i
      x = {"n":1,"ok":true}
      x.n = 1
      i = 1
`},
		{"with", "hub := \"h\" if helper with input.x as 3\n\nhelper if input.x == 2", `{"x": 2}`, `
hub = null
  6 not_held "h"
    fails 6: helper with input.x as 3
      helper: evaluated under with, so its lines are not traced
`},
		{"a function of the author's", "hub := f(input.x)\n\nf(\"a\") := \"1\"\n\nf(x) := \"2\" if startswith(x, \"b\")", `{"x": "c"}`, `
hub = null
  6 not_held
    fails 6: f(input.x)
      input.x = "c"
      f(input.x)
        8 not_held "1"
          fails 8: f("a") := "1": it is for other arguments
        10 not_held "2"
          fails 10: startswith(x, "b")
            x = "c"
`},
		{"a function with else", "hub := f(input.x)\n\nf(x) := \"1\" if x == 1\n\nelse := \"2\" if x == 2", `{"x": 3}`, `
hub = null
  6 not_held
    fails 6: f(input.x)
      input.x = 3
      f(input.x)
        8 not_held "1"
          fails 8: x == 1
            x = 3
        10 not_held "2"
          fails 10: x == 2
            x = 3
`},
		{"a built-in that fails", "hub := \"h\" if to_number(input.x) > 1", `{"x": "one"}`, `
hub = null
  6 not_held "h"
    fails 6: to_number(input.x) > 1: rules/a.rego:6: to_number: strconv.ParseFloat: parsing "one": invalid syntax
      input.x = "one"
`},
		{"values taken under with", "hub := h if {\n\th := helper with input.x as 3\n\tother(1) with input.x as 3\n}\n\nhelper := \"h\" if input.x == 3\n\nother(n) if input.x > n", `{"x": 2}`, `
hub = "h"
  6 gave "h"
    h = "h"
    helper = "h": evaluated under with, so its lines are not traced
    other(1) with input.x as 3: evaluated under with, so its lines are not traced
`},
		{"a value taken under with that does not fit", "hub := h if {\n\th := helper with input.x as 3\n\th == \"g\"\n}\n\nhelper := \"h\" if input.x == 3", `{"x": 2}`, `
hub = null
  6 not_held "h"
    fails 8: h == "g"
      h = "h"
      helper = "h": evaluated under with, so its lines are not traced
`},
		{"reasons of a library", "hub := \"h\"\n\nreject contains r if some r in data.fleet.refusals", `{"old": true, "far": true}`, `
reject = ["far","old"]
  8 gave ["far"]
    r = "far"
    data.fleet.refusals = ["far","old"]
      2 gave ["old"]
        input.old = true
      3 gave ["far"]
        input.far = true
  8 gave ["old"]
    r = "old"
    data.fleet.refusals = ["far","old"] (again)
hub = "h"
  6 gave "h"
`},
		{"a function of a library", "hub := data.fleet.home(input.model)", `{"model": "y"}`, `
hub = "h2"
  6 gave "h2"
    input.model = "y"
    data.fleet.home(input.model) = "h2"
      4 not_held "h1"
        fails 4: m == "x"
          m = "y"
      5 gave "h2"
        m = "y"
`},
		{"reasons", "hub := \"h\"\n\nhold contains sprintf(\"no %s\", [x]) if some x in input.list\n\nhold contains \"never\" if input.never", `{"list": ["a", "b"]}`, `
hold = ["no a","no b"]
  8 gave ["no a"]
    x = "a"
    input.list = ["a","b"]
  8 gave ["no b"]
    x = "b"
    input.list = ["a","b"]
  10 not_held
    fails 10: input.never
      input.never: the request has no /never
hub = "h"
  6 gave "h"
`},
		{"rejected, and the rest is told too", "hub := \"h\"\n\nreject contains \"no\" if input.bad", `{"bad": 1}`, `
reject = ["no"]
  8 gave ["no"]
    input.bad = 1
hub = "h"
  6 gave "h"
`},
		{"rules below an entry rule", "hub := \"h\"\n\npayload.a := 1\n\npayload[k] := v if some k, v in input.o\n\npayload.c.d := 2 if input.x", `{"o": {"x": 1, "y": [2]}}`, `
hub = "h"
  6 gave "h"
payload = {"a":1,"x":1,"y":[2]}
  8 gave {"a":1}
  10 gave {"x":1}
    v = 1
    k = "x"
    input.o = {"x":1,"y":[2]}
  10 gave {"y":[2]}
    v = [2]
    k = "y"
    input.o = {"x":1,"y":[2]}
  12 not_held {"c":{"d":2}}
    fails 12: input.x
      input.x: the request has no /x
`},
		{"a default below an entry rule", "hub := \"h\"\n\ndefault payload.a := 1\n\npayload.a := 2 if input.x\n\npayload.b := 3", `{}`, `
hub = "h"
  6 gave "h"
payload = {"a":1,"b":3}
  8 gave {"a":1}
  10 not_held {"a":2}
    fails 10: input.x
      input.x: the request has no /x
  12 gave {"b":3}
`},
		{"an assignment before", "hub := \"h\" if {\n\tmodel := lower(input.model)\n\tmodel == \"x\"\n}", `{"model": "Y"}`, `
hub = null
  6 not_held "h"
    fails 8: model == "x"
      model = "y"
      input.model = "Y"
      lower(input.model) = "y"
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, folder("a.rego", serving("allocation.a", "g", test.rules), "a/data.json", `{"eu": {"hub": "h"}}`, "fleet.rego", fleet), func(t *testing.T, rule *ruleset.Rule) {
				input := decode(t, test.input)
				e, err := explanation.Explain(t.Context(), rule, input, ruleset.Outside{})
				if err != nil || e.CutShort != nil {
					t.Fatal(err, e)
				}
				if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), outline(e)); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if diff := cmp.Diff(decode(t, test.input), input); diff != "" {
					t.Errorf("the input is changed:\n%s", diff)
				}
			})
		})
	}
}

// What ends evaluation with an error is told with the definition that does.
func TestExplainErrors(t *testing.T) {
	t.Parallel()
	rule := mustLoad(t, folder("a.rego", serving("allocation.a", "g",
		"hub := both\n\nboth := input.a\n\nboth := input.b\n\npayload := {\"ok\": true}")), ruleset.Options{Name: "rules"}).Serving(group("g"))
	e, err := explanation.Explain(t.Context(), rule, decode(t, `{"a": "1", "b": "2"}`), ruleset.Outside{})
	if err != nil {
		t.Fatal(err)
	}
	want := `hub = null
  6 erred: definitions of data.allocation.a.both give different values: "1" at rules/a.rego:8, "2" at rules/a.rego:10
payload = {"ok":true}
  12 gave {"ok":true}
`
	if diff := cmp.Diff(want, outline(e)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if e.Entries[0].Error == "" {
		t.Error("hub has no error")
	}

	// A guard that cannot be told has the last word.
	rule = mustLoad(t, folder("a.rego", serving("allocation.a", "g", "hub := \"h\"\n\nreject contains \"old\" if to_number(input.x) < 2")),
		ruleset.Options{Name: "rules"}).Serving(group("g"))
	if e, err = explanation.Explain(t.Context(), rule, decode(t, `{"x": "one"}`), ruleset.Outside{}); err != nil {
		t.Fatal(err)
	}
	want = `reject = null
  8 not_held
    fails 8: to_number(input.x) < 2: rules/a.rego:8: to_number: strconv.ParseFloat: parsing "one": invalid syntax
      input.x = "one"
hub = "h"
  6 gave "h"
`
	if diff := cmp.Diff(want, outline(e)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if e.Entries[0].Error == "" || e.Entries[1].Asked || len(e.BuiltinErrors) != 1 {
		t.Errorf("reject failed with %v; hub asked: %v; %v", e.Entries[0].Error, e.Entries[1].Asked, e.BuiltinErrors)
	}

	broken := mustLoad(t, folder("a.rego", serving("allocation.a", "g", "hub := nothing")), ruleset.Options{Name: "rules", Lazy: true}).Serving(group("g"))
	if _, err := explanation.Explain(t.Context(), broken, nil, ruleset.Outside{}); err == nil || !strings.Contains(err.Error(), "does not compile") {
		t.Errorf("of a rule that does not compile: %v", err)
	}
}

// An explanation ends when its context does, and tells what it found until then.
func TestExplainEnds(t *testing.T) {
	t.Parallel()
	rule := mustLoad(t, folder("a.rego", serving("allocation.a", "g", "reject contains \"no\" if input.x\n\n"+endless)), ruleset.Options{Name: "rules"}).Serving(group("g"))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	e, err := explanation.Explain(ctx, rule, map[string]any{}, ruleset.Outside{})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s with a deadline of 100 ms", took)
	}
	if !errors.Is(e.CutShort, context.DeadlineExceeded) {
		t.Errorf("cut short by %v", e.CutShort)
	}
	for _, entry := range e.Entries {
		for _, d := range entry.Definitions {
			if d.State != explanation.NotTraced {
				t.Errorf("%s is %s", d.Place, d.State)
			}
		}
	}

	// Rules that refer to more than anybody reads.
	var many strings.Builder
	many.WriteString("hub := \"h\" if {\n")
	for i := range 600 {
		fmt.Fprintf(&many, "\tr%d\n", i)
	}
	many.WriteString("}\n")
	for i := range 600 {
		fmt.Fprintf(&many, "\nr%d := %d\n", i, i+1)
	}
	rule = mustLoad(t, folder("a.rego", serving("allocation.a", "g", many.String())), ruleset.Options{Name: "rules"}).Serving(group("g"))
	e, err = explanation.Explain(t.Context(), rule, map[string]any{}, ruleset.Outside{})
	if err != nil {
		t.Fatal(err)
	}
	if e.CutShort == nil || e.Entries[0].Value != "h" || e.Entries[0].Definitions[0].State != explanation.Gave {
		t.Errorf("%v: %+v", e.CutShort, e.Entries[0].Value)
	}
}

// A choice by weight tells between which hubs it was.
func TestExplainDraws(t *testing.T) {
	t.Parallel()
	rule := mustLoad(t, folder("a.rego", serving("allocation.a", "g", `hub := chosen(weights)

chosen(w) := usher.choose(input.id, w, input.linkedHubs)

weights := {"a": 1, "b": 2, "c": 0, "elsewhere": 5}`)), ruleset.Options{Name: "rules"}).Serving(group("g"))
	seen := map[string]bool{}
	for i := range 50 {
		key := fmt.Sprint("dev-", i)
		e, err := explanation.Explain(t.Context(), rule, map[string]any{"id": key, "linkedHubs": []any{"A.azure-devices.net", "b.azure-devices.net", "c.azure-devices.net"}}, ruleset.Outside{})
		if err != nil {
			t.Fatal(err)
		}
		hub, _ := e.Entries[0].Value.(string)
		seen[hub] = true
		want := []explanation.Draw{{Place: "rules/a.rego:6", Key: key, Among: []string{"A.azure-devices.net", "b.azure-devices.net"}, Drawn: hub}}
		if got := e.Entries[0].Definitions[0].Draws; !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if len(seen) != 2 {
		t.Errorf("drawn were %v", seen)
	}
}

// The METADATA of a definition, or of all of them, is told.
func TestExplainMetadata(t *testing.T) {
	t.Parallel()
	rule := mustLoad(t, folder("a.rego", serving("allocation.a", "g", `# METADATA
# title: Where it goes
# description: Somewhere.
hub := "h"

payload := {}

# METADATA
# scope: document
# title: For all
payload := {} if input.x`)), ruleset.Options{Name: "rules"}).Serving(group("g"))
	e, err := explanation.Explain(t.Context(), rule, map[string]any{}, ruleset.Outside{})
	if err != nil {
		t.Fatal(err)
	}
	if hub := e.Entries[0]; hub.Title != "Where it goes" || hub.Description != "Somewhere." {
		t.Errorf("hub is %q, %q", hub.Title, hub.Description)
	}
	if payload := e.Entries[1]; payload.Title != "For all" {
		t.Errorf("payload is %q", payload.Title)
	}
}
