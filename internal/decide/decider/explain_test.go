package decider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/explanation"
)

func shippedAllocator(t testing.TB) *decider.Decider {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), os.DirFS("../../../rules"), decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

// sameDecision compares what Explain tells with what Allocate returns.
func sameDecision(t *testing.T, allocator *decider.Decider, request *dps.AllocationRequest) decider.Explanation {
	t.Helper()
	decided := allocator.Allocate(t.Context(), request)
	e := allocator.Explain(t.Context(), request, nil)
	if e.Answer.CauseText() != decided.CauseText() {
		t.Errorf("explained is the cause %v, decided %v", e.Answer.Cause, decided.Cause)
	}
	explained := e.Answer
	explained.Cause, decided.Cause = nil, nil // each has an error of its own
	if !reflect.DeepEqual(explained, decided) {
		t.Errorf("explained is %+v, decided %+v", explained, decided)
	}
	return e
}

func entryOf(t *testing.T, e decider.Explanation, name string) explanation.Entry {
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
	files, err := filepath.Glob("../../../examples/requests/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	outcomes := map[answer.Result]int{}
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
		outcomes[e.Answer.Result]++
		if e.CutShort != "" || e.Candidates[0].Rule.Package != e.Answer.PackageName() {
			t.Errorf("%s: cut short %q, candidates %+v", file, e.CutShort, e.Candidates)
		}
		switch e.Answer.Result {
		case answer.Assigned:
			if hub := entryOf(t, e, "hub"); hub.Value != e.Answer.Response.IotHubHostName && len(e.Answer.Overrides) == 0 {
				t.Errorf("%s: the rule says %v, the decision is %s", file, hub.Value, e.Answer.Response.IotHubHostName)
			}
		case answer.Rejected, answer.Held:
			name := map[answer.Result]string{answer.Rejected: "reject", answer.Held: "hold"}[e.Answer.Result]
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
			if !reflect.DeepEqual(reasons, e.Answer.Reasons) {
				t.Errorf("%s: definitions gave %v, the reasons are %v", file, reasons, e.Answer.Reasons)
			}
		}
	}
	if len(outcomes) != 3 {
		t.Errorf("the examples have the outcomes %v only", outcomes)
	}
}

// FuzzExplain: whatever the rule says and DPS sends, the decision explained is the decision made.
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

// Before there are rules, and for what no rule serves, there is nothing to explain but the fault.
func TestExplainFaults(t *testing.T) {
	t.Parallel()
	request, err := dps.ParseAllocationRequest([]byte(`{"enrollmentGroup": {"enrollmentGroupId": "other"},
		"deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["a.azure-devices.net"]}`))
	if err != nil {
		t.Fatal(err)
	}
	none, err := decider.New(decider.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		allocator *decider.Decider
		document  string
		want      answer.Result
	}{
		{none, "", answer.NotReady},
		{puppets(t), "", answer.Undecided},
		{puppets(t), `{"linkedHubs": 1}`, answer.InvalidRequest},
	} {
		request := request
		if test.document != "" {
			if request, err = dps.ParseAllocationRequest([]byte(test.document)); err != nil {
				t.Fatal(err)
			}
		}
		e := sameDecision(t, test.allocator, request)
		if e.Answer.Result != test.want || len(e.Entries) > 0 || len(e.Candidates) > 0 {
			t.Errorf("got %+v, want %s", e, test.want)
		}
	}

	broken := fstest.MapFS{"a.rego": {Data: []byte("# METADATA\n# custom:\n#   enrollment_groups: [other]\npackage allocation.a\n\nhub := nothing\n")}}
	rules, err := decider.LoadRules(t.Context(), broken, decider.RulesOptions{Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	if e := sameDecision(t, allocator, request); !strings.Contains(e.CutShort, "does not compile") {
		t.Errorf("of a rule that does not compile: %+v", e)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := puppets(t).Explain(ctx, mustParse(t, `{"enrollmentGroup": {"enrollmentGroupId": "hold"},
		"deviceRuntimeContext": {"registrationId": "d"}, "linkedHubs": ["a.azure-devices.net"]}`), nil)
	if e.Answer.Result != answer.Canceled || e.CutShort != "interrupted" {
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
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte(`# METADATA
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
`)}}, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	e := allocator.Explain(t.Context(), mustParse(t, strings.ReplaceAll(`{"enrollmentGroup": {"enrollmentGroupId": "g", "attestation": {
			"symmetricKey": {"primaryKey": "CANARY", "secondaryKey": "2CANARY"}, "tpm": {"endorsementKey": "3CANARY"}}},
		"deviceRuntimeContext": {"registrationId": "dev-visible", "x509": {"clientCertificate": "4CANARY"}},
		"linkedHubs": ["h.azure-devices.net"]}`, "CANARY", canary)), nil)
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
