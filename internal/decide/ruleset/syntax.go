package ruleset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/lookups"
)

// This file is for packages that read rules, such as to explain or to test them. Serving uses none of it.

// Syntax is a compiled form of rules. The evaluator shares all of it, so it must not be modified.
type Syntax struct {
	// Compiler has compiled the packages. [Written] returns the bodies of entry rules as their authors wrote them.
	Compiler *ast.Compiler
	// Data is the content of data.json and data.yaml.
	Data ast.Value

	set *Ruleset
}

// Syntax returns the compiled form of the rule and of what it refers to, perhaps of all packages. The error is the
// *LoadError of a rule that does not compile.
func (r *Rule) Syntax() (Syntax, error) {
	prepared := r.prepare()
	return Syntax{Compiler: prepared.compiler, Data: r.set.data, set: r.set}, prepared.err
}

// Lookups lists the look-ups that the rules declare, in the order of their names.
func (s Syntax) Lookups() []*lookups.Declaration { return s.set.lookups }

// Extend compiles all packages together with further modules, by their places. The error is a *LoadError.
func (rs *Ruleset) Extend(ctx context.Context, more map[string]*ast.Module, schemas *ast.SchemaSet) (Syntax, error) {
	parser, packages := rs.newParser(), slices.Collect(maps.Values(rs.packages))
	if err := parser.parseAll(packages, nil); err != nil {
		return Syntax{}, err
	}
	modules, err := parser.modules(packages)
	if err != nil {
		return Syntax{}, err
	}
	maps.Copy(modules, more)
	compiler := rs.NewCompiler(ctx).WithSchemas(schemas)
	if compiler.Compile(modules); compiler.Failed() {
		return Syntax{}, NewLoadError(rs.compileProblems(compiler))
	}
	return Syntax{Compiler: compiler, Data: rs.data, set: rs}, nil
}

// Options returns the options that the rules were loaded with.
func (rs *Ruleset) Options() Options { return rs.options }

// Store holds the data files.
func (rs *Ruleset) Store() storage.Store { return rs.store }

// Builtins are the functions that Usher adds to Rego.
func (rs *Ruleset) Builtins() []*topdown.Builtin { return rs.added }

// NewCompiler returns a compiler with the capabilities and the schema for rules. It has compiled nothing yet.
func (rs *Ruleset) NewCompiler(ctx context.Context) *ast.Compiler {
	return ast.NewCompiler().
		WithCapabilities(rs.compiling).
		WithSchemas(rs.schemas).
		WithUseTypeCheckAnnotations(true).
		WithStrict(rs.options.Strict).
		WithPathConflictsCheck(storage.NonEmpty(ctx, rs.store, rs.txn)).
		WithStageAfterID(ast.StageSetRuleTree, ast.CompilerStageDefinition{Name: "CheckNames", MetricName: "check_names", Stage: rs.checkNames}).
		WithStageAfterID(ast.StageSetRuleTree, ast.CompilerStageDefinition{Name: "CheckNegatedLookups", MetricName: "check_negated_lookups", Stage: rs.checkNegatedLookups}).
		SetErrorLimit(maxProblems)
}

// Parse parses the text of a Rego file that is at this place. The error is a *LoadError.
func (rs *Ruleset) Parse(place string, text []byte) (*ast.Module, error) {
	module, err := ast.ParseModuleWithOpts(place, string(decode(text)), rs.parserOptions())
	if err != nil {
		return nil, NewLoadError(problemsOf(err))
	}
	return module, nil
}

// Path is the reference to the rule's package, such as data.allocation.breakroom.
func (r *Rule) Path() ast.Ref { return r.set.packages[r.Package].path.Copy() }

// Entry is the reference to an entry rule of the package, such as data.allocation.breakroom.hub.
func (r *Rule) Entry(name string) ast.Ref { return r.Path().Append(ast.StringTerm(name)) }

// EntryNames are the names of the entry rules, in the order in which they are evaluated.
func EntryNames() []string { return slices.Clone(entries) }

// entryRules are the definitions of all entry rules.
func (r *Rule) entryRules(compiler *ast.Compiler) []*ast.Rule {
	var rules []*ast.Rule
	for _, e := range entries {
		rules = append(rules, compiler.GetRulesWithPrefix(r.Entry(e))...) // as payload.greeting is a rule below payload
	}
	return rules
}

// RestrictedCalls are the calls of [Restricted] functions that the answer of the rule can depend on, in the order of
// their places. There are none if the rule does not compile.
func (r *Rule) RestrictedCalls() []*ast.Expr {
	compiler := r.prepare().compiler
	if compiler == nil {
		return nil
	}
	var calls []*ast.Expr
	for rule := range reachable(compiler, r.entryRules(compiler)) {
		ast.WalkExprs(rule, func(expr *ast.Expr) bool {
			if expr.IsCall() && isRestricted(expr.Operator().String()) {
				calls = append(calls, expr)
			}
			return false
		})
	}
	slices.SortFunc(calls, func(a, b *ast.Expr) int { return a.Location.Compare(b.Location) })
	return slices.Compact(calls)
}

// Custom returns a member of custom in the METADATA of the rule's package, and the place (file:line) of that METADATA.
func (r *Rule) Custom(name string) (value any, place string, ok bool) {
	for _, annotation := range r.set.packages[r.Package].header {
		if value, ok := annotation.Custom[name]; ok {
			return value, PlaceOf(annotation.Location), true
		}
	}
	return nil, "", false
}

// library is the package that ships with Usher and that every author knows.
const library = "dps"

// InLibrary reports whether a rule belongs to the library that ships with Usher, data.dps.
func InLibrary(rule *ast.Rule) bool { return rule.Module != nil && IsLibrary(rule.Module) }

// IsLibrary reports whether a file is of that library.
func IsLibrary(module *ast.Module) bool { return PackageName(module) == library }

// PlaceOf writes a location as file:line; empty if it is nil.
func PlaceOf(location *ast.Location) string {
	if location == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", location.File, location.Row)
}

// SplitPlace returns the file and the line of a place, which may end in a column. Without a line, the line is 1.
func SplitPlace(place string) (file string, line int) {
	file, line, found := cutNumber(place)
	if !found {
		return place, 1
	}
	if before, first, found := cutNumber(file); found {
		return before, first
	}
	return file, line
}

func cutNumber(place string) (before string, number int, found bool) {
	at := strings.LastIndexByte(place, ':')
	number, err := strconv.Atoi(place[at+1:])
	if at < 0 || err != nil {
		return place, 0, false
	}
	return place[:at], number, true
}

// CompileError turns errors of OPA's parser or compiler into a *LoadError with the messages of [Load]. Other errors
// stay as they are.
func CompileError(err error) error {
	if _, ok := errors.AsType[ast.Errors](err); ok {
		return NewLoadError(problemsOf(err))
	}
	return err
}

// Inspection evaluates parts of rules for one request.
type Inspection struct {
	evaluation
	compiler *ast.Compiler
}

// Inspect prepares to evaluate parts of the rules for one request; input and outside are those of [Rule.Evaluate].
func (s Syntax) Inspect(ctx context.Context, input map[string]any, outside Outside) *Inspection {
	i := &Inspection{evaluation: s.set.begin(ctx, true, outside), compiler: s.Compiler}
	i.document, i.replacesInput = input, true
	return i
}

// Trace shows every expression that is evaluated from now on to a tracer, also those that OPA would skip because they
// cannot change the result.
func (i *Inspection) Trace(tracer topdown.QueryTracer) { i.tracer = tracer }

// Context is the one to evaluate a query with.
func (i *Inspection) Context() context.Context { return i.ctx }

// Query returns a query for a body of the rules, to evaluate with [Inspection.Context]. If it fails, [Inspection.Reset] must be called before the next query.
func (i *Inspection) Query(body ast.Body) *topdown.Query { return i.query(i.compiler, body) }

// Reset drops the cache of what was evaluated. An error leaves partial results in it, such as the first of two
// conflicting values.
func (i *Inspection) Reset() { i.cache = topdown.NewVirtualCache() }

// Failures returns the errors of built-in functions since it was last called.
func (i *Inspection) Failures() []topdown.Error {
	failures := i.builtinErrors
	i.builtinErrors = nil
	return failures
}

// Value evaluates a reference; nil if it is undefined. Errors are *EvalError, with the name as the entry rule.
func (i *Inspection) Value(name string, ref ast.Ref) (any, error) {
	value, err := i.value(i.compiler, queryFor(name, ref))
	return value.Interface(), err
}

// EntryValue is what an entry rule says.
type EntryValue struct {
	Name  string
	Value any
	Err   error // *EvalError
	// Decides is set if nothing else matters: the entry rule rejects or holds the device, or it failed.
	Decides bool
	// Asked is unset if [Rule.Evaluate] ends before it gets to this entry rule.
	Asked bool
}

// Entries evaluates the entry rules that the package defines, also those that [Rule.Evaluate] would not get to.
func (i *Inspection) Entries(rule *Rule) []EntryValue {
	var list []EntryValue
	var verdict Verdict
	ended := false
	for _, query := range rule.prepare().queries {
		e := EntryValue{Name: query.entry, Asked: !ended}
		var value *dps.Value
		if ended {
			value, e.Err = i.value(i.compiler, query)
		} else {
			value, ended, e.Err = i.next(i.compiler, query, &verdict)
			e.Decides = ended || query.entry == entryHold && !isEmpty(value)
		}
		e.Value = value.Interface()
		if e.Err != nil {
			i.Reset()
		}
		list = append(list, e)
	}
	return list
}
