package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
	"go.yaml.in/yaml/v3"
)

// checkData finds what is wrong with data files. OPA's own reader does not say where in JSON, and takes the last of several
// members with the same name.
func (rs *Ruleset) checkData(files []file) []Problem {
	var problems []Problem
	for _, f := range files {
		if path.Ext(f.path) != ".json" {
			var root yaml.Node
			if err := yaml.Unmarshal(f.text, &root); err == nil { // else OPA says what is wrong, and where
				problems = append(problems, rs.twiceNamed(f, &root, "")...)
			}
			continue
		}
		decoder := jsontext.NewDecoder(bytes.NewReader(f.text))
		_, err := decoder.ReadValue()
		if err == nil {
			rest := bytes.TrimLeft(f.text[decoder.InputOffset():], " \t\r\n")
			if len(rest) == 0 {
				continue
			}
			err = &jsontext.SyntacticError{ByteOffset: int64(len(f.text) - len(rest)), Err: errors.New("something follows the JSON value")}
		}
		problems = append(problems, rs.dataProblem(f, err))
	}
	return problems
}

// twiceNamed finds members of YAML that have the same name once they are JSON, in which 1 and "1" are one name.
func (rs *Ruleset) twiceNamed(f file, node *yaml.Node, at jsontext.Pointer) []Problem {
	var problems []Problem
	switch node.Kind {
	case yaml.DocumentNode:
		for _, content := range node.Content {
			problems = append(problems, rs.twiceNamed(f, content, at)...)
		}
	case yaml.SequenceNode:
		for i, item := range node.Content {
			problems = append(problems, rs.twiceNamed(f, item, at.AppendToken(strconv.Itoa(i)))...)
		}
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			below := at.AppendToken(key.Value)
			if key.Kind == yaml.ScalarNode && key.Tag != "!!merge" { // what is merged in may be overridden
				if seen[key.Value] {
					problem := twice(below)
					problem.Place = fmt.Sprintf("%s:%d:%d", rs.place(f), key.Line, key.Column)
					problems = append(problems, problem)
				}
				seen[key.Value] = true
			}
			problems = append(problems, rs.twiceNamed(f, node.Content[i+1], below)...)
		}
	}
	return problems
}

func twice(name jsontext.Pointer) Problem {
	return Problem{Message: fmt.Sprintf("the name of %s occurs twice in one object", name), Fix: "remove one of them: only one would count"}
}

func (rs *Ruleset) dataProblem(f file, err error) Problem {
	problem := Problem{Place: rs.place(f), Message: err.Error()}
	offset := int64(len(bytes.TrimRight(f.text, " \t\r\n")))
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset, err = syntactic.ByteOffset, syntactic.Err
		if errors.Is(err, jsontext.ErrDuplicateName) {
			at := problem.Place
			problem = twice(syntactic.JSONPointer)
			problem.Place = at
		} else {
			problem.Message = "not JSON: " + err.Error()
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		problem.Message = "not JSON: the file ends before the value does"
	}
	before := f.text[:min(offset, int64(len(f.text)))]
	if last := bytes.TrimRight(before, " \t\r\n"); bytes.HasSuffix(last, []byte{','}) && strings.Contains(problem.Message, "invalid character") {
		problem.Fix = "remove the comma before it"
	}
	problem.Place += lineAndColumn(before)
	return problem
}

// DataRef is where rules find the content of a data file: data.plants for plants/data.json.
func DataRef(name string) ast.Ref {
	ref := ast.DefaultRootRef.Copy()
	for folder := range strings.SplitSeq(path.Dir(name), "/") {
		if folder != "." {
			ref = ref.Append(ast.StringTerm(folder))
		}
	}
	return ref
}

// lineAndColumn is the place after the start of a file, such as ":2:7".
func lineAndColumn(before []byte) string {
	line := before[bytes.LastIndexByte(before, '\n')+1:]
	return fmt.Sprintf(":%d:%d", 1+bytes.Count(before, []byte{'\n'}), 1+utf8.RuneCount(line))
}

// loadFailed matches OPA's error about a data file.
var loadFailed = regexp.MustCompile(`^bundle load failed on (\S+): (?:yaml: line (\d+): )?`)

// placed turns OPA's error about data into a problem with the place of the file.
func (rs *Ruleset) placed(err error) *LoadError {
	parts := loadFailed.FindStringSubmatch(err.Error())
	if parts == nil {
		return rs.loadError(err.Error(), "")
	}
	problem := Problem{Place: parts[1], Message: err.Error()[len(parts[0]):]}
	if parts[2] != "" {
		problem.Place += ":" + parts[2]
	}
	return NewLoadError([]Problem{problem})
}

// dataFileOf is the data file that can define a path below data: the one in the deepest folder above it.
func (rs *Ruleset) dataFileOf(dataPath string) string {
	found, depth := "", -1
	for _, name := range rs.dataFiles {
		folder := path.Dir(name)
		within := folder == "." || strings.HasPrefix(dataPath+"/", folder+"/")
		if deep := strings.Count("/"+folder, "/"); within && (folder != "." || depth < 0) && deep > depth {
			found, depth = path.Join(rs.options.Name, name), deep
		}
	}
	return found
}
