package calljournal_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/author/calljournal"
	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const request = `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`

// Entries are written by the stand-in's own code: the two must agree.
func line(t *testing.T, change func(*dpssim.Entry)) []byte {
	t.Helper()
	entry := dpssim.Entry{
		Time: model.Time{Time: time.Unix(1e9, 0)}, ID: 7, Kind: dpssim.KindWebhook, RegistrationID: "d", Method: "POST", Attempt: 1,
		Request: json.RawMessage(request), Status: 200, Response: json.RawMessage(`{"iotHubHostName":"hub-a.azure-devices.net"}`),
	}
	change(&entry)
	var written strings.Builder
	dpssim.WriteEntries(&written, func(err error) { t.Fatal(err) })(entry)
	return []byte(written.String())
}

func TestRead(t *testing.T) {
	t.Parallel()
	asked := func(outcome, hub string) *calljournal.Call {
		return &calljournal.Call{Request: json.RawMessage(request), Outcome: outcome, Hub: hub}
	}
	for _, c := range []struct {
		name   string
		change func(*dpssim.Entry)
		want   *calljournal.Call // nil for one to be set aside
	}{
		{"assigned", func(*dpssim.Entry) {}, asked(calljournal.Assigned, "hub-a.azure-devices.net")},
		{"rejected", func(e *dpssim.Entry) { e.Status, e.Response = 403, nil }, asked(calljournal.Rejected, "")},
		{"wrong key", func(e *dpssim.Entry) { e.Status = 401 }, asked(calljournal.Rejected, "")},
		{"held", func(e *dpssim.Entry) { e.Status, e.Response = 503, nil }, asked(calljournal.Held, "")},
		{"throttled", func(e *dpssim.Entry) { e.Status, e.Response = 429, nil }, asked(calljournal.Held, "")},
		{"no hub", func(e *dpssim.Entry) { e.Response = json.RawMessage(`{}`) }, asked("", "")},
		{"text", func(e *dpssim.Entry) { e.Response = json.RawMessage(`"oops"`) }, asked("", "")},
		{"no answer", func(e *dpssim.Entry) { e.Status, e.Response, e.Error = 0, nil, "no answer" }, asked("", "")},
		{"retry", func(e *dpssim.Entry) { e.Attempt = 2 }, nil},
		{"doubled by trouble", func(e *dpssim.Entry) { e.Repeated = true }, nil},
		{"register", func(e *dpssim.Entry) { e.Kind = dpssim.KindRegister }, nil},
		{"operation", func(e *dpssim.Entry) { e.Kind = dpssim.KindOperation }, nil},
		{"connect", func(e *dpssim.Entry) { e.Kind = dpssim.KindConnect }, nil},
		{"effect", func(e *dpssim.Entry) { e.Kind = dpssim.KindEffect }, nil},
		{"service", func(e *dpssim.Entry) { e.Kind = dpssim.KindService }, nil},
		{"hub", func(e *dpssim.Entry) { e.Kind = dpssim.KindHub }, nil},
		{"trouble", func(e *dpssim.Entry) { e.Kind = dpssim.KindTrouble }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			call, relation := calljournal.Read(line(t, c.change))
			switch {
			case c.want == nil && relation != calljournal.Aside:
				t.Errorf("got %v", relation)
			case c.want != nil && (relation != calljournal.Asked || !reflect.DeepEqual(call, *c.want)):
				t.Errorf("got %v, %+v", relation, call)
			}
		})
	}
}

func TestWhatIsNoEntry(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		request, `{"request":` + request + `}`, `{"usherRecord":1,"kind":"webhook","request":{}}`, `{`, `[]`, ``,
		`{"time":"2026-01-01T00:00:00Z","id":1,"kind":"other","durationMs":1}`,
	} {
		if _, relation := calljournal.Read([]byte(text)); relation != calljournal.Foreign {
			t.Errorf("%s: got %v", text, relation)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(request))
	f.Add([]byte(`{"time":"2026-01-01T00:00:00Z","id":1,"kind":"webhook","request":{},"status":200,"response":{"iotHubHostName":"h"},"durationMs":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		call, relation := calljournal.Read(text)
		if (relation == calljournal.Asked) != (call.Request != nil) {
			t.Errorf("%v with %+v", relation, call)
		}
		if (call.Outcome == calljournal.Assigned) != (call.Hub != "") {
			t.Errorf("%+v", call)
		}
	})
}
