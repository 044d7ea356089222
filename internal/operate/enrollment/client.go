// Package enrollment reads and changes the enrollments of a DPS instance over its service API, and works out how they
// must change to call a webhook.
//
// Source: https://learn.microsoft.com/rest/api/iot-dps/service
package enrollment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/usher-dps/usher/internal/sharedaccess"
)

const (
	scope = "https://azure-devices-provisioning.net/.default"
	// maxBody bounds an answer, in bytes. A page of a query is the largest.
	maxBody = 32 << 20
	// pageSize is the largest number of enrollments that DPS puts into one page.
	pageSize = "1000"
)

// ErrNotFound means that the enrollment does not exist.
var ErrNotFound = errors.New("there is no such enrollment")

// ErrUnreachable means that the host is no DPS instance that can be called, and trying again would not help: its name does
// not exist, or what answers cannot prove that it is the host.
var ErrUnreachable = errors.New("the DPS instance cannot be reached")

// ErrChanged means that someone else changed the enrollment between reading and writing.
var ErrChanged = errors.New("someone changed the enrollment meanwhile: run the command again")

// Options configure a [Client].
type Options struct {
	// Host is the host name of the DPS instance's service API, such as contoso.azure-devices-provisioning.net. It may
	// have a port, for a stand-in.
	Host string
	// Credential identifies the caller, who needs the role Device Provisioning Service Data Contributor (or Reader, to
	// read). If it is nil, Key is used.
	Credential azcore.TokenCredential
	// Key is the key of a shared access policy.
	Key sharedaccess.Key
	// Version is the version of the service API; empty means the newest stable version that DPS takes.
	Version string
	// Transport sends requests; nil means Go's default.
	Transport policy.Transporter
	// Retry is called before a call is repeated, with the reason; may be nil.
	Retry func(reason string)
}

// Client calls the service API of one DPS instance. It retries on temporary failures (429, 5xx, no connection). It is
// not safe for concurrent use.
type Client struct {
	host     string
	versions []string // the first is in use, the others are older
	retry    func(reason string)
	failures int // attempts of the call in hand that failed
	pipeline runtime.Pipeline
}

// NewClient returns a client. It does not connect.
func NewClient(options Options) (*Client, error) {
	if options.Host == "" || strings.ContainsAny(options.Host, "/?#@ ") {
		return nil, fmt.Errorf("%q is not the host name of a DPS instance, such as contoso.azure-devices-provisioning.net", options.Host)
	}
	var authenticate policy.Policy = options.Key
	if options.Credential != nil {
		authenticate = runtime.NewBearerTokenPolicy(options.Credential, []string{scope}, nil)
	} else if err := options.Key.Check(); err != nil {
		return nil, err
	}
	versions := stableVersions
	if options.Version != "" {
		versions = []string{options.Version}
	}
	c := &Client{host: options.Host, versions: versions, retry: options.Retry}
	c.pipeline = runtime.NewPipeline("usher", "", runtime.PipelineOptions{PerRetry: []policy.Policy{authenticate}},
		&policy.ClientOptions{
			Transport: options.Transport,
			Retry: policy.RetryOptions{MaxRetries: maxRetries, RetryDelay: time.Second, MaxRetryDelay: 30 * time.Second,
				ShouldRetry: c.shouldRetry},
			Telemetry: policy.TelemetryOptions{Disabled: true},
		})
	return c, nil
}

// HubHost returns the host name of a hub in the cloud of the DPS instance. The name is the host name already, or its
// first label.
func (c *Client) HubHost(name string) string {
	if strings.Contains(name, ".") {
		return name
	}
	cloud := "net" // of a stand-in
	if _, domain, ok := strings.Cut(strings.ToLower(c.host), ".azure-devices-provisioning."); ok {
		cloud, _, _ = strings.Cut(domain, ":")
	}
	return name + ".azure-devices." + cloud
}

// Kind distinguishes individual enrollments from groups.
type Kind string

// The kinds of enrollments.
const (
	Individual Kind = "individual"
	Group      Kind = "group"
)

// path returns the collection in the service API.
func (k Kind) path() string {
	if k == Group {
		return "enrollmentGroups"
	}
	return "enrollments"
}

// idMember returns the member that names an enrollment.
func (k Kind) idMember() string {
	if k == Group {
		return "enrollmentGroupId"
	}
	return "registrationId"
}

// All returns all enrollments: the groups first, then the individual ones, each in the order of DPS.
func (c *Client) All(ctx context.Context) ([]Enrollment, error) {
	var all []Enrollment
	for _, kind := range []Kind{Group, Individual} {
		header := map[string]string{"x-ms-max-item-count": pageSize}
		query := map[string]string{"query": "SELECT * FROM " + kind.path()}
		for {
			var page []map[string]any
			answered, err := c.call(ctx, http.MethodPost, header, query, &page, kind.path(), "query")
			if err != nil {
				return nil, fmt.Errorf("list the %s enrollments: %w", kind, err)
			}
			for _, document := range page {
				all = append(all, Enrollment{Kind: kind, Document: document})
			}
			if header["x-ms-continuation"] = answered.Get("x-ms-continuation"); header["x-ms-continuation"] == "" {
				break
			}
		}
	}
	return all, nil
}

// Get returns one enrollment, or ErrNotFound.
func (c *Client) Get(ctx context.Context, kind Kind, id string) (Enrollment, error) {
	e := Enrollment{Kind: kind}
	if _, err := c.call(ctx, http.MethodGet, nil, nil, &e.Document, kind.path(), id); err != nil {
		return Enrollment{}, fmt.Errorf("read the %s enrollment %s: %w", kind, id, err)
	}
	return e, nil
}

// Put writes an enrollment. It replaces the state that was read, or creates the enrollment if it has no etag. If
// someone else changed the enrollment after it was read, it returns ErrChanged.
func (c *Client) Put(ctx context.Context, e Enrollment) error {
	problem := func(err error) error { return fmt.Errorf("write the %s enrollment %s: %w", e.Kind, e.ID(), err) }
	document := e.writable()
	header := map[string]string{}
	if e.ETag() != "" {
		header["If-Match"] = e.ETag()
		// DPS omits keys from what it returns, and generates new ones for an enrollment that is written without keys.
		var mechanism any
		if _, err := c.call(ctx, http.MethodPost, nil, nil, &mechanism, e.Kind.path(), e.ID(), "attestationmechanism"); err != nil {
			return problem(err)
		}
		document["attestation"] = mechanism
		if err := c.checkHidden(ctx, e); err != nil {
			return problem(err)
		}
	}
	if _, err := c.call(ctx, http.MethodPut, header, document, new(any), e.Kind.path(), e.ID()); err != nil {
		return problem(err)
	}
	return nil
}

// callWith sends a request, with body as JSON unless it is nil, and decodes the JSON of a successful answer into the
// value.
func (c *Client) callWith(ctx context.Context, version, method string, header map[string]string, body, into any, path ...string) (http.Header, error) {
	escaped := make([]string, len(path))
	for i := range path {
		escaped[i] = url.PathEscape(path[i])
	}
	request, err := runtime.NewRequest(ctx, method, "https://"+c.host+"/"+strings.Join(escaped, "/")+"?api-version="+url.QueryEscape(version))
	if err != nil {
		return nil, err
	}
	request.Raw().Header.Set("Accept", "application/json")
	for name, value := range header {
		request.Raw().Header.Set(name, value)
	}
	if body != nil {
		if err := runtime.MarshalAsJSON(request, body); err != nil {
			return nil, err
		}
	}
	c.failures = 0
	response, err := c.pipeline.Do(request)
	if isPermanent(err) {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxBody:
		return nil, fmt.Errorf("DPS answers with more than %d bytes", maxBody)
	case response.StatusCode == http.StatusNotFound:
		return nil, ErrNotFound
	case response.StatusCode == http.StatusPreconditionFailed:
		return nil, ErrChanged
	case isUnsupportedVersion(response.StatusCode, text):
		return nil, fmt.Errorf("%w: %s", errVersion, version)
	case response.StatusCode/100 != 2:
		return nil, answerError(response.StatusCode, text)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // what is written back must be what was read
	if err := decoder.Decode(into); err != nil {
		return nil, fmt.Errorf("DPS answers with something other than JSON: %w", err)
	}
	return response.Header, nil
}

// answerError returns what DPS says about a request that it refused. The text is DPS's own and does not quote the
// request.
func answerError(status int, body []byte) error {
	var answer struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	text := http.StatusText(status)
	if json.Unmarshal(body, &answer) == nil && answer.Message != "" {
		text = answer.Message
	}
	fix := ""
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		fix = " (sign in with az login and have the role Device Provisioning Service Data Contributor, or give a connection string)"
	}
	return fmt.Errorf("DPS answers %d, error %d: %s%s", status, answer.ErrorCode, text, fix)
}
