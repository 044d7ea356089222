package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/usher-dps/usher/internal/serve/decisionlog"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

// readMetricsListen reads where Prometheus may ask. The variables of
// OpenTelemetry are read by package telemetry, under their standard names.
func (s *settings) readMetricsListen(get func(name, fallback string) string, wrong func(name, format string, args ...any)) {
	s.metricsListen = get(settingMetricsListen, "")
	if s.metricsListen == "" {
		return
	}
	_, port, err := net.SplitHostPort(s.metricsListen)
	switch {
	case err != nil:
		wrong(settingMetricsListen, "not an address of the form host:port, such as 127.0.0.1:9090")
	case s.metricsListen == s.listen && port != "0": // 0 is another free port each time
		wrong(settingMetricsListen, "the webhook's own address; metrics need another, for they are signals without a key")
	}
}

func startTelemetry(settings settings, standard telemetry.Settings, output slog.Handler) (*telemetry.Telemetry, error) {
	signals, err := telemetry.Start(telemetry.Options{Settings: standard, Listen: settings.metricsListen, Log: output,
		RegistrationID: settings.records.registrationID})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", settingMetricsListen, err)
	}
	if address := signals.ScrapeAddress(); address != "" {
		slog.New(output).Info("serving metrics", "address", address)
	}
	return signals, nil
}

// registrationID is how a device may be named outside of records: as in them.
func (r recordSettings) registrationID(id string) string {
	switch r.IDs {
	case decisionlog.Plain:
		return id
	case decisionlog.Hashed:
		return decisionlog.HashID([]byte(r.IDKey), id)
	default:
		return ""
	}
}

// telemetryFlush is how long the end may wait for a collector. Together with
// USHER_DRAIN_TIMEOUT it stays below the 30 s that containers are given.
const telemetryFlush = 3 * time.Second

func stopTelemetry(signals *telemetry.Telemetry) {
	ctx, cancel := context.WithTimeout(context.Background(), telemetryFlush)
	defer cancel()
	_ = signals.Shutdown(ctx) // there is nobody left to tell; what was not sent was told by then
}
