package allocation.default_test

import data.allocation["default"] as everything_else

linked := ["hub-a.azure-devices.net", "Hub-B.azure-devices.net", "hub-c.azure-devices.net"]

request(id) := {
	"enrollmentGroup": {"enrollmentGroupId": "any"},
	"deviceRuntimeContext": {"registrationId": id},
	"linkedHubs": linked,
}

fleet := {sprintf("dev-%d", [i]) | some i in numbers.range(1, 60)}

hubs_by(weights) := {hub |
	some id in fleet
	hub := everything_else.hub with input as request(id) with data["default"].weights as weights
}

test_all_linked_hubs_without_weights if {
	hubs_by({}) == {linked[0], linked[1], linked[2]}
}

test_only_hubs_with_weight if {
	hubs_by({"hub-a": 1, "HUB-B.azure-devices.net": 2, "hub-c": 0}) == {linked[0], linked[1]}
	hubs_by({"hub-b": 1}) == {linked[1]}
}

# Weight 0 stops new devices; the devices on the hub stay.
test_a_device_stays if {
	every id in fleet {
		staying := object.union(request(id), {"deviceRuntimeContext": {"currentIotHubHostName": "HUB-b.azure-devices.net"}})
		everything_else.hub == linked[1] with input as staying with data["default"].weights as {}
		everything_else.hub == linked[1] with input as staying with data["default"].weights as {"hub-a": 1, "hub-b": 0}
	}
}

test_a_device_leaves_a_hub_that_is_unlinked if {
	leaving := object.union(request("dev-1"), {"deviceRuntimeContext": {"currentIotHubHostName": "gone.azure-devices.net"}})
	everything_else.hub == linked[2] with input as leaving with data["default"].weights as {"hub-c": 1}
	everything_else.hub in linked with input as leaving with data["default"].weights as {}
}

test_hold_without_a_hub_by_weight if {
	every weights in [{"hub-a": 0}, {"unlinked": 1}] {
		everything_else.hold == {"no linked hub has a weight above 0 in data.default.weights"} with input as request("dev-1")
			with data["default"].weights as weights
		not everything_else.hub with input as request("dev-1") with data["default"].weights as weights
	}
	everything_else.hold == set() with input as request("dev-1") with data["default"].weights as {}
}

test_spread_without_the_data_file if {
	everything_else.hub in linked with input as request("dev-1") with data["default"] as {}
}

# These check data.json as it is.
test_data_is_usable if {
	every _, weight in data["default"].weights {
		is_number(weight)
		weight >= 0
	}
}
