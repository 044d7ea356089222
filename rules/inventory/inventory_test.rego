package allocation.inventory_test

import data.allocation.inventory

linked := ["contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"]

request := {
	"enrollmentGroup": {"enrollmentGroupId": "inventory-devices"},
	"deviceRuntimeContext": {"registrationId": "Press-1", "payload": {"hub": "contoso-us", "tenant": "other"}},
	"linkedHubs": linked,
}

row := {"hub": "contoso-eu", "tenant": "contoso"}

# No row: a function that is undefined.
no_row(key) := key if key == ""

verdict(record, unknown) := {"hub": hub, "reject": reject, "hold": hold} if {
	hub := {h | h := inventory.hub with input as request with lookup.inventory as record}
	reject := inventory.reject with input as request with lookup.inventory as record with data.inventory.unknown_devices as unknown
	hold := inventory.hold with input as request with lookup.inventory as record with data.inventory.unknown_devices as unknown
}

test_the_record_decides_and_not_the_device if {
	verdict(row, "wait") == {"hub": {linked[0]}, "reject": set(), "hold": set()}
	verdict(object.union(row, {"hub": "CONTOSO-US.azure-devices.net"}), "wait").hub == {linked[1]}
}

rows(key) := object.union(row, {"hub": "contoso-us"}) if lower(key) == "press-1"

test_the_record_is_that_of_the_device if {
	inventory.hub == linked[1] with input as request with lookup.inventory as rows
}

test_a_device_without_a_record_waits_or_is_refused if {
	inventory.hold == {"the factory has no record of the device yet"} with input as request
		with lookup.inventory as no_row
		with data.inventory.unknown_devices as "wait"
	inventory.reject == set() with input as request with lookup.inventory as no_row with data.inventory.unknown_devices as "wait"
	inventory.reject == {"the factory has no record of the device"} with input as request
		with lookup.inventory as no_row
		with data.inventory.unknown_devices as "refuse"
	inventory.hold == set() with input as request with lookup.inventory as no_row with data.inventory.unknown_devices as "refuse"
	not inventory.hub with input as request with lookup.inventory as no_row
}

test_a_blocked_device_is_refused if {
	verdict(object.union(row, {"blocked": true}), "wait").reject == {"the factory's record says that the device is blocked"}
	every record in [row, object.union(row, {"blocked": false})] {
		verdict(record, "refuse").reject == set()
	}
}

test_a_hub_that_is_not_linked if {
	verdict(object.union(row, {"hub": "fabrikam"}), "wait") == {
		"hub": set(),
		"reject": set(),
		"hold": {"the hub in the device's record is not linked: fabrikam"},
	}
}

test_twin_and_payload if {
	inventory.initial_twin == {"tags": {"tenant": "contoso"}} with input as request with lookup.inventory as row
	inventory.initial_twin == {"tags": {"tenant": "contoso", "model": "X200"}} with input as request
		with lookup.inventory as object.union(row, {"model": "X200"})
	inventory.payload == {"tenant": "contoso"} with input as request with lookup.inventory as row
}

press(n) := object.union(request, {"deviceRuntimeContext": {"registrationId": sprintf("press-%04d", [n])}})

# These read the fixture as it is, so that they also check that rule and table fit together.
test_the_fixture if {
	eu := ["contoso-eu-hub.azure-devices.net", "contoso-us-hub.azure-devices.net"]
	inventory.hub == eu[0] with input as object.union(press(1), {"linkedHubs": eu})
	inventory.hub == eu[1] with input as object.union(press(2), {"linkedHubs": eu})
	count(inventory.reject) == 1 with input as press(3)
	count(inventory.hold) == 1 with input as press(4)
}

# This checks data.json as it is.
test_data_is_usable if data.inventory.unknown_devices in {"wait", "refuse"}
