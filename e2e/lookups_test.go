package e2e_test

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/data/aztables"
)

// inventoryRules decide by a row of the look-up device, whose key the device sends.
const inventoryRules = `# METADATA
# title: By the inventory
package allocation.default

import data.dps

device := lookup.device(input.deviceRuntimeContext.payload.serial)

hub := dps.hub_named(device.hub)

payload := {"version": device.version}

reject contains "not in the inventory" if not device
`

// inventory makes a folder of rules, with these members of the look-up besides its row.
func inventory(t *testing.T, members string) string {
	t.Helper()
	library, err := os.ReadFile(filepath.Join("..", "rules", "lib", "dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name, text := range map[string]string{
		"lib/dps.rego":         string(library),
		"default/default.rego": inventoryRules,
		"default/lookups.yaml": "device:\n  row: {type: object, required: [hub, version], properties: {hub: {type: string}, version: {type: integer}}}\n" +
			"  recordable: [hub, version]\n  timeout: 3s\n" + members,
	} {
		file := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// newInventory is a world with rules that look devices up.
func newInventory(t *testing.T, members string) *world {
	t.Helper()
	w := newWorld(t)
	maps.DeleteFunc(w.settings, func(name, _ string) bool { return strings.HasPrefix(name, "USHER_RULES") })
	w.settings["USHER_RULES"] = inventory(t, members)
	w.settings["USHER_LOOKUPS_FOLDER"] = filepath.Join(w.folder, "lookups")
	w.settings["USHER_RECORD_SYNC"] = "interval"
	w.settings["USHER_DECISION_TIMEOUT"] = "4s"
	return w
}

// hubOf is the hub that version n of a row names.
func hubOf(n int) string { return hubs[n%len(hubs)] }

// ask calls the webhook for a serial number. It is an error if there is no answer, or another one than these outcomes.
func (w *world) ask(r *running, serial string, want ...string) call {
	w.t.Helper()
	c, err := r.ask(w.fleet, shadowed, serial)
	if err != nil {
		w.t.Fatal(err)
	}
	got := cmp.Or(c.code, c.hub)
	for _, one := range want {
		if got == one {
			return c
		}
	}
	w.t.Fatalf("%q: status %d, %q, want %q", serial, c.status, got, want)
	return c
}

// load calls the webhook from several clients at once, until stop is called.
func (w *world) load(clients int, pace time.Duration, one func(client, n int)) (stop func()) {
	over := make(chan struct{})
	turns := make(chan int)
	var group sync.WaitGroup
	group.Go(func() {
		defer close(turns)
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			select {
			case <-over:
				return
			case turns <- n:
			}
		}
	})
	for client := range clients {
		group.Go(func() {
			for n := range turns {
				one(client, n)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { close(over) }); group.Wait() }
	w.t.Cleanup(stop)
	return stop
}

// manySerials is how many rows a snapshot has.
const manySerials = 2000

// snapshotOf is version n of a table.
func snapshotOf(n int) string {
	var text strings.Builder
	text.WriteString("key,hub,version\n")
	for i := range manySerials {
		fmt.Fprintf(&text, "serial-%d,%s,%d\n", i, hubOf(n), n)
	}
	return text.String()
}

// A snapshot in Blob Storage is replaced under load, then by ones that are not good, and serves from disk without the
// storage.
func TestLookupSnapshot(t *testing.T) {
	t.Parallel()
	needStorage(t)
	w := newInventory(t, "")
	w.settings["USHER_LOOKUP_DEVICE"] = "blob:" + w.storage.url("rules/device.csv")
	w.settings["USHER_LOOKUP_DEVICE_POLL"] = "1s"
	w.storage.upload("device.csv", []byte(snapshotOf(0)))
	r := w.launch()

	const clients, requests = 8, 2000
	var seen [clients]int // the last version that a client saw
	var answered, latest atomic.Int64
	done := make(chan struct{})
	stop := w.load(clients, 2*time.Millisecond, func(client, n int) {
		c, err := r.ask(w.fleet, shadowed, fmt.Sprintf("SERIAL-%d", n%manySerials))
		switch {
		case err != nil || c.status != http.StatusOK:
			t.Errorf("%v, status %d, code %q", err, c.status, c.code)
		case c.version < seen[client] || int64(c.version) > latest.Load() || c.hub != hubOf(c.version):
			t.Errorf("version %d with %s after version %d, while version %d is the latest", c.version, c.hub, seen[client], latest.Load())
		}
		seen[client] = max(seen[client], c.version)
		if answered.Add(1) == requests {
			close(done)
		}
	})
	patient := time.After(patience)
	for replaced := time.NewTicker(time.Second); ; {
		select {
		case <-replaced.C:
			w.storage.upload("device.csv", []byte(snapshotOf(int(latest.Add(1)))))
			continue
		case <-done:
		case <-patient:
			t.Fatalf("only %d answers", answered.Load())
		}
		replaced.Stop()
		break
	}
	stop()
	last := int(latest.Load())
	until(t, "the last version serves", func() bool {
		return w.ask(r, "serial-7", hubs...).version == last
	})
	if served := len(r.lines("snapshot in use")); served < 2 || len(r.lines("snapshot refused"))+len(r.lines("look-up source has faults")) > 0 {
		t.Errorf("%d versions were in use, of %d; log %s", served, last+1, r.output())
	}

	// What arrives broken is refused, and the operator is told the line.
	whole := snapshotOf(last + 1)
	half := strings.LastIndex(whole[:len(whole)/2], "\n") + len("\nserial-")
	for i, bad := range []struct{ what, text, logged string }{
		{"cut short", whole[:half], fmt.Sprintf("device.csv:%d", strings.Count(whole[:half], "\n")+1)},
		{"of another type", strings.Replace(whole, fmt.Sprintf("serial-41,%s,%d", hubOf(last+1), last+1), "serial-41,"+hubOf(last+1)+",new", 1), "device.csv:43"},
	} {
		w.storage.upload("device.csv", []byte(bad.text))
		until(t, "a snapshot is refused that is "+bad.what, func() bool { return len(r.lines("snapshot refused")) > i })
		if line := r.lines("snapshot refused")[i]; line["level"] != "ERROR" || !strings.Contains(fmt.Sprint(line["error"]), bad.logged) {
			t.Errorf("%s: logged %v", bad.what, line)
		}
		if c := w.ask(r, "serial-7", hubOf(last)); c.version != last {
			t.Errorf("%s: version %d serves", bad.what, c.version)
		}
	}

	// The last good one is on disk.
	r.kill()
	w.storage.stop()
	r = w.launch()
	if c := w.ask(r, "serial-7", hubOf(last)); c.version != last {
		t.Errorf("without the storage, version %d serves", c.version)
	}
	w.ask(r, "unknown", "rejected")
	if lines := r.lines("snapshot in use"); len(lines) != 1 || lines[0]["from_disk"] != true || len(r.lines("snapshot source failed")) == 0 {
		t.Errorf("logged %s", r.output())
	}
	w.storage.start()
	w.storage.upload("device.csv", []byte(whole))
	until(t, "the storage is read again", func() bool { return w.ask(r, "serial-7", hubs...).version == last+1 })
	w.checkSecrets(100_000)
}

// hostile are keys that would do harm in SQL, a filter, a path or a log.
var hostile = []string{"'", `"`, "' or '1'='1", "serial-1' or RowKey eq 'serial-1", "serial-1')?$filter=(RowKey eq 'serial-1'", "'; DROP TABLE devices; --", "a\x00b", "\x00",
	strings.Repeat("k", 128), strings.Repeat("ü", 128), strings.Repeat("'", 600), "\u202eserial-1", "ｓｅｒｉａｌ-1", "..", "../serial-1", "%2e%2e", "%2f", "a%2fserial-1", "a/b", `a\b`,
	"?", "#", "*", "%", "$1", "serial-1 ", " serial-1", "serial-1\n", "serial-1,rowkey='serial-1", "{key}", "${jndi:ldap://a}", "()"}

// The webhook decides by an entity of Table Storage. A key is never more than the key of one entity.
func TestLookupTable(t *testing.T) {
	t.Parallel()
	needStorage(t)
	w := newInventory(t, "  ttl: 0s\n  negative_ttl: 0s\n")
	tables := runStorage(t, w.ca, "table", freePort(t))
	w.fleet.secrets["the key of the account with tables"] = tables.key
	client, err := aztables.NewServiceClient(tables.url(""), w.identity, &aztables.ClientOptions{ClientOptions: policy.ClientOptions{Transport: tables.plain}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateTable(t.Context(), "devices", nil); err != nil {
		t.Fatal(err)
	}
	table := client.NewClient("devices")
	for i, row := range []string{"serial-0", "serial-1", "o'neil"} {
		if _, err := table.AddEntity(t.Context(), asJSON(t, map[string]any{"PartitionKey": "device", "RowKey": row, "hub": hubOf(i), "version": i, "owner": secret()}), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := table.AddEntity(t.Context(), asJSON(t, map[string]any{"PartitionKey": "device", "RowKey": "of-another-type", "hub": hubOf(0), "version": "0"}), nil); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse("https://127.0.0.1:" + tables.port)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.Transport = tables.plain.Transport
	front := w.ca.serveTLS(t, http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.RequestURI)
		mu.Unlock()
		forward.ServeHTTP(answer, r)
	}))
	w.settings["USHER_LOOKUP_DEVICE"] = "table:" + front.URL + "/" + account + "/devices?partition=device&row={key}"
	r := w.launch()
	for i, serial := range []string{"SERIAL-0", "serial-1", "O'Neil"} {
		if c := w.ask(r, serial, hubOf(i)); c.version != i {
			t.Errorf("%s: version %d", serial, c.version)
		}
	}
	w.ask(r, "serial-2", "rejected")
	for _, key := range hostile {
		w.ask(r, key, "rejected")
	}
	if c := w.ask(r, "of-another-type", "lookup_failed"); c.status != http.StatusServiceUnavailable {
		t.Errorf("status %d", c.status)
	}
	point := regexp.MustCompile(`^GET /` + account + `/devices\(PartitionKey=(%27|')device(%27|'),RowKey=(%27|')([^'/?#]|'')*(%27|')\)(\?\$format=[^&]*|\?%24format=[^&]*)?$`)
	mu.Lock()
	defer mu.Unlock()
	for _, one := range asked {
		if !point.MatchString(one) {
			t.Errorf("the service was asked %s", one)
		}
	}
	if len(asked) < 10 {
		t.Errorf("the service was asked only %q", asked)
	}
	w.checkSecrets(10_000)
}

// The webhook gets a token for the audience of an API, and sends it only there.
func TestLookupHTTPS(t *testing.T) {
	t.Parallel()
	needStorage(t)
	w := newInventory(t, "  ttl: 0s\n  negative_ttl: 0s\n")
	header := secret()
	w.fleet.secrets["a row's other members"] = secret()
	var asked, strange atomic.Int64
	service := w.ca.serveTLS(t, http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer "+w.identity.api || r.Header.Get("X-Tenant") != header {
			http.Error(answer, "who are you?", http.StatusUnauthorized)
			return
		}
		switch r.URL.EscapedPath() {
		case "/devices/serial-1":
			_, _ = answer.Write(asJSON(t, map[string]any{"hub": hubOf(1), "version": 1, "owner": w.fleet.secrets["a row's other members"]}))
		case "/devices/moved":
			http.Redirect(answer, r, "/devices/serial-1", http.StatusFound)
		default:
			if !strings.HasPrefix(r.URL.EscapedPath(), "/devices/") || strings.Count(r.URL.EscapedPath(), "/") != 2 || r.URL.RawQuery != "expand=hub" {
				strange.Add(1)
			}
			http.NotFound(answer, r)
		}
	}))
	w.settings["USHER_LOOKUP_DEVICE"] = service.URL + "/devices/{key}?expand=hub"
	w.settings["USHER_LOOKUP_DEVICE_TOKEN_AUDIENCE"] = audience
	w.settings["USHER_LOOKUP_DEVICE_HEADER"] = "X-Tenant: " + header
	r := w.launch()
	if c := w.ask(r, "Serial-1", hubOf(1)); c.version != 1 {
		t.Errorf("version %d", c.version)
	}
	for _, key := range hostile {
		w.ask(r, key, "rejected")
	}
	w.ask(r, "moved", "lookup_failed")
	if asked.Load() < 10 || strange.Load() > 0 {
		t.Errorf("asked %d times, %d of them elsewhere", asked.Load(), strange.Load())
	}
	w.checkSecrets(10_000)
}

// freePort returns a port that is free now, for servers that do not say which one they took.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}
