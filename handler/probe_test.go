package handler_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/handler"
)

// A probe is decided as any other call, and calls nobody out of bed.
func TestProbe(t *testing.T) {
	t.Parallel()
	allocator, err := allocation.New(allocation.Options{}) // without rules: each call is an operator's concern
	if err != nil {
		t.Fatal(err)
	}
	var seen []handler.Allocation
	webhook := handler.New(handler.Options{Allocator: allocator, Observers: []handler.Observer{
		func(_ context.Context, a *handler.Allocation) { seen = append(seen, *a) },
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
	if len(seen) != 2 || seen[0].Probe || !seen[0].Ours() || !seen[1].Probe || seen[1].Ours() || seen[0].Result() != seen[1].Result() {
		t.Errorf("observers saw %+v", seen)
	}
}
