package schema_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/schemas"
)

// keywords has a case for each keyword that the fast check compiles, and for each that it leaves to the library.
var keywords = []struct {
	name    string
	schema  string
	accept  []string
	refuse  []string
	library bool // the fast check asks the library
}{
	{name: "true", schema: `{"properties":{"a":true}}`, accept: []string{`1`, `null`, `{"a":[]}`}},
	{name: "false", library: true, schema: `{"properties":{"a":false}}`, accept: []string{`{}`, `1`}, refuse: []string{`{"a":1}`}},
	{name: "no keyword", schema: `{"title":"anything","format":"date","contentEncoding":"base64"}`, accept: []string{`1`, `"x"`}},
	{name: "type null", schema: `{"type":"null"}`, accept: []string{`null`}, refuse: []string{`false`, `0`, `""`, `[]`, `{}`}},
	{name: "type boolean", schema: `{"type":"boolean"}`, accept: []string{`true`, `false`}, refuse: []string{`null`, `0`, `"true"`}},
	{name: "type number", schema: `{"type":"number"}`, accept: []string{`0`, `-1.5`, `1e300`}, refuse: []string{`"1"`, `null`}},
	{name: "type integer", schema: `{"type":"integer"}`,
		accept: []string{`0`, `-0`, `-7`, `1.0`, `1e2`, `1.5e1`, `10e-1`, `0e-5`, `123456789012345678901234567890`},
		refuse: []string{`1.5`, `1e-1`, `-0.1`, `"1"`}},
	{name: "type string", schema: `{"type":"string"}`, accept: []string{`""`}, refuse: []string{`1`, `{}`}},
	{name: "type array", schema: `{"type":"array"}`, accept: []string{`[]`, `[1]`}, refuse: []string{`{}`, `"[]"`}},
	{name: "type object", schema: `{"type":"object"}`, accept: []string{`{}`}, refuse: []string{`[]`, `null`}},
	{name: "several types", schema: `{"type":["string","integer"]}`, accept: []string{`"a"`, `3`}, refuse: []string{`1.5`, `true`}},
	{name: "integer then number", schema: `{"type":["integer","number"]}`, accept: []string{`1.5`}, refuse: []string{`"a"`}},
	{name: "number then integer", schema: `{"type":["number","integer"]}`, accept: []string{`1.5`}, refuse: []string{`"a"`}},
	{name: "enum", library: true, schema: `{"enum":["a",1,null,true,[1],{"k":1}]}`,
		accept: []string{`"a"`, `1`, `1.0`, `10e-1`, `null`, `true`, `[1.0]`, `{"k":1}`},
		refuse: []string{`"b"`, `2`, `false`, `[1,1]`, `[2]`, `{"k":2}`, `{"j":1}`, `{}`, `"1"`}},
	{name: "enum of texts", schema: `{"enum":["a",""]}`, accept: []string{`"a"`, `""`}, refuse: []string{`"b"`, `1`, `null`, `true`, `["a"]`, `{}`}},
	{name: "enum of texts and another type", schema: `{"type":"number","enum":["a"]}`, refuse: []string{`"a"`, `1`}},
	{name: "enum empty", schema: `{"enum":[]}`, accept: []string{`1`}},
	{name: "const", library: true, schema: `{"const":{"a":[1,"x"]}}`, accept: []string{`{"a":[1.0,"x"]}`}, refuse: []string{`{"a":[1]}`, `null`}},
	{name: "const null", library: true, schema: `{"const":null}`, accept: []string{`null`}, refuse: []string{`0`, `""`}},
	{name: "minLength", schema: `{"minLength":2}`, accept: []string{`"ab"`, `"äö"`, `1`}, refuse: []string{`"a"`, `"ä"`, `""`}},
	{name: "maxLength", schema: `{"maxLength":2}`, accept: []string{`"ab"`, `"äö"`, `1`}, refuse: []string{`"abc"`}},
	{name: "maxLength zero", schema: `{"maxLength":0}`, accept: []string{`""`}, refuse: []string{`"a"`}},
	{name: "pattern", schema: `{"pattern":"^a+$"}`, accept: []string{`"aa"`, `1`}, refuse: []string{`"ab"`, `"a\n"`, `""`}},
	{name: "minimum", schema: `{"minimum":1.5}`, accept: []string{`1.5`, `2`, `150e-2`, `"a"`}, refuse: []string{`1.4`, `-3`, `1e-9`}},
	{name: "minimum of an integer", schema: `{"type":"integer","minimum":0}`, accept: []string{`0`, `-0`, `1e2`}, refuse: []string{`-1`, `0.5`, `"a"`}},
	{name: "maximum", library: true, schema: `{"maximum":3}`, accept: []string{`3`, `3.0`, `-1e20`}, refuse: []string{`3.0000000000000000000001`, `4`}},
	{name: "exclusiveMinimum", library: true, schema: `{"exclusiveMinimum":1}`, accept: []string{`1.1`}, refuse: []string{`1`, `0`}},
	{name: "exclusiveMaximum", library: true, schema: `{"exclusiveMaximum":1}`, accept: []string{`0.9`}, refuse: []string{`1`, `1.0`, `2`}},
	{name: "multipleOf", library: true, schema: `{"multipleOf":0.1}`, accept: []string{`0.3`, `7`, `"a"`}, refuse: []string{`0.35`}},
	{name: "minItems", schema: `{"minItems":1}`, accept: []string{`[1]`, `{}`}, refuse: []string{`[]`}},
	{name: "maxItems", schema: `{"maxItems":1}`, accept: []string{`[1]`, `[]`}, refuse: []string{`[1,2]`}},
	{name: "uniqueItems", library: true, schema: `{"uniqueItems":true}`,
		accept: []string{`[1,2,"1"]`, `[]`, `[{"a":1},{"a":2}]`},
		refuse: []string{`[1,1.0]`, `[{"a":[1]},{"a":[1]}]`, `[null,0,null]`}},
	{name: "items", schema: `{"items":{"type":"string"}}`, accept: []string{`["a"]`, `[]`, `1`}, refuse: []string{`["a",1]`}},
	{name: "prefixItems", library: true, schema: `{"prefixItems":[{"type":"string"},{"type":"number"}]}`,
		accept: []string{`["a",1,true]`, `["a"]`, `[]`}, refuse: []string{`[1]`, `["a","b"]`}},
	{name: "prefixItems and items", library: true, schema: `{"prefixItems":[{"type":"string"}],"items":{"type":"number"}}`,
		accept: []string{`["a",1,2]`}, refuse: []string{`["a","b"]`, `[1]`}},
	{name: "contains", library: true, schema: `{"contains":{"type":"string"}}`, accept: []string{`[1,"a"]`, `{}`}, refuse: []string{`[]`, `[1]`}},
	{name: "minContains and maxContains", library: true, schema: `{"contains":{"type":"string"},"minContains":2,"maxContains":3}`,
		accept: []string{`["a","b"]`, `["a",1,"b","c"]`}, refuse: []string{`["a"]`, `["a","b","c","d"]`}},
	{name: "minContains zero", library: true, schema: `{"contains":{"type":"string"},"minContains":0}`, accept: []string{`[]`, `[1]`}},
	{name: "minProperties", library: true, schema: `{"minProperties":1}`, accept: []string{`{"a":1}`, `[]`}, refuse: []string{`{}`}},
	{name: "maxProperties", library: true, schema: `{"maxProperties":1}`, accept: []string{`{"a":1}`, `{}`}, refuse: []string{`{"a":1,"b":2}`}},
	{name: "required", schema: `{"required":["a","b"]}`, accept: []string{`{"a":null,"b":1}`, `1`}, refuse: []string{`{"a":1}`, `{}`}},
	{name: "properties", schema: `{"properties":{"a":{"type":"string"},"b":{}}}`, accept: []string{`{"a":"x","b":1,"c":1}`, `{}`}, refuse: []string{`{"a":1}`}},
	{name: "patternProperties", library: true, schema: `{"patternProperties":{"^x":{"type":"number"},"y$":{"minimum":3}}}`,
		accept: []string{`{"x1":1,"a":"b"}`, `{"xy":3}`}, refuse: []string{`{"x1":"a"}`, `{"xy":2}`}},
	{name: "additionalProperties false", schema: `{"properties":{"a":{},"b":{"type":"null"}},"additionalProperties":false}`,
		accept: []string{`{"a":1,"b":null}`, `{"a":1}`, `{}`, `1`}, refuse: []string{`{"c":1}`, `{"a":1,"c":1}`, `{"b":1}`}},
	{name: "no properties", schema: `{"additionalProperties":false}`, accept: []string{`{}`, `[1]`}, refuse: []string{`{"a":null}`}},
	{name: "additionalProperties false beside patterns", library: true, schema: `{"properties":{"a":{}},"patternProperties":{"^x":{}},"additionalProperties":false}`,
		accept: []string{`{"a":1,"x1":2}`, `{}`}, refuse: []string{`{"b":1}`}},
	{name: "additionalProperties schema", library: true, schema: `{"properties":{"a":{}},"additionalProperties":{"type":"number"}}`,
		accept: []string{`{"a":"x","b":2}`}, refuse: []string{`{"b":"x"}`}},
	{name: "additionalProperties true", schema: `{"properties":{"a":{"type":"string"}},"additionalProperties":true}`,
		accept: []string{`{"b":1}`}, refuse: []string{`{"a":1}`}},
	{name: "propertyNames", library: true, schema: `{"propertyNames":{"maxLength":2}}`, accept: []string{`{"ab":1}`}, refuse: []string{`{"abc":1}`}},
	{name: "dependentRequired", library: true, schema: `{"dependentRequired":{"a":["b","c"]}}`,
		accept: []string{`{"a":1,"b":1,"c":1}`, `{"b":1}`}, refuse: []string{`{"a":1,"b":1}`}},
	{name: "dependentSchemas", library: true, schema: `{"dependentSchemas":{"a":{"required":["b"]}}}`,
		accept: []string{`{"a":1,"b":1}`, `{}`}, refuse: []string{`{"a":1}`}},
	{name: "$ref", schema: `{"$ref":"#/$defs/a","$defs":{"a":{"type":"string"}}}`, accept: []string{`"x"`}, refuse: []string{`1`}},
	{name: "$ref beside keywords", schema: `{"$ref":"#/$defs/a","maxLength":1,"$defs":{"a":{"type":"string"}}}`,
		accept: []string{`"x"`}, refuse: []string{`1`, `"xx"`}},
	{name: "$ref to a reference", schema: `{"properties":{"p":{"$ref":"#/$defs/a"}},"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"type":"null"}}}`,
		accept: []string{`{"p":null}`}, refuse: []string{`{"p":1}`}},
	{name: "$ref recursive", schema: `{"type":"object","properties":{"next":{"$ref":"#"}},"required":["v"]}`,
		accept: []string{`{"v":1,"next":{"v":2,"next":{"v":3}}}`}, refuse: []string{`{"v":1,"next":{"v":2,"next":{}}}`, `{"v":1,"next":1}`}},
	{name: "$anchor", schema: `{"items":{"$ref":"#it"},"$defs":{"x":{"$anchor":"it","type":"null"}}}`, accept: []string{`[null]`}, refuse: []string{`[1]`}},
	{name: "$id within", schema: `{"$id":"https://example.invalid/a","items":{"$ref":"/b"},"$defs":{"x":{"$id":"/b","type":"null"}}}`,
		accept: []string{`[null]`}, refuse: []string{`[1]`}},
	{name: "not", library: true, schema: `{"not":{"type":"string"}}`, accept: []string{`1`}, refuse: []string{`"a"`}},
	{name: "allOf", library: true, schema: `{"allOf":[{"minimum":1},{"maximum":3}]}`, accept: []string{`2`}, refuse: []string{`0`, `4`}},
	{name: "anyOf", library: true, schema: `{"anyOf":[{"minimum":3},{"maximum":1}]}`, accept: []string{`0`, `4`, `"a"`}, refuse: []string{`2`}},
	{name: "oneOf", library: true, schema: `{"oneOf":[{"minimum":1},{"maximum":3}]}`, accept: []string{`0`, `4`}, refuse: []string{`2`, `"a"`}},
	{name: "oneOf none", library: true, schema: `{"oneOf":[{"minimum":5},{"maximum":3}]}`, accept: []string{`6`}, refuse: []string{`4`}},
	{name: "if then else", library: true, schema: `{"if":{"type":"string"},"then":{"minLength":2},"else":{"type":"number"}}`,
		accept: []string{`"ab"`, `1`}, refuse: []string{`"a"`, `null`}},
	{name: "if then", library: true, schema: `{"if":{"type":"string"},"then":{"minLength":2}}`, accept: []string{`"ab"`, `null`}, refuse: []string{`"a"`}},
	{name: "if else", library: true, schema: `{"if":{"type":"string"},"else":{"type":"number"}}`, accept: []string{`""`, `1`}, refuse: []string{`null`}},
	{name: "if alone", library: true, schema: `{"if":false}`, accept: []string{`1`}},

	{name: "unevaluatedProperties", library: true, schema: `{"allOf":[{"properties":{"a":{}}}],"unevaluatedProperties":false}`,
		accept: []string{`{"a":1}`}, refuse: []string{`{"b":1}`}},
	{name: "unevaluatedItems", library: true, schema: `{"prefixItems":[{}],"unevaluatedItems":{"type":"null"}}`,
		accept: []string{`[1,null]`}, refuse: []string{`[1,1]`}},
	{name: "dependencies", library: true, schema: `{"dependencies":{"a":["b"],"c":{"minProperties":2}}}`,
		accept: []string{`{"a":1,"b":1}`, `{"c":1,"d":1}`}, refuse: []string{`{"a":1}`, `{"c":1}`}},
	{name: "$dynamicRef", library: true, schema: `{"$id":"https://example.invalid/tree","$dynamicAnchor":"node","type":"object","properties":{"kids":{"items":{"$dynamicRef":"#node"}}}}`,
		accept: []string{`{"kids":[{"kids":[]}]}`}, refuse: []string{`{"kids":[1]}`}},
	{name: "library below", library: true, schema: `{"properties":{"a":{"unevaluatedProperties":{"type":"number"}}}}`,
		accept: []string{`{"a":{"b":1}}`}, refuse: []string{`{"a":{"b":"x"}}`}},
}

func TestKeywords(t *testing.T) {
	t.Parallel()
	for _, test := range keywords {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, test.schema)
			if got := s.AsksLibrary(); got != test.library {
				t.Errorf("asks the library: %v, want %v", got, test.library)
			}
			check := func(text string, want bool) {
				doc := parseJSON(t, text)
				if got := s.Library(doc); got != want {
					t.Errorf("library: accepts(%s) = %v, want %v", text, got, want)
				}
				for _, form := range []any{doc, dps.ValueOf(doc)} {
					if got, decided := s.Fast(form); got != want || !decided {
						t.Errorf("fast: accepts(%s) as %T = %v, %v, want %v, true", text, form, got, decided, want)
					}
				}
				if got := s.Validate(doc); (len(got) == 0) != want {
					t.Errorf("Validate(%s) = %v, want accepted: %v", text, got, want)
				}
			}
			for _, text := range test.accept {
				check(text, true)
			}
			for _, text := range test.refuse {
				check(text, false)
			}
		})
	}
}

// TestEveryFieldIsKnown fails when the library's schema gains a field: somebody must then decide whether the fast check
// has to look at it.
func TestEveryFieldIsKnown(t *testing.T) {
	t.Parallel()
	const fields = `Location Draft Format Always Ref RecursiveAnchor RecursiveRef DynamicAnchor DynamicRef Types
		Constant Enum Not AllOf AnyOf OneOf If Then Else MinProperties MaxProperties Required Properties PropertyNames
		RegexProperties PatternProperties AdditionalProperties Dependencies DependentRequired DependentSchemas
		UnevaluatedProperties MinItems MaxItems UniqueItems Items AdditionalItems PrefixItems Items2020 Contains
		ContainsEval MinContains MaxContains UnevaluatedItems MinLength MaxLength Pattern ContentEncoding
		ContentMediaType ContentSchema Minimum ExclusiveMinimum Maximum ExclusiveMaximum MultipleOf
		Title Description Default Comment ReadOnly WriteOnly Examples Deprecated Extensions`
	var got []string
	for _, field := range reflect.VisibleFields(reflect.TypeFor[jsonschema.Schema]()) {
		if field.IsExported() {
			got = append(got, field.Name)
		}
	}
	if diff := cmp.Diff(strings.Fields(fields), got); diff != "" {
		t.Errorf("fields of jsonschema.Schema (-known +found):\n%s", diff)
	}
}

// TestMutatedSamplesAgree replaces or removes every value of every sample in turn, and compares the fast check with the
// library.
func TestMutatedSamplesAgree(t *testing.T) {
	t.Parallel()
	replacements := []any{
		nil, true, json.Number("1"), json.Number("1.5"), "", "x", "a b", strings.Repeat("a", 300),
		[]any{}, []any{""}, []any{"h", json.Number("2")}, map[string]any{}, map[string]any{"x": nil},
	}
	for schemaName, source := range map[string][]byte{"request": schemas.AllocationRequest(), "response": schemas.AllocationResponse()} {
		s := compile(t, string(source))
		accepted, refused := 0, 0
		agree := func(name string, doc any) {
			t.Helper()
			fast, decided := s.Fast(doc)
			library := s.Library(doc)
			if fast != library || !decided {
				text, _ := json.Marshal(doc)
				t.Errorf("%s: fast = %v, %v, library = %v for %s", name, fast, decided, library, text)
			}
			if library {
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

// FuzzFastAgreesWithLibrary looks for a document on which the fast check and the library disagree, under each of the
// schemas of this package's tests.
func FuzzFastAgreesWithLibrary(f *testing.F) {
	compiled := []*schema.Schema{
		compile(f, string(schemas.AllocationRequest())),
		compile(f, string(schemas.AllocationResponse())),
	}
	for _, test := range keywords {
		compiled = append(compiled, compile(f, test.schema))
	}
	for _, name := range samples(f, "*.json") {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(0), string(text))
		f.Add(uint8(1), string(text))
	}
	for i, test := range keywords {
		for _, text := range slices.Concat(test.accept, test.refuse) {
			f.Add(uint8(2+i), text)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		if doc, ok := decodeAny(text); ok {
			agree(t, compiled[int(which)%len(compiled)], doc)
		}
	})
}

// FuzzCompile looks for a schema that makes Compile or Validate panic, or on which the fast check and the library
// disagree.
func FuzzCompile(f *testing.F) {
	for _, test := range keywords {
		for _, text := range slices.Concat(test.accept, test.refuse) {
			f.Add(test.schema, text)
		}
	}
	f.Add(`{"minLength":1e1000001}`, `""`)
	f.Add(`{"$ref":"#"}`, `1`)
	f.Add(`{"$ref":"https://json-schema.org/draft/2020-12/schema"}`, `{"type":"string"}`)
	f.Fuzz(func(t *testing.T, source, text string) {
		s, err := schema.Compile("fuzz", []byte(drafted(source)))
		if err != nil {
			return
		}
		if doc, ok := decodeAny(text); ok {
			agree(t, s, doc)
		}
	})
}

func decodeAny(text string) (any, bool) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var doc any
	return doc, decoder.Decode(&doc) == nil
}

// agree fails when the fast check decides otherwise than the library, and when Validate is not deterministic, not
// bounded, or at odds with both.
func agree(t *testing.T, s *schema.Schema, doc any) {
	t.Helper()
	fast, decided := s.Fast(doc)
	violations := s.Validate(doc)
	if again := s.Validate(doc); !cmp.Equal(violations, again) {
		t.Fatalf("two runs differ:\n%s", cmp.Diff(violations, again))
	}
	if len(violations) > 101 {
		t.Fatalf("%d violations", len(violations))
	}
	for _, v := range violations {
		if len(v.Pointer) > 256 || len(v.Message) > 512 || v.Message == "" {
			t.Fatalf("violation out of bounds: %q", fmt.Sprint(v))
		}
	}
	if !schema.Judgeable(doc) {
		return
	}
	library := s.Library(doc)
	if decided && fast != library {
		t.Fatalf("fast = %v, library = %v", fast, library)
	}
	if (len(violations) == 0) != library {
		t.Fatalf("Validate = %v, library accepts: %v", violations, library)
	}
}
