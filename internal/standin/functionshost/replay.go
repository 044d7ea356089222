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

// The host repeats a request that failed on the way to the handler: its HTTP client sends one without a body again
// on the same spot when the connection ends before any answer, and the proxy around it tries ten times.
const (
	sendsPerAttempt = 4
	attempts        = 10
	firstDelay      = 50 * time.Millisecond
	longestDelay    = 250 * time.Millisecond
)

// replayer is a RoundTripper that fails as the host's does: a request without a body that the handler answers by
// closing the connection reaches it 40 times within two seconds. A body is sent once; after that, the attempts pass
// without reaching the handler.
type replayer struct {
	next http.RoundTripper
}

func (t replayer) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var body *replayBody
	if req.Body != nil && req.Body != http.NoBody {
		body = &replayBody{ReadCloser: req.Body}
		// The transport closes the body of a failed attempt, also where it never read from it.
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

// errBodySpent stands for the attempts that the host makes after the body was read: it cannot send it again.
var errBodySpent = errors.New("the request's body was sent already")

func (t replayer) attempt(req *http.Request, body *replayBody) (response *http.Response, err error) {
	if body != nil {
		if body.read.Load() {
			return nil, errBodySpent
		}
		again := req.Clone(req.Context())
		again.Body = body
		return t.next.RoundTrip(again)
	}
	for range sendsPerAttempt {
		again := req.Clone(req.Context())
		if idempotent(req.Method) {
			// Go's transport would repeat such a request by itself on a kept connection; a body, even an empty one,
			// stops it from doing so.
			again.Body = io.NopCloser(eof{})
		}
		response, err = t.next.RoundTrip(again)
		if err == nil || !closedBeforeAnswer(err) || req.Context().Err() != nil {
			break
		}
	}
	return response, err
}

// idempotent lists the methods that Go's transport repeats and for which it finds out that a body is empty.
func idempotent(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func closedBeforeAnswer(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// worthRetrying is false where the client is gone, a timeout struck, or the client's body is at fault.
func worthRetrying(ctx context.Context, err error) bool {
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	return ctx.Err() == nil && !errors.As(err, &tooLarge) && !(errors.As(err, &timeout) && timeout.Timeout())
}

// replayBody notes whether anything was read and outlives the attempt that closes it.
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
