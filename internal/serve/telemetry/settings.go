package telemetry

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/usher-dps/usher/internal/serve/telemetry/otlp"
)

// Variables of the environment beyond those of package otlp, as OpenTelemetry
// names them.
// Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
const (
	VariableServiceName    = "OTEL_SERVICE_NAME"
	VariableAttributes     = "OTEL_RESOURCE_ATTRIBUTES"
	VariableSampler        = "OTEL_TRACES_SAMPLER"
	VariableSamplerArg     = "OTEL_TRACES_SAMPLER_ARG"
	VariableSpanDelay      = "OTEL_BSP_SCHEDULE_DELAY"
	VariableLogDelay       = "OTEL_BLRP_SCHEDULE_DELAY"
	VariableMetricInterval = "OTEL_METRIC_EXPORT_INTERVAL"
)

// Defaults. The Functions host kills its handler without a word, so what waits
// here is lost: the intervals are shorter than OpenTelemetry's own of 5 s for
// spans and 60 s for metrics.
const (
	// DefaultSampler keeps a trace whatever its parent says: the Functions host
	// marks the parents that it makes as not sampled, and OpenTelemetry's own
	// default would drop every trace for that. DPS makes at most 1,000 calls a
	// minute.
	DefaultSampler        = "always_on"
	DefaultSpanDelay      = time.Second
	DefaultLogDelay       = time.Second
	DefaultMetricInterval = 10 * time.Second
)

// Settings are what the environment says about telemetry.
type Settings struct {
	otlp           otlp.Settings
	resource       []attribute.KeyValue
	sampler        sdktrace.Sampler
	spanDelay      time.Duration
	logDelay       time.Duration
	metricInterval time.Duration
}

// ReadSettings reads the standard variables. The error names every variable that
// is wrong and no value.
func ReadSettings(getenv func(string) string) (Settings, error) {
	exporters, err := otlp.ReadSettings(getenv)
	s := Settings{otlp: exporters}
	problems := []error{err}
	wrong := func(name, text string) { problems = append(problems, fmt.Errorf("%s: %s", name, text)) }
	get := func(name string) string { return strings.TrimSpace(getenv(name)) }
	milliseconds := func(name string, fallback time.Duration) time.Duration {
		n, err := strconv.Atoi(cmp.Or(get(name), strconv.FormatInt(fallback.Milliseconds(), 10)))
		if err != nil || n < 10 || n > 3_600_000 {
			wrong(name, "not a number of milliseconds from 10 to 3600000")
		}
		return time.Duration(n) * time.Millisecond
	}
	s.spanDelay = milliseconds(VariableSpanDelay, DefaultSpanDelay)
	s.logDelay = milliseconds(VariableLogDelay, DefaultLogDelay)
	s.metricInterval = milliseconds(VariableMetricInterval, DefaultMetricInterval)

	ratio := 1.0
	if text := get(VariableSamplerArg); text != "" {
		if ratio, err = strconv.ParseFloat(text, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			wrong(VariableSamplerArg, "not a share from 0 to 1, such as 0.1")
		}
	}
	switch cmp.Or(get(VariableSampler), DefaultSampler) {
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
		wrong(VariableSampler, "none of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio")
	}

	pairs, err := otlp.Pairs(get(VariableAttributes))
	if err != nil {
		wrong(VariableAttributes, "not a list such as deployment.environment.name=production,team=iot")
	}
	s.resource = resourceAttributes(get, pairs)
	if err := errors.Join(problems...); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// resourceAttributes say which process this is: what App Service and Functions
// put into the environment, then what the operator says.
func resourceAttributes(get func(string) string, pairs []otlp.Pair) []attribute.KeyValue {
	hostname, _ := os.Hostname()
	site := get("WEBSITE_SITE_NAME")
	attributes := []attribute.KeyValue{
		semconv.ServiceName(cmp.Or(site, "usher")),
		semconv.ServiceInstanceID(cmp.Or(get("WEBSITE_INSTANCE_ID"), get("CONTAINER_NAME"), hostname)),
	}
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" && build.Main.Version != "(devel)" {
		attributes = append(attributes, semconv.ServiceVersion(build.Main.Version))
	}
	if site != "" {
		attributes = append(attributes, semconv.CloudProviderAzure, semconv.CloudPlatformAzureFunctions, semconv.FaaSName(site))
		if region := get("REGION_NAME"); region != "" {
			attributes = append(attributes, semconv.CloudRegion(region))
		}
	}
	for _, pair := range pairs { // of equal keys the last one counts
		attributes = append(attributes, attribute.String(pair.Key, pair.Value))
	}
	if name := get(VariableServiceName); name != "" {
		attributes = append(attributes, semconv.ServiceName(name))
	}
	return attributes
}

func (s Settings) resourceOf() *resource.Resource {
	return resource.NewWithAttributes(semconv.SchemaURL, append([]attribute.KeyValue{
		semconv.TelemetrySDKName("opentelemetry"), semconv.TelemetrySDKLanguageGo,
	}, s.resource...)...)
}
