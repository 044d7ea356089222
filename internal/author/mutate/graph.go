package mutate

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// graph knows which packages refer to which, those of tests included.
type graph map[string]*node // by the names of packages

// node is a package.
type node struct {
	path  ast.Ref
	files []string // without the name of the folder of rules
	// refs are the constant parts of what it refers to in data, and its own path: an entry rule includes the packages
	// below its own.
	refs []ast.Ref
}

// add adds a file of a package.
func (g graph) add(name string, module *ast.Module) {
	key := ruleset.PackageName(module)
	n := g[key]
	if n == nil {
		n = &node{path: module.Package.Path, refs: []ast.Ref{module.Package.Path}}
		g[key] = n
	}
	n.files = append(n.files, name)
	ast.WalkRefs(module, func(ref ast.Ref) bool {
		if ref.HasPrefix(ast.DefaultRootRef) {
			n.refs = append(n.refs, ref.ConstantPrefix())
		}
		return false
	})
}

// refersTo reports whether a package refers to a place, or to what contains it or is in it.
func (n *node) refersTo(place ast.Ref) bool {
	return slices.ContainsFunc(n.refs, func(ref ast.Ref) bool { return ref.HasPrefix(place) || place.HasPrefix(ref) })
}

// dependents returns the packages that a change at a place can affect.
func (g graph) dependents(place ast.Ref) map[string]bool {
	found := map[string]bool{}
	for queue := []ast.Ref{place}; len(queue) > 0; queue = queue[1:] {
		for key, n := range g {
			if !found[key] && n.refersTo(queue[0]) {
				found[key] = true
				queue = append(queue, n.path)
			}
		}
	}
	return found
}

// closure adds the packages that these need.
func (g graph) closure(keys map[string]bool) map[string]bool {
	found := maps.Clone(keys)
	for queue := slices.Collect(maps.Keys(keys)); len(queue) > 0; queue = queue[1:] {
		needs := g[queue[0]]
		for key, n := range g {
			if !found[key] && needs.refersTo(n.path) {
				found[key] = true
				queue = append(queue, key)
			}
		}
	}
	return found
}
