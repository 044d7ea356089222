package decider_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/lookup"
)

// oneRow gives the same answer for each key.
type oneRow struct {
	row map[string]any
	err error
}

func (s oneRow) Find(context.Context, *lookups.Declaration, string) (lookups.Found, error) {
	return lookups.Found{Source: "test", Answer: lookup.Answer{Row: s.row}}, s.err
}

// Whatever on_undecided and the reprovision policy say, a device waits for what its rule looks up, unless the rule had
// its say before.
func TestLookupFailed(t *testing.T) {
	t.Parallel()
	const device = "lookup.device(input.deviceRuntimeContext.registrationId)"
	for name, test := range map[string]struct {
		rules     string
		undecided string
		never     bool
		want      answer.Result
	}{
		"hub":                                 {"hub := " + device + ".hub", "hold", false, answer.LookupFailed},
		"on_undecided: reject":                {"hub := " + device + ".hub", "reject", false, answer.LookupFailed},
		"on_undecided: stay":                  {"hub := " + device + ".hub", "stay", false, answer.LookupFailed},
		"reject":                              {"hub := input.linkedHubs[0]\n\nreject contains \"no\" if not " + device, "stay", false, answer.LookupFailed},
		"the device keeps its hub":            {"hub := " + device + ".hub", "hold", true, answer.LookupFailed},
		"its twin":                            {"hub := input.linkedHubs[0]\n\ninitial_twin := {\"tags\": {\"t\": " + device + ".tenant}}", "hold", false, answer.LookupFailed},
		"the twin of one that keeps its hub":  {"hub := input.linkedHubs[0]\n\ninitial_twin := {\"tags\": {\"t\": " + device + ".tenant}}", "hold", true, answer.LookupFailed},
		"rejected anyway":                     {"hub := " + device + ".hub\n\nreject contains \"no\"", "hold", false, answer.Rejected},
		"held anyway":                         {"hub := " + device + ".hub\n\nhold contains \"no\"", "hold", false, answer.Held},
		"a rule that does not need it":        {"hub := input.linkedHubs[0]", "hold", false, answer.Assigned},
		"needed only if another is undefined": {"hub := input.linkedHubs[0] if input.linkedHubs\nelse := " + device + ".hub", "hold", false, answer.Assigned},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules := load(t, map[string]string{
				"lookups.yaml": "device: {row: {type: object, properties: {hub: {type: string}, tenant: {type: string}}}}",
				"default.rego": "# METADATA\n# custom:\n#   on_undecided: " + test.undecided + "\npackage allocation[\"default\"]\n\n" + test.rules + "\n",
			})
			d, err := decider.New(decider.Options{Rules: rules, Lookups: oneRow{err: errors.New("connection refused")}})
			if err != nil {
				t.Fatal(err)
			}
			r := edited(t, func(document map[string]any) {
				if test.never {
					document["enrollmentGroup"].(map[string]any)["reprovisionPolicy"] = map[string]any{"updateHubAssignment": false, "migrateDeviceData": false}
				}
			})
			got := d.Allocate(t.Context(), r)
			if got.Result != test.want {
				t.Fatalf("got %s: %s, want %s", got.Result, got.Detail, test.want)
			}
			if test.want != answer.LookupFailed {
				return
			}
			failed, ok := errors.AsType[*ruleset.LookupError](got.Cause)
			if !ok || failed.Lookup != "device" || got.Detail != "the look-up device failed" || !strings.Contains(got.CauseText(), "connection refused at rules/default.rego:") {
				t.Errorf("detail %q, cause %q", got.Detail, got.CauseText())
			}
			if len(got.Lookups) != 1 || got.Lookups[0].Fault != "connection refused" {
				t.Errorf("look-ups %+v", got.Lookups)
			}
			// A repetition needs no source, and an explanation shows the same answer.
			apart, err := decider.New(decider.Options{Rules: rules})
			if err != nil {
				t.Fatal(err)
			}
			if again := apart.Repeat(t.Context(), r, got.Lookups); again.Result != got.Result || again.CauseText() != got.CauseText() {
				t.Errorf("repeated: %s, %s", again.Result, again.CauseText())
			}
			if explained := apart.Explain(t.Context(), r, got.Lookups); explained.Answer.Result != got.Result {
				t.Errorf("explained: %s", explained.Answer.Result)
			}
		})
	}
}

// What a rule explains comes from the row that decided, not from another one.
func TestExplainsTheRowThatDecided(t *testing.T) {
	t.Parallel()
	rules := load(t, map[string]string{
		"lookups.yaml": "device: {row: {type: object, properties: {n: {type: integer}}}}",
		"default.rego": "package allocation[\"default\"]\n\nhub := input.linkedHubs[lookup.device(\"x\").n]\n",
	})
	source := &counting{}
	d, err := decider.New(decider.Options{Rules: rules, Lookups: source})
	if err != nil {
		t.Fatal(err)
	}
	explained := d.Explain(t.Context(), request(t), nil)
	if source.asked != 1 {
		t.Errorf("asked %d times", source.asked)
	}
	if explained.Answer.Result != answer.Assigned || explained.CutShort != "" || len(explained.Entries) != 1 {
		t.Errorf("got %+v", explained)
	}
}

// counting gives the number of the call as a row.
type counting struct{ asked int }

func (c *counting) Find(context.Context, *lookups.Declaration, string) (lookups.Found, error) {
	c.asked++
	return lookups.Found{Answer: lookup.Answer{Row: map[string]any{"n": json.Number(strconv.Itoa(c.asked - 1))}}}, nil
}

// Whatever a source answers: an assigned hub is linked, a fault is lookup_failed, and a device without a row has no hub.
func FuzzLookup(f *testing.F) {
	f.Add("contoso-toasters-hub-1098.azure-devices.net", "press-1", byte(0))
	f.Add("../%2f' --", "\x00", byte(1))
	f.Add("", "\xff", byte(2))
	rules := load(f, map[string]string{
		"lookups.yaml": "device: {row: {type: object, required: [hub], properties: {hub: {type: string}}}}",
		"default.rego": "package allocation[\"default\"]\n\nhub := lookup.device(input.deviceRuntimeContext.payload.key).hub\n",
	})
	f.Fuzz(func(t *testing.T, hub, key string, kind byte) {
		source := oneRow{row: map[string]any{"hub": hub}}
		switch kind % 4 {
		case 1:
			source.err = errors.New("away")
		case 2:
			source.row = nil
		case 3:
			source.row["hub"] = json.Number("1")
		}
		d, err := decider.New(decider.Options{Rules: rules, Lookups: source})
		if err != nil {
			t.Fatal(err)
		}
		r := edited(t, func(document map[string]any) {
			document["deviceRuntimeContext"].(map[string]any)["payload"] = map[string]any{"key": key}
		})
		a := d.Allocate(t.Context(), r)
		_, linked := r.LinkedHub(a.Response.IotHubHostName)
		asked := len(a.Lookups) == 1 && len(a.Lookups[0].Arguments[0].(string)) <= 1024 // in UTF-8 and lower case
		switch {
		case a.Result == answer.Assigned && (!linked || kind%4 != 0):
			t.Errorf("assigned to %q by the row %q", a.Response.IotHubHostName, hub)
		case asked && kind%2 == 1 && a.Result != answer.LookupFailed:
			t.Errorf("a fault is %s", a.Result)
		case asked && kind%4 == 2 && a.Result != answer.Undecided:
			t.Errorf("no row is %s", a.Result)
		case a.Result == answer.Internal:
			t.Errorf("%s: %v", a.Detail, a.Cause)
		}
	})
}
