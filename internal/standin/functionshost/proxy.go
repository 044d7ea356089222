package functionshost

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// HostVersion is the version of the Functions host whose behaviour was measured. The stand-in sends it as
// X-Azure-Functions-HostVersion.
const HostVersion = "4.1045.200.25556"

// activityTimeout is how long the host's proxy waits for the handler's answer.
const activityTimeout = 240 * time.Second

// notForwarded are the request headers that the host's proxy removes. Contrary to RFC 9110, it forwards headers that
// Connection names.
var notForwarded = []string{
	"Alpn", "Alt-Svc", "Close", "Connection", "Forwarded", "Http2-Settings", "Keep-Alive",
	"Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection", "Proxy-Features", "Proxy-Instruction",
	"Security-Scheme", "Te", "Transfer-Encoding", "Upgrade", "Upgrade-Insecure-Requests", "X-Forwarded-Prefix",
}

// newProxy returns the proxy to the handler at target, a host:port.
func (h *Host) newProxy(target string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) { h.rewrite(pr, target) },
		Transport: replayer{&http.Transport{
			DisableCompression:    true,
			MaxIdleConnsPerHost:   256,
			ResponseHeaderTimeout: activityTimeout,
		}},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // ErrorHandler logs errors
		ModifyResponse: func(response *http.Response) error {
			if response.Header.Get("Server") == "" {
				response.Header.Set("Server", serverName)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if cause := context.Cause(r.Context()); cause != nil {
				err = cause
			}
			if !errors.Is(err, context.Canceled) {
				h.log.Error("the request could not be proxied to the handler", "path", r.URL.Path, "error", err)
			}
			respond(w, http.StatusInternalServerError)
		},
	}
}

func (h *Host) rewrite(pr *httputil.ProxyRequest, target string) {
	in, out := pr.In, pr.Out
	upgrade := out.Header.Get("Upgrade")
	header := in.Header.Clone()
	for _, name := range notForwarded {
		header.Del(name)
	}
	for name, values := range header {
		if len(values) > 1 {
			separator := ", "
			if name == "Cookie" {
				separator = "; "
			}
			header[name] = []string{strings.Join(values, separator)}
		}
	}
	if upgrade != "" {
		header.Set("Connection", "Upgrade")
		header.Set("Upgrade", upgrade)
	}
	id := uuid.NewString()
	header.Set("X-Azure-Functions-HostVersion", HostVersion)
	header.Set("X-Azure-Functions-InvocationId", id)
	header.Set("X-Ms-Invocation-Id", id)
	client, _, err := net.SplitHostPort(in.RemoteAddr)
	if err != nil {
		client = in.RemoteAddr
	}
	header.Set("X-Forwarded-For", client)
	header.Set("X-Forwarded-Host", in.Host)
	header.Set("X-Forwarded-Proto", "http")
	if header.Get("Traceparent") == "" && !h.options.NoTraceparent {
		header.Set("Traceparent", newTraceparent())
	}
	out.Header = header

	path, err := decodePath(in.URL.EscapedPath())
	if err != nil {
		path = in.URL.Path // impossible: ServeHTTP decoded it already
	}
	out.URL.Scheme = "http"
	out.URL.Host = target
	out.URL.Path = path
	out.URL.RawPath = encodePath(path)
	out.URL.RawQuery = encodeQuery(in.URL.RawQuery) // of the original request: ReverseProxy drops what it cannot parse
	out.URL.ForceQuery = in.URL.ForceQuery
	out.Host = target
}

// newTraceparent returns the traceparent of a new trace that is not sampled, as the host adds it to requests without
// one.
func newTraceparent() string {
	var id [24]byte
	rand.Read(id[:])
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-00"
}

// serverName is the host's Server header, in every answer of a handler that does not set it.
const serverName = "Kestrel"

// respond sends an answer of the host itself, which has an empty body.
func respond(w http.ResponseWriter, status int) {
	w.Header().Set("Server", serverName)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// ServeHTTP serves a request of a client.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-h.stopping:
		unavailable(w)
		return
	default:
	}
	path, err := decodePath(r.URL.EscapedPath())
	if err != nil {
		respond(w, http.StatusBadRequest)
		return
	}
	route, ok := findRoute(h.config.routes, r.Method, path)
	switch {
	case h.serveReserved(w, path):
	case !ok && path == "/":
		h.homepage(w)
	case !ok:
		respond(w, http.StatusNotFound)
	case h.options.EnableAuth && !h.authorized(route, r):
		respond(w, http.StatusUnauthorized)
	case !h.throttle.enter():
		w.Header().Set("X-FUNCTION-SCALEOUT", "1")
		respond(w, http.StatusTooManyRequests)
	default:
		defer h.throttle.leave()
		h.invoke(w, r)
	}
}

// unavailable sends the answer of a host that is stopping.
func unavailable(w http.ResponseWriter) {
	const text = "Function host is not running."
	w.Header().Set("Server", serverName)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, text) // it fails only if the client is gone
}

// serveReserved serves the paths that the host reserves, and reports whether the path is one of them. It does not
// imitate the host's management API.
func (h *Host) serveReserved(w http.ResponseWriter, path string) bool {
	path = strings.ToLower(strings.TrimSuffix(path, "/"))
	switch {
	case strings.HasPrefix(path, "/runtime/webhooks/") && h.options.EnableAuth:
		respond(w, http.StatusUnauthorized)
	case path == "/admin/host/ping":
		w.Header().Set("Cache-Control", "no-store,no-cache")
		w.Header().Set("Pragma", "no-cache")
		respond(w, http.StatusOK)
	case path == "/admin/warmup":
		respond(w, http.StatusOK)
	default:
		return false
	}
	return true
}

func (h *Host) homepage(w http.ResponseWriter) {
	if strings.EqualFold(h.environ["AzureWebJobsDisableHomepage"], "true") {
		w.Header().Set("Server", serverName)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	const page = "<!doctype html><title>Functions host stand-in</title><p>A development stand-in for the Azure Functions host is running.\n"
	w.Header().Set("Server", serverName)
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	_, _ = io.WriteString(w, page) // it fails only if the client is gone
}

// authorized checks the caller's key. Like the host, the stand-in also forwards the key to the handler.
func (h *Host) authorized(route Route, r *http.Request) bool {
	shown := cmp.Or(r.Header.Get("X-Functions-Key"), r.URL.Query().Get("code"))
	switch route.AuthLevel {
	case AuthAnonymous:
		return true
	case AuthAdmin:
		return sameKey(shown, h.options.MasterKey)
	default:
		// Comparing both keys hides from the caller which of them is set.
		function, master := sameKey(shown, h.options.FunctionKey), sameKey(shown, h.options.MasterKey)
		return function || master
	}
}

func sameKey(shown, key string) bool {
	a, b := sha256.Sum256([]byte(shown)), sha256.Sum256([]byte(key))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && key != ""
}

// errFunctionTimeout cancels the proxied request of an invocation that exceeded functionTimeout.
var errFunctionTimeout = errors.New("the invocation exceeded functionTimeout: the handler is killed and restarted")

// invoke runs a function: it waits for the handler, proxies the request, and kills the handler if it takes too long.
func (h *Host) invoke(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength > h.options.MaxBody {
		h.log.Error("the request's body is larger than the host accepts", "bytes", r.ContentLength, "limit", h.options.MaxBody)
		h.discard(w, r)
		respond(w, http.StatusInternalServerError)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, h.options.MaxBody)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if h.functionTimeout > 0 {
		timer := time.AfterFunc(h.functionTimeout+h.options.TimeoutGrace, func() {
			cancel(errFunctionTimeout)
			h.restart()
		})
		defer timer.Stop()
	}
	if err := h.awaitHandler(ctx); err != nil {
		if errors.Is(err, ErrStopped) {
			unavailable(w)
			return
		}
		respond(w, http.StatusInternalServerError)
		return
	}
	h.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// discard reads a refused body for a while, so that the client finishes sending and reads the answer instead of getting
// a reset connection.
func (h *Host) discard(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return // the client waits before it sends the body
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, 2*h.options.MaxBody) // best effort
	w.Header().Set("Connection", "close")
}

// throttle implements the host's maxConcurrentRequests and maxOutstandingRequests. The zero value has no limits.
type throttle struct {
	running chan struct{} // one token for each request that runs; nil for no limit
	present chan struct{} // one token for each request that runs or waits; nil for no limit
}

func newThrottle(concurrent, outstanding int) throttle {
	var t throttle
	if concurrent > 0 {
		t.running = make(chan struct{}, concurrent)
	}
	if outstanding > 0 {
		t.present = make(chan struct{}, outstanding)
	}
	return t
}

// enter waits until the request may run. It returns false if too many requests are waiting. It does not notice that a
// client goes away; the proxy does.
func (t throttle) enter() bool {
	if t.present != nil {
		select {
		case t.present <- struct{}{}:
		default:
			return false
		}
	}
	if t.running != nil {
		t.running <- struct{}{}
	}
	return true
}

func (t throttle) leave() {
	if t.running != nil {
		<-t.running
	}
	if t.present != nil {
		<-t.present
	}
}

// Routes returns the routes in the order in which they are tried.
func (h *Host) Routes() []Route { return slices.Clone(h.config.routes) }
