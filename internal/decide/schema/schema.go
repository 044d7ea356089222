// Package schema checks JSON documents against a JSON Schema of draft 2020-12 and lists everything that is wrong with
// them.
//
// It wraps github.com/santhosh-tekuri/jsonschema/v5, which decides what is valid, and why not. A faster check that only
// accepts or refuses runs first: most requests are valid and need no list. See [Schema.Validate].
//
// It loads nothing: a schema is complete, and a reference to a file or a URL is an error when the schema is compiled.
// It does not parse documents, and puts no value of a document into a message.
package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/usher-dps/usher/dps"
)

// Draft is the only dialect that is accepted. Older ones differ in the meaning of $ref, items and format, and the fast
// check implements one.
const Draft = "https://json-schema.org/draft/2020-12/schema"

// A Schema is a compiled JSON Schema. It is immutable and safe for concurrent use.
type Schema struct {
	library *jsonschema.Schema
	nodes   map[string]*jsonschema.Schema // by Location, for messages
	fast    *node
	sample  int // how many items of an array are checked to list what is wrong with it
}

// An InvalidError lists why a schema cannot be compiled. The pointers of its violations lead into the schema.
type InvalidError struct {
	Name       string // of the schema
	Violations []Violation
}

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		lines[i] = v.String()
	}
	return fmt.Sprintf("schema %s: %s", e.Name, strings.Join(lines, "; "))
}

// Compile compiles the JSON Schema in source, a JSON object that names draft 2020-12 as its $schema.
//
// It returns an *InvalidError if source is not one JSON document, is not a valid schema, has another draft or none, or refers
// to a schema outside itself. The keyword format is an annotation and asserts nothing, as the draft says.
func Compile(name string, source []byte) (*Schema, error) {
	invalid := func(list ...Violation) (*Schema, error) { return nil, &InvalidError{name, list} }
	fail := func(err error) (*Schema, error) { return invalid(Violation{Message: err.Error()}) }

	doc, err := decode(source)
	if err != nil {
		return fail(err)
	}
	// The library reads the schema's own numbers as well: see unjudgeable.
	if bad := unjudgeable(doc); len(bad) > 0 {
		return invalid(bad[0])
	}
	// The draft is required: without it the library asserts formats, contrary to the draft and to the fast check.
	if root, ok := doc.(map[string]any); !ok || root["$schema"] != Draft {
		return fail(fmt.Errorf("want a JSON object with the property \"$schema\": %q", Draft))
	}

	compiler := jsonschema.NewCompiler()
	compiler.Draft = jsonschema.Draft2020
	compiler.ExtractAnnotations = true // titles name the alternatives of oneOf and anyOf
	compiler.LoadURL = func(u string) (io.ReadCloser, error) {
		return nil, outside(u)
	}
	// An absolute URL, because the library takes anything else as a file path.
	address := "schema:///" + url.PathEscape(name)
	if err := compiler.AddResource(address, bytes.NewReader(source)); err != nil {
		return fail(err)
	}
	library, err := compiler.Compile(address)
	if err != nil {
		return invalid(explain(err)...)
	}

	s := &Schema{library: library, nodes: map[string]*jsonschema.Schema{}}
	collect(library, s.nodes)
	// The library knows the drafts' own schemas without loading them. They assert formats, and the older ones have
	// another dialect.
	document, _, _ := strings.Cut(library.Location, "#")
	for location := range s.nodes {
		if !strings.HasPrefix(location, document+"#") {
			return fail(outside(location))
		}
	}
	s.fast = newNode(library, s.nodes)
	s.sample = minSample
	for _, n := range s.nodes {
		// One item more than a limit, so that a broken limit is noticed.
		s.sample = max(s.sample, n.MinItems, n.MaxItems+1, n.MinContains, n.MaxContains+1)
	}
	return s, nil
}

func outside(location string) error {
	return fmt.Errorf("%q is outside the schema: only references within it are followed", location)
}

// explain describes an error of the library's compiler. If the schema violates the draft's schema, it names the places.
func explain(err error) []Violation {
	if failed, ok := errors.AsType[*jsonschema.SchemaError](err); ok {
		err = failed.Err // without the library's name for the schema
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []Violation{{Message: err.Error()}}
	}
	var list []Violation
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			list = append(list, Violation{Pointer: unescape(e.InstanceLocation), Message: e.Message})
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(invalid)
	return limit(list)
}

// Validate checks doc and returns all its violations, or none if it is valid.
//
// doc is a [dps.Value], or consists of map[string]any, []any, string, [json.Number], bool and nil, as encoding/json
// decodes it with UseNumber. It is only read. The caller bounds its size and depth.
//
// The violations are the innermost ones, sorted by pointer, each listed once. At most 100 are listed; a last one then
// says how many more there are at least. Later items of an array with more than about a thousand are listed only if
// nothing else is wrong.
//
// A number of more than 100 characters or with an exponent beyond 999 is refused where the schema depends on its value,
// because arithmetic with it costs more than the rest of the check; so is a Go type that is not listed above. If a
// refused document contains such values, only they are listed.
//
// A valid document costs a few microseconds and no allocation if the schema has only keywords that the fast check
// knows. A refused one costs the library's full check.
func (s *Schema) Validate(doc any) []Violation {
	var c checking
	if s.fast.accepts(&c, doc) && !c.undecided {
		return nil
	}
	doc = plain(doc)
	if bad := unjudgeable(doc); len(bad) > 0 {
		return limit(bad)
	}
	if !c.undecided {
		// The document is refused. With an array of 100,000 wrong items the library would build as many errors, at 1.3
		// KB and 5 µs each.
		if shorter, cut := s.sampled(doc); cut {
			if list := s.violations(shorter, doc); len(list) > 0 {
				return list
			}
		}
	}
	// The library decides, here and if the two disagree. No such document is known: FuzzFastAgreesWithLibrary looks for
	// one.
	return s.violations(doc, doc)
}

// plain is a value in the form that the library knows.
func plain(value any) any {
	if parsed, ok := value.(*dps.Value); ok {
		return parsed.Interface()
	}
	return value
}

// violations lets the library check doc, and describes what it finds; whole is the document that doc is a part of, or
// doc.
func (s *Schema) violations(doc, whole any) []Violation {
	err := s.library.Validate(doc)
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		// Not a fault of the document: the schema refers to itself endlessly.
		return []Violation{{Message: "cannot be checked: the schema refers to itself endlessly", SchemaLocation: "#"}}
	}
	return limit(s.flatten(nil, invalid, whole))
}

// minSample is how many items of an array are checked at least to list violations: ten times what is listed.
const minSample = 10 * maxViolations

// sampled returns value without the items beyond s.sample in any array, and whether there were any. It copies what it
// changes.
func (s *Schema) sampled(value any) (shorter any, cut bool) {
	switch value := value.(type) {
	case map[string]any:
		var copied map[string]any
		for name, member := range value {
			if member, cut := s.sampled(member); cut {
				if copied == nil {
					copied = maps.Clone(value)
				}
				copied[name] = member
			}
		}
		if copied != nil {
			return copied, true
		}
	case []any:
		items := value[:min(len(value), s.sample)]
		var copied []any
		for i, item := range items {
			if item, cut := s.sampled(item); cut {
				if copied == nil {
					copied = slices.Clone(items)
				}
				copied[i] = item
			}
		}
		if copied != nil {
			return copied, true
		}
		return items, len(items) < len(value)
	}
	return value, false
}

func decode(source []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(source))
	decoder.UseNumber()
	var doc any
	if err := decoder.Decode(&doc); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line := 1 + bytes.Count(source[:min(int(syntax.Offset), len(source))], []byte("\n"))
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON document")
	}
	return doc, nil
}
