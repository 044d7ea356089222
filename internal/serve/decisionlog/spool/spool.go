// Package spool keeps records on disk until a remote destination has taken them.
//
// A record for which Write returned nil survives a restart and a kill -9, and is delivered at least once, in order:
// what was being delivered when the process ended is delivered again. Records have a decisionId, by which a reader
// drops the second copy. When the spool is full, because the destination is away for a long time, new records are
// refused and counted. The old ones stay: they were promised, and the first records of an outage show how it began.
//
// docs/adr/0013-own-spool.md explains why this is not a write-ahead log library.
package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
)

// MaxRecord bounds a record, in bytes. A larger one fits neither a line of `usher replay` nor most destinations.
const MaxRecord = 1 << 20

// Bounds of Options.MaxBytes.
const (
	MinBytes     = 8 << 20
	DefaultBytes = 256 << 20
)

// ErrFull is the error of Write if the spool has reached Options.MaxBytes.
var ErrFull = errors.New("the spool is full")

// Refusal is what Options.Deliver returns for records that the destination will never take, however often they are
// delivered. They are dropped and counted.
type Refusal struct {
	// Refused is how many were refused while the others were taken. 0 means that all were refused together: they are
	// then delivered one by one.
	Refused int
	Err     error
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Busy is what Options.Deliver returns if the destination says how long to wait.
type Busy struct {
	Wait time.Duration
	Err  error
}

func (b *Busy) Error() string { return b.Err.Error() }
func (b *Busy) Unwrap() error { return b.Err }

// Options configure a [Spool].
type Options struct {
	// Name identifies the destination to people, such as blob.
	Name string
	// Folder contains the spool and nothing else. It is created if it does not exist. Required.
	Folder string
	// MaxBytes bounds what is on disk; 0 means DefaultBytes. It is at least MinBytes.
	MaxBytes int64
	// Sync is when a record must be on the disk; empty means appender.Interval.
	Sync appender.Policy
	// Deliver sends records to the destination, and returns nil once the destination has all of them. It must not keep
	// them. Errors other than a Refusal are retried. Required.
	Deliver func(ctx context.Context, records [][]byte) error
	// BatchRecords and BatchBytes bound one delivery; 0 means 1000 and 1 MiB. A batch has at least one record.
	BatchRecords int
	BatchBytes   int
	// Linger is how long records wait for others, to be delivered together.
	Linger time.Duration
	// Timeout bounds one delivery; 0 means 30 s.
	Timeout time.Duration
	// MinBackoff and MaxBackoff are the waits after the first and after many failures; 0 means 500 ms and 1 minute.
	MinBackoff, MaxBackoff time.Duration
	// Failed is called for each delivery that failed, and for each disk error that Write does not return; it may be
	// nil. It must not call the spool, and must be safe for concurrent use.
	Failed func(error)
	// OpenFile opens segments for writing; nil means appender.OpenFile. Tests make it fail.
	OpenFile appender.OpenFunc
}

// Stats are the state of a spool. Counts start with the process.
type Stats struct {
	Written   int64 // taken by Write
	Dropped   int64 // not taken: the spool was full, or the disk failed
	Delivered int64
	Refused   int64 // taken, and lost: the destination refused them for good
	Failures  int64 // deliveries that failed, and disk errors
	Damaged   int64 // places in segments that could not be read, each a record or more
	Cut       int64 // 1 if the last process ended in the middle of a record that it had not promised

	Pending int64 // records not delivered yet, including those of earlier processes
	Bytes   int64 // on disk
	// OldestAge is how long the oldest pending record has waited, by the wall clock; 0 if none is pending.
	OldestAge time.Duration
}

// segment is a file of frames.
type segment struct {
	first uint64 // the number of its first record, and its name
	size  int64  // up to the end of the last whole frame
}

// Spool is a queue on disk. It is safe for concurrent use.
type Spool struct {
	options      Options
	segmentBytes int64
	lock         io.Closer
	marks        *os.File // contains the position
	generation   uint64   // of the last slot written; used only by drain
	failures     atomic.Int64

	mu         sync.Mutex
	segments   []segment          // ascending; done points to the first
	active     *appender.Appender // of the last segment; nil if none is open
	done       position
	nextRecord uint64
	bytes      int64
	oldest     int64 // when the oldest pending record was written, or a little before, in nanoseconds
	stats      Stats
	closed     bool
	buffer     []byte

	wake    chan struct{} // there are records, or the spool closes
	full    chan struct{} // a batch is full, so drain need not wait
	closing chan struct{}
	stop    context.CancelFunc
	drained chan struct{}
}

// Open opens the spool in a folder and starts to deliver what is there. The error names the folder.
func Open(options Options) (*Spool, error) {
	if options.Deliver == nil || options.Folder == "" {
		return nil, errors.New("a spool needs a folder and a destination")
	}
	options.MaxBytes = cmp.Or(options.MaxBytes, DefaultBytes)
	if options.MaxBytes < MinBytes {
		return nil, fmt.Errorf("a spool of %d bytes is too small: %d at least", options.MaxBytes, MinBytes)
	}
	options.Sync = cmp.Or(options.Sync, appender.Interval)
	if !options.Sync.Valid() {
		return nil, fmt.Errorf("no policy %q: use always, interval or never", options.Sync)
	}
	options.BatchRecords = cmp.Or(options.BatchRecords, 1000)
	options.BatchBytes = cmp.Or(options.BatchBytes, 1<<20)
	options.Timeout = cmp.Or(options.Timeout, 30*time.Second)
	options.MinBackoff = cmp.Or(options.MinBackoff, 500*time.Millisecond)
	options.MaxBackoff = cmp.Or(options.MaxBackoff, time.Minute)
	if options.Failed == nil {
		options.Failed = func(error) {}
	}
	if options.OpenFile == nil {
		options.OpenFile = appender.OpenFile
	}
	s := &Spool{
		options: options,
		// At least eight, so that delivered records soon free space, and each with room for several records.
		segmentBytes: min(options.MaxBytes/8, 16<<20),
		wake:         make(chan struct{}, 1), full: make(chan struct{}, 1),
		closing: make(chan struct{}), drained: make(chan struct{}),
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("the spool in %s cannot be opened: %w", options.Folder, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.drain(ctx)
	return s, nil
}

func (s *Spool) open() (err error) {
	if err := os.MkdirAll(s.options.Folder, 0o700); err != nil {
		return err
	}
	s.lock, err = appender.Lock(filepath.Join(s.options.Folder, "lock"))
	if errors.Is(err, appender.ErrLocked) {
		return fmt.Errorf("%w; give each process a folder of its own", err)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.marks.Close()
			_ = s.lock.Close()
		}
	}()
	s.marks, err = os.OpenFile(filepath.Join(s.options.Folder, "delivered"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	slots := make([]byte, 2*slotSize)
	n, _ := s.marks.ReadAt(slots, 0) // if it cannot be read, records are delivered again
	s.generation, s.done = decodeSlots(slots[:n])
	if err := s.list(); err != nil {
		return err
	}
	return s.recover()
}

// list finds the segments.
func (s *Spool) list() error {
	entries, err := os.ReadDir(s.options.Folder)
	if err != nil {
		return err
	}
	for _, entry := range entries { // sorted by name, and so by number
		name, isSegment := strings.CutSuffix(entry.Name(), segmentSuffix)
		first, err := strconv.ParseUint(name, 10, 64)
		if !isSegment || err != nil {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		s.segments = append(s.segments, segment{first: first, size: info.Size()})
		s.bytes += info.Size()
	}
	return nil
}

const segmentSuffix = ".segment"

func (s *Spool) path(first uint64) string {
	return filepath.Join(s.options.Folder, fmt.Sprintf("%020d", first)+segmentSuffix)
}

// recover makes position and segments agree, and cuts off what the last process had begun to write.
func (s *Spool) recover() error {
	s.nextRecord = s.done.Record
	if len(s.segments) > 0 {
		last := &s.segments[len(s.segments)-1]
		data, err := os.ReadFile(s.path(last.first))
		if err != nil {
			return err
		}
		records, end := scan(data)
		if end < int64(len(data)) {
			s.stats.Cut++
			if err := os.Truncate(s.path(last.first), end); err != nil {
				s.report(fmt.Errorf("the end of a record could not be cut off: %w", err))
			}
			s.bytes -= last.size - end
			last.size = end
		}
		s.nextRecord = max(s.nextRecord, last.first+records)
		if records == 0 { // the next segment may need its name
			s.remove(*last)
			s.segments = s.segments[:len(s.segments)-1]
		}
	}
	// Segments before the position were delivered. If the segment of the position is gone, the position is the start of
	// the next.
	for len(s.segments) > 0 && s.segments[0].first < s.done.Segment {
		s.remove(s.segments[0])
		s.segments = s.segments[1:]
	}
	if len(s.segments) == 0 {
		s.done = position{Segment: s.nextRecord, Record: s.nextRecord}
		return nil
	}
	if s.done.Segment != s.segments[0].first {
		s.done = position{Segment: s.segments[0].first, Record: s.segments[0].first}
	}
	s.done.Offset = min(s.done.Offset, s.segments[0].size)
	s.oldest = time.Now().UnixNano() // until it is read
	return nil
}

// Name is the name of the destination.
func (s *Spool) Name() string { return s.options.Name }

// Write takes a record. When it returns nil, the record is as safe as the policy says, and will be delivered.
func (s *Spool) Write(record []byte) error {
	active, end, err := s.append(record)
	if err == nil {
		if err = active.Commit(end); err != nil {
			err = fmt.Errorf("write to the spool in %s: %w", s.options.Folder, err)
		}
	}
	s.mu.Lock()
	if err != nil {
		s.stats.Dropped++
	} else {
		s.stats.Written++
	}
	s.mu.Unlock()
	return err
}

func (s *Spool) append(record []byte) (*appender.Appender, int64, error) {
	if len(record) > MaxRecord {
		return nil, 0, fmt.Errorf("a record of %d bytes is too large for the spool, which takes %d", len(record), MaxRecord)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, errors.New("the spool is closed")
	}
	now := time.Now().UnixNano()
	s.buffer = appendFrame(s.buffer[:0], record, now)
	size := int64(len(s.buffer))
	if s.bytes+size > s.options.MaxBytes {
		return nil, 0, fmt.Errorf("%w: %d bytes in %s wait to be delivered", ErrFull, s.bytes, s.options.Folder)
	}
	err := s.roll(size, false)
	var end int64
	if err == nil {
		end, err = s.active.Append(s.buffer)
		if err != nil && s.nextRecord == s.done.Record && s.active.Size() > 0 {
			// All of the segment is delivered: without it, a full disk may have space.
			if err = s.roll(size, true); err == nil {
				end, err = s.active.Append(s.buffer)
			}
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("write to the spool in %s: %w", s.options.Folder, err)
	}
	s.segments[len(s.segments)-1].size = end
	s.bytes += size
	if s.nextRecord == s.done.Record {
		s.oldest = now
	}
	s.nextRecord++
	signal(s.wake)
	if s.batchIsFull() {
		signal(s.full)
	}
	return s.active, end, nil
}

// batchIsFull reports whether there are enough records for a batch. The caller holds mu.
func (s *Spool) batchIsFull() bool {
	return s.nextRecord-s.done.Record >= uint64(s.options.BatchRecords) || s.bytes-s.done.Offset >= int64(s.options.BatchBytes)
}

func signal(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// roll makes sure that the open segment has room. With replace, it removes the last segment, which is delivered, and
// opens another one.
func (s *Spool) roll(size int64, replace bool) error {
	if s.active != nil {
		if !replace && !s.active.Broken() && s.active.Size()+size <= s.segmentBytes {
			return nil
		}
		err := s.active.Close()
		s.active = nil
		if err != nil && !errors.Is(err, fs.ErrClosed) {
			s.report(fmt.Errorf("close a segment: %w", err))
		}
		if last := len(s.segments) - 1; replace || s.segments[last].size == 0 {
			// The next segment needs the name of one to which nothing was written.
			s.remove(s.segments[last])
			s.segments = s.segments[:last]
		}
	}
	file, err := s.options.OpenFile(s.path(s.nextRecord), os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if s.options.Sync == appender.Always {
		if err := syncFolder(s.options.Folder); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	s.active = appender.New(file, 0, s.options.Sync, func(err error) { s.report(fmt.Errorf("the spool in %s: %w", s.options.Folder, err)) })
	s.segments = append(s.segments, segment{first: s.nextRecord})
	if len(s.segments) == 1 {
		s.done = position{Segment: s.nextRecord, Record: s.nextRecord}
	}
	return nil
}

// syncFolder makes the names of new files safe.
func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// report counts and reports what Write cannot return.
func (s *Spool) report(err error) {
	s.failures.Add(1)
	s.options.Failed(err)
}

// remove deletes a segment. If that fails, the next process sees that the segment is delivered, and tries again. The
// caller holds mu.
func (s *Spool) remove(gone segment) {
	if err := os.Remove(s.path(gone.first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.report(fmt.Errorf("remove a segment that was delivered: %w", err))
		return
	}
	s.bytes -= gone.size
}

// Stats returns the current state.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Failures = s.failures.Load()
	stats.Pending = int64(s.nextRecord - s.done.Record)
	stats.Bytes = s.bytes
	if stats.Pending > 0 {
		// After the clock was put back, a record can be from the future.
		stats.OldestAge = max(0, time.Duration(time.Now().UnixNano()-s.oldest))
	}
	return stats
}

// Close takes no more records, and delivers what is there until ctx ends. What is left stays on disk for the next
// process; the error says how much.
func (s *Spool) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	active := s.active
	s.mu.Unlock()

	var err error
	if active != nil {
		if err = active.Close(); errors.Is(err, fs.ErrClosed) {
			err = nil
		}
	}
	close(s.closing)
	select {
	case <-s.drained:
	case <-ctx.Done():
		s.stop()
		<-s.drained
	}
	s.stop()
	if left := s.Stats().Pending; left > 0 && err == nil {
		err = fmt.Errorf("%d records are not delivered yet; they stay in %s", left, s.options.Folder)
	}
	return errors.Join(err, s.marks.Close(), s.lock.Close())
}
