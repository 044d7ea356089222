package web_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const specified = "2026-11-01"

// conformance calls the stand-in by operation and compares each answer with the specification. It remembers what it saw:
// operations with a status, their headers, and members of schemas.
type conformance struct {
	*stand
	seen map[string]bool
}

// do makes a call of a service client. path has the names in the path and their values.
func (c *conformance) do(id string, path map[string]string, body string, header ...string) answer {
	c.t.Helper()
	method, url := c.find(id, path)
	return c.check(id, c.manageIn(specified, method, url, body, header...))
}

// device makes a call of a device.
func (c *conformance) device(id string, path map[string]string, client *http.Client, token, body string) answer {
	c.t.Helper()
	method, url := c.find(id, path)
	header := map[string]string{"Content-Type": "application/json; charset=utf-8"}
	if token != "" {
		header["Authorization"] = token
	}
	return c.check(id, c.call(client, method, "https://"+dps+url+"?api-version="+specified, body, header))
}

func (c *conformance) find(id string, path map[string]string) (method, url string) {
	c.t.Helper()
	i := slices.IndexFunc(operations, func(o operation) bool { return o.id == id })
	if i < 0 {
		c.t.Fatalf("the specification has no operation %s", id)
	}
	method, url, _ = strings.Cut(operations[i].call, " ")
	for name, value := range path {
		url = strings.ReplaceAll(url, "{"+name+"}", value)
	}
	if strings.Contains(url, "{") {
		c.t.Fatalf("%s: a name is missing in %v", url, path)
	}
	return method, url
}

func (c *conformance) check(id string, got answer) answer {
	c.t.Helper()
	i := slices.IndexFunc(operations, func(o operation) bool { return o.id == id })
	want, ok := operations[i].answers[got.status]
	what := fmt.Sprint(id, " ", got.status)
	if !ok {
		what = id + " error"
		want = documented{"ErrorDetails", map[string]string{"x-ms-error-code": "string"}}
		if got.status < 400 {
			c.t.Errorf("%s: the status %d is not in the specification", id, got.status)
		}
	}
	c.seen[what] = true
	for name, kind := range want.headers {
		if value := got.header.Get(name); value != "" {
			c.seen[what+" "+name] = true
			if _, err := strconv.Atoi(value); kind == "integer" && err != nil {
				c.t.Errorf("%s: %s: %q is not an integer", what, name, value)
			}
		}
	}
	if want.body == "" {
		if len(got.body) > 0 {
			c.t.Errorf("%s: it has a body, %s", what, got.body)
		}
		return got
	}
	if kind := got.header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		c.t.Errorf("%s: Content-Type %s", what, kind)
	}
	var body any
	if err := json.Unmarshal(got.body, &body); err != nil {
		c.t.Fatalf("%s: %v in %s", what, err, got.body)
	}
	c.value(what, want.body, body)
	return got
}

// value compares a value with its type in the specification.
func (c *conformance) value(where, kind string, value any) {
	c.t.Helper()
	item, isList := strings.CutPrefix(kind, "[]")
	text, isText := value.(string)
	ok := true
	switch {
	case isList:
		var items []any
		if items, ok = value.([]any); ok {
			for i, one := range items {
				c.value(fmt.Sprintf("%s[%d]", where, i), item, one)
			}
		}
	case schemas[kind] != nil:
		var object map[string]any
		if object, ok = value.(map[string]any); ok {
			c.members(where, kind, object)
		}
	case strings.Contains(kind, "|"):
		ok = isText && slices.Contains(strings.Split(kind, "|"), text)
	case kind == "time":
		_, err := time.Parse(time.RFC3339Nano, text)
		ok = err == nil
	case kind == "base64":
		_, err := base64.StdEncoding.DecodeString(text)
		ok = isText && err == nil
	case kind == "string":
		ok = isText
	case kind == "integer":
		number, isNumber := value.(float64)
		ok = isNumber && number == float64(int(number))
	case kind == "boolean":
		_, ok = value.(bool)
	case kind == "object":
		_, ok = value.(map[string]any)
	default:
		c.t.Fatalf("the specification has no type %s", kind)
	}
	if !ok {
		c.t.Errorf("%s: %v is not of type %s", where, value, kind)
	}
}

func (c *conformance) members(where, schema string, object map[string]any) {
	c.t.Helper()
	for name := range schemas[schema] {
		if required, ok := strings.CutSuffix(name, "!"); ok && object[required] == nil {
			c.t.Errorf("%s.%s is missing, and required", where, required)
		}
	}
	for name, value := range object {
		kind, ok := schemas[schema][name]
		if !ok {
			kind, ok = schemas[schema][name+"!"]
		}
		if !ok {
			c.t.Errorf("%s.%s is not in the specification", where, name)
			continue
		}
		c.seen[schema+"."+name] = true
		c.value(where+"."+name, kind, value)
	}
}

// keeps expects in an answer every member that was sent, except keys and certificates.
func (c *conformance) keeps(sent string, got answer) {
	c.t.Helper()
	var want map[string]any
	if err := json.Unmarshal([]byte(sent), &want); err != nil {
		c.t.Fatal(err)
	}
	delete(want, "attestation")
	record := got.json()
	for name, value := range want {
		if fmt.Sprint(record[name]) != fmt.Sprint(value) {
			c.t.Errorf("%s: sent %v, got %v", name, value, record[name])
		}
	}
}

// finish expects that every operation, header and member was seen, or is left for a reason.
func (c *conformance) finish() {
	c.t.Helper()
	all := map[string]bool{}
	for _, operation := range operations {
		all[operation.id+" error"] = true
		all[operation.id+" error x-ms-error-code"] = true
		for status, answer := range operation.answers {
			all[fmt.Sprint(operation.id, " ", status)] = true
			for header := range answer.headers {
				all[fmt.Sprint(operation.id, " ", status, " ", header)] = true
			}
		}
	}
	for schema, members := range schemas {
		for name := range members {
			all[schema+"."+strings.TrimSuffix(name, "!")] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		switch reason, isLeft := left[name]; {
		case !c.seen[name] && !isLeft:
			c.t.Errorf("%s has no case, and no reason in left", name)
		case c.seen[name] && isLeft:
			c.t.Errorf("%s has a case, and is in left: %s", name, reason)
		}
	}
	for name := range left {
		if !all[name] {
			c.t.Errorf("%s is in left, and not in the specification", name)
		}
	}
}

// TestConformance makes every call of the specification.
func TestConformance(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	webhook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request model.AllocationRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		switch request.DeviceRuntimeContext.RegistrationID {
		case "slow":
			<-release
		case "refused":
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, `{"iotHubHostName":"`+hubA+`","payload":{"welcome":true}}`)
	}))
	t.Cleanup(webhook.Close)
	ca, caPEM := newCertificate(t, "ca", nil)
	other, otherPEM := newCertificate(t, "another ca", nil)
	press, pressPEM := newCertificate(t, "press", &ca)
	_, nextPEM := newCertificate(t, "press", &other)
	c := &conformance{newStand(t, func(config *dpssim.Config) {
		config.Certificates = []dpssim.CACertificate{{Name: "plant", Certificate: ca.Leaf}, {Name: "next", Certificate: other.Leaf}}
	}), map[string]bool{}}
	id := func(id string) map[string]string { return map[string]string{"id": id} }

	// Enrollments, with every member that a client may send.
	common := `"capabilities":{"iotEdge":true},"namespaceName":"plant-7","certificateAuthorityName":"Plant-CA","certificatePolicyName":"yearly",
		"initialTwin":{"tags":{"line":"a"},"properties":{"desired":{"on":true}}},"provisioningStatus":"enabled",
		"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false},"iotHubs":["` + hubA + `"],"allocationPolicy":"custom",
		"customAllocationDefinition":{"webhookUrl":"` + webhook.URL + `","apiVersion":"2026-11-01"}`
	static := `"allocationPolicy":"static","iotHubHostName":"` + hubB + `"`
	keys := `{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + policyKey + `","secondaryKey":"` + policyKey + `"}}`
	pair := func(member, primary, secondary string) string {
		text, err := json.Marshal(map[string]any{"type": "x509", "x509": map[string]any{member: map[string]any{
			"primary": map[string]string{"certificate": primary}, "secondary": map[string]string{"certificate": secondary},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	groups := map[string]string{
		"keys": keys + "," + common, "static": `{"type":"symmetricKey"},` + static, "none": `{"type":"none"}`,
		"signed":     pair("signingCertificates", caPEM, otherPEM) + `,"allocationPolicy":"hashed"`,
		"referenced": `{"type":"x509","x509":{"caReferences":{"primary":"plant","secondary":"next"}}}`,
	}
	for name, rest := range groups {
		document := `{"enrollmentGroupId":"` + name + `","attestation":` + rest + `}`
		c.keeps(document, c.do("EnrollmentGroup_CreateOrUpdate", id(name), document).want(200))
		c.keeps(document, c.do("EnrollmentGroup_Get", id(name), "").want(200))
		c.do("EnrollmentGroup_GetAttestationMechanism", id(name), "").want(200)
	}
	individuals := map[string]string{
		"keys":   keys + `,"deviceId":"keys-device","optionalDeviceInformation":{"batch":7},` + common,
		"static": `{"type":"symmetricKey"},` + static, "none": `{"type":"none"}`, "press": pair("clientCertificates", pressPEM, nextPEM),
		"tpm": `{"type":"tpm","tpm":{"endorsementKey":"` + tpmKey(t, tpm2.RSAEKTemplate) + `","storageRootKey":"` + tpmKey(t, tpm2.RSASRKTemplate) + `"}}`,
	}
	for name, rest := range individuals {
		document := `{"registrationId":"` + name + `","attestation":` + rest + `}`
		c.keeps(document, c.do("IndividualEnrollment_CreateOrUpdate", id(name), document).want(200))
		c.keeps(document, c.do("IndividualEnrollment_Get", id(name), "").want(200))
		c.do("IndividualEnrollment_GetAttestationMechanism", id(name), "").want(200)
	}
	bulk := `{"mode":"create","enrollments":[{"registrationId":"bulk","attestation":{"type":"symmetricKey"}}]}`
	c.do("IndividualEnrollment_RunBulkOperation", nil, bulk).want(200)
	c.do("IndividualEnrollment_RunBulkOperation", nil, bulk).want(200) // with errors
	bulk = `{"mode":"create","enrollmentGroups":[{"enrollmentGroupId":"bulk","attestation":{"type":"symmetricKey"}}]}`
	c.do("EnrollmentGroup_RunBulkOperation", nil, bulk).want(200)
	c.do("EnrollmentGroup_RunBulkOperation", nil, bulk).want(200)
	c.do("EnrollmentGroup_Query", nil, `{"query":"SELECT * FROM enrollmentGroups"}`, "x-ms-max-item-count", "2").want(200)
	c.do("IndividualEnrollment_Query", nil, `{"query":"SELECT * FROM enrollments"}`, "x-ms-max-item-count", "2").want(200)

	// Devices: one of an individual enrollment, three of the group with keys, two with certificates.
	key, err := base64.StdEncoding.DecodeString(policyKey)
	if err != nil {
		t.Fatal(err)
	}
	devices := []struct {
		id     string
		key    []byte
		client *http.Client
		status string
	}{
		{"keys", key, c.client, "assigned"},
		{"quick", attest.DeriveKey(key, "quick"), c.client, "assigned"},
		{"refused", attest.DeriveKey(key, "refused"), c.client, "failed"},
		{"slow", attest.DeriveKey(key, "slow"), c.client, "assigned"},
		{"press", nil, c.clientWith([]tls.Certificate{press}), "assigned"},
		{"lathe", nil, c.clientWith([]tls.Certificate{issued(t, "lathe", &ca)}), "assigned"},
	}
	for _, d := range devices {
		path := map[string]string{"idScope": scope, "id": d.id}
		token := ""
		if d.key != nil {
			token = attest.NewToken(attest.DeviceResource(scope, d.id), d.key, time.Now().Add(time.Hour), "registration")
		}
		begun := c.device("RuntimeRegistration_RegisterDeviceAndIssueCertificate", path, d.client, token, `{"registrationId":"`+d.id+`","payload":{"a":1}}`).want(202)
		path["operationId"] = begun.json()["operationId"].(string)
		if d.id == "slow" {
			c.device("RuntimeRegistration_OperationStatusLookup", path, d.client, token, "").want(202)
			close(release)
		}
		ended := c.device("RuntimeRegistration_OperationStatusLookup", path, d.client, token, "")
		for ended.status == http.StatusAccepted {
			ended = c.device("RuntimeRegistration_OperationStatusLookup", path, d.client, token, "")
		}
		if got := ended.want(200).json()["status"]; got != d.status {
			t.Errorf("%s: got %s", d.id, ended.body)
		}
		c.device("RuntimeRegistration_DeviceRegistrationStatusLookup", path, d.client, token, `{"registrationId":"`+d.id+`"}`).want(200)
		c.do("DeviceRegistrationState_Get", id(d.id), "").want(200)
	}
	c.do("IndividualEnrollment_Get", id("keys"), "").want(200) // now with the state of the registration
	c.do("DeviceRegistrationState_Query", id("keys"), "", "x-ms-max-item-count", "2").want(200)

	// Refusals of every operation, and what removes.
	for _, operation := range operations {
		path := map[string]string{"id": "nobody", "idScope": scope, "operationId": "1"}
		if strings.Contains(operation.call, "{idScope}") {
			c.device(operation.id, path, c.client, "", "{}").want(401)
			continue
		}
		status := 404
		if !strings.Contains(operation.call, "{id}") || strings.HasPrefix(operation.call, "PUT ") {
			status = 400
		}
		c.do(operation.id, path, "").want(status)
	}
	c.do("DeviceRegistrationState_Delete", id("quick"), "", "If-Match", "*").want(204)
	c.do("IndividualEnrollment_Delete", id("press"), "", "If-Match", "*").want(204)
	c.do("EnrollmentGroup_Delete", id("keys"), "").want(204)
	c.finish()
}

// tpmKey is the public part of a TPM's key, as a device sends it.
func tpmKey(t *testing.T, template tpm2.TPMTPublic) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	return base64.StdEncoding.EncodeToString(tpm2.Marshal(tpm2.New2B(template)))
}

func issued(t *testing.T, name string, issuer *tls.Certificate) tls.Certificate {
	t.Helper()
	certificate, _ := newCertificate(t, name, issuer)
	return certificate
}
