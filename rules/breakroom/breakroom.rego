# METADATA
# title: Breakroom appliances
# description: >-
#   Toasters and heat pumps go to the hub of their kind, each with its initial settings. Any
#   other device is refused.
# custom:
#   enrollment_groups: [contoso-custom-allocated-devices]
package allocation.breakroom

import data.dps

# The keys are the ends of registration IDs.
kinds := {
	"-contoso-tstrsd-007": {
		"type": "toaster",
		"hubs": "*-toasters-hub*",
		"desired": {"state": "ready", "darknessSetting": "medium"},
	},
	"-contoso-hpsd-088": {
		"type": "heatpump",
		"hubs": "*-heatpumps-hub*",
		"desired": {"state": "on", "temperatureSetting": "65"},
	},
}

appliance := kind if {
	id := dps.registration_id_lower
	some suffix, kind in kinds
	endswith(id, suffix)
}

# METADATA
# title: The hub of the appliance's kind
# description: If several hubs of a kind are linked, the appliances spread over them.
hub := dps.spread([appliance.hubs])

# METADATA
# title: What the appliance starts with
# description: It adds to the twin that the enrollment group gives to all of them.
initial_twin := dps.merge_twin({
	"tags": {"deviceType": appliance.type},
	"properties": {"desired": appliance.desired},
})

# METADATA
# title: What the appliance is told
payload := {"deviceType": appliance.type}

# METADATA
# title: Refused
reject contains "neither a toaster nor a heat pump" if not appliance

# METADATA
# title: Not now
hold contains concat("", ["no hub is linked for the kind ", appliance.type]) if not hub
