package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// testFlags are those of `usher test`.
type testFlags struct {
	rules     rulesFlags
	exchanges string // folder; empty for that of the rules
	run       string
	pattern   *regexp.Regexp // of run
	coverage  bool
	threshold float64
	timeout   time.Duration
	require   bool
	update    bool
	watch     bool
	verbose   bool
	format    string
}

// testFormats are what `usher test -o` takes.
var testFormats = []string{"text", "json", "junit", "github"}

func newTestCommand() *cobra.Command {
	var flags testFlags
	cmd := &cobra.Command{
		Use:   "test [path]",
		Short: "Run the tests of rules, and compare exchanges",
		Long: `Test runs every rule named test_... in the *_test.rego files of a rules folder, as
'opa test' does, with the built-in functions and the schema that rules are served
with. A test with cases, test_x[name] if ..., counts once for each case. Invariants,
in *_invariants.rego files, are compiled, and left to 'usher verify' to ask.

It then decides every exchange below the folder, NAME.request.json, as the webhook
would, and compares the decision with NAME.decision.json beside it. --update writes
the decisions; look at what it changed before you commit it.

It exits with 4 if a test or an exchange fails, coverage is below --threshold, or
--require-tests finds a package without tests.`,
		Example: `  usher test
  usher test rules --run tenants -v
  usher test --threshold 90 --require-tests -o github     in CI
  usher test --watch`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
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
	f.Float64Var(&flags.threshold, "threshold", 0, "least coverage in percent; turns --coverage on")
	f.DurationVar(&flags.timeout, "timeout", ruletest.DefaultTimeout, "how long one test may take")
	f.BoolVar(&flags.require, "require-tests", false, "fail if a package of rules has neither a test nor an exchange")
	f.BoolVar(&flags.update, "update", false, "write the decision files of exchanges where they differ or are missing")
	f.BoolVar(&flags.watch, "watch", false, "run again whenever a file changes, until Ctrl-C")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "list what passed, too")
	f.StringVarP(&flags.format, "output", "o", "text", "text, json, junit or github")
	completeWith(cmd, "output", testFormats...)
	return cmd
}

func (flags *testFlags) check(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		if cmd.Flags().Changed("rules") && flags.rules.path != args[0] {
			return usageError(fmt.Errorf("the rules are given twice: %s and --rules %s", args[0], flags.rules.path))
		}
		flags.rules.path = args[0]
	}
	if flags.run != "" {
		pattern, err := regexp.Compile(flags.run)
		if err != nil {
			return usageError(fmt.Errorf("--run: %w", err))
		}
		flags.pattern = pattern
	}
	if flags.threshold < 0 || flags.threshold > 100 {
		return usageError(fmt.Errorf("--threshold is a percentage, %v is none", flags.threshold))
	}
	if flags.timeout <= 0 {
		return usageError(fmt.Errorf("--timeout must be above 0, and is %s", flags.timeout))
	}
	flags.coverage = flags.coverage || flags.threshold > 0
	if !slices.Contains(testFormats, flags.format) {
		return usageError(fmt.Errorf("--output is %q: use text, json, junit or github", flags.format))
	}
	return nil
}

// runOnce runs everything, reports it, and says in its error whether all is well.
func (flags *testFlags) runOnce(ctx context.Context, w, stderr io.Writer) error {
	shown := newProgress(stderr, "tests")
	report, err := flags.collect(ctx, shown)
	shown.done()
	if err != nil && ctx.Err() == nil {
		return err
	}
	if err := report.write(w, flags.format, flags.verbose); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: what is above is not all")
	}
	return report.verdict(flags.threshold)
}

// collect returns what was found until an error, too.
func (flags *testFlags) collect(ctx context.Context, shown *progress) (*testReport, error) {
	report := &testReport{}
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
	exchanges, err := flags.exchangesToRun()
	if err != nil {
		return report, err
	}
	work := progressOf{progress: shown, all: suite.Count() + len(exchanges)}
	last := ""
	for result, err := range suite.Run(ctx) {
		if err != nil {
			report.sort()
			return report, rulesError(fmt.Errorf("the tests do not load:\n%w", err))
		}
		report.Tests = append(report.Tests, newTestCase(result))
		if name := result.Package + "." + result.Test; name != last { // and no further case of the same
			last = name
			work.step()
		}
	}
	report.sort()
	if err := flags.compareExchanges(ctx, rules, exchanges, work, report); err != nil {
		return report, err
	}
	if flags.coverage {
		coverage := suite.Coverage()
		report.Coverage = &coverage
	}
	if flags.require {
		for _, name := range suite.Untested() {
			if !report.hasExchange(name) {
				report.Untested = append(report.Untested, name)
			}
		}
	}
	if len(report.Tests)+len(report.Exchanges) == 0 && len(report.Untested) == 0 {
		if flags.pattern != nil {
			return report, usageError(fmt.Errorf("--run %s matches no test and no exchange", flags.run))
		}
	}
	return report, nil
}

// progressOf counts steps of known work.
type progressOf struct {
	*progress
	done, all int
}

func (p *progressOf) step() {
	p.done++
	p.update(p.done, float64(p.done)/float64(max(p.all, 1)))
}

// exchangesToRun are those that --run picks.
func (flags *testFlags) exchangesToRun() ([]exchange.Exchange, error) {
	folder := flags.exchangeFolder()
	if folder == "" {
		return nil, nil
	}
	exchanges, err := exchange.Find(folder)
	return slices.DeleteFunc(exchanges, func(e exchange.Exchange) bool {
		return flags.pattern != nil && !flags.pattern.MatchString(e.Name)
	}), err
}

func (flags *testFlags) compareExchanges(ctx context.Context, rules *decider.Rules, exchanges []exchange.Exchange, work progressOf, report *testReport) error {
	if len(exchanges) == 0 {
		return nil
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		return err
	}
	for _, e := range exchanges {
		work.step()
		start := time.Now()
		result, err := e.Run(ctx, allocator, flags.update)
		if err != nil {
			return err
		}
		report.Exchanges = append(report.Exchanges, newExchangeCase(result, time.Since(start)))
	}
	return nil
}

// exchangeFolder is "" if there is none: the rules are a bundle.
func (flags *testFlags) exchangeFolder() string {
	if flags.exchanges != "" {
		return flags.exchanges
	}
	if info, err := os.Stat(flags.rules.path); err == nil && info.IsDir() {
		return filepath.Clean(flags.rules.path)
	}
	return ""
}

// verdict is nil if all is well. The error asks for the exit code of failing tests.
func (r *testReport) verdict(threshold float64) error {
	var problems []string
	if n := r.count(caseFail) + r.count(caseError); n > 0 {
		problems = append(problems, fmt.Sprintf("%d of %d tests failed", n, len(r.Tests)+len(r.Exchanges)))
	}
	if r.Coverage != nil && r.Coverage.Percent < threshold {
		problems = append(problems, fmt.Sprintf("the tests reach %v%% of the lines, --threshold is %v%%", r.Coverage.Percent, threshold))
	}
	if len(r.Untested) > 0 {
		problems = append(problems, "no test is about "+strings.Join(r.Untested, ", "))
	}
	if len(problems) == 0 {
		return nil
	}
	return &exitError{code: exitTests, err: errors.New(strings.Join(problems, "; "))}
}
