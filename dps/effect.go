package dps

import "net/http"

// Result is the state that a registration reaches by one answer of the webhook.
type Result string

// The results, in the words of DPS's registration state.
const (
	Assigned  Result = "assigned"
	Failed    Result = "failed"
	Assigning Result = "assigning" // DPS calls the webhook again
)

// Error codes that a device, and DPS's own log, gets to see.
const (
	CustomAllocationFailed             = 400207
	CustomAllocationIotHubNotSpecified = 400208
	CustomAllocationUnauthorizedAccess = 400209
)

// MaxMessageSize is DPS's limit for a message, in bytes. Source:
// https://learn.microsoft.com/azure/iot-dps/about-iot-dps#quotas-and-limits. That
// it bounds a webhook's payload for the device, too, is an assumption.
const MaxMessageSize = 96 << 10

// Retries of a webhook call: after 1 s, and each time 9 s longer. Eleven calls
// in all take 1+10+19+...+82 = 415 s.
const (
	WebhookRetries              = 10
	WebhookRetryInitialSeconds  = 1
	WebhookRetryIncreaseSeconds = 9
)

// Effect is what DPS does with an answer.
type Effect struct {
	Result Result
	// ErrorCode is 0 unless Result is Failed.
	ErrorCode int
	// Message says it for people.
	Message string
}

// EffectOf tells what DPS does with an answer of this HTTP status that names
// this hub (empty where it names none). The hub is taken as one of linkedHubs.
//
// Source: "Troubleshoot custom allocation policies" in
// https://learn.microsoft.com/azure/iot-dps/tutorial-custom-allocation-policies.
// A 2xx other than 200 is not described there and counted as any other status.
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

// InitialTwinUse tells whether DPS applies an initial twin, and why not.
type InitialTwinUse string

// Cases of an initial twin, from "Initial twin" in
// https://learn.microsoft.com/azure/iot-dps/concepts-custom-allocation.
const (
	// InitialTwinNone: the response holds none, so on a first assignment or a
	// reset DPS takes that of the enrollment.
	InitialTwinNone InitialTwinUse = "none"
	// InitialTwinApplied: it becomes the twin of the device.
	InitialTwinApplied InitialTwinUse = "applied"
	// InitialTwinIgnoredSameHub: the device has its twin on that hub already.
	InitialTwinIgnoredSameHub InitialTwinUse = "ignored: the device stays on its hub"
	// InitialTwinIgnoredMigrated: the device's data moves to the new hub.
	InitialTwinIgnoredMigrated InitialTwinUse = "ignored: the device moves and its twin is migrated"
)

// UseOfInitialTwin tells what DPS does with the twin of a response.
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
