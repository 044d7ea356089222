package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// verifyFormats are the values of `usher verify -o`.
var verifyFormats = []string{"text", "json", "junit", "sarif", "github"}

// verifyFlags are the flags of `usher verify`.
type verifyFlags struct {
	rules    rulesFlags
	only     []string
	promises []string
	list     bool
	hubs     hubList
	schema   string
	requests []string
	budget   int
	seed     uint64
	timeout  time.Duration
	save     string
	output   string
}

func newVerifyCommand() *cobra.Command {
	var flags verifyFlags
	cmd := &cobra.Command{
		Use:   "verify [path]",
		Short: "Search for a request that breaks a promise of a rule",
		Long: `Verify generates requests from what each rule says: the enrollments that it serves,
every set of the hubs that it names, the values that it compares, and values that no
one expects. It follows them through the rule, and changes them until each of its
expressions has held and failed. It decides each request as the webhook does, and
looks for one that breaks a promise, such as that the hub is linked or that a device
stays where it is when it registers again. --list shows the promises; you can write
invariants of your own in *_invariants.rego next to the rule.

For each broken promise it prints the smallest request that it finds. With --save it
also writes that request to a file for 'usher explain'.

If there are more requests than the budget allows, it tries every pair of values
together, and then others at random. The same seed gives the same requests.

A rule switches a promise off, with a reason, in its METADATA:

  custom:
    verify:
      skip:
        - promise: order
          reason: our DPS lists the hubs in the order of their age

It exits with 5 if a promise is broken. Ctrl-C ends the search and prints what it
has found so far.`,
		Example: `  usher verify
  usher verify rules --rule tenants --hubs contoso-eu,contoso-us --save broken
  usher verify --requests decisions.jsonl             start from what devices send
  usher verify --promise settles,linked-hub --budget 200000 --seed 7
  usher verify -o sarif > verify.sarif                in CI
  usher verify --list`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.rules.complete(cmd, args...); err != nil {
				return err
			}
			return runVerify(cmd, flags)
		},
	}
	flags.rules.register(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&flags.only, "rule", nil, "search only this rule, by its package: tenants, or allocation.tenants")
	f.StringSliceVar(&flags.promises, "promise", nil, "check only this promise, by its ID")
	f.BoolVar(&flags.list, "list", false, "list the promises and exit")
	addHubs(cmd, &flags.hubs, "hubs to link in addition to those that the rule names")
	f.StringVar(&flags.schema, "payload-schema", "", "JSON Schema of the payload that devices send")
	f.StringSliceVar(&flags.requests, "requests", nil, "real requests to start from: exchanges, decision records, the journal of usher dps, or a folder of them")
	f.IntVar(&flags.budget, "budget", verify.DefaultBudget, "how many requests to try for each rule")
	f.Uint64Var(&flags.seed, "seed", 1, "seed of the random choices")
	f.DurationVar(&flags.timeout, "timeout", decider.DefaultTimeout, "time limit of a rule for one request")
	f.StringVar(&flags.save, "save", "", "folder in which to save the requests that break a promise")
	addOutputFlag(cmd, &flags.output, verifyFormats...)
	var ids []string
	for _, promise := range verify.Promises() {
		ids = append(ids, promise.ID+"\t"+promise.Statement)
	}
	completeWith(cmd, "promise", ids...)
	completeRules(cmd, "rule", &flags.rules)
	return cmd
}

func runVerify(cmd *cobra.Command, flags verifyFlags) error {
	switch {
	case flags.budget < 1:
		return usageError(fmt.Errorf("--budget must be at least 1, and is %d", flags.budget))
	case flags.timeout <= 0:
		return usageError(fmt.Errorf("--timeout must be above 0, and is %s", flags.timeout))
	}
	if flags.list {
		var rows []string
		for _, promise := range verify.Promises() {
			rows = append(rows, promise.ID+"\t"+promise.Statement)
		}
		return writeTable(cmd.OutOrStdout(), rows)
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
	requests, err := readDocuments(ctx, flags.requests, cmd.InOrStdin())
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		// A search makes much and keeps little, so collecting less often saves a fifth of the time.
		defer debug.SetGCPercent(debug.SetGCPercent(400))
	}
	bar := newProgress(cmd.ErrOrStderr(), "requests")
	report, err := verify.Run(ctx, verify.Options{
		Rules: rules, Files: files,
		Only: flags.only, Promises: flags.promises, Hubs: flags.hubs, PayloadSchema: fields, Requests: requests,
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
	if err := writeVerifyReport(cmd.OutOrStdout(), report, flags); err != nil {
		return err
	}
	if n := report.Broken(); n > 0 {
		return &exitError{exitInvariant, fmt.Errorf("%s broken", count(n, "promise is", "promises are"))}
	}
	if report.Interrupted {
		return errors.New("the search was interrupted before it was complete")
	}
	return nil
}

// readDocuments reads the documents of all requests of the logs that arguments name.
func readDocuments(ctx context.Context, args []string, stdin io.Reader) ([]map[string]any, error) {
	logs, err := openLogs(args, stdin, "standard input")
	if err != nil {
		return nil, err
	}
	var documents []map[string]any
	for item, err := range requestlog.Items(ctx, logs...) {
		if err != nil {
			return nil, err
		}
		if item.Body == nil {
			continue
		}
		if request, err := item.Parse(); err == nil && request.Enrollment.ID != "" {
			documents = append(documents, request.Document())
		}
	}
	if len(documents) == 0 && len(args) > 0 {
		return nil, fmt.Errorf("--requests: %s contains no AllocationRequest", strings.Join(args, ", "))
	}
	return documents, nil
}

// searchError gives an error of package verify its exit code.
func searchError(err error) error {
	if _, broken := errors.AsType[*ruleset.LoadError](err); broken {
		return rulesError(fmt.Errorf("the rules do not load:\n%w", err))
	}
	if _, unknown := errors.AsType[*verify.UnknownError](err); unknown {
		return usageError(err)
	}
	return err
}

// saveFindings writes the requests to files named after the rule and the promise, with the rows that the rule looked up.
// If a finding has a second request, it gets a file of its own.
func saveFindings(report *verify.Report, folder string) error {
	names := map[string]int{}
	save := func(name string, request json.RawMessage, rows []verify.Row) (string, error) {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return "", err
		}
		text := []byte(request)
		if len(rows) > 0 {
			var err error
			if text, err = json.MarshalIndent(struct {
				Request json.RawMessage `json:"request"`
				Lookups []verify.Row    `json:"lookups"`
			}{request, rows}, "", "  "); err != nil {
				return "", err
			}
		}
		file := filepath.Join(folder, name+".json")
		return file, os.WriteFile(file, append(slices.Clone(text), '\n'), 0o644)
	}
	for _, rule := range report.Rules {
		for i := range rule.Broken {
			finding := &rule.Broken[i]
			name := strings.TrimPrefix(rule.Rule, "allocation.") + "-" + finding.Promise
			if names[name]++; names[name] > 1 {
				name = fmt.Sprintf("%s-%d", name, names[name])
			}
			var err error
			if finding.File, err = save(name, finding.Request, finding.Rows); err != nil {
				return err
			}
			if finding.Then != nil {
				if finding.ThenFile, err = save(name+"-then", finding.Then, finding.Rows); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
