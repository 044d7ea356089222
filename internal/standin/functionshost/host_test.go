package functionshost_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

func TestThreeStrikesStopTheHost(t *testing.T) {
	t.Parallel()
	host, c := start(t, "exit:3", functionshost.Options{})
	err := host.Wait()
	if !errors.Is(err, functionshost.ErrTooManyStrikes) {
		t.Fatalf("Wait() = %v, want ErrTooManyStrikes", err)
	}
	// The host includes the last three error lines in its report. A warning is not one.
	if want := "exit status 3; it wrote:\nsecond words\nthird words\nlast words"; !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %q, want it to contain %q", err, want)
	}
	if got := c.count("started"); got != 3 {
		t.Errorf("the handler was started %d times, want 3", got)
	}
	if err := host.Ready(t.Context()); !errors.Is(err, functionshost.ErrTooManyStrikes) {
		t.Errorf("Ready() = %v, want ErrTooManyStrikes", err)
	}
}

func TestOldStrikesAreForgotten(t *testing.T) {
	t.Parallel()
	failures := filepath.Join(t.TempDir(), "failures")
	if err := os.WriteFile(failures, []byte("xxxxx"), 0o600); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	began := time.Now()
	host, c := start(t, "fails:"+failures, functionshost.Options{
		// The clock advances by 31 minutes every time it is read.
		Now: func() time.Time { return began.Add(time.Duration(calls.Add(1)) * 31 * time.Minute) },
	})
	if err := host.Ready(t.Context()); err != nil {
		t.Fatalf("Ready() = %v after five failures, each more than half an hour after the previous one", err)
	}
	if got := c.count("started"); got != 6 {
		t.Errorf("the handler was started %d times, want 6", got)
	}
}

func TestExit200IsNotAStrike(t *testing.T) {
	t.Parallel()
	host, c := start(t, "exit:200", functionshost.Options{})
	deadline := time.After(20 * time.Second)
	for c.count("started") < 5 {
		select {
		case <-c.more:
		case <-deadline:
			t.Fatal("the handler was not started five times")
		}
	}
	if err := host.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

// A request without a body is replayed to every handler that it kills, and stops the whole host.
func TestPoisonRequest(t *testing.T) {
	t.Parallel()
	host, c := start(t, "serve", functionshost.Options{})
	if err := host.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, body, err := fetch(t, "GET", host.URL()+"/api/f/crash", nil, nil); err == nil && (status != 500 || body != "") {
		t.Errorf("the poison request gets %d %q, want an empty 500", status, body)
	}
	if err := host.Wait(); !errors.Is(err, functionshost.ErrTooManyStrikes) {
		t.Errorf("Wait() = %v, want ErrTooManyStrikes", err)
	}
	if got := c.count("started"); got != 3 {
		t.Errorf("the handler was started %d times, want 3", got)
	}
}

func TestEarlyRequestsAreHeld(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "go")
	host, c := start(t, "after:"+file, functionshost.Options{})
	c.await(t, "started")
	answers := make(chan int, 5)
	for range cap(answers) {
		go func() {
			status, _, err := fetch(t, "POST", host.URL()+"/api/f/pid", nil, strings.NewReader("x"))
			if err != nil {
				status = -1
			}
			answers <- status
		}()
	}
	select {
	case status := <-answers:
		t.Fatalf("a request got %d before the handler listened", status)
	case <-time.After(100 * time.Millisecond):
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range cap(answers) {
		if status := <-answers; status != 200 {
			t.Errorf("a held request gets %d, want 200", status)
		}
	}
}

func TestHeldTooLong(t *testing.T) {
	t.Parallel()
	host, _ := start(t, "deaf", functionshost.Options{HoldTimeout: 50 * time.Millisecond})
	if status, body := get(t, host.URL()+"/api/f/pid"); status != 500 || body != "" {
		t.Errorf("a request that waited too long gets %d %q, want an empty 500", status, body)
	}
	if err := host.Wait(); !errors.Is(err, functionshost.ErrHeldTooLong) {
		t.Errorf("Wait() = %v, want ErrHeldTooLong", err)
	}
}

func TestHandlerThatNeverListens(t *testing.T) {
	t.Parallel()
	host, c := start(t, "deaf", functionshost.Options{ReadyTimeout: 100 * time.Millisecond})
	err := host.Wait()
	if !errors.Is(err, functionshost.ErrTooManyStrikes) || !strings.Contains(err.Error(), "did not listen on 127.0.0.1:") || !strings.Contains(err.Error(), "FUNCTIONS_CUSTOMHANDLER_PORT") {
		t.Errorf("Wait() = %v, want ErrTooManyStrikes with the address to listen on", err)
	}
	if got := c.count("started"); got > 3 {
		t.Errorf("the handler was started %d times, want at most 3", got)
	}
}

func TestExitZeroBeforeReady(t *testing.T) {
	t.Parallel()
	host, c := start(t, "exit:0", functionshost.Options{})
	if err := host.Ready(t.Context()); !errors.Is(err, functionshost.ErrExitedZero) {
		t.Errorf("Ready() = %v, want ErrExitedZero", err)
	}
	if got := c.count("started"); got != 1 {
		t.Errorf("the handler was started %d times, want 1", got)
	}
	if status, _ := get(t, host.URL()+"/admin/host/ping"); status != 200 {
		t.Errorf("the host answers /admin/host/ping with %d, want 200: it continues to run", status)
	}
}

func TestStopLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	host, c := start(t, "serve", functionshost.Options{})
	if err := host.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, port := get(t, host.URL()+"/api/f/port")
	_, text := get(t, host.URL()+"/api/f/child")
	child, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("child: %q", text)
	}
	answer := make(chan string, 1)
	go func() {
		_, body, err := fetch(t, "POST", host.URL()+"/api/f/hold", nil, strings.NewReader("x"))
		if err != nil {
			body = err.Error()
		}
		answer <- body
	}()
	c.await(t, "holding")
	stopped := make(chan error, 1)
	go func() { stopped <- host.Stop() }()
	// At some point the host refuses new requests.
	for {
		recorder := httptest.NewRecorder()
		host.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), "GET", "/admin/host/ping", nil))
		if recorder.Code == 503 {
			if recorder.Body.String() != "Function host is not running." {
				t.Errorf("a stopping host answers %q", recorder.Body)
			}
			break
		}
	}
	select {
	case err := <-stopped:
		t.Fatalf("the host stopped (%v) with a request in flight", err)
	case body := <-answer:
		t.Fatalf("the request in flight ended early: %s", body)
	case <-time.After(50 * time.Millisecond):
	}
	// Directly at the handler, because the host accepts no new requests.
	if status, _ := get(t, "http://127.0.0.1:"+port+"/release"); status != 200 {
		t.Fatalf("release = %d", status)
	}
	if body := <-answer; body != "finished" {
		t.Errorf("the request in flight gets %q, want it finished", body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Stop() = %v, want nil", err)
	}
	if c.count("signal") != 0 {
		t.Error("the handler received a signal; the Functions host sends none that a handler can receive")
	}
	awaitEnd(t, child)
}

func TestCloseDoesNotWait(t *testing.T) {
	t.Parallel()
	host, c := start(t, "serve", functionshost.Options{})
	if err := host.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, text := get(t, host.URL()+"/api/f/pid")
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("pid: %q", text)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _, _ = fetch(t, "POST", host.URL()+"/api/f/hold", nil, strings.NewReader("x")) // it fails either way
	}()
	c.await(t, "holding")
	if err := host.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	<-ended
	awaitEnd(t, pid)
	if err := host.Close(); err != nil {
		t.Errorf("a second Close() = %v, want nil", err)
	}
}

// awaitEnd waits until a killed process has ended.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); alive(t, pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still exists", pid)
		}
	}
}

func TestCancelingTheContextStops(t *testing.T) {
	t.Parallel()
	host, err := functionshost.New(functionshost.Options{Root: scriptRoot(t, ""), Environ: append(os.Environ(), "TEST_HANDLER=serve", "TEST_BINARY="+os.Args[0])})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := host.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := host.Wait(); err != nil {
		t.Errorf("Wait() = %v, want nil", err)
	}
	if _, _, err := fetch(t, "GET", host.URL(), nil, nil); err == nil {
		t.Error("the host still listens")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	host, c := start(t, "serve", functionshost.Options{Root: scriptRoot(t, `"extensions": {"http": {"maxConcurrentRequests": 1, "maxOutstandingRequests": 2}}`)})
	if err := host.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, port := get(t, host.URL()+"/api/f/port")
	answers := make(chan *http.Response, 3)
	hold := func() {
		request := httptest.NewRequestWithContext(t.Context(), "POST", "/api/f/hold", strings.NewReader("x"))
		recorder := httptest.NewRecorder()
		host.ServeHTTP(recorder, request)
		answers <- recorder.Result()
	}
	go hold()
	c.await(t, "holding")
	// One of the next two requests waits, the other exceeds the limit.
	go hold()
	go hold()
	refused := <-answers
	body, err := io.ReadAll(refused.Body)
	if refused.StatusCode != 429 || refused.Header.Get("X-FUNCTION-SCALEOUT") != "1" || refused.Header.Get("Server") != "Kestrel" || err != nil || len(body) != 0 {
		t.Errorf("a request over the limit gets %d, %v, %q, %v", refused.StatusCode, refused.Header, body, err)
	}
	if got := c.count("holding"); got != 1 {
		t.Errorf("%d requests run at once, want 1", got)
	}
	if status, _ := get(t, "http://127.0.0.1:"+port+"/release"); status != 200 {
		t.Fatalf("release = %d", status)
	}
	for range 2 {
		if answer := <-answers; answer.StatusCode != 200 {
			t.Errorf("a request within the limit gets %d, want 200", answer.StatusCode)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	host, _ := start(t, "serve", functionshost.Options{MaxBody: 1000})
	if err := host.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		size    int
		chunked bool
		want    int
	}{{"at the limit", 1000, false, 200}, {"over", 1001, false, 500}, {"chunked, at the limit", 1000, true, 200}, {"chunked, over", 1001, true, 500}} {
		var body io.Reader = strings.NewReader(strings.Repeat("x", c.size))
		if c.chunked {
			body = io.MultiReader(body)
		}
		if status, text, err := fetch(t, "POST", host.URL()+"/api/f/read", nil, body); err != nil || status != c.want {
			t.Errorf("%s: %d %q %v, want %d", c.name, status, text, err, c.want)
		}
	}
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	const sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct {
		name   string
		off    bool
		header http.Header
		want   func([]string) bool
	}{
		{"added", false, nil, func(v []string) bool { return len(v) == 1 && len(v[0]) == 55 && strings.HasSuffix(v[0], "-00") }},
		{"not added", true, nil, func(v []string) bool { return len(v) == 0 }},
		{"kept", false, http.Header{"Traceparent": {sent}}, func(v []string) bool { return cmp.Equal(v, []string{sent}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host, _ := start(t, "serve", functionshost.Options{NoTraceparent: c.off})
			_, body, err := fetch(t, "GET", host.URL()+"/api/f/header", c.header, nil)
			if err != nil {
				t.Fatal(err)
			}
			var seen http.Header
			if err := json.Unmarshal([]byte(body), &seen); err != nil {
				t.Fatal(err)
			}
			if got := seen.Values("Traceparent"); !c.want(got) {
				t.Errorf("traceparent at the handler is %q", got)
			}
		})
	}
}

func TestMasterKeyAndHomepage(t *testing.T) {
	t.Parallel()
	const bindings = `{"bindings": [{"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "LEVEL", "route": "f/LEVEL"}, {"type": "http", "direction": "out", "name": "res"}]}`
	root := writeFiles(t, map[string]string{
		"host.json":           `{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "%TEST_BINARY%"}, "enableProxyingHttpRequest": true}, "extensions": {"http": {"routePrefix": ""}}}`,
		"a/function.json":     strings.ReplaceAll(bindings, "LEVEL", "admin"),
		"f/function.json":     strings.ReplaceAll(bindings, "LEVEL", "function"),
		"local.settings.json": `{"Values": {"AzureWebJobsDisableHomepage": "true"}}`,
	})
	host, _ := start(t, "serve", functionshost.Options{Root: root, EnableAuth: true, FunctionKey: "function key", MasterKey: "master key"})
	for _, c := range []struct {
		path, key string
		want      int // the handler answers 404, so it is reached
	}{
		{"/f/admin", "", 401}, {"/f/admin", "function key", 401}, {"/f/admin", "master key", 404},
		{"/f/function", "", 401}, {"/f/function", "function key", 404}, {"/f/function", "master key", 404}, {"/f/function", "functio", 401},
		{"/", "", 204},
	} {
		header := http.Header{}
		if c.key != "" {
			header.Set("X-Functions-Key", c.key)
		}
		if status, _, err := fetch(t, "GET", host.URL()+c.path, header, nil); err != nil || status != c.want {
			t.Errorf("GET %s with key %q = %d, %v; want %d", c.path, c.key, status, err, c.want)
		}
	}
}

func TestBusyPort(t *testing.T) {
	t.Parallel()
	first, _ := start(t, "serve", functionshost.Options{})
	port, err := strconv.Atoi(first.URL()[strings.LastIndex(first.URL(), ":")+1:])
	if err != nil {
		t.Fatal(err)
	}
	second, err := functionshost.New(functionshost.Options{Root: scriptRoot(t, ""), Port: port, Environ: append(os.Environ(), "TEST_HANDLER=serve", "TEST_BINARY="+os.Args[0])})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Start() on a busy port = %v", err)
	}
	if err := second.Close(); err != nil {
		t.Errorf("Close() of a host that did not start = %v", err)
	}
}
