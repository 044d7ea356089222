package ruletest_test

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

const rule = `package allocation.default

import data.dps

hub := dps.first

payload := {"size": "big"} if input.deviceRuntimeContext.payload.size > data.limits.size

payload := {"size": "small"} if input.deviceRuntimeContext.payload.size <= data.limits.size
`

const library = `package dps

first := usher.choose("x", input.linkedHubs, input.linkedHubs)
`

const data = `{"size": 10}`

func files(tests string) fstest.MapFS {
	return fstest.MapFS{
		"default/default.rego":      {Data: []byte(rule)},
		"default/default_test.rego": {Data: []byte(tests)},
		"lib/dps.rego":              {Data: []byte(library)},
		"limits/data.json":          {Data: []byte(data)},
	}
}

// run returns the results in the order of lines, without durations.
func run(t *testing.T, fsys fstest.MapFS, options ruletest.Options) (*ruletest.Suite, []ruletest.Result) {
	t.Helper()
	options.Name = "rules"
	suite, err := ruletest.Load(t.Context(), fsys, options)
	if err != nil {
		t.Fatal(err)
	}
	var results []ruletest.Result
	for r, err := range suite.Run(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		r.Duration = 0
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b ruletest.Result) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Case, b.Case))
	})
	return suite, results
}

func TestEveryOutcome(t *testing.T) {
	t.Parallel()
	_, results := run(t, files(`package allocation.default_test

import data.allocation.default as rule

request(size) := {"linkedHubs": ["a.azure-devices.net"], "deviceRuntimeContext": {"payload": {"size": size}}}

test_hub if rule.hub == "a.azure-devices.net" with input as request(1)

test_false if {
	size := 11
	rule.payload.size == "small" with input as request(size)
}

test_print if {
	print("seen", 1)
	true
}

test_error if {
	rule.payload.size == "small" with input as request(1) with data.limits as {"size": 1, "size": 1}
	f(1) == 1
}

f(x) := 1 if x > 0

f(x) := 2 if x > 0

todo_test_later if false

test_cases[name] if {
	some name, c in {"above": {"size": 11, "want": "big"}, "at": {"size": 10, "want": "big"}}
	rule.payload.size == c.want with input as request(c.size)
}

test_twice if true

test_twice if false
`), ruletest.Options{})
	got := map[string]ruletest.Outcome{}
	for _, r := range results {
		got[strings.TrimPrefix(r.Name(), "data.allocation.default_test.")] = r.Outcome
		if r.File != "rules/default/default_test.rego" || r.Line == 0 {
			t.Errorf("%s is at %s:%d", r.Name(), r.File, r.Line)
		}
		if (r.Failure != nil) != (r.Outcome == ruletest.Fail) {
			t.Errorf("%s %s: failure %v", r.Name(), r.Outcome, r.Failure)
		}
	}
	want := map[string]ruletest.Outcome{
		"test_hub": ruletest.Pass, "test_false": ruletest.Fail, "test_print": ruletest.Pass, "test_error": ruletest.Error,
		"todo_test_later": ruletest.Skipped, "test_cases/above": ruletest.Pass, "test_cases/at": ruletest.Fail,
		"test_twice": ruletest.Pass, "test_twice#01": ruletest.Fail,
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, r := range results {
		switch {
		case r.Test == "test_false":
			if r.Failure.Line != 11 || !strings.Contains(r.Failure.Text, `rule.payload.size == "small"`) {
				t.Errorf("test_false fails at %+v", r.Failure)
			}
		case r.Case == "at":
			if !strings.Contains(r.Failure.Text, "rule.payload.size == c.want") || !strings.Contains(r.Failure.Text, `"big"`) {
				t.Errorf("the case fails at:\n%s", r.Failure.Text)
			}
		case r.Test == "test_print" && r.Printed != "seen 1\n":
			t.Errorf("test_print prints %q", r.Printed)
		case r.Test == "test_error" && !strings.Contains(r.Message, "give different values"):
			t.Errorf("test_error says %q", r.Message)
		}
	}
}

func TestRunPicksTests(t *testing.T) {
	t.Parallel()
	_, results := run(t, files("package allocation.default_test\n\ntest_a if true\n\ntest_b if false\n"),
		ruletest.Options{Run: regexp.MustCompile("test_b$")})
	if len(results) != 1 || results[0].Test != "test_b" || results[0].Failure == nil {
		t.Errorf("got %+v", results)
	}
}

func TestCoverage(t *testing.T) {
	t.Parallel()
	suite, _ := run(t, files(`package allocation.default_test

import data.allocation.default as rule

test_small if rule.payload.size == "small" with input.deviceRuntimeContext.payload.size as 1
`), ruletest.Options{Coverage: true})
	// Line 7 counts twice, as with opa test: it was begun, and did not hold to its end.
	want := ruletest.Coverage{Covered: 2, NotCovered: 3, Percent: 40, Files: []ruletest.File{
		{Name: "rules/default/default.rego", Covered: 2, NotCovered: 2, Percent: 50, Missed: []ruletest.Lines{{From: 5, To: 5}, {From: 7, To: 7}},
			Reached: []ruletest.Lines{{From: 7, To: 7}, {From: 9, To: 9}}},
		{Name: "rules/lib/dps.rego", NotCovered: 1, Missed: []ruletest.Lines{{From: 3, To: 3}}},
	}}
	if diff := gocmp.Diff(want, suite.Coverage()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A test of a rule that reads input, but which never sets it, has one result for all requests.
func TestWithoutInput(t *testing.T) {
	t.Parallel()
	const start = "package allocation.default_test\n\nimport data.allocation.default\n\nrequest := {\"linkedHubs\": [\"h\"]}\n\n"
	for name, c := range map[string]struct {
		test  string
		blind bool
	}{
		"input is set":              {"test_a if default.hub == \"h\" with input as request", false},
		"a part of it is set":       {"test_a if default.hub == \"h\" with input.linkedHubs as [\"h\"]", false},
		"a function sets it":        {"given(r) := h if { h := default.hub with input as r }\n\ntest_a if given(request) == \"h\"", false},
		"a rule sets it":            {"found := h if { h := default.hub with input as request }\n\ntest_a if found == \"h\"", false},
		"another of that name does": {"test_a if not default.payload\n\ntest_a if default.hub == \"h\" with input as request", true},
		"cases":                     {"test_a[c] if { some c in [\"h\"]; default.hub == c with input as request }", false},
		"it is not needed":          {"test_a if data.limits.size == 10", false},
		"it is never set":           {"test_a if not default.hub", true},
		"not in a nested body":      {"test_a if every x in [1] { not default.payload; x == 1 }", true},
		"only data is set":          {"test_a if not default.hub with data.limits.size as 1", true},
		"by way of another rule":    {"found := default.hub\n\ntest_a if not found", true},
	} {
		var want []string
		if c.blind {
			want = []string{"data.allocation.default_test.test_a"}
		}
		// default is a keyword, so the import needs a name.
		text := strings.ReplaceAll(start+c.test+"\n", "import data.allocation.default\n", "import data.allocation[\"default\"] as rule\n")
		suite, results := run(t, files(strings.ReplaceAll(text, "default.", "rule.")), ruletest.Options{})
		if diff := gocmp.Diff(want, suite.WithoutInput()); diff != "" || len(results) == 0 {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestUntested(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, tests string
		want        []string
	}{
		{"no test at all", "package allocation.default_test\n\nhelper := 1\n", []string{"allocation.default", "dps"}},
		{"a package named like it", "package allocation.default_test\n\ntest_a if true\n", []string{"dps"}},
		{"in the package itself", "package dps\n\ntest_a if true\n", []string{"allocation.default"}},
		{"a reference", "package other\n\nimport data.dps\n\ntest_a if dps.first\n\ntest_b if data.allocation.default.hub\n", nil},
	} {
		suite, err := ruletest.Load(t.Context(), files(c.tests), ruletest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(c.want, suite.Untested()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", c.name, diff)
		}
	}
}

func TestWhatDoesNotCompile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ tests, want string }{
		"syntax":         {"package a_test\n\ntest_a if :=\n", "rules/default/default_test.rego:3: rego_parse_error"},
		"unknown name":   {"package a_test\n\ntest_a if nothing(1)\n", "rules/default/default_test.rego:3: rego_type_error: undefined function nothing"},
		"off":            {"package a_test\n\ntest_a if http.send({\"url\": \"x\"})\n", "USHER_RULES_BUILTINS"},
		"misspelt input": {"package a_test\n\ntest_a if input.linkedHub\n", "linkedHubs"},
	} {
		suite, err := ruletest.Load(t.Context(), files(c.tests), ruletest.Options{Name: "rules"})
		if err == nil {
			for _, runErr := range suite.Run(t.Context()) {
				err = runErr
			}
		}
		if _, ok := errors.AsType[*ruleset.LoadError](err); !ok || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// A test that runs for ever ends with its time, or with the context.
func TestCutShort(t *testing.T) {
	t.Parallel()
	const slow = `package allocation.default_test

test_slow if {
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a + b == 0
}
`
	_, results := run(t, files(slow), ruletest.Options{Timeout: 20 * time.Millisecond})
	if len(results) != 1 || results[0].Outcome != ruletest.Error {
		t.Errorf("past its time: %+v", results)
	}
	suite, err := ruletest.Load(t.Context(), files(slow), ruletest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for r, runErr := range suite.Run(ctx) {
		if runErr == nil {
			t.Errorf("a result of what was cut short: %+v", r)
		}
		err = runErr
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cut short: %v", err)
	}
}
