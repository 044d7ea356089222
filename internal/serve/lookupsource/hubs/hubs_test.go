package hubs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/serve/lookupsource/hubs"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
	"github.com/usher-dps/usher/internal/standin/dpssim/web"
)

const (
	eu     = "contoso-eu.azure-devices.net"
	us     = "contoso-us.azure-devices.net"
	secret = "a2V5LW9mLXRoZS10ZXN0"
)

// azure is hubs and a blob, in memory.
type azure struct {
	mu     sync.Mutex
	hubs   map[string]string // host to totalDeviceCount, or a status with what else there is to say
	blob   string
	asked  map[string][]time.Time
	tokens []string
}

func newAzure() *azure { return &azure{hubs: map[string]string{}, asked: map[string][]time.Time{}} }

func (a *azure) set(host, answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hubs[host] = answer
}

func (a *azure) calls(host string) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[host]
}

func (a *azure) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[r.URL.Host] = append(a.asked[r.URL.Host], time.Now())
	a.tokens = append(a.tokens, r.Header.Get("Authorization"))
	w := httptest.NewRecorder()
	switch answer := a.hubs[r.URL.Host]; {
	case r.URL.Host == "a.blob.core.windows.net":
		etag := fmt.Sprintf(`"%d"`, len(a.blob))
		w.Header().Set("ETag", etag)
		switch {
		case a.blob == "":
			w.Header().Set("X-Ms-Error-Code", "AuthorizationPermissionMismatch")
			w.WriteHeader(http.StatusForbidden)
		case r.Header.Get("If-None-Match") == etag:
			w.WriteHeader(http.StatusNotModified)
		default:
			_, _ = io.WriteString(w, a.blob)
		}
	case r.URL.Path != "/statistics/devices" || r.URL.RawQuery != "api-version=2021-04-12" || r.Method != http.MethodGet:
		w.WriteHeader(http.StatusBadRequest)
	case answer == "":
		return nil, errors.New("no such host")
	case answer == "401":
		w.Header().Set("iothub-errorcode", "IotHubUnauthorizedAccess")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"Message": "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"}`)
	case answer == "429":
		w.Header().Set("Retry-After", "300")
		w.WriteHeader(http.StatusTooManyRequests)
	case answer == "302":
		w.Header().Set("Location", "https://elsewhere.example/statistics/devices?api-version=2021-04-12")
		w.WriteHeader(http.StatusFound)
	case answer == "hangs":
		a.mu.Unlock()
		<-r.Context().Done()
		a.mu.Lock()
		return nil, r.Context().Err()
	default:
		_, _ = fmt.Fprintf(w, `{"totalDeviceCount": %s, "enabledDeviceCount": 0, "disabledDeviceCount": 0}`, answer)
	}
	response := w.Result()
	response.Request = r
	return response, nil
}

type identity struct{}

func (identity) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "token for " + strings.Join(options.Scopes, " "), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// rig is a source of two hubs, with a table if it names one.
type rig struct {
	*hubs.Source
	*azure
	log    *bytes.Buffer
	writes sync.Mutex
}

func (r *rig) Write(p []byte) (int, error) {
	r.writes.Lock()
	defer r.writes.Unlock()
	return r.log.Write(p)
}

func (r *rig) logged() string {
	r.writes.Lock()
	defer r.writes.Unlock()
	return r.log.String()
}

func start(t *testing.T, a *azure, options hubs.Options) *rig {
	t.Helper()
	r := &rig{azure: a, log: new(bytes.Buffer)}
	if options.Hubs == nil {
		options.Hubs = []hubs.Hub{{Host: "Contoso-EU.device.azure-devices.net"}, {Host: us}}
	}
	options.Credential = func() (azcore.TokenCredential, error) { return identity{}, nil }
	options.Transport = a
	options.Log = slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelInfo}))
	source, err := hubs.New(options)
	if err != nil {
		t.Fatal(err)
	}
	r.Source = source
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	source.Start(ctx)
	running.Go(func() { source.Run(ctx) })
	return r
}

// row is the row of a hub as JSON, or "" if there is none. It must be as declared.
func (r *rig) row(t *testing.T, key string) string {
	t.Helper()
	found, err := r.Find(t.Context(), key)
	if err != nil {
		return "fault: " + err.Error()
	}
	if found.Row == nil {
		return ""
	}
	if violations := lookups.HubDeclaration().Row.Validate(found.Row); len(violations) > 0 {
		t.Errorf("%s: %v", key, violations)
	}
	text, err := json.Marshal(found.Row)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (r *rig) want(t *testing.T, key, want string) {
	t.Helper()
	if got := r.row(t, key); got != want {
		t.Errorf("%s:\ngot  %s\nwant %s", key, got, want)
	}
}

func row(host string, devices, limit int, full bool) string {
	return fmt.Sprintf(`{"devices":%d,"full":%t,"limit":%d,"name":"%s","room":%d,"state":"open"}`, devices, full, limit, host, max(limit-devices, 0))
}

func TestCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAzure()
		a.set(eu, "989")
		a.set(us, "12")
		begun := time.Now()
		r := start(t, a, hubs.Options{Limit: 1001})
		for _, key := range []string{eu, "contoso-eu", "CONTOSO-EU", "contoso-eu.device.azure-devices.net"} {
			r.want(t, key, row(eu, 989, 1001, false))
		}
		for _, key := range []string{"", "contoso", "contoso-eu.azure-devices.cn", "contoso-eu.", "../contoso-eu", "contoso-eu%2f", "contoso-eu\x00", "contoſo-eu"} {
			r.want(t, key, "")
		}
		if found, err := r.Find(t.Context(), "contoso-eu"); err != nil || !found.AsOf.Equal(begun) || found.Version != "" {
			t.Errorf("as of %v, version %q, %v", found.AsOf, found.Version, err)
		}
		// 98 % of 1001 is 980.98.
		for _, step := range []struct {
			devices int
			full    bool
		}{{1000, false}, {1001, true}, {1000, true}, {981, true}, {980, false}, {1000, false}, {5000, true}, {0, false}} {
			a.set(eu, fmt.Sprint(step.devices))
			time.Sleep(67 * time.Second)
			r.want(t, "contoso-eu", row(eu, step.devices, 1001, step.full))
		}
		before := len(a.calls(eu))
		for range 1000 {
			r.want(t, "contoso-us", row(us, 12, 1001, false))
		}
		if n := len(a.calls(eu)); n != before {
			t.Errorf("rows caused %d requests", n-before)
		}
		statuses, _ := r.Status()
		if version, asOf := r.State(); version != "" || asOf.IsZero() || asOf.After(statuses[0].Counted) || asOf.After(statuses[1].Counted) {
			t.Errorf("state %q as of %v: %+v", version, asOf, statuses)
		}
		for i, call := range a.calls(us)[1:] {
			if apart := call.Sub(a.calls(us)[i]); apart < 54*time.Second || apart > 66*time.Second {
				t.Errorf("counted %v apart", apart)
			}
		}
		if a.tokens[0] != "Bearer token for https://iothubs.azure.net/.default" {
			t.Errorf("authorized by %q", a.tokens[0])
		}
		if log := r.logged(); strings.Count(log, "hub full") != 2 || strings.Count(log, "hub has room again") != 2 || strings.Contains(log, "Bearer") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// A hub that cannot be counted is a fault until it was counted once. After that its last count serves for a quarter of
// an hour. It does not keep others from being counted.
func TestHubFails(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"401":                  "it answers 401 Unauthorized (IotHubUnauthorizedAccess): the identity needs the role IoT Hub Data Reader, or the policy of the connection string the right RegistryRead",
		"":                     "no such host",
		"hangs":                "the source took too long",
		"302":                  "it answers 302 Found",
		"-1":                   "it answers without a usable totalDeviceCount",
		`"many"`:               "it answers without a usable totalDeviceCount",
		"9223372036854775807":  "it answers without a usable totalDeviceCount",
		"99999999999999999999": "it answers without a usable totalDeviceCount",
		"null":                 "it answers without a usable totalDeviceCount",
	} {
		t.Run(answer, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := newAzure()
				a.set(us, "1")
				a.set(eu, answer)
				r := start(t, a, hubs.Options{})
				fault := "fault: the devices of " + eu + " were never counted: " + want
				r.want(t, eu, fault)
				r.want(t, us, row(us, 1, hubs.DefaultLimit, false))
				if statuses, _ := r.Status(); statuses[0].Failure != want || statuses[0].Failures != 1 || statuses[1].Failures != 0 {
					t.Errorf("%+v", statuses)
				}

				time.Sleep(lookups.HubStaleFor - 5*time.Second) // the first attempt can take 5 s
				r.want(t, eu, fault)
				a.set(us, "2")
				time.Sleep(67 * time.Second)
				unknown := fmt.Sprintf(`{"limit":%d,"name":"%s","state":"unknown"}`, hubs.DefaultLimit, eu)
				r.want(t, eu, unknown)
				r.want(t, us, row(us, 2, hubs.DefaultLimit, false))

				a.set(eu, "3")
				time.Sleep(80 * time.Second)
				r.want(t, eu, row(eu, 3, hubs.DefaultLimit, false))
				counted, _ := r.Find(t.Context(), eu)
				a.set(eu, answer)
				time.Sleep(lookups.HubStaleFor - 80*time.Second)
				r.want(t, eu, row(eu, 3, hubs.DefaultLimit, false))
				if old, _ := r.Find(t.Context(), eu); old.AsOf.Sub(counted.AsOf) > 67*time.Second {
					t.Error("an old count is not as of when it was read")
				}
				time.Sleep(3 * time.Minute)
				r.want(t, eu, unknown)
				if log := r.logged(); strings.Count(log, "hub not counted") != 2 || strings.Count(log, "hub counted again") != 1 || strings.Contains(log, us) {
					t.Errorf("log:\n%s", log)
				}
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAzure()
		a.set(us, "1")
		r := start(t, a, hubs.Options{})
		time.Sleep(10 * time.Minute)
		calls := a.calls(eu)
		if n := len(calls); n < 14 || n > 18 { // 1, 2, 4 ... 60, 60 s apart
			t.Errorf("%d attempts in 10 min", n)
		}
		a.set(eu, "429")
		time.Sleep(2 * time.Minute)
		asked := len(a.calls(eu))
		time.Sleep(177 * time.Second) // the hub asked for 300 s, at the latest 66 s after it began to answer 429
		if n := len(a.calls(eu)); n != asked {
			t.Errorf("%d attempts before the hub allows one", n-asked)
		}
		time.Sleep(70 * time.Second)
		if n := len(a.calls(eu)); n != asked+1 {
			t.Errorf("%d attempts when the hub allows one", n-asked)
		}
		if statuses, _ := r.Status(); !strings.Contains(statuses[0].Failure, "429") {
			t.Errorf("%+v", statuses[0])
		}
	})
}

func TestTable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAzure()
		a.set(us, "7") // and contoso-eu does not answer
		file := filepath.Join(t.TempDir(), "hubs.csv")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("hub,state,limit,note\ncontoso-EU,down,,storm\n")
		r := start(t, a, hubs.Options{Table: file, Limit: 100})
		r.want(t, eu, fmt.Sprintf(`{"limit":100,"name":"%s","note":"storm","state":"down"}`, eu))
		r.want(t, us, row(us, 7, 100, false))
		if strings.Contains(r.logged(), "not counted") {
			t.Errorf("a hub that is down causes a warning:\n%s", r.logged())
		}
		found, _ := r.Find(t.Context(), us)
		if !strings.HasPrefix(found.Version, "sha256:") {
			t.Errorf("version %q", found.Version)
		}

		a.set(eu, "3")
		write("hub,state,limit\n" + us + ",drain,7\n")
		time.Sleep(500 * time.Millisecond)
		r.want(t, us, row(us, 7, 100, false))
		time.Sleep(67 * time.Second)
		r.want(t, eu, row(eu, 3, 100, false))
		drained := fmt.Sprintf(`{"devices":7,"full":true,"limit":7,"name":"%s","room":0,"state":"drain"}`, us)
		r.want(t, us, drained)

		// Whatever comes next that is not good, the last one stays in effect, and the operator is told.
		for text, want := range map[string]string{
			" ":                                  "it is empty: a table without rows is [] in YAML, and has the line hub,state,limit,note in CSV",
			"state\nopen\n":                      "hubs.csv:1: no column is named hub, which is the key of look-up hub (name the columns in the first line, separated by commas or semicolons, in UTF-8)",
			"hub,stat\ncontoso-us,down\n":        "hubs.csv:2: not as the table of hubs declares: /stat: property is not allowed",
			"hub,state\ncontoso-us,dwon\n":       "hubs.csv:2: not as the table of hubs declares: /state: value must be one of \"open\", \"drain\", \"down\"",
			"hub,limit\ncontoso-us,-1\n":         "hubs.csv:2: not as the table of hubs declares: /limit: number is too small: want at least 0",
			"hub,limit\ncontoso-us,1e6\n":        "line 2: write the limit in digits",
			"hub\ncontoso-us\n" + us + "\n":      "hubs.csv:3: the key of this row is also that of an earlier one (remove one of the two; keys are compared without case)",
			"hub,state\n,down\n":                 "hubs.csv:2: the key, hub, is empty (give the row a key, or remove it)",
			"hub,state\n\"contoso-us,down\n":     "hubs.csv:2: not CSV with the columns of the first line: extraneous or missing \" in quoted-field",
			"hub\n" + strings.Repeat("x", 2<<20): "it is larger than 1048576 bytes",
		} {
			write(text)
			time.Sleep(3 * time.Second)
			r.want(t, us, drained)
			if _, table := r.Status(); table.Failure != want {
				t.Errorf("%.40q:\ngot  %s\nwant %s", text, table.Failure, want)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		r.want(t, us, drained)
		if _, table := r.Status(); !strings.Contains(table.Failure, "no such file") || table.Failures < 10 {
			t.Errorf("%+v", table)
		}

		write("hub,state,limit\n" + us + ",drain,7\n")
		time.Sleep(3 * time.Second)
		if _, table := r.Status(); table.Failure != "" {
			t.Errorf("%+v", table)
		}
		write("hub,state\nelsewhere,down\n")
		time.Sleep(3 * time.Second)
		r.want(t, us, row(us, 7, 100, false))
		if log := r.logged(); !strings.Contains(log, `names hubs that the settings do not" table=`+file+` rows=1`) {
			t.Errorf("log:\n%s", log)
		}
	})
}

// A file is taken when it has stayed the same for a moment, so that a table that is being written hides no row.
func TestTableIsWrittenInSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAzure()
		a.set(us, "7")
		a.set(eu, "7")
		file := filepath.Join(t.TempDir(), "hubs.yaml")
		text := "- hub: contoso-us\n  state: down\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := start(t, a, hubs.Options{Table: file})
		for i := range 20 { // of a program that is slow to write
			if err := os.WriteFile(file, []byte(strings.Repeat("\n", i)+"[]"), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			if got := r.row(t, us); !strings.Contains(got, `"state":"down"`) {
				t.Fatal(got)
			}
		}
		time.Sleep(2 * time.Second)
		if got := r.row(t, us); !strings.Contains(got, `"state":"open"`) {
			t.Error(got)
		}
	})
}

func TestBlob(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"https://a.blob.core.windows.net/c/hubs.ndjson", "https://a.blob.core.windows.net/c/hubs.ndjson?sig=" + secret} {
		synctest.Test(t, func(t *testing.T) {
			a := newAzure()
			a.set(eu, "1")
			a.set(us, "1")
			r := start(t, a, hubs.Options{Table: url})
			r.want(t, eu, "fault: the table of hubs was never read: the source answered 403 Forbidden (AuthorizationPermissionMismatch): access to the table of hubs is denied; in Blob Storage the identity needs the role Storage Blob Data Reader")
			a.mu.Lock()
			a.blob = `{"hub": "contoso-eu", "state": "drain", "limit": 5}`
			a.mu.Unlock()
			time.Sleep(12 * time.Second)
			drained := fmt.Sprintf(`{"devices":1,"full":false,"limit":5,"name":"%s","room":4,"state":"drain"}`, eu)
			r.want(t, eu, drained)
			a.mu.Lock()
			a.blob = ""
			a.mu.Unlock()
			time.Sleep(12 * time.Second)
			r.want(t, eu, drained)
			if _, table := r.Status(); !strings.Contains(table.Failure, "403") || strings.Contains(table.Location, secret) {
				t.Errorf("%+v", table)
			}
			a.mu.Lock()
			a.blob = `{"hub": "contoso-eu", "state": "drain", "limit": 5}`
			a.mu.Unlock()
			time.Sleep(12 * time.Second)
			if _, table := r.Status(); table.Failure != "" {
				t.Errorf("%+v", table)
			}
			isToken := strings.HasPrefix(a.tokens[0], "Bearer ")
			if hasSignature := strings.Contains(url, secret); isToken == hasSignature || strings.Contains(r.logged(), secret) {
				t.Errorf("authorized by %q; log:\n%s", a.tokens[0], r.logged())
			}
		})
	}
}

// Rows are read while hubs, table and counts change.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAzure()
		a.set(eu, "1")
		a.set(us, "1")
		file := filepath.Join(t.TempDir(), "hubs.yaml")
		if err := os.WriteFile(file, []byte("[]"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := start(t, a, hubs.Options{Table: file, Poll: time.Second})
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				for range 300 {
					if _, err := r.Find(t.Context(), eu); err != nil {
						t.Error(err)
					}
					r.Status()
					time.Sleep(time.Second)
				}
			})
		}
		for i := range 300 {
			a.set(eu, []string{fmt.Sprint(i), "401", ""}[i%3])
			if err := os.WriteFile(file, fmt.Appendf(nil, "[{hub: contoso-us, limit: %d}]", i/3), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		readers.Wait()
	})
}

func TestParseHubs(t *testing.T) {
	t.Parallel()
	key := "HostName=" + us + ";SharedAccessKeyName=registryRead;SharedAccessKey=" + secret
	for text, want := range map[string]string{
		eu:                                      eu,
		" " + eu + ",\n" + key:                  eu + " " + us,
		key + ";GatewayHostName=localhost:8443": us + "@localhost:8443",
		"contoso-eu.device.azure-devices.net":   "contoso-eu.device.azure-devices.net",
		"":                                      "hub 1: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		eu + ",":                                "hub 2: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		"contoso-eu":                            "hub 1: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		"contoso-eu.example.com":                "hub 1: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		eu + "/x":                               "hub 1: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		"me@" + eu:                              "hub 1: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		eu + ":444":                             "hub 1: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		eu + "," + strings.ToUpper(eu):          "hub 2: " + eu + " is there twice",
		"contoso-us.device.azure-devices.net," + key:                            "hub 2: " + us + " is there twice",
		"HostName=evil.example;SharedAccessKeyName=a;SharedAccessKey=" + secret: "hub 1: not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string",
		"SharedAccessKey=" + secret:                                             "hub 1: not a connection string: want HostName=, SharedAccessKeyName= and SharedAccessKey=, with ; between them",
	} {
		parsed, err := hubs.ParseHubs(text)
		var names []string
		for _, h := range parsed {
			name := h.Host
			if h.Gateway != "" {
				name += "@" + h.Gateway
			}
			names = append(names, name)
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", text, got, want)
		}
	}
	if _, err := hubs.New(hubs.Options{}); err == nil {
		t.Error("a source without hubs")
	}
	if _, err := hubs.New(hubs.Options{Hubs: []hubs.Hub{{Host: eu}}, Table: "http://a.example/hubs.csv"}); err == nil || !strings.Contains(err.Error(), "http is allowed only for the loopback") {
		t.Errorf("got %v", err)
	}
}

// A label that hubs of two clouds have is the name of neither.
func TestLabelOfTwoHubs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAzure()
		china := strings.Replace(eu, ".net", ".cn", 1)
		a.set(eu, "1")
		a.set(china, "2")
		r := start(t, a, hubs.Options{Hubs: []hubs.Hub{{Host: eu}, {Host: china}}, Limit: 2})
		r.want(t, eu, row(eu, 1, 2, false))
		r.want(t, china, row(china, 2, 2, true))
		r.want(t, "contoso-eu", "")
	})
}

// The devices of usher dps are counted over its TLS, with a connection string that names its address.
func TestStandIn(t *testing.T) {
	t.Parallel()
	authority, err := pki.Load(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	state := store.Memory()
	registry := hub.New(state, time.Now)
	for i := range 3 {
		if err := state.Update(func(tx *store.Tx) error {
			return registry.Create(tx, eu, model.DeviceIdentity{DeviceID: fmt.Sprint(i)}, nil)
		}); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewUnstartedServer(web.HubAPI(registry, hub.Policy{Name: "iothubowner", PrimaryKey: secret}, eu, us))
	server.TLS = authority.ServerConfig()
	server.StartTLS()
	defer server.Close()
	gateway := ";GatewayHostName=" + strings.TrimPrefix(server.URL, "https://")
	for key, want := range map[string]string{
		secret:     row(eu, 3, 3, true),
		"d3Jvbmc=": "fault: the devices of " + eu + " were never counted: it answers 401 Unauthorized (IotHubUnauthorizedAccess): the identity needs the role IoT Hub Data Reader, or the policy of the connection string the right RegistryRead",
	} {
		named, err := hubs.ParseHubs("HostName=" + eu + ";SharedAccessKeyName=iothubowner;SharedAccessKey=" + key + gateway)
		if err != nil {
			t.Fatal(err)
		}
		source, err := hubs.New(hubs.Options{Hubs: named, Roots: authority.Pool(), Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		source.Start(t.Context())
		(&rig{Source: source}).want(t, "contoso-eu", want)
		if shown := fmt.Sprintf("%+v", named); strings.Contains(shown, key) {
			t.Errorf("the key is printed: %s", shown)
		}
	}
}

func TestTableFormats(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"hubs.csv":    "\ufeffhub;limit;state\r\nCONTOSO-EU;7;down\r\n",
		"hubs.yaml":   "contoso-eu: {state: down, limit: 7}\n",
		"hubs.yml":    "- {hub: contoso-eu.device.azure-devices.net, state: down, limit: 7}\n",
		"hubs.ndjson": `{"hub": "contoso-eu", "state": "down", "limit": 7}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := start(t, newAzure(), hubs.Options{Table: file})
			r.want(t, eu, fmt.Sprintf(`{"limit":7,"name":"%s","state":"down"}`, eu))
		})
	}
	if _, err := hubs.New(hubs.Options{Hubs: []hubs.Hub{{Host: eu}}, Table: "hubs.xlsx"}); err == nil {
		t.Error("any file can be a table")
	}
}
