package telemetry

// Metric describes one of Usher's metrics. Tests compare dashboards, alert rules and documents with [Metrics].
type Metric struct {
	// Name is the name in OpenTelemetry. In Prometheus it has underscores, and unit and kind at its end.
	Name string
	Kind Kind
	// Unit is a UCUM code; empty for a value that is 0 or 1.
	Unit string
	What string
	// Attributes are those that the metric can have.
	Attributes []string
}

// watched reports whether the metric shows the state of another part.
func (m Metric) watched() bool {
	switch m.Name {
	case metricAllocations, metricDuration, metricOverrides, metricLookups, metricLookupDuration:
		return false
	}
	return true
}

// Kind is the kind of a metric.
type Kind string

// The kinds of metric.
const (
	Counter   Kind = "counter"   // only rises, from 0 at the start of the process
	Gauge     Kind = "gauge"     // the current value
	Histogram Kind = "histogram" // the distribution of values
)

// Names of the metrics.
const (
	metricAllocations       = "usher.allocations"
	metricDuration          = "usher.allocation.duration"
	metricOverrides         = "usher.overrides"
	metricRulesAge          = "usher.rules.age"
	metricRulesStale        = "usher.rules.stale"
	metricRulesInfo         = "usher.rules.info"
	metricRulesRefreshed    = "usher.rules.last_refresh"
	metricRulesRefusals     = "usher.rules.refusals"
	metricRulesFailures     = "usher.rules.failures"
	metricRecordsWritten    = "usher.records.written"
	metricRecordsSpooled    = "usher.records.spooled"
	metricRecordsDelivered  = "usher.records.delivered"
	metricRecordsDropped    = "usher.records.dropped"
	metricRecordsFailures   = "usher.records.failures"
	metricRecordsOldest     = "usher.records.oldest"
	metricShadowComparisons = "usher.shadow.comparisons"
	metricLookups           = "usher.lookups"
	metricLookupDuration    = "usher.lookup.duration"
	metricLookupAge         = "usher.lookup.age"
	metricLookupFailing     = "usher.lookup.failing"
	metricHubDevices        = "usher.hub.devices"
	metricHubFull           = "usher.hub.full"
	metricEvaluations       = "usher.evaluations"
	metricDifferent         = "usher.evaluations.different"
)

// Attributes of metrics and spans. Those about DPS begin with dps, those about the program with usher.
const (
	AttributeDecision       = "dps.decision_id"
	AttributeResult         = "dps.result"
	AttributeService        = "dps.service"
	AttributeEnrollmentKind = "dps.enrollment.kind"
	AttributeEnrollment     = "dps.enrollment"
	AttributeRegistration   = "dps.registration_id"
	AttributeHub            = "dps.hub"
	AttributeCurrentHub     = "dps.current_hub"
	AttributeInitialTwin    = "dps.initial_twin"
	AttributeOverrides      = "dps.overrides"
	AttributeRules          = "dps.rules"
	AttributeRule           = "dps.rule"
	attributeOverride       = "dps.override"
	attributeSource         = "usher.rules.source"
	attributeRevision       = "usher.rules.revision"
	attributeDigest         = "usher.rules.digest"
	attributeSink           = "usher.record.sink"
	attributeComparison     = "usher.shadow.comparison"
	attributeLookup         = "usher.lookup"
	attributeLookupOutcome  = "usher.lookup.outcome"
	attributeHub            = "usher.hub"
	attributeEvaluator      = "usher.evaluator"
)

// Metrics lists all of Usher's own metrics, in the order of the documents.
func Metrics() []Metric {
	source := []string{attributeSource}
	sink := []string{attributeSink}
	lookup := []string{attributeLookup}
	hub := []string{attributeHub}
	return []Metric{
		{metricAllocations, Counter, "{allocation}", "calls of the webhook that were answered",
			[]string{AttributeService, AttributeEnrollmentKind, AttributeEnrollment, AttributeHub, AttributeResult, attributeSource}},
		{metricDuration, Histogram, "s", "time from the call to the decision", []string{AttributeResult, attributeSource}},
		{metricOverrides, Counter, "{allocation}", "decisions in which a constraint prevailed over the rule", []string{attributeOverride, attributeSource}},
		{metricRulesAge, Gauge, "s", "time since the source last confirmed or replaced the rules", source},
		{metricRulesStale, Gauge, "", "1 when the rules are older than allowed, else 0", source},
		{metricRulesInfo, Gauge, "", "always 1; its attributes identify the rules in use", []string{attributeSource, attributeRevision, attributeDigest}},
		{metricRulesRefreshed, Gauge, "s", "when the source last confirmed or replaced the rules, in seconds since 1970", source},
		{metricRulesRefusals, Counter, "{ruleset}", "rules that were offered and refused", source},
		{metricRulesFailures, Counter, "{failure}", "attempts to read the source that failed", source},
		{metricRecordsWritten, Counter, "{record}", "records that a sink took", sink},
		{metricRecordsSpooled, Gauge, "{record}", "records that wait on disk for a remote sink", sink},
		{metricRecordsDelivered, Counter, "{record}", "records that a remote sink acknowledged", sink},
		{metricRecordsDropped, Counter, "{record}", "records that are lost", sink},
		{metricRecordsFailures, Counter, "{failure}", "attempts to write or deliver records that failed", sink},
		{metricRecordsOldest, Gauge, "s", "age of the oldest record that waits on disk", sink},
		{metricShadowComparisons, Counter, "{comparison}", "decisions of shadow or canary rules, by how they compare with those of the rules in use",
			[]string{AttributeEnrollmentKind, AttributeEnrollment, attributeComparison}},
		{metricLookups, Counter, "{lookup}", "look-ups by what came of them: hit, row, absent, stale or fault", []string{attributeLookup, attributeLookupOutcome}},
		{metricLookupDuration, Histogram, "s", "time that the source of a look-up took", lookup},
		{metricLookupAge, Gauge, "s", "age of what a source that is polled knows: a snapshot, or the state of hubs", lookup},
		{metricLookupFailing, Gauge, "", "1 while the source of a look-up fails, else 0", lookup},
		{metricHubDevices, Gauge, "{device}", "devices of a hub, as last counted", hub},
		{metricHubFull, Gauge, "", "1 while a hub counts as full, else 0", hub},
		{metricEvaluations, Counter, "{evaluation}", "evaluations of rules, by what evaluated them: plan or topdown", []string{attributeEvaluator}},
		{metricDifferent, Counter, "{evaluation}", "evaluations on which a plan and topdown disagreed, while both evaluate", []string{attributeEvaluator}},
	}
}

// DurationBuckets are the upper bounds of the buckets of usher.allocation.duration, in seconds. A decision takes about
// a tenth of a millisecond; an answer to DPS should take no more than 4 s.
func DurationBuckets() []float64 {
	return []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4}
}
