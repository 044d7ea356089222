package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"
)

// drain delivers until the spool is closed and empty, or ctx ends.
func (s *Spool) drain(ctx context.Context) {
	defer close(s.drained)
	failures, single := 0, 0 // single: how many records are still to be delivered one by one
	hurry := s.closing       // ends one wait after a failure, so that at the end everything is tried once more
	var head reader
	defer head.close()
	for ctx.Err() == nil {
		if !s.pending() {
			head.close() // a file that is removed uses space while it is open
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
		limit := s.options.BatchRecords
		if single > 0 {
			limit = 1
		} else if failures == 0 {
			s.linger(ctx)
		}
		b, err := s.read(&head, limit)
		if err == nil && len(b.records) > 0 {
			err = s.deliver(ctx, b.records)
		}
		refusal, refused := errors.AsType[*Refusal](err)
		switch {
		case err == nil:
			s.settle(b, 0)
			failures, single = 0, max(0, single-1)
		case refused && (refusal.Refused > 0 || len(b.records) == 1):
			s.report(fmt.Errorf("%s refused a record for good: %w", s.options.Name, err))
			s.settle(b, min(len(b.records), max(1, refusal.Refused)))
			failures, single = 0, max(0, single-1)
		case refused:
			single = len(b.records) // to find the one that is refused
		case ctx.Err() == nil:
			failures++
			s.report(fmt.Errorf("%s took no records: %w", s.options.Name, err))
			wait := s.backoff(failures)
			if busy, ok := errors.AsType[*Busy](err); ok {
				// At most a few minutes, whatever the destination asks for: the spool fills.
				wait = max(wait, min(busy.Wait, 5*time.Minute))
			}
			select {
			case <-time.After(wait):
			case <-hurry:
				hurry = nil
			case <-ctx.Done():
			}
		}
	}
}

func (s *Spool) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nextRecord > s.done.Record
}

// linger waits for more records, until the oldest has waited for as long as the options say.
func (s *Spool) linger(ctx context.Context) {
	s.mu.Lock()
	// After the clock was put back, it must not wait for longer.
	wait := s.options.Linger - max(0, time.Duration(time.Now().UnixNano()-s.oldest))
	if s.batchIsFull() {
		wait = 0
	}
	s.mu.Unlock()
	if wait <= 0 {
		return
	}
	select { // forget that an earlier batch was full
	case <-s.full:
	default:
	}
	select {
	case <-time.After(wait):
	case <-s.full:
	case <-s.closing:
	case <-ctx.Done():
	}
}

func (s *Spool) deliver(ctx context.Context, records [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	return s.options.Deliver(ctx, records)
}

// backoff is the wait after a number of failures in a row. It doubles each time, and half of it is random, so that not
// all instances come back at the same moment.
func (s *Spool) backoff(failures int) time.Duration {
	wait := s.options.MaxBackoff
	if failures < 20 {
		wait = min(wait, s.options.MinBackoff<<(failures-1))
	}
	return wait/2 + rand.N(wait/2+1)
}

// batch is what is delivered at once.
type batch struct {
	records [][]byte
	last    int64 // when the last of them was written, in nanoseconds
	damaged int64
	end     position // behind them
}

// reader keeps the segment that is being read, and memory.
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

// read returns records from the position on, all of one segment. There may be none, if what is there cannot be read.
func (s *Spool) read(r *reader, limit int) (batch, error) {
	s.mu.Lock()
	b := batch{end: s.done}
	size, next := s.segments[0].size, s.nextRecord
	if len(s.segments) > 1 {
		next = s.segments[1].first
	}
	s.mu.Unlock()

	if r.file == nil || r.first != b.end.Segment {
		r.close()
		file, err := os.Open(s.path(b.end.Segment))
		if errors.Is(err, fs.ErrNotExist) { // someone removed it
			b.damaged++
			b.end.Offset, b.end.Record = size, next
			return b, nil
		}
		if err != nil {
			return batch{}, err
		}
		r.file, r.first = file, b.end.Segment
	}
	window := min(size-b.end.Offset, int64(max(s.options.BatchBytes, headerSize+MaxRecord)))
	if int64(cap(r.data)) < window {
		r.data = make([]byte, window)
	}
	data := r.data[:window]
	n, err := r.file.ReadAt(data, b.end.Offset)
	if err != nil && err != io.EOF {
		return batch{}, err
	}
	atEnd := b.end.Offset+window == size || n < len(data) // a file that was cut off is also at its end
	data = data[:n]
	at, bytes := 0, 0
	for at < len(data) && len(b.records) < limit {
		f, state := readFrame(data[at:])
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
			s.setOldest(f.nanos)
		}
		b.last = f.nanos
		b.records = append(b.records, f.record)
		b.end.Record++
		at += f.size
	}
	b.end.Offset += int64(at)
	if at == len(data) && atEnd {
		b.end.Offset, b.end.Record = size, next // whatever was damaged in between
	}
	return b, nil
}

func (s *Spool) setOldest(nanos int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = nanos
}

// settle notes that a batch was delivered, except those refused, and removes the segment if that was the end of it.
func (s *Spool) settle(b batch, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Delivered += int64(len(b.records) - refused)
	s.stats.Refused += int64(refused)
	if b.damaged > 0 {
		s.stats.Damaged += b.damaged
		s.report(fmt.Errorf("the spool in %s: %d damaged places in segment %d were skipped", s.options.Folder, b.damaged, b.end.Segment))
	}
	s.done = b.end
	if b.last != 0 {
		s.oldest = b.last // the next is no older
	}
	if len(s.segments) > 1 && s.done.Offset >= s.segments[0].size {
		s.remove(s.segments[0])
		s.segments = s.segments[1:]
		s.done = position{Segment: s.segments[0].first, Record: s.segments[0].first}
	}
	s.generation++
	if _, err := s.marks.WriteAt(encodeSlot(s.generation, s.done), int64(s.generation%2)*slotSize); err != nil {
		s.report(fmt.Errorf("the spool in %s: the position could not be noted, so records may be delivered again: %w", s.options.Folder, err))
	}
}
