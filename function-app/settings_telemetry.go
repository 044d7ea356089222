package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/usher-dps/usher/internal/serve/environment"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

// readMetricsListen reads the address for Prometheus. Package telemetry reads OpenTelemetry's standard variables.
func readMetricsListen(r *environment.Reader, webhook string) string {
	address := r.Get(settingMetricsListen, "")
	if address == "" {
		return ""
	}
	_, port, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		r.Wrong(settingMetricsListen, "not an address of the form host:port, such as 127.0.0.1:9090")
	case address == webhook && port != "0": // 0 is another free port each time
		r.Wrong(settingMetricsListen, "the webhook's own address; metrics need another one, since they are served without a key")
	}
	return address
}

func startTelemetry(settings settings, standard telemetry.Settings, output slog.Handler) (*telemetry.Telemetry, error) {
	signals, err := telemetry.Start(telemetry.Options{Settings: standard, Listen: settings.metricsListen, Log: output,
		RegistrationID: settings.records.RegistrationID})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", settingMetricsListen, err)
	}
	if address := signals.ScrapeAddress(); address != "" {
		slog.New(output).Info("serving metrics", "address", address)
	}
	return signals, nil
}

// telemetryFlush bounds the wait for a collector at the end. Together with USHER_DRAIN_TIMEOUT it is below the 30 s
// that containers get.
const telemetryFlush = 3 * time.Second

func stopTelemetry(signals *telemetry.Telemetry) {
	ctx, cancel := context.WithTimeout(context.Background(), telemetryFlush)
	defer cancel()
	_ = signals.Shutdown(ctx) // logs its error
}
