package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/author/replay"
)

// flowPicture is a Sankey diagram: states before on the left, states after on the right, and bands with a width in
// proportion to the number of devices.
type flowPicture struct {
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
)

func newFlowPicture(r Report, labels map[string]string) flowPicture {
	m := r.Matrix(flowHubs)
	if len(m.Rows) == 0 {
		return flowPicture{}
	}
	left, right := make([]flowNode, len(m.Rows)), make([]flowNode, len(m.Columns))
	leftCounts, rightCounts := make([]int64, len(m.Rows)), make([]int64, len(m.Columns))
	scale := flowHeight / float64(max(r.Counted, 1))
	wide := func(n int64) float64 {
		if n == 0 {
			return 0
		}
		return max(thinnest, scale*float64(n))
	}
	for i := range m.Rows {
		for j, n := range m.Counts[i] {
			left[i].size += wide(n)
			right[j].size += wide(n)
			leftCounts[i] += n
			rightCounts[j] += n
		}
	}
	height := max(
		place(left, m.Rows, leftCounts, flowLabels, flowLabels-8, labels),
		place(right, m.Columns, rightCounts, flowWidth-flowLabels-flowNodeW, flowWidth-flowLabels+8, labels))
	picture := flowPicture{Width: flowWidth, Height: int(height) + 1, Left: left, Right: right}
	var told []string
	for i, before := range m.Rows {
		for j, n := range m.Counts[i] {
			if n == 0 {
				continue
			}
			title := fmt.Sprintf("%s from %s to %s", grouped(n), left[i].Label, right[j].Label)
			told = append(told, title)
			picture.Bands = append(picture.Bands, flowBand{band(&left[i], &right[j], wide(n)), bandClass(before, m.Columns[j]), title})
		}
	}
	picture.Text = strings.Join(told, "; ")
	return picture
}

// place puts nodes below each other and returns their height together.
func place(nodes []flowNode, states []replay.State, counts []int64, x, labelX int, labels map[string]string) float64 {
	y := 8.0
	for i := range nodes {
		n := &nodes[i]
		n.top, n.next = y, y
		n.X, n.Y, n.Height = strconv.Itoa(x), decimal(y), decimal(n.size)
		n.LabelX, n.LabelY = strconv.Itoa(labelX), decimal(y+n.size/2+4)
		n.Label, n.Count = stateName(states[i], labels), grouped(counts[i])
		n.Class = "node"
		if states[i].Hub == "" && states[i].Result != "" {
			n.Class = "node nowhere"
		}
		y += max(n.size, 4) + flowGap
	}
	return y
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
