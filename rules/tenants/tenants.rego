# METADATA
# title: Tenants by certificate
# description: >-
#   The organization in the device's certificate is its tenant. Each tenant has its own hubs
#   in data.tenants; a device of an unknown tenant is refused.
# custom:
#   enrollment_groups: [tenant-devices]
#   recordable: [certificate.subject.organization]
package allocation.tenants

import data.dps

# The certificate authority vouches for the subject; a device can write any payload.
organization := dps.certificate.subject.organization[0] if {
	count(dps.certificate.subject.organization) == 1 # of two, which would be the tenant?
}

tenant := data.tenants.organizations[lower(organization)]

# METADATA
# title: A hub of the tenant
# description: By weight if it has several; adding one moves only the devices that it takes over.
hub := dps.weighted(tenant.hubs)

# METADATA
# title: What the device starts with
initial_twin := dps.merge_twin({"tags": {"tenant": tenant.name}})

# METADATA
# title: What the device is told
payload := {"tenant": tenant.name}

# METADATA
# title: Refused
reject contains "the device has no certificate that can be read" if not dps.certificate

reject contains "the certificate's subject does not name exactly one organization" if {
	dps.certificate
	not organization
}

reject contains "the certificate's organization is no tenant in data.tenants" if {
	organization
	not tenant
}

# METADATA
# title: Not now
hold contains concat("", ["no hub of the tenant ", tenant.name, " is linked"]) if not hub
