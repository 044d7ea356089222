package lint

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// unreadFiles are the data files to which no rule, test or invariant refers.
func unreadFiles(fsys fs.FS) []string {
	names, err := ruleset.Files(fsys, true)
	if err != nil {
		return nil // the rules would not have loaded
	}
	isRego := func(name string) bool { return path.Ext(name) == ".rego" }
	data := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return isRego(name) || ruleset.IsDataSchema(name) })
	if len(data) == 0 {
		return nil
	}
	var refs []ast.Ref
	for _, name := range names {
		if !isRego(name) {
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			continue
		}
		refs = append(refs, dataRefs(name, text)...)
	}
	return slices.DeleteFunc(data, func(name string) bool {
		at := ruleset.DataRef(name)
		return slices.ContainsFunc(refs, func(ref ast.Ref) bool { return at.HasPrefix(ref) || ref.HasPrefix(at) })
	})
}

// dataRefs are the references of a module to data, as far as they are constant.
func dataRefs(name string, text []byte) []ast.Ref {
	module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return []ast.Ref{ast.DefaultRootRef} // usher test reports it; it may refer to anything
	}
	var refs []ast.Ref
	var look func(t *ast.Term) bool
	look = func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Ref:
			if !v.HasPrefix(ast.DefaultRootRef) {
				return false
			}
			refs = append(refs, v.ConstantPrefix())
			for _, key := range v[1:] {
				ast.WalkTerms(key, look)
			}
			return true
		case ast.Var:
			if v.Equal(ast.DefaultRootDocument.Value) {
				refs = append(refs, ast.DefaultRootRef) // all data, as in x := data
			}
		}
		return false
	}
	for _, rule := range module.Rules {
		ast.WalkTerms(rule, look)
	}
	for _, imported := range module.Imports {
		ast.WalkTerms(imported.Path, look)
	}
	return refs
}

func unreadData(_ context.Context, s *subject, add report) {
	for _, name := range s.unreadFiles {
		at := ruleset.DataRef(name)
		if len(at) == 1 {
			continue // the folder of all rules
		}
		if at.HasPrefix(s.rule.Path()) || slices.ContainsFunc(s.modules, func(m *ast.Module) bool {
			folder := ruleset.DataRef(strings.TrimPrefix(m.Package.Location.File, s.set.Options().Name+"/"))
			return len(folder) > 1 && at.HasPrefix(folder)
		}) {
			add(ast.NewLocation(nil, path.Join(s.set.Options().Name, name), 1, 1),
				fmt.Sprintf("no rule and no test reads %s", at), "correct the name of the folder or the reference, or remove the file")
		}
	}
}
