package verify

import (
	"github.com/usher-dps/usher/dps"
)

// startFromReal starts from real requests of the rule's devices.
func (p *paths) startFromReal(requests []map[string]any) {
	if len(requests) == 0 {
		return
	}
	var real []*draft
	for _, request := range requests {
		if d, ok := draftOf(request, p.serves); ok {
			real = append(real, d)
		}
	}
	p.space.note("started from %d of %d given requests, which this rule serves", min(len(real), maxReal), len(requests))
	p.real = spread(real, maxReal)
	for _, d := range p.real {
		p.try(d)
	}
}

// draftOf returns the draft of a request that was really made, and false if another rule serves it.
func draftOf(document map[string]any, serves func(dps.EnrollmentKind, string) bool) (*draft, bool) {
	text := func(object map[string]any, name string) string {
		value, _ := object[name].(string)
		return value
	}
	d := &draft{record: map[string]any{}}
	for _, kind := range []dps.EnrollmentKind{dps.EnrollmentGroup, dps.IndividualEnrollment} {
		if record, ok := document[string(kind)].(map[string]any); ok {
			d.kind, d.record = kind, clone(record).(map[string]any)
		}
	}
	name := "registrationId"
	if d.kind == dps.EnrollmentGroup {
		name = "enrollmentGroupId"
	}
	d.enrollment = text(d.record, name)
	device, _ := document["deviceRuntimeContext"].(map[string]any)
	d.registration = text(device, "registrationId")
	d.current = text(device, "currentIotHubHostName")
	hubs, _ := document["linkedHubs"].([]any)
	for _, hub := range hubs {
		host, _ := hub.(string)
		d.hubs = append(d.hubs, host)
	}
	if payload, ok := device["payload"].(map[string]any); ok {
		d.payload = clone(payload).(map[string]any)
	}
	if record, ok := d.record["reprovisionPolicy"].(map[string]any); ok {
		update, hasUpdate := record["updateHubAssignment"].(bool)
		migrate, hasMigrate := record["migrateDeviceData"].(bool)
		d.policy = policy{true, update || !hasUpdate, migrate || !hasMigrate}
	}
	if described, ok := d.record["attestation"].(map[string]any); ok {
		d.attestation.kind, d.attestation.described = text(described, "type"), clone(described).(map[string]any)
	}
	if x509, ok := device["x509"].(map[string]any); ok {
		d.attestation.kind, d.attestation.certificate = "x509", text(x509, "clientCertificate")
		if d.attestation.described == nil {
			d.attestation.described = map[string]any{"type": "x509"}
		}
	}
	if usher, ok := document["usher"].(map[string]any); ok {
		d.service = text(usher, "service")
	}
	for _, name := range []string{name, "reprovisionPolicy", "attestation"} {
		delete(d.record, name)
	}
	return d, serves(d.kind, d.enrollment) && d.registration != "" && len(d.hubs) > 0
}
