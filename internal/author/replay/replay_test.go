package replay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// allocatorOf loads package allocation.default with these rules in it.
func allocatorOf(t testing.TB, rules string) *decider.Decider {
	t.Helper()
	return allocatorIn(t, fstest.MapFS{"rule.rego": {Data: []byte("package allocation.default\n\n" + rules + "\n")}})
}

func allocatorIn(t testing.TB, fsys fs.FS) *decider.Decider {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), fsys, decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

const (
	hubA = "a.azure-devices.net"
	hubB = "b.azure-devices.net"
	hubC = "c.azure-devices.net"
)

// request makes a bare request of a device that is on a hub, or on none.
func request(id, policy, current string) string {
	policies := map[string]string{
		"":        "",
		"migrate": `, "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true}`,
		"reset":   `, "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": false}`,
		"never":   `, "reprovisionPolicy": {"updateHubAssignment": false, "migrateDeviceData": false}`,
	}
	on := ""
	if current != "" {
		on = fmt.Sprintf(`, "currentIotHubHostName": %q, "currentDeviceId": %q`, current, id)
	}
	return fmt.Sprintf(`{"enrollmentGroup": {"enrollmentGroupId": "Group"%s}, "deviceRuntimeContext": {"registrationId": %q%s}, "linkedHubs": [%q, %q, %q]}`,
		policies[policy], id, on, hubA, hubB, hubC)
}

func record(request, decision string) string {
	return fmt.Sprintf(`{"time": "2026-01-01T00:00:00Z", "decision": %s, "request": %s}`, decision, request)
}

func lines(texts ...string) requestlog.Log {
	return requestlog.Log{Name: "log", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Join(texts, "\n") + "\n")), nil
	}}
}

func mustRun(t testing.TB, options replay.Options, logs ...requestlog.Log) *replay.Report {
	t.Helper()
	report, err := replay.Run(t.Context(), logs, options)
	if err != nil {
		t.Fatal(err)
	}
	if report.Interrupted {
		t.Fatal("interrupted")
	}
	return report
}

// counts leaves out zeros.
func counts(r *replay.Report) map[replay.Kind]int64 {
	some := map[replay.Kind]int64{}
	for kind, n := range r.Counts {
		if n != 0 {
			some[kind] = n
		}
	}
	return some
}

// What becomes of a twin, for each policy, wherever the device is and whatever the rule says.
func TestTwins(t *testing.T) {
	t.Parallel()
	const (
		toB     = `hub := "b"` + "\n"
		twin    = `initial_twin := {"tags": {"site": 1}}` + "\n"
		reject  = `reject contains "no"` + "\n"
		hold    = `hold contains "later"` + "\n"
		noHub   = `hub := "none" if false` + "\n"
		badTwin = `initial_twin := 1` + "\n"
	)
	type want struct {
		kind             replay.Kind
		twin             replay.Twin
		applied, ignored int64
	}
	for _, c := range []struct {
		policy, current, rules string
		want                   want
	}{
		{"migrate", "", toB, want{replay.FirstAssigned, replay.TwinInitial, 0, 0}},
		{"migrate", "", toB + twin, want{replay.FirstAssigned, replay.TwinInitial, 1, 0}},
		{"migrate", "b", toB, want{replay.Stayed, replay.TwinKept, 0, 0}},
		{"migrate", "b", toB + twin, want{replay.Stayed, replay.TwinKept, 0, 1}},
		{"migrate", "a", toB, want{replay.Moved, replay.TwinMigrated, 0, 0}},
		{"migrate", "a", toB + twin, want{replay.Moved, replay.TwinMigrated, 0, 1}},
		{"", "a", toB + twin, want{replay.Moved, replay.TwinMigrated, 0, 1}},
		{"reset", "", toB + twin, want{replay.FirstAssigned, replay.TwinInitial, 1, 0}},
		{"reset", "b", toB + twin, want{replay.Stayed, replay.TwinKept, 0, 1}},
		{"reset", "a", toB, want{replay.Moved, replay.TwinReset, 0, 0}},
		{"reset", "a", toB + twin, want{replay.Moved, replay.TwinReset, 1, 0}},
		{"never", "", toB + twin, want{replay.FirstAssigned, replay.TwinInitial, 1, 0}},
		{"never", "b", toB + twin, want{replay.Stayed, replay.TwinKept, 0, 1}},
		{"never", "a", toB, want{replay.Stayed, replay.TwinKept, 0, 0}},
		{"never", "a", toB + twin, want{replay.Stayed, replay.TwinKept, 0, 1}},
		{"never", "unlinked", toB, want{replay.NewlyRejected, replay.TwinUntouched, 0, 0}},

		{"migrate", "", reject, want{replay.FirstRejected, replay.TwinUntouched, 0, 0}},
		{"migrate", "a", reject, want{replay.NewlyRejected, replay.TwinUntouched, 0, 0}},
		{"reset", "a", reject, want{replay.NewlyRejected, replay.TwinUntouched, 0, 0}},
		{"never", "a", reject, want{replay.NewlyRejected, replay.TwinUntouched, 0, 0}},
		{"migrate", "", hold, want{replay.FirstHeld, replay.TwinUntouched, 0, 0}},
		{"reset", "a", hold, want{replay.NewlyHeld, replay.TwinUntouched, 0, 0}},
		{"migrate", "", noHub, want{replay.FirstFaulted, replay.TwinUntouched, 0, 0}},
		{"reset", "a", noHub, want{replay.NewlyFaulted, replay.TwinUntouched, 0, 0}},
		{"never", "a", noHub, want{replay.Stayed, replay.TwinKept, 0, 0}},
		{"migrate", "a", toB + badTwin, want{replay.NewlyFaulted, replay.TwinUntouched, 0, 0}},
	} {
		t.Run(fmt.Sprintf("%s from %s: %s", c.policy, c.current, c.rules), func(t *testing.T) {
			t.Parallel()
			current := c.current
			if current != "" {
				current += ".azure-devices.net"
			}
			rules := strings.NewReplacer(`"b"`, fmt.Sprintf("%q", hubB)).Replace(c.rules)
			report := mustRun(t, replay.Options{Rules: allocatorOf(t, rules)}, lines(request("d", c.policy, current)))
			if len(report.Flows) != 1 || len(report.Twins) != 1 {
				t.Fatalf("one registration, and the report has %v and %v", report.Flows, report.Twins)
			}
			twin := report.Twins[0]
			got := want{report.Flows[0].Kind, twin.Twin, twin.RuleTwinApplied, twin.RuleTwinIgnored}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			policy := c.policy
			if policy == "" {
				policy = "migrate"
			}
			if string(twin.Reprovision) != policy {
				t.Errorf("policy %s", twin.Reprovision)
			}
		})
	}
}

// Every pair of what was and what is has its kind.
func TestKinds(t *testing.T) {
	t.Parallel()
	after := map[string]string{
		"a":         fmt.Sprintf("hub := %q", hubA),
		"b":         fmt.Sprintf("hub := %q", hubB),
		"rejected":  `reject contains "no"`,
		"held":      `hold contains "later"`,
		"undecided": `hub := "none" if false`,
	}
	before := map[string]string{
		"nothing":     "null",
		"a":           fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, strings.ToUpper(hubA)),
		"rejected":    `{"outcome": "rejected"}`,
		"held":        `{"outcome": "held"}`,
		"undecided":   `{"fault": "undecided"}`,
		"timeout":     `{"outcome": "timeout"}`,
		"bad_verdict": `{"fault": {"kind": "bad_verdict", "detail": "hub is a number, not a string"}}`,
	}
	want := map[string]map[string]replay.Kind{
		"nothing": {"a": replay.FirstAssigned, "b": replay.FirstAssigned, "rejected": replay.FirstRejected, "held": replay.FirstHeld, "undecided": replay.FirstFaulted},
		"a":       {"a": replay.Stayed, "b": replay.Moved, "rejected": replay.NewlyRejected, "held": replay.NewlyHeld, "undecided": replay.NewlyFaulted},
		"rejected": {"a": replay.NewlyAccepted, "b": replay.NewlyAccepted, "rejected": replay.StillRejected, "held": replay.NewlyHeld,
			"undecided": replay.NewlyFaulted},
		"held": {"a": replay.NewlyAccepted, "b": replay.NewlyAccepted, "rejected": replay.NewlyRejected, "held": replay.StillHeld,
			"undecided": replay.NewlyFaulted},
		"undecided": {"a": replay.NewlyAccepted, "b": replay.NewlyAccepted, "rejected": replay.NewlyRejected, "held": replay.NewlyHeld,
			"undecided": replay.StillFaulted},
		"timeout": {"a": replay.NewlyAccepted, "b": replay.NewlyAccepted, "rejected": replay.NewlyRejected, "held": replay.NewlyHeld,
			"undecided": replay.NewlyFaulted},
		"bad_verdict": {"a": replay.NewlyAccepted, "b": replay.NewlyAccepted, "rejected": replay.NewlyRejected, "held": replay.NewlyHeld,
			"undecided": replay.NewlyFaulted},
	}
	for was, decision := range before {
		for is, rules := range after {
			report := mustRun(t, replay.Options{Rules: allocatorOf(t, rules)}, lines(record(request("d", "", ""), decision)))
			if diff := cmp.Diff(map[replay.Kind]int64{want[was][is]: 1}, counts(report)); diff != "" {
				t.Errorf("from %s to %s (-want +got):\n%s", was, is, diff)
			}
		}
	}
}

// fleet is a log of n devices: on hubs a, b and c in turn, but for each tenth, which has no hub yet.
func fleet(n int) string {
	var log strings.Builder
	for i := range n {
		current := []string{hubA, hubB, hubC}[i%3]
		if i%10 == 9 {
			current = ""
		}
		fmt.Fprintln(&log, request(fmt.Sprintf("device-%05d", i), []string{"migrate", "reset", "never"}[i/3%3], current))
	}
	return log.String()
}

const stays = `hub := input.deviceRuntimeContext.currentIotHubHostName if not planted

hub := input.linkedHubs[0] if {
	not input.deviceRuntimeContext.currentIotHubHostName
	not planted
}
`

// Changes that were planted, and those alone, are found.
func TestPlantedChanges(t *testing.T) {
	t.Parallel()
	const n = 3000
	old := allocatorOf(t, stays+"planted if false")
	rules := allocatorOf(t, stays+fmt.Sprintf(`
planted if input.deviceRuntimeContext.registrationId in {"device-00000", "device-00500", "device-01001", "device-01501", "device-02003"}
hub := %q if input.deviceRuntimeContext.registrationId in {"device-00000", "device-01001"}
reject contains "not any more" if input.deviceRuntimeContext.registrationId == "device-00500"
hold contains "a while" if input.deviceRuntimeContext.registrationId == "device-01501"
`, hubB))
	// 0: from a by migrate. 1001: policy of 1001/3%%3 = 0 (migrate), from c.
	want := map[string]replay.Kind{
		"device-00000": replay.Moved, "device-01001": replay.Moved, "device-00500": replay.NewlyRejected,
		"device-01501": replay.NewlyHeld, "device-02003": replay.NewlyFaulted,
	}
	for name, baseline := range map[string]*decider.Decider{"rules": old, "log": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var list bytes.Buffer
			report := mustRun(t, replay.Options{Rules: rules, Baseline: baseline, List: &list, Examples: 10}, lines(strings.TrimSuffix(fleet(n), "\n")))
			found := map[string]replay.Kind{}
			for line := range strings.Lines(list.String()) {
				var change replay.Change
				if err := json.Unmarshal([]byte(line), &change); err != nil {
					t.Fatal(err)
				}
				found[change.RegistrationID] = change.Kind
				if want := "log:" + strings.TrimLeft(strings.TrimPrefix(change.RegistrationID, "device-"), "0"); change.Place != next(want) {
					t.Errorf("%s is at %s", change.RegistrationID, change.Place)
				}
			}
			if diff := cmp.Diff(want, found); diff != "" {
				t.Errorf("changes (-planted +found):\n%s", diff)
			}
			if report.Registrations != n || report.Changed() != int64(len(want)) || report.Malformed != 0 {
				t.Errorf("%d registrations, %d changed, %d malformed", report.Registrations, report.Changed(), report.Malformed)
			}
			if got := report.Reprovision.Registrations; got != 2 {
				t.Errorf("%d have to register", got)
			}
			examples := map[string]replay.Kind{}
			for _, example := range report.Examples {
				if example.Kind.Change() {
					examples[example.RegistrationID] = example.Kind
				}
			}
			if diff := cmp.Diff(want, examples); diff != "" {
				t.Errorf("examples (-planted +found):\n%s", diff)
			}
			if diff := cmp.Diff([]replay.FaultCount{{Fault: answer.Undecided, Newly: 1}}, report.Faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// next adds one to the number that a place ends with: lines count from 1.
func next(place string) string {
	var n int
	name, number, _ := strings.Cut(place, ":")
	fmt.Sscan(number, &n)
	return fmt.Sprintf("%s:%d", name, n+1)
}

// The starter rules change nothing for anybody whom they decided for themselves.
func TestSameRulesChangeNothing(t *testing.T) {
	t.Parallel()
	shipped := allocatorIn(t, os.DirFS("../../../rules"))
	paths, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d examples: %v", len(paths), err)
	}
	var logs []requestlog.Log
	for _, path := range paths {
		log, err := requestlog.File(path)
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, log)
	}
	logs = append(logs, lines(fleet(500)))
	for _, byDevice := range []bool{false, true} {
		report := mustRun(t, replay.Options{Rules: shipped, Baseline: shipped, ByDevice: byDevice}, logs...)
		if report.Registrations != int64(len(paths)+500) || report.Malformed != 0 || len(report.Unread) != 0 {
			t.Fatalf("%d registrations, malformed %v, unread %v", report.Registrations, report.MalformedFirst, report.Unread)
		}
		if report.Changed() != 0 {
			t.Errorf("%d changed: %v", report.Changed(), counts(report))
		}
		if report.Rules != report.Baseline {
			t.Errorf("the same rules have digests %s and %s", report.Rules, report.Baseline)
		}
	}
}

// moving sends devices all over the place, and some nowhere.
const moving = `
n := to_number(substring(input.deviceRuntimeContext.registrationId, 7, 5))
hub := input.linkedHubs[n % 7]
reject contains sprintf("no %d", [n]) if n % 11 == 0
hold contains "later" if n % 13 == 0
initial_twin := {"tags": {"n": n}} if n % 2 == 0
`

// However many workers there are and however the log arrives, the report and the list are the same, byte for byte.
func TestOrder(t *testing.T) {
	t.Parallel()
	log := fleet(600)
	log = strings.Replace(log, "device-00577", "device-00007", 1) // registers twice
	log = strings.Replace(log, "\n", "\nnot JSON\n\n", 20)
	rules := allocatorOf(t, moving)
	run := func(workers int, byDevice bool, in io.Reader) string {
		var list bytes.Buffer
		report := mustRun(t, replay.Options{Rules: rules, Workers: workers, Examples: 5, List: &list, ByDevice: byDevice}, requestlog.Stream("log", in))
		text, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + "\n" + list.String()
	}
	for _, byDevice := range []bool{false, true} {
		want := run(1, byDevice, strings.NewReader(log))
		if !strings.Contains(want, `"place":"log:`) || !strings.Contains(want, `"malformed":20`) {
			t.Fatal(want)
		}
		for name, in := range map[string]io.Reader{
			"whole": strings.NewReader(log), "bytes": iotest.OneByteReader(strings.NewReader(log)),
			"halves": iotest.HalfReader(strings.NewReader(log)), "end with data": iotest.DataErrReader(strings.NewReader(log)),
		} {
			for _, workers := range []int{2, 8} {
				if name != "whole" && workers == 2 {
					continue
				}
				if got := run(workers, byDevice, in); got != want {
					t.Errorf("%s, %d workers, by device %t: another report", name, workers, byDevice)
				}
				if s, ok := in.(*strings.Reader); ok {
					s.Reset(log)
				}
			}
		}
	}
}

func TestMalformedLines(t *testing.T) {
	t.Parallel()
	good := request("d", "", hubA)
	rules := allocatorOf(t, "hub := input.linkedHubs[0]")
	for name, c := range map[string]struct{ line, want string }{
		"not JSON":           {"hello", "the line is not valid JSON at"},
		"array":              {"[1, 2]", "(byte 1): write one object to a line, as `jq -c '.[]'` does"},
		"cut off":            {good[:50], "the line ends before the JSON object does at"},
		"first of many":      {`{"a": {`, "write one object to a line, as `jq -c .` does"},
		"more on a line":     {good + " 1", "there is data after the JSON object"},
		"duplicate":          {`{"linkedHubs": [], "linkedHubs": []}`, "a member name occurs twice in one object at /linkedHubs"},
		"not UTF-8":          {"{\"a\": \"\xff\"}", "the line is not valid UTF-8 at /a"},
		"no request":         {`{}`, "not an AllocationRequest: "},
		"another object":     {`{"level": "info", "msg": "started"}`, "not an AllocationRequest: "},
		"record of nothing":  {`{"request": {}}`, "not an AllocationRequest: "},
		"record of a string": {`{"request": "x"}`, "not an AllocationRequest: "},
		"record twice":       {`{"request": {}, "request": {}}`, "a member name occurs twice in one object at /request"},
		"record and more":    {record(good, "null") + "}", "there is data after the JSON object"},
		"a null request":     {`{"request": null}`, "its request is null: an exchange has the AllocationRequest as its member request"},
		"null and more":      {`{"decision": {"outcome": "held"}, "request": null}`, "its request is null"},
		"record cut off":     {strings.TrimSuffix(record(good, "null"), "}"), "the line ends before the JSON object does at"},
		"no outcome":         {record(good, "{}"), "the record's decision has no outcome that is known"},
		"unknown outcome":    {record(good, `{"outcome": "lost"}`), "the record's decision has no outcome that is known"},
		"outcome a number":   {record(good, `{"outcome": 1}`), "the record's decision is not an object such as"},
		"decision a string":  {record(good, `"assigned"`), "the record's decision is not an object such as"},
		"assigned to no hub": {record(good, `{"outcome": "assigned"}`), "the record's decision is assigned, and names no hub"},
		"long":               {`{"a": "` + strings.Repeat("x", 4<<20) + `"}`, "the line is longer than 4 MiB"},
		"very long":          {`{"a": "` + strings.Repeat("x", 9<<20) + `"}`, "the line is longer than 4 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := mustRun(t, replay.Options{Rules: rules}, lines(good, "", c.line, "  ", good))
			if report.Registrations != 2 || report.Malformed != 1 || report.Logs[0].Lines != 3 || len(report.Unread) != 0 {
				t.Fatalf("%d registrations, %d malformed, %d lines, unread %v", report.Registrations, report.Malformed, report.Logs[0].Lines, report.Unread)
			}
			problem := report.MalformedFirst[0]
			if problem.Place != "log:3" || !strings.Contains(problem.Problem, c.want) {
				t.Errorf("%s: %s; want log:3: %s", problem.Place, problem.Problem, c.want)
			}
		})
	}
}

// Many malformed lines are counted, and the first ten named.
func TestManyMalformedLines(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, "hub := input.linkedHubs[0]")
	report := mustRun(t, replay.Options{Rules: rules}, lines(strings.Repeat("no\n", 100_000)), lines("no"))
	if report.Malformed != 100_001 || len(report.MalformedFirst) != 10 || report.MalformedFirst[9].Place != "log:10" {
		t.Errorf("%d malformed, first %v", report.Malformed, report.MalformedFirst)
	}
}

// A request can be written over several lines, and others follow it.
func TestDocumentOverLines(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, "hub := input.linkedHubs[0]")
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(request("d", "", hubA)), "", "  "); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"unix": indented.String(), "windows": "\xef\xbb\xbf" + strings.ReplaceAll(indented.String(), "\n", "\r\n"), "blank lines": "\n\n" + indented.String(),
	} {
		report := mustRun(t, replay.Options{Rules: rules}, requestlog.Stream(name, iotest.OneByteReader(strings.NewReader(text))))
		if report.Registrations != 1 || report.Malformed != 0 || report.Counts[replay.Stayed] != 1 {
			t.Errorf("%s: %d registrations, malformed %v", name, report.Registrations, report.MalformedFirst)
		}
	}
	report := mustRun(t, replay.Options{Rules: rules}, requestlog.Stream("two", strings.NewReader(indented.String()+"\n"+indented.String())))
	if report.Registrations != 2 || report.Malformed != 0 {
		t.Errorf("two documents: %v", report.MalformedFirst)
	}
	long := io.MultiReader(strings.NewReader("{\n"), strings.NewReader(strings.Repeat("\"a\": 1,\n", 1<<20)))
	report = mustRun(t, replay.Options{Rules: rules}, requestlog.Stream("long", long))
	if len(report.Unread) != 1 || !strings.Contains(report.Unread[0].Problem, "is longer than 4 MiB: write one object to a line, as `jq -c .` does") {
		t.Errorf("a long document: %v", report.Unread)
	}
}

func gzipped(t testing.TB, text string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func zstded(t testing.TB, text string) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll([]byte(text), nil)
}

// gzip and zstd are known by their first bytes, whatever the file is called.
func TestCompression(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, "hub := input.linkedHubs[0]")
	plain := fleet(300)
	half := strings.Index(plain, "\n") + 1
	skippable := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	for name, c := range map[string]struct {
		content []byte
		want    int64  // registrations
		unread  string // problem
	}{
		"plain":          {[]byte(plain), 300, ""},
		"no newline":     {[]byte(strings.TrimSuffix(plain, "\n")), 300, ""},
		"mark":           {[]byte("\xef\xbb\xbf" + plain), 300, ""},
		"windows":        {[]byte(strings.ReplaceAll(plain, "\n", "\r\n")), 300, ""},
		"empty":          {nil, 0, ""},
		"blank":          {[]byte("\n \n\t\n"), 0, ""},
		"gzip":           {gzipped(t, plain), 300, ""},
		"gzip members":   {append(gzipped(t, plain[:half]), gzipped(t, plain[half:])...), 300, ""},
		"gzip empty":     {gzipped(t, ""), 0, ""},
		"gzip head only": {gzipped(t, plain)[:5], 0, "gzip"},
		"gzip and trash": {append(gzipped(t, plain), "trash"...), 300, "gzip"},
		"zstd":           {zstded(t, plain), 300, ""},
		"zstd frames":    {append(zstded(t, plain[:half]), zstded(t, plain[half:])...), 300, ""},
		"zstd skippable": {append(skippable, zstded(t, plain)...), 300, ""},
		"zstd cut off":   {zstded(t, plain)[:50], 0, "zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			log, err := requestlog.File(path)
			if err != nil {
				t.Fatal(err)
			}
			var registrations, read int64
			report := mustRun(t, replay.Options{Rules: rules, Progress: func(n, bytes int64) { registrations, read = n, bytes }}, log)
			if report.Registrations != c.want || report.Malformed != 0 {
				t.Errorf("%d registrations, malformed %v", report.Registrations, report.MalformedFirst)
			}
			if c.unread == "" && len(report.Unread) != 0 || c.unread != "" && (len(report.Unread) != 1 || !strings.Contains(report.Unread[0].Problem, c.unread)) {
				t.Errorf("unread %v", report.Unread)
			}
			if registrations != c.want || c.unread == "" && read != log.Size {
				t.Errorf("progress: %d registrations, %d of %d bytes", registrations, read, log.Size)
			}
		})
	}
}

// A log that breaks off is replayed up to there, and the next one follows.
func TestUnreadableLog(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, "hub := input.linkedHubs[0]")
	whole := gzipped(t, fleet(5000))
	cut := requestlog.Stream("cut.gz", bytes.NewReader(whole[:len(whole)/2]))
	broken := requestlog.Stream("broken", io.MultiReader(strings.NewReader(fleet(3)+"{"), iotest.ErrReader(errors.New("the disk is on fire"))))
	closed := requestlog.Log{Name: "closed", Open: func() (io.ReadCloser, error) { return nil, errors.New("no permission") }}
	report := mustRun(t, replay.Options{Rules: rules}, cut, broken, closed, lines(fleet(7)))
	if n := report.Registrations; n < 1010 || n > 4990 {
		t.Errorf("%d registrations", n)
	}
	want := []replay.Problem{
		{Place: fmt.Sprintf("cut.gz:%d", report.Logs[0].Lines+1), Problem: "the gzip stream is cut off"},
		{Place: "broken:4", Problem: "the disk is on fire"},
		{Place: "closed", Problem: "no permission"},
	}
	if diff := cmp.Diff(want, report.Unread); diff != "" {
		t.Errorf("unread (-want +got):\n%s", diff)
	}
	if last := report.Logs[3].Lines; last != 7 {
		t.Errorf("%d lines of the last log", last)
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	if _, err := requestlog.File("testdata/no-such-file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := requestlog.File("."); err == nil || !strings.Contains(err.Error(), ". is a folder") {
		t.Errorf("a folder: %v", err)
	}
}

// endless gives one line without an end, up to a size.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	for i := range p[:n] {
		p[i] = 'x'
	}
	e.left -= n
	return n, nil
}

// A line of 64 MB takes no more memory than one of a few.
func TestEndlessLine(t *testing.T) {
	rules := allocatorOf(t, "hub := input.linkedHubs[0]")
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	log := io.MultiReader(strings.NewReader(fleet(1)), &endless{64 << 20}, strings.NewReader("\n"+fleet(2)))
	report := mustRun(t, replay.Options{Rules: rules}, requestlog.Stream("log", log))
	runtime.ReadMemStats(&after)
	if report.Registrations != 3 || report.Malformed != 1 || report.MalformedFirst[0].Place != "log:2" {
		t.Errorf("%d registrations, malformed %v", report.Registrations, report.MalformedFirst)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 32<<20 {
		t.Errorf("%d MB allocated", allocated>>20)
	}
}

// A hub that is linked anew under its other name is the same hub in every table.
func TestHubUnderItsOtherName(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, "hub := input.linkedHubs[0]")
	other := strings.Replace(hubA, ".azure", ".device.azure", 1)
	renamed := func(id string) string { return strings.ReplaceAll(request(id, "", ""), hubA, other) }
	report := mustRun(t, replay.Options{Rules: rules}, lines(
		record(renamed("one"), fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, hubA)),
		record(request("two", "", ""), fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, other)),
		record(renamed("three"), fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, strings.ToUpper(other)))))
	if diff := cmp.Diff(map[replay.Kind]int64{replay.Stayed: 3}, counts(report)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]replay.Hub{{Name: hubA, Before: 3, After: 3}}, report.Hubs); diff != "" {
		t.Errorf("hubs (-want +got):\n%s", diff)
	}
	stays := replay.State{Result: answer.Assigned, Hub: hubA}
	if got := report.Matrix(5); len(got.Rows) != 1 || got.Rows[0] != stays || len(got.Columns) != 1 || got.Columns[0] != stays {
		t.Errorf("the matrix is %+v", got)
	}
}

// One registration ID at two DPS instances is two devices.
func TestByDeviceOfServices(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, fmt.Sprintf("hub := %q", hubB))
	at := func(service string) string {
		return fmt.Sprintf(`{"usher": {"service": %q}, %s`, service, request("one", "", hubA)[1:])
	}
	var list bytes.Buffer
	report := mustRun(t, replay.Options{Rules: rules, ByDevice: true, List: &list}, lines(at("eu"), at("us"), at("EU"), request("one", "", hubA)))
	if report.Registrations != 4 || report.Counted != 3 {
		t.Errorf("%d registrations of %d devices", report.Registrations, report.Counted)
	}
	if n := strings.Count(list.String(), `"service":"us"`); n != 1 {
		t.Errorf("the list is %s", &list)
	}
}

// ByDevice counts the last registration of a device, in whatever case it gives its ID.
func TestByDevice(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, fmt.Sprintf("hub := %q", hubB))
	log := []string{
		record(request("one", "", ""), fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, hubA)),
		request("two", "", hubA),
		request("ONE", "", hubB),
		request("two", "", hubA),
		request("three", "", ""),
	}
	report := mustRun(t, replay.Options{Rules: rules, ByDevice: true}, lines(log...))
	if diff := cmp.Diff(map[replay.Kind]int64{replay.Stayed: 1, replay.Moved: 1, replay.FirstAssigned: 1}, counts(report)); diff != "" {
		t.Errorf("by device (-want +got):\n%s", diff)
	}
	if report.Registrations != 5 || report.Counted != 3 {
		t.Errorf("%d registrations of %d devices", report.Registrations, report.Counted)
	}
	want := []replay.Hub{
		{Name: hubA, Before: 1, Leave: 1},
		{Name: hubB, Before: 1, Arrive: 2, After: 3},
	}
	if diff := cmp.Diff(want, report.Hubs); diff != "" {
		t.Errorf("hubs (-want +got):\n%s", diff)
	}
	report = mustRun(t, replay.Options{Rules: rules}, lines(log...))
	if diff := cmp.Diff(map[replay.Kind]int64{replay.Stayed: 1, replay.Moved: 3, replay.FirstAssigned: 1}, counts(report)); diff != "" {
		t.Errorf("by registration (-want +got):\n%s", diff)
	}
}

// A rule that leaves devices where they are moves nobody, even where the log has a device's first request alone: what
// it changes is for new devices.
func TestDiverted(t *testing.T) {
	t.Parallel()
	const sticky = `
on := input.deviceRuntimeContext.currentIotHubHostName
hub := on
hub := %q if not on
payload := {"id": input.deviceRuntimeContext.currentDeviceId}
`
	log := lines(
		record(request("sticky", "", ""), fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, hubA)),
		record(request("same", "", ""), fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, hubB)),
		record(request("refused", "", ""), `{"outcome": "rejected"}`),
	)
	report := mustRun(t, replay.Options{Rules: allocatorOf(t, fmt.Sprintf(sticky, hubB)), Examples: 1}, log)
	want := map[replay.Kind]int64{replay.Diverted: 1, replay.Stayed: 1, replay.NewlyAccepted: 1}
	if diff := cmp.Diff(want, counts(report)); diff != "" {
		t.Errorf("sticky (-want +got):\n%s", diff)
	}
	hubs := []replay.Hub{{Name: hubA, Before: 1, After: 1}, {Name: hubB, Before: 1, Arrive: 1, After: 2}}
	if diff := cmp.Diff(hubs, report.Hubs); diff != "" {
		t.Errorf("hubs (-want +got):\n%s", diff)
	}
	for _, flow := range report.Flows {
		if flow.Kind == replay.Diverted && (flow.After != flow.Before || flow.NewDevice.Hub != hubB) || flow.Kind != replay.Diverted && flow.NewDevice.Result != "" {
			t.Errorf("flow %+v", flow)
		}
	}
	addUp(t, report)
	if e := report.Examples[0]; e.Kind != replay.Diverted || e.Before.Hub != hubA || e.After.Hub != hubB || e.Twin != replay.TwinKept {
		t.Errorf("example %+v", e)
	}

	// A policy that forbids a move stays one, though the request is a first one.
	never := lines(record(request("never", "never", ""), fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, hubA)))
	report = mustRun(t, replay.Options{Rules: allocatorOf(t, fmt.Sprintf("hub := %q", hubB))}, never)
	if diff := cmp.Diff(map[replay.Kind]int64{replay.Diverted: 1}, counts(report)); diff != "" {
		t.Errorf("never (-want +got):\n%s", diff)
	}

	// The rule sees the device where it is, under the ID that it has there.
	individual := `{"individualEnrollment": {"registrationId": "r", "deviceId": "its-own"}, "deviceRuntimeContext": {"registrationId": "r"}, "linkedHubs": ["` + hubA + `", "` + hubB + `"]}`
	seen := fmt.Sprintf(`
hub := %q if input.deviceRuntimeContext.currentDeviceId == "its-own"
else := %[2]q if input.deviceRuntimeContext.currentIotHubHostName
else := %[2]q
`, hubA, hubB)
	report = mustRun(t, replay.Options{Rules: allocatorOf(t, seen)}, lines(record(individual, fmt.Sprintf(`{"outcome": "assigned", "hub": %q}`, hubA))))
	if diff := cmp.Diff(map[replay.Kind]int64{replay.Diverted: 1}, counts(report)); diff != "" {
		t.Errorf("individual (-want +got):\n%s", diff)
	}
}

// addUp checks that the flows of a report are its matrix.
func addUp(t *testing.T, report *replay.Report) {
	t.Helper()
	flows := map[[2]replay.State]int64{}
	for _, flow := range report.Flows {
		flows[[2]replay.State{flow.Before, flow.After}] += flow.Count
	}
	m := report.Matrix(100)
	for i, before := range m.Rows {
		for j, after := range m.Columns {
			if flow := flows[[2]replay.State{before, after}]; flow != m.Counts[i][j] {
				t.Errorf("from %v to %v: %d in the flows, %d in the matrix", before, after, flow, m.Counts[i][j])
			}
		}
	}
}

// Hubs, twins and breakdowns add up, however the devices move.
func TestSums(t *testing.T) {
	t.Parallel()
	report := mustRun(t, replay.Options{Rules: allocatorOf(t, moving)}, lines(strings.TrimSuffix(fleet(1000), "\n")))
	sum := int64(0)
	for _, hub := range report.Hubs {
		if hub.Before+hub.Arrive-hub.Leave != hub.After || hub.Unassigned > hub.After {
			t.Errorf("%+v does not add up", hub)
		}
		sum += hub.After
	}
	nowhere := report.Counts[replay.FirstRejected] + report.Counts[replay.FirstHeld] + report.Counts[replay.FirstFaulted]
	if sum != report.Counted-nowhere {
		t.Errorf("the hubs hold %d of %d devices, %d have none", sum, report.Counted, nowhere)
	}
	addUp(t, report)
	totals := map[string]int64{}
	for _, kind := range replay.Kinds() {
		totals["counts"] += report.Counts[kind]
	}
	for _, flow := range report.Flows {
		totals["flows"] += flow.Count
	}
	for _, twin := range report.Twins {
		totals["twins"] += twin.Count
	}
	for _, b := range report.ByRule {
		totals["rules"] += b.Total
	}
	for _, b := range report.ByEnrollment {
		totals["enrollments"] += b.Total
	}
	for name, total := range totals {
		if total != 1000 {
			t.Errorf("%s: %d of 1000", name, total)
		}
	}
	if report.Changed() == 0 || report.Counts[replay.Moved] == 0 || report.Counts[replay.NewlyFaulted] == 0 {
		t.Errorf("nothing happened: %v", counts(report))
	}
}

func TestReprovisionTime(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, fmt.Sprintf("hub := %q", hubB))
	for n, want := range map[int]int64{0: 0, 1: 1, 16: 1, 17: 2, 1000: 60, 1001: 61} {
		var log strings.Builder
		for i := range n {
			fmt.Fprintln(&log, request(fmt.Sprint("d", i), "", hubA))
		}
		report := mustRun(t, replay.Options{Rules: rules}, lines(log.String()))
		if report.Reprovision.Registrations != int64(n) || report.Reprovision.Seconds != want {
			t.Errorf("%d moves: %+v, want %d s", n, report.Reprovision, want)
		}
	}
}

// blocking gives a text and then waits until it is released.
type blocking struct {
	text     io.Reader
	drained  chan<- struct{}
	released <-chan struct{}
	told     bool
}

func (b *blocking) Read(p []byte) (int, error) {
	if n, err := b.text.Read(p); err != io.EOF {
		return n, err
	}
	if !b.told {
		b.told = true
		close(b.drained)
	}
	<-b.released
	return 0, io.EOF
}

// Whoever stops a replay gets what was found so far, though the log gives nothing more.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	drained, released := make(chan struct{}), make(chan struct{})
	defer close(released)
	ctx, cancel := context.WithCancel(t.Context())
	var replayed atomic.Int64
	go func() {
		<-drained
		for replayed.Load() < 100 {
			runtime.Gosched()
		}
		cancel()
	}()
	log := requestlog.Stream("log", &blocking{text: strings.NewReader(fleet(100)), drained: drained, released: released})
	report, err := replay.Run(ctx, []requestlog.Log{log}, replay.Options{Rules: allocatorOf(t, moving), Progress: func(n, _ int64) { replayed.Store(n) }})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Interrupted || report.Registrations != 100 || report.Malformed != 0 || len(report.Unread) != 0 {
		t.Errorf("interrupted %t, %d registrations, malformed %v, unread %v", report.Interrupted, report.Registrations, report.MalformedFirst, report.Unread)
	}
}

// Stopped in full flight, the numbers are of the same registrations everywhere.
func TestInterruptedInFullFlight(t *testing.T) {
	t.Parallel()
	rules := allocatorOf(t, moving)
	text := fleet(2000)
	for _, after := range []int64{1, 10, 500} {
		ctx, cancel := context.WithCancel(t.Context())
		report, err := replay.Run(ctx, []requestlog.Log{lines(text)}, replay.Options{Rules: rules, Progress: func(n, _ int64) {
			if n >= after {
				cancel()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if !report.Interrupted || report.Counted != report.Registrations || report.Logs[0].Lines != report.Registrations || report.Malformed != 0 {
			t.Errorf("after %d: interrupted %t, counted %d of %d, %d lines, malformed %v", after, report.Interrupted, report.Counted,
				report.Registrations, report.Logs[0].Lines, report.MalformedFirst)
		}
		for _, fault := range report.Faults {
			if fault.Fault == answer.Canceled {
				t.Errorf("after %d: %d counted as canceled", after, fault.Newly)
			}
		}
	}
}

// A list that cannot be written ends the replay.
func TestListFails(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left")
	_, err := replay.Run(t.Context(), []requestlog.Log{lines(fleet(5000))}, replay.Options{Rules: allocatorOf(t, moving), List: failing{full}})
	if !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
	if _, err := replay.Run(t.Context(), nil, replay.Options{}); err == nil {
		t.Error("a replay without rules runs")
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// FuzzLines: however a log arrives, the report is the same, and every entry of the log is counted once.
func FuzzLines(f *testing.F) {
	good := request("d", "", hubA)
	for _, seed := range []string{"", "\n", good, good + "\n" + good, "{\n" + good[1:], "\xef\xbb\xbf" + good, "x\r\n\r\n" + good + "\r\n", "[1,\n2]", "[" + good + "]"} {
		f.Add(seed, uint8(3))
	}
	rules := allocatorOf(f, "hub := input.linkedHubs[0]")
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		var last []byte
		for _, chunk := range []int{int(size) + 1, 1 << 20} {
			report := mustRun(t, replay.Options{Rules: rules, Examples: 3},
				requestlog.Stream("log", &chunked{strings.NewReader(text), chunk}))
			if counted := report.Registrations + report.Malformed + report.Lacking + report.PassedOver + report.Skipped; counted != report.Logs[0].Lines &&
				!strings.Contains(text, "durationMs") { // entries of a journal that are no calls count nowhere
				t.Fatalf("chunks of %d: %d of %d entries are counted", chunk, counted, report.Logs[0].Lines)
			}
			now, err := json.Marshal(report)
			if err != nil {
				t.Fatal(err)
			}
			if last != nil && !reflect.DeepEqual(now, last) {
				t.Fatalf("another report:\n%s\n%s", last, now)
			}
			last = now
		}
	})
}

type chunked struct {
	in   io.Reader
	size int
}

func (c *chunked) Read(p []byte) (int, error) { return c.in.Read(p[:min(len(p), c.size)]) }

func TestKindsAreAll(t *testing.T) {
	t.Parallel()
	report := mustRun(t, replay.Options{Rules: allocatorOf(t, "hub := input.linkedHubs[0]")})
	if len(report.Counts) != len(replay.Kinds()) {
		t.Errorf("the report counts %d kinds of %d", len(report.Counts), len(replay.Kinds()))
	}
	if sorted := slices.Compact(slices.Sorted(slices.Values(replay.Kinds()))); len(sorted) != len(replay.Kinds()) {
		t.Error("a kind twice")
	}
}
