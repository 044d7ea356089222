package lint

import (
	"encoding/json"
	"io"
	"net/url"
	"strings"
)

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
		ID               string        `json:"id"`
		ShortDescription sarifText     `json:"shortDescription"`
		FullDescription  sarifText     `json:"fullDescription"`
		Default          sarifSettings `json:"defaultConfiguration"`
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

// WriteSARIF writes a report as SARIF 2.1.0, what is silenced as suppressed results.
// Version is that of the tool; it may be empty.
func WriteSARIF(w io.Writer, report Report, version string) error {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "usher check", Version: version}},
		ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	index := map[string]int{}
	add := func(id, title, explanation string, level Level) {
		index[id] = len(run.Tool.Driver.Rules)
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules,
			sarifRule{id, sarifText{title}, sarifText{explanation}, sarifSettings{level}})
	}
	for _, lint := range Lints() {
		add(lint.ID, lint.Title, lint.Explanation, lint.Level)
	}
	add(NotLoaded, "the rules do not load", "What OPA's compiler refuses cannot be served.", Error)
	result := func(f Finding) sarifResult {
		message := f.Message
		if f.Mend != "" {
			message += ": " + f.Mend
		}
		location := sarifLocation{Physical: sarifPhysical{
			sarifArtifact{(&url.URL{Path: slashed(f.File)}).String()}, sarifRegion{f.Line, f.Column}}}
		if f.Rule != "" {
			location.Logical = []sarifLogical{{f.Rule, "module"}}
		}
		return sarifResult{RuleID: f.Lint, RuleIndex: index[f.Lint], Level: f.Level, Message: sarifText{message},
			Locations: []sarifLocation{location}, Suppressions: []sarifSuppression{}}
	}
	for _, f := range report.Findings {
		run.Results = append(run.Results, result(f))
	}
	for _, s := range report.Silenced {
		r := result(s.Finding)
		r.Suppressions = append(r.Suppressions, sarifSuppression{"inSource", s.Reason})
		run.Results = append(run.Results, r)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

// slashed is a path as it is written outside Windows.
func slashed(path string) string { return strings.ReplaceAll(path, `\`, "/") }
