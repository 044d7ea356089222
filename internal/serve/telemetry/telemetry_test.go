package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/otel/trace"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/telemetry"
	"github.com/usher-dps/usher/internal/standin/collector"
)

// on starts telemetry with these variables; it stops when the test ends.
func on(t testing.TB, variables map[string]string, options telemetry.Options) *telemetry.Telemetry {
	t.Helper()
	var err error
	options.Settings, err = telemetry.ReadSettings(func(name string) string { return variables[name] })
	if err != nil {
		t.Fatal(err)
	}
	if options.Log == nil {
		options.Log = slog.DiscardHandler
	}
	on, err := telemetry.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = on.Shutdown(ctx)
	})
	return on
}

// webhook decides by what the payload of the device says.
func webhook(t testing.TB, on *telemetry.Telemetry) http.Handler {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"default.rego": {Data: []byte(`# METADATA
# custom:
#   on_undecided: hold
package allocation.default

hub := input.deviceRuntimeContext.payload.hub

reject contains "no" if input.deviceRuntimeContext.payload.reject

hold contains "wait" if input.deviceRuntimeContext.payload.hold
`)}}, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	options := handler.Options{Allocator: allocator, Tracer: on.Tracer(), Observers: []answer.Observer{func(context.Context, *answer.Call) {}}}
	if observer := on.Observer(); observer != nil {
		options.Observers = append(options.Observers, observer)
	}
	return handler.New(options)
}

func body(enrollment, device, payload, hubs string) string {
	return fmt.Sprintf(`{%s, "deviceRuntimeContext": {"registrationId": %q, "payload": {%s}}, "linkedHubs": [%s]}`, enrollment, device, payload, hubs)
}

const (
	inGroup = `"enrollmentGroup": {"enrollmentGroupId": "line-a"}`
	alone   = `"individualEnrollment": {"registrationId": "press-0001"}`
	toHubA  = `"hub": "a.azure-devices.net"`
	hubA    = `"a.azure-devices.net"`
)

func post(t testing.TB, webhook http.Handler, body string) int {
	t.Helper()
	answer := httptest.NewRecorder()
	webhook.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, strings.NewReader(body)))
	return answer.Code
}

func scrape(t *testing.T, on *telemetry.Telemetry) map[string]*dto.MetricFamily {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+on.ScrapeAddress()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return families
}

// values are the samples of a counter or gauge, by their labels "name=value,…".
func values(family *dto.MetricFamily) map[string]float64 {
	samples := map[string]float64{}
	for _, m := range family.GetMetric() {
		var labels []string
		for _, label := range m.GetLabel() {
			labels = append(labels, label.GetName()+"="+label.GetValue())
		}
		samples[strings.Join(labels, ",")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return samples
}

// TestOff is not parallel: it counts goroutines.
func TestOff(t *testing.T) {
	before := runtime.NumGoroutine()
	base := slog.NewJSONHandler(io.Discard, nil)
	off := on(t, map[string]string{"OTEL_SERVICE_NAME": "x"}, telemetry.Options{Log: base})
	if off.Tracer() != nil || off.Observer() != nil || off.LogHandler(base) != slog.Handler(base) || off.ScrapeAddress() != "" {
		t.Error("something is on")
	}
	if err := errors.Join(off.Watch(telemetry.Watched{Rules: func() []telemetry.Rules { t.Error("asked"); return nil }}), off.Shutdown(t.Context())); err != nil {
		t.Error(err)
	}
	if after := runtime.NumGoroutine(); after != before {
		t.Errorf("%d goroutines, were %d", after, before)
	}
}

// Stages allocate no memory if they are not recorded: the handler allocates as much below a span that is not recorded
// as without a span.
func TestSpansThatAreNotRecordedAreFree(t *testing.T) {
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"default.rego": {Data: []byte("package allocation.default\n\nhub := input.linkedHubs[0]\n")}},
		decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	request := []byte(body(inGroup, "d", "", hubA))
	measure := func(ctx context.Context) float64 {
		return testing.AllocsPerRun(200, func() {
			if _, a := allocator.AllocateJSON(ctx, request); a.Result != answer.Assigned {
				t.Fatal(a.Summary())
			}
		})
	}
	collecting := collector.Start()
	t.Cleanup(collecting.Close) // after what sends to it
	never := on(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collecting.URL + "/v1/traces", "OTEL_TRACES_SAMPLER": "always_off"}, telemetry.Options{})
	ctx, span := never.Tracer().Start(t.Context(), "x")
	defer span.End()
	// Pools are emptied now and then, and at random by the race detector. So the minimum counts; a stage that is
	// recorded costs a dozen allocations.
	without, unrecorded := measure(t.Context()), measure(ctx)
	for range 5 {
		without, unrecorded = min(without, measure(t.Context())), min(unrecorded, measure(ctx))
	}
	if unrecorded > without+3 {
		t.Errorf("%.0f allocations below a span that is not recorded, %.0f without", unrecorded, without)
	}
	always := on(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collecting.URL + "/v1/traces"}, telemetry.Options{})
	ctx, recording := always.Tracer().Start(t.Context(), "x")
	defer recording.End()
	if recorded := measure(ctx); recorded <= without {
		t.Errorf("%.0f allocations below a recorded span, %.0f without: stages are not recorded", recorded, without)
	}
}

// Metrics count allocations under the documented names, and name no device.
func TestMetrics(t *testing.T) {
	t.Parallel()
	metrics := on(t, nil, telemetry.Options{Listen: "127.0.0.1:0"})
	w := webhook(t, metrics)
	for _, b := range []string{
		body(inGroup, "press-0001", toHubA, hubA), body(inGroup, "press-0002", toHubA, hubA),
		body(inGroup, "press-0003", `"reject": true`, hubA), body(inGroup, "press-0004", `"hold": true`, hubA),
		body(inGroup, "press-0005", ``, hubA), body(inGroup, "press-0006", `"hub": "elsewhere.azure-devices.net"`, hubA),
		body(alone, "press-0001", toHubA, hubA), body(`"enrollmentGroup": {"enrollmentGroupId": 1}`, "press-0007", toHubA, hubA), `{`,
	} {
		post(t, w, b)
	}
	families := scrape(t, metrics)
	want := map[string]float64{
		"dps_enrollment=line-a,dps_enrollment_kind=enrollmentGroup,dps_hub=a.azure-devices.net,dps_result=assigned,usher_rules_source=current":          2,
		"dps_enrollment=line-a,dps_enrollment_kind=enrollmentGroup,dps_result=rejected,usher_rules_source=current":                                      1,
		"dps_enrollment=line-a,dps_enrollment_kind=enrollmentGroup,dps_result=held,usher_rules_source=current":                                          1,
		"dps_enrollment=line-a,dps_enrollment_kind=enrollmentGroup,dps_result=undecided,usher_rules_source=current":                                     1,
		"dps_enrollment=line-a,dps_enrollment_kind=enrollmentGroup,dps_result=bad_verdict,usher_rules_source=current":                                   1,
		"dps_enrollment=individual,dps_enrollment_kind=individualEnrollment,dps_hub=a.azure-devices.net,dps_result=assigned,usher_rules_source=current": 1,
		"dps_result=malformed,usher_rules_source=current":                                                                                               2,
	}
	got := values(families["usher_allocations_total"])
	if got["dps_result=invalid_request,usher_rules_source=current"] == 1 { // a number in place of a name can be either
		delete(got, "dps_result=invalid_request,usher_rules_source=current")
		want["dps_result=malformed,usher_rules_source=current"]--
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted\n%v, want\n%v", got, want)
	}
	if text := fmt.Sprint(families); strings.Contains(text, "press-0") {
		t.Errorf("a metric names a device: %s", text)
	}
	var assigned *dto.Histogram
	for _, m := range families["usher_allocation_duration_seconds"].GetMetric() {
		if m.GetLabel()[0].GetValue() == "assigned" {
			assigned = m.GetHistogram()
		}
	}
	if assigned.GetSampleCount() != 3 || len(assigned.GetBucket()) < len(telemetry.DurationBuckets()) {
		t.Errorf("the durations are %v", assigned)
	}
}

// What canary rules decide is counted apart, in each metric of decisions.
func TestMetricsTellRulesApart(t *testing.T) {
	t.Parallel()
	metrics := on(t, nil, telemetry.Options{Listen: "127.0.0.1:0"})
	for _, source := range []answer.Source{"", answer.SourceCurrent, answer.SourceCanary} {
		metrics.Observer()(t.Context(), &answer.Call{Answer: answer.Answer{Result: answer.Rejected, Source: source,
			Overrides: []answer.Override{answer.OnUndecided}}})
	}
	families := scrape(t, metrics)
	for _, name := range []string{"usher_allocations_total", "usher_allocation_duration_seconds", "usher_overrides_total"} {
		counted := map[string]float64{}
		for _, m := range families[name].GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "usher_rules_source" {
					counted[label.GetValue()] += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
		if want := map[string]float64{"current": 2, "canary": 1}; !maps.Equal(counted, want) {
			t.Errorf("%s counts %v, want %v", name, counted, want)
		}
	}
}

// However many names callers invent, the number of series is bounded.
func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	metrics := on(t, nil, telemetry.Options{Listen: "127.0.0.1:0"})
	observe := metrics.Observer()
	const extra = 50
	for i := range telemetry.MaxEnrollments + extra {
		hub := fmt.Sprintf("hub-%d.azure-devices.net", i)
		observe(t.Context(), &answer.Call{
			Service: fmt.Sprintf("dps-%d", i),
			Request: &dps.AllocationRequest{Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: fmt.Sprintf("group-%d", i)}},
			Answer:  answer.Answer{Result: answer.Assigned, Response: dps.AllocationResponse{IotHubHostName: hub}},
		})
	}
	enrollments, hubs, services, others := map[string]bool{}, map[string]bool{}, map[string]bool{}, 0.0
	for _, m := range scrape(t, metrics)["usher_allocations_total"].GetMetric() {
		for _, label := range m.GetLabel() {
			switch label.GetName() {
			case "dps_enrollment":
				enrollments[label.GetValue()] = true
				if label.GetValue() == telemetry.Other {
					others += m.GetCounter().GetValue()
				}
			case "dps_hub":
				hubs[label.GetValue()] = true
			case "dps_service":
				services[label.GetValue()] = true
			}
		}
	}
	if len(enrollments) != telemetry.MaxEnrollments+1 || len(hubs) != telemetry.MaxHubs+1 || len(services) != telemetry.MaxServices+1 || others != extra {
		t.Errorf("%d enrollments, %d hubs, %d services, %v counted as others", len(enrollments), len(hubs), len(services), others)
	}
}

// watched returns an example of each state.
func watched() telemetry.Watched {
	return telemetry.Watched{
		Rules: func() []telemetry.Rules {
			return []telemetry.Rules{
				{Source: "current", Revision: "r1", Digest: "sha256:1", Refreshed: time.Unix(1_000_000, 0), Age: 90 * time.Second, Stale: true, Refusals: 2, Failures: 3},
				{Source: "shadow"},
			}
		},
		Records: func() []telemetry.Records {
			return []telemetry.Records{{Sink: "blob", Written: 9, Delivered: 4, Dropped: 1, Failures: 2, Spooled: 5, Oldest: time.Minute}}
		},
		Comparisons: func() []telemetry.Comparisons {
			return []telemetry.Comparisons{
				{Kind: dps.EnrollmentGroup, Enrollment: "line-a", Comparison: "agreed", Count: 7},
				{Kind: dps.IndividualEnrollment, Enrollment: "press-0001", Comparison: "hub", Count: 1},
				{Kind: dps.IndividualEnrollment, Enrollment: "press-0002", Comparison: "hub", Count: 2},
			}
		},
		Lookups: func() []telemetry.Lookup {
			return []telemetry.Lookup{{Name: "device", Failing: true}, {Name: "hub", Polled: true, Age: time.Minute}}
		},
		Hubs: func() []telemetry.Hub {
			return []telemetry.Hub{{Name: "a.azure-devices.net", Devices: 1_000_000, Full: true}, {Name: "b.azure-devices.net"}}
		},
		Evaluations: func() telemetry.Evaluations { return telemetry.Evaluations{ByPlan: 5, ByTopdown: 2, Different: 1} },
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	metrics := on(t, nil, telemetry.Options{Listen: "127.0.0.1:0"})
	if err := metrics.Watch(watched()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		metrics.LookedUp("device", "hit", 0)
	}
	metrics.LookedUp("device", "row", time.Second)
	families := scrape(t, metrics)
	if took := families["usher_lookup_duration_seconds"].GetMetric()[0].GetHistogram(); took.GetSampleCount() != 1 || took.GetSampleSum() != 1 {
		t.Errorf("durations of look-ups: %v", took)
	}
	for name, want := range map[string]map[string]float64{
		"usher_lookups_total": {
			"usher_lookup=device,usher_lookup_outcome=hit": 3,
			"usher_lookup=device,usher_lookup_outcome=row": 1,
		},
		"usher_lookup_age_seconds":          {"usher_lookup=hub": 60},
		"usher_lookup_failing":              {"usher_lookup=device": 1, "usher_lookup=hub": 0},
		"usher_hub_devices":                 {"usher_hub=a.azure-devices.net": 1e6, "usher_hub=b.azure-devices.net": 0},
		"usher_hub_full":                    {"usher_hub=a.azure-devices.net": 1, "usher_hub=b.azure-devices.net": 0},
		"usher_evaluations_total":           {"usher_evaluator=plan": 5, "usher_evaluator=topdown": 2},
		"usher_evaluations_different_total": {"usher_evaluator=plan": 1},
		"usher_rules_age_seconds":           {"usher_rules_source=current": 90, "usher_rules_source=shadow": 0},
		"usher_rules_stale":                 {"usher_rules_source=current": 1, "usher_rules_source=shadow": 0},
		"usher_rules_info":                  {"usher_rules_digest=sha256:1,usher_rules_revision=r1,usher_rules_source=current": 1},
		"usher_rules_last_refresh_seconds":  {"usher_rules_source=current": 1e6},
		"usher_rules_refusals_total":        {"usher_rules_source=current": 2, "usher_rules_source=shadow": 0},
		"usher_rules_failures_total":        {"usher_rules_source=current": 3, "usher_rules_source=shadow": 0},
		"usher_records_written_total":       {"usher_record_sink=blob": 9},
		"usher_records_spooled":             {"usher_record_sink=blob": 5},
		"usher_records_delivered_total":     {"usher_record_sink=blob": 4},
		"usher_records_dropped_total":       {"usher_record_sink=blob": 1},
		"usher_records_failures_total":      {"usher_record_sink=blob": 2},
		"usher_records_oldest_seconds":      {"usher_record_sink=blob": 60},
		"usher_shadow_comparisons_total": {
			"dps_enrollment=line-a,dps_enrollment_kind=enrollmentGroup,usher_shadow_comparison=agreed":       7,
			"dps_enrollment=individual,dps_enrollment_kind=individualEnrollment,usher_shadow_comparison=hub": 3,
		},
	} {
		if got := values(families[name]); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// A span shows of a device what is allowed.
func TestDevicesInSpans(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id   func(string) string
		want any
	}{
		"not at all": {nil, nil},
		"absent":     {func(string) string { return "" }, nil},
		"plain":      {func(id string) string { return id }, "press-0001"},
		"hashed":     {func(string) string { return "hash" }, "hash"},
	} {
		collecting := collector.Start()
		traces := on(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collecting.URL, "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"},
			telemetry.Options{RegistrationID: c.id})
		w := webhook(t, traces)
		post(t, w, body(alone, "press-0001", toHubA, hubA))
		if err := traces.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := collecting.Wait(t.Context(), func(got collector.Received) bool { return len(got.Spans) == 6 })
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range got.Spans {
			if span.Server && (span.Attributes["dps.registration_id"] != c.want || span.Attributes["dps.enrollment"] != c.want) {
				t.Errorf("%s: %v", name, span.Attributes)
			}
		}
		if c.want != "press-0001" && bytes.Contains(got.Raw, []byte("press-0001")) {
			t.Errorf("%s: the device is named", name)
		}
		collecting.Close()
	}
}

// spanAttributes returns all attributes of spans, for allocations of every kind.
func spanAttributes(t *testing.T) []string {
	t.Helper()
	collecting := collector.Start()
	defer collecting.Close()
	traces := on(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collecting.URL + "/v1/traces"},
		telemetry.Options{RegistrationID: func(id string) string { return id }})
	w := webhook(t, traces)
	stays := `"enrollmentGroup": {"enrollmentGroupId": "g", "reprovisionPolicy": {"updateHubAssignment": false}}`
	for _, b := range []string{
		body(inGroup, "d", toHubA, hubA), body(inGroup, "d", ``, hubA),
		strings.Replace(body(stays, "d", toHubA, hubA+`, "b.azure-devices.net"`), `"payload"`, `"currentIotHubHostName": "b.azure-devices.net", "payload"`, 1),
	} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath+"?dps=eu", strings.NewReader(b))
		request.Header.Set("X-Azure-Functions-InvocationId", "x")
		w.ServeHTTP(httptest.NewRecorder(), request)
	}
	observed, span := traces.Tracer().Start(t.Context(), "with a revision", trace.WithSpanKind(trace.SpanKindServer))
	traces.Observer()(observed, &answer.Call{Answer: answer.Answer{Source: answer.SourceCanary, Revision: "r"}})
	span.End()
	if err := traces.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := collecting.Wait(t.Context(), func(got collector.Received) bool { return len(got.Spans) > 0 })
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, span := range got.Spans {
		for name := range span.Attributes {
			names[name] = true
		}
	}
	return slices.Collect(maps.Keys(names))
}

// A span is an error if an operator should look at it; not if a device has to wait.
func TestErrorsInSpans(t *testing.T) {
	t.Parallel()
	collecting := collector.Start()
	defer collecting.Close()
	traces := on(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collecting.URL + "/v1/traces"}, telemetry.Options{})
	w := webhook(t, traces)
	want := map[string]bool{"assigned": false, "rejected": false, "held": false, "malformed": false, "undecided": true, "bad_verdict": true}
	for _, b := range []string{body(inGroup, "d", toHubA, hubA), body(inGroup, "d", `"reject": true`, hubA), body(inGroup, "d", `"hold": true`, hubA),
		`{`, body(inGroup, "d", ``, hubA), body(inGroup, "d", `"hub": "x"`, hubA)} {
		post(t, w, b)
	}
	if err := traces.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := collecting.Wait(t.Context(), func(got collector.Received) bool {
		return len(slices.DeleteFunc(slices.Clone(got.Spans), func(s collector.Span) bool { return !s.Server })) == len(want)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range got.Spans {
		if !span.Server {
			continue
		}
		result := span.Attributes["dps.result"].(string)
		if failed, ok := want[result]; !ok || failed != span.Error || (span.Attributes["error.type"] != nil) != (failed || result == "malformed") {
			t.Errorf("%+v", span)
		}
	}
}

// Samplers decide by the parent only if they are parent-based. The Functions host marks its parents as not sampled.
func TestSampling(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sampler, argument, flags string
		want                     bool
	}{
		{"", "", "00", true}, {"", "", "01", true}, {"", "", "none", true},
		{"always_off", "", "01", false},
		{"parentbased_always_on", "", "00", false}, {"parentbased_always_on", "", "01", true}, {"parentbased_always_on", "", "none", true},
		{"parentbased_always_off", "", "none", false},
		{"traceidratio", "0", "01", false}, {"traceidratio", "1", "00", true}, {"parentbased_traceidratio", "0", "01", true},
	} {
		collecting := collector.Start()
		traces := on(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collecting.URL + "/v1/traces",
			"OTEL_TRACES_SAMPLER": c.sampler, "OTEL_TRACES_SAMPLER_ARG": c.argument}, telemetry.Options{})
		w := webhook(t, traces)
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, strings.NewReader(body(inGroup, "d", toHubA, hubA)))
		if c.flags != "none" {
			request.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"+c.flags)
		}
		w.ServeHTTP(httptest.NewRecorder(), request)
		if err := traces.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := collecting.Wait(t.Context(), func(collector.Received) bool { return true })
		if err != nil || (len(got.Spans) == 6) != c.want || (len(got.Spans) == 0) == c.want {
			t.Errorf("%+v: %d spans, %v", c, len(got.Spans), err)
		}
		collecting.Close()
	}
}

// Only logs that are written are sent, with groups and attributes.
func TestLogs(t *testing.T) {
	t.Parallel()
	collecting := collector.Start()
	defer collecting.Close()
	var written bytes.Buffer
	base := slog.NewJSONHandler(&written, &slog.HandlerOptions{Level: slog.LevelWarn})
	logs := on(t, map[string]string{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": collecting.URL + "/v1/logs"}, telemetry.Options{Log: base})
	log := slog.New(logs.LogHandler(base)).With("a", 1).WithGroup("g")
	log.Info("not written")
	log.Warn("written", "b", true)
	if err := logs.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := collecting.Wait(t.Context(), func(got collector.Received) bool { return len(got.Logs) > 0 })
	if err != nil {
		t.Fatal(err)
	}
	group, _ := got.Logs[0].Attributes["g"].(collector.Attributes)
	if len(got.Logs) != 1 || got.Logs[0].Body != "written" || got.Logs[0].Severity != "WARN" || got.Logs[0].Attributes["a"] != int64(1) || group["b"] != true {
		t.Errorf("sent %+v", got.Logs)
	}
	if strings.Count(written.String(), "\n") != 1 {
		t.Errorf("written %s", &written)
	}
}

// Shutdown does not wait for a collector that hangs.
func TestShutdownGivesUp(t *testing.T) {
	t.Parallel()
	var once sync.Once
	arrived, release := make(chan struct{}), make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		once.Do(func() { close(arrived) })
		<-release
	}))
	defer hanging.Close()
	defer close(release)
	all := on(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": hanging.URL, "OTEL_EXPORTER_OTLP_TIMEOUT": "60000"}, telemetry.Options{})
	post(t, webhook(t, all), body(inGroup, "d", toHubA, hubA))
	slog.New(all.LogHandler(slog.NewJSONHandler(io.Discard, nil))).Info("x")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- all.Shutdown(ctx) }()
	<-arrived
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Errors are logged once a minute, with the number in between. The process has one handler of errors, so this test is
// not parallel.
func TestErrorsAreLoggedOnceAMinute(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer refusing.Close()
	var written bytes.Buffer
	now := time.Unix(0, 0)
	all := on(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": refusing.URL, "OTEL_BLRP_SCHEDULE_DELAY": "3600000",
		"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"},
		telemetry.Options{Log: slog.NewJSONHandler(&written, nil), Now: func() time.Time { now = now.Add(30 * time.Second); return now }})
	post(t, webhook(t, all), body(inGroup, "d", toHubA, hubA))
	slog.New(all.LogHandler(slog.NewJSONHandler(io.Discard, nil))).Info("x")
	_ = all.Shutdown(t.Context()) // three signals fail, half a minute apart
	lines := strings.Split(strings.TrimSpace(written.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"since_last_line":0`) || !strings.Contains(lines[1], `"since_last_line":1`) {
		t.Errorf("logged %s", &written)
	}
}

// BenchmarkObserve measures the cost of metrics for an allocation, BenchmarkWebhook that of telemetry that is off.
func BenchmarkObserve(b *testing.B) {
	observe := on(b, nil, telemetry.Options{Listen: "127.0.0.1:0"}).Observer()
	a := &answer.Call{Duration: time.Millisecond,
		Request: &dps.AllocationRequest{Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "g"}},
		Answer:  answer.Answer{Result: answer.Assigned, Response: dps.AllocationResponse{IotHubHostName: "a.azure-devices.net"}}}
	b.ReportAllocs()
	for b.Loop() {
		observe(b.Context(), a)
	}
}

func BenchmarkWebhook(b *testing.B) {
	for name, variables := range map[string]map[string]string{
		"off": nil,
		"on":  {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_TIMEOUT": "100"},
	} {
		b.Run(name, func(b *testing.B) {
			w := webhook(b, on(b, variables, telemetry.Options{}))
			request := body(inGroup, "d", toHubA, hubA)
			b.ReportAllocs()
			for b.Loop() {
				post(b, w, request)
			}
		})
	}
}
