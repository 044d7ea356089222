package lint

import (
	"context"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// negatedUndefined finds expressions such as `not hubs[payload.region]`. OPA's compiler moves the inner expression in
// front of the not. If it is undefined, so is the body.
func negatedUndefined(_ context.Context, s *subject, add report) {
	look := func(body ast.Body) {
		for i, expr := range body {
			if !expr.Negated {
				continue
			}
			if inner := s.undefinedWithin(body[:i], expr); inner != nil {
				add(expr.Location, fmt.Sprintf("if %s is undefined, so is this not, and the condition does not hold", sourceOf(inner)),
					"define a rule for the negated expression, and negate that rule")
			}
		}
	}
	for _, module := range s.modules {
		for _, rule := range module.Rules {
			ast.WalkBodies(rule, func(body ast.Body) bool { look(body); return false })
		}
	}
}

func sourceOf(expr *ast.Expr) string {
	const enough = 60
	if text := string(expr.Location.Text); len(text) > 0 && len(text) <= enough {
		return text
	}
	return "an inner expression"
}

// undefinedWithin returns an expression that the compiler moved out of a negated one and that may be undefined, nil if
// there is none.
func (s *subject) undefinedWithin(before ast.Body, negated *ast.Expr) *ast.Expr {
	vars := ast.VarSet{}
	ast.WalkVars(negated, func(v ast.Var) bool { vars.Add(v); return false })
	for i := len(before) - 1; i >= 0; i-- {
		expr := before[i]
		if !expr.Generated || expr.Negated || expr.Location.Row != negated.Location.Row || expr.Location.Col <= negated.Location.Col {
			continue // the author wrote it as its own line, so it is visible that it must hold
		}
		output := outputOf(expr)
		if output == "" || !vars.Contains(output) {
			continue
		}
		for _, world := range worlds {
			if !s.isDefined(expr, world, map[*ast.Rule]bool{}) {
				return expr
			}
		}
		ast.WalkVars(expr, func(v ast.Var) bool { vars.Add(v); return false })
	}
	return nil
}

// outputOf is the variable that a generated expression binds, "" if there is none.
func outputOf(expr *ast.Expr) ast.Var {
	terms, ok := expr.Terms.([]*ast.Term)
	if !ok || len(terms) < 2 {
		return ""
	}
	at := terms[len(terms)-1]
	if expr.IsEquality() {
		at = terms[1]
	}
	v, _ := at.Value.(ast.Var)
	return v
}

// worlds are the two kinds of enrollments; every request has one of them.
var worlds = [...]string{"individualEnrollment", "enrollmentGroup"}

// isRequired reports whether the schema demands a member of the request.
func isRequired(path ast.Ref, world string) bool {
	var names []string
	for _, t := range path[1:] {
		name, ok := t.Value.(ast.String)
		if !ok {
			return false
		}
		names = append(names, string(name))
	}
	switch {
	case len(names) == 0:
		return true
	case names[0] == "linkedHubs" || names[0] == world:
		return len(names) == 1 || len(names) == 2 && (names[1] == "registrationId" || names[1] == "enrollmentGroupId")
	case names[0] == "deviceRuntimeContext":
		return len(names) == 1 || len(names) == 2 && names[1] == "registrationId"
	}
	return false
}

// isDefined reports whether an expression always has a value if its variables do. If in doubt, it returns true.
func (s *subject) isDefined(expr *ast.Expr, world string, active map[*ast.Rule]bool) bool {
	terms, ok := expr.Terms.([]*ast.Term)
	if !ok {
		term, _ := expr.Terms.(*ast.Term)
		return term == nil || s.isTermDefined(term, world, active)
	}
	for _, term := range terms[1:] {
		if !s.isTermDefined(term, world, active) {
			return false
		}
	}
	operator, ok := terms[0].Value.(ast.Ref)
	if !ok || expr.IsEquality() {
		return true
	}
	if !operator.HasPrefix(ast.DefaultRootRef) {
		return !isPartial(operator.String())
	}
	return s.isAnyDefined(s.compiler.GetRulesExact(operator), world, active)
}

// isPartial names built-in functions that are undefined for some of their arguments.
func isPartial(name string) bool {
	switch name {
	case "usher.certificate", "usher.choose", "to_number", "json.unmarshal", "yaml.unmarshal", "base64.decode",
		"base64url.decode", "hex.decode", "time.parse_rfc3339_ns", "time.parse_ns", "time.parse_duration_ns",
		"units.parse", "units.parse_bytes", "semver.compare", "min", "max":
		return true
	}
	return false
}

func (s *subject) isTermDefined(t *ast.Term, world string, active map[*ast.Rule]bool) bool {
	ref, ok := t.Value.(ast.Ref)
	switch {
	case !ok:
		return true
	case ref.HasPrefix(ast.InputRootRef):
		return isRequired(ref, world)
	case !ref.HasPrefix(ast.DefaultRootRef):
		return true // a member of a local value
	}
	for i := len(ref); i > 1; i-- {
		if rules := s.compiler.GetRulesExact(ref[:i]); len(rules) > 0 {
			return s.isAnyDefined(rules, world, active)
		}
	}
	return true // rules that refer to data that does not exist are not loaded
}

// isAnyDefined reports whether one of the definitions always holds.
func (s *subject) isAnyDefined(rules []*ast.Rule, world string, active map[*ast.Rule]bool) bool {
	for _, rule := range rules {
		if rule.Default || rule.Head.RuleKind() == ast.MultiValue || !rule.Ref().IsGround() {
			return true // a set or an object, possibly empty
		}
		for r := rule; r != nil; r = r.Else {
			if active[r] {
				return true
			}
			active[r] = true
			holds := true
			for _, expr := range ruleset.Written(r.Body) {
				holds = holds && isBinding(expr) && s.isDefined(expr, world, active)
			}
			delete(active, r)
			if holds {
				return true
			}
		}
	}
	return len(rules) == 0
}

// isBinding reports whether an expression only computes a value, without a condition.
func isBinding(expr *ast.Expr) bool {
	if expr.Negated {
		return false
	}
	switch t := expr.Terms.(type) {
	case *ast.Term:
		return t.Value.Compare(ast.Boolean(true)) == 0
	case []*ast.Term:
		return expr.Generated || expr.IsEquality() && outputOf(expr).IsGenerated()
	}
	return false
}
