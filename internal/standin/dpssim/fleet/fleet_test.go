package fleet_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/fleet"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/softtpm"
)

var groupKey = []byte("a key of thirty-two bytes, or so")

// service answers with DPS's protocol. The stand-in has its own tests; here the fleet must cope with any answer.
func service(t *testing.T, handler http.HandlerFunc) fleet.Options {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return fleet.Options{
		Devices: 10, ID: "made-up-{n}", Transport: fleet.HTTP, Address: server.Listener.Addr().String(),
		Host:    "example.com", // a name in httptest's certificate
		IDScope: "0ne00000000", RootCAs: pool, GroupKey: groupKey,
	}
}

func register(t *testing.T, ctx context.Context, options fleet.Options, rate float64) fleet.Summary {
	t.Helper()
	f, err := fleet.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return f.Register(ctx, rate)
}

func answer(w http.ResponseWriter, status int, retryAfter, body string) {
	if retryAfter != "" {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func assignedTo(hub string) string {
	return fmt.Sprintf(`{"operationId":"4.x","status":"assigned","registrationState":{"assignedHub":%q,"deviceId":"x","status":"assigned"}}`, hub)
}

const assigning = `{"operationId":"4.op","status":"assigning"}`

func TestRegister(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	options := service(t, func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.URL.Path, "/")
		id := parts[3]
		token, err := attest.ParseToken(r.Header.Get("Authorization"))
		if err != nil || !token.SignedWith(attest.DeriveKey(groupKey, id)) || token.Check("0ne00000000/registrations/"+id, time.Now()) != nil {
			t.Errorf("%s shows a wrong token: %v", id, err)
		}
		if r.URL.Query().Get("api-version") == "" || r.Host != "example.com" {
			t.Errorf("%s asks %s %s", id, r.Host, r.URL)
		}
		mu.Lock()
		seen[id]++
		calls := seen[id]
		mu.Unlock()
		switch {
		case r.Method == http.MethodPut:
			var body struct {
				RegistrationID string
				Payload        map[string]string
			}
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.RegistrationID != id || body.Payload["model"] != "m1" {
				t.Errorf("%s sends %+v: %v", id, body, err)
			}
			answer(w, http.StatusAccepted, "0", assigning)
		case calls == 2:
			answer(w, http.StatusAccepted, "0", assigning)
		default:
			hub := "hub-a.azure-devices.net"
			if id == "made-up-10" {
				hub = "hub-b.azure-devices.net"
			}
			answer(w, http.StatusOK, "", assignedTo(hub))
		}
	})
	options.Payloads = []string{`{"model":"m1"}`}
	options.Parallel = 3
	summary := register(t, t.Context(), options, 0)
	if want := map[string]int{"hub-a.azure-devices.net": 9, "hub-b.azure-devices.net": 1}; summary.Assigned != 10 || !reflect.DeepEqual(summary.Hubs, want) {
		t.Errorf("got %+v", summary)
	}
	if summary.LatencyMS == nil || summary.Done() != 10 {
		t.Errorf("got %+v", summary)
	}
	if len(seen) != 10 || seen["made-up-01"] != 3 {
		t.Errorf("calls by device: %v", seen)
	}
}

// Devices differ by their number, and take payloads in turn.
func TestNumbers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sent []string
	options := service(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		sent = append(sent, string(body))
		mu.Unlock()
		answer(w, http.StatusOK, "", assignedTo("hub-a.azure-devices.net"))
	})
	options.ID = "press-{n:5}-{n}"
	options.Payloads = []string{`{"serial":"{n:3}","count":{n:1}}`, `{"model":"{n}"}`, `{}`}
	register(t, t.Context(), options, 0)
	slices.Sort(sent)
	want := []string{
		`{"registrationId":"press-00001-01","payload":{"serial":"001","count":1}}`,
		`{"registrationId":"press-00002-02","payload":{"model":"02"}}`,
		`{"registrationId":"press-00003-03","payload":{}}`,
		`{"registrationId":"press-00004-04","payload":{"serial":"004","count":4}}`,
	}
	if len(sent) != 10 || !reflect.DeepEqual(sent[:4], want) {
		t.Errorf("devices send %q", sent)
	}
	for text, want := range map[string]bool{"{n}": true, "a-{n:12}": true, "{n:}": false, "{n:x}": false, "n": false, "{m}": false} {
		if fleet.IsNumbered(text) != want {
			t.Errorf("%s: numbered %t", text, !want)
		}
	}
	if got := fleet.WithNumber("{n:999999999999999999999}", 1, 1); len(got) != 20 {
		t.Errorf("a very wide number is %q", got)
	}
}

// A device with a TPM takes the key out of DPS's challenge, and signs with it.
func TestTPM(t *testing.T) {
	t.Parallel()
	tpm, err := softtpm.New()
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("the key that only the TPM may see")
	options := service(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			RegistrationID string
			TPM            model.TPM
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.TPM != tpm.Keys() {
			t.Errorf("%s sends other keys: %v", body.RegistrationID, err)
		}
		blob, err := attest.WrapForTPM(body.TPM, key)
		if err != nil {
			t.Error(err)
		}
		switch token, err := attest.ParseToken(r.Header.Get("Authorization")); {
		case r.Header.Get("Authorization") != "":
			if err != nil || !token.SignedWith(key) || token.Check("0ne00000000/registrations/"+body.RegistrationID, time.Now()) != nil {
				t.Errorf("%s shows a wrong token: %v", body.RegistrationID, err)
			}
			answer(w, http.StatusOK, "", assignedTo("hub-a.azure-devices.net"))
		case strings.HasSuffix(body.RegistrationID, "1"):
			answer(w, http.StatusUnauthorized, "", `{"errorCode":401002,"message":"Unauthorized"}`)
		case strings.HasSuffix(body.RegistrationID, "2"):
			answer(w, http.StatusUnauthorized, "", `{"authenticationKey":"AAAA"}`)
		default:
			text, _ := json.Marshal(model.TPMChallenge{AuthenticationKey: base64.StdEncoding.EncodeToString(blob)})
			answer(w, http.StatusUnauthorized, "", string(text))
		}
	})
	options.Devices, options.GroupKey, options.TPM = 5, nil, tpm
	got := register(t, t.Context(), options, 0)
	if got.Assigned != 3 || got.Refused["401002"] != 1 || got.Lost != 1 || !strings.Contains(got.Examples["lost"], "the key of the challenge") {
		t.Errorf("got %+v", got)
	}
}

func TestMovedDevices(t *testing.T) {
	t.Parallel()
	var round atomic.Int32
	options := service(t, func(w http.ResponseWriter, r *http.Request) {
		hub := "hub-a.azure-devices.net"
		if round.Load() == 2 && strings.Contains(r.URL.Path, "made-up-03") {
			hub = "hub-b.azure-devices.net"
		}
		answer(w, http.StatusOK, "", assignedTo(hub))
	})
	f, err := fleet.New(options)
	if err != nil {
		t.Fatal(err)
	}
	round.Store(1)
	if got := f.Register(t.Context(), 0); got.Moved != 0 {
		t.Errorf("first round: %+v", got)
	}
	round.Store(2)
	if got := f.Register(t.Context(), 0); got.Moved != 1 || got.Assigned != 10 {
		t.Errorf("second round: %+v", got)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		status  int
		body    string
		summary fleet.Summary // what of it counts
	}{
		{"failed", 200, `{"status":"failed","registrationState":{"status":"failed","errorCode":400207,"errorMessage":"Custom allocation failed with status code: 400"}}`,
			fleet.Summary{Failed: map[string]int{"400207": 10}, Examples: map[string]string{"400207": "Custom allocation failed with status code: 400"}}},
		{"refused", 401, `{"errorCode":401002,"message":"Unauthorized"}`,
			fleet.Summary{Refused: map[string]int{"401002": 10}, Examples: map[string]string{"401002": "Unauthorized"}}},
		{"disabled", 200, `{"operationId":"","status":"disabled","registrationState":{"status":"disabled"}}`, fleet.Summary{Disabled: 10}},
		{"no hub", 200, `{"status":"assigned","registrationState":{}}`,
			fleet.Summary{Lost: 10, Examples: map[string]string{"lost": "assigned, but no hub is named"}}},
		{"unknown status", 200, `{"status":"lost in space"}`, fleet.Summary{Lost: 10, Examples: map[string]string{"lost": `status "lost in space"`}}},
		{"no error in it", 404, `not found`, fleet.Summary{Lost: 10, Examples: map[string]string{"lost": "status 404 without an error of DPS"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			options := service(t, func(w http.ResponseWriter, r *http.Request) { answer(w, c.status, "", c.body) })
			got := register(t, t.Context(), options, 0)
			for _, m := range []*map[string]int{&c.summary.Failed, &c.summary.Refused, &c.summary.Hubs} {
				if *m == nil {
					*m = map[string]int{}
				}
			}
			if c.summary.Examples == nil {
				c.summary.Examples = map[string]string{}
			}
			c.summary.Devices, c.summary.DurationMS, c.summary.LatencyMS = 10, got.DurationMS, got.LatencyMS
			if !reflect.DeepEqual(got, c.summary) {
				t.Errorf("got  %+v\nwant %+v", got, c.summary)
			}
		})
	}
}

func TestThrottledDevicesRetry(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	options := service(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) <= 5 {
			answer(w, http.StatusTooManyRequests, "0", `{"errorCode":429001,"message":"Operations are being throttled for this tenant."}`)
			return
		}
		answer(w, http.StatusOK, "", assignedTo("hub-a.azure-devices.net"))
	})
	if got := register(t, t.Context(), options, 0); got.Throttled != 5 || got.Assigned != 10 {
		t.Errorf("got %+v", got)
	}
}

func TestNoListener(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{fleet.HTTP, fleet.MQTT} {
		options := service(t, nil)
		options.Address, options.Transport = "127.0.0.1:1", transport
		got := register(t, t.Context(), options, 0)
		if got.Lost != 10 || !strings.Contains(got.Examples["lost"], "127.0.0.1:1") {
			t.Errorf("%s: %+v", transport, got)
		}
	}
}

func TestDevicesTimeOut(t *testing.T) {
	t.Parallel()
	options := service(t, func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusAccepted, "3600", assigning) })
	options.Devices, options.Timeout = 2, 500*time.Millisecond
	if got := register(t, t.Context(), options, 0); got.Lost != 2 || !strings.Contains(got.Examples["lost"], "deadline exceeded") {
		t.Errorf("got %+v", got)
	}
}

// TestStopped checks that a stopped fleet reports its progress, and does not count interrupted devices as lost.
func TestStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	options := service(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "made-up-04") {
			cancel()
			answer(w, http.StatusAccepted, "3600", assigning)
			return
		}
		answer(w, http.StatusOK, "", assignedTo("hub-a.azure-devices.net"))
	})
	options.Parallel = 1
	if got := register(t, ctx, options, 0); got.Assigned != 3 || got.Done() != 3 {
		t.Errorf("got %+v", got)
	}
}

// TestRate checks that at a rate, the last of ten devices is due after 9 intervals.
func TestRate(t *testing.T) {
	t.Parallel()
	options := service(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, "", assignedTo("hub-a.azure-devices.net"))
	})
	const perMinute = 6000 // one every 10 ms
	if got := register(t, t.Context(), options, perMinute); got.Assigned != 10 || got.DurationMS < 90 {
		t.Errorf("got %+v", got)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change func(*fleet.Options)
		want   string
	}{
		{func(o *fleet.Options) { o.Devices = 0 }, "at least one device"},
		{func(o *fleet.Options) { o.ID = "x" }, "the same for all devices"},
		{func(o *fleet.Options) { o.Transport = "amqp" }, `transport "amqp"`},
		{func(o *fleet.Options) { o.GroupKey = nil }, "either the key of an enrollment group, or certificates, or a TPM"},
		{func(o *fleet.Options) { o.TPM = new(softtpm.TPM) }, "either the key of an enrollment group, or certificates, or a TPM"},
		{func(o *fleet.Options) { o.TPM, o.Transport = new(softtpm.TPM), fleet.MQTT }, "only over http"},
		{func(o *fleet.Options) { o.Parallel = -1 }, "online"},
	} {
		options := fleet.Options{Devices: 2, ID: "x-{n}", Transport: fleet.HTTP, GroupKey: groupKey}
		c.change(&options)
		if _, err := fleet.New(options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
