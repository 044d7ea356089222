package plan

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// A literal collection of constants is made once, when the program is linked, and not each time.

// additions counts the statements that add to each collection in a definition of a rule, which is a block with
// registers of its own.
func additions(definition *ir.Block) map[ir.Local]int {
	counts := counter{}
	_ = ir.Walk(counts, definition)
	return counts
}

// counter is a visitor of statements.
type counter map[ir.Local]int

func (c counter) Before(any) {}

func (c counter) After(any) {}

func (c counter) Visit(x any) (ir.Visitor, error) {
	switch s := x.(type) {
	case *ir.ObjectInsertStmt:
		c[s.Object]++
	case *ir.ObjectInsertOnceStmt:
		c[s.Object]++
	case *ir.ArrayAppendStmt:
		c[s.Array]++
	case *ir.SetAddStmt:
		c[s.Set]++
	}
	return c, nil
}

// folded makes the step for the literal that begins at a statement, and returns how many statements it stands for; 0 if
// it is no constant.
func (l *linker) folded(statements []ir.Stmt) (step, int) {
	f := folder{linker: l, statements: statements, constants: map[ir.Local]value{}}
	made, target, taken := f.literal(0)
	if taken == 0 {
		return nil, 0
	}
	return l.constant(target, made), taken
}

// folder finds constants among the statements of a block.
type folder struct {
	*linker
	statements []ir.Stmt
	constants  map[ir.Local]value // of registers that the statements so far have set
}

// literal returns the value of the literal that begins at a statement, its register, and how many statements it takes.
func (f *folder) literal(from int) (made value, target ir.Local, taken int) {
	switch s := f.statements[from].(type) {
	case *ir.MakeObjectStmt:
		target, made = s.Target, &object{}
	case *ir.MakeArrayStmt:
		target, made = s.Target, &array{}
	case *ir.MakeSetStmt:
		target, made = s.Target, ast.NewSet()
	default:
		return nil, 0, 0
	}
	var t terms
	added, end := 0, from+1
	for n := from + 1; n < len(f.statements) && added < f.added[target]; n++ {
		switch s := f.statements[n].(type) {
		case *ir.MakeNumberRefStmt:
			f.constants[s.Target] = ast.Number(f.policy.Static.Strings[s.Index].Value)
			continue
		case *ir.MakeNullStmt:
			f.constants[s.Target] = null
			continue
		case *ir.MakeObjectStmt, *ir.MakeArrayStmt, *ir.MakeSetStmt:
			v, inner, taken := f.literal(n)
			if taken == 0 {
				return nil, 0, 0
			}
			f.constants[inner] = v
			n += taken - 1
			continue
		}
		if !f.adds(&t, f.statements[n], made, target) {
			return nil, 0, 0
		}
		added, end = added+1, n+1
	}
	if added != f.added[target] {
		return nil, 0, 0
	}
	t.value(made) // makes the term, before several evaluations share it
	return made, target, end - from
}

// adds does what a statement does, if that adds a constant to the collection.
func (f *folder) adds(t *terms, statement ir.Stmt, made value, target ir.Local) bool {
	switch s := statement.(type) {
	case *ir.ObjectInsertStmt:
		o, ok := made.(*object)
		name, isText := Text(f.constantOf(s.Key))
		v := f.constantOf(s.Value)
		if s.Object == target && ok && isText && v != nil {
			o.set(name, v)
			return true
		}
	case *ir.ArrayAppendStmt:
		a, ok := made.(*array)
		if v := f.constantOf(s.Value); s.Array == target && ok && v != nil {
			a.elements = append(a.elements, v)
			return true
		}
	case *ir.SetAddStmt:
		set, ok := made.(ast.Set)
		if v := f.constantOf(s.Value); s.Set == target && ok && v != nil {
			set.Add(t.term(v))
			return true
		}
	}
	return false
}

func (f *folder) constantOf(o ir.Operand) value {
	if local, ok := o.Value.(ir.Local); ok {
		return f.constants[local]
	}
	return f.operand(o).constant
}
