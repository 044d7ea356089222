package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/rulebench"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// benchFlags are the flags of `usher bench`.
type benchFlags struct {
	rules            rulesFlags
	requests         []string // files and folders
	duration, warmup time.Duration
	save, compare    string
	threshold        percentage
	least            time.Duration
	metrics          []string
	format           string
	generate         int
	only             []string // rules to generate for
	seed             uint64
	keep             string // file for the generated requests
}

// maxGenerated bounds the requests that are generated for a rule, which are all kept in memory.
const maxGenerated = 100_000

// benchRetries is how often something that looks worse is measured again before it counts.
const benchRetries = 2

func newBenchCommand() *cobra.Command {
	flags := benchFlags{threshold: 0.2}
	cmd := &cobra.Command{
		Use:   "bench [path]",
		Short: "Measure how long rules take",
		Long: `Bench decides requests repeatedly, one after the other, and prints percentiles of the
time of a decision, from the bytes of the request to those of the response, and what it
allocates: for each rule and for all. The typical time is the mean of the medians of the
requests.

Requests come from the files and folders of --requests, or with - from standard input.
They are what 'usher replay' reads: AllocationRequests, exchanges, decision records or
exports. In a folder, files without a request are passed over, and named. The default is the
folder examples/requests or, where there is none, --generate 100.

With --generate N it also generates up to N requests for each rule, or for each --rule,
as 'usher verify' does: with enrollments, hubs and values that the rule names, and with
unexpected ones. The same rules and --seed give the same requests.

With --compare it exits with 8 if a rule is worse than in a measurement that --save wrote:
if its typical time or its number of allocations, or the --metrics that you name, grew by
more than --threshold and, for a time, by more than --min-difference. What looks worse is
measured again, at most twice, and the better figures count. Compare only measurements of
the same machine.`,
		Example: `  usher bench
  usher bench rules --requests requests --save before.json
  usher bench rules --requests requests --compare before.json --threshold 10%
  usher bench --generate 500 --seed 7 --rule tenants`,
		Args: countArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd, args); err != nil {
				return err
			}
			if len(flags.requests) == 0 && flags.generate == 0 {
				if err := flags.complete(cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return flags.run(ctx, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags.rules.register(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&flags.requests, "requests", nil, "requests to decide: AllocationRequests, exchanges, decision records, or a folder of them; default examples/requests, or if there is none --generate 100")
	f.DurationVar(&flags.duration, "duration", 5*time.Second, "how long to measure")
	f.DurationVar(&flags.warmup, "warmup", time.Second, "how long to decide before that, without measuring")
	f.StringVar(&flags.save, "save", "", "file to write the measurement to, as JSON")
	f.StringVar(&flags.compare, "compare", "", "file with an earlier measurement to compare with")
	f.Var(&flags.threshold, "threshold", "how much worse is too much")
	f.DurationVar(&flags.least, "min-difference", 10*time.Microsecond, "smallest difference of times that counts")
	f.StringSliceVar(&flags.metrics, "metrics", []string{"typical", "allocs"}, "what may not be worse: typical, p95, p99, allocs; on a busy machine p95 and p99 depend on the machine")
	f.IntVar(&flags.generate, "generate", 0, "how many requests to generate for each rule, besides those that are named")
	f.StringSliceVar(&flags.only, "rule", nil, "generate requests only for this rule, named by its package: tenants, or allocation.tenants")
	f.Uint64Var(&flags.seed, "seed", 1, "seed of the random generator of requests")
	f.StringVar(&flags.keep, "save-requests", "", "file to write the generated requests to, one to a line")
	addOutputFlag(cmd, &flags.format, "text", "json")
	var metrics []string
	for _, metric := range rulebench.Metrics() {
		metrics = append(metrics, string(metric))
	}
	completeWith(cmd, "metrics", metrics...)
	completeRules(cmd, "rule", &flags.rules)
	return cmd
}

func (flags *benchFlags) check(cmd *cobra.Command, args []string) error {
	switch {
	case flags.duration <= 0 || flags.duration > time.Hour:
		return usageError(fmt.Errorf("--duration must be above 0 and at most 1h, and is %s", flags.duration))
	case flags.warmup < 0 || flags.warmup > time.Hour:
		return usageError(fmt.Errorf("--warmup must be from 0 to 1h, and is %s", flags.warmup))
	case flags.generate < 0 || flags.generate > maxGenerated:
		return usageError(fmt.Errorf("--generate must be from 0 to %d, and is %d", maxGenerated, flags.generate))
	case flags.generate == 0 && (len(flags.only) > 0 || flags.keep != ""):
		return usageError(errors.New("--rule and --save-requests are for generated requests: say how many with --generate"))
	case flags.least < 0:
		return usageError(fmt.Errorf("--min-difference must not be below 0, and is %s", flags.least))
	}
	for _, name := range flags.metrics {
		if !slices.Contains(rulebench.Metrics(), rulebench.Metric(name)) {
			return usageError(fmt.Errorf("--metrics has %q: use typical, p95, p99, allocs", name))
		}
	}
	return flags.rules.complete(cmd, args...)
}

// Requests of a command line that names none.
const (
	defaultRequests = "examples/requests"
	defaultGenerate = 100
)

// complete chooses requests for a command line that names none. In a repository of rules there are often none yet.
func (flags *benchFlags) complete(stderr io.Writer) error {
	_, err := os.Stat(defaultRequests)
	if errors.Is(err, fs.ErrNotExist) {
		flags.generate = defaultGenerate
		_, err = fmt.Fprintf(stderr, "there is no folder %s: requests are made of the rules, as with --generate %d (--requests names files and folders of yours)\n", defaultRequests, defaultGenerate)
		return err
	}
	flags.requests = []string{defaultRequests}
	return err
}

func (flags *benchFlags) limits() rulebench.Limits {
	limits := rulebench.Limits{Threshold: float64(flags.threshold), MinDifference: flags.least}
	for _, name := range flags.metrics {
		limits.Metrics = append(limits.Metrics, rulebench.Metric(name))
	}
	return limits
}

func (flags *benchFlags) run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	baseline, err := readBaseline(flags.compare)
	if err != nil {
		return err
	}
	rules, files, err := loadRules(ctx, flags.rules, flags.rules.options())
	if err != nil {
		return err
	}
	var named readRequests
	if len(flags.requests) > 0 {
		if err := named.read(ctx, flags.requests, stdin, rules); err != nil {
			return err
		}
		if named.lacking > 0 {
			fmt.Fprintf(stderr, "in %s, something that the rules look at is masked: its time can differ from that of the whole request\n", plural(named.lacking, "request"))
		}
		if len(named.passed) > 0 {
			fmt.Fprintf(stderr, "%s without a request: %s\n", plural(len(named.passed), "file"), strings.Join(named.passed, ", "))
		}
	}
	generated, summary, err := flags.generateRequests(ctx, rules, files, stderr)
	if err != nil {
		return err
	}
	requests := append(named.requests, generated...)
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		return err
	}
	report, err := flags.measure(ctx, allocator, requests, stderr)
	if err != nil && ctx.Err() == nil {
		return err
	}
	var changes []rulebench.Change
	for retry := 0; baseline != nil && ctx.Err() == nil; retry++ {
		if changes, err = rulebench.Compare(*baseline, report, flags.limits()); err != nil {
			return fmt.Errorf("%s: %w", flags.compare, err)
		}
		if retry == benchRetries || !slices.ContainsFunc(changes, rulebench.Change.Worse) {
			break
		}
		again, err := flags.measure(ctx, allocator, requests, stderr)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if ctx.Err() == nil {
			report = rulebench.Best(report, again)
		}
	}
	if err := flags.write(stdout, report, summary, changes); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: the figures are those up to that moment")
	}
	if flags.save != "" {
		text, err := json.MarshalIndent(report, "", "  ")
		if err == nil {
			err = writeFile(flags.save, append(text, '\n'))
		}
		if err != nil {
			return err
		}
	}
	var worse []string
	for _, change := range changes {
		if change.Worse() {
			worse = append(worse, change.Rule)
		}
	}
	if len(worse) > 0 {
		return &exitError{code: exitBench, err: fmt.Errorf("worse by more than %s than in %s: %s", &flags.threshold, flags.compare, strings.Join(worse, ", "))}
	}
	return nil
}

func (flags *benchFlags) measure(ctx context.Context, allocator *decider.Decider, requests []rulebench.Request, stderr io.Writer) (rulebench.Report, error) {
	bar := newProgress(stderr, "decisions")
	defer bar.done()
	return rulebench.Measure(ctx, allocator, requests, rulebench.Options{
		Warmup: flags.warmup, Duration: flags.duration, Progress: bar.update,
	})
}

func readBaseline(name string) (*rulebench.Report, error) {
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var baseline rulebench.Report
	if err := json.Unmarshal(text, &baseline); err != nil {
		return nil, fmt.Errorf("%s is not a measurement that --save wrote: %w", name, err)
	}
	if len(baseline.Rows) == 0 {
		return nil, fmt.Errorf("%s is not a measurement that --save wrote: it has no rows", name)
	}
	return &baseline, nil
}

// generatedRequests says which requests were generated rather than read.
type generatedRequests struct {
	Seed  uint64          `json:"seed"`
	Rules []generatedRule `json:"rules"`
}

type generatedRule struct {
	Rule     string `json:"rule"`
	Requests int    `json:"requests"`
}

// generateRequests returns the requests that --generate asks for, and a summary of them; nil if it asks for none.
func (flags *benchFlags) generateRequests(ctx context.Context, rules *decider.Rules, files fs.FS, stderr io.Writer) ([]rulebench.Request, *generatedRequests, error) {
	if flags.generate == 0 {
		return nil, nil, nil
	}
	bar := newProgress(stderr, "rules")
	defer bar.done()
	generated, err := verify.Generate(ctx, verify.Options{
		Rules: rules, Files: files, Only: flags.only, Budget: flags.generate, Seed: flags.seed,
		Progress: func(done, total int) { bar.update(done, float64(done)/float64(total)) },
	})
	switch {
	case ctx.Err() != nil:
		return nil, nil, errors.New("interrupted while requests were generated: nothing is measured yet")
	case err != nil:
		return nil, nil, searchError(err)
	}
	summary := &generatedRequests{Seed: flags.seed, Rules: []generatedRule{}}
	var requests []rulebench.Request
	var lines bytes.Buffer
	for _, one := range generated {
		if n := len(summary.Rules); n == 0 || summary.Rules[n-1].Rule != one.Rule {
			summary.Rules = append(summary.Rules, generatedRule{Rule: one.Rule})
		}
		rule := &summary.Rules[len(summary.Rules)-1]
		rule.Requests++
		lines.Write(append(one.Body, '\n'))
		requests = append(requests, rulebench.Request{Name: fmt.Sprintf("%s, generated request %d", one.Rule, rule.Requests), Body: one.Body})
	}
	if flags.keep != "" {
		err = writeFile(flags.keep, lines.Bytes())
	}
	return requests, summary, err
}

func (g *generatedRequests) write(w io.Writer) {
	var rules []string
	for _, rule := range g.Rules {
		rules = append(rules, fmt.Sprintf("%d for %s", rule.Requests, rule.Rule))
	}
	fmt.Fprintf(w, "requests generated with --seed %d: %s\n", g.Seed, strings.Join(rules, ", "))
}

// maxFaults is how many requests that end in a fault are named as text.
const maxFaults = 10

func (flags *benchFlags) write(w io.Writer, report rulebench.Report, generated *generatedRequests, changes []rulebench.Change) error {
	if flags.format == "json" {
		return writeJSON(w, struct {
			rulebench.Report
			Generated *generatedRequests `json:"generated,omitempty"`
			Changes   []rulebench.Change `json:"changes,omitempty"`
		}{report, generated, changes})
	}
	fmt.Fprintf(w, "%s %s, %d CPUs; one decision at a time\n", report.Go, report.Platform, report.CPUs)
	if generated != nil {
		generated.write(w)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "typical\tp50\tp95\tp99\tmax\tper second\tallocs\tbytes\trequests\t  rule")
	for _, row := range report.Rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t%d\t  %s\n", microseconds(row.Typical), microseconds(row.P50), microseconds(row.P95), microseconds(row.P99),
			microseconds(row.Max), row.PerSecond, counted(row.Allocs), counted(row.Bytes), row.Requests, row.Rule)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for i, fault := range report.Faults {
		if i == maxFaults {
			fmt.Fprintf(w, "%d more are faults; -o json names them all\n", len(report.Faults)-maxFaults)
			break
		}
		fmt.Fprintf(w, "%s is a fault, %s: %s\n", fault.Request, fault.Kind, fault.Detail)
	}
	if changes == nil {
		return nil
	}
	fmt.Fprintf(w, "\nagainst %s\n", flags.compare)
	table = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "typical\tp95\tp99\tallocs\t  rule")
	for _, change := range changes {
		for _, metric := range rulebench.Metrics() {
			fmt.Fprintf(table, "%+.1f%%\t", 100*change.Deltas[metric].Share())
		}
		note := ""
		if change.Worse() {
			note = "  WORSE"
		}
		fmt.Fprintf(table, "  %s%s\n", change.Rule, note)
	}
	return table.Flush()
}

func microseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
}

// counted writes a count; an interrupted measurement has none.
func counted(n float64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", n)
}

// percentage is a flag such as 20%, kept as a share.
type percentage float64

func (p *percentage) String() string { return strconv.FormatFloat(100*float64(*p), 'g', 6, 64) + "%" }
func (p *percentage) Type() string   { return "percentage" }
func (p *percentage) Set(text string) error {
	number, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(number >= 0 && number <= 10_000) {
		return errors.New("not a percentage such as 20%")
	}
	*p = percentage(number / 100)
	return nil
}
