package mutate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Operator is a kind of change.
type Operator struct {
	Name string
	// Title says what is so after the change.
	Title string
	// edits returns the changes to a file. hubs are the names and patterns of hubs that the rules use.
	edits func(f *file, hubs map[string]bool) [][]edit
}

// Operators lists the kinds of change.
func Operators() []Operator {
	return []Operator{
		{"expression", "an expression is missing", expressions},
		{"negation", "an expression is negated, or a not is missing", negations},
		{"comparison", "a comparison is another one", comparisons},
		{"pattern", "a pattern matches more", patterns},
		{"entry", "an entry is missing", entries},
		{"table", "a table is empty", emptyTables},
		{"hub", "two hubs have changed places", swappedHubs},
		{"else", "an else branch is missing", elses},
		{"definition", "a definition never applies", definitions},
		{"number", "a number is one more", numbers},
		{"boolean", "true is false, or false true", booleans},
	}
}

// one is a change of one place.
func one(from, to int, text string) []edit { return []edit{{from, to, text}} }

func expressions(f *file, _ map[string]bool) (changes [][]edit) {
	placed(f, func(e *ast.Expr, from, to int) {
		if !declares(e) {
			changes = append(changes, one(from, to, "true"))
		}
	})
	return changes
}

// declares reports whether a body cannot do without an expression, or does not need it at all.
func declares(e *ast.Expr) bool {
	term, isTerm := e.Terms.(*ast.Term)
	_, isSome := e.Terms.(*ast.SomeDecl)
	return isSome || e.Generated || e.IsAssignment() || isTerm && isBoolean(term) ||
		e.IsCall() && e.Operator().Equal(ast.Print.Ref())
}

func isBoolean(term *ast.Term) bool {
	_, ok := term.Value.(ast.Boolean)
	return ok
}

func negations(f *file, _ map[string]bool) (changes [][]edit) {
	placed(f, func(e *ast.Expr, from, to int) {
		text := string(f.text[from:to])
		switch positive, negated := strings.CutPrefix(text, "not"); {
		case negated && e.Negated:
			changes = append(changes, one(from, to, strings.TrimLeft(positive, " \t\r\n")))
		case !declares(e) && !e.IsEvery() && turned(e) == nil:
			changes = append(changes, one(from, from, "not "))
		}
	})
	return changes
}

// turned returns the comparisons that can replace the operator of an expression; nil if it compares nothing.
func turned(e *ast.Expr) []string {
	if !e.IsCall() {
		return nil
	}
	return turnedOperator(e.OperatorTerm().Location)
}

func turnedOperator(operator *ast.Location) []string {
	if operator == nil {
		return nil
	}
	switch string(operator.Text) {
	case "==":
		return []string{"!="}
	case "!=":
		return []string{"=="}
	case "<":
		return []string{"<=", ">="}
	case "<=":
		return []string{"<", ">"}
	case ">":
		return []string{">=", "<="}
	case ">=":
		return []string{">", "<"}
	}
	return nil
}

func comparisons(f *file, _ map[string]bool) (changes [][]edit) {
	placed(f, func(t *ast.Term, from, to int) {
		if _, isRef := t.Value.(ast.Ref); isRef {
			for _, operator := range turnedOperator(t.Location) {
				changes = append(changes, one(from, to, operator))
			}
		}
	})
	return changes
}

func patterns(f *file, hubs map[string]bool) (changes [][]edit) {
	widen := func(t *ast.Term, wider ...string) {
		if from, to, ok := f.span(t.Location); ok {
			for _, text := range wider {
				changes = append(changes, one(from, to, quote(text, f.text[from])))
			}
		}
	}
	f.walk(func(node any) {
		name, args := callOf(node)
		for i, arg := range args {
			text, ok := arg.Value.(ast.String)
			switch {
			case !ok || text == "":
			case strings.HasPrefix(name, "regex."):
				widen(arg, withoutAnchors(string(text))...)
			case name == "startswith" && i == 1:
				_, size := utf8.DecodeLastRuneInString(string(text))
				widen(arg, string(text[:len(text)-size]))
			case name == "endswith" && i == 1:
				_, size := utf8.DecodeRuneInString(string(text))
				widen(arg, string(text[size:]))
			case name == "glob.match" && i == 0 && text != "*":
				widen(arg, "*")
			}
		}
		if t, ok := node.(*ast.Term); ok {
			if text, ok := t.Value.(ast.String); ok && hubs[string(text)] && strings.ContainsAny(string(text), "*?") && text != "*" {
				widen(t, "*")
			}
		}
	})
	return changes
}

// callOf returns the name of the function that a node calls, and its arguments.
func callOf(node any) (name string, args []*ast.Term) {
	switch node := node.(type) {
	case *ast.Expr:
		if node.IsCall() {
			return node.Operator().String(), node.Operands()
		}
	case *ast.Term:
		if call, ok := node.Value.(ast.Call); ok {
			return call[0].String(), call[1:]
		}
	}
	return "", nil
}

func withoutAnchors(expression string) (wider []string) {
	if rest, ok := strings.CutPrefix(expression, "^"); ok {
		wider = append(wider, rest)
	}
	if rest, ok := strings.CutSuffix(expression, "$"); ok && !strings.HasSuffix(rest, `\`) {
		wider = append(wider, rest)
	}
	return wider
}

// quote writes a string with the quotes of the one that it replaces.
func quote(text string, quotes byte) string {
	if quotes == '`' {
		return "`" + text + "`"
	}
	return ast.String(text).String()
}

// table is an object, an array or a set as it is written.
type table struct {
	from, to int
	isObject bool
	empty    string  // how it is written without entries
	entries  []entry // in the order of the text
}

// entry is an element, or a key with its value.
type entry struct {
	from, to int
	value    *ast.Term
}

// tables returns the tables with entries in a file. Objects with computed parts are tables too.
func tables(f *file) (found []table) {
	placed(f, func(t *ast.Term, from, to int) {
		table := table{from: from, to: to}
		add := func(key, value *ast.Term) {
			start, end, ok := f.span(value.Location)
			if key != nil && ok {
				start, _, ok = f.span(key.Location)
			}
			if ok {
				table.entries = append(table.entries, entry{start, end, value})
			}
		}
		size := 0
		switch v := t.Value.(type) {
		case ast.Object:
			table.isObject, table.empty, size = true, "{}", v.Len()
			v.Foreach(add)
		case *ast.Array:
			table.empty, size = "[]", v.Len()
			v.Foreach(func(element *ast.Term) { add(nil, element) })
		case ast.Set:
			table.empty, size = "set()", v.Len()
			v.Foreach(func(element *ast.Term) { add(nil, element) })
		}
		if size > 0 && size == len(table.entries) {
			slices.SortFunc(table.entries, func(a, b entry) int { return cmp.Compare(a.from, b.from) })
			found = append(found, table)
		}
	})
	return found
}

// entries drops each of several entries; without the only one, a table is empty.
func entries(f *file, _ map[string]bool) (changes [][]edit) {
	for _, t := range tables(f) {
		last := len(t.entries) - 1
		if last == 0 {
			continue
		}
		for i := range last {
			changes = append(changes, one(t.entries[i].from, t.entries[i+1].from, ""))
		}
		changes = append(changes, one(t.entries[last-1].to, t.entries[last].to, ""))
	}
	return changes
}

func emptyTables(f *file, _ map[string]bool) (changes [][]edit) {
	for _, t := range tables(f) {
		changes = append(changes, one(t.from, t.to, t.empty))
	}
	return changes
}

// namedHub is a constant that names a hub.
type namedHub struct {
	name     string
	from, to int
	list     int // the offset of the array or set that it is an element of; -1 if there is none
}

// swappedHubs lets each hub of a file and the next one in it change places. Two hubs of one list are not swapped,
// because the order in a list of hubs makes no difference.
func swappedHubs(f *file, hubs map[string]bool) (changes [][]edit) {
	lists := map[*ast.Term]int{}
	for _, t := range tables(f) {
		for _, e := range t.entries {
			if !t.isObject {
				lists[e.value] = t.from
			}
		}
	}
	var named []namedHub
	placed(f, func(t *ast.Term, from, to int) {
		if text, ok := t.Value.(ast.String); ok && hubs[string(text)] {
			hub := namedHub{string(text), from, to, -1}
			if list, ok := lists[t]; ok {
				hub.list = list
			}
			named = append(named, hub)
		}
	})
	slices.SortFunc(named, func(a, b namedHub) int { return cmp.Compare(a.from, b.from) })
	for i, a := range named {
		for _, b := range named[i+1:] {
			if a.name != b.name && (a.list < 0 || a.list != b.list) {
				changes = append(changes, []edit{{a.from, a.to, string(f.text[b.from:b.to])}, {b.from, b.to, string(f.text[a.from:a.to])}})
				break
			}
		}
	}
	return changes
}

func elses(f *file, _ map[string]bool) (changes [][]edit) {
	for r := range f.rules() {
		for branch := r.Else; branch != nil; branch = branch.Else {
			from, to, ok := f.span(branch.Location)
			if next := branch.Else; ok && next != nil {
				to, _, ok = f.span(next.Location)
			}
			if ok {
				changes = append(changes, one(from, to, ""))
			}
		}
	}
	return changes
}

// definitions makes each definition one that never applies, rather than removing it: what refers to it still compiles. In
// braces it keeps the rest of the body, which can give the head its variables.
func definitions(f *file, _ map[string]bool) (changes [][]edit) {
	for r := range f.rules() {
		from, _, ok := f.span(r.Location)
		_, head, hasHead := f.span(r.Head.Location)
		body, _, hasBody := f.span(r.Body[0].Location)
		_, end, hasEnd := f.span(r.Body[len(r.Body)-1].Location)
		switch {
		case !ok || !hasHead:
		case r.Default:
			changes = append(changes, one(from, head, ""))
		case r.Body[0].Generated:
			changes = append(changes, one(from, head, string(f.text[from:head])+" if false"))
		case hasBody && bytes.HasSuffix(bytes.TrimSpace(f.text[from:body]), []byte("{")):
			changes = append(changes, one(from, body, string(f.text[from:body])+"false; "))
		case hasBody && hasEnd:
			changes = append(changes, one(from, end, string(f.text[from:body])+"false"))
		}
	}
	return changes
}

func numbers(f *file, _ map[string]bool) (changes [][]edit) {
	if f.data != nil {
		return nil // a number in data is a setting: the tests of a rule bring their own
	}
	placed(f, func(t *ast.Term, from, to int) {
		if number, ok := t.Value.(ast.Number); ok && string(number) == string(f.text[from:to]) {
			if i, err := json.Number(number).Int64(); err == nil {
				changes = append(changes, one(from, to, ast.IntNumberTerm(int(i)+1).String()))
			}
		}
	})
	return changes
}

func booleans(f *file, _ map[string]bool) (changes [][]edit) {
	if f.data != nil {
		return nil
	}
	placed(f, func(t *ast.Term, from, to int) {
		switch string(f.text[from:to]) {
		case "true":
			changes = append(changes, one(from, to, "false"))
		case "false":
			changes = append(changes, one(from, to, "true"))
		}
	})
	return changes
}
