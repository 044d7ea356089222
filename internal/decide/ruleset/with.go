package ruleset

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// inputOf turns a request into OPA's input.
//
// A lazy object saves converting what rules do not read. But OPA takes a copy of one for the object itself, so that
// `with input.x as 1` would write into the request, for everything that is evaluated afterwards. If replaced is set,
// the whole request is therefore converted.
func inputOf(request map[string]any, replaced bool) *ast.Term {
	if replaced {
		return ast.NewTerm(ast.MustInterfaceToValue(request))
	}
	return ast.NewTerm(ast.LazyObject(request))
}

// replacesInput reports whether one of these definitions replaces a part of the input. Replacing the whole writes
// nothing.
func replacesInput(definitions map[*ast.Rule]bool) bool {
	found := false
	for rule := range definitions {
		ast.WalkExprs(rule, func(expr *ast.Expr) bool {
			for _, with := range expr.With {
				target, ok := with.Target.Value.(ast.Ref)
				found = found || ok && len(target) > 1 && target.HasPrefix(ast.InputRootRef)
			}
			return found
		})
	}
	return found
}

// reachable are the definitions that the value of rules can depend on, those of the rules included.
func reachable(compiler *ast.Compiler, rules []*ast.Rule) map[*ast.Rule]bool {
	found := map[*ast.Rule]bool{}
	for queue := slices.Clone(rules); len(queue) > 0; {
		rule := queue[0]
		if queue = queue[1:]; rule == nil || found[rule] {
			continue
		}
		found[rule] = true
		queue = append(queue, rule.Else)
		for next := range compiler.Graph.Dependencies(rule) {
			if next, ok := next.(*ast.Rule); ok {
				queue = append(queue, next)
			}
		}
	}
	return found
}
