// Package spool keeps records on disk until a remote destination has taken them.
//
// A record that Write has taken survives a restart and a kill -9, and is delivered at least
// once, in order: what was under way when the process ended is delivered again. Records
// have a decisionId, by which a reader drops the second of two. When the spool is full,
// because the destination is away for long, new records are refused and
// counted. The old ones stay, since they were promised, and since the first records
// of an outage tell how it began.
//
// Why it is not a library for write-ahead logs says docs/adr/0013-own-spool.md.
package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
)

// MaxRecord bounds a record, in bytes. What is larger fits neither a line
// of `usher replay` nor most destinations.
const MaxRecord = 1 << 20

// Bounds of Options.MaxBytes.
const (
	MinBytes     = 8 << 20
	DefaultBytes = 256 << 20
)

// ErrFull is the error of Write when the spool holds as much as it may.
var ErrFull = errors.New("the spool is full")

// Refusal is what Options.Deliver returns for records that the destination will never
// take, however often it is asked. They are dropped, and counted.
type Refusal struct {
	// Refused is how many were refused while the others were taken. 0 means that all
	// were refused together: they are then offered one by one.
	Refused int
	Err     error
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Busy is what Options.Deliver returns when the destination says how long to wait.
type Busy struct {
	Wait time.Duration
	Err  error
}

func (b *Busy) Error() string { return b.Err.Error() }
func (b *Busy) Unwrap() error { return b.Err }

// Options configure a [Spool].
type Options struct {
	// Name is for people, such as blob.
	Name string
	// Folder holds the spool and nothing else. It is made if it is not there. Required.
	Folder string
	// MaxBytes bounds what is on disk; 0 means DefaultBytes. It is at least MinBytes.
	MaxBytes int64
	// Sync is when a record must be on the disk; empty means appender.Interval.
	Sync appender.Policy
	// Deliver hands records to the destination, and returns nil once it has them all. It
	// must not keep them. Errors other than a Refusal are tried again. Required.
	Deliver func(ctx context.Context, records [][]byte) error
	// BatchRecords and BatchBytes bound one delivery; 0 means 1000 and 1 MiB. A batch has a
	// record at least.
	BatchRecords int
	BatchBytes   int
	// Linger is how long records wait for others to be delivered with.
	Linger time.Duration
	// Timeout bounds one delivery; 0 means 30 s.
	Timeout time.Duration
	// MinBackoff and MaxBackoff are the waits after the first and after many
	// failures; 0 means 500 ms and 1 minute.
	MinBackoff, MaxBackoff time.Duration
	// Failed is told of each delivery that failed and each trouble with the
	// disk behind the back of Write. Nil for nobody. It must not call the spool.
	Failed func(error)
	// OpenFile opens segments to write; nil means appender.OpenFile. Tests make it fail.
	OpenFile appender.OpenFunc
}

// Stats tell how a spool does. Counts start with the process.
type Stats struct {
	Written   int64 // taken by Write
	Dropped   int64 // not taken: the spool was full, or the disk failed
	Delivered int64
	Refused   int64 // taken, and lost: the destination refused them for good
	Failures  int64 // deliveries that failed, and troubles with the disk
	Damaged   int64 // places in segments that could not be read, each a record or more
	Cut       int64 // 1 if the last process ended in the middle of a record that it had not promised

	Pending int64 // records not delivered yet, those of earlier processes too
	Bytes   int64 // on disk
	// OldestAge is how long the oldest pending record has waited, by the clock of the wall; 0 if
	// none is.
	OldestAge time.Duration
}

// segment is a file of frames.
type segment struct {
	first uint64 // the number of its first record, and its name
	size  int64  // up to the end of the last whole frame
}

// Spool is a queue on disk. Its methods may be called at the same time.
type Spool struct {
	options      Options
	segmentBytes int64
	lock         *flock.Flock
	marks        *os.File // the file of the position
	generation   uint64   // of the last slot written; for the drainer

	mu         sync.Mutex
	segments   []segment          // ascending; the first is where done points to
	active     *appender.Appender // of the last segment; nil if none is open
	done       position
	nextRecord uint64
	bytes      int64
	oldest     int64 // nanos of the oldest pending record, or a little before
	stats      Stats
	closed     bool
	buffer     []byte

	wake    chan struct{} // records are there, or the spool closes
	full    chan struct{} // a batch is full, so nothing is to be waited for
	closing chan struct{}
	stop    context.CancelFunc
	drained chan struct{}
}

// lockPatience is how long Open waits for another process to give the folder
// up: a handler whose host died lives for a second more.
const lockPatience = 5 * time.Second

// Open opens the spool in a folder and starts to deliver what is there. The error names
// the folder.
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
		// Eight at least, so that what is delivered frees space in good time, and
		// each with room for several records.
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
	s.lock = flock.New(filepath.Join(s.options.Folder, "lock"), flock.SetPermissions(0o600))
	patience, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	locked, err := s.lock.TryLockContext(patience, 50*time.Millisecond)
	switch {
	case errors.Is(err, context.DeadlineExceeded), err == nil && !locked:
		return errors.New("another process has it open; give each process a folder of its own")
	case err != nil:
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
	n, _ := s.marks.ReadAt(slots, 0) // what cannot be read is delivered again
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
	for _, entry := range entries {
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
	slices.SortFunc(s.segments, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	return nil
}

const segmentSuffix = ".segment"

func (s *Spool) path(first uint64) string {
	return filepath.Join(s.options.Folder, fmt.Sprintf("%020d", first)+segmentSuffix)
}

// recover brings position and segments together, and cuts off what the last
// process had begun to write.
func (s *Spool) recover() error {
	s.nextRecord = s.done.record
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
				s.trouble(fmt.Errorf("the end of a record could not be cut off: %w", err))
			}
			s.bytes -= last.size - end
			last.size = end
		}
		s.nextRecord = max(s.nextRecord, last.first+records)
		if records == 0 { // its name is free again
			s.remove(*last)
			s.segments = s.segments[:len(s.segments)-1]
		}
	}
	// Segments before the position were delivered. A position of which the segment is gone
	// points to what comes after it.
	for len(s.segments) > 0 && s.segments[0].first < s.done.segment {
		s.remove(s.segments[0])
		s.segments = s.segments[1:]
	}
	if len(s.segments) == 0 {
		s.done = position{segment: s.nextRecord, record: s.nextRecord}
		return nil
	}
	if s.done.segment != s.segments[0].first {
		s.done = position{segment: s.segments[0].first, record: s.segments[0].first}
	}
	s.done.offset = min(s.done.offset, s.segments[0].size)
	s.oldest = s.firstTime()
	s.signal(s.wake)
	return nil
}

// scan counts the whole frames, and tells where the last of them ends.
func scan(data []byte) (records uint64, end int64) {
	for at := 0; at < len(data); {
		f, state := readFrame(data[at:], MaxRecord)
		if state == whole {
			records++
			at += f.size
			end = int64(at)
			continue
		}
		at += nextMark(data[at:])
	}
	return records, end
}

// firstTime is when the oldest pending record was written.
func (s *Spool) firstTime() int64 {
	file, err := os.Open(s.path(s.done.segment))
	if err != nil {
		return time.Now().UnixNano()
	}
	defer file.Close()
	start := make([]byte, headerSize+MaxRecord)
	n, _ := file.ReadAt(start, s.done.offset)
	if f, state := readFrame(start[:n], MaxRecord); state == whole {
		return f.nanos
	}
	return time.Now().UnixNano()
}

// Name is the name of the destination.
func (s *Spool) Name() string { return s.options.Name }

// Write takes a record. When it returns nil, the record is as safe as the policy
// says, and will be delivered.
func (s *Spool) Write(record []byte) error {
	active, end, err := s.append(record)
	if err == nil {
		err = active.Commit(end)
		if err != nil {
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
	if err := s.roll(size, false); err != nil {
		return nil, 0, fmt.Errorf("write to the spool in %s: %w", s.options.Folder, err)
	}
	end, err := s.active.Append(s.buffer)
	if err != nil && s.nextRecord == s.done.record && s.active.Size() > 0 {
		// All of the segment is delivered: without it, a full disk may have room.
		if err = s.roll(size, true); err == nil {
			end, err = s.active.Append(s.buffer)
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("write to the spool in %s: %w", s.options.Folder, err)
	}
	s.segments[len(s.segments)-1].size = end
	s.bytes += size
	if s.nextRecord == s.done.record {
		s.oldest = now
	}
	s.nextRecord++
	s.signal(s.wake)
	if s.nextRecord-s.done.record >= uint64(s.options.BatchRecords) || s.bytes-s.done.offset >= int64(s.options.BatchBytes) {
		s.signal(s.full)
	}
	return s.active, end, nil
}

func (s *Spool) signal(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// roll makes sure that a segment is open that has room; with instead, another one than
// the last, which is delivered and goes.
func (s *Spool) roll(size int64, instead bool) error {
	if s.active != nil {
		if !instead && !s.active.Broken() && s.active.Size()+size <= s.segmentBytes {
			return nil
		}
		err := s.active.Close()
		s.active = nil
		if err != nil && !errors.Is(err, fs.ErrClosed) {
			s.trouble(fmt.Errorf("close a segment: %w", err))
		}
		if last := len(s.segments) - 1; instead || s.segments[last].size == 0 {
			// Of one that nothing was ever written to, the name is that of the next.
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
	s.active = appender.New(file, 0, s.options.Sync, s.lateTrouble)
	s.segments = append(s.segments, segment{first: s.nextRecord})
	if len(s.segments) == 1 {
		s.done = position{segment: s.nextRecord, record: s.nextRecord}
	}
	return nil
}

// syncFolder makes the name of a new file safe, too.
func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// trouble counts and tells what Write cannot return. The caller holds mu, or nobody
// else knows the spool yet.
func (s *Spool) trouble(err error) {
	s.stats.Failures++
	s.options.Failed(err)
}

func (s *Spool) lateTrouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble(fmt.Errorf("the spool in %s: %w", s.options.Folder, err))
}

// remove deletes a segment. One that cannot be deleted is found delivered by
// the next process, which tries again.
func (s *Spool) remove(gone segment) {
	if err := os.Remove(s.path(gone.first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.trouble(fmt.Errorf("remove a segment that was delivered: %w", err))
		return
	}
	s.bytes -= gone.size
}

// Stats returns the state of now.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Pending = int64(s.nextRecord - s.done.record)
	stats.Bytes = s.bytes
	if stats.Pending > 0 {
		// A clock that was put back makes nothing younger than new.
		stats.OldestAge = max(0, time.Duration(time.Now().UnixNano()-s.oldest))
	}
	return stats
}

// Close takes no more records, and delivers what is there until ctx ends. What is left
// stays on disk for the next process; the error tells how much.
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

// backoff is the wait after a number of failures in a row: it doubles, and half
// of it is chance, lest all instances come back at the same moment.
func (s *Spool) backoff(failures int) time.Duration {
	wait := s.options.MaxBackoff
	if failures < 20 {
		wait = min(wait, s.options.MinBackoff<<(failures-1))
	}
	return wait/2 + rand.N(wait/2+1)
}
