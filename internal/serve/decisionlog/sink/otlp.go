package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
	"github.com/usher-dps/usher/internal/serve/telemetry/otlp"
)

// OTLPLinger is how long records should wait for others.
const OTLPLinger = time.Second

// EventName is the name of the events as which records go to OTLP.
const EventName = "usher.decision"

// OTLP sends records to an OpenTelemetry collector, over HTTP with protobuf. A record is the body of a log record, as
// it is; its time, trace, decision ID, result and severity are repeated next to it.
type OTLP struct {
	exporter sdklog.Exporter
	logger   log.Logger
	batch    *batch
}

// batch keeps what is logged until it is delivered.
type batch struct {
	sdklog.Processor
	records []sdklog.Record
}

// OnEmit implements sdklog.Processor.
func (b *batch) OnEmit(_ context.Context, record *sdklog.Record) error {
	b.records = append(b.records, record.Clone())
	return nil
}

// NewOTLP reads OpenTelemetry's standard variables. The error names every variable that is wrong, and no value. An
// endpoint must be set: records for a collector that does not exist would fill the spool.
func NewOTLP(getenv func(string) string) (*OTLP, error) {
	settings, err := otlp.ReadSettings(getenv)
	if err != nil {
		return nil, err
	}
	if settings.Logs == nil {
		return nil, errors.New("otlp is a sink, and " + otlp.VariableEndpoint + " is empty or OpenTelemetry's logs are switched off by " +
			otlp.VariableDisabled + " or " + otlp.VariableLogsExporter + ": set the endpoint, such as http://localhost:4318")
	}
	pairs, err := otlp.Pairs(getenv("OTEL_RESOURCE_ATTRIBUTES"))
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES: not a list such as name=value,name=value")
	}
	attributes := []attribute.KeyValue{text("service.name", "usher")} // of equal names the last one counts
	for _, pair := range pairs {
		attributes = append(attributes, text(string(pair.Key), pair.Value.AsString()))
	}
	if service := getenv("OTEL_SERVICE_NAME"); service != "" {
		attributes = append(attributes, text("service.name", service))
	}
	exporter, err := otlp.NewLogsOnce(settings.Logs)
	if err != nil {
		return nil, err
	}
	o := &OTLP{exporter: exporter, batch: &batch{Processor: sdklog.NewSimpleProcessor(exporter)}}
	o.logger = sdklog.NewLoggerProvider(sdklog.WithResource(resource.NewSchemaless(attributes...)), sdklog.WithProcessor(o.batch)).
		Logger("github.com/usher-dps/usher")
	return o, nil
}

// text returns an attribute that protobuf can hold: text that is not UTF-8 would fail the delivery for ever.
func text(name, value string) attribute.KeyValue {
	return attribute.String(name, strings.ToValidUTF8(value, "\uFFFD"))
}

// Deliver sends records in one request. It must not be called twice at the same time.
//
// Which statuses are final follows https://opentelemetry.io/docs/specs/otlp/#otlphttp-response, except those that an
// operator can fix in the collector or on the way to it, such as 401 and 404: the records wait for that.
func (o *OTLP) Deliver(ctx context.Context, records [][]byte) error {
	o.batch.records = make([]sdklog.Record, 0, len(records))
	for _, record := range records {
		o.log(ctx, record)
	}
	err := o.exporter.Export(ctx, o.batch.records)
	o.batch.records = nil
	if rejected, ok := errors.AsType[*otlp.RejectedError](err); ok {
		return &spool.Refusal{Refused: rejected.Rejected, Err: err}
	}
	status, ok := errors.AsType[*otlp.StatusError](err)
	switch {
	case !ok:
		return err
	case slices.Contains([]int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity}, status.Status):
		return &spool.Refusal{Err: err}
	case status.RetryAfter > 0:
		return &spool.Busy{Wait: status.RetryAfter, Err: err}
	case status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden:
		return fmt.Errorf("%w; look at %s", err, otlp.VariableHeaders)
	}
	return err
}

// log adds a record to the batch.
func (o *OTLP) log(ctx context.Context, record []byte) {
	var r log.Record
	r.SetEventName(EventName)
	r.SetBody(text("", string(record)).Value)
	r.SetSeverity(log.SeverityInfo)
	var head decisionlog.Record
	if json.Unmarshal(record, &head) == nil { // else the body still has everything
		r.SetTimestamp(head.Time)
		call := answer.Call{Answer: head.Answer(), Probe: head.Probe}
		switch call.Level() {
		case slog.LevelError:
			r.SetSeverity(log.SeverityError)
		case slog.LevelWarn:
			r.SetSeverity(log.SeverityWarn)
		}
		for name, value := range map[string]string{"dps.decision_id": head.DecisionID, "dps.result": head.Decision.Result()} {
			if value != "" {
				r.AddAttributes(text(name, value))
			}
		}
		if head.Trace != nil {
			traceID, _ := trace.TraceIDFromHex(head.Trace.TraceID) // what is invalid is zero, and not sent
			spanID, _ := trace.SpanIDFromHex(head.Trace.SpanID)
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID}))
		}
	}
	r.SetSeverityText(r.Severity().String())
	o.logger.Emit(ctx, r)
}
