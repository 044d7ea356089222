// Package enrollment reads and changes the enrollments of a DPS instance over its
// service API, and plans how they have to change to call a webhook.
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
)

const (
	apiVersion = "2021-10-01"
	scope      = "https://azure-devices-provisioning.net/.default"
	// maxBody bounds an answer; a page of a query is the largest.
	maxBody = 32 << 20
	// pageSize is the most that DPS puts into one page.
	pageSize = "1000"
)

// ErrNotFound tells that there is no such enrollment.
var ErrNotFound = errors.New("there is no such enrollment")

// ErrChanged tells that somebody else changed an enrollment between reading and writing.
var ErrChanged = errors.New("somebody changed the enrollment meanwhile: run the command again")

// Options configure a [Client].
type Options struct {
	// Host of the DPS instance's service API, such as
	// contoso.azure-devices-provisioning.net; or where else it is reached, with a
	// port, if it is a stand-in.
	Host string
	// Credential is who calls, with the role Device Provisioning Service Data
	// Contributor (or Reader, to read). Without it Key is used.
	Credential azcore.TokenCredential
	// Key is that of a shared access policy.
	Key SharedAccessKey
	// Transport sends requests; nil means Go's default.
	Transport policy.Transporter
}

// Client calls the service API of one DPS instance. It repeats what failed for a
// passing reason (429, 5xx).
type Client struct {
	host     string
	pipeline runtime.Pipeline
}

// NewClient returns a client. It calls nothing.
func NewClient(options Options) (*Client, error) {
	if options.Host == "" || strings.ContainsAny(options.Host, "/?#@ ") {
		return nil, fmt.Errorf("%q is not the host name of a DPS instance, such as contoso.azure-devices-provisioning.net", options.Host)
	}
	var authenticate policy.Policy = options.Key
	if options.Credential != nil {
		authenticate = runtime.NewBearerTokenPolicy(options.Credential, []string{scope}, nil)
	} else if err := options.Key.check(); err != nil {
		return nil, err
	}
	return &Client{
		host: options.Host,
		pipeline: runtime.NewPipeline("usher", "", runtime.PipelineOptions{PerRetry: []policy.Policy{authenticate}},
			&policy.ClientOptions{
				Transport: options.Transport,
				Retry:     policy.RetryOptions{MaxRetries: 4, RetryDelay: time.Second, MaxRetryDelay: 30 * time.Second},
				Telemetry: policy.TelemetryOptions{Disabled: true},
			}),
	}, nil
}

// Kind tells individual enrollments from groups.
type Kind string

// The kinds of enrollments.
const (
	Individual Kind = "individual"
	Group      Kind = "group"
)

// path is the collection in the service API.
func (k Kind) path() string {
	if k == Group {
		return "enrollmentGroups"
	}
	return "enrollments"
}

// idMember is the member that names an enrollment.
func (k Kind) idMember() string {
	if k == Group {
		return "enrollmentGroupId"
	}
	return "registrationId"
}

// All returns every enrollment of a kind, in the order of DPS.
func (c *Client) All(ctx context.Context, kind Kind) ([]Enrollment, error) {
	var all []Enrollment
	continuation := ""
	for {
		request, err := c.request(ctx, http.MethodPost, kind.path(), "query")
		if err != nil {
			return nil, err
		}
		request.Raw().Header.Set("x-ms-max-item-count", pageSize)
		if continuation != "" {
			request.Raw().Header.Set("x-ms-continuation", continuation)
		}
		if err := runtime.MarshalAsJSON(request, map[string]string{"query": "SELECT * FROM " + kind.path()}); err != nil {
			return nil, err
		}
		var page []map[string]any
		header, err := c.do(request, &page)
		if err != nil {
			return nil, fmt.Errorf("list the %s enrollments: %w", kind, err)
		}
		for _, document := range page {
			all = append(all, Enrollment{Kind: kind, Document: document})
		}
		if continuation = header.Get("x-ms-continuation"); continuation == "" {
			return all, nil
		}
	}
}

// Get returns one enrollment; ErrNotFound if there is none.
func (c *Client) Get(ctx context.Context, kind Kind, id string) (Enrollment, error) {
	request, err := c.request(ctx, http.MethodGet, kind.path(), id)
	if err != nil {
		return Enrollment{}, err
	}
	e := Enrollment{Kind: kind}
	if _, err := c.do(request, &e.Document); err != nil {
		return Enrollment{}, fmt.Errorf("read the %s enrollment %s: %w", kind, id, err)
	}
	return e, nil
}

// Put writes an enrollment: over the state that it was read in, or as a new one
// where it has no etag. It returns the enrollment as DPS keeps it.
func (c *Client) Put(ctx context.Context, e Enrollment) (Enrollment, error) {
	problem := func(err error) (Enrollment, error) {
		return Enrollment{}, fmt.Errorf("write the %s enrollment %s: %w", e.Kind, e.ID(), err)
	}
	document := e.writable()
	if e.ETag() != "" {
		// DPS leaves keys out of what it returns, and would make new ones for an
		// enrollment that comes without.
		mechanism, err := c.attestation(ctx, e.Kind, e.ID())
		if err != nil {
			return problem(err)
		}
		document["attestation"] = mechanism
	}
	request, err := c.request(ctx, http.MethodPut, e.Kind.path(), e.ID())
	if err != nil {
		return problem(err)
	}
	if e.ETag() != "" {
		request.Raw().Header.Set("If-Match", e.ETag())
	}
	if err := runtime.MarshalAsJSON(request, document); err != nil {
		return problem(err)
	}
	written := Enrollment{Kind: e.Kind}
	if _, err := c.do(request, &written.Document); err != nil {
		return problem(err)
	}
	return written, nil
}

func (c *Client) attestation(ctx context.Context, kind Kind, id string) (any, error) {
	request, err := c.request(ctx, http.MethodPost, kind.path(), id, "attestationmechanism")
	if err != nil {
		return nil, err
	}
	var mechanism any
	_, err = c.do(request, &mechanism)
	return mechanism, err
}

func (c *Client) request(ctx context.Context, method string, path ...string) (*policy.Request, error) {
	for i := range path {
		path[i] = url.PathEscape(path[i])
	}
	return runtime.NewRequest(ctx, method, "https://"+c.host+"/"+strings.Join(path, "/")+"?api-version="+apiVersion)
}

// do sends a request and reads the JSON of a good answer.
func (c *Client) do(request *policy.Request, into any) (http.Header, error) {
	request.Raw().Header.Set("Accept", "application/json")
	response, err := c.pipeline.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxBody:
		return nil, fmt.Errorf("DPS answers with more than %d bytes", maxBody)
	case response.StatusCode == http.StatusNotFound:
		return nil, ErrNotFound
	case response.StatusCode == http.StatusPreconditionFailed:
		return nil, ErrChanged
	case response.StatusCode/100 != 2:
		return nil, answerError(response.StatusCode, body)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber() // what is written back must be what was read
	if err := decoder.Decode(into); err != nil {
		return nil, fmt.Errorf("DPS answers with something else than JSON: %w", err)
	}
	return response.Header, nil
}

// answerError tells what DPS says of a request that it refused. The words are DPS's;
// they do not hold what was sent.
func answerError(status int, body []byte) error {
	var answer struct {
		ErrorCode  int    `json:"errorCode"`
		Message    string `json:"message"`
		TrackingID string `json:"trackingId"`
	}
	text := http.StatusText(status)
	if json.Unmarshal(body, &answer) == nil && answer.Message != "" {
		text = answer.Message
	}
	mend := ""
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		mend = " (sign in with az login and have the role Device Provisioning Service Data Contributor, or give a connection string)"
	}
	return fmt.Errorf("DPS answers %d, error %d: %s%s", status, answer.ErrorCode, text, mend)
}
