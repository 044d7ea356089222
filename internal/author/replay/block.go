package replay

import (
	"bytes"
	"errors"
	"io"
)

const (
	// blockSize is how much of a log is handed to a worker at once: some sixty
	// requests, so that handing over costs nothing beside deciding.
	blockSize = 128 << 10
	// maxLine bounds a line in bytes. A request stays below 256 KiB, which is what
	// the webhook reads; a record adds a decision with a twin of 40 KB.
	maxLine = 1 << 20
)

// block is a run of whole lines of one log.
type block struct {
	data []byte
	// first is the number of the first line, from 1.
	first int
	// whole is set where data is one document over several lines.
	whole bool
	// tooLong is set in place of data for a line beyond maxLine.
	tooLong bool
}

// blocks cuts a log at ends of lines. It never holds more than one line beyond
// the block that it fills, and no line beyond maxLine.
type blocks struct {
	in    io.Reader
	carry []byte // what is read, and in no block yet
	next  int    // the number of the line that carry starts
	begun bool   // a line that is not blank was seen
	err   error  // what ended the log, io.EOF or worse
}

func newBlocks(in io.Reader) *blocks { return &blocks{in: in, next: 1} }

// read returns the next block, in buf or what it grew to. The error is io.EOF
// after the last block, or what the log could not be read for; a line that this
// cuts off is dropped.
func (b *blocks) read(buf []byte) (block, error) {
	buf = append(buf[:0], b.carry...)
	b.carry = b.carry[:0]
	for searched := 0; ; {
		end := bytes.LastIndexByte(buf[searched:], '\n') + searched + 1
		switch {
		case end > searched && b.startsDocument(buf[:end]):
			return b.document(buf)
		case end > searched:
			b.carry = append(b.carry, buf[end:]...)
			return b.block(buf[:end]), nil
		case b.err == io.EOF && len(buf) > 0:
			return b.block(buf), nil
		case b.err != nil:
			return block{data: buf[:0]}, b.err
		case len(buf) > maxLine:
			return b.skip(buf)
		}
		searched = len(buf)
		buf = b.fill(buf)
	}
}

// fill reads once behind what buf holds.
func (b *blocks) fill(buf []byte) []byte {
	if cap(buf)-len(buf) < blockSize/2 {
		grown := make([]byte, len(buf), max(blockSize, 2*cap(buf)))
		copy(grown, buf)
		buf = grown
	}
	const patience = 100 // as in bufio
	for range patience {
		n, err := b.in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if b.err = err; n > 0 || err != nil {
			return buf
		}
	}
	b.err = io.ErrNoProgress
	return buf
}

func (b *blocks) block(data []byte) block {
	first := b.next
	b.next += bytes.Count(data, []byte{'\n'})
	if first == 1 {
		// A mark that some editors and shells begin a file with.
		data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	}
	b.begun = b.begun || len(bytes.TrimSpace(data)) > 0
	return block{data: data, first: first}
}

// startsDocument reports whether a log begins with a line that holds an opening
// brace alone: such a file is one request, written for people.
func (b *blocks) startsDocument(data []byte) bool {
	if b.begun {
		return false
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))), []byte{'\n'})
	return string(bytes.TrimSpace(line)) == "{"
}

// document reads the rest of a log as one document.
func (b *blocks) document(buf []byte) (block, error) {
	for b.err == nil && len(buf) <= maxLine {
		buf = b.fill(buf)
	}
	if len(buf) > maxLine {
		b.err = errors.New("the first line holds an opening brace alone, so the file is taken for one request, and it is too long for one: write one object to a line, as `jq -c .` does")
		return block{data: buf[:0]}, b.err
	}
	if b.err != io.EOF {
		return block{data: buf[:0]}, b.err
	}
	document := b.block(buf)
	document.whole = true
	return document, nil
}

// skip passes over a line beyond maxLine.
func (b *blocks) skip(buf []byte) (block, error) {
	long := block{data: buf[:0], first: b.next, tooLong: true}
	b.begun = true
	for b.err == nil {
		buf = b.fill(buf[:0])
		if end := bytes.IndexByte(buf, '\n'); end >= 0 {
			b.carry = append(b.carry, buf[end+1:]...)
			b.next++
			return long, nil
		}
	}
	if b.err != io.EOF {
		return block{data: buf[:0]}, b.err
	}
	return long, nil
}
