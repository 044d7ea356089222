// Package schema checks AllocationRequests against their JSON Schema and lists everything that is wrong with them.
//
// It implements the keywords of draft 2020-12 that schemas/allocation-request.schema.json uses, and refuses to compile
// any other, so no part of a schema is ever ignored. docs/adr/0007 explains why no library does this; the tests compare
// the package with one.
package schema

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxViolations bounds what [Schema.Validate] lists: nobody fixes a request that is wrong in a hundred places by
	// reading the next thousand.
	maxViolations = 100
	// enoughViolations is where checking an array stops. A body of 1 MB can hold half a million wrong items.
	enoughViolations = 10 * maxViolations
)

const draftURL = "https://json-schema.org/draft/2020-12/schema"

var types = []string{"array", "boolean", "integer", "null", "number", "object", "string"}

// A Schema is a compiled JSON Schema. It is immutable and safe for concurrent use.
type Schema struct{ root *node }

// A Violation is one reason why a document is not valid.
type Violation struct {
	// Pointer is the JSON pointer (RFC 6901) of the value that is wrong, "" for the whole document. For a missing
	// property it is the object that lacks it.
	Pointer string
	// Message says what is wrong in terms of types, property names and the schema's limits. It never holds a value of
	// the document.
	Message string
}

// String returns the pointer and the message, for example "/linkedHubs: expected array, but got string".
func (v Violation) String() string {
	if v.Pointer == "" {
		return v.Message
	}
	return v.Pointer + ": " + v.Message
}

// A node is a schema or a part of one.
type node struct {
	Schema      string           `json:"$schema"`
	ID          string           `json:"$id"`
	Title       string           `json:"title"`
	Description string           `json:"description"`
	Recordable  any              `json:"x-recordable"`
	Definitions map[string]*node `json:"$defs"`
	Ref         string           `json:"$ref"`
	keywords
}

// keywords are the keywords that a value can violate.
type keywords struct {
	Type       string           `json:"type"`
	OneOf      []alternative    `json:"oneOf"`
	Required   []string         `json:"required"`
	Properties map[string]*node `json:"properties"`
	MinItems   int              `json:"minItems"`
	MaxItems   *int             `json:"maxItems"`
	Items      *node            `json:"items"`
	MinLength  int              `json:"minLength"` // in characters
	MaxLength  *int             `json:"maxLength"`
	Pattern    *regexp.Regexp   `json:"pattern"`

	members []member // Properties, without references
}

// An alternative of oneOf can only require properties of an object.
type alternative struct {
	Title    string   `json:"title"`
	Required []string `json:"required"`
}

type member struct {
	name string
	node *node
}

// Compile compiles the JSON Schema in source, which is one of this module's own. The name appears in errors.
//
// It returns an error if source is not JSON, is of another draft, has a keyword or a form of a keyword that this package
// does not implement, or has a reference other than "#/$defs/NAME".
func Compile(name string, source []byte) (*Schema, error) {
	decoder := json.NewDecoder(bytes.NewReader(source))
	decoder.DisallowUnknownFields()
	root := &node{}
	if err := decoder.Decode(root); err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	if root.Schema != draftURL {
		return nil, fmt.Errorf("schema %s: want \"$schema\": %q", name, draftURL)
	}
	for _, part := range append(slices.Collect(maps.Values(root.Definitions)), root) {
		if _, err := part.resolve(root.Definitions); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
	}
	return &Schema{root}, nil
}

// resolve replaces the references below n. It returns n or, if n is a reference, the definition that it names.
func (n *node) resolve(definitions map[string]*node) (*node, error) {
	if n.Ref != "" {
		definition := definitions[strings.TrimPrefix(n.Ref, "#/$defs/")]
		if definition == nil || definition.Ref != "" || !reflect.ValueOf(n.keywords).IsZero() {
			return nil, fmt.Errorf("$ref %q: want \"#/$defs/NAME\" with the name of a definition, and no other keyword", n.Ref)
		}
		return definition, nil
	}
	if n.Type != "" && !slices.Contains(types, n.Type) {
		return nil, fmt.Errorf("unknown type %q", n.Type)
	}
	if n.OneOf != nil && n.Type != "object" {
		return nil, errors.New("oneOf: want the type object next to it")
	}
	var err error
	if n.Items != nil {
		if n.Items, err = n.Items.resolve(definitions); err != nil {
			return nil, err
		}
	}
	for name, property := range n.Properties {
		if property, err = property.resolve(definitions); err != nil {
			return nil, err
		}
		n.members = append(n.members, member{name, property})
	}
	return n, nil
}

// Validate checks doc and returns all its violations, or none if it is valid.
//
// doc consists of map[string]any, []any, string, [json.Number], bool and nil, as dps.ParseAllocationRequest returns it:
// its depth and the size of its numbers are bounded. Validate only reads it.
//
// The violations are sorted by pointer, and none is repeated. At most 100 are listed; one more then says how many were
// left out, at least. Checking a valid document takes about a microsecond and does not allocate.
func (s *Schema) Validate(doc any) []Violation {
	list := s.root.check(doc)
	slices.SortFunc(list, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Pointer, b.Pointer), cmp.Compare(a.Message, b.Message))
	})
	list = slices.Compact(list)
	if more := len(list) - maxViolations; more > 0 {
		list = append(list[:maxViolations], Violation{Message: fmt.Sprintf("and at least %d more violations", more)})
	}
	return list
}

// check returns what is wrong with value. The pointers start at value and the caller completes them, so that a valid
// document costs nothing for pointers.
func (n *node) check(value any) []Violation {
	if got := typeOf(value); n.Type != "" && got != n.Type && !(n.Type == "integer" && isInteger(value)) {
		return violation("expected %s, but got %s", n.Type, got)
	}
	switch value := value.(type) {
	case map[string]any:
		return n.checkObject(value)
	case []any:
		return n.checkArray(value)
	case string:
		return n.checkString(value)
	}
	return nil
}

func violation(format string, args ...any) []Violation {
	return []Violation{{Message: fmt.Sprintf(format, args...)}}
}

// appendBelow appends to list the violations of the value at the token.
func appendBelow(list []Violation, token string, below []Violation) []Violation {
	for _, v := range below {
		v.Pointer = string(jsontext.Pointer("").AppendToken(token)) + v.Pointer
		list = append(list, v)
	}
	return list
}

func (n *node) checkObject(object map[string]any) []Violation {
	var list []Violation
	if n.OneOf != nil {
		list = n.checkOneOf(object)
	}
	for _, name := range n.Required {
		if _, ok := object[name]; !ok {
			list = append(list, Violation{Message: "missing property " + strconv.Quote(name)})
		}
	}
	for _, m := range n.members {
		if value, ok := object[m.name]; ok {
			if below := m.node.check(value); below != nil {
				list = appendBelow(list, m.name, below)
			}
		}
	}
	return list
}

func (n *node) checkOneOf(object map[string]any) []Violation {
	valid := 0
	for _, alternative := range n.OneOf {
		if !slices.ContainsFunc(alternative.Required, func(name string) bool { _, ok := object[name]; return !ok }) {
			valid++
		}
	}
	if valid == 1 {
		return nil
	}
	var titles []string
	for _, alternative := range n.OneOf {
		titles = append(titles, alternative.Title)
	}
	got := "none"
	if valid > 1 {
		got = "more than one"
	}
	return violation("want exactly one of %s; got %s", strings.Join(titles, ", "), got)
}

func (n *node) checkArray(items []any) []Violation {
	var list []Violation
	if len(items) < n.MinItems {
		list = violation("minimum %d items required, but found %d items", n.MinItems, len(items))
	}
	if n.MaxItems != nil && len(items) > *n.MaxItems {
		list = violation("maximum %d items allowed, but found %d items", *n.MaxItems, len(items))
	}
	if n.Items == nil {
		return list
	}
	for i, item := range items {
		if below := n.Items.check(item); below != nil {
			list = appendBelow(list, strconv.Itoa(i), below)
		}
		if len(list) >= enoughViolations {
			break
		}
	}
	return list
}

func (n *node) checkString(text string) []Violation {
	var list []Violation
	if n.MinLength > 0 || n.MaxLength != nil {
		switch length := utf8.RuneCountInString(text); {
		case length < n.MinLength:
			list = violation("length must be >= %d, but got %d", n.MinLength, length)
		case n.MaxLength != nil && length > *n.MaxLength:
			list = violation("length must be <= %d, but got %d", *n.MaxLength, length)
		}
	}
	if n.Pattern != nil && !n.Pattern.MatchString(text) {
		list = append(list, violation("does not match pattern '%s'", n.Pattern)...)
	}
	return list
}

// typeOf returns the JSON type of a value.
func typeOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	default:
		return fmt.Sprintf("Go type %T", value)
	}
}

// isInteger reports whether value is a number without a fraction: 1.0 and 1e2 are integers in JSON Schema.
func isInteger(value any) bool {
	number, ok := value.(json.Number)
	if !ok {
		return false
	}
	if !strings.ContainsAny(string(number), ".eE") {
		return true
	}
	exact, ok := new(big.Rat).SetString(string(number))
	return ok && exact.IsInt()
}
