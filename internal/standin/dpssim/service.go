// Package dpssim is a stand-in for Azure DPS: it registers devices as DPS does, calls a custom-allocation webhook as
// DPS calls it, and applies the outcome to stand-ins for IoT hubs. It shares no code with this module's webhook,
// because then it would share its mistakes.
package dpssim

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// Transports, in [Caller].
const (
	TransportHTTP   = "http"
	TransportMQTT   = "mqtt"
	TransportMQTTWS = "mqtt-ws"
)

// Caller is a device that calls, as its transport saw it.
type Caller struct {
	IDScope        string
	RegistrationID string
	SAS            string              // the SharedAccessSignature token, or ""
	Certificates   []*x509.Certificate // of the TLS peer, leaf first
	APIVersion     string
	Transport      string
	// Unreachable is why no answer reaches the device, "" if one does: over MQTT it must subscribe first.
	Unreachable string
}

// Service is the stand-in. Make it with [New].
type Service struct {
	// Enrollments and Groups manage the individual enrollments and the enrollment groups.
	Enrollments, Groups Collection

	config     Config
	store      *store.Store
	hubs       *hub.Registry
	journal    journal
	trouble    troubleMaker
	groupCache groupCache
	client     *http.Client
	calls      chan struct{} // bounds the concurrent calls of webhooks

	registrations, operations window

	// ctx ends with Close and stops the operations, which work counts.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New makes a service on a store, with hubs on the same store, and resumes the registrations that were pending when the
// store was last in use.
func New(config Config, state *store.Store, hubs *hub.Registry) (*Service, error) {
	config = config.withDefaults()
	if err := config.Check(); err != nil {
		return nil, err
	}
	s := &Service{
		config:  config,
		store:   state,
		hubs:    hubs,
		journal: journal{size: config.JournalSize, onEntry: config.OnEntry},
		client:  webhookClient(config.Webhook),
		calls:   make(chan struct{}, config.Webhook.MaxConcurrent),
	}
	s.Enrollments = Collection{
		service: s, bucket: "enrollments", noun: "Enrollment", idField: "registrationId",
		newRecord: func() model.Record { return new(model.IndividualEnrollment) },
	}
	s.Groups = Collection{
		service: s, bucket: "enrollmentGroups", noun: "Enrollment group", idField: "enrollmentGroupId",
		newRecord: func() model.Record { return new(model.EnrollmentGroup) },
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.trouble.set(config.Trouble)
	if err := s.resume(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close stops pending operations where they are. A store in a file keeps what is needed to resume them.
func (s *Service) Close() {
	s.cancel()
	s.work.Wait()
	s.client.CloseIdleConnections()
}

// Config is what the service runs with, including defaults and keys.
func (s *Service) Config() Config { return s.config }

// Trouble is the trouble in force.
func (s *Service) Trouble() Trouble { return s.trouble.get() }

// SetTrouble replaces the trouble in force and restarts the random sequence at its seed.
func (s *Service) SetTrouble(t Trouble) error {
	if err := s.config.checkTrouble(t); err != nil {
		return err
	}
	s.trouble.set(t)
	body, err := json.Marshal(t)
	if err != nil {
		return err
	}
	s.journal.add(Entry{Kind: KindTrouble, Request: body, DPSEffect: "trouble set: " + string(body)})
	return nil
}

// AnswerDelay is how long a device waits for an answer over MQTT.
func (s *Service) AnswerDelay() time.Duration { return s.config.AnswerDelay }

// RetryAfter is how long a device must wait before it polls a pending operation again: whole seconds, at least one.
func (s *Service) RetryAfter() time.Duration { return wholeSeconds(s.scaled(s.config.RetryAfter)) }

func (s *Service) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) / s.config.TimeScale)
}

func wholeSeconds(d time.Duration) time.Duration {
	return time.Duration(max(math.Ceil(d.Seconds()), 1)) * time.Second
}

// wait sleeps for d, scaled, or until the service is closed.
func (s *Service) wait(d time.Duration) error {
	timer := time.NewTimer(s.scaled(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// deviceCall runs a device's call and records it. The call may add to the entry; its error is what the device is
// refused with.
func deviceCall[T any](s *Service, kind string, caller Caller, call func(*Entry) (T, error)) (T, error) {
	start := time.Now()
	entry := Entry{
		Time: model.Time{Time: start}, Kind: kind, Transport: caller.Transport, RegistrationID: caller.RegistrationID,
		Status: http.StatusOK,
	}
	answer, err := call(&entry)
	entry.DurationMS = Milliseconds(time.Since(start))
	if err != nil {
		refusal, body := Answer(err)
		entry.Status, entry.DPSEffect, entry.Error = refusal.Status, refusal.Message, refusal.Detail
		entry.Response = maskedJSON(body)
	} else {
		entry.Response = maskedJSON(answer)
	}
	if caller.Unreachable != "" {
		entry.Status, entry.Response = 0, nil
		entry.Error = strings.TrimPrefix(entry.Error+"; ", "; ") + caller.Unreachable
	}
	s.journal.add(entry)
	return answer, err
}

// Milliseconds is a duration as the journal has it.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
