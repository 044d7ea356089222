package decisionlog_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

const rowDeclarations = `device:
  row: {type: object, properties: {hub: {type: string}, owner: {type: string}, note: {type: string}}}
  recordable: [hub, note]
  fixture: device_fixture.csv
`

const rowRule = `package allocation["default"]

import data.dps

hub := lookup.device(dps.registration_id).hub
`

func rowRules(t *testing.T, rule, rows string) *decider.Decider {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{
		"lookups.yaml": {Data: []byte(rowDeclarations)}, "a.rego": {Data: []byte(rule)}, "device_fixture.csv": {Data: []byte(rows)},
		"lib/dps.rego": {Data: library(t)},
	}, decider.RulesOptions{Name: "rules"})
	return newAllocator(t, rules, err)
}

func library(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../../rules/lib/dps.rego")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Of a row, the record has what is declared recordable, and its key as registration IDs are recorded. A replay gets it
// back and asks no source.
func TestRows(t *testing.T) {
	t.Parallel()
	body := []byte(strings.Replace(bodyWith(`{}`, "", ""), "d1", "Press-0001", 1))
	const rows = "key,hub,owner,note\npress-0001,a.azure-devices.net,SECRET,for press-0001\n"
	hash := decisionlog.HashID(hashKey, "press-0001")
	for mode, want := range map[decisionlog.IDMode]struct {
		key, result, digest string
		masked, lacks       []string
		lookups             int
	}{
		decisionlog.Plain: {`["press-0001"]`, `{"hub":"a.azure-devices.net","note":"for press-0001"}`, "sha256:", []string{"owner"}, []string{"/lookups/device/owner"}, 1},
		decisionlog.Hashed: {`["` + hash + `"]`, `{"hub":"a.azure-devices.net","note":"for ` + hash + `"}`, "hmac-sha256:", []string{"note", "owner"},
			[]string{"/deviceRuntimeContext/registrationId", "/lookups/device/note", "/lookups/device/owner"}, 1},
		decisionlog.Absent: {``, `{"hub":"a.azure-devices.net","note":"for masked-id"}`, "", []string{"note", "owner"},
			[]string{"/deviceRuntimeContext/registrationId", "/lookups/device"}, 0},
	} {
		text, got, response := record(t, rowRules(t, rowRule, rows), mode, body)
		validate(t, text)
		if response.Code != 200 || len(got.Lookups) != 1 || strings.Contains(text, "SECRET") {
			t.Fatalf("%s: %d, %s", mode, response.Code, text)
		}
		call := got.Lookups[0]
		if call.Builtin != "lookup.device" || string(call.Arguments) != want.key || string(call.Result) != want.result || call.Source != "fixture" ||
			!cmp.Equal(call.Masked, want.masked) || !strings.HasPrefix(call.Digest, want.digest) || (call.Digest == "") != (want.digest == "") || call.Undefined {
			t.Errorf("%s: %s", mode, text)
		}
		replay, err := got.Replay()
		if err != nil {
			t.Fatal(err)
		}
		lacks := strings.Join(replay.Masked, " ")
		for _, pointer := range want.lacks {
			if !strings.Contains(lacks+" ", pointer+" ") {
				t.Errorf("%s: lacks %s, not %s", mode, lacks, pointer)
			}
		}
		if len(replay.Lookups) != want.lookups {
			t.Fatalf("%s: look-ups %+v", mode, replay.Lookups)
		}
		request, err := dps.ParseAllocationRequest(replay.Request)
		if err != nil {
			t.Fatal(err)
		}
		again := rowRules(t, rowRule, "key,hub\n").Repeat(t.Context(), request, replay.Lookups)
		if (again.Result == answer.Assigned) != (want.lookups > 0) {
			t.Errorf("%s: repeated: %s %s", mode, again.Result, again.CauseText())
		}
	}
}

// Which masked members matter is what the rule reads.
func TestNeedsOfRows(t *testing.T) {
	t.Parallel()
	const rows = "key,hub,owner,note\npress-0001,a.azure-devices.net,o,n\n"
	body := []byte(strings.Replace(bodyWith(`{}`, "", ""), "d1", "press-0001", 1))
	_, recorded, _ := record(t, rowRules(t, rowRule, rows), decisionlog.Plain, body)
	replay, err := recorded.Replay()
	if err != nil {
		t.Fatal(err)
	}
	request, err := dps.ParseAllocationRequest(replay.Request)
	if err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[string]string{
		rowRule: "",
		strings.Replace(rowRule, ".hub", ".owner", 1):                                      "/lookups/device/owner",
		rowRule + "\nreject contains \"no\" if not lookup.device(dps.registration_id)\n":   "",
		rowRule + "\nreject contains \"no\" if count(lookup.device(\"x\")) > 9\n":          "/lookups/device/owner",
		"package allocation[\"default\"]\n\nhub := input.linkedHubs[0]\n":                  "",
		"package allocation[\"default\"]\n\nhub := lookup.hub(input.linkedHubs[0]).name\n": "",
	} {
		needed := rowRules(t, rule, rows).Rules().Needs(t.Context(), request, replay.Masked)
		if got := strings.Join(needed, " "); got != want {
			t.Errorf("%s: needs %q, want %q", rule, got, want)
		}
	}
}

// No row, an older row and a fault are on record, and are there again in a replay.
func TestRowsThatAreNotThere(t *testing.T) {
	t.Parallel()
	asOf := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key := []any{"press-0001"}
	all := []answer.Lookup{
		{Builtin: "lookup.device", Arguments: key, Undefined: true, Source: "postgres"},
		{Builtin: "lookup.device", Arguments: key, Result: map[string]any{}, Source: "https", Version: "v1", AsOf: asOf, Fault: "connection refused"},
		{Builtin: "lookup.device", Arguments: key, Source: "https", Fault: "SharedAccessKey=U0VDUkVUU0VDUkVUU0VDUkVU"},
		{Builtin: "lookup.device", Arguments: []any{strings.Repeat("k", 4<<10)}, Undefined: true},
		{Builtin: "lookup.device", Arguments: []any{"HostName=h;SharedAccessKey=U0VDUkVUU0VDUkVUU0VDUkVU"}, Undefined: true},
		{Builtin: "lookup.hub", Arguments: []any{"contoso-eu"}, Result: map[string]any{"full": true, "primaryKey": "SECRET"}, Recordable: []string{"full", "primaryKey"}},
		{Builtin: "lookup.device", Arguments: key, Result: map[string]any{"n": strings.Repeat("n", 20<<10)}, Recordable: []string{"n"}},
	}
	request, _ := rowRules(t, rowRule, "key,hub\n").AllocateJSON(t.Context(), []byte(strings.Replace(bodyWith(`{"primaryKey": "U0VDUkVUU0VDUkVUU0VDUkVU"}`, "", ""), "d1", "press-0001", 1)))
	for _, mode := range []decisionlog.IDMode{decisionlog.Plain, decisionlog.Hashed, decisionlog.Absent} {
		sink := &memory{}
		newRecorder(t, mode, sink).Observe(t.Context(), &answer.Call{Request: request, Answer: answer.Answer{Result: answer.LookupFailed, Lookups: all}})
		text := string(sink.records[0])
		validate(t, text)
		got, err := decisionlog.Decode(sink.records[0])
		if err != nil || len(got.Lookups) != len(all)-1 || got.LookupsDropped != 1 || strings.Contains(text, "SECRET") || strings.Contains(text, "U0VDUkVU") ||
			mode != decisionlog.Plain && strings.Contains(text, "press-0001") {
			t.Fatalf("%s: %v: %s", mode, err, text)
		}
		if got.Lookups[3].Arguments != nil || got.Lookups[4].Arguments != nil || string(got.Lookups[5].Arguments) != `["contoso-eu"]` || !cmp.Equal(got.Lookups[5].Masked, []string{"primaryKey"}) {
			t.Errorf("%s: %s", mode, text)
		}
		replay, err := got.Replay()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(replay.Masked, " ")+" ", "/lookups /lookups/device /lookups/hub/primaryKey ") {
			t.Errorf("%s: lacks %q", mode, replay.Masked)
		}
		if mode == decisionlog.Absent {
			continue
		}
		if mode == decisionlog.Hashed {
			key = []any{decisionlog.HashID(hashKey, "press-0001")}
		}
		want := []answer.Lookup{all[0], all[1], all[2], {Builtin: "lookup.hub", Arguments: []any{"contoso-eu"}, Result: map[string]any{"full": true}}}
		for i := range 3 {
			want[i].Arguments = key
		}
		want[2].Fault = replay.Lookups[2].Fault
		if diff := cmp.Diff(want, replay.Lookups); diff != "" || want[2].Fault == "" {
			t.Errorf("%s: -want +got:\n%s", mode, diff)
		}
	}
}
