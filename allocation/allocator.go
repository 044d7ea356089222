package allocation

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/schemas"
)

// DefaultTimeout is how long a rule may take. DPS's own limit for a webhook is
// not published; 4 s is the longest that is advisable, and an answer of 503 must
// fit in before that.
const DefaultTimeout = 2 * time.Second

// Options configure an [Allocator].
type Options struct {
	// Rules decide. Without any, every request is a fault NotReady until
	// [Allocator.Use] is called.
	Rules *Rules
	// Timeout is how long a rule may take; 0 means [DefaultTimeout].
	Timeout time.Duration
}

// Allocator decides AllocationRequests. It is safe for concurrent use.
type Allocator struct {
	request *schema.Schema
	inUse   atomic.Pointer[inUse]
	timeout time.Duration
	strays  atomic.Int32 // rules that compute on past their deadlines
}

// New returns an Allocator. It fails only if the embedded schema is broken.
func New(options Options) (*Allocator, error) {
	request, err := schema.Compile("allocation-request", schemas.AllocationRequest())
	if err != nil {
		return nil, err
	}
	a := &Allocator{request: request, timeout: options.Timeout}
	if a.timeout == 0 {
		a.timeout = DefaultTimeout
	}
	a.inUse.Store(&inUse{rules: options.Rules})
	return a, nil
}

// Use puts rules in place of those so far. A request that is being decided goes
// on with the rules that it started with.
func (a *Allocator) Use(rules *Rules) { a.change(func(u *inUse) { u.rules = rules }) }

// Rules returns the rules in use, nil if there are none yet.
func (a *Allocator) Rules() *Rules { return a.inUse.Load().rules }

// AllocateJSON decides a body as DPS posts it. Beyond the faults of
// [Allocator.Allocate] it returns Malformed. The request is nil only then.
func (a *Allocator) AllocateJSON(ctx context.Context, body []byte) (*dps.AllocationRequest, Decision, error) {
	span := stagesOf(ctx).begin(stageParse)
	request, err := dps.ParseAllocationRequest(body)
	span.End()
	if err != nil {
		return nil, Decision{}, &Fault{Kind: Malformed, Detail: err.Error()}
	}
	decision, err := a.Allocate(ctx, request)
	return request, decision, err
}

// Allocate decides one request. The decision is a function of the request and
// the rules alone, unless the rules were allowed built-ins that are not. Every
// error is a *Fault, of any kind but Malformed.
func (a *Allocator) Allocate(ctx context.Context, request *dps.AllocationRequest) (Decision, error) {
	rules, source, fault := a.inUse.Load().pick(request)
	if fault != nil {
		return Decision{}, fault
	}
	decision, fault := a.decide(ctx, rules, request, nil)
	if fault != nil {
		fault.Provenance.Source = source
		return Decision{}, fault
	}
	decision.Provenance.Source = source
	return decision, nil
}

// decide takes the decision. Where asked is not nil, it notes there which rule
// was asked, for an explanation.
func (a *Allocator) decide(ctx context.Context, rules *Rules, request *dps.AllocationRequest, asked **ruleset.Rule) (Decision, *Fault) {
	decision, fault := a.ask(ctx, rules, request, asked)
	if fault != nil {
		fault.Rules, fault.Provenance.Revision = rules.Digest(), rules.Revision()
		fault.Detail = keymaterial.Of(request.Document).Text(fault.Detail)
		return Decision{}, fault
	}
	decision.Rules, decision.Provenance.Revision = rules.Digest(), rules.Revision()
	if len(decision.Reasons) > 0 { // a rule's own words can quote what it was asked about
		mask := keymaterial.Of(request.Document)
		for i, reason := range decision.Reasons {
			decision.Reasons[i] = shorten(mask.Text(reason)) // in this order: a part of a key is not known as one
		}
	}
	return decision, nil
}

func (a *Allocator) ask(ctx context.Context, rules *Rules, request *dps.AllocationRequest, asked **ruleset.Rule) (Decision, *Fault) {
	stages := stagesOf(ctx)
	span := stages.begin(stageCheck)
	violations := a.request.Validate(request.Document)
	span.End()
	if len(violations) > 0 {
		return Decision{}, invalid(violations)
	}
	rule := find(rules.set, request.Enrollment)
	if rule == nil {
		return Decision{}, &Fault{Kind: Undecided,
			Detail: "no rule serves " + string(request.Enrollment.Kind) + " " + shorten(request.Enrollment.ID)}
	}
	if asked != nil {
		*asked = rule
	}
	span = stages.begin(stageEvaluate)
	verdict, err := a.evaluate(ctx, rules, rule, request.Document)
	span.End()
	span = stages.begin(stageAccept)
	decision, fault := settle(request, rule, verdict, err)
	span.End()
	if fault != nil {
		fault.Provenance = Provenance{Binding: rules.bindings[rule], Lines: linesOf(verdict, ""), Lookups: lookupsOf(verdict)}
		return decision, fault
	}
	decision.Provenance = Provenance{Binding: rules.bindings[rule], Lines: linesOf(verdict, decision.Outcome), Lookups: lookupsOf(verdict)}
	return decision, nil
}

// linesOf takes from the lines those that count for an outcome, which is empty
// for a fault: of a device that is held, nobody asks for the line of its twin.
func linesOf(verdict ruleset.Verdict, outcome Outcome) []Line {
	lines := make([]Line, 0, len(verdict.Lines))
	for _, line := range verdict.Lines {
		switch {
		case outcome == Rejected && line.Entry != "reject", outcome == Held && line.Entry != "hold":
		default:
			lines = append(lines, Line(line))
		}
	}
	return lines
}

func lookupsOf(verdict ruleset.Verdict) []Lookup {
	var lookups []Lookup
	for _, lookup := range verdict.Lookups {
		lookups = append(lookups, Lookup(lookup))
	}
	return lookups
}

// evaluated is what comes out of a rule.
type evaluated struct {
	verdict ruleset.Verdict
	err     error
}

// evaluate asks the rule under the deadline.
func (a *Allocator) evaluate(ctx context.Context, rules *Rules, rule *ruleset.Rule, document map[string]any) (ruleset.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if rules.interruptible {
		return rule.Evaluate(ctx, document)
	}
	return a.evaluateApart(ctx, rule, document)
}

// evaluateApart asks the rule in a goroutine of its own, for rules that may call
// built-in functions which cannot be interrupted: their callers must be answered
// all the same. It costs a multiple of the direct call, since OPA's evaluator
// grows a new stack each time.
func (a *Allocator) evaluateApart(ctx context.Context, rule *ruleset.Rule, document map[string]any) (ruleset.Verdict, error) {
	if a.strays.Load() >= maxStrays {
		return ruleset.Verdict{}, errTooManyStrays
	}
	done := make(chan evaluated, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- evaluated{err: panicError{value: p, stack: debug.Stack()}}
			}
		}()
		verdict, err := rule.Evaluate(ctx, document, knownLookups(ctx)...)
		done <- evaluated{verdict, err}
	}()
	select {
	case e := <-done:
		return e.verdict, e.err
	case <-ctx.Done():
	}
	// The rule is being interrupted, which takes a moment.
	grace := time.NewTimer(strayGrace)
	defer grace.Stop()
	select {
	case e := <-done:
		return e.verdict, e.err
	case <-grace.C:
		a.strays.Add(1)
		go func() {
			<-done
			a.strays.Add(-1)
		}()
		return ruleset.Verdict{}, ctx.Err()
	}
}

const (
	// strayGrace is how long after its deadline a rule may take to stop.
	strayGrace = 100 * time.Millisecond
	// maxStrays is how many rules may go on computing after their requests were
	// answered. Each takes a processor; further requests are held meanwhile.
	maxStrays = 4
)

var errTooManyStrays = errors.New("other rules are still computing past their deadlines")

// panicError is a bug in a built-in function. Of the value it tells the type: the
// value itself can quote the request.
type panicError struct {
	value any
	stack []byte
}

func (e panicError) Error() string { return fmt.Sprintf("panic of type %T\n%s", e.value, e.stack) }

func find(set *ruleset.Ruleset, enrollment dps.Enrollment) *ruleset.Rule {
	if enrollment.Kind == dps.IndividualEnrollment {
		return set.ForIndividual(enrollment.ID)
	}
	return set.ForGroup(enrollment.ID)
}

func invalid(violations []schema.Violation) *Fault {
	fault := &Fault{Kind: InvalidRequest, Detail: "the body is not an AllocationRequest as DPS sends it"}
	for _, v := range violations {
		fault.Violations = append(fault.Violations, Violation{Pointer: v.Pointer, Problem: v.Message})
	}
	return fault
}

// settle makes a decision of what a rule said, or why it did not.
func settle(request *dps.AllocationRequest, rule *ruleset.Rule, verdict ruleset.Verdict, err error) (Decision, *Fault) {
	fault := &Fault{Kind: Undecided, Rule: rule.Package, Cause: err}
	_, broken := errors.AsType[*ruleset.LoadError](err)
	_, panicked := errors.AsType[panicError](err)
	failed, _ := errors.AsType[*ruleset.EvalError](err)
	switch {
	case panicked:
		fault.Kind, fault.Detail = Internal, "this is a fault of the service itself"
	case errors.Is(err, errTooManyStrays), errors.Is(err, context.DeadlineExceeded):
		fault.Kind, fault.Detail = Timeout, "the rule took longer than it may"
	case errors.Is(err, context.Canceled):
		fault.Kind, fault.Detail = Canceled, "the caller went away"
	case broken:
		// A fault of those who shipped the rule, not a verdict on the device:
		// whatever on_undecided says, it waits until the rule is mended.
		fault.Detail = "the rule does not compile"
	default:
		return accept(request, rule, verdict, failed)
	}
	return Decision{}, fault
}
