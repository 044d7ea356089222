package docs_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

const recordPage = "docs/decision-record.md"

// The fields of a record are those of its schema, in the same words.
func TestRecordFieldsTable(t *testing.T) {
	t.Parallel()
	var schema map[string]any
	if err := json.Unmarshal(schemas.DecisionRecord(), &schema); err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	var walk func(node map[string]any, path string)
	walk = func(node map[string]any, path string) {
		if reference, ok := node["$ref"].(string); ok {
			definitions := schema["$defs"].(map[string]any)
			node = definitions[strings.TrimPrefix(reference, "#/$defs/")].(map[string]any)
		}
		if items, ok := node["items"].(map[string]any); ok {
			node = items
		}
		properties, _ := node["properties"].(map[string]any)
		for name, property := range properties {
			property := property.(map[string]any)
			fields["`"+path+name+"`"], _ = property["description"].(string)
			walk(property, path+name+".")
		}
	}
	walk(schema, "")
	documented := map[string]string{}
	for _, row := range tableUnder(t, readDocument(t, recordPage), "field", "what").rows {
		documented[row[0]] = row[1]
	}
	if diff := gocmp.Diff(fields, documented); diff != "" {
		t.Errorf("-schema +document:\n%s", diff)
	}
}

// The roots of recordable paths, and what the schema can say, are in the page.
func TestRecordableTables(t *testing.T) {
	t.Parallel()
	text := readDocument(t, recordPage)
	sameNames(t, "roots", tableUnder(t, text, "path starts with", "what").column(0), slices.Sorted(slices.Values(ruleset.RecordableRoots())))
	said := map[string]bool{}
	var walk func(value any)
	walk = func(value any) {
		switch v := value.(type) {
		case map[string]any:
			annotation, ok := v["x-recordable"]
			if _, typed := v["type"]; typed && !ok {
				said["none"] = true
			} else if ok {
				written, _ := json.Marshal(annotation)
				said[string(written)] = true
			}
			for _, member := range v {
				walk(member)
			}
		case []any:
			for _, element := range v {
				walk(element)
			}
		}
	}
	var schema any
	if err := json.Unmarshal(schemas.AllocationRequest(), &schema); err != nil {
		t.Fatal(err)
	}
	walk(schema)
	var documented []string
	for _, row := range tableUnder(t, text, "`x-recordable`", "recorded").rows {
		documented = append(documented, strings.Trim(row[0], "`"))
		delete(said, strings.Trim(row[0], "`"))
	}
	if len(said) > 0 || len(documented) != 4 {
		t.Errorf("the schema says %v, the page %v", said, documented)
	}
}
