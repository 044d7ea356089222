package web_test

// What the swagger of DPS's data plane says of 2026-11-01: data-plane/DeviceProvisioningServices/stable/2026-11-01 in
// specification/deviceprovisioningservices of Azure/azure-rest-api-specs, service.json and device.json.

// operation is an operation with its successful answers. Every other answer has the body ErrorDetails.
type operation struct {
	id      string
	call    string // method and path
	answers map[int]documented
}

// documented is an answer: the type of its body, or "" for none, and its headers, each with a type.
type documented struct {
	body    string
	headers map[string]string
}

var pageHeaders = map[string]string{"x-ms-continuation": "string", "x-ms-item-type": "string", "x-ms-max-item-count": "integer"}

var pending = documented{"RegistrationOperationStatus", map[string]string{"Location": "string", "retry-after": "integer"}}

var operations = []operation{
	{"EnrollmentGroup_RunBulkOperation", "POST /enrollmentGroups", map[int]documented{200: {body: "BulkEnrollmentGroupOperationResult"}}},
	{"EnrollmentGroup_Get", "GET /enrollmentGroups/{id}", map[int]documented{200: {body: "EnrollmentGroup"}}},
	{"EnrollmentGroup_CreateOrUpdate", "PUT /enrollmentGroups/{id}", map[int]documented{200: {body: "EnrollmentGroup"}}},
	{"EnrollmentGroup_Delete", "DELETE /enrollmentGroups/{id}", map[int]documented{204: {}}},
	{"EnrollmentGroup_GetAttestationMechanism", "POST /enrollmentGroups/{id}/attestationmechanism", map[int]documented{200: {body: "AttestationMechanism"}}},
	{"EnrollmentGroup_Query", "POST /enrollmentGroups/query", map[int]documented{200: {"[]EnrollmentGroup", pageHeaders}}},
	{"IndividualEnrollment_RunBulkOperation", "POST /enrollments", map[int]documented{200: {body: "BulkEnrollmentOperationResult"}}},
	{"IndividualEnrollment_Get", "GET /enrollments/{id}", map[int]documented{200: {body: "IndividualEnrollment"}}},
	{"IndividualEnrollment_CreateOrUpdate", "PUT /enrollments/{id}", map[int]documented{200: {body: "IndividualEnrollment"}}},
	{"IndividualEnrollment_Delete", "DELETE /enrollments/{id}", map[int]documented{204: {}}},
	{"IndividualEnrollment_GetAttestationMechanism", "POST /enrollments/{id}/attestationmechanism", map[int]documented{200: {body: "AttestationMechanism"}}},
	{"IndividualEnrollment_Query", "POST /enrollments/query", map[int]documented{200: {"[]IndividualEnrollment", pageHeaders}}},
	{"DeviceRegistrationState_Get", "GET /registrations/{id}", map[int]documented{200: {body: "DeviceRegistrationState"}}},
	{"DeviceRegistrationState_Delete", "DELETE /registrations/{id}", map[int]documented{204: {}}},
	{"DeviceRegistrationState_Query", "POST /registrations/{id}/query", map[int]documented{200: {"[]DeviceRegistrationState", pageHeaders}}},
	{"RuntimeRegistration_RegisterDeviceAndIssueCertificate", "PUT /{idScope}/registrations/{id}/register",
		map[int]documented{200: {body: "RegistrationOperationStatus"}, 202: pending}},
	{"RuntimeRegistration_OperationStatusLookup", "GET /{idScope}/registrations/{id}/operations/{operationId}",
		map[int]documented{200: {body: "RegistrationOperationStatus"}, 202: pending}},
	{"RuntimeRegistration_DeviceRegistrationStatusLookup", "POST /{idScope}/registrations/{id}", map[int]documented{200: {body: "DeviceRegistrationResult"}}},
}

// schemas are types with their members. A name that ends in ! is required; a type is another schema, a list ([]type),
// one of some words (a|b), or string, integer, boolean, time, base64, object.
var schemas = map[string]map[string]string{
	"EnrollmentGroup": {
		"enrollmentGroupId!": "string", "attestation!": "AttestationMechanism", "capabilities": "DeviceCapabilities",
		"iotHubHostName": "string", "namespaceName": "string", "certificateAuthorityName": "string", "certificatePolicyName": "string",
		"initialTwin": "InitialTwin", "etag": "string", "provisioningStatus": "enabled|disabled", "reprovisionPolicy": "ReprovisionPolicy",
		"createdDateTimeUtc": "time", "lastUpdatedDateTimeUtc": "time", "allocationPolicy": "hashed|geoLatency|static|custom",
		"iotHubs": "[]string", "customAllocationDefinition": "CustomAllocationDefinition",
	},
	"IndividualEnrollment": {
		"registrationId!": "string", "deviceId": "string", "namespaceName": "string", "certificateAuthorityName": "string",
		"certificatePolicyName": "string", "registrationState": "DeviceRegistrationState", "optionalDeviceInformation": "object",
		"attestation!": "AttestationMechanism", "capabilities": "DeviceCapabilities", "iotHubHostName": "string",
		"initialTwin": "InitialTwin", "etag": "string", "provisioningStatus": "enabled|disabled", "reprovisionPolicy": "ReprovisionPolicy",
		"createdDateTimeUtc": "time", "lastUpdatedDateTimeUtc": "time", "allocationPolicy": "hashed|geoLatency|static|custom",
		"iotHubs": "[]string", "customAllocationDefinition": "CustomAllocationDefinition",
	},
	"AttestationMechanism": {
		"type!": "none|tpm|x509|symmetricKey", "tpm": "TpmAttestation", "x509": "X509Attestation", "symmetricKey": "SymmetricKeyAttestation",
	},
	"TpmAttestation":             {"endorsementKey!": "string", "storageRootKey": "string"},
	"SymmetricKeyAttestation":    {"primaryKey": "string", "secondaryKey": "string"},
	"X509Attestation":            {"clientCertificates": "X509Certificates", "signingCertificates": "X509Certificates", "caReferences": "X509CAReferences"},
	"X509Certificates":           {"primary": "X509CertificateWithInfo", "secondary": "X509CertificateWithInfo"},
	"X509CAReferences":           {"primary": "string", "secondary": "string"},
	"X509CertificateWithInfo":    {"certificate": "string", "info": "X509CertificateInfo"},
	"DeviceCapabilities":         {"iotEdge!": "boolean"},
	"InitialTwin":                {"tags": "object", "properties": "InitialTwinProperties"},
	"InitialTwinProperties":      {"desired": "object"},
	"ReprovisionPolicy":          {"updateHubAssignment!": "boolean", "migrateDeviceData!": "boolean"},
	"CustomAllocationDefinition": {"webhookUrl!": "string", "apiVersion!": "string"},
	"X509CertificateInfo": {
		"subjectName!": "string", "sha1Thumbprint!": "string", "sha256Thumbprint!": "string", "issuerName!": "string",
		"notBeforeUtc!": "time", "notAfterUtc!": "time", "serialNumber!": "string", "version!": "integer",
	},
	"DeviceRegistrationState": {
		"registrationId": "string", "createdDateTimeUtc": "time", "assignedHub": "string", "deviceId": "string", "status": enrollmentStatus,
		"substatus": substatus, "errorCode": "integer", "errorMessage": "string", "lastUpdatedDateTimeUtc": "time", "etag": "string", "payload": "object",
	},
	"DeviceRegistrationResult": {
		"tpm": "TpmRegistrationResult", "x509": "X509RegistrationResult", "symmetricKey": "SymmetricKeyRegistrationResult",
		"registrationId": "string", "createdDateTimeUtc": "time", "assignedHub": "string", "deviceId": "string", "status": enrollmentStatus,
		"substatus": substatus, "errorCode": "integer", "errorMessage": "string", "lastUpdatedDateTimeUtc": "time", "etag": "string",
		"payload": "object", "issuedCertificateChain": "[]base64",
	},
	"RegistrationOperationStatus":    {"operationId!": "string", "status": enrollmentStatus, "registrationState": "DeviceRegistrationResult"},
	"TpmRegistrationResult":          {"authenticationKey": "string"},
	"SymmetricKeyRegistrationResult": {"enrollmentGroupId": "string"},
	"X509RegistrationResult": {
		"certificateInfo": "X509CertificateInfo", "enrollmentGroupId": "string", "signingCertificateInfo": "X509CertificateInfo",
	},
	"BulkEnrollmentOperationResult":      {"isSuccessful!": "boolean", "errors": "[]BulkEnrollmentOperationError"},
	"BulkEnrollmentGroupOperationResult": {"isSuccessful!": "boolean", "errors": "[]BulkEnrollmentGroupOperationError"},
	"BulkEnrollmentOperationError":       {"registrationId!": "string", "errorCode!": "integer", "errorStatus!": "string"},
	"BulkEnrollmentGroupOperationError":  {"enrollmentGroupId!": "string", "errorCode!": "integer", "errorStatus!": "string"},
	"ErrorDetails":                       {"errorCode": "integer", "trackingId": "string", "message": "string", "info": "object", "timestampUtc": "time"},
}

const (
	enrollmentStatus = "unassigned|assigning|assigned|failed|disabled"
	substatus        = "initialAssignment|deviceDataMigrated|deviceDataReset|reprovisionedToInitialAssignment"
)

// left are the answers, members and headers that no case has, with the reason.
var left = map[string]string{
	"RuntimeRegistration_RegisterDeviceAndIssueCertificate 200": "a registration is never ready at once, and the C# SDK accepts only 202",
	"X509CertificateWithInfo.certificate":                       "DPS reads what is in a certificate, and never returns it",
	"DeviceRegistrationResult.issuedCertificateChain":           "the tests of certificate signing requests have it",
	"DeviceRegistrationResult.tpm":                              "the tests with a TPM in software have it",
	"TpmRegistrationResult.authenticationKey":                   "the tests with a TPM in software have it",
	"ErrorDetails.info":                                         "no published answer has it",
}
