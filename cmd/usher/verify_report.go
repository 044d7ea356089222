package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/verify"
)

func writeVerifyReport(cmd *cobra.Command, report *verify.Report, flags verifyFlags) error {
	w := cmd.OutOrStdout()
	switch flags.output {
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	case "junit":
		return verifyJUnit(w, report)
	case "sarif":
		return verifySARIF(w, report)
	case "github":
		for _, rule := range report.Rules {
			for _, finding := range rule.Broken {
				file, line := splitPlace(finding.Place)
				githubError(w, file, line, "usher verify: "+finding.Promise, findingText(rule.Rule, finding))
			}
		}
		return nil
	default:
		return verifyText(w, report, flags)
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
	_, err := io.WriteString(w, text.String())
	return err
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

// verifyJUnit has a suite for each rule and a case for each promise.
func verifyJUnit(w io.Writer, report *verify.Report) error {
	all := junitSuites{}
	for _, rule := range report.Rules {
		suite := junitSuite{Name: rule.Rule, Time: "0"}
		for _, promise := range verify.Promises() {
			file, line := splitPlace(rule.Place)
			c := junitCase{Class: rule.Rule, Name: promise.ID, File: filepath.ToSlash(file), Line: line, Time: "0", Output: promise.Says}
			for _, finding := range rule.Broken {
				if finding.Promise != promise.ID {
					continue
				}
				if c.Failure == nil {
					c.Failure = &junitDetail{Message: finding.Message}
				}
				c.Failure.Text += findingText(rule.Rule, finding) + "\n"
			}
			for _, skip := range rule.Skipped {
				if skip.Promise == promise.ID {
					c.Skipped = &struct{}{}
					c.Output = "skipped: " + skip.Reason
				}
			}
			suite.Tests++
			switch {
			case c.Failure != nil:
				suite.Failures++
			case c.Skipped != nil:
				suite.Skipped++
			}
			suite.Cases = append(suite.Cases, c)
		}
		all.Tests += suite.Tests
		all.Failures += suite.Failures
		all.Suites = append(all.Suites, suite)
	}
	return writeXML(w, all)
}

// verifySARIF writes the part of SARIF 2.1.0 that code scanning reads. Source:
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
func verifySARIF(w io.Writer, report *verify.Report) error {
	type object = map[string]any
	text := func(s string) object { return object{"text": s} }
	index := map[string]int{}
	var promises []object
	for i, promise := range verify.Promises() {
		index[promise.ID] = i
		promises = append(promises, object{"id": promise.ID, "shortDescription": text(promise.Says), "defaultConfiguration": object{"level": "error"}})
	}
	results := []object{}
	for _, rule := range report.Rules {
		for _, finding := range rule.Broken {
			file, line := splitPlace(finding.Place)
			results = append(results, object{
				"ruleId": finding.Promise, "ruleIndex": index[finding.Promise], "level": "error",
				"message": text(findingText(rule.Rule, finding)),
				"locations": []object{{"physicalLocation": object{
					"artifactLocation": object{"uri": (&url.URL{Path: filepath.ToSlash(file)}).String()},
					"region":           object{"startLine": line},
				}}},
			})
		}
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(object{
		"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
		"runs": []object{{
			"tool":    object{"driver": object{"name": "usher verify", "rules": promises}},
			"results": results,
		}},
	})
}
