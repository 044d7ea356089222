// Package lint finds mistakes in rules that harm devices: a hub that the device chooses for itself, a hub that is not
// linked, a twin that IoT Hub would refuse. It knows DPS and IoT Hub, and leaves style to other linters.
//
// Most lints follow values through the compiled rules. The one that needs answers uses a [decider.Decider]. A mistake
// that depends on the request is not reported.
package lint

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Level is the severity of a finding.
type Level string

// The levels. An error may harm devices; a warning is for the author of the rule; a note is no mistake, but good to know.
const (
	Error   Level = "error"
	Warning Level = "warning"
	Note    Level = "note"
)

// Options hold what is known besides the rules. The zero value is useful.
type Options struct {
	// Hubs are the host names or first labels of the hubs that are linked to the DPS; empty if that is not known.
	Hubs []string
	// Enrollments are all enrollments of the DPS; empty if they are not known.
	Enrollments []Enrollment
	// NoTestFiles is set if test files were left out, as in a bundle. Their absence then means nothing.
	NoTestFiles bool
	// Progress, if set, is called before each rule with the number of rules done and the number of all.
	Progress func(done, all int)
}

// Finding is a mistake that a lint found.
type Finding struct {
	Lint    string `json:"lint"`
	Level   Level  `json:"level"`
	Rule    string `json:"rule"` // the package, such as allocation.breakroom
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
	Fix     string `json:"mend"`
}

// Silenced is a finding that the METADATA of its rule allows.
type Silenced struct {
	Finding
	Reason string `json:"reason"`
}

// Report is the result of a run.
type Report struct {
	// Rules are the packages that were checked.
	Rules []string `json:"rules"`
	// Findings are ordered by file and line.
	Findings []Finding  `json:"findings"`
	Silenced []Silenced `json:"silenced"`
	// Skipped are lints that lacked information, such as linked hubs.
	Skipped []string `json:"skipped"`
}

// Count returns the number of findings of a level.
func (r Report) Count(level Level) int {
	n := 0
	for _, finding := range r.Findings {
		if finding.Level == level {
			n++
		}
	}
	return n
}

// Run checks rules that were loaded from fsys. When ctx ends, it returns the findings so far and the context's error.
func Run(ctx context.Context, fsys fs.FS, rules *decider.Rules, options Options) (Report, error) {
	set := rules.Set()
	if err := set.CompileAll(ctx); err != nil {
		return Report{}, err
	}
	report := Report{Rules: []string{}, Findings: []Finding{}, Silenced: []Silenced{}, Skipped: []string{}}
	tested := map[string]bool{}
	var unread, missing []string
	if !options.NoTestFiles {
		tested, unread, missing = testedPackages(fsys), unreadFiles(fsys), missingFixtures(fsys, set)
	}
	for _, lint := range Lints() {
		if lint.skip != nil && lint.skip(options) {
			report.Skipped = append(report.Skipped, lint.ID)
		}
	}
	all := set.Rules()
	for i, rule := range all {
		if options.Progress != nil {
			options.Progress(i, len(all))
		}
		if ctx.Err() != nil {
			break
		}
		s, err := newSubject(rules, rule, options)
		if err != nil {
			return Report{}, err
		}
		s.testedPackages, s.unreadFiles, s.missingFixtures = tested, unread, missing
		found, silenced := s.lint(ctx, report.Skipped)
		report.Rules = append(report.Rules, rule.Package)
		report.Findings = append(report.Findings, found...)
		report.Silenced = append(report.Silenced, silenced...)
	}
	if ctx.Err() == nil {
		report.Findings = append(report.Findings, unserved(set, options.Enrollments)...)
	}
	slices.SortStableFunc(report.Findings, compareFindings)
	report.Findings = slices.CompactFunc(report.Findings, func(a, b Finding) bool { return compareFindings(a, b) == 0 })
	slices.SortStableFunc(report.Silenced, func(a, b Silenced) int { return compareFindings(a.Finding, b.Finding) })
	return report, ctx.Err()
}

func compareFindings(a, b Finding) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Lint, b.Lint),
		cmp.Compare(a.Message, b.Message), cmp.Compare(a.Rule, b.Rule))
}

// subject is the rule being checked, with what the lints share.
type subject struct {
	rules          *decider.Rules
	set            *ruleset.Ruleset
	rule           *ruleset.Rule
	options        Options
	compiler       *ast.Compiler
	data           ast.Value
	modules        []*ast.Module // of the rule's package
	analysis       *dataflow.Analysis
	testedPackages map[string]bool
	unreadFiles    []string
	// missingFixtures are those that lookups.yaml names and that do not exist.
	missingFixtures []string
	bound           map[ast.Var]*ast.Expr // see origins

	found []Finding
}

func newSubject(rules *decider.Rules, rule *ruleset.Rule, options Options) (*subject, error) {
	syntax, err := rule.Syntax()
	if err != nil {
		return nil, err
	}
	analysis, err := dataflow.Analyze(rule)
	if err != nil {
		return nil, err
	}
	s := &subject{rules: rules, set: rules.Set(), rule: rule, options: options, compiler: syntax.Compiler, data: syntax.Data, analysis: analysis}
	for _, module := range syntax.Compiler.Modules {
		if module.Package.Path.HasPrefix(rule.Path()) {
			s.modules = append(s.modules, module)
		}
	}
	slices.SortFunc(s.modules, func(a, b *ast.Module) int {
		return cmp.Compare(a.Package.Location.File, b.Package.Location.File)
	})
	return s, nil
}

// lint runs all lints except the skipped ones, and separates what is silenced.
func (s *subject) lint(ctx context.Context, skipped []string) ([]Finding, []Silenced) {
	ran := map[string]bool{}
	for _, lint := range Lints() {
		if lint.look == nil || slices.Contains(skipped, lint.ID) || ctx.Err() != nil {
			continue
		}
		ran[lint.ID] = true
		lint.look(ctx, s, func(at *ast.Location, message, fix string) { s.add(lint.ID, lint.Level, at, message, fix) })
	}
	silences := s.silences()
	var kept []Finding
	var silenced []Silenced
	fired := map[string]bool{}
	for _, finding := range s.found {
		i := slices.IndexFunc(silences, func(silence silence) bool { return silence.id == finding.Lint && silence.id != silenceLint })
		if i < 0 {
			kept = append(kept, finding)
			continue
		}
		fired[finding.Lint] = true
		silenced = append(silenced, Silenced{finding, silences[i].reason})
	}
	s.found = kept
	for _, silence := range silences {
		if ran[silence.id] && !fired[silence.id] {
			s.add(silenceLint, Warning, silence.at, fmt.Sprintf("%s is silenced, but it finds nothing here", silence.id),
				"remove it from custom.check.allow, so that it finds later mistakes")
		}
	}
	return s.found, silenced
}

// add adds a finding. If at is nil, it is at the rule's METADATA.
func (s *subject) add(id string, level Level, at *ast.Location, message, fix string) {
	if at == nil {
		at = s.header()
	}
	s.found = append(s.found, Finding{Lint: id, Level: level, Rule: s.rule.Package,
		File: at.File, Line: max(at.Row, 1), Column: at.Col, Message: message, Fix: fix})
}

// header is the place where the rule's package begins.
func (s *subject) header() *ast.Location {
	for _, module := range s.modules {
		for _, annotation := range module.Annotations {
			if annotation.Scope == "package" && len(annotation.Custom) > 0 {
				return annotation.Location
			}
		}
	}
	return s.modules[0].Package.Location
}
