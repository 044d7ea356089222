package ruleset

import (
	"context"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// Syntax is what somebody who reads rules, rather than asks them, gets to see. The
// evaluator shares all of it: nobody may change it.
type Syntax struct {
	// Compiler has compiled all packages together.
	Compiler *ast.Compiler
	// Data is what data.json and data.yaml hold.
	Data ast.Value
}

// Syntax returns the compiled rules. It compiles them if they were loaded lazily, and
// its error is then that of [Ruleset.CompileAll].
func (rs *Ruleset) Syntax(ctx context.Context) (Syntax, error) {
	if rs.whole.Load() == nil {
		if err := rs.CompileAll(ctx); err != nil {
			return Syntax{}, err
		}
	}
	stored, err := rs.store.Read(ctx, rs.txn, storage.RootPath)
	if err != nil {
		return Syntax{}, err
	}
	data, ok := stored.(ast.Value)
	if !ok {
		return Syntax{}, fmt.Errorf("data is read as %T", stored)
	}
	return Syntax{Compiler: rs.whole.Load().compiler, Data: data}, nil
}

// Path is the reference to the rule's package, such as data.allocation.breakroom.
func (r *Rule) Path() ast.Ref { return r.set.packages[r.Package].path.Copy() }
