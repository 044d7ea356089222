package decider

import (
	"context"
	"sync"
	"time"
)

// limited is a context with a deadline. Unlike that of package context it needs no timer until somebody waits for it, and
// most rules are done before anybody does.
type limited struct {
	context.Context
	deadline time.Time

	once   sync.Once
	waited context.Context
	cancel context.CancelFunc
}

func (l *limited) Deadline() (time.Time, bool) {
	if earlier, ok := l.Context.Deadline(); ok && earlier.Before(l.deadline) {
		return earlier, true
	}
	return l.deadline, true
}

func (l *limited) Err() error {
	if err := l.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(l.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

func (l *limited) Done() <-chan struct{} {
	l.once.Do(func() { l.waited, l.cancel = context.WithDeadline(l.Context, l.deadline) })
	return l.waited.Done()
}

// end frees the timer, if there is one. Nobody may wait from then on.
func (l *limited) end() {
	l.once.Do(func() {})
	if l.cancel != nil {
		l.cancel()
	}
}
