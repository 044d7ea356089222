package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// recordTable prints a line for each record. The first rows set the widths of the columns, and later rows widen them,
// so memory does not grow with the log.
type recordTable struct {
	out     io.Writer
	paint   painter
	widths  [8]int
	held    [][8]string
	started bool
}

// heldRows is how many rows set the widths.
const heldRows = 200

func (t *recordTable) add(item *requestlog.Item) error {
	if len(t.held) == 0 && !t.started {
		t.held = append(t.held, [8]string{"time", "decision", "device", "enrollment", "result", "hub or reason", "decided by", "µs"})
	}
	t.held = append(t.held, rowOf(item))
	if len(t.held) > heldRows || t.started {
		return t.flush()
	}
	return nil
}

func rowOf(item *requestlog.Item) [8]string {
	r, then := item.Record, item.Then
	why, enrollment := then.Detail, ""
	switch then.Result {
	case answer.Assigned:
		why = shortHub(r.Decision.Hub)
	case answer.Rejected, answer.Held:
		why = strings.Join(then.Reasons, "; ")
	}
	if r.Enrollment != nil {
		enrollment = r.Enrollment.ID
	}
	result := resultOf(r)
	if r.NeedsAttention() {
		result += " !"
	}
	row := [8]string{recordTime(r.Time), r.DecisionID, r.RegistrationID, enrollment, result, why, strings.Join(placesOf(r), ", "), fmt.Sprint(r.DurationUS)}
	for i, cell := range row {
		if row[i] = printableCell(cell); row[i] == "" {
			row[i] = "-"
		}
	}
	return row
}

// resultOf is the outcome or the fault, with the name of the rules if they are not those in use.
func resultOf(r *decisionlog.Record) string {
	if r.Source == "" || r.Source == answer.SourceCurrent {
		return r.Decision.Result()
	}
	return r.Decision.Result() + " (" + string(r.Source) + ")"
}

// rulePlace finds the places of rules (file:line) in the cause of a fault.
var rulePlace = regexp.MustCompile(`[^\s(),]+\.rego:\d+`)

// maxPlaces is how many places of a failure are shown.
const maxPlaces = 3

// placesOf returns the line that decided or, if the rule failed, those that failed. Without either it is the rule's
// package, if one was evaluated.
func placesOf(r *decisionlog.Record) []string {
	if failed := rulePlace.FindAllString(r.Decision.Cause, maxPlaces); len(failed) > 0 {
		return slices.Compact(failed)
	}
	for _, line := range r.Lines {
		// The detail of a bad verdict starts with the entry rule that gave it.
		if fault := r.Decision.Fault; fault == nil || strings.HasPrefix(fault.Detail, line.Entry) {
			return []string{line.Place}
		}
	}
	if r.Rule != nil {
		return []string{r.Rule.Package}
	}
	return nil
}

// shortHub leaves out what all hubs have in common.
func shortHub(name string) string { return strings.TrimSuffix(name, ".azure-devices.net") }

// printableCell makes a text fit for a terminal and a column. What a record quotes can come from a device, and must not
// control the terminal.
func printableCell(text string) string {
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
