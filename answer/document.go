package answer

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/usher-dps/usher/dps"
)

// Document is a part of an answer as files and tools show it: members in order, without empty ones. It encodes as a
// JSON object.
type Document []Member

// Member is a member of a [Document].
type Member struct {
	Name  string
	Value any
}

// Document returns the members with these names, in this order: outcome, fault, status (of HTTP), rule, rules (their
// digest), hub, initialTwin, initialTwinUse, payload, reasons, overrides, throttle, retryAfter (such as 90s), alarm,
// detail, cause and violations.
func (a *Answer) Document(names ...string) Document {
	var d Document
	for _, name := range names {
		if value := a.member(name); value != nil {
			d = append(d, Member{name, value})
		}
	}
	return d
}

func (a *Answer) member(name string) any {
	switch name {
	case "outcome", "fault":
		if a.Result.IsOutcome() == (name == "outcome") {
			return string(a.Result)
		}
	case "status":
		return a.Status()
	case "rule":
		return unlessEmpty(a.PackageName())
	case "rules":
		return unlessEmpty(a.Rules)
	case "hub":
		return unlessEmpty(a.Response.IotHubHostName)
	case "initialTwin":
		return object(a.Response.InitialTwin)
	case "initialTwinUse":
		if a.Response.InitialTwin != nil {
			return string(a.InitialTwin)
		}
	case "payload":
		return object(a.Response.Payload)
	case "reasons":
		return list(a.Reasons)
	case "overrides":
		return list(a.Overrides)
	case "throttle":
		return unlessEmpty(a.Throttle)
	case "retryAfter":
		if a.RetryAfter > 0 {
			return a.RetryAfter.String()
		}
	case "alarm":
		return unlessEmpty(a.Alarm)
	case "detail":
		return unlessEmpty(a.Detail)
	case "cause":
		return unlessEmpty(a.CauseText())
	case "violations":
		return list(a.Violations)
	default:
		panic("answer: no member " + name) // a bug of the caller
	}
	return nil
}

func unlessEmpty[T comparable](value T) any {
	var empty T
	if value == empty {
		return nil
	}
	return value
}

func object(value *dps.Value) any {
	if value == nil {
		return nil
	}
	return value.Interface()
}

// list makes texts a JSON array as rules see one; other elements stay as they are.
func list[T any](values []T) any {
	if len(values) == 0 {
		return nil
	}
	elements := make([]any, len(values))
	for i, value := range values {
		elements[i] = value
	}
	return elements
}

// Get returns the value of a member; nil if there is none.
func (d Document) Get(name string) any {
	i := slices.IndexFunc(d, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return d[i].Value
}

// MarshalJSON encodes the document as an object with its members in order.
func (d Document) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, m := range d {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := encoder.Encode(m.Name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := encoder.Encode(m.Value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
