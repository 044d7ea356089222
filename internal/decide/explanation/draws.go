package explanation

import (
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// maxDrawDepth is more calls than there are between a definition and a choice by weight in any rule that people can
// follow.
const maxDrawDepth = 16

// draws finds the choices by weight that the value of a definition comes from.
func (x *explainer) draws(rule *ast.Rule, s solution, depth int) []Draw {
	var found []Draw
	if depth == 0 {
		return nil
	}
	for _, expr := range ruleset.Written(rule.Body) {
		if !expr.IsCall() || expr.Negated || len(expr.With) > 0 {
			continue
		}
		args := plugAll(expr.Operands(), s)
		if expr.Operator().String() == "usher.choose" {
			if draw, ok := x.drawOf(expr, args); ok {
				found = append(found, draw)
			}
			continue
		}
		for _, callee := range x.compiler.GetRulesForVirtualDocument(expr.Operator()) {
			if len(callee.Head.Args) == 0 || len(callee.Head.Args) > len(args) {
				continue
			}
			for branch := callee; branch != nil; branch = branch.Else {
				inner, ok := x.holds(matching(branch.Head.Args, args), ruleset.Written(branch.Body))
				if !ok {
					continue
				}
				for _, draw := range x.draws(branch, inner, depth-1) {
					draw.Place = ruleset.PlaceOf(expr.Location) // where the author calls it
					found = append(found, draw)
				}
				break
			}
		}
	}
	return found
}

// drawOf finds the hubs that a call of usher.choose draws from: those that it chooses if no other hub is linked.
func (x *explainer) drawOf(call *ast.Expr, args []*ast.Term) (Draw, bool) {
	if len(args) < 4 {
		return Draw{}, false
	}
	key, isText := args[0].Value.(ast.String)
	linked, isList := args[2].Value.(*ast.Array)
	drawn, named := args[3].Value.(ast.String)
	if !isText || !isList || !named {
		return Draw{}, false
	}
	draw := Draw{Place: ruleset.PlaceOf(call.Location), Key: string(key), Drawn: string(drawn)}
	linked.Foreach(func(hub *ast.Term) {
		alone := ast.NewExpr([]*ast.Term{ast.NewTerm(call.Operator()), args[0], args[1], ast.ArrayTerm(hub), ast.NewTerm(result)})
		if _, chosen := x.holds(ast.NewBody(alone)); chosen {
			name, _ := hub.Value.(ast.String)
			draw.Among = append(draw.Among, string(name))
		}
	})
	return draw, true
}
