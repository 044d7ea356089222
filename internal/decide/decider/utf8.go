package decider

import (
	"cmp"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/schema"
)

// notUTF8 lists the texts of a request that are not valid UTF-8. The parser refuses such a body, but a request can also
// be made in Go. Go and OPA write such a text in different ways, so a hub would not be the one that is linked.
func notUTF8(request *dps.AllocationRequest) []schema.Violation {
	var found invalidTexts
	found.value("", request.Document)
	id := "/enrollmentGroup/enrollmentGroupId"
	if request.Enrollment.Kind == dps.IndividualEnrollment {
		id = "/individualEnrollment/registrationId"
	}
	found.text(jsontext.Pointer(id), request.Enrollment.ID)
	found.text("/usher/service", request.Service)
	found.text("/deviceRuntimeContext/registrationId", request.Device.RegistrationID)
	found.text("/deviceRuntimeContext/currentIotHubHostName", request.Device.CurrentIotHubHostName)
	found.text("/deviceRuntimeContext/currentDeviceId", request.Device.CurrentDeviceID)
	for i, hub := range request.LinkedHubs {
		found.text(jsontext.Pointer("/linkedHubs").AppendToken(strconv.Itoa(i)), hub)
	}
	slices.SortFunc(found, func(a, b schema.Violation) int { return cmp.Compare(a.Pointer, b.Pointer) })
	return slices.Compact(found)
}

type invalidTexts []schema.Violation

func (f *invalidTexts) text(pointer jsontext.Pointer, text string) {
	if !utf8.ValidString(text) {
		*f = append(*f, schema.Violation{Pointer: string(pointer), Message: "is not valid UTF-8"})
	}
}

func (f *invalidTexts) value(pointer jsontext.Pointer, value any) {
	switch v := value.(type) {
	case string:
		f.text(pointer, v)
	case []any:
		for i, element := range v {
			f.value(pointer.AppendToken(strconv.Itoa(i)), element)
		}
	case map[string]any:
		for name, member := range v {
			if !utf8.ValidString(name) {
				*f = append(*f, schema.Violation{Pointer: string(pointer), Message: "has a member whose name is not valid UTF-8"})
				continue
			}
			f.value(pointer.AppendToken(name), member)
		}
	}
}
