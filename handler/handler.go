// Package handler is the HTTP side of the webhook: it reads the body under a size limit, lets an [Allocator] decide,
// and answers so that DPS does what was decided. It logs one line per call.
//
// The result is an http.Handler, so the webhook can be part of any Go service.
package handler

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// Paths that the handler serves. AllocatePath, the route in allocate/function.json under the Functions host's prefix, is
// that of the webhook by default.
const (
	AllocatePath  = "/api/allocate"
	LivenessPath  = "/livez"
	ReadinessPath = "/readyz"
)

// DecisionIDHeader is the header of each answer that names the decision, by which its log line is found.
const DecisionIDHeader = "Usher-Decision-Id"

// ProbeHeader marks a call behind which no device stands, such as one of `usher doctor`. It is decided like any other;
// its record is marked, and alarms ignore it.
const ProbeHeader = "Usher-Probe"

// DefaultMaxBody bounds a body, in bytes. DPS bounds its own messages at 96 KB; an AllocationRequest holds a device's
// payload and an enrollment with a twin of at most 40 KB.
const DefaultMaxBody = 256 << 10

// Allocator decides, such as an *allocation.Allocator.
type Allocator interface {
	// AllocateFrom answers a body as the DPS instance with this name posts it; empty if the webhook's URL names none. The
	// request is nil if the body could not be read.
	AllocateFrom(ctx context.Context, service string, body []byte) (*dps.AllocationRequest, answer.Answer)
	// Ready returns the digest of the rules in use. The result is empty if they decide, or says why they do not.
	Ready() (rules string, fault answer.Result)
}

// Options configure the webhook.
type Options struct {
	// Allocator decides. Required.
	Allocator Allocator
	// Log receives a line for each refused call, and for each allocation unless there are Observers; nil discards them.
	Log *slog.Logger
	// Observers see each call before it is answered, in this order. None means one, [answer.LogCalls] of Log.
	Observers []answer.Observer
	// Paths are those of the webhook; none means AllocatePath.
	Paths []string
	// MaxBody bounds a body in bytes; 0 means DefaultMaxBody.
	MaxBody int64
	// Keys are function keys. A caller must present one of them. None admits everyone, which is right behind the
	// Functions host: it checks keys itself.
	Keys []string
	// Tracer opens a span for each call, below the caller's traceparent; nil opens none. The stages of a decision are
	// spans below it.
	Tracer trace.Tracer
	// Details returns what [ReadinessPath] reports, as JSON, in addition to the digest of the rules; nil for nothing.
	Details func() any
}

// New returns the webhook.
func New(options Options) http.Handler {
	h := &handler{
		allocator: options.Allocator,
		log:       cmp.Or(options.Log, slog.New(slog.DiscardHandler)),
		observers: options.Observers,
		maxBody:   cmp.Or(options.MaxBody, DefaultMaxBody),
		keys:      newKeys(options.Keys),
		tracer:    options.Tracer,
		details:   options.Details,
		paths:     options.Paths,
	}
	if len(h.paths) == 0 {
		h.paths = []string{AllocatePath}
	}
	if len(h.observers) == 0 {
		h.observers = []answer.Observer{answer.LogCalls(h.log)}
	}
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { h.refuseRoute(c, err) }
	e.Pre(h.guard, h.likeTheHost)
	e.POST(AllocatePath, h.allocate)
	e.OPTIONS(AllocatePath, func(echo.Context) error { return echo.ErrMethodNotAllowed }) // else echo answers 204
	probes := []string{http.MethodGet, http.MethodHead}
	// The Functions host takes any answer to GET / as readiness, and repeats the call as a ping: it must stay cheap.
	e.Match(probes, "/", h.live)
	e.Match(probes, LivenessPath, h.live)
	e.Match(probes, ReadinessPath, h.ready)
	return e
}

// likeTheHost matches the webhook's paths as the Functions host does, which passes them on as they came: without case,
// and with or without a slash at the end. It gives all of them the one that the router knows.
func (h *handler) likeTheHost(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		url := c.Request().URL
		path := strings.TrimSuffix(url.Path, "/")
		is := func(other string) bool { return strings.EqualFold(path, other) }
		switch {
		case slices.ContainsFunc(h.paths, is):
			url.Path, url.RawPath = AllocatePath, ""
		case is(AllocatePath):
			return echo.ErrNotFound
		}
		return next(c)
	}
}

// guard answers in place of a panic. If the connection closed without an answer, the Functions host would send the
// request again and DPS would wait.
func (h *handler) guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if p := recover(); p != nil && !c.Response().Committed {
				meaning := answer.Internal.Meaning()
				err = writeProblem(c, problem{Code: string(answer.Internal), Title: meaning.Title, Status: meaning.Status})
			}
		}()
		return next(c)
	}
}

type handler struct {
	allocator Allocator
	log       *slog.Logger
	observers []answer.Observer
	maxBody   int64
	keys      keys
	tracer    trace.Tracer
	details   func() any
	paths     []string
	bodies    sync.Pool // of *bytes.Buffer
}

func (h *handler) live(c echo.Context) error { return c.NoContent(http.StatusOK) }

// ready reports whether there are rules that decide.
func (h *handler) ready(c echo.Context) error {
	var body struct {
		Status  string `json:"status"`
		Rules   string `json:"rules,omitempty"`
		Details any    `json:"details,omitempty"`
	}
	rules, fault := h.allocator.Ready()
	body.Status, body.Rules = cmp.Or(string(fault), "ready"), rules
	if h.details != nil {
		body.Details = h.details()
	}
	status := http.StatusOK
	if fault != "" {
		status = http.StatusServiceUnavailable
	}
	return c.JSON(status, body)
}

// allocate serves one AllocationRequest.
func (h *handler) allocate(c echo.Context) error {
	request := c.Request()
	if !h.keys.admit(request) {
		return h.refuse(c, unauthorized, "the webhook URL of the enrollment must end in ?code=KEY")
	}
	call := answer.Call{
		DecisionID: rand.Text(), Start: time.Now(),
		Probe:        request.Header.Get(ProbeHeader) != "",
		InvocationID: bounded(request.Header.Get("X-Azure-Functions-Invocationid")),
	}
	ctx, span := h.begin(request, &call)
	defer span.End()
	h.decide(ctx, request, &call)
	call.Duration = time.Since(call.Start)
	// Observed first: an answer that DPS acts on must not go unrecorded.
	h.observe(ctx, &call)
	finish(span, &call)
	return write(c, &call)
}

// decide reads the body and fills in the request and the answer. A panic is an answer as well, and is recorded as one.
func (h *handler) decide(ctx context.Context, r *http.Request, call *answer.Call) {
	defer func() {
		if p := recover(); p != nil {
			call.Answer = answer.Panicked(p, debug.Stack())
		}
	}()
	body, _ := h.bodies.Get().(*bytes.Buffer)
	if body == nil {
		body = new(bytes.Buffer)
	}
	body.Reset()
	defer h.bodies.Put(body)
	call.Answer = h.read(r, body)
	if call.Answer.Result == "" {
		service := serviceOf(r.URL)
		call.Request, call.Answer = h.allocator.AllocateFrom(ctx, service, body.Bytes())
		if call.Request != nil {
			service = call.Request.Service
		}
		if dps.ValidService(service) {
			call.Service = service
		}
	}
}

// serviceOf returns the name of the DPS instance in the webhook's URL. Most URLs have none, and parsing costs.
func serviceOf(u *url.URL) string {
	if !strings.Contains(u.RawQuery, dps.ServiceParameter+"=") {
		return ""
	}
	return bounded(u.Query().Get(dps.ServiceParameter))
}

// read reads the body under the size limit. The answer is empty unless that failed.
func (h *handler) read(r *http.Request, body *bytes.Buffer) answer.Answer {
	tooLarge := answer.Answer{Result: answer.Malformed,
		Detail: "the body is larger than " + strconv.FormatInt(h.maxBody, 10) + " bytes"}
	if r.ContentLength > h.maxBody {
		drain(r.Body)
		return tooLarge
	}
	// One byte over the limit shows that a body is too large.
	n, err := body.ReadFrom(io.LimitReader(r.Body, h.maxBody+1))
	switch {
	case err != nil:
		return answer.Answer{Result: answer.Canceled, Detail: "the body did not arrive whole", Cause: err}
	case n > h.maxBody:
		drain(r.Body)
		return tooLarge
	default:
		return answer.Answer{}
	}
}

// maxDrain bounds what is read of a body that is too large, in bytes.
const maxDrain = 16 << 20

// drain reads the rest of a body. If the handler answered before, net/http would close the connection while the Functions
// host still sends, and the host would answer 500, upon which DPS calls again.
func drain(body io.Reader) { _, _ = io.CopyN(io.Discard, body, maxDrain) }

func (h *handler) observe(ctx context.Context, call *answer.Call) {
	span := beginRecord(ctx)
	defer span.End()
	for _, observe := range h.observers {
		observe(ctx, call)
	}
}

func write(c echo.Context, call *answer.Call) error {
	a, header := &call.Answer, c.Response().Header()
	header.Set(DecisionIDHeader, call.DecisionID)
	if a.Status() >= http.StatusTooManyRequests {
		header.Set(echo.HeaderRetryAfter, retryAfter(a.RetryAfter))
	}
	if a.Result == answer.Assigned {
		var few [1024]byte
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, a.Response.AppendJSON(few[:0]))
	}
	return writeProblem(c, problem{
		Title: a.Result.Meaning().Title, Status: a.Status(), Code: string(a.Result), DecisionID: call.DecisionID,
		Detail: a.Detail, Reasons: a.Reasons, Violations: a.Violations,
	})
}

// defaultRetryAfter accompanies a 503 or 429 if the rule names no time. DPS follows a schedule of its own (1 s, then 9
// s longer each time); this is for callers that read the header.
const defaultRetryAfter = 10 * time.Second

// retryAfter is the value of the header in whole seconds, rounded up.
func retryAfter(wish time.Duration) string {
	if wish <= 0 {
		wish = defaultRetryAfter
	}
	return strconv.Itoa(int((wish + time.Second - 1) / time.Second))
}

// bounded keeps what a caller sends from swelling the log.
func bounded(text string) string { return text[:min(len(text), 256)] }
