package replay

import (
	"maps"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/requestlog"
)

// cell is what registrations are counted by: everything that a report distinguishes.
type cell struct {
	kind           Kind
	enrollmentKind dps.EnrollmentKind
	enrollment     string // empty for individual enrollments
	rule           string
	reprovision    dps.ReprovisionPolicy
	before, after  State
	on             string
	twin           Twin
	use            dps.InitialTwinUse
}

// tally counts by cell.
type tally struct {
	index  map[cell]int
	cells  []cell
	counts []int64
}

func (t *tally) reset() {
	clear(t.index)
	t.cells, t.counts = t.cells[:0], t.counts[:0]
}

// add returns the cell's place in cells and counts.
func (t *tally) add(c cell, n int64) int {
	i, ok := t.index[c]
	if !ok {
		if t.index == nil {
			t.index = map[cell]int{}
		}
		i = len(t.cells)
		t.index[c] = i
		t.cells, t.counts = append(t.cells, c), append(t.counts, 0)
	}
	t.counts[i] += n
	return i
}

const (
	// maxCells bounds the cells of a report, about 250 bytes each. A service has at most 50 hubs and 200 groups, and a
	// change of rules affects only some of them.
	maxCells = 100_000
	// Others stands for the enrollments and hubs beyond that.
	Others = "(others)"
)

// addBounded is add for a tally that a hostile log could make large.
func (t *tally) addBounded(c cell, n int64) int {
	if _, ok := t.index[c]; !ok && len(t.cells) >= maxCells {
		c.enrollment = Others
		for _, hub := range []*string{&c.before.Hub, &c.after.Hub, &c.on} {
			if *hub != "" {
				*hub = Others
			}
		}
	}
	return t.add(c, n)
}

const kindCount = 17

var allKinds = [kindCount]Kind(Kinds())

func kindIndex(kind Kind) int { return slices.Index(allKinds[:], kind) }

// merger puts batches together, in the order of the log.
type merger struct {
	*run
	counts
	logs     []LogSummary
	total    tally
	linked   linked
	devices  map[key]uint32 // the cell of each device's last registration
	examples [kindCount][]Change
	// examplesAt are the numbers of their items, and items is how many were merged.
	examplesAt [kindCount][]int64
	items      int64
	unread     []Problem
}

func newMerger(r *run, logs []requestlog.Log) *merger {
	m := &merger{run: r, linked: linked{}}
	for _, log := range logs {
		m.logs = append(m.logs, LogSummary{Name: log.Name})
	}
	if r.ByDevice {
		m.devices = map[key]uint32{}
	}
	return m
}

func (m *merger) merge(b *batch) error {
	m.logs[b.log].Lines += b.lines
	m.counts.addAll(&b.counts, m.items)
	if b.unread != nil {
		m.unread = append(m.unread, *b.unread)
	}
	m.linked.add(slices.Collect(maps.Keys(b.linked))...)
	if m.ByDevice {
		m.mergeDevices(b)
	} else {
		for i, c := range b.tally.cells {
			m.total.addBounded(c, b.tally.counts[i])
		}
	}
	for i, example := range b.examples {
		if kind := kindIndex(example.Kind); wantsExample(m.examples[kind], example.Kind, example.RegistrationID, m.Examples) {
			m.examples[kind] = append(m.examples[kind], example)
			m.examplesAt[kind] = append(m.examplesAt[kind], m.items+b.examplesAt[i])
			m.full[kind].Store(len(m.examples[kind]) == m.Examples)
		}
	}
	m.items += b.items
	if b.list.Len() > 0 {
		if _, err := m.List.Write(b.list.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) mergeDevices(b *batch) {
	places := make([]int, len(b.tally.cells))
	for i, c := range b.tally.cells {
		places[i] = m.total.addBounded(c, 0)
	}
	for _, e := range b.entries {
		if last, again := m.devices[e.device]; again {
			m.total.counts[last]--
		}
		m.devices[e.device] = uint32(places[e.cell])
		m.total.counts[places[e.cell]]++
	}
}

// wantsExample reports whether a device is to be one of the first examples of a kind, each of which is there once.
func wantsExample(examples []Change, kind Kind, registrationID string, limit int) bool {
	n := 0
	for _, e := range examples {
		if e.Kind == kind {
			if strings.EqualFold(e.RegistrationID, registrationID) {
				return false
			}
			n++
		}
	}
	return n < limit
}
