package configfile

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/entra"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// reader reads YAML and decodes it as JSON, because enrollments are JSON of DPS's service API. It knows the line of
// each value, and collects what is wrong.
type reader struct {
	name     string         // of the file
	lines    map[string]int // by path, such as hubs[0].weight
	problems []problem
}

type problem struct{ path, text string }

// newReader returns the reader of a file and the file's content.
func newReader(name string, text []byte) (*reader, any, error) {
	r := &reader{name: name, lines: map[string]int{}}
	file, err := parser.ParseBytes(text, 0)
	var content any
	if err == nil && len(file.Docs) > 0 && file.Docs[0].Body != nil {
		ast.Walk(r, file.Docs[0].Body)
		err = yaml.NodeToValue(file.Docs[0].Body, &content)
	}
	if wrong, ok := errors.AsType[yaml.Error](err); ok {
		err = fmt.Errorf("%s:%d: %s", name, wrong.GetToken().Position.Line, wrong.GetMessage())
	} else if err != nil {
		err = fmt.Errorf("%s:1: %w", name, err)
	}
	return r, content, err
}

// Visit implements [ast.Visitor]. It remembers lines; a member has the line of its name.
func (r *reader) Visit(node ast.Node) ast.Visitor {
	path := strings.TrimPrefix(strings.TrimPrefix(node.GetPath(), "$"), ".")
	if _, known := r.lines[path]; !known {
		r.lines[path] = node.GetToken().Position.Line
	}
	return r
}

func (r *reader) add(path, format string, args ...any) {
	r.problems = append(r.problems, problem{path, fmt.Sprintf(format, args...)})
}

// isWrong reports whether there is a problem with a value or a part of it.
func (r *reader) isWrong(path string) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool {
		rest, ok := strings.CutPrefix(p.path, path)
		return ok && (path == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// line is that of a value, or of what it is missing in.
func (r *reader) line(path string) int {
	for r.lines[path] == 0 && path != "" {
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return max(r.lines[path], 1)
}

func (r *reader) place(path string) string {
	return fmt.Sprintf("%s:%d: %s", r.name, r.line(path), cmp.Or(path, "(root)"))
}

// err is everything that is wrong, in the order of lines.
func (r *reader) err() error {
	slices.SortStableFunc(r.problems, func(a, b problem) int { return cmp.Compare(r.line(a.path), r.line(b.path)) })
	var problems []error
	for _, p := range r.problems {
		problems = append(problems, fmt.Errorf("%s: %s", r.place(p.path), p.text))
	}
	return errors.Join(problems...)
}

// below is the path of a member or an item.
func below(path, name string) string {
	if _, err := strconv.Atoi(name); err == nil {
		return path + "[" + name + "]"
	}
	return strings.TrimPrefix(path+"."+name, ".")
}

// types say how to read values of some Go types.
type types = *jsonv2.Unmarshalers

// decode reads the value at a path into target. It reports a part that cannot be read, drops it and reads the rest.
func (r *reader) decode(path string, value, target any, types types) {
	for {
		text, err := jsonv2.Marshal(value, jsonv2.Deterministic(true))
		if err == nil {
			err = jsonv2.Unmarshal(text, target, jsonv2.RejectUnknownMembers(true), jsonv2.WithUnmarshalers(types))
		}
		wrong, ok := errors.AsType[*jsonv2.SemanticError](err)
		if !ok {
			if err != nil {
				r.add(path, "%v", err)
			}
			return
		}
		at := path
		for name := range wrong.JSONPointer.Tokens() {
			at = below(at, name)
		}
		if r.isWrong(at) {
			return // it could not be dropped
		}
		r.add(at, "%s", describe(wrong))
		drop(value, slices.Collect(wrong.JSONPointer.Tokens()))
	}
}

// drop removes a part of a value.
func drop(value any, at []string) {
	for i, name := range at {
		last := i == len(at)-1
		switch v := value.(type) {
		case map[string]any:
			if value = v[name]; last {
				delete(v, name)
			}
		case []any:
			n, _ := strconv.Atoi(name) // JSON pointers have no others
			if value = v[n]; last {
				v[n] = nil
			}
		}
	}
}

// complaint is an error for the user.
type complaint string

func (c complaint) Error() string { return string(c) }

var (
	wanted = map[reflect.Kind]string{
		reflect.Struct: "a mapping (name: value)", reflect.Map: "a mapping (name: value)", reflect.Slice: "a list (- item)",
		reflect.String: "text (a number in quotes)", reflect.Bool: "true or false", reflect.Float64: "a number",
	}
	given = map[jsontext.Kind]string{'{': "a mapping", '[': "a list", '"': "text", 'n': "nothing", 't': "true", 'f': "false"}
)

// describe says what is wrong without the value, which may be a key.
func describe(e *jsonv2.SemanticError) string {
	if c, ok := errors.AsType[complaint](e.Err); ok {
		return string(c)
	}
	if errors.Is(e.Err, jsonv2.ErrUnknownName) {
		return "there is no such field; here can be " + fieldNames(e.GoType)
	}
	return "want " + cmp.Or(wanted[e.GoType.Kind()], "a whole number from 0") + ", got " + cmp.Or(given[e.JSONKind], string(e.JSONValue), "a number")
}

// fieldNames lists the members that a Go type has in JSON.
func fieldNames(of reflect.Type) string {
	names := map[string]bool{}
	for _, field := range reflect.VisibleFields(of) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			names[name] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// scalar reads values of a Go type from a scalar's text. An error of parse that is no complaint becomes one about what
// is wanted.
func scalar[T any](want string, parse func(string) (T, error)) types {
	return jsonv2.UnmarshalFunc(func(value []byte, target *T) error {
		kind, text := jsontext.Value(value).Kind(), string(value)
		if kind == '"' {
			_ = jsonv2.Unmarshal(value, &text) // it is valid
		}
		parsed, err := parse(text)
		if _, ok := errors.AsType[complaint](err); err != nil && !ok {
			err = complaint("want " + want + ", got " + cmp.Or(given[kind], text))
		}
		*target = parsed
		return err
	})
}

func positive[T int | time.Duration](value T, err error) (T, error) {
	if err == nil && value <= 0 {
		err = errors.New("not above 0")
	}
	return value, err
}

// key is a key in base64.
type key string

func parseKey(text string) (key, error) {
	decoded, err := attest.DecodeKey(text)
	if err == nil && len(decoded) < 16 {
		err = errors.New("too short")
	}
	return key(text), err
}

// files reads files relative to a folder.
type files string

func (folder files) read(file string) ([]byte, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(string(folder), file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		err = complaint(err.Error())
	}
	return text, err
}

// certificate is the text of a certificate in a file.
type certificate string

func (folder files) certificate(file string) (certificate, error) {
	text, err := folder.read(file)
	if err != nil {
		return "", err
	}
	if _, err := attest.ParseCertificate(string(text)); err != nil {
		return "", complaint(file + ": " + err.Error())
	}
	return certificate(text), nil
}

func (folder files) pool(file string) (x509.CertPool, error) {
	pool := x509.NewCertPool()
	text, err := folder.read(file)
	if err == nil && !pool.AppendCertsFromPEM(text) {
		err = complaint(file + " has no certificate in PEM")
	}
	return *pool, err
}

func (folder files) keys(file string) (entra.Keys, error) {
	text, err := folder.read(file)
	if err != nil {
		return entra.Keys{}, err
	}
	keys, err := entra.ParseKeys(text)
	if err != nil {
		err = complaint(file + ": " + err.Error())
	}
	return keys, err
}

// settingTypes read settings.
func settingTypes(folder files) types {
	return jsonv2.JoinUnmarshalers(
		scalar("a whole number from 1", func(text string) (int, error) { return positive(strconv.Atoi(text)) }),
		scalar("a time such as 5s or 250ms", func(text string) (time.Duration, error) { return positive(time.ParseDuration(text)) }),
		scalar("a time such as 5s or 250ms", func(text string) (d dpssim.Duration, err error) {
			err = d.UnmarshalText([]byte(text))
			return d, err
		}),
		scalar("a key: at least 16 bytes in base64, such as openssl rand -base64 32 makes", parseKey),
		scalar("a file", folder.pool),
		scalar("a file", folder.keys),
		scalar("a file", func(file string) (c x509.Certificate, err error) {
			text, err := folder.certificate(file)
			if parsed, _ := attest.ParseCertificate(string(text)); parsed != nil {
				c = *parsed
			}
			return c, err
		}),
	)
}

// enrollmentTypes read the short forms of enrollments.
func enrollmentTypes(folder files) types {
	return jsonv2.JoinUnmarshalers(
		scalar("a file", folder.certificate),
		jsonv2.UnmarshalFromFunc(func(decoder *jsontext.Decoder, target *model.X509Certificate) error {
			var given struct {
				model.X509Certificate
				File certificate `json:"certificateFile"`
			}
			err := jsonv2.UnmarshalDecode(decoder, &given)
			*target = given.X509Certificate
			target.Certificate = cmp.Or(string(given.File), target.Certificate)
			return err
		}),
		jsonv2.UnmarshalFromFunc(func(decoder *jsontext.Decoder, policy *model.ReprovisionPolicy) error {
			if decoder.PeekKind() != '"' {
				return errors.ErrUnsupported
			}
			word, err := decoder.ReadToken()
			var known bool
			if *policy, known = dpssim.ReprovisionPolicies[word.String()]; err == nil && !known {
				err = complaint("want migrate, reset or never, or the object of the service API")
			}
			return err
		}),
	)
}
