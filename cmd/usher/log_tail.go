package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/usher-dps/usher/internal/author/requestlog"
)

// followedLog returns the log in a file that others write to. It goes on with the next file when this one is renamed,
// and calls idle before it waits.
func followedLog(ctx context.Context, path string, idle func() error) (requestlog.Log, error) {
	info, err := os.Stat(path)
	if err != nil {
		return requestlog.Log{}, err
	}
	if !info.Mode().IsRegular() {
		return requestlog.Log{}, usageError(fmt.Errorf("--follow is for one file, and %s is not a file", path))
	}
	return requestlog.Log{Name: path, Open: func() (io.ReadCloser, error) {
		file, err := os.Open(path)
		return &tail{File: file, ctx: ctx, path: path, idle: idle}, err
	}}, nil
}

// tail reads a file, and the next one at its path, until ctx ends.
type tail struct {
	*os.File
	ctx  context.Context
	path string
	at   int64
	idle func() error
}

// tailInterval is the time between two looks at the file.
const tailInterval = 200 * time.Millisecond

func (t *tail) Read(p []byte) (int, error) {
	for {
		// Checked before reading: what was written before the renaming is read before the next file.
		replaced := t.replaced()
		n, err := t.File.Read(p)
		if n > 0 {
			t.at += int64(n)
			return n, nil
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if replaced {
			if file, err := os.Open(t.path); err == nil {
				t.File.Close()
				t.File, t.at = file, 0
				continue
			}
		}
		if err := t.idle(); err != nil {
			return 0, err
		}
		select {
		case <-t.ctx.Done():
			return 0, io.EOF
		case <-time.After(tailInterval):
		}
	}
}

// replaced reports whether another file is at the path, or this one was cut and starts again.
func (t *tail) replaced() bool {
	there, err := os.Stat(t.path)
	if err != nil {
		return false // not yet
	}
	open, err := t.File.Stat()
	return err == nil && (!os.SameFile(there, open) || there.Size() < t.at)
}
