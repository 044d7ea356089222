package decisionlog

import (
	"strings"
	"testing"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/schemas"
)

// Every annotation of the schema is understood, and each name that METADATA has for a place is of one that is there.
func TestReadAllowances(t *testing.T) {
	t.Parallel()
	root, err := readAllowances(schemas.AllocationRequest())
	if err != nil {
		t.Fatal(err)
	}
	found, counts := map[string]bool{}, map[allowance]int{}
	var walk func(*node)
	walk = func(n *node) {
		counts[n.allowance]++
		found[n.root] = true
		for _, member := range n.members {
			walk(member)
		}
		if n.items != nil {
			walk(n.items)
		}
	}
	walk(root)
	for _, known := range roots {
		if !found[known.root] {
			t.Errorf("there is no %s in the schema", known.root)
		}
	}
	for _, a := range []allowance{never, plain, identity, declared} {
		if counts[a] < 5 {
			t.Errorf("%d members have the allowance %d", counts[a], a)
		}
	}
}

func TestReadAllowancesErrors(t *testing.T) {
	t.Parallel()
	for schema, want := range map[string]string{
		`{`: "unexpected end",
		`{"properties":{"a":{"x-recordable":"yes"}}}`:                                         `schema: /a: x-recordable is yes; allowed are true, "id" and "declared"`,
		`{"properties":{"a":{"x-recordable":false}}}`:                                         "x-recordable is false",
		`{"properties":{"a":{"x-recordable":"declared"}}}`:                                    "has no name in METADATA",
		`{"properties":{"a":{"$ref":"#/$defs/b"}}}`:                                           "schema: /a refers to #/$defs/b, which does not exist",
		`{"properties":{"a":true}}`:                                                           "schema: /a is not an object",
		`{"properties":{"a":{"x-recordable":true,"type":"array","items":{"$ref":"#/no/y"}}}}`: "/a/* refers to",
	} {
		schema = strings.Replace(schema, `{"properties"`, `{"type":"object","properties"`, 1)
		if _, err := readAllowances([]byte(schema)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", schema, err, want)
		}
	}
}

// What is said where a definition is used goes before what it says itself, and below what names the device all names
// it.
func TestAllowancesInherit(t *testing.T) {
	t.Parallel()
	root, err := readAllowances([]byte(`{"type": "object", "properties": {
		"a": {"x-recordable": "id", "$ref": "#/$defs/d"}, "b": {"$ref": "#/$defs/d"}},
		"$defs": {"d": {"x-recordable": true, "type": "object", "properties": {"x": {"x-recordable": true, "type": "string"}, "y": {"type": "string"}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := root.members["a"], root.members["b"]
	if a.members["x"].allowance != identity || a.members["y"].allowance != never || b.allowance != plain || b.members["x"].allowance != plain {
		t.Errorf("a %+v, b %+v", a, b)
	}
	var text []byte
	m := mask{mode: Plain}
	m.reset(root, nil, nil)
	request, err := dps.ParseAllocationRequest([]byte(`{"a": {"x": "1", "y": "2"}, "b": {"x": "3", "z": "4"}, "c": 5}`))
	if err != nil {
		t.Fatal(err)
	}
	if text, _ = m.request(text, root, request.Body()); string(text) != `{"a":{"x":"1"},"b":{"x":"3"}}` || strings.Join(m.masked, " ") != "/a/y /b/z /c" {
		t.Errorf("%s, masked %v", text, m.masked)
	}
}
