package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// httpSession is a device that registers over HTTP, on one connection of its own.
type httpSession struct {
	client *http.Client
	base   string // URL of the registration
	token  string
}

func newHTTPSession(d device, config *tls.Config, token string) *httpSession {
	return &httpSession{
		client: &http.Client{
			Transport: &http.Transport{
				DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.dial(ctx, config) },
				// A little longer than DPS makes a device wait. A connection that is lost meanwhile is opened again.
				IdleConnTimeout: 10 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base:  "https://" + d.options.Host + "/" + url.PathEscape(d.options.IDScope) + "/registrations/" + url.PathEscape(d.id),
		token: token,
	}
}

func (h *httpSession) register(ctx context.Context, body []byte) (answer, error) {
	return h.call(ctx, http.MethodPut, "/register", body)
}

func (h *httpSession) operation(ctx context.Context, id string) (answer, error) {
	return h.call(ctx, http.MethodGet, "/operations/"+url.PathEscape(id), nil)
}

func (h *httpSession) call(ctx context.Context, method, path string, body []byte) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, h.base+path+"?api-version="+apiVersion, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", userAgent)
	if body != nil {
		request.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if h.token != "" {
		request.Header.Set("Authorization", h.token)
	}
	response, err := h.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return answer{response.StatusCode, retryAfter(response.Header.Get("Retry-After")), text}, err
}

func (h *httpSession) close() { h.client.CloseIdleConnections() }
