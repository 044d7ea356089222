package explain

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/explanation"
)

// Style marks what holds and what does not, for instance with colours. Its functions return a text with marks around
// it.
type Style struct{ Good, Bad, Faint func(string) string }

// Plain marks nothing.
func Plain() Style {
	same := func(text string) string { return text }
	return Style{same, same, same}
}

const (
	// maxValue bounds a value in a line, in characters.
	maxValue = 100
	// maxSource bounds a line of Rego.
	maxSource = 100
	// step is the indentation below a line.
	step = "  "
)

// WriteText prints the report as text.
func (r *Report) WriteText(w io.Writer, style Style) error {
	out := bufio.NewWriter(w)
	p := printer{out, style}
	p.head(r)
	if r.WhyNot != nil {
		p.whyNot(r.WhyNot)
	} else {
		for _, entry := range r.Entries {
			p.entry(entry, r.Entries[0].Name)
		}
	}
	p.rows(r.Rows)
	if len(r.BuiltinErrors) > 0 {
		p.line("", "")
		p.line("", "Built-in functions that failed, which Rego takes as undefined:")
		for _, text := range r.BuiltinErrors {
			p.line(step, "%s", text)
		}
	}
	if r.CutShort != "" {
		p.line("", "")
		p.line("", "%s", p.style.Bad("The explanation is incomplete: "+r.CutShort+"."))
	}
	return out.Flush()
}

type printer struct {
	w     *bufio.Writer
	style Style
}

func (p printer) line(indent, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text != "" {
		text = indent + text
	}
	fmt.Fprintln(p.w, p.printable(text))
}

// styled matches the escape sequences that change the style on a terminal.
var styled = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// printable keeps texts from a device, such as a reason that quotes its payload, from controlling the terminal. If the
// style has colours, a device can at most add colours.
func (p printer) printable(text string) string {
	if p.style.Good("") == "" {
		return Printable(text)
	}
	var safe strings.Builder
	end := 0
	for _, at := range styled.FindAllStringIndex(text, -1) {
		safe.WriteString(Printable(text[end:at[0]]) + text[at[0]:at[1]])
		end = at[1]
	}
	return safe.String() + Printable(text[end:])
}

// Printable escapes what a terminal does not show, such as control characters.
func Printable(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return text
	}
	var safe strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			safe.WriteRune(r)
		} else {
			fmt.Fprintf(&safe, `\u%04x`, r)
		}
	}
	return safe.String()
}

// field prints a line of the head.
func (p printer) field(name, format string, args ...any) {
	p.line("", "%-12s%s", name, fmt.Sprintf(format, args...))
}

func (p printer) head(r *Report) {
	a := &r.Answer
	switch a.Result {
	case answer.Assigned:
		p.field(p.pad(string(a.Result), p.style.Good), "%s", a.Response.IotHubHostName)
	case answer.Rejected, answer.Held:
		p.field(p.pad(string(a.Result), p.style.Bad), "%s", strings.Join(a.Reasons, "; "))
	default:
		p.field(p.pad("fault", p.style.Bad), "%s: %s", a.Result, a.Detail)
	}
	if cause := a.CauseText(); cause != "" && cause != a.Detail {
		p.field("", "%s", cause)
	}
	for _, o := range r.Overrides {
		p.field("constraint", "%s: %s", o.Name, o.Text)
	}
	if a.Alarm {
		p.field("alarm", "an operator should look at it")
	}
	p.field("answer", "%d: %s", a.Status(), r.Effect.Message)
	if a.RetryAfter > 0 {
		p.field("", "Retry-After asks for %s; DPS follows its own schedule", a.RetryAfter)
	}
	if r.Effect.InitialTwin != "" {
		p.field("twin", "%s", r.Effect.InitialTwin)
	}
	if payload := a.Response.Payload; payload != nil {
		p.field("payload", "reaches the device: %s", short(compact(payload.Interface()), maxValue))
	}
	if r.Then != nil {
		p.field("recorded", "%s", r.compareRecorded())
	}
	p.field("request", "%s", r.Source)
	where := "has no hub yet"
	if !r.Device.FirstAssignment {
		where = "is on " + r.Device.CurrentHub
		if !r.Device.CurrentHubLinked {
			where += ", which is no longer linked"
		}
	}
	p.field("device", "%s, %s", r.Device.RegistrationID, where)
	p.field("enrollment", "%s %s, reprovision policy %s", words(r.Enrollment.Kind), r.Enrollment.ID, r.Enrollment.Reprovision)
	for i, c := range r.Candidates {
		switch {
		case i == 0 && c.Title != "":
			p.field("rule", "%s, %q (%s): %s", c.Package, c.Title, c.Place, c.Why)
		case i == 0:
			p.field("rule", "%s (%s): %s", c.Package, c.Place, c.Why)
		default:
			p.field("", "%s", p.style.Faint(fmt.Sprintf("next would be %s (%s): %s", c.Package, c.Place, c.Why)))
		}
	}
	if len(r.Candidates) == 0 {
		p.field("rule", "none serves the enrollment, and there is no package allocation.default")
	}
}

// pad pads a name before it is coloured, which adds characters that are not visible.
func (p printer) pad(name string, paint func(string) string) string {
	return paint(name) + strings.Repeat(" ", max(0, 12-utf8.RuneCountInString(name)))
}

func words(kind dps.EnrollmentKind) string {
	if kind == dps.IndividualEnrollment {
		return "individual enrollment"
	}
	return "enrollment group"
}

// entry prints an entry rule; last is the one that decides, if any does.
func (p printer) entry(e explanation.Entry, last string) {
	p.line("", "")
	if !e.Asked {
		p.line("", "%s: not evaluated, %s decides", e.Name, last)
		return
	}
	head := e.Name + " = " + short(compact(e.Value), maxValue)
	list, isList := e.Value.([]any)
	switch {
	case e.Error != "":
		head = e.Name + ": " + p.style.Bad(e.Error)
	case e.Value == nil:
		head = e.Name + ": undefined"
	case isList && len(list) == 0:
		head = e.Name + ": no reason"
	}
	if e.Title != "" {
		head += step + p.style.Faint("# "+e.Title)
	}
	p.line("", "%s", head)
	p.definitions(step, e.Definitions)
}

func (p printer) definitions(indent string, definitions []explanation.Definition) {
	for i, d := range definitions {
		several := func(j int) bool {
			return j >= 0 && j < len(definitions) && definitions[j].Place == d.Place && definitions[j].Text == d.Text
		}
		p.definition(indent, d, several(i-1) || several(i+1))
	}
}

// definition prints a definition, with what it says if it says several things.
func (p printer) definition(indent string, d explanation.Definition, several bool) {
	deeper := indent + step + step
	switch d.State {
	case explanation.Gave:
		p.line(indent, "%s %s  %s", p.style.Good("+"), d.Place, source(d.Text))
		if several {
			p.line(deeper, "gives %s", short(what(d.Value), maxValue))
		}
		p.terms(deeper, d.Uses)
		for _, draw := range d.Draws {
			p.line(deeper, "drawn by %s from %s", compact(draw.Key), strings.Join(draw.Among, ", "))
		}
	case explanation.NotHeld:
		p.line(indent, "%s %s  %s", p.style.Bad("-"), d.Place, source(d.Text))
		if d.Failed != nil {
			p.expression(deeper, d.Place, *d.Failed)
		}
	case explanation.Unreached:
		text := "not reached"
		if d.Value != nil {
			text += ", would give " + short(compact(d.Value), maxValue)
		}
		if d.Failed != nil {
			text = "not reached, and would not hold: " + source(d.Failed.Text)
		}
		p.line(indent, "%s", p.style.Faint(fmt.Sprintf("· %s  %s", d.Place, source(d.Text))))
		p.line(deeper, "%s", p.style.Faint(text))
	case explanation.Erred:
		p.line(indent, "%s %s  %s", p.style.Bad("!"), d.Place, source(d.Text))
		p.line(deeper, "%s", p.style.Bad(d.Error))
	default:
		p.line(indent, "? %s  %s", d.Place, source(d.Text))
	}
}

// expression prints the expression that does not hold in the definition at a place.
func (p printer) expression(indent, place string, e explanation.Expression) {
	at := ""
	if e.Place != place {
		at = " at " + e.Place
	}
	text := "fails" + at + ": " + p.style.Bad(source(e.Text))
	if e.Why != "" {
		text += ": " + short(e.Why, maxValue)
	}
	if e.Tries > 1 {
		text += fmt.Sprintf(" (tried %d times)", e.Tries)
	}
	p.line(indent, "%s", text)
	p.terms(indent+step, e.Terms)
}

func (p printer) terms(indent string, terms []explanation.Term) {
	for _, t := range terms {
		text := source(t.Text)
		values := make([]string, len(t.Values))
		for i, value := range t.Values {
			values[i] = short(compact(value), maxValue/len(t.Values))
		}
		switch {
		case t.Why == explanation.Empty:
			text += " is empty"
		case len(values) > 0:
			text += " = " + strings.Join(values, ", then ")
			if t.Why != "" {
				text += ": " + t.Why
			}
		case t.Why != "":
			text += " is undefined: " + t.Why
		default:
			text += " is undefined"
		}
		if t.Repeated && len(values) == 0 {
			text += p.style.Faint(" (explained elsewhere)")
		}
		p.line(indent, "%s", text)
		p.definitions(indent+step, t.Definitions)
	}
}

func (p printer) whyNot(w *WhyNot) {
	p.line("", "")
	if w.Answer {
		p.line("", "why not %s: %s", w.Hub, p.style.Good("it is the answer"))
		return
	}
	p.line("", "why not %s:", w.Hub)
	for _, text := range w.Obstacles {
		p.line(step, "%s %s", p.style.Bad("!"), text)
	}
	marks := map[string]string{"yes": p.style.Good("+"), "no": p.style.Faint("·"), "unknown": "?"}
	for _, d := range w.Definitions {
		p.line(step, "%s %s  %s", marks[d.Names], d.Place, source(d.Text))
		p.line(step+step+step, "%s", d.Note)
		if d.Failed != nil {
			p.expression(step+step+step, d.Place, *d.Failed)
		}
	}
	for _, entry := range w.lastWord {
		p.entry(entry, "")
	}
}

// compareRecorded says how the recorded answer compares with that of now.
func (r *Report) compareRecorded() string {
	then, now := r.Then, &r.Answer
	text := string(then.Result)
	if hub := then.Response.IotHubHostName; hub != "" {
		text += " " + hub
	}
	switch {
	case then.Rules == now.Rules && then.Rules != "":
		text += ", by the same rules"
	case then.Rules != "":
		text += ", by other rules"
	}
	if then.Result == now.Result && dps.SameHub(then.Response.IotHubHostName, now.Response.IotHubHostName) {
		text += ": the same as now"
	} else {
		text += ": not what it is now"
	}
	if len(r.Lacks) > 0 {
		text += "; the rules look at what is masked in the record: " + strings.Join(r.Lacks, ", ")
	}
	return text
}

// compact writes a value as JSON in one line.
func compact(value any) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Sprint(value)
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// what writes what a definition gives: of a set, its elements.
func what(value any) string {
	elements, isSet := value.([]any)
	if !isSet {
		return compact(value)
	}
	texts := make([]string, len(elements))
	for i, element := range elements {
		texts[i] = compact(element)
	}
	return strings.Join(texts, ", ")
}

// source is the first line of a piece of Rego.
func source(text string) string {
	first, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	first = short(first, maxSource)
	if more && !strings.HasSuffix(first, "…") {
		first += " …"
	}
	return first
}

func short(text string, limit int) string {
	if utf8.RuneCountInString(text) <= limit {
		return text
	}
	return string([]rune(text)[:limit]) + "…"
}
