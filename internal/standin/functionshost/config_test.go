package functionshost_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// TestConfigErrors runs the archives in testdata/config. Each contains a script root and, in want.txt, the error of
// New. If a line ends with "...", the rest of it is not compared.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/config/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			contents := map[string]string{}
			for _, f := range archive.Files {
				contents[f.Name] = string(f.Data)
			}
			want, ok := contents["want.txt"]
			if !ok {
				t.Fatal("no want.txt")
			}
			delete(contents, "want.txt")
			root := writeFiles(t, contents)
			_, err = functionshost.New(functionshost.Options{Root: root, Environ: []string{}})
			if err == nil {
				t.Fatalf("New() = nil, want\n%s", want)
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), root, "ROOT"), "\n")
			lines := strings.Split(strings.TrimSuffix(want, "\n"), "\n")
			if len(got) != len(lines) {
				t.Fatalf("New() =\n%s\nwant\n%s", strings.Join(got, "\n"), want)
			}
			for i, line := range lines {
				if begin, ok := strings.CutSuffix(line, "..."); ok && strings.HasPrefix(got[i], begin) {
					continue
				}
				if got[i] != line {
					t.Errorf("line %d of the error:\n got %s\nwant %s", i+1, got[i], line)
				}
			}
		})
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	const response = `{"type": "http", "direction": "out", "name": "res"}`
	root := writeFiles(t, map[string]string{
		"host.json":             "\xef\xbb\xbf" + `{"Version": "2.0", "CustomHandler": {"Description": {"DefaultExecutablePath": "%TEST_BINARY%"}, "EnableProxyingHttpRequest": true}, "extensions": {"http": {"routePrefix": "/v1"}}, "logging": {"anything": ["goes"]}}`,
		"zulu/function.json":    `{"bindings": [{"type": "HTTPTRIGGER", "direction": "In", "name": "req"}, ` + response + `]}`,
		"Alpha/function.json":   `{"$schema": "ignored", "bindings": [` + response + `, {"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "Admin", "methods": ["get", "Post"], "route": "things/{id?}/"}]}`,
		"off/function.json":     `{"disabled": true, "bindings": [{"type": "httpTrigger", "direction": "in", "name": "req"}, ` + response + `]}`,
		"twice/function.json":   `{"bindings": [{"type": "httpTrigger", "direction": "in", "name": "req", "route": "ZULU"}, ` + response + `]}`,
		"runtime2/readme.txt":   "",
		"adminish/run.json":     "",
		"stray/a/function.json": "{",
	})
	host, err := functionshost.New(functionshost.Options{Root: root, Environ: []string{"TEST_BINARY=" + os.Args[0]}})
	if err != nil {
		t.Fatal(err)
	}
	want := []functionshost.Route{
		{Function: "Alpha", Methods: []string{"GET", "POST"}, Path: "/v1/things/{id?}", AuthLevel: functionshost.AuthAdmin},
		{Function: "twice", Path: "/v1/ZULU", AuthLevel: functionshost.AuthFunction},
	}
	if diff := cmp.Diff(want, host.Routes(), cmpopts.IgnoreUnexported(functionshost.Route{})); diff != "" {
		t.Errorf("Routes() (-want +got):\n%s", diff)
	}
}

// The host was measured with each of these: it ends at a doubled slash, also at one that comes from the prefix.
func TestRoutePrefix(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ prefix, setting, route, want string }{
		{"v1", "", "x", "/v1/x"}, {"/v1", "", "x", "/v1/x"}, {"v1", "", "x/", "/v1/x"}, {"", "", "/x", "/x"}, {"v1", "hooks", "x", "/hooks/x"},
		{"v1/", "", "x", ""}, {"/v1/", "", "x", ""}, {"v1", "", "/x", ""}, {"v1", "", "x//y", ""}, {"v1", "hooks/", "x", ""},
	} {
		root := writeFiles(t, map[string]string{
			"host.json":       `{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "%TEST_BINARY%"}, "enableProxyingHttpRequest": true}, "extensions": {"http": {"routePrefix": "` + c.prefix + `"}}}`,
			"f/function.json": `{"bindings": [{"type": "httpTrigger", "direction": "in", "name": "req", "route": "` + c.route + `"}, {"type": "http", "direction": "out", "name": "res"}]}`,
		})
		environ := []string{"TEST_BINARY=" + os.Args[0]}
		if c.setting != "" {
			environ = append(environ, "AzureFunctionsJobHost__extensions__http__routePrefix="+c.setting)
		}
		host, err := functionshost.New(functionshost.Options{Root: root, Environ: environ})
		switch {
		case c.want == "" && (err == nil || !strings.Contains(err.Error(), "f/function.json:1") || !strings.Contains(err.Error(), "remove the double slash")):
			t.Errorf("%+v: %v", c, err)
		case c.want != "" && (err != nil || host.Routes()[0].Path != c.want):
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestMissingExecutable(t *testing.T) {
	t.Parallel()
	root := writeFiles(t, map[string]string{"plain.txt": "no program"})
	for _, c := range []struct {
		name, binary string
		notExist     bool
		want         string
	}{
		{"a path", filepath.Join(root, "bin", "none"), true, "no such file"},
		{"a name", "no-such-program-anywhere", true, "it is neither in "},
		{"a folder", root, false, "is a folder"},
		{"not executable", filepath.Join(root, "plain.txt"), false, "is not executable: chmod +x it"},
	} {
		_, err := functionshost.New(functionshost.Options{Root: scriptRoot(t, ""), Environ: []string{"TEST_BINARY=" + c.binary}})
		var startError *functionshost.StartError
		if !errors.As(err, &startError) || errors.Is(err, fs.ErrNotExist) != c.notExist || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: New() = %v, want a StartError with %q", c.name, err, c.want)
		}
	}
}

func TestMatchPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		template, path string
		want           bool
	}{
		{"/api/a", "/api/a", true}, {"/api/a", "/API/A/", true}, {"/api/a", "/api/a//", false}, {"/api/a", "/api", false},
		{"/api/{x}", "/api/1", true}, {"/api/{x}", "/api/", false}, {"/api/{x}/b", "/api//b", false}, {"/api/{x}/b", "/api/1/B", true},
		{"/api/{x?}", "/api", true}, {"/api/{x?}", "/api/1/2", false}, {"/{*all}", "/", true}, {"/{**all}", "/a//b", true}, {"/a/{*all}", "/", false},
	} {
		if got, err := functionshost.MatchPath(c.template, c.path); err != nil || got != c.want {
			t.Errorf("%s matches %s = %v, %v; want %v", c.template, c.path, got, err, c.want)
		}
	}
}

func TestParseTimeSpan(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"00:00:30": "30s", "00:05": "5m0s", "1.02:03:04": "26h3m4s", "00:00:00.5": "500ms", " 01:00:00 ": "1h0m0s",
		"": "", "30": "", "00:60:00": "", "24:00:00": "", "-00:00:01": "", "0:0:0:0": "", "1e3:00": "",
	} {
		got, err := functionshost.ParseTimeSpan(in)
		if want == "" && err == nil || want != "" && (err != nil || got.String() != want) {
			t.Errorf("ParseTimeSpan(%q) = %v, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzPaths(f *testing.F) {
	for _, seed := range []string{"/", "/api/a%2Fb", "/a/../b", "/%2e%2e/%2E", "//", "/..", "/%ff%00", "*", "/%C3%BC"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		path, err := functionshost.DecodePath(escaped)
		if err != nil {
			return
		}
		if !strings.HasPrefix(path, "/") {
			t.Fatalf("DecodePath(%q) = %q, want a path from the root", escaped, path)
		}
		for _, segment := range strings.Split(path, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("DecodePath(%q) = %q keeps a dot segment", escaped, path)
			}
		}
		encoded := functionshost.EncodePath(path)
		if i := strings.IndexFunc(encoded, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`?#"<>\^{|}[]`+"`", r) }); i >= 0 {
			t.Fatalf("EncodePath(%q) = %q has a character that a request line must not have", path, encoded)
		}
	})
}

func FuzzQueries(f *testing.F) {
	for _, seed := range []string{"a=1&b=%2f", "%", "%4", "%zz", "%C3%bc", "{\"a\"}", "%41%7e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		once := functionshost.EncodeQuery(query)
		if twice := functionshost.EncodeQuery(once); twice != once {
			t.Fatalf("EncodeQuery(%q) = %q, and again %q", query, once, twice)
		}
	})
}

func FuzzHostFile(f *testing.F) {
	for _, seed := range []string{`{"version": "2.0"}`, `{"customHandler": {"port": "x"}}`, `{"a":`, `[]`, `{"a":1,"a":2}`, "{\"\\u0000\":\n\"\\\"\"}", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := functionshost.ParseHostFile(data); err != nil && !strings.HasPrefix(err.Error(), "host.json") {
			t.Fatalf("%q: the error %q does not name the file", data, err)
		}
	})
}
