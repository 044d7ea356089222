package rulebench_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/rulebench"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func allocator(t *testing.T) *decider.Decider {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), os.DirFS("../../../rules"), decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func examples(t *testing.T) []rulebench.Request {
	t.Helper()
	names, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no requests (%v)", err)
	}
	var requests []rulebench.Request
	for _, name := range names {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, rulebench.Request{Name: name, Body: body})
	}
	return requests
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	requests := append(examples(t), rulebench.Request{Name: "broken", Body: []byte("{")})
	calls := 0
	report, err := rulebench.Measure(t.Context(), allocator(t), requests, rulebench.Options{
		Duration: 30 * time.Millisecond,
		Progress: func(decisions int, share float64) {
			calls++
			if decisions <= 0 || share <= 0 {
				t.Errorf("progress %d, %v", decisions, share)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls == 0 {
		t.Error("no progress")
	}
	want := []rulebench.Fault{{Request: "broken", Kind: answer.Malformed, Detail: report.Faults[0].Detail}}
	if diff := cmp.Diff(want, report.Faults); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if first := report.Rows[0]; first.Rule != rulebench.All || first.Requests != len(requests) {
		t.Errorf("the first row is %+v", first)
	}
	rules, inRows, decisions := map[string]bool{}, 0, 0
	for _, row := range report.Rows[1:] {
		rules[row.Rule] = true
		inRows += row.Requests
		decisions += row.Decisions
		if !(0 < row.P50 && row.P50 <= row.P95 && row.P95 <= row.P99 && row.P99 <= row.Max) || row.Typical <= 0 || row.PerSecond <= 0 || row.Allocs < 1 || row.Bytes < row.Allocs {
			t.Errorf("a row makes no sense: %+v", row)
		}
	}
	for _, rule := range []string{"allocation.default", "allocation.tenants", "fault malformed"} {
		if !rules[rule] {
			t.Errorf("no row for %s among %v", rule, rules)
		}
	}
	if inRows != len(requests) || decisions != report.Rows[0].Decisions {
		t.Errorf("the rows have %d requests and %d decisions, all %d and %d", inRows, decisions, len(requests), report.Rows[0].Decisions)
	}
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var again rulebench.Report
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(report, again) {
		t.Errorf("the file of a report is another one: %v", err)
	}
}

func TestMeasureWhatCannotBe(t *testing.T) {
	t.Parallel()
	if _, err := rulebench.Measure(t.Context(), allocator(t), nil, rulebench.Options{}); err == nil {
		t.Error("measured without requests")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rulebench.Measure(ctx, allocator(t), examples(t), rulebench.Options{Duration: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before it began: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	report, err := rulebench.Measure(ctx, allocator(t), examples(t), rulebench.Options{
		Duration: time.Hour,
		Progress: func(int, float64) { cancel() },
	})
	if !errors.Is(err, context.Canceled) || len(report.Rows) == 0 || report.Rows[0].Decisions == 0 {
		t.Errorf("cut short: %v, %+v", err, report.Rows)
	}
}

func row(rule string, typical time.Duration, allocs float64) rulebench.Row {
	return rulebench.Row{Rule: rule, Typical: typical, P50: typical, P95: 2 * typical, P99: 3 * typical, Max: 4 * typical, Allocs: allocs, Bytes: 10 * allocs, PerSecond: 1, Decisions: 1}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	const µs = time.Microsecond
	limits := rulebench.Limits{Metrics: []rulebench.Metric{rulebench.MetricTypical, rulebench.MetricAllocs}, Threshold: 0.2, MinDifference: 10 * µs}
	for name, c := range map[string]struct {
		before, now rulebench.Row
		worse       bool
	}{
		"the same":                  {row("a", 100*µs, 100), row("a", 100*µs, 100), false},
		"faster":                    {row("a", 100*µs, 100), row("a", 10*µs, 10), false},
		"slower, below threshold":   {row("a", 100*µs, 100), row("a", 120*µs, 100), false},
		"slower":                    {row("a", 100*µs, 100), row("a", 121*µs, 100), true},
		"slower, by next to none":   {row("a", 10*µs, 100), row("a", 20*µs, 100), false},
		"slower, just by enough":    {row("a", 10*µs, 100), row("a", 20*µs+1, 100), true},
		"more allocations":          {row("a", 100*µs, 100), row("a", 100*µs, 121), true},
		"a fraction more":           {row("a", 100*µs, 1), row("a", 100*µs, 1.9), false},
		"from nothing":              {row("a", 0, 0), row("a", 100*µs, 100), true},
		"p95, which does not count": {row("a", 100*µs, 100), rulebench.Row{Rule: "a", Typical: 100 * µs, P95: time.Second, P99: time.Second, Allocs: 100}, false},
	} {
		changes, err := rulebench.Compare(rulebench.Report{Rows: []rulebench.Row{c.before}}, rulebench.Report{Rows: []rulebench.Row{c.now}}, limits)
		if err != nil || len(changes) != 1 || changes[0].Worse() != c.worse {
			t.Errorf("%s: %+v, %v, want worse %v", name, changes, err, c.worse)
		}
	}
	changes, err := rulebench.Compare(rulebench.Report{Rows: []rulebench.Row{row("gone", 1, 1)}}, rulebench.Report{Rows: []rulebench.Row{row("new", 1, 1)}}, limits)
	if err != nil || len(changes) != 0 {
		t.Errorf("nothing to compare: %+v, %v", changes, err)
	}
	if _, err := rulebench.Compare(rulebench.Report{Requests: "a"}, rulebench.Report{Requests: "b"}, limits); err == nil {
		t.Error("compared measurements of other requests")
	}
}

func TestBest(t *testing.T) {
	t.Parallel()
	a := rulebench.Report{Rows: []rulebench.Row{row("x", 100, 7), row("only", 5, 5)}}
	b := rulebench.Report{Rows: []rulebench.Row{row("x", 90, 8)}}
	want := row("x", 90, 7)
	want.Decisions = 2
	best := rulebench.Best(a, b)
	if diff := cmp.Diff([]rulebench.Row{want, row("only", 5, 5)}, best.Rows); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A planted slowness is found, however busy the machine: it is a hundredfold.
func TestSlowRuleIsFound(t *testing.T) {
	t.Parallel()
	measure := func(body string) rulebench.Report {
		rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"d.rego": {Data: []byte("package allocation.default\n\nhub := input.linkedHubs[0]" + body + "\n")}}, decider.RulesOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := decider.New(decider.Options{Rules: rules})
		if err != nil {
			t.Fatal(err)
		}
		report, err := rulebench.Measure(t.Context(), a, examples(t)[:3], rulebench.Options{Duration: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	limits := rulebench.Limits{Metrics: rulebench.Metrics(), Threshold: 0.2}
	changes, err := rulebench.Compare(measure(""), measure(" if count([x | some x in numbers.range(1, 2000)]) == 2000"), limits)
	if err != nil || len(changes) == 0 || !changes[0].Worse() || !changes[0].Deltas[rulebench.MetricAllocs].Worse {
		t.Errorf("%+v, %v", changes, err)
	}
}
