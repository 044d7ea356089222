// Package dataflow follows values through compiled rules without a request: what an entry rule may say, what it reads
// of a request, and which constants it compares with that.
//
// It does not evaluate rules and decides nothing. Where it cannot tell, it takes a value for unknown.
package dataflow

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Analysis is what is known of a rule without a request.
type Analysis struct {
	// Entries are what the entry rules may say, by their names.
	Entries map[string]Alternatives
	// Reads are the places of the request that the entry rules read, as JSON pointers in order. A rule that reads a
	// place may read all below it. It rather lists too much.
	//
	// The step AnyMember stands for any element of an array: payload.sensors[0].ok, and the ok of some or every sensor,
	// are /deviceRuntimeContext/payload/sensors/*/ok, and "x" in payload.labels reads /deviceRuntimeContext/payload/labels.
	// It also stands for any member of an object, if the rule iterates over an object or computes the name. linkedHubs is
	// always read as a whole. Of what a rule computes from a place, only the place is read, with one exception: members of
	// the certificate are those below /deviceRuntimeContext/x509/clientCertificate, though that is a text.
	//
	// What it reads of the rows that it looks up is at /lookups/NAME/MEMBER, and /lookups/NAME is whether there is a row:
	// see [LookupPointer].
	Reads []string
	// Compared are the constants that the rule compares, or otherwise uses together, with a place of the request, by its
	// pointer, which has the form of Reads.
	Compared map[string][]Literal
	// Hubs are the texts that the entry rule hub depends on, in order: those that it names as hubs are among them.
	Hubs []string
	// HubNames are constants that are used as names of hubs, or as patterns for them.
	HubNames []HubName
	// Cases are comparisons that letter case can spoil.
	Cases []Case
	// Uses are the comparisons and calls that an entry rule depends on, by its name.
	Uses map[string][]Use
	// Home are the files of the rule's package.
	Home map[string]bool
}

// Literal is a constant in a rule's text or data.
type Literal struct {
	Value any // string, json.Number or bool
	// Use is the function or operator that uses it with the request, such as startswith, eq, or lookup for a key.
	Use string
	// Data is set for a constant from a data file.
	Data bool
}

// HubName is a constant that is used as the name of a hub, or as a pattern for one.
type HubName struct {
	Name    string
	Pattern bool
	Place   Place
}

// Case is a comparison that letter case can spoil.
type Case struct {
	Constant string
	Pattern  bool   // the constant is a regular expression
	Never    bool   // the other side never has the constant's case
	Linked   bool   // it is no comparison with a constant, but of the current hub with the linked hubs
	Lookup   string // it is the key of this look-up, which compares keys with case
	Location *ast.Location
}

// Analyze analyzes the entry rules with these names, by default all. The error is the *ruleset.LoadError of a rule that
// does not compile.
func Analyze(rule *ruleset.Rule, entries ...string) (*Analysis, error) {
	syntax, err := rule.Syntax()
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		entries = ruleset.EntryNames()
	}
	refs := map[string]ast.Ref{}
	for _, name := range entries {
		refs[name] = rule.Entry(name)
	}
	return AnalyzeRefs(syntax, rule.Path(), refs), nil
}

// AnalyzeRefs analyzes the rules at some references, by names of the caller's. The files of the package at home are
// those of Analysis.Home; it may be nil.
func AnalyzeRefs(syntax ruleset.Syntax, home ast.Ref, refs map[string]ast.Ref) *Analysis {
	f := &flow{Analysis: Analysis{Entries: map[string]Alternatives{}, Compared: map[string][]Literal{}, Uses: map[string][]Use{}, Home: map[string]bool{}},
		compiler: syntax.Compiler, data: syntax.Data, lookups: syntax.Lookups(), compared: map[string]map[Literal]bool{}, stored: map[ast.Value][]any{},
		memo: map[*ast.TreeNode]outcome{}, active: map[*ast.TreeNode]bool{}}
	for _, module := range syntax.Compiler.Modules {
		if home != nil && module.Package.Path.HasPrefix(home) {
			f.Home[module.Package.Location.File] = true
		}
	}
	reads := map[string]bool{}
	says := map[string]outcome{}
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		node := f.compiler.RuleTree.Find(refs[name])
		if node == nil {
			continue
		}
		f.frame, f.uses = newFrame(), uses{}
		says[name] = f.node(node)
		f.read(says[name].alternatives)
		f.readNamed(says[name].alternatives)
		f.readWhole(says[name].alternatives)
		f.Entries[name] = says[name].alternatives
		for place, own := range f.frame.reads {
			reads[place] = reads[place] || own
		}
		if name == "hub" {
			f.Hubs = slices.Sorted(maps.Keys(f.frame.texts))
		}
	}
	f.afterGuards(says)
	if f.incomplete {
		reads = map[string]bool{"": true}
	}
	// Of the payload as a whole, the library only looks whether it is an object. Whoever has the members that a rule reads
	// knows that.
	const payload = "/deviceRuntimeContext/payload"
	maps.DeleteFunc(reads, func(place string, own bool) bool {
		return place == payload && !own && slices.ContainsFunc(slices.Collect(maps.Keys(reads)), func(other string) bool {
			return strings.HasPrefix(other, payload+"/")
		})
	})
	f.Reads = slices.Sorted(maps.Keys(reads))
	for place, literals := range f.compared {
		f.Compared[place] = slices.SortedFunc(maps.Keys(literals), func(a, b Literal) int {
			return cmp.Or(strings.Compare(fmt.Sprint(a.Value), fmt.Sprint(b.Value)), strings.Compare(a.Use, b.Use))
		})
	}
	return &f.Analysis
}

// ReadsAt reports whether the rule reads the place, or anything above or below it.
func (a *Analysis) ReadsAt(pointer string) bool {
	return slices.ContainsFunc(a.Reads, func(read string) bool { return Overlap(read, pointer) })
}

// Overlap reports whether one of two places of the request, in the form of Analysis.Reads, is the other or below it.
func Overlap(a, b string) bool { return isWithin(a, b) || isWithin(b, a) }

// At returns the constants compared with the place or anything below it, those of the rule's own text first.
func (a *Analysis) At(pointer string) []Literal {
	var found []Literal
	for _, data := range []bool{false, true} {
		for _, place := range slices.Sorted(maps.Keys(a.Compared)) {
			for _, literal := range a.Compared[place] {
				if literal.Data == data && isWithin(place, pointer) {
					found = append(found, literal)
				}
			}
		}
	}
	return found
}

// isWithin reports whether pointer is place or below it. AnyMember is any step.
func isWithin(pointer, place string) bool {
	for more, goesOn := true, true; more; {
		if !goesOn {
			return false
		}
		var step, at string
		step, place, more = strings.Cut(place, "/")
		at, pointer, goesOn = strings.Cut(pointer, "/")
		if step != at && step != AnyMember && at != AnyMember {
			return false
		}
	}
	return true
}

// flow is an analysis at work.
type flow struct {
	Analysis
	compiler *ast.Compiler
	data     ast.Value
	lookups  []*lookups.Declaration
	compared map[string]map[Literal]bool
	stored   map[ast.Value][]any // scalars in composite constants

	memo   map[*ast.TreeNode]outcome
	active map[*ast.TreeNode]bool
	calls  int    // how deep in functions
	steps  int    // so far
	frame  *frame // what is read now
	uses   uses   // of what is looked at now
	noted  int    // uses so far
	position

	incomplete bool // a bound was reached
}

// position is where the analysis is.
type position struct {
	anchor  *ast.Location // the last place in the rule's own files
	away    bool          // in another package
	library bool          // in rules/lib, whose own texts say nothing of this rule
}

// Bounds of the work that one rule can cause, and of the alternatives that are kept apart.
const (
	maxSteps        = 200_000
	maxCalls        = 40
	maxAlternatives = 4096
)

// outcome is what the rules at one name may say.
type outcome struct {
	alternatives Alternatives
	checked      map[string]bool // words that are compared with what is allowed whenever the rules hold
	known        facts           // what is so whenever the rules hold
	refuted      facts           // what is so whenever none of them holds
	frame        *frame
	uses         uses
}

// frame collects what evaluation reads.
type frame struct {
	reads map[string]bool // places of the request, and whether more than the library reads them
	texts map[string]bool // constants
}

func newFrame() *frame { return &frame{reads: map[string]bool{}, texts: map[string]bool{}} }

func (f *frame) add(other *frame) {
	for place, own := range other.reads {
		f.reads[place] = f.reads[place] || own
	}
	maps.Copy(f.texts, other.texts)
}

// scope is what is known in the body of a rule.
type scope struct {
	vars    map[ast.Var]Alternatives
	made    map[ast.Var][]ast.Var // the variables that a variable was made of
	checked map[string]bool       // the device's words that the body compared with what is allowed
	unread  map[ast.Var]bool      // variables of the compiler's that only name a part of the request until they are used
	known   facts                 // what the body found out
	refuted facts                 // what is so if the last expression, or after it the whole body, does not hold
	negated bool                  // within a not
}

func newScope() *scope {
	return &scope{vars: map[ast.Var]Alternatives{}, made: map[ast.Var][]ast.Var{}, checked: map[string]bool{}, unread: map[ast.Var]bool{}, known: facts{}, refuted: facts{}}
}

func (s *scope) clone() *scope {
	return &scope{vars: maps.Clone(s.vars), made: maps.Clone(s.made), checked: maps.Clone(s.checked), unread: maps.Clone(s.unread),
		known: maps.Clone(s.known), refuted: facts{}, negated: s.negated}
}

func (s *scope) unbound(t *ast.Term) (ast.Var, bool) {
	v, ok := t.Value.(ast.Var)
	if !ok {
		return "", false
	}
	_, bound := s.vars[v]
	return v, !bound
}

func (s *scope) bind(v ast.Var, to Alternatives, of ...*ast.Term) {
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

func (f *flow) exhausted() bool {
	f.steps++
	f.incomplete = f.incomplete || f.steps > maxSteps
	return f.steps > maxSteps
}

// node evaluates the rules at one name, and those below it.
func (f *flow) node(n *ast.TreeNode) outcome {
	if known, ok := f.memo[n]; ok {
		f.frame.add(known.frame)
		f.uses.add(known.uses, false)
		f.steps += len(known.uses) / 10
		return known
	}
	if f.active[n] || f.exhausted() {
		return outcome{alternatives: unknownOf(nil, 0)}
	}
	f.active[n] = true
	defer delete(f.active, n)
	outer, back, around := f.frame, f.position, f.uses
	f.frame, f.uses = newFrame(), uses{}
	defer func() {
		outer.add(f.frame)
		around.add(f.uses, false)
		f.frame, f.position, f.uses = outer, back, around
	}()

	result := outcome{frame: f.frame, uses: f.uses, refuted: facts{}}
	merged := Value{Kind: Object, Members: map[string]Alternatives{}, Names: map[string]Place{}} // of partial objects
	var inSet Alternatives
	isSet, isObject := false, false
	for _, rule := range n.Values {
		if len(rule.Head.Args) > 0 {
			continue
		}
		refuted := facts{} // by the definitions before an else
		for r := rule; r != nil; r = r.Else {
			s := newScope()
			s.known.merge(refuted)
			f.enter(r, rule.Module)
			holds := r.Default || f.body(r.Body, s)
			if refuted.merge(s.refuted); !r.Default {
				result.refuted.merge(s.refuted)
			}
			if !holds {
				continue
			}
			head := func(t *ast.Term) Alternatives { return s.head(f.term(t, s)) }
			ref := r.Ref()
			keys := ref[min(len(ref), len(ref.GroundPrefix())):]
			switch {
			case r.Head.RuleKind() == ast.MultiValue && len(keys) == 0:
				isSet = true
				inSet = append(inSet, head(r.Head.Key)...)
			case len(keys) > 0:
				isObject = true
				inside := unknownOf(nil, 0)
				if r.Head.Value != nil {
					inside = head(r.Head.Value)
				}
				for i := len(keys) - 1; i > 0; i-- {
					inside = Alternatives{keyed(head(keys[i]), inside)}
				}
				join(&merged, keyed(head(keys[0]), inside))
			default:
				says := slices.Clone(s.head(f.says(r.Head.Value, s)))
				for i, v := range says { // such as the true that an author leaves out
					if v.Kind == Constant {
						says[i].Place.Location = cmp.Or(v.Place.Location, r.Location)
					}
				}
				result.says(says, r, s)
			}
		}
	}
	for _, key := range n.Sorted {
		child := n.Child(key)
		if name, ok := key.(ast.String); ok && child != nil && !isFunction(child) {
			isObject = true
			merged.Members[string(name)] = append(merged.Members[string(name)], f.node(child).alternatives...)
			if len(child.Values) > 0 {
				merged.Names[string(name)] = Place{Location: child.Values[0].Location}
			}
		}
	}
	if isSet {
		result.alternatives = append(result.alternatives, weighed(Value{Kind: List, set: true, Rest: unordered(inSet)}))
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

// keyed is an object of one member, whose name may be unknown.
func keyed(keys, inside Alternatives) Value {
	if len(keys)*weightOf(inside) > maxAlternatives {
		keys = unknownOf(sourcesOf(keys), 0) // some names or other
	}
	v := Value{Kind: Object, Members: map[string]Alternatives{}, Names: map[string]Place{}}
	for _, key := range keys {
		if name, ok := key.Text(); ok {
			v.Members[name] = append(v.Members[name], inside...)
			v.Names[name] = key.Place
			continue
		}
		v.open = true
		v.keys |= key.traits
		v.Sources = addSources(v.Sources, made(sourcesOf(Alternatives{key}), "key")...)
		v.Rest = append(v.Rest, inside...)
	}
	return v
}

func join(to *Value, from Value) {
	for name, member := range from.Members {
		to.Members[name] = append(to.Members[name], member...)
	}
	if to.Names == nil {
		to.Names = map[string]Place{}
	}
	maps.Copy(to.Names, from.Names)
	to.open, to.keys = to.open || from.open, to.keys|from.keys
	to.Rest = append(to.Rest, from.Rest...)
	to.Sources = addSources(to.Sources, from.Sources...)
}

// enter notes in which rule of a module the analysis is.
func (f *flow) enter(rule *ast.Rule, module *ast.Module) {
	f.away = rule.Location == nil || !f.Home[rule.Location.File]
	f.library = module != nil && ruleset.IsLibrary(module)
	f.at(rule.Location)
}

// at notes where in the rule's own files the analysis is.
func (f *flow) at(location *ast.Location) {
	if location != nil && f.Home[location.File] {
		f.anchor = location
	}
}

// located gives what comes from another package the place where the rule refers to it.
func (f *flow) located(in Alternatives) Alternatives {
	if f.away {
		return in
	}
	elsewhere := func(location *ast.Location) bool { return location == nil || !f.Home[location.File] }
	return mapped(in, func(v Value) Value {
		if v.Kind == Constant && v.Place.Data == "" && elsewhere(v.Place.Location) {
			v.Place.Location = f.anchor
		}
		if slices.ContainsFunc(v.Sources, func(s Source) bool { return elsewhere(s.Location) }) {
			v.Sources = slices.Clone(v.Sources)
			for i := range v.Sources {
				if elsewhere(v.Sources[i].Location) {
					v.Sources[i].Location = f.anchor
				}
			}
		}
		return v
	})
}

// body goes through a body in the order that OPA's compiler gave it, in which each variable is bound before it is used.
// It reports false if the body can never hold.
func (f *flow) body(body ast.Body, s *scope) bool {
	around := f.uses
	f.uses = uses{}
	conditions, refuted, empty := 0, facts{}, emptyIn(body)
	defer func() {
		for key := range s.checked {
			s.known[key] |= allowed
		}
		f.uses.know(s.known)
		around.add(f.uses, false)
		f.uses = around
		if s.refuted = refuted; conditions != 1 { // of two, either may be what does not hold
			s.refuted = facts{}
		}
	}()
	for _, expr := range ruleset.Written(body) {
		if f.exhausted() {
			return true
		}
		f.at(expr.Location)
		inner, before, here := s, f.anchor, f.uses
		if expr.Negated {
			inner = s.clone() // it binds nothing, and does not hold for what it compares with what is allowed
			inner.negated = true
		}
		opposed := expr.Negated != isFalse(expr) || bindsAny(expr, empty)
		if opposed {
			f.uses = uses{}
		}
		isCondition := s.isCondition(expr)
		inner.refuted = facts{}
		holds := f.expr(expr, inner)
		if expr.Negated {
			maps.Copy(s.vars, inner.vars) // but what does not match picks, too
		}
		if isCondition {
			conditions++
			refuted = inner.refuted
		}
		if expr.Negated {
			refuted = inner.known
			s.known.merge(inner.refuted)
		}
		if opposed {
			here.add(f.uses, true)
		}
		f.anchor, f.uses = before, here
		if !holds && !expr.Negated && len(expr.With) == 0 {
			return false
		}
	}
	return true
}

// isCondition reports whether an expression does more than to bind a variable.
func (s *scope) isCondition(expr *ast.Expr) bool {
	switch t := expr.Terms.(type) {
	case *ast.Term:
		return t.Value.Compare(ast.Boolean(true)) != 0
	case []*ast.Term:
		if !expr.IsEquality() || len(t) != 3 {
			return !expr.Generated
		}
		_, left := s.unbound(t[1])
		_, right := s.unbound(t[2])
		return !left && !right
	}
	return true
}

func (f *flow) expr(expr *ast.Expr, s *scope) bool {
	for _, with := range expr.With {
		f.term(with.Value, s)
	}
	switch t := expr.Terms.(type) {
	case *ast.Term:
		says := f.term(t, s)
		return slices.ContainsFunc(says, func(v Value) bool { return !v.isFalse() })
	case []*ast.Term:
		if expr.IsEquality() && len(t) == 3 {
			return f.unify(t[1], t[2], s)
		}
		_, holds := f.call(t[0], t[1:], s)
		return holds
	case *ast.Every:
		child := s.clone()
		domain := f.term(t.Domain, s)
		keys, values := domain.Inside()
		if t.Key != nil {
			f.bindPattern(t.Key, bounded(keys), t.Domain, child)
		}
		f.bindPattern(t.Value, bounded(values), t.Domain, child)
		f.use("every", domain, listed(domain))
		if f.body(t.Body, child) {
			s.known.merge(child.known.except(notEmpty)) // which the element is, not what it is in
			maps.Copy(s.checked, child.checked)
			for _, word := range sourcesOf(domain) {
				if child.checked[word.key()+"/"+AnyMember] {
					s.checked[word.key()] = true // each of its elements, so all of it
				}
			}
		}
		return true // for an empty collection it holds
	default:
		return true
	}
}

// unify is a = b in a body, of which either may bind variables of the other.
func (f *flow) unify(a, b *ast.Term, s *scope) bool {
	if v, free := s.unbound(a); free {
		return f.assign(v, b, s)
	}
	if v, free := s.unbound(b); free {
		return f.assign(v, a, s)
	}
	if f.destructure(a, f.term(b, s), b, s) || f.destructure(b, f.term(a, s), a, s) {
		return true
	}
	return f.compare(a, b, s)
}

func (f *flow) assign(v ast.Var, t *ast.Term, s *scope) bool {
	_, written := f.compiler.RewrittenVars[v]
	if ref, ok := t.Value.(ast.Ref); ok && !written && ref.HasPrefix(ast.InputRootRef) && len(ref.ConstantPrefix()) == len(ref) {
		value, rest := input(t, ref)
		if len(rest) == 0 {
			s.bind(v, f.located(value), t)
			s.unread[v] = true
			return true
		}
	}
	value := f.term(t, s)
	s.bind(v, value, t)
	return len(value) > 0
}

// destructure binds the variables of a pattern such as [kind, number].
func (f *flow) destructure(pattern *ast.Term, of Alternatives, from *ast.Term, s *scope) bool {
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
		for i := range p.Len() {
			var inside Alternatives
			for _, v := range of {
				inside = append(inside, f.lookUp(v, constantOf(ast.InternedTerm(i).Value, Place{}), s)...)
			}
			f.bindPattern(p.Elem(i), bounded(inside), from, s)
		}
		return true
	case ast.Object:
		p.Foreach(func(key, t *ast.Term) {
			var inside Alternatives
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

func (f *flow) bindPattern(t *ast.Term, to Alternatives, from *ast.Term, s *scope) {
	if v, free := s.unbound(t); free {
		f.read(to)
		s.bind(v, to, from)
		return
	}
	if !f.destructure(t, to, from, s) {
		f.equal(f.term(t, s), to, s)
	}
}

// equal notes that two values are equal. What equals something that the device did not write is no longer the device's
// choice.
func (f *flow) equal(left, right Alternatives, s *scope) {
	f.readWhole(left, right)
	f.use("equal", left, right)
	s.known.merge(ifTrue("equal", []Alternatives{left, right}))
	f.meet("eq", left, right)
	f.compareCase(left, right)
	if trusted(right, s) {
		s.check(left)
	}
	if trusted(left, s) {
		s.check(right)
	}
}

// compare is a comparison of two terms for equality.
func (f *flow) compare(a, b *ast.Term, s *scope) bool {
	left, right := f.term(a, s), f.term(b, s)
	f.equal(left, right, s)
	f.relate(a, b, s)
	f.relate(b, a, s)
	f.choosePosition(a, b, s)
	f.choosePosition(b, a, s)
	s.refuted = ifFalse("equal", []Alternatives{left, right})
	return !differ(left, right)
}

// differ reports whether two terms are certainly not equal.
func differ(left, right Alternatives) bool {
	if len(left)*len(right) > maxAlternatives {
		return false
	}
	for _, l := range left {
		for _, r := range right {
			if l.Kind != Constant || r.Kind != Constant || l.Constant.Compare(r.Constant) == 0 {
				return false
			}
		}
	}
	return true
}

// trusted reports whether a value can serve as a list of what is allowed: the device did not write it, and it is more
// than everything that is linked.
func trusted(in Alternatives, s *scope) bool {
	if len(unchecked(in, s.checked)) > 0 {
		return false
	}
	ok := true
	each(in, func(v Value) {
		ok = ok && !v.isAnyLinked() && v.traits&(linkedList|linkedByName|linkedPosition) == 0 &&
			!(v.Kind == Unknown && len(v.Request) < 2 && v.Request != nil) && !slices.ContainsFunc(v.Sources, Source.isLinked)
	})
	return ok
}

// isLinked reports whether something was made of any linked hubs, such as their labels. Their number, and a hub that
// the rule names, are the same whatever is picked.
func (s Source) isLinked() bool {
	return s.Pointer == "/linkedHubs" && !strings.Contains(s.made, "|count") && !strings.Contains(s.made, "|named")
}

// check notes that the words in a value are compared with what is allowed.
func (s *scope) check(in Alternatives) {
	for _, word := range sourcesOf(in) {
		s.checked[word.key()] = true
	}
}

// relate notes that a device's word picks among linked hubs: in `some hub in input.linkedHubs; startswith(hub,
// payload.prefix)`, the hub is its choice.
func (f *flow) relate(picked, by *ast.Term, s *scope) {
	words := unchecked(f.term(by, s), s.checked)
	if len(words) == 0 {
		return
	}
	s.pick(picked, func(v Value) Value {
		v.Sources = addSources(v.Sources, made(words, "picks")...)
		return v
	})
}

// choosePosition notes that a rule picks a linked hub by its position: in `some i, hub in input.linkedHubs; i == 0`, the
// hub is the first.
func (f *flow) choosePosition(position, by *ast.Term, s *scope) {
	has := func(in Alternatives, t traits) bool {
		return slices.ContainsFunc(in, func(v Value) bool { return v.traits&t == t })
	}
	if has(f.term(position, s), linkedPosition|inOrder) && !has(f.term(by, s), linkedPosition) {
		s.pick(position, func(v Value) Value {
			v.ByPosition = true
			return v
		})
	}
}

// pick changes the linked hubs, and their positions, on which a term depends or that depend on it.
func (s *scope) pick(t *ast.Term, change func(Value) Value) {
	seen := map[ast.Var]bool{}
	var visit func(ast.Var) bool
	visit = func(v ast.Var) bool {
		if now, bound := s.vars[v]; !bound || seen[v] || slices.ContainsFunc(now, Value.isCollection) {
			return false // what else was made of a list of hubs is not picked
		}
		seen[v] = true
		now := slices.Clone(s.vars[v])
		for i, value := range now {
			if value.isAnyLinked() || value.traits&linkedPosition != 0 {
				now[i] = change(value)
			}
		}
		s.vars[v] = now
		for made, of := range s.made {
			if made == v {
				for _, w := range of {
					visit(w)
				}
			} else if slices.Contains(of, v) {
				visit(made)
			}
		}
		return false
	}
	ast.WalkVars(t, visit)
}

func (v Value) isCollection() bool {
	return v.Kind == Object || v.Kind == List || v.traits&(linkedList|linkedByName) != 0
}

// compareCase notes if an identifier is compared with a constant, or the current hub with the linked hubs, and letter
// case matters.
func (f *flow) compareCase(left, right Alternatives) {
	if f.anchor == nil {
		return
	}
	for _, sides := range [][2]Alternatives{{left, right}, {right, left}} {
		t := traitsOf(sides[0]) & letterCase
		if t == 0 {
			continue
		}
		for _, c := range sides[1] {
			text, ok := c.Text()
			switch {
			case t&anyCase == 0 && ok && hasOther(text, t):
				f.Cases = append(f.Cases, Case{Constant: text, Never: true, Location: f.anchor})
			case t&anyCase != 0 && strings.ToLower(text) != strings.ToUpper(text):
				f.Cases = append(f.Cases, Case{Constant: text, Location: f.anchor})
			case c.traits&linkedHub != 0 && t != c.traits&letterCase && slices.ContainsFunc(sides[0], Value.isCurrentHub):
				f.Cases = append(f.Cases, Case{Linked: true, Location: f.anchor})
			}
		}
	}
}

func traitsOf(in Alternatives) traits {
	var t traits
	for _, v := range in {
		t |= v.traits
	}
	return t
}

// hasOther reports whether a text has letters of the case that another never has.
func hasOther(text string, t traits) bool {
	return t == lowerCase && text != strings.ToLower(text) || t == upperCase && text != strings.ToUpper(text)
}

// meet notes that a function or operator uses the constants in each value with the parts of the request in the others.
func (f *flow) meet(use string, values ...Alternatives) {
	for i, value := range values {
		var places []string
		for _, s := range sourcesOf(value) {
			places = append(places, s.place())
		}
		if len(places) == 0 {
			continue
		}
		for j, other := range values {
			if i == j {
				continue
			}
			for _, literal := range f.literals(other) {
				literal.Use = use
				for _, place := range places {
					if f.compared[place] == nil {
						f.compared[place] = map[Literal]bool{}
					}
					f.compared[place][literal] = true
				}
			}
		}
	}
}

// literals are the scalars in constants, some of them if there are many.
func (f *flow) literals(in Alternatives) []Literal {
	var found []Literal
	each(in, func(v Value) {
		for name := range v.Members {
			found = append(found, Literal{Value: name, Data: v.Names[name].Data != ""})
		}
		if v.Kind == Constant {
			for _, scalar := range f.scalars(v.Constant) {
				found = append(found, Literal{Value: scalar, Data: v.Place.Data != ""})
			}
		}
	})
	return spread(found, maxSample)
}

// scalars are the texts, numbers and booleans in a value, some of them if there are many.
func (f *flow) scalars(value ast.Value) []any {
	switch v := value.(type) {
	case ast.String:
		return []any{string(v)}
	case ast.Number:
		return []any{json.Number(v)}
	case ast.Boolean:
		return []any{bool(v)}
	}
	if known, ok := f.stored[value]; ok {
		return known
	}
	var all []any
	ast.WalkTerms(ast.NewTerm(value), func(t *ast.Term) bool {
		switch t.Value.(type) {
		case ast.String, ast.Number, ast.Boolean:
			all = append(all, f.scalars(t.Value)...)
		}
		return false
	})
	f.stored[value] = spread(all, maxSample)
	return f.stored[value]
}

func (f *flow) term(t *ast.Term, s *scope) Alternatives {
	if f.exhausted() {
		return unknownOf(nil, 0)
	}
	at := Place{Location: t.Location}
	switch v := t.Value.(type) {
	case ast.Var:
		known, bound := s.vars[v]
		if !bound {
			return unknownOf(nil, 0)
		}
		if s.unread[v] {
			f.read(known)
			delete(s.unread, v)
		}
		return known
	case ast.Ref:
		return bounded(f.ref(t, v, s))
	case interface{ Foreach(func(*ast.Term)) }: // an array or a set
		_, isSet := v.(ast.Set)
		out := Value{Kind: List, Place: at, ends: []int{}, set: isSet}
		v.Foreach(func(e *ast.Term) {
			element := f.term(e, s)
			if isSet {
				element = unordered(element)
			}
			out.Rest = append(out.Rest, element...)
			out.ends = append(out.ends, len(out.Rest))
		})
		return Alternatives{weighed(out)}
	case ast.Object:
		out := Value{Kind: Object, Members: map[string]Alternatives{}, Place: at}
		v.Foreach(func(key, inside *ast.Term) {
			join(&out, keyed(f.term(key, s), f.term(inside, s)))
		})
		return Alternatives{weighed(out)}
	case *ast.ArrayComprehension:
		_, inside, order := f.comprehension(v.Body, nil, v.Term, s)
		for i := range inside {
			inside[i].traits |= order
		}
		return Alternatives{weighed(Value{Kind: List, Rest: inside})}
	case *ast.SetComprehension:
		_, inside, _ := f.comprehension(v.Body, nil, v.Term, s)
		return Alternatives{weighed(Value{Kind: List, set: true, Rest: unordered(inside)})}
	case *ast.ObjectComprehension:
		keys, inside, _ := f.comprehension(v.Body, v.Key, v.Value, s)
		return Alternatives{weighed(keyed(keys, inside))}
	case ast.Call:
		out, _ := f.call(v[0], v[1:], s)
		return out
	case ast.String:
		if !f.library {
			f.frame.texts[string(v)] = true
		}
		return Alternatives{constantOf(v, at)}
	case ast.Null, ast.Boolean, ast.Number:
		return Alternatives{constantOf(v, at)}
	default:
		return unknownOf(nil, 0)
	}
}

// comprehension returns what is in a comprehension, and whether its order is that of linkedHubs.
func (f *flow) comprehension(body ast.Body, key, inside *ast.Term, s *scope) (keys, values Alternatives, order traits) {
	child := s.clone()
	if !f.body(body, child) {
		return nil, nil, 0
	}
	values = slices.Clone(child.head(f.term(inside, child)))
	if key != nil {
		keys = child.head(f.term(key, child))
	}
	for v, now := range child.vars {
		if _, outside := s.vars[v]; !outside {
			for _, value := range now {
				order |= value.traits & inOrder
			}
		}
	}
	return keys, values, order
}

// says is the value of a rule. A rule such as e := input.enrollmentGroup only names a part of the request: what of it is
// read, its callers say, as in e.attestation.type.
func (f *flow) says(value *ast.Term, s *scope) Alternatives {
	if v, ok := value.Value.(ast.Var); ok && s.unread[v] { // which the compiler put in place of the reference
		return s.vars[v]
	}
	return f.term(value, s)
}

// ref follows a reference into the request, the rules, the data, or a variable, and reads what it leads to.
func (f *flow) ref(t *ast.Term, ref ast.Ref, s *scope) Alternatives {
	now := f.follow(t, ref, s)
	f.read(now)
	f.readNamed(now)
	return now
}

// follow is ref without the reading of what the reference leads to.
func (f *flow) follow(t *ast.Term, ref ast.Ref, s *scope) Alternatives {
	var now Alternatives
	rest := ref[1:]
	switch {
	case ref[0].Equal(ast.InputRootDocument):
		now, rest = input(t, ref)
	case ref[0].Equal(ast.DefaultRootDocument):
		now, rest = f.document(t, ref, s)
	default:
		now = f.term(ref[0], s)
	}
	for _, key := range rest {
		now = f.index(now, key, s)
	}
	if len(sourcesOf(now)) > 0 || ref[0].Equal(ast.DefaultRootDocument) {
		now = f.located(now)
	}
	return now
}

// input follows a reference into the request as far as names go, and returns what is left of it.
func input(t *ast.Term, ref ast.Ref) (Alternatives, []*ast.Term) {
	path, rest := []string{}, ref[1:]
	for ; len(rest) > 0 && (len(path) == 0 || path[0] != "linkedHubs"); rest = rest[1:] {
		name, ok := rest[0].Value.(ast.String)
		if !ok {
			break
		}
		path = append(path, string(name))
	}
	return Alternatives{requestValue(path, t.Location)}, rest
}

// read notes the places of the request that a value is made of.
func (f *flow) read(in Alternatives) {
	for _, v := range in {
		for _, s := range v.Sources {
			f.frame.reads[s.place()] = f.frame.reads[s.place()] || !f.library
		}
	}
}

// readNamed notes the parts of the request that rules below a name such as data.dps only name.
func (f *flow) readNamed(in Alternatives) {
	for _, v := range in {
		if v.Kind != Object {
			continue
		}
		for _, member := range v.Members {
			f.read(member)
			f.readNamed(member)
		}
	}
}

// CertificatePointer is the place of the device's certificate. A rule that uses dps.certificate reads it, and below it
// the attributes that it uses.
const CertificatePointer = "/deviceRuntimeContext/x509/clientCertificate"

// readWhole notes that a function, a comparison or an entry rule gets all of a certificate or of a row, not only whether
// there is one.
func (f *flow) readWhole(arguments ...Alternatives) {
	for _, s := range sourcesOf(slices.Concat(arguments...)) {
		if place := s.place(); place == CertificatePointer || isRow(place) {
			f.frame.reads[place+"/"+AnyMember] = true
		}
	}
}

// document follows a reference below data, and returns what is left of it.
func (f *flow) document(t *ast.Term, ref ast.Ref, s *scope) (Alternatives, []*ast.Term) {
	node := f.compiler.RuleTree.Child(ref[0].Value)
	for i, key := range ref[1:] {
		if _, ok := key.Value.(ast.String); !ok {
			if len(node.Children) > 0 {
				return f.node(node).alternatives, ref[i+1:]
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
			maps.Copy(s.checked, out.checked)
			s.known.merge(out.known)
			s.refuted = out.refuted
			return out.alternatives, ref[i+2:]
		}
		if i == len(ref)-2 {
			return f.node(node).alternatives, nil
		}
	}
	if prefix := ref.ConstantPrefix(); len(prefix) > 1 {
		if stored, err := f.data.Find(prefix[1:]); err == nil {
			for _, scalar := range f.scalars(stored) {
				if text, ok := scalar.(string); ok {
					f.frame.texts[text] = true
				}
			}
		}
	}
	return Alternatives{constantOf(f.data, Place{Location: t.Location, Data: "data"})}, ref[1:]
}

// index is container[key]; key may be a variable that this binds.
func (f *flow) index(in Alternatives, key *ast.Term, s *scope) Alternatives {
	s.known.add(in, notEmpty) // else it is undefined
	if v, free := s.unbound(key); free {
		keys, values := in.Inside()
		s.bind(v, bounded(keys))
		return bounded(values)
	}
	var out, keys Alternatives
	if name, ok := key.Value.(ast.String); ok {
		keys = Alternatives{constantOf(name, Place{Location: key.Location})}
	} else {
		keys = f.term(key, s)
		f.readWhole(keys)
	}
	if len(in)*len(keys) > maxAlternatives {
		in, keys = unknownOf(sourcesOf(in), 0), unknownOf(sourcesOf(keys), 0)
	}
	for _, v := range in {
		for _, k := range keys {
			out = append(out, declare(f.lookUp(v, k, s), memberType(v, k))...)
		}
		f.use("lookup", Alternatives{v}, keys)
	}
	return bounded(out)
}

// namesIn are the names of an object's members or a set's elements.
func namesIn(v Value) Alternatives {
	if _, isArray := v.Constant.(*ast.Array); isArray || v.Kind == Unknown {
		return nil
	}
	keys, _ := v.Inside()
	return keys
}

// lookUp is v[key] for a key that is bound. A word that finds something in a table that the device did not write is one
// of the words that the table allows. One that finds a linked hub in a table or a list of all of them picks it.
func (f *flow) lookUp(v, key Value, s *scope) Alternatives {
	if v.isWritten() || trusted(Alternatives{v}, s) {
		s.check(Alternatives{key})
	}
	found := f.inside(v, key, s)
	words := made(unchecked(Alternatives{key}, s.checked), "picks")
	byPosition := key.traits&linkedPosition == 0 && v.isOrdered()
	if len(words) == 0 && !byPosition && !v.ByPosition && !key.ByPosition {
		return found
	}
	found = slices.Clone(found)
	for i := range found {
		one := &found[i]
		one.ByPosition = one.ByPosition || v.ByPosition || key.ByPosition || byPosition && (one.traits&inOrder != 0 || v.keys&inOrder != 0)
		if one.isAnyLinked() {
			one.Sources = addSources(one.Sources, words...)
		}
	}
	return found
}

// isOrdered reports whether the keys of a collection can be positions.
func (v Value) isOrdered() bool {
	return v.Kind == List && !v.set || v.Kind == Object && v.keys&linkedPosition != 0 || v.traits&linkedList != 0
}

// inside is what v may have at a key.
func (f *flow) inside(v, key Value, s *scope) Alternatives {
	if key.traits&letterCase != 0 || v.keys&letterCase != 0 {
		f.compareCase(Alternatives{key}, namesIn(v))
	}
	if len(key.Sources) > 0 {
		f.meet("lookup", namesIn(v), Alternatives{key})
	}
	switch v.Kind {
	case Constant:
		return lookUpConstant(v, key)
	case Object:
		if name, ok := key.Text(); ok {
			inside := append(slices.Clip(v.Members[name]), withSources(v.Rest, v.Sources)...)
			for _, other := range v.others {
				inside = append(inside, f.lookUp(other, key, s)...)
			}
			return inside
		}
		return elements(Alternatives{v})
	case List:
		if position, ok := key.position(); ok {
			if element, known := v.at(position); known {
				return withSources(element, v.Sources)
			}
		}
		return elements(Alternatives{v})
	}
	switch name, isName := key.Text(); {
	case v.traits&linkedByName != 0:
		f.meet("lookup", Alternatives{v}, Alternatives{key})
		f.nameHub(key, false)
		if key.Kind == Constant {
			return unknownOf(made(v.Sources, "named"), linkedHub|named)
		}
		return unknownOf(addSources(v.Sources, made(key.Sources, "key")...), linkedHub)
	case v.traits&linkedList != 0:
		e := element(v)
		e.Sources = addSources(v.Sources, made(key.Sources, "key")...)
		return Alternatives{e}
	case v.Request != nil:
		if !isName {
			name = AnyMember
		}
		below := v.below(name)
		for i := range below.Sources {
			if below.Sources[i].Location == nil {
				below.Sources[i].Location = f.anchor
			}
		}
		return Alternatives{below}
	case isName:
		return unknownOf(membersOf(v.Sources, name), v.traits&letterCase)
	}
	return unknownOf(addSources(membersOf(v.Sources, AnyMember), made(key.Sources, "key")...), v.traits&letterCase)
}

func lookUpConstant(v, key Value) Alternatives {
	if key.Kind != Constant {
		return bounded(elements(Alternatives{v}))
	}
	inside, err := v.Constant.Find(ast.Ref{ast.NewTerm(key.Constant)})
	if err != nil {
		return nil
	}
	at := v.Place
	if v.IsObject() && at.Data != "" {
		at.Data += dataPath(key.Constant)
	}
	return Alternatives{constantOf(inside, at)}
}

// call is the call of a function, to which the compiler gave one more argument for the result.
func (f *flow) call(operator *ast.Term, args []*ast.Term, s *scope) (Alternatives, bool) {
	ref, ok := operator.Value.(ast.Ref)
	if !ok {
		return unknownOf(nil, 0), true
	}
	signature, _ := f.compiler.TypeEnv.GetByRef(ref).(*types.Function)
	var result *ast.Term
	if signature != nil && len(args) == signature.Arity()+1 {
		args, result = args[:len(args)-1], args[len(args)-1]
	}
	values := make([]Alternatives, len(args))
	name := ref.String()
	for i, arg := range args {
		if v, ok := arg.Value.(ast.Var); ok && i == 0 && name == "object.get" && s.unread[v] {
			values[i] = s.vars[v] // of which it reads one member and not the others
			continue
		}
		values[i] = f.term(arg, s)
	}
	var out Alternatives
	if ref.HasPrefix(ast.DefaultRootRef) {
		says := f.function(ref, values)
		out = says.alternatives
		f.meet(name, append(slices.Clip(values), Alternatives{{Sources: sourcesOf(out)}})...)
		if result == nil {
			maps.Copy(s.checked, says.checked)
			s.known.merge(says.known)
			s.refuted = says.refuted
		}
	} else {
		if name != "usher.certificate" && name != "object.get" {
			f.readWhole(values...)
		}
		s.known.merge(accepted(signature, values))
		if declared, isLookup := ruleset.LookupName(name); isLookup {
			out = f.row(declared, values[0])
		} else {
			f.use(name, values...)
			out = f.builtin(name, args, values, result == nil, s)
		}
		if result == nil {
			s.known.merge(ifTrue(name, values))
			s.refuted = ifFalse(name, values)
		}
		if signature != nil {
			if _, boolean := signature.Result().(types.Boolean); boolean {
				out = unknownOf(nil, 0)
			}
			out = declare(out, signature.Result())
		}
	}
	if len(out) == 0 {
		return nil, false
	}
	if result == nil {
		return out, slices.ContainsFunc(out, func(v Value) bool { return !v.isFalse() })
	}
	if v, free := s.unbound(result); free {
		s.bind(v, out, args...)
		return out, true
	}
	if f.destructure(result, out, result, s) {
		return out, true
	}
	expected := f.term(result, s)
	f.meet("eq", out, expected)
	return out, !differ(out, expected)
}

// function is the call of a function that is written in Rego.
func (f *flow) function(ref ast.Ref, args []Alternatives) outcome {
	f.incomplete = f.incomplete || f.calls >= maxCalls
	if f.calls >= maxCalls || f.exhausted() {
		return outcome{alternatives: unknownOf(nil, 0)}
	}
	f.calls++
	defer func() { f.calls-- }()
	back := f.position
	result := outcome{refuted: facts{}}
	for _, rule := range f.compiler.GetRulesExact(ref) {
		if rule.Default {
			result.says(f.term(rule.Head.Value, newScope()), rule, newScope())
			continue
		}
		refuted := facts{} // by the definitions before an else
		for r := rule; r != nil; r = r.Else {
			s := newScope()
			s.known.merge(refuted)
			f.enter(r, rule.Module)
			holds := f.arguments(r.Head.Args, args, s) && f.body(r.Body, s)
			refuted.merge(s.refuted)
			result.refuted.merge(s.refuted)
			if holds {
				result.says(s.head(f.term(r.Head.Value, s)), r, s)
			}
		}
	}
	f.position = back
	result.alternatives = f.located(bounded(result.alternatives))
	return result
}

// head marks what the head of a rule says with what its body found out.
func (s *scope) head(in Alternatives) Alternatives {
	return withFacts(withChecked(in, s.checked), s.known)
}

// says adds what one definition says, and what is so whenever it holds.
func (o *outcome) says(in Alternatives, rule *ast.Rule, s *scope) {
	o.alternatives = append(o.alternatives, in...)
	if slices.ContainsFunc(in, Value.isFalse) {
		return
	}
	o.known = o.known.common(s.known)
	if !rule.Default {
		o.checked = intersection(o.checked, s.checked)
	}
}

func (f *flow) arguments(patterns ast.Args, args []Alternatives, s *scope) bool {
	for i, pattern := range patterns {
		if i >= len(args) {
			return true
		}
		if v, free := s.unbound(pattern); free {
			s.bind(v, args[i])
			continue
		}
		if f.destructure(pattern, args[i], pattern, s) {
			continue
		}
		expected := f.term(pattern, s)
		if f.meet("eq", expected, args[i]); differ(expected, args[i]) {
			return false
		}
	}
	return true
}
