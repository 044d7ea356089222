package telemetry

import (
	"cmp"
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// Rules is the state of one source of rules.
type Rules struct {
	// Source names it, such as current, shadow or canary.
	Source string
	// Revision is the bundle's own name for its content, empty if it has none; Digest is over all files.
	Revision, Digest string
	// Refreshed is when the source last confirmed or replaced the rules; zero if it never did. Age is the time since.
	Refreshed time.Time
	Age       time.Duration
	// Stale is set when Age is more than allowed.
	Stale bool
	// Counts since the start: of rules that were offered and refused, and of attempts to read the source that failed.
	Refusals, Failures uint64
}

// Records is the state of one sink of decision records. Counts are since the start.
type Records struct {
	Sink                                  string
	Written, Delivered, Dropped, Failures uint64
	// Spooled is how many records wait on disk, and Oldest the age of the first.
	Spooled uint64
	Oldest  time.Duration
}

// Comparisons counts how decisions of shadow or canary rules compare with those of the rules in use, for one enrollment
// since the start.
type Comparisons struct {
	Kind       dps.EnrollmentKind
	Enrollment string
	// Comparison is agreed, or what differs, such as hub.
	Comparison string
	Count      uint64
}

// Lookup is the state of the source of a look-up.
type Lookup struct {
	Name string
	// Polled is set for a source that is read from time to time; Age is that of what it knows.
	Polled bool
	Age    time.Duration
	// Failing is set if the source failed the last time.
	Failing bool
}

// Hub is the state of a hub, as rules look it up.
type Hub struct {
	Name    string
	Devices int64
	Full    bool
}

// Evaluations count what evaluated rules since the start, and on how many evaluations a plan and topdown disagreed.
type Evaluations struct{ ByPlan, ByTopdown, Different int64 }

// Watched returns the state of other parts whenever metrics are collected. Each function may be nil. They must be quick
// and safe for concurrent use.
type Watched struct {
	Rules       func() []Rules
	Records     func() []Records
	Comparisons func() []Comparisons
	Lookups     func() []Lookup
	Hubs        func() []Hub
	Evaluations func() Evaluations
}

// Bounds of what metrics distinguish. A series costs memory here and money in the backend, and the names come from
// callers.
const (
	// MaxEnrollments, MaxHubs and MaxServices are how many names a process counts separately; later ones are counted as
	// [Other].
	MaxEnrollments = 200
	MaxHubs        = 100
	MaxServices    = 20
	// Other stands for all names beyond the bound.
	Other = "other"
	// Individual stands for all individual enrollments: their names are those of devices.
	Individual = "individual"
)

type instruments struct {
	meter       metric.Meter
	allocations metric.Int64Counter
	duration    metric.Float64Histogram
	overrides   metric.Int64Counter
	lookups     metric.Int64Counter
	lookupTimes metric.Float64Histogram
	enrollments names
	hubs        names
	services    names

	// Attribute sets are made once: making one costs more than counting.
	mu        sync.Mutex
	counted   map[series][]metric.AddOption
	durations map[duration][]metric.RecordOption
	lookedUp  map[[2]string]lookedUp // by name of the look-up and outcome
}

// lookedUp are the attributes of a look-up.
type lookedUp struct {
	counted []metric.AddOption
	took    []metric.RecordOption
}

type series struct {
	kind                    dps.EnrollmentKind
	enrollment, hub, result string
	service                 string
	source                  answer.Source
}

// duration is what durations are distinguished by.
type duration struct {
	result string
	source answer.Source
}

func newInstruments(meter metric.Meter) (*instruments, error) {
	i := &instruments{
		meter:       meter,
		enrollments: names{limit: MaxEnrollments, seen: map[string]bool{}},
		hubs:        names{limit: MaxHubs, seen: map[string]bool{}},
		services:    names{limit: MaxServices, seen: map[string]bool{}},
		counted:     map[series][]metric.AddOption{},
		durations:   map[duration][]metric.RecordOption{},
		lookedUp:    map[[2]string]lookedUp{},
	}
	var err error
	for _, m := range Metrics() {
		unit, what := metric.WithUnit(m.Unit), metric.WithDescription(m.What)
		switch m.Name {
		case metricAllocations:
			i.allocations, err = meter.Int64Counter(m.Name, unit, what)
		case metricOverrides:
			i.overrides, err = meter.Int64Counter(m.Name, unit, what)
		case metricDuration:
			i.duration, err = meter.Float64Histogram(m.Name, unit, what, metric.WithExplicitBucketBoundaries(DurationBuckets()...))
		case metricLookups:
			i.lookups, err = meter.Int64Counter(m.Name, unit, what)
		case metricLookupDuration:
			i.lookupTimes, err = meter.Float64Histogram(m.Name, unit, what, metric.WithExplicitBucketBoundaries(DurationBuckets()...))
		}
		if err != nil {
			return nil, err
		}
	}
	return i, nil
}

// names keeps the first names that it sees, and replaces others by Other.
type names struct {
	limit int
	seen  map[string]bool
}

func (n *names) bounded(name string) string {
	switch {
	case n.seen[name]:
		return name
	case len(n.seen) >= n.limit:
		return Other
	}
	n.seen[name] = true
	return name
}

// count adds a call.
func (i *instruments) count(ctx context.Context, call *answer.Call) {
	a := &call.Answer
	key := series{result: string(a.Result), hub: a.Response.IotHubHostName, service: call.Service, source: cmp.Or(a.Source, answer.SourceCurrent)}
	if call.Request != nil && a.Result != answer.InvalidRequest { // else the names were not validated
		key.kind, key.enrollment = call.Request.Enrollment.Kind, call.Request.Enrollment.ID
	}
	counted, duration := i.options(key)
	i.allocations.Add(ctx, 1, counted...)
	i.duration.Record(ctx, call.Duration.Seconds(), duration...)
	for _, override := range a.Overrides {
		i.overrides.Add(ctx, 1, metric.WithAttributes(attribute.String(attributeOverride, string(override)), attribute.String(attributeSource, string(key.source))))
	}
}

// LookedUp counts a look-up: outcome is hit, row, absent, stale or fault. Unless the answer was at hand (hit), took is how
// long the source took. It needs no bound, because names of look-ups come from the rules.
func (t *Telemetry) LookedUp(name, outcome string, took time.Duration) {
	i := t.instruments
	if i == nil {
		return
	}
	i.mu.Lock()
	options, ok := i.lookedUp[[2]string{name, outcome}]
	if !ok {
		lookup := attribute.String(attributeLookup, name)
		options = lookedUp{
			[]metric.AddOption{metric.WithAttributeSet(attribute.NewSet(lookup, attribute.String(attributeLookupOutcome, outcome)))},
			[]metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(lookup))},
		}
		i.lookedUp[[2]string{name, outcome}] = options
	}
	i.mu.Unlock()
	i.lookups.Add(context.Background(), 1, options.counted...)
	if outcome != "hit" {
		i.lookupTimes.Record(context.Background(), took.Seconds(), options.took...)
	}
}

func (i *instruments) options(key series) ([]metric.AddOption, []metric.RecordOption) {
	i.mu.Lock()
	defer i.mu.Unlock()
	key.enrollment = i.enrollment(key.kind, key.enrollment)
	if key.hub != "" {
		key.hub = i.hubs.bounded(key.hub)
	}
	if key.service != "" {
		key.service = i.services.bounded(key.service)
	}
	counted, ok := i.counted[key]
	if !ok {
		attributes := enrollmentAttributes(key.kind, key.enrollment)
		if key.hub != "" {
			attributes = append(attributes, attribute.String(AttributeHub, key.hub))
		}
		if key.service != "" {
			attributes = append(attributes, attribute.String(AttributeService, key.service))
		}
		attributes = append(attributes, attribute.String(AttributeResult, key.result), attribute.String(attributeSource, string(key.source)))
		counted = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
		i.counted[key] = counted
	}
	took, ok := i.durations[duration{key.result, key.source}]
	if !ok {
		took = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(
			attribute.String(AttributeResult, key.result), attribute.String(attributeSource, string(key.source))))}
		i.durations[duration{key.result, key.source}] = took
	}
	return counted, took
}

// enrollment is the name that metrics give an enrollment. The caller holds the lock.
func (i *instruments) enrollment(kind dps.EnrollmentKind, id string) string {
	switch kind {
	case dps.IndividualEnrollment:
		return Individual
	case dps.EnrollmentGroup:
		return i.enrollments.bounded(id)
	default:
		return ""
	}
}

func enrollmentAttributes(kind dps.EnrollmentKind, name string) []attribute.KeyValue {
	if kind == "" {
		return nil
	}
	return []attribute.KeyValue{attribute.String(AttributeEnrollmentKind, string(kind)), attribute.String(AttributeEnrollment, name)}
}
