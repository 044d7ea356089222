// Package view shows the report of a replay to people: as text for a terminal
// and as one HTML page that needs nothing beside itself.
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
	// RulesName and BaselineName are where the rules come from; BaselineName is
	// empty where the log itself is the baseline.
	RulesName, BaselineName string
}

// words are what people read for a kind.
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

// meaning explains a kind.
func meaning(kind replay.Kind) string {
	switch kind {
	case replay.Stayed:
		return "the same hub as before"
	case replay.Moved:
		return "from one hub to another"
	case replay.Diverted:
		return "stay; a new device with the same request would be answered otherwise"
	case replay.NewlyAccepted:
		return "get a hub, and got none before"
	case replay.NewlyRejected:
		return "refused, and were not before"
	case replay.NewlyHeld:
		return "told to wait, and were not before"
	case replay.NewlyFaulted:
		return "no decision is reached, or for another reason than before"
	case replay.StillRejected:
		return "refused as before"
	case replay.StillHeld:
		return "told to wait as before"
	case replay.StillFaulted:
		return "no decision is reached, as before"
	default:
		return "nothing is known from before"
	}
}

// before says what the comparison is with.
func (r Report) before() string {
	if r.BaselineName != "" {
		return "what the rules in " + printable(r.BaselineName) + " decide"
	}
	return "the decision that the log records, else the hub that the device is on"
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

// labels are short names of hubs: the first label of the host name, where that
// tells them apart.
func (r Report) labels() map[string]string {
	labels, holders := map[string]string{}, map[string]int{}
	for _, hub := range r.Hubs {
		label, _, _ := strings.Cut(hub.Name, ".")
		labels[hub.Name] = label
		holders[label]++
	}
	for _, flow := range r.Flows { // a hub that a new device would get may hold none
		if hub := flow.After.Hub; hub != "" && labels[hub] == "" {
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

// whatDiffers lists the kinds of a breakdown but stayed, most frequent first.
func whatDiffers(b replay.Breakdown) string {
	var parts []string
	for _, kind := range replay.Kinds() {
		if n := b.Counts[kind]; n > 0 && kind != replay.Stayed {
			parts = append(parts, grouped(n)+" "+words(kind))
		}
	}
	return strings.Join(parts, ", ")
}

// twinWords say what DPS does.
func twinWords(twin replay.Twin) string {
	switch twin {
	case replay.TwinInitial:
		return "made, on the first assignment"
	case replay.TwinKept:
		return "kept, the device stays"
	case replay.TwinMigrated:
		return "migrated to the new hub"
	case replay.TwinReset:
		return "reset on the new hub"
	default:
		return "untouched, DPS assigns nothing"
	}
}

// timeNeeded says what the change takes.
func (r Report) timeNeeded() string {
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

// printable keeps what a log holds from steering a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}
