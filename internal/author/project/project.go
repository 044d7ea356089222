// Package project reads usher.yaml, the project file of a repository of rules: values for flags of the commands, so that
// everyone who works in the repository, and its CI, run the same commands.
package project

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// FileName is the name of a project file.
const FileName = "usher.yaml"

// Setting is a member of a project file: the value of the flag that has its name.
type Setting struct {
	Flag   string
	Values []string // one, unless the member is a list; paths are relative to the working directory, or absolute
	IsPath bool
	Place  string // such as usher.yaml:3: hubs
}

// members are the members of a project file, which have the names of the flags.
var members = []struct {
	name         string
	list, isPath bool
}{
	{name: "rules", isPath: true},
	{name: "hubs", list: true},
	{name: "enrollments", list: true, isPath: true},
	{name: "payload-schema", isPath: true},
}

// Find returns the path of the project file in a folder, or else in the nearest folder above it; empty if there is none.
func Find(folder string) (string, error) {
	for {
		name := filepath.Join(folder, FileName)
		if _, err := os.Stat(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return name, err
		}
		absolute, err := filepath.Abs(folder)
		if err != nil || filepath.Dir(absolute) == absolute {
			return "", err
		}
		folder = filepath.Join(folder, "..")
	}
}

// Load reads a project file.
func Load(name string) ([]Setting, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return Parse(name, text)
}

// Parse reads the text of a project file. Paths in it are relative to its folder. The error lists everything that is
// wrong, each with its line.
func Parse(name string, text []byte) ([]Setting, error) {
	file, err := parser.ParseBytes(text, 0)
	if wrong, ok := errors.AsType[yaml.Error](err); ok {
		return nil, fmt.Errorf("%s:%d: %s", name, wrong.GetToken().Position.Line, wrong.GetMessage())
	} else if err != nil {
		return nil, fmt.Errorf("%s:1: %w", name, err)
	}
	var settings []Setting
	var problems []error
	for i, document := range file.Docs {
		body := document.Body
		if body == nil {
			continue
		}
		mapping, ok := body.(*ast.MappingNode)
		switch {
		case i > 0:
			return nil, fmt.Errorf("%s:%d: a second document: write one", name, line(body))
		case !ok:
			return nil, fmt.Errorf("%s:%d: want members such as rules: rules", name, line(body))
		}
		for _, member := range mapping.Values {
			setting, err := read(name, member)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s:%d: %w", name, line(member.Key), err))
				continue
			}
			settings = append(settings, setting)
		}
	}
	return settings, errors.Join(problems...)
}

func line(node ast.Node) int { return node.GetToken().Position.Line }

func read(file string, node *ast.MappingValueNode) (Setting, error) {
	name := node.Key.GetToken().Value
	at := -1
	for i, m := range members {
		if m.name == name {
			at = i
		}
	}
	if at < 0 {
		return Setting{}, unknown(name)
	}
	member := members[at]
	items := []ast.Node{node.Value}
	if member.list {
		list, ok := node.Value.(*ast.SequenceNode)
		if !ok {
			return Setting{}, fmt.Errorf("%s: want a list, such as [one, two]", name)
		}
		items = list.Values
	}
	setting := Setting{Flag: name, IsPath: member.isPath, Place: fmt.Sprintf("%s:%d: %s", file, line(node.Key), name)}
	for _, item := range items {
		text, ok := item.(*ast.StringNode)
		if !ok || text.Value == "" {
			return Setting{}, fmt.Errorf("%s: want text, a number in quotes", name)
		}
		value := text.Value
		if member.isPath {
			if value = filepath.FromSlash(value); !filepath.IsAbs(value) {
				value = filepath.Join(filepath.Dir(file), value)
			}
		}
		setting.Values = append(setting.Values, value)
	}
	return setting, nil
}

// unknown is the error about a member that there is not, with the one that was probably meant.
func unknown(name string) error {
	var names []string
	for _, m := range members {
		names = append(names, m.name)
	}
	letters := func(name string) string { return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name)) }
	distance := func(known string) int {
		if given := letters(name); len(given) > 3 && strings.Contains(letters(known), given) { // schema
			return 0
		}
		return levenshtein.ComputeDistance(letters(name), letters(known))
	}
	nearest := slices.MinFunc(names, func(a, b string) int { return distance(a) - distance(b) })
	meant := ""
	if distance(nearest) <= max(1, len(nearest)/4) {
		meant = fmt.Sprintf(" (did you mean %s?)", nearest)
	}
	return fmt.Errorf("unknown member %s%s: the members are %s", name, meant, strings.Join(names, ", "))
}
