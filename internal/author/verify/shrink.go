package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/usher-dps/usher/dps"
)

// Bounds of the work on one finding. The time is for rules that run into their
// timeout; all others are done long before.
const (
	maxShrinking     = 3000 // requests
	maxShrinkingTime = 10 * time.Second
)

// shrink simplifies the request of a finding as long as the same promise breaks:
// it leaves out members and elements, the large ones first, then shortens texts.
func (c *checker) shrink(ctx context.Context, found broken) broken {
	thorough := *c
	thorough.thorough, thorough.wanted = true, map[string]bool{found.promise: true}
	c = &thorough
	tries, start := 0, time.Now()
	for {
		request, err := dps.ParseAllocationRequest(found.body)
		if err != nil {
			return found
		}
		simpler := false
		for candidate := range simplifications(request.Document) {
			if tries++; tries > maxShrinking || ctx.Err() != nil || time.Since(start) > maxShrinkingTime {
				return found
			}
			body := dps.AppendValue(nil, candidate)
			a, list := c.check(ctx, body)
			if a.request == nil || !c.serves(a.request) {
				continue
			}
			if i := slices.IndexFunc(list, func(b broken) bool { return b.key() == found.key() }); i >= 0 && isSimpler(list[i].body, found.body) {
				found, simpler = list[i], true
				break
			}
		}
		if !simpler {
			return found
		}
	}
}

// isSimpler prefers the shorter request, and of equal ones the device "a".
func isSimpler(a, b []byte) bool {
	plain := []byte(`"registrationId":"a"`)
	return len(a) < len(b) || len(a) == len(b) && bytes.Contains(a, plain) && !bytes.Contains(b, plain)
}

// serves reports whether a request is still one of the rule's.
func (c *checker) serves(request *dps.AllocationRequest) bool {
	return c.findRule(request.Enrollment) == c.rule
}

// simplifications yields copies of a document that are one step simpler.
func simplifications(document map[string]any) func(yield func(map[string]any) bool) {
	return func(yield func(map[string]any) bool) {
		var places [][]string
		placesOf(document, nil, &places)
		for _, place := range places {
			for _, with := range simpler(place, at(document, place)) {
				copied := clone(document).(map[string]any)
				if edit(copied, place, with) && !yield(copied) {
					return
				}
			}
		}
	}
}

// removed stands for a member that is left out.
type removed struct{}

// placesOf lists all places of a document, the outer before the inner.
func placesOf(value any, place []string, places *[][]string) {
	level := []struct {
		place []string
		value any
	}{{place, value}}
	for len(level) > 0 {
		next := level[:0:0]
		for _, one := range level {
			switch v := one.value.(type) {
			case map[string]any:
				for _, name := range slices.Sorted(maps.Keys(v)) {
					below := append(slices.Clone(one.place), name)
					*places = append(*places, below)
					next = append(next, struct {
						place []string
						value any
					}{below, v[name]})
				}
			case []any:
				for i, element := range v {
					below := append(slices.Clone(one.place), strconv.Itoa(i))
					*places = append(*places, below)
					next = append(next, struct {
						place []string
						value any
					}{below, element})
				}
			}
		}
		level = next
	}
}

// simpler lists what a value may be replaced with. What makes the request that of
// some device of the enrollment stays.
func simpler(place []string, value any) []any {
	last := place[len(place)-1]
	switch {
	case len(place) == 1, len(place) == 2 && last == "enrollmentGroupId", len(place) == 2 && place[0] == string(dps.IndividualEnrollment) && last == "registrationId":
		return nil
	case len(place) == 2 && last == "registrationId":
		return shorter(value.(string), "a", "device-1")
	}
	candidates := []any{removed{}}
	if place[0] != "deviceRuntimeContext" || len(place) < 3 || place[1] != "payload" {
		return candidates
	}
	switch v := value.(type) {
	case string:
		candidates = append(candidates, shorter(v, "", "a")...)
	case json.Number:
		if v != "0" && v != "1" {
			candidates = append(candidates, json.Number("0"), json.Number("1"))
		}
	case map[string]any:
		if len(v) > 0 {
			candidates = append(candidates, map[string]any{})
		}
	case []any:
		if len(v) > 0 {
			candidates = append(candidates, []any{})
		}
	}
	return candidates
}

func shorter(text string, simple ...string) []any {
	var list []any
	for _, one := range append(simple, text[:len(text)/2], text[len(text)/2:], text[:max(len(text)-1, 0)]) {
		if len(one) < len(text) || len(one) == len(text) && one != text {
			list = append(list, one)
		}
	}
	return list
}

func at(value any, place []string) any {
	for _, step := range place {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			i, _ := strconv.Atoi(step)
			value = v[i]
		}
	}
	return value
}

// edit replaces the value at a place, and reports whether the document is still one.
func edit(document map[string]any, place []string, with any) bool {
	above := at(document, place[:len(place)-1])
	last := place[len(place)-1]
	_, remove := with.(removed)
	switch v := above.(type) {
	case map[string]any:
		if remove {
			delete(v, last)
		} else {
			v[last] = with
		}
		return true
	case []any:
		i, _ := strconv.Atoi(last)
		if !remove {
			v[i] = with
			return true
		}
		if len(v) == 1 {
			return false
		}
		shorter := slices.Delete(slices.Clone(v), i, i+1)
		if len(place) == 1 {
			return false
		}
		return edit(document, place[:len(place)-1], shorter)
	}
	return false
}
