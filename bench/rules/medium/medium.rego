# METADATA
# title: A model from the payload decides, written as it comes
# custom:
#   enrollment_groups: [bench-medium]
package allocation.medium

models := [
	{"model": "toaster", "hub": "contoso-toasters", "desired": {"darkness": "medium"}},
	{"model": "kettle", "hub": "contoso-kettles", "desired": {"limit": 95}},
	{"model": "heatpump", "hub": "contoso-heatpumps", "desired": {"temperature": 21}},
	{"model": "fridge", "hub": "contoso-fridges", "desired": {"temperature": 5}},
]

model := m if {
	some m in models
	m.model == lower(input.deviceRuntimeContext.payload.model)
}

hub := h if {
	some h in input.linkedHubs
	startswith(h, sprintf("%s.", [model.hub]))
}

initial_twin := {
	"tags": {
		"model": model.model,
		"site": input.deviceRuntimeContext.payload.site,
		"enrollment": input.enrollmentGroup.enrollmentGroupId,
	},
	"properties": {"desired": model.desired},
}

payload := {
	"model": model.model,
	"greeting": sprintf("welcome %s at %s", [input.deviceRuntimeContext.registrationId, hub]),
}
