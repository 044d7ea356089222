package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/dps"
)

// Limits of the work on one finding. The time is for rules that exceed their time limit; all others finish long before.
const (
	maxShrinking     = 3000 // requests
	maxShrinkingTime = 10 * time.Second
)

// shrink simplifies the request of a finding as long as the same promise breaks: it removes members and elements, the
// outer ones first, and then shortens texts.
func (c *checker) shrink(ctx context.Context, found broken) broken {
	thorough := *c
	thorough.thorough, thorough.wanted = true, map[string]bool{found.promise: true}
	c = &thorough
	tries, start := 0, time.Now()
	found = c.shrinkRows(ctx, found)
	c.world = found.world
	for {
		request, err := dps.ParseAllocationRequest(found.body)
		if err != nil {
			return found
		}
		shrunk := false
		for candidate := range simplifications(request.Document()) {
			if tries++; tries > maxShrinking || ctx.Err() != nil || time.Since(start) > maxShrinkingTime {
				return found
			}
			if !couldBeSent(candidate) {
				continue
			}
			a, list := c.check(ctx, bodyOf(candidate))
			if a.request == nil || c.set.Serving(a.request.Enrollment) != c.rule {
				continue
			}
			if i := slices.IndexFunc(list, func(b broken) bool { return b.key() == found.key() }); i >= 0 && isSimpler(list[i].body, found.body) {
				found, shrunk = list[i], true
				break
			}
		}
		if !shrunk {
			return found
		}
	}
}

// isSimpler prefers the shorter request and, if they are equally long, the device "a".
func isSimpler(a, b []byte) bool {
	plain := []byte(`"registrationId":"a"`)
	return len(a) < len(b) || len(a) == len(b) && bytes.Contains(a, plain) && !bytes.Contains(b, plain)
}

// simplifications yields copies of a document that are one step simpler.
func simplifications(document map[string]any) iter.Seq[map[string]any] {
	return func(yield func(map[string]any) bool) {
		for _, place := range placesOf(document) {
			for _, with := range simpler(place, at(document, place)) {
				copied := clone(document).(map[string]any)
				if replace(copied, place, with) && yieldOf(copied, place, with, yield) {
					return
				}
			}
		}
	}
}

// yieldOf yields a document in which a value was replaced, after it has replaced what goes with it. It reports whether
// to stop.
func yieldOf(document map[string]any, place []string, with any, yield func(map[string]any) bool) (stop bool) {
	device := document["deviceRuntimeContext"].(map[string]any)
	switch strings.Join(place, "/") {
	case "deviceRuntimeContext/registrationId":
		if record, ok := document[string(dps.IndividualEnrollment)].(map[string]any); ok {
			record["registrationId"] = with
		}
		if _, ok := device["currentDeviceId"]; ok {
			device["currentDeviceId"] = with
		}
	case "deviceRuntimeContext/currentIotHubHostName":
		delete(device, "currentDeviceId")
	}
	return !yield(document)
}

// couldBeSent reports whether DPS could send a document, besides members that it always sends and the rule does not
// need.
func couldBeSent(document map[string]any) bool {
	request, err := dps.ParseAllocationRequest(bodyOf(document))
	if err != nil {
		return false
	}
	device := request.Device
	switch {
	case !registrationID.MatchString(device.RegistrationID):
		return false
	case request.Enrollment.Kind == dps.IndividualEnrollment && !strings.EqualFold(request.Enrollment.ID, device.RegistrationID):
		return false
	case device.CurrentIotHubHostName != "" && request.Enrollment.Reprovision == dps.ReprovisionNever:
		// DPS then names no other hub.
		return len(request.LinkedHubs) == 1 && dps.SameHub(request.LinkedHubs[0], device.CurrentIotHubHostName)
	}
	return true
}

// simpler lists what can replace a value. It keeps what makes the request one of a device of the enrollment.
func simpler(place []string, value any) []any {
	last := place[len(place)-1]
	switch {
	case len(place) == 1 && last != "usher", len(place) == 2 && last == "enrollmentGroupId", len(place) == 2 && place[0] == string(dps.IndividualEnrollment) && last == "registrationId":
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
		if len(one) <= len(text) && one != text {
			list = append(list, one)
		}
	}
	return list
}
