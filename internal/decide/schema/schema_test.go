package schema_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v5"

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

// compileWithLibrary compiles a schema with a complete implementation of JSON Schema.
func compileWithLibrary(tb testing.TB, source string) *jsonschema.Schema {
	tb.Helper()
	s, err := jsonschema.CompileString("schema:///test", drafted(source))
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
	// The specification's example of an enrollment with every field set. Its
	// values are random, its types are right.
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
		"clientCertificateIssuancePolicy":{"certificateAuthorityName":"ca"},"serverCertificateIssuancePolicy":{"any":1}},
		"deviceRuntimeContext":{"registrationId":"d"},"linkedHubs":["h"]}`)
	longest := "A0:._-" + strings.Repeat("z", 122)
	docs["longest registration ID"] = parseJSON(t, `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"`+longest+`"},"linkedHubs":["h"]}`)

	for name, doc := range docs {
		if got := s.Validate(doc); got != nil {
			t.Errorf("%s: %v", name, got)
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
			"deviceRuntimeContext":{"registrationId":"a b","payload":"text","tpm":[]},"linkedHubs":["",1]}`,
			[]string{
				`/deviceRuntimeContext/payload: expected object, but got string`,
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

// keywords has a case for each keyword. What it refuses, it refuses with these violations.
var keywords = []struct {
	name, schema string
	accept       []string
	refuse       map[string][]string
}{
	{"no keyword", `{"title":"anything","description":"at all","x-recordable":true}`, []string{`1`, `"x"`}, nil},
	{"type null", `{"type":"null"}`, []string{`null`}, map[string][]string{
		`false`: {"expected null, but got boolean"}, `0`: {"expected null, but got number"}, `""`: {"expected null, but got string"}}},
	{"type boolean", `{"type":"boolean"}`, []string{`true`, `false`}, map[string][]string{
		`null`: {"expected boolean, but got null"}, `"true"`: {"expected boolean, but got string"}}},
	{"type number", `{"type":"number"}`, []string{`0`, `-1.5`, `1e300`}, map[string][]string{
		`"1"`: {"expected number, but got string"}, `null`: {"expected number, but got null"}}},
	{"type integer", `{"type":"integer"}`, []string{`0`, `-0`, `-7`, `1.0`, `1e2`, `1.5e1`, `10e-1`, `0e-5`, `123456789012345678901234567890`}, map[string][]string{
		`1.5`: {"expected integer, but got number"}, `1e-1`: {"expected integer, but got number"}, `"1"`: {"expected integer, but got string"}}},
	{"type string", `{"type":"string"}`, []string{`""`}, map[string][]string{
		`1`: {"expected string, but got number"}, `{}`: {"expected string, but got object"}}},
	{"type array", `{"type":"array"}`, []string{`[]`, `[1]`}, map[string][]string{
		`{}`: {"expected array, but got object"}, `"[]"`: {"expected array, but got string"}}},
	{"type object", `{"type":"object"}`, []string{`{}`}, map[string][]string{
		`[]`: {"expected object, but got array"}, `null`: {"expected object, but got null"}}},
	{"minLength", `{"minLength":2}`, []string{`"ab"`, `"äö"`, `1`}, map[string][]string{
		`"a"`: {"length must be >= 2, but got 1"}, `"ä"`: {"length must be >= 2, but got 1"}}},
	{"maxLength", `{"maxLength":2}`, []string{`"ab"`, `"äö"`, `1`}, map[string][]string{
		`"abc"`: {"length must be <= 2, but got 3"}}},
	{"maxLength zero", `{"maxLength":0}`, []string{`""`}, map[string][]string{
		`"a"`: {"length must be <= 0, but got 1"}}},
	{"pattern", `{"pattern":"^a+$"}`, []string{`"aa"`, `1`}, map[string][]string{
		`"ab"`: {"does not match pattern '^a+$'"}, `"a\n"`: {"does not match pattern '^a+$'"}}},
	{"minItems", `{"minItems":1}`, []string{`[1]`, `{}`}, map[string][]string{
		`[]`: {"minimum 1 items required, but found 0 items"}}},
	{"maxItems", `{"maxItems":1}`, []string{`[1]`, `[]`}, map[string][]string{
		`[1,2]`: {"maximum 1 items allowed, but found 2 items"}}},
	{"items", `{"items":{"type":"string"}}`, []string{`["a"]`, `[]`, `1`}, map[string][]string{
		`["a",1,null]`: {"/1: expected string, but got number", "/2: expected string, but got null"}}},
	{"required", `{"properties":{"p":{"required":["x","y","z"]}}}`, []string{`{"p":{"x":null,"y":1,"z":2}}`, `{"p":1}`}, map[string][]string{
		`{"p":{"y":1}}`: {`/p: missing property "x"`, `/p: missing property "z"`}}},
	{"properties", `{"properties":{"a":{"type":"string"},"b":{}}}`, []string{`{"a":"x","b":1,"c":1}`, `{}`}, map[string][]string{
		`{"a":1}`: {"/a: expected string, but got number"}}},
	{"pointers are escaped", `{"properties":{"a/b":{"properties":{"c~d":{"type":"null"}}},"e f%20":{"type":"null"}}}`, nil, map[string][]string{
		`{"a/b":{"c~d":1},"e f%20":2}`: {"/a~1b/c~0d: expected null, but got number", "/e f%20: expected null, but got number"}}},
	{"oneOf", `{"type":"object","oneOf":[{"title":"one","required":["a"]},{"title":"two","required":["b","c"]}]}`, []string{`{"a":1}`, `{"b":1,"c":1}`, `{"a":1,"b":1}`}, map[string][]string{
		`{"b":1}`: {"want exactly one of one, two; got none"}, `{"a":1,"b":1,"c":1}`: {"want exactly one of one, two; got more than one"}}},
	{"$ref", `{"items":{"$ref":"#/$defs/a"},"$defs":{"a":{"type":"string"}}}`, []string{`["x"]`}, map[string][]string{
		`[1]`: {"/0: expected string, but got number"}}},
	{"$ref recursive", `{"properties":{"l":{"$ref":"#/$defs/l"}},"$defs":{"l":{"type":"object","properties":{"next":{"$ref":"#/$defs/l"}},"required":["v"]}}}`,
		[]string{`{"l":{"v":1,"next":{"v":2,"next":{"v":3}}}}`}, map[string][]string{
			`{"l":{"v":1,"next":{"v":2,"next":{}}}}`: {`/l/next/next: missing property "v"`}}},
}

func TestKeywords(t *testing.T) {
	t.Parallel()
	for _, test := range keywords {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, library := compile(t, test.schema), compileWithLibrary(t, test.schema)
			check := func(text string, want []string) {
				doc := parseJSON(t, text)
				if diff := cmp.Diff(want, lines(s.Validate(doc))); diff != "" {
					t.Errorf("Validate(%s) (-want +got):\n%s", text, diff)
				}
				if accepted := library.Validate(doc) == nil; accepted != (want == nil) {
					t.Errorf("the library accepts %s: %v", text, accepted)
				}
			}
			for _, text := range test.accept {
				check(text, nil)
			}
			for text, want := range test.refuse {
				check(text, want)
			}
		})
	}
}

// TestValuesStayOut puts a secret where each keyword refuses it.
func TestValuesStayOut(t *testing.T) {
	t.Parallel()
	const text, number = "c2VjcmV0LWtleQ", "7135551913.5"
	for _, keyword := range []string{
		`"type":"boolean"`, `"type":"integer"`, `"minLength":99`, `"maxLength":1`, `"pattern":"^$"`,
		`"type":"array","minItems":3`, `"maxItems":1`, `"items":{"type":"null"}`, `"required":["a"]`,
		`"type":"object","oneOf":[{"title":"a","required":["a"]}]`, `"type":"object","oneOf":[{"title":"a"},{"title":"b"}]`,
	} {
		s := compile(t, `{"items":{`+keyword+`}}`)
		got := s.Validate([]any{text, json.Number(number), []any{text, json.Number(number)}, map[string]any{"k": text}})
		if len(got) == 0 {
			t.Errorf("%s: nothing is refused", keyword)
		}
		for _, v := range got {
			if strings.Contains(v.String(), text) || strings.Contains(v.String(), number) {
				t.Errorf("%s: %q contains the value", keyword, v)
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
}

func TestGoTypesThatAreNotJSON(t *testing.T) {
	t.Parallel()
	s := compile(t, `{"items":{"type":"number"}}`)
	got := lines(s.Validate([]any{1.5, map[any]any{}}))
	want := []string{"/0: expected number, but got Go type float64", "/1: expected number, but got Go type map[interface {}]interface {}"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
}

// TestLongArrays bounds the memory that is spent on arrays with many wrong items.
//
// It counts the memory of the whole process, so it runs alone.
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
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
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

	// What is wrong only at the end is found there.
	texts := compile(t, `{"items":{"items":{"type":"string"}}}`)
	nested := []any{slices.Concat(slices.Repeat([]any{"h"}, 5000), []any{true}), []any{nil}}
	want := []string{"/0/5000: expected string, but got boolean", "/1/0: expected string, but got null"}
	if diff := cmp.Diff(want, lines(texts.Validate(nested))); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	const draft = `"$schema":"https://json-schema.org/draft/2020-12/schema"`
	for _, test := range []struct{ name, source, want string }{
		{"not JSON", "{\n\n\"a\": x}", "invalid character"},
		{"empty", "", "schema broken.json: EOF"},
		{"no draft", `{"type":"string"}`, `"$schema"`},
		{"older draft", `{"$schema":"http://json-schema.org/draft-07/schema#"}`, `"$schema"`},
		{"not an object", `true`, `cannot unmarshal bool`},
		{"unknown keyword", `{` + draft + `,"uniqueItems":true}`, `unknown field "uniqueItems"`},
		{"unknown keyword, deep", `{` + draft + `,"properties":{"a":{"items":{"enum":[1]}}}}`, `unknown field "enum"`},
		{"alternative with more than required", `{` + draft + `,"oneOf":[{"title":"a","type":"string"}]}`, `unknown field "type"`},
		{"oneOf without a type", `{` + draft + `,"oneOf":[{"title":"a"}]}`, `oneOf: want the type object`},
		{"several types", `{` + draft + `,"type":["string","null"]}`, `cannot unmarshal array`},
		{"misspelt type", `{` + draft + `,"properties":{"a":{"type":"sting"}}}`, `unknown type "sting"`},
		{"misspelt type in a definition", `{` + draft + `,"$defs":{"a":{"type":"sting"}}}`, `unknown type "sting"`},
		{"invalid pattern", `{` + draft + `,"pattern":"("}`, "missing closing )"},
		{"number out of bounds", `{` + draft + `,"minLength":1e1000001}`, "cannot unmarshal number"},
		{"reference to a file", `{` + draft + `,"$ref":"file:///etc/passwd"}`, `$ref "file:///etc/passwd": want "#/$defs/NAME"`},
		{"no such definition", `{` + draft + `,"items":{"$ref":"#/$defs/none"}}`, `$ref "#/$defs/none"`},
		{"reference to a reference", `{` + draft + `,"items":{"$ref":"#/$defs/a"},"$defs":{"a":{"$ref":"#/$defs/a"}}}`, `$ref "#/$defs/a"`},
		{"reference with a keyword", `{` + draft + `,"items":{"$ref":"#/$defs/a","minItems":1},"$defs":{"a":{}}}`, `no other keyword`},
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

// TestAcceptingDoesNotAllocate: nearly all requests are valid, and cost nothing but the time.
func TestAcceptingDoesNotAllocate(t *testing.T) {
	s := compileRequest(t)
	for _, glob := range []string{"req-*.json", "constructed-*.json"} {
		for _, name := range samples(t, glob) {
			doc := readJSON(t, name)
			if got := testing.AllocsPerRun(10, func() { s.Validate(doc) }); got != 0 {
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

// TestEveryPropertyIsDescribed holds both schemas to their second use: editors
// show the descriptions to the authors of rules.
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

// TestMutatedSamplesAgree replaces or removes every value of every sample in turn, and compares with the library.
func TestMutatedSamplesAgree(t *testing.T) {
	t.Parallel()
	replacements := []any{
		nil, true, json.Number("1"), json.Number("1.5"), "", "x", "a b", strings.Repeat("a", 300),
		[]any{}, []any{""}, []any{"h", json.Number("2")}, map[string]any{}, map[string]any{"x": nil},
	}
	for schemaName, source := range map[string][]byte{"request": schemas.AllocationRequest(), "response": schemas.AllocationResponse()} {
		s, library := compile(t, string(source)), compileWithLibrary(t, string(source))
		accepted, refused := 0, 0
		agree := func(name string, doc any) {
			t.Helper()
			violations, err := s.Validate(doc), library.Validate(doc)
			if (len(violations) == 0) != (err == nil) {
				text, _ := json.Marshal(doc)
				t.Errorf("%s: %v, library: %v for %s", name, violations, err, text)
			}
			if err == nil {
				accepted++
			} else {
				refused++
			}
		}
		for _, name := range samples(t, "*.json") {
			doc := readJSON(t, name)
			agree(name, doc)
			mutate(doc, replacements, func() { agree(name, doc) })
		}
		if accepted == 0 || refused == 0 {
			t.Errorf("%s: %d accepted, %d refused: the mutations do not reach both", schemaName, accepted, refused)
		}
	}
}

// mutate changes doc in every single place, calls try, and puts it back.
func mutate(doc any, replacements []any, try func()) {
	switch doc := doc.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(doc)) {
			was := doc[name]
			delete(doc, name)
			try()
			for _, replacement := range replacements {
				doc[name] = replacement
				try()
			}
			doc[name] = was
			mutate(was, replacements, try)
		}
	case []any:
		for i, was := range doc {
			for _, replacement := range replacements {
				doc[i] = replacement
				try()
			}
			doc[i] = was
			mutate(was, replacements, try)
		}
	}
}

func samples(tb testing.TB, glob string) []string {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", glob))
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no sample %s: %v", glob, err)
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = filepath.Base(path)
	}
	return names
}

// FuzzAgreesWithLibrary looks for a document that Validate and the library judge differently, under each of the schemas
// of this package's tests.
func FuzzAgreesWithLibrary(f *testing.F) {
	sources := []string{string(schemas.AllocationRequest()), string(schemas.AllocationResponse())}
	for _, test := range keywords {
		for _, text := range slices.AppendSeq(test.accept, maps.Keys(test.refuse)) {
			f.Add(uint8(len(sources)), text)
		}
		sources = append(sources, test.schema)
	}
	var compiled []*schema.Schema
	var libraries []*jsonschema.Schema
	for _, source := range sources {
		compiled = append(compiled, compile(f, source))
		libraries = append(libraries, compileWithLibrary(f, source))
	}
	for _, name := range samples(f, "*.json") {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(0), string(text))
		f.Add(uint8(1), string(text))
	}
	// The library computes for long on such numbers, or panics; dps.ParseAllocationRequest refuses them.
	hugeNumber := regexp.MustCompile(`[eE][+-]?[0-9]{4}|[0-9]{100}`)
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var doc any
		if decoder.Decode(&doc) != nil || hugeNumber.MatchString(text) {
			return
		}
		which %= uint8(len(sources))
		violations := compiled[which].Validate(doc)
		if again := compiled[which].Validate(doc); !cmp.Equal(violations, again) {
			t.Fatalf("two runs differ:\n%s", cmp.Diff(violations, again))
		}
		if len(violations) > 101 {
			t.Fatalf("%d violations", len(violations))
		}
		if err := libraries[which].Validate(doc); (len(violations) == 0) != (err == nil) {
			t.Fatalf("Validate = %v, library: %v", violations, err)
		}
	})
}
