// Package vocabulary lists the words that a rule can use, for completion in an editor: the members of input, the library,
// look-ups, built-in functions and entry rules. It needs no rules that compile, because they rarely do while someone
// types.
package vocabulary

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

// Vocabulary is what a rule can use.
type Vocabulary struct {
	Input    []Member   `json:"input"`
	DPS      []Name     `json:"dps"` // what the library data.dps defines
	Lookups  []Lookup   `json:"lookups"`
	Builtins []Function `json:"builtins"`
	Entries  []Entry    `json:"entries"`
}

// Member is a member of input or of a row.
type Member struct {
	Path string `json:"path"` // such as input.linkedHubs, or for a row hub
	Type string `json:"type"` // that of JSON Schema; empty if it can be any
	Doc  string `json:"doc"`
}

// Function is a function.
type Function struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	Doc  string   `json:"doc"`
}

// Name is a rule or a function of the library.
type Name struct {
	Function
	Form string `json:"form"` // function or rule
}

// Lookup is a look-up, which is the function lookup.NAME.
type Lookup struct {
	Name    string   `json:"name"`
	Doc     string   `json:"doc"`
	Members []Member `json:"members"`
}

// Entry is an entry rule.
type Entry struct {
	Name string `json:"name"`
	Doc  string `json:"doc"`
}

// Of returns the vocabulary of the rules under fsys. Files that cannot be read are as if they were not there; only the
// options can be wrong.
func Of(fsys fs.FS, options decider.RulesOptions) (Vocabulary, error) {
	v := Vocabulary{DPS: libraryOf(fsys), Lookups: lookupsOf(fsys), Builtins: []Function{}, Entries: entries()}
	var schema map[string]any
	if err := json.Unmarshal(schemas.AllocationRequest(), &schema); err != nil {
		return v, fmt.Errorf("schemas: %w", err)
	}
	v.Input = appendMembers([]Member{}, "input", schema, schema, 0)
	capabilities, err := decider.Capabilities(nil, options)
	if err != nil {
		return v, err
	}
	var known struct {
		Builtins []struct {
			Name, Description, Infix string
			Decl                     struct{ Args []struct{ Name string } }
			Deprecated               bool
		}
	}
	if err := json.Unmarshal(capabilities, &known); err != nil {
		return v, err
	}
	for _, b := range known.Builtins {
		if _, isLookup := ruleset.LookupName(b.Name); isLookup || b.Infix != "" || b.Deprecated || strings.HasPrefix(b.Name, "internal.") {
			continue
		}
		f := Function{Name: b.Name, Args: []string{}, Doc: b.Description}
		for _, arg := range b.Decl.Args {
			f.Args = append(f.Args, arg.Name)
		}
		v.Builtins = append(v.Builtins, f)
	}
	return v, nil
}

func entries() []Entry {
	return []Entry{
		{"hub", "The hub of the device: one of linkedHubs, by host name."},
		{"initial_twin", "The twin that a device starts with on a new hub: an object with tags and properties.desired."},
		{"payload", "What the device gets in answer to its registration: an object."},
		{"reject", "A set of reasons. With any, DPS refuses the device: reject contains \"the reason\" if …"},
		{"hold", "A set of reasons. With any, the device waits and DPS asks again for some minutes: hold contains \"the reason\" if …"},
	}
}

// maxDepth bounds a schema that refers to itself.
const maxDepth = 12

// appendMembers appends what a JSON Schema describes below a path.
func appendMembers(list []Member, at string, root, schema map[string]any, depth int) []Member {
	if depth > maxDepth {
		return list
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		described, _ := properties[name].(map[string]any)
		below := described
		if ref, ok := described["$ref"].(string); ok {
			definitions, _ := root["$defs"].(map[string]any)
			below, _ = definitions[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		}
		member := Member{Path: at + "." + name}
		if !ast.IsVarCompatibleString(name) {
			member.Path = fmt.Sprintf("%s[%q]", at, name)
		}
		if member.Doc, _ = described["description"].(string); member.Doc == "" {
			member.Doc, _ = below["description"].(string)
		}
		member.Type = typeOf(below)
		list = appendMembers(append(list, member), member.Path, root, below, depth+1)
		if items, ok := below["items"].(map[string]any); ok {
			list = appendMembers(list, member.Path+"[_]", root, items, depth+1)
		}
	}
	return list
}

// typeOf is the type of a JSON Schema; empty if there are several.
func typeOf(schema map[string]any) string {
	name, _ := schema["type"].(string)
	return name
}

// libraryOf reads the METADATA of the library.
func libraryOf(fsys fs.FS) []Name {
	list := []Name{}
	names, err := ruleset.Files(fsys, false)
	if err != nil {
		return list
	}
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil || path.Ext(name) != ".rego" {
			continue
		}
		module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
		if err != nil || !ruleset.IsLibrary(module) {
			continue
		}
		for _, a := range module.Annotations {
			if target := a.GetTargetPath(); a.Scope != "package" && len(target) == 3 {
				list = append(list, nameOf(module, target, a))
			}
		}
	}
	return list
}

func nameOf(module *ast.Module, target ast.Ref, a *ast.Annotations) Name {
	title := strings.TrimSpace(a.Title)
	if title != "" && a.Description != "" {
		title += ".\n"
	}
	n := Name{Function{strings.Trim(target[2].Value.String(), `"`), []string{}, title + strings.TrimSpace(a.Description)}, "rule"}
	for _, rule := range module.Rules {
		if rule.Default || !rule.Ref().GroundPrefix().Equal(target) || len(rule.Head.Args) == 0 {
			continue
		}
		n.Form = "function"
		for _, arg := range rule.Head.Args {
			n.Args = append(n.Args, arg.String())
		}
		break
	}
	return n
}

// lookupsOf reads what the rules declare.
func lookupsOf(fsys fs.FS) []Lookup {
	var files []lookups.File
	names, _ := ruleset.Files(fsys, false)
	for _, name := range names {
		if text, err := fs.ReadFile(fsys, name); err == nil && lookups.IsDeclaration(name) {
			files = append(files, lookups.File{Name: name, Text: text})
		}
	}
	declared, _ := lookups.Declare("", files)
	list := []Lookup{}
	for _, d := range append(declared, lookups.HubDeclaration()) {
		one := Lookup{Name: d.Name, Doc: d.Description, Members: []Member{}}
		properties, _ := d.RowSchema["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			described, _ := properties[name].(map[string]any)
			doc, _ := described["description"].(string)
			one.Members = append(one.Members, Member{name, typeOf(described), doc})
		}
		list = append(list, one)
	}
	return list
}
