package verify

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// fact is an expression that an evaluation met, and what became of it.
type fact struct {
	expr *ast.Expr
	held bool
	// terms are the operator and the operands, or the only term, with the values of variables in place of them.
	terms []*ast.Term
}

// met is an expression and one of its sides. For a negation OPA makes a new expression each time, at the same place.
type met struct {
	at      *ast.Location
	index   int
	negated bool
	held    bool
}

func (f *fact) met() met { return met{f.expr.Location, f.expr.Index, f.expr.Negated, f.held} }

// other is the other side of the same expression.
func (m met) other() met {
	m.held = !m.held
	return m
}

// maxFacts bounds how many facts of one evaluation are kept about the same side of an expression, which may be
// evaluated for each element of a list.
const maxFacts = 4

// tracer collects the facts of evaluations. It implements topdown.QueryTracer.
type tracer struct {
	facts []fact
	met   map[met]int
	// open are the expressions that are being evaluated, by the queries to which they belong.
	open map[uint64]*ast.Expr
}

func newTracer() *tracer { return &tracer{met: map[met]int{}, open: map[uint64]*ast.Expr{}} }

func (t *tracer) Enabled() bool { return true }

// Config asks OPA not to copy variables, because [topdown.Event.Plug] gives those that matter.
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent notes that an expression failed if OPA says so, and that it held if OPA goes on after it.
func (t *tracer) TraceEvent(event topdown.Event) {
	switch event.Op {
	case topdown.EvalOp, topdown.ExitOp:
		t.note(event, true)
		if expr, ok := event.Node.(*ast.Expr); ok && event.Op == topdown.EvalOp {
			t.open[event.QueryID] = expr
		}
	case topdown.FailOp:
		t.note(event, false)
	}
}

func (t *tracer) note(event topdown.Event, held bool) {
	expr := t.open[event.QueryID]
	if expr == nil {
		return
	}
	delete(t.open, event.QueryID)
	f := fact{expr: expr, held: held}
	if t.met[f.met()]++; expr.Location == nil || t.met[f.met()] > maxFacts {
		return
	}
	switch terms := expr.Terms.(type) {
	case *ast.Term:
		f.terms = []*ast.Term{event.Plug(terms)}
	case []*ast.Term:
		f.terms = make([]*ast.Term, len(terms))
		for i, term := range terms {
			f.terms[i] = event.Plug(term)
		}
	}
	t.facts = append(t.facts, f)
}
