package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/author/requestlog"
)

// logFlags are the flags of `usher log`.
type logFlags struct {
	device, keyFile, enrollment, service, rule, id, source string
	hubs                                                   hubList
	outcomes, faults                                       []string
	since, until                                           string
	limit                                                  int
	alarm, follow, probes, summary                         bool
	format                                                 string
}

func newLogCommand() *cobra.Command {
	var flags logFlags
	cmd := &cobra.Command{
		Use:   "log FILE|FOLDER ...",
		Short: "Find and show decision records",
		Long: `Log prints the decision records that the webhook wrote: which device went where, when,
and by which line of which rule. The header Usher-Decision-Id of an answer has the ID of
its record.

A file has a record on each line, or is what Application Insights or Log Analytics
exported: CSV, or JSON as the portal and az print it. It can be compressed with gzip or
zstd. In folders, all files whose names end in .ndjson, .jsonl, .json, .log or .csv are
read, in the order of their names. - is standard input. Lines of other logs are skipped
and counted; records in one of their members, or behind other text, are found. Memory
does not grow with the log.

A record must match all filters; if a filter has several values, any of them. A device is
named by its registration ID; if records hold hashed ones, give the key in a file.
Probes, behind which no device stands, are left out without --probes or --id.
Times are RFC 3339, a day such as 2026-11-22, or how long ago, such as 2h.

With --id, the rows that the decision looked up follow, as far as they are recorded.
With -o json, records are printed as they were written, so they can be replayed. With
--summary, they are counted by result, hub and reason.`,
		Example: `  usher log records/ --id 5XGQZ3JT5YJ6FOQ4DKVMZ2A7PE
  usher log records.ndjson --device press-0001 --since 24h
  usher log records/ --fault any -o json | usher replay -
  usher log records/ --since 24h --summary
  usher log records.ndjson --follow --alarm`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(errors.New("which records? Name files or folders, or - for standard input"))
			}
			return checkStdin(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := flags.filter(args, time.Now())
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return flags.run(ctx, args, filter, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.device, "device", "", "registration ID of the device")
	f.StringVar(&flags.keyFile, "id-key-file", "", "file with the key that registration IDs were hashed with (USHER_RECORD_ID_KEY)")
	f.StringVar(&flags.enrollment, "enrollment", "", "name of the enrollment; * stands for any characters")
	f.StringVar(&flags.service, "service", "", "DPS instance that called, as the webhook's URL names it in ?dps=")
	addHubs(cmd, &flags.hubs, "hub in the answer")
	f.StringVar(&flags.rule, "rule", "", "package of the rule, such as allocation.line or line")
	f.StringSliceVar(&flags.outcomes, "outcome", nil, "assigned, rejected or held")
	f.StringSliceVar(&flags.faults, "fault", nil, "kind of the fault, such as undecided; any for all")
	f.StringVar(&flags.source, "source", "", "which rules decided: current, canary or shadow")
	f.StringVar(&flags.since, "since", "", "not before this time")
	f.StringVar(&flags.until, "until", "", "before this time")
	f.BoolVar(&flags.alarm, "alarm", false, "only what an operator should look at: alarms, and faults that are not the caller's")
	f.StringVar(&flags.id, "id", "", "decision ID, as in the header Usher-Decision-Id")
	f.BoolVarP(&flags.follow, "follow", "f", false, "wait for more to be written to the file, until Ctrl-C")
	f.BoolVar(&flags.probes, "probes", false, "also show probes, behind which no device stands")
	f.BoolVar(&flags.summary, "summary", false, "count the records by result, hub and reason")
	f.IntVar(&flags.limit, "limit", 0, "stop after this many records that match; 0 for all")
	addOutputFlag(cmd, &flags.format, "text", "json")
	return cmd
}

func (flags *logFlags) run(ctx context.Context, args []string, filter recordFilter, stdin io.Reader, stdout, stderr io.Writer) error {
	out := bufio.NewWriterSize(stdout, 64<<10)
	table := recordTable{out: out, paint: painterFor(stdout)}
	flush := func() error { return errors.Join(table.flush(), out.Flush()) }
	var logs []requestlog.Log
	var err error
	if flags.follow && args[0] != "-" {
		var log requestlog.Log
		log, err = followedLog(ctx, args[0], flush)
		logs = []requestlog.Log{log}
	} else {
		logs, err = openLogs(args, stdin, "stdin")
	}
	search := logSearch{filter: filter, show: table.add, probes: flags.probes || flags.id != "", limit: flags.limit}
	summary := newRecordSummary()
	var rows bytes.Buffer // of the look-ups of one decision
	switch {
	case flags.summary:
		search.show = summary.add
	case flags.format == "json":
		search.show = func(item *requestlog.Item) error { return writeRecord(out, item.Text) }
	case flags.id != "" && !flags.follow:
		search.show = func(item *requestlog.Item) error {
			writeRows(&rows, item.Record)
			return table.add(item)
		}
	}
	if err == nil {
		err = search.read(ctx, logs)
	}
	if flags.summary {
		err = errors.Join(err, summary.write(out, flags.format))
	}
	err = errors.Join(err, flush())
	if _, rowsErr := rows.WriteTo(stdout); rowsErr != nil {
		err = errors.Join(err, rowsErr)
	}
	search.report(stderr, flags.id == "" && err == nil)
	switch {
	case ctx.Err() != nil && flags.follow:
		return nil // that is how it ends
	case ctx.Err() != nil:
		return errors.New("interrupted: there may be more")
	case err != nil:
		return err
	case search.records == 0 && flags.id != "":
		return fmt.Errorf("there are no decision records, so none has the decision ID %s", printableCell(flags.id))
	case search.found == 0 && flags.id != "":
		return fmt.Errorf("none of %d records has the decision ID %s", search.records, printableCell(flags.id))
	}
	return nil
}

// writeRecord writes a record on one line.
func writeRecord(w *bufio.Writer, text []byte) error {
	if bytes.ContainsAny(text, "\r\n") {
		text = bytes.Map(func(c rune) rune {
			if c == '\r' || c == '\n' {
				return ' ' // between tokens
			}
			return c
		}, text)
	}
	_, err := w.Write(append(bytes.Clone(text), '\n'))
	return err
}

// logSearch goes through logs and shows the records that match.
type logSearch struct {
	filter recordFilter
	show   func(*requestlog.Item) error
	probes bool // whether they are shown
	limit  int  // of what is shown; 0 for all

	found, records, other, malformed int
	leftOut                          int      // probes that match
	examples                         []string // of malformed records
}

// maxMalformed is how many malformed records are named.
const maxMalformed = 10

func (s *logSearch) read(ctx context.Context, logs []requestlog.Log) error {
	for item, err := range requestlog.Items(ctx, logs...) {
		switch {
		case err != nil:
			return err
		case item.Record == nil && (item.Kind == requestlog.Record || item.Text == nil):
			s.malformed++
			if len(s.examples) < maxMalformed {
				s.examples = append(s.examples, fmt.Sprintf("%s: %v", item.Place(), item.Err))
			}
		case item.Record == nil:
			s.other++
		default:
			s.records++
			switch {
			case !s.filter(item.Record):
				continue
			case item.Record.Probe && !s.probes:
				s.leftOut++
				continue
			}
			s.found++
			if err := s.show(&item); err != nil || s.found == s.limit {
				return err
			}
		}
	}
	return nil
}

func (s *logSearch) report(stderr io.Writer, askedForAny bool) {
	switch {
	case s.other == 1:
		fmt.Fprintln(stderr, "skipped 1 line that is not a decision record")
	case s.other > 1:
		fmt.Fprintf(stderr, "skipped %d lines that are not decision records\n", s.other)
	}
	if s.leftOut > 0 {
		fmt.Fprintf(stderr, "left out %s: --probes shows them\n", plural(s.leftOut, "probe"))
	}
	if s.limit > 0 && s.found == s.limit {
		fmt.Fprintf(stderr, "stopped after %s, as --limit says: there may be more\n", plural(s.found, "record"))
	}
	if s.malformed > 0 {
		fmt.Fprintf(stderr, "skipped %s:\n", plural(s.malformed, "malformed record"))
		for _, example := range s.examples {
			fmt.Fprintf(stderr, "  %s\n", printableCell(example))
		}
	}
	switch {
	case s.found > 0 || !askedForAny:
	case s.records == 0:
		fmt.Fprintln(stderr, "there are no decision records")
	default:
		fmt.Fprintf(stderr, "none of %s matches\n", plural(s.records, "record"))
	}
}
