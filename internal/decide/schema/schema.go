// Package schema checks JSON documents against a JSON Schema of draft 2020-12
// and lists all that is wrong with them.
//
// It wraps github.com/santhosh-tekuri/jsonschema/v5, which decides what is valid
// and why not. In front of it stands a faster check that only accepts or
// refuses: most requests are valid, and need no list. See [Schema.Validate].
//
// It loads nothing: a schema is complete in itself, and a reference to a file
// or a URL is an error when the schema is compiled. It does not parse documents
// and puts no value of a document into a message.
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
)

// draftURL is the only dialect that is compiled. The fast check imitates one
// dialect; the older ones differ in the meaning of $ref, items and format.
const draftURL = "https://json-schema.org/draft/2020-12/schema"

// A Schema is a compiled JSON Schema. It is immutable and safe for use by
// several goroutines at once.
type Schema struct {
	library *jsonschema.Schema
	nodes   map[string]*jsonschema.Schema // by Location, for messages
	fast    *node
	sample  int // how many items of an array are enough to list what is wrong with it
}

// Compile compiles the JSON Schema in source, a JSON object that names draft
// 2020-12 as its $schema. The name stands in errors.
//
// It returns an error when source is not one JSON document, is not a valid
// schema, is of another draft or of none, or refers to a schema outside itself.
// The keyword format is an annotation and asserts nothing, as the draft has it.
func Compile(name string, source []byte) (*Schema, error) {
	fail := func(err error) (*Schema, error) { return nil, fmt.Errorf("schema %s: %w", name, err) }

	doc, err := decode(source)
	if err != nil {
		return fail(err)
	}
	// The library reads the schema's own numbers too: see unjudgeable.
	if bad := unjudgeable(doc); len(bad) > 0 {
		return fail(errors.New(bad[0].String()))
	}
	// The draft must be said: without it the library asserts formats, against
	// the draft, and the fast check does not.
	if root, ok := doc.(map[string]any); !ok || root["$schema"] != draftURL {
		return fail(fmt.Errorf("want a JSON object with the property \"$schema\": %q", draftURL))
	}

	compiler := jsonschema.NewCompiler()
	compiler.Draft = jsonschema.Draft2020
	compiler.ExtractAnnotations = true // titles name the alternatives of oneOf and anyOf
	compiler.LoadURL = func(u string) (io.ReadCloser, error) {
		return nil, outside(u)
	}
	// An absolute URL, because the library makes a file path of anything else.
	address := "schema:///" + url.PathEscape(name)
	if err := compiler.AddResource(address, bytes.NewReader(source)); err != nil {
		return fail(err)
	}
	library, err := compiler.Compile(address)
	if err != nil {
		return fail(explain(err))
	}

	s := &Schema{library: library, nodes: map[string]*jsonschema.Schema{}}
	collect(library, s.nodes)
	// The library knows the drafts' own schemas without loading them. They
	// assert formats, and the older ones are of another dialect.
	document, _, _ := strings.Cut(library.Location, "#")
	for location := range s.nodes {
		if !strings.HasPrefix(location, document+"#") {
			return fail(outside(location))
		}
	}
	s.fast = newNode(library, s.nodes)
	s.sample = minSample
	for _, n := range s.nodes {
		// One item more than a limit, so that the limit is seen to be broken.
		s.sample = max(s.sample, n.MinItems, n.MaxItems+1, n.MinContains, n.MaxContains+1)
	}
	return s, nil
}

func outside(location string) error {
	return fmt.Errorf("%q is outside the schema: only references within it are followed", location)
}

// explain words an error of the library's compiler. Where the schema itself
// violates the draft's schema, it names the places.
func explain(err error) error {
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return err
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
	var lines []string
	for _, v := range limit(list) {
		lines = append(lines, v.String())
	}
	return errors.New(strings.Join(lines, "; "))
}

// Validate checks doc and returns all its violations, or none when it is valid.
//
// doc is built of map[string]any, []any, string, [json.Number], bool and nil,
// as encoding/json decodes it with UseNumber. It is only read. Whoever decoded
// it has bounded its size and depth.
//
// The violations are the innermost ones, sorted by pointer, each given once. At
// most 100 are listed; a last one then says how many more there are at least.
// Of an array with more than about a thousand items the later ones are not
// listed, unless nothing else is wrong.
//
// A number of more than 100 characters or with an exponent beyond 999 is
// refused where the schema asks about its value, because the arithmetic on it
// costs more than the rest of the check; so is a Go type that is not named
// above. A refused document with such values is told of them alone.
//
// A valid document costs a few microseconds and no allocation, as long as the
// schema keeps to keywords that the fast check knows; a refused one costs the
// library's full check.
func (s *Schema) Validate(doc any) []Violation {
	var c checking
	if s.fast.accepts(&c, doc) && !c.undecided {
		return nil
	}
	if bad := unjudgeable(doc); len(bad) > 0 {
		return limit(bad)
	}
	if !c.undecided {
		// The verdict stands. An array of 100,000 wrong items would make the
		// library build as many errors, at 1.3 KB and 5 µs each.
		if shorter, cut := s.sampled(doc); cut {
			if list := s.violations(shorter, doc); len(list) > 0 {
				return list
			}
		}
	}
	// The library has the last word, here and where the two disagree. No such
	// document is known: FuzzFastAgreesWithLibrary looks for one.
	return s.violations(doc, doc)
}

// violations has the library check doc and words what it finds; whole is the
// document that doc is cut from, or doc.
func (s *Schema) violations(doc, whole any) []Violation {
	err := s.library.Validate(doc)
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		// Not about the document: a schema that refers to itself without end.
		return []Violation{{Message: "cannot be checked: the schema does not end", SchemaLocation: "#"}}
	}
	return limit(s.flatten(nil, invalid, whole))
}

// minSample is the least number of items that are looked at in an array whose
// violations are listed: ten times what is listed.
const minSample = 10 * maxViolations

// sampled returns value without the items that exceed s.sample in any array,
// and whether there were any. It copies what it changes.
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
