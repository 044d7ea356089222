package schema_test

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/schemas"
)

func compileRequest(tb testing.TB) *schema.Schema {
	tb.Helper()
	return compile(tb, string(schemas.AllocationRequest()))
}

// drafted adds the draft to the text of a schema that names none.
func drafted(source string) string {
	if rest, ok := strings.CutPrefix(source, "{"); ok && !strings.Contains(source, `"$schema"`) {
		separator := ","
		if strings.TrimSpace(rest) == "}" {
			separator = ""
		}
		return `{"$schema":"https://json-schema.org/draft/2020-12/schema"` + separator + rest
	}
	return source
}

func compile(tb testing.TB, source string) *schema.Schema {
	tb.Helper()
	s, err := schema.Compile("test.schema.json", []byte(drafted(source)))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func readJSON(tb testing.TB, name string) any {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return parseJSON(tb, string(text))
}

func parseJSON(tb testing.TB, text string) any {
	tb.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var doc any
	if err := decoder.Decode(&doc); err != nil {
		tb.Fatalf("%v in %s", err, text)
	}
	return doc
}

func TestRequestAcceptsSamples(t *testing.T) {
	t.Parallel()
	s := compileRequest(t)
	docs := map[string]any{}
	for _, glob := range []string{"req-*.json", "constructed-*.json"} {
		for _, name := range samples(t, glob) {
			docs[name] = readJSON(t, name)
		}
	}
	// The specification's example of an enrollment with every field set. Its values are random, its types are right.
	record := readJSON(t, "spec-maxset-individualEnrollment-2021-10-01.json").(map[string]any)
	docs["individual enrollment with all fields"] = request("individualEnrollment", record)
	group := maps.Clone(record)
	delete(group, "registrationId")
	group["enrollmentGroupId"] = "group"
	docs["enrollment group with all fields"] = request("enrollmentGroup", group)
	docs["nothing optional"] = parseJSON(t, `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`)
	docs["unknown members"] = parseJSON(t, `{"new":null,"enrollmentGroup":{"enrollmentGroupId":"g","new":1,"reprovisionPolicy":{"new":[]}},
		"deviceRuntimeContext":{"registrationId":"d","new":{},"x509":{"chain":["c"]}},"linkedHubs":["h"]}`)
	docs["previews"] = parseJSON(t, `{"individualEnrollment":{"registrationId":"d","trustBundleId":"t","credentialPolicyName":"c",
		"clientCertificateIssuancePolicy":{"certificateAuthorityName":"ca"},"serverCertificateIssuancePolicy":{"any":1},
		"certificatePolicyResourceId":"/subscriptions/s","namespaceName":"n","certificateAuthorityName":"a","certificatePolicyName":"p","deviceTypeRefs":["t"],
		"registrationState":{"connectionProfile":"mqttV5"}},
		"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`)
	longest := "A0:._-" + strings.Repeat("z", 122)
	for payload, text := range map[string]string{"a text": `"t"`, "an object": `{}`, "an array": `[1]`, "a number": `1`, "false": `false`} {
		docs["payload is "+payload] = parseJSON(t, `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d","payload":`+text+`},"linkedHubs":["h"]}`)
	}
	docs["longest registration ID"] = parseJSON(t, `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"`+longest+`"},"linkedHubs":["h"]}`)

	for name, doc := range docs {
		if got := s.Validate(doc); got != nil {
			t.Errorf("%s: %v", name, got)
		}
		if fast, decided := s.Fast(doc); !fast || !decided {
			t.Errorf("%s: the fast check leaves it to the library", name)
		}
	}
}

func request(enrollment string, record any) map[string]any {
	return map[string]any{
		enrollment:             record,
		"deviceRuntimeContext": map[string]any{"registrationId": "device"},
		"linkedHubs":           []any{"hub.azure-devices.net"},
	}
}

// The schema takes the names of a DPS instance that dps.ValidService takes.
func TestNamesOfServices(t *testing.T) {
	t.Parallel()
	s := compileRequest(t)
	for name, valid := range map[string]bool{
		"contoso-eu": true, "A.b_C-9": true, "-": true, strings.Repeat("z", 64): true,
		"": false, strings.Repeat("z", 65): false, "a b": false, "a/b": false, "ä": false, "a\n": false, "\u212a": false,
	} {
		doc := request("enrollmentGroup", map[string]any{"enrollmentGroupId": "g"})
		doc["usher"] = map[string]any{"service": name}
		if got := s.Validate(doc); (len(got) == 0) != valid || dps.ValidService(name) != valid {
			t.Errorf("%q: %v, %v", name, got, dps.ValidService(name))
		}
	}
}

func TestResponseAcceptsSamples(t *testing.T) {
	t.Parallel()
	s := compile(t, string(schemas.AllocationResponse()))
	for _, name := range samples(t, "resp-*.json") {
		if got := s.Validate(readJSON(t, name)); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestResponseRefuses(t *testing.T) {
	t.Parallel()
	s := compile(t, string(schemas.AllocationResponse()))
	for _, test := range []struct{ name, doc, want string }{
		{"no hub", `{}`, `missing property "iotHubHostName"`},
		{"empty hub", `{"iotHubHostName":""}`, `/iotHubHostName: length must be >= 1, but got 0`},
		{"payload is no object", `{"iotHubHostName":"h","payload":"text"}`, `/payload: expected object, but got string`},
		{"twin is a list", `{"iotHubHostName":"h","initialTwin":[]}`, `/initialTwin: expected object, but got array`},
		{"desired is a number", `{"iotHubHostName":"h","initialTwin":{"properties":{"desired":1}}}`, `/initialTwin/properties/desired: expected object, but got number`},
	} {
		if diff := cmp.Diff([]string{test.want}, lines(s.Validate(parseJSON(t, test.doc)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func lines(violations []schema.Violation) []string {
	var list []string
	for _, v := range violations {
		list = append(list, v.String())
	}
	return list
}

func TestRequestRefuses(t *testing.T) {
	t.Parallel()
	s := compileRequest(t)
	for _, test := range []struct {
		name, doc string
		want      []string
	}{
		{"not an object", `[]`, []string{`expected object, but got array`}},
		{"empty", `{}`, []string{
			`missing property "deviceRuntimeContext"`,
			`missing property "linkedHubs"`,
			`want exactly one of individualEnrollment, enrollmentGroup; got none`,
		}},
		{"two enrollments", `{"individualEnrollment":{"registrationId":"d"},"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`,
			[]string{`want exactly one of individualEnrollment, enrollmentGroup; got more than one`}},
		{"all at once", `{"enrollmentGroup":{"reprovisionPolicy":{"updateHubAssignment":"yes"},"attestation":{"type":1}},
			"deviceRuntimeContext":{"registrationId":"a b","currentDeviceId":1,"tpm":[]},"linkedHubs":["",1]}`,
			[]string{
				`/deviceRuntimeContext/currentDeviceId: expected string, but got number`,
				`/deviceRuntimeContext/registrationId: does not match pattern '^[A-Za-z0-9:._-]+$'`,
				`/deviceRuntimeContext/tpm: expected object, but got array`,
				`/enrollmentGroup: missing property "enrollmentGroupId"`,
				`/enrollmentGroup/attestation/type: expected string, but got number`,
				`/enrollmentGroup/reprovisionPolicy/updateHubAssignment: expected boolean, but got string`,
				`/linkedHubs/0: length must be >= 1, but got 0`,
				`/linkedHubs/1: expected string, but got number`,
			}},
		{"no hub", `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":[]}`,
			[]string{`/linkedHubs: minimum 1 items required, but found 0 items`}},
		{"hubs as text", `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":"h"}`,
			[]string{`/linkedHubs: expected array, but got string`}},
		{"registration ID too long", `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"` + strings.Repeat("a", 129) + `"},"linkedHubs":["h"]}`,
			[]string{`/deviceRuntimeContext/registrationId: length must be <= 128, but got 129`}},
		{"registration ID of an individual enrollment", `{"individualEnrollment":{"registrationId":""},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`,
			[]string{
				`/individualEnrollment/registrationId: does not match pattern '^[A-Za-z0-9:._-]+$'`,
				`/individualEnrollment/registrationId: length must be >= 1, but got 0`,
			}},
		{"error code with a fraction", `{"individualEnrollment":{"registrationId":"d","registrationState":{"errorCode":400207.5}},"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`,
			[]string{`/individualEnrollment/registrationState/errorCode: expected integer, but got number`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, lines(s.Validate(parseJSON(t, test.doc)))); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, schema, doc string
		want              []schema.Violation
	}{
		{"pointers are escaped", `{"additionalProperties":{"additionalProperties":{"type":"null"}}}`, `{"a/b":{"c~d":1},"e f%20":{"ü":2}}`, []schema.Violation{
			{"/a~1b/c~0d", "expected null, but got number", "type", "#/additionalProperties/additionalProperties/type"},
			{"/e f%20/ü", "expected null, but got number", "type", "#/additionalProperties/additionalProperties/type"},
		}},
		{"each missing property", `{"properties":{"required":{"required":["x","y","z"]}}}`, `{"required":{"y":1}}`, []schema.Violation{
			{"/required", `missing property "x"`, "required", "#/properties/required/required"},
			{"/required", `missing property "z"`, "required", "#/properties/required/required"},
		}},
		{"each property that is not allowed", `{"properties":{"a":{"properties":{"ok":{}},"additionalProperties":false}}}`, `{"a":{"z":1,"y/":2,"ok":3}}`, []schema.Violation{
			{"/a/y~1", "property is not allowed", "additionalProperties", "#/properties/a/additionalProperties"},
			{"/a/z", "property is not allowed", "additionalProperties", "#/properties/a/additionalProperties"},
		}},
		{"false", `{"properties":{"a":false}}`, `{"a":1}`, []schema.Violation{
			{"/a", "nothing is allowed here", "", "#/properties/a"},
		}},
		{"through a reference", `{"items":{"$ref":"#/$defs/n"},"$defs":{"n":{"minimum":0.5,"multipleOf":0.25}}}`, `[0.1]`, []schema.Violation{
			{"/0", "number is not a multiple of 0.25", "multipleOf", "#/$defs/n/multipleOf"},
			{"/0", "number is too small: want at least 0.5", "minimum", "#/$defs/n/minimum"},
		}},
		{"twice the same", `{"allOf":[{"type":"string"},{"type":"string"},{"minimum":3}]}`, `1`, []schema.Violation{
			{"", "expected string, but got number", "type", "#/allOf/0/type"},
			{"", "number is too small: want at least 3", "minimum", "#/allOf/2/minimum"},
		}},
		{"anyOf", `{"anyOf":[{"title":"text","type":"string"},{"properties":{"n":{"type":"number"}},"required":["m"]}]}`, `{"n":"x"}`, []schema.Violation{
			{"", "want at least one of text, alternative 2; got none", "anyOf", "#/anyOf"},
			{"/n", "expected number, but got string", "type", "#/anyOf/1/properties/n/type"},
		}},
		{"not", `{"properties":{"a":{"not":{"type":"string"}}}}`, `{"a":"x"}`, []schema.Violation{
			{"/a", "value is one that the schema excludes", "not", "#/properties/a/not"},
		}},
		{"not anything", `{"not":true}`, `1`, []schema.Violation{
			{"", "value is one that the schema excludes", "not", "#/not"},
		}},
		{"contains", `{"contains":{"type":"string"},"minContains":2}`, `["a",1]`, []schema.Violation{
			{"", "too few items match `contains`: want at least 2", "minContains", "#/minContains"},
		}},
		{"property names", `{"propertyNames":{"maxLength":2}}`, `{"abc":1}`, []schema.Violation{
			{"/abc", "length must be <= 2, but got 3", "maxLength", "#/propertyNames/maxLength"},
		}},
		{"condition", `{"if":{"type":"number"},"then":{"maximum":3},"else":{"type":"null"}}`, `4`, []schema.Violation{
			{"", "number is too large: want at most 3", "maximum", "#/then/maximum"},
		}},
		{"exclusive bounds", `{"items":{"exclusiveMinimum":1,"exclusiveMaximum":1}}`, `[1]`, []schema.Violation{
			{"/0", "number is too large: want less than 1", "exclusiveMaximum", "#/items/exclusiveMaximum"},
			{"/0", "number is too small: want more than 1", "exclusiveMinimum", "#/items/exclusiveMinimum"},
		}},
		{"unevaluated", `{"properties":{"a":{}},"unevaluatedProperties":false}`, `{"b":1}`, []schema.Violation{
			{"/b", "nothing is allowed here", "", "#/unevaluatedProperties"},
		}},
		{"dependent", `{"dependentRequired":{"a":["b"]},"dependentSchemas":{"a":{"maxProperties":1}}}`, `{"a":1,"c":1}`, []schema.Violation{
			{"", "maximum 1 properties allowed, but found 2 properties", "maxProperties", "#/dependentSchemas/a/maxProperties"},
			{"", "property 'b' is required, if 'a' property exists", "dependentRequired", "#/dependentRequired/a/0"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := compile(t, test.schema).Validate(parseJSON(t, test.doc))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Validate(%s) (-want +got):\n%s", test.doc, diff)
			}
		})
	}
}

// TestValuesStayOut puts a secret where each keyword refuses it.
func TestValuesStayOut(t *testing.T) {
	t.Parallel()
	const text, number = "c2VjcmV0LWtleQ", "7135551913"
	for _, keyword := range []string{
		`"type":"boolean"`, `"enum":["a",1]`, `"const":"a"`, `"const":1`, `"minLength":99`, `"maxLength":1`, `"pattern":"^$"`,
		`"minimum":7135551914`, `"maximum":1`, `"exclusiveMinimum":7135551914`, `"exclusiveMaximum":1`, `"multipleOf":2`,
		`"not":{}`, `"anyOf":[{"type":"null"}]`, `"oneOf":[{},{}]`, `"allOf":[false]`, `"if":true,"then":{"type":"null"}`,
	} {
		s := compile(t, `{"items":{`+keyword+`}}`)
		got := s.Validate([]any{text, json.Number(number)})
		if len(got) == 0 {
			t.Errorf("%s: nothing is refused", keyword)
		}
		for _, v := range got {
			if all := strings.Join([]string{v.Pointer, v.Message, v.Keyword, v.SchemaLocation}, " "); strings.Contains(all, text) || strings.Contains(all, number) {
				t.Errorf("%s: the value stands in %q", keyword, all)
			}
		}
	}
	for _, keyword := range []string{`"uniqueItems":true`, `"contains":{"type":"null"}`, `"maxItems":1`, `"items":{"maxProperties":0}`} {
		s := compile(t, `{`+keyword+`}`)
		got := s.Validate([]any{map[string]any{"k": text}, map[string]any{"k": text}})
		if len(got) == 0 {
			t.Errorf("%s: nothing is refused", keyword)
		}
		for _, v := range got {
			if strings.Contains(v.String(), text) {
				t.Errorf("%s: the value stands in %q", keyword, v)
			}
		}
	}
}

func TestListIsBounded(t *testing.T) {
	t.Parallel()
	got := compile(t, `{"items":{"type":"string"}}`).Validate(slices.Repeat([]any{true}, 1234))
	if len(got) != 101 {
		t.Fatalf("%d violations, want 101", len(got))
	}
	want := schema.Violation{Message: "and at least 900 more violations"}
	if diff := cmp.Diff(want, got[100]); diff != "" {
		t.Errorf("last violation (-want +got):\n%s", diff)
	}

	name := strings.Repeat("ü", 10_000)
	got = compile(t, `{"additionalProperties":false}`).Validate(map[string]any{name: nil})
	if len(got) != 1 || len(got[0].Pointer) > 256 || !strings.HasPrefix(got[0].Pointer, "/üü") || !strings.HasSuffix(got[0].Pointer, "ü…") {
		t.Errorf("long name: %q", got)
	}
	got = compile(t, `{"required":["`+name+`"]}`).Validate(map[string]any{})
	if len(got) != 1 || len(got[0].Message) > 512 || !strings.HasSuffix(got[0].Message, "ü…") {
		t.Errorf("long message: %q", got)
	}
}

// TestNumbersOutOfBounds gives the checker numbers that make the library panic or compute for long.
func TestNumbersOutOfBounds(t *testing.T) {
	t.Parallel()
	const want = "/n: number is out of bounds: want at most 100 characters and an exponent within ±999"
	for _, keyword := range []string{
		`"type":"integer"`, `"minimum":1`, `"maximum":1`, `"exclusiveMinimum":1`, `"exclusiveMaximum":1`, `"multipleOf":2`,
		`"enum":[1]`, `"const":1`, `"not":{"type":"integer"}`, `"not":{"const":1}`, `"not":{"minimum":1}`, `"dependencies":{},"unevaluatedItems":{},"type":"integer"`,
	} {
		s := compile(t, `{"properties":{"n":{`+keyword+`}}}`)
		for _, number := range []string{
			"1e1000001", "1E+1000001", "1e999999", "-1e-999999", "1e1000", "1e99999999999999999999", strings.Repeat("9", 101), "0." + strings.Repeat("9", 99),
			// Not numbers at all: no JSON decoder lets them through.
			"", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x10", "1/2", "Inf", "NaN", "1_000", " 1",
		} {
			if got := lines(s.Validate(map[string]any{"n": json.Number(number)})); !cmp.Equal(got, []string{want}) {
				t.Errorf("%s: Validate(%.20s) = %q, want %q", keyword, number, got, want)
			}
		}
	}

	// Where nothing is asked of the value, nothing is computed.
	open := compile(t, `{"properties":{"n":{"type":"number"}}}`)
	if got := open.Validate(map[string]any{"n": json.Number("1e1000001")}); got != nil {
		t.Errorf("open: %v", got)
	}
	inBounds := compile(t, `{"properties":{"n":{"type":"integer"}}}`)
	for _, number := range []string{"1e999", strings.Repeat("9", 100), "-0", "0e-999"} {
		if got := inBounds.Validate(map[string]any{"n": json.Number(number)}); got != nil {
			t.Errorf("%.20s: %v", number, got)
		}
	}
}

func TestGoTypesThatAreNotJSON(t *testing.T) {
	t.Parallel()
	s := compile(t, `{"additionalProperties":{"type":["number","string"]}}`)
	got := lines(s.Validate(map[string]any{"a": 1.5, "b": map[any]any{}, "c": "fine"}))
	want := []string{"/a: not a JSON value: Go type float64", "/b: not a JSON value: Go type map[interface {}]interface {}"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
}

// TestLongArrays refuses arrays that would cost the library half a second and 160 MB, were they given to it whole.
//
// It counts the memory of the whole process, so it runs beside no other test.
func TestLongArrays(t *testing.T) {
	s := compileRequest(t)
	hubs := make([]any, 125_000)
	for i := range hubs {
		hubs[i] = json.Number("1")
	}
	doc := request("enrollmentGroup", map[string]any{"enrollmentGroupId": "g", "iotHubs": hubs})
	doc["linkedHubs"] = hubs

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := lines(s.Validate(doc))
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
		t.Errorf("%d MB allocated", used>>20)
	}
	if len(got) != 101 || got[0] != "/enrollmentGroup/iotHubs/0: expected string, but got number" {
		t.Errorf("%d violations: %.10q", len(got), got)
	}
	for i := range hubs {
		hubs[i] = "h"
	}
	if diff := cmp.Diff([]string{"/linkedHubs: maximum 1000 items allowed, but found 125000 items"}, lines(s.Validate(doc))); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}

	// What is wrong at the end alone is found there, and nested arrays are cut too.
	texts := compile(t, `{"items":{"items":{"type":"string"}}}`)
	nested := []any{slices.Concat(slices.Repeat([]any{"h"}, 5000), []any{true})}
	if diff := cmp.Diff([]string{"/0/5000: expected string, but got boolean"}, lines(texts.Validate(nested))); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
	nested = append(nested, []any{nil})
	if diff := cmp.Diff([]string{"/1/0: expected string, but got null"}, lines(texts.Validate(nested))); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
	if got := len(nested[0].([]any)); got != 5001 {
		t.Errorf("the document was changed: %d items", got)
	}

	// Limits of the schema that are longer than the sample are still seen.
	limits := compile(t, `{"properties":{"a":{"maxItems":2000},"b":{"type":"string"}}}`)
	if diff := cmp.Diff([]string{"/a: maximum 2000 items allowed, but found 3000 items", "/b: expected string, but got null"},
		lines(limits.Validate(map[string]any{"a": slices.Repeat([]any{"h"}, 3000), "b": nil}))); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
}

func TestManyUniqueItems(t *testing.T) {
	t.Parallel()
	s := compile(t, `{"uniqueItems":true}`)
	items := make([]any, 1000)
	for i := range items {
		items[i] = json.Number(strconv.Itoa(i))
	}
	if got := s.Validate(items); got != nil {
		t.Errorf("unique: %v", got)
	}
	items[999] = json.Number("7.0")
	if got := lines(s.Validate(items)); len(got) != 1 || !strings.Contains(got[0], "equal") {
		t.Errorf("repeated: %v", got)
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	const draft = `"$schema":"https://json-schema.org/draft/2020-12/schema"`
	for _, test := range []struct{ name, source, want string }{
		{"not JSON", "{\n\n\"a\": x}", "schema broken.json: line 3: invalid character"},
		{"empty", "", "schema broken.json: EOF"},
		{"trailing data", `{} {}`, "something follows the JSON document"},
		{"no draft", `{"type":"string"}`, `"$schema"`},
		{"older draft", `{"$schema":"http://json-schema.org/draft-07/schema#"}`, `"$schema"`},
		{"not an object", `true`, `want a JSON object`},
		{"invalid schema", `{` + draft + `,"properties":{"a":{"type":"sting"},"b":{"minLength":-1}}}`, "/properties/a/type: "},
		{"invalid schema, second fault", `{` + draft + `,"properties":{"a":{"type":"sting"},"b":{"minLength":-1}}}`, "/properties/b/minLength: "},
		{"invalid pattern", `{` + draft + `,"pattern":"("}`, "/pattern: "},
		{"number out of bounds", `{` + draft + `,"minLength":1e1000001}`, "/minLength: number is out of bounds"},
		{"file", `{` + draft + `,"$ref":"file:///etc/passwd"}`, `"file:///etc/passwd" is outside the schema`},
		{"beside the schema", `{` + draft + `,"$ref":"other.json"}`, `other.json" is outside the schema`},
		{"network", `{` + draft + `,"items":{"$ref":"https://example.invalid/s#/a"}}`, `"https://example.invalid/s" is outside the schema`},
		{"draft's own schema", `{` + draft + `,"items":{"$ref":"http://json-schema.org/draft-07/schema#"}}`, `is outside the schema`},
		{"no such definition", `{` + draft + `,"$ref":"#/$defs/none"}`, "$defs/none not found"},
		{"endless", `{` + draft + `,"$ref":"#"}`, "infinite loop"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := schema.Compile("broken.json", []byte(test.source))
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "schema broken.json: ") {
				t.Errorf("error %q, want one with %q", err, test.want)
			}
		})
	}
}

// TestAcceptingDoesNotAllocate holds the reason for the fast check.
func TestAcceptingDoesNotAllocate(t *testing.T) {
	s := compileRequest(t)
	for _, glob := range []string{"req-*.json", "constructed-*.json"} {
		for _, name := range samples(t, glob) {
			doc := readJSON(t, name)
			// Pools of regular expressions are emptied now and then, and at random by the race detector: once in so many
			// runs they are not.
			got := math.Inf(1)
			for range 100 {
				got = min(got, testing.AllocsPerRun(1, func() { s.Validate(doc) }))
			}
			if got != 0 {
				t.Errorf("%s: %v allocations", name, got)
			}
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	s := compileRequest(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 50 {
				if got := s.Validate(map[string]any{}); len(got) != 3 {
					t.Errorf("%d violations, want 3", len(got))
				}
			}
		})
	}
	group.Wait()
}

// TestEveryPropertyIsDescribed holds both schemas to their second use: editors show the descriptions to the authors of
// rules.
func TestEveryPropertyIsDescribed(t *testing.T) {
	t.Parallel()
	for name, source := range map[string][]byte{"request": schemas.AllocationRequest(), "response": schemas.AllocationResponse()} {
		root := parseJSON(t, string(source)).(map[string]any)
		found := 0
		var walk func(value any, pointer string)
		walk = func(value any, pointer string) {
			object, ok := value.(map[string]any)
			if !ok {
				return
			}
			properties, _ := object["properties"].(map[string]any)
			for property, child := range properties {
				found++
				child := child.(map[string]any)
				at := pointer + "/" + property
				description, _ := child["description"].(string)
				if ref, ok := child["$ref"].(string); ok && description == "" {
					definition, _ := root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
					description, _ = definition["description"].(string)
				}
				if description == "" {
					t.Errorf("%s: %s has no description", name, at)
				}
				walk(child, at)
			}
			definitions, _ := object["$defs"].(map[string]any)
			for definition, child := range definitions {
				walk(child, pointer+"/$defs/"+definition)
			}
		}
		walk(root, "")
		if found < 5 {
			t.Errorf("%s: %d properties found", name, found)
		}
	}
}
