package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/fleet"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
)

// TestFleetPicture checks the display: it fits the terminal, and shows failures before the round ends.
func TestFleetPicture(t *testing.T) {
	t.Parallel()
	const hub = "contoso-assembly-line-hub-with-a-long-name-1098.azure-devices.net"
	for _, test := range []struct {
		name    string
		summary fleet.Summary
		calls   webhookCalls
		want    string
	}{
		{"hubs", fleet.Summary{Devices: 200, Assigned: 100, Waiting: 50, Hubs: map[string]int{hub: 75, "contoso-eu-hub.azure-devices.net": 25}, DurationMS: 60_000}, webhookCalls{}, `
100 of 200 devices are done, 100 per minute (1000 wanted)
  waiting               50
  contoso-assembly-line-hub-with-a-long...      75   75.0 %  ##############
  contoso-eu-hub.azure-devices.net              25   25.0 %  #####
`},
		{"failures", fleet.Summary{Devices: 10, Assigned: 1, Failed: map[string]int{"400207": 2}, Refused: map[string]int{"401002": 3}, Lost: 1, Throttled: 4, DurationMS: 60_000, Examples: map[string]string{
			"400207": "Custom allocation failed with status code: 400", "401002": "Unauthorized", "lost": strings.Repeat("connection refused ", 10),
		}}, webhookCalls{}, `
7 of 10 devices are done, 7 per minute (1000 wanted)
  failed 400207          2  Custom allocation failed with status code: 400
  refused 401002         3  Unauthorized
  lost                   1  connection refused connection refused connection...
  retry later            4 answers, after which devices retried
`},
		{"the webhook is down", fleet.Summary{Devices: 10, Waiting: 10, DurationMS: 60_000}, webhookCalls{repeats: 12, last: dpssim.Entry{
			Error: "connection refused", DPSEffect: "call again in 10s (call 3 of 11)",
		}}, `
0 of 10 devices are done, 0 per minute (1000 wanted)
  waiting               10
  no assignment         12  times DPS must call the webhook again
    connection refused
    call again in 10s (call 3 of 11); DPS gives up after 415 s
`},
		{"the webhook is unwell", fleet.Summary{Devices: 10, Waiting: 10, DurationMS: 60_000}, webhookCalls{repeats: 1, last: dpssim.Entry{
			Status: 503, DPSEffect: "call again in 1s (call 2 of 11)",
		}}, `
0 of 10 devices are done, 0 per minute (1000 wanted)
  waiting               10
  no assignment          1  times DPS must call the webhook again
    it answers 503
    call again in 1s (call 2 of 11); DPS gives up after 415 s
`},
	} {
		got := fleetPicture(test.summary, 1000, &test.calls, 80)
		if got != strings.TrimPrefix(test.want, "\n") {
			t.Errorf("%s: got\n%swant%s", test.name, got, test.want)
		}
		for line := range strings.Lines(fleetPicture(test.summary, 1000, &test.calls, 80)) {
			if len([]rune(line)) > 80 { // with the line feed
				t.Errorf("%s: a line of %d columns: %s", test.name, len([]rune(line)), line)
			}
		}
	}
}

// entryWriter is a console that signals the first line with a text.
type entryWriter struct {
	text string
	seen chan struct{}
}

func (w *entryWriter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		select {
		case w.seen <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

// TestFleetSaysWhyNothingComes registers devices whose webhook no one serves: the display says so while DPS still calls.
func TestFleetSaysWhyNothingComes(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	webhook := "http://" + free.Addr().String() + "/api/allocate"
	free.Close()
	folder := t.TempDir()
	flags := standInFlags{config: filepath.Join(folder, "dps.yaml"), folder: filepath.Join(folder, "pki"), webhook: webhook}
	const key = "c2VjcmV0LWtleS1vZi0zMi1ieXRlcy1sb25nLWVub3U="
	config := `hubs: [{name: hub-a}]
enrollmentGroups:
  - {enrollmentGroupId: line-a, allocationPolicy: custom, attestation: {type: symmetricKey, symmetricKey: {primaryKey: ` + key + `}}}
`
	if err := os.WriteFile(flags.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	console := &entryWriter{dpssim.EffectCallAgain, make(chan struct{}, 1)}
	s, err := startStandIn(flags, listenOptions{address: "127.0.0.1"}, nil, console, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	groupKey, err := attest.DecodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	devices, err := fleet.New(fleet.Options{
		Devices: 3, ID: "dev-{n}", Transport: fleet.HTTP, Address: s.running.httpsAddress(),
		IDScope: s.running.IDScope, RootCAs: s.authority.Pool(), GroupKey: groupKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		devices.Register(ctx, 0)
	}()
	select {
	case <-console.seen:
	case <-time.After(20 * time.Second):
		t.Fatal("the webhook was not called")
	}
	calls := &webhookCalls{folder: flags.folder}
	calls.read(t.Context())
	picture := fleetPicture(devices.Snapshot(), 0, calls, 80)
	for _, want := range []string{"waiting ", "times DPS must call the webhook again", "connection refused", fmt.Sprintf("call %d of 11", calls.last.Attempt+1)} {
		if !strings.Contains(picture, want) {
			t.Errorf("%q is not in\n%s", want, picture)
		}
	}
	cancel()
	<-ended
}

// The devices of a fleet take organizations in turn, the same ones in every round.
func TestFleetOrganizations(t *testing.T) {
	t.Parallel()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for organizations, want := range map[string]string{"": "[] [] []", "contoso": "[contoso] [contoso] [contoso]", "contoso fabrikam": "[contoso] [fabrikam] [contoso]"} {
		flags := dpsFleetFlags{organizations: strings.Fields(organizations)}
		issue := flags.certificates(authority.Devices())
		for range 2 {
			var got []string
			for number := 1; number <= 3; number++ {
				certificate, err := issue(number, "press-1")
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprint(certificate.Leaf.Subject.Organization))
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%q: devices have %v, want %s", organizations, got, want)
			}
		}
	}
}
