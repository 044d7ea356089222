package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/standin/collector"
)

// Enrollment groups of the tests: for one the rules on trial are evaluated as a shadow, for the other they answer half
// of the requests.
const (
	shadowed = "line-a"
	canaries = "line-b"
)

// world is everything around the handlers.
type world struct {
	t         *testing.T
	ca        *authority
	identity  *identity
	storage   *storage
	collector *collector.Collector
	signing   signing
	fleet     *fleet
	folder    string // of the handlers, with the spool and the rules on disk
	settings  map[string]string
	handlers  []*running
	calls     []call // with an answer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ca := newAuthority(t)
	w := &world{t: t, ca: ca, identity: startIdentity(t), collector: collector.Start(), signing: newSigning(t), fleet: newFleet(t, ca), folder: t.TempDir()}
	t.Cleanup(w.collector.Close)
	w.storage = startStorage(t, ca, w.identity)
	key, header := secret(), secret()
	w.settings = map[string]string{
		"SSL_CERT_FILE": ca.file, "IDENTITY_ENDPOINT": w.identity.URL + "/msi/token", "IDENTITY_HEADER": w.identity.header,
		"USHER_FUNCTION_KEYS":            key,
		"USHER_RULES":                    "blob:" + w.storage.url("rules/rules.tar.gz"),
		"USHER_RULES_POLL":               "1s",
		"USHER_RULES_KEY_FILE":           w.signing.public,
		"USHER_RULES_ALG":                "ES256",
		"USHER_RULES_CACHE":              filepath.Join(w.folder, "rules"),
		"USHER_RECORD_SINKS":             "stdout,otlp,blob:" + w.storage.url("decisions"),
		"USHER_RECORD_SPOOL":             filepath.Join(w.folder, "spool"),
		"USHER_RECORD_SYNC":              "always",
		"OTEL_EXPORTER_OTLP_ENDPOINT":    w.collector.URL,
		"OTEL_EXPORTER_OTLP_HEADERS":     "api-key=" + header,
		"OTEL_METRIC_EXPORT_INTERVAL":    "500",
		"OTEL_BSP_SCHEDULE_DELAY":        "100",
		"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
	}
	maps.Copy(w.fleet.secrets, map[string]string{"the function key": key, "the key of the collector": header, "the identity's header": w.identity.header,
		"the identity's token": w.identity.token, "the token for an API": w.identity.api, "its signature": w.identity.token[strings.LastIndexByte(w.identity.token, '.')+1:], "the account's key": w.storage.key})
	private, err := os.ReadFile(w.signing.private)
	if err != nil {
		t.Fatal(err)
	}
	w.fleet.secrets["the signing key"] = strings.Split(string(private), "\n")[1]
	return w
}

func (w *world) launch() *running {
	w.t.Helper()
	r := launch(w.t, w.settings)
	w.handlers = append(w.handlers, r)
	return r
}

// allocate calls the webhook for n new devices of a group. The answers must have status 200 and one of the hubs.
func (w *world) allocate(r *running, n int, group string, wantHubs ...string) []call {
	w.t.Helper()
	var answered []call
	for range n {
		c, err := r.allocate(w.fleet, group)
		if err != nil {
			w.t.Fatal(err)
		}
		if c.status != 200 || !slices.Contains(wantHubs, c.hub) || c.id == "" {
			w.t.Fatalf("%s of %s: status %d, hub %q, code %q, decision %q; want %v", c.device, group, c.status, c.hub, c.code, c.id, wantHubs)
		}
		answered = append(answered, c)
	}
	w.calls = append(w.calls, answered...)
	return answered
}

// serves waits until the rules of a revision are in use.
func (w *world) serves(r *running, revision string) readiness {
	w.t.Helper()
	var got readiness
	until(w.t, "revision "+revision+" serves", func() bool {
		got = r.ready()
		return got.status == 200 && got.Rules.Revision == revision
	})
	return got
}

// Rules arrive, broken bundles arrive and then a good one, while other rules are on trial. Then the storage fails, the
// handler is killed and restarts without the storage, and the storage comes back. Each step is visible in answers,
// records and metrics. No record of an answer is lost, and no secret leaks.
func TestRulesAndRecordsThroughAnOutage(t *testing.T) {
	t.Parallel()
	needStorage(t)
	w := newWorld(t)
	const currentRules, trialRules = `usher_rules_source="current"`, `usher_rules_source="shadow"`
	w.settings["USHER_RULES_SHADOW"] = "blob:" + w.storage.url("rules/next.tar.gz")
	w.settings["USHER_RULES_SHADOW_ENROLLMENTS"] = shadowed
	w.settings["USHER_RULES_CANARY"] = canaries + "=50"
	w.settings["USHER_RULES_MAX_AGE"] = "5s"
	first, second, trial := hubs[0], hubs[1], hubs[2]

	// The storage has a signed bundle, and rules on trial.
	w.storage.upload("rules.tar.gz", pack(t, rulesFor(0), "v1", &w.signing))
	w.storage.upload("next.tar.gz", pack(t, rulesFor(2), "next", &w.signing))
	r := w.launch()
	v1 := w.serves(r, "v1").Rules
	if v1.FromDisk || v1.Refused || v1.Failing || v1.Stale || w.identity.asked.Load() == 0 {
		t.Errorf("readiness %+v, %d tokens", v1, w.identity.asked.Load())
	}
	byV1 := w.allocate(r, 20, shadowed, first)
	sides := map[string]int{}
	byCanary := map[string]bool{}
	for _, c := range w.allocate(r, 30, canaries, first, trial) {
		sides[c.hub]++
		byCanary[c.id] = c.hub == trial
	}
	if sides[first] == 0 || sides[trial] == 0 {
		t.Errorf("half of the devices are canaries, but the hubs are %v", sides)
	}
	until(t, "20 decisions are compared", func() bool {
		return r.metric("usher_shadow_comparisons_total", `usher_shadow_comparison="hub"`, `dps_enrollment="`+shadowed+`"`) == 20
	})
	if n := r.metric("usher_allocations_total", `dps_hub="`+first+`"`, `dps_result="assigned"`); n != float64(20+sides[first]) {
		t.Errorf("the metrics count %v allocations to %s, want %d", n, first, 20+sides[first])
	}
	if n := r.metric("usher_rules_info", currentRules, `usher_rules_revision="v1"`, v1.Digest); n != 1 {
		t.Errorf("the metrics do not show that v1 is in use: %v", n)
	}
	if n := r.metric("usher_rules_info", trialRules, `usher_rules_revision="next"`); n != 1 {
		t.Errorf("the metrics do not show which rules are on trial: %v", n)
	}
	w.checkCollector(byV1)

	w.sendBadRequests(r)

	// Bad bundles are refused, and each refusal is counted and logged with its reason.
	stranger := newSigning(t)
	for i, bad := range []struct {
		what, logged string
		packed       []byte
	}{
		{"broken", "default/default.rego:3", packBroken(t, "package allocation.default\n\nhub := inptu.linkedHubs[1]\n", "broken", w.signing)},
		{"not signed", "signature", pack(t, rulesFor(1), "unsigned", nil)},
		{"signed with another key", "signature", pack(t, rulesFor(1), "strange", &stranger)},
		{"cut short", "it is not a bundle of rules", pack(t, rulesFor(1), "short", &w.signing)[:200]},
	} {
		w.storage.upload("rules.tar.gz", bad.packed)
		until(t, "a bundle is refused that is "+bad.what, func() bool { return r.metric("usher_rules_refusals_total", currentRules) == float64(i+1) })
		lines := r.lines("rules refused")
		if len(lines) != i+1 || lines[i]["level"] != "ERROR" || !strings.Contains(fmt.Sprint(lines[i]["error"]), bad.logged) {
			t.Errorf("%s: logged %v", bad.what, lines)
		}
		if got := r.ready(); got.status != 200 || !got.Rules.Refused || got.Rules.Revision != "v1" {
			t.Errorf("%s: readiness %+v", bad.what, got)
		}
		w.allocate(r, 3, shadowed, first)
	}

	// A good bundle is in use after the next poll.
	packed := pack(t, rulesFor(1), "v2", &w.signing)
	uploaded := time.Now()
	w.storage.upload("rules.tar.gz", packed)
	v2 := w.serves(r, "v2").Rules
	t.Logf("a new bundle was in use %d ms after its upload, at one poll a second", time.Since(uploaded).Milliseconds())
	if took := time.Since(uploaded); took > 10*time.Second {
		t.Errorf("a new bundle was in use after %s", took)
	}
	if v2.Refused || v2.Digest == v1.Digest || r.metric("usher_rules_info", currentRules, `usher_rules_revision="v2"`) != 1 {
		t.Errorf("readiness %+v", v2)
	}
	byV2 := w.allocate(r, 20, shadowed, second)
	until(t, "all records are delivered", func() bool { return r.metric("usher_records_spooled") == 0 })

	// The storage fails: decisions continue, records wait, and the operator is notified.
	alarms := len(r.lines("rules stale")) // a bundle with a wrong signature does not count as contact with the source
	w.storage.stop()
	until(t, "the rules are stale", func() bool { return r.metric("usher_rules_stale", currentRules) == 1 })
	w.allocate(r, 20, shadowed, second)
	if got := r.ready(); got.status != 200 || !got.Rules.Failing || !got.Rules.Stale || got.Rules.AgeSeconds < 5 || got.Rules.Revision != "v2" {
		t.Errorf("without the storage: readiness %+v", got)
	}
	if len(r.lines("rules stale")) != alarms+1 || len(r.lines("rules source failed")) != 1 {
		t.Errorf("logged %v and %v", r.lines("rules stale"), r.lines("rules source failed"))
	}
	until(t, "the failures are counted, and records wait", func() bool {
		return r.metric("usher_rules_failures_total", currentRules) > 1 && r.metric("usher_records_failures_total", `usher_record_sink="blob"`) > 0 &&
			r.metric("usher_records_spooled", `usher_record_sink="blob"`) >= 20 && r.metric("usher_rules_age_seconds", currentRules) > 5
	})
	until(t, "the log says that records wait", func() bool { return len(r.lines("records wait")) > 0 })

	// The machine crashes under load, repeatedly. The handler starts without the storage, with the rules on disk.
	for round := range 3 {
		w.killUnderLoad(r, 20+13*round)
		r = w.launch()
	}
	if got := r.ready(); got.status != 200 || !got.Rules.FromDisk || !got.Rules.Failing || got.Rules.Revision != "v2" || got.Rules.Digest != v2.Digest {
		t.Errorf("after a start without the storage: readiness %+v", got)
	}
	w.allocate(r, 20, shadowed, second)
	if lines := r.lines("rules activated"); len(lines) != 1 || lines[0]["from_disk"] != true || lines[0]["revision"] != "v2" {
		t.Errorf("logged %v", lines)
	}
	waiting := r.metric("usher_records_spooled", `usher_record_sink="blob"`)
	if waiting < 20+20+33+46+20 || r.metric("usher_rules_info", currentRules, `usher_rules_revision="v2"`) != 1 {
		t.Errorf("%v records wait", waiting)
	}

	// The storage comes back, and the records that waited are delivered.
	w.storage.start()
	until(t, "the storage confirms the rules", func() bool {
		got := r.ready().Rules
		return !got.FromDisk && !got.Failing && !got.Stale && got.Revision == "v2"
	})
	until(t, "all records are delivered", func() bool {
		return r.metric("usher_records_spooled", `usher_record_sink="blob"`) == 0 && r.metric("usher_records_spooled", `usher_record_sink="otlp"`) == 0
	})
	last := w.allocate(r, 10, shadowed, second)
	w.checkCollector(last)
	if n := r.metric("usher_records_dropped_total"); n > 0 {
		t.Errorf("%v records are lost", n)
	}
	if err := r.stop(); err != nil {
		t.Errorf("the handler stopped with %v: %s", err, r.errors())
	}

	w.checkRecords(byV1, byV2, byCanary)
	w.checkSecrets(100_000)
}

// sendBadRequests sends requests that are refused, with secrets in all of them.
func (w *world) sendBadRequests(r *running) {
	w.t.Helper()
	body := fmt.Sprintf(`{"enrollmentGroup": {"enrollmentGroupId": "line-a", "primaryKey": %q}, "deviceRuntimeContext": {"registrationId": %q}, "linkedHubs": %q}`,
		w.fleet.secrets["a device key"], w.fleet.secrets["a device key"], w.fleet.secrets["a payload"])
	for _, c := range []struct {
		method, path, key, body string
		status                  int
	}{
		{http.MethodGet, handler.AllocatePath, r.key, "", http.StatusMethodNotAllowed},
		{http.MethodPost, "/api/elsewhere", r.key, body, http.StatusNotFound},
		{http.MethodPost, handler.AllocatePath, w.fleet.secrets["a wrong key"], body, http.StatusUnauthorized},
		{http.MethodPost, handler.AllocatePath, r.key, body[:40], http.StatusBadRequest},
		{http.MethodPost, handler.AllocatePath, r.key, strings.Replace(body, w.fleet.secrets["a device key"]+`"}, "linked`, `press-1"}, "linked`, 1), http.StatusBadRequest},
	} {
		request, err := http.NewRequestWithContext(w.t.Context(), c.method, r.url+c.path+"?code="+c.key, strings.NewReader(c.body))
		if err != nil {
			w.t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			w.t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != c.status {
			w.t.Errorf("%s %s: status %d, %v, want %d", c.method, c.path, response.StatusCode, err, c.status)
		}
		r.mu.Lock()
		fmt.Fprintln(&r.seen, response.Header, string(answer))
		r.mu.Unlock()
	}
}

// killUnderLoad kills a handler under load, after this many answers.
func (w *world) killUnderLoad(r *running, after int) {
	w.t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	answered := make(chan struct{}, 100_000)
	for range 4 {
		group.Go(func() {
			for {
				c, err := r.allocate(w.fleet, shadowed)
				if err != nil {
					return // the handler is dead
				}
				mu.Lock()
				w.calls = append(w.calls, c)
				mu.Unlock()
				answered <- struct{}{}
			}
		})
	}
	for range after {
		select {
		case <-answered:
		case <-time.After(patience):
			w.t.Fatal("the handler stopped answering")
		}
	}
	r.kill()
	group.Wait()
}

// checkCollector checks that the collector has the spans of the calls as children of the caller's spans, and metrics
// and logs.
func (w *world) checkCollector(calls []call) {
	w.t.Helper()
	wanted := map[string]call{}
	for _, c := range calls {
		wanted[c.id] = c
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	got, err := w.collector.Wait(ctx, func(got collector.Received) bool {
		spans := 0
		for _, span := range got.Spans {
			if _, ok := wanted[fmt.Sprint(span.Attributes["dps.decision_id"])]; ok && span.Server {
				spans++
			}
		}
		return spans == len(calls) && slices.ContainsFunc(got.Metrics, func(m collector.Metric) bool { return m.Name == "usher.allocations" }) &&
			slices.ContainsFunc(got.Logs, func(l collector.Log) bool { return l.Body == "rules activated" }) && len(recordsOf(w.t, got, wanted)) == len(calls)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	records := recordsOf(w.t, got, wanted)
	for _, span := range got.Spans {
		c, ok := wanted[fmt.Sprint(span.Attributes["dps.decision_id"])]
		if !ok || !span.Server {
			continue
		}
		if span.TraceID != c.trace || span.ParentID != c.parent || span.Attributes["dps.hub"] != c.hub || span.Attributes["dps.enrollment"] != c.group {
			w.t.Errorf("the span of %+v is %+v", c, span)
		}
		if trace := records[c.id].Trace; trace == nil || trace.TraceID != c.trace || trace.SpanID != span.SpanID || trace.ParentSpanID != c.parent {
			w.t.Errorf("the record of %+v has the trace %+v, and its span is %s", c, trace, span.SpanID)
		}
	}
}

// recordsOf returns the wanted records among the logs that the collector received.
func recordsOf[T any](t *testing.T, got collector.Received, wanted map[string]T) map[string]decisionlog.Record {
	t.Helper()
	records := map[string]decisionlog.Record{}
	for _, log := range got.Logs {
		id, _ := log.Attributes["dps.decision_id"].(string)
		if _, ok := wanted[id]; !ok || !strings.HasPrefix(log.Body, `{"usherRecord":`) {
			continue
		}
		record, err := decisionlog.Decode([]byte(log.Body))
		if err != nil {
			t.Fatal(err)
		}
		records[id] = record
	}
	return records
}

// checkRecords checks that each sink has a record of each answer, and that the record agrees with the answer.
func (w *world) checkRecords(byV1, byV2 []call, byCanary map[string]bool) {
	t := w.t
	t.Helper()
	blobs := w.storage.blobs()
	text := ""
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		text += blobs[name]
	}
	inBlobs, duplicates := recordsIn(t, text)
	stdout := ""
	for _, r := range w.handlers {
		stdout += r.output()
	}
	onStdout, stdoutDuplicates := recordsIn(t, stdout)
	wanted := map[string]bool{}
	for _, c := range w.calls {
		wanted[c.id] = true
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := w.collector.Wait(ctx, func(got collector.Received) bool { return len(recordsOf(t, got, wanted)) == len(wanted) })
	if err != nil {
		t.Errorf("the collector lacks records: %v", err)
	}
	t.Logf("%d answers; %d records in %d blobs, and %d duplicates; %d on standard output; %d at the collector",
		len(w.calls), len(inBlobs), len(blobs), duplicates, len(onStdout), len(recordsOf(t, got, wanted)))
	if stdoutDuplicates != 0 {
		t.Errorf("%d duplicate records on standard output", stdoutDuplicates)
	}
	if len(wanted) != len(w.calls) {
		t.Errorf("%d decision IDs for %d answers", len(wanted), len(w.calls))
	}
	for where, records := range map[string]map[string]decisionlog.Record{"blobs": inBlobs, "standard output": onStdout, "the collector": recordsOf(t, got, wanted)} {
		missing := 0
		for _, c := range w.calls {
			record, there := records[c.id]
			switch {
			case !there:
				missing++
			case record.RegistrationID != c.device || record.Status != c.status || record.Decision.Hub != c.hub || record.Enrollment.ID != c.group ||
				record.Trace == nil || record.Trace.ParentSpanID != c.parent || len(record.Lines) != 1 || record.Lines[0].Place != "default/default.rego:7":
				t.Errorf("%s: the record of %+v is %+v", where, c, record)
			}
		}
		if missing > 0 {
			t.Errorf("%d of %d answers have no record in %s", missing, len(w.calls), where)
		}
	}
	for revision, calls := range map[string][]call{"v1": byV1, "v2": byV2} {
		for _, c := range calls {
			if record := inBlobs[c.id]; record.Rules == nil || record.Rules.Revision != revision || record.Source != answer.SourceCurrent {
				t.Errorf("a decision by %s has the record %+v", revision, record)
			}
		}
	}
	for id, canary := range byCanary {
		source, revision := answer.SourceCurrent, "v1"
		if canary {
			source, revision = answer.SourceCanary, "next"
		}
		if record := inBlobs[id]; record.Source != source || record.Rules.Revision != revision {
			t.Errorf("a decision of %s %s has the record %+v", source, revision, record)
		}
	}
	shadows := map[string]decisionlog.Record{}
	for _, record := range inBlobs {
		if record.Source == answer.SourceShadow {
			shadows[record.ShadowOf] = record
		}
	}
	for _, c := range byV1 {
		if s, there := shadows[c.id]; !there || s.Rules.Revision != "next" || s.Decision.Hub != hubs[2] || !slices.Equal(s.Diverged, []answer.Difference{answer.InHub}) || s.RegistrationID != c.device {
			t.Errorf("the shadow of %+v has the record %+v", c, s)
		}
	}

	// A user finds a record, and replays the decisions of v2.
	folder := t.TempDir()
	file, rules := filepath.Join(folder, "records.ndjson"), filepath.Join(folder, "rules")
	if err := os.Mkdir(rules, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{file: text, filepath.Join(rules, "default.rego"): rulesFor(1)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found, _ := recordsIn(t, usher(t, "log", file, "--id", byV2[0].id, "-o", "json")); found[byV2[0].id].RegistrationID != byV2[0].device {
		t.Errorf("usher log finds %v of %s", found, byV2[0].id)
	}
	decided := ""
	for line := range strings.Lines(usher(t, "log", file, "--source", "current", "-o", "json")) {
		if strings.Contains(line, `"revision":"v2"`) {
			decided += line
		}
	}
	file = filepath.Join(folder, "v2.ndjson")
	if err := os.WriteFile(file, []byte(decided), 0o600); err != nil {
		t.Fatal(err)
	}
	var replayed replay.Report
	if err := json.Unmarshal([]byte(usher(t, "replay", "--rules", rules, file, "-o", "json")), &replayed); err != nil {
		t.Fatal(err)
	}
	if n := int64(strings.Count(decided, "\n")); n < 100 || replayed.Counts[replay.Stayed] != n || replayed.Counted != n || replayed.Lacking+replayed.Malformed > 0 {
		t.Errorf("of %d records of v2, usher replay says %+v", n, replayed)
	}
}

// checkSecrets searches everything that the handlers wrote, which must be at least this many bytes.
func (w *world) checkSecrets(atLeast int) {
	t := w.t
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, _ := w.collector.Wait(ctx, func(collector.Received) bool { return true })
	texts := map[string]string{"the collector": string(got.Raw)}
	for i, r := range w.handlers {
		texts[fmt.Sprint("standard output ", i)] = r.output()
		texts[fmt.Sprint("standard error ", i)] = r.errors()
		texts[fmt.Sprint("answers and metrics ", i)] = r.answers()
		if e := r.errors(); e != "" {
			t.Errorf("on standard error: %s", e)
		}
	}
	for name, text := range w.storage.blobs() {
		texts[name] = text
	}
	if err := filepath.WalkDir(w.folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		texts[name] = string(content)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	read := 0
	for where, text := range texts {
		read += len(text)
		for what, secret := range w.fleet.secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s contains %s", where, what)
			}
		}
		if strings.Contains(text, "SECRET") {
			t.Errorf("%s contains a secret: %.100s", where, text[strings.Index(text, "SECRET"):])
		}
	}
	if len(texts) < 5 || read < atLeast {
		t.Errorf("searched only %d outputs with %d bytes", len(texts), read)
	}
	for _, header := range got.Headers {
		if header.Get("Api-Key") == "" {
			t.Error("a request to the collector has no key")
			break
		}
	}
}
