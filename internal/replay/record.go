package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/allocation"
)

// members of DPS's own in an AllocationRequest, in lower case. A line that begins
// with one of them is a bare request, which spares it a second reading.
var requestMembers = map[string]bool{
	"enrollmentgroup": true, "individualenrollment": true, "deviceruntimecontext": true, "linkedhubs": true,
}

// split tells a record from a bare request. A record is an object with a member
// request, and perhaps decision; anything else, broken JSON too, is returned as it is.
func split(line []byte) (body []byte, recorded *State, err error) {
	decoder := jsontext.NewDecoder(bytes.NewBuffer(line), jsontext.AllowDuplicateNames(true))
	if decoder.PeekKind() != '{' {
		return line, nil, nil
	}
	if _, err := decoder.ReadToken(); err != nil {
		return line, nil, nil
	}
	var request, decision jsontext.Value
	for decoder.PeekKind() == '"' {
		name, err := decoder.ReadToken()
		if err != nil {
			return line, nil, nil
		}
		member := name.String()
		if requestMembers[strings.ToLower(member)] {
			return line, nil, nil
		}
		value, err := decoder.ReadValue()
		if err != nil {
			return line, nil, nil // the decider says what is wrong with it
		}
		target := (*jsontext.Value)(nil)
		switch member {
		case "request":
			target = &request
		case "decision":
			target = &decision
		default:
			continue
		}
		if *target != nil {
			return nil, nil, fmt.Errorf("the record has the member %s twice", member)
		}
		*target = line[int(decoder.InputOffset())-len(value) : decoder.InputOffset()]
	}
	if request == nil {
		return line, nil, nil
	}
	if _, err := decoder.ReadToken(); err != nil {
		return nil, nil, errors.New("the record is not valid JSON")
	}
	if len(bytes.TrimSpace(line[decoder.InputOffset():])) > 0 {
		return nil, nil, errors.New("there is data after the record")
	}
	recorded, err = recordedState(decision)
	return request, recorded, err
}

// recordedState reads {"outcome": ..., "hub": ...} or {"fault": ...}, where fault
// is a kind or an object with one. It returns nil for no decision.
func recordedState(decision jsontext.Value) (*State, error) {
	if decision == nil || decision.Kind() == 'n' {
		return nil, nil
	}
	var d struct {
		Outcome string          `json:"outcome"`
		Hub     string          `json:"hub"`
		Fault   json.RawMessage `json:"fault"`
	}
	if err := json.Unmarshal(decision, &d); err != nil {
		return nil, errors.New(`the record's decision is not an object such as {"outcome": "assigned", "hub": "..."}`)
	}
	result := d.Outcome
	if result == "" && d.Fault != nil {
		var fault struct {
			Kind string `json:"kind"`
		}
		if json.Unmarshal(d.Fault, &result) != nil && json.Unmarshal(d.Fault, &fault) == nil {
			result = fault.Kind
		}
	}
	switch {
	case result == string(allocation.Assigned):
		if d.Hub == "" {
			return nil, errors.New("the record's decision is assigned, and names no hub")
		}
		return &State{Result: result, Hub: d.Hub}, nil
	case isResult(result):
		return &State{Result: result}, nil
	default:
		return nil, errors.New("the record's decision has no outcome that is known: it is assigned, rejected or held, or the kind of a fault")
	}
}

func isResult(result string) bool {
	switch allocation.Outcome(result) {
	case allocation.Rejected, allocation.Held:
		return true
	}
	switch allocation.FaultKind(result) {
	case allocation.Malformed, allocation.InvalidRequest, allocation.Undecided, allocation.BadVerdict,
		allocation.Timeout, allocation.Canceled, allocation.NotReady, allocation.Internal:
		return true
	}
	return false
}
