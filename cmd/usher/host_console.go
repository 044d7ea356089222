package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// hostConsole writes lines of the handler and of the host, which come from several goroutines.
type hostConsole struct {
	mu sync.Mutex
	w  io.Writer
	// asWritten shows the handler's lines as it wrote them, which is JSON.
	asWritten bool
	paint     painter
	folder    string // the working directory with a separator, which is left out of paths
}

func newHostConsole(w io.Writer, asWritten bool) *hostConsole {
	folder, err := os.Getwd()
	if err == nil {
		folder += string(filepath.Separator)
	}
	return &hostConsole{w: w, asWritten: asWritten, paint: painterFor(w), folder: folder}
}

// Write writes a message of the host.
func (c *hostConsole) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.w, "host: "); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// line writes a line of the handler: for people if it is one of Usher's, else after the word for its level in the
// host's log.
func (c *hostConsole) line(line functionshost.ConsoleLine) {
	text, ok := "", false
	if !c.asWritten {
		text, ok = c.readable(line.Text)
	}
	if !ok {
		text = levelWord(line.Level) + ": " + line.Text
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintln(c.w, text)
}

func levelWord(level slog.Level) string {
	switch level {
	case slog.LevelWarn:
		return "warn"
	case slog.LevelError:
		return "fail"
	default:
		return "info"
	}
}

// readable words what Usher's handler wrote as JSON: the record of a call, or a message of its log.
func (c *hostConsole) readable(text string) (string, bool) {
	if record, err := decisionlog.Decode([]byte(text)); err == nil {
		return c.call(&record), true
	}
	if record, ok := loggedCall(text); ok {
		return c.call(record), true
	}
	return c.message(text)
}

// loggedCall reads the line of the log that the handler writes for a call whose record does not go to standard output. It
// names the rule, and no line of it.
func loggedCall(text string) (*decisionlog.Record, bool) {
	var line struct {
		Time           time.Time
		Msg            string
		DecisionID     string `json:"decision_id"`
		Result         answer.Result
		Status         int
		DurationUS     int64 `json:"duration_us"`
		Source         answer.Source
		Probe          bool
		Enrollment     string
		RegistrationID string `json:"registration_id"`
		Rule           string
		Hub            string
		Reasons        []string
		Detail         string
		Violations     []answer.Violation
		Cause          string
	}
	if json.Unmarshal([]byte(text), &line) != nil || line.Msg != "allocation" || line.DecisionID == "" || line.Result == "" {
		return nil, false
	}
	record := &decisionlog.Record{
		Time: line.Time, DurationUS: line.DurationUS, Source: line.Source, Probe: line.Probe, Status: line.Status,
		RegistrationID: line.RegistrationID, Enrollment: &decisionlog.Enrollment{ID: line.Enrollment},
		Decision: decisionlog.Decision{Outcome: line.Result, Hub: line.Hub, Reasons: line.Reasons, Cause: line.Cause},
	}
	if line.Rule != "" {
		record.Rule = &decisionlog.Rule{Package: line.Rule}
	}
	if !line.Result.IsOutcome() {
		record.Decision.Fault = &decisionlog.Fault{Kind: line.Result, Detail: line.Detail, Violations: line.Violations}
	}
	return record, true
}

// call is one line: time, outcome, device, hub or reason, the line that decided or else its rule, and how long it took.
func (c *hostConsole) call(r *decisionlog.Record) string {
	colour := red
	if r.Status < 300 {
		colour = green
	}
	text := clock(r.Time) + " " + c.paint.paint(colour, fmt.Sprintf("%-9s", r.Decision.Result()))
	if r.RegistrationID != "" {
		text += " " + dpssim.Printable(r.RegistrationID)
	}
	if r.Enrollment != nil && r.Enrollment.ID != "" {
		text += " of " + dpssim.Printable(r.Enrollment.ID)
	}
	if r.Probe {
		text += " (probe)"
	}
	if r.Source != "" && r.Source != answer.SourceCurrent {
		text += " (" + string(r.Source) + ")"
	}
	text += fmt.Sprintf(" -> %d", r.Status)
	if r.Decision.Hub != "" {
		text += " " + r.Decision.Hub
	}
	if why := reasonsOf(&r.Decision); why != "" {
		text += " " + dpssim.Printable(c.short(why))
	}
	if len(r.Lines) > 0 {
		text += " (" + c.short(r.Lines[0].Place) + ")"
	} else if r.Rule != nil {
		text += " (" + r.Rule.Package + ")"
	}
	return text + fmt.Sprintf(" %.1f ms", float64(r.DurationUS)/1000)
}

// reasonsOf says why there is no hub; empty if there is one.
func reasonsOf(d *decisionlog.Decision) string {
	reasons := d.Reasons
	if d.Fault != nil {
		if d.Fault.Detail != "" {
			reasons = append(reasons, d.Fault.Detail)
		}
		for _, v := range d.Fault.Violations {
			reasons = append(reasons, strings.TrimSpace(v.Pointer+" "+v.Problem))
		}
	}
	if d.Cause != "" {
		reasons = append(reasons, d.Cause)
	}
	return strings.Join(reasons, "; ")
}

// message is a line for a message of the log, and further lines for its error, which can list several places.
func (c *hostConsole) message(text string) (string, bool) {
	decoder := jsontext.NewDecoder(strings.NewReader(text))
	if token, err := decoder.ReadToken(); err != nil || token.Kind() != '{' {
		return "", false
	}
	var when time.Time
	level, message, fields, lines := "", "", "", ""
	for decoder.PeekKind() == '"' {
		name, value, err := readMember(decoder)
		if err != nil {
			return "", false
		}
		switch name {
		case "time":
			when, _ = time.Parse(time.RFC3339Nano, value) // zero if it is no time
		case "level":
			level = value
		case "msg":
			message = value
		case "error":
			for line := range strings.Lines(value) {
				lines += "\n  " + dpssim.Printable(strings.TrimRight(c.short(line), "\r\n"))
			}
		default:
			if value != "" && !strings.HasPrefix(value, "sha256:") { // a digest tells people nothing
				fields += " " + dpssim.Printable(name+"="+c.short(value))
			}
		}
	}
	if when.IsZero() || level == "" || message == "" {
		return "", false
	}
	switch level {
	case "INFO":
		level = ""
	case "ERROR":
		level = c.paint.paint(red, "error") + ": "
	default:
		level = strings.ToLower(level) + ": "
	}
	return clock(when) + " " + level + dpssim.Printable(message) + fields + lines, true
}

// readMember reads a member of an object. A value that is not text stays JSON.
func readMember(decoder *jsontext.Decoder) (name, value string, err error) {
	token, err := decoder.ReadToken()
	if err != nil {
		return "", "", err
	}
	name = token.String()
	raw, err := decoder.ReadValue()
	if err != nil {
		return "", "", err
	}
	if raw.Kind() != '"' {
		return name, string(raw), nil
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	return name, string(text), err
}

// clock is a time as usher dps shows it.
func clock(t time.Time) string { return t.Local().Format("15:04:05.000") }

// short leaves the working directory out of paths.
func (c *hostConsole) short(text string) string {
	if c.folder == "" {
		return text
	}
	return strings.ReplaceAll(text, c.folder, "")
}
