package ruleset

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// TestBed is a folder of rules with their tests, and what they are compiled and
// evaluated with when they are served. It is for tools that run OPA's own test
// runner; nothing that serves needs it.
type TestBed struct {
	// Modules are the parsed files, *_test.rego among them, by their places.
	Modules map[string]*ast.Module
	// Store holds the data files.
	Store storage.Store
	// Builtins are the functions that Usher adds to Rego.
	Builtins []*topdown.Builtin

	set *Ruleset
}

// OpenTestBed reads the rules under fsys as [Load] does, and their tests. Its
// error is a *LoadError where a file is at fault.
func OpenTestBed(ctx context.Context, fsys fs.FS, options Options) (*TestBed, error) {
	rs := &Ruleset{options: options}
	if err := rs.buildEnvironment(); err != nil {
		return nil, err
	}
	names, err := Files(fsys, true)
	if err != nil {
		return nil, err
	}
	bed := &TestBed{Modules: map[string]*ast.Module{}, set: rs}
	var data []file
	var problems []Problem
	for _, name := range names {
		if IsInvariants(name) {
			continue // its input is another: see [Invariants]
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		if isData(name) {
			data = append(data, file{name, text})
			continue
		}
		place := path.Join(options.Name, name)
		module, err := ast.ParseModuleWithOpts(place, strings.TrimPrefix(string(text), "\ufeff"), rs.parserOptions())
		if err != nil {
			problems = append(problems, problemsOf(err)...)
			continue
		}
		bed.Modules[place] = module
	}
	if len(problems) > 0 {
		return nil, newLoadError(problems)
	}
	if err := rs.openStore(ctx, data, options.Name); err != nil {
		return nil, err
	}
	bed.Store = rs.store
	for _, custom := range customBuiltins() {
		bed.Builtins = append(bed.Builtins, rs.builtins[custom.decl.Name])
	}
	return bed, nil
}

// Compiler returns a compiler with the capabilities and the schema that rules are
// served with, with nothing compiled yet. It lets rules print.
func (bed *TestBed) Compiler(ctx context.Context) *ast.Compiler {
	return bed.set.newCompiler(ctx).WithEnablePrintStatements(true)
}

// CompileProblems turns errors of a compiler into a *LoadError in the words that
// [Load] has for them. Other errors stay as they are.
func CompileProblems(err error) error {
	if _, ok := errors.AsType[ast.Errors](err); ok {
		return newLoadError(problemsOf(err))
	}
	return err
}

// PackageName is the name of a module's package, such as allocation.line.
func PackageName(module *ast.Module) string { return packageName(module.Package) }

// IsTest reports whether a file holds tests, which are not served.
func IsTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// Files lists the files under fsys that belong to rules, in lexical order: Rego
// and data, tests and invariants only if asked for.
func Files(fsys fs.FS, tests bool) ([]string, error) {
	var names []string
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && isHidden(name):
			return fs.SkipDir // such as .git or an editor's folder
		case entry.IsDir() || isHidden(name):
			return nil
		case isRego(name) || isData(name) || tests && (IsTest(name) || IsInvariants(name)):
			names = append(names, name)
		}
		return nil
	})
	return names, err
}
