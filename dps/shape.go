package dps

import (
	"slices"
	"strings"
)

// shape names the members of an object that DPS defines, and the objects below them. All other members are kept exactly
// as sent.
type shape struct {
	members map[string]shapeMember
}

type shapeMember struct {
	name   string // as DPS sends it
	number int    // among the members of its shape, which are at most 64
	below  *shape // nil: a scalar, an array, or JSON that DPS does not define
}

// object returns a shape of members without objects below them.
func object(names ...string) shape {
	s := shape{members: make(map[string]shapeMember, len(names))}
	for _, name := range names {
		s.members[name] = shapeMember{name: name, number: len(s.members)}
	}
	return s
}

// with adds a member that is an object.
func (s shape) with(name string, below shape) shape {
	s.members[name] = shapeMember{name: name, number: len(s.members), below: &below}
	return s
}

// requestShape has the members of an enrollment in all api-versions of the service API.
var requestShape = func() shape {
	certificate := object("certificate").with("info", object("subjectName", "sha1Thumbprint", "sha256Thumbprint",
		"issuerName", "notBeforeUtc", "notAfterUtc", "serialNumber", "version"))
	certificates := object().with("primary", certificate).with("secondary", certificate)
	tpm := object("endorsementKey", "storageRootKey")
	record := func(own ...string) shape {
		return object(append(own, "etag", "provisioningStatus", "createdDateTimeUtc", "lastUpdatedDateTimeUtc",
			"allocationPolicy", "iotHubs", "iotHubHostName", "trustBundleId", "credentialPolicyName",
			"certificatePolicyResourceId", "namespaceName", "certificateAuthorityName", "certificatePolicyName",
			"deviceTypeRefs", "serverCertificateIssuancePolicy", "optionalDeviceInformation")...).
			with("registrationState", object("registrationId", "createdDateTimeUtc", "assignedHub", "connectionProfile", "deviceId",
				"status", "substatus", "errorCode", "errorMessage", "lastUpdatedDateTimeUtc", "etag", "payload")).
			with("attestation", object("type").
				with("tpm", tpm).
				with("symmetricKey", object("primaryKey", "secondaryKey")).
				with("x509", object().
					with("clientCertificates", certificates).
					with("signingCertificates", certificates).
					with("caReferences", object("primary", "secondary")))).
			with("capabilities", object("iotEdge")).
			with("initialTwin", object("tags").with("properties", object("desired"))).
			with("reprovisionPolicy", object("updateHubAssignment", "migrateDeviceData")).
			with("customAllocationDefinition", object("webhookUrl", "apiVersion")).
			with("clientCertificateIssuancePolicy", object("certificateAuthorityName"))
	}
	return object("linkedHubs").
		with("usher", object("service")).
		with("enrollmentGroup", record("enrollmentGroupId")).
		with("individualEnrollment", record("registrationId", "deviceId")).
		with("deviceRuntimeContext", object("registrationId", "currentIotHubHostName", "currentDeviceId", "payload").
			with("symmetricKey", object("primaryKey", "secondaryKey")).
			with("tpm", tpm).
			with("x509", object("clientCertificate")))
}()

// find returns DPS's own member of that name, in any spelling.
func (s *shape) find(name string) (shapeMember, bool) {
	if m, ok := s.members[name]; ok {
		return m, true // the same spelling, but with escapes
	}
	for known, m := range s.members {
		if len(known) == len(name) && strings.EqualFold(known, name) {
			return m, true
		}
	}
	return shapeMember{}, false
}

// settle renames members in another spelling to the one that DPS sends, so that schemas and rules find them. DPS's own
// documentation spells currentIotHubHostName in three ways. If an object also has the right spelling, that one counts,
// and the other stays as it is.
func (s *shape) settle(members []Value, variants []string) {
	// Of several variants the first in the alphabet counts, not the first in the body: the order of members has no
	// meaning in JSON.
	slices.Sort(variants)
	for _, name := range variants {
		own, _ := s.find(name)
		if at(members, own.name) < 0 {
			members[at(members, name)].name = own.name
		}
	}
}

func at(members []Value, name string) int {
	return slices.IndexFunc(members, func(member Value) bool { return member.name == name })
}
