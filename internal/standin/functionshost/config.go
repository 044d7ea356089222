package functionshost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// hostFile is the part of host.json that concerns a custom handler. The rest of the file is ignored.
type hostFile struct {
	Version              string         `json:"version"`
	FunctionTimeout      *string        `json:"functionTimeout"`
	ConfigurationProfile string         `json:"configurationProfile"`
	CustomHandler        *customHandler `json:"customHandler"`
	Extensions           struct {
		HTTP struct {
			RoutePrefix            *string `json:"routePrefix"`
			MaxConcurrentRequests  *int    `json:"maxConcurrentRequests"`
			MaxOutstandingRequests *int    `json:"maxOutstandingRequests"`
		} `json:"http"`
	} `json:"extensions"`
}

type customHandler struct {
	Description struct {
		DefaultExecutablePath         string   `json:"defaultExecutablePath"`
		Arguments                     []string `json:"arguments"`
		WorkingDirectory              string   `json:"workingDirectory"`
		WorkerDirectory               string   `json:"workerDirectory"`
		UseStdErrorStreamForErrorOnly *bool    `json:"useStdErrorStreamForErrorsOnly"`
	} `json:"description"`
	EnableForwardingHTTPRequest bool           `json:"enableForwardingHttpRequest"`
	EnableProxyingHTTPRequest   bool           `json:"enableProxyingHttpRequest"`
	InitializationTimeout       *string        `json:"initializationTimeout"`
	Port                        int            `json:"port"`
	Type                        string         `json:"type"`
	HTTP                        jsontext.Value `json:"http"`
}

// functionFile is a function.json.
type functionFile struct {
	Disabled bool      `json:"disabled"`
	Bindings []binding `json:"bindings"`
}

type binding struct {
	Type      string   `json:"type"`
	Direction string   `json:"direction"`
	Name      string   `json:"name"`
	AuthLevel string   `json:"authLevel"`
	Methods   []string `json:"methods"`
	Route     *string  `json:"route"`
}

// config is the checked content of a script root.
type config struct {
	root             string // absolute
	executable       string // as in host.json, with %VARIABLES%
	arguments        []string
	workingDirectory string
	workerDirectory  string
	stderrIsError    bool // a stderr line without "warn" is always an error; if false, its words decide
	port             int  // of the handler; 0 picks a free one
	readyTimeout     time.Duration
	functionTimeout  time.Duration // 0 is unbounded
	maxConcurrent    int           // 0 is unlimited
	maxOutstanding   int           // 0 is unlimited
	routes           []Route
	dropped          []error // why the host would leave out functions
	environment      map[string]string
}

const (
	// defaultFunctionTimeout is the host's outside the Consumption plan.
	defaultFunctionTimeout = 30 * time.Minute
	// defaultReadyTimeout is the host's customHandler.initializationTimeout.
	defaultReadyTimeout = 30 * time.Second
)

// functionName is the host's rule for folder names; "host" is reserved.
var functionName = regexp.MustCompile(`(?i)^[a-z][a-z0-9_\-]{0,127}$`)

// settingRoutePrefix overrides routePrefix of host.json. (measured)
const settingRoutePrefix = "AzureFunctionsJobHost__extensions__http__routePrefix"

// loadConfig reads the script root, which environ can override. It reports the errors of all files together.
func loadConfig(root string, environ []string) (*config, error) {
	absolute, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	c := &config{root: absolute}
	prefix, hostErr := c.loadHostFile()
	settingsErr := c.loadSettings()
	if given, set := mergeEnviron(environ, c.environment)[settingRoutePrefix]; set {
		prefix = given
	}
	functionsErr := c.loadFunctions(prefix)
	if err := errors.Join(hostErr, functionsErr, settingsErr); err != nil {
		return nil, err
	}
	if len(c.routes) == 0 {
		return nil, errors.Join(append([]error{fmt.Errorf(
			"%s: no functions found: a function is a folder here that contains function.json, such as allocate/function.json", c.root)}, c.dropped...)...)
	}
	return c, nil
}

func (c *config) loadHostFile() (prefix string, err error) {
	var file hostFile
	d, err := readDocument(filepath.Join(c.root, "host.json"), "host.json", &file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: no host.json: this is not a script root of Azure Functions; name the folder that contains it", c.root)
	}
	if err != nil {
		return "", err
	}
	if file.Version != "2.0" {
		return "", d.errorf("/version", `the host accepts only "version": "2.0", found %q`, file.Version)
	}
	if p := file.ConfigurationProfile; p != "" && !strings.EqualFold(p, "default") {
		return "", d.errorf("/configurationProfile", "%q: this stand-in does not support configuration profiles; write out what the profile sets, or use func start", p)
	}
	h := file.CustomHandler
	if h == nil {
		return "", d.errorf("/customHandler", `missing: it names the program to start, such as {"description": {"defaultExecutablePath": "bin/handler"}, "enableProxyingHttpRequest": true}`)
	}
	if err := errors.Join(
		d.onlyKnown("/customHandler", "description", "enableForwardingHttpRequest", "enableProxyingHttpRequest", "initializationTimeout", "port", "type", "http"),
		d.onlyKnown("/customHandler/description", "defaultExecutablePath", "defaultWorkerPath", "arguments", "workerArguments", "workingDirectory", "workerDirectory", "useStdErrorStreamForErrorsOnly"),
	); err != nil {
		return "", err
	}
	switch {
	case h.Type != "" && !strings.EqualFold(h.Type, "http"):
		return "", d.errorf("/customHandler/type", `%q: the host knows only "Http"`, h.Type)
	case d.has("/customHandler/http"):
		return "", d.errorf("/customHandler/http", "this stand-in takes routes only from function.json; for routes in host.json use func start")
	case d.has("/customHandler/description/defaultWorkerPath"), d.has("/customHandler/description/workerArguments"):
		return "", d.errorf("/customHandler/description", "defaultWorkerPath and workerArguments are for interpreted handlers: name the program in defaultExecutablePath and its arguments in arguments")
	case h.EnableForwardingHTTPRequest:
		return "", d.errorf("/customHandler/enableForwardingHttpRequest", `this stand-in supports only proxying mode: remove it and set "enableProxyingHttpRequest": true`)
	case !h.EnableProxyingHTTPRequest:
		return "", d.errorf("/customHandler/enableProxyingHttpRequest", `this stand-in supports only proxying mode, and without this setting the host wraps every request in JSON: set "enableProxyingHttpRequest": true`)
	case h.Description.DefaultExecutablePath == "":
		return "", d.errorf("/customHandler/description/defaultExecutablePath", "missing or empty: it names the handler's program, relative to host.json")
	case h.Port < 0 || h.Port > 65535:
		return "", d.errorf("/customHandler/port", "%d is not a TCP port", h.Port)
	}
	c.executable = h.Description.DefaultExecutablePath
	c.arguments = h.Description.Arguments
	c.workingDirectory = h.Description.WorkingDirectory
	c.workerDirectory = h.Description.WorkerDirectory
	c.stderrIsError = h.Description.UseStdErrorStreamForErrorOnly == nil || *h.Description.UseStdErrorStreamForErrorOnly
	c.port = h.Port

	c.readyTimeout = defaultReadyTimeout
	if h.InitializationTimeout != nil {
		if c.readyTimeout, err = parseTimeSpan(*h.InitializationTimeout); err != nil || c.readyTimeout <= 0 {
			return "", d.errorf("/customHandler/initializationTimeout", `%q is not a positive time span; write "00:00:30" for 30 seconds`, *h.InitializationTimeout)
		}
	}
	c.functionTimeout = defaultFunctionTimeout
	if file.FunctionTimeout != nil {
		if *file.FunctionTimeout == "-1" {
			c.functionTimeout = 0
		} else if c.functionTimeout, err = parseTimeSpan(*file.FunctionTimeout); err != nil || c.functionTimeout < time.Second {
			return "", d.errorf("/functionTimeout", `%q is not a time span of a second or more; write "00:00:30" for 30 seconds, "-1" for no limit`, *file.FunctionTimeout)
		}
	}
	if c.maxConcurrent, err = limit(d, "/extensions/http/maxConcurrentRequests", file.Extensions.HTTP.MaxConcurrentRequests); err != nil {
		return "", err
	}
	if c.maxOutstanding, err = limit(d, "/extensions/http/maxOutstandingRequests", file.Extensions.HTTP.MaxOutstandingRequests); err != nil {
		return "", err
	}
	prefix = "api"
	if p := file.Extensions.HTTP.RoutePrefix; p != nil {
		prefix = *p
	}
	return prefix, nil
}

// limit checks one of the host's request limits. -1, the default, means unlimited.
func limit(d *document, p jsontext.Pointer, v *int) (int, error) {
	switch {
	case v == nil || *v == -1:
		return 0, nil
	case *v < 1:
		return 0, d.errorf(p, "%d: want a positive number, or -1 for no limit", *v)
	default:
		return *v, nil
	}
}

// loadFunctions reads every direct subfolder that contains function.json, in the order of their names. The host tries
// their routes in this order.
func (c *config) loadFunctions(prefix string) error {
	entries, err := os.ReadDir(c.root)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		var file functionFile
		name := entry.Name()
		d, err := readDocument(filepath.Join(c.root, name, "function.json"), name+"/function.json", &file)
		if err != nil {
			// Most folders and all files (ENOTDIR) of a script root contain no function.json.
			if _, statErr := os.Stat(filepath.Join(c.root, name, "function.json")); statErr == nil {
				errs = append(errs, err)
			}
			continue
		}
		if !functionName.MatchString(name) || strings.EqualFold(name, "host") {
			errs = append(errs, fmt.Errorf("%s: %q is not a function name: a letter, then at most 127 letters, digits, - or _, and not \"host\"; rename the folder", d.name, name))
			continue
		}
		route, err := httpRoute(d, name, prefix, file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if file.Disabled {
			continue
		}
		if err := c.checkRoute(d, route); err != nil {
			c.dropped = append(c.dropped, err)
			continue
		}
		c.routes = append(c.routes, route)
	}
	return errors.Join(errs...)
}

// checkRoute returns an error if the host would leave out the function because of its route.
func (c *config) checkRoute(d *document, route Route) error {
	own := strings.ToLower(route.template)
	if strings.HasPrefix(own, "admin") || strings.HasPrefix(own, "runtime") {
		return d.errorf("/bindings", "function %q is left out: routes that start with \"admin\" or \"runtime\" are reserved for the host; rename its route", route.Function)
	}
	for _, other := range c.routes {
		if strings.EqualFold(other.Path, route.Path) && methodsOverlap(other.Methods, route.Methods) {
			return d.errorf("/bindings", "function %q is left out: function %[3]q has the same route %[2]s", route.Function, route.Path, other.Function)
		}
	}
	return nil
}

func methodsOverlap(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(m string) bool { return slices.Contains(b, m) })
}

func httpRoute(d *document, name, prefix string, file functionFile) (Route, error) {
	var trigger, output *binding
	at := func(i int) jsontext.Pointer { return jsontext.Pointer("/bindings").AppendToken(strconv.Itoa(i)) }
	var triggerAt jsontext.Pointer
	for i := range file.Bindings {
		b := &file.Bindings[i]
		if err := d.onlyKnown(at(i), "type", "direction", "name", "authLevel", "methods", "route", "dataType", "webHookType"); err != nil {
			return Route{}, err
		}
		switch {
		case strings.EqualFold(b.Type, "httpTrigger") && trigger == nil && (b.Direction == "" || strings.EqualFold(b.Direction, "in")):
			trigger, triggerAt = b, at(i)
		case strings.EqualFold(b.Type, "http") && output == nil && strings.EqualFold(b.Direction, "out"):
			output = b
		default:
			return Route{}, d.errorf(at(i)+"/type", "%q with direction %q: the host proxies a function only if it has exactly one httpTrigger (in) and one http (out) binding; this stand-in supports no others", b.Type, b.Direction)
		}
		if b.Name == "" {
			return Route{}, d.errorf(at(i)+"/name", `missing: every binding needs a name, such as "req" for the trigger and "res" for the response`)
		}
	}
	if trigger == nil || output == nil {
		return Route{}, d.errorf("/bindings", `want one {"type": "httpTrigger", "direction": "in", "name": "req"} and one {"type": "http", "direction": "out", "name": "res"}: the host proxies only with both`)
	}
	route := Route{Function: name, AuthLevel: AuthFunction, template: name}
	switch level := AuthLevel(strings.ToLower(trigger.AuthLevel)); level {
	case AuthAnonymous, AuthFunction, AuthAdmin:
		route.AuthLevel = level
	case "": // the host's default is function
	default:
		return Route{}, d.errorf(triggerAt+"/authLevel", "%q: want anonymous, function or admin", trigger.AuthLevel)
	}
	for i, method := range trigger.Methods {
		if method == "" || strings.ContainsFunc(method, func(r rune) bool { return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') }) {
			return Route{}, d.errorf(jsontext.Pointer(fmt.Sprintf("%s/methods/%d", triggerAt, i)), `%q is not an HTTP method; write "post"`, method)
		}
		route.Methods = append(route.Methods, strings.ToUpper(method))
	}
	if trigger.Route != nil && strings.Trim(*trigger.Route, "/ ") != "" {
		route.template = strings.TrimSpace(*trigger.Route)
	}
	whole := route.template
	if prefix != "" {
		whole = prefix + "/" + whole
	}
	// Like the host, allow one slash at either end, and no doubled one, even where prefix and route meet. (measured)
	route.Path = "/" + strings.TrimSuffix(strings.TrimPrefix(whole, "/"), "/")
	route.template = strings.Trim(route.template, "/")
	var err error
	if route.segments, err = parseTemplate(route.Path); err != nil {
		return Route{}, d.errorf(triggerAt+"/route", "%w", err)
	}
	return route, nil
}

// loadSettings reads local.settings.json if it exists.
func (c *config) loadSettings() error {
	var file struct {
		IsEncrypted bool                      `json:"IsEncrypted"`
		Values      map[string]jsontext.Value `json:"Values"`
	}
	d, err := readDocument(filepath.Join(c.root, "local.settings.json"), "local.settings.json", &file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if file.IsEncrypted {
		return d.errorf("/IsEncrypted", "this stand-in cannot decrypt settings: run `func settings decrypt`, then set it to false")
	}
	c.environment = map[string]string{}
	for name, value := range file.Values {
		at := jsontext.Pointer("/Values").AppendToken(name)
		switch value.Kind() {
		case 'n':
			continue // the Core Tools ignore null
		case '"':
		default:
			return d.errorf(at, "a setting must be a string, found a JSON %s; put it in quotes", value.Kind())
		}
		text, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return d.errorf(at, "%w", err)
		}
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(string(text), 0) {
			// The message does not show the value, which can be a secret.
			return d.errorf(at, "cannot be an environment variable: its name contains '=', or its name or value contains a NUL byte")
		}
		c.environment[name] = string(text)
	}
	return nil
}

var timeSpan = regexp.MustCompile(`^(?:(\d{1,5})\.)?(\d{1,2}):(\d{1,2})(?::(\d{1,2})(\.\d{1,7})?)?$`)

// parseTimeSpan parses .NET's [d.]hh:mm[:ss[.fffffff]].
func parseTimeSpan(s string) (time.Duration, error) {
	m := timeSpan.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return 0, fmt.Errorf("%q is not a time span", s)
	}
	number := func(i int) time.Duration {
		n, _ := strconv.Atoi(m[i]) // the pattern admits only digits; an absent part is 0
		return time.Duration(n)
	}
	hours, minutes, seconds := number(2), number(3), number(4)
	if hours > 23 || minutes > 59 || seconds > 59 {
		return 0, fmt.Errorf("%q is not a time span: hours go to 23, minutes and seconds to 59", s)
	}
	span := number(1)*24*time.Hour + hours*time.Hour + minutes*time.Minute + seconds*time.Second
	if m[5] != "" {
		fraction, err := time.ParseDuration("0" + m[5] + "s")
		if err != nil {
			return 0, err
		}
		span += fraction
	}
	return span, nil
}
