package decisionlog_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// FuzzRecord: whatever is posted and whatever the rule tells of it, a record is valid, holds no key, and no ID where
// none may be.
func FuzzRecord(f *testing.F) {
	bodies := examples(f)
	names := make([]string, 0, len(bodies))
	for name := range bodies {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		f.Add(bodies[name], uint8(i))
	}
	var allocators []*decider.Decider
	rules := tellers()
	var order []string
	for name := range rules {
		order = append(order, name)
	}
	slices.Sort(order)
	for _, name := range order {
		allocators = append(allocators, allocatorOf(f, rules[name], decider.RulesOptions{}))
	}
	const key, id = "CANARYxKEYx4711x0815", "CANARY-id-4711"
	f.Fuzz(func(t *testing.T, body []byte, choice uint8) {
		var document map[string]any
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		if decoder.Decode(&document) == nil {
			plantIn(document, key, id)
			if planted, err := json.Marshal(document); err == nil {
				body = planted
			}
		}
		allocator := allocators[int(choice)%len(allocators)]
		for _, mode := range modes() {
			sink := &memory{}
			webhook := handler.New(handler.Options{Allocator: allocator, Observers: []answer.Observer{newRecorder(t, mode, sink).Observe}})
			webhook.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, bytes.NewReader(body)))
			if len(sink.records) != 1 {
				t.Fatalf("%d records of %s", len(sink.records), body)
			}
			text := string(sink.records[0])
			if _, err := decisionlog.Decode(sink.records[0]); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			validate(t, text)
			if lower := strings.ToLower(text); strings.Contains(lower, strings.ToLower(key)) || mode != decisionlog.Plain && strings.Contains(lower, strings.ToLower(id)) {
				t.Errorf("%s: %s\nof %s", mode, text, body)
			}
		}
	})
}

// plantIn puts the canaries wherever DPS has keys and the names of devices.
func plantIn(value any, key, id string) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			plantIn(element, key, id)
		}
	case map[string]any:
		for name, member := range v {
			_, text := member.(string)
			switch {
			case text && (name == "registrationId" || name == "deviceId" || name == "currentDeviceId"):
				v[name] = id
			case text && (name == "endorsementKey" || name == "storageRootKey" || name == "clientCertificate" || name == "certificate"):
				v[name] = key
			default:
				plantIn(member, key, id)
			}
		}
	}
}
