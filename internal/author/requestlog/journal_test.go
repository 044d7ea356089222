package requestlog_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// The stand-in's own code writes the entries: the two must agree.
func entry(t *testing.T, change func(*dpssim.Entry)) string {
	t.Helper()
	entry := dpssim.Entry{
		Time: model.Time{Time: time.Unix(1e9, 0)}, ID: 7, Kind: dpssim.KindWebhook, RegistrationID: "d", Method: "POST", Attempt: 1,
		Request: json.RawMessage(request), Status: 200, Response: json.RawMessage(`{"iotHubHostName":"hub-a.azure-devices.net"}`),
	}
	change(&entry)
	var written strings.Builder
	dpssim.WriteEntries(&written, func(err error) { t.Fatal(err) })(entry)
	return written.String()
}

func TestJournal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*dpssim.Entry)
		want   string
	}{
		"assigned":            {func(*dpssim.Entry) {}, "call assigned hub-a.azure-devices.net"},
		"rejected":            {func(e *dpssim.Entry) { e.Status, e.Response = 403, nil }, "call rejected"},
		"wrong key":           {func(e *dpssim.Entry) { e.Status = 401 }, "call rejected"},
		"held":                {func(e *dpssim.Entry) { e.Status, e.Response = 503, nil }, "call held"},
		"throttled":           {func(e *dpssim.Entry) { e.Status, e.Response = 429, nil }, "call held"},
		"no hub":              {func(e *dpssim.Entry) { e.Response = json.RawMessage(`{}`) }, "call"},
		"text":                {func(e *dpssim.Entry) { e.Response = json.RawMessage(`"oops"`) }, "call"},
		"no answer":           {func(e *dpssim.Entry) { e.Status, e.Response, e.Error = 0, nil, "no answer" }, "call"},
		"retry":               {func(e *dpssim.Entry) { e.Attempt = 2 }, "other call"},
		"repeated on purpose": {func(e *dpssim.Entry) { e.Repeated = true }, "other call"},
		"register":            {func(e *dpssim.Entry) { e.Kind = dpssim.KindRegister }, "other call"},
		"operation":           {func(e *dpssim.Entry) { e.Kind = dpssim.KindOperation }, "other call"},
		"connect":             {func(e *dpssim.Entry) { e.Kind = dpssim.KindConnect }, "other call"},
		"effect":              {func(e *dpssim.Entry) { e.Kind, e.LinkedHubs = dpssim.KindEffect, []string{"h"} }, "other call"},
		"service":             {func(e *dpssim.Entry) { e.Kind = dpssim.KindService }, "other call"},
		"hub":                 {func(e *dpssim.Entry) { e.Kind = dpssim.KindHub }, "other call"},
		"trouble":             {func(e *dpssim.Entry) { e.Kind = dpssim.KindTrouble }, "other call"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff([]string{"log:1 " + c.want}, list(t, logOf(entry(t, c.change)))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	for text, want := range map[string]string{
		`{"request":` + request + `}`: "exchange",
		`{"usherRecord":1,"kind":"webhook","time":"2026-01-01T00:00:00Z","id":1,"durationMs":1,"request":` + request + `}`: "record",
		`{"time":"2026-01-01T00:00:00Z","id":1,"kind":"other","durationMs":1}`:                                             "other",
		`{"time":"2026-01-01T00:00:00Z","id":1,"kind":"other","durationMs":1,"request":` + request + `}`:                   "exchange",
		`{"kind":"effect","linkedHubs":[]}`: "request",
	} {
		if got := list(t, logOf(text)); len(got) != 1 || !strings.HasPrefix(got[0], "log:1 "+want) {
			t.Errorf("%s: got %q, want %s", text, got, want)
		}
	}
}
