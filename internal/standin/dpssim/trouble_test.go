package dpssim_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

func (r *rig) setTrouble(document string) {
	r.t.Helper()
	trouble, err := dpssim.ParseTrouble([]byte(document))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.SetTrouble(trouble); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) webhookEntries() []dpssim.Entry {
	return r.Journal(0, 1000, dpssim.JournalFilter{Kind: dpssim.KindWebhook}).Entries
}

func TestTroubleRepeatsCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.putGroup(customGroup(nil))
	r.setTrouble(`{"webhook":{"repeat":1}}`)
	hubs := []string{hubA, hubB}
	r.hook.set(func(w http.ResponseWriter, q *http.Request) {
		answers(200, `{"iotHubHostName":"`+hubs[r.hook.calls()-1]+`"}`)(w, q)
	})
	state := r.register(groupDevice("device-1"), model.RegistrationRequest{}).RegistrationState
	if state.AssignedHub != hubB || r.hook.calls() != 2 {
		t.Errorf("%d calls, %+v: the second answer counts", r.hook.calls(), state)
	}
	if string(r.hook.requests[0]) != string(r.hook.requests[1]) {
		t.Error("the two requests differ")
	}
	entries := r.webhookEntries()
	if len(entries) != 2 || entries[0].Repeated || !entries[1].Repeated || entries[0].Attempt != 1 || entries[1].Attempt != 1 {
		t.Errorf("journal: %+v", entries)
	}
}

func TestTroubleCutsAndDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.putGroup(customGroup(nil))
		r.setTrouble(`{"webhook":{"cut":1,"delay":1,"delayFor":"3s"}}`)
		caller := groupDevice("device-1")
		start := time.Now()
		status, err := r.Register(caller, model.RegistrationRequest{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*time.Second + time.Millisecond)
		synctest.Wait()
		if now, _ := r.Operation(caller, status.OperationID); now.Status != "assigning" {
			t.Errorf("the answer that was lost counts: %+v", now)
		}
		if r.hook.calls() != 1 || r.hook.times[0].Sub(start) != 3*time.Second {
			t.Errorf("called at %v", r.hook.times)
		}
		if entries := r.webhookEntries(); len(entries) != 1 || !strings.Contains(entries[0].Error, "lost") || entries[0].Status != 200 {
			t.Errorf("journal: %+v", entries)
		}
		r.setTrouble(`{}`)
		time.Sleep(time.Second)
		synctest.Wait()
		if now, _ := r.Operation(caller, status.OperationID); now.Status != "assigned" {
			t.Errorf("after the trouble: %+v", now)
		}
	})
}

func TestTroubleThrottles(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.putGroup(customGroup(nil))
	r.setTrouble(`{"throttle":1,"throttleRetryAfter":"7s"}`)
	caller := groupDevice("device-1")
	_, err := r.Register(caller, model.RegistrationRequest{})
	if refusal := refused(t, err, 429001); refusal.RetryAfter != 7*time.Second || refusal.Status != 429 {
		t.Errorf("got %+v", refusal)
	}
	_, err = r.Operation(caller, "4.x.y")
	refused(t, err, 429001)
}

// TestTroubleIsSeeded checks that the same seed causes the same trouble.
func TestTroubleIsSeeded(t *testing.T) {
	t.Parallel()
	run := func(seed int) (refusals []int) {
		r := newRig(t, nil)
		r.putGroup(customGroup(nil))
		r.setTrouble(fmt.Sprintf(`{"seed":%d,"throttle":0.3}`, seed))
		for i := range 100 {
			if _, err := r.Register(groupDevice(fmt.Sprint("d", i)), model.RegistrationRequest{}); err != nil {
				refused(t, err, 429001)
				refusals = append(refusals, i)
			}
		}
		return refusals
	}
	first, again, other := run(1), run(1), run(2)
	if !reflect.DeepEqual(first, again) || reflect.DeepEqual(first, other) || len(first) < 10 || len(first) > 60 {
		t.Errorf("seed 1: %v and %v, seed 2: %v", first, again, other)
	}
}

func TestParseTrouble(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]string{
		`{"webhook":{"repeat":1.5}}`:            "webhook.repeat: want a share from 0 to 1, not 1.5",
		`{"throttle":-0.1}`:                     "throttle: want a share from 0 to 1, not -0.1",
		`{"webhook":{"delayFor":"soon"}}`:       "soon",
		`{"webhook":{"delayFor":"-1s"}}`:        "negative",
		`{"hubs":{"h.azure-devices.net":"on"}}`: `want unlinked or drained, not "on"`,
		`{"throtle":1}`:                         "throtle",
		`{} {}`:                                 "more than one",
		``:                                      "EOF",
	} {
		if _, err := dpssim.ParseTrouble([]byte(document)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", document, err, want)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	hubs := []dpssim.LinkedHub{{HostName: hubA}}
	for want, config := range map[string]dpssim.Config{
		"hubs: link at least one":                                  {},
		"hubs[0]: the hub's name is missing":                       {Hubs: []dpssim.LinkedHub{{}}},
		"hubs[1]: CONTOSO-HUB-A.azure-devices.net is linked twice": {Hubs: []dpssim.LinkedHub{{HostName: hubA}, {HostName: "CONTOSO-HUB-A.azure-devices.net"}}},
		"hubs[0]: the weight of":                                   {Hubs: []dpssim.LinkedHub{{HostName: hubA, Weight: -1}}},
		"certificates[0]: a CA certificate needs a name":           {Hubs: hubs, Certificates: []dpssim.CACertificate{{}}},
		"timeScale": {Hubs: hubs, TimeScale: -1},
		`allocationPolicy: want hashed or geoLatency, not "custom"`: {Hubs: hubs, AllocationPolicy: "custom"},
		"behaviour.noAnswer":         {Hubs: hubs, Behaviour: dpssim.Behaviour{NoAnswer: "x"}},
		"behaviour.concurrent":       {Hubs: hubs, Behaviour: dpssim.Behaviour{Concurrent: "x"}},
		"behaviour.devicePayload":    {Hubs: hubs, Behaviour: dpssim.Behaviour{DevicePayload: "x"}},
		"behaviour.csrWithoutPolicy": {Hubs: hubs, Behaviour: dpssim.Behaviour{CSRWithoutPolicy: "x"}},
		"behaviour.unsetReprovision": {Hubs: hubs, Behaviour: dpssim.Behaviour{UnsetReprovision: "x"}},
		"behaviour.sameHubSubstatus": {Hubs: hubs, Behaviour: dpssim.Behaviour{SameHubSubstatus: "x"}},
		`not "x.azure-devices.net"`:  {Hubs: hubs, Trouble: dpssim.Trouble{Hubs: map[string]string{"x.azure-devices.net": "drained"}}},
		"trouble.webhook.cut":        {Hubs: hubs, Trouble: dpssim.Trouble{Webhook: dpssim.WebhookTrouble{Cut: 2}}},
	} {
		if _, err := dpssim.New(config, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
