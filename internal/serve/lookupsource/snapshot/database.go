package snapshot

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/remotefile"
)

const (
	// Without row IDs, a read is one search in one tree.
	createRows = "CREATE TABLE rows (key TEXT PRIMARY KEY, row TEXT NOT NULL) WITHOUT ROWID"
	selectRow  = "SELECT row FROM rows WHERE key = ?"

	// buildCache is how much of a file stays in memory while it is made, in KiB: keys arrive in any order.
	buildCache = 32 << 10
	// readCache is how much of a file each connection keeps, in KiB: the inner pages of a million rows.
	readCache = 8 << 10
	// maxReaders bounds the connections; there are as many as processors.
	maxReaders = 4
	// maxKey and maxRow bound a key and a row, in bytes.
	maxKey, maxRow = 1024, 1 << 20
)

// sqliteSuffixes end the names of SQLite files.
var sqliteSuffixes = []string{".sqlite", ".sqlite3", ".db"}

// connect returns what opens a SQLite file, with these parameters of SQLite.
func connect(file string, parameters url.Values) (driver.Connector, error) {
	absolute, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	parameters.Add("_pragma", "trusted_schema(0)")
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(absolute), RawQuery: parameters.Encode()}
	return sqlite.NewConnector(u.String())
}

// readOnly returns what opens a file that never changes.
func readOnly(file string) (driver.Connector, error) {
	return connect(file, url.Values{"mode": {"ro"}, "immutable": {"1"}, "_pragma": {"query_only(1)", fmt.Sprintf("cache_size(%d)", -readCache)}})
}

// Build makes a SQLite file of a table of text, which the end of its name says is CSV, NDJSON or YAML. All rows must be as
// d declares; a *lookups.TableError says which are not, and which columns are almost ones that are declared and missing.
// It also returns the other columns that are not declared. The file out is replaced in one step.
func Build(ctx context.Context, r io.Reader, name string, d *lookups.Declaration, out string) (rows int, undeclared []lookups.Undeclared, err error) {
	file, err := os.CreateTemp(filepath.Dir(out), ".lookup-*.sqlite")
	if err != nil {
		return 0, nil, err
	}
	defer os.Remove(file.Name()) // fails if it has its name
	rows, undeclared, err = build(ctx, r, name, d, file.Name())
	if err == nil {
		err = lookups.Misspelt(undeclared, d)
	}
	if err != nil {
		_ = file.Close()
		return 0, nil, err
	}
	return rows, undeclared, remotefile.Keep(file, out)
}

// build fills an empty file.
func build(ctx context.Context, r io.Reader, name string, d *lookups.Declaration, file string) (rows int, undeclared []lookups.Undeclared, err error) {
	// Without a journal: if this fails, the file is thrown away.
	connector, err := connect(file, url.Values{"_pragma": {"journal_mode(off)", "synchronous(off)", "locking_mode(exclusive)", fmt.Sprintf("cache_size(%d)", -buildCache)}})
	if err != nil {
		return 0, nil, err
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, createRows); err != nil {
		return 0, nil, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	insert, err := tx.Prepare("INSERT INTO rows VALUES (?, ?)")
	if err != nil {
		return 0, nil, err
	}
	undeclared, err = lookups.ReadTable(r, name, d, func(row lookups.Row) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text, err := json.Marshal(row.Members)
		if err != nil {
			return err
		}
		rows++
		_, err = insert.Exec(row.Key, string(text))
		if failed, ok := errors.AsType[*sqlite.Error](err); ok && failed.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY {
			return lookups.ErrDuplicate
		}
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	return rows, undeclared, tx.Commit()
}

// check verifies that a SQLite file is one that can be served, and all of its rows. Its errors contain nothing of a row.
// The name is that of the file for people.
func check(ctx context.Context, file, name string, d *lookups.Declaration) (rows int, undeclared []lookups.Undeclared, err error) {
	if err := checkHeader(file); err != nil {
		return 0, nil, err
	}
	connector, err := readOnly(file)
	if err != nil {
		return 0, nil, err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	var found string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&found); err != nil {
		return 0, nil, damaged(ctx, err)
	}
	if found != "ok" {
		return 0, nil, errors.New("the SQLite file is damaged: PRAGMA quick_check says so")
	}
	var keys int
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM pragma_table_list('rows') AS t, pragma_table_info('rows') AS c
		WHERE t.schema = 'main' AND t.type = 'table' AND (c.name = 'key' AND c.pk = 1 OR c.name = 'row' AND c.pk = 0)
		AND NOT EXISTS (SELECT * FROM pragma_table_info('rows') WHERE pk > 1)`).Scan(&keys)
	if err != nil {
		return 0, nil, damaged(ctx, err)
	}
	if keys != 2 {
		return 0, nil, errors.New("the SQLite file has no table of the form " + createRows)
	}
	return checkRows(ctx, db, name, d)
}

// checkHeader looks at the first bytes of the file. Source: https://www.sqlite.org/fileformat2.html#the_database_header
func checkHeader(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	header := make([]byte, 100)
	if _, err := io.ReadFull(file, header); err != nil || !bytes.HasPrefix(header, []byte("SQLite format 3\x00")) {
		return errors.New("not a SQLite file")
	}
	if header[18] == 2 || header[19] == 2 {
		return errors.New("the SQLite file has a write-ahead log, which does not come with it: run PRAGMA journal_mode=DELETE on it first")
	}
	return nil
}

func checkRows(ctx context.Context, db *sql.DB, name string, d *lookups.Declaration) (rows int, undeclared []lookups.Undeclared, err error) {
	found, err := db.QueryContext(ctx, "SELECT typeof(key), key, typeof(row), row FROM rows")
	if err != nil {
		return 0, nil, damaged(ctx, err)
	}
	defer found.Close()
	var keyType, rowType string
	var key, text sql.RawBytes
	has, place := lookups.NewColumns(d), func() string { return name }
	for found.Next() {
		if err := found.Scan(&keyType, &key, &rowType, &text); err != nil {
			return 0, nil, damaged(ctx, err)
		}
		rows++
		wrong := func(message string) error { return fmt.Errorf("row %d in the order of keys: %s", rows, message) }
		switch {
		case keyType != "text" || len(key) == 0 || len(key) > maxKey || !utf8.Valid(key):
			return 0, nil, wrong(fmt.Sprintf("the key is not a text of 1 to %d bytes in UTF-8", maxKey))
		case !d.CaseSensitive && strings.ToLower(string(key)) != string(key):
			return 0, nil, wrong("the key is not in lower case, in which rules ask for it: use lower(key), or usher lookup build")
		case rowType != "text" || len(text) > maxRow:
			return 0, nil, wrong(fmt.Sprintf("the row is not a text of at most %d bytes", maxRow))
		}
		if !jsontext.Value(text).IsValid() {
			return 0, nil, wrong("the row is not JSON in UTF-8 with each member once")
		}
		row, err := parseRow(text)
		if err != nil {
			return 0, nil, wrong(err.Error())
		}
		if violations := d.Row.Validate(row); len(violations) > 0 {
			return 0, nil, wrong(fmt.Sprintf("not as %s declares: %s", d.Place, violations[0]))
		}
		for member := range row {
			has.Add(member, place)
		}
	}
	return rows, has.Undeclared(), damaged(ctx, found.Err())
}

// parseRow makes a row of its text. Its error contains nothing of it.
func parseRow(text []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var row map[string]any
	if err := decoder.Decode(&row); err != nil || row == nil {
		return nil, errors.New("the row is not a JSON object")
	}
	return row, nil
}

// damaged describes an error of SQLite about a file that is being read.
func damaged(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	return fmt.Errorf("the SQLite file is damaged: %w", err)
}

// database is an open file that serves rows. It owns a fixed number of connections: one that were opened later, by the
// name of the file, could see what has taken its place. They are those of the driver, because database/sql would double
// what a read costs besides SQLite itself.
type database struct {
	readers chan *reader
	closing chan struct{}
}

type reader struct {
	conn      driver.Conn
	statement statement
}

type statement interface {
	driver.Stmt
	driver.StmtQueryContext
}

func newReader(ctx context.Context, connector driver.Connector) (*reader, error) {
	conn, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	prepared, err := conn.Prepare(selectRow)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	selecting, ok := prepared.(statement)
	if !ok {
		return nil, errors.Join(errors.New("the driver of SQLite is another one"), conn.Close())
	}
	return &reader{conn, selecting}, nil
}

// serveDatabase opens a file that was checked.
func serveDatabase(ctx context.Context, file string) (*database, error) {
	connector, err := readOnly(file)
	if err != nil {
		return nil, err
	}
	n := max(2, min(runtime.GOMAXPROCS(0), maxReaders))
	d := &database{readers: make(chan *reader, n), closing: make(chan struct{})}
	for range n {
		r, err := newReader(ctx, connector)
		if err != nil {
			close(d.readers)
			for r := range d.readers {
				err = errors.Join(err, r.conn.Close())
			}
			return nil, err
		}
		d.readers <- r
	}
	return d, nil
}

// errClosing says that another file has taken the place of this one.
var errClosing = errors.New("the snapshot is being replaced")

// find returns nil if there is no row.
func (d *database) find(ctx context.Context, key string) (map[string]any, error) {
	var r *reader
	select {
	case r = <-d.readers:
	case <-d.closing:
		return nil, errClosing
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { d.readers <- r }()
	text, err := r.read(ctx, key)
	if err != nil {
		return nil, fault.New(fault.Failed, "the snapshot cannot be read: %v", err)
	}
	if text == "" {
		return nil, nil
	}
	return parseRow([]byte(text))
}

// read returns the text of a row, "" if there is none.
func (r *reader) read(ctx context.Context, key string) (text string, err error) {
	// A read is over in microseconds; to be able to interrupt it would cost more.
	rows, err := r.statement.QueryContext(context.WithoutCancel(ctx), []driver.NamedValue{{Ordinal: 1, Value: key}})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns := make([]driver.Value, 1)
	switch err := rows.Next(columns); {
	case err == io.EOF:
		return "", nil
	case err != nil:
		return "", err
	}
	text, ok := columns[0].(string)
	if !ok {
		return "", errors.New("a row is not a text")
	}
	return text, nil
}

// close waits for those who read.
func (d *database) close() error {
	close(d.closing)
	var err error
	for range cap(d.readers) {
		r := <-d.readers
		err = errors.Join(err, r.statement.Close(), r.conn.Close())
	}
	return err
}
