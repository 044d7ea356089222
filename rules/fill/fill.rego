# METADATA
# title: Up to a limit
# description: >-
#   Spreads devices over hubs until these are full, and then over the next ones. A device
#   that has a hub stays there, also if the hub is full.
# custom:
#   enrollment_groups: [growing-devices]
package allocation.fill

import data.dps

# METADATA
# title: A hub with room
# description: The hub that the device is on, unless it is drained or down; else one of the first hubs with room.
hub := dps.current_hub if {
	some weights in data.fill.hubs
	dps.with_room(weights)[dps.current_hub]
} else := dps.weighted(with_room[0])

# What each step of data.fill.hubs has room in, without those that have none.
with_room := [room |
	some weights in data.fill.hubs
	room := dps.with_room(weights)
	count(room) > 0
]

# METADATA
# title: Not now
# description: DPS calls again for some minutes. An operator can link another hub meanwhile, or raise a limit.
hold contains "no hub has room" if not hub
