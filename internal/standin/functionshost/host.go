package functionshost

import (
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

// Options says what to serve and how. The zero value of every field but Root is useful.
type Options struct {
	// Root is the script root: the folder that has host.json.
	Root string
	// Address to listen on; 127.0.0.1 if empty.
	Address string
	// Port to listen on; 0 picks a free one, see [Host.URL].
	Port int

	// EnableAuth has the host ask for keys as authLevel says. Without it every function is open, as with func start.
	EnableAuth bool
	// FunctionKey opens functions of level function, MasterKey those of level admin also. An empty key opens nothing.
	FunctionKey, MasterKey string
	// NoTraceparent leaves a request without traceparent as it is. The host adds one, not sampled.
	NoTraceparent bool

	// Environ is the host's environment as os.Environ gives it; nil takes os.Environ. The handler inherits all of it.
	Environ []string
	// Log gets the host's own words; nil discards them.
	Log *slog.Logger
	// Console gets every line of the handler, one at a time for each stream; nil discards them.
	Console func(ConsoleLine)

	// ReadyTimeout bounds one start of the handler; 0 takes host.json's initializationTimeout (30 s by default).
	ReadyTimeout time.Duration
	// HoldTimeout bounds how long a request waits for the handler, after which the host stops; 0 is 120 s.
	HoldTimeout time.Duration
	// FunctionTimeout bounds an invocation; 0 takes host.json's functionTimeout (30 min by default).
	FunctionTimeout time.Duration
	// TimeoutGrace passes between functionTimeout and the kill; 0 is 2 s.
	TimeoutGrace time.Duration
	// DrainTimeout bounds how long a stop waits for requests in flight; 0 is 30 s.
	DrainTimeout time.Duration
	// MaxBody is the largest request body in bytes; 0 is 100 MiB.
	MaxBody int64
	// Now is the clock by which strikes grow old; nil is time.Now.
	Now func() time.Time
}

const (
	defaultHoldTimeout  = 120 * time.Second // the host allows (3 restarts + 1) starts of 30 s
	defaultTimeoutGrace = 2 * time.Second
	defaultDrainTimeout = 30 * time.Second
	defaultMaxBody      = 100 << 20
	probeInterval       = 25 * time.Millisecond
)

// Exit codes of the handler that the host treats apart. All others are strikes.
const (
	exitForGood    = 0   // never started again
	exitForRestart = 200 // started again at once, without a strike
)

// Errors with which a host stops by itself or never gets ready.
var (
	// ErrTooManyStrikes: the handler failed three times with less than half an hour in between.
	ErrTooManyStrikes = errors.New("the handler failed three times: the host shuts down")
	// ErrHeldTooLong: a request waited for the handler until HoldTimeout.
	ErrHeldTooLong = errors.New("a request waited too long for the handler: the host shuts down")
	// ErrExitedZero: the handler exited with code 0, which the host takes for its last wish: it stays up without it.
	ErrExitedZero = errors.New("the handler exited with code 0 before it listened; the Functions host never starts such a handler again")
)

// ErrStopped says that the host was asked to stop before its handler was ready.
var ErrStopped = errors.New("the host is stopping")

// Host is one run of the stand-in: [New], then Start, then Wait.
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

	cancel      context.CancelFunc // asks to stop
	cancelDrain context.CancelFunc // ends the wait for requests in flight
	stopping    chan struct{}      // closed once new requests are refused
	done        chan struct{}      // closed once all is stopped and err is set
	err         error

	first     chan struct{} // closed when the handler was ready for the first time
	exitZero  chan struct{} // closed when a handler exited with code 0 before it was ever ready
	restarts  chan *process // processes to be killed and started again
	fatal     chan error    // reasons to stop that come from a request
	handlerMu sync.Mutex
	ready     chan struct{} // closed while the handler is ready
	current   *process
}

// New reads and checks the script root. The error lists every fault that was found, each with file, line and mend; a
// program that cannot be started is a [StartError].
func New(o Options) (*Host, error) {
	c, err := loadConfig(o.Root)
	if err != nil {
		return nil, err
	}
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Console == nil {
		o.Console = func(ConsoleLine) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.HoldTimeout = positive(o.HoldTimeout, defaultHoldTimeout)
	o.TimeoutGrace = positive(o.TimeoutGrace, defaultTimeoutGrace)
	o.DrainTimeout = positive(o.DrainTimeout, defaultDrainTimeout)
	if o.MaxBody <= 0 {
		o.MaxBody = defaultMaxBody
	}
	h := &Host{
		options:         o,
		config:          c,
		functionTimeout: positive(o.FunctionTimeout, c.functionTimeout),
		readyTimeout:    positive(o.ReadyTimeout, c.readyTimeout),
		log:             o.Log,
		throttle:        newThrottle(c.maxConcurrent, c.maxOutstanding),
		stopping:        make(chan struct{}),
		done:            make(chan struct{}),
		first:           make(chan struct{}),
		exitZero:        make(chan struct{}),
		restarts:        make(chan *process, 1),
		fatal:           make(chan error, 1),
		ready:           make(chan struct{}),
	}
	h.environ = mergeEnviron(o.Environ, c.environment)
	if w := h.environ["FUNCTIONS_WORKER_RUNTIME"]; w != "" && !strings.EqualFold(w, "custom") {
		return nil, fmt.Errorf("FUNCTIONS_WORKER_RUNTIME is %q: a custom handler needs \"custom\", in the environment or in local.settings.json", w)
	}
	if h.command, err = c.resolve(h.environ); err != nil {
		return nil, err
	}
	for _, dropped := range c.dropped {
		h.log.Error(dropped.Error())
	}
	return h, nil
}

func positive(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// mergeEnviron puts settings under an environment: what is set there already wins.
func mergeEnviron(environ []string, settings map[string]string) map[string]string {
	merged := maps.Clone(settings)
	if merged == nil {
		merged = map[string]string{}
	}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" {
			merged[name] = value
		}
	}
	return merged
}

// Start listens, starts the handler and returns. Requests are held until the handler is ready. Cancelling ctx stops
// the host: requests in flight finish, then the handler is killed.
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

// handlerPort picks the handler's port. Between the pick and the handler's listening another program could take it;
// the host has the same gap.
func (h *Host) handlerPort() (int, error) {
	probe, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(h.config.port)))
	if err != nil {
		return 0, fmt.Errorf("the handler's port is taken (customHandler.port in host.json): %w", err)
	}
	defer probe.Close()
	return probe.Addr().(*net.TCPAddr).Port, nil
}

// URL is where clients reach the host, as http://127.0.0.1:7071. It is known once Start returned.
func (h *Host) URL() string { return "http://" + h.listener.Addr().String() }

// HandlerURL is where the handler listens, for looking at it without the host in between.
func (h *Host) HandlerURL() string { return "http://" + h.target }

// Ready waits until the handler answered for the first time. The error is the host's if it stopped before that,
// [ErrExitedZero] if the handler went away for good, or the context's.
func (h *Host) Ready(ctx context.Context) error {
	select {
	case <-h.first:
		return nil
	case <-h.exitZero:
		return ErrExitedZero
	case <-h.done:
		if h.err == nil {
			return ErrStopped
		}
		return h.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait waits until the host stopped. The error is nil if it was asked to, else why it stopped by itself:
// [ErrTooManyStrikes], [ErrHeldTooLong], a [StartError] or the listener's.
func (h *Host) Wait() error {
	<-h.done
	return h.err
}

// Stop stops the host as cancelling Start's context does, and waits for it: requests in flight finish, then the handler
// is killed. The error is Wait's.
func (h *Host) Stop() error {
	if h.cancel == nil {
		return nil
	}
	h.cancel()
	return h.Wait()
}

// Close stops at once, without waiting for requests in flight, and kills the handler.
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
	go func() { supervised <- h.supervise(supervising, port) }()

	var err error
	over := false
	select {
	case <-ctx.Done():
	case err = <-supervised:
		over = true
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
	if !over {
		// The reason to stop is known; what the supervisor says now is the answer to the kill.
		<-supervised
	}
	h.err = err
	close(h.done)
}

// supervise starts the handler again and again as the host does, and returns when that is over.
func (h *Host) supervise(ctx context.Context, port int) error {
	strikes := strikes{now: h.options.Now}
	for {
		p, err := start(h.commandFor(port), h.config.stderrIsError, h.options.Console)
		if err != nil {
			return err
		}
		h.setCurrent(p)
		struck := h.tend(ctx, p)
		p.kill()
		switch {
		case ctx.Err() != nil:
			return nil
		case struck == nil:
			continue
		}
		if strikes.add() {
			return fmt.Errorf("%w; the last time: %w", ErrTooManyStrikes, struck)
		}
		reason := struck.Error()
		if c := (*crash)(nil); errors.As(struck, &c) {
			reason = c.state // what it wrote is on the console already
		}
		h.log.Error("the handler failed and is started again", "reason", reason, "strike", strikes.count, "of", strikeLimit)
	}
}

// commandFor gives the handler its environment. Every start has a worker id of its own.
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

// tend watches one run of the handler to its end. It returns the strike, or nil if the end was no fault.
func (h *Host) tend(ctx context.Context, p *process) error {
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
				// It fell over the probe. The exit is handled below.
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
				// Ready or not, the host neither restarts it nor tells clients apart: requests find nobody and get 500.
				// Before the first answer, the readiness timeout still runs, and counts as a strike.
				h.log.Error("the handler exited with code 0: the Functions host never starts it again and answers 500 from now on")
				if !isReady {
					h.onceExitZero()
				}
			default:
				h.setNotReady(isReady)
				return p.crash()
			}
		}
	}
}

// probe asks GET / until there is any answer, and closes ready then. The request has no header but Host.
func (h *Host) probe(ctx context.Context, ready chan<- struct{}) {
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.target+"/", nil)
		if err != nil {
			h.log.Error("cannot ask the handler whether it is ready", "error", err)
			return
		}
		request.Header["User-Agent"] = []string{""} // an empty value is not sent; none would send Go's
		response, err := transport.RoundTrip(request)
		if err == nil {
			// What it says is of no account; read a little, so that the handler sees no broken pipe.
			_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
			response.Body.Close()
		}
		var op *net.OpError
		refused := errors.As(err, &op) && op.Op == "dial"
		if ctx.Err() != nil {
			return
		}
		if !refused {
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
	select {
	case <-h.first:
	default:
		close(h.first)
	}
}

// setNotReady has requests wait again, if the handler was ready.
func (h *Host) setNotReady(wasReady bool) {
	if !wasReady {
		return
	}
	h.handlerMu.Lock()
	defer h.handlerMu.Unlock()
	h.ready = make(chan struct{})
}

func (h *Host) onceExitZero() {
	select {
	case <-h.exitZero:
	default:
		close(h.exitZero)
	}
}

// restart has the present handler killed and started again, without a strike.
func (h *Host) restart() {
	h.handlerMu.Lock()
	p := h.current
	h.handlerMu.Unlock()
	select {
	case h.restarts <- p:
	default: // one is asked for already
	}
}

// awaitHandler holds a request until the handler is ready. A request that waits too long stops the host.
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

// strikes counts the handler's failures. They are forgotten when the one before is more than half an hour old.
type strikes struct {
	now   func() time.Time
	count int
	last  time.Time
}

const (
	strikeLimit  = 3
	strikeMemory = 30 * time.Minute
)

// add counts one and reports whether it was one too many.
func (s *strikes) add() bool {
	now := s.now()
	if s.count > 0 && now.Sub(s.last) > strikeMemory {
		s.count = 0
	}
	s.count++
	s.last = now
	return s.count >= strikeLimit
}
