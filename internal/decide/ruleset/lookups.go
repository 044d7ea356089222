package ruleset

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/usher-dps/usher/answer"
)

// newLookups returns where OPA keeps such calls, filled with the known ones: OPA answers a second call with the same
// arguments from there. It is nil if the rules may make no such calls and none is known.
func (rs *Ruleset) newLookups(known []answer.Lookup) builtins.NDBCache {
	if len(rs.options.AllowBuiltins) == 0 && len(known) == 0 {
		return nil
	}
	cache := builtins.NDBCache{}
	for _, call := range known {
		if _, isRow := LookupName(call.Builtin); isRow || len(rs.options.AllowBuiltins) == 0 && call.Builtin != CertificateBuiltin {
			continue
		}
		arguments, err := ast.InterfaceToValue(call.Arguments)
		if err != nil {
			continue // it is called again
		}
		result, err := ast.InterfaceToValue(call.Result)
		if err != nil {
			continue
		}
		if call.Arguments == nil {
			arguments = ast.NewArray()
		}
		cache.Put(call.Builtin, arguments, result)
	}
	return cache
}

// lookupsIn lists the calls in a fixed order.
func lookupsIn(cache builtins.NDBCache) []answer.Lookup {
	if len(cache) == 0 {
		return nil
	}
	var list []answer.Lookup
	for _, name := range slices.Sorted(maps.Keys(cache)) {
		if name == CertificateBuiltin {
			continue // it depends only on its argument, which the replayed request lacks
		}
		cache[name].Foreach(func(arguments, result *ast.Term) {
			call := answer.Lookup{Builtin: name}
			values, err := ast.JSON(arguments.Value)
			if err != nil {
				return // a value that JSON cannot express
			}
			call.Arguments, _ = values.([]any)
			if call.Result, err = ast.JSON(result.Value); err == nil {
				list = append(list, call)
			}
		})
	}
	return list
}
