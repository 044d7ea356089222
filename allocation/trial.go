package allocation

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/rendezvous"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Trial is a second set of rules beside those in use, as a canary: it decides
// for a share of the devices.
type Trial struct {
	Rules *Rules
	// Canary says for which devices the rules on trial decide; none by default.
	Canary Shares
}

// Try puts a second set of rules beside those in use, in place of the one so
// far; nil takes that away. As with [Allocator.Use], a request that is being
// decided goes on with what it started with.
func (a *Allocator) Try(trial *Trial) { a.change(func(u *inUse) { u.trial = trial }) }

// Stop makes each further request a fault RulesStale with this detail, whatever
// the rules say; empty lets them decide again.
func (a *Allocator) Stop(detail string) { a.change(func(u *inUse) { u.stopped = detail }) }

// Stopped is the detail that [Allocator.Stop] was given last.
func (a *Allocator) Stopped() string { return a.inUse.Load().stopped }

// inUse is all that a request depends on beside itself, behind one pointer, so
// that no request sees half of a change. It never changes.
type inUse struct {
	rules   *Rules
	trial   *Trial
	stopped string
}

// change replaces the state by an edited copy of it.
func (a *Allocator) change(edit func(*inUse)) {
	for {
		old := a.inUse.Load()
		changed := *old
		edit(&changed)
		if a.inUse.CompareAndSwap(old, &changed) {
			return
		}
	}
}

// pick says which rules decide about a request.
func (u *inUse) pick(request *dps.AllocationRequest) (*Rules, Source, *Fault) {
	switch {
	case u.rules == nil:
		return nil, "", &Fault{Kind: NotReady, Detail: "no rules are loaded yet"}
	case u.stopped != "":
		return nil, "", &Fault{Kind: RulesStale, Detail: u.stopped, Rules: u.rules.Digest(),
			Provenance: Provenance{Source: SourceCurrent, Revision: u.rules.Revision()}}
	case u.trial != nil && u.trial.Rules != nil && u.trial.Canary.Holds(request.Enrollment, request.Device.RegistrationID):
		return u.trial.Rules, SourceCanary, nil
	default:
		return u.rules, SourceCurrent, nil
	}
}

// Share is a percentage of the devices of some enrollments.
type Share struct {
	// Pattern is the name of an enrollment, in lower case, or a glob as rules use them.
	Pattern string
	// Percent is from 0 to 100.
	Percent float64
}

// Shares are percentages by enrollment. The enrollment's own name goes before
// globs, a longer glob before a shorter one; enrollments that none matches have 0.
type Shares []Share

// ParseShares reads a list such as "toasters=10, line-*=2.5, *=0". A number
// alone is for all enrollments.
func ParseShares(text string) (Shares, error) {
	var shares Shares
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		pattern, number, named := strings.Cut(part, "=")
		if !named {
			pattern, number = "*", part
		}
		pattern = strings.ToLower(strings.TrimSpace(pattern))
		percent, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(number), "%"), 64)
		switch {
		case pattern == "":
			return nil, fmt.Errorf("%q names no enrollment: write NAME=PERCENT, or a percentage alone for all", part)
		case err != nil || !(percent >= 0 && percent <= 100):
			return nil, fmt.Errorf("%q has no percentage from 0 to 100: write NAME=PERCENT, such as toasters=10", part)
		case slices.ContainsFunc(shares, func(s Share) bool { return s.Pattern == pattern }):
			return nil, fmt.Errorf("%q has two percentages", pattern)
		}
		shares = append(shares, Share{pattern, percent})
	}
	return shares, nil
}

// Of returns the percentage for an enrollment.
func (s Shares) Of(enrollment string) float64 {
	best := Share{}
	name := strings.ToLower(enrollment)
	for _, share := range s {
		if share.Pattern == name {
			return share.Percent
		}
		if len(share.Pattern) > len(best.Pattern) && ruleset.MatchGlob(share.Pattern, name) {
			best = share
		}
	}
	return best.Percent
}

// Holds reports whether a device is in the share of its enrollment. That depends
// on the names alone, which count without case: a device is on the same side each
// time and on every instance. Who is in a share is in every larger one, too.
func (s Shares) Holds(enrollment dps.Enrollment, registrationID string) bool {
	if len(s) == 0 {
		return false
	}
	percent := s.Of(enrollment.ID)
	if percent <= 0 || percent >= 100 {
		return percent > 0
	}
	// With words of its own in the key, so that who is in the canary has nothing
	// to do with who is in a percentage that a rule draws.
	key := "canary\n" + enrollment.ID + "\n" + registrationID
	const partsPerPercent = 10_000 // Fraction counts parts per million
	return float64(rendezvous.Fraction(key)) < percent*partsPerPercent
}

// RuleFailed reports whether the rule ended in an error, such as two different
// hubs for one device, where others may only have said nothing.
func (f *Fault) RuleFailed() bool {
	_, failed := errors.AsType[*ruleset.EvalError](f.Cause)
	return failed
}
