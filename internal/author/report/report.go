// Package report writes the findings of a command in the formats that CI systems read: SARIF for code scanning,
// workflow commands for GitHub Actions, and JUnit for test reports.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
)

// Level is the severity of a finding, by the name that SARIF and GitHub use.
type Level string

// The levels.
const (
	Error   Level = "error"
	Warning Level = "warning"
	Note    Level = "note" // notice on GitHub
)

// Finding is a problem at a place in a file.
type Finding struct {
	// Check is the ID of the check that found it.
	Check string
	Level Level
	// Title is the heading of the annotation on GitHub; empty to use Check.
	Title string
	File  string
	// Line and Column count from 1. A Column of 0 is unknown.
	Line, Column int
	// Package is the Rego package that the finding is about; empty if there is none.
	Package string
	Message string
	// Suppressed is the reason why the finding can be ignored; empty if it cannot.
	Suppressed string
}

// Check is a kind of problem that a command looks for.
type Check struct {
	ID, Title string
	// Explanation is longer than the title; it may be empty.
	Explanation string
	Level       Level
}

// WriteGitHub writes findings as annotations of a workflow run. It leaves suppressed findings out. Source:
// https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
func WriteGitHub(w io.Writer, findings []Finding) error {
	text := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, f := range findings {
		if f.Suppressed != "" {
			continue
		}
		column := ""
		if f.Column > 0 {
			column = fmt.Sprintf(",col=%d", f.Column)
		}
		level := string(f.Level)
		if f.Level == Note {
			level = "notice"
		}
		_, err := fmt.Fprintf(w, "::%s file=%s,line=%d%s,title=%s::%s\n", level, property.Replace(slashed(f.File)), f.Line,
			column, property.Replace(cmp.Or(f.Title, f.Check)), text.Replace(f.Message))
		if err != nil {
			return err
		}
	}
	return nil
}

// object is a JSON object.
type object = map[string]any

// WriteSARIF writes the findings of a tool, such as "usher check", as SARIF 2.1.0. The version may be empty. The check
// of every finding must be among checks. Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
func WriteSARIF(w io.Writer, tool, version string, checks []Check, findings []Finding) error {
	rules, results := []object{}, []object{}
	for _, check := range checks {
		rule := object{"id": check.ID, "shortDescription": object{"text": check.Title}, "defaultConfiguration": object{"level": check.Level}}
		if check.Explanation != "" {
			rule["fullDescription"] = object{"text": check.Explanation}
		}
		rules = append(rules, rule)
	}
	for _, f := range findings {
		index := slices.IndexFunc(checks, func(check Check) bool { return check.ID == f.Check })
		if index < 0 {
			return fmt.Errorf("there is no check %q", f.Check)
		}
		region := object{"startLine": f.Line}
		if f.Column > 0 {
			region["startColumn"] = f.Column
		}
		location := object{"physicalLocation": object{
			"artifactLocation": object{"uri": (&url.URL{Path: slashed(f.File)}).String()},
			"region":           region,
		}}
		if f.Package != "" {
			location["logicalLocations"] = []object{{"fullyQualifiedName": f.Package, "kind": "module"}}
		}
		suppressions := []object{}
		if f.Suppressed != "" {
			suppressions = []object{{"kind": "inSource", "justification": f.Suppressed}}
		}
		results = append(results, object{
			"ruleId": f.Check, "ruleIndex": index, "level": f.Level, "message": object{"text": f.Message},
			"locations": []object{location}, "suppressions": suppressions,
		})
	}
	driver := object{"name": tool, "rules": rules}
	if version != "" {
		driver["version"] = version
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(object{
		"$schema": "https://json.schemastore.org/sarif-2.1.0.json",
		"version": "2.1.0",
		"runs":    []object{{"tool": object{"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}},
	})
}

// slashed returns a path with slashes in place of the backslashes of Windows.
func slashed(path string) string { return strings.ReplaceAll(path, `\`, "/") }
