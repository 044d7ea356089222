package report

import (
	"encoding/xml"
	"fmt"
	"io"
)

// Suite is a group of cases, such as those of one rule.
type Suite struct {
	Name  string
	Cases []Case
}

// Case is one thing that was tried.
type Case struct {
	Name string
	// File is where it stands; empty if nowhere. A Line of 0 is unknown.
	File    string
	Line    int
	Seconds float64
	Result  Result
	// Message is the result in a line, Text with all there is to say.
	Message, Text string
	// Output is what is worth reading whatever the result.
	Output string
}

// Result is what a case came to.
type Result int

// The results.
const (
	Passed  Result = iota
	Failed         // what was tried is not so
	Errored        // it could not be tried
	Skipped        // it was left out
)

// The XML of JUnit, as far as CI systems read it.
type (
	junitCounts struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
	}
	junitSuites struct {
		XMLName xml.Name `xml:"testsuites"`
		Name    string   `xml:"name,attr"`
		junitCounts
		Suites []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name string `xml:"name,attr"`
		junitCounts
		Time  string      `xml:"time,attr"`
		Cases []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string       `xml:"classname,attr"`
		Name    string       `xml:"name,attr"`
		File    string       `xml:"file,attr,omitempty"`
		Line    int          `xml:"line,attr,omitempty"`
		Time    string       `xml:"time,attr"`
		Failure *junitDetail `xml:"failure"`
		Error   *junitDetail `xml:"error"`
		Skipped *junitDetail `xml:"skipped"`
		Output  string       `xml:"system-out,omitempty"`
	}
	junitDetail struct {
		Message string `xml:"message,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes suites of a command, such as "usher test".
func WriteJUnit(w io.Writer, command string, suites []Suite) error {
	all := junitSuites{Name: command}
	for _, s := range suites {
		suite := junitSuite{Name: s.Name}
		took := 0.0
		for _, c := range s.Cases {
			took += c.Seconds
			one := junitCase{Class: s.Name, Name: c.Name, File: slashed(c.File), Line: c.Line, Time: seconds(c.Seconds), Output: c.Output}
			detail := &junitDetail{c.Message, c.Text}
			suite.Tests++
			switch c.Result {
			case Failed:
				one.Failure = detail
				suite.Failures++
			case Errored:
				one.Error = detail
				suite.Errors++
			case Skipped:
				one.Skipped = detail
				suite.Skipped++
			}
			suite.Cases = append(suite.Cases, one)
		}
		suite.Time = seconds(took)
		all.Tests += suite.Tests
		all.Failures += suite.Failures
		all.Errors += suite.Errors
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

func seconds(n float64) string { return fmt.Sprintf("%.6f", n) }
