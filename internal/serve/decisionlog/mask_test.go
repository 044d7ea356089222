package decisionlog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/schemas"
)

// planted is a request with another text in every place of the schema that can hold one, and of the texts what place
// each has.
type planted struct {
	document map[string]any
	pointers map[string]string // canary to pointer
}

// plant fills in the whole schema for one kind of enrollment and of attestation.
func plant(t testing.TB, kind, attestation string) *planted {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(schemas.AllocationRequest(), &root); err != nil {
		t.Fatal(err)
	}
	p := &planted{pointers: map[string]string{}}
	p.document = p.object(root, root, "", func(pointer string) bool {
		last := pointer[strings.LastIndexByte(pointer, '/')+1:]
		switch last {
		case "individualEnrollment", "enrollmentGroup":
			return last == kind
		case "symmetricKey", "tpm", "x509":
			return last == attestation || attestation == "all"
		}
		return true
	})
	return p
}

func (p *planted) object(root, schema map[string]any, pointer string, wanted func(string) bool) map[string]any {
	object := map[string]any{}
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		if below := pointer + "/" + name; wanted(below) {
			object[name] = p.value(root, property.(map[string]any), below, wanted)
		}
	}
	// What is not in the schema, at every level, and what an open object holds.
	object["unlisted"] = map[string]any{"text": p.canary(pointer + "/unlisted/text"), "list": []any{p.canary(pointer + "/unlisted/list")}}
	return object
}

func (p *planted) value(root, schema map[string]any, pointer string, wanted func(string) bool) any {
	if reference, ok := schema["$ref"].(string); ok {
		definitions := root["$defs"].(map[string]any)
		schema = definitions[strings.TrimPrefix(reference, "#/$defs/")].(map[string]any)
	}
	switch schema["type"] {
	case "object", nil: // the payload can be any value
		return p.object(root, schema, pointer, wanted)
	case "array":
		return []any{p.value(root, schema["items"].(map[string]any), pointer+"/*", wanted)}
	case "string":
		return p.canary(pointer)
	case "integer":
		return 3
	default:
		return true
	}
}

func (p *planted) canary(pointer string) string {
	canary := fmt.Sprintf("CANARY-%04d-of-what-was-planted", len(p.pointers))
	p.pointers[canary] = pointer
	return canary
}

func (p *planted) body(t testing.TB) []byte {
	t.Helper()
	body, err := json.Marshal(p.document)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// in lists the pointers of the canaries that are in a text, in any letter case.
func (p *planted) in(text string) []string {
	var found []string
	text = strings.ToLower(text)
	for canary, pointer := range p.pointers {
		if strings.Contains(text, strings.ToLower(canary)) {
			found = append(found, pointer)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// What is recorded of a request, by hand: a change of the schema's annotations has to be one here, too. ENROLLMENT
// stands for either kind.
const (
	recordedNames = `
/deviceRuntimeContext/currentIotHubHostName
/linkedHubs/*
/usher/service
ENROLLMENT/allocationPolicy
ENROLLMENT/attestation/type
ENROLLMENT/certificateAuthorityName
ENROLLMENT/certificatePolicyName
ENROLLMENT/certificatePolicyResourceId
ENROLLMENT/clientCertificateIssuancePolicy/certificateAuthorityName
ENROLLMENT/createdDateTimeUtc
ENROLLMENT/credentialPolicyName
ENROLLMENT/customAllocationDefinition/apiVersion
ENROLLMENT/deviceTypeRefs/*
ENROLLMENT/iotHubHostName
ENROLLMENT/iotHubs/*
ENROLLMENT/lastUpdatedDateTimeUtc
ENROLLMENT/namespaceName
ENROLLMENT/provisioningStatus
ENROLLMENT/trustBundleId`
	recordedX509 = `
ENROLLMENT/attestation/x509/caReferences/primary
ENROLLMENT/attestation/x509/caReferences/secondary`
	recordedState = `
/individualEnrollment/registrationState/assignedHub
/individualEnrollment/registrationState/connectionProfile
/individualEnrollment/registrationState/createdDateTimeUtc
/individualEnrollment/registrationState/lastUpdatedDateTimeUtc
/individualEnrollment/registrationState/status
/individualEnrollment/registrationState/substatus`
	recordedIdentities = `
/deviceRuntimeContext/currentDeviceId
/deviceRuntimeContext/registrationId`
	recordedIndividual = `
/individualEnrollment/deviceId
/individualEnrollment/registrationId
/individualEnrollment/registrationState/deviceId
/individualEnrollment/registrationState/registrationId`
)

func certificateInfo(of string) string {
	var lines strings.Builder
	for _, which := range []string{"primary", "secondary"} {
		for _, name := range []string{"issuerName", "notAfterUtc", "notBeforeUtc", "serialNumber", "sha1Thumbprint", "sha256Thumbprint", "subjectName"} {
			fmt.Fprintf(&lines, "\nENROLLMENT/attestation/x509/%s/%s/info/%s", of, which, name)
		}
	}
	return lines.String()
}

func recorded(kind, attestation string, mode decisionlog.IDMode) []string {
	list := recordedNames
	x509 := attestation == "x509" || attestation == "all"
	if kind == "enrollmentGroup" {
		list += "\nENROLLMENT/enrollmentGroupId"
	} else {
		list += recordedState
	}
	if x509 {
		list += recordedX509 + certificateInfo("signingCertificates")
	}
	if mode == decisionlog.Plain {
		list += recordedIdentities
		if kind == "individualEnrollment" {
			list += recordedIndividual
		}
		if x509 {
			list += certificateInfo("clientCertificates")
		}
	}
	pointers := strings.Fields(strings.ReplaceAll(list, "ENROLLMENT", "/"+kind))
	slices.Sort(pointers)
	return pointers
}

func modes() []decisionlog.IDMode {
	return []decisionlog.IDMode{decisionlog.Plain, decisionlog.Hashed, decisionlog.Absent}
}

const hubRule = "package allocation.default\nhub := input.linkedHubs[0]"

// Of a request that has something in every place, a record holds what the schema says, and nothing else; with the
// function key, the log line and the answer looked at, too.
func TestCanaries(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, hubRule, decider.RulesOptions{})
	for _, kind := range []string{"individualEnrollment", "enrollmentGroup"} {
		for _, attestation := range []string{"symmetricKey", "tpm", "x509", "none", "all"} {
			p := plant(t, kind, attestation)
			body := p.body(t)
			for _, mode := range modes() {
				text, decoded, answer := record(t, allocator, mode, body)
				if answer.Code != http.StatusOK {
					t.Fatalf("answered %d: %s", answer.Code, answer.Body)
				}
				if diff := cmp.Diff(recorded(kind, attestation, mode), p.in(text)); diff != "" {
					t.Errorf("%s, %s, %s: what is in the record: -want +got:\n%s", kind, attestation, mode, diff)
				}
				for _, pointer := range []string{"/unlisted", "/deviceRuntimeContext/payload", "/deviceRuntimeContext/unlisted", "/" + kind + "/etag",
					"/" + kind + "/customAllocationDefinition/webhookUrl", "/" + kind + "/initialTwin"} {
					if !slices.Contains(decoded.Masked, pointer) && decoded.MaskedMore == 0 {
						t.Errorf("%s, %s, %s: masked does not name %s: %v", kind, attestation, mode, pointer, decoded.Masked)
					}
				}
				if mode != decisionlog.Plain && !slices.Contains(decoded.Masked, "/deviceRuntimeContext/registrationId") {
					t.Errorf("%s: the registration ID is not named: %v", mode, decoded.Masked)
				}
				validate(t, text)
			}
		}
	}
}

// keyPlaces are where keys and certificates stand.
func isKeyPlace(pointer string) bool {
	for _, name := range []string{"/endorsementKey", "/storageRootKey", "/clientCertificate", "/certificate"} {
		if strings.HasSuffix(pointer, name) {
			return true
		}
	}
	return false
}

// tellers are rules that tell whatever they are asked about.
func tellers() map[string]string {
	const head = "# METADATA\n# custom:\n#   recordable: [payload, initialTwin, optionalDeviceInformation, answer.payload, answer.initialTwin]\npackage allocation.default\n"
	return map[string]string{
		"payload":  head + "hub := input.linkedHubs[0]\npayload := {\"all\": input}",
		"twin":     head + "hub := input.linkedHubs[0]\ninitial_twin := {\"tags\": {\"a\": t[0], \"b\": t[1], \"c\": t[2], \"d\": object.get(input.deviceRuntimeContext, \"registrationId\", 0)}}\nt := [object.get(input.deviceRuntimeContext, [\"tpm\", \"endorsementKey\"], \"\"), object.get(input.deviceRuntimeContext, [\"x509\", \"clientCertificate\"], \"\"), upper(object.get(input.deviceRuntimeContext, [\"tpm\", \"storageRootKey\"], \"\"))]",
		"names":    head + "hub := input.linkedHubs[0]\npayload := {v: 1 | walk(input, [_, v]); is_string(v)}",
		"reasons":  head + "reject contains v if { walk(input, [_, v]); is_string(v); contains(v, \"CANARY\") }",
		"sentence": head + "reject contains sprintf(\"no %s, no %s, no %s.\", [lower(object.get(input.deviceRuntimeContext, [\"tpm\", \"endorsementKey\"], \"-\")), object.get(input.deviceRuntimeContext, [\"x509\", \"clientCertificate\"], \"-\"), input.deviceRuntimeContext.registrationId])",
		"hold":     head + "hold contains sprintf(\"%v\", [input.deviceRuntimeContext])",
		"no hub":   head + "hub := object.get(input.deviceRuntimeContext, [\"tpm\", \"endorsementKey\"], input.deviceRuntimeContext.registrationId)",
		"no twin":  head + "hub := input.linkedHubs[0]\ninitial_twin := {\"tags\": {concat(\".\", [input.deviceRuntimeContext.registrationId, \"$\"]): 1}}",
		"failing":  head + "hub := input.linkedHubs[0] if to_number(input.deviceRuntimeContext.registrationId) > 1",
		"conflict": head + "hub := input.deviceRuntimeContext.registrationId\nhub := input.linkedHubs[0]",
	}
}

// Whatever a rule tells, no key is on record, and with hashed or absent IDs none of these.
func TestRulesThatTell(t *testing.T) {
	t.Parallel()
	for name, rule := range tellers() {
		allocator := allocatorOf(t, rule, decider.RulesOptions{})
		for _, kind := range []string{"individualEnrollment", "enrollmentGroup"} {
			p := plant(t, kind, "all")
			for _, mode := range modes() {
				text, _, _ := record(t, allocator, mode, p.body(t))
				for _, pointer := range p.in(text) {
					identity := strings.HasSuffix(pointer, "/registrationId") || strings.HasSuffix(pointer, "eviceId")
					if isKeyPlace(pointer) || mode != decisionlog.Plain && identity {
						t.Errorf("%s, %s, %s: %s is in the record: %s", name, kind, mode, pointer, text)
					}
				}
				validate(t, text)
			}
		}
	}
}

// A body that cannot be read has no names that could be hidden, and pointers with names.
func TestMalformedHidesIDs(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, hubRule, decider.RulesOptions{})
	for _, mode := range modes() {
		text, decoded, _ := record(t, allocator, mode, []byte(`{"deviceRuntimeContext": {"registrationId": "press-0001", "payload": {"press-0001": {"a": 1, "a": 2}}}}`))
		if fault := decoded.Decision.Fault; fault == nil || !strings.HasPrefix(fault.Detail, "a member name occurs twice in one object") ||
			strings.Contains(text, "press-0001") != (mode == decisionlog.Plain) {
			t.Errorf("%s: %s", mode, text)
		}
	}
}

// A reason that is cut off shows no first half of a key, a certificate or an ID either.
func TestReasonsThatAreCutOff(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, `package allocation.default
reject contains sprintf("%s %v", [input.deviceRuntimeContext.payload.filler, object.remove(input.deviceRuntimeContext, ["payload"])])`, decider.RulesOptions{})
	const id, key = "device-of-which-nobody-knows", "RW5kb3JzZW1lbnRLZXlPZlRoZVRwbQ=="
	leaf := "MIIBcert" + strings.Repeat("0123456789abcdef", 100)
	for filler := 300; filler < 512; filler += 3 {
		for _, mode := range modes() {
			text, decoded, answer := record(t, allocator, mode, []byte(`{"enrollmentGroup": {"enrollmentGroupId": "g"}, "linkedHubs": ["h.azure-devices.net"],
				"deviceRuntimeContext": {"registrationId": "`+id+`", "tpm": {"endorsementKey": "`+key+`"}, "x509": {"clientCertificate": "`+leaf+`"},
				"payload": {"filler": "`+strings.Repeat("a", filler)+`"}}}`))
			if len(decoded.Decision.Reasons) != 1 || len(decoded.Decision.Reasons[0]) < filler {
				t.Fatalf("no reason: %s", text)
			}
			for _, secret := range []string{key[:4], leaf[:8], id[:6]} {
				if secret == id[:6] && mode == decisionlog.Plain {
					continue
				}
				if strings.Contains(decoded.Decision.Reasons[0], secret) {
					t.Fatalf("%s, %d before it: %s... is in the record: %s", mode, filler, secret, text)
				}
			}
			if body := answer.Body.String(); strings.Contains(body, key[:4]) || strings.Contains(body, leaf[:8]) {
				t.Fatalf("%d before it: in the answer: %s", filler, body)
			}
		}
	}
}

var recordSchema = sync.OnceValues(func() (*schema.Schema, error) {
	return schema.Compile("decision-record", schemas.DecisionRecord())
})

// validate holds a record to its schema.
func validate(t testing.TB, text string) {
	t.Helper()
	compiled, err := recordSchema()
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if violations := compiled.Validate(document); len(violations) > 0 {
		t.Errorf("%v: %s", violations, text)
	}
	if !strings.HasPrefix(text, `{"usherRecord":1,`) || strings.Contains(text, "\n") {
		t.Errorf("not a record on a line: %s", text)
	}
}

// The function key, in the URL and in the header, is nowhere.
func TestFunctionKey(t *testing.T) {
	t.Parallel()
	const key = "FUNCTIONKEY-4711-4711"
	sink := &memory{}
	var log bytes.Buffer
	recorder := newRecorder(t, decisionlog.Plain, sink)
	webhook := handler.New(handler.Options{Allocator: allocatorOf(t, hubRule, decider.RulesOptions{}), Keys: []string{key},
		Observers: []answer.Observer{recorder.Observe, answer.LogCalls(slog.New(slog.NewJSONHandler(&log, nil)))}})
	p := plant(t, "enrollmentGroup", "all")
	for _, body := range []string{string(p.body(t)), `{`, `{"linkedHubs":[]}`} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath+"?code="+key, strings.NewReader(body))
		request.Header.Set("X-Functions-Key", key)
		answer := httptest.NewRecorder()
		webhook.ServeHTTP(answer, request)
	}
	out := log.String() + string(bytes.Join(sink.records, nil))
	if len(sink.records) != 3 || log.Len() == 0 || strings.Contains(out, key) {
		t.Errorf("%d records; the key is in %s", len(sink.records), out)
	}
	for _, pointer := range p.in(log.String()) {
		if isKeyPlace(pointer) {
			t.Errorf("the log line has %s", pointer)
		}
	}
}

// Of a payload that is another text of JSON nothing is recorded, even if a rule declares all of it: the names of its
// members are not known.
func TestPayloadAsText(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, `# METADATA
# custom:
#   recordable: [payload]
package allocation.default

hold contains sprintf("the device sent %v", [input.deviceRuntimeContext.payload])
`, decider.RulesOptions{})
	for payload, recorded := range map[string]bool{
		`[{"primaryKey": "SECRET12"}]`: false, `{"a": {"primaryKey": "SECRET12"}, "a": 1}`: false, `{"primaryKey": "SECRET12"} {}`: false,
		"plain words": true,
	} {
		quoted, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		text, decoded, _ := record(t, allocator, decisionlog.Plain, []byte(`{"enrollmentGroup": {"enrollmentGroupId": "g"},
			"deviceRuntimeContext": {"registrationId": "d1", "payload": `+string(quoted)+`}, "linkedHubs": ["h.azure-devices.net"]}`))
		if strings.Contains(text, "SECRET") || strings.Contains(string(decoded.Request), "payload") != recorded || (len(decoded.Masked) == 0) != recorded {
			t.Errorf("%s: %s", payload, text)
		}
	}
}

// A record names the DPS instance that called, and its request does so for a replay.
func TestService(t *testing.T) {
	t.Parallel()
	for _, mode := range []decisionlog.IDMode{decisionlog.Plain, decisionlog.Hashed, decisionlog.Absent} {
		sink := &memory{}
		webhook := handler.New(handler.Options{Allocator: allocatorOf(t, hubRule, decider.RulesOptions{}), Observers: []answer.Observer{newRecorder(t, mode, sink).Observe}})
		for _, body := range []string{string(plant(t, "enrollmentGroup", "all").body(t)), `{`} {
			request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath+"?dps=contoso-eu", strings.NewReader(body))
			webhook.ServeHTTP(httptest.NewRecorder(), request)
		}
		for i, text := range sink.records {
			record, err := decisionlog.Decode(text)
			if err != nil || record.Service != "contoso-eu" {
				t.Fatalf("%s: %v", text, err)
			}
			if i > 0 {
				continue // it has no request
			}
			replay, err := record.Replay()
			if err != nil {
				t.Fatal(err)
			}
			if request, err := dps.ParseAllocationRequest(replay.Request); err != nil || request.Service != "contoso-eu" {
				t.Errorf("%s: %v", replay.Request, err)
			}
		}
		if len(sink.records) != 2 {
			t.Errorf("%d records", len(sink.records))
		}
	}
}

func TestRecordable(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, `# METADATA
# custom:
#   recordable: [payload.model, payload.site.country, payload.list, payload.keys, initialTwin.tags.line, optionalDeviceInformation, answer.payload.welcome]
package allocation.default

hub := input.linkedHubs[0]

payload := {"welcome": "you", "secret": "PAYLOADSECRET"}

initial_twin := {"tags": {"line": "TWINSECRET"}}
`, decider.RulesOptions{})
	const payload = `{"model": "m1", "site": {"country": "DE", "street": "SECRET3"}, "list": [{"y": 1}, null], "other": "SECRET4",
		"keys": {"primaryKey": "SECRET5", "name": "n"}}`
	quoted, err := json.Marshal(payload) // as the Java SDK sends it
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{payload, string(quoted)} {
		checkRecordable(t, allocator, form)
	}
}

func checkRecordable(t *testing.T, allocator *decider.Decider, payload string) {
	t.Helper()
	text, decoded, _ := record(t, allocator, decisionlog.Plain, []byte(`{
		"individualEnrollment": {"registrationId": "d1", "optionalDeviceInformation": {"a": {"b": [1.50, "x"]}},
			"initialTwin": {"tags": {"line": "l1", "cost": "SECRET1"}, "properties": {"desired": {"x": "SECRET2"}}},
			"registrationState": {"payload": {"welcome": "then", "secret": "SECRET6"}}},
		"deviceRuntimeContext": {"registrationId": "d1", "payload": `+payload+`},
		"linkedHubs": ["h.azure-devices.net"]}`))
	if strings.Contains(text, "SECRET") {
		t.Errorf("too much is recorded: %s", text)
	}
	var request struct {
		IndividualEnrollment json.RawMessage
		DeviceRuntimeContext json.RawMessage
	}
	if err := json.Unmarshal(decoded.Request, &request); err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]string{
		`{"registrationId":"d1","optionalDeviceInformation":{"a":{"b":[1.50,"x"]}},"initialTwin":{"tags":{"line":"l1"}},"registrationState":{"payload":{"welcome":"then"}}}`: string(request.IndividualEnrollment),
		`{"registrationId":"d1","payload":{"model":"m1","site":{"country":"DE"},"list":[{"y":1},null],"keys":{"name":"n"}}}`:                                                 string(request.DeviceRuntimeContext),
		`{"welcome":"you"}`: string(decoded.Decision.Payload.Value),
		"":                  string(decoded.Decision.InitialTwin.Value),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	want := []string{"/individualEnrollment/initialTwin/tags/cost", "/individualEnrollment/initialTwin/properties", "/individualEnrollment/registrationState/payload/secret",
		"/deviceRuntimeContext/payload/site/street", "/deviceRuntimeContext/payload/other", "/deviceRuntimeContext/payload/keys/primaryKey"}
	if diff := cmp.Diff(want, decoded.Masked); diff != "" {
		t.Errorf("masked: -want +got:\n%s", diff)
	}
	validate(t, text)
}

// The attributes of a certificate are recorded if the rule declares them, and those that name the device only if IDs are
// plain.
func TestRecordableCertificate(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile("../../../examples/requests/constructed-11-group-x509-signing-initial.json")
	if err != nil {
		t.Fatal(err)
	}
	const organization = `"organization":["Contoso"]`
	for _, test := range []struct {
		declared     string
		plain, other string
	}{
		{"payload", "", ""},
		{"certificate.subject.organization", `{"subject":{` + organization + `}}`, `{"subject":{` + organization + `}}`},
		{"certificate.subject.commonName, certificate.notAfterUtc", `{"notAfterUtc":"2036-11-18T19:06:18Z","subject":{"commonName":"device-0042"}}`,
			`{"notAfterUtc":"2036-11-18T19:06:18Z"}`},
		{"certificate.subject", `{"subject":{"commonName":"device-0042","country":[],"locality":[],` + organization + `,"organizationalUnit":["model-x200"],"province":[],"serialNumber":""}}`,
			`{"subject":{"country":[],"locality":[],` + organization + `,"organizationalUnit":["model-x200"],"province":[]}}`},
		{"certificate.sha256Thumbprint, certificate.serialNumber, certificate.uris", `{"serialNumber":"6B9AE6AD66DDE5CE1A7CFF5E44715C1BE32DC62E","sha256Thumbprint":"`, `{}`},
	} {
		allocator := allocatorOf(t, "# METADATA\n# custom:\n#   recordable: ["+test.declared+"]\npackage allocation.default\n\nhub := input.linkedHubs[0]\n", decider.RulesOptions{})
		for _, mode := range []decisionlog.IDMode{decisionlog.Plain, decisionlog.Hashed, decisionlog.Absent} {
			text, decoded, _ := record(t, allocator, mode, body)
			want := test.plain
			if mode != decisionlog.Plain {
				want = test.other
			}
			got := string(decoded.Certificate.Attributes)
			if got != want && (want == "" || strings.HasSuffix(want, "}") || !strings.HasPrefix(got, want)) {
				t.Errorf("%s, %s: recorded %s, want %s", test.declared, mode, got, want)
			}
			if !slices.Contains(decoded.Masked, "/deviceRuntimeContext/x509/clientCertificate") {
				t.Errorf("the certificate is not masked: %v", decoded.Masked)
			}
			validate(t, text)
		}
	}
}

// One device has one hash, in whatever letters it writes its ID; two have two.
func TestHashedIDsJoin(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, hubRule, decider.RulesOptions{})
	hash := func(id string, mode decisionlog.IDMode) string {
		_, decoded, _ := record(t, allocator, mode, []byte(`{"enrollmentGroup": {"enrollmentGroupId": "g"}, "linkedHubs": ["h.azure-devices.net"],
			"deviceRuntimeContext": {"registrationId": "`+id+`", "currentDeviceId": "`+id+`", "currentIotHubHostName": "h.azure-devices.net"}}`))
		if mode == decisionlog.Hashed && !strings.Contains(string(decoded.Request), `"currentDeviceId":"`+decoded.RegistrationID+`"`) {
			t.Errorf("the device ID does not join: %s", decoded.Request)
		}
		return decoded.RegistrationID
	}
	one := hash("Press-0001", decisionlog.Hashed)
	if one != hash("press-0001", decisionlog.Hashed) || one == hash("press-0002", decisionlog.Hashed) || !strings.HasPrefix(one, "hmac-") || len(one) != 69 {
		t.Errorf("hashed to %q", one)
	}
	if got := decisionlog.HashID(hashKey, "PRESS-0001"); got != one {
		t.Errorf("HashID gives %s, the record has %s", got, one)
	}
	if got := hash("press-0001", decisionlog.Absent); got != "" {
		t.Errorf("absent, but %q", got)
	}
	if got := hash("Press-0001", decisionlog.Plain); got != "Press-0001" {
		t.Errorf("plain, but %q", got)
	}
}

// A short ID is hidden where it stands alone, a longer one everywhere.
func TestIDsInTexts(t *testing.T) {
	t.Parallel()
	allocator := allocatorOf(t, "package allocation.default\nreject contains input.deviceRuntimeContext.payload.reason", decider.RulesOptions{})
	for _, test := range []struct{ id, reason, want string }{
		{"eu", "device eu, EU: not of contoso-eu or Europe, eu.example or eu.", "device masked-id, masked-id: not of contoso-eu or Europe, eu.example or masked-id."},
		{"press-1", "xPRESS-1y press-11 pres-1", "xmasked-idy masked-id1 pres-1"},
		{"k.k", "K.K is k.k", "masked-id is masked-id"}, // a Kelvin sign folds to k
		{"1234", "12345 1234", "masked-id5 masked-id"},
	} {
		text, decoded, _ := record(t, allocator, decisionlog.Absent, []byte(`{"enrollmentGroup": {"enrollmentGroupId": "g"}, "linkedHubs": ["h.azure-devices.net"],
			"deviceRuntimeContext": {"registrationId": "`+test.id+`", "payload": {"reason": "`+test.reason+`"}}}`))
		if diff := cmp.Diff([]string{test.want}, decoded.Decision.Reasons); diff != "" {
			t.Errorf("%s: -want +got:\n%s\n%s", test.id, diff, text)
		}
	}
}
