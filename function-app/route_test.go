package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestReadRoutes(t *testing.T) {
	t.Parallel()
	const trigger = `{"bindings": [{"type": "httpTrigger", "methods": ["POST"]}, {"type": "http"}]}`
	routed := func(route string) string {
		return strings.Replace(trigger, `"methods"`, `"route": "`+route+`", "methods"`, 1)
	}
	prefixed := func(prefix string) string { return `{"extensions": {"http": {"routePrefix": "` + prefix + `"}}}` }
	for _, test := range []struct {
		name         string
		host         string
		functions    map[string]string // by their folders
		want, failed string
	}{
		{"no host.json", "", map[string]string{"allocate": trigger}, "", ""},
		{"as it ships", `{"version": "2.0"}`, map[string]string{"allocate": trigger}, "/api/allocate", ""},
		{"another folder", `{}`, map[string]string{"place": trigger}, "/api/place", ""},
		{"a route", `{}`, map[string]string{"allocate": routed("devices/place")}, "/api/devices/place", ""},
		{"an empty route", `{}`, map[string]string{"allocate": routed("")}, "/api/allocate", ""},
		{"a prefix", prefixed("v1/hooks"), map[string]string{"allocate": trigger}, "/v1/hooks/allocate", ""},
		{"no prefix", prefixed(""), map[string]string{"allocate": routed("place")}, "/place", ""},
		{"several functions", `{}`, map[string]string{"a": trigger, "b": routed("c"), "timer": `{"bindings": [{"type": "timerTrigger"}]}`,
			"get": `{"bindings": [{"type": "httpTrigger", "methods": ["get"]}]}`}, "/api/a /api/c", ""},
		{"any method", `{}`, map[string]string{"a": `{"bindings": [{"type": "httptrigger"}]}`}, "/api/a", ""},
		{"parameters", `{}`, map[string]string{"a": routed("{*rest}")}, "", "a/function.json: the route /api/{*rest} has parameters"},
		{"a broken host.json", `{`, nil, "", "host.json, which says where the webhook is, cannot be read as JSON"},
		{"a broken function.json", `{}`, map[string]string{"a": `[]`}, "", "a/function.json, which says"},
	} {
		root := fstest.MapFS{}
		if test.host != "" {
			root["host.json"] = &fstest.MapFile{Data: []byte(test.host)}
		}
		for folder, text := range test.functions {
			root[folder+"/function.json"] = &fstest.MapFile{Data: []byte(text)}
		}
		got, err := readRoutes(root)
		slices.Sort(got)
		if strings.Join(got, " ") != test.want || (err == nil) != (test.failed == "") || err != nil && !strings.Contains(err.Error(), test.failed) {
			t.Errorf("%s: %q, %v", test.name, got, err)
		}
	}
}

// The program serves the path that the Functions host passes on.
func TestServesTheRouteOfTheFunction(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"host.json":           `{"extensions": {"http": {"routePrefix": "hooks"}}}`,
		"place/function.json": `{"bindings": [{"type": "httpTrigger"}]}`,
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	log := newOutput()
	go func() {
		_ = run(t.Context(), variables(map[string]string{settingHostPort: port, settingAppRoot: root, settingRules: rulesFolder(t, firstHub)}), log)
	}()
	log.wait(t, "serving")
	for path, want := range map[string]int{"/hooks/place": http.StatusOK, "/HOOKS/Place/": http.StatusOK, "/hooks/allocate": http.StatusNotFound, "/api/allocate": http.StatusNotFound} {
		response, err := http.Post("http://127.0.0.1:"+port+path, "application/json", strings.NewReader(requestBody))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, response.StatusCode, want)
		}
	}
}
