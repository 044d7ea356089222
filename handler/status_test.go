package handler_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/handler"
)

// StatusOf tells what the webhook answers.
func TestStatusOf(t *testing.T) {
	t.Parallel()
	rules, err := allocation.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(`# METADATA
# custom:
#   enrollment_groups: [line-a]
package allocation.a

hub := input.deviceRuntimeContext.payload.hub

reject contains "refused" if input.deviceRuntimeContext.payload.reject

hold contains {"reason": "wait", "status": input.deviceRuntimeContext.payload.hold}
`)}}, allocation.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
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
		_, decision, err := allocator.AllocateJSON(t.Context(), []byte(body))
		fault, _ := errors.AsType[*allocation.Fault](err)
		answer := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, strings.NewReader(body))
		webhook.ServeHTTP(answer, request)
		if got := handler.StatusOf(decision, fault); got != answer.Code || got != test.want {
			t.Errorf("%s: StatusOf tells %d, the webhook answers %d, want %d", test.payload, got, answer.Code, test.want)
		}
		seen[answer.Code] = true
	}
	if len(seen) != 5 {
		t.Errorf("only the statuses %v were seen", seen)
	}
}
