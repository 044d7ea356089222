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
	"github.com/usher-dps/usher/internal/decide/ruleset"
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
func (p *Part) Differs(value *dps.Value) bool {
	if p == nil || value == nil {
		return p != nil || value != nil
	}
	recorded, hasDigest := strings.CutPrefix(p.Digest, plainDigest)
	sum := sha256.Sum256(value.AppendJSON(nil))
	return hasDigest && recorded != hex.EncodeToString(sum[:])
}

// requiredIDs are the members that every AllocationRequest must have.
var requiredIDs = []struct{ object, pointer string }{
	{"deviceRuntimeContext", "/deviceRuntimeContext/registrationId"},
	{"individualEnrollment", "/individualEnrollment/registrationId"},
}

// Replay is what a record has to decide its request again.
type Replay struct {
	// Request is an AllocationRequest. A registration ID that is absent from the record is [MaskedID].
	Request []byte
	// Lookups are for decider.Repeat. Attributes of the certificate are among them.
	Lookups []answer.Lookup
	// Masked are JSON pointers to what Request lacks or has in another form; to attributes below the certificate, if
	// the record has others; and to /lookups/NAME, or a member below it, for rows. The empty pointer stands for places that the record counts and does not name.
	Masked []string
}

// Replay returns what there is to decide the request of the record again. Masked is complete also with an error.
func (r *Record) Replay() (Replay, error) {
	replay := Replay{Request: r.Request, Masked: slices.Clone(r.Masked)}
	if r.MaskedMore > 0 {
		replay.Masked = append(replay.Masked, "")
	}
	replay.Masked = append(replay.Masked, r.lackingRows()...)
	lookups, err := r.knownLookups()
	if err != nil {
		return replay, err
	}
	certificate, err := r.certificateLookup()
	if err != nil {
		return replay, err
	}
	if certificate != nil {
		lookups = append(lookups, *certificate)
		at := slices.Index(replay.Masked, certificatePointer)
		replay.Masked = slices.Replace(replay.Masked, at, at+1,
			lackingAttributes(allAttributes(), certificate.Result.(map[string]any), certificatePointer)...)
	}
	replay.Lookups = lookups
	isAbsent := func(pointer string) bool {
		return pointer == requiredIDs[0].pointer || pointer == requiredIDs[1].pointer
	}
	if certificate == nil && !slices.ContainsFunc(r.Masked, isAbsent) {
		return replay, nil
	}
	replay.Request, err = r.fill(certificate != nil)
	return replay, err
}

// fill puts into the request what an AllocationRequest must have, and something in place of the certificate.
func (r *Record) fill(certificate bool) ([]byte, error) {
	var document map[string]any
	decoder := json.NewDecoder(bytes.NewReader(r.Request))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		return nil, fmt.Errorf("the record's request: %w", err)
	}
	for _, id := range requiredIDs {
		object, ok := document[id.object].(map[string]any)
		if !ok || !slices.Contains(r.Masked, id.pointer) {
			continue
		}
		if _, there := object["registrationId"]; !there { // else it is hashed
			object["registrationId"] = MaskedID
		}
	}
	device, _ := document["deviceRuntimeContext"].(map[string]any)
	if x509, ok := device["x509"].(map[string]any); ok && certificate {
		x509["clientCertificate"] = maskedCertificate
	}
	return dps.AppendValue(nil, document), nil
}

// knownLookups are the look-ups of a record.
func (r *Record) knownLookups() ([]answer.Lookup, error) {
	var lookups []answer.Lookup
	for i := range r.Lookups {
		call := &r.Lookups[i]
		_, isRow := ruleset.LookupName(call.Builtin)
		if isRow && !r.knowsKey(call) {
			continue
		}
		lookup := answer.Lookup{Builtin: call.Builtin, Undefined: call.Undefined, Source: call.Source, Version: call.Version, AsOf: call.AsOf, Fault: call.Fault}
		for _, part := range []struct {
			text json.RawMessage
			into any
		}{{call.Arguments, &lookup.Arguments}, {call.Result, &lookup.Result}} {
			if part.text == nil && isRow {
				continue
			}
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
