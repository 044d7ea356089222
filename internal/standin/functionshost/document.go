package functionshost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxDocument bounds a configuration file. A host.json is a few hundred bytes; a megabyte is a mistake.
const maxDocument = 1 << 20

// document is one JSON file and where everything in it stands, so that an error can name the line.
type document struct {
	name    string // as shown in errors
	data    []byte
	members []member
	offsets map[string]int64 // folded JSON pointer -> byte offset of the value
}

// member is one property of one object: the object's pointer and the property's name.
type member struct {
	parent jsontext.Pointer
	name   string
	at     jsontext.Pointer
}

// readDocument reads a JSON file and decodes it into v. The host matches property names without case, so this does.
func readDocument(path, name string, v any) (*document, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("%s is larger than %d bytes: it is not a configuration file of the Functions host", name, maxDocument)
	}
	return parseDocument(data, name, v)
}

func parseDocument(data []byte, name string, v any) (*document, error) {
	// Visual Studio and the Core Tools on Windows write a byte order mark.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	d := &document{name: name, data: data, offsets: map[string]int64{}}
	if err := d.index(); err != nil {
		return nil, d.located(err)
	}
	if err := json.Unmarshal(data, v, json.MatchCaseInsensitiveNames(true)); err != nil {
		return nil, d.located(err)
	}
	return d, nil
}

// index walks the tokens once and notes where each value starts.
func (d *document) index() error {
	dec := jsontext.NewDecoder(bytes.NewReader(d.data))
	for {
		kind := dec.PeekKind()
		depth := dec.StackDepth()
		parent, length := dec.StackIndex(depth)
		isName := depth > 0 && parent == '{' && length%2 == 0 && kind == '"'
		token, err := dec.ReadToken()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at := dec.StackPointer()
		switch token.Kind() {
		case '}', ']':
			continue
		}
		if isName {
			d.members = append(d.members, member{parent: at.Parent(), name: token.String(), at: at})
		}
		// A value overwrites the offset of its name; both are on the line that a reader looks for, but the name is
		// where the eye lands, so the first one is kept.
		if _, seen := d.offsets[fold(at)]; !seen {
			d.offsets[fold(at)] = d.start(dec.InputOffset(), token)
		}
	}
}

// start gives the offset at which a token that ends at end begins.
func (d *document) start(end int64, token jsontext.Token) int64 {
	switch token.Kind() {
	case '{', '[':
		return end - 1
	case '"':
		// The raw spelling may be longer than the string; the opening quote is found by searching back.
		for i := end - 2; i >= 0; i-- {
			if d.data[i] == '"' && (i == 0 || d.data[i-1] != '\\') {
				return i
			}
		}
	}
	return end - 1
}

func fold(p jsontext.Pointer) string { return strings.ToLower(string(p)) }

// has reports whether the document has a value at the pointer.
func (d *document) has(p jsontext.Pointer) bool {
	_, ok := d.offsets[fold(p)]
	return ok
}

// errorf makes an error that starts with file:line:column and the JSON pointer. A pointer that is not in the file
// gives the place of its nearest parent.
func (d *document) errorf(p jsontext.Pointer, format string, args ...any) error {
	offset, near := int64(0), p
	for {
		if at, ok := d.offsets[fold(near)]; ok {
			offset = at
			break
		}
		if near == "" {
			break
		}
		near = near.Parent()
	}
	return d.errorAt(offset, p, fmt.Errorf(format, args...))
}

func (d *document) errorAt(offset int64, p jsontext.Pointer, err error) error {
	offset = min(max(offset, 0), int64(len(d.data)))
	before := d.data[:offset]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1) + 1
	if p == "" {
		return fmt.Errorf("%s:%d:%d: %w", d.name, line, column, err)
	}
	return fmt.Errorf("%s:%d:%d: %s: %w", d.name, line, column, p, err)
}

// located gives the decoder's own errors the same shape.
func (d *document) located(err error) error {
	var syntactic *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntactic):
		return d.errorAt(syntactic.ByteOffset, syntactic.JSONPointer, fmt.Errorf("not valid JSON: %w (comments and trailing commas are not JSON)", syntactic.Err))
	case errors.As(err, &semantic):
		return d.errorf(semantic.JSONPointer, "a JSON %s cannot stand here, want %s", semantic.JSONKind, semantic.GoType)
	default:
		return fmt.Errorf("%s: %w", d.name, err)
	}
}

// onlyKnown refuses properties of the objects at parent that are not in known. The real host ignores them, which is
// how a misspelt setting comes to mean nothing.
func (d *document) onlyKnown(parent jsontext.Pointer, known ...string) error {
	for _, m := range d.members {
		if fold(m.parent) != fold(parent) || containsFold(known, m.name) {
			continue
		}
		return d.errorf(m.at, "unknown property: the Functions host would ignore it; known here: %s", strings.Join(known, ", "))
	}
	return nil
}

func containsFold(list []string, s string) bool {
	for _, item := range list {
		if strings.EqualFold(item, s) {
			return true
		}
	}
	return false
}
