package handler_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// A probe is decided like any other call, and alarms no one.
func TestProbe(t *testing.T) {
	t.Parallel()
	allocator, err := decider.New(decider.Options{}) // without rules: each call is an operator's concern
	if err != nil {
		t.Fatal(err)
	}
	var seen []answer.Call
	webhook := handler.New(handler.Options{Allocator: allocator, Observers: []answer.Observer{
		func(_ context.Context, a *answer.Call) { seen = append(seen, *a) },
	}})
	for _, mark := range []string{"", "1"} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, strings.NewReader(
			`{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h.azure-devices.net"]}`))
		if mark != "" {
			request.Header.Set(handler.ProbeHeader, mark)
		}
		answer := httptest.NewRecorder()
		webhook.ServeHTTP(answer, request)
		if answer.Code != http.StatusServiceUnavailable {
			t.Errorf("mark %q: status %d", mark, answer.Code)
		}
	}
	if len(seen) != 2 || seen[0].Probe || !seen[0].NeedsAttention() || !seen[1].Probe || seen[1].NeedsAttention() || seen[0].Answer.Result != seen[1].Answer.Result {
		t.Errorf("observers saw %+v", seen)
	}
}
