package plan

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Quantity is what a limit counts.
type Quantity string

// What is bounded.
const (
	Steps Quantity = "steps"
	Bytes Quantity = "bytes"
)

// LimitError is why an evaluation ended before its time: it did or made too much.
type LimitError struct {
	What  Quantity
	Limit int64
	// Together is set if it is the limit of a [Budget].
	Together bool
	Place    string // file:line
}

func (e *LimitError) Error() string {
	if e.Together {
		return fmt.Sprintf("the rules that ran at the same time made values of more than %s", inBytes(e.Limit))
	}
	if e.What == Bytes {
		return fmt.Sprintf("the rule made values of more than %s", inBytes(e.Limit))
	}
	return fmt.Sprintf("the rule took more than %d steps", e.Limit)
}

func inBytes(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

// What a collection takes, in bytes, roughly.
const (
	arrayBytes   = 64
	objectBytes  = 128
	valueBytes   = 16
	elementBytes = 96
	termBytes    = 48
)

// noPlace is that of what comes after the last statement.
var noPlace ast.Location

// Budget is how much evaluations that run at the same time may make together. It is safe for concurrent use.
type Budget struct {
	limit int64
	taken atomic.Int64
}

// NewBudget returns a budget of some bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// share is what an evaluation takes of a budget at a time. Nearly all of them make less, and take nothing.
const share = 1 << 20

// made counts what was made at a place.
func (m *machine) made(bytes int, at *ast.Location) jump {
	if m.bytes += int64(bytes); m.bytes > m.reserved && !m.reserve(0, at) {
		return halted
	}
	return next
}

// reserve makes sure that an evaluation may make, besides what it has made, some bytes more.
func (m *machine) reserve(more int64, at *ast.Location) bool {
	needed, most, budget := m.bytes+more, m.options.MaxBytes, m.options.Budget
	if most > 0 && needed > most {
		m.err = &LimitError{What: Bytes, Limit: most, Place: placeOf(at)}
		return false
	}
	for budget != nil && needed > share+m.taken {
		if budget.taken.Add(share) > budget.limit {
			budget.taken.Add(-share)
			m.err = &LimitError{What: Bytes, Limit: budget.limit, Together: true, Place: placeOf(at)}
			return false
		}
		m.taken += share
	}
	if m.reserved = share + m.taken; budget == nil {
		m.reserved = needed + share
	}
	if most > 0 {
		m.reserved = min(m.reserved, most)
	}
	return true
}

// giveBack returns to the budget what the evaluation took of it.
func (m *machine) giveBack() {
	if m.taken > 0 {
		m.options.Budget.taken.Add(-m.taken)
		m.taken = 0
	}
}

func placeOf(at *ast.Location) string {
	if at.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", at.File, at.Row)
}

// allows reports whether a function may be called that makes much more than it gets. Once it runs, nobody can stop it.
func (m *machine) allows(function string, operands []*ast.Term, at *ast.Location) bool {
	estimate := expanding[function]
	if estimate == nil || m.options.MaxBytes <= 0 {
		return true
	}
	return m.reserve(estimate(operands, m.options.MaxBytes-m.bytes), at)
}

// expanding are the functions that can make much more than they get, with an estimate of how many bytes that is. It need
// not be exact beyond a limit.
var expanding = map[string]func(operands []*ast.Term, limit int64) int64{
	"numbers.range":             ofRange,
	"numbers.range_step":        ofRange,
	"concat":                    ofConcat,
	"replace":                   ofReplace,
	"strings.replace_n":         ofReplaceN,
	"regex.replace":             ofRegexReplace,
	"mul":                       ofProduct,
	"product":                   ofProduct,
	"sprintf":                   ofSprintf,
	"split":                     ofSplit,
	"net.cidr_expand":           ofCIDR,
	"json.marshal":              ofText,
	"json.marshal_with_options": ofText,
	"yaml.marshal":              ofText,
	"strings.render_template":   ofText,
}

func ofRange(operands []*ast.Term, _ int64) int64 {
	from, to, step := float(operands[0]), float(operands[1]), 1.0
	if len(operands) > 2 {
		step = math.Max(float(operands[2]), 1)
	}
	return bounded(math.Abs(to-from) / step * termBytes)
}

func float(term *ast.Term) float64 {
	n, _ := term.Value.(ast.Number)
	f, _ := n.Float64()
	return f
}

// bounded is a number of bytes, which may be beyond all limits.
func bounded(n float64) int64 {
	if n > 1<<50 {
		return 1 << 50
	}
	return int64(n)
}

func str(term *ast.Term) string {
	s, _ := term.Value.(ast.String)
	return string(s)
}

func ofConcat(operands []*ast.Term, limit int64) int64 {
	size := int64(0)
	add := func(element *ast.Term) bool {
		size += int64(len(str(element)) + len(str(operands[0])))
		return size > limit
	}
	switch list := operands[1].Value.(type) {
	case *ast.Array:
		list.Until(add)
	case ast.Set:
		list.Until(add)
	}
	return size
}

func ofReplace(operands []*ast.Term, _ int64) int64 {
	s := str(operands[0])
	return int64(len(s)) + int64(strings.Count(s, str(operands[1])))*int64(len(str(operands[2])))
}

func ofReplaceN(operands []*ast.Term, _ int64) int64 {
	longest := 1
	if patterns, ok := operands[0].Value.(ast.Object); ok {
		patterns.Foreach(func(_, with *ast.Term) { longest = max(longest, len(str(with))) })
	}
	return int64(len(str(operands[1]))+1) * int64(longest)
}

func ofRegexReplace(operands []*ast.Term, _ int64) int64 {
	s, with := str(operands[0]), str(operands[2])
	return int64(len(s)+1) * int64(len(with)+1)
}

// ofProduct counts digits, many times over, because numbers are read and written for each operation.
func ofProduct(operands []*ast.Term, limit int64) int64 {
	return 256 * ofText(operands, limit)
}

// ofSprintf adds up the widths and precisions in the format, and the arguments.
func ofSprintf(operands []*ast.Term, limit int64) int64 {
	size := measure(operands[1].Value, limit)
	width := int64(0)
	for _, r := range str(operands[0]) {
		if r < '0' || r > '9' {
			size, width = size+width, 0
			continue
		}
		width = min(10*width+int64(r-'0'), 1<<40)
	}
	return size + width + int64(len(str(operands[0])))
}

func ofSplit(operands []*ast.Term, _ int64) int64 {
	return int64(strings.Count(str(operands[0]), str(operands[1]))+1) * termBytes
}

func ofCIDR(operands []*ast.Term, _ int64) int64 {
	prefix, err := netip.ParsePrefix(str(operands[0]))
	if err != nil {
		return 0
	}
	return bounded(math.Exp2(float64(prefix.Addr().BitLen()-prefix.Bits())) * 2 * termBytes)
}

func ofText(operands []*ast.Term, limit int64) int64 {
	size := int64(0)
	for _, operand := range operands {
		size += measure(operand.Value, limit-size)
	}
	return size
}

// measure is about how many bytes a value has as text. What occurs several times counts several times; beyond the limit
// it counts no further.
func measure(v ast.Value, limit int64) int64 {
	size := int64(4)
	inside := func(term *ast.Term) bool {
		size += measure(term.Value, limit-size)
		return size > limit
	}
	switch v := v.(type) {
	case ast.String:
		size += int64(len(v))
	case ast.Number:
		size += int64(len(v))
	case *ast.Array:
		v.Until(inside)
	case ast.Set:
		v.Until(inside)
	case ast.Object:
		v.Until(func(key, member *ast.Term) bool { return inside(key) || inside(member) })
	}
	return size
}
