# METADATA
# title: Staged solution change
# description: >-
#   Moves a fleet from one solution's hubs to another's, a percentage at a time. A device
#   that has moved stays moved while the percentage grows, and goes back if it is lowered.
# custom:
#   enrollment_groups: [staged-devices]
package allocation.staged

import data.dps

# Pilots go first, even at 0 percent.
default side := "old"

side := "new" if {
	some id, true in data.staged.pilots
	dps.same_text(id, dps.registration_id)
}

side := "new" if dps.in_percentage(data.staged.name, data.staged.percent)

# METADATA
# title: A hub on the device's side
hub := dps.weighted(data.staged[side].hubs)

# METADATA
# title: What the device starts with
# description: >-
#   Shows the solution which devices are its own. DPS applies it to a device that moves only
#   under the reprovision policy "reset"; under "migrate" the twin moves along unchanged.
initial_twin := dps.merge_twin({"tags": {"solution": data.staged[side].name}})

# METADATA
# title: Not now
# description: Using the other side instead would make devices go back and forth.
hold contains concat("", ["no hub of the ", side, " solution is linked"]) if not hub
