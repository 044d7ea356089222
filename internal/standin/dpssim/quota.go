package dpssim

import (
	"fmt"
	"sync"
	"time"
)

// window counts the calls of one minute, scaled.
type window struct {
	mu    sync.Mutex
	start time.Time
	count uint
}

// take counts a call, or refuses it if the quota is used up. A quota of 0 is no limit.
func (w *window) take(quota uint, what string, minute time.Duration) error {
	if quota == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(w.start) >= minute {
		w.start, w.count = now, 0
	}
	if w.count >= quota {
		return throttled(w.start.Add(minute).Sub(now), fmt.Sprintf("the quota of %d %s per minute is used up", quota, what))
	}
	w.count++
	return nil
}

// throttleRegistration counts a register call.
func (s *Service) throttleRegistration() error {
	if err := s.throttleTrouble(); err != nil {
		return err
	}
	return s.registrations.take(s.config.Quota.RegistrationsPerMinute, "registrations", s.scaled(time.Minute))
}

// ThrottleService counts a call of the service API.
func (s *Service) ThrottleService() error {
	return s.operations.take(s.config.Quota.OperationsPerMinute, "operations", s.scaled(time.Minute))
}
