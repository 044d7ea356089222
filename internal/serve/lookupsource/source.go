package lookupsource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/maypok86/otter/v2"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/lookup"
)

const (
	// maxKey bounds a key, in bytes: lookup.Source promises it to sources.
	maxKey = 1024
	// spread is how far the time to live of a row varies, so that rows that arrived together do not expire together.
	spread = 0.1
	// breakAfter is the number of faults in a row after which a source is not asked for breakFor, more or less by spread.
	breakAfter = 5
	breakFor   = 5 * time.Second
	// grace is how long a request may take to end after its timeout, so that its own error arrives.
	grace = 20 * time.Millisecond
	// retryAfter is how long a request waits, more or less by half, before it is repeated once after a broken connection.
	retryAfter = 20 * time.Millisecond
)

// Outcome is what came of a look-up, for metrics. One that the decision did not wait for has none.
type Outcome string

// The outcomes.
const (
	Hit    Outcome = "hit"    // answered from memory
	Row    Outcome = "row"    // the source has a row
	Absent Outcome = "absent" // the source has none, or cannot have one for such a key
	Stale  Outcome = "stale"  // a fault, and an older answer took its place
	Faulty Outcome = "fault"  // a fault
)

var outcomes = []Outcome{Hit, Row, Absent, Stale, Faulty}

// kept is an answer in memory. It can be too old for use.
type kept struct {
	answer lookup.Answer // with AsOf
	at     time.Time
	factor float64 // of the time to live, 1 more or less by spread
}

func (k kept) fresh(d *lookups.Declaration) bool {
	ttl := d.TTL
	if k.answer.Row == nil {
		ttl = d.NegativeTTL
	}
	return time.Since(k.at) < time.Duration(float64(ttl)*k.factor)
}

// source is a backend with what keeps it from being asked too much.
type source struct {
	name    string
	backend Backend
	observe func(name string, outcome Outcome, took time.Duration)
	cache   *otter.Cache[string, kept] // nil if there is none
	flights singleflight.Group
	breaker *gobreaker.CircuitBreaker[lookup.Answer] // nil if the backend is local
	health  health

	counts map[Outcome]*atomic.Uint64 // never changed
	nanos  atomic.Int64               // of requests to the backend, in sum
}

func newSource(name string, backend Backend, cache int) *source {
	s := &source{name: name, backend: backend, counts: map[Outcome]*atomic.Uint64{}}
	for _, outcome := range outcomes {
		s.counts[outcome] = new(atomic.Uint64)
	}
	if backend.Local {
		return s
	}
	if cache > 0 {
		// No expiry: what is too old is not used, and what is not used is evicted first.
		s.cache = otter.Must(&otter.Options[string, kept]{MaximumSize: cache})
	}
	s.breaker = gobreaker.NewCircuitBreaker[lookup.Answer](gobreaker.Settings{
		Timeout:     time.Duration(float64(breakFor) * about(spread)),
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
		// A source that answers is up, whatever is wrong with this row.
		IsSuccessful: func(err error) bool {
			f, ok := errors.AsType[*Fault](err)
			return err == nil || ok && f.Kind == fault.Schema
		},
	})
	return s
}

// about returns 1, more or less by at most spread.
func about(spread float64) float64 { return 1 - spread + 2*spread*rand.Float64() }

func (s *source) find(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	start := time.Now()
	found, outcome, err := s.look(ctx, d, key)
	if outcome == "" {
		return found, err
	}
	s.counts[outcome].Add(1)
	if s.observe != nil {
		s.observe(s.name, outcome, time.Since(start))
	}
	return found, err
}

func (s *source) look(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, Outcome, error) {
	found := lookups.Found{Source: s.backend.Kind}
	// No source is asked for an empty key: a URL without one can be that of a list.
	if key == "" || len(key) > maxKey || !utf8.ValidString(key) {
		return found, Absent, nil
	}
	last, known := s.last(key)
	if known && last.fresh(d) {
		found.Answer = last.answer
		return found, Hit, nil
	}
	answer, err := s.ask(ctx, d, key)
	switch {
	case err == nil:
		found.Answer = answer
		if answer.Row == nil {
			return found, Absent, nil
		}
		return found, Row, nil
	case ctx.Err() != nil:
		return found, "", ctx.Err()
	case known && d.OnFault == lookups.Stale && time.Since(last.answer.AsOf) <= d.StaleFor:
		found.Answer, found.Fault = last.answer, err
		return found, Stale, nil
	default:
		return found, Faulty, err
	}
}

func (s *source) last(key string) (kept, bool) {
	if s.cache == nil {
		return kept{}, false
	}
	return s.cache.GetIfPresent(key)
}

// ask asks the backend. Its errors are *Fault, or that of ctx.
func (s *source) ask(ctx context.Context, d *lookups.Declaration, key string) (lookup.Answer, error) {
	if s.backend.Local {
		ctx, cancel := context.WithTimeout(ctx, d.Timeout)
		defer cancel()
		return s.request(ctx, d, key)
	}
	waiting, cancel := context.WithTimeout(ctx, d.Timeout+grace)
	defer cancel()
	// Who goes away does not end the request for the others, nor for the memory.
	result := s.flights.DoChan(key, func() (any, error) {
		if last, known := s.last(key); known && last.fresh(d) {
			return last.answer, nil // a request ended between the look into the memory and this one
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.Timeout)
		defer cancel()
		answer, err := s.breaker.Execute(func() (lookup.Answer, error) { return s.request(ctx, d, key) })
		if _, ok := errors.AsType[*Fault](err); err != nil && !ok {
			err = s.faultOf(d, err)
		}
		return answer, err
	})
	select {
	case r := <-result:
		answer, _ := r.Val.(lookup.Answer)
		return answer, r.Err
	case <-waiting.Done():
		return lookup.Answer{}, s.faultOf(d, waiting.Err())
	}
}

// request asks the backend, checks the row and keeps the answer. Its errors are *Fault.
func (s *source) request(ctx context.Context, d *lookups.Declaration, key string) (answer lookup.Answer, err error) {
	start := time.Now()
	answer, err = s.call(ctx, key)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Unreachable && !s.backend.Local && pause(ctx) {
		answer, err = s.call(ctx, key) // a connection that broke does not say that the next one will
	}
	s.nanos.Add(int64(time.Since(start)))
	if err == nil && answer.Row != nil && !s.backend.Local {
		if violations := d.Row.Validate(answer.Row); len(violations) > 0 {
			err = fault.New(fault.Schema, "a row is not as %s declares: %s", d.Place, violations[0])
		}
	}
	if err != nil {
		f := s.faultOf(d, err)
		if !errors.Is(err, context.Canceled) { // the caller of a local backend went away
			s.health.faulty(ctx, f)
		}
		return lookup.Answer{}, f
	}
	s.health.well(ctx)
	if s.cache != nil {
		k := kept{answer, start, about(spread)}
		if k.answer.AsOf.IsZero() {
			k.answer.AsOf = start
		}
		s.cache.Set(key, k)
	}
	return answer, nil
}

// call survives a bug of the backend, which runs outside the goroutine of the decision.
func (s *source) call(ctx context.Context, key string) (answer lookup.Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a bug of this program: asking it ended in a panic of type %T", p)
		}
	}()
	return s.backend.Find(ctx, key)
}

// pause waits before a request is repeated, and reports whether there is time for it.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Duration(float64(retryAfter) * about(0.5))):
		return true
	}
}
