# METADATA
# title: One of a thousand tenants by certificate, a hub by weight, written as it comes
# custom:
#   enrollment_groups: [bench-large]
package allocation.large

import data.dps

tenant := t if {
	some organization in dps.certificate.subject.organization
	t := data.bench.tenants[lower(organization)]
}

hub := dps.weighted(tenant.hubs)

initial_twin := dps.merge_twin({
	"tags": {
		"tenant": tenant.name,
		"unit": sprintf("%s/%s", [tenant.name, dps.certificate.subject.organizationalUnit[0]]),
		"registration": lower(dps.registration_id),
	},
	"properties": {"desired": {"region": tenant.region, "interval": tenant.interval}},
})

payload := {
	"tenant": tenant.name,
	"region": tenant.region,
	"serial": dps.certificate.serialNumber,
	"greeting": sprintf("welcome %s of %s at %s", [dps.registration_id, tenant.name, hub]),
}

reject contains "no certificate" if not dps.certificate

reject contains "no such tenant" if not tenant

hold contains "no hub of the tenant is linked" if not hub
