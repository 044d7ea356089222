package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/mutate"
	"github.com/usher-dps/usher/internal/author/report"
)

// This file reports what `usher test --mutate` found. A nil report has nothing to say.

// mutationSummary is the score in one line.
func mutationSummary(m *mutate.Report) string {
	line := fmt.Sprintf("mutation score %v%%: %d of %s noticed", m.Score, m.Noticed, count(m.Noticed+m.Survived, "change is", "changes are"))
	for _, part := range []struct {
		n    int
		what string
	}{
		{m.SetAside, "set aside, because no request showed a difference (no proof that there is none; -v lists them)"},
		{m.Invalid, "left out, because the rules do not compile with them"},
		{m.LeftOut, "not tried"},
	} {
		if part.n > 0 {
			line += fmt.Sprintf("; %d %s", part.n, part.what)
		}
	}
	return line
}

// writeMutation lists the changes that survived, and if verbose those that were set aside.
func writeMutation(w io.Writer, p painter, m *mutate.Report, verbose bool) {
	for _, c := range changesOf(m) {
		switch {
		case c.Outcome == mutate.Survived:
			fmt.Fprintf(w, "%s  %s:%d: no test notices that %s\n", p.paint(red, "SURVIVED"), c.File, c.Line, c.Title())
			writeIndented(w, differenceText(c.Before, c.After))
			writeIndented(w, witnessText(c.Witness))
		case c.Outcome == mutate.SetAside && verbose:
			fmt.Fprintf(w, "%s  %s:%d: %s if %s\n", p.paint(faint, "aside"), c.File, c.Line, c.Reason, c.Title())
			writeIndented(w, differenceText(c.Before, c.After))
		}
	}
}

func changesOf(m *mutate.Report) []mutate.Change {
	if m == nil {
		return nil
	}
	return m.Changes
}

// differenceText puts - before the lines before a change, and + before those after it.
func differenceText(before, after string) string {
	var lines []string
	for _, side := range []struct{ mark, text string }{{"- ", before}, {"+ ", after}} {
		for line := range strings.Lines(side.text) {
			lines = append(lines, side.mark+strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(lines, "\n")
}

// witnessText shows the request that would notice a change, on one line to be copied into a file, and both answers.
func witnessText(witness *mutate.Witness) string {
	return fmt.Sprintf("%s answers this request differently:\n%s\n%s", witness.Rule, witness.Request,
		differenceText(compactJSON(witness.Before), compactJSON(witness.After)))
}

func compactJSON(document answer.Document) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(document) != nil {
		return "" // cannot happen: an answer is JSON
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// mutationFindings returns the changes that survived, each at its line. They are warnings: only the score can fail.
func mutationFindings(m *mutate.Report) []report.Finding {
	var findings []report.Finding
	for _, c := range changesOf(m) {
		if c.Outcome == mutate.Survived {
			findings = append(findings, report.Finding{Check: c.Operator, Level: report.Warning, Title: "usher test --mutate: " + c.Operator,
				File: c.File, Line: c.Line, Package: c.Witness.Rule,
				Message: fmt.Sprintf("no test notices that %s:\n%s\n%s", c.Title(), differenceText(c.Before, c.After), witnessText(c.Witness))})
		}
	}
	return findings
}

// mutationSuites returns a suite for each file that was changed, with a case for each change. What survived is a failure
// only if the score is too low, so that the suites fail if the command does.
func mutationSuites(m *mutate.Report, threshold float64) []report.Suite {
	var suites []report.Suite
	for _, c := range changesOf(m) {
		name := "changes of " + c.File
		i := slices.IndexFunc(suites, func(suite report.Suite) bool { return suite.Name == name })
		if i < 0 {
			suites, i = append(suites, report.Suite{Name: name}), len(suites)
		}
		one := report.Case{Name: fmt.Sprintf("%d: %s", c.Line, c.Operator), File: c.File, Line: c.Line, Output: differenceText(c.Before, c.After)}
		switch {
		case c.Outcome == mutate.Survived && m.Score < threshold:
			one.Failure = &report.Detail{Message: "no test notices that " + c.Title(), Text: witnessText(c.Witness)}
		case c.Outcome == mutate.Survived:
			one.Output += "\nno test notices it: " + witnessText(c.Witness)
		case c.Outcome == mutate.SetAside:
			one.Skipped = &report.Detail{Message: c.Reason}
		case c.Outcome == mutate.Invalid:
			one.Skipped = &report.Detail{Message: "the rules do not compile with it"}
		}
		suites[i].Cases = append(suites[i].Cases, one)
	}
	return suites
}
