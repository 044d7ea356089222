package requestlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// blockSize is how much of a log a [Block] holds: about sixty requests, so that handing it to another goroutine
	// costs little compared with deciding them.
	blockSize = 128 << 10
	// maxEntry bounds an entry of a log in bytes. A record has up to 1 MiB, and more in another log, which escapes it.
	maxEntry = 4 << 20
)

// Block is a piece of a log: whole lines, or rows of an export with one on each line.
type Block struct {
	data  []byte
	log   string
	first int // number of the first line or row, from 1
	form  form
}

// form says what a block holds.
type form int

const (
	lines    form = iota
	fields        // lines of a CSV file
	document      // one or more JSON texts over several lines
	rows
	oversized // nothing, in place of a line that is too long
)

// Reader cuts a log into blocks. It holds no more than a block and an entry at a time.
type Reader struct {
	in    io.Reader
	close func()
	name  string
	carry []byte // what was read, and is in no block yet
	line  int    // number of the line at the start of carry
	row   int    // how many rows were read
	plain int    // how many bytes of carry are known to hold no JSON text over several lines
	begun bool   // its format was recognized
	csv   bool
	table *table // the array or table that is being read, if any
	err   error  // what ended the log; io.EOF at its end
}

// Reader starts to read the log. It adds to read, unless that is nil, how many bytes as stored it has read, and stops
// when ctx ends.
func (l Log) Reader(ctx context.Context, read *atomic.Int64) (*Reader, error) {
	in, closeAll, err := l.open(ctx, read)
	if err != nil {
		return nil, err
	}
	return &Reader{in: in, close: closeAll, name: l.Name, line: max(l.FirstLine, 1)}, nil
}

// Close closes the log.
func (r *Reader) Close() { r.close() }

// Next reads the next block, into the memory of b. The error is io.EOF after the last block, or why the log cannot be
// read on; b is then empty, and names the place.
func (r *Reader) Next(b *Block) error {
	buf := append(b.data[:0], r.carry...)
	r.carry = r.carry[:0]
	for r.table == nil {
		end := bytes.LastIndexByte(buf, '\n') + 1 // of whole lines
		if r.err == io.EOF {
			end = len(buf)
		}
		at := -1
		switch {
		case end == 0 || r.begun:
			at = r.findDocument(buf, end)
		case r.begin(buf[:end]) || r.err != nil:
			r.begun = true
			continue
		default:
			end = 0 // it takes more to recognize the format
		}
		switch {
		case at == 0:
			var err error
			if buf, end, err = r.readDocument(buf); err != nil {
				return r.fail(b, buf, err)
			}
			if end > 0 {
				return r.hand(b, buf, end, document)
			}
			continue // with rows, or with lines
		case at > 0:
			return r.hand(b, buf, at, lines)
		case end > 0:
			return r.hand(b, buf, end, lines)
		case r.err != nil:
			return r.fail(b, buf, r.err)
		case len(buf) > maxEntry:
			return r.skip(b, buf)
		}
		buf = r.fill(buf)
	}
	return r.nextRows(b, buf)
}

// fill reads once more after what buf holds.
func (r *Reader) fill(buf []byte) []byte {
	if cap(buf)-len(buf) < blockSize/2 {
		grown := make([]byte, len(buf), max(blockSize, 2*cap(buf)))
		copy(grown, buf)
		buf = grown
	}
	const attempts = 100 // as in bufio
	for range attempts {
		n, err := r.in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if r.err = err; n > 0 || err != nil {
			return buf
		}
	}
	r.err = io.ErrNoProgress
	return buf
}

// hand makes the first bytes of buf a block, and keeps the rest.
func (r *Reader) hand(b *Block, buf []byte, end int, f form) error {
	*b = Block{data: buf[:end], log: r.name, first: r.line, form: f}
	switch {
	case r.csv:
		b.form = fields
	case f == document && !bytes.Contains(bytes.TrimSpace(b.data), []byte{'\n'}):
		b.form = lines
	}
	r.carry = append(r.carry, buf[end:]...)
	r.line += bytes.Count(b.data, []byte{'\n'})
	r.plain = max(0, r.plain-end)
	return nil
}

func (r *Reader) fail(b *Block, buf []byte, err error) error {
	r.err = err
	*b = Block{data: buf[:0], log: r.name, first: r.line}
	return err
}

// skip passes over a line that is too long.
func (r *Reader) skip(b *Block, buf []byte) error {
	first, end := r.line, -1
	for end < 0 && r.err == nil {
		buf = r.fill(buf[:0])
		end = bytes.IndexByte(buf, '\n')
	}
	if end >= 0 {
		r.carry = append(r.carry, buf[end+1:]...)
		r.line++
	} else if r.err != io.EOF {
		return r.fail(b, buf, r.err)
	}
	*b = Block{data: buf[:0], log: r.name, first: first, form: oversized}
	return nil
}

// begin looks at the first two lines of a log for the format. It reports whether there are enough of them. JSON in a
// CSV file has two quotation marks for one.
func (r *Reader) begin(lines []byte) bool {
	header, rest, _ := bytes.Cut(bytes.TrimSpace(lines), []byte{'\n'})
	row, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte{'\n'})
	if bytes.Contains(header, []byte{'{'}) || bytes.HasPrefix(header, []byte{'['}) {
		return true
	}
	r.csv = bytes.Contains(row, []byte(`{""`))
	return len(row) > 0 || len(lines) > maxEntry
}

// findDocument returns where in the whole lines of buf, those before end, a JSON text starts that goes on in the next
// line or holds rows; -1 if none does. If there is no whole line, it looks at the start of one.
func (r *Reader) findDocument(buf []byte, end int) int {
	for at := 0; !r.csv && (at < end || at == 0); {
		line, _, _ := bytes.Cut(buf[at:], []byte{'\n'})
		if at >= r.plain && startsDocument(bytes.TrimSpace(line), end > 0) {
			return at
		}
		at += len(line) + 1
	}
	return -1
}

// startsDocument reports whether a line, or the start of one, begins an array of objects, a table, or an object that it
// does not end.
func startsDocument(line []byte, whole bool) bool {
	if len(line) == 0 {
		return false
	}
	rest := bytes.TrimLeft(line[1:], " \t")
	switch line[0] {
	case '[':
		return whole && len(rest) == 0 || len(rest) > 0 && (rest[0] == '{' || rest[0] == ']')
	case '{':
		return whole && line[len(line)-1] != '}' || bytes.HasPrefix(rest, []byte(`"tables"`))
	}
	return false
}

// readDocument reads the JSON text at the start of buf, which grows as needed, to the end of a line. It returns where
// that is. Zero means that the text is not valid JSON, or that it is an array or a table and r reads rows from now on.
func (r *Reader) readDocument(buf []byte) ([]byte, int, error) {
	source := &source{Reader: r, buf: buf}
	decoder := jsontext.NewDecoder(source, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	token, err := decoder.ReadToken()
	if err == nil {
		switch token.Kind() {
		case '[':
			if k := decoder.PeekKind(); k == '{' || k == ']' {
				return source.readRows(decoder, 1), 0, nil
			}
		case '{':
			if token, err = decoder.ReadToken(); err == nil && token.Kind() == '"' && token.String() == "tables" && decoder.PeekKind() == '[' {
				return source.readRows(decoder, 0), 0, nil
			}
		}
	}
	for err == nil && decoder.StackDepth() > 0 {
		_, err = decoder.ReadToken()
	}
	for err == nil {
		end := int(decoder.InputOffset())
		newline := bytes.IndexByte(source.buf[end:], '\n')
		for newline < 0 && r.err == nil && len(source.buf) <= maxEntry {
			source.buf = r.fill(source.buf)
			newline = bytes.IndexByte(source.buf[end:], '\n')
		}
		rest := source.buf[end:]
		if newline >= 0 {
			rest = rest[:newline+1]
		}
		if bytes.HasPrefix(bytes.TrimLeft(rest, " \t\r"), []byte{'{'}) {
			_, err = decoder.ReadValue() // another text starts on the line
			continue
		}
		return source.buf, end + len(rest), nil
	}
	if errors.Is(err, errTooLong) {
		return source.buf, 0, fmt.Errorf("the JSON text that starts here is %w: write one object to a line, as `jq -c .` does", errTooLong)
	}
	r.plain = max(1, int(decoder.InputOffset()))
	return source.buf, 0, nil
}

var errTooLong = fmt.Errorf("longer than %d MiB", maxEntry>>20)

// source gives a decoder what a buffer holds, and then what it reads. Until rows are read it keeps all of it.
type source struct {
	*Reader
	buf  []byte
	next int // what of buf is given away
	// For rows: how much may still be read for a row, and how many lines were read.
	rows bool
	left int
	seen int
}

func (s *source) Read(p []byte) (int, error) {
	if s.next == len(s.buf) {
		switch {
		case s.rows && s.left <= 0, !s.rows && len(s.buf) > maxEntry:
			return 0, errTooLong
		case s.Reader.err != nil:
			return 0, s.Reader.err
		case s.rows:
			s.buf, s.next = s.buf[:0], 0
		}
		s.buf = s.fill(s.buf)
	}
	n := copy(p, s.buf[s.next:])
	if s.rows {
		s.left -= n
		s.seen += bytes.Count(p[:n], []byte{'\n'})
	}
	s.next += n
	if n == 0 {
		return 0, s.Reader.err
	}
	return n, nil
}

// readRows makes the reader read rows from now on. It returns the buffer that is free then.
func (s *source) readRows(decoder *jsontext.Decoder, rowDepth int) []byte {
	buf := s.buf
	s.rows, s.seen = true, bytes.Count(buf[:s.next], []byte{'\n'})
	s.buf, s.next = bytes.Clone(buf[s.next:]), 0
	s.table = &table{decoder: decoder, source: s, rowDepth: rowDepth}
	return buf
}

// table reads the elements of an array, or the rows of all tables in a query's result.
type table struct {
	decoder  *jsontext.Decoder
	source   *source
	rowDepth int // depth of the array that holds the rows; 0 before it is reached
	err      error
}

// next returns the next row; nil after the last one.
func (t *table) next() (jsontext.Value, error) {
	t.source.left = maxEntry
	for t.decoder.StackDepth() > 0 {
		if t.decoder.StackDepth() == t.rowDepth && t.decoder.PeekKind() != ']' {
			return t.decoder.ReadValue()
		}
		token, err := t.decoder.ReadToken()
		if err == nil && token.Kind() == '"' { // the name of a member, since values are skipped
			if token.String() == "rows" && t.decoder.PeekKind() == '[' {
				_, err = t.decoder.ReadToken()
				t.rowDepth = t.decoder.StackDepth()
			} else {
				err = t.decoder.SkipValue()
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// nextRows fills a block with rows. After the last row it goes back to lines.
func (r *Reader) nextRows(b *Block, buf []byte) error {
	t := r.table
	*b = Block{data: buf[:0], log: r.name, first: r.row + 1, form: rows}
	for len(b.data) < blockSize && t.err == nil {
		var row jsontext.Value
		if row, t.err = t.next(); t.err != nil {
			break
		}
		if row == nil {
			unread := t.decoder.UnreadBuffer()
			r.line += t.source.seen - bytes.Count(unread, []byte{'\n'})
			r.carry = append(append(r.carry, unread...), t.source.buf[t.source.next:]...)
			r.table = nil
			return nil
		}
		r.row++
		at := len(b.data)
		b.data = append(append(b.data, row...), '\n')
		for i, c := range b.data[at : len(b.data)-1] {
			if c == '\n' || c == '\r' {
				b.data[at+i] = ' ' // between tokens: a row has one line
			}
		}
	}
	if len(b.data) == 0 {
		if syntax, ok := errors.AsType[*jsontext.SyntacticError](t.err); ok {
			t.err = fmt.Errorf("not valid JSON at byte %d: %w", syntax.ByteOffset, syntax.Err)
		}
		return fmt.Errorf("the array or table cannot be read on: %w", t.err)
	}
	return nil
}
