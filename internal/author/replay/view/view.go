// Package view shows the report of a replay: as text for a terminal, and as one HTML page that loads nothing else.
package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/replay"
)

// Report is what is shown.
type Report struct {
	*replay.Report
	// RulesName and BaselineName are where the rules come from; BaselineName is empty if the log itself is the
	// baseline.
	RulesName, BaselineName string
}

// words is the name of a kind as text, such as newly accepted.
func words(kind replay.Kind) string {
	var text strings.Builder
	for _, r := range string(kind) {
		if unicode.IsUpper(r) {
			text.WriteByte(' ')
		}
		text.WriteRune(unicode.ToLower(r))
	}
	return text.String()
}

// kindView is how a kind is shown.
type kindView struct {
	meaning string
	class   string // of CSS, which sets the colour
	tile    tileRule
}

// tileRule says when a kind has a tile at the top of the page.
type tileRule int

const (
	never tileRule = iota
	ifAny
	always
)

const unknownBefore = "nothing is known from before"

var kindViews = map[replay.Kind]kindView{
	replay.Stayed:                {"the same hub as before", "stay", always},
	replay.Moved:                 {"from one hub to another", "move", always},
	replay.Diverted:              {"stay, but a new device with the same request would get another answer", "divert", ifAny},
	replay.TwinChanged:           {"the same hub, but the rule gives another initial twin", "divert", ifAny},
	replay.PayloadChanged:        {"the same hub and twin, but the rule gives another payload", "divert", ifAny},
	replay.TwinAndPayloadChanged: {"the same hub, but the rule gives another initial twin and another payload", "divert", ifAny},
	replay.NewlyAccepted:         {"get a hub, and got none before", "gain", always},
	replay.NewlyRejected:         {"refused, and were not before", "lose", always},
	replay.NewlyHeld:             {"told to wait, and were not before", "lose", ifAny},
	replay.NewlyFaulted:          {"no decision is reached, or for another reason than before", "lose", ifAny},
	replay.StillRejected:         {"refused as before", "same", never},
	replay.StillHeld:             {"told to wait as before", "same", never},
	replay.StillFaulted:          {"no decision is reached, as before", "same", never},
	replay.FirstAssigned:         {unknownBefore, "gain", ifAny},
	replay.FirstRejected:         {unknownBefore, "same", never},
	replay.FirstHeld:             {unknownBefore, "same", never},
	replay.FirstFaulted:          {unknownBefore, "same", never},
}

// baseline says what the comparison is with.
func (r Report) baseline() string {
	if r.BaselineName != "" {
		return printable(r.BaselineName)
	}
	return "the decision that the log records, or else the hub that the device is on"
}

// LeftOut says what the figures do not cover, the share of it first; empty if that is nothing.
func (r Report) LeftOut() string {
	out := r.Lacking + r.Malformed
	if out == 0 {
		return ""
	}
	var parts []string
	if r.Lacking > 0 {
		parts = append(parts, count(r.Lacking, "record that lacks what the rules look at", "records that lack what the rules look at"))
	}
	if r.Malformed > 0 {
		parts = append(parts, count(r.Malformed, "malformed line", "malformed lines"))
	}
	all := out + r.Registrations
	return fmt.Sprintf("Left out: %s of %s (%s): %s.", grouped(out), grouped(all), percent(out, all), enumerate(parts))
}

// copies says how many records the log holds again.
func (r Report) copies() string {
	if r.Duplicates == 0 {
		return ""
	}
	return count(r.Duplicates, "more record has the decision ID of an earlier one, and does not count",
		"more records have the decision ID of an earlier one, and do not count") + "."
}

// sameRules says how far the comparison is one of rules with themselves.
func (r Report) sameRules() string {
	switch {
	case r.SameRules == 0, len(r.Lookups) > 0: // then the rows may differ
		return ""
	case r.BaselineName != "":
		return "Both are the same rules, so the comparison says nothing about a change."
	case r.SameRules == r.Registrations:
		return "These same rules made all decisions that are compared, so the comparison says little about a change."
	}
	return fmt.Sprintf("These same rules made %s of the decisions that are compared (%s): of these, the comparison says little.",
		grouped(r.SameRules), percent(r.SameRules, r.Registrations))
}

// tables says which look-ups were asked of a table, on a line each.
func (r Report) tables() []string {
	var lines []string
	for _, table := range r.Lookups {
		lines = append(lines, fmt.Sprintf("Look-up %s asked of %s (%s).", table.Lookup, printable(table.File), count(int64(table.Rows), "row", "rows")))
	}
	return lines
}

// unit is what is counted.
func (r Report) unit(n int64) string {
	switch {
	case r.ByDevice && n == 1:
		return "device"
	case r.ByDevice:
		return "devices"
	case n == 1:
		return "registration"
	}
	return "registrations"
}

// logNames names the logs, or the first of many.
func (r Report) logNames() string {
	const few = 3
	var names []string
	for i, log := range r.Logs {
		if i == few {
			names = append(names, fmt.Sprintf("%d more", len(r.Logs)-few))
			break
		}
		names = append(names, printable(log.Name))
	}
	return enumerate(names)
}

func enumerate(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// labels are short names of hubs: the first label of the host name, if that is unique.
func (r Report) labels() map[string]string {
	labels, holders := map[string]string{}, map[string]int{}
	for _, hub := range r.Hubs {
		label, _, _ := strings.Cut(hub.Name, ".")
		labels[hub.Name] = label
		holders[label]++
	}
	for _, flow := range r.Flows { // a hub that only a new device would get can be empty
		if hub := flow.NewDevice.Hub; hub != "" && labels[hub] == "" {
			labels[hub], _, _ = strings.Cut(hub, ".")
			holders[labels[hub]]++
		}
	}
	for name, label := range labels {
		if holders[label] > 1 || label == "" {
			labels[name] = name
		}
	}
	return labels
}

// stateName is what a state is called in tables.
func stateName(s replay.State, labels map[string]string) string {
	switch {
	case s.Hub != "" && labels[s.Hub] != "":
		return printable(labels[s.Hub])
	case s.Hub != "":
		return printable(s.Hub)
	case s.Result == "":
		return "not known"
	default:
		return string(s.Result)
	}
}

func breakdownName(b replay.Breakdown, otherwise string) string {
	switch {
	case b.EnrollmentKind == dps.IndividualEnrollment:
		return "individual enrollments"
	case b.Name == "":
		return otherwise
	}
	return printable(b.Name)
}

// whatDiffers lists the kinds of a breakdown except stayed.
func whatDiffers(b replay.Breakdown) string {
	var parts []string
	for _, kind := range replay.Kinds() {
		if n := b.Counts[kind]; n > 0 && kind != replay.Stayed {
			parts = append(parts, grouped(n)+" "+words(kind))
		}
	}
	return strings.Join(parts, ", ")
}

// twinWords say what DPS does with a twin.
var twinWords = map[replay.Twin]string{
	replay.TwinInitial:   "created, on the first assignment",
	replay.TwinKept:      "kept, the device stays",
	replay.TwinMigrated:  "migrated to the new hub",
	replay.TwinReset:     "reset on the new hub",
	replay.TwinUntouched: "untouched, DPS assigns nothing",
}

// TimeNeeded says how long the change takes.
func (r Report) TimeNeeded() string {
	n := r.Reprovision.Registrations
	if n == 0 {
		return "No device has to register for this change."
	}
	return fmt.Sprintf("The change takes %s, which is at least %s at the %s a minute of a DPS service.",
		count(n, "registration", "registrations"), span(secondsOf(r.Reprovision.Seconds)), grouped(r.Reprovision.PerMinute))
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(n) + " " + many
}

// grouped writes 1234567 as 1,234,567.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// span writes a time as 1 d 2 h, 3 h 4 min, 5 min 6 s or 7 s.
func span(d time.Duration) string {
	seconds := int64(d / time.Second)
	units := []struct {
		name    string
		seconds int64
	}{{"d", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}}
	for i, unit := range units {
		if seconds < unit.seconds && unit.seconds > 1 {
			continue
		}
		text := fmt.Sprintf("%d %s", seconds/unit.seconds, unit.name)
		if i+1 < len(units) {
			if rest := seconds % unit.seconds / units[i+1].seconds; rest > 0 {
				text += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return text
	}
	return "0 s"
}

func percent(n, total int64) string {
	if total == 0 {
		return ""
	}
	share := 100 * float64(n) / float64(total)
	if n > 0 && share < 0.1 {
		return "<0.1%"
	}
	return fmt.Sprintf("%.1f%%", share)
}

// printable keeps what a log holds from controlling a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}
