package replay_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// journal writes entries as usher dps does.
func journal(t *testing.T, entries ...dpssim.Entry) requestlog.Log {
	t.Helper()
	var text strings.Builder
	write := dpssim.WriteEntries(&text, func(err error) { t.Fatal(err) })
	for i, entry := range entries {
		entry.ID, entry.Time = uint64(i+1), model.Time{Time: time.Unix(1e9+int64(i), 0)}
		write(entry)
	}
	return lines(strings.TrimSuffix(text.String(), "\n"))
}

func called(id string, attempt, status int, response string) dpssim.Entry {
	return dpssim.Entry{
		Kind: dpssim.KindWebhook, RegistrationID: id, Attempt: attempt, Method: "POST", URL: "http://localhost/",
		Request: json.RawMessage(strings.ReplaceAll(request(id, "", ""), "\n", "")), Status: status, Response: json.RawMessage(response),
	}
}

// Of the journal of usher dps, each registration counts once, compared with what the webhook answered to the first
// call, whoever wrote the webhook.
func TestJournal(t *testing.T) {
	t.Parallel()
	log := journal(t,
		dpssim.Entry{Kind: dpssim.KindService, Method: "PUT", URL: "/enrollmentGroups/Group", Request: json.RawMessage(`{"enrollmentGroupId":"Group"}`), Status: 200},
		dpssim.Entry{Kind: dpssim.KindRegister, RegistrationID: "stays", Request: json.RawMessage(`{"registrationId":"stays"}`), Status: 202},
		called("stays", 1, 200, `{"iotHubHostName":"a.azure-devices.net"}`),
		dpssim.Entry{Kind: dpssim.KindEffect, RegistrationID: "stays", Hub: hubA, LinkedHubs: []string{hubA, hubB}},
		dpssim.Entry{Kind: dpssim.KindOperation, RegistrationID: "stays", Status: 200},
		called("moves", 1, 200, `{"iotHubHostName":"b.azure-devices.net"}`),
		called("accepted", 1, 403, `{"error":"no"}`),
		called("was-held", 1, 503, `null`),
		called("was-held", 2, 503, `null`),
		called("was-held", 3, 200, `{"iotHubHostName":"b.azure-devices.net"}`),
		called("no-answer", 1, 0, `null`),
	)
	// A bare request may have members of any name.
	bare := lines(`{"kind":"effect",` + request("bare", "", hubA)[1:])
	rules := allocatorOf(t, "hub := \"a.azure-devices.net\"")
	report := mustRun(t, replay.Options{Rules: rules}, log, bare)
	want := map[replay.Kind]int64{replay.Stayed: 2, replay.Moved: 1, replay.NewlyAccepted: 2, replay.FirstAssigned: 1}
	if got := counts(report); !reflect.DeepEqual(got, want) || report.Registrations != 6 || report.Malformed != 0 {
		t.Errorf("got %v of %d registrations, %d malformed (%v); want %v", got, report.Registrations, report.Malformed, report.MalformedFirst, want)
	}
}
