package ruleset

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// checkNegatedLookups is a compiler stage that refuses a look-up within a negated expression, such as
// not lookup.device(id).active. OPA evaluates the call before the negation. If there is no row, the call is undefined,
// and with it the whole body: reject contains "inactive" if not lookup.device(id).active would let a device without a row
// pass. A look-up that is itself negated is not affected.
func (*environment) checkNegatedLookups(compiler *ast.Compiler) *ast.Error {
	var found ast.Errors
	for _, name := range slices.Sorted(maps.Keys(compiler.Modules)) {
		ast.WalkExprs(compiler.Modules[name], func(expr *ast.Expr) bool {
			if called := lookupWithin(expr); expr.Negated && called != "" {
				found = append(found, ast.NewError(ast.CompileErr, expr.Location,
					"without a row, this negation does not hold: OPA evaluates %s before not, and then the whole line is undefined; "+
						"make the look-up a rule, such as row := %[1]s(...), and negate what is in it, such as not row.member", called))
			}
			return false
		})
	}
	return report(compiler, found)
}

// lookupWithin is the function of a look-up that an expression calls for its operands; empty if there is none. What is in
// a comprehension or in a body of its own is evaluated there.
func lookupWithin(expr *ast.Expr) string {
	operands := []*ast.Term{}
	switch terms := expr.Terms.(type) {
	case *ast.Term:
		operands = append(operands, terms)
	case []*ast.Term:
		operands = terms[1:]
	}
	called := ""
	visitor := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true
		case ast.Call:
			if _, ok := LookupName(x[0].String()); ok {
				called = x[0].String()
			}
		}
		return false
	})
	for _, operand := range operands {
		visitor.Walk(operand)
	}
	return called
}
