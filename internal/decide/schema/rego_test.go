package schema_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/usher-dps/usher/schemas"
)

// schemaSet returns the schema of requests in the form that OPA's compiler takes: the decoded file.
func schemaSet(t *testing.T) *ast.SchemaSet {
	t.Helper()
	var raw any
	if err := json.Unmarshal(schemas.AllocationRequest(), &raw); err != nil {
		t.Fatal(err)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, raw)
	return set
}

// TestRegoIsTypeChecked compiles rules against the schema of requests with OPA's compiler, which supports only a part
// of JSON Schema.
func TestRegoIsTypeChecked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, expression string
		want             []string // parts of the error; none if it compiles
	}{
		{name: "linked hubs", expression: `input.linkedHubs[0]`},
		{name: "every linked hub", expression: `[h | some h in input.linkedHubs; startswith(h, "eu")][0]`},
		{name: "registration ID", expression: `lower(input.deviceRuntimeContext.registrationId)`},
		{name: "individual enrollment", expression: `input.individualEnrollment.registrationId`},
		{name: "enrollment group", expression: `input.enrollmentGroup.enrollmentGroupId`},
		{name: "either enrollment", expression: `object.get(input, "enrollmentGroup", object.get(input, "individualEnrollment", {}))`},
		{name: "both enrollments", expression: `[p | some k in ["individualEnrollment", "enrollmentGroup"]; p := input[k].reprovisionPolicy][0]`},
		{name: "current hub", expression: `input.deviceRuntimeContext.currentIotHubHostName`},
		{name: "certificate", expression: `crypto.x509.parse_certificates(input.deviceRuntimeContext.x509.clientCertificate)`},
		{name: "certificate of the group", expression: `input.enrollmentGroup.attestation.x509.signingCertificates.primary.info.subjectName`},
		{name: "certificate of the device", expression: `input.individualEnrollment.attestation.x509.clientCertificates.secondary.info.version + 1`},
		{name: "policy", expression: `input.enrollmentGroup.reprovisionPolicy.updateHubAssignment == false`},
		{name: "preview", expression: `input.enrollmentGroup.clientCertificateIssuancePolicy.certificateAuthorityName`},
		{name: "payload", expression: `input.deviceRuntimeContext.payload.anything.deep[0].x`},
		{name: "payload value", expression: `input.deviceRuntimeContext.payload.modelId == "dtmi:x"`},
		{name: "tags", expression: `input.enrollmentGroup.initialTwin.tags.anything.deep`},
		{name: "desired", expression: `input.individualEnrollment.initialTwin.properties.desired.anything`},
		{name: "device information", expression: `input.individualEnrollment.optionalDeviceInformation.site`},
		{name: "unknown member", expression: `object.get(input.deviceRuntimeContext, "toCome", "none")`},
		{name: "unknown member, deep", expression: `object.get(input, ["enrollmentGroup", "toCome", "x"], "none")`},

		{name: "registrationID", expression: `input.deviceRuntimeContext.registrationID`,
			want: []string{"undefined ref: input.deviceRuntimeContext.registrationID", `have: "registrationID"`, `"registrationId"`, `"currentIotHubHostName"`}},
		{name: "linkedHub", expression: `input.linkedHub[0]`, want: []string{"undefined ref: input.linkedHub", `"linkedHubs"`}},
		{name: "enrollmentGroup.x", expression: `input.enrollmentGroup.groupId`, want: []string{"undefined ref", `"enrollmentGroupId"`}},
		{name: "individualEnrollment.x", expression: `input.individualEnrollment.enrollmentGroupId`, want: []string{"undefined ref", `"registrationId"`}},
		{name: "top-level registrationId", expression: `input.registrationId`, want: []string{"undefined ref", `"deviceRuntimeContext"`}},
		{name: "payload of the request", expression: `input.payload.x`, want: []string{"undefined ref"}},
		{name: "policy misspelt", expression: `input.enrollmentGroup.reprovisionPolicy.updateHub`, want: []string{"undefined ref", `"updateHubAssignment"`}},
		{name: "certificate misspelt", expression: `input.enrollmentGroup.attestation.x509.signingCertificates.primary.info.subject`, want: []string{"undefined ref", `"subjectName"`}},
		{name: "desired misspelt", expression: `input.enrollmentGroup.initialTwin.properties.Desired`, want: []string{"undefined ref", `"desired"`}},
		{name: "hub as a number", expression: `input.linkedHubs[0] + 1`, want: []string{"plus: invalid argument(s)"}},
		{name: "policy as text", expression: `lower(input.enrollmentGroup.reprovisionPolicy.migrateDeviceData)`, want: []string{"lower: invalid argument(s)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			module, err := ast.ParseModule("rule.rego", "package allocation.test\n\nhub := "+test.expression+"\n")
			if err != nil {
				t.Fatal(err)
			}
			compiler := ast.NewCompiler().WithSchemas(schemaSet(t))
			compiler.Compile(map[string]*ast.Module{"rule.rego": module})
			if len(test.want) == 0 {
				if compiler.Failed() {
					t.Fatal(compiler.Errors)
				}
				return
			}
			if !compiler.Failed() {
				t.Fatal("it compiles")
			}
			for _, want := range test.want {
				if got := compiler.Errors.Error(); !strings.Contains(got, want) {
					t.Errorf("error %q, want one with %q", got, want)
				}
			}
		})
	}
}

// TestRegoReadsUnknownMembers shows that rules can read members that the schema does not list.
func TestRegoReadsUnknownMembers(t *testing.T) {
	t.Parallel()
	const rule = `package allocation.test
answer := [object.get(input.deviceRuntimeContext, "toCome", "none"), object.get(input, ["enrollmentGroup", "toCome", "x"], "none")]`
	query, err := rego.New(
		rego.Query("data.allocation.test.answer"),
		rego.Module("rule.rego", rule),
		rego.Schemas(schemaSet(t)),
	).PrepareForEval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	input := parseJSON(t, `{"deviceRuntimeContext":{"toCome":"a"},"enrollmentGroup":{"toCome":{"x":"b"}}}`)
	results, err := query.Eval(t.Context(), rego.EvalInput(input))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := json.Marshal(results[0].Expressions[0].Value); string(got) != `["a","b"]` {
		t.Errorf("answer = %s", got)
	}
}
