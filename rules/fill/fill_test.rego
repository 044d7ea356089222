package allocation.fill_test

import data.allocation.fill

a := "hub-a.azure-devices.net"

b := "Hub-B.azure-devices.net"

reserve := "reserve.azure-devices.net"

request(id, current) := {
	"enrollmentGroup": {"enrollmentGroupId": "growing-devices"},
	"deviceRuntimeContext": {"registrationId": id, "currentIotHubHostName": current},
	"linkedHubs": [a, b, reserve],
}

steps := [{"hub-a": 3, "hub-b": 1}, {"reserve": 1}]

fleet := {sprintf("dev-%03d", [i]) | some i in numbers.range(1, 60)}

open := {"state": "open", "full": false}

full := {"state": "open", "full": true}

a_full(name) := full if startswith(name, "hub-a.")

a_full(name) := open if not startswith(name, "hub-a.")

both_full(name) := full if startswith(name, "hub-")

both_full(name) := open if startswith(name, "reserve.")

a_drained(name) := {"state": "drain", "full": true} if startswith(name, "hub-a.")

a_drained(name) := open if not startswith(name, "hub-a.")

test_devices_spread_while_there_is_room if {
	hubs := [hub |
		some id in fleet
		hub := fill.hub with input as request(id, "") with data.fill.hubs as steps with lookup.hub as open
	]
	{hub | some hub in hubs} == {a, b}
	count([hub | some hub in hubs; hub == a]) > 30
}

test_devices_of_a_full_hub_go_to_the_next if {
	every id in fleet {
		fill.hub == b with input as request(id, "") with data.fill.hubs as steps with lookup.hub as a_full
		fill.hub == reserve with input as request(id, "") with data.fill.hubs as steps with lookup.hub as both_full
	}
}

test_a_device_stays_where_it_is if {
	every current in [a, b, reserve] {
		every state in [open, full, {"state": "unknown"}] {
			fill.hub == current with input as request("dev-001", current) with data.fill.hubs as steps with lookup.hub as state
		}
	}
}

test_a_drained_hub_gives_its_devices_up if {
	fill.hub == b with input as request("dev-001", a) with data.fill.hubs as steps with lookup.hub as a_drained
	fill.hub == b with input as request("dev-001", b) with data.fill.hubs as steps with lookup.hub as a_drained
}

test_a_device_leaves_a_hub_that_is_not_listed if {
	fill.hub == a with input as request("dev-001", reserve) with data.fill.hubs as [{"hub-a": 1}] with lookup.hub as open
	fill.hold == set() with input as request("dev-001", reserve) with data.fill.hubs as [{"hub-a": 1}] with lookup.hub as open
}

test_hold_if_no_hub_has_room if {
	every state in [full, {"state": "unknown"}, {"state": "down"}] {
		fill.hold == {"no hub has room"} with input as request("dev-001", "") with data.fill.hubs as steps with lookup.hub as state
		not fill.hub with input as request("dev-001", "") with data.fill.hubs as steps with lookup.hub as state
	}
}

# These read data.json and hub_fixture.csv as they are, so that they also check that they fit together. In the fixture,
# contoso-eu-hub is full.
shipped(current, linked) := hub if {
	hub := fill.hub with input as object.union(request("dev-001", current), {"linkedHubs": linked})
}

test_data_and_fixture if {
	eu := "contoso-eu-hub.azure-devices.net"
	us := "contoso-us-hub.azure-devices.net"
	last := "contoso-reserve-hub.azure-devices.net"
	shipped("", [eu, us, last]) == us
	shipped(eu, [eu, us, last]) == eu
	shipped("", [eu, last]) == last
}

# This checks data.json as it is.
test_data_is_usable if {
	count(data.fill.hubs) > 0
	every weights in data.fill.hubs {
		sum([weight | some weight in weights]) > 0
	}
}
