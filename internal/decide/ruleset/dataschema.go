package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/util"
	"go.yaml.in/yaml/v3"

	"github.com/usher-dps/usher/internal/decide/schema"
)

// maxSaid bounds what a problem quotes of a schema, in bytes: an enum can have any length.
const maxSaid = 200

// checkSchemas checks each data file by the schema in its folder. All files have been read as JSON or YAML before.
func (rs *Ruleset) checkSchemas(data, schemas []file) []Problem {
	var problems []Problem
	for _, s := range schemas {
		compiled, err := schema.Compile(s.path, s.text)
		if invalid, ok := errors.AsType[*schema.InvalidError](err); ok {
			problems = append(problems, rs.invalidSchema(s, invalid)...)
			continue
		}
		described := 0
		for _, f := range data {
			if path.Dir(f.path) == path.Dir(s.path) {
				described++
				problems = append(problems, rs.violations(f, s, compiled)...)
			}
		}
		if described == 0 {
			problems = append(problems, Problem{Place: rs.place(s), Message: "there is no data for this schema",
				Fix: "put data.json or data.yaml into the same folder, or remove the schema"})
		}
	}
	return problems
}

func (rs *Ruleset) place(f file) string { return path.Join(rs.options.Name, f.path) }

// invalidSchema is why a schema cannot be used.
func (rs *Ruleset) invalidSchema(s file, invalid *schema.InvalidError) []Problem {
	pointers := make([]string, len(invalid.Violations))
	for i, v := range invalid.Violations {
		pointers[i] = v.Pointer
	}
	places := placesIn(s, pointers)
	problems := make([]Problem, len(pointers))
	for i, v := range invalid.Violations {
		problems[i] = Problem{Place: rs.place(s) + places[v.Pointer], Message: "not a usable JSON Schema: " + v.String()}
	}
	return problems
}

// violations is where a data file differs from its schema, and what the schema says.
func (rs *Ruleset) violations(f, s file, compiled *schema.Schema) []Problem {
	var document any
	if err := util.Unmarshal(f.text, &document); err != nil { // as OPA reads it
		return []Problem{{Place: rs.place(f), Message: err.Error()}}
	}
	violations := compiled.Validate(document)
	pointers, said := make([]string, len(violations)), make([]string, len(violations))
	for i, v := range violations {
		pointers[i] = v.Pointer
		fragment := strings.TrimPrefix(v.SchemaLocation, "#")
		if unescaped, err := url.PathUnescape(fragment); err == nil {
			fragment = unescaped
		}
		said[i] = fragment
	}
	places := placesIn(f, pointers)
	keywords := offsets(s.text, said)
	problems := make([]Problem, len(violations))
	for i, v := range violations {
		problems[i] = Problem{Place: rs.place(f) + places[v.Pointer], Message: v.String()}
		if at, ok := keywords[said[i]]; ok && said[i] != "" {
			problems[i].Fix = fmt.Sprintf("%s says %q: %s", rs.place(s)+lineAndColumn(s.text[:at]),
				jsontext.Pointer(said[i]).LastToken(), valueFrom(s.text[at:]))
		}
	}
	return problems
}

// placesIn returns the places of values in a file, such as ":2:7", by their JSON pointers.
func placesIn(f file, pointers []string) map[string]string {
	places := map[string]string{}
	if path.Ext(f.path) == ".json" {
		for pointer, at := range offsets(f.text, pointers) {
			places[pointer] = lineAndColumn(f.text[:at])
		}
		return places
	}
	var root yaml.Node
	if err := yaml.Unmarshal(f.text, &root); err != nil || len(root.Content) == 0 {
		return places // an empty file
	}
	for _, pointer := range pointers {
		node := nodeAt(root.Content[0], jsontext.Pointer(pointer))
		places[pointer] = fmt.Sprintf(":%d:%d", node.Line, node.Column)
	}
	return places
}

// nodeAt finds a value in YAML; if it comes from a merge (<<), the object that it was merged into.
func nodeAt(node *yaml.Node, pointer jsontext.Pointer) *yaml.Node {
	for token := range pointer.Tokens() {
		around := node
		if around.Alias != nil {
			around = around.Alias
		}
		below := childOf(around, token)
		if below == nil {
			return node
		}
		node = below
	}
	return node
}

func childOf(node *yaml.Node, token string) *yaml.Node {
	if node.Kind == yaml.SequenceNode {
		if i, err := strconv.Atoi(token); err == nil && i < len(node.Content) {
			return node.Content[i]
		}
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 { // names and values by turns
		if node.Content[i].Value == token {
			return node.Content[i+1]
		}
	}
	return nil
}

// offsets finds values in JSON by their JSON pointers, in one pass because data can be large. The text is JSON, without
// two members of the same name.
func offsets(text []byte, pointers []string) map[string]int {
	wanted := map[string]bool{}
	for _, pointer := range pointers {
		wanted[pointer] = true
	}
	found := map[string]int{}
	decoder := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		kind := decoder.PeekKind()
		var scalar jsontext.Value
		var err error
		switch kind {
		case jsontext.KindBeginObject, jsontext.KindEndObject, jsontext.KindBeginArray, jsontext.KindEndArray:
			_, err = decoder.ReadToken()
		default:
			scalar, err = decoder.ReadValue()
		}
		if err != nil {
			return found // at the end of the text
		}
		pointer := string(decoder.StackPointer())
		if wanted[pointer] && kind != jsontext.KindEndObject && kind != jsontext.KindEndArray {
			found[pointer] = int(decoder.InputOffset()) - max(len(scalar), 1) // that of a name is replaced by its value's
		}
	}
}

// valueFrom is the value at the start of a text, on one line.
func valueFrom(text []byte) string {
	value, err := jsontext.NewDecoder(bytes.NewReader(text)).ReadValue()
	if err != nil {
		return ""
	}
	value = value.Clone()
	if err := value.Format(jsontext.SpaceAfterColon(true), jsontext.SpaceAfterComma(true)); err != nil {
		return ""
	}
	if len(value) > maxSaid {
		return strings.ToValidUTF8(string(value[:maxSaid]), "") + "…"
	}
	return string(value)
}
