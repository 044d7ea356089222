package plan

import (
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// builtin is a function that is not defined by rules.
type builtin struct {
	name     string
	function topdown.BuiltinFunc
	void     bool // it has no result
	relation bool // it can have several results
}

func builtinFor(b *ir.BuiltinFunc, functions map[string]*topdown.Builtin) (*builtin, error) {
	if own, ok := functions[b.Name]; ok {
		return &builtin{b.Name, own.Func, own.Decl.Decl.Result() == nil, own.Decl.Relation}, nil
	}
	declared, ok := ast.BuiltinMap[b.Name]
	f := topdown.GetBuiltin(b.Name)
	if !ok || f == nil {
		return nil, fmt.Errorf("there is no built-in function %s", b.Name)
	}
	return &builtin{b.Name, f, declared.Decl.Result() == nil, declared.Relation}, nil
}

// place is where a statement comes from.
func (l *linker) place(at *ir.Location) *ast.Location {
	place := &ast.Location{Row: at.Row, Col: at.Col}
	if files := l.policy.Static.Files; at.File < len(files) {
		place.File = files[at.File].Value
	}
	return place
}

// callBuiltin calls a function of OPA, or one that Usher adds to it.
func (l *linker) callBuiltin(called *builtin, arguments []operand, target int, at ir.Location) step {
	if called.name == l.options.Noted {
		return l.note(arguments[0])
	}
	place := l.place(&at)
	return func(f *frame) jump {
		operands := make([]*ast.Term, len(arguments))
		for i := range arguments {
			if operands[i] = arguments[i].term; operands[i] != nil {
				continue
			}
			v := f.registers[arguments[i].register]
			if v == nil {
				return leave
			}
			operands[i] = f.term(v)
		}
		context := f.context
		context.Location = place
		var result value
		err := called.function(context, operands, func(output *ast.Term) error {
			switch {
			case called.void:
				result = null
			case called.relation:
				list, ok := result.(*array)
				if !ok {
					list = &array{}
					result = list
				}
				list.elements = append(list.elements, output.Value)
				if f.made(elementBytes, place) != next {
					return f.err
				}
			default:
				result = output.Value
			}
			return nil
		})
		if err != nil {
			if f.err != nil {
				return halted
			}
			if topdown.IsCancel(err) {
				f.err = err
				return halted
			}
			if halt, ok := errors.AsType[topdown.Halt](err); ok && topdown.IsCancel(halt.Err) {
				f.err = halt.Err
				return halted
			}
			return f.unclear()
		}
		if result == nil {
			if !called.relation {
				return leave
			}
			result = &array{}
		}
		f.registers[target] = result
		return f.made(size(result), place)
	}
}

// size is about how many bytes what a function returned takes, without what it contains.
func size(v value) int {
	switch v := v.(type) {
	case ast.String:
		return len(v)
	case *ast.Array:
		return v.Len() * elementBytes / 2
	case ast.Object:
		return v.Len() * elementBytes
	case ast.Set:
		return v.Len() * elementBytes
	}
	return valueBytes
}

// note notes that a definition holds. If two of one rule do, OPA may not have come to the second one.
func (l *linker) note(number operand) step {
	partial := l.current != nil && l.current.partial
	return func(f *frame) jump {
		n, ok := f.number(number.of(f))
		if !ok {
			return leave
		}
		if f.noted != 0 && f.noted != n+1 && !partial {
			return f.unclear()
		}
		f.noted = n + 1
		f.hold(n)
		return next
	}
}

func (f *frame) number(v value) (int, bool) {
	n, ok := number(v)
	if !ok {
		return 0, false
	}
	return n.Int()
}

func (m *machine) hold(number int) {
	for _, held := range m.held {
		if held == number {
			return
		}
	}
	m.held = append(m.held, number)
}
