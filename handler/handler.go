// Package handler is the webhook's HTTP side: it reads the body under a limit,
// has package allocation decide, and answers in the way that makes DPS do what
// was decided. It writes one log line for each allocation.
//
// The result is an http.Handler, so the webhook can be part of any Go service.
package handler

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"github.com/usher-dps/usher/allocation"
)

// Paths that the handler serves. AllocatePath is the route in
// allocate/function.json under the Functions host's prefix.
const (
	AllocatePath  = "/api/allocate"
	LivenessPath  = "/livez"
	ReadinessPath = "/readyz"
)

// DecisionIDHeader is the header of each answer that names the decision, by
// which its log line is found.
const DecisionIDHeader = "Usher-Decision-Id"

// ProbeHeader marks a call behind which no device stands, such as one of `usher
// doctor`. It is decided as any other; the record tells, and alarms leave it out.
const ProbeHeader = "Usher-Probe"

// DefaultMaxBody bounds a body, in bytes. DPS bounds its own messages at 96 KB;
// an AllocationRequest holds a device's payload and an enrollment with a twin of
// at most 40 KB.
const DefaultMaxBody = 256 << 10

// Options configure the webhook.
type Options struct {
	// Allocator decides. Required.
	Allocator *allocation.Allocator
	// Log gets a line for each refused call, and for each allocation unless
	// there are Observers; nil discards them.
	Log *slog.Logger
	// Observers see each allocation before it is answered, in this order. None
	// means one, [LogLine] of Log.
	Observers []Observer
	// MaxBody bounds a body in bytes; 0 means DefaultMaxBody.
	MaxBody int64
	// Keys are function keys of which a caller must show one. None admits
	// everybody, which is right behind the Functions host: it checks keys itself.
	Keys []string
	// Tracer opens a span for each allocation, below the caller's traceparent;
	// nil opens none. Stages of a decision are spans below it.
	Tracer trace.Tracer
	// Details is asked for what [ReadinessPath] tells beside the digest of the
	// rules, as JSON; nil for nothing.
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
	}
	if len(h.observers) == 0 {
		h.observers = []Observer{LogLine(h.log)}
	}
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { h.noSuchRoute(c, err) }
	e.Pre(h.guard, likeTheHost)
	e.POST(AllocatePath, h.allocate)
	e.OPTIONS(AllocatePath, func(echo.Context) error { return echo.ErrMethodNotAllowed }) // else echo answers 204
	probes := []string{http.MethodGet, http.MethodHead}
	// The Functions host takes any answer to GET / for readiness and asks again
	// as a ping; this must stay cheap.
	e.Match(probes, "/", h.live)
	e.Match(probes, LivenessPath, h.live)
	e.Match(probes, ReadinessPath, h.ready)
	return e
}

// likeTheHost takes paths as the Functions host does: without case, and with a
// slash at the end or without. It hands them on as they came.
func likeTheHost(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		url := c.Request().URL
		if url.Path != AllocatePath && strings.EqualFold(strings.TrimSuffix(url.Path, "/"), AllocatePath) {
			url.Path, url.RawPath = AllocatePath, ""
		}
		return next(c)
	}
}

// guard answers in place of a panic. A connection that closes without an answer
// would make the Functions host send the request again, and DPS wait.
func (h *handler) guard(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if p := recover(); p != nil && !c.Response().Committed {
				err = problem(c, answers[string(allocation.Internal)], problemDocument{Code: string(allocation.Internal)})
			}
		}()
		return next(c)
	}
}

type handler struct {
	allocator *allocation.Allocator
	log       *slog.Logger
	observers []Observer
	maxBody   int64
	keys      keys
	tracer    trace.Tracer
	details   func() any
	bodies    sync.Pool // of *bytes.Buffer
}

func (h *handler) live(c echo.Context) error { return c.NoContent(http.StatusOK) }

// ready reports whether there are rules to decide by.
func (h *handler) ready(c echo.Context) error {
	answer := struct {
		Status  string `json:"status"`
		Rules   string `json:"rules,omitempty"`
		Details any    `json:"details,omitempty"`
	}{Status: "ready"}
	if h.details != nil {
		answer.Details = h.details()
	}
	status := http.StatusOK
	if rules := h.allocator.Rules(); rules == nil {
		status, answer.Status = http.StatusServiceUnavailable, string(allocation.NotReady)
	} else {
		answer.Rules = rules.Digest()
		if h.allocator.Stopped() != "" {
			status, answer.Status = http.StatusServiceUnavailable, string(allocation.RulesStale)
		}
	}
	return c.JSON(status, answer)
}

// allocate serves one AllocationRequest.
func (h *handler) allocate(c echo.Context) error {
	request := c.Request()
	if !h.keys.admit(request) {
		return h.refuse(c, unauthorized, "the webhook URL of the enrollment must end in ?code=KEY")
	}
	a := Allocation{
		DecisionID: rand.Text(), Start: time.Now(),
		Probe:        request.Header.Get(ProbeHeader) != "",
		InvocationID: bounded(request.Header.Get("X-Azure-Functions-Invocationid")),
	}
	ctx, span := h.begin(request, &a)
	defer span.End()
	h.decide(ctx, request, &a)
	answer := a.answer()
	a.Status = answer.status
	a.Duration = time.Since(a.Start)
	// Observed first: an answer that DPS acts on must not go unrecorded.
	h.record(ctx, &a)
	a.finish(span)
	return a.write(c, answer)
}

func (h *handler) record(ctx context.Context, a *Allocation) {
	span := stage(ctx, stageRecord)
	defer span.End()
	for _, observe := range h.observers {
		observe(ctx, a)
	}
}

// decide fills in the decision or the fault. A panic is a fault, too, and recorded
// as one.
func (h *handler) decide(ctx context.Context, r *http.Request, a *Allocation) {
	defer func() {
		if p := recover(); p != nil {
			a.Fault = &allocation.Fault{Kind: allocation.Internal, Detail: "this is a fault of the service itself",
				// The value of a panic can quote the request; its type cannot.
				Cause: fmt.Errorf("panic of type %T\n%s", p, debug.Stack())}
		}
	}()
	body, _ := h.bodies.Get().(*bytes.Buffer)
	if body == nil {
		body = new(bytes.Buffer)
	}
	body.Reset()
	defer h.bodies.Put(body)
	if a.Fault = h.read(r, body); a.Fault != nil {
		return
	}
	var err error
	a.Request, a.Decision, err = h.allocator.AllocateJSON(ctx, body.Bytes())
	if err != nil {
		a.Fault, _ = errors.AsType[*allocation.Fault](err)
	}
}

func (h *handler) read(r *http.Request, body *bytes.Buffer) *allocation.Fault {
	tooLarge := &allocation.Fault{Kind: allocation.Malformed,
		Detail: "the body is larger than " + strconv.FormatInt(h.maxBody, 10) + " bytes"}
	if r.ContentLength > h.maxBody {
		return tooLarge
	}
	// One byte over the limit tells a body that is too large.
	n, err := body.ReadFrom(io.LimitReader(r.Body, h.maxBody+1))
	switch {
	case err != nil:
		return &allocation.Fault{Kind: allocation.Canceled, Detail: "the body did not arrive whole", Cause: err}
	case n > h.maxBody:
		return tooLarge
	default:
		return nil
	}
}

func (a *Allocation) write(c echo.Context, answer answer) error {
	header := c.Response().Header()
	header.Set(DecisionIDHeader, a.DecisionID)
	if answer.status >= throttled {
		header.Set(echo.HeaderRetryAfter, retryAfter(a.Decision.RetryAfter))
	}
	if a.Fault == nil && a.Decision.Outcome == allocation.Assigned {
		var few [1024]byte
		return c.Blob(answer.status, echo.MIMEApplicationJSON, a.Decision.Response.AppendJSON(few[:0]))
	}
	document := problemDocument{
		Code:       a.Result(),
		DecisionID: a.DecisionID,
		Reasons:    a.Decision.Reasons,
	}
	if a.Fault != nil {
		document.Detail, document.Violations = a.Fault.Detail, a.Fault.Violations
	}
	return problem(c, answer, document)
}

// problemDocument is an application/problem+json body (RFC 9457). DPS does not
// read it: it is for people who call the webhook themselves.
type problemDocument struct {
	Type       string                 `json:"type"`
	Title      string                 `json:"title"`
	Status     int                    `json:"status"`
	Detail     string                 `json:"detail,omitempty"`
	Code       string                 `json:"code"`
	DecisionID string                 `json:"decisionId,omitempty"`
	Reasons    []string               `json:"reasons,omitempty"`
	Violations []allocation.Violation `json:"violations,omitempty"`
}

func problem(c echo.Context, answer answer, document problemDocument) error {
	document.Type = "urn:usher:problem:" + document.Code
	document.Title, document.Status = answer.title, answer.status
	body, err := json.Marshal(document)
	if err != nil {
		return err
	}
	return c.Blob(document.Status, "application/problem+json", body)
}

// noSuchRoute answers what echo could not route, and errors in writing, of
// which there is nobody left to tell.
func (h *handler) noSuchRoute(c echo.Context, err error) {
	if c.Response().Committed {
		return
	}
	code := string(allocation.Internal)
	if e, ok := errors.AsType[*echo.HTTPError](err); ok {
		switch e.Code {
		case http.StatusNotFound:
			code = notFound
		case http.StatusMethodNotAllowed:
			code = methodNotAllowed
		}
	}
	_ = h.refuse(c, code, "the webhook is POST "+AllocatePath)
}

// refuse answers what is no allocation, and leaves a line: a wrong URL in an
// enrollment fails all of its devices.
func (h *handler) refuse(c echo.Context, code, detail string) error {
	r := c.Request()
	h.log.Warn("refused", "result", code, "status", answers[code].status,
		"method", bounded(r.Method), "path", bounded(r.URL.Path)) // not the query: it can hold a key
	return problem(c, answers[code], problemDocument{Code: code, Detail: detail})
}
