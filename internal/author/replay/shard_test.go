package replay_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// shardRules decide by a row, and by the model, which records mask.
func shardRules(more string) fstest.MapFS {
	return fstest.MapFS{
		"lookups.yaml":       {Data: []byte("device: {row: {type: object, properties: {hub: {type: string}}}, recordable: [hub], fixture: device_fixture.csv}\n")},
		"device_fixture.csv": {Data: []byte("key,hub\ndevice-00001,a.azure-devices.net\n")},
		"a.rego": {Data: []byte("# METADATA\n# custom:\n#   recordable: [payload.model]\npackage allocation[\"default\"]\n\n" + `
device := input.deviceRuntimeContext

row := lookup.device(lower(device.registrationId)).hub

hub := row if endswith(device.registrationId, "1")

else := "b.azure-devices.net" if endswith(device.registrationId, "2")

else := device.currentIotHubHostName

hold contains "nowhere" if not hub
` + more)},
	}
}

// randomLogs has requests, exchanges, records with and without registration IDs, copies, rows, and lines of no use.
func randomLogs(t *testing.T, random *rand.Rand, served *decider.Decider) []requestlog.Log {
	t.Helper()
	body := func() string {
		id := []string{fmt.Sprintf("device-%05d", random.IntN(60)), fmt.Sprintf("DEVICE-%05d", random.IntN(60)), "\u212aelvin", ""}[random.IntN(20)%4*random.IntN(2)]
		text := request(id, []string{"", "migrate", "reset", "never"}[random.IntN(4)], []string{"", hubA, hubB, hubC}[random.IntN(4)])
		switch random.IntN(4) {
		case 0:
			text = strings.Replace(text, `"registrationId"`, fmt.Sprintf(`"payload": {"model": "m%d", "secret": %d}, "registrationId"`, random.IntN(3), random.IntN(2)), 1)
		case 1:
			text = strings.Replace(text, `"Group"`, fmt.Sprintf(`"Group-%d"`, random.IntN(5)), 1)
		}
		return text
	}
	var logs []requestlog.Log
	for n := range 1 + random.IntN(3) {
		var texts []string
		for range random.IntN(400) {
			switch random.IntN(12) {
			case 0, 1, 2, 3:
				texts = append(texts, body())
			case 4:
				texts = append(texts, record(body(), `{"outcome": "assigned", "hub": "`+[]string{hubA, hubB}[random.IntN(2)]+`"}`))
			case 5, 6:
				records := recordLog(t, served, []decisionlog.IDMode{decisionlog.Plain, decisionlog.Hashed}[random.IntN(2)], body())
				texts = append(texts, strings.TrimSpace(records))
			case 7:
				if len(texts) > 0 {
					texts = append(texts, texts[random.IntN(len(texts))])
				}
			case 8:
				texts = append(texts, []string{"nothing", `{"linkedHubs": []}`, `{"a":`, strings.Replace(body(), hubA, "?", 1)}[random.IntN(4)])
			case 9:
				texts = append(texts, "["+body()+`, {"no": "request"}, `+body()+"]")
			case 10:
				texts = append(texts, "")
			case 11:
				text := strings.TrimSpace(recordLog(t, served, decisionlog.Plain, body()))
				texts = append(texts, strings.Replace(text, `"decision":{`, `"probe":true,"decision":{`, 1))
			}
		}
		log := requestlog.Stream("", nil)
		text := strings.Join(texts, "\n") + "\n"
		log.Open = lines(text).Open
		if random.IntN(6) == 0 {
			stored := gzipped(t, text)
			log.Open = lines(string(stored[:len(stored)-10])).Open // the end is cut off
		}
		log.Name = fmt.Sprintf("log-%d", n)
		logs = append(logs, log)
	}
	return logs
}

func asJSON(t *testing.T, report *replay.Report) string {
	t.Helper()
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// replayParts replays each shard, and returns the reports as they are read again, in a random order.
func replayParts(t *testing.T, random *rand.Rand, options replay.Options, of int, logs []requestlog.Log) []*replay.Report {
	t.Helper()
	parts := make([]*replay.Report, of)
	for i := range parts {
		options.Shard = replay.Shard{Number: i, Of: of}
		report, err := replay.Run(t.Context(), logs, options)
		if err != nil {
			t.Fatal(err)
		}
		if parts[i], err = replay.ReadPart(strings.NewReader(asJSON(t, report))); err != nil {
			t.Fatal(err)
		}
	}
	random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return parts
}

// The reports of all shards, merged, are the report of one replay, byte for byte.
func TestMergedShardsAreTheWhole(t *testing.T) {
	t.Parallel()
	served := recordRules(t, shardRules(""), decider.RulesOptions{})
	changed := recordRules(t, shardRules(`
reject contains "not this model" if device.payload.model == "m1"

reject contains "a secret" if device.payload.secret == 1

initial_twin := {"tags": {"x": 1}} if endswith(device.registrationId, "3")
`), decider.RulesOptions{})
	declared := changed.Rules().Lookups()
	rows, err := lookups.LoadTable(strings.NewReader("key,hub\ndevice-00001,b.azure-devices.net\ndevice-00011,a.azure-devices.net\n"), "new.csv", declared[0])
	if err != nil {
		t.Fatal(err)
	}
	tables := replay.Tables{"device": {File: "new.csv", Rows: rows}}
	asked, err := decider.New(decider.Options{Rules: changed.Rules(), Lookups: tables})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for seed := range uint64(24) {
		random := rand.New(rand.NewPCG(seed, 1))
		logs := randomLogs(t, random, served)
		options := replay.Options{Rules: changed, Examples: random.IntN(5), ByDevice: random.IntN(2) == 0, Workers: 1 + random.IntN(3)}
		if random.IntN(2) == 0 {
			options.Baseline = served
		}
		switch random.IntN(4) {
		case 0:
			options.Rules, options.Tables = asked, tables
		case 1:
			options.Rules = served
		}
		if options.ByDevice && random.IntN(2) == 0 {
			options.HubLimits = []replay.HubLimit{{Hub: "b", Limit: 3}, {Hub: "nowhere", Limit: 1}}
		}
		of := 1 + random.IntN(9)
		whole, err := replay.Run(t.Context(), logs, options)
		if err != nil {
			t.Fatal(err)
		}
		merged, _, err := replay.Merge(replayParts(t, random, options, of, logs))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(asJSON(t, whole), asJSON(t, merged)); diff != "" {
			t.Fatalf("seed %d, %d shards, by device %t: -whole +merged:\n%s", seed, of, options.ByDevice, diff)
		}
		for what, is := range map[string]bool{
			"malformed": whole.Malformed > 10, "lacking": whole.Lacking > 0, "passed over": whole.PassedOver > 0, "skipped": whole.Skipped > 0,
			"duplicates": whole.Duplicates > 0, "same rules": whole.SameRules > 0, "unread": len(whole.Unread) > 0, "examples": len(whole.Examples) > 5,
			"faults": len(whole.Faults) > 0, "enrollments": len(whole.ByEnrollment) > 1, "by device": whole.Counted < whole.Registrations,
		} {
			seen[what] = seen[what] || is
		}
	}
	for what, is := range seen {
		if !is {
			t.Errorf("no log had this: %s", what)
		}
	}
}

// Every device is in one shard, whatever the case of its ID, and shards are about as large.
func TestShardsShare(t *testing.T) {
	t.Parallel()
	var texts []string
	for i := range 1000 {
		texts = append(texts, request(fmt.Sprintf("Device-%05d", i), "", ""), request(fmt.Sprintf("deVice-%05d", i), "", hubA))
	}
	rules := allocatorOf(t, `hub := "b"`)
	for i := range 4 {
		report := mustRun(t, replay.Options{Rules: rules, ByDevice: true, Shard: replay.Shard{Number: i, Of: 4}}, lines(texts...))
		if report.Registrations != 2*report.Counted || report.Counted < 200 || report.Counted > 300 {
			t.Errorf("shard %d has %d registrations of %d devices", i, report.Registrations, report.Counted)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	t.Parallel()
	rules, others := allocatorOf(t, `hub := "b"`), allocatorOf(t, `hub := "a"`)
	part := func(number, of int, change func(*replay.Options), log ...string) *replay.Report {
		options := replay.Options{Rules: rules, Examples: 3, Shard: replay.Shard{Number: number, Of: of}}
		if change != nil {
			change(&options)
		}
		return mustRun(t, options, lines(append([]string{request("d", "", "")}, log...)...))
	}
	for name, test := range map[string]struct {
		reports []*replay.Report
		want    string
	}{
		"none":            {nil, "there are no reports to merge"},
		"one is missing":  {[]*replay.Report{part(2, 3, nil), part(0, 3, nil)}, "the report on shard 1/3 is missing"},
		"one twice":       {[]*replay.Report{part(0, 2, nil), part(0, 2, nil)}, "there are two reports on shard 0/2"},
		"of other shards": {[]*replay.Report{part(0, 2, nil), part(1, 3, nil)}, "shard 0/2 and shard 1/3 are of different replays"},
		"other rules":     {[]*replay.Report{part(0, 2, nil), part(1, 2, func(o *replay.Options) { o.Rules = others })}, "they have other rules"},
		"another baseline": {[]*replay.Report{part(0, 2, nil), part(1, 2, func(o *replay.Options) { o.Baseline = others })},
			"they have other rules as baseline"},
		"by device":       {[]*replay.Report{part(0, 2, nil), part(1, 2, func(o *replay.Options) { o.ByDevice = true })}, "only one has --by-device"},
		"other examples":  {[]*replay.Report{part(0, 2, nil), part(1, 2, func(o *replay.Options) { o.Examples = 4 })}, "they have another --examples"},
		"a log that grew": {[]*replay.Report{part(0, 2, nil), part(1, 2, nil, "{}")}, "they have other logs, or read more of them"},
		"another hub limit": {[]*replay.Report{part(0, 2, nil), part(1, 2, func(o *replay.Options) { o.HubLimits = []replay.HubLimit{{Hub: "a"}} })},
			"they have another --hub-limit"},
	} {
		if _, _, err := replay.Merge(test.reports); err == nil || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseShard(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]replay.Shard{"0/1": {Of: 1}, "3/4": {Number: 3, Of: 4}, "0/10000": {Of: 10000}} {
		if got, err := replay.ParseShard(text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "4/4", "-1/4", "0/0", "1/", "/2", "0/10001", "a/b", "0/4/2", "0 / 4"} {
		if got, err := replay.ParseShard(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// FuzzReadPart reads what someone has edited, and merges it with itself.
func FuzzReadPart(f *testing.F) {
	report, err := replay.Run(f.Context(), []requestlog.Log{lines(request("d", "", ""), request("e", "", hubA), "x")},
		replay.Options{Rules: allocatorOf(f, `hub := "b"`), Examples: 2, Shard: replay.Shard{Of: 1}})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(report)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"part": {"of": 1}}`))
	f.Add(bytes.Replace(seed, []byte(`"examplesAt":[`), []byte(`"examplesAt":[7,`), 1))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := replay.ReadPart(bytes.NewReader(text))
		if err != nil {
			return
		}
		first, _, err := replay.Merge([]*replay.Report{report})
		if err != nil {
			if report.Part.Of == 1 {
				t.Fatal(errors.Unwrap(err))
			}
			return
		}
		if again, _, _ := replay.Merge(slices.Clone([]*replay.Report{report})); asJSON(t, first) != asJSON(t, again) {
			t.Error("merged in two ways")
		}
	})
}
