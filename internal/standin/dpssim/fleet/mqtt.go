package fleet

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

const (
	badCredentials = 4 // codes of CONNACK
	notAuthorized  = 5
	keepAlive      = 30 * time.Minute

	topicRegister  = "$dps/registrations/PUT/iotdps-register/?$rid="
	topicOperation = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid="
	topicResponse  = "$dps/registrations/res/"
)

// mqttSession is a device that registers over MQTT, one request at a time.
type mqttSession struct {
	client    paho.Client
	responses chan paho.Message
	lost      chan error
	request   int // number of the last request
}

// dialMQTT connects a device. The connection ends with ctx.
func dialMQTT(ctx context.Context, d device, config *tls.Config, token string) (session, error) {
	m := &mqttSession{responses: make(chan paho.Message, 8), lost: make(chan error, 1)}
	username := d.options.IDScope + "/registrations/" + d.id + "/api-version=" + apiVersion + "&ClientVersion=" + url.QueryEscape(userAgent)
	m.client = paho.NewClient(paho.NewClientOptions().
		AddBroker("tls://" + d.options.Address).
		SetProtocolVersion(4).
		SetClientID(d.id).SetUsername(username).SetPassword(token).
		SetAutoReconnect(false).SetKeepAlive(keepAlive).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
			conn, err := d.dial(ctx, config)
			if err == nil {
				context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		}).
		SetDefaultPublishHandler(func(_ paho.Client, message paho.Message) { m.responses <- message }).
		SetConnectionLostHandler(func(_ paho.Client, err error) { m.lost <- err }))
	connect := m.client.Connect().(*paho.ConnectToken)
	if err := m.await(ctx, connect); err != nil {
		// HTTP refuses the same devices with 401002. DPS has a code for no other refusal of a CONNECT.
		if code := connect.ReturnCode(); code == badCredentials || code == notAuthorized {
			err = result{kind: refused, code: 401002, message: fmt.Sprintf("CONNECT refused with code %d", code)}
		}
		return nil, err
	}
	if err := m.await(ctx, m.client.Subscribe(topicResponse+"#", 1, nil)); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// await waits for the end of an operation of the client.
func (m *mqttSession) await(ctx context.Context, token paho.Token) error {
	select {
	case <-token.Done():
		return token.Error()
	case err := <-m.lost:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *mqttSession) register(ctx context.Context, body []byte) (answer, error) {
	return m.call(ctx, topicRegister, "", body)
}

func (m *mqttSession) operation(ctx context.Context, id string) (answer, error) {
	return m.call(ctx, topicOperation, "&operationId="+id, []byte(" "))
}

func (m *mqttSession) call(ctx context.Context, topic, parameters string, body []byte) (answer, error) {
	m.request++
	rid := strconv.Itoa(m.request)
	m.client.Publish(topic+rid+parameters, 1, false, body) // the response says that it arrived
	for {
		select {
		case message := <-m.responses:
			response, answered, err := parseResponse(message.Topic())
			if err != nil || answered == rid {
				response.body = message.Payload()
				return response, err
			}
		case err := <-m.lost:
			return answer{}, err
		case <-ctx.Done():
			return answer{}, context.Cause(ctx)
		}
	}
}

// parseResponse reads $dps/registrations/res/202/?$rid=1&retry-after=3.
func parseResponse(topic string) (response answer, rid string, err error) {
	rest, ok := strings.CutPrefix(topic, topicResponse)
	status, query, found := strings.Cut(rest, "/?")
	if !ok || !found {
		return answer{}, "", fmt.Errorf("topic %q is not an answer of DPS", topic)
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

func (m *mqttSession) close() { m.client.Disconnect(0) }
