package ruleset_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

func loadRecordable(t *testing.T, value string) (*ruleset.Ruleset, error) {
	t.Helper()
	return ruleset.Load(t.Context(), fstest.MapFS{"line/a.rego": {Data: []byte(`
# METADATA
# custom:
#   enrollment_groups: [g]
#   ` + value + `
package allocation.a

hub := "h"
`)}}, ruleset.Options{Name: "rules"})
}

func TestRecordable(t *testing.T) {
	t.Parallel()
	rs, err := loadRecordable(t, "recordable: [payload.model, payload.a.b, initialTwin.tags, initialTwin.properties.desired.x, certificate, certificate.issuer.country, certificate.notBeforeUtc, optionalDeviceInformation, answer.payload, answer.initialTwin.tags.line, answer.initialTwin.properties]")
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"payload", "model"}, {"payload", "a", "b"}, {"initialTwin", "tags"}, {"initialTwin", "properties", "desired", "x"},
		{"certificate"}, {"certificate", "issuer", "country"}, {"certificate", "notBeforeUtc"},
		{"optionalDeviceInformation"}, {"answer.payload"}, {"answer.initialTwin", "tags", "line"}, {"answer.initialTwin", "properties"}}
	if diff := cmp.Diff(want, rs.Serving(forGroup("g")).Recordable); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if rs, err = loadRecordable(t, "recordable: []"); err != nil || len(rs.Serving(forGroup("g")).Recordable) > 0 {
		t.Error(rs, err)
	}
}

func TestRecordableErrors(t *testing.T) {
	t.Parallel()
	for value, problem := range map[string]string{
		"recordable: payload.model":                  "custom.recordable is not a list of paths",
		"recordable: [payload.model, 7]":             "custom.recordable is not a list of paths",
		"recordable: {payload: model}":               "custom.recordable is not a list of paths",
		"recordable: [model]":                        `custom.recordable: "model" is not a path to something that can be recorded`,
		"recordable: [payloads.model]":               `"payloads.model" is not a path`,
		"recordable: [deviceRuntimeContext.tpm]":     `"deviceRuntimeContext.tpm" is not a path`,
		"recordable: [answer]":                       `"answer" is not a path`,
		"recordable: [payload.]":                     `"payload." has two dots in a row or one at the end`,
		"recordable: [payload..model]":               `"payload..model" has two dots`,
		"recordable: [initialTwin.tag.x]":            `"initialTwin.tag.x" is not in a twin, which has tags and properties.desired`,
		"recordable: [initialTwin.properties.rep.x]": "is not in a twin",
		"recordable: [certificate.subjects]":         `"certificate.subjects" is not an attribute of a certificate`,
		"recordable: [certificate.subject.name]":     `"certificate.subject.name" is not an attribute of a certificate`,
		"recordable: [certificate.version.major]":    `"certificate.version.major" is not an attribute of a certificate`,
		"recordable: [certificate.dnsNames.0]":       `"certificate.dnsNames.0" is not an attribute of a certificate`,
		"recordable: [payload.x, payload.x]":         `"payload.x" is listed twice`,
		"recordables: [payload.x]":                   "unknown member custom.recordables (did you mean recordable?",
		"Recordable: [payload.x]":                    "unknown member custom.Recordable (did you mean recordable?",
	} {
		_, err := loadRecordable(t, value)
		if err == nil || !strings.Contains(err.Error(), problem) || !strings.HasPrefix(err.Error(), "rules/line/a.rego:5: ") {
			t.Errorf("%s: %v, want %q", value, err, problem)
		}
	}
}

// What a record has of a certificate is what rules see of it.
func TestCertificateAttributes(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile("../../../examples/requests/constructed-11-group-x509-signing-initial.json")
	if err != nil {
		t.Fatal(err)
	}
	request, err := dps.ParseAllocationRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	text := request.Body().Get("deviceRuntimeContext").Get("x509").Get("clientCertificate").Text()
	certificate, err := dps.ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	const rule = `payload := usher.certificate(input.deviceRuntimeContext.x509.clientCertificate)` + "\n" + hub
	rs := mustLoad(t, folder("a.rego", serving("allocation.a", "a", rule)), ruleset.Options{})
	seen := evaluate(t, rs.Serving(forGroup("a")), string(body)).Payload
	if diff := cmp.Diff(seen, any(ruleset.CertificateAttributes(certificate))); diff != "" {
		t.Errorf("-rules +record:\n%s", diff)
	}
}
