package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/mutate"
	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// testFlags are the flags of `usher test`.
type testFlags struct {
	rules     rulesFlags
	exchanges string // folder; empty for that of the rules
	run       string
	pattern   *regexp.Regexp // run, compiled
	coverage  bool
	threshold float64
	mutate    bool
	mutateMin float64 // --mutate-threshold
	timeout   time.Duration
	require   bool
	update    bool
	watch     bool
	verbose   bool
	format    string
}

// testFormats are the values of `usher test -o`.
var testFormats = []string{"text", "json", "junit", "github"}

func newTestCommand() *cobra.Command {
	var flags testFlags
	cmd := &cobra.Command{
		Use:   "test [path]",
		Short: "Run the tests of rules and compare exchanges",
		Long: `Test runs every rule named test_... in the *_test.rego files of a rules folder, as
'opa test' does, with the built-in functions and the schema that rules are served
with. A test with cases, test_x[name] if ..., counts once for each case. It compiles
the invariants in *_invariants.rego files, but only 'usher verify' evaluates them.

It then decides every exchange below the folder, NAME.request.json, as the webhook
would, and compares the decision with NAME.decision.json next to it. --update writes
the decisions; look at what it changed before you commit it.

With --mutate, it then changes the rules in one place at a time, such as a < to a <=,
and lists the changes that no test, exchange or invariant notices. For each it shows
a request that the changed rules answer differently, by which a test would notice.

It exits with 4 if a test or an exchange fails, if coverage is below --threshold, if
too few changes are noticed for --mutate-threshold, or if --require-tests finds a
package without tests.`,
		Example: `  usher test
  usher test rules --run tenants -v
  usher test --threshold 90 --require-tests -o github     in CI
  usher test --mutate --run tenants                       what do its tests not notice?
  usher test --watch`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd, args); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if flags.watch {
				return flags.keepRunning(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return flags.runOnce(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags.rules.register(cmd)
	f := cmd.Flags()
	f.StringVar(&flags.exchanges, "exchanges", "", "folder with exchanges (default the folder of the rules)")
	f.StringVar(&flags.run, "run", "", "run only what matches this regular expression: data.PACKAGE.test_NAME, or the path of an exchange")
	f.BoolVar(&flags.coverage, "coverage", false, "show which lines of the rules no test reaches")
	f.Float64Var(&flags.threshold, "threshold", 0, "fail if the coverage is below this percentage; turns on --coverage")
	f.BoolVar(&flags.mutate, "mutate", false, "change the rules in one place at a time, and show which changes nothing notices")
	f.Float64Var(&flags.mutateMin, "mutate-threshold", 0, "fail if less than this percentage of the changes is noticed; turns on --mutate")
	f.DurationVar(&flags.timeout, "timeout", ruletest.DefaultTimeout, "time limit of one test")
	f.BoolVar(&flags.require, "require-tests", false, "fail if a package of rules has neither a test nor an exchange")
	f.BoolVar(&flags.update, "update", false, "write the decision files of exchanges where they differ or are missing")
	f.BoolVar(&flags.watch, "watch", false, "run again whenever a file changes, until Ctrl-C")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "list also what passed")
	addOutputFlag(cmd, &flags.format, testFormats...)
	return cmd
}

func (flags *testFlags) check(cmd *cobra.Command, args []string) error {
	if flags.run != "" {
		pattern, err := regexp.Compile(flags.run)
		if err != nil {
			return usageError(fmt.Errorf("--run: %w", err))
		}
		flags.pattern = pattern
	}
	switch {
	case flags.threshold < 0 || flags.threshold > 100:
		return usageError(fmt.Errorf("--threshold must be from 0 to 100, and is %v", flags.threshold))
	case flags.mutateMin < 0 || flags.mutateMin > 100:
		return usageError(fmt.Errorf("--mutate-threshold must be from 0 to 100, and is %v", flags.mutateMin))
	case flags.timeout <= 0:
		return usageError(fmt.Errorf("--timeout must be above 0, and is %s", flags.timeout))
	}
	flags.coverage = flags.coverage || flags.threshold > 0
	flags.mutate = flags.mutate || flags.mutateMin > 0
	return flags.rules.complete(cmd, args...)
}

// runOnce runs everything and reports it. It returns an error if a test fails, or something else that the flags require
// is missing.
func (flags *testFlags) runOnce(ctx context.Context, w, stderr io.Writer) error {
	report, err := flags.collect(ctx, stderr)
	if err != nil && ctx.Err() == nil {
		return err
	}
	if err := report.write(w, flags.format, flags.verbose, flags.mutateMin); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: the results are incomplete")
	}
	return report.failure(flags.threshold, flags.mutateMin)
}

// collect returns what it has found even if it returns an error.
func (flags *testFlags) collect(ctx context.Context, stderr io.Writer) (*testReport, error) {
	report := &testReport{}
	bar := newProgress(stderr, "tests")
	defer bar.done()
	rules, fsys, err := loadRules(ctx, flags.rules, flags.rules.options())
	if err != nil {
		return report, err
	}
	suite, err := ruletest.Load(ctx, fsys, ruletest.Options{
		Name: flags.rules.path, AllowBuiltins: flags.rules.builtins, AllowNet: flags.rules.allowNet,
		Run: flags.pattern, Coverage: flags.coverage, Timeout: flags.timeout,
	})
	if err != nil {
		return report, rulesError(fmt.Errorf("the tests or invariants do not load:\n%w", err))
	}
	exchanges, err := flags.findExchanges()
	if err != nil {
		return report, err
	}
	done, all := 0, suite.Count()+len(exchanges)
	step := func() {
		done++
		bar.update(done, float64(done)/float64(max(all, 1)))
	}
	last := ""
	for result, err := range suite.Run(ctx) {
		if err != nil {
			report.sort()
			return report, rulesError(fmt.Errorf("the tests do not load:\n%w", err))
		}
		report.Tests = append(report.Tests, testCase{result.Name(), result, result.Duration.Seconds()})
		if name := result.Package + "." + result.Test; name != last { // not another case of the same test
			last = name
			step()
		}
	}
	report.sort()
	report.WithoutInput = suite.WithoutInput()
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		return report, err
	}
	for _, e := range exchanges {
		step()
		start := time.Now()
		result, err := e.Run(ctx, allocator, flags.update)
		if err != nil {
			return report, err
		}
		report.Exchanges = append(report.Exchanges, newExchangeCase(result, time.Since(start)))
	}
	if flags.coverage {
		coverage := suite.Coverage()
		report.Coverage = &coverage
	}
	if flags.require {
		report.Untested = slices.DeleteFunc(suite.Untested(), func(rule string) bool {
			return slices.ContainsFunc(report.Exchanges, func(e exchangeCase) bool { return e.Rule == rule })
		})
	}
	if flags.pattern != nil && len(report.Tests)+len(report.Exchanges)+len(report.Untested) == 0 {
		return report, usageError(fmt.Errorf("--run %s matches no test and no exchange", flags.run))
	}
	if flags.mutate {
		bar.done()
		return report, flags.mutateRules(ctx, stderr, fsys, exchanges, report)
	}
	return report, nil
}

// mutateRules adds to a report which changes of the rules the tests notice.
func (flags *testFlags) mutateRules(ctx context.Context, stderr io.Writer, fsys fs.FS, exchanges []exchange.Exchange, report *testReport) error {
	bar := newProgress(stderr, "changes")
	defer bar.done()
	var err error
	report.Mutation, err = mutate.Run(ctx, mutate.Options{
		Files: fsys, Rules: flags.rules.options(), Exchanges: exchanges, Run: flags.pattern, TestTimeout: flags.timeout,
		Progress: func(done, total int) { bar.update(done, float64(done)/float64(total)) },
	})
	if failed, ok := errors.AsType[*mutate.BaselineError](err); ok {
		report.notMutated = failed
		return nil
	}
	return err
}

// findExchanges returns the exchanges that match --run.
func (flags *testFlags) findExchanges() ([]exchange.Exchange, error) {
	folder := flags.exchangeFolder()
	if folder == "" {
		return nil, nil
	}
	exchanges, err := exchange.Find(folder)
	return slices.DeleteFunc(exchanges, func(e exchange.Exchange) bool {
		return flags.pattern != nil && !flags.pattern.MatchString(e.Name)
	}), err
}

// exchangeFolder returns "" if there is none because the rules are a bundle.
func (flags *testFlags) exchangeFolder() string {
	if flags.exchanges == "" && flags.rules.isFolder() {
		return filepath.Clean(flags.rules.path)
	}
	return flags.exchanges
}
