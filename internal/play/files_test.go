package play_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type savedFile struct{ Path, Text, Digest string }

func TestWorkspace(t *testing.T) {
	t.Parallel()
	c := startShipped(t, nil)
	write(t, filepath.Join(c.folder, ".git/config.yaml"), "hidden: true")
	var got struct {
		Name, Version string
		Files         []struct{ Path, Digest, Kind string }
		Rules         []struct {
			Package, Title, Place string
			Enrollments           []string
		}
	}
	c.call(200, "GET", "/api/workspace", nil, &got)
	kinds := map[string]string{}
	for _, f := range got.Files {
		kinds[f.Path] = f.Kind
		if strings.HasPrefix(f.Path, ".") || !strings.HasPrefix(f.Digest, "sha256:") {
			t.Errorf("%+v", f)
		}
	}
	for path, want := range map[string]string{
		"breakroom/breakroom.rego": "rule", "default/default.rego": "rule", "lib/dps.rego": "library", "lib/dps_test.rego": "test",
		"residency/data.json": "data", "inventory/data.schema.json": "schema", "inventory/lookups.yaml": "lookups",
		"hub_fixture.csv": "fixture", "fill/settled.decision.json": "exchange", "embed.go": "",
	} {
		if kinds[path] != want {
			t.Errorf("%s is %q, want %q", path, kinds[path], want)
		}
	}
	found := false
	for _, r := range got.Rules {
		if r.Package == "allocation.residency" {
			found = r.Title == "Data residency" && r.Place == "residency/residency.rego:1" && cmp.Equal(r.Enrollments, []string{"*-factory"})
		}
	}
	if got.Version != "v1" || got.Name != c.folder || !found {
		t.Errorf("%+v", got)
	}
}

// A file is saved only over what the edit began from.
func TestSave(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	var began, other, saved savedFile
	c.call(200, "GET", "/api/file?path=line/line.rego", nil, &began)
	if began.Text != lineRule {
		t.Fatalf("%+v", began)
	}
	put := func(want int, path string, text any, digest string, into any) {
		t.Helper()
		c.call(want, "PUT", "/api/file", object{"path": path, "text": text, "digest": digest}, into)
	}
	put(200, "line/line.rego", "one", began.Digest, &saved)
	if c.read("line/line.rego") != "one" || saved.Digest == began.Digest {
		t.Errorf("%+v", saved)
	}
	put(409, "line/line.rego", "mine", began.Digest, &other)
	if other.Text != "one" || other.Digest != saved.Digest || c.read("line/line.rego") != "one" {
		t.Errorf("a change is lost: %+v", other)
	}
	put(200, "line/line.rego", "mine", other.Digest, &saved)

	put(200, "new/deep/new_test.rego", "package a", "", &saved)
	put(409, "new/deep/new_test.rego", "package b", "", &other)
	if other.Text != "package a" || other.Digest != saved.Digest || c.read("new/deep/new_test.rego") != "package a" {
		t.Errorf("a new file is lost: %+v", other)
	}
	// Removed by another program.
	if err := os.Remove(filepath.Join(c.folder, "new/deep/new_test.rego")); err != nil {
		t.Fatal(err)
	}
	other = savedFile{Digest: "is to be empty"}
	put(409, "new/deep/new_test.rego", "package b", saved.Digest, &other)
	if other.Digest != "" {
		t.Errorf("%+v", other)
	}
	// By this page.
	put(409, "line/line.rego", nil, began.Digest, nil)
	c.call(200, "GET", "/api/file?path=line/line.rego", nil, &began)
	put(200, "line/line.rego", nil, began.Digest, nil)
	c.call(404, "GET", "/api/file?path=line/line.rego", nil, nil)
	// Nothing is left behind.
	names, err := filepath.Glob(filepath.Join(c.folder, "line", ".*"))
	if err != nil || len(names) > 0 {
		t.Errorf("%v (%v)", names, err)
	}
}

// The mode of a file stays, and so does what a link leads to.
func TestSaveKeepsModeAndLinks(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has neither")
	}
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	name := filepath.Join(c.folder, "line/line.rego")
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("line.rego", filepath.Join(c.folder, "line/link.rego")); err != nil {
		t.Fatal(err)
	}
	var began savedFile
	c.call(200, "GET", "/api/file?path=line/link.rego", nil, &began)
	c.call(400, "PUT", "/api/file", object{"path": "line/link.rego", "text": "a", "digest": began.Digest}, nil)
	c.call(200, "PUT", "/api/file", object{"path": "line/line.rego", "text": "a", "digest": began.Digest}, nil)
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// No path leads out of the folder, to what is hidden, or to what is no file of rules.
func TestPathsStayInside(t *testing.T) {
	t.Parallel()
	const secret = "the secret"
	c := start(t, map[string]string{
		"rules/line/line.rego": lineRule, "outside.json": secret, "rules/.hidden/a.json": secret, "rules/.env.json": secret,
		"rules/a.sh": secret, "rules/sub.json/data.yaml": "a: 1",
	}, nil)
	rules := serve(t, filepath.Join(c.folder, "rules"), nil)
	paths := []string{
		"../outside.json", "line/../../outside.json", "/etc/passwd", c.folder + "/outside.json", "..", ".", "", "line", "line/",
		"./line/line.rego", "line//line.rego", `..\outside.json`, `line\line.rego`, ".hidden/a.json", ".env.json", "a.sh",
		"line/line.rego\x00.json", "line/\n.rego", "..%2foutside.json", "c:/outside.json", "c:outside.json",
		strings.Repeat("a", 600) + ".rego",
	}
	for path, want := range map[string]int{"%2e%2e%2foutside.json": 400, "%252e%252e%252foutside.json": 404, "%ff.rego": 400, "line/line.rego&path=../outside.json": 200} {
		if text := rules.call(want, "GET", "/api/file?path="+path, nil, nil); strings.Contains(text, secret) {
			t.Errorf("%s: %s", path, text)
		}
	}
	for _, path := range paths {
		rules.call(400, "POST", "/api/decide", object{"edits": object{path: "{}"}, "request": "{}", "rows": []any{}}, nil)
	}
	paths = append(paths, "sub.json", "line/line.rego/data.json") // one is a folder, the other below a file
	if runtime.GOOS != "windows" {
		for link, target := range map[string]string{
			"link.json": "../outside.json", "absolute.json": filepath.Join(c.folder, "outside.json"), "up": "..", "loop.json": "loop.json",
		} {
			if err := os.Symlink(target, filepath.Join(rules.folder, link)); err != nil {
				t.Fatal(err)
			}
		}
		paths = append(paths, "link.json", "absolute.json", "up/outside.json", "up/new.json", "loop.json")
	}
	for _, path := range paths {
		for _, r := range []*http.Request{
			rules.request(t.Context(), "GET", "/api/file?path="+url.QueryEscape(path), nil),
			rules.request(t.Context(), "PUT", "/api/file", object{"path": path, "text": "written", "digest": ""}),
		} {
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			var answer struct{ Error, Text string }
			err = json.NewDecoder(response.Body).Decode(&answer)
			response.Body.Close()
			if err != nil || response.StatusCode < 400 || answer.Error == "" || strings.Contains(answer.Text+answer.Error, secret) {
				t.Errorf("%s %q: %s: %+v (%v)", r.Method, path, response.Status, answer, err)
			}
		}
	}
	if c.read("outside.json") != secret || c.read("rules/.env.json") != secret || c.read("rules/a.sh") != secret {
		t.Error("something was written")
	}
	if _, err := os.Stat(filepath.Join(c.folder, "new.json")); err == nil {
		t.Error("a file was written outside")
	}
}

// Rules that need a file which leads out of the folder do not load; another file does not matter.
func TestLinksOut(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("links need a privilege on Windows")
	}
	c := start(t, map[string]string{"rules/line/line.rego": lineRule, "data.json": `{"a": 1}`}, nil)
	rules := serve(t, filepath.Join(c.folder, "rules"), nil)
	question := object{"edits": object{}, "request": request("line", ""), "rows": []any{}}
	for _, test := range []struct{ link, want string }{{"line/note.json", `"status":200`}, {"line/data.json", `"file":"line/data.json"`}} {
		if err := os.Symlink("../../data.json", filepath.Join(rules.folder, test.link)); err != nil {
			t.Fatal(err)
		}
		if text := rules.call(200, "POST", "/api/decide", question, nil); !strings.Contains(text, test.want) {
			t.Errorf("with %s: %s", test.link, text)
		}
	}
}

// event is one of a stream.
type event struct{ name, data string }

// events reads a stream until ctx ends.
func (c *client) events(ctx context.Context, method, path string, body any) <-chan event {
	c.t.Helper()
	response, err := http.DefaultClient.Do(c.request(ctx, method, path, body))
	if err != nil {
		c.t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); response.StatusCode != 200 || !strings.HasPrefix(got, "text/event-stream") {
		c.t.Fatalf("%s: %s", response.Status, got)
	}
	found := make(chan event)
	go func() {
		defer close(found)
		defer response.Body.Close()
		var e event
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				e.name = value
			case "data":
				e.data = value
			case "":
				select {
				case found <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return found
}

// The page hears of every change on disk, also in new folders, and the server ends when the page goes.
func TestEvents(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	events := c.events(ctx, "GET", "/api/events", nil)
	// until reads events up to one that has or lacks a file. Two changes can be one event.
	until := func(path string, there bool) {
		t.Helper()
		for e := range events {
			if e.name == "files" && strings.Contains(e.data, `"`+path+`"`) == there {
				return
			}
		}
		t.Fatalf("no event about %s", path)
	}
	until("line/line.rego", true)
	write(t, filepath.Join(c.folder, "new/new.rego"), "package new")
	until("new/new.rego", true)
	write(t, filepath.Join(c.folder, "new/data.json"), "{}")
	until("new/data.json", true)
	if err := os.RemoveAll(filepath.Join(c.folder, "new")); err != nil {
		t.Fatal(err)
	}
	until("new/new.rego", false)
	leave()
	for path := range c.ended {
		if path == "/api/events" {
			return
		}
	}
}

// The page of the docs lists calls that there are.
func TestDocumentedCalls(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	text, err := os.ReadFile("../../docs/play.md")
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile("(?m)^\\| ([A-Z]+) `(/api/[^`]+)` \\|").FindAllStringSubmatch(string(text), -1)
	if len(calls) < 14 {
		t.Fatalf("there are %v", calls)
	}
	for _, call := range calls {
		if strings.HasSuffix(call[2], "/ID") || strings.HasPrefix(call[2], "/api/fleet") { // 404 is right
			continue
		}
		var body any
		if call[1] != "GET" {
			body = object{}
		}
		response, err := http.DefaultClient.Do(c.request(t.Context(), call[1], call[2], body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == 404 || response.StatusCode >= 500 {
			t.Errorf("%s %s: %s", call[1], call[2], response.Status)
		}
	}
}
