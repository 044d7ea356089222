package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/replay/view"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/author/requestlog/blobs"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/operate/azureauth"
)

// replayFlags are the flags of `usher replay`.
type replayFlags struct {
	rules              rulesFlags
	baseline           string
	format, html, list string
	report             string
	shard              shardFlag
	examples, parallel int
	byDevice           bool
	limits             hubLimits
	tables             tableFiles
	failOn             []string
	failures           []failure // failOn, parsed
}

func newReplayCommand() *cobra.Command {
	var flags replayFlags
	cmd := &cobra.Command{
		Use:   "replay LOG ...",
		Short: "Show what rules change for the devices in a log",
		Long: `Replay decides the requests of a log again and compares: which devices stay, which move
from hub to hub, which are newly rejected or accepted, what happens to twins under each
reprovision policy, how full the hubs are afterwards, and how long it takes until all have
registered.

A log has an AllocationRequest on each line, or an exchange with a request and perhaps
what was decided:

  {"request": {...}, "decision": {"outcome": "assigned", "hub": "..."}}

Usher's decision records are read as well, also in what Application Insights or Log
Analytics exported as CSV or JSON. A record in which something is masked that the rules
look at is left out, counted and named, unless the rules are those of then, and decide as
they did. Records of shadow rules are passed over.

A log can be compressed with gzip or zstd; - is standard input. A URL such as
https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX stands for all logs in Blob
Storage whose names start with that; they are read with your Azure identity. Lines that cannot be used
are counted and named, and left out.

What was before is what the rules of --baseline decide. Without that it is the decision
that the log records or, if there is none, the hub that the request names as current. A
device that was assigned after its request was logged is decided again as it would
register next, because rules may leave devices where they are. If only a new device would
get another answer, it counts as diverted.

Each registration counts, so memory does not grow with the log. With --by-device each
device counts once, by its last registration. That takes about 40 bytes of memory for
each, or 40 MB for a million.

With --lookup NAME=FILE the rules ask the table in FILE, in place of the rows that the log
records of this look-up. So it shows what another list would change. --baseline looks up
what is recorded.

With --shard I/N it replays one of N shares of the devices, and prints the JSON that
'usher replay merge' adds to the others: the report is that of one replay of all. Each
shard reads all logs.

With --hub-limit it says which hubs would get more devices than that, and counts each
device once. A limit of a hub that no registration links is an error.

It exits with 6 if it finds what --fail-on names: moved, diverted, twin, payload,
accepted, rejected, held, faulted (newly, all of these), malformed, lacking, hub-limit,
or any for any change. moved>10 allows 10 of them, and moved>5% a part of all.`,
		Example: `  usher replay fleet.ndjson.gz --baseline ../main/rules
  usher replay decisions/*.zst --html replay.html --fail-on 'rejected,moved>5%'
  usher replay fleet.ndjson --hub-limit contoso-eu=100000 --fail-on hub-limit
  usher replay fleet.ndjson --by-device --shard 0/4 --report 0.json
  zstdcat fleet.zst | usher replay - --rules new.tar.gz --by-device -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(errors.New("which log? Name files with a request on each line, or - for standard input"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(args, cmd.Flags().Changed("output")); err != nil {
				return err
			}
			if err := flags.rules.complete(cmd); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return flags.run(ctx, args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags.rules.register(cmd)
	f := cmd.Flags()
	f.StringVar(&flags.baseline, "baseline", "", "folder or bundle of the rules to compare with; default: what the log says")
	f.Var(&flags.shard, "shard", "share of the devices to replay, as I/N with I from 0 to N-1; turns on -o json, for usher replay merge")
	f.StringVar(&flags.list, "list", "", "file to write every changed registration to, as a line of JSON each")
	f.IntVar(&flags.examples, "examples", 10, "how many devices of each kind to name")
	f.IntVar(&flags.parallel, "parallel", 0, "how many requests to decide at the same time; 0 for one on each processor")
	f.BoolVar(&flags.byDevice, "by-device", false, "count each device once, by its last registration in the log")
	f.Var(&flags.limits, "hub-limit", "how many devices a hub may get, by host name or first label; may be repeated, and turns on --by-device")
	f.Var(&flags.tables, "lookup", "table to ask for the rows of a look-up, as NAME=FILE (CSV, NDJSON or YAML), in place of what is recorded; may be repeated")
	flags.registerOutput(cmd)
	cmd.AddCommand(newReplayMergeCommand())
	return cmd
}

// registerOutput adds the flags about the report.
func (flags *replayFlags) registerOutput(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&flags.html, "html", "", "file to write the report to as one HTML page, as well")
	f.StringVar(&flags.report, "report", "", "file to write the report to as JSON, as well")
	f.StringSliceVar(&flags.failOn, "fail-on", nil, "what makes the exit code 6: "+strings.Join(failNames, ", ")+"; with > and a number or a percentage, only more than that")
	addOutputFlag(cmd, &flags.format, "text", "json")
	completeWith(cmd, "fail-on", failNames...)
}

func (flags *replayFlags) check(logs []string, formatGiven bool) error {
	if err := flags.parseFailures(); err != nil {
		return err
	}
	if flags.shard.Of > 0 {
		switch {
		case formatGiven && flags.format != "json":
			return usageError(errors.New("--shard writes JSON: usher replay merge -o text shows the report on all shards"))
		case flags.html != "" || len(flags.failOn) > 0:
			return usageError(errors.New("--html and --fail-on are about all devices: give them to usher replay merge"))
		}
		flags.format = "json"
	}
	flags.byDevice = flags.byDevice || len(flags.limits) > 0
	switch {
	case slices.Contains(flags.failOn, failHubLimit) && len(flags.limits) == 0:
		return usageError(errors.New("--fail-on hub-limit needs a limit: give --hub-limit HUB=N"))
	case flags.examples < 0 || flags.examples > 10_000:
		return usageError(fmt.Errorf("--examples must be from 0 to 10000, and is %d", flags.examples))
	case flags.parallel < 0 || flags.parallel > 1024:
		return usageError(fmt.Errorf("--parallel must be from 0 to 1024, and is %d", flags.parallel))
	}
	return checkStdin(logs)
}

func (flags *replayFlags) parseFailures() error {
	for _, text := range flags.failOn {
		failure, err := parseFailure(text)
		if err != nil {
			return usageError(err)
		}
		flags.failures = append(flags.failures, failure)
	}
	return nil
}

func (flags *replayFlags) run(ctx context.Context, paths []string, stdin io.Reader, stdout, stderr io.Writer) error {
	options := replay.Options{
		Workers: flags.parallel, Examples: flags.examples, ByDevice: flags.byDevice, HubLimits: flags.limits,
		Shard: flags.shard.Shard,
	}
	var err error
	if options.Rules, options.Tables, err = flags.allocator(ctx, flags.rules.path, flags.tables); err != nil {
		return err
	}
	if flags.baseline != "" {
		if options.Baseline, _, err = flags.allocator(ctx, flags.baseline, nil); err != nil {
			return err
		}
	}
	logs, size, err := openReplayLogs(ctx, paths, stdin)
	if err != nil {
		return err
	}
	closeList := func() error { return nil }
	if flags.list != "" {
		list, err := os.Create(flags.list)
		if err != nil {
			return err
		}
		options.List, closeList = list, list.Close
	}
	if os.Getenv("GOGC") == "" && !flags.byDevice {
		// Little is kept in memory, so collecting less often costs about 80 MB and saves a tenth of the time.
		defer debug.SetGCPercent(debug.SetGCPercent(400))
	}
	bar := newProgress(stderr, "registrations")
	options.Progress = func(registrations, read int64) {
		bar.update(int(registrations), float64(read)/float64(max(size, 1)))
	}
	report, err := replay.Run(ctx, logs, options)
	bar.done()
	if closeErr := closeList(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write the list: %w", err)
	}
	if report.Part != nil {
		report.Part.RulesName, report.Part.BaselineName = flags.rules.path, flags.baseline
	}
	if err := flags.write(stdout, report); err != nil {
		return err
	}
	return flags.judge(report)
}

// allocator loads rules, and the tables that they ask.
func (flags *replayFlags) allocator(ctx context.Context, path string, files tableFiles) (*decider.Decider, replay.Tables, error) {
	from := flags.rules
	from.path = path
	rules, _, err := loadRules(ctx, from, from.options())
	if err != nil {
		return nil, nil, err
	}
	tables, err := files.load(rules)
	if err != nil {
		return nil, nil, err
	}
	allocator, err := decider.New(decider.Options{Rules: rules, Lookups: tables})
	return allocator, tables, err
}

// openReplayLogs returns the logs and their size in bytes; 0 if that is unknown.
func openReplayLogs(ctx context.Context, paths []string, stdin io.Reader) ([]requestlog.Log, int64, error) {
	var logs []requestlog.Log
	for _, path := range paths {
		switch {
		case path == "-":
			logs = append(logs, requestlog.Stream("stdin", stdin))
		case blobs.IsURL(path):
			credential, err := azureauth.Credential(os.Getenv)
			if err != nil {
				return nil, 0, err
			}
			found, err := blobs.Logs(ctx, path, blobs.Options{Credential: credential})
			if err != nil {
				return nil, 0, err
			}
			logs = append(logs, found...)
		default:
			log, err := requestlog.File(path)
			if err != nil {
				return nil, 0, err
			}
			logs = append(logs, log)
		}
	}
	var size int64
	for _, log := range logs {
		if log.Size == 0 {
			return logs, 0, nil
		}
		size += log.Size
	}
	return logs, size, nil
}

func (flags *replayFlags) write(stdout io.Writer, report *replay.Report) error {
	shown := view.Report{Report: report, RulesName: flags.rules.path, BaselineName: flags.baseline}
	if flags.html != "" {
		var page bytes.Buffer
		if err := view.Page(&page, shown); err != nil {
			return err
		}
		if err := writeFile(flags.html, page.Bytes()); err != nil {
			return err
		}
	}
	if flags.report != "" {
		var text bytes.Buffer
		if err := writeJSON(&text, report); err != nil {
			return err
		}
		if err := writeFile(flags.report, text.Bytes()); err != nil {
			return err
		}
	}
	if flags.format == "json" {
		return writeJSON(stdout, report)
	}
	painter := painterFor(stdout)
	return view.Text(stdout, shown, func(kind replay.Kind, text string) string {
		switch kind {
		case replay.Stayed:
			return painter.paint(green, text)
		case replay.NewlyRejected, replay.NewlyHeld, replay.NewlyFaulted:
			return painter.paint(red, text)
		}
		return text
	})
}

// judge returns the error that sets the exit code.
func (flags *replayFlags) judge(report *replay.Report) error {
	if report.Interrupted {
		return fmt.Errorf("interrupted after %d registrations: the figures are those of these", report.Registrations)
	}
	if n := len(report.Unread); n > 0 {
		return fmt.Errorf("%d of %d logs could not be read to the end: %s: %s", n, len(report.Logs), report.Unread[0].Place, report.Unread[0].Problem)
	}
	if report.Part == nil && report.Registrations+report.Lacking > 0 {
		for _, limit := range report.HubLimits {
			if !limit.Linked {
				return usageError(unlinked(limit, report.LinkedHubs))
			}
		}
	}
	var found []string
	for _, failure := range flags.failures {
		found = append(found, failure.find(report)...)
	}
	if len(found) > 0 {
		return &exitError{code: exitChanges, err: fmt.Errorf("found what --fail-on names: %s", strings.Join(found, ", "))}
	}
	switch {
	case report.Part != nil: // a share can have no device
	case report.Registrations == 0 && report.Lacking > 0:
		return errors.New("no record in the log can be decided again: the rules look at what is masked in them")
	case report.Registrations == 0:
		return errors.New("there is no request in the log")
	}
	return nil
}
