// Package shadow asks a second set of rules about devices that were answered
// already, and tells how its decisions differ. Nobody is ever answered by it, and
// it holds up no answer: it works apart, with one request at a time, and drops
// requests when it cannot keep up.
package shadow

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
)

// Kind is a way in which two answers to one request differ.
type Kind string

// The kinds.
const (
	Outcome Kind = "outcome" // such as assigned and rejected
	Hub     Kind = "hub"
	Twin    Kind = "twin"
	Payload Kind = "payload"
	Fault   Kind = "fault" // one has no decision, or both have none for different reasons
)

// Kinds lists all of them.
func Kinds() []Kind { return []Kind{Outcome, Hub, Twin, Payload, Fault} }

// Bounds.
const (
	// DefaultQueue is how many requests wait at most.
	DefaultQueue = 256
	// maxEnrollments is how many enrollments are counted apart, Other the rest.
	maxEnrollments = 200
	// Other is the name under which further enrollments are counted.
	Other = "other"
)

// Options configure a [Shadow].
type Options struct {
	// Allocator holds the shadow rules, and nobody else asks it. Required.
	Allocator *allocation.Allocator
	// Shares are the devices that are asked about; nil means all.
	Shares allocation.Shares
	// Record takes each shadow decision, whose provenance names the one that was
	// answered; nil for nobody.
	Record handler.Observer
	// Queue is how many requests may wait; 0 means DefaultQueue.
	Queue int
}

// Shadow compares. Its Observe is a [handler.Observer]; [Shadow.Run] does the work.
type Shadow struct {
	options Options
	queue   chan handler.Allocation
	dropped atomic.Uint64

	mu       sync.Mutex
	compared map[enrollment]*Compared
}

// enrollment is what is counted apart: a group by its name in lower case, all
// individual enrollments together, whose names are those of devices.
type enrollment struct {
	kind dps.EnrollmentKind
	name string
}

// Compared counts what was compared for an enrollment.
type Compared struct {
	Kind dps.EnrollmentKind
	// Enrollment is the name of a group in lower case, or empty: individual
	// enrollments are counted together, as their names are those of devices.
	Enrollment string
	// Agreed counts requests that both rules answer alike, Diverged those that
	// they do not. Dropped ones are in neither.
	Agreed, Diverged uint64
	// Differences counts in what they differ; a request can count in several.
	Differences map[Kind]uint64
}

// Stats are the counts since the start.
type Stats struct {
	Agreed, Diverged uint64
	// Dropped counts requests that there was no time for.
	Dropped uint64
	// Waiting is how many requests wait now.
	Waiting int
	// Enrollments are in the order of their names. All beyond the first 200 that
	// were seen count as "other".
	Enrollments []Compared
}

// New returns a Shadow that does nothing before [Shadow.Run].
func New(options Options) *Shadow {
	if options.Queue == 0 {
		options.Queue = DefaultQueue
	}
	return &Shadow{options: options, queue: make(chan handler.Allocation, options.Queue), compared: map[enrollment]*Compared{}}
}

// Observe takes note of an allocation. It never waits.
func (s *Shadow) Observe(_ context.Context, a *handler.Allocation) {
	if a.Request == nil || s.options.Allocator.Rules() == nil {
		return
	}
	source := a.Decision.Provenance.Source
	if a.Fault != nil {
		source = a.Fault.Provenance.Source
		switch a.Fault.Kind {
		case allocation.InvalidRequest, allocation.Canceled, allocation.NotReady, allocation.RulesStale:
			return // not what the rules say
		}
	}
	if source == allocation.SourceCanary { // the same rules answered
		return
	}
	if s.options.Shares != nil && !s.options.Shares.Holds(a.Request.Enrollment, a.Request.Device.RegistrationID) {
		return
	}
	select {
	case s.queue <- *a:
	default:
		s.dropped.Add(1)
	}
}

// Run asks the shadow rules about what [Shadow.Observe] noted, until ctx ends.
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

// compare asks about one request.
func (s *Shadow) compare(ctx context.Context, answered *handler.Allocation) {
	own := handler.Allocation{
		DecisionID: rand.Text(), Start: time.Now(),
		Request: answered.Request, Trace: answered.Trace, InvocationID: answered.InvocationID,
	}
	s.ask(ctx, &own)
	if ctx.Err() != nil {
		return // we are stopping: it is a matter of the clock, not of the rules
	}
	own.Duration = time.Since(own.Start)
	own.Status = handler.StatusOf(own.Decision, own.Fault)
	kinds := Differences(answered.Decision, answered.Fault, own.Decision, own.Fault)
	provenance := &own.Decision.Provenance
	if own.Fault != nil {
		provenance = &own.Fault.Provenance
	}
	provenance.Source, provenance.ShadowOf = allocation.SourceShadow, answered.DecisionID
	for _, kind := range kinds {
		provenance.Diverged = append(provenance.Diverged, string(kind))
	}
	s.count(answered.Request.Enrollment, kinds)
	if s.options.Record != nil {
		s.options.Record(ctx, &own)
	}
}

// ask fills in what the shadow rules say. A panic is a fault of theirs.
func (s *Shadow) ask(ctx context.Context, own *handler.Allocation) {
	defer func() {
		if p := recover(); p != nil {
			own.Fault = &allocation.Fault{Kind: allocation.Internal, Detail: "this is a fault of the service itself"}
		}
	}()
	var err error
	own.Decision, err = s.options.Allocator.Allocate(ctx, own.Request)
	own.Fault, _ = errors.AsType[*allocation.Fault](err)
}

func (s *Shadow) count(asked dps.Enrollment, kinds []Kind) {
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
			c = &Compared{Kind: key.kind, Enrollment: key.name, Differences: map[Kind]uint64{}}
			s.compared[key] = c
		}
	}
	if len(kinds) == 0 {
		c.Agreed++
		return
	}
	c.Diverged++
	for _, kind := range kinds {
		c.Differences[kind]++
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

// Differences tells in what two answers to one request differ for the device and
// for DPS: not in which rule gave them, nor in the words of its reasons.
func Differences(a allocation.Decision, aFault *allocation.Fault, b allocation.Decision, bFault *allocation.Fault) []Kind {
	if aFault != nil || bFault != nil {
		if aFault == nil || bFault == nil || aFault.Kind != bFault.Kind {
			return []Kind{Fault}
		}
		return nil
	}
	if a.Outcome != b.Outcome {
		return []Kind{Outcome}
	}
	var kinds []Kind
	if !dps.SameHub(a.Response.IotHubHostName, b.Response.IotHubHostName) {
		kinds = append(kinds, Hub)
	}
	if !same(a.Response.InitialTwin, b.Response.InitialTwin) {
		kinds = append(kinds, Twin)
	}
	if !same(a.Response.Payload, b.Response.Payload) {
		kinds = append(kinds, Payload)
	}
	return kinds
}

// same compares as DPS is sent them; no object is another than an empty one.
func same(a, b map[string]any) bool {
	if (a == nil) != (b == nil) {
		return false
	}
	return bytes.Equal(dps.AppendValue(nil, a), dps.AppendValue(nil, b))
}
