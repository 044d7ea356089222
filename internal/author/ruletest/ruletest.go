// Package ruletest runs the Rego tests next to rules as `opa test` does, with the built-in functions, capabilities and
// schema that the webhook uses.
//
// A test is a Rego rule named test_..., and passes if it is true. OPA's own runner evaluates it.
package ruletest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/dependencies"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/internal/author/invariants"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

// DefaultTimeout is the time limit of one test. It ends tests that loop; the 5 s of `opa test` are too short for a busy
// machine.
const DefaultTimeout = 30 * time.Second

// Options select tests. The zero value runs all.
type Options struct {
	// Name, AllowBuiltins and AllowNet are those that rules are loaded with.
	Name                    string
	AllowBuiltins, AllowNet []string
	// Run selects the tests whose full name, such as data.allocation.line_test.test_hub, matches; nil selects all.
	Run *regexp.Regexp
	// Coverage records which lines of the rules the tests reach.
	Coverage bool
	// Timeout is the time limit of one test; 0 means [DefaultTimeout].
	Timeout time.Duration
}

// Suite is a folder of rules with their tests, ready to run.
type Suite struct {
	options  Options
	set      *ruleset.Ruleset
	modules  map[string]*ast.Module // the parsed files, tests included, by their places
	compiler *ast.Compiler          // has compiled the modules once a test has run
	coverage *cover.Cover
}

// Load reads rules, tests and invariants. Its error names files and lines.
func Load(ctx context.Context, fsys fs.FS, options Options) (*Suite, error) {
	options.Timeout = cmp.Or(options.Timeout, DefaultTimeout)
	var schema any
	if err := json.Unmarshal(schemas.AllocationRequest(), &schema); err != nil {
		return nil, fmt.Errorf("schemas: %w", err)
	}
	set, err := ruleset.Load(ctx, fsys, ruleset.Options{Name: options.Name, InputSchema: schema,
		AllowBuiltins: options.AllowBuiltins, AllowNet: options.AllowNet, Lazy: true})
	if err != nil {
		return nil, err
	}
	suite := &Suite{options: options, set: set, modules: map[string]*ast.Module{}}
	names, err := ruleset.Files(fsys, true)
	if err != nil {
		return nil, err
	}
	var problems []ruleset.Problem
	for _, name := range names {
		if path.Ext(name) != ".rego" || ruleset.IsInvariants(name) { // their input is another
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		place := path.Join(options.Name, name)
		module, err := set.Parse(place, text)
		if broken, ok := errors.AsType[*ruleset.LoadError](err); ok {
			problems = append(problems, broken.Problems...)
		}
		suite.modules[place] = module
	}
	if len(problems) > 0 {
		return nil, ruleset.NewLoadError(problems)
	}
	// Only `usher verify` evaluates invariants, and it runs less often. So check here that they compile.
	if _, err := invariants.Load(ctx, set, fsys); err != nil {
		return nil, err
	}
	if options.Coverage {
		suite.coverage = cover.New()
	}
	return suite, nil
}

// Outcome is how a test ended.
type Outcome string

// The outcomes.
const (
	Pass    Outcome = "pass"
	Fail    Outcome = "fail"    // it was false or undefined
	Error   Outcome = "error"   // it could not be evaluated
	Skipped Outcome = "skipped" // its name begins with todo_
)

// Result is one test, or one case of a test that has several.
type Result struct {
	// Package and Test name the test, such as data.allocation.line_test and test_hub; Case is empty for a test without
	// cases.
	Package, Test, Case string `json:"-"`

	File    string  `json:"file"`
	Line    int     `json:"line"`
	Outcome Outcome `json:"outcome"`
	// Duration is that of the whole test. If it has cases, the first holds it and the others have 0.
	Duration time.Duration `json:"-"`
	// Printed is what the test printed.
	Printed string `json:"printed,omitempty"`
	// Failure is the place where a test failed, if known.
	Failure *Failure `json:"failure,omitempty"`
	// Message is the error of an Error.
	Message string `json:"message,omitempty"`
}

// Name is the full name of the test and its case.
func (r Result) Name() string {
	name := r.Package + "." + r.Test
	if r.Case != "" {
		name += "/" + r.Case
	}
	return name
}

// Failure is the expression that was not true.
type Failure struct {
	File string `json:"file"`
	Line int    `json:"line"`
	// Text shows the expression with the values of its variables below it.
	Text string `json:"text"`
}

// Run runs the tests and yields their results in any order, the cases of a test together. An error ends it: the tests
// do not compile, or ctx is done.
func (s *Suite) Run(ctx context.Context) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		var failed []*tester.Result
		for result, err := range s.evaluate(ctx, s.runner(ctx, s.options.Run)) {
			switch {
			case err != nil:
				yield(Result{}, err)
				return
			case result.Fail:
				failed = append(failed, result)
			case !yieldAll(yield, casesOf(result)):
				return
			}
		}
		if len(failed) == 0 {
			return
		}
		// Tracing takes five times as long, so only failed tests are traced.
		for result, err := range s.evaluate(ctx, s.runner(ctx, namesOf(failed)).EnableTracing(true)) {
			if err != nil {
				yield(Result{}, err)
				return
			}
			if !yieldAll(yield, casesOf(result)) {
				return
			}
		}
	}
}

// FirstFailure runs the tests one at a time until one fails or cannot be evaluated, and returns that; nil if all pass.
// The place of the failure is left out, because finding it takes a second run. The errors are those of Run.
func (s *Suite) FirstFailure(ctx context.Context) (*Result, error) {
	for result, err := range s.evaluate(ctx, s.runner(ctx, s.options.Run).SetParallel(1)) {
		if err != nil {
			return nil, err
		}
		for _, one := range casesOf(result) {
			if one.Outcome == Fail || one.Outcome == Error {
				one.Failure = nil
				return &one, nil
			}
		}
	}
	return nil, nil
}

func yieldAll(yield func(Result, error) bool, results []Result) bool {
	for _, r := range results {
		if !yield(r, nil) {
			return false
		}
	}
	return true
}

// evaluate runs a runner and waits until its goroutines have ended.
func (s *Suite) evaluate(ctx context.Context, runner *tester.Runner) iter.Seq2[*tester.Result, error] {
	return func(yield func(*tester.Result, error) bool) {
		running, cancel := context.WithCancel(ctx)
		defer cancel()
		results, err := runner.RunTests(running, nil)
		if err != nil {
			yield(nil, ruleset.CompileError(err))
			return
		}
		defer func() {
			cancel()
			for range results {
			}
		}()
		for result := range results {
			if ctx.Err() != nil {
				break // a test that was cut short has no result
			}
			if !yield(result, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// namesOf matches the full names of tests. OPA numbers tests of the same name, and writes such a name in brackets when
// it filters.
func namesOf(results []*tester.Result) *regexp.Regexp {
	names := make([]string, len(results))
	for i, r := range results {
		names[i] = fmt.Sprintf(`%s(\.%s|\["%s"\])`, regexp.QuoteMeta(r.Package), regexp.QuoteMeta(r.Name), regexp.QuoteMeta(r.Name))
	}
	return regexp.MustCompile("^(" + strings.Join(names, "|") + ")$")
}

func (s *Suite) runner(ctx context.Context, names *regexp.Regexp) *tester.Runner {
	s.compiler = s.set.NewCompiler(ctx).WithEnablePrintStatements(true)
	runner := tester.NewRunner().
		SetCompiler(s.compiler).
		SetStore(s.set.Store()).
		SetModules(s.modules).
		SetTimeout(s.options.Timeout).
		AddCustomBuiltins(builtinsOf(s.set.Builtins()))
	if names != nil {
		runner.Filter(names.String())
	}
	if s.coverage != nil {
		runner.SetCoverageQueryTracer(s.coverage)
	}
	return runner
}

// builtinsOf returns the functions that Usher adds to Rego in the form of OPA's test runner.
func builtinsOf(added []*topdown.Builtin) []*tester.Builtin {
	var builtins []*tester.Builtin
	for _, b := range added {
		builtins = append(builtins, &tester.Builtin{
			Decl: b.Decl,
			Func: rego.FunctionDyn(&rego.Function{Name: b.Decl.Name, Decl: b.Decl.Decl}, rego.BuiltinDyn(
				func(bctx rego.BuiltinContext, terms []*ast.Term) (result *ast.Term, err error) {
					err = b.Func(bctx, terms, func(term *ast.Term) error { result = term; return nil })
					if halt, ok := errors.AsType[topdown.Halt](err); ok {
						err = rego.NewHaltError(halt.Err)
					}
					return result, err
				})),
		})
	}
	return builtins
}

// casesOf splits a result into its cases.
func casesOf(result *tester.Result) []Result {
	whole := Result{
		Package: result.Package, Test: result.Name,
		Outcome: Pass, Duration: result.Duration, Printed: string(result.Output),
	}
	if result.Location != nil {
		whole.File, whole.Line = result.Location.File, result.Location.Row
	}
	switch {
	case result.Skip:
		whole.Outcome = Skipped
	case result.Error != nil:
		whole.Outcome, whole.Message = Error, errorText(result.Error)
	case result.Fail:
		whole.Outcome = Fail
	}
	var cases []Result
	if result.Error == nil {
		for path, sub := range result.SubResults.Iter {
			if len(sub.SubResults) > 0 {
				continue // its leaves are the cases
			}
			one := whole
			one.Case, one.Outcome = strings.Join(path, "/"), Pass
			if sub.Fail {
				one.Outcome, one.Failure = Fail, failureOf(sub.Trace, one.File)
			}
			if len(cases) > 0 {
				one.Duration, one.Printed = 0, ""
			}
			cases = append(cases, one)
		}
	}
	if len(cases) == 0 {
		if whole.Outcome == Fail {
			whole.Failure = failureOf(result.Trace, whole.File)
		}
		return []Result{whole}
	}
	return cases
}

// failureOf finds the last expression of the test's file that failed, or else the last of any file: conditions of the
// tested rule may fail in a test that is right. It returns nil if none failed.
func failureOf(trace []*topdown.Event, file string) *Failure {
	var last *topdown.Event
	for _, event := range slices.Backward(trace) {
		if event.Op != topdown.FailOp || event.Location == nil || event.QueryID == 0 {
			continue
		}
		if expr, ok := event.Node.(*ast.Expr); ok {
			if _, ok := expr.Terms.(*ast.Every); ok {
				continue // the failed expression is in its body
			}
		}
		if last == nil || event.Location.File == file {
			last = event
		}
		if event.Location.File == file {
			break
		}
	}
	var text bytes.Buffer
	if last == nil || topdown.PrettyEvent(&text, last, topdown.PrettyEventOpts{PrettyVars: true}) != nil {
		return nil
	}
	return &Failure{File: last.Location.File, Line: last.Location.Row, Text: compact(text.String())}
}

// errorText is the text of an error that ended a test.
func errorText(err error) string {
	if te, ok := errors.AsType[*topdown.Error](err); ok && te.Code == topdown.ConflictErr {
		return ruleset.PlaceOf(te.Location) + ": " + ruleset.ConflictWords(te.Message)
	}
	return err.Error()
}

// compact drops OPA's empty lines and its indentation.
func compact(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(strings.TrimPrefix(line, "\t"), " \n"); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// Coverage lists the lines that tests reached.
type Coverage struct {
	Covered    int     `json:"coveredLines"`
	NotCovered int     `json:"notCoveredLines"`
	Percent    float64 `json:"percent"`
	Files      []File  `json:"files"`
}

// File is the coverage of one file of rules.
type File struct {
	Name       string  `json:"name"`
	Covered    int     `json:"coveredLines"`
	NotCovered int     `json:"notCoveredLines"`
	Percent    float64 `json:"percent"`
	// Missed are the ranges of lines that no test reached, and Reached those that one did. A line can be in both.
	Missed  []Lines `json:"missed,omitempty"`
	Reached []Lines `json:"-"`
}

// Lines is a range of lines, both ends included.
type Lines struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Coverage reports the lines of rules that the tests reached; the lines of tests do not count. It is empty unless
// [Options.Coverage] is set.
func (s *Suite) Coverage() Coverage {
	var total Coverage
	if s.coverage == nil {
		return total
	}
	modules := maps.Clone(s.modules)
	maps.DeleteFunc(modules, func(name string, _ *ast.Module) bool { return ruleset.IsTest(name) })
	report := s.coverage.Report(modules)
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		file := report.Files[name]
		if file == nil || file.CoveredLines+file.NotCoveredLines == 0 {
			continue // it has nothing to reach
		}
		one := File{Name: name, Covered: file.CoveredLines, NotCovered: file.NotCoveredLines}
		one.Percent = percent(one.Covered, one.NotCovered)
		for _, missed := range file.NotCovered {
			one.Missed = appendLines(one.Missed, Lines{missed.Start.Row, missed.End.Row})
		}
		for _, reached := range file.Covered {
			one.Reached = appendLines(one.Reached, Lines{reached.Start.Row, reached.End.Row})
		}
		total.Covered += one.Covered
		total.NotCovered += one.NotCovered
		total.Files = append(total.Files, one)
	}
	total.Percent = percent(total.Covered, total.NotCovered)
	return total
}

// appendLines joins adjacent and overlapping ranges, which arrive in order.
func appendLines(list []Lines, next Lines) []Lines {
	if n := len(list); n > 0 && next.From <= list[n-1].To+1 {
		list[n-1].To = max(list[n-1].To, next.To)
		return list
	}
	return append(list, next)
}

// percent returns 100 if there is nothing to cover, and never rounds up to 100.
func percent(covered, notCovered int) float64 {
	if notCovered == 0 {
		return 100
	}
	return float64(int(10000*float64(covered)/float64(covered+notCovered))) / 100
}

// Untested lists the packages of rules without a test, such as allocation.line: no test is in the package or in the
// package of that name with the suffix _test, and none refers to it.
func (s *Suite) Untested() []string {
	untested := map[string]bool{}
	packages := map[string]ast.Ref{}
	for name, module := range s.modules {
		if !ruleset.IsTest(name) && len(module.Rules) > 0 {
			key := ruleset.PackageName(module)
			untested[key], packages[key] = true, module.Package.Path
		}
	}
	for _, module := range s.modules {
		if !hasTest(module) {
			continue
		}
		own := ruleset.PackageName(module)
		delete(untested, own)
		delete(untested, strings.TrimSuffix(own, "_test"))
		ast.WalkRefs(module, func(ref ast.Ref) bool {
			for key, path := range packages {
				if ref.HasPrefix(path) {
					delete(untested, key)
				}
			}
			return false
		})
	}
	return slices.Sorted(maps.Keys(untested))
}

// WithoutInput lists the tests that depend on input but never set it with `with`, once [Suite.Run] has run them: their
// result does not depend on any request. Such a test is named by its package and name.
func (s *Suite) WithoutInput() []string {
	reads, sets := map[string]bool{}, map[string]bool{}
	for _, module := range s.compiler.Modules {
		for _, rule := range module.Rules {
			name, isTest := testName(rule, tester.TestPrefix)
			if !isTest {
				continue
			}
			name = module.Package.Path.String() + "." + name
			base, err := dependencies.Base(s.compiler, rule)
			reads[name] = reads[name] || err == nil && slices.ContainsFunc(base, isInput)
			sets[name] = sets[name] || s.setsInput(rule)
		}
	}
	maps.DeleteFunc(reads, func(name string, reads bool) bool {
		return !reads || sets[name] || s.options.Run != nil && !s.options.Run.MatchString(name)
	})
	return slices.Sorted(maps.Keys(reads))
}

func isInput(ref ast.Ref) bool { return ref.HasPrefix(ast.InputRootRef) }

// setsInput reports whether a test, or a rule of a test file that it uses, replaces input or a part of it.
func (s *Suite) setsInput(test *ast.Rule) bool {
	rules := []*ast.Rule{test}
	used, err := dependencies.Virtual(s.compiler, test)
	if err != nil {
		return true // in doubt
	}
	for _, ref := range used {
		for _, rule := range s.compiler.GetRules(ref) {
			if ruleset.IsTest(rule.Location.File) {
				rules = append(rules, rule)
			}
		}
	}
	found := false
	for _, rule := range rules {
		ast.WalkWiths(rule, func(with *ast.With) bool {
			target, ok := with.Target.Value.(ast.Ref)
			found = found || ok && isInput(target)
			return found
		})
	}
	return found
}

// Count is the number of tests that [Suite.Run] runs; a test with cases counts once.
func (s *Suite) Count() int {
	n := 0
	for _, module := range s.modules {
		for _, rule := range module.Rules {
			name, isTest := testName(rule, tester.TestPrefix, tester.SkipTestPrefix)
			if isTest && (s.options.Run == nil || s.options.Run.MatchString(module.Package.Path.String()+"."+name)) {
				n++
			}
		}
	}
	return n
}

func hasTest(module *ast.Module) bool {
	return slices.ContainsFunc(module.Rules, func(rule *ast.Rule) bool {
		_, isTest := testName(rule, tester.TestPrefix)
		return isTest
	})
}

// testName returns the part of a rule's name that makes it a test.
func testName(rule *ast.Rule, prefixes ...string) (string, bool) {
	for _, term := range rule.Head.Ref() {
		var name string
		switch v := term.Value.(type) {
		case ast.Var:
			name = string(v)
		case ast.String:
			name = string(v)
		}
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return name, true
		}
	}
	return "", false
}
