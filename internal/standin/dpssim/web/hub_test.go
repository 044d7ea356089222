package web_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
	"github.com/usher-dps/usher/internal/standin/dpssim/web"
)

// hubStore is a registry with a clock that stands still.
type hubStore struct {
	*hub.Registry
	store *store.Store
	time  time.Time
}

func newHubStore() *hubStore {
	f := &hubStore{store: store.Memory(), time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f.Registry = hub.New(f.store, func() time.Time { return f.time })
	return f
}

func (f *hubStore) create(t *testing.T, host, id, twin string) {
	t.Helper()
	initial := new(model.InitialTwin)
	if twin != "" {
		if err := json.Unmarshal([]byte(twin), initial); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.store.Update(func(tx *store.Tx) error {
		return f.Create(tx, host, model.DeviceIdentity{DeviceID: id}, initial)
	}); err != nil {
		t.Fatal(err)
	}
}

// apiFixture serves the API over HTTP for hubA and hubB.
type apiFixture struct {
	*hubStore
	server *httptest.Server
}

func newAPI(t *testing.T) *apiFixture {
	t.Helper()
	f := newHubStore()
	server := httptest.NewServer(web.HubAPI(f.Registry, hub.Policy{Name: "iothubowner", PrimaryKey: policyKey}, hubA, hubB))
	t.Cleanup(server.Close)
	return &apiFixture{f, server}
}

type reply struct {
	status int
	header http.Header
	body   string
}

// call sends a request to a hub as a service SDK does; header is name, value, ....
func (f *apiFixture) call(t *testing.T, method, host, path, body string, header ...string) reply {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(policyKey)
	if err != nil {
		t.Fatal(err)
	}
	return f.send(t, method, host, path+"?api-version=2021-04-12", body,
		append([]string{"Authorization", attest.NewToken(host, key, f.time.Add(time.Hour), "iothubowner")}, header...)...)
}

func (f *apiFixture) send(t *testing.T, method, host, path, body string, header ...string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, f.server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := f.server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(data)}
}

// refusal checks an error's two members that SDKs parse.
func refusal(t *testing.T, what string, got reply, status int, code string) {
	t.Helper()
	var body struct{ Message, ExceptionMessage string }
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatalf("%s: %v in %q", what, err, got.body)
	}
	if got.status != status || !strings.HasPrefix(body.Message, "ErrorCode:"+code+";") ||
		!regexp.MustCompile(`^Tracking ID:[0-9a-f]{32}-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$`).MatchString(body.ExceptionMessage) {
		t.Errorf("%s: got %d %s, want %d %s", what, got.status, got.body, status, code)
	}
}

func TestAPIDevices(t *testing.T) {
	t.Parallel()
	f := newAPI(t)
	refusal(t, "GET of none", f.call(t, "GET", hubA, "/devices/d", ""), 404, "DeviceNotFound")
	made := f.call(t, "PUT", hubA, "/devices/d", `{"deviceId":"d"}`)
	if made.status != 200 {
		t.Fatalf("PUT: %+v", made)
	}
	var device hub.Device
	if err := json.Unmarshal([]byte(made.body), &device); err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(*device.Authentication.SymmetricKey.Primary)
	if err != nil || len(key) != 32 || device.Status != "enabled" || made.header.Get("ETag") != `"`+device.ETag+`"` {
		t.Errorf("made %s, ETag %s", made.body, made.header.Get("ETag"))
	}
	refusal(t, "PUT again", f.call(t, "PUT", hubA, "/devices/d", `{"deviceId":"d"}`), 409, "DeviceAlreadyExists")
	refusal(t, "PUT of another ID", f.call(t, "PUT", hubA, "/devices/d", `{"deviceId":"e"}`), 400, "ArgumentInvalid")
	refusal(t, "PUT with an old ETag", f.call(t, "PUT", hubA, "/devices/d", `{"deviceId":"d"}`, "If-Match", `"AAAAAAAAAAk="`), 412, "PreconditionFailed")
	refusal(t, "update of none", f.call(t, "PUT", hubA, "/devices/e", `{"deviceId":"e"}`, "If-Match", "*"), 404, "DeviceNotFound")
	refusal(t, "a wrong status", f.call(t, "PUT", hubA, "/devices/e", `{"deviceId":"e","status":"off"}`), 400, "ArgumentInvalid")
	refusal(t, "a key that is none", f.call(t, "PUT", hubA, "/devices/e", `{"deviceId":"e","authentication":{"symmetricKey":{"primaryKey":"?"}}}`), 400, "ArgumentInvalid")
	refusal(t, "an ID that is none", f.call(t, "PUT", hubA, "/devices/a%20b", `{"deviceId":"a b"}`), 400, "ArgumentInvalid")
	refusal(t, "no JSON", f.call(t, "PUT", hubA, "/devices/e", `{`), 400, "ArgumentInvalid")

	session, err := f.Connect(hubA, "d", false)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	changed := f.call(t, "PUT", hubA, "/Devices/d", `{"deviceId":"d","status":"disabled","statusReason":"lost"}`, "If-Match", made.header.Get("ETag"))
	if err := json.Unmarshal([]byte(changed.body), &device); err != nil {
		t.Fatal(err)
	}
	if changed.status != 200 || device.Status != "disabled" || *device.StatusReason != "lost" || changed.header.Get("ETag") == made.header.Get("ETag") {
		t.Errorf("changed: %+v", changed)
	}
	if again, _ := base64.StdEncoding.DecodeString(*device.Authentication.SymmetricKey.Primary); string(again) != string(key) {
		t.Error("the change made other keys")
	}
	if _, open := <-session.Desired; open {
		t.Error("a disabled device stays connected")
	}
	if got := f.call(t, "GET", hubA, "/statistics/devices", ""); got.body != `{"totalDeviceCount":1,"enabledDeviceCount":0,"disabledDeviceCount":1}` {
		t.Errorf("statistics: %+v", got)
	}
	if got := f.call(t, "GET", hubA, "/devices", ""); !strings.HasPrefix(got.body, `[{"deviceId":"d",`) {
		t.Errorf("list: %+v", got)
	}
	if got := f.call(t, "GET", hubB, "/devices", ""); got.body != `[]` {
		t.Errorf("list of another hub: %+v", got)
	}
	refusal(t, "DELETE with an old ETag", f.call(t, "DELETE", hubA, "/devices/d", "", "If-Match", made.header.Get("ETag")), 412, "PreconditionFailed")
	if got := f.call(t, "DELETE", hubA, "/devices/d", "", "If-Match", "*"); got.status != 204 || got.body != "" {
		t.Errorf("DELETE: %+v", got)
	}
	refusal(t, "DELETE again", f.call(t, "DELETE", hubA, "/devices/d", ""), 404, "DeviceNotFound")
}

// TestAPIBulk writes several devices with one call, as the registry SDKs do for addDevices and its siblings.
func TestAPIBulk(t *testing.T) {
	t.Parallel()
	f := newAPI(t)
	const fine = `{"isSuccessful":true,"errors":[],"warnings":[]}`
	errorOf := func(id, code string) string {
		return `{"isSuccessful":false,"errors":[{"deviceId":"` + id + `","errorCode":"` + code + `","errorStatus":"`
	}
	for _, test := range []struct {
		name, body string
		status     int
		want       string // beginning of the answer
	}{
		{"create", `[{"id":"a","importMode":"create","tags":{"line":1},"properties":{"desired":{"n":1}}},{"id":"b","importMode":"create","status":"disabled"}]`, 200, fine},
		{"create again, and another", `[{"id":"a","importMode":"create"},{"id":"c","importMode":"Create"}]`, 400, errorOf("a", "DeviceAlreadyExists")},
		{"create or update", `[{"id":"b","importMode":"createOrUpdate"},{"id":"d"}]`, 200, fine},
		{"update", `[{"id":"a","importMode":"update","capabilities":{"iotEdge":true}}]`, 200, fine},
		{"update of none", `[{"id":"e","importMode":"update"}]`, 400, errorOf("e", "DeviceNotFound")},
		{"an old ETag", `[{"id":"a","importMode":"updateIfMatchETag","eTag":"AAAAAAAAAAk="}]`, 400, errorOf("a", "PreconditionFailed")},
		{"no ETag", `[{"id":"a","importMode":"deleteIfMatchETag"}]`, 400, errorOf("a", "ArgumentInvalid")},
		{"a twin", `[{"id":"a","importMode":"updateTwin","tags":{"line":2},"properties":{"desired":{"m":1}}}]`, 200, fine},
		{"a twin with an old ETag", `[{"id":"a","importMode":"updateTwinIfMatchETag","twinETag":"AAAAAAAAAAk="}]`, 400, errorOf("a", "PreconditionFailed")},
		{"delete", `[{"id":"c","importMode":"delete"},{"id":"d","importMode":"deleteIfMatchETag","eTag":"*"}]`, 200, fine},
		{"an unknown mode", `[{"id":"a","importMode":"upsert"}]`, 400, errorOf("a", "ArgumentInvalid")},
		{"too many", `[` + strings.Repeat(`{"id":"x"},`, 100) + `{"id":"x"}]`, 400, `{"ExceptionMessage"`},
		{"no array", `{}`, 400, `{"ExceptionMessage"`},
	} {
		if got := f.call(t, "POST", hubA, "/devices", test.body); got.status != test.status || !strings.HasPrefix(got.body, test.want) {
			t.Errorf("%s: %d %s, want %d %s", test.name, got.status, got.body, test.status, test.want)
		}
	}
	a, err := f.Twin(hubA, "a")
	if err != nil {
		t.Fatal(err)
	}
	if tags, desired := fmt.Sprint(a.Tags), fmt.Sprint(a.Properties.Desired["n"], a.Properties.Desired["m"]); tags != "map[line:2]" || desired != "11" || !a.Capabilities.IoTEdge {
		t.Errorf("a: %+v", a)
	}
	if devices, _, err := f.Devices(hubA, "", 10); err != nil || len(devices) != 2 || devices[1].Status != "enabled" {
		t.Errorf("%+v, %v", devices, err)
	}
}

// TestAPIOfDevices shows a device that calls its hub over HTTPS with its own token that this is not supported, where
// the token of a policy is otherwise what is missing.
func TestAPIOfDevices(t *testing.T) {
	t.Parallel()
	f := newAPI(t)
	token := attest.NewToken(hubA+"/devices/d", []byte("a key"), f.time.Add(time.Hour), "")
	for _, call := range [][2]string{
		{"POST", "/devices/d/messages/events"}, {"GET", "/devices/d/messages/deviceBound"}, {"DELETE", "/devices/d/messages/deviceBound/x"},
		{"POST", "/devices/d/files"}, {"GET", "/devices/d/modules"},
	} {
		got := f.send(t, call[0], hubA, call[1]+"?api-version=2021-04-12", "", "Authorization", token)
		refusal(t, call[1], got, 400, "NotSupported")
		if !strings.Contains(got.body, "is not supported here: devices of this stand-in use MQTT") {
			t.Errorf("%s: %s", call[1], got.body)
		}
	}
	refusal(t, "jobs", f.call(t, "GET", hubA, "/jobs/v2/x", ""), 404, "NotFound")
}

func TestAPITwins(t *testing.T) {
	t.Parallel()
	f := newAPI(t)
	refusal(t, "GET of none", f.call(t, "GET", hubA, "/twins/d", ""), 404, "DeviceNotFound")
	f.create(t, hubA, "d", `{"tags":{"site":"oslo"},"properties":{"desired":{"a":1}}}`)
	read := f.call(t, "GET", hubA, "/twins/d", "")
	etag := read.header.Get("ETag")
	var twin map[string]any
	if err := json.Unmarshal([]byte(read.body), &twin); err != nil {
		t.Fatal(err)
	}
	if read.status != 200 || etag != `"AAAAAAAAAAE="` || twin["etag"] != "AAAAAAAAAAE=" || twin["connectionState"] != "Disconnected" || twin["authenticationType"] != "sas" {
		t.Errorf("GET: %s %s", etag, read.body)
	}
	patched := f.call(t, "PATCH", hubA, "/twins/d", `{"tags":{"site":null,"floor":2},"properties":{"desired":{"a":2}}}`, "If-Match", etag)
	if patched.status != 200 || patched.header.Get("ETag") != `"AAAAAAAAAAI="` || !strings.Contains(patched.body, `"tags":{"floor":2}`) || !strings.Contains(patched.body, `"$version":2`) {
		t.Errorf("PATCH: %+v", patched)
	}
	refusal(t, "PATCH with an old ETag", f.call(t, "PATCH", hubA, "/twins/d", `{"tags":{}}`, "If-Match", etag), 412, "PreconditionFailed")
	if got := f.call(t, "PATCH", hubA, "/twins/d", `{"tags":{"x":1}}`, "If-Match", "*"); got.status != 200 {
		t.Errorf("PATCH whatever the ETag: %+v", got)
	}
	if _, err := f.UpdateReported(hubA, "d", []byte(`{"fw":1}`)); err != nil {
		t.Fatal(err)
	}
	if got := f.call(t, "PUT", hubA, "/twins/d", `{"tags":{"only":1}}`, "If-Match", `"AAAAAAAAAAM="`); got.status != 200 || !strings.Contains(got.body, `"tags":{"only":1}`) {
		t.Errorf("PUT, with the ETag of before the reported change, which does not count: %+v", got)
	}
	refusal(t, "too much", f.call(t, "PATCH", hubA, "/twins/d", `{"tags":{"x":"`+strings.Repeat("x", 300<<10)+`"}}`), 413, "RequestTooLarge")
	refusal(t, "a limit", f.call(t, "PATCH", hubA, "/twins/d", `{"tags":{"a.b":1}}`), 400, "ArgumentInvalid")
	refusal(t, "another method", f.call(t, "POST", hubA, "/twins/d", `{}`), 405, "MethodNotAllowed")
	refusal(t, "another path", f.call(t, "GET", hubA, "/jobs/v2", ""), 404, "NotFound")
}

func TestAPIQuery(t *testing.T) {
	t.Parallel()
	f := newAPI(t)
	for i := range 5 {
		f.create(t, hubA, fmt.Sprintf("d%d", i), "")
	}
	f.create(t, hubB, "elsewhere", "")
	ids := func(r reply) string {
		var twins []hub.Twin
		if err := json.Unmarshal([]byte(r.body), &twins); err != nil {
			t.Fatalf("%v in %+v", err, r)
		}
		var all []string
		for _, twin := range twins {
			all = append(all, twin.DeviceID)
		}
		return strings.Join(all, " ")
	}
	const all = `{"query":"SELECT * FROM devices"}`
	if got := f.call(t, "POST", hubA, "/devices/query", all); ids(got) != "d0 d1 d2 d3 d4" || got.header.Get("x-ms-continuation") != "" || got.header.Get("x-ms-item-type") != "Twin" {
		t.Errorf("all: %+v", got)
	}
	var pages []string
	continuation := ""
	for range 10 {
		got := f.call(t, "POST", hubA, "/devices/query", all, "x-ms-max-item-count", "2", "x-ms-continuation", continuation)
		pages = append(pages, ids(got))
		if continuation = got.header.Get("x-ms-continuation"); continuation == "" {
			break
		}
	}
	if got := strings.Join(pages, "|"); got != "d0 d1|d2 d3|d4" {
		t.Errorf("pages: %s", got)
	}
	for query, want := range map[string]string{
		`select * from devices where deviceId = 'd3'`:         "d3",
		`SELECT  *  FROM devices WHERE deviceid='d1' `:        "d1",
		`SELECT * FROM devices WHERE deviceId = 'd9'`:         "",
		`SELECT * FROM devices WHERE deviceId = \"d2\"`:       "d2",
		`SELECT * FROM devices WHERE deviceId = 'elsewhere';`: "",
	} {
		if got := f.call(t, "POST", hubA, "/devices/query", `{"query":"`+query+`"}`); got.status != 200 || ids(got) != want {
			t.Errorf("%s: %+v", query, got)
		}
	}
	for _, body := range []string{`{"query":"SELECT deviceId FROM devices"}`, `{"query":"SELECT * FROM devices WHERE tags.a = 1"}`, `{}`, `[`} {
		refusal(t, body, f.call(t, "POST", hubA, "/devices/query", body), 400, "ArgumentInvalid")
	}
	refusal(t, "a wrong page size", f.call(t, "POST", hubA, "/devices/query", all, "x-ms-max-item-count", "many"), 400, "ArgumentInvalid")
	refusal(t, "a wrong continuation", f.call(t, "POST", hubA, "/devices/query", all, "x-ms-continuation", "!"), 400, "ArgumentInvalid")
}

func TestAPIAuthentication(t *testing.T) {
	t.Parallel()
	f := newAPI(t)
	key, err := base64.StdEncoding.DecodeString(policyKey)
	if err != nil {
		t.Fatal(err)
	}
	other := []byte("another")
	hour := f.time.Add(time.Hour)
	for _, test := range []struct{ name, host, path, token, want string }{
		{"the policy", hubA, "/devices?api-version=1", attest.NewToken(hubA, key, hour, "iothubowner"), ""},
		{"the policy, with a port", hubA + ":8443", "/devices?api-version=1", attest.NewToken(hubA, key, hour, "iothubowner"), ""},
		{"a token for a part of the hub", hubA, "/devices/d?api-version=1", attest.NewToken(hubA+"/devices", key, hour, "iothubowner"), "404 DeviceNotFound"},
		{"a token for another part", hubA, "/twins/d?api-version=1", attest.NewToken(hubA+"/devices", key, hour, "iothubowner"), "401 IotHubUnauthorizedAccess"},
		{"a resource that is a prefix but no part", hubA, "/devices?api-version=1", attest.NewToken(hubA[:len(hubA)-1], key, hour, "iothubowner"), "401 IotHubUnauthorizedAccess"},
		{"another key", hubA, "/devices?api-version=1", attest.NewToken(hubA, other, hour, "iothubowner"), "401 IotHubUnauthorizedAccess"},
		{"another policy", hubA, "/devices?api-version=1", attest.NewToken(hubA, key, hour, "service"), "401 IotHubUnauthorizedAccess"},
		{"another hub's token", hubA, "/devices?api-version=1", attest.NewToken(hubB, key, hour, "iothubowner"), "401 IotHubUnauthorizedAccess"},
		{"a token that is over", hubA, "/devices?api-version=1", attest.NewToken(hubA, key, f.time, "iothubowner"), "401 IotHubUnauthorizedAccess"},
		{"no token", hubA, "/devices?api-version=1", "", "401 IotHubUnauthorizedAccess"},
		{"no api-version", hubA, "/devices", attest.NewToken(hubA, key, hour, "iothubowner"), "400 InvalidProtocolVersion"},
		{"no such hub", "none.azure-devices.net", "/devices?api-version=1", attest.NewToken("none.azure-devices.net", key, hour, "iothubowner"), "404 IotHubNotFound"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := f.send(t, "GET", test.host, test.path, "", "Authorization", test.token)
			if test.want == "" {
				if got.status != 200 {
					t.Errorf("%+v", got)
				}
				return
			}
			var status int
			var code string
			if _, err := fmt.Sscan(test.want, &status, &code); err != nil {
				t.Fatal(err)
			}
			refusal(t, test.name, got, status, code)
		})
	}
}

// FuzzAPI sends arbitrary calls with a valid token: each must be answered in JSON, and never with a failure of the
// stand-in.
func FuzzAPI(f *testing.F) {
	for _, seed := range []struct{ method, path, ifMatch, body string }{
		{"PUT", "/devices/d", "", `{"deviceId":"d","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"AA"}}}`},
		{"PUT", "/devices/e", `"AAAAAAAAAAE=", *`, `{"deviceId":"e","capabilities":null,"authentication":{"symmetricKey":{"primaryKey":"AA=="}}}`},
		{"PATCH", "/twins/e", "*", `{"tags":{"a":1},"properties":{"desired":null}}`},
		{"POST", "/devices/query", "", `{"query":"SELECT * FROM devices WHERE deviceId = 'e'"}`},
		{"GET", "/devices", "", ""}, {"DELETE", "/devices/e", "", ""}, {"GET", "/devices/%2f", "", ""}, {"GET", "//", "", ""},
	} {
		f.Add(seed.method, seed.path, seed.ifMatch, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, method, path, ifMatch string, body []byte) {
		s := newHubStore()
		s.create(t, hubA, "e", `{"tags":{"a":1}}`)
		handler := web.HubAPI(s.Registry, hub.Policy{Name: "iothubowner", PrimaryKey: policyKey}, hubA)
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Host != "" {
			t.Skip()
		}
		query := u.Query()
		query.Set("api-version", "1")
		u.RawQuery = query.Encode()
		key, _ := base64.StdEncoding.DecodeString(policyKey)
		request := &http.Request{
			Method: method, URL: u, Host: hubA, Body: io.NopCloser(bytes.NewReader(body)),
			Header: http.Header{"Authorization": {attest.NewToken(hubA, key, s.time.Add(time.Hour), "iothubowner")}, "If-Match": {ifMatch}},
		}
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, request.WithContext(t.Context()))
		if response.Code >= 500 || response.Code != http.StatusNoContent && !json.Valid(response.Body.Bytes()) {
			t.Errorf("%s %s: %d %s", method, path, response.Code, response.Body)
		}
		for _, id := range []string{"d", "e"} {
			if d, err := s.Device(hubA, id); err == nil {
				keys, thumbprints := d.Authentication.SymmetricKey, d.Authentication.X509Thumbprint
				if (keys.Primary == nil) == (thumbprints.Primary == nil && thumbprints.Secondary == nil) {
					t.Errorf("neither keys nor thumbprints, or both: %+v", d)
				}
			}
		}
	})
}
