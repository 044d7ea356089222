package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func logRecord(id string) string {
	return fmt.Sprintf(`{"usherRecord":1,"decisionId":%q,"time":"2026-11-22T01:02:03Z","status":200,"decision":{"outcome":"assigned","hub":"a"}}`+"\n", id)
}

// Files are read in the order of their names, whatever they are compressed with, and those of other kinds are left
// alone.
func TestLogReadsFolders(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	var zipped, packed bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(z, logRecord("2")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p, logRecord("1")); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"2026/11/22/web-1.ndjson": logRecord("0"),
		"r-000001.ndjson.zst":     packed.String(),
		"r-000002.ndjson.gz":      zipped.String(),
		"r.ndjson":                logRecord("3"),
		"r.ndjson.lock":           "not read",
		"s.jsonl":                 strings.TrimSuffix(logRecord("4"), "\n"), // being written
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"log", folder, "-o", "json"}, nil, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	want := ""
	for i := range 5 {
		want += logRecord(fmt.Sprint(i))
	}
	if stdout.String() != want {
		t.Errorf("got %s", &stdout)
	}

	// A file that breaks off is a failure; what comes before is shown.
	path := filepath.Join(folder, "r-000002.ndjson.gz")
	if err := os.Truncate(path, int64(zipped.Len()-4)); err != nil {
		t.Fatal(err)
	}
	stdout.Reset()
	if code := run(t.Context(), []string{"log", folder, "-o", "json"}, nil, &stdout, &stderr); code != exitFailure ||
		!strings.Contains(stderr.String(), path) || !strings.Contains(stderr.String(), "cut off") || !strings.Contains(stdout.String(), `"1"`) {
		t.Errorf("exit code %d: %s%s", code, &stdout, &stderr)
	}
}

// A line that is far too long costs no memory, and is named.
func TestLogLongLine(t *testing.T) {
	t.Parallel()
	in := io.MultiReader(strings.NewReader(logRecord("before")), io.LimitReader(endless{}, 64<<20), strings.NewReader("\n"+logRecord("after")))
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"log", "-", "-o", "json"}, in, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if stdout.String() != logRecord("before")+logRecord("after") || !strings.Contains(stderr.String(), "stdin:2: the line is longer than 4 MiB") {
		t.Errorf("got %s%s", &stdout, &stderr)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// With --follow, records are shown as they are written, also after the file was renamed or cut.
func TestLogFollows(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "records.ndjson")
	add := func(text string) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	add(logRecord("first"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"log", "--follow", path, "-o", "json"}, nil, writer, io.Discard)
		writer.Close()
	}()
	lines := make(chan string)
	go func() {
		defer close(lines)
		var line []byte
		var c [1]byte
		for {
			if _, err := reader.Read(c[:]); err != nil {
				return
			}
			if line = append(line, c[0]); c[0] == '\n' {
				lines <- string(line)
				line = nil
			}
		}
	}()
	expect := func(id string) {
		t.Helper()
		if got := <-lines; got != logRecord(id) {
			t.Fatalf("got %q, want %s", got, id)
		}
	}
	expect("first")
	half := logRecord("second")
	add(half[:20])
	add(half[20:] + logRecord("third"))
	expect("second")
	expect("third")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(logRecord("in the next file"))
	expect("in the next file")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	add(logRecord("cut"))
	expect("cut")
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
	for range lines {
		t.Error("more lines")
	}
}
