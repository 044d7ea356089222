package ruleset

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// checkNames is a compiler stage that refuses a reference below data to a name that neither rules nor data files
// define. OPA takes such a reference for undefined, because data could be added later; here all data comes with the
// rules. Otherwise a misspelt name in a condition to reject would let every device pass.
func (e *environment) checkNames(compiler *ast.Compiler) *ast.Error {
	var found ast.Errors
	for _, name := range slices.Sorted(maps.Keys(compiler.Modules)) {
		var visit func(x any) bool
		visitor := ast.NewGenericVisitor(func(x any) bool { return visit(x) })
		visit = func(x any) bool {
			switch x := x.(type) {
			case *ast.With: // a test may replace what does not exist; only the new value counts
				visitor.Walk(x.Value)
				return true
			case *ast.Term:
				if ref, ok := x.Value.(ast.Ref); ok {
					if message := e.undefinedName(compiler, ref); message != "" {
						found = append(found, ast.NewError(ast.TypeErr, x.Location, "%s", message))
					}
				}
			}
			return false
		}
		for _, rule := range compiler.Modules[name].Rules {
			visitor.Walk(rule)
		}
	}
	return report(compiler, found)
}

// report is how a compiler stage reports several errors: it returns the last one.
func report(compiler *ast.Compiler, found ast.Errors) *ast.Error {
	if len(found) == 0 {
		return nil
	}
	last := len(found) - 1
	compiler.Errors = append(compiler.Errors, found[:last]...)
	return found[last]
}

// undefinedName describes the first name in ref that does not exist, with those that do. It returns "" if all names
// exist, or may exist depending on values that are only known when the rule is evaluated.
func (e *environment) undefinedName(compiler *ast.Compiler, ref ast.Ref) string {
	if !ref.HasPrefix(ast.DefaultRootRef) {
		return ""
	}
	rules, data := compiler.RuleTree.Child(ref[0].Value), e.data
	for i, term := range ref[1:] {
		if !ast.IsConstant(term.Value) {
			return ""
		}
		var below ast.Value
		switch container := data.(type) {
		case *ast.Array:
			return "" // the index may be in range or not, as with any list
		case ast.Object:
			if member := container.Get(term); member != nil {
				below = member.Value
			}
		}
		parent := rules
		if rules != nil {
			rules = rules.Child(term.Value)
		}
		if rules != nil && len(rules.Values) > 0 {
			return "" // what is below depends on the rule's value
		}
		if rules == nil && below == nil {
			return fmt.Sprintf("undefined ref: %s; %s has %s", ref[:i+2], ref[:i+1], namesIn(parent, data))
		}
		data = below
	}
	return ""
}

// namesIn lists the names that rules, packages and data files define at a place below data.
func namesIn(rules *ast.TreeNode, data ast.Value) string {
	const most = 30
	names := map[string]bool{}
	if rules != nil {
		for key := range rules.Children {
			names[strings.Trim(key.String(), `"`)] = true
		}
	}
	if object, ok := data.(ast.Object); ok {
		object.Foreach(func(key, _ *ast.Term) { names[strings.Trim(key.String(), `"`)] = true })
	}
	if len(names) == 0 {
		return "no members"
	}
	list := slices.Sorted(maps.Keys(names))
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("and %d more", len(list)-most))
	}
	return strings.Join(list, ", ")
}
