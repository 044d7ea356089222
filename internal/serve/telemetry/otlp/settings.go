// Package otlp sends traces, metrics and logs to an OpenTelemetry collector over
// HTTP with protobuf.
//
// It stands in for the SDK's own HTTP exporters for one reason: those link gRPC
// and its gateway by way of the collector's service definitions, 6 MB and a millisecond
// at each start of a process that would never call them.
package otlp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Variables of the environment, as OpenTelemetry names them. Those that begin
// with OTEL_EXPORTER_OTLP_ exist for one signal as well, such as
// OTEL_EXPORTER_OTLP_TRACES_HEADERS, which then counts.
// Source: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
const (
	VariableDisabled          = "OTEL_SDK_DISABLED"
	VariableTracesExporter    = "OTEL_TRACES_EXPORTER"
	VariableMetricsExporter   = "OTEL_METRICS_EXPORTER"
	VariableLogsExporter      = "OTEL_LOGS_EXPORTER"
	VariableEndpoint          = "OTEL_EXPORTER_OTLP_ENDPOINT"
	VariableProtocol          = "OTEL_EXPORTER_OTLP_PROTOCOL"
	VariableHeaders           = "OTEL_EXPORTER_OTLP_HEADERS"
	VariableTimeout           = "OTEL_EXPORTER_OTLP_TIMEOUT"
	VariableCompression       = "OTEL_EXPORTER_OTLP_COMPRESSION"
	VariableCertificate       = "OTEL_EXPORTER_OTLP_CERTIFICATE"
	VariableClientCertificate = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
	VariableClientKey         = "OTEL_EXPORTER_OTLP_CLIENT_KEY"
	VariableTemporality       = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
)

// Settings say where each signal goes; nil where it goes nowhere.
type Settings struct {
	Traces, Metrics, Logs *Endpoint
	// Temporality is cumulative, delta or lowmemory.
	Temporality string
}

// Endpoint is where one signal is sent.
type Endpoint struct {
	signal  string // traces, metrics or logs, as in the path
	url     *url.URL
	headers http.Header // secret
	timeout time.Duration
	gzip    bool
	tls     *tls.Config // nil for the system's authorities
}

// defaultTimeout is OpenTelemetry's own.
const defaultTimeout = 10 * time.Second

// ReadSettings reads the standard variables. A signal without an endpoint is
// off: the standard's default, a collector on this machine, would make every
// process without one call in vain. The error names every variable that is wrong
// and no value, since headers and addresses can hold keys.
func ReadSettings(getenv func(string) string) (Settings, error) {
	r := reader{getenv: getenv}
	disabled := r.get(VariableDisabled)
	settings := Settings{Temporality: strings.ToLower(cmp.Or(r.get(VariableTemporality), "cumulative"))}
	switch settings.Temporality {
	case "cumulative", "delta", "lowmemory":
	default:
		r.wrong(VariableTemporality, "none of cumulative, delta, lowmemory")
	}
	settings.Traces = r.endpoint("traces", VariableTracesExporter)
	settings.Metrics = r.endpoint("metrics", VariableMetricsExporter)
	settings.Logs = r.endpoint("logs", VariableLogsExporter)
	if strings.EqualFold(disabled, "true") {
		return Settings{Temporality: settings.Temporality}, nil
	}
	if err := errors.Join(r.problems...); err != nil {
		return Settings{}, err
	}
	return settings, nil
}

// On reports whether anything is sent.
func (s Settings) On() bool { return s.Traces != nil || s.Metrics != nil || s.Logs != nil }

type reader struct {
	getenv   func(string) string
	problems []error
}

func (r *reader) wrong(name, format string, args ...any) {
	problem := fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))
	for _, known := range r.problems { // what holds for three signals is said once
		if known.Error() == problem.Error() {
			return
		}
	}
	r.problems = append(r.problems, problem)
}

func (r *reader) get(name string) string { return strings.TrimSpace(r.getenv(name)) }

// forSignal reads the signal's own variable, then the common one. It returns the
// name of the variable that it took.
func (r *reader) forSignal(signal, common string) (value, name string) {
	own := strings.Replace(common, "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_"+strings.ToUpper(signal)+"_", 1)
	if value := r.get(own); value != "" {
		return value, own
	}
	return r.get(common), common
}

func (r *reader) endpoint(signal, exporterVariable string) *Endpoint {
	switch r.get(exporterVariable) {
	case "", "otlp":
	case "none":
		return nil
	default:
		r.wrong(exporterVariable, "neither otlp nor none; Prometheus is served by a setting of its own, USHER_METRICS_LISTEN")
		return nil
	}
	address, name := r.forSignal(signal, VariableEndpoint)
	if address == "" {
		return nil
	}
	e := &Endpoint{signal: signal, headers: http.Header{}}
	var err error
	if e.url, err = url.Parse(address); err != nil || e.url.Scheme != "http" && e.url.Scheme != "https" || e.url.Host == "" {
		r.wrong(name, "not an address of the form http://host:4318 or https://host")
		return nil
	}
	if name == VariableEndpoint { // a signal's own address is taken as it is
		e.url = e.url.JoinPath("v1", signal)
	}
	switch value, name := r.forSignal(signal, VariableProtocol); value {
	case "", "http/protobuf":
	case "grpc":
		r.wrong(name, "grpc is not spoken here; set http/protobuf, and the collector's port for it (by default 4318) in %s", VariableEndpoint)
	default:
		r.wrong(name, "not http/protobuf, the one protocol spoken here")
	}
	value, name := r.forSignal(signal, VariableHeaders)
	pairs, err := Pairs(value)
	if err != nil {
		r.wrong(name, "not a list such as api-key=VALUE,tenant=VALUE, with commas and equals signs in values percent-encoded")
	}
	for _, pair := range pairs {
		e.headers.Set(pair.Key, pair.Value)
	}
	value, name = r.forSignal(signal, VariableTimeout)
	milliseconds, err := strconv.Atoi(cmp.Or(value, strconv.FormatInt(defaultTimeout.Milliseconds(), 10)))
	if err != nil || milliseconds <= 0 || milliseconds > 60_000 {
		r.wrong(name, "not a number of milliseconds from 1 to 60000")
	}
	e.timeout = time.Duration(milliseconds) * time.Millisecond
	value, name = r.forSignal(signal, VariableCompression)
	if value != "" && value != "gzip" && value != "none" {
		r.wrong(name, "neither gzip nor none")
	}
	e.gzip = value == "gzip"
	r.readTLS(e)
	return e
}

func (r *reader) readTLS(e *Endpoint) {
	authorities, authoritiesName := r.forSignal(e.signal, VariableCertificate)
	certificate, certificateName := r.forSignal(e.signal, VariableClientCertificate)
	key, keyName := r.forSignal(e.signal, VariableClientKey)
	if authorities == "" && certificate == "" && key == "" {
		return
	}
	e.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		pem, err := os.ReadFile(authorities)
		e.tls.RootCAs = x509.NewCertPool()
		if err != nil || !e.tls.RootCAs.AppendCertsFromPEM(pem) {
			r.wrong(authoritiesName, "not a file that can be read and holds PEM certificates")
		}
	}
	switch {
	case certificate == "" && key == "":
	case certificate == "" || key == "":
		r.wrong(certificateName, "goes together with %s: set both or none", keyName)
	default:
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			// The error of the library names files and never their content.
			r.wrong(certificateName, "does not load with %s: %v", keyName, err)
			return
		}
		e.tls.Certificates = []tls.Certificate{pair}
	}
}

// Pair is one part of a list such as OTEL_RESOURCE_ATTRIBUTES.
type Pair struct{ Key, Value string }

// Pairs reads key=value,key=value with percent-encoded values, the form of W3C
// Baggage that OpenTelemetry's variables have. The error quotes nothing.
func Pairs(text string) ([]Pair, error) {
	var pairs []Pair
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		key = strings.TrimSpace(key)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || key == "" || err != nil || strings.ContainsAny(key, " \t\r\n:") || strings.ContainsAny(value, "\r\n\x00") {
			return nil, errors.New("not a list of key=value")
		}
		pairs = append(pairs, Pair{key, value})
	}
	return pairs, nil
}
