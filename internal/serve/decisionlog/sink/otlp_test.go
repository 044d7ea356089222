package sink_test

import (
	"compress/gzip"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
)

func variables(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

const (
	assignedRecord = `{"usherRecord":1,"decisionId":"ID1","time":"2026-11-22T01:02:03.000000004Z","status":200,"decision":{"outcome":"assigned"},` +
		`"trace":{"traceId":"0af7651916cd43dd8448eb211c80319c","parentSpanId":"b7ad6b7169203331","spanId":"00f067aa0ba902b7"}}`
	undecidedRecord = `{"usherRecord":1,"decisionId":"ID2","time":"2026-11-22T01:02:04Z","status":503,"decision":{"fault":{"kind":"undecided"}}}`
	malformedRecord = `{"usherRecord":1,"decisionId":"ID3","time":"2026-11-22T01:02:05Z","status":400,"decision":{"fault":{"kind":"malformed"}}}`
)

// A collector receives each record as it is, with the attributes that collectors use.
func TestOTLP(t *testing.T) {
	t.Parallel()
	var got logs.LogsData
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/base/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" ||
			r.Header.Get("Content-Encoding") != "gzip" || r.Header.Get("Api-Key") != "se=cret" {
			t.Errorf("asked %s %s %v", r.Method, r.URL, r.Header)
		}
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(unzipped)
		if err != nil {
			t.Error(err)
		}
		if err := proto.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	o, err := sink.NewOTLP(variables(map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": server.URL + "/base", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=se%3Dcret",
		"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_SERVICE_NAME": "webhook", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,deployment.environment.name=test%20a",
	}))
	if err != nil {
		t.Fatal(err)
	}
	records := []string{assignedRecord, undecidedRecord, malformedRecord, "not a record \xff"}
	if err := o.Deliver(t.Context(), batch(records...)); err != nil {
		t.Fatal(err)
	}
	if len(got.ResourceLogs) != 1 || len(got.ResourceLogs[0].ScopeLogs) != 1 {
		t.Fatalf("got %v", &got)
	}
	attributes := map[string]string{}
	for _, a := range got.ResourceLogs[0].Resource.Attributes {
		attributes[a.Key] += a.Value.GetStringValue()
	}
	if attributes["service.name"] != "webhook" || attributes["deployment.environment.name"] != "test a" || len(attributes) != 2 {
		t.Errorf("resource %v", attributes)
	}
	received := got.ResourceLogs[0].ScopeLogs[0].LogRecords
	if len(received) != len(records) {
		t.Fatalf("got %d records", len(received))
	}
	for i, want := range []struct{ severity, id, result string }{
		{"INFO", "ID1", "assigned"}, {"ERROR", "ID2", "undecided"}, {"WARN", "ID3", "malformed"}, {"INFO", "", ""},
	} {
		r := received[i]
		beside := map[string]string{}
		for _, a := range r.Attributes {
			beside[a.Key] = a.Value.GetStringValue()
		}
		if r.Body.GetStringValue() != strings.ToValidUTF8(records[i], "\uFFFD") || r.SeverityText != want.severity || r.EventName != sink.EventName ||
			beside["dps.decision_id"] != want.id || beside["dps.result"] != want.result || r.ObservedTimeUnixNano == 0 {
			t.Errorf("got %v", r)
		}
	}
	first := received[0]
	if want := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC); first.TimeUnixNano != uint64(want.UnixNano()) ||
		hex.EncodeToString(first.TraceId) != "0af7651916cd43dd8448eb211c80319c" || hex.EncodeToString(first.SpanId) != "00f067aa0ba902b7" {
		t.Errorf("got %v", first)
	}
	if len(received[1].TraceId) != 0 || received[3].TimeUnixNano != 0 {
		t.Errorf("got %v, %v", received[1], received[3])
	}
}

// The answer of a collector decides whether records are delivered, wait or are dropped.
func TestOTLPAnswers(t *testing.T) {
	t.Parallel()
	partial := func(rejected uint64, message string) []byte {
		part := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), rejected)
		part = protowire.AppendString(protowire.AppendTag(part, 2, protowire.BytesType), message)
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), part)
	}
	for name, c := range map[string]struct {
		status     int
		retryAfter string
		answer     []byte
		want       string
		refused    int // -1: all
		wait       time.Duration
	}{
		"taken":            {status: 200},
		"taken in words":   {status: 200, answer: []byte("thank you")},
		"taken with hints": {status: 200, answer: partial(0, "use a newer version")},
		"some refused":     {status: 200, answer: partial(1, "too old"), want: "too old", refused: 1},
		"all refused":      {status: 400, want: "400", refused: -1},
		"too large":        {status: 413, want: "413", refused: -1},
		"no key":           {status: 401, want: "401; look at OTEL_EXPORTER_OTLP_HEADERS"},
		"wrong key":        {status: 403, want: "403; look at OTEL_EXPORTER_OTLP_HEADERS"},
		"wrong place":      {status: 404, want: "404"},
		"elsewhere":        {status: 307, want: "307"},
		"broken":           {status: 500, want: "500"},
		"overloaded":       {status: 429, retryAfter: "17", want: "429", wait: 17 * time.Second},
		"restarting":       {status: 503, want: "503"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				w.Header().Set("Location", "/elsewhere")
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write(c.answer)
			}))
			defer server.Close()
			o, err := sink.NewOTLP(variables(map[string]string{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": server.URL + "/?key=SECRET"}))
			if err != nil {
				t.Fatal(err)
			}
			err = o.Deliver(t.Context(), batch(assignedRecord, undecidedRecord))
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			refusal, refused := errors.AsType[*spool.Refusal](err)
			if refused != (c.refused != 0) || refused && refusal.Refused != max(0, c.refused) {
				t.Errorf("got %+v", refusal)
			}
			busy, isBusy := errors.AsType[*spool.Busy](err)
			if isBusy != (c.wait > 0) || isBusy && busy.Wait != c.wait {
				t.Errorf("got %+v", busy)
			}
			if asked.Load() != 1 {
				t.Errorf("asked %d times", asked.Load())
			}
			server.Close()
			if err := o.Deliver(t.Context(), batch(assignedRecord)); err == nil || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("of a collector that is away: %v", err)
			}
		})
	}
}

func TestOTLPVariables(t *testing.T) {
	t.Parallel()
	for want, values := range map[string]map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT is empty": {},
		"OTEL_SDK_DISABLED":                    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_SDK_DISABLED": "true"},
		"OTEL_EXPORTER_OTLP_PROTOCOL":          {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
		"OTEL_RESOURCE_ATTRIBUTES":             {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_RESOURCE_ATTRIBUTES": "SECRET"},
		"OTEL_EXPORTER_OTLP_HEADERS":           {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_EXPORTER_OTLP_HEADERS": "SECRET"},
	} {
		if _, err := sink.NewOTLP(variables(values)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
