package ruleset_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/lookup"
)

// rowSources answer look-ups from a map, and note what they are asked.
type rowSources struct {
	rows map[string]map[string]any // by look-up and key
	err  error
	find func(ctx context.Context) error // may be nil

	mu    sync.Mutex
	asked []string
}

func (s *rowSources) Find(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, d.Name+" "+key)
	if s.find != nil {
		if err := s.find(ctx); err != nil {
			return lookups.Found{}, err
		}
	}
	return lookups.Found{Source: "test", Answer: lookup.Answer{Row: s.rows[d.Name+" "+key], Version: "v1", AsOf: time.Unix(1, 0)}}, s.err
}

const declared = `device:
  description: The factory's record.
  row:
    type: object
    required: [hub]
    properties:
      hub: {type: string}
      tenant: {type: string}
      lot: {type: [integer, "null"]}
      tags: {type: array, items: {type: string}}
tenant:
  row: {type: object, properties: {open: {type: boolean}}}
`

// withLookups are rules for the group g that look up.
func withLookups(rules string) fstest.MapFS {
	return folder("lookups.yaml", declared, "a.rego", serving("allocation.a", "g", rules))
}

const press = `{"deviceRuntimeContext": {"registrationId": "Press-1"}}`

func TestLookups(t *testing.T) {
	t.Parallel()
	rows := map[string]map[string]any{
		"device press-1": {"hub": "h1", "tenant": "t1", "unknown": "x", "tags": []any{"a"}},
		"tenant t1":      {"open": true},
	}
	const id = "input.deviceRuntimeContext.registrationId"
	for name, test := range map[string]struct {
		rules string
		want  said // Hub, Reject and Hold are compared
		asked []string
	}{
		"a row":                   {"hub := lookup.device(" + id + ").hub", said{Hub: "h1"}, []string{"device press-1"}},
		"in a variable":           {"hub := d.hub if d := lookup.device(" + id + ")", said{Hub: "h1"}, []string{"device press-1"}},
		"no row":                  {`hub := lookup.device("other").hub`, said{}, []string{"device other"}},
		"no row, negated":         {`reject contains "not ours" if not lookup.device("other")`, said{Reject: []any{"not ours"}}, []string{"device other"}},
		"a row, negated":          {"reject contains \"not ours\" if not lookup.device(" + id + ")", said{Reject: []any{}}, []string{"device press-1"}},
		"an absent member":        {"_device := lookup.device(" + id + ")\n\nhub := \"h\" if not _device.lot", said{Hub: "h"}, []string{"device press-1"}},
		"by the first's answer":   {"hub := d.hub if {\n\td := lookup.device(" + id + ")\n\tlookup.tenant(d.tenant).open\n}", said{Hub: "h1"}, []string{"device press-1", "tenant t1"}},
		"asked once":              {"hub := lookup.device(" + id + ").hub\nreject contains \"no\" if lookup.device(lower(" + id + ")).hub == \"h2\"\npayload := {\"x\": lookup.device(upper(" + id + ")).hub}", said{Hub: "h1", Reject: []any{}}, []string{"device press-1"}},
		"asked only if needed":    {"hub := \"h\" if input.deviceRuntimeContext\nelse := lookup.device(" + id + ").hub", said{Hub: "h"}, nil},
		"by way of another rule":  {"_device := lookup.device(" + id + ")\n\nhub := _device.hub\n\nhold contains \"wait\" if not _device.tenant", said{Hub: "h1", Hold: []any{}}, []string{"device press-1"}},
		"an undeclared member":    {"hub := object.get(lookup.device(" + id + "), \"unknown\", \"none\")", said{Hub: "none"}, []string{"device press-1"}},
		"a supposition":           {"_hub := lookup.device(" + id + ").hub\n\nhub := h if h := _hub with lookup.device as {\"hub\": \"mocked\"}", said{Hub: "mocked"}, nil},
		"a key that is too long":  {`hub := "h" if not lookup.device(sprintf("%01025d", [1]))`, said{Hub: "h"}, nil},
		"a hostile key":           {`hub := "h" if not lookup.device("' OR 1=1 --\u0000../%2f")`, said{Hub: "h"}, []string{"device ' or 1=1 --\u0000../%2f"}},
		"members of an iteration": {"hub := lookup.device(k).hub if some k in [\"x\", \"press-1\"]", said{Hub: "h1"}, []string{"device x", "device press-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, withLookups(test.rules), func(t *testing.T, rule *ruleset.Rule) {
				sources := &rowSources{rows: rows}
				got, err := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: sources})
				if err != nil {
					t.Fatal(err)
				}
				want := test.want
				for _, entry := range []struct{ got, want any }{{got.Hub.Interface(), want.Hub}, {got.Reject.Interface(), want.Reject}, {got.Hold.Interface(), want.Hold}} {
					if diff := cmp.Diff(entry.want, entry.got); diff != "" {
						t.Error(diff)
					}
				}
				if diff := cmp.Diff(test.asked, sources.asked); diff != "" {
					t.Errorf("asked: %s", diff)
				}
				// Repeated from what was recorded, it is the same without a source.
				again, err := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: &rowSources{err: errors.New("away")}, Known: got.Lookups})
				if err != nil || !cmp.Equal(saidBy(again), saidBy(got)) || !cmp.Equal(again.Lookups, got.Lookups) {
					t.Errorf("repeated: %+v, %v", again, err)
				}
			})
		})
	}
}

// Whatever line needs a source that fails: the evaluation fails, and is not undefined. What was said before counts.
func TestLookupFails(t *testing.T) {
	t.Parallel()
	const id = "input.deviceRuntimeContext.registrationId"
	for name, test := range map[string]struct {
		rules string
		entry string // that fails; empty if none does
		says  said
	}{
		"hub":                 {"hub := lookup.device(" + id + ").hub", "hub", said{}},
		"negated":             {"hub := \"h\"\nreject contains \"no\" if not lookup.device(" + id + ")", "reject", said{}},
		"a second definition": {"hub := \"h\"\nhub := lookup.device(" + id + ").hub", "hub", said{}},
		"a default":           {"default hub := \"h\"\n\nhub := lookup.device(" + id + ").hub", "hub", said{}},
		"else":                {"hub := lookup.device(" + id + ").hub if input.deviceRuntimeContext\nelse := \"h\"", "hub", said{}},
		"in a comprehension":  {"hub := \"h\" if count([x | x := lookup.device(" + id + ")]) == 0", "hub", said{}},
		"every":               {"hub := \"h\" if { every x in [\"a\"] { not lookup.device(x) } }", "hub", said{}},
		"a helper":            {"f(x) := lookup.device(x)\n\nhub := \"h\" if not f(" + id + ")", "hub", said{}},
		"object.get":          {"hub := object.get(lookup.device(" + id + "), \"hub\", \"h\")", "hub", said{}},
		"the twin":            {"hub := \"h\"\ninitial_twin := {\"tags\": {\"t\": lookup.device(" + id + ").tenant}}", "initial_twin", said{Hub: "h"}},
		"rejected before":     {"hub := lookup.device(" + id + ").hub\nreject contains \"no\"", "", said{Reject: []any{"no"}}},
		"held before":         {"hub := lookup.device(" + id + ").hub\nhold contains \"wait\"", "hub", said{Hold: []any{"wait"}}},
		"never needed":        {"hub := \"h\" if input.deviceRuntimeContext\nelse := lookup.device(" + id + ").hub", "", said{Hub: "h"}},
		"one of several":      {"hub := \"h\"\nreject contains \"a\" if not lookup.device(" + id + ")\nreject contains \"b\"", "reject", said{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, withLookups(test.rules), func(t *testing.T, rule *ruleset.Rule) {
				sources := &rowSources{err: errors.New("connection refused")}
				got, err := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: sources})
				failed, _ := errors.AsType[*ruleset.EvalError](err)
				switch {
				case test.entry == "" && err != nil:
					t.Errorf("got %v", err)
				case test.entry != "" && (failed == nil || failed.Entry != test.entry):
					t.Errorf("got %v, want that %s fails", err, test.entry)
				}
				if test.entry != "" {
					unavailable, ok := errors.AsType[*ruleset.LookupError](err)
					if !ok || unavailable.Lookup != "device" || !strings.HasPrefix(unavailable.Place, "rules/a.rego:") || !strings.Contains(err.Error(), "connection refused") {
						t.Errorf("got %v", err)
					}
					if len(got.Lookups) != 1 || got.Lookups[0].Fault != "connection refused" || got.Lookups[0].Undefined || got.Lookups[0].Result != nil {
						t.Errorf("look-ups %+v", got.Lookups)
					}
					// A repetition fails alike.
					if _, again := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: &rowSources{}, Known: got.Lookups}); again == nil || again.Error() != err.Error() {
						t.Errorf("repeated: %v, first %v", again, err)
					}
				}
				if got := saidBy(got); !cmp.Equal(got.Hub, test.says.Hub) || test.says.Hold != nil && !cmp.Equal(got.Hold, test.says.Hold) || test.says.Reject != nil && !cmp.Equal(got.Reject, test.says.Reject) {
					t.Errorf("says %+v", got)
				}
				if len(sources.asked) > 1 {
					t.Errorf("asked %v", sources.asked)
				}
			})
		})
	}
}

// on_fault: absent takes a fault as no row, and says so.
func TestLookupFailsAsAbsent(t *testing.T) {
	t.Parallel()
	files := folder("lookups.yaml", "device: {row: {type: object, properties: {hub: {type: string}}}, on_fault: absent}\n",
		"a.rego", serving("allocation.a", "g", "hub := \"h\" if not lookup.device(\"x\")"))
	bothWays(t, files, func(t *testing.T, rule *ruleset.Rule) {
		got, err := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: &rowSources{err: errors.New("away")}})
		if err != nil || got.Hub.Text() != "h" || len(got.Lookups) != 1 || !got.Lookups[0].Undefined || got.Lookups[0].Fault != "away" {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// A source that runs into the end of the decision ends it as the time limit does.
func TestLookupInterrupted(t *testing.T) {
	t.Parallel()
	bothWays(t, withLookups(`hub := "h" if not lookup.device("x")`), func(t *testing.T, rule *ruleset.Rule) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := rule.Evaluate(ctx, dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: &rowSources{find: func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}}})
		if _, isLookup := errors.AsType[*ruleset.LookupError](err); isLookup || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// A row that is not as declared is a fault, and no value of it is in the error.
func TestWrongRow(t *testing.T) {
	t.Parallel()
	bothWays(t, withLookups(`hub := lookup.device("x").hub`), func(t *testing.T, rule *ruleset.Rule) {
		for _, row := range []map[string]any{{}, {"hub": json.Number("4711.5")}, {"hub": "h", "lot": "4711"}, {"hub": "h", "tags": []any{true}}} {
			_, err := rule.Evaluate(t.Context(), dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: &rowSources{rows: map[string]map[string]any{"device x": row}}})
			if _, ok := errors.AsType[*ruleset.LookupError](err); !ok || !strings.Contains(err.Error(), "rules/lookups.yaml:1") || strings.Contains(err.Error(), "4711") {
				t.Errorf("%v: got %v", row, err)
			}
		}
	})
}

// Names that do not exist are found when the rules are loaded, with those that do.
func TestLookupNames(t *testing.T) {
	t.Parallel()
	for rules, want := range map[string]string{
		`hub := lookup.devise("x").hub`:                "rules/a.rego:6: rego_type_error: undefined function lookup.devise (did you mean lookup.device? The declared look-ups are device, tenant, hub)",
		`hub := lookup.sensor("x").hub`:                "rules/a.rego:6: rego_type_error: undefined function lookup.sensor (the declared look-ups are device, tenant, hub)",
		`hub := lookup.device("x").hubb`:               `want (one of): ["hub" "lot" "tags" "tenant"]`,
		"hub := d.hubb if d := lookup.device(\"x\")":   `want (one of): ["hub" "lot" "tags" "tenant"]`,
		`hub := lookup.device(1).hub`:                  "invalid argument(s)",
		`hub := concat("", lookup.device("x").tenant)`: "invalid argument(s)",
	} {
		_, err := ruleset.Load(t.Context(), withLookups(rules), ruleset.Options{Name: "rules"})
		if problems := problemsOf(t, err); !slices.ContainsFunc(problems, func(p string) bool {
			return strings.HasPrefix(p, "rules/a.rego:6") && strings.Contains(p, want)
		}) {
			t.Errorf("%s: %q", rules, problems)
		}
	}
	// Each place counts, whatever the rule is to which the reference leads, and whatever follows.
	_, err := ruleset.Load(t.Context(), withLookups("hub := device.hubb\n\ndevice := lookup.device(\"x\")\n\npayload := {\"a\": device.tags,\n\t\"b\": device.hubb}\n\nreject contains \"x\" if device.lost\n\nhold contains \"y\" if not hub\n"), ruleset.Options{Name: "rules"})
	want := []string{"rules/a.rego:6: device.hubb", "rules/a.rego:11: device.hubb", "rules/a.rego:13: device.lost"}
	problems := problemsOf(t, err)
	for i, w := range want {
		place, ref, _ := strings.Cut(w, " ")
		if len(problems) != len(want) || !strings.HasPrefix(problems[i], place) || !strings.Contains(problems[i], ref) {
			t.Errorf("got %q, want %q", problems, want)
			break
		}
	}
	_, err = ruleset.Load(t.Context(), folder("a.rego", serving("allocation.a", "g", `hub := lookup.device("x").hub`)), ruleset.Options{Name: "rules"})
	if err == nil || !strings.Contains(err.Error(), "declare it in lookups.yaml") {
		t.Errorf("got %v", err)
	}
}

// The digest changes with the declarations, because they decide.
func TestLookupsAreInTheDigest(t *testing.T) {
	t.Parallel()
	one := mustLoad(t, withLookups(hub), ruleset.Options{})
	other := withLookups(hub)
	other["lookups.yaml"].Data = []byte(strings.Replace(declared, "device:", "device:\n  on_fault: absent", 1))
	if two := mustLoad(t, other, ruleset.Options{}); one.Digest() == two.Digest() {
		t.Error("the digest is the same")
	}
}

// Which look-ups a rule can need is known before it is asked: directly, by way of helpers, functions and the library.
func TestUsesLookup(t *testing.T) {
	t.Parallel()
	for rules, want := range map[string]string{
		`hub := "h"`:                    "",
		`hub := lookup.device("x").hub`: "device",
		"hub := h\n\nh := f(\"x\").hub\n\nf(x) := lookup.device(x)":           "device",
		"hub := \"h\"\n\nunused := lookup.device(\"x\")":                      "",
		"hub := \"h\"\n\nreject contains \"no\" if not lookup.tenant(\"x\")":  "tenant",
		"hub := \"h\" if lookup.hub(\"h\").full":                              "hub",
		"hub := \"h\"\n\npayload := {\"n\": [x | x := lookup.device(\"x\")]}": "device",
		"hub := \"h\" if { every x in [\"a\"] { lookup.tenant(x).open } }":    "tenant",
	} {
		rs := mustLoad(t, withLookups(rules), ruleset.Options{})
		var used []string
		for _, d := range rs.Lookups() {
			if rs.UsesLookup(d.Name) {
				used = append(used, d.Name)
			}
		}
		if got := strings.Join(used, " "); got != want {
			t.Errorf("%s uses %q, want %q", rules, got, want)
		}
	}
}

// A negation that would be undefined without a row is refused, because it reads as if it held.
func TestNegatedLookups(t *testing.T) {
	t.Parallel()
	const device = `lookup.device("none")`
	for rules, refused := range map[string]bool{
		"reject contains \"x\" if not " + device + ".tenant":                                   true,
		"reject contains \"x\" if not " + device + ".tenant == \"t\"":                          true,
		"reject contains \"x\" if not startswith(" + device + ".tenant, \"t\")":                true,
		"reject contains \"x\" if not is_object(" + device + ")":                               true,
		"reject contains \"x\" if not lookup.tenant(" + device + ".tenant)":                    true,
		"reject contains \"x\" if not " + device + ".tenant in {\"t\"}":                        true,
		"reject contains \"x\" if { every x in [\"a\"] { not lookup.device(x).tenant } }":      true,
		"reject contains \"x\" if count([1 | not " + device + ".tenant]) == 1":                 true,
		"reject contains \"x\" if not " + device:                                               false,
		"reject contains \"x\" if not lookup.device(concat(\"\", [\"n\"]))":                    false,
		"reject contains \"x\" if not count([1 | " + device + "]) == 1":                        false,
		"reject contains \"x\" if not d.tenant\n\nd := " + device:                              false,
		"reject contains \"x\" if not f(\"none\")\n\nf(k) if lookup.device(k).tenant == \"t\"": false,
		"reject contains \"x\" if { d := " + device + "; not d.tenant }":                       false,
		"reject contains \"x\" if { " + device + ".tenant != \"t\" }":                          false,
	} {
		rs, err := ruleset.Load(t.Context(), withLookups("hub := \"h\"\n\n"+rules), ruleset.Options{Name: "rules"})
		if !refused {
			if err != nil {
				t.Errorf("%s: %v", rules, err)
				continue
			}
			if strings.Contains(rules, "{ ") { // as written, the row comes before the negation
				continue
			}
			got, err := rs.Serving(forGroup("g")).Evaluate(t.Context(), dps.ValueOf(decode(t, press)), ruleset.Outside{Sources: &rowSources{}})
			if err != nil || !cmp.Equal(saidBy(got).Reject, any([]any{"x"})) {
				t.Errorf("%s: says %v, %v", rules, saidBy(got), err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), "rules/a.rego:8: rego_compile_error: without a row, this negation does not hold") || !strings.Contains(err.Error(), "such as not ") {
			t.Errorf("%s: got %v", rules, err)
		}
	}
}
