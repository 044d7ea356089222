package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// interruptible returns a context that ends with Ctrl-C, so that a command can print what it has found so far. A second
// Ctrl-C ends the process at once.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// columnsOf is the width of a terminal; 80 if it is not known.
func columnsOf(w io.Writer) int {
	if file, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 20 {
			return columns
		}
	}
	return 80
}

// colour is an SGR code of a terminal.
type colour string

const (
	red   colour = "31"
	green colour = "32"
	faint colour = "2"
)

// painter colours text if it is true.
type painter bool

// painterFor enables colours on a terminal unless NO_COLOR is set (https://no-color.org).
func painterFor(w io.Writer) painter {
	return painter(os.Getenv("NO_COLOR") == "" && isTerminal(w))
}

func (p painter) paint(c colour, text string) string {
	if !p {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// progress is a line on a terminal that shows how far a command is. It is not for use by several goroutines at once.
type progress struct {
	w            io.Writer
	unit         string
	start, shown time.Time // shown is zero if nothing was shown yet
}

// progressPatience is how long a command runs without showing progress.
const progressPatience = 2 * time.Second

// newProgress counts in units such as "decisions". It shows nothing if w is not a terminal.
func newProgress(w io.Writer, unit string) *progress {
	if !isTerminal(w) {
		w = nil
	}
	return &progress{w: w, unit: unit, start: time.Now()}
}

// update reports that n units are done, and their share of all the work, from 0 to 1; 0 means that it is unknown.
func (p *progress) update(n int, share float64) {
	now := time.Now()
	elapsed := now.Sub(p.start)
	if p.w == nil || elapsed < progressPatience || now.Sub(p.shown) < 200*time.Millisecond {
		return
	}
	p.shown = now
	fmt.Fprint(p.w, "\r\x1b[K"+progressText(n, p.unit, share, elapsed))
}

// leastShare is the share of the work from which the time left can be estimated.
const leastShare = 0.005

// progressText shows the rate and, if the share is known, the time left.
func progressText(n int, unit string, share float64, elapsed time.Duration) string {
	text := fmt.Sprintf("%d %s, %.0f/s", n, unit, float64(n)/elapsed.Seconds())
	if share >= leastShare && share <= 1 {
		left := time.Duration(float64(elapsed) * (1 - share) / share)
		text += fmt.Sprintf(", %.0f%%, %s left", 100*share, left.Round(time.Second))
	}
	return text
}

// done removes the line.
func (p *progress) done() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// writeJSON writes what -o json prints: indented, and with < and & as they are.
func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// choice is a flag that takes one of several values.
type choice struct {
	value   *string
	choices []string
}

func (c choice) String() string { return *c.value }
func (c choice) Type() string   { return "string" }

func (c choice) Set(text string) error {
	if !slices.Contains(c.choices, text) {
		return errors.New("use " + alternatives(c.choices))
	}
	*c.value = text
	return nil
}

// alternatives writes names as "a, b or c".
func alternatives(names []string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// addChoice adds a flag to a command that takes one of several values. The first is the default.
func addChoice(cmd *cobra.Command, value *string, name, shorthand, usage string, choices ...string) {
	*value = choices[0]
	cmd.Flags().VarP(choice{value, choices}, name, shorthand, usage)
	completeWith(cmd, name, choices...)
}

// addOutputFlag adds the flag -o to a command, with the first format as the default.
func addOutputFlag(cmd *cobra.Command, format *string, formats ...string) {
	addChoice(cmd, format, "output", "o", alternatives(formats), formats...)
}

// describeFlagError words the error of a flag with a wrong value, such as --output is "xml": use text or json.
func describeFlagError(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	reason := errors.Unwrap(invalid)
	if want, ok := wanted[invalid.GetFlag().Value.Type()]; ok {
		reason = errors.New("want " + want)
	}
	return fmt.Errorf("--%s is %q: %w", invalid.GetFlag().Name, invalid.GetValue(), reason)
}

// wanted describes the values of flags by type: Go's own errors would name functions of Go.
var wanted = map[string]string{
	"int": "a whole number", "int64": "a whole number", "uint64": "a whole number from 0", "uint16": "a whole number up to 65535", "float64": "a number", "bool": "true or false",
	"duration": "a duration, such as 30s or 5m",
}

// writeTable aligns the columns of rows, in which tabs separate the cells.
func writeTable(w io.Writer, rows []string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, row)
	}
	return table.Flush()
}

// plural counts things whose plural ends in s.
func plural(n int, noun string) string { return count(n, noun, noun+"s") }

// count puts the words for one thing or for several after their number.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
