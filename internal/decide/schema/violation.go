package schema

import (
	"cmp"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v5"
)

const (
	// maxViolations bounds the list: no one fixes a request that is wrong in a hundred places by reading the next
	// thousand.
	maxViolations = 100
	// maxPointerLength and maxMessageLength, in bytes, bound what a violation brings into logs and answers. Pointers
	// contain property names of the document, and its author chooses how long they are. 100 violations at these bounds
	// are 77 KB.
	maxPointerLength = 256
	maxMessageLength = 512
)

// A Violation is one reason why a document is not valid.
type Violation struct {
	// Pointer is the JSON pointer (RFC 6901) of the value that is wrong, "" for the whole document. For a missing
	// property it is the object that lacks it; for a property that is not allowed, or whose name is not, it is that
	// property. A pointer of more than 256 bytes is cut off and ends in "…".
	Pointer string
	// Message describes what is wrong in terms of types, property names and the schema's limits. It never contains a
	// value of the document.
	Message string
	// Keyword is the schema keyword that is violated, for example "required". It is "" for a number out of bounds, for
	// a schema that is false, and for the note that more violations were left out.
	Keyword string
	// SchemaLocation is the place in the schema as a URI fragment, for example "#/properties/linkedHubs/minItems". It
	// is "" for a number out of bounds and for the note that more violations were left out.
	SchemaLocation string
}

// String returns the pointer and the message, for example "/linkedHubs: expected array, but got string".
func (v Violation) String() string {
	if v.Pointer == "" {
		return v.Message
	}
	return v.Pointer + ": " + v.Message
}

// flatten appends to list the innermost violations in the library's tree e.
func (s *Schema) flatten(list []Violation, e *jsonschema.ValidationError, doc any) []Violation {
	n, keyword := s.place(e.AbsoluteKeywordLocation)
	_, fragment, _ := strings.Cut(e.AbsoluteKeywordLocation, "#")
	at := Violation{Pointer: unescape(e.InstanceLocation), Keyword: keyword, SchemaLocation: "#" + fragment}
	add := func(pointer, message string) {
		v := at
		v.Pointer, v.Message = pointer, message
		list = append(list, v)
	}

	switch keyword {
	case "anyOf", "oneOf":
		add(at.Pointer, alternatives(n, keyword, len(e.Causes) == 0))
		// What an alternative misses is a reason against that alternative, not against the document, unless it lies
		// deeper: then it shows which part of the value to look at.
		for _, cause := range e.Causes {
			for _, v := range s.flatten(nil, cause, doc) {
				if v.Pointer != at.Pointer {
					list = append(list, v)
				}
			}
		}
		return list
	case "minContains":
		add(at.Pointer, fmt.Sprintf("too few items match `contains`: want at least %d", n.MinContains))
		return list
	}
	if len(e.Causes) > 0 {
		for _, cause := range e.Causes {
			list = s.flatten(list, cause, doc)
		}
		return list
	}

	switch keyword {
	case "required":
		object, _ := lookup(doc, at.Pointer).(map[string]any)
		for _, name := range n.Required {
			if _, ok := object[name]; !ok {
				add(at.Pointer, "missing property "+strconv.Quote(name))
			}
		}
	case "additionalProperties":
		object, _ := lookup(doc, at.Pointer).(map[string]any)
		for name := range object {
			if !listed(n, name) {
				add(member(at.Pointer, name), "property is not allowed")
			}
		}
	case "minimum":
		add(at.Pointer, "number is too small: want at least "+decimal(n.Minimum))
	case "exclusiveMinimum":
		add(at.Pointer, "number is too small: want more than "+decimal(n.ExclusiveMinimum))
	case "maximum":
		add(at.Pointer, "number is too large: want at most "+decimal(n.Maximum))
	case "exclusiveMaximum":
		add(at.Pointer, "number is too large: want less than "+decimal(n.ExclusiveMaximum))
	case "multipleOf":
		add(at.Pointer, "number is not a multiple of "+decimal(n.MultipleOf))
	case "maxItems":
		items, _ := lookup(doc, at.Pointer).([]any)
		add(at.Pointer, fmt.Sprintf("maximum %d items allowed, but found %d items", n.MaxItems, len(items)))
	case "not":
		add(at.Pointer, "value is one that the schema excludes")
	case "":
		add(at.Pointer, "nothing is allowed here")
	case "type", "enum", "const", "pattern", "minLength", "maxLength",
		"minItems", "uniqueItems", "maxContains",
		"minProperties", "maxProperties", "dependentRequired", "dependencies":
		// The library's message for these contains types, counts and what the schema says, but nothing of the document.
		add(at.Pointer, e.Message)
	default:
		add(at.Pointer, "violates "+keyword)
	}
	return list
}

// place finds the schema and the keyword of an absolute keyword location. The keyword is "" if the schema is false.
func (s *Schema) place(location string) (n *jsonschema.Schema, keyword string) {
	if n, ok := s.nodes[location]; ok && n.Always != nil && !*n.Always {
		return n, ""
	}
	for parent := location; ; {
		cut := strings.LastIndexByte(parent, '/')
		if cut < 0 || !strings.Contains(parent[:cut], "#") {
			return s.library, ""
		}
		parent = parent[:cut]
		if n, ok := s.nodes[parent]; ok {
			keyword, _, _ = strings.Cut(location[len(parent)+1:], "/")
			return n, keyword
		}
	}
}

// alternatives describes the failure of anyOf, or of oneOf if none or several of the alternatives hold.
func alternatives(n *jsonschema.Schema, keyword string, several bool) string {
	schemas, want := n.AnyOf, "at least one of "
	if keyword == "oneOf" {
		schemas, want = n.OneOf, "exactly one of "
	}
	names := make([]string, len(schemas))
	for i, alternative := range schemas {
		names[i] = "alternative " + strconv.Itoa(i+1)
		if alternative.Title != "" {
			names[i] = alternative.Title
		}
	}
	message := "want " + want + strings.Join(names, ", ")
	if several {
		return message + "; got more than one"
	}
	return message + "; got none"
}

// listed reports whether additionalProperties does not apply to the property.
func listed(n *jsonschema.Schema, name string) bool {
	if _, ok := n.Properties[name]; ok {
		return true
	}
	for pattern := range n.PatternProperties {
		if pattern.MatchString(name) {
			return true
		}
	}
	return false
}

// limit sorts the violations, removes repetitions, and bounds the list and its texts.
func limit(list []Violation) []Violation {
	slices.SortFunc(list, func(a, b Violation) int {
		return cmp.Or(
			cmp.Compare(a.Pointer, b.Pointer),
			cmp.Compare(a.Message, b.Message),
			cmp.Compare(a.SchemaLocation, b.SchemaLocation),
		)
	})
	// The same fault found by two branches of the schema counts once.
	list = slices.CompactFunc(list, func(a, b Violation) bool {
		return a.Pointer == b.Pointer && a.Message == b.Message
	})
	if more := len(list) - maxViolations; more > 0 {
		list = append(list[:maxViolations:maxViolations], Violation{Message: fmt.Sprintf("and at least %d more violations", more)})
	}
	for i := range list {
		list[i].Pointer = shorten(list[i].Pointer, maxPointerLength)
		list[i].Message = shorten(list[i].Message, maxMessageLength)
	}
	return list
}

// shorten cuts off text after at most length bytes, at the end of a character.
func shorten(text string, length int) string {
	const mark = "…"
	if len(text) <= length {
		return text
	}
	cut := length - len(mark)
	for cut > 0 && text[cut]&0xC0 == 0x80 { // inside a UTF-8 sequence
		cut--
	}
	return text[:cut] + mark
}

// decimal writes a bound of the schema.
func decimal(bound *big.Rat) string {
	value, _ := bound.Float64()
	return strconv.FormatFloat(value, 'g', -1, 64)
}

// member is the JSON pointer of a property.
func member(pointer, name string) string { return string(jsontext.Pointer(pointer).AppendToken(name)) }

// unescape turns the library's instance location, a JSON pointer in the form of a URI fragment, into a plain JSON
// pointer.
func unescape(location string) string {
	if pointer, err := url.PathUnescape(location); err == nil {
		return pointer
	}
	return location
}

// lookup returns the value at pointer in doc; nil if there is none.
func lookup(doc any, pointer string) any {
	for token := range jsontext.Pointer(pointer).Tokens() {
		switch value := doc.(type) {
		case map[string]any:
			doc = value[token]
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(value) {
				return nil
			}
			doc = value[i]
		default:
			return nil
		}
	}
	return doc
}

// unjudgeable returns a violation for every number that the library must not see and for every Go value that is not
// JSON. The library converts numbers to fractions: 1e999999 takes 38 ms, and at 1e1000001, which math/big refuses to
// convert, it panics.
func unjudgeable(doc any) []Violation {
	var list []Violation
	(*place)(nil).walk(doc, func(at *place, value any) {
		switch value.(type) {
		case nil, bool, string:
			return
		}
		if message := unjudgeableLeaf(value); message != "" {
			list = append(list, Violation{Pointer: at.pointer(), Message: message})
		}
	})
	return list
}
