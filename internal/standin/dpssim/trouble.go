package dpssim

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Trouble is what goes wrong on purpose. The zero value is none. Shares are from 0 to 1. A seeded generator decides
// which calls are hit, so that a run with one device at a time can be repeated.
type Trouble struct {
	Seed    uint64         `json:"seed"`
	Webhook WebhookTrouble `json:"webhook"`
	// Throttle is the share of devices' calls that are answered 429.
	Throttle float64 `json:"throttle"`
	// ThrottleRetryAfter goes with those answers; default 5 s.
	ThrottleRetryAfter Duration `json:"throttleRetryAfter"`
	// Hubs has the state of hubs by host name: [HubUnlinked] or [HubDrained].
	Hubs map[string]string `json:"hubs,omitzero"`
	// DisabledEnrollments and DisabledGroups are treated as if their provisioningStatus were disabled.
	DisabledEnrollments []string `json:"disabledEnrollments,omitzero"`
	DisabledGroups      []string `json:"disabledGroups,omitzero"`
}

// WebhookTrouble concerns the calls of webhooks.
type WebhookTrouble struct {
	// Repeat is the share of calls that are made twice; the second answer counts.
	Repeat float64 `json:"repeat"`
	// Delay is the share of calls that are delayed by DelayFor; default 1 s.
	Delay    float64  `json:"delay"`
	DelayFor Duration `json:"delayFor"`
	// Cut is the share of calls whose answer is lost.
	Cut float64 `json:"cut"`
}

// States of a hub in Trouble.
const (
	// HubUnlinked hubs get no devices, and their devices cannot be read.
	HubUnlinked = "unlinked"
	// HubDrained hubs get no devices; the devices they have can move away with their data.
	HubDrained = "drained"
)

// Duration is a [time.Duration] that is text in JSON, such as "1.5s".
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err == nil && parsed < 0 {
		err = fmt.Errorf("%s is negative", text)
	}
	*d = Duration(parsed)
	return err
}

// ParseTrouble reads Trouble from JSON; an unknown member is an error.
func ParseTrouble(data []byte) (Trouble, error) {
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.DisallowUnknownFields()
	var t Trouble
	if err := decoder.Decode(&t); err != nil {
		return Trouble{}, err
	}
	if decoder.More() {
		return Trouble{}, errors.New("there is more than one JSON value")
	}
	if problems := t.check(); len(problems) > 0 {
		return Trouble{}, problems
	}
	return t, nil
}

func (t Trouble) check() (problems SettingErrors) {
	for _, share := range []struct {
		path  string
		value float64
	}{
		{"webhook.repeat", t.Webhook.Repeat}, {"webhook.delay", t.Webhook.Delay},
		{"webhook.cut", t.Webhook.Cut}, {"throttle", t.Throttle},
	} {
		if !(share.value >= 0 && share.value <= 1) {
			problems.add(share.path, "want a share from 0 to 1, not %v", share.value)
		}
	}
	for hub, state := range t.Hubs {
		problems.oneOf("hubs."+hub, state, HubUnlinked, HubDrained)
	}
	return problems
}

// clone returns a copy that shares nothing, with hubs in lower case.
func (t Trouble) clone() Trouble {
	hubs := make(map[string]string, len(t.Hubs))
	for hub, state := range t.Hubs {
		hubs[strings.ToLower(hub)] = state
	}
	t.Hubs = hubs
	t.DisabledEnrollments = slices.Clone(t.DisabledEnrollments)
	t.DisabledGroups = slices.Clone(t.DisabledGroups)
	return t
}

// troubleMaker holds the trouble in force and decides which calls it hits.
type troubleMaker struct {
	mu     sync.Mutex
	now    Trouble
	random *rand.Rand
}

func (m *troubleMaker) set(t Trouble) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = t.clone()
	m.random = rand.New(rand.NewPCG(t.Seed, 0x9e3779b97f4a7c15))
}

func (m *troubleMaker) get() Trouble {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now.clone()
}

// hit reports whether a call is among the share that is hit.
func (m *troubleMaker) hit(share func(*Trouble) float64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	rate := share(&m.now)
	return rate > 0 && m.random.Float64() < rate
}

func (m *troubleMaker) hub(hostName string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now.Hubs[strings.ToLower(hostName)]
}

func (m *troubleMaker) disabled(e *enrollment) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := m.now.DisabledEnrollments
	if e.isGroup {
		ids = m.now.DisabledGroups
	}
	return slices.ContainsFunc(ids, func(id string) bool { return strings.EqualFold(id, e.id) })
}
