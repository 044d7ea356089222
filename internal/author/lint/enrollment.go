package lint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Enrollment is what lints need of an enrollment record.
type Enrollment struct {
	dps.Enrollment // its kind and ID
	// Hubs are the hubs selected in it; empty for all that are linked to the DPS.
	Hubs []string
	// Attestation is symmetricKey, x509 or tpm; empty if the record does not say.
	Attestation string
	// Policy is its allocation policy; empty if the record does not say. Only custom calls the webhook.
	Policy string
	// File and Line are where its record is; empty and 0 if it is in no file.
	File string
	Line int
	// InitialTwin is its own, with tags and properties.desired; nil if it has none.
	InitialTwin map[string]any
}

// ReadEnrollments reads enrollment records as DPS returns them: a list, as `az iot dps enrollment-group list` prints
// it, or one record. Members that lints do not need may be anything.
func ReadEnrollments(r io.Reader) ([]Enrollment, error) {
	whole, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(whole))
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
		AllocationPolicy string         `json:"allocationPolicy"`
		InitialTwin      map[string]any `json:"initialTwin"`
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
		enrollments[i] = Enrollment{Enrollment: e, Hubs: r.IotHubs, Attestation: r.Attestation.Type, Policy: r.AllocationPolicy,
			Line: lineOf(whole, e.ID), InitialTwin: r.InitialTwin}
	}
	return enrollments, nil
}

// lineOf is the first line that has the ID of an enrollment as a text of JSON.
func lineOf(text []byte, id string) int {
	before, _, _ := bytes.Cut(text, []byte(`"`+id+`"`))
	return 1 + bytes.Count(before, []byte("\n"))
}

// unserved finds enrollments that call the webhook and that no rule serves. No rule is to blame, so this is no lint of one.
func unserved(set *ruleset.Ruleset, enrollments []Enrollment) []Finding {
	var found []Finding
	for _, e := range enrollments {
		if e.Policy != "" && !strings.EqualFold(e.Policy, "custom") || set.Serving(e.Enrollment) != nil {
			continue
		}
		what, member := "enrollment group", "enrollment_groups"
		if e.Kind == dps.IndividualEnrollment {
			what, member = "individual enrollment", "individual_enrollments"
		}
		found = append(found, Finding{Lint: Unserved, Level: Error, File: cmp.Or(e.File, set.Options().Name, "."), Line: max(e.Line, 1),
			Message: fmt.Sprintf("no rule serves the %s %s, so its devices are held, and fail after about seven minutes", what, e.ID),
			Fix:     fmt.Sprintf("name it in %s of a rule, or write the rule allocation[\"default\"], which serves all others", member)})
	}
	return found
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
