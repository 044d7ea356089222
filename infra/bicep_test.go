package infra_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// There is no Bicep compiler in Go. This parser supports the part of the language that the templates use, and fails on
// everything else. Source: https://learn.microsoft.com/azure/azure-resource-manager/bicep/file

// template is a Bicep file.
type template struct {
	file    string
	scope   string
	params  map[string]declaration
	vars    map[string]node
	outputs map[string]node
	// resources and modules are keyed by symbolic name; nested resources by parent::child.
	resources, modules map[string]resource
}

type declaration struct {
	kind      string // string, int, bool, ...
	byDefault bool   // it has a default value
}

type resource struct {
	kind     string // type@version, or the file of a module
	existing bool
	when     *node // the condition
	loop     *node // the list of a loop
	body     node
}

// node is an expression. For a literal, one of the first four fields is set.
type node struct {
	object  map[string]node
	array   []node
	text    *string // a string without interpolation
	literal string  // number, true, false, null
	// source is the text in the file; names are the symbols that it refers to.
	source string
	names  []string
	parts  []node // of an expression that is not a literal
}

// at returns the node at a path of member names.
func (n node) at(path ...string) node {
	for _, name := range path {
		n = n.object[name]
	}
	return n
}

// value returns a string or another literal.
func (n node) value() string {
	if n.text != nil {
		return *n.text
	}
	return n.literal
}

// all returns the symbols of a node and of everything below it.
func (n node) all() []string {
	names := slices.Clone(n.names)
	for _, member := range n.object {
		names = append(names, member.all()...)
	}
	for _, list := range [][]node{n.array, n.parts} {
		for _, element := range list {
			names = append(names, element.all()...)
		}
	}
	return names
}

func read(t *testing.T, file string) template {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := &parser{text: string(text), file: file}
	parsed := p.template()
	if p.problem != "" {
		t.Fatal(p.problem)
	}
	return parsed
}

type parser struct {
	text, file string
	i          int
	local      []string // variables of loops and lambdas
	problem    string
}

func (p *parser) fail(format string, args ...any) {
	if p.problem == "" {
		line := 1 + strings.Count(p.text[:min(p.i, len(p.text))], "\n")
		p.problem = fmt.Sprintf("%s:%d: %s", p.file, line, fmt.Sprintf(format, args...))
	}
	p.i = len(p.text)
}

// space skips blanks and comments, and optionally the ends of lines.
func (p *parser) space(lines bool) {
	for p.i < len(p.text) {
		switch rest := p.text[p.i:]; {
		case rest[0] == ' ' || rest[0] == '\t' || lines && (rest[0] == '\n' || rest[0] == '\r'):
			p.i++
		case strings.HasPrefix(rest, "//"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			p.i += end
		default:
			return
		}
	}
}

func (p *parser) peek(text string) bool { return strings.HasPrefix(p.text[p.i:], text) }

func (p *parser) accept(text string) bool {
	p.space(false)
	if !p.peek(text) {
		return false
	}
	p.i += len(text)
	return true
}

func (p *parser) expect(text string) {
	if !p.accept(text) {
		p.fail("want %q", text)
	}
}

func (p *parser) word() string {
	p.space(false)
	start := p.i
	for p.i < len(p.text) && (unicode.IsLetter(rune(p.text[p.i])) || unicode.IsDigit(rune(p.text[p.i])) || p.text[p.i] == '_') {
		p.i++
	}
	if start == p.i {
		p.fail("want a name")
		return ""
	}
	return p.text[start:p.i]
}

// keyword accepts a word.
func (p *parser) keyword(word string) bool {
	start := p.i
	p.space(false)
	if p.peek(word) {
		after := p.text[p.i+len(word):]
		if after == "" || !unicode.IsLetter(rune(after[0])) && !unicode.IsDigit(rune(after[0])) && after[0] != '_' {
			p.i += len(word)
			return true
		}
	}
	p.i = start
	return false
}

func (p *parser) template() template {
	t := template{file: p.file, params: map[string]declaration{}, vars: map[string]node{}, outputs: map[string]node{},
		resources: map[string]resource{}, modules: map[string]resource{}}
	for p.space(true); p.i < len(p.text); p.space(true) {
		switch {
		case p.accept("@"):
			p.expression() // a decorator
		case p.keyword("targetScope"):
			p.expect("=")
			t.scope = p.expression().value()
		case p.keyword("param"):
			name := p.word()
			d := declaration{kind: p.word()}
			p.accept("[]")
			if p.accept("=") {
				d.byDefault = true
				p.expression()
			}
			t.params[name] = d
		case p.keyword("var"):
			name := p.word()
			p.expect("=")
			t.vars[name] = p.expression()
		case p.keyword("output"):
			name := p.word()
			p.word() // its type
			p.expect("=")
			t.outputs[name] = p.expression()
		case p.keyword("resource"):
			p.resource(t.resources, "")
		case p.keyword("module"):
			p.resource(t.modules, "")
		default:
			p.fail("what is this?")
		}
	}
	return t
}

func (p *parser) resource(into map[string]resource, parent string) {
	name := parent + p.word()
	r := resource{kind: p.expression().value(), existing: p.keyword("existing")}
	p.expect("=")
	looped := p.accept("[")
	if looped {
		over := p.loop()
		r.loop = &over
	}
	if p.keyword("if") {
		p.expect("(")
		when := p.expression()
		r.when = &when
		p.expect(")")
	}
	r.body = p.object(func() { p.resource(into, name+"::") })
	if looped {
		p.expect("]")
		p.local = p.local[:len(p.local)-1]
	}
	into[name] = r
}

// loop parses "for x in y:" and leaves x declared.
func (p *parser) loop() node {
	if !p.keyword("for") {
		p.fail("want for")
	}
	variable := p.word()
	if !p.keyword("in") {
		p.fail("want in")
	}
	over := p.expression()
	p.expect(":")
	p.local = append(p.local, variable)
	return over
}

// object parses {...}. It calls nested for a resource inside a resource.
func (p *parser) object(nested func()) node {
	p.space(false)
	start := p.i
	n := node{object: map[string]node{}}
	p.expect("{")
	for p.space(true); !p.accept("}") && p.problem == ""; p.space(true) {
		if nested != nil && p.keyword("resource") {
			nested()
			continue
		}
		var name string
		if p.space(false); p.peek("'") {
			name = p.expression().value()
		} else {
			name = p.word()
		}
		if _, twice := n.object[name]; twice {
			p.fail("%s stands there twice", name)
		}
		p.expect(":")
		n.object[name] = p.expression()
		p.accept(",")
	}
	n.source = p.text[start:min(p.i, len(p.text))]
	return n
}

func (p *parser) array() node {
	start := p.i
	p.expect("[")
	n := node{array: []node{}}
	if p.keyword("for") {
		p.i -= len("for")
		n.parts = append(n.parts, p.loop(), p.expression())
		p.local = p.local[:len(p.local)-1]
		p.space(true)
		p.expect("]")
	} else {
		for p.space(true); !p.accept("]") && p.problem == ""; p.space(true) {
			n.array = append(n.array, p.expression())
			p.accept(",")
		}
	}
	n.source = p.text[start:min(p.i, len(p.text))]
	return n
}

// expression parses operands between operators. It ignores precedence, which does not matter here.
func (p *parser) expression() node {
	p.space(false)
	start := p.i
	first := p.operand()
	n := first
	for p.problem == "" {
		operator := ""
		for _, candidate := range []string{"==", "!=", "=~", "&&", "||", "??", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "?"} {
			if p.accept(candidate) {
				operator = candidate
				break
			}
		}
		if operator == "" {
			break
		}
		if len(n.parts) == 0 || n.source != "" {
			n = node{parts: []node{first}}
		}
		n.parts = append(n.parts, p.operand())
		if operator == "?" {
			n.parts = append(n.parts, p.rest(":"))
		}
	}
	n.source = strings.TrimSpace(p.text[start:min(p.i, len(p.text))])
	return n
}

func (p *parser) rest(separator string) node {
	p.space(true)
	p.expect(separator)
	return p.expression()
}

func (p *parser) operand() node {
	p.space(false)
	for p.accept("!") || p.accept("-") {
		p.space(false)
	}
	start := p.i
	var n node
	switch {
	case p.i >= len(p.text):
		p.fail("something is missing")
		return n
	case p.peek("{"):
		n = p.object(nil)
	case p.peek("["):
		n = p.array()
	case p.peek("'"):
		n = p.quoted()
	case p.lambda(&n):
	case p.accept("("):
		n = node{parts: []node{p.expression()}}
		p.expect(")")
	case unicode.IsDigit(rune(p.text[p.i])):
		n = node{literal: p.word()}
	default:
		name := p.word()
		switch {
		case name == "true" || name == "false" || name == "null":
			n = node{literal: name}
		case p.peek("("):
			n = node{parts: p.arguments()}
		case slices.Contains(p.local, name):
			n = node{parts: []node{}}
		default:
			n = node{names: []string{name}}
		}
	}
	for p.problem == "" {
		switch {
		case p.peek("::"):
			p.i += 2
			child := p.word()
			if len(n.names) == 1 {
				n.names[0] += "::" + child
			}
		case p.peek(".") || p.peek("!."):
			p.i += 1 + strings.Index(p.text[p.i:], ".")
			p.word()
			if p.peek("(") {
				n.parts = append(n.parts, p.arguments()...)
			}
		case p.peek("["):
			p.i++
			n.parts = append(n.parts, p.expression())
			p.expect("]")
		default:
			n.source = p.text[start:p.i]
			return n
		}
	}
	return n
}

func (p *parser) arguments() []node {
	p.expect("(")
	list := []node{}
	for p.space(true); !p.accept(")") && p.problem == ""; p.space(true) {
		list = append(list, p.expression())
		p.space(true)
		p.accept(",")
	}
	return list
}

// lambda parses "(a, b) => ..." if it is next.
func (p *parser) lambda(into *node) bool {
	if !p.peek("(") {
		return false
	}
	close := strings.IndexByte(p.text[p.i:], ')')
	if close < 0 || !strings.HasPrefix(strings.TrimLeft(p.text[p.i+close+1:], " "), "=>") {
		return false
	}
	variables := strings.Split(p.text[p.i+1:p.i+close], ",")
	for _, v := range variables {
		p.local = append(p.local, strings.TrimSpace(v))
	}
	p.i += close + 1
	p.expect("=>")
	*into = node{parts: []node{p.expression()}}
	p.local = p.local[:len(p.local)-len(variables)]
	return true
}

func (p *parser) quoted() node {
	p.expect("'")
	var n node
	var text strings.Builder
	for p.i < len(p.text) && p.text[p.i] != '\'' && p.text[p.i] != '\n' {
		switch {
		case p.peek("${"):
			p.i += 2
			n.parts = append(n.parts, p.expression())
			p.expect("}")
		case p.peek("\\"):
			p.i++
			fallthrough
		default:
			if p.i < len(p.text) {
				text.WriteByte(p.text[p.i])
				p.i++
			}
		}
	}
	p.expect("'")
	if n.parts == nil {
		whole := text.String()
		n.text = &whole
	}
	return n
}

// The parser finds errors in templates.
func TestParserRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"param x", "resource a 'b@1' = {", "var x = [1", "output y string = 'a", "thing", "var x = { a: 1, a: 2 }", "var x = (1",
		"module m 'f' = { params: { a 1 } }",
	} {
		p := &parser{text: text, file: filepath.Join("x", "y.bicep")}
		p.template()
		if !strings.Contains(p.problem, "y.bicep:1: ") {
			t.Errorf("%q: %q", text, p.problem)
		}
	}
}
