package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/fleet"
)

// registerSome registers devices with a stand-in that runs in a folder, as long as the test does.
func registerSome(t *testing.T, folder string, devices int) {
	t.Helper()
	webhook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"iotHubHostName": "hub-a.azure-devices.net"}`)
	}))
	t.Cleanup(webhook.Close)
	flags := standInFlags{config: filepath.Join(folder, "dps.yaml"), folder: folder, webhook: webhook.URL, timeScale: 100}
	const key = "c2VjcmV0LWtleS1vZi0zMi1ieXRlcy1sb25nLWVub3U="
	config := `hubs: [{name: hub-a}]
enrollmentGroups:
  - {enrollmentGroupId: line-a, allocationPolicy: custom, attestation: {type: symmetricKey, symmetricKey: {primaryKey: ` + key + `}}}
`
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(flags.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := startStandIn(flags, listenOptions{address: "127.0.0.1"}, nil, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	groupKey, err := attest.DecodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := fleet.New(fleet.Options{Devices: devices, ID: "dev-{n}", Transport: fleet.HTTP, Address: s.running.httpsAddress(),
		IDScope: s.running.IDScope, RootCAs: s.authority.Pool(), GroupKey: groupKey})
	if err != nil {
		t.Fatal(err)
	}
	made.Register(t.Context(), 0)
}

// The page hears of the devices in a log and of those that register with a stand-in, and of more of them.
func TestPlayShowsFleet(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	registerSome(t, filepath.Join(folder, "dps"), 3)
	log := filepath.Join(folder, "log.ndjson")
	add := func(id string) {
		t.Helper()
		file, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := fmt.Fprintf(file, `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": %q}, "linkedHubs": ["a"]}`+"\n", id); err != nil {
			t.Fatal(err)
		}
	}
	add("one")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"play", "--no-open", "--rules", "../../rules", "--log", log, "--dps=" + filepath.Join(folder, "dps")}, nil, writer, writer)
		writer.Close()
	}()
	printed := bufio.NewReader(reader)
	address, err := printed.ReadString('\n')
	if err != nil {
		t.Fatal(err, address)
	}
	go func() { _, _ = io.Copy(io.Discard, printed) }()
	page, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	opened, err := client.Get(page.String())
	if err != nil {
		t.Fatal(err)
	}
	opened.Body.Close()
	events, err := client.Get("http://" + page.Host + "/api/events")
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()
	lines := bufio.NewReader(events.Body)
	until := func(text string) {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("no event with %s: %v", text, err)
			}
			if strings.Contains(line, text) {
				return
			}
		}
	}
	until(`"devices":4,`)
	add("two")
	until(`"devices":5,`)
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What cannot be opened is an error at the start, and not an empty page.
func TestPlayLogs(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for arg, want := range map[string]string{
		"--log=" + filepath.Join(folder, "none"): "no such file",
		"--log=" + folder:                        "contains no file whose name ends in",
		"--dps=" + folder:                        "no stand-in runs in " + folder,
	} {
		var stderr strings.Builder
		if code := run(t.Context(), []string{"play", "--no-open", "--rules", "../../rules", arg}, nil, io.Discard, &stderr); code == 0 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: exit code %d, %s", arg, code, stderr.String())
		}
	}
}
