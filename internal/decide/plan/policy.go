package plan

import (
	"context"
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
)

// policyOf has OPA's planner make the policy of a query over compiled modules. The planner is internal to OPA; package
// rego hands its result to the plugin of a target, and this target only keeps it.
func policyOf(ctx context.Context, compiler *ast.Compiler, functions map[string]*topdown.Builtin, query ast.Body) (policy *ir.Policy, err error) {
	compiler = alone(compiler, query)
	if at := ignored(compiler); at != nil {
		return nil, fmt.Errorf("%s:%d: the expression is a comprehension alone, which OPA's planner leaves out", at.File, at.Row)
	}
	defer func() {
		if r := recover(); r != nil { // a planner's mistake must cost no more than the plan
			policy, err = nil, fmt.Errorf("OPA's planner failed: %v", r)
		}
	}()
	options := []func(*rego.Rego){rego.Compiler(compiler), rego.ParsedQuery(query), rego.Target(targetName)}
	for _, f := range functions {
		options = append(options, rego.FunctionDyn(&rego.Function{Name: f.Decl.Name, Decl: f.Decl.Decl}, nil))
	}
	if _, err := rego.New(options...).PrepareForEval(context.WithValue(ctx, policyKey{}, &policy)); err != nil {
		return nil, err
	}
	if policy == nil {
		return nil, errors.New("OPA made no plan")
	}
	return policy, nil
}

const targetName = "usher"

// Package rego keeps targets for the whole process, and reads them without a lock whenever anything evaluates. So the
// target is there before anything can.
func init() { rego.RegisterPlugin("rego.target."+targetName, target{}) }

type policyKey struct{}

// target puts the policy where the context says.
type target struct{}

func (target) IsTarget(name string) bool { return name == targetName }

func (target) PrepareForEval(ctx context.Context, policy *ir.Policy, _ ...rego.PrepareOption) (rego.TargetPluginEval, error) {
	if into, ok := ctx.Value(policyKey{}).(**ir.Policy); ok {
		*into = policy
	}
	return nil, nil
}

// ignored finds an expression that is no more than a comprehension, such as a set that nobody looks at. It holds
// whatever it contains, so the planner leaves it out, and with it the functions that fail in it.
func ignored(compiler *ast.Compiler) (at *ast.Location) {
	for _, name := range util.KeysSorted(compiler.Modules) {
		ast.WalkExprs(compiler.Modules[name], func(expr *ast.Expr) bool {
			term, ok := expr.Terms.(*ast.Term)
			if !ok || at != nil {
				return at != nil
			}
			ast.WalkClosures(term, func(any) bool {
				at = expr.Location
				return true
			})
			return at != nil
		})
	}
	return at
}

// alone returns a compiler with only the modules that a query can reach: OPA's planner looks at all of them for each
// query.
func alone(compiler *ast.Compiler, query ast.Body) *ast.Compiler {
	reached := map[*ast.Module]bool{}
	seen := map[*ast.Rule]bool{}
	var follow func(x any)
	follow = func(x any) {
		ast.WalkRefs(x, func(ref ast.Ref) bool {
			for _, rule := range compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true}) {
				if reached[rule.Module] = true; !seen[rule] {
					seen[rule] = true
					follow(rule)
				}
			}
			return false
		})
	}
	follow(query)
	few := *compiler
	few.Modules = map[string]*ast.Module{}
	for name, module := range compiler.Modules {
		if reached[module] || len(module.Rules) == 0 {
			few.Modules[name] = module
		}
	}
	return &few
}
