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
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// hostFlags are the flags of usher host.
type hostFlags struct {
	root, address, key, masterKey string
	port                          uint16
	enableAuth, traceparent       bool
}

func newHostCommand() *cobra.Command {
	var flags hostFlags
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Run the webhook behind a stand-in for the Azure Functions host",
		Long: `Host starts the custom handler that host.json names and serves its HTTP functions
as the Azure Functions host does in proxying mode: readiness, routes, headers,
replays, timeouts, restarts. It needs no Azure and no Functions Core Tools.

It is a development stand-in, not the Azure Functions host: no TLS, no scaling,
no triggers but HTTP. Keys are enforced only with --enable-auth. The last word
has func start.

Ctrl-C lets requests in flight finish, then kills the handler; a second Ctrl-C
does not wait. The handler's standard output is shown as info, its standard
error as fail, as the host logs it.`,
		Example: `  make build && usher host
  usher host --port 8080 --enable-auth --key secret
  usher host --root ../other-app --address 0.0.0.0`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.enableAuth && flags.key == "" {
				return usageError(errors.New("--enable-auth needs --key KEY: the function key that callers show"))
			}
			if !flags.enableAuth && (flags.key != "" || flags.masterKey != "") {
				return usageError(errors.New("--key and --master-key do nothing without --enable-auth"))
			}
			return runHost(cmd.Context(), flags, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.root, "root", ".", "script root: the folder that has host.json")
	f.Uint16Var(&flags.port, "port", 7071, "port to listen on; 0 picks a free one")
	f.StringVar(&flags.address, "address", "127.0.0.1", "address to listen on; 0.0.0.0 for all")
	f.BoolVar(&flags.enableAuth, "enable-auth", false, "ask for keys as authLevel in function.json says")
	f.StringVar(&flags.key, "key", "", "function key, shown by callers as x-functions-key or ?code=")
	f.StringVar(&flags.masterKey, "master-key", "", "key that opens functions of level admin too")
	f.BoolVar(&flags.traceparent, "traceparent", true, "add a traceparent, not sampled, to requests without one, as the host does")
	return cmd
}

// runHost serves until it is told to stop, by ctx or by a signal.
func runHost(ctx context.Context, flags hostFlags, stdout, stderr io.Writer) error {
	fmt.Fprintln(stdout, "This is a development stand-in for the Azure Functions host, not the host itself.")
	console := &consoleWriter{w: stderr}
	host, err := functionshost.New(functionshost.Options{
		Root: flags.root, Address: flags.address, Port: int(flags.port),
		EnableAuth: flags.enableAuth, FunctionKey: flags.key, MasterKey: flags.masterKey,
		NoTraceparent: !flags.traceparent,
		Log:           slog.New(slog.NewTextHandler(console, &slog.HandlerOptions{ReplaceAttr: withoutTime})),
		Console:       console.line,
	})
	if err != nil {
		return explainStart(err)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := host.Start(ctx); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) && flags.port != 0 {
			return fmt.Errorf("port %d of %s is in use: stop what listens there, or choose another with --port (make run PORT=...; 0 picks a free one)", flags.port, flags.address)
		}
		return err
	}
	// Whatever happens from here on, the handler does not outlive this process.
	defer host.Close()
	go func() {
		for asked := 0; ; asked++ {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			if asked == 0 {
				fmt.Fprintln(stderr, "stopping: requests in flight finish first; once more to stop at once")
				// Not the deferred stop: that ends this watch for the second signal.
				go func() { _ = host.Stop() }()
				continue
			}
			_ = host.Close()
			return
		}
	}()
	if err := host.Ready(ctx); err != nil {
		if errors.Is(err, functionshost.ErrStopped) {
			return nil
		}
		return fmt.Errorf("the handler did not get ready: %w", err)
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

// explainStart adds the mend that a caller of this tool has.
func explainStart(err error) error {
	if start := (*functionshost.StartError)(nil); errors.As(err, &start) && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w\nBuild it first: `make build`", err)
	}
	return err
}

// displayURL shows the loopback address by its name, as the Core Tools do.
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

// consoleWriter keeps lines of the handler and of the host apart, whichever goroutine writes them.
type consoleWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (c *consoleWriter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.w, "host: "); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// line prints a line of the handler behind the word under which the host would log it.
func (c *consoleWriter) line(line functionshost.ConsoleLine) {
	word := "info"
	switch line.Level {
	case slog.LevelWarn:
		word = "warn"
	case slog.LevelError:
		word = "fail"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.w, "%s: %s\n", word, line.Text)
}

// withoutTime leaves the time out of the host's own lines: they are read as they happen.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
