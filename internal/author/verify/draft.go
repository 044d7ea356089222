package verify

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// draft is a request under construction. Whatever it is set to, DPS could send its document.
type draft struct {
	kind         dps.EnrollmentKind
	enrollment   string // its ID
	registration string
	service      string // of the webhook's URL; "" if it has none
	hubs         []string
	current      string
	policy       policy
	attestation  attestation
	record       map[string]any // further members of the enrollment
	payload      map[string]any // nil if the device sends none
	now          int64          // the time of the decision in ns since 1970; 0 if the rule cannot read it
	rows         rows           // what the rule's look-ups find
}

// lookups are what a rule that reads the time gets.
func (d *draft) lookups() []answer.Lookup {
	if d.now == 0 {
		return nil
	}
	return []answer.Lookup{{Builtin: nowBuiltin, Result: json.Number(strconv.FormatInt(d.now, 10))}}
}

const nowBuiltin = "time.now_ns"

// key tells requests apart.
func (d *draft) key() [16]byte {
	return d.keyOf(d.body(), d.world())
}

// keyOf is the key of a draft with this body and world.
func (d *draft) keyOf(body []byte, w *world) [16]byte {
	var now []byte
	if d.now != 0 {
		now = strconv.AppendInt(nil, d.now, 10)
	}
	return memoKey(body, now, w.salt())
}

// world is what is outside of the request; nil if the rule looks nothing up.
func (d *draft) world() *world {
	if d.rows == nil {
		return nil
	}
	return newWorld(d.rows, "")
}

// clone returns a copy that shares no part that is modified in place.
func (d *draft) clone() *draft {
	copied := *d
	copied.hubs = slices.Clone(d.hubs)
	copied.record, copied.rows = clone(d.record).(map[string]any), d.rows.clone()
	if d.payload != nil {
		copied.payload = clone(d.payload).(map[string]any)
	}
	return &copied
}

// policy is a reprovision policy; the zero value is an enrollment without one.
type policy struct {
	given           bool
	update, migrate bool
}

// keeps reports whether a device must stay on its hub.
func (p policy) keeps() bool { return p.given && !p.update }

// attestation is how the device proves its identity.
type attestation struct {
	kind        string   // the enrollment's attestation.type; "" if it has none
	certificate string   // base64, for x509
	subject     *subject // of the certificate, if it was generated
	// enrolled says how the enrollment describes its certificates.
	enrolled enrolled
	// described is the enrollment's attestation in a request that was really made; nil otherwise.
	described map[string]any
}

// enrolled is how an enrollment with X.509 attestation describes its certificates.
type enrolled int

const (
	byPrimary enrolled = iota
	bySecondary
	byBoth
	byReference // it names its CA
)

// certified is the attestation by a generated certificate.
func certified(s subject) attestation {
	return attestation{kind: "x509", certificate: certificateOf(s), subject: &s}
}

// body returns the request as DPS would send it.
func (d *draft) body() []byte { return bodyOf(d.document()) }

// usualSize is that of most requests: a buffer that grows from nothing is copied many times.
const usualSize = 1 << 10

// bodyOf returns a document as DPS would send it.
func bodyOf(document map[string]any) []byte {
	return dps.AppendValue(make([]byte, 0, usualSize), document)
}

// document returns the request, of which it shares parts with the draft.
func (d *draft) document() map[string]any {
	record := map[string]any{}
	registration := d.registration
	if d.kind == dps.EnrollmentGroup {
		record["enrollmentGroupId"] = d.enrollment
	} else {
		record["registrationId"] = d.enrollment
		registration = d.enrollment
	}
	device := map[string]any{"registrationId": registration}
	linked := d.hubs
	if d.current != "" {
		device["currentIotHubHostName"] = d.current
		device["currentDeviceId"] = registration
		if d.policy.keeps() {
			linked = []string{d.current} // DPS then names no other
		}
	}
	if d.policy.given {
		record["reprovisionPolicy"] = map[string]any{"updateHubAssignment": d.policy.update, "migrateDeviceData": d.policy.migrate}
	}
	d.attest(record, device)
	maps.Copy(record, d.record)
	if d.payload != nil {
		device["payload"] = d.payload
	}
	hubs := make([]any, len(linked))
	for i, hub := range linked {
		hubs[i] = hub
	}
	document := map[string]any{string(d.kind): record, "deviceRuntimeContext": device, "linkedHubs": hubs}
	if d.service != "" {
		document["usher"] = map[string]any{"service": d.service}
	}
	return document
}

func (d *draft) attest(record, device map[string]any) {
	if d.attestation.described != nil {
		record["attestation"] = d.attestation.described
	}
	if d.attestation.kind == "" {
		return
	}
	described := map[string]any{"type": d.attestation.kind}
	if d.attestation.described == nil {
		record["attestation"] = described
	}
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
		if d.attestation.described == nil {
			described["x509"] = d.attestation.enrolled.describe(d.kind)
		}
	}
}

func (e enrolled) describe(kind dps.EnrollmentKind) map[string]any {
	if e == byReference {
		return map[string]any{"caReferences": map[string]any{"primary": "usher-verify-ca"}}
	}
	certificate := func() any {
		return map[string]any{"info": map[string]any{
			"subjectName": "CN=usher-verify-ca", "issuerName": "CN=usher-verify-ca", "version": json.Number("3"),
			"notBeforeUtc": "2024-01-01T00:00:00Z", "notAfterUtc": "2044-01-01T00:00:00Z", "serialNumber": "01",
		}}
	}
	certificates := map[string]any{}
	if e != bySecondary {
		certificates["primary"] = certificate()
	}
	if e != byPrimary {
		certificates["secondary"] = certificate()
	}
	if kind == dps.EnrollmentGroup {
		return map[string]any{"signingCertificates": certificates}
	}
	return map[string]any{"clientCertificates": certificates}
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

// get returns the value at a JSON pointer, and false if there is none.
func get(value any, pointer jsontext.Pointer) (any, bool) {
	for step := range pointer.Tokens() {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, ok = object[step]; !ok {
			return nil, false
		}
	}
	return value, true
}

// leaf is a part of a draft that can be set on its own.
type leaf struct {
	value any
	// set sets it. It returns false, perhaps after it has changed the draft, if DPS could not send that.
	set func(d *draft, value any) bool
}

// leaves lists the parts of a draft that a rule can compare. serves reports whether an enrollment is the rule's.
func (d *draft) leaves(serves func(dps.EnrollmentKind, string) bool) []leaf {
	var list []leaf
	addText := func(value string, set func(d *draft, text string) bool) {
		list = append(list, leaf{value, func(d *draft, value any) bool {
			text, ok := value.(string)
			return ok && set(d, text)
		}})
	}
	if d.kind == dps.EnrollmentGroup {
		addText(d.registration, func(d *draft, id string) bool { d.registration = id; return registrationID.MatchString(id) })
	}
	addText(d.enrollment, func(d *draft, id string) bool {
		d.enrollment = id
		return serves(d.kind, id) && (d.kind == dps.EnrollmentGroup || registrationID.MatchString(id))
	})
	if d.service != "" {
		addText(d.service, func(d *draft, name string) bool { d.service = name; return dps.ValidService(name) })
	}
	if d.current != "" {
		addText(d.current, func(d *draft, hub string) bool { d.current = hub; return hubHost.MatchString(hub) })
	}
	for i, hub := range d.hubs {
		addText(hub, func(d *draft, hub string) bool {
			fresh := hubHost.MatchString(hub) && !slices.Contains(d.hubs, hub)
			d.hubs[i] = hub
			return fresh
		})
	}
	if d.attestation.subject != nil {
		list = append(list, d.attestation.subject.leaves()...)
	}
	if d.now != 0 {
		list = append(list, leaf{json.Number(strconv.FormatInt(d.now, 10)), func(d *draft, value any) bool {
			number, _ := value.(json.Number)
			now, err := strconv.ParseInt(string(number), 10, 64)
			d.now = now
			return err == nil && now > 0
		}})
	}
	// What the operator writes keeps its form; the device can write anything.
	list = append(list, leavesBelow(d.record, func(d *draft) map[string]any { return d.record }, isForm)...)
	anything := func([]string, any, any) bool { return true }
	return append(list, leavesBelow(d.payload, func(d *draft) map[string]any { return d.payload }, anything)...)
}

// leavesBelow lists the values in an object, the outer after the inner. in returns the same object of a copy of the
// draft, and fits reports whether a value can stand at a place in place of another.
func leavesBelow(object map[string]any, in func(*draft) map[string]any, fits func(place []string, now, value any) bool) []leaf {
	var list []leaf
	for _, place := range slices.Backward(placesOf(object)) {
		now := at(object, place)
		list = append(list, leaf{now, func(d *draft, value any) bool {
			return fits(place, now, value) && replace(in(d), place, value)
		}})
	}
	return list
}

// isForm reports whether a value has the form of the one at a place of the enrollment: a text stays a text, and a date
// a date.
func isForm(place []string, now, value any) bool {
	if reflect.TypeOf(now) != reflect.TypeOf(value) {
		return false
	}
	if !isDate(place[len(place)-1]) {
		return true
	}
	text, ok := value.(string)
	_, err := time.Parse(time.RFC3339, text)
	return ok && err == nil
}

// dates are the members of an enrollment that DPS writes as dates.
var dates = []string{"createdDateTimeUtc", "lastUpdatedDateTimeUtc", "notBeforeUtc", "notAfterUtc"}

func isDate(member string) bool { return slices.Contains(dates, member) }

// placesOf lists all places of a document below its root, the outer before the inner.
func placesOf(document map[string]any) [][]string {
	places := [][]string{nil}
	for i := 0; i < len(places); i++ {
		place := slices.Clip(places[i])
		switch v := at(document, place).(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				places = append(places, append(place, name))
			}
		case []any:
			for n := range v {
				places = append(places, append(place, strconv.Itoa(n)))
			}
		}
	}
	return places[1:]
}

func at(value any, place []string) any {
	for _, step := range place {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			i, _ := strconv.Atoi(step)
			value = v[i]
		}
	}
	return value
}

// removed as the new value of a member means that it is left out.
type removed struct{}

// replace replaces the value at a place. It returns false if that would empty an array.
func replace(document map[string]any, place []string, with any) bool {
	above, last := place[:len(place)-1], place[len(place)-1]
	_, remove := with.(removed)
	switch v := at(document, above).(type) {
	case map[string]any:
		if v[last] = with; remove {
			delete(v, last)
		}
	case []any:
		i, _ := strconv.Atoi(last)
		if v[i] = with; remove {
			return len(v) > 1 && replace(document, above, slices.Delete(v, i, i+1))
		}
	}
	return true
}
