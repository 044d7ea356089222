package dps_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/usher-dps/usher/dps"
)

const examples = "../examples/requests"

// exampleRequests returns the bodies of all example requests by file name.
func exampleRequests(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(examples, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Fatalf("no examples in %s", examples)
	}
	bodies := make(map[string][]byte, len(names))
	for _, name := range names {
		if bodies[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return bodies
}

func parse(t testing.TB, body string) *dps.AllocationRequest {
	t.Helper()
	request, err := dps.ParseAllocationRequest([]byte(body))
	if err != nil {
		t.Fatalf("ParseAllocationRequest(%s): %v", body, err)
	}
	return request
}

// decode is encoding/json's reading of a body.
func decode(t testing.TB, body []byte) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		t.Fatalf("encoding/json: %v", err)
	}
	return document
}

func TestParseExamples(t *testing.T) {
	t.Parallel()
	const (
		toasters  = "contoso-toasters-hub-1098.azure-devices.net"
		heatpumps = "contoso-heatpumps-hub-1098.azure-devices.net"
		eu, us    = "contoso-eu-hub.azure-devices.net", "contoso-us-hub.azure-devices.net"
	)
	breakroom := dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "contoso-custom-allocated-devices", Reprovision: dps.ReprovisionMigrate}
	tests := []struct {
		name string
		want dps.AllocationRequest // but Document
	}{
		{"req-verbatim-01-group-symkey-initial-payload-2019-03-31.json", dps.AllocationRequest{
			Enrollment: breakroom,
			Device:     dps.DeviceRuntimeContext{RegistrationID: "contoso-toaster-007"},
			LinkedHubs: []string{toasters}}},
		{"req-verbatim-02-group-symkey-initial-nopayload-2019-03-31.json", dps.AllocationRequest{
			Enrollment: breakroom,
			Device:     dps.DeviceRuntimeContext{RegistrationID: "contoso-toaster-007"},
			LinkedHubs: []string{toasters}}},
		{"req-verbatim-04-group-symkey-reprovision-payload-2021-10-01.json", dps.AllocationRequest{
			Enrollment: breakroom,
			Device: dps.DeviceRuntimeContext{RegistrationID: "breakroom499-contoso-tstrsd-007",
				CurrentIotHubHostName: toasters, CurrentDeviceID: "breakroom499-contoso-tstrsd-007"},
			LinkedHubs: []string{toasters, heatpumps}}},
		{"req-verbatim-05-group-symkey-initial-2hubs-2021-10-01.json", dps.AllocationRequest{
			Enrollment: breakroom,
			Device:     dps.DeviceRuntimeContext{RegistrationID: "breakroom499-contoso-tstrsd-007"},
			LinkedHubs: []string{"custom-allocation-toasters-hub.azure-devices.net", "custom-allocation-heatpumps-hub.azure-devices.net"}}},
		{"constructed-11-group-x509-signing-initial.json", dps.AllocationRequest{
			Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "eu-factory", Reprovision: dps.ReprovisionMigrate},
			Device:     dps.DeviceRuntimeContext{RegistrationID: "device-0042"},
			LinkedHubs: []string{eu, us}}},
		{"constructed-12-individual-x509-initial.json", dps.AllocationRequest{
			Enrollment: dps.Enrollment{Kind: dps.IndividualEnrollment, ID: "device-0042", Reprovision: dps.ReprovisionMigrate},
			Device:     dps.DeviceRuntimeContext{RegistrationID: "device-0042"},
			LinkedHubs: []string{eu, us}}},
		{"constructed-13-individual-tpm-initial.json", dps.AllocationRequest{
			Enrollment: dps.Enrollment{Kind: dps.IndividualEnrollment, ID: "tpm-device-1", Reprovision: dps.ReprovisionMigrate},
			Device:     dps.DeviceRuntimeContext{RegistrationID: "tpm-device-1"},
			LinkedHubs: []string{eu, us}}},
		{"constructed-14-group-never-reprovision.json", dps.AllocationRequest{
			Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "sticky", Reprovision: dps.ReprovisionNever},
			Device:     dps.DeviceRuntimeContext{RegistrationID: "dev-7", CurrentIotHubHostName: eu, CurrentDeviceID: "dev-7"},
			LinkedHubs: []string{eu}}},
		{"constructed-15-group-reset-reprovision.json", dps.AllocationRequest{
			Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "reset", Reprovision: dps.ReprovisionReset},
			Device:     dps.DeviceRuntimeContext{RegistrationID: "dev-8", CurrentIotHubHostName: eu, CurrentDeviceID: "dev-8"},
			LinkedHubs: []string{eu, us}}},
		{"constructed-17-group-x509-careference-credentialPolicy-2025-07-01-preview.json", dps.AllocationRequest{
			Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "adr", Reprovision: dps.ReprovisionMigrate},
			Device:     dps.DeviceRuntimeContext{RegistrationID: "device-0042"},
			LinkedHubs: []string{eu, us}}},
		{"constructed-18-group-certificatePolicy-2026-11-02-preview.json", dps.AllocationRequest{
			Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "adr", Reprovision: dps.ReprovisionMigrate},
			Device:     dps.DeviceRuntimeContext{RegistrationID: "device-0042", CurrentIotHubHostName: us, CurrentDeviceID: "device-0042"},
			LinkedHubs: []string{eu, "contoso-us-hub.device.azure-devices.net"}}},
	}
	bodies := exampleRequests(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			body, ok := bodies[test.name]
			if !ok {
				t.Fatalf("no such file in %s", examples)
			}
			got := *parse(t, string(body))
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreUnexported(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// What DPS spells as it does and leaves no nulls in, is kept as it came.
func TestParseKeepsTheDocument(t *testing.T) {
	t.Parallel()
	for name, body := range exampleRequests(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(decode(t, body), parse(t, string(body)).Document()); diff != "" {
				t.Errorf("-encoding/json +Document:\n%s", diff)
			}
		})
	}
}

// The typed fields are lenient: naming what has the wrong type is the schema's part.
func TestParseWrongTypes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body string
		want       dps.AllocationRequest // but Document
	}{
		{name: "empty object", body: `{}`, want: dps.AllocationRequest{LinkedHubs: []string{}}},
		{name: "everything wrong", body: `{"enrollmentGroup":[],"individualEnrollment":1,"deviceRuntimeContext":"x","linkedHubs":{}}`,
			want: dps.AllocationRequest{LinkedHubs: []string{}}},
		{name: "members wrong", body: `{"enrollmentGroup":{"enrollmentGroupId":7,"reprovisionPolicy":true},
			"deviceRuntimeContext":{"registrationId":[],"currentIotHubHostName":1,"currentDeviceId":{}},"linkedHubs":["a",1,null,"b"]}`,
			want: dps.AllocationRequest{Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, Reprovision: dps.ReprovisionMigrate},
				LinkedHubs: []string{"a", "b"}}},
		{name: "policy members wrong", body: `{"enrollmentGroup":{"reprovisionPolicy":{"updateHubAssignment":"false","migrateDeviceData":0}}}`,
			want: dps.AllocationRequest{Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, Reprovision: dps.ReprovisionMigrate},
				LinkedHubs: []string{}}},
		{name: "both kinds: the individual enrollment, more precise", body: `{"enrollmentGroup":{"enrollmentGroupId":"g"},"individualEnrollment":{"registrationId":"i"}}`,
			want: dps.AllocationRequest{Enrollment: dps.Enrollment{Kind: dps.IndividualEnrollment, ID: "i", Reprovision: dps.ReprovisionMigrate},
				LinkedHubs: []string{}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := *parse(t, test.body)
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreUnexported(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseReprovisionPolicy(t *testing.T) {
	t.Parallel()
	tests := []struct {
		policy string // the member with its comma
		want   dps.ReprovisionPolicy
	}{
		{``, dps.ReprovisionMigrate},
		{`,"reprovisionPolicy":null`, dps.ReprovisionMigrate},
		{`,"reprovisionPolicy":{}`, dps.ReprovisionMigrate},
		{`,"reprovisionPolicy":{"updateHubAssignment":null,"migrateDeviceData":null}`, dps.ReprovisionMigrate},
		{`,"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":true}`, dps.ReprovisionMigrate},
		{`,"reprovisionPolicy":{"migrateDeviceData":true}`, dps.ReprovisionMigrate},
		{`,"reprovisionPolicy":{"updateHubAssignment":true}`, dps.ReprovisionMigrate},
		{`,"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false}`, dps.ReprovisionReset},
		{`,"reprovisionPolicy":{"migrateDeviceData":false}`, dps.ReprovisionReset},
		{`,"reprovisionPolicy":{"updateHubAssignment":false,"migrateDeviceData":false}`, dps.ReprovisionNever},
		{`,"reprovisionPolicy":{"updateHubAssignment":false,"migrateDeviceData":true}`, dps.ReprovisionNever},
		{`,"reprovisionPolicy":{"updateHubAssignment":false}`, dps.ReprovisionNever},
		{`,"ReprovisionPolicy":{"UpdateHubAssignment":false}`, dps.ReprovisionNever},
	}
	for _, test := range tests {
		for _, record := range []string{`{"enrollmentGroup":{"enrollmentGroupId":"x"`, `{"individualEnrollment":{"registrationId":"x"`} {
			body := record + test.policy + `}}`
			if got := parse(t, body).Enrollment.Reprovision; got != test.want {
				t.Errorf("%s: reprovision policy %q, want %q", body, got, test.want)
			}
		}
	}
}

// secret stands for values that no error may show.
const secret = "c2VjcmV0LWtleQ"

// Problems of a MalformedError.
const (
	notJSON   = "the body is not valid JSON"
	notUTF8   = "the body is not valid UTF-8"
	notObject = "the body is not a JSON object"
	empty     = "the body is empty"
	truncated = "the body ends before the JSON object does"
	trailing  = "there is data after the JSON object"
	twice     = "a member name occurs twice in one object"
	nameKind  = "a member name is not a string"
	tooDeep   = "objects and arrays nest deeper than 64"
	tooLong   = "a number is longer than 64 characters"
	exponent  = "the exponent of a number is beyond 308"
	tooLarge  = "a number is beyond the range of a float64"
)

func TestParseMalformed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body, pointer, problem string
	}{
		{"empty", "", "", empty},
		{"blank", " \n\t", "", empty},
		{"NUL", "\x00", "", notJSON},
		{"byte order mark", "\ufeff{}", "", notJSON},
		{"array", `["` + secret + `"]`, "", notObject},
		{"string", `"` + secret + `"`, "", notObject},
		{"number", `1`, "", notObject},
		{"null", `null`, "", notObject},
		{"true", `true`, "", notObject},
		{"bare word", secret, "", notJSON},
		{"trailing letter", `{}x`, "", trailing},
		{"trailing object", `{} {}`, "", trailing},
		{"trailing string", `{}"` + secret + `"`, "", trailing},
		{"trailing brace", `{"a":1}}`, "", trailing},
		{"trailing invalid UTF-8", "{}\xff", "", trailing},
		{"trailing NUL", "{}\x00", "", trailing},

		{"duplicate", `{"a":"` + secret + `","a":"` + secret + `"}`, "/a", twice},
		{"duplicate below", `{"x":[0,{"a":1,"b":2,"a":1}]}`, "/x/1/a", twice},
		{"duplicate by escape", `{"a":1,"\u0061":2}`, "/a", twice},
		{"duplicate of DPS's own", `{"linkedHubs":[],"linkedHubs":[]}`, "/linkedHubs", twice},
		{"duplicate null", `{"linkedHubs":null,"linkedHubs":[]}`, "/linkedHubs", twice},
		{"duplicate that needs escapes", `{"a/b~c":1,"a/b~c":2}`, "/a~1b~0c", twice},
		{"duplicate empty", `{"":1,"":2}`, "/", twice},

		{"invalid UTF-8 in value", "{\"a\":\"" + secret + "\xff\"}", "/a", notUTF8},
		{"invalid UTF-8 in name", "{\"\xff\":1}", "", notUTF8},
		{"truncated UTF-8", "{\"a\":\"\xe2\x82\"}", "/a", notUTF8},
		{"overlong UTF-8", "{\"a\":\"\xc0\xaf\"}", "/a", notUTF8},
		{"surrogate as UTF-8", "{\"a\":\"\xed\xa0\x80\"}", "/a", notUTF8},
		{"lone high surrogate", `{"a":"` + secret + `\ud800"}`, "/a", notJSON},
		{"lone low surrogate", `{"a":"\udc00"}`, "/a", notJSON},
		{"reversed surrogates", `{"a":"\udc00\ud800"}`, "/a", notJSON},
		{"high surrogate and letter", `{"a":"\ud800\u0041"}`, "/a", notJSON},
		{"a name that reads like another problem", `{"invalid UTF-8":tru}`, "/invalid UTF-8", notJSON},

		{"objects 65 deep", `{"a":` + strings.Repeat(`{"b":`, 63) + "{}" + strings.Repeat("}", 64), "/a" + strings.Repeat("/b", 63), tooDeep},
		{"arrays 65 deep", `{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + "}", "/a" + strings.Repeat("/0", 62), tooDeep},
		{"arrays a million deep", `{"a":` + strings.Repeat("[", 1e6), "/a" + strings.Repeat("/0", 62), tooDeep},

		{"1e309", `{"a":1e309}`, "/a", exponent},
		{"1E+309", `{"a":1E+309}`, "/a", exponent},
		{"1e-309", `{"a":1e-309}`, "/a", exponent},
		{"1e1000001", `{"a":{"b":[1e1000001]}}`, "/a/b/0", exponent},
		{"exponent beyond int", `{"a":1e99999999999999999999}`, "/a", exponent},
		{"2e308", `{"a":2e308}`, "/a", tooLarge},
		{"many digits and a large exponent", `{"a":` + strings.Repeat("9", 60) + `e300}`, "/a", tooLarge},
		{"65 digits", `{"a":` + strings.Repeat("7", 65) + `}`, "/a", tooLong},
		{"65 decimals", `{"a":0.` + strings.Repeat("7", 65) + `}`, "/a", tooLong},
		{"leading zero", `{"a":01}`, "", notJSON},
		{"leading plus", `{"a":+1}`, "/a", notJSON},
		{"no digits", `{"a":-}`, "/a", notJSON},
		{"no decimals", `{"a":1.}`, "/a", notJSON},
		{"no exponent", `{"a":1e}`, "/a", notJSON},
		{"hexadecimal", `{"a":0x1}`, "", notJSON},
		{"NaN", `{"a":NaN}`, "/a", notJSON},
		{"Infinity", `{"a":-Infinity}`, "/a", notJSON},

		{"truncated after brace", `{`, "", truncated},
		{"truncated name", `{"a`, "", truncated},
		{"truncated after name", `{"a"`, "/a", truncated},
		{"truncated after colon", `{"a":`, "/a", truncated},
		{"truncated string", `{"a":"` + secret, "/a", truncated},
		{"truncated literal", `{"a":tru`, "/a", truncated},
		{"truncated number", `{"a":-`, "/a", truncated},
		{"truncated after value", `{"a":1`, "", truncated},
		{"truncated after comma", `{"a":1,`, "", truncated},
		{"truncated array", `{"a":[1,2`, "/a", truncated},
		{"truncated escape", `{"a":"\u00`, "/a", truncated},

		{"comma at the end", `{"a":1,}`, "", notJSON},
		{"comma alone", `{,}`, "", notJSON},
		{"comma in array", `{"a":[1,]}`, "/a", notJSON},
		{"no comma", `{"a":1 "b":2}`, "", notJSON},
		{"no colon", `{"a" 1}`, "/a", notJSON},
		{"wrong bracket", `{"a":[1}`, "/a", notJSON},
		{"wrong brace", `{"a":1]`, "", notJSON},
		{"value missing", `{"a":}`, "/a", notJSON},
		{"number as name", `{1:2}`, "", nameKind},
		{"object as name", `{{}:2}`, "", nameKind},
		{"null as name", `{null:2}`, "", nameKind},
		{"single quotes", `{'a':1}`, "", notJSON},
		{"comment", `{/* */"a":1}`, "", notJSON},
		{"control character", "{\"a\":\"" + secret + "\x01\"}", "/a", notJSON},
		{"unknown escape", `{"a":"` + secret + `\x"}`, "/a", notJSON},
		{"misspelt literal", `{"a":True}`, "/a", notJSON},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			request, err := dps.ParseAllocationRequest([]byte(test.body))
			malformed, ok := errors.AsType[*dps.MalformedError](err)
			if !ok {
				t.Fatalf("request %v, error %v; want a *MalformedError", request, err)
			}
			if request != nil {
				t.Errorf("a request comes with the error: %v", request)
			}
			if malformed.Pointer != test.pointer || malformed.Problem != test.problem {
				t.Errorf("%q at %q; want %q at %q", malformed.Problem, malformed.Pointer, test.problem, test.pointer)
			}
			if malformed.Offset < 0 || malformed.Offset > int64(len(test.body)) {
				t.Errorf("offset %d of a body of %d bytes", malformed.Offset, len(test.body))
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows a value: %v", err)
			}
			if !strings.HasPrefix(err.Error(), test.problem+" at ") {
				t.Errorf("the error is worded %q, want the problem %q first", err, test.problem)
			}
		})
	}
}

// A parser that has failed goes back to the pool; the next request must not see it.
func TestParseAfterFailure(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{``, `{"a":[{"b":`, `{"a":1,"a":2}`, "{\"a\":\"\xff", `{} {}`, `[1]`} {
		for range 10 {
			if _, err := dps.ParseAllocationRequest([]byte(bad)); err == nil {
				t.Fatalf("%q is accepted", bad)
			}
			if diff := cmp.Diff(map[string]any{"a": []any{}}, parse(t, `{"a":[]}`).Document()); diff != "" {
				t.Fatalf("after %q: -want +got:\n%s", bad, diff)
			}
		}
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	var (
		arrays64  = `{"a":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`
		objects64 = strings.Repeat(`{"a":`, 63) + "{}" + strings.Repeat("}", 63)
	)
	numbers := []string{"0", "-0", "-0.0", "1e308", "1E+308", "-1e308", "1.7976931348623157e308", "1e-308", "1e00000000000000000000000000000000000000000000000000001",
		"9007199254740993", "18446744073709551615", "0.1000", "1.50", strings.Repeat("7", 64)}
	for _, number := range numbers {
		got := parse(t, `{"a":`+number+`}`).Document()
		if diff := cmp.Diff(map[string]any{"a": json.Number(number)}, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", number, diff)
		}
	}
	for _, body := range []string{
		arrays64, objects64, "  {}\r\n\t ", `{"":{"":[]}}`, `{"a":"\u0000\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00é€😀"}`, `{"\u0061\n":1}`,
		`{"a":[[],{},null,true,false,"",0]}`, `{"a":1,"A":2}`, `{"a":{"a":{"a":1}}}`, "{\"a\":\"\u2028\ufffd\u007f\"}",
	} {
		// Not cmp.Diff, which compares nested arrays in a time exponential in their depth.
		if got, want := parse(t, body).Document(), decode(t, []byte(body)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", body, got, want)
		}
	}
}

// The result must outlive the buffer that the body was read into.
func TestParseSharesNoMemoryWithTheBody(t *testing.T) {
	t.Parallel()
	for name, original := range exampleRequests(t) {
		body := bytes.Clone(original)
		request := parse(t, string(original))
		shared, err := dps.ParseAllocationRequest(body)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(body, original) {
			t.Errorf("%s: the body is changed", name)
		}
		for i := range body {
			body[i] = '#'
		}
		if diff := cmp.Diff(request, shared, cmp.AllowUnexported(dps.AllocationRequest{}, dps.Value{}), cmpopts.IgnoreUnexported(dps.DeviceCertificate{})); diff != "" {
			t.Errorf("%s: changes with the body:\n%s", name, diff)
		}
	}
}

func TestMalformedErrorNamesThePlace(t *testing.T) {
	t.Parallel()
	_, err := dps.ParseAllocationRequest([]byte(`{"deviceRuntimeContext":{"payload":{"n":1e999}}}`))
	const want = "the exponent of a number is beyond 308 at /deviceRuntimeContext/payload/n (byte 45)"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestLinkedHub(t *testing.T) {
	t.Parallel()
	request := parse(t, `{"linkedHubs":["Contoso-EU.azure-devices.net","contoso-us.azure-devices.net"]}`)
	tests := []struct {
		name, want string
		ok         bool
	}{
		{"Contoso-EU.azure-devices.net", "Contoso-EU.azure-devices.net", true},
		{"contoso-eu.AZURE-devices.net", "Contoso-EU.azure-devices.net", true},
		{"CONTOSO-US.azure-devices.net", "contoso-us.azure-devices.net", true},
		{"contoso-us", "", false},
		{" contoso-us.azure-devices.net", "", false},
		{"", "", false},
	}
	for _, test := range tests {
		if got, ok := request.LinkedHub(test.name); got != test.want || ok != test.ok {
			t.Errorf("LinkedHub(%q) = %q, %v; want %q, %v", test.name, got, ok, test.want, test.ok)
		}
	}
}

func BenchmarkParseAllocationRequest(b *testing.B) {
	body := exampleRequests(b)["req-verbatim-04-group-symkey-reprovision-payload-2021-10-01.json"]
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dps.ParseAllocationRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHostileNamesAreCut: what a body calls its members can be of any length; an error is not.
func TestHostileNamesAreCut(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("é", 10_000)
	for _, body := range []string{
		`{"` + name + `": 1, "` + name + `": 2}`,
		`{"` + name + `": 1e999}`,
		`{"` + name + `": tru}`,
	} {
		_, err := dps.ParseAllocationRequest([]byte(body))
		malformed, ok := errors.AsType[*dps.MalformedError](err)
		if !ok || len(malformed.Pointer) > 300 || len(malformed.Error()) > 400 || !utf8.ValidString(malformed.Pointer) {
			t.Errorf("%.20s…: %.500v", body, err)
		}
	}
}
