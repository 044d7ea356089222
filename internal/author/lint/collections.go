package lint

import (
	"context"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/dataflow"
)

// memberOfObject finds x in table, which compares x with the values of the table, where its keys were meant.
func memberOfObject(_ context.Context, s *subject, add report) {
	s.eachUse(func(_ string, use dataflow.Use) {
		element, tables := use.Args[0], use.Args[1]
		if len(tables) == 0 || slices.ContainsFunc(element, isComposite) {
			return
		}
		for _, table := range tables {
			_, values := table.Inside()
			if !table.IsObject() || len(values) == 0 || slices.ContainsFunc(values, func(v dataflow.Value) bool { return mayEqual(element, v) }) {
				return
			}
		}
		add(use.Location, fmt.Sprintf("in looks among the values of the object%s, none of which can be equal", from(tables[0].Place)),
			"look the key up, as in table[key], or use object.keys(table)")
	}, "internal.member_2")
}

func isComposite(v dataflow.Value) bool {
	switch v.Constant.(type) {
	case ast.Object, *ast.Array, ast.Set:
		return true
	}
	return v.Kind == dataflow.Object || v.Kind == dataflow.List
}

// mayEqual reports whether a value of a table can be the same as one of some scalars.
func mayEqual(scalars dataflow.Alternatives, v dataflow.Value) bool {
	if isComposite(v) {
		return false
	}
	return v.Kind == dataflow.Unknown || slices.ContainsFunc(scalars, func(scalar dataflow.Value) bool {
		switch {
		case scalar.Kind == dataflow.Constant:
			return ast.ValueName(scalar.Constant) == ast.ValueName(v.Constant)
		case scalar.IsText():
			return ast.ValueName(v.Constant) == "string"
		}
		return true
	})
}

func emptyEvery(_ context.Context, s *subject, add report) {
	s.eachUse(func(entry string, use dataflow.Use) {
		if lists := use.MayBeEmpty(); admits(entry, use) && len(lists) > 0 {
			add(use.Location, fmt.Sprintf("every also holds for an empty list, and the device decides what is in %s", lists[0].Name()),
				"also require an element, as in count(xs) > 0")
		}
	}, "every")
}
