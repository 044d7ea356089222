package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
)

// Enrollment is what lints need of an enrollment record.
type Enrollment struct {
	dps.Enrollment // its kind and ID
	// Hubs are the hubs selected in it; empty for all that are linked to the DPS.
	Hubs []string
	// Attestation is symmetricKey, x509 or tpm; empty if the record does not say.
	Attestation string
	// InitialTwin is its own, with tags and properties.desired; nil if it has none.
	InitialTwin map[string]any
}

// ReadEnrollments reads enrollment records as DPS returns them: a list, as `az iot dps enrollment-group list` prints
// it, or one record. Members that lints do not need may be anything.
func ReadEnrollments(r io.Reader) ([]Enrollment, error) {
	var raw json.RawMessage
	decoder := json.NewDecoder(r)
	if err := decoder.Decode(&raw); err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the list of enrollments")
	}
	if text := string(raw); strings.HasPrefix(text, "{") {
		raw = json.RawMessage("[" + text + "]")
	}
	var records []struct {
		EnrollmentGroupID string   `json:"enrollmentGroupId"`
		RegistrationID    string   `json:"registrationId"`
		IotHubs           []string `json:"iotHubs"`
		Attestation       struct {
			Type string `json:"type"`
		} `json:"attestation"`
		InitialTwin map[string]any `json:"initialTwin"`
	}
	if err := json.Unmarshal(raw, &records); err != nil {
		return nil, err
	}
	enrollments := make([]Enrollment, len(records))
	for i, r := range records {
		if (r.EnrollmentGroupID == "") == (r.RegistrationID == "") {
			return nil, fmt.Errorf("/%d: an enrollment has either an enrollmentGroupId or a registrationId", i)
		}
		e := dps.Enrollment{Kind: dps.EnrollmentGroup, ID: r.EnrollmentGroupID}
		if r.RegistrationID != "" {
			e = dps.Enrollment{Kind: dps.IndividualEnrollment, ID: r.RegistrationID}
		}
		enrollments[i] = Enrollment{Enrollment: e, Hubs: r.IotHubs, Attestation: r.Attestation.Type, InitialTwin: r.InitialTwin}
	}
	return enrollments, nil
}

// served are the enrollments that the rule serves.
func (s *subject) served() []Enrollment {
	return slices.DeleteFunc(slices.Clone(s.options.Enrollments), func(e Enrollment) bool { return s.set.Serving(e.Enrollment) != s.rule })
}

// linked are the hubs that the rule's enrollments may use; known is false if they are not given.
func (s *subject) linked() (hubs []string, known bool) {
	if len(s.options.Enrollments) == 0 {
		return s.options.Hubs, len(s.options.Hubs) > 0
	}
	served := s.served()
	for _, e := range served {
		if len(e.Hubs) == 0 && len(s.options.Hubs) == 0 {
			return nil, false // all that are linked, which are unknown
		}
		if len(e.Hubs) == 0 {
			hubs = append(hubs, s.options.Hubs...)
		}
		hubs = append(hubs, e.Hubs...)
	}
	slices.Sort(hubs)
	return slices.Compact(hubs), len(served) > 0
}
