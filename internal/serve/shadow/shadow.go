// Package shadow evaluates a second set of rules for devices that were answered already, and counts how its answers
// differ. It answers no one and delays no answer: it works in the background, on one request at a time, and drops
// requests when it cannot keep up.
package shadow

import (
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// Bounds.
const (
	// DefaultQueue bounds how many requests wait.
	DefaultQueue = 256
	// maxEnrollments bounds how many enrollments are counted separately.
	maxEnrollments = 200
	// Other counts all further enrollments.
	Other = "other"
)

// Options configure a [Shadow].
type Options struct {
	// Decider holds the shadow rules; nothing else uses it. Required.
	Decider *decider.Decider
	// Shares are the devices to compare; nil means all.
	Shares decider.Shares
	// Record receives each shadow call, which names the call that was answered; may be nil.
	Record answer.Observer
	// Queue is how many requests may wait; 0 means DefaultQueue.
	Queue int
}

// Shadow compares. Its Observe is an [answer.Observer]; [Shadow.Run] does the work.
type Shadow struct {
	options Options
	queue   chan answer.Call
	dropped atomic.Uint64

	mu       sync.Mutex
	compared map[enrollment]*Compared
}

// enrollment is what is counted separately: each group by its name in lower case, and all individual enrollments
// together, because their names are those of devices.
type enrollment struct {
	kind dps.EnrollmentKind
	name string
}

// Compared counts what was compared for an enrollment.
type Compared struct {
	Kind dps.EnrollmentKind
	// Enrollment is the name of a group in lower case; empty for all individual enrollments.
	Enrollment string
	// Agreed counts requests that both rules answer alike, Diverged the others. Dropped ones are in neither.
	Agreed, Diverged uint64
	// Differences counts in what the answers differ; a request can count in several.
	Differences map[answer.Difference]uint64
}

// Stats are the counts since the start.
type Stats struct {
	Agreed, Diverged uint64
	// Dropped counts requests that were not compared because the queue was full.
	Dropped uint64
	// Waiting is how many requests wait now.
	Waiting int
	// Enrollments are in the order of their names. All beyond the first 200 count as "other".
	Enrollments []Compared
}

// New returns a Shadow that does nothing before [Shadow.Run].
func New(options Options) *Shadow {
	return &Shadow{options: options, queue: make(chan answer.Call, cmp.Or(options.Queue, DefaultQueue)), compared: map[enrollment]*Compared{}}
}

// Observe notes a call for comparison. It never waits.
func (s *Shadow) Observe(_ context.Context, call *answer.Call) {
	if call.Request == nil || s.options.Decider.Rules() == nil || !call.Answer.Result.Decides() ||
		call.Answer.Source == answer.SourceCanary { // the same rules answered
		return
	}
	if s.options.Shares != nil && !s.options.Shares.Holds(call.Request.Enrollment, call.Request.Device.RegistrationID) {
		return
	}
	select {
	case s.queue <- *call:
	default:
		s.dropped.Add(1)
	}
}

// Run evaluates the shadow rules for what [Shadow.Observe] noted, until ctx ends.
func (s *Shadow) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case answered := <-s.queue:
			s.compare(ctx, &answered)
		}
	}
}

// compare evaluates the shadow rules for one request.
func (s *Shadow) compare(ctx context.Context, answered *answer.Call) {
	call := answer.Call{
		DecisionID: rand.Text(), Start: time.Now(), ShadowOf: answered.DecisionID,
		Service: answered.Service, Request: answered.Request, Trace: answered.Trace, InvocationID: answered.InvocationID,
	}
	call.Answer = s.options.Decider.Repeat(ctx, call.Request, answered.Answer.Lookups) // of rows as they were then
	if ctx.Err() != nil {
		return // we are stopping: the answer depends on the clock, not on the rules
	}
	call.Duration = time.Since(call.Start)
	call.Answer.Source = answer.SourceShadow
	call.Diverged = answer.Compare(&answered.Answer, &call.Answer)
	s.count(answered.Request.Enrollment, call.Diverged)
	if s.options.Record != nil {
		s.options.Record(ctx, &call)
	}
}

func (s *Shadow) count(asked dps.Enrollment, differences []answer.Difference) {
	key := enrollment{asked.Kind, strings.ToLower(asked.ID)}
	if asked.Kind == dps.IndividualEnrollment {
		key.name = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.compared[key]
	if c == nil {
		if len(s.compared) >= maxEnrollments {
			key.name = Other
		}
		if c = s.compared[key]; c == nil {
			c = &Compared{Kind: key.kind, Enrollment: key.name, Differences: map[answer.Difference]uint64{}}
			s.compared[key] = c
		}
	}
	if len(differences) == 0 {
		c.Agreed++
		return
	}
	c.Diverged++
	for _, difference := range differences {
		c.Differences[difference]++
	}
}

// Stats returns the counts so far.
func (s *Shadow) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{Dropped: s.dropped.Load(), Waiting: len(s.queue)}
	for _, c := range s.compared {
		copied := *c
		copied.Differences = maps.Clone(c.Differences)
		stats.Agreed += c.Agreed
		stats.Diverged += c.Diverged
		stats.Enrollments = append(stats.Enrollments, copied)
	}
	slices.SortFunc(stats.Enrollments, func(a, b Compared) int {
		return cmp.Or(strings.Compare(a.Enrollment, b.Enrollment), strings.Compare(string(a.Kind), string(b.Kind)))
	})
	return stats
}
