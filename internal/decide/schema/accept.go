package schema

import (
	"encoding/json"
	"math/big"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/usher-dps/usher/dps"
)

// node is a compiled schema that can only accept or refuse, without the bookkeeping that lists of errors need. It knows
// the keywords that the schemas of AllocationRequests and of the rows of hubs use. The library decides about schemas
// with any other keyword.
type node struct {
	library *jsonschema.Schema // decides instead of everything else, unless nil
	open    bool               // accepts every value

	types   kinds // 0 means any
	integer bool  // the type is integer, not number

	enum    []string // texts; nil means any value
	minimum *big.Rat // nil means no limit

	required   []string
	properties map[string]*node
	closed     bool // no other properties

	minItems, maxItems int // -1 means no limit
	items              *node

	minLength, maxLength int // in characters; -1 means no limit
	pattern              *regexp.Regexp

	ref   *node
	oneOf []*node
}

// kinds is a set of JSON types.
type kinds uint8

const (
	kindNull kinds = 1 << iota
	kindBoolean
	kindNumber
	kindString
	kindArray
	kindObject
)

// checking is the state of one check of one document.
type checking struct {
	// undecided is set when a value was found that cannot be judged here. The result is then void.
	undecided bool
}

// children returns the schemas that s consists of.
func children(s *jsonschema.Schema) []*jsonschema.Schema {
	list := []*jsonschema.Schema{
		s.Ref, s.RecursiveRef, s.DynamicRef, s.Not, s.If, s.Then, s.Else,
		s.PropertyNames, s.UnevaluatedProperties,
		s.Items2020, s.Contains, s.UnevaluatedItems, s.ContentSchema,
	}
	for _, group := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf, s.PrefixItems} {
		list = append(list, group...)
	}
	for _, child := range s.Properties {
		list = append(list, child)
	}
	for _, child := range s.PatternProperties {
		list = append(list, child)
	}
	for _, child := range s.DependentSchemas {
		list = append(list, child)
	}
	for _, child := range s.Dependencies {
		if child, ok := child.(*jsonschema.Schema); ok {
			list = append(list, child)
		}
	}
	if child, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
		list = append(list, child)
	}
	return list
}

// collect adds s and all schemas that it consists of to nodes, by location.
func collect(s *jsonschema.Schema, nodes map[string]*jsonschema.Schema) {
	if s == nil || nodes[s.Location] != nil {
		return
	}
	nodes[s.Location] = s
	for _, child := range children(s) {
		collect(child, nodes)
	}
}

// newNode compiles root; nodes are all schemas that it consists of.
func newNode(root *jsonschema.Schema, nodes map[string]*jsonschema.Schema) *node {
	for _, s := range nodes {
		if s.DynamicRef != nil || s.RecursiveRef != nil {
			return &node{library: root} // what these refer to depends on the path from the root
		}
	}
	c := compilation{}
	return c.node(root)
}

// compilation has the nodes that exist, including unfinished ones if schemas are recursive.
type compilation map[*jsonschema.Schema]*node

func (c compilation) node(s *jsonschema.Schema) *node {
	if s == nil {
		return nil
	}
	if n, ok := c[s]; ok {
		return n
	}
	n := &node{}
	c[s] = n
	if usesOtherKeywords(s) {
		n.library = s
		return n
	}
	c.fill(n, s)
	return n
}

// usesOtherKeywords reports whether a schema uses keywords that only the library knows. A test fails if the library has
// a keyword that is in neither list.
func usesOtherKeywords(s *jsonschema.Schema) bool {
	return s.Always != nil && !*s.Always || s.Not != nil || len(s.AllOf) > 0 || len(s.AnyOf) > 0 || s.If != nil ||
		len(textsOf(s.Enum)) < len(s.Enum) || len(s.Constant) > 0 ||
		s.MinProperties != -1 || s.MaxProperties != -1 || len(s.PatternProperties) > 0 || s.PropertyNames != nil ||
		isRestricted(s.AdditionalProperties) || len(s.DependentRequired) > 0 || len(s.DependentSchemas) > 0 ||
		len(s.Dependencies) > 0 || s.RegexProperties || s.UnevaluatedProperties != nil ||
		s.UniqueItems || len(s.PrefixItems) > 0 || s.Contains != nil || s.UnevaluatedItems != nil ||
		s.Items != nil || s.AdditionalItems != nil ||
		s.Maximum != nil || s.ExclusiveMinimum != nil || s.ExclusiveMaximum != nil || s.MultipleOf != nil ||
		len(s.Extensions) > 0
}

// isRestricted reports whether additionalProperties is a schema.
func isRestricted(additional any) bool {
	_, ok := additional.(bool)
	return additional != nil && !ok
}

// textsOf returns the texts among the values of an enum.
func textsOf(enum []any) []string {
	var texts []string
	for _, value := range enum {
		if text, ok := value.(string); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

func (c compilation) fill(n *node, s *jsonschema.Schema) {
	for _, name := range s.Types {
		switch name {
		case "null":
			n.types |= kindNull
		case "boolean":
			n.types |= kindBoolean
		case "number":
			n.types |= kindNumber
			n.integer = false
		case "integer":
			n.integer = n.types&kindNumber == 0
			n.types |= kindNumber
		case "string":
			n.types |= kindString
		case "array":
			n.types |= kindArray
		case "object":
			n.types |= kindObject
		}
	}
	n.enum, n.minimum = textsOf(s.Enum), s.Minimum
	n.required, n.closed = s.Required, s.AdditionalProperties == false
	for name, child := range s.Properties {
		if child := c.node(child); !child.open || n.closed {
			if n.properties == nil {
				n.properties = map[string]*node{}
			}
			n.properties[name] = child
		}
	}
	n.minItems, n.maxItems, n.items = s.MinItems, s.MaxItems, c.node(s.Items2020)
	n.minLength, n.maxLength, n.pattern = s.MinLength, s.MaxLength, s.Pattern
	n.ref = c.node(s.Ref)
	for _, alternative := range s.OneOf {
		n.oneOf = append(n.oneOf, c.node(alternative))
	}
	n.open = n.types == 0 && n.enum == nil && n.minimum == nil && len(n.required) == 0 && len(n.properties) == 0 && !n.closed &&
		n.minItems == -1 && n.maxItems == -1 && n.items == nil &&
		n.minLength == -1 && n.maxLength == -1 && n.pattern == nil && n.ref == nil && len(n.oneOf) == 0
}

// accepts reports whether value is valid.
func (n *node) accepts(c *checking, value any) bool {
	if n.open {
		return true
	}
	if n.library != nil {
		value := plain(value)
		if len(unjudgeable(value)) > 0 {
			c.undecided = true
			return false
		}
		return n.library.Validate(value) == nil
	}
	return (n.ref == nil || n.ref.accepts(c, value)) && n.acceptsValue(c, value) &&
		(len(n.oneOf) == 0 || n.acceptsOneOf(c, value))
}

// acceptsValue checks the keywords that each concern one type of value.
func (n *node) acceptsValue(c *checking, value any) bool {
	switch value := value.(type) {
	case map[string]any:
		return n.allows(kindObject) && n.acceptsObject(c, value)
	case []any:
		return n.allows(kindArray) && n.acceptsArray(c, value)
	case string:
		return n.allows(kindString) && n.acceptsText(value)
	case json.Number:
		return n.allows(kindNumber) && n.acceptsNumber(c, value)
	case bool:
		return n.allows(kindBoolean)
	case nil:
		return n.allows(kindNull)
	case *dps.Value:
		return n.acceptsParsed(c, value)
	default:
		c.undecided = true
		return false
	}
}

// acceptsParsed is acceptsValue for a value in the form in which requests are parsed.
func (n *node) acceptsParsed(c *checking, value *dps.Value) bool {
	switch value.Kind() {
	case dps.Object:
		return n.allows(kindObject) && n.acceptsMembers(c, value)
	case dps.Array:
		return n.allows(kindArray) && n.acceptsElements(c, value)
	case dps.String:
		return n.allows(kindString) && n.acceptsText(value.Text())
	case dps.Number:
		return n.allows(kindNumber) && n.acceptsNumber(c, value.Number())
	case dps.Null:
		return n.allows(kindNull)
	default:
		return n.allows(kindBoolean)
	}
}

func (n *node) allows(kind kinds) bool {
	return (n.types == 0 || n.types&kind != 0) && (n.enum == nil || kind == kindString)
}

func (n *node) acceptsObject(c *checking, object map[string]any) bool {
	for _, name := range n.required {
		if _, ok := object[name]; !ok {
			return false
		}
	}
	known := 0
	for name, child := range n.properties {
		value, ok := object[name]
		if ok && !child.accepts(c, value) {
			return false
		}
		if ok {
			known++
		}
	}
	return !n.closed || known == len(object)
}

func (n *node) acceptsMembers(c *checking, object *dps.Value) bool {
	for _, name := range n.required {
		if object.Get(name) == nil {
			return false
		}
	}
	if len(n.properties) == 0 && !n.closed {
		return true
	}
	for i := range object.Len() {
		member := object.At(i)
		child := n.properties[member.Name()]
		if child == nil && n.closed || child != nil && !child.accepts(c, member) {
			return false
		}
	}
	return true
}

func (n *node) acceptsElements(c *checking, array *dps.Value) bool {
	if !within(array.Len(), n.minItems, n.maxItems) {
		return false
	}
	if n.items != nil {
		for i := range array.Len() {
			if !n.items.accepts(c, array.At(i)) {
				return false
			}
		}
	}
	return true
}

func (n *node) acceptsArray(c *checking, items []any) bool {
	if !within(len(items), n.minItems, n.maxItems) {
		return false
	}
	if n.items != nil {
		for _, item := range items {
			if !n.items.accepts(c, item) {
				return false
			}
		}
	}
	return true
}

func (n *node) acceptsNumber(c *checking, number json.Number) bool {
	if n.integer && !isInteger(c, number) {
		return false
	}
	if n.minimum == nil {
		return true
	}
	if !judgeable(number) {
		c.undecided = true
		return false
	}
	return rational(number).Cmp(n.minimum) >= 0
}

func (n *node) acceptsText(text string) bool {
	if n.enum != nil && !slices.Contains(n.enum, text) {
		return false
	}
	if n.minLength != -1 || n.maxLength != -1 {
		if !within(utf8.RuneCountInString(text), n.minLength, n.maxLength) {
			return false
		}
	}
	return n.pattern == nil || n.pattern.MatchString(text)
}

// within reports whether a size is within limits; -1 means no limit.
func within(size, least, most int) bool { return size >= least && (most == -1 || size <= most) }

func (n *node) acceptsOneOf(c *checking, value any) bool {
	accepted := 0
	for _, alternative := range n.oneOf {
		if alternative.accepts(c, value) {
			accepted++
		}
	}
	return accepted == 1
}

func isInteger(c *checking, number json.Number) bool {
	if plainInteger(number) {
		return true
	}
	if !judgeable(number) {
		c.undecided = true
		return false
	}
	return rational(number).IsInt()
}
