// Package fault says why a source of look-ups could not be asked, in words that are safe to log: nothing of a key, a
// row, a credential or the query of a URL.
package fault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Kind is what an operator can look for first.
type Kind string

// The kinds of fault.
const (
	Timeout     Kind = "timeout"     // no answer in time
	Unreachable Kind = "unreachable" // no connection, or it broke
	Unavailable Kind = "unavailable" // the source says that it cannot answer now
	NotFound    Kind = "not found"   // there is no such file
	Denied      Kind = "denied"      // no credential, or one that is not enough
	Refused     Kind = "refused"     // the source answers that the request is wrong
	Schema      Kind = "schema"      // the answer is not a row as it is declared
	Breaker     Kind = "breaker"     // not asked, because of repeated faults
	Missing     Kind = "missing"     // no setting names a source
	Failed      Kind = "failed"      // anything else
)

// Error is a fault with its kind.
type Error struct {
	Kind Kind
	Text string // without the kind, safe to log
	Err  error  // what brought it about; may be nil, and is not safe to log
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Unwrap() error { return e.Err }

// New returns a fault. The text is safe to log.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// maxText bounds what a fault says, in bytes: azidentity lists each credential that it tried.
const maxText = 500

// Plain puts a text on one line, and cuts it off if it is too long.
func Plain(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " ")
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// Token is the fault that there is no token for an audience.
func Token(audience string, err error) *Error {
	kind := Denied
	if errors.Is(err, context.DeadlineExceeded) {
		kind = Timeout
	}
	return &Error{Kind: kind, Text: Plain(fmt.Sprintf("no token for %s: %v", audience, err)), Err: err}
}

// Transport is the fault that an error of Go's HTTP client is. The error's own text can quote a URL, or what a server
// sent.
func Transport(err error) *Error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return &Error{Timeout, "no answer in time", err}
	}
	f := &Error{Unreachable, "the connection broke before the answer was complete", err}
	if failed, ok := errors.AsType[*net.DNSError](err); ok {
		f.Text = fmt.Sprintf("the host name %s cannot be resolved", failed.Name)
	} else if failed, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		f.Text = Plain("its certificate is not trusted: " + failed.Err.Error())
	} else if errors.Is(err, http.ErrSchemeMismatch) {
		f.Text = "it speaks http, not https"
	} else if failed, ok := errors.AsType[*net.OpError](err); ok && failed.Op == "dial" {
		f.Text = Plain("no connection: " + failed.Error())
	}
	return f
}

// Status is the fault that a status other than 200 is.
func Status(status int) *Error {
	kind := Refused
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		kind = Denied
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500:
		kind = Unavailable
	}
	return New(kind, "it answers %s", strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status))))
}
