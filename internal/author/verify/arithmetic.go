package verify

import (
	"encoding/json"
	"math/big"
	"strings"
)

// Limits of unwinding: how many functions one after the other, and how many wishes for one expression.
const (
	maxUnwound       = 4
	maxUnwoundWishes = 60
)

// unwound adds to wishes those for the operands of the arithmetic that gave what they are about.
func (s *solver) unwound(facts []fact, wishes []wish) []wish {
	all := wishes
	for range maxUnwound {
		var more []wish
		for _, w := range wishes {
			more = append(more, s.unwind(facts, w)...)
		}
		if room := max(maxUnwoundWishes-len(all), 0); len(more) > room {
			more = more[:room]
		}
		if len(more) == 0 {
			break
		}
		all, wishes = append(all, more...), more
	}
	return all
}

// unwind lists wishes for the operands of arithmetic that gave what a wish is about.
func (s *solver) unwind(facts []fact, w wish) []wish {
	want, ok := w.want.(json.Number)
	if !ok {
		return nil
	}
	wanted, ok := rational(want)
	if !ok {
		return nil
	}
	var list []wish
	for _, f := range facts {
		if !f.held || len(f.terms) < 3 {
			continue
		}
		values := make([]any, len(f.terms)-1)
		for i, term := range f.terms[1:] {
			values[i] = s.value(term)
		}
		result, isNumber := values[len(values)-1].(json.Number)
		if !isNumber || !same(result, w.got) {
			continue
		}
		operands := make([]*big.Rat, len(values)-1)
		for i, value := range values[:len(operands)] {
			number, _ := value.(json.Number)
			if operands[i], ok = rational(number); !ok {
				break
			}
		}
		if !ok {
			continue
		}
		for i, all := range inverted(f.terms[0].Value.String(), operands, wanted) {
			for _, needed := range all {
				if needed.Cmp(operands[i]) != 0 {
					list = append(list, wish{values[i], numberOf(needed), w.near})
				}
			}
		}
	}
	return list
}

// inverted lists what each operand may be, while the others stay, for an arithmetic function to give a result; nil if
// that is not known.
func inverted(function string, of []*big.Rat, wanted *big.Rat) [][]*big.Rat {
	if len(of) == 1 {
		switch function {
		case "floor", "ceil", "round", "abs":
			return [][]*big.Rat{{wanted}}
		}
		return nil
	}
	if len(of) != 2 {
		return nil
	}
	a, b := of[0], of[1]
	sum := func(x, y *big.Rat) []*big.Rat { return []*big.Rat{new(big.Rat).Add(x, y)} }
	difference := func(x, y *big.Rat) []*big.Rat { return []*big.Rat{new(big.Rat).Sub(x, y)} }
	quotient := func(x, y *big.Rat) []*big.Rat {
		if y.Sign() == 0 {
			return nil
		}
		return []*big.Rat{new(big.Rat).Quo(x, y)}
	}
	switch function {
	case "plus":
		return [][]*big.Rat{difference(wanted, b), difference(wanted, a)}
	case "minus":
		return [][]*big.Rat{sum(wanted, b), difference(a, wanted)}
	case "mul":
		return [][]*big.Rat{quotient(wanted, b), quotient(wanted, a)}
	case "div":
		return [][]*big.Rat{{new(big.Rat).Mul(wanted, b)}, quotient(a, wanted)}
	case "rem": // the numbers around the operand that have the remainder
		if b.Sign() == 0 || !a.IsInt() || !b.IsInt() {
			return nil
		}
		remainder := new(big.Rat).SetInt(new(big.Int).Rem(a.Num(), b.Num()))
		next := new(big.Rat).Add(new(big.Rat).Sub(a, remainder), wanted)
		return [][]*big.Rat{{next, new(big.Rat).Add(next, b), new(big.Rat).Sub(next, b)}}
	}
	return nil
}

// numberOf writes a number with at most three digits after the point.
func numberOf(r *big.Rat) json.Number {
	text := r.FloatString(3)
	return json.Number(strings.TrimSuffix(strings.TrimRight(text, "0"), "."))
}
