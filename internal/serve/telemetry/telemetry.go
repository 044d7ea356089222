// Package telemetry shows what the webhook does by OpenTelemetry: traces, metrics
// and logs by OTLP to a collector, and metrics for Prometheus. What is not set is
// off and costs nothing.
//
// No metric tells of single devices. What a span tells of one is for
// [Options.RegistrationID] to say.
package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

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
	// Listen is the address on which GET /metrics is served for Prometheus;
	// empty for none.
	Listen string
	// Log gets what goes wrong in sending, at most a line a minute. Required.
	Log slog.Handler
	// RegistrationID tells how a span may name a device, given its registration
	// ID; nil or empty means not at all.
	RegistrationID func(registrationID string) string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Telemetry is what is on. Its methods may be called in any case.
type Telemetry struct {
	traces         *sdktrace.TracerProvider
	metrics        *sdkmetric.MeterProvider
	logs           *sdklog.LoggerProvider
	scrape         *scrapeServer
	instruments    *instruments
	registrationID func(string) string
}

// Start turns on what the settings say. It fails only where they cannot be
// followed, never over a collector that is not there.
func Start(options Options) (*Telemetry, error) {
	s := options.Settings
	t := &Telemetry{registrationID: options.RegistrationID}
	if !s.otlp.On() && options.Listen == "" {
		return t, nil
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	resource := s.resourceOf()
	complaints := &complaints{log: slog.New(options.Log), now: options.Now}
	failed := complaints.about
	// The SDK has one place for errors in a process, and writes them to standard
	// error unless it is told better; the Functions host would take each for one
	// of the webhook's.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(failed))
	if s.otlp.Traces != nil {
		t.traces = sdktrace.NewTracerProvider(sdktrace.WithResource(resource), sdktrace.WithSampler(s.sampler),
			sdktrace.WithBatcher(otlp.NewTraces(s.otlp.Traces, failed), sdktrace.WithBatchTimeout(s.spanDelay)))
	}
	if s.otlp.Logs != nil {
		t.logs = sdklog.NewLoggerProvider(sdklog.WithResource(resource), sdklog.WithProcessor(
			sdklog.NewBatchProcessor(otlp.NewLogs(s.otlp.Logs, failed), sdklog.WithExportInterval(s.logDelay))))
	}
	readers := []sdkmetric.Option{sdkmetric.WithResource(resource)}
	if s.otlp.Metrics != nil {
		readers = append(readers, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(
			otlp.NewMetrics(s.otlp.Metrics, s.otlp.Temporality, failed), sdkmetric.WithInterval(s.metricInterval))))
	}
	if options.Listen != "" {
		server, reader, err := newScrapeServer(options.Listen, slog.NewLogLogger(options.Log, slog.LevelWarn))
		if err != nil {
			t.stopAtOnce()
			return nil, err
		}
		t.scrape = server
		readers = append(readers, sdkmetric.WithReader(reader))
	}
	if len(readers) > 1 {
		t.metrics = sdkmetric.NewMeterProvider(readers...)
		if err := t.measure(); err != nil {
			t.stopAtOnce()
			return nil, err
		}
	}
	return t, nil
}

func (t *Telemetry) measure() error {
	var err error
	if t.instruments, err = newInstruments(t.metrics.Meter(Scope)); err != nil {
		return err
	}
	return goruntime.Start(goruntime.WithMeterProvider(t.metrics))
}

func (t *Telemetry) stopAtOnce() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = t.Shutdown(ctx)
}

// Tracer opens the spans of the webhook. It is nil where traces are off.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.traces == nil {
		return nil
	}
	return t.traces.Tracer(Scope)
}

// LogHandler returns a handler that sends what base would write to the collector
// as well; base itself where logs are off.
func (t *Telemetry) LogHandler(base slog.Handler) slog.Handler {
	if t.logs == nil {
		return base
	}
	return slog.NewMultiHandler(base, gated{otelslog.NewHandler(Scope, otelslog.WithLoggerProvider(t.logs)), base})
}

// gated hands on what another handler is set to write, too.
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

// ScrapeAddress is where /metrics is served; empty where it is not.
func (t *Telemetry) ScrapeAddress() string {
	if t.scrape == nil {
		return ""
	}
	return t.scrape.listener.Addr().String()
}

// Shutdown sends what waits, then ends. It returns when ctx is done at the latest.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	// Side by side: one collector that hangs must not take the time of the others.
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
	return errors.Join(errs[:]...)
}

// complaints are written at most once a minute: a collector that is away would
// otherwise fill the log.
type complaints struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	next   time.Time
	unsaid int
}

const complaintsApart = time.Minute

func (c *complaints) about(err error) {
	if errors.Is(err, context.Canceled) {
		return // the end of the process
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Before(c.next) {
		c.unsaid++
		return
	}
	c.next = now.Add(complaintsApart)
	c.log.Warn("telemetry is not delivered", "error", err.Error(), "since_last_line", c.unsaid)
	c.unsaid = 0
}
