package main

import (
	"bytes"
	"errors"
	"log/slog"
	"regexp"
	"testing"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// What the handler logs of a call whose record goes elsewhere reads like the record would.
func TestHostShowsLoggedCalls(t *testing.T) {
	t.Parallel()
	request := &dps.AllocationRequest{}
	request.Device.RegistrationID = "press-1"
	request.Enrollment.ID = "line-a"
	hub := answer.Answer{Result: answer.Assigned, Rule: &answer.Rule{Package: "allocation.line"}}
	hub.Response.IotHubHostName = "hub-a.azure-devices.net"
	for _, c := range []struct {
		call answer.Call
		want string
	}{
		{answer.Call{Request: request, Answer: hub, Duration: 1400 * time.Microsecond},
			`assigned  press-1 of line-a -> 200 hub-a\.azure-devices\.net \(allocation\.line\) 1\.4 ms`},
		{answer.Call{Request: request, Answer: answer.Answer{Result: answer.Rejected, Reasons: []string{"not a press", "too old"}, Rule: hub.Rule}, Probe: true},
			`rejected  press-1 of line-a \(probe\) -> 403 not a press; too old \(allocation\.line\) 0\.0 ms`},
		{answer.Call{Answer: answer.Answer{Result: answer.InvalidRequest, Detail: "not an AllocationRequest", Violations: []answer.Violation{{Pointer: "/linkedHubs", Problem: "want a list"}}}},
			`invalid_request -> 400 not an AllocationRequest; /linkedHubs want a list 0\.0 ms`},
		{answer.Call{Request: request, Answer: answer.Answer{Result: answer.Timeout, Cause: errors.New("too slow")}},
			`timeout   press-1 of line-a -> \d+ too slow 0\.0 ms`},
	} {
		var log, shown bytes.Buffer
		c.call.DecisionID = "1"
		answer.LogCalls(slog.New(slog.NewJSONHandler(&log, nil)))(t.Context(), &c.call)
		newHostConsole(&shown, false).line(functionshost.ConsoleLine{Text: string(bytes.TrimSpace(log.Bytes()))})
		if !regexp.MustCompile(`^[0-9:.]+ ` + c.want + `\n$`).Match(shown.Bytes()) {
			t.Errorf("%s is shown as\n%swant\n%s", &log, &shown, c.want)
		}
	}
}
