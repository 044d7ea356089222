package explanation

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// terms gathers what an expression refers to.
type terms struct {
	*explainer
	solutions []solution
	list      []Term
}

func (t *terms) add(term Term) {
	term.Text = strings.TrimSpace(term.Text)
	if term.Values == nil {
		term.Values = []any{}
	}
	if term.Text == "" || slices.ContainsFunc(t.list, func(other Term) bool { return other.Text == term.Text }) {
		return
	}
	t.list = append(t.list, term)
}

// part shows a part of an expression that holds.
func (t *terms) part(expr *ast.Expr) {
	if expr.IsEquality() {
		left, right := expr.Operand(0), expr.Operand(1)
		if variable, ok := left.Value.(ast.Var); ok && expr.Generated {
			t.variables(right)
			t.term(right, variable, expr.With)
			return
		}
		t.operands(expr)
		return
	}
	if expr.IsCall() {
		operands := expr.Operands()
		t.operands(expr)
		if n := len(operands); n > 0 && expr.Generated {
			if variable, ok := operands[n-1].Value.(ast.Var); ok {
				t.add(Term{Text: exprText(expr), Values: t.bound(variable)})
			}
		}
		return
	}
	t.operands(expr)
}

// culprit shows the part that does not hold.
func (t *terms) culprit(expr *ast.Expr) {
	s := t.solutions[0]
	with := expr.With
	switch {
	case expr.IsEquality():
		left, right := expr.Operand(0), expr.Operand(1)
		if variable, ok := left.Value.(ast.Var); ok && s[variable] == nil {
			t.variables(right)
			t.undefined(right, with)
			return
		}
		t.operands(expr)
	case expr.IsCall():
		t.operands(expr)
		rules := t.compiler.GetRulesForVirtualDocument(expr.Operator())
		if len(rules) == 0 || len(with) > 0 {
			return
		}
		arity := len(rules[0].Head.Args)
		var args []*ast.Term
		for _, operand := range expr.Operands()[:arity] {
			args = append(args, plug(operand, s))
		}
		call := Term{Text: strings.TrimPrefix(exprText(expr), "not ")}
		applied := ast.NewExpr(append([]*ast.Term{ast.NewTerm(expr.Operator())}, append(args, ast.NewTerm(answerName))...))
		if solutions, err := t.solve(ast.NewBody(applied), 1); err == nil && len(solutions) > 0 {
			if value, ok := toJSON(solutions[0][answerName]); ok {
				call.Values = []any{value}
			}
		}
		t.define(&call, rules, args, fmt.Sprint(expr.Operator(), args))
		t.add(call)
	default:
		if term, ok := expr.Terms.(*ast.Term); ok {
			t.variables(term)
			t.undefined(term, with)
		}
	}
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
		if assignment.Generated || !assignment.IsEquality() {
			continue
		}
		if variable, ok := assignment.Operand(0).Value.(ast.Var); !ok || !used[variable] {
			continue
		}
		for _, part := range before {
			if part.BaseCogeneratedExpr() == assignment.BaseCogeneratedExpr() {
				t.part(part)
			}
		}
	}
}

// variables shows the variables of the author's in a term.
func (t *terms) variables(term *ast.Term) {
	ast.WalkVars(term, func(variable ast.Var) bool {
		if name, ok := t.authored(variable); ok {
			if values := t.bound(variable); len(values) > 0 {
				t.add(Term{Text: name, Values: values})
			}
		}
		return false
	})
}

// authored is the name that the author gave a variable, false if it is the compiler's.
func (t *terms) authored(variable ast.Var) (name string, ok bool) {
	if rewritten, ok := t.compiler.RewrittenVars[variable]; ok {
		variable = rewritten
	}
	return string(variable), !variable.IsGenerated() && !variable.IsWildcard()
}

// bound lists the values that a variable has in the solutions.
func (t *terms) bound(variable ast.Var) []any {
	var values []any
	for _, s := range t.solutions {
		if term := s[variable]; term != nil {
			if value, ok := toJSON(term); ok && !containsValue(values, value) {
				values = append(values, value)
			}
		}
	}
	return values
}

// term shows a reference: by the variable that holds its value, if there is one.
func (t *terms) term(term *ast.Term, variable ast.Var, with []*ast.With) {
	ref, ok := term.Value.(ast.Ref)
	if !ok {
		if term.IsGround() || variable == "" {
			return // a constant speaks for itself
		}
		if values := t.bound(variable); len(values) > 0 {
			t.add(Term{Text: t.sourceOf(term), Values: values})
		}
		return
	}
	shown := Term{Text: t.sourceOf(term), Values: t.bound(variable)}
	if _, isRoot := ref[0].Value.(ast.Var); isGenerated(shown.Text) && isRoot && !ast.RootDocumentNames.Contains(ref[0]) {
		t.variables(ref[0]) // as of some x in xs, where xs is a variable
		return
	}
	if isGenerated(shown.Text) { // as of some x in xs, where the author has not named the key
		term = ast.NewTerm(ref.GroundPrefix())
		ref = ref.GroundPrefix()
		shown = Term{Text: t.pathText(ref)}
		variable = ""
	}
	if variable == "" {
		for _, s := range t.solutions {
			if value, ok := valueJSON(t.value(plug(term, s), with)); ok && !containsValue(shown.Values, value) {
				shown.Values = append(shown.Values, value)
			}
		}
	}
	plugged := plug(term, t.solutions[0]).Value.(ast.Ref)
	switch {
	case len(shown.Values) == 0:
		t.undefined(term, with)
		return
	case len(with) > 0:
	default:
		if rules := t.compiler.GetRulesForVirtualDocument(plugged); len(rules) > 0 && t.own(rules[0]) && ref.HasPrefix(ast.DefaultRootRef) {
			t.define(&shown, rules, nil, plugged[:depthOf(rules[0])].String())
		}
	}
	t.add(shown)
}

// own reports whether a definition is in the package that is explained, rather
// than in a library of which the author knows what it does.
func (t *terms) own(rule *ast.Rule) bool {
	return rule.Module != nil && rule.Module.Package.Path.HasPrefix(t.rule.Path())
}

// undefined shows a term that has no value, or false, and goes after the reason.
func (t *terms) undefined(term *ast.Term, with []*ast.With) {
	shown := Term{Text: t.sourceOf(term)}
	plugged := plug(term, t.solutions[0])
	ref, ok := plugged.Value.(ast.Ref)
	if !ok {
		if value, ok := valueJSON(t.value(plugged, with)); ok {
			shown.Values = []any{value}
		}
		t.add(shown)
		return
	}
	ground := ref.GroundPrefix()
	value, defined := valueJSON(t.value(ast.NewTerm(ground), with))
	switch {
	case defined && len(ground) == len(ref):
		shown.Values = []any{value}
		if len(with) == 0 {
			t.defineRef(&shown, ground)
		}
	case defined:
		shown.Text, shown.Values = t.pathText(ground), []any{value}
		shown.Why = "no element of it fits"
	case len(with) > 0:
		shown.Why = "undefined, with what is put in its place"
	default:
		shown.Why = t.missing(ground)
		t.defineRef(&shown, ground)
	}
	t.add(shown)
}

// defineRef shows the definitions behind a reference, if a rule is.
func (t *terms) defineRef(shown *Term, ref ast.Ref) {
	rules := t.compiler.GetRulesForVirtualDocument(ref)
	if len(rules) == 0 || !ref.HasPrefix(ast.DefaultRootRef) {
		return
	}
	depth := min(depthOf(rules[0]), len(ref))
	if depth < len(ref) && len(shown.Values) == 0 && isComplete(rules) && t.value(ast.NewTerm(ref[:depth]), nil) != nil {
		return // the rule has a value, which lacks the member: missing has told so
	}
	t.define(shown, rules, nil, ref[:depth].String())
}

// isComplete reports whether each definition gives the whole value, rather than
// an element of a set or a member of an object.
func isComplete(rules []*ast.Rule) bool {
	return !slices.ContainsFunc(rules, func(rule *ast.Rule) bool {
		return rule.Head.RuleKind() == ast.MultiValue || depthOf(rule) < len(rule.Ref())
	})
}

// define shows the definitions of a rule, once in an explanation.
func (t *terms) define(shown *Term, rules []*ast.Rule, args []*ast.Term, key string) {
	if t.shallow > 0 {
		return
	}
	if t.seen[key] {
		shown.Repeated = true
		return
	}
	t.seen[key] = true
	shown.Definitions = t.definitions(rules, args, depthOf(rules[0]))
}

// depthOf is the length of the constant path of a rule.
func depthOf(rule *ast.Rule) int { return len(rule.Ref().ConstantPrefix()) }

// missing says where a path ends.
func (t *terms) missing(ref ast.Ref) string {
	if ref.HasPrefix(ast.InputRootRef) {
		return t.missingInRequest(ref)
	}
	if !ref.HasPrefix(ast.DefaultRootRef) {
		return "undefined"
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

func (t *terms) missingInRequest(ref ast.Ref) string {
	var at any = t.document
	pointer := ""
	for _, element := range ref[1:] {
		key, _ := toJSON(element)
		name := fmt.Sprint(key)
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		switch container := at.(type) {
		case map[string]any:
			next, ok := container[name]
			if !ok {
				return "the request has no " + pointer
			}
			at = next
		case []any:
			index, isNumber := key.(json.Number)
			n, err := index.Int64()
			if !isNumber || err != nil || n < 0 || n >= int64(len(container)) {
				return "the request has no " + pointer
			}
			at = container[n]
		default:
			return fmt.Sprintf("the request has no %s, because the value around it is neither an object nor an array", pointer)
		}
	}
	return "undefined"
}

// uses shows what a definition that holds refers to.
func (x *explainer) uses(rule *ast.Rule, s solution) []Term {
	t := terms{explainer: x, solutions: []solution{s}}
	for _, expr := range ruleset.Written(rule.Body) {
		if len(expr.With) > 0 {
			continue
		}
		if expr.Negated {
			t.culprit(expr) // why what it negates does not hold
			continue
		}
		t.variables(ast.NewTerm(bodyVars(expr)))
		ast.WalkTerms(expr, func(term *ast.Term) bool {
			switch v := term.Value.(type) {
			case ast.Ref:
				if v.HasPrefix(ast.InputRootRef) || v.HasPrefix(ast.DefaultRootRef) && !isOperator(expr, v) {
					plugged := plug(term, s).Value.(ast.Ref)
					ground := plugged.GroundPrefix()
					if value, ok := valueJSON(x.value(ast.NewTerm(ground), nil)); ok {
						shown := Term{Text: t.sourceOf(term), Values: []any{value}}
						if len(ground) < len(plugged) {
							shown.Text = x.pathText(ground)
						}
						if isGenerated(shown.Text) {
							ground = v.GroundPrefix()
							if value, ok = valueJSON(x.value(ast.NewTerm(ground), nil)); !ok {
								return false
							}
							shown = Term{Text: x.pathText(ground), Values: []any{value}}
						}
						if rules := x.compiler.GetRulesForVirtualDocument(ground); len(rules) > 0 && t.own(rules[0]) && !slices.ContainsFunc(t.list, func(o Term) bool { return o.Text == shown.Text }) {
							t.define(&shown, rules, nil, ground[:min(depthOf(rules[0]), len(ground))].String())
						}
						t.add(shown)
					}
				}
			}
			return false
		})
		t.call(rule, expr, s)
	}
	return t.list
}

// call shows a call of a function that a definition which holds makes, and what
// stands behind a function of the package's own.
func (t *terms) call(rule *ast.Rule, expr *ast.Expr, s solution) {
	if !expr.IsCall() {
		return
	}
	rules := t.compiler.GetRulesForVirtualDocument(expr.Operator())
	if len(rules) == 0 {
		return
	}
	operands, arity := expr.Operands(), len(rules[0].Head.Args)
	call := Term{Text: exprText(expr)}
	head := false
	if arity < len(operands) {
		if variable, ok := operands[arity].Value.(ast.Var); ok {
			call.Values, head = t.bound(variable), isHead(rule, variable)
		}
	}
	switch {
	case t.own(rules[0]):
		var args []*ast.Term
		for _, operand := range operands[:arity] {
			args = append(args, plug(operand, s))
		}
		t.define(&call, rules, args, fmt.Sprint(expr.Operator(), args))
	case head || !expr.Generated:
		return // its value is told already
	}
	t.add(call)
}

// isHead reports whether a variable is the value of the whole definition.
func isHead(rule *ast.Rule, variable ast.Var) bool {
	return rule.Head.Value != nil && rule.Head.Value.Value.Compare(variable) == 0
}

// bodyVars are the variables of an expression, as one array.
func bodyVars(expr *ast.Expr) *ast.Array {
	var list []*ast.Term
	ast.WalkVars(expr, func(v ast.Var) bool {
		list = append(list, ast.NewTerm(v))
		return false
	})
	return ast.NewArray(list...)
}

func isOperator(expr *ast.Expr, ref ast.Ref) bool {
	return expr.IsCall() && expr.Operator().Equal(ref)
}
