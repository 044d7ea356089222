package main

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/configfile"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/mqtt"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
	"github.com/usher-dps/usher/internal/standin/dpssim/web"
)

// Files in the folder of the stand-in.
const (
	runningFile  = "running.json" // its address, while it runs
	loopbackFile = "loopback.cjs" // redirects Node programs to it
)

// handshakeTimeout is long because ten thousand devices may connect at once, and a laptop has few processors.
const handshakeTimeout = 2 * time.Minute

// maxHeaderBytes is far above what SDKs send. It matters because the journal keeps paths.
const maxHeaderBytes = 32 << 10

// stopTimeout is how long calls in flight may take once the stand-in is stopped.
const stopTimeout = 5 * time.Second

//go:embed dps_loopback.cjs
var loopback string

// listenOptions say where the stand-in listens.
type listenOptions struct {
	address     string
	https, mqtt uint16
	fallback    bool // whether HTTPS may use another port
}

// running is what other commands read about a stand-in that runs.
type running struct {
	Address string `json:"address"`
	HTTPS   int    `json:"https"`
	MQTT    int    `json:"mqtt"`
	IDScope string `json:"idScope"`
}

func (r running) httpsAddress() string { return net.JoinHostPort(r.Address, strconv.Itoa(r.HTTPS)) }
func (r running) mqttAddress() string  { return net.JoinHostPort(r.Address, strconv.Itoa(r.MQTT)) }

// standIn is a stand-in that serves.
type standIn struct {
	flags     standInFlags
	running   running
	fellBack  error // why HTTPS does not use the port that was wanted
	authority *pki.Authority
	service   *dpssim.Service
	web       *http.Server
	mqtt      *mqtt.Server
	failed    chan error // the first failure of a listener or of the journal
	webhooks  []string   // of the configuration, without their queries
	closers   []func() error
}

// startStandIn starts a stand-in. It writes a line for each call to console, unless that is nil.
func startStandIn(flags standInFlags, listen listenOptions, hosts []string, console, stderr io.Writer) (*standIn, error) {
	s := &standIn{flags: flags, failed: make(chan error, 3)}
	if err := s.start(listen, hosts, console, stderr); err != nil {
		_ = s.close() // the first error counts
		return nil, err
	}
	return s, nil
}

func (s *standIn) start(listen listenOptions, hosts []string, console, stderr io.Writer) (err error) {
	if s.authority, err = pki.Load(s.flags.folder, hosts...); err != nil {
		return err
	}
	file, err := s.flags.load()
	if err != nil {
		return err
	}
	for _, warning := range file.Warnings {
		fmt.Fprintf(stderr, "warning: %s\n", warning)
	}
	state := store.Memory()
	if s.flags.state != "" {
		if state, err = store.Open(s.flags.state); err != nil {
			return err
		}
	}
	s.closers = append(s.closers, state.Close)
	if file.Config.OnEntry, err = s.entries(s.flags.journal, console); err != nil {
		return err
	}
	file.Config.Certify = s.authority.Certify
	registry := hub.New(state, time.Now)
	if s.service, err = dpssim.New(file.Config, state, registry); err != nil {
		return fmt.Errorf("%s: %w", s.flags.config, err)
	}
	s.closers = append(s.closers, func() error { s.service.Close(); return nil })
	if err := s.enroll(file); err != nil {
		return err
	}
	if err := s.listen(listen, file, registry, stderr); err != nil {
		return err
	}
	return s.announce()
}

// entries returns the function that receives the journal's entries.
func (s *standIn) entries(path string, console io.Writer) (func(dpssim.Entry), error) {
	write := func(dpssim.Entry) {}
	if path != "" {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, file.Close)
		write = dpssim.WriteEntries(file, s.fail)
	}
	return func(entry dpssim.Entry) {
		write(entry)
		if console != nil {
			fmt.Fprintln(console, entry.Line())
		}
	}, nil
}

// fail makes wait return the error, unless there was one before.
func (s *standIn) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// enroll adds the enrollments of the configuration that the state does not have.
func (s *standIn) enroll(file configfile.File) error {
	var problems []error
	add := func(collection *dpssim.Collection, record model.Record, path string, i int) {
		s.addWebhook(record.Common().CustomAllocationDefinition)
		if _, err := collection.Get(*record.ID()); err == nil {
			return
		}
		if err := collection.Put(*record.ID(), record, ""); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", file.Place(fmt.Sprintf("%s[%d]", path, i)), err))
		}
	}
	for i := range file.Groups {
		add(&s.service.Groups, &file.Groups[i], "enrollmentGroups", i)
	}
	for i := range file.Enrollments {
		add(&s.service.Enrollments, &file.Enrollments[i], "enrollments", i)
	}
	return errors.Join(problems...)
}

// addWebhook remembers the URL without its query, which may contain a key.
func (s *standIn) addWebhook(definition *model.CustomAllocationDefinition) {
	if definition == nil {
		return
	}
	u, err := url.Parse(definition.WebhookURL)
	if err != nil {
		return // the registration reports it
	}
	u.RawQuery, u.User, u.Fragment = "", nil, ""
	if text := u.String(); !slices.Contains(s.webhooks, text) {
		s.webhooks = append(s.webhooks, text)
	}
}

// unservedWebhooks are the webhooks on this machine that no one serves yet.
func (s *standIn) unservedWebhooks() []string {
	return slices.DeleteFunc(slices.Clone(s.webhooks), func(webhook string) bool {
		u, err := url.Parse(webhook)
		if err != nil {
			return true
		}
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return true
		}
		port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), time.Second)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// listen opens the ports and serves them.
func (s *standIn) listen(options listenOptions, file configfile.File, registry *hub.Registry, stderr io.Writer) error {
	https, err := net.Listen("tcp", net.JoinHostPort(options.address, strconv.Itoa(int(options.https))))
	if err != nil && options.fallback && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, fs.ErrPermission)) {
		s.fellBack = err
		https, err = net.Listen("tcp", net.JoinHostPort(options.address, strconv.Itoa(fallbackHTTPS)))
	}
	if err != nil {
		return portError(err, "--https")
	}
	s.closers = append(s.closers, func() error { return notClosed(https.Close()) })
	plain, err := net.Listen("tcp", net.JoinHostPort(options.address, strconv.Itoa(int(options.mqtt))))
	if err != nil {
		return portError(err, "--mqtt")
	}
	s.closers = append(s.closers, func() error { return notClosed(plain.Close()) })
	s.running = running{
		Address: reachable(options.address), HTTPS: portOf(https), MQTT: portOf(plain), IDScope: s.service.Config().IDScope,
	}
	hints := &tlsHints{w: stderr, ca: s.authority.CAFile()}
	s.mqtt = mqtt.New(s.service, registry, slog.New(slog.NewTextHandler(hints, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	})))
	var hubs []string
	for _, linked := range file.Config.Hubs {
		hubs = append(hubs, linked.HostName)
	}
	s.web = &http.Server{
		Handler:           web.New(web.Options{Service: s.service, Hubs: web.HubAPI(registry, file.HubPolicy, hubs...), WebSocket: s.mqtt}),
		TLSConfig:         s.authority.ServerConfig(),
		ReadHeaderTimeout: handshakeTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(hints, "", 0),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // WebSocket needs HTTP/1.1
	}
	go func() { s.fail(s.mqtt.Serve(tls.NewListener(plain, s.authority.ServerConfig()))) }()
	go func() { s.fail(s.web.ServeTLS(https, "", "")) }()
	return nil
}

func portError(err error, flag string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: stop the program that uses it, or choose another port with %s", err, flag)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: choose a port above 1023 with %s, or allow it: %s", err, flag, allowPort)
	}
	return err
}

// allowPort allows programs of all users to listen on 443, on Linux.
const allowPort = "sudo sysctl net.ipv4.ip_unprivileged_port_start=443"

func notClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func portOf(listener net.Listener) int { return listener.Addr().(*net.TCPAddr).Port }

// reachable is the address at which this machine reaches a listener on an address.
func reachable(address string) string {
	if ip := net.ParseIP(address); ip != nil && ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return address
}

// announce writes the files that other programs read to find the stand-in.
func (s *standIn) announce() error {
	text, err := json.Marshal(s.running)
	if err != nil {
		return err
	}
	path := filepath.Join(s.flags.folder, runningFile)
	if err := writeFile(path, append(text, '\n')); err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { return os.Remove(path) })
	preload := strings.NewReplacer("@ADDRESS@", s.running.Address,
		"@HTTPS@", strconv.Itoa(s.running.HTTPS), "@MQTT@", strconv.Itoa(s.running.MQTT)).Replace(loopback)
	return writeFile(filepath.Join(s.flags.folder, loopbackFile), []byte(preload))
}

// readRunning reads where the stand-in of a folder runs.
func readRunning(folder string) (running, error) {
	var r running
	text, err := os.ReadFile(filepath.Join(folder, runningFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("no stand-in runs in %s: start one with usher dps, or give its --folder", folder)
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", filepath.Join(folder, runningFile), err)
	}
	return r, nil
}

// describe prints the stand-in's addresses and how to make SDKs find and trust it.
func (s *standIn) describe(w io.Writer) {
	config := s.service.Config()
	fmt.Fprintf(w, "HTTPS and WebSocket https://%s\nMQTT                mqtts://%s\nID scope            %s\nService API         %s\n",
		s.running.httpsAddress(), s.running.mqttAddress(), config.IDScope, config.HostName())
	for i, linked := range config.Hubs {
		label := ""
		if i == 0 {
			label = "IoT hubs"
		}
		fmt.Fprintf(w, "%-19s %s\n", label, linked.HostName)
	}
	if s.fellBack != nil {
		fmt.Fprintf(w, "\nPort %d cannot be used (%v).\nSee below which SDK needs it. To allow it: %s\n", defaultHTTPS, s.fellBack, allowPort)
	}
	fmt.Fprintf(w, "\nHow to make each SDK trust and find it:\n")
	for _, sdk := range pki.TrustLines(absolute(s.authority.CAFile()), s.running.HTTPS, s.running.MQTT) {
		fmt.Fprintf(w, "  %s\n", sdk.SDK)
		for _, line := range sdk.Lines {
			fmt.Fprintf(w, "    %s\n", line)
		}
		if sdk.Needs != "" {
			fmt.Fprintf(w, "    Note: %s\n", sdk.Needs)
		}
		if sdk.SDK == "Node" {
			fmt.Fprintf(w, "    or, without changing the program: NODE_OPTIONS=\"--require %s\" NODE_EXTRA_CA_CERTS=%s node device.js\n",
				absolute(filepath.Join(s.flags.folder, loopbackFile)), absolute(s.authority.CAFile()))
		}
	}
	fmt.Fprintf(w, "\nA device's key:      usher dps key%s GROUP REGISTRATION_ID\nService and hub:     usher dps connection-string%[1]s [HUB]\nMade-up devices:     usher dps fleet%[1]s\n\n", s.flags.suffix())
	for _, webhook := range s.unservedWebhooks() {
		fmt.Fprintf(w, "No one serves the webhook %s yet. `make run` serves Usher at %s.\n\n", webhook, defaultDPSWebhook)
	}
}

// absolute is the absolute path of a file. Node treats a relative path in --require as the name of a package.
func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// wait returns the error of the first listener or journal that fails, or nil after close.
func (s *standIn) wait() error {
	err := <-s.failed
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, mqtt.ErrClosed) {
		return nil
	}
	return err
}

// close ends the stand-in: first the servers, then what is behind them.
func (s *standIn) close() error {
	var problems []error
	if s.web != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		var servers sync.WaitGroup
		servers.Go(s.mqtt.Close)
		if err := s.web.Shutdown(ctx); err != nil {
			_ = s.web.Close()
		}
		servers.Wait()
	}
	for _, closer := range slices.Backward(s.closers) {
		problems = append(problems, closer())
	}
	s.closers = nil
	return errors.Join(problems...)
}

// tlsHints prints the errors of the HTTP and MQTT servers, and a hint where a client does not trust the stand-in.
type tlsHints struct {
	w    io.Writer
	ca   string
	once sync.Once
}

func (t *tlsHints) Write(p []byte) (int, error) {
	text := strings.TrimSpace(strings.TrimPrefix(string(p), "http: "))
	fmt.Fprintf(t.w, "dps: %s\n", text)
	// Node closes the connection without an alert.
	if strings.Contains(text, "unknown certificate") || strings.Contains(text, "bad certificate") || strings.HasSuffix(text, "EOF") {
		t.once.Do(func() {
			fmt.Fprintf(t.w, "dps: most likely the client does not trust %s: see above how to make its SDK trust it\n", t.ca)
		})
	}
	return len(p), nil
}
