# METADATA
# title: Everything else
# description: >-
#   Serves the enrollments that no other rule names. A device stays on its hub while that is
#   linked; a new one goes to a hub by weight.
package allocation.default

import data.dps

# METADATA
# title: The hub that the device is on, or one by weight
# description: >-
#   Weights are in data.default.weights, by host name or first label. Without any, all linked
#   hubs get the same share. A hub with weight 0 or without one gets no new devices.
hub := dps.current_hub if {
	dps.current_hub
} else := dps.spread(input.linkedHubs) if {
	count(weights) == 0
} else := dps.weighted(weights)

default weights := {}

weights := data.default.weights

# METADATA
# title: Not now
hold contains "no linked hub has a weight above 0 in data.default.weights" if not hub
