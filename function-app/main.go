// Command function-app is the webhook as a program: the custom handler that the
// Azure Functions host starts, or a server of its own in a container or a VM.
//
// It takes its settings from the environment; local.settings.json.example
// documents them. It never exits with status 0 unless it was told to stop, since
// the Functions host would take that for an end that it must not repair.
package main

import (
	"cmp"
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

	"github.com/usher-dps/usher/allocation"
	"github.com/usher-dps/usher/handler"
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
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stdout, &slog.HandlerOptions{Level: settings.logLevel}))

	allocator, rules, err := newAllocator(ctx, settings)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler.New(handler.Options{
			Allocator: allocator,
			Log:       log,
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
	log.Info("serving", "address", listener.Addr().String(), "rules", rules.Digest(), "packages", len(rules.Bindings()),
		"folder", settings.rulesDir)
	if settings.rulesCheck == checkAfter {
		go compileAll(ctx, rules, log)
	}
	return serve(ctx, server, listener, settings)
}

// newAllocator compiles the rules and the schema, side by side: each takes about
// half of the time from the start to the first answer.
func newAllocator(ctx context.Context, settings settings) (*allocation.Allocator, *allocation.Rules, error) {
	var rules *allocation.Rules
	var rulesErr error
	var group sync.WaitGroup
	group.Go(func() { rules, rulesErr = loadRules(ctx, settings) })
	allocator, err := allocation.New(allocation.Options{Timeout: settings.decisionTimeout})
	group.Wait()
	if err := cmp.Or(rulesErr, err); err != nil {
		return nil, nil, err
	}
	allocator.Use(rules)
	return allocator, rules, nil
}

func loadRules(ctx context.Context, settings settings) (*allocation.Rules, error) {
	info, err := os.Stat(settings.rulesDir)
	if err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s: there is no folder %s; name the folder of the Rego rules", settingRules, settings.rulesDir)
	}
	rules, err := allocation.LoadRules(ctx, os.DirFS(settings.rulesDir), allocation.RulesOptions{
		Name:          settings.rulesDir,
		AllowBuiltins: settings.builtins,
		AllowNet:      settings.allowNet,
		Lazy:          settings.rulesCheck == checkAfter,
	})
	if err != nil {
		return nil, fmt.Errorf("the rules in %s cannot be loaded:\n%w", settings.rulesDir, err)
	}
	return rules, nil
}

// compileAll finds the errors of rules that were loaded lazily. What compiles
// goes on serving; devices of a rule that does not are held.
func compileAll(ctx context.Context, rules *allocation.Rules, log *slog.Logger) {
	// A moment later: whoever waits for the first answer needs the processor.
	select {
	case <-ctx.Done():
		return
	case <-time.After(time.Second):
	}
	start := time.Now()
	if err := rules.CompileAll(ctx); err != nil {
		log.Error("rules do not compile", "error", err.Error())
		return
	}
	log.Info("rules compiled", "duration_ms", time.Since(start).Milliseconds())
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
