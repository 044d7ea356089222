package explanation

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// terms collects what an expression refers to.
type terms struct {
	*explainer
	solutions []solution
	list      []Term
}

func (t *terms) add(term Term) {
	term.Text = strings.TrimSpace(term.Text)
	if term.Text == "" || t.has(term.Text) {
		return
	}
	if term.Values == nil {
		term.Values = []any{}
	}
	t.list = append(t.list, term)
}

func (t *terms) has(text string) bool {
	return slices.ContainsFunc(t.list, func(term Term) bool { return term.Text == text })
}

// part shows a part of an expression that holds.
func (t *terms) part(expr *ast.Expr) {
	if variable, ok := assigned(expr); ok && expr.Generated {
		t.variables(expr.Operand(1))
		t.term(expr.Operand(1), variable, expr.With)
		return
	}
	t.operands(expr)
	if expr.IsCall() && !expr.IsEquality() && expr.Generated && len(expr.Operands()) > 0 {
		if variable, ok := expr.Operand(len(expr.Operands()) - 1).Value.(ast.Var); ok {
			t.add(Term{Text: exprText(expr), Values: t.bound(variable)})
		}
	}
}

// assigned is the variable on the left side of an equality.
func assigned(expr *ast.Expr) (ast.Var, bool) {
	if !expr.IsEquality() {
		return "", false
	}
	variable, ok := expr.Operand(0).Value.(ast.Var)
	return variable, ok
}

// culprit shows the part that does not hold.
func (t *terms) culprit(expr *ast.Expr) {
	if variable, ok := assigned(expr); ok && t.solutions[0][variable] == nil {
		t.variables(expr.Operand(1))
		t.undefined(expr.Operand(1), expr.With)
		return
	}
	if term, ok := expr.Terms.(*ast.Term); ok {
		t.variables(term)
		t.undefined(term, expr.With)
		return
	}
	t.operands(expr)
	if !expr.IsCall() || expr.IsEquality() || len(expr.With) > 0 {
		return
	}
	rules := t.compiler.GetRulesForVirtualDocument(expr.Operator())
	if len(rules) == 0 {
		return
	}
	args := plugAll(expr.Operands()[:len(rules[0].Head.Args)], t.solutions[0])
	call := Term{Text: strings.TrimPrefix(exprText(expr), "not ")}
	applied := ast.NewExpr(slices.Concat([]*ast.Term{ast.NewTerm(expr.Operator())}, args, []*ast.Term{ast.NewTerm(result)}))
	if s, ok := t.holds(ast.NewBody(applied)); ok {
		if value, ok := toJSON(s[result].Value); ok {
			call.Values = []any{value}
		}
	}
	t.define(&call, rules, args, fmt.Sprint(expr.Operator(), args))
	t.add(call)
}

// operands shows what the operands of a call or a comparison stand for.
func (t *terms) operands(expr *ast.Expr) {
	if term, ok := expr.Terms.(*ast.Term); ok {
		t.variables(term)
		t.term(term, "", expr.With)
		return
	}
	if !expr.IsCall() {
		return
	}
	for _, operand := range expr.Operands() {
		t.variables(operand)
		if _, isRef := operand.Value.(ast.Ref); isRef {
			t.term(operand, "", expr.With)
		}
	}
}

// origins shows what the variables of an expression were assigned from.
func (t *terms) origins(before ast.Body, expr *ast.Expr) {
	used := map[ast.Var]bool{}
	ast.WalkVars(expr, func(variable ast.Var) bool {
		used[variable] = true
		return false
	})
	for _, assignment := range before {
		if variable, ok := assigned(assignment); !ok || assignment.Generated || !used[variable] {
			continue
		}
		for _, part := range before {
			if part.BaseCogeneratedExpr() == assignment.BaseCogeneratedExpr() {
				t.part(part)
			}
		}
	}
}

// variables shows the author's variables in a term or an expression.
func (t *terms) variables(in any) {
	ast.WalkVars(in, func(variable ast.Var) bool {
		written := variable
		if rewritten, ok := t.compiler.RewrittenVars[variable]; ok {
			written = rewritten
		}
		if values := t.bound(variable); len(values) > 0 && !written.IsGenerated() && !written.IsWildcard() {
			t.add(Term{Text: string(written), Values: values})
		}
		return false
	})
}

// bound lists the values that a variable has in the solutions.
func (t *terms) bound(variable ast.Var) []any {
	var values []any
	for _, s := range t.solutions {
		if term := s[variable]; term != nil {
			values = addValue(values, term.Value)
		}
	}
	return values
}

func addValue(list []any, value ast.Value) []any {
	if converted, ok := toJSON(value); ok && !containsValue(list, converted) {
		return append(list, converted)
	}
	return list
}

// term shows a reference. If a variable has its value, the values are those of the variable.
func (t *terms) term(term *ast.Term, variable ast.Var, with []*ast.With) {
	ref, ok := term.Value.(ast.Ref)
	if !ok {
		if values := t.bound(variable); len(values) > 0 && !term.IsGround() { // a constant needs no explanation
			t.add(Term{Text: t.sourceOf(term), Values: values})
		}
		return
	}
	shown := Term{Text: t.sourceOf(term), Values: t.bound(variable)}
	if _, isRoot := ref[0].Value.(ast.Var); isGenerated(shown.Text) && isRoot && !ast.RootDocumentNames.Contains(ref[0]) {
		t.variables(ref[0]) // as in some x in xs, where xs is a variable
		return
	}
	if isGenerated(shown.Text) { // as in some x in xs, where the author has not named the key
		ref = ref.GroundPrefix()
		term, variable = ast.NewTerm(ref), ""
		shown = Term{Text: t.pathText(ref)}
	}
	if variable == "" {
		for _, s := range t.solutions {
			shown.Values = addValue(shown.Values, t.value(plug(term, s), with))
		}
	}
	if len(shown.Values) == 0 {
		t.undefined(term, with)
		return
	}
	switch {
	case len(with) > 0:
		shown.Why = underWith
	case ref.HasPrefix(ast.DefaultRootRef):
		t.follow(&shown, plug(term, t.solutions[0]).Value.(ast.Ref))
	}
	t.add(shown)
}

// follow shows the definitions behind a reference, unless they are in the library that every author knows.
func (t *terms) follow(shown *Term, ref ast.Ref) {
	if rules := t.compiler.GetRulesForVirtualDocument(ref); len(rules) > 0 && !ruleset.InLibrary(rules[0]) {
		t.define(shown, rules, nil, ref[:min(depthOf(rules[0]), len(ref))].String())
	}
}

// undefined shows a term that has no value or is false, and the reason.
func (t *terms) undefined(term *ast.Term, with []*ast.With) {
	shown := Term{Text: t.sourceOf(term)}
	plugged := plug(term, t.solutions[0])
	ref, ok := plugged.Value.(ast.Ref)
	if !ok {
		shown.Values = addValue(nil, t.value(plugged, with))
		t.add(shown)
		return
	}
	ground := ref.GroundPrefix()
	shown.Values = addValue(nil, t.value(ast.NewTerm(ground), with))
	switch {
	case len(shown.Values) > 0 && len(ground) == len(ref):
		if len(with) == 0 {
			t.defineRef(&shown, ground)
		}
	case len(shown.Values) > 0:
		shown.Text, shown.Why = t.pathText(ground), noElement(shown.Values[0])
	case len(with) > 0:
		shown.Why = underWith
	default:
		shown.Why = t.missing(ground)
		if !ground.HasPrefix(ast.InputRootRef) && !ground.HasPrefix(ast.DefaultRootRef) {
			shown.Why = t.missingInLocal(term.Value.(ast.Ref), ground)
		}
		t.defineRef(&shown, ground)
	}
	t.add(shown)
}

// Empty is why nothing in a collection fits that has no element.
const Empty = "it is empty"

// noElement says why an expression about each element of a value has no solution.
func noElement(value any) string {
	size := -1
	switch v := value.(type) {
	case []any:
		size = len(v)
	case map[string]any:
		size = len(v)
	}
	switch size {
	case -1:
		return "it has no elements"
	case 0:
		return Empty
	default:
		return "no element of it fits"
	}
}

// defineRef shows the definitions behind a reference to a rule.
func (t *terms) defineRef(shown *Term, ref ast.Ref) {
	rules := t.compiler.GetRulesForVirtualDocument(ref)
	if len(rules) == 0 || !ref.HasPrefix(ast.DefaultRootRef) {
		return
	}
	depth := min(depthOf(rules[0]), len(ref))
	if depth < len(ref) && len(shown.Values) == 0 && isComplete(rules) && t.value(ast.NewTerm(ref[:depth]), nil) != nil {
		return // the rule has a value, which lacks the member: missing has reported that
	}
	t.define(shown, rules, nil, ref[:depth].String())
}

// isComplete reports whether each definition gives the whole value, rather than an element of a set or a member of an
// object.
func isComplete(rules []*ast.Rule) bool {
	return !slices.ContainsFunc(rules, func(rule *ast.Rule) bool {
		return rule.Head.RuleKind() == ast.MultiValue || depthOf(rule) < len(rule.Ref())
	})
}

// define shows the definitions of a rule, once in an explanation.
func (t *terms) define(shown *Term, rules []*ast.Rule, args []*ast.Term, key string) {
	switch {
	case t.shallow:
	case t.seen[key]:
		shown.Repeated = true
	default:
		t.seen[key] = true
		shown.Definitions = t.definitions(rules, args, depthOf(rules[0]))
	}
}

// depthOf is the length of the constant path of a rule.
func depthOf(rule *ast.Rule) int { return len(rule.Ref().ConstantPrefix()) }

// missing says where a path ends.
func (t *terms) missing(ref ast.Ref) string {
	if ref.HasPrefix(ast.InputRootRef) {
		return t.missingInRequest(ref)
	}
	start := 1
	if rules := t.compiler.GetRulesForVirtualDocument(ref); len(rules) > 0 {
		if start = depthOf(rules[0]); start >= len(ref) || t.value(ast.NewTerm(ref[:start]), nil) == nil {
			return ""
		}
	}
	for i := start; i < len(ref); i++ {
		if t.value(ast.NewTerm(ref[:i+1]), nil) == nil {
			return fmt.Sprintf("%s has no %s", t.pathText(ref[:i]), ref[i])
		}
	}
	return ""
}

// missingInLocal says where a path below a variable ends; ref has the variable's value at its head.
func (t *terms) missingInLocal(written, ref ast.Ref) string {
	variable, isVar := written[0].Value.(ast.Var)
	if _, unbound := ref[0].Value.(ast.Var); unbound || !isVar {
		return "undefined"
	}
	around := written.Copy()
	if name, ok := t.compiler.RewrittenVars[variable]; ok {
		around[0] = ast.VarTerm(string(name))
	}
	for i := 1; i < len(ref); i++ {
		if _, err := ref[0].Value.Find(ref[1 : i+1]); err != nil && !isGenerated(around[:i].String()) {
			return fmt.Sprintf("%s has no %s", around[:i], ref[i])
		}
	}
	return "undefined"
}

func (t *terms) missingInRequest(ref ast.Ref) string {
	var at any = t.document
	var pointer jsontext.Pointer
	for _, step := range ref[1:] {
		key, _ := toJSON(step.Value)
		name := fmt.Sprint(key)
		pointer = pointer.AppendToken(name)
		found := false
		switch container := at.(type) {
		case map[string]any:
			at, found = container[name]
		case []any:
			index, isNumber := key.(json.Number)
			if n, err := index.Int64(); isNumber && err == nil && n >= 0 && n < int64(len(container)) {
				at, found = container[n], true
			}
		default:
			return fmt.Sprintf("the request has no %s, because the value around it is neither an object nor an array", pointer)
		}
		if !found {
			return fmt.Sprintf("the request has no %s", pointer)
		}
	}
	return "undefined"
}

// uses shows what a definition that holds refers to.
func (x *explainer) uses(rule *ast.Rule, s solution) []Term {
	t := terms{explainer: x, solutions: []solution{s}}
	for _, expr := range ruleset.Written(rule.Body) {
		if expr.Negated {
			t.culprit(expr) // why what it negates does not hold
			continue
		}
		if len(expr.With) > 0 {
			t.supposed(expr)
			continue
		}
		t.variables(expr)
		ast.WalkTerms(expr, func(term *ast.Term) bool {
			ref, isRef := term.Value.(ast.Ref)
			isOperator := isRef && expr.IsCall() && expr.Operator().Equal(ref)
			if isRef && !isOperator && (ref.HasPrefix(ast.InputRootRef) || ref.HasPrefix(ast.DefaultRootRef)) {
				t.use(term, ref)
			}
			return false
		})
		t.call(rule, expr)
	}
	return t.list
}

// underWith is why nothing is shown behind a term: the other definitions are those for the request as it is.
const underWith = "evaluated under with, so its lines are not traced"

// supposed shows an expression that holds under with.
func (t *terms) supposed(expr *ast.Expr) {
	if variable, ok := assigned(expr); ok {
		t.variables(ast.NewTerm(variable))
		t.term(expr.Operand(1), variable, expr.With)
		return
	}
	if term, ok := expr.Terms.(*ast.Term); ok {
		t.term(term, "", expr.With)
		return
	}
	call := Term{Text: exprText(expr), Why: underWith}
	if operands := expr.Operands(); len(operands) > 0 {
		if variable, ok := operands[len(operands)-1].Value.(ast.Var); ok {
			call.Values = t.bound(variable)
		}
	}
	t.add(call)
}

// use shows a reference in a definition that holds.
func (t *terms) use(term *ast.Term, ref ast.Ref) {
	plugged := plug(term, t.solutions[0]).Value.(ast.Ref)
	ground := plugged.GroundPrefix()
	shown := Term{Text: t.sourceOf(term), Values: addValue(nil, t.value(ast.NewTerm(ground), nil))}
	if len(ground) < len(plugged) {
		shown.Text = t.pathText(ground)
	}
	if isGenerated(shown.Text) && len(shown.Values) > 0 {
		ground = ref.GroundPrefix()
		shown = Term{Text: t.pathText(ground), Values: addValue(nil, t.value(ast.NewTerm(ground), nil))}
	}
	if len(shown.Values) == 0 {
		return
	}
	if !t.has(shown.Text) {
		t.follow(&shown, ground)
	}
	t.add(shown)
}

// call shows a call in a definition that holds, with the definitions of the function.
func (t *terms) call(rule *ast.Rule, expr *ast.Expr) {
	if !expr.IsCall() {
		return
	}
	rules := t.compiler.GetRulesForVirtualDocument(expr.Operator())
	if len(rules) == 0 {
		return
	}
	operands, arity := expr.Operands(), len(rules[0].Head.Args)
	call := Term{Text: exprText(expr)}
	isHead := false // it is the value of the whole definition
	if arity < len(operands) {
		if variable, ok := operands[arity].Value.(ast.Var); ok {
			call.Values = t.bound(variable)
			isHead = rule.Head.Value != nil && rule.Head.Value.Value.Compare(variable) == 0
		}
	}
	switch {
	case !ruleset.InLibrary(rules[0]):
		args := plugAll(operands[:arity], t.solutions[0])
		t.define(&call, rules, args, fmt.Sprint(expr.Operator(), args))
	case isHead || !expr.Generated:
		return // its value is already shown
	}
	t.add(call)
}
