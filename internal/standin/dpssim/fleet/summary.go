package fleet

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Summary is the outcome of a round of registrations.
type Summary struct {
	Devices  int `json:"devices"`
	Assigned int `json:"assigned"`
	Waiting  int `json:"-"` // devices that began to register and are not done
	// Failed registrations and refused calls, by the code of DPS.
	Failed   map[string]int `json:"failed"`
	Refused  map[string]int `json:"refused"`
	Disabled int            `json:"disabled"`
	Lost     int            `json:"lost"` // connections and answers that could not be used
	// Throttled counts answers of 429 or above, not devices; the device retried after each.
	Throttled int            `json:"throttled"`
	Hubs      map[string]int `json:"hubs"`  // devices assigned in this round, by hub
	Moved     int            `json:"moved"` // of those, devices that an earlier round assigned to another hub
	// Examples has the first message of each code, and of losses under "lost".
	Examples   map[string]string `json:"examples"`
	DurationMS int64             `json:"durationMs"`
	// LatencyMS is the time from when a device was due to register until it was done.
	LatencyMS *Latency `json:"latencyMs,omitempty"`
}

// Latency has percentiles, in milliseconds.
type Latency struct {
	P50 int64 `json:"p50"`
	P95 int64 `json:"p95"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

// Done is the number of devices that are done.
func (s Summary) Done() int {
	n := s.Assigned + s.Disabled + s.Lost
	for _, count := range s.Failed {
		n += count
	}
	for _, count := range s.Refused {
		n += count
	}
	return n
}

// round counts while it runs.
type round struct {
	mu        sync.Mutex
	start     time.Time
	summary   Summary
	latencies []time.Duration
}

func newRound(devices int) *round {
	return &round{start: time.Now(), latencies: make([]time.Duration, 0, devices), summary: Summary{
		Devices: devices, Failed: map[string]int{}, Refused: map[string]int{}, Hubs: map[string]int{}, Examples: map[string]string{},
	}}
}

func (t *round) began() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.summary.Waiting++
}

func (t *round) throttled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.summary.Throttled++
}

// count adds the result of a device. hub is its hub before and after, "" for none.
func (t *round) count(r result, hub *string, latency time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latencies = append(t.latencies, latency)
	t.summary.Waiting--
	example := strconv.Itoa(r.code)
	switch r.kind {
	case assigned:
		t.summary.Assigned++
		t.summary.Hubs[r.hub]++
		if *hub != "" && *hub != r.hub {
			t.summary.Moved++
		}
		*hub = r.hub
		return
	case disabled:
		t.summary.Disabled++
		return
	case failed:
		t.summary.Failed[example]++
	case refused:
		t.summary.Refused[example]++
	default:
		t.summary.Lost++
		example = "lost"
	}
	if _, known := t.summary.Examples[example]; !known {
		t.summary.Examples[example] = r.message
	}
}

// snapshot is the round's progress; at its end, with latencies.
func (t *round) snapshot(ended bool) Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.summary
	s.Failed, s.Refused = maps.Clone(s.Failed), maps.Clone(s.Refused)
	s.Hubs, s.Examples = maps.Clone(s.Hubs), maps.Clone(s.Examples)
	s.DurationMS = time.Since(t.start).Milliseconds()
	if n := len(t.latencies); ended && n > 0 {
		slices.Sort(t.latencies)
		at := func(percent int) int64 { return t.latencies[(n-1)*percent/100].Milliseconds() }
		s.LatencyMS = &Latency{at(50), at(95), at(99), at(100)}
	}
	return s
}
