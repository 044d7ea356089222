package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// logFlags are those of `usher log`.
type logFlags struct {
	device, keyFile, enrollment, hub, rule, id, source string
	outcomes, faults                                   []string
	since, until                                       string
	alarm, follow                                      bool
	format                                             string
}

func newLogCommand() *cobra.Command {
	var flags logFlags
	cmd := &cobra.Command{
		Use:   "log FILE|FOLDER ...",
		Short: "Find and show decision records",
		Long: `Log prints the decision records that the webhook wrote: which device went where, when,
and by which line of which rule. The records of one decision are found by the ID
in the answer's header Usher-Decision-Id.

Files hold a record on each line, perhaps compressed with gzip or zstd; in folders, all
files whose names end in .ndjson, .jsonl, .json or .log are read, in the order of their
names. - is standard input. Lines of other logs are skipped and counted; records that stand
in one of their members, or behind other text, are found. Memory does not grow with the log.

All filters must fit; of one that takes several values, any. A device is named by
its registration ID; where records hold hashed ones, give the key in a file.
Times are RFC 3339, a day such as 2026-11-22, or how long ago, such as 2h.

With -o json, records come as they were written, so they can be replayed.`,
		Example: `  usher log records/ --id 5XGQZ3JT5YJ6FOQ4DKVMZ2A7PE
  usher log records.ndjson --device press-0001 --since 24h
  usher log records/ --fault any -o json | usher replay -
  usher log records.ndjson --follow --alarm`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(errors.New("which records? Name files or folders, or - for standard input"))
			}
			return nil
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
	f.StringVar(&flags.hub, "hub", "", "hub that was answered, such as contoso-eu or contoso-eu.azure-devices.net")
	f.StringVar(&flags.rule, "rule", "", "package of the rule, such as allocation.line or line")
	f.StringSliceVar(&flags.outcomes, "outcome", nil, "assigned, rejected or held")
	f.StringSliceVar(&flags.faults, "fault", nil, "kind of the fault, such as undecided; any for all")
	f.StringVar(&flags.source, "source", "", "which rules decided: current, canary or shadow")
	f.StringVar(&flags.since, "since", "", "not before this time")
	f.StringVar(&flags.until, "until", "", "before this time")
	f.BoolVar(&flags.alarm, "alarm", false, "only what asks for a look: alarms, and faults that are not the caller's")
	f.StringVar(&flags.id, "id", "", "decision ID, as in the header Usher-Decision-Id")
	f.BoolVarP(&flags.follow, "follow", "f", false, "wait for more to be written to the file, until Ctrl-C")
	f.StringVarP(&flags.format, "output", "o", "text", "text or json")
	completeWith(cmd, "output", "text", "json")
	return cmd
}

// recordFilter reports whether a record is asked for.
type recordFilter func(*decisionlog.Record) bool

// filter checks the command line.
func (flags *logFlags) filter(args []string, now time.Time) (recordFilter, error) {
	var filters []recordFilter
	add := func(f recordFilter) { filters = append(filters, f) }
	switch {
	case flags.format != "text" && flags.format != "json":
		return nil, usageError(fmt.Errorf("--output is %q: use text or json", flags.format))
	case flags.follow && len(args) > 1:
		return nil, usageError(errors.New("--follow is for one file"))
	case len(slices.DeleteFunc(slices.Clone(args), func(name string) bool { return name != "-" })) > 1:
		return nil, usageError(errors.New("- is there twice, and standard input can be read once"))
	case flags.keyFile != "" && flags.device == "" && flags.enrollment == "":
		return nil, usageError(errors.New("--id-key-file is for --device or --enrollment"))
	}
	if err := flags.addNames(add); err != nil {
		return nil, err
	}
	results, err := flags.results()
	if err != nil {
		return nil, err
	}
	if len(results) > 0 {
		add(func(r *decisionlog.Record) bool {
			return results[r.Decision.Result()] || r.Decision.Fault != nil && results["any"]
		})
	}
	since, err := parseTime("since", flags.since, now)
	if err != nil {
		return nil, err
	}
	until, err := parseTime("until", flags.until, now)
	if err != nil {
		return nil, err
	}
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return nil, usageError(errors.New("--since is not before --until"))
	}
	if !since.IsZero() {
		add(func(r *decisionlog.Record) bool { return !r.Time.Before(since) })
	}
	if !until.IsZero() {
		add(func(r *decisionlog.Record) bool { return r.Time.Before(until) })
	}
	if flags.alarm {
		add(asksForALook)
	}
	return func(r *decisionlog.Record) bool {
		for _, f := range filters {
			if !f(r) {
				return false
			}
		}
		return true
	}, nil
}

// asksForALook is what the webhook logs as an error.
func asksForALook(r *decisionlog.Record) bool {
	if r.Decision.Alarm {
		return true
	}
	return r.Decision.Fault != nil && r.Status >= 500 && r.Decision.Fault.Kind != answer.Canceled
}

func (flags *logFlags) addNames(add func(recordFilter)) error {
	var key []byte
	if flags.keyFile != "" {
		text, err := os.ReadFile(flags.keyFile)
		if err != nil {
			return err
		}
		if key = bytes.TrimSpace(text); len(key) == 0 {
			return fmt.Errorf("%s is empty: it must hold the key of USHER_RECORD_ID_KEY", flags.keyFile)
		}
	}
	hashed := func(id string) string {
		if key == nil {
			return ""
		}
		return decisionlog.HashID(key, id)
	}
	if flags.device != "" {
		hash := hashed(flags.device)
		add(func(r *decisionlog.Record) bool {
			return r.RegistrationID != "" && (strings.EqualFold(r.RegistrationID, flags.device) || r.RegistrationID == hash)
		})
	}
	if flags.enrollment != "" {
		pattern, hash := strings.ToLower(flags.enrollment), hashed(flags.enrollment)
		if _, err := path.Match(pattern, ""); err != nil {
			return usageError(fmt.Errorf("--enrollment is %q, which is no pattern", flags.enrollment))
		}
		add(func(r *decisionlog.Record) bool {
			if r.Enrollment == nil || r.Enrollment.ID == "" {
				return false
			}
			fits, _ := path.Match(pattern, strings.ToLower(r.Enrollment.ID))
			return fits || r.Enrollment.ID == hash
		})
	}
	if flags.hub != "" {
		add(func(r *decisionlog.Record) bool {
			hub := r.Decision.Hub
			return hub != "" && (strings.EqualFold(hub, flags.hub) || strings.EqualFold(shortHub(hub), flags.hub))
		})
	}
	if flags.rule != "" {
		name := strings.TrimPrefix(flags.rule, "data.")
		add(func(r *decisionlog.Record) bool {
			return r.Rule != nil && (r.Rule.Package == name || strings.HasSuffix(r.Rule.Package, "."+name) || r.Rule.File == flags.rule)
		})
	}
	if flags.id != "" {
		add(func(r *decisionlog.Record) bool {
			return strings.EqualFold(r.DecisionID, flags.id) || strings.EqualFold(r.ShadowOf, flags.id)
		})
	}
	switch source := answer.Source(flags.source); source {
	case "":
	case answer.SourceCurrent, answer.SourceCanary, answer.SourceShadow:
		add(func(r *decisionlog.Record) bool {
			return r.Source == source || r.Source == "" && source == answer.SourceCurrent
		})
	default:
		return usageError(fmt.Errorf("--source is %q: use current, canary or shadow", flags.source))
	}
	return nil
}

// results are the outcomes and faults that are asked for; none for all.
func (flags *logFlags) results() (map[string]bool, error) {
	outcomes := []answer.Result{answer.Assigned, answer.Rejected, answer.Held}
	faults := []answer.Result{answer.Malformed, answer.InvalidRequest, answer.Undecided, answer.BadVerdict,
		answer.Timeout, answer.Canceled, answer.NotReady, answer.RulesStale, answer.Internal}
	results := map[string]bool{}
	for _, name := range flags.outcomes {
		if !slices.Contains(outcomes, answer.Result(name)) {
			return nil, usageError(fmt.Errorf("--outcome is %q: use assigned, rejected or held, or --fault", name))
		}
		results[name] = true
	}
	for _, name := range flags.faults {
		if name != "any" && !slices.Contains(faults, answer.Result(name)) {
			return nil, usageError(fmt.Errorf("--fault is %q: use any, or one of %v", name, faults))
		}
		results[name] = true
	}
	return results, nil
}

func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError(fmt.Errorf("--%s is %q: use a time such as 2026-11-22T09:30:00Z, a day such as 2026-11-22 (in UTC), or how long ago, such as 2h", flag, text))
}

func (flags *logFlags) run(ctx context.Context, args []string, filter recordFilter, stdin io.Reader, stdout, stderr io.Writer) error {
	buffered := bufio.NewWriterSize(stdout, 64<<10)
	search := logSearch{flags: flags, filter: filter, out: buffered, table: recordTable{out: buffered, paint: painterFor(stdout)}}
	err := search.readAll(ctx, args, stdin)
	if flags.format == "text" {
		search.table.flush()
	}
	err = errors.Join(err, buffered.Flush())
	search.report(stderr)
	switch {
	case ctx.Err() != nil && flags.follow:
		return nil // that is how it ends
	case ctx.Err() != nil:
		return errors.New("interrupted: there may be more")
	case err != nil:
		return err
	case search.found == 0 && flags.id != "":
		return fmt.Errorf("none of %d records has the decision ID %s", search.records, clean(flags.id))
	}
	return nil
}

// logSearch goes through logs and prints what is asked for.
type logSearch struct {
	flags  *logFlags
	filter recordFilter
	out    *bufio.Writer
	table  recordTable

	found, records, foreign, malformed int
	examples                           []string // of malformed lines
}

// maxMalformed is how many malformed lines are named.
const maxMalformed = 10

func (s *logSearch) report(stderr io.Writer) {
	if s.foreign > 0 {
		fmt.Fprintf(stderr, "skipped %s that %s no decision records\n", plural(s.foreign, "line"), isAre(s.foreign))
	}
	if s.malformed > 0 {
		fmt.Fprintf(stderr, "skipped %s:\n", plural(s.malformed, "malformed record"))
		for _, example := range s.examples {
			fmt.Fprintf(stderr, "  %s\n", clean(example))
		}
	}
	if s.found == 0 && s.flags.id == "" {
		fmt.Fprintf(stderr, "none of %s is what you ask for\n", plural(s.records, "record"))
	}
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func (s *logSearch) readAll(ctx context.Context, args []string, stdin io.Reader) error {
	if s.flags.follow && args[0] != "-" {
		tail, err := openTail(ctx, args[0])
		if err != nil {
			return err
		}
		defer tail.close()
		s.table.streams = true
		tail.idle = func() error { s.table.flush(); return s.out.Flush() }
		return s.read(args[0], tail)
	}
	for _, arg := range args {
		if arg == "-" {
			if err := s.readLog(ctx, replay.Stream("stdin", stdin)); err != nil {
				return err
			}
			continue
		}
		files, err := recordFiles(arg)
		if err != nil {
			return err
		}
		for _, file := range files {
			log, err := replay.File(file)
			if err != nil {
				return err
			}
			if err := s.readLog(ctx, log); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordFiles are the files that an argument stands for.
func recordFiles(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var files []string
	err = filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error { // in the order of names
		if err != nil || entry.IsDir() {
			return err
		}
		base := strings.TrimSuffix(strings.TrimSuffix(entry.Name(), ".gz"), ".zst")
		if slices.Contains([]string{".ndjson", ".jsonl", ".json", ".log"}, filepath.Ext(base)) {
			files = append(files, path)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("in %s is no file whose name ends in .ndjson, .jsonl, .json or .log", name)
	}
	return files, err
}

func (s *logSearch) readLog(ctx context.Context, log replay.Log) error {
	in, err := log.Read(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", log.Name, err)
	}
	defer in.Close()
	return s.read(log.Name, in)
}

// maxLine bounds a line, in bytes. A record is 1 MiB at most, and longer within
// another log, which escapes it.
const maxLine = 4 << 20

// read goes through lines. One that is too long is malformed, however long it is.
func (s *logSearch) read(name string, in io.Reader) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	var line []byte
	tooLong := false
	for number := 1; ; {
		part, err := lines.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			tooLong = true
		} else {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("%s:%d: %w", name, number, err)
		}
		if tooLong {
			s.skip(name, number, fmt.Sprintf("the line is longer than %d bytes", maxLine))
		} else if err := s.line(name, number, bytes.TrimSpace(line)); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		line, tooLong = line[:0], false
		number++
	}
}

func (s *logSearch) skip(name string, number int, problem string) {
	s.malformed++
	if len(s.examples) < maxMalformed {
		s.examples = append(s.examples, fmt.Sprintf("%s:%d: %s", name, number, problem))
	}
}

// line takes one line of a log.
func (s *logSearch) line(name string, number int, line []byte) error {
	if len(line) == 0 {
		return nil
	}
	text := recordIn(line)
	if text == nil {
		s.foreign++
		return nil
	}
	record, err := decisionlog.Decode(text)
	if errors.Is(err, decisionlog.ErrNotRecord) {
		s.foreign++
		return nil
	}
	if err != nil {
		s.skip(name, number, err.Error())
		return nil
	}
	s.records++
	if !s.filter(&record) {
		return nil
	}
	s.found++
	if s.flags.format == "text" {
		return s.table.add(&record)
	}
	_, err = s.out.Write(append(bytes.Clone(text), '\n'))
	return err
}

const recordStart = `{"usherRecord"`

// recordIn finds the record in a line: the line itself, what stands behind a prefix of another log,
// or the text in a member of another JSON log. It returns nil if there is none.
func recordIn(line []byte) []byte {
	if !bytes.Contains(line, []byte("usherRecord")) {
		return nil
	}
	if at := bytes.Index(line, []byte(recordStart)); at >= 0 && (at == 0 || line[0] != '{') {
		return line[at:]
	}
	if line[0] != '{' {
		return nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(line, &members) != nil {
		return line // says what is wrong with it
	}
	if _, itself := members["usherRecord"]; itself {
		return line
	}
	for _, value := range members {
		var text string
		if len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &text) == nil {
			if inner := strings.TrimSpace(text); strings.HasPrefix(inner, recordStart) {
				return []byte(inner)
			}
		} else if bytes.HasPrefix(value, []byte(recordStart)) {
			return value
		}
	}
	return nil
}

// recordTable prints a line for each record. Widths come from the first rows, and grow
// with the others, so memory does not.
type recordTable struct {
	out     io.Writer
	paint   painter
	streams bool // rows are not held back for longer than somebody waits
	widths  [8]int
	held    [][8]string
	started bool
}

// heldRows is how many rows the widths come from.
const heldRows = 200

func (t *recordTable) add(r *decisionlog.Record) error {
	if len(t.held) == 0 && !t.started {
		t.held = append(t.held, [8]string{"time", "decision", "device", "enrollment", "result", "hub or reason", "decided by", "µs"})
	}
	t.held = append(t.held, rowOf(r))
	if len(t.held) > heldRows || t.started {
		return t.flush()
	}
	return nil
}

func rowOf(r *decisionlog.Record) [8]string {
	result, why, place, enrollment := r.Decision.Result(), "", "", ""
	switch {
	case r.Decision.Fault != nil:
		why = r.Decision.Fault.Detail
	case r.Decision.Outcome == answer.Assigned:
		why = shortHub(r.Decision.Hub)
	default:
		why = strings.Join(r.Decision.Reasons, "; ")
	}
	if r.Enrollment != nil {
		enrollment = r.Enrollment.ID
	}
	switch {
	case len(r.Lines) > 0:
		place = r.Lines[0].Place
	case r.Rule != nil:
		place = r.Rule.Package
	}
	if r.Source != "" && r.Source != answer.SourceCurrent {
		result += " (" + string(r.Source) + ")"
	}
	if asksForALook(r) {
		result += " !"
	}
	row := [8]string{r.Time.UTC().Format("2006-01-02 15:04:05.000"), r.DecisionID, r.RegistrationID, enrollment, result, why, place, fmt.Sprint(r.DurationUS)}
	for i, cell := range row {
		if row[i] = clean(cell); row[i] == "" {
			row[i] = "-"
		}
	}
	return row
}

// shortHub leaves out what all hubs have in common.
func shortHub(name string) string {
	name, _ = strings.CutSuffix(name, ".azure-devices.net")
	return name
}

// clean makes a text fit for a terminal and a column: what a record quotes may come from a
// device, and steer neither.
func clean(text string) string {
	text = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, text)
	if utf8.RuneCountInString(text) > 80 {
		text = string([]rune(text)[:79]) + "…"
	}
	return text
}

func (t *recordTable) flush() error {
	for _, row := range t.held {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.held {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell))
			switch {
			case i == len(row)-1:
				line.WriteString(pad + cell) // a number
			case !t.started:
				line.WriteString(t.paint.paint(faint, cell) + pad + "  ")
			case i == 4 && strings.HasSuffix(cell, "!"):
				line.WriteString(t.paint.paint(red, cell) + pad + "  ")
			default:
				line.WriteString(cell + pad + "  ")
			}
		}
		t.started = true
		if _, err := fmt.Fprintln(t.out, line.String()); err != nil {
			return err
		}
	}
	t.held = t.held[:0]
	return nil
}

// tail reads a file that others write to, and goes on with the next one when it is renamed.
type tail struct {
	ctx  context.Context
	path string
	file *os.File
	at   int64
	idle func() error // called before it waits
}

// tailInterval is how often it looks. A file is looked at by its path anyway, to
// see that it was renamed.
const tailInterval = 200 * time.Millisecond

func openTail(ctx context.Context, path string) (*tail, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, usageError(fmt.Errorf("--follow is for one file, and %s is none", path))
	}
	t := &tail{ctx: ctx, path: path}
	t.file, err = os.Open(path)
	return t, err
}

func (t *tail) close() { t.file.Close() }

func (t *tail) Read(p []byte) (int, error) {
	for {
		// Asked for before reading: what was written before the renaming is read before the next file.
		next := t.renamed()
		n, err := t.file.Read(p)
		if n > 0 {
			t.at += int64(n)
			return n, nil
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if next {
			file, err := os.Open(t.path)
			if err == nil {
				t.file.Close()
				t.file, t.at = file, 0
				continue
			}
		}
		if err := t.idle(); err != nil {
			return 0, err
		}
		timer := time.NewTimer(tailInterval)
		select {
		case <-t.ctx.Done():
			timer.Stop()
			return 0, io.EOF
		case <-timer.C:
		}
	}
}

// renamed reports whether another file is at the path, or this one begins anew.
func (t *tail) renamed() bool {
	there, err := os.Stat(t.path)
	if err != nil {
		return false // not yet
	}
	open, err := t.file.Stat()
	return err == nil && (!os.SameFile(there, open) || there.Size() < t.at)
}
