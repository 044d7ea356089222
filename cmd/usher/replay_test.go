package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplayExitCodes(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rules := filepath.Dir(write("rules/rule.rego", []byte("package allocation.default\n\nhub := input.linkedHubs[0]\n")))
	broken := filepath.Dir(write("broken/rule.rego", []byte("package allocation.default\n\nhub := input.hubs[0]\n")))
	line := `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d", "currentIotHubHostName": "b"}, "linkedHubs": ["a", "b"]}`
	log := write("log", []byte(line+"\n"))
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	fmt.Fprintln(w, line)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cut := write("cut", compressed.Bytes()[:compressed.Len()-9])
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{log, "--rules", rules}, exitOK},
		{[]string{log, "--rules", rules, "--fail-on", "rejected,held,faulted,accepted,diverted,malformed"}, exitOK},
		{[]string{log, "--rules", rules, "--fail-on", "moved"}, exitChanges},
		{[]string{log, "--rules", rules, "--fail-on", "any"}, exitChanges},
		{nil, exitUsage},
		{[]string{log, "--rules", rules, "--parallel", "-1"}, exitUsage},
		{[]string{log, "--rules", broken}, exitRules},
		{[]string{log, "--rules", filepath.Join(folder, "none")}, exitRules},
		{[]string{log, "--rules", rules, "--baseline", broken}, exitRules},
		{[]string{log + "-missing", "--rules", rules}, exitFailure},
		{[]string{cut, "--rules", rules}, exitFailure},
		{[]string{log, "--rules", rules, "--list", filepath.Join(folder, "no", "such", "folder")}, exitFailure},
		{[]string{log, "--rules", rules, "--html", filepath.Join(folder, "no", "such", "folder")}, exitFailure},
	} {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), append([]string{"replay"}, c.args...), strings.NewReader(""), &stdout, &stderr); got != c.want {
			t.Errorf("usher replay %s exits with %d, want %d; it says:\n%s", strings.Join(c.args, " "), got, c.want, stderr.String())
		}
	}
}

// stoppedAfter gives a text, then stops the program, and never ends.
type stoppedAfter struct {
	text io.Reader
	stop func()
	done <-chan struct{}
}

func (s *stoppedAfter) Read(p []byte) (int, error) {
	if n, err := s.text.Read(p); err != io.EOF {
		return n, err
	}
	s.stop()
	<-s.done
	return 0, io.EOF
}

// Ctrl-C prints what was found by then, as a report that says so.
func TestReplayInterrupted(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	defer close(done)
	page := filepath.Join(t.TempDir(), "page.html")
	line := `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["a"]}` + "\n"
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"replay", "-", "--rules", "../../rules", "--html", page},
		&stoppedAfter{strings.NewReader(strings.Repeat(line, 10)), stop, done}, &stdout, &stderr)
	if code != exitFailure || !strings.Contains(stderr.String(), "usher: interrupted after ") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	if !strings.Contains(stdout.String(), "The replay was interrupted") {
		t.Errorf("the report does not say so:\n%s", stdout.String())
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "Interrupted.") {
		t.Errorf("the page does not say so: %v", err)
	}
}
