// Package otlp sets up OpenTelemetry's own exporters, which send traces, metrics and logs to a collector over HTTP with
// protobuf. It reads their standard settings, and makes their errors name the address and hold no secret.
package otlp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"
)

// The exporters read the variables of the environment themselves, without a word about values that are wrong. So each
// gets every option. No TLS configuration is one of them: theirs would refuse an authority for an address with http.

// NewTraces returns an exporter of spans.
func NewTraces(e *Endpoint) (sdktrace.SpanExporter, error) {
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(e.url.String()), otlptracehttp.WithHeaders(e.headers),
		otlptracehttp.WithCompression(otlptracehttp.Compression(e.compression)), otlptracehttp.WithTLSClientConfig(nil),
		otlptracehttp.WithHTTPClient(e.client(false)), otlptracehttp.WithRetry(otlptracehttp.RetryConfig(e.retry())))
	return spans{exporter, e}, err
}

// NewMetrics returns an exporter of metrics.
func NewMetrics(e *Endpoint, temporality string) (sdkmetric.Exporter, error) {
	selector := sdkmetric.CumulativeTemporalitySelector
	switch temporality {
	case "delta":
		selector = sdkmetric.DeltaTemporalitySelector
	case "lowmemory":
		selector = sdkmetric.LowMemoryTemporalitySelector
	}
	exporter, err := otlpmetrichttp.New(context.Background(), otlpmetrichttp.WithEndpointURL(e.url.String()), otlpmetrichttp.WithHeaders(e.headers),
		otlpmetrichttp.WithCompression(otlpmetrichttp.Compression(e.compression)), otlpmetrichttp.WithTLSClientConfig(nil),
		otlpmetrichttp.WithHTTPClient(e.client(false)), otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig(e.retry())),
		otlpmetrichttp.WithTemporalitySelector(selector))
	return metrics{exporter, e}, err
}

// NewLogs returns an exporter of log records.
func NewLogs(e *Endpoint) (sdklog.Exporter, error) { return e.logs(e.retry(), false) }

// NewLogsOnce returns an exporter of log records that tries each delivery once, for callers that keep records until
// they are delivered. Its error is a [StatusError] if the collector answered with another status than 2xx, and a
// [RejectedError] if it accepted only some of the records.
func NewLogsOnce(e *Endpoint) (sdklog.Exporter, error) { return e.logs(retry{}, true) }

func (e *Endpoint) logs(retry retry, once bool) (sdklog.Exporter, error) {
	exporter, err := otlploghttp.New(context.Background(), otlploghttp.WithEndpointURL(e.url.String()), otlploghttp.WithHeaders(e.headers),
		otlploghttp.WithCompression(otlploghttp.Compression(e.compression)), otlploghttp.WithTLSClientConfig(nil),
		otlploghttp.WithHTTPClient(e.client(once)), otlploghttp.WithRetry(otlploghttp.RetryConfig(retry)))
	return logs{exporter, e}, err
}

// Exporters whose errors always contain the address, even if the time ran out before a request.
type (
	spans struct {
		sdktrace.SpanExporter
		endpoint *Endpoint
	}
	metrics struct {
		sdkmetric.Exporter
		endpoint *Endpoint
	}
	logs struct {
		sdklog.Exporter
		endpoint *Endpoint
	}
)

func (s spans) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	return s.endpoint.explain(s.SpanExporter.ExportSpans(ctx, batch))
}

func (m metrics) Export(ctx context.Context, batch *metricdata.ResourceMetrics) error {
	return m.endpoint.explain(m.Exporter.Export(ctx, batch))
}

func (l logs) Export(ctx context.Context, batch []sdklog.Record) error {
	return l.endpoint.explain(l.Exporter.Export(ctx, batch))
}

func (e *Endpoint) explain(err error) error {
	address := (&url.URL{Scheme: e.url.Scheme, Host: e.url.Host, Path: e.url.Path}).String() // without password and query
	if err == nil || strings.Contains(err.Error(), address) {
		return err
	}
	return fmt.Errorf("%w (%s)", err, address)
}

// retry has the fields of the exporters' three RetryConfig.
type retry struct {
	Enabled                                      bool
	InitialInterval, MaxInterval, MaxElapsedTime time.Duration
}

func (e *Endpoint) retry() retry {
	return retry{Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 5 * time.Second, MaxElapsedTime: e.Timeout}
}

func (e *Endpoint) client(once bool) *http.Client {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.TLSClientConfig = e.tls
	return &http.Client{Transport: &transport{base, e, once}, Timeout: e.Timeout}
}

// transport sends requests of an exporter to the whole address, of which an exporter knows neither password nor query,
// and makes errors of what a collector answers. So it does not keep to all of [http.RoundTripper], but it serves only
// the client of one exporter. An answer's body is in no error: a collector or a proxy can quote headers and addresses.
type transport struct {
	base     *http.Transport
	endpoint *Endpoint
	once     bool // the exporter does not retry
}

const maxAnswer = 64 << 10 // bytes of an answer that are read

func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	address := request.URL // without password and query
	request = request.Clone(request.Context())
	request.URL = t.endpoint.url
	if user := request.URL.User; user != nil && request.Header.Get("Authorization") == "" {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	response, err := t.base.RoundTrip(request)
	if err != nil {
		// A certificate that is not trusted now will not be trusted in a moment.
		if _, distrusted := errors.AsType[*tls.CertificateVerificationError](err); distrusted || t.once {
			return nil, err
		}
		return nil, temporary{err}
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // what is missing of it does not matter
	status := &StatusError{Status: response.StatusCode}
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if !t.once {
			// The exporter sees by the status that it should retry, and by the header when. Its error quotes the body.
			response.Body = io.NopCloser(strings.NewReader(fmt.Sprintf("%v at %s", status, address)))
			return response, nil
		}
		if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
			status.RetryAfter = time.Duration(min(seconds, 3600)) * time.Second
		}
	}
	if response.StatusCode/100 != 2 {
		return nil, status
	}
	// The answers for all three signals have one shape. Some collectors answer in words.
	var accepted collectorpb.ExportLogsServiceResponse
	if err := proto.Unmarshal(answer, &accepted); err == nil && accepted.GetPartialSuccess().GetRejectedLogRecords() > 0 {
		return nil, &RejectedError{int(accepted.PartialSuccess.RejectedLogRecords), accepted.PartialSuccess.ErrorMessage}
	}
	response.Body = http.NoBody
	return response, nil
}

// temporary marks an error after which the exporters retry.
type temporary struct{ error }

func (temporary) Temporary() bool { return true }
func (t temporary) Unwrap() error { return t.error }

// StatusError is an answer with another status than 2xx.
type StatusError struct {
	Status     int
	RetryAfter time.Duration // 0 if the collector did not ask for a wait
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the collector answered with status %d", e.Status)
}

// RejectedError is an answer with status 200 that says that not everything was accepted.
type RejectedError struct {
	Rejected int
	Message  string // the collector's
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("the collector rejected %d of them: %.200q", e.Rejected, e.Message)
}
