package rulebench

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// Metric is a figure of a row that can be compared.
type Metric string

// The metrics, in the order in which they are shown.
const (
	MetricTypical Metric = "typical"
	MetricP95     Metric = "p95"
	MetricP99     Metric = "p99"
	MetricAllocs  Metric = "allocs"
)

// Metrics lists them all.
func Metrics() []Metric { return []Metric{MetricTypical, MetricP95, MetricP99, MetricAllocs} }

func (r Row) figure(m Metric) float64 {
	switch m {
	case MetricTypical:
		return float64(r.Typical)
	case MetricP95:
		return float64(r.P95)
	case MetricP99:
		return float64(r.P99)
	default:
		return r.Allocs
	}
}

// Limits define which difference counts as worse.
type Limits struct {
	// Metrics are those that count; for the others the difference is only reported.
	Metrics []Metric
	// Threshold is how much more is too much, as a share: 0.2 is 20 %.
	Threshold float64
	// MinDifference must be exceeded as well if the metric is a time: a large share of a very short time is noise.
	MinDifference time.Duration
}

// Change is the difference between a row and that of the same rule in a baseline.
type Change struct {
	Rule   string           `json:"rule"`
	Deltas map[Metric]Delta `json:"deltas"`
}

// Delta is one figure before and now. Times are in nanoseconds.
type Delta struct {
	Before float64 `json:"before"`
	Now    float64 `json:"now"`
	// Worse is set if the limits are exceeded.
	Worse bool `json:"worse"`
}

// Share is the relative increase, such as 0.2 for 20 %.
func (d Delta) Share() float64 {
	if d.Before == 0 {
		return 0
	}
	return d.Now/d.Before - 1
}

// Worse reports whether any figure is worse.
func (c Change) Worse() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(c.Deltas)), func(d Delta) bool { return d.Worse })
}

// Compare compares a report with a baseline, row by row. It leaves out rows that only one of them has.
func Compare(baseline, report Report, limits Limits) ([]Change, error) {
	if baseline.Requests != report.Requests {
		return nil, errors.New("the baseline was measured with other requests: measure it again with these")
	}
	var changes []Change
	for _, now := range report.Rows {
		was, ok := baseline.row(now.Rule)
		if !ok {
			continue
		}
		change := Change{Rule: now.Rule, Deltas: map[Metric]Delta{}}
		for _, metric := range Metrics() {
			d := Delta{Before: was.figure(metric), Now: now.figure(metric)}
			least := float64(limits.MinDifference)
			if metric == MetricAllocs {
				least = 1 // a fraction of one comes from the average
			}
			d.Worse = slices.Contains(limits.Metrics, metric) && d.Now-d.Before > limits.Threshold*d.Before && d.Now-d.Before > least
			change.Deltas[metric] = d
		}
		changes = append(changes, change)
	}
	return changes, nil
}

func (r *Report) row(rule string) (Row, bool) {
	i := slices.IndexFunc(r.Rows, func(row Row) bool { return row.Rule == rule })
	if i < 0 {
		return Row{}, false
	}
	return r.Rows[i], true
}

// Best combines two measurements of the same rules and requests: it keeps the better value of each figure. What slows a
// machine down for a moment rarely does so twice in a row; a slow rule always does.
func Best(a, b Report) Report {
	best := a
	best.Rows = nil
	for _, row := range a.Rows {
		if again, ok := b.row(row.Rule); ok {
			row.Typical, row.P50 = min(row.Typical, again.Typical), min(row.P50, again.P50)
			row.P95 = min(row.P95, again.P95)
			row.P99, row.Max = min(row.P99, again.P99), min(row.Max, again.Max)
			row.Allocs, row.Bytes = min(row.Allocs, again.Allocs), min(row.Bytes, again.Bytes)
			row.PerSecond = max(row.PerSecond, again.PerSecond)
			row.Decisions += again.Decisions
		}
		best.Rows = append(best.Rows, row)
	}
	return best
}
