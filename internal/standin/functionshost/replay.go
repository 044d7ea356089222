package functionshost

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

// The host repeats a request that failed on the way to the handler. Its HTTP client immediately resends a request
// without a body if the connection ends before an answer, and the proxy around the client makes ten attempts.
const (
	sendsPerAttempt = 4
	attempts        = 10
	firstDelay      = 50 * time.Millisecond
	longestDelay    = 250 * time.Millisecond
)

// replayer is a RoundTripper that fails as the host's does: if the handler closes the connection without an answer, a
// request without a body reaches it 40 times within two seconds. A body is sent only once; the remaining attempts do
// not reach the handler.
type replayer struct {
	next http.RoundTripper
}

func (t replayer) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var body *replayBody
	if req.Body != nil && req.Body != http.NoBody {
		body = &replayBody{ReadCloser: req.Body}
		// The transport closes the body of a failed attempt, even if it never read from it.
		defer body.ReadCloser.Close()
	}
	delay := firstDelay
	for attempt := 1; ; attempt++ {
		response, err := t.attempt(req, body)
		if err == nil || attempt == attempts || !worthRetrying(ctx, err) {
			return response, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		delay = min(2*delay, longestDelay)
	}
}

// errBodySent is the error of attempts after the body was read: the host cannot send it again.
var errBodySent = errors.New("the request's body was already sent")

func (t replayer) attempt(req *http.Request, body *replayBody) (response *http.Response, err error) {
	if body != nil {
		if body.read.Load() {
			return nil, errBodySent
		}
		again := req.Clone(req.Context())
		again.Body = body
		return t.next.RoundTrip(again)
	}
	for range sendsPerAttempt {
		again := req.Clone(req.Context())
		if idempotent(req.Method) {
			// Go's transport would itself repeat such a request on a reused connection, but not if it has a body, even
			// an empty one.
			again.Body = io.NopCloser(eof{})
		}
		response, err = t.next.RoundTrip(again)
		if err == nil || !closedBeforeAnswer(err) || req.Context().Err() != nil {
			break
		}
	}
	return response, err
}

// idempotent reports whether Go's transport repeats the method and detects that its body is empty.
func idempotent(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func closedBeforeAnswer(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// worthRetrying returns false if the client is gone, after a timeout, and if the body of the request is too large.
func worthRetrying(ctx context.Context, err error) bool {
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	timeout, ok := errors.AsType[net.Error](err)
	return ctx.Err() == nil && !tooLarge && !(ok && timeout.Timeout())
}

// replayBody records whether anything was read. Attempts do not close it.
type replayBody struct {
	io.ReadCloser
	read atomic.Bool
}

func (b *replayBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

func (b *replayBody) Close() error { return nil }

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
