package lint

import (
	"cmp"
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

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// Bounds of the requests that are made up for a rule.
const (
	maxRequests = 120 // for one attestation type of one kind of enrollment
	maxMined    = 40  // texts taken from the rule and its data
	ruleTimeout = 250 * time.Millisecond
	// blindTimeout is for all requests of a rule together, which mostly take some
	// milliseconds. A rule that is so slow has other troubles.
	blindTimeout = 10 * time.Second
)

// Attestation types, as enrollment records name them.
const (
	symmetricKey = "symmetricKey"
	certificate  = "x509"
	tpm          = "tpm"
)

var attestationWords = map[string]string{
	symmetricKey: "attests with a symmetric key",
	certificate:  "attests with a certificate",
	tpm:          "attests with a TPM",
}

// attestationBlind asks the rule about made-up requests. It is silent about a rule that
// has no answer to any of them: then it is the requests that are wrong.
func attestationBlind(ctx context.Context, s *subject, add report) {
	allocator, err := decider.New(decider.Options{Rules: s.rules, Timeout: ruleTimeout})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, blindTimeout)
	defer cancel()
	answered, blind, used := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, enrollment := range s.sampleEnrollments() {
		kinds := []string{symmetricKey, certificate}
		if enrollment.GroupID == "" {
			kinds = append(kinds, tpm)
		}
		for _, kind := range kinds {
			used[kind] = used[kind] || enrollment.Attestation == "" || enrollment.Attestation == kind
			if answered[kind] {
				continue
			}
			switch said, known := saysAnything(ctx, allocator, s, enrollment, kind); {
			case !known:
				return
			case said:
				answered[kind] = true
			default:
				blind[kind] = true
			}
		}
	}
	if len(answered) == 0 {
		return
	}
	for _, kind := range slices.Sorted(maps.Keys(blind)) {
		if used[kind] && !answered[kind] {
			add(nil, fmt.Sprintf("the rule says nothing about a device that %s", attestationWords[kind]),
				"define hub, reject or hold for it, or set custom.on_undecided")
		}
	}
}

// sampleEnrollments are some that the rule serves: given ones, or made up from its METADATA.
func (s *subject) sampleEnrollments() []Enrollment {
	if len(s.options.Enrollments) > 0 {
		return s.served()
	}
	var samples []Enrollment
	if s.rule.IsDefault() {
		for _, name := range []string{"any-other", "x-1", "usher-check"} {
			if s.set.ForGroup(name) == s.rule {
				samples = append(samples, Enrollment{GroupID: name})
				break
			}
		}
		for _, name := range []string{"any-other", "x-1", "usher-check"} {
			if s.set.ForIndividual(name) == s.rule {
				samples = append(samples, Enrollment{RegistrationID: name})
				break
			}
		}
		return samples
	}
	for _, pattern := range s.rule.Groups {
		for _, name := range matching(pattern) {
			if s.set.ForGroup(name) == s.rule {
				samples = append(samples, Enrollment{GroupID: name})
				break
			}
		}
	}
	for _, pattern := range s.rule.Individuals {
		for _, name := range matching(pattern) {
			if s.set.ForIndividual(name) == s.rule {
				samples = append(samples, Enrollment{RegistrationID: name})
				break
			}
		}
	}
	return samples[:min(len(samples), 8)]
}

// matching makes names that a glob matches; another rule may be more precise about some.
func matching(pattern string) []string {
	var names []string
	for _, filler := range []string{"x1", "a", "", "usher-check"} {
		name := strings.ReplaceAll(strings.ReplaceAll(pattern, "*", filler), "?", "x")
		if isID(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

var registrationID = regexp.MustCompile(`^[A-Za-z0-9:._-]{1,128}$`)

func isID(text string) bool { return registrationID.MatchString(text) }

// sample is what a made-up request is made of.
type sample struct {
	id, organization string
	payload          map[string]any
}

// saysAnything reports whether the rule has an answer to some request of a kind. It is
// not known if the rule takes too long, or the caller has enough.
func saysAnything(ctx context.Context, allocator *decider.Decider, s *subject, enrollment Enrollment, kind string) (said, known bool) {
	hubs := s.sampleHubs()
	for _, sample := range s.samples(enrollment) {
		switch _, a := allocator.AllocateJSON(ctx, sample.request(enrollment, kind, hubs)); a.Result {
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
		names = append(names, strings.NewReplacer("*", "x", "?", "x").Replace(hub.Name))
	}
	for _, v := range s.analysis.Entries["hub"] {
		if name, ok := v.Text(); ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if name == "" || !isID(name) || len(hubs) >= 50 {
			continue
		}
		if !strings.Contains(name, ".") {
			name += ".azure-devices.net"
		}
		hubs = append(hubs, name)
	}
	return hubs
}

// samples vary, one after the other, what a rule goes by, with values out of the rule
// itself; then two things at once.
func (s *subject) samples(enrollment Enrollment) []sample {
	mined := s.mined()
	ids := []string{"device-1"}
	for _, text := range mined {
		for _, id := range []string{text, text + "1", "x" + text} {
			if isID(id) {
				ids = append(ids, id)
			}
		}
	}
	if enrollment.GroupID == "" {
		ids = []string{enrollment.RegistrationID}
	}
	organizations := append([]string{"Contoso"}, mined...)
	payloads := []map[string]any{nil}
	for _, read := range s.analysis.Reads {
		below, found := strings.CutPrefix(read, "/deviceRuntimeContext/payload/")
		if !found {
			continue
		}
		for _, text := range append([]string{"x"}, mined...) {
			payloads = append(payloads, nested(strings.Split(below, "/"), text))
		}
	}
	all := []sample{{ids[0], organizations[0], nil}}
	for _, id := range ids[1:] {
		all = append(all, sample{id, organizations[0], nil})
	}
	for _, organization := range organizations[1:] {
		all = append(all, sample{ids[0], organization, nil})
	}
	for _, payload := range payloads[1:] {
		all = append(all, sample{ids[0], organizations[0], payload})
	}
	for i := 1; i < len(ids)*len(payloads) && len(all) < maxRequests; i++ {
		all = append(all, sample{ids[i%len(ids)], organizations[i%len(organizations)], payloads[i%len(payloads)]})
	}
	return all[:min(len(all), maxRequests)]
}

func nested(path []string, text string) map[string]any {
	var inside any = text
	for _, name := range slices.Backward(path) {
		inside = map[string]any{name: inside}
	}
	object, _ := inside.(map[string]any)
	return object
}

// mined are texts in the rule and in the data that it refers to.
func (s *subject) mined() []string {
	var texts []string
	add := func(v ast.Value) {
		text, ok := v.(ast.String)
		if ok && text != "" && len(text) <= 64 && len(texts) < maxMined && !slices.Contains(texts, string(text)) {
			texts = append(texts, string(text))
		}
	}
	for _, module := range s.modules {
		ast.WalkTerms(module, func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.Ref:
				if !v.HasPrefix(ast.DefaultRootRef) {
					return false
				}
				if found, err := s.data.Find(v.ConstantPrefix()[1:]); err == nil {
					ast.WalkTerms(ast.NewTerm(found), func(t *ast.Term) bool { add(t.Value); return false })
				}
				return true
			default:
				add(v)
			}
			return false
		})
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
	record := map[string]any{"attestation": map[string]any{"type": kind}}
	member := "enrollmentGroup"
	if enrollment.GroupID != "" {
		record["enrollmentGroupId"] = enrollment.GroupID
	} else {
		member, record["registrationId"] = "individualEnrollment", enrollment.RegistrationID
	}
	body, err := json.Marshal(map[string]any{member: record, "deviceRuntimeContext": device, "linkedHubs": hubs})
	if err != nil {
		return nil // texts out of a parsed module always have a JSON form
	}
	return body
}

// sampleCertificate is a certificate such as DPS sends it. The key is no secret: nobody
// checks what it signs.
func sampleCertificate(id, organization string) string {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id, Organization: []string{organization}},
		NotBefore:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	return cmp.Or(base64.StdEncoding.EncodeToString(der), fmt.Sprint(err))
}
