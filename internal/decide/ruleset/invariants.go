package ruleset

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/answer"
)

// Invariants are promises that rules make of themselves: Rego files beside them
// that judge a decision. They are never served.
type Invariants struct {
	set      *Ruleset
	compiler *ast.Compiler
	// packages by the package of the rule that they judge; "" for those that judge all.
	packages map[string][]invariantPackage
}

type invariantPackage struct {
	rule *Rule // stands for the package in errors
	body ast.Body
	// replacesInput is set where a `with` replaces a part of the input.
	replacesInput bool
}

// Names that make a file and a package one of invariants.
const (
	invariantsSuffix = "_invariants"
	invariantsFile   = "_invariants.rego"
	invariantsForAll = "allocation.invariants"
	invariantRule    = "invariant"
	invariantsSchema = "usher_invariants"
)

// IsInvariants reports whether a file holds invariants, which are not served.
func IsInvariants(name string) bool { return strings.HasSuffix(name, invariantsFile) }

// decisionSchema is what an invariant sees of a decision. It is closed, so that a
// misspelt member is an error and not an invariant that never breaks.
const decisionSchema = `{
	"type": "object",
	"additionalProperties": false,
	"properties": {
		"outcome": {"type": "string"},
		"hub": {"type": "string"},
		"initialTwin": {"type": "object", "additionalProperties": false, "properties": {
			"tags": {"type": "object"},
			"properties": {"type": "object", "additionalProperties": false, "properties": {"desired": {"type": "object"}}}
		}},
		"payload": {"type": "object"},
		"reasons": {"type": "array", "items": {"type": "string"}}
	}
}`

// Invariants reads the files *_invariants.rego under fsys, which is where the
// ruleset was loaded from, and type-checks them against an input of a request and
// a decision. Package allocation.line_invariants judges the rule allocation.line,
// package allocation.invariants all rules. The error is a *LoadError.
func (rs *Ruleset) Invariants(ctx context.Context, fsys fs.FS) (*Invariants, error) {
	i := &Invariants{set: rs, packages: map[string][]invariantPackage{}}
	modules, problems, err := rs.readInvariants(fsys)
	if err != nil {
		return nil, newLoadError([]Problem{{Place: rs.options.Name, Message: err.Error()}})
	}
	if len(problems) > 0 {
		return nil, newLoadError(problems)
	}
	if len(modules) == 0 {
		return i, nil
	}
	judged := map[string]*ast.Module{}
	for _, place := range slices.Sorted(maps.Keys(modules)) {
		module := modules[place]
		judged[packageName(module.Package)] = module
	}
	for _, name := range slices.Sorted(maps.Keys(judged)) {
		module := judged[name]
		place := fmt.Sprintf("%s:%d", module.Package.Location.File, module.Package.Location.Row)
		rule, of := strings.CutSuffix(name, invariantsSuffix)
		switch {
		case name == invariantsForAll:
			rule = ""
		case !of || !slices.ContainsFunc(rs.rules, func(r *Rule) bool { return r.Package == rule }):
			problems = append(problems, Problem{Place: place,
				Message: fmt.Sprintf("package %s holds invariants, but its name is not that of a rule with %s behind it", name, invariantsSuffix),
				Mend:    fmt.Sprintf("name it after a rule, such as %s, or %s to judge all rules", rs.rules[0].Package+invariantsSuffix, invariantsForAll)})
			continue
		}
		ref := module.Package.Path.Append(ast.StringTerm(invariantRule))
		i.packages[rule] = append(i.packages[rule], invariantPackage{
			rule: &Rule{Rule: answer.Rule{Package: name, Place: place}, set: rs},
			body: ast.NewBody(ast.Equality.Expr(ast.NewTerm(answerVar), ast.NewTerm(ref))),
		})
		// An empty module of the same package brings the schema for its input.
		schema := fmt.Sprintf("# METADATA\n# scope: subpackages\n# schemas:\n#   - input: schema.%s\n%s\n", invariantsSchema, module.Package)
		modules[place+"+schema"], err = ast.ParseModuleWithOpts(place, schema, rs.parserOptions())
		if err != nil {
			return nil, newLoadError(problemsOf(err))
		}
	}
	if len(problems) > 0 {
		return nil, newLoadError(problems)
	}
	for _, p := range rs.packages {
		for _, f := range p.files {
			modules[f.path], err = ast.ParseModuleWithOpts(f.path, string(f.text), rs.parserOptions())
			if err != nil {
				return nil, newLoadError(problemsOf(err))
			}
		}
	}
	i.compiler = rs.newCompiler(ctx).WithSchemas(rs.invariantSchemas())
	i.compiler.Compile(modules)
	if i.compiler.Failed() {
		return nil, newLoadError(problemsOf(i.compiler.Errors))
	}
	for _, name := range slices.Sorted(maps.Keys(judged)) {
		ref := judged[name].Package.Path.Append(ast.StringTerm(invariantRule))
		rules := i.compiler.GetRulesWithPrefix(ref)
		place := fmt.Sprintf("%s:1", judged[name].Package.Location.File)
		if len(rules) == 0 || rules[0].Head.RuleKind() != ast.MultiValue || len(rules[0].Head.Args) > 0 {
			problems = append(problems, Problem{Place: place, Message: fmt.Sprintf("package %s has no rule invariant contains ...", name),
				Mend: `write invariant contains "what is broken" if ...`})
		}
	}
	if len(problems) > 0 {
		return nil, newLoadError(problems)
	}
	for _, packages := range i.packages {
		for n := range packages {
			ref := packages[n].body[0].Operand(1).Value.(ast.Ref)
			packages[n].replacesInput = replacesInput(i.compiler, i.compiler.GetRulesWithPrefix(ref))
		}
	}
	return i, nil
}

func (rs *Ruleset) readInvariants(fsys fs.FS) (map[string]*ast.Module, []Problem, error) {
	modules := map[string]*ast.Module{}
	var problems []Problem
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && isHidden(name):
			return fs.SkipDir
		case entry.IsDir() || isHidden(name) || !IsInvariants(name):
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		place := path.Join(rs.options.Name, name)
		module, err := ast.ParseModuleWithOpts(place, strings.TrimPrefix(string(text), "\ufeff"), rs.parserOptions())
		if err != nil {
			problems = append(problems, problemsOf(err)...)
			return nil
		}
		modules[place] = module
		return nil
	})
	return modules, problems, err
}

// invariantSchemas are those of rules, and one that holds a request and a decision.
func (rs *Ruleset) invariantSchemas() *ast.SchemaSet {
	request, _ := rs.options.InputSchema.(map[string]any)
	request = maps.Clone(request)
	definitions := request["$defs"]
	delete(request, "$defs")
	delete(request, "$id")
	delete(request, "$schema")
	var decision any
	if err := json.Unmarshal([]byte(decisionSchema), &decision); err != nil {
		panic(err) // a constant of this file
	}
	whole := map[string]any{
		"type": "object", "additionalProperties": false,
		"properties": map[string]any{"request": request, "decision": decision},
	}
	if definitions != nil {
		whole["$defs"] = definitions // where #/$defs/... of the request looks for them
	}
	schemas := ast.NewSchemaSet()
	if rs.options.InputSchema != nil {
		schemas.Put(ast.SchemaRootRef, rs.options.InputSchema)
	}
	schemas.Put(ast.SchemaRootRef.Append(ast.StringTerm(invariantsSchema)), whole)
	return schemas
}

// Has reports whether anything judges the decisions of a rule.
func (i *Invariants) Has(rule string) bool {
	return len(i.packages[rule])+len(i.packages[""]) > 0
}

// Broken returns the messages of the invariants that a decision of the rule
// breaks, none if all hold. input has the members request and decision, built of
// the types of [Verdict]. Every error is an *EvalError.
func (i *Invariants) Broken(ctx context.Context, rule string, input map[string]any) ([]string, error) {
	var messages []string
	for _, p := range slices.Concat(i.packages[rule], i.packages[""]) {
		cancel := topdown.NewCancel()
		stop := context.AfterFunc(ctx, cancel.Cancel)
		e := evaluation{rule: p.rule, ctx: ctx, cancel: cancel, input: inputOf(input, p.replacesInput),
			cache: topdown.NewVirtualCache(), now: time.Now()}
		value, err := e.ask(i.compiler, entryQuery{entry(invariantRule), p.body})
		stop()
		if err != nil {
			return nil, err
		}
		list, _ := value.([]any)
		for _, element := range list {
			message, ok := element.(string)
			if !ok {
				text, err := json.Marshal(element)
				if err != nil {
					return nil, &EvalError{Rule: p.rule, Problem: "an invariant is not JSON"}
				}
				message = string(text)
			}
			messages = append(messages, message)
		}
	}
	return messages, nil
}

// Custom returns a member of custom in the METADATA of the rule's package, and
// the place (file:line) of that METADATA.
func (r *Rule) Custom(name string) (value any, place string, ok bool) {
	for _, annotation := range r.set.packages[r.Package].header {
		if value, ok := annotation.Custom[name]; ok {
			return value, fmt.Sprintf("%s:%d", annotation.Location.File, annotation.Location.Row), true
		}
	}
	return nil, "", false
}
