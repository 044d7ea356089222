package decisionlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// naming are the attributes that name a device, which are recorded only if registration IDs are recorded as they are.
var naming = []string{"/subject/commonName", "/subject/serialNumber", "/serialNumber", "/dnsNames", "/uris", "/sha1Thumbprint", "/sha256Thumbprint"}

// attributes selects what may be recorded of the attributes of a certificate. Each is recorded as it is or not at all,
// so that a replay has no attribute in another form.
func (m *mask) attributes(all map[string]any, paths [][]string, at jsontext.Pointer) map[string]any {
	isWhole := func(path []string) bool { return len(path) == 0 }
	kept := map[string]any{}
	for name, value := range all {
		inside := below(nil, paths, name)
		if slices.ContainsFunc(paths, isWhole) {
			inside = append(inside, nil)
		}
		pointer := at.AppendToken(name)
		if members, ok := value.(map[string]any); ok {
			if members = m.attributes(members, inside, pointer); len(members) > 0 {
				kept[name] = members
			}
			continue
		}
		hidden := m.mode != Plain && slices.Contains(naming, string(pointer))
		if slices.ContainsFunc(inside, isWhole) && !hidden && m.shows(value) {
			kept[name] = value
		}
	}
	return kept
}

// shows reports whether a text or a list of texts can be recorded as it is.
func (m *mask) shows(value any) bool {
	switch v := value.(type) {
	case string:
		return len(v) <= maxText && m.text(v) == v
	case []any:
		return !slices.ContainsFunc(v, func(element any) bool { return !m.shows(element) })
	}
	return true
}

// certificatePointer is what is masked in a request with a certificate; maskedCertificate is there in a replay.
const (
	certificatePointer = "/deviceRuntimeContext/x509/clientCertificate"
	maskedCertificate  = "masked-certificate"
)

// certificateLookup is the call by which a rule reads the certificate, with the attributes that the record has. It is
// nil if the record has none.
func (r *Record) certificateLookup() (*answer.Lookup, error) {
	if r.Certificate == nil || r.Certificate.Attributes == nil || !slices.Contains(r.Masked, certificatePointer) {
		return nil, nil
	}
	var attributes map[string]any
	decoder := json.NewDecoder(bytes.NewReader(r.Certificate.Attributes))
	decoder.UseNumber()
	if err := decoder.Decode(&attributes); err != nil {
		return nil, fmt.Errorf("the record's attributes of the certificate: %w", err)
	}
	return &answer.Lookup{Builtin: ruleset.CertificateBuiltin, Arguments: []any{maskedCertificate}, Result: attributes}, nil
}

// lackingAttributes are JSON pointers to the attributes that are not recorded.
func lackingAttributes(all, recorded map[string]any, at jsontext.Pointer) []string {
	var lacking []string
	for name, value := range all {
		pointer := at.AppendToken(name)
		if members, ok := value.(map[string]any); ok {
			within, _ := recorded[name].(map[string]any)
			lacking = append(lacking, lackingAttributes(members, within, pointer)...)
		} else if _, ok := recorded[name]; !ok {
			lacking = append(lacking, string(pointer))
		}
	}
	slices.Sort(lacking)
	return lacking
}

// allAttributes are the names of all attributes of a certificate.
func allAttributes() map[string]any { return ruleset.CertificateAttributes(new(dps.Certificate)) }
