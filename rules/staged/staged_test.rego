package allocation.staged_test

import data.allocation.staged

at(percent) := {
	"name": "move",
	"percent": percent,
	"pilots": {"pilot-1": true},
	"old": {"name": "v1", "hubs": {"old-hub": 1}},
	"new": {"name": "v2", "hubs": {"new-hub": 1}},
}

old := "old-hub.azure-devices.net"

new := "New-Hub.azure-devices.net"

request(id) := {
	"enrollmentGroup": {"enrollmentGroupId": "staged-devices"},
	"deviceRuntimeContext": {"registrationId": id},
	"linkedHubs": [old, new],
}

fleet := {sprintf("dev-%04d", [i]) | some i in numbers.range(1, 300)}

moved(percent) := {id |
	some id in fleet
	staged.hub == new with input as request(id) with data.staged as at(percent)
}

test_none_at_0_and_all_at_100 if {
	moved(0) == set()
	moved(100) == fleet
}

test_who_has_moved_stays_moved if {
	moved_10 := moved(10)
	moved_50 := moved(50)
	moved_10 & moved_50 == moved_10
	count(moved_10) > 10
	count(moved_10) < 55
	count(moved_50) > 110
	count(moved_50) < 190
}

test_the_others_are_on_the_old_hub if {
	every id in fleet - moved(50) {
		staged.hub == old with input as request(id) with data.staged as at(50)
	}
}

# The side depends on the device, not on its current hub.
test_the_side_is_the_same_on_a_later_registration if {
	some id in moved(50)
	every current in [old, new, "gone.azure-devices.net"] {
		later := object.union(request(id), {"deviceRuntimeContext": {"currentIotHubHostName": current}})
		staged.hub == new with input as later with data.staged as at(50)
	}
}

test_pilots_go_first if {
	staged.hub == new with input as request("PILOT-1") with data.staged as at(0)
	staged.hub == old with input as request("pilot-2") with data.staged as at(0)
}

test_the_twin_names_the_solution if {
	staged.initial_twin == {"tags": {"solution": "v2"}} with input as request("dev-1") with data.staged as at(100)
	staged.initial_twin == {"tags": {"solution": "v1"}} with input as request("dev-1") with data.staged as at(0)
}

test_hold_without_a_hub_of_the_side if {
	alone := object.union(request("dev-1"), {"linkedHubs": [old]})
	staged.hold == {"no hub of the new solution is linked"} with input as alone with data.staged as at(100)
	not staged.hub with input as alone with data.staged as at(100)
	staged.hold == set() with input as alone with data.staged as at(0)
}

# These repeat data.json as it is, so that an entry that gets lost or mixed up is noticed: change both together.
shipped(id, percent) := hub if {
	linked := ["contoso-v1-hub.azure-devices.net", "contoso-v2-hub.azure-devices.net"]
	hub := staged.hub with input as object.union(request(id), {"linkedHubs": linked}) with data.staged.percent as percent
}

test_each_side_has_its_own_hub if {
	shipped("dev-1", 0) == "contoso-v1-hub.azure-devices.net"
	shipped("dev-1", 100) == "contoso-v2-hub.azure-devices.net"
}

test_the_listed_pilots_go_first if {
	every id in ["pilot-1"] {
		shipped(id, 0) == "contoso-v2-hub.azure-devices.net"
	}
}

# These check data.json as it is.
test_data_is_usable if {
	data.staged.name != ""
	is_number(data.staged.percent)
	data.staged.percent >= 0
	data.staged.percent <= 100
	every id, _ in data.staged.pilots {
		id == lower(id)
	}
	every side in ["old", "new"] {
		data.staged[side].name != ""
		sum([weight | some weight in data.staged[side].hubs]) > 0
	}
}
