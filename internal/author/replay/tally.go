package replay

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/usher-dps/usher/dps"
)

// cell is what registrations are counted by: all that a report tells apart.
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
	// maxCells bounds the cells of a report, some 250 bytes each. A service has
	// at most 50 hubs and 200 groups, of which a change of rules concerns a part.
	maxCells = 100_000
	// Others stands for the enrollments and hubs beyond that.
	Others = "(others)"
)

// addBounded is add for a tally that a hostile log could swell.
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

const kindCount = 14

func kindIndex(k Kind) int { return slices.Index(allKinds[:], k) }

var allKinds = [kindCount]Kind(Kinds())

// flag is set once.
type flag struct{ value atomic.Bool }

func (f *flag) isSet() bool { return f.value.Load() }
func (f *flag) set()        { f.value.Store(true) }

// merger puts batches together, in the order of the log.
type merger struct {
	*run
	logs      []LogSummary
	total     tally
	devices   map[deviceKey]uint32 // the cell of each device's last registration
	examples  [kindCount][]Change
	malformed int64
	problems  []Problem
	unread    []Problem
	count     int64

	passedOver, lacking int64
	lackingFirst        []Problem
}

func newMerger(r *run, logs []Log) *merger {
	m := &merger{run: r}
	for _, log := range logs {
		m.logs = append(m.logs, LogSummary{Name: log.Name})
	}
	if r.ByDevice {
		m.devices = map[deviceKey]uint32{}
	}
	return m
}

func (m *merger) merge(b *batch) error {
	m.logs[b.log].Lines += b.lines
	m.count += b.registrations
	m.malformed += b.malformed
	m.problems = append(m.problems, b.problems[:min(len(b.problems), maxProblems-len(m.problems))]...)
	m.passedOver += b.passedOver
	m.lacking += b.lacking
	m.lackingFirst = append(m.lackingFirst, b.lackingFirst[:min(len(b.lackingFirst), maxProblems-len(m.lackingFirst))]...)
	if b.endErr != nil {
		place := b.name
		if b.first > 0 {
			place = b.place(b.first)
		}
		m.unread = append(m.unread, Problem{place, b.endErr.Error()})
	}
	if m.ByDevice {
		m.mergeDevices(b)
	} else {
		for i, c := range b.tally.cells {
			m.total.addBounded(c, b.tally.counts[i])
		}
	}
	for _, example := range b.examples {
		m.exemplify(example)
	}
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

// exemplify keeps the first devices of a kind, each once.
func (m *merger) exemplify(change Change) {
	kind := kindIndex(change.Kind)
	examples := m.examples[kind]
	if len(examples) >= m.Examples || exemplified(examples, change.Kind, change.RegistrationID) {
		return
	}
	m.examples[kind] = append(examples, change)
	if len(m.examples[kind]) == m.Examples {
		m.full[kind].set()
	}
}

// exemplified reports whether a device is among the examples of a kind.
func exemplified(examples []Change, kind Kind, registrationID string) bool {
	return slices.ContainsFunc(examples, func(c Change) bool {
		return c.Kind == kind && strings.EqualFold(c.RegistrationID, registrationID)
	})
}

// sortedByCount sorts counted things, the largest first, equal ones by name.
func sortedByCount[T any](list []T, count func(T) int64, name func(T) string) []T {
	slices.SortFunc(list, func(a, b T) int {
		return cmp.Or(cmp.Compare(count(b), count(a)), cmp.Compare(name(a), name(b)))
	})
	return list
}
