// Package requestlog reads AllocationRequests from whatever they are kept in.
//
// A log holds JSON texts, one after the other:
//
//   - an AllocationRequest,
//   - an exchange, which is an object with an AllocationRequest as its member request and perhaps what was decided for
//     it as its member decision,
//   - a decision record (see package decisionlog),
//   - an entry of the journal of `usher dps`, of which the first call of a webhook for a registration counts,
//   - an array of any of these, or a table that Log Analytics or Application Insights answers a query with.
//
// Any of them can also stand in a member of another object, as text or not, behind other text on a line, or in a field
// of a CSV file. Logs can be compressed with gzip or zstd, and be in UTF-16 with a byte order mark; their first bytes
// say so, whatever the name of the file.
package requestlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// Log is a place that requests are read from.
type Log struct {
	// Name starts the name of each place in the log.
	Name string
	// Size is in bytes, as stored; 0 if it is unknown.
	Size int64
	// Open returns the bytes as stored.
	Open func() (io.ReadCloser, error)
	// FirstLine is the number of the first line; 0 means 1.
	FirstLine int
}

// File returns the log in a file. It fails if there is no such file, or if it is a folder.
func File(path string) (Log, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Log{}, err
	}
	if info.IsDir() {
		return Log{}, fmt.Errorf("%s is a folder: name the files in it, as %s/*.ndjson does", path, path)
	}
	log := Log{Name: path, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
	if info.Mode().IsRegular() {
		log.Size = info.Size()
	}
	return log, nil
}

// Stream returns the log that is read from r, once.
func Stream(name string, r io.Reader) Log {
	return Log{Name: name, Open: func() (io.ReadCloser, error) { return io.NopCloser(r), nil }}
}

// extensions are those of the files that [Files] finds in folders, also with .gz or .zst after them.
var extensions = []string{".ndjson", ".jsonl", ".json", ".log", ".csv"}

// IsLog reports whether a file in a folder is a log, by the end of its name.
func IsLog(name string) bool {
	base := strings.TrimSuffix(strings.TrimSuffix(name, ".gz"), ".zst")
	return slices.Contains(extensions, path.Ext(base))
}

// Extensions lists for people how the names of logs in folders end.
func Extensions() string {
	last := len(extensions) - 1
	return strings.Join(extensions[:last], ", ") + " or " + extensions[last]
}

// Files returns the logs that a path stands for: the file, or those in the folder and below it, in the order of their
// names.
func Files(folder string) ([]Log, error) {
	var logs []Log
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if name != folder && !IsLog(entry.Name()) {
			return nil
		}
		log, err := File(name)
		logs = append(logs, log)
		return err
	})
	if err == nil && len(logs) == 0 {
		err = fmt.Errorf("%s contains no file whose name ends in %s", folder, Extensions())
	}
	return logs, err
}

// maxWindow bounds the memory of a zstd decoder: the most that `zstd --ultra` uses without --long.
const maxWindow = 128 << 20

// open returns the text of the log and what closes it. The reader counts the bytes as stored in read, unless that is
// nil, and fails when ctx ends.
func (l Log) open(ctx context.Context, read *atomic.Int64) (io.Reader, func(), error) {
	file, err := l.Open()
	if err != nil {
		return nil, nil, err
	}
	text, closeText, err := decompress(bufio.NewReaderSize(&counted{ctx, file, read}, blockSize))
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	closeAll := func() { closeText(); file.Close() }
	start, _ := text.Peek(3)
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(start, []byte(mark)) {
			return transform.NewReader(text, unicode.BOMOverride(transform.Nop)), closeAll, nil
		}
	}
	return text, closeAll, nil
}

func decompress(stored *bufio.Reader) (*bufio.Reader, func(), error) {
	start, err := stored.Peek(4)
	if err != nil && err != io.EOF && len(start) < 4 {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		unzipped, err := gzip.NewReader(stored)
		if err != nil {
			return nil, nil, fmt.Errorf("gzip: %w", err)
		}
		return bufio.NewReaderSize(named{"gzip", unzipped}, blockSize), func() { unzipped.Close() }, nil
	case isZstd(start):
		unpacked, err := zstd.NewReader(stored, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, fmt.Errorf("zstd: %w", err)
		}
		return bufio.NewReaderSize(named{"zstd", unpacked}, blockSize), unpacked.Close, nil
	}
	return stored, func() {}, nil
}

// isZstd recognizes a frame, and a skippable frame, which some writers start with.
func isZstd(start []byte) bool {
	return bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(start) == 4 && start[0]&0xf0 == 0x50 && bytes.Equal(start[1:], []byte{0x2a, 0x4d, 0x18})
}

// counted counts the bytes that are read, and fails once the context is done.
type counted struct {
	ctx  context.Context
	in   io.Reader
	read *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.in.Read(p)
	if c.read != nil {
		c.read.Add(int64(n))
	}
	return n, err
}

// named names the format in the errors of a decoder.
type named struct {
	format string
	in     io.Reader
}

func (n named) Read(p []byte) (int, error) {
	count, err := n.in.Read(p)
	switch {
	case err == nil || err == io.EOF:
		return count, err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return count, fmt.Errorf("the %s stream is cut off", n.format)
	}
	return count, fmt.Errorf("%s: %w", n.format, err)
}
