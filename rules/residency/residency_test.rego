package allocation.residency_test

import data.allocation.residency

regions := {
	"eu": {
		"name": "eu",
		"hubs": ["eu-1", "eu-2", "eu-3"],
		"countries": {"DE": "eu-1", "FI": "eu-2", "US": "us-1"},
	},
	"us": {"name": "us", "hubs": ["us-1"], "countries": {}},
}

enrollments := {"eu-factory": "eu", "us-factory": "us", "lost-factory": "atlantis"}

request(group, device) := {
	"enrollmentGroup": {"enrollmentGroupId": group},
	"deviceRuntimeContext": object.union({"registrationId": "dev-1"}, device),
	"linkedHubs": [host(name) | some name in ["us-1", "eu-1", "eu-2", "eu-3"]],
}

host(name) := concat("", [name, ".azure-devices.net"])

eu(device) := request("EU-Factory", device)

european := {host("eu-1"), host("eu-2"), host("eu-3")}

hub_of(req) := hub if {
	hub := residency.hub with input as req with data.residency.regions as regions with data.residency.enrollments as enrollments
}

held(req) := reasons if {
	reasons := residency.hold with input as req with data.residency.regions as regions with data.residency.enrollments as enrollments
}

test_the_countrys_hub if {
	hub_of(eu({"payload": {"country": "DE"}})) == host("eu-1")
	hub_of(eu({"payload": {"country": "fi"}})) == host("eu-2")
}

test_any_hub_of_the_region_without_a_known_country if {
	every payload in [{}, {"country": "SE"}, {"country": null}, {"country": 49}, {"country": ""}] {
		hub_of(eu({"payload": payload})) in european
	}
	hub_of(eu({})) in european
}

# Even if the table is wrong, as it is for US above.
test_nothing_that_a_device_says_leads_out_of_its_region if {
	every country in ["US", "us-1", "us-1.azure-devices.net"] {
		hub_of(eu({"payload": {"country": country}})) in european
	}
}

test_a_device_on_the_road_stays if {
	hub_of(eu({"payload": {"country": "FI"}, "currentIotHubHostName": "EU-1.azure-devices.net"})) == host("eu-1")
}

test_a_device_in_another_region_moves_home if {
	hub_of(eu({"currentIotHubHostName": "us-1.azure-devices.net"})) in european
	hub_of(eu({"payload": {"country": "FI"}, "currentIotHubHostName": "us-1.azure-devices.net"})) == host("eu-2")
}

test_hold_without_a_hub_of_the_region if {
	alone := object.union(eu({"payload": {"country": "DE"}}), {"linkedHubs": [host("us-1")]})
	held(alone) == {"no hub of the region eu is linked"}
	not hub_of(alone)
}

test_hold_without_a_region if {
	every group in ["moon-factory", "lost-factory"] {
		held(request(group, {})) == {"the enrollment has no region in data.residency"}
		not hub_of(request(group, {}))
	}
}

test_no_hold_otherwise if {
	held(eu({})) == set()
	held(request("us-factory", {})) == set()
}

test_the_region_is_in_the_twin if {
	residency.initial_twin == {"tags": {"region": "us", "site": "AUS-1"}} with data.residency.regions as regions
		with data.residency.enrollments as enrollments
		with input as object.union(request("us-factory", {}), {"enrollmentGroup": {"initialTwin": {"tags": {"site": "AUS-1"}}}})
}

# These repeat data.json as it is, so that an entry that gets lost or mixed up is noticed: change both together.
shipped(group, device) := hub if {
	hub := residency.hub with input as object.union(request(group, device), {"linkedHubs": [host(name) |
		some name in ["contoso-us-hub", "contoso-eu-hub", "contoso-eu-north-hub"]
	]})
}

test_each_country_starts_on_its_hub if {
	every country, hub in {
		"DE": "contoso-eu-hub", "FR": "contoso-eu-hub",
		"FI": "contoso-eu-north-hub", "SE": "contoso-eu-north-hub",
	} {
		every i in numbers.range(1, 5) {
			shipped("eu-factory", {"registrationId": sprintf("dev-%d", [i]), "payload": {"country": country}}) == host(hub)
		}
	}
}

test_each_factory_uses_all_hubs_of_its_region if {
	every group, hubs in {"eu-factory": {"contoso-eu-hub", "contoso-eu-north-hub"}, "us-factory": {"contoso-us-hub"}} {
		{shipped(group, {"registrationId": sprintf("dev-%d", [i])}) | some i in numbers.range(1, 30)} == {host(hub) | some hub in hubs}
	}
}

# These check data.json as it is. A key in another case would never be found.
test_data_is_usable if {
	every enrollment, region in data.residency.enrollments {
		enrollment == lower(enrollment)
		data.residency.regions[region]
	}
	every name, region in data.residency.regions {
		region.name == name
		count(region.hubs) > 0
		every country, hub in region.countries {
			country == upper(country)
			hub in region.hubs
		}
	}
}
