package handler_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/schema"
	"github.com/usher-dps/usher/schemas"
)

// firstHub is a default rule that assigns whatever is valid.
var firstHub = fstest.MapFS{"default.rego": {Data: []byte("package allocation.default\n\nhub := input.linkedHubs[0]\n")}}

func sample(t testing.TB) []byte {
	t.Helper()
	body, err := os.ReadFile("../examples/requests/req-verbatim-01-group-symkey-initial-payload-2019-03-31.json")
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// A caller such as the Functions host's proxy sends all of a body before it reads the answer. It gets the 400, and not a
// connection that ends while it sends.
func TestBodyTooLargeIsReadBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	address := strings.TrimPrefix(serve(t, firstHub, time.Second, io.Discard, handler.Options{}), "http://")
	address, _, _ = strings.Cut(address, "/")
	const size = 6 << 20
	for name, header := range map[string]string{"with its length": fmt.Sprintf("Content-Length: %d", size), "chunked": "Transfer-Encoding: chunked"} {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s\r\n\r\n", handler.AllocatePath, header)
		piece := bytes.Repeat([]byte(" "), 64<<10)
		for range size / len(piece) {
			if name == "chunked" {
				fmt.Fprintf(connection, "%x\r\n", len(piece))
			}
			if _, err = connection.Write(piece); err == nil && name == "chunked" {
				_, err = connection.Write([]byte("\r\n"))
			}
			if err != nil {
				t.Fatalf("%s: the connection ended while the body was sent: %v", name, err)
			}
		}
		if name == "chunked" {
			fmt.Fprint(connection, "0\r\n\r\n")
		}
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", name, response.StatusCode)
		}
	}
}

// endless is a body that never ends.
type endless struct{ opening string }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	n := copy(p, e.opening)
	e.opening = e.opening[n:]
	return len(p), nil
}

func TestHostileBodies(t *testing.T) {
	t.Parallel()
	url := serve(t, firstHub, time.Second, io.Discard, handler.Options{MaxBody: 64 << 10})
	good := sample(t)
	for name, c := range map[string]struct {
		body        io.Reader
		contentType string
		status      int
		detail      string
	}{
		"as DPS sends it":         {bytes.NewReader(good), "application/json", 200, ""},
		"another content type":    {bytes.NewReader(good), "text/plain", 200, ""},
		"no content type":         {bytes.NewReader(good), "", 200, ""},
		"empty":                   {strings.NewReader(""), "application/json", 400, "the body is empty"},
		"white space":             {strings.NewReader(" \n"), "application/json", 400, "the body is empty"},
		"one byte over the limit": {bytes.NewReader(append(bytes.Repeat([]byte(" "), 64<<10-len(good)+1), good...)), "application/json", 400, "larger than 65536 bytes"},
		"at the limit":            {bytes.NewReader(append(bytes.Repeat([]byte(" "), 64<<10-len(good)), good...)), "application/json", 200, ""},
		"endless":                 {&endless{`{"a":"`}, "application/json", 400, "larger than 65536 bytes"},
		"deep":                    {strings.NewReader(`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}"), "application/json", 400, "nest deeper than 64"},
		"invalid UTF-8":           {strings.NewReader("{\"a\":\"\xff\"}"), "application/json", 400, "UTF-8"},
		"huge number":             {strings.NewReader(`{"a":1e1000001}`), "application/json", 400, "exponent"},
		"gzip":                    {strings.NewReader("\x1f\x8b\x08\x00\x00"), "application/json", 400, "not valid JSON"},
		"XML":                     {strings.NewReader("<a/>"), "text/xml", 400, "not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, err := http.Post(url, c.contentType, c.body)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			answer, _ := io.ReadAll(response.Body)
			if response.StatusCode != c.status || !strings.Contains(string(answer), c.detail) {
				t.Errorf("got %d %s, want %d and %q", response.StatusCode, answer, c.status, c.detail)
			}
		})
	}
}

// panicking is a body whose reading panics, with a secret in the panic.
type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("CANARY") }

func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	allocator := newAllocator(t, firstHub)
	webhook := handler.New(handler.Options{Allocator: allocator, Log: slog.New(slog.NewJSONHandler(&log, nil))})
	recorder := httptest.NewRecorder()
	webhook.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, panicking{}))
	if recorder.Code != http.StatusServiceUnavailable || !strings.Contains(recorder.Body.String(), `"code":"internal"`) {
		t.Errorf("got %d %s", recorder.Code, recorder.Body)
	}
	if !strings.Contains(log.String(), "panic of type string") || !strings.Contains(log.String(), `"level":"ERROR"`) {
		t.Errorf("the log does not tell of the panic: %s", &log)
	}
	if all := log.String() + recorder.Body.String(); strings.Contains(all, "CANARY") {
		t.Errorf("the panic's value got out: %s", all)
	}
	// And the next one is served.
	recorder = httptest.NewRecorder()
	webhook.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, bytes.NewReader(sample(t))))
	if recorder.Code != http.StatusOK {
		t.Errorf("after a panic: %d %s", recorder.Code, recorder.Body)
	}
}

func newAllocator(t testing.TB, rules fstest.MapFS) *decider.Decider {
	t.Helper()
	loaded, err := decider.LoadRules(t.Context(), rules, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: loaded, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return allocator
}

// brokenWriter is a connection that the caller has closed.
type brokenWriter struct{ header http.Header }

func (w brokenWriter) Header() http.Header       { return w.header }
func (w brokenWriter) WriteHeader(int)           {}
func (w brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestBrokenWriterIsRecorded(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	webhook := handler.New(handler.Options{Allocator: newAllocator(t, firstHub), Log: slog.New(slog.NewJSONHandler(&log, nil))})
	webhook.ServeHTTP(brokenWriter{http.Header{}}, httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, bytes.NewReader(sample(t))))
	if !strings.Contains(log.String(), `"result":"assigned"`) {
		t.Errorf("recorded: %s", &log)
	}
}

// lines collects log lines and lets a test wait for one.
type lines struct{ written chan string }

func (l lines) Write(line []byte) (int, error) {
	l.written <- string(line)
	return len(line), nil
}

func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	log := lines{make(chan string, 10)}
	looping := fstest.MapFS{"default.rego": {Data: []byte(`package allocation.default

hub := input.linkedHubs[0] if {
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a + b == 0
}
`)}}
	url := serve(t, looping, time.Hour, log, handler.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(sample(t)))
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	request.Body = io.NopCloser(io.TeeReader(request.Body, writerFunc(func(p []byte) (int, error) {
		select {
		case <-sent:
		default:
			close(sent)
		}
		return len(p), nil
	})))
	done := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
		}
		done <- err
	}()
	<-sent
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("the caller got %v", err)
	}
	// The rule would loop for an hour: the line comes because it was stopped.
	if line := <-log.written; !strings.Contains(line, `"result":"canceled"`) {
		t.Errorf("recorded: %s", line)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestBodyThatStopsHalfway(t *testing.T) {
	t.Parallel()
	log := lines{make(chan string, 10)}
	url := serve(t, firstHub, time.Second, log, handler.Options{})
	connection, err := net.Dial("tcp", strings.Split(url, "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"a\":", handler.AllocatePath)
	connection.Close()
	if line := <-log.written; !strings.Contains(line, `"result":"canceled"`) || !strings.Contains(line, `"status":503`) {
		t.Errorf("recorded: %s", line)
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	t.Parallel()
	url := serve(t, firstHub, 10*time.Second, io.Discard, handler.Options{})
	body := sample(t)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 500}}
	var group sync.WaitGroup
	problems := make(chan string, 500)
	start := make(chan struct{})
	for range 500 {
		group.Go(func() {
			<-start
			response, err := client.Post(url, "application/json", bytes.NewReader(body))
			if err != nil {
				problems <- err.Error()
				return
			}
			defer response.Body.Close()
			answer, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != http.StatusOK {
				problems <- fmt.Sprintf("%d %s %v", response.StatusCode, answer, err)
			}
		})
	}
	close(start)
	group.Wait()
	close(problems)
	for problem := range problems {
		t.Error(problem)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	const older, newer = "older-key-0123456789abcdef", "newer-key-0123456789abcdef"
	var log bytes.Buffer
	url := serve(t, firstHub, time.Second, &log, handler.Options{Keys: []string{older, newer}})
	for _, c := range []struct {
		query, header string
		status        int
	}{
		{"", "", 401},
		{"?code=", "", 401},
		{"?code=wrong", "", 401},
		{"?code=" + older[:10], "", 401},
		{"?code=" + older, "", 200},
		{"?code=" + newer, "", 200},
		{"", older, 200},
		{"", newer, 200},
		{"?code=" + newer, "wrong", 401},
		{"?CODE=" + newer, "", 401},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+c.query, bytes.NewReader(sample(t)))
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			request.Header.Set("x-functions-key", c.header)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != c.status {
			t.Errorf("query %q, header %q: got %d %s, want %d", c.query, c.header, response.StatusCode, answer, c.status)
		}
		if strings.Contains(string(answer)+log.String(), "-key-") {
			t.Fatalf("a key got out: %s %s", answer, &log)
		}
	}
}

func TestOtherPaths(t *testing.T) {
	t.Parallel()
	webhook := handler.New(handler.Options{Allocator: newAllocator(t, firstHub)})
	empty, err := decider.New(decider.Options{})
	if err != nil {
		t.Fatal(err)
	}
	starting := handler.New(handler.Options{Allocator: empty})
	for _, c := range []struct {
		webhook      http.Handler
		method, path string
		status       int
		answer       string
	}{
		{webhook, "GET", "/", 200, ""},
		{webhook, "GET", handler.LivenessPath, 200, ""},
		{webhook, "GET", handler.ReadinessPath, 200, `"rules":"sha256:`},
		{starting, "GET", "/", 200, ""},
		{starting, "GET", handler.LivenessPath, 200, ""},
		{starting, "GET", handler.ReadinessPath, 503, "not_ready"},
		{starting, "POST", handler.AllocatePath, 503, `"code":"not_ready"`},
		{webhook, "GET", handler.AllocatePath, 405, "the webhook is POST /api/allocate"},
		{webhook, "PUT", handler.AllocatePath, 405, "method_not_allowed"},
		{webhook, "POST", "/API/Allocate", 200, "iotHubHostName"},
		{webhook, "POST", "/api/allocate/", 200, "iotHubHostName"},
		{webhook, "POST", "/api/allocate//", 404, "not_found"},
		{webhook, "OPTIONS", handler.AllocatePath, 405, "method_not_allowed"},
		{webhook, "HEAD", handler.ReadinessPath, 200, ""},
		{webhook, "HEAD", handler.LivenessPath, 200, ""},
		{webhook, "POST", "/api/Allocated", 404, "the webhook is POST /api/allocate"},
		{webhook, "POST", "/", 405, "method_not_allowed"},
	} {
		recorder := httptest.NewRecorder()
		c.webhook.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader(string(sample(t)))))
		if recorder.Code != c.status || !strings.Contains(recorder.Body.String(), c.answer) {
			t.Errorf("%s %s: got %d %s, want %d and %q", c.method, c.path, recorder.Code, recorder.Body, c.status, c.answer)
		}
	}
}

func TestTraceContinues(t *testing.T) {
	t.Parallel()
	const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for traceparent, continued := range map[string]bool{
		"00-" + traceID + "-" + parent + "-01":       true,
		"00-" + traceID + "-" + parent + "-00":       true,
		"01-" + traceID + "-" + parent + "-01-later": true,
		"":                             false,
		"00-" + traceID + "-" + parent: false,
		"00-" + traceID + "-" + parent + "-01-more":             false,
		"ff-" + traceID + "-" + parent + "-01":                  false,
		"00-" + strings.ToUpper(traceID) + "-" + parent + "-01": false,
		"00-" + strings.Repeat("0", 32) + "-" + parent + "-01":  false,
		"00-" + traceID + "-0000000000000000-01":                false,
		"00-" + traceID + "CANARY-" + parent + "-01":            false,
		"00-" + traceID + "-" + parent + "-0x":                  false,
		strings.Repeat("00-", 10000):                            false,
	} {
		var log bytes.Buffer
		webhook := handler.New(handler.Options{Allocator: newAllocator(t, firstHub), Log: slog.New(slog.NewJSONHandler(&log, nil))})
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, bytes.NewReader(sample(t)))
		request.Header.Set("traceparent", traceparent)
		request.Header.Set("X-Azure-Functions-InvocationId", "the-invocation")
		webhook.ServeHTTP(httptest.NewRecorder(), request)
		var line struct {
			TraceID      string `json:"trace_id"`
			ParentSpanID string `json:"parent_span_id"`
			SpanID       string `json:"span_id"`
			InvocationID string `json:"invocation_id"`
		}
		if err := json.Unmarshal(log.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.InvocationID != "the-invocation" {
			t.Errorf("invocation_id %q", line.InvocationID)
		}
		switch {
		case !continued && line.TraceID+line.ParentSpanID+line.SpanID != "":
			t.Errorf("%q is no traceparent, recorded %+v", traceparent, line)
		case continued && (line.TraceID != traceID || line.ParentSpanID != parent || len(line.SpanID) != 16 || line.SpanID == parent):
			t.Errorf("%q: recorded %+v", traceparent, line)
		}
	}
}

// FuzzBody: a body that is an AllocationRequest is decided, any other is answered with 400 and nothing else.
func FuzzBody(f *testing.F) {
	seed(f)
	allocator := newAllocator(f, firstHub)
	check, err := schema.Compile("allocation-request", schemas.AllocationRequest())
	if err != nil {
		f.Fatal(err)
	}
	webhook := handler.New(handler.Options{Allocator: allocator})
	f.Fuzz(func(t *testing.T, body []byte) {
		recorder := httptest.NewRecorder()
		webhook.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath, bytes.NewReader(body)))
		want := http.StatusBadRequest
		request, err := dps.ParseAllocationRequest(body)
		if err == nil && len(check.Validate(request.Body())) == 0 {
			want = http.StatusOK
			if _, linked := request.LinkedHub(request.Device.CurrentIotHubHostName); !linked && !request.FirstAssignment() &&
				request.Enrollment.Reprovision == dps.ReprovisionNever {
				want = http.StatusForbidden // nothing can satisfy both
			}
		}
		if recorder.Code != want {
			t.Errorf("answered %d %s, want %d; %v", recorder.Code, recorder.Body, want, err)
		}
	})
}

func seed(f *testing.F) {
	paths, err := filepath.Glob("../examples/requests/*.json")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no examples: %v", err)
	}
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
}

// FuzzNoSecretGetsOut plants a secret in every string that could hold one, and in the function key, and looks for it in
// the answer and in the log.
func FuzzNoSecretGetsOut(f *testing.F) {
	seed(f)
	const secret = "CANARYx4711"
	// The rule looks at the secrets and fails over them in several ways, but answers none of them.
	rules := fstest.MapFS{"default.rego": {Data: []byte(`package allocation.default

hub := input.deviceRuntimeContext.payload.hub

hub := input.linkedHubs[0] if not input.deviceRuntimeContext.payload.hub

initial_twin := {"tags": {"n": to_number(input.deviceRuntimeContext.tpm.endorsementKey)}}

payload := input.deviceRuntimeContext.x509.clientCertificate

reject contains sprintf("no %v", [input.deviceRuntimeContext.tpm]) if input.deviceRuntimeContext.tpm

hold contains concat(" ", ["wait", input.deviceRuntimeContext.x509.clientCertificate])
`)}}
	allocator := newAllocator(f, rules)
	f.Fuzz(func(t *testing.T, body []byte) {
		var document map[string]any
		if json.Unmarshal(body, &document) != nil {
			return
		}
		plant(document, secret, false)
		body, err := json.Marshal(document)
		if err != nil {
			return
		}
		var log bytes.Buffer
		webhook := handler.New(handler.Options{Allocator: allocator, Log: slog.New(slog.NewJSONHandler(&log, nil)), Keys: []string{secret}})
		recorder := httptest.NewRecorder()
		webhook.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, handler.AllocatePath+"?code="+secret, bytes.NewReader(body)))
		out := recorder.Body.String() + log.String() + fmt.Sprint(recorder.Header())
		if strings.Contains(out, secret) {
			t.Errorf("the secret got out: %s\nof %s", out, body)
		}
	})
}

// plant replaces the strings below the members that hold keys, certificates or what a device sends.
func plant(value any, secret string, inside bool) any {
	switch v := value.(type) {
	case string:
		if inside {
			return secret
		}
	case []any:
		for i := range v {
			v[i] = plant(v[i], secret, inside)
		}
	case map[string]any:
		for name, member := range v {
			switch name {
			case "payload", "symmetricKey", "tpm", "x509", "initialTwin", "webhookUrl", "etag":
				v[name] = plant(member, secret, true)
			default:
				v[name] = plant(member, secret, inside)
			}
		}
	}
	return value
}
