package allocation.tenants_test

import data.allocation.tenants
import data.dps

organizations := {"contoso": {"name": "contoso", "hubs": {"contoso-eu": 3, "contoso-us": 1}}}

linked := ["fabrikam.azure-devices.net", "contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"]

request(id) := {
	"enrollmentGroup": {"enrollmentGroupId": "tenant-devices"},
	"deviceRuntimeContext": {"registrationId": id, "x509": {"clientCertificate": "stands for the one below"}},
	"linkedHubs": linked,
}

certificate(names) := {"subject": {"commonName": "device-1", "organization": names}}

verdict(names) := verdict_of(request("device-1"), names)

verdict_of(req, names) := {"hub": hub, "reject": reject, "hold": hold} if {
	hub := {h |
		h := tenants.hub with input as req with dps.certificate as certificate(names) with data.tenants.organizations as organizations
	}
	reject := tenants.reject with input as req with dps.certificate as certificate(names) with data.tenants.organizations as organizations
	hold := tenants.hold with input as req with dps.certificate as certificate(names) with data.tenants.organizations as organizations
}

test_a_tenants_device_gets_a_hub_of_the_tenant if {
	every names in [["Contoso"], ["CONTOSO"]] {
		v := verdict(names)
		count(v.hub & {linked[1], linked[2]}) == 1
		v.reject == set()
		v.hold == set()
	}
}

test_both_hubs_of_the_tenant_are_used if {
	{hub |
		some i in numbers.range(1, 30)
		some hub in verdict_of(request(sprintf("device-%d", [i])), ["Contoso"]).hub
	} == {linked[1], linked[2]}
}

test_no_known_tenant if {
	every names in [["Fabrikam"], [""], ["contoso "]] {
		verdict(names) == {"hub": set(), "hold": set(), "reject": {"the certificate's organization is no tenant in data.tenants"}}
	}
}

test_not_exactly_one_organization if {
	every names in [[], ["Contoso", "Fabrikam"]] {
		verdict(names) == {"hub": set(), "hold": set(), "reject": {"the certificate's subject does not name exactly one organization"}}
	}
}

test_no_certificate if {
	plain := object.union(object.remove(request("device-1"), ["deviceRuntimeContext"]), {"deviceRuntimeContext": {
		"registrationId": "device-1",
		"symmetricKey": {},
		"payload": {"tenant": "contoso", "organization": "Contoso"},
	}})
	every req in [plain, request("device-1")] {
		tenants.reject == {"the device has no certificate that can be read"} with input as req
		tenants.hold == set() with input as req
		not tenants.hub with input as req
	}
}

test_hold_without_a_hub_of_the_tenant if {
	alone := object.union(request("device-1"), {"linkedHubs": [linked[0]]})
	verdict_of(alone, ["Contoso"]) == {"hub": set(), "reject": set(), "hold": {"no hub of the tenant contoso is linked"}}
}

test_twin_and_payload_name_the_tenant if {
	tenants.initial_twin == {"tags": {"tenant": "contoso"}} with input as request("device-1")
		with dps.certificate as certificate(["Contoso"])
		with data.tenants.organizations as organizations
	tenants.payload == {"tenant": "contoso"} with input as request("device-1")
		with dps.certificate as certificate(["Contoso"])
		with data.tenants.organizations as organizations
}

# These repeat data.json as it is, so that an entry that gets lost or mixed up is noticed: change both together.
test_each_tenant_has_its_own_hubs if {
	every organization, hubs in {"Contoso": {"contoso-eu-hub", "contoso-us-hub"}, "Fabrikam": {"fabrikam-hub"}} {
		{hub |
			some hub in ["contoso-eu-hub", "contoso-us-hub", "fabrikam-hub"]
			alone := object.union(request("device-1"), {"linkedHubs": [concat(".", [hub, "azure-devices.net"])]})
			tenants.hub with input as alone with dps.certificate as certificate([organization])
		} == hubs
	}
}

test_contoso_has_more_devices_on_its_larger_hub if {
	hubs := ["contoso-eu-hub.azure-devices.net", "contoso-us-hub.azure-devices.net"]
	chosen := [hub |
		some i in numbers.range(1, 40)
		device := object.union(request(sprintf("device-%d", [i])), {"linkedHubs": hubs})
		hub := tenants.hub with input as device with dps.certificate as certificate(["Contoso"])
	]
	count([hub | some hub in chosen; hub == hubs[0]]) > count([hub | some hub in chosen; hub == hubs[1]])
}

# These check data.json as it is. A key in another case would never be found.
test_data_is_usable if {
	every key, tenant in data.tenants.organizations {
		key == lower(key)
		tenant.name != ""
		sum([weight | some weight in tenant.hubs]) > 0
	}
}
