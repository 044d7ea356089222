# METADATA
# title: By the factory's record
# description: >-
#   The factory writes down each device that it makes: its hub, its tenant, and whether it
#   may be used. A device without a record waits, or is refused, as data.inventory says.
# custom:
#   enrollment_groups: [inventory-devices]
package allocation.inventory

import data.dps

device := lookup.inventory(dps.registration_id)

# METADATA
# title: The hub in the record
hub := dps.hub_named(device.hub)

# METADATA
# title: What the device starts with
initial_twin := dps.merge_twin({"tags": tags})

tags["tenant"] := device.tenant

tags["model"] := device.model

# METADATA
# title: What the device is told
payload := {"tenant": device.tenant}

# METADATA
# title: Refused
reject contains "the factory's record says that the device is blocked" if device.blocked

reject contains "the factory has no record of the device" if {
	data.inventory.unknown_devices == "refuse"
	not device
}

# METADATA
# title: Not now
# description: DPS calls again for some minutes, in which the record can arrive.
hold contains "the factory has no record of the device yet" if {
	data.inventory.unknown_devices == "wait"
	not device
}

hold contains concat("", ["the hub in the device's record is not linked: ", device.hub]) if not hub
