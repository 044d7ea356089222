package play_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/play"
	"github.com/usher-dps/usher/internal/play/fleet"
	"github.com/usher-dps/usher/internal/play/workspace"
)

// fleetOf reads a log of lines.
func fleetOf(t testing.TB, lines ...string) *fleet.Fleet {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fleet.ndjson")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	write(t, name, strings.Join(lines, "\n")+"\n")
	file, err := fleet.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fleet.New(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	f.Refresh(t.Context())
	return f
}

// registered is an exchange of a device, with more in its deviceRuntimeContext.
func registered(id, hub, more string) string {
	return fmt.Sprintf(`{"time": "2026-11-22T01:02:03Z", "decision": {"outcome": "assigned", "hub": %q}, "request":
{"enrollmentGroup": {"enrollmentGroupId": "line", "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "c2VjcmV0LXNlY3JldC1zZWNyZXQ="}}},
"deviceRuntimeContext": {"registrationId": %q%s}, "linkedHubs": [%q, %q]}}`, hub, id, more, eu, us)
}

func withFleet(f *fleet.Fleet) func(*play.Options, *workspace.Options) {
	return func(options *play.Options, _ *workspace.Options) { options.Fleet, options.Live = f, true }
}

func TestFleet(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, withFleet(fleetOf(t,
		registered("one", eu, ""), registered("two", us, `, "x509": {"clientCertificate": "-----BEGIN CERTIFICATE-----"}`), "broken")))
	var about struct{ Log, DPS bool }
	c.call(200, "GET", "/api/workspace", nil, &about)
	if !about.Log || !about.DPS {
		t.Errorf("%+v", about)
	}
	var summary struct {
		Registrations, Devices, Problems int
		Hubs                             []fleet.Count
		Flow                             string
	}
	c.call(200, "GET", "/api/fleet", nil, &summary)
	if summary.Registrations != 2 || summary.Devices != 2 || summary.Problems != 1 || len(summary.Hubs) != 2 || !strings.HasPrefix(summary.Flow, "<svg ") {
		t.Errorf("%+v", summary)
	}
	var table struct {
		Total int
		Rows  []fleet.Device
	}
	c.call(200, "GET", "/api/fleet/devices?q=TW&limit=1&hub="+url.QueryEscape(us), nil, &table)
	if table.Total != 1 || len(table.Rows) != 1 || table.Rows[0].RegistrationID != "two" {
		t.Fatalf("%+v", table)
	}
	var opened struct {
		Name, Text string
		Rows       []any
		Then       object
	}
	text := c.call(200, "GET", "/api/fleet/requests/"+table.Rows[0].ID, nil, &opened)
	if opened.Name != "two" || opened.Then["hub"] != us || !strings.Contains(opened.Text, "BEGIN CERTIFICATE") || opened.Rows == nil {
		t.Errorf("%+v", opened)
	}
	if strings.Contains(text, "c2VjcmV0") {
		t.Error("a key is in the request")
	}
	if a := c.decide(opened.Text, object{}, nil); a.Edited.Status != 200 {
		t.Errorf("%+v", a.Edited)
	}
	for path, status := range map[string]int{"requests/7": 404, "requests/-1": 404, "requests/x": 404, "devices?limit=x": 400, "devices?offset=-1": 400, "none": 404} {
		c.call(status, "GET", "/api/fleet/"+path, nil, nil)
	}
	without := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	for _, path := range []string{"", "/devices", "/requests/0"} {
		if text := without.call(404, "GET", "/api/fleet"+path, nil, nil); !strings.Contains(text, "--log FILE") {
			t.Errorf("%s: %s", path, text)
		}
	}
}

func TestFleetReplay(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, withFleet(fleetOf(t,
		registered("one", eu, ""), registered("two", eu, ""), registered("three", us, ""))))
	edits := object{"line/line.rego": strings.Replace(lineRule, "hub := input.linkedHubs[0]",
		`hub := input.linkedHubs[1] if input.deviceRuntimeContext.registrationId == "two"`+"\n\nelse := input.linkedHubs[0]", 1)}
	for baseline, want := range map[string]string{"": "three two", "log": "three two", "saved": "two"} {
		found := collect(c.events(t.Context(), "POST", "/api/fleet/replay", object{"edits": edits, "baseline": baseline}))
		if len(found["report"]) != 1 {
			t.Fatalf("%+v", found)
		}
		report := decode[struct {
			Baseline string
			Report   struct{ Counts map[string]int }
			Flow     string
			Matrix   struct {
				Columns []string
				Rows    []struct {
					Name  string
					Cells []struct{ Count int }
				}
			}
			Who []struct{ ID, Kind, RegistrationID, Place string }
		}](t, found["report"][0])
		var who []string
		for _, m := range report.Who {
			who = append(who, m.RegistrationID)
			var opened struct{ Name string }
			c.call(200, "GET", "/api/fleet/requests/"+m.ID, nil, &opened)
			if opened.Name != m.RegistrationID || !strings.Contains(m.Place, "fleet.ndjson:") {
				t.Errorf("%+v leads to %s", m, opened.Name)
			}
		}
		slices.Sort(who)
		if diff := cmp.Diff(want, strings.Join(who, " ")); diff != "" {
			t.Errorf("baseline %q: -want +got:\n%s", baseline, diff)
		}
		if !strings.HasPrefix(report.Flow, "<svg ") || len(report.Matrix.Rows) == 0 || len(report.Matrix.Rows[0].Cells) != len(report.Matrix.Columns) {
			t.Errorf("%s", found["report"][0].data)
		}
	}
	c.call(400, "POST", "/api/fleet/replay", object{"edits": object{}, "baseline": "other"}, nil)
	found := collect(c.events(t.Context(), "POST", "/api/fleet/replay", object{"edits": object{"line/line.rego": "package"}}))
	if len(found["problem"]) != 1 {
		t.Errorf("%+v", found)
	}
}

// What a replay does not cover is said, as usher replay does, with its reason: what is masked in a record, and a row that no
// one recorded.
func TestFleetReplayLeavesOut(t *testing.T) {
	t.Parallel()
	masked := func(id string) string {
		return fmt.Sprintf(`{"usherRecord":1,"decisionId":%q,"time":"2026-11-22T01:02:03Z","source":"current","rules":{"digest":"sha256:1"},"status":200,
"decision":{"outcome":"assigned","hub":%q},"masked":["/deviceRuntimeContext/payload"],"request":
{"enrollmentGroup":{"enrollmentGroupId":"line"},"deviceRuntimeContext":{"registrationId":%q},"linkedHubs":[%[2]q,%q]}}`, id, eu, id, us)
	}
	payload := lineRule + "\nreject contains \"old\" if input.deviceRuntimeContext.payload.old\n"
	looksUp := strings.Replace(lineRule, "input.linkedHubs[0]", `lookup.device(input.deviceRuntimeContext.registrationId).hub`, 1)
	declared := "device:\n  row:\n    type: object\n    additionalProperties: false\n    required: [hub]\n    properties: {hub: {type: string}}\n"
	for name, test := range map[string]struct {
		files       map[string]string
		log         []string
		want        string
		counted, of int
		why         string
	}{
		"nothing": {map[string]string{"line/line.rego": payload}, []string{registered("one", eu, ""), registered("two", eu, "")}, "", 2, 0, ""},
		"some": {map[string]string{"line/line.rego": payload}, []string{registered("one", eu, ""), masked("two"), masked("three")},
			"Left out: 2 of 3 (66.7%): 2 records that lack what the rules look at.", 1, 2, "masked, and the rules look at it: /deviceRuntimeContext/payload"},
		"all": {map[string]string{"line/line.rego": payload}, []string{masked("two")},
			"Left out: 1 of 1 (100.0%): 1 record that lacks what the rules look at.", 0, 1, "masked, and the rules look at it: /deviceRuntimeContext/payload"},
		"a row": {map[string]string{"line/line.rego": looksUp, "lookups.yaml": declared}, []string{registered("one", eu, "")},
			"Left out: 1 of 1 (100.0%): 1 record that lacks what the rules look at.", 0, 1, "the rules look up a row that is neither recorded nor in a fixture: lookup.device"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, test.files, withFleet(fleetOf(t, test.log...)))
			found := collect(c.events(t.Context(), "POST", "/api/fleet/replay", object{"edits": object{}}))
			if len(found["report"]) != 1 {
				t.Fatalf("%+v", found)
			}
			got := decode[struct {
				LeftOut string
				Changed int
				Who     []any
				Report  struct {
					Lacking, Counted int
					LackingFirst     []fleet.Problem
				}
			}](t, found["report"][0])
			if got.LeftOut != test.want || got.Report.Lacking != test.of || got.Report.Counted != test.counted || got.Changed != 0 || len(got.Who) != 0 {
				t.Errorf("%+v", got)
			}
			for _, one := range got.Report.LackingFirst {
				if !strings.HasPrefix(one.Problem, test.why) || !strings.Contains(one.Place, "fleet.ndjson:") {
					t.Errorf("%+v", one)
				}
			}
		})
	}
}

// While the page is open, the saved rules decide what the log has no answer to, and again when they change.
func TestFleetEvents(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, request("line", ""))
	c := start(t, map[string]string{"line/line.rego": lineRule}, withFleet(f))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	events := c.events(ctx, "GET", "/api/events", nil)
	until := func(what string, holds func() bool) {
		t.Helper()
		for e := range events {
			if e.name == "fleet" && holds() {
				return
			}
		}
		t.Fatal("no event after " + what)
	}
	on := func(hub string) func() bool {
		return func() bool {
			_, list := f.Devices(fleet.Filter{}, 0, 1)
			return list[0].Hub == hub && list[0].Decided
		}
	}
	until("the start", on(eu))
	write(t, filepath.Join(c.folder, "line/line.rego"), strings.Replace(lineRule, "[0]", "[1]", 1))
	until("a change", on(us))
	write(t, filepath.Join(c.folder, "line/line.rego"), "package")
	for e := range events {
		if e.name == "fleet" && strings.Contains(e.data, "do not load") {
			break
		}
	}
	if err := os.Remove(filepath.Join(c.folder, "line/line.rego")); err != nil {
		t.Fatal(err)
	}
	leave()
	for path := range c.ended {
		if path == "/api/events" {
			return
		}
	}
}
