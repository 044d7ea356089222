// Package functionshost stands in for the Azure Functions host on a developer's machine and in tests: it starts a custom
// handler as the host does and proxies HTTP triggers to it as the host does with enableProxyingHttpRequest.
//
// What it imitates was measured on host version [HostVersion] and is held there by the cases of package conformance,
// which run against this stand-in and against the real host alike:
//
//   - start: environment, %VARIABLE% expansion, arguments joined without quotes, a free port;
//   - readiness: GET / every 25 ms, any answer counts; early requests are held;
//   - routes: function.json, reserved prefixes, first match in the order of folder names, function keys;
//   - proxying: headers set, overwritten and stripped, streaming, WebSockets, the client's disconnect;
//   - trouble: empty 500s, replays of requests without a body, strikes and exit codes, functionTimeout, SIGKILL;
//   - console lines: which stream and which words become which level.
//
// What it refuses: the JSON and the forwarding mode of custom handlers, triggers other than HTTP, bindings beside the
// trigger and its response, custom routes in host.json, and route constraints. It says so at start.
//
// Where it deliberately differs: a handler that cannot be started is an error at once (the host goes on and lets
// requests hang for two minutes), and [Host.Ready] reports a handler that exits before it listens.
//
// It is no part of what is deployed and shares no code with the webhook, so that a fault there cannot hide here.
package functionshost
