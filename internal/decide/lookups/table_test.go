package lookups_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/decide/lookups"
)

// deviceRow has members of all types.
const deviceRow = `
  row:
    type: object
    properties:
      hub: {type: string}
      note: {type: string}
      line: {type: integer}
      load: {type: [number, "null"]}
      sold: {type: boolean}
      tags: {type: array, items: {type: string}}
      site: {type: object}
      any: {}
    required: [hub, note]
`

func device(t testing.TB, more string) *lookups.Declaration {
	t.Helper()
	declared, problems := lookups.Declare("rules", []lookups.File{{Name: "lookups.yaml", Text: []byte("device:\n  key: serial" + more + deviceRow)}})
	if problems != nil {
		t.Fatal(problems)
	}
	return declared[0]
}

func readTable(d *lookups.Declaration, name, text string) ([]lookups.Row, error) {
	var rows []lookups.Row
	_, err := lookups.ReadTable(strings.NewReader(text), name, d, func(r lookups.Row) error {
		if slices.ContainsFunc(rows, func(other lookups.Row) bool { return other.Key == r.Key }) {
			return lookups.ErrDuplicate
		}
		rows = append(rows, r)
		return nil
	})
	return rows, err
}

func TestReadTable(t *testing.T) {
	t.Parallel()
	full := map[string]any{"hub": "eu", "note": "a \"b\"", "line": json.Number("7"), "load": json.Number("-1.50"), "sold": true,
		"tags": []any{"x", "y"}, "site": map[string]any{"country": "de"}, "any": "1"}
	want := []lookups.Row{{Key: "press-1", Line: 2, Members: full}, {Key: "ü", Line: 3, Members: map[string]any{"hub": "us", "note": ""}}}
	at := func(first, second int) []lookups.Row {
		rows := slices.Clone(want)
		rows[0].Line, rows[1].Line = first, second
		return rows
	}
	for name, c := range map[string]struct {
		name, text string
		want       []lookups.Row
	}{
		"CSV": {"a.csv", "serial,hub,note,line,load,sold,tags,site,any\n" +
			`PRESS-1,eu,"a ""b""",7,-1.50,TRUE,"[""x"",""y""]","{""country"":""de""}",1` + "\nÜ,us,,,,,,,\n", want},
		"semicolons, a mark, other line ends and nameless columns": {"a.csv", "\xef\xbb\xbfhub;note;line;load;sold;tags;site;any;serial;\r\n" +
			`eu;"a ""b""";7;-1.50; true ;"[""x"",""y""]";"{""country"":""de""}";1;PRESS-1;x` + "\r\nus;;;;;;;;Ü;\r\n", want},
		"a line end in a cell": {"a.csv", "serial,hub,note\na,\"e\nu\",\n\nb,us,n", []lookups.Row{
			{Key: "a", Line: 2, Members: map[string]any{"hub": "e\nu", "note": ""}}, {Key: "b", Line: 5, Members: map[string]any{"hub": "us", "note": "n"}}}},
		"NDJSON": {"a.ndjson", `{"serial":"PRESS-1","hub":"eu","note":"a \"b\"","line":7,"load":-1.50,"sold":true,"tags":["x","y"],"site":{"country":"de"},"any":"1"}` +
			"\n\n" + `{"serial":"Ü","hub":"us","note":""}`, at(1, 3)},
		"a YAML mapping": {"a.yaml", `PRESS-1: {hub: eu, note: 'a "b"', line: 7, load: !!float -1.5, sold: true, tags: [x, "y"], site: {country: de}, any: "1"}
Ü:
  hub: us
  note: ""
`, at(1, 2)},
		"a YAML list": {"a.yml", `# comment
- &a {serial: PRESS-1, hub: eu, note: 'a "b"', line: 7, load: -1.5, sold: true, tags: [x, "y"], site: {country: de}, any: "1"}
- serial: Ü
  hub: us
  note: ""
`, at(2, 3)},
		"dates and aliases in YAML": {"a.yaml", "2026-01-02: &a\n  hub: 2026-01-02\n  note: &n 2026-01-03T00:00:00Z\n007: {<<: *a, note: *n}\n", []lookups.Row{
			{Key: "2026-01-02", Line: 1, Members: map[string]any{"hub": "2026-01-02", "note": "2026-01-03T00:00:00Z"}},
			{Key: "007", Line: 4, Members: map[string]any{"hub": "2026-01-02", "note": "2026-01-03T00:00:00Z"}}}},
		"no rows": {"a.csv", "serial,hub,note\n", nil},
	} {
		rows, err := readTable(device(t, ""), c.name, c.text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		equal := cmp.Comparer(func(a, b json.Number) bool { // YAML writes numbers anew
			return strings.TrimSuffix(string(a), "0") == strings.TrimSuffix(string(b), "0")
		})
		if diff := cmp.Diff(c.want, rows, equal); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestKeyOfRow(t *testing.T) {
	t.Parallel()
	const row = "{type: object, properties: {serial: {type: string}, hub: {type: string}}}"
	declared, _ := lookups.Declare("rules", []lookups.File{{Name: "lookups.yaml", Text: []byte("device: {key: serial, case_sensitive: true, row: " + row + "}")}})
	want := []lookups.Row{{Key: "A", Members: map[string]any{"serial": "A", "hub": "eu"}}, {Key: "a", Members: map[string]any{"serial": "a", "hub": "us"}}}
	for name, text := range map[string]string{
		"a.csv":    "serial,hub\nA,eu\na,us\n",
		"a.ndjson": `{"serial":"A","hub":"eu"}` + "\n" + `{"serial":"a","hub":"us"}`,
		"a.yaml":   "A: {hub: eu}\na: {hub: us}",
		"a.yml":    "[{serial: A, hub: eu}, {serial: a, hub: us}]",
	} {
		rows, err := readTable(declared[0], name, text)
		if err != nil {
			t.Error(err)
		}
		for i := range rows {
			rows[i].Line = 0
		}
		if diff := cmp.Diff(want, rows); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

const secretKey, secretCell = "5ecret-key", "5ecret-cell"

func TestWrongTables(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"a.txt", "", "a.txt: not the name of a table (it ends in one of .csv"},
		{"a.csv", "", "a.csv:1: the table is empty (write the names"},
		{"a.csv", "key,hub\n", "a.csv:1: no column is named serial, which is the key of look-up device"},
		{"a.csv", "\xff\xfes\x00e\x00", "a.csv:1: no column is named serial"},
		{"a.csv", "serial,hub,hub\n", "a.csv:1: columns 2 and 3 have the same name"},
		{"a.csv", "serial,hub,note\n5ecret-key,eu,n\n5ECRET-KEY,us,n\n", "a.csv:3: the key of this row is also that of an earlier one (remove one of the two; keys are compared without case)"},
		{"a.csv", "serial,hub,note\n,5ecret-cell,n\n", "a.csv:2: the key, serial, is empty"},
		{"a.csv", "serial,hub,note\n" + strings.Repeat("k", 1025) + ",eu,n\n", "a.csv:2: the key, serial, has more than 1024 bytes"},
		{"a.csv", "serial,hub,note\n5ecret-key,eu\n", "a.csv:2: not CSV with the columns of the first line: wrong number of fields"},
		{"a.csv", "serial,hub,note\n5ecret-key,5ecret-cell\",n\n", `a.csv:2: not CSV with the columns of the first line: bare "`},
		{"a.csv", "serial,hub,note\n5ecret-key,\"5ecret-cell,n\nx,y,z\n", "a.csv:2: not CSV"},
		{"a.csv", "serial,hub,note,line\na,eu,n,1\n5ecret-key,eu,n,5ecret-cell\n", "a.csv:3: column line is not of type integer"},
		{"a.csv", "serial,hub,note,line\n5ecret-key,eu,n,1.5\n", "a.csv:2: not as rules/lookups.yaml:1 declares: /line: expected integer, but got number"},
		{"a.csv", "serial,hub,note,line\n5ecret-key,eu,n,007\n", "a.csv:2: column line is not of type integer"},
		{"a.csv", "serial,hub,note,load\n5ecret-key,eu,n,\"1,5\"\n", "a.csv:2: column load is not of type number or null"},
		{"a.csv", "serial,hub,note,sold\n5ecret-key,eu,n,yes\n", "a.csv:2: column sold is not of type boolean"},
		{"a.csv", "serial,hub,note,tags\n5ecret-key,eu,n,5ecret-cell\n", "a.csv:2: column tags is not of type array"},
		{"a.csv", "serial,hub,note,site\n5ecret-key,eu,n,\"{\"\"a\"\":1,\"\"a\"\":2}\"\n", "a.csv:2: column site is not of type object"},
		{"a.csv", "serial,hub\n5ecret-key,5ecret-cell\nb,c\n", "a.csv:1: no column is named note, which rules/lookups.yaml:1 requires (add it)"},
		{"a.csv", "serial,Hub,Notes\n", "a.csv:1: no column is named hub, which rules/lookups.yaml:1 requires (is it column Hub?)\na.csv:1: no column is named note, which rules/lookups.yaml:1 requires (is it column Notes?)"},
		{"a.ndjson", `{"serial":"a","hub":"5ecret-cell"}`, `a.ndjson:1: not as rules/lookups.yaml:1 declares: missing property "note"`},
		{"a.csv", "serial,hub,note\n5ecret-key,\xff,n\n", "a.csv:2: column 2 is not UTF-8 (save the table in UTF-8)"},
		{"a.csv", "serial,hub,note\na,\"" + strings.Repeat("x\n", 1<<20), "a.csv:1: a row has more than 1048576 bytes (is it one row"},
		{"a.ndjson", strings.Repeat("x", 2<<20), "a.ndjson:1: a row has more than 1048576 bytes"},
		{"a.ndjson", "\n[\"5ecret-key\"]", "a.ndjson:2: not a JSON object"},
		{"a.ndjson", `{"serial":"5ecret-key","hub":"5ecret-cell"`, "a.ndjson:1: not a JSON object"},
		{"a.ndjson", `{"serial":"a","hub":"5ecret-cell","hub":"b"}`, "a.ndjson:1: not a JSON object (write each row"},
		{"a.ndjson", `{"serial":7,"hub":"5ecret-cell"}`, "a.ndjson:1: the key, serial, is missing or not a text"},
		{"a.ndjson", `{"hub":"5ecret-cell"}`, "a.ndjson:1: the key, serial, is missing or not a text"},
		{"a.ndjson", `{"serial":"5ecret-key","hub":true,"note":"n"}`, "a.ndjson:1: not as rules/lookups.yaml:1 declares: /hub: expected string, but got boolean"},
		{"a.yaml", "5ecret-key", "a.yaml:1: neither a mapping nor a list"},
		{"a.yaml", "a: [5ecret-cell", "a.yaml:1: not YAML that makes a row"},
		{"a.yaml", "a:\n  hub: 5ecret-cell\n  hub: 5ecret-cell", "a.yaml:"},
		{"a.yaml", "a: {hub: .inf}", "a.yaml:1: not a row (write a mapping"},
		{"a.yaml", "a:", "a.yaml:1: not a row"},
		{"a.yaml", "5ecret-key: 5ecret-cell", "a.yaml:1: not YAML that makes a row"},
		{"a.yaml", "[a]: {hub: eu}", "a.yaml:1: the key is not a text"},
		{"a.yaml", "- {serial: 007, hub: eu, note: n}", "a.yaml:1: the key, serial, is missing or not a text (write it in quotes)"},
		{"a.yaml", "# " + strings.Repeat("x", 11<<20), "a.yaml:1: YAML is read up to 10 MiB"},
	} {
		rows, err := readTable(device(t, ""), c.name, c.text)
		if wrong, ok := errors.AsType[*lookups.TableError](err); !ok || len(wrong.Problems) == 0 || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%.60q\ngot  %v, %d rows\nwant %s", c.text, err, len(rows), c.want)
		}
		if err != nil && (strings.Contains(strings.ToLower(err.Error()), secretKey) || strings.Contains(err.Error(), secretCell)) {
			t.Errorf("%.60q reveals the row: %v", c.text, err)
		}
	}
	// A table that is wrong in each row is not listed as a whole.
	for name, text := range map[string]string{
		"a.csv": "serial,hub,note,line\n" + strings.Repeat("a,eu,n,x\n", 1000), "a.ndjson": strings.Repeat("[]\n", 1000), "a.yaml": strings.Repeat("- x\n", 1000),
	} {
		_, err := readTable(device(t, ""), name, text)
		if wrong, ok := errors.AsType[*lookups.TableError](err); !ok || len(wrong.Problems) != 20 {
			t.Errorf("%s: got %v", name, err)
		}
	}
	own := errors.New("disk full")
	if _, err := lookups.ReadTable(strings.NewReader("serial,hub,note\na,eu,n\n"), "a.csv", device(t, ""), func(lookups.Row) error { return own }); err != own {
		t.Errorf("got %v instead of the receiver's error", err)
	}
}

func TestFixture(t *testing.T) {
	t.Parallel()
	d := device(t, "\n  fixture: device_fixture.csv")
	files := fstest.MapFS{"device_fixture.csv": {Data: []byte("serial,hub,note\nB,eu,n\na,us,n\n")}}
	table, err := lookups.LoadFixture(files, d)
	if err != nil {
		t.Fatal(err)
	}
	if got := table.Keys(); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("the keys are %q", got)
	}
	if a, err := table.Find(t.Context(), "b"); err != nil || a.Row["hub"] != "eu" || !strings.HasPrefix(a.Version, "sha256:") || len(a.Version) != 71 {
		t.Errorf("got %+v, %v", a, err)
	}
	if a, err := table.Find(t.Context(), "c"); err != nil || a.Row != nil || a.Version == "" {
		t.Errorf("got %+v, %v for a key that is not there", a, err)
	}
	files["device_fixture.csv"].Data = []byte("serial,hub,note\nB,eu,n\n\nb,us,n\n")
	if _, err := lookups.LoadFixture(files, d); err == nil || err.Error() != "device_fixture.csv:4: the key of this row is also that of an earlier one, in line 2 (remove one of the two; keys are compared without case)" {
		t.Errorf("got %v", err)
	}
	if _, problems := lookups.LoadFixtures(files, "rules", []*lookups.Declaration{d}); len(problems) != 1 || problems[0].Place != "rules/device_fixture.csv:4" {
		t.Errorf("got %+v", problems)
	}
	files["device_fixture.csv"].Data = make([]byte, 10<<20+1)
	if _, err := lookups.LoadFixture(files, d); err == nil || !strings.Contains(err.Error(), "a fixture has at most 10 MiB (keep the rows that tests need)") {
		t.Errorf("got %v", err)
	}
	delete(files, "device_fixture.csv")
	if _, err := lookups.LoadFixture(files, d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Whatever the text, each row is as declared and has a key of its own, or there is a problem with a place.
func FuzzReadTable(f *testing.F) {
	f.Add("a.csv", "serial,hub,note,line\na,eu,\"x\"\"\n\",7\n")
	f.Add("a.csv", "\xef\xbb\xbfserial;hub;tags\nA;eu;[1]\na;\"")
	f.Add("a.ndjson", `{"serial":"a","hub":"eu","note":"n"}`+"\n[]")
	f.Add("a.yaml", "a: &a {hub: eu, note: 2026-01-02}\nb: *a\n")
	f.Add("a.yaml", "- {serial: a, <<: [{hub: eu}], note: .nan}")
	d := device(f, "")
	f.Fuzz(func(t *testing.T, name, text string) {
		rows, err := readTable(d, name, text)
		if wrong, ok := errors.AsType[*lookups.TableError](err); err != nil && (!ok || len(wrong.Problems) == 0 || !strings.HasPrefix(wrong.Problems[0].Place, name)) {
			t.Errorf("got %v", err)
		}
		for _, r := range rows {
			if r.Key == "" || r.Line < 1 || r.Members == nil || d.Row.Validate(r.Members) != nil {
				t.Errorf("row %+v", r)
			}
		}
	})
}

// In each kind of table, what is not declared is found, and what is almost a declared member that no row has says so.
func TestUndeclared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"a.csv", "serial,hub,note,sold\na,h,n,true\n", ""},
		{"a.csv", "serial,hub,note,owner,sold_at\na,h,n,x,y\n", "a.csv:1: owner; a.csv:1: sold_at"},
		{"a.csv", "serial,hub,note,sold,Solds\na,h,n,,x\n", "a.csv:1: Solds"}, // the declared one is there
		{"a.csv", "serial;hub;note;Owner;SOLD;tag;n.o.t.e\n", "a.csv:1: SOLD (sold); a.csv:1: tag (tags); a.csv:1: Owner; a.csv:1: n.o.t.e"},
		{"a.csv", "serial,hub,note,\n", ""},
		{"a.ndjson", `{"serial":"a","hub":"h","note":"n"}` + "\n" + `{"serial":"b","hub":"h","note":"n","slod":1,"tgas":2,"lime":3,"sites":4,"laod2":5}`,
			"a.ndjson:2: lime (line); a.ndjson:2: sites (site); a.ndjson:2: slod (sold); a.ndjson:2: tgas (tags); a.ndjson:2: laod2"},
		{"a.ndjson", `{"serial":"a","hub":"h","note":"n","sol":1}` + "\n" + `{"serial":"b","hub":"h","note":"n","sold":true}`, "a.ndjson:1: sol"},
		{"a.yaml", "a: {hub: h, note: n, site: {}}\nb: {hub: h, note: n, sit: {}, Lines: 1}", "a.yaml:2: Lines (line); a.yaml:2: sit"},
		{"a.yaml", "- {serial: a, hub: h, note: n}\n- {serial: b, hub: h, note: n, lines: 1}", "a.yaml:2: lines (line)"},
		{"a.ndjson", `{"serial":"a","hub":"h","note":"n","` + strings.Repeat("ü", 60) + `":1}`, "a.ndjson:1: " + strings.Repeat("ü", 50) + "…"},
	} {
		found, err := lookups.ReadTable(strings.NewReader(c.text), c.name, device(t, ""), func(lookups.Row) error { return nil })
		var got []string
		for _, u := range found {
			text := u.Place + ": " + u.Name
			if u.Meant != "" {
				text += " (" + u.Meant + ")"
			}
			got = append(got, text)
		}
		if strings.Join(got, "; ") != c.want || err != nil {
			t.Errorf("%s\ngot  %s, %v\nwant %s", c.text, strings.Join(got, "; "), err, c.want)
		}
	}
	// Each row can have other members, and not all of them are kept.
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, `{"serial":"%d","hub":"h","note":"n","m%d":1}`+"\n", i, i)
	}
	if found, err := lookups.ReadTable(strings.NewReader(many.String()), "a.ndjson", device(t, ""), func(lookups.Row) error { return nil }); err != nil || len(found) != 20 {
		t.Errorf("got %d, %v", len(found), err)
	}
}
