package dps

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a body. DPS's bodies stay far below all of them.
const (
	// MaxDepth is how deep objects and arrays may nest. DPS's own members nest 6 deep, and a twin in an enrollment 12;
	// the rest is room for the device's payload.
	MaxDepth = 64
	// maxNumberLength bounds a number's text. Every float64 and every 64-bit integer is shorter.
	maxNumberLength = 64
	// maxExponent bounds a number's exponent; float64 ends at 308. A validator or a rule would compute with a million
	// digits if it met 1e999999.
	maxExponent = 308
)

// MalformedError says why a body is not a JSON document that DPS could have sent. Its text never contains a value of
// the body.
type MalformedError struct {
	// Pointer is the JSON pointer (RFC 6901) of the place; empty for the root. It is cut off after 256 bytes: names of
	// members can have any length.
	Pointer string
	// Offset is the place in bytes from the start of the body.
	Offset int64
	// Problem describes what is wrong there.
	Problem string
}

func (e *MalformedError) Error() string {
	place := "the root"
	if e.Pointer != "" {
		place = e.Pointer
	}
	return fmt.Sprintf("%s at %s (byte %d)", e.Problem, place, e.Offset)
}

// ParseAllocationRequest reads one JSON object. It refuses, with a *MalformedError, what encoding/json would accept:
// duplicate member names, invalid UTF-8, anything after the object, nesting deeper than MaxDepth, and numbers outside
// the range of a float64. The caller bounds the size of the body. The result shares no memory with body.
func ParseAllocationRequest(body []byte) (*AllocationRequest, error) {
	document, err := parse(body, &requestShape)
	if err != nil {
		return nil, err
	}
	settlePayload(&document)
	request := &AllocationRequest{body: &document}
	request.read()
	return request, nil
}

// settlePayload replaces a payload that is the JSON text of an object by that object. The Java SDK always sends its
// payload as such a text (azure-iot-sdk-java, DeviceRegistrationParser). Any other text stays as it is.
func settlePayload(document *Value) {
	payload := document.Get("deviceRuntimeContext").Get("payload")
	if !strings.HasPrefix(strings.TrimLeft(payload.Text(), " \t\r\n"), "{") {
		return
	}
	if object, err := parse([]byte(payload.text), nil); err == nil {
		object.name = payload.name
		*payload = object
	}
}

// parse reads one JSON object, whose members have the shape.
func parse(body []byte, shape *shape) (Value, error) {
	p := parsers.Get().(*parser)
	defer p.release()
	p.source = *bytes.NewBuffer(body) // the decoder reads it in place
	p.text = string(body)             // one copy; most strings are parts of it
	p.decoder.Reset(&p.source, decoderOptions)
	// A value follows a comma, or opens an object or array. Strings can have commas too, which are no reason for much
	// memory.
	p.arena = make([]Value, 0, min(bytes.Count(body, comma)+bytes.Count(body, brace)+bytes.Count(body, bracket), maxArena))

	if p.decoder.PeekKind() != '{' {
		if _, err := p.decoder.ReadToken(); err != nil {
			return Value{}, p.malformed(err)
		}
		return Value{}, p.problem("the body is not a JSON object")
	}
	document, err := p.object(shape)
	if err != nil {
		return Value{}, err
	}
	if _, err := p.decoder.ReadToken(); err != io.EOF {
		return Value{}, p.problem("there is data after the JSON object")
	}
	return document, nil
}

var comma, brace, bracket = []byte(","), []byte("{"), []byte("[")

// maxArena is how many values memory is made for at once.
const maxArena = 256

// parsers keeps decoders, whose buffers grow to the size of a body.
var parsers = sync.Pool{New: func() any {
	p := new(parser)
	p.decoder = jsontext.NewDecoder(&p.source)
	return p
}}

// decoderOptions let the parser find duplicate names, since it looks at every name anyway.
var decoderOptions = jsontext.AllowDuplicateNames(true)

type parser struct {
	source  bytes.Buffer
	text    string // the same as source
	decoder *jsontext.Decoder
	open    []Value  // the values so far of the objects and arrays that are not closed yet
	names   []string // the names in those objects, without DPS's own
	arena   []Value  // memory for the values of those that are closed
}

func (p *parser) release() {
	p.source, p.text, p.arena = bytes.Buffer{}, "", nil
	if clear(p.open[:cap(p.open)]); cap(p.open) > maxArena {
		p.open = nil
	}
	if clear(p.names[:cap(p.names)]); cap(p.names) > maxArena {
		p.names = nil
	}
	p.open, p.names = p.open[:0], p.names[:0]
	p.decoder.Reset(&p.source, decoderOptions)
	parsers.Put(p)
}

// close takes the values from this one on, which are those of one object or array, out of the open ones.
func (p *parser) close(from int) []Value {
	values := p.open[from:]
	if len(values) > cap(p.arena)-len(p.arena) {
		p.arena = make([]Value, 0, max(len(values), maxArena))
	}
	start := len(p.arena)
	p.arena = append(p.arena, values...)
	p.open = p.open[:from]
	return p.arena[start:len(p.arena):len(p.arena)]
}

// value reads the next value. shape says which of an object's members are DPS's own; it is nil below a member whose
// content DPS does not define.
func (p *parser) value(shape *shape) (Value, error) {
	switch p.decoder.PeekKind() {
	case '{':
		return p.object(shape)
	case '[':
		return p.array()
	case '"':
		text, err := p.string()
		return StringValue(text), err
	case '0':
		text, err := p.number()
		return Value{kind: Number, text: text}, err
	}
	token, err := p.decoder.ReadToken()
	if err != nil {
		return Value{}, p.malformed(err)
	}
	switch token.Kind() {
	case 't', 'f':
		return BoolValue(token.Bool()), nil
	default:
		return Value{}, nil // null: the decoder refuses any other kind here
	}
}

func (p *parser) object(shape *shape) (Value, error) {
	if err := p.enter(); err != nil {
		return Value{}, err
	}
	from := len(p.open)
	seen := names{first: len(p.names)}
	var variants []string
	for p.decoder.PeekKind() != '}' {
		name, own, err := p.name(shape)
		if err != nil {
			return Value{}, err
		}
		value, err := p.value(own.below)
		if err != nil {
			return Value{}, err
		}
		if !seen.add(p, name, own) {
			return Value{}, p.problem("a member name occurs twice in one object")
		}
		if own.name != "" {
			if value.kind == Null {
				continue // a null among DPS's own members means that it is absent
			}
			if own.name != name {
				variants = append(variants, name)
			}
		}
		value.name = name
		p.open = append(p.open, value)
	}
	if _, err := p.decoder.ReadToken(); err != nil {
		return Value{}, p.malformed(err)
	}
	p.names = p.names[:seen.first]
	members := p.close(from)
	shape.settle(members, variants)
	return Value{kind: Object, below: ordered(members)}, nil
}

// names finds names that occur twice in one object.
type names struct {
	own   uint64 // those of DPS, by their numbers
	first int    // of the others in parser.names
	index map[string]struct{}
}

func (n *names) add(p *parser, name string, own shapeMember) bool {
	if own.name == name && name != "" {
		before := n.own
		n.own |= 1 << own.number
		return n.own != before
	}
	others := p.names[n.first:]
	if n.index == nil && len(others) == many {
		n.index = make(map[string]struct{}, 2*many)
		for _, other := range others {
			n.index[other] = struct{}{}
		}
	}
	if n.index != nil {
		before := len(n.index)
		n.index[name] = struct{}{}
		return len(n.index) != before
	}
	p.names = append(p.names, name)
	return !slices.Contains(others, name)
}

func (p *parser) array() (Value, error) {
	if err := p.enter(); err != nil {
		return Value{}, err
	}
	from := len(p.open)
	for p.decoder.PeekKind() != ']' {
		value, err := p.value(nil)
		if err != nil {
			return Value{}, err
		}
		p.open = append(p.open, value)
	}
	if _, err := p.decoder.ReadToken(); err != nil {
		return Value{}, p.malformed(err)
	}
	return Value{kind: Array, below: p.close(from)}, nil
}

// enter reads the bracket that opens an object or array.
func (p *parser) enter() error {
	if p.decoder.StackDepth() == MaxDepth {
		return p.problem("objects and arrays nest deeper than " + strconv.Itoa(MaxDepth))
	}
	if _, err := p.decoder.ReadToken(); err != nil {
		return p.malformed(err)
	}
	return nil
}

func (p *parser) string() (string, error) {
	raw, err := p.decoder.ReadValue()
	if err != nil {
		return "", p.malformed(err)
	}
	return p.unquote(raw), nil
}

// name reads a member's name, without an allocation for DPS's own names, and looks the member up in shape. The result
// is empty if it is not one of DPS's own.
func (p *parser) name(shape *shape) (string, shapeMember, error) {
	raw, err := p.decoder.ReadValue()
	if err != nil {
		return "", shapeMember{}, p.malformed(err)
	}
	if raw.Kind() != '"' {
		return "", shapeMember{}, p.problem("a member name is not a string")
	}
	if shape == nil {
		return p.unquote(raw), shapeMember{}, nil
	}
	if own, ok := shape.members[string(raw[1:len(raw)-1])]; ok {
		return own.name, own, nil
	}
	name := p.unquote(raw)
	own, _ := shape.find(name)
	return name, own, nil
}

// unquote returns the text of the JSON string that the decoder has just read.
func (p *parser) unquote(raw jsontext.Value) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		quoted := p.read(raw)
		return quoted[1 : len(quoted)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, raw)
	return string(text)
}

// read returns the value that the decoder has just read as a part of the text.
func (p *parser) read(raw jsontext.Value) string {
	end := int(p.decoder.InputOffset())
	return p.text[end-len(raw) : end]
}

func (p *parser) number() (string, error) {
	raw, err := p.decoder.ReadValue()
	if err != nil {
		return "", p.malformed(err)
	}
	if len(raw) > maxNumberLength {
		return "", p.problem("a number is longer than " + strconv.Itoa(maxNumberLength) + " characters")
	}
	if i := bytes.IndexAny(raw, "eE"); i >= 0 {
		exponent, err := strconv.Atoi(string(raw[i+1:]))
		if err != nil || exponent > maxExponent || exponent < -maxExponent {
			return "", p.problem("the exponent of a number is beyond " + strconv.Itoa(maxExponent))
		}
		if _, err := strconv.ParseFloat(string(raw), 64); err != nil { // such as 9e308
			return "", p.problem("a number is beyond the range of a float64")
		}
	}
	return p.read(raw), nil
}

// problem is an error at the place that the decoder has reached.
func (p *parser) problem(problem string) error {
	return &MalformedError{Pointer: pointer(p.decoder.StackPointer()), Offset: p.decoder.InputOffset(), Problem: problem}
}

// maxPointer bounds a JSON pointer in a message, in bytes.
const maxPointer = 256

func pointer(p jsontext.Pointer) string {
	if len(p) <= maxPointer {
		return string(p)
	}
	return strings.ToValidUTF8(string(p[:maxPointer]), "") + "…"
}

// malformed describes a decoder's error without quoting the body.
func (p *parser) malformed(err error) error {
	malformed := &MalformedError{
		Pointer: pointer(p.decoder.StackPointer()),
		Offset:  p.decoder.InputOffset(),
		Problem: "the body is not valid JSON",
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		malformed.Pointer, malformed.Offset = pointer(syntactic.JSONPointer), syntactic.ByteOffset
		err = syntactic.Err // without the pointer, whose names could look like an error
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		malformed.Problem = "the body ends before the JSON object does"
		if malformed.Offset == 0 {
			malformed.Problem = "the body is empty"
		}
	case errors.Is(err, jsontext.ErrNonStringName):
		malformed.Problem = "a member name is not a string"
	case strings.Contains(err.Error(), "invalid UTF-8"):
		malformed.Problem = "the body is not valid UTF-8"
	}
	return malformed
}
