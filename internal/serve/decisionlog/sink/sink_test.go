package sink_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog/appender"
	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]sink.Spec{
		"none":                              nil,
		"stdout":                            {{Kind: sink.KindStdout}},
		" stdout , otlp,":                   {{Kind: sink.KindStdout}, {Kind: sink.KindOTLP}},
		"file:/var/log/usher/../r.ndjson":   {{Kind: sink.KindFile, Target: filepath.FromSlash("/var/log/r.ndjson")}},
		"blob:https://a.example/records/":   {{Kind: sink.KindBlob, Target: "https://a.example/records"}},
		"file:a.ndjson,file:b.ndjson":       {{Kind: sink.KindFile, Target: "a.ndjson"}, {Kind: sink.KindFile, Target: "b.ndjson"}},
		"blob:https://127.0.0.1:1/acct/c/d": {{Kind: sink.KindBlob, Target: "https://127.0.0.1:1/acct/c/d"}},
	} {
		got, err := sink.Parse(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                            "empty: use stdout, file:/path,",
		"stdout,syslog":               `unknown sink "syslog": use stdout, file:/path,`,
		"stdout,none":                 "none cannot be combined with other sinks",
		"stdout,stdout":               "stdout is given twice",
		"file:":                       "file needs a path",
		"file":                        "file needs a path",
		"otlp:http://localhost:4318":  "set OTEL_EXPORTER_OTLP_ENDPOINT",
		"stdout:x":                    `unknown sink "stdout:x"`,
		"blob":                        "blob needs the URL of a container",
		"blob:records":                "blob needs the URL of a container",
		"blob:https://:443/c":         "blob needs the URL of a container",
		"blob:http://a.example/c":     "blob needs https, not http://a.example",
		"blob:https://a.example":      "blob names no container: write blob:https://a.example/CONTAINER",
		"blob:https://a.ex/c?sig=KEY": "give the app's identity the role Storage Blob Data Contributor",
		"blob:https://u:KEY@a.ex/c":   "blob takes no key",
		"s3:https://a.ex/c?sig=KEY":   `unknown sink "s3:https://a.ex/c"`,
	} {
		_, err := sink.Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "KEY") {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// calls records each call of Write.
type calls struct {
	mu    sync.Mutex
	lines []string
	fail  error
}

func (c *calls) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return len(p) / 2, c.fail
	}
	c.lines = append(c.lines, string(p))
	return len(p), nil
}

func TestLines(t *testing.T) {
	t.Parallel()
	out := new(calls)
	s := sink.NewLines("stdout", out)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			if err := s.Write([]byte(strings.Repeat(string(rune('a'+i%26)), 10_000))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, line := range out.lines {
		if len(line) != 10_001 || strings.Trim(line, line[:1]) != "\n" {
			t.Errorf("not one line: %.20q...", line)
		}
	}
	if len(out.lines) != 50 || s.Name() != "stdout" {
		t.Errorf("%d lines of %s", len(out.lines), s.Name())
	}
	out.fail = syscall.EPIPE
	if err := s.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) || !strings.Contains(err.Error(), "stdout") {
		t.Errorf("got %v", err)
	}
	// A full device is a real way to fail.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full")
	}
	defer full.Close()
	if err := sink.NewLines("stdout", full).Write([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func file(t *testing.T, options sink.FileOptions) *sink.File {
	t.Helper()
	f, err := sink.OpenFile(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func write(t *testing.T, f *sink.File, records ...string) {
	t.Helper()
	for _, record := range records {
		if err := f.Write([]byte(record)); err != nil {
			t.Fatal(err)
		}
	}
}

// contents are the record files of a folder.
func contents(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), ".lock") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[entry.Name()] = string(text)
	}
	return found
}

func expect(t *testing.T, folder string, want map[string]string) {
	t.Helper()
	if got := contents(t, folder); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A file is continued by the next process and renamed when it is full, and the oldest files are removed.
func TestFileRotatesBySize(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "log")
	options := sink.FileOptions{Path: filepath.Join(folder, "records.ndjson"), MaxBytes: 10, Keep: 2}
	f := file(t, options)
	write(t, f, "1234", "5678")
	expect(t, folder, map[string]string{"records.ndjson": "1234\n5678\n"})
	write(t, f, "a")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = file(t, options)
	write(t, f, "b", "longer than all of the file", "c")
	expect(t, folder, map[string]string{
		"records-000002.ndjson": "a\nb\n", "records-000003.ndjson": "longer than all of the file\n", "records.ndjson": "c\n",
	})
	// Old files may be compressed by others; they count.
	if err := os.Rename(filepath.Join(folder, "records-000002.ndjson"), filepath.Join(folder, "records-000002.ndjson.gz")); err != nil {
		t.Fatal(err)
	}
	write(t, f, "123456789")
	expect(t, folder, map[string]string{
		"records-000003.ndjson": "longer than all of the file\n", "records-000004.ndjson": "c\n", "records.ndjson": "123456789\n",
	})
	if f.Name() != "file:"+options.Path {
		t.Error(f.Name())
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if err := f.Write([]byte("late")); err == nil {
		t.Error("written to a closed file")
	}
}

// Each period has a file; a clock that is put back starts no new one.
func TestFileRotatesByAge(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "records")
	if err := os.WriteFile(path, []byte("of long ago\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // begins on 1 January 2000, 00:00 UTC
		yesterday := time.Now().Add(-time.Second)
		if err := os.Chtimes(path, yesterday, yesterday); err != nil {
			t.Fatal(err)
		}
		f := file(t, sink.FileOptions{Path: path})
		write(t, f, "1 January")
		time.Sleep(24*time.Hour - time.Second)
		write(t, f, "still")
		time.Sleep(time.Second)
		write(t, f, "2 January")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	})
	want := map[string]string{"records-000001": "of long ago\n", "records-000002": "1 January\nstill\n", "records": "2 January\n"}
	expect(t, folder, want)
	synctest.Test(t, func(t *testing.T) { // the file is from today, and the clock is in 2000
		f := file(t, sink.FileOptions{Path: path})
		write(t, f, "put back")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	})
	want["records"] += "put back\n"
	expect(t, folder, want)
}

// If a crash cut a line off, only that line is lost.
func TestFileAfterACrash(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "records.ndjson")
	if err := os.WriteFile(path, []byte("whole\nhal"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := file(t, sink.FileOptions{Path: path, Sync: appender.Always})
	write(t, f, "next")
	expect(t, folder, map[string]string{"records.ndjson": "whole\nhal\nnext\n"})
}

// If someone renames or deletes the file, it is created again.
func TestFileRenamedOrDeleted(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "records.ndjson")
	synctest.Test(t, func(t *testing.T) {
		f := file(t, sink.FileOptions{Path: path})
		write(t, f, "a")
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		write(t, f, "b")
		if err := os.Remove(path + ".1"); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	})
	expect(t, folder, map[string]string{"records.ndjson": "b\n"})
}

func TestFileIsLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "records.ndjson")
	file(t, sink.FileOptions{Path: path})
	synctest.Test(t, func(t *testing.T) { // it waits, on the clock of the bubble
		_, err := sink.OpenFile(sink.FileOptions{Path: path})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "give each process a file of its own") {
			t.Errorf("got %v", err)
		}
	})
}

func TestFileCannotBeOpened(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		folder: "is a folder: name a file in it",
		filepath.Join(folder, "file", "records.ndjson"): "the folder of " + filepath.Join(folder, "file", "records.ndjson") + " cannot be created",
	} {
		if _, err := sink.OpenFile(sink.FileOptions{Path: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// faulty is a file that fails with these errors.
type faulty struct {
	*os.File
	write, truncate, sync *error
}

func (f faulty) Write(p []byte) (int, error) {
	if *f.write != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, *f.write
	}
	return f.File.Write(p)
}

func (f faulty) Truncate(size int64) error {
	if *f.truncate != nil {
		return *f.truncate
	}
	return f.File.Truncate(size)
}

func (f faulty) Sync() error {
	if *f.sync != nil {
		return *f.sync
	}
	return f.File.Sync()
}

// If a disk is full or fails, only the records of that time are lost, each with an error.
func TestFileDiskFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		write, truncate, sync error
		want                  string
	}{
		"full":                 {write: syscall.ENOSPC, want: "a\nb\n"},
		"full and cannot cut":  {write: syscall.ENOSPC, truncate: syscall.EIO, want: "a\nlo\nb\n"},
		"fails to keep":        {sync: syscall.EIO, want: "a\nlost\nb\n"},
		"full, fails, and cut": {write: syscall.ENOSPC, sync: syscall.EIO, want: "a\nb\n"},
	} {
		folder := t.TempDir()
		var writeErr, truncateErr, syncErr error
		f := file(t, sink.FileOptions{
			Path: filepath.Join(folder, "records.ndjson"), Sync: appender.Always,
			OpenFile: func(name string, flag int, mode os.FileMode) (appender.File, error) {
				file, err := os.OpenFile(name, flag, mode)
				return faulty{file, &writeErr, &truncateErr, &syncErr}, err
			},
		})
		write(t, f, "a")
		writeErr, truncateErr, syncErr = c.write, c.truncate, c.sync
		if err := f.Write([]byte("lost")); !errors.Is(err, c.write) && !errors.Is(err, c.sync) || err == nil {
			t.Errorf("%s: got %v", name, err)
		}
		writeErr, truncateErr, syncErr = nil, nil, nil
		write(t, f, "b")
		if got := contents(t, folder)["records.ndjson"]; got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// With concurrent writers and frequent rotation, each record is there once.
func TestFileConcurrentWriters(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	f := file(t, sink.FileOptions{Path: filepath.Join(folder, "r"), MaxBytes: 100, Keep: 1000, Sync: appender.Always})
	var group sync.WaitGroup
	for w := range 8 {
		group.Go(func() {
			for i := range 20 {
				if err := f.Write(fmt.Appendf(nil, "%d-%02d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	var got, want []string
	for _, text := range contents(t, folder) {
		got = append(got, strings.Fields(text)...)
	}
	for w := range 8 {
		for i := range 20 {
			want = append(want, fmt.Sprintf("%d-%02d", w, i))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func BenchmarkSinks(b *testing.B) {
	record := []byte(strings.Repeat("x", 1500))
	b.Run("lines", func(b *testing.B) {
		s := sink.NewLines("stdout", io.Discard)
		b.ReportAllocs()
		for b.Loop() {
			_ = s.Write(record)
		}
	})
	b.Run("file", func(b *testing.B) {
		f, err := sink.OpenFile(sink.FileOptions{Path: filepath.Join(b.TempDir(), "r"), Sync: appender.Never})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := f.Write(record); err != nil {
				b.Fatal(err)
			}
		}
		_ = f.Close()
	})
}
