package verify

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Branch is an expression of a rule, or a value that it gives, that a search has not seen from both sides.
type Branch struct {
	Place string `json:"place"` // file:line
	Text  string `json:"text"`
	// Never is what no request of the search made it do: "hold", "fail", or "either" if it was never evaluated. Of an
	// assignment, a generator and the value of a definition, only that they never hold is reported.
	Never string `json:"never"`
}

// branches are the expressions of the files in which a rule or its invariants are written.
type branches struct {
	list []branch
	of   map[*ast.Expr]int // numbers of the branches, by the expressions of which the compiler made them
	main map[*ast.Expr]bool
}

type branch struct {
	place, text string
	// gives is set if it gives a value to a variable or a definition, rather than deciding.
	gives bool
	// constant is set if it goes the same way whatever the request is.
	constant bool
}

// newBranches collects the expressions in the files of a compiled rule that isHome accepts. The results of the
// restricted calls can change between two requests.
func newBranches(syntax ruleset.Syntax, restricted []*ast.Expr, isHome func(file string) bool) *branches {
	b := &branches{of: map[*ast.Expr]int{}, main: map[*ast.Expr]bool{}}
	c := constants{compiler: syntax.Compiler, restricted: restricted, rules: map[*ast.Rule]bool{}}
	var modules []*ast.Module
	for _, module := range syntax.Compiler.Modules {
		if isHome(module.Package.Location.File) {
			modules = append(modules, module)
		}
	}
	slices.SortFunc(modules, func(x, y *ast.Module) int {
		return strings.Compare(x.Package.Location.File, y.Package.Location.File)
	})
	for _, module := range modules {
		for _, rule := range module.Rules {
			origins := originsIn(rule)
			ast.WalkBodies(rule, func(body ast.Body) bool {
				b.add(ruleset.Written(body), origins, c)
				return false
			})
		}
	}
	return b
}

// add adds the expressions of a body. The compiler takes expressions apart: what it puts before an expression of the
// author's belongs to that one, and what it puts at the end belongs to the head.
func (b *branches) add(body ast.Body, from origins, c constants) {
	var parts []*ast.Expr
	flush := func(author *ast.Expr, gives bool) {
		constant := true
		for _, part := range parts {
			b.of[part] = len(b.list)
			constant = constant && c.expr(part, from)
		}
		b.main[author] = true
		b.list = append(b.list, branch{ruleset.PlaceOf(author.Location), oneLine(string(author.Location.Text)), gives, constant})
		parts = nil
	}
	for _, expr := range body {
		if isTrue(expr) {
			continue // a body that the author left out
		}
		if parts = append(parts, expr); !expr.Generated {
			flush(expr, from.gives(expr))
		}
	}
	if len(parts) > 0 {
		flush(parts[len(parts)-1], true)
	}
}

func isTrue(expr *ast.Expr) bool {
	term, ok := expr.Terms.(*ast.Term)
	return ok && term.Value.Compare(ast.Boolean(true)) == 0
}

func oneLine(text string) string {
	const most = 100
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return text
}

// sides records which sides of the branches were reached: side 2n of branch n is that it held, 2n+1 that it failed.
type sides map[int]bool

func sideOf(branch int, held bool) int {
	if held {
		return 2 * branch
	}
	return 2*branch + 1
}

// Branches says which sides of the rule's expressions a search reached.
type Branches struct {
	// Outcomes is the number of sides: two for each expression that decides, and one for each that gives a value.
	// Reached of them were seen, and Impossible do not exist, because the expression does not depend on the request.
	Outcomes   int `json:"outcomes"`
	Reached    int `json:"reached"`
	Impossible int `json:"impossible"`
	// Missed are the others.
	Missed []Branch `json:"missed,omitempty"`
}

func (b *branches) report(reached sides) Branches {
	var r Branches
	for i, one := range b.list {
		held, failed := reached[sideOf(i, true)], reached[sideOf(i, false)]
		r.Outcomes += 2
		never := ""
		switch {
		case !held && !failed:
			never = "either"
		case !held:
			never = "hold"
		case !failed && !one.gives:
			never = "fail"
		}
		for _, side := range []bool{held, failed && !one.gives} {
			if side {
				r.Reached++
			}
		}
		if one.gives {
			r.Outcomes--
		}
		switch {
		case never == "":
		case one.constant && never != "either":
			r.Impossible++
		default:
			r.Missed = append(r.Missed, Branch{one.place, one.text, never})
		}
	}
	return r
}

// origins are the expressions of a rule that first mention its variables; nil stands for the arguments of a function.
type origins map[ast.Var]*ast.Expr

func originsIn(rule *ast.Rule) origins {
	from := origins{}
	for _, arg := range rule.Head.Args {
		ast.WalkVars(arg, func(v ast.Var) bool {
			from[v] = nil
			return false
		})
	}
	ast.WalkExprs(rule, func(expr *ast.Expr) bool {
		for _, part := range withoutOperator(expr) {
			ast.WalkVars(part, func(v ast.Var) bool {
				if _, known := from[v]; !known {
					from[v] = expr
				}
				return false
			})
		}
		return false
	})
	return from
}

// withoutOperator returns the parts of an expression that can mention variables: all but the name of a function.
func withoutOperator(expr *ast.Expr) []any {
	terms, ok := expr.Terms.([]*ast.Term)
	if !ok {
		return []any{expr}
	}
	var parts []any
	for _, term := range terms[1:] {
		parts = append(parts, term)
	}
	return parts
}

// gives reports whether an expression gives a variable its value, as an assignment or a generator does.
func (from origins) gives(expr *ast.Expr) bool {
	if !expr.IsEquality() {
		return false
	}
	v, ok := expr.Operand(0).Value.(ast.Var)
	return ok && from[v] == expr
}

// constants finds expressions that do not depend on the request.
type constants struct {
	compiler   *ast.Compiler
	restricted []*ast.Expr
	rules      map[*ast.Rule]bool // whether they are constant
}

func (c constants) expr(expr *ast.Expr, from origins) bool {
	constant := len(expr.With) == 0 && !slices.Contains(c.restricted, expr)
	visit := func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Ref:
			constant = constant && !v[0].Equal(ast.InputRootDocument) && c.rulesAt(v)
		case ast.Var:
			if origin, known := from[v]; known && origin != expr && !ast.RootDocumentNames.Contains(t) {
				constant = constant && origin != nil && c.expr(origin, from)
			}
		}
		return !constant
	}
	for _, part := range withoutOperator(expr) {
		ast.WalkTerms(part, visit)
	}
	if expr.IsCall() {
		constant = constant && c.rulesAt(expr.Operator())
	}
	return constant
}

// rulesAt reports whether the rules that a reference can lead to, if any, are constant.
func (c constants) rulesAt(ref ast.Ref) bool {
	return !ref.HasPrefix(ast.DefaultRootRef) ||
		!slices.ContainsFunc(c.compiler.GetRules(ref), func(rule *ast.Rule) bool { return !c.rule(rule) })
}

func (c constants) rule(rule *ast.Rule) bool {
	known, ok := c.rules[rule]
	if !ok {
		c.rules[rule] = false // until shown
		from := originsIn(rule)
		known = true
		for branch := rule; branch != nil; branch = branch.Else {
			ast.WalkExprs(branch, func(expr *ast.Expr) bool {
				known = known && c.expr(expr, from)
				return false
			})
		}
		c.rules[rule] = known
	}
	return known
}
