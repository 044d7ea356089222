// Command function-app is the webhook as a program: the custom handler that the
// Azure Functions host starts, or a server of its own in a container or a VM.
//
// It takes its settings from the environment; local.settings.json.example
// documents them. It never exits with status 0 unless it was told to stop, since
// the Functions host would take that for an end that it must not repair.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
	_ "time/tzdata" // rules name time zones, and an image may have none

	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

func main() {
	host := os.Getppid() // first of all: who knows how long it lives
	tuneCollector(os.Getenv)
	time.Local = time.UTC // to a rule, "Local" must be the same on every instance
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(settingHostPort) != "" {
		go exitWithParent(host, os.Getppid, time.NewTicker(time.Second).C, os.Exit)
	}
	err := run(ctx, os.Getenv, os.Stdout)
	if err != nil {
		// Standard error is where a person looks; the Functions host shows it
		// as an error, too.
		fmt.Fprintln(os.Stderr, "usher: "+err.Error())
	}
	os.Exit(exitCode(err))
}

// errStoppedByHost is the end under the Functions host, which has no good end:
// it does not start a handler again that exited with 0.
var errStoppedByHost = errors.New("stopped by a signal")

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errStoppedByHost):
		return 128 + int(syscall.SIGTERM)
	default:
		return 1
	}
}

// tuneCollector trades some 20 MB of memory for a tenth to a quarter of the CPU
// of a request, unless the environment tunes the collector itself. The soft
// limit keeps that from growing where memory is short.
func tuneCollector(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(256 << 20) // half of the smallest Functions instance
	}
}

// run serves until ctx ends. Wiring and order are all here: settings, rules,
// listener last.
func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	settings, err := readSettings(getenv)
	telemetrySettings, telemetryErr := telemetry.ReadSettings(getenv)
	if err := errors.Join(err, telemetryErr); err != nil {
		return err
	}
	output := slog.NewJSONHandler(stdout, &slog.HandlerOptions{Level: settings.logLevel})
	signals, err := startTelemetry(settings, telemetrySettings, output)
	if err != nil {
		return err
	}
	defer stopTelemetry(signals) // the last of all, to send what the others said
	log := slog.New(signals.LogHandler(output))

	records, err := openRecords(settings.records, getenv, stdout, log)
	if err != nil {
		return err
	}
	defer records.close()
	rules, err := startRules(ctx, settings, getenv, log, records.observe)
	if err != nil {
		return err
	}
	observers := records.observers(settings.records, log)
	if observer := signals.Observer(); observer != nil {
		observers = append(observers, observer)
	}
	if err := signals.Watch(telemetry.Watched{Rules: rules.states, Records: records.states, Comparisons: rules.comparisons}); err != nil {
		return err
	}
	if rules.shadow != nil {
		observers = append(observers, rules.shadow.Observe)
	}
	server := &http.Server{
		Handler: handler.New(handler.Options{
			Allocator: rules.allocator,
			Details:   rules.details,
			Log:       log,
			Observers: observers,
			Tracer:    signals.Tracer(),
			MaxBody:   settings.maxBody,
			Keys:      settings.keys,
		}),
		ReadHeaderTimeout: 5 * time.Second,
		// Body and decision must fit into the 4 s that are advisable for DPS;
		// a body that takes longer comes from elsewhere.
		ReadTimeout:  10 * time.Second,
		WriteTimeout: 10*time.Second + settings.decisionTimeout + 5*time.Second,
		// Longer than the host keeps its connections, so that it, and not we,
		// closes them: a request on a connection that closes would fail.
		IdleTimeout: 10 * time.Minute,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	// Last: the Functions host takes any answer for readiness.
	listener, err := net.Listen("tcp", settings.listen)
	if err != nil {
		return fmt.Errorf("cannot listen on %s (setting %s): %w", settings.listen, settings.listenSetting, err)
	}
	state := rules.current.Stats()
	log.Info("serving", "address", listener.Addr().String(), "rules", state.Digest, "revision", state.Revision,
		"packages", state.Packages, "source", state.Source)
	upkeep, stopUpkeep := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { rules.run(upkeep) })
	defer func() { // before the records are closed, in which rules on trial have a part
		stopUpkeep()
		group.Wait()
	}()
	return serve(ctx, server, listener, settings)
}

// serve answers until ctx ends, then lets requests in flight finish.
func serve(ctx context.Context, server *http.Server, listener net.Listener, settings settings) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("the server ended: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), settings.drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return fmt.Errorf("requests were still running after %s (setting %s): %w", settings.drainTimeout, settingDrainTimeout, err)
	}
	if settings.underHost() {
		return errStoppedByHost
	}
	return nil
}

// exitWithParent ends the process when the Functions host is gone. The host
// sends no signal when it dies, and on Linux nothing else ends its children.
// Polling, because the kernel's parent-death signal comes when the *thread* dies
// that started this process, which in the host is one of a pool.
func exitWithParent(host int, parent func() int, tick <-chan time.Time, exit func(int)) {
	for range tick {
		if parent() != host {
			exit(1)
			return
		}
	}
}
