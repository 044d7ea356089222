package appender_test

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
)

// slow is a file that counts its syncs.
type slow struct {
	mu    sync.Mutex
	size  int
	syncs atomic.Int64
	fail  error
	gate  chan struct{} // if set, a sync waits until it is closed
}

func (s *slow) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += len(p)
	return len(p), nil
}

func (s *slow) Sync() error {
	s.syncs.Add(1)
	if s.gate != nil {
		<-s.gate
	}
	return s.fail
}

func (s *slow) Truncate(int64) error { return nil }
func (s *slow) Close() error         { return nil }

// With Always, each record waits for the disk, and records that come in between wait together.
func TestAlwaysShares(t *testing.T) {
	t.Parallel()
	file := &slow{gate: make(chan struct{})}
	a := appender.New(file, 0, appender.Always, nil)
	var group sync.WaitGroup
	var committed atomic.Int64
	for range 100 {
		group.Go(func() {
			end, err := a.Append([]byte("record"))
			if err == nil {
				err = a.Commit(end)
			}
			if err != nil {
				t.Error(err)
			}
			committed.Add(1)
		})
	}
	for deadline := time.Now().Add(20 * time.Second); a.Size() < 600; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("those that append wait for those that wait for the disk")
		}
	}
	if n := committed.Load(); n > 0 {
		t.Errorf("%d did not wait for the disk", n)
	}
	close(file.gate)
	group.Wait()
	if n := file.syncs.Load(); n > 2 {
		t.Errorf("%d syncs", n)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// Interval makes one sync for everything that is written within a second; Never makes none.
func TestIntervalAndNever(t *testing.T) {
	t.Parallel()
	for policy, want := range map[appender.Policy]int64{appender.Interval: 2, appender.Never: 0} {
		synctest.Test(t, func(t *testing.T) {
			file := new(slow)
			a := appender.New(file, 0, policy, func(err error) { t.Error(err) })
			for range 30 {
				end, err := a.Append([]byte("record"))
				if err = errors.Join(err, a.Commit(end)); err != nil {
					t.Error(err)
				}
				time.Sleep(50 * time.Millisecond) // of the bubble
			}
			time.Sleep(time.Minute)
			if n := file.syncs.Load(); n != want {
				t.Errorf("%s: %d syncs, want %d", policy, n, want)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// After a failed sync, no later one counts: the system may have discarded what it could not write.
func TestFailedSyncIsFinal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := &slow{fail: errors.New("the disk is gone")}
		a := appender.New(file, 0, appender.Always, nil)
		end, err := a.Append([]byte("record"))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Commit(end); !errors.Is(err, file.fail) {
			t.Errorf("got %v", err)
		}
		gone := file.fail
		file.fail = nil
		if err := a.Commit(end); !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
		if _, err := a.Append([]byte("record")); !errors.Is(err, gone) || !a.Broken() {
			t.Errorf("got %v", err)
		}
	})
}
