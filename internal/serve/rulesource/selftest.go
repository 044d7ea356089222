package rulesource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/examples/requests"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// selfTest evaluates new rules before they answer any device, and returns why they must not. It uses the requests that
// come with the rules (NAME.request.json), and those shipped with Usher. Rules are refused if
//
//   - any request reveals a bug or makes a rule exceed its time limit;
//   - a rule ends in an error, such as a conflict, for a request that the current rules decide;
//   - a request that comes with the rules gets another decision than NAME.decision.json next to it says, or, without such
//     a file, none although the current rules decide it;
//   - none of the shipped requests is decided, although the current rules decide some. Single ones may be lost: they
//     belong to no real enrollment, and good rules may know only their own hubs.
//
// Look-ups are answered by fixtures, not by sources: a source that is down refuses no rules. A request that needs a row
// and has no fixture says nothing.
//
// Each set of rules gets a decider of its own, so that rules which run on past their time limits take nothing from the
// devices that register meanwhile.
func selfTest(ctx context.Context, before, after *decider.Rules, files fs.FS, timeout time.Duration) error {
	tests, err := testsIn(files)
	if err != nil {
		return err
	}
	is, err := decider.New(decider.Options{Rules: after, Timeout: timeout})
	if err != nil {
		return err
	}
	was, err := decider.New(decider.Options{Rules: before, Timeout: timeout})
	if err != nil {
		return err
	}
	shipped, decided, decidedBefore := 0, 0, 0
	for _, test := range tests {
		now, err := test.decide(ctx, is)
		if err != nil {
			return err
		}
		if now.Result == answer.LookupFailed {
			continue
		}
		if test.decision != nil {
			if err := test.compare(&now); err != nil {
				return err
			}
			continue
		}
		then, _ := test.decide(ctx, was) // after an error, its result is a fault
		switch lost := then.Detail == "" && now.Detail != ""; {
		case lost && (!test.shipped || decider.RuleFailed(&now)):
			return fmt.Errorf("the self-test %s is decided by the current rules, but not by these: %s: %s%s",
				test.name, now.Result, now.Detail, cause(&now))
		case test.shipped:
			shipped++
			if byRule(&now) {
				decided++
			}
			if byRule(&then) {
				decidedBefore++
			}
		}
	}
	if decided == 0 && decidedBefore > 0 {
		return fmt.Errorf("none of the %d self-test requests shipped with Usher is decided; the current rules decide %d "+
			"(if that is intended, switch the self-test off once)", shipped, decidedBefore)
	}
	return nil
}

// test is a request to evaluate rules with.
type test struct {
	name     string
	shipped  bool
	request  []byte
	decision []byte // what is expected; nil if anything is
}

// testsIn returns the tests that come with the rules, then those that are shipped.
func testsIn(files fs.FS) ([]test, error) {
	var tests []test
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		base, isRequest := strings.CutSuffix(name, exchange.RequestSuffix)
		if err != nil || entry.IsDir() || !isRequest {
			return err
		}
		t := test{name: name}
		if t.request, err = fs.ReadFile(files, name); err != nil {
			return err
		}
		t.decision, err = fs.ReadFile(files, base+exchange.DecisionSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			t.decision, err = nil, nil
		}
		tests = append(tests, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(requests.Files(), "*.json")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		request, err := fs.ReadFile(requests.Files(), name)
		if err != nil {
			return nil, err
		}
		tests = append(tests, test{name: name, shipped: true, request: request})
	}
	return tests, nil
}

// decide answers the test. A bug that shows, and a rule that exceeds its time limit, are errors.
func (t test) decide(ctx context.Context, d *decider.Decider) (answer.Answer, error) {
	a, err := exchange.Decide(ctx, d, t.request)
	if err != nil {
		return a, err
	}
	switch err := fmt.Errorf("the self-test %s ends in %s: %s%s", t.name, a.Result, a.Detail, cause(&a)); a.Result {
	case answer.Timeout:
		return a, momentary{err}
	case answer.Internal:
		return a, err
	default:
		return a, nil
	}
}

// cause names a place in the rules; empty if none is known.
func cause(a *answer.Answer) string {
	if a.Cause == nil {
		return ""
	}
	return " (" + a.Cause.Error() + ")"
}

// byRule reports whether the rule decided, and not a constraint that would prevail under any rules.
func byRule(a *answer.Answer) bool { return a.Result.IsOutcome() && len(a.Overrides) == 0 }

// momentary is a reason to refuse that may lie in the machine instead of the rules: it was busy, or a source that they
// look up was slow.
type momentary struct{ error }

// compare reports how an answer differs from the expected one.
func (t test) compare(a *answer.Answer) error {
	shown, err := exchange.JSON(a)
	if err != nil {
		return err
	}
	problems, err := exchange.Compare(t.decision, shown)
	if err != nil {
		return fmt.Errorf("the decision expected of the self-test %s is not JSON: %w", t.name, err)
	}
	if len(problems) > 0 {
		return fmt.Errorf("the self-test %s does not get the expected decision:\n%s", t.name, strings.Join(problems, "\n"))
	}
	return nil
}
