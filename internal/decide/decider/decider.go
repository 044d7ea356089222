// Package decider decides which IoT hub a device goes to: it checks the request against the JSON Schema, evaluates the
// rule of the enrollment, and holds the rule's verdict to the constraints that DPS and IoT Hub set.
//
// The webhook and all tools decide through a [Decider]. They differ only in where a request comes from and where the
// answer goes. Package allocation is the same thing for those who embed the webhook.
package decider

import (
	"cmp"
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/schemas"
)

// DefaultTimeout is how long a rule may take. DPS does not publish its limit for a webhook; 4 s is the longest that is
// advisable, and an answer of 503 must arrive before that.
const DefaultTimeout = 2 * time.Second

// Options configure a [Decider].
type Options struct {
	// Rules decide. Without any, every answer is NotReady until [Decider.Use] is called.
	Rules *Rules
	// Timeout is how long a rule may take; 0 means [DefaultTimeout].
	Timeout time.Duration
	// Lookups answer look-ups; nil means the fixtures next to the rules.
	Lookups lookups.Sources
}

// Decider answers AllocationRequests. It is safe for concurrent use.
type Decider struct {
	request *schema.Schema
	state   atomic.Pointer[state]
	timeout time.Duration
	lookups lookups.Sources
	strays  atomic.Int32 // rules that still run after their time limit
}

// requestSchema is compiled once per process.
var requestSchema = sync.OnceValues(func() (*schema.Schema, error) {
	return schema.Compile("allocation-request", schemas.AllocationRequest())
})

// New returns a Decider. It fails only if the embedded schema is broken.
func New(options Options) (*Decider, error) {
	request, err := requestSchema()
	if err != nil {
		return nil, err
	}
	d := &Decider{request: request, timeout: cmp.Or(options.Timeout, DefaultTimeout), lookups: options.Lookups}
	d.state.Store(&state{rules: options.Rules})
	return d, nil
}

// AllocateJSON answers a body as DPS posts it. Beyond the results of [Decider.Allocate] it can answer Malformed, and
// only then is the request nil.
func (d *Decider) AllocateJSON(ctx context.Context, body []byte) (*dps.AllocationRequest, answer.Answer) {
	return d.AllocateFrom(ctx, "", body)
}

// AllocateFrom is [Decider.AllocateJSON] for a body from the DPS instance with this name, which may be empty.
func (d *Decider) AllocateFrom(ctx context.Context, service string, body []byte) (request *dps.AllocationRequest, a answer.Answer) {
	defer catch(&a)
	span := stagesOf(ctx).begin(stageParse)
	request, err := dps.ParseAllocationRequest(body)
	span.End()
	if err != nil {
		return nil, answer.Answer{Result: answer.Malformed, Detail: err.Error()}
	}
	if service != "" {
		request.SetService(service)
	}
	return request, d.answer(ctx, request, nil)
}

// Allocate answers one request. The answer depends only on the request and the rules, unless the rules look something
// up or are allowed built-ins that depend on more. A request that was not parsed can have texts that are not valid UTF-8; it is an
// InvalidRequest.
func (d *Decider) Allocate(ctx context.Context, request *dps.AllocationRequest) answer.Answer {
	return d.Repeat(ctx, request, nil)
}

// Repeat answers a request again: what is among the look-ups of the first answer gets the result that it got then.
func (d *Decider) Repeat(ctx context.Context, request *dps.AllocationRequest, known []answer.Lookup) answer.Answer {
	if violations := notUTF8(request); len(violations) > 0 {
		return invalid(violations)
	}
	return d.answer(ctx, request, known)
}

// answer answers a request whose texts are valid UTF-8.
func (d *Decider) answer(ctx context.Context, request *dps.AllocationRequest, known []answer.Lookup) (a answer.Answer) {
	defer catch(&a)
	rules, source, fault := d.state.Load().pick(request)
	if fault.Result != "" {
		return fault
	}
	a = d.decide(ctx, rules, request, known)
	a.Source, a.Rules, a.Revision = source, rules.Digest(), rules.Revision()
	if a.Detail != "" || len(a.Reasons) > 0 { // a rule's own words can quote the request
		mask := keymaterial.Of(request.Body())
		a.Detail = mask.Text(a.Detail)
		for i, reason := range a.Reasons {
			a.Reasons[i] = shorten(mask.Text(reason)) // in this order: a part of a key would not be recognized
		}
	}
	return a
}

// catch makes an answer of a panic.
func catch(a *answer.Answer) {
	if p := recover(); p != nil {
		*a = answer.Panicked(p, debug.Stack())
	}
}

// decide takes the request through its stages: check, find the rule, evaluate it, hold its verdict to the constraints.
func (d *Decider) decide(ctx context.Context, rules *Rules, request *dps.AllocationRequest, known []answer.Lookup) answer.Answer {
	stages := stagesOf(ctx)
	span := stages.begin(stageCheck)
	violations := d.request.Validate(request.Body())
	span.End()
	if len(violations) > 0 {
		return invalid(violations)
	}
	rule := rules.set.Serving(request.Enrollment)
	if rule == nil {
		return answer.Answer{Result: answer.Undecided,
			Detail: "no rule serves " + string(request.Enrollment.Kind) + " " + shorten(request.Enrollment.ID)}
	}
	span = stages.begin(stageEvaluate)
	verdict, err := d.evaluate(ctx, rules, rule, request, known)
	span.End()
	span = stages.begin(stageAccept)
	a := accept(request, rule, verdict, err)
	span.End()
	a.Rule, a.Lines, a.Lookups = &rule.Rule, linesFor(a.Result, verdict.Lines), verdict.Lookups
	return a
}

func invalid(violations []schema.Violation) answer.Answer {
	a := answer.Answer{Result: answer.InvalidRequest, Detail: "the body is not an AllocationRequest as DPS sends it"}
	for _, v := range violations {
		a.Violations = append(a.Violations, answer.Violation{Pointer: v.Pointer, Problem: v.Message})
	}
	return a
}

// evaluate runs the rule under its time limit. Rules that may call built-in functions which cannot be interrupted run
// in a goroutine of their own, so that the caller is answered in any case. That costs a multiple of the direct call,
// since OPA's evaluator grows a new stack each time.
func (d *Decider) evaluate(ctx context.Context, rules *Rules, rule *ruleset.Rule, request *dps.AllocationRequest, known []answer.Lookup) (ruleset.Verdict, error) {
	outside := ruleset.Outside{Sources: d.lookups, Known: known, Certificate: request.Certificate()}
	if rules.interruptible && !rule.LooksUp() {
		limited := limited{Context: ctx, deadline: time.Now().Add(d.timeout)}
		defer limited.end()
		return rule.Evaluate(&limited, request.Body(), outside)
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	if rules.interruptible {
		return rule.Evaluate(ctx, request.Body(), outside)
	}
	return apart(ctx, &d.strays, func() (ruleset.Verdict, error) {
		return rule.Evaluate(ctx, request.Body(), outside)
	})
}

// linesFor selects the lines that matter for a result: if a device is held, the line of its twin does not.
func linesFor(result answer.Result, lines []answer.Line) []answer.Line {
	var entry string
	switch result {
	case answer.Rejected:
		entry = "reject"
	case answer.Held:
		entry = "hold"
	default:
		return lines
	}
	var selected []answer.Line
	for _, line := range lines {
		if line.Entry == entry {
			selected = append(selected, line)
		}
	}
	return selected
}
