package plan

import (
	"fmt"
	"math"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// shared is more than any count of statements.
const shared = math.MaxInt

// definitions links the blocks of a rule or of a plan. Each has registers of its own, besides those of the whole.
func (l *linker) definitions(list []*ir.Block) ([]block, error) {
	blocks := make([]block, len(list))
	for i, b := range list {
		l.added = additions(b)
		if l.current != nil {
			l.added[l.current.result] = shared // all definitions of a partial rule add to it
		}
		var err error
		if blocks[i], err = l.block(b); err != nil {
			return nil, err
		}
	}
	return blocks, nil
}

func (l *linker) blocks(list []*ir.Block) ([]block, error) {
	blocks := make([]block, len(list))
	for i, b := range list {
		var err error
		if blocks[i], err = l.block(b); err != nil {
			return nil, err
		}
	}
	return blocks, nil
}

func (l *linker) block(b *ir.Block) (block, error) {
	steps := make(block, 0, len(b.Stmts))
	for i := 0; i < len(b.Stmts); i++ {
		if s, taken := l.folded(b.Stmts[i:]); taken > 0 {
			steps = append(steps, s)
			i += taken - 1
			continue
		}
		s, err := l.statement(b.Stmts[i])
		if err != nil {
			return nil, err
		}
		if s != nil {
			steps = append(steps, s)
		}
	}
	if len(steps) > 0 {
		l.program.places[&steps[0]] = l.placeOf(b)
	}
	return steps, nil
}

// placeOf is where the first statement of a block comes from that comes from anywhere.
func (l *linker) placeOf(b *ir.Block) *ast.Location {
	for _, s := range b.Stmts {
		if at := s.GetLocation(); at.Row > 0 {
			return l.place(at)
		}
	}
	return &noPlace
}

// statement makes the closure of a statement; nil if there is nothing to do.
func (l *linker) statement(statement ir.Stmt) (step, error) {
	switch s := statement.(type) {
	case *ir.NopStmt:
		return nil, nil
	case *ir.BlockStmt:
		blocks, err := l.blocks(s.Blocks)
		return func(f *frame) jump { return runAll(blocks, f) }, err
	case *ir.BreakStmt:
		to := jump(s.Index)
		return func(*frame) jump { return to }, nil
	case *ir.ReturnLocalStmt:
		return func(*frame) jump { return returned }, nil
	case *ir.NotStmt:
		return l.not(s)
	case *ir.ScanStmt:
		return l.scan(s)
	case *ir.WithStmt:
		return l.with(s)
	case *ir.CallStmt:
		return l.call(s)
	case *ir.CallDynamicStmt:
		return l.callDynamic(s)
	case *ir.ResultSetAddStmt:
		from := l.use(s.Value)
		return func(f *frame) jump {
			f.results = append(f.results, f.registers[from])
			return next
		}, nil
	}
	if s := l.assignment(statement); s != nil {
		return s, nil
	}
	if s := l.comparison(statement); s != nil {
		return s, nil
	}
	if s := l.making(statement); s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("there is a statement %T, which is unknown", statement)
}

func (l *linker) not(s *ir.NotStmt) (step, error) {
	b, err := l.block(s.Block)
	return func(f *frame) jump {
		switch to := b.run(f); {
		case to == next:
			return leave
		case to == leave:
			return next
		case to > leave:
			return to - 1
		default:
			return to
		}
	}, err
}

func (l *linker) scan(s *ir.ScanStmt) (step, error) {
	source, key, element := l.use(s.Source), l.use(s.Key), l.use(s.Value)
	b, err := l.block(s.Block)
	return func(f *frame) jump {
		to := next
		Each(f.registers[source], func(k, v value) bool {
			f.registers[key], f.registers[element] = k, v
			if to = b.run(f); to == leave {
				to = next
			}
			return to == next
		})
		if to > leave {
			return to - 1
		}
		return to
	}, err
}

// with replaces a value, or a part of it, while a block is executed.
func (l *linker) with(s *ir.WithStmt) (step, error) {
	local, replacement := l.use(s.Local), l.operand(s.Value)
	path := make([]string, len(s.Path))
	for i, at := range s.Path {
		path[i] = l.policy.Static.Strings[at].Value
	}
	b, err := l.block(s.Block)
	return func(f *frame) jump {
		before := f.registers[local]
		f.registers[local] = f.replaced(before, path, replacement.of(f))
		f.suppose()
		to := b.run(f)
		f.restore()
		f.registers[local] = before
		if to > leave {
			return to - 1
		}
		return to
	}, err
}

// replaced is a value with a part replaced. Objects on the way that do not exist are made.
func (t *terms) replaced(v value, path []string, by value) value {
	if len(path) == 0 {
		return by
	}
	copied := &object{}
	other := false
	if IsObject(v) {
		Each(v, func(key, member value) bool {
			name, ok := Text(key)
			if ok {
				copied.set(name, member)
			} else {
				other = true
			}
			return true
		})
	}
	inner := t.replaced(copied.get(path[0]), path[1:], by)
	if other {
		whole, _ := t.value(v).(ast.Object)
		changed := ast.NewObject()
		whole.Foreach(func(key, member *ast.Term) { changed.Insert(key, member) })
		changed.Insert(ast.StringTerm(path[0]), t.term(inner))
		return changed
	}
	copied.set(path[0], inner)
	return copied
}

// call calls a rule or a function.
func (l *linker) call(s *ir.CallStmt) (step, error) {
	arguments := make([]operand, len(s.Args))
	for i, a := range s.Args {
		arguments[i] = l.operand(a)
	}
	target := l.use(s.Result)
	if called := l.byName[s.Func]; called != nil {
		return l.callFunction(called, arguments, target), nil
	}
	if called := l.builtins[s.Func]; called != nil {
		return l.callBuiltin(called, arguments, target, s.Location), nil
	}
	return nil, fmt.Errorf("there is no function %s", s.Func)
}

func (l *linker) callFunction(called *function, arguments []operand, target int) step {
	if called.memo >= 0 {
		return func(f *frame) jump { return f.rule(called, &arguments[0], &arguments[1], target) }
	}
	return func(f *frame) jump {
		if f.depth > maxDepth {
			return f.unclear()
		}
		inner := f.push(called.registers)
		for i := range arguments {
			inner.registers[called.parameters[i]] = arguments[i].of(f)
		}
		to := runAll(called.blocks, inner)
		result := inner.registers[called.result]
		f.pop(inner)
		if to == halted {
			return halted
		}
		f.registers[target] = result
		if result == nil {
			return leave
		}
		return next
	}
}

// maxDepth bounds how deep calls can be nested. Rego has no recursion, so only a chain of that many rules reaches it.
const maxDepth = 10_000

// rule puts what a rule says into a register. It is evaluated once.
func (f *frame) rule(called *function, input, data *operand, target int) jump {
	memos := f.memo[len(f.memo)-1]
	known := &memos[called.memo]
	if !known.known {
		if f.depth > maxDepth {
			return f.unclear()
		}
		inner := f.push(called.registers)
		inner.registers[called.parameters[0]] = input.of(f)
		inner.registers[called.parameters[1]] = data.of(f)
		to := runAll(called.blocks, inner)
		*known = memo{known: true, value: inner.registers[called.result]}
		f.pop(inner)
		if to == halted {
			return halted
		}
	}
	f.registers[target] = known.value
	if known.value == nil {
		return leave
	}
	return next
}

// callDynamic calls the rule at a path that is known only now.
func (l *linker) callDynamic(s *ir.CallDynamicStmt) (step, error) {
	steps := make([]operand, len(s.Path))
	for i, o := range s.Path {
		steps[i] = l.operand(o)
	}
	arguments := make([]operand, len(s.Args))
	for i, a := range s.Args {
		arguments[i] = operand{register: l.use(a)}
	}
	target := l.use(s.Result)
	byPath := l.byPath
	return func(f *frame) jump {
		path := ""
		for i := range steps {
			name, ok := Text(steps[i].of(f))
			if !ok {
				return leave
			}
			path += "/" + name
		}
		called := byPath[path]
		if called == nil || len(called.parameters) != len(arguments) || called.memo < 0 {
			return leave
		}
		return f.rule(called, &arguments[0], &arguments[1], target)
	}, nil
}
