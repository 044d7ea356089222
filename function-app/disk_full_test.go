//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// If the disk is full, decisions go on. Records that do not fit are counted and logged, and those before are complete.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no sh, which sets the limit")
	}
	folder := t.TempDir()
	file := filepath.Join(folder, "records.ndjson")
	// For writes, this limit of the operating system is like a full disk. It applies to each file.
	program := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -f 16 && exec "$0"`, os.Args[0])
	program.Env = append(os.Environ(), modeVariable+"="+modeHandler, settingListen+"=127.0.0.1:0", settingMetricsListen+"=127.0.0.1:0",
		settingRules+"="+rulesFolder(t, firstHub), settingRecordSinks+"=file:"+file+",blob:https://127.0.0.1:1/account/records",
		settingRecordSpool+"="+filepath.Join(folder, "spool"), settingRecordSync+"=always")
	pipe, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	defer ended.Wait()
	defer func() { _ = program.Process.Kill() }()
	lines := make(chan map[string]any, 1000)
	ended.Go(func() {
		defer close(lines)
		for scanner := bufio.NewScanner(pipe); scanner.Scan(); {
			var line map[string]any
			if json.Unmarshal(scanner.Bytes(), &line) == nil {
				lines <- line
			}
		}
		_ = program.Wait()
	})
	// next waits for the next line with the message, and skips others.
	next := func(message string) map[string]any {
		for line := range lines {
			if line["msg"] == message {
				return line
			}
		}
		t.Fatalf("the program ended before it said %q", message)
		return nil
	}
	metrics := "http://" + next("serving metrics")["address"].(string) + "/metrics"
	webhook := "http://" + next("serving")["address"].(string) + handler.AllocatePath
	const requests = 60
	for range requests {
		response, err := http.Post(webhook, "application/json", strings.NewReader(requestBody))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("status %d, %v", response.StatusCode, err)
		}
	}
	told := map[any]bool{}
	for len(told) < 2 {
		line := next("record lost")
		if line["level"] != "ERROR" || !strings.Contains(line["error"].(string), "file too large") {
			t.Errorf("logged %v", line)
		}
		told[line["sink"]] = true
	}

	response, err := http.Get(metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for line := range strings.Lines(string(written)) {
		if _, err := decisionlog.Decode([]byte(line)); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		whole++
	}
	taken := sample(t, string(text), "usher_records_written_total", "file:"+file)
	if whole == 0 || whole == requests || taken != whole || taken+sample(t, string(text), "usher_records_dropped_total", "file:"+file) != requests {
		t.Errorf("%d whole records in the file, and the metrics:\n%s", whole, text)
	}
	taken = sample(t, string(text), "usher_records_written_total", "blob")
	if taken == 0 || taken == requests || taken+sample(t, string(text), "usher_records_dropped_total", "blob") != requests {
		t.Errorf("%d records wait for the blob, and the metrics:\n%s", taken, text)
	}
}

// sample reads a metric of a sink.
func sample(t *testing.T, text, name, sink string) int {
	t.Helper()
	for line := range strings.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(series, name+"{") || !strings.Contains(series, `usher_record_sink="`+sink+`"`) {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("no %s of %s in\n%s", name, sink, text)
	return 0
}
