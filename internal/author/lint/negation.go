package lint

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// negatedUndefined finds expressions such as `not hubs[payload.region]`. OPA's compiler moves the inner expression in
// front of the not. If it is undefined, so is the body. That is no mistake if the body demands the inner expression
// anyway, or if another definition is for devices for which it is undefined.
func negatedUndefined(_ context.Context, s *subject, add report) {
	for _, module := range s.modules {
		for _, rule := range module.Rules {
			ast.WalkBodies(rule, func(body ast.Body) bool {
				for _, negated := range body {
					if !negated.Negated {
						continue
					}
					inner := s.undefinedWithin(body, negated)
					if inner == nil || s.isCovered(rule, s.meaning(body, inner)) {
						continue
					}
					add(negated.Location, fmt.Sprintf("if %s is undefined, so is this not, and the condition does not hold", sourceOf(inner)),
						"define a rule for the negated expression, and negate that rule")
				}
				return false
			})
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
// there is none or if the rest of the body demands it, too.
func (s *subject) undefinedWithin(body ast.Body, negated *ast.Expr) *ast.Expr {
	var moved, rest ast.Body
	vars := ast.VarSet{}
	ast.WalkVars(negated, func(v ast.Var) bool { vars.Add(v); return false })
	for _, expr := range slices.Backward(body) {
		output := outputOf(expr)
		switch {
		case expr.Negated:
		case expr.Generated && contains(negated.Location, expr.Location) && output != "" && vars.Contains(output):
			moved = append(moved, expr)
			ast.WalkVars(expr, func(v ast.Var) bool { vars.Add(v); return false })
		default:
			rest = append(rest, expr)
		}
	}
	for _, expr := range moved {
		if s.isDemanded(body, rest, s.meaning(body, expr)) {
			continue
		}
		for i, world := range worlds {
			other := worlds[1-i]
			if !s.isDemanded(body, rest, "input."+other) && !s.isDefined(expr, world, map[*ast.Rule]bool{}) {
				return expr
			}
		}
	}
	return nil
}

// contains reports whether one place is within the text of another.
func contains(outer, inner *ast.Location) bool {
	return outer.File == inner.File && outer.Offset < inner.Offset && inner.Offset < outer.Offset+len(outer.Text)
}

// isDemanded reports whether the rest of a body only holds if something is defined.
func (s *subject) isDemanded(body, rest ast.Body, want string) bool {
	return slices.ContainsFunc(rest, func(other *ast.Expr) bool {
		if s.meaning(body, other) == want {
			return true
		}
		found := false
		s.walkDemanded(other, func(ref ast.Ref) {
			found = found || strings.HasPrefix(s.resolved(body, ref.String())+".", want+".")
		})
		return found
	})
}

// isCovered reports whether another definition holds if something is undefined: one of the same rule, or one that
// refuses or holds the device.
func (s *subject) isCovered(rule *ast.Rule, meaning string) bool {
	for _, module := range s.modules {
		for _, other := range module.Rules {
			body := ruleset.Written(other.Body)
			name := s.name(other)
			if other == rule || name != s.name(rule) && name != "reject" && name != "hold" || len(body) != 1 || !body[0].Negated {
				continue
			}
			if s.meaning(body, body[0]) == meaning {
				return true
			}
		}
	}
	return false
}

// walkDemanded visits the references that must be defined for an expression to hold.
func (s *subject) walkDemanded(expr *ast.Expr, visit func(ast.Ref)) {
	visitor := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every:
			return true
		case ast.Ref:
			visit(s.rulePart(x))
		}
		return false
	})
	visitor.Walk(expr)
}

// rulePart is what of a reference may be undefined: the rule, if there is one.
func (s *subject) rulePart(ref ast.Ref) ast.Ref {
	if ref.HasPrefix(ast.DefaultRootRef) {
		for i := len(ref); i > 1; i-- {
			if len(s.compiler.GetRulesExact(ref[:i])) > 0 {
				return ref[:i]
			}
		}
	}
	return ref
}

// meaning writes what an expression computes, without the variables of the compiler and of the author, so that two
// expressions that are the same have the same meaning.
func (s *subject) meaning(body ast.Body, expr *ast.Expr) string {
	return s.resolved(body, s.computes(expr))
}

// computes writes an expression without its output.
func (s *subject) computes(expr *ast.Expr) string {
	switch t := expr.Terms.(type) {
	case *ast.Term:
		if ref, ok := t.Value.(ast.Ref); ok {
			return s.rulePart(ref).String()
		}
		return t.String()
	case []*ast.Term:
		if expr.IsEquality() {
			if ref, ok := t[2].Value.(ast.Ref); ok {
				return s.rulePart(ref).String()
			}
			return t[2].String()
		}
		arguments := t[1:]
		if arity := s.compiler.GetArity(expr.Operator()); len(arguments) == arity+1 {
			arguments = arguments[:arity]
		}
		return fmt.Sprint(t[0], arguments)
	}
	return expr.String()
}

// maxResolved bounds the length of a text whose variables are replaced by what they are made of.
const maxResolved = 1000

var generated = regexp.MustCompile(`__local\d+__`)

// resolved replaces variables by what a body makes them of.
func (s *subject) resolved(body ast.Body, text string) string {
	for len(text) < maxResolved {
		next := generated.ReplaceAllStringFunc(text, func(name string) string {
			for _, expr := range body {
				if !expr.Negated && outputOf(expr) == ast.Var(name) && !strings.Contains(s.computes(expr), name) {
					return s.computes(expr)
				}
			}
			return name
		})
		if next == text {
			break
		}
		text = next
	}
	return text
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
	_, isLookup := ruleset.LookupName(name) // without a row
	return isLookup
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
