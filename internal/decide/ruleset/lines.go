package ruleset

import (
	"maps"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/answer"
)

// Knowing which definitions gave a value costs next to nothing this way: after compiling, each body of an entry rule, and
// of a rule in an author's library, gets one more expression, a call that notes a number and always holds. OPA evaluates
// it if all expressions before it hold. A trace by OPA would cost a multiple of the decision.

// notedBuiltin is the function that is called. No rule can call it: it is not in the capabilities, so the compiler does
// not know it, and its name is not a reference that can be written.
const notedBuiltin = "usher noted"

var notedOperator = ast.NewTerm(ast.Ref{ast.VarTerm(notedBuiltin)})

// notable is a definition that notes its number.
type notable struct {
	answer.Line // without Entry if it is of a library
	ref         ast.Ref
	pkg         string // of the rule; empty if it is of a library
	fallback    bool   // it is a default, which holds if no other definition does
	// behind are the numbers of the definitions of libraries and of other rules that it refers to.
	behind []int
}

// instrument makes the entry rules of these packages, and the rules of the authors' libraries, note which of their
// definitions hold. It must be called before anything is evaluated.
func (rs *Ruleset) instrument(compiler *ast.Compiler, packages []*rulePackage) []notable {
	i := instrumentation{compiler: compiler, supposed: supposedRules(compiler), numbers: map[*ast.Rule]int{}}
	served := map[string]bool{}
	for _, p := range packages {
		rule := rs.ruleOf[p.name]
		if rule == nil {
			continue
		}
		served[rule.Package] = true
		for _, entry := range entries {
			i.note(compiler.GetRulesWithPrefix(rule.Entry(entry)), entry, rule.Package)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(compiler.Modules)) {
		if pkg := PackageName(compiler.Modules[name]); pkg != library && !served[pkg] {
			for _, rule := range compiler.Modules[name].Rules {
				i.note([]*ast.Rule{rule}, "", "")
			}
		}
	}
	for branch, number := range i.numbers {
		i.list[number].behind = i.behind(branch)
	}
	return i.list
}

type instrumentation struct {
	compiler *ast.Compiler
	supposed map[*ast.Rule]bool
	list     []notable
	numbers  map[*ast.Rule]int // each branch of a rule is a rule
}

// note makes each branch of these rules note its number.
func (i *instrumentation) note(rules []*ast.Rule, entry, pkg string) {
	if slices.ContainsFunc(rules, func(r *ast.Rule) bool { return i.supposed[r] }) {
		return
	}
	inOrder := slices.SortedStableFunc(slices.Values(rules), func(a, b *ast.Rule) int { return a.Location.Compare(b.Location) })
	for _, definition := range inOrder {
		for branch := definition; branch != nil; branch = branch.Else {
			number := len(i.list)
			i.numbers[branch] = number
			i.list = append(i.list, notable{
				Line: answer.Line{Entry: entry, Place: PlaceOf(branch.Location)},
				ref:  definition.Ref(), pkg: pkg, fallback: branch.Default,
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

// behind finds the definitions of libraries and of other rules that a branch refers to, also by way of helpers in its
// own package. What it negates or evaluates on a supposition gave it nothing.
func (i *instrumentation) behind(branch *ast.Rule) []int {
	var numbers []int
	seen := map[*ast.Rule]bool{}
	own := branch.Module.Package.Path
	var visitor *ast.GenericVisitor
	look := func(rule *ast.Rule) {
		visitor.Walk(rule.Head)
		visitor.Walk(rule.Body)
	}
	visitor = ast.NewGenericVisitor(func(x any) bool {
		if expr, ok := x.(*ast.Expr); ok && (expr.Negated || len(expr.With) > 0) {
			return true
		}
		ref, ok := x.(ast.Ref)
		if !ok || !ref.HasPrefix(ast.DefaultRootRef) {
			return false
		}
		for _, rule := range i.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true}) {
			for ; rule != nil && !seen[rule] && !InLibrary(rule); rule = rule.Else {
				seen[rule] = true
				number, noted := i.numbers[rule]
				if noted && (i.list[number].pkg == "" || !rule.Module.Package.Path.Equal(own)) {
					numbers = append(numbers, number)
				} else {
					look(rule)
				}
			}
		}
		return false
	})
	look(branch)
	slices.Sort(numbers)
	return numbers
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
type notes struct{ held []int }

// note adds a number to the notes of the evaluation, if it collects any.
func note(bctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	if b, ok := bctx.Cancel.(*bounds); ok && b.notes != nil {
		if number, ok := operands[0].Value.(ast.Number); ok {
			if i, ok := number.Int(); ok && !slices.Contains(b.notes.held, i) {
				b.notes.held = append(b.notes.held, i)
			}
		}
	}
	return iter(operands[0])
}

// lines are the definitions of the rule that gave what its entry rules say, each followed by those of libraries behind
// it; says reports whether an entry rule says anything.
func (n *notes) lines(prepared *preparedRule, says func(entry string) bool) []answer.Line {
	var list []answer.Line
	add := func(line answer.Line) bool {
		if slices.Contains(list, line) {
			return false
		}
		if list == nil {
			list = make([]answer.Line, 0, len(prepared.queries))
		}
		list = append(list, line)
		return true
	}
	var follow func(entry string, behind []int)
	follow = func(entry string, behind []int) {
		for _, number := range behind {
			place := prepared.notable[number].Place
			if n.gave(prepared.notable, number) && add(answer.Line{Entry: entry, Place: place}) {
				follow(entry, prepared.notable[number].behind)
			}
		}
	}
	for number := prepared.first; number < prepared.end; number++ {
		if candidate := &prepared.notable[number]; says(candidate.Entry) && n.gave(prepared.notable, number) {
			add(candidate.Line)
			follow(candidate.Entry, candidate.behind)
		}
	}
	return list
}

// gave reports whether a definition held, or is a default and no other one did.
func (n *notes) gave(list []notable, number int) bool {
	if !list[number].fallback {
		return slices.Contains(n.held, number)
	}
	return !slices.ContainsFunc(n.held, func(held int) bool { return list[held].ref.Equal(list[number].ref) })
}
