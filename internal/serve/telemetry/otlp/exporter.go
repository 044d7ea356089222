package otlp

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// Each message below is, on the wire, the collector's Export…ServiceRequest: one
// repeated field with the number 1.

// NewTraces returns an exporter of spans. What cannot be delivered is told to failed.
func NewTraces(endpoint *Endpoint, failed func(error)) trace.SpanExporter {
	// Starting does nothing that could fail.
	return otlptrace.NewUnstarted(traces{newClient(endpoint, failed)})
}

type traces struct{ client *client }

func (t traces) Start(context.Context) error { return nil }
func (t traces) Stop(context.Context) error  { t.client.close(); return nil }

func (t traces) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	count := 0
	for _, r := range spans {
		for _, s := range r.ScopeSpans {
			count += len(s.Spans)
		}
	}
	t.client.send(ctx, &tracepb.TracesData{ResourceSpans: spans}, count)
	return nil
}

// NewMetrics returns an exporter of metrics. What cannot be delivered is told to failed.
func NewMetrics(endpoint *Endpoint, temporality string, failed func(error)) metric.Exporter {
	return &metrics{newClient(endpoint, failed), temporality}
}

type metrics struct {
	client      *client
	temporality string
}

// Temporality follows OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE.
func (m *metrics) Temporality(kind metric.InstrumentKind) metricdata.Temporality {
	switch kind {
	case metric.InstrumentKindCounter, metric.InstrumentKindHistogram:
		if m.temporality != "cumulative" {
			return metricdata.DeltaTemporality
		}
	case metric.InstrumentKindObservableCounter:
		if m.temporality == "delta" {
			return metricdata.DeltaTemporality
		}
	}
	return metricdata.CumulativeTemporality
}

func (m *metrics) Aggregation(kind metric.InstrumentKind) metric.Aggregation {
	return metric.DefaultAggregationSelector(kind)
}

func (m *metrics) ForceFlush(context.Context) error { return nil }
func (m *metrics) Shutdown(context.Context) error   { m.client.close(); return nil }

func (m *metrics) Export(ctx context.Context, data *metricdata.ResourceMetrics) error {
	out := &metricspb.ResourceMetrics{Resource: resourceOf(data.Resource)}
	count := 0
	for _, scope := range data.ScopeMetrics {
		converted := &metricspb.ScopeMetrics{Scope: scopeOf(scope.Scope), SchemaUrl: scope.Scope.SchemaURL}
		for _, one := range scope.Metrics {
			message, err := metricOf(one)
			if err != nil {
				m.client.failed(err)
				continue
			}
			converted.Metrics = append(converted.Metrics, message)
			count++
		}
		out.ScopeMetrics = append(out.ScopeMetrics, converted)
	}
	if count > 0 {
		m.client.send(ctx, &metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{out}}, count)
	}
	return nil
}

// metricOf converts the aggregations that counters, gauges and histograms with
// explicit buckets have.
func metricOf(m metricdata.Metrics) (*metricspb.Metric, error) {
	out := &metricspb.Metric{Name: m.Name, Description: m.Description, Unit: m.Unit}
	switch data := m.Data.(type) {
	case metricdata.Gauge[int64]:
		out.Data = &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{DataPoints: numbers(data.DataPoints)}}
	case metricdata.Gauge[float64]:
		out.Data = &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{DataPoints: numbers(data.DataPoints)}}
	case metricdata.Sum[int64]:
		out.Data = &metricspb.Metric_Sum{Sum: &metricspb.Sum{DataPoints: numbers(data.DataPoints),
			IsMonotonic: data.IsMonotonic, AggregationTemporality: temporalityOf(data.Temporality)}}
	case metricdata.Sum[float64]:
		out.Data = &metricspb.Metric_Sum{Sum: &metricspb.Sum{DataPoints: numbers(data.DataPoints),
			IsMonotonic: data.IsMonotonic, AggregationTemporality: temporalityOf(data.Temporality)}}
	case metricdata.Histogram[float64]:
		out.Data = &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{DataPoints: histograms(data.DataPoints),
			AggregationTemporality: temporalityOf(data.Temporality)}}
	case metricdata.Histogram[int64]:
		out.Data = &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{DataPoints: histograms(data.DataPoints),
			AggregationTemporality: temporalityOf(data.Temporality)}}
	default:
		return nil, fmt.Errorf("the metric %s has data of type %T, which is not sent", m.Name, m.Data)
	}
	return out, nil
}

func temporalityOf(t metricdata.Temporality) metricspb.AggregationTemporality {
	if t == metricdata.DeltaTemporality {
		return metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
	}
	return metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
}

func numbers[N int64 | float64](points []metricdata.DataPoint[N]) []*metricspb.NumberDataPoint {
	out := make([]*metricspb.NumberDataPoint, len(points))
	for i, point := range points {
		converted := &metricspb.NumberDataPoint{Attributes: keyValues(point.Attributes.ToSlice()),
			StartTimeUnixNano: nanoseconds(point.StartTime), TimeUnixNano: nanoseconds(point.Time), Exemplars: exemplars(point.Exemplars)}
		switch value := any(point.Value).(type) {
		case int64:
			converted.Value = &metricspb.NumberDataPoint_AsInt{AsInt: value}
		case float64:
			converted.Value = &metricspb.NumberDataPoint_AsDouble{AsDouble: value}
		}
		out[i] = converted
	}
	return out
}

func histograms[N int64 | float64](points []metricdata.HistogramDataPoint[N]) []*metricspb.HistogramDataPoint {
	out := make([]*metricspb.HistogramDataPoint, len(points))
	for i, point := range points {
		sum := float64(point.Sum)
		out[i] = &metricspb.HistogramDataPoint{Attributes: keyValues(point.Attributes.ToSlice()),
			StartTimeUnixNano: nanoseconds(point.StartTime), TimeUnixNano: nanoseconds(point.Time),
			Count: point.Count, Sum: &sum, BucketCounts: point.BucketCounts, ExplicitBounds: point.Bounds,
			Min: extreme(point.Min), Max: extreme(point.Max), Exemplars: exemplars(point.Exemplars)}
	}
	return out
}

func extreme[N int64 | float64](e metricdata.Extrema[N]) *float64 {
	value, defined := e.Value()
	if !defined {
		return nil
	}
	number := float64(value)
	return &number
}

func exemplars[N int64 | float64](from []metricdata.Exemplar[N]) []*metricspb.Exemplar {
	out := make([]*metricspb.Exemplar, len(from))
	for i, exemplar := range from {
		out[i] = &metricspb.Exemplar{FilteredAttributes: keyValues(exemplar.FilteredAttributes),
			TimeUnixNano: nanoseconds(exemplar.Time), SpanId: exemplar.SpanID, TraceId: exemplar.TraceID,
			Value: &metricspb.Exemplar_AsDouble{AsDouble: float64(exemplar.Value)}}
	}
	return out
}

// NewLogs returns an exporter of log records. What cannot be delivered is told to failed.
func NewLogs(endpoint *Endpoint, failed func(error)) sdklog.Exporter {
	return &logs{newClient(endpoint, failed)}
}

type logs struct{ client *client }

func (l *logs) ForceFlush(context.Context) error { return nil }
func (l *logs) Shutdown(context.Context) error   { l.client.close(); return nil }

func (l *logs) Export(ctx context.Context, records []sdklog.Record) error {
	if len(records) == 0 {
		return nil
	}
	// One provider has one resource.
	out := &logspb.ResourceLogs{Resource: resourceOf(records[0].Resource())}
	scopes := map[instrumentation.Scope]*logspb.ScopeLogs{}
	for i := range records {
		record := &records[i]
		scope := record.InstrumentationScope()
		group := scopes[scope]
		if group == nil {
			group = &logspb.ScopeLogs{Scope: scopeOf(scope), SchemaUrl: scope.SchemaURL}
			scopes[scope] = group
			out.ScopeLogs = append(out.ScopeLogs, group)
		}
		group.LogRecords = append(group.LogRecords, logOf(record))
	}
	l.client.send(ctx, &logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{out}}, len(records))
	return nil
}

func logOf(record *sdklog.Record) *logspb.LogRecord {
	attributes := make([]attribute.KeyValue, 0, record.AttributesLen())
	record.WalkAttributes(func(kv attribute.KeyValue) bool {
		attributes = append(attributes, kv)
		return true
	})
	out := &logspb.LogRecord{
		TimeUnixNano: nanoseconds(record.Timestamp()), ObservedTimeUnixNano: nanoseconds(record.ObservedTimestamp()),
		SeverityNumber: logspb.SeverityNumber(record.Severity()), SeverityText: record.SeverityText(), EventName: record.EventName(),
		Body: anyValue(record.Body()), Attributes: keyValues(attributes),
		DroppedAttributesCount: uint32(max(0, record.DroppedAttributes())), Flags: uint32(record.TraceFlags()),
	}
	if id := record.TraceID(); id.IsValid() {
		out.TraceId = id[:]
	}
	if id := record.SpanID(); id.IsValid() {
		out.SpanId = id[:]
	}
	return out
}

func resourceOf(r *resource.Resource) *resourcepb.Resource {
	return &resourcepb.Resource{Attributes: keyValues(r.Attributes())}
}

func scopeOf(s instrumentation.Scope) *commonpb.InstrumentationScope {
	return &commonpb.InstrumentationScope{Name: s.Name, Version: s.Version, Attributes: keyValues(s.Attributes.ToSlice())}
}

func keyValues(attributes []attribute.KeyValue) []*commonpb.KeyValue {
	if len(attributes) == 0 {
		return nil
	}
	out := make([]*commonpb.KeyValue, len(attributes))
	for i, kv := range attributes {
		out[i] = &commonpb.KeyValue{Key: string(kv.Key), Value: anyValue(kv.Value)}
	}
	return out
}

func anyValue(v attribute.Value) *commonpb.AnyValue {
	switch v.Type() {
	case attribute.BOOL:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: v.AsBool()}}
	case attribute.INT64:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: v.AsInt64()}}
	case attribute.FLOAT64:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: v.AsFloat64()}}
	case attribute.STRING:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v.AsString()}}
	case attribute.BYTESLICE:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BytesValue{BytesValue: v.AsByteSlice()}}
	case attribute.BOOLSLICE:
		return array(v.AsBoolSlice(), attribute.BoolValue)
	case attribute.INT64SLICE:
		return array(v.AsInt64Slice(), attribute.Int64Value)
	case attribute.FLOAT64SLICE:
		return array(v.AsFloat64Slice(), attribute.Float64Value)
	case attribute.STRINGSLICE:
		return array(v.AsStringSlice(), attribute.StringValue)
	case attribute.SLICE:
		return array(v.AsSlice(), func(v attribute.Value) attribute.Value { return v })
	case attribute.MAP:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: &commonpb.KeyValueList{Values: keyValues(v.AsMap())}}}
	default:
		return &commonpb.AnyValue{}
	}
}

func array[T any](elements []T, value func(T) attribute.Value) *commonpb.AnyValue {
	out := &commonpb.ArrayValue{Values: make([]*commonpb.AnyValue, len(elements))}
	for i, element := range elements {
		out.Values[i] = anyValue(value(element))
	}
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: out}}
}

// nanoseconds is 0 for no time.
func nanoseconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(0, t.UnixNano()))
}
