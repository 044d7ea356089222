package fleet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	mqttVersion      = 4 // MQTT 3.1.1
	badCredentials   = 4 // codes of CONNACK
	notAuthorized    = 5
	keepAliveSeconds = 1800
	topicResponses   = "$dps/registrations/res/#"
	topicRegister    = "$dps/registrations/PUT/iotdps-register/?$rid="
	topicOperation   = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid="
	topicResponse    = "$dps/registrations/res/"
)

// connectRefused is the answer to CONNECT if it is no.
type connectRefused struct{ code byte }

func (e *connectRefused) Error() string { return fmt.Sprintf("CONNECT refused with code %d", e.code) }

// result gives the refusal the code under which HTTP would tell it. DPS has a code
// of its own for no other.
func (e *connectRefused) result() *result {
	if e.code == badCredentials || e.code == notAuthorized {
		return &result{kind: refused, code: 401002, message: e.Error()}
	}
	return &result{kind: lost, message: e.Error()}
}

// mqttDoor is a device that registers over MQTT. It sends one request at a time.
type mqttDoor struct {
	conn    net.Conn
	reader  *bufio.Reader
	request int    // number of the last request
	packet  uint16 // ID of the last packet
}

func dialMQTT(ctx context.Context, d device, config *tls.Config, token string) (*mqttDoor, error) {
	conn, err := d.dial(ctx, config)
	if err != nil {
		return nil, err
	}
	m := &mqttDoor{conn: conn, reader: bufio.NewReader(conn)}
	if err := m.greet(ctx, d, token); err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *mqttDoor) greet(ctx context.Context, d device, token string) error {
	defer m.until(ctx)()
	username := d.options.IDScope + "/registrations/" + d.id + "/api-version=" + apiVersion + "&ClientVersion=" + url.QueryEscape(userAgent)
	connect := packets.Packet{
		ProtocolVersion: mqttVersion,
		FixedHeader:     packets.FixedHeader{Type: packets.Connect},
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), Clean: true, Keepalive: keepAliveSeconds, ClientIdentifier: d.id,
			UsernameFlag: true, Username: []byte(username), PasswordFlag: token != "", Password: []byte(token),
		},
	}
	if err := m.write(connect.ConnectEncode); err != nil {
		return err
	}
	reply, err := m.read()
	switch {
	case err != nil:
		return err
	case reply.FixedHeader.Type != packets.Connack:
		return errors.New("CONNECT was not answered by CONNACK")
	case reply.ReasonCode != 0:
		return &connectRefused{reply.ReasonCode}
	}
	m.packet++
	subscribe := packets.Packet{
		ProtocolVersion: mqttVersion,
		FixedHeader:     packets.FixedHeader{Type: packets.Subscribe, Qos: 1},
		PacketID:        m.packet,
		Filters:         packets.Subscriptions{{Filter: topicResponses, Qos: 1}},
	}
	if err := m.write(subscribe.SubscribeEncode); err != nil {
		return err
	}
	reply, err = m.read()
	switch {
	case err != nil:
		return err
	case reply.FixedHeader.Type != packets.Suback || len(reply.ReasonCodes) != 1 || reply.ReasonCodes[0] > 1:
		return errors.New("SUBSCRIBE was not granted")
	}
	return nil
}

func (m *mqttDoor) register(ctx context.Context, body []byte) (answer, error) {
	return m.call(ctx, topicRegister, "", body)
}

func (m *mqttDoor) operation(ctx context.Context, id string) (answer, error) {
	return m.call(ctx, topicOperation, "&operationId="+id, []byte(" "))
}

func (m *mqttDoor) call(ctx context.Context, topic, parameters string, body []byte) (answer, error) {
	defer m.until(ctx)()
	m.request++
	m.packet++
	publish := packets.Packet{
		ProtocolVersion: mqttVersion,
		FixedHeader:     packets.FixedHeader{Type: packets.Publish, Qos: 1},
		PacketID:        m.packet,
		TopicName:       topic + strconv.Itoa(m.request) + parameters,
		Payload:         body,
	}
	if err := m.write(publish.PublishEncode); err != nil {
		return answer{}, err
	}
	for {
		reply, err := m.read()
		if err != nil {
			return answer{}, err
		}
		if reply.FixedHeader.Type != packets.Publish {
			continue // PUBACK
		}
		if reply.FixedHeader.Qos > 0 {
			ack := packets.Packet{
				ProtocolVersion: mqttVersion, FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: reply.PacketID,
			}
			if err := m.write(ack.PubackEncode); err != nil {
				return answer{}, err
			}
		}
		response, rid, err := parseResponse(reply.TopicName)
		if err != nil {
			return answer{}, err
		}
		if rid == strconv.Itoa(m.request) {
			response.body = reply.Payload
			return response, nil
		}
	}
}

// parseResponse reads $dps/registrations/res/202/?$rid=1&retry-after=3.
func parseResponse(topic string) (response answer, rid string, err error) {
	rest, ok := strings.CutPrefix(topic, topicResponse)
	status, query, found := strings.Cut(rest, "/?")
	if !ok || !found {
		return answer{}, "", fmt.Errorf("topic %q is no answer of DPS", topic)
	}
	if response.status, err = strconv.Atoi(status); err != nil {
		return answer{}, "", fmt.Errorf("topic %q has no status", topic)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return answer{}, "", fmt.Errorf("topic %q: its parameters cannot be read", topic)
	}
	response.retryAfter = retryAfter(values.Get("retry-after"))
	return response, values.Get("$rid"), nil
}

// until ends reads and writes with ctx, until the function that it returns is called.
func (m *mqttDoor) until(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { m.conn.Close() })
	return func() { stop() }
}

func (m *mqttDoor) write(encode func(*bytes.Buffer) error) error {
	var buffer bytes.Buffer
	if err := encode(&buffer); err != nil {
		return err
	}
	_, err := m.conn.Write(buffer.Bytes())
	return err
}

func (m *mqttDoor) read() (packets.Packet, error) {
	packet := packets.Packet{ProtocolVersion: mqttVersion}
	first, err := m.reader.ReadByte()
	if err != nil {
		return packet, err
	}
	if err := packet.FixedHeader.Decode(first); err != nil {
		return packet, err
	}
	if packet.FixedHeader.Remaining, _, err = packets.DecodeLength(m.reader); err != nil {
		return packet, err
	}
	if packet.FixedHeader.Remaining > maxAnswer {
		return packet, errors.New("a packet is too large")
	}
	body := make([]byte, packet.FixedHeader.Remaining)
	if _, err := io.ReadFull(m.reader, body); err != nil {
		return packet, err
	}
	switch packet.FixedHeader.Type {
	case packets.Connack:
		err = packet.ConnackDecode(body)
	case packets.Suback:
		err = packet.SubackDecode(body)
	case packets.Puback:
		err = packet.PubackDecode(body)
	case packets.Publish:
		err = packet.PublishDecode(body)
	default:
		err = fmt.Errorf("packet of type %d", packet.FixedHeader.Type)
	}
	return packet, err
}

func (m *mqttDoor) close() {
	goodbye := packets.Packet{ProtocolVersion: mqttVersion, FixedHeader: packets.FixedHeader{Type: packets.Disconnect}}
	_ = m.write(goodbye.DisconnectEncode) // the connection ends either way
	m.conn.Close()
}
