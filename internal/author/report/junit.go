package report

import (
	"encoding/xml"
	"fmt"
	"io"
)

// Suite is a group of cases, such as those of one rule. WriteJUnit counts the cases.
type Suite struct {
	Name string `xml:"name,attr"`
	counts
	Time  Seconds `xml:"time,attr"`
	Cases []Case  `xml:"testcase"`
}

// Case is one test. It passed if Failure, Error and Skipped are nil.
type Case struct {
	Class string `xml:"classname,attr"` // WriteJUnit sets it to the name of the suite
	Name  string `xml:"name,attr"`
	// File and Line say where the test is, as far as that is known.
	File string  `xml:"file,attr,omitempty"`
	Line int     `xml:"line,attr,omitempty"`
	Time Seconds `xml:"time,attr"`
	// Failure is set if the test failed, Error if it could not be run, and Skipped if it was left out.
	Failure *Detail `xml:"failure"`
	Error   *Detail `xml:"error"`
	Skipped *Detail `xml:"skipped"`
	// Output is worth reading whatever the result is.
	Output string `xml:"system-out,omitempty"`
}

// Detail explains a result: the message in one line, the text in full.
type Detail struct {
	Message string `xml:"message,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// Seconds is how long something took.
type Seconds float64

// MarshalText writes microseconds as decimals.
func (s Seconds) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%.6f", float64(s)), nil }

type counts struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Skipped  int `xml:"skipped,attr"`
}

func (c *counts) add(other counts) {
	c.Tests += other.Tests
	c.Failures += other.Failures
	c.Errors += other.Errors
	c.Skipped += other.Skipped
}

// WriteJUnit writes the suites of a command, such as "usher test".
func WriteJUnit(w io.Writer, command string, suites []Suite) error {
	all := struct {
		XMLName xml.Name `xml:"testsuites"`
		Name    string   `xml:"name,attr"`
		counts
		Suites []Suite `xml:"testsuite"`
	}{Name: command, Suites: suites}
	for i := range suites {
		suite := &suites[i]
		for j := range suite.Cases {
			c := &suite.Cases[j]
			c.Class, c.File = suite.Name, slashed(c.File)
			suite.Time += c.Time
			suite.add(counts{1, count(c.Failure), count(c.Error), count(c.Skipped)})
		}
		all.add(suite.counts)
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

func count(detail *Detail) int {
	if detail == nil {
		return 0
	}
	return 1
}
