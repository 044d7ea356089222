# METADATA
# title: Another region while one is down
# description: >-
#   Devices belong to the first region. While an operator says that hubs of it are down or
#   drained, their devices go to its other hubs, and if it has none to the next region. When
#   they register after that, they come back.
# custom:
#   enrollment_groups: [critical-devices]
package allocation.failover

import data.dps

# METADATA
# title: A hub of the first region that is up
# description: Where the device is does not matter, or it would not come back.
hub := dps.weighted(up[0])

# The regions in order, each with its linked hubs that are up, without those that have none.
up := [hubs |
	some region in data.failover.regions
	hubs := {host: weight |
		some name, weight in region.hubs
		host := dps.hub_named(name)
		not out(host)
	}
	dps.weighted(hubs)
]

# Only what the operator says counts: a hub that cannot be counted, or that lookup.hub does not know, is up.
out(host) if lookup.hub(host).state in {"down", "drain"}

# METADATA
# title: Not now
# description: DPS calls again for some minutes, in which an operator can say which hubs are up.
hold contains "no region has a linked hub that is up" if not hub
