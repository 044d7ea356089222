package replay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Log is where requests come from: lines of JSON, perhaps compressed with gzip or
// zstd, which its first bytes tell.
type Log struct {
	// Name stands before the number of a line.
	Name string
	// Size is in bytes, as stored; 0 where it is not known.
	Size int64
	// Open returns the bytes as stored.
	Open func() (io.ReadCloser, error)
}

// File returns the log in a file. It fails if there is none, or none to read.
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

// Progress tells from another goroutine how far a replay is.
type Progress struct {
	registrations, read atomic.Int64
}

// Registrations is the number of requests decided so far.
func (p *Progress) Registrations() int64 { return p.registrations.Load() }

// Read is the number of bytes read so far, as stored.
func (p *Progress) Read() int64 { return p.read.Load() }

// opened is a log that is being read.
type opened struct {
	io.Reader
	close func()
}

// maxWindow bounds what a zstd stream may make the decoder hold: the most that
// `zstd --ultra` uses without --long.
const maxWindow = 128 << 20

func (l Log) open(ctx context.Context, progress *Progress) (opened, error) {
	file, err := l.Open()
	if err != nil {
		return opened{}, err
	}
	stored := bufio.NewReaderSize(&counted{ctx, file, progress}, blockSize)
	start, err := stored.Peek(4)
	if err != nil && err != io.EOF && len(start) < 4 {
		file.Close()
		return opened{}, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		reader, err := gzip.NewReader(stored)
		if err != nil {
			file.Close()
			return opened{}, fmt.Errorf("gzip: %w", err)
		}
		return opened{named{"gzip", reader}, func() { reader.Close(); file.Close() }}, nil
	case isZstd(start):
		reader, err := zstd.NewReader(stored, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			file.Close()
			return opened{}, fmt.Errorf("zstd: %w", err)
		}
		return opened{named{"zstd", reader}, func() { reader.Close(); file.Close() }}, nil
	}
	return opened{stored, func() { file.Close() }}, nil
}

// isZstd knows a frame, and a skippable one, which some writers begin with.
func isZstd(start []byte) bool {
	return bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(start) == 4 && start[0]&0xf0 == 0x50 && bytes.Equal(start[1:], []byte{0x2a, 0x4d, 0x18})
}

// counted counts what is read, and ends when it is told to.
type counted struct {
	ctx      context.Context
	in       io.Reader
	progress *Progress
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.in.Read(p)
	if c.progress != nil {
		c.progress.read.Add(int64(n))
	}
	return n, err
}

// named tells of which format an error is.
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
