package replay

import (
	"cmp"
	"context"
	"slices"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// State is where an answer leaves a device.
type State struct {
	// Result is an outcome or a fault; empty if nothing is known.
	Result answer.Result `json:"result"`
	// Hub is set only if Result is assigned.
	Hub string `json:"hub,omitempty"`
}

func (s State) assigned() bool { return s.Result == answer.Assigned }

func (s State) compare(other State) int {
	return cmp.Or(cmp.Compare(s.Result, other.Result), cmp.Compare(s.Hub, other.Hub))
}

// Kind is what the new rules change for a device.
type Kind string

// The kinds of change, and of none.
const (
	Stayed   Kind = "stayed"   // the same hub
	Moved    Kind = "moved"    // another hub
	Diverted Kind = "diverted" // stays, but a new device with its request would get another answer
	// The same hub, but the rule gives another initial twin, another payload, or both, as far as it is known what they
	// were before.
	TwinChanged           Kind = "twinChanged"
	PayloadChanged        Kind = "payloadChanged"
	TwinAndPayloadChanged Kind = "twinAndPayloadChanged"
	NewlyAccepted         Kind = "newlyAccepted" // a hub, and none before
	NewlyRejected         Kind = "newlyRejected"
	NewlyHeld             Kind = "newlyHeld"
	NewlyFaulted          Kind = "newlyFaulted" // no decision, or for another reason than before
	StillRejected         Kind = "stillRejected"
	StillHeld             Kind = "stillHeld"
	StillFaulted          Kind = "stillFaulted"
	FirstAssigned         Kind = "firstAssigned" // nothing is known from before, here and below
	FirstRejected         Kind = "firstRejected"
	FirstHeld             Kind = "firstHeld"
	FirstFaulted          Kind = "firstFaulted"
)

// Kinds lists all kinds in the order of a report.
func Kinds() []Kind {
	return []Kind{Stayed, Moved, Diverted, TwinChanged, PayloadChanged, TwinAndPayloadChanged, NewlyAccepted, NewlyRejected, NewlyHeld, NewlyFaulted,
		StillRejected, StillHeld, StillFaulted, FirstAssigned, FirstRejected, FirstHeld, FirstFaulted}
}

// Change reports whether something differs from before.
func (k Kind) Change() bool {
	switch k {
	case Moved, Diverted, TwinChanged, PayloadChanged, TwinAndPayloadChanged, NewlyAccepted, NewlyRejected, NewlyHeld, NewlyFaulted:
		return true
	}
	return false
}

// same reports whether the answer is what it was before.
func (k Kind) same() bool {
	switch k {
	case Stayed, StillRejected, StillHeld, StillFaulted:
		return true
	}
	return false
}

func kindOf(before, after State) Kind {
	switch after.Result {
	case answer.Assigned:
		switch {
		case before.Result == "":
			return FirstAssigned
		case !before.assigned():
			return NewlyAccepted
		case dps.SameHub(before.Hub, after.Hub):
			return Stayed
		}
		return Moved
	case answer.Rejected:
		return unassignedKind(before, after, FirstRejected, StillRejected, NewlyRejected)
	case answer.Held:
		return unassignedKind(before, after, FirstHeld, StillHeld, NewlyHeld)
	default:
		return unassignedKind(before, after, FirstFaulted, StillFaulted, NewlyFaulted)
	}
}

// sameHub returns the kind of a device that stays, by what else differs.
func sameHub(differences []answer.Difference) Kind {
	twin, payload := slices.Contains(differences, answer.InTwin), slices.Contains(differences, answer.InPayload)
	switch {
	case twin && payload:
		return TwinAndPayloadChanged
	case twin:
		return TwinChanged
	case payload:
		return PayloadChanged
	}
	return Stayed
}

func unassignedKind(before, after State, first, still, newly Kind) Kind {
	switch before.Result {
	case "":
		return first
	case after.Result:
		return still
	default:
		return newly
	}
}

// decisiveLines selects the lines that decide what a kind says of a device. An answer that rejects or holds has no
// others.
func decisiveLines(kind Kind, lines []answer.Line) []answer.Line {
	entries := []string{"hub", "reject", "hold"}
	switch kind {
	case TwinChanged:
		entries = []string{"initial_twin"}
	case PayloadChanged:
		entries = []string{"payload"}
	case TwinAndPayloadChanged:
		entries = []string{"initial_twin", "payload"}
	}
	var decisive []answer.Line
	for _, line := range lines {
		if slices.Contains(entries, line.Entry) {
			decisive = append(decisive, line)
		}
	}
	return decisive
}

// Twin is what happens to a device's twin when it registers under the new rules.
type Twin string

// What DPS does with a twin, by "Reprovisioning policies" in
// https://learn.microsoft.com/azure/iot-dps/concepts-device-reprovision.
const (
	TwinInitial   Twin = "initial"   // a first assignment: the twin is created, from the rule's or the enrollment's
	TwinKept      Twin = "kept"      // the device stays on its hub
	TwinMigrated  Twin = "migrated"  // it moves with the device, unchanged
	TwinReset     Twin = "reset"     // it is created again, from the rule's or the enrollment's
	TwinUntouched Twin = "untouched" // DPS assigns nothing, so it does nothing
)

func stateOf(a *answer.Answer) State {
	return State{a.Result, a.Response.IotHubHostName}
}

// comparison is one request under the new rules and what was before.
type comparison struct {
	kind   Kind
	before State
	after  answer.Answer
	// on is the hub that the device is on; empty if there is none.
	on   string
	twin Twin
	use  dps.InitialTwinUse
}

// compare compares the answer of the new rules with what was before. If that assigned the device to another hub than
// its request names, the request is of an earlier time. What differs is then decided for the device's next
// registration, because a rule may leave devices where they are. It looks up what is known, as the first answer did.
func compare(ctx context.Context, rules *decider.Decider, request *dps.AllocationRequest, known []answer.Lookup, before State, after answer.Answer) comparison {
	c := comparison{kind: kindOf(before, stateOf(&after)), before: before, after: after, on: request.Device.CurrentIotHubHostName}
	effective := after
	if before.assigned() && !dps.SameHub(c.on, before.Hub) {
		c.on = before.Hub
		request = registeredOn(request, c.on)
		if c.kind != Stayed {
			effective = rules.Repeat(ctx, request, known)
			if c.kind = kindOf(before, stateOf(&effective)); c.kind == Stayed {
				c.kind = Diverted // and c.after is what a new device gets
			} else {
				c.after = effective
			}
		}
	}
	c.twin, c.use = twinOf(request, &effective)
	return c
}

// registeredOn is the request that DPS would send if the device registered again, now on that hub.
func registeredOn(request *dps.AllocationRequest, hub string) *dps.AllocationRequest {
	id := request.Device.CurrentDeviceID
	if id == "" {
		individual := request.Body().Get(string(dps.IndividualEnrollment))
		id = cmp.Or(individual.Get("deviceId").Text(), request.Device.RegistrationID)
	}
	return request.RegisteredOn(hub, id)
}

func twinOf(request *dps.AllocationRequest, a *answer.Answer) (Twin, dps.InitialTwinUse) {
	if a.Result != answer.Assigned {
		return TwinUntouched, dps.InitialTwinNone
	}
	use := dps.UseOfInitialTwin(request, &a.Response)
	switch {
	case request.FirstAssignment():
		return TwinInitial, use
	case dps.SameHub(request.Device.CurrentIotHubHostName, a.Response.IotHubHostName):
		return TwinKept, use
	case request.Enrollment.Reprovision == dps.ReprovisionReset:
		return TwinReset, use
	default:
		return TwinMigrated, use
	}
}
