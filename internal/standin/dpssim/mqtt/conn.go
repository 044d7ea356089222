package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const (
	connectTimeout = 30 * time.Second // for the handshake, and again for the CONNECT
	writeTimeout   = 30 * time.Second
	maxPacket      = 256 << 10 // IoT Hub's limit
	maxHeader      = 5
	maxFilters     = 64 // subscriptions of one connection; SDKs have five
	maxWaiting     = 64 // requests of one connection that wait for their answers; then it is read no further
)

// The CONNACK codes of MQTT 3.1.1.
const (
	accepted          = 0
	badProtocol       = 1
	badIdentifier     = 2
	serverUnavailable = 3
	notAuthorized     = 5
)

// The highest QoS of DPS and IoT Hub, and the code of a refused filter in a SUBACK.
const (
	maxQoS        = 1
	refusedFilter = 0x80
)

// conn is one connection.
type conn struct {
	server  *Server
	net     net.Conn
	reader  *bufio.Reader
	user    user
	caller  dpssim.Caller
	session *hub.Session // nil for DPS
	ends    time.Time    // when the token for a hub expires; zero for never
	waiting chan waiting // requests whose answers take time; nil if answers are immediate

	mu       sync.Mutex // for the fields below, and for writing
	granted  map[string]byte
	packetID uint16
}

// waiting is a request that is answered when its time comes.
type waiting struct {
	packet packets.Packet
	due    time.Time
}

// serveConn serves one connection until it ends, and closes it.
func (s *Server) serveConn(nc net.Conn, certificates []*x509.Certificate, transport string) {
	stop := context.AfterFunc(s.ctx, func() { _ = nc.Close() }) // wakes the reader
	defer stop()
	defer nc.Close()
	c := &conn{server: s, net: nc, reader: bufio.NewReaderSize(nc, 2<<10), granted: map[string]byte{}}
	c.caller.Certificates, c.caller.Transport = certificates, transport
	keepAlive, err := c.connect()
	log := s.log.With("remote", nc.RemoteAddr().String(), "transport", transport)
	if err != nil {
		log.Debug("MQTT: CONNECT refused", "error", err)
		return
	}
	if c.session != nil {
		var pushing sync.WaitGroup
		pushing.Go(func() { c.push() })
		defer pushing.Wait()
		defer c.session.Close()
	}
	if c.server.service.AnswerDelay() > 0 {
		defer c.answerLater()()
	}
	if !c.ends.IsZero() {
		expiry := time.AfterFunc(time.Until(c.ends), c.expire)
		defer expiry.Stop()
	}
	log.Debug("MQTT: connected", "hub", c.user.hub, "device_id", c.user.deviceID, "registration_id", c.user.registrationID)
	err = c.serve(keepAlive)
	log.Debug("MQTT: disconnected", "error", err)
}

// connect reads the CONNECT, authenticates the device and answers.
func (c *conn) connect() (keepAlive time.Duration, err error) {
	if err := c.net.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return 0, err
	}
	pk, err := c.read()
	if err != nil {
		return 0, err
	}
	if pk.FixedHeader.Type != packets.Connect {
		return 0, errors.New("the first packet is not a CONNECT")
	}
	code, err := c.admit(pk)
	if err != nil {
		return 0, errors.Join(err, c.refuse(pk.ProtocolVersion, code, err))
	}
	err = c.write(packets.Connack, packets.Packet{ReasonCode: accepted, SessionPresent: c.session != nil && c.session.Present})
	if err != nil && c.session != nil {
		c.session.Close()
	}
	return time.Duration(pk.Connect.Keepalive) * time.Second, err
}

// refuse answers a CONNECT. A client of MQTT 5 reads only its own form, which can say why in words.
func (c *conn) refuse(level, code byte, why error) error {
	if level != 5 {
		return c.write(packets.Connack, packets.Packet{ReasonCode: code})
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: level, ReasonCode: packets.ErrUnsupportedProtocolVersion.Code}
	pk.Properties.ReasonString = why.Error()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writeLocked(pk)
}

// admit returns the code of the CONNACK, and an error if it is a refusal.
func (c *conn) admit(pk packets.Packet) (code byte, err error) {
	start := time.Now()
	refuse := func(code byte, status int, err error) (byte, error) {
		c.record(dpssim.KindConnect, "CONNECT", "", start, nil, status, nil, err)
		return code, err
	}
	if pk.ProtocolVersion != 4 || string(pk.Connect.ProtocolName) != "MQTT" {
		return refuse(badProtocol, http.StatusBadRequest, fmt.Errorf(
			"protocol %.8q, level %d is not supported: make the client use MQTT 3.1.1, which is level 4", pk.Connect.ProtocolName, pk.ProtocolVersion))
	}
	if pk.ReservedBit != 0 {
		return refuse(badProtocol, http.StatusBadRequest, errors.New("the reserved flag of the CONNECT is set"))
	}
	if c.user, err = parseUsername(string(pk.Connect.Username)); err != nil {
		return refuse(notAuthorized, http.StatusUnauthorized, err)
	}
	c.caller.SAS = string(pk.Connect.Password)
	if c.user.hub != "" {
		if pk.Connect.ClientIdentifier != c.user.deviceID {
			return refuse(badIdentifier, http.StatusBadRequest, errors.New("the client ID is not the device ID of the user name"))
		}
		if err = c.server.hubs.AuthenticateDevice(c.user.hub, c.user.deviceID, c.caller.SAS, c.caller.Certificates); err == nil {
			c.session, err = c.server.hubs.Connect(c.user.hub, c.user.deviceID, !pk.Connect.Clean)
		}
		if err != nil {
			return refuse(notAuthorized, hub.AsError(err).Status, err)
		}
		c.granted = c.session.Subscriptions
		if token, err := attest.ParseToken(c.caller.SAS); err == nil && len(c.caller.Certificates) == 0 {
			c.ends = token.Expiry
		}
		c.record(dpssim.KindConnect, "CONNECT", "", start, nil, http.StatusOK, nil, nil)
		return accepted, nil
	}
	if !strings.EqualFold(pk.Connect.ClientIdentifier, c.user.registrationID) {
		return refuse(badIdentifier, http.StatusBadRequest, errors.New("the client ID is not the registration ID of the user name"))
	}
	c.caller.IDScope, c.caller.RegistrationID = c.user.idScope, c.user.registrationID
	c.caller.APIVersion = c.user.apiVersion
	err = c.server.service.Authenticate(c.caller) // which records the call
	if err == nil {
		return accepted, nil
	}
	if refused, _ := dpssim.Answer(err); refused.Status < http.StatusTooManyRequests {
		return notAuthorized, err
	}
	return serverUnavailable, err
}

// expire ends the connection with its token, as IoT Hub does.
func (c *conn) expire() {
	c.record(dpssim.KindConnect, "DISCONNECT", "", time.Now(), nil, 0, nil,
		fmt.Errorf("the connection was ended: the SharedAccessSignature expired at %s", c.ends.UTC().Format(time.RFC3339)))
	_ = c.net.Close() // wakes the reader
}

// serve answers packets until the connection ends.
func (c *conn) serve(keepAlive time.Duration) error {
	for {
		deadline := time.Time{}
		if keepAlive > 0 {
			deadline = time.Now().Add(keepAlive * 3 / 2)
		}
		if err := c.net.SetReadDeadline(deadline); err != nil {
			return err
		}
		pk, err := c.read()
		if err != nil {
			return err
		}
		switch pk.FixedHeader.Type {
		case packets.Publish:
			err = c.accept(pk)
		case packets.Subscribe:
			err = c.subscribe(pk)
		case packets.Unsubscribe:
			err = c.unsubscribe(pk)
		case packets.Pingreq:
			err = c.write(packets.Pingresp, packets.Packet{})
		case packets.Puback:
			if c.session != nil {
				c.session.Acknowledged(pk.PacketID)
			}
		case packets.Disconnect:
			return nil
		default:
			err = fmt.Errorf("a %s is not expected here", packets.PacketNames[pk.FixedHeader.Type])
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) subscribe(pk packets.Packet) error {
	if code := pk.SubscribeValidate(); code != packets.CodeSuccess {
		return code
	}
	codes := make([]byte, len(pk.Filters))
	c.mu.Lock()
	for i, filter := range pk.Filters {
		if !c.user.maySubscribe(filter.Filter) || len(c.granted) >= maxFilters {
			codes[i] = refusedFilter
			continue
		}
		codes[i] = min(filter.Qos, maxQoS)
		c.granted[filter.Filter] = codes[i]
	}
	c.mu.Unlock()
	if err := c.keepSubscriptions(); err != nil {
		return err
	}
	return c.write(packets.Suback, packets.Packet{PacketID: pk.PacketID, ReasonCodes: codes})
}

func (c *conn) unsubscribe(pk packets.Packet) error {
	if code := pk.UnsubscribeValidate(); code != packets.CodeSuccess {
		return code
	}
	c.mu.Lock()
	for _, filter := range pk.Filters {
		delete(c.granted, filter.Filter)
	}
	c.mu.Unlock()
	if err := c.keepSubscriptions(); err != nil {
		return err
	}
	return c.write(packets.Unsuback, packets.Packet{PacketID: pk.PacketID})
}

// keepSubscriptions keeps those of a lasting session. Only the reader changes them.
func (c *conn) keepSubscriptions() error {
	if c.session == nil {
		return nil
	}
	return c.session.Subscribe(c.granted)
}

// unreachable is why the device does not receive what is published below a prefix; "" if it does.
func (c *conn) unreachable(prefix string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, subscribed := c.granted[prefix+"#"]; subscribed {
		return ""
	}
	return "not delivered: the device has not subscribed to " + prefix + "#"
}

// delivered is what the journal has of an answer: nothing of one that the device does not receive, but why.
func delivered(unreachable string, status int, response []byte, err error) (int, []byte, error) {
	switch {
	case unreachable == "":
		return status, response, err
	case err == nil:
		return 0, nil, errors.New(unreachable)
	}
	return 0, nil, fmt.Errorf("%w; %s", err, unreachable)
}

// accept answers a request, or lets it wait as long as an answer takes: the SDK for Java begins to wait for an answer only
// after it has sent its request, and others subscribe only then. Meanwhile, the connection is read.
func (c *conn) accept(pk packets.Packet) error {
	if c.waiting == nil {
		return c.publish(pk)
	}
	c.waiting <- waiting{pk, time.Now().Add(c.server.service.AnswerDelay())}
	return nil
}

// answerLater begins to answer requests in their order, each when its time comes. Once stop is called, it answers the
// rest without waiting: a device may publish and disconnect.
func (c *conn) answerLater() (stop func()) {
	c.waiting = make(chan waiting, maxWaiting)
	ctx, cancel := context.WithCancel(c.server.ctx)
	var answering sync.WaitGroup
	answering.Go(func() {
		var err error
		for w := range c.waiting {
			select {
			case <-time.After(time.Until(w.due)):
			case <-ctx.Done():
			}
			if err != nil {
				continue // the connection was ended
			}
			if err = c.publish(w.packet); err != nil {
				_ = c.net.Close() // wakes the reader
			}
		}
	})
	return func() {
		cancel()
		close(c.waiting)
		answering.Wait()
	}
}

// publish acknowledges a request, then answers it. An error ends the connection, which is how DPS and IoT Hub answer an
// unknown topic.
func (c *conn) publish(pk packets.Packet) error {
	if code := pk.PublishValidate(0); code != packets.CodeSuccess {
		return code
	}
	r, err := c.user.parseTopic(pk.TopicName)
	if pk.FixedHeader.Qos > maxQoS {
		err = errors.New("neither DPS nor IoT Hub supports QoS 2")
	}
	if err != nil {
		kind := dpssim.KindHub
		if c.user.hub == "" {
			kind = dpssim.KindRegister
		}
		err = fmt.Errorf("the connection was ended: %w", err)
		c.record(kind, "PUBLISH", fmt.Sprintf("%.200s", pk.TopicName), time.Now(), nil, 0, nil, err)
		return err
	}
	if pk.FixedHeader.Qos == 1 {
		if err := c.write(packets.Puback, packets.Packet{PacketID: pk.PacketID}); err != nil {
			return err
		}
	}
	start := time.Now()
	if c.session == nil {
		c.caller.Unreachable = c.unreachable(dpsResponses)
	}
	switch r.topic {
	case registerTopic:
		return c.register(r, pk.Payload)
	case operationTopic:
		status, err := c.server.service.Operation(c.caller, r.operationID)
		return c.answerOperation(r, status, err)
	case twinGetTopic:
		twin, err := c.server.hubs.DeviceTwin(c.user.hub, c.user.deviceID)
		return c.answerTwin(r, "GET", start, nil, http.StatusOK, "", twin, err)
	case twinReportedTopic:
		version, err := c.server.hubs.UpdateReported(c.user.hub, c.user.deviceID, pk.Payload)
		return c.answerTwin(r, "PATCH", start, pk.Payload, http.StatusNoContent, "&$version="+strconv.FormatInt(version, 10), nil, err)
	}
	return nil
}

func (c *conn) register(r request, body []byte) error {
	registration, err := dpssim.ParseRequest(body)
	if err != nil {
		refused, _ := dpssim.Answer(err)
		status, _, problem := delivered(c.caller.Unreachable, refused.Status, nil, err)
		c.record(dpssim.KindRegister, "", "", time.Now(), body, status, nil, problem)
		return c.answerOperation(r, model.RegistrationOperationStatus{}, err)
	}
	status, err := c.server.service.Register(c.caller, registration)
	return c.answerOperation(r, status, err)
}

// answerOperation answers 202 while DPS assigns, 200 when it is done, and with the error otherwise.
func (c *conn) answerOperation(r request, status model.RegistrationOperationStatus, err error) error {
	if err != nil {
		refused, body := dpssim.Answer(err)
		return c.sendJSON(dpsResponses, r.responseTopic(refused.Status, refused.RetryAfter), body)
	}
	code, retryAfter := dpssim.RegisterStatus(status), time.Duration(0)
	if code == http.StatusAccepted {
		retryAfter = c.server.service.RetryAfter()
	}
	return c.sendJSON(dpsResponses, r.responseTopic(code, retryAfter), status)
}

// record puts a call into the journal. The URL of a call to a hub has the form mqtts://{hub}/{deviceId}/{topic}.
func (c *conn) record(kind, method, topic string, start time.Time, request []byte, status int, response []byte, err error) {
	entry := dpssim.Entry{
		Time: model.Time{Time: start}, Kind: kind, Transport: c.caller.Transport, RegistrationID: c.user.registrationID,
		Method: method, Request: dpssim.Mask(request), Status: status, Response: dpssim.Mask(response),
		DurationMS: dpssim.Milliseconds(time.Since(start)),
	}
	if c.user.hub != "" {
		topic = "mqtts://" + c.user.hub + "/" + c.user.deviceID + "/" + topic
	}
	entry.URL = topic
	if err != nil {
		entry.Error = err.Error()
	}
	c.server.service.Record(entry)
}

// answerTwin records and answers a call to a hub. If the device no longer exists on the hub, the connection ends. The
// journal has only an answer that the device receives.
func (c *conn) answerTwin(r request, method string, start time.Time, body []byte, status int, parameters string, twin []byte, err error) error {
	refused := &hub.Error{Status: status}
	if err != nil {
		refused = hub.AsError(err)
	}
	shown, response, problem := delivered(c.unreachable(twinResponses), refused.Status, twin, err)
	c.record(dpssim.KindHub, method, r.topic, start, body, shown, response, problem)
	switch {
	case err == nil:
		return c.send(twinResponses, r.responseTopic(status, 0)+parameters, twin)
	case refused.Status == http.StatusNotFound:
		return err
	}
	return c.sendJSON(twinResponses, r.responseTopic(refused.Status, 0), map[string]string{
		"message":      refused.Code + ": " + refused.Message,
		"trackingId":   uuid.NewString(),
		"timestampUtc": time.Now().UTC().Format(time.RFC3339),
	})
}

// push sends changes of desired properties until either side ends the session, then ends the connection.
func (c *conn) push() {
	for change := range c.session.Desired {
		topic := twinDesiredTopic + "?$version=" + strconv.FormatInt(change.Version, 10)
		if why := c.unreachable(twinDesiredTopic); why != "" {
			c.record(dpssim.KindHub, "PUBLISH", topic, time.Now(), change.Patch, 0, nil, errors.New(why))
			continue
		}
		c.record(dpssim.KindHub, "PUBLISH", topic, time.Now(), change.Patch, 0, nil, nil)
		if err := c.sendChange(topic, change); err != nil {
			c.record(dpssim.KindHub, "PUBLISH", topic, time.Now(), nil, 0, nil, fmt.Errorf("not delivered: %w", err))
			break
		}
	}
	_ = c.net.Close() // wakes the reader
	for range c.session.Desired {
		// The reader closes the session.
	}
}

func (c *conn) sendJSON(prefix, topic string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	return c.send(prefix, topic, data)
}

// send publishes to this device, if it subscribed to prefix#.
func (c *conn) send(prefix, topic string, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	qos, subscribed := c.granted[prefix+"#"]
	if !subscribed {
		return nil
	}
	var id uint16
	if qos > 0 {
		id = c.nextIDLocked()
	}
	return c.publishLocked(topic, body, qos, id, false)
}

// sendChange publishes a change of desired properties. A lasting session keeps it until the device acknowledges it.
func (c *conn) sendChange(topic string, change hub.Desired) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	qos := c.granted[twinDesiredTopic+"#"]
	if qos == 0 {
		return c.publishLocked(topic, change.Patch, 0, 0, false)
	}
	again := change.PacketID != 0
	if c.packetID = max(c.packetID, change.PacketID); !again {
		change.PacketID = c.nextIDLocked()
	}
	c.session.Sent(change)
	return c.publishLocked(topic, change.Patch, qos, change.PacketID, again)
}

func (c *conn) nextIDLocked() uint16 {
	if c.packetID++; c.packetID == 0 {
		c.packetID = 1
	}
	return c.packetID
}

func (c *conn) publishLocked(topic string, body []byte, qos byte, id uint16, again bool) error {
	header := packets.FixedHeader{Type: packets.Publish, Qos: qos, Dup: again}
	return c.writeLocked(packets.Packet{FixedHeader: header, ProtocolVersion: 4, TopicName: topic, Payload: body, PacketID: id})
}

func (c *conn) write(kind byte, pk packets.Packet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pk.FixedHeader.Type, pk.ProtocolVersion = kind, 4
	return c.writeLocked(pk)
}

func (c *conn) writeLocked(pk packets.Packet) error {
	var buffer bytes.Buffer
	if err := encoders[pk.FixedHeader.Type](&pk, &buffer); err != nil {
		return fmt.Errorf("encode a %s: %w", packets.PacketNames[pk.FixedHeader.Type], err)
	}
	if err := c.net.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.net.Write(buffer.Bytes())
	return err
}

// read reads the next packet.
func (c *conn) read() (packets.Packet, error) {
	var header packets.FixedHeader
	first, err := c.reader.ReadByte()
	if err != nil {
		return packets.Packet{}, err
	}
	if err := header.Decode(first); err != nil {
		return packets.Packet{}, err
	}
	if header.Remaining, _, err = packets.DecodeLength(c.reader); err != nil {
		return packets.Packet{}, err
	}
	if header.Remaining > maxPacket {
		return packets.Packet{}, fmt.Errorf("a packet has %d bytes, more than %d", header.Remaining, maxPacket)
	}
	body := make([]byte, header.Remaining)
	if _, err := io.ReadFull(c.reader, body); err != nil {
		return packets.Packet{}, err
	}
	pk := packets.Packet{FixedHeader: header, ProtocolVersion: 4}
	decode, known := decoders[header.Type]
	if !known {
		return pk, fmt.Errorf("a %s is not expected from a client", packets.PacketNames[header.Type])
	}
	return pk, decode(&pk, body)
}

// The packets that a server sends and that it receives.
var (
	encoders = map[byte]func(*packets.Packet, *bytes.Buffer) error{
		packets.Connack: (*packets.Packet).ConnackEncode, packets.Publish: (*packets.Packet).PublishEncode,
		packets.Puback: (*packets.Packet).PubackEncode, packets.Suback: (*packets.Packet).SubackEncode,
		packets.Unsuback: (*packets.Packet).UnsubackEncode, packets.Pingresp: (*packets.Packet).PingrespEncode,
	}
	decoders = map[byte]func(*packets.Packet, []byte) error{
		packets.Connect: (*packets.Packet).ConnectDecode, packets.Publish: (*packets.Packet).PublishDecode,
		packets.Puback: (*packets.Packet).PubackDecode, packets.Subscribe: (*packets.Packet).SubscribeDecode,
		packets.Unsubscribe: (*packets.Packet).UnsubscribeDecode,
		packets.Pingreq:     func(*packets.Packet, []byte) error { return nil },
		packets.Disconnect:  func(*packets.Packet, []byte) error { return nil },
	}
)
