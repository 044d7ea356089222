package lint

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// Bounds of the requests that are made up for a rule.
const (
	maxRequests    = 120 // for one attestation type of one kind of enrollment
	maxTexts       = 40  // from the rule and its data
	maxEnrollments = 8
	ruleTimeout    = 250 * time.Millisecond
	// blindTimeout is for all requests of a rule together, which usually take some milliseconds.
	blindTimeout = 10 * time.Second
)

// Attestation types, as enrollment records name them.
const (
	symmetricKey = "symmetricKey"
	certificate  = "x509"
	tpm          = "tpm"
)

var attestations = map[string]string{
	symmetricKey: "a symmetric key",
	certificate:  "a certificate",
	tpm:          "a TPM",
}

// attestationBlind evaluates the rule for made-up requests. It reports nothing if the rule has no answer to any of
// them: then the requests are wrong.
func attestationBlind(ctx context.Context, s *subject, add report) {
	decides, err := decider.New(decider.Options{Rules: s.rules, Timeout: ruleTimeout})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, blindTimeout)
	defer cancel()
	answered, used := map[string]bool{}, map[string]bool{}
	for _, enrollment := range s.sampleEnrollments() {
		for kind := range attestations {
			if kind == tpm && enrollment.Kind == dps.EnrollmentGroup {
				continue
			}
			used[kind] = used[kind] || enrollment.Attestation == "" || enrollment.Attestation == kind
			if answered[kind] {
				continue
			}
			known := false
			if answered[kind], known = s.answers(ctx, decides, enrollment, kind); !known {
				return
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(used)) {
		if used[kind] && !answered[kind] && slices.Contains(slices.Collect(maps.Values(answered)), true) {
			add(nil, "the rule says nothing about a device that attests with "+attestations[kind],
				"define hub, reject or hold for it, or set custom.on_undecided")
		}
	}
}

// sampleEnrollments are some that the rule serves: given ones, or made up from its METADATA.
func (s *subject) sampleEnrollments() []Enrollment {
	if len(s.options.Enrollments) > 0 {
		return s.served()
	}
	patterns := map[dps.EnrollmentKind][]string{dps.EnrollmentGroup: s.rule.Groups, dps.IndividualEnrollment: s.rule.Individuals}
	if s.rule.IsDefault() {
		patterns = map[dps.EnrollmentKind][]string{dps.EnrollmentGroup: {"*"}, dps.IndividualEnrollment: {"*"}}
	}
	var samples []Enrollment
	for _, kind := range []dps.EnrollmentKind{dps.EnrollmentGroup, dps.IndividualEnrollment} {
		for _, pattern := range patterns[kind] {
			for _, filler := range []string{"x1", "a", "", "usher-check"} { // another rule may serve some of these
				e := dps.Enrollment{Kind: kind, ID: fill(pattern, filler)}
				if isID(e.ID) && s.set.Serving(e) == s.rule {
					samples = append(samples, Enrollment{Enrollment: e})
					break
				}
			}
		}
	}
	return samples[:min(len(samples), maxEnrollments)]
}

// fill replaces the wildcards of a glob.
func fill(glob, filler string) string {
	return strings.NewReplacer("*", filler, "?", "x").Replace(glob)
}

var registrationID = regexp.MustCompile(`^[A-Za-z0-9:._-]{1,128}$`)

func isID(text string) bool { return registrationID.MatchString(text) }

// answers reports whether the rule has an answer to some request of a kind. That is unknown if the rule takes too long
// or ctx ends.
func (s *subject) answers(ctx context.Context, decides *decider.Decider, enrollment Enrollment, kind string) (answers, known bool) {
	hubs := s.sampleHubs()
	for _, sample := range s.samples(enrollment) {
		switch _, a := decides.AllocateJSON(ctx, sample.request(enrollment, kind, hubs)); a.Result {
		case answer.Undecided:
		case answer.Timeout, answer.Canceled:
			return false, false
		default: // the rule says something, perhaps something that may not be sent
			return true, true
		}
	}
	return false, true
}

// sampleHubs are hubs that the rule may know, and others.
func (s *subject) sampleHubs() []string {
	hubs := []string{"hub-a.azure-devices.net", "hub-b.azure-devices.net"}
	names := slices.Clone(s.options.Hubs)
	for _, hub := range s.analysis.HubNames {
		names = append(names, fill(hub.Name, "x"))
	}
	for _, v := range s.analysis.Entries["hub"] {
		if name, ok := v.Text(); ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if !isID(name) || len(hubs) >= 50 {
			continue
		}
		if !strings.Contains(name, ".") {
			name += ".azure-devices.net"
		}
		hubs = append(hubs, name)
	}
	return hubs
}

// sample is what a made-up request consists of.
type sample struct {
	id, organization string
	payload          map[string]any
	service          string // the DPS instance that the webhook's URL names
}

// samples vary, one at a time, what a rule reads, with the constants that it compares that with; then two at once.
func (s *subject) samples(enrollment Enrollment) []sample {
	ids := []string{"device-1"}
	for _, text := range s.textsAt("/deviceRuntimeContext/registrationId") {
		for _, id := range []string{text, text + "1", "x" + text} {
			if isID(id) {
				ids = append(ids, id)
			}
		}
	}
	if enrollment.Kind == dps.IndividualEnrollment {
		ids = []string{enrollment.ID}
	}
	organizations := append([]string{"Contoso"}, s.textsAt(dataflow.CertificatePointer)...)
	payloads := []map[string]any{nil}
	for _, read := range s.analysis.Reads {
		below, found := strings.CutPrefix(read, "/deviceRuntimeContext/payload/")
		for _, text := range append([]string{"x"}, s.textsAt(read)...) {
			if found {
				payloads = append(payloads, nested(strings.Split(below, "/"), text))
			}
		}
	}
	services := append([]string{""}, slices.DeleteFunc(s.textsAt("/usher/service"), func(name string) bool { return !dps.ValidService(name) })...)
	all := []sample{{ids[0], organizations[0], nil, ""}}
	for _, service := range services[1:] {
		all = append(all, sample{ids[0], organizations[0], nil, service})
	}
	for _, id := range ids[1:] {
		all = append(all, sample{id, organizations[0], nil, ""})
	}
	for _, organization := range organizations[1:] {
		all = append(all, sample{ids[0], organization, nil, ""})
	}
	for _, payload := range payloads[1:] {
		all = append(all, sample{ids[0], organizations[0], payload, ""})
	}
	for i := 1; i < len(ids)*len(payloads)*len(services) && len(all) < maxRequests; i++ {
		all = append(all, sample{ids[i%len(ids)], organizations[i%len(organizations)], payloads[i%len(payloads)], services[i%len(services)]})
	}
	return all[:min(len(all), maxRequests)]
}

func nested(path []string, text string) map[string]any {
	var inside any = text
	for _, name := range slices.Backward(path) {
		if name == dataflow.AnyMember {
			inside = []any{inside}
			continue
		}
		inside = map[string]any{name: inside}
	}
	object, _ := inside.(map[string]any)
	return object
}

// textsAt are texts that the rule compares with a place of the request.
func (s *subject) textsAt(pointer string) []string {
	var texts []string
	for _, literal := range s.analysis.At(pointer) {
		text, ok := literal.Value.(string)
		if ok && text != "" && len(text) <= 64 && len(texts) < maxTexts && !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return texts
}

func (s sample) request(enrollment Enrollment, kind string, hubs []string) []byte {
	device := map[string]any{"registrationId": s.id}
	switch kind {
	case symmetricKey:
		device["symmetricKey"] = map[string]any{}
	case certificate:
		device["x509"] = map[string]any{"clientCertificate": sampleCertificate(s.id, s.organization)}
	case tpm:
		device["tpm"] = map[string]any{"endorsementKey": "AA==", "storageRootKey": "AA=="}
	}
	if s.payload != nil {
		device["payload"] = s.payload
	}
	idName := "enrollmentGroupId"
	if enrollment.Kind == dps.IndividualEnrollment {
		idName = "registrationId"
	}
	request := map[string]any{
		string(enrollment.Kind): map[string]any{idName: enrollment.ID, "attestation": map[string]any{"type": kind}},
		"deviceRuntimeContext":  device, "linkedHubs": hubs,
	}
	if s.service != "" {
		request["usher"] = map[string]any{"service": s.service}
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil // texts from a parsed module always have a JSON form
	}
	return body
}

// sampleCertificate is a certificate as DPS sends it. The key is no secret, because nothing checks what it signs.
func sampleCertificate(id, organization string) string {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id, Organization: []string{organization}},
		NotBefore:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return fmt.Sprint(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}
