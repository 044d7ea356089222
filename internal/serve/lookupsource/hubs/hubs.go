// Package hubs is the source of lookup.hub: how many devices each hub has, whether there is room for more, and whether
// the operator drains it or says that it is down.
//
// A hub is full from its limit on, until its devices fall below 98 % of it, so that single deletions do not open and
// close it in turn. Set the limit below IoT Hub's own of 1,000,000 devices and modules, because a count is old when it
// is used: an instance counts once a minute, with jitter 66 s apart, and takes up to 10 s. In this time one DPS instance
// registers 1,267 devices (1,000 a minute, its quota), and all of them may go to one hub. While a hub cannot be counted,
// the last count is used for a quarter of an hour: 15,000 devices for each DPS instance.
package hubs

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/sharedaccess"
	"github.com/usher-dps/usher/lookup"
)

// Bounds of the settings.
const (
	// DefaultLimit is how many devices and modules IoT Hub lets a hub have. Source:
	// https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-quotas-throttling
	DefaultLimit = 1_000_000

	DefaultPoll = time.Minute
	MinPoll     = time.Second
	MaxPoll     = 10 * time.Minute // below lookups.HubStaleFor, or each hub would be unknown between two counts
)

// startTimeout is how long a start waits for the first counts.
const startTimeout = 5 * time.Second

const justStarted = "this takes a moment after a start"

// State is what a hub is ready for.
type State string

// The states of hubs. The operator's table has the first three.
const (
	Open    State = "open"
	Drain   State = "drain" // gets no devices, and gives up its own as they register again
	Down    State = "down"
	Unknown State = "unknown" // open, but its devices could not be counted for long
)

// Hub is a hub as the settings name it.
type Hub struct {
	Host string
	// Gateway is the address that answers in place of Host, with its certificate; usually empty.
	Gateway string
	// Key signs requests to the hub. Without one, Options.Credential is used.
	Key sharedaccess.Key
}

var hostName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*(\.device)?\.azure-devices\.(net|us|cn)$`)

// ParseHubs reads a list of hubs with commas between them: host names, and connection strings. Its errors quote nothing
// of a connection string.
func ParseHubs(text string) ([]Hub, error) {
	var hubs []Hub
	names := map[string]bool{}
	for i, part := range strings.Split(text, ",") {
		hub := Hub{Host: strings.TrimSpace(part)}
		problem := func(format string, args ...any) ([]Hub, error) {
			return nil, fmt.Errorf("hub %d: "+format, append([]any{i + 1}, args...)...)
		}
		if strings.Contains(part, "=") {
			c, err := sharedaccess.Parse(part)
			if err != nil {
				return problem("%w", err)
			}
			hub = Hub(c)
		}
		name := dps.HubName(hub.Host)
		switch {
		case !hostName.MatchString(name):
			return problem("not the host name of a hub, such as contoso-eu.azure-devices.net, and not a connection string")
		case names[name]:
			return problem("%s is there twice", name)
		}
		names[name] = true
		hubs = append(hubs, hub)
	}
	return hubs, nil
}

// Options configure a [Source].
type Options struct {
	// Hubs are the only hosts that get a token. Required.
	Hubs []Hub
	// Limit is the number of devices at which a hub is full, unless the table has another for it; 0 means DefaultLimit.
	Limit int64
	// Poll is how often devices are counted; 0 means DefaultPoll.
	Poll time.Duration
	// Table is the operator's table of states: a file, or the URL of a blob. Empty means that there is none.
	Table string
	// Credential returns an Azure identity when one is first needed.
	Credential func() (azcore.TokenCredential, error)
	// Roots are the authorities that hubs are trusted by; nil means those of the system.
	Roots *x509.CertPool
	// Transport reaches hubs and the table; nil means Go's own.
	Transport http.RoundTripper
	// Log gets a line for each change; nil discards them.
	Log *slog.Logger
}

// Source has the states of hubs. Call [Source.Start] first, then [Source.Run].
type Source struct {
	log    *slog.Logger
	hubs   []*hub
	byName map[string]*hub // by host name and by first label
	table  *keeper         // nil if there is none
}

// New returns a source that has counted nothing yet.
func New(options Options) (*Source, error) {
	if len(options.Hubs) == 0 {
		return nil, errors.New("no hubs")
	}
	s := &Source{log: options.Log, byName: map[string]*hub{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if options.Table != "" {
		var err error
		if s.table, err = newKeeper(options, s.log); err != nil {
			return nil, err
		}
	}
	limit := cmp.Or(options.Limit, DefaultLimit)
	requests := newCounter(options)
	for _, named := range options.Hubs {
		h := &hub{
			name: dps.HubName(named.Host), log: s.log, pipeline: requests.pipeline(named), poll: cmp.Or(options.Poll, DefaultPoll),
			started: time.Now(), defaultLimit: limit, limit: limit,
		}
		h.log = s.log.With("hub", h.name)
		s.hubs = append(s.hubs, h)
		s.byName[h.name] = h
	}
	labels := map[string]int{}
	for _, h := range s.hubs {
		labels[h.label()]++
	}
	for _, h := range s.hubs {
		if labels[h.label()] == 1 { // of two clouds' hubs with one label, neither has it
			s.byName[h.label()] = h
		}
	}
	return s, nil
}

// Start counts the devices of all hubs and reads the table, once and for at most 5 s. What fails is logged, and tried
// again by [Source.Run].
func (s *Source) Start(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.table != nil { // first: a hub that is down need not be counted, and no one need be told about it
		s.refresh(ctx)
	}
	var all sync.WaitGroup
	for _, h := range s.hubs {
		all.Go(func() { h.count(ctx) })
	}
	all.Wait()
}

// Run counts devices and reads the table again and again until ctx ends.
func (s *Source) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, h := range s.hubs {
		all.Go(func() { repeat(ctx, h.wait, func() { h.count(ctx) }) })
	}
	if s.table != nil {
		all.Go(func() { repeat(ctx, s.table.wait, func() { s.refresh(ctx) }) })
	}
	all.Wait()
}

func repeat(ctx context.Context, wait func() time.Duration, act func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait()):
			act()
		}
	}
}

// refresh reads the table, and puts a new one into effect.
func (s *Source) refresh(ctx context.Context) {
	t, ok := s.table.read(ctx, s.byName)
	if !ok {
		return
	}
	for _, h := range s.hubs {
		h.set(ctx, t[h.name])
	}
}

// Find returns the state of a hub by its host name or first label. It waits for nothing.
func (s *Source) Find(_ context.Context, key string) (lookup.Answer, error) {
	h := s.byName[dps.HubName(key)]
	if h == nil {
		return lookup.Answer{}, nil
	}
	version := ""
	if s.table != nil {
		if version = s.table.version(); version == "" {
			return lookup.Answer{}, fmt.Errorf("the table of hubs was never read: %s", cmp.Or(s.table.status().Failure, justStarted))
		}
	}
	answer, err := h.find(time.Now())
	answer.Version = version
	return answer, err
}

// HubStatus describes a hub.
type HubStatus struct {
	Name    string
	State   State
	Limit   int64
	Devices int64
	Full    bool
	// Counted is when Devices was read; zero if that never succeeded.
	Counted time.Time
	// Failures counts the attempts that failed since the start. Failure is why the last one did; empty if it did not.
	Failures uint64
	Failure  string
}

// TableStatus describes the operator's table.
type TableStatus struct {
	Location string // without anything that could be secret; empty if there is no table
	Version  string // digest of the table in effect; empty if there never was one
	Failures uint64 // attempts to read it that failed, and tables that were refused
	Failure  string // why it could not be read, or is not in effect; empty if it is
}

// Status describes all hubs, in the order of the settings, and the table.
func (s *Source) Status() ([]HubStatus, TableStatus) {
	hubs := make([]HubStatus, len(s.hubs))
	for i, h := range s.hubs {
		hubs[i] = h.status(time.Now())
	}
	if s.table == nil {
		return hubs, TableStatus{}
	}
	return hubs, s.table.status()
}

// State returns the version of the table in effect, and the time of the oldest count that rules get; zero if there is
// none.
func (s *Source) State() (version string, asOf time.Time) {
	hubs, table := s.Status()
	for _, h := range hubs {
		if h.State != Down && !h.Counted.IsZero() && (asOf.IsZero() || h.Counted.Before(asOf)) {
			asOf = h.Counted
		}
	}
	return table.Version, asOf
}

// A hub is full until its devices fall below openBelow percent of its limit.
const openBelow = 98

// hub is one hub, and what is known of it.
type hub struct {
	name         string
	log          *slog.Logger
	pipeline     pipeline
	poll         time.Duration
	started      time.Time
	defaultLimit int64

	mu       sync.Mutex
	entry    Entry
	limit    int64
	devices  int64
	counted  time.Time
	full     bool
	failures uint64
	failure  string
	retry    time.Duration // how long to wait after the next failure
	asked    time.Duration // how long the hub asked us to wait
}

func (h *hub) label() string {
	label, _, _ := strings.Cut(h.name, ".")
	return label
}

// fresh reports whether the last count is still of use.
func (h *hub) fresh(now time.Time) bool {
	return !h.counted.IsZero() && now.Sub(h.counted) <= lookups.HubStaleFor
}

// state is that of the table, unless the hub would be open and its devices cannot be counted.
func (h *hub) state(now time.Time) State {
	state := cmp.Or(h.entry.State, Open)
	if state == Open && !h.fresh(now) && now.Sub(h.started) > lookups.HubStaleFor {
		return Unknown
	}
	return state
}

func (h *hub) find(now time.Time) (lookup.Answer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	state := h.state(now)
	if state == Open && h.counted.IsZero() {
		return lookup.Answer{}, fmt.Errorf("the devices of %s were never counted: %s", h.name, cmp.Or(h.failure, justStarted))
	}
	number := func(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }
	answer := lookup.Answer{Row: map[string]any{"name": h.name, "state": string(state), "limit": number(h.limit)}}
	if h.entry.Note != "" {
		answer.Row["note"] = h.entry.Note
	}
	if h.fresh(now) {
		answer.AsOf = h.counted
		answer.Row["devices"], answer.Row["room"], answer.Row["full"] = number(h.devices), number(max(h.limit-h.devices, 0)), h.full
	}
	return answer, nil
}

func (h *hub) status(now time.Time) HubStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return HubStatus{h.name, h.state(now), h.limit, h.devices, h.full, h.counted, h.failures, h.failure}
}

// set puts an entry of the operator's table into effect.
func (h *hub) set(ctx context.Context, entry Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := cmp.Or(h.entry.State, Open)
	h.entry, h.limit = entry, h.defaultLimit
	if entry.Limit != nil {
		h.limit = *entry.Limit
	}
	if now := cmp.Or(entry.State, Open); now != before {
		h.log.WarnContext(ctx, "hub state changed", "state", now, "before", before, "note", entry.Note)
	}
	h.settle(ctx)
}

// settle works out whether the hub is full.
func (h *hub) settle(ctx context.Context) {
	if h.counted.IsZero() {
		return
	}
	full := h.devices >= h.limit
	if h.full && !full {
		full = h.devices*100 >= h.limit*openBelow
	}
	if full == h.full {
		return
	}
	h.full = full
	if full {
		h.log.WarnContext(ctx, "hub full", "devices", h.devices, "limit", h.limit)
	} else {
		h.log.InfoContext(ctx, "hub has room again", "devices", h.devices, "limit", h.limit)
	}
}

var _ lookup.Source = (*Source)(nil)
