// Package vocabulary lists what a rule reads of a request and the constants that it compares with it.
package vocabulary

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Vocabulary is what a rule, with all that it refers to, reads of a request and
// the constants that it holds beside that. It is read from the rule's text and
// data without asking the rule anything, and errs on the side of too much.
type Vocabulary struct {
	// Reads are the places of the input that the rule looks at, as JSON
	// pointers. A rule that reads a place may read all below it.
	Reads []string
	// Beside are the constants that the rule compares or otherwise brings
	// together with a place of the input, by its pointer.
	Beside map[string][]Literal
	// Hubs are the texts that the rule may name as hub.
	Hubs []string
	// Answers are the entry rules that the package defines, such as hub.
	Answers []string
	// Calls are the built-in functions that the rule calls.
	Calls []string
}

// Literal is a constant in a rule's text or data.
type Literal struct {
	Value any // string, json.Number or bool
	// Use is the function or operator that brings it together with the input,
	// such as startswith, eq, or lookup for a key.
	Use string
	// Data is set for a constant that stands in data, not in Rego.
	Data bool
}

// Chancy reports whether the rule calls a built-in function that is [ruleset.Restricted]:
// the same request may get another answer.
func (v *Vocabulary) Chancy() bool { return slices.ContainsFunc(v.Calls, ruleset.IsRestricted) }

// ReadsAt reports whether the rule looks at the place, or at anything above or below.
func (v *Vocabulary) ReadsAt(pointer string) bool {
	return slices.ContainsFunc(v.Reads, func(read string) bool {
		return read == "" || under(read, pointer) || under(pointer, read)
	})
}

// At returns the constants beside the place or anything below it, those of the
// rule's own text first.
func (v *Vocabulary) At(pointer string) []Literal {
	var found []Literal
	for _, place := range slices.Sorted(maps.Keys(v.Beside)) {
		if under(place, pointer) {
			found = append(found, v.Beside[place]...)
		}
	}
	slices.SortStableFunc(found, func(a, b Literal) int {
		switch {
		case a.Data == b.Data:
			return 0
		case b.Data:
			return -1
		default:
			return 1
		}
	})
	return found
}

// under reports whether pointer is place or below it.
func under(pointer, place string) bool {
	return strings.HasPrefix(pointer, place) && (len(pointer) == len(place) || pointer[len(place)] == '/')
}

// Of reads the vocabulary of a rule. The error is the *ruleset.LoadError of a rule that does not compile.
func Of(r *ruleset.Rule) (*Vocabulary, error) {
	syntax, err := r.Syntax()
	if err != nil {
		return nil, err
	}
	m := newMiner(syntax)
	v := &Vocabulary{Beside: map[string][]Literal{}}
	reads := map[string]bool{}
	for _, name := range ruleset.EntryNames() {
		rules := m.compiler.GetRulesWithPrefix(r.Entry(name))
		if len(rules) > 0 {
			v.Answers = append(v.Answers, name)
		}
		for _, rule := range rules {
			found := m.rule(rule)
			maps.Copy(reads, found.paths)
			if name != "hub" {
				continue
			}
			for literal := range found.literals {
				if text, ok := literal.Value.(string); ok && !slices.Contains(v.Hubs, text) {
					v.Hubs = append(v.Hubs, text)
				}
			}
		}
	}
	slices.Sort(v.Hubs)
	v.Calls = slices.Sorted(maps.Keys(m.calls))
	v.Reads = slices.Sorted(maps.Keys(reads))
	for place, literals := range m.beside {
		v.Beside[place] = slices.SortedFunc(maps.Keys(literals), compareLiterals)
	}
	return v, nil
}

// DecidesBy lists the places of the input, as JSON pointers, that the rule reads to reject or hold a device and to name a
// hub. Like a [Vocabulary], it rather lists too much. The error is the *ruleset.LoadError of a rule that does not compile.
func DecidesBy(r *ruleset.Rule) ([]string, error) {
	syntax, err := r.Syntax()
	if err != nil {
		return nil, err
	}
	m := newMiner(syntax)
	reads := map[string]bool{}
	for _, name := range []string{"reject", "hold", "hub"} {
		for _, rule := range m.compiler.GetRulesWithPrefix(r.Entry(name)) {
			maps.Copy(reads, m.rule(rule).paths)
		}
	}
	return slices.Sorted(maps.Keys(reads)), nil
}

func compareLiterals(a, b Literal) int {
	return cmp.Or(strings.Compare(textOf(a.Value), textOf(b.Value)), strings.Compare(a.Use, b.Use))
}

func textOf(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// sources are what a term may stem from.
type sources struct {
	paths    map[string]bool
	literals map[Literal]bool
}

func newSources() *sources {
	return &sources{paths: map[string]bool{}, literals: map[Literal]bool{}}
}

// add reports whether there was anything new.
func (s *sources) add(other *sources) bool {
	if other == nil {
		return false
	}
	before := len(s.paths) + len(s.literals)
	maps.Copy(s.paths, other.paths)
	maps.Copy(s.literals, other.literals)
	return len(s.paths)+len(s.literals) > before
}

// miner walks the compiled rules that a rule refers to.
type miner struct {
	compiler *ast.Compiler
	all      ast.Value
	deep     map[*ast.Rule]*sources // of rules that were walked
	stored   map[string]*sources    // of data, by reference
	beside   map[string]map[Literal]bool
	getFrom  map[*ast.Expr]ast.Ref // what a call of object.get reads from, if that is the input
	named    map[*ast.Expr]bool    // expressions that do no more than name it for such a call
	calls    map[string]bool       // of built-in functions
}

func newMiner(syntax ruleset.Syntax) *miner {
	return &miner{compiler: syntax.Compiler, all: syntax.Data,
		deep: map[*ast.Rule]*sources{}, calls: map[string]bool{}, getFrom: map[*ast.Expr]ast.Ref{}, named: map[*ast.Expr]bool{},
		stored: map[string]*sources{}, beside: map[string]map[Literal]bool{}}
}

// rule returns all that a rule's answer may depend on.
func (m *miner) rule(r *ast.Rule) *sources {
	if known := m.deep[r]; known != nil {
		return known
	}
	all := newSources()
	m.deep[r] = all // Rego has no recursion; this keeps a walk of broken rules finite, too
	locals := map[ast.Var]*sources{}
	for _, term := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if term != nil {
			all.add(m.term(locals, term, ""))
		}
	}
	for _, step := range r.Head.Reference[1:] {
		all.add(m.term(locals, step, "lookup"))
	}
	var expressions []*ast.Expr
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		expressions = append(expressions, ruleset.Written(ast.Body{e})...)
		return false
	})
	m.findGets(r, expressions)
	// A local variable may stem from one that a later expression binds.
	for range 8 {
		changed := false
		for _, e := range expressions {
			changed = m.bind(locals, e) || changed
		}
		if !changed {
			break
		}
	}
	for _, e := range expressions {
		all.add(m.expression(locals, e))
	}
	for _, term := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if term != nil {
			all.add(m.term(locals, term, ""))
		}
	}
	if r.Else != nil {
		all.add(m.rule(r.Else))
	}
	if r.Module != nil && ruleset.PackageName(r.Module) == libraryPackage {
		// The library's own words, such as the names of reprovision policies,
		// say nothing of what the author is looking for.
		maps.DeleteFunc(all.literals, func(l Literal, _ bool) bool { return !l.Data })
	}
	return all
}

// libraryPackage is rules/lib.
const libraryPackage = "dps"

// bind follows what an expression assigns to local variables.
func (m *miner) bind(locals map[ast.Var]*sources, e *ast.Expr) bool {
	changed := false
	into := func(term *ast.Term, from *sources) {
		name, ok := term.Value.(ast.Var)
		if !ok {
			return
		}
		if locals[name] == nil {
			locals[name] = newSources()
		}
		changed = locals[name].add(from) || changed
	}
	if every, ok := e.Terms.(*ast.Every); ok {
		from := m.term(locals, every.Domain, "every")
		into(every.Value, from)
		if every.Key != nil {
			into(every.Key, from)
		}
	}
	if e.IsCall() {
		operands := e.Operands()
		use := e.Operator().String()
		switch {
		case len(operands) == 2 && (e.IsEquality() || e.IsAssignment()):
			into(operands[0], m.term(locals, operands[1], use))
			into(operands[1], m.term(locals, operands[0], use))
		case len(operands) > 0 && m.hasOutput(e, len(operands)):
			from := newSources()
			for i := range operands[:len(operands)-1] {
				from.add(m.operand(locals, e, i))
			}
			from.add(m.called(e))
			into(operands[len(operands)-1], from)
		case strings.HasPrefix(use, "internal.member"):
			into(operands[0], m.term(locals, operands[len(operands)-1], use))
		}
	}
	ast.WalkRefs(e, func(ref ast.Ref) bool {
		for i, step := range ref[1:] {
			if _, ok := step.Value.(ast.Var); ok {
				into(step, m.ref(locals, ref[:i+1]))
			}
		}
		return false
	})
	return changed
}

// hasOutput reports whether the last operand of a call takes the result.
func (m *miner) hasOutput(e *ast.Expr, operands int) bool {
	if builtin := m.compiler.GetArity(e.Operator()); builtin >= 0 {
		return operands == builtin+1
	}
	return false
}

// called returns what a function of the author's own depends on by itself.
func (m *miner) called(e *ast.Expr) *sources {
	all := newSources()
	for _, function := range m.compiler.GetRulesExact(e.Operator()) {
		all.add(m.rule(function))
	}
	return all
}

// expression returns what an expression depends on, and notes which constants
// it brings together with which places of the input.
func (m *miner) expression(locals map[ast.Var]*sources, e *ast.Expr) *sources {
	all := newSources()
	if m.named[e] {
		return all
	}
	var operands []*sources
	use := "holds"
	switch terms := e.Terms.(type) {
	case *ast.Term:
		operands = append(operands, m.term(locals, terms, use))
	case []*ast.Term:
		use = e.Operator().String()
		if !e.Operator().HasPrefix(ast.DefaultRootRef) {
			m.calls[use] = true
		}
		given := len(e.Operands())
		if given > 0 && m.hasOutput(e, given) {
			given-- // what comes out has not been compared with what goes in
		}
		for i := range given {
			operands = append(operands, m.operand(locals, e, i))
		}
		operands = append(operands, m.called(e))
	case *ast.Every:
		operands = append(operands, m.term(locals, terms.Domain, "every"))
	}
	for _, with := range e.With {
		operands = append(operands, m.term(locals, with.Value, "with"))
	}
	brings := !builds(use) && !aliases(e)
	for i, a := range operands {
		all.add(a)
		for j, b := range operands {
			if i != j && brings {
				m.associate(a, b, use)
			}
		}
	}
	// What is looked up by a place of the input, such as data.hubs[input.x].
	ast.WalkRefs(e, func(ref ast.Ref) bool {
		for i, step := range ref[1:] {
			if _, constant := step.Value.(ast.String); !constant {
				m.associate(m.term(locals, step, "lookup"), m.ref(locals, ref[:i+1]), "lookup")
			}
		}
		return false
	})
	return all
}

// builds reports whether a function makes something new of its operands, so that
// they meet without being compared.
func builds(function string) bool {
	switch function {
	case "concat", "sprintf", "object.union", "object.union_n", "object.remove", "json.remove", "json.patch", "json.filter",
		"array.concat", "lower", "upper", "count":
		return true
	}
	return false
}

// aliases reports whether an expression does no more than name a value: what is
// assigned to a variable is not compared with it, unless it is a constant.
func aliases(e *ast.Expr) bool {
	if !e.IsCall() || !e.IsEquality() && !e.IsAssignment() || len(e.Operands()) != 2 {
		return false
	}
	for i, operand := range e.Operands() {
		if _, variable := operand.Value.(ast.Var); variable {
			switch e.Operand(1 - i).Value.(type) {
			case ast.String, ast.Number, ast.Boolean:
			default:
				return true
			}
		}
	}
	return false
}

// findGets finds the calls of object.get on an object of the input, which read one
// member and not the others. The compiler gives that object a name first.
func (m *miner) findGets(r *ast.Rule, expressions []*ast.Expr) {
	names := map[ast.Var]*ast.Expr{}
	for _, e := range expressions {
		if e.IsEquality() && len(e.Operands()) == 2 {
			name, isName := e.Operand(0).Value.(ast.Var)
			from, isRef := e.Operand(1).Value.(ast.Ref)
			if isName && isRef && from.HasPrefix(ast.InputRootRef) && len(from.ConstantPrefix()) == len(from) {
				names[name] = e
			}
		}
	}
	uses := map[ast.Var]int{}
	ast.WalkVars(r, func(v ast.Var) bool {
		uses[v]++
		return false
	})
	for _, e := range expressions {
		if !e.IsCall() || e.Operator().String() != "object.get" {
			continue
		}
		name, _ := e.Operand(0).Value.(ast.Var)
		if named := names[name]; named != nil && uses[name] == 2 && len(e.With)+len(named.With) == 0 {
			m.getFrom[e] = named.Operand(1).Value.(ast.Ref)
			m.named[named] = true
		}
	}
}

// operand returns what an operand of a call may stem from.
func (m *miner) operand(locals map[ast.Var]*sources, e *ast.Expr, i int) *sources {
	operands := e.Operands()
	object, known := m.getFrom[e]
	if i > 0 || !known {
		return m.term(locals, operands[i], e.Operator().String())
	}
	steps := ast.Ref{operands[1]}
	if path, ok := operands[1].Value.(*ast.Array); ok {
		steps = steps[:0]
		path.Foreach(func(step *ast.Term) { steps = append(steps, step) })
	}
	all := newSources()
	all.paths[pointer(pointer("", object[1:]), steps)] = true
	return all
}

func (m *miner) associate(a, b *sources, use string) {
	for place := range a.paths {
		if m.beside[place] == nil {
			m.beside[place] = map[Literal]bool{}
		}
		for literal := range b.literals {
			if _, truth := literal.Value.(bool); truth && use == "holds" {
				continue
			}
			if literal.Use != "" {
				m.beside[place][literal] = true
			}
			literal.Use = use
			m.beside[place][literal] = true
		}
	}
}

// term returns what a term may stem from.
func (m *miner) term(locals map[ast.Var]*sources, term *ast.Term, use string) *sources {
	all := newSources()
	literal := func(value any) { all.literals[Literal{Value: value, Use: use}] = true }
	switch v := term.Value.(type) {
	case ast.String:
		literal(string(v))
	case ast.Number:
		literal(json.Number(v))
	case ast.Boolean:
		literal(bool(v))
	case ast.Var:
		all.add(locals[v])
	case ast.Ref:
		return m.ref(locals, v)
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { all.add(m.term(locals, t, use)) })
		if steps, ok := textsOf(v); ok {
			literal(strings.Join(steps, "/")) // perhaps a path, as object.get takes it
		}
	case ast.Set:
		v.Foreach(func(t *ast.Term) { all.add(m.term(locals, t, use)) })
	case ast.Object:
		v.Foreach(func(key, value *ast.Term) {
			all.add(m.term(locals, key, use))
			all.add(m.term(locals, value, use))
		})
	case *ast.ArrayComprehension:
		all.add(m.term(locals, v.Term, use))
		m.body(locals, v.Body, all)
	case *ast.SetComprehension:
		all.add(m.term(locals, v.Term, use))
		m.body(locals, v.Body, all)
	case *ast.ObjectComprehension:
		all.add(m.term(locals, v.Key, use))
		all.add(m.term(locals, v.Value, use))
		m.body(locals, v.Body, all)
	case ast.Call:
		for _, t := range v[1:] {
			all.add(m.term(locals, t, use))
		}
	}
	return all
}

// textsOf returns the elements of a short array of texts.
func textsOf(array *ast.Array) ([]string, bool) {
	var texts []string
	array.Foreach(func(t *ast.Term) {
		if text, ok := t.Value.(ast.String); ok {
			texts = append(texts, string(text))
		}
	})
	return texts, len(texts) == array.Len() && len(texts) > 1 && len(texts) < 6
}

func (m *miner) body(locals map[ast.Var]*sources, body ast.Body, all *sources) {
	for _, e := range body {
		all.add(m.expression(locals, e))
	}
}

// ref returns what a reference may stem from: a place of the input, rules, data.
func (m *miner) ref(locals map[ast.Var]*sources, ref ast.Ref) *sources {
	all := newSources()
	if len(ref) == 0 {
		return all
	}
	for _, step := range ref[1:] {
		if _, constant := step.Value.(ast.String); !constant {
			all.add(m.term(locals, step, "lookup"))
		}
	}
	switch {
	case ref.HasPrefix(ast.InputRootRef):
		all.paths[pointer("", ref[1:])] = true
	case !ref.HasPrefix(ast.DefaultRootRef):
		if name, ok := ref[0].Value.(ast.Var); ok {
			all.add(m.beyond(locals[name], ref[1:]))
		}
	default:
		rules := m.compiler.GetRulesForVirtualDocument(ref)
		if len(rules) == 0 {
			rules = m.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true})
		}
		for _, rule := range rules {
			own := len(rule.Ref().GroundPrefix())
			all.add(m.beyond(m.rule(rule), ref[min(own, len(ref)):]))
		}
		all.add(m.data(ref))
	}
	return all
}

// beyond returns what the steps of a reference beyond its head may stem from. A
// constant step may be a key that is looked up in what depends on the input, such
// as a hub among those linked.
func (m *miner) beyond(head *sources, steps ast.Ref) *sources {
	if head == nil || len(steps) == 0 {
		return head
	}
	keys := newSources()
	for _, step := range steps {
		if key, ok := step.Value.(ast.String); ok {
			keys.literals[Literal{Value: string(key), Use: "lookup"}] = true
		}
	}
	m.associate(head, keys, "lookup")
	all := newSources()
	all.add(extended(head, steps))
	all.add(keys)
	return all
}

// extended adds the steps of a reference to the places that its head stems from.
func extended(s *sources, steps ast.Ref) *sources {
	if s == nil || len(steps) == 0 {
		return s
	}
	longer := newSources()
	longer.add(s)
	for place := range s.paths {
		// A text has no members; and a chain of such steps could grow without end.
		if !isText(place) && strings.Count(place, "/") < 10 {
			longer.paths[pointer(place, steps)] = true
		}
	}
	return longer
}

// isText reports whether the place holds a text or a list of texts by the schema.
func isText(place string) bool {
	last := place[strings.LastIndexByte(place, '/')+1:]
	return strings.HasSuffix(last, "Id") || strings.HasSuffix(last, "HostName") || last == "linkedHubs"
}

// pointer writes a reference's constant steps as a JSON pointer, up to the first variable.
func pointer(from string, steps ast.Ref) string {
	for _, step := range steps {
		name, ok := step.Value.(ast.String)
		if !ok {
			break
		}
		from += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(string(name))
	}
	return from
}

// maxStored bounds how many constants are taken from the data below one
// reference. Beyond it they are taken evenly.
const maxStored = 300

// data returns the constants below a reference to data.
func (m *miner) data(ref ast.Ref) *sources {
	prefix := ref.ConstantPrefix()
	key := prefix.String()
	if known := m.stored[key]; known != nil {
		return known
	}
	all := newSources()
	m.stored[key] = all
	if len(prefix) == 1 {
		return all // all of data: nothing to be learnt
	}
	value, err := m.all.Find(prefix[1:])
	if err != nil {
		return all // not in data, or a rule
	}
	var found []any
	constantsOf(ast.NewTerm(value), &found)
	step := 1 + (len(found)-1)/maxStored
	for i := 0; i < len(found); i += step {
		all.literals[Literal{Value: found[i], Use: "lookup", Data: true}] = true
	}
	return all
}

func constantsOf(term *ast.Term, found *[]any) {
	switch v := term.Value.(type) {
	case ast.String:
		*found = append(*found, string(v))
	case ast.Number:
		*found = append(*found, json.Number(v))
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { constantsOf(t, found) })
	case ast.Object:
		for _, key := range v.Keys() { // in order
			constantsOf(key, found)
			constantsOf(v.Get(key), found)
		}
	}
}
