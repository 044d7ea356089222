package ruleset

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"sync"

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
	// Compare answers by topdown, and counts what a plan would have answered otherwise: see [Ruleset.Compared].
	Compare Evaluator = "compare"
)

// DefaultMemory is how much the values that a rule makes for one decision may take, in bytes.
const DefaultMemory = 64 << 20

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
		for _, q := range prepared.queries {
			query.Append(ast.Equality.Expr(ast.VarTerm(q.entry), ast.ArrayComprehensionTerm(ast.VarTerm(string(answerVar)), q.body)))
		}
		p.program, p.without = plan.Compile(context.Background(), prepared.compiler, query, plan.Options{
			Functions: r.set.builtins, Noted: notedBuiltin, Data: r.set.data,
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
		Input: e.request,
		Context: topdown.BuiltinContext{Context: e.ctx, Metrics: metrics.NoOp(), Cancel: e.cancel, Cache: builtins.Cache{}, NDBuiltinCache: e.lookups,
			Time: ast.NumberTerm(json.Number(strconv.FormatInt(e.now.UnixNano(), 10)))},
		MaxBytes: e.set.memory(),
	})
	if exceeded, is := errors.AsType[*plan.LimitError](err); is {
		return verdict, true, &EvalError{Place: exceeded.Place, Problem: exceeded.Error(), Cause: exceeded}
	}
	if err != nil {
		if cause := e.ctx.Err(); cause != nil && topdown.IsCancel(err) {
			return verdict, true, interrupted(cause)
		}
		return verdict, false, nil
	}
	e.notes.held = append(e.notes.held[:0], result.Held...)
	for _, query := range prepared.queries {
		list, _ := result.Bindings[0][query.entry].([]any)
		if len(list) > 0 && verdict.set(query.entry, list[0]) {
			break
		}
	}
	return verdict, true, nil
}

func (rs *Ruleset) memory() int64 {
	if rs.options.Memory == 0 {
		return DefaultMemory
	}
	return rs.options.Memory
}

// Compared counts the evaluations that the evaluator [Compare] has done, and those of them in which the plan had
// another verdict than topdown.
func (rs *Ruleset) Compared() (evaluations, different int64) {
	return rs.evaluations.Load(), rs.different.Load()
}

// compare notes whether a plan gives the verdict that topdown gave.
func (e *evaluation) compare(program *plan.Program, prepared *preparedRule, verdict Verdict) {
	again := *e
	again.notes = &notes{}
	got, ok, err := again.planned(program, prepared)
	if err != nil || !ok {
		return // topdown decides then
	}
	got.Lines, got.Lookups = again.notes.lines(prepared, got.has), verdict.Lookups
	if e.set.evaluations.Add(1); !reflect.DeepEqual(got, verdict) {
		e.set.different.Add(1)
	}
}
