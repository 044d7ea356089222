package dps

import "net/http"

// Result is the state of a registration after one answer of the webhook.
type Result string

// The results, in the words of DPS's registration state.
const (
	Assigned  Result = "assigned"
	Failed    Result = "failed"
	Assigning Result = "assigning" // DPS calls the webhook again
)

// Error codes that the device and DPS's own log show.
const (
	CustomAllocationFailed             = 400207
	CustomAllocationIotHubNotSpecified = 400208
	CustomAllocationUnauthorizedAccess = 400209
)

// MaxMessageSize is DPS's limit for a message, in bytes. Source:
// https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits. That it also bounds a webhook's payload
// for the device is an assumption.
const MaxMessageSize = 96 << 10

// Effect is what DPS does with an answer.
type Effect struct {
	Result Result
	// ErrorCode is 0 unless Result is Failed.
	ErrorCode int
	// Message describes it to people.
	Message string
}

// EffectOf returns what DPS does with an answer that has this HTTP status and names this hub, which may be empty. It
// assumes that the hub is one of linkedHubs. On 429 and above DPS calls again after 1 s, then 9 s later each time: 11
// calls in all, over 415 s.
//
// Source: "Troubleshoot custom allocation policies" in
// https://learn.microsoft.com/azure/iot-dps/tutorial-custom-allocation-policies. It does not describe a 2xx other than
// 200, which is treated like any other status.
func EffectOf(status int, hub string) Effect {
	switch {
	case status == http.StatusOK && hub != "":
		return Effect{Result: Assigned, Message: "DPS assigns the device to " + hub}
	case status == http.StatusOK:
		return Effect{Failed, CustomAllocationIotHubNotSpecified, "the registration fails with 400208, custom allocation named no hub"}
	case status == http.StatusUnauthorized:
		return Effect{Failed, CustomAllocationUnauthorizedAccess, "the registration fails with 400209, DPS may not call the webhook"}
	case status >= http.StatusTooManyRequests:
		return Effect{Result: Assigning, Message: "DPS calls again, 10 times within about 7 minutes; then the registration fails"}
	default:
		return Effect{Failed, CustomAllocationFailed, "the registration fails at once with 400207"}
	}
}

// InitialTwinUse says whether DPS applies an initial twin, or why it does not.
type InitialTwinUse string

// Cases of an initial twin, from "Initial twin" in
// https://learn.microsoft.com/azure/iot-dps/concepts-custom-allocation.
const (
	// InitialTwinNone: the response has none, so on a first assignment or a reset DPS applies that of the enrollment.
	InitialTwinNone InitialTwinUse = "none"
	// InitialTwinApplied: it becomes the device's twin.
	InitialTwinApplied InitialTwinUse = "applied"
	// InitialTwinIgnoredSameHub: the device already has a twin on that hub.
	InitialTwinIgnoredSameHub InitialTwinUse = "ignored: the device stays on its hub"
	// InitialTwinIgnoredMigrated: the device's data moves to the new hub.
	InitialTwinIgnoredMigrated InitialTwinUse = "ignored: the device moves and its twin is migrated"
)

// UseOfInitialTwin returns what DPS does with the twin of a response.
func UseOfInitialTwin(request *AllocationRequest, response *AllocationResponse) InitialTwinUse {
	switch {
	case response.InitialTwin == nil:
		return InitialTwinNone
	case request.FirstAssignment():
		return InitialTwinApplied
	case SameHub(request.Device.CurrentIotHubHostName, response.IotHubHostName):
		return InitialTwinIgnoredSameHub
	case request.Enrollment.Reprovision == ReprovisionReset:
		return InitialTwinApplied
	default:
		return InitialTwinIgnoredMigrated
	}
}
