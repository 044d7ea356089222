package functionshost_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The waits between ten attempts are 50, 100, 200 and six times 250 ms.
const allWaits = 1850 * time.Millisecond

func TestReplays(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	tooLarge := &http.MaxBytesError{Limit: 1}
	for _, c := range []struct {
		name     string
		method   string
		body     string
		failures []error // one for each send, the last one for all further sends; nil is an answer
		sends    int
		took     time.Duration
		err      error
	}{
		{"answered", "GET", "", []error{nil}, 1, 0, nil},
		{"closed, no body", "GET", "", []error{io.EOF}, 40, allWaits, io.EOF},
		{"closed, no body, POST", "POST", "", []error{io.EOF}, 40, allWaits, io.EOF},
		{"reset, no body", "DELETE", "", []error{syscall.ECONNRESET}, 40, allWaits, syscall.ECONNRESET},
		{"closed once", "GET", "", []error{io.EOF, nil}, 2, 0, nil},
		{"closed four times", "GET", "", []error{io.EOF, io.EOF, io.EOF, io.EOF, nil}, 5, 50 * time.Millisecond, nil},
		{"closed, body", "POST", "body", []error{io.EOF}, 1, allWaits, nil},
		{"refused", "GET", "", []error{refused}, 10, allWaits, syscall.ECONNREFUSED},
		{"refused, then up", "POST", "body", []error{refused, refused, nil}, 3, 150 * time.Millisecond, nil},
		{"body too large", "POST", "body", []error{tooLarge}, 1, 0, tooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sends := 0
				replayer := functionshost.NewReplayer(roundTripper(func(r *http.Request) (*http.Response, error) {
					failure := c.failures[min(sends, len(c.failures)-1)]
					sends++
					var op *net.OpError
					if !errors.As(failure, &op) && r.Body != nil { // a refused connection does not read the body
						text, err := io.ReadAll(r.Body)
						if err != nil || string(text) != c.body {
							t.Errorf("send %d has body %q, %v; want %q", sends, text, err, c.body)
						}
					}
					if r.Body != nil {
						r.Body.Close()
					}
					if failure != nil {
						return nil, failure
					}
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				}))
				var body io.Reader
				if c.body != "" {
					body = strings.NewReader(c.body)
				}
				request, err := http.NewRequestWithContext(t.Context(), c.method, "http://handler/", body)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				response, err := replayer.RoundTrip(request)
				if took := time.Since(began); sends != c.sends || took != c.took {
					t.Errorf("%d sends in %s, want %d in %s", sends, took, c.sends, c.took)
				}
				if answered := c.failures[len(c.failures)-1] == nil; answered != (err == nil) || answered != (response != nil) {
					t.Fatalf("RoundTrip = %v, %v", response, err)
				}
				if c.err != nil && !errors.Is(err, c.err) {
					t.Errorf("error %v, want %v", err, c.err)
				}
			})
		})
	}
}

func TestReplaysEndWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("the client is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(120*time.Millisecond, func() { cancel(gone) })
		sends := 0
		replayer := functionshost.NewReplayer(roundTripper(func(*http.Request) (*http.Response, error) { sends++; return nil, io.EOF }))
		request, err := http.NewRequestWithContext(ctx, "GET", "http://handler/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := replayer.RoundTrip(request); !errors.Is(err, gone) {
			t.Errorf("RoundTrip = %v, want the context's cause", err)
		}
		if sends != 8 {
			t.Errorf("%d sends within 120 ms, want 8", sends)
		}
	})
}
