package ruleset

import (
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/answer"
)

// Knowing which definitions gave a value costs next to nothing this way: after compiling, each body of an entry rule
// gets one more expression, a call that notes a number and always holds. OPA evaluates it if all expressions before it
// hold. A trace by OPA would cost a multiple of the decision.

// notedBuiltin is the function that is called. No rule can call it: it is not in the capabilities, so the compiler does
// not know it, and its name is not a reference that can be written.
const notedBuiltin = "usher noted"

var notedOperator = ast.NewTerm(ast.Ref{ast.VarTerm(notedBuiltin)})

// notable is a definition that notes its number.
type notable struct {
	answer.Line
	ref      ast.Ref
	pkg      string
	fallback bool // it is a default, which holds if no other definition does
}

// instrument makes the entry rules of these packages note which of their definitions hold. It must be called before
// anything is evaluated.
func (rs *Ruleset) instrument(compiler *ast.Compiler) []notable {
	var list []notable
	supposed := supposedRules(compiler)
	for _, rule := range rs.rules {
		for _, entry := range entries {
			definitions := slices.SortedStableFunc(slices.Values(compiler.GetRulesWithPrefix(rule.Entry(entry))),
				func(a, b *ast.Rule) int { return a.Location.Compare(b.Location) })
			if slices.ContainsFunc(definitions, func(r *ast.Rule) bool { return supposed[r] }) {
				continue
			}
			for _, definition := range definitions {
				for branch := definition; branch != nil; branch = branch.Else {
					number := len(list)
					list = append(list, notable{
						Line: answer.Line{Entry: entry, Place: PlaceOf(branch.Location)},
						ref:  definition.Ref(), pkg: rule.Package, fallback: branch.Default,
					})
					if branch.Default {
						continue // its body always holds
					}
					note := ast.NewExpr([]*ast.Term{notedOperator, ast.NewTerm(ast.Number(strconv.Itoa(number)))})
					note.Location, note.Index = branch.Location, len(branch.Body)
					branch.Body = append(slices.Clip(branch.Body), note)
				}
			}
		}
	}
	return list
}

// supposedRules are those that some expression evaluates on a supposition, by with: that one of their definitions held
// does not mean that it gave anything.
func supposedRules(compiler *ast.Compiler) map[*ast.Rule]bool {
	var supposed []*ast.Rule
	for _, module := range compiler.Modules {
		ast.WalkExprs(module, func(expr *ast.Expr) bool {
			if len(expr.With) == 0 {
				return false
			}
			ast.WalkRefs(expr, func(ref ast.Ref) bool {
				supposed = append(supposed, compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true})...)
				return false
			})
			return false
		})
	}
	return reachable(compiler, supposed)
}

// Written is a body of a compiled rule as its author wrote it, without what instrument has added.
func Written(body ast.Body) ast.Body {
	if n := len(body); n > 0 {
		if terms, ok := body[n-1].Terms.([]*ast.Term); ok && terms[0] == notedOperator {
			return body[: n-1 : n-1]
		}
	}
	return body
}

// notes collect the numbers of the definitions that held in one evaluation.
type notes struct {
	held     []int
	builtins map[string]*topdown.Builtin
}

// newNotes returns a pool of notes. They are pooled with the functions that write into them, because OPA has no other
// way to pass something to a function that costs as little.
func newNotes(builtins map[string]*topdown.Builtin) *sync.Pool {
	return &sync.Pool{New: func() any {
		n := &notes{builtins: maps.Clone(builtins)}
		n.builtins[notedBuiltin] = &topdown.Builtin{Decl: builtins[notedBuiltin].Decl, Func: n.note}
		return n
	}}
}

// passNote is for evaluations that collect nothing.
func passNote(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	return iter(operands[0])
}

func (n *notes) note(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	if number, ok := operands[0].Value.(ast.Number); ok {
		if i, ok := number.Int(); ok && !slices.Contains(n.held, i) {
			n.held = append(n.held, i)
		}
	}
	return iter(operands[0])
}

// lines are the definitions of the rule that gave what its entry rules say; says reports whether an entry rule says
// anything.
func (n *notes) lines(prepared *preparedRule, has func(entry string) bool) []answer.Line {
	var list []answer.Line
	for i := range prepared.notable {
		candidate := &prepared.notable[i]
		if !has(candidate.Entry) {
			continue
		}
		gave := slices.Contains(n.held, prepared.firstNotable+i)
		if candidate.fallback {
			gave = !slices.ContainsFunc(n.held, func(held int) bool {
				at := held - prepared.firstNotable
				return at >= 0 && at < len(prepared.notable) && prepared.notable[at].ref.Equal(candidate.ref)
			})
		}
		if gave && !slices.Contains(list, candidate.Line) {
			if list == nil {
				list = make([]answer.Line, 0, len(prepared.queries))
			}
			list = append(list, candidate.Line)
		}
	}
	return list
}
