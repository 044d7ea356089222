package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/internal/author/requestlog"
)

// Source is where registrations come from.
type Source interface {
	// Name starts the name of each place in it.
	Name() string
	// More returns what it got since the last call; false if that is nothing. The log is read, once, before the next
	// call.
	More(ctx context.Context) (requestlog.Log, bool, error)
	// Missing counts the entries that it no longer had when they were to be read.
	Missing() uint64
	io.Closer
}

// File is a log in a file. Others may write more to it, or rename it and begin another one. What is compressed, and what
// is no file that can grow, such as a pipe, is read once.
type File struct {
	path string
	file *os.File
	at   int64 // what is before was read
	line int   // number of the line there, from 1
	once bool  // all of it was read, and more makes no sense
}

// OpenFile opens a log. It fails if there is no such file, or if it is a folder.
func OpenFile(path string) (*File, error) {
	if _, err := requestlog.File(path); err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	return &File{path: path, file: file, line: 1}, err
}

// Name implements [Source].
func (f *File) Name() string { return f.path }

// Missing implements [Source]: a file keeps all.
func (f *File) Missing() uint64 { return 0 }

// Close implements [Source].
func (f *File) Close() error { return f.file.Close() }

// More implements [Source].
func (f *File) More(context.Context) (requestlog.Log, bool, error) {
	for {
		// Checked before reading: what was written before the renaming is read before the next file.
		replaced := f.replaced()
		log, more, err := f.rest(replaced)
		if more || err != nil || !replaced {
			return log, more, err
		}
		next, err := os.Open(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			return requestlog.Log{}, false, nil // not yet
		}
		if err != nil {
			return requestlog.Log{}, false, err
		}
		f.file.Close()
		*f = File{path: f.path, file: next, line: 1}
	}
}

// replaced reports whether another file is at the path, or this one was cut and starts again.
func (f *File) replaced() bool {
	there, err := os.Stat(f.path)
	if err != nil {
		return false // not yet
	}
	open, err := f.file.Stat()
	return err == nil && open.Mode().IsRegular() && (!os.SameFile(there, open) || there.Size() < f.at)
}

// rest returns what comes after f.at: whole lines, and the last one as well if no one writes to it any more.
func (f *File) rest(ended bool) (requestlog.Log, bool, error) {
	info, err := f.file.Stat()
	if err != nil || f.once || info.Mode().IsRegular() && info.Size() <= f.at {
		return requestlog.Log{}, false, err
	}
	log := requestlog.Log{Name: f.path, FirstLine: f.line}
	if !info.Mode().IsRegular() {
		f.once = true
		log.Open = func() (io.ReadCloser, error) { return io.NopCloser(f.file), nil }
		return log, true, nil
	}
	start := make([]byte, 4)
	if n, _ := f.file.ReadAt(start, 0); f.at == 0 && isOpaque(start[:n]) {
		f.once = true
	}
	from, end := f.at, info.Size()
	if !f.once {
		lines, last, err := f.wholeLines(end)
		if err != nil {
			return requestlog.Log{}, false, err
		}
		// A log need not end with a line break. A line that is not complete comes later; one of another kind than the
		// objects that are logged is the end of a text over several lines.
		trimmed := bytes.TrimSpace(last)
		complete := jsontext.Value(trimmed).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if !ended && !complete && (f.at > 0 || bytes.HasPrefix(trimmed, []byte{'{'})) {
			end -= int64(len(last))
		}
		f.line += lines
	}
	if f.at = end; end == from {
		return requestlog.Log{}, false, nil
	}
	section := io.NewSectionReader(f.file, from, end-from)
	log.Size = section.Size()
	log.Open = func() (io.ReadCloser, error) { return io.NopCloser(section), nil }
	return log, true, nil
}

// isOpaque reports whether a file that starts like this is compressed or in UTF-16.
func isOpaque(start []byte) bool {
	for _, mark := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(start, []byte(mark)) {
			return true
		}
	}
	return len(start) == 4 && start[0]&0xf0 == 0x50 && bytes.Equal(start[1:], []byte("\x2a\x4d\x18"))
}

// maxLast bounds how much of a line without an end is looked at.
const maxLast = 4 << 20

// wholeLines counts the line breaks from f.at to end, and returns what comes after the last one.
func (f *File) wholeLines(end int64) (lines int, last []byte, err error) {
	section := io.NewSectionReader(f.file, f.at, end-f.at)
	block := make([]byte, 256<<10)
	for {
		n, err := section.Read(block)
		if newline := bytes.LastIndexByte(block[:n], '\n'); newline >= 0 {
			lines += bytes.Count(block[:n], []byte{'\n'})
			last = append(last[:0], block[newline+1:n]...)
		} else if last = append(last, block[:n]...); len(last) > maxLast {
			return lines, nil, nil // it is too long for a registration, however it goes on
		}
		if err == io.EOF {
			return lines, last, nil
		}
		if err != nil {
			return lines, last, err
		}
	}
}

// Journal is the journal of a usher dps that runs. That keeps only the newest entries in memory.
type Journal struct {
	name string
	get  func(ctx context.Context, path string) ([]byte, error)
	// last is the ID of the last entry that was read.
	last    uint64
	missing uint64
}

// NewJournal returns the journal that get reads, given the path and query of a management endpoint.
func NewJournal(name string, get func(ctx context.Context, path string) ([]byte, error)) *Journal {
	return &Journal{name: name, get: get}
}

// Name implements [Source].
func (j *Journal) Name() string { return j.name }

// Missing implements [Source].
func (j *Journal) Missing() uint64 { return j.missing }

// Close implements [Source].
func (j *Journal) Close() error { return nil }

// pageSize is how many entries of a journal are asked for at once.
const pageSize = 1000

// More implements [Source].
func (j *Journal) More(ctx context.Context) (requestlog.Log, bool, error) {
	text, err := j.get(ctx, fmt.Sprintf("/_/journal?after=%d&limit=%d", j.last, pageSize))
	if err != nil {
		return requestlog.Log{}, false, err
	}
	var page struct {
		Entries []json.RawMessage `json:"entries"`
		Next    uint64            `json:"next"`
		Oldest  uint64            `json:"oldest"`
		Last    uint64            `json:"last"`
	}
	if err := json.Unmarshal(text, &page); err != nil {
		return requestlog.Log{}, false, fmt.Errorf("the journal is not what usher dps writes: %w", err)
	}
	if page.Last < j.last { // another one runs there now
		j.last = 0
		return j.More(ctx)
	}
	if len(page.Entries) == 0 {
		return requestlog.Log{}, false, nil
	}
	var lines bytes.Buffer
	for _, entry := range page.Entries {
		if err := json.Compact(&lines, entry); err != nil {
			return requestlog.Log{}, false, err
		}
		lines.WriteByte('\n')
	}
	if after := j.last + 1; page.Oldest > after {
		j.missing += page.Oldest - after
	}
	first := page.Next - uint64(len(page.Entries)) + 1 // IDs have no gaps, so that a line has the number of its entry
	j.last = page.Next
	return requestlog.Log{Name: j.name, Size: int64(lines.Len()), FirstLine: int(first),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(&lines), nil }}, true, nil
}
