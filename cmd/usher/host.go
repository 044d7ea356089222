package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// hostFlags are the flags of usher host.
type hostFlags struct {
	root, handler           string
	address, key, masterKey string
	port                    uint16
	enableAuth, traceparent bool
	log                     string
}

// How the lines of the handler are shown.
const (
	logText = "text"
	logJSON = "json"
)

func newHostCommand() *cobra.Command {
	var flags hostFlags
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Run the webhook behind a stand-in for the Azure Functions host",
		Long: `Host starts the custom handler that host.json names and serves its HTTP functions
as the Azure Functions host does in proxying mode: readiness, routes, headers,
replays, timeouts, restarts. It needs neither Azure nor the Functions Core Tools.

It is a development stand-in, not the Azure Functions host: it has no TLS, no scaling
and only HTTP triggers, and it enforces keys only with --enable-auth. If in doubt,
compare with func start.

Ctrl-C lets requests in flight finish, then kills the handler; a second Ctrl-C
does not wait.

Each call is shown in one line. --log json shows the handler's log and records as it
writes them, as in Azure. What the handler writes to its standard output otherwise is
shown as info, and its standard error as fail, as the host logs it.`,
		Example: `  make build && usher host
  usher host --handler handler     the handler of a release
  usher host --port 8080 --enable-auth --key secret
  usher host --root ../other-app --address 0.0.0.0`,
		Args: countArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.enableAuth && flags.key == "" {
				return usageError(errors.New("--enable-auth needs --key KEY, the function key of callers"))
			}
			if !flags.enableAuth && (flags.key != "" || flags.masterKey != "") {
				return usageError(errors.New("--key and --master-key have no effect without --enable-auth"))
			}
			return runHost(cmd.Context(), flags, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.root, "root", ".", "script root: the folder that contains host.json")
	f.StringVar(&flags.handler, "handler", "", "the handler's program for this machine, as a release has it (default the file that host.json names)")
	f.Uint16Var(&flags.port, "port", 7071, "port to listen on; 0 picks a free one")
	f.StringVar(&flags.address, "address", "127.0.0.1", "address to listen on; 0.0.0.0 for all")
	f.BoolVar(&flags.enableAuth, "enable-auth", false, "require keys according to authLevel in function.json")
	f.StringVar(&flags.key, "key", "", "function key, which callers send as x-functions-key or ?code=")
	f.StringVar(&flags.masterKey, "master-key", "", "key that also opens functions of level admin")
	f.BoolVar(&flags.traceparent, "traceparent", true, "add a traceparent that is not sampled to requests without one, as the host does")
	addChoice(cmd, &flags.log, "log", "", "how to show what the handler logs: text, or json as the handler writes it", logText, logJSON)
	return cmd
}

// runHost serves until ctx ends or a signal arrives.
func runHost(ctx context.Context, flags hostFlags, stdout, stderr io.Writer) error {
	fmt.Fprintln(stdout, "This is a development stand-in for the Azure Functions host, not the host itself.")
	console := newHostConsole(stderr, flags.log == logJSON)
	if flags.handler != "" { // as of package, below the working directory
		var err error
		if flags.handler, err = filepath.Abs(flags.handler); err != nil {
			return err
		}
	}
	host, err := functionshost.New(functionshost.Options{
		Root: flags.root, Executable: flags.handler, Address: flags.address, Port: int(flags.port),
		EnableAuth: flags.enableAuth, FunctionKey: flags.key, MasterKey: flags.masterKey,
		NoTraceparent: !flags.traceparent,
		Log:           slog.New(slog.NewTextHandler(console, &slog.HandlerOptions{ReplaceAttr: withoutTime})),
		Console:       console.line,
	})
	if err != nil {
		if _, ok := errors.AsType[*functionshost.StartError](err); ok && errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w\nName its program with --handler: a release of Usher has it, and in Usher's repository `make build` builds it (docs/own-repository.md, Run it)", err)
		}
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := host.Start(ctx); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) && flags.port != 0 {
			return fmt.Errorf("port %d of %s is in use: stop the program that listens there, or choose another port with --port (make run PORT=...; 0 picks a free one)", flags.port, flags.address)
		}
		return err
	}
	// Whatever happens now, the handler must not outlive this process.
	defer host.Close()
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		fmt.Fprintln(stderr, "stopping: requests in flight finish first; interrupt again to stop immediately")
		go func() { _ = host.Stop() }() // runHost returns its error
		select {
		case <-ctx.Done():
		case <-signals:
			_ = host.Close()
		}
	}()
	if err := host.Ready(ctx); err != nil {
		if errors.Is(err, functionshost.ErrStopped) {
			return nil
		}
		return fmt.Errorf("the handler did not become ready: %w", err)
	}
	at := displayURL(host.URL())
	for _, route := range host.Routes() {
		methods := "ANY"
		if len(route.Methods) > 0 {
			methods = strings.Join(route.Methods, ",")
		}
		fmt.Fprintf(stdout, "%s %s%s [%s]\n", methods, at, route.Path, route.Function)
	}
	if err := describeRules(ctx, stdout, flags.root, host.Setting("USHER_RULES"), at); err != nil {
		return err
	}
	return host.Wait()
}

// displayURL replaces the loopback address with localhost, as the Core Tools do.
func displayURL(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		u.Host = "localhost:" + u.Port()
	}
	return u.String()
}

// withoutTime omits the time from the host's messages, which are read as they appear.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
