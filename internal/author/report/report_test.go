package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/usher-dps/usher/internal/author/report"
)

// sample returns texts that every format must quote.
func sample() (checks []report.Check, findings []report.Finding) {
	return []report.Check{
			{ID: "no-title", Title: "a rule without a title", Explanation: "No one knows what it is for.", Level: report.Warning},
			{ID: "payload-decides", Title: "the device decides", Level: report.Error},
		}, []report.Finding{
			{Check: "payload-decides", Level: report.Error, File: `rules\a, b/100%.rego`, Line: 7, Column: 3, Package: "allocation.a",
				Message: "it says <hub> & \"100%\"\nin two lines"},
			{Check: "no-title", Level: report.Warning, Title: "check: no-title", File: "rules/b.rego", Line: 1, Message: "no title"},
			{Check: "no-title", Level: report.Note, File: "rules/d.rego", Line: 2, Message: "to know"},
			{Check: "no-title", Level: report.Warning, File: "rules/c.rego", Line: 1, Message: "no title", Suppressed: "it is <tried> in the lab"},
		}
}

// The schema in testdata allows only the part of SARIF 2.1.0 that WriteSARIF writes.
func TestWriteSARIF(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.Compile(filepath.Join("testdata", "sarif.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	checks, findings := sample()
	for _, list := range [][]report.Finding{nil, findings} {
		var text bytes.Buffer
		if err := report.WriteSARIF(&text, "usher check", "v1.0.0", checks, list); err != nil {
			t.Fatal(err)
		}
		var document any
		if err := json.Unmarshal(text.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); err != nil {
			t.Errorf("%d findings: %#v", len(list), err)
		}
		var log struct {
			Runs []struct {
				Tool struct {
					Driver struct{ Rules []struct{ ID string } }
				}
				Results []struct {
					RuleID       string `json:"ruleId"`
					RuleIndex    int    `json:"ruleIndex"`
					Level        string
					Message      struct{ Text string }
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
		if len(run.Results) != len(list) {
			t.Fatalf("%d results, want %d", len(run.Results), len(list))
		}
		for i, result := range run.Results {
			if got := run.Tool.Driver.Rules[result.RuleIndex].ID; got != result.RuleID || got != list[i].Check {
				t.Errorf("result %d has the rule ID %s and points to the rule %s, want %s", i, result.RuleID, got, list[i].Check)
			}
			reason := ""
			if len(result.Suppressions) > 0 {
				reason = result.Suppressions[0].Justification
			}
			if result.Level != string(list[i].Level) || result.Message.Text != list[i].Message || reason != list[i].Suppressed {
				t.Errorf("result %d: %+v", i, result)
			}
		}
		if len(list) > 0 {
			if got := run.Results[0].Locations[0].PhysicalLocation.ArtifactLocation.URI; got != "rules/a,%20b/100%25.rego" {
				t.Errorf("URI %s", got)
			}
		}
	}
	if err := report.WriteSARIF(new(bytes.Buffer), "usher check", "", checks[:1], findings); err == nil || !strings.Contains(err.Error(), "payload-decides") {
		t.Errorf("a finding without a check: %v", err)
	}
}

func TestWriteGitHub(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	_, findings := sample()
	if err := report.WriteGitHub(&text, findings); err != nil {
		t.Fatal(err)
	}
	want := "::error file=rules/a%2C b/100%25.rego,line=7,col=3,title=payload-decides::it says <hub> & \"100%25\"%0Ain two lines\n" +
		"::warning file=rules/b.rego,line=1,title=check%3A no-title::no title\n" +
		"::notice file=rules/d.rego,line=2,title=no-title::to know\n"
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

func TestWriteJUnit(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	err := report.WriteJUnit(&text, "usher test", []report.Suite{
		{Name: "a", Cases: []report.Case{
			{Name: "passes", File: `a\b.rego`, Line: 3, Time: .25, Output: "<said>"},
			{Name: "fails", File: "b.rego", Time: .5, Failure: &report.Detail{Message: "1 < 2", Text: "two\n\"lines\" \x1b[31m"}},
		}},
		{Name: "b", Cases: []report.Case{
			{Name: "breaks", Error: &report.Detail{Message: "no"}},
			{Name: "waits", Skipped: &report.Detail{Message: "later"}},
		}},
		{Name: "empty"},
	})
	if err != nil {
		t.Fatal(err)
	}
	type detail struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string  `xml:"classname,attr"`
		Name    string  `xml:"name,attr"`
		File    string  `xml:"file,attr"`
		Line    int     `xml:"line,attr"`
		Time    string  `xml:"time,attr"`
		Failure *detail `xml:"failure"`
		Error   *detail `xml:"error"`
		Skipped *detail `xml:"skipped"`
		Output  string  `xml:"system-out"`
	}
	type suite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	type suites struct {
		Name     string  `xml:"name,attr"`
		Tests    int     `xml:"tests,attr"`
		Failures int     `xml:"failures,attr"`
		Errors   int     `xml:"errors,attr"`
		Skipped  int     `xml:"skipped,attr"`
		Suites   []suite `xml:"testsuite"`
	}
	var got suites
	if err := xml.Unmarshal([]byte(text.String()), &got); err != nil {
		t.Fatalf("%v in\n%s", err, text.String())
	}
	want := suites{Name: "usher test", Tests: 4, Failures: 1, Errors: 1, Skipped: 1, Suites: []suite{
		{Name: "a", Tests: 2, Failures: 1, Time: "0.750000", Cases: []testcase{
			{Class: "a", Name: "passes", File: "a/b.rego", Line: 3, Time: "0.250000", Output: "<said>"},
			// XML cannot hold an escape character at all.
			{Class: "a", Name: "fails", File: "b.rego", Time: "0.500000", Failure: &detail{"1 < 2", "two\n\"lines\" \ufffd[31m"}},
		}},
		{Name: "b", Tests: 2, Errors: 1, Skipped: 1, Time: "0.000000", Cases: []testcase{
			{Class: "b", Name: "breaks", Time: "0.000000", Error: &detail{Message: "no"}},
			{Class: "b", Name: "waits", Time: "0.000000", Skipped: &detail{Message: "later"}},
		}},
		{Name: "empty", Time: "0.000000"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("JUnit (-want +got):\n%s", diff)
	}
}
