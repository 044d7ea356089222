package ruleset_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// schemaOf is a data schema with these members after its first line.
func schemaOf(members string) string {
	return `{"$schema": "https://json-schema.org/draft/2020-12/schema",` + "\n" + members + "}"
}

const plantsSchema = `"type": "object",
"required": ["lines", "owner"],
"properties": {
  "lines": {"additionalProperties": {"$ref": "#/$defs/line"}},
  "owner": {"type": "string", "minLength": 2},
  "a/b~c é": {"const": 1},
  "list": {"items": {"enum": ["eu", "us"]}},
  "gone": false
},
"$defs": {"line": {
  "required": ["hub"],
  "properties": {"hub": {"pattern": "^contoso-"}, "site": {"type": "string"}},
  "additionalProperties": false
}}`

func TestDataIsCheckedByItsSchema(t *testing.T) {
	t.Parallel()
	rule := serving("allocation.a", "a", hub)
	for _, test := range []struct {
		name  string
		files fstest.MapFS
		want  []string
	}{
		{"valid", folder("plants/data.schema.json", schemaOf(plantsSchema),
			"plants/data.json", `{"owner": "us", "lines": {"l": {"hub": "contoso-eu"}}}`), nil},
		{"valid YAML", folder("plants/data.schema.json", schemaOf(plantsSchema),
			"plants/data.yaml", "owner: us\nlines: {l: {hub: contoso-eu}}\n"), nil},
		{"of all data", folder("data.schema.json", schemaOf(`"required": ["x"]`), "data.json", "\n {}"), []string{
			`rules/data.json:2:2: missing property "x" (rules/data.schema.json:2:13 says "required": ["x"])`,
		}},
		{"every violation, at its value", folder("plants/data.schema.json", schemaOf(plantsSchema), "plants/data.json", `{
  "owner": "é", "gone": [],
  "a/b~c é": {},
  "list": ["eu",
    "asia"],
  "lines": {
    "l1": {"hub": "fabrikam",
      "site": 7},
    "l2": {"hub": "contoso-eu", "colour": "red"},
    "l3": {}
  }
}`), []string{
			`rules/plants/data.json:2:12: /owner: length must be >= 2, but got 1 (rules/plants/data.schema.json:6:44 says "minLength": 2)`,
			`rules/plants/data.json:2:25: /gone: nothing is allowed here (rules/plants/data.schema.json:9:11 says "gone": false)`,
			`rules/plants/data.json:3:14: /a~1b~0c é: value must be "1" (rules/plants/data.schema.json:7:24 says "const": 1)`,
			`rules/plants/data.json:5:5: /list/1: value must be one of "eu", "us" (rules/plants/data.schema.json:8:30 says "enum": ["eu", "us"])`,
			`rules/plants/data.json:7:19: /lines/l1/hub: does not match pattern '^contoso-' (rules/plants/data.schema.json:13:37 says "pattern": "^contoso-")`,
			`rules/plants/data.json:8:15: /lines/l1/site: expected string, but got number (rules/plants/data.schema.json:13:68 says "type": "string")`,
			`rules/plants/data.json:9:43: /lines/l2/colour: property is not allowed (rules/plants/data.schema.json:14:27 says "additionalProperties": false)`,
			`rules/plants/data.json:10:11: /lines/l3: missing property "hub" (rules/plants/data.schema.json:12:15 says "required": ["hub"])`,
		}},
		{"in YAML", folder("plants/data.schema.json", schemaOf(plantsSchema), "plants/data.yaml", `owner: us
base: &base
  hub: fabrikam
lines:
  l1:
    site: 7
    hub: contoso-eu
  l2: *base
  l3:
    <<: *base
list:
  - eu
  - asia
`), []string{
			`rules/plants/data.yaml:3:8: /lines/l2/hub: does not match pattern '^contoso-' (rules/plants/data.schema.json:13:37 says "pattern": "^contoso-")`,
			`rules/plants/data.yaml:6:11: /lines/l1/site: expected string, but got number (rules/plants/data.schema.json:13:68 says "type": "string")`,
			`rules/plants/data.yaml:10:5: /lines/l3/hub: does not match pattern '^contoso-' (rules/plants/data.schema.json:13:37 says "pattern": "^contoso-")`,
			`rules/plants/data.yaml:13:5: /list/1: value must be one of "eu", "us" (rules/plants/data.schema.json:8:30 says "enum": ["eu", "us"])`,
		}},
		{"only the data next to it", folder("plants/data.schema.json", schemaOf(`"maxProperties": 0`), "plants/data.json", `{}`,
			"data.json", `{"x": 1}`, "plants/sub/data.json", `{"x": 1}`), nil},
		{"no data", folder("plants/data.schema.json", schemaOf(`"type": "object"`), "data.json", `{}`), []string{
			"rules/plants/data.schema.json: there is no data for this schema (put data.json or data.yaml into the same folder, or remove the schema)",
		}},
		{"a long list in the schema", folder("x/data.schema.json", schemaOf(`"properties": {"a": {"enum": ["`+strings.Repeat("x", 500)+`"]}}`), "x/data.json", `{"a": 1}`), []string{
			`rules/x/data.json:1:7: /a: value must be "` + strings.Repeat("x", 494) + `… (rules/x/data.schema.json:2:30 says "enum": ["` + strings.Repeat("x", 198) + "…)",
		}},

		{"a schema that is no JSON", folder("x/data.schema.json", "{\n  \"a\" 1}", "x/data.json", "{}"), []string{
			"rules/x/data.schema.json:2:7: not JSON: invalid character '1' after object name (expecting ':')",
		}},
		{"a name twice in a schema", folder("x/data.schema.json", schemaOf(`"type": "object", "type": "array"`), "x/data.json", "{}"), []string{
			"rules/x/data.schema.json:2:19: the name of /type occurs twice in one object (remove one of them: only one would count)",
		}},
		{"a schema that is not valid", folder("x/data.schema.json", schemaOf("\"properties\": {\n  \"a\": {\"type\": \"sting\"},\n  \"b\": {\"minLength\": -1}}"), "x/data.json", "{}"), []string{
			`rules/x/data.schema.json:3:17: not a usable JSON Schema: /properties/a/type: expected array, but got string`,
			`rules/x/data.schema.json:3:17: not a usable JSON Schema: /properties/a/type: value must be one of "array", "boolean", "integer", "null", "number", "object", "string"`,
			`rules/x/data.schema.json:4:22: not a usable JSON Schema: /properties/b/minLength: must be >= 0 but found -1`,
		}},
		{"no draft", folder("x/data.schema.json", `{"type": "object"}`, "x/data.json", "{}"), []string{
			`rules/x/data.schema.json:1:1: not a usable JSON Schema: want a JSON object with the property "$schema": "https://json-schema.org/draft/2020-12/schema"`,
		}},
		{"a reference to a file", folder("x/data.schema.json", schemaOf(`"$ref": "other.json"`), "x/data.json", "{}"), []string{
			`rules/x/data.schema.json:1:1: not a usable JSON Schema: "schema:///other.json" is outside the schema: only references within it are followed`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.files["a.rego"] = &fstest.MapFile{Data: []byte(rule)}
			for _, lazy := range []bool{false, true} {
				_, err := ruleset.Load(t.Context(), test.files, ruleset.Options{Name: "rules", Lazy: lazy})
				if diff := cmp.Diff(test.want, problemsOf(t, err)); diff != "" {
					t.Errorf("lazy %v: -want +got:\n%s", lazy, diff)
				}
			}
		})
	}
}

func TestManyViolationsOfData(t *testing.T) {
	t.Parallel()
	var lines []string
	for i := range 300 {
		lines = append(lines, fmt.Sprintf(`"l%d": {}`, i))
	}
	_, err := ruleset.Load(t.Context(), folder("a.rego", serving("allocation.a", "a", hub),
		"plants/data.schema.json", schemaOf(plantsSchema),
		"plants/data.json", `{"owner": "us", "lines": {`+strings.Join(lines, ", ")+`}}`), ruleset.Options{Name: "rules"})
	problems := problemsOf(t, err)
	const more = "rules/plants/data.json:1:1: and at least 200 more violations"
	if len(problems) != 101 || !slices.Contains(problems, more) {
		t.Errorf("%d problems, or not %q among %q", len(problems), more, problems)
	}
}

// A schema is not data itself, and the same data has the same digest with it.
func TestDataSchemaIsNoData(t *testing.T) {
	t.Parallel()
	files := []string{"a.rego", serving("allocation.a", "a", `hub := concat(",", sort(object.keys(data.plants)))`), "plants/data.json", `{"x": 1}`}
	without := mustLoad(t, folder(files...), ruleset.Options{})
	with := mustLoad(t, folder(append(files, "plants/data.schema.json", schemaOf(`"type": "object"`))...), ruleset.Options{})
	if got := evaluate(t, with.Serving(forGroup("a")), `{}`).Hub; got != "x" {
		t.Errorf("data.plants has the members %v", got)
	}
	if with.Digest() != without.Digest() {
		t.Error("the schema changes the digest")
	}
}
