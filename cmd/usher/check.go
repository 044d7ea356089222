package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/author/report"
)

// checkFlags are the flags of `usher check`.
type checkFlags struct {
	rules       rulesFlags
	hubs        hubList
	enrollments []string // files
	failOn      string
	format      string
	explain     string
	list        bool
	verbose     bool
}

var checkFormats = []string{"text", "json", "sarif", "github", "junit"}

func newCheckCommand() *cobra.Command {
	var flags checkFlags
	cmd := &cobra.Command{
		Use:   "check [path]",
		Short: "Find mistakes in rules before devices do",
		Long: `Check loads rules as the webhook does, but strictly: it checks them against the
schema of the AllocationRequest, and refuses unused variables, unused imports and
enrollments that two rules serve. It then looks for mistakes that otherwise show
only with devices, such as a hub that the device chooses for itself. Each of these
lints has an ID; --list lists them, and --explain ID says what is wrong and what to
do instead.

Some lints need to know the hubs that are linked to the DPS or its enrollments:

  az iot dps enrollment-group list -g GROUP --dps-name DPS >groups.json

To accept a finding in one rule, silence it in the rule's METADATA and give the
reason: see usher check --explain silence.

It exits with 3 if the rules do not load, and with 7 if it finds an error or, with
--fail-on warning, a warning.`,
		Example: `  usher check
  usher check rules --hubs contoso-eu,contoso-us
  usher check --enrollments groups.json --fail-on warning
  usher check -o sarif >usher.sarif      for code scanning
  usher check --explain payload-decides`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.rules.complete(cmd, args...); err != nil {
				return err
			}
			switch {
			case flags.list:
				return listLints(cmd.OutOrStdout())
			case flags.explain != "":
				return explainLint(cmd.OutOrStdout(), flags.explain)
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return flags.runCheck(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags.rules.register(cmd)
	f := cmd.Flags()
	addHubs(cmd, &flags.hubs, "hubs that are linked to the DPS")
	f.StringSliceVar(&flags.enrollments, "enrollments", nil, "JSON file with enrollments, as az iot dps lists them; may be repeated, such as for groups and individual enrollments")
	addChoice(cmd, &flags.failOn, "fail-on", "", "level that makes the exit code 7: error or warning", string(lint.Error), string(lint.Warning))
	addOutputFlag(cmd, &flags.format, checkFormats...)
	f.BoolVar(&flags.list, "list", false, "list the lints")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "also list the rules that OPA's own evaluator evaluates, which is slower, and why")
	f.StringVar(&flags.explain, "explain", "", "explain the lint with this ID")
	var ids []string
	for _, l := range lint.Lints() {
		ids = append(ids, l.ID+"\t"+l.Title)
	}
	completeWith(cmd, "explain", ids...)
	return cmd
}

func listLints(w io.Writer) error {
	var rows []string
	for _, l := range lint.Lints() {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", l.ID, l.Level, l.Title))
	}
	return writeTable(w, rows)
}

func explainLint(w io.Writer, id string) error {
	l, ok := lint.Find(id)
	if !ok {
		return usageError(fmt.Errorf("there is no lint %q: usher check --list lists them", id))
	}
	_, err := fmt.Fprintf(w, "%s (%s): %s\n\n%s\n", l.ID, l.Level, l.Title, l.Explanation)
	return err
}

func (flags *checkFlags) runCheck(ctx context.Context, stdout, stderr io.Writer) error {
	options := lint.Options{Hubs: flags.hubs, NoTestFiles: !flags.rules.isFolder()} // most bundles contain no tests
	for _, name := range flags.enrollments {
		enrollments, err := readEnrollments(name)
		if err != nil {
			return err
		}
		options.Enrollments = append(options.Enrollments, enrollments...)
	}
	strict := flags.rules.options()
	strict.Strict = true
	rules, fsys, err := loadRules(context.WithoutCancel(ctx), flags.rules, strict) // so that there is something to report on
	if problems := lint.Problems(err); len(problems) > 0 && flags.format != "text" {
		return errors.Join(err, flags.write(stdout, lint.Report{Rules: []string{}, Findings: problems, Silenced: []lint.Silenced{}, Skipped: []string{}}))
	}
	if err != nil {
		return err
	}
	bar := newProgress(stderr, "rules")
	options.Progress = func(done, all int) { bar.update(done, float64(done)/float64(all)) }
	found, err := lint.Run(ctx, fsys, rules, options)
	bar.done()
	if err != nil && ctx.Err() == nil {
		return err
	}
	if err := flags.write(stdout, found); err != nil {
		return err
	}
	if flags.verbose && flags.format == "text" {
		for _, rule := range rules.All() {
			if reason := rule.Unplanned(); reason != nil {
				fmt.Fprintf(stdout, "%s: topdown evaluates %s: %v\n", rule.Place, rule.Package, reason)
			}
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped: %d of %s checked", len(found.Rules), plural(len(rules.All()), "rule"))
	}
	errorCount, warnings := found.Count(lint.Error), found.Count(lint.Warning)
	if errorCount > 0 || warnings > 0 && flags.failOn == string(lint.Warning) {
		return &exitError{code: exitLint, err: fmt.Errorf("%s, %s", plural(errorCount, "error"), plural(warnings, "warning"))}
	}
	return nil
}

func readEnrollments(name string) ([]lint.Enrollment, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	enrollments, err := lint.ReadEnrollments(file)
	if err != nil {
		return nil, fmt.Errorf("%s is not a list of enrollments: %w", name, err)
	}
	for i := range enrollments {
		enrollments[i].File = name
	}
	return enrollments, nil
}

func (flags *checkFlags) write(w io.Writer, found lint.Report) error {
	switch flags.format {
	case "json":
		return writeJSON(w, found)
	case "sarif":
		return report.WriteSARIF(w, "usher check", readBuild().Usher, lintChecks(), lintFindings(found))
	case "github":
		return report.WriteGitHub(w, lintFindings(found))
	case "junit":
		return report.WriteJUnit(w, "usher check", flags.lintSuites(found))
	}
	p := painterFor(w)
	for _, f := range found.Findings {
		level := string(f.Level)
		if f.Level == lint.Error {
			level = p.paint(red, level)
		}
		fmt.Fprintf(w, "%s:%d: %s: %s %s\n", f.File, f.Line, level, f.Message, p.paint(faint, "["+f.Lint+"]"))
		fmt.Fprintf(w, "    %s\n", f.Fix)
	}
	line := fmt.Sprintf("%s checked: %s, %s", plural(len(found.Rules), "rule"),
		plural(found.Count(lint.Error), "error"), plural(found.Count(lint.Warning), "warning"))
	if n := found.Count(lint.Note); n > 0 {
		line += ", " + plural(n, "note")
	}
	if n := len(found.Silenced); n > 0 {
		line += fmt.Sprintf(", %d silenced", n)
	}
	if len(found.Findings) == 0 {
		line = p.paint(green, line)
	}
	_, err := fmt.Fprintln(w, line)
	if len(found.Skipped) > 0 {
		_, err = fmt.Fprintf(w, "Not checked: %s (give %s)\n", strings.Join(found.Skipped, ", "), flags.toGive())
	}
	return err
}

// toGive says what lets all lints look.
func (flags *checkFlags) toGive() string {
	var missing []string
	if len(flags.hubs)+len(flags.enrollments) == 0 {
		missing = append(missing, "--hubs")
	}
	if len(flags.enrollments) == 0 {
		missing = append(missing, "--enrollments")
	}
	if !flags.rules.isFolder() {
		missing = append(missing, "the folder of the rules with its tests")
	}
	return strings.Join(missing, " and ")
}

// lintChecks returns the lints, and the check that reports rules that do not load.
func lintChecks() []report.Check {
	var checks []report.Check
	for _, l := range lint.Lints() {
		checks = append(checks, report.Check{ID: l.ID, Title: l.Title, Explanation: l.Explanation, Level: report.Level(l.Level)})
	}
	return append(checks, report.Check{ID: lint.NotLoaded, Title: "the rules do not load",
		Explanation: "The webhook cannot serve rules that OPA's compiler refuses.", Level: report.Error})
}

func lintFindings(found lint.Report) []report.Finding {
	var findings []report.Finding
	add := func(f lint.Finding, silenced string) {
		message := strings.TrimSuffix(f.Message+"\n"+f.Fix, "\n")
		findings = append(findings, report.Finding{Check: f.Lint, Level: report.Level(f.Level), File: f.File, Line: f.Line, Column: f.Column,
			Package: f.Rule, Message: message, Suppressed: silenced})
	}
	for _, f := range found.Findings {
		add(f, "")
	}
	for _, s := range found.Silenced {
		add(s.Finding, s.Reason)
	}
	return findings
}

// lintSuites returns a suite for each rule with a case for each lint. A case fails if the lint has a finding of at
// least the level of --fail-on.
func (flags *checkFlags) lintSuites(found lint.Report) []report.Suite {
	var suites []report.Suite
	for _, rule := range found.Rules {
		suite := report.Suite{Name: rule}
		for _, l := range lint.Lints() {
			if l.ID == lint.Unserved {
				continue // is about no rule
			}
			suite.Cases = append(suite.Cases, flags.lintCase(found, rule, l.ID))
		}
		suites = append(suites, suite)
	}
	// Rules that do not load, and enrollments that no rule serves, are findings without a rule.
	for _, id := range []string{lint.NotLoaded, lint.Unserved} {
		if c := flags.lintCase(found, "", id); c.Failure != nil {
			suites = append(suites, report.Suite{Cases: []report.Case{c}})
		}
	}
	return suites
}

func (flags *checkFlags) lintCase(found lint.Report, rule, id string) report.Case {
	c := report.Case{Name: id}
	var lines []string
	for _, f := range found.Findings {
		if f.Rule == rule && f.Lint == id && (f.Level == lint.Error || f.Level == lint.Warning && flags.failOn == string(lint.Warning)) {
			c.File = f.File
			lines = append(lines, fmt.Sprintf("%s:%d: %s (%s)", f.File, f.Line, f.Message, f.Fix))
		}
	}
	silenced := slices.IndexFunc(found.Silenced, func(s lint.Silenced) bool { return s.Rule == rule && s.Lint == id })
	switch {
	case len(lines) > 0:
		c.Failure = &report.Detail{Message: lines[0], Text: strings.Join(lines, "\n")}
	case silenced >= 0:
		c.Skipped = &report.Detail{Message: found.Silenced[silenced].Reason}
	case slices.Contains(found.Skipped, id):
		c.Skipped = &report.Detail{Message: "not checked: give " + flags.toGive()}
	}
	return c
}
