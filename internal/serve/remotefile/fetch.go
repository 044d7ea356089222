package remotefile

import (
	"cmp"
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
)

const (
	// headerTimeout bounds how long a server may take until it answers. The caller bounds a download as a whole.
	headerTimeout = 30 * time.Second
	// maxRedirects bounds how often a server may redirect us.
	maxRedirects = 3
	// maxRetryAfter bounds how long a server may ask us to wait.
	maxRetryAfter = 10 * time.Minute

	// storageScope is the scope of tokens for Blob Storage in all clouds.
	storageScope = "https://storage.azure.com/.default"
	// storageVersion is the version of the Blob service; tokens require 2017-11-09 or later.
	storageVersion = "2021-12-02"
)

// Options configure a [Fetcher].
type Options struct {
	Location Location
	// What is the noun for the file in errors, such as bundle.
	What string
	// Accept are the media types to ask for; empty takes any.
	Accept string
	// MaxBytes bounds the file. Required.
	MaxBytes int64
	// Token is sent to the host of an HTTPS location as a bearer token; may be empty.
	Token string
	// Credential returns an Azure identity when Blob Storage is first read.
	Credential func() (azcore.TokenCredential, error)
	// Transport reaches the host; nil means Go's own.
	Transport http.RoundTripper
}

// Fetcher downloads a file from a URL. It is not for concurrent use.
type Fetcher struct {
	options Options
	client  *http.Client
	azure   azcore.TokenCredential // set when it is first needed
}

// NewFetcher returns a fetcher for a location that is not a path.
func NewFetcher(options Options) *Fetcher {
	transport := options.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		// A file can be compressed itself. Some servers declare that as the content encoding, and decompressing it here
		// would break it.
		own.DisableCompression = true
		own.ResponseHeaderTimeout = headerTimeout
		transport = own
	}
	f := &Fetcher{options: options}
	f.client = &http.Client{Transport: transport, CheckRedirect: f.redirect}
	return f
}

// redirect follows a redirect, without credentials if it leads to another host.
func (f *Fetcher) redirect(next *http.Request, via []*http.Request) error {
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

// Response is what a server returned: the file, or the fact that the last one is still the latest.
type Response struct {
	Unchanged bool
	ETag      string
	// Body is the file, nil if it is unchanged. Its errors are safe to show; one says that the file is too large, or did
	// not arrive whole.
	Body io.ReadCloser
}

// StatusError is a response other than a file.
type StatusError struct {
	Status int
	// RetryAfter is how long the server asked us to wait, within bounds.
	RetryAfter time.Duration

	code string // the storage's own, such as AuthorizationPermissionMismatch
	what string
}

func (e *StatusError) Error() string {
	text := "the source answered " + strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)
	if e.code != "" {
		text += " (" + e.code + ")"
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += ": access to the " + e.what + " is denied; in Blob Storage the identity needs the role Storage Blob Data Reader"
	case http.StatusNotFound:
		text += ": there is no " + e.what + ", or this identity may not see it"
	}
	return text
}

// Get requests the file unless it still has this ETag, which may be empty. The caller closes its body, and bounds the time
// of it all by ctx. Errors are safe to show.
func (f *Fetcher) Get(ctx context.Context, etag string) (Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.options.Location.URL, nil)
	if err != nil {
		return Response{}, Presentable(err)
	}
	if err := f.authorize(request); err != nil {
		return Response{}, Presentable(err)
	}
	request.Header.Set("Accept", cmp.Or(f.options.Accept, "*/*"))
	request.Header.Set("User-Agent", "usher")
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	response, err := f.client.Do(request)
	if err != nil {
		return Response{}, Presentable(err)
	}
	switch response.StatusCode {
	case http.StatusOK:
		b := &body{ReadCloser: response.Body, left: f.options.MaxBytes, options: &f.options}
		return Response{ETag: response.Header.Get("ETag"), Body: b}, nil
	case http.StatusNotModified:
		response.Body.Close()
		if etag == "" {
			return Response{}, errors.New("the source answered 304 Not Modified to a request without an ETag")
		}
		return Response{Unchanged: true, ETag: etag}, nil
	default:
		response.Body.Close()
		return Response{}, &StatusError{
			Status:     response.StatusCode,
			RetryAfter: RetryAfter(response.Header.Get("Retry-After"), time.Now()),
			code:       PlainCode(response.Header.Get("X-Ms-Error-Code")),
			what:       f.options.What,
		}
	}
}

// body bounds a file.
type body struct {
	io.ReadCloser
	left    int64
	options *Options
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	switch {
	case b.left < 0:
		return 0, fmt.Errorf("the %s is larger than %d MiB", b.options.What, b.options.MaxBytes>>20)
	case err != nil && err != io.EOF:
		err = fmt.Errorf("the %s did not arrive whole: %w", b.options.What, Presentable(err))
	}
	return n, err
}

func (f *Fetcher) authorize(request *http.Request) error {
	if f.options.Location.Kind == Blob {
		request.Header.Set("X-Ms-Version", storageVersion)
		if f.azure == nil {
			if f.options.Credential == nil {
				return errors.New("there is no Azure identity for reading Blob Storage")
			}
			credential, err := f.options.Credential()
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
	} else if f.options.Token != "" {
		request.Header.Set("Authorization", "Bearer "+f.options.Token)
	}
	return nil
}

// RetryAfter reads how long a server asks us to wait, from a header with a number of seconds or a date. It is bounded.
func RetryAfter(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// PlainCode limits what a server can write into our log to one word.
func PlainCode(text string) string {
	if len(text) > 64 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return ""
	}
	return text
}

var query = regexp.MustCompile(`\?[^\s"']*`)

// maxError bounds the text of an error, which can quote the server, in bytes.
const maxError = 500

// Presentable makes an error safe to show: Go's HTTP client quotes URLs in its errors, and their queries can be
// signatures.
func Presentable(err error) error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &shownError{"the source took too long", err}
	}
	text := query.ReplaceAllString(strings.Join(strings.Fields(err.Error()), " "), "")
	return &shownError{Cut(text, maxError), err}
}

// Cut shortens a text to this many bytes.
func Cut(text string, most int) string {
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
