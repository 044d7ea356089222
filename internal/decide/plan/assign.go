package plan

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// assignment makes the closure of a statement that reads, moves or forgets values; nil if it is another one.
func (l *linker) assignment(statement ir.Stmt) step {
	switch s := statement.(type) {
	case *ir.AssignVarStmt:
		source, target := l.operand(s.Source), l.use(s.Target)
		return func(f *frame) jump {
			f.registers[target] = source.of(f)
			return next
		}
	case *ir.AssignVarOnceStmt:
		source, target := l.operand(s.Source), l.use(s.Target)
		return func(f *frame) jump {
			v := source.of(f)
			if before := f.registers[target]; before != nil && !f.equal(before, v) {
				return f.unclear() // definitions give different values
			}
			f.registers[target] = v
			return next
		}
	case *ir.AssignIntStmt:
		v, target := integer(int(s.Value)), l.use(s.Target)
		return func(f *frame) jump {
			f.registers[target] = v
			return next
		}
	case *ir.ResetLocalStmt:
		target := l.use(s.Target)
		return func(f *frame) jump {
			f.registers[target] = nil
			return next
		}
	case *ir.DotStmt:
		source, key, target := l.operand(s.Source), l.operand(s.Key), l.use(s.Target)
		return func(f *frame) jump {
			of, at := source.of(f), key.of(f)
			found := f.member(of, at)
			if found == nil {
				if f.hasAsText(of, at) {
					return f.unclear()
				}
				return leave
			}
			f.registers[target] = found
			return next
		}
	case *ir.LenStmt:
		source, target := l.operand(s.Source), l.use(s.Target)
		return func(f *frame) jump {
			n := length(source.of(f))
			if n < 0 {
				return leave
			}
			f.registers[target] = integer(n)
			return next
		}
	case *ir.MakeNullStmt:
		return l.constant(s.Target, null)
	case *ir.MakeNumberIntStmt:
		return l.constant(s.Target, integer(int(s.Value)))
	case *ir.MakeNumberRefStmt:
		return l.constant(s.Target, ast.Number(l.policy.Static.Strings[s.Index].Value))
	}
	return nil
}

// hasAsText reports whether an object has as text the key that is asked for as a number. In a reference into data, but
// not elsewhere, topdown takes one for the other.
func (t *terms) hasAsText(of, key value) bool {
	n, isNumber := Number(key)
	data, IsObject := of.(ast.Object)
	return isNumber && IsObject && data.Get(ast.StringTerm(string(n))) != nil
}

func (l *linker) constant(local ir.Local, v value) step {
	target := l.use(local)
	return func(f *frame) jump {
		f.registers[target] = v
		return next
	}
}

// comparison makes the closure of a statement that asks something about values; nil if it is another one.
func (l *linker) comparison(statement ir.Stmt) step {
	switch s := statement.(type) {
	case *ir.EqualStmt:
		a, b := l.operand(s.A), l.operand(s.B)
		return func(f *frame) jump {
			x, y := a.of(f), b.of(f)
			return holds(x != nil && y != nil && f.equal(x, y))
		}
	case *ir.NotEqualStmt:
		a, b := l.operand(s.A), l.operand(s.B)
		return func(f *frame) jump {
			x, y := a.of(f), b.of(f)
			return holds(x != nil && y != nil && !f.equal(x, y))
		}
	case *ir.IsArrayStmt:
		return l.is(s.Source, IsArray)
	case *ir.IsObjectStmt:
		return l.is(s.Source, IsObject)
	case *ir.IsSetStmt:
		return l.is(s.Source, IsSet)
	case *ir.IsDefinedStmt:
		source := l.use(s.Source)
		return func(f *frame) jump { return holds(f.registers[source] != nil) }
	case *ir.IsUndefinedStmt:
		source := l.use(s.Source)
		return func(f *frame) jump { return holds(f.registers[source] == nil) }
	}
	return nil
}

func (l *linker) is(of ir.Operand, kind func(value) bool) step {
	source := l.operand(of)
	return func(f *frame) jump { return holds(kind(source.of(f))) }
}

func holds(condition bool) jump {
	if condition {
		return next
	}
	return leave
}
