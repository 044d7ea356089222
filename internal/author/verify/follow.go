package verify

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/invariants"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// follower evaluates requests before the search, to see where they lead. After maxTimeouts of them have exceeded the
// time limit it evaluates no more.
type follower struct {
	checker  *checker
	syntax   ruleset.Syntax
	timeout  time.Duration
	timeouts int
	library  map[string]bool // the files of package dps
}

func newFollower(c *checker, timeout time.Duration) (*follower, error) {
	syntax, err := c.rule.Syntax()
	if err != nil {
		return nil, err
	}
	f := &follower{checker: c, syntax: syntax, timeout: timeout, library: map[string]bool{}}
	for _, module := range syntax.Compiler.Modules {
		f.library[module.Package.Location.File] = ruleset.IsLibrary(module)
	}
	return f, nil
}

// isHome reports whether an expression is outside the library.
func (f *follower) isHome(expr *ast.Expr) bool { return !f.library[expr.Location.File] }

// decide decides a request; false stands for one of too many timeouts.
func (f *follower) decide(ctx context.Context, d *draft) (decided, bool) {
	if f.timeouts >= maxTimeouts {
		return decided{}, false
	}
	a := f.checker.at(d).decide(ctx, d.body())
	if a.Result == answer.Timeout {
		f.timeouts++
	}
	return a, true
}

// brief is the brief answer to a request.
func (f *follower) brief(ctx context.Context, d *draft) brief {
	a, ok := f.decide(ctx, d)
	if !ok {
		return brief{result: answer.Timeout}
	}
	return briefOf(&a.Answer)
}

// verdict is a brief answer with the invariants that it breaks.
func (f *follower) verdict(ctx context.Context, d *draft) string {
	a, ok := f.decide(ctx, d)
	if !ok {
		return ""
	}
	text := briefOf(&a.Answer).String()
	if f.checker.judges() && a.Result.IsOutcome() {
		messages, _ := f.checker.invariants.Broken(d.world().in(ctx), f.checker.rule.Package, a.input(), d.lookups()...)
		text += "\n" + strings.Join(messages, "\n")
	}
	return text
}

// follow evaluates all entry rules for a request, and the invariants for its decision, and notes each expression.
func (f *follower) follow(ctx context.Context, d *draft) evaluated {
	if f.timeouts >= maxTimeouts {
		return evaluated{solve: func([]fact) ([]wishOf, clues) { return nil, clues{} }}
	}
	c := f.checker.at(d)
	limited, cancel := context.WithTimeout(c.world.in(ctx), f.timeout)
	defer cancel()
	document := d.document()
	tracer := newTracer()
	inspection := f.syntax.Inspect(limited, document, ruleset.Outside{Known: d.lookups(), Sources: sources{}})
	inspection.Trace(tracer)
	for _, name := range ruleset.EntryNames() {
		ref := c.rule.Entry(name)
		if len(f.syntax.Compiler.GetRulesWithPrefix(ref)) == 0 {
			continue
		}
		if _, err := inspection.Value(name, ref); err != nil {
			inspection.Reset()
		}
	}
	decided := c.decide(limited, bodyOf(document))
	input := document // for the rule and, with further members, for its invariants
	if c.judges() && decided.Result.IsOutcome() {
		input = decided.input()
		// What it breaks is found when the request is checked.
		_, _ = c.invariants.Trace(limited, c.rule.Package, input, tracer, d.lookups()...)
		maps.Copy(input, document)
	}
	if errors.Is(limited.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		f.timeouts++
	}
	answered := briefOf(&decided.Answer)
	return evaluated{facts: tracer.facts, answer: answered.String(), assigned: answered.assigned(), asked: rowsOf(decided.Lookups), solve: func(facts []fact) ([]wishOf, clues) {
		return f.solve(c.world.in(ctx), d, input, facts)
	}}
}

// solve lists the wishes for facts of the evaluation of a draft.
func (f *follower) solve(ctx context.Context, d *draft, input map[string]any, facts []fact) ([]wishOf, clues) {
	limited, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	inspection := f.syntax.Inspect(limited, input, ruleset.Outside{Known: d.lookups(), Sources: sources{}})
	s := solver{inspection: inspection, known: map[string]any{}, given: append(slices.Clip(d.hubs), d.current)}
	var list []wishOf
	for _, fact := range facts {
		home := f.isHome(fact.expr)
		for _, wish := range s.unwound(facts, s.wishes(fact)) {
			one := wishOf{fact.met(), wish, home}
			if !slices.ContainsFunc(list, func(other wishOf) bool { return one.met == other.met && reflect.DeepEqual(one, other) }) {
				list = append(list, one)
			}
		}
		if limited.Err() != nil {
			break
		}
	}
	return list, s.clues
}

// judges reports whether invariants are asked about the rule.
func (c *checker) judges() bool { return c.wanted[Invariant] && c.invariants.Has(c.rule.Package) }

// input is what the invariants see of a decision.
func (d *decided) input() map[string]any { return invariants.Input(d.request.Document(), &d.Answer) }

// analyze returns what is known of the rule without a request, with what its invariants read and compare.
func (c *checker) analyze() *dataflow.Analysis {
	if !c.judges() {
		return c.analysis
	}
	of := c.invariants.Analyze(c.rule.Package)
	both := *c.analysis
	both.Reads = slices.Concat(c.analysis.Reads, of.Reads)
	slices.Sort(both.Reads)
	both.Reads = slices.Compact(both.Reads)
	both.Compared = maps.Clone(c.analysis.Compared)
	for place, literals := range of.Compared {
		both.Compared[place] = append(slices.Clip(both.Compared[place]), literals...)
	}
	return &both
}
