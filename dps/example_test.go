package dps_test

import (
	"fmt"

	"github.com/usher-dps/usher/dps"
)

func ExampleParseAllocationRequest() {
	request, err := dps.ParseAllocationRequest([]byte(`{
		"enrollmentGroup": {"enrollmentGroupId": "line-a", "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true}},
		"deviceRuntimeContext": {"registrationId": "press-0001", "currentIotHubHostName": "contoso-eu.azure-devices.net"},
		"linkedHubs": ["contoso-eu.azure-devices.net"]}`))
	fmt.Println(request.Device.RegistrationID, request.Enrollment.ID, request.Enrollment.Reprovision, request.FirstAssignment(), err)
	// Output: press-0001 line-a migrate false <nil>
}

func ExampleEffectOf() {
	fmt.Println(dps.EffectOf(503, "").Message)
	fmt.Println(dps.EffectOf(403, "").Message)
	// Output:
	// DPS calls again, 10 times within about 7 minutes; then the registration fails
	// the registration fails at once with 400207
}

func ExampleAllocationResponse_AppendJSON() {
	response := dps.AllocationResponse{IotHubHostName: "contoso-eu.azure-devices.net",
		InitialTwin: dps.ValueOf(map[string]any{"tags": map[string]any{"line": "a"}})}
	fmt.Println(string(response.AppendJSON(nil)))
	// Output: {"iotHubHostName":"contoso-eu.azure-devices.net","initialTwin":{"tags":{"line":"a"}}}
}
