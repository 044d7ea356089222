# METADATA
# title: Data residency
# description: >-
#   A factory's devices stay on the hubs of its region, whatever they report. Within the
#   region, the country that a device reports decides where it starts.
# custom:
#   enrollment_groups: ["*-factory"]
#   recordable: [payload.country, initialTwin]
package allocation.residency

import data.dps

# The region comes from the enrollment, which the operator wrote, not the device.
region := data.residency.regions[data.residency.enrollments[dps.enrollment_id_lower]]

# METADATA
# title: A hub of the region
# description: >-
#   The device's hub if it is in the region, so that a travelling device does not move at
#   every border; otherwise the hub for its country; otherwise any hub of the region.
hub := dps.current_hub if {
	dps.current_hub in linked
} else := near if {
	near := dps.hub_named(region.countries[upper(dps.payload_string("country"))])
	near in linked
} else := dps.spread(region.hubs)

# METADATA
# title: What the device starts with
initial_twin := dps.merge_twin({"tags": {"region": region.name}})

# METADATA
# title: Not now
# description: >-
#   A hub elsewhere is not an alternative. DPS calls again for some minutes, in which an
#   operator can fix the mistake.
hold contains "the enrollment has no region in data.residency" if not region

hold contains concat("", ["no hub of the region ", region.name, " is linked"]) if count(linked) == 0

linked := {hub |
	some name in region.hubs
	hub := dps.hub_named(name)
}
