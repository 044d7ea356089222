package fleet

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// maxTimeouts is after how many rules that exceed their time limit Decide gives up: each takes seconds, and more of them
// say nothing new.
const maxTimeouts = 8

// decided is the answer to a registration.
type decided struct {
	row               int
	result, hub, rule string
}

// Decide decides the registrations that have no answer in the log, or one of other rules from an earlier call. It returns
// an error if the rules take too long, or ctx ends; what is decided by then stays.
func (f *Fleet) Decide(ctx context.Context, rules *decider.Decider) error {
	select {
	case f.deciding <- struct{}{}:
		defer func() { <-f.deciding }()
	case <-ctx.Done():
		return ctx.Err()
	}
	digest := rules.Rules().Digest()
	todo := f.reopen(digest)
	var timeouts atomic.Int32
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, part := range todo {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			list, err := f.decidePart(working, rules, part, &timeouts)
			f.settle(list, digest)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// part is a chunk of which some rows have to be decided.
type part struct {
	packed []byte
	rows   []int
	texts  [][2]uint32 // of each of rows, where it starts and ends
}

// reopen lists what has to be decided, and forgets what other rules decided.
func (f *Fleet) reopen(digest string) []part {
	f.mu.Lock()
	defer f.mu.Unlock()
	rules := f.number(digest)
	var parts []part
	for _, c := range f.chunks {
		one := part{packed: c.packed}
		for i := c.first; i < c.end; i++ {
			r := &f.rows[i]
			if r.decided && r.rules != rules {
				r.decided, r.result, r.hub, r.rule = false, 0, 0, 0
				f.undecided++
			}
			if r.result == 0 {
				one.rows = append(one.rows, i)
				one.texts = append(one.texts, [2]uint32{r.start, r.end})
			}
		}
		if len(one.rows) > 0 {
			parts = append(parts, one)
		}
	}
	return parts
}

func (f *Fleet) decidePart(ctx context.Context, rules *decider.Decider, p part, timeouts *atomic.Int32) ([]decided, error) {
	texts, err := f.decoder.DecodeAll(p.packed, nil)
	if err != nil {
		return nil, err
	}
	var list []decided
	for i, at := range p.texts {
		item, err := itemOf(ctx, "", texts[at[0]:at[1]])
		if ctx.Err() != nil {
			return list, ctx.Err()
		}
		if err != nil {
			return list, err
		}
		request, err := item.Parse()
		if err != nil {
			return list, err // it was parsed before
		}
		a := rules.Repeat(ctx, request, item.Lookups)
		if ctx.Err() != nil {
			return list, ctx.Err()
		}
		if a.Result == answer.Timeout {
			if timeouts.Add(1) == maxTimeouts {
				return list, fmt.Errorf("the rules exceeded their time limit %d times, so the other registrations are not decided", maxTimeouts)
			}
		}
		list = append(list, decided{p.rows[i], string(a.Result), hubName(a.Response.IotHubHostName), a.PackageName()})
	}
	return list, nil
}

// settle keeps decisions.
func (f *Fleet) settle(list []decided, digest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rules := f.number(digest)
	for _, one := range list {
		r := &f.rows[one.row]
		r.decided, r.rules = true, rules
		r.result, r.hub, r.rule = f.number(one.result), f.number(one.hub), f.number(one.rule)
		f.undecided--
	}
	if len(list) > 0 {
		f.tell()
	}
}
