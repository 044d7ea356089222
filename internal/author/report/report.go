// Package report writes what a command found in the forms that CI systems read:
// SARIF for code scanning, workflow commands for GitHub, JUnit for lists of tests.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// Level says how much a finding weighs, in the words of SARIF and GitHub.
type Level string

// The levels.
const (
	Error   Level = "error"
	Warning Level = "warning"
)

// Finding is something that was found at a place.
type Finding struct {
	// Check is the ID of what was looked for.
	Check string
	Level Level
	// Title stands over the message on GitHub; empty for Check.
	Title string
	File  string
	// Line and Column count from 1. A Column of 0 is unknown.
	Line, Column int
	// Package is the Rego package that it is about; empty for none.
	Package string
	Message string
	// Suppressed is why nothing needs to be done; empty otherwise.
	Suppressed string
}

// Check is something that is looked for.
type Check struct {
	ID, Title string
	// Explanation is longer than the title; empty for none.
	Explanation string
	Level       Level
}

// WriteGitHub writes findings as annotations of a workflow, but for those that are
// suppressed. Source:
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
		title := f.Title
		if title == "" {
			title = f.Check
		}
		_, err := fmt.Fprintf(w, "::%s file=%s,line=%d%s,title=%s::%s\n",
			f.Level, property.Replace(slashed(f.File)), f.Line, column, property.Replace(title), text.Replace(f.Message))
		if err != nil {
			return err
		}
	}
	return nil
}

// The part of SARIF 2.1.0 that a report needs. Source:
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string        `json:"id"`
		Short   sarifText     `json:"shortDescription"`
		Full    *sarifText    `json:"fullDescription,omitempty"`
		Default sarifSettings `json:"defaultConfiguration"`
	}
	sarifSettings struct {
		Level Level `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        Level              `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Suppressions []sarifSuppression `json:"suppressions"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn,omitempty"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
)

// WriteSARIF writes findings of a tool, such as "usher check", as SARIF 2.1.0. Version
// may be empty. The check of every finding is among checks.
func WriteSARIF(w io.Writer, tool, version string, checks []Check, findings []Finding) error {
	driver := sarifDriver{Name: tool, Version: version, Rules: []sarifRule{}}
	index := map[string]int{}
	for i, check := range checks {
		index[check.ID] = i
		rule := sarifRule{ID: check.ID, Short: sarifText{check.Title}, Default: sarifSettings{check.Level}}
		if check.Explanation != "" {
			rule.Full = &sarifText{check.Explanation}
		}
		driver.Rules = append(driver.Rules, rule)
	}
	results := []sarifResult{}
	for _, f := range findings {
		i, known := index[f.Check]
		if !known {
			return fmt.Errorf("there is no check %q", f.Check)
		}
		location := sarifLocation{Physical: sarifPhysical{
			sarifArtifact{(&url.URL{Path: slashed(f.File)}).String()}, sarifRegion{f.Line, f.Column}}}
		if f.Package != "" {
			location.Logical = []sarifLogical{{f.Package, "module"}}
		}
		result := sarifResult{RuleID: f.Check, RuleIndex: i, Level: f.Level, Message: sarifText{f.Message},
			Locations: []sarifLocation{location}, Suppressions: []sarifSuppression{}}
		if f.Suppressed != "" {
			result.Suppressions = append(result.Suppressions, sarifSuppression{"inSource", f.Suppressed})
		}
		results = append(results, result)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0",
		[]sarifRun{{sarifTool{driver}, "unicodeCodePoints", results}}})
}

// slashed is a path as it is written outside Windows.
func slashed(path string) string { return strings.ReplaceAll(path, `\`, "/") }
