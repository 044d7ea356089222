package decider

import (
	"cmp"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/schema"
)

// notUTF8 lists the fields of a request that are not valid UTF-8. The parser refuses such a body, but fields can also be
// set in Go. Go and OPA write such a text in different ways, so a hub would not be the one that is linked.
func notUTF8(request *dps.AllocationRequest) []schema.Violation {
	var found []schema.Violation
	check := func(pointer, text string) {
		if !utf8.ValidString(text) {
			found = append(found, schema.Violation{Pointer: pointer, Message: "is not valid UTF-8"})
		}
	}
	id := "/enrollmentGroup/enrollmentGroupId"
	if request.Enrollment.Kind == dps.IndividualEnrollment {
		id = "/individualEnrollment/registrationId"
	}
	check(id, request.Enrollment.ID)
	check("/usher/service", request.Service)
	check("/deviceRuntimeContext/registrationId", request.Device.RegistrationID)
	check("/deviceRuntimeContext/currentIotHubHostName", request.Device.CurrentIotHubHostName)
	check("/deviceRuntimeContext/currentDeviceId", request.Device.CurrentDeviceID)
	for i, hub := range request.LinkedHubs {
		if !utf8.ValidString(hub) { // before its pointer is written, for each of the hubs of each request
			check(fmt.Sprintf("/linkedHubs/%d", i), hub)
		}
	}
	slices.SortFunc(found, func(a, b schema.Violation) int { return cmp.Compare(a.Pointer, b.Pointer) })
	return found
}
