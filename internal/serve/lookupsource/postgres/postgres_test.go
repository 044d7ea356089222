//go:build unix

package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/lookupsource/postgres"
	"github.com/usher-dps/usher/lookup"
)

var _ lookup.Source = (*postgres.Source)(nil)

// cluster is a PostgreSQL server of its own.
type cluster struct {
	folder string // has the socket, the certificate of its authority (ca.pem), and the data
	port   string
}

// programs is where PostgreSQL is; empty if it is not installed.
func programs() string {
	if name, err := exec.LookPath("initdb"); err == nil {
		if name, err = filepath.EvalSymlinks(name); err == nil {
			return filepath.Dir(name)
		}
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); found != nil {
		return filepath.Dir(found[len(found)-1])
	}
	return ""
}

// run runs a program of PostgreSQL, which refuses to be root.
func (c *cluster) run(name string, arguments ...string) error {
	command := exec.Command(filepath.Join(programs(), name), arguments...)
	command.Dir = c.folder
	command.Env = append(os.Environ(), "LC_ALL=C")
	if os.Geteuid() == 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	log, err := os.CreateTemp(c.folder, "run-*") // a server that stays would keep a pipe open
	if err != nil {
		return err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	if err := command.Run(); err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w\n%s", name, err, said)
	}
	return nil
}

func newCluster() (c *cluster, err error) {
	folder, err := os.MkdirTemp("", "usher-pg-")
	if err != nil {
		return nil, err
	}
	c = &cluster{folder: folder}
	files, err := certificates()
	if err != nil {
		return c, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // for a free port
	if err != nil {
		return c, err
	}
	_, c.port, _ = net.SplitHostPort(listener.Addr().String())
	files["hba.conf"] = []byte("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			return c, err
		}
	}
	if os.Geteuid() == 0 {
		for _, name := range []string{".", "server.pem", "server.key", "hba.conf"} {
			if err := os.Chown(filepath.Join(folder, name), 65534, 65534); err != nil {
				return c, err
			}
		}
	}
	if err := c.run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"); err != nil {
		return c, err
	}
	if err := listener.Close(); err != nil {
		return c, err
	}
	return c, c.start()
}

func (c *cluster) start() error {
	options := fmt.Sprintf("-c port=%s -c listen_addresses=127.0.0.1 -c unix_socket_directories=%s -c hba_file=%[2]s/hba.conf -c fsync=off "+
		"-c ssl=on -c ssl_cert_file=%[2]s/server.pem -c ssl_key_file=%[2]s/server.key -c max_connections=50 -c timezone=Asia/Kolkata", c.port, c.folder)
	return c.run("pg_ctl", "-D", "data", "-w", "-l", "server.log", "-o", options, "start")
}

// kill ends the server as a crash would.
func (c *cluster) kill() error { return c.run("pg_ctl", "-D", "data", "-m", "immediate", "stop") }

func (c *cluster) remove() {
	_ = c.kill()
	_ = os.RemoveAll(c.folder)
}

// certificates makes an authority, and the certificate of a server on the loopback address.
func certificates() (map[string][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	if err != nil {
		return nil, err
	}
	server, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, authority, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return map[string][]byte{"ca.pem": block("CERTIFICATE", ca), "server.pem": block("CERTIFICATE", server), "server.key": block("EC PRIVATE KEY", private)}, nil
}

func (c *cluster) exec(t testing.TB, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.socket("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// socket is a URL for the Unix socket.
func (c *cluster) socket(user string) string {
	return "postgres://" + user + "@/postgres?" + url.Values{"host": {c.folder}, "port": {c.port}}.Encode()
}

// tls is a URL for TLS.
func (c *cluster) tls(user string) string {
	return "postgres://" + user + "@127.0.0.1:" + c.port + "/postgres?" + url.Values{"sslmode": {"verify-full"}, "sslrootcert": {filepath.Join(c.folder, "ca.pem")}}.Encode()
}

// shared is the cluster of most tests, started by the first that needs it.
var (
	shared  = sync.OnceValues(newCluster)
	started atomic.Bool
)

func TestMain(m *testing.M) {
	code := m.Run()
	if started.Load() {
		if c, _ := shared(); c != nil {
			c.remove()
		}
	}
	os.Exit(code)
}

func needServer(t testing.TB) {
	t.Helper()
	if programs() == "" {
		if os.Getenv("USHER_E2E") == "required" {
			t.Fatal("PostgreSQL is not installed")
		}
		t.Skip("PostgreSQL is not installed: install it to run this test")
	}
}

func server(t testing.TB) *cluster {
	t.Helper()
	needServer(t)
	started.Store(true)
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func source(t testing.TB, options postgres.Options) *postgres.Source {
	t.Helper()
	s, err := postgres.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestRow(t *testing.T) {
	t.Parallel()
	c := server(t)
	c.exec(t, `CREATE TABLE typed (key text PRIMARY KEY, hub varchar(20), line int, big bigint, exact numeric, near float8, sold boolean,
		made timestamptz, day date, tags text[], grid int[][], site jsonb, raw json, nothing text, id uuid)`,
		`INSERT INTO typed VALUES ('a', 'eü', 7, 9007199254740993, 123456789012345678901234567890.10, 1.5, true, '2026-01-02 03:04:05.25+01', '2026-01-02',
		'{x,"y z",NULL}', '{{1,2},{3,4}}', '{"country": "de", "n": null}', '[1.50]', NULL, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')`)
	s := source(t, postgres.Options{URL: c.socket("postgres"), Query: "SELECT * FROM typed WHERE key = $1::text -- the key\n;; "})
	got, err := s.Find(t.Context(), "a")
	want := map[string]any{
		"key": "a", "hub": "eü", "line": json.Number("7"), "big": json.Number("9007199254740993"), "exact": json.Number("123456789012345678901234567890.10"),
		"near": json.Number("1.5"), "sold": true, "made": "2026-01-02T02:04:05.25+00:00", "day": "2026-01-02", "tags": []any{"x", "y z", nil},
		"grid": []any{[]any{json.Number("1"), json.Number("2")}, []any{json.Number("3"), json.Number("4")}},
		"site": map[string]any{"country": "de", "n": nil}, "raw": []any{json.Number("1.50")}, "id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
	}
	if diff := cmp.Diff(want, got.Row); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if got, err := s.Find(t.Context(), "b"); err != nil || got.Row != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Keys are data, whatever they contain.
func TestHostileKeys(t *testing.T) {
	t.Parallel()
	c := server(t)
	c.exec(t, "CREATE TABLE hostile (key text PRIMARY KEY)", "INSERT INTO hostile VALUES ('a')")
	s := source(t, postgres.Options{URL: c.socket("postgres"), Query: "SELECT $1::text AS echo, (SELECT count(*) FROM hostile) AS n"})
	for _, key := range []string{"", "'; DROP TABLE hostile; --", `"`, `\'; --`, "$1", "$$", "..", "%2f", "ü😀", strings.Repeat("k", 1024), "%", "\x01", "\u2028", "E'\\x00'"} {
		if got, err := s.Find(t.Context(), key); err != nil || got.Row["echo"] != key || got.Row["n"] != json.Number("1") {
			t.Errorf("%q: got %+v, %v", key, got, err)
		}
	}
	for _, key := range []string{"\x00", "a\x00b", "\xff"} {
		if got, err := s.Find(t.Context(), key); err != nil || got.Row != nil {
			t.Errorf("%q: got %+v, %v", key, got, err)
		}
	}
}

const secretKey, password = "5ecret-key", "pa55word"

// What is wrong with the server, the query or the row is said, without credentials, keys and rows.
func TestFaults(t *testing.T) {
	t.Parallel()
	c := server(t)
	c.exec(t, "CREATE TABLE faulty (key text, hub text)", "INSERT INTO faulty VALUES ('5ecret-key', 'eu'), ('5ecret-key', 'us')", "CREATE ROLE faulty LOGIN PASSWORD 'other'",
		"CREATE FUNCTION write_it(key text) RETURNS text LANGUAGE sql AS $$INSERT INTO faulty VALUES (key, key) RETURNING hub$$")
	for name, o := range map[string]struct {
		url, query, want string
		kind             fault.Kind
	}{
		"two rows":               {c.socket("postgres"), "SELECT * FROM faulty WHERE key = $1::text", "the query returns more than one row", fault.Schema},
		"no parameter":           {c.socket("postgres"), "SELECT 1 AS a", "the query has 0 parameters", fault.Refused},
		"two parameters":         {c.socket("postgres"), "SELECT $1::text AS a, $2::text AS b", "the query has 2 parameters", fault.Refused},
		"parameter not a text":   {c.socket("postgres"), "SELECT 1 AS a WHERE 5 = $1", "the parameter of the query is not a text: write $1::text", fault.Refused},
		"no table":               {c.socket("postgres"), "SELECT * FROM absent WHERE key = $1::text", `SQLSTATE 42P01: relation "absent" does not exist`, fault.Refused},
		"several statements":     {c.socket("postgres"), "SELECT 1 AS a WHERE $1::text = '') AS x; DROP TABLE faulty; SELECT (1", "SQLSTATE 42601", fault.Refused},
		"not a query":            {c.socket("postgres"), "INSERT INTO faulty VALUES ($1::text) RETURNING *", "SQLSTATE 42601", fault.Refused},
		"writes":                 {c.socket("postgres"), "SELECT write_it($1::text) AS hub", "SQLSTATE 25006", fault.Failed},
		"quotes the key":         {c.socket("postgres"), "SELECT ($1::text)::int AS a", "PostgreSQL refuses with SQLSTATE 22P02", fault.Failed},
		"too slow at the server": {c.socket("postgres"), "SELECT pg_sleep(3600)::text || $1::text AS a", "SQLSTATE 57014: canceling statement due to statement timeout", fault.Timeout},
		"wrong password":         {strings.Replace(c.tls("faulty"), "faulty@", "faulty:"+password+"@", 1), "SELECT $1::text AS a", "SQLSTATE 28P01: password authentication failed", fault.Denied},
		"no such database":       {strings.Replace(c.socket("postgres"), "/postgres?", "/absent?", 1), "SELECT $1::text AS a", `SQLSTATE 3D000: database "absent" does not exist`, fault.Refused},
		"unknown authority":      {"postgres://faulty:" + password + "@127.0.0.1:" + c.port + "/postgres?sslmode=verify-full", "SELECT $1::text AS a", "certificate", fault.Unreachable},
		"not PostgreSQL's port":  {"postgres://faulty:" + password + "@127.0.0.1:1/postgres", "SELECT $1::text AS a", "refused", fault.Unreachable},
	} {
		s := source(t, postgres.Options{URL: o.url, Query: o.query, Timeout: time.Second})
		_, err := s.Find(t.Context(), secretKey)
		if err == nil || !strings.Contains(err.Error(), o.want) {
			t.Errorf("%s: got %v, want %s", name, err, o.want)
			continue
		}
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != o.kind {
			t.Errorf("%s: got %#v, want %s", name, err, o.kind)
		}
		if strings.Contains(err.Error(), secretKey) || strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := source(t, postgres.Options{URL: c.socket("postgres"), Query: "SELECT pg_sleep(3600)::text || $1::text AS a"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Find(ctx, "a")
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != fault.Timeout {
		t.Errorf("got %v", err)
	}
}

// Prepare notices that the query does not fit the declaration, and that the server cannot be asked.
func TestPrepare(t *testing.T) {
	t.Parallel()
	c := server(t)
	declared, problems := lookups.Declare("rules", []lookups.File{{Name: "lookups.yaml", Text: []byte(
		"device: {row: {type: object, properties: {hub: {type: string}, line: {type: integer}}, required: [hub]}}")}})
	if problems != nil {
		t.Fatal(problems)
	}
	for _, o := range []struct {
		url, query, want string
		isFault          bool
	}{
		{c.socket("postgres"), "SELECT 'eu' AS hub, $1::text AS x;", "", false},
		{c.socket("postgres"), "SELECT 'eu' AS site, $1::text AS x", "the query returns no column hub, which rules/lookups.yaml:1 requires", false},
		{c.socket("postgres"), "SELECT 'eu' AS hub", "the query has 0 parameters", true},
		{"postgres://a@127.0.0.1:1/postgres", "SELECT 'eu' AS hub, $1::text AS x", "refused", true},
	} {
		err := source(t, postgres.Options{URL: o.url, Query: o.query}).Prepare(t.Context(), declared[0])
		_, isFault := errors.AsType[*fault.Error](err)
		if (err == nil) != (o.want == "") || isFault != o.isFault || err != nil && !strings.Contains(err.Error(), o.want) {
			t.Errorf("%s: got %v", o.query, err)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	identity := func() (azcore.TokenCredential, error) { return nil, errors.New("none") }
	for _, c := range []struct{ url, query, want string }{
		{"", "q", "not a URL such as postgres://"},
		{"https://a:pa55word@b/c", "q", "not a URL such as postgres://"},
		{"postgres://a:pa55word%zz@b/c", "q", "not a URL such as postgres://"},
		{"postgres:///c", "q", "the URL names no host"},
		{"postgres://a:pa55word@db.example.com/c?sslmode=require", "q", "sslmode must be verify-full"},
		{"postgres://a:pa55word@db.example.com/c?sslmode=verify-ca", "q", "sslmode must be verify-full"},
		{"postgres://a:pa55word@db.example.com/c?sslmode=prefer", "q", "sslmode must be verify-full"},
		{"postgres://a:pa55word@db.example.com/c?sslmode=disable", "q", "sslmode must be verify-full"},
		{"postgres://a:pa55word@localhost/c?host=db.example.com&sslmode=disable", "q", "sslmode must be verify-full"},
		{"postgres://a:pa55word@localhost,db.example.com/c?sslmode=disable", "q", "sslmode must be verify-full"},
		{"postgres://a:pa55word@localhost/c?sslmode=pa55word", "q", "a parameter of the URL"},
		{"postgres://a:pa55word@localhost/c?entra=perhaps", "q", "entra is neither true nor false"},
		{"postgres://a:pa55word@localhost/c?entra=true", "q", "the URL has a password, and entra=true"},
		{"postgres://a@localhost/c?entra=true&password=pa55word", "q", "the URL has a password, and entra=true"},
		{"postgres://a@localhost/c", " ", "there is no query"},
		{"postgres://a:pa55word@db.example.com/c", "q", ""},
		{"postgres://a:pa55word@db.example.com/c?sslmode=verify-full", "q", ""},
		{"postgres://a@db.example.com/c?entra=true", "q", ""},
		{"postgresql://a@[::1]:5433/c?sslmode=disable", "q", ""},
		{"postgres://a@localhost/c", "q", ""},
		{"postgres://a@/c?host=/run/postgresql", "q", ""},
	} {
		s, err := postgres.New(postgres.Options{URL: c.url, Query: c.query, Credential: identity})
		if err == nil {
			s.Close()
		}
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "pa55word")) {
			t.Errorf("%s: got %v, want %q", c.url, err, c.want)
		}
	}
	if _, err := postgres.New(postgres.Options{URL: "postgres://a@db.example.com/c?entra=true", Query: "q"}); err == nil {
		t.Error("Entra without an identity")
	}
}

// identity gives the token that it has at the time.
type identity struct{ token atomic.Value }

func (i *identity) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(options.Scopes) != 1 || options.Scopes[0] != "https://ossrdbms-aad.database.windows.net/.default" {
		return azcore.AccessToken{}, fmt.Errorf("asked for %v", options.Scopes)
	}
	return azcore.AccessToken{Token: i.token.Load().(string), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// A connection is made with the token of the time, over TLS.
func TestEntra(t *testing.T) {
	t.Parallel()
	c := server(t)
	c.exec(t, "CREATE ROLE app LOGIN PASSWORD 'token-1'")
	me := new(identity)
	me.token.Store("token-0")
	s := source(t, postgres.Options{URL: c.tls("app") + "&entra=true", Credential: func() (azcore.TokenCredential, error) { return me, nil },
		Query: "SELECT ssl, $1::text AS key FROM pg_stat_ssl WHERE pid = pg_backend_pid()"})
	if _, err := s.Find(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "28P01") || strings.Contains(err.Error(), "token-") {
		t.Errorf("got %v", err)
	}
	me.token.Store("token-1")
	if got, err := s.Find(t.Context(), "a"); err != nil || got.Row["ssl"] != true {
		t.Errorf("got %+v, %v", got, err)
	}
	me.token.Store("token-2")
	c.exec(t, "ALTER ROLE app PASSWORD 'token-2'", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
	if got, err := s.Find(t.Context(), "a"); err != nil || got.Row["key"] != "a" {
		t.Errorf("after the first token: got %+v, %v", got, err)
	}
	away := source(t, postgres.Options{URL: c.tls("app") + "&entra=true", Query: "SELECT $1::text AS a", Credential: func() (azcore.TokenCredential, error) {
		return nil, errors.New("none at https://identity?key=5ecret")
	}})
	if _, err := away.Find(t.Context(), "a"); err == nil || strings.Contains(err.Error(), "5ecret") {
		t.Errorf("got %v", err)
	}
}

// The server is not there at first, is killed under load, and comes back: look-ups fail only while it is away.
func TestServerComesAndGoes(t *testing.T) {
	t.Parallel()
	needServer(t)
	c, err := newCluster()
	if c != nil {
		t.Cleanup(c.remove)
	}
	if err == nil {
		err = c.kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	s := source(t, postgres.Options{URL: c.socket("postgres"), Query: "SELECT upper($1::text) AS key"})
	find := func(n int) error {
		key := "k" + strconv.Itoa(n)
		got, err := s.Find(t.Context(), key)
		if err == nil && got.Row["key"] != strings.ToUpper(key) {
			t.Errorf("%s: got %v", key, got.Row)
		}
		return err
	}
	if err := find(0); err == nil {
		t.Error("found without a server")
	}
	for range 2 {
		if err := c.start(); err != nil {
			t.Fatal(err)
		}
		if err := find(0); err != nil {
			t.Errorf("after the start: %v", err)
		}
		stop, enough := make(chan struct{}), make(chan struct{})
		var found atomic.Int64
		var workers sync.WaitGroup
		for worker := range 16 {
			workers.Go(func() {
				for n := worker; ; n += 16 {
					if find(n) == nil && found.Add(1) == 1000 {
						close(enough)
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		<-enough
		if err := c.kill(); err != nil {
			t.Error(err)
		}
		if err := find(0); err == nil {
			t.Error("found without a server")
		}
		close(stop)
		workers.Wait()
	}
	// A restart that no look-up noticed costs none.
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	for n := range 8 { // so that there are several connections
		workers.Go(func() {
			if err := find(n); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
	if err := errors.Join(c.kill(), c.start()); err != nil {
		t.Fatal(err)
	}
	for n := range 8 {
		if err := find(n); err != nil {
			t.Errorf("after the restart: %v", err)
		}
	}
}
