package play

import (
	"bytes"
	"cmp"
	"context"
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
	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/exchange"
	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/play/workspace"
)

func (s *server) keepRoutes(api *echo.Group) {
	api.POST("/keep", s.keep)
}

// decided is a question that was decided.
type decided struct {
	question
	loaded  *workspace.Loaded
	request *dps.AllocationRequest
	report  *explain.Report
	rule    *ruleset.Rule // nil if none serves the enrollment
}

// decided decides a question. A text that is no request, or rules that do not load, are an error.
func (s *server) decided(ctx context.Context, q question) (*decided, error) {
	loaded, err := s.Workspace.Load(q.Edits)
	problems := loadProblems(err)
	if err != nil && problems == nil {
		return nil, err
	}
	d := &decided{question: q, loaded: loaded}
	if problems == nil {
		d.report, problems, err = s.explain(ctx, loaded, q, "")
	}
	switch {
	case problems != nil:
		return nil, fail(http.StatusUnprocessableEntity, errors.New(problems[0].String()))
	case err != nil:
		return nil, err
	}
	if d.request, err = dps.ParseAllocationRequest([]byte(q.Request)); err != nil {
		return nil, err // it was parsed before
	}
	d.rule = loaded.Rules.Serving(d.request.Enrollment)
	return d, nil
}

// kept is a file that was written.
type kept struct {
	Path string `json:"path"`
	Text string `json:"text"`
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,59}$`)

// keep writes a decision as an exchange or as a test, so that usher test notices when it changes.
func (s *server) keep(c echo.Context) error {
	var body struct {
		question
		As   string `json:"as"`
		Name string `json:"name"`
	}
	if err := read(c, &body); err != nil {
		return err
	}
	if s.Workspace.ReadOnly() {
		return workspace.ErrReadOnly
	}
	if !validName.MatchString(body.Name) {
		return fail(http.StatusBadRequest, errors.New("name it with lower-case letters, digits, - and _, such as press-of-line-a"))
	}
	ctx := c.Request().Context()
	d, err := s.decided(ctx, body.question)
	if err != nil {
		return err
	}
	var file kept
	switch body.As {
	case "exchange":
		file, err = s.keepExchange(ctx, d, body.Name)
	case "test":
		file, err = s.keepTest(ctx, d, strings.ReplaceAll(body.Name, "-", "_"))
	default:
		err = fail(http.StatusBadRequest, errors.New("as is neither exchange nor test"))
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, file)
}

func conflict(format string, args ...any) error {
	return fail(http.StatusConflict, fmt.Errorf(format, args...))
}

// publishable returns the text of the request without its keys, if the decision is the same without them. It keeps the
// device's certificate, which is no secret, if the rule looks at it.
func (s *server) publishable(ctx context.Context, d *decided) (string, error) {
	want, err := exchange.JSON(&d.report.Answer)
	if err != nil {
		return "", err
	}
	mask := masker{keymaterial.Of(d.request.Body())}
	text := mask.request(d.request, d.Request)
	for _, restore := range []bool{false, true} {
		if restore {
			document := d.request.Document()
			masked, _ := mask.Value(document).(map[string]any)
			device, _ := masked["deviceRuntimeContext"].(map[string]any)
			whole, _ := document["deviceRuntimeContext"].(map[string]any)
			if whole["x509"] == nil {
				break
			}
			device["x509"] = whole["x509"]
			if text, err = indented(masked); err != nil {
				return "", err
			}
		}
		again := d.question
		again.Request = text
		report, _, err := s.explain(ctx, d.loaded, again, "")
		if err != nil {
			return "", err
		}
		if report == nil {
			continue
		}
		if got, err := exchange.JSON(&report.Answer); err == nil && bytes.Equal(got, want) {
			return text, nil
		}
	}
	return "", conflict("the rule looks at a key of the request, which usher play does not write to a file: write the test by hand")
}

// keepExchange writes the two files of an exchange next to the rule.
func (s *server) keepExchange(ctx context.Context, d *decided, name string) (kept, error) {
	if len(d.Rows) > 0 {
		without := d.question
		without.Rows = nil
		report, _, err := s.explain(ctx, d.loaded, without, "")
		if err != nil {
			return kept{}, err
		}
		if report == nil || !reflect.DeepEqual(report.Decision, d.report.Decision) {
			return kept{}, conflict("an exchange is decided with the rows of the fixtures, and with these the answer is another one: keep it as a test")
		}
	}
	text, err := s.publishable(ctx, d)
	if err != nil {
		return kept{}, err
	}
	answer, err := exchange.JSON(&d.report.Answer)
	if err != nil {
		return kept{}, err
	}
	folder := "."
	if d.rule != nil {
		file, _ := ruleset.SplitPlace(d.rule.Place)
		folder = path.Dir(file)
	}
	base := path.Join(folder, name)
	for _, f := range []struct{ name, text string }{{base + exchange.DecisionSuffix, string(answer)}, {base + exchange.RequestSuffix, text}} {
		if _, err := s.Workspace.Save(f.name, &f.text, ""); err != nil {
			if _, exists := errors.AsType[*workspace.ChangedError](err); exists {
				return kept{}, conflict("there is a %s already: choose another name", f.name)
			}
			return kept{}, err
		}
	}
	return kept{base + exchange.RequestSuffix, text}, nil
}

// keepTest adds a test to those of the rule's package.
func (s *server) keepTest(ctx context.Context, d *decided, name string) (kept, error) {
	if d.rule == nil {
		return kept{}, conflict("no rule serves the enrollment, so that there is nothing to test: keep it as an exchange")
	}
	rego, _ := ruleset.SplitPlace(d.rule.Place)
	file := strings.TrimSuffix(rego, ".rego") + "_test.rego"
	if _, edited := d.Edits[file]; edited {
		return kept{}, conflict("%s has unsaved edits: save it first", file)
	}
	before, digest, err := s.Workspace.Read(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kept{}, err
	}
	if regexp.MustCompile(`(?m)^test_` + name + `\b`).MatchString(before) {
		return kept{}, conflict("%s has a test_%s already: choose another name", file, name)
	}
	text, err := s.publishable(ctx, d)
	if err != nil {
		return kept{}, err
	}
	test, err := testOf(d, name, text)
	if err != nil {
		return kept{}, err
	}
	header := "package " + d.rule.Package + "_test\n"
	formatted, err := workspace.Format(file, header+"\n"+test)
	if err != nil {
		return kept{}, err
	}
	after := formatted
	if before != "" {
		after = strings.TrimRight(before, "\n") + "\n" + strings.TrimPrefix(formatted, header)
	}
	if err := s.tryTest(ctx, d, file, after, name); err != nil {
		return kept{}, err
	}
	if _, err := s.Workspace.Save(file, &after, digest); err != nil {
		return kept{}, err
	}
	return kept{file, after}, nil
}

// tryTest makes sure that a test passes.
func (s *server) tryTest(ctx context.Context, d *decided, file, text, name string) error {
	edits := workspace.Edits{file: &text}
	for name, edit := range d.Edits {
		edits[name] = edit
	}
	files, _, err := s.Workspace.Overlay(edits)
	if err != nil {
		return err
	}
	suite, err := ruletest.Load(ctx, files, ruletest.Options{AllowBuiltins: s.Rules.AllowBuiltins, AllowNet: s.Rules.AllowNet,
		Run: regexp.MustCompile(`\.test_` + name + `$`)})
	if err != nil {
		return conflict("the tests do not load: %w", err)
	}
	failed, err := suite.FirstFailure(ctx)
	if err != nil {
		return conflict("the tests do not load: %w", err)
	}
	if failed != nil {
		return conflict("the decision cannot be written as a test, because the test fails: keep it as an exchange")
	}
	return nil
}

// testOf writes a test of what the entry rules say, and of the rows that they looked up if those are not of the fixtures.
func testOf(d *decided, name, request string) (string, error) {
	var text, with strings.Builder
	replaced := map[string]bool{}
	for _, one := range d.Rows {
		replaced[one.Lookup] = true
	}
	for _, declared := range d.loaded.Rules.Set().Lookups() {
		if !replaced[declared.Name] {
			continue
		}
		function := fmt.Sprintf("%s_%s", name, declared.Name)
		if function[0] >= '0' && function[0] <= '9' {
			function = "row_" + function
		}
		fmt.Fprintf(&with, " with %s as %s", ruleset.LookupBuiltin(declared.Name), function)
		written := false
		for _, found := range d.report.Rows {
			switch {
			case found.Function != ruleset.LookupBuiltin(declared.Name):
			case found.Fault != "":
				return "", conflict("a test cannot make the source of a look-up fail")
			case found.Row != nil:
				key := "lower(key)"
				if declared.CaseSensitive {
					key = "key"
				}
				fmt.Fprintf(&text, "%s(key) := %s if %s == %s\n\n", function, literal(found.Row), key, literal(found.Key))
				written = true
			}
		}
		if !written {
			fmt.Fprintf(&text, "# No row.\n%s(key) := key if key == \"\"\n\n", function)
		}
	}
	fmt.Fprintf(&text, "test_%s if {\n\trequest := %s\n", name, strings.TrimSpace(request))
	said := 0
	for _, entry := range d.report.Entries {
		if !entry.Asked || entry.Error != "" {
			continue
		}
		said++
		at := d.rule.Entry(entry.Name).String()
		if value := expected(entry); value == "" {
			fmt.Fprintf(&text, "\tnot %s with input as request%s\n", at, with.String())
		} else {
			fmt.Fprintf(&text, "\t%s == %s with input as request%s\n", at, value, with.String())
		}
	}
	if said == 0 {
		return "", conflict("the rule says nothing that a test could expect: keep it as an exchange")
	}
	text.WriteString("}\n")
	return text.String(), nil
}

// expected is what an entry rule says, in Rego; empty if it is undefined.
func expected(entry explanation.Entry) string {
	list, isList := entry.Value.([]any)
	switch {
	case entry.Value == nil:
		return ""
	case !isList || !slices.Contains([]string{"reject", "hold"}, entry.Name):
		return literal(entry.Value)
	case len(list) == 0:
		return "set()"
	}
	elements := make([]string, len(list))
	for i, element := range list {
		elements[i] = literal(element)
	}
	return "{" + strings.Join(elements, ", ") + "}"
}

// literal writes a value in Rego, which takes JSON as it is.
func literal(value any) string { return string(dps.AppendValue(nil, value)) }

// String writes a problem as the command line does.
func (p problem) String() string {
	text := fmt.Sprintf("%s:%d: %s", cmp.Or(p.File, "the folder of the rules"), p.Line, p.Message)
	if p.Fix != "" {
		text += " (" + p.Fix + ")"
	}
	return text
}
