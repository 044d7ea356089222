package shadow_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/shadow"
	"github.com/usher-dps/usher/lookup"
)

func newAllocator(t testing.TB, rule string) *decider.Decider {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{
		"default.rego": {Data: []byte("package allocation.default\n\n" + rule + "\n")}}, decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

func request(enrollment, device string) string {
	return fmt.Sprintf(`{"enrollmentGroup": {"enrollmentGroupId": %q}, "deviceRuntimeContext": {"registrationId": %q},
		"linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"]}`, enrollment, device)
}

const individual = `{"individualEnrollment": {"registrationId": "press-1"}, "deviceRuntimeContext": {"registrationId": "press-1"},
	"linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"]}`

// rowFor answers each key with a row that names it, and counts.
type rowFor struct {
	hub   string
	asked []string
}

func (r *rowFor) Find(_ context.Context, _ *lookups.Declaration, key string) (lookups.Found, error) {
	r.asked = append(r.asked, key)
	return lookups.Found{Answer: lookup.Answer{Row: map[string]any{"hub": r.hub}}, Source: "test"}, nil
}

// What was looked up for the answer is the same for the shadow rules, or a row that changed between the two would count
// as their difference. They ask only for other keys.
func TestRowsOfTheAnswer(t *testing.T) {
	t.Parallel()
	with := func(rule string, rows *rowFor) *decider.Decider {
		rules, err := decider.LoadRules(t.Context(), fstest.MapFS{
			"lookups.yaml": {Data: []byte("device: {row: {type: object, properties: {hub: {type: string}}}, recordable: [hub]}\n")},
			"default.rego": {Data: []byte("package allocation.default\n\n" + rule + "\n")}}, decider.RulesOptions{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := decider.New(decider.Options{Rules: rules, Lookups: rows})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const rule = `hub := lookup.device("x").hub`
	synctest.Test(t, func(t *testing.T) {
		now, later := &rowFor{hub: "a.azure-devices.net"}, &rowFor{hub: "b.azure-devices.net"}
		var recorded []answer.Call
		s := shadow.New(shadow.Options{Decider: with(rule+" if lookup.device(\"y\")", later), Record: func(_ context.Context, a *answer.Call) {
			recorded = append(recorded, *a)
		}})
		go s.Run(t.Context())
		post(t, with(rule, now), s, individual)
		synctest.Wait()
		if len(recorded) != 1 || recorded[0].Diverged != nil || recorded[0].Answer.Response.IotHubHostName != "a.azure-devices.net" {
			t.Fatalf("recorded %+v", recorded)
		}
		if strings.Join(now.asked, " ") != "x" || strings.Join(later.asked, " ") != "y" || len(recorded[0].Answer.Lookups) != 2 {
			t.Errorf("asked %v and %v", now.asked, later.asked)
		}
	})
}

// post sends a body through a webhook that the shadow observes.
func post(t testing.TB, answering *decider.Decider, s *shadow.Shadow, body string) *httptest.ResponseRecorder {
	t.Helper()
	webhook := handler.New(handler.Options{Allocator: answering, Observers: []answer.Observer{s.Observe}})
	answer := httptest.NewRecorder()
	webhook.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, strings.NewReader(body)))
	return answer
}

func TestKindsOfDivergence(t *testing.T) {
	t.Parallel()
	const base = `hub := input.linkedHubs[0]
initial_twin := {"tags": {"a": 1, "b": 2}}
payload := {"x": [1]}`
	for name, c := range map[string]struct {
		current, shadow string
		want            []answer.Difference
	}{
		"the same":             {base, base, nil},
		"in other words":       {base, `hub := upper(input.linkedHubs[0])` + "\n" + `initial_twin := {"tags": {"b": 2, "a": 1}}` + "\n" + `payload := {"x": [1]}`, nil},
		"hub":                  {base, strings.Replace(base, "[0]", "[1]", 1), []answer.Difference{"hub"}},
		"twin":                 {base, strings.Replace(base, `"b": 2`, `"b": 3`, 1), []answer.Difference{"twin"}},
		"no twin":              {base, "hub := input.linkedHubs[0]\npayload := {\"x\": [1]}", []answer.Difference{"twin"}},
		"payload":              {base, strings.Replace(base, "[1]}", "[2]}", 1), []answer.Difference{"payload"}},
		"an empty payload":     {"hub := input.linkedHubs[0]", "hub := input.linkedHubs[0]\npayload := {}", []answer.Difference{"payload"}},
		"all of it":            {base, "hub := input.linkedHubs[1]", []answer.Difference{"hub", "twin", "payload"}},
		"outcome":              {base, `reject contains "no"`, []answer.Difference{"outcome"}},
		"other reasons":        {`reject contains "no"`, `reject contains "never"`, nil},
		"fault":                {base, `hub := 1`, []answer.Difference{"fault"}},
		"no fault":             {`hub := 1`, base, []answer.Difference{"fault"}},
		"the same fault":       {`hub := 1`, `hub := 2`, nil},
		"another fault":        {`hub := 1`, `hub := input.linkedHubs[7]`, []answer.Difference{"fault"}},
		"a shadow that panics": {base, "", []answer.Difference{"fault"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var recorded []answer.Call
				apart := newAllocator(t, "hub := 1")
				if c.shadow != "" {
					apart = newAllocator(t, c.shadow)
				} else {
					apart.Use(new(decider.Rules)) // holds nothing that could be asked
				}
				s := shadow.New(shadow.Options{Decider: apart, Record: func(_ context.Context, a *answer.Call) {
					recorded = append(recorded, *a)
				}})
				response := post(t, newAllocator(t, c.current), s, request("Line-A", "d"))
				go s.Run(t.Context())
				synctest.Wait()
				if len(recorded) != 1 {
					t.Fatalf("%d shadow decisions", len(recorded))
				}
				got := recorded[0]
				if !reflect.DeepEqual(got.Diverged, c.want) {
					t.Errorf("diverged in %v, want %v", got.Diverged, c.want)
				}
				id := response.Header().Get(handler.DecisionIDHeader)
				if got.ShadowOf != id || got.DecisionID == id || got.DecisionID == "" || got.Answer.Source != answer.SourceShadow {
					t.Errorf("recorded %+v of %s", got, id)
				}
				stats := s.Stats()
				want := shadow.Compared{Kind: dps.EnrollmentGroup, Enrollment: "line-a", Differences: map[answer.Difference]uint64{}}
				for _, kind := range c.want {
					want.Differences[kind] = 1
				}
				if want.Diverged = 1; len(c.want) == 0 {
					want.Agreed, want.Diverged = 1, 0
				}
				if len(stats.Enrollments) != 1 || !reflect.DeepEqual(stats.Enrollments[0], want) || stats.Agreed != want.Agreed || stats.Diverged != want.Diverged {
					t.Errorf("counted %+v, want %+v", stats, want)
				}
			})
		})
	}
}

// What is no matter of the rules, or was answered by the same ones, is not compared.
func TestNotCompared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const rule = "hub := input.linkedHubs[0]"
		answering, apart := newAllocator(t, rule), newAllocator(t, rule)
		s := shadow.New(shadow.Options{Decider: apart, Shares: decider.Shares{{Pattern: "line-*", Percent: 100}}})
		post(t, answering, s, "{")
		post(t, answering, s, "{}")
		post(t, answering, s, request("other", "d"))
		answering.Stop("stale")
		post(t, answering, s, request("line-a", "d"))
		answering.Stop("")
		answering.Try(&decider.Trial{Rules: apart.Rules(), Canary: decider.Shares{{Pattern: "*", Percent: 100}}})
		post(t, answering, s, request("line-a", "d"))
		answering.Use(nil)
		post(t, answering, s, request("line-a", "d"))
		answering.Use(apart.Rules())
		apart.Use(nil)
		answering.Try(nil)
		post(t, answering, s, request("line-a", "d"))
		go s.Run(t.Context())
		synctest.Wait()
		if stats := s.Stats(); stats.Agreed+stats.Diverged+stats.Dropped != 0 {
			t.Errorf("compared %+v", stats)
		}
	})
}

// A queue that is full drops, and no answer waits for it.
func TestDropped(t *testing.T) {
	t.Parallel()
	const rule = "hub := input.linkedHubs[0]"
	answering := newAllocator(t, rule)
	s := shadow.New(shadow.Options{Decider: newAllocator(t, rule), Queue: 3})
	for i := range 10 {
		if response := post(t, answering, s, request("g", fmt.Sprint("d", i))); response.Code != http.StatusOK {
			t.Errorf("answered %d", response.Code)
		}
	}
	if stats := s.Stats(); stats.Dropped != 7 || stats.Waiting != 3 {
		t.Errorf("counted %+v", stats)
	}
}

// However many enrollments there are, the counters are few, and no device has one of its own.
func TestFewCounters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const rule = "hub := input.linkedHubs[0]"
		answering := newAllocator(t, rule)
		s := shadow.New(shadow.Options{Decider: newAllocator(t, rule)})
		go s.Run(t.Context())
		const groups = 250
		for i := range groups {
			post(t, answering, s, request(fmt.Sprint("group-", i), "d"))
			post(t, answering, s, individual)
			synctest.Wait()
		}
		stats := s.Stats()
		total, other := uint64(0), uint64(0)
		for _, c := range stats.Enrollments {
			total += c.Agreed
			if c.Enrollment == shadow.Other {
				other = c.Agreed
			}
			if strings.Contains(c.Enrollment, "press") {
				t.Errorf("a device is counted by name: %+v", c)
			}
		}
		if len(stats.Enrollments) > 201 || total != 2*groups || stats.Agreed != total || other != groups-199 {
			t.Errorf("%d counters, total %d, other %d", len(stats.Enrollments), total, other)
		}
	})
}

// Answers do not wait for a shadow rule that computes for long; what it takes is bounded, and the rules that answer
// lose nothing by it.
func TestSlowShadow(t *testing.T) {
	t.Parallel()
	const slow = "hub := input.linkedHubs[0] if count([1 | some a in numbers.range(1, 9999); some b in numbers.range(1, 9999); a * b == 0]) == 0"
	apart := newAllocator(t, slow)
	recorded := make(chan answer.Call, 1)
	s := shadow.New(shadow.Options{Decider: apart, Record: func(_ context.Context, a *answer.Call) { recorded <- *a }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	begin := time.Now()
	response := post(t, newAllocator(t, "hub := input.linkedHubs[0]"), s, request("g", "d"))
	if response.Code != http.StatusOK || time.Since(begin) > decider.DefaultTimeout {
		t.Errorf("answered %d after %s", response.Code, time.Since(begin))
	}
	select {
	case a := <-recorded:
		if a.Answer.Result != answer.Timeout {
			t.Errorf("recorded %+v", a)
		}
	case <-time.After(20 * time.Second):
		t.Error("the shadow rule goes on")
	}
	stop()
	<-ended
}

// A request that is being compared when the program stops is not counted.
func TestStops(t *testing.T) {
	t.Parallel()
	const rule = "hub := input.linkedHubs[0]"
	s := shadow.New(shadow.Options{Decider: newAllocator(t, rule)})
	post(t, newAllocator(t, rule), s, request("g", "d"))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	s.Run(ctx)
	if stats := s.Stats(); stats.Agreed+stats.Diverged != 0 {
		t.Errorf("counted %+v", stats)
	}
}
