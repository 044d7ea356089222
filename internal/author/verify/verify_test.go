package verify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

var update = flag.Bool("update", false, "rewrite the expected findings of the planted bugs")

// ruleFiles returns files of rules together with the shipped library.
func ruleFiles(t testing.TB, files map[string]string) fstest.MapFS {
	t.Helper()
	library, err := os.ReadFile("../../../rules/lib/dps.rego")
	if err != nil {
		t.Fatal(err)
	}
	fsys := fstest.MapFS{"lib/dps.rego": {Data: library}}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

// options returns the options of a search of the rules in fsys.
func options(t testing.TB, fsys fs.FS, builtins ...string) verify.Options {
	t.Helper()
	loading := decider.RulesOptions{Name: "rules", AllowBuiltins: builtins, Evaluator: ruleset.Compare}
	rules, err := decider.LoadRules(t.Context(), fsys, loading)
	if err != nil {
		t.Fatal(err)
	}
	return verify.Options{Rules: rules, Files: fsys, Seed: 1, Budget: 300, Timeout: time.Minute} // on a busy machine, too
}

// run searches. Both evaluators answer each request: what the search tries is what they are most likely to disagree on.
func run(t testing.TB, o verify.Options) *verify.Report {
	t.Helper()
	report, err := verify.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if count := o.Rules.Set().Evaluations(); count.Different.Load() > 0 {
		t.Errorf("%d of %d verdicts of the plan differ from those of topdown", count.Different.Load(), count.Compared.Load())
	}
	return report
}

// eachArchive runs a test for each archive of rules that a pattern matches.
func eachArchive(t *testing.T, pattern string, test func(t *testing.T, path string, archive *txtar.Archive, files map[string]string)) {
	archives, err := filepath.Glob(pattern)
	if err != nil || len(archives) < 12 {
		t.Fatalf("%d archives, %v", len(archives), err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{}
			for _, file := range archive.Files {
				files[file.Name] = string(file.Data)
			}
			test(t, path, archive, files)
		})
	}
}

// Each archive in testdata is a rule with a bug. Its first lines say which promises it breaks; all others must hold.
// The file want has the findings: each message, with the smallest request.
func TestPlantedBugs(t *testing.T) {
	t.Parallel()
	eachArchive(t, "testdata/*.txtar", func(t *testing.T, path string, archive *txtar.Archive, files map[string]string) {
		breaks := headerOf(archive, "breaks")
		if len(breaks) == 0 {
			t.Fatal("the archive does not say which promises it breaks")
		}
		delete(files, "want")
		fsys := ruleFiles(t, files)
		o := options(t, fsys, headerOf(archive, "builtins")...)
		o.Hubs = headerOf(archive, "hubs")
		if budget := headerOf(archive, "budget"); budget != nil {
			var err error
			if o.Budget, err = strconv.Atoi(budget[0]); err != nil {
				t.Fatal(err)
			}
		}
		report := run(t, o)
		var promises []string
		for _, finding := range report.Rules[0].Broken {
			if !slices.Contains(promises, finding.Promise) {
				promises = append(promises, finding.Promise)
			}
			isRequest(t, o.Rules, finding.Request)
			couldBeSent(t, finding.Request)
			if finding.Then != nil {
				couldBeSent(t, finding.Then)
			}
		}
		slices.Sort(breaks)
		slices.Sort(promises)
		if diff := cmp.Diff(breaks, promises); diff != "" {
			t.Errorf("other promises are broken (-planted +found):\n%s", diff)
		}
		got := brief(t, report)
		if *update {
			archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
			archive.Files = append(archive.Files, txtar.File{Name: "want", Data: []byte(got)})
			if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		want := archive.Files[len(archive.Files)-1]
		if headerOf(archive, "builtins") != nil {
			return // the findings of these rules are random
		}
		if diff := cmp.Diff(string(want.Data), got); want.Name != "want" || diff != "" {
			t.Errorf("other findings (-want +got), rewrite with -update:\n%s", diff)
		}
	})
}

// Correct rules of the same shapes as the planted bugs keep every promise, and the search reaches all of them.
func TestCorrectRules(t *testing.T) {
	t.Parallel()
	eachArchive(t, "testdata/correct/*.txtar", func(t *testing.T, _ string, _ *txtar.Archive, files map[string]string) {
		o := options(t, ruleFiles(t, files))
		o.Budget = 1500
		report := run(t, o)
		if found := brief(t, report); found != "" {
			t.Errorf("found:\n%s", found)
		}
		if rule := report.Rules[0]; rule.Outcomes["assigned"] == 0 {
			t.Errorf("nothing was assigned: %v", rule.Reasons)
		} else if missed := rule.Space.Branches.Missed; len(missed) > 0 {
			t.Errorf("not reached: %v", missed)
		}
	})
}

// headerOf reads a line such as "breaks: case order" before the files.
func headerOf(archive *txtar.Archive, name string) []string {
	for line := range strings.Lines(string(archive.Comment)) {
		if words, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Fields(words)
		}
	}
	return nil
}

// isRequest fails unless the body matches the schema of requests.
func isRequest(t *testing.T, rules *decider.Rules, body []byte) {
	t.Helper()
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	if _, a := allocator.AllocateJSON(t.Context(), body); a.Result == answer.Malformed || a.Result == answer.InvalidRequest {
		t.Errorf("not a request: %s\n%s", a.Summary(), body)
	}
}

var registrationID = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9:._-]{0,126}[A-Za-z0-9])?$`)

// couldBeSent fails for a request that DPS would not send.
func couldBeSent(t *testing.T, body []byte) {
	t.Helper()
	request, err := dps.ParseAllocationRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	device := request.Device
	if !registrationID.MatchString(device.RegistrationID) {
		t.Errorf("not a registration ID: %s", body)
	}
	if request.Enrollment.Kind == dps.IndividualEnrollment && !strings.EqualFold(device.RegistrationID, request.Enrollment.ID) {
		t.Errorf("the registration ID of another device: %s", body)
	}
	stays := request.Enrollment.Reprovision == dps.ReprovisionNever && device.CurrentIotHubHostName != ""
	if stays && (len(request.LinkedHubs) != 1 || !dps.SameHub(request.LinkedHubs[0], device.CurrentIotHubHostName)) {
		t.Errorf("a device that must stay has a choice: %s", body)
	}
	record := request.Body().Get(string(request.Enrollment.Kind))
	for _, name := range []string{"createdDateTimeUtc", "lastUpdatedDateTimeUtc"} {
		if value := record.Get(name); value != nil {
			if _, err := time.Parse(time.RFC3339, value.Text()); err != nil {
				t.Errorf("%s is no date: %s", name, body)
			}
		}
	}
}

// brief writes the findings, each in two lines.
func brief(t *testing.T, report *verify.Report) string {
	var text strings.Builder
	for _, rule := range report.Rules {
		for _, finding := range rule.Broken {
			var request bytes.Buffer
			if err := json.Compact(&request, finding.Request); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "%s at %s: %s\n%s\n", finding.Promise, finding.Place, finding.Message, request.Bytes())
			for _, row := range finding.Rows {
				fmt.Fprintln(&text, row)
			}
		}
	}
	return text.String()
}

// The shipped rules keep every promise.
func TestShippedRules(t *testing.T) {
	t.Parallel()
	o := options(t, os.DirFS("../../../rules"))
	o.Budget = 600
	report := run(t, o)
	if len(report.Rules) < 6 {
		t.Errorf("%d rules were searched", len(report.Rules))
	}
	if found := brief(t, report); found != "" {
		t.Errorf("found:\n%s", found)
	}
	for _, rule := range report.Rules {
		if rule.Outcomes["assigned"] < 50 {
			t.Errorf("%s: only %d of %d requests were assigned, so the search covered little", rule.Rule, rule.Outcomes["assigned"], rule.Space.Asked)
		}
		if !rule.Space.Exhaustive && rule.Space.Paired != rule.Space.Pairs {
			t.Errorf("%s: %d of %d pairs were tried", rule.Rule, rule.Space.Paired, rule.Space.Pairs)
		}
		if rule.Space.Invalid > 0 {
			t.Errorf("%s: %d requests are invalid", rule.Rule, rule.Space.Invalid)
		}
		if len(rule.Skipped) > 0 {
			t.Errorf("%s skips %v", rule.Rule, rule.Skipped)
		}
	}
}

// The same seed gives the same search, for any number of workers.
func TestReproducible(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"missing_default", "lookup_hub_unlinked", "lookup_drained_hub", "freeze_window"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile("testdata/" + name + ".txtar")
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{}
			for _, file := range archive.Files {
				files[file.Name] = string(file.Data)
			}
			delete(files, "want")
			o := options(t, ruleFiles(t, files), headerOf(archive, "builtins")...)
			o.Budget = 200 // so that not all requests of missing_default can be tried, and some are random
			reports := map[int]*verify.Report{}
			for _, workers := range []int{1, 7} {
				o.Workers = workers
				reports[workers] = run(t, o)
			}
			if name == "missing_default" && reports[1].Rules[0].Space.Random == 0 {
				t.Error("no request was random")
			}
			if diff := cmp.Diff(reports[1], reports[7]); diff != "" {
				t.Errorf("-one worker +seven:\n%s", diff)
			}
		})
	}
}

const good = "# METADATA\n# custom:\n#   enrollment_groups: [line-a]%s\npackage allocation.line\n\nimport data.dps\n\nhub := dps.spread(dps.linked_hubs)\n"

func TestSkips(t *testing.T) {
	t.Parallel()
	const first = "# METADATA\n# custom:\n#   enrollment_groups: [line-a]\n#   verify:\n#     skip:\n#       - {promise: order, reason: ours are sorted}\n" +
		"#       - {promise: unlink, reason: follows}\n#       - {promise: twin, reason: unneeded}\npackage allocation.line\n\nhub := input.linkedHubs[floor(count(input.linkedHubs) / 2)]\n"
	report := run(t, options(t, ruleFiles(t, map[string]string{"line.rego": first})))
	rule := report.Rules[0]
	if report.Broken() != 0 || len(rule.Skipped) != 3 || rule.Skipped[0].Reason != "ours are sorted" ||
		rule.Skipped[0].Broken == 0 || rule.Skipped[1].Broken == 0 || rule.Skipped[2].Broken != 0 {
		t.Errorf("got %d broken, skipped %+v", report.Broken(), rule.Skipped)
	}
	for custom, want := range map[string]string{
		"\n#   verify: {skip: [{promise: order}]}":                     "rules/line.rego:1: custom.verify: the promise order is skipped without a reason",
		"\n#   verify: {skip: [{promise: orders, reason: x}]}":         `there is no promise "orders": use assigns, outcome, one-answer`,
		"\n#   verify: {skip: order}":                                  "it must contain only skip, a list",
		"\n#   verify: {skipped: [{promise: order, reason: typo}]}":    "it must contain only skip, a list",
		"\n#   verify: {skip: [{promise: order, reason: x}], also: 1}": "it must contain only skip, a list",
	} {
		_, err := verify.Run(t.Context(), options(t, ruleFiles(t, map[string]string{"line.rego": fmt.Sprintf(good, custom)})))
		if !isLoadError(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", custom, err, want)
		}
	}
}

func TestSelection(t *testing.T) {
	t.Parallel()
	archive, err := txtar.ParseFile("testdata/first_linked.txtar")
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, ruleFiles(t, map[string]string{"line.rego": string(archive.Files[0].Data), "other.rego": strings.NewReplacer("line-a", "line-b", ".line", ".other", "%s", "").Replace(good)}))
	o.Promises = []string{"case", "twin"}
	if report := run(t, o); report.Broken() != 0 || len(report.Rules) != 2 {
		t.Errorf("with other promises: %+v", report)
	}
	o.Promises, o.Only = nil, []string{"line"}
	if report := run(t, o); report.Broken() != 1 || len(report.Rules) != 1 || report.Rules[0].Rule != "allocation.line" {
		t.Errorf("of one rule: %+v", report)
	}
	o.Only = []string{"lines"}
	if _, err := verify.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), `there is no rule "lines": use allocation.line, allocation.other`) {
		t.Errorf("of an unknown rule: %v", err)
	}
	o.Only, o.Promises = nil, []string{"cases"}
	if _, err := verify.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), `there is no promise "cases"`) {
		t.Errorf("with an unknown promise: %v", err)
	}
}

func isLoadError(err error) bool {
	_, ok := errors.AsType[*ruleset.LoadError](err)
	return ok
}

func TestInvariantsThatDoNotLoad(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"package allocation.line_invariants\n\ninvariant contains \"x\" if input.decision.hubs\n":        "rules/line_invariants.rego:3: rego_type_error: undefined ref: input.decision.hubs",
		"package allocation.line_invariants\n\ninvariant contains \"x\" if input.request.linkedHub\n":    "undefined ref: input.request.linkedHub",
		"package allocation.lines_invariants\n\ninvariant contains \"x\" if input.decision.hub\n":        "package allocation.lines_invariants contains invariants, but its name is not the name of a rule",
		"package allocation.line_invariants\n\ninvariants contains \"x\" if input.decision.hub\n":        "package allocation.line_invariants has no rule invariant contains",
		"package allocation.line_invariants\n\ninvariant := \"x\" if input.decision.hub\n":               "package allocation.line_invariants has no rule invariant contains",
		"package allocation.line_invariants\n\ninvariant contains \"x\" if http.send({\"url\": \"\"})\n": "undefined function http.send",
		"package allocation.line_invariants\n\ninvariant contains":                                       "rego_parse_error",
	} {
		o := options(t, ruleFiles(t, map[string]string{"line.rego": fmt.Sprintf(good, ""), "line_invariants.rego": text}))
		if _, err := verify.Run(t.Context(), o); !isLoadError(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v, want %s", text, err, want)
		}
	}
}

// Invariants of package allocation.invariants apply to every rule, and see rejections, holds, the payload and the twin.
func TestInvariantsOfAll(t *testing.T) {
	t.Parallel()
	rule := fmt.Sprintf(good, "") + "\ninitial_twin := {\"tags\": {\"site\": \"ulm\"}}\n\npayload := {\"said\": dps.payload_string(\"word\")}\n\nreject contains \"bad\" if dps.payload_string(\"word\") == \"bad\"\n\nhold contains \"late\" if dps.payload_string(\"word\") == \"late\"\n"
	judge := `package allocation.invariants

invariant contains "rejected" if { input.decision.outcome == "rejected"; "bad" in input.decision.reasons }

invariant contains "held" if { input.decision.outcome == "held"; not input.decision.hub }

invariant contains "told" if input.decision.payload.said == "usher-other"

invariant contains "twin" if { input.decision.initialTwin.tags.site == "ulm"; input.request.deviceRuntimeContext.payload.word == "" }
`
	o := options(t, ruleFiles(t, map[string]string{"line.rego": rule, "all_invariants.rego": judge}))
	report := run(t, o)
	var messages []string
	for _, finding := range report.Rules[0].Broken {
		if finding.Promise != "invariant" {
			t.Errorf("also %s: %s", finding.Promise, finding.Message)
		}
		messages = append(messages, finding.Message)
	}
	if diff := cmp.Diff([]string{"held", "rejected", "told", "twin"}, messages); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// The webhook does not serve them.
	if digest := options(t, ruleFiles(t, map[string]string{"line.rego": rule})).Rules.Digest(); digest != o.Rules.Digest() {
		t.Error("invariants change the digest of the rules")
	}
}

// The search finds enrollments that no other rule serves. If there are none, the report says so.
func TestShadowedRules(t *testing.T) {
	t.Parallel()
	rule := func(name, groups string) string {
		return strings.NewReplacer("[line-a]", groups, ".line", "."+name, "%s", "").Replace(good)
	}
	files := map[string]string{
		"wide.rego":    rule("wide", "[line-*]"),
		"exact.rego":   rule("exact", "[line, line-a1, line-usher-0]"),
		"all.rego":     strings.Replace(rule("all", "[\"*\"]"), "#   enrollment_groups", "#   individual_enrollments: [\"*\"]\n#   enrollment_groups", 1),
		"default.rego": "package allocation.default\n\nhub := input.linkedHubs[0]\n",
	}
	report := run(t, options(t, ruleFiles(t, files)))
	for _, r := range report.Rules {
		if searched := r.Space.Asked > 0; searched == (r.Rule == "allocation.default") {
			t.Errorf("%s: %d requests, %v", r.Rule, r.Space.Asked, r.Space.Notes)
		}
		if r.Rule == "allocation.default" && (len(r.Space.Notes) != 1 || len(r.Broken) != 0) {
			t.Errorf("%+v", r)
		}
	}
}

// A rule that exceeds its time limit is not evaluated thousands of times.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	slow := fmt.Sprintf(good, "") + "\npayload := {\"n\": count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j == 0])}\n"
	o := options(t, ruleFiles(t, map[string]string{"line.rego": slow}))
	o.Timeout = 20 * time.Millisecond
	rule := run(t, o).Rules[0]
	if len(rule.Broken) != 1 || rule.Broken[0].Promise != "no-error" || rule.Space.Asked > 20 || !slices.Contains(rule.Space.Notes, "stopped after 8 timeouts") {
		t.Errorf("got %+v", rule)
	}
}

// A search that is interrupted reports what it has found.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	o := options(t, ruleFiles(t, map[string]string{"line.rego": strings.Replace(fmt.Sprintf(good, ""), "dps.spread(dps.linked_hubs)", "input.linkedHubs[0]", 1)}))
	o.Workers = 1
	calls := 0
	o.Progress = func(done, total int) {
		if calls++; done > total/2 {
			cancel()
		}
	}
	report, err := verify.Run(ctx, o)
	if err != nil || !report.Interrupted || report.Broken() == 0 || report.Rules[0].Space.Asked == 0 {
		t.Errorf("got %+v, %v", report, err)
	}
	if calls == 0 {
		t.Error("no progress was reported")
	}
}

// The schema of a payload adds members that the rule does not name, and values that it does not contain.
func TestPayloadSchema(t *testing.T) {
	t.Parallel()
	// No one can find out from the rule what the device sends.
	rule := fmt.Sprintf(good, "") + "\nhold contains \"too much\" if sum([n | some n in object.keys(dps.payload); false]) > 1\n\npayload := \"overflow\" if {\n\tsome value in dps.payload\n\tis_string(value)\n\tcrypto.sha256(value) == \"b1f51a511f1da0cd348b8f8598db32e61cb963e5fc69e2b41485bf99590ed75a\"\n}\n"
	o := options(t, ruleFiles(t, map[string]string{"line.rego": rule}))
	if report := run(t, o); report.Broken() != 0 {
		t.Fatalf("found without a schema: %s", brief(t, report))
	}
	fields, err := verify.ParsePayloadSchema([]byte(`{
		"properties": {
			"color": {"$ref": "#/$defs/color"},
			"level": {"type": "integer", "minimum": 3, "exclusiveMaximum": 9},
			"nested": {"properties": {"serial": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}, "on": {"type": "boolean"}}},
			"anything": true
		},
		"allOf": [{"properties": {"extra": {"const": 7}}}],
		"$defs": {"color": {"enum": ["red", "green"]}}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []verify.Field{
		{Pointer: "/color", Values: []any{"red", "green"}},
		{Pointer: "/level", Values: []any{json.Number("3"), json.Number("2"), json.Number("4"), json.Number("2.5"), json.Number("3.5"),
			json.Number("9"), json.Number("8"), json.Number("10"), json.Number("8.5"), json.Number("9.5")}},
		{Pointer: "/nested/on", Values: []any{true, false}},
		{Pointer: "/nested/serial", Values: []any{"AA-1"}},
		{Pointer: "/extra", Values: []any{json.Number("7")}},
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	o.PayloadSchema = fields
	report := run(t, o)
	if report.Broken() != 1 || report.Rules[0].Broken[0].Promise != "payload" || !bytes.Contains(report.Rules[0].Broken[0].Request, []byte(`"color": "red"`)) {
		t.Errorf("with a schema: %s", brief(t, report))
	}
	for text, want := range map[string]string{
		`{`:                                      "not JSON",
		`[]`:                                     "not a JSON object",
		`{"type": "string"}`:                     "names no properties",
		`{"properties": {"a": {"$ref": "#/b"}}}`: `refers to "#/b", which the file does not contain`,
		`{"properties": {"a": {"$ref": "https://example.com/b"}}}`: "which the file does not contain",
		`{"properties": {"a": {"$ref": "#/properties/a"}}}`:        "in a circle",
	} {
		if _, err := verify.ParsePayloadSchema([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// Generated requests are served by their rule, are all different, and are the same again for the same seed.
func TestGenerate(t *testing.T) {
	t.Parallel()
	o := options(t, os.DirFS("../../../rules"))
	o.Budget, o.Seed, o.Only = 60, 7, []string{"default", "tenants"}
	generate := func(o verify.Options) []verify.Generated {
		requests, err := verify.Generate(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return requests
	}
	first := generate(o)
	allocator, err := decider.New(decider.Options{Rules: o.Rules})
	if err != nil {
		t.Fatal(err)
	}
	counts, assigned, seen := map[string]int{}, map[string]int{}, map[string]bool{}
	for _, one := range first {
		_, a := allocator.AllocateJSON(t.Context(), one.Body)
		if !a.Result.IsOutcome() || a.PackageName() != one.Rule {
			t.Fatalf("%s is decided by %q (%s):\n%s", one.Rule, a.PackageName(), a.Summary(), one.Body)
		}
		if seen[string(one.Body)] {
			t.Errorf("twice: %s", one.Body)
		}
		seen[string(one.Body)] = true
		counts[one.Rule]++
		if a.Result == answer.Assigned {
			assigned[one.Rule]++
		}
	}
	if len(counts) != 2 {
		t.Errorf("requests for %v", counts)
	}
	for rule, n := range counts {
		if n != 60 || assigned[rule] < 30 {
			t.Errorf("%s: %d requests, %d are assigned", rule, n, assigned[rule])
		}
	}
	o.Only = []string{"tenants"}
	if diff := cmp.Diff(slices.Collect(func(yield func(verify.Generated) bool) {
		for _, one := range first {
			if one.Rule == "allocation.tenants" && !yield(one) {
				return
			}
		}
	}), generate(o)); diff != "" {
		t.Errorf("without the other rules (-with +without):\n%s", diff)
	}
	o.Seed = 8
	if cmp.Equal(first, generate(o)) {
		t.Error("another seed gives the same requests")
	}
	o.Only = []string{"nobody"}
	if _, err := verify.Generate(t.Context(), o); err == nil || !strings.Contains(err.Error(), `there is no rule "nobody"`) {
		t.Errorf("of an unknown rule: %v", err)
	}
}
