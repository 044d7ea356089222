package dpssim

import (
	"sync"
	"time"
)

// window counts calls of one minute, scaled.
type window struct {
	mu    sync.Mutex
	start time.Time
	count int
}

// take reports how long to wait if the bound is reached, else counts the call.
func (w *window) take(bound int, length time.Duration) (wait time.Duration) {
	if bound <= 0 {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(w.start) >= length {
		w.start, w.count = now, 0
	}
	if w.count >= bound {
		return max(w.start.Add(length).Sub(now), time.Millisecond)
	}
	w.count++
	return 0
}
