package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
)

// Limits of the search by paths.
const (
	// maxReached is how many requests are kept because they reached something.
	maxReached = 250
	// maxTries is how often the same wish is tried, from different requests, while a side of an expression that these
	// requests come close to is not reached.
	maxTries = 2
	// maxCloser is how many requests that reached nothing new are taken up for an expression of which one side is not
	// reached, in case they are closer to it.
	maxCloser = 24
	// maxNear is how many requests next to where an order turns are tried in any case.
	maxNear = 60
	// maxReal is how many real requests the search starts from, evenly chosen.
	maxReal = 200
	// pathShare is the share of the budget, in percent, that the search by paths may use before the others.
	pathShare = 30
)

// evaluated is what the evaluation of one request showed.
type evaluated struct {
	facts []fact
	// solve lists the wishes for the facts, and the hubs for which the rule looked.
	solve    func(facts []fact) ([]wishOf, clues)
	answer   string
	assigned bool
	asked    []Row // what was looked up
}

// wishOf is a wish for one side of an expression.
type wishOf struct {
	met
	wish
	home bool // the expression is in the rule's own files or its invariants
}

// reached is a request that reached something new.
type reached struct {
	draft *draft
	evaluated
	// side is set if an expression went a way that it had not gone before. Otherwise only the combination was new.
	side bool
}

// paths is a search that the rule drives: from a request it takes the expressions that were evaluated, changes the
// request so that one of them goes the other way, and keeps what reaches something new.
type paths struct {
	*explorer
	space  *space
	real   []*draft // requests that were really made
	near   []*draft // requests next to where an order turns
	corpus []reached
	// closer are requests that reached nothing new, with the facts of which the other side is not reached.
	closer []reached
	seen   map[met]bool
	sides  sides
	trails map[string]bool // which sides a request met, and the answer
	asked  map[[16]byte]bool
	tries  map[attempt]int
	taken  map[met]int // of closer
	hubs   []string    // for which the rule looked
	left   int         // requests of the budget
}

// attempt is a wish for one side of an expression that was tried on the way to a goal, which is another.
type attempt struct {
	goal, met met
	want      string
}

// search starts from one request for each value of each dimension.
func (e *explorer) search(s *space) *paths {
	p := &paths{explorer: e, space: s, seen: map[met]bool{}, sides: sides{}, trails: map[string]bool{}, asked: map[[16]byte]bool{}, tries: map[attempt]int{}, taken: map[met]int{},
		left: e.options.Budget*pathShare/100 + minPaths}
	candidates := e.candidates()
	choice := make([]int, len(s.dimensions))
	start := func() *draft {
		d := s.draft(choice)
		d.hubs = slices.Clone(candidates)
		return d
	}
	p.startFromReal(e.options.Requests)
	p.try(start())
	for _, hub := range candidates[:min(len(candidates), maxRecordValues)] {
		d := start()
		d.current = hub
		p.try(d)
		d = start()
		d.hubs = []string{hub}
		p.try(d)
	}
	for i, dimension := range s.dimensions {
		for n := range dimension.values {
			choice[i] = n
			p.try(start())
		}
		choice[i] = 0
	}
	for i := 0; p.left > 0 && (i < len(p.corpus) || len(p.closer) > 0); {
		if i < len(p.corpus) {
			p.expand(p.corpus[i])
			i++
			continue
		}
		one := p.closer[0]
		p.closer = p.closer[1:]
		p.expand(one)
	}
	// What is left may get there by chance.
	for p.left > 0 && len(p.corpus) < maxReached && len(p.branches.report(p.sides).Missed) > 0 {
		p.left--
		d := s.mixed(p.corpus[e.random.IntN(len(p.corpus))].draft, p.corpus, e.random)
		d.hubs, d.current = e.some(candidates), e.some(append(candidates, ""))[0]
		p.try(d)
	}
	return p
}

// minPaths is the least number of requests for the search by paths.
const minPaths = 300

// serves reports whether an enrollment is one of the rule's.
func (e *explorer) serves(kind dps.EnrollmentKind, id string) bool {
	return e.set.Serving(dps.Enrollment{Kind: kind, ID: id}) == e.rule
}

// try evaluates a request, unless it did before, and keeps it if it reached something new.
func (p *paths) try(d *draft) {
	key := d.key()
	if p.left <= 0 || p.asked[key] || len(p.corpus) >= maxReached {
		return
	}
	p.asked[key] = true
	p.left--
	found := p.follow(d)
	one := reached{draft: d, evaluated: found}
	var trail strings.Builder
	for _, f := range found.facts {
		side := f.met()
		one.side = one.side || !p.seen[side]
		p.seen[side] = true
		if branch, ok := p.branches.of[f.expr]; ok && (!f.held || p.branches.main[f.expr]) {
			p.sides[sideOf(branch, f.held)] = true
			fmt.Fprintf(&trail, "%d%t ", branch, f.held)
		}
	}
	trail.WriteString(found.answer)
	if one.side || !p.trails[trail.String()] && len(p.corpus) < maxReached/2 {
		p.corpus = append(p.corpus, one)
	} else if p.takeUp(&one); len(one.facts) > 0 {
		p.closer = append(p.closer, one)
	}
	p.trails[trail.String()] = true
}

// takeUp reduces the facts of a request to those of which the other side is not reached.
func (p *paths) takeUp(one *reached) {
	one.facts = slices.DeleteFunc(one.facts, func(f fact) bool {
		side := f.met()
		if p.seen[side.other()] || p.taken[side] >= maxCloser {
			return true
		}
		p.taken[side]++
		return false
	})
}

// teach gives a space the values by which an expression first went another way.
func (p *paths) teach(s *space) {
	for _, one := range p.corpus {
		if one.side {
			s.learn(one.draft)
		}
	}
}

// expand tries the requests that differ from one that was reached in one part, so that an expression goes the other
// way.
func (p *paths) expand(from reached) {
	wishes, clues := from.solve(from.facts)
	for _, hub := range clues.hubs {
		if from.draft.rows.name(hub) && !containsHub(p.hubsInRows(), hub) {
			continue // one of the many names that the search tries in rows
		}
		if !containsHub(p.hubs, hub) {
			p.hubs = append(p.hubs, hub)
		}
		p.tryHub(from.draft, hub)
	}
	if from.side {
		p.addMissing(from.draft)
		p.tryHub(from.draft, otherHub)
		p.tryRows(from.draft, from.asked)
	}
	leaves := append(from.draft.leaves(p.serves), p.rowLeaves(from.draft, from.asked)...)
	goals := p.goals(from.facts)
	for _, w := range wishes {
		if !p.isWorth(w, goals) {
			continue
		}
		for _, leaf := range leaves {
			for _, value := range inverses(leaf.value, w.wish, clues) {
				d := from.draft.clone()
				if leaf.set(d, clone(value)) {
					p.try(d)
					if w.near && len(p.near) < maxNear {
						p.near = append(p.near, d)
					}
				}
			}
		}
	}
}

// goals lists the sides that are not reached of the expressions that a request got to, outside the library.
func (p *paths) goals(facts []fact) []met {
	var list []met
	for _, f := range facts {
		if goal := f.met().other(); !p.seen[goal] && !slices.Contains(list, goal) && p.isHome(f.expr) {
			list = append(list, goal)
		}
	}
	return list
}

// isWorth reports whether to try a wish: its own expression has not gone the other way, or the wish may help towards a
// goal for which it was not tried often. A wish in the rule itself is tried once in any case, since it may be near to
// where an expression turns.
func (p *paths) isWorth(w wishOf, goals []met) bool {
	worth := !p.seen[w.other()]
	want := fmt.Sprintf("%#v", w.want)
	for _, goal := range append(goals, met{}) {
		key := attempt{goal, w.met, want}
		if n := p.tries[key]; goal != (met{}) && n < maxTries || goal == (met{}) && n == 0 && w.home {
			worth = true
		}
		p.tries[key]++
	}
	return worth
}

// addMissing tries a request with each member that the rule reads and the request lacks, by values of several types.
func (p *paths) addMissing(from *draft) {
	for _, dimension := range p.space.dimensions {
		if dimension.get(from) != any(removed{}) {
			continue
		}
		for _, value := range dimension.values[1:min(len(dimension.values), 1+maxRecordValues)] {
			d := from.clone()
			if d.payload == nil && !dimension.row {
				d.payload = map[string]any{}
			}
			dimension.set(d, value)
			p.try(d)
		}
	}
}

// tryHub links a hub and puts the device on it, links it alone, and unlinks it.
func (p *paths) tryHub(from *draft, hub string) {
	without := slices.DeleteFunc(slices.Clone(from.hubs), func(other string) bool { return dps.SameHub(other, hub) })
	for _, hubs := range [][]string{append(slices.Clip(without), hub), {hub}, without} {
		for _, current := range []string{from.current, hub} {
			if d := from.clone(); len(hubs) > 0 {
				d.hubs, d.current = hubs, current
				p.try(d)
			}
		}
	}
}
