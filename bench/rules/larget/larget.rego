# METADATA
# title: One of a thousand tenants by certificate, a hub by weight, written with the evaluator in mind
# description: Weights by full host name, so that nothing need be looked up by label; no merge; texts by concat.
# custom:
#   enrollment_groups: [bench-larget]
package allocation.larget

certificate := usher.certificate(input.deviceRuntimeContext.x509.clientCertificate)

tenant := data.bench.tenants[lower(certificate.subject.organization[0])]

hub := usher.choose(input.deviceRuntimeContext.registrationId, tenant.hosts, input.linkedHubs)

initial_twin := {
	"tags": {
		"tenant": tenant.name,
		"unit": certificate.subject.organizationalUnit[0],
		"registration": input.deviceRuntimeContext.registrationId,
	},
	"properties": {"desired": {"region": tenant.region, "interval": tenant.interval}},
}

payload := {
	"tenant": tenant.name,
	"region": tenant.region,
	"serial": certificate.serialNumber,
	"greeting": concat("", ["welcome ", input.deviceRuntimeContext.registrationId, " at ", hub]),
}

reject contains "no such tenant" if not tenant
