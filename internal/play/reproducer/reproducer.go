// Package reproducer is one text with all that a decision came from, to send to someone else: the rules, the request, what
// look-ups found and the answer. The text is a txtar archive.
package reproducer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/play/workspace"
)

// Names in the archive.
const (
	rulesFolder = "rules/"
	requestName = "request.json"
	rowsName    = "rows.json"
	answerName  = "answer.json"
)

// maxFiles bounds the files of an archive.
const maxFiles = 5000

// Reproducer is a decision with what it came from.
type Reproducer struct {
	// Comment is for people, and on top.
	Comment string
	// Files are those of the rules, by their paths below the folder of rules.
	Files map[string]string
	// Request, Rows and Answer are JSON. Rows and Answer may be empty.
	Request, Rows, Answer string
}

// Format writes the archive.
func (r Reproducer) Format() (string, error) {
	archive := &txtar.Archive{Comment: []byte(r.Comment)}
	for _, f := range []struct{ name, text string }{{requestName, r.Request}, {rowsName, r.Rows}, {answerName, r.Answer}} {
		if f.text != "" {
			archive.Files = append(archive.Files, txtar.File{Name: f.name, Data: []byte(f.text)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		archive.Files = append(archive.Files, txtar.File{Name: rulesFolder + name, Data: []byte(r.Files[name])})
	}
	text := txtar.Format(archive)
	for i, f := range txtar.Parse(text).Files {
		if i >= len(archive.Files) || f.Name != archive.Files[i].Name {
			return "", fmt.Errorf("%s: a line has the form -- %s --, which starts a file in this format: change the line", archive.Files[max(i-1, 0)].Name, f.Name)
		}
	}
	return string(text), nil
}

var errEmpty = errors.New("it has no rules: choose a file that usher play shared")

// Parse reads an archive. The problems say what of it is left out, and why; the error says that it is none.
func Parse(text string) (r Reproducer, problems []string, err error) {
	archive := txtar.Parse([]byte(text))
	if len(archive.Files) > maxFiles {
		return Reproducer{}, nil, fmt.Errorf("it has more than %d files", maxFiles)
	}
	r = Reproducer{Comment: string(archive.Comment), Files: map[string]string{}}
	others := map[string]*string{requestName: &r.Request, rowsName: &r.Rows, answerName: &r.Answer}
	for _, f := range archive.Files {
		name, isRule := strings.CutPrefix(f.Name, rulesFolder)
		target, known := others[f.Name]
		_, twice := r.Files[name]
		switch {
		case known && *target == "":
			*target = string(f.Data)
		case known, isRule && twice:
			problems = append(problems, fmt.Sprintf("%q is there twice: the first one counts", f.Name))
		case !isRule:
			problems = append(problems, fmt.Sprintf("%q is left out: it is neither of the rules, nor the request, the rows or the answer", f.Name))
		default:
			if err := workspace.CheckPath(name); err != nil {
				problems = append(problems, "left out: "+err.Error())
				continue
			}
			r.Files[name] = string(f.Data)
		}
	}
	if len(r.Files) == 0 {
		return Reproducer{}, problems, errEmpty
	}
	return r, problems, nil
}
