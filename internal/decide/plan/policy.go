package plan

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// policyOf has OPA's planner make the policy of a query over compiled modules. The planner is internal to OPA; package
// rego hands its result to the plugin of a target, and this target only keeps it.
func policyOf(ctx context.Context, compiler *ast.Compiler, functions map[string]*topdown.Builtin, query ast.Body) (policy *ir.Policy, err error) {
	register()
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

// register adds the target to package rego, which keeps targets for the whole process.
var register = sync.OnceFunc(func() { rego.RegisterPlugin("rego.target."+targetName, target{}) })

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
