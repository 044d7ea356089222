package enrollment

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
)

// maxRetries is how many times a call is repeated, within about half a minute.
const maxRetries = 4

// shouldRetry reports whether another attempt can end differently. azcore calls it after each attempt, also the last.
func (c *Client) shouldRetry(response *http.Response, err error) bool {
	reason := ""
	switch {
	case isPermanent(err):
		return false
	case err != nil:
		reason = err.Error()
	case isTemporary(response.StatusCode):
		reason = "it answers " + response.Status
	default:
		return false
	}
	if c.failures++; c.failures <= maxRetries && c.retry != nil {
		c.retry(reason)
	}
	return true
}

func isTemporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isPermanent reports whether an error is about who the host is: its name does not exist, its certificate is not
// trusted, or it does not speak TLS.
func isPermanent(err error) bool {
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		return lookup.IsNotFound
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return untrusted || errors.Is(err, http.ErrSchemeMismatch)
}
