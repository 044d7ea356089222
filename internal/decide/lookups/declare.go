package lookups

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"

	"github.com/usher-dps/usher/internal/decide/schema"
)

// What a declaration says if it leaves a member out.
const (
	defaultKey         = "key"
	defaultTTL         = time.Minute
	defaultNegativeTTL = 10 * time.Second
	defaultTimeout     = 500 * time.Millisecond
)

// Bounds of durations. A source must answer within the time limit of a decision, which is at most 4 s.
const (
	maxTTL     = 24 * time.Hour
	maxStale   = 30 * 24 * time.Hour
	minTimeout = 10 * time.Millisecond
	maxTimeout = 4 * time.Second
)

const (
	fixtureSuffix = "_fixture"
)

// SettingSuffixes end the names of settings besides USHER_LOOKUP_NAME. No name of a look-up ends in one, in lower case,
// or a setting could be that of two look-ups.
var SettingSuffixes = []string{"_QUERY", "_TOKEN_AUDIENCE", "_HEADER", "_POLL", "_CACHE", "_TABLE", "_LIMIT"}

// settingSuffix returns the suffix of a setting that a name ends in; empty if there is none.
func settingSuffix(name string) string {
	for _, suffix := range SettingSuffixes {
		if suffix = strings.ToLower(suffix); strings.HasSuffix(name, suffix) {
			return suffix
		}
	}
	return ""
}

// tableExtensions are those of tables of text.
var tableExtensions = []string{".csv", ".ndjson", ".jsonl", ".yaml", ".yml"}

// Problem is one thing that is wrong with a declaration.
type Problem struct {
	Place   string // file:line
	Message string
	Fix     string // what to do about it; may be empty
}

// IsDeclaration reports whether a file declares look-ups.
func IsDeclaration(name string) bool {
	return slices.Contains([]string{"lookups.yaml", "lookups.yml"}, path.Base(name))
}

// IsFixture reports whether a file has rows for development, such as device_fixture.csv. It is not served.
func IsFixture(name string) bool {
	extension := path.Ext(name)
	return slices.Contains(tableExtensions, extension) && strings.HasSuffix(strings.TrimSuffix(name, extension), fixtureSuffix)
}

// validName matches names of look-ups. They are part of a Rego reference and, in upper case, of a setting.
var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}$`)

// File is the content of a file with declarations.
type File struct {
	Name string // relative to the folder of the rules
	Text []byte
}

// Declare reads the declarations in files, in the order of their names. The folder is put before the names of files in
// places.
func Declare(folder string, files []File) ([]*Declaration, []Problem) {
	r := reader{folder: folder, named: map[string]*Declaration{}}
	for _, f := range files {
		r.file(f)
	}
	return slices.SortedFunc(maps.Values(r.named), func(a, b *Declaration) int { return strings.Compare(a.Name, b.Name) }), r.problems
}

type reader struct {
	folder   string
	current  File
	named    map[string]*Declaration
	problems []Problem
}

func (r *reader) place(line int) string {
	return fmt.Sprintf("%s:%d", path.Join(r.folder, r.current.Name), line)
}

func (r *reader) wrong(node *yaml.Node, fix, format string, args ...any) {
	r.problems = append(r.problems, Problem{Place: r.place(node.Line), Message: fmt.Sprintf(format, args...), Fix: fix})
}

// yamlLine matches the place in an error of the YAML library.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s+)?line (\d+): `)

func (r *reader) file(f File) {
	r.current = f
	var root yaml.Node
	err := yaml.Unmarshal(f.Text, &root)
	if err == nil && len(root.Content) > 0 {
		err = root.Decode(new(any)) // finds members of the same name
	}
	if err != nil {
		problem := Problem{Place: path.Join(r.folder, f.Name), Message: err.Error()}
		if parts := yamlLine.FindStringSubmatch(problem.Message); parts != nil {
			problem.Place, problem.Message = problem.Place+":"+parts[1], problem.Message[len(parts[0]):]
		}
		r.problems = append(r.problems, problem)
		return
	}
	if len(root.Content) == 0 {
		return
	}
	if root.Content[0].Kind != yaml.MappingNode {
		r.wrong(root.Content[0], "write a mapping from the name of each look-up to what it is", "not a mapping")
		return
	}
	for key, value := range members(root.Content[0]) {
		r.declaration(key, value)
	}
}

// members yields the names and values of a mapping.
func members(node *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(node.Content); i += 2 {
			value := node.Content[i+1]
			if value.Alias != nil {
				value = value.Alias
			}
			if !yield(node.Content[i], value) {
				return
			}
		}
	}
}

func (r *reader) declaration(key, body *yaml.Node) {
	d := &Declaration{Name: key.Value, Place: r.place(key.Line), Key: defaultKey, OnFault: Hold,
		TTL: defaultTTL, NegativeTTL: defaultNegativeTTL, Timeout: defaultTimeout}
	switch other := r.named[d.Name]; {
	case !validName.MatchString(d.Name):
		r.wrong(key, "write it in lower case, starting with a letter, with digits and _, and with at most 41 characters", "%q cannot be the name of a look-up", d.Name)
		return
	case d.Name == HubName:
		r.wrong(key, "give the look-up another name", "lookup.hub is built in: the state of a hub")
		return
	case settingSuffix(d.Name) != "":
		r.wrong(key, "give the look-up another name", "a name cannot end in %s, because the settings of another look-up do", settingSuffix(d.Name))
		return
	case other != nil:
		r.wrong(key, "keep one of the two", "look-up %s is declared twice, first at %s", d.Name, other.Place)
		return
	case body.Kind != yaml.MappingNode:
		r.wrong(key, "at least row is needed, the JSON Schema of a row", "look-up %s says nothing about itself", d.Name)
		return
	}
	r.named[d.Name] = d
	described := false
	for name, value := range members(body) {
		described = described || name.Value == "row"
		read, known := memberReaders[name.Value]
		if !known {
			known := slices.Sorted(maps.Keys(memberReaders))
			nearest := slices.MinFunc(known, func(a, b string) int {
				return levenshtein.ComputeDistance(a, name.Value) - levenshtein.ComputeDistance(b, name.Value)
			})
			r.wrong(name, fmt.Sprintf("did you mean %s? The members are %s", nearest, strings.Join(known, ", ")), "look-up %s has no member %s", d.Name, name.Value)
			continue
		}
		if problem := read(r, d, value); problem != "" {
			r.wrong(name, "", "%s of look-up %s %s", name.Value, d.Name, problem)
		}
	}
	if d.RowSchema == nil && !described {
		r.wrong(key, "describe the members of a row by a JSON Schema", "look-up %s has no row", d.Name)
	}
	if d.RowSchema == nil {
		return
	}
	for _, name := range d.Recordable {
		if properties, _ := d.RowSchema["properties"].(map[string]any); properties[name] == nil {
			r.wrong(key, "the members are "+strings.Join(d.Members(), ", "), "look-up %s makes %s recordable, which is no member of its row", d.Name, name)
		}
	}
}

// memberReaders read the members of a declaration. They return what is wrong with a value, or "".
var memberReaders = map[string]func(r *reader, d *Declaration, value *yaml.Node) string{
	"description": func(_ *reader, d *Declaration, v *yaml.Node) string { return text(v, &d.Description) },
	"key":         func(_ *reader, d *Declaration, v *yaml.Node) string { return text(v, &d.Key) },
	"case_sensitive": func(_ *reader, d *Declaration, v *yaml.Node) string {
		if v.Decode(&d.CaseSensitive) != nil {
			return "is neither true nor false"
		}
		return ""
	},
	"row":      (*reader).row,
	"on_fault": (*reader).onFault,
	"ttl":      func(_ *reader, d *Declaration, v *yaml.Node) string { return duration(v, &d.TTL, 0, maxTTL) },
	"negative_ttl": func(_ *reader, d *Declaration, v *yaml.Node) string {
		return duration(v, &d.NegativeTTL, 0, maxTTL)
	},
	"timeout": func(_ *reader, d *Declaration, v *yaml.Node) string {
		return duration(v, &d.Timeout, minTimeout, maxTimeout)
	},
	"recordable": func(_ *reader, d *Declaration, v *yaml.Node) string {
		if v.Decode(&d.Recordable) != nil {
			return "is not a list of members, such as [hub, tenant]"
		}
		return ""
	},
	"fixture": func(r *reader, d *Declaration, v *yaml.Node) string {
		if problem := text(v, &d.Fixture); problem != "" {
			return problem
		}
		d.Fixture = path.Join(path.Dir(r.current.Name), d.Fixture)
		if !fs.ValidPath(d.Fixture) || !IsFixture(d.Fixture) {
			return fmt.Sprintf("is not the name of a fixture in this folder, such as %s_fixture.csv", d.Name)
		}
		return ""
	},
}

func text(node *yaml.Node, target *string) string {
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" || node.Value == "" {
		return "is not a text"
	}
	*target = node.Value
	return ""
}

func duration(node *yaml.Node, target *time.Duration, least, most time.Duration) string {
	value, err := time.ParseDuration(node.Value)
	if node.Kind != yaml.ScalarNode || err != nil || value < least || value > most {
		return fmt.Sprintf("is not a duration from %s to %s, such as 30s", least, most)
	}
	*target = value
	return ""
}

// onFault reads hold, absent, or {stale: 1h}.
func (r *reader) onFault(d *Declaration, node *yaml.Node) string {
	const want = "is none of hold, absent, {stale: 1h}"
	switch {
	case node.Kind == yaml.ScalarNode && (node.Value == string(Hold) || node.Value == string(Absent)):
		d.OnFault = OnFault(node.Value)
		return ""
	case node.Kind != yaml.MappingNode || len(node.Content) != 2 || node.Content[0].Value != string(Stale):
		return want
	}
	d.OnFault = Stale
	if problem := duration(node.Content[1], &d.StaleFor, time.Second, maxStale); problem != "" {
		return "has a bound that " + problem
	}
	return ""
}

// row reads the JSON Schema of a row.
func (r *reader) row(d *Declaration, node *yaml.Node) string {
	var written map[string]any
	if err := node.Decode(&written); err != nil {
		return "is not a JSON Schema"
	}
	before := len(r.problems)
	r.names(d, node, nil, 0)
	if len(r.problems) > before {
		return ""
	}
	if _, named := written["$schema"]; !named && written != nil {
		written["$schema"] = schema.Draft
	}
	source, err := json.Marshal(written)
	if err != nil {
		return "is not a JSON Schema: " + err.Error()
	}
	d.Row, err = schema.Compile("lookup."+d.Name, source)
	if invalid, ok := errors.AsType[*schema.InvalidError](err); ok {
		return "is not a usable JSON Schema: " + invalid.Violations[0].String()
	}
	decoder := json.NewDecoder(bytes.NewReader(source))
	decoder.UseNumber()
	if err := decoder.Decode(&d.RowSchema); err != nil {
		return "is not a JSON Schema: " + err.Error()
	}
	if d.RowSchema["type"] != "object" || len(d.Members()) == 0 {
		return "does not say what members a row has: it needs type: object and properties"
	}
	return ""
}

// schemaTypes are the types of JSON Schema, and how other languages call them.
var schemaTypes = map[string][]string{
	"array": {"list"}, "boolean": {"bool"}, "integer": {"int", "long"}, "null": {"none", "nil"}, "number": {"float", "double", "decimal"},
	"object": {"map", "dict", "mapping"}, "string": {"str", "text", "date", "datetime", "timestamp"},
}

// maxSchemaDepth bounds how deep names are looked for: an alias in YAML can contain itself.
const maxSchemaDepth = 20

// names reports types that there are not, and required members that are not declared, where they are written: a schema
// with the one is refused without a place, and with the other each row is. The properties are those of the same object
// around this schema.
func (r *reader) names(d *Declaration, node *yaml.Node, properties []string, depth int) {
	if node.Kind != yaml.MappingNode || depth > maxSchemaDepth {
		return
	}
	for key, value := range members(node) {
		if key.Value == "properties" && value.Kind == yaml.MappingNode {
			for name := range members(value) {
				properties = append(slices.Clip(properties), name.Value)
			}
		}
	}
	for key, value := range members(node) {
		switch key.Value {
		case "type":
			for _, name := range scalars(value) {
				if _, known := schemaTypes[name.Value]; !known {
					r.wrong(name, fmt.Sprintf("did you mean %s? The types are %s", nearestType(name.Value), strings.Join(slices.Sorted(maps.Keys(schemaTypes)), ", ")),
						"row of look-up %s has the type %s, which JSON Schema does not have", d.Name, cut(name.Value))
				}
			}
		case "required":
			for _, name := range scalars(value) {
				if len(properties) == 0 || slices.Contains(properties, name.Value) {
					continue
				}
				fix := "the members are " + strings.Join(slices.Sorted(slices.Values(properties)), ", ")
				if near := nearest(name.Value, properties); near != "" {
					fix = fmt.Sprintf("did you mean %s? T%s", near, fix[1:])
				}
				r.wrong(name, fix, "row of look-up %s requires %s, which is not one of its properties", d.Name, cut(name.Value))
			}
		case "properties", "patternProperties":
			for _, member := range members(value) {
				r.names(d, member, nil, depth+1)
			}
		case "items", "additionalProperties", "contains", "propertyNames":
			r.names(d, value, nil, depth+1)
		case "not", "if", "then", "else":
			r.names(d, value, properties, depth+1)
		case "allOf", "anyOf", "oneOf":
			for _, part := range value.Content {
				r.names(d, part, properties, depth+1)
			}
		}
	}
}

// scalars are a scalar, or those in a list.
func scalars(node *yaml.Node) []*yaml.Node {
	if node.Kind == yaml.ScalarNode {
		return []*yaml.Node{node}
	}
	return slices.DeleteFunc(slices.Clone(node.Content), func(n *yaml.Node) bool { return node.Kind != yaml.SequenceNode || n.Kind != yaml.ScalarNode })
}

func nearestType(name string) string {
	types := slices.Sorted(maps.Keys(schemaTypes))
	for _, known := range types {
		if slices.Contains(schemaTypes[known], strings.ToLower(name)) {
			return known
		}
	}
	distance := func(known string) int { return levenshtein.ComputeDistance(known, strings.ToLower(cut(name))) }
	return slices.MinFunc(types, func(a, b string) int { return distance(a) - distance(b) })
}

// Members are the names of what a row can have, in lexical order.
func (d *Declaration) Members() []string {
	properties, _ := d.RowSchema["properties"].(map[string]any)
	return slices.Sorted(maps.Keys(properties))
}

// Declared is a row with only the members that are declared, so that a rule never depends on others.
func (d *Declaration) Declared(row map[string]any) map[string]any {
	properties, _ := d.RowSchema["properties"].(map[string]any)
	declared := make(map[string]any, min(len(row), len(properties)))
	for name, value := range row {
		if _, ok := properties[name]; ok {
			declared[name] = value
		}
	}
	return declared
}
