// Package appender writes records to the end of a file, each completely or not at all, and makes them as safe as its
// policy says.
package appender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// Policy says when a record must be on the disk. It trades the time that an answer takes against what a machine that
// stops can lose. A record that counts as written survives the end of the process, even a kill -9, under each of them.
type Policy string

// Policies.
const (
	// Always waits for the disk before a record counts as written. Records that are written at the same time share one
	// wait. Nothing is lost when the machine stops.
	Always Policy = "always"
	// Interval does so in the background each [SyncInterval]: when the machine stops, at most the records of that time
	// are lost.
	Interval Policy = "interval"
	// Never leaves it to the operating system, which takes some 30 s.
	Never Policy = "never"
)

// SyncInterval is how long [Interval] leaves a record to the operating system.
const SyncInterval = time.Second

// Valid reports whether it is one of the three.
func (p Policy) Valid() bool { return p == Always || p == Interval || p == Never }

// File is what an Appender needs of an *os.File that was opened for appending.
type File interface {
	io.WriteCloser
	Truncate(size int64) error
	Sync() error
}

// OpenFunc opens a file as [os.OpenFile] does.
type OpenFunc func(name string, flag int, mode fs.FileMode) (File, error)

// OpenFile is the OpenFunc of the operating system.
func OpenFile(name string, flag int, mode fs.FileMode) (File, error) {
	return os.OpenFile(name, flag, mode)
}

// ErrLocked is the error of [Lock] if another process has the lock.
var ErrLocked = errors.New("another process has it open")

// lockTimeout is how long Lock waits for another process: a handler whose host died lives for another second.
const lockTimeout = 5 * time.Second

// Lock locks the file at path, which it creates, against other processes that do the same, until it is closed.
func Lock(path string) (io.Closer, error) {
	lock := flock.New(path, flock.SetPermissions(0o640))
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	locked, err := lock.TryLockContext(ctx, 50*time.Millisecond)
	if errors.Is(err, context.DeadlineExceeded) || err == nil && !locked {
		return nil, ErrLocked
	}
	return lock, err
}

// Appender appends to one file. It is safe for concurrent use.
type Appender struct {
	policy Policy
	failed func(error)

	mu     sync.Mutex
	file   File
	size   int64 // the end of the last complete record
	broken error // why nothing may be appended any more
	timer  *time.Timer

	syncing sync.Mutex // locked before mu
	synced  int64
	syncErr error
}

// New returns an appender for a file of the given size, opened with os.O_APPEND. It calls failed when the disk fails in
// the background; failed must not call the appender.
func New(file File, size int64, policy Policy, failed func(error)) *Appender {
	return &Appender{file: file, size: size, synced: size, policy: policy, failed: failed}
}

// Append writes a record in one call and returns where it ends; [Appender.Commit] makes it safe. After an error the
// file is as it was before. If even that fails, each later call fails too, see [Appender.Broken].
func (a *Appender) Append(record []byte) (end int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken != nil {
		return 0, a.broken
	}
	n, err := a.file.Write(record)
	if err == nil && n < len(record) {
		err = io.ErrShortWrite
	}
	if err != nil {
		if n > 0 {
			if cutErr := a.file.Truncate(a.size); cutErr != nil {
				a.broken = fmt.Errorf("a part of a record could not be cut off: %w", cutErr)
			}
		}
		return 0, err
	}
	a.size += int64(n)
	if a.policy == Interval && a.timer == nil {
		a.timer = time.AfterFunc(SyncInterval, a.syncLater)
	}
	return a.size, nil
}

// Commit returns when everything up to end is as safe as the policy says.
func (a *Appender) Commit(end int64) error {
	if a.policy != Always {
		return nil
	}
	return a.sync(end)
}

// Size is where the last complete record ends.
func (a *Appender) Size() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.size
}

// Broken reports that the file must not be appended to any more: its last record may be incomplete, or the disk failed
// to keep what was written.
func (a *Appender) Broken() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken != nil
}

func (a *Appender) syncLater() {
	a.mu.Lock()
	a.timer = nil
	end := a.size
	a.mu.Unlock()
	if err := a.sync(end); err != nil {
		a.failed(err)
	}
}

// sync makes everything up to end safe, and whatever else was written by then.
func (a *Appender) sync(end int64) error {
	a.syncing.Lock()
	defer a.syncing.Unlock()
	if a.synced >= end {
		return nil
	}
	if a.syncErr != nil {
		return a.syncErr
	}
	size := a.Size()
	if err := a.file.Sync(); err != nil {
		// The system may have discarded what it could not write: a second try that succeeds would prove nothing.
		a.syncErr = err
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.broken == nil {
			a.broken = fmt.Errorf("the disk failed to keep what was written: %w", err)
		}
		return err
	}
	a.synced = size
	return nil
}

// Close makes everything safe, unless the policy is [Never], and closes the file.
func (a *Appender) Close() error {
	a.mu.Lock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	end := a.size
	a.mu.Unlock()
	var err error
	if a.policy != Never {
		err = a.sync(end)
	}
	a.syncing.Lock()
	defer a.syncing.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken == nil {
		a.broken = fs.ErrClosed
	}
	return errors.Join(err, a.file.Close())
}
