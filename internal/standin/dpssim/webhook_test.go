package dpssim_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// TestWebhookAnswers checks DPS's published table, and the stated defaults for what no table has.
func TestWebhookAnswers(t *testing.T) {
	t.Parallel()
	assigned := func(body string) http.HandlerFunc { return answers(http.StatusOK, body) }
	for _, c := range []struct {
		name        string
		answer      http.HandlerFunc
		change      func(*dpssim.Config)
		wantCode    int // 0 for assigned
		wantMessage string
		wantPayload string
	}{
		{"hub", assigned(`{"iotHubHostName":"` + hubB + `"}`), nil, 0, "", ""},
		{"hub in another case", assigned(`{"iotHubHostName":"CONTOSO-HUB-B.azure-devices.net"}`), nil, 0, "", ""},
		{"members in another case, others beside", assigned(`{"IotHubHostName":"` + hubB + `","enrollment":null,"Payload":{"a":1}}`), nil, 0, "", `{"a":1}`},
		{"payload", assigned(`{"iotHubHostName":"` + hubB + `","payload":{"property1":"value1"}}`), nil, 0, "", `{"property1":"value1"}`},
		{"payload that is no object", assigned(`{"iotHubHostName":"` + hubB + `","payload":"text"}`), nil, 0, "", ""},
		{"payload of 96 KB", assigned(`{"iotHubHostName":"` + hubB + `","payload":` + payloadOf(96<<10) + `}`), nil, 0, "", payloadOf(96 << 10)},
		{"payload of more", assigned(`{"iotHubHostName":"` + hubB + `","payload":` + payloadOf(96<<10+1) + `}`), nil, 400207, "the payload is longer than 98304 bytes", ""},
		{"payload of more, as set", assigned(`{"iotHubHostName":"` + hubB + `","payload":` + payloadOf(96<<10+1) + `}`), func(c *dpssim.Config) { c.Behaviour.BadAnswerCode = 400004 }, 400004, "payload", ""},
		{"null twin and payload", assigned(`{"iotHubHostName":"` + hubB + `","initialTwin":null,"payload":null}`), nil, 0, "", ""},
		{"empty hub", assigned(`{"iotHubHostName":""}`), nil, 400208, "names no IoT hub", ""},
		{"null hub", assigned(`{"iotHubHostName":null}`), nil, 400208, "names no IoT hub", ""},
		{"no hub", assigned(`{}`), nil, 400208, "names no IoT hub", ""},
		{"unknown hub", assigned(`{"iotHubHostName":"other.azure-devices.net"}`), nil, 400207, `"other.azure-devices.net" is not one of linkedHubs`, ""},
		{"unknown hub, as set", assigned(`{"iotHubHostName":"other.azure-devices.net"}`), func(c *dpssim.Config) { c.Behaviour.UnknownHubCode = 400004 }, 400004, "linkedHubs", ""},
		{"no JSON", assigned(`<html>`), nil, 400207, "not an AllocationResponse in JSON", ""},
		{"an array", assigned(`[]`), nil, 400207, "not an AllocationResponse in JSON", ""},
		{"null", assigned(`null`), nil, 400207, "not an AllocationResponse in JSON", ""},
		{"nothing", assigned(``), nil, 400207, "not an AllocationResponse in JSON", ""},
		{"too long", assigned(`{"iotHubHostName":"` + hubB + `"}`), func(c *dpssim.Config) { c.Webhook.MaxAnswer = 10 }, 400207, "too long", ""},
		{"201", answers(201, `{"iotHubHostName":"`+hubB+`"}`), nil, 400207, "Custom allocation failed with status code: 201", ""},
		{"201, as set", answers(201, `{"iotHubHostName":"`+hubB+`"}`), func(c *dpssim.Config) { c.Webhook.AcceptAny2xx = true }, 0, "", ""},
		{"204", answers(204, ``), nil, 400207, "Custom allocation failed with status code: 204", ""},
		{"redirect", redirect, nil, 400207, "Custom allocation failed with status code: 307", ""},
		{"redirect, as set", redirect, func(c *dpssim.Config) { c.Webhook.FollowRedirects = true }, 0, "", ""},
		{"400", answers(400, `{"error":"x"}`), nil, 400207, "Custom allocation failed with status code: 400", ""},
		{"401", answers(401, ``), nil, 400209, "Custom allocation failed with status code: 401", ""},
		{"403", answers(403, ``), nil, 400207, "Custom allocation failed with status code: 403", ""},
		{"404", answers(404, ``), nil, 400207, "Custom allocation failed with status code: 404", ""},
		{"428", answers(428, ``), nil, 400207, "Custom allocation failed with status code: 428", ""},
		{"429", answers(429, ``), noRetries, 400207, "Custom allocation failed with status code: 429", ""},
		{"500", answers(500, ``), noRetries, 400207, "Custom allocation failed with status code: 500", ""},
		{"503, as set", answers(503, ``), func(c *dpssim.Config) { noRetries(c); c.Behaviour.RetriesExhaustedCode = 400209 }, 400209, "503", ""},
		{"a twin that the hub refuses", assigned(`{"iotHubHostName":"` + hubB + `","initialTwin":{"tags":{"a.b":1}}}`), nil, 400004, "ArgumentInvalid", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.change)
			r.putGroup(customGroup(nil))
			r.hook.set(c.answer)
			status := r.register(groupDevice("device-1"), model.RegistrationRequest{})
			state := status.RegistrationState
			if c.wantCode == 0 {
				if status.Status != "assigned" || state.Status != "assigned" || state.AssignedHub != hubB || string(state.Payload) != c.wantPayload {
					t.Errorf("got %+v", state)
				}
				return
			}
			if status.Status != "failed" || state.Status != "failed" || state.ErrorCode != c.wantCode || !strings.Contains(state.ErrorMessage, c.wantMessage) {
				t.Errorf("got %+v, want %d %s", state, c.wantCode, c.wantMessage)
			}
			if _, err := r.hubs.Device(hubB, "device-1"); err == nil {
				t.Error("the device is on a hub")
			}
		})
	}
}

// payloadOf is a JSON object of so many bytes.
func payloadOf(size int) string { return `{"a":"` + strings.Repeat("x", size-8) + `"}` }

func redirect(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/elsewhere" {
		_, _ = io.WriteString(w, `{"iotHubHostName":"`+hubB+`"}`)
		return
	}
	w.Header().Set("Location", "/elsewhere")
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func noRetries(c *dpssim.Config) { c.Webhook.Retries = -1 }

// TestWebhookRetries expects eleven calls, after 1, 10, 19 ... 82 seconds, 415 in total.
func TestWebhookRetries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		scale  float64
		want   string
	}{
		{"500", answers(500, ""), 1, "Custom allocation failed with status code: 500"},
		{"429", answers(429, ""), 1, "Custom allocation failed with status code: 429"},
		{"503, sixty times as fast", answers(503, ""), 60, "Custom allocation failed with status code: 503"},
		{"connection broken", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 1, "did not answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(config *dpssim.Config) { config.TimeScale = c.scale })
				r.putGroup(customGroup(nil))
				r.hook.set(c.answer)
				r.SetWebhookTransport(breaking{r.hook})
				start := time.Now()
				caller := groupDevice("device-1")
				status, err := r.Register(caller, model.RegistrationRequest{})
				if err != nil {
					t.Fatal(err)
				}
				scaled := func(d time.Duration) time.Duration { return time.Duration(float64(d) / c.scale) }
				time.Sleep(scaled(415*time.Second) - time.Millisecond)
				synctest.Wait()
				if now, err := r.Operation(caller, status.OperationID); err != nil || now.Status != "assigning" {
					t.Fatalf("before the last call: %+v, %v", now, err)
				}
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				now, err := r.Operation(caller, status.OperationID)
				if err != nil || now.Status != "failed" || now.RegistrationState.ErrorCode != 400207 || !strings.Contains(now.RegistrationState.ErrorMessage, c.want) {
					t.Errorf("at the end: %+v %+v, %v", now, now.RegistrationState, err)
				}
				var waits []time.Duration
				last := start
				for _, at := range r.hook.times {
					waits = append(waits, at.Sub(last))
					last = at
				}
				want := []time.Duration{0}
				for seconds := 1; seconds <= 82; seconds += 9 {
					want = append(want, scaled(time.Duration(seconds)*time.Second))
				}
				if !reflect.DeepEqual(waits, want) {
					t.Errorf("waits %v, want %v", waits, want)
				}
			})
		})
	}
}

// breaking turns a handler's panic into a broken connection.
type breaking struct{ *hook }

func (b breaking) RoundTrip(r *http.Request) (response *http.Response, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("connection reset by peer")
		}
	}()
	return b.hook.RoundTrip(r)
}

// TestWebhookRecovers checks that a retry that succeeds assigns the device.
func TestWebhookRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.putGroup(customGroup(nil))
		statuses := []int{503, 429, 200}
		r.hook.set(func(w http.ResponseWriter, q *http.Request) {
			answers(statuses[r.hook.calls()-1], `{"iotHubHostName":"`+hubC+`"}`)(w, q)
		})
		caller := groupDevice("device-1")
		status, err := r.Register(caller, model.RegistrationRequest{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11*time.Second + time.Millisecond)
		synctest.Wait()
		if now, err := r.Operation(caller, status.OperationID); err != nil || now.Status != "assigned" || now.RegistrationState.AssignedHub != hubC {
			t.Errorf("got %+v, %v", now, err)
		}
		var effects []string
		for _, entry := range r.Journal(0, 100, dpssim.JournalFilter{Kind: dpssim.KindWebhook}).Entries {
			effects = append(effects, fmt.Sprint(entry.Attempt, " ", entry.Status, " ", entry.DPSEffect))
		}
		want := []string{"1 503 call again in 1s (call 2 of 11)", "2 429 call again in 10s (call 3 of 11)", "3 200 assigned to " + hubC}
		if !reflect.DeepEqual(effects, want) {
			t.Errorf("got %q, want %q", effects, want)
		}
	})
}

// TestWebhookTimeout checks that the time limit is 5 s, is not scaled, and is retried as 5xx unless set otherwise.
func TestWebhookTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *dpssim.Config) {
			c.TimeScale = 1000
			c.Behaviour.NoAnswer = dpssim.NoAnswerFails
		})
		r.putGroup(customGroup(nil))
		r.hook.set(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })
		caller := groupDevice("device-1")
		status, err := r.Register(caller, model.RegistrationRequest{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Second - time.Millisecond)
		synctest.Wait()
		if now, _ := r.Operation(caller, status.OperationID); now.Status != "assigning" {
			t.Errorf("before the time-out: %+v", now)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if now, _ := r.Operation(caller, status.OperationID); now.Status != "failed" || r.hook.calls() != 1 {
			t.Errorf("after the time-out: %+v, %d calls", now, r.hook.calls())
		}
		entry := r.Journal(0, 1, dpssim.JournalFilter{Kind: dpssim.KindWebhook}).Entries[0]
		if entry.Error != "no answer within 5s" || entry.Status != 0 || entry.DurationMS != 5000 {
			t.Errorf("journal: %+v", entry)
		}
	})
}

// TestWebhookOverTheNetwork makes one call over a real connection; an error contains nothing from the URL's query.
func TestWebhookOverTheNetwork(t *testing.T) {
	t.Parallel()
	var got *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		got = q
		_, _ = io.WriteString(w, `{"iotHubHostName":"`+hubB+`"}`)
	}))
	t.Cleanup(server.Close)
	r := newRig(t, noRetries)
	r.SetWebhookTransport(http.DefaultTransport)
	r.putGroup(customGroup(func(g *model.EnrollmentGroup) {
		g.CustomAllocationDefinition.WebhookURL = server.URL + "/api/allocate?code=s3cret"
	}))
	caller := groupDevice("device-1")
	if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.AssignedHub != hubB {
		t.Fatalf("got %+v", state)
	}
	if got.Method != http.MethodPost || got.URL.Query().Get("code") != "s3cret" || got.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("got %s %s %v", got.Method, got.URL, got.Header)
	}
	server.Close()
	if state := r.register(caller, model.RegistrationRequest{}).RegistrationState; state.ErrorCode != 400207 {
		t.Errorf("got %+v", state)
	}
	for _, entry := range r.Journal(0, 100, dpssim.JournalFilter{}).Entries {
		if strings.Contains(fmt.Sprintf("%+v %s", entry, entry.Line()), "s3cret") {
			t.Errorf("the journal holds the webhook's code: %+v", entry)
		}
	}
}

// TestInvalidWebhookURL checks that DPS saves any URL and refuses an invalid one when a device registers.
func TestInvalidWebhookURL(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"contoso.example/api", "ftp://contoso.example/", "https://", "https://a b/?code=s3cret"} {
		r := newRig(t, nil)
		r.putGroup(customGroup(func(g *model.EnrollmentGroup) { g.CustomAllocationDefinition.WebhookURL = target }))
		state := r.register(groupDevice("device-1"), model.RegistrationRequest{}).RegistrationState
		if state.ErrorCode != 400207 || !strings.Contains(state.ErrorMessage, "webhookUrl") || strings.Contains(state.ErrorMessage, "s3cret") {
			t.Errorf("%s: %+v", target, state)
		}
	}
}

// newWebhook serves a webhook that always names one hub, and returns its URL.
func newWebhook(t *testing.T, hubName string) string {
	t.Helper()
	server := httptest.NewServer(answers(http.StatusOK, `{"iotHubHostName":"`+hubName+`"}`))
	t.Cleanup(server.Close)
	return server.URL
}
