package telemetry

import (
	"cmp"
	"errors"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/usher-dps/usher/internal/serve/environment"
	"github.com/usher-dps/usher/internal/serve/telemetry/otlp"
)

// Environment variables beyond those of package otlp, as OpenTelemetry names them. Source:
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
const (
	VariableServiceName    = "OTEL_SERVICE_NAME"
	VariableAttributes     = "OTEL_RESOURCE_ATTRIBUTES"
	VariableSampler        = "OTEL_TRACES_SAMPLER"
	VariableSamplerArg     = "OTEL_TRACES_SAMPLER_ARG"
	VariableSpanDelay      = "OTEL_BSP_SCHEDULE_DELAY"
	VariableLogDelay       = "OTEL_BLRP_SCHEDULE_DELAY"
	VariableMetricInterval = "OTEL_METRIC_EXPORT_INTERVAL"
)

// Defaults. The Functions host kills its handler without warning, and what is waiting here is then lost. So the
// intervals are shorter than OpenTelemetry's own of 5 s for spans and 60 s for metrics.
const (
	// DefaultSampler keeps a trace whatever its parent says: the Functions host marks the parents that it makes as not
	// sampled, and OpenTelemetry's own default would therefore drop every trace. DPS makes at most 1,000 calls a
	// minute.
	DefaultSampler        = "always_on"
	DefaultSpanDelay      = time.Second
	DefaultLogDelay       = time.Second
	DefaultMetricInterval = 10 * time.Second
)

// Settings are those of telemetry.
type Settings struct {
	otlp           otlp.Settings
	resource       *resource.Resource
	sampler        sdktrace.Sampler
	spanDelay      time.Duration
	logDelay       time.Duration
	metricInterval time.Duration
}

// ReadSettings reads the standard variables. The error names every variable that is wrong and no value.
func ReadSettings(getenv func(string) string) (Settings, error) {
	exporters, err := otlp.ReadSettings(getenv)
	r := environment.NewReader(getenv)
	milliseconds := func(name string, fallback time.Duration) time.Duration {
		return r.Milliseconds(name, fallback, 10*time.Millisecond, time.Hour)
	}
	s := Settings{
		otlp:           exporters,
		spanDelay:      milliseconds(VariableSpanDelay, DefaultSpanDelay),
		logDelay:       milliseconds(VariableLogDelay, DefaultLogDelay),
		metricInterval: milliseconds(VariableMetricInterval, DefaultMetricInterval),
	}
	ratio, ratioErr := strconv.ParseFloat(r.Get(VariableSamplerArg, "1"), 64)
	if ratioErr != nil || !(ratio >= 0 && ratio <= 1) {
		r.Wrong(VariableSamplerArg, "not a share from 0 to 1, such as 0.1")
	}
	switch r.Get(VariableSampler, DefaultSampler) {
	case "always_on":
		s.sampler = sdktrace.AlwaysSample()
	case "always_off":
		s.sampler = sdktrace.NeverSample()
	case "traceidratio":
		s.sampler = sdktrace.TraceIDRatioBased(ratio)
	case "parentbased_always_on":
		s.sampler = sdktrace.ParentBased(sdktrace.AlwaysSample())
	case "parentbased_always_off":
		s.sampler = sdktrace.ParentBased(sdktrace.NeverSample())
	case "parentbased_traceidratio":
		s.sampler = sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))
	default:
		r.Wrong(VariableSampler, "none of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio")
	}
	pairs, pairsErr := otlp.Pairs(r.Get(VariableAttributes, ""))
	if pairsErr != nil {
		r.Wrong(VariableAttributes, "not a list such as deployment.environment.name=production,team=iot")
	}
	s.resource = resource.NewWithAttributes(semconv.SchemaURL, resourceAttributes(r, pairs)...)
	if err := errors.Join(err, r.Err()); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// resourceAttributes identify the process: by what App Service and Functions put into the environment, then by what the
// operator sets. Of equal keys, the last one counts.
func resourceAttributes(r *environment.Reader, pairs []attribute.KeyValue) []attribute.KeyValue {
	hostname, _ := os.Hostname()
	site := r.Get("WEBSITE_SITE_NAME", "")
	attributes := []attribute.KeyValue{
		semconv.TelemetrySDKName("opentelemetry"), semconv.TelemetrySDKLanguageGo, semconv.ServiceName(cmp.Or(site, "usher")),
		semconv.ServiceInstanceID(r.Get("WEBSITE_INSTANCE_ID", r.Get("CONTAINER_NAME", hostname))),
	}
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" && build.Main.Version != "(devel)" {
		attributes = append(attributes, semconv.ServiceVersion(build.Main.Version))
	}
	if site != "" {
		attributes = append(attributes, semconv.CloudProviderAzure, semconv.CloudPlatformAzureFunctions, semconv.FaaSName(site))
		if region := r.Get("REGION_NAME", ""); region != "" {
			attributes = append(attributes, semconv.CloudRegion(region))
		}
	}
	attributes = append(attributes, pairs...)
	if name := r.Get(VariableServiceName, ""); name != "" {
		attributes = append(attributes, semconv.ServiceName(name))
	}
	return attributes
}
