// Package invariants judges the decisions of rules by promises that their authors write as Rego files next to the
// rules. They are never served.
package invariants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Invariants are the invariants of a ruleset.
type Invariants struct {
	syntax ruleset.Syntax
	// entries are the references to the invariants, by the package of the rule that they judge; "" stands for all
	// rules.
	entries map[string][]ast.Ref
	sources lookups.Sources // nil for the fixtures
}

// Names that make a package one of invariants.
const (
	suffix = "_invariants"
	forAll = "allocation.invariants"
	entry  = "invariant"
	schema = "usher_invariants"
)

// decisionSchema is what an invariant sees of a decision. It is closed, so that a misspelled member is an error and not
// an invariant that never breaks.
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
		"reasons": {"type": "array", "items": {"type": "string"}},
		"overrides": {"type": "array", "items": {"type": "string"}}
	}
}`

// Load reads the files *_invariants.rego under fsys, from which the ruleset was loaded, and type-checks them against an
// input of a request and a decision. Package allocation.line_invariants judges the rule allocation.line, package
// allocation.invariants all rules. The error is a *ruleset.LoadError.
func Load(ctx context.Context, set *ruleset.Ruleset, fsys fs.FS) (*Invariants, error) {
	modules, err := read(set, fsys)
	if err != nil {
		return nil, err
	}
	i := &Invariants{entries: map[string][]ast.Ref{}}
	if len(modules) == 0 {
		return i, nil
	}
	var problems []ruleset.Problem
	packages := map[string]*ast.Module{} // one of the modules of each
	for _, place := range slices.Sorted(maps.Keys(modules)) {
		packages[ruleset.PackageName(modules[place])] = modules[place]
	}
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		module := packages[name]
		place := ruleset.PlaceOf(module.Package.Location)
		rule, named := strings.CutSuffix(name, suffix)
		switch {
		case name == forAll:
			rule = ""
		case !named || !slices.ContainsFunc(set.Rules(), func(r *ruleset.Rule) bool { return r.Package == rule }):
			problems = append(problems, ruleset.Problem{Place: place,
				Message: fmt.Sprintf("package %s contains invariants, but its name is not the name of a rule followed by %s", name, suffix),
				Fix:     fmt.Sprintf("name it after a rule, such as %s, or %s to judge all rules", set.Rules()[0].Package+suffix, forAll)})
			continue
		}
		i.entries[rule] = append(i.entries[rule], module.Package.Path.Append(ast.StringTerm(entry)))
		// An empty module of the same package brings the schema for its input.
		text := fmt.Sprintf("# METADATA\n# scope: subpackages\n# schemas:\n#   - input: schema.%s\n%s\n", schema, module.Package)
		if modules[place+"+schema"], err = set.Parse(place, []byte(text)); err != nil {
			return nil, err
		}
	}
	if len(problems) > 0 {
		return nil, ruleset.NewLoadError(problems)
	}
	if i.syntax, err = set.Extend(ctx, modules, schemas(set.Options().InputSchema)); err != nil {
		return nil, err
	}
	for name, module := range packages {
		rules := i.syntax.Compiler.GetRulesWithPrefix(module.Package.Path.Append(ast.StringTerm(entry)))
		if len(rules) == 0 || rules[0].Head.RuleKind() != ast.MultiValue || len(rules[0].Head.Args) > 0 {
			problems = append(problems, ruleset.Problem{Place: module.Package.Location.File + ":1",
				Message: fmt.Sprintf("package %s has no rule invariant contains ...", name),
				Fix:     `write invariant contains "what is broken" if ...`})
		}
	}
	if len(problems) > 0 {
		return nil, ruleset.NewLoadError(problems)
	}
	return i, nil
}

// read parses the files of invariants, by their places.
func read(set *ruleset.Ruleset, fsys fs.FS) (map[string]*ast.Module, error) {
	folder := set.Options().Name
	unreadable := func(err error) error {
		return ruleset.NewLoadError([]ruleset.Problem{{Place: folder, Message: err.Error()}})
	}
	names, err := ruleset.Files(fsys, true)
	if err != nil {
		return nil, unreadable(err)
	}
	modules := map[string]*ast.Module{}
	var problems []ruleset.Problem
	for _, name := range names {
		if !ruleset.IsInvariants(name) {
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, unreadable(err)
		}
		place := path.Join(folder, name)
		module, err := set.Parse(place, text)
		if broken, ok := errors.AsType[*ruleset.LoadError](err); ok {
			problems = append(problems, broken.Problems...)
		}
		modules[place] = module
	}
	if len(problems) > 0 {
		return nil, ruleset.NewLoadError(problems)
	}
	return modules, nil
}

// schemas are the schema for rules and one of a request with a decision.
func schemas(inputSchema any) *ast.SchemaSet {
	request, _ := inputSchema.(map[string]any)
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
	set := ast.NewSchemaSet()
	if inputSchema != nil {
		set.Put(ast.SchemaRootRef, inputSchema)
	}
	set.Put(ast.SchemaRootRef.Append(ast.StringTerm(schema)), whole)
	return set
}

// Has reports whether anything judges the decisions of a rule.
func (i *Invariants) Has(rule string) bool {
	return len(i.entries[rule])+len(i.entries[""]) > 0
}

// Analyze returns what the invariants of a rule read of the request and compare with it. What they read of the decision
// is left out.
func (i *Invariants) Analyze(rule string) *dataflow.Analysis {
	entries := map[string]ast.Ref{}
	for _, ref := range slices.Concat(i.entries[rule], i.entries[""]) {
		entries[ref.String()] = ref
	}
	whole := dataflow.AnalyzeRefs(i.syntax, nil, entries)
	of := &dataflow.Analysis{Compared: map[string][]dataflow.Literal{}}
	for _, read := range whole.Reads {
		if place, ok := ofRequest(read); ok {
			of.Reads = append(of.Reads, place)
		}
	}
	for read, literals := range whole.Compared {
		if place, ok := ofRequest(read); ok {
			of.Compared[place] = append(of.Compared[place], literals...)
		}
	}
	return of
}

// ofRequest returns the place in the request of what invariants read from their input. The library reads the request
// from input, which it gets by `with input as input.request`; that alone reads nothing.
func ofRequest(read string) (string, bool) {
	if place, ok := strings.CutPrefix(read, "/request"); ok {
		return place, place != ""
	}
	return read, !strings.HasPrefix(read, "/decision")
}

// Input is what invariants see of a request and its answer, with values as for [ruleset.Rule.Evaluate].
func Input(request map[string]any, a *answer.Answer) map[string]any {
	decision := map[string]any{}
	for _, member := range a.Document("outcome", "hub", "initialTwin", "payload", "reasons") {
		decision[member.Name] = member.Value
	}
	if len(a.Overrides) > 0 {
		overrides := make([]any, len(a.Overrides))
		for i, override := range a.Overrides {
			overrides[i] = string(override)
		}
		decision["overrides"] = overrides
	}
	return map[string]any{"request": request, "decision": decision}
}

// With returns the same invariants, which look up in these sources what is not known.
func (i *Invariants) With(sources lookups.Sources) *Invariants {
	copied := *i
	copied.sources = sources
	return &copied
}

// Broken returns the messages of the invariants that a decision of the rule breaks. input is an [Input], and known are the look-ups of the decision. Every error is a
// *ruleset.EvalError.
func (i *Invariants) Broken(ctx context.Context, rule string, input map[string]any, known ...answer.Lookup) ([]string, error) {
	return i.Trace(ctx, rule, input, nil, known...)
}

// Trace is [Invariants.Broken], of which a tracer sees the evaluation, unless it is nil.
func (i *Invariants) Trace(ctx context.Context, rule string, input map[string]any, tracer topdown.QueryTracer, known ...answer.Lookup) ([]string, error) {
	if !i.Has(rule) {
		return nil, nil
	}
	inspection := i.syntax.Inspect(ctx, input, ruleset.Outside{Known: known, Sources: i.sources})
	inspection.Trace(tracer)
	var messages []string
	for _, ref := range slices.Concat(i.entries[rule], i.entries[""]) {
		value, err := inspection.Value(entry, ref)
		if err != nil {
			return nil, err
		}
		list, _ := value.([]any)
		for _, element := range list {
			message, ok := element.(string)
			if !ok {
				text, err := json.Marshal(element)
				if err != nil {
					return nil, &ruleset.EvalError{Problem: "an invariant is not JSON"}
				}
				message = string(text)
			}
			messages = append(messages, message)
		}
	}
	return messages, nil
}
