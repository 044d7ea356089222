package decider_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// A fault tells in fields, not in its words alone, what it is about.
func TestFaultFields(t *testing.T) {
	t.Parallel()
	const twin = "{\"tags\": {\"a\": {\"b\": {\"c\": {\"d\": {\"e\": {\"f\": {\"g\": {\"h\": {\"i\": {\"j\": {\"k\": {\"l\": {\"m\": 1}}}}}}}}}}}}}}"
	for _, c := range []struct {
		name, rules string
		kind        answer.Result
		entry       string
		places      []string
	}{
		{"foreign hub", `hub := "elsewhere.azure-devices.net"`, answer.BadVerdict, "hub", nil},
		{"hub of a wrong type", `hub := 1`, answer.BadVerdict, "hub", nil},
		{"twin", "hub := input.linkedHubs[0]\n\ninitial_twin := " + twin, answer.BadVerdict, "initial_twin", nil},
		{"hub with a letter that Unicode folds", `hub := replace(input.linkedHubs[0], "s", "\u017f")`, answer.BadVerdict, "hub", nil},
		{"hold with a status that refuses", `hold contains {"reason": "x", "status": 400}`, answer.BadVerdict, "hold", nil},
		{"hold with another status", `hold contains {"reason": "x", "status": 500}`, answer.BadVerdict, "hold", nil},
		{"hold with the status of a hub", "hub := input.linkedHubs[0]\n\nhold contains {\"reason\": \"x\", \"status\": 200}", answer.BadVerdict, "hold", nil},
		{"hold with a status that is a text", `hold contains {"reason": "x", "status": "429"}`, answer.BadVerdict, "hold", nil},
		{"hold with one of two that is wrong", "hold contains \"y\"\n\nhold contains {\"reason\": \"x\", \"status\": 500}", answer.BadVerdict, "hold", nil},
		{"hold for too long", `hold contains {"reason": "x", "retry_after": 3601}`, answer.BadVerdict, "hold", nil},
		{"hold for no time", `hold contains {"reason": "x", "retry_after": 0}`, answer.BadVerdict, "hold", nil},
		{"hold for a text", `hold contains {"reason": "x", "retry_after": "60"}`, answer.BadVerdict, "hold", nil},
		{"hold as it may be", `hold contains {"reason": "x", "status": 503, "retry_after": 3600}`, answer.Held, "", nil},
		{"hold as it may be, with nulls", `hold contains {"reason": "x", "status": null, "retry_after": null}`, answer.Held, "", nil},
		{"payload", "hub := input.linkedHubs[0]\n\npayload := [1]", answer.BadVerdict, "payload", nil},
		{"a built-in", `hub := input.linkedHubs[to_number(input.deviceRuntimeContext.registrationId)]`, answer.Undecided, "", []string{"rules/default.rego:3"}},
		{"silence", `hub := input.linkedHubs[9]`, answer.Undecided, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			allocator, err := decider.New(decider.Options{Rules: load(t, map[string]string{"default.rego": "package allocation[\"default\"]\n\n" + c.rules})})
			if err != nil {
				t.Fatal(err)
			}
			got := allocator.Allocate(t.Context(), request(t))
			if got.Result != c.kind || got.Entry != c.entry {
				t.Errorf("%s, entry %q; want %s, entry %q", got.Result, got.Entry, c.kind, c.entry)
			}
			if diff := cmp.Diff(c.places, got.BuiltinErrors); diff != "" {
				t.Errorf("built-in errors (-want +got):\n%s", diff)
			}
		})
	}
}

// A bad verdict names the mistake and the fix.
func TestBadVerdictsNameTheFix(t *testing.T) {
	t.Parallel()
	for rules, want := range map[string]string{
		`hold contains {"reason": "x", "status": 200}`:              "hold asks for the status 200: use 429 or 503, or reject to refuse the device",
		`hold contains {"reason": "x", "status": "500"}`:            "hold asks for a status that is a string: use the number 429 or 503",
		`hold contains {"reason": "x", "retry_after": 1e300}`:       "hold has the retry_after 1e300: use more than 0 and at most 3600 seconds",
		`hold contains {"reason": "x", "retry_after": "1h"}`:        "hold has a retry_after that is a string: use a number of seconds",
		`hub := replace(lower(input.linkedHubs[0]), "s", "\u017f")`: "hub is not the host name of an IoT hub: it has characters that are not ASCII, which no host name has",
		`hub := replace(lower(input.linkedHubs[0]), "k", "\u212a")`: "hub is not the host name of an IoT hub: it has characters that are not ASCII, which no host name has",
		`hub := {"a": 1}`: "hub is an object, not a string",
	} {
		allocator, err := decider.New(decider.Options{Rules: load(t, map[string]string{"default.rego": "package allocation[\"default\"]\n\n" + rules})})
		if err != nil {
			t.Fatal(err)
		}
		asked := edited(t, func(document map[string]any) { document["linkedHubs"] = []any{"sky.azure-devices.net"} })
		if got := allocator.Allocate(t.Context(), asked); got.Result != answer.BadVerdict || got.Detail != want {
			t.Errorf("%s: %s, %q; want %q", rules, got.Result, got.Detail, want)
		}
	}
}
