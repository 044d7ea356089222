package decider

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A limited context is what package context promises of one.
func TestLimited(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		parent func(t *testing.T) context.Context
		after  time.Duration // when it ends
		want   error
	}{
		"by itself":            {func(t *testing.T) context.Context { return context.Background() }, time.Second, context.DeadlineExceeded},
		"by an earlier parent": {within(time.Millisecond), time.Millisecond, context.DeadlineExceeded},
		"before its parent":    {within(time.Hour), time.Second, context.DeadlineExceeded},
		"with its parent": {func(t *testing.T) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			return ctx
		}, time.Millisecond, context.Canceled},
	} {
		for _, waits := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					l := limited{Context: test.parent(t), deadline: start.Add(time.Second)}
					defer l.end()
					if err := l.Err(); err != nil {
						t.Fatal(err)
					}
					if deadline, ok := l.Deadline(); !ok || deadline.After(start.Add(time.Second)) {
						t.Errorf("deadline %v, %t", deadline, ok)
					}
					if waits {
						<-l.Done()
					} else {
						time.Sleep(test.after)
						synctest.Wait()
					}
					if err := l.Err(); !errors.Is(err, test.want) || time.Since(start) != test.after {
						t.Errorf("%v after %v; want %v after %v", err, time.Since(start), test.want, test.after)
					}
				})
			})
		}
	}
}

func within(d time.Duration) func(t *testing.T) context.Context {
	return func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		t.Cleanup(cancel)
		return ctx
	}
}
