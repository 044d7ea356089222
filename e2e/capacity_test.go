package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// standIn is `usher dps` as a process.
type standIn struct {
	t      *testing.T
	folder string
}

func (s *standIn) arguments(more ...string) []string {
	return append([]string{"dps", "--config", filepath.Join(s.folder, "dps.yaml"), "--folder", s.folder}, more...)
}

// startStandIn starts `usher dps` with hubs that count their devices, and a group whose rule fills them up.
func startStandIn(t *testing.T, w *world, webhook string, hubs ...string) *standIn {
	t.Helper()
	s := &standIn{t, t.TempDir()}
	key := func(what string) string {
		text := base64.StdEncoding.EncodeToString([]byte(secret()))
		w.fleet.secrets[what] = text
		return text
	}
	var linked []map[string]string
	for _, name := range hubs {
		linked = append(linked, map[string]string{"name": name})
	}
	if err := os.WriteFile(filepath.Join(s.folder, "dps.yaml"), asJSON(t, map[string]any{ // JSON is YAML
		"serviceKey": key("the key of the stand-in"), "hubKey": key("the key of the hubs"), "hubs": linked, "webhook": map[string]any{"url": webhook},
		"enrollmentGroups": []any{map[string]any{
			"enrollmentGroupId": "growing-devices", "allocationPolicy": "custom", "reprovisionPolicy": "migrate",
			"attestation": map[string]any{"type": "symmetricKey", "symmetricKey": map[string]any{"primaryKey": key("the key of a group")}},
		}},
	}), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program(t, "usher"), s.arguments("--https", "0", "--mqtt", "0", "--quiet")...)
	output, err := os.Create(filepath.Join(s.folder, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
	})
	until(t, "usher dps runs", func() bool {
		select {
		case err := <-ended:
			ended <- err
			said, _ := os.ReadFile(output.Name())
			t.Fatalf("usher dps: %v\n%s", err, said)
		default:
		}
		_, err := os.Stat(filepath.Join(s.folder, "running.json"))
		return err == nil
	})
	return s
}

// register registers devices with these names, in which {n} is a number, and returns how many each hub got.
func (s *standIn) register(devices int, id string) map[string]int {
	s.t.Helper()
	var report struct {
		Rounds []struct{ Hubs map[string]int }
	}
	text := usher(s.t, s.arguments("fleet", "--group", "growing-devices", "--devices", fmt.Sprint(devices), "--id", id, "-o", "json")...)
	if err := json.Unmarshal([]byte(text), &report); err != nil || len(report.Rounds) != 1 {
		s.t.Fatalf("%v: %s", err, text)
	}
	return report.Rounds[0].Hubs
}

// Devices of `usher dps` fill a hub up to its limit and then go to the next one, by the starter rule fill. Then the
// operator's table raises a limit and drains a hub, while the webhook runs.
func TestLookupHubs(t *testing.T) {
	t.Parallel()
	needStorage(t)
	w := newWorld(t)
	const first, reserve, limit = "contoso-eu-hub.azure-devices.net", "contoso-reserve-hub.azure-devices.net", 20

	var to atomic.Pointer[url.URL] // the stand-in starts before the webhook, whose port is not known yet
	webhook := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to.Load()) }})
	t.Cleanup(webhook.Close)
	s := startStandIn(t, w, webhook.URL+"/api/allocate?code="+w.settings["USHER_FUNCTION_KEYS"], "contoso-eu-hub", "contoso-reserve-hub")

	rules, err := filepath.Abs(filepath.Join("..", "rules"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := filepath.Join(t.TempDir(), "trusted.pem")
	var authorities []byte
	for _, name := range []string{w.ca.file, filepath.Join(s.folder, "ca.pem")} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		authorities = append(authorities, text...)
	}
	if err := os.WriteFile(trusted, authorities, 0o600); err != nil {
		t.Fatal(err)
	}
	w.fleet.secrets["a token for a hub"] = "SharedAccessSignature"
	var connections []string
	for _, hub := range []string{"contoso-eu-hub", "contoso-reserve-hub"} {
		connections = append(connections, strings.TrimSpace(usher(t, s.arguments("connection-string", "--gateway", hub)...)))
	}
	table := filepath.Join(t.TempDir(), "hubs.csv")
	write := func(rows string) {
		t.Helper()
		next := table + ".next"
		if err := os.WriteFile(next, []byte("hub,state,limit,note\n"+rows), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, table); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	maps.DeleteFunc(w.settings, func(name, _ string) bool { return strings.HasPrefix(name, "USHER_RULES") })
	maps.Copy(w.settings, map[string]string{"SSL_CERT_FILE": trusted, "USHER_RULES": rules, "USHER_LOOKUP_HUB": strings.Join(connections, ", "),
		"USHER_LOOKUP_HUB_LIMIT": fmt.Sprint(limit), "USHER_LOOKUP_HUB_POLL": "1s", "USHER_LOOKUP_HUB_TABLE": table, "USHER_LOOKUPS_FOLDER": filepath.Join(w.folder, "lookups")})
	r := w.launch()
	at, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	to.Store(at)

	full := func(hub string, want float64) func() bool {
		return func() bool { return r.metric("usher_hub_full", `usher_hub="`+hub+`"`) == want }
	}
	expect := func(what string, got, want map[string]int) {
		t.Helper()
		if !maps.Equal(got, want) {
			t.Errorf("%s: devices went to %v, want %v", what, got, want)
		}
	}
	expect("while the first hub has room", s.register(limit, "a-{n}"), map[string]int{first: limit})
	until(t, "the first hub is full", full(first, 1))
	expect("the first hub is full", s.register(limit/2, "b-{n}"), map[string]int{reserve: limit / 2})
	expect("devices that have a hub", s.register(limit, "a-{n}"), map[string]int{first: limit})
	if lines := r.lines("hub full"); len(lines) != 1 || lines[0]["hub"] != first {
		t.Errorf("logged %v", lines)
	}

	// The operator makes room, and drains the reserve.
	write("contoso-eu-hub,,1000,more units\ncontoso-reserve-hub,drain,,not needed any longer\n")
	until(t, "the table is in effect", func() bool { return len(r.lines("hub state changed")) == 1 && full(first, 0)() })
	expect("the reserve is drained", s.register(limit/2, "b-{n}"), map[string]int{first: limit / 2})
	until(t, "the devices are counted", func() bool { return r.metric("usher_hub_devices", `usher_hub="`+reserve+`"`) == 0 })

	// A wrong table is refused, and the last one stays in effect.
	write("contoso-eu-hub,drian,,\n")
	until(t, "the table is refused", func() bool { return len(r.lines("table of hubs refused")) == 1 })
	if line := r.lines("table of hubs refused")[0]; !strings.Contains(fmt.Sprint(line["error"]), "hubs.csv:2") {
		t.Errorf("logged %v", line)
	}
	expect("the table is wrong", s.register(1, "c-{n}"), map[string]int{first: 1})
	if status, _ := r.get(r.url + "/readyz"); status != http.StatusOK {
		t.Errorf("readiness is %d", status)
	}
	w.checkSecrets(10_000)
}
