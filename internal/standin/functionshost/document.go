package functionshost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxDocument bounds a configuration file, in bytes. A host.json is a few hundred bytes; a megabyte is a mistake.
const maxDocument = 1 << 20

// document is a JSON file and the position of everything in it, so that an error can name the line.
type document struct {
	name     string // as shown in errors
	data     []byte
	pointers []jsontext.Pointer // of all values, in the order of the file
	offsets  map[string]int64   // from folded pointers to byte offsets
}

// readDocument reads a JSON file and decodes it into v. Like the host, it ignores the case of property names.
func readDocument(path, name string, v any) (*document, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readAtMost(f, maxDocument)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return parseDocument(data, name, v)
}

// readAtMost reads everything, and fails if there are more bytes than the limit.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

func parseDocument(data []byte, name string, v any) (*document, error) {
	// Visual Studio and the Core Tools on Windows write a byte order mark.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	d := &document{name: name, data: data, offsets: map[string]int64{}}
	if err := d.index(); err != nil {
		return nil, d.locate(err)
	}
	if err := json.Unmarshal(data, v, json.MatchCaseInsensitiveNames(true)); err != nil {
		return nil, d.locate(err)
	}
	return d, nil
}

// index records where each value starts, or its name if it has one.
func (d *document) index() error {
	decoder := jsontext.NewDecoder(bytes.NewReader(d.data))
	for {
		rest := d.data[decoder.InputOffset():]
		start := len(d.data) - len(bytes.TrimLeft(rest, " \t\r\n,:"))
		if _, err := decoder.ReadToken(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		// The value after a name, and the end of an object or array, have a pointer that was seen before.
		pointer := decoder.StackPointer()
		if !d.has(pointer) {
			d.pointers = append(d.pointers, pointer)
			d.offsets[fold(pointer)] = int64(start)
		}
	}
}

func fold(p jsontext.Pointer) string { return strings.ToLower(string(p)) }

// has reports whether the document has a value at the pointer.
func (d *document) has(p jsontext.Pointer) bool {
	_, ok := d.offsets[fold(p)]
	return ok
}

// errorf returns an error that starts with file:line:column and the JSON pointer. If there is no value at the pointer,
// the position is that of its nearest parent.
func (d *document) errorf(p jsontext.Pointer, format string, args ...any) error {
	near := p
	for near != "" && !d.has(near) {
		near = near.Parent()
	}
	return d.errorAt(d.offsets[fold(near)], p, fmt.Errorf(format, args...))
}

func (d *document) errorAt(offset int64, p jsontext.Pointer, err error) error {
	before := d.data[:min(max(offset, 0), int64(len(d.data)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	if p == "" {
		return fmt.Errorf("%s:%d:%d: %w", d.name, line, column, err)
	}
	return fmt.Errorf("%s:%d:%d: %s: %w", d.name, line, column, p, err)
}

// locate adds the position to an error of the decoder.
func (d *document) locate(err error) error {
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return d.errorAt(syntactic.ByteOffset, syntactic.JSONPointer, fmt.Errorf("not valid JSON: %w (comments and trailing commas are not JSON)", syntactic.Err))
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		return d.errorf(semantic.JSONPointer, "found a JSON %s, want %s", semantic.JSONKind, semantic.GoType)
	}
	return fmt.Errorf("%s: %w", d.name, err)
}

// onlyKnown returns an error if the object at parent has another property than the known ones. The real host ignores
// unknown properties, so a misspelt setting has no effect there.
func (d *document) onlyKnown(parent jsontext.Pointer, known ...string) error {
	for _, p := range d.pointers {
		isKnown := func(name string) bool { return strings.EqualFold(name, p.LastToken()) }
		if p != "" && fold(p.Parent()) == fold(parent) && !slices.ContainsFunc(known, isKnown) {
			return d.errorf(p, "unknown property: the Functions host would ignore it; known here: %s", strings.Join(known, ", "))
		}
	}
	return nil
}
