// Package functionshost is a stand-in for the Azure Functions host on a developer's machine and in tests. Like the
// host, it starts a custom handler and proxies HTTP triggers to it (enableProxyingHttpRequest).
//
// Its behaviour was measured on host version [HostVersion]. The cases in the folder conformance run against both this
// stand-in and the real host, and cover:
//
//   - start: environment, %VARIABLE% expansion, arguments joined without quotes, a free port;
//   - readiness: GET / every 25 ms, any answer counts; early requests wait;
//   - routes: function.json, reserved prefixes, first match in the order of folder names, function keys;
//   - proxying: headers set, overwritten and removed, streaming, WebSockets, clients that disconnect;
//   - failures: empty 500s, replays of requests without a body, strikes and exit codes, functionTimeout, SIGKILL;
//   - console lines: which streams and words lead to which level.
//
// It does not support the JSON and forwarding modes of custom handlers, triggers other than HTTP, bindings other than
// the trigger and its response, custom routes in host.json, and route constraints. It reports these at start.
//
// It deliberately differs in two ways: if the handler cannot be started, that is an immediate error (the host
// continues, and requests hang for two minutes), and [Host.Ready] reports a handler that exits before it listens.
//
// It is not deployed, and shares no code with the webhook, because shared code would hide a bug from both.
package functionshost
