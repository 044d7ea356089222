package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Field is a member of the device's payload, as a JSON Schema describes it.
type Field struct {
	Pointer string // relative to the payload
	Values  []any  // with the types of dps.AllocationRequest.Document
}

// maxFieldDepth bounds a schema that refers to itself.
const maxFieldDepth = 6

// ParsePayloadSchema reads from a JSON Schema which members a payload has, and which values of each a search should
// try: those of enum, const, examples and default, the bounds of numbers and their neighbours, and a text that matches
// the pattern. References must be to the same file.
func ParsePayloadSchema(text []byte) ([]Field, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var root any
	if err := decoder.Decode(&root); err != nil {
		return nil, fmt.Errorf("the schema is not JSON: %w", err)
	}
	schema, ok := root.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the schema is not a JSON object")
	}
	r := schemaReader{root: schema}
	if err := r.object("", schema, 0); err != nil {
		return nil, err
	}
	if len(r.fields) == 0 {
		return nil, fmt.Errorf("the schema names no properties: it must be the schema of the payload, which is an object")
	}
	return r.fields, nil
}

type schemaReader struct {
	root   map[string]any
	fields []Field
}

// object reads the properties of an object's schema, including those in allOf, anyOf and oneOf.
func (r *schemaReader) object(pointer string, schema map[string]any, depth int) error {
	schema, err := r.resolve(schema)
	if err != nil || depth > maxFieldDepth {
		return err
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		below, ok := properties[name].(map[string]any)
		if !ok {
			continue // true or false, which allow anything or nothing
		}
		if err := r.field(string(jsontext.Pointer(pointer).AppendToken(name)), below, depth+1); err != nil {
			return err
		}
	}
	for _, word := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := schema[word].([]any)
		for _, one := range list {
			if below, ok := one.(map[string]any); ok {
				if err := r.object(pointer, below, depth+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *schemaReader) field(pointer string, schema map[string]any, depth int) error {
	schema, err := r.resolve(schema)
	if err != nil {
		return err
	}
	if _, nested := schema["properties"]; nested {
		return r.object(pointer, schema, depth)
	}
	field := Field{Pointer: pointer}
	for _, word := range []string{"enum", "examples"} {
		list, _ := schema[word].([]any)
		field.Values = append(field.Values, list...)
	}
	for _, word := range []string{"const", "default"} {
		if value, ok := schema[word]; ok {
			field.Values = append(field.Values, value)
		}
	}
	for _, word := range []string{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} {
		if number, ok := schema[word].(json.Number); ok {
			field.Values = append(field.Values, numbersAround(number)...)
		}
	}
	if pattern, ok := schema["pattern"].(string); ok {
		if matches := matchesOf(pattern); len(matches) > 0 {
			field.Values = append(field.Values, matches[0])
		}
	}
	if len(field.Values) == 0 {
		switch schema["type"] {
		case "string":
			field.Values = []any{"text"}
		case "integer", "number":
			field.Values = []any{json.Number("0"), json.Number("1"), json.Number("-1")}
		case "boolean":
			field.Values = []any{true, false}
		}
	}
	r.fields = append(r.fields, field)
	return nil
}

// resolve follows a reference within the file.
func (r *schemaReader) resolve(schema map[string]any) (map[string]any, error) {
	for range maxFieldDepth {
		reference, ok := schema["$ref"].(string)
		if !ok {
			return schema, nil
		}
		place, local := strings.CutPrefix(reference, "#")
		target, found := any(r.root), local
		for step := range jsontext.Pointer(place).Tokens() {
			object, _ := target.(map[string]any)
			target, ok = object[step]
			found = found && ok
		}
		below, ok := target.(map[string]any)
		if !found || !ok {
			return nil, fmt.Errorf("the schema refers to %q, which the file does not contain", reference)
		}
		schema = below
	}
	return nil, fmt.Errorf("the schema refers to %q in a circle", schema["$ref"])
}
