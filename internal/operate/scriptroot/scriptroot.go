// Package scriptroot reads the root of a Function App: which program the Functions host starts, and under which paths the
// host passes calls on to it.
package scriptroot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// HostFile is the file that makes a folder a script root.
const HostFile = "host.json"

// SettingRoutePrefix is the application setting that overrides routePrefix of host.json.
const SettingRoutePrefix = "AzureFunctionsJobHost__extensions__http__routePrefix"

// Host is what Usher needs of host.json.
type Host struct {
	ConfigurationProfile string
	CustomHandler        struct {
		Description struct{ DefaultExecutablePath string }
		HTTP        struct{ Routes []struct{ Route string } }
	}
	Extensions struct {
		HTTP struct{ RoutePrefix *string }
	}
}

// ReadHost reads host.json.
func ReadHost(root fs.FS) (Host, error) {
	var host Host
	return host, read(root, HostFile, &host)
}

// Functions returns the function.json of each function, sorted.
func Functions(root fs.FS) ([]string, error) { return fs.Glob(root, "*/function.json") }

// Routes returns the paths of POST under which the Functions host passes calls on: for each function, the route prefix and
// the function's route, which is the name of its folder by default. getenv finds application settings.
//
// A route that the webhook cannot serve, or with which the host does not start, is an error. So is a root in which no
// function takes POST: each device would fail.
//
// Source: https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger
func Routes(root fs.FS, getenv func(string) string) ([]string, error) {
	host, err := ReadHost(root)
	if err != nil {
		return nil, err
	}
	if p := host.ConfigurationProfile; p != "" && !strings.EqualFold(p, "default") {
		return nil, fmt.Errorf("%s: /configurationProfile: %q sends every path to the webhook, which has only its own: remove it", HostFile, p)
	}
	prefix := "api"
	if given := host.Extensions.HTTP.RoutePrefix; given != nil {
		prefix = *given
	}
	place := HostFile + ": /extensions/http/routePrefix"
	if given := getenv(SettingRoutePrefix); given != "" {
		prefix, place = given, SettingRoutePrefix
	}
	if strings.HasSuffix(prefix, "/") {
		return nil, fmt.Errorf("%s: the Functions host does not start with %q: remove the slash at its end", place, prefix)
	}
	var routes []string
	add := func(place, route string) error {
		whole := strings.TrimPrefix(strings.TrimPrefix(prefix+"/"+route, "/"), "/")
		switch {
		case strings.ContainsAny(whole, "{}"):
			return fmt.Errorf("%s: the route /%s has parameters, but the webhook has one path: give it a route such as allocate", place, whole)
		case strings.Contains(whole, "//"):
			return fmt.Errorf("%s: the Functions host does not start with the route /%s: remove the slash that is doubled", place, whole)
		}
		routes = append(routes, "/"+strings.TrimSuffix(whole, "/"))
		return nil
	}
	for i, given := range host.CustomHandler.HTTP.Routes {
		if err := add(fmt.Sprintf("%s: /customHandler/http/routes/%d", HostFile, i), given.Route); err != nil {
			return nil, err
		}
	}
	files, err := Functions(root)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		var function struct {
			Disabled bool
			Bindings []struct {
				Type    string
				Route   string
				Methods []string
			}
		}
		if err := read(root, file, &function); err != nil {
			return nil, err
		}
		for _, binding := range function.Bindings {
			takesPost := len(binding.Methods) == 0 || slices.ContainsFunc(binding.Methods, func(m string) bool { return strings.EqualFold(m, "post") })
			if function.Disabled || !takesPost || !strings.EqualFold(binding.Type, "httpTrigger") {
				continue
			}
			route := binding.Route
			if route == "" {
				route = path.Dir(file)
			}
			if err := add(file, route); err != nil {
				return nil, err
			}
		}
	}
	if len(routes) == 0 {
		return nil, errors.New(`no function takes POST over HTTP, with which DPS calls: add "post" to methods in allocate/function.json`)
	}
	return routes, nil
}

// read decodes a file, without the byte order mark that editors on Windows write. The host also takes comments; Usher does
// not, and says so.
func read(root fs.FS, name string, into any) error {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return err
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	err = json.Unmarshal(text, into)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		line := 1 + bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte("\n"))
		return fmt.Errorf("%s:%d: %w (remove comments and commas at the end of lists, if there are any)", name, line, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
