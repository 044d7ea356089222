package fleet

import (
	"testing"
	"time"
)

func TestParseResponse(t *testing.T) {
	t.Parallel()
	got, rid, err := parseResponse("$dps/registrations/res/202/?$rid=7&retry-after=3")
	if err != nil || got.status != 202 || got.retryAfter != 3*time.Second || rid != "7" {
		t.Errorf("got %+v, %q, %v", got, rid, err)
	}
	if got, _, err = parseResponse("$dps/registrations/res/200/?$rid=7"); err != nil || got.retryAfter != defaultPoll {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, topic := range []string{"", "$dps/registrations/res/", "$dps/registrations/res/ok/?$rid=1", "$iothub/twin/res/200/?$rid=1", "$dps/registrations/res/200/?%zz"} {
		if _, _, err := parseResponse(topic); err == nil {
			t.Errorf("%q is taken", topic)
		}
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add("$dps/registrations/res/202/?$rid=7&retry-after=3")
	f.Add("$dps/registrations/res/429/?$rid=&retry-after=-1")
	f.Fuzz(func(t *testing.T, topic string) {
		got, _, err := parseResponse(topic)
		if err == nil && (got.retryAfter < 0 || got.retryAfter > time.Hour) {
			t.Errorf("retry after %v", got.retryAfter)
		}
	})
}
