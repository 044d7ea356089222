//go:build unix

package e2e_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// database is a PostgreSQL server with a cluster of its own.
type database struct {
	t        *testing.T
	ca       *authority
	programs string // folder
	folder   string
	port     string
	running  *exec.Cmd
	ended    chan struct{} // closed when it is gone
}

// nobody runs the server if this process is root's, which PostgreSQL refuses to be.
const nobody = 65534

// startDatabase starts a PostgreSQL server that takes connections over TLS with a password.
func startDatabase(t *testing.T, ca *authority) *database {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if name, err := exec.LookPath("initdb"); err == nil {
		if name, err = filepath.EvalSymlinks(name); err == nil {
			found = append(found, name)
		}
	}
	if found == nil {
		if os.Getenv(variable) == "required" {
			t.Fatal("PostgreSQL is not installed")
		}
		t.Skip("PostgreSQL is not installed")
	}
	folder, err := os.MkdirTemp("", "usher-e2e-pg-") // t.TempDir is in a folder that nobody cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	d := &database{t: t, ca: ca, programs: filepath.Dir(found[len(found)-1]), folder: folder, port: freePort(t)}
	certificate, key := ca.issue(t, "127.0.0.1")
	for name, content := range map[string][]byte{
		"server.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		"server.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"hba.conf":   []byte("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		for _, name := range []string{".", "server.pem", "server.key", "hba.conf"} {
			if err := os.Chown(filepath.Join(folder, name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	if output, err := d.command("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, output)
	}
	d.start()
	t.Cleanup(func() {
		_ = d.running.Process.Signal(syscall.SIGQUIT) // ends it at once, with its children
		<-d.ended
	})
	return d
}

func (d *database) command(name string, arguments ...string) *exec.Cmd {
	command := exec.Command(filepath.Join(d.programs, name), arguments...)
	command.Dir = d.folder
	command.Env = append(os.Environ(), "LC_ALL=C")
	if os.Geteuid() == 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return command
}

// start starts the server, on the same port as before, and waits until it answers.
func (d *database) start() {
	d.t.Helper()
	launch := func() {
		d.running = d.command("postgres", "-D", "data", "-c", "port="+d.port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+d.folder,
			"-c", "hba_file="+filepath.Join(d.folder, "hba.conf"), "-c", "fsync=off", "-c", "ssl=on",
			"-c", "ssl_cert_file="+filepath.Join(d.folder, "server.pem"), "-c", "ssl_key_file="+filepath.Join(d.folder, "server.key"))
		if err := d.running.Start(); err != nil {
			d.t.Fatal(err)
		}
		d.ended = make(chan struct{})
		go func(command *exec.Cmd, ended chan struct{}) {
			_ = command.Wait()
			close(ended)
		}(d.running, d.ended)
	}
	launch()
	until(d.t, "PostgreSQL answers", func() bool {
		select {
		case <-d.ended: // children of the last one can be alive, and still have its memory
			launch()
		default:
		}
		return d.try("SELECT 1") == nil
	})
}

// kill ends the server as a crash of the machine would.
func (d *database) kill() {
	_ = d.running.Process.Kill()
	<-d.ended
}

func (d *database) try(statements ...string) error {
	connection, err := pgx.Connect(d.t.Context(), "postgres://postgres@/postgres?"+url.Values{"host": {d.folder}, "port": {d.port}}.Encode())
	if err != nil {
		return err
	}
	defer connection.Close(d.t.Context())
	for _, statement := range statements {
		if _, err := connection.Exec(d.t.Context(), statement); err != nil {
			return err
		}
	}
	return nil
}

// url is that of the database, for a user with a password.
func (d *database) url(password string) string {
	return "postgres://usher:" + password + "@127.0.0.1:" + d.port + "/postgres?sslmode=verify-full&sslrootcert=" + url.QueryEscape(d.ca.file)
}

// The webhook decides by PostgreSQL, which is killed under load and comes back. Without it, decisions wait, or go on with
// the last row if the declaration says so; none is ever wrong.
func TestLookupPostgres(t *testing.T) {
	t.Parallel()
	needStorage(t)
	w := newInventory(t, "  ttl: 0s\n  negative_ttl: 0s\n")
	d := startDatabase(t, w.ca)
	password, other, owner := secret(), secret(), secret()
	const serials = 40
	statements := []string{"CREATE TABLE devices (serial text PRIMARY KEY, hub text, version int, owner text)", "CREATE ROLE usher LOGIN PASSWORD '" + password + "'", "GRANT SELECT ON devices TO usher"}
	for i := range serials {
		statements = append(statements, fmt.Sprintf("INSERT INTO devices VALUES ('serial-%d', '%s', %d, '%s')", i, hubOf(i), i, owner))
	}
	if err := d.try(statements...); err != nil {
		t.Fatal(err)
	}
	w.fleet.secrets["the database's password"], w.fleet.secrets["a wrong password"], w.fleet.secrets["another column"] = password, other, owner
	w.settings["USHER_LOOKUP_DEVICE"] = d.url(password)
	w.settings["USHER_LOOKUP_DEVICE_QUERY"] = "SELECT hub, version, owner FROM devices WHERE serial = $1::text"
	holding := w.launch()
	w.settings["USHER_RULES"] = inventory(t, "  ttl: 0s\n  negative_ttl: 0s\n  on_fault: {stale: 1h}\n")
	w.settings["USHER_RECORD_SPOOL"] = filepath.Join(w.folder, "another-spool")
	going := w.launch()
	for i := range serials {
		for _, r := range []*running{holding, going} {
			if c := w.ask(r, fmt.Sprintf("Serial-%d", i), hubOf(i)); c.version != i {
				t.Errorf("serial-%d: version %d", i, c.version)
			}
		}
	}
	for _, key := range hostile {
		w.ask(holding, key, "rejected")
	}

	var faults, good, stale atomic.Int64
	stop := w.load(8, 2*time.Millisecond, func(client, n int) {
		r, counter := holding, &good
		if n%2 == 1 {
			r, counter = going, &stale
		}
		i := n / 2 % serials
		c, err := r.ask(w.fleet, shadowed, fmt.Sprintf("serial-%d", i))
		switch {
		case err != nil:
			t.Error(err)
		case c.status == http.StatusOK && c.hub == hubOf(i) && c.version == i:
			counter.Add(1)
		case r == holding && c.status == http.StatusServiceUnavailable && c.code == "lookup_failed":
			faults.Add(1)
		default:
			t.Errorf("serial-%d: status %d, hub %q, code %q", i, c.status, c.hub, c.code)
		}
	})
	for round := range 2 {
		before := good.Load()
		until(t, "decisions by the database", func() bool { return good.Load() > before+100 })
		d.kill()
		failed, went := faults.Load(), stale.Load()
		until(t, "decisions wait, or go on with the last row", func() bool { return faults.Load() > failed+100 && stale.Load() > went+100 })
		d.start()
		before = good.Load()
		until(t, "decisions again", func() bool { return good.Load() > before+100 })
		t.Logf("round %d: %d answers by the database, %d faults, %d with on_fault: stale", round, good.Load(), faults.Load(), stale.Load())
	}
	stop()
	for _, r := range []*running{holding, going} {
		until(t, "the operator is told", func() bool {
			return r.metric("usher_lookup_failing") == 0 && len(r.lines("look-up source answers again")) > 0
		})
		if lines := r.lines("look-up source has faults"); len(lines) == 0 || lines[0]["level"] != "WARN" || lines[0]["lookup"] != "device" {
			t.Errorf("logged %v", lines)
		}
	}
	if n := going.metric("usher_lookups_total", `usher_lookup_outcome="stale"`); n < 100 {
		t.Errorf("the metrics count %v stale rows", n)
	}

	w.settings["USHER_LOOKUP_DEVICE"] = d.url(other)
	w.settings["USHER_RECORD_SPOOL"] = filepath.Join(w.folder, "third-spool")
	denied := w.launch()
	w.ask(denied, "serial-1", "lookup_failed")
	if lines := denied.lines("look-up source has faults"); len(lines) != 1 || lines[0]["fault"] != "denied" || !strings.Contains(fmt.Sprint(lines[0]["error"]), "password authentication failed") {
		t.Errorf("logged %v", lines)
	}
	w.checkSecrets(100_000)
}
