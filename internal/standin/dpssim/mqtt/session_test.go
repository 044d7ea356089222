package mqtt_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

const (
	twinAnswers  = "$iothub/twin/res/#"
	desiredTopic = "$iothub/twin/PATCH/properties/desired/#"
)

// wire is a device that speaks MQTT byte by byte, and so decides what it acknowledges.
type wire struct {
	net.Conn
	t      *testing.T
	reader *bufio.Reader
}

// connectHub connects over a connection. clean is CleanSession; the token is valid for the given time.
func connectHub(t *testing.T, conn net.Conn, clean bool, life time.Duration) (w wire, present bool) {
	t.Helper()
	w = wire{conn, t, bufio.NewReader(conn)}
	w.send(connectPacket(0, func(pk *packets.Packet) {
		pk.Connect.Clean = clean
		pk.Connect.Username = []byte(hubA + "/d/?api-version=2021-04-12")
		pk.Connect.Password = []byte(attest.NewToken(hubA+"/devices/d", deviceKey, time.Now().Add(life), ""))
	}))
	answer := w.receive()
	if answer.FixedHeader.Type != packets.Connack || answer.ReasonCode != 0 {
		t.Fatalf("CONNACK %+v", answer)
	}
	return w, answer.SessionPresent
}

func (w wire) send(data []byte) {
	w.t.Helper()
	if _, err := w.Write(data); err != nil {
		w.t.Fatal(err)
	}
}

func (w wire) subscribe(filter string, qos byte) {
	w.t.Helper()
	var b bytes.Buffer
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, ProtocolVersion: 4, PacketID: 7, Filters: packets.Subscriptions{{Filter: filter, Qos: qos}}}
	if err := pk.SubscribeEncode(&b); err != nil {
		w.t.Fatal(err)
	}
	w.send(b.Bytes())
	if got := w.receive(); got.FixedHeader.Type != packets.Suback || !bytes.Equal(got.ReasonCodes, []byte{qos}) {
		w.t.Fatalf("SUBACK %+v", got)
	}
}

func (w wire) publish(topic, body string, qos byte) {
	w.t.Helper()
	var b bytes.Buffer
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, ProtocolVersion: 4, PacketID: 9, TopicName: topic, Payload: []byte(body)}
	if err := pk.PublishEncode(&b); err != nil {
		w.t.Fatal(err)
	}
	w.send(b.Bytes())
}

func (w wire) acknowledge(id uint16) {
	w.t.Helper()
	w.send([]byte{0x40, 2, byte(id >> 8), byte(id)})
}

// ping returns once the server has read all that was sent before.
func (w wire) ping() {
	w.t.Helper()
	w.send([]byte{0xc0, 0})
	if got := w.receive(); got.FixedHeader.Type != packets.Pingresp {
		w.t.Fatalf("PINGRESP %+v", got)
	}
}

func (w wire) receive() packets.Packet {
	w.t.Helper()
	pk := packets.Packet{ProtocolVersion: 4}
	first, err := w.reader.ReadByte()
	if err == nil {
		err = pk.FixedHeader.Decode(first)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(w.reader); err != nil {
		w.t.Fatal(err)
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(w.reader, body); err != nil {
		w.t.Fatal(err)
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return pk
}

func (w wire) wantChange(body string, id uint16, again bool) {
	w.t.Helper()
	got := w.receive()
	if got.FixedHeader.Type != packets.Publish || string(got.Payload) != body || got.PacketID != id || got.FixedHeader.Dup != again {
		w.t.Errorf("got %s %s as packet %d, again %v, want %s as packet %d, again %v",
			got.TopicName, got.Payload, got.PacketID, got.FixedHeader.Dup, body, id, again)
	}
}

func (f *fixture) change(t *testing.T, desired string) {
	t.Helper()
	if _, err := f.hubs.UpdateTwin(hubA, "d", []byte(`{"properties":{"desired":`+desired+`}}`), false, ""); err != nil {
		t.Fatal(err)
	}
}

// TestLastingSession reconnects as SDKs do to renew a token: with CleanSession=0, and without subscribing again.
func TestLastingSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, listener, stop := servePipesWith(t, dpssim.Config{})
		defer stop()
		f.create(t, "d", `{}`)
		w, present := connectHub(t, listener.dial(), false, time.Hour)
		if present {
			t.Error("the first session is present before it began")
		}
		w.subscribe(twinAnswers, 0)
		w.subscribe(desiredTopic, 1)
		f.change(t, `{"n":1}`)
		w.wantChange(`{"n":1,"$version":2}`, 1, false)
		w.acknowledge(1)
		f.change(t, `{"n":2}`)
		w.wantChange(`{"n":2,"$version":3}`, 2, false) // not acknowledged
		w.ping()
		w.Close()
		synctest.Wait()
		f.change(t, `{"n":3}`) // IoT Hub keeps no change for a device that is not connected

		w, present = connectHub(t, listener.dial(), false, time.Hour)
		if !present {
			t.Error("the session is gone")
		}
		w.wantChange(`{"n":2,"$version":3}`, 2, true)
		w.acknowledge(2)
		w.publish("$iothub/twin/GET/?$rid=1", "", 0)
		if got := w.receive(); got.TopicName != "$iothub/twin/res/200/?$rid=1" {
			t.Errorf("twin: %+v", got)
		}
		f.change(t, `{"n":4}`)
		w.wantChange(`{"n":4,"$version":5}`, 3, false)
		w.acknowledge(3)
		w.ping()
		w.Close()
		synctest.Wait()

		// A clean session ends the lasting one.
		w, present = connectHub(t, listener.dial(), true, time.Hour)
		if present {
			t.Error("a clean session is present")
		}
		w.publish("$iothub/twin/GET/?$rid=2", "", 0)
		w.ping() // and no answer before it
		w.Close()
		synctest.Wait()
		w, present = connectHub(t, listener.dial(), false, time.Hour)
		if present {
			t.Error("the session outlives a clean one")
		}
		w.ping()
		w.Close()
	})
}

// TestSecondConnectionTakesOver leaves to a second connection what the first did not acknowledge.
func TestSecondConnectionTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, listener, stop := servePipesWith(t, dpssim.Config{})
		defer stop()
		f.create(t, "d", `{}`)
		first, _ := connectHub(t, listener.dial(), false, time.Hour)
		defer first.Close()
		first.subscribe(desiredTopic, 1)
		f.change(t, `{"n":1}`)
		first.wantChange(`{"n":1,"$version":2}`, 1, false)
		second, present := connectHub(t, listener.dial(), false, time.Hour)
		defer second.Close()
		if !present {
			t.Error("the session is gone")
		}
		second.wantChange(`{"n":1,"$version":2}`, 1, true)
		if _, err := first.reader.ReadByte(); err == nil {
			t.Error("the first connection goes on")
		}
	})
}

// TestRemovedDeviceHasNoSession creates a device anew, which then has no session.
func TestRemovedDeviceHasNoSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, listener, stop := servePipesWith(t, dpssim.Config{})
		defer stop()
		f.create(t, "d", `{}`)
		w, _ := connectHub(t, listener.dial(), false, time.Hour)
		w.subscribe(desiredTopic, 1)
		w.Close()
		synctest.Wait()
		f.create(t, "d", `{}`)
		w, present := connectHub(t, listener.dial(), false, time.Hour)
		defer w.Close()
		if present {
			t.Error("a new device has the session of the old one")
		}
	})
}

// TestSessionOutlivesTheStandIn reads subscriptions from the state of an earlier process.
func TestSessionOutlivesTheStandIn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	for i := range 2 {
		state, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		hubs := hub.New(state, time.Now)
		if i == 0 {
			f := fixture{hubs: hubs, store: state}
			f.create(t, "d", `{}`)
		}
		session, err := hubs.Connect(hubA, "d", true)
		if err != nil {
			t.Fatal(err)
		}
		if want := i == 1; session.Present != want || (session.Subscriptions[twinAnswers] == 1) != want {
			t.Errorf("process %d: %+v", i+1, session)
		}
		if err := session.Subscribe(map[string]byte{twinAnswers: 1}); err != nil {
			t.Fatal(err)
		}
		session.Close()
		if err := state.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConnectionEndsWithItsToken ends the connection to a hub when the token expires, and says so in the journal.
func TestConnectionEndsWithItsToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, listener, stop := servePipesWith(t, dpssim.Config{})
		defer stop()
		f.create(t, "d", `{}`)
		start := time.Now()
		w, _ := connectHub(t, listener.dial(), true, 90*time.Second)
		defer w.Close()
		if _, err := w.reader.ReadByte(); err == nil || time.Since(start) != 90*time.Second {
			t.Errorf("ended after %v: %v", time.Since(start), err)
		}
		synctest.Wait()
		entries := f.service.Journal(0, 100, dpssim.JournalFilter{}).Entries
		if last := entries[len(entries)-1]; last.Method != "DISCONNECT" || !strings.Contains(last.Error, "the SharedAccessSignature expired at ") {
			t.Errorf("%+v", last)
		}
	})
}

// TestJournalHasOnlyWhatWasDelivered asks without a subscription: there is no answer, and the journal says why.
func TestJournalHasOnlyWhatWasDelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, listener, stop := servePipesWith(t, dpssim.Config{})
		defer stop()
		f.create(t, "d", `{}`)
		device, _ := connectHub(t, listener.dial(), true, time.Hour)
		defer device.Close()
		device.publish("$iothub/twin/GET/?$rid=1", "", 1)
		device.receive() // PUBACK
		device.publish("$iothub/twin/PATCH/properties/reported/?$rid=2", "[]", 0)
		device.ping()
		f.change(t, `{"n":1}`)
		synctest.Wait()
		dps := wire{listener.dial(), t, nil}
		defer dps.Close()
		dps.reader = bufio.NewReader(dps)
		dps.send(connectPacket(0, nil))
		dps.receive()
		dps.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", "{", 0)
		dps.publish("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=1", "", 0)
		dps.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", "{}", 0)
		dps.ping()
		var got []string
		for _, e := range f.service.Journal(0, 100, dpssim.JournalFilter{}).Entries {
			if e.Kind != dpssim.KindConnect && e.Kind != dpssim.KindEffect {
				if e.Status != 0 || e.Response != nil {
					t.Errorf("%s has the answer %d %s", e.Kind, e.Status, e.Response)
				}
				got = append(got, e.Kind+" "+e.Method+": "+e.Error)
			}
		}
		const toHub, toDPS = "not delivered: the device has not subscribed to $iothub/twin/", "not delivered: the device has not subscribed to $dps/registrations/res/#"
		want := []string{
			"hub GET: " + toHub + "res/#",
			"hub PATCH: ArgumentInvalid: properties.reported: ",
			"hub PUBLISH: " + toHub + "PATCH/properties/desired/#",
			"register : 400004 (HTTP 400): The body is not a registration request in JSON",
			"operation : the device's last operation is another; " + toDPS,
			"register : " + toDPS,
		}
		if len(got) != len(want) || !slices.EqualFunc(got, want, strings.HasPrefix) || !strings.HasSuffix(got[1], toHub+"res/#") || !strings.HasSuffix(got[3], toDPS) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestAnswersTakeTime holds back acknowledgement and answer, because the SDK for Java loses what comes at once.
func TestAnswersTakeTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, listener, stop := servePipesWith(t, dpssim.Config{AnswerDelay: 20 * time.Millisecond})
		defer stop()
		f.create(t, "d", `{}`)
		w, _ := connectHub(t, listener.dial(), true, time.Hour)
		defer w.Close()
		w.subscribe(twinAnswers, 0)
		for _, topic := range []string{"$iothub/twin/GET/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=1"} {
			start := time.Now()
			w.publish(topic, `{"fw":1}`, 1)
			for _, kind := range []byte{packets.Puback, packets.Publish} {
				if got := w.receive(); got.FixedHeader.Type != kind || time.Since(start) != 20*time.Millisecond {
					t.Errorf("%s: packet %d after %v", topic, got.FixedHeader.Type, time.Since(start))
				}
			}
		}
	})
}

// A device that subscribes after its request, but before the answer, receives it; and pings are answered meanwhile. One
// that disconnects at once has still sent its request.
func TestRequestsWaitWhileTheConnectionIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, listener, stop := servePipesWith(t, dpssim.Config{AnswerDelay: 20 * time.Millisecond})
		defer stop()
		f.create(t, "d", `{}`)
		w, _ := connectHub(t, listener.dial(), true, time.Hour)
		start := time.Now()
		w.publish("$iothub/twin/GET/?$rid=1", "", 0)
		w.subscribe(twinAnswers, 0)
		if since := time.Since(start); since != 0 {
			t.Errorf("the subscription took %v", since)
		}
		if got := w.receive(); got.FixedHeader.Type != packets.Publish || time.Since(start) != 20*time.Millisecond {
			t.Errorf("packet %d after %v", got.FixedHeader.Type, time.Since(start))
		}
		w.publish("$iothub/twin/PATCH/properties/reported/?$rid=2", `{"fw":2}`, 0)
		w.Close()
		synctest.Wait()
		if twin, err := f.hubs.DeviceTwin(hubA, "d"); err != nil || !strings.Contains(string(twin), `"fw":2`) {
			t.Errorf("twin %s, %v", twin, err)
		}
	})
}
