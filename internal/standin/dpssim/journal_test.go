package dpssim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// TestJournal follows one registration: the register call, the webhook call with the request as posted, the effect, the
// poll.
func TestJournal(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	r := newRig(t, func(c *dpssim.Config) {
		c.OnEntry = dpssim.WriteEntries(&file, func(err error) { t.Error(err) })
	})
	r.putGroup(customGroup(nil))
	r.hook.set(answers(200, `{"iotHubHostName":"`+hubA+`","payload":{"x":1}}`))
	status := r.register(groupDevice("Device-1"), model.RegistrationRequest{Payload: json.RawMessage(`{"modelId":"toaster"}`)})

	entries := r.Journal(0, 100, dpssim.JournalFilter{RegistrationID: "DEVICE-1"}).Entries
	var kinds []string
	for i, entry := range entries {
		if entry.Kind != dpssim.KindOperation || len(kinds) == 0 || kinds[len(kinds)-1] != entry.Kind {
			kinds = append(kinds, entry.Kind)
		}
		if entry.ID != uint64(i+1) || entry.OperationID != status.OperationID || entry.RegistrationID != "Device-1" {
			t.Errorf("entry %+v", entry)
		}
	}
	find := func(kind string) dpssim.Entry {
		for _, entry := range entries {
			if entry.Kind == kind {
				return entry
			}
		}
		t.Fatalf("no %s among %v", kind, kinds)
		return dpssim.Entry{}
	}
	register, webhook, effect := find(dpssim.KindRegister), find(dpssim.KindWebhook), find(dpssim.KindEffect)
	if register.Status != 202 || string(register.Request) != `{"payload":{"modelId":"toaster"}}` || register.DPSEffect != "assigning" {
		t.Errorf("register: %+v", register)
	}
	if !bytes.Equal(webhook.Request, r.hook.requests[0]) || string(webhook.Response) != `{"iotHubHostName":"`+hubA+`","payload":{"x":1}}` ||
		webhook.Status != 200 || webhook.URL != "https://contoso-function-app.azurewebsites.net/api/HttpTrigger1?****" {
		t.Errorf("webhook: %+v", webhook)
	}
	if effect.Hub != hubA || effect.Substatus != "initialAssignment" || effect.Twin != "created" || !reflect.DeepEqual(effect.LinkedHubs, []string{hubA, hubB, hubC}) {
		t.Errorf("effect: %+v", effect)
	}
	if last := entries[len(entries)-1]; last.Kind != dpssim.KindOperation || last.Status != 200 || last.DPSEffect != "assigned" {
		t.Errorf("poll: %+v", last)
	}

	// The file holds the same, a line each.
	lines := strings.Split(strings.TrimSpace(file.String()), "\n")
	if len(lines) != len(entries) {
		t.Fatalf("%d lines, %d entries", len(lines), len(entries))
	}
	for i, line := range lines {
		want, err := json.Marshal(entries[i])
		if err != nil || line != string(want) {
			t.Errorf("line %d: %s, want %s, %v", i, line, want, err)
		}
	}
}

func TestJournalIsBounded(t *testing.T) {
	t.Parallel()
	seen := 0
	r := newRig(t, func(c *dpssim.Config) {
		c.JournalSize = 10
		c.OnEntry = func(dpssim.Entry) { seen++ }
	})
	for i := range 25 {
		r.Record(dpssim.Entry{Kind: []string{dpssim.KindHub, dpssim.KindService}[i%2]})
	}
	page := r.Journal(0, 4, dpssim.JournalFilter{})
	if ids := idsOf(page); seen != 25 || page.Oldest != 16 || page.Last != 25 || page.Next != 19 || !reflect.DeepEqual(ids, []uint64{16, 17, 18, 19}) {
		t.Errorf("seen %d, %+v", seen, page)
	}
	page = r.Journal(page.Next, 100, dpssim.JournalFilter{Kind: dpssim.KindHub})
	if ids := idsOf(page); page.Next != 25 || !reflect.DeepEqual(ids, []uint64{21, 23, 25}) {
		t.Errorf("got %+v", page)
	}
	if page = r.Journal(25, 100, dpssim.JournalFilter{}); len(page.Entries) != 0 || page.Next != 25 {
		t.Errorf("at the end: %+v", page)
	}
}

// TestJournalIsBoundedInBytes checks that long bodies, also of unknown callers, cannot fill the memory. The newest
// entry is always kept.
func TestJournalIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	body := json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)
	for range 200 {
		r.Record(dpssim.Entry{Kind: dpssim.KindService, Request: body})
	}
	page := r.Journal(0, 1000, dpssim.JournalFilter{})
	if n := len(page.Entries); n < 50 || n > 64 || page.Last != 200 || page.Oldest != uint64(200-n+1) {
		t.Errorf("%d entries from %d to %d", n, page.Oldest, page.Last)
	}
	for range 20_000 {
		r.Record(dpssim.Entry{Kind: dpssim.KindHub})
	}
	if page = r.Journal(0, 1000, dpssim.JournalFilter{}); page.Oldest != 10_201 || page.Last != 20_200 || page.Entries[0].Kind != dpssim.KindHub {
		t.Errorf("from %d to %d", page.Oldest, page.Last)
	}
	r.Record(dpssim.Entry{Kind: dpssim.KindService, Request: bytes.Repeat([]byte("1"), 65<<20)})
	if page = r.Journal(0, 1000, dpssim.JournalFilter{}); page.Oldest != 20_201 || len(page.Entries) != 1 {
		t.Errorf("from %d, %d entries", page.Oldest, len(page.Entries))
	}
}

func idsOf(page dpssim.JournalPage) (ids []uint64) {
	for _, entry := range page.Entries {
		ids = append(ids, entry.ID)
	}
	return ids
}

func TestWriteEntriesStopsOnce(t *testing.T) {
	t.Parallel()
	failures := 0
	write := dpssim.WriteEntries(brokenWriter{}, func(err error) {
		failures++
		if !strings.Contains(err.Error(), "disk full") {
			t.Error(err)
		}
	})
	write(dpssim.Entry{})
	write(dpssim.Entry{})
	if failures != 1 {
		t.Errorf("told %d times", failures)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestLine(t *testing.T) {
	t.Parallel()
	for want, entry := range map[string]dpssim.Entry{
		"register  d1 mqtt -> 202 assigning 1.5 ms":                 {Kind: "register", RegistrationID: "d1", Transport: "mqtt", Status: 202, DPSEffect: "assigning", DurationMS: 1.5},
		"webhook   d1 POST http://x/y?**** (call 2) (repeated) 0.0": {Kind: "webhook", RegistrationID: "d1", Method: "POST", URL: "http://x/y?****", Attempt: 2, Repeated: true},
		"register  a?[31mb? -> 400 no (why) 0.0 ms":                 {Kind: "register", RegistrationID: "a\x1b[31mb\u009b", Status: 400, DPSEffect: "no", Error: "why"},
	} {
		if got := entry.Line(); !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		``:                        "",
		` { "b": 1, "a": 2.50 } `: `{"b":1,"a":2.50}`,
		`{"attestation":{"symmetricKey":{"primaryKey":"s3cret","SecondaryKey":"s3cret"}}}`: `{"attestation":{"symmetricKey":{"primaryKey":"****","SecondaryKey":"****"}}}`,
		`[{"tpm":{"authenticationKey":"s3cret"}}]`:                                         `[{"tpm":{"authenticationKey":"****"}}]`,
		`{"primary":{"certificate":"s3cret"},"n":12345678901234567890}`:                    `{"primary":{"certificate":"****"},"n":12345678901234567890}`,
		`{"webhookUrl":"https://x/y?code=s3cret"}`:                                         `{"webhookUrl":"https://x/y?****"}`,
		`{"primaryKey":"s3cret"`:                                                           `"(22 bytes that are not JSON)"`,
		`s3cret`:                                                                           `"(6 bytes that are not JSON)"`,
	} {
		if got := string(dpssim.Mask([]byte(body))); got != want {
			t.Errorf("%s: got %s, want %s", body, got, want)
		}
	}
}

// TestNoKeyIsInTheJournal puts, reads and registers with known keys and searches for them.
func TestNoKeyIsInTheJournal(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.putGroup(customGroup(nil))
	caller := groupDevice("device-1")
	r.register(caller, model.RegistrationRequest{})
	if err := r.Authenticate(caller); err != nil {
		t.Fatal(err)
	}
	_, signature, _ := strings.Cut(caller.SAS, "sig=")
	for _, entry := range r.Journal(0, 1000, dpssim.JournalFilter{}).Entries {
		text := fmt.Sprintf("%+v %s %s", entry, entry.Request, entry.Response)
		for _, secret := range []string{groupKey, signature, "secret"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in %s", secret, text)
			}
		}
	}
}

// TestStormIsJournalled registers many devices at once and checks that the journal has every call.
func TestStormIsJournalled(t *testing.T) {
	t.Parallel()
	const devices = 200
	effects := make(chan dpssim.Entry, devices)
	r := newRig(t, func(c *dpssim.Config) {
		c.Webhook.MaxConcurrent = 7
		c.OnEntry = func(e dpssim.Entry) {
			if e.Kind == dpssim.KindEffect {
				effects <- e
			}
		}
	})
	r.putGroup(customGroup(nil))
	var inside, most atomic.Int32
	r.hook.set(func(w http.ResponseWriter, q *http.Request) {
		now := inside.Add(1)
		defer inside.Add(-1)
		for before := most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
		}
		answers(200, `{"iotHubHostName":"`+hubA+`"}`)(w, q)
	})
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() {
			if _, err := r.Register(groupDevice(fmt.Sprint("d", i)), model.RegistrationRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range devices {
		if e := <-effects; e.Hub != hubA || e.Twin != "created" {
			t.Errorf("got %+v", e)
		}
	}
	if most.Load() > 7 {
		t.Errorf("%d calls of the webhook at once, want 7 at most", most.Load())
	}
	for _, kind := range []string{dpssim.KindRegister, dpssim.KindWebhook, dpssim.KindEffect} {
		if got := len(r.Journal(0, 100_000, dpssim.JournalFilter{Kind: kind}).Entries); got != devices {
			t.Errorf("%d entries of %s, want %d", got, kind, devices)
		}
	}
	overview, err := r.Overview()
	if err != nil || overview.Registrations["assigned"] != devices || overview.Hubs[0].Devices != devices {
		t.Errorf("got %+v, %v", overview, err)
	}
}
