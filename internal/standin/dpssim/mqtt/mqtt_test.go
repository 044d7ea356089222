package mqtt_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/mqtt"
	"github.com/usher-dps/usher/internal/standin/dpssim/pki"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

const (
	hubA    = "contoso-hub-a.azure-devices.net"
	idScope = "0ne00000001"
	// patience is how long a test waits for what must come.
	patience = 20 * time.Second
)

// deviceKey is the key of devices on hubs; groupKey that of the enrollment group at DPS.
var (
	deviceKey = []byte("the key of the device in the tests")
	groupKey  = []byte("the key of the group in the tests")
)

// fixture is a server on two ports of 127.0.0.1, MQTT over TLS and over WebSocket, with a service that has a group of
// devices with keys and one of devices with certificates.
type fixture struct {
	service   *dpssim.Service
	hubs      *hub.Registry
	store     *store.Store
	authority *pki.Authority
	tlsURL    string
	wsURL     string
	server    *mqtt.Server
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureWith(t, store.Memory(), nil)
}

func newFixtureWith(t *testing.T, state *store.Store, change func(*dpssim.Config, *model.EnrollmentGroup)) *fixture {
	t.Helper()
	f := &fixture{store: state}
	f.hubs = hub.New(f.store, time.Now)
	var err error
	if f.authority, err = pki.Load(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(f.authority.DeviceCAFile())
	if err != nil {
		t.Fatal(err)
	}
	config := dpssim.Config{IDScope: idScope, Hubs: []dpssim.LinkedHub{{HostName: hubA}}, RetryAfter: 2500 * time.Millisecond}
	byKey, byCertificate := keyGroup(), model.EnrollmentGroup{EnrollmentGroupID: "x509"}
	byCertificate.Attestation = model.Attestation{Type: model.AttestationX509, X509: &model.X509{
		SigningCertificates: &model.X509Certificates{Primary: &model.X509Certificate{Certificate: string(ca)}},
	}}
	if change != nil {
		change(&config, &byKey)
	}
	if f.service, err = dpssim.New(config, f.store, f.hubs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.service.Close)
	for _, group := range []*model.EnrollmentGroup{&byKey, &byCertificate} {
		if err := f.service.Groups.Put(group.EnrollmentGroupID, group, ""); err != nil {
			t.Fatal(err)
		}
	}
	f.server = mqtt.New(f.service, f.hubs, slog.New(slog.DiscardHandler))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.tlsURL = "ssl://" + listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(tls.NewListener(listener, f.authority.ServerConfig())) }()
	web := httptest.NewUnstartedServer(f.server)
	web.TLS = f.authority.ServerConfig()
	web.StartTLS()
	f.wsURL = "wss://" + web.Listener.Addr().String() + "/$iothub/websocket"
	t.Cleanup(func() {
		f.server.Close()
		if err := <-served; !errors.Is(err, mqtt.ErrClosed) {
			t.Error(err)
		}
		web.Close()
	})
	return f
}

func keyGroup() model.EnrollmentGroup {
	g := model.EnrollmentGroup{EnrollmentGroupID: "keys"}
	g.Attestation = model.Attestation{Type: model.AttestationSymmetricKey, SymmetricKey: &model.SymmetricKey{
		PrimaryKey: base64.StdEncoding.EncodeToString(groupKey),
	}}
	return g
}

// disable makes the service answer every register call with status disabled.
func (f *fixture) disable(t *testing.T) {
	t.Helper()
	if err := f.service.SetTrouble(dpssim.Trouble{DisabledGroups: []string{"keys"}}); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) create(t *testing.T, id, twin string) {
	t.Helper()
	initial := new(model.InitialTwin)
	if err := json.Unmarshal([]byte(twin), initial); err != nil {
		t.Fatal(err)
	}
	identity := model.DeviceIdentity{DeviceID: id, SymmetricKey: &model.SymmetricKey{PrimaryKey: base64.StdEncoding.EncodeToString(deviceKey)}}
	if err := f.store.Update(func(tx *store.Tx) error { return f.hubs.Create(tx, hubA, identity, initial) }); err != nil {
		t.Fatal(err)
	}
}

// login is how a device connects.
type login struct {
	clientID, username, password string
	certificate                  *tls.Certificate
}

func dpsLogin(id string) login {
	return login{
		clientID: id,
		username: idScope + "/registrations/" + id + "/api-version=2019-03-31&ClientVersion=azure-iot-provisioning-device%2F1.9.1",
		password: attest.NewToken(attest.DeviceResource(idScope, id), attest.DeriveKey(groupKey, id), time.Now().Add(time.Hour), attest.KeyNameRegistration),
	}
}

func hubLogin(id string) login {
	return login{
		clientID: id,
		username: hubA + "/" + id + "/?api-version=2021-04-12&DeviceClientType=test%2F1",
		password: attest.NewToken(hubA+"/devices/"+id, deviceKey, time.Now().Add(time.Hour), ""),
	}
}

// message is one PUBLISH that a device received.
type message struct {
	Topic string
	Body  string
	QoS   byte
}

// device is a client of Eclipse Paho.
type device struct {
	paho.Client
	messages chan message
	lost     chan error
}

func (f *fixture) dial(t *testing.T, url string, l login) (*device, byte, error) {
	t.Helper()
	config := &tls.Config{RootCAs: f.authority.Pool(), ServerName: "global.azure-devices-provisioning.net"}
	if l.certificate != nil {
		config.Certificates = []tls.Certificate{*l.certificate}
	}
	d := &device{messages: make(chan message, 200), lost: make(chan error, 1)}
	options := paho.NewClientOptions().AddBroker(url).SetClientID(l.clientID).SetUsername(l.username).SetPassword(l.password).
		SetTLSConfig(config).SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience).
		SetConnectionLostHandler(func(_ paho.Client, err error) { d.lost <- err }).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
			d.messages <- message{m.Topic(), string(m.Payload()), m.Qos()}
		})
	d.Client = paho.NewClient(options)
	token := d.Connect()
	if !token.WaitTimeout(patience) {
		t.Fatal("no CONNACK")
	}
	if token.Error() != nil {
		return nil, token.(*paho.ConnectToken).ReturnCode(), token.Error()
	}
	t.Cleanup(func() { d.Disconnect(0) })
	return d, 0, nil
}

func (f *fixture) connect(t *testing.T, url string, l login) *device {
	t.Helper()
	d, code, err := f.dial(t, url, l)
	if err != nil {
		t.Fatalf("code %d: %v", code, err)
	}
	return d
}

func (d *device) subscribe(t *testing.T, filter string, qos byte) (granted byte) {
	t.Helper()
	token := d.Subscribe(filter, qos, nil)
	if !token.WaitTimeout(patience) {
		t.Fatal("no SUBACK")
	}
	return token.(*paho.SubscribeToken).Result()[filter]
}

func (d *device) publish(t *testing.T, topic, body string, qos byte) {
	t.Helper()
	token := d.Publish(topic, qos, false, body)
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("PUBLISH %s: %v", topic, token.Error())
	}
}

func (d *device) receive(t *testing.T) message {
	t.Helper()
	select {
	case m := <-d.messages:
		return m
	case err := <-d.lost:
		t.Fatalf("the connection was lost: %v", err)
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return message{}
}

// transports runs a test over TLS and over WebSocket.
func transports(t *testing.T, f *fixture, test func(t *testing.T, url, transport string)) {
	for transport, url := range map[string]string{dpssim.TransportMQTT: f.tlsURL, dpssim.TransportMQTTWS: f.wsURL} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			test(t, url, transport)
		})
	}
}

// TestRegistration registers devices whose webhook answers after they polled twice.
func TestRegistration(t *testing.T) {
	t.Parallel()
	released, effects := sync.Map{}, sync.Map{} // channels, by registration ID
	channel := func(m *sync.Map, id string) chan struct{} {
		c, _ := m.LoadOrStore(id, make(chan struct{}))
		return c.(chan struct{})
	}
	webhook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request model.AllocationRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || string(request.DeviceRuntimeContext.Payload) != `{"model":"toaster"}` {
			t.Errorf("the request is %+v, %v", request, err)
		}
		<-channel(&released, request.DeviceRuntimeContext.RegistrationID)
		_, _ = io.WriteString(w, `{"iotHubHostName":"`+hubA+`","payload":{"hello":1}}`)
	}))
	t.Cleanup(webhook.Close)
	f := newFixtureWith(t, store.Memory(), func(c *dpssim.Config, g *model.EnrollmentGroup) {
		g.AllocationPolicy = model.PolicyCustom
		g.CustomAllocationDefinition = &model.CustomAllocationDefinition{WebhookURL: webhook.URL, APIVersion: "2021-10-01"}
		c.Webhook.Timeout = patience
		c.OnEntry = func(e dpssim.Entry) {
			if e.Kind == dpssim.KindEffect {
				close(channel(&effects, e.RegistrationID))
			}
		}
	})
	transports(t, f, func(t *testing.T, url, transport string) {
		for _, qos := range []byte{0, 1} { // the C SDK uses QoS 0
			id := transport + "-" + string('0'+rune(qos))
			d := f.connect(t, url, dpsLogin(id))
			if granted := d.subscribe(t, "$dps/registrations/res/#", qos); granted != qos {
				t.Errorf("granted %d", granted)
			}
			d.publish(t, "$dps/registrations/PUT/iotdps-register/?$rid=1", `{"registrationId":"`+id+`","payload":{"model":"toaster"}}`, qos)
			got := d.receive(t)
			var status model.RegistrationOperationStatus
			if err := json.Unmarshal([]byte(got.Body), &status); err != nil || status.OperationID == "" {
				t.Fatalf("registering: %+v, %v", got, err)
			}
			want := message{"$dps/registrations/res/202/?$rid=1&retry-after=3", `{"operationId":"` + status.OperationID + `","status":"assigning"}`, qos}
			if got != want {
				t.Errorf("registering:\n got %+v\nwant %+v", got, want)
			}
			for _, poll := range []struct{ rid, topic string }{
				{"a-2", "$dps/registrations/res/202/?$rid=a-2&retry-after=3"}, {"a%203", "$dps/registrations/res/202/?$rid=a%203&retry-after=3"}, {"4", "$dps/registrations/res/200/?$rid=4"},
			} {
				if poll.rid == "4" {
					close(channel(&released, id))
					select {
					case <-channel(&effects, id):
					case <-time.After(patience):
						t.Fatal("the registration did not end")
					}
				}
				d.publish(t, "$dps/registrations/GET/iotdps-get-operationstatus/?$rid="+poll.rid+"&operationId="+strings.ReplaceAll(status.OperationID, "-", "%2d"), " ", qos)
				got := d.receive(t)
				if got.Topic != poll.topic || got.QoS != qos {
					t.Errorf("poll %s: %+v", poll.rid, got)
				}
				if poll.rid == "4" && (!strings.Contains(got.Body, `"payload":{"hello":1}`) || !strings.Contains(got.Body, `"assignedHub":"`+hubA+`"`)) {
					t.Errorf("the result: %s", got.Body)
				}
			}
			d.Disconnect(100)
		}
	})
	t.Run("the caller", func(t *testing.T) {
		f.connect(t, f.wsURL, dpsLogin("caller-1"))
		entries := f.service.Journal(0, 1000, dpssim.JournalFilter{RegistrationID: "caller-1"}).Entries
		if len(entries) != 1 || entries[0].Kind != dpssim.KindConnect || entries[0].Transport != dpssim.TransportMQTTWS || entries[0].Status != http.StatusOK {
			t.Errorf("%+v", entries)
		}
	})
}

func TestRegistrationErrors(t *testing.T) {
	t.Parallel()
	state, err := store.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	f := newFixtureWith(t, state, nil)
	trouble := func(change dpssim.Trouble) func() error {
		return func() error { return f.service.SetTrouble(change) }
	}
	d := f.connect(t, f.tlsURL, dpsLogin("d"))
	d.subscribe(t, "$dps/registrations/res/#", 1)
	throttle := dpssim.Trouble{Throttle: 1, ThrottleRetryAfter: dpssim.Duration(5 * time.Second)}
	for _, test := range []struct {
		name, topic, body string
		before            func() error
		wantTopic         string
		code              int
		message           string
	}{
		{"throttled", "$dps/registrations/PUT/iotdps-register/?$rid=1", `{}`, trouble(throttle), "$dps/registrations/res/429/?$rid=1&retry-after=5", 429001, "Operations are being throttled for this tenant."},
		{"no JSON", "$dps/registrations/PUT/iotdps-register/?$rid=2", `{"registrationId":`, trouble(dpssim.Trouble{}), "$dps/registrations/res/400/?$rid=2", 400004, "The body is not a registration request in JSON"},
		{"too long", "$dps/registrations/PUT/iotdps-register/?$rid=6", `{"payload":{"x":"` + strings.Repeat("x", dpssim.MaxMessage) + `"}}`, nil, "$dps/registrations/res/413/?$rid=6", 413000, "The body is longer than 98304 bytes."},
		{"an unknown operation", "$dps/registrations/GET/iotdps-get-operationstatus/?operationId=x&$rid=3", ``, nil, "$dps/registrations/res/404/?$rid=3", 404202, "Operation not found."},
		{"a fault", "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=4&operationId=broken", ``, state.Close, "$dps/registrations/res/500/?$rid=4", 500000, "The stand-in failed"},
	} {
		if test.before != nil {
			if err := test.before(); err != nil {
				t.Fatal(err)
			}
		}
		d.publish(t, test.topic, test.body, 1)
		got := d.receive(t)
		var body model.ErrorBody
		if err := json.Unmarshal([]byte(got.Body), &body); err != nil {
			t.Fatalf("%s: %v in %q", test.name, err, got.Body)
		}
		if got.Topic != test.wantTopic || body.ErrorCode != test.code || !strings.HasPrefix(body.Message, test.message) || body.TrackingID == "" || body.TimestampUTC.IsZero() {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
	// A failing store refuses a CONNECT as a server that is unavailable.
	if _, code, err := f.dial(t, f.tlsURL, dpsLogin("e")); code != 3 || err == nil {
		t.Errorf("CONNECT: code %d, %v", code, err)
	}
}

func TestDisabled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.disable(t)
	d := f.connect(t, f.tlsURL, dpsLogin("d"))
	d.subscribe(t, "$dps/registrations/res/#", 1)
	d.publish(t, "$dps/registrations/PUT/iotdps-register/?$rid=5&forceRegistration=true", ``, 1)
	want := message{"$dps/registrations/res/200/?$rid=5", `{"operationId":"","status":"disabled","registrationState":{"registrationId":"d","status":"disabled"}}`, 1}
	if got := d.receive(t); got != want {
		t.Errorf("disabled:\n got %+v\nwant %+v", got, want)
	}
}

func TestConnectRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, "d", `{}`)
	device, err := f.authority.Devices().Issue("x509-1")
	if err != nil {
		t.Fatal(err)
	}
	with := func(l login, change func(*login)) login {
		change(&l)
		return l
	}
	tests := []struct {
		name string
		code byte
		login
	}{
		{"DPS", 0, dpsLogin("d")},
		{"DPS by certificate", 0, with(dpsLogin("x509-1"), func(l *login) { l.password, l.certificate = "", &device })},
		{"a certificate of another device", 5, with(dpsLogin("x509-2"), func(l *login) { l.password, l.certificate = "", &device })},
		{"DPS, wrong token", 5, with(dpsLogin("d"), func(l *login) { l.password = dpsLogin("e").password })},
		{"DPS, nothing", 5, with(dpsLogin("d"), func(l *login) { l.password = "" })},
		{"DPS, another client ID", 2, with(dpsLogin("d"), func(l *login) { l.clientID = "e" })},
		{"DPS, no api-version", 5, with(dpsLogin("d"), func(l *login) { l.username = idScope + "/registrations/d/ClientVersion=1" })},
		{"a hub", 0, hubLogin("d")},
		{"a hub, an unknown device", 5, hubLogin("e")},
		{"a hub, wrong token", 5, with(hubLogin("d"), func(l *login) { l.password = hubLogin("e").password })},
		{"a hub, a token of DPS", 5, with(hubLogin("d"), func(l *login) { l.password = dpsLogin("d").password })},
		{"a hub, another client ID", 2, with(hubLogin("d"), func(l *login) { l.clientID = "e" })},
		{"a module", 5, with(hubLogin("d"), func(l *login) { l.username = hubA + "/d/module/?api-version=2021-04-12" })},
		{"no user name", 5, login{clientID: "d"}},
		{"another user name", 5, login{clientID: "d", username: "admin", password: "admin"}},
	}
	transports(t, f, func(t *testing.T, url, _ string) {
		for _, test := range tests {
			_, code, err := f.dial(t, url, test.login)
			if code != test.code || (err == nil) != (test.code == 0) {
				t.Errorf("%s: code %d, want %d (%v)", test.name, code, test.code, err)
			}
		}
	})
}

func TestTwin(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	transports(t, f, func(t *testing.T, url, transport string) {
		f.create(t, transport, `{"properties":{"desired":{"state":"ready"}}}`)
		d := f.connect(t, url, hubLogin(transport))
		for filter, qos := range map[string]byte{"$iothub/twin/res/#": 0, "$iothub/twin/PATCH/properties/desired/#": 1, "$iothub/methods/POST/#": 0, "devices/" + transport + "/messages/devicebound/#": 1} {
			if granted := d.subscribe(t, filter, qos); granted != qos {
				t.Errorf("%s: granted %d", filter, granted)
			}
		}
		exchange := func(topic, body, wantTopic, wantBody string) {
			t.Helper()
			d.publish(t, topic, body, 1)
			if got := d.receive(t); got.Topic != wantTopic || got.Body != wantBody {
				t.Errorf("%s:\n got %+v\nwant %s %s", topic, got, wantTopic, wantBody)
			}
		}
		exchange("$iothub/twin/GET/?$rid=1", "", "$iothub/twin/res/200/?$rid=1", `{"desired":{"state":"ready","$version":1},"reported":{"$version":1}}`)
		exchange("$iothub/twin/PATCH/properties/reported/?$rid=2", `{"fw":"1.2.3","old":1}`, "$iothub/twin/res/204/?$rid=2&$version=2", "")
		exchange("$iothub/twin/PATCH/properties/reported/?$rid=3", `{"old":null}`, "$iothub/twin/res/204/?$rid=3&$version=3", "")
		exchange("$iothub/twin/GET/?$rid=4", "", "$iothub/twin/res/200/?$rid=4", `{"desired":{"state":"ready","$version":1},"reported":{"fw":"1.2.3","$version":3}}`)
		d.publish(t, "$iothub/twin/PATCH/properties/reported/?$rid=5", `{"a.b":1}`, 1)
		if got := d.receive(t); got.Topic != "$iothub/twin/res/400/?$rid=5" || !strings.Contains(got.Body, "ArgumentInvalid") {
			t.Errorf("a name with a dot: %+v", got)
		}
		for i, patch := range []string{`{"properties":{"desired":{"state":null,"level":7}}}`, `{"tags":{"not":"told"}}`, `{"properties":{"desired":{"level":8}}}`} {
			if _, err := f.hubs.UpdateTwin(hubA, transport, []byte(patch), false, ""); err != nil {
				t.Fatal(i, err)
			}
		}
		for _, want := range []message{
			{"$iothub/twin/PATCH/properties/desired/?$version=2", `{"level":7,"state":null,"$version":2}`, 1},
			{"$iothub/twin/PATCH/properties/desired/?$version=3", `{"level":8,"$version":3}`, 1},
		} {
			if got := d.receive(t); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		d.publish(t, "devices/"+transport+"/messages/events/$.ct=application%2Fjson", `{"temperature":21}`, 1)
		// The answer to a later request says that the message was taken.
		exchange("$iothub/twin/GET/?$rid=6", "", "$iothub/twin/res/200/?$rid=6", `{"desired":{"level":8,"$version":3},"reported":{"fw":"1.2.3","$version":3}}`)
	})
}

// TestJournal checks what is recorded of the calls between a device and its hub.
func TestJournal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, "d", `{"properties":{"desired":{"state":"ready"}}}`)
	refused := hubLogin("d")
	refused.password = hubLogin("e").password
	if _, code, _ := f.dial(t, f.tlsURL, refused); code != 5 {
		t.Errorf("code %d", code)
	}
	module := hubLogin("d")
	module.username = hubA + "/d/module/?api-version=2021-04-12"
	if _, code, _ := f.dial(t, f.wsURL, module); code != 5 {
		t.Errorf("code %d", code)
	}
	d := f.connect(t, f.wsURL, hubLogin("d"))
	d.subscribe(t, "$iothub/twin/res/#", 0)
	d.subscribe(t, "$iothub/twin/PATCH/properties/desired/#", 0)
	for _, call := range []struct{ topic, body string }{
		{"$iothub/twin/GET/?$rid=1", ""},
		{"$iothub/twin/PATCH/properties/reported/?$rid=2", `{"fw":1,"primaryKey":"c2VjcmV0"}`},
		{"$iothub/twin/PATCH/properties/reported/?$rid=3", `[]`},
	} {
		d.publish(t, call.topic, call.body, 1)
		d.receive(t)
	}
	if _, err := f.hubs.UpdateTwin(hubA, "d", []byte(`{"properties":{"desired":{"level":1}}}`), false, ""); err != nil {
		t.Fatal(err)
	}
	d.receive(t)
	d.publish(t, "devices/other/messages/events/", "{}", 0)
	select {
	case <-d.lost:
	case <-time.After(patience):
		t.Error("the connection goes on")
	}
	f.server.Close() // so that everything is written
	var got []string
	for _, e := range f.service.Journal(0, 100, dpssim.JournalFilter{}).Entries {
		if e.Time.IsZero() || (e.Error != "") != (e.Status >= 400) && e.Method != "PUBLISH" || strings.Contains(string(e.Request), "c2VjcmV0") {
			t.Errorf("%+v", e)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s %s %d %s", e.Kind, e.Transport, e.Method, strings.TrimPrefix(e.URL, "mqtts://"+hubA+"/d/"), e.Request, e.Status, e.Response))
	}
	want := []string{
		`connect mqtt CONNECT   401 `,
		`connect mqtt-ws CONNECT   401 `,
		`connect mqtt-ws CONNECT   200 `,
		`hub mqtt-ws GET $iothub/twin/GET/  200 {"desired":{"state":"ready","$version":1},"reported":{"$version":1}}`,
		`hub mqtt-ws PATCH $iothub/twin/PATCH/properties/reported/ {"fw":1,"primaryKey":"****"} 204 `,
		`hub mqtt-ws PATCH $iothub/twin/PATCH/properties/reported/ [] 400 `,
		`hub mqtt-ws PUBLISH $iothub/twin/PATCH/properties/desired/?$version=2 {"level":1,"$version":2} 0 `,
		`hub mqtt-ws PUBLISH devices/other/messages/events/  0 `,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTwoServicesOneClientID connects a device to DPS and to its hub at the same time, as real SDKs do: neither may end
// the other. A second connection to the hub ends the first.
func TestTwoServicesOneClientID(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, "d", `{}`)
	dps := f.connect(t, f.tlsURL, dpsLogin("d"))
	dps.subscribe(t, "$dps/registrations/res/#", 1)
	first := f.connect(t, f.tlsURL, hubLogin("d"))
	second := f.connect(t, f.wsURL, hubLogin("d"))
	select {
	case <-first.lost:
	case <-time.After(patience):
		t.Fatal("the first connection to the hub goes on")
	}
	second.subscribe(t, "$iothub/twin/res/#", 0)
	second.publish(t, "$iothub/twin/GET/?$rid=1", "", 0)
	if got := second.receive(t); got.Topic != "$iothub/twin/res/200/?$rid=1" {
		t.Errorf("%+v", got)
	}
	dps.publish(t, "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=1", "", 1)
	if got := dps.receive(t); got.Topic != "$dps/registrations/res/404/?$rid=1" {
		t.Errorf("%+v", got)
	}
	if err := f.store.Update(func(tx *store.Tx) error { return f.hubs.Remove(tx, hubA, "d") }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-second.lost:
	case <-time.After(patience):
		t.Fatal("a removed device stays connected")
	}
	if len(dps.messages)+len(second.messages) > 0 {
		t.Error("an answer went to more than the one who asked")
	}
}

// TestAnswersGoToTheCaller sends requests of many devices with the same $rid at once.
func TestAnswersGoToTheCaller(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.disable(t)
	var group sync.WaitGroup
	for i := range 20 {
		id := "device-" + string('a'+rune(i))
		d := f.connect(t, []string{f.tlsURL, f.wsURL}[i%2], dpsLogin(id))
		d.subscribe(t, "$dps/registrations/res/#", 1)
		group.Go(func() {
			for range 5 {
				d.publish(t, "$dps/registrations/PUT/iotdps-register/?$rid=1", "", 1)
				select {
				case m := <-d.messages:
					if !strings.Contains(m.Body, `"`+id+`"`) {
						t.Errorf("%s got %s", id, m.Body)
					}
				case <-time.After(patience):
					t.Errorf("%s got nothing", id)
				}
			}
		})
	}
	group.Wait()
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, "d", `{}`)
	f.disable(t)
	dps, device := f.connect(t, f.tlsURL, dpsLogin("d")), f.connect(t, f.tlsURL, hubLogin("d"))
	for _, filter := range []string{"#", "$dps/#", "$iothub/twin/res/#", "$dps/registrations/res/200/#"} {
		if granted := dps.subscribe(t, filter, 1); granted != 0x80 {
			t.Errorf("DPS granted %s: %d", filter, granted)
		}
	}
	for _, filter := range []string{"#", "$dps/registrations/res/#", "devices/e/messages/devicebound/#", "devices/+/messages/#"} {
		if granted := device.subscribe(t, filter, 1); granted != 0x80 {
			t.Errorf("the hub granted %s: %d", filter, granted)
		}
	}
	if granted := device.subscribe(t, "devices/+/messages/devicebound/#", 1); granted != 1 {
		t.Errorf("the hub granted the wildcard that some SDKs send as %d", granted)
	}
	ask := func(rid string) {
		dps.publish(t, "$dps/registrations/PUT/iotdps-register/?$rid="+rid, "", 1)
	}
	ask("before") // no answer: nothing is subscribed
	if granted := dps.subscribe(t, "$dps/registrations/res/#", 2); granted != 1 {
		t.Errorf("QoS 2 was granted as %d", granted)
	}
	ask("subscribed")
	if got := dps.receive(t); got.Topic != "$dps/registrations/res/200/?$rid=subscribed" {
		t.Errorf("%+v", got)
	}
	if token := dps.Unsubscribe("$dps/registrations/res/#"); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("no UNSUBACK: %v", token.Error())
	}
	ask("after") // no answer
	dps.subscribe(t, "$dps/registrations/res/#", 0)
	ask("again")
	if got, want := dps.receive(t), (message{"$dps/registrations/res/200/?$rid=again", `{"operationId":"","status":"disabled","registrationState":{"registrationId":"d","status":"disabled"}}`, 0}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestUnknownTopics publishes to topics that neither service has: both end the connection.
func TestUnknownTopics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.create(t, "d", `{}`)
	for _, test := range []struct {
		name, topic string
		qos         byte
		login
	}{
		{"another topic at DPS", "$dps/registrations/PUT/other/?$rid=1", 0, dpsLogin("d")},
		{"the hub's topic at DPS", "$iothub/twin/GET/?$rid=1", 0, dpsLogin("d")},
		{"no $rid", "$dps/registrations/PUT/iotdps-register/", 0, dpsLogin("d")},
		{"no operationId", "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1", 0, dpsLogin("d")},
		{"DPS's topic at the hub", "$dps/registrations/PUT/iotdps-register/?$rid=1", 0, hubLogin("d")},
		{"another device's messages", "devices/e/messages/events/", 0, hubLogin("d")},
		{"QoS 2", "$iothub/twin/GET/?$rid=1", 2, hubLogin("d")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := f
			if test.username == hubLogin("d").username {
				f = newFixture(t) // a device has one connection to its hub
				f.create(t, "d", `{}`)
			}
			d := f.connect(t, f.tlsURL, test.login)
			d.Publish(test.topic, test.qos, false, "{}")
			select {
			case <-d.lost:
			case <-time.After(patience):
				t.Error("the connection goes on")
			}
		})
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.authority.Pool()}}}
	defer client.CloseIdleConnections()
	get := func(protocol string) (*http.Response, error) {
		request, err := http.NewRequestWithContext(t.Context(), "GET", strings.Replace(f.wsURL, "wss:", "https:", 1), nil)
		if err != nil {
			return nil, err
		}
		for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			request.Header.Set(name, value)
		}
		if protocol != "" {
			request.Header.Set("Sec-WebSocket-Protocol", protocol)
		}
		return client.Do(request)
	}
	for protocol, want := range map[string]int{"mqtt": 101, "MQTT": 101, "other, Mqtt": 101, "": 400, "amqp": 400} {
		response, err := get(protocol)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("sub-protocol %q: %d, want %d", protocol, response.StatusCode, want)
		}
		if answered := response.Header.Get("Sec-WebSocket-Protocol"); want == 101 && !strings.EqualFold(answered, "mqtt") || want == 101 && !strings.Contains(protocol, answered) {
			t.Errorf("sub-protocol %q is answered by %q", protocol, answered)
		}
	}
}
