package configfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxDepth is far above what a configuration or a twin needs.
const maxDepth = 64

// reader walks a YAML document, and collects what is wrong with it.
type reader struct {
	name     string // of the file
	problems []error
}

func (r *reader) wrong(node *yaml.Node, path, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s: %s", r.place(node, path), fmt.Sprintf(format, args...)))
}

// place says where a node is.
func (r *reader) place(node *yaml.Node, path string) string {
	if path == "" {
		path = "(root)"
	}
	return fmt.Sprintf("%s:%d: %s", r.name, max(node.Line, 1), path)
}

// fields are what a mapping may hold: how to read each.
type fields map[string]func(node *yaml.Node, path string)

// mapping reads a mapping; a null is an empty one.
func (r *reader) mapping(node *yaml.Node, path string, known fields) {
	r.each(node, path, func(key, value *yaml.Node) {
		read, ok := known[key.Value]
		if !ok {
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			r.wrong(key, below(path, key.Value), "there is no such field; here can be %s", strings.Join(names, ", "))
			return
		}
		read(value, below(path, key.Value))
	})
}

// each calls f for every member of a mapping.
func (r *reader) each(node *yaml.Node, path string, f func(key, value *yaml.Node)) {
	switch {
	case isNull(node):
		return
	case node.Kind != yaml.MappingNode:
		r.wrong(node, path, "want a mapping (name: value), got %s", kindOf(node))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode:
			r.wrong(key, path, "a name must be text")
		case seen[key.Value]:
			r.wrong(key, below(path, key.Value), "it is there twice")
		default:
			seen[key.Value] = true
			f(key, node.Content[i+1])
		}
	}
}

// list calls f for every item of a sequence; a null is an empty one.
func (r *reader) list(node *yaml.Node, path string, f func(item *yaml.Node, path string)) {
	switch {
	case isNull(node):
	case node.Kind != yaml.SequenceNode:
		r.wrong(node, path, "want a list (- item), got %s", kindOf(node))
	default:
		for i, item := range node.Content {
			f(item, fmt.Sprintf("%s[%d]", path, i))
		}
	}
}

func (r *reader) text(target *string) func(*yaml.Node, string) {
	return func(node *yaml.Node, path string) {
		if node.Kind != yaml.ScalarNode || isNull(node) {
			r.wrong(node, path, "want text, got %s", kindOf(node))
			return
		}
		*target = node.Value
	}
}

func (r *reader) boolean(target *bool) func(*yaml.Node, string) {
	return func(node *yaml.Node, path string) {
		if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!bool" || node.Decode(target) != nil {
			r.wrong(node, path, "want true or false, got %s", kindOf(node))
		}
	}
}

func (r *reader) integer(target *int, least int) func(*yaml.Node, string) {
	return func(node *yaml.Node, path string) {
		n, err := strconv.Atoi(node.Value)
		if node.Kind != yaml.ScalarNode || err != nil || n < least {
			r.wrong(node, path, "want a whole number from %d, got %s", least, kindOf(node))
			return
		}
		*target = n
	}
}

func (r *reader) number(target *float64) func(*yaml.Node, string) {
	return func(node *yaml.Node, path string) {
		n, err := strconv.ParseFloat(node.Value, 64)
		if node.Kind != yaml.ScalarNode || err != nil || !(n > 0) || math.IsInf(n, 0) {
			r.wrong(node, path, "want a number above 0, got %s", kindOf(node))
			return
		}
		*target = n
	}
}

func (r *reader) duration(target *time.Duration) func(*yaml.Node, string) {
	return func(node *yaml.Node, path string) {
		d, err := time.ParseDuration(node.Value)
		if node.Kind != yaml.ScalarNode || err != nil || d <= 0 {
			r.wrong(node, path, "want a time such as 5s or 250ms, got %s", kindOf(node))
			return
		}
		*target = d
	}
}

func (r *reader) oneOf(target *string, allowed ...string) func(*yaml.Node, string) {
	return func(node *yaml.Node, path string) {
		if node.Kind != yaml.ScalarNode || !slices.Contains(allowed, node.Value) {
			r.wrong(node, path, "want %s, got %s", strings.Join(allowed, " or "), kindOf(node))
			return
		}
		*target = node.Value
	}
}

// json turns a node into JSON. ok is false if it cannot be; then problems say why.
func (r *reader) json(node *yaml.Node, path string, depth int) (text json.RawMessage, ok bool) {
	if depth > maxDepth {
		r.wrong(node, path, "it is nested more than %d deep", maxDepth)
		return nil, false
	}
	ok = true
	switch node.Kind {
	case yaml.MappingNode:
		members := map[string]json.RawMessage{}
		before := len(r.problems)
		r.each(node, path, func(key, value *yaml.Node) {
			members[key.Value], _ = r.json(value, below(path, key.Value), depth+1)
		})
		if len(r.problems) > before {
			return nil, false
		}
		return marshal(members), true
	case yaml.SequenceNode:
		items := make([]json.RawMessage, 0, len(node.Content))
		r.list(node, path, func(item *yaml.Node, path string) {
			text, fine := r.json(item, path, depth+1)
			items, ok = append(items, text), ok && fine
		})
		if !ok {
			return nil, false
		}
		return marshal(items), true
	case yaml.ScalarNode:
		return r.scalar(node, path)
	}
	r.wrong(node, path, "anchors and aliases are not taken: write it out")
	return nil, false
}

func (r *reader) scalar(node *yaml.Node, path string) (json.RawMessage, bool) {
	switch node.ShortTag() {
	case "!!null":
		return json.RawMessage("null"), true
	case "!!bool":
		var b bool
		if node.Decode(&b) == nil {
			return marshal(b), true
		}
	case "!!int", "!!float":
		var n float64
		if json.Valid([]byte(node.Value)) { // as it is written, whatever its size
			return json.RawMessage(node.Value), true
		}
		if node.Decode(&n) == nil && !math.IsInf(n, 0) && !math.IsNaN(n) {
			return marshal(n), true
		}
	case "!!str", "!!timestamp":
		return marshal(node.Value), true
	}
	r.wrong(node, path, "%s cannot be JSON", kindOf(node))
	return nil, false
}

// marshal is json.Marshal of what always can be.
func marshal(value any) json.RawMessage {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimSpace(buffer.Bytes())
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }

// kindOf describes a node without its value, which may be a key.
func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch node.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return "text"
	case "!!int", "!!float":
		return node.Value
	case "!!bool":
		return node.Value
	case "!!timestamp":
		return "a date"
	}
	return "a value with the tag " + node.ShortTag()
}

func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
