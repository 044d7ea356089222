package view

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"github.com/usher-dps/usher/internal/author/replay"
)

//go:embed page.html
var pageSource string

// How much of each list is on the page. JSON has all of it.
const (
	pageHubs     = 20
	pageRows     = 50
	pageExamples = 20 // of each kind
)

// Page writes a report as one HTML page, with styles and pictures in it.
func Page(w io.Writer, r Report) error {
	page, err := template.New("page").Funcs(template.FuncMap{
		"grouped": grouped, "percent": percent,
	}).Parse(pageSource + flowSource)
	if err != nil {
		return err
	}
	return page.Execute(w, newPage(r))
}

// pageView is what the template shows.
type pageView struct {
	Report
	LogNames, Baseline, TimeNeeded, AllNeeded string
	Tables                                    []string // which look-ups were asked of them
	Copies, ComparesSelf                      string   // empty if there is nothing to say
	Unit, UnitTitle                           string   // what is counted, and the same as a heading
	Tiles                                     []tile
	Kinds                                     []kindRow
	Matrix                                    Matrix
	Flow                                      flowPicture
	HubRows                                   []hubRow
	MoreHubs                                  int
	TwinRows                                  []twinRow
	Breakdowns                                []breakdownView
	ExampleGroups                             []exampleGroup
	MoreMalformed, MoreLacking                int64
}

type tile struct {
	Class, Label, Number, Share string
}

type kindRow struct {
	Words, Meaning, Class string
	Count                 int64
}

// Matrix is a table of where devices were (row) and where they are under the new rules (column).
type Matrix struct {
	Columns []string    `json:"columns"`
	Rows    []MatrixRow `json:"rows"`
}

// MatrixRow has a cell for each column.
type MatrixRow struct {
	Name  string       `json:"name"`
	Cells []MatrixCell `json:"cells"`
}

// MatrixCell is a count and how it is shown.
type MatrixCell struct {
	Count int64 `json:"count"`
	// Heat is how strong the colour is, in percent; Class is that of CSS, which has the colour: none, stay, same, move
	// or lose.
	Heat  int    `json:"heat"`
	Class string `json:"class"`
	Title string `json:"title"`
}

type hubRow struct {
	replay.Hub
	Label, Title           string
	BeforeWidth, AfterWide string // of bars, in SVG units
}

type twinRow struct {
	replay.TwinCount
	Words string
}

type breakdownView struct {
	Title, Column string
	Rows          []breakdownRow
	More          int
}

type breakdownRow struct {
	Name, Differs  string
	Total, Changed int64
}

type exampleGroup struct {
	Words    string
	Examples []exampleRow
}

type exampleRow struct {
	replay.Change
	From, To, Why, By string
}

func newPage(r Report) pageView {
	labels := r.labels()
	p := pageView{Report: r, LogNames: r.logNames(), Baseline: r.baseline(), Tables: r.tables(), TimeNeeded: r.TimeNeeded(), Unit: r.unit(r.Counted)}
	p.UnitTitle = strings.ToUpper(p.Unit[:1]) + p.Unit[1:]
	p.AllNeeded = span(secondsOf(r.Reprovision.AllSeconds))
	p.Copies, p.ComparesSelf = r.copies(), r.sameRules()
	for _, kind := range replay.Kinds() {
		n, shown := r.Counts[kind], kindViews[kind]
		if n > 0 {
			p.Kinds = append(p.Kinds, kindRow{words(kind), shown.meaning, shown.class, n})
		}
		if shown.tile == always || shown.tile == ifAny && n > 0 {
			p.Tiles = append(p.Tiles, tile{shown.class, words(kind), grouped(n), percent(n, r.Counted)})
		}
	}
	p.Matrix, p.Flow = r.Matrix(), r.Flow().draw()
	p.HubRows, p.MoreHubs = newHubRows(r, labels)
	for _, twin := range r.Twins {
		p.TwinRows = append(p.TwinRows, twinRow{twin, twinWords[twin.Twin]})
	}
	p.Breakdowns = []breakdownView{
		newBreakdown("By rule", "Rule", "no rule", r.ByRule), newBreakdown("By enrollment", "Enrollment", "no enrollment", r.ByEnrollment),
	}
	p.ExampleGroups = newExamples(r, labels)
	p.MoreMalformed = r.Malformed - int64(len(r.MalformedFirst))
	p.MoreLacking = r.Lacking - int64(len(r.LackingFirst))
	return p
}

// Matrix shows the most affected hubs; all others count as one.
func (r Report) Matrix() Matrix {
	m, labels := r.Report.Matrix(pageHubs), r.labels()
	view := Matrix{Columns: []string{}, Rows: []MatrixRow{}}
	for _, after := range m.Columns {
		view.Columns = append(view.Columns, stateName(after, labels))
	}
	largest := int64(1)
	for i, before := range m.Rows {
		for j, n := range m.Counts[i] {
			if before != m.Columns[j] {
				largest = max(largest, n)
			}
		}
	}
	for i, before := range m.Rows {
		row := MatrixRow{Name: stateName(before, labels)}
		for j, n := range m.Counts[i] {
			after := m.Columns[j]
			cell := MatrixCell{Count: n, Title: fmt.Sprintf("%s from %s to %s", grouped(n), row.Name, stateName(after, labels))}
			switch {
			case n == 0:
				cell.Class = "none"
			case before == after:
				cell.Class = "stay"
			case before.Result == "":
				cell.Class = "same"
			default:
				cell.Class = "move"
				if after.Hub == "" {
					cell.Class = "lose"
				}
				// By logarithm, so that one device is visible next to a million.
				cell.Heat = 12 + int(48*math.Log1p(float64(n))/math.Log1p(float64(largest)))
			}
			row.Cells = append(row.Cells, cell)
		}
		view.Rows = append(view.Rows, row)
	}
	return view
}

// barWidth is the width of the bar of the fullest hub, in SVG units.
const barWidth = 200

func newHubRows(r Report, labels map[string]string) (rows []hubRow, more int) {
	fullest := int64(1)
	for _, hub := range r.Hubs {
		fullest = max(fullest, hub.Before, hub.After)
	}
	wide := func(n int64) string { return decimal(barWidth * float64(n) / float64(fullest)) }
	for i, hub := range r.Hubs {
		if i == pageRows {
			return rows, len(r.Hubs) - pageRows
		}
		label := stateName(replay.State{Hub: hub.Name}, labels)
		rows = append(rows, hubRow{hub, label, fmt.Sprintf("%s: %s before, %s after", label, grouped(hub.Before), grouped(hub.After)),
			wide(hub.Before), wide(hub.After)})
	}
	return rows, 0
}

func newBreakdown(title, column, otherwise string, list []replay.Breakdown) breakdownView {
	view := breakdownView{Title: title, Column: column, More: max(0, len(list)-pageRows)}
	for _, b := range list[:min(len(list), pageRows)] {
		view.Rows = append(view.Rows, breakdownRow{breakdownName(b, otherwise), whatDiffers(b), b.Total, b.Changed})
	}
	return view
}

func newExamples(r Report, labels map[string]string) []exampleGroup {
	var groups []exampleGroup
	for _, e := range r.Examples {
		if !e.Kind.Change() {
			continue
		}
		if len(groups) == 0 || groups[len(groups)-1].Words != words(e.Kind) {
			groups = append(groups, exampleGroup{Words: words(e.Kind)})
		}
		group := &groups[len(groups)-1]
		if len(group.Examples) == pageExamples {
			continue
		}
		why := printable(strings.Join(e.Reasons, "; "))
		if e.Detail != "" {
			why = printable(e.Detail)
		}
		group.Examples = append(group.Examples, exampleRow{e, stateName(lower(e.Before), labels), stateName(lower(e.After), labels), why, printable(decidedBy(e))})
	}
	return groups
}
