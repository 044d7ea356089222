package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/author/report"
	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// testReport is the result of `usher test`, in the form of its JSON.
type testReport struct {
	Tests     []testCase         `json:"tests"`
	Exchanges []exchangeCase     `json:"exchanges"`
	Coverage  *ruletest.Coverage `json:"coverage,omitempty"`
	Untested  []string           `json:"untested,omitempty"`
	Summary   testSummary        `json:"summary"`
}

type testSummary struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Errors  int `json:"errors"`
	Skipped int `json:"skipped"`
	Updated int `json:"updated"`
}

// The outcomes of a test or an exchange.
const (
	casePass    = string(ruletest.Pass)
	caseFail    = string(ruletest.Fail)
	caseError   = string(ruletest.Error)
	caseSkipped = string(ruletest.Skipped)
	caseUpdated = "updated"
)

type testCase struct {
	Name    string       `json:"name"`
	File    string       `json:"file"`
	Line    int          `json:"line"`
	Outcome string       `json:"outcome"`
	Seconds float64      `json:"seconds"`
	Printed string       `json:"printed,omitempty"`
	Failure *testFailure `json:"failure,omitempty"`
	Message string       `json:"message,omitempty"`

	group string // its package
}

type testFailure struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Text string `json:"text"`
}

type exchangeCase struct {
	Name     string   `json:"name"`
	Rule     string   `json:"rule,omitempty"`
	Outcome  string   `json:"outcome"`
	Seconds  float64  `json:"seconds"`
	Problems []string `json:"problems,omitempty"`

	decision string // the file
}

func newTestCase(r ruletest.Result) testCase {
	c := testCase{
		Name: r.Name(), File: r.File, Line: r.Line, Outcome: string(r.Outcome),
		Seconds: r.Duration.Seconds(), Printed: r.Printed, Message: r.Message, group: r.Package,
	}
	if r.Failure != nil {
		c.Failure = &testFailure{r.Failure.File, r.Failure.Line, r.Failure.Text}
	}
	return c
}

func newExchangeCase(r exchange.Result, took time.Duration) exchangeCase {
	c := exchangeCase{Name: r.Name, Rule: r.Rule, Outcome: casePass, Seconds: took.Seconds(), Problems: r.Problems, decision: r.Decision}
	switch {
	case len(r.Problems) > 0:
		c.Outcome = caseFail
	case r.Updated:
		c.Outcome = caseUpdated
	}
	return c
}

// sort puts the tests in the order of their files: they end in any.
func (r *testReport) sort() {
	slices.SortStableFunc(r.Tests, func(a, b testCase) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
}

func (r *testReport) hasExchange(rule string) bool {
	return slices.ContainsFunc(r.Exchanges, func(e exchangeCase) bool { return e.Rule == rule })
}

func (r *testReport) count(outcome string) int {
	n := 0
	for _, t := range r.Tests {
		if t.Outcome == outcome {
			n++
		}
	}
	for _, e := range r.Exchanges {
		if e.Outcome == outcome {
			n++
		}
	}
	return n
}

func (r *testReport) write(w io.Writer, format string, verbose bool) error {
	r.Summary = testSummary{
		Passed: r.count(casePass), Failed: r.count(caseFail), Errors: r.count(caseError),
		Skipped: r.count(caseSkipped), Updated: r.count(caseUpdated),
	}
	switch format {
	case "json":
		return writeJSON(w, r)
	case "junit":
		return report.WriteJUnit(w, "usher test", r.suites())
	case "github":
		if err := report.WriteGitHub(w, r.findings()); err != nil {
			return err
		}
		r.writeSummary(w, painter(false))
	default:
		r.writeText(w, verbose)
	}
	return nil
}

func (r *testReport) writeText(w io.Writer, verbose bool) {
	p := painterFor(w)
	for _, t := range r.Tests {
		switch t.Outcome {
		case casePass:
			if verbose {
				fmt.Fprintf(w, "%s  %s %s\n", p.paint(green, "pass"), t.Name, p.paint(faint, milliseconds(t.Seconds)))
				writeIndented(w, t.Printed)
			}
			continue
		case caseSkipped:
			fmt.Fprintf(w, "%s  %s\n", p.paint(faint, "skip"), t.Name)
			continue
		}
		fmt.Fprintf(w, "%s  %s\n", p.paint(red, strings.ToUpper(t.Outcome)), t.Name)
		if t.Failure != nil {
			fmt.Fprintf(w, "      %s:%d: this is not true\n", t.Failure.File, t.Failure.Line)
			writeIndented(w, t.Failure.Text)
		} else {
			fmt.Fprintf(w, "      %s:%d\n", t.File, t.Line)
		}
		writeIndented(w, t.Message)
		writeIndented(w, t.Printed)
	}
	for _, e := range r.Exchanges {
		switch e.Outcome {
		case casePass:
			if verbose {
				fmt.Fprintf(w, "%s  %s %s\n", p.paint(green, "pass"), e.Name, p.paint(faint, milliseconds(e.Seconds)))
			}
		case caseUpdated:
			fmt.Fprintf(w, "wrote %s\n", e.decision)
		default:
			fmt.Fprintf(w, "%s  %s\n", p.paint(red, "FAIL"), e.Name)
			for _, problem := range e.Problems {
				writeIndented(w, problem)
			}
		}
	}
	r.writeSummary(w, p)
}

func (r *testReport) writeSummary(w io.Writer, p painter) {
	if c := r.Coverage; c != nil {
		for _, file := range c.Files {
			if file.NotCovered > 0 {
				fmt.Fprintf(w, "%s: %v%%, no test reaches %s\n", file.Name, file.Percent, lineRanges(file.Missed))
			}
		}
		fmt.Fprintf(w, "coverage %v%%: %d lines reached, %d not\n", c.Percent, c.Covered, c.NotCovered)
	}
	for _, name := range r.Untested {
		fmt.Fprintf(w, "package %s has neither a test nor an exchange\n", name)
	}
	tests, exchanges := len(r.Tests), len(r.Exchanges)
	if tests+exchanges == 0 {
		fmt.Fprintln(w, "there are no tests: write rules named test_... into files named ..._test.rego")
		return
	}
	bad := r.Summary.Failed + r.Summary.Errors
	line := fmt.Sprintf("%s, %s: %d passed", plural(tests, "test"), plural(exchanges, "exchange"), r.Summary.Passed)
	for _, part := range []struct {
		n    int
		what string
	}{{r.Summary.Failed, "failed"}, {r.Summary.Errors, "could not be evaluated"}, {r.Summary.Skipped, "skipped"}, {r.Summary.Updated, "written"}} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	if bad > 0 {
		line = p.paint(red, line)
	} else {
		line = p.paint(green, line)
	}
	fmt.Fprintln(w, line)
}

func milliseconds(seconds float64) string { return fmt.Sprintf("(%.1f ms)", 1000*seconds) }

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func lineRanges(ranges []ruletest.Lines) string {
	var parts []string
	for _, r := range ranges {
		if r.From == r.To {
			parts = append(parts, fmt.Sprint(r.From))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", r.From, r.To))
		}
	}
	noun := "lines "
	if len(ranges) == 1 && ranges[0].From == ranges[0].To {
		noun = "line "
	}
	return noun + strings.Join(parts, ", ")
}

// writeIndented writes nothing if text is empty.
func writeIndented(w io.Writer, text string) {
	if text = strings.TrimRight(text, "\n"); text == "" {
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintln(w, strings.TrimRight("      "+line, " "))
	}
}

// findings are what failed, at its line.
func (r *testReport) findings() []report.Finding {
	var findings []report.Finding
	for _, t := range r.Tests {
		if t.Outcome != caseFail && t.Outcome != caseError {
			continue
		}
		f := report.Finding{Check: t.Name, Level: report.Error, File: t.File, Line: t.Line, Message: cmp.Or(t.Message, "the test is not true")}
		if t.Failure != nil {
			f.File, f.Line, f.Message = t.Failure.File, t.Failure.Line, "this is not true:\n"+t.Failure.Text
		}
		findings = append(findings, f)
	}
	for _, e := range r.Exchanges {
		if e.Outcome == caseFail {
			findings = append(findings, report.Finding{Check: e.Name, Level: report.Error, File: e.decision, Line: 1, Message: strings.Join(e.Problems, "\n")})
		}
	}
	return findings
}

// suites has one for each package of tests, and one for all exchanges.
func (r *testReport) suites() []report.Suite {
	var suites []report.Suite
	add := func(group string, c report.Case) {
		if n := len(suites); n == 0 || suites[n-1].Name != group {
			suites = append(suites, report.Suite{Name: group})
		}
		suite := &suites[len(suites)-1]
		suite.Cases = append(suite.Cases, c)
	}
	for _, t := range r.Tests {
		c := report.Case{Name: strings.TrimPrefix(t.Name, t.group+"."), File: t.File, Line: t.Line, Seconds: t.Seconds, Output: t.Printed}
		switch t.Outcome {
		case caseFail:
			c.Result, c.Message = report.Failed, fmt.Sprintf("%s:%d: not true", t.File, t.Line)
			if t.Failure != nil {
				c.Message, c.Text = fmt.Sprintf("%s:%d: not true", t.Failure.File, t.Failure.Line), t.Failure.Text
			}
		case caseError:
			c.Result, c.Message, c.Text = report.Errored, "could not be evaluated", t.Message
		case caseSkipped:
			c.Result = report.Skipped
		}
		add(t.group, c)
	}
	for _, e := range r.Exchanges {
		c := report.Case{Name: e.Name, File: e.decision, Seconds: e.Seconds}
		if e.Outcome == caseFail {
			c.Result, c.Message, c.Text = report.Failed, "another decision", strings.Join(e.Problems, "\n")
		}
		add("exchanges", c)
	}
	return suites
}
