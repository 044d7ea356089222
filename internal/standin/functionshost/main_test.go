package functionshost_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// TestMain makes the test binary its own custom handler: the host.json files of these tests start it.
func TestMain(m *testing.M) {
	if mode := os.Getenv("TEST_HANDLER"); mode != "" {
		handler(mode)
		return
	}
	os.Exit(m.Run())
}

// handler is the custom handler. The mode determines how it starts, the path of a request what it does.
func handler(mode string) {
	fmt.Println("started", mode)
	kind, argument, _ := strings.Cut(mode, ":")
	switch kind {
	case "exit":
		fmt.Fprintln(os.Stderr, "first words")
		fmt.Fprintln(os.Stderr, "a warning is not an error")
		fmt.Fprintln(os.Stderr, "second words")
		fmt.Fprintln(os.Stderr, "third words")
		fmt.Fprint(os.Stderr, "last words")
		code, _ := strconv.Atoi(argument)
		os.Exit(code)
	case "deaf": // runs and never listens
		select {}
	case "after": // listens when the file exists
		for {
			if _, err := os.Stat(argument); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "fails": // fails once for every byte of the file, then listens
		left, _ := os.ReadFile(argument)
		if rest, ok := strings.CutPrefix(string(left), "x"); ok {
			os.WriteFile(argument, []byte(rest), 0o600)
			os.Exit(3)
		}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals)
	go func() {
		for s := range signals {
			if s != syscallSIGURG {
				fmt.Println("signal", s)
			}
		}
	}()
	gate := make(chan struct{})
	var once sync.Once
	mux := http.NewServeMux()
	mux.HandleFunc("/api/f/pid", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("/api/f/port", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT")) })
	mux.HandleFunc("/api/f/header", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(r.Header) })
	mux.HandleFunc("/api/f/crash", func(w http.ResponseWriter, r *http.Request) { os.Exit(4) })
	mux.HandleFunc("/api/f/read", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	mux.HandleFunc("/api/f/hold", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("holding")
		<-gate
		fmt.Fprint(w, "finished")
	})
	mux.HandleFunc("/api/f/release", func(w http.ResponseWriter, r *http.Request) { once.Do(func() { close(gate) }) })
	mux.HandleFunc("/release", func(w http.ResponseWriter, r *http.Request) { once.Do(func() { close(gate) }) })
	mux.HandleFunc("/api/f/child", func(w http.ResponseWriter, r *http.Request) {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "TEST_HANDLER=deaf")
		if err := child.Start(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, child.Process.Pid)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(net.JoinHostPort("127.0.0.1", os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT")), mux))
	os.Exit(1)
}

// scriptRoot writes a script root whose handler is this test binary, and adds the properties to host.json.
func scriptRoot(t *testing.T, properties string) string {
	t.Helper()
	if properties != "" {
		properties = ", " + properties
	}
	return writeFiles(t, map[string]string{
		"host.json": `{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "%TEST_BINARY%"}, "enableProxyingHttpRequest": true}` + properties + `}`,
		"f/function.json": `{"bindings": [{"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous", "route": "f/{*rest}"},
			{"type": "http", "direction": "out", "name": "res"}]}`,
	})
}

func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// console collects the output of the handler.
type console struct {
	mu    sync.Mutex
	lines []functionshost.ConsoleLine
	more  chan struct{} // gets a token after every line
}

func newConsole() *console { return &console{more: make(chan struct{}, 1)} }

func (c *console) add(line functionshost.ConsoleLine) {
	c.mu.Lock()
	c.lines = append(c.lines, line)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *console) count(text string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, line := range c.lines {
		if strings.Contains(line.Text, text) {
			n++
		}
	}
	return n
}

// await waits for a line.
func (c *console) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for c.count(text) == 0 {
		select {
		case <-c.more:
		case <-deadline:
			t.Fatalf("the handler did not write %q", text)
		}
	}
}

// start runs a host with a handler in the given mode, and closes it when the test ends.
func start(t *testing.T, mode string, o functionshost.Options) (*functionshost.Host, *console) {
	t.Helper()
	if o.Root == "" {
		o.Root = scriptRoot(t, "")
	}
	c := newConsole()
	o.Environ = append(os.Environ(), "TEST_HANDLER="+mode, "TEST_BINARY="+os.Args[0])
	o.Console = c.add
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	host, err := functionshost.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host, c
}

// client keeps no connections, so that tests do not wait for each other's connections.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	status, body, err := fetch(t, http.MethodGet, url, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func fetch(t *testing.T, method, url string, header http.Header, content io.Reader) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(t.Context(), method, url, content)
	if err != nil {
		return 0, "", err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, string(data), err
}
