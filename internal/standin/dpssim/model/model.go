// Package model holds what devices, service clients, DPS and a custom-allocation webhook send each other. Member names
// and their order are those of DPS's data-plane specification and of captured requests.
package model

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Kinds of attestation.
const (
	AttestationTPM          = "tpm"
	AttestationX509         = "x509"
	AttestationSymmetricKey = "symmetricKey"
	AttestationNone         = "none" // of enrollments with which no device can register
)

// Allocation policies.
const (
	PolicyHashed     = "hashed"
	PolicyGeoLatency = "geoLatency"
	PolicyStatic     = "static"
	PolicyCustom     = "custom"
)

// States of a registration.
const (
	StatusAssigning = "assigning"
	StatusAssigned  = "assigned"
	StatusFailed    = "failed"
	StatusDisabled  = "disabled"
)

// Substates of an assigned registration.
const (
	SubstatusInitialAssignment              = "initialAssignment"
	SubstatusDeviceDataMigrated             = "deviceDataMigrated"
	SubstatusDeviceDataReset                = "deviceDataReset"
	SubstatusReprovisionedInitialAssignment = "reprovisionedToInitialAssignment"
)

// States of an enrollment, in ProvisioningStatus.
const (
	ProvisioningEnabled  = "enabled"
	ProvisioningDisabled = "disabled"
)

// Time is a point in time as DPS writes it: in UTC, with up to seven digits after the second and no trailing zeros.
type Time struct{ time.Time }

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.9999999Z07:00"`), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (t *Time) UnmarshalJSON(data []byte) (err error) {
	t.Time, err = time.Parse(`"`+time.RFC3339Nano+`"`, string(data))
	return err
}

// Attestation says how a device proves who it is.
type Attestation struct {
	Type         string        `json:"type"`
	TPM          *TPM          `json:"tpm,omitzero"`
	X509         *X509         `json:"x509,omitzero"`
	SymmetricKey *SymmetricKey `json:"symmetricKey,omitzero"`
}

// TPM holds two TPM2B_PUBLIC structures in base64.
type TPM struct {
	EndorsementKey string `json:"endorsementKey"`
	StorageRootKey string `json:"storageRootKey,omitempty"`
}

// SymmetricKey holds keys in base64. Without keys it is {}, as in DPS's answers.
type SymmetricKey struct {
	PrimaryKey   string `json:"primaryKey,omitempty"`
	SecondaryKey string `json:"secondaryKey,omitempty"`
}

// X509 names the certificates of an individual enrollment (client) or of a group (signing), or the CA certificates that
// were uploaded to DPS, by name.
type X509 struct {
	ClientCertificates  *X509Certificates `json:"clientCertificates,omitzero"`
	SigningCertificates *X509Certificates `json:"signingCertificates,omitzero"`
	CAReferences        *X509CAReferences `json:"caReferences,omitzero"`
}

// X509Certificates are up to two certificates, either of which is enough.
type X509Certificates struct {
	Primary   *X509Certificate `json:"primary,omitzero"`
	Secondary *X509Certificate `json:"secondary,omitzero"`
}

// X509CAReferences are up to two names of uploaded CA certificates.
type X509CAReferences struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

// X509Certificate is a certificate, in PEM or as DER in base64, and what DPS reads from it. DPS never returns the
// certificate itself.
type X509Certificate struct {
	Certificate string               `json:"certificate,omitempty"`
	Info        *X509CertificateInfo `json:"info,omitzero"`
}

// X509CertificateInfo is what DPS reports about a certificate; thumbprints are upper-case hex.
type X509CertificateInfo struct {
	SubjectName      string `json:"subjectName"`
	SHA1Thumbprint   string `json:"sha1Thumbprint"`
	SHA256Thumbprint string `json:"sha256Thumbprint"`
	IssuerName       string `json:"issuerName"`
	NotBeforeUTC     Time   `json:"notBeforeUtc"`
	NotAfterUTC      Time   `json:"notAfterUtc"`
	SerialNumber     string `json:"serialNumber"`
	Version          int    `json:"version"`
}

// Capabilities of a device.
type Capabilities struct {
	IoTEdge bool `json:"iotEdge"`
}

// ReprovisionPolicy says what happens to a device that registers again.
type ReprovisionPolicy struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

// UnmarshalJSONFrom implements [jsonv2.UnmarshalerFrom]. A member that is absent is true, the specification's default.
func (p *ReprovisionPolicy) UnmarshalJSONFrom(decoder *jsontext.Decoder) error {
	type policy ReprovisionPolicy
	given := policy{UpdateHubAssignment: true, MigrateDeviceData: true}
	err := jsonv2.UnmarshalDecode(decoder, &given)
	*p = ReprovisionPolicy(given)
	return err
}

// CustomAllocationDefinition names the webhook.
type CustomAllocationDefinition struct {
	WebhookURL string `json:"webhookUrl"`
	APIVersion string `json:"apiVersion"`
}

// InitialTwin is what a device's twin starts with; both parts are arbitrary JSON objects.
type InitialTwin struct {
	Tags       json.RawMessage `json:"tags,omitzero"`
	Properties *TwinProperties `json:"properties,omitzero"`
}

// TwinProperties is the part of an initial twin below "properties".
type TwinProperties struct {
	Desired json.RawMessage `json:"desired,omitzero"`
}

// Record is an enrollment of either kind: an *[IndividualEnrollment] or an *[EnrollmentGroup].
type Record interface {
	// ID is the field that names the enrollment.
	ID() *string
	// Common is the part that both kinds have.
	Common() *Enrollment
}

// IndividualEnrollment enrolls one device.
type IndividualEnrollment struct {
	RegistrationID            string                   `json:"registrationId"`
	DeviceID                  string                   `json:"deviceId,omitempty"`
	RegistrationState         *DeviceRegistrationState `json:"registrationState,omitzero"`
	OptionalDeviceInformation json.RawMessage          `json:"optionalDeviceInformation,omitzero"`
	Enrollment
}

// ID implements [Record].
func (e *IndividualEnrollment) ID() *string { return &e.RegistrationID }

// EnrollmentGroup enrolls all devices that a key or a certificate vouches for.
type EnrollmentGroup struct {
	EnrollmentGroupID string `json:"enrollmentGroupId"`
	Enrollment
}

// ID implements [Record].
func (g *EnrollmentGroup) ID() *string { return &g.EnrollmentGroupID }

// Enrollment is what both kinds of enrollment have. DPS leaves out what is not set. A member that not every API version
// has is tagged with the first that has it (since) or with those few that have it (only); see [Shape].
type Enrollment struct {
	Attestation    Attestation   `json:"attestation"`
	Capabilities   *Capabilities `json:"capabilities,omitzero"`
	IotHubHostName string        `json:"iotHubHostName,omitempty"`
	// These name resources of Azure Device Registry that issue certificates to devices.
	NamespaceName            string `json:"namespaceName,omitempty" since:"2026-11-01"`
	CertificateAuthorityName string `json:"certificateAuthorityName,omitempty" since:"2026-11-01"`
	CertificatePolicyName    string `json:"certificatePolicyName,omitempty" since:"2026-11-01"`
	// These named them in previews.
	CertificatePolicyResourceID     string          `json:"certificatePolicyResourceId,omitempty" only:"2026-07-01-preview"`
	CredentialPolicyName            string          `json:"credentialPolicyName,omitempty" only:"2025-07-01-preview 2026-04-01"`
	TrustBundleID                   string          `json:"trustBundleId,omitempty" only:"2021-11-01-preview"`
	ClientCertificateIssuancePolicy json.RawMessage `json:"clientCertificateIssuancePolicy,omitzero" only:"2021-11-01-preview"`
	ServerCertificateIssuancePolicy json.RawMessage `json:"serverCertificateIssuancePolicy,omitzero" only:"2021-11-01-preview"`

	DeviceTypeRefs             []string                    `json:"deviceTypeRefs,omitzero" since:"2026-11-02-preview"` // at most one
	InitialTwin                *InitialTwin                `json:"initialTwin,omitzero"`
	ETag                       string                      `json:"etag,omitempty"` // with its quotes
	ProvisioningStatus         string                      `json:"provisioningStatus,omitempty"`
	ReprovisionPolicy          *ReprovisionPolicy          `json:"reprovisionPolicy,omitzero" since:"2018-09-01-preview"`
	CreatedDateTimeUTC         *Time                       `json:"createdDateTimeUtc,omitzero"`
	LastUpdatedDateTimeUTC     *Time                       `json:"lastUpdatedDateTimeUtc,omitzero"`
	AllocationPolicy           string                      `json:"allocationPolicy,omitempty" since:"2018-09-01-preview"`
	IotHubs                    []string                    `json:"iotHubs,omitzero" since:"2018-09-01-preview"`
	CustomAllocationDefinition *CustomAllocationDefinition `json:"customAllocationDefinition,omitzero" since:"2018-09-01-preview"`
	// Unknown holds members that this package does not know, such as those of later API versions.
	Unknown map[string]json.RawMessage `json:",embed"`
}

// Shape removes from a record the members that an API version does not have. DPS hides them in answers to calls of that
// version, and resets them in a record that such a call replaces.
func Shape(record Record, version string) {
	common := record.Common()
	common.Unknown = nil // no version has these
	value := reflect.ValueOf(common).Elem()
	for i := range value.NumField() {
		tag := value.Type().Field(i).Tag
		only, limited := tag.Lookup("only")
		if version < tag.Get("since") || limited && !slices.Contains(strings.Fields(only), version) {
			value.Field(i).SetZero()
		}
	}
}

// Common implements [Record].
func (e *Enrollment) Common() *Enrollment { return e }

// DPS reads names in any case. Records are written with their members in one order.
var (
	readOptions  = jsonv2.MatchCaseInsensitiveNames(true)
	writeOptions = jsonv2.Deterministic(true)
)

// MarshalJSON implements [json.Marshaler].
func (e IndividualEnrollment) MarshalJSON() ([]byte, error) {
	type record IndividualEnrollment
	return jsonv2.Marshal(record(e), writeOptions)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *IndividualEnrollment) UnmarshalJSON(data []byte) error {
	type record IndividualEnrollment
	return jsonv2.Unmarshal(data, (*record)(e), readOptions)
}

// MarshalJSON implements [json.Marshaler].
func (g EnrollmentGroup) MarshalJSON() ([]byte, error) {
	type record EnrollmentGroup
	return jsonv2.Marshal(record(g), writeOptions)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (g *EnrollmentGroup) UnmarshalJSON(data []byte) error {
	type record EnrollmentGroup
	return jsonv2.Unmarshal(data, (*record)(g), readOptions)
}

// RegistrationRequest is the body of a device's register call.
type RegistrationRequest struct {
	RegistrationID string `json:"registrationId,omitempty"`
	TPM            *TPM   `json:"tpm,omitzero"`
	// CSR is a certificate signing request, DER in base64. Versions have it from [FirstCSR].
	CSR     string          `json:"csr,omitempty"`
	Payload json.RawMessage `json:"payload,omitzero"`
}

// FirstCSR is the first API version in which a device can ask for a certificate.
const FirstCSR = "2025-07-01-preview"

// UnmarshalJSON implements [json.Unmarshaler].
func (r *RegistrationRequest) UnmarshalJSON(data []byte) error {
	type request RegistrationRequest
	return jsonv2.Unmarshal(data, (*request)(r), readOptions)
}

// RegistrationOperationStatus answers a register call and each poll.
type RegistrationOperationStatus struct {
	OperationID       string                   `json:"operationId"`
	Status            string                   `json:"status"`
	RegistrationState *DeviceRegistrationState `json:"registrationState,omitzero"`
}

// DeviceRegistrationState is the record of a registration, for devices and service clients.
type DeviceRegistrationState struct {
	X509                   *X509RegistrationResult         `json:"x509,omitzero"`
	TPM                    *TPMRegistrationResult          `json:"tpm,omitzero"`
	SymmetricKey           *SymmetricKeyRegistrationResult `json:"symmetricKey,omitzero"`
	RegistrationID         string                          `json:"registrationId"`
	CreatedDateTimeUTC     *Time                           `json:"createdDateTimeUtc,omitzero"`
	AssignedHub            string                          `json:"assignedHub,omitempty"`
	DeviceID               string                          `json:"deviceId,omitempty"`
	Status                 string                          `json:"status"`
	Substatus              string                          `json:"substatus,omitempty"`
	ErrorCode              int                             `json:"errorCode,omitzero"`
	ErrorMessage           string                          `json:"errorMessage,omitempty"`
	LastUpdatedDateTimeUTC *Time                           `json:"lastUpdatedDateTimeUtc,omitzero"`
	ETag                   string                          `json:"etag,omitempty"` // base64 of the quoted tag
	Payload                json.RawMessage                 `json:"payload,omitzero"`
	// IssuedCertificateChain is DER, from the leaf to the root. Only the device sees it, in the answer to its operation.
	IssuedCertificateChain [][]byte `json:"issuedCertificateChain,omitzero"`
}

// X509RegistrationResult says which certificate DPS saw.
type X509RegistrationResult struct {
	CertificateInfo        *X509CertificateInfo `json:"certificateInfo,omitzero"`
	EnrollmentGroupID      string               `json:"enrollmentGroupId,omitempty"`
	SigningCertificateInfo *X509CertificateInfo `json:"signingCertificateInfo,omitzero"`
}

// TPMRegistrationResult carries the device's key for the hub, which only the device's TPM can read.
type TPMRegistrationResult struct {
	AuthenticationKey string `json:"authenticationKey"`
}

// SymmetricKeyRegistrationResult names the group of the key.
type SymmetricKeyRegistrationResult struct {
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
}

// TPMChallenge is the body of the 401 that answers a TPM's first register call.
type TPMChallenge struct {
	Message           string `json:"message"`
	AuthenticationKey string `json:"authenticationKey"` // base64, see package attest
	KeyName           string `json:"keyName"`
}

// ErrorBody is the body of every refusal.
type ErrorBody struct {
	ErrorCode    int               `json:"errorCode"`
	TrackingID   string            `json:"trackingId"`
	Message      string            `json:"message"`
	TimestampUTC Time              `json:"timestampUtc"`
	Info         map[string]string `json:"info,omitzero"`
}

// AllocationRequest is what DPS posts to the webhook. One of the two enrollments is set.
type AllocationRequest struct {
	IndividualEnrollment *IndividualEnrollment `json:"individualEnrollment,omitzero"`
	EnrollmentGroup      *EnrollmentGroup      `json:"enrollmentGroup,omitzero"`
	DeviceRuntimeContext DeviceRuntimeContext  `json:"deviceRuntimeContext"`
	LinkedHubs           []string              `json:"linkedHubs"`
}

// DeviceRuntimeContext is what DPS knows about the device that registers.
type DeviceRuntimeContext struct {
	RegistrationID string `json:"registrationId"`
	// CurrentIotHubHostName and CurrentDeviceID are set once the device was assigned.
	CurrentIotHubHostName string          `json:"currentIotHubHostName,omitempty"`
	CurrentDeviceID       string          `json:"currentDeviceId,omitempty"`
	SymmetricKey          *SymmetricKey   `json:"symmetricKey,omitzero"` // always {}
	TPM                   *TPM            `json:"tpm,omitzero"`
	X509                  *X509Device     `json:"x509,omitzero"`
	CSR                   string          `json:"csr,omitempty"`
	Payload               json.RawMessage `json:"payload,omitzero"`
}

// X509Device is the certificate that the device presented.
type X509Device struct {
	ClientCertificate []byte `json:"clientCertificate"` // DER, in JSON as base64
}

// AllocationResponse is what a webhook answers.
type AllocationResponse struct {
	IotHubHostName string          `json:"iotHubHostName"`
	InitialTwin    *InitialTwin    `json:"initialTwin,omitzero"`
	Payload        json.RawMessage `json:"payload,omitzero"`
}

// UnmarshalJSON implements [json.Unmarshaler].
func (r *AllocationResponse) UnmarshalJSON(data []byte) error {
	type response AllocationResponse
	return jsonv2.Unmarshal(data, (*response)(r), readOptions)
}

// BulkOperation asks for up to ten changes of enrollments; Mode is create, update, updateIfMatchETag or delete.
type BulkOperation struct {
	Mode             string                 `json:"mode"`
	Enrollments      []IndividualEnrollment `json:"enrollments,omitzero"`
	EnrollmentGroups []EnrollmentGroup      `json:"enrollmentGroups,omitzero"`
}

// UnmarshalJSON implements [json.Unmarshaler].
func (b *BulkOperation) UnmarshalJSON(data []byte) error {
	type operation BulkOperation
	return jsonv2.Unmarshal(data, (*operation)(b), readOptions)
}

// BulkResult answers a bulk operation.
type BulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"`
	Errors       []BulkError `json:"errors"`
}

// BulkError is one change that was refused. One of the two IDs is set.
type BulkError struct {
	RegistrationID    string `json:"registrationId,omitempty"`
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
	ErrorCode         int    `json:"errorCode"`
	ErrorStatus       string `json:"errorStatus"`
}

// Query is the body of a query of enrollments, groups or registration states.
type Query struct {
	Query string `json:"query"`
}

// DeviceIdentity is what DPS writes to a hub for a device. Either the keys or the thumbprints are set.
type DeviceIdentity struct {
	DeviceID     string        `json:"deviceId"`
	SymmetricKey *SymmetricKey `json:"symmetricKey,omitzero"` // base64
	// PrimaryThumbprint and SecondaryThumbprint are SHA-1 or SHA-256 of the device's certificates in upper-case hex.
	// DPS writes that of the leaf certificate that the device registered with.
	PrimaryThumbprint   string `json:"primaryThumbprint,omitempty"`
	SecondaryThumbprint string `json:"secondaryThumbprint,omitempty"`
	IoTEdge             bool   `json:"iotEdge,omitempty"`
}
