package lint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// lookupUses calls look with the look-ups that each entry rule depends on.
func (s *subject) lookupUses(look func(entry string, d *lookups.Declaration, use dataflow.Use)) {
	for _, d := range s.set.Lookups() {
		s.eachUse(func(entry string, use dataflow.Use) { look(entry, d, use) }, ruleset.LookupBuiltin(d.Name))
	}
}

// declared returns the look-up that an expression asks, with the term of the key; nil if it asks none.
func (s *subject) declared(expr *ast.Expr) (*lookups.Declaration, *ast.Term) {
	if !expr.IsCall() || expr.IsEquality() || len(expr.Operands()) == 0 {
		return nil, nil
	}
	name, _ := ruleset.LookupName(expr.Operator().String())
	for _, d := range s.set.Lookups() {
		if d.Name == name {
			return d, expr.Operand(0)
		}
	}
	return nil, nil
}

// keyPicks finds look-ups in reject and hold whose keys the device wrote: it can name another device's row.
func keyPicks(s *subject, add report) {
	s.lookupUses(func(entry string, d *lookups.Declaration, use dataflow.Use) {
		words := use.Picks()
		if entry != "reject" && entry != "hold" && entry != "hub" || len(words) == 0 {
			return
		}
		at := words[0].Location
		if at == nil || !s.analysis.Home[at.File] {
			at = use.Location
		}
		add(at, fmt.Sprintf("%s depends on a row of look-up %s that the device chooses by %s, which it can set to anything", entry, d.Name, words[0].Name()),
			"look up the registration ID, or compare a member of the row with it")
	})
}

// lookupLoop finds look-ups that are asked for each element of something.
func lookupLoop(_ context.Context, s *subject, add report) {
	l := loops{subject: s, asks: map[string][]bool{}}
	for changed := true; changed; { // which functions ask with their arguments
		changed = false
		for _, module := range s.compiler.Modules {
			for _, rule := range module.Rules {
				changed = l.learn(rule) || changed
			}
		}
	}
	for _, module := range s.modules {
		for _, rule := range module.Rules {
			for r := rule; r != nil; r = r.Else {
				l.body(r.Body, ast.VarSet{}, func(expr *ast.Expr, what string) {
					add(expr.Location, fmt.Sprintf("%s is asked once for each element, and the device decides or the data says how many there are", what),
						"look up one key, or let the source answer for all of them in one row")
				})
			}
		}
	}
}

// loops finds what is asked for each element.
type loops struct {
	*subject
	asks map[string][]bool // by function: whether it asks a look-up with an argument
}

// learn notes whether a function asks with its arguments, and reports whether that is new.
func (l *loops) learn(rule *ast.Rule) bool {
	if len(rule.Head.Args) == 0 {
		return false
	}
	name := rule.Ref().String()
	if l.asks[name] == nil {
		l.asks[name] = make([]bool, len(rule.Head.Args))
	}
	changed := false
	for i, arg := range rule.Head.Args {
		if i >= len(l.asks[name]) || l.asks[name][i] {
			continue
		}
		vars := ast.VarSet{}
		ast.WalkVars(arg, func(v ast.Var) bool { vars.Add(v); return false })
		l.body(rule.Body, vars, func(*ast.Expr, string) {
			changed = changed || !l.asks[name][i]
			l.asks[name][i] = true
		})
	}
	return changed
}

// body goes through a body, in which some variables vary, and reports what is asked with a key that does.
func (l *loops) body(body ast.Body, outer ast.VarSet, found func(expr *ast.Expr, what string)) {
	varies := outer.Copy()
	constant := ast.VarSet{} // that hold a literal
	for _, expr := range body {
		inner := varies
		if every, ok := expr.Terms.(*ast.Every); ok {
			inner = varies.Copy()
			if domain, ok := every.Domain.Value.(ast.Var); !ok || !constant.Contains(domain) {
				for _, t := range []*ast.Term{every.Key, every.Value} {
					if t != nil {
						ast.WalkVars(t, func(v ast.Var) bool { inner.Add(v); return false })
					}
				}
			}
			l.body(every.Body, inner, found)
			continue
		}
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.ArrayComprehension:
				l.body(x.Body, varies, found)
				return true
			case *ast.SetComprehension:
				l.body(x.Body, varies, found)
				return true
			case *ast.ObjectComprehension:
				l.body(x.Body, varies, found)
				return true
			}
			return false
		}).Walk(expr)
		if what := l.asked(expr, varies); what != "" {
			found(expr, what)
		}
		l.bind(expr, varies, constant)
	}
}

// asked names the look-up or the function that an expression asks with a key that varies.
func (l *loops) asked(expr *ast.Expr, varies ast.VarSet) string {
	if d, key := l.declared(expr); d != nil {
		if d.Name != lookups.HubName && mentions(key, varies) { // the hubs' state is in memory
			return "look-up " + d.Name
		}
		return ""
	}
	if !expr.IsCall() {
		return ""
	}
	for i, asks := range l.asks[expr.Operator().String()] {
		if asks && i < len(expr.Operands()) && mentions(expr.Operand(i), varies) {
			name, _ := expr.Operator()[len(expr.Operator())-1].Value.(ast.String)
			return "a look-up in " + string(name)
		}
	}
	return ""
}

func mentions(t *ast.Term, vars ast.VarSet) bool {
	found := false
	ast.WalkVars(t, func(v ast.Var) bool {
		found = found || vars.Contains(v)
		return found
	})
	return found
}

// bind notes which variables vary after an expression: those that a reference iterates over, and what is made of them.
func (l *loops) bind(expr *ast.Expr, varies, constant ast.VarSet) {
	terms, ok := expr.Terms.([]*ast.Term)
	output := outputOf(expr)
	if ok && expr.IsEquality() && output != "" && ast.IsConstant(terms[2].Value) {
		constant.Add(output)
		return
	}
	iterates := false
	ast.WalkRefs(expr, func(ref ast.Ref) bool {
		if head, isVar := ref[0].Value.(ast.Var); isVar && constant.Contains(head) {
			return false
		}
		for _, key := range ref[1:] {
			if v, isVar := key.Value.(ast.Var); isVar && !l.boundOutside(v, expr) {
				varies.Add(v)
				iterates = true
			}
		}
		return false
	})
	if ok && expr.IsCall() && !expr.IsEquality() && expr.Operator().String() == "walk" {
		ast.WalkVars(terms[len(terms)-1], func(v ast.Var) bool { varies.Add(v); return false })
	}
	if output == "" || expr.Negated {
		return
	}
	inputs := terms[1:]
	if expr.IsEquality() {
		inputs = terms[2:]
	} else {
		inputs = inputs[:len(inputs)-1]
	}
	if iterates || slices.ContainsFunc(inputs, func(t *ast.Term) bool { return mentions(t, varies) }) {
		varies.Add(output)
	}
}

// boundOutside reports whether something other than an iteration gives a variable its value: an argument, or an earlier
// expression.
func (l *loops) boundOutside(v ast.Var, by *ast.Expr) bool {
	expr, known := l.origins()[v]
	return known && expr != by
}

// origins are the expressions that bind the variables of the rules; nil for arguments.
func (s *subject) origins() map[ast.Var]*ast.Expr {
	if s.bound != nil {
		return s.bound
	}
	s.bound = map[ast.Var]*ast.Expr{}
	for _, module := range s.compiler.Modules {
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.Head:
				for _, arg := range x.Args {
					ast.WalkVars(arg, func(v ast.Var) bool { s.bound[v] = nil; return false })
				}
			case *ast.Expr:
				if v := outputOf(x); v != "" && !x.Negated {
					if _, known := s.bound[v]; !known {
						s.bound[v] = x
					}
				}
			}
			return false
		}).Walk(module)
	}
	return s.bound
}

// owner reports whether findings about a declaration belong to the subject: to the rule in the folder of its file or,
// if that has none, to the first of all rules.
func (s *subject) owner(d *lookups.Declaration) bool {
	file, _ := ruleset.SplitPlace(d.Place)
	folder := path.Dir(strings.TrimPrefix(file, s.set.Options().Name+"/"))
	all := s.set.Rules()
	i := slices.IndexFunc(all, func(rule *ruleset.Rule) bool {
		file, _ := ruleset.SplitPlace(rule.Place)
		return path.Dir(strings.TrimPrefix(file, s.set.Options().Name+"/")) == folder
	})
	return d.Name != lookups.HubName && all[max(i, 0)] == s.rule
}

// at is the place of a declaration.
func (s *subject) at(d *lookups.Declaration) *ast.Location {
	file, line := ruleset.SplitPlace(d.Place)
	return ast.NewLocation(nil, file, line, 1)
}

func unusedLookup(_ context.Context, s *subject, add report) {
	for _, d := range s.set.Lookups() {
		if s.owner(d) && !s.set.UsesLookup(d.Name) {
			add(s.at(d), fmt.Sprintf("no rule looks anything up in %s", d.Name), "use it in a rule, or remove it with its fixture and its setting")
		}
	}
}

// missingFixtures are the fixtures that are declared and do not exist.
func missingFixtures(fsys fs.FS, set *ruleset.Ruleset) []string {
	var missing []string
	for _, d := range set.Lookups() {
		if d.Fixture == "" {
			continue
		}
		if _, err := fs.Stat(fsys, d.Fixture); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, d.Fixture)
		}
	}
	return missing
}

func missingFixture(_ context.Context, s *subject, add report) {
	for _, d := range s.set.Lookups() {
		if s.owner(d) && slices.Contains(s.missingFixtures, d.Fixture) {
			add(s.at(d), fmt.Sprintf("look-up %s declares the fixture %s, which does not exist", d.Name, d.Fixture),
				"write it, or correct its name: without it, tests of the rules fail at each look-up")
		}
	}
}

// undeclaredColumns finds what the fixtures have that is not declared: that which is almost a declared member, or the
// rest.
func undeclaredColumns(misspelt bool) func(context.Context, *subject, report) {
	return func(_ context.Context, s *subject, add report) {
		for _, d := range s.set.Lookups() {
			table := s.set.Fixtures()[d.Name]
			if table == nil || !s.owner(d) {
				continue
			}
			for _, u := range table.Undeclared() {
				if (u.Meant != "") == misspelt {
					p := u.Problem(d)
					file, line := ruleset.SplitPlace(p.Place)
					add(ast.NewLocation(nil, file, line, 1), p.Message, p.Fix)
				}
			}
		}
	}
}

// absentAdmits finds look-ups whose absence lets a device pass, if a source that fails is taken for absence.
func absentAdmits(_ context.Context, s *subject, add report) {
	refuses := map[string]bool{} // look-ups without whose row the device is refused
	s.lookupUses(func(entry string, d *lookups.Declaration, use dataflow.Use) {
		refuses[d.Name] = refuses[d.Name] || (entry == "reject" || entry == "hold") && use.Negated
	})
	s.lookupUses(func(entry string, d *lookups.Declaration, use dataflow.Use) {
		if d.OnFault != lookups.Absent || refuses[d.Name] {
			return
		}
		guards := entry == "reject" || entry == "hold"
		if guards && use.Plain || entry == "hub" && use.Negated {
			what := "no row, and the device passes"
			if guards {
				what = "no row, and " + entry + " lets the device pass"
			}
			add(use.Location, fmt.Sprintf("if the source of look-up %s fails, on_fault: absent takes it for %s", d.Name, what),
				"declare on_fault: hold or stale")
		}
	})
}

// part is a part of a row.
type part struct {
	of   *lookups.Declaration
	path []string
}

// optional names the first member on the way to a part that a row may lack, or have as null; "" if there is none.
func (p part) optional(nullToo bool) string {
	described := p.of.RowSchema
	for i, name := range p.path {
		required, _ := described["required"].([]any)
		properties, _ := described["properties"].(map[string]any)
		member, _ := properties[name].(map[string]any)
		if properties[name] == nil {
			return ""
		}
		if !slices.Contains(required, any(name)) || nullToo && nullable(member) {
			return strings.Join(p.path[:i+1], ".")
		}
		described = member
	}
	return ""
}

func nullable(described map[string]any) bool {
	types, _ := described["type"].([]any)
	values, _ := described["enum"].([]any)
	return described["type"] == "null" || slices.Contains(types, any("null")) || slices.Contains(values, nil)
}

// partAt is the part of a row that a reference leads to. The reference starts with a variable that has a row or a part of
// one, or with a rule that has one.
func (s *subject) partAt(ref ast.Ref) (part, bool) { return s.partOf(ref, 0) }

// maxParts bounds how many rules and variables lie between a reference and the look-up.
const maxParts = 20

func (s *subject) partOf(ref ast.Ref, depth int) (part, bool) {
	if depth > maxParts || ref.HasPrefix(ast.InputRootRef) {
		return part{}, false
	}
	var start part
	rest := ref[1:]
	if ref.HasPrefix(ast.DefaultRootRef) {
		base := s.rulePart(ref)
		rules := s.compiler.GetRulesExact(base)
		if len(rules) != 1 || rules[0].Else != nil || rules[0].Head.Value == nil || len(rules[0].Head.Args) > 0 {
			return part{}, false
		}
		found, ok := s.partOfTerm(rules[0].Head.Value, depth+1)
		if !ok {
			return part{}, false
		}
		start, rest = found, ref[len(base):]
	} else {
		found, ok := s.partOfTerm(ref[0], depth+1)
		if !ok {
			return part{}, false
		}
		start = found
	}
	for _, key := range rest {
		name, ok := key.Value.(ast.String)
		if !ok {
			break
		}
		start.path = append(slices.Clip(start.path), string(name))
	}
	return start, true
}

func (s *subject) partOfTerm(t *ast.Term, depth int) (part, bool) {
	switch v := t.Value.(type) {
	case ast.Ref:
		return s.partOf(v, depth)
	case ast.Var:
		expr := s.origins()[v]
		if expr == nil {
			return part{}, false
		}
		if d, _ := s.declared(expr); d != nil {
			return part{of: d}, true
		}
		if expr.IsEquality() && depth <= maxParts {
			return s.partOfTerm(expr.Operand(1), depth+1)
		}
	}
	return part{}, false
}

// optionalMember finds entry rules that are undefined, or null, without a member that a row may lack.
func optionalMember(_ context.Context, s *subject, add report) {
	for _, entry := range []string{"hub", "initial_twin", "payload"} {
		at, text := s.lacks(s.compiler.GetRulesExact(s.rule.Entry(entry)), map[*ast.Rule]bool{})
		if text != "" {
			add(at, fmt.Sprintf("%s, which a row may lack; without it, %s is undefined", text, entry),
				"require the member in lookups.yaml, read it by object.get with a default, or add a definition for rows without it")
		}
	}
	for _, module := range s.modules {
		for _, rule := range module.Rules {
			ast.WalkBodies(rule, func(body ast.Body) bool {
				for _, negated := range body {
					if negated.Negated {
						s.negatedMember(rule, body, negated, add)
					}
				}
				return false
			})
		}
	}
}

// negatedMember finds a not whose operand the compiler evaluates before, and which may be undefined because a row lacks a
// member.
func (s *subject) negatedMember(rule *ast.Rule, body ast.Body, negated *ast.Expr, add report) {
	vars := ast.VarSet{}
	ast.WalkVars(negated, func(v ast.Var) bool { vars.Add(v); return false })
	for _, expr := range slices.Backward(body) {
		output := outputOf(expr)
		if expr.Negated || !expr.Generated || output == "" || !vars.Contains(output) || !contains(negated.Location, expr.Location) {
			continue
		}
		ast.WalkVars(expr, func(v ast.Var) bool { vars.Add(v); return false })
		text := ""
		s.memberRefs(expr, func(ref ast.Ref, p part) {
			if name := p.optional(true); name != "" && text == "" && !s.guards(body, expr, p) && !s.refuses(rule, p) {
				text = describe(p, name)
			}
		})
		if text != "" {
			add(negated.Location, fmt.Sprintf("%s, which a row may lack; without it, this not does not hold", text),
				"require the member in lookups.yaml, or define a rule for the negated expression, and negate that rule")
			return
		}
	}
}

func describe(p part, member string) string {
	return fmt.Sprintf("this uses %s of look-up %s", member, p.of.Name)
}

// lacks finds the member of a row without which rules are undefined. If there is more than one definition, or a default,
// another one may be for rows without it.
func (s *subject) lacks(rules []*ast.Rule, active map[*ast.Rule]bool) (at *ast.Location, text string) {
	if len(rules) != 1 || rules[0].Else != nil || rules[0].Default || active[rules[0]] || len(rules[0].Head.Args) > 0 ||
		rules[0].Head.RuleKind() != ast.SingleValue || !rules[0].Ref().IsGround() {
		return nil, ""
	}
	rule := rules[0]
	active[rule] = true
	body := ruleset.Written(rule.Body)
	for _, expr := range body {
		if expr.Negated || !expr.Generated && outputOf(expr) == "" || s.isGuardPart(body, expr, nil) {
			continue // a condition
		}
		s.memberRefs(expr, func(_ ast.Ref, p part) {
			if name := p.optional(true); name != "" && text == "" && !s.guards(body, expr, p) && !s.refuses(rule, p) {
				at, text = expr.Location, describe(p, name)
			}
		})
		if text != "" {
			return at, text
		}
		s.walkDemanded(expr, func(ref ast.Ref) {
			if text == "" && ref.HasPrefix(ast.DefaultRootRef) {
				at, text = s.lacks(s.compiler.GetRulesExact(ref), active)
			}
		})
		if text != "" {
			return at, text
		}
	}
	return nil, ""
}

// memberRefs visits the members of rows that must be defined for an expression to hold.
func (s *subject) memberRefs(expr *ast.Expr, visit func(ast.Ref, part)) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every:
			return true
		case ast.Ref:
			if p, ok := s.partAt(x); ok && len(p.path) > 0 {
				visit(x, p)
			}
		}
		return false
	}).Walk(expr)
}

// guards reports whether a condition in a body is about the same part of a row.
func (s *subject) guards(body ast.Body, not *ast.Expr, p part) bool {
	return slices.ContainsFunc(body, func(other *ast.Expr) bool {
		if other == not || other.Negated || other.Generated && !s.isGuardPart(body, other, not) ||
			!other.Generated && other.IsEquality() && outputOf(other) != "" {
			return false
		}
		found := false
		s.memberRefs(other, func(_ ast.Ref, q part) { found = found || q.of == p.of && slices.Equal(q.path, p.path) })
		return found
	})
}

// isGuardPart reports whether the compiler took a generated expression out of a condition of the author's.
func (s *subject) isGuardPart(body ast.Body, part, not *ast.Expr) bool {
	output := outputOf(part)
	return slices.ContainsFunc(body, func(expr *ast.Expr) bool {
		if expr == not || expr.Generated || expr.Negated || output == "" || expr.IsEquality() && outputOf(expr) != "" {
			return false
		}
		used := false
		ast.WalkVars(expr, func(v ast.Var) bool { used = used || v == output; return used })
		return used
	})
}

// refuses reports whether reject or hold refuse a device whose row lacks a part, as in `hold contains "no hub" if not
// device.hub`, or another definition of the rule is for it.
func (s *subject) refuses(rule *ast.Rule, p part) bool {
	for _, module := range s.modules {
		for _, other := range module.Rules {
			body := ruleset.Written(other.Body)
			name := s.name(other)
			if other == rule || name != s.name(rule) && name != "reject" && name != "hold" {
				continue
			}
			conditions := slices.DeleteFunc(slices.Clone(body), func(e *ast.Expr) bool { return e.Generated })
			if len(conditions) != 1 || !conditions[0].Negated {
				continue
			}
			term, ok := conditions[0].Terms.(*ast.Term)
			if !ok {
				continue
			}
			if ref, ok := term.Value.(ast.Ref); ok {
				if q, ok := s.partAt(ref); ok && q.of == p.of && slices.Equal(q.path, p.path) {
					return true
				}
			}
		}
	}
	return false
}
