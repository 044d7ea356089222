package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/author/mutate"
	"github.com/usher-dps/usher/internal/author/report"
	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// testReport is the result of `usher test`, in the form of its JSON.
type testReport struct {
	Tests     []testCase         `json:"tests"`
	Exchanges []exchangeCase     `json:"exchanges"`
	Coverage  *ruletest.Coverage `json:"coverage,omitempty"`
	Mutation  *mutate.Report     `json:"mutation,omitempty"`
	Untested  []string           `json:"untested,omitempty"`
	// WithoutInput are tests whose result does not depend on any request although their rules do.
	WithoutInput []string    `json:"withoutInput,omitempty"`
	Summary      testSummary `json:"summary"` // set by write

	notMutated *mutate.BaselineError // why there is no Mutation; nil if there is no reason
}

type testSummary struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Errors  int `json:"errors"`
	Skipped int `json:"skipped"`
	Updated int `json:"updated"`
}

type testCase struct {
	Name string `json:"name"`
	ruletest.Result
	Seconds float64 `json:"seconds"`
}

// exchangeUpdated is the outcome of an exchange whose decision file was written. The other outcomes are those of tests.
const exchangeUpdated ruletest.Outcome = "updated"

type exchangeCase struct {
	Name     string           `json:"name"`
	Rule     string           `json:"rule,omitempty"`
	Outcome  ruletest.Outcome `json:"outcome"`
	Seconds  float64          `json:"seconds"`
	Problems []string         `json:"problems,omitempty"`

	decision string // the file
}

func newExchangeCase(r exchange.Result, took time.Duration) exchangeCase {
	c := exchangeCase{Name: r.Name, Rule: r.Rule, Outcome: ruletest.Pass, Seconds: took.Seconds(), Problems: r.Problems, decision: r.Decision}
	switch {
	case len(r.Problems) > 0:
		c.Outcome = ruletest.Fail
	case r.Updated:
		c.Outcome = exchangeUpdated
	}
	return c
}

// sort sorts the tests by file and line, because they do not end in a fixed order.
func (r *testReport) sort() {
	slices.SortStableFunc(r.Tests, func(a, b testCase) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
}

// failure returns nil if everything passed, the coverage is high enough and the tests notice enough changes. Its error
// has the exit code of failed tests.
func (r *testReport) failure(threshold, mutateThreshold float64) error {
	var problems []string
	if n := r.Summary.Failed + r.Summary.Errors; n > 0 {
		problems = append(problems, fmt.Sprintf("%d of %d tests failed", n, len(r.Tests)+len(r.Exchanges)))
	}
	if r.Coverage != nil && r.Coverage.Percent < threshold {
		problems = append(problems, fmt.Sprintf("the tests reach %v%% of the lines, --threshold is %v%%", r.Coverage.Percent, threshold))
	}
	if r.notMutated != nil {
		problems = append(problems, "no change was tried: "+r.notMutated.Error())
	}
	if m := r.Mutation; m != nil && m.Score < mutateThreshold {
		problems = append(problems, fmt.Sprintf("the tests notice %v%% of the changes, --mutate-threshold is %v%%", m.Score, mutateThreshold))
	}
	if len(r.Untested) > 0 {
		problems = append(problems, "no test covers "+strings.Join(r.Untested, ", "))
	}
	if len(problems) == 0 {
		return nil
	}
	return &exitError{code: exitTests, err: errors.New(strings.Join(problems, "; "))}
}

func (r *testReport) write(w io.Writer, format string, verbose bool, mutateThreshold float64) error {
	counts := map[ruletest.Outcome]int{}
	for _, t := range r.Tests {
		counts[t.Outcome]++
	}
	for _, e := range r.Exchanges {
		counts[e.Outcome]++
	}
	r.Summary = testSummary{
		Passed: counts[ruletest.Pass], Failed: counts[ruletest.Fail], Errors: counts[ruletest.Error],
		Skipped: counts[ruletest.Skipped], Updated: counts[exchangeUpdated],
	}
	switch format {
	case "json":
		return writeJSON(w, r)
	case "junit":
		return report.WriteJUnit(w, "usher test", append(r.suites(), mutationSuites(r.Mutation, mutateThreshold)...))
	case "github":
		if err := report.WriteGitHub(w, append(r.findings(), mutationFindings(r.Mutation)...)); err != nil {
			return err
		}
		return r.writeSummary(w, painter(false))
	default:
		return r.writeText(w, verbose)
	}
}

func (r *testReport) writeText(w io.Writer, verbose bool) error {
	p := painterFor(w)
	writePass := func(name string, seconds float64) {
		fmt.Fprintf(w, "%s  %s %s\n", p.paint(green, "pass"), name, p.paint(faint, fmt.Sprintf("(%.1f ms)", 1000*seconds)))
	}
	for _, t := range r.Tests {
		switch t.Outcome {
		case ruletest.Pass:
			if !verbose {
				continue
			}
			writePass(t.Name, t.Seconds)
		case ruletest.Skipped:
			fmt.Fprintf(w, "%s  %s\n", p.paint(faint, "skip"), t.Name)
		default:
			fmt.Fprintf(w, "%s  %s\n", p.paint(red, strings.ToUpper(string(t.Outcome))), t.Name)
			if t.Failure != nil {
				fmt.Fprintf(w, "      %s:%d: this is not true\n", t.Failure.File, t.Failure.Line)
				writeIndented(w, t.Failure.Text)
			} else {
				fmt.Fprintf(w, "      %s:%d\n", t.File, t.Line)
			}
			writeIndented(w, t.Message)
		}
		writeIndented(w, t.Printed)
	}
	for _, e := range r.Exchanges {
		switch e.Outcome {
		case ruletest.Pass:
			if verbose {
				writePass(e.Name, e.Seconds)
			}
		case exchangeUpdated:
			fmt.Fprintf(w, "wrote %s\n", e.decision)
		default:
			fmt.Fprintf(w, "%s  %s\n", p.paint(red, "FAIL"), e.Name)
			writeIndented(w, strings.Join(e.Problems, "\n"))
		}
	}
	writeMutation(w, p, r.Mutation, verbose)
	return r.writeSummary(w, p)
}

func (r *testReport) writeSummary(w io.Writer, p painter) error {
	if c := r.Coverage; c != nil {
		for _, file := range c.Files {
			if file.NotCovered > 0 {
				fmt.Fprintf(w, "%s: %v%%, no test reaches %s\n", file.Name, file.Percent, lineRanges(file.Missed))
			}
		}
		fmt.Fprintf(w, "coverage %v%%: %d lines reached, %d not\n", c.Percent, c.Covered, c.NotCovered)
	}
	if r.Mutation != nil {
		fmt.Fprintln(w, mutationSummary(r.Mutation))
	}
	for _, name := range r.Untested {
		fmt.Fprintf(w, "package %s has neither a test nor an exchange\n", name)
	}
	for _, name := range r.WithoutInput {
		fmt.Fprintf(w, "%s never sets input, although what it tests reads it: it passes or fails for every request alike (write: with input as request)\n", name)
	}
	if len(r.Tests)+len(r.Exchanges) == 0 {
		_, err := fmt.Fprintln(w, "there are no tests: write rules named test_... in files named ..._test.rego")
		return err
	}
	line := fmt.Sprintf("%s, %s: %d passed", plural(len(r.Tests), "test"), plural(len(r.Exchanges), "exchange"), r.Summary.Passed)
	for _, part := range []struct {
		n    int
		what string
	}{{r.Summary.Failed, "failed"}, {r.Summary.Errors, "could not be evaluated"}, {r.Summary.Skipped, "skipped"}, {r.Summary.Updated, "written"}} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	colour := green
	if r.Summary.Failed+r.Summary.Errors > 0 {
		colour = red
	}
	_, err := fmt.Fprintln(w, p.paint(colour, line))
	return err
}

func lineRanges(ranges []ruletest.Lines) string {
	noun := "line "
	var parts []string
	for _, r := range ranges {
		part := fmt.Sprint(r.From)
		if r.From != r.To {
			part = fmt.Sprintf("%d-%d", r.From, r.To)
		}
		if parts = append(parts, part); len(parts) > 1 || r.From != r.To {
			noun = "lines "
		}
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

// findings returns what failed, each at its line.
func (r *testReport) findings() []report.Finding {
	var findings []report.Finding
	for _, t := range r.Tests {
		if t.Outcome != ruletest.Fail && t.Outcome != ruletest.Error {
			continue
		}
		f := report.Finding{Check: t.Name, Level: report.Error, File: t.File, Line: t.Line, Message: cmp.Or(t.Message, "the test is not true")}
		if t.Failure != nil {
			f.File, f.Line, f.Message = t.Failure.File, t.Failure.Line, "this is not true:\n"+t.Failure.Text
		}
		findings = append(findings, f)
	}
	for _, e := range r.Exchanges {
		if e.Outcome == ruletest.Fail {
			findings = append(findings, report.Finding{Check: e.Name, Level: report.Error, File: e.decision, Line: 1, Message: strings.Join(e.Problems, "\n")})
		}
	}
	return findings
}

// suites returns a suite for each package of tests, and one for all exchanges.
func (r *testReport) suites() []report.Suite {
	var suites []report.Suite
	add := func(name string, c report.Case) {
		if n := len(suites); n == 0 || suites[n-1].Name != name {
			suites = append(suites, report.Suite{Name: name})
		}
		suite := &suites[len(suites)-1]
		suite.Cases = append(suite.Cases, c)
	}
	for _, t := range r.Tests {
		c := report.Case{Name: strings.TrimPrefix(t.Name, t.Package+"."), File: t.File, Line: t.Line, Time: report.Seconds(t.Seconds), Output: t.Printed}
		switch t.Outcome {
		case ruletest.Fail:
			f := cmp.Or(t.Failure, &ruletest.Failure{File: t.File, Line: t.Line})
			c.Failure = &report.Detail{Message: fmt.Sprintf("%s:%d: not true", f.File, f.Line), Text: f.Text}
		case ruletest.Error:
			c.Error = &report.Detail{Message: "could not be evaluated", Text: t.Message}
		case ruletest.Skipped:
			c.Skipped = &report.Detail{}
		}
		add(t.Package, c)
	}
	for _, e := range r.Exchanges {
		c := report.Case{Name: e.Name, File: e.decision, Time: report.Seconds(e.Seconds)}
		if e.Outcome == ruletest.Fail {
			c.Failure = &report.Detail{Message: "another decision", Text: strings.Join(e.Problems, "\n")}
		}
		add("exchanges", c)
	}
	return suites
}
