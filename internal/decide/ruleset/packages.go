package ruleset

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
)

// rulePackage is a Rego package, which may be spread over several files. Rulesets that replace each other share those
// that are the same, so that one pointer stands for one text.
type rulePackage struct {
	name    string // without "data."
	path    ast.Ref
	files   []file             // with the name of the folder before their paths
	modules []*ast.Module      // the heads of the files
	header  []*ast.Annotations // the METADATA with scope package, one for each file that has it
	// refersTo are the constant parts of its references below data; nil until it is parsed.
	refersTo atomic.Pointer[[][]string]
}

// is reports whether a package has the same text in the same files as another one.
func (p *rulePackage) is(other *rulePackage) bool {
	return other != nil && slices.EqualFunc(p.files, other.files, func(a, b file) bool { return a.path == b.path && bytes.Equal(a.text, b.text) })
}

// labels are the words of a reference after data, up to the first that is not a constant text.
func labels(ref ast.Ref) []string {
	var list []string
	for _, term := range ref[1:] {
		label, ok := term.Value.(ast.String)
		if !ok {
			break
		}
		list = append(list, string(label))
	}
	return list
}

// references returns the constant parts of all references below data in modules, except those in their package
// clauses.
func references(modules map[string]*ast.Module) [][]string {
	found := map[string][]string{}
	add := func(ref ast.Ref) bool {
		if ref.HasPrefix(ast.DefaultRootRef) {
			path := labels(ref)
			found[strings.Join(path, "\x00")] = path
		}
		return false
	}
	for _, module := range modules {
		for _, imported := range module.Imports {
			ast.WalkRefs(imported, add)
		}
		for _, rule := range module.Rules {
			ast.WalkRefs(rule, add)
		}
	}
	return slices.Collect(maps.Values(found))
}

// packageTree finds packages by their paths, in a time that does not grow with their number.
type packageTree struct {
	here  *rulePackage // nil if no package has this path
	below map[string]*packageTree
}

func newPackageTree(packages map[string]*rulePackage) *packageTree {
	root := &packageTree{}
	for _, p := range packages {
		at := root
		for _, label := range labels(p.path) {
			next := at.below[label]
			if next == nil {
				next = &packageTree{}
				if at.below == nil {
					at.below = map[string]*packageTree{}
				}
				at.below[label] = next
			}
			at = next
		}
		at.here = p
	}
	return root
}

// reach visits the packages that a path can reach: those that it passes through, and those below its end.
func (t *packageTree) reach(path []string, visit func(*rulePackage)) {
	if len(path) == 0 {
		t.all(visit)
		return
	}
	if t.here != nil {
		visit(t.here)
	}
	if next := t.below[path[0]]; next != nil {
		next.reach(path[1:], visit)
	}
}

func (t *packageTree) all(visit func(*rulePackage)) {
	if t.here != nil {
		visit(t.here)
	}
	for _, next := range t.below {
		next.all(visit)
	}
}

// parser parses each package once.
type parser struct {
	options ast.ParserOptions
	mu      sync.Mutex
	parsed  map[*rulePackage]map[string]*ast.Module
}

func (rs *Ruleset) newParser() *parser {
	return &parser{options: rs.parserOptions(), parsed: map[*rulePackage]map[string]*ast.Module{}}
}

// parse returns the files of a package, by their places. The error is a *LoadError.
func (x *parser) parse(p *rulePackage) (map[string]*ast.Module, error) {
	x.mu.Lock()
	modules := x.parsed[p]
	x.mu.Unlock()
	if modules != nil {
		return modules, nil
	}
	modules = map[string]*ast.Module{}
	var problems []Problem
	for _, f := range p.files {
		module, err := ast.ParseModuleWithOpts(f.path, string(f.text), x.options)
		if err != nil {
			problems = append(problems, problemsOf(err)...)
		}
		modules[f.path] = module
	}
	if len(problems) > 0 {
		return nil, NewLoadError(problems)
	}
	refersTo := references(modules)
	p.refersTo.Store(&refersTo)
	x.mu.Lock()
	x.parsed[p] = modules
	x.mu.Unlock()
	return modules, nil
}

// parseAll parses packages, and lists what is wrong with any of them.
func (x *parser) parseAll(packages []*rulePackage, pace *pace) error {
	problems := make([][]Problem, len(packages))
	pace.each(len(packages), func(i int) {
		if _, err := x.parse(packages[i]); err != nil {
			problems[i] = err.(*LoadError).Problems
		}
	})
	if all := slices.Concat(problems...); len(all) > 0 {
		return NewLoadError(all)
	}
	return nil
}

// modules returns the files of several packages.
func (x *parser) modules(packages []*rulePackage) (map[string]*ast.Module, error) {
	modules := map[string]*ast.Module{}
	for _, p := range packages {
		parsed, err := x.parse(p)
		if err != nil {
			return nil, err
		}
		maps.Copy(modules, parsed)
	}
	return modules, nil
}

// closure lists packages with all that compiling them depends on, in the order of their names: what they refer to,
// directly or not; packages above, whose METADATA can be for those below as well; and packages below, such as
// allocation.breakroom.payload, which are part of what an entry rule says.
func (rs *Ruleset) closure(own []*rulePackage, x *parser) ([]*rulePackage, error) {
	needed := map[*rulePackage]bool{}
	var queue []*rulePackage
	need := func(p *rulePackage) {
		if !needed[p] {
			needed[p] = true
			queue = append(queue, p)
		}
	}
	for _, p := range own {
		rs.tree.reach(labels(p.path), need)
	}
	for ; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		if p.refersTo.Load() == nil {
			if _, err := x.parse(p); err != nil {
				return nil, err
			}
		}
		for _, path := range *p.refersTo.Load() {
			rs.tree.reach(path, need)
		}
	}
	return slices.SortedFunc(maps.Keys(needed), inOrder), nil
}

func inOrder(a, b *rulePackage) int { return strings.Compare(a.name, b.name) }
