package lookups

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"github.com/usher-dps/usher/lookup"
)

const (
	// maxKey bounds a key, in bytes. Rules ask for no longer one.
	maxKey = 1024
	// maxRow bounds a row in CSV or NDJSON, in bytes: a quote that is never closed must not make one of a whole file.
	maxRow = 1 << 20
	// maxWhole bounds what is read as a whole, in bytes: fixtures, and YAML.
	maxWhole = 10 << 20
	// maxProblems bounds what is listed: no one fixes a table by reading the next thousand.
	maxProblems = 20
)

// Row is a row of a table.
type Row struct {
	// Key is in lower case unless the declaration is CaseSensitive.
	Key string
	// Line is where the row starts.
	Line int
	// Members have the types of encoding/json with UseNumber. The key is one of them if it is declared.
	Members map[string]any
}

// ErrDuplicate is what the receiver of a row returns if there was one with the same key.
var ErrDuplicate = errors.New("the key of this row is also that of an earlier one")

// TableError lists what is wrong with a table. It contains no key, and nothing of a row but names of members.
type TableError struct {
	Problems []Problem // at least one; the places start with the name of the file
}

func (e *TableError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Place + ": " + p.Message
		if p.Fix != "" {
			lines[i] += " (" + p.Fix + ")"
		}
	}
	return strings.Join(lines, "\n")
}

func (e *TableError) problems(folder string) []Problem {
	list := slices.Clone(e.Problems)
	for i := range list {
		list[i].Place = path.Join(folder, list[i].Place)
	}
	return list
}

// IsTable reports whether ReadTable reads files with such a name.
func IsTable(name string) bool { return slices.Contains(tableExtensions, path.Ext(name)) }

// ReadTable reads the rows of a table, which the end of its name says is CSV, NDJSON or YAML, and yields those that are
// as d declares. Except for YAML, it holds one row in memory. If something is wrong with the table, the error is a
// *TableError, and what was yielded is not the whole table. An error of yield ends the reading, unless it is
// ErrDuplicate, which is a problem like others.
//
// The first line of CSV names the columns, which commas or semicolons separate. A cell becomes what its member is
// declared to be; an empty one is left out, unless it is a text and the member is required. A line of NDJSON is an
// object. YAML has a mapping from keys to rows, or a list of rows with their keys.
//
// It also returns what the table has that is not declared.
func ReadTable(r io.Reader, name string, d *Declaration, yield func(Row) error) ([]Undeclared, error) {
	t := &table{name: name, d: d, yield: yield, source: &rowReader{r: r, left: maxRow}, has: NewColumns(d)}
	t.text = bufio.NewReader(t.source)
	if start, _ := t.text.Peek(3); bytes.Equal(start, []byte("\xef\xbb\xbf")) {
		_, _ = t.text.Discard(3)
	}
	var err error
	switch path.Ext(name) {
	case ".csv":
		err = t.csv()
	case ".ndjson", ".jsonl":
		err = t.ndjson()
	case ".yaml", ".yml":
		err = t.yaml()
	default:
		return nil, &TableError{[]Problem{{Place: name, Message: "not the name of a table", Fix: "it ends in one of " + strings.Join(tableExtensions, ", ")}}}
	}
	switch {
	case errors.Is(err, errEnough):
	case errors.Is(err, errLongRow):
		t.problem(t.line, "is it one row, and are all its quotes closed?", "%v", err)
	case err != nil:
		return nil, err
	}
	if len(t.problems) > 0 {
		return nil, &TableError{t.problems}
	}
	return t.has.Undeclared(), nil
}

var (
	errEnough  = errors.New("enough problems")
	errLongRow = fmt.Errorf("a row has more than %d bytes", maxRow)
)

// rowReader bounds how much is read for a row.
type rowReader struct {
	r    io.Reader
	left int
}

func (r *rowReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errLongRow
	}
	n, err := r.r.Read(p)
	r.left -= n
	return n, err
}

// table is one that is being read.
type table struct {
	name     string
	d        *Declaration
	yield    func(Row) error
	source   *rowReader
	text     *bufio.Reader
	line     int // where the last row starts
	has      *Columns
	problems []Problem
}

func (t *table) place(line int) string { return t.name + ":" + strconv.Itoa(line) }

func (t *table) problem(line int, fix, format string, args ...any) {
	t.problems = append(t.problems, Problem{Place: t.place(line), Message: fmt.Sprintf(format, args...), Fix: fix})
}

// enough ends the reading if enough problems are known.
func (t *table) enough() error {
	if len(t.problems) >= maxProblems {
		return errEnough
	}
	return nil
}

// row yields a row that may have its key as a member.
func (t *table) row(line int, key string, members map[string]any) error {
	switch before := len(t.problems); {
	case key == "":
		t.problem(line, "give the row a key, or remove it", "the key, %s, is empty", t.d.Key)
	case len(key) > maxKey:
		t.problem(line, "", "the key, %s, has more than %d bytes", t.d.Key, maxKey)
	default:
		for _, v := range t.d.Row.Validate(members) {
			t.problem(line, "", "not as %s declares: %s", t.d.Place, v)
		}
		if len(t.problems) > before {
			break
		}
		if !t.d.CaseSensitive {
			key = strings.ToLower(key)
		}
		err := t.yield(Row{Key: key, Line: line, Members: members})
		if !errors.Is(err, ErrDuplicate) {
			return err
		}
		fix := "remove one of the two"
		if !t.d.CaseSensitive {
			fix += "; keys are compared without case"
		}
		t.problem(line, fix, "%v", err)
	}
	return t.enough()
}

// property is the schema of a member; nil if none is declared.
func (d *Declaration) property(name string) map[string]any {
	properties, _ := d.RowSchema["properties"].(map[string]any)
	property, _ := properties[name].(map[string]any)
	return property
}

func (d *Declaration) declares(name string) bool { return slices.Contains(d.Members(), name) }

func (t *table) csv() error {
	delimiter, err := t.delimiter()
	if err != nil {
		return err
	}
	reader := csv.NewReader(t.text)
	reader.Comma, reader.ReuseRecord = delimiter, true
	var columns []column
	key := -1
	for {
		t.source.left = maxRow
		cells, err := reader.Read()
		malformed, ok := errors.AsType[*csv.ParseError](err)
		switch {
		case err == io.EOF && columns == nil:
			t.problem(1, "write the names of the columns in the first line", "the table is empty")
			return nil
		case err == io.EOF:
			return nil
		case ok:
			// Quotes out of place and lines with missing cells: what follows is not to be relied on.
			t.problem(malformed.StartLine, "", "not CSV with the columns of the first line: %v", malformed.Err)
			return nil
		case err != nil:
			return err
		}
		if t.line, _ = reader.FieldPos(0); columns == nil {
			if columns, key = t.columns(cells); key < 0 {
				return nil
			}
			continue
		}
		if err := t.cells(columns, cells, key); err != nil {
			return err
		}
	}
}

// delimiter looks at the first line, in which the key has a column.
func (t *table) delimiter() (rune, error) {
	start, err := t.text.Peek(t.text.Size())
	if err != nil && err != io.EOF {
		return 0, err
	}
	first, _, _ := bytes.Cut(start, []byte("\n"))
	reader := csv.NewReader(bytes.NewReader(first))
	reader.Comma = ';'
	if cells, err := reader.Read(); err == nil && slices.Contains(cells, t.d.Key) {
		return ';', nil
	}
	return ',', nil
}

// column is one of CSV.
type column struct {
	name     string
	types    []any // that its member may have; empty if that is not declared
	required bool
	ignored  bool // it has no name
}

// columns reads the first line. The key has no column if it is less than 0.
func (t *table) columns(names []string) (columns []column, key int) {
	key = slices.Index(names, t.d.Key)
	if key < 0 {
		t.problem(t.line, "name the columns in the first line, separated by commas or semicolons, in UTF-8", "no column is named %s, which is the key of look-up %s", t.d.Key, t.d.Name)
		return nil, key
	}
	required, _ := t.d.RowSchema["required"].([]any)
	for i, name := range names {
		if name != "" && slices.Contains(names[:i], name) {
			t.problem(t.line, "remove one of them", "columns %d and %d have the same name", slices.Index(names, name)+1, i+1)
			return nil, -1
		}
		c := column{name: name, required: slices.Contains(required, any(name)), ignored: name == "" || i == key && !t.d.declares(name)}
		switch types := t.d.property(name)["type"].(type) {
		case string:
			c.types = []any{types}
		case []any:
			c.types = types
		}
		t.has.Add(name, func() string { return t.place(t.line) })
		columns = append(columns, c)
	}
	// Each row lacks it.
	for _, name := range t.has.lacking() {
		if !slices.Contains(required, any(name)) {
			continue
		}
		fix := "add it"
		for _, u := range t.has.Undeclared() {
			if u.Meant == name {
				fix = fmt.Sprintf("is it column %s?", u.Name)
			}
		}
		t.problem(t.line, fix, "no column is named %s, which %s requires", name, t.d.Place)
		key = -1
	}
	return columns, key
}

func (t *table) cells(columns []column, cells []string, key int) error {
	before := len(t.problems)
	members := make(map[string]any, len(cells))
	for i, cell := range cells {
		c := columns[i]
		if !utf8.ValidString(cell) {
			t.problem(t.line, "save the table in UTF-8", "column %d is not UTF-8", i+1)
			continue
		}
		if c.ignored {
			continue
		}
		value, present, err := c.value(cell)
		if err != nil {
			t.problem(t.line, "", "column %s %v", c.name, err)
		} else if present {
			members[c.name] = value
		}
	}
	if len(t.problems) > before {
		return t.enough()
	}
	return t.row(t.line, cells[key], members)
}

// value makes a member of a cell.
func (c column) value(cell string) (value any, present bool, err error) {
	if len(c.types) == 0 || slices.Contains(c.types, any("string")) {
		return cell, cell != "" || c.required && len(c.types) > 0, nil
	}
	text := strings.TrimSpace(cell)
	if text == "" {
		return nil, false, nil
	}
	for _, kind := range c.types {
		switch kind {
		case "integer", "number":
			// Whether a number is an integer is for the schema to say.
			if number, ok := parseJSON([]byte(text)).(json.Number); ok {
				return number, true, nil
			}
		case "boolean":
			switch strings.ToLower(text) { // spreadsheets write TRUE
			case "true":
				return true, true, nil
			case "false":
				return false, true, nil
			}
		case "array":
			if list, ok := parseJSON([]byte(text)).([]any); ok {
				return list, true, nil
			}
		case "object":
			if object, ok := parseJSON([]byte(text)).(map[string]any); ok {
				return object, true, nil
			}
		}
	}
	want := make([]string, len(c.types))
	for i, kind := range c.types {
		want[i] = fmt.Sprint(kind)
	}
	return nil, false, fmt.Errorf("is not of type %s, written as in JSON", strings.Join(want, " or "))
}

// parseJSON returns nil if text is not JSON, has a member twice or is not UTF-8.
func parseJSON(text []byte) any {
	if !jsontext.Value(text).IsValid() {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil
	}
	return value
}

func (t *table) ndjson() error {
	for {
		t.line++
		t.source.left = maxRow
		text, err := t.text.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return err
		}
		if len(bytes.TrimSpace(text)) > 0 {
			members, ok := parseJSON(text).(map[string]any)
			if !ok {
				t.problem(t.line, "write each row as a JSON object on one line, in UTF-8, with each member once", "not a JSON object")
				if err := t.enough(); err != nil {
					return err
				}
			} else if err := t.object(t.line, members); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// note notes the members of a row.
func (t *table) note(line int, members map[string]any) {
	for name := range members {
		t.has.Add(name, func() string { return t.place(line) })
	}
}

// object yields a row that has its key as a member.
func (t *table) object(line int, members map[string]any) error {
	key, ok := members[t.d.Key].(string)
	if !ok {
		t.problem(line, "write it in quotes", "the key, %s, is missing or not a text", t.d.Key)
		return t.enough()
	}
	if !t.d.declares(t.d.Key) {
		delete(members, t.d.Key)
	}
	t.note(line, members)
	return t.row(line, key, members)
}

func (t *table) yaml() error {
	t.source.left = maxWhole
	text, err := io.ReadAll(t.text)
	switch {
	case errors.Is(err, errLongRow):
		t.problem(1, "write it as NDJSON or CSV", "YAML is read up to %d MiB", maxWhole>>20)
		return nil
	case err != nil:
		return err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		t.malformed(1, err)
		return nil
	}
	if len(root.Content) == 0 {
		return nil
	}
	top := root.Content[0]
	datesAsText(top)
	switch top.Kind {
	case yaml.MappingNode:
		for key, value := range members(top) {
			if key.Kind != yaml.ScalarNode {
				t.problem(key.Line, "write the key as a text", "the key is not a text")
				return nil
			}
			row, err := t.yamlRow(key.Line, value)
			if row != nil {
				if t.d.declares(t.d.Key) {
					row[t.d.Key] = key.Value
				}
				t.note(key.Line, row)
				err = t.row(key.Line, key.Value, row)
			}
			if err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		for _, value := range top.Content {
			row, err := t.yamlRow(value.Line, value)
			if row != nil {
				err = t.object(value.Line, row)
			}
			if err != nil {
				return err
			}
		}
	default:
		t.problem(top.Line, "write a mapping from keys to rows, or a list of rows", "neither a mapping nor a list")
	}
	return nil
}

// yamlRow returns nil for what is not a row, and an error if enough problems are known.
func (t *table) yamlRow(line int, node *yaml.Node) (map[string]any, error) {
	var decoded map[string]any
	if err := node.Decode(&decoded); err != nil {
		t.malformed(line, err)
		return nil, t.enough()
	}
	text, err := json.Marshal(decoded)
	row, ok := parseJSON(text).(map[string]any)
	if err != nil || !ok {
		t.problem(line, "write a mapping from members to values that JSON has too", "not a row")
		return nil, t.enough()
	}
	return row, nil
}

// malformed reports an error of the YAML library without what it quotes.
func (t *table) malformed(line int, err error) {
	if parts := yamlLine.FindStringSubmatch(err.Error()); parts != nil {
		line, _ = strconv.Atoi(parts[1])
	}
	t.problem(line, "check the indentation and the quotes, and that no member is there twice", "not YAML that makes a row")
}

// datesAsText lets a date be the text that it is in JSON.
func datesAsText(node *yaml.Node) {
	if node.ShortTag() == "!!timestamp" {
		node.Tag = "!!str"
	}
	for _, inner := range node.Content {
		datesAsText(inner)
	}
}

// Table is a table in memory.
type Table struct {
	rows       map[string]map[string]any
	keys       []string
	version    string
	undeclared []Undeclared
}

// LoadFixture reads the fixture of a declaration, which has one. A *TableError says what is wrong with it.
func LoadFixture(fsys fs.FS, d *Declaration) (*Table, error) {
	file, err := fsys.Open(d.Fixture)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxWhole+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxWhole {
		return nil, &TableError{[]Problem{{Place: d.Fixture, Message: fmt.Sprintf("a fixture has at most %d MiB", maxWhole>>20), Fix: "keep the rows that tests need"}}}
	}
	return LoadTable(bytes.NewReader(text), d.Fixture, d)
}

// LoadTable reads a table with as many rows as there is memory for. Its errors are those of [ReadTable].
func LoadTable(r io.Reader, name string, d *Declaration) (*Table, error) {
	sum := sha256.New()
	t := &Table{rows: map[string]map[string]any{}}
	lines := map[string]int{}
	var err error
	t.undeclared, err = ReadTable(io.TeeReader(r, sum), name, d, func(r Row) error {
		if line, taken := lines[r.Key]; taken {
			return fmt.Errorf("%w, in line %d", ErrDuplicate, line)
		}
		lines[r.Key], t.rows[r.Key], t.keys = r.Line, r.Members, append(t.keys, r.Key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.version = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return t, nil
}

// Find implements [lookup.Source].
func (t *Table) Find(_ context.Context, key string) (lookup.Answer, error) {
	return lookup.Answer{Row: t.rows[key], Version: t.version}, nil
}

// Len is how many rows there are.
func (t *Table) Len() int { return len(t.keys) }

// Undeclared is what the table has and its declaration does not.
func (t *Table) Undeclared() []Undeclared { return slices.Clone(t.undeclared) }

// Keys are those of the rows, in the order of the file.
func (t *Table) Keys() []string { return slices.Clone(t.keys) }
