package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/usher-dps/usher/dps"
)

// Watch makes the metrics show the state of other parts. It is called once, when those parts exist.
func (t *Telemetry) Watch(watched Watched) error {
	if t.instruments == nil {
		return nil
	}
	return t.instruments.watch(watched)
}

func (i *instruments) watch(watched Watched) error {
	observed := map[string]metric.Float64Observable{}
	var all []metric.Observable
	for _, m := range Metrics() {
		if !m.watched() {
			continue
		}
		unit, what := metric.WithUnit(m.Unit), metric.WithDescription(m.What)
		var instrument metric.Float64Observable
		var err error
		if m.Kind == Counter {
			instrument, err = i.meter.Float64ObservableCounter(m.Name, unit, what)
		} else {
			instrument, err = i.meter.Float64ObservableGauge(m.Name, unit, what)
		}
		if err != nil {
			return err
		}
		observed[m.Name] = instrument
		all = append(all, instrument)
	}
	_, err := i.meter.RegisterCallback(func(_ context.Context, observer metric.Observer) error {
		observe := func(name string, value float64, attributes ...attribute.KeyValue) {
			observer.ObserveFloat64(observed[name], value, metric.WithAttributes(attributes...))
		}
		if watched.Rules != nil {
			observeRules(watched.Rules(), observe)
		}
		if watched.Records != nil {
			observeRecords(watched.Records(), observe)
		}
		if watched.Comparisons != nil {
			i.observeComparisons(watched.Comparisons(), observe)
		}
		if watched.Lookups != nil {
			observeLookups(watched.Lookups(), observe)
		}
		if watched.Hubs != nil {
			observeHubs(watched.Hubs(), observe)
		}
		if watched.Evaluations != nil {
			counted := watched.Evaluations()
			observe(metricEvaluations, float64(counted.ByPlan), attribute.String(attributeEvaluator, "plan"))
			observe(metricEvaluations, float64(counted.ByTopdown), attribute.String(attributeEvaluator, "topdown"))
			observe(metricDifferent, float64(counted.Different), attribute.String(attributeEvaluator, "plan"))
		}
		return nil
	}, all...)
	return err
}

type observe func(name string, value float64, attributes ...attribute.KeyValue)

func observeRules(states []Rules, observe observe) {
	for _, state := range states {
		source := attribute.String(attributeSource, state.Source)
		observe(metricRulesAge, state.Age.Seconds(), source)
		observe(metricRulesStale, number(state.Stale), source)
		if !state.Refreshed.IsZero() {
			observe(metricRulesRefreshed, float64(state.Refreshed.UnixNano())/float64(time.Second), source)
		}
		observe(metricRulesRefusals, float64(state.Refusals), source)
		observe(metricRulesFailures, float64(state.Failures), source)
		if state.Digest != "" {
			observe(metricRulesInfo, 1, source, attribute.String(attributeRevision, state.Revision), attribute.String(attributeDigest, state.Digest))
		}
	}
}

func observeRecords(states []Records, observe observe) {
	for _, state := range states {
		sink := attribute.String(attributeSink, state.Sink)
		observe(metricRecordsWritten, float64(state.Written), sink)
		observe(metricRecordsSpooled, float64(state.Spooled), sink)
		observe(metricRecordsDelivered, float64(state.Delivered), sink)
		observe(metricRecordsDropped, float64(state.Dropped), sink)
		observe(metricRecordsFailures, float64(state.Failures), sink)
		observe(metricRecordsOldest, state.Oldest.Seconds(), sink)
	}
}

func observeLookups(states []Lookup, observe observe) {
	for _, state := range states {
		lookup := attribute.String(attributeLookup, state.Name)
		if state.Polled {
			observe(metricLookupAge, state.Age.Seconds(), lookup)
		}
		observe(metricLookupFailing, number(state.Failing), lookup)
	}
}

func observeHubs(states []Hub, observe observe) {
	for _, state := range states {
		hub := attribute.String(attributeHub, state.Name)
		observe(metricHubDevices, float64(state.Devices), hub)
		observe(metricHubFull, number(state.Full), hub)
	}
}

// number is the value of a metric that says whether something is so.
func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// observeComparisons adds up what has the same name: a callback may observe one value of a series.
func (i *instruments) observeComparisons(comparisons []Comparisons, observe observe) {
	type series struct {
		kind                   dps.EnrollmentKind
		enrollment, comparison string
	}
	counts := map[series]uint64{}
	i.mu.Lock()
	for _, c := range comparisons {
		counts[series{c.Kind, i.enrollment(c.Kind, c.Enrollment), c.Comparison}] += c.Count
	}
	i.mu.Unlock()
	for s, count := range counts {
		observe(metricShadowComparisons, float64(count), append(enrollmentAttributes(s.kind, s.enrollment), attribute.String(attributeComparison, s.comparison))...)
	}
}
