package decider

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// strayGrace is how long after its time limit a rule may take to stop.
	strayGrace = 100 * time.Millisecond
	// maxStrays is how many rules may go on running after their requests were answered. Each occupies a processor;
	// further requests are held meanwhile.
	maxStrays = 4
)

var errTooManyStrays = errors.New("other rules still run after their time limits")

// panicError is a bug in a built-in function. It reports only the type of the value, because the value can quote the
// request.
type panicError struct {
	value any
	stack []byte
}

func (e panicError) Error() string { return fmt.Sprintf("panic of type %T\n%s", e.value, e.stack) }

// apart runs f in a goroutine of its own and returns the context's error if f does not stop soon after the context is
// done. strays counts the calls that still run then.
func apart[T any](ctx context.Context, strays *atomic.Int32, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	if strays.Load() >= maxStrays {
		return *new(T), errTooManyStrays
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- result{err: panicError{value: p, stack: debug.Stack()}}
			}
		}()
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done(): // f is being interrupted, which takes a moment
	}
	grace := time.NewTimer(strayGrace)
	defer grace.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-grace.C:
		strays.Add(1)
		go func() {
			<-done
			strays.Add(-1)
		}()
		return *new(T), ctx.Err()
	}
}
