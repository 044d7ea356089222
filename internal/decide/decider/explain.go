package decider

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Explanation is an answer and where it comes from. Keys and certificates of the request are masked, except in Answer;
// all other values are shown, so it is for people who may see the request.
type Explanation struct {
	// Answer is what [Decider.Allocate] returns.
	Answer answer.Answer
	// Candidates are the rules that could serve the enrollment. The first one does.
	Candidates []ruleset.Candidate
	// Entries show what the entry rules say, in the order in which they take precedence; none if no rule was evaluated.
	Entries []explanation.Entry
	// BuiltinErrors say where a built-in function failed, and why.
	BuiltinErrors []string
	// CutShort says why the explanation is incomplete; empty if it is complete.
	CutShort string
}

// explainTimeout is for the explanation alone, which asks a rule many times.
const explainTimeout = 20 * time.Second

// Explain answers a request as [Decider.Repeat] does and shows where the answer comes from.
func (d *Decider) Explain(ctx context.Context, request *dps.AllocationRequest, known []answer.Lookup) Explanation {
	e := Explanation{Answer: d.Repeat(ctx, request, known)}
	rules, _, fault := d.state.Load().pick(request)
	if fault.Result != "" {
		return e
	}
	e.Candidates = rules.set.Candidates(request.Enrollment)
	if e.Answer.Rule == nil {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	explained, err := apart(ctx, &d.strays, func() (*explanation.Explanation, error) {
		return explanation.Explain(ctx, e.Candidates[0].Rule, request.Document(), ruleset.Outside{Sources: d.lookups, Known: slices.Concat(e.Answer.Lookups, known), Certificate: request.Certificate()})
	})
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
