package dps_test

import data.dps

# The certificate of examples/requests/constructed-11: CN=device-0042, OU=model-x200, O=Contoso.
certificate := "MIIBgzCCASkCFGua5q1m3eXOGnz/XkRxXBvjLcYuMAoGCCqGSM49BAMCMEsxCzAJBgNVBAYTAlVTMRAwDgYDVQQKDAdDb250b3NvMSowKAYDVQQDDCFDb250b3NvIElvVCBJbnRlcm1lZGlhdGUgQ0EgRVUtMDEwHhcNMjYxMTIxMTkwNjE4WhcNMzYxMTE4MTkwNjE4WjA9MRAwDgYDVQQKDAdDb250b3NvMRMwEQYDVQQLDAptb2RlbC14MjAwMRQwEgYDVQQDDAtkZXZpY2UtMDA0MjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKstaYUTXGrNK1NW76NDhe3fJjWS0iSC7DBflPCwVqCYOu3jIL1sXstQNsA9iupmslGhnMgigvQechCJlQIzWP8wCgYIKoZIzj0EAwIDSAAwRQIgBGRBqx0FtaWowZZOLbzbnIQdh5Mk+qTxLOeEi+kai8UCIQDAvC6DDyIXoXiklM5oR1mgebG/lZfzAccdLtxHOeOSOA=="

group(members) := {
	"enrollmentGroup": object.union({"enrollmentGroupId": "Line-A"}, members),
	"deviceRuntimeContext": {"registrationId": "Dev-001"},
	"linkedHubs": hubs,
}

individual(members) := {
	"individualEnrollment": object.union({"registrationId": "Dev-001"}, members),
	"deviceRuntimeContext": {"registrationId": "Dev-001"},
	"linkedHubs": hubs,
}

device(members) := object.union(group({}), {"deviceRuntimeContext": members})

linked(names) := object.union(group({}), {"linkedHubs": names})

hubs := ["contoso-eu-1.azure-devices.net", "contoso-eu-2.azure-devices.net", "Contoso-US.azure-devices.net"]

test_identifiers_of_a_group if {
	dps.registration_id == "Dev-001" with input as group({})
	dps.registration_id_lower == "dev-001" with input as group({})
	dps.enrollment_id == "Line-A" with input as group({})
	dps.enrollment_id_lower == "line-a" with input as group({})
	dps.enrollment.etag == "x" with input as group({"etag": "x"})
}

test_service if {
	dps.service == "contoso-eu" with input as object.union(group({}), {"usher": {"service": "contoso-eu"}})
	not dps.service with input as group({})
}

test_identifiers_of_an_individual_enrollment if {
	dps.enrollment_id == "Dev-001" with input as individual({})
	dps.enrollment_id_lower == "dev-001" with input as individual({})
	dps.enrollment.deviceId == "d" with input as individual({"deviceId": "d"})
}

test_attestation_type if {
	dps.attestation_type == "tpm" with input as individual({"attestation": {"type": "tpm"}})
	not dps.attestation_type with input as individual({})
}

test_iot_edge if {
	dps.iot_edge with input as group({"capabilities": {"iotEdge": true}})
	dps.iot_edge == false with input as group({"capabilities": {"iotEdge": false}})
	dps.iot_edge == false with input as group({})
}

test_first_assignment if {
	dps.first_assignment with input as group({})
	dps.first_assignment with input as device({"currentIotHubHostName": ""})
	dps.first_assignment == false with input as device({"currentIotHubHostName": "gone.azure-devices.net"})
}

test_reprovision_policy if {
	every case in [
		{"want": "migrate", "record": {}},
		{"want": "migrate", "record": {"reprovisionPolicy": {}}},
		{"want": "migrate", "record": {"reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true}}},
		{"want": "reset", "record": {"reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": false}}},
		{"want": "reset", "record": {"reprovisionPolicy": {"migrateDeviceData": false}}},
		{"want": "never", "record": {"reprovisionPolicy": {"updateHubAssignment": false, "migrateDeviceData": false}}},
		{"want": "never", "record": {"reprovisionPolicy": {"updateHubAssignment": false, "migrateDeviceData": true}}},
		{"want": "never", "record": {"reprovisionPolicy": {"updateHubAssignment": false}}},
	] {
		dps.reprovision_policy == case.want with input as group(case.record)
	}
}

test_current_hub_in_the_spelling_of_linked_hubs if {
	dps.current_hub == "Contoso-US.azure-devices.net" with input as device({"currentIotHubHostName": "contoso-us.AZURE-devices.net"})
}

test_no_current_hub if {
	not dps.current_hub with input as device({})
	not dps.current_hub with input as device({"currentIotHubHostName": ""})
	not dps.current_hub with input as device({"currentIotHubHostName": "unlinked.azure-devices.net"})
}

test_hub_named if {
	every name in [
		"contoso-us", "CONTOSO-us", "contoso-us.azure-devices.net", "Contoso-US.Azure-Devices.NET",
		"contoso-us.device.azure-devices.net", "CONTOSO-US.Device.azure-devices.net",
	] {
		dps.hub_named(name) == "Contoso-US.azure-devices.net" with input as group({})
	}
	every name in ["contoso", "contoso-us.", "contoso-us.azure-devices.cn", "", "azure-devices"] {
		not dps.hub_named(name) with input as group({})
	}
}

test_a_hub_linked_in_two_spellings_is_one if {
	request := linked(["Contoso-A.azure-devices.net", "contoso-a.azure-devices.net"])
	dps.hub_named("contoso-a") == "Contoso-A.azure-devices.net" with input as request
	dps.linked_hubs == {"Contoso-A.azure-devices.net"} with input as request
	dps.hubs_matching("contoso-*") == {"Contoso-A.azure-devices.net"} with input as request
	dps.spread(["contoso-a", "contoso-a.azure-devices.net"]) == "Contoso-A.azure-devices.net" with input as request
}

test_a_hub_linked_under_both_names_is_one if {
	classic := "contoso-a.azure-devices.net"
	device := "contoso-a.device.azure-devices.net"
	every order in [[classic, device], [device, classic]] {
		dps.hub_named("contoso-a") == classic with input as linked(order)
		dps.hub_named(device) == classic with input as linked(order)
		dps.linked_hubs == {classic} with input as linked(order)
		dps.hubs_matching("*.device.*") == {device} with input as linked(order)
		dps.hubs_matching("contoso-*") == {classic} with input as linked(order)
		dps.spread(["contoso-a"]) == classic with input as linked(order)
	}
}

test_a_hub_linked_under_its_other_name_moves_no_device if {
	every i in numbers.range(1, 50) {
		request := device({"registrationId": sprintf("dev-%d", [i])})
		renamed := object.union(request, {"linkedHubs": [replace(hub, ".azure", ".device.azure") | some hub in hubs]})
		before := dps.spread(["contoso-us", "contoso-eu-*"]) with input as request
		after := dps.spread(["contoso-us", "contoso-eu-*"]) with input as renamed
		after == replace(before, ".azure", ".device.azure")
		dps.current_hub == after with input as object.union(renamed, {"deviceRuntimeContext": {"currentIotHubHostName": before}})
	}
}

test_hubs_matching if {
	dps.hubs_matching("Contoso-EU-*") == {hubs[0], hubs[1]} with input as group({})
	dps.hubs_matching("*") == {hubs[0], hubs[1], hubs[2]} with input as group({})
	dps.hubs_matching("contoso-us") == {hubs[2]} with input as group({})
	dps.hubs_matching("contoso") == set() with input as group({})
	dps.hubs_matching("*.org") == set() with input as group({})
	dps.hubs_matching("*.azure-devices.net") == {hubs[0], hubs[1], hubs[2]} with input as group({})
	dps.hubs_matching("*-us.*") == {hubs[2]} with input as group({})
}

test_weighted_takes_host_names_and_labels if {
	dps.weighted({"contoso-us": 1}) == hubs[2] with input as group({})
	dps.weighted({"CONTOSO-US.azure-devices.net": 0.5}) == hubs[2] with input as group({})
}

test_weighted_counts_linked_hubs_with_weight if {
	dps.weighted({"contoso-us": 1, "contoso-eu-1": 0, "unlinked": 1000000}) == hubs[2] with input as group({})
	not dps.weighted({"unlinked": 1}) with input as group({})
	not dps.weighted({"contoso-us": 0}) with input as group({})
	not dps.weighted({}) with input as group({})
}

# With an invalid weight, the choice is undefined; the hub is not just left out.
test_weighted_refuses_wrong_weights if {
	every weight in [-1, "1", null, [1]] {
		not dps.weighted({"contoso-us": weight, "contoso-eu-1": 1}) with input as group({})
	}
}

# Draining a hub moves its devices and no others.
test_weighted_moves_the_fewest if {
	all_three := {"contoso-eu-1": 1, "contoso-eu-2": 1, "contoso-us": 2}
	drained := object.union(all_three, {"contoso-eu-1": 0})
	moved := {was |
		some i in numbers.range(1, 100)
		request := device({"registrationId": sprintf("dev-%d", [i])})
		was := dps.weighted(all_three) with input as request
		is := dps.weighted(drained) with input as request
		was != is
	}
	moved == {hubs[0]}
}

test_choices_do_not_depend_on_case_or_order if {
	every i in numbers.range(1, 20) {
		spread := dps.spread(hubs) with input as device({"registrationId": sprintf("dev-%d", [i])})
		spread == dps.spread(array.reverse(hubs)) with input as device({"registrationId": sprintf("DEV-%d", [i])})
		spread == dps.spread({"contoso-us", "CONTOSO-EU-1", "contoso-eu-2"}) with input as device({"registrationId": sprintf("Dev-%d", [i])})
	}
}

test_names_can_be_globs if {
	dps.spread(["contoso-us*"]) == hubs[2] with input as group({})
	dps.spread({"*"}) in hubs with input as group({})
	dps.weighted({"contoso-eu-*": 0, "CONTOSO-U?": 1}) == hubs[2] with input as group({})
	not dps.spread(["nowhere-*"]) with input as group({})
}

test_spread_reaches_every_linked_hub if {
	{hub |
		some i in numbers.range(1, 50)
		hub := dps.spread(["contoso-us", "contoso-eu-1", "contoso-eu-2", "unlinked"]) with input as device({"registrationId": sprintf("dev-%d", [i])})
	} == {hubs[0], hubs[1], hubs[2]}
	not dps.spread(["unlinked"]) with input as group({})
	not dps.spread([]) with input as group({})
}

state(name) := {"name": name, "limit": 10, "state": "open", "full": false} if name == "contoso-us.azure-devices.net"

state(name) := {"name": name, "limit": 10, "state": "open", "full": true} if name == "contoso-eu-1.azure-devices.net"

state(name) := {"name": name, "limit": 10, "state": "drain"} if name == "contoso-eu-2.azure-devices.net"

room(hub, weights) := found if {
	found := dps.with_room(weights) with input as device({"currentIotHubHostName": hub}) with lookup.hub as state
}

test_with_room_takes_open_hubs if {
	room("", {"contoso-us": 2, "contoso-eu-1": 1, "CONTOSO-EU-2.azure-devices.net": 1, "unlinked": 1}) == {hubs[2]: 2}
	room("", {"contoso-us": 0, "contoso-eu-*": 1}) == {}
	room("", {"contoso-*": 1, "contoso-us.device.azure-devices.net": 3}) == {hubs[2]: 3}
	room("", {}) == {}
}

test_with_room_takes_only_hubs_that_are_known_and_open if {
	every row in [{"state": "unknown"}, {"state": "down"}, {"state": "open", "full": true}] {
		dps.with_room({"contoso-us": 1}) == {} with input as group({}) with lookup.hub as row
	}
	dps.with_room({"contoso-us": 1}) == {hubs[2]: 1} with input as group({}) with lookup.hub as {"state": "open", "full": false}
	dps.with_room({"contoso-*": 1}) == {hubs[2]: 1} with input as group({}) with lookup.hub as only_us
}

only_us(name) := state(name) if name == "contoso-us.azure-devices.net"

test_with_room_keeps_a_device_unless_its_hub_is_drained_or_down if {
	all_three := {"contoso-us": 1, "contoso-eu-*": 2}
	room(hubs[0], all_three) == {hubs[0]: 2}
	room(hubs[1], all_three) == {hubs[2]: 1}
	room(hubs[2], all_three) == {hubs[2]: 1}
	room(hubs[0], {"contoso-us": 1}) == {hubs[2]: 1}
	room(hubs[0], {"contoso-us": 1, "contoso-eu-1": 0}) == {hubs[2]: 1}
	room("unlinked.azure-devices.net", all_three) == {hubs[2]: 1}
	request := device({"currentIotHubHostName": hubs[0]})
	every kept in ["open", "unknown"] {
		dps.with_room({"contoso-*": 1}) == {hubs[0]: 1} with input as request with lookup.hub as {"state": kept}
	}
	dps.with_room({"contoso-*": 1}) == {} with input as request with lookup.hub as {"state": "down"}
}

test_with_room_leaves_wrong_weights_to_weighted if {
	every weight in [-1, "1", null, [1]] {
		not dps.weighted(dps.with_room({"contoso-us": weight, "contoso-eu-1": 1})) with input as group({}) with lookup.hub as {"state": "open"}
	}
}

devices_in(salt, percent) := {i |
	some i in numbers.range(1, 250)
	dps.in_percentage(salt, percent) with input as device({"registrationId": sprintf("dev-%d", [i])})
}

test_in_percentage_grows if {
	at_10 := devices_in("move", 10)
	at_20 := devices_in("move", 20)
	at_10 & at_20 == at_10
	count(at_10) > 10
	count(at_10) < 45
	count(at_20) > 28
	count(at_20) < 75
	devices_in("move", 0) == set()
	count(devices_in("move", 100)) == 250
}

test_in_percentage_depends_on_the_salt_and_not_on_case if {
	devices_in("move", 20) != devices_in("another move", 20)
	every i in devices_in("move", 20) {
		dps.in_percentage("move", 20) with input as device({"registrationId": sprintf("DEV-%d", [i])})
	}
}

# Every string is greater than every number, so "10" would let every device in.
test_in_percentage_takes_numbers_alone if {
	every percent in ["10", null, [10], {"percent": 10}, true] {
		dps.in_percentage("move", percent) == false with input as group({})
	}
}

test_payload if {
	dps.payload == {"modelId": "x200"} with input as device({"payload": {"modelId": "x200"}})
	every request in [group({}), device({"payload": null}), device({"payload": "x200"}), device({"payload": ["x200"]})] {
		dps.payload == {} with input as request
	}
}

test_payload_string if {
	request := device({"payload": {"modelId": "x200", "device": {"model": "x300"}, "none": null, "empty": "", "number": 7}})
	dps.payload_string("modelId") == "x200" with input as request
	dps.payload_string(["device", "model"]) == "x300" with input as request
	every path in ["absent", "none", "empty", "number", "device", ["device", "absent"], ["modelId", "deeper"]] {
		not dps.payload_string(path) with input as request
	}
	not dps.payload_string("modelId") with input as group({})
}

test_same_text if {
	dps.same_text("Contoso", "CONTOSO")
	dps.same_text("a", "b") == false
	dps.same_text("1", 1) == false
	dps.same_text(null, null) == false
}

test_certificate if {
	request := device({"x509": {"clientCertificate": certificate}})
	dps.certificate.subject.commonName == "device-0042" with input as request
	dps.certificate.subject.organization == ["Contoso"] with input as request
	dps.certificate.subject.organizationalUnit == ["model-x200"] with input as request
	dps.certificate.subject.country == [] with input as request
	dps.certificate.issuer.commonName == "Contoso IoT Intermediate CA EU-01" with input as request
	dps.certificate.sha256Thumbprint == "DA907988FC54772DDF109CC0BA4F47B54072B31050A7A1BEF562E7615503419A" with input as request
	dps.certificate.notAfterUtc == "2036-11-18T19:06:18Z" with input as request
}

test_no_certificate if {
	every request in [
		group({}),
		device({"symmetricKey": {}}),
		device({"x509": {}}),
		device({"x509": {"clientCertificate": ""}}),
		device({"x509": {"clientCertificate": "bm90IGEgY2VydGlmaWNhdGU="}}),
	] {
		not dps.certificate with input as request
	}
}

test_enrollment_certificate_info if {
	ca := {"info": {"subjectName": "CN=CA"}}
	leaf := {"info": {"subjectName": "CN=leaf"}}
	every case in [
		{"want": "CN=CA", "request": group({"attestation": {"x509": {"signingCertificates": {"primary": ca, "secondary": leaf}}}})},
		{"want": "CN=CA", "request": group({"attestation": {"x509": {"signingCertificates": {"secondary": ca}}}})},
		{"want": "CN=leaf", "request": individual({"attestation": {"x509": {"clientCertificates": {"primary": leaf}}}})},
	] {
		dps.enrollment_certificate_info.subjectName == case.want with input as case.request
	}
	not dps.enrollment_certificate_info with input as group({"attestation": {"x509": {"caReferences": {"primary": "root"}}}})
	not dps.enrollment_certificate_info with input as group({"attestation": {"type": "symmetricKey"}})
}

test_merge_twin_without_one_in_the_enrollment if {
	dps.merge_twin({"tags": {"a": 1}}) == {"tags": {"a": 1}} with input as group({})
}

test_merge_twin_of_either_kind_of_enrollment if {
	own := {"initialTwin": {"tags": {"site": "FRA"}}}
	every request in [group(own), individual(own)] {
		dps.merge_twin({"tags": {"a": 1}}) == {"tags": {"site": "FRA", "a": 1}} with input as request
	}
}

test_merge_twin_is_deep_and_the_rule_wins if {
	own := {"tags": {"site": "FRA", "kind": {"a": 1, "b": 1}}, "properties": {"desired": {"interval": 60}}}
	dps.merge_twin({"tags": {"kind": {"b": 2}}, "properties": {"desired": {"interval": 30, "unit": "s"}}}) == {
		"tags": {"site": "FRA", "kind": {"a": 1, "b": 2}},
		"properties": {"desired": {"interval": 30, "unit": "s"}},
	} with input as group({"initialTwin": own})
}

test_merge_twin_leaves_out_what_tools_put_in if {
	own := {
		"additional_properties": {},
		"tags": {"$version": 1, "$metadata": {}, "additional_properties": {}, "site": "FRA", "deep": {"additional_properties": 1}},
		"properties": {"additional_properties": {}, "desired": {"$version": 1, "$metadata": {}, "additional_properties": {}, "interval": 60}},
	}
	dps.merge_twin({}) == {
		"tags": {"site": "FRA", "deep": {"additional_properties": 1}},
		"properties": {"desired": {"interval": 60}},
	} with input as group({"initialTwin": own})
}
