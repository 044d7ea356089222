# METADATA
# title: The registration, as rules need it
# description: >-
#   Reads the AllocationRequest of DPS, so that a rule need not handle members that DPS
#   leaves out, other spellings, or values of the wrong type that a device sends. Import it
#   with: import data.dps
package dps

# METADATA
# title: Registration ID
# description: As the device sent it. DPS compares it without case, so compare registration_id_lower.
registration_id := input.deviceRuntimeContext.registrationId

# METADATA
# title: Registration ID in lower case
# description: To compare, and to look up in data whose keys are in lower case.
registration_id_lower := lower(registration_id)

# METADATA
# title: The enrollment record
# description: The individual enrollment or the enrollment group of the device; never both.
enrollment := input.individualEnrollment

enrollment := input.enrollmentGroup

# METADATA
# title: Name of the enrollment
# description: >-
#   registrationId of an individual enrollment, enrollmentGroupId of a group. All devices
#   of a group have the same.
enrollment_id := input.individualEnrollment.registrationId

enrollment_id := input.enrollmentGroup.enrollmentGroupId

# METADATA
# title: Name of the enrollment in lower case
# description: To compare, and to look up in data whose keys are in lower case.
enrollment_id_lower := lower(enrollment_id)

# METADATA
# title: Name of the DPS instance
# description: >-
#   The name that the webhook's URL in the enrollment gives it, as in ?dps=contoso-eu. DPS
#   itself does not say which instance calls. Undefined if the URL has none.
service := input.usher.service

# METADATA
# title: How the device proves who it is
# description: symmetricKey, x509, tpm or none. Undefined if DPS does not say.
attestation_type := enrollment.attestation.type

# METADATA
# title: Whether the enrollment makes IoT Edge devices
# description: True or false. The answer to DPS cannot change it.
default iot_edge := false

iot_edge if enrollment.capabilities.iotEdge == true

# METADATA
# title: Whether the device has no hub yet
# description: True or false.
default first_assignment := false

first_assignment if object.get(input.deviceRuntimeContext, "currentIotHubHostName", "") == ""

# METADATA
# title: What DPS does with a device that registers again
# description: >-
#   "migrate": it may change hubs, and its twin moves along. "reset": it may change hubs,
#   and starts from the initial twin. "never": it keeps its hub whatever a rule says.
#   An enrollment without a policy counts as "migrate", the default of both its members.
reprovision_policy := "never" if {
	enrollment.reprovisionPolicy.updateHubAssignment == false
} else := "reset" if {
	enrollment.reprovisionPolicy.migrateDeviceData == false
} else := "migrate"

# METADATA
# title: The hub that the device is on
# description: >-
#   In the spelling of linkedHubs. Undefined on a first assignment, and if the hub is no
#   longer linked, because the device cannot stay there.
current_hub := _linked[usher.hub_name(input.deviceRuntimeContext.currentIotHubHostName)]

# METADATA
# title: The hubs to choose from
# description: input.linkedHubs as a set that contains each hub in one spelling.
linked_hubs := {hub | some hub in _linked}

# METADATA
# title: A linked hub by name
# description: >-
#   By either host name ("contoso-eu.azure-devices.net" or
#   "contoso-eu.device.azure-devices.net") or the first label ("contoso-eu"), without case;
#   in the spelling of linkedHubs. Undefined if no such hub is linked.
hub_named(name) := _linked[usher.hub_name(name)]

# METADATA
# title: Linked hubs by pattern
# description: >-
#   The set of linked hubs whose host name or first label matches a glob such as
#   "contoso-eu-*", without case; * is any text, ? one character. Empty if there are none.
hubs_matching(pattern) := usher.matching(pattern, input.linkedHubs)

# METADATA
# title: A hub by weight
# description: >-
#   This device's hub by an object of host names, first labels or globs to weights, such as
#   {"contoso-eu-*": 2, "contoso-us": 1}. Only linked hubs with a weight above zero count. A
#   device always gets the same hub; adding, draining or re-weighting a hub moves only the
#   devices that this hub gains or loses. Undefined if no hub counts. If a hub is named
#   twice, its higher weight counts.
weighted(weights) := usher.choose(registration_id, weights, input.linkedHubs)

# METADATA
# title: A hub by equal weights
# description: >-
#   This device's hub from an array or set of host names, first labels or globs. Each hub
#   has the same share; otherwise like weighted.
spread(hubs) := usher.choose(registration_id, hubs, input.linkedHubs)

# METADATA
# title: The hubs with room for the device
# description: >-
#   Takes weights as weighted does, and returns an object of host names to weights for it:
#   the linked hubs that are open and not full, by lookup.hub. A device that is on one of
#   the hubs stays there, even if that hub is full; only a hub that is drained or down gives
#   its devices up, each when it registers again. Empty if no hub has room. A hub that
#   lookup.hub does not know has no room.
with_room(weights) := {current_hub: weight} if {
	weight := _weights(weights)[current_hub]
	not _gives_up(current_hub)
} else := {hub: weight |
	some hub, weight in _weights(weights)
	_has_room(hub)
}

# METADATA
# title: Whether the device is among a percentage of all
# description: >-
#   A device is always on the same side, and a device that is in at 10 percent is in at 20.
#   The salt names the purpose: another salt selects other devices. Percentages may have
#   fractions, down to 0.0001. One that is not a number is an error, and no device is in it.
default in_percentage(_, _) := false

in_percentage(salt, percent) if {
	number := percent * 1 # fails for a string, which in Rego is greater than every number
	usher.fraction(concat("/", [salt, registration_id])) * 100 < number
}

# METADATA
# title: What the device sent
# description: >-
#   The object in the device's payload, {} if there is none. The device can write anything
#   there: choose by it only among hubs that the device may have anyway.
default payload := {}

payload := sent if {
	sent := input.deviceRuntimeContext.payload
	is_object(sent)
}

# METADATA
# title: A text in the device's payload
# description: >-
#   By name ("modelId") or path (["device", "model"]). Undefined if it is absent, null,
#   empty or not a string.
payload_string(path) := text if {
	text := object.get(payload, path, "")
	is_string(text)
	text != ""
}

# METADATA
# title: Whether two texts are the same without case
# description: True or false; false unless both are strings.
default same_text(_, _) := false

same_text(a, b) if lower(a) == lower(b)

# METADATA
# title: The device's certificate
# description: >-
#   Subject, issuer, serialNumber, notBeforeUtc, notAfterUtc, dnsNames, uris and thumbprints
#   of the leaf certificate with which the device authenticated at DPS. Attributes of subject and
#   issuer: commonName, organization (an array), organizationalUnit and so on; absent ones
#   are "" or []. Undefined for other attestations and if it cannot be read.
certificate := usher.certificate(input.deviceRuntimeContext.x509.clientCertificate)

# METADATA
# title: The enrollment's certificate
# description: >-
#   DPS's description (subjectName, issuerName, sha256Thumbprint and so on) of the primary
#   certificate in the enrollment, or of the secondary if there is no primary. For a group
#   this is the CA, not the device. Undefined if the enrollment refers to a CA by name.
enrollment_certificate_info := info if {
	info := _certificates.primary.info
} else := info if {
	info := _certificates.secondary.info
}

# METADATA
# title: The enrollment's initial twin with a rule's on top
# description: >-
#   DPS replaces the enrollment's initial twin by the rule's. This merges the two, member by
#   member; the rule's value wins. It leaves out members that tools put into an enrollment's
#   twin and that IoT Hub would refuse ($version, $metadata, additional_properties).
merge_twin(twin) := object.union(_enrollment_twin, twin)

# Reading each kind of enrollment in turn is faster than using enrollment.
_enrollment_twin := json.remove(input.enrollmentGroup.initialTwin, _twin_noise) if {
	input.enrollmentGroup.initialTwin
} else := json.remove(input.individualEnrollment.initialTwin, _twin_noise) if {
	input.individualEnrollment.initialTwin
} else := {}

# A group has signing certificates, an individual enrollment client certificates.
_certificates := input.individualEnrollment.attestation.x509.clientCertificates

_certificates := input.enrollmentGroup.attestation.x509.signingCertificates

_linked := usher.linked(input.linkedHubs)

# What is not a weight is left to weighted, which fails for it.
_weights(weights) := {hub: max([weight | some [other, weight] in named; other == hub]) | some [hub, _] in named} if {
	named := {[hub, weight] |
		some name, weight in weights
		weight != 0
		some hub in usher.matching(usher.hub_name(name), input.linkedHubs)
	}
}

_gives_up(hub) if lookup.hub(usher.hub_name(hub)).state in {"drain", "down"}

_has_room(hub) if {
	state := lookup.hub(usher.hub_name(hub))
	state.state == "open"
	not state.full
}

_twin_noise := [
	"additional_properties",
	"tags/$version",
	"tags/$metadata",
	"tags/additional_properties",
	"properties/additional_properties",
	"properties/desired/$version",
	"properties/desired/$metadata",
	"properties/desired/additional_properties",
]
