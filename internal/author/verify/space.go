package verify

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
)

// space is all requests that a rule can be tried with: the product of its dimensions.
type space struct {
	dimensions []dimension
	notes      []string
}

// dimension is one aspect of a request and its values.
type dimension struct {
	name   string
	values []any
	set    func(*draft, any)
	get    func(*draft) any
	single string // why there is only one value; "" if there are more
	// The first fixed values are never thinned out. The next are words: constants of the rule, as many as there is room
	// for. The others stay only if they get other answers.
	fixed, words int
	// part is set for a member of the payload, which makes no difference if there is no payload.
	part bool
	// row is set for the rows of a look-up, and members of them.
	row bool
}

// dimensionOf returns a dimension of values of one type. All values are fixed.
func dimensionOf[T any](name string, values []T, set func(*draft, T), get func(*draft) T) dimension {
	d := dimension{name: name, fixed: len(values),
		set: func(d *draft, value any) {
			v, _ := value.(T) // T may be any, and the value nil
			set(d, v)
		},
		get: func(d *draft) any { return get(d) },
	}
	for _, value := range values {
		d.values = append(d.values, value)
	}
	return d
}

// unread says why a dimension has only one value, if it has.
func (d dimension) unread() dimension {
	if len(d.values) == 1 {
		d.single = notRead
	}
	return d
}

func (s *space) add(d dimension) { s.dimensions = append(s.dimensions, d) }

// payloadOrNone is the name of the dimension whose second value is a request without payload.
const payloadOrNone = "payload or none"

func (s *space) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// sample returns at most n elements of the list, evenly chosen, and notes how many there were.
func sample[T any](s *space, list []T, n int, what string) []T {
	if len(list) > n {
		s.note("%d of %d %s", n, len(list), what)
	}
	return spread(list, n)
}

// spread chooses n elements evenly, including the first.
func spread[T any](list []T, n int) []T {
	if len(list) <= n {
		return list
	}
	chosen := make([]T, n)
	for i := range chosen {
		chosen[i] = list[i*len(list)/n]
	}
	return chosen
}

// addNew appends the elements that the list does not contain yet.
func addNew[T comparable](list []T, more ...T) []T {
	for _, one := range more {
		if !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	return list
}

// size returns the number of requests in the space, at most MaxInt.
func (s *space) size() int {
	size := 1
	for _, d := range s.dimensions {
		if size > math.MaxInt/len(d.values) {
			return math.MaxInt
		}
		size *= len(d.values)
	}
	return size
}

// draft returns the request with the chosen value of each dimension.
func (s *space) draft(choice []int) *draft {
	d := &draft{record: map[string]any{}, payload: map[string]any{}}
	for i, dimension := range s.dimensions {
		dimension.set(d, dimension.values[choice[i]])
	}
	return d
}

// learn adds the values that a draft has to the dimensions, as values that stay.
func (s *space) learn(d *draft) {
	for i := range s.dimensions {
		dimension := &s.dimensions[i]
		value := dimension.get(d)
		if len(dimension.values) == 1 && dimension.single != "" || dimension.fixed >= maxValues || contains(dimension.values[:dimension.fixed], value) {
			continue
		}
		fixed, rest := dimension.values[:dimension.fixed], dimension.values[dimension.fixed:]
		if i := slices.IndexFunc(rest, func(other any) bool { return reflect.DeepEqual(other, value) }); i >= 0 {
			rest = slices.Delete(slices.Clone(rest), i, i+1)
			if i < dimension.words {
				dimension.words--
			}
		}
		dimension.values = slices.Concat(fixed, []any{value}, rest)
		dimension.fixed++
	}
}

func contains(list []any, value any) bool {
	return slices.ContainsFunc(list, func(other any) bool { return reflect.DeepEqual(other, value) })
}

// at returns the choice with the given number in the order of all choices.
func (s *space) at(number int) []int {
	choice := make([]int, len(s.dimensions))
	for i := len(choice) - 1; i >= 0; i-- {
		n := len(s.dimensions[i].values)
		choice[i] = number % n
		number /= n
	}
	return choice
}

// random returns a random choice. A request without payload is rare among them, because it has no members to vary.
func (s *space) random(random *rand.Rand) []int {
	const rare = 16
	choice := make([]int, len(s.dimensions))
	for i, d := range s.dimensions {
		if choice[i] = random.IntN(len(d.values)); d.name == payloadOrNone && random.IntN(rare) > 0 {
			choice[i] = 0
		}
	}
	return choice
}
