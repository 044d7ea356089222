package table_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/internal/serve/lookupsource/table"
	"github.com/usher-dps/usher/lookup"
)

type identity struct{ err error }

func (i identity) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if strings.Join(options.Scopes, " ") != "https://storage.azure.com/.default" {
		return azcore.AccessToken{}, errors.New("another scope")
	}
	return azcore.AccessToken{Token: "a-token", ExpiresOn: time.Now().Add(time.Hour)}, i.err
}

// storage stands in for the Table service. The last request is in asked.
type storage struct {
	*httptest.Server
	asked  chan string // paths as they were sent
	status int
	code   string
	body   string
}

func serve(t *testing.T, status int, code, body string) *storage {
	t.Helper()
	s := &storage{asked: make(chan string, 1), status: status, code: code, body: body}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer a-token" || r.URL.RawQuery != "" {
			t.Errorf("%s %s with %q", r.Method, r.URL, r.Header.Get("Authorization"))
		}
		s.asked <- r.RequestURI
		w.Header().Set("Content-Type", "application/json;odata=minimalmetadata")
		if s.code != "" {
			w.Header().Set("x-ms-error-code", s.code)
		} else {
			w.Header().Set("ETag", `W/"datetime'2026-01-01T00%3A00%3A00Z'"`)
		}
		w.WriteHeader(s.status)
		_, _ = w.Write([]byte(s.body))
	}))
	t.Cleanup(s.Close)
	return s
}

func source(t *testing.T, s *storage, query string) *table.Source {
	t.Helper()
	location, err := table.ParseLocation("table:" + s.URL + "/account/devices?" + query)
	if err != nil {
		t.Fatal(err)
	}
	source, err := table.New(table.Options{Location: location, Credential: identity{}, Transport: s.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func kindOf(err error) fault.Kind {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Kind
	}
	return ""
}

// An entity becomes a row without what the service adds. The body is that of the protocol's documentation, with all
// types.
func TestEntity(t *testing.T) {
	t.Parallel()
	s := serve(t, http.StatusOK, "", `{
		"odata.metadata": "https://a.table.core.windows.net/$metadata#devices/@Element", "odata.etag": "W/\"1\"",
		"PartitionKey": "device", "RowKey": "press-1", "Timestamp": "2026-01-01T00:00:00Z",
		"hub": "h", "open": true, "count": 7, "size": 1.5,
		"serial@odata.type": "Edm.Int64", "serial": "9007199254740993",
		"since@odata.type": "Edm.DateTime", "since": "2026-01-01T00:00:00Z",
		"id@odata.type": "Edm.Guid", "id": "00000000-0000-0000-0000-000000000001",
		"key@odata.type": "Edm.Binary", "key": "AAEC",
		"odd@odata.type": "Edm.Double", "odd": "NaN"
	}`)
	got, err := source(t, s, "partition=device&row={key}").Find(t.Context(), "press-1")
	want := lookup.Answer{Version: `W/"datetime'2026-01-01T00%3A00%3A00Z'"`, Row: map[string]any{
		"hub": "h", "open": true, "count": json.Number("7"), "size": json.Number("1.5"), "serial": json.Number("9007199254740993"),
		"since": "2026-01-01T00:00:00Z", "id": "00000000-0000-0000-0000-000000000001", "key": "AAEC", "odd": "NaN",
	}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if got := <-s.asked; got != "/account/devices(PartitionKey='device',RowKey='press-1')" {
		t.Errorf("asked for %s", got)
	}
}

// Only that there is no such entity means that there is no row.
func TestFaults(t *testing.T) {
	t.Parallel()
	const role = "the identity needs the role Storage Table Data Reader"
	for name, test := range map[string]struct {
		status     int
		code, body string
		kind       fault.Kind
		text       string
	}{
		"no entity":       {http.StatusNotFound, "ResourceNotFound", "", "", ""},
		"no entity, too":  {http.StatusNotFound, "EntityNotFound", "", "", ""},
		"no table":        {http.StatusNotFound, "TableNotFound", "", fault.Refused, "it answers 404 Not Found (TableNotFound): there is no table devices"},
		"not the service": {http.StatusNotFound, "", "", fault.Refused, "it answers 404 Not Found"},
		"no role":         {http.StatusForbidden, "AuthorizationPermissionMismatch", "", fault.Denied, "it answers 403 Forbidden (AuthorizationPermissionMismatch): " + role},
		"firewall":        {http.StatusForbidden, "AuthorizationFailure", "", fault.Denied, "it answers 403 Forbidden (AuthorizationFailure): the account's network rules"},
		"no token":        {http.StatusUnauthorized, "InvalidAuthenticationInfo", "", fault.Denied, "it answers 401 Unauthorized (InvalidAuthenticationInfo): " + role},
		"busy":            {http.StatusServiceUnavailable, "ServerBusy", "", fault.Unavailable, "it answers 503 Service Unavailable (ServerBusy)"},
		"unknown code":    {http.StatusBadRequest, "SECRET", "", fault.Refused, "it answers 400 Bad Request"},
		"redirect":        {http.StatusFound, "", "", fault.Refused, "it answers 302 Found"},
		"not JSON":        {http.StatusOK, "", "<html>SECRET", fault.Schema, "not an entity in JSON"},
		"cut off":         {http.StatusOK, "", `{"PartitionKey": "device", "hub": "SECRET`, fault.Schema, "not an entity in JSON"},
		"too long":        {http.StatusOK, "", `{"PartitionKey": "device", "RowKey": "press-1", "hub": "` + strings.Repeat("h", 64<<10) + `"}`, fault.Schema, "at most 65536 bytes"},
		"another entity":  {http.StatusOK, "", `{"PartitionKey": "device", "RowKey": "SECRET", "hub": "SECRET"}`, fault.Refused, "an entity of other keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := source(t, serve(t, test.status, test.code, test.body), "partition=device&row={key}").Find(t.Context(), "press-1")
			if test.kind == "" {
				if err != nil || got.Row != nil {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if kindOf(err) != test.kind || !strings.HasPrefix(err.Error(), test.text) && !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "press-1") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := serve(t, http.StatusOK, "", "{}")
	one := source(t, s, "partition=device&row={key}")
	s.Close()
	if _, err := one.Find(t.Context(), "press-1"); kindOf(err) != fault.Unreachable || !strings.HasPrefix(err.Error(), "no connection: dial tcp 127.0.0.1:") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if _, err := one.Find(ctx, "press-1"); kindOf(err) != fault.Timeout {
		t.Errorf("got %v", err)
	}
}

func TestNoIdentity(t *testing.T) {
	t.Parallel()
	location, err := table.ParseLocation("https://a.table.core.windows.net/devices?partition={key}&row=device")
	if err != nil {
		t.Fatal(err)
	}
	one, err := table.New(table.Options{Location: location, Credential: identity{errors.New("no identity")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Prepare(t.Context()); kindOf(err) != fault.Denied || err.Error() != "no token for Table Storage: no identity" {
		t.Errorf("got %v", err)
	}
}

// Every key arrives as it is, within the quotes of one key of an entity, or is not sent at all.
func TestHostileKeys(t *testing.T) {
	t.Parallel()
	s := serve(t, http.StatusNotFound, "ResourceNotFound", "")
	one := source(t, s, "partition=p-{key}&row={key}")
	for _, key := range []string{"press-1", "..", ".", "it's", "''", "',RowKey='x", "') or ('1' eq '1", "%2f", "%27", "a b", "a+b", "a&b", "a;b", "ключ", "(x)", "{rowKey}", "{key}", `"`, strings.Repeat("x", 510)} {
		if _, err := one.Find(t.Context(), key); err != nil {
			t.Errorf("%q: %v", key, err)
			continue
		}
		asked := <-s.asked
		path, err := url.PathUnescape(asked)
		quoted := strings.ReplaceAll(key, "'", "''")
		if want := "/account/devices(PartitionKey='p-" + quoted + "',RowKey='" + quoted + "')"; err != nil || path != want || strings.Count(asked, "/") != 2 || strings.ContainsAny(asked, "?#") {
			t.Errorf("%q: asked for %s", key, asked)
		}
	}
	for _, key := range []string{"a/b", `a\b`, "a#b", "a?b", "a\x00b", "a\tb", "a\x7fb", "a\u0085b", "../x", strings.Repeat("x", 511), strings.Repeat("\U0001F511", 256)} {
		if got, err := one.Find(t.Context(), key); err != nil || got.Row != nil {
			t.Errorf("%q: got %v, %v", key, got, err)
		}
	}
	if len(s.asked) > 0 {
		t.Errorf("asked for %s", <-s.asked)
	}
}

func TestParseLocation(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]table.Location{
		"https://contoso.table.core.windows.net/devices?partition=d&row={key}":       {Service: "https://contoso.table.core.windows.net/", Table: "devices", Partition: "d", Row: "{key}"},
		"https://contoso.table.core.chinacloudapi.cn/d1x?partition={key}&row=a{key}": {Service: "https://contoso.table.core.chinacloudapi.cn/", Table: "d1x", Partition: "{key}", Row: "a{key}"},
		"table:https://127.0.0.1:10002/account/devices?partition=d&row={key}":        {Service: "https://127.0.0.1:10002/account", Table: "devices", Partition: "d", Row: "{key}"},
	} {
		got, err := table.ParseLocation(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" || !table.Is(text) {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
	const host = "https://contoso.table.core.windows.net/"
	for text, want := range map[string]string{
		"": "not the URL of a table",
		"table:https://:443/devices?partition=a&row={key}":                        "not the URL of a table",
		"http://a.table.core.windows.net/x":                                       "not the URL of a table",
		host + "devices?partition=%zz":                                            "not the URL of a table",
		host + "devices?partition=a&row={key}#x":                                  "not the URL of a table",
		host + "?partition=a&row={key}":                                           "not the name of a table",
		host + "no-table?partition=a&row={key}":                                   "not the name of a table",
		host + "t{key}?partition=a&row={key}":                                     "must not decide the account or the table",
		"table:https://h/{key}/dev?partition=a&row={key}":                         "must not decide the account or the table",
		host + "devices?partition=a&row=b":                                        "neither partition nor row has a place for the key",
		host + "devices?row={key}":                                                "partition or row is empty",
		host + "devices?partition={key}":                                          "partition or row is empty",
		host + "devices?partition=a&row={key}&x=1":                                "has the parameters partition and row, each once",
		host + "devices?partition=a&row={key}&row=":                               "has the parameters partition and row, each once",
		host + "devices?partition=a/b&row={key}":                                  "partition has a character that Table Storage does not allow",
		host + "devices?partition=a&row={key}&sig=SECRET":                         "shared access signature is not supported",
		"https://u:SECRET@a.table.core.windows.net/devices?partition=a&row={key}": "user name or a password",
	} {
		if _, err := table.ParseLocation(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v", text, err)
		}
	}
	for _, text := range []string{"https://contoso.blob.core.windows.net/x", "https://table.core.windows.net.example.com/x", "rows.csv", "://"} {
		if table.Is(text) {
			t.Errorf("%s is taken for a table", text)
		}
	}
}

// Whatever the setting and the key, a request is for one entity of the table.
func FuzzKey(f *testing.F) {
	f.Add("https://contoso.table.core.windows.net/devices?partition=d&row={key}", "press-1")
	f.Add("table:https://127.0.0.1:10002/account/devices?partition={key}&row=r-{key}", "it's")
	f.Add("https://contoso.table.core.windows.net/devices?partition=d&row={key}", "')/x(PartitionKey='%2f")
	f.Add("https://:/A00?partition={key}&row=0", "0")
	f.Add("https://contoso.table.core.windows.net:/devices?partition=d&row={key}", "press-1")
	f.Fuzz(func(t *testing.T, text, key string) {
		location, err := table.ParseLocation(text)
		if err != nil {
			return
		}
		s, err := table.New(table.Options{Location: location, Credential: identity{}, Transport: roundTrip(func(r *http.Request) {
			path := strings.TrimPrefix(r.URL.String(), strings.TrimSuffix(location.Service, "/"))
			if !strings.HasPrefix(path, "/"+location.Table+"(PartitionKey='") || strings.Count(path, "/") != 1 || strings.ContainsAny(path, "?#") ||
				strings.Count(strings.ReplaceAll(path, "%27", "'"), "'")%2 != 0 {
				t.Errorf("asked for %s", r.URL)
			}
		})})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Find(t.Context(), key); err != nil {
			t.Error(err)
		}
	})
}

type roundTrip func(*http.Request)

func (r roundTrip) RoundTrip(request *http.Request) (*http.Response, error) {
	r(request)
	return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{"X-Ms-Error-Code": {"ResourceNotFound"}}, Body: http.NoBody}, nil
}
