package handler_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// The webhook answers with the status of the answer.
func TestStatus(t *testing.T) {
	t.Parallel()
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(`# METADATA
# custom:
#   enrollment_groups: [line-a]
package allocation.a

hub := input.deviceRuntimeContext.payload.hub

reject contains "refused" if input.deviceRuntimeContext.payload.reject

hold contains {"reason": "wait", "status": input.deviceRuntimeContext.payload.hold}
`)}}, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	webhook := handler.New(handler.Options{Allocator: allocator})
	seen := map[int]bool{}
	for _, test := range []struct {
		payload string
		want    int
	}{
		{`{"hub": "a.azure-devices.net"}`, http.StatusOK},
		{`{"reject": true}`, http.StatusForbidden},
		{`{"hold": 503}`, http.StatusServiceUnavailable},
		{`{"hold": 429}`, http.StatusTooManyRequests},
		{`{}`, http.StatusServiceUnavailable},
		{`{"hub": "elsewhere.azure-devices.net"}`, http.StatusServiceUnavailable},
		{`1, "registrationId": 2`, http.StatusBadRequest},
		{`}`, http.StatusBadRequest},
	} {
		body := `{"enrollmentGroup": {"enrollmentGroupId": "line-a"}, "linkedHubs": ["a.azure-devices.net"],
			"deviceRuntimeContext": {"registrationId": "press-1", "payload": ` + test.payload + `}}`
		_, decided := allocator.AllocateJSON(t.Context(), []byte(body))
		response := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, strings.NewReader(body))
		webhook.ServeHTTP(response, request)
		if got := decided.Status(); got != response.Code || got != test.want {
			t.Errorf("%s: Status is %d, the webhook answers %d, want %d", test.payload, got, response.Code, test.want)
		}
		seen[response.Code] = true
	}
	if len(seen) != 5 {
		t.Errorf("only the statuses %v were seen", seen)
	}
}
