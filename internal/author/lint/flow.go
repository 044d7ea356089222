package lint

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// flow follows values through compiled rules without any request: what may an entry
// rule say, and how much of it is the device's own word? It is no second evaluator. It
// never decides; where it cannot tell it takes a value for unknown, which no lint reports.
type flow struct {
	compiler *ast.Compiler
	data     ast.Value
	home     map[string]bool // the files of the rule's package
	met      met

	memo   map[*ast.TreeNode]outcome
	active map[*ast.TreeNode]bool
	calls  int           // how deep in functions
	steps  int           // so far
	anchor *ast.Location // where in the rule's own files the analysis is
	away   bool          // it is in a library now
}

// Bounds of the work that one rule can cause, and of the alternatives that are kept apart.
const (
	maxSteps        = 200_000
	maxCalls        = 40
	maxAlternatives = 4096
)

// met is what was seen on the way.
type met struct {
	hubs  []hubName
	cases []caseSlip
	words map[string]bool // places in the payload
}

// hubName is a constant that is used as the name of a hub, or as a pattern for one.
type hubName struct {
	name    string
	pattern bool
	place   place
}

// caseSlip is a comparison that letter case can spoil.
type caseSlip struct {
	constant string
	never    bool // the constant has capitals, and the other side never has
	location *ast.Location
}

// outcome is what the rules at one name may say.
type outcome struct {
	alternatives alternatives
	cleared      map[string]bool // words that are held against a list wherever they say something
}

// scope is what is known in the body of a rule.
type scope struct {
	vars    map[ast.Var]alternatives
	made    map[ast.Var][]ast.Var // the variables that a variable was made of
	cleared map[string]bool       // the device's words that the body held against what is allowed
}

func newScope() *scope {
	return &scope{vars: map[ast.Var]alternatives{}, made: map[ast.Var][]ast.Var{}, cleared: map[string]bool{}}
}

func (s *scope) clone() *scope {
	return &scope{vars: maps.Clone(s.vars), made: maps.Clone(s.made), cleared: maps.Clone(s.cleared)}
}

func (s *scope) unbound(t *ast.Term) (ast.Var, bool) {
	v, ok := t.Value.(ast.Var)
	if !ok {
		return "", false
	}
	_, bound := s.vars[v]
	return v, !bound
}

func (s *scope) bind(v ast.Var, to alternatives, of ...*ast.Term) {
	s.vars[v] = to
	for _, t := range of {
		ast.WalkVars(t, func(w ast.Var) bool {
			if w != v {
				s.made[v] = append(s.made[v], w)
			}
			return false
		})
	}
}

// entry returns what a rule of the package at path may say.
func (f *flow) entry(path ast.Ref, name string) alternatives {
	node := f.compiler.RuleTree
	for _, t := range path {
		if node = node.Child(t.Value); node == nil {
			return nil
		}
	}
	if node = node.Child(ast.String(name)); node == nil {
		return nil
	}
	return f.node(node).alternatives
}

func (f *flow) exhausted() bool {
	f.steps++
	return f.steps > maxSteps
}

// node evaluates the rules at one name, and those below it.
func (f *flow) node(n *ast.TreeNode) outcome {
	if known, ok := f.memo[n]; ok {
		return known
	}
	if f.active[n] || f.exhausted() {
		return outcome{alternatives: unknownOf(nil, 0)}
	}
	f.active[n] = true
	defer delete(f.active, n)
	anchor, away := f.anchor, f.away
	defer func() { f.anchor, f.away = anchor, away }()

	var result outcome
	merged := value{kind: object, members: map[string]alternatives{}} // of partial objects
	var inSet alternatives
	isSet, isObject := false, false
	for _, rule := range n.Values {
		if len(rule.Head.Args) > 0 {
			continue
		}
		for r := rule; r != nil; r = r.Else {
			s := newScope()
			f.enter(r)
			if !r.Default && !f.body(r.Body, s) {
				continue
			}
			ref := r.Ref()
			keys := ref[min(len(ref), len(ref.GroundPrefix())):]
			switch {
			case r.Head.RuleKind() == ast.MultiValue && len(keys) == 0:
				isSet = true
				inSet = append(inSet, without(f.term(r.Head.Key, s), s.cleared)...)
			case len(keys) > 0:
				isObject = true
				inside := unknownOf(nil, 0)
				if r.Head.Value != nil {
					inside = without(f.term(r.Head.Value, s), s.cleared)
				}
				for i := len(keys) - 1; i > 0; i-- {
					inside = alternatives{keyed(without(f.term(keys[i], s), s.cleared), inside)}
				}
				join(&merged, keyed(without(f.term(keys[0], s), s.cleared), inside))
			default:
				says := without(f.term(r.Head.Value, s), s.cleared)
				result.alternatives = append(result.alternatives, says...)
				if !r.Default && !slices.ContainsFunc(says, value.isFalse) {
					result.cleared = intersection(result.cleared, s.cleared)
				}
			}
		}
	}
	for _, key := range n.Sorted {
		child := n.Child(key)
		if name, ok := key.(ast.String); ok && child != nil && !isFunction(child) {
			isObject = true
			merged.members[string(name)] = append(merged.members[string(name)], f.node(child).alternatives...)
		}
	}
	if isSet {
		result.alternatives = append(result.alternatives, weighed(value{kind: list, rest: inSet}))
	}
	if isObject {
		result.alternatives = append(result.alternatives, weighed(merged))
	}
	result.alternatives = bounded(result.alternatives)
	f.memo[n] = result
	return result
}

func isFunction(n *ast.TreeNode) bool {
	return len(n.Values) > 0 && len(n.Values[0].Head.Args) > 0
}

// intersection keeps what is in both; a nil set stands for everything.
func intersection(a, b map[string]bool) map[string]bool {
	if a == nil {
		return maps.Clone(b)
	}
	maps.DeleteFunc(a, func(key string, _ bool) bool { return !b[key] })
	return a
}

// keyed is an object of one member, whose name may not be known.
func keyed(keys, inside alternatives) value {
	if len(keys)*weightOf(inside) > maxAlternatives {
		keys = unknownOf(saysOf(keys), 0) // some names or other
	}
	v := value{kind: object, members: map[string]alternatives{}}
	for _, key := range keys {
		if name, ok := key.text(); ok {
			v.members[name] = append(v.members[name], inside...)
			if v.names == nil {
				v.names = map[string]place{}
			}
			v.names[name] = key.place
			continue
		}
		v.open = true
		v.says = addSays(v.says, saysOf(alternatives{key})...)
		v.rest = append(v.rest, inside...)
	}
	return v
}

func join(to *value, from value) {
	for name, member := range from.members {
		to.members[name] = append(to.members[name], member...)
	}
	for name, at := range from.names {
		if to.names == nil {
			to.names = map[string]place{}
		}
		to.names[name] = at
	}
	to.open = to.open || from.open
	to.rest = append(to.rest, from.rest...)
	to.says = addSays(to.says, from.says...)
}

// bounded gives up on telling alternatives apart when there are too many.
func bounded(in alternatives) alternatives {
	if weightOf(in) <= maxAlternatives {
		return in
	}
	return unknownOf(saysOf(in), 0)
}

// enter notes which file's rule is gone through.
func (f *flow) enter(rule *ast.Rule) {
	f.away = rule.Location == nil || !f.home[rule.Location.File]
	f.at(rule.Location)
}

// at notes where in the rule's own files the analysis is.
func (f *flow) at(location *ast.Location) {
	if location != nil && f.home[location.File] {
		f.anchor = location
	}
}

// placed gives what comes out of a library the place where the rule asks for it.
func (f *flow) placed(in alternatives) alternatives {
	if f.away {
		return in
	}
	elsewhere := func(location *ast.Location) bool { return location == nil || !f.home[location.File] }
	return mapped(in, func(v value) value {
		if v.kind == constant && v.place.data == "" && elsewhere(v.place.location) {
			v.place.location = f.anchor
		}
		if slices.ContainsFunc(v.says, func(s source) bool { return elsewhere(s.location) }) {
			v.says = slices.Clone(v.says)
			for i := range v.says {
				if elsewhere(v.says[i].location) {
					v.says[i].location = f.anchor
				}
			}
		}
		return v
	})
}

// body goes through a body in the order that OPA's compiler gave it, in which each
// variable is bound before it is used. It reports false if the body can never hold.
func (f *flow) body(body ast.Body, s *scope) bool {
	for _, expr := range ruleset.Written(body) {
		if f.exhausted() {
			return true
		}
		f.at(expr.Location)
		inner, before := s, f.anchor
		if expr.Negated {
			inner = s.clone() // it binds nothing, and what it holds against a list is not on it
		}
		holds := f.expr(expr, inner)
		f.anchor = before
		if !holds && !expr.Negated && len(expr.With) == 0 {
			return false
		}
	}
	return true
}

func (f *flow) expr(expr *ast.Expr, s *scope) bool {
	switch t := expr.Terms.(type) {
	case *ast.Term:
		says := f.term(t, s)
		return slices.ContainsFunc(says, func(v value) bool { return !v.isFalse() })
	case []*ast.Term:
		if expr.IsEquality() && len(t) == 3 {
			return f.unify(t[1], t[2], s)
		}
		_, holds := f.call(t[0], t[1:], s)
		return holds
	case *ast.Every:
		child := s.clone()
		keys, values := f.iterate(f.term(t.Domain, s))
		if t.Key != nil {
			if v, ok := t.Key.Value.(ast.Var); ok {
				child.bind(v, keys, t.Domain)
			}
		}
		if v, ok := t.Value.Value.(ast.Var); ok {
			child.bind(v, values, t.Domain)
		}
		if f.body(t.Body, child) {
			maps.Copy(s.cleared, child.cleared)
			for _, word := range saysOf(f.term(t.Domain, s)) {
				if child.cleared[word.key+"."+anyMember] {
					s.cleared[word.key] = true // each of its elements, so all of it
				}
			}
		}
		return true // of an empty collection everything is true
	default:
		return true
	}
}

// unify is a = b in a body, of which either may bind variables of the other.
func (f *flow) unify(a, b *ast.Term, s *scope) bool {
	if v, free := s.unbound(a); free {
		value := f.term(b, s)
		s.bind(v, value, b)
		return len(value) > 0
	}
	if v, free := s.unbound(b); free {
		value := f.term(a, s)
		s.bind(v, value, a)
		return len(value) > 0
	}
	if f.destructure(a, f.term(b, s), b, s) || f.destructure(b, f.term(a, s), a, s) {
		return true
	}
	return f.compare(a, b, s)
}

// destructure binds the variables of a pattern such as [kind, number].
func (f *flow) destructure(pattern *ast.Term, of alternatives, from *ast.Term, s *scope) bool {
	free := false
	ast.WalkVars(pattern, func(v ast.Var) bool {
		_, bound := s.vars[v]
		free = free || !bound
		return false
	})
	if !free {
		return false
	}
	switch p := pattern.Value.(type) {
	case *ast.Array:
		p.Foreach(func(t *ast.Term) { f.bindPattern(t, elements(of), from, s) })
		return true
	case ast.Object:
		p.Foreach(func(key, t *ast.Term) {
			var inside alternatives
			for _, k := range f.term(key, s) {
				for _, v := range of {
					inside = append(inside, f.lookUp(v, k, s)...)
				}
			}
			f.bindPattern(t, inside, from, s)
		})
		return true
	}
	return false
}

func (f *flow) bindPattern(t *ast.Term, to alternatives, from *ast.Term, s *scope) {
	if v, free := s.unbound(t); free {
		s.bind(v, to, from)
		return
	}
	f.destructure(t, to, from, s)
}

// compare is a comparison of two terms for equality. What equals something that the
// device had no say in is no longer the device's choice.
func (f *flow) compare(a, b *ast.Term, s *scope) bool {
	left, right := f.term(a, s), f.term(b, s)
	f.compareCase(left, right)
	f.compareCase(right, left)
	if f.trusted(right, s) {
		f.clear(left, s)
	}
	if f.trusted(left, s) {
		f.clear(right, s)
	}
	f.relate(a, b, s)
	f.relate(b, a, s)
	return !differ(left, right)
}

// differ reports whether two terms are certainly not equal.
func differ(left, right alternatives) bool {
	if len(left)*len(right) > maxAlternatives {
		return false
	}
	for _, l := range left {
		for _, r := range right {
			if l.kind != constant || r.kind != constant || l.constant.Compare(r.constant) == 0 {
				return false
			}
		}
	}
	return true
}

// trusted reports whether a value can serve as a list of what is allowed: the device
// did not write it, and it is not just everything that is linked.
func (f *flow) trusted(in alternatives, s *scope) bool {
	if len(saysOf(without(in, s.cleared))) > 0 {
		return false
	}
	ok := true
	mapped(in, func(v value) value {
		ok = ok && v.traits&(linkedHub|linkedList|linkedByName) == 0 && !(v.kind == unknown && len(v.request) < 2 && v.request != nil)
		return v
	})
	return ok
}

func (f *flow) clear(in alternatives, s *scope) {
	for _, word := range saysOf(in) {
		s.cleared[word.key] = true
	}
}

// relate notes that a device's word picks among linked hubs: in
// `some hub in input.linkedHubs; startswith(hub, payload.prefix)`, the hub is its choice.
func (f *flow) relate(picked, by *ast.Term, s *scope) {
	says := saysOf(without(f.term(by, s), s.cleared))
	if len(says) == 0 {
		return
	}
	seen := map[ast.Var]bool{}
	var mark func(ast.Var) bool
	mark = func(v ast.Var) bool {
		if seen[v] {
			return false
		}
		seen[v] = true
		now, bound := s.vars[v]
		if bound && slices.ContainsFunc(now, func(v value) bool { return v.traits&linkedHub != 0 }) {
			s.vars[v] = withSays(now, processed(says, "picks"))
		}
		for _, w := range s.made[v] {
			mark(w)
		}
		return false
	}
	ast.WalkVars(picked, mark)
}

// compareCase notes where an identifier is compared with a constant and letter case matters.
func (f *flow) compareCase(with, constants alternatives) {
	var any, lower bool
	for _, v := range with {
		any = any || v.traits&anyCase != 0
		lower = lower || v.traits&lowerCase != 0
	}
	if !any && !lower || f.anchor == nil {
		return
	}
	for _, c := range constants {
		text, ok := c.text()
		if !ok {
			continue
		}
		switch {
		case lower && !any && text != strings.ToLower(text):
			f.met.cases = append(f.met.cases, caseSlip{constant: text, never: true, location: f.anchor})
		case any && strings.ToLower(text) != strings.ToUpper(text):
			f.met.cases = append(f.met.cases, caseSlip{constant: text, location: f.anchor})
		}
	}
}

func (f *flow) term(t *ast.Term, s *scope) alternatives {
	if f.exhausted() {
		return unknownOf(nil, 0)
	}
	at := place{location: t.Location}
	switch v := t.Value.(type) {
	case ast.Var:
		if known, bound := s.vars[v]; bound {
			return known
		}
		return unknownOf(nil, 0)
	case ast.Ref:
		return bounded(f.ref(t, v, s))
	case *ast.Array:
		out := value{kind: list, place: at}
		v.Foreach(func(e *ast.Term) { out.rest = append(out.rest, f.term(e, s)...) })
		return alternatives{weighed(out)}
	case ast.Set:
		out := value{kind: list, place: at}
		v.Foreach(func(e *ast.Term) { out.rest = append(out.rest, f.term(e, s)...) })
		return alternatives{weighed(out)}
	case ast.Object:
		out := value{kind: object, members: map[string]alternatives{}, place: at}
		v.Foreach(func(key, inside *ast.Term) {
			join(&out, keyed(f.term(key, s), f.term(inside, s)))
		})
		return alternatives{weighed(out)}
	case *ast.ArrayComprehension:
		return f.comprehension(v.Body, nil, v.Term, s)
	case *ast.SetComprehension:
		return f.comprehension(v.Body, nil, v.Term, s)
	case *ast.ObjectComprehension:
		return f.comprehension(v.Body, v.Key, v.Value, s)
	case ast.Call:
		out, _ := f.call(v[0], v[1:], s)
		return out
	case ast.Null, ast.Boolean, ast.Number, ast.String:
		return alternatives{constantOf(v, at)}
	default:
		return unknownOf(nil, 0)
	}
}

func (f *flow) comprehension(body ast.Body, key, inside *ast.Term, s *scope) alternatives {
	child := s.clone()
	var keys, values alternatives
	if f.body(body, child) {
		values = without(f.term(inside, child), child.cleared)
		if key != nil {
			keys = without(f.term(key, child), child.cleared)
		}
	}
	if key != nil {
		return alternatives{weighed(keyed(keys, values))}
	}
	return alternatives{weighed(value{kind: list, rest: values})}
}

// ref follows a reference into the request, the rules, the data, or a variable.
func (f *flow) ref(t *ast.Term, ref ast.Ref, s *scope) alternatives {
	var now alternatives
	rest := ref[1:]
	switch {
	case ref[0].Equal(ast.InputRootDocument):
		now = alternatives{requestValue([]string{}, t.Location)}
		for len(rest) > 0 { // as far as names go, so that the place is known
			name, ok := rest[0].Value.(ast.String)
			if !ok {
				break
			}
			now = alternatives{requestValue(append(slices.Clip(now[0].request), string(name)), t.Location)}
			rest = rest[1:]
			if now[0].request == nil {
				break
			}
		}
	case ref[0].Equal(ast.DefaultRootDocument):
		now, rest = f.document(t, ref, s)
	default:
		now = f.term(ref[0], s)
	}
	for _, word := range saysOf(now) {
		f.met.words[word.name()] = true
	}
	for _, key := range rest {
		now = f.index(now, key, s)
	}
	if len(saysOf(now)) > 0 || ref[0].Equal(ast.DefaultRootDocument) {
		now = f.placed(now)
	}
	return now
}

// document follows a reference below data, and returns what is left of it.
func (f *flow) document(t *ast.Term, ref ast.Ref, s *scope) (alternatives, []*ast.Term) {
	node := f.compiler.RuleTree.Child(ref[0].Value)
	for i, key := range ref[1:] {
		if _, ok := key.Value.(ast.String); !ok {
			if len(node.Children) > 0 {
				return unknownOf(nil, 0), nil // some package or other
			}
			break
		}
		child := node.Child(key.Value)
		if child == nil {
			break
		}
		node = child
		if isFunction(node) {
			return unknownOf(nil, 0), nil
		}
		if len(node.Values) > 0 {
			out := f.node(node)
			maps.Copy(s.cleared, out.cleared)
			return out.alternatives, ref[i+2:]
		}
		if i == len(ref)-2 {
			return f.node(node).alternatives, nil
		}
	}
	now := alternatives{constantOf(f.data, place{location: t.Location, data: "data"})}
	return now, ref[1:]
}

// index is container[key]; key may be a variable that this binds.
func (f *flow) index(in alternatives, key *ast.Term, s *scope) alternatives {
	if v, free := s.unbound(key); free {
		keys, values := f.iterate(in)
		s.bind(v, keys)
		return values
	}
	var out alternatives
	keys := f.term(key, s)
	if len(in)*len(keys) > maxAlternatives {
		in, keys = unknownOf(saysOf(in), 0), unknownOf(saysOf(keys), 0)
	}
	for _, v := range in {
		for _, k := range keys {
			out = append(out, f.lookUp(v, k, s)...)
		}
		f.compareCase(keys, namesIn(v))
	}
	return bounded(out)
}

// namesIn are the constant names of an object's members or a set's elements.
func namesIn(v value) alternatives {
	switch v.kind {
	case constant:
		if _, isArray := v.constant.(*ast.Array); isArray {
			return nil
		}
		keys, _ := constantMembers(v)
		return keys
	case object:
		var names alternatives
		for _, name := range slices.Sorted(maps.Keys(v.members)) {
			names = append(names, constantOf(ast.String(name), v.place))
		}
		return names
	case list:
		return v.rest
	}
	return nil
}

func (f *flow) iterate(in alternatives) (keys, values alternatives) {
	for _, v := range in {
		switch v.kind {
		case constant:
			k, inside := constantMembers(v)
			keys, values = append(keys, k...), append(values, inside...)
		case object:
			for _, name := range slices.Sorted(maps.Keys(v.members)) {
				keys = append(keys, constantOf(ast.String(name), v.place))
				values = append(values, v.members[name]...)
			}
			if v.open {
				keys = append(keys, value{says: v.says})
				values = append(values, v.rest...)
			}
		case list:
			keys = append(keys, v.rest...) // of a set they are its elements, of an array numbers
			values = append(values, v.rest...)
		default:
			keys = append(keys, value{says: processed(v.says, "key")})
			values = append(values, element(v))
		}
	}
	return bounded(keys), bounded(values)
}

// lookUp is v[key] for a key that is bound. A word that finds something in a table
// that the device did not write is one of the words that the table allows.
func (f *flow) lookUp(v, key value, s *scope) alternatives {
	if f.trusted(alternatives{v}, s) {
		f.clear(alternatives{key}, s)
	}
	switch v.kind {
	case constant:
		return lookUpConstant(v, key)
	case object:
		name, ok := key.text()
		var out alternatives
		if ok {
			out = append(out, v.members[name]...)
		} else {
			for _, member := range slices.Sorted(maps.Keys(v.members)) {
				out = append(out, v.members[member]...)
			}
		}
		return append(out, withSays(v.rest, v.says)...)
	case list:
		return withSays(v.rest, v.says)
	}
	switch {
	case v.traits&linkedByName != 0:
		if name, ok := key.text(); ok {
			f.met.hubs = append(f.met.hubs, hubName{name: name, place: f.usable(key.place)})
		}
		return unknownOf(addSays(v.says, key.says...), linkedHub)
	case v.traits&linkedList != 0:
		e := element(v)
		e.traits = linkedHub
		if _, number := key.constant.(ast.Number); number && key.kind == constant {
			e.traits |= byPosition
		}
		e.says = addSays(v.says, key.says...)
		return alternatives{e}
	case v.request != nil:
		name, ok := key.text()
		if !ok {
			name = anyMember
		}
		below := v.below(name)
		for i := range below.says {
			if below.says[i].location == nil {
				below.says[i].location = f.anchor
			}
			f.met.words[below.says[i].key] = true
		}
		return alternatives{below}
	}
	return unknownOf(addSays(v.says, key.says...), 0)
}

func lookUpConstant(v, key value) alternatives {
	if key.kind != constant {
		_, inside := constantMembers(v)
		return bounded(inside)
	}
	at := v.place
	switch c := v.constant.(type) {
	case ast.Object:
		if inside := c.Get(ast.NewTerm(key.constant)); inside != nil {
			if at.data != "" {
				at.data += dataPath(key.constant)
			}
			return alternatives{constantOf(inside.Value, at)}
		}
	case *ast.Array:
		if number, ok := key.constant.(ast.Number); ok {
			if i, ok := number.Int(); ok && i >= 0 && i < c.Len() {
				return alternatives{constantOf(c.Elem(i).Value, at)}
			}
		}
	case ast.Set:
		if c.Contains(ast.NewTerm(key.constant)) {
			return alternatives{key}
		}
	}
	return nil
}

// usable is a place that an author knows.
func (f *flow) usable(p place) place {
	if p.location == nil || !f.home[p.location.File] {
		p.location = f.anchor
	}
	return p
}

// call is the call of a function, which the compiler gave one argument more for the result.
func (f *flow) call(operator *ast.Term, args []*ast.Term, s *scope) (alternatives, bool) {
	ref, ok := operator.Value.(ast.Ref)
	if !ok {
		return unknownOf(nil, 0), true
	}
	arity, boolean := f.signature(ref)
	var result *ast.Term
	if arity >= 0 && len(args) == arity+1 {
		args, result = args[:arity], args[arity]
	}
	values := make([]alternatives, len(args))
	for i, arg := range args {
		values[i] = f.term(arg, s)
	}
	var out alternatives
	if ref.HasPrefix(ast.DefaultRootRef) {
		var cleared map[string]bool
		out, cleared = f.function(ref, values)
		if result == nil {
			maps.Copy(s.cleared, cleared)
		}
	} else {
		out = f.builtin(ref.String(), args, values, result == nil, s)
		if boolean {
			out = unknownOf(nil, 0)
		}
	}
	if len(out) == 0 {
		return nil, false
	}
	switch {
	case result == nil:
		return out, slices.ContainsFunc(out, func(v value) bool { return !v.isFalse() })
	default:
		if v, free := s.unbound(result); free {
			s.bind(v, out, args...)
			return out, true
		}
		if f.destructure(result, out, result, s) {
			return out, true
		}
		return out, !differ(out, f.term(result, s))
	}
}

// signature returns how many arguments a function takes, -1 if that is not known, and
// whether it answers true or false.
func (f *flow) signature(ref ast.Ref) (arity int, boolean bool) {
	function, ok := f.compiler.TypeEnv.GetByRef(ref).(*types.Function)
	if !ok {
		return -1, false
	}
	_, boolean = function.Result().(types.Boolean)
	return function.Arity(), boolean
}

// function is the call of a function that is written in Rego.
func (f *flow) function(ref ast.Ref, args []alternatives) (alternatives, map[string]bool) {
	if f.calls >= maxCalls || f.exhausted() {
		return unknownOf(nil, 0), nil
	}
	f.calls++
	defer func() { f.calls-- }()
	anchor, away := f.anchor, f.away
	defer func() { f.anchor, f.away = anchor, away }()
	var out alternatives
	var cleared map[string]bool
	for _, rule := range f.compiler.GetRulesExact(ref) {
		if rule.Default {
			out = append(out, f.term(rule.Head.Value, newScope())...)
			continue
		}
		for r := rule; r != nil; r = r.Else {
			s := newScope()
			f.enter(r)
			if !f.arguments(r.Head.Args, args, s) || !f.body(r.Body, s) {
				continue
			}
			says := without(f.term(r.Head.Value, s), s.cleared)
			out = append(out, says...)
			if !slices.ContainsFunc(says, value.isFalse) {
				cleared = intersection(cleared, s.cleared)
			}
		}
	}
	f.anchor, f.away = anchor, away
	return f.placed(bounded(out)), cleared
}

func (f *flow) arguments(patterns ast.Args, args []alternatives, s *scope) bool {
	for i, pattern := range patterns {
		if i >= len(args) {
			return true
		}
		if v, free := s.unbound(pattern); free {
			s.bind(v, args[i])
			continue
		}
		if !f.destructure(pattern, args[i], pattern, s) && differ(f.term(pattern, s), args[i]) {
			return false
		}
	}
	return true
}
