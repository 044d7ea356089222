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

// Account counts what one evaluation makes, whatever evaluates it.
type Account struct {
	most   int64   // 0 means no bound
	budget *Budget // may be nil
	bytes  int64
	// reserved is how many bytes may be made before the limits are looked at again, taken how many are of the budget.
	reserved, taken int64
}

// NewAccount returns the account of an evaluation that may make some bytes, which it takes from a budget, unless that is
// nil. It must be closed.
func NewAccount(most int64, budget *Budget) *Account { return &Account{most: most, budget: budget} }

// Close returns to the budget what the evaluation took of it.
func (a *Account) Close() {
	if a.taken > 0 {
		a.budget.taken.Add(-a.taken)
		a.taken = 0
	}
}

// Made counts what a function returned.
func (a *Account) Made(result ast.Value, at *ast.Location) *LimitError {
	if a.bytes += int64(size(result)); a.bytes > a.reserved {
		return a.reserve(0, at)
	}
	return nil
}

// Allows returns an error if a function would make more of its operands than is left. Once it runs, nobody can stop it.
func (a *Account) Allows(function string, operands []*ast.Term, at *ast.Location) *LimitError {
	estimate := expanding[function]
	if estimate == nil || a.most <= 0 {
		return nil
	}
	return a.reserve(estimate(operands, a.most-a.bytes), at)
}

// AllowsText returns an error if a value has more text than may still be made.
func (a *Account) AllowsText(v ast.Value) *LimitError {
	if a.most <= 0 {
		return nil
	}
	return a.reserve(measure(v, a.most-a.bytes), &noPlace)
}

// reserve makes sure that an evaluation may make, besides what it has made, some bytes more.
func (a *Account) reserve(more int64, at *ast.Location) *LimitError {
	needed := a.bytes + more
	if a.most > 0 && needed > a.most {
		return &LimitError{What: Bytes, Limit: a.most, Place: placeOf(at)}
	}
	for a.budget != nil && needed > share+a.taken {
		if a.budget.taken.Add(share) > a.budget.limit {
			a.budget.taken.Add(-share)
			return &LimitError{What: Bytes, Limit: a.budget.limit, Together: true, Place: placeOf(at)}
		}
		a.taken += share
	}
	if a.reserved = share + a.taken; a.budget == nil {
		a.reserved = needed + share
	}
	if a.most > 0 {
		a.reserved = min(a.reserved, a.most)
	}
	return nil
}

// made counts what was made at a place.
func (m *machine) made(bytes int, at *ast.Location) jump {
	if m.account.bytes += int64(bytes); m.account.bytes > m.account.reserved {
		return m.within(m.account.reserve(0, at))
	}
	return next
}

// within ends the evaluation if it exceeded a limit.
func (m *machine) within(exceeded *LimitError) jump {
	if exceeded != nil {
		m.err = exceeded
		return halted
	}
	return next
}

func placeOf(at *ast.Location) string {
	if at == nil || at.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", at.File, at.Row)
}

// Expands reports whether a function can make much more than it gets.
func Expands(function string) bool { return expanding[function] != nil }

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
	"bits.lsh":                  ofShift,
	"json.marshal":              ofText,
	"json.marshal_with_options": ofText,
	"yaml.marshal":              ofText,
	"strings.render_template":   ofText,
	"internal.template_string":  ofText,
	"json.filter":               ofText,
	"json.remove":               ofText,
	"json.patch":                ofText,
	"json.match_schema":         ofText,
	"json.verify_schema":        ofText,
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

// ofShift counts the digits of a number that is shifted, as ofProduct does.
func ofShift(operands []*ast.Term, _ int64) int64 {
	return bounded(256 * 0.3 * float(operands[1]))
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
	switch v := v.(type) {
	case ast.String:
		return 4 + int64(len(v))
	case ast.Number:
		return 4 + int64(len(v))
	case *ast.Array, ast.Set, ast.Object:
		return 4 + measureInside(v, limit-4)
	}
	return 4
}

func measureInside(v ast.Value, limit int64) int64 {
	size := int64(0)
	inside := func(term *ast.Term) bool {
		size += measure(term.Value, limit-size)
		return size > limit
	}
	switch v := v.(type) {
	case *ast.Array:
		v.Until(inside)
	case ast.Set:
		v.Until(inside)
	case ast.Object:
		v.Until(func(key, member *ast.Term) bool { return inside(key) || inside(member) })
	}
	return size
}
