package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/standin/collector"
)

// started is the program, running.
type started struct {
	address string
	log     *output
	stop    func() error
}

// start runs the program with these settings; it stops when the test ends.
func start(t *testing.T, settings map[string]string) started {
	t.Helper()
	all := map[string]string{settingListen: "127.0.0.1:0"}
	for name, value := range settings {
		all[name] = value
	}
	if all[settingRules] == "" {
		all[settingRules] = rulesFolder(t, firstHub)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := newOutput()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, variables(all), nil, log)
		t.Log("ended:", err) // the clean-up waits for it
		ended <- err
	}()
	s := started{log: log, stop: func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}}
	t.Cleanup(func() { _ = s.stop() })
	s.address = log.wait(t, "serving")["address"].(string)
	return s
}

// waitText waits until the log contains a text.
func (o *output) waitText(t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(o.String(), text) {
		select {
		case <-o.lines:
		case <-time.After(20 * time.Second):
			t.Fatalf("no %q in %s", text, o)
		}
	}
}

// post sends a body to the webhook and returns the status.
func (s started) post(t *testing.T, query, body string, header http.Header) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.address+handler.AllocatePath+query, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

func startCollector(t *testing.T) *collector.Collector {
	t.Helper()
	c := collector.Start()
	t.Cleanup(c.Close)
	return c
}

func waitFor(t *testing.T, c *collector.Collector, enough func(collector.Received) bool) collector.Received {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	received, err := c.Wait(ctx, enough)
	if err != nil {
		t.Fatal(err)
	}
	return received
}

const (
	secret     = "CANARYx4711"
	traceID    = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentSpan = "00f067aa0ba902b7"
)

// secretRequest has the secret wherever DPS sends key material, and wherever a device or an operator could put some.
const secretRequest = `{
	"enrollmentGroup": {"enrollmentGroupId": "line-a", "attestation": {"type": "tpm", "tpm": {"endorsementKey": "` + secret + `"},
		"symmetricKey": {"primaryKey": "` + secret + `", "secondaryKey": "` + secret + `"}},
		"initialTwin": {"tags": {"a": "` + secret + `"}}, "etag": "` + secret + `",
		"customAllocationDefinition": {"webhookUrl": "https://x.example/api/allocate?code=` + secret + `", "apiVersion": "2021-10-01"}},
	"deviceRuntimeContext": {"registrationId": "press-0001", "payload": {"a": "` + secret + `"},
		"symmetricKey": {"primaryKey": "` + secret + `"}, "tpm": {"storageRootKey": "` + secret + `", "endorsementKey": "` + secret + `"},
		"x509": {"clientCertificate": "` + secret + `"}},
	"linkedHubs": ["a.azure-devices.net"]}`

// A collector gets traces, metrics and logs of a call by a Functions host that marks its span as not sampled, and no
// secret.
func TestTelemetryReachesACollector(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	key := "function-key-" + secret
	s := start(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=header%2C" + secret, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
		"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test", "WEBSITE_SITE_NAME": "app", "WEBSITE_INSTANCE_ID": "instance-1",
		"OTEL_METRIC_EXPORT_INTERVAL": "50", settingFunctionKeys: key, settingRecordSinks: "none",
	})
	status := s.post(t, "?code="+key, secretRequest, http.Header{
		"Traceparent": {"00-" + traceID + "-" + parentSpan + "-00"}, "X-Azure-Functions-Invocationid": {"invocation-1"}})
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if status := s.post(t, "?code=wrong-"+secret, secretRequest, nil); status != http.StatusUnauthorized {
		t.Fatalf("status %d", status)
	}
	got := waitFor(t, c, func(got collector.Received) bool {
		return len(got.Spans) >= 6 && slices.ContainsFunc(got.Metrics, named("usher.allocations")) &&
			slices.ContainsFunc(got.Logs, func(l collector.Log) bool { return l.Body == "refused" })
	})

	spans := map[string]collector.Span{}
	for _, span := range got.Spans {
		spans[span.Name] = span
	}
	server := spans["POST /api/allocate"]
	if !server.Server || server.TraceID != traceID || server.ParentID != parentSpan || server.Error {
		t.Errorf("the span of the call is %+v", server)
	}
	for name, want := range map[string]any{
		"http.request.method": "POST", "http.route": "/api/allocate", "http.response.status_code": int64(200), "faas.invocation_id": "invocation-1",
		"dps.result": "assigned", "dps.enrollment": "line-a", "dps.enrollment.kind": "enrollmentGroup", "dps.hub": "a.azure-devices.net",
		"dps.rule": "allocation.default", "dps.initial_twin": "none",
	} {
		if server.Attributes[name] != want {
			t.Errorf("%s is %v, want %v", name, server.Attributes[name], want)
		}
	}
	for name, want := range map[string]any{
		"service.name": "app", "service.instance.id": "instance-1", "cloud.provider": "azure", "deployment.environment.name": "test",
	} {
		if server.Resource[name] != want {
			t.Errorf("the resource's %s is %v, want %v", name, server.Resource[name], want)
		}
	}
	line := s.log.wait(t, "allocation")
	if server.Attributes["dps.decision_id"] != line["decision_id"] || line["decision_id"] == nil || server.SpanID != line["span_id"] || line["trace_id"] != traceID {
		t.Errorf("the span %+v and the log line %v are of different calls", server, line)
	}
	last := server.Start
	for _, name := range []string{"parse", "check", "evaluate", "accept", "record"} {
		stage, ok := spans[name]
		if !ok || stage.ParentID != server.SpanID || stage.TraceID != traceID || stage.Start < last || stage.End > server.End || stage.End < stage.Start {
			t.Errorf("%s: %+v does not follow within %+v", name, stage, server)
		}
		last = stage.End
	}
	if len(got.Spans) != 6 {
		t.Errorf("%d spans", len(got.Spans))
	}

	counted := got.Metrics[slices.IndexFunc(got.Metrics, named("usher.allocations"))]
	if counted.Value != 1 || !counted.Cumulative || !counted.Monotonic || counted.Attributes["dps.hub"] != "a.azure-devices.net" ||
		counted.Attributes["dps.enrollment"] != "line-a" || counted.Attributes["dps.result"] != "assigned" {
		t.Errorf("counted %+v", counted)
	}
	duration := got.Metrics[slices.IndexFunc(got.Metrics, named("usher.allocation.duration"))]
	if duration.Count != 1 || duration.Unit != "s" || duration.Bounds[0] != 0.0005 || duration.Bounds[len(duration.Bounds)-1] != 4 ||
		duration.Value <= 0 || duration.Value > 4 || !slices.Equal(duration.ExemplarTraceIDs, []string{traceID}) {
		t.Errorf("the duration is %+v", duration)
	}
	if !slices.ContainsFunc(got.Metrics, named("go.goroutine.count")) {
		t.Error("no metric of the Go runtime")
	}

	log := got.Logs[slices.IndexFunc(got.Logs, func(l collector.Log) bool { return l.Body == "allocation" })]
	if log.TraceID != traceID || log.SpanID != server.SpanID || log.Severity != "INFO" || log.Attributes["decision_id"] != line["decision_id"] {
		t.Errorf("the log record is %+v", log)
	}
	for _, header := range got.Headers {
		if header.Get("Api-Key") != "header,"+secret {
			t.Errorf("the header is %q", header.Get("Api-Key"))
		}
	}

	if err := s.stop(); err != nil {
		t.Error(err)
	}
	c.Close()
	for what, text := range map[string]string{"what was sent": string(got.Raw), "the log": s.log.String()} {
		if strings.Contains(text, secret) {
			t.Errorf("%s holds a secret:\n%s", what, text)
		}
	}
}

// A span and its record refer to each other, and identify the device in the same way.
func TestSpansAndRecordsJoin(t *testing.T) {
	t.Parallel()
	for mode, named := range map[string]bool{"plain": true, "hashed": true, "absent": false} {
		c := startCollector(t)
		s := start(t, map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_METRIC_EXPORT_INTERVAL": "50", settingRecordSinks: "stdout,otlp", settingRecordSpool: t.TempDir(),
			settingRecordIDs: mode, settingRecordIDKey: "a-key-for-hashing-" + secret,
		})
		if status := s.post(t, "", secretRequest, nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		var record struct {
			DecisionID     string
			RegistrationID string
			Trace          struct{ TraceID, SpanID string }
		}
		got := waitFor(t, c, func(got collector.Received) bool {
			return len(got.Spans) == 6 && slices.ContainsFunc(got.Metrics, func(m collector.Metric) bool {
				return m.Name == "usher.records.delivered" && m.Attributes["usher.record.sink"] == "otlp" && m.Value == 1
			})
		})
		for _, log := range got.Logs {
			if strings.HasPrefix(log.Body, `{"usherRecord":`) {
				if err := json.Unmarshal([]byte(log.Body), &record); err != nil {
					t.Fatal(err)
				}
			}
		}
		server := got.Spans[slices.IndexFunc(got.Spans, func(s collector.Span) bool { return s.Server })]
		device, _ := server.Attributes["dps.registration_id"].(string)
		if record.Trace.SpanID != server.SpanID || record.Trace.TraceID != server.TraceID || server.ParentID != "" ||
			server.Attributes["dps.decision_id"] != record.DecisionID || device != record.RegistrationID || (device != "") != named {
			t.Errorf("%s: the span %+v and the record %+v do not join", mode, server, record)
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		for what, text := range map[string]string{"what was sent": string(got.Raw), "the log": s.log.String()} {
			if strings.Contains(text, secret) || mode != "plain" && strings.Contains(text, "press-0001") {
				t.Errorf("%s: %s holds a secret or names the device:\n%s", mode, what, text)
			}
		}
	}
}

func named(name string) func(collector.Metric) bool {
	return func(m collector.Metric) bool { return m.Name == name }
}

// When it is told to stop, the program sends what it has, even if no interval is over.
func TestTelemetryIsSentAtTheEnd(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	s := start(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_METRIC_EXPORT_INTERVAL": "3600000", "OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_BLRP_SCHEDULE_DELAY": "3600000",
	})
	if status := s.post(t, "", requestBody, nil); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, c, func(got collector.Received) bool {
		return len(got.Spans) == 6 && slices.ContainsFunc(got.Metrics, named("usher.allocations")) && len(got.Logs) > 0
	})
}

// If a collector is away, hangs or refuses, no allocation fails, and the log has one line with the address and without
// a key. A process has one handler of OpenTelemetry's errors, so nothing here is parallel.
func TestCollectorFails(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for name, answer := range map[string]http.HandlerFunc{
		"away": nil,
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that the caller went away
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		},
		"refuses": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not with "+secret, http.StatusForbidden) },
		"fails":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"points elsewhere": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := "127.0.0.1:" + freePort(t)
			if answer != nil {
				server := httptest.NewServer(answer)
				t.Cleanup(server.Close)
				address = server.Listener.Addr().String()
			}
			s := start(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:" + secret + "@" + address + "/path?key=" + secret,
				"OTEL_EXPORTER_OTLP_TIMEOUT":  "300", "OTEL_EXPORTER_OTLP_HEADERS": "k=" + secret,
				"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_BLRP_SCHEDULE_DELAY": "10", "OTEL_METRIC_EXPORT_INTERVAL": "10",
			})
			for range 50 {
				if status := s.post(t, "", requestBody, nil); status != http.StatusOK {
					t.Fatalf("status %d", status)
				}
			}
			s.log.waitText(t, `"level":"WARN","msg":"telemetry is not delivered","error":"`)
			if err := s.stop(); err != nil {
				t.Error(err)
			}
			text := s.log.String()
			if n := strings.Count(text, "telemetry is not delivered"); n != 1 {
				t.Errorf("%d lines: %s", n, text)
			}
			if strings.Contains(text, secret) || !strings.Contains(text, "http://"+address+"/path/v1/") {
				t.Errorf("the log contains a key, or not the address: %s", text)
			}
		})
	}
}

// Prometheus scrapes another address than the webhook's.
func TestMetricsForPrometheus(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{settingMetricsListen: "127.0.0.1:0"})
	scrape := ""
	for line := range strings.Lines(s.log.String()) {
		var fields struct{ Msg, Address string }
		if err := json.Unmarshal([]byte(line), &fields); err == nil && fields.Msg == "serving metrics" {
			scrape = "http://" + fields.Address
		}
	}
	if scrape == "" {
		t.Fatalf("the log does not say where: %s", s.log)
	}
	s.post(t, "", requestBody, nil)
	s.post(t, "", "{}", nil)
	text := get(t, scrape+"/metrics", http.StatusOK)
	for _, want := range []string{
		`usher_allocations_total{dps_enrollment="g",dps_enrollment_kind="enrollmentGroup",dps_hub="a.azure-devices.net",dps_result="assigned",usher_rules_source="current"} 1`,
		`usher_allocations_total{dps_result="invalid_request",usher_rules_source="current"} 1`,
		`usher_allocation_duration_seconds_bucket{dps_result="assigned",usher_rules_source="current",le="4"} 1`,
		"go_goroutine_count ",
		"target_info{",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
	get(t, scrape+"/", http.StatusNotFound)
	get(t, "http://"+s.address+"/metrics", http.StatusNotFound)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if response, err := http.Get(scrape + "/metrics"); err == nil {
		response.Body.Close()
		t.Error("it is answered after the end")
	}
}

func get(t *testing.T, address string, want int) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != want {
		t.Errorf("GET %s: status %d, want %d; %v", address, response.StatusCode, want, err)
	}
	return string(body)
}

// If settings of telemetry are wrong, the program does not start, and the error lists all of them.
func TestTelemetrySettingsThatAreWrong(t *testing.T) {
	t.Parallel()
	busy := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(busy.Close)
	for name, c := range map[string]struct {
		environment map[string]string
		want        []string
	}{
		"several": {map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_TRACES_SAMPLER": "sometimes",
			settingLogLevel: "loud", settingMetricsListen: "9090",
		}, []string{"OTEL_EXPORTER_OTLP_PROTOCOL: grpc is not supported; set http/protobuf", "OTEL_TRACES_SAMPLER: none of", settingLogLevel, settingMetricsListen + ": not an address"}},
		"metrics on the webhook's address": {map[string]string{settingListen: "127.0.0.1:8080", settingMetricsListen: "127.0.0.1:8080"},
			[]string{settingMetricsListen + ": the webhook's own address"}},
		"a busy address": {map[string]string{settingMetricsListen: strings.TrimPrefix(busy.URL, "http://")}, []string{settingMetricsListen, "address already in use"}},
	} {
		all := map[string]string{settingListen: "127.0.0.1:0", settingRules: rulesFolder(t, firstHub)}
		for name, value := range c.environment {
			all[name] = value
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := run(ctx, variables(all), nil, newOutput())
		cancel()
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in: %v", name, want, err)
			}
		}
	}
}

// Telemetry that is off runs no goroutine; tested in its own process.
func TestGoroutinesOfTelemetry(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]bool{"": false, "http://127.0.0.1:1": true} {
		program := exec.CommandContext(t.Context(), os.Args[0])
		program.Env = append(os.Environ(), modeVariable+"="+modeGoroutines, settingListen+"=127.0.0.1:0",
			settingRules+"="+rulesFolder(t, firstHub), "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint, settingRecordSinks+"=none")
		stacks, err := program.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, stacks)
		}
		if !strings.Contains(string(stacks), "net/http.(*Server).Serve") {
			t.Fatalf("the server does not run:\n%s", stacks)
		}
		if got := strings.Contains(string(stacks), "go.opentelemetry.io") || strings.Contains(string(stacks), "internal/serve/telemetry"); got != want {
			t.Errorf("endpoint %q: goroutines for telemetry: %v\n%s", endpoint, got, stacks)
		}
	}
}

func printGoroutines() {
	log := newOutput()
	go func() { _ = run(context.Background(), os.Getenv, nil, log) }()
	for line := range log.lines {
		switch line["msg"] {
		case "serving":
			response, err := http.Post("http://"+line["address"].(string)+handler.AllocatePath, "application/json", strings.NewReader(requestBody))
			if err != nil {
				panic(err)
			}
			response.Body.Close()
		case "allocation":
			_ = pprof.Lookup("goroutine").WriteTo(os.Stdout, 2)
			return
		}
	}
}
