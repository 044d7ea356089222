# METADATA
# title: A model from the payload decides, written with the evaluator in mind
# description: Look-ups in place of loops, one text built by concat.
# custom:
#   enrollment_groups: [bench-mediumt]
package allocation.mediumt

models := {
	"toaster": {"hub": "contoso-toasters.azure-devices.net", "desired": {"darkness": "medium"}},
	"kettle": {"hub": "contoso-kettles.azure-devices.net", "desired": {"limit": 95}},
	"heatpump": {"hub": "contoso-heatpumps.azure-devices.net", "desired": {"temperature": 21}},
	"fridge": {"hub": "contoso-fridges.azure-devices.net", "desired": {"temperature": 5}},
}

name := lower(input.deviceRuntimeContext.payload.model)

model := models[name]

hub := model.hub

initial_twin := {
	"tags": {
		"model": name,
		"site": input.deviceRuntimeContext.payload.site,
		"enrollment": input.enrollmentGroup.enrollmentGroupId,
	},
	"properties": {"desired": model.desired},
}

payload := {
	"model": name,
	"greeting": concat("", ["welcome ", input.deviceRuntimeContext.registrationId, " at ", hub]),
}
