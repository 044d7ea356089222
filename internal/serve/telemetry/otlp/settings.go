package otlp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/usher-dps/usher/internal/serve/environment"
)

// Environment variables, as OpenTelemetry names them. Each that begins with OTEL_EXPORTER_OTLP_ also exists for one
// signal, such as OTEL_EXPORTER_OTLP_TRACES_HEADERS, which then counts. Source:
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
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

// Settings say where each signal goes; nil if it goes nowhere.
type Settings struct {
	Traces, Metrics, Logs *Endpoint
	// Temporality is cumulative, delta or lowmemory.
	Temporality string
}

// Endpoint is where one signal is sent.
type Endpoint struct {
	// Timeout bounds one delivery with all its attempts.
	Timeout time.Duration

	url         *url.URL          // secret: it can contain a password and a query
	headers     map[string]string // secret, by canonical name
	compression int               // as all three exporters number it: 0 is none, 1 is gzip
	tls         *tls.Config       // nil for the system's authorities
}

const defaultTimeout = 10 * time.Second // OpenTelemetry's own default

// ReadSettings reads the standard variables. A signal without an endpoint is off: with the standard's default, a
// collector on this machine, every process that has none would call it in vain. The error names every variable that is
// wrong and no value, since headers and addresses can contain keys.
func ReadSettings(getenv func(string) string) (Settings, error) {
	r := reader{environment.NewReader(getenv)}
	settings := Settings{Temporality: strings.ToLower(r.Get(VariableTemporality, "cumulative"))}
	switch settings.Temporality {
	case "cumulative", "delta", "lowmemory":
	default:
		r.Wrong(VariableTemporality, "none of cumulative, delta, lowmemory")
	}
	settings.Traces = r.endpoint("traces", VariableTracesExporter)
	settings.Metrics = r.endpoint("metrics", VariableMetricsExporter)
	settings.Logs = r.endpoint("logs", VariableLogsExporter)
	if strings.EqualFold(r.Get(VariableDisabled, ""), "true") {
		return Settings{Temporality: settings.Temporality}, nil
	}
	if err := r.Err(); err != nil {
		return Settings{}, err
	}
	return settings, nil
}

// On reports whether anything is sent.
func (s Settings) On() bool { return s.Traces != nil || s.Metrics != nil || s.Logs != nil }

type reader struct{ *environment.Reader }

// forSignal returns the name of the variable that counts for the signal, and its value: the signal's own variable if it
// is set, else the common one.
func (r reader) forSignal(signal, common string) (name, value string) {
	own := strings.Replace(common, "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_"+strings.ToUpper(signal)+"_", 1)
	if value := r.Get(own, ""); value != "" {
		return own, value
	}
	return common, r.Get(common, "")
}

func (r reader) endpoint(signal, exporterVariable string) *Endpoint {
	switch r.Get(exporterVariable, "otlp") {
	case "otlp":
	case "none":
		return nil
	default:
		r.Wrong(exporterVariable, "neither otlp nor none; for Prometheus, set USHER_METRICS_LISTEN instead")
		return nil
	}
	name, address := r.forSignal(signal, VariableEndpoint)
	if address == "" {
		return nil
	}
	var e Endpoint
	var err error
	if e.url, err = url.Parse(address); err != nil || e.url.Scheme != "http" && e.url.Scheme != "https" || e.url.Hostname() == "" {
		r.Wrong(name, "not an address of the form http://host:4318 or https://host")
		return nil
	}
	e.url.Path = cmp.Or(e.url.Path, "/")
	if name == VariableEndpoint { // a signal's own address is used as it is
		e.url = e.url.JoinPath("v1", signal)
	}
	switch name, protocol := r.forSignal(signal, VariableProtocol); protocol {
	case "", "http/protobuf":
	case "grpc":
		r.Wrong(name, "grpc is not supported; set http/protobuf, and the collector's port for it (by default 4318) in %s", VariableEndpoint)
	default:
		r.Wrong(name, "not http/protobuf, the only protocol that is supported")
	}
	name, value := r.forSignal(signal, VariableHeaders)
	pairs, err := Pairs(value)
	if err != nil {
		r.Wrong(name, "not a list such as api-key=VALUE,tenant=VALUE, with commas and equals signs in values percent-encoded")
	}
	e.headers = map[string]string{}
	for _, pair := range pairs {
		e.headers[http.CanonicalHeaderKey(string(pair.Key))] = pair.Value.AsString()
	}
	name, _ = r.forSignal(signal, VariableTimeout)
	e.Timeout = r.Milliseconds(name, defaultTimeout, time.Millisecond, time.Minute)
	name, _ = r.forSignal(signal, VariableCompression)
	if r.OneOf(name, "none", "gzip", "none") == "gzip" {
		e.compression = 1
	}
	e.tls = r.tls(signal)
	return &e
}

func (r reader) tls(signal string) *tls.Config {
	authoritiesName, authorities := r.forSignal(signal, VariableCertificate)
	certificateName, certificate := r.forSignal(signal, VariableClientCertificate)
	keyName, key := r.forSignal(signal, VariableClientKey)
	if authorities == "" && certificate == "" && key == "" {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		pem, err := os.ReadFile(authorities)
		config.RootCAs = x509.NewCertPool()
		if err != nil || !config.RootCAs.AppendCertsFromPEM(pem) {
			r.Wrong(authoritiesName, "not a file that can be read and contains PEM certificates")
		}
	}
	if cmp.Or(certificate, key) != "" {
		if certificate == "" || key == "" {
			r.Wrong(certificateName, "goes together with %s: set both or none", keyName)
			return nil
		}
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil { // names files and never their content
			r.Wrong(certificateName, "does not load with %s: %v", keyName, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// Pairs reads key=value,key=value with percent-encoded values, the form of OpenTelemetry's variables (that of W3C
// Baggage). The error quotes nothing.
func Pairs(text string) ([]attribute.KeyValue, error) {
	var pairs []attribute.KeyValue
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
		pairs = append(pairs, attribute.String(key, value))
	}
	return pairs, nil
}
