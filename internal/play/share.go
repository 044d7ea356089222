package play

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/exchange"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/play/reproducer"
	"github.com/usher-dps/usher/internal/play/workspace"
)

func (s *server) shareRoutes(api *echo.Group) {
	api.POST("/share", s.share)
	api.POST("/open", s.open)
}

// share makes one text of a decision and what it came from: the rule with what it refers to, as edited. Keys and
// certificates are masked.
func (s *server) share(c echo.Context) error {
	var q question
	if err := read(c, &q); err != nil {
		return err
	}
	d, err := s.decided(c.Request().Context(), q)
	if err != nil {
		return err
	}
	mask := masker{keymaterial.Of(d.request.Body())}
	r := reproducer.Reproducer{Files: map[string]string{}, Request: mask.request(d.request, q.Request),
		Comment: fmt.Sprintf("A decision of usher %s, to open in usher play. Keys and certificates are masked.\n\n", s.Version)}
	answer, err := exchange.JSON(&d.report.Answer)
	if err != nil {
		return err
	}
	r.Answer = mask.text(string(answer))
	if len(q.Rows) > 0 {
		masked := slices.Clone(q.Rows)
		for i, one := range masked {
			masked[i].Key = mask.Text(one.Key)
			masked[i].Row, _ = mask.Value(one.Row).(map[string]any)
			if one.Row == nil {
				masked[i].Row = nil
			}
		}
		written, err := indented(masked)
		if err != nil {
			return err
		}
		r.Rows = mask.text(written)
	}
	names, err := filesFor(d)
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := fs.ReadFile(d.loaded.Files, name)
		if err != nil {
			return err
		}
		r.Files[name] = mask.file(name, string(text))
	}
	text, err := r.Format()
	if err != nil {
		return fail(http.StatusUnprocessableEntity, err)
	}
	name := "decision"
	if d.rule != nil {
		name = d.rule.Package[strings.LastIndexByte(d.rule.Package, '.')+1:]
	}
	return c.JSON(http.StatusOK, map[string]string{"name": "usher-" + name + ".txtar", "text": text})
}

// filesFor lists the files that a decision can depend on: the packages that its rule refers to, and the data, the
// declarations and the fixtures that they name. It rather lists too much.
func filesFor(d *decided) ([]string, error) {
	all, err := ruleset.Files(d.loaded.Files, true)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(name string) bool { return ruleset.IsTest(name) || ruleset.IsInvariants(name) })
	if d.rule == nil {
		return all, nil // it is the decision that none of them serves the enrollment
	}
	syntax, err := d.rule.Syntax()
	if err != nil {
		return nil, err
	}
	var modules bytes.Buffer
	for name := range syntax.Compiler.Modules {
		text, err := fs.ReadFile(d.loaded.Files, name)
		if err != nil {
			return nil, err
		}
		modules.Write(text)
	}
	names := func(text string) bool { return bytes.Contains(modules.Bytes(), []byte(text)) }
	needed := map[string]bool{}
	for _, declared := range syntax.Lookups() {
		if names(ruleset.LookupBuiltin(declared.Name)) {
			file, _ := ruleset.SplitPlace(declared.Place)
			needed[file], needed[declared.Fixture] = true, true
		}
	}
	return slices.DeleteFunc(all, func(name string) bool {
		switch folder, _, _ := strings.Cut(path.Dir(name), "/"); {
		case path.Ext(name) == ".rego":
			return syntax.Compiler.Modules[name] == nil
		case lookups.IsDeclaration(name), lookups.IsFixture(name):
			return !needed[name]
		default: // data and its schema
			return folder != "." && !names("data."+folder) && !names("data[")
		}
	}), nil
}

// masker hides keys and certificates.
type masker struct{ keymaterial.Mask }

// secrets match keys and certificates in any text: PEM, and the members of connection strings and signed URLs.
var secrets = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`-----BEGIN [A-Z0-9 ]+-----[^-]*-----END [A-Z0-9 ]+-----`), keymaterial.Masked},
	{regexp.MustCompile(`(?i)\b(SharedAccessKey|SharedAccessSignature|AccountKey)=[^;"'\s]+`), "${1}=" + keymaterial.Masked},
	{regexp.MustCompile(`(?i)([?&](?:code|sig)=)[^&"'\s]+`), "${1}" + keymaterial.Masked},
}

// member matches a member of YAML on a line of its own.
var member = regexp.MustCompile(`(?m)^([ \t-]*["']?(\w+)["']?[ \t]*:[ \t]*)\S.*$`)

// text returns a text without the secrets that it shows by their form.
func (m masker) text(text string) string {
	text = m.Text(text)
	for _, s := range secrets {
		text = s.pattern.ReplaceAllString(text, s.by)
	}
	return text
}

// request returns the text of a request without them. A text without any stays as it was written.
func (m masker) request(request *dps.AllocationRequest, text string) string {
	document := request.Document()
	if masked := m.Value(document); !reflect.DeepEqual(masked, any(document)) {
		if written, err := indented(masked); err == nil {
			text = written
		}
	}
	return m.text(strings.TrimRight(text, " \t\r\n") + "\n")
}

// file returns the text of a file without them.
func (m masker) file(name, text string) string {
	switch path.Ext(name) {
	case ".json":
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var value any
		if decoder.Decode(&value) == nil {
			if masked := m.Value(value); !reflect.DeepEqual(masked, value) {
				if written, err := indented(masked); err == nil {
					text = written
				}
			}
		}
	case ".yaml", ".yml":
		text = member.ReplaceAllStringFunc(text, func(line string) string {
			parts := member.FindStringSubmatch(line)
			if !keymaterial.IsName(parts[2]) {
				return line
			}
			return parts[1] + keymaterial.Masked
		})
	}
	return m.text(text)
}

func indented(value any) (string, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	return text.String(), err
}

// open reads what share made. The edits make the rules of the folder those of the text, and remove what else decides.
func (s *server) open(c echo.Context) error {
	var body struct {
		Text string `json:"text"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	r, problems, err := reproducer.Parse(body.Text)
	if err != nil {
		return fail(http.StatusUnprocessableEntity, err)
	}
	opened := struct {
		Files    workspace.Edits `json:"files"`
		Request  string          `json:"request"`
		Rows     rows            `json:"rows"`
		Problems []string        `json:"problems"`
	}{workspace.Edits{}, r.Request, rows{}, append([]string{}, problems...)}
	if r.Rows != "" {
		decoder := json.NewDecoder(strings.NewReader(r.Rows))
		decoder.UseNumber()
		if err := decoder.Decode(&opened.Rows); err != nil || opened.Rows == nil {
			opened.Rows = rows{}
			opened.Problems = append(opened.Problems, "the rows are left out: they are not a list of rows")
		}
	}
	files, err := s.Workspace.Files()
	if err != nil {
		return err
	}
	for _, f := range files {
		switch f.Kind {
		case workspace.Exchange, workspace.Other:
		default:
			opened.Files[f.Path] = nil
		}
	}
	for name, text := range r.Files {
		opened.Files[name] = &text
	}
	if _, err := s.Workspace.Load(opened.Files); err != nil {
		if invalid, ok := errors.AsType[*workspace.PathError](err); ok {
			return fail(http.StatusUnprocessableEntity, invalid)
		}
		opened.Problems = append(opened.Problems, err.Error())
	}
	return c.JSON(http.StatusOK, opened)
}
