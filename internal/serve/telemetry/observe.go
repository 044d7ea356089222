package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// Observer counts each call and describes it in its span. It is nil if both metrics and traces are off.
func (t *Telemetry) Observer() answer.Observer {
	if t.instruments == nil && t.traces == nil {
		return nil
	}
	return func(ctx context.Context, call *answer.Call) {
		if t.instruments != nil && !call.Probe {
			t.instruments.count(ctx, call)
		}
		if span := trace.SpanFromContext(ctx); span.IsRecording() {
			span.SetAttributes(t.attributes(call)...)
		}
	}
}

// attributes are what a span shows of a call: what was decided by which rules, and of the device only what is allowed.
func (t *Telemetry) attributes(call *answer.Call) []attribute.KeyValue {
	a := &call.Answer
	attributes := make([]attribute.KeyValue, 0, 16)
	text := func(name, value string) {
		if value != "" {
			attributes = append(attributes, attribute.String(name, value))
		}
	}
	text(AttributeDecision, call.DecisionID)
	text(AttributeResult, string(a.Result))
	text(AttributeRules, a.Rules)
	text(AttributeRule, a.PackageName())
	text(attributeSource, string(a.Source))
	text(attributeRevision, a.Revision)
	text(AttributeService, call.Service)
	if request := call.Request; request != nil && a.Result != answer.InvalidRequest {
		text(AttributeEnrollmentKind, string(request.Enrollment.Kind))
		if request.Enrollment.Kind == dps.IndividualEnrollment { // its name is the device's
			text(AttributeEnrollment, t.device(request.Enrollment.ID))
		} else {
			text(AttributeEnrollment, request.Enrollment.ID)
		}
		text(AttributeRegistration, t.device(request.Device.RegistrationID))
		text(AttributeCurrentHub, request.Device.CurrentIotHubHostName)
	}
	text(AttributeHub, a.Response.IotHubHostName)
	text(AttributeInitialTwin, string(a.InitialTwin))
	if len(a.Overrides) > 0 {
		overrides := make([]string, len(a.Overrides))
		for i, override := range a.Overrides {
			overrides[i] = string(override)
		}
		attributes = append(attributes, attribute.StringSlice(AttributeOverrides, overrides))
	}
	return attributes
}

func (t *Telemetry) device(registrationID string) string {
	if t.registrationID == nil {
		return ""
	}
	return t.registrationID(registrationID)
}
