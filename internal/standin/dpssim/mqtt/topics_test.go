package mqtt

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// These tests are inside the package, because outside it a user name only decides whether a device is admitted.

func TestUsernames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		want user // zero for a refusal
	}{
		// As the SDKs for Node, Python, C and C# spell it.
		{"0ne1/registrations/d-1/api-version=2019-03-31&ClientVersion=azure-iot-provisioning-device%2F1.9.1", user{idScope: "0ne1", registrationID: "d-1", apiVersion: "2019-03-31"}},
		{"0ne1/registrations/d-1/api-version=2021-06-01&ClientVersion=1.15.0", user{idScope: "0ne1", registrationID: "d-1", apiVersion: "2021-06-01"}},
		{"0ne1/registrations/d-1/api-version=2019%2D03-31&ClientVersion=C%23+1", user{idScope: "0ne1", registrationID: "d-1", apiVersion: "2019-03-31"}},
		{"h.azure-devices.net/d/?api-version=2021-04-12&DeviceClientType=x%2F1", user{hub: "h.azure-devices.net", deviceID: "d", apiVersion: "2021-04-12"}},
		{"h.azure-devices.net/a?b/?api-version=1", user{hub: "h.azure-devices.net", deviceID: "a?b", apiVersion: "1"}},
		{"h.azure-devices.net/registrations/?api-version=1", user{hub: "h.azure-devices.net", deviceID: "registrations", apiVersion: "1"}},
		{"h.azure-devices.net/d/module/?api-version=1", user{}},
		{"h.azure-devices.net/d", user{}},
		{"h.azure-devices.net//?api-version=1", user{}},
		{"/d/?api-version=1", user{}},
		{"h.azure-devices.net/d/?DeviceClientType=x", user{}},
		{"0ne1/registrations/d-1", user{}},
		{"0ne1/registrations/d-1/", user{}},
		{"0ne1/registrations//api-version=1", user{}},
		{"/registrations/d/api-version=1", user{}},
		{"0ne1/registrations/d/api-version=%zz", user{}},
		{"", user{}},
	} {
		got, err := parseUsername(test.name)
		if err != nil {
			got = user{}
		}
		if got != test.want || (err == nil) != (test.want != user{}) {
			t.Errorf("%s: got %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
}

func FuzzUsernames(f *testing.F) {
	f.Add("0ne1/registrations/d/api-version=2019-03-31&ClientVersion=x%2F1")
	f.Add("h.azure-devices.net/d/?api-version=2021-04-12")
	f.Add("a/b/?/?c=%41")
	f.Fuzz(func(t *testing.T, name string) {
		u, err := parseUsername(name)
		if err != nil {
			return
		}
		if u.apiVersion == "" {
			t.Error("no api-version")
		}
		switch {
		case u.hub != "":
			if u.idScope+u.registrationID != "" || u.deviceID == "" || strings.Contains(u.deviceID, "/") || !strings.HasPrefix(name, u.hub+"/"+u.deviceID+"/?") {
				t.Errorf("%+v", u)
			}
		case u.deviceID != "" || u.idScope == "" || u.registrationID == "" || strings.ContainsAny(u.idScope+u.registrationID, "/"):
			t.Errorf("%+v", u)
		}
	})
}

func FuzzTopics(f *testing.F) {
	for _, topic := range []string{
		"$dps/registrations/PUT/iotdps-register/?$rid=1&forceRegistration=true",
		"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=a%2Fb&operationId=4.d0",
		"$iothub/twin/GET/?$rid=", "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=2", "devices/d/messages/events/?a=b", "$iothub/methods/res/200/?$rid=1",
	} {
		f.Add(topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		for _, u := range []user{{idScope: "s", registrationID: "d"}, {hub: "h", deviceID: "d"}} {
			r, err := u.parseTopic(topic)
			if err != nil {
				if r != (request{}) {
					t.Errorf("refused, and yet %+v", r)
				}
				continue
			}
			switch r.topic {
			case registerTopic, operationTopic:
				if u.hub != "" || r.topic == operationTopic && r.operationID == "" {
					t.Errorf("%+v at %+v", r, u)
				}
			case twinGetTopic, twinReportedTopic, "":
				if u.hub == "" {
					t.Errorf("%+v at %+v", r, u)
				}
				if r.topic == "" {
					continue
				}
			default:
				t.Errorf("%+v", r)
			}
			if r.rid == "" || !strings.Contains(topic, "="+r.rid) {
				t.Errorf("$rid %q of %q", r.rid, topic)
			}
			answer := r.responseTopic(202, 1500*time.Millisecond)
			path, rest, _ := strings.Cut(answer, "?")
			if !strings.HasSuffix(path, "/res/202/") || !u.maySubscribe(strings.TrimSuffix(path, "202/")+"#") || rest != "$rid="+r.rid+"&retry-after=2" {
				t.Errorf("answer to %q goes to %q", topic, answer)
			}
			if _, err := url.PathUnescape(r.rid); err != nil || strings.Contains(r.rid, "&") {
				t.Errorf("$rid %q", r.rid)
			}
		}
	})
}
