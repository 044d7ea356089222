package ruleset

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// callers says which lines of rules called the library where a built-in function failed: the mistake is in what they
// pass. It is known only from a trace, so what failed is evaluated once more.
func (e *evaluation) callers(compiler *ast.Compiler, queries []entryQuery) map[string][]string {
	inLibrary := func(location *ast.Location) bool {
		if location == nil {
			return false
		}
		module := compiler.Modules[location.File]
		return module != nil && IsLibrary(module)
	}
	if !slices.ContainsFunc(e.builtinErrors, func(failure topdown.Error) bool { return inLibrary(failure.Location) }) {
		return nil
	}
	again := *e
	again.cache, again.builtinErrors, again.notes, again.bounds = nil, nil, nil, nil
	again.bound()
	defer again.close()
	tracer := &callTracer{failed: map[string]bool{}, inLibrary: inLibrary, calls: map[uint64]frame{}, found: map[string][]string{}}
	for _, failure := range e.builtinErrors {
		tracer.failed[PlaceOf(failure.Location)] = true
	}
	for _, query := range queries {
		err := again.query(compiler, query.bounded).WithQueryTracer(tracer).Iter(again.ctx, func(topdown.QueryResult) error { return nil })
		if err != nil {
			break // the evaluation has reported it
		}
	}
	return tracer.found
}

// callTracer follows which query evaluates what, and where it is when an expression does not hold in which a built-in
// function failed.
type callTracer struct {
	failed    map[string]bool // by place
	inLibrary func(*ast.Location) bool
	calls     map[uint64]frame // by the ID of the query
	found     map[string][]string
}

// frame is where a query is, and the query that called it.
type frame struct {
	at     *ast.Location
	caller uint64
}

func (t *callTracer) Enabled() bool { return true }

func (t *callTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

func (t *callTracer) TraceEvent(event topdown.Event) {
	switch event.Op {
	case topdown.EvalOp, topdown.RedoOp:
		t.calls[event.QueryID] = frame{event.Location, event.ParentID}
	case topdown.FailOp:
		place := PlaceOf(event.Location)
		if caller := t.caller(event.QueryID); t.failed[place] && caller != "" && !slices.Contains(t.found[place], caller) {
			t.found[place] = append(t.found[place], caller)
		}
	}
}

// caller is the innermost line outside the library that led to a query; empty if the query is outside itself.
func (t *callTracer) caller(query uint64) string {
	for within := t.calls[query]; t.inLibrary(within.at); {
		within = t.calls[within.caller]
		if !t.inLibrary(within.at) {
			return PlaceOf(within.at)
		}
	}
	return ""
}
