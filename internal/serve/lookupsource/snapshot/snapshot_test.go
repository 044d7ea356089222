package snapshot_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/lookupsource/snapshot"
	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/lookup"
)

var _ lookup.Source = (*snapshot.Snapshot)(nil)

func declaration(t testing.TB, more string) *lookups.Declaration {
	t.Helper()
	declared, problems := lookups.Declare("rules", []lookups.File{{Name: "lookups.yaml", Text: []byte(
		"device:\n  key: serial\n  row: {type: object, properties: {hub: {type: string}, line: {type: integer}" + more + "}, required: [hub]}")}})
	if problems != nil {
		t.Fatal(problems)
	}
	return declared[0]
}

// store offers a table, or what it is told to answer in place of one.
type store struct {
	mu       sync.Mutex
	table    []byte
	version  int
	instead  http.HandlerFunc
	requests atomic.Int32
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	s.mu.Lock()
	table, etag, instead := s.table, strconv.Quote(strconv.Itoa(s.version)), s.instead
	s.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(table)
}

func (s *store) offer(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table, s.instead = []byte(table), nil
	s.version++
}

func (s *store) answer(instead http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instead = instead
}

func serve(t testing.TB, s *store, name string) string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL + "/tables/" + name
}

type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

type bench struct {
	*snapshot.Snapshot
	log *safeBuffer
}

func newBench(t testing.TB, location string, options snapshot.Options) *bench {
	t.Helper()
	b := &bench{log: new(safeBuffer)}
	var err error
	if options.Location, err = remotefile.ParseLocation(location); err != nil {
		t.Fatal(err)
	}
	if options.Folder == "" {
		options.Folder = filepath.Join(t.TempDir(), "lookups")
	}
	options.Name = "device"
	options.Log = slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if b.Snapshot, err = snapshot.New(options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) prepare(t testing.TB, d *lookups.Declaration) {
	t.Helper()
	if err := b.Prepare(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// hub is that of the row, "-" if there is no row.
func (b *bench) hub(t testing.TB, key string) string {
	t.Helper()
	a, err := b.Find(t.Context(), key)
	if err != nil {
		return err.Error()
	}
	if a.Version == "" || a.AsOf.IsZero() {
		t.Errorf("no version or time: %+v", a)
	}
	if a.Row == nil {
		return "-"
	}
	return a.Row["hub"].(string)
}

const first, second = "serial,hub,line\nA,eu,1\nb,us,\n", "serial,hub,line\na,us,2\n"

// A table arrives, is replaced by some that are not good, and by a good one.
func TestLifeOfASnapshot(t *testing.T) {
	t.Parallel()
	s := new(store)
	s.offer(first)
	b := newBench(t, serve(t, s, "devices.csv?sig=5ecret"), snapshot.Options{})
	if got := b.hub(t, "a"); got != "there is no snapshot yet" {
		t.Errorf("before the first one: %s", got)
	}
	d := declaration(t, "")
	b.prepare(t, d)
	a, err := b.Find(t.Context(), "a")
	if err != nil || a.Row["hub"] != "eu" || a.Row["line"] != json.Number("1") || len(a.Row) != 2 {
		t.Errorf("got %+v, %v", a, err)
	}
	if got := b.hub(t, "b") + b.hub(t, "A") + b.hub(t, "c"); got != "us--" {
		t.Errorf("got %s", got)
	}
	digest := b.Stats().Digest
	b.prepare(t, d)
	if got := b.Stats(); got.Attempts != 1 || got.Rows != 2 || got.Activations != 1 || a.Version != digest {
		t.Errorf("prepared twice: %+v", got)
	}
	if err := b.Refresh(t.Context()); err != nil || b.Stats().Activations != 1 {
		t.Errorf("nothing new: %v, %+v", err, b.Stats())
	}
	for i, c := range []struct{ table, want string }{
		{"", "it is empty"},
		{"serial,hub\nx,\"5ecret", "devices.csv:2: not CSV"},
		{"serial,hub,line\nx,eu,5ecret\n", "devices.csv:2: column line is not of type integer"},
		{"serial,line\n5ecret,1\n", "devices.csv:1: no column is named hub, which rules/lookups.yaml:1 requires (add it)"},
		{"serial,hub\n5ecret,eu\n5ECRET,us\n", "devices.csv:3: the key of this row is also that of an earlier one"},
	} {
		s.offer(c.table)
		err := b.Refresh(t.Context())
		if refused, ok := errors.AsType[*snapshot.RefusedError](err); !ok || !strings.Contains(refused.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", c.table, err, c.want)
		}
		if got := b.Stats(); got.Refusals != uint64(i+1) || !strings.Contains(got.Refused, c.want) || got.Digest != digest || b.hub(t, "a") != "eu" {
			t.Errorf("%q: %+v, hub %s", c.table, got, b.hub(t, "a"))
		}
		before := b.Stats()
		if err := b.Refresh(t.Context()); err != nil || b.Stats().Refusals != before.Refusals || b.Stats().Refused == "" {
			t.Errorf("%q is refused again, or forgotten: %v, %+v", c.table, err, b.Stats())
		}
	}
	s.offer(first) // the one in use
	if err := b.Refresh(t.Context()); err != nil || b.Stats().Refused != "" || b.Stats().Activations != 1 {
		t.Errorf("back to the first: %v, %+v", err, b.Stats())
	}
	s.offer(second)
	if err := b.Refresh(t.Context()); err != nil || b.hub(t, "a") != "us" || b.hub(t, "b") != "-" || b.Stats().Digest == digest {
		t.Errorf("the second: %v, %+v", err, b.Stats())
	}
	said := b.log.String() + fmt.Sprintf("%+v", b.Stats())
	if strings.Contains(strings.ToLower(said), "5ecret") {
		t.Errorf("the signature or a row is in %s", said)
	}
	for _, want := range []string{`"snapshot in use","lookup":"device"`, "snapshot refused", "snapshot good again"} {
		if !strings.Contains(said, want) {
			t.Errorf("%s is not in %s", want, said)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if got := b.hub(t, "a"); !strings.Contains(got, "no snapshot") {
		t.Errorf("after its end: %s", got)
	}
	if err := b.Prepare(t.Context(), declaration(t, ", x: {type: string}")); err == nil {
		t.Error("prepared after its end")
	}
}

// Whatever the source answers, look-ups go on, and the operator is told.
func TestFaultsOfTheSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		instead http.HandlerFunc
		want    string
	}{
		"500": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "500 Internal Server Error"},
		"403": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "access to the snapshot is denied"},
		"truncated": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, second)
		}, "the snapshot did not arrive whole"},
		"connection lost": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"too large":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 3<<20)) }, "larger than 2 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := new(store)
			s.offer(first)
			folder := filepath.Join(t.TempDir(), "lookups")
			b := newBench(t, serve(t, s, "devices.csv"), snapshot.Options{MaxBytes: 2 << 20, Folder: folder})
			b.prepare(t, declaration(t, ""))
			s.answer(c.instead)
			err := b.Refresh(t.Context())
			if got := b.Stats(); err == nil || !strings.Contains(err.Error(), c.want) || got.Failures != 1 || got.Failure != err.Error() || got.Refusals != 0 {
				t.Errorf("got %v, %+v, want %q", err, got, c.want)
			}
			if got := b.hub(t, "a"); got != "eu" {
				t.Errorf("hub %s", got)
			}
			s.offer(second)
			if err := b.Refresh(t.Context()); err != nil || b.hub(t, "a") != "us" || b.Stats().Failure != "" {
				t.Errorf("when the source is back: %v, %+v", err, b.Stats())
			}
			if left, _ := filepath.Glob(filepath.Join(folder, ".*")); left != nil {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// The last good snapshot is on disk for a start without the source.
func TestColdStart(t *testing.T) {
	t.Parallel()
	down := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }
	for name, c := range map[string]struct {
		spoil   func(t *testing.T, folder string)
		more    string // declared in addition at the second start
		instead http.HandlerFunc
		want    string
		disk    bool
	}{
		"source away":                           {instead: down, want: "eu", disk: true},
		"source has nothing new":                {want: "eu"},
		"source has something that is not good": {instead: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "serial\nx\n") }, want: "eu", disk: true},
		"source away, another declaration":      {instead: down, more: ", x: {type: string}", want: "no snapshot yet: the source answered 503"},
		"another declaration":                   {more: ", x: {type: string}", want: "eu"},
		"file spoilt": {spoil: func(t *testing.T, folder string) {
			names, _ := filepath.Glob(filepath.Join(folder, "*.sqlite"))
			file, err := os.OpenFile(names[0], os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = file.WriteAt([]byte("x"), 5000)
			_ = file.Close()
		}, want: "eu"},
		"file spoilt, source away": {spoil: func(t *testing.T, folder string) {
			names, _ := filepath.Glob(filepath.Join(folder, "*.sqlite"))
			_ = os.Truncate(names[0], 4096)
		}, instead: down, want: "no snapshot yet: the source answered 503"},
		"state spoilt, source away": {spoil: func(t *testing.T, folder string) {
			names, _ := filepath.Glob(filepath.Join(folder, "*.json"))
			_ = os.WriteFile(names[0], []byte("{"), 0o600)
		}, instead: down, want: "no snapshot yet: the source answered 503"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := new(store)
			s.offer(first)
			url, folder := serve(t, s, "devices.csv"), filepath.Join(t.TempDir(), "lookups")
			b := newBench(t, url, snapshot.Options{Folder: folder})
			b.prepare(t, declaration(t, ""))
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			names, _ := filepath.Glob(filepath.Join(folder, "*.json"))
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(names[0], old, old); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				c.spoil(t, folder)
			}
			s.answer(c.instead)
			b = newBench(t, url, snapshot.Options{Folder: folder})
			err := b.Prepare(t.Context(), declaration(t, c.more))
			got := b.Stats()
			if hub := b.hub(t, "a"); !strings.Contains(hub, c.want) || (err == nil) != (hub == "eu") || got.FromDisk != c.disk || (got.Age > time.Minute) != c.disk {
				t.Fatalf("hub %s, %v, %+v\n%s", hub, err, got, b.log)
			}
			s.offer(second)
			if err := b.Refresh(t.Context()); err != nil || b.hub(t, "a") != "us" || b.Stats().FromDisk || b.Stats().Age > time.Minute {
				t.Errorf("when the source is back: %v, %+v", err, b.Stats())
			}
		})
	}
}

// Rules that declare something else get rows that are as they declare, or the rows stay as they are.
func TestOtherDeclaration(t *testing.T) {
	t.Parallel()
	s := new(store)
	s.offer("serial,hub,line,load\na,eu,1,2.5\n")
	b := newBench(t, serve(t, s, "devices.csv"), snapshot.Options{})
	b.prepare(t, declaration(t, ""))
	err := b.Prepare(t.Context(), declaration(t, ", load: {type: integer}"))
	if _, ok := errors.AsType[*snapshot.RefusedError](err); !ok || b.hub(t, "a") != "eu" || b.Stats().Refused != "" {
		t.Errorf("got %v, %+v", err, b.Stats())
	}
	b.prepare(t, declaration(t, ", load: {type: number}"))
	if a, err := b.Find(t.Context(), "a"); err != nil || a.Row["load"] != json.Number("2.5") {
		t.Errorf("got %+v, %v", a, err)
	}
	s.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	if f, ok := errors.AsType[*fault.Error](b.Prepare(t.Context(), declaration(t, ", load: {type: string}"))); !ok || f.Kind != fault.Unavailable || b.hub(t, "a") != "eu" {
		t.Errorf("got %v", f)
	}
	s.offer("serial,hub,line,load\na,us,1,2.5\n")
	if err := b.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if a, err := b.Find(t.Context(), "a"); err != nil || a.Row["load"] != "2.5" || a.Row["hub"] != "us" {
		t.Errorf("when the source is back: got %+v, %v", a, err)
	}
}

func sqliteFile(t testing.TB, statements ...string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.sqlite")
	db, err := sql.Open("sqlite", name)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

const create = "CREATE TABLE rows (key TEXT PRIMARY KEY, row TEXT)"

func insert(key, row string) string {
	return fmt.Sprintf("INSERT INTO rows VALUES (%s, %s)", key, row)
}

func TestSQLiteFiles(t *testing.T) {
	t.Parallel()
	good := sqliteFile(t, create, insert("'a'", `'{"hub":"us"}'`))
	many := sqliteFile(t, create, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000)
		INSERT INTO rows SELECT 'k' || i, '{"hub":"us"}' FROM n`)
	spoilt := bytes.Clone(many)
	clear(spoilt[3*4096 : 4*4096])
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"good":              {good, ""},
		"without row IDs":   {sqliteFile(t, create+" WITHOUT ROWID", insert("'a'", `'{"hub":"us"}'`)), ""},
		"text":              {[]byte(first), "not a SQLite file"},
		"empty":             {nil, "not a SQLite file"},
		"only a header":     {good[:100], "damaged"},
		"truncated":         {many[:len(many)/2], "damaged"},
		"spoilt":            {spoilt, "damaged"},
		"write-ahead log":   {sqliteFile(t, "PRAGMA journal_mode=WAL", create, insert("'a'", `'{"hub":"us"}'`)), "write-ahead log"},
		"no table":          {sqliteFile(t, "CREATE TABLE a (b)"), "no table of the form CREATE TABLE rows"},
		"a view":            {sqliteFile(t, "CREATE VIEW rows AS SELECT 'a' AS key, '{\"hub\":\"us\"}' AS row"), "no table of the form"},
		"no primary key":    {sqliteFile(t, "CREATE TABLE rows (key TEXT, row TEXT)"), "no table of the form"},
		"two primary keys":  {sqliteFile(t, "CREATE TABLE rows (key TEXT, row TEXT, part TEXT, PRIMARY KEY (key, part))"), "no table of the form"},
		"key is a number":   {sqliteFile(t, "CREATE TABLE rows (key PRIMARY KEY, row TEXT)", insert("5", `'{"hub":"us"}'`)), "row 1 in the order of keys: the key is not a text"},
		"empty key":         {sqliteFile(t, create, insert("''", `'{"hub":"us"}'`)), "the key is not a text of 1 to 1024"},
		"upper case":        {sqliteFile(t, create, insert("'5ecretA'", `'{"hub":"us"}'`)), "the key is not in lower case"},
		"row is null":       {sqliteFile(t, create, insert("'a'", "NULL")), "the row is not a text"},
		"row is not JSON":   {sqliteFile(t, create, insert("'a'", `'{"hub":"5ecret"'`)), "the row is not JSON"},
		"row is a list":     {sqliteFile(t, create, insert("'a'", `'["5ecret"]'`)), "not a JSON object"},
		"member twice":      {sqliteFile(t, create, insert("'a'", `'{"hub":"5ecret","hub":"b"}'`)), "each member once"},
		"not as declared":   {sqliteFile(t, create, insert("'a'", `'{"hub":"5ecret","line":"x"}'`)), "row 1 in the order of keys: not as rules/lookups.yaml:1 declares: /line: expected integer"},
		"other page size":   {sqliteFile(t, "PRAGMA page_size=512", create, insert("'a'", `'{"hub":"us"}'`)), ""},
		"bytes in a column": {sqliteFile(t, create, insert("'a'", `x'00ff'`)), "the row is not a text"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := new(store)
			s.offer(string(sqliteFile(t, create, insert("'a'", `'{"hub":"eu"}'`))))
			b := newBench(t, serve(t, s, "devices.sqlite"), snapshot.Options{})
			b.prepare(t, declaration(t, ""))
			s.offer(string(c.file))
			err := b.Refresh(t.Context())
			_, refused := errors.AsType[*snapshot.RefusedError](err)
			switch got := b.hub(t, "a"); {
			case c.want == "" && (err != nil || got != "us"):
				t.Errorf("hub %s, %v", got, err)
			case c.want != "" && (!refused || !strings.Contains(err.Error(), c.want) || got != "eu" || strings.Contains(err.Error(), "5ecret")):
				t.Errorf("hub %s, %v, want %s", got, err, c.want)
			}
		})
	}
	// The rows of a SQLite file do not depend on the declaration, so it serves a start without its source.
	s := new(store)
	s.offer(string(good))
	url, folder := serve(t, s, "devices.db"), filepath.Join(t.TempDir(), "lookups")
	newBench(t, url, snapshot.Options{Folder: folder}).prepare(t, declaration(t, ""))
	s.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	b := newBench(t, url, snapshot.Options{Folder: folder})
	b.prepare(t, declaration(t, ", x: {type: string}"))
	if got := b.hub(t, "a"); got != "us" {
		t.Errorf("hub %s", got)
	}
	b = newBench(t, url, snapshot.Options{Folder: folder})
	if err := b.Prepare(t.Context(), declaration(t, ", x: {type: string}}, minProperties: 2, not: {")); err == nil {
		t.Error("rows are not checked against the declaration")
	}
}

// Keys are data.
func TestHostileKeys(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	keys := []string{"'; drop table rows; --", `"`, "a\x00b", "..", "%2f", "../../etc/passwd", "ü", "😀", strings.Repeat("k", 128), "%", "_", "\\", "a\nb", "key", "1"}
	for _, key := range keys {
		line, err := json.Marshal(map[string]string{"serial": key, "hub": "hub of " + key})
		if err != nil {
			t.Fatal(err)
		}
		table.Write(append(line, '\n'))
	}
	s := new(store)
	s.offer(table.String())
	b := newBench(t, serve(t, s, "devices.ndjson"), snapshot.Options{})
	b.prepare(t, declaration(t, ""))
	for _, key := range keys {
		if got := b.hub(t, key); got != "hub of "+key {
			t.Errorf("%q: %q", key, got)
		}
	}
	for _, key := range []string{"", "a", "a\x00", "a\x00c", "\xff", "%%", "__", "' or 1=1 --", strings.Repeat("k", 1024)} {
		if got := b.hub(t, key); got != "-" {
			t.Errorf("%q: %q", key, got)
		}
	}
}

// A file on this machine is read again when it has changed.
func TestFileOnThisMachine(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "devices.csv")
	b := newBench(t, name, snapshot.Options{Poll: time.Millisecond})
	if err := b.Prepare(t.Context(), declaration(t, "")); err == nil || !strings.Contains(b.hub(t, "a"), "there is no snapshot yet: ") {
		t.Errorf("got %v, %s", err, b.hub(t, "a"))
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	for _, c := range []struct{ text, want string }{{first, "eu"}, {second, "us"}, {"serial,hub\n", "-"}} {
		if err := os.WriteFile(name+".new", []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return b.hub(t, "a") == c.want })
	}
	before := b.Stats().Attempts
	await(t, func() bool { return b.Stats().Attempts > before+2 })
	if got := b.Stats(); got.Activations != 3 {
		t.Errorf("read without a change: %+v", got)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return b.Stats().Failure != "" })
	if got := b.hub(t, "a"); got != "-" {
		t.Errorf("got %s", got)
	}
	stop()
	<-done
}

// await waits for what will happen; a test that waits in vain ends with its time limit.
func await(t *testing.T, happened func() bool) {
	t.Helper()
	for !happened() {
		if t.Context().Err() != nil {
			t.FailNow()
		}
		runtime.Gosched()
	}
}

// direct reaches a store without a network, so that time can be the test's own.
type direct struct{ *store }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	d.ServeHTTP(recorder, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return recorder.Result(), nil
}

// A source is asked once per interval, and less often the longer it fails; a slow one does not hold up a start for long.
func TestPolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := new(store)
		s.offer(first)
		options := snapshot.Options{Poll: time.Minute, Transport: direct{s}, Folder: filepath.Join(t.TempDir(), "lookups")}
		b := newBench(t, "https://tables.example.com/devices.csv", options)
		b.prepare(t, declaration(t, ""))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); b.Run(ctx) }()
		time.Sleep(time.Hour)
		if got := s.requests.Load(); got < 55 || got > 67 {
			t.Errorf("%d requests in an hour", got)
		}
		if age := b.Stats().Age; age > 2*time.Minute {
			t.Errorf("the age is %s", age)
		}
		s.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		before := s.requests.Load()
		time.Sleep(time.Hour)
		if got := s.requests.Load() - before; got < 25 || got > 45 {
			t.Errorf("%d requests in an hour of failures", got)
		}
		if got := b.Stats(); got.Age < time.Hour-3*time.Minute || strings.Count(b.log.String(), `"level":"WARN"`) != 1 || b.hub(t, "a") != "eu" {
			t.Errorf("%+v\n%s", got, b.log)
		}
		stop()
		<-done
		s.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		begin := time.Now()
		b = newBench(t, "https://tables.example.com/devices.csv", options)
		b.prepare(t, declaration(t, ""))
		if waited := time.Since(begin); waited > 6*time.Second || b.hub(t, "a") != "eu" || !b.Stats().FromDisk {
			t.Errorf("waited %s, %+v", waited, b.Stats())
		}
	})
}

// While snapshots are replaced, each look-up gets a whole one, and none fails.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	table := func(version int) string {
		return fmt.Sprintf("serial,hub,line\na,v%d,%d\n", version, version)
	}
	s := new(store)
	s.offer(table(0))
	b := newBench(t, serve(t, s, "devices.csv"), snapshot.Options{})
	b.prepare(t, declaration(t, ""))
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var reads atomic.Int64
	for range 8 {
		readers.Go(func() {
			newest := 0
			for ctx.Err() == nil {
				a, err := b.Find(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				version, _ := strconv.Atoi(string(a.Row["line"].(json.Number)))
				if a.Row["hub"] != fmt.Sprintf("v%d", version) || version < newest {
					t.Errorf("row %v after version %d", a.Row, newest)
				}
				newest = version
				reads.Add(1)
			}
		})
	}
	for version := range 30 {
		s.offer(table(version + 1))
		if err := b.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		before := reads.Load()
		await(t, func() bool { return reads.Load() > before || t.Failed() })
	}
	stop()
	readers.Wait()
	if got := b.Stats(); got.Activations != 31 || b.hub(t, "a") != "v30" {
		t.Errorf("%+v", got)
	}
}

// A table that is not good at the first start is a fault, which ends when there is a good one.
func TestRefusedAtFirst(t *testing.T) {
	t.Parallel()
	s := new(store)
	s.offer("serial\na\n")
	b := newBench(t, serve(t, s, "devices.csv"), snapshot.Options{})
	if f, ok := errors.AsType[*fault.Error](b.Prepare(t.Context(), declaration(t, ""))); !ok || f.Kind != fault.Schema || !strings.Contains(f.Text, "devices.csv:1") {
		t.Errorf("got %v", f)
	}
	if got := b.hub(t, "a"); !strings.Contains(got, "is refused, see the log") {
		t.Errorf("got %s", got)
	}
	s.offer(first)
	if err := b.Refresh(t.Context()); err != nil || b.hub(t, "a") != "eu" {
		t.Errorf("got %v, hub %s", err, b.hub(t, "a"))
	}
}

// A look-up ends with its context even if all connections are in use, which no test can bring about; here it has ended
// before.
func TestEndedContext(t *testing.T) {
	t.Parallel()
	s := new(store)
	s.offer(first)
	b := newBench(t, serve(t, s, "devices.csv"), snapshot.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Prepare(ctx, declaration(t, "")); !errors.Is(err, context.Canceled) || b.Stats().Failures != 0 {
		t.Errorf("got %v, %+v", err, b.Stats())
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ location, folder, want string }{
		{"devices.txt", "x", "the name of the file does not say what it is"},
		{"https://a.example.com/devices", "x", "the name of the file does not say what it is"},
		{"devices.csv", "", "needs a folder"},
	} {
		l, err := remotefile.ParseLocation(c.location)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := snapshot.New(snapshot.Options{Location: l, Folder: c.folder}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.location, err)
		}
	}
	// A folder in /tmp that others can write into.
	shared := t.TempDir()
	folder := filepath.Join(shared, "lookups")
	if err := errors.Join(os.Mkdir(folder, 0o777), os.Chmod(folder, 0o777), os.Chmod(shared, 0o777|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	s := new(store)
	s.offer(first)
	b := newBench(t, serve(t, s, "devices.csv"), snapshot.Options{Folder: folder})
	if err := b.Prepare(t.Context(), declaration(t, "")); err == nil || !strings.Contains(err.Error(), "others can write into") {
		t.Errorf("got %v", err)
	}
	b = newBench(t, "blob:"+serve(t, s, "devices.csv"), snapshot.Options{Credential: func() (azcore.TokenCredential, error) {
		return nil, errors.New("none at https://identity?key=5ecret")
	}})
	if err := b.Prepare(t.Context(), declaration(t, "")); err == nil || strings.Contains(err.Error()+b.log.String(), "5ecret") {
		t.Errorf("got %v", err)
	}
}

// Columns that are not declared are logged when a table arrives, and not again while they stay the same.
func TestUndeclared(t *testing.T) {
	t.Parallel()
	d := declaration(t, "")
	const misspelt = `"error":"lin is not declared, and the declared line is missing: rules see neither","fix":"did you mean line?`
	name, folder := filepath.Join(t.TempDir(), "devices.csv"), filepath.Join(t.TempDir(), "lookups")
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("serial,hub,lin,owner\na,eu,1,x\n")
	b := newBench(t, name, snapshot.Options{Folder: folder})
	b.prepare(t, d)
	write("serial,hub,lin,owner\na,us,1,y\nb,us,1,y\n")
	if err := b.Refresh(t.Context()); err != nil || b.hub(t, "a") != "us" {
		t.Errorf("got %v, %s", err, b.hub(t, "a"))
	}
	log := b.log.String()
	if strings.Count(log, misspelt) != 1 || strings.Count(log, `"members":["owner"]`) != 1 || !strings.Contains(log, `"level":"WARN","msg":"snapshot lacks a declared member","lookup":"device"`) {
		t.Errorf("got %s", log)
	}
	// A start from the snapshot on disk says so, too.
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	again := newBench(t, name, snapshot.Options{Folder: folder})
	again.prepare(t, d)
	if log := again.log.String(); strings.Count(log, misspelt) != 1 || len(again.Stats().Undeclared) != 2 {
		t.Errorf("got %s", log)
	}
	write("serial,hub,line,owner\na,eu,1,x\n")
	if err := again.Refresh(t.Context()); err != nil || len(again.Stats().Undeclared) != 1 {
		t.Errorf("got %v, %+v", err, again.Stats())
	}
	if log := again.log.String(); strings.Count(log, misspelt) != 1 {
		t.Errorf("got %s", log)
	}
	// The rows of SQLite are objects.
	file := filepath.Join(t.TempDir(), "devices.sqlite")
	if err := os.WriteFile(file, sqliteFile(t, create, insert("'a'", `'{"hub":"eu"}'`), insert("'b'", `'{"hub":"us","lin":1,"serial":"b"}'`)), 0o600); err != nil {
		t.Fatal(err)
	}
	b = newBench(t, file, snapshot.Options{})
	b.prepare(t, d)
	if log := b.log.String(); strings.Count(log, misspelt) != 1 || !strings.Contains(log, `"place":"devices.sqlite"`) || len(b.Stats().Undeclared) != 1 {
		t.Errorf("got %s", log)
	}
}

// Build makes what can be served.
func TestBuild(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	out := filepath.Join(folder, "devices.sqlite")
	d := declaration(t, "")
	if _, _, err := snapshot.Build(t.Context(), strings.NewReader("serial\na\n"), "devices.csv", d, out); err == nil || !strings.HasPrefix(err.Error(), "devices.csv:1: no column is named hub") {
		t.Errorf("got %v", err)
	}
	if rows, _, err := snapshot.Build(t.Context(), strings.NewReader(first), "devices.csv", d, out); err != nil || rows != 2 {
		t.Fatalf("got %d, %v", rows, err)
	}
	if entries, _ := os.ReadDir(folder); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	b := newBench(t, out, snapshot.Options{})
	b.prepare(t, d)
	if got := b.hub(t, "a") + b.hub(t, "b") + b.hub(t, "c"); got != "euus-" || b.Stats().Rows != 2 {
		t.Errorf("got %s, %+v", got, b.Stats())
	}
}

// millionRows is a table of a million devices.
type millionRows struct {
	next int
	rest []byte
}

func (m *millionRows) Read(p []byte) (int, error) {
	for len(m.rest) < len(p) && m.next <= 1_000_000 {
		if m.next == 0 {
			m.rest = append(m.rest, "serial,hub,line,tenant,model\n"...)
		} else {
			m.rest = fmt.Appendf(m.rest, "%s,contoso-eu-%d.azure-devices.net,%d,tenant-%d,press 4000 turbo\n", benchKey(m.next), m.next%16, m.next%100, m.next%1000)
		}
		m.next++
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// benchKey scatters keys, as serial numbers of many factories are.
func benchKey(n int) string { return fmt.Sprintf("press-%08x", uint32(n)*2654435761) }

func BenchmarkMillionRows(b *testing.B) {
	file := filepath.Join(b.TempDir(), "devices.sqlite")
	d := declaration(b, ", tenant: {type: string}, model: {type: string}")
	start := time.Now()
	if rows, _, err := snapshot.Build(b.Context(), new(millionRows), "devices.csv", d, file); err != nil || rows != 1_000_000 {
		b.Fatal(rows, err)
	}
	built := time.Since(start)
	start = time.Now()
	s := newBench(b, file, snapshot.Options{})
	s.prepare(b, d)
	b.Logf("built in %s, loaded in %s", built, time.Since(start))
	read := func(b *testing.B, key func(i int) string, present bool) {
		b.ReportAllocs()
		before := processorTime()
		for i := 0; b.Loop(); i++ {
			if a, err := s.Find(b.Context(), key(i)); err != nil || (a.Row != nil) != present {
				b.Fatal(a, err)
			}
		}
		b.ReportMetric(float64((processorTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	}
	b.Run("row", func(b *testing.B) {
		read(b, func(i int) string { return benchKey(1 + i*7919%1_000_000) }, true)
	})
	b.Run("none", func(b *testing.B) {
		read(b, func(i int) string { return benchKey(1+i*7919%1_000_000) + "x" }, false)
	})
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
			b.Log(strings.TrimSpace(line))
		}
	}
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
