package lint

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	File    string        `xml:"file,attr,omitempty"`
	Failure *junitMessage `xml:"failure"`
	Skipped *junitMessage `xml:"skipped"`
}

type junitMessage struct {
	Type    string `xml:"type,attr,omitempty"`
	Message string `xml:"message,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes a test case for each lint of each rule. One with findings of at
// least the level failOn has failed; one that was silenced is skipped.
func WriteJUnit(w io.Writer, report Report, failOn Level) error {
	all := junitSuites{Name: "usher check"}
	suites := slices.Clone(report.Rules)
	if slices.ContainsFunc(report.Findings, func(f Finding) bool { return f.Rule == "" }) {
		suites = append(suites, "") // what does not load belongs to no rule
	}
	for _, rule := range suites {
		suite := junitSuite{Name: rule}
		for _, id := range caseIDs(rule) {
			c := junitCase{Name: id, Class: rule}
			var lines []string
			level := Warning
			for _, f := range report.Findings {
				if f.Rule == rule && f.Lint == id && (f.Level == Error || failOn == Warning) {
					c.File = slashed(f.File)
					lines = append(lines, fmt.Sprintf("%s:%d: %s (%s)", f.File, f.Line, f.Message, f.Mend))
					if f.Level == Error {
						level = Error
					}
				}
			}
			silenced := slices.IndexFunc(report.Silenced, func(s Silenced) bool { return s.Rule == rule && s.Lint == id })
			switch {
			case len(lines) > 0:
				c.Failure = &junitMessage{Type: string(level), Message: lines[0], Text: strings.Join(lines, "\n")}
				suite.Failures++
			case silenced >= 0:
				c.Skipped = &junitMessage{Message: report.Silenced[silenced].Reason}
				suite.Skipped++
			case slices.Contains(report.Skipped, id):
				c.Skipped = &junitMessage{Message: "there is nothing to go by"}
				suite.Skipped++
			}
			suite.Cases = append(suite.Cases, c)
		}
		suite.Tests = len(suite.Cases)
		all.Tests += suite.Tests
		all.Failures += suite.Failures
		all.Skipped += suite.Skipped
		all.Suites = append(all.Suites, suite)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func caseIDs(rule string) []string {
	if rule == "" {
		return []string{NotLoaded}
	}
	var ids []string
	for _, lint := range Lints() {
		ids = append(ids, lint.ID)
	}
	return ids
}
