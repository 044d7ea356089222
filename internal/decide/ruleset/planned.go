package ruleset

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/usher-dps/usher/internal/decide/plan"
)

// Evaluator says what evaluates rules.
type Evaluator string

// The evaluators. All give the same verdicts.
const (
	// ByPlan runs OPA's plan of the rules (package plan), and asks topdown, OPA's own evaluator, where that is unclear.
	ByPlan Evaluator = "plan"
	// ByTopdown asks topdown alone.
	ByTopdown Evaluator = "topdown"
	// Compare answers by topdown, and counts what a plan would have answered otherwise: see [Evaluations].
	Compare Evaluator = "compare"
)

// DefaultMemory is how much the values that a rule makes for one decision may take, in bytes.
const DefaultMemory = 64 << 20

// DefaultSteps is how many statements of its plan a rule may execute for one decision. A fast core executes 200 million
// of the cheapest a second, so a rule that executes more than this many cannot end within the longest time limit, 4 s.
const DefaultSteps = 1_000_000_000

// Causes of an [EvalError].
var (
	// ErrTooLarge says that the rule made values that take more than [Options.Memory].
	ErrTooLarge = errors.New("the values of the rule are too large")
	// ErrTooLong says that the rule took more than [Options.Steps].
	ErrTooLong = errors.New("the rule takes too many steps")
)

// planned is the plan of a rule, made when it is first needed.
type planned struct {
	once    sync.Once
	program *plan.Program
	without error // why there is no program
}

// plan returns the rule's plan; nil if topdown evaluates the rule.
func (r *Rule) plan(prepared *preparedRule) *plan.Program {
	if r.set.options.Evaluator == ByTopdown {
		return nil
	}
	p := &prepared.planned
	p.once.Do(func() {
		if len(r.set.options.AllowBuiltins) > 0 {
			p.without = errors.New("the setting USHER_RULES_BUILTINS allows built-in functions that depend on more than the request")
			return
		}
		// An entry rule that is undefined must not end the others, so each is in a list, which may be empty.
		var query ast.Body
		var names []string
		for _, q := range prepared.queries {
			names = append(names, q.entry)
			query.Append(ast.Equality.Expr(ast.VarTerm(q.entry), ast.ArrayComprehensionTerm(ast.VarTerm(string(answerVar)), q.body)))
		}
		p.program, p.without = plan.Compile(context.Background(), prepared.compiler, query, plan.Options{
			Functions: r.set.builtins, Added: r.set.functions, Noted: notedBuiltin, Data: r.set.data, Lists: names,
		})
	})
	return p.program
}

// Unplanned is why topdown evaluates the rule; nil if a plan does. The rule must compile.
func (r *Rule) Unplanned() error {
	prepared := r.prepare()
	if r.set.options.Evaluator == ByTopdown {
		return errors.New("the evaluator is topdown")
	}
	if prepared.err != nil || r.plan(prepared) != nil {
		return nil
	}
	return prepared.planned.without
}

// planned evaluates all entry rules by the rule's plan. Unless ok is set, topdown decides.
func (e *evaluation) planned(program *plan.Program, prepared *preparedRule) (verdict Verdict, ok bool, err error) {
	result, err := program.Run(plan.Evaluation{
		Input:    e.request,
		Context:  topdown.BuiltinContext{Context: e.ctx, Metrics: metrics.NoOp(), Cancel: e.cancel, Cache: builtins.Cache{}, NDBuiltinCache: e.lookups},
		Now:      e.now,
		MaxSteps: e.set.options.Steps,
		MaxBytes: e.set.options.Memory,
		Budget:   e.set.budget,
	})
	if limit, is := errors.AsType[*plan.LimitError](err); is {
		return verdict, true, exceeded(limit)
	}
	if err != nil {
		if cause := e.ctx.Err(); cause != nil && topdown.IsCancel(err) {
			return verdict, true, interrupted(cause)
		}
		return verdict, false, nil
	}
	e.notes.held = append(e.notes.held[:0], result.Held...)
	for i, query := range prepared.queries {
		if result.Firsts[i] != nil && verdict.set(query.entry, result.Firsts[i]) {
			break
		}
	}
	return verdict, true, nil
}

func exceeded(limit *plan.LimitError) *EvalError {
	failure := &EvalError{Place: limit.Place, Problem: limit.Error(), Cause: ErrTooLarge}
	if limit.What == plan.Steps {
		failure.Cause = ErrTooLong
	}
	return failure
}

// Evaluations count what evaluated rules. They are safe for concurrent use, and several rulesets can share them.
type Evaluations struct {
	// ByPlan are verdicts of a plan, ByTopdown those of topdown.
	ByPlan, ByTopdown atomic.Int64
	// Compared are those to which both came by the evaluator [Compare], Different those on which they disagreed.
	Compared, Different atomic.Int64
}

// Evaluations returns the counts of this ruleset, which are those of [Options.Evaluations].
func (rs *Ruleset) Evaluations() *Evaluations { return rs.options.Evaluations }

// compare notes whether a plan gives the verdict that topdown gave.
func (e *evaluation) compare(program *plan.Program, prepared *preparedRule, verdict Verdict) {
	again := *e
	again.notes = &notes{}
	got, ok, err := again.planned(program, prepared)
	if err != nil || !ok {
		return // topdown decides then
	}
	got.Lines, got.Lookups = again.notes.lines(prepared, got.has), verdict.Lookups
	count := e.set.options.Evaluations
	if count.Compared.Add(1); !reflect.DeepEqual(got, verdict) {
		count.Different.Add(1)
	}
}
