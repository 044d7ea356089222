package decider_test

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func TestParseShares(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        "[]",
		"10":                      "[{* 10}]",
		"2.5%":                    "[{* 2.5}]",
		" Toasters = 10 , *=0,":   "[{toasters 10} {* 0}]",
		"line-*=100":              "[{line-* 100}]",
		"toasters":                `"toasters" has no percentage`,
		"toasters=":               "has no percentage",
		"=10":                     "names no enrollment",
		"toasters=101":            "from 0 to 100",
		"toasters=-1":             "from 0 to 100",
		"toasters=NaN":            "from 0 to 100",
		"toasters=10,TOASTERS=20": "two percentages",
		"10,20":                   "two percentages",
	} {
		shares, err := decider.ParseShares(text)
		got := fmt.Sprint(shares)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestShareOfAnEnrollment(t *testing.T) {
	t.Parallel()
	shares, err := decider.ParseShares("toasters=10, line-*=5, line-1*=7, *=1")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"toasters": 10, "Toasters": 10, "line-2": 5, "LINE-12": 7, "x": 1} {
		if got := shares.Of(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if got := shares[:1].Of("x"); got != 0 {
		t.Errorf("an enrollment that is not named has %v", got)
	}
}

// Who is in a share depends on names alone: each time, on each instance, however they are spelt, and in every larger
// share, too.
func TestSharesAreSticky(t *testing.T) {
	t.Parallel()
	const devices = 20000
	parse := func(text string) decider.Shares {
		shares, err := decider.ParseShares(text)
		if err != nil {
			t.Fatal(err)
		}
		return shares
	}
	tenth, quarter, all, none := parse("10"), parse("Line-a=25,*=0"), parse("100"), parse("0")
	group := dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "line-a"}
	other := dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "line-b"}
	in, both := 0, 0
	for i := range devices {
		id := fmt.Sprintf("press-%06d", i)
		held := tenth.Holds(group, id)
		if held != parse("10").Holds(dps.Enrollment{Kind: group.Kind, ID: "LINE-A"}, strings.ToUpper(id)) {
			t.Fatalf("%s changes sides with its spelling", id)
		}
		if held && !quarter.Holds(group, id) {
			t.Fatalf("%s is in a tenth and not in a quarter", id)
		}
		if !all.Holds(group, id) || none.Holds(group, id) || quarter.Holds(other, id) || decider.Shares(nil).Holds(group, id) {
			t.Fatalf("%s: all or none is not so", id)
		}
		if held {
			in++
			if tenth.Holds(other, id) {
				both++
			}
		}
	}
	if share := float64(in) / devices; math.Abs(share-0.1) > 0.01 {
		t.Errorf("10 percent are %v", share)
	}
	if again := float64(both) / float64(in); math.Abs(again-0.1) > 0.03 {
		t.Errorf("of them, %v are in that of another enrollment, too: always the same devices bear the risk", again)
	}
	// Pinned: another answer would change devices' sides on an update of Usher.
	var first []string
	for i := range 100 {
		if id := fmt.Sprintf("press-%06d", i); tenth.Holds(group, id) {
			first = append(first, id[len(id)-2:])
		}
	}
	if got, want := strings.Join(first, " "), pinnedCanary; got != want {
		t.Errorf("in the canary: %s, want %s", got, want)
	}
}

const pinnedCanary = "08 14 16 18 21 50 66 68 70"

func hubRules(t testing.TB, hub int) *decider.Rules {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"default.rego": {Data: []byte(fmt.Sprintf(
		"package allocation.default\n\nhub := input.linkedHubs[%d]\n\ninitial_twin := {\"tags\": {\"hub\": %d}}\n", hub, hub))}},
		decider.RulesOptions{Revision: fmt.Sprint("v", hub)})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func deviceRequest(t testing.TB, enrollment, device string) *dps.AllocationRequest {
	t.Helper()
	request, err := dps.ParseAllocationRequest(fmt.Appendf(nil, `{"enrollmentGroup": {"enrollmentGroupId": %q}, "deviceRuntimeContext": {"registrationId": %q},
		"linkedHubs": ["hub-0.azure-devices.net", "hub-1.azure-devices.net"]}`, enrollment, device))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// The canary answers for its share, and the decision says who decided.
func TestCanary(t *testing.T) {
	t.Parallel()
	shares, err := decider.ParseShares("toasters=30")
	if err != nil {
		t.Fatal(err)
	}
	rules := []*decider.Rules{hubRules(t, 0), hubRules(t, 1)}
	var instances []*decider.Decider
	for range 2 {
		a, err := decider.New(decider.Options{Rules: rules[0]})
		if err != nil {
			t.Fatal(err)
		}
		a.Try(&decider.Trial{Rules: rules[1], Canary: shares})
		instances = append(instances, a)
	}
	canaries := 0
	for i := range 200 {
		for _, enrollment := range []string{"toasters", "others"} {
			request := deviceRequest(t, enrollment, fmt.Sprint("device-", i))
			side, source := 0, answer.SourceCurrent
			if shares.Holds(request.Enrollment, request.Device.RegistrationID) {
				side, source = 1, answer.SourceCanary
				canaries++
			}
			for range 2 {
				for _, a := range instances {
					decision := a.Allocate(t.Context(), request)
					if decision.Response.IotHubHostName != fmt.Sprintf("hub-%d.azure-devices.net", side) || decision.Source != source ||
						decision.Revision != rules[side].Revision() || decision.Rules != rules[side].Digest() {
						t.Fatalf("%s %d: %+v, want side %d", enrollment, i, decision, side)
					}
				}
			}
			if explained := instances[0].Explain(t.Context(), request, nil); explained.Answer.Source != source {
				t.Fatalf("explained by %s, want %s", explained.Answer.Source, source)
			}
		}
	}
	if canaries < 30 || canaries > 90 {
		t.Errorf("%d of 200 are canaries", canaries)
	}
	instances[0].Try(nil)
	for i := range 50 {
		a := instances[0].Allocate(t.Context(), deviceRequest(t, "toasters", fmt.Sprint("device-", i)))
		if a.Result != answer.Assigned || a.Source != answer.SourceCurrent {
			t.Fatalf("after the trial: %+v", a)
		}
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	a, err := decider.New(decider.Options{Rules: hubRules(t, 0)})
	if err != nil {
		t.Fatal(err)
	}
	request := deviceRequest(t, "g", "d")
	a.Stop("old")
	fault := a.Allocate(t.Context(), request)
	if fault.Result != answer.RulesStale || fault.Detail != "old" ||
		fault.Rules != a.Rules().Digest() || fault.Revision != "v0" || a.Stopped() != "old" {
		t.Errorf("got %+v", fault)
	}
	a.Use(hubRules(t, 1)) // other rules alone change nothing
	if a.Allocate(t.Context(), request).Result.IsOutcome() {
		t.Error("decided although stopped")
	}
	a.Stop("")
	if decision := a.Allocate(t.Context(), request); decision.Response.IotHubHostName != "hub-1.azure-devices.net" {
		t.Errorf("got %+v", decision)
	}
}

// Rules, trial and stop change at the same time, and no change is lost.
func TestChangesAtTheSameTime(t *testing.T) {
	t.Parallel()
	rules := []*decider.Rules{hubRules(t, 0), hubRules(t, 1)}
	a, err := decider.New(decider.Options{Rules: rules[0]})
	if err != nil {
		t.Fatal(err)
	}
	request := deviceRequest(t, "g", "d")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 200 {
				decision := a.Allocate(t.Context(), request)
				if decision.Result != answer.Assigned {
					t.Error(decision.Summary())
					return
				}
				twin := fmt.Sprint(decision.Response.InitialTwin.Get("tags").Interface())
				if hub := decision.Response.IotHubHostName[4:5]; twin != "map[hub:"+hub+"]" || decision.Revision != "v"+hub {
					t.Errorf("of two sets: hub %s, twin %s, %s", hub, twin, decision.Revision)
				}
			}
		})
	}
	for i := range 3 {
		group.Go(func() {
			for n := range 500 {
				switch i {
				case 0:
					a.Use(rules[n%2])
				case 1:
					a.Try(&decider.Trial{Rules: rules[(n+1)%2], Canary: decider.Shares{{Pattern: "*", Percent: 50}}})
				case 2:
					a.Stop("")
				}
			}
		})
	}
	group.Wait()
	a.Stop("x")
	if a.Rules() != rules[1] || a.Stopped() != "x" {
		t.Error("a change was lost")
	}
}

func TestRuleFailed(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]bool{
		"hub := input.linkedHubs[0]\n\nhub := input.linkedHubs[1]\n": true,
		"hub := input.linkedHubs[9]\n":                               false,
	} {
		rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte("package allocation.default\n\n" + rule)}}, decider.RulesOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := decider.New(decider.Options{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		got := a.Allocate(t.Context(), deviceRequest(t, "g", "d"))
		if got.Result != answer.Undecided || decider.RuleFailed(&got) != want {
			t.Errorf("%s: %+v", rule, got)
		}
	}
}
