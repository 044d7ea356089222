package allocation.breakroom_test

import data.allocation.breakroom

# As in examples/requests/req-verbatim-04.
request(id) := {
	"enrollmentGroup": {"enrollmentGroupId": "contoso-custom-allocated-devices"},
	"deviceRuntimeContext": {"registrationId": id, "symmetricKey": {}},
	"linkedHubs": ["contoso-toasters-hub-1098.azure-devices.net", "contoso-heatpumps-hub-1098.azure-devices.net"],
}

toaster := request("breakroom499-contoso-tstrsd-007")

heatpump := request("mainbuilding167-contoso-hpsd-088")

test_toaster if {
	breakroom.hub == "contoso-toasters-hub-1098.azure-devices.net" with input as toaster
	breakroom.initial_twin == {
		"tags": {"deviceType": "toaster"},
		"properties": {"desired": {"state": "ready", "darknessSetting": "medium"}},
	} with input as toaster
	breakroom.payload == {"deviceType": "toaster"} with input as toaster
	breakroom.reject == set() with input as toaster
	breakroom.hold == set() with input as toaster
}

test_heatpump if {
	breakroom.hub == "contoso-heatpumps-hub-1098.azure-devices.net" with input as heatpump
	breakroom.initial_twin == {
		"tags": {"deviceType": "heatpump"},
		"properties": {"desired": {"state": "on", "temperatureSetting": "65"}},
	} with input as heatpump
	breakroom.payload == {"deviceType": "heatpump"} with input as heatpump
	breakroom.reject == set() with input as heatpump
	breakroom.hold == set() with input as heatpump
}

test_registration_id_in_other_case if {
	breakroom.hub == "contoso-toasters-hub-1098.azure-devices.net" with input as request("BREAKROOM499-Contoso-TSTRSD-007")
}

# The hub names of examples/requests/req-verbatim-05.
test_hub_names_with_another_prefix if {
	hubs := ["custom-allocation-toasters-hub.azure-devices.net", "custom-allocation-heatpumps-hub.azure-devices.net"]
	breakroom.hub == hubs[0] with input as object.union(toaster, {"linkedHubs": hubs})
	breakroom.hub == hubs[1] with input as object.union(heatpump, {"linkedHubs": hubs})
}

test_other_devices_are_refused if {
	every id in ["contoso-toaster-007", "breakroom499-contoso-tstrsd-0070", "contoso-tstrsd-007"] {
		breakroom.reject == {"neither a toaster nor a heat pump"} with input as request(id)
		breakroom.hold == set() with input as request(id)
		not breakroom.hub with input as request(id)
		not breakroom.initial_twin with input as request(id)
	}
}

test_hold_until_a_hub_of_the_kind_is_linked if {
	every kind, only in {"toaster": toaster.linkedHubs[1], "heatpump": toaster.linkedHubs[0]} {
		without := object.union({"toaster": toaster, "heatpump": heatpump}[kind], {"linkedHubs": [only]})
		breakroom.hold == {concat(" ", ["no hub is linked for the kind", kind])} with input as without
		breakroom.reject == set() with input as without
		not breakroom.hub with input as without
	}
}

test_the_groups_own_twin_is_kept if {
	own := {"tags": {"building": "main", "deviceType": "any"}, "properties": {"desired": {"interval": 60}}}
	breakroom.initial_twin == {
		"tags": {"building": "main", "deviceType": "toaster"},
		"properties": {"desired": {"interval": 60, "state": "ready", "darknessSetting": "medium"}},
	} with input as object.union(toaster, {"enrollmentGroup": {"initialTwin": own}})
}
