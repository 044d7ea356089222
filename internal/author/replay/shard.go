package replay

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Shard is a share of the devices: all shards together have each device once. The zero value is all devices.
type Shard struct {
	Number int `json:"number"` // from 0
	Of     int `json:"of"`
}

// MaxShards bounds [Shard.Of].
const MaxShards = 10_000

// ParseShard reads a shard written as I/N, with I from 0 to N-1.
func ParseShard(text string) (Shard, error) {
	number, of, _ := strings.Cut(text, "/")
	var s Shard
	var wrong [2]error
	s.Number, wrong[0] = strconv.Atoi(number)
	s.Of, wrong[1] = strconv.Atoi(of)
	if errors.Join(wrong[:]...) != nil || s.Of < 1 || s.Of > MaxShards || s.Number < 0 || s.Number >= s.Of {
		return Shard{}, fmt.Errorf("%q is not a shard: write I/N, with N up to %d and I from 0 to N-1, such as 0/4", text, MaxShards)
	}
	return s, nil
}

func (s Shard) String() string { return fmt.Sprintf("%d/%d", s.Number, s.Of) }

// has reports whether the shard has the device of this name, in any letter case.
func (s Shard) has(device string) bool {
	if s.Of < 2 {
		return true
	}
	hash := fnv.New64a()
	hash.Write([]byte(strings.ToLower(device)))
	return hash.Sum64()%uint64(s.Of) == uint64(s.Number)
}

// hasRest reports whether the shard counts what is of no device.
func (s Shard) hasRest() bool { return s.Number == 0 }

// Part says which part of the logs a report is about, and what merging such reports takes.
type Part struct {
	Shard
	// Examples is how many devices of each kind the report was to name.
	Examples int `json:"examples"`
	// RulesName and BaselineName are where the rules come from, for people. The caller sets them.
	RulesName    string `json:"rulesName"`
	BaselineName string `json:"baselineName,omitempty"`
	// The others are where in the logs the report's examples and problems are: the number of the item, from 0.
	ExamplesAt  []int64 `json:"examplesAt"`
	MalformedAt []int64 `json:"malformedAt"`
	LackingAt   []int64 `json:"lackingAt"`
}

// ReadPart reads the JSON of a report on a shard.
func ReadPart(text io.Reader) (*Report, error) {
	decoder := json.NewDecoder(text)
	decoder.DisallowUnknownFields()
	var r Report
	if err := decoder.Decode(&r); err != nil {
		return nil, fmt.Errorf("not a report of this version of usher replay --shard: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("there is more behind the report")
	}
	switch p := r.Part; {
	case p == nil:
		return nil, errors.New("a report on all devices: merge takes those that usher replay --shard writes")
	case p.Of < 1 || p.Of > MaxShards || p.Number < 0 || p.Number >= p.Of || p.Examples < 0,
		len(p.ExamplesAt) != len(r.Examples), len(p.MalformedAt) != len(r.MalformedFirst), len(p.LackingAt) != len(r.LackingFirst),
		slices.ContainsFunc(r.Examples, func(c Change) bool { return kindIndex(c.Kind) < 0 }):
		return nil, errors.New("the report was changed: its part does not fit the rest")
	}
	return &r, nil
}

// Merge adds the reports on all shards of some logs, in any order. It returns the report of one replay of these logs, and
// the [Part] of shard 0 for its names. Two things can differ from that: what counts as [Others] if there are too many
// combinations, and the numbers if a shard was interrupted or could not read a log.
func Merge(reports []*Report) (*Report, Part, error) {
	parts, err := complete(reports)
	if err != nil {
		return nil, Part{}, err
	}
	first := parts[0]
	merged := &Report{
		Rules: first.Rules, Baseline: first.Baseline, Lookups: first.Lookups, Logs: slices.Clone(first.Logs), ByDevice: first.ByDevice,
		Unread: []Problem{}, Counts: map[Kind]int64{}, HubLimits: first.HubLimits,
	}
	sums, hubs := newParts(), linked{}
	for _, r := range parts {
		merged.addPart(r)
		sums.addReport(r)
		hubs.add(r.LinkedHubs...)
	}
	merged.LinkedHubs = neverNil(hubs.names())
	sums.fill(merged)
	merged.MalformedFirst = firstOf(parts, func(r *Report) ([]Problem, []int64) { return r.MalformedFirst, r.Part.MalformedAt })
	merged.LackingFirst = firstOf(parts, func(r *Report) ([]Problem, []int64) { return r.LackingFirst, r.Part.LackingAt })
	merged.mergeExamples(parts)
	merged.conclude(first.HubLimits)
	return merged, *first.Part, nil
}

// complete returns the reports in the order of their shards. They must be all shards of one replay.
func complete(reports []*Report) ([]*Report, error) {
	if len(reports) == 0 {
		return nil, errors.New("there are no reports to merge")
	}
	of := reports[0].Part.Of
	parts := make([]*Report, of)
	for _, r := range reports {
		switch {
		case r.Part.Of != of:
			return nil, fmt.Errorf("shard %v and shard %v are of different replays", reports[0].Part.Shard, r.Part.Shard)
		case parts[r.Part.Number] != nil:
			return nil, fmt.Errorf("there are two reports on shard %v", r.Part.Shard)
		}
		parts[r.Part.Number] = r
	}
	if i := slices.Index(parts, nil); i >= 0 {
		return nil, fmt.Errorf("the report on shard %v is missing", Shard{i, of})
	}
	for _, r := range parts {
		if what := differs(parts[0], r); what != "" {
			return nil, fmt.Errorf("shard %v and shard %v are of different replays: %s", parts[0].Part.Shard, r.Part.Shard, what)
		}
	}
	return parts, nil
}

// differs says in what two replays differ that must be the same for all shards; empty if in nothing.
func differs(a, b *Report) string {
	whole := func(r *Report) bool { return !r.Interrupted && len(r.Unread) == 0 }
	sameLogs := len(a.Logs) == len(b.Logs)
	for i := range a.Logs {
		sameLogs = sameLogs && a.Logs[i].Name == b.Logs[i].Name && (a.Logs[i].Lines == b.Logs[i].Lines || !whole(a) || !whole(b))
	}
	switch {
	case a.Rules != b.Rules:
		return "they have other rules"
	case a.Baseline != b.Baseline:
		return "they have other rules as baseline"
	case !reflect.DeepEqual(a.Lookups, b.Lookups):
		return "they have other tables of --lookup"
	case !sameLogs:
		return "they have other logs, or read more of them"
	case a.ByDevice != b.ByDevice:
		return "only one has --by-device"
	case a.Part.Examples != b.Part.Examples:
		return "they have another --examples"
	case limitsDiffer(a.HubLimits, b.HubLimits):
		return "they have another --hub-limit"
	}
	return ""
}

func limitsDiffer(a, b []HubLimit) bool {
	return !slices.EqualFunc(a, b, func(a, b HubLimit) bool { return a.Hub == b.Hub && a.Limit == b.Limit })
}

func (r *Report) addPart(part *Report) {
	r.Interrupted = r.Interrupted || part.Interrupted
	for i := range r.Logs {
		r.Logs[i].Lines = max(r.Logs[i].Lines, part.Logs[i].Lines) // each shard has read them all
	}
	for _, unread := range part.Unread {
		if !slices.Contains(r.Unread, unread) {
			r.Unread = append(r.Unread, unread)
		}
	}
	for _, sum := range []struct {
		to *int64
		n  int64
	}{
		{&r.Malformed, part.Malformed}, {&r.Lacking, part.Lacking}, {&r.PassedOver, part.PassedOver}, {&r.Skipped, part.Skipped},
		{&r.Duplicates, part.Duplicates}, {&r.Registrations, part.Registrations}, {&r.SameRules, part.SameRules}, {&r.Counted, part.Counted},
	} {
		*sum.to += sum.n
	}
	for kind, n := range part.Counts {
		r.Counts[kind] += n
	}
}

func (p *parts) addReport(r *Report) {
	for _, flow := range r.Flows {
		key := flow
		key.Count = 0
		at(p.flows, key, key).Count += flow.Count
	}
	for _, one := range r.Hubs {
		hub := p.hub(one.Name)
		hub.Before += one.Before
		hub.Arrive += one.Arrive
		hub.Leave += one.Leave
		hub.After += one.After
		hub.Unassigned += one.Unassigned
	}
	for _, one := range r.Twins {
		key := TwinCount{Reprovision: one.Reprovision, Twin: one.Twin}
		twin := at(p.twins, key, key)
		twin.Count += one.Count
		twin.RuleTwinApplied += one.RuleTwinApplied
		twin.RuleTwinIgnored += one.RuleTwinIgnored
		twin.RuleTwinChanged += one.RuleTwinChanged
	}
	for _, one := range r.Faults {
		fault := at(p.faults, one.Fault, FaultCount{Fault: one.Fault})
		fault.Newly += one.Newly
		fault.Still += one.Still
		fault.First += one.First
	}
	for _, one := range r.ByRule {
		addBreakdown(p.rules, one)
	}
	for _, one := range r.ByEnrollment {
		addBreakdown(p.enrollments, one)
	}
}

func addBreakdown(m map[breakdownKey]*Breakdown, one Breakdown) {
	for _, kind := range slices.Sorted(maps.Keys(one.Counts)) {
		breakDown(m, breakdownKey{one.EnrollmentKind, one.Name}, kind, one.Counts[kind])
	}
}

// placed is something that stands at a place in the logs.
type placed[T any] struct {
	value T
	at    int64
}

// inOrder puts what reports found into the order of the logs.
func inOrder[T any](parts []*Report, of func(*Report) ([]T, []int64)) []placed[T] {
	var all []placed[T]
	for _, r := range parts {
		values, places := of(r)
		for i, value := range values {
			all = append(all, placed[T]{value, places[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b placed[T]) int { return cmp.Compare(a.at, b.at) })
	return all
}

func firstOf(parts []*Report, of func(*Report) ([]Problem, []int64)) []Problem {
	list := []Problem{}
	for _, one := range inOrder(parts, of) {
		if len(list) < maxProblems {
			list = append(list, one.value)
		}
	}
	return list
}

// mergeExamples takes the first examples of each kind. Those of a shard are first among its devices, so the first of all
// are among them. Records without registration IDs can be in several shards, and count as one example.
func (r *Report) mergeExamples(parts []*Report) {
	var kinds [kindCount][]Change
	limit := parts[0].Part.Examples
	for _, one := range inOrder(parts, func(r *Report) ([]Change, []int64) { return r.Examples, r.Part.ExamplesAt }) {
		kind := kindIndex(one.value.Kind)
		if wantsExample(kinds[kind], one.value.Kind, one.value.RegistrationID, limit) {
			kinds[kind] = append(kinds[kind], one.value)
		}
	}
	r.Examples = neverNil(slices.Concat(kinds[:]...))
}
