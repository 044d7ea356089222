package plan

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Function is a function in Go that rules can call. A nil result is undefined. Arguments are valid during the call only.
type Function func(c *topdown.BuiltinContext, arguments []Value) (Value, error)

// ForTopdown returns the function in the form that topdown calls.
func (f Function) ForTopdown() topdown.BuiltinFunc {
	return func(c topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
		arguments := make([]Value, len(operands))
		for i, operand := range operands {
			arguments[i] = operand.Value
		}
		result, err := f(&c, arguments)
		if err != nil || result == nil {
			return err
		}
		return iter(Term(result))
	}
}

// callAdded calls a function that is added to those of OPA.
func callAdded(called Function, arguments []operand, target int, at *ast.Location) step {
	return func(f *frame) jump {
		values := f.values(arguments)
		if values == nil {
			return leave
		}
		f.context.Location = at
		result, err := called(&f.context, values)
		if err != nil {
			return f.failed(err)
		}
		if result == nil {
			return leave
		}
		f.registers[target] = result
		return f.made(size(result), at)
	}
}

// values returns the arguments of a call; nil if one of them is undefined.
func (f *frame) values(arguments []operand) []value {
	values := f.arguments[:len(arguments)]
	for i := range arguments {
		if values[i] = arguments[i].of(f); values[i] == nil {
			return nil
		}
	}
	return values
}
