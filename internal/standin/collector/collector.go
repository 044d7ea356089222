// Package collector is a stand-in for an OpenTelemetry collector in tests. It receives OTLP over HTTP with protobuf,
// keeps what it received, and can fail on purpose. It shares no code with the sender.
package collector

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector receives at URL until it is closed.
type Collector struct {
	*httptest.Server
	// Answer, unless it is nil, can answer a request instead of the collector. It returns false to leave the request to
	// the collector. Set it before the first request.
	Answer func(http.ResponseWriter, *http.Request) bool

	mu      sync.Mutex
	got     Received
	arrived chan struct{} // closed and replaced with each request
}

// Received is everything that was received.
type Received struct {
	Spans   []Span
	Metrics []Metric
	Logs    []Log
	Raw     []byte        // the decompressed bodies
	Headers []http.Header // of each request
}

// Attributes are attributes by name. Values are string, bool, int64, float64, []byte, []any, Attributes or nil.
type Attributes map[string]any

// Span is a span. IDs are in hex; ParentID is empty for a root.
type Span struct {
	TraceID, SpanID, ParentID string
	Scope, Name               string
	Server, Error             bool
	Attributes, Resource      Attributes
	Start, End                uint64 // nanoseconds since 1970
}

// Metric is a data point.
type Metric struct {
	Name, Unit, Description string
	Cumulative, Monotonic   bool
	Attributes, Resource    Attributes
	// Value is the value of a counter or gauge, or the sum of a histogram.
	Value float64
	// Count, Bounds and Buckets are set for a histogram.
	Count   uint64
	Bounds  []float64
	Buckets []uint64
	// ExemplarTraceIDs are the IDs of traces that are examples for the point.
	ExemplarTraceIDs []string
}

// Log is a log record.
type Log struct {
	TraceID, SpanID      string
	Severity, Body       string
	Attributes, Resource Attributes
}

// Start starts a collector on the loopback address.
func Start() *Collector {
	c := &Collector{arrived: make(chan struct{})}
	c.Server = httptest.NewServer(http.HandlerFunc(c.receive))
	return c
}

// Wait returns when enough returns true for everything that was received.
func (c *Collector) Wait(ctx context.Context, enough func(Received) bool) (Received, error) {
	for {
		c.mu.Lock()
		got, arrived := c.got, c.arrived
		c.mu.Unlock()
		if enough(got) {
			return got, nil
		}
		select {
		case <-ctx.Done():
			return got, fmt.Errorf("%w; %d spans, %d data points, %d log records received", ctx.Err(), len(got.Spans), len(got.Metrics), len(got.Logs))
		case <-arrived:
		}
	}
}

func (c *Collector) receive(w http.ResponseWriter, r *http.Request) {
	if c.Answer != nil && c.Answer(w, r) {
		return
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not OTLP", http.StatusUnsupportedMediaType)
		return
	}
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unpacked
	}
	raw, err := io.ReadAll(body)
	if err == nil {
		err = c.store(r, raw)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *Collector) store(r *http.Request, raw []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got // its slices only grow, so what Wait has returned does not change
	var (
		traceData  tracepb.TracesData
		metricData metricspb.MetricsData
		logData    logspb.LogsData
	)
	_, signal, _ := strings.Cut(r.URL.Path, "/v1/")
	data, ok := map[string]proto.Message{"traces": &traceData, "metrics": &metricData, "logs": &logData}[signal]
	if !ok {
		return fmt.Errorf("unknown path %s", r.URL.Path)
	}
	if err := proto.Unmarshal(raw, data); err != nil {
		return err
	}
	got.Spans = append(slices.Clip(got.Spans), spans(&traceData)...)
	got.Metrics = append(slices.Clip(got.Metrics), points(&metricData)...)
	got.Logs = append(slices.Clip(got.Logs), logs(&logData)...)
	got.Raw = append(slices.Clip(got.Raw), raw...)
	got.Headers = append(slices.Clip(got.Headers), r.Header.Clone())
	c.got = got
	close(c.arrived)
	c.arrived = make(chan struct{})
	return nil
}

func spans(data *tracepb.TracesData) []Span {
	var out []Span
	for _, resource := range data.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				out = append(out, Span{
					TraceID: hex.EncodeToString(span.TraceId), SpanID: hex.EncodeToString(span.SpanId), ParentID: hex.EncodeToString(span.ParentSpanId),
					Scope: scope.Scope.GetName(), Name: span.Name, Server: span.Kind == tracepb.Span_SPAN_KIND_SERVER,
					Error:      span.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR,
					Attributes: attributes(span.Attributes), Resource: attributes(resource.Resource.GetAttributes()),
					Start: span.StartTimeUnixNano, End: span.EndTimeUnixNano,
				})
			}
		}
	}
	return out
}

func points(data *metricspb.MetricsData) []Metric {
	var out []Metric
	for _, resource := range data.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, metric := range scope.Metrics {
				common := Metric{Name: metric.Name, Unit: metric.Unit, Description: metric.Description, Resource: attributes(resource.Resource.GetAttributes())}
				numbers := metric.GetGauge().GetDataPoints()
				if sum := metric.GetSum(); sum != nil {
					numbers, common.Monotonic = sum.DataPoints, sum.IsMonotonic
					common.Cumulative = sum.AggregationTemporality == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
				}
				for _, number := range numbers {
					point := common
					point.Attributes, point.Value = attributes(number.Attributes), number.GetAsDouble()
					if whole, ok := number.Value.(*metricspb.NumberDataPoint_AsInt); ok {
						point.Value = float64(whole.AsInt)
					}
					out = append(out, point)
				}
				for _, histogram := range metric.GetHistogram().GetDataPoints() {
					point := common
					point.Cumulative = metric.GetHistogram().AggregationTemporality == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
					point.Attributes, point.Value, point.Count = attributes(histogram.Attributes), histogram.GetSum(), histogram.Count
					point.Bounds, point.Buckets = histogram.ExplicitBounds, histogram.BucketCounts
					for _, exemplar := range histogram.Exemplars {
						point.ExemplarTraceIDs = append(point.ExemplarTraceIDs, hex.EncodeToString(exemplar.TraceId))
					}
					out = append(out, point)
				}
			}
		}
	}
	return out
}

func logs(data *logspb.LogsData) []Log {
	var out []Log
	for _, resource := range data.ResourceLogs {
		for _, scope := range resource.ScopeLogs {
			for _, record := range scope.LogRecords {
				out = append(out, Log{
					TraceID: hex.EncodeToString(record.TraceId), SpanID: hex.EncodeToString(record.SpanId),
					Severity: record.SeverityText, Body: record.Body.GetStringValue(),
					Attributes: attributes(record.Attributes), Resource: attributes(resource.Resource.GetAttributes()),
				})
			}
		}
	}
	return out
}

func attributes(pairs []*commonpb.KeyValue) Attributes {
	out := Attributes{}
	for _, pair := range pairs {
		out[pair.Key] = value(pair.Value)
	}
	return out
}

func value(v *commonpb.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_BoolValue:
		return v.BoolValue
	case *commonpb.AnyValue_IntValue:
		return v.IntValue
	case *commonpb.AnyValue_DoubleValue:
		return v.DoubleValue
	case *commonpb.AnyValue_BytesValue:
		return v.BytesValue
	case *commonpb.AnyValue_ArrayValue:
		elements := []any{}
		for _, element := range v.ArrayValue.GetValues() {
			elements = append(elements, value(element))
		}
		return elements
	case *commonpb.AnyValue_KvlistValue:
		return attributes(v.KvlistValue.GetValues())
	default:
		return nil
	}
}
