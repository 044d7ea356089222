package play_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/play"
	"github.com/usher-dps/usher/internal/play/workspace"
)

const (
	token = "TOKEN"
	eu    = "contoso-eu.azure-devices.net"
	us    = "contoso-us.azure-devices.net"
)

// lineRule serves the group line.
const lineRule = `# METADATA
# title: The lines
# custom:
#   enrollment_groups: [line]
package allocation.line

hub := input.linkedHubs[0]
`

// client is a page that has the cookie.
type client struct {
	t      testing.TB
	folder string
	port   int
	// ended gets a value whenever the server has done with a call.
	ended chan string
}

// start serves a folder with files, as options say.
func start(t testing.TB, files map[string]string, change func(*play.Options, *workspace.Options)) *client {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(folder, name), text)
	}
	return serve(t, folder, change)
}

// startShipped serves a copy of the starter rules.
func startShipped(t testing.TB, change func(*play.Options, *workspace.Options)) *client {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("../../rules")); err != nil {
		t.Fatal(err)
	}
	return serve(t, folder, change)
}

func serve(t testing.TB, folder string, change func(*play.Options, *workspace.Options)) *client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, folder: folder, port: listener.Addr().(*net.TCPAddr).Port, ended: make(chan string, 100)}
	options := play.Options{Token: token, Port: c.port, Version: "v1", Examples: os.DirFS("../../examples/requests"), Timeout: time.Minute}
	of := workspace.Options{Folder: folder}
	if change != nil {
		change(&options, &of)
	}
	if options.Workspace, err = workspace.Open(of); err != nil {
		t.Fatal(err)
	}
	handler, err := play.New(options)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		select {
		case c.ended <- r.URL.Path:
		default: // no one looks
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); options.Workspace.Close() })
	return c
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (c *client) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", c.port, path) }

// request makes a call with the cookie; body may be nil.
func (c *client) request(ctx context.Context, method, path string, body any) *http.Request {
	c.t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url(path), bytes.NewReader(text))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Cookie", fmt.Sprintf("usher-play-%d=%s", c.port, token))
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// call makes a call, checks the status and decodes the answer into it, unless that is nil. It returns the text.
func (c *client) call(want int, method, path string, body, into any) string {
	c.t.Helper()
	response, err := http.DefaultClient.Do(c.request(c.t.Context(), method, path, body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if response.StatusCode != want {
		c.t.Fatalf("%s %s: %s, want %d: %s", method, path, response.Status, want, text)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			c.t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return string(text)
}

// object is JSON.
type object = map[string]any

func (c *client) read(name string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.folder, filepath.FromSlash(name)))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// Only the page that has the token, under the server's own name, gets an answer.
func TestGuard(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	own := fmt.Sprintf("127.0.0.1:%d", c.port)
	cookie := fmt.Sprintf("usher-play-%d=%s", c.port, token)
	for _, test := range []struct {
		name, method, path string
		header             map[string]string
		want               int
	}{
		{"the page", "GET", "/", nil, 200},
		{"as localhost", "GET", "/", map[string]string{"Host": fmt.Sprintf("localhost:%d", c.port)}, 200},
		{"as ::1", "GET", "/", map[string]string{"Host": fmt.Sprintf("[::1]:%d", c.port)}, 200},
		{"the API", "GET", "/api/workspace", nil, 200},
		{"the own origin", "GET", "/api/workspace", map[string]string{"Origin": "http://" + own}, 200},
		{"no cookie", "GET", "/", map[string]string{"Cookie": ""}, 401},
		{"no cookie, API", "GET", "/api/workspace", map[string]string{"Cookie": ""}, 401},
		{"a wrong cookie", "GET", "/api/workspace", map[string]string{"Cookie": cookie + "x"}, 401},
		{"an empty cookie", "GET", "/api/workspace", map[string]string{"Cookie": fmt.Sprintf("usher-play-%d=", c.port)}, 401},
		{"the cookie of another port", "GET", "/api/workspace", map[string]string{"Cookie": "usher-play-1=" + token}, 401},
		{"the token opens", "GET", "/?token=" + token, map[string]string{"Cookie": ""}, 303},
		{"a wrong token", "GET", "/?token=other", map[string]string{"Cookie": ""}, 401},
		{"the token elsewhere", "GET", "/api/workspace?token=" + token, map[string]string{"Cookie": ""}, 401},
		{"the token by POST", "POST", "/?token=" + token, map[string]string{"Cookie": ""}, 401},
		{"the token under another name", "GET", "/?token=" + token, map[string]string{"Cookie": "", "Host": "usher.example"}, 421},
		{"another name", "GET", "/", map[string]string{"Host": "usher.example"}, 421},
		{"another name with the port", "GET", "/api/workspace", map[string]string{"Host": fmt.Sprintf("usher.example:%d", c.port)}, 421},
		{"another port", "GET", "/", map[string]string{"Host": "127.0.0.1:1"}, 421},
		{"no port", "GET", "/", map[string]string{"Host": "127.0.0.1"}, 421},
		{"another origin", "GET", "/api/workspace", map[string]string{"Origin": "http://usher.example"}, 403},
		{"the origin of another port", "GET", "/api/workspace", map[string]string{"Origin": "http://127.0.0.1:1"}, 403},
		{"the own origin with TLS", "GET", "/api/workspace", map[string]string{"Origin": "https://" + own}, 403},
		{"the other name of the own origin", "GET", "/api/workspace", map[string]string{"Origin": fmt.Sprintf("http://localhost:%d", c.port)}, 403},
		{"the origin of a file", "GET", "/api/workspace", map[string]string{"Origin": "null"}, 403},
		{"another origin for the token", "GET", "/?token=" + token, map[string]string{"Cookie": "", "Origin": "http://usher.example"}, 403},
		{"no Content-Type", "POST", "/api/decide", nil, 415},
		{"a form", "POST", "/api/decide", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415},
		{"text", "PUT", "/api/file", map[string]string{"Content-Type": "text/plain"}, 415},
		{"JSON in a charset", "POST", "/api/decide", map[string]string{"Content-Type": "application/json; charset=utf-8"}, 400}, // there is no body
		{"nothing", "GET", "/nothing", nil, 404},
		{"nothing of the API", "GET", "/api/nothing", nil, 404},
		{"the template", "GET", "/index.html", nil, 404},
		{"above the page", "GET", "/../page.go", nil, 404},
		{"above the page, encoded", "GET", "/%2e%2e/page.go", nil, 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequestWithContext(t.Context(), test.method, "http://"+own+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Cookie", cookie)
			for name, value := range test.header {
				switch {
				case name == "Host":
					r.Host = value
				case value == "":
					r.Header.Del(name)
				default:
					r.Header.Set(name, value)
				}
			}
			response, err := http.DefaultTransport.RoundTrip(r) // which does not follow redirects
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != test.want {
				t.Errorf("%s, want %d (%v): %s", response.Status, test.want, err, text)
			}
			set := response.Header.Get("Set-Cookie")
			switch test.want {
			case 303:
				if set != cookie+"; Path=/; HttpOnly; SameSite=Strict" || response.Header.Get("Location") != "/" {
					t.Errorf("Set-Cookie: %s, Location: %s", set, response.Header.Get("Location"))
				}
			case 200:
			default:
				if set != "" || strings.Contains(string(text), token) || strings.Contains(string(text), "line.rego") {
					t.Errorf("it tells something: %s %s", set, text)
				}
				if test.path != "/" && !strings.HasPrefix(test.path, "/?") && !strings.HasPrefix(string(text), `{"error":"`) {
					t.Errorf("no error: %s", text)
				}
			}
			for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
				if !strings.Contains(response.Header.Get("Content-Security-Policy"), want) {
					t.Errorf("Content-Security-Policy lacks %s: %s", want, response.Header.Get("Content-Security-Policy"))
				}
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
				if got := response.Header.Get(name); got != want {
					t.Errorf("%s: %s", name, got)
				}
			}
		})
	}
}

// Styles need a nonce, which is another one each time.
func TestNonce(t *testing.T) {
	t.Parallel()
	c := start(t, nil, nil)
	seen := map[string]bool{}
	for range 2 {
		response, err := http.DefaultClient.Do(c.request(t.Context(), "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(response.Header.Get("Content-Security-Policy"), "style-src 'self' 'nonce-")
		nonce, _, _ := strings.Cut(after, "'")
		if len(nonce) < 20 || seen[nonce] || !strings.Contains(string(text), nonce) {
			t.Errorf("nonce %q in %s", nonce, text)
		}
		seen[nonce] = true
	}
}

// A call that is no JSON, too large or misspelt is refused.
func TestBodies(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	for name, test := range map[string]struct {
		body string
		want int
	}{
		"none":     {"", 400},
		"no JSON":  {"{", 400},
		"misspelt": {`{"edit": {}}`, 400},
		"two":      {`{"edits": {}} {}`, 400},
		"a list":   {`[]`, 400},
		"large":    {`{"edits": {"a.rego": "` + strings.Repeat("a", 8<<20) + `"}}`, 413},
	} {
		for _, path := range []string{"/api/decide", "/api/check", "/api/share"} {
			r := c.request(t.Context(), "POST", path, object{})
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(test.body)), -1
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != test.want {
				t.Errorf("%s to %s: %s, want %d", name, path, response.Status, test.want)
			}
		}
	}
}

// What is read-only is never written, whichever way the page asks.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	files := map[string]string{"line/line.rego": lineRule}
	c := start(t, files, func(_ *play.Options, of *workspace.Options) { of.ReadOnly = true })
	var described struct{ ReadOnly bool }
	if c.call(200, "GET", "/api/workspace", nil, &described); !described.ReadOnly {
		t.Error("the page does not know")
	}
	var was struct{ Digest string }
	c.call(200, "GET", "/api/file?path=line/line.rego", nil, &was)
	question := object{"edits": object{}, "request": request("line", ""), "rows": []any{}}
	for _, body := range []object{
		{"path": "line/line.rego", "text": "package a", "digest": was.Digest},
		{"path": "line/line.rego", "text": nil, "digest": was.Digest},
		{"path": "new/new.rego", "text": "package a", "digest": ""},
	} {
		if text := c.call(403, "PUT", "/api/file", body, nil); !strings.Contains(text, "--read-only") {
			t.Errorf("it does not say why: %s", text)
		}
	}
	for _, as := range []string{"exchange", "test"} {
		body := maps.Clone(question)
		body["as"], body["name"] = as, "kept"
		c.call(403, "POST", "/api/keep", body, nil)
	}
	for _, path := range []string{"/api/decide", "/api/share"} { // these write nothing
		c.call(200, "POST", path, question, nil)
	}
	found := map[string]string{}
	err := filepath.WalkDir(c.folder, func(name string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			relative, _ := filepath.Rel(c.folder, name)
			found[filepath.ToSlash(relative)] = c.read(relative)
		}
		return err
	})
	if err != nil || !maps.Equal(found, files) {
		t.Errorf("there is %v (%v)", found, err)
	}
}

// request is one of a new device of a group; more is the start of deviceRuntimeContext.
func request(group, more string) string {
	return `{
  "enrollmentGroup": {"enrollmentGroupId": "` + group + `"},
  "deviceRuntimeContext": {` + more + `"registrationId": "press-1"},
  "linkedHubs": ["` + eu + `", "` + us + `"]
}
`
}

// BenchmarkDecideWhileTyping is what happens with each key: another edit of one of the starter rules, decided and
// explained, also with the saved rules.
func BenchmarkDecideWhileTyping(b *testing.B) {
	c := startShipped(b, nil)
	rule := c.read("residency/residency.rego")
	example, err := os.ReadFile("../../examples/requests/residency-by-country.json")
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		var answer struct {
			Edited struct{ Status int }
			Saved  struct{ Status int }
		}
		c.call(200, "POST", "/api/decide", object{"request": string(example), "rows": []any{},
			"edits": object{"residency/residency.rego": rule + fmt.Sprintf("\nmore := %d\n", n)}}, &answer)
		if answer.Edited.Status != 200 || answer.Saved.Status != 200 {
			b.Fatalf("%+v", answer)
		}
	}
}
