package replay

import (
	"cmp"
	"maps"
	"slices"

	"github.com/usher-dps/usher/answer"
)

// Matrix counts devices by the state that they had and the one that they have.
type Matrix struct {
	// Rows are the states before, Columns those after: hubs by name, then rejected, held, faults, and last the devices
	// of which nothing was known.
	Rows, Columns []State
	// Counts has a row for each of Rows, in it a number for each of Columns.
	Counts [][]int64
}

// Matrix puts the flows into a table. It shows the most affected hubs, up to the given number; all others count as one
// hub, [Others].
func (r *Report) Matrix(hubs int) Matrix {
	weights := map[string]int64{}
	for _, flow := range r.Flows {
		weight := flow.Count
		if flow.Kind.Change() {
			weight += r.Counted // a hub that changes goes before one that does not
		}
		weights[flow.Before.Hub] += weight
		weights[flow.After.Hub] += weight
	}
	delete(weights, "")
	names := slices.SortedFunc(maps.Keys(weights), func(a, b string) int {
		return cmp.Or(cmp.Compare(weights[b], weights[a]), cmp.Compare(a, b))
	})
	shown := map[string]bool{}
	for _, name := range names[:min(len(names), hubs)] {
		shown[name] = true
	}
	fold := func(s State) State {
		if s.Hub != "" && !shown[s.Hub] {
			s.Hub = Others
		}
		return s
	}
	counts := map[[2]State]int64{}
	rows, columns := map[State]bool{}, map[State]bool{}
	for _, flow := range r.Flows {
		before, after := fold(flow.Before), fold(flow.After)
		rows[before], columns[after] = true, true
		counts[[2]State{before, after}] += flow.Count
	}
	m := Matrix{Rows: slices.SortedFunc(maps.Keys(rows), compareStates), Columns: slices.SortedFunc(maps.Keys(columns), compareStates)}
	for _, before := range m.Rows {
		row := make([]int64, len(m.Columns))
		for i, after := range m.Columns {
			row[i] = counts[[2]State{before, after}]
		}
		m.Counts = append(m.Counts, row)
	}
	return m
}

func compareStates(a, b State) int {
	return cmp.Or(stateRank(a)-stateRank(b), a.compare(b))
}

func stateRank(s State) int {
	switch s.Result {
	case answer.Assigned:
		if s.Hub == Others {
			return 1
		}
		return 0
	case answer.Rejected:
		return 2
	case answer.Held:
		return 3
	case "":
		return 5
	default:
		return 4
	}
}
