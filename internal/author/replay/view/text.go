package view

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/replay"
)

// How much of each list is shown as text. JSON has all of it.
const (
	textHubs = 8 // with more, the matrix does not fit a terminal
	textRows = 20
)

// Paint colours a text, or returns it as it is.
type Paint func(kind replay.Kind, text string) string

// Text writes a report for a terminal, with the counts of kinds painted.
func Text(w io.Writer, r Report, paint Paint) error {
	t := &textWriter{Report: r, paint: paint, labels: r.labels()}
	t.head()
	t.counts()
	if r.Counted > 0 {
		t.matrix()
		t.hubs()
		t.limits()
		t.twins()
		t.faults()
		t.breakdown("By rule", "no rule", r.ByRule)
		t.breakdown("By enrollment", "no enrollment", r.ByEnrollment)
		t.examples()
		t.printf("\n%s\n", r.TimeNeeded())
	}
	t.problems()
	_, err := w.Write(t.out.Bytes())
	return err
}

type textWriter struct {
	Report
	out    bytes.Buffer
	paint  Paint
	labels map[string]string
}

func (t *textWriter) printf(format string, args ...any) { fmt.Fprintf(&t.out, format, args...) }

func (t *textWriter) head() {
	for _, line := range []string{t.LeftOut(), t.copies()} {
		if line != "" {
			t.printf("%s\n", line)
		}
	}
	t.printf("Replayed %s of %s through %s.\n", count(t.Registrations, "registration", "registrations"), t.logNames(), printable(t.RulesName))
	if t.ByDevice {
		t.printf("Counted are %s, each by its last registration.\n", count(t.Counted, "device", "devices"))
	}
	t.printf("Baseline: %s.\n", t.baseline())
	for _, line := range t.tables() {
		t.printf("%s\n", line)
	}
	if line := t.sameRules(); line != "" {
		t.printf("%s\n", line)
	}
	if t.Interrupted {
		t.printf("The replay was interrupted: the rest of the log is not in these figures.\n")
	}
}

func (t *textWriter) counts() {
	var rows [][]string
	var kinds []replay.Kind
	for _, kind := range replay.Kinds() {
		if n := t.Counts[kind]; n > 0 {
			rows = append(rows, []string{words(kind), grouped(n), percent(n, t.Counted), kindViews[kind].meaning})
			kinds = append(kinds, kind)
		}
	}
	t.table("", "lrrl", rows, func(i int) replay.Kind { return kinds[i] })
}

func (t *textWriter) matrix() {
	m := t.Report.Report.Matrix(textHubs)
	if len(m.Rows) == 0 {
		return
	}
	header := []string{""}
	for _, after := range m.Columns {
		header = append(header, stateName(after, t.labels))
	}
	rows := [][]string{header}
	for i, before := range m.Rows {
		row := []string{stateName(before, t.labels)}
		for _, n := range m.Counts[i] {
			cell := "."
			if n > 0 {
				cell = grouped(n)
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	t.table("From (row) to (column)", "l"+strings.Repeat("r", len(m.Columns)), rows, nil)
}

func (t *textWriter) hubs() {
	rows := [][]string{{"", "before", "arrive", "leave", "after", "no longer assigned"}}
	for _, hub := range t.Hubs {
		if len(rows) > textRows {
			rows = append(rows, []string{fmt.Sprintf("and %d more", len(t.Hubs)-textRows)})
			break
		}
		rows = append(rows, []string{stateName(replay.State{Hub: hub.Name}, t.labels), grouped(hub.Before), grouped(hub.Arrive),
			grouped(hub.Leave), grouped(hub.After), grouped(hub.Unassigned)})
	}
	if len(rows) > 1 {
		t.table("Fill of the hubs", "lrrrrr", rows, nil)
	}
}

func (t *textWriter) limits() {
	rows := [][]string{{"", "limit", "after", "too many"}}
	for _, limit := range t.HubLimits {
		row := []string{printable(limit.Hub), grouped(limit.Limit), grouped(limit.After), grouped(limit.TooMany())}
		if !limit.Linked {
			row[2], row[3] = "not linked", ""
		}
		rows = append(rows, row)
	}
	if len(rows) > 1 {
		t.table("Limits of the hubs", "lrrr", rows, nil)
	}
}

func (t *textWriter) twins() {
	rows := [][]string{{"reprovision policy", "twins", "", "rule's twin applied", "rule's twin ignored", "rule's twin changed"}}
	for _, twin := range t.Twins {
		rows = append(rows, []string{string(twin.Reprovision), grouped(twin.Count), twinWords[twin.Twin],
			grouped(twin.RuleTwinApplied), grouped(twin.RuleTwinIgnored), grouped(twin.RuleTwinChanged)})
	}
	t.table("Twins, once the devices have registered", "lrlrrr", rows, nil)
}

func (t *textWriter) faults() {
	rows := [][]string{{"", "newly", "still", "first"}}
	for _, fault := range t.Faults {
		rows = append(rows, []string{string(fault.Fault), grouped(fault.Newly), grouped(fault.Still), grouped(fault.First)})
	}
	if len(rows) > 1 {
		t.table("No decision, by kind of fault", "lrrr", rows, nil)
	}
}

func (t *textWriter) breakdown(title, otherwise string, list []replay.Breakdown) {
	rows := [][]string{{"", "all", "changed", ""}}
	for i, b := range list {
		if i == textRows {
			rows = append(rows, []string{fmt.Sprintf("and %d more", len(list)-textRows)})
			break
		}
		rows = append(rows, []string{breakdownName(b, otherwise), grouped(b.Total), grouped(b.Changed), whatDiffers(b)})
	}
	t.table(title, "lrrl", rows, nil)
}

func (t *textWriter) examples() {
	var last replay.Kind
	for _, e := range t.Examples {
		if !e.Kind.Change() {
			continue
		}
		if e.Kind != last {
			t.printf("\nFirst %s\n", words(e.Kind))
			last = e.Kind
		}
		t.printf("  %s  %s: %s\n", printable(e.RegistrationID), printable(e.Place), printable(describeChange(e, t.labels)))
	}
}

// describeChange says what happens to a device.
func describeChange(e replay.Change, labels map[string]string) string {
	text := stateName(lower(e.Before), labels) + " to " + stateName(lower(e.After), labels)
	if len(e.Reasons) > 0 {
		text += " (" + strings.Join(e.Reasons, "; ") + ")"
	}
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	if len(e.Lines) > 0 {
		text += ", by " + decidedBy(e)
	}
	return text
}

// decidedBy names the lines of the rule that decide for a device: the first of each entry rule.
func decidedBy(e replay.Change) string {
	var places []string
	last := ""
	for _, line := range e.Lines {
		if line.Entry != last {
			places = append(places, line.Place)
		}
		last = line.Entry
	}
	return strings.Join(places, ", ")
}

// lower spells a hub as reports do.
func lower(s replay.State) replay.State {
	return replay.State{Result: s.Result, Hub: dps.HubName(s.Hub)}
}

func (t *textWriter) problems() {
	t.listLeftOut(t.Malformed, t.MalformedFirst, "malformed line", "malformed lines")
	t.listLeftOut(t.Lacking, t.LackingFirst, "record that lacks what the rules look at", "records that lack what the rules look at")
	if t.PassedOver > 0 {
		t.printf("\n%s passed over\n", count(t.PassedOver, "record of shadow rules or probes", "records of shadow rules or probes"))
	}
	if t.Skipped > 0 {
		t.printf("\n%s skipped\n", count(t.Skipped, "row of an export that holds no request", "rows of exports that hold no request"))
	}
	for _, p := range t.Unread {
		t.printf("\nNot read on from %s: %s\n", printable(p.Place), printable(p.Problem))
	}
}

func (t *textWriter) listLeftOut(n int64, first []replay.Problem, one, many string) {
	if n == 0 {
		return
	}
	t.printf("\n%s left out:\n", count(n, one, many))
	for _, p := range first {
		t.printf("  %s: %s\n", printable(p.Place), printable(p.Problem))
	}
	if more := n - int64(len(first)); more > 0 {
		t.printf("  and %s more\n", grouped(more))
	}
}

// table writes rows under a title. columns has a letter for each column, l or r for its alignment. kindOf says how a
// row is painted; nil for not at all.
func (t *textWriter) table(title, columns string, rows [][]string, kindOf func(int) replay.Kind) {
	t.printf("\n")
	if title != "" {
		t.printf("%s\n", title)
	}
	widths := make([]int, len(columns))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for number, row := range rows {
		line := ""
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if columns[i] == 'l' {
				line += "  " + cell + gap
			} else {
				line += "  " + gap + cell
			}
		}
		line = strings.TrimRight(line, " ")
		if kindOf != nil && t.paint != nil {
			line = t.paint(kindOf(number), line)
		}
		t.printf("%s\n", line)
	}
}
