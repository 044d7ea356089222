package allocation.quarantine_test

import data.allocation.quarantine

listed := {"field-13": "clock set back", "field-14": false}

apart := "Quarantine-Hub.azure-devices.net"

production := ["prod-1.azure-devices.net", "prod-2.azure-devices.net"]

request(id) := {
	"enrollmentGroup": {"enrollmentGroupId": "field-devices"},
	"deviceRuntimeContext": {"registrationId": id},
	"linkedHubs": [apart, production[0], production[1]],
}

on(req, hub) := object.union(req, {"deviceRuntimeContext": {"currentIotHubHostName": hub}})

hub_of(req, devices) := hub if {
	hub := quarantine.hub with input as req with data.quarantine as {"hub": "quarantine-hub", "devices": devices}
}

rejected(req, devices) := reasons if {
	reasons := quarantine.reject with input as req with data.quarantine as {"hub": "quarantine-hub", "devices": devices}
}

held(req, devices) := reasons if {
	reasons := quarantine.hold with input as req with data.quarantine as {"hub": "quarantine-hub", "devices": devices}
}

# With any note, and in any letter case.
test_a_listed_device_goes_apart if {
	every id in ["field-13", "FIELD-13", "field-14"] {
		hub_of(request(id), listed) == apart
		hub_of(on(request(id), production[0]), listed) == apart
		rejected(request(id), listed) == set()
		held(request(id), listed) == set()
	}
}

test_other_devices_use_all_of_production_and_nothing_else if {
	{hub_of(request(sprintf("field-%d", [i])), listed) | some i in numbers.range(100, 130)} == {production[0], production[1]}
}

test_the_way_back_leads_where_the_device_came_from if {
	before := hub_of(request("field-13"), {})
	hub_of(on(request("field-13"), before), listed) == apart
	hub_of(on(request("field-13"), apart), {}) == before
	before in production
}

test_refused_without_a_quarantine_hub if {
	without := object.union(request("field-13"), {"linkedHubs": production})
	rejected(without, listed) == {"in quarantine, and no quarantine hub is linked"}
	not hub_of(without, listed)
	rejected(without, {}) == set()
	hub_of(without, {}) in production
}

test_hold_without_a_production_hub if {
	without := object.union(request("field-1"), {"linkedHubs": [apart]})
	held(without, listed) == {"no production hub is linked"}
	not hub_of(without, listed)
}

test_a_listed_device_needs_no_production_hub if {
	without := object.union(request("field-13"), {"linkedHubs": [apart]})
	held(without, listed) == set()
	hub_of(without, listed) == apart
}

# Without the list, every device would count as healthy.
test_hold_without_the_list if {
	every broken in [{"hub": "quarantine-hub"}, {"hub": "quarantine-hub", "devices": ["field-13"]}] {
		quarantine.hold == {"data.quarantine.devices is not an object"} with input as request("field-13") with data.quarantine as broken
	}
}

test_twin_and_payload if {
	quarantine.initial_twin == {"tags": {"quarantine": true}} with input as request("field-13") with data.quarantine.devices as listed
	quarantine.initial_twin == {"tags": {"quarantine": false}} with input as request("field-1") with data.quarantine.devices as listed
	quarantine.payload == {"quarantine": true} with input as request("field-13") with data.quarantine.devices as listed
	quarantine.payload == {"quarantine": false} with input as request("field-1") with data.quarantine.devices as listed
}

# These repeat data.json as it is, so that an entry that gets lost is noticed: change both together.
test_the_listed_devices_go_to_the_quarantine_hub if {
	hub := "contoso-quarantine-hub.azure-devices.net"
	every id in ["field-0013"] {
		quarantine.hub == hub with input as object.union(request(id), {"linkedHubs": [hub, production[0]]})
	}
}

# These check data.json as it is. A key in another case would never be found.
test_data_is_usable if {
	data.quarantine.hub != ""
	every id, _ in data.quarantine.devices {
		id == lower(id)
	}
}
