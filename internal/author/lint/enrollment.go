package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Enrollment is what lints need of an enrollment record.
type Enrollment struct {
	// GroupID is the enrollmentGroupId of a group, RegistrationID that of an
	// individual enrollment; the other is empty.
	GroupID, RegistrationID string
	// Hubs are the hubs selected in it; empty for all that are linked to the DPS.
	Hubs []string
	// Attestation is symmetricKey, x509 or tpm; empty if the record does not say.
	Attestation string
}

// ID is the enrollment's name.
func (e Enrollment) ID() string { return e.GroupID + e.RegistrationID }

// ReadEnrollments reads enrollment records as DPS gives them out: a list of them, as
// `az iot dps enrollment-group list` prints, or one. Members that it does not need
// may be anything.
func ReadEnrollments(r io.Reader) ([]Enrollment, error) {
	type record struct {
		EnrollmentGroupID string   `json:"enrollmentGroupId"`
		RegistrationID    string   `json:"registrationId"`
		IotHubs           []string `json:"iotHubs"`
		Attestation       struct {
			Type string `json:"type"`
		} `json:"attestation"`
	}
	var raw json.RawMessage
	decoder := json.NewDecoder(r)
	if err := decoder.Decode(&raw); err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more behind the list of enrollments")
	}
	if text := strings.TrimSpace(string(raw)); strings.HasPrefix(text, "{") {
		raw = json.RawMessage("[" + text + "]")
	}
	var records []record
	if err := json.Unmarshal(raw, &records); err != nil {
		return nil, err
	}
	enrollments := make([]Enrollment, len(records))
	for i, r := range records {
		e := Enrollment{GroupID: r.EnrollmentGroupID, RegistrationID: r.RegistrationID, Hubs: r.IotHubs, Attestation: r.Attestation.Type}
		if (e.GroupID == "") == (e.RegistrationID == "") {
			return nil, fmt.Errorf("/%d: an enrollment has either an enrollmentGroupId or a registrationId", i)
		}
		enrollments[i] = e
	}
	return enrollments, nil
}

// served are the enrollments that the rule decides for.
func (s *subject) served() []Enrollment {
	var served []Enrollment
	for _, e := range s.options.Enrollments {
		rule := s.set.ForGroup(e.GroupID)
		if e.GroupID == "" {
			rule = s.set.ForIndividual(e.RegistrationID)
		}
		if rule == s.rule {
			served = append(served, e)
		}
	}
	return served
}

// linked are the hubs that the rule's enrollments may use; known is false where
// nobody said.
func (s *subject) linked() (hubs []string, known bool) {
	served := s.served()
	if len(s.options.Enrollments) == 0 {
		return s.options.Hubs, len(s.options.Hubs) > 0
	}
	for _, e := range served {
		if len(e.Hubs) == 0 && len(s.options.Hubs) == 0 {
			return nil, false // all that are linked, which are not known
		}
		if len(e.Hubs) == 0 {
			hubs = append(hubs, s.options.Hubs...)
		}
		hubs = append(hubs, e.Hubs...)
	}
	slices.Sort(hubs)
	return slices.Compact(hubs), len(served) > 0
}
