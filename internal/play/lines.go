package play

import (
	"cmp"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// line is what became of a line of the rules, for the margin of the editor.
type line struct {
	File  string            `json:"file"`
	Line  int               `json:"line"`
	State explanation.State `json:"state"` // gave, not_held, unreached or erred
	Text  string            `json:"text"`
	Why   string            `json:"why"`
}

// strength orders the states for a line with several: that which says most about the answer counts.
var strength = []explanation.State{explanation.Gave, explanation.Erred, explanation.NotHeld, explanation.Unreached}

// maxWhy bounds what a margin says, in bytes.
const maxWhy = 300

// linesOf lists the definitions in an explanation, and the expressions that do not hold, in the order of their places.
func linesOf(report *explain.Report) []line {
	byPlace := map[string]line{}
	add := func(place string, state explanation.State, text, why string) {
		rank := slices.Index(strength, state)
		if before, ok := byPlace[place]; rank < 0 || ok && slices.Index(strength, before.State) <= rank {
			return
		}
		file, number := ruleset.SplitPlace(place)
		byPlace[place] = line{file, number, state, text, why}
	}
	var visit func(definitions []explanation.Definition)
	visitTerms := func(terms []explanation.Term) {
		for _, term := range terms {
			visit(term.Definitions)
		}
	}
	visit = func(definitions []explanation.Definition) {
		for _, d := range definitions {
			why := d.Error
			if why == "" && d.State == explanation.Gave && d.Value != nil {
				why = "gives " + shown(d.Value)
			}
			if d.Failed != nil {
				why = "does not hold: " + d.Failed.Text
				add(d.Failed.Place, explanation.NotHeld, d.Failed.Text, whyNot(d.Failed))
				visitTerms(d.Failed.Terms)
			}
			add(d.Place, d.State, d.Text, why)
			visitTerms(d.Uses)
		}
	}
	for _, entry := range report.Entries {
		visit(entry.Definitions)
	}
	lines := make([]line, 0, len(byPlace))
	for _, l := range byPlace {
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line) })
	return lines
}

// whyNot says why an expression does not hold: the values of its parts.
func whyNot(e *explanation.Expression) string {
	var parts []string
	if e.Why != "" {
		parts = append(parts, e.Why)
	}
	for _, term := range e.Terms {
		text := term.Text + " is undefined"
		if len(term.Values) > 0 {
			values := make([]string, len(term.Values))
			for i, value := range term.Values {
				values[i] = shown(value)
			}
			text = term.Text + " = " + strings.Join(values, ", ")
		} else if term.Why != "" {
			text = term.Text + ": " + term.Why
		}
		parts = append(parts, text)
	}
	return shorten(strings.Join(parts, "; "))
}

func shown(value any) string { return shorten(string(dps.AppendValue(nil, value))) }

func shorten(text string) string {
	if len(text) > maxWhy {
		return strings.ToValidUTF8(text[:maxWhy], "") + "…"
	}
	return text
}
