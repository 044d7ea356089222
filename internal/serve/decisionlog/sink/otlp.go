package sink

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"

	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/decisionlog/spool"
	"github.com/usher-dps/usher/internal/serve/telemetry/otlp"
)

// OTLPLinger is how long records should wait for others.
const OTLPLinger = time.Second

// EventName is the name of the events by which records go to OTLP.
const EventName = "usher.decision"

// OTLP sends records to an OpenTelemetry collector, over HTTP with protobuf. A record is the body
// of a log record, as it is; its time, trace, decision ID, result and severity stand beside it.
//
// Not by the log exporters of OpenTelemetry's SDK, which do not tell an error that
// may pass from a refusal for good.
type OTLP struct {
	poster   *otlp.Poster
	resource *resource.Resource
}

// NewOTLP reads the standard variables of OpenTelemetry. The error names every variable that is
// wrong, and no value. An endpoint must be set: records for a collector that
// is not there would fill the spool.
func NewOTLP(getenv func(string) string) (*OTLP, error) {
	settings, err := otlp.ReadSettings(getenv)
	if err != nil {
		return nil, err
	}
	if settings.Logs == nil {
		return nil, errors.New("otlp is a sink, and " + otlp.VariableEndpoint + " is empty or OpenTelemetry's logs are switched off by " +
			otlp.VariableDisabled + " or " + otlp.VariableLogsExporter + ": set the endpoint, such as http://localhost:4318")
	}
	attributes, err := otlp.Pairs(getenv("OTEL_RESOURCE_ATTRIBUTES"))
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES: not a list such as name=value,name=value")
	}
	o := &OTLP{poster: otlp.NewPoster(settings.Logs), resource: new(resource.Resource)}
	if service := getenv("OTEL_SERVICE_NAME"); service != "" {
		attributes = slices.DeleteFunc(attributes, func(p otlp.Pair) bool { return p.Key == serviceName })
		attributes = append(attributes, otlp.Pair{Key: serviceName, Value: service})
	}
	if !slices.ContainsFunc(attributes, func(p otlp.Pair) bool { return p.Key == serviceName }) {
		attributes = append(attributes, otlp.Pair{Key: serviceName, Value: "usher"})
	}
	for _, pair := range attributes {
		o.resource.Attributes = append(o.resource.Attributes, attribute(pair.Key, pair.Value))
	}
	return o, nil
}

const serviceName = "service.name"

func attribute(name, value string) *common.KeyValue {
	return &common.KeyValue{Key: name, Value: text(value)}
}

// text takes what protobuf takes: text that is not UTF-8 would fail the delivery for ever.
func text(value string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\uFFFD")}}
}

// Deliver sends records in one request.
//
// Which statuses are for good follows https://opentelemetry.io/docs/specs/otlp/#otlphttp-response,
// but for those that somebody can mend in the collector or on the way to it, such as 401
// and 404: the records wait for that.
func (o *OTLP) Deliver(ctx context.Context, records [][]byte) error {
	scope := &logs.ScopeLogs{Scope: &common.InstrumentationScope{Name: "github.com/usher-dps/usher"}}
	for _, record := range records {
		scope.LogRecords = append(scope.LogRecords, logRecord(record))
	}
	err := o.poster.Post(ctx, &logs.LogsData{ResourceLogs: []*logs.ResourceLogs{{Resource: o.resource, ScopeLogs: []*logs.ScopeLogs{scope}}}})
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

// head is what is read of a record to stand beside it.
type head struct {
	DecisionID string               `json:"decisionId"`
	Time       time.Time            `json:"time"`
	Status     int                  `json:"status"`
	Decision   decisionlog.Decision `json:"decision"`
	Trace      decisionlog.Trace    `json:"trace"`
}

func logRecord(record []byte) *logs.LogRecord {
	r := &logs.LogRecord{
		ObservedTimeUnixNano: uint64(time.Now().UnixNano()), EventName: EventName, Body: text(string(record)),
		SeverityNumber: logs.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
	}
	var h head
	if json.Unmarshal(record, &h) != nil {
		return r // the body has it all
	}
	if !h.Time.IsZero() {
		r.TimeUnixNano = uint64(h.Time.UnixNano())
	}
	switch {
	case h.Decision.Alarm || h.Decision.Fault != nil && h.Status >= 500:
		r.SeverityNumber, r.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
	case h.Decision.Fault != nil:
		r.SeverityNumber, r.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	if h.DecisionID != "" {
		r.Attributes = append(r.Attributes, attribute("dps.decision_id", h.DecisionID))
	}
	if result := h.Decision.Result(); result != "" {
		r.Attributes = append(r.Attributes, attribute("dps.result", result))
	}
	r.TraceId = identifier(h.Trace.TraceID, 16)
	r.SpanId = identifier(h.Trace.SpanID, 8)
	return r
}

// identifier is nil unless the text is the hexadecimal form of an ID of that size.
func identifier(text string, size int) []byte {
	id, err := hex.DecodeString(text)
	if err != nil || len(id) != size {
		return nil
	}
	return id
}
