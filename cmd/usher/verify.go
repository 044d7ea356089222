package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// verifyFormats are what `usher verify -o` takes.
var verifyFormats = []string{"text", "json", "junit", "sarif", "github"}

// verifyFlags are those of `usher verify`.
type verifyFlags struct {
	rules    rulesFlags
	only     []string
	promises []string
	list     bool
	hubs     []string
	schema   string
	budget   int
	seed     uint64
	timeout  time.Duration
	save     string
	output   string
}

func newVerifyCommand() *cobra.Command {
	var flags verifyFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Search for a request that breaks a promise of a rule",
		Long: `Verify makes requests of what each rule says: the enrollments that it serves, every
set of the hubs that it names, the values that it compares, and those that nobody
expects. It decides each as the webhook does, and looks for one that breaks a
promise, such as that the hub is linked or that a device stays where it is when it
registers again. --list shows the promises; invariants of your own stand in
*_invariants.rego beside the rule.

Of a promise that is broken it prints the smallest request that it finds. With
--save it writes that to a file, which 'usher explain' takes.

Where all requests are too many for the budget, it asks every pair of values
together, and others by chance. The same seed asks the same requests again.

A rule switches a promise off, with a reason, in its METADATA:

  custom:
    verify:
      skip:
        - promise: order
          reason: our DPS lists the hubs in the order of their age

It exits with 5 if a promise is broken. Ctrl-C ends the search and prints what it
has found so far.`,
		Example: `  usher verify
  usher verify --rule tenants --hubs contoso-eu,contoso-us --save broken
  usher verify --promise settles,linked-hub --budget 200000 --seed 7
  usher verify -o sarif > verify.sarif                in CI
  usher verify --list`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runVerify(cmd, flags) },
	}
	flags.rules.register(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&flags.only, "rule", nil, "search only this rule, by its package: tenants, or allocation.tenants")
	f.StringSliceVar(&flags.promises, "promise", nil, "check only this promise, by its ID")
	f.BoolVar(&flags.list, "list", false, "list the promises and end")
	f.StringSliceVar(&flags.hubs, "hubs", nil, "hubs to link, by host name or first label, beside those that the rule names")
	f.StringVar(&flags.schema, "payload-schema", "", "JSON Schema of the payload that devices send")
	f.IntVar(&flags.budget, "budget", verify.DefaultBudget, "how many requests to ask each rule")
	f.Uint64Var(&flags.seed, "seed", 1, "what chance starts from")
	f.DurationVar(&flags.timeout, "timeout", decider.DefaultTimeout, "how long a rule may take for one request")
	f.StringVar(&flags.save, "save", "", "folder to write the requests to that break a promise")
	f.StringVarP(&flags.output, "output", "o", "text", strings.Join(verifyFormats, ", "))
	var ids []string
	for _, promise := range verify.Promises() {
		ids = append(ids, promise.ID+"\t"+promise.Says)
	}
	completeWith(cmd, "promise", ids...)
	completeWith(cmd, "output", verifyFormats...)
	completeRules(cmd, "rule", &flags.rules)
	return cmd
}

func runVerify(cmd *cobra.Command, flags verifyFlags) error {
	switch {
	case !slices.Contains(verifyFormats, flags.output):
		return usageError(fmt.Errorf("--output %s: it is one of %s", flags.output, strings.Join(verifyFormats, ", ")))
	case flags.budget < 1:
		return usageError(errors.New("--budget is at least 1"))
	case flags.timeout <= 0:
		return usageError(errors.New("--timeout is more than 0"))
	}
	if flags.list {
		return listPromises(cmd)
	}
	for _, hub := range flags.hubs {
		if !verify.IsHub(hub) {
			return usageError(fmt.Errorf("--hubs: %q is neither the host name of a hub nor its first label", hub))
		}
	}
	var fields []verify.Field
	if flags.schema != "" {
		text, err := os.ReadFile(flags.schema)
		if err != nil {
			return err
		}
		if fields, err = verify.ParsePayloadSchema(text); err != nil {
			return fmt.Errorf("%s: %w", flags.schema, err)
		}
	}
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	rules, files, err := loadRules(ctx, flags.rules, flags.rules.options())
	if err != nil {
		return err
	}
	bar := newProgress(cmd.ErrOrStderr(), "requests")
	report, err := verify.Run(ctx, verify.Options{
		Rules: rules, Files: files,
		Only: flags.only, Promises: flags.promises, Hubs: flags.hubs, PayloadSchema: fields,
		Budget: flags.budget, Seed: flags.seed, Timeout: flags.timeout,
		Progress: func(done, total int) { bar.update(done, float64(done)/float64(total)) },
	})
	bar.done()
	if err != nil {
		return searchError(err)
	}
	if flags.save != "" {
		if err := saveFindings(report, flags.save); err != nil {
			return err
		}
	}
	if err := writeVerifyReport(cmd, report, flags); err != nil {
		return err
	}
	if n := report.Broken(); n > 0 {
		return &exitError{exitInvariant, fmt.Errorf("%s broken", count(n, "promise is", "promises are"))}
	}
	if report.Interrupted {
		return errors.New("the search was ended before it was through")
	}
	return nil
}

// searchError gives an error of package verify its exit code.
func searchError(err error) error {
	if verify.IsLoadError(err) {
		return rulesError(fmt.Errorf("the rules do not load:\n%w", err))
	}
	if _, unknown := errors.AsType[*verify.UnknownError](err); unknown {
		return usageError(err)
	}
	return err
}

func listPromises(cmd *cobra.Command) error {
	width := 0
	for _, promise := range verify.Promises() {
		width = max(width, len(promise.ID))
	}
	for _, promise := range verify.Promises() {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-*s  %s\n", width, promise.ID, promise.Says); err != nil {
			return err
		}
	}
	return nil
}

// saveFindings writes the requests to files named after rule and promise. A
// promise that is about two requests gets a file for each.
func saveFindings(report *verify.Report, folder string) error {
	if report.Broken() == 0 {
		return nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	taken := map[string]int{}
	for i := range report.Rules {
		rule := &report.Rules[i]
		for j := range rule.Broken {
			finding := &rule.Broken[j]
			name := strings.TrimPrefix(rule.Rule, "allocation.") + "-" + finding.Promise
			if taken[name]++; taken[name] > 1 {
				name = fmt.Sprintf("%s-%d", name, taken[name])
			}
			finding.File = filepath.Join(folder, name+".json")
			if err := os.WriteFile(finding.File, append(slices.Clone(finding.Request), '\n'), 0o644); err != nil {
				return err
			}
			if finding.Then == nil {
				continue
			}
			finding.ThenFile = filepath.Join(folder, name+"-then.json")
			if err := os.WriteFile(finding.ThenFile, append(slices.Clone(finding.Then), '\n'), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
