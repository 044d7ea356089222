package play

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// problem is something that is wrong with a file, or with the request.
type problem struct {
	File      string     `json:"file"` // empty if it is about the folder
	Line      int        `json:"line"`
	Column    int        `json:"column,omitempty"`
	EndLine   int        `json:"endLine,omitempty"`
	EndColumn int        `json:"endColumn,omitempty"`
	Level     lint.Level `json:"level"`
	Code      string     `json:"code"`
	Message   string     `json:"message"`
	Fix       string     `json:"fix,omitempty"`
}

// requestFile stands for the request in the place of a problem.
const requestFile = "request"

// loadProblems are those of an error of rules that do not load; nil for any other error.
func loadProblems(err error) []problem {
	broken, ok := errors.AsType[*ruleset.LoadError](err)
	if !ok {
		return nil
	}
	problems := make([]problem, 0, len(broken.Problems))
	for _, p := range broken.Problems {
		one := problem{Level: lint.Error, Code: lint.NotLoaded, Message: p.Message, Fix: p.Fix}
		one.File, one.Line = ruleset.SplitPlace(p.Place)
		if column, ok := strings.CutPrefix(p.Place, fmt.Sprintf("%s:%d:", one.File, one.Line)); ok {
			one.Column, _ = strconv.Atoi(column)
		}
		problems = append(problems, one)
	}
	return problems
}

// requestProblem is one of the request, at an offset in bytes.
func requestProblem(text string, offset int, message string) problem {
	before := text[:max(min(offset, len(text)), 0)]
	line := before[strings.LastIndexByte(before, '\n')+1:]
	return problem{File: requestFile, Line: 1 + strings.Count(before, "\n"), Column: 1 + utf8.RuneCountInString(line),
		Level: lint.Error, Code: "request", Message: message}
}

// offsetOf is where the value with a JSON pointer starts in a JSON text, or else the value around it.
func offsetOf(text, pointer string) int {
	decoder := jsontext.NewDecoder(strings.NewReader(text), jsontext.AllowDuplicateNames(true))
	nearest, depth := 0, -1
	for {
		before := int(decoder.InputOffset())
		token, err := decoder.ReadToken()
		if err != nil {
			return nearest
		}
		at := string(decoder.StackPointer())
		kind, read := decoder.StackIndex(decoder.StackDepth())
		isName := kind == '{' && read%2 == 1 && token.Kind() == '"'
		isEnd := token.Kind() == '}' || token.Kind() == ']'
		if within := at == pointer || strings.HasPrefix(pointer, at+"/"); within && !isEnd && !isName && len(at) > depth {
			start := before + len(text[before:]) - len(strings.TrimLeft(text[before:], " \t\r\n:,"))
			nearest, depth = start, len(at)
		}
		if depth == len(pointer) {
			return nearest
		}
	}
}
