package allocation.failover_test

import data.allocation.failover

north_1 := "north-1.azure-devices.net"

north_2 := "North-2.azure-devices.net"

south := "south.azure-devices.net"

regions := [
	{"name": "north", "hubs": {"north-1": 1, "north-2": 1, "unlinked": 5}},
	{"name": "south", "hubs": {"south": 1}},
]

request(id, current) := {
	"enrollmentGroup": {"enrollmentGroupId": "critical-devices"},
	"deviceRuntimeContext": {"registrationId": id, "currentIotHubHostName": current},
	"linkedHubs": [north_1, north_2, south],
}

fleet := {sprintf("dev-%03d", [i]) | some i in numbers.range(1, 40)}

up := {"state": "open", "full": false}

one_down(name) := {"state": "down"} if lower(name) == north_1

one_down(name) := up if lower(name) != north_1

one_drained(name) := {"state": "drain", "full": false} if lower(name) == north_1

one_drained(name) := up if lower(name) != north_1

region_down(name) := {"state": "down"} if startswith(lower(name), "north-")

region_down(name) := up if not startswith(lower(name), "north-")

# No row: a function that is undefined.
no_row(name) := up if name == ""

at_home := {id: hub |
	some id in fleet
	hub := failover.hub with input as request(id, "") with data.failover.regions as regions with lookup.hub as up
}

test_devices_are_in_the_first_region if {
	{hub | some hub in at_home} == {north_1, north_2}
	every id in fleet {
		failover.hub == at_home[id] with input as request(id, "") with data.failover.regions as regions with lookup.hub as no_row
	}
}

test_only_the_devices_of_a_hub_that_is_down_move if {
	every id in fleet {
		failover.hub == north_2 with input as request(id, at_home[id]) with data.failover.regions as regions with lookup.hub as one_down
		failover.hub == north_2 with input as request(id, at_home[id]) with data.failover.regions as regions with lookup.hub as one_drained
	}
}

test_a_region_that_is_down if {
	every id in fleet {
		failover.hub == south with input as request(id, at_home[id]) with data.failover.regions as regions with lookup.hub as region_down
	}
}

test_devices_come_back if {
	every id in fleet {
		failover.hub == at_home[id] with input as request(id, south) with data.failover.regions as regions with lookup.hub as up
	}
}

# A hub that cannot be counted, or is full, is not down.
test_only_the_operator_moves_devices if {
	every state in [{"state": "unknown"}, {"state": "open", "full": true}] {
		every id in fleet {
			failover.hub == at_home[id] with input as request(id, "") with data.failover.regions as regions with lookup.hub as state
		}
	}
}

test_hold_if_everything_is_down if {
	every state in [{"state": "down"}, {"state": "drain"}] {
		failover.hold == {"no region has a linked hub that is up"} with input as request("dev-001", "")
			with data.failover.regions as regions
			with lookup.hub as state
		not failover.hub with input as request("dev-001", "") with data.failover.regions as regions with lookup.hub as state
	}
	failover.hold == set() with input as request("dev-001", "") with data.failover.regions as regions with lookup.hub as region_down
}

# This reads data.json and hub_fixture.csv as they are, so that it also checks that they fit together. In the fixture,
# contoso-north-hub is down.
test_data_and_fixture if {
	linked := ["contoso-eu-hub.azure-devices.net", "contoso-north-hub.azure-devices.net"]
	failover.hub == linked[0] with input as object.union(request("dev-001", ""), {"linkedHubs": linked})
	failover.hub == linked[1] with input as object.union(request("dev-001", ""), {"linkedHubs": linked}) with lookup.hub as up
}

# This checks data.json as it is.
test_data_is_usable if {
	count(data.failover.regions) > 1
	every region in data.failover.regions {
		region.name != ""
		sum([weight | some weight in region.hubs]) > 0
	}
}
