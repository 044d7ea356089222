package allocation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/explanation"
)

func shippedAllocator(t testing.TB) *allocation.Allocator {
	t.Helper()
	rules, err := allocation.LoadRules(t.Context(), os.DirFS("../rules"), allocation.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

// sameDecision compares what Explain tells with what Allocate returns.
func sameDecision(t *testing.T, allocator *allocation.Allocator, request *dps.AllocationRequest) allocation.Explanation {
	t.Helper()
	decision, err := allocator.Allocate(t.Context(), request)
	fault, _ := errors.AsType[*allocation.Fault](err)
	e := allocator.Explain(t.Context(), request)
	if !reflect.DeepEqual(e.Decision, decision) {
		t.Errorf("explained is %+v, decided %+v", e.Decision, decision)
	}
	if (fault == nil) != (e.Fault == nil) {
		t.Fatalf("explained is the fault %v, decided %v", e.Fault, fault)
	}
	if fault != nil && (fault.Error() != e.Fault.Error() || fault.Rules != e.Fault.Rules || fault.Rule != e.Fault.Rule ||
		!reflect.DeepEqual(fault.Violations, e.Fault.Violations)) {
		t.Errorf("explained is the fault %+v, decided %+v", e.Fault, fault)
	}
	return e
}

func entryOf(t *testing.T, e allocation.Explanation, name string) explanation.Entry {
	t.Helper()
	for _, entry := range e.Entries {
		if entry.Name == name {
			return entry
		}
	}
	t.Fatalf("no entry %s in %+v", name, e.Entries)
	return explanation.Entry{}
}

// Explain decides as Allocate does, and what it tells of the rule leads to that.
func TestExplainExampleRequests(t *testing.T) {
	t.Parallel()
	allocator := shippedAllocator(t)
	files, err := filepath.Glob("../examples/requests/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	outcomes := map[allocation.Outcome]int{}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		request, err := dps.ParseAllocationRequest(body)
		if err != nil {
			t.Fatal(err)
		}
		e := sameDecision(t, allocator, request)
		outcomes[e.Decision.Outcome]++
		if e.CutShort != "" || e.Candidates[0].Package != e.Decision.Rule {
			t.Errorf("%s: cut short %q, candidates %+v", file, e.CutShort, e.Candidates)
		}
		switch e.Decision.Outcome {
		case allocation.Assigned:
			if hub := entryOf(t, e, "hub"); hub.Value != e.Decision.Response.IotHubHostName && len(e.Decision.Overrides) == 0 {
				t.Errorf("%s: the rule says %v, the decision is %s", file, hub.Value, e.Decision.Response.IotHubHostName)
			}
		case allocation.Rejected, allocation.Held:
			name := map[allocation.Outcome]string{allocation.Rejected: "reject", allocation.Held: "hold"}[e.Decision.Outcome]
			if e.Entries[0].Name != name {
				t.Errorf("%s: %s has the last word, but %s is first", file, name, e.Entries[0].Name)
			}
			var reasons []string
			for _, d := range e.Entries[0].Definitions {
				if d.State == explanation.Gave {
					for _, reason := range d.Value.([]any) {
						reasons = append(reasons, reason.(string))
					}
				}
			}
			if !reflect.DeepEqual(reasons, e.Decision.Reasons) {
				t.Errorf("%s: definitions gave %v, the reasons are %v", file, reasons, e.Decision.Reasons)
			}
		}
	}
	if len(outcomes) != 3 {
		t.Errorf("the examples have the outcomes %v only", outcomes)
	}
}

// FuzzExplain: whatever the rule says and DPS sends, the decision explained is
// the decision made.
func FuzzExplain(f *testing.F) {
	for _, verdict := range []string{
		`{"hub": "contoso-eu.azure-devices.net", "initial_twin": {"tags": {"a": 1}}, "payload": {"b": [null]}}`,
		`{"hub": ["contoso-eu.azure-devices.net"]}`, `{"hub": "elsewhere.azure-devices.net"}`, `{"hub": 1}`,
		`{"reject": ["no"], "hold": ["later"]}`, `{"reject": true}`, `{"reject": {"reason": 1}}`,
		`{"hold": [{"reason": "x", "status": 429, "retry_after": 5}]}`, `{}`, `null`, `[]`,
	} {
		f.Add("stay", "contoso-us.azure-devices.net", true, verdict)
		f.Add("hold", "", false, verdict)
		f.Add("reject", "contoso-eu.azure-devices.net", false, verdict)
	}
	allocator := puppets(f)
	f.Fuzz(func(t *testing.T, group, current string, update bool, verdict string) {
		var said any
		if json.Unmarshal([]byte(verdict), &said) != nil {
			return
		}
		device := map[string]any{"registrationId": "dev-1", "payload": said}
		if current != "" {
			device["currentIotHubHostName"] = current
		}
		body, err := json.Marshal(map[string]any{
			"enrollmentGroup":      map[string]any{"enrollmentGroupId": group, "reprovisionPolicy": map[string]any{"updateHubAssignment": update}},
			"deviceRuntimeContext": device, "linkedHubs": []string{"contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"},
		})
		if err != nil {
			t.Fatal(err)
		}
		request, err := dps.ParseAllocationRequest(body)
		if err != nil {
			return
		}
		sameDecision(t, allocator, request)
	})
}

// Before there are rules, and for what no rule serves, there is nothing to
// explain but the fault.
func TestExplainFaults(t *testing.T) {
	t.Parallel()
	request, err := dps.ParseAllocationRequest([]byte(`{"enrollmentGroup": {"enrollmentGroupId": "other"},
		"deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["a.azure-devices.net"]}`))
	if err != nil {
		t.Fatal(err)
	}
	none, err := allocation.New(allocation.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		allocator *allocation.Allocator
		document  string
		want      allocation.FaultKind
	}{
		{none, "", allocation.NotReady},
		{puppets(t), "", allocation.Undecided},
		{puppets(t), `{"linkedHubs": 1}`, allocation.InvalidRequest},
	} {
		request := request
		if test.document != "" {
			if request, err = dps.ParseAllocationRequest([]byte(test.document)); err != nil {
				t.Fatal(err)
			}
		}
		e := sameDecision(t, test.allocator, request)
		if e.Fault.Kind != test.want || len(e.Entries) > 0 || len(e.Candidates) > 0 {
			t.Errorf("got %+v, want %s", e, test.want)
		}
	}

	broken := fstest.MapFS{"a.rego": {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [other]\npackage allocation.a\n\nhub := nothing\n")}}
	rules, err := allocation.LoadRules(t.Context(), broken, allocation.RulesOptions{Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	if e := sameDecision(t, allocator, request); !strings.Contains(e.CutShort, "does not compile") {
		t.Errorf("of a rule that does not compile: %+v", e)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := puppets(t).Explain(ctx, mustParse(t, `{"enrollmentGroup": {"enrollmentGroupId": "hold"},
		"deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["a.azure-devices.net"]}`))
	if e.Fault == nil || e.Fault.Kind != allocation.Canceled || e.CutShort != "interrupted" {
		t.Errorf("interrupted, it tells %+v", e)
	}
}

func mustParse(t *testing.T, body string) *dps.AllocationRequest {
	t.Helper()
	request, err := dps.ParseAllocationRequest([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// No key or certificate of the request is in what is told, wherever a rule puts it.
func TestExplainHidesKeys(t *testing.T) {
	t.Parallel()
	const canary = "Q0FOQVJZLUNBTkFSWS1DQU5BUlk="
	rules, err := allocation.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(`# METADATA
# custom:
#   enrollment_groups: [g]
package allocation.a

hub := "h.azure-devices.net" if {
	key := lower(attestation.symmetricKey.primaryKey)
	startswith(key, "x")
}

attestation := input.enrollmentGroup.attestation

payload := {"echo": input.deviceRuntimeContext, "part": substring(attestation.tpm.endorsementKey, 3, 16)}

initial_twin := {"tags": {concat("", ["k", attestation.symmetricKey.secondaryKey]): 1}}

hold contains concat(" ", ["failed for", attestation.symmetricKey.primaryKey]) if to_number(attestation.symmetricKey.primaryKey) != 1

hold contains sprintf("certificate %s of %v", [input.deviceRuntimeContext.x509.clientCertificate, attestation])

reject contains x if x := f(attestation.symmetricKey.primaryKey)

f("other") := "no"
`)}}, allocation.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := allocation.New(allocation.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	e := allocator.Explain(t.Context(), mustParse(t, strings.ReplaceAll(`{"enrollmentGroup": {"enrollmentGroupId": "g", "attestation": {
			"symmetricKey": {"primaryKey": "CANARY", "secondaryKey": "2CANARY"}, "tpm": {"endorsementKey": "3CANARY"}}},
		"deviceRuntimeContext": {"registrationId": "dev-visible", "x509": {"clientCertificate": "4CANARY"}},
		"linkedHubs": ["h.azure-devices.net"]}`, "CANARY", canary)))
	shown, err := json.Marshal([]any{e.Entries, e.BuiltinErrors, e.CutShort, e.Candidates})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{canary, canary[3:16]} {
		if at := bytes.Index(bytes.ToLower(shown), bytes.ToLower([]byte(secret))); at >= 0 {
			t.Errorf("%s is shown: ...%s", secret, shown[max(0, at-200):at])
		}
	}
	for _, visible := range []string{"dev-visible", "(masked)", `"failed":{"place":"rules/a.rego:8"`} {
		if !bytes.Contains(shown, []byte(visible)) {
			t.Errorf("%s is not shown: %s", visible, shown)
		}
	}
}
