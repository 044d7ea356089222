package verify

import (
	"math"
	"math/rand/v2"
)

// plan says which requests of a space are asked.
type plan struct {
	space *space
	// everything is set if all of them are; else choices lists them.
	everything bool
	choices    [][]int
	// stride goes through everything in leaps, so that a search that is ended
	// early has seen something of each kind.
	stride int
	// pairs of values of any two dimensions: how many there are, and how many
	// the choices hold.
	pairs, paired int
	byChance      int
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

// planOf fits a space into a budget: all of it, or first every pair of values of
// any two dimensions, as far as that goes, and then by chance.
func planOf(s *space, budget int, chance *rand.Rand) *plan {
	p := &plan{space: s}
	if size := s.size(); size <= budget && size < math.MaxInt32 {
		p.everything, p.stride = true, strideOf(size)
		return p
	}
	pairs := newPairs(s)
	p.pairs = pairs.open
	for pairs.open > 0 && len(p.choices) < budget {
		choice := pairs.next(chance)
		if choice == nil {
			break
		}
		p.choices = append(p.choices, choice)
	}
	p.paired = p.pairs - pairs.open
	for len(p.choices) < budget {
		p.choices = append(p.choices, s.random(chance))
		p.byChance++
	}
	return p
}

// strideOf returns a number without a common divisor with size, about the golden
// section of it.
func strideOf(size int) int {
	stride := max(size*618/1000, 1)
	for divisor(stride, size) != 1 {
		stride++
	}
	return stride
}

// divisor returns the greatest common divisor.
func divisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// pairs keeps which pairs of values have not been asked together.
type pairs struct {
	space *space
	first []int // number of the first value of each dimension
	seen  [][]bool
	open  int
	// next looks for an open pair from here on.
	a, b int
}

func newPairs(s *space) *pairs {
	p := &pairs{space: s}
	total := 0
	for _, d := range s.dimensions {
		p.first = append(p.first, total)
		total += len(d.values)
	}
	p.seen = make([][]bool, total)
	for i := range p.seen {
		p.seen[i] = make([]bool, total)
	}
	for i, a := range s.dimensions {
		for _, b := range s.dimensions[i+1:] {
			p.open += len(a.values) * len(b.values)
		}
	}
	return p
}

// dimensionOf returns the dimension that a numbered value belongs to.
func (p *pairs) dimensionOf(value int) int {
	for i := len(p.first) - 1; ; i-- {
		if p.first[i] <= value {
			return i
		}
	}
}

// next makes a choice that holds the first open pair and, dimension by dimension
// in an order of chance, the values that close the most others.
func (p *pairs) next(chance *rand.Rand) []int {
	choice := make([]int, len(p.first))
	for i := range choice {
		choice[i] = -1
	}
	for ; p.a < len(p.seen); p.a, p.b = p.a+1, 0 {
		of := p.dimensionOf(p.a)
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
		of := p.dimensionOf(value)
		choice[of] = value - p.first[of]
	}
	for _, i := range chance.Perm(len(choice)) {
		if choice[i] >= 0 {
			continue
		}
		best, most := 0, -1
		values := len(p.space.dimensions[i].values)
		from := chance.IntN(values)
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

// gain counts the open pairs that a value makes with those chosen already.
func (p *pairs) gain(choice []int, dimension, value int) int {
	gain := 0
	for j, chosen := range choice {
		if chosen < 0 || j == dimension {
			continue
		}
		a, b := p.first[dimension]+value, p.first[j]+chosen
		if j < dimension {
			a, b = b, a
		}
		if !p.seen[a][b] {
			gain++
		}
	}
	return gain
}
