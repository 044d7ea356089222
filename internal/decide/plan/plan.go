// Package plan evaluates Rego by the plans that OPA's compiler makes of it, several times faster than OPA's own
// evaluator, topdown, and within bounds of memory.
//
// OPA's planner turns compiled rules into a program of some forty kinds of statements (package ir of OPA). A [Program]
// has a closure for each statement, made once, which works on registers. What OPA leaves to the request stays in the
// form in which it was parsed until a function of OPA needs it.
//
// A plan evaluates more than topdown does: it knows neither topdown's index of rules nor its early exit. For an
// evaluation without errors that makes no difference. As soon as it could make one, as when a built-in function fails
// or definitions disagree, [Evaluation.Run] says so ([ErrUnclear]), and the caller has topdown decide, whose words and
// places count.
package plan

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Options configure a program.
type Options struct {
	// Functions can be called besides those of OPA.
	Functions map[string]*topdown.Builtin
	// Added are those of Functions that work on values as they are.
	Added map[string]Function
	// Noted is the name of a function that rules call with their number when they hold; see [Evaluation.Held].
	Noted string
	// Data is the data that the rules see, besides what rules define.
	Data ast.Value
	// Lists are variables of a query that holds exactly once and binds each to an array; see [Result.Firsts].
	Lists []string
}

// Program is what rules say, in a form that can be run. It never changes and is safe for concurrent use.
type Program struct {
	functions []*function
	plan      []block
	registers int // of the plan
	data      ast.Value
	lists     []string
	strings   []value
	places    map[*step]*ast.Location // of blocks, by their first steps
	machines  *sync.Pool              // of *machine
}

// ErrUnclear is why an evaluation has no result that counts: something went wrong in it, and only topdown says what
// would have come of it there.
var ErrUnclear = errors.New("the plan does not decide this")

// Compile makes a program of a query over compiled modules.
func Compile(ctx context.Context, compiler *ast.Compiler, query ast.Body, options Options) (*Program, error) {
	policy, err := policyOf(ctx, compiler, options.Functions, query)
	if err != nil {
		return nil, err
	}
	return link(policy, options)
}

// function is a rule, or a function that rules define.
type function struct {
	parameters []ir.Local
	result     ir.Local
	registers  int
	blocks     []block
	memo       int  // its number among the functions that depend on nothing but input and data; -1 for others
	partial    bool // its definitions add to one value, so that several can hold
}

// linker turns the statements of a policy into closures.
type linker struct {
	options   Options
	policy    *ir.Policy
	program   *Program
	byName    map[string]*function
	byPath    map[string]*function // for calls of which the path is known only when they are made
	builtins  map[string]*builtin
	registers int // of what is linked now
	current   *function
	added     map[ir.Local]int // how many statements of the current definition add to a collection
}

func link(policy *ir.Policy, options Options) (*Program, error) {
	l := &linker{options: options, policy: policy, program: &Program{data: options.Data, lists: options.Lists, places: map[*step]*ast.Location{}}, byName: map[string]*function{}, byPath: map[string]*function{}, builtins: map[string]*builtin{}}
	for _, s := range policy.Static.Strings {
		l.program.strings = append(l.program.strings, value(ast.String(s.Value)))
	}
	for _, f := range policy.Funcs.Funcs {
		linked := &function{parameters: f.Params, result: f.Return, memo: -1, partial: isPartial(f)}
		if len(f.Params) == 2 {
			linked.memo = len(l.program.functions)
		}
		l.program.functions = append(l.program.functions, linked)
		l.byName[f.Name] = linked
		l.byPath[pathOf(f.Path)] = linked
	}
	for _, b := range policy.Static.BuiltinFuncs {
		found, err := builtinFor(b, options.Functions)
		if err != nil {
			return nil, err
		}
		l.builtins[b.Name] = found
	}
	for i, f := range policy.Funcs.Funcs {
		l.current, l.registers = l.program.functions[i], 0
		blocks, err := l.definitions(f.Blocks)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		for _, local := range append(f.Params, f.Return) {
			l.use(local)
		}
		l.current.blocks, l.current.registers = blocks, l.registers
	}
	l.current, l.registers = nil, int(ir.Unused)
	for _, p := range policy.Plans.Plans {
		blocks, err := l.definitions(p.Blocks)
		if err != nil {
			return nil, err
		}
		l.program.plan = append(l.program.plan, blocks...)
	}
	l.program.registers = l.registers
	l.program.machines = newMachines(l.program)
	return l.program, nil
}

// isPartial reports whether the definitions of a rule add to one value. Such a rule starts by making it.
func isPartial(f *ir.Func) bool {
	if len(f.Blocks) == 0 || len(f.Blocks[0].Stmts) == 0 {
		return false
	}
	switch s := f.Blocks[0].Stmts[0].(type) {
	case *ir.MakeSetStmt:
		return s.Target == f.Return
	case *ir.MakeObjectStmt:
		return s.Target == f.Return
	}
	return false
}

// use makes room for a register.
func (l *linker) use(local ir.Local) int {
	l.registers = max(l.registers, int(local)+1)
	return int(local)
}

// operand reads a register or a constant.
func (l *linker) operand(o ir.Operand) operand {
	switch v := o.Value.(type) {
	case ir.Local:
		return operand{register: l.use(v)}
	case ir.StringIndex:
		return operand{constant: l.program.strings[v], term: &ast.Term{Value: l.program.strings[v].(ast.Value)}}
	case ir.Bool:
		return operand{constant: ast.Boolean(v), term: ast.InternedTerm(bool(v))}
	}
	panic(fmt.Sprintf("plan: an operand %T", o.Value)) // not reached: OPA has no others
}

// operand is a register, or a constant if that is set.
type operand struct {
	constant value
	term     *ast.Term // of the constant
	register int
}

func (o *operand) of(f *frame) value {
	if o.constant != nil {
		return o.constant
	}
	return f.registers[o.register]
}

func pathOf(steps []string) string {
	path := ""
	for _, step := range steps {
		path += "/" + step
	}
	return path
}
