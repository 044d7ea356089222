// Package appender writes records to the end of a file, each wholly or not at
// all, and makes them as safe as its policy says.
package appender

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// Policy says when a record must be on the disk. It trades the time that an
// answer takes against what a machine that stops may lose. What the process was told is written
// survives the end of the process, a kill -9 too, under each of them.
type Policy string

// Policies.
const (
	// Always waits for the disk before a record counts as written. Records that come
	// at the same time share one wait. Nothing is lost when the machine stops.
	Always Policy = "always"
	// Interval does so each [SyncInterval] in the background: at most the records of that
	// time are lost when the machine stops.
	Interval Policy = "interval"
	// Never leaves it to the operating system, which takes some 30 s.
	Never Policy = "never"
)

// SyncInterval is how long [Interval] leaves a record to the operating system.
const SyncInterval = time.Second

// Valid reports whether it is one of the three.
func (p Policy) Valid() bool { return p == Always || p == Interval || p == Never }

// File is what an Appender needs of an *os.File that was opened to append.
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

// Appender appends to one file. Its methods may be called at the same time.
type Appender struct {
	policy Policy
	failed func(error)

	mu     sync.Mutex
	file   File
	size   int64 // the end of the last whole record
	broken error // nothing may be appended any more
	timer  *time.Timer

	syncing sync.Mutex // before mu
	synced  int64
	syncErr error
}

// New returns an appender for a file of the size given, opened with os.O_APPEND.
// It tells failed when the disk fails in the background; failed may not call the appender.
func New(file File, size int64, policy Policy, failed func(error)) *Appender {
	return &Appender{file: file, size: size, synced: size, policy: policy, failed: failed}
}

// Append writes a record in one call, and returns where it ends; [Appender.Commit] makes it
// safe. After an error the file is as it was. If even that fails, so does
// each later call, see [Appender.Broken].
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

// Commit returns once what ends at end is as safe as the policy asks.
func (a *Appender) Commit(end int64) error {
	if a.policy != Always {
		return nil
	}
	return a.sync(end)
}

// Size is where the last whole record ends.
func (a *Appender) Size() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.size
}

// Broken reports that the file must not be appended to any more: the end of it
// is not known to be whole, or the disk failed to keep it.
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

// sync makes everything up to end safe, and all that was written by then.
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
		// The system may have thrown away what it could not write: a second try
		// that succeeds would prove nothing.
		a.syncErr = err
		a.mu.Lock()
		if a.broken == nil {
			a.broken = fmt.Errorf("the disk failed to keep what was written: %w", err)
		}
		a.mu.Unlock()
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
