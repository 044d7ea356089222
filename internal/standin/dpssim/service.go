// Package dpssim is a stand-in for Azure DPS: it registers devices as DPS does,
// asks a custom-allocation webhook as DPS asks it, and shows what came of it on
// stand-ins for IoT hubs. It shares no code with the webhook of this module, for
// then it would share its mistakes.
package dpssim

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"math"
	"net/http"
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
	ClientVersion  string
	Transport      string
	// ForceRegistration is what the device asked for; DPS registers anyway.
	ForceRegistration bool
}

// Service is the stand-in. Make it with [New].
type Service struct {
	config     Config
	store      *store.Store
	hubs       *hub.Registry
	journal    journal
	trouble    troubleMaker
	groupCache groupCache
	client     *http.Client
	calls      chan struct{} // bounds calls of webhooks at once

	registrations, operations window

	// ctx ends with Close, and with it the operations, which work counts.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New makes the service of a store, with hubs over the same store, and goes on
// with the registrations that were pending when the store was last in use.
func New(config Config, state *store.Store, hubs *hub.Registry) (*Service, error) {
	config = config.withDefaults()
	if err := config.check(); err != nil {
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
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.trouble.set(config.Trouble)
	if err := s.resume(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends pending operations where they are; a store in a file has what it
// needs to go on with them.
func (s *Service) Close() {
	s.cancel()
	s.work.Wait()
	s.client.CloseIdleConnections()
}

// Config is what the service runs with, defaults filled in, keys included.
func (s *Service) Config() Config { return s.config }

// Trouble is what goes wrong on purpose at the moment.
func (s *Service) Trouble() Trouble { return s.trouble.get() }

// SetTrouble changes what goes wrong from now on. A seed starts the chances anew.
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

// RetryAfter is what a pending operation's answer tells the device to wait: whole
// seconds, at least one.
func (s *Service) RetryAfter() time.Duration { return wholeSeconds(s.scaled(s.config.RetryAfter)) }

func (s *Service) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) / s.config.TimeScale)
}

func wholeSeconds(d time.Duration) time.Duration {
	return time.Duration(max(math.Ceil(d.Seconds()), 1)) * time.Second
}

// wait sleeps for d, scaled, or until the context ends.
func (s *Service) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(s.scaled(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finishEntry fills in what all calls of devices have.
func (s *Service) finishEntry(entry *Entry, start time.Time, answer any, err error) {
	entry.Time = model.Time{Time: start}
	entry.DurationMS = milliseconds(time.Since(start))
	if err != nil {
		refusal, body := Answer(err)
		entry.Status, answer = refusal.Status, body
		entry.DPSEffect = refusal.Message
		entry.Error = refusal.Detail
	}
	if answer != nil {
		if body, err := json.Marshal(answer); err == nil {
			entry.Response = Mask(body)
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
