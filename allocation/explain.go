package allocation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Explanation is a decision and where it comes from. Keys and certificates of
// the request are masked in it, but not in Decision; all other values are there,
// so it is for people who may see the request.
type Explanation struct {
	// Decision is what [Allocator.Allocate] returns, and Fault its error.
	Decision Decision
	Fault    *Fault
	// Candidates are the rules that could serve the enrollment. The first does.
	Candidates []Candidate
	// Entries tell what the entry rules say, those first that have the last
	// word. There are none where no rule was asked.
	Entries []explanation.Entry
	// BuiltinErrors say where a built-in function failed, and why.
	BuiltinErrors []string
	// CutShort says why the explanation is not whole; empty if it is.
	CutShort string
}

// Candidate is a rule that could serve an enrollment.
type Candidate struct {
	Binding
	// Pattern is the name or glob by which it serves the enrollment, in lower
	// case; empty for the rule that serves those of no other.
	Pattern string
	// Exact is set where the pattern is the enrollment's own name.
	Exact bool
}

// explainTimeout is for the explanation alone, which asks a rule many times.
const explainTimeout = 20 * time.Second

// Explain decides a request as [Allocator.Allocate] does and tells where the
// decision comes from.
func (a *Allocator) Explain(ctx context.Context, request *dps.AllocationRequest) Explanation {
	rules, source, fault := a.inUse.Load().pick(request)
	if fault != nil {
		return Explanation{Fault: fault}
	}
	var rule *ruleset.Rule
	var e Explanation
	e.Decision, e.Fault = a.decide(ctx, rules, request, &rule)
	e.Decision.Provenance.Source = source
	if e.Fault != nil {
		e.Decision.Provenance.Source, e.Fault.Provenance.Source = "", source
	}
	candidates := rules.set.CandidatesForGroup
	if request.Enrollment.Kind == dps.IndividualEnrollment {
		candidates = rules.set.CandidatesForIndividual
	}
	for _, c := range candidates(request.Enrollment.ID) {
		e.Candidates = append(e.Candidates, Candidate{Binding: bindingOf(c.Rule), Pattern: c.Pattern, Exact: c.Exact})
	}
	if rule == nil {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	explained, err := explainApart(ctx, rule, request.Document)
	if err != nil {
		e.CutShort = err.Error()
		return e
	}
	e.Entries, e.BuiltinErrors = explained.Entries, explained.BuiltinErrors
	switch err := explained.CutShort; {
	case errors.Is(err, context.DeadlineExceeded):
		e.CutShort = "it took longer than " + explainTimeout.String()
	case errors.Is(err, context.Canceled):
		e.CutShort = "interrupted"
	case err != nil:
		e.CutShort = err.Error()
	}
	return e
}

// explainApart asks in a goroutine of its own, because some built-in functions
// cannot be interrupted.
func explainApart(ctx context.Context, rule *ruleset.Rule, document map[string]any) (*explanation.Explanation, error) {
	type result struct {
		explained *explanation.Explanation
		err       error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- result{err: fmt.Errorf("a built-in function panicked (%T)", p)}
			}
		}()
		explained, err := explanation.Explain(ctx, rule, document, knownLookups(ctx)...)
		done <- result{explained, err}
	}()
	select {
	case r := <-done:
		return r.explained, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(strayGrace)
	defer grace.Stop()
	select {
	case r := <-done:
		return r.explained, r.err
	case <-grace.C:
		return nil, errors.New("a built-in function cannot be interrupted")
	}
}
