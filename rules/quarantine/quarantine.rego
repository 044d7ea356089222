# METADATA
# title: Quarantine and way back
# description: >-
#   A device listed in data.quarantine goes to a separate hub. Once it is off the list, it
#   goes back to the hub that it would have had.
# custom:
#   enrollment_groups: [field-devices]
package allocation.quarantine

import data.dps

default is_quarantined := false

is_quarantined if _ = devices[dps.registration_id_lower] # with any note

# The keys in lower case, because DPS compares registration IDs without case.
devices := {lower(id): note | some id, note in data.quarantine.devices}

quarantine_hub := dps.hub_named(data.quarantine.hub)

production_hubs := dps.linked_hubs - {hub | hub := quarantine_hub}

# METADATA
# title: The quarantine hub, or one in production
# description: >-
#   The production hub depends only on the registration ID and the linked hubs, so a device
#   goes back to where it came from.
hub := quarantine_hub if is_quarantined

hub := dps.spread(production_hubs) if not is_quarantined

# METADATA
# title: What the device starts with
initial_twin := dps.merge_twin({"tags": {"quarantine": is_quarantined}})

# METADATA
# title: What the device is told
# description: That it is in quarantine, not why.
payload := {"quarantine": is_quarantined}

# METADATA
# title: Refused
# description: Without a quarantine hub, the device must not join the others.
reject contains "in quarantine, and no quarantine hub is linked" if {
	is_quarantined
	not quarantine_hub
}

# METADATA
# title: Not now
hold contains "no production hub is linked" if {
	not is_quarantined
	count(production_hubs) == 0
}

hold contains "data.quarantine.devices is not an object" if not has_list

has_list if is_object(data.quarantine.devices)
