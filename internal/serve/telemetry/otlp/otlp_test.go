package otlp_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/usher-dps/usher/internal/serve/telemetry/otlp"
	"github.com/usher-dps/usher/internal/standin/collector"
)

func environment(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func read(t *testing.T, values map[string]string) otlp.Settings {
	t.Helper()
	settings, err := otlp.ReadSettings(environment(values))
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

// must returns an exporter, or fails the test.
func must[T any](t testing.TB) func(exporter T, err error) T {
	return func(exporter T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return exporter
	}
}

// errorKeeper keeps the error of the last export, which otherwise goes to the global handler.
type errorKeeper struct {
	sdklog.Exporter
	err error
}

func (e *errorKeeper) Export(ctx context.Context, records []sdklog.Record) error {
	e.err = e.Exporter.Export(ctx, records)
	return nil
}

// exportLog sends one log record, and returns the text of the error.
func exportLog(t testing.TB, settings otlp.Settings, body string, attributes ...attribute.KeyValue) string {
	t.Helper()
	keeper := &errorKeeper{Exporter: must[sdklog.Exporter](t)(otlp.NewLogs(settings.Logs))}
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewSimpleProcessor(keeper)), sdklog.WithResource(resource.NewSchemaless(attribute.String("r", "x"))))
	var record log.Record
	record.SetBody(attribute.StringValue(body))
	record.AddAttributes(attributes...)
	provider.Logger("scope").Emit(t.Context(), record)
	if keeper.err == nil {
		return ""
	}
	return keeper.err.Error()
}

func TestEveryKindOfAttributeArrives(t *testing.T) {
	t.Parallel()
	c := collector.Start()
	defer c.Close()
	failed := exportLog(t, read(t, map[string]string{otlp.VariableEndpoint: c.URL + "/prefix/"}), "hello",
		attribute.Bool("bool", true), attribute.Int64("int", -7), attribute.Float64("float", 0.5), attribute.String("string", "s"),
		attribute.BoolSlice("bools", []bool{true, false}), attribute.Int64Slice("ints", []int64{1, 2}), attribute.Float64Slice("floats", []float64{1.5}),
		attribute.StringSlice("strings", []string{"a", ""}),
		attribute.KeyValue{Key: "bytes", Value: attribute.ByteSliceValue([]byte{0, 255})},
		attribute.KeyValue{Key: "mixed", Value: attribute.SliceValue(attribute.IntValue(1), attribute.StringValue("x"))},
		attribute.KeyValue{Key: "map", Value: attribute.MapValue(attribute.String("k", "v"))},
		attribute.KeyValue{Key: "empty"},
	)
	got, err := c.Wait(t.Context(), func(got collector.Received) bool { return len(got.Logs) == 1 })
	if err != nil || failed != "" {
		t.Fatal(err, failed)
	}
	want := collector.Attributes{
		"bool": true, "int": int64(-7), "float": 0.5, "string": "s", "bools": []any{true, false}, "ints": []any{int64(1), int64(2)}, "floats": []any{1.5},
		"strings": []any{"a", ""}, "bytes": []byte{0, 255}, "mixed": []any{int64(1), "x"}, "map": collector.Attributes{"k": "v"}, "empty": nil,
	}
	if !reflect.DeepEqual(got.Logs[0].Attributes, want) || got.Logs[0].Body != "hello" || got.Logs[0].Resource["r"] != "x" {
		t.Errorf("got %+v", got.Logs[0])
	}
}

// Values of all instruments arrive, in the configured temporality.
func TestMetricsArrive(t *testing.T) {
	t.Parallel()
	for temporality, cumulative := range map[string][2]bool{ // counter, observable counter
		"":           {true, true},
		"cumulative": {true, true},
		"delta":      {false, false},
		"LowMemory":  {false, true},
	} {
		c := collector.Start()
		settings := read(t, map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": c.URL + "/v1/metrics", otlp.VariableTemporality: temporality})
		if settings.Traces != nil || settings.Logs != nil {
			t.Error("signals without an endpoint are on")
		}
		exporter := must[sdkmetric.Exporter](t)(otlp.NewMetrics(settings.Metrics, settings.Temporality))
		provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)))
		meter := provider.Meter("scope")
		counter, _ := meter.Int64Counter("counter", metric.WithUnit("{x}"), metric.WithDescription("what"))
		histogram, _ := meter.Float64Histogram("histogram", metric.WithExplicitBucketBoundaries(1, 2))
		gauge, _ := meter.Int64Gauge("gauge")
		upDown, _ := meter.Float64UpDownCounter("updown")
		if _, err := meter.Float64ObservableCounter("observed", metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(9)
			return nil
		})); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			counter.Add(t.Context(), 2, metric.WithAttributes(attribute.String("a", "b")))
			histogram.Record(t.Context(), 1.5)
			gauge.Record(t.Context(), 5)
			upDown.Add(t.Context(), -1)
			if err := provider.ForceFlush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		got, err := c.Wait(t.Context(), func(got collector.Received) bool { return len(got.Metrics) == 10 })
		if err != nil {
			t.Fatal(err)
		}
		second := map[string]collector.Metric{}
		for _, m := range got.Metrics[5:] {
			second[m.Name] = m
		}
		sum := map[bool]float64{true: 4, false: 2}[cumulative[0]]
		if m := second["counter"]; m.Value != sum || m.Cumulative != cumulative[0] || !m.Monotonic || m.Attributes["a"] != "b" || m.Unit != "{x}" || m.Description != "what" {
			t.Errorf("%s: %+v", temporality, m)
		}
		if m := second["observed"]; m.Value != map[bool]float64{true: 9, false: 0}[cumulative[1]] || m.Cumulative != cumulative[1] {
			t.Errorf("%s: %+v", temporality, m)
		}
		if m := second["histogram"]; m.Value != sum*0.75 || m.Count != uint64(sum/2) || !slices.Equal(m.Bounds, []float64{1, 2}) ||
			!slices.Equal(m.Buckets, []uint64{0, uint64(sum / 2), 0}) || m.Cumulative != cumulative[0] {
			t.Errorf("%s: %+v", temporality, m)
		}
		if m := second["gauge"]; m.Value != 5 {
			t.Errorf("%s: %+v", temporality, m)
		}
		if m := second["updown"]; m.Value != -2 || m.Monotonic || !m.Cumulative {
			t.Errorf("%s: %+v", temporality, m)
		}
		_ = provider.Shutdown(t.Context())
		c.Close()
	}
}

// The answer of a collector decides whether a delivery is retried, and what is reported.
func TestAnswersOfACollector(t *testing.T) {
	t.Parallel()
	partial := protowire.AppendTag(nil, 2, protowire.BytesType) // a field of a later version
	partial = protowire.AppendString(partial, "later")
	inner := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 3)
	inner = protowire.AppendString(protowire.AppendTag(inner, 2, protowire.BytesType), "too old")
	partial = protowire.AppendBytes(protowire.AppendTag(partial, 1, protowire.BytesType), inner)
	hint := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), "a hint")
	hint = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), hint)
	for name, test := range map[string]struct {
		statuses []int // of the first answers; the last one stays
		body     []byte
		asked    int
		reported string
	}{
		"accepted":             {[]int{200}, nil, 1, ""},
		"accepted in words":    {[]int{202}, []byte("thank you"), 1, ""},
		"unavailable once":     {[]int{503, 200}, nil, 2, ""},
		"too many once":        {[]int{429, 200}, nil, 2, ""},
		"a gateway's fault":    {[]int{502, 504, 200}, nil, 3, ""},
		"never":                {[]int{400}, []byte("CANARY"), 1, "the collector answered with status 400"},
		"not allowed":          {[]int{401}, []byte("CANARY"), 1, "status 401"},
		"no such path":         {[]int{404}, []byte("CANARY"), 1, "/base/v1/logs\": the collector answered with status 404"},
		"elsewhere":            {[]int{308}, nil, 1, "status 308"},
		"the collector's bug":  {[]int{500}, nil, 1, "status 500"},
		"accepted in part":     {[]int{200}, partial, 1, `the collector rejected 3 of them: "too old"`},
		"accepted with a hint": {[]int{200}, hint, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				status := test.statuses[min(asked, len(test.statuses)-1)]
				asked++
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.WriteHeader(status)
				_, _ = w.Write(test.body)
			}))
			failed := exportLog(t, read(t, map[string]string{otlp.VariableEndpoint: server.URL + "/base?key=CANARY", otlp.VariableTimeout: "20000"}), "x")
			server.Close()
			if asked != test.asked || !strings.Contains(failed, test.reported) || (test.reported == "") != (failed == "") || strings.Contains(failed, "CANARY") {
				t.Errorf("asked %d times, reported %q", asked, failed)
			}
		})
	}
}

// If a collector asks for a wait beyond the timeout, the delivery fails at once. The error contains address and status.
func TestRetryAfterBeyondTheTimeout(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	failed := exportLog(t, read(t, map[string]string{otlp.VariableEndpoint: server.URL, otlp.VariableTimeout: "60000"}), "x")
	if asked != 1 || !strings.Contains(failed, "status 503 at "+server.URL+"/v1/logs") {
		t.Errorf("asked %d times, reported %q", asked, failed)
	}
}

// If the time runs out before a request, the error still contains the address, and no key.
func TestNoTimeForARequest(t *testing.T) {
	t.Parallel()
	settings := read(t, map[string]string{otlp.VariableEndpoint: "http://user:CANARY@127.0.0.1:1/base?key=CANARY"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for path, err := range map[string]error{
		"traces":  must[sdktrace.SpanExporter](t)(otlp.NewTraces(settings.Traces)).ExportSpans(ctx, tracetest.SpanStubs{{Name: "x"}}.Snapshots()),
		"metrics": must[sdkmetric.Exporter](t)(otlp.NewMetrics(settings.Metrics, "delta")).Export(ctx, &metricdata.ResourceMetrics{}),
		"logs":    must[sdklog.Exporter](t)(otlp.NewLogs(settings.Logs)).Export(ctx, make([]sdklog.Record, 1)),
	} {
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "http://127.0.0.1:1/base/v1/"+path) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// A collector that cannot be reached is retried until the timeout.
func TestRetryUntilTheTimeout(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer server.Close()
	failed := exportLog(t, read(t, map[string]string{otlp.VariableEndpoint: server.URL, otlp.VariableTimeout: "1"}), "x")
	if !strings.Contains(failed, "max retry time") || !strings.Contains(failed, server.URL+"/v1/logs") {
		t.Errorf("reported %q", failed)
	}
}

// A collector with a certificate of the operator's own authority, a compressed body, and keys in headers and address.
// Errors show the address without its keys.
func TestTLS(t *testing.T) {
	t.Parallel()
	var header http.Header
	var query string
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		header, query = r.Header.Clone(), r.URL.RawQuery
	}))
	defer server.Close()
	authority := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(server.URL, "https://")
	values := map[string]string{
		otlp.VariableEndpoint: "https://user:canary-password@" + host + "/path?key=canary-query", otlp.VariableHeaders: "api-key=a%20b,common=1",
		"OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x-key=canary%3D", otlp.VariableCompression: "gzip", otlp.VariableTimeout: "60000",
	}
	failed := exportLog(t, read(t, values), "x")
	if !strings.Contains(failed, "certificate") || !strings.Contains(failed, server.URL+"/path/v1/logs") || strings.Contains(failed, "canary") {
		t.Errorf("an unknown authority: %q", failed)
	}
	values[otlp.VariableCertificate] = authority
	failed = exportLog(t, read(t, values), "x")
	user, password, _ := (&http.Request{Header: header}).BasicAuth()
	if failed != "" || header.Get("X-Key") != "canary=" || header.Get("Api-Key") != "" || header.Get("Content-Encoding") != "gzip" ||
		user != "user" || password != "canary-password" || query != "key=canary-query" {
		t.Errorf("reported %q, sent %v with the query %s", failed, header, query)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	const canary = "CANARYx4711"
	file := filepath.Join(t.TempDir(), "no.pem")
	if err := os.WriteFile(file, []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	endpoint := map[string]string{otlp.VariableEndpoint: "http://collector:4318"}
	for name, c := range map[string]struct {
		values map[string]string
		on     string // signals
		want   []string
	}{
		"nothing":                {nil, "", nil},
		"all":                    {endpoint, "traces metrics logs", nil},
		"disabled":               {with(endpoint, otlp.VariableDisabled, "TRUE"), "", nil},
		"disabled and wrong":     {with(endpoint, otlp.VariableDisabled, "true", otlp.VariableProtocol, "grpc"), "", nil},
		"not disabled":           {with(endpoint, otlp.VariableDisabled, "false"), "traces metrics logs", nil},
		"no metrics":             {with(endpoint, otlp.VariableMetricsExporter, "none"), "traces logs", nil},
		"grpc that is not used":  {with(nil, otlp.VariableProtocol, "grpc"), "", nil},
		"http for one":           {with(endpoint, otlp.VariableProtocol, "grpc", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf", otlp.VariableTracesExporter, "none", otlp.VariableMetricsExporter, "none"), "logs", nil},
		"grpc":                   {with(endpoint, otlp.VariableProtocol, "grpc"), "", []string{"OTEL_EXPORTER_OTLP_PROTOCOL: grpc is not supported; set http/protobuf", "4318"}},
		"json":                   {with(endpoint, otlp.VariableProtocol, "http/json"), "", []string{"OTEL_EXPORTER_OTLP_PROTOCOL: not http/protobuf"}},
		"no address":             {with(nil, otlp.VariableEndpoint, canary+":4318"), "", []string{"OTEL_EXPORTER_OTLP_ENDPOINT: not an address"}},
		"no host name":           {with(nil, otlp.VariableEndpoint, "http://:4318"), "", []string{"OTEL_EXPORTER_OTLP_ENDPOINT: not an address"}},
		"no address of a signal": {with(endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://"+canary), "", []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: not an address"}},
		"another exporter":       {with(endpoint, otlp.VariableMetricsExporter, "prometheus"), "", []string{"OTEL_METRICS_EXPORTER: neither", "USHER_METRICS_LISTEN"}},
		"several": {with(endpoint, otlp.VariableHeaders, canary, otlp.VariableTimeout, "10s", otlp.VariableCompression, "zstd", otlp.VariableTemporality, "x"), "",
			[]string{"OTEL_EXPORTER_OTLP_HEADERS: ", "OTEL_EXPORTER_OTLP_TIMEOUT: not a number of milliseconds", "OTEL_EXPORTER_OTLP_COMPRESSION: neither", "TEMPORALITY_PREFERENCE: none of"}},
		"a header that would be two": {with(endpoint, otlp.VariableHeaders, "a=b%0d%0a"+canary), "", []string{"OTEL_EXPORTER_OTLP_HEADERS: "}},
		"no authority":               {with(endpoint, otlp.VariableCertificate, file), "", []string{"OTEL_EXPORTER_OTLP_CERTIFICATE: not a file"}},
		"half of a pair":             {with(endpoint, otlp.VariableClientKey, file), "", []string{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: goes together with OTEL_EXPORTER_OTLP_CLIENT_KEY"}},
		"no pair":                    {with(endpoint, otlp.VariableClientKey, file, otlp.VariableClientCertificate, file), "", []string{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: does not load"}},
	} {
		settings, err := otlp.ReadSettings(environment(c.values))
		var on []string
		for _, signal := range []struct {
			name     string
			endpoint *otlp.Endpoint
		}{{"traces", settings.Traces}, {"metrics", settings.Metrics}, {"logs", settings.Logs}} {
			if signal.endpoint != nil {
				on = append(on, signal.name)
			}
		}
		if strings.Join(on, " ") != c.on || settings.On() != (c.on != "") || (err != nil) != (c.want != nil) {
			t.Errorf("%s: on are %v, error %v", name, on, err)
		}
		for _, want := range c.want {
			if err == nil || strings.Count(err.Error(), want) != 1 {
				t.Errorf("%s: %q is not once in: %v", name, want, err)
			}
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error shows a value: %v", name, err)
		}
	}
}

func with(base map[string]string, pairs ...string) map[string]string {
	values := map[string]string{}
	for name, value := range base {
		values[name] = value
	}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	return values
}

// A list of pairs has no empty keys, and no value can become a second header.
func FuzzPairs(f *testing.F) {
	for _, seed := range []string{"", "a=b", "a=b,c=d%2C", " a = b ,,", "a", "=b", "a=%0a", "a=b=c", "a=%zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pairs, err := otlp.Pairs(text)
		if err != nil {
			return
		}
		for _, pair := range pairs {
			if pair.Key == "" || strings.ContainsAny(string(pair.Key)+pair.Value.AsString(), "\r\n") {
				t.Errorf("%q gives %q", text, pairs)
			}
		}
	})
}

// No answer of a collector breaks an exporter.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{10, 2, 8, 1})
	f.Add([]byte{10, 200})
	f.Add([]byte("no protobuf"))
	var mu sync.Mutex
	var answer []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = w.Write(answer)
	}))
	f.Cleanup(server.Close)
	settings, err := otlp.ReadSettings(environment(map[string]string{otlp.VariableEndpoint: server.URL}))
	if err != nil {
		f.Fatal(err)
	}
	exporter := must[sdktrace.SpanExporter](f)(otlp.NewTraces(settings.Traces))
	f.Fuzz(func(t *testing.T, body []byte) {
		mu.Lock()
		answer = bytes.Clone(body)
		mu.Unlock()
		err := exporter.ExportSpans(t.Context(), tracetest.SpanStubs{{Name: "x"}}.Snapshots())
		if err != nil && !strings.Contains(err.Error(), "the collector rejected") {
			t.Error(err)
		}
	})
}
