package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/net/html"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/play/fleet"
)

const (
	hubA = "a.azure-devices.net"
	hubB = "b.azure-devices.net"
)

// rulesOf loads package allocation.default with these rules in it.
func rulesOf(t testing.TB, text string) *decider.Decider {
	t.Helper()
	files := fstest.MapFS{"rule.rego": {Data: []byte("package allocation.default\n\n" + text + "\n")}}
	rules, err := decider.LoadRules(t.Context(), files, decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := decider.New(decider.Options{Rules: rules, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// request is one of a device in a group, on a hub or on none.
func request(id, group, current string) string {
	on := ""
	if current != "" {
		on = fmt.Sprintf(`,"currentIotHubHostName":%q`, current)
	}
	return fmt.Sprintf(`{"enrollmentGroup":{"enrollmentGroupId":%s},"deviceRuntimeContext":{"registrationId":%s%s},"linkedHubs":[%q,%q]}`,
		quoted(group), quoted(id), on, hubA, hubB)
}

func exchange(request, decision string) string {
	return fmt.Sprintf(`{"time":"2026-11-22T01:02:03Z","decision":%s,"request":%s}`, decision, request)
}

func record(id, decision, request string) string {
	return fmt.Sprintf(`{"usherRecord":1,"decisionId":%q,"time":"2026-11-22T01:02:03Z","source":"current","rules":{"digest":"sha256:1"},`+
		`"rule":{"package":"allocation.line"},"status":200,"decision":%s,"request":%s}`, id, decision, request)
}

func assigned(hub string) string { return fmt.Sprintf(`{"outcome":"assigned","hub":%q}`, hub) }

func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

func write(t testing.TB, name string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func appendTo(t testing.TB, name, text string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// reading opens a log of lines and reads it.
func reading(t testing.TB, lines ...string) *fleet.Fleet {
	t.Helper()
	f := open(t, write(t, filepath.Join(t.TempDir(), "log"), []byte(strings.Join(lines, "\n"))))
	f.Refresh(t.Context())
	return f
}

// names lists the registration IDs of all devices, the last first.
func names(f *fleet.Fleet) string {
	_, list := f.Devices(fleet.Filter{}, 0, 1000)
	var ids []string
	for _, d := range list {
		ids = append(ids, d.RegistrationID)
	}
	return strings.Join(ids, " ")
}

// A device counts by its last registration, wherever that is.
func TestSummary(t *testing.T) {
	t.Parallel()
	f := reading(t,
		exchange(request("one", "line", ""), assigned(hubA)),
		exchange(request("two", "line", ""), `{"outcome":"rejected"}`),
		exchange(request("ONE", "line", hubA), assigned("B.device.azure-devices.net")),
		record("FIRST", assigned(hubA), request("three", "other", "")),
		record("FIRST", assigned(hubA), request("three", "other", "")), // again
		request("four", "other", ""),
		exchange(request("five", "other", ""), `{"fault":"timeout"}`),
		"no request", `{"request":{}}`)
	got, err := f.Summarize()
	if err != nil {
		t.Fatal(err)
	}
	if got.Registrations != 6 || got.Devices != 5 || got.Undecided != 1 || got.Recorded != 5 || got.Reading || got.Problems != 2 {
		t.Errorf("got %+v", got)
	}
	want := []fleet.Count{{Name: hubA, Count: 1}, {Name: hubB, Count: 1}}
	if diff := cmp.Diff(want, got.Hubs); diff != "" {
		t.Errorf("hubs (-want +got):\n%s", diff)
	}
	want = []fleet.Count{{Name: "assigned", Count: 2}, {Name: "rejected", Count: 1}, {Name: "timeout", Count: 1}}
	if diff := cmp.Diff(want, got.Outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	for _, text := range []string{"1 from line to b", "1 from other to a", "1 from line to rejected", "1 from other to not decided yet"} {
		if !strings.Contains(got.Flow, text) {
			t.Errorf("the picture does not say %q", text)
		}
	}
	_, devices := f.Devices(fleet.Filter{Text: "THREE"}, 0, 10)
	wanted := []fleet.Device{{ID: "3", RegistrationID: "three", Kind: "enrollmentGroup", Enrollment: "other", Hub: hubA, Result: "assigned",
		Rule: "allocation.line", At: time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)}}
	if len(devices) == 1 {
		_, line, _ := strings.Cut(devices[0].Place, "log:")
		if line != "4" {
			t.Errorf("the place is %s", devices[0].Place)
		}
		devices[0].Place = ""
	}
	if diff := cmp.Diff(wanted, devices); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	f := reading(t,
		exchange(request("press-1", "Line-A", ""), assigned(hubA)),
		exchange(request("PRESS-2", "line-b", hubA), assigned(hubB)),
		record("R", `{"outcome":"rejected"}`, request("mill-1", "line-a", "")),
		exchange(request("mill-2", "line-b", ""), `{"fault":"timeout"}`),
		`{"individualEnrollment":{"registrationId":"lathe"},"deviceRuntimeContext":{"registrationId":"lathe"},"linkedHubs":["a"]}`)
	for _, test := range []struct {
		filter fleet.Filter
		want   string
	}{
		{fleet.Filter{}, "lathe mill-2 mill-1 PRESS-2 press-1"},
		{fleet.Filter{Text: "press"}, "PRESS-2 press-1"},
		{fleet.Filter{Text: "ILL-"}, "mill-2 mill-1"},
		{fleet.Filter{Hub: "a"}, "press-1"},
		{fleet.Filter{Hub: "B"}, "PRESS-2"},
		{fleet.Filter{Hub: "b.device.azure-devices.net"}, "PRESS-2"},
		{fleet.Filter{Hub: "azure-devices"}, ""},
		{fleet.Filter{Outcome: "assigned"}, "PRESS-2 press-1"},
		{fleet.Filter{Outcome: "rejected"}, "mill-1"},
		{fleet.Filter{Outcome: "timeout"}, "mill-2"},
		{fleet.Filter{Outcome: "fault"}, "mill-2"},
		{fleet.Filter{Outcome: "none"}, "lathe"},
		{fleet.Filter{Enrollment: "LINE-A"}, "mill-1 press-1"},
		{fleet.Filter{Enrollment: "lathe"}, "lathe"},
		{fleet.Filter{Rule: "allocation.line"}, "mill-1"},
		{fleet.Filter{Text: "press", Hub: "b", Outcome: "assigned", Enrollment: "line-b"}, "PRESS-2"},
		{fleet.Filter{Text: "press", Hub: "b", Enrollment: "line-a"}, ""},
	} {
		total, list := f.Devices(test.filter, 0, 100)
		var ids []string
		for _, d := range list {
			ids = append(ids, d.RegistrationID)
		}
		if got := strings.Join(ids, " "); got != test.want || total != len(list) {
			t.Errorf("%+v: got %q of %d, want %q", test.filter, got, total, test.want)
		}
	}
	if total, list := f.Devices(fleet.Filter{}, 1, 2); total != 5 || len(list) != 2 || list[0].RegistrationID != "mill-2" {
		t.Errorf("the second page: got %d of %d", len(list), total)
	}
	if total, list := f.Devices(fleet.Filter{}, 100, 2); total != 5 || len(list) != 0 {
		t.Errorf("after the end: got %d of %d", len(list), total)
	}
}

// Logs that grow, are renamed, or are cut, while they are read.
func TestGrowingLog(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	name := filepath.Join(folder, "log.ndjson")
	line := func(id string) string { return exchange(request(id, "g", ""), assigned(hubA)) }
	write(t, name, []byte(line("a")+"\n"+line("b")))
	f := open(t, name)
	step := func(what, want string, do func()) {
		t.Helper()
		do()
		f.Refresh(t.Context())
		if got := names(f); got != want {
			t.Errorf("%s: got %s, want %s (%+v)", what, got, want, f.State())
		}
	}
	step("at first", "b a", func() {})
	step("nothing new", "b a", func() {})
	step("half a line", "b a", func() { appendTo(t, name, "\n"+line("c")[:40]) })
	step("the other half", "c b a", func() { appendTo(t, name, line("c")[40:]+"\n") })
	step("a line without an end", "d c b a", func() { appendTo(t, name, line("d")) })
	step("its end, and the next one", "e d c b a", func() { appendTo(t, name, "\n\n"+line("e")+"\n") })
	step("renamed after more was written", "f e d c b a", func() {
		appendTo(t, name, line("f")+"\n")
		if err := os.Rename(name, name+".1"); err != nil {
			t.Fatal(err)
		}
	})
	step("and there is another one", "g f e d c b a", func() { write(t, name, []byte(line("g")+"\n")) })
	step("cut", "h g f e d c b a", func() {
		write(t, name, []byte(line("h")[:len(line("h"))-5] + "}}\n")[:0])
		f.Refresh(t.Context())
		appendTo(t, name, line("h")+"\n")
	})
	if state := f.State(); state.Problems != 0 {
		summary, _ := f.Summarize()
		t.Errorf("got problems %+v", summary.FirstProblems)
	}
	_, list := f.Devices(fleet.Filter{}, 0, 10)
	places := map[string]string{}
	for _, d := range list {
		places[d.RegistrationID] = d.Place[strings.LastIndexByte(d.Place, ':')+1:]
	}
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "6", "f": "7", "g": "1", "h": "1"}, places); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// What others write must neither end the reading nor reach a page as anything but text.
func TestHostileLog(t *testing.T) {
	t.Parallel()
	const script = `<script>alert(1)</script>"'&` + "\u001b[31m\u0000\u202e"
	decision, _ := json.Marshal(map[string]string{"outcome": "assigned", "hub": script})
	f := reading(t,
		exchange(request(script, script, script), string(decision)),
		"\xff\xfe\xfd", `{"request":`+request("x\xff", "g", "")+`}`, strings.Repeat("[", 10_000),
		exchange(request(strings.Repeat("long", 5_000), "g", ""), "null"),
		`{"request":"`+strings.Repeat("x", 5<<20)+`"}`,
		exchange(request("last", "g", ""), assigned(hubA)))
	if got, _ := f.Devices(fleet.Filter{}, 0, 10); got != 3 {
		t.Errorf("got %d devices", got)
	}
	summary, err := f.Summarize()
	if err != nil {
		t.Fatal(err)
	}
	if summary.Problems != 4 {
		t.Errorf("got %d problems: %+v", summary.Problems, summary.FirstProblems)
	}
	tokens := html.NewTokenizer(strings.NewReader(summary.Flow))
	for {
		kind := tokens.Next()
		if kind == html.ErrorToken {
			break
		}
		if name, _ := tokens.TagName(); (kind == html.StartTagToken || kind == html.SelfClosingTagToken) &&
			!strings.Contains(" svg title desc path rect text tspan ", " "+string(name)+" ") {
			t.Errorf("the picture has an element %s", name)
		}
	}
	if strings.ContainsAny(summary.Flow, "\u001b\u0000\u202e") {
		t.Error("the picture has control characters")
	}
	for _, d := range allOf(f) {
		if len(d.RegistrationID) > 300 {
			t.Errorf("a registration ID has %d bytes", len(d.RegistrationID))
		}
	}
}

func allOf(f *fleet.Fleet) []fleet.Device {
	_, list := f.Devices(fleet.Filter{}, 0, 1000)
	return list
}

func TestCompressedLogs(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	for i := range 2000 {
		fmt.Fprintln(w, exchange(request(fmt.Sprintf("device-%d-%x", i, i*i*7919), "g", ""), assigned(hubA)))
	}
	w.Close()
	folder := t.TempDir()
	whole := open(t, write(t, filepath.Join(folder, "whole.gz"), packed.Bytes()))
	whole.Refresh(t.Context())
	whole.Refresh(t.Context())
	if state := whole.State(); state.Devices != 2000 || state.Problems != 0 {
		t.Errorf("whole: %+v", state)
	}
	cut := open(t, write(t, filepath.Join(folder, "cut.gz"), packed.Bytes()[:packed.Len()/2]))
	cut.Refresh(t.Context())
	cut.Refresh(t.Context())
	summary, err := cut.Summarize()
	if err != nil {
		t.Fatal(err)
	}
	if summary.Devices == 0 || summary.Problems != 1 || !strings.Contains(summary.FirstProblems[0].Problem, "cut off") {
		t.Errorf("cut off: %d devices, problems %+v", summary.Devices, summary.FirstProblems)
	}
}

// A text over several lines is a request like any other.
func TestTextOverLines(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	if err := json.Indent(&text, []byte("["+request("one", "g", "")+","+exchange(request("two", "g", ""), assigned(hubB))+"]"), "", "  "); err != nil {
		t.Fatal(err)
	}
	f := reading(t, text.String())
	if got := names(f); got != "two one" {
		t.Fatalf("got %s (%+v)", got, f.State())
	}
	device, item, err := f.Open(t.Context(), allOf(f)[1].ID)
	if err != nil || !strings.HasSuffix(device.Place, "log: row 1") {
		t.Fatal(device, err)
	}
	if request, err := item.Parse(); err != nil || request.Device.RegistrationID != "one" {
		t.Errorf("got %s, %v", item.Body, err)
	}
	report, err := f.Replay(t.Context(), replay.Options{Rules: rulesOf(t, "hub := input.linkedHubs[0]"), ByDevice: true, Examples: 5})
	if err != nil {
		t.Fatal(err)
	}
	if report.Registrations != 2 || report.Malformed != 0 || report.Counts[replay.Moved] != 1 {
		t.Errorf("got %+v", report.Report)
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	f := reading(t,
		request("one", "g", ""),
		exchange(request("two", "g", ""), assigned(hubA)),
		request("bad", "g", ""))
	state := func() string {
		var list []string
		for _, d := range allOf(f) {
			list = append(list, fmt.Sprintf("%s %s %s %s %t", d.RegistrationID, d.Result, strings.TrimSuffix(d.Hub, ".azure-devices.net"), d.Rule, d.Decided))
		}
		return strings.Join(list, "\n")
	}
	if err := f.Decide(t.Context(), rulesOf(t, `hub := input.linkedHubs[0]`+"\n"+`reject contains "bad" if input.deviceRuntimeContext.registrationId == "bad"`)); err != nil {
		t.Fatal(err)
	}
	want := "bad rejected  allocation.default true\ntwo assigned a  false\none assigned a allocation.default true"
	if diff := cmp.Diff(want, state()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	changed := f.Changed()
	if err := f.Decide(t.Context(), rulesOf(t, `hub := input.linkedHubs[1]`)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("no one heard of the change")
	}
	want = "bad assigned b allocation.default true\ntwo assigned a  false\none assigned b allocation.default true"
	if diff := cmp.Diff(want, state()); diff != "" {
		t.Errorf("by other rules (-want +got):\n%s", diff)
	}
	if s := f.State(); s.Undecided != 0 {
		t.Errorf("%d are undecided", s.Undecided)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Decide(ended, rulesOf(t, `hub := input.linkedHubs[0] if true`)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Rules that loop must not keep the machine busy for a day.
func TestDecideGivesUp(t *testing.T) {
	t.Parallel()
	var lines []string
	for i := range 30 {
		lines = append(lines, request(fmt.Sprint(i), "g", ""))
	}
	f := reading(t, lines...)
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"rule.rego": {Data: []byte(`package allocation.default

many := numbers.range(1, 100000)

hub := "a" if count([1 | some a in many; some b in many; a + b == 0]) == 0
`)}}, decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	loops, err := decider.New(decider.Options{Rules: rules, Timeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Decide(t.Context(), loops); err == nil || !strings.Contains(err.Error(), "exceeded their time limit") {
		t.Errorf("got %v", err)
	}
	if s := f.State(); s.Undecided != 30-7 {
		t.Errorf("%d are undecided", s.Undecided)
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	f := reading(t,
		exchange(request("stay", "g", hubA), assigned(hubA)),
		"not JSON",
		exchange(request("move", "g", hubA), assigned(hubA)),
		exchange(request("stay", "g", hubA), assigned(hubA)))
	report, err := f.Replay(t.Context(), replay.Options{ByDevice: true, Examples: 5, Rules: rulesOf(t,
		`hub := input.linkedHubs[1] if input.deviceRuntimeContext.registrationId == "move"`+"\n\nelse := input.linkedHubs[0]")})
	if err != nil {
		t.Fatal(err)
	}
	if report.Counted != 2 || report.Counts[replay.Moved] != 1 || report.Counts[replay.Stayed] != 1 || report.Malformed != 0 {
		t.Errorf("got %+v", report.Report)
	}
	if len(report.Examples) != 1 || !strings.HasSuffix(report.Examples[0].Place, "log:3") {
		t.Fatalf("got %+v", report.Examples)
	}
	device, _, err := f.Open(t.Context(), report.IDs[0])
	if err != nil || device.RegistrationID != "move" {
		t.Errorf("got %+v, %v", device, err)
	}
	for _, id := range []string{"", "-1", "3", "x", "99999999999999999999"} {
		if _, _, err := f.Open(t.Context(), id); !errors.Is(err, fleet.ErrUnknown) {
			t.Errorf("%q: got %v", id, err)
		}
	}
}

// A stand-in that runs, keeps only its newest entries, and is started again.
func TestJournal(t *testing.T) {
	t.Parallel()
	call := func(id int, device string) string {
		return fmt.Sprintf(`{"time":"2026-11-22T01:02:03Z","id":%d,"kind":"webhook","registrationId":%q,"attempt":1,"request":%s,"status":200,"response":{"iotHubHostName":%q},"durationMs":1}`,
			id, device, request(device, "g", ""), hubA)
	}
	other := func(id int) string {
		return fmt.Sprintf(`{"time":"2026-11-22T01:02:03Z","id":%d,"kind":"register","durationMs":1}`, id)
	}
	var asked []string
	answers := []string{
		`{"entries":[` + other(4) + `,` + call(5, "one") + `],"next":5,"oldest":4,"last":6}`,
		`{"entries":[` + call(8, "two") + `],"next":8,"oldest":8,"last":8}`,
		`{"entries":[],"next":8,"oldest":8,"last":8}`,
		``,
		`{"entries":[],"next":6,"oldest":0,"last":1}`,
		`{"entries":[` + call(1, "three") + `],"next":1,"oldest":1,"last":1}`,
		`{"entries":[],"next":1,"oldest":1,"last":1}`,
	}
	f, err := fleet.New(fleet.NewJournal("usher dps", func(_ context.Context, path string) ([]byte, error) {
		asked = append(asked, path)
		next := answers[0]
		answers = answers[1:]
		if next == "" {
			return nil, errors.New("connection refused")
		}
		return []byte(next), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 3 {
		f.Refresh(t.Context())
	}
	if got := names(f); got != "three two one" {
		t.Errorf("got %s", got)
	}
	if place := allOf(f)[2].Place; place != "usher dps:5" {
		t.Errorf("the place is %s", place)
	}
	if s := f.State(); s.Problems != 1 {
		t.Errorf("got %+v", s)
	}
	if s, err := f.Summarize(); err != nil || s.Logs[0].Missing != 3+2 {
		t.Errorf("got %+v, %v", s.Logs, err)
	}
	want := []string{"/_/journal?after=0&limit=1000", "/_/journal?after=5&limit=1000", "/_/journal?after=8&limit=1000", "/_/journal?after=8&limit=1000",
		"/_/journal?after=8&limit=1000", "/_/journal?after=0&limit=1000", "/_/journal?after=1&limit=1000"}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	name := write(t, filepath.Join(t.TempDir(), "log"), []byte(request("one", "g", "")+"\n"))
	f := open(t, name)
	ctx, cancel := context.WithCancel(t.Context())
	ticks := make(chan time.Time)
	ended := make(chan struct{})
	go func() { defer close(ended); f.Follow(ctx, ticks) }()
	ticks <- time.Time{} // after the first reading
	appendTo(t, name, request("two", "g", "")+"\n")
	ticks <- time.Time{}
	ticks <- time.Time{} // after what began with the tick before
	if got := names(f); got != "two one" {
		t.Errorf("got %s", got)
	}
	cancel()
	<-ended
}
