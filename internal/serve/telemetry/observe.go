package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/handler"
)

// Observer counts each allocation and tells its span what was decided. It is nil
// where neither metrics nor traces are on.
func (t *Telemetry) Observer() handler.Observer {
	if t.instruments == nil && t.traces == nil {
		return nil
	}
	return func(ctx context.Context, a *handler.Allocation) {
		if t.instruments != nil && !a.Probe {
			t.instruments.count(ctx, a)
		}
		if span := trace.SpanFromContext(ctx); span.IsRecording() {
			span.SetAttributes(t.attributes(a)...)
		}
	}
}

// attributes are what a span tells of an allocation: who decided what, and of the
// device no more than is allowed.
func (t *Telemetry) attributes(a *handler.Allocation) []attribute.KeyValue {
	attributes := make([]attribute.KeyValue, 0, 16)
	text := func(name, value string) {
		if value != "" {
			attributes = append(attributes, attribute.String(name, value))
		}
	}
	text(AttributeDecision, a.DecisionID)
	text(AttributeResult, a.Result())
	rules, rule, provenance := a.Decision.Rules, a.Decision.Rule, a.Decision.Provenance
	if a.Fault != nil {
		rules, rule, provenance = a.Fault.Rules, a.Fault.Rule, a.Fault.Provenance
	}
	text(AttributeRules, rules)
	text(AttributeRule, rule)
	text(attributeSource, string(provenance.Source))
	text(attributeRevision, provenance.Revision)
	if request := a.Request; request != nil && a.Result() != string(allocation.InvalidRequest) {
		text(AttributeEnrollmentKind, string(request.Enrollment.Kind))
		if request.Enrollment.Kind == dps.IndividualEnrollment { // its name is the device's
			text(AttributeEnrollment, t.device(request.Enrollment.ID))
		} else {
			text(AttributeEnrollment, request.Enrollment.ID)
		}
		text(AttributeRegistration, t.device(request.Device.RegistrationID))
		text(AttributeCurrentHub, request.Device.CurrentIotHubHostName)
	}
	if a.Fault == nil && a.Decision.Outcome == allocation.Assigned {
		text(AttributeHub, a.Decision.Response.IotHubHostName)
		text(AttributeInitialTwin, string(a.Decision.InitialTwin))
	}
	if len(a.Decision.Overrides) > 0 {
		overrides := make([]string, len(a.Decision.Overrides))
		for i, override := range a.Decision.Overrides {
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
