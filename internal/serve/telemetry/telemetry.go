// Package telemetry shows what the webhook does through OpenTelemetry: traces, metrics and logs over OTLP to a
// collector, and metrics for Prometheus. What is not set is off and costs nothing.
//
// No metric describes a single device. [Options.RegistrationID] says what a span may show of one.
package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/contrib/bridges/otelslog"
	goruntime "go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/usher-dps/usher/internal/serve/telemetry/otlp"
)

// Scope is the name of the instrumentation scope.
const Scope = "github.com/usher-dps/usher"

// Options configure [Start].
type Options struct {
	Settings Settings
	// Listen is the address on which GET /metrics is served for Prometheus; empty for none.
	Listen string
	// Log receives errors in sending, at most a line a minute. Required.
	Log slog.Handler
	// RegistrationID returns what a span may call a device, given its registration ID. A nil function and an empty text
	// both keep it out of the span.
	RegistrationID func(registrationID string) string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Telemetry is what is on. All methods can be called, whatever is on.
type Telemetry struct {
	traces         *sdktrace.TracerProvider
	metrics        *sdkmetric.MeterProvider
	logs           *sdklog.LoggerProvider
	scrape         *scrapeServer
	instruments    *instruments
	registrationID func(string) string
}

// Start turns on what the settings say. A collector that cannot be reached is no error.
//
// OpenTelemetry has one place for errors in a process, so there should be one Telemetry.
func Start(options Options) (*Telemetry, error) {
	t := &Telemetry{registrationID: options.RegistrationID}
	if !options.Settings.otlp.On() && options.Listen == "" {
		return t, nil
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	// By default both write to standard error, and the Functions host takes each line there for an error of the
	// webhook.
	otel.SetErrorHandler(&errorLog{log: slog.New(options.Log), now: options.Now})
	otel.SetLogger(logr.Discard()) // of the exporters, this would get values of variables
	if err := t.start(options); err != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = t.Shutdown(ctx)
		return nil, err
	}
	return t, nil
}

func (t *Telemetry) start(options Options) error {
	s, resource := options.Settings, options.Settings.resource
	if endpoint := s.otlp.Traces; endpoint != nil {
		exporter, err := otlp.NewTraces(endpoint)
		if err != nil {
			return err
		}
		t.traces = sdktrace.NewTracerProvider(sdktrace.WithResource(resource), sdktrace.WithSampler(s.sampler),
			sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(s.spanDelay), sdktrace.WithExportTimeout(endpoint.Timeout)))
	}
	if endpoint := s.otlp.Logs; endpoint != nil {
		exporter, err := otlp.NewLogs(endpoint)
		if err != nil {
			return err
		}
		t.logs = sdklog.NewLoggerProvider(sdklog.WithResource(resource), sdklog.WithProcessor(
			sdklog.NewBatchProcessor(exporter, sdklog.WithExportInterval(s.logDelay), sdklog.WithExportTimeout(endpoint.Timeout))))
	}
	readers := []sdkmetric.Option{sdkmetric.WithResource(resource)}
	if endpoint := s.otlp.Metrics; endpoint != nil {
		exporter, err := otlp.NewMetrics(endpoint, s.otlp.Temporality)
		if err != nil {
			return err
		}
		readers = append(readers, sdkmetric.WithReader(
			sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(s.metricInterval), sdkmetric.WithTimeout(endpoint.Timeout))))
	}
	if options.Listen != "" {
		server, reader, err := newScrapeServer(options.Listen, slog.NewLogLogger(options.Log, slog.LevelWarn))
		if err != nil {
			return err
		}
		t.scrape = server
		readers = append(readers, sdkmetric.WithReader(reader))
	}
	if len(readers) == 1 {
		return nil
	}
	t.metrics = sdkmetric.NewMeterProvider(readers...)
	var err error
	if t.instruments, err = newInstruments(t.metrics.Meter(Scope)); err != nil {
		return err
	}
	return goruntime.Start(goruntime.WithMeterProvider(t.metrics))
}

// Tracer opens the spans of the webhook. It is nil if traces are off.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.traces == nil {
		return nil
	}
	return t.traces.Tracer(Scope)
}

// LogHandler returns a handler that also sends to the collector what base writes; base itself if logs are off.
func (t *Telemetry) LogHandler(base slog.Handler) slog.Handler {
	if t.logs == nil {
		return base
	}
	return slog.NewMultiHandler(base, gated{otelslog.NewHandler(Scope, otelslog.WithLoggerProvider(t.logs)), base})
}

// gated handles only what another handler is set to write.
type gated struct {
	slog.Handler
	gate slog.Handler
}

func (g gated) Enabled(ctx context.Context, level slog.Level) bool {
	return g.gate.Enabled(ctx, level) && g.Handler.Enabled(ctx, level)
}

func (g gated) WithAttrs(attrs []slog.Attr) slog.Handler {
	return gated{g.Handler.WithAttrs(attrs), g.gate}
}
func (g gated) WithGroup(name string) slog.Handler { return gated{g.Handler.WithGroup(name), g.gate} }

// ScrapeAddress is where /metrics is served; empty if it is not.
func (t *Telemetry) ScrapeAddress() string {
	if t.scrape == nil {
		return ""
	}
	return t.scrape.listener.Addr().String()
}

// Shutdown sends what is left, then ends. It returns at the latest when ctx is done, and logs its error like others.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	// At the same time: a collector that hangs must not use up the time of the other signals.
	var group sync.WaitGroup
	var errs [4]error
	if t.traces != nil {
		group.Go(func() { errs[0] = t.traces.Shutdown(ctx) })
	}
	if t.metrics != nil {
		group.Go(func() { errs[1] = t.metrics.Shutdown(ctx) })
	}
	if t.logs != nil {
		group.Go(func() { errs[2] = t.logs.Shutdown(ctx) })
	}
	if t.scrape != nil {
		group.Go(func() { errs[3] = t.scrape.server.Shutdown(ctx) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, sdkmetric.ErrReaderShutdown) { // the latter at a second call
			otel.Handle(err)
		}
	}
	return errors.Join(errs[:]...)
}

// errorLog logs errors of OpenTelemetry at most once a minute: a collector that is away would fill the log.
type errorLog struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	next    time.Time
	skipped int
}

const errorInterval = time.Minute

// Handle implements otel.ErrorHandler.
func (l *errorLog) Handle(err error) {
	if errors.Is(err, context.Canceled) {
		return // the process ends
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now.Before(l.next) {
		l.skipped++
		return
	}
	l.next = now.Add(errorInterval)
	l.log.Warn("telemetry is not delivered", "error", err.Error(), "since_last_line", l.skipped)
	l.skipped = 0
}
