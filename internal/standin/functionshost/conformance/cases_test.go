// Package conformance_test holds the cases that define the Azure Functions host: what a custom handler and its clients
// see in proxying mode. The same cases run against the stand-in and against the real host.
//
// Against the stand-in, as part of all tests:
//
//	go test ./internal/standin/functionshost/conformance
//
// Against the real host, by hand, with the Azure Functions Core Tools:
//
//	go test ./internal/standin/functionshost/conformance -run TestWriteRoot -root /tmp/root
//	(cd /tmp/root && func start)
//	FUNCTIONS_HOST_URL=http://localhost:7071 go test ./internal/standin/functionshost/conformance -run TestConformance -count=1
//
// With `func start --enableAuth`, add FUNCTIONS_HOST_AUTH=1 to run the cases about keys. The last case ends the handler
// for good, so restart the host for every run.
//
// If a case allows more than one outcome, a comment says what it depends on.
package conformance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// suite runs the cases against a host that serves the script root of writeRoot.
type suite struct {
	url     string // for example http://127.0.0.1:7071
	auth    bool   // the host enforces keys
	key     string // opens functions of level function; "" if unknown
	address string // host:port of url
}

// patience bounds every wait.
const patience = 20 * time.Second

// client follows no redirects and does not ask for compression, so it sees what was sent. It keeps no connections, so
// no case gets a connection that another case made the host cut.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// run runs all cases. It leaves the host without a handler.
func (s suite) run(t *testing.T) {
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	s.address = u.Host
	s.eventually(t, "the host accepts connections", func() bool {
		conn, err := net.DialTimeout("tcp", s.address, patience)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	// The cases of the first group leave the handler running and run in parallel; those after it kill the handler.
	t.Run("harmless", func(t *testing.T) {
		for _, c := range []struct {
			name string
			run  func(*testing.T)
		}{
			{"readiness", s.readiness}, {"start", s.start}, {"routes", s.routes}, {"own paths", s.ownPaths}, {"keys", s.keys},
			{"headers set", s.headersSet}, {"headers stripped", s.headersStripped}, {"headers joined", s.headersJoined},
			{"trace", s.trace}, {"path and query", s.pathAndQuery}, {"methods", s.methods}, {"bodies", s.bodies}, {"large body", s.largeBody},
			{"answers", s.answers}, {"streaming", s.streaming}, {"upgrade", s.upgrade},
			{"client gone", s.clientGone}, {"closed without answer", s.closedWithoutAnswer}, {"grace", s.grace}, {"truncated answer", s.truncated},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t)
			})
		}
	})
	t.Run("function timeout", s.functionTimeout)
	t.Run("exit 200", func(t *testing.T) { s.restarts(t, 200) })
	t.Run("exit 1", func(t *testing.T) { s.restarts(t, 1) })
	t.Run("exit 0", s.exitZero)
}

func (s suite) readiness(t *testing.T) {
	var first seenRequest
	s.getJSON(t, "/api/act/first", &first)
	want := seenRequest{Method: "GET", URI: "/", Proto: "HTTP/1.1", Host: first.Host, Header: http.Header{}}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("the readiness request is not the bare GET / (-want +got):\n%s", diff)
	}
	if !regexp.MustCompile(`^127\.0\.0\.1:\d+$`).MatchString(first.Host) {
		t.Errorf("Host of the readiness request is %q, want 127.0.0.1:port", first.Host)
	}
}

func (s suite) start(t *testing.T) {
	var got struct {
		Environ   map[string]string
		Args      []string
		Directory string
	}
	s.getJSON(t, "/api/act/environ", &got)
	e := got.Environ
	var first seenRequest
	s.getJSON(t, "/api/act/first", &first)
	_, port, _ := strings.Cut(first.Host, ":")
	for name, want := range map[string]string{
		"FUNCTIONS_CUSTOMHANDLER_PORT":    port,
		"FUNCTIONS_HTTPWORKER_PORT":       port,
		"FUNCTIONS_HTTPWORKER_ID":         e["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"],
		"FUNCTIONS_WORKER_RUNTIME":        "custom",
		"AZURE_FUNCTIONS_ENVIRONMENT":     "Development",
		"FUNCTIONS_CORETOOLS_ENVIRONMENT": "true",
		"FUNCTIONS_APP_ROOT_PATH":         got.Directory,
		"AzureWebJobsScriptRoot":          got.Directory,
		"WEBSITE_HOSTNAME":                "localhost:" + s.address[strings.LastIndex(s.address, ":")+1:],
		"PROBE_SPACED":                    "two words",
	} {
		if strings.TrimRight(e[name], "/") != want {
			t.Errorf("the handler's environment has %s=%q, want %q", name, e[name], want)
		}
	}
	if _, err := uuid.Parse(e["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"]); err != nil {
		t.Errorf("FUNCTIONS_CUSTOMHANDLER_WORKER_ID: %v", err)
	}
	if path := e["PATH"]; path == "" || strings.Contains(path, "existing variable") {
		t.Errorf("the handler has PATH=%q, want that of the host", path)
	}
	if diff := cmp.Diff([]string{"--split=two", "words", "--unset=", "plain"}, got.Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

func (s suite) routes(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/api/echo", 200},
		{"GET", "/api/echo/", 200},
		{"GET", "/api/echo/a/b/c", 200},
		{"GET", "/api/Echo/a", 200},
		{"GET", "/API/ECHO/a", 200},
		{"GET", "/api/%65cho/a", 200},
		{"GET", "/api/nope/../echo/a", 200},
		{"GET", "/api/./echo/a", 200},
		{"GET", "/api//echo/a", 404},
		{"GET", "/echo/a", 404},
		{"GET", "/api", 404},
		{"GET", "/api/act%2Fpid", 404},
		{"GET", "/api/act", 404},
		{"GET", "/api/act/pid/more", 404},
		{"GET", "/api/opt", 200},
		{"GET", "/api/opt/", 200},
		{"GET", "/api/opt/7", 200},
		{"GET", "/api/opt/7/8", 404},
		{"POST", "/api/postonly", 200},
		{"POST", "/api/postonly/", 200},
		{"GET", "/api/postonly", 404},
		{"OPTIONS", "/api/postonly", 404},
		{"GET", "/api/nothing", 404},
		{"GET", "/api/reserved", 404},
		{"GET", "/api/admin-tools", 404},
		{"GET", "/admin-tools", 404},
		{"GET", "/nope", 404},
		{"POST", "/nope", 404},
	} {
		response := s.raw(t, c.method+" "+c.path+" HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		if response.StatusCode != c.want {
			t.Errorf("%s %s = %d, want %d", c.method, c.path, response.StatusCode, c.want)
			continue
		}
		if c.want == 404 {
			hostError(t, response, c.method+" "+c.path)
		}
	}
}

func (s suite) ownPaths(t *testing.T) {
	webhooks := 404
	if s.auth {
		webhooks = 401
	}
	for path, want := range map[string]int{"/": 200, "/admin/host/ping": 200, "/admin/warmup": 200, "/admin/foo": 404, "/runtime/webhooks/x": webhooks} {
		if got := s.get(t, path).StatusCode; got != want {
			t.Errorf("GET %s = %d, want %d", path, got, want)
		}
	}
}

func (s suite) keys(t *testing.T) {
	closed := 200
	if s.auth {
		closed = 401
	}
	type attempt struct {
		method, path, key string
		want              int
	}
	attempts := []attempt{
		{"GET", "/api/echo/a", "", 200},
		{"GET", "/api/secret", "", closed},
		{"GET", "/api/secret", "wrong", closed},
		{"GET", "/api/secret?code=wrong", "", closed},
		{"GET", "/api/topsecret", "", closed},
		// The first match wins, in the order of folder names: shadow2 never gets a request.
		{"GET", "/api/shadow/deep", "", 200},
		{"GET", "/api/guard/deep", "", closed},
		{"GET", "/api/guard/else", "", 200},
		// guard1 accepts only GET, so a POST falls through to the open catch-all.
		{"POST", "/api/guard/deep", "", 200},
	}
	if s.auth && s.key != "" {
		attempts = append(attempts,
			attempt{"GET", "/api/secret", s.key, 200},
			attempt{"GET", "/api/secret?code=" + url.QueryEscape(s.key), "", 200},
			attempt{"GET", "/api/secret?code=wrong", s.key, 200},
			attempt{"GET", "/api/topsecret", s.key, 401},
		)
	}
	for _, c := range attempts {
		header := http.Header{}
		if c.key != "" {
			header.Set("X-Functions-Key", c.key)
		}
		response := s.do(t, c.method, c.path, header, nil)
		if response.StatusCode != c.want {
			t.Errorf("%s %s with key %q = %d, want %d", c.method, c.path, c.key, response.StatusCode, c.want)
		} else if c.want == 401 {
			hostError(t, response, c.path)
		}
	}
}

func (s suite) headersSet(t *testing.T) {
	const spoof = "spoofed"
	seen := s.echo(t, "GET", "/api/echo/a", http.Header{
		"X-Azure-Functions-Hostversion": {spoof}, "X-Azure-Functions-Invocationid": {spoof}, "X-Ms-Invocation-Id": {spoof},
		"X-Forwarded-For": {"203.0.113.9"}, "X-Forwarded-Host": {spoof}, "X-Forwarded-Proto": {"https"},
		"User-Agent": {"tester/1"}, "X-Functions-Key": {"visible"}, "X-Other": {"kept"},
	}, nil)
	id := seen.Header.Get("X-Azure-Functions-Invocationid")
	if _, err := uuid.Parse(id); err != nil {
		t.Errorf("X-Azure-Functions-InvocationId is %q: %v", id, err)
	}
	if version := seen.Header.Get("X-Azure-Functions-Hostversion"); !regexp.MustCompile(`^4\.\d+\.\d+`).MatchString(version) {
		t.Errorf("X-Azure-Functions-HostVersion is %q", version)
	}
	for name, want := range map[string]string{
		"X-Ms-Invocation-Id": id,
		"X-Forwarded-For":    "127.0.0.1",
		"X-Forwarded-Host":   s.address,
		"X-Forwarded-Proto":  "http",
		"User-Agent":         "tester/1",
		"X-Functions-Key":    "visible",
		"X-Other":            "kept",
	} {
		if diff := cmp.Diff([]string{want}, seen.Header.Values(name)); diff != "" {
			t.Errorf("%s at the handler (-want +got):\n%s", name, diff)
		}
	}
	if !regexp.MustCompile(`^127\.0\.0\.1:\d+$`).MatchString(seen.Host) || seen.Host == s.address {
		t.Errorf("Host at the handler is %q, want its own address", seen.Host)
	}
	if seen.Proto != "HTTP/1.1" {
		t.Errorf("the handler gets %s, want HTTP/1.1", seen.Proto)
	}
	if other := s.echo(t, "GET", "/api/echo/a", nil, nil).Header.Get("X-Azure-Functions-Invocationid"); other == id {
		t.Errorf("two requests have the same invocation id %s", id)
	}
}

func (s suite) headersStripped(t *testing.T) {
	stripped := []string{
		"Keep-Alive", "TE", "Alt-Svc", "Upgrade-Insecure-Requests", "HTTP2-Settings", "ALPN", "Close", "Security-Scheme", "Proxy-Connection", "Proxy-Authenticate",
		"Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Features", "Proxy-Instruction", "Forwarded", "X-Forwarded-Prefix",
	}
	kept := []string{"X-Named-By-Connection", "Proxy-Other", "Via", "Accept-Encoding", "Baggage", "Request-Id", "Correlation-Context"}
	var request strings.Builder
	request.WriteString("GET /api/echo/a HTTP/1.1\r\nHost: h\r\nConnection: X-Named-By-Connection\r\n")
	for _, name := range append(append([]string{}, stripped...), kept...) {
		fmt.Fprintf(&request, "%s: value\r\n", name)
	}
	response := s.raw(t, request.String()+"\r\n")
	var seen seenRequest
	decode(t, response, &seen)
	for _, name := range append(stripped, "Connection", "Upgrade") {
		if got := seen.Header.Values(name); len(got) > 0 {
			t.Errorf("%s: %q reached the handler, want it stripped", name, got)
		}
	}
	for _, name := range kept {
		if got := seen.Header.Get(name); got != "value" {
			t.Errorf("%s: %q at the handler, want it kept", name, got)
		}
	}
}

func (s suite) headersJoined(t *testing.T) {
	response := s.raw(t, "GET /api/echo/a HTTP/1.1\r\nHost: h\r\nX-Many: a\r\nX-Many: b\r\nX-Many: c, d\r\nCookie: k=1\r\nCookie: l=2\r\nX-Empty:\r\n\r\n")
	var seen seenRequest
	decode(t, response, &seen)
	for name, want := range map[string][]string{"X-Many": {"a, b, c, d"}, "Cookie": {"k=1; l=2"}, "X-Empty": {""}, "User-Agent": nil, "Accept-Encoding": nil} {
		if diff := cmp.Diff(want, seen.Header.Values(name)); diff != "" {
			t.Errorf("%s at the handler (-want +got):\n%s", name, diff)
		}
	}
}

func (s suite) trace(t *testing.T) {
	const sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	seen := s.echo(t, "GET", "/api/echo/a", http.Header{"Traceparent": {sampled}, "Tracestate": {"a=b"}}, nil)
	if got := seen.Header.Values("Traceparent"); !cmp.Equal(got, []string{sampled}) {
		t.Errorf("traceparent at the handler is %q, want it unchanged", got)
	}
	if got := seen.Header.Values("Tracestate"); !cmp.Equal(got, []string{"a=b"}) {
		t.Errorf("tracestate at the handler is %q, want it unchanged", got)
	}
	// Whether the host adds one depends on its telemetry settings. If it does, the trace is not sampled.
	added := s.echo(t, "GET", "/api/echo/a", nil, nil).Header.Values("Traceparent")
	if len(added) > 1 || len(added) == 1 && !regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`).MatchString(added[0]) {
		t.Errorf("traceparent added by the host is %q, want none or one with flags 00", added)
	}
}

func (s suite) pathAndQuery(t *testing.T) {
	for sent, want := range map[string]string{
		"/api/echo/a%20b":                      "/api/echo/a%20b",
		"/api/echo/a%2Fb":                      "/api/echo/a%252Fb",
		"/api/echo/a%2fb":                      "/api/echo/a%252fb",
		"/api/echo/%41":                        "/api/echo/A",
		"/api/echo/%C3%BC":                     "/api/echo/%C3%BC",
		"/api/echo/%c3%bc":                     "/api/echo/%C3%BC",
		"/api/echo/a%25b":                      "/api/echo/a%25b",
		"/api/echo/a%3Fb":                      "/api/echo/a%3Fb",
		"/api/echo/a%23b":                      "/api/echo/a%23b",
		"/api/echo/a;b=1,c@d:e$f&g'(h)*!+~":    "/api/echo/a;b=1,c@d:e$f&g'(h)*!+~",
		"/api/echo/a%22%3C%5B%5D%7B%7C":        "/api/echo/a%22%3C%5B%5D%7B%7C",
		"/api/echo/a//b":                       "/api/echo/a//b",
		"/api/echo/x/../b":                     "/api/echo/b",
		"/api/echo/x/%2e%2e/b":                 "/api/echo/b",
		"/api/echo/x/.":                        "/api/echo/x/",
		"/api/echo/x/y/..":                     "/api/echo/x/",
		"/api/echo/":                           "/api/echo/",
		"/api/ECHO/Mixed":                      "/api/ECHO/Mixed",
		"/api/echo/a?x=1&x=2&flag&e=&p=a+b":    "/api/echo/a?x=1&x=2&flag&e=&p=a+b",
		"/api/echo/a?q=%2F%2f%20%C3%bc;semi&&": "/api/echo/a?q=%2F%2f%20%C3%BC;semi&&",
		"/api/echo/a?code=hello&b=1":           "/api/echo/a?code=hello&b=1",
		"/api/echo/a?u=http://h/?x=1[2]'@!$,*": "/api/echo/a?u=http://h/?x=1[2]'@!$,*",
		"/api/echo/a?":                         "/api/echo/a?",
		// What a URI must not contain is encoded, and what need not be encoded is decoded.
		"/api/echo/a?q=%41%7e%2d":             "/api/echo/a?q=A~-",
		"/api/echo/a?q=%zz%4":                 "/api/echo/a?q=%25zz%254",
		"/api/echo/a?json={\"a\":[1]}|\\^`<>": "/api/echo/a?json=%7B%22a%22:[1]%7D%7C%5C%5E%60%3C%3E",
	} {
		response := s.raw(t, "GET "+sent+" HTTP/1.1\r\nHost: h\r\n\r\n")
		var seen seenRequest
		decode(t, response, &seen)
		if seen.URI != want {
			t.Errorf("GET %s arrives as %s, want %s", sent, seen.URI, want)
		}
	}
}

func (s suite) methods(t *testing.T) {
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "HEAD"} {
		response := s.do(t, method, "/api/echo/a", nil, nil)
		if got := response.Header.Get("X-Probe-Method"); response.StatusCode != 200 || got != method {
			t.Errorf("%s reaches the handler as %q with status %d", method, got, response.StatusCode)
		}
	}
}

func (s suite) bodies(t *testing.T) {
	text := strings.Repeat("0123456789", 100_000)
	seen := s.echo(t, "POST", "/api/echo/a", http.Header{
		"Content-Type": {"text/x-odd"}, "Content-Encoding": {"odd"}, "Content-Language": {"de"}, "Content-Disposition": {"inline"},
	}, strings.NewReader(text))
	if seen.BodyBytes != int64(len(text)) || seen.ContentLength != int64(len(text)) || len(seen.TransferEncoding) != 0 {
		t.Errorf("a body of %d bytes arrives with %d, Content-Length %d, Transfer-Encoding %q", len(text), seen.BodyBytes, seen.ContentLength, seen.TransferEncoding)
	}
	for name, want := range map[string]string{"Content-Type": "text/x-odd", "Content-Encoding": "odd", "Content-Language": "de", "Content-Disposition": "inline"} {
		if got := seen.Header.Get(name); got != want {
			t.Errorf("%s at the handler is %q, want %q", name, got, want)
		}
	}
	chunked := s.echo(t, "POST", "/api/echo/a", nil, io.MultiReader(strings.NewReader(text)))
	if chunked.BodySHA256 != seen.BodySHA256 || !cmp.Equal(chunked.TransferEncoding, []string{"chunked"}) {
		t.Errorf("a chunked body arrives with %d bytes, Transfer-Encoding %q, want it whole and chunked", chunked.BodyBytes, chunked.TransferEncoding)
	}
	if empty := s.echo(t, "POST", "/api/echo/a", nil, nil); empty.BodyBytes != 0 || empty.ContentLength > 0 || len(empty.TransferEncoding) != 0 {
		t.Errorf("an empty body arrives with %d bytes, Content-Length %d, Transfer-Encoding %q", empty.BodyBytes, empty.ContentLength, empty.TransferEncoding)
	}
}

// zeros is an endless reader of zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (s suite) largeBody(t *testing.T) {
	const limit = 100 << 20
	request, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/api/echo/large", io.LimitReader(zeros{}, limit+1))
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = limit + 1
	// A client that keeps sending may find the connection closed before it reads the answer, so it asks first.
	request.Header.Set("Expect", "100-continue")
	patient := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: patience}}
	defer patient.CloseIdleConnections()
	response, err := patient.Do(request)
	if err != nil {
		t.Fatalf("a body over 100 MiB: %v", err)
	}
	defer response.Body.Close()
	if response.StatusCode != 500 {
		t.Errorf("the answer to a body of 100 MiB and one byte is %d, want 500", response.StatusCode)
	}
}

func (s suite) answers(t *testing.T) {
	status := func(code int, text string, headers ...string) *http.Response {
		query := url.Values{"code": {strconv.Itoa(code)}, "text": {text}, "header": headers}
		return s.get(t, "/api/act/status?"+query.Encode())
	}
	for _, code := range []int{200, 201, 202, 400, 401, 403, 404, 418, 429, 500, 503} {
		response := status(code, "from the handler", "Retry-After:7", "Content-Type:application/problem+json")
		if body := readAll(t, response); response.StatusCode != code || body != "from the handler" || response.Header.Get("Retry-After") != "7" || response.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("status %d arrives as %d, Retry-After %q, Content-Type %q, body %q", code, response.StatusCode, response.Header.Get("Retry-After"), response.Header.Get("Content-Type"), body)
		}
	}
	for _, code := range []int{204, 304} {
		if response := status(code, ""); response.StatusCode != code || readAll(t, response) != "" {
			t.Errorf("status %d arrives as %d", code, response.StatusCode)
		}
	}
	if response := status(302, "", "Location:/elsewhere"); response.StatusCode != 302 || response.Header.Get("Location") != "/elsewhere" {
		t.Errorf("a redirect arrives as %d to %q", response.StatusCode, response.Header.Get("Location"))
	}
	response := status(200, "x", "Set-Cookie:a=1", "Set-Cookie:b=2", "X-Twice:one", "X-Twice:two")
	if got := response.Header.Values("Set-Cookie"); !cmp.Equal(got, []string{"a=1", "b=2"}) {
		t.Errorf("Set-Cookie arrives as %q", got)
	}
	if got := response.Header.Values("X-Twice"); !cmp.Equal(got, []string{"one", "two"}) {
		t.Errorf("X-Twice arrives as %q", got)
	}
	if got := response.Header.Values("Server"); !cmp.Equal(got, []string{"Kestrel"}) {
		t.Errorf("Server is %q, want the host's own", got)
	}
	if got := status(200, "x", "Server:probe").Header.Values("Server"); !cmp.Equal(got, []string{"probe"}) {
		t.Errorf("Server is %q, want the handler's", got)
	}
}

func (s suite) streaming(t *testing.T) {
	name := uuid.NewString()
	response := s.get(t, "/api/act/stream?name="+name)
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "one\n" {
		t.Fatalf("first half = %q, %v", line, err)
	}
	// The handler writes the second half only now, so the first half was not buffered.
	s.get(t, "/api/act/release?name="+name)
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "two\n" {
		t.Errorf("second half = %q, %v", rest, err)
	}
}

func (s suite) upgrade(t *testing.T) {
	conn, err := net.DialTimeout("tcp", s.address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	// The key and its answer are the example of RFC 6455, section 1.3.
	fmt.Fprintf(conn, "GET /api/act/upgrade?accept=s3pPLMBiTxaQ9kYGzzhZRbK%%2BxOo%%3D HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	stream := bufio.NewReader(conn)
	response, err := http.ReadResponse(stream, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 101 || !strings.EqualFold(response.Header.Get("Upgrade"), "websocket") {
		t.Fatalf("upgrade = %d with Upgrade %q, want 101", response.StatusCode, response.Header.Get("Upgrade"))
	}
	io.WriteString(conn, "hello\n")
	if line, err := stream.ReadString('\n'); err != nil || line != "HELLO\n" {
		t.Errorf("after the upgrade: %q, %v", line, err)
	}
}

func (s suite) clientGone(t *testing.T) {
	name := uuid.NewString()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "POST", s.url+"/api/act/wait?name="+name, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		response, err := client.Do(request)
		if err == nil {
			err = fmt.Errorf("status %d", response.StatusCode)
			response.Body.Close()
		}
		ended <- err
	}()
	hits := 0
	s.eventually(t, "the request reaches the handler", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("the request ended before the client went away: %v", err)
		default:
		}
		hits = s.hits(t, "/api/act/wait", name)
		return hits > 0
	})
	if hits != 1 {
		t.Errorf("the request reached the handler %d times, want once", hits)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("the client's request ended with %v", err)
	}
	s.eventually(t, "the handler notices that the client is gone", func() bool { return s.text(t, "/api/act/gone?of="+name) == "true" })
}

func (s suite) closedWithoutAnswer(t *testing.T) {
	for _, c := range []struct {
		method string
		body   string
		hits   int
	}{{"GET", "", 40}, {"POST", "a body", 1}} {
		name := uuid.NewString()
		began := time.Now()
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		response := s.do(t, c.method, "/api/act/close?name="+name, nil, body)
		took := time.Since(began)
		if response.StatusCode != 500 {
			t.Errorf("%s without an answer of the handler gets %d, want 500", c.method, response.StatusCode)
		}
		hostError(t, response, c.method+" without an answer")
		if got := s.hits(t, "/api/act/close", name); got != c.hits {
			t.Errorf("%s without an answer reaches the handler %d times, want %d", c.method, got, c.hits)
		}
		// Nine waits: 50 + 100 + 200 + 6 * 250 ms.
		if took < 1800*time.Millisecond || took > patience {
			t.Errorf("%s without an answer took %s, want about 2 s", c.method, took)
		}
	}
}

func (s suite) truncated(t *testing.T) {
	name := uuid.NewString()
	response := s.get(t, "/api/act/truncate?name="+name)
	defer response.Body.Close()
	start := make([]byte, len("short"))
	if _, err := io.ReadFull(response.Body, start); response.StatusCode != 200 || err != nil || string(start) != "short" {
		t.Fatalf("an answer that will be cut begins with %d %q, %v", response.StatusCode, start, err)
	}
	s.get(t, "/api/act/release?name="+name)
	if rest, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("the rest of a cut answer is %q without an error, want a cut connection", rest)
	}
}

// grace: an answer within two seconds after functionTimeout is still delivered, and the handler notices nothing.
func (s suite) grace(t *testing.T) {
	if got := s.text(t, fmt.Sprintf("/api/act/sleep?ms=%d", functionTimeoutSeconds*1000+500)); got != "<nil>" {
		t.Errorf("a request that ends within the grace period has %q in its context, want a 200 and no error", got)
	}
}

func (s suite) functionTimeout(t *testing.T) {
	before := s.text(t, "/api/act/pid")
	other := make(chan *http.Response, 1)
	go func() {
		request, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/api/act/sleep?ms=60000&name=other", strings.NewReader("b"))
		if err != nil {
			other <- nil
			return
		}
		response, err := client.Do(request)
		if err == nil {
			response.Body.Close()
		}
		other <- response
	}()
	began := time.Now()
	response := s.do(t, "POST", "/api/act/sleep?ms=60000", nil, strings.NewReader("b"))
	took := time.Since(began)
	if response.StatusCode != 500 {
		t.Errorf("a request that exceeds functionTimeout gets %d, want 500", response.StatusCode)
	}
	hostError(t, response, "functionTimeout")
	// Two seconds of grace after functionTimeout.
	if took < (functionTimeoutSeconds+1)*time.Second || took > patience {
		t.Errorf("the answer took %s, want about %d s", took, functionTimeoutSeconds+2)
	}
	s.eventually(t, "a new handler runs", func() bool { pid := s.text(t, "/api/act/pid"); return pid != "" && pid != before })
	if r := <-other; r == nil || r.StatusCode != 500 {
		t.Errorf("a concurrent request gets %v, want 500", r)
	}
}

func (s suite) restarts(t *testing.T, code int) {
	before := s.text(t, "/api/act/pid")
	// The body prevents a replay to the next handler.
	response := s.do(t, "POST", "/api/act/exit?code="+strconv.Itoa(code), nil, strings.NewReader("b"))
	if response.StatusCode != 500 {
		t.Errorf("the request that ends the handler gets %d, want 500", response.StatusCode)
	}
	s.eventually(t, "a new handler runs", func() bool { pid := s.text(t, "/api/act/pid"); return pid != "" && pid != before })
}

func (s suite) exitZero(t *testing.T) {
	if response := s.do(t, "POST", "/api/act/exit?code=0", nil, strings.NewReader("b")); response.StatusCode != 500 {
		t.Errorf("the request that ends the handler gets %d, want 500", response.StatusCode)
	}
	for range 2 {
		response := s.get(t, "/api/act/pid")
		if response.StatusCode != 500 {
			t.Fatalf("after exit 0 a request gets %d, want 500: the handler must not be restarted", response.StatusCode)
		}
		hostError(t, response, "after exit 0")
	}
	if got := s.get(t, "/admin/host/ping").StatusCode; got != 200 {
		t.Errorf("after exit 0 the host answers /admin/host/ping with %d, want 200", got)
	}
}

// hostError checks an error of the host itself: it has only a status.
func hostError(t *testing.T, response *http.Response, what string) {
	t.Helper()
	if body := readAll(t, response); body != "" {
		t.Errorf("%s: the host's %d has body %q, want none", what, response.StatusCode, body)
	}
	if got := response.Header.Get("Server"); got != "Kestrel" {
		t.Errorf("%s: Server is %q, want Kestrel", what, got)
	}
}

// do sends a request; the answer's body is closed when the test ends.
func (s suite) do(t *testing.T, method, path string, header http.Header, body io.Reader) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func (s suite) get(t *testing.T, path string) *http.Response {
	t.Helper()
	return s.do(t, "GET", path, nil, nil)
}

// echo sends a request to the function that returns what it received.
func (s suite) echo(t *testing.T, method, path string, header http.Header, body io.Reader) seenRequest {
	t.Helper()
	var seen seenRequest
	decode(t, s.do(t, method, path, header, body), &seen)
	return seen
}

// raw sends the bytes of a request on a new connection and reads one answer.
func (s suite) raw(t *testing.T, request string) *http.Response {
	t.Helper()
	conn, err := net.DialTimeout("tcp", s.address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		line, _, _ := strings.Cut(request, "\r\n")
		t.Fatalf("%s: %v", line, err)
	}
	return response
}

func (s suite) getJSON(t *testing.T, path string, v any) {
	t.Helper()
	decode(t, s.get(t, path), v)
}

// text returns the body of a 200, and "" for another status.
func (s suite) text(t *testing.T, path string) string {
	t.Helper()
	response := s.get(t, path)
	body := readAll(t, response)
	if response.StatusCode != 200 {
		return ""
	}
	return body
}

func (s suite) hits(t *testing.T, path, name string) int {
	t.Helper()
	n, err := strconv.Atoi(s.text(t, "/api/act/hits?"+url.Values{"path": {path}, "of": {name}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s suite) eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func decode(t *testing.T, response *http.Response, v any) {
	t.Helper()
	body := readAll(t, response)
	if response.StatusCode != 200 {
		t.Fatalf("status %d, body %q", response.StatusCode, body)
	}
	if err := json.Unmarshal([]byte(body), v); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
}

func readAll(t *testing.T, response *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
