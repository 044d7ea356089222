package ruleset

import (
	"context"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// packagesInUnit is about how many packages are compiled together, at most. A unit is what is compiled again if one of
// its packages changes; but each has its own copy of the libraries that its packages refer to.
const packagesInUnit = 128

// unit is a set of packages compiled together.
type unit struct {
	// own are the packages for which this unit is, and all those with everything that compiling them depends on: equal
	// lists compile to equal units. Both are in the order of their names.
	own, all []*rulePackage
	compiler *ast.Compiler
	err      error     // *LoadError
	notable  []notable // the definitions of entry rules, grouped by rule
	// problems are those of entry rules, referred the other packages that the unit's own refer to, and lookups the names
	// of the look-ups that their entry rules can ask for.
	problems []Problem
	referred map[*rulePackage]bool
	lookups  map[string]bool
}

// units are all packages, compiled. Which packages are compiled together depends only on their names and number, and
// on what they refer to.
type units struct {
	list []*unit
	of   map[string]*unit // by package
}

// CompileAll compiles every package and returns a *LoadError that names what is wrong in any of them, as far as OPA's
// compiler gets: it works in stages, such as names before types, and ends with the first one that finds errors. It then
// replaces the rules that were compiled separately, and frees their compilers.
func (rs *Ruleset) CompileAll(ctx context.Context) error { return rs.compileAll(ctx, nil) }

// compileAll takes the units from other rules that are the same there.
func (rs *Ruleset) compileAll(ctx context.Context, other *Ruleset) error {
	if rs.units.Load() != nil {
		return nil
	}
	pace, parser := rs.newPace(), rs.newParser()
	list, err := rs.divide(parser, pace)
	if err != nil {
		return err
	}
	if before := other.unitsOf(rs.environment); before != nil && len(before.list) == len(list) {
		for i, u := range before.list {
			if slices.Equal(u.own, list[i].own) && slices.Equal(u.all, list[i].all) {
				list[i] = u
			}
		}
	}
	fresh := slices.DeleteFunc(slices.Clone(list), func(u *unit) bool { return u.compiler != nil })
	pace.each(len(fresh), func(i int) {
		if ctx.Err() == nil {
			rs.compileUnit(ctx, fresh[i], parser, pace)
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	var problems []Problem
	for _, u := range fresh {
		if u.err != nil {
			return rs.errorOfAll(ctx, list, parser)
		}
		problems = append(problems, u.problems...)
	}
	all := &units{list: list, of: make(map[string]*unit, len(rs.packages))}
	for _, u := range list {
		for _, p := range u.own {
			all.of[p.name] = u
		}
	}
	if len(problems) == 0 {
		problems = rs.unbound(all)
	}
	if len(problems) > 0 {
		return NewLoadError(problems)
	}
	rs.units.Store(all)
	for _, rule := range rs.rules {
		rule.mu.Lock()
		rule.prepared.Store(nil)
		rule.mu.Unlock()
	}
	return nil
}

// unitsOf returns the units of rules that were compiled in the same environment; nil if there are none.
func (rs *Ruleset) unitsOf(environment *environment) *units {
	if rs == nil || rs.environment != environment {
		return nil
	}
	return rs.units.Load()
}

// divide sorts the packages into units that are not compiled yet. A package keeps its unit when others come and go,
// unless their number doubles.
func (rs *Ruleset) divide(parser *parser, pace *pace) ([]*unit, error) {
	var unparsed []*rulePackage
	for _, p := range rs.packages {
		if p.refersTo.Load() == nil {
			unparsed = append(unparsed, p)
		}
	}
	if err := parser.parseAll(unparsed, pace); err != nil {
		return nil, err
	}
	list := make([]*unit, 1)
	for len(rs.packages) > rs.options.perUnit*len(list) {
		list = make([]*unit, 2*len(list))
	}
	for i := range list {
		list[i] = &unit{}
	}
	for name, p := range rs.packages {
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(name)) // it never fails
		u := list[int(hash.Sum32()%uint32(len(list)))]
		u.own = append(u.own, p)
	}
	total := 0
	for _, u := range list {
		slices.SortFunc(u.own, inOrder)
		var err error
		if u.all, err = rs.closure(u.own, parser); err != nil {
			return nil, err
		}
		total += len(u.all)
	}
	if total > 2*len(rs.packages)+rs.options.perUnit*len(list) { // they refer to most others, which units would repeat
		everything := slices.SortedFunc(maps.Values(rs.packages), inOrder)
		return []*unit{{own: everything, all: everything}}, nil
	}
	return list, nil
}

// compileUnit fills in what is compiled.
func (rs *Ruleset) compileUnit(ctx context.Context, u *unit, parser *parser, pace *pace) {
	modules, err := parser.modules(u.all)
	if err != nil {
		u.err = err
		return
	}
	compiler := rs.NewCompiler(ctx)
	if pace != nil {
		for _, stage := range ast.AllStages() {
			compiler.WithStageAfterID(stage, ast.CompilerStageDefinition{Name: "Rest", MetricName: "rest", Stage: func(*ast.Compiler) *ast.Error {
				pace.rest()
				return nil
			}})
		}
	}
	if compiler.Compile(modules); compiler.Failed() {
		u.err = NewLoadError(rs.compileProblems(compiler))
		return
	}
	pace.rest()
	u.compiler, u.notable = compiler, rs.instrument(compiler, u.all)
	u.referred, u.lookups = map[*rulePackage]bool{}, map[string]bool{}
	var decisive []*ast.Rule
	for _, p := range u.own {
		for _, f := range p.files {
			ast.WalkRefs(compiler.Modules[f.path], func(ref ast.Ref) bool {
				if ref.HasPrefix(ast.DefaultRootRef) {
					rs.tree.reach(labels(ref), func(other *rulePackage) { u.referred[other] = u.referred[other] || other != p })
				}
				return false
			})
		}
		if rule := rs.ruleOf[p.name]; rule != nil {
			u.problems = append(u.problems, checkEntries(compiler, rule)...)
			decisive = append(decisive, rule.entryRules(compiler)...)
		}
		pace.rest()
	}
	definitions := reachable(compiler, decisive)
	for _, d := range rs.lookups {
		u.lookups[d.Name] = looksUp(definitions, d.Name)
	}
}

// errorOfAll is the error of rules of which some unit does not compile: of all of them together, because that names the
// errors of one stage, whatever the units.
func (rs *Ruleset) errorOfAll(ctx context.Context, list []*unit, parser *parser) error {
	if len(list) > 1 {
		together := &unit{all: slices.Collect(maps.Values(rs.packages))}
		if rs.compileUnit(ctx, together, parser, rs.newPace()); together.err != nil {
			return together.err
		}
	}
	for _, u := range list {
		if u.err != nil {
			return u.err
		}
	}
	return nil
}

// compileAlone compiles a rule and the packages that it refers to, directly or not. It takes no context, because
// canceling the first request of a rule must not cancel its compilation.
func (rs *Ruleset) compileAlone(rule *Rule) *unit {
	parser := rs.newParser()
	u := &unit{own: []*rulePackage{rs.packages[rule.Package]}}
	if u.all, u.err = rs.closure(u.own, parser); u.err != nil {
		return u
	}
	if rs.compileUnit(context.Background(), u, parser, nil); u.err == nil && len(u.problems) > 0 {
		u.err = NewLoadError(u.problems)
	}
	return u
}

// unitOf is the unit that evaluates a rule, compiled for it alone if that has not been done for all.
func (rs *Ruleset) unitOf(rule *Rule) *unit {
	if all := rs.units.Load(); all != nil {
		return all.of[rule.Package]
	}
	return rs.compileAlone(rule)
}

// prepareAsIn prepares the rules that other rules with the same packages had prepared: the next request finds its rule
// ready. Rules of units that both share are so already.
func (rs *Ruleset) prepareAsIn(other *Ruleset, pace *pace) {
	if other == nil {
		return
	}
	for _, rule := range rs.rules {
		before := other.ruleOf[rule.Package]
		if before == nil {
			continue
		}
		prepared := before.prepared.Load()
		switch {
		case prepared == nil:
		case rs.environment == other.environment && prepared.compiler == rs.unitOf(rule).compiler:
			rule.prepared.Store(prepared)
		default:
			rule.plan(rule.prepare())
			pace.rest()
		}
	}
}
