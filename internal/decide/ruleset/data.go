package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
)

// checkData finds what is wrong with data files in JSON. OPA's own reader does not say where, and takes the last of
// several members with the same name.
func (rs *Ruleset) checkData(files []file) []Problem {
	var problems []Problem
	for _, f := range files {
		if path.Ext(f.path) != ".json" {
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

func (rs *Ruleset) dataProblem(f file, err error) Problem {
	problem := Problem{Place: rs.place(f), Message: err.Error()}
	offset := int64(len(bytes.TrimRight(f.text, " \t\r\n")))
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset, err = syntactic.ByteOffset, syntactic.Err
		if errors.Is(err, jsontext.ErrDuplicateName) {
			problem.Message = fmt.Sprintf("the name of %s occurs twice in one object", syntactic.JSONPointer)
			problem.Fix = "remove one of them: only one would count"
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
