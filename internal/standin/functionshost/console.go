package functionshost

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// ConsoleLine is a line that the handler wrote, classified as the host does it. The host does not parse JSON or levels.
type ConsoleLine struct {
	Stream   string     // "stdout" or "stderr"
	Level    slog.Level // Info, Warn or Error
	Category string     // CategoryConsole, or CategoryHost for lines with the host's prefix
	Text     string     // without the prefix and the end of the line
}

// Categories under which the host logs the handler's lines.
const (
	CategoryConsole = "Host.Function.Console"
	CategoryHost    = "Host"
)

// systemPrefix marks a line for the log of the host instead of the user's.
const systemPrefix = "LanguageWorkerConsoleLog"

// classify classifies a line. A line of standard error is an error unless it contains "warn". Go's log package writes
// to standard error, so all of its lines become errors in Application Insights.
func classify(stream, line string, stderrIsError bool) ConsoleLine {
	c := ConsoleLine{Stream: stream, Level: slog.LevelInfo, Category: CategoryConsole, Text: line}
	if stream == "stderr" {
		lower := strings.ToLower(line)
		switch {
		case strings.Contains(lower, "warn"):
			c.Level = slog.LevelWarn
		case stderrIsError, strings.Contains(lower, "error"), strings.Contains(lower, "fail"), strings.Contains(lower, "severe"):
			c.Level = slog.LevelError
		}
	}
	// The case of the prefix does not matter, and no separator needs to follow it.
	if len(line) >= len(systemPrefix) && strings.EqualFold(line[:len(systemPrefix)], systemPrefix) {
		c.Category, c.Text = CategoryHost, line[len(systemPrefix):]
	}
	return c
}

// maxLine bounds a console line, in bytes; a longer one is split. The host has no bound.
const maxLine = 1 << 20

// lineWriter splits the output of a process into lines.
type lineWriter struct {
	line func(string)

	mu  sync.Mutex
	buf []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	for {
		i := bytes.IndexByte(w.buf, '\n')
		if i < 0 {
			if len(w.buf) < maxLine {
				return len(p), nil
			}
			i = maxLine
			w.line(string(w.buf[:i]))
			w.buf = w.buf[i:]
			continue
		}
		w.line(string(bytes.TrimSuffix(w.buf[:i], []byte("\r"))))
		w.buf = w.buf[i+1:]
	}
}

// flush passes on a last line without an end.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) > 0 {
		w.line(string(w.buf))
		w.buf = nil
	}
}
