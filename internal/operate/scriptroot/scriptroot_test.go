package scriptroot_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/internal/operate/scriptroot"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	const trigger = `{"bindings": [{"type": "httpTrigger", "methods": ["POST"]}, {"type": "http"}]}`
	routed := func(route string) string {
		return strings.Replace(trigger, `"methods"`, `"route": "`+route+`", "methods"`, 1)
	}
	prefixed := func(prefix string) string { return `{"extensions": {"http": {"routePrefix": "` + prefix + `"}}}` }
	one := map[string]string{"allocate": trigger}
	for _, test := range []struct {
		name         string
		host         string
		functions    map[string]string // by their folders
		prefix       string            // as an application setting
		want, failed string
	}{
		{"as it ships", `{"version": "2.0"}`, one, "", "/api/allocate", ""},
		{"another folder", `{}`, map[string]string{"place": trigger}, "", "/api/place", ""},
		{"a route", `{}`, map[string]string{"allocate": routed("devices/place")}, "", "/api/devices/place", ""},
		{"an empty route", `{}`, map[string]string{"allocate": routed("")}, "", "/api/allocate", ""},
		{"a slash at the end", `{}`, map[string]string{"allocate": routed("place/")}, "", "/api/place", ""},
		{"a prefix", prefixed("v1/hooks"), one, "", "/v1/hooks/allocate", ""},
		{"a prefix with a slash", prefixed("/v1"), one, "", "/v1/allocate", ""},
		{"no prefix", prefixed(""), map[string]string{"allocate": routed("place")}, "", "/place", ""},
		{"no prefix and a slash", prefixed(""), map[string]string{"allocate": routed("/place")}, "", "/place", ""},
		{"a prefix by a setting", prefixed("v1"), one, "v2", "/v2/allocate", ""},
		{"several functions", `{}`, map[string]string{"a": trigger, "b": routed("c"), "timer": `{"bindings": [{"type": "timerTrigger"}]}`,
			"get": `{"bindings": [{"type": "httpTrigger", "methods": ["get"]}]}`, "off": `{"disabled": true, ` + trigger[1:]}, "", "/api/a /api/c", ""},
		{"any method", `{}`, map[string]string{"a": `{"bindings": [{"type": "httptrigger"}]}`}, "", "/api/a", ""},
		{"routes in host.json", `{"customHandler": {"http": {"routes": [{"route": "place"}]}}}`, nil, "", "/api/place", ""},
		{"a byte order mark", "\xef\xbb\xbf{}", map[string]string{"a": "\xef\xbb\xbf" + trigger}, "", "/api/a", ""},

		{"no host.json", "", one, "", "", "host.json"},
		{"no POST", `{}`, map[string]string{"get": `{"bindings": [{"type": "httpTrigger", "methods": ["get"]}]}`}, "", "", `add "post" to methods`},
		{"parameters", `{}`, map[string]string{"a": routed("{*rest}")}, "", "", "a/function.json: the route /api/{*rest} has parameters"},
		{"parameters in host.json", `{"customHandler": {"http": {"routes": [{"route": "a"}, {"route": "{*route}"}]}}}`, nil, "", "", "host.json: /customHandler/http/routes/1: the route /api/{*route} has parameters"},
		{"a profile", `{"configurationProfile": "mcp-custom-handler"}`, nil, "", "", "/configurationProfile: \"mcp-custom-handler\" sends every path"},
		// The host does not start with these.
		{"a prefix that ends in a slash", prefixed("v1/"), one, "", "", "host.json: /extensions/http/routePrefix: the Functions host does not start"},
		{"a setting that ends in a slash", `{}`, one, "v1/", "", scriptroot.SettingRoutePrefix + ": the Functions host does not start"},
		{"a route that starts with a slash", `{}`, map[string]string{"a": routed("/place")}, "", "", "a/function.json: the Functions host does not start with the route /api//place"},
		{"a doubled slash", `{}`, map[string]string{"a": routed("x//y")}, "", "", "remove the slash that is doubled"},
		// The host takes these.
		{"a comment", "{\n// why\n}", one, "", "", "host.json:2: invalid character '/'"},
		{"a comma too many", `{}`, map[string]string{"a": "{\n\"bindings\": [],\n}"}, "", "", "a/function.json:3: invalid character '}'"},

		{"a broken host.json", `{`, nil, "", "", "host.json:1: "},
		{"a function.json of another shape", `{}`, map[string]string{"a": `[]`}, "", "", "a/function.json: "},
	} {
		root := fstest.MapFS{}
		if test.host != "" {
			root["host.json"] = &fstest.MapFile{Data: []byte(test.host)}
		}
		for folder, text := range test.functions {
			root[folder+"/function.json"] = &fstest.MapFile{Data: []byte(text)}
		}
		got, err := scriptroot.Routes(root, func(name string) string {
			return map[string]string{scriptroot.SettingRoutePrefix: test.prefix}[name]
		})
		slices.Sort(got)
		if strings.Join(got, " ") != test.want || (err == nil) != (test.failed == "") || err != nil && !strings.Contains(err.Error(), test.failed) {
			t.Errorf("%s: %q, %v", test.name, got, err)
		}
	}
}
