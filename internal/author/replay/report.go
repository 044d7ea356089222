package replay

import (
	"cmp"
	"maps"
	"slices"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// RegistrationsPerMinute is how many devices a DPS service registers, however many there are. Source:
// https://learn.microsoft.com/azure/iot-dps/iot-dps-limits.
const RegistrationsPerMinute = 1000

// Report is what a replay found. Enrollment groups are in lower case, as DPS compares them. Hubs have their
// [dps.HubName], so that both host names of a hub count as one hub.
type Report struct {
	// Rules is the digest of the new rules, Baseline that of the old ones; empty if the log itself is the baseline.
	Rules    string `json:"rules"`
	Baseline string `json:"baseline,omitempty"`
	// Lookups are those that were asked of a table, in the order of their names.
	Lookups []TableSummary `json:"lookups"`
	// Interrupted is set if the replay was stopped before the end of the logs.
	Interrupted bool         `json:"interrupted"`
	Logs        []LogSummary `json:"logs"`
	// Unread are the logs that could not be read to their end, and where reading stopped.
	Unread []Problem `json:"unread"`
	// Malformed counts the lines that hold no valid request, MalformedFirst names some.
	Malformed      int64     `json:"malformed"`
	MalformedFirst []Problem `json:"malformedFirst"`
	// Lacking counts the decision records that cannot be decided again, because the rules look at what is masked in
	// them; LackingFirst names some.
	Lacking      int64     `json:"lacking"`
	LackingFirst []Problem `json:"lackingFirst"`
	// PassedOver counts the records of shadow rules and of probes.
	PassedOver int64 `json:"passedOver"`
	// Skipped counts the rows of exports that hold no request.
	Skipped int64 `json:"skipped"`
	// Duplicates counts the decision records left out because the log has one with the same decisionId before them.
	Duplicates int64 `json:"duplicates"`
	// Registrations is the number of requests. Counted is how many of them the numbers below count: all, or one for
	// each device if ByDevice.
	Registrations int64 `json:"registrations"`
	// SameRules is how many of the registrations these same rules decided before, by the record or as the baseline.
	SameRules int64 `json:"sameRules"`
	ByDevice  bool  `json:"byDevice"`
	Counted   int64 `json:"counted"`
	// Counts has every kind.
	Counts map[Kind]int64 `json:"counts"`
	// Flows say from where to where, the most frequent first.
	Flows []Flow `json:"flows"`
	// Hubs are in the order of their names.
	Hubs []Hub `json:"hubs"`
	// HubLimits are those of the options.
	HubLimits []HubLimit `json:"hubLimits"`
	// LinkedHubs are the names of the hubs that registrations link; empty without HubLimits.
	LinkedHubs []string    `json:"linkedHubs"`
	Twins      []TwinCount `json:"twins"`
	// Faults are by kind of fault.
	Faults []FaultCount `json:"faults"`
	// ByRule and ByEnrollment have those with the most changes first.
	ByRule       []Breakdown `json:"byRule"`
	ByEnrollment []Breakdown `json:"byEnrollment"`
	Reprovision  Reprovision `json:"reprovision"`
	// Examples are the first devices of each kind except stayed, each once for a kind.
	Examples []Change `json:"examples"`
	// Part is set in a report on one [Shard] of the devices.
	Part *Part `json:"part,omitempty"`
}

// LogSummary describes one log.
type LogSummary struct {
	Name string `json:"name"`
	// Lines counts the lines that are not blank; rows and JSON texts over several lines count as one each.
	Lines int64 `json:"lines"`
}

// TableSummary is a table that a look-up was asked of, and how many rows it has.
type TableSummary struct {
	Lookup string `json:"lookup"`
	File   string `json:"file"`
	Rows   int    `json:"rows"`
}

// Flow counts what had one state before and has one after.
type Flow struct {
	Kind   Kind  `json:"kind"`
	Before State `json:"before"`
	After  State `json:"after"`
	// NewDevice is what a new device with the same request gets. It is set only for diverted devices, which stay where
	// they were.
	NewDevice State `json:"newDevice,omitzero"`
	Count     int64 `json:"count"`
}

// Hub is how full a hub is, as far as the log says.
type Hub struct {
	Name string `json:"name"`
	// Before + Arrive - Leave = After.
	Before int64 `json:"before"`
	Arrive int64 `json:"arrive"`
	Leave  int64 `json:"leave"`
	After  int64 `json:"after"`
	// Unassigned counts the devices in After that the new rules no longer assign to any hub. A failed registration is
	// not known to remove a device from its hub.
	Unassigned int64 `json:"unassigned"`
}

// TwinCount is what happens to twins under one reprovision policy.
type TwinCount struct {
	Reprovision dps.ReprovisionPolicy `json:"reprovision"`
	Twin        Twin                  `json:"twin"`
	Count       int64                 `json:"count"`
	// RuleTwinApplied and RuleTwinIgnored count the devices for which the rule gives an initial twin. If a twin is
	// created and the rule gives none, DPS uses the enrollment's.
	RuleTwinApplied int64 `json:"ruleTwinApplied"`
	RuleTwinIgnored int64 `json:"ruleTwinIgnored"`
	// RuleTwinChanged counts the devices that stay and for which the rule gives another initial twin than before.
	RuleTwinChanged int64 `json:"ruleTwinChanged"`
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
	// EnrollmentKind is empty in a breakdown by rule. All individual enrollments count together, without a name.
	EnrollmentKind dps.EnrollmentKind `json:"enrollmentKind,omitempty"`
	// Name is also empty for requests that no rule serves.
	Name    string         `json:"name"`
	Total   int64          `json:"total"`
	Changed int64          `json:"changed"`
	Counts  map[Kind]int64 `json:"counts"` // without zeros
}

// Reprovision is what the change requires: each device that moves or is newly accepted has to register once.
type Reprovision struct {
	Registrations int64 `json:"registrations"`
	PerMinute     int64 `json:"perMinute"`
	// Seconds is the shortest time for that, if no other device registers meanwhile.
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
		Rules: m.Rules.Rules().Digest(), Lookups: m.Tables.summaries(), Interrupted: interrupted, Logs: m.logs, Unread: neverNil(m.unread),
		Malformed: m.malformed.count, MalformedFirst: neverNil(m.malformed.first),
		Lacking: m.lacking.count, LackingFirst: neverNil(m.lacking.first),
		PassedOver: m.passedOver, Skipped: m.skipped, Duplicates: m.duplicates,
		Registrations: m.registrations, SameRules: m.sameRules, ByDevice: m.ByDevice,
		Counts: map[Kind]int64{}, Examples: []Change{}, LinkedHubs: neverNil(m.linked.names()),
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
	if m.Shard.Of > 0 {
		r.Part = &Part{Shard: m.Shard, Examples: m.Examples, ExamplesAt: neverNil(slices.Concat(m.examplesAt[:]...)),
			MalformedAt: neverNil(m.malformed.at), LackingAt: neverNil(m.lacking.at)}
	}
	r.conclude(m.Options.HubLimits)
	return r
}

// conclude fills in what follows from the sums.
func (r *Report) conclude(limits []HubLimit) {
	r.HubLimits = compareWith(r.Hubs, r.LinkedHubs, limits)
	registrations := r.Counts[Moved] + r.Counts[NewlyAccepted]
	r.Reprovision = Reprovision{
		Registrations: registrations, PerMinute: RegistrationsPerMinute,
		Seconds: leastSeconds(registrations), AllSeconds: leastSeconds(r.Counted),
	}
}

// neverNil makes an empty list of nil, for readers of the JSON.
func neverNil[T any](list []T) []T { return append([]T{}, list...) }

// parts are the sections of a report while they are added up, each by its key: the section without counts.
type parts struct {
	flows              map[Flow]*Flow
	hubs               map[string]*Hub
	twins              map[TwinCount]*TwinCount
	faults             map[answer.Result]*FaultCount
	rules, enrollments map[breakdownKey]*Breakdown
}

type breakdownKey struct {
	kind dps.EnrollmentKind
	name string
}

func newParts() *parts {
	return &parts{
		flows: map[Flow]*Flow{}, hubs: map[string]*Hub{}, twins: map[TwinCount]*TwinCount{},
		faults: map[answer.Result]*FaultCount{},
		rules:  map[breakdownKey]*Breakdown{}, enrollments: map[breakdownKey]*Breakdown{},
	}
}

// at returns the value of a key. If there is none, it puts initial there.
func at[K comparable, V any](m map[K]*V, key K, initial V) *V {
	value, ok := m[key]
	if !ok {
		value = &initial
		m[key] = value
	}
	return value
}

func (p *parts) hub(name string) *Hub { return at(p.hubs, name, Hub{Name: name}) }

func (p *parts) add(c cell, n int64) {
	flow := Flow{Kind: c.kind, Before: c.before, After: c.after}
	if c.kind == Diverted {
		flow.After, flow.NewDevice = c.before, c.after
	}
	at(p.flows, flow, flow).Count += n
	p.addHubs(c, n)
	key := TwinCount{Reprovision: c.reprovision, Twin: c.twin}
	twin := at(p.twins, key, key)
	twin.Count += n
	switch c.use {
	case dps.InitialTwinApplied:
		twin.RuleTwinApplied += n
	case dps.InitialTwinIgnoredSameHub, dps.InitialTwinIgnoredMigrated:
		twin.RuleTwinIgnored += n
	}
	if c.kind == TwinChanged || c.kind == TwinAndPayloadChanged {
		twin.RuleTwinChanged += n
	}
	fault := FaultCount{Fault: c.after.Result}
	switch c.kind {
	case NewlyFaulted:
		at(p.faults, fault.Fault, fault).Newly += n
	case StillFaulted:
		at(p.faults, fault.Fault, fault).Still += n
	case FirstFaulted:
		at(p.faults, fault.Fault, fault).First += n
	}
	breakDown(p.rules, breakdownKey{name: c.rule}, c.kind, n)
	breakDown(p.enrollments, breakdownKey{c.enrollmentKind, c.enrollment}, c.kind, n)
}

func (p *parts) addHubs(c cell, n int64) {
	next := c.after.Hub
	if c.kind == Diverted || !c.after.assigned() {
		next = c.on
	}
	if c.on != "" {
		hub := p.hub(c.on)
		hub.Before += n
		if c.kind != Diverted && !c.after.assigned() {
			hub.Unassigned += n
		}
		if next != c.on {
			hub.Leave += n
		}
	}
	if next != "" {
		hub := p.hub(next)
		hub.After += n
		if next != c.on {
			hub.Arrive += n
		}
	}
}

func breakDown(m map[breakdownKey]*Breakdown, key breakdownKey, kind Kind, n int64) {
	b := at(m, key, Breakdown{EnrollmentKind: key.kind, Name: key.name, Counts: map[Kind]int64{}})
	b.Total += n
	b.Counts[kind] += n
	if kind.Change() {
		b.Changed += n
	}
}

var policies = []dps.ReprovisionPolicy{dps.ReprovisionMigrate, dps.ReprovisionReset, dps.ReprovisionNever}

func (p *parts) fill(r *Report) {
	r.Flows = sorted(p.flows, func(a, b *Flow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind), a.Before.compare(b.Before), a.After.compare(b.After), a.NewDevice.compare(b.NewDevice))
	})
	r.Hubs = sorted(p.hubs, func(a, b *Hub) int { return cmp.Compare(a.Name, b.Name) })
	r.Twins = sorted(p.twins, func(a, b *TwinCount) int {
		return cmp.Or(slices.Index(policies, a.Reprovision)-slices.Index(policies, b.Reprovision),
			cmp.Compare(b.Count, a.Count), cmp.Compare(a.Twin, b.Twin))
	})
	r.Faults = sorted(p.faults, func(a, b *FaultCount) int {
		return cmp.Or(cmp.Compare(b.Newly, a.Newly), cmp.Compare(a.Fault, b.Fault))
	})
	mostChanged := func(a, b *Breakdown) int {
		return cmp.Or(cmp.Compare(b.Changed, a.Changed), cmp.Compare(b.Total, a.Total),
			cmp.Compare(a.EnrollmentKind, b.EnrollmentKind), cmp.Compare(a.Name, b.Name))
	}
	r.ByRule, r.ByEnrollment = sorted(p.rules, mostChanged), sorted(p.enrollments, mostChanged)
}

func sorted[K comparable, V any](m map[K]*V, compare func(a, b *V) int) []V {
	list := []V{}
	for _, value := range slices.SortedFunc(maps.Values(m), compare) {
		list = append(list, *value)
	}
	return list
}
