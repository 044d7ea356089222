package verify

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/dps"
)

// draft is a request under construction, with one choice of each dimension.
type draft struct {
	kind         dps.EnrollmentKind
	enrollment   string // its ID
	registration string
	service      string // of the webhook's URL; "" if it has none
	hubs         []string
	current      string
	policy       policy
	attestation  attestation
	record       map[string]any // further members of the enrollment, by JSON pointer
	noPayload    bool
	payload      map[string]any // values by JSON pointer
}

// policy is a reprovision policy; the zero value is an enrollment without one.
type policy struct {
	given           bool
	update, migrate bool
}

// attestation is how the device proves its identity.
type attestation struct {
	kind        string // the enrollment's attestation.type; "" if it has none
	certificate string // base64, for x509
	reference   bool   // the enrollment names its CA instead of describing it
}

// body returns the request as DPS would send it.
func (d *draft) body() []byte { return dps.AppendValue(nil, d.document()) }

func (d *draft) document() map[string]any {
	record := map[string]any{}
	if d.kind == dps.EnrollmentGroup {
		record["enrollmentGroupId"] = d.enrollment
	} else {
		record["registrationId"] = d.enrollment
	}
	device := map[string]any{"registrationId": d.registration}
	if d.current != "" {
		device["currentIotHubHostName"] = d.current
		device["currentDeviceId"] = d.registration
	}
	if d.policy.given {
		record["reprovisionPolicy"] = map[string]any{"updateHubAssignment": d.policy.update, "migrateDeviceData": d.policy.migrate}
	}
	d.attest(record, device)
	putAll(record, d.record)
	if !d.noPayload {
		payload := map[string]any{}
		putAll(payload, d.payload)
		device["payload"] = payload
	}
	hubs := make([]any, len(d.hubs))
	for i, hub := range d.hubs {
		hubs[i] = hub
	}
	document := map[string]any{string(d.kind): record, "deviceRuntimeContext": device, "linkedHubs": hubs}
	if d.service != "" {
		document["usher"] = map[string]any{"service": d.service}
	}
	return document
}

func (d *draft) attest(record, device map[string]any) {
	if d.attestation.kind == "" {
		return
	}
	enrolled := map[string]any{"type": d.attestation.kind}
	record["attestation"] = enrolled
	switch d.attestation.kind {
	case "symmetricKey":
		device["symmetricKey"] = map[string]any{}
	case "tpm":
		device["tpm"] = map[string]any{"endorsementKey": "ZW5kb3JzZW1lbnQ=", "storageRootKey": "c3RvcmFnZQ=="}
	case "x509":
		x509 := map[string]any{}
		device["x509"] = x509
		if d.attestation.certificate != "" {
			x509["clientCertificate"] = d.attestation.certificate
		}
		if d.attestation.reference {
			enrolled["x509"] = map[string]any{"caReferences": map[string]any{"primary": "usher-verify-ca"}}
			return
		}
		certificates := "clientCertificates"
		if d.kind == dps.EnrollmentGroup {
			certificates = "signingCertificates"
		}
		enrolled["x509"] = map[string]any{certificates: map[string]any{"primary": map[string]any{"info": map[string]any{
			"subjectName": "CN=usher-verify-ca", "issuerName": "CN=usher-verify-ca", "version": json.Number("3"),
			"notBeforeUtc": "2024-01-01T00:00:00Z", "notAfterUtc": "2044-01-01T00:00:00Z", "serialNumber": "01",
		}}}}
	}
}

// putAll sets values at JSON pointers, the outer before the inner.
func putAll(object map[string]any, values map[string]any) {
	for _, pointer := range slices.Sorted(maps.Keys(values)) {
		put(object, jsontext.Pointer(pointer), values[pointer])
	}
}

// put sets the value at a JSON pointer, and creates the objects on the way.
func put(object map[string]any, pointer jsontext.Pointer, value any) {
	for step := range pointer.Parent().Tokens() {
		below, ok := object[step].(map[string]any)
		if !ok {
			below = map[string]any{}
			object[step] = below
		}
		object = below
	}
	object[pointer.LastToken()] = value
}
