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
		{[]string{log, "--rules", rules, "--shard", "4/4"}, exitUsage},
		{[]string{log, "--rules", rules, "--shard", "0/1", "-o", "text"}, exitUsage},
		{[]string{log, "--rules", rules, "--shard", "0/1", "--html", filepath.Join(folder, "page.html")}, exitUsage},
		{[]string{log, "--rules", rules, "--shard", "0/1", "--fail-on", "moved"}, exitUsage},
		{[]string{log, "--rules", rules, "--shard", "1/2"}, exitOK}, // of no device
		{[]string{"https://a.blob.core.windows.net/c?sig=x", "--rules", rules}, exitFailure},
		{[]string{"merge"}, exitUsage},
		{[]string{"merge", log}, exitFailure},
		{[]string{"merge", log + "-missing"}, exitFailure},
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

// Merged reports are judged as one replay is, and look like it in each form.
func TestReplayMerge(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	var log strings.Builder
	for i := range 100 {
		fmt.Fprintf(&log, `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d%d", "currentIotHubHostName": "b"}, "linkedHubs": ["a", "b"]}`+"\n", i)
	}
	for name, text := range map[string]string{"log": log.String() + "x\n", "rule.rego": "package allocation.default\n\nhub := input.linkedHubs[0]\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	usher := func(want int, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != want {
			t.Fatalf("usher %s exits with %d, want %d: %s", strings.Join(args, " "), code, want, stderr.String())
		}
		return stdout.String()
	}
	replay := []string{"replay", "log", "--rules", ".", "--by-device"}
	var parts []string
	for i := range 3 {
		part := fmt.Sprintf("%d.json", i)
		if printed := usher(exitOK, append(replay, "--shard", fmt.Sprintf("%d/3", i), "--report", part)...); printed != readText(t, part) {
			t.Errorf("%s and what is printed differ", part)
		}
		parts = append(parts, part)
	}
	merge := append([]string{"replay", "merge"}, parts...)
	for _, format := range []string{"text", "json"} {
		whole := usher(exitOK, append(replay, "-o", format, "--html", "whole.html")...)
		if merged := usher(exitOK, append(merge, "-o", format, "--html", "merged.html")...); merged != whole || !strings.Contains(merged, "moved") {
			t.Errorf("-o %s: merged is\n%s\nand not\n%s", format, merged, whole)
		}
		if readText(t, "whole.html") != readText(t, "merged.html") {
			t.Error("the pages differ")
		}
	}
	usher(exitChanges, append(merge, "--fail-on", "moved>50%")...)
	usher(exitOK, append(merge, "--fail-on", "rejected")...)
	usher(exitFailure, merge[:4]...)
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
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
