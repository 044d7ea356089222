package verify

import (
	"math"
	"math/rand/v2"
	"slices"
)

// plan says which requests of a space to try.
type plan struct {
	space *space
	// drafts are requests that were reached by paths, and mixtures of them. They are tried first.
	drafts []*draft
	// everything is set if the plan is to try all requests of the space. Otherwise choices lists them.
	everything bool
	choices    [][]int
	// stride is the step between requests if everything is set, so that a search that is interrupted has seen requests
	// of every kind.
	stride int
	// pairs is the number of pairs of values of any two dimensions, and paired how many of them are in choices.
	pairs, paired int
	random        int // choices at random
}

func (p *plan) size() int {
	if p.everything {
		return len(p.drafts) + p.space.size()
	}
	return len(p.drafts) + len(p.choices)
}

// request returns the request with this number, as often as it is called a new draft.
func (p *plan) request(number int) *draft {
	if number < len(p.drafts) {
		return p.drafts[number].clone()
	}
	number -= len(p.drafts)
	if p.everything {
		return p.space.draft(p.space.at(number * p.stride % p.space.size()))
	}
	return p.space.draft(p.choices[number])
}

// mixedShare is the share of the budget, in percent, for mixtures of requests that were reached by paths.
const mixedShare = 25

// planOf fits a space into a budget. The requests that were reached by paths come first. If the space is small, all of
// it follows; otherwise mixtures of those requests, every pair of values of any two dimensions, and random choices.
func planOf(s *space, paths *paths, budget int, random *rand.Rand) *plan {
	p := &plan{space: s}
	tried := map[[16]byte]bool{}
	isNew := func(d *draft) bool {
		key := d.key()
		known := tried[key]
		tried[key] = true
		return !known
	}
	for _, d := range slices.Concat(paths.real, paths.near) {
		if len(p.drafts) < budget/2 && isNew(d) {
			p.drafts = append(p.drafts, d)
		}
	}
	for _, one := range paths.corpus {
		if len(p.drafts) < budget/2 && isNew(one.draft) {
			p.drafts = append(p.drafts, one.draft)
		}
	}
	if size := s.size(); size <= budget && size < math.MaxInt32 {
		p.everything, p.stride = true, strideOf(size)
		return p
	}
	assigned := slices.DeleteFunc(slices.Clone(paths.corpus), func(one reached) bool { return !one.assigned })
	for n := range budget * mixedShare / 100 {
		from := paths.corpus
		if n%2 == 0 && len(assigned) > 0 {
			from = assigned
		}
		if d := s.mixed(from[random.IntN(len(from))].draft, paths.corpus, random); isNew(d) {
			p.drafts = append(p.drafts, d)
		}
	}
	pairs := newPairs(s)
	p.pairs = pairs.open
	for pairs.open > 0 && p.size() < budget {
		choice := pairs.next(random)
		if choice == nil {
			break
		}
		if isNew(s.draft(choice)) {
			p.choices = append(p.choices, choice)
		}
	}
	p.paired = p.pairs - pairs.open
	for range budget {
		if p.size() >= budget {
			break
		}
		if choice := s.random(random); isNew(s.draft(choice)) {
			p.choices = append(p.choices, choice)
			p.random++
		}
	}
	return p
}

// mixed returns a request with some parts of another one that was reached by a path, or of the space: two conditions
// that were met one at a time may break something together.
func (s *space) mixed(from *draft, corpus []reached, random *rand.Rand) *draft {
	d := from.clone()
	other := corpus[random.IntN(len(corpus))].draft
	for i := range s.dimensions {
		dimension := &s.dimensions[i]
		switch random.IntN(6) {
		case 0, 1:
			dimension.set(d, dimension.get(other))
		case 2:
			if dimension.name != payloadOrNone {
				dimension.set(d, dimension.values[random.IntN(len(dimension.values))])
			}
		}
	}
	return d
}

// strideOf returns a number that is coprime to size, at about its golden section.
func strideOf(size int) int {
	stride := max(size*618/1000, 1)
	for gcd(stride, size) != 1 {
		stride++
	}
	return stride
}

// gcd returns the greatest common divisor.
func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// pairs records which pairs of values are in a choice. The values of all dimensions are numbered consecutively.
type pairs struct {
	space     *space
	first     []int // number of the first value of each dimension
	dimension []int // of each value
	seen      [][]bool
	open      int // pairs that are in no choice yet
	// next looks for an open pair from here on.
	a, b int
}

func newPairs(s *space) *pairs {
	p := &pairs{space: s}
	for i, d := range s.dimensions {
		p.open += len(p.dimension) * len(d.values)
		p.first = append(p.first, len(p.dimension))
		for range d.values {
			p.dimension = append(p.dimension, i)
		}
	}
	p.seen = make([][]bool, len(p.dimension))
	for i := range p.seen {
		p.seen[i] = make([]bool, len(p.dimension))
	}
	p.leaveOutParts()
	return p
}

// leaveOutParts leaves out the pairs of a request without payload and a value of a member of the payload.
func (p *pairs) leaveOutParts() {
	i := slices.IndexFunc(p.space.dimensions, func(d dimension) bool { return d.name == payloadOrNone })
	if i < 0 {
		return
	}
	none := p.first[i] + 1
	for value, of := range p.dimension {
		if p.space.dimensions[of].part {
			p.seen[none][value] = true
			p.open--
		}
	}
}

// next returns a choice with the first open pair. In a random order of the other dimensions, it takes the values that
// close the most open pairs.
func (p *pairs) next(random *rand.Rand) []int {
	choice := make([]int, len(p.first))
	for i := range choice {
		choice[i] = -1
	}
	for ; p.a < len(p.seen); p.a, p.b = p.a+1, 0 {
		of := p.dimension[p.a]
		p.b = max(p.b, p.first[of]+len(p.space.dimensions[of].values))
		for p.b < len(p.seen) && p.seen[p.a][p.b] {
			p.b++
		}
		if p.b < len(p.seen) {
			break
		}
	}
	if p.a == len(p.seen) {
		return nil
	}
	for _, value := range []int{p.a, p.b} {
		of := p.dimension[value]
		choice[of] = value - p.first[of]
	}
	for _, i := range random.Perm(len(choice)) {
		if choice[i] >= 0 {
			continue
		}
		best, most := 0, -1
		values := len(p.space.dimensions[i].values)
		from := random.IntN(values)
		for n := range values {
			v := (from + n) % values
			if gain := p.gain(choice, i, v); gain > most {
				best, most = v, gain
			}
		}
		choice[i] = best
	}
	for i := range choice {
		for j := i + 1; j < len(choice); j++ {
			if a, b := p.first[i]+choice[i], p.first[j]+choice[j]; !p.seen[a][b] {
				p.seen[a][b] = true
				p.open--
			}
		}
	}
	return choice
}

// gain counts the open pairs that a value forms with the values that are already chosen.
func (p *pairs) gain(choice []int, dimension, value int) int {
	gain := 0
	for j, chosen := range choice {
		if chosen < 0 || j == dimension {
			continue
		}
		a, b := p.first[dimension]+value, p.first[j]+chosen
		if !p.seen[min(a, b)][max(a, b)] {
			gain++
		}
	}
	return gain
}
