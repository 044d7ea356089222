package functionshost_test

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	type line = functionshost.ConsoleLine
	for _, c := range []struct {
		stream, text  string
		stderrIsError bool
		want          line
	}{
		{"stdout", "hello", true, line{Stream: "stdout", Level: slog.LevelInfo, Category: functionshost.CategoryConsole, Text: "hello"}},
		{"stdout", "error: warn", true, line{Stream: "stdout", Level: slog.LevelInfo, Category: functionshost.CategoryConsole, Text: "error: warn"}},
		{"stdout", `{"level":"ERROR"}`, true, line{Stream: "stdout", Level: slog.LevelInfo, Category: functionshost.CategoryConsole, Text: `{"level":"ERROR"}`}},
		{"stderr", "hello", true, line{Stream: "stderr", Level: slog.LevelError, Category: functionshost.CategoryConsole, Text: "hello"}},
		{"stderr", "WARNing: error", true, line{Stream: "stderr", Level: slog.LevelWarn, Category: functionshost.CategoryConsole, Text: "WARNing: error"}},
		{"stderr", "hello", false, line{Stream: "stderr", Level: slog.LevelInfo, Category: functionshost.CategoryConsole, Text: "hello"}},
		{"stderr", "it Failed", false, line{Stream: "stderr", Level: slog.LevelError, Category: functionshost.CategoryConsole, Text: "it Failed"}},
		{"stderr", "SEVERE", false, line{Stream: "stderr", Level: slog.LevelError, Category: functionshost.CategoryConsole, Text: "SEVERE"}},
		{"stdout", "LanguageWorkerConsoleLog up", true, line{Stream: "stdout", Level: slog.LevelInfo, Category: functionshost.CategoryHost, Text: " up"}},
		{"stdout", "", true, line{Stream: "stdout", Level: slog.LevelInfo, Category: functionshost.CategoryConsole, Text: ""}},
	} {
		if diff := cmp.Diff(c.want, functionshost.Classify(c.stream, c.text, c.stderrIsError)); diff != "" {
			t.Errorf("%s %q (-want +got):\n%s", c.stream, c.text, diff)
		}
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	host, c := start(t, "exit:3", functionshost.Options{})
	_ = host.Wait() // another test checks the three strikes of this handler
	want := []functionshost.ConsoleLine{
		{Stream: "stderr", Level: slog.LevelError, Category: functionshost.CategoryConsole, Text: "first words"},
		{Stream: "stderr", Level: slog.LevelWarn, Category: functionshost.CategoryConsole, Text: "a warning is not an error"},
		{Stream: "stderr", Level: slog.LevelError, Category: functionshost.CategoryConsole, Text: "second words"},
		{Stream: "stderr", Level: slog.LevelError, Category: functionshost.CategoryConsole, Text: "third words"},
		// The last line has no end.
		{Stream: "stderr", Level: slog.LevelError, Category: functionshost.CategoryConsole, Text: "last words"},
	}
	var got []functionshost.ConsoleLine
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.lines {
		if line.Stream == "stderr" {
			got = append(got, line)
		}
	}
	if len(got) != 3*len(want) {
		t.Fatalf("%d lines on standard error, want %d", len(got), 3*len(want))
	}
	if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
		t.Errorf("the lines of the first start (-want +got):\n%s", diff)
	}
}
