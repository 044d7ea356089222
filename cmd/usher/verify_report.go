package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/report"
	"github.com/usher-dps/usher/internal/author/verify"
)

func writeVerifyReport(cmd *cobra.Command, found *verify.Report, flags verifyFlags) error {
	w := cmd.OutOrStdout()
	switch flags.output {
	case "json":
		return writeJSON(w, found)
	case "junit":
		return report.WriteJUnit(w, "usher verify", verifySuites(found))
	case "sarif":
		return report.WriteSARIF(w, "usher verify", readBuild().Usher, promiseChecks(), verifyFindings(found))
	case "github":
		return report.WriteGitHub(w, verifyFindings(found))
	default:
		return verifyText(w, found, flags)
	}
}

// verifyText is for people. It names what was asked before what was found: a
// search that looked at little has little to say.
func verifyText(w io.Writer, report *verify.Report, flags verifyFlags) error {
	var text strings.Builder
	paint := painterFor(w)
	asked, unhappy := 0, 0
	for _, rule := range report.Rules {
		title := ""
		if rule.Title != "" {
			title = ": " + rule.Title
		}
		fmt.Fprintf(&text, "%s%s\n", rule.Rule, title)
		writeSpace(&text, paint, rule, report.Seed)
		asked += rule.Space.Asked
		for _, skip := range rule.Skipped {
			found := count(skip.Broken, "request breaks it", "requests break it")
			if skip.Broken == 0 {
				found = "no request breaks it, so the rule may as well promise it"
			}
			fmt.Fprintf(&text, "  %s %s (%s): %s\n", paint.paint(faint, "skipped"), skip.Promise, skip.Reason, found)
		}
		if len(rule.Broken) == 0 {
			if rule.Space.Asked > 0 {
				fmt.Fprintf(&text, "  %s\n", paint.paint(green, "no broken promise found"))
			}
		} else {
			unhappy++
		}
		for _, finding := range rule.Broken {
			writeFinding(&text, paint, finding, flags)
		}
		text.WriteByte('\n')
	}
	summary := fmt.Sprintf("%s, %s: ", count(len(report.Rules), "rule", "rules"), count(asked, "request", "requests"))
	switch n := report.Broken(); {
	case n > 0:
		summary += fmt.Sprintf("%s broken in %s", count(n, "promise", "promises"), count(unhappy, "rule", "rules"))
	default:
		summary += "no broken promise found"
	}
	if report.Interrupted {
		summary += "; the search was ended early"
		if report.Broken() > 0 {
			summary += ", so the requests are not the smallest"
		}
	}
	text.WriteString(summary + "\n")
	if note := invariantsNote(report, flags); note != "" {
		text.WriteString(note + "\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// invariantsNote says that a bundle holds no invariants, which its maker may think it
// does, or that none is there though they are asked for; "" otherwise.
func invariantsNote(report *verify.Report, flags verifyFlags) string {
	info, err := os.Stat(flags.rules.path)
	bundle := err == nil && !info.IsDir()
	switch asked := len(flags.promises) == 0 || slices.Contains(flags.promises, verify.Invariant); {
	case report.Invariants() || !asked || !bundle && len(flags.promises) == 0:
		return ""
	case bundle:
		return "The bundle holds no invariants, so none were asked: usher bundle --with-tests packs *_invariants.rego, too."
	default:
		return "There are no invariants, so none were asked: write them into *_invariants.rego beside the rules."
	}
}

func writeSpace(text *strings.Builder, paint painter, rule verify.RuleReport, seed uint64) {
	space := rule.Space
	if len(space.Dimensions) == 0 {
		fmt.Fprintf(text, "  not searched\n")
		for _, note := range space.Notes {
			fmt.Fprintf(text, "  %s\n", note)
		}
		return
	}
	var dimensions, single []string
	for _, d := range space.Dimensions {
		if d.Values == 1 && d.Single != "" {
			single = append(single, d.Name)
			continue
		}
		dimensions = append(dimensions, fmt.Sprintf("%s (%d)", d.Name, d.Values))
	}
	fmt.Fprintf(text, "  %s\n", paint.paint(faint, wrap(strings.Join(dimensions, " × "), "    ")))
	if len(single) > 0 {
		fmt.Fprintf(text, "  %s\n", paint.paint(faint, "not read by the rule, so only one: "+strings.Join(single, ", ")))
	}
	for _, note := range space.Notes {
		fmt.Fprintf(text, "  %s\n", paint.paint(faint, note))
	}
	switch {
	case space.Exhaustive:
		fmt.Fprintf(text, "  asked all of them: %d different requests\n", space.Asked)
	case space.Pairs == 0:
		fmt.Fprintf(text, "  asked %d different requests, then ended\n", space.Asked)
	default:
		of := fmt.Sprint(space.Size)
		if space.Endless() {
			of = "countless"
		}
		fmt.Fprintf(text, "  asked %d different requests of %s: %d of %d pairs of values, the rest by chance (--seed %d)\n",
			space.Asked, of, space.Paired, space.Pairs, seed)
	}
	var outcomes []string
	for _, outcome := range slices.Sorted(maps.Keys(rule.Outcomes)) {
		outcomes = append(outcomes, fmt.Sprintf("%d %s", rule.Outcomes[outcome], outcome))
	}
	if len(outcomes) > 0 {
		fmt.Fprintf(text, "  answers: %s\n", strings.Join(outcomes, ", "))
	}
	if rule.Outcomes["assigned"] == 0 && space.Asked > 0 {
		fmt.Fprintf(text, "  nothing was assigned, so much of the rule was not reached: name your hubs with --hubs\n")
	}
	if n := rule.Overrides["never_reprovision"]; n > 0 {
		fmt.Fprintf(text, "  the policy \"never\" kept the device although the rule named another hub: %d times\n", n)
	}
	if n := rule.Overrides["current_hub_not_linked"]; n > 0 {
		fmt.Fprintf(text, "  the policy \"never\" and a current hub that is not linked, so rejected: %d times\n", n)
	}
}

func writeFinding(text *strings.Builder, paint painter, finding verify.Finding, flags verifyFlags) {
	fmt.Fprintf(text, "\n  %s %s: %s\n", paint.paint(red, "BROKEN"), finding.Promise, finding.Message)
	fmt.Fprintf(text, "    %s\n", paint.paint(faint, wrap(finding.Says, "    ")))
	fmt.Fprintf(text, "    %s; %s. The smallest found:\n\n", finding.Place, count(finding.Count, "request breaks it", "requests break it"))
	for line := range strings.Lines(string(finding.Request) + "\n") {
		text.WriteString("    " + line)
	}
	text.WriteByte('\n')
	if finding.File == "" {
		return
	}
	for _, file := range []string{finding.File, finding.ThenFile} {
		if file != "" {
			fmt.Fprintf(text, "    usher explain --rules %s %s\n", quoted(flags.rules.path), quoted(file))
		}
	}
}

// quoted is a word of a command line.
func quoted(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-\\:") == "" && word != "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// wrap breaks a text into lines of at most 100 characters.
func wrap(text, indent string) string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > 96 {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n"+indent)
}

// findingText is a finding without the request's layout, for CI.
func findingText(rule string, finding verify.Finding) string {
	return fmt.Sprintf("%s: %s\n%s\nThe smallest request found:\n%s", rule, finding.Message, finding.Says, finding.Request)
}

// splitPlace takes file:line apart.
func splitPlace(place string) (file string, line int) {
	at := strings.LastIndexByte(place, ':')
	line, err := strconv.Atoi(place[at+1:])
	if at < 0 || err != nil {
		return place, 1
	}
	return place[:at], line
}

// verifyFindings are what broke, each at its line.
func verifyFindings(found *verify.Report) []report.Finding {
	var findings []report.Finding
	for _, rule := range found.Rules {
		for _, finding := range rule.Broken {
			file, line := splitPlace(finding.Place)
			findings = append(findings, report.Finding{Check: finding.Promise, Level: report.Error, Title: "usher verify: " + finding.Promise,
				File: file, Line: line, Package: rule.Rule, Message: findingText(rule.Rule, finding)})
		}
	}
	return findings
}

// verifySuites has a suite for each rule and a case for each promise.
func verifySuites(found *verify.Report) []report.Suite {
	var suites []report.Suite
	for _, rule := range found.Rules {
		suite := report.Suite{Name: rule.Rule}
		file, line := splitPlace(rule.Place)
		for _, promise := range verify.Promises() {
			c := report.Case{Name: promise.ID, File: file, Line: line, Output: promise.Says}
			if promise.ID == verify.Invariant && !rule.Invariants {
				c.Result, c.Message = report.Skipped, "there are no invariants"
			}
			for _, skip := range rule.Skipped {
				if skip.Promise == promise.ID {
					c.Result, c.Message = report.Skipped, skip.Reason
				}
			}
			for _, finding := range rule.Broken {
				if finding.Promise == promise.ID {
					c.Result, c.Message = report.Failed, cmp.Or(c.Message, finding.Message)
					c.Text += findingText(rule.Rule, finding) + "\n"
				}
			}
			suite.Cases = append(suite.Cases, c)
		}
		suites = append(suites, suite)
	}
	return suites
}

func promiseChecks() []report.Check {
	var checks []report.Check
	for _, promise := range verify.Promises() {
		checks = append(checks, report.Check{ID: promise.ID, Title: promise.Says, Level: report.Error})
	}
	return checks
}
