package lint_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/internal/lint"
)

// sampleReport has findings of both levels, one that is silenced, and text that every
// format has to quote.
func sampleReport() lint.Report {
	return lint.Report{
		Rules: []string{"allocation.a", "allocation.b"},
		Findings: []lint.Finding{
			{Lint: "payload-decides", Level: lint.Error, Rule: "allocation.a", File: `rules\a, b/100%.rego`, Line: 7, Column: 3,
				Message: "it says <hub> & \"100%\"\nin two lines", Mend: "look: here"},
			{Lint: "no-title", Level: lint.Warning, Rule: "allocation.b", File: "rules/b.rego", Line: 1, Message: "no title", Mend: "write one"},
		},
		Silenced: []lint.Silenced{{Finding: lint.Finding{Lint: "no-tests", Level: lint.Warning, Rule: "allocation.b", File: "rules/b.rego",
			Line: 1, Message: "no tests", Mend: "write some"}, Reason: "it is <tried> in the lab"}},
		Skipped: []string{"unlinked-hub"},
	}
}

// The schema in testdata has the part of SARIF 2.1.0 that is written, and nothing else.
func TestSARIF(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.Compile(filepath.Join("testdata", "sarif.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	unloadable := lint.Report{Findings: lint.Problems(loadError(t))}
	if len(unloadable.Findings) != 1 {
		t.Fatalf("findings of rules that do not load: %+v", unloadable.Findings)
	}
	for name, report := range map[string]lint.Report{"empty": {}, "sample": sampleReport(), "not loaded": unloadable} {
		var text bytes.Buffer
		if err := lint.WriteSARIF(&text, report, "v1.0.0"); err != nil {
			t.Fatal(err)
		}
		var document any
		if err := json.Unmarshal(text.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); err != nil {
			t.Errorf("%s: %#v", name, err)
		}
		var log struct {
			Runs []struct {
				Tool struct {
					Driver struct{ Rules []struct{ ID string } }
				}
				Results []struct {
					RuleID       string `json:"ruleId"`
					RuleIndex    int    `json:"ruleIndex"`
					Suppressions []struct{ Justification string }
					Locations    []struct {
						PhysicalLocation struct{ ArtifactLocation struct{ URI string } }
					}
				}
			}
		}
		if err := json.Unmarshal(text.Bytes(), &log); err != nil {
			t.Fatal(err)
		}
		run := log.Runs[0]
		if want := len(report.Findings) + len(report.Silenced); len(run.Results) != want {
			t.Errorf("%s: %d results, want %d", name, len(run.Results), want)
		}
		for _, result := range run.Results {
			if got := run.Tool.Driver.Rules[result.RuleIndex].ID; got != result.RuleID {
				t.Errorf("%s: result %s points to the rule %s", name, result.RuleID, got)
			}
			if suppressed := len(result.Suppressions) > 0; suppressed != (result.RuleID == "no-tests") {
				t.Errorf("%s: %s is suppressed: %v", name, result.RuleID, suppressed)
			}
		}
		if name == "sample" {
			if got := run.Results[0].Locations[0].PhysicalLocation.ArtifactLocation.URI; got != "rules/a,%20b/100%25.rego" {
				t.Errorf("URI %s", got)
			}
		}
	}
}

func loadError(t *testing.T) error {
	t.Helper()
	_, err := allocation.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte("package allocation[\"default\"]\n\nhub := x")}},
		allocation.RulesOptions{Name: "rules"})
	if err == nil {
		t.Fatal("the rules load")
	}
	return err
}

func TestProblems(t *testing.T) {
	t.Parallel()
	got := lint.Problems(loadError(t))
	want := []lint.Finding{{Lint: lint.NotLoaded, Level: lint.Error, File: "rules/a.rego", Line: 3, Message: "rego_unsafe_var_error: var x is unsafe"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if got := lint.Problems(errors.New("disk on fire")); got != nil {
		t.Errorf("an error that is none of the rules' gives %+v", got)
	}
}

func TestGitHub(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	if err := lint.WriteGitHub(&text, sampleReport()); err != nil {
		t.Fatal(err)
	}
	want := "::error file=rules/a%2C b/100%25.rego,line=7,col=3,title=payload-decides::it says <hub> & \"100%25\"%0Ain two lines%0Alook: here\n" +
		"::warning file=rules/b.rego,line=1,title=no-title::no title%0Awrite one\n"
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

func TestJUnit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		failOn         lint.Level
		failed, passed int
	}{{lint.Error, 1, 2*len(lint.Lints()) - 4}, {lint.Warning, 2, 2*len(lint.Lints()) - 5}} {
		var text bytes.Buffer
		if err := lint.WriteJUnit(&text, sampleReport(), c.failOn); err != nil {
			t.Fatal(err)
		}
		var suites struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Skipped  int `xml:"skipped,attr"`
			Suite    []struct {
				Name string `xml:"name,attr"`
				Case []struct {
					Name    string `xml:"name,attr"`
					Failure *struct {
						Text string `xml:",chardata"`
					} `xml:"failure"`
					Skipped *struct {
						Message string `xml:"message,attr"`
					} `xml:"skipped"`
				} `xml:"testcase"`
			} `xml:"testsuite"`
		}
		if err := xml.Unmarshal(text.Bytes(), &suites); err != nil {
			t.Fatal(err)
		}
		if suites.Tests != 2*len(lint.Lints()) || suites.Failures != c.failed || suites.Skipped != 3 {
			t.Errorf("%s: %d tests, %d failures, %d skipped", c.failOn, suites.Tests, suites.Failures, suites.Skipped)
		}
		passed := 0
		for _, suite := range suites.Suite {
			for _, test := range suite.Case {
				switch {
				case test.Failure != nil && test.Name == "payload-decides":
					if !strings.Contains(test.Failure.Text, "it says <hub> & \"100%\"\nin two lines (look: here)") {
						t.Errorf("failure: %q", test.Failure.Text)
					}
				case test.Failure != nil:
				case test.Skipped != nil && test.Name == "no-tests":
					if test.Skipped.Message != "it is <tried> in the lab" {
						t.Errorf("silenced because: %q", test.Skipped.Message)
					}
				case test.Skipped == nil:
					passed++
				}
			}
		}
		if passed != c.passed {
			t.Errorf("%s: %d passed, want %d", c.failOn, passed, c.passed)
		}
	}
}

// What a lint says of itself is complete, and its Rego parses.
func TestLintsExplainThemselves(t *testing.T) {
	t.Parallel()
	id := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	var ids []string
	for _, l := range lint.Lints() {
		if !id.MatchString(l.ID) || slices.Contains(ids, l.ID) {
			t.Errorf("ID %q", l.ID)
		}
		ids = append(ids, l.ID)
		if l.Title == "" || len(l.Explanation) < 100 || l.Level != lint.Error && l.Level != lint.Warning {
			t.Errorf("%s does not explain itself", l.ID)
		}
		for line := range strings.Lines(l.Explanation) {
			if !strings.HasPrefix(line, "\t") && len(line) > 90 {
				t.Errorf("%s: a line of %d bytes: %s", l.ID, len(line), line)
			}
		}
	}
	if _, ok := lint.Find("no-such-lint"); ok {
		t.Error("found a lint that there is not")
	}
}

// What an explanation shows as found is found, and what it shows as not found is not.
func TestExplanationsAreTrue(t *testing.T) {
	t.Parallel()
	library, err := os.ReadFile(filepath.Join(shipped, "lib", "dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, l := range lint.Lints() {
		for _, example := range examplesOf(l.Explanation) {
			if strings.HasPrefix(example, "# METADATA") {
				continue
			}
			shown++
			module := "# METADATA\n# title: x\npackage allocation[\"default\"]\n\nimport data.dps\n\nuses_it := dps.registration_id\n\n" + example
			if !strings.Contains(example, "hub :=") {
				module += "\nhub := dps.spread(input.linkedHubs)\n"
			}
			report := run(t, fstest.MapFS{"default.rego": {Data: []byte(module)}, "lib/dps.rego": {Data: library}}, lint.Options{})
			found := slices.ContainsFunc(report.Findings, func(f lint.Finding) bool { return f.Lint == l.ID })
			if found != strings.HasPrefix(example, "# found") {
				t.Errorf("%s: found is %v in\n%s", l.ID, found, example)
			}
		}
	}
	if shown < 8 {
		t.Errorf("%d examples tried", shown)
	}
}

// examplesOf returns the blocks of indented lines, each up to a blank line.
func examplesOf(explanation string) []string {
	var examples []string
	now := ""
	for line := range strings.Lines(explanation + "\n\n") {
		if code, indented := strings.CutPrefix(line, "\t"); indented {
			now += code
			continue
		}
		if now != "" {
			examples = append(examples, now)
			now = ""
		}
	}
	return examples
}

func TestReadEnrollments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text, problem string
		want                []lint.Enrollment
	}{
		{name: "list", text: `[{"enrollmentGroupId": "a", "iotHubs": ["h"], "attestation": {"type": "x509", "x509": {}}, "etag": "1"}, {"registrationId": "b", "iotHubs": null}]`,
			want: []lint.Enrollment{{GroupID: "a", Hubs: []string{"h"}, Attestation: "x509"}, {RegistrationID: "b"}}},
		{name: "one", text: ` {"registrationId": "b"}`, want: []lint.Enrollment{{RegistrationID: "b"}}},
		{name: "none", text: `[]`, want: []lint.Enrollment{}},
		{name: "nothing", text: ``, problem: io.EOF.Error()},
		{name: "neither", text: `[{"etag": "x"}]`, problem: "/0: an enrollment has either"},
		{name: "both", text: `{"enrollmentGroupId": "a", "registrationId": "b"}`, problem: "/0: an enrollment has either"},
		{name: "text", text: `"a"`, problem: "cannot unmarshal string"},
		{name: "more", text: `[] []`, problem: "there is more behind"},
		{name: "wrong type", text: `[{"enrollmentGroupId": 1}]`, problem: "enrollmentGroupId"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := lint.ReadEnrollments(strings.NewReader(c.text))
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("error %v, want %q", err, c.problem)
				}
				return
			}
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
