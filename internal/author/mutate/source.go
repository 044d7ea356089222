package mutate

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// file is a file to change: rules, or the data next to them.
type file struct {
	place string // with the name of the folder of rules
	name  string // without
	text  []byte
	// module is a Rego file, data a data.json; the other is nil. JSON is also a Rego term, so both have the same syntax.
	module *ast.Module
	data   *ast.Term
	// target is the package, or the place of the data, such as data.tenants.
	target ast.Ref
}

// edit replaces a part of a file.
type edit struct {
	from, to int // offsets in bytes
	text     string
}

// mutant is a file with a change.
type mutant struct {
	*file
	operator string
	edits    []edit // in order, and apart
}

// apply applies edits to a part of a text that starts at an offset.
func apply(edits []edit, text []byte, offset int) string {
	var changed strings.Builder
	at := 0
	for _, e := range edits {
		changed.Write(text[at : e.from-offset])
		changed.WriteString(e.text)
		at = e.to - offset
	}
	changed.Write(text[at:])
	return changed.String()
}

// changed is the text of the whole file with the change.
func (m *mutant) changed() []byte { return []byte(apply(m.edits, m.text, 0)) }

// line is that of the first edit, from 1: where it replaces something, not where a comma before that is.
func (m *mutant) line() int {
	first := m.edits[0]
	skipped := len(m.text[first.from:first.to]) - len(bytes.TrimLeft(m.text[first.from:first.to], ", \t\r\n"))
	return 1 + bytes.Count(m.text[:first.from+skipped], []byte("\n"))
}

// shown returns the lines of the file that the change touches, before and after.
func (m *mutant) shown() (before, after string) {
	for rest := m.edits; len(rest) > 0; {
		from, to := m.lines(rest[0])
		n := 1
		for ; n < len(rest) && rest[n].from <= to; n++ {
			_, to = m.lines(rest[n])
		}
		before += string(m.text[from:to]) + "\n"
		after += apply(rest[:n], m.text[from:to], from) + "\n"
		rest = rest[n:]
	}
	return outdent(before), outdent(after)
}

// lines returns the offsets of the lines that an edit touches, without the last line break.
func (f *file) lines(e edit) (from, to int) {
	from = 1 + bytes.LastIndexByte(f.text[:e.from], '\n')
	if end := bytes.IndexByte(f.text[e.to:], '\n'); end >= 0 {
		return from, e.to + end
	}
	return from, len(f.text)
}

// outdent removes the indentation that all lines share, and empty lines.
func outdent(text string) string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
	if len(lines) == 0 {
		return ""
	}
	shared := slices.MinFunc(lines, func(a, b string) int { return cmp.Compare(indentation(a), indentation(b)) })
	for i, line := range lines {
		lines[i] = strings.TrimRight(line[indentation(shared):], " \t\r")
	}
	return strings.Join(lines, "\n")
}

func indentation(line string) int { return len(line) - len(strings.TrimLeft(line, " \t")) }

// span returns where a node is in the text. There is none for what the parser made itself, and for the little that it
// places wrongly, such as the first number in parentheses.
func (f *file) span(location *ast.Location) (from, to int, ok bool) {
	if location == nil {
		return 0, 0, false
	}
	from, to = location.Offset, location.Offset+len(location.Text)
	return from, to, from < to && to <= len(f.text) && bytes.Equal(f.text[from:to], location.Text)
}

// walk visits every node, except the texts of reasons.
func (f *file) walk(visit func(node any)) {
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(node any) bool {
		if head, ok := node.(*ast.Head); ok && isReason(head) {
			walkReason(visitor, head.Key)
			return true
		}
		visit(node)
		return false
	})
	for rule := range f.rules() {
		visitor.Walk(rule)
	}
	if f.data != nil {
		visitor.Walk(f.data)
	}
}

// rules are the definitions in a Rego file, each with its else branches.
func (f *file) rules() iter.Seq[*ast.Rule] {
	if f.module == nil {
		return slices.Values[[]*ast.Rule](nil)
	}
	return slices.Values(f.module.Rules)
}

func isReason(head *ast.Head) bool {
	return head.RuleKind() == ast.MultiValue && (head.Name == "reject" || head.Name == "hold")
}

// walkReason visits what a reason says besides its text, such as the status in {"reason": "...", "status": 429}.
func walkReason(visitor *ast.GenericVisitor, reason *ast.Term) {
	if object, ok := reason.Value.(ast.Object); ok {
		object.Foreach(func(key, value *ast.Term) {
			if !key.Equal(ast.InternedTerm("reason")) {
				visitor.Walk(value)
			}
		})
	}
}

// placed visits the nodes of a type that the text contains, with their offsets.
func placed[T interface{ Loc() *ast.Location }](f *file, visit func(node T, from, to int)) {
	f.walk(func(node any) {
		if wanted, ok := node.(T); ok {
			if from, to, ok := f.span(wanted.Loc()); ok {
				visit(wanted, from, to)
			}
		}
	})
}

// readFile parses a file to change. It returns nil if there is nothing to change in it.
func readFile(set *ruleset.Ruleset, place, name string, text []byte) (*file, error) {
	f := &file{place: place, name: name, text: bytes.TrimPrefix(text, []byte("\ufeff"))}
	switch {
	case ruleset.IsTest(name), ruleset.IsInvariants(name):
		return nil, nil
	case strings.HasSuffix(name, ".rego"):
		module, err := set.Parse(place, f.text)
		if err != nil {
			return nil, err
		}
		f.module, f.target = module, module.Package.Path
	case strings.HasSuffix(name, "data.json"):
		data, err := ast.ParseTerm(string(f.text))
		if err != nil {
			return nil, nil // what Rego cannot read is not changed
		}
		f.data, f.target = data, ruleset.DataRef(name)
	default:
		return nil, nil // YAML
	}
	return f, nil
}
