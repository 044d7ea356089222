package ruleset

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxDrawDepth is more calls than a choice by weight is behind in any rule that
// people can follow.
const maxDrawDepth = 16

// draws finds the choices by weight behind the value of a definition.
func (x *explainer) draws(rule *ast.Rule, s solution, depth int) []Draw {
	var found []Draw
	if depth == 0 {
		return nil
	}
	for _, expr := range written(rule.Body) {
		if !expr.IsCall() || expr.Negated || len(expr.With) > 0 {
			continue
		}
		var args []*ast.Term
		for _, operand := range expr.Operands() {
			args = append(args, plug(operand, s))
		}
		if expr.Operator().String() == "usher.choose" {
			if draw, ok := drawOf(placeOf(expr.Location), args); ok {
				found = append(found, draw)
			}
			continue
		}
		for _, callee := range x.compiler.GetRulesForVirtualDocument(expr.Operator()) {
			if len(callee.Head.Args) == 0 || len(callee.Head.Args) > len(args) {
				continue
			}
			for branch := callee; branch != nil; branch = branch.Else {
				solutions, err := x.solve(join(matching(branch.Head.Args, args[:len(branch.Head.Args)]), written(branch.Body)), 1)
				if err != nil || len(solutions) == 0 {
					continue
				}
				for _, draw := range x.draws(branch, solutions[0], depth-1) {
					draw.Place = placeOf(expr.Location) // where the author calls it
					found = append(found, draw)
				}
				break
			}
		}
	}
	return found
}

// drawOf asks the built-in itself which of the linked hubs count: each alone.
func drawOf(place string, args []*ast.Term) (Draw, bool) {
	if len(args) < 4 {
		return Draw{}, false
	}
	linked, err := hubOperand(args[2].Value, 3)
	key, ok := args[0].Value.(ast.String)
	drawn, named := args[3].Value.(ast.String)
	if err != nil || !ok || !named {
		return Draw{}, false
	}
	draw := Draw{Place: place, Key: string(key), Drawn: string(drawn)}
	for _, hub := range linked {
		alone := []*ast.Term{args[0], args[1], ast.ArrayTerm(ast.StringTerm(hub))}
		_ = builtinChoose(topdown.BuiltinContext{}, alone, func(*ast.Term) error {
			draw.Among = append(draw.Among, hub)
			return nil
		})
	}
	return draw, true
}
