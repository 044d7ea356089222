package decisionlog_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// memory is a sink that keeps what it is given.
type memory struct {
	mu      sync.Mutex
	records [][]byte
}

func (*memory) Name() string { return "memory" }

func (m *memory) Write(record []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = append(m.records, bytes.Clone(record))
	return nil
}

var hashKey = []byte("a key that is for tests alone")

func newRecorder(t testing.TB, mode decisionlog.IDMode, sinks ...decisionlog.Sink) *decisionlog.Recorder {
	t.Helper()
	options := decisionlog.Options{Sinks: sinks, RegistrationIDs: mode, Failed: func(sink string, err error) {
		t.Errorf("sink %q: %v", sink, err)
	}}
	if mode == decisionlog.Hashed {
		options.HashKey = hashKey
	}
	recorder, err := decisionlog.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return recorder
}

func shippedAllocator(t testing.TB) *decider.Decider {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), os.DirFS("../../../rules"), decider.RulesOptions{Name: "rules", Revision: "v7"})
	return newAllocator(t, rules, err)
}

func allocatorOf(t testing.TB, rego string, options decider.RulesOptions) *decider.Decider {
	t.Helper()
	options.Name = "rules"
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(rego)}}, options)
	return newAllocator(t, rules, err)
}

func newAllocator(t testing.TB, rules *decider.Rules, err error) *decider.Decider {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

// record posts a body to the webhook and returns the record, as it is stored and as it is read back, and the answer.
func record(t testing.TB, allocator *decider.Decider, mode decisionlog.IDMode, body []byte) (string, decisionlog.Record, *httptest.ResponseRecorder) {
	t.Helper()
	sink := &memory{}
	webhook := handler.New(handler.Options{Allocator: allocator, Observers: []answer.Observer{newRecorder(t, mode, sink).Observe}})
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, bytes.NewReader(body))
	request.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	answer := httptest.NewRecorder()
	webhook.ServeHTTP(answer, request)
	if len(sink.records) != 1 {
		t.Fatalf("%d records", len(sink.records))
	}
	decoded, err := decisionlog.Decode(sink.records[0])
	if err != nil {
		t.Fatalf("%v\n%s", err, sink.records[0])
	}
	return string(sink.records[0]), decoded, answer
}

// examples are the requests of examples/, by file name.
func examples(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(paths) < 20 {
		t.Fatal(paths, err)
	}
	bodies := map[string][]byte{}
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bodies[strings.TrimSuffix(filepath.Base(path), ".json")] = body
	}
	return bodies
}

// BenchmarkObserve is what a record costs each allocation, its sink aside.
func BenchmarkObserve(b *testing.B) {
	allocator := shippedAllocator(b)
	for _, name := range []string{
		"req-verbatim-04-group-symkey-reprovision-payload-2021-10-01", "constructed-11-group-x509-signing-initial",
		"constructed-13-individual-tpm-initial", "quarantine-refused",
	} {
		for _, mode := range []decisionlog.IDMode{decisionlog.Plain, decisionlog.Hashed} {
			b.Run(name+"/"+string(mode), func(b *testing.B) {
				var kept answer.Call
				webhook := handler.New(handler.Options{Allocator: allocator, Observers: []answer.Observer{
					func(_ context.Context, a *answer.Call) { kept = *a }}})
				body := examples(b)[name]
				webhook.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(b.Context(), http.MethodPost, handler.AllocatePath, bytes.NewReader(body)))
				recorder := newRecorder(b, mode, discard{})
				b.ReportAllocs()
				for b.Loop() {
					recorder.Observe(b.Context(), &kept)
				}
			})
		}
	}
}

type discard struct{}

func (discard) Name() string       { return "discard" }
func (discard) Write([]byte) error { return nil }
