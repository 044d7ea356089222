package rulesource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

const (
	// fetchTimeout bounds a download as a whole.
	fetchTimeout = 30 * time.Second
	// maxRedirects bounds how often a server may redirect us.
	maxRedirects = 3
	// maxRetryAfter bounds how long a server may ask us to wait.
	maxRetryAfter = 10 * time.Minute

	// storageScope is the scope of tokens for Blob Storage in all clouds.
	storageScope = "https://storage.azure.com/.default"
	// storageVersion is the version of the Blob service; tokens require 2017-11-09 or later.
	storageVersion = "2021-12-02"
)

// fetcher downloads a bundle.
type fetcher struct {
	location   Location
	client     *http.Client
	token      string
	credential func() (azcore.TokenCredential, error)
	azure      azcore.TokenCredential // set when it is first needed
}

func newFetcher(options Options) *fetcher {
	transport := options.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		// A bundle is a gzip file. Some servers declare that as the content encoding, and decompressing it here would
		// break it.
		own.DisableCompression = true
		own.ResponseHeaderTimeout = fetchTimeout
		transport = own
	}
	f := &fetcher{location: options.Location, token: options.Token, credential: options.Credential}
	f.client = &http.Client{Transport: transport, CheckRedirect: f.redirect}
	return f
}

// redirect follows a redirect, without credentials if it leads to another host.
func (f *fetcher) redirect(next *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if next.URL.Scheme != "https" && !(next.URL.Scheme == "http" && isLoopback(next.URL.Hostname())) {
		return errors.New("a redirect leads away from https")
	}
	if next.URL.User != nil {
		return errors.New("a redirect contains a user name or a password")
	}
	next.Header.Del("Referer") // it would reveal the query, which can be a signature
	if first := via[0].URL; next.URL.Host != first.Host || next.URL.Scheme != first.Scheme {
		next.Header.Del("Authorization")
	}
	return nil
}

// fetched is what a source returned: a bundle, or the fact that the last one is still the latest.
type fetched struct {
	unchanged bool
	packed    []byte
	etag      string
}

// statusError is a response other than a bundle.
type statusError struct {
	status     int
	code       string // the storage's own, such as AuthorizationPermissionMismatch
	retryAfter time.Duration
}

func (e *statusError) Error() string {
	text := "the source answered " + strconv.Itoa(e.status) + " " + http.StatusText(e.status)
	if e.code != "" {
		text += " (" + e.code + ")"
	}
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += ": access to the bundle is denied; in Blob Storage the identity needs the role Storage Blob Data Reader"
	case http.StatusNotFound:
		text += ": there is no bundle, or this identity may not see it"
	}
	return text
}

// get downloads the bundle unless it still has this ETag, which may be empty.
func (f *fetcher) get(ctx context.Context, etag string) (fetched, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.location.URL, nil)
	if err != nil {
		return fetched{}, withoutQuery(err)
	}
	if err := f.authorize(request); err != nil {
		return fetched{}, withoutQuery(err)
	}
	request.Header.Set("Accept", "application/vnd.openpolicyagent.bundles, application/gzip, */*")
	request.Header.Set("User-Agent", "usher")
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	response, err := f.client.Do(request)
	if err != nil {
		return fetched{}, withoutQuery(err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		if etag == "" {
			return fetched{}, errors.New("the source answered 304 Not Modified to a request without an ETag")
		}
		return fetched{unchanged: true, etag: etag}, nil
	default:
		return fetched{}, &statusError{
			status:     response.StatusCode,
			code:       plainCode(response.Header.Get("X-Ms-Error-Code")),
			retryAfter: retryAfter(response.Header.Get("Retry-After"), time.Now()),
		}
	}
	packed, err := io.ReadAll(io.LimitReader(response.Body, rulebundle.MaxSize+1))
	switch {
	case err != nil:
		return fetched{}, fmt.Errorf("the bundle did not arrive whole: %w", withoutQuery(err))
	case len(packed) > rulebundle.MaxSize:
		return fetched{}, fmt.Errorf("the bundle is larger than %d MiB", rulebundle.MaxSize>>20)
	}
	return fetched{packed: packed, etag: response.Header.Get("ETag")}, nil
}

func (f *fetcher) authorize(request *http.Request) error {
	if f.location.Kind == Blob {
		request.Header.Set("X-Ms-Version", storageVersion)
		if f.azure == nil {
			if f.credential == nil {
				return errors.New("there is no Azure identity for reading Blob Storage")
			}
			credential, err := f.credential()
			if err != nil {
				return err
			}
			f.azure = credential
		}
		token, err := f.azure.GetToken(request.Context(), policy.TokenRequestOptions{Scopes: []string{storageScope}})
		if err != nil {
			return fmt.Errorf("no token for Blob Storage: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+token.Token)
	} else if f.token != "" {
		request.Header.Set("Authorization", "Bearer "+f.token)
	}
	return nil
}

// retryAfter reads a number of seconds or a date.
func retryAfter(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// plainCode limits what a server can write into our log to one word.
func plainCode(text string) string {
	if len(text) > 64 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return ""
	}
	return text
}

var query = regexp.MustCompile(`\?[^\s"']*`)

// maxError bounds the text of an error, which can quote the server, in bytes.
const maxError = 500

// withoutQuery makes an error safe to show: Go's HTTP client quotes URLs in its errors, and their queries can be
// signatures.
func withoutQuery(err error) error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &shownError{"the source took too long", err}
	}
	text := query.ReplaceAllString(strings.Join(strings.Fields(err.Error()), " "), "")
	return &shownError{cut(text, maxError), err}
}

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// shownError is an error with a text that is safe to show.
type shownError struct {
	text string
	err  error
}

func (e *shownError) Error() string { return e.text }
func (e *shownError) Unwrap() error { return e.err }
