// Package mqtt is the door for devices that speak MQTT 3.1.1, over TLS or over
// WebSocket: the registration topics of DPS and the twin topics of IoT Hub. The user
// name of the CONNECT says which of the two is meant.
//
// Both are calls with answers, never publish and subscribe between devices. So this
// is no broker: an answer goes to the connection that asked, if it subscribed, and to
// no other. A device may be connected to DPS and to its hub at the same time under
// one client ID, as these are two services in Azure.
//
// It differs from both in this: a session ends with its connection, whatever the
// CONNECT asks; wills are dropped; nothing is sent a second time; MQTT 5 is refused;
// and two connections to DPS under one registration ID stand side by side, so that it
// shows how DPS takes two registrations at once.
package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// subprotocol is that of WebSocket.
const subprotocol = "mqtt"

// Provisioner is DPS itself: *dpssim.Service.
type Provisioner interface {
	Authenticate(context.Context, dpssim.Caller) error
	Register(context.Context, dpssim.Caller, model.RegistrationRequest) (model.RegistrationOperationStatus, error)
	Operation(ctx context.Context, caller dpssim.Caller, operationID string) (model.RegistrationOperationStatus, error)
	RetryAfter() time.Duration
	// Record takes what a device and its hub said to each other for the journal; the
	// other calls are recorded by their methods.
	Record(dpssim.Entry)
}

// Server serves the connections of devices. Make it with New, end it with Close.
type Server struct {
	provisioner Provisioner
	hubs        *hub.Registry
	log         *slog.Logger
	now         func() time.Time // of answers' timestamps

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	running   sync.WaitGroup
}

// New makes a server. Nothing secret is logged: failed TLS handshakes, mostly of
// devices that do not trust the certificate, as warnings, connections at debug level.
func New(provisioner Provisioner, hubs *hub.Registry, now func() time.Time, log *slog.Logger) *Server {
	s := &Server{provisioner: provisioner, hubs: hubs, now: now, log: log, listeners: map[net.Listener]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("the MQTT server is closed")

// Serve takes connections until the listener fails or Close is called. The
// connections should be TLS ones, from tls.NewListener or tls.Listen.
func (s *Server) Serve(listener net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = listener.Close() // ErrClosed says enough
		return ErrClosed
	}
	s.listeners[listener] = struct{}{}
	s.mu.Unlock()
	pause := time.Duration(0)
	for {
		conn, err := listener.Accept()
		if s.ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // too late
			}
			return ErrClosed
		}
		if err != nil {
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() && !isTemporary(err) {
				return fmt.Errorf("accepting MQTT connections: %w", err)
			}
			// Out of file descriptors, most likely: as net/http, wait and go on.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Warn("cannot accept an MQTT connection", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
			continue
		}
		pause = 0
		if !s.begin() {
			_ = conn.Close() // too late
			return ErrClosed
		}
		go func() {
			defer s.running.Done()
			s.serveTCP(conn)
		}()
	}
}

// isTemporary tells of the errors after which accepting may go on.
func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

// Close ends all connections and waits for them. Listeners are closed with it.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cancel() // before the listeners: Serve tells by it why its Accept failed
	var err error
	for listener := range s.listeners {
		if e := listener.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

func (s *Server) serveTCP(conn net.Conn) {
	var certificates []*x509.Certificate
	if encrypted, ok := conn.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(s.ctx, connectTimeout)
		err := encrypted.HandshakeContext(ctx)
		cancel()
		if err != nil {
			_ = conn.Close() // the first error counts
			s.log.Warn("MQTT: TLS handshake failed", "remote", conn.RemoteAddr().String(), "error", err)
			return
		}
		certificates = encrypted.ConnectionState().PeerCertificates
	}
	s.serveConn(conn, certificates, dpssim.TransportMQTT)
}

// ServeHTTP takes MQTT over WebSocket. DPS and IoT Hub have it at /$iothub/websocket.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	offered := false
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(header, ",") {
			offered = offered || strings.EqualFold(strings.TrimSpace(name), subprotocol)
		}
	}
	if !offered {
		http.Error(w, "this is MQTT over WebSocket: ask for the sub-protocol mqtt", http.StatusBadRequest)
		return
	}
	if !s.begin() {
		http.Error(w, "the stand-in for DPS is closing", http.StatusServiceUnavailable)
		return
	}
	defer s.running.Done()
	// Accept compares sub-protocols in any case of letters, and answers with the
	// client's spelling. Devices have no origin.
	socket, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}})
	if err != nil {
		s.log.Debug("MQTT: WebSocket refused", "remote", r.RemoteAddr, "error", err)
		return // Accept has answered
	}
	socket.SetReadLimit(maxPacket + maxHeader)
	var certificates []*x509.Certificate
	if r.TLS != nil {
		certificates = r.TLS.PeerCertificates
	}
	s.serveConn(websocket.NetConn(s.ctx, socket, websocket.MessageBinary), certificates, dpssim.TransportMQTTWS)
}
