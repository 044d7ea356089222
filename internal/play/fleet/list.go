package fleet

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/replay/view"
)

// Summary counts devices, each by its last registration.
type Summary struct {
	Logs          []Log `json:"logs"`
	Registrations int   `json:"registrations"`
	Devices       int   `json:"devices"`
	// Undecided counts the registrations that have no answer in the log, and are not decided yet.
	Undecided int `json:"undecided"`
	// Reading is set until the logs were read once.
	Reading bool `json:"reading"`
	// Recorded counts the registrations whose answer is in the log.
	Recorded int `json:"recorded"`
	// The counts have the most frequent first. Hubs are those that devices were assigned.
	Hubs        []Count `json:"hubs"`
	Outcomes    []Count `json:"outcomes"`
	Enrollments []Count `json:"enrollments"`
	Rules       []Count `json:"rules"`
	// Problems counts the places that could not be used; FirstProblems names some.
	Problems      int       `json:"problems"`
	FirstProblems []Problem `json:"firstProblems"`
	// Flow is a picture of the way from enrollments to hubs, as an SVG element; empty without devices.
	Flow string `json:"flow"`
}

// Count says how many devices have something in common. An empty name stands for none.
type Count struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// State says how far the fleet is read and decided.
type State struct {
	Registrations int  `json:"registrations"`
	Devices       int  `json:"devices"`
	Recorded      int  `json:"recorded"`
	Undecided     int  `json:"undecided"`
	Reading       bool `json:"reading"`
	Problems      int  `json:"problems"`
}

// State counts without looking at each device.
func (f *Fleet) State() State {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return State{len(f.rows), len(f.devices), f.recorded, f.undecided, !f.begun, f.count}
}

// Summarize counts all devices.
func (f *Fleet) Summarize() (Summary, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	s := Summary{Logs: slices.Clone(f.read), Registrations: len(f.rows), Devices: len(f.devices), Undecided: f.undecided, Recorded: f.recorded,
		Reading: !f.begun, Problems: f.count, FirstProblems: append([]Problem{}, f.problems...)}
	hubs, outcomes, enrollments, rules := map[uint32]int{}, map[uint32]int{}, map[uint32]int{}, map[uint32]int{}
	ways := map[way]int{}
	for _, i := range f.devices {
		r := &f.rows[i]
		if r.hub != 0 {
			hubs[r.hub]++
		}
		if r.result != 0 {
			outcomes[r.result]++
		}
		enrollment := r.enrollment
		if r.individual { // a device each, all of which count as one
			enrollment = 0
		}
		enrollments[enrollment]++
		rules[r.rule]++
		ways[way{enrollment, r.hub, r.result}]++
	}
	s.Hubs, s.Outcomes, s.Enrollments, s.Rules = f.counts(hubs), f.counts(outcomes), f.counts(enrollments), f.counts(rules)
	var err error
	s.Flow, err = f.flow(ways).SVG()
	return s, err
}

func (f *Fleet) counts(counted map[uint32]int) []Count {
	list := []Count{}
	for number, n := range counted {
		list = append(list, Count{f.names[number], n})
	}
	slices.SortFunc(list, func(a, b Count) int { return cmp.Or(b.Count-a.Count, strings.Compare(a.Name, b.Name)) })
	return list
}

// way is from an enrollment, 0 for an individual one, to a hub or a result without one.
type way struct{ enrollment, hub, result uint32 }

// mostNodes is how many enrollments and hubs have a node of their own in a picture.
const mostNodes = 12

// end is where a way leads: a hub, or a result without one. Others stand for many.
type end struct {
	name  string
	class string // of CSS, for the bands that lead there
	rank  int    // in what order they are drawn
}

func (f *Fleet) endOf(w way) end {
	result := answer.Result(f.names[w.result])
	switch {
	case w.hub != 0:
		return end{f.names[w.hub], "stay", 0}
	case result == "":
		return end{"not decided yet", "same", 5}
	case result == answer.Rejected:
		return end{string(result), "lose", 2}
	case result == answer.Held:
		return end{string(result), "divert", 3}
	}
	return end{string(result), "lose", 4}
}

// flow draws ways.
func (f *Fleet) flow(ways map[way]int) view.Flow {
	starts, ends := map[string]int{}, map[end]int{}
	start := func(w way) string {
		if w.enrollment == 0 {
			return "individual enrollments"
		}
		return f.names[w.enrollment]
	}
	for w, n := range ways {
		starts[start(w)] += n
		ends[f.endOf(w)] += n
	}
	left := largest(starts, strings.Compare)
	right := largest(ends, func(a, b end) int { return strings.Compare(a.name, b.name) })
	slices.SortFunc(right, func(a, b end) int { return cmp.Or(a.rank-b.rank, ends[b]-ends[a], strings.Compare(a.name, b.name)) })
	others := end{"(others)", "stay", 1}
	if len(left) < len(starts) {
		left = append(left, others.name)
	}
	if len(right) < len(ends) {
		right = append(right, others)
	}
	flow := view.Flow{Name: "fleet", Title: "Devices from their enrollments, on the left, to their hubs, on the right",
		Class: func(_, to int) string { return right[to].class }}
	for range left {
		flow.Counts = append(flow.Counts, make([]int64, len(right)))
	}
	index := func(i, otherwise int) int {
		if i < 0 {
			return otherwise
		}
		return i
	}
	for w, n := range ways {
		i, j := slices.Index(left, start(w)), slices.Index(right, f.endOf(w))
		flow.Counts[index(i, len(left)-1)][index(j, len(right)-1)] += int64(n)
	}
	hubs := map[string]int{} // how many have a first label
	for _, e := range right {
		label, _, _ := strings.Cut(e.name, ".")
		hubs[label]++
	}
	for _, name := range left {
		flow.Left = append(flow.Left, view.Node{Label: name})
	}
	for _, e := range right {
		if label, _, _ := strings.Cut(e.name, "."); hubs[label] == 1 && label != "" {
			e.name = label
		}
		flow.Right = append(flow.Right, view.Node{Label: e.name, Nowhere: e.rank > 1 && e.rank < 5})
	}
	return flow
}

// largest returns the keys with the largest numbers, the largest first.
func largest[K comparable](counted map[K]int, compare func(a, b K) int) []K {
	keys := slices.SortedFunc(maps.Keys(counted), func(a, b K) int { return cmp.Or(counted[b]-counted[a], compare(a, b)) })
	return keys[:min(len(keys), mostNodes)]
}

// Filter chooses devices by their last registration. Empty fields match all.
type Filter struct {
	// Text is a part of the registration ID, in any case.
	Text string
	// Hub is a host name or a first label.
	Hub string
	// Outcome is a result; fault for any fault, and none if there is none yet.
	Outcome string
	// Enrollment is its name, in any case; Rule is the package of a rule.
	Enrollment, Rule string
}

// The outcomes of a filter that are no results.
const (
	anyFault  = "fault"
	noOutcome = "none"
)

// Device is a device with its last registration.
type Device struct {
	ID             string `json:"id"` // of the registration
	Service        string `json:"service,omitempty"`
	RegistrationID string `json:"registrationId"`
	// Kind is that of the enrollment.
	Kind       dps.EnrollmentKind `json:"enrollmentKind"`
	Enrollment string             `json:"enrollment"`
	// Hub is the one that was assigned; Before the one that the device was on. Both may be empty.
	Hub    string `json:"hub"`
	Before string `json:"before"`
	// Result is an outcome or a fault; empty if the log does not say and it is not decided yet.
	Result string `json:"result"`
	Rule   string `json:"rule"`
	// At is when the device registered; empty if the log does not say.
	At    time.Time `json:"at,omitzero"`
	Place string    `json:"place"` // such as file:line
	// Decided is set if the saved rules decided, because the log does not say what was answered. Masked is set if the
	// log lacks a part of the request.
	Decided bool `json:"decided,omitzero"`
	Masked  bool `json:"masked,omitzero"`
}

// Devices returns how many devices match, and up to limit of them from an offset on. The last in the log comes first.
func (f *Fleet) Devices(filter Filter, offset, limit int) (total int, list []Device) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	list = []Device{}
	matches := f.matcher(filter)
	for i := len(f.rows) - 1; i >= 0; i-- {
		r := &f.rows[i]
		if f.devices[r.key] != int32(i) || !matches(r) {
			continue
		}
		if total++; total > offset && len(list) < limit {
			list = append(list, f.device(i))
		}
	}
	return total, list
}

// matcher returns what reports whether a row matches a filter. It looks at each name once.
func (f *Fleet) matcher(filter Filter) func(*row) bool {
	text, wantedHub := strings.ToLower(filter.Text), dps.HubName(filter.Hub)
	byName := func(wanted string, matches func(name string) bool) func(uint32) bool {
		if wanted == "" {
			return func(uint32) bool { return true }
		}
		seen := map[uint32]bool{}
		return func(number uint32) bool {
			match, known := seen[number]
			if !known {
				match = matches(f.names[number])
				seen[number] = match
			}
			return match
		}
	}
	hub := byName(filter.Hub, func(name string) bool {
		label, _, _ := strings.Cut(name, ".")
		return name == wantedHub || name != "" && label == wantedHub
	})
	outcome := byName(filter.Outcome, func(name string) bool {
		return name == filter.Outcome || filter.Outcome == noOutcome && name == "" ||
			filter.Outcome == anyFault && name != "" && !answer.Result(name).IsOutcome()
	})
	enrollment := byName(filter.Enrollment, func(name string) bool { return strings.EqualFold(name, filter.Enrollment) })
	rule := byName(filter.Rule, func(name string) bool { return name == filter.Rule })
	return func(r *row) bool {
		return hub(r.hub) && outcome(r.result) && enrollment(r.enrollment) && rule(r.rule) &&
			(text == "" || strings.Contains(strings.ToLower(r.id), text))
	}
}

// device describes the row with this number.
func (f *Fleet) device(i int) Device {
	r := &f.rows[i]
	d := Device{ID: strconv.Itoa(i), Service: f.names[r.service], RegistrationID: r.id, Kind: dps.EnrollmentGroup, Enrollment: f.names[r.enrollment],
		Hub: f.names[r.hub], Before: f.names[r.before], Result: f.names[r.result], Rule: f.names[r.rule], Place: r.place,
		Decided: r.decided, Masked: r.masked}
	if r.individual {
		d.Kind = dps.IndividualEnrollment
	}
	if r.at != 0 {
		d.At = time.Unix(0, r.at).UTC()
	}
	return d
}
