package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// drain delivers until the spool is closed and empty, or ctx ends.
func (s *Spool) drain(ctx context.Context) {
	defer close(s.drained)
	failures, alone := 0, 0 // alone: how many records are still to be offered one by one
	hurry := (<-chan struct{})(s.closing)
	var head reader
	defer head.close()
	for ctx.Err() == nil {
		if !s.pending() {
			head.close() // a file that is removed takes room until then
			select {
			case <-s.closing:
				if !s.pending() {
					return
				}
			case <-s.wake:
			case <-ctx.Done():
			}
			continue
		}
		if alone == 0 && failures == 0 {
			s.linger(ctx)
		}
		limit := s.options.BatchRecords
		if alone > 0 {
			limit = 1
		}
		b, err := s.read(&head, limit)
		if err == nil && len(b.records) > 0 {
			s.starts(b)
			err = s.deliver(ctx, b.records)
		}
		wait := time.Duration(0)
		refusal, refused := errors.AsType[*Refusal](err)
		switch {
		case err == nil:
			s.settle(b, 0)
			failures, alone = 0, max(0, alone-1)
		case refused && (refusal.Refused > 0 || len(b.records) == 1):
			s.failed(fmt.Errorf("%s refused a record for good: %w", s.options.Name, err))
			s.settle(b, min(len(b.records), max(1, refusal.Refused)))
			failures, alone = 0, max(0, alone-1)
		case refused:
			alone = len(b.records) // which of them is it?
		case ctx.Err() != nil:
			return
		default:
			failures++
			s.failed(fmt.Errorf("%s took no records: %w", s.options.Name, err))
			wait = s.backoff(failures)
			if busy, ok := errors.AsType[*Busy](err); ok {
				// No longer than a few minutes, whatever the destination says: the spool fills.
				wait = max(wait, min(busy.Wait, 5*time.Minute))
			}
		}
		if wait > 0 {
			s.sleep(ctx, wait, &hurry)
		}
	}
}

func (s *Spool) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nextRecord > s.done.record
}

// linger lets more records come, for as long as the options say since the first.
func (s *Spool) linger(ctx context.Context) {
	if s.options.Linger <= 0 {
		return
	}
	s.mu.Lock()
	waited := time.Duration(time.Now().UnixNano() - s.oldest)
	enough := s.nextRecord-s.done.record >= uint64(s.options.BatchRecords) || s.bytes-s.done.offset >= int64(s.options.BatchBytes)
	s.mu.Unlock()
	if enough || waited >= s.options.Linger {
		return
	}
	// A clock that was put back must not make it wait for longer.
	timer := time.NewTimer(s.options.Linger - max(0, waited))
	defer timer.Stop()
	select { // forget that an earlier batch was full
	case <-s.full:
	default:
	}
	select {
	case <-timer.C:
	case <-s.full:
	case <-s.closing:
	case <-ctx.Done():
	}
}

// sleep waits after a failure. Once, closing cuts that short: what can be delivered
// then should be.
func (s *Spool) sleep(ctx context.Context, wait time.Duration, closing *<-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-*closing:
		*closing = nil
	case <-ctx.Done():
	}
}

func (s *Spool) deliver(ctx context.Context, records [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	return s.options.Deliver(ctx, records)
}

func (s *Spool) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble(err)
}

// batch is what is delivered at once.
type batch struct {
	records [][]byte
	nanos   int64 // when the first of them was written
	last    int64 // and the last
	damaged int64
	end     position // behind them
}

// reader holds the segment that is being read, and memory.
type reader struct {
	file  *os.File
	first uint64
	data  []byte
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// read returns records from the position on, all of one segment; perhaps none, if what is
// there cannot be read.
func (s *Spool) read(r *reader, limit int) (batch, error) {
	s.mu.Lock()
	b := batch{end: s.done}
	size, sealed := s.segments[0].size, len(s.segments) > 1
	next := s.nextRecord
	if sealed {
		next = s.segments[1].first
	}
	s.mu.Unlock()

	if r.file == nil || r.first != b.end.segment {
		r.close()
		file, err := os.Open(s.path(b.end.segment))
		if errors.Is(err, fs.ErrNotExist) { // somebody took it away
			b.damaged++
			b.end.offset, b.end.record = size, next
			return b, nil
		}
		if err != nil {
			return batch{}, err
		}
		r.file, r.first = file, b.end.segment
	}
	window := min(size-b.end.offset, int64(max(s.options.BatchBytes, headerSize+MaxRecord)))
	if int64(cap(r.data)) < window {
		r.data = make([]byte, window)
	}
	data := r.data[:window]
	n, err := r.file.ReadAt(data, b.end.offset)
	if err != nil && err != io.EOF {
		return batch{}, err
	}
	atEnd := b.end.offset+window == size || n < len(data) // a file that somebody cut is at its end, too
	data = data[:n]
	at, bytes := 0, 0
	for at < len(data) && len(b.records) < limit {
		f, state := readFrame(data[at:], MaxRecord)
		if state == short && !atEnd && at > 0 {
			break // the rest of it comes with the next batch
		}
		if state != whole {
			b.damaged++
			at += nextMark(data[at:])
			continue
		}
		if bytes += len(f.record) + 1; bytes > s.options.BatchBytes && len(b.records) > 0 {
			break
		}
		if len(b.records) == 0 {
			b.nanos = f.nanos
		}
		b.last = f.nanos
		b.records = append(b.records, f.record)
		b.end.record++
		at += f.size
	}
	b.end.offset += int64(at)
	if at == len(data) && atEnd {
		b.end.offset, b.end.record = size, next // whatever was damaged in between
	}
	return b, nil
}

func (s *Spool) starts(b batch) {
	s.mu.Lock()
	s.oldest = b.nanos
	s.mu.Unlock()
}

// settle notes that a batch is delivered, but for those refused, and removes the segment
// if that was its last.
func (s *Spool) settle(b batch, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Delivered += int64(len(b.records) - refused)
	s.stats.Refused += int64(refused)
	if b.damaged > 0 {
		s.stats.Damaged += b.damaged
		s.trouble(fmt.Errorf("the spool in %s: %d damaged places in segment %d were passed over", s.options.Folder, b.damaged, b.end.segment))
	}
	s.done = b.end
	if b.last != 0 {
		s.oldest = b.last // the next is no older
	}
	if len(s.segments) > 1 && s.done.offset >= s.segments[0].size {
		s.remove(s.segments[0])
		s.segments = s.segments[1:]
		s.done = position{segment: s.segments[0].first, record: s.segments[0].first}
	}
	s.generation++
	if _, err := s.marks.WriteAt(encodeSlot(s.generation, s.done), int64(s.generation%2)*slotSize); err != nil {
		s.trouble(fmt.Errorf("the spool in %s: what was delivered could not be noted, and may be delivered again: %w", s.options.Folder, err))
	}
}
