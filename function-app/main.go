// Command function-app is the webhook as a program: the custom handler that the Azure Functions host starts, or a
// server in a container or on a VM.
//
// It reads its settings from the environment; local.settings.json.example documents them. It exits with status 0 only
// when it was told to stop, because the Functions host does not restart a handler that exited with 0.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"
	_ "time/tzdata" // rules name time zones, and an image may lack them

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/operate/azureauth"
	"github.com/usher-dps/usher/internal/operate/scriptroot"
	"github.com/usher-dps/usher/internal/serve/decisionlog/sink"
	"github.com/usher-dps/usher/internal/serve/telemetry"
)

// help is what the program prints if it is asked for help. It takes no arguments otherwise.
const help = `handler is the webhook that DPS calls, with the rules that decide.

It takes no arguments: the Azure Functions host starts it, and its settings are
environment variables. local.settings.json.example explains each of them. Without
the host it listens where USHER_LISTEN says, such as USHER_LISTEN=localhost:8080.
`

func main() {
	if slices.ContainsFunc(os.Args[1:], func(arg string) bool { return arg == "--help" || arg == "-h" || arg == "help" }) {
		fmt.Print(help)
		return
	}
	host := os.Getppid() // first, because it may exit at any time
	tuneCollector(os.Getenv)
	time.Local = time.UTC // to a rule, "Local" must be the same on every instance
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(settingHostPort) != "" {
		go exitWithParent(host, os.Getppid, time.NewTicker(time.Second).C, os.Exit)
	}
	err := run(ctx, os.Getenv, os.Environ(), os.Stdout)
	if err != nil {
		// People look at standard error, and the Functions host shows it as an error.
		fmt.Fprintln(os.Stderr, "usher: "+err.Error())
	}
	os.Exit(exitCode(err))
}

// errStoppedByHost ends the program under the Functions host, which does not restart a handler that exited with 0.
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

// tuneCollector trades about 20 MB of memory for a tenth to a quarter of the CPU of a request, unless the environment
// tunes the collector. The soft limit bounds the trade where memory is short.
func tuneCollector(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(224 << 20) // less than half of the smallest Functions instance
	}
}

// run serves until ctx ends. All wiring is here, in order: settings, rules, and the listener last. environ has the names of
// all variables, since those of look-ups are the operator's choice.
func run(ctx context.Context, getenv func(string) string, environ []string, stdout io.Writer) error {
	settings, err := readSettings(getenv, environ)
	telemetrySettings, telemetryErr := telemetry.ReadSettings(getenv)
	if err := errors.Join(err, telemetryErr); err != nil {
		return err
	}
	output := slog.NewJSONHandler(stdout, &slog.HandlerOptions{Level: settings.logLevel})
	signals, err := startTelemetry(settings, telemetrySettings, output)
	if err != nil {
		return err
	}
	defer stopTelemetry(signals) // last, to send what the others reported
	log := slog.New(signals.LogHandler(output))

	records, err := sink.Open(sink.Options{Settings: settings.records, Log: log, Stdout: stdout, Getenv: getenv,
		Credential: func() (azcore.TokenCredential, error) { return azureauth.Credential(getenv) }})
	if err != nil {
		return fmt.Errorf("%s: %w", settingRecordSinks, err)
	}
	defer records.Close()
	lookups, err := openLookups(settings, getenv, log, signals)
	if err != nil {
		return err
	}
	rules, err := startRules(ctx, settings, getenv, log, records.Observe, lookups)
	if err != nil {
		return err
	}
	observers := []answer.Observer{records.Observe}
	if settings.logsCalls() {
		observers = append(observers, answer.LogCalls(log))
	}
	if observer := signals.Observer(); observer != nil {
		observers = append(observers, observer)
	}
	if err := signals.Watch(telemetry.Watched{Rules: rules.states, Records: records.States, Comparisons: rules.comparisons,
		Lookups: lookups.states, Hubs: lookups.hubStates, Evaluations: rules.evaluated}); err != nil {
		return err
	}
	if rules.shadow != nil {
		observers = append(observers, rules.shadow.Observe)
	}
	var routes []string
	if settings.underHost() {
		// Without host.json the host did not start this process, and the path is the default.
		routes, err = scriptroot.Routes(os.DirFS(cmp.Or(getenv(settingAppRoot), ".")), getenv)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	server := &http.Server{
		Handler: handler.New(handler.Options{
			Paths:     routes,
			Allocator: rules.allocator,
			Details:   rules.details,
			Log:       log,
			Observers: observers,
			Tracer:    signals.Tracer(),
			MaxBody:   settings.maxBody,
			Keys:      settings.keys,
		}),
		ReadHeaderTimeout: 5 * time.Second,
		// Body and decision must fit into the 4 s that are advisable for DPS. A body that takes longer does not come
		// from it.
		ReadTimeout:  10 * time.Second,
		WriteTimeout: 10*time.Second + settings.decisionTimeout + 5*time.Second,
		// Longer than the Functions host keeps its connections, so that the host closes them: a request on a connection
		// that we close would fail.
		IdleTimeout: 10 * time.Minute,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	// Last: the Functions host takes any response as readiness.
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
	group.Go(func() { lookups.Run(upkeep) })
	defer func() { // before the records are closed, because rules on trial are recorded
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

// exitWithParent ends the process when the Functions host is gone. The host sends no signal when it dies, and on Linux
// nothing else ends its children. It polls because the kernel's parent-death signal comes when the *thread* that
// started this process ends, and in the host that is one of a pool.
func exitWithParent(host int, parent func() int, tick <-chan time.Time, exit func(int)) {
	for range tick {
		if parent() != host {
			exit(1)
			return
		}
	}
}
