package dataflow

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Use is a place where a rule compares values, or calls a function with them.
type Use struct {
	// Name is the function or operator, such as gte or regex.match; equal for any comparison for equality, lookup for
	// container[key], every for every, and lookup.NAME for a look-up, whose arguments are the key and the row.
	Name string
	Args []Alternatives
	// Location is the place in the rule's own files.
	Location *ast.Location
	// Plain is set if an entry rule can hold because the use is true, Negated if because it is not true.
	Plain, Negated bool

	number  int      // in the order of the analysis
	sources []Source // of its arguments
	known   []fact   // of each of them
}

// Untyped are the parts of the request, among the arguments, whose type neither the schema nor the rule guarantees.
func (u Use) Untyped() []Source {
	var found []Source
	for _, arg := range u.Args {
		for _, v := range arg {
			if v.Kind != Unknown || v.scalar() != 0 {
				continue
			}
			for _, s := range v.Sources {
				if s.isFree() && !s.checked && !(s.known | u.factsOf(s)).isTyped() {
					found = append(found, s)
				}
			}
		}
	}
	return found
}

// MayBeEmpty are the lists in the payload, in a twin or in a certificate that the collection of an every is made of, and
// that the rule did not find to have an element.
func (u Use) MayBeEmpty() []Source {
	hasElement := func(s Source) bool { return (s.known|u.factsOf(s))&notEmpty != 0 }
	return slices.DeleteFunc(sourcesOf(u.Args[0]), func(s Source) bool {
		return !s.isList() || hasElement(s) || slices.ContainsFunc(sourcesOf(u.Args[1]), func(in Source) bool {
			return hasElement(in) && s.coveredBy(in.key())
		})
	})
}

// listed are the collections of the request whose elements a rule put into lists, as in [x.y | some x in collection].
func listed(in Alternatives) Alternatives {
	var out Alternatives
	for _, s := range sourcesOf(slices.DeleteFunc(slices.Clone(in), func(v Value) bool { return v.Kind != List })) {
		if i := strings.LastIndex(s.Pointer, "/"+AnyMember); i >= 0 && s.made == "" {
			out = append(out, Value{Sources: []Source{{Pointer: s.Pointer[:i]}}})
		}
	}
	return out
}

func (u Use) factsOf(s Source) fact {
	for i, other := range u.sources {
		if other.key() == s.key() {
			return u.known[i]
		}
	}
	return 0
}

// uses are those in a body or a rule, with what is known there.
type uses map[*Use]context

// context is where a use is.
type context struct {
	plain, negated bool
	known          []fact // of each source
}

// maxUses bounds how many uses are kept.
const maxUses = 1000

// use notes the use of a function or operator.
func (f *flow) use(name string, args ...Alternatives) {
	if f.noted >= maxUses || f.anchor == nil || !isNotable(name, args) {
		return
	}
	f.noted++
	u := &Use{Name: name, Args: slices.Clone(args), Location: f.anchor, number: f.noted}
	for _, arg := range args {
		u.sources = addSources(u.sources, sourcesOf(arg)...)
	}
	f.uses[u] = context{plain: true, known: make([]fact, len(u.sources))}
}

// add adds uses of a part. What is known of a source is what is known in all contexts.
func (u uses) add(part uses, negated bool) {
	for use, in := range part {
		if negated {
			in.plain, in.negated = in.negated, in.plain
		}
		if before, ok := u[use]; ok {
			in.plain, in.negated = in.plain || before.plain, in.negated || before.negated
			in.known = slices.Clone(in.known)
			for i := range in.known {
				in.known[i] &= before.known[i]
			}
		}
		u[use] = in
	}
}

// know adds what a body found out.
func (u uses) know(known facts) {
	if len(known) == 0 {
		return
	}
	for use, in := range u {
		in.known = slices.Clone(in.known)
		for i, s := range use.sources {
			in.known[i] |= known.of(s)
		}
		u[use] = in
	}
}

// list is the uses in the order of the analysis.
func (u uses) list() []Use {
	list := make([]Use, 0, len(u))
	for use, in := range maps.All(u) {
		found := *use
		found.Plain, found.Negated, found.known = in.plain, in.negated, in.known
		list = append(list, found)
	}
	slices.SortFunc(list, func(a, b Use) int { return cmp.Compare(a.number, b.number) })
	return list
}

func isNotable(name string, args []Alternatives) bool {
	if _, isLookup := ruleset.LookupName(name); isLookup {
		return true
	}
	switch name {
	case "gt", "gte", "lt", "lte", "internal.member_2", "regex.match", "sprintf", "usher.choose", "usher.fraction", "every":
		return true
	case "equal", "neq", "lookup", "minus", "and":
		ofHub := func(v Value) bool { return v.IsHostName() || v.IsHostLabel() }
		return slices.ContainsFunc(args, func(in Alternatives) bool {
			return slices.ContainsFunc(in, func(v Value) bool { return ofHub(v) || slices.ContainsFunc(v.Rest, ofHub) })
		})
	}
	return false
}

// emptyIn are the variables of a body that must be empty for it to hold, as in count(found) == 0: what is found must not
// be so.
func emptyIn(body ast.Body) map[ast.Var]bool {
	counts := map[ast.Var]ast.Var{}
	empty := map[ast.Var]bool{}
	for _, expr := range body {
		t, ok := expr.Terms.([]*ast.Term)
		if !ok || len(t) != 3 {
			continue
		}
		left, isVar := t[1].Value.(ast.Var)
		switch right, _ := t[2].Value.(ast.Var); {
		case !isVar:
		case expr.Operator().String() == "count":
			counts[right] = left
		case isNone(expr, t[2].Value):
			empty[counts[left]] = true
		}
	}
	return empty
}

// isNone reports whether an expression compares a count with a number so that the count must be 0.
func isNone(expr *ast.Expr, with ast.Value) bool {
	zero, one := with.Compare(ast.Number("0")) == 0, with.Compare(ast.Number("1")) == 0
	switch expr.Operator().String() {
	case "eq", "equal", "lte":
		return zero && !expr.Negated
	case "lt":
		return one && !expr.Negated
	case "gt", "neq":
		return zero && expr.Negated
	case "gte":
		return one && expr.Negated
	}
	return false
}

// isFalse reports whether an expression is x == false.
func isFalse(expr *ast.Expr) bool {
	return expr.IsEquality() && slices.ContainsFunc(expr.Operands(), func(t *ast.Term) bool { return t.Value.Compare(ast.Boolean(false)) == 0 })
}

// bindsAny reports whether an expression binds one of the variables.
func bindsAny(expr *ast.Expr, vars map[ast.Var]bool) bool {
	if len(vars) == 0 || !expr.IsEquality() {
		return false
	}
	v, _ := expr.Operand(0).Value.(ast.Var)
	return vars[v]
}
