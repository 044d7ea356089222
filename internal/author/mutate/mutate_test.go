package mutate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/author/mutate"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// options are those for a folder with these files.
func options(files map[string]string) mutate.Options {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return mutate.Options{Files: fsys, Rules: decider.RulesOptions{Name: "rules"}, Requests: 100}
}

func run(t *testing.T, o mutate.Options) *mutate.Report {
	t.Helper()
	report, err := mutate.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// shown writes the changes by an operator as "before -> after", with spaces in place of line breaks.
func shown(report *mutate.Report, operator string) []string {
	var list []string
	for _, c := range report.Changes {
		if c.Operator == operator {
			list = append(list, strings.Join(strings.Fields(c.Before), " ")+" -> "+strings.Join(strings.Fields(c.After), " "))
		}
	}
	return list
}

// Each operator makes these changes to the text of a rule, and no others.
func TestOperators(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		operator, text string
		want           []string
	}{
		{"expression", "a if {\n\tinput.linkedHubs\n\tx := 1\n\tsome y in [1]\n\tx == y\n}", []string{
			"input.linkedHubs -> true",
			"x == y -> true",
		}},
		{"expression", "a if every x in [1] { x > 0 }", []string{
			"a if every x in [1] { x > 0 } -> a if true",
			"a if every x in [1] { x > 0 } -> a if every x in [1] { true }",
		}},
		{"negation", "a if {\n\tinput.linkedHubs\n\tnot input.usher\n\tcount(input.linkedHubs) > 1\n}", []string{
			"input.linkedHubs -> not input.linkedHubs",
			"not input.usher -> input.usher",
		}},
		{"comparison", "a if 1 == 2\n\nb if 1 < 2\n\nc := 1 >= 2", []string{
			"a if 1 == 2 -> a if 1 != 2",
			"b if 1 < 2 -> b if 1 <= 2",
			"b if 1 < 2 -> b if 1 >= 2",
			"c := 1 >= 2 -> c := 1 > 2",
			"c := 1 >= 2 -> c := 1 < 2",
		}},
		{"pattern", "a if startswith(\"press-é\", \"press-é\")\n\nb if endswith(\"x\", \"-1\")\n\nc if regex.match(`^a\\d$`, \"a1\")\n\nd if regex.match(\"a\\\\$\", \"a\")\n\ne if glob.match(\"a*\", [], \"a\")", []string{
			`a if startswith("press-é", "press-é") -> a if startswith("press-é", "press-")`,
			`b if endswith("x", "-1") -> b if endswith("x", "1")`,
			"c if regex.match(`^a\\d$`, \"a1\") -> c if regex.match(`a\\d$`, \"a1\")",
			"c if regex.match(`^a\\d$`, \"a1\") -> c if regex.match(`^a\\d`, \"a1\")",
			`e if glob.match("a*", [], "a") -> e if glob.match("*", [], "a")`,
		}},
		{"entry", "a := {\"x\": 1, \"y\": [1, 2]}\n\nb := {7, 8,}\n\nc := [9]", []string{
			`a := {"x": 1, "y": [1, 2]} -> a := {"y": [1, 2]}`,
			`a := {"x": 1, "y": [1, 2]} -> a := {"x": 1}`,
			`a := {"x": 1, "y": [1, 2]} -> a := {"x": 1, "y": [2]}`,
			`a := {"x": 1, "y": [1, 2]} -> a := {"x": 1, "y": [1]}`,
			"b := {7, 8,} -> b := {8,}",
			"b := {7, 8,} -> b := {7,}",
		}},
		{"table", "a := {\"x\": [1]}\n\nb := {7}", []string{
			`a := {"x": [1]} -> a := {}`,
			`a := {"x": [1]} -> a := {"x": []}`,
			"b := {7} -> b := set()",
		}},
		{"hub", "a := {\"eu-hub\": 2, \"us-hub\": 1}\n\nb := \"no-hub\"", []string{
			`a := {"eu-hub": 2, "us-hub": 1} -> a := {"us-hub": 2, "eu-hub": 1}`,
		}},
		{"hub", "a := [\"eu-hub\", \"us-hub\"]", nil},
		{"else", "a := 1 if {\n\tinput.linkedHubs[1]\n} else := 2 if {\n\tinput.linkedHubs[2]\n} else := 3", []string{
			"} else := 2 if { input.linkedHubs[2] } else := 3 -> } else := 3",
			"} else := 3 -> }",
		}},
		{"definition", "default a := 0\n\na := x if {\n\tx := 1\n}\n\nb := 2\n\nreject contains \"no\" if not b", []string{
			"default a := 0 -> ",
			"a := x if { x := 1 -> a := x if { false; x := 1",
			"b := 2 -> b := 2 if false",
			`reject contains "no" if not b -> reject contains "no" if false`,
		}},
		{"number", "a := -1\n\nb if 2.5 < 3", []string{
			"b if 2.5 < 3 -> b if 2.5 < 4",
		}},
		{"boolean", "default a := false\n\na if input.enrollmentGroup.capabilities.iotEdge == true", []string{
			"default a := false -> default a := true",
			"a if input.enrollmentGroup.capabilities.iotEdge == true -> a if input.enrollmentGroup.capabilities.iotEdge == false",
		}},
		// The words of a reason are no decision, but what else the object says is.
		{"number", "hold contains {\"reason\": sprintf(\"%d\", [1]), \"status\": 428} if input.linkedHubs", []string{
			`hold contains {"reason": sprintf("%d", [1]), "status": 428} if input.linkedHubs -> ` +
				`hold contains {"reason": sprintf("%d", [1]), "status": 429} if input.linkedHubs`,
		}},
		{"entry", "reject contains concat(\" \", [\"a\", \"b\"]) if input.linkedHubs[3]", nil},
	} {
		// No rule depends on the package, which saves the search for requests.
		o := options(map[string]string{
			"default.rego":   "package allocation.default\n\nhub := usher.choose(\"x\", [\"eu-hub\", \"us-hub\"], input.linkedHubs)\n",
			"text.rego":      "package text\n\n" + c.text + "\n",
			"text_test.rego": "package text_test\n\ntest_a if true\n",
		})
		o.Run = regexp.MustCompile("text_test")
		if diff := gocmp.Diff(c.want, shown(run(t, o), c.operator)); diff != "" {
			t.Errorf("%s of\n%s\n-want +got:\n%s", c.operator, c.text, diff)
		}
	}
}

const lines = `# METADATA
# custom:
#   enrollment_groups: [line-*]
package allocation.line

hub := usher.choose("x", {data.line.hub: 1}, input.linkedHubs)

reject contains "not a press" if not startswith(input.deviceRuntimeContext.registrationId, "press-")
`

const linesTest = `package allocation.line_test

import data.allocation.line

request(id) := {"deviceRuntimeContext": {"registrationId": id}, "linkedHubs": ["a-hub.azure-devices.net"]}

test_hub if line.hub == "a-hub.azure-devices.net" with input as request("press-1")

test_press if line.reject == set() with input as request("press-1")
`

const linesData = `{"hub": "a-hub"}`

// The tests above never ask for a device that is refused: nobody notices that the rule refuses none. A test with the
// request that is shown would.
func TestSurvivor(t *testing.T) {
	t.Parallel()
	o := options(map[string]string{"line/line.rego": lines, "line/line_test.rego": linesTest, "line/data.json": linesData})
	report := run(t, o)
	var survivors []string
	for _, c := range report.Changes {
		if c.Outcome != mutate.Survived {
			continue
		}
		survivors = append(survivors, c.Operator)
		if c.File != "rules/line/line.rego" || c.Line != 8 {
			t.Errorf("%s is at %s:%d", c.Operator, c.File, c.Line)
		}
		before, after := answers(t, o, c)
		if c.Operator == "definition" && (before != "rejected" || after != "assigned") {
			t.Errorf("the request %s is %s before and %s after", c.Witness.Request, before, after)
		}
		if before == after {
			t.Errorf("%s: the answers to %s do not differ", c.Operator, c.Witness.Request)
		}
	}
	slices.Sort(survivors)
	if diff := gocmp.Diff([]string{"definition", "pattern"}, survivors); diff != "" {
		t.Errorf("survivors, -want +got:\n%s", diff)
	}
	if want := float64(1000*report.Noticed/(report.Noticed+2)) / 10; report.Score != want || report.Noticed == 0 {
		t.Errorf("score %v of %+v", report.Score, report)
	}
}

// answers decides the request of a survivor again, with the rules before and after the change.
func answers(t *testing.T, o mutate.Options, c mutate.Change) (before, after string) {
	t.Helper()
	changed := fstest.MapFS{}
	for name, file := range o.Files.(fstest.MapFS) {
		changed[name] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(string(file.Data), c.Before, c.After))}
	}
	return outcome(t, o.Files, c.Witness.Request), outcome(t, changed, c.Witness.Request)
}

func outcome(t *testing.T, files fs.FS, request []byte) string {
	t.Helper()
	loaded, err := decider.LoadRules(t.Context(), files, decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := decider.New(decider.Options{Rules: loaded})
	if err != nil {
		t.Fatal(err)
	}
	_, a := d.AllocateJSON(t.Context(), request)
	return string(a.Result)
}

const always = "package allocation.default\n\nhub := input.linkedHubs[0]\n"

// A change without any effect is set aside with its reason.
func TestEquivalentChangeIsSetAside(t *testing.T) {
	t.Parallel()
	text := "package allocation.default\n\nhub := input.linkedHubs[0] if count(input.linkedHubs) >= 0\n"
	for _, c := range run(t, options(map[string]string{"default.rego": text})).Changes {
		if c.Operator == "expression" && (c.Outcome != mutate.SetAside || !regexp.MustCompile(`^no request of \d+ was answered differently$`).MatchString(c.Reason)) {
			t.Errorf("%s %q of %s", c.Outcome, c.Reason, c.After)
		}
	}
	// No request can reach a package that no rule uses.
	unused := run(t, options(map[string]string{"default.rego": always, "lib.rego": "package unused\n\na := 1\n"}))
	for _, c := range unused.Changes {
		if c.File == "rules/lib.rego" && (c.Outcome != mutate.SetAside || c.Reason != "no request reaches a rule that depends on it") {
			t.Errorf("%s %q of %s", c.Outcome, c.Reason, c.After)
		}
	}
}

// With a test that fails already, all changes would count as noticed.
func TestBrokenBaseline(t *testing.T) {
	t.Parallel()
	o := options(map[string]string{"default.rego": always, "default_test.rego": "package default_test\n\ntest_a if false\n"})
	_, err := mutate.Run(t.Context(), o)
	if failed, ok := errors.AsType[*mutate.BaselineError](err); !ok || failed.Name != "data.default_test.test_a" {
		t.Errorf("got %v", err)
	}
	o = options(map[string]string{"default.rego": always})
	o.Exchanges = []exchange.Exchange{{Name: "gone", Request: "gone.request.json", Decision: "gone.decision.json"}}
	if _, err = mutate.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "gone fails without any change") {
		t.Errorf("got %v", err)
	}
}

// endless takes hours once enabled.
const endless = `package allocation.default

default enabled := false

hub := input.linkedHubs[0]

reject contains "slow" if {
	enabled
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a + b == 0
}
`

// A change that makes a rule run without end has been noticed: by a test that exceeds its time, or by the decider.
func TestEndlessChange(t *testing.T) {
	t.Parallel()
	const test = `package allocation.default_test

test_hub if data.allocation["default"].reject == set() with input.linkedHubs as ["a"]
`
	for want, files := range map[string]map[string]string{
		"test":       {"default.rego": endless, "default_test.rego": test},
		"time limit": {"default.rego": endless},
	} {
		o := options(files)
		o.Requests, o.TestTimeout = 4, 200*time.Millisecond
		report := run(t, o)
		i := slices.IndexFunc(report.Changes, func(c mutate.Change) bool { return c.Operator == "boolean" })
		if c := report.Changes[i]; c.Outcome != mutate.Noticed || c.NoticedBy != want {
			t.Errorf("%s, by %q, want by %q", c.Outcome, c.NoticedBy, want)
		}
	}
}

// An invariant notices what no test does, if it held before.
func TestInvariantNotices(t *testing.T) {
	t.Parallel()
	const invariant = `package allocation.line_invariants

invariant contains "a device that is no press has a hub" if {
	input.decision.outcome == "assigned"
	not startswith(input.request.deviceRuntimeContext.registrationId, "press-")
}

invariant contains "broken anyway" if input.decision.outcome == "assigned"
`
	report := run(t, options(map[string]string{"line/line.rego": lines, "line/line_test.rego": linesTest, "line/data.json": linesData,
		"line/line_invariants.rego": invariant}))
	noticed := 0
	for _, c := range report.Changes {
		if c.NoticedBy == "invariant" {
			noticed++
		}
	}
	if noticed != 2 || report.Survived != 0 {
		t.Errorf("invariants notice %d changes, %d survived", noticed, report.Survived)
	}
}

// Data is changed like tables in rules. Two hubs that change places survive unless a test uses the data.
func TestData(t *testing.T) {
	t.Parallel()
	const rule = `package allocation.default

hub := usher.choose("x", [data.plants[input.enrollmentGroup.enrollmentGroupId]], input.linkedHubs)
`
	report := run(t, options(map[string]string{
		"default.rego": rule, "plants/data.json": "{\n  \"a\": \"a-hub\",\n  \"b\": \"b-hub\"\n}\n", "other/data.yaml": "a: 1\n",
	}))
	var got []string
	for _, c := range report.Changes {
		if c.File == "rules/plants/data.json" {
			got = append(got, fmt.Sprintf("%d %s %s", c.Line, c.Operator, c.Outcome))
		}
	}
	want := []string{"1 table survived", "2 entry survived", "2 hub survived", "3 entry survived"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Of a table with thousands of entries, some are tried, and the others are counted.
func TestLargeTable(t *testing.T) {
	t.Parallel()
	table := map[string]int{}
	for i := range 1000 {
		table[fmt.Sprint("key-", i)] = i
	}
	text, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	o := options(map[string]string{"default.rego": always, "table/data.json": string(text)})
	o.Requests = 4
	if report := run(t, o); report.LeftOut != 900 || len(report.Changes) > 150 {
		t.Errorf("%d changes, %d left out", len(report.Changes), report.LeftOut)
	}
}

// A selection of tests selects the rules that they are for, and a change elsewhere is not tried.
func TestRunSelects(t *testing.T) {
	t.Parallel()
	o := options(map[string]string{"default.rego": always, "line/line.rego": lines, "line/line_test.rego": linesTest, "line/data.json": linesData,
		"line/other.rego": "package other\n\na := 1\n"})
	o.Run = regexp.MustCompile("line_test")
	files := map[string]bool{}
	for _, c := range run(t, o).Changes {
		files[c.File] = true
	}
	if diff := gocmp.Diff(map[string]bool{"rules/line/line.rego": true, "rules/line/data.json": true}, files); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Whoever interrupts it gets what was found so far.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	o := options(map[string]string{"line/line.rego": lines, "line/line_test.rego": linesTest, "line/data.json": linesData})
	o.Workers = 1
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	total := 0
	o.Progress = func(done, all int) {
		total = all
		if done == 2 {
			cancel()
		}
	}
	report, err := mutate.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Changes) == 0 || len(report.Changes)+report.LeftOut != total || report.LeftOut == 0 {
		t.Errorf("%d changes and %d left out, of %d", len(report.Changes), report.LeftOut, total)
	}
}
