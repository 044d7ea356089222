package rulesource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/examples/requests"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// selfTest asks new rules before they answer anybody, and says why they must
// not. Two kinds of requests are asked: those that come with the rules in a bundle
// (NAME.request.json), and those shipped with Usher. Rules are refused if
//
//   - a bug shows, or a rule runs out of time, for any request;
//   - a rule ends in an error, such as a conflict, for a request that the rules
//     so far decide;
//   - a request in the bundle is decided otherwise than the NAME.decision.json
//     beside it says; or, without one, is not decided though the rules so far
//     decide it;
//   - of the shipped requests none is decided, though the rules so far decide
//     some. One or the other may be lost: they are of nobody's enrollments, and
//     good rules may care for no hubs but their own.
//
// Each set of rules gets an allocator of its own, so that rules which compute on
// past their deadlines take nothing from the devices that register meanwhile.
func selfTest(ctx context.Context, before, after *allocation.Rules, files fs.FS, timeout time.Duration) error {
	tests, err := testsIn(files)
	if err != nil {
		return err
	}
	is, err := allocation.New(allocation.Options{Rules: after, Timeout: timeout})
	if err != nil {
		return err
	}
	was, err := allocation.New(allocation.Options{Rules: before, Timeout: timeout})
	if err != nil {
		return err
	}
	shipped, decided, decidedBefore := 0, 0, 0
	for _, test := range tests {
		now, err := test.decide(ctx, is)
		if err != nil {
			return err
		}
		if test.decision != nil {
			if err := test.compare(now); err != nil {
				return err
			}
			continue
		}
		var then outcome
		if before != nil {
			if then, err = test.decide(ctx, was); err != nil {
				then = outcome{fault: allocation.Internal} // whatever it is, the rules so far do not decide it
			}
		} else {
			then.fault = allocation.NotReady
		}
		switch lost := then.fault == "" && now.fault != ""; {
		case lost && (!test.shipped || now.failed):
			return fmt.Errorf("the self-test %s is decided by the rules so far, and by these it is not: %s: %s%s",
				test.name, now.fault, now.detail, now.cause)
		case test.shipped:
			shipped++
			decided += one(now.byRule)
			decidedBefore += one(then.byRule)
		}
	}
	if decided == 0 && decidedBefore > 0 {
		return fmt.Errorf("of the %d self-test requests shipped with Usher none is decided; the rules so far decide %d "+
			"(if that is meant, switch the self-test off for once)", shipped, decidedBefore)
	}
	return nil
}

func one(condition bool) int {
	if condition {
		return 1
	}
	return 0
}

// test is a request that rules are tried on.
type test struct {
	name     string
	shipped  bool
	request  []byte
	decision []byte // what is expected; nil if nothing in particular
}

// testsIn returns the tests in a bundle, then those that are shipped.
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

// outcome is what rules say to a test.
type outcome struct {
	decision exchange.Decision
	fault    allocation.FaultKind // empty if it is decided
	byRule   bool                 // and no constraint prevailed, which would be so under any rules
	failed   bool                 // the rule ended in an error
	detail   string
	cause    string // with a place in the rules; empty if none is known
}

// decide asks the rules. A bug that shows and a rule that runs out of time are errors.
func (t test) decide(ctx context.Context, allocator *allocation.Allocator) (o outcome, err error) {
	defer func() {
		if p := recover(); p != nil { // of the value it tells the type, as the webhook does
			err = fmt.Errorf("the self-test %s ends in a panic of type %T", t.name, p)
		}
	}()
	_, decision, err := allocator.AllocateJSON(ctx, t.request)
	if ctx.Err() != nil {
		return o, ctx.Err()
	}
	fault, _ := errors.AsType[*allocation.Fault](err)
	o.decision = exchange.Of(decision, fault)
	if fault == nil {
		o.byRule = len(decision.Overrides) == 0
		return o, nil
	}
	o.fault, o.detail, o.failed = fault.Kind, fault.Detail, fault.RuleFailed()
	if fault.Cause != nil {
		o.cause = " (" + fault.Cause.Error() + ")"
	}
	if o.fault == allocation.Internal || o.fault == allocation.Timeout {
		err = fmt.Errorf("the self-test %s ends in %s: %s%s", t.name, o.fault, o.detail, o.cause)
		if o.fault == allocation.Timeout {
			err = momentary{err}
		}
		return o, err
	}
	return o, nil
}

// momentary is a reason to refuse that may be the machine's, not the rules': it was
// busy, or what they look up was slow.
type momentary struct{ error }

// compare says how an outcome differs from the one expected.
func (t test) compare(o outcome) error {
	shown, err := o.decision.JSON()
	if err != nil {
		return err
	}
	problems, err := exchange.Compare(t.decision, shown)
	if err != nil {
		return fmt.Errorf("the decision expected of the self-test %s is not JSON: %w", t.name, err)
	}
	if len(problems) > 0 {
		return fmt.Errorf("the self-test %s comes out otherwise than it should:\n%s", t.name, strings.Join(problems, "\n"))
	}
	return nil
}
