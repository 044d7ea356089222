// Package mqtt is the entry point for devices that use MQTT 3.1.1, over TLS or over a WebSocket: the registration
// topics of DPS and the twin topics of IoT Hub. The user name in the CONNECT says which of the two is meant.
//
// Both are calls with answers, and devices never exchange messages with each other. So this is not a broker: an answer
// goes only to the connection that asked, if it subscribed. A device may be connected to DPS and to its hub at the same
// time under one client ID, because in Azure these are two services.
//
// With CleanSession=0, a device's session at its hub outlives the connection: SDKs connect again for each new token, and
// do not subscribe again. At DPS a session ends with its connection. The rest differs from both: wills are dropped; MQTT 5
// is refused; and two connections to DPS under one registration ID coexist, which shows how DPS handles two registrations
// at once.
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
)

// subprotocol is that of WebSocket.
const subprotocol = "mqtt"

// Server serves the connections of devices. Make it with New, end it with Close.
type Server struct {
	service *dpssim.Service
	hubs    *hub.Registry
	log     *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex // so that no connection begins once Close waits
	running sync.WaitGroup
}

// New makes a server. It logs failed TLS handshakes, mostly of devices that do not trust the certificate, as warnings,
// and connections at debug level. It logs nothing secret.
func New(service *dpssim.Service, hubs *hub.Registry, log *slog.Logger) *Server {
	s := &Server{service: service, hubs: hubs, log: log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("the MQTT server is closed")

// Serve accepts connections until the listener fails or Close is called, which also closes the listener. The
// connections should be TLS connections, from tls.NewListener or tls.Listen.
func (s *Server) Serve(listener net.Listener) error {
	stop := context.AfterFunc(s.ctx, func() { _ = listener.Close() }) // ErrClosed says enough
	defer stop()
	pause := time.Duration(0)
	for {
		conn, err := listener.Accept()
		if err == nil && s.begin() {
			pause = 0
			go func() {
				defer s.running.Done()
				s.serveTCP(conn)
			}()
			continue
		}
		if s.ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // too late
			}
			return ErrClosed
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() && !isTemporary(err) {
			return fmt.Errorf("accept MQTT connections: %w", err)
		}
		// Most likely there are no file descriptors left. Wait and continue, as net/http does.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.log.Warn("cannot accept an MQTT connection", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
		}
	}
}

// isTemporary reports whether accepting may continue after an error.
func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

// begin counts a connection, unless the server is closed.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.running.Add(1)
	return true
}

// Close ends all connections and waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.running.Wait()
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

// ServeHTTP serves MQTT over a WebSocket. DPS and IoT Hub have it at /$iothub/websocket; the SDK for Java
// opens /mqtt.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	offered := false
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(header, ",") {
			offered = offered || strings.EqualFold(strings.TrimSpace(name), subprotocol)
		}
	}
	if !offered {
		http.Error(w, "this is MQTT over a WebSocket: request the sub-protocol mqtt", http.StatusBadRequest)
		return
	}
	if !s.begin() {
		http.Error(w, "the stand-in for DPS is closing", http.StatusServiceUnavailable)
		return
	}
	defer s.running.Done()
	// Accept ignores the case of sub-protocols and answers with the client's spelling. Devices send no origin.
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
