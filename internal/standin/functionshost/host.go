package functionshost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Options configure a [Host]. The zero value of every field but Root is useful.
type Options struct {
	// Root is the script root: the folder that contains host.json.
	Root string
	// Executable is the program to start in place of the one that host.json names; an absolute path.
	Executable string
	// Address is the address to listen on; "" means 127.0.0.1.
	Address string
	// Port is the port to listen on; 0 picks a free one, see [Host.URL].
	Port int

	// EnableAuth makes the host require keys according to authLevel. Without it every function is open, as with func
	// start.
	EnableAuth bool
	// FunctionKey opens functions of level function; MasterKey also opens those of level admin. An empty key opens
	// nothing.
	FunctionKey, MasterKey string
	// NoTraceparent leaves requests without traceparent unchanged. The host adds one that is not sampled.
	NoTraceparent bool

	// Environ is the host's environment in the form of os.Environ, which is the default. The handler inherits all of
	// it.
	Environ []string
	// Log receives the messages of the host; nil discards them.
	Log *slog.Logger
	// Console receives every line of the handler, one at a time for each stream; nil discards them.
	Console func(ConsoleLine)

	// ReadyTimeout bounds one start of the handler; 0 means initializationTimeout in host.json (30 s by default).
	ReadyTimeout time.Duration
	// HoldTimeout bounds how long a request waits for the handler; then the host stops. 0 means 120 s.
	HoldTimeout time.Duration
	// FunctionTimeout bounds an invocation; 0 means functionTimeout in host.json (30 min by default).
	FunctionTimeout time.Duration
	// TimeoutGrace is the time between functionTimeout and the kill; 0 means 2 s.
	TimeoutGrace time.Duration
	// DrainTimeout bounds how long a stop waits for requests in flight; 0 means 30 s.
	DrainTimeout time.Duration
	// MaxBody is the largest request body, in bytes; 0 means 100 MiB.
	MaxBody int64
	// Now is the clock that determines the age of strikes; nil means time.Now.
	Now func() time.Time
}

const (
	defaultHoldTimeout  = 120 * time.Second // the host allows (3 restarts + 1) starts of 30 s
	defaultTimeoutGrace = 2 * time.Second
	defaultDrainTimeout = 30 * time.Second
	defaultMaxBody      = 100 << 20
	probeInterval       = 25 * time.Millisecond
)

// Exit codes of the handler with a special meaning. All others are strikes.
const (
	exitForGood    = 0   // the handler is never restarted
	exitForRestart = 200 // the handler is restarted immediately, without a strike
)

// Reasons why a host stops by itself or never becomes ready.
var (
	// ErrTooManyStrikes means that the handler failed three times within half an hour of each other.
	ErrTooManyStrikes = errors.New("the handler failed three times: the host shuts down")
	// ErrHeldTooLong means that a request waited for the handler until HoldTimeout.
	ErrHeldTooLong = errors.New("a request waited too long for the handler: the host shuts down")
	// ErrExitedZero means that the handler exited with code 0. The host then runs without a handler.
	ErrExitedZero = errors.New("the handler exited with code 0 before it listened; the Functions host never restarts such a handler")
)

// ErrStopped means that the host was told to stop before its handler was ready.
var ErrStopped = errors.New("the host is stopping")

// Host is one run of the stand-in: call [New], then Start, then Wait.
type Host struct {
	options         Options
	config          *config
	command         command
	environ         map[string]string
	functionTimeout time.Duration
	readyTimeout    time.Duration
	log             *slog.Logger
	throttle        throttle

	listener net.Listener
	proxy    *httputil.ReverseProxy
	target   string // host:port of the handler

	cancel      context.CancelFunc // starts the stop
	cancelDrain context.CancelFunc // ends the wait for requests in flight
	stopping    chan struct{}      // closed when new requests are refused
	done        chan struct{}      // closed when everything has stopped and err is set
	err         error

	first     signal        // the handler is ready for the first time
	exitZero  signal        // a handler exited with code 0 before it was ready
	restarts  chan *process // processes to kill and to restart
	fatal     chan error    // reasons to stop that a request found
	handlerMu sync.Mutex
	ready     chan struct{} // closed while the handler is ready
	current   *process
}

// signal is an event that happens once.
type signal struct {
	happened chan struct{} // closed when it has happened
	send     func()
}

func newSignal() signal {
	happened := make(chan struct{})
	return signal{happened, sync.OnceFunc(func() { close(happened) })}
}

// New reads and checks the script root. The error lists every problem with its file, its line and how to fix it. If the
// program cannot be started, the error is a [StartError].
func New(o Options) (*Host, error) {
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	c, err := loadConfig(o.Root, o.Environ)
	if err != nil {
		return nil, err
	}
	o.Address = cmp.Or(o.Address, "127.0.0.1")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Console == nil {
		o.Console = func(ConsoleLine) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.HoldTimeout = cmp.Or(o.HoldTimeout, defaultHoldTimeout)
	o.TimeoutGrace = cmp.Or(o.TimeoutGrace, defaultTimeoutGrace)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, defaultDrainTimeout)
	o.MaxBody = cmp.Or(o.MaxBody, defaultMaxBody)
	h := &Host{
		options:         o,
		config:          c,
		functionTimeout: cmp.Or(o.FunctionTimeout, c.functionTimeout),
		readyTimeout:    cmp.Or(o.ReadyTimeout, c.readyTimeout),
		log:             o.Log,
		throttle:        newThrottle(c.maxConcurrent, c.maxOutstanding),
		stopping:        make(chan struct{}),
		done:            make(chan struct{}),
		first:           newSignal(),
		exitZero:        newSignal(),
		restarts:        make(chan *process, 1),
		fatal:           make(chan error, 1),
		ready:           make(chan struct{}),
	}
	h.environ = mergeEnviron(o.Environ, c.environment)
	if w := h.environ["FUNCTIONS_WORKER_RUNTIME"]; w != "" && !strings.EqualFold(w, "custom") {
		return nil, fmt.Errorf("FUNCTIONS_WORKER_RUNTIME is %q: a custom handler needs \"custom\", in the environment or in local.settings.json", w)
	}
	if o.Executable != "" {
		c.executable = o.Executable
	}
	if h.command, err = c.resolve(h.environ); err != nil {
		return nil, err
	}
	for _, dropped := range c.dropped {
		h.log.Error(dropped.Error())
	}
	return h, nil
}

// mergeEnviron adds settings to an environment, which wins if both set a variable.
func mergeEnviron(environ []string, settings map[string]string) map[string]string {
	merged := map[string]string{}
	maps.Copy(merged, settings)
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" {
			merged[name] = value
		}
	}
	return merged
}

// Start listens, starts the handler and returns. Requests wait until the handler is ready. Canceling ctx stops the
// host: requests in flight finish, then the handler is killed.
func (h *Host) Start(ctx context.Context) error {
	address := net.JoinHostPort(h.options.Address, strconv.Itoa(h.options.Port))
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	port, err := h.handlerPort()
	if err != nil {
		listener.Close()
		return err
	}
	h.listener = listener
	h.target = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	h.proxy = h.newProxy(h.target)
	ctx, h.cancel = context.WithCancel(ctx)
	drain, cancelDrain := context.WithCancel(context.Background())
	h.cancelDrain = cancelDrain
	go h.run(ctx, drain, port)
	return nil
}

// handlerPort picks the port of the handler. Like with the host, another program could take the port before the handler
// listens on it.
func (h *Host) handlerPort() (int, error) {
	probe, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(h.config.port)))
	if err != nil {
		return 0, fmt.Errorf("the handler's port is in use (customHandler.port in host.json): %w", err)
	}
	defer probe.Close()
	return probe.Addr().(*net.TCPAddr).Port, nil
}

// URL returns the URL of the host, for example http://127.0.0.1:7071. It is known when Start has returned.
func (h *Host) URL() string { return "http://" + h.listener.Addr().String() }

// Setting returns a variable of the handler's environment: that of this process or, if it is not set, that of
// local.settings.json. It does not know the variables that the host itself sets.
func (h *Host) Setting(name string) string { return h.environ[name] }

// Ready waits until the handler has answered for the first time. It returns the host's error if the host stops first,
// [ErrExitedZero] if the handler ends for good, or the error of the context.
func (h *Host) Ready(ctx context.Context) error {
	select {
	case <-h.first.happened:
		return nil
	case <-h.exitZero.happened:
		return ErrExitedZero
	case <-h.done:
		return cmp.Or(h.err, ErrStopped)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait waits until the host has stopped. It returns nil if the host was told to stop, otherwise why it stopped by
// itself: [ErrTooManyStrikes], [ErrHeldTooLong], a [StartError] or an error of the listener.
func (h *Host) Wait() error {
	<-h.done
	return h.err
}

// Stop stops the host and waits until it has stopped: requests in flight finish, then the handler is killed. It returns
// what Wait returns.
func (h *Host) Stop() error {
	if h.cancel == nil {
		return nil
	}
	h.cancel()
	return h.Wait()
}

// Close stops the host immediately, without waiting for requests in flight, and kills the handler.
func (h *Host) Close() error {
	if h.cancelDrain != nil {
		h.cancelDrain()
	}
	return h.Stop()
}

func (h *Host) run(ctx, drain context.Context, port int) {
	defer h.cancel()
	defer h.cancelDrain()
	server := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(h.listener) }()
	supervising, kill := context.WithCancel(context.Background())
	defer kill()
	supervised := make(chan error, 1)
	go func() {
		supervised <- h.supervise(supervising, port)
		close(supervised)
	}()

	var err error
	select {
	case <-ctx.Done():
	case err = <-supervised:
	case err = <-served:
	case err = <-h.fatal:
	}
	close(h.stopping)
	drain, cancel := context.WithTimeout(drain, h.options.DrainTimeout)
	defer cancel()
	if server.Shutdown(drain) != nil {
		server.Close()
	}
	kill()
	<-supervised // if it reports an error now, that is the effect of the kill
	h.err = err
	close(h.done)
}

// supervise starts and restarts the handler as the host does. It returns when the handler is not restarted.
func (h *Host) supervise(ctx context.Context, port int) error {
	strikes := strikes{now: h.options.Now}
	for {
		p, err := start(h.commandFor(port), h.config.stderrIsError, h.options.Console)
		if err != nil {
			return err
		}
		h.setCurrent(p)
		struck := h.watch(ctx, p)
		p.kill()
		switch {
		case ctx.Err() != nil:
			return nil
		case struck == nil:
			continue
		}
		if strikes.add() {
			return fmt.Errorf("%w; the last failure: %w", ErrTooManyStrikes, struck)
		}
		reason := struck.Error()
		if c, ok := errors.AsType[*crash](struck); ok {
			reason = c.state // the console has already shown what the handler wrote
		}
		h.log.Error("the handler failed and is restarted", "reason", reason, "strike", strikes.count, "of", strikeLimit)
	}
}

// commandFor returns the command with the handler's environment. Every start has its own worker ID.
func (h *Host) commandFor(port int) command {
	environ := maps.Clone(h.environ)
	id := uuid.NewString()
	listening := h.listener.Addr().(*net.TCPAddr).Port
	for name, value := range map[string]string{
		"FUNCTIONS_CUSTOMHANDLER_PORT":      strconv.Itoa(port),
		"FUNCTIONS_CUSTOMHANDLER_WORKER_ID": id,
		"FUNCTIONS_HTTPWORKER_PORT":         strconv.Itoa(port),
		"FUNCTIONS_HTTPWORKER_ID":           id,
		"FUNCTIONS_APP_ROOT_PATH":           h.config.root,
		"AzureWebJobsScriptRoot":            h.config.root,
		"WEBSITE_HOSTNAME":                  net.JoinHostPort("localhost", strconv.Itoa(listening)),
		"FUNCTIONS_CORETOOLS_ENVIRONMENT":   "true",
		"AZURE_FUNCTIONS_ENVIRONMENT":       "Development",
		"FUNCTIONS_WORKER_RUNTIME":          "custom",
	} {
		environ[name] = value
	}
	c := h.command
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		c.environ = append(c.environ, name+"="+environ[name])
	}
	return c
}

func (h *Host) setCurrent(p *process) {
	h.handlerMu.Lock()
	defer h.handlerMu.Unlock()
	h.current = p
}

// watch watches one run of the handler until it ends. It returns the reason for a strike, or nil if the end is not one.
func (h *Host) watch(ctx context.Context, p *process) error {
	probing, stopProbing := context.WithTimeout(ctx, h.readyTimeout)
	defer stopProbing()
	ready := make(chan struct{})
	go h.probe(probing, ready)
	isReady := false
	exited, timedOut := p.exited, probing.Done()
	for {
		select {
		case <-ctx.Done():
			return nil
		case stuck := <-h.restarts:
			if stuck == p {
				h.setNotReady(isReady)
				return nil
			}
		case <-ready:
			ready, timedOut = nil, nil
			select {
			case <-p.exited:
				// The probe made it exit, which is handled below.
			default:
				isReady = true
				h.setReady()
			}
		case <-timedOut:
			return fmt.Errorf("the handler did not listen on %s within %s: it must read FUNCTIONS_CUSTOMHANDLER_PORT and serve HTTP there", h.target, h.readyTimeout)
		case <-exited:
			exited = nil
			switch p.code {
			case exitForRestart:
				h.setNotReady(isReady)
				return nil
			case exitForGood:
				// The host does not restart the handler, whether it was ready or not, and requests get 500. Before the
				// first answer, the readiness timeout still applies and counts as a strike.
				h.log.Error("the handler exited with code 0: the Functions host never restarts it, and answers 500 from now on")
				if !isReady {
					h.exitZero.send()
				}
			default:
				h.setNotReady(isReady)
				return p.crash()
			}
		}
	}
}

// probe sends GET / until there is an answer, and then closes ready. The only header of the request is Host.
func (h *Host) probe(ctx context.Context, ready chan<- struct{}) {
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.target+"/", nil)
		if err != nil {
			h.log.Error("cannot probe the handler", "error", err)
			return
		}
		request.Header["User-Agent"] = []string{""} // an empty value suppresses Go's default
		response, err := transport.RoundTrip(request)
		if err == nil {
			// The answer does not matter. Reading some of it spares the handler a broken pipe.
			_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
			response.Body.Close()
		}
		if ctx.Err() != nil {
			return
		}
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" {
			close(ready)
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Host) setReady() {
	h.handlerMu.Lock()
	defer h.handlerMu.Unlock()
	close(h.ready)
	h.first.send()
}

// setNotReady makes requests wait again if the handler was ready.
func (h *Host) setNotReady(wasReady bool) {
	if !wasReady {
		return
	}
	h.handlerMu.Lock()
	defer h.handlerMu.Unlock()
	h.ready = make(chan struct{})
}

// restart kills and restarts the current handler, without a strike.
func (h *Host) restart() {
	h.handlerMu.Lock()
	p := h.current
	h.handlerMu.Unlock()
	select {
	case h.restarts <- p:
	default: // a restart is already pending
	}
}

// awaitHandler blocks until the handler is ready. A request that waits too long stops the host.
func (h *Host) awaitHandler(ctx context.Context) error {
	h.handlerMu.Lock()
	ready := h.ready
	h.handlerMu.Unlock()
	timer := time.NewTimer(h.options.HoldTimeout)
	defer timer.Stop()
	select {
	case <-ready:
		return nil
	case <-h.stopping:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		select {
		case h.fatal <- ErrHeldTooLong:
		default: // another request was first
		}
		return ErrHeldTooLong
	}
}

// strikes counts the handler's failures. It starts over if the previous one is more than half an hour old.
type strikes struct {
	now   func() time.Time
	count int
	last  time.Time
}

const (
	strikeLimit  = 3
	strikeMemory = 30 * time.Minute
)

// add counts a strike and reports whether the limit is reached.
func (s *strikes) add() bool {
	now := s.now()
	if s.count > 0 && now.Sub(s.last) > strikeMemory {
		s.count = 0
	}
	s.count++
	s.last = now
	return s.count >= strikeLimit
}
