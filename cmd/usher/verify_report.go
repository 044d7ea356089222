package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/author/report"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

func writeVerifyReport(w io.Writer, found *verify.Report, flags verifyFlags) error {
	switch flags.output {
	case "json":
		return writeJSON(w, found)
	case "junit":
		return report.WriteJUnit(w, "usher verify", verifySuites(found))
	case "sarif":
		var checks []report.Check
		for _, promise := range verify.Promises() {
			checks = append(checks, report.Check{ID: promise.ID, Title: promise.Statement, Level: report.Error})
		}
		return report.WriteSARIF(w, "usher verify", readBuild().Usher, checks, verifyFindings(found))
	case "github":
		return report.WriteGitHub(w, verifyFindings(found))
	default:
		t := verifyText{painter: painterFor(w)}
		t.report(found, flags)
		_, err := io.WriteString(w, t.String())
		return err
	}
}

// verifyText is the report for people.
type verifyText struct {
	strings.Builder
	painter
}

func (t *verifyText) printf(format string, args ...any) { fmt.Fprintf(t, format, args...) }

// report shows what was tried before what was found, because a search that tried little says little.
func (t *verifyText) report(report *verify.Report, flags verifyFlags) {
	tried, failed, missed := 0, 0, 0
	for _, rule := range report.Rules {
		t.printf("%s\n", strings.TrimSuffix(rule.Rule+": "+rule.Title, ": "))
		t.space(rule, report.Seed)
		tried += rule.Space.Asked
		for _, skip := range rule.Skipped {
			found := count(skip.Broken, "request breaks it", "requests break it")
			if skip.Broken == 0 {
				found = "no request breaks it, so the skip can be removed"
			}
			t.printf("  %s %s (%s): %s\n", t.paint(faint, "skipped"), skip.Promise, skip.Reason, found)
		}
		if len(rule.Broken) > 0 {
			failed++
		} else if rule.Space.Asked > 0 {
			t.printf("  %s\n", t.paint(green, "no broken promise found"+notReached(len(rule.Space.Branches.Missed))))
		}
		missed += len(rule.Space.Branches.Missed)
		for _, finding := range rule.Broken {
			t.finding(finding, flags.rules.path)
		}
		t.printf("\n")
	}
	t.printf("%s, %s: ", plural(len(report.Rules), "rule"), plural(tried, "request"))
	if n := report.Broken(); n > 0 {
		t.printf("%s broken in %s", plural(n, "promise"), plural(failed, "rule"))
	} else {
		t.printf("no broken promise found%s", notReached(missed))
	}
	if report.Interrupted {
		t.printf("; the search was interrupted")
		if failed > 0 {
			t.printf(", so the requests may not be the smallest")
		}
	}
	t.printf("\n")
	switch bundle := !flags.rules.isFolder(); {
	case report.Invariants() || len(flags.promises) > 0 && !slices.Contains(flags.promises, verify.Invariant):
	case bundle:
		t.printf("The bundle contains no invariants, so none were checked: usher bundle --with-tests includes *_invariants.rego.\n")
	case len(flags.promises) > 0:
		t.printf("There are no invariants to check: write them in *_invariants.rego next to the rules.\n")
	}
}

// notReached qualifies a result.
func notReached(missed int) string {
	if missed == 0 {
		return ""
	}
	return fmt.Sprintf(", but %s not reached in full", count(missed, "expression was", "expressions were"))
}

func (t *verifyText) space(rule verify.RuleReport, seed uint64) {
	space := rule.Space
	faintly := func(line string) { t.printf("  %s\n", t.paint(faint, line)) }
	if len(space.Dimensions) == 0 {
		t.printf("  not searched\n")
		for _, note := range space.Notes {
			t.printf("  %s\n", note)
		}
		return
	}
	var dimensions, single []string
	for _, d := range space.Dimensions {
		if d.Values == 1 && d.Single != "" {
			single = append(single, d.Name)
		} else {
			dimensions = append(dimensions, fmt.Sprintf("%s (%d)", explain.Printable(d.Name), d.Values))
		}
	}
	faintly(wrap(strings.Join(dimensions, " × ")))
	if len(single) > 0 {
		faintly("one value each, because the rule does not read them: " + strings.Join(single, ", "))
	}
	for _, note := range space.Notes {
		faintly(explain.Printable(note))
	}
	switch {
	case space.Exhaustive:
		t.printf("  tried all of them: %d different requests\n", space.Asked)
	case space.Pairs == 0:
		t.printf("  tried %d different requests, then stopped\n", space.Asked)
	default:
		of := fmt.Sprint(space.Size)
		if space.Endless() {
			of = "countless"
		}
		t.printf("  tried %d different requests of %s: %d of %d pairs of values, the rest at random (--seed %d)\n",
			space.Asked, of, space.Paired, space.Pairs, seed)
	}
	if space.Failing > 0 {
		t.printf("  tried %d times again while the source of a look-up failed\n", space.Failing)
	}
	t.branches(space)
	var outcomes []string
	for _, outcome := range slices.Sorted(maps.Keys(rule.Outcomes)) {
		outcomes = append(outcomes, fmt.Sprintf("%d %s", rule.Outcomes[outcome], outcome))
	}
	if len(outcomes) > 0 {
		t.printf("  answers: %s\n", strings.Join(outcomes, ", "))
	}
	t.reasons(rule.Reasons)
	for _, stuck := range rule.Stuck {
		t.printf("  held whatever the device sends: %q, %s at %s\n", stuck.Reason, count(stuck.Devices, "device", "devices"), cmp.Or(stuck.Place, rule.Place))
	}
	for _, unlisted := range rule.Unlisted {
		t.printf("  %s\n", explain.Printable(unlistedText(unlisted)))
	}
	if n := rule.Overrides["never_reprovision"]; n > 0 {
		t.printf("  kept by the policy \"never\" although the rule named another hub: %d times\n", n)
	}
	if n := rule.Overrides["current_hub_not_linked"]; n > 0 {
		t.printf("  rejected by the policy \"never\" because the current hub is not linked: %d times\n", n)
	}
}

// maxListed is how many listed values the text names.
const maxListed = 6

// unlistedText says what a device gets whose value is not listed.
func unlistedText(u verify.Unlisted) string {
	listed := strings.Join(u.Listed[:min(len(u.Listed), maxListed)], ", ")
	if n := len(u.Listed) - maxListed; n > 0 {
		listed += fmt.Sprintf(" and %d more", n)
	}
	var gets []string
	for _, got := range u.Gets {
		words := string(got.Result)
		if got.Reason != "" {
			words += fmt.Sprintf(" %q", got.Reason)
		} else if len(got.Hubs) > 0 {
			words += " to " + strings.ReplaceAll(strings.Join(got.Hubs, " or "), ".azure-devices.net", "")
		}
		words += " (" + got.Place
		if got.Default {
			words += ", default"
		}
		gets = append(gets, words+")")
	}
	depends := ""
	if len(gets) > 1 {
		depends = "it depends: "
	}
	return fmt.Sprintf("%s, if it is none of %s: %s%s", u.Member, listed, depends, strings.Join(gets, ", or "))
}

// maxReasons is how many reasons the text names.
const maxReasons = 5

// reasons says why requests were not assigned, the most frequent reason first.
func (t *verifyText) reasons(reasons verify.Counts) {
	keys := reasons.MostFirst()
	for i, reason := range keys {
		if i == maxReasons {
			t.printf("    and for %d other reasons\n", len(keys)-i)
			break
		}
		t.printf("    %d %s\n", reasons[reason], explain.Printable(reason))
	}
}

// maxMissed is how many expressions the text names that the search did not reach.
const maxMissed = 10

// branches says which ways the rule's expressions went.
func (t *verifyText) branches(space verify.Space) {
	b := space.Branches
	line := fmt.Sprintf("followed %s through the rule: %d of %d outcomes of its expressions reached", plural(space.Followed, "request"), b.Reached, b.Outcomes)
	if b.Impossible > 0 {
		line += fmt.Sprintf(", %d shown impossible", b.Impossible)
	}
	t.printf("  %s\n", line)
	for i, missed := range b.Missed {
		if i == maxMissed {
			t.printf("  and %d more (-o json lists them)\n", len(b.Missed)-i)
			break
		}
		never := map[string]string{"hold": "never held", "fail": "always held", "either": "was never evaluated"}[missed.Never]
		t.printf("  %s %s: %s %s\n", t.paint(red, "not reached"), missed.Place, missed.Text, never)
	}
}

func (t *verifyText) finding(finding verify.Finding, rules string) {
	t.printf("\n  %s %s: %s\n", t.paint(red, "BROKEN"), finding.Promise, explain.Printable(finding.Message))
	t.printf("    %s\n", t.paint(faint, wrap(finding.Statement)))
	if !finding.At.IsZero() {
		t.printf("    decided at %s, which the rule reads\n", finding.At.Format(time.RFC3339Nano))
	}
	t.printf("    %s; %s. The smallest found:\n\n", finding.Place, count(finding.Count, "request breaks it", "requests break it"))
	t.printf("    %s\n\n", strings.ReplaceAll(string(finding.Request), "\n", "\n    "))
	for _, row := range finding.Rows {
		t.printf("    %s\n", explain.Printable(row.String()))
	}
	if len(finding.Rows) > 0 {
		t.printf("\n")
	}
	for _, file := range []string{finding.File, finding.ThenFile} {
		if file != "" {
			t.printf("    usher explain --rules %s %s\n", shellWord(rules), shellWord(file))
		}
	}
}

// shellWord quotes a word of a command line if that is needed.
func shellWord(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-\\:") == "" && word != "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// wrap breaks a text into lines of at most 100 characters, and indents all but the first by four.
func wrap(text string) string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > 96 {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(append(lines, line), "\n    ")
}

// findingText describes a finding for CI.
func findingText(rule string, finding verify.Finding) string {
	text := fmt.Sprintf("%s: %s\n%s\nThe smallest request found:\n%s", rule, finding.Message, finding.Statement, finding.Request)
	for _, row := range finding.Rows {
		text += "\n" + row.String()
	}
	return text
}

// verifyFindings returns the broken promises, each at its line.
func verifyFindings(found *verify.Report) []report.Finding {
	var findings []report.Finding
	for _, rule := range found.Rules {
		for _, finding := range rule.Broken {
			file, line := ruleset.SplitPlace(finding.Place)
			findings = append(findings, report.Finding{Check: finding.Promise, Level: report.Error, Title: "usher verify: " + finding.Promise,
				File: file, Line: line, Package: rule.Rule, Message: findingText(rule.Rule, finding)})
		}
	}
	return findings
}

// verifySuites returns a suite for each rule with a case for each promise.
func verifySuites(found *verify.Report) []report.Suite {
	var suites []report.Suite
	for _, rule := range found.Rules {
		suite := report.Suite{Name: rule.Rule}
		file, line := ruleset.SplitPlace(rule.Place)
		for _, promise := range verify.Promises() {
			c := report.Case{Name: promise.ID, File: file, Line: line, Output: promise.Statement}
			if promise.ID == verify.Invariant && !rule.Invariants {
				c.Skipped = &report.Detail{Message: "there are no invariants"}
			}
			for _, skip := range rule.Skipped {
				if skip.Promise == promise.ID {
					c.Skipped = &report.Detail{Message: skip.Reason}
				}
			}
			for _, finding := range rule.Broken {
				if finding.Promise == promise.ID {
					c.Failure = cmp.Or(c.Failure, &report.Detail{Message: finding.Message})
					c.Failure.Text += findingText(rule.Rule, finding) + "\n"
				}
			}
			suite.Cases = append(suite.Cases, c)
		}
		suites = append(suites, suite)
	}
	return suites
}
