package schema

import (
	"encoding/json"
	"math/big"
	"regexp"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v5"
)

// A node is a compiled schema that can only accept or refuse. It means what the
// library's schema means, without the bookkeeping that error lists need.
type node struct {
	// library, where it is not nil, decides in place of all else: the schema
	// uses a keyword that is not known here.
	library *jsonschema.Schema

	never   bool // the schema is false
	open    bool // the schema asks nothing
	alias   bool // the schema asks nothing but what ref asks
	inPlace bool // there are ref, not, allOf, anyOf, oneOf or when

	types   kinds // 0: any
	integer bool  // types asks for an integer and not for any number

	enums []any // nil: any value; const is an enum of one
	konst []any

	object *objectRules
	array  *arrayRules
	text   *textRules
	number *numberRules

	ref   *node
	not   *node
	allOf []*node
	anyOf []*node
	oneOf []*node
	when  *conditional
}

type objectRules struct {
	min, max      int // -1: none
	required      []string
	properties    []property
	patterns      []patternProperty
	names         *node
	closed        bool  // additionalProperties: false
	additional    *node // additionalProperties: a schema
	known         map[string]struct{}
	dependents    map[string][]string
	dependentSubs []property
}

type property struct {
	name string
	node *node
}

type patternProperty struct {
	pattern *regexp.Regexp
	node    *node
}

type arrayRules struct {
	min, max                 int // -1: none
	unique                   bool
	prefix                   []*node
	items                    *node
	contains                 *node
	minContains, maxContains int // -1: none
}

type textRules struct {
	min, max int // in characters; -1: none
	pattern  *regexp.Regexp
}

type numberRules struct {
	min, max, above, below, multiple *big.Rat
}

type conditional struct {
	condition, then, otherwise *node // then and otherwise may be nil
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

// checking is the state of one run over one document.
type checking struct {
	// undecided is set when a value was met that cannot be judged. The run is
	// then void, whatever its result: under `not` a refusal would accept.
	undecided bool
}

// children returns the schemas that s is made of.
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

// collect adds s and all schemas that it is made of to nodes, by location.
func collect(s *jsonschema.Schema, nodes map[string]*jsonschema.Schema) {
	if s == nil || nodes[s.Location] != nil {
		return
	}
	nodes[s.Location] = s
	for _, child := range children(s) {
		collect(child, nodes)
	}
}

// newNode compiles root; nodes are all schemas that it is made of.
func newNode(root *jsonschema.Schema, nodes map[string]*jsonschema.Schema) *node {
	for _, s := range nodes {
		if s.DynamicRef != nil || s.RecursiveRef != nil {
			// What these refer to depends on the path from the root.
			return &node{library: root}
		}
	}
	c := compilation{done: map[*jsonschema.Schema]*node{}}
	return c.node(root)
}

type compilation struct {
	done map[*jsonschema.Schema]*node // also the unfinished, where schemas are recursive
}

func (c *compilation) node(s *jsonschema.Schema) *node {
	if s == nil {
		return nil
	}
	if n, ok := c.done[s]; ok {
		return n
	}
	n := &node{}
	c.done[s] = n
	c.fill(n, s)
	return n
}

func (c *compilation) fill(n *node, s *jsonschema.Schema) {
	switch {
	case s.Always != nil:
		n.open, n.never = *s.Always, !*s.Always
		return
	case s.UnevaluatedProperties != nil, s.UnevaluatedItems != nil, // need the bookkeeping
		len(s.Dependencies) > 0, s.RegexProperties, s.Items != nil, s.AdditionalItems != nil, // older drafts'
		len(s.Extensions) > 0:
		n.library = s
		return
	}

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
			if n.types&kindNumber == 0 {
				n.types |= kindNumber
				n.integer = true
			}
		case "string":
			n.types |= kindString
		case "array":
			n.types |= kindArray
		case "object":
			n.types |= kindObject
		}
	}

	n.enums, n.konst = s.Enum, s.Constant
	n.object, n.array = c.object(s), c.array(s)
	if s.MinLength != -1 || s.MaxLength != -1 || s.Pattern != nil {
		n.text = &textRules{min: s.MinLength, max: s.MaxLength, pattern: s.Pattern}
	}
	if s.Minimum != nil || s.Maximum != nil || s.ExclusiveMinimum != nil || s.ExclusiveMaximum != nil || s.MultipleOf != nil {
		n.number = &numberRules{
			min: s.Minimum, max: s.Maximum,
			above: s.ExclusiveMinimum, below: s.ExclusiveMaximum,
			multiple: s.MultipleOf,
		}
	}

	n.ref, n.not = c.node(s.Ref), c.node(s.Not)
	n.allOf, n.anyOf, n.oneOf = c.nodes(s.AllOf), c.nodes(s.AnyOf), c.nodes(s.OneOf)
	if s.If != nil && (s.Then != nil || s.Else != nil) {
		n.when = &conditional{condition: c.node(s.If), then: c.node(s.Then), otherwise: c.node(s.Else)}
	}
	n.inPlace = n.ref != nil || n.not != nil || n.allOf != nil || n.anyOf != nil || n.oneOf != nil || n.when != nil
	asks := n.types != 0 || len(n.enums) > 0 || len(n.konst) > 0 ||
		n.object != nil || n.array != nil || n.text != nil || n.number != nil
	n.open = !asks && !n.inPlace
	n.alias = !asks && n.ref != nil && n.not == nil && n.allOf == nil && n.anyOf == nil && n.oneOf == nil && n.when == nil
}

// target follows schemas that are nothing but a reference to another one. A
// node that is still being compiled stands for itself.
func (n *node) target() *node {
	for n.alias {
		n = n.ref
	}
	return n
}

func (c *compilation) nodes(list []*jsonschema.Schema) []*node {
	var nodes []*node
	for _, s := range list {
		nodes = append(nodes, c.node(s))
	}
	return nodes
}

func (c *compilation) object(s *jsonschema.Schema) *objectRules {
	r := &objectRules{min: s.MinProperties, max: s.MaxProperties, required: s.Required, dependents: s.DependentRequired}
	asks := r.min != -1 || r.max != -1 || len(r.required) > 0 || len(r.dependents) > 0
	for name, child := range s.Properties {
		if n := c.node(child).target(); !n.open {
			r.properties = append(r.properties, property{name, n})
			asks = true
		}
	}
	for pattern, child := range s.PatternProperties {
		r.patterns = append(r.patterns, patternProperty{pattern, c.node(child)})
		asks = true
	}
	for name, child := range s.DependentSchemas {
		r.dependentSubs = append(r.dependentSubs, property{name, c.node(child)})
		asks = true
	}
	if r.names = c.node(s.PropertyNames); r.names != nil {
		asks = true
	}
	switch additional := s.AdditionalProperties.(type) {
	case bool:
		r.closed = !additional
	case *jsonschema.Schema:
		if n := c.node(additional); !n.open {
			r.additional = n
		}
	}
	if r.closed || r.additional != nil {
		asks = true
		r.known = make(map[string]struct{}, len(s.Properties))
		for name := range s.Properties {
			r.known[name] = struct{}{}
		}
	}
	if !asks {
		return nil
	}
	return r
}

func (c *compilation) array(s *jsonschema.Schema) *arrayRules {
	r := &arrayRules{
		min: s.MinItems, max: s.MaxItems, unique: s.UniqueItems,
		prefix: c.nodes(s.PrefixItems), items: c.node(s.Items2020),
		contains: c.node(s.Contains), minContains: s.MinContains, maxContains: s.MaxContains,
	}
	if r.min == -1 && r.max == -1 && !r.unique && r.prefix == nil && r.items == nil && r.contains == nil {
		return nil
	}
	return r
}

// accepts reports whether value is valid.
func (n *node) accepts(c *checking, value any) bool {
	if n.open {
		return true
	}
	if n.never {
		return false
	}
	if n.library != nil {
		if len(unjudgeable(value)) > 0 {
			c.undecided = true
			return false
		}
		return n.library.Validate(value) == nil
	}
	return n.acceptsValue(c, value) &&
		(len(n.konst) == 0 || equal(c, value, n.konst[0])) &&
		(len(n.enums) == 0 || contains(c, n.enums, value)) &&
		(!n.inPlace || n.acceptsInPlace(c, value))
}

// acceptsValue checks the keywords that each look at one type of value.
func (n *node) acceptsValue(c *checking, value any) bool {
	switch value := value.(type) {
	case map[string]any:
		return n.allows(kindObject) && (n.object == nil || n.object.accept(c, value))
	case []any:
		return n.allows(kindArray) && (n.array == nil || n.array.accept(c, value))
	case string:
		return n.allows(kindString) && (n.text == nil || n.text.accept(value))
	case json.Number:
		return n.allows(kindNumber) &&
			(!n.integer || isInteger(c, value)) &&
			(n.number == nil || n.number.accept(c, value))
	case bool:
		return n.allows(kindBoolean)
	case nil:
		return n.allows(kindNull)
	default:
		c.undecided = true
		return false
	}
}

func (n *node) allows(kind kinds) bool { return n.types == 0 || n.types&kind != 0 }

func contains(c *checking, list []any, value any) bool {
	for _, one := range list {
		if equal(c, value, one) {
			return true
		}
	}
	return false
}

// acceptsInPlace checks the keywords that put further schemas on the same value.
func (n *node) acceptsInPlace(c *checking, value any) bool {
	if n.ref != nil && !n.ref.accepts(c, value) {
		return false
	}
	if n.not != nil && n.not.accepts(c, value) {
		return false
	}
	for _, sub := range n.allOf {
		if !sub.accepts(c, value) {
			return false
		}
	}
	if n.anyOf != nil && count(c, n.anyOf, value, 1) < 1 {
		return false
	}
	if n.oneOf != nil && count(c, n.oneOf, value, 2) != 1 {
		return false
	}
	if n.when == nil {
		return true
	}
	branch := n.when.otherwise
	if n.when.condition.accepts(c, value) {
		branch = n.when.then
	}
	return branch == nil || branch.accepts(c, value)
}

// count returns how many of the nodes accept the value; it stops at enough.
func count(c *checking, nodes []*node, value any, enough int) int {
	accepted := 0
	for _, sub := range nodes {
		if sub.accepts(c, value) {
			if accepted++; accepted == enough {
				break
			}
		}
	}
	return accepted
}

func (r *objectRules) accept(c *checking, object map[string]any) bool {
	if (r.min != -1 && len(object) < r.min) || (r.max != -1 && len(object) > r.max) {
		return false
	}
	for _, name := range r.required {
		if _, ok := object[name]; !ok {
			return false
		}
	}
	for i := range r.properties {
		p := &r.properties[i]
		if value, ok := object[p.name]; ok && !p.node.accepts(c, value) {
			return false
		}
	}
	for name, others := range r.dependents {
		if _, ok := object[name]; !ok {
			continue
		}
		for _, other := range others {
			if _, ok := object[other]; !ok {
				return false
			}
		}
	}
	for _, p := range r.dependentSubs {
		if _, ok := object[p.name]; ok && !p.node.accepts(c, object) {
			return false
		}
	}
	if r.patterns == nil && r.names == nil && r.known == nil {
		return true
	}
	for name, value := range object {
		if !r.acceptMember(c, name, value) {
			return false
		}
	}
	return true
}

// acceptMember checks the keywords that look at every member of an object.
func (r *objectRules) acceptMember(c *checking, name string, value any) bool {
	if r.names != nil && !r.names.accepts(c, name) {
		return false
	}
	matched := false
	for _, p := range r.patterns {
		if !p.pattern.MatchString(name) {
			continue
		}
		matched = true
		if !p.node.accepts(c, value) {
			return false
		}
	}
	if r.known == nil || matched {
		return true
	}
	if _, ok := r.known[name]; ok {
		return true
	}
	return !r.closed && r.additional.accepts(c, value)
}

func (r *arrayRules) accept(c *checking, items []any) bool {
	if (r.min != -1 && len(items) < r.min) || (r.max != -1 && len(items) > r.max) {
		return false
	}
	matched := 0
	for i, item := range items {
		switch {
		case i < len(r.prefix):
			if !r.prefix[i].accepts(c, item) {
				return false
			}
		case r.items != nil:
			if !r.items.accepts(c, item) {
				return false
			}
		}
		if r.contains != nil && r.contains.accepts(c, item) {
			matched++
		}
	}
	if r.contains != nil && ((r.minContains != -1 && matched < r.minContains) || (r.maxContains != -1 && matched > r.maxContains)) {
		return false
	}
	return !r.unique || unique(c, items)
}

// manyItems is where comparing every pair costs more than the library's hashes.
const manyItems = 20

func unique(c *checking, items []any) bool {
	if len(items) > manyItems {
		c.undecided = true
		return false
	}
	for i := range items {
		for j := range i {
			if equal(c, items[i], items[j]) {
				return false
			}
		}
	}
	return true
}

func (r *textRules) accept(text string) bool {
	if r.min != -1 || r.max != -1 {
		length := utf8.RuneCountInString(text)
		if (r.min != -1 && length < r.min) || (r.max != -1 && length > r.max) {
			return false
		}
	}
	return r.pattern == nil || r.pattern.MatchString(text)
}

func (r *numberRules) accept(c *checking, number json.Number) bool {
	if !judgeable(number) {
		c.undecided = true
		return false
	}
	value := rational(number)
	switch {
	case r.min != nil && value.Cmp(r.min) < 0,
		r.max != nil && value.Cmp(r.max) > 0,
		r.above != nil && value.Cmp(r.above) <= 0,
		r.below != nil && value.Cmp(r.below) >= 0,
		r.multiple != nil && !new(big.Rat).Quo(value, r.multiple).IsInt():
		return false
	}
	return true
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

// equal reports whether a and b are the same JSON value; 1, 1.0 and 10e-1 are.
func equal(c *checking, a, b any) bool {
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		return ok && a == b
	case bool:
		b, ok := b.(bool)
		return ok && a == b
	case nil:
		return b == nil
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false
		}
		if !judgeable(a) || !judgeable(b) {
			c.undecided = true
			return false
		}
		return a == b || rational(a).Cmp(rational(b)) == 0
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(c, a[i], b[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, value := range a {
			other, ok := b[name]
			if !ok || !equal(c, value, other) {
				return false
			}
		}
		return true
	default:
		c.undecided = true
		return false
	}
}
