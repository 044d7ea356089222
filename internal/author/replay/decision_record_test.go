package replay_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// logSink is a sink that writes a log.
type logSink struct{ bytes.Buffer }

func (*logSink) Name() string { return "log" }

func (l *logSink) Write(record []byte) error {
	l.Buffer.Write(record)
	return l.Buffer.WriteByte('\n')
}

// recordLog has the webhook decide bodies, and returns the records.
func recordLog(t *testing.T, allocator *decider.Decider, mode decisionlog.IDMode, bodies ...string) string {
	t.Helper()
	sink := &logSink{}
	options := decisionlog.Options{Sinks: []decisionlog.Sink{sink}, RegistrationIDs: mode,
		Failed: func(_ string, err error) { t.Error(err) }}
	if mode == decisionlog.Hashed {
		options.HashKey = []byte("a key that is for tests alone")
	}
	recorder, err := decisionlog.New(options)
	if err != nil {
		t.Fatal(err)
	}
	webhook := handler.New(handler.Options{Allocator: allocator, Observers: []answer.Observer{recorder.Observe}})
	for _, body := range bodies {
		webhook.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, strings.NewReader(body)))
	}
	return sink.String()
}

func recordRules(t *testing.T, files fstest.MapFS, options decider.RulesOptions) *decider.Decider {
	t.Helper()
	options.Name = "rules"
	rules, err := decider.LoadRules(t.Context(), files, options)
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

func oneRule(rego string) fstest.MapFS {
	return fstest.MapFS{"a.rego": {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [g]\n" + rego)}}
}

func replayed(t *testing.T, log string, options replay.Options) *replay.Report {
	t.Helper()
	report, err := replay.Run(t.Context(), []requestlog.Log{requestlog.Stream("log", strings.NewReader(log))}, options)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// examples are the requests that the repository has as examples.
func examples(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(paths) < 20 {
		t.Fatal(paths, err)
	}
	var bodies []string
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(body))
	}
	return bodies
}

// The records of all examples reach the same decision by the same rules, or are said to lack what is masked.
func TestRecordsOfExamples(t *testing.T) {
	t.Parallel()
	rules, err := decider.LoadRules(t.Context(), os.DirFS("../../../rules"), decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	bodies := examples(t)
	for mode, most := range map[decisionlog.IDMode]int64{decisionlog.Plain: 1, decisionlog.Hashed: 12, decisionlog.Absent: 12} {
		report := replayed(t, recordLog(t, allocator, mode, bodies...), replay.Options{Rules: allocator, ByDevice: true, Examples: 5})
		if report.Changed() != 0 || report.Malformed != 0 || report.Registrations+report.Lacking != int64(len(bodies)) || report.Lacking > most {
			t.Errorf("%s: %d of %d decided anew, %d changed, %d malformed %v, %d lacking %v; %+v", mode, report.Registrations, len(bodies), report.Changed(),
				report.Malformed, report.MalformedFirst, report.Lacking, report.LackingFirst, report.Examples)
		}
		for _, problem := range report.LackingFirst {
			if !strings.Contains(problem.Problem, "/") {
				t.Errorf("%s: what it lacks is not named: %v", mode, problem)
			}
		}
	}
}

const modelBody = `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"],
	"deviceRuntimeContext": {"registrationId": "d1", "payload": {"model": "m1"}}}`

func TestRecordsThatLack(t *testing.T) {
	t.Parallel()
	const byModel = "package allocation.g\n\nhub := input.linkedHubs[1] if input.deviceRuntimeContext.payload.model == \"m1\"\n\nhub := input.linkedHubs[0] if not input.deviceRuntimeContext.payload.model == \"m1\"\n"
	const constant = "package allocation.g\n\nhub := input.linkedHubs[1]\n"
	model := recordRules(t, oneRule(byModel), decider.RulesOptions{})
	recordable := recordRules(t, oneRule("#   recordable: [payload.model]\n"+byModel), decider.RulesOptions{})
	same := recordRules(t, oneRule(constant), decider.RulesOptions{})
	for _, test := range []struct {
		name     string
		recorded *decider.Decider
		options  replay.Options
		lacking  int64
	}{
		{"the same rules, which look at what is masked", model, replay.Options{Rules: model}, 1},
		{"the same rules, by what they let be recorded", recordable, replay.Options{Rules: recordable}, 0},
		{"other rules that look at nothing", model, replay.Options{Rules: same}, 0},
		{"other rules that look at what is masked", same, replay.Options{Rules: model}, 1},
		{"a baseline that looks at what is masked", same, replay.Options{Rules: same, Baseline: model}, 1},
		{"a baseline and no need", same, replay.Options{Rules: same, Baseline: same}, 0},
	} {
		report := replayed(t, recordLog(t, test.recorded, decisionlog.Plain, modelBody), test.options)
		if report.Lacking != test.lacking || report.Registrations != 1-test.lacking || report.Changed() != 0 || report.Malformed != 0 {
			t.Errorf("%s: %d lacking, %d decided, %d changed, %v", test.name, report.Lacking, report.Registrations, report.Changed(), report.MalformedFirst)
		}
		if test.lacking > 0 && report.LackingFirst[0] != (replay.Problem{Place: "log:1", Problem: "masked, and the rules look at it: /deviceRuntimeContext/payload"}) {
			t.Errorf("%s: %v", test.name, report.LackingFirst)
		}
	}
}

// edited loads the starter rules after an edit of one file, so that their digest differs from that in records.
func edited(t *testing.T, name, old, replacement string) *decider.Decider {
	t.Helper()
	files := fstest.MapFS{}
	shipped := os.DirFS("../../../rules")
	names, err := ruleset.Files(shipped, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range names {
		text, err := fs.ReadFile(shipped, file)
		if err != nil {
			t.Fatal(err)
		}
		if file == name {
			if !strings.Contains(string(text), old) {
				t.Fatalf("%s does not contain %q", name, old)
			}
			text = []byte(strings.ReplaceAll(string(text), old, replacement))
		}
		files[file] = &fstest.MapFile{Data: text}
	}
	return recordRules(t, files, decider.RulesOptions{})
}

// The starter rule by certificates decides its records as it decided the requests, and records lack only attributes
// that were not recorded.
func TestRecordsOfCertificates(t *testing.T) {
	t.Parallel()
	const rego, data = "tenants/tenants.rego", "tenants/data.json"
	shipped := edited(t, rego, "# METADATA", "# METADATA")
	const organization = "organization := dps.certificate.subject.organization[0] if {"
	masked := func(below string) string {
		return "masked, and the rules look at it: /deviceRuntimeContext/x509/clientCertificate" + below
	}
	var bodies []string
	for _, name := range []string{"tenants-contoso", "tenants-no-certificate"} {
		body, err := os.ReadFile("../../../examples/requests/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(body))
	}
	log := recordLog(t, shipped, decisionlog.Plain, bodies...)
	if strings.Contains(log, "MIIB") {
		t.Errorf("the certificate is recorded: %s", log)
	}
	condition := func(text string) *decider.Decider { return edited(t, rego, organization, organization+"\n\t"+text) }
	for _, test := range []struct {
		name    string
		rules   *decider.Decider
		changed int64
		lacks   string // what the record with a certificate lacks
	}{
		{"the same", shipped, 0, ""},
		{"a remark", edited(t, rego, "# The certificate authority", "# A certificate authority"), 0, ""},
		{"the organization is no tenant", edited(t, data, `"contoso": {`, `"other": {`), 1, ""},
		{"an attribute that is not recorded", condition(`dps.certificate.subject.commonName != "x"`), 0, masked("/subject/commonName")},
		{"all attributes", condition(`contains(json.marshal(dps.certificate), "Contoso")`), 0, masked("/dnsNames")},
		{"the text", condition(`startswith(input.deviceRuntimeContext.x509.clientCertificate, "MII")`), 0, masked("/dnsNames")},
		{"the text as a key", condition(`not {"x": 1}[input.deviceRuntimeContext.x509.clientCertificate]`), 0, masked("/dnsNames")},
	} {
		report := replayed(t, log, replay.Options{Rules: test.rules})
		var lacking int64
		if test.lacks != "" {
			lacking = 1
		}
		if report.Lacking != lacking || report.Malformed != 0 || report.Changed() != test.changed || report.Registrations != 2-lacking {
			t.Errorf("%s: %d decided, %d changed, %d lacking %v, %v", test.name, report.Registrations, report.Changed(),
				report.Lacking, report.LackingFirst, report.MalformedFirst)
		}
		if lacking > 0 && report.Lacking > 0 && !strings.HasPrefix(report.LackingFirst[0].Problem, test.lacks) {
			t.Errorf("%s: %s", test.name, report.LackingFirst[0].Problem)
		}
	}
}

// What the library says of an enrollment is in its records, as far as the definitions of the library look at it.
func TestRecordsOfEnrollments(t *testing.T) {
	t.Parallel()
	library, err := os.ReadFile("../../../rules/lib/dps.rego")
	if err != nil {
		t.Fatal(err)
	}
	bodies := examples(t)
	for _, condition := range []string{
		`dps.attestation_type == "x509"`, `dps.attestation_type != "tpm"`, `not dps.attestation_type`, `dps.iot_edge`, `not dps.iot_edge`,
		`dps.reprovision_policy == "never"`, `dps.reprovision_policy != "always"`, `dps.enrollment.attestation.type == "symmetricKey"`,
		`dps.enrollment.capabilities.iotEdge == false`, `dps.enrollment_id == "contoso"`, `dps.first_assignment`,
	} {
		rules := recordRules(t, fstest.MapFS{"lib/dps.rego": {Data: library}, "a.rego": {Data: []byte(
			"package allocation[\"default\"]\n\nimport data.dps\n\nhub := input.linkedHubs[0]\n\nreject contains \"no\" if " + condition + "\n")}}, decider.RulesOptions{})
		report := replayed(t, recordLog(t, rules, decisionlog.Plain, bodies...), replay.Options{Rules: rules})
		if report.Lacking != 0 || report.Changed() != 0 || report.Registrations != int64(len(bodies)) {
			t.Errorf("%s: %d of %d decided, %d changed, %d lacking %v", condition, report.Registrations, len(bodies), report.Changed(), report.Lacking, report.LackingFirst)
		}
	}
}

// With absent IDs nobody knows which records are of one device, so each counts; hashed ones join.
func TestRecordsByDevice(t *testing.T) {
	t.Parallel()
	allocator := recordRules(t, oneRule("package allocation.g\n\nhub := input.linkedHubs[0]\n"), decider.RulesOptions{})
	for mode, want := range map[decisionlog.IDMode]int64{decisionlog.Plain: 2, decisionlog.Hashed: 2, decisionlog.Absent: 3} {
		other := strings.Replace(modelBody, "d1", "d2", 1)
		report := replayed(t, recordLog(t, allocator, mode, modelBody, modelBody, other), replay.Options{Rules: allocator, ByDevice: true})
		if report.Counted != want || report.Registrations != 3 {
			t.Errorf("%s: %d counted of %d", mode, report.Counted, report.Registrations)
		}
	}
}

// What a rule looked up is looked up again in the record.
func TestRecordsWithLookups(t *testing.T) {
	t.Parallel()
	options := decider.RulesOptions{AllowBuiltins: []string{"time.now_ns", "rand.intn", "uuid.rfc4122"}}
	// A decision that another nanosecond would change, nearly always.
	allocator := recordRules(t, oneRule(`package allocation.g

hub := input.linkedHubs[time.now_ns() % 40]

reject contains "another random number" if rand.intn("x", 1000000000) != rand.intn("x", 1000000000)

payload := {"id": uuid.rfc4122("k")}
`), options)
	var hubs []string
	for i := range 40 {
		hubs = append(hubs, `"h`+string(rune('a'+i/10))+string(rune('0'+i%10))+`.azure-devices.net"`)
	}
	body := `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "linkedHubs": [` + strings.Join(hubs, ",") + `], "deviceRuntimeContext": {"registrationId": "d1"}}`
	log := recordLog(t, allocator, decisionlog.Hashed, body, body, body, body, body, body, body, body)
	if !strings.Contains(log, `"builtin":"time.now_ns","arguments":[],"result":`) {
		t.Errorf("no look-up in %s", log)
	}
	report := replayed(t, log, replay.Options{Rules: allocator})
	if report.Changed() != 0 || report.Registrations != 8 || report.Malformed != 0 {
		t.Errorf("%d changed of %d, %v, %v", report.Changed(), report.Registrations, report.MalformedFirst, report.Examples)
	}
	// Without them it would be chance.
	if report = replayed(t, strings.ReplaceAll(log, `"lookups":`, `"noLookups":`), replay.Options{Rules: allocator}); report.Changed() == 0 {
		t.Errorf("nothing depends on the look-ups: %+v", report.Counts)
	}
}

// Bare requests, journals and records stand in one log.
func TestMixedLog(t *testing.T) {
	t.Parallel()
	allocator := recordRules(t, oneRule("package allocation.g\n\nhub := input.linkedHubs[0]\n"), decider.RulesOptions{})
	record := recordLog(t, allocator, decisionlog.Plain, modelBody)
	bare := strings.Join(strings.Fields(modelBody), "") + "\n"
	log := bare + record + `{"request":` + strings.TrimSpace(bare) + `,"decision":{"outcome":"assigned","hub":"a.azure-devices.net"}}` + "\n" +
		strings.Replace(record, `"source":"current"`, `"source":"shadow"`, 1) +
		strings.Replace(record, `{"usherRecord":1`, `{"usherRecord":2`, 1) +
		recordLog(t, allocator, decisionlog.Plain, `{"broken`) +
		strings.Replace(record, `"masked":[`, `"masked":[7,`, 1) +
		strings.Replace(record, `"rules":{`, `"masked":[],"rules":{`, 1)
	report := replayed(t, log, replay.Options{Rules: allocator})
	if report.Registrations != 3 || report.PassedOver != 1 || report.Counts[replay.Stayed] != 2 || report.Counts[replay.FirstAssigned] != 1 {
		t.Errorf("%+v", report)
	}
	var problems []string
	for _, problem := range report.MalformedFirst {
		problems = append(problems, problem.Place+" "+strings.Replace(problem.Problem, "unable to", "cannot", 1)) // the library varies its words
	}
	for i, want := range []string{"log:5 a decision record of version 2", "log:6 the record has no request", `log:7 not a decision record: json: cannot unmarshal JSON number into Go string within "/masked/0"`, `log:8 not a decision record: jsontext: duplicate object member name "masked"`} {
		if i >= len(problems) || !strings.HasPrefix(problems[i], want) {
			t.Errorf("got %q, want %q", problems, want)
			break
		}
	}
}

// A device that stays, but whose tag the new rule drops or which is told something else, shows as changed: against other
// rules, and against records whose digests have no key.
func TestTwinsAndPayloads(t *testing.T) {
	t.Parallel()
	rules := func(twin, payload string) *decider.Decider {
		return recordRules(t, oneRule("package allocation.a\n\nhub := input.linkedHubs[0]\n"+twin+"\n"+payload+"\n"), decider.RulesOptions{})
	}
	const tags, region, welcome = `initial_twin := {"tags": {"line": "a", "site": "Ulm"}}`, `initial_twin := {"tags": {"line": "a"}}`, `payload := {"welcome": 1}`
	body := func(policy string) string {
		return `{"enrollmentGroup": {"enrollmentGroupId": "g", "reprovisionPolicy": ` + policy + `}, "linkedHubs": ["h.azure-devices.net"],
			"deviceRuntimeContext": {"registrationId": "d", "currentIotHubHostName": "H.azure-devices.net"}}`
	}
	before := rules(tags, welcome)
	for _, policy := range []string{`{"updateHubAssignment": true, "migrateDeviceData": true}`, `{"updateHubAssignment": true, "migrateDeviceData": false}`} {
		plain := recordLog(t, before, decisionlog.Plain, body(policy))
		for _, test := range []struct {
			name  string
			after *decider.Decider
			want  replay.Kind
		}{
			{"nothing", before, replay.Stayed},
			{"the same in another order", rules(`initial_twin := {"tags": {"site": "Ulm", "line": "a"}}`, welcome), replay.Stayed},
			{"a tag dropped", rules(region, welcome), replay.TwinChanged},
			{"no twin", rules("", welcome), replay.TwinChanged},
			{"another payload", rules(tags, `payload := {"welcome": 2}`), replay.PayloadChanged},
			{"no payload", rules(tags, ""), replay.PayloadChanged},
			{"both", rules(region, ""), replay.TwinAndPayloadChanged},
		} {
			for source, report := range map[string]*replay.Report{
				"rules":   replayed(t, body(policy), replay.Options{Rules: test.after, Baseline: before, Examples: 1}),
				"records": replayed(t, plain, replay.Options{Rules: test.after, Examples: 1}),
			} {
				changed := int64(0)
				if test.want == replay.TwinChanged || test.want == replay.TwinAndPayloadChanged {
					changed = 1
				}
				if report.Counts[test.want] != 1 || report.Counted != 1 || report.Twins[0].RuleTwinChanged != changed ||
					report.Twins[0].Twin != replay.TwinKept || (report.Changed() == 1) != (test.want != replay.Stayed) ||
					test.want != replay.Stayed && (len(report.Examples) != 1 || report.Examples[0].Kind != test.want) {
					t.Errorf("%s, against %s: %+v", test.name, source, report)
				}
			}
		}
		// A keyed digest, or none, does not say.
		for _, mode := range []decisionlog.IDMode{decisionlog.Hashed, decisionlog.Absent} {
			report := replayed(t, recordLog(t, before, mode, body(policy)), replay.Options{Rules: rules(region, welcome)})
			if report.Counts[replay.Stayed] != 1 {
				t.Errorf("%s: %+v", mode, report)
			}
		}
	}
}

// Sinks deliver a record at least once. Its copies do not count, wherever they are in the logs, however many processors
// decide, and whatever becomes of the record.
func TestRecordsDeliveredTwice(t *testing.T) {
	t.Parallel()
	rules := recordRules(t, oneRule("package allocation.g\n\nhub := input.linkedHubs[0]\n"), decider.RulesOptions{})
	byModel := recordRules(t, oneRule("package allocation.g\n\nhub := input.linkedHubs[1] if input.deviceRuntimeContext.payload.model == \"m1\"\n"), decider.RulesOptions{})
	var bodies []string
	for i := range 3000 {
		bodies = append(bodies, strings.Replace(modelBody, "d1", fmt.Sprintf("dev-%04d", i), 1))
	}
	log := recordLog(t, rules, decisionlog.Plain, bodies...)
	later := recordLog(t, rules, decisionlog.Plain, bodies[0])
	again := log + later + log[len(log)/2:][strings.IndexByte(log[len(log)/2:], '\n')+1:]
	copies := int64(strings.Count(again, "\n")) - 3001
	for _, workers := range []int{1, 4} {
		options := replay.Options{Rules: rules, Workers: workers}
		report := replayed(t, again, options)
		if report.Registrations != 3001 || report.Duplicates != copies || report.SameRules != 3001 || report.Counts[replay.Stayed] != 3001 {
			t.Errorf("%d workers: %d registrations, %d by the same rules, %d duplicates of %d, %v", workers, report.Registrations, report.SameRules, report.Duplicates, copies, report.Counts)
		}
		options.ByDevice = true
		if report := replayed(t, again, options); report.Counted != 3000 || report.Duplicates != copies {
			t.Errorf("%d workers: %d devices, %d duplicates of %d", workers, report.Counted, report.Duplicates, copies)
		}
		options = replay.Options{Rules: byModel, Workers: workers}
		if report := replayed(t, again, options); report.Lacking != 3001 || report.Duplicates != copies || report.SameRules != 0 {
			t.Errorf("%d workers: %d lacking, %d duplicates of %d, %d by the same rules", workers, report.Lacking, report.Duplicates, copies, report.SameRules)
		}
	}
	baseline := replayed(t, log, replay.Options{Rules: byModel, Baseline: byModel})
	if baseline.SameRules != baseline.Registrations {
		t.Errorf("%d of %d by the same rules", baseline.SameRules, baseline.Registrations)
	}
}

// Rules get the recorded rows. A row that is not recorded is lacking, and not a fault of the rules.
func TestRecordedRows(t *testing.T) {
	t.Parallel()
	files := func(key string) fstest.MapFS {
		return fstest.MapFS{
			"lookups.yaml": {Data: []byte("device: {row: {type: object, properties: {hub: {type: string}}}, recordable: [hub], fixture: device_fixture.csv}\n")},
			"a.rego":       {Data: []byte("package allocation[\"default\"]\n\nhub := lookup.device(" + key + ").hub\n")},
		}
	}
	const id = "input.deviceRuntimeContext.registrationId"
	with := files(id)
	with["device_fixture.csv"] = &fstest.MapFile{Data: []byte("key,hub\npress-1,a.azure-devices.net\n")}
	body := `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "press-1"}, "linkedHubs": ["a.azure-devices.net"]}`
	served := recordLog(t, recordRules(t, with, decider.RulesOptions{}), decisionlog.Plain, body)
	failed := recordLog(t, recordRules(t, files(id), decider.RulesOptions{}), decisionlog.Plain, body)
	for name, test := range map[string]struct {
		log, key               string
		registrations, lacking int64
		kind                   replay.Kind
	}{
		"the same key":     {served, id, 1, 0, replay.Stayed},
		"another key":      {served, `"x"`, 0, 1, ""},
		"a recorded fault": {failed, id, 1, 0, replay.StillFaulted},
	} {
		var list bytes.Buffer
		report, err := replay.Run(t.Context(), []requestlog.Log{requestlog.Stream("log", strings.NewReader(test.log))},
			replay.Options{Rules: recordRules(t, files(test.key), decider.RulesOptions{}), List: &list, Examples: 1})
		if err != nil || report.Registrations != test.registrations || report.Lacking != test.lacking || list.Len() > 0 ||
			test.kind == replay.StillFaulted && (len(report.Faults) != 1 || report.Faults[0].Still != 1) {
			t.Errorf("%s: %v: %+v\n%s", name, err, report, list.String())
		}
	}
}

// A table stands for what was recorded of its look-up, masked or not; other rows are those of the record. The baseline
// has the recorded rows.
func TestTables(t *testing.T) {
	t.Parallel()
	files := func(recordable string) fstest.MapFS {
		row := ": {row: {type: object, properties: {hub: {type: string}, blocked: {type: boolean}}}, recordable: [" + recordable + "], fixture: "
		return fstest.MapFS{
			"lookups.yaml":       {Data: []byte("device" + row + "device_fixture.csv}\nblocks" + row + "blocks_fixture.csv}\n")},
			"device_fixture.csv": {Data: []byte("key,hub\npress-1,a.azure-devices.net\n")},
			"blocks_fixture.csv": {Data: []byte("key,blocked\npress-1,false\n")},
			"a.rego": {Data: []byte(`package allocation["default"]

id := input.deviceRuntimeContext.registrationId

hub := lookup.device(id).hub

reject contains "blocked" if lookup.blocks(id).blocked
`)},
		}
	}
	body := `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "Press-1"}, "linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"]}`
	for name, test := range map[string]struct {
		recordable, table, lookup string
		mode                      decisionlog.IDMode
		baseline                  bool
		want                      replay.Kind // empty if the record is lacking
	}{
		"another hub":                        {"hub, blocked", "key,hub\nPRESS-1,b.azure-devices.net\n", "device", decisionlog.Plain, false, replay.Moved},
		"the same hub":                       {"hub, blocked", "key,hub\npress-1,a.azure-devices.net\n", "device", decisionlog.Plain, false, replay.Stayed},
		"a row that is not there":            {"hub, blocked", "key,hub\npress-2,a.azure-devices.net\n", "device", decisionlog.Plain, false, replay.NewlyFaulted},
		"another hub than the baseline says": {"hub, blocked", "key,hub\npress-1,b.azure-devices.net\n", "device", decisionlog.Plain, true, replay.Moved},
		"what is masked is in the table":     {"blocked", "key,hub\npress-1,b.azure-devices.net\n", "device", decisionlog.Plain, false, replay.Moved},
		"what is masked is in the other":     {"blocked", "key,blocked\npress-1,true\n", "blocks", decisionlog.Plain, false, ""},
		"masked, and the baseline needs it":  {"blocked", "key,hub\npress-1,b.azure-devices.net\n", "device", decisionlog.Plain, true, ""},
		"no key to ask the table for":        {"hub, blocked", "key,hub\npress-1,a.azure-devices.net\n", "device", decisionlog.Hashed, false, ""},
	} {
		log := recordLog(t, recordRules(t, files(test.recordable), decider.RulesOptions{}), test.mode, body)
		without := files(test.recordable)
		delete(without, "device_fixture.csv")
		delete(without, "blocks_fixture.csv")
		recorded := recordRules(t, without, decider.RulesOptions{})
		declared := recorded.Rules().Lookups()
		at := slices.IndexFunc(declared, func(d *lookups.Declaration) bool { return d.Name == test.lookup })
		rows, err := lookups.LoadTable(strings.NewReader(test.table), "new.csv", declared[at])
		if err != nil {
			t.Fatal(err)
		}
		tables := replay.Tables{test.lookup: {File: "new.csv", Rows: rows}}
		allocator, err := decider.New(decider.Options{Rules: recorded.Rules(), Lookups: tables})
		if err != nil {
			t.Fatal(err)
		}
		options := replay.Options{Rules: allocator, Tables: tables}
		if test.baseline {
			options.Baseline = recorded
		}
		report := replayed(t, log, options)
		if test.want == "" && report.Lacking != 1 || test.want != "" && report.Counts[test.want] != 1 {
			t.Errorf("%s: %+v", name, report)
		}
		if want := (replay.TableSummary{Lookup: test.lookup, File: "new.csv", Rows: 1}); !slices.Equal(report.Lookups, []replay.TableSummary{want}) {
			t.Errorf("%s: %+v", name, report.Lookups)
		}
	}
}
