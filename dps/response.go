package dps

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// AllocationResponse is the body that DPS obeys. InitialTwin and Payload are objects; nil leaves them
// out.
//
// Source: https://learn.microsoft.com/azure/iot-dps/concepts-custom-allocation
type AllocationResponse struct {
	// IotHubHostName is one of the request's linkedHubs.
	IotHubHostName string
	// InitialTwin is {tags, properties: {desired}}. It replaces the enrollment's own; DPS merges nothing.
	InitialTwin *Value
	// Payload is returned to the device, on each registration.
	Payload *Value
}

// AppendJSON appends the response to b. Members are in a fixed order, those of a twin and a payload that a rule made in the
// order of their names, so that equal responses are equal bytes.
func (r *AllocationResponse) AppendJSON(b []byte) []byte {
	b = append(b, `{"iotHubHostName":`...)
	b = AppendString(b, r.IotHubHostName)
	if r.InitialTwin != nil {
		b = append(b, `,"initialTwin":`...)
		b = r.InitialTwin.AppendJSON(b)
	}
	if r.Payload != nil {
		b = append(b, `,"payload":`...)
		b = r.Payload.AppendJSON(b)
	}
	return append(b, '}')
}

// AppendValue appends a JSON value that has the types of [AllocationRequest.Document], with members in the order of
// their names.
func AppendValue(b []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case string:
		return AppendString(b, v)
	case json.Number:
		return append(b, v...)
	case []any:
		b = append(b, '[')
		for i, element := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = AppendValue(b, element)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		var few [16]string // most objects have fewer members: no allocation
		names := slices.AppendSeq(few[:0], maps.Keys(v))
		slices.Sort(names)
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = AppendString(b, name)
			b = append(b, ':')
			b = AppendValue(b, v[name])
		}
		return append(b, '}')
	default:
		panic("dps: not a JSON value") // a bug in the caller
	}
}

// AppendString appends a text as a JSON string.
func AppendString(b []byte, text string) []byte {
	// The only error is invalid UTF-8, which AppendQuote replaces by U+FFFD.
	b, _ = jsontext.AppendQuote(b, text)
	return b
}
