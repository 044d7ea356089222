package dps

// AllocationRequest is the body that DPS posts to a custom-allocation webhook.
//
// The typed fields are those that a decision needs. They are read leniently: a member of the wrong type leaves its
// field empty, because the JSON Schema check that follows reports all such members at once. Body is the whole.
//
// Source: https://learn.microsoft.com/azure/iot-dps/concepts-custom-allocation
type AllocationRequest struct {
	// Enrollment is the individual enrollment or enrollment group that the device registers with.
	Enrollment Enrollment
	// Device is what DPS knows about the device at this moment.
	Device DeviceRuntimeContext
	// Service is a name for the DPS instance that called, from the webhook's URL; empty if that has none.
	Service string
	// LinkedHubs are the host names that the answer may choose from, in the order and spelling of DPS.
	LinkedHubs []string

	body        *Value // nil unless it was parsed
	certificate *DeviceCertificate
}

// Body is the request as DPS sent it; nil if the request was not parsed. It differs from the bytes in only three ways:
// DPS's own properties have one spelling, those that are null are absent, and a payload that is the JSON text of an
// object is that object. SetService adds a member. Schemas and rules read it.
func (r *AllocationRequest) Body() *Value { return r.body }

// Certificate is the X.509 certificate that the device showed; nil if it showed none.
func (r *AllocationRequest) Certificate() *DeviceCertificate { return r.certificate }

// Document returns a copy of [AllocationRequest.Body], made of map[string]any, []any, string, json.Number, bool and nil;
// nil if there is no body.
func (r *AllocationRequest) Document() map[string]any {
	document, _ := r.body.Interface().(map[string]any)
	return document
}

// EnrollmentKind is one of DPS's two kinds of enrollment.
type EnrollmentKind string

// The two kinds, named like the members of the AllocationRequest that hold them.
const (
	IndividualEnrollment EnrollmentKind = "individualEnrollment"
	EnrollmentGroup      EnrollmentKind = "enrollmentGroup"
)

// Enrollment is the part of an enrollment record that decisions need.
type Enrollment struct {
	Kind EnrollmentKind
	// ID is the registrationId of an individual enrollment or the enrollmentGroupId of a group, as sent. DPS compares
	// both without case.
	ID string
	// Reprovision is what DPS does with a device that registers again.
	Reprovision ReprovisionPolicy
}

// DeviceRuntimeContext is the part of the member of that name that decisions need.
type DeviceRuntimeContext struct {
	// RegistrationID is the device's registration ID, as the device sent it.
	RegistrationID string
	// CurrentIotHubHostName is the hub that the device is assigned to; empty before the first assignment.
	CurrentIotHubHostName string
	// CurrentDeviceID is the device's identity there; empty before the first assignment.
	CurrentDeviceID string
}

// ServiceParameter is the parameter of the webhook's URL that names the DPS instance. DPS sends nothing of its own that
// says which instance calls, and keeps the URL of an enrollment as a whole.
const ServiceParameter = "dps"

// maxServiceLength bounds the name, in bytes. That of a DPS instance has at most 64 characters.
const maxServiceLength = 64

// ValidService reports whether a text can name a DPS instance: 1 to 64 letters, digits, dots, hyphens and underscores.
func ValidService(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return name != "" && len(name) <= maxServiceLength
}

// SetService names the DPS instance that called, in Service and in Body, where schemas and rules find it as
// usher.service. It does not check the name: the schema does.
func (r *AllocationRequest) SetService(name string) {
	if r.Service = name; r.body == nil {
		return
	}
	r.body = r.body.With("usher", ObjectValue([]Value{StringValue(name).Named("service")}))
}

// RegisteredOn returns the request that DPS would send if the device registered again, now with this identity on this hub.
func (r *AllocationRequest) RegisteredOn(hub, deviceID string) *AllocationRequest {
	next := *r
	next.Device.CurrentIotHubHostName, next.Device.CurrentDeviceID = hub, deviceID
	if device := r.body.Get("deviceRuntimeContext"); device != nil {
		device = device.With("currentIotHubHostName", StringValue(hub))
		next.body = r.body.With("deviceRuntimeContext", *device.With("currentDeviceId", StringValue(deviceID)))
	}
	return &next
}

// FirstAssignment reports whether the device has no hub yet.
func (r *AllocationRequest) FirstAssignment() bool {
	return r.Device.CurrentIotHubHostName == ""
}

// LinkedHub finds a hub in LinkedHubs by [SameHub], and returns the spelling there. If both names of the hub are linked,
// it returns the one that the device is on, or else the one that was given.
func (r *AllocationRequest) LinkedHub(name string) (string, bool) {
	found := ""
	for _, hub := range r.LinkedHubs {
		switch {
		case !SameHub(hub, name):
		case sameHost(hub, r.Device.CurrentIotHubHostName):
			return hub, true
		case found == "" || sameHost(hub, name) && !sameHost(found, name):
			found = hub
		}
	}
	return found, found != ""
}

// ReprovisionPolicy is what DPS does with the hub and the twin of a device that registers again.
type ReprovisionPolicy string

// The three policies that the portal offers. An enrollment without one has ReprovisionMigrate, the default that the
// REST specification gives to both members.
const (
	ReprovisionMigrate ReprovisionPolicy = "migrate" // hub may change, device data moves along
	ReprovisionReset   ReprovisionPolicy = "reset"   // hub may change, the initial state is applied
	ReprovisionNever   ReprovisionPolicy = "never"   // hub may not change
)

// read fills the typed fields from the body.
func (r *AllocationRequest) read() {
	for _, kind := range []EnrollmentKind{EnrollmentGroup, IndividualEnrollment} {
		record := r.body.Get(string(kind))
		if record.Kind() != Object {
			continue
		}
		r.Enrollment.Kind = kind
		idMember := "enrollmentGroupId"
		if kind == IndividualEnrollment {
			idMember = "registrationId"
		}
		r.Enrollment.ID = record.Get(idMember).Text()
		r.Enrollment.Reprovision = reprovisionPolicy(record)
	}
	device := r.body.Get("deviceRuntimeContext")
	r.Device.RegistrationID = device.Get("registrationId").Text()
	r.Device.CurrentIotHubHostName = device.Get("currentIotHubHostName").Text()
	r.Device.CurrentDeviceID = device.Get("currentDeviceId").Text()
	if text := device.Get("x509").Get("clientCertificate").Text(); text != "" {
		r.certificate = &DeviceCertificate{Text: text}
	}
	r.Service = r.body.Get("usher").Get("service").Text()
	hubs := r.body.Get("linkedHubs")
	if hubs.Kind() != Array {
		hubs = nil
	}
	r.LinkedHubs = make([]string, 0, hubs.Len())
	for i := range hubs.Len() {
		if hub := hubs.At(i); hub.Kind() == String {
			r.LinkedHubs = append(r.LinkedHubs, hub.text)
		}
	}
}

func reprovisionPolicy(record *Value) ReprovisionPolicy {
	policy := record.Get("reprovisionPolicy")
	// An absent member is true: the REST specification's default for both.
	if policy.Get("updateHubAssignment").Kind() == False {
		return ReprovisionNever
	}
	if policy.Get("migrateDeviceData").Kind() == False {
		return ReprovisionReset
	}
	return ReprovisionMigrate
}
