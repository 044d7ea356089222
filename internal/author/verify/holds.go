package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
)

// newcomers are the requests of devices that were on no hub.
type newcomers struct {
	all, assigned, kept int    // kept: rejected or held
	smallest            []byte // of those that were not assigned
}

// maxReasons bounds how many different reasons are counted, since a reason can quote the request.
const maxReasons = 100

// notAssigned counts a request by why it was not assigned, if it was not.
func (s *search) notAssigned(a *decided) {
	isNew := a.request.Device.CurrentIotHubHostName == ""
	if isNew {
		s.newcomers.all++
	}
	if a.Result == answer.Assigned {
		if isNew {
			s.newcomers.assigned++
		}
		return
	}
	reason := string(a.Result)
	if words := briefOf(&a.Answer).words; words != "" {
		reason += ": " + words
	}
	if _, known := s.reasons[reason]; known || len(s.reasons) < maxReasons {
		s.reasons[reason]++
	} else {
		s.reasons[string(a.Result)+": for other reasons"]++
	}
	if isNew && a.Result.IsOutcome() {
		s.newcomers.kept++
	}
	if isNew && (s.newcomers.smallest == nil || cmp.Or(len(a.body)-len(s.newcomers.smallest), strings.Compare(string(a.body), string(s.newcomers.smallest))) < 0) {
		s.newcomers.smallest = a.body
	}
}

// checkAssigns finds a search in which no new device was assigned: what it says of the other promises is worth little.
// If all answers are faults, other promises are broken.
func (s *search) checkAssigns() {
	if !s.checker.wanted[assignsPromise] || s.newcomers.kept == 0 || s.newcomers.assigned > 0 {
		return
	}
	const most = 3
	var reasons []string
	for _, reason := range s.reasons.MostFirst() {
		if len(reasons) == most {
			reasons = append(reasons, "...")
			break
		}
		reasons = append(reasons, fmt.Sprintf("%d %s", s.reasons[reason], reason))
	}
	b := broken{promise: assignsPromise, body: s.newcomers.smallest, message: fmt.Sprintf(
		"none of %d requests of new devices was assigned (%s): give requests of your devices with --requests, or your hubs with --hubs",
		s.newcomers.all, strings.Join(reasons, "; "))}
	s.found[b.key()] = &tally{broken: b, count: s.newcomers.all}
}

// Stuck is a hold that does not end, whatever the device sends and whichever hubs are linked.
type Stuck struct {
	Reason  string          `json:"reason"`
	Place   string          `json:"place,omitempty"` // of the line that holds the device, as file:line
	Devices int             `json:"devices"`         // for how many of the devices that were tried
	Request json.RawMessage `json:"request"`         // of one of them
}

// hold is a device that was held, as far as it cannot change itself: its enrollment, ID and attestation.
type hold struct {
	draft *draft
	ended bool // another request of the device was not held
}

// Limits of the search for holds that do not end.
const (
	maxHolds   = 32 // devices
	maxEndings = 60 // other requests for each
)

// device is what a draft has that its device cannot change itself.
func (d *draft) device() *draft {
	device := *d
	device.payload, device.hubs, device.current, device.policy = nil, nil, "", policy{}
	return &device
}

// noteHold notes an answer to a device; key is that of its body.
func (s *search) noteHold(device *draft, key [16]byte, a *decided) {
	known := s.holds[key]
	if known == nil {
		known = &hold{draft: device}
		s.holds[key] = known
	}
	known.ended = known.ended || a.Result != answer.Held
}

// findStuck tries, for devices that were always held, other payloads while all hubs are linked.
func (s *search) findStuck(ctx context.Context) []Stuck {
	maps.DeleteFunc(s.holds, func(_ [16]byte, h *hold) bool { return h.ended })
	keys := slices.SortedFunc(maps.Keys(s.holds), func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
	found := map[string]*Stuck{}
	for _, key := range keys[:min(len(keys), maxHolds)] {
		a, stuck := s.alwaysHeld(ctx, s.holds[key].draft)
		if !stuck {
			continue
		}
		reason := briefOf(&a.Answer).words
		one := found[reason]
		if one == nil {
			one = &Stuck{Reason: reason, Request: indented(a.body)}
			for _, line := range a.Lines {
				if line.Entry == "hold" {
					one.Place = cmp.Or(one.Place, line.Place)
				}
			}
			found[reason] = one
		}
		one.Devices++
	}
	var list []Stuck
	for _, reason := range slices.Sorted(maps.Keys(found)) {
		list = append(list, *found[reason])
	}
	return list
}

// alwaysHeld reports whether a device is held whatever it sends, and returns the last answer.
func (s *search) alwaysHeld(ctx context.Context, device *draft) (last decided, stuck bool) {
	space := s.plan.space
	hubs := space.draft(make([]int, len(space.dimensions))).hubs // all of them
	tries := 0
	held := func(payload map[string]any) bool {
		d := device.clone()
		d.payload, d.hubs, d.current, d.policy = payload, hubs, "", policy{}
		tries++
		last = s.checker.at(d).decide(ctx, d.body())
		return last.Result == answer.Held
	}
	if !held(nil) {
		return last, false
	}
	for _, d := range s.plan.drafts {
		if tries < maxEndings/2 && d.payload != nil && !held(d.payload) {
			return last, false
		}
	}
	for _, dimension := range space.dimensions {
		for _, value := range dimension.values {
			if tries == maxEndings || !dimension.part {
				break
			}
			d := &draft{payload: map[string]any{}}
			dimension.set(d, value)
			if !held(d.payload) {
				return last, false
			}
		}
	}
	for _, dimension := range space.dimensions { // the row may arrive
		for _, value := range dimension.values {
			if d := device.clone(); dimension.row {
				dimension.set(d, value)
				last = s.checker.at(d).decide(ctx, d.body())
				if last.Result != answer.Held {
					return last, false
				}
			}
		}
	}
	return last, true
}
