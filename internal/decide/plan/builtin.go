package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

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
	pure     bool // it needs nothing of the context
}

func builtinFor(b *ir.BuiltinFunc, functions map[string]*topdown.Builtin) (*builtin, error) {
	if own, ok := functions[b.Name]; ok {
		return &builtin{b.Name, own.Func, own.Decl.Decl.Result() == nil, own.Decl.Relation, own.Decl.CanSkipBctx}, nil
	}
	declared, ok := ast.BuiltinMap[b.Name]
	f := topdown.GetBuiltin(b.Name)
	if !ok || f == nil {
		return nil, fmt.Errorf("there is no built-in function %s", b.Name)
	}
	return &builtin{b.Name, f, declared.Decl.Result() == nil, declared.Relation, declared.CanSkipBctx}, nil
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
	if native := natives[called.name]; native != nil {
		return callNative(native, called, arguments, target, place)
	}
	if added := l.options.Added[called.name]; added != nil {
		return callAdded(added, arguments, target, place)
	}
	return func(f *frame) jump { return f.callTopdown(called, arguments, target, place) }
}

// call is a call of a function of OPA.
type call struct {
	machine  *machine
	operands []*ast.Term
	of       *builtin
	at       *ast.Location
	result   value
	receive  func(*ast.Term) error // output, made once
}

func (c *call) release() {
	clear(c.operands[:cap(c.operands)])
	c.operands, c.result = c.operands[:0], nil
}

// output receives a result.
func (c *call) output(output *ast.Term) error {
	switch {
	case c.of.void:
		c.result = null
	case c.of.relation:
		list, ok := c.result.(*array)
		if !ok {
			list = &array{}
			c.result = list
		}
		list.elements = append(list.elements, output.Value)
		if c.machine.made(elementBytes, c.at) != next {
			return c.machine.err
		}
	default:
		c.result = output.Value
	}
	return nil
}

func (f *frame) callTopdown(called *builtin, arguments []operand, target int, at *ast.Location) jump {
	c := &f.call
	c.operands, c.of, c.at, c.result = c.operands[:0], called, at, nil
	for i := range arguments {
		term := arguments[i].term
		if term == nil {
			v := f.registers[arguments[i].register]
			if v == nil {
				return leave
			}
			term = f.term(v)
		}
		c.operands = append(c.operands, term)
	}
	if to := f.within(f.account.Allows(called.name, c.operands, at)); to != next {
		return to
	}
	if f.context.Time == nil && !called.pure {
		f.context.Time = ast.NumberTerm(json.Number(strconv.FormatInt(f.options.Now.UnixNano(), 10)))
	}
	f.context.Location = at
	if err := called.function(f.context, c.operands, c.receive); err != nil {
		return f.failed(err)
	}
	result := c.result
	if result == nil {
		if !called.relation {
			return leave
		}
		result = &array{}
	}
	f.registers[target] = result
	return f.made(size(result), at)
}

// failed ends the evaluation after an error of a function.
func (m *machine) failed(err error) jump {
	if m.err != nil {
		return halted
	}
	if halt, ok := errors.AsType[topdown.Halt](err); ok {
		err = halt.Err
	}
	if topdown.IsCancel(err) {
		m.err = err
		return halted
	}
	return m.unclear()
}

// size is about how many bytes what a function returned takes, without what it contains.
func size(v value) int {
	switch v := v.(type) {
	case string:
		return len(v)
	case ast.String:
		return len(v)
	case ast.Number:
		return len(v)
	case *array:
		return len(v.elements) * valueBytes
	case *object:
		return len(v.members) * elementBytes
	case *ast.Array:
		return v.Len() * termBytes
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
		n, ok := f.integer(number.of(f))
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

func (f *frame) integer(v value) (int, bool) {
	n, ok := Number(v)
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
