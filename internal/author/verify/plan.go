package verify

import (
	"math"
	"math/rand/v2"
)

// plan says which requests of a space to try.
type plan struct {
	space *space
	// everything is set if the plan is to try all requests. Otherwise choices lists them.
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
		return p.space.size()
	}
	return len(p.choices)
}

func (p *plan) choice(number int) []int {
	if p.everything {
		return p.space.at(number * p.stride % p.space.size())
	}
	return p.choices[number]
}

// planOf fits a space into a budget: all of it or, if it is too large, first every pair of values of any two dimensions
// and then random choices.
func planOf(s *space, budget int, random *rand.Rand) *plan {
	p := &plan{space: s}
	if size := s.size(); size <= budget && size < math.MaxInt32 {
		p.everything, p.stride = true, strideOf(size)
		return p
	}
	pairs := newPairs(s)
	p.pairs = pairs.open
	for pairs.open > 0 && len(p.choices) < budget {
		choice := pairs.next(random)
		if choice == nil {
			break
		}
		p.choices = append(p.choices, choice)
	}
	p.paired = p.pairs - pairs.open
	for len(p.choices) < budget {
		p.choices = append(p.choices, s.random(random))
		p.random++
	}
	return p
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
	return p
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
