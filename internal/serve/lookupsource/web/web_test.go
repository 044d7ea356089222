package web_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net"
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
	"github.com/usher-dps/usher/internal/serve/lookupsource/web"
	"github.com/usher-dps/usher/lookup"
)

func serve(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewTLSServer(handle)
	t.Cleanup(server.Close)
	return server
}

// source asks a server, with path as the template's path and query.
func source(t *testing.T, server *httptest.Server, path string, change func(*web.Options)) *web.Source {
	t.Helper()
	template, err := web.ParseTemplate(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	options := web.Options{Template: template, Transport: server.Client().Transport}
	if change != nil {
		change(&options)
	}
	return web.New(options)
}

func kindOf(err error) fault.Kind {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Kind
	}
	return ""
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const ok = http.StatusOK
	long := `{"hub": "` + strings.Repeat("h", 64<<10) + `"}`
	for name, test := range map[string]struct {
		status int
		body   string
		want   map[string]any
		kind   fault.Kind
		text   string
	}{
		"a row":            {ok, `{"hub": "h", "n": 9007199254740993, "list": [1.50, null]}`, map[string]any{"hub": "h", "n": json.Number("9007199254740993"), "list": []any{json.Number("1.50"), nil}}, "", ""},
		"an empty row":     {ok, ` {} `, map[string]any{}, "", ""},
		"not found":        {http.StatusNotFound, `{"error": "no such device"}`, nil, "", ""},
		"no content":       {http.StatusNoContent, "", nil, "", ""},
		"null":             {ok, "null", nil, fault.Schema, "not a JSON object"},
		"a list":           {ok, `[{"hub": "SECRET"}]`, nil, fault.Schema, "not a JSON object"},
		"a page":           {ok, "<html>SECRET</html>", nil, fault.Schema, "not a JSON object"},
		"nothing":          {ok, "", nil, fault.Schema, "not a JSON object"},
		"a member twice":   {ok, `{"hub": "SECRET", "hub": "b"}`, nil, fault.Schema, "each member once"},
		"two objects":      {ok, `{"hub": "SECRET"}{}`, nil, fault.Schema, "not a JSON object"},
		"not UTF-8":        {ok, "{\"hub\": \"SECRET\xff\"}", nil, fault.Schema, "not a JSON object"},
		"too long":         {ok, long, nil, fault.Schema, "more than 65536 bytes"},
		"created":          {http.StatusCreated, `{"hub": "SECRET"}`, nil, fault.Refused, "201 Created"},
		"bad request":      {http.StatusBadRequest, "SECRET", nil, fault.Refused, "400 Bad Request"},
		"unauthorized":     {http.StatusUnauthorized, "SECRET", nil, fault.Denied, "401 Unauthorized"},
		"forbidden":        {http.StatusForbidden, "SECRET", nil, fault.Denied, "403 Forbidden"},
		"throttled":        {http.StatusTooManyRequests, "SECRET", nil, fault.Unavailable, "429 Too Many Requests"},
		"internal":         {http.StatusInternalServerError, "SECRET", nil, fault.Unavailable, "500 Internal Server Error"},
		"unavailable":      {http.StatusServiceUnavailable, "SECRET", nil, fault.Unavailable, "503"},
		"redirect":         {http.StatusFound, "", nil, fault.Refused, "302 Found, and redirects are not followed"},
		"a status unknown": {299, "SECRET", nil, fault.Refused, "answers 299"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/elsewhere" {
					t.Error("a redirect was followed")
				}
				w.Header().Set("ETag", `"v1"`)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			})
			got, err := source(t, server, "/{key}", nil).Find(t.Context(), "press-1")
			if test.kind != "" {
				if kindOf(err) != test.kind || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "press") {
					t.Errorf("got %v", err)
				}
				return
			}
			want := lookup.Answer{Row: test.want}
			if want.Row != nil {
				want.Version = `"v1"`
			}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

// A bomb is not unpacked.
func TestCompressed(t *testing.T) {
	t.Parallel()
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		spaces := []byte(strings.Repeat(" ", 1<<20))
		for range 64 {
			if _, err := z.Write(spaces); err != nil {
				return
			}
		}
		_ = z.Close()
	})
	if _, err := source(t, server, "/{key}", nil).Find(t.Context(), "press-1"); kindOf(err) != fault.Schema {
		t.Errorf("got %v", err)
	}
}

// Every key arrives as it is, in one segment of the path or one value of the query, or is not sent at all.
func TestHostileKeys(t *testing.T) {
	t.Parallel()
	asked := make(chan *http.Request, 1)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		_, _ = w.Write([]byte(`{}`))
	})
	keys := []string{
		"press-1", "a/b", `a\b`, "a?b=c", "a#b", "a&code=x", "a=b", "a+b", "a b", "a%2fb", "%2e%2e", "..%2f", "a;b", "a:b", "//host/", "@host", "'--", `"`, "ключ", "\x00", "a\r\nb",
		strings.Repeat("x", 128), "...", ".a", "a.", "{key}",
	}
	inPath := source(t, server, "/v1/devices/{key}/row", nil)
	inQuery := source(t, server, "/v1?id={key}&view=usher", nil)
	for _, key := range append(keys, ".", "..", "../x", "a/../b", `a\..\b`, "/./", "/..") {
		if _, err := inQuery.Find(t.Context(), key); err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		r := <-asked
		if diff := cmp.Diff(url.Values{"id": {key}, "view": {"usher"}}, r.URL.Query()); diff != "" || r.URL.Path != "/v1" {
			t.Errorf("%q: %s", key, diff)
		}
	}
	for _, key := range keys {
		if _, err := inPath.Find(t.Context(), key); err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		r := <-asked
		if r.URL.Path != "/v1/devices/"+key+"/row" || strings.Count(r.URL.EscapedPath(), "/") != 4 || r.URL.RawQuery != "" || r.RequestURI != r.URL.EscapedPath() || strings.Contains(r.RequestURI, ".") {
			t.Errorf("%q: asked for %s", key, r.RequestURI)
		}
	}
	for _, key := range []string{".", "..", "../x", "a/../b", `a\..\b`, "/./", "/..", "./."} {
		if got, err := inPath.Find(t.Context(), key); err != nil || got.Row != nil {
			t.Errorf("%q: got %v, %v", key, got, err)
		}
	}
	if _, err := source(t, server, "/.{key}/x", nil).Find(t.Context(), "."); err != nil {
		t.Error(err)
	}
	select {
	case r := <-asked:
		t.Errorf("asked for %s", r.RequestURI)
	default:
	}
}

type identity struct {
	t   *testing.T
	err error
}

func (i identity) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if diff := cmp.Diff([]string{"api://devices/.default"}, options.Scopes); diff != "" {
		i.t.Error(diff)
	}
	return azcore.AccessToken{Token: "a-token"}, i.err
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	var got http.Header
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.WriteHeader(http.StatusNotFound)
	})
	for name, test := range map[string]struct {
		change func(*web.Options)
		header string
		want   string
	}{
		"none":    {nil, "Authorization", ""},
		"token":   {func(o *web.Options) { o.Audience, o.Credential = "api://devices", identity{t: t} }, "Authorization", "Bearer a-token"},
		"a slash": {func(o *web.Options) { o.Audience, o.Credential = "api://devices/", identity{t: t} }, "Authorization", "Bearer a-token"},
		"header":  {func(o *web.Options) { o.Header = web.Header{Name: "X-Api-Key", Value: "0123"} }, "X-Api-Key", "0123"},
	} {
		if _, err := source(t, server, "/{key}", test.change).Find(t.Context(), "press-1"); err != nil || got.Get(test.header) != test.want {
			t.Errorf("%s: got %q, %v", name, got.Get(test.header), err)
		}
	}
	s := source(t, server, "/{key}", func(o *web.Options) {
		o.Audience, o.Credential = "api://devices", identity{t: t, err: errors.New("no identity")}
	})
	got = nil
	for _, err := range []error{s.Prepare(t.Context()), find(t.Context(), s)} {
		if kindOf(err) != fault.Denied || err.Error() != "no token for api://devices: no identity" || got != nil {
			t.Errorf("got %v", err)
		}
	}
}

func find(ctx context.Context, s *web.Source) error {
	_, err := s.Find(ctx, "press-1")
	return err
}

// What happens to a connection is a fault whose text has nothing of the key, the URL's query, or what was received.
func TestConnections(t *testing.T) {
	t.Parallel()
	silent := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"hub": "SECRET`))
		panic(http.ErrAbortHandler)
	})
	noise, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = noise.Close() })
	go func() {
		for {
			c, err := noise.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = c.Write([]byte("HTTP/1.1 SECRET SECRET\r\nSECRET\r\n\r\n"))
			_ = c.Close()
		}
	}()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	closed := httptest.NewTLSServer(nil)
	closed.Close()
	for name, test := range map[string]struct {
		url       string
		transport http.RoundTripper
		kind      fault.Kind
		text      string
	}{
		"silent":    {silent.URL, silent.Client().Transport, fault.Timeout, "no answer in time"},
		"cut":       {cut.URL, cut.Client().Transport, fault.Unreachable, "the connection broke before the answer was complete"},
		"noise":     {"http://" + noise.Addr().String(), nil, fault.Unreachable, "the connection broke before the answer was complete"},
		"no TLS":    {"https://" + plain.Listener.Addr().String(), nil, fault.Unreachable, "it speaks http, not https"},
		"untrusted": {silent.URL, nil, fault.Unreachable, "its certificate is not trusted: x509: "},
		"closed":    {closed.URL, nil, fault.Unreachable, "no connection: dial tcp 127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			template, err := web.ParseTemplate(test.url + "/{key}?code=SECRET")
			if err != nil {
				t.Fatal(err)
			}
			limit := 10 * time.Second
			if test.kind == fault.Timeout {
				limit = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err = web.New(web.Options{Template: template, Transport: test.transport}).Find(ctx, "SECRET")
			if kindOf(err) != test.kind || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("got %q: %v", kindOf(err), err)
			}
		})
	}
}

func TestWrongTemplates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                   "no place for the key",
		"https://h/devices":                  "no place for the key",
		"https://{key}.example.com/":         "not decide the host",
		"https://h:{key}/x":                  "not a URL",
		"https://:/{key}":                    "not a URL",
		"https://:443/{key}":                 "not a URL",
		"{key}://h/x":                        "not a URL",
		"/{key}":                             "not a URL",
		"ftp://h/{key}":                      "not a URL",
		"http://example.com/{key}":           "http is allowed only",
		"https://u:p@h/{key}":                "user name or a password",
		"https://{key}@h/x":                  "user name or a password",
		"https://h/x?{key}=1":                "not be the name of a parameter",
		"https://h/{key}#x":                  "a fragment is not sent",
		"https://h/x#{key}":                  "a fragment is not sent",
		"https://h/{key}?a=%zz":              "malformed",
		"https://h/%zz{key}":                 "not a URL",
		"https://h/{key}?a=1;b=2":            "malformed",
		"https://h.example.com\\@evil/{key}": "not a URL",
	} {
		if _, err := web.ParseTemplate(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", text, err)
		}
	}
	for _, text := range []string{"https://h/{key}", "https://h:8443/a/{key}/b?x={key}&y=1", "https://h?x={key}", "http://127.0.0.1:80/{key}", "http://[::1]/{key}", "http://localhost/a-{key}.json"} {
		if _, err := web.ParseTemplate(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestWrongHeaders(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", "SECRET", ": SECRET", "a b: SECRET", "a: ", "a: SECRET\r\nb: c", "a: \x00SECRET", "Host: SECRET", "content-length: 1", "Transfer-Encoding: chunked"} {
		if _, err := web.ParseHeader(line); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: got %v", line, err)
		}
	}
	if h, err := web.ParseHeader("x-api-key:  a: b "); err != nil || h != (web.Header{Name: "X-Api-Key", Value: "a: b"}) {
		t.Errorf("got %v, %v", h, err)
	}
}

// Whatever the key, a request goes to the template's host and path, or none is made.
func FuzzKey(f *testing.F) {
	for _, key := range []string{"press-1", "..", "%2e%2e", "a/../b", "\x00", "ключ", `..\x`} {
		f.Add(key)
	}
	var got *http.Request
	template, err := web.ParseTemplate("https://devices.example.com/v1/{key}/row?id={key}")
	if err != nil {
		f.Fatal(err)
	}
	s := web.New(web.Options{Template: template, Transport: roundTrip(func(r *http.Request) { got = r })})
	f.Fuzz(func(t *testing.T, key string) {
		got = nil
		if _, err := s.Find(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if got == nil {
			if !strings.Contains(key, ".") {
				t.Error("no request")
			}
			return
		}
		path, query := got.URL.EscapedPath(), got.URL.Query()
		if got.URL.Host != "devices.example.com" || strings.Count(path, "/") != 3 || !strings.HasPrefix(path, "/v1/") || !strings.HasSuffix(path, "/row") ||
			got.URL.Path != "/v1/"+key+"/row" || len(query) != 1 || query.Get("id") != key {
			t.Errorf("asked for %s", got.URL)
		}
	})
}

// Whatever the setting, it is refused without a word of it, or the host of a request does not depend on the key.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"https://h/{key}", "http://localhost:80/a?b={key}", "https://{key}/", "https://h\\@{key}/x", "//{key}", "https://h:{key}", "https://:/{key}", "https://h:/{key}"} {
		f.Add(text, "evil.example.com")
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		template, err := web.ParseTemplate(text)
		if err != nil {
			return
		}
		hosts := map[string]bool{}
		s := web.New(web.Options{Template: template, Transport: roundTrip(func(r *http.Request) { hosts[r.URL.Scheme+"://"+r.URL.Host] = true })})
		for _, key := range []string{key, "press-1"} {
			if _, err := s.Find(t.Context(), key); err != nil {
				t.Error(err)
			}
		}
		if len(hosts) > 1 {
			t.Errorf("asked %v", hosts)
		}
	})
}

type roundTrip func(*http.Request)

func (r roundTrip) RoundTrip(request *http.Request) (*http.Response, error) {
	r(request)
	return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody}, nil
}
