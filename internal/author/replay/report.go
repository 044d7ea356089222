package replay

import (
	"maps"
	"slices"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// RegistrationsPerMinute is how many devices a DPS service registers, whatever
// their number. Source: https://learn.microsoft.com/azure/iot-dps/iot-dps-limits.
const RegistrationsPerMinute = 1000

// Report is what a replay found. Hubs, enrollment groups and states are in lower
// case, as DPS compares them.
type Report struct {
	// Rules is the digest of the new rules, Baseline that of the old ones; empty
	// where the log itself is the baseline.
	Rules    string `json:"rules"`
	Baseline string `json:"baseline,omitempty"`
	// Interrupted is set where the replay was stopped before the end of the logs.
	Interrupted bool         `json:"interrupted"`
	Logs        []LogSummary `json:"logs"`
	// Unread are logs that could not be read to their end, and where that was.
	Unread []Problem `json:"unread"`
	// Malformed counts the lines that hold no request, MalformedFirst names some.
	Malformed      int64     `json:"malformed"`
	MalformedFirst []Problem `json:"malformedFirst"`
	// Lacking counts the decision records that cannot be decided anew, because the
	// rules look at what is masked in them; LackingFirst names some.
	Lacking      int64     `json:"lacking"`
	LackingFirst []Problem `json:"lackingFirst"`
	// PassedOver counts the records of shadow rules and of probes.
	PassedOver int64 `json:"passedOver"`
	// Registrations is the number of requests. Counted is how many of them the
	// numbers below are of: as many, or one for each device if ByDevice.
	Registrations int64 `json:"registrations"`
	ByDevice      bool  `json:"byDevice"`
	Counted       int64 `json:"counted"`
	// Counts has every kind.
	Counts map[Kind]int64 `json:"counts"`
	// Flows tell from where to where, the most frequent first.
	Flows []Flow `json:"flows"`
	// Hubs are in the order of their names.
	Hubs  []Hub       `json:"hubs"`
	Twins []TwinCount `json:"twins"`
	// Faults are by kind of fault.
	Faults []FaultCount `json:"faults"`
	// ByRule and ByEnrollment have those with the most changes first.
	ByRule       []Breakdown `json:"byRule"`
	ByEnrollment []Breakdown `json:"byEnrollment"`
	Reprovision  Reprovision `json:"reprovision"`
	// Examples are the first devices of each kind but stayed, each once for a kind.
	Examples []Change `json:"examples"`
}

// LogSummary tells of one log.
type LogSummary struct {
	Name string `json:"name"`
	// Lines counts those that are not blank.
	Lines int64 `json:"lines"`
}

// Flow counts what had one state before and has one after. Of devices that are
// diverted, After is what a new device with the same request gets.
type Flow struct {
	Kind   Kind  `json:"kind"`
	Before State `json:"before"`
	After  State `json:"after"`
	Count  int64 `json:"count"`
}

// Hub is how full a hub is, as far as the log tells.
type Hub struct {
	Name string `json:"name"`
	// Before + Arrive - Leave = After.
	Before int64 `json:"before"`
	Arrive int64 `json:"arrive"`
	Leave  int64 `json:"leave"`
	After  int64 `json:"after"`
	// Unassigned counts those of After whom the new rules assign to no hub any
	// more. A failed registration is not known to take a device off its hub.
	Unassigned int64 `json:"unassigned"`
}

// TwinCount is what becomes of twins under one reprovision policy.
type TwinCount struct {
	Reprovision dps.ReprovisionPolicy `json:"reprovision"`
	Twin        Twin                  `json:"twin"`
	Count       int64                 `json:"count"`
	// RuleTwinApplied and RuleTwinIgnored count those for whom the rule gives an
	// initial twin. Where a twin is made and the rule gives none, DPS takes the
	// enrollment's.
	RuleTwinApplied int64 `json:"ruleTwinApplied"`
	RuleTwinIgnored int64 `json:"ruleTwinIgnored"`
}

// FaultCount counts a kind of fault under the new rules.
type FaultCount struct {
	Fault answer.Result `json:"fault"`
	Newly int64         `json:"newly"`
	Still int64         `json:"still"`
	First int64         `json:"first"`
}

// Breakdown is a part of Counts.
type Breakdown struct {
	// EnrollmentKind is empty in a breakdown by rule. All individual enrollments
	// count together, without a name.
	EnrollmentKind dps.EnrollmentKind `json:"enrollmentKind,omitempty"`
	// Name is empty also for requests that no rule serves.
	Name    string         `json:"name"`
	Total   int64          `json:"total"`
	Changed int64          `json:"changed"`
	Counts  map[Kind]int64 `json:"counts"` // without zeros
}

// Reprovision is what it takes to bring the change about: each device that moves
// or is newly accepted has to register once.
type Reprovision struct {
	Registrations int64 `json:"registrations"`
	PerMinute     int64 `json:"perMinute"`
	// Seconds is the least time for that, if no other device registers meanwhile.
	Seconds int64 `json:"seconds"`
	// AllSeconds is the same if all that were counted register.
	AllSeconds int64 `json:"allSeconds"`
}

func leastSeconds(registrations int64) int64 {
	return (registrations*60 + RegistrationsPerMinute - 1) / RegistrationsPerMinute
}

// Changed counts all that differ from before.
func (r *Report) Changed() int64 {
	changed := int64(0)
	for kind, n := range r.Counts {
		if kind.Change() {
			changed += n
		}
	}
	return changed
}

func (m *merger) report(interrupted bool) *Report {
	r := &Report{
		Rules: m.Rules.Rules().Digest(), Interrupted: interrupted, Logs: m.logs,
		Unread: orNone(m.unread), Malformed: m.malformed, MalformedFirst: orNone(m.problems),
		Lacking: m.lacking, LackingFirst: orNone(m.lackingFirst), PassedOver: m.passedOver,
		Registrations: m.count, ByDevice: m.ByDevice, Counts: map[Kind]int64{}, Examples: []Change{},
	}
	if m.Baseline != nil && m.Baseline.Rules() != nil {
		r.Baseline = m.Baseline.Rules().Digest()
	}
	for _, kind := range Kinds() {
		r.Counts[kind] = 0
	}
	parts := newParts()
	for i, c := range m.total.cells {
		if n := m.total.counts[i]; n > 0 {
			r.Counts[c.kind] += n
			r.Counted += n
			parts.add(c, n)
		}
	}
	parts.fill(r)
	for _, examples := range m.examples {
		r.Examples = append(r.Examples, examples...)
	}
	registrations := r.Counts[Moved] + r.Counts[NewlyAccepted]
	r.Reprovision = Reprovision{
		Registrations: registrations, PerMinute: RegistrationsPerMinute,
		Seconds: leastSeconds(registrations), AllSeconds: leastSeconds(r.Counted),
	}
	return r
}

// orNone makes an empty list of none, for readers of the JSON.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// parts are the sections of a report while they are summed up.
type parts struct {
	flows              map[Flow]int64 // by a Flow without Count
	hubs               map[string]*Hub
	twins              map[TwinCount]*TwinCount // by one without counts
	faults             map[answer.Result]*FaultCount
	rules, enrollments map[breakdownKey]*Breakdown
}

type breakdownKey struct {
	kind dps.EnrollmentKind
	name string
}

func newParts() *parts {
	return &parts{
		flows: map[Flow]int64{}, hubs: map[string]*Hub{}, twins: map[TwinCount]*TwinCount{},
		faults: map[answer.Result]*FaultCount{},
		rules:  map[breakdownKey]*Breakdown{}, enrollments: map[breakdownKey]*Breakdown{},
	}
}

func (p *parts) add(c cell, n int64) {
	p.flows[Flow{Kind: c.kind, Before: c.before, After: c.after}] += n
	p.addHubs(c, n)
	twin := at(p.twins, TwinCount{Reprovision: c.reprovision, Twin: c.twin})
	twin.Reprovision, twin.Twin = c.reprovision, c.twin
	twin.Count += n
	switch c.use {
	case dps.InitialTwinApplied:
		twin.RuleTwinApplied += n
	case dps.InitialTwinIgnoredSameHub, dps.InitialTwinIgnoredMigrated:
		twin.RuleTwinIgnored += n
	}
	switch c.kind {
	case NewlyFaulted:
		p.fault(c).Newly += n
	case StillFaulted:
		p.fault(c).Still += n
	case FirstFaulted:
		p.fault(c).First += n
	}
	breakDown(p.rules, breakdownKey{name: c.rule}, c.kind, n)
	breakDown(p.enrollments, breakdownKey{c.enrollmentKind, c.enrollment}, c.kind, n)
}

// at returns the value of a key, which it makes if need be.
func at[K comparable, V any](m map[K]*V, key K) *V {
	value, ok := m[key]
	if !ok {
		value = new(V)
		m[key] = value
	}
	return value
}

func (p *parts) addHubs(c cell, n int64) {
	goes := c.after.Hub
	if c.kind == Diverted || !c.after.assigned() {
		goes = c.on
	}
	if c.on != "" {
		at(p.hubs, c.on).Before += n
		if c.kind != Diverted && !c.after.assigned() {
			at(p.hubs, c.on).Unassigned += n
		}
		if goes != c.on {
			at(p.hubs, c.on).Leave += n
		}
	}
	if goes != "" {
		at(p.hubs, goes).After += n
		if goes != c.on {
			at(p.hubs, goes).Arrive += n
		}
	}
}

func (p *parts) fault(c cell) *FaultCount {
	kind := answer.Result(c.after.Result)
	fault := at(p.faults, kind)
	fault.Fault = kind
	return fault
}

func breakDown(m map[breakdownKey]*Breakdown, key breakdownKey, kind Kind, n int64) {
	b := at(m, key)
	if b.Counts == nil {
		b.EnrollmentKind, b.Name, b.Counts = key.kind, key.name, map[Kind]int64{}
	}
	b.Total += n
	b.Counts[kind] += n
	if kind.Change() {
		b.Changed += n
	}
}

func (p *parts) fill(r *Report) {
	r.Flows = []Flow{}
	for flow, n := range p.flows {
		flow.Count = n
		r.Flows = append(r.Flows, flow)
	}
	sortedByCount(r.Flows, func(f Flow) int64 { return f.Count }, func(f Flow) string {
		return string(f.Kind) + "\x00" + f.Before.Result + "\x00" + f.Before.Hub + "\x00" + f.After.Result + "\x00" + f.After.Hub
	})
	r.Hubs = []Hub{}
	for _, name := range slices.Sorted(maps.Keys(p.hubs)) {
		hub := *p.hubs[name]
		hub.Name = name
		r.Hubs = append(r.Hubs, hub)
	}
	r.Twins = valuesByCount(p.twins, func(t TwinCount) int64 { return t.Count },
		func(t TwinCount) string { return string(t.Reprovision) + "\x00" + string(t.Twin) })
	slices.SortStableFunc(r.Twins, func(a, b TwinCount) int {
		return slices.Index(policies, a.Reprovision) - slices.Index(policies, b.Reprovision)
	})
	r.Faults = valuesByCount(p.faults, func(f FaultCount) int64 { return f.Newly }, func(f FaultCount) string { return string(f.Fault) })
	total := func(b Breakdown) int64 { return b.Total }
	name := func(b Breakdown) string { return string(b.EnrollmentKind) + "\x00" + b.Name }
	r.ByRule, r.ByEnrollment = valuesByCount(p.rules, total, name), valuesByCount(p.enrollments, total, name)
	for _, list := range [][]Breakdown{r.ByRule, r.ByEnrollment} {
		slices.SortStableFunc(list, func(a, b Breakdown) int { return int(min(max(b.Changed-a.Changed, -1), 1)) })
	}
}

var policies = []dps.ReprovisionPolicy{dps.ReprovisionMigrate, dps.ReprovisionReset, dps.ReprovisionNever}

func valuesByCount[K comparable, V any](m map[K]*V, count func(V) int64, name func(V) string) []V {
	list := make([]V, 0, len(m))
	for _, value := range m {
		list = append(list, *value)
	}
	return sortedByCount(list, count, name)
}
