package mutate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/invariants"
	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/author/verify"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// searchLimit is how long the search for a request may take for one change of one rule, in case the changed rule is slow.
const searchLimit = 30 * time.Second

// maxJudged is how many requests with another answer the invariants judge for one change.
const maxJudged = 50

// try finds out what becomes of a change.
func (t *trial) try(ctx context.Context, m *mutant) Change {
	c := Change{File: m.place, Line: m.line(), Operator: m.operator}
	c.Before, c.After = m.shown()
	affected := t.graph.dependents(m.target)
	var err error
	if c.NoticedBy, err = t.runTests(ctx, m, affected); err == nil && c.NoticedBy == "" {
		err = t.decide(ctx, m, affected, &c)
	}
	switch {
	case err != nil:
		c.Outcome, c.Reason = Invalid, err.Error()
	case c.NoticedBy != "":
		c.Outcome, c.Witness, c.Reason = Noticed, nil, ""
	case c.Witness != nil:
		c.Outcome, c.Reason = Survived, ""
	default:
		c.Outcome = SetAside
	}
	return c
}

// runTests returns what notices the change if a test does. The error is that of rules that do not compile.
func (t *trial) runTests(ctx context.Context, m *mutant, affected map[string]bool) (string, error) {
	needed := t.graph.closure(affected)
	if !slices.ContainsFunc(t.rules.All(), func(rule *ruleset.Rule) bool { return needed[rule.Package] }) {
		needed = nil // a folder without a rule does not load
	}
	fsys, err := t.filesWith(m, needed)
	if err != nil {
		return "", err
	}
	suite, err := ruletest.Load(ctx, fsys, t.suiteOptions(t.limit))
	if err != nil {
		return "", err
	}
	failed, err := suite.FirstFailure(ctx)
	if broken, ok := errors.AsType[*ruleset.LoadError](err); ok {
		if slices.ContainsFunc(broken.Problems, func(p ruleset.Problem) bool {
			file, _ := ruleset.SplitPlace(p.Place)
			return !ruleset.IsTest(file)
		}) {
			return "", err
		}
		return byTest, nil // such as a comparison with a value of another type
	}
	if err != nil || failed == nil {
		return "", err
	}
	return byTest, nil
}

// decide looks for an exchange, an invariant or a request that notices the change.
func (t *trial) decide(ctx context.Context, m *mutant, affected map[string]bool, c *Change) error {
	fsys, err := t.filesWith(m, nil)
	if err != nil {
		return err
	}
	rules, err := decider.LoadRules(ctx, fsys, t.options.Rules)
	if err != nil {
		return err
	}
	decides, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		return err
	}
	for _, e := range t.options.Exchanges {
		if !affected[t.decidedBy[e.Name]] {
			continue
		}
		result, err := e.Run(ctx, decides, false)
		if err != nil {
			return err
		}
		if len(result.Problems) > 0 {
			c.NoticedBy = byExchange
			return nil
		}
	}
	judges, err := invariants.Load(ctx, rules.Set(), fsys)
	if err != nil {
		return err
	}
	s := search{trial: t, files: fsys, rules: rules, decides: decides, change: c, seen: map[string]bool{}, judges: judges}
	for _, rule := range t.rules.All() {
		if affected[rule.Package] && !s.done() {
			if err := s.searchRule(ctx, rule.Package); err != nil {
				return err
			}
		}
	}
	switch c.Reason = fmt.Sprintf("no request of %d was answered differently", len(s.seen)); {
	case len(s.seen) == 0:
		c.Reason = "no request reaches a rule that depends on it"
	case s.cutShort:
		c.Reason += fmt.Sprintf(", and the search ended after %s", searchLimit)
	}
	return nil
}

// corpus are requests to one rule, the shortest first, with the answers of the unchanged rules.
type corpus struct {
	bodies  [][]byte
	answers []answer.Answer
}

func (t *trial) corpusOf(ctx context.Context, rule string) (*corpus, error) {
	generated, err := verify.Generate(ctx, verify.Options{Rules: t.rules, Files: t.options.Files, Only: []string{rule}, Budget: t.options.Requests})
	if err != nil {
		return nil, err
	}
	c := &corpus{bodies: bodiesOf(generated)}
	for _, body := range c.bodies {
		_, a := t.decides.AllocateJSON(ctx, body)
		c.answers = append(c.answers, a)
	}
	return c, ctx.Err()
}

// bodiesOf sorts requests, so that the first one with another answer is the simplest.
func bodiesOf(generated []verify.Generated) [][]byte {
	var bodies [][]byte
	for _, g := range generated {
		bodies = append(bodies, g.Body)
	}
	slices.SortFunc(bodies, func(a, b []byte) int { return cmp.Or(cmp.Compare(len(a), len(b)), bytes.Compare(a, b)) })
	return bodies
}

// search looks for requests that the changed rules answer differently.
type search struct {
	*trial
	files   fs.FS // with the change
	rules   *decider.Rules
	decides *decider.Decider
	change  *Change
	seen    map[string]bool
	judges  *invariants.Invariants
	judged  int
	// cutShort is set if a rule took too long for all requests.
	cutShort bool
}

// done reports whether there is no more to find.
func (s *search) done() bool {
	return s.change.NoticedBy != "" || s.change.Witness != nil && (!s.judges.Has(s.change.Witness.Rule) || s.judged >= maxJudged)
}

// searchRule tries the requests of one rule, as long as the time allows.
func (s *search) searchRule(ctx context.Context, rule string) error {
	unchanged, err := s.corpora[rule]()
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, searchLimit)
	defer cancel()
	err = s.searchRequests(limited, rule, unchanged)
	if limited.Err() != nil && ctx.Err() == nil {
		s.cutShort = true
		return nil
	}
	return err
}

// searchRequests tries the requests generated from the unchanged rule, and then those from the changed one.
func (s *search) searchRequests(ctx context.Context, rule string, unchanged *corpus) error {
	for i, body := range unchanged.bodies {
		if err := s.compare(ctx, rule, body, &unchanged.answers[i]); err != nil || s.done() {
			return err
		}
	}
	generated, err := verify.Generate(ctx, verify.Options{Rules: s.rules, Files: s.files, Only: []string{rule}, Budget: max(s.options.Requests/4, 1), Seed: 1})
	if err != nil {
		return err
	}
	for _, body := range bodiesOf(generated) {
		if s.seen[string(body)] {
			continue
		}
		_, a := s.trial.decides.AllocateJSON(ctx, body)
		if err := s.compare(ctx, rule, body, &a); err != nil || s.done() {
			return err
		}
	}
	return nil
}

// compare decides a request with the changed rules. The error is that of ctx.
func (s *search) compare(ctx context.Context, rule string, body []byte, before *answer.Answer) error {
	request, after := s.decides.AllocateJSON(ctx, body)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.seen[string(body)] = true
	switch {
	case after.Result == answer.Timeout && before.Result != answer.Timeout:
		s.change.NoticedBy = byTime
	case len(answer.Compare(before, &after)) > 0 || before.Status() != after.Status():
		if s.change.Witness == nil {
			s.change.Witness = newWitness(rule, body, before, &after)
		}
		s.judge(ctx, rule, request, before, &after)
	}
	return ctx.Err()
}

// judge sets NoticedBy if the answer after the change breaks an invariant that the answer before it does not.
func (s *search) judge(ctx context.Context, rule string, request *dps.AllocationRequest, before, after *answer.Answer) {
	s.judged++
	was := s.broken(ctx, rule, request, before)
	isNew := func(message string) bool { return !slices.Contains(was, message) }
	if slices.ContainsFunc(s.broken(ctx, rule, request, after), isNew) && ctx.Err() == nil {
		s.change.NoticedBy = byInvariant
	}
}

// broken returns the messages of the invariants that an answer breaks.
func (s *search) broken(ctx context.Context, rule string, request *dps.AllocationRequest, a *answer.Answer) []string {
	if !a.Result.IsOutcome() {
		return nil
	}
	messages, err := s.judges.Broken(ctx, rule, invariants.Input(request.Document(), a))
	if err != nil {
		return append(messages, err.Error())
	}
	return messages
}
