package decider_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// A body within the webhook's limit takes a bounded amount of memory, and so of time. What is written for each value,
// such as its place, must not grow with the names above it: with a name of half the body the product is gigabytes.
func TestHostileBodiesAreCheap(t *testing.T) { // not parallel: it measures what the process allocates
	const size, most = 256 << 10, 64 << 20
	allocator, err := decider.New(decider.Options{Rules: load(t, map[string]string{"d.rego": `package allocation.default

hub := input.linkedHubs[0]

initial_twin := {"tags": input.deviceRuntimeContext.payload.twin}

payload := input.deviceRuntimeContext.payload.payload
`})})
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", size/2)
	fill := func(value string) string { // an array under a long name
		return `{"` + name + `": [` + value + strings.Repeat(","+value, (size/2-300)/(len(value)+1)) + `]}`
	}
	asking := func(payload string) string {
		return `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d", "payload": ` + payload + `}, "linkedHubs": ["a.azure-devices.net"]}`
	}
	for what, test := range map[string]struct {
		body string
		want answer.Result
	}{
		"no request: numbers":        {fill("1"), answer.InvalidRequest},
		"no request: objects":        {fill("{}"), answer.InvalidRequest},
		"no request: long numbers":   {fill(strings.Repeat("9", 60)), answer.InvalidRequest},
		"no request: numbers as hub": {`{"linkedHubs": [1` + strings.Repeat(",1", size/2-20) + `]}`, answer.InvalidRequest},
		"no request: arrays as hub":  {`{"linkedHubs": [[]` + strings.Repeat(",[]", size/3-20) + `]}`, answer.InvalidRequest},
		"a certificate": {`{"enrollmentGroup": {"enrollmentGroupId": "g", "attestation": {"type": "x509", "x509": {"signingCertificates": {"primary": {"info": ` +
			fill("1") + `}}}}}}`, answer.InvalidRequest},
		"payload":                {asking(fill("{}")), answer.Assigned},
		"returned payload":       {asking(`{"payload": ` + fill("{}") + `}`), answer.BadVerdict},
		"twin of objects":        {asking(`{"twin": ` + fill("{}") + `}`), answer.BadVerdict},
		"twin of numbers":        {asking(`{"twin": ` + fill("1") + `}`), answer.BadVerdict},
		"twin of large integers": {asking(`{"twin": ` + fill("9999999999999999999") + `}`), answer.BadVerdict},
	} {
		if len(test.body) > size+1000 {
			t.Fatalf("%s: %d bytes", what, len(test.body))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, got := allocator.AllocateJSON(t.Context(), []byte(test.body))
		runtime.ReadMemStats(&after)
		if allocated := after.TotalAlloc - before.TotalAlloc; got.Result != test.want || allocated > most {
			t.Errorf("%s: %s, %d MB; want %s within %d MB", what, got.Result, allocated>>20, test.want, most>>20)
		}
	}
}
