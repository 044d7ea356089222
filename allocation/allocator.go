package allocation

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/ruleset"
	"github.com/usher-dps/usher/internal/schema"
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
	rules   atomic.Pointer[Rules]
	timeout time.Duration
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
	a.rules.Store(options.Rules)
	return a, nil
}

// Use puts rules in place of those so far. A request that is being decided goes
// on with the rules that it started with.
func (a *Allocator) Use(rules *Rules) { a.rules.Store(rules) }

// Rules returns the rules in use, nil if there are none yet.
func (a *Allocator) Rules() *Rules { return a.rules.Load() }

// AllocateJSON decides a body as DPS posts it. Beyond the faults of
// [Allocator.Allocate] it returns Malformed. The request is nil only then.
func (a *Allocator) AllocateJSON(ctx context.Context, body []byte) (*dps.AllocationRequest, Decision, error) {
	request, err := dps.ParseAllocationRequest(body)
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
	rules := a.rules.Load()
	if rules == nil {
		return Decision{}, &Fault{Kind: NotReady, Detail: "no rules are loaded yet"}
	}
	decision, fault := a.decide(ctx, rules, request)
	if fault != nil {
		fault.Rules = rules.Digest()
		return Decision{}, fault
	}
	decision.Rules = rules.Digest()
	return decision, nil
}

func (a *Allocator) decide(ctx context.Context, rules *Rules, request *dps.AllocationRequest) (Decision, *Fault) {
	if violations := a.request.Validate(request.Document); len(violations) > 0 {
		return Decision{}, invalid(violations)
	}
	rule := find(rules.set, request.Enrollment)
	if rule == nil {
		return Decision{}, &Fault{Kind: Undecided,
			Detail: "no rule serves " + string(request.Enrollment.Kind) + " " + request.Enrollment.ID}
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	verdict, err := rule.Evaluate(ctx, request.Document)
	if err != nil {
		return evaluationFailed(request, rule, err)
	}
	return accept(request, rule, verdict)
}

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

func evaluationFailed(request *dps.AllocationRequest, rule *ruleset.Rule, err error) (Decision, *Fault) {
	fault := &Fault{Kind: Undecided, Rule: rule.Package, Detail: "the rule failed", Cause: err}
	if _, broken := errors.AsType[*ruleset.LoadError](err); broken {
		// A fault of those who shipped the rule, not a verdict on the device:
		// whatever on_undecided says, it waits until the rule is mended.
		fault.Detail = "the rule does not compile"
		return Decision{}, fault
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		fault.Kind, fault.Detail = Timeout, "the rule took longer than it may"
	case errors.Is(err, context.Canceled):
		fault.Kind, fault.Detail = Canceled, "the caller went away"
	default:
		return undecided(request, rule, fault.Detail, err)
	}
	return Decision{}, fault
}
