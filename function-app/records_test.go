package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/standin/collector"
)

func TestRecordSettings(t *testing.T) {
	t.Parallel()
	const key = "not-long-SECRET"
	for want, values := range map[string]map[string]string{
		`USHER_RECORD_SINKS: unknown sink "syslog": use stdout, file:/path`:       {settingRecordSinks: "syslog"},
		"USHER_RECORD_SINKS: blob takes no key":                                   {settingRecordSinks: "blob:https://a.example/c?sig=SECRET"},
		"USHER_RECORD_SPOOL: empty, and USHER_RECORD_SINKS has otlp":              {settingRecordSinks: "stdout,otlp"},
		"USHER_RECORD_SYNC: none of always, interval, never":                      {settingRecordSync: "sometimes"},
		"USHER_RECORD_SPOOL_BYTES: not a number from 8388608":                     {settingRecordSpoolBytes: "1"},
		"USHER_RECORD_FILE_BYTES: not a number from 1048576":                      {settingRecordFileBytes: "many"},
		"USHER_RECORD_FILE_KEEP: not a number from 1 to 10000":                    {settingRecordFileKeep: "0"},
		"USHER_RECORD_FILE_AGE: not a duration from 1m":                           {settingRecordFileAge: "1s"},
		"USHER_RECORD_REGISTRATION_IDS: none of plain, hashed, absent":            {settingRecordIDs: "secret"},
		"USHER_RECORD_ID_KEY: empty, and USHER_RECORD_REGISTRATION_IDS is hashed": {settingRecordIDs: "hashed"},
		"USHER_RECORD_ID_KEY: fewer than 16 characters":                           {settingRecordIDs: "hashed", settingRecordIDKey: key},
	} {
		values[settingListen] = "127.0.0.1:0"
		if _, err := readSettings(variables(values), nil); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Records go to all sinks before the answer, and replace the log line. What a collector does not take now waits for the
// next process.
func TestRecords(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file, spools := filepath.Join(folder, "log", "records.ndjson"), filepath.Join(folder, "spool")
	down := httptest.NewServer(http.NotFoundHandler())
	defer down.Close()
	settings := map[string]string{
		settingRecordSinks: "stdout,otlp,file:" + file, settingRecordSpool: spools, settingRecordSync: "always",
		"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": down.URL, "OTEL_TRACES_EXPORTER": "none",
	}
	s := start(t, settings)
	if status := s.post(t, "", secretRequest, nil); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	// It was written before the answer.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line, ok := strings.CutSuffix(string(text), "\n")
	if record, err := decisionlog.Decode([]byte(line)); err != nil || !ok || record.RegistrationID != "press-0001" || record.Decision.Hub != "a.azure-devices.net" {
		t.Errorf("got %s, %v", text, err)
	}
	if !strings.Contains(s.log.String(), line+"\n") || strings.Contains(s.log.String(), `"msg":"allocation"`) {
		t.Errorf("standard output is %s", s.log)
	}
	s.log.wait(t, "records wait")
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	for what, text := range map[string]string{"the record": line, "standard output": s.log.String()} {
		if strings.Contains(text, secret) {
			t.Errorf("%s holds a secret: %s", what, text)
		}
	}

	c := startCollector(t)
	settings["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"], settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = c.URL+"/v1/logs", c.URL
	settings["OTEL_METRIC_EXPORT_INTERVAL"] = "50"
	start(t, settings)
	waitFor(t, c, func(got collector.Received) bool {
		delivered, received := false, false
		for _, l := range got.Logs {
			received = received || l.Body == line
		}
		for _, m := range got.Metrics {
			delivered = delivered || m.Name == "usher.records.delivered" && m.Value == 1
		}
		return delivered && received
	})
}

// Unless registration IDs are plain, the program writes none.
func TestRecordsHideIDs(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{"hashed": decisionlog.HashID([]byte("0123456789abcdef"), "press-0001"), "absent": ""} {
		for _, sinks := range []string{"stdout", "none"} {
			s := start(t, map[string]string{settingRecordIDs: mode, settingRecordIDKey: "0123456789abcdef", settingRecordSinks: sinks})
			if status := s.post(t, "", secretRequest, nil); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			if err := s.stop(); err != nil {
				t.Error(err)
			}
			text := s.log.String()
			if strings.Contains(text, "press-0001") || (sinks == "stdout") != strings.Contains(text, "usherRecord") || sinks == "stdout" && !strings.Contains(text, want) {
				t.Errorf("%s, %s: standard output is %s", mode, sinks, text)
			}
		}
	}
}

// If a sink cannot be opened, the program does not start; the error says which and why.
func TestRecordsCannotBeOpened(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	blocked := filepath.Join(folder, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, settings := range map[string]map[string]string{
		"USHER_RECORD_SINKS: the folder of " + blocked + "/r.ndjson cannot be created": {settingRecordSinks: "file:" + blocked + "/r.ndjson"},
		"USHER_RECORD_SINKS: otlp is a sink, and OTEL_EXPORTER_OTLP_ENDPOINT":          {settingRecordSinks: "otlp", settingRecordSpool: folder},
		"USHER_RECORD_SINKS: the spool in " + blocked + "/otlp cannot be opened": {
			settingRecordSinks: "otlp", settingRecordSpool: blocked, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
	} {
		settings[settingListen], settings[settingRules] = "127.0.0.1:0", rulesFolder(t, firstHub)
		if err := run(t.Context(), variables(settings), nil, newOutput()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// If a record is lost, this is logged and counted, and the allocation does not fail.
func TestRecordLost(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	link := filepath.Join(t.TempDir(), "records.ndjson")
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	c := startCollector(t)
	s := start(t, map[string]string{settingRecordSinks: "file:" + link, "OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_METRIC_EXPORT_INTERVAL": "50"})
	for range 3 {
		if status := s.post(t, "", secretRequest, nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	line := s.log.wait(t, "record lost")
	if line["level"] != "ERROR" || line["sink"] != "file:"+link || !strings.Contains(fmt.Sprint(line["error"]), "no space left") {
		t.Errorf("logged %v", line)
	}
	waitFor(t, c, func(got collector.Received) bool {
		for _, m := range got.Metrics {
			if m.Name == "usher.records.dropped" && m.Value == 3 {
				return true
			}
		}
		return false
	})
	if n := strings.Count(s.log.String(), `"msg":"record lost"`); n != 1 {
		t.Errorf("it is told %d times", n)
	}
}

// The same holds for a record that a destination refuses for good.
func TestRecordRefused(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }))
	t.Cleanup(server.Close)
	s := start(t, map[string]string{settingRecordSinks: "otlp", settingRecordSpool: t.TempDir(), "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": server.URL})
	if status := s.post(t, "", secretRequest, nil); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if line := s.log.wait(t, "record lost"); line["sink"] != "otlp" || !strings.Contains(fmt.Sprint(line["error"]), "status 400") {
		t.Errorf("logged %v", line)
	}
}
