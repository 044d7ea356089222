package functionshost

import (
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

// HostVersion is the version of the Functions host whose behaviour was measured, sent as X-Azure-Functions-HostVersion.
const HostVersion = "4.1045.200.25556"

// activityTimeout is how long the host's proxy waits for the handler's answer.
const activityTimeout = 240 * time.Second

// notForwarded lists the request headers that the host's proxy keeps to itself. Headers that Connection names are
// passed on, unlike what RFC 9110 asks.
var notForwarded = []string{
	"Alpn", "Alt-Svc", "Close", "Connection", "Forwarded", "Http2-Settings", "Keep-Alive",
	"Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection", "Proxy-Features", "Proxy-Instruction",
	"Security-Scheme", "Te", "Transfer-Encoding", "Upgrade", "Upgrade-Insecure-Requests", "X-Forwarded-Prefix",
}

// newProxy makes the proxy to the handler at target, a host:port.
func (h *Host) newProxy(target string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) { h.rewrite(pr, target) },
		Transport: replayer{&http.Transport{
			DisableCompression:    true,
			MaxIdleConnsPerHost:   256,
			ResponseHeaderTimeout: activityTimeout,
		}},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // ErrorHandler reports
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
		path = in.URL.Path // cannot be: ServeHTTP decoded it before
	}
	out.URL.Scheme = "http"
	out.URL.Host = target
	out.URL.Path = path
	out.URL.RawPath = encodePath(path)
	out.URL.RawQuery = encodeQuery(in.URL.RawQuery) // from the original: ReverseProxy drops what it cannot parse
	out.URL.ForceQuery = in.URL.ForceQuery
	out.Host = target
}

// newTraceparent starts a trace that is not sampled, which is what the host sends for a request without one.
func newTraceparent() string {
	var id [24]byte
	rand.Read(id[:])
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-00"
}

// serverName is what the host's web server calls itself in every answer that does not name another.
const serverName = "Kestrel"

// respond answers as the host does by itself: an empty body.
func respond(w http.ResponseWriter, status int) {
	w.Header().Set("Server", serverName)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// ServeHTTP answers one request of a client.
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
	route, ok := find(h.config.routes, r.Method, path)
	switch {
	case h.ownPath(w, path):
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

// unavailable is the answer while the host is not up.
func unavailable(w http.ResponseWriter) {
	const text = "Function host is not running."
	w.Header().Set("Server", serverName)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, text) // a client that is gone needs no answer
}

// ownPath answers the paths that the host keeps from functions. Its management API is not imitated.
func (h *Host) ownPath(w http.ResponseWriter, path string) bool {
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
	_, _ = io.WriteString(w, page) // a client that is gone needs no answer
}

// authorized checks the key that the caller shows. The key travels on to the handler, as with the host.
func (h *Host) authorized(route Route, r *http.Request) bool {
	shown := r.Header.Get("X-Functions-Key")
	if shown == "" {
		shown = r.URL.Query().Get("code")
	}
	switch route.AuthLevel {
	case AuthAnonymous:
		return true
	case AuthAdmin:
		return sameKey(shown, h.options.MasterKey)
	default:
		// Both are compared, so that the time taken does not tell which one is set.
		function, master := sameKey(shown, h.options.FunctionKey), sameKey(shown, h.options.MasterKey)
		return function || master
	}
}

func sameKey(shown, key string) bool {
	a, b := sha256.Sum256([]byte(shown)), sha256.Sum256([]byte(key))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && key != ""
}

// errFunctionTimeout cancels the proxied request of an invocation that ran past functionTimeout.
var errFunctionTimeout = errors.New("functionTimeout passed: the handler is killed and started again")

// invoke runs one function: wait for the handler, proxy, kill the handler if it takes too long.
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

// discard reads a refused body for a moment, so that the client finishes sending and reads the answer instead of
// meeting a reset connection.
func (h *Host) discard(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return // it waits for leave to send
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, 2*h.options.MaxBody) // best effort
	w.Header().Set("Connection", "close")
}

// throttle is the host's maxConcurrentRequests and maxOutstandingRequests. The zero value lets everything through.
type throttle struct {
	running chan struct{} // one token for each request that runs; nil is unlimited
	present chan struct{} // one token for each request that runs or waits; nil is unlimited
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

// enter waits for a place and reports whether there was room to wait. A client that leaves while waiting is let
// through: the proxy finds out.
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

// Routes lists what is served, in the order in which it is tried.
func (h *Host) Routes() []Route { return slices.Clone(h.config.routes) }
