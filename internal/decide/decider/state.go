package decider

import (
	"errors"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// state is everything that an answer depends on besides the request, behind one pointer, so that no request sees half
// of a change. A state never changes.
type state struct {
	rules   *Rules
	trial   *Trial
	stopped string
}

// Trial is a second set of rules next to those in use, a canary: it decides for a share of the devices.
type Trial struct {
	Rules *Rules
	// Canary says for which devices the rules on trial decide; none by default.
	Canary Shares
}

// Use replaces the rules. A request that is being decided continues with the rules that it started with.
func (d *Decider) Use(rules *Rules) { d.change(func(s *state) { s.rules = rules }) }

// Rules returns the rules in use; nil if there are none yet.
func (d *Decider) Rules() *Rules { return d.state.Load().rules }

// Try puts a second set of rules next to those in use, in place of any earlier one; nil removes it. As with
// [Decider.Use], a request that is being decided continues with what it started with.
func (d *Decider) Try(trial *Trial) { d.change(func(s *state) { s.trial = trial }) }

// Stop makes RulesStale with this detail the answer to all further requests, whatever the rules say. An empty detail
// lets the rules decide again.
func (d *Decider) Stop(detail string) { d.change(func(s *state) { s.stopped = detail }) }

// Stopped is the detail last given to [Decider.Stop].
func (d *Decider) Stopped() string { return d.state.Load().stopped }

// Ready returns the digest of the rules in use. The result is empty if they decide, or says why they do not.
func (d *Decider) Ready() (digest string, fault answer.Result) {
	switch s := d.state.Load(); {
	case s.rules == nil:
		return "", answer.NotReady
	case s.stopped != "":
		return s.rules.Digest(), answer.RulesStale
	default:
		return s.rules.Digest(), ""
	}
}

// change replaces the state by an edited copy.
func (d *Decider) change(edit func(*state)) {
	for {
		old := d.state.Load()
		changed := *old
		edit(&changed)
		if d.state.CompareAndSwap(old, &changed) {
			return
		}
	}
}

// pick returns the rules that decide about a request, or as a fault why none do.
func (s *state) pick(request *dps.AllocationRequest) (*Rules, answer.Source, answer.Answer) {
	switch {
	case s.rules == nil:
		return nil, "", answer.Answer{Result: answer.NotReady, Detail: "no rules are loaded yet"}
	case s.stopped != "":
		return nil, "", answer.Answer{Result: answer.RulesStale, Detail: s.stopped,
			Source: answer.SourceCurrent, Rules: s.rules.Digest(), Revision: s.rules.Revision()}
	case s.trial != nil && s.trial.Rules != nil && s.trial.Canary.Holds(request.Enrollment, request.Device.RegistrationID):
		return s.trial.Rules, answer.SourceCanary, answer.Answer{}
	default:
		return s.rules, answer.SourceCurrent, answer.Answer{}
	}
}

// RuleFailed reports whether the rule ended in an error, such as two different hubs for one device, as opposed to
// naming no hub.
func RuleFailed(a *answer.Answer) bool {
	_, failed := errors.AsType[*ruleset.EvalError](a.Cause)
	return failed
}
