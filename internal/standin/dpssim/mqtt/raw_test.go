package mqtt_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/mqtt"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// pipes is a listener with connections in memory, so that a test can use a synthetic clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// servePipes serves in memory until the test ends.
func servePipes(t *testing.T) (listener *pipes, stop func()) {
	t.Helper()
	_, listener, stop = servePipesWith(t, dpssim.Config{})
	return listener, stop
}

func servePipesWith(t *testing.T, config dpssim.Config) (f *fixture, listener *pipes, stop func()) {
	t.Helper()
	state := store.Memory()
	hubs := hub.New(state, time.Now)
	config.IDScope, config.Hubs = "0ne1", []dpssim.LinkedHub{{HostName: hubA}}
	service, err := dpssim.New(config, state, hubs)
	if err != nil {
		t.Fatal(err)
	}
	group := keyGroup()
	if err := service.Groups.Put(group.EnrollmentGroupID, &group, ""); err != nil {
		t.Fatal(err)
	}
	server := mqtt.New(service, hubs, slog.New(slog.DiscardHandler))
	listener = newPipes()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return &fixture{service: service, hubs: hubs, store: state}, listener, func() {
		server.Close()
		if err := <-served; !errors.Is(err, mqtt.ErrClosed) {
			t.Error(err)
		}
		if err := server.Serve(newPipes()); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("Serve after Close: %v", err)
		}
		service.Close()
	}
}

func connectPacket(keepAlive uint16, change func(*packets.Packet)) []byte {
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: packets.Connect},
		ProtocolVersion: 4,
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), Clean: true, Keepalive: keepAlive, ClientIdentifier: "d",
			UsernameFlag: true, Username: []byte("0ne1/registrations/d/api-version=2019-03-31"),
			PasswordFlag: true, Password: []byte(attest.NewToken(attest.DeviceResource("0ne1", "d"), attest.DeriveKey(groupKey, "d"),
				time.Now().AddDate(1, 0, 0), attest.KeyNameRegistration)),
		},
	}
	if change != nil {
		change(&pk)
	}
	var buffer bytes.Buffer
	if err := pk.ConnectEncode(&buffer); err != nil {
		panic(err)
	}
	return buffer.Bytes()
}

var accepted = []byte{0x20, 2, 0, 0}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		sent  []byte // at once
		ping  time.Duration
		pings int
		ends  time.Duration // after the last that was sent; 0 for never within a day
	}{
		{"silence in place of a CONNECT", nil, 0, 0, 30 * time.Second},
		{"half a CONNECT", connectPacket(60, nil)[:10], 0, 0, 30 * time.Second},
		{"silence after it", connectPacket(60, nil), 0, 0, 90 * time.Second},
		{"pings, then silence", connectPacket(60, nil), 80 * time.Second, 5, 90 * time.Second},
		{"no keep-alive asked for", connectPacket(0, nil), 0, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				listener, stop := servePipes(t)
				defer stop()
				conn := listener.dial()
				defer conn.Close()
				if test.sent != nil {
					write(t, conn, test.sent)
				}
				if len(test.sent) > 10 {
					expect(t, conn, accepted)
				}
				for range test.pings {
					time.Sleep(test.ping) // of the false clock
					write(t, conn, []byte{0xc0, 0})
					expect(t, conn, []byte{0xd0, 0})
				}
				start := time.Now()
				if err := conn.SetReadDeadline(start.Add(24 * time.Hour)); err != nil {
					t.Fatal(err)
				}
				_, err := conn.Read(make([]byte, 1))
				var timeout net.Error
				switch {
				case test.ends == 0:
					if !errors.As(err, &timeout) || !timeout.Timeout() {
						t.Errorf("after %v: %v", time.Since(start), err)
					}
				case !errors.Is(err, io.EOF) || time.Since(start) != test.ends:
					t.Errorf("ended after %v (%v), want %v", time.Since(start), err, test.ends)
				}
			})
		})
	}
}

// TestSlowReader sends requests and does not read: the server gives up and can still be closed.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener, stop := servePipes(t)
		defer stop()
		conn := listener.dial()
		defer conn.Close()
		write(t, conn, connectPacket(0, nil))
		expect(t, conn, accepted)
		write(t, conn, []byte{0xc0, 0})
		start := time.Now()
		time.Sleep(29 * time.Second) // of the false clock
		synctest.Wait()
		expect(t, conn, []byte{0xd0, 0})
		write(t, conn, []byte{0xc0, 0})
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if _, err := conn.Write([]byte{0xc0, 0}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		sent []byte
		want []byte // what comes before the end
	}{
		{"a PINGREQ first", []byte{0xc0, 0}, nil},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), nil},
		{"MQTT 3.1", connectPacket(60, func(pk *packets.Packet) { pk.Connect.ProtocolName, pk.ProtocolVersion = []byte("MQIsdp"), 3 }), []byte{0x20, 2, 0, 1}},
		{"MQTT 5", connectPacket(60, func(pk *packets.Packet) { pk.ProtocolVersion = 5 }),
			append([]byte{0x20, 0x61, 0, 0x84, 0x5e, 31, 0, 0x5b}, `protocol "MQTT", level 5 is not supported: make the client use MQTT 3.1.1, which is level 4`...)},
		{"two CONNECTs", append(connectPacket(60, nil), connectPacket(60, nil)...), accepted},
		{"a packet of 200 MB", append(connectPacket(60, nil), 0x30, 0xff, 0xff, 0xff, 0x60), accepted},
		{"a length of six bytes", append(connectPacket(60, nil), 0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 1), accepted},
		{"a SUBSCRIBE to nothing", append(connectPacket(60, nil), 0x82, 2, 0, 1), accepted},
		{"a SUBSCRIBE without packet ID", append(connectPacket(60, nil), 0x82, 6, 0, 0, 0, 1, 'a', 0), accepted},
		{"an UNSUBSCRIBE from nothing", append(connectPacket(60, nil), 0xa2, 2, 0, 1), accepted},
		{"a topic with a wildcard", append(connectPacket(60, nil), 0x30, 3, 0, 1, '#'), accepted},
		{"a topic that is not UTF-8", append(connectPacket(60, nil), 0x30, 3, 0, 1, 0xff), accepted},
		{"a CONNACK", append(connectPacket(60, nil), 0x20, 2, 0, 0), accepted},
		{"the end", append(connectPacket(60, nil), 0xe0, 0), accepted},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			listener, stop := servePipes(t)
			defer stop()
			conn := listener.dial()
			defer conn.Close()
			go func() { _, _ = conn.Write(test.sent) }() // the server may hang up before its end
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, test.want) {
				t.Errorf("got %x and %v, want %x and the end", got, err, test.want)
			}
		})
	}
}

func write(t *testing.T, conn net.Conn, data []byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, conn net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %x, %v, want %x", got, err, want)
	}
}

// FuzzPackets sends a user name, a topic and then arbitrary bytes: the server must not crash, must answer only below
// the response topics, and must always end the connection.
func FuzzPackets(f *testing.F) {
	f.Add("0ne1/registrations/d/api-version=2019-03-31&ClientVersion=x", "$dps/registrations/PUT/iotdps-register/?$rid=1", []byte(`{"registrationId":"d"}`))
	f.Add("0ne1/registrations/d/api-version=1", "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=%31&operationId=%2f", []byte{0xc0, 0})
	f.Add("h.azure-devices.net/d/?api-version=1", "$iothub/twin/GET/?$rid=1", []byte{0x82, 0xff, 0xff, 0xff, 0x7f})
	f.Add("h/a?b/?c/?api-version=1", "devices/d/messages/events/", []byte{0x30})
	f.Add("///", "?&&==&$rid", []byte{0xa2, 2, 0, 1})
	f.Fuzz(func(t *testing.T, username, topic string, rest []byte) {
		listener, stop := servePipes(t)
		defer stop()
		conn := listener.dial()
		defer conn.Close()
		var sent bytes.Buffer
		sent.Write(connectPacket(0, func(pk *packets.Packet) { pk.Connect.Username = []byte(username[:min(len(username), 2000)]) }))
		subscribe := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "$dps/registrations/res/#", Qos: 1}}}
		publish := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: topic[:min(len(topic), 2000)], Payload: rest}
		if err := errors.Join(subscribe.SubscribeEncode(&sent), publish.PublishEncode(&sent)); err != nil {
			t.Skip(err)
		}
		sent.Write(rest)
		go func() {
			_, _ = conn.Write(sent.Bytes()) // the server may hang up before its end
			_, _ = conn.Write([]byte{0xe0, 0})
			_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // rest may be a packet that never ends
		}()
		answer, _ := io.ReadAll(conn)
		for part := range strings.SplitSeq(string(answer), "$dps/") {
			if i := strings.Index(part, "$iothub/"); i >= 0 {
				t.Errorf("an answer of a hub without a session: %q", answer)
			}
		}
		if n := strings.Count(string(answer), "$dps/"); n != strings.Count(string(answer), "$dps/registrations/res/") && !strings.Contains(username+topic+string(rest), "$dps/") {
			t.Errorf("an answer elsewhere: %q", answer)
		}
	})
}
