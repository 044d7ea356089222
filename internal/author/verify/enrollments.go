package verify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
)

func (e *explorer) addEnrollments(s *space) {
	type enrollment struct {
		kind dps.EnrollmentKind
		id   string
	}
	var found []enrollment
	add := func(kind dps.EnrollmentKind, ids []string) {
		for _, id := range ids {
			if id != "" && e.set.Serving(dps.Enrollment{Kind: kind, ID: id}) == e.rule &&
				(kind == dps.EnrollmentGroup || registrationID.MatchString(id)) {
				found = addNew(found, enrollment{kind, id})
			}
		}
	}
	groups, individuals := e.rule.Groups, e.rule.Individuals
	if e.rule.IsDefault() {
		groups, individuals = []string{"usher-verify-*"}, []string{"usher-verify-*"}
	}
	addExamples := func(examples func(glob string) []string) {
		for _, name := range groups {
			add(dps.EnrollmentGroup, examples(name))
		}
		for _, name := range individuals {
			add(dps.IndividualEnrollment, examples(name))
		}
	}
	addExamples(globExamples)
	// The rule's constants can be names of enrollments too.
	for _, place := range []string{"/enrollmentGroup/enrollmentGroupId", "/individualEnrollment/registrationId"} {
		for _, text := range e.texts(place) {
			add(dps.EnrollmentGroup, []string{text})
			add(dps.IndividualEnrollment, []string{text})
		}
	}
	if len(found) == 0 {
		addExamples(moreExamples)
	}
	found = sample(s, found, maxEnrollments, "names of enrollments")
	s.add(dimensionOf("enrollments", found,
		func(d *draft, one enrollment) { d.kind, d.enrollment = one.kind, one.id },
		func(d *draft) enrollment { return enrollment{d.kind, d.enrollment} }))
}

func (e *explorer) addAttestations(s *space) {
	all := []attestation{{kind: "symmetricKey"}}
	if e.readsRecord("attestation") || e.reads("/deviceRuntimeContext/symmetricKey", "/deviceRuntimeContext/x509", "/deviceRuntimeContext/tpm") {
		all = append(all, attestation{}, attestation{kind: "tpm"}, attestation{kind: "x509"}, attestation{kind: "x509", enrolled: byReference})
	}
	if e.readsRecord("attestation/x509") {
		all = append(all, attestation{kind: "x509", enrolled: bySecondary}, attestation{kind: "x509", enrolled: byBoth})
	}
	fixed := len(all)
	if e.reads(certificatePlace) {
		all = append(all, attestation{kind: "x509", certificate: "bm90IGEgY2VydGlmaWNhdGU="})
		subjects := e.subjects(s)
		for _, subject := range subjects {
			if one := certified(subject); one.certificate != "" {
				all = append(all, one)
			}
		}
		fixed = min(fixed+1+plainSubjects, len(all))
	}
	d := dimensionOf("attestations", all, func(d *draft, one attestation) { d.attestation = one }, func(d *draft) attestation { return d.attestation })
	d.fixed, d.words = fixed, len(d.values)-fixed
	s.add(d.unread())
}

// plainSubjects is how many subjects come first that do not depend on the rule's constants: one for each attribute, so
// that there are always certificates that can be read.
const plainSubjects = 5

// subjects returns the subjects of certificates: each constant that the rule uses with the certificate, in the
// attributes that the rule reads.
func (e *explorer) subjects(s *space) []subject {
	names := slices.DeleteFunc(e.texts(certificatePlace), func(text string) bool { return text == "" || len(text) > 64 })
	names = sample(s, names, maxMined, "names for certificates")
	attributes := []string{"/subject/organization", "/subject/organizationalUnit", "/subject/commonName", "/dnsNames"}
	seen := func(attribute string) bool {
		return slices.ContainsFunc(e.analysis.Reads, func(read string) bool { return strings.HasPrefix(read, certificatePlace+attribute) })
	}
	named := slices.ContainsFunc(attributes, seen)
	reads := func(attribute string) bool {
		// If the analysis shows that the rule reads one attribute, it shows all that it reads.
		return !named || seen(attribute)
	}
	const name = "device-0001"
	longAgo := time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC)
	subjects := []subject{
		{commonName: name},
		{commonName: name, organizations: []string{"Usher Other"}},
		{commonName: name, units: []string{"Usher Unit"}},
		{commonName: name, dnsNames: []string{"usher-other.example"}},
		{commonName: name, organizations: []string{"Usher Other"}, units: []string{"Usher Unit"}, until: longAgo},
	}
	for n := range variants { // with other serial numbers and thumbprints
		subjects = append(subjects, subject{commonName: fmt.Sprintf("device-%04d", n+2)})
	}
	for i, name := range names {
		if reads(attributes[0]) {
			subjects = append(subjects, subject{organizations: []string{name}, commonName: "device-0001"},
				subject{organizations: []string{name}, commonName: "device-0001", until: longAgo})
			if i < maxRecordValues {
				subjects = append(subjects,
					subject{organizations: []string{strings.ToUpper(name)}, commonName: "device-0001"},
					subject{organizations: []string{name, "Usher Other"}, commonName: "device-0001"})
			}
		}
		if reads(attributes[1]) {
			subjects = append(subjects, subject{units: []string{name}, commonName: "device-0001"})
		}
		if reads(attributes[2]) {
			subjects = append(subjects, subject{commonName: name})
		}
		if reads(attributes[3]) {
			subjects = append(subjects, subject{commonName: "device-0001", dnsNames: []string{name}})
		}
	}
	return subjects
}

func (e *explorer) addPolicies(s *space) {
	all := []policy{{}, {true, false, false}} // never is always tried, because Usher itself acts on it
	if e.readsRecord("reprovisionPolicy") {
		all = append(all, policy{true, true, true}, policy{true, true, false}, policy{true, false, true})
	}
	s.add(dimensionOf("reprovision policies", all, func(d *draft, one policy) { d.policy = one }, func(d *draft) policy { return d.policy }))
}

// addRecord adds the other members of the enrollment that the rule reads.
func (e *explorer) addRecord(s *space) {
	add := func(name string, place jsontext.Pointer, values ...any) {
		set := func(d *draft, value any) {
			if value != any(removed{}) {
				put(d.record, place, clone(value))
			}
		}
		s.add(dimensionOf(name, values, set, func(d *draft) any { return memberOf(d.record, place) }))
	}
	if e.readsRecord("initialTwin") {
		number := json.Number("1")
		add("enrollment twins", "/initialTwin",
			removed{},
			e.twinOfReads(),
			map[string]any{"tags": map[string]any{"site": "a"}, "properties": map[string]any{"desired": map[string]any{"interval": json.Number("60")}}},
			// As tools leave it behind.
			map[string]any{"tags": map[string]any{"$version": number, "site": "a"}, "additional_properties": nil,
				"properties": map[string]any{"desired": map[string]any{"$version": number, "$metadata": map[string]any{}}}},
			map[string]any{},
		)
	}
	if e.readsRecord("capabilities") {
		add("edge capabilities", "/capabilities", removed{}, map[string]any{"iotEdge": true}, map[string]any{"iotEdge": false})
	}
	known := []string{"registrationId", "enrollmentGroupId", "attestation", "reprovisionPolicy", "initialTwin", "capabilities"}
	var places []string
	for _, read := range e.analysis.Reads {
		for _, kind := range []dps.EnrollmentKind{dps.EnrollmentGroup, dps.IndividualEnrollment} {
			place, ok := strings.CutPrefix(read, "/"+string(kind)+"/")
			place, _, _ = strings.Cut(place, "/"+dataflow.AnyMember)
			if member, _, _ := strings.Cut(place, "/"); ok && !slices.Contains(known, member) {
				places = addNew(places, "/"+place)
			}
		}
	}
	for _, place := range spread(places, 8) {
		values := []any{removed{}, "usher-other"}
		if isDate(string(jsontext.Pointer(place).LastToken())) {
			values[1] = "2024-02-29T12:34:56.7890123Z"
		}
		for _, literal := range slices.Concat(e.analysis.At("/enrollmentGroup"+place), e.analysis.At("/individualEnrollment"+place)) {
			if last := string(jsontext.Pointer(place).LastToken()); len(values) < maxRecordValues && (!isDate(last) || isForm([]string{last}, values[1], literal.Value)) {
				values = addNew(values, literal.Value)
			}
		}
		add("values of the enrollment's "+place, jsontext.Pointer(place), values...)
	}
}

// twinOfReads is an enrollment's initial twin that has each member that the rule reads.
func (e *explorer) twinOfReads() any {
	twin := map[string]any{}
	for _, read := range e.analysis.Reads {
		for _, kind := range []dps.EnrollmentKind{dps.EnrollmentGroup, dps.IndividualEnrollment} {
			place, ok := strings.CutPrefix(read, "/"+string(kind)+"/initialTwin/")
			place, _, _ = strings.Cut(place, "/"+dataflow.AnyMember)
			if _, there := get(twin, jsontext.Pointer("/"+place)); ok && place != "" && !there {
				put(twin, jsontext.Pointer("/"+place), "usher-"+strings.ReplaceAll(place, "/", "-"))
			}
		}
	}
	return twin
}

// memberOf returns the value at a JSON pointer, and removed{} if there is none.
func memberOf(object map[string]any, place jsontext.Pointer) any {
	if value, ok := get(object, place); ok {
		return value
	}
	return removed{}
}

func (e *explorer) addService(s *space) {
	if !e.reads(servicePlace) {
		return
	}
	named := slices.DeleteFunc(e.texts(servicePlace), func(name string) bool { return !dps.ValidService(name) })
	names := addNew([]string{"", "usher-other"}, sample(s, named, maxRecordValues, "names of DPS instances")...)
	s.add(dimensionOf("names of DPS instances", names, func(d *draft, name string) { d.service = name }, func(d *draft) string { return d.service }))
}
