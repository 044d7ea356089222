package decisionlog

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// Answer is what was answered, as far as the record holds it: of the twin, the payload and the cause nothing.
func (r *Record) Answer() answer.Answer {
	d := &r.Decision
	a := answer.Answer{Result: answer.Result(d.Result()), Reasons: d.Reasons, Overrides: d.Overrides, Alarm: d.Alarm, Source: r.Source}
	a.Response.IotHubHostName = d.Hub
	fault := cmp.Or(d.Fault, new(Fault))
	a.Detail, a.Violations = fault.Detail, fault.Violations
	if r.Rules != nil {
		a.Rules, a.Revision = r.Rules.Digest, r.Rules.Revision
	}
	if r.Rule != nil {
		a.Rule = &answer.Rule{Package: r.Rule.Package, Title: r.Rule.Title, Place: r.Rule.File}
	}
	return a
}

// NeedsAttention reports whether an operator should look at the call, as the webhook reports it.
func (r *Record) NeedsAttention() bool {
	call := answer.Call{Answer: r.Answer(), Probe: r.Probe}
	return call.NeedsAttention()
}

// Differs reports whether the twin or payload of another answer is not the recorded one. It is false if the record does not
// say, because its digest has a key or there is none.
func (p *Part) Differs(value map[string]any) bool {
	if p == nil || value == nil {
		return p != nil || value != nil
	}
	recorded, hasDigest := strings.CutPrefix(p.Digest, plainDigest)
	sum := sha256.Sum256(dps.AppendValue(nil, value))
	return hasDigest && recorded != hex.EncodeToString(sum[:])
}

// requiredIDs are the members that every AllocationRequest must have.
var requiredIDs = []struct{ object, pointer string }{
	{"deviceRuntimeContext", "/deviceRuntimeContext/registrationId"},
	{"individualEnrollment", "/individualEnrollment/registrationId"},
}

// Replayable returns the request of a record as an AllocationRequest that can be decided: a registration ID that is
// absent from the record becomes [MaskedID]. masked is the member of the record.
func Replayable(request json.RawMessage, masked []string) ([]byte, error) {
	if !slices.ContainsFunc(masked, func(pointer string) bool {
		return pointer == requiredIDs[0].pointer || pointer == requiredIDs[1].pointer
	}) {
		return request, nil
	}
	var document map[string]any
	decoder := json.NewDecoder(bytes.NewReader(request))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		return nil, fmt.Errorf("the record's request: %w", err)
	}
	for _, id := range requiredIDs {
		object, ok := document[id.object].(map[string]any)
		if !ok || !slices.Contains(masked, id.pointer) {
			continue
		}
		if _, there := object["registrationId"]; !there { // else it is hashed
			object["registrationId"] = MaskedID
		}
	}
	return dps.AppendValue(nil, document), nil
}

// KnownLookups are the look-ups of a record for decider.Repeat.
func KnownLookups(calls []Call) ([]answer.Lookup, error) {
	var lookups []answer.Lookup
	for _, call := range calls {
		lookup := answer.Lookup{Builtin: call.Builtin}
		for _, part := range []struct {
			text json.RawMessage
			into any
		}{{call.Arguments, &lookup.Arguments}, {call.Result, &lookup.Result}} {
			decoder := json.NewDecoder(bytes.NewReader(part.text))
			decoder.UseNumber()
			if err := decoder.Decode(part.into); err != nil {
				return nil, fmt.Errorf("the record's look-up of %s: %w", call.Builtin, err)
			}
		}
		lookups = append(lookups, lookup)
	}
	return lookups, nil
}
