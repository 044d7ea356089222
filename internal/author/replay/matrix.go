package replay

import (
	"maps"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
)

// Matrix counts devices by the state that they had and the one that they have.
// A diverted device has the one that it had.
type Matrix struct {
	// Rows are the states before, Columns those after: hubs by name, then
	// rejected, held, faults, and last the devices of which nothing was known.
	Rows, Columns []State
	// Counts has a row for each of Rows, in it a number for each of Columns.
	Counts [][]int64
}

// Matrix puts the flows into a table. Of hubs it shows the most affected, up to
// the given number; all others count as the one hub [Others].
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
	names := sortedByCount(slices.Collect(maps.Keys(weights)), func(name string) int64 { return weights[name] }, func(name string) string { return name })
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
		if flow.Kind == Diverted {
			after = before
		}
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
	if rank := stateRank(a) - stateRank(b); rank != 0 {
		return rank
	}
	return strings.Compare(a.Result+"\x00"+a.Hub, b.Result+"\x00"+b.Hub)
}

func stateRank(s State) int {
	switch s.Result {
	case string(answer.Assigned):
		if s.Hub == Others {
			return 1
		}
		return 0
	case string(answer.Rejected):
		return 2
	case string(answer.Held):
		return 3
	case "":
		return 5
	default:
		return 4
	}
}
