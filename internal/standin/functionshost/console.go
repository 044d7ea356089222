package functionshost

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// ConsoleLine is one line that the handler wrote, sorted as the host sorts it. The host reads no JSON and no levels.
type ConsoleLine struct {
	Stream   string     // "stdout" or "stderr"
	Level    slog.Level // Info, Warn or Error
	Category string     // CategoryConsole, or CategoryHost for lines with the host's own prefix
	Text     string     // without the line end and the prefix
}

// Categories under which the host logs the handler's lines.
const (
	CategoryConsole = "Host.Function.Console"
	CategoryHost    = "Host"
)

// systemPrefix marks a line for the host's own log instead of the user's.
const systemPrefix = "LanguageWorkerConsoleLog"

// classify sorts a line. Standard error is an error unless it says "warn": Go's log package writes there, so every
// line of it becomes an error in Application Insights.
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
	// The prefix counts without case and may be followed by the text at once.
	if len(line) >= len(systemPrefix) && strings.EqualFold(line[:len(systemPrefix)], systemPrefix) {
		c.Category, c.Text = CategoryHost, line[len(systemPrefix):]
	}
	return c
}

// maxLine bounds one console line; a longer one is cut into several. The host has no bound.
const maxLine = 1 << 20

// lineWriter cuts what a process writes into lines.
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

// flush hands over a last line without a line end.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) > 0 {
		w.line(string(w.buf))
		w.buf = nil
	}
}
