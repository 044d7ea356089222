package main

import (
	"bufio"
	"context"
	"encoding/json"
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

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/fleet"
)

// registerSome registers devices with a stand-in that runs in a folder, as long as the test does. more is added to its
// dps.yaml.
func registerSome(t *testing.T, folder string, devices int, more string) {
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
` + more
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
	registerSome(t, filepath.Join(folder, "dps"), 3, "")
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
	p := openPage(t, "--log", log, "--dps="+filepath.Join(folder, "dps"))
	p.until(`"devices":4,`)
	add("two")
	p.until(`"devices":5,`)
	p.cancel()
	if code := <-p.ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// All devices of a stand-in are shown, on however many pages its journal has them. If it keeps only the newest entries, it
// is said how many are missing.
func TestPlayShowsStandIn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		devices int
		config  string
		all     bool
	}{
		"more entries than a page": {300, "", true},
		"more than it keeps":       {100, "journalSize: 100\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			registerSome(t, folder, test.devices, test.config)
			before := journalOf(t, folder)
			if before.Last <= 1000 == test.all {
				t.Fatalf("the journal has %d entries", before.Last)
			}
			p := openPage(t, "--dps="+folder)
			p.until(`"reading":false,`)
			var found struct {
				Devices, Problems int
				Logs              []struct{ Missing uint64 }
			}
			p.get("/api/fleet", &found)
			after := journalOf(t, folder)
			if missing := found.Logs[0].Missing; missing+1 < before.Oldest || missing+1 > after.Oldest || test.all != (missing == 0) {
				t.Errorf("%d entries are missing of a journal whose oldest was %d, then %d", missing, before.Oldest, after.Oldest)
			}
			// What it keeps need not have a call of the webhook.
			if found.Problems != 0 || found.Devices > test.devices || test.all != (found.Devices == test.devices) {
				t.Errorf("%+v", found)
			}
		})
	}
}

// journalOf says how far the journal of a stand-in goes.
func journalOf(t *testing.T, folder string) dpssim.JournalPage {
	t.Helper()
	text, err := manage(t.Context(), folder, http.MethodGet, "/_/journal?limit=1", "")
	if err != nil {
		t.Fatal(err)
	}
	var page dpssim.JournalPage
	if err := json.Unmarshal(text, &page); err != nil {
		t.Fatal(err)
	}
	return page
}

// openedPage is the page of a usher play that runs.
type openedPage struct {
	t      *testing.T
	client *http.Client
	host   string
	lines  *bufio.Reader // of its events
	cancel context.CancelFunc
	ended  chan int
}

// openPage starts usher play with arguments, as long as the test runs.
func openPage(t *testing.T, args ...string) *openedPage {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	reader, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, append([]string{"play", "--no-open", "--rules", "../../rules"}, args...), nil, writer, writer)
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
	t.Cleanup(func() { _ = events.Body.Close() })
	return &openedPage{t: t, client: client, host: page.Host, lines: bufio.NewReader(events.Body), cancel: cancel, ended: ended}
}

// until reads events until one has a text.
func (p *openedPage) until(text string) {
	p.t.Helper()
	for {
		line, err := p.lines.ReadString('\n')
		if err != nil {
			p.t.Fatalf("no event with %s: %v", text, err)
		}
		if strings.Contains(line, text) {
			return
		}
	}
}

func (p *openedPage) get(path string, into any) {
	p.t.Helper()
	response, err := p.client.Get("http://" + p.host + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		p.t.Fatal(err)
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
