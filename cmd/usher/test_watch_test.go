package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	hubRule  = "package allocation.default\n\nhub := input.linkedHubs[0]\n"
	hubTest  = "package allocation.default_test\n\ntest_hub if data.allocation.default.hub == \"a\" with input.linkedHubs as [\"a\"]\n"
	deadTest = "package allocation.default_test\n\ntest_hub if false\n"
)

func writeFiles(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// With --watch the tests run again when a file changes, also in a new folder, and even after rules that do not load.
// Ctrl-C is not a failure.
func TestWatch(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	writeFiles(t, root, map[string]string{"default.rego": hubRule, "default_test.rego": hubTest})
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	reader, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"test", "--watch", root}, strings.NewReader(""), writer, writer)
		writer.Close()
	}()
	lines := bufio.NewScanner(reader)
	// until reads up to a line, and then up to the line that says that the command waits.
	until := func(want string) {
		t.Helper()
		var seen bytes.Buffer
		for lines.Scan() {
			seen.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "waiting for changes") {
				if strings.Contains(seen.String(), want) {
					return
				}
				// The last change came too late for this run; another follows.
				seen.Reset()
			}
		}
		t.Fatalf("no %q before the end:\n%s", want, seen.String())
	}
	until("1 test, 0 exchanges: 1 passed")
	writeFiles(t, root, map[string]string{"default_test.rego": deadTest})
	until("usher: 1 of 1 tests failed")
	writeFiles(t, root, map[string]string{"default.rego": "package allocation.default\n\nhub := nothing\n"})
	until("var nothing is unsafe")
	writeFiles(t, root, map[string]string{"default.rego": hubRule, "default_test.rego": hubTest, "sub/sub_test.rego": "package sub_test\n\ntest_a if true\n"})
	until("2 tests, 0 exchanges: 2 passed")
	writeFiles(t, root, map[string]string{"sub/sub_test.rego": "package sub_test\n\ntest_a if false\n"})
	until("2 tests, 0 exchanges: 1 passed, 1 failed")
	interrupt()
	if _, err := io.Copy(io.Discard, reader); err != nil {
		t.Fatal(err)
	}
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// Scripts can tell these cases apart by the exit code.
func TestExitCodesOfTests(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	request := `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["a.azure-devices.net"]}`
	writeFiles(t, root, map[string]string{
		"good/default.rego": hubRule, "good/default_test.rego": hubTest,
		"bad/default.rego": hubRule, "bad/default_test.rego": deadTest,
		"broken/default.rego":     "package allocation.default\n\nhub := nothing\n",
		"untestable/default.rego": hubRule, "untestable/default_test.rego": "package x\n\ntest_x if y\n",
		"slow/default.rego": "package allocation.default\n\nhub := input.linkedHubs[0] if count([x | some x in numbers.range(1, 3000)]) == 3000\n",
		"request.json":      request,
	})
	at := func(name string) string { return filepath.Join(root, name) }
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"test", at("good")}, exitOK},
		{[]string{"test", at("bad")}, exitTests},
		{[]string{"test", at("good"), "--threshold", "100"}, exitOK},
		{[]string{"test", at("slow"), "--threshold", "1"}, exitTests},
		{[]string{"test", at("slow"), "--require-tests"}, exitTests},
		{[]string{"test", at("broken")}, exitRules},
		{[]string{"test", at("untestable")}, exitRules},
		{[]string{"test", at("nowhere")}, exitRules},
		{[]string{"test", "--watch", at("nowhere")}, exitRules},
		{[]string{"test", at("good"), at("bad")}, exitUsage},
		{[]string{"test", at("good"), "--exchanges", at("nowhere")}, exitFailure},
		{[]string{"bundle", "--rules", at("good"), "-o", at("b.tar.gz")}, exitOK},
		{[]string{"bundle", "--rules", at("broken"), "-o", at("c.tar.gz")}, exitRules},
		{[]string{"bundle", at("good"), "extra"}, exitUsage},
		{[]string{"bench", "--rules", at("good"), "--duration", "10ms", "--warmup", "0s", "--save", at("b.json"), "--requests", at("request.json")}, exitOK},
		{[]string{"bench", "--rules", at("slow"), "--duration", "10ms", "--warmup", "0s", "--compare", at("b.json"), "--requests", at("request.json")}, exitBench},
		{[]string{"bench", at("good"), "--requests", at("nowhere")}, exitFailure},
		{[]string{"bench", at("broken"), "--requests", at("request.json")}, exitRules},
		{[]string{"version", "-o", "xml"}, exitUsage},
	} {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), c.args, strings.NewReader(""), &stdout, &stderr); got != c.want {
			t.Errorf("usher %s exits with %d, want %d; it prints:\n%s", strings.Join(c.args, " "), got, c.want, stderr.String())
		}
	}
}

// After Ctrl-C, the command shows what it has found so far.
func TestInterruptedTests(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	// The rule calls a server, which interrupts the command instead of answering.
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { interrupt() }))
	defer server.Close()
	root := t.TempDir()
	writeFiles(t, root, map[string]string{
		"default.rego": fmt.Sprintf("package allocation.default\n\nhub := \"a\" if http.send({\"method\": \"get\", \"url\": %q}).status_code == 200\n", server.URL),
		"a_test.rego":  "package a_test\n\ntest_fast if true\n",
		"a.request.json": `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d"},
			"linkedHubs": ["a.azure-devices.net"]}`,
	})
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"test", root, "-v", "--allow-builtin", "http.send", "--allow-net", "127.0.0.1"}, strings.NewReader(""), &stdout, &stderr)
	if code != exitFailure || !strings.Contains(stdout.String(), "pass  data.a_test.test_fast") || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout.String(), stderr.String())
	}
}
