package ruleset

import "github.com/open-policy-agent/opa/v1/ast"

// inputOf makes a request what OPA evaluates with.
//
// A lazy object spares the conversion of what rules do not read. But OPA takes a
// copy of one to be the object itself, so that `with input.x as 1` would write
// into the request, for all that is asked after it. Where replaced is set, the
// request is therefore converted whole.
func inputOf(request map[string]any, replaced bool) *ast.Term {
	if replaced {
		return ast.NewTerm(ast.MustInterfaceToValue(request))
	}
	return ast.NewTerm(ast.LazyObject(request))
}

// replacesInput reports whether rules, or what they refer to, replace a part of
// the input. Nothing is written where it is replaced as a whole.
func replacesInput(compiler *ast.Compiler, rules []*ast.Rule) bool {
	seen := map[*ast.Rule]bool{}
	for len(rules) > 0 {
		rule := rules[len(rules)-1]
		if rules = rules[:len(rules)-1]; seen[rule] {
			continue
		}
		seen[rule] = true
		found := false
		ast.WalkExprs(rule, func(expr *ast.Expr) bool {
			for _, with := range expr.With {
				target, ok := with.Target.Value.(ast.Ref)
				found = found || ok && len(target) > 1 && target.HasPrefix(ast.InputRootRef)
			}
			return found
		})
		if found {
			return true
		}
		for branch := rule; branch != nil; branch = branch.Else {
			for next := range compiler.Graph.Dependencies(branch) {
				if next, ok := next.(*ast.Rule); ok {
					rules = append(rules, next)
				}
			}
		}
	}
	return false
}
