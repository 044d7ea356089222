package decider_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
)

// puppet says whatever the device's payload tells it to: any verdict there can be.
var puppet = fstest.MapFS{"puppet.rego": {Data: []byte(`# METADATA
# custom:
#   enrollment_groups: [hold]
package allocation.puppet

said := input.deviceRuntimeContext.payload

hub := said.hub

initial_twin := said.initial_twin

payload := said.payload

reject := said.reject

hold := said.hold
`)}}

func puppets(t testing.TB) *decider.Decider {
	t.Helper()
	rules := fstest.MapFS{}
	text := string(puppet["puppet.rego"].Data)
	for _, undecided := range []string{"hold", "reject", "stay"} {
		one := strings.NewReplacer("[hold]", "["+undecided+"]\n#   on_undecided: "+undecided, "allocation.puppet", "allocation."+undecided).Replace(text)
		rules[undecided+".rego"] = &fstest.MapFile{Data: []byte(one)}
	}
	loaded, err := decider.LoadRules(t.Context(), rules, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: loaded})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

// FuzzInvariants holds whatever a rule says and DPS sends: a device that is assigned goes to a linked hub, in its
// spelling; a device that may not be reprovisioned never moves; every result is a known one.
func FuzzInvariants(f *testing.F) {
	const eu, us = "contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"
	for _, verdict := range []string{
		`{"hub": "` + eu + `"}`,
		`{"hub": "` + strings.ToUpper(us) + `", "initial_twin": {"tags": {"a": 1}}, "payload": {"b": [null]}}`,
		`{"hub": "elsewhere.azure-devices.net"}`,
		`{"hub": ["` + eu + `"]}`,
		`{"reject": ["no"], "hold": ["later"]}`,
		`{"reject": true}`, `{"reject": []}`, `{"reject": {"reason": 1}}`, `{"hold": {"status": 429, "retry_after": 1e300}}`,
		`{"hub": "` + eu + `", "payload": "text"}`,
		`{"hub": "` + eu + `", "initial_twin": {"tags": {"a.b": 1}}}`,
		`{"hub": ""}`, `{}`,
	} {
		for policy := range uint8(4) {
			f.Add("stay", eu+" "+us, us, policy, verdict)
			f.Add("hold", us, eu, policy, verdict)
			f.Add("reject", eu, "", policy, verdict)
			f.Add("stay", strings.Replace(eu, ".", ".device.", 1)+" "+us, eu, policy, verdict)
			f.Add("hold", eu+" "+strings.Replace(eu, ".", ".DEVICE.", 1), strings.Replace(eu, ".", ".device.", 1), policy, verdict)
		}
	}
	allocator := puppets(f)
	f.Fuzz(func(t *testing.T, group, linked, current string, policy uint8, verdict string) {
		var said any
		if json.Unmarshal([]byte(verdict), &said) != nil {
			return
		}
		hubs := strings.Fields(linked)
		device := map[string]any{"registrationId": "dev-1", "payload": said}
		if current != "" {
			device["currentIotHubHostName"] = current
		}
		body, err := json.Marshal(map[string]any{
			"enrollmentGroup": map[string]any{"enrollmentGroupId": group, "reprovisionPolicy": map[string]any{
				"updateHubAssignment": policy&1 == 0, "migrateDeviceData": policy&2 == 0}},
			"deviceRuntimeContext": device,
			"linkedHubs":           hubs,
		})
		if err != nil {
			t.Fatal(err)
		}
		request, decision := allocator.AllocateJSON(t.Context(), body)
		if !utf8.ValidString(group) || !utf8.ValidString(linked) || !utf8.ValidString(current) {
			// Marshal has put U+FFFD into the body; a request made in Go can have the text itself.
			if request == nil {
				return
			}
			request.Enrollment.ID, request.LinkedHubs, request.Device.CurrentIotHubHostName = group, hubs, current
			if decision := allocator.Allocate(t.Context(), request); decision.Result != answer.InvalidRequest || len(decision.Violations) == 0 {
				t.Errorf("texts that are not UTF-8: %+v", decision)
			}
			return
		}
		if !slices.Contains(answer.Results(), decision.Result) {
			t.Fatalf("an unknown result: %+v", decision)
		}
		if !decision.Result.IsOutcome() {
			if decision.Detail == "" || decision.Response.IotHubHostName != "" || len(decision.Reasons) > 0 || decision.Status() < 400 {
				t.Errorf("a fault with parts of a decision, or without a detail: %+v", decision)
			}
			return
		}
		again := allocator.Allocate(t.Context(), request)
		if string(again.Response.AppendJSON(nil)) != string(decision.Response.AppendJSON(nil)) || again.Result != decision.Result {
			t.Errorf("the second time: %+v; the first time %+v", again, decision)
		}
		switch decision.Result {
		case answer.Assigned:
			hub := decision.Response.IotHubHostName
			if !slices.Contains(hubs, hub) {
				t.Errorf("assigned to %q, linked are %q", hub, hubs)
			}
			if policy&1 == 1 && request.Device.CurrentIotHubHostName != "" && !dps.SameHub(hub, current) {
				t.Errorf("moved from %q to %q, though the device may not be reprovisioned", current, hub)
			}
			isCurrent := func(hub string) bool { return sameHost(hub, current) }
			if dps.SameHub(hub, current) && slices.ContainsFunc(hubs, isCurrent) && !isCurrent(hub) {
				t.Errorf("the device is on %q, which is linked, but is assigned to its other name %q", current, hub)
			}
			if problems := dps.CheckInitialTwin(decision.Response.InitialTwin); len(problems) > 0 {
				t.Errorf("a twin that IoT Hub refuses: %v", problems)
			}
			if !json.Valid(decision.Response.AppendJSON(nil)) {
				t.Errorf("the answer is not JSON: %s", decision.Response.AppendJSON(nil))
			}
		case answer.Rejected, answer.Held:
			if len(decision.Reasons) == 0 {
				t.Error("no reason")
			}
			if decision.Response.IotHubHostName != "" {
				t.Errorf("%s, but with a hub", decision.Result)
			}
		default:
			t.Errorf("outcome %q", decision.Result)
		}
	})
}

// sameHost compares host names as DNS does: only ASCII letters have another case.
func sameHost(a, b string) bool {
	ascii := func(text string) bool {
		return strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
	}
	return a == b || ascii(a) && ascii(b) && strings.EqualFold(a, b)
}

// A request with a field that was set in Go is refused if that is not valid UTF-8.
func TestTextsThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	allocator, err := decider.New(decider.Options{Rules: load(t, map[string]string{"d.rego": "package allocation.default\n\nhub := input.linkedHubs[0]\n"})})
	if err != nil {
		t.Fatal(err)
	}
	const bad = "\x80"
	for pointer, change := range map[string]func(*dps.AllocationRequest){
		"/linkedHubs/1":                         func(r *dps.AllocationRequest) { r.LinkedHubs[1] = bad },
		"/deviceRuntimeContext/registrationId":  func(r *dps.AllocationRequest) { r.Device.RegistrationID = bad },
		"/deviceRuntimeContext/currentDeviceId": func(r *dps.AllocationRequest) { r.Device.CurrentDeviceID = bad },
		"/enrollmentGroup/enrollmentGroupId":    func(r *dps.AllocationRequest) { r.Enrollment.ID = bad },
		"/usher/service":                        func(r *dps.AllocationRequest) { r.SetService(bad) },
		"/individualEnrollment/registrationId": func(r *dps.AllocationRequest) {
			r.Enrollment = dps.Enrollment{Kind: dps.IndividualEnrollment, ID: bad}
		},
	} {
		asked := request(t)
		change(asked)
		a := allocator.Allocate(t.Context(), asked)
		if a.Result != answer.InvalidRequest || len(a.Violations) != 1 || a.Violations[0].Pointer != pointer || !strings.Contains(a.Violations[0].Problem, "not valid UTF-8") {
			t.Errorf("%s: %+v", pointer, a)
		}
	}
}
