package view

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/author/replay"
)

// Flow counts what goes from where to where. Its picture is a Sankey diagram: bands from left to right with a width in
// proportion to the count.
type Flow struct {
	// Name starts the IDs in the picture, which must differ on a page; Title says what the picture shows.
	Name, Title string
	Left, Right []Node
	// Counts has a row for each of Left, in it a number for each of Right.
	Counts [][]int64
	// Class is that of CSS for the band of a row and a column: stay, move, gain, lose or same.
	Class func(left, right int) string
}

// Node is an end of bands.
type Node struct {
	Label string
	// Nowhere is set if what goes there gets no hub.
	Nowhere bool
}

// SVG draws the flow as an SVG element, which the style sheet of the page colours. It is empty if nothing is counted.
func (f Flow) SVG() (string, error) {
	picture := f.draw()
	if len(picture.Bands) == 0 {
		return "", nil
	}
	drawing, err := template.New("drawing").Parse(flowSource)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	err = drawing.ExecuteTemplate(&text, "flow", picture)
	return text.String(), err
}

//go:embed flow.html
var flowSource string

// flowPicture is where everything in the picture of a flow goes.
type flowPicture struct {
	Name, Title   string
	Width, Height int
	Left, Right   []flowNode
	Bands         []flowBand
	// Text says the same for people who do not see it.
	Text string
}

type flowNode struct {
	X, Y, Height    string
	LabelX, LabelY  string
	Label, Count    string
	Class           string
	size, top, next float64
}

type flowBand struct {
	Path, Class, Title string
}

// The measures of the picture, in SVG units.
const (
	flowWidth  = 900
	flowLabels = 210 // room for labels on either side
	flowNodeW  = 12
	flowGap    = 14 // between nodes, room for a line of text
	flowHeight = 420
	flowHubs   = 12
	// thinnest is the smallest width of a band, so that one device is visible.
	thinnest = 1.5
	// longestLabel is how many characters of a label there is room for.
	longestLabel = 26
)

// Flow says where devices were and where they are under the new rules.
func (r Report) Flow() Flow {
	m, labels := r.Report.Matrix(flowHubs), r.labels()
	nodes := func(states []replay.State) []Node {
		var list []Node
		for _, s := range states {
			list = append(list, Node{stateName(s, labels), s.Hub == "" && s.Result != ""})
		}
		return list
	}
	return Flow{Name: "flow", Title: "Where devices were, on the left, and where they are, on the right",
		Left: nodes(m.Rows), Right: nodes(m.Columns), Counts: m.Counts,
		Class: func(left, right int) string { return bandClass(m.Rows[left], m.Columns[right]) }}
}

func (f Flow) draw() flowPicture {
	picture := flowPicture{Name: f.Name, Title: f.Title, Left: make([]flowNode, len(f.Left)), Right: make([]flowNode, len(f.Right))}
	leftCounts, rightCounts := make([]int64, len(f.Left)), make([]int64, len(f.Right))
	total := int64(0)
	for i := range f.Left {
		for j, n := range f.Counts[i] {
			leftCounts[i] += n
			rightCounts[j] += n
			total += n
		}
	}
	scale := flowHeight / float64(max(total, 1))
	wide := func(n int64) float64 {
		if n == 0 {
			return 0
		}
		return max(thinnest, scale*float64(n))
	}
	for i := range f.Left {
		for j, n := range f.Counts[i] {
			picture.Left[i].size += wide(n)
			picture.Right[j].size += wide(n)
		}
	}
	height := max(
		place(picture.Left, f.Left, leftCounts, flowLabels, flowLabels-8),
		place(picture.Right, f.Right, rightCounts, flowWidth-flowLabels-flowNodeW, flowWidth-flowLabels+8))
	picture.Width, picture.Height = flowWidth, int(height)+1
	var told []string
	for i := range f.Left {
		for j, n := range f.Counts[i] {
			if n == 0 {
				continue
			}
			title := fmt.Sprintf("%s from %s to %s", grouped(n), printable(f.Left[i].Label), printable(f.Right[j].Label))
			told = append(told, title)
			picture.Bands = append(picture.Bands, flowBand{band(&picture.Left[i], &picture.Right[j], wide(n)), f.Class(i, j), title})
		}
	}
	picture.Text = strings.Join(told, "; ")
	return picture
}

// place puts nodes below each other and returns their height together.
func place(placed []flowNode, nodes []Node, counts []int64, x, labelX int) float64 {
	y := 8.0
	for i := range placed {
		n := &placed[i]
		n.top, n.next = y, y
		n.X, n.Y, n.Height = strconv.Itoa(x), decimal(y), decimal(n.size)
		n.LabelX, n.LabelY = strconv.Itoa(labelX), decimal(y+n.size/2+4)
		n.Label, n.Count = shortened(printable(nodes[i].Label)), grouped(counts[i])
		n.Class = "node"
		if nodes[i].Nowhere {
			n.Class = "node nowhere"
		}
		y += max(n.size, 4) + flowGap
	}
	return y
}

func shortened(label string) string {
	if runes := []rune(label); len(runes) > longestLabel {
		return string(runes[:longestLabel-1]) + "…"
	}
	return label
}

// band draws a band below the last one of each node.
func band(from, to *flowNode, size float64) string {
	x1, x2 := float64(flowLabels+flowNodeW), float64(flowWidth-flowLabels-flowNodeW)
	middle := (x1 + x2) / 2
	y1, y2 := from.next, to.next
	from.next += size
	to.next += size
	return fmt.Sprintf("M%s %sC%s %s %s %s %s %sL%s %sC%s %s %s %s %s %sZ",
		decimal(x1), decimal(y1), decimal(middle), decimal(y1), decimal(middle), decimal(y2), decimal(x2), decimal(y2),
		decimal(x2), decimal(y2+size), decimal(middle), decimal(y2+size), decimal(middle), decimal(y1+size), decimal(x1), decimal(y1+size))
}

func bandClass(before, after replay.State) string {
	switch {
	case before == after:
		return "stay"
	case before.Result == "":
		return "same"
	case after.Hub == "":
		return "lose"
	case before.Hub == "":
		return "gain"
	default:
		return "move"
	}
}

// decimal writes a length with a tenth of a unit.
func decimal(length float64) string { return strconv.FormatFloat(length, 'f', 1, 64) }

func secondsOf(n int64) time.Duration { return time.Duration(n) * time.Second }
