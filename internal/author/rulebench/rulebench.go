// Package rulebench measures how long rules take for given requests, and compares measurements.
//
// A decider.Decider makes one decision after the other, from the bytes of a request to the bytes of the response: what
// the webhook does without HTTP. The package does not measure throughput on several cores.
package rulebench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// Request is a body as DPS posts it, and the name of the place it comes from.
type Request struct {
	Name string
	Body []byte
}

// Options configure a measurement.
type Options struct {
	// Warmup is how long decisions are made before any is measured.
	Warmup time.Duration
	// Duration is how long decisions are measured.
	Duration time.Duration
	// Progress, if set, receives how many decisions were measured and which share of the duration is over.
	Progress func(decisions int, share float64)
}

// All is the name of the row that sums up all others.
const All = "all"

// Report is a measurement. It is also what a file of one holds, as JSON.
type Report struct {
	// Go and Platform name what it was measured on.
	Go       string `json:"go"`
	Platform string `json:"platform"`
	CPUs     int    `json:"cpus"`
	// Rules is the digest of the rules, Requests one of the requests.
	Rules    string `json:"rules"`
	Requests string `json:"requests"`
	// Rows has one row for all rules, and then one for each rule.
	Rows []Row `json:"rows"`
	// Faults are the requests that ended in one.
	Faults []Fault `json:"faults,omitempty"`
}

// Row is the figures of one rule.
type Row struct {
	// Rule is its package; "fault KIND" for requests that no rule decides; or [All].
	Rule string `json:"rule"`
	// Requests is the number of requests, Decisions how often they were decided.
	Requests  int `json:"requests"`
	Decisions int `json:"decisions"`
	// Typical is the mean of the medians of the requests. If there are fast and slow requests, it is stable where the
	// median of all decisions jumps from one kind to the other.
	Typical time.Duration `json:"typicalNs"`
	// P50 to Max are percentiles of the time of a decision.
	P50 time.Duration `json:"p50Ns"`
	P95 time.Duration `json:"p95Ns"`
	P99 time.Duration `json:"p99Ns"`
	Max time.Duration `json:"maxNs"`
	// PerSecond is how many decisions one core makes in a second.
	PerSecond float64 `json:"perSecond"`
	// Allocs and Bytes are what one decision allocates on the heap.
	Allocs float64 `json:"allocs"`
	Bytes  float64 `json:"bytes"`
}

// Fault is a request for which no decision was reached.
type Fault struct {
	Request string        `json:"request"`
	Kind    answer.Result `json:"kind"`
	Detail  string        `json:"detail"`
}

// group holds the requests of one rule.
type group struct {
	rule     string
	requests []Request
	times    [][]time.Duration // for each request
}

// Measure decides the requests repeatedly, all of them in turn. When ctx ends it returns what was measured until then,
// and the error of ctx.
func Measure(ctx context.Context, allocator *decider.Decider, requests []Request, options Options) (Report, error) {
	report := Report{
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(),
		Rules: allocator.Rules().Digest(), Requests: digest(requests),
	}
	if len(requests) == 0 {
		return report, errors.New("there is no request to measure with")
	}
	groups, faults, err := groupByRule(ctx, allocator, requests)
	report.Faults = faults
	if err != nil {
		return report, err
	}
	var response []byte
	decide := func(body []byte) {
		if _, a := allocator.AllocateJSON(ctx, body); a.Result == answer.Assigned {
			response = a.Response.AppendJSON(response[:0])
		}
	}
	// In turn, as the requests of many devices arrive: the rule that ran last has its code in the caches.
	for start := time.Now(); time.Since(start) < options.Warmup && ctx.Err() == nil; {
		for _, g := range groups {
			for _, request := range g.requests {
				decide(request.Body)
			}
		}
	}
	start, decisions := time.Now(), 0
	for time.Since(start) < options.Duration && ctx.Err() == nil {
		for _, g := range groups {
			for i, request := range g.requests {
				before := time.Now()
				decide(request.Body)
				took := time.Since(before)
				if ctx.Err() != nil {
					break
				}
				g.times[i] = append(g.times[i], took)
				decisions++
			}
		}
		if options.Progress != nil {
			options.Progress(decisions, float64(time.Since(start))/float64(options.Duration))
		}
	}
	all := &group{rule: All}
	var rows []Row
	for _, g := range groups {
		row := g.row()
		if ctx.Err() == nil {
			row.Allocs, row.Bytes = allocations(g.requests, decide)
		}
		rows = append(rows, row)
		all.times = append(all.times, g.times...)
		all.requests = append(all.requests, g.requests...)
	}
	sum := all.row()
	for _, row := range rows {
		share := float64(row.Requests) / float64(sum.Requests)
		sum.Allocs += share * row.Allocs
		sum.Bytes += share * row.Bytes
	}
	report.Rows = append([]Row{sum}, rows...)
	return report, ctx.Err()
}

// groupByRule decides each request once.
func groupByRule(ctx context.Context, allocator *decider.Decider, requests []Request) ([]*group, []Fault, error) {
	groups := map[string]*group{}
	var faults []Fault
	for _, request := range requests {
		_, a := allocator.AllocateJSON(ctx, request.Body)
		if ctx.Err() != nil {
			return nil, faults, ctx.Err()
		}
		name := a.PackageName()
		if a.Detail != "" {
			faults = append(faults, Fault{Request: request.Name, Kind: a.Result, Detail: a.Detail})
			name = "fault " + string(a.Result)
		}
		if groups[name] == nil {
			groups[name] = &group{rule: name}
		}
		groups[name].requests = append(groups[name].requests, request)
		groups[name].times = append(groups[name].times, nil)
	}
	var sorted []*group
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		sorted = append(sorted, groups[name])
	}
	return sorted, faults, nil
}

func (g *group) row() Row {
	row := Row{Rule: g.rule, Requests: len(g.requests)}
	var all []time.Duration
	var total, medians time.Duration
	measured := 0
	for _, times := range g.times {
		if len(times) == 0 {
			continue // the measurement was interrupted
		}
		slices.Sort(times)
		medians += percentile(times, .50)
		measured++
		all = append(all, times...)
	}
	if measured == 0 {
		return row
	}
	for _, took := range all {
		total += took
	}
	slices.Sort(all)
	row.Decisions = len(all)
	row.Typical = medians / time.Duration(measured)
	row.P50, row.P95, row.P99, row.Max = percentile(all, .50), percentile(all, .95), percentile(all, .99), percentile(all, 1)
	row.PerSecond = float64(len(all)) / max(total, 1).Seconds()
	return row
}

func percentile(sorted []time.Duration, share float64) time.Duration {
	return sorted[int(share*float64(len(sorted)-1))]
}

// allocations decides requests and counts what that allocates. Nothing else in the process may allocate meanwhile.
func allocations(requests []Request, decide func([]byte)) (allocs, bytes float64) {
	const rounds = 20
	var before, after runtime.MemStats
	runtime.GC() // a collection during the rounds would be counted
	runtime.ReadMemStats(&before)
	for range rounds {
		for _, request := range requests {
			decide(request.Body)
		}
	}
	runtime.ReadMemStats(&after)
	n := float64(rounds * len(requests))
	return float64(after.Mallocs-before.Mallocs) / n, float64(after.TotalAlloc-before.TotalAlloc) / n
}

func digest(requests []Request) string {
	hash := sha256.New()
	for _, request := range requests {
		fmt.Fprintf(hash, "%d\n", len(request.Body))
		hash.Write(request.Body)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}
