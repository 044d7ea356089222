// Package web finds the rows of look-ups by HTTPS: with a GET of a URL that contains the key.
package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"

	"github.com/usher-dps/usher/internal/serve/lookupsource/fault"
	"github.com/usher-dps/usher/lookup"
)

const (
	// maxRow bounds the body of an answer, in bytes.
	maxRow = 64 << 10
	// maxVersion bounds the ETag of an answer, in bytes: it becomes part of each record.
	maxVersion = 128
	// maxConnections bounds those to one source, so that a slow one is not asked by ever more of them.
	maxConnections = 64
	idleTimeout    = 90 * time.Second
)

// Header is one line that is sent with each request. Its value is a secret.
type Header struct{ Name, Value string }

// ParseHeader reads a line such as "X-API-Key: 0123". Its errors do not quote it.
func ParseHeader(line string) (Header, error) {
	name, value, ok := strings.Cut(line, ":")
	h := Header{http.CanonicalHeaderKey(name), strings.TrimSpace(value)}
	switch {
	case !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(h.Value) || h.Value == "":
		return Header{}, errors.New("not the line of a header, such as X-API-Key: VALUE")
	case h.Name == "Host" || h.Name == "Content-Length" || h.Name == "Transfer-Encoding" || h.Name == "Connection" || h.Name == "Accept-Encoding":
		return Header{}, fmt.Errorf("the header %s belongs to the connection and cannot be set", h.Name)
	}
	return h, nil
}

// Options configure a [Source].
type Options struct {
	Template Template // required
	// Audience is whom a token of Entra ID is for, such as api://devices; empty for no token.
	Audience string
	// Credential gets the token; required with an Audience.
	Credential azcore.TokenCredential
	// Header is sent with each request; its Name is empty for none.
	Header Header
	// Transport reaches the source; nil means Go's own.
	Transport http.RoundTripper
}

// Source finds rows by HTTPS. 200 with a JSON object is a row; 404 and 204 are none; anything else is a fault, also a
// redirect.
type Source struct {
	options Options
	client  *http.Client
}

// New returns a source that has no connection yet.
func New(options Options) *Source {
	transport := options.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxConnsPerHost, own.MaxIdleConnsPerHost, own.IdleConnTimeout = maxConnections, maxConnections, idleTimeout
		transport = own
	}
	return &Source{options, &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

// Prepare gets a token, so that the first look-up need not wait for it, and a missing identity is noticed early.
func (s *Source) Prepare(ctx context.Context) error {
	_, err := s.token(ctx)
	return err
}

// token returns a token for the audience; empty if there is none.
func (s *Source) token(ctx context.Context) (string, error) {
	if s.options.Audience == "" {
		return "", nil
	}
	token, err := s.options.Credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{strings.TrimSuffix(s.options.Audience, "/") + "/.default"}})
	if err != nil {
		return "", fault.Token(s.options.Audience, err)
	}
	return token.Token, nil
}

// Find implements [lookup.Source]. A key that could lead to another path has no row.
func (s *Source) Find(ctx context.Context, key string) (lookup.Answer, error) {
	address, ok := s.options.Template.expand(key)
	if !ok {
		return lookup.Answer{}, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil || request.URL.Host != s.options.Template.host {
		return lookup.Answer{}, fault.New(fault.Failed, "a key makes no URL") // the template was checked
	}
	token, err := s.token(ctx)
	if err != nil {
		return lookup.Answer{}, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if h := s.options.Header; h.Name != "" {
		request.Header[h.Name] = []string{h.Value}
	}
	request.Header.Set("Accept", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return lookup.Answer{}, fault.Transport(err)
	}
	defer response.Body.Close()
	return read(response)
}

func read(response *http.Response) (lookup.Answer, error) {
	// One byte more shows that there is too much. Reading to the end lets the connection be used again.
	body, err := io.ReadAll(io.LimitReader(response.Body, maxRow+1))
	switch status := response.StatusCode; {
	case status == http.StatusNotFound || status == http.StatusNoContent:
		return lookup.Answer{}, nil
	case status >= 300 && status < 400:
		f := fault.Status(status)
		f.Text += ", and redirects are not followed: set the address that it leads to"
		return lookup.Answer{}, f
	case status != http.StatusOK:
		return lookup.Answer{}, fault.Status(status)
	case err != nil:
		return lookup.Answer{}, fault.Transport(err)
	case len(body) > maxRow:
		return lookup.Answer{}, fault.New(fault.Schema, "its answer has more than %d bytes", maxRow)
	}
	var row map[string]any
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	// jsontext refuses what encoding/json accepts: members that occur twice, invalid UTF-8, and text after the object.
	if !jsontext.Value(body).IsValid() || decoder.Decode(&row) != nil || row == nil {
		return lookup.Answer{}, fault.New(fault.Schema, "its answer is not a JSON object with each member once")
	}
	answer := lookup.Answer{Row: row}
	if tag := response.Header.Get("ETag"); len(tag) <= maxVersion {
		answer.Version = tag
	}
	return answer, nil
}
