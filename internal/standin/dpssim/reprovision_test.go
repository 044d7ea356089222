package dpssim_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// TestReprovisioning is the table of what DPS documents: the reprovision policy, the client's API version, whether the
// webhook chooses another hub the second time, and whether it returns a twin; and for each, what the device, the
// webhook and the hubs see. Each row uses the words of the documentation; nothing is computed from the code under test.
func TestReprovisioning(t *testing.T) {
	t.Parallel()
	policies := map[string]*model.ReprovisionPolicy{
		"migrate":       {UpdateHubAssignment: true, MigrateDeviceData: true},
		"reset":         {UpdateHubAssignment: true, MigrateDeviceData: false},
		"never":         {UpdateHubAssignment: false, MigrateDeviceData: false},
		"never+migrate": {UpdateHubAssignment: false, MigrateDeviceData: true},
		"unset":         nil,
	}
	const (
		fromWebhook    = "webhook's twin"
		fromEnrollment = "enrollment's twin"
		asDeviceLeft   = "as the device left it"
		all            = "all"
		current        = "current"
	)
	type row struct {
		policy, api  string
		otherHub     bool
		returnsTwin  bool
		wantHub      string
		wantSub      string
		wantTwin     string
		wantLinked   string
		wantReported bool
	}
	var rows []row
	for _, twin := range []bool{false, true} {
		newTwin := map[bool]string{false: fromEnrollment, true: fromWebhook}[twin]
		for _, api := range []string{stickyAPI, modernAPI, "2021-10-01"} {
			// A device that stays keeps its data, whatever the policy and the twin that is returned.
			for _, policy := range []string{"migrate", "reset"} {
				rows = append(rows, row{policy, api, false, twin, hubA, "reprovisionedToInitialAssignment", asDeviceLeft, all, true})
			}
			rows = append(rows,
				// Hub changed, twin moved with its reported properties; the twin that is returned is ignored.
				row{"migrate", api, true, twin, hubB, "deviceDataMigrated", asDeviceLeft, all, true},
				// Hub changed, initial state: the webhook's twin, without one the enrollment's.
				row{"reset", api, true, twin, hubB, "deviceDataReset", newTwin, all, false},
			)
			// Never: the webhook is asked with the current hub alone, and the hub does not change.
			for _, policy := range []string{"never", "never+migrate"} {
				for _, other := range []bool{false, true} {
					rows = append(rows, row{policy, api, other, twin, hubA, "reprovisionedToInitialAssignment", asDeviceLeft, current, true})
				}
			}
		}
		for _, other := range []bool{false, true} {
			// No policy and a client from before reprovisioning: sticky.
			rows = append(rows, row{"unset", stickyAPI, other, twin, hubA, "reprovisionedToInitialAssignment", asDeviceLeft, current, true})
		}
		for _, api := range []string{modernAPI, "2021-10-01"} {
			// No policy and a later client: both members default to true.
			rows = append(rows,
				row{"unset", api, false, twin, hubA, "reprovisionedToInitialAssignment", asDeviceLeft, all, true},
				row{"unset", api, true, twin, hubB, "deviceDataMigrated", asDeviceLeft, all, true},
			)
		}
	}
	if len(rows) != 2*(3*8+2+4) {
		t.Fatalf("the table has %d rows", len(rows))
	}
	twins := map[string]string{
		fromWebhook:    `{"from":"webhook"}`,
		fromEnrollment: `{"from":"enrollment"}`,
		asDeviceLeft:   `{"from":"enrollment","left":true}`,
	}
	for _, row := range rows {
		name := fmt.Sprintf("%s %s otherHub=%v returnsTwin=%v", row.policy, row.api, row.otherHub, row.returnsTwin)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
				g.ReprovisionPolicy = policies[row.policy]
				g.InitialTwin = initialTwin("enrollment")
			}))
			caller := groupDevice("Device-1")
			caller.APIVersion = row.api

			// The first assignment is the same under every policy.
			r.hook.set(answers(http.StatusOK, `{"iotHubHostName":"`+hubA+`"}`))
			first := r.register(caller, model.RegistrationRequest{}).RegistrationState
			if first.AssignedHub != hubA || first.Substatus != "initialAssignment" || first.DeviceID != "Device-1" {
				t.Fatalf("first assignment: %+v", first)
			}
			request := r.hook.lastRequest(t)
			if want := []string{hubA, hubB, hubC}; !reflect.DeepEqual(request.LinkedHubs, want) {
				t.Errorf("first: linkedHubs %v, want %v", request.LinkedHubs, want)
			}
			if c := request.DeviceRuntimeContext; c.CurrentIotHubHostName != "" || c.CurrentDeviceID != "" {
				t.Errorf("first: the webhook is told of a current hub: %+v", c)
			}
			r.wantDesired("first", hubA, "Device-1", twins[fromEnrollment])

			// The device and the back end change the twin.
			if _, err := r.hubs.UpdateReported(hubA, "Device-1", []byte(`{"firmware":"1.2.3"}`)); err != nil {
				t.Fatal(err)
			}
			if _, err := r.hubs.UpdateTwin(hubA, "Device-1", []byte(`{"properties":{"desired":{"left":true}}}`), false, ""); err != nil {
				t.Fatal(err)
			}

			answer := model.AllocationResponse{IotHubHostName: hubA, Payload: json.RawMessage(`{"again":true}`)}
			if row.otherHub {
				answer.IotHubHostName = hubB
			}
			if row.returnsTwin {
				answer.InitialTwin = initialTwin("webhook")
			}
			body, err := json.Marshal(answer)
			if err != nil {
				t.Fatal(err)
			}
			r.hook.set(answers(http.StatusOK, string(body)))
			second := r.register(caller, model.RegistrationRequest{}).RegistrationState

			if r.hook.calls() != 2 {
				t.Errorf("the webhook was called %d times; it is asked on every registration", r.hook.calls())
			}
			if second.Status != "assigned" || second.AssignedHub != row.wantHub || second.Substatus != row.wantSub || second.DeviceID != "Device-1" {
				t.Errorf("again: %+v, want %s, %s", second, row.wantHub, row.wantSub)
			}
			if string(second.Payload) != `{"again":true}` {
				t.Errorf("payload %s: it goes to the device always", second.Payload)
			}
			request = r.hook.lastRequest(t)
			if c := request.DeviceRuntimeContext; c.CurrentIotHubHostName != hubA || c.CurrentDeviceID != "Device-1" {
				t.Errorf("again: current hub %q, device %q", c.CurrentIotHubHostName, c.CurrentDeviceID)
			}
			wantLinked := map[string][]string{all: {hubA, hubB, hubC}, current: {hubA}}[row.wantLinked]
			if !reflect.DeepEqual(request.LinkedHubs, wantLinked) {
				t.Errorf("again: linkedHubs %v, want %v", request.LinkedHubs, wantLinked)
			}
			r.wantDesired("again", row.wantHub, "Device-1", twins[row.wantTwin])
			reported := r.section(row.wantHub, "Device-1", "reported")
			if _, kept := reported["firmware"]; kept != row.wantReported {
				t.Errorf("reported properties %v, want kept=%v", reported, row.wantReported)
			}
			for _, other := range []string{hubA, hubB, hubC} {
				_, err := r.hubs.Twin(other, "Device-1")
				if there := err == nil; there != (other == row.wantHub) {
					t.Errorf("device on %s: %v", other, there)
				}
			}
		})
	}
}

func initialTwin(from string) *model.InitialTwin {
	return &model.InitialTwin{
		Tags:       json.RawMessage(`{"from":"` + from + `"}`),
		Properties: &model.TwinProperties{Desired: json.RawMessage(`{"from":"` + from + `"}`)},
	}
}

// section returns desired or reported properties of a device's twin without metadata.
func (r *rig) section(hubName, id, section string) map[string]any {
	r.t.Helper()
	twin, err := r.hubs.Twin(hubName, id)
	if err != nil {
		r.t.Fatalf("twin of %s on %s: %v", id, hubName, err)
	}
	return properties(r.t, twin, section)
}

func properties(t *testing.T, twin hub.Twin, section string) map[string]any {
	t.Helper()
	data, err := json.Marshal(twin)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Properties map[string]map[string]any `json:"properties"`
	}
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	values := document.Properties[section]
	delete(values, "$metadata")
	delete(values, "$version")
	return values
}

func (r *rig) wantDesired(when, hubName, id, want string) {
	r.t.Helper()
	var values map[string]any
	if err := json.Unmarshal([]byte(want), &values); err != nil {
		r.t.Fatal(err)
	}
	if got := r.section(hubName, id, "desired"); !reflect.DeepEqual(got, values) {
		r.t.Errorf("%s: desired properties on %s: %v, want %v", when, hubName, got, values)
	}
}

// TestReprovisioningAtTheEdges checks the stated defaults for what no one has published.
func TestReprovisioningAtTheEdges(t *testing.T) {
	t.Parallel()
	always := func(hubName string) http.HandlerFunc {
		return answers(http.StatusOK, `{"iotHubHostName":"`+hubName+`"}`)
	}
	group := func(g *model.EnrollmentGroup) {
		g.InitialTwin = initialTwin("enrollment")
		g.ReprovisionPolicy = &model.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}
	}
	begin := func(t *testing.T) (*rig, dpssim.Caller) {
		r := newRig(t, nil)
		r.putGroup(customGroup(group))
		caller := groupDevice("device-1")
		r.hook.set(always(hubA))
		r.register(caller, model.RegistrationRequest{})
		return r, caller
	}
	t.Run("an unlinked hub cannot be migrated from", func(t *testing.T) {
		t.Parallel()
		r, caller := begin(t)
		if err := r.SetTrouble(dpssim.Trouble{Hubs: map[string]string{hubA: dpssim.HubUnlinked}}); err != nil {
			t.Fatal(err)
		}
		r.hook.set(always(hubB))
		state := r.register(caller, model.RegistrationRequest{}).RegistrationState
		if state.AssignedHub != hubB || state.Substatus != "deviceDataReset" {
			t.Errorf("got %+v", state)
		}
		if linked := r.hook.lastRequest(t).LinkedHubs; !reflect.DeepEqual(linked, []string{hubB, hubC}) {
			t.Errorf("linkedHubs %v", linked)
		}
		if _, err := r.hubs.Twin(hubA, "device-1"); err != nil {
			t.Errorf("the unlinked hub lost its device: %v", err)
		}
	})
	t.Run("a drained hub can be migrated from", func(t *testing.T) {
		t.Parallel()
		r, caller := begin(t)
		if err := r.SetTrouble(dpssim.Trouble{Hubs: map[string]string{"CONTOSO-hub-a.azure-devices.net": dpssim.HubDrained}}); err != nil {
			t.Fatal(err)
		}
		r.hook.set(always(hubB))
		if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.Substatus != "deviceDataMigrated" {
			t.Errorf("got %+v", state)
		}
	})
	t.Run("a device that was deleted on its hub is made again", func(t *testing.T) {
		t.Parallel()
		r, caller := begin(t)
		if err := r.removeDevice(hubA, "device-1"); err != nil {
			t.Fatal(err)
		}
		if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.AssignedHub != hubA {
			t.Errorf("got %+v", state)
		}
		r.wantDesired("again", hubA, "device-1", `{"from":"enrollment"}`)
	})
	t.Run("a failed registration leaves the device where it is", func(t *testing.T) {
		t.Parallel()
		r, caller := begin(t)
		r.hook.set(answers(http.StatusForbidden, ""))
		failed := r.register(caller, model.RegistrationRequest{}).RegistrationState
		if failed.Status != "failed" || failed.AssignedHub != "" {
			t.Errorf("got %+v", failed)
		}
		r.hook.set(always(hubB))
		state := r.register(caller, model.RegistrationRequest{}).RegistrationState
		if c := r.hook.lastRequest(t).DeviceRuntimeContext; c.CurrentIotHubHostName != hubA {
			t.Errorf("current hub %q after a failure", c.CurrentIotHubHostName)
		}
		if state.Substatus != "deviceDataMigrated" || state.ErrorCode != 0 || state.ErrorMessage != "" {
			t.Errorf("got %+v", state)
		}
	})
	t.Run("a deleted registration begins anew", func(t *testing.T) {
		t.Parallel()
		r, caller := begin(t)
		if err := r.DeleteRegistration("DEVICE-1", ""); err != nil {
			t.Fatal(err)
		}
		r.hook.set(always(hubB))
		if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.Substatus != "initialAssignment" {
			t.Errorf("got %+v", state)
		}
	})
	t.Run("never tells of the initial assignment, whatever is set", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(c *dpssim.Config) { c.Behaviour.SameHubSubstatus = model.SubstatusInitialAssignment })
		r.putGroup(customGroup(func(g *model.EnrollmentGroup) { g.ReprovisionPolicy = &model.ReprovisionPolicy{} }))
		r.register(groupDevice("device-1"), model.RegistrationRequest{})
		if state := r.register(groupDevice("device-1"), model.RegistrationRequest{}).RegistrationState; state.Substatus != "reprovisionedToInitialAssignment" {
			t.Errorf("got %+v", state)
		}
	})
	t.Run("settings", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(c *dpssim.Config) {
			c.Behaviour.SameHubSubstatus = model.SubstatusInitialAssignment
			c.Behaviour.UnsetReprovision = dpssim.ReprovisionReset
		})
		r.putGroup(customGroup(nil))
		caller := groupDevice("device-1")
		r.register(caller, model.RegistrationRequest{})
		if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.Substatus != "initialAssignment" {
			t.Errorf("same hub: %+v", state)
		}
		r.hook.set(always(hubB))
		if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.Substatus != "deviceDataReset" {
			t.Errorf("other hub: %+v", state)
		}
	})
}

// TestNameOfADeviceThatRegistersAgain checks whose ID and capabilities count for a device that an individual enrollment
// named otherwise, gave other capabilities, or that spells its registration ID otherwise: a device that keeps its data
// keeps both with it.
func TestNameOfADeviceThatRegistersAgain(t *testing.T) {
	t.Parallel()
	const migrate, reset, never = dpssim.ReprovisionMigrate, dpssim.ReprovisionReset, dpssim.ReprovisionNever
	for _, c := range []struct {
		name, policy, hub, id, deviceID string
		resetsOnSameHub                 bool
		wantHub, wantID, wantSub        string
		wantData                        bool
	}{
		{"same hub, migrate", migrate, hubA, "reg-1", "Hall", false, hubA, "Kitchen", "reprovisionedToInitialAssignment", true},
		{"same hub, reset", reset, hubA, "reg-1", "Hall", false, hubA, "Kitchen", "reprovisionedToInitialAssignment", true},
		{"same hub, reset there, too", reset, hubA, "reg-1", "Hall", true, hubA, "Hall", "deviceDataReset", false},
		{"same hub, same name, reset there, too", reset, hubA, "reg-1", "Kitchen", true, hubA, "Kitchen", "deviceDataReset", false},
		{"same hub, migrate, resets there", migrate, hubA, "reg-1", "Hall", true, hubA, "Kitchen", "reprovisionedToInitialAssignment", true},
		{"never, resets there", never, hubB, "reg-1", "Hall", true, hubA, "Kitchen", "reprovisionedToInitialAssignment", true},
		{"other hub, migrate", migrate, hubB, "reg-1", "Hall", false, hubB, "Kitchen", "deviceDataMigrated", true},
		{"other hub, reset", reset, hubB, "reg-1", "Hall", false, hubB, "Hall", "deviceDataReset", false},
		{"other case, same hub, migrate", migrate, hubA, "REG-1", "Kitchen", false, hubA, "Kitchen", "reprovisionedToInitialAssignment", true},
		{"other case, no name", migrate, hubA, "REG-1", "", false, hubA, "reg-1", "reprovisionedToInitialAssignment", true},
		{"other case, no name, other hub", migrate, hubB, "Reg-1", "", false, hubB, "reg-1", "deviceDataMigrated", true},
		{"other case, no name, reset", reset, hubA, "REG-1", "", false, hubA, "reg-1", "reprovisionedToInitialAssignment", true},
		{"other case, no name, other hub, reset", reset, hubB, "REG-1", "", false, hubB, "REG-1", "deviceDataReset", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(config *dpssim.Config) { config.Behaviour.ResetOnSameHub = c.resetsOnSameHub })
			policy := dpssim.ReprovisionPolicies[c.policy]
			enrollment := model.IndividualEnrollment{RegistrationID: "reg-1", DeviceID: "Kitchen"}
			if c.deviceID == "" {
				enrollment.DeviceID = ""
			}
			enrollment.Attestation = model.Attestation{Type: model.AttestationSymmetricKey, SymmetricKey: &model.SymmetricKey{PrimaryKey: groupKey}}
			enrollment.AllocationPolicy, enrollment.IotHubHostName = model.PolicyStatic, hubA
			enrollment.ReprovisionPolicy, enrollment.InitialTwin = &policy, initialTwin("enrollment")
			enrollment.Capabilities = &model.Capabilities{IoTEdge: true}
			r.putIndividual(enrollment)
			register := func(id string) *model.DeviceRegistrationState {
				caller := groupDevice(id)
				caller.SAS = token(id, []byte("a group key of thirty-two bytes!"))
				return r.register(caller, model.RegistrationRequest{}).RegistrationState
			}
			first := register("reg-1")
			if _, err := r.hubs.UpdateReported(first.AssignedHub, first.DeviceID, []byte(`{"firmware":"1.2.3"}`)); err != nil {
				t.Fatal(err)
			}
			enrollment.DeviceID, enrollment.IotHubHostName, enrollment.Capabilities = c.deviceID, c.hub, &model.Capabilities{}
			r.putIndividual(enrollment)
			second := register(c.id)
			if second.AssignedHub != c.wantHub || second.DeviceID != c.wantID || second.Substatus != c.wantSub {
				t.Errorf("got %+v", second)
			}
			if left := len(r.section(c.wantHub, c.wantID, "reported")) > 0; left != c.wantData {
				t.Errorf("the reported properties are there: %v", left)
			}
			device, err := r.hubs.Device(c.wantHub, c.wantID)
			if body, _ := json.Marshal(device); err != nil || strings.Contains(string(body), `"iotEdge":true`) != c.wantData {
				t.Errorf("got %s, %v", body, err)
			}
			if c.wantHub != hubA || c.wantID != first.DeviceID {
				if _, err := r.hubs.Device(hubA, first.DeviceID); err == nil {
					t.Error("the device of before is still there")
				}
			}
		})
	}
}

// TestHalfAPolicy checks that half a reprovision policy means the default of the specification, true, for the other.
func TestHalfAPolicy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{}`:                            "deviceDataMigrated",
		`{"updateHubAssignment":true}`:  "deviceDataMigrated",
		`{"migrateDeviceData":true}`:    "deviceDataMigrated",
		`{"migratedevicedata":false}`:   "deviceDataReset",
		`{"updateHubAssignment":false}`: "reprovisionedToInitialAssignment",
	} {
		r := newRig(t, nil)
		r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
			document := `{"enrollmentGroupId":"g","attestation":{"type":"none"},"reprovisionPolicy":` + text + `}`
			var read model.EnrollmentGroup
			if err := json.Unmarshal([]byte(document), &read); err != nil {
				t.Fatal(err)
			}
			g.ReprovisionPolicy = read.ReprovisionPolicy
		}))
		r.register(groupDevice("device-1"), model.RegistrationRequest{})
		r.hook.set(answers(http.StatusOK, `{"iotHubHostName":"`+hubB+`"}`))
		if state := r.register(groupDevice("device-1"), model.RegistrationRequest{}).RegistrationState; state.Substatus != want {
			t.Errorf("%s: got %+v, want %s", text, state, want)
		}
	}
}
