package dpssim

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Config is what a [Service] is set up with. Zero fields take the defaults that
// are named here; docs/dps-behaviours.md lists those that stand for what nobody
// has published about DPS.
type Config struct {
	IDScope string // default 0ne00000000
	// Name is the first label of the service's host name,
	// Name.azure-devices-provisioning.net; default usher.
	Name string
	Hubs []LinkedHub
	// AllocationPolicy is that of enrollments without one: hashed (default) or geoLatency.
	AllocationPolicy string
	// Policies are the shared access policies of the service API. Default: one,
	// provisioningserviceowner, with random keys; [Service.Config] tells them.
	Policies []AccessPolicy
	// Certificates are the CA certificates that groups name in caReferences. DPS
	// asks for proof of possession before it takes one as verified; these are
	// taken as verified.
	Certificates []CACertificate

	Webhook   Webhook
	Behaviour Behaviour
	Quota     Quota
	Trouble   Trouble

	// RetryAfter is what devices are told to wait between polls; default 2 s.
	RetryAfter time.Duration
	// TimeScale shortens waits between calls of the webhook, windows of quotas and
	// RetryAfter: 60 makes a minute last a second. Default 1. The webhook's
	// time-out is not scaled, for the webhook is not quicker.
	TimeScale float64
	// JournalSize is how many entries are kept in memory, 64 MiB at most; default 10,000.
	JournalSize int
	// OnEntry, if set, is called with each entry of the journal, one at a time.
	OnEntry func(Entry)
}

// LinkedHub is an IoT hub that is linked to the service.
type LinkedHub struct {
	HostName string
	// Weight is its share under the policy hashed; default 1.
	Weight int
	// ExcludeFromAllocation is applyAllocationPolicy=false: no policy chooses the hub.
	ExcludeFromAllocation bool
	// Latency stands for what geoLatency measures: the lowest wins, and among equals the hash.
	Latency time.Duration
}

// AccessPolicy is a shared access policy; keys are base64.
type AccessPolicy struct {
	Name         string
	PrimaryKey   string
	SecondaryKey string
}

// CACertificate is an uploaded CA certificate.
type CACertificate struct {
	Name        string
	Certificate *x509.Certificate
}

// Webhook says how custom-allocation webhooks are called.
type Webhook struct {
	// Timeout of one call; default 5 s. DPS's own is not published; a call of
	// 4.3 s was seen to succeed.
	Timeout time.Duration
	// Retries after the first call; default 10, negative for none.
	Retries int
	// FirstInterval and Increment: waits are first, first+increment, and so on;
	// defaults 1 s and 9 s.
	FirstInterval time.Duration
	Increment     time.Duration
	// MaxConcurrent calls at once; default 100. DPS's own bound is not published.
	MaxConcurrent int
	// MaxAnswer is how many bytes of an answer are read; default 1 MiB. A longer
	// one counts as one that cannot be read.
	MaxAnswer int64
	// FollowRedirects: default no, a 3xx is "any other status".
	FollowRedirects bool
	// AcceptAny2xx: default no, only 200 is success.
	AcceptAny2xx bool
	// RootCAs for https webhooks; default the system's.
	RootCAs *x509.CertPool
}

// Settings of [Behaviour].
const (
	NoAnswerRetries    = "retry"
	NoAnswerFails      = "fail"
	ConcurrentRefused  = "refuse"
	ConcurrentJoins    = "join"
	ReprovisionMigrate = "migrate"
	ReprovisionReset   = "reset"
	ReprovisionNever   = "never"
)

// Behaviour is what DPS does where nothing published says so.
type Behaviour struct {
	// NoAnswer is what a time-out or a broken connection leads to: retry (default), as 5xx, or fail.
	NoAnswer string
	// RetriesExhaustedCode is the error of a registration whose webhook answered
	// 429 or 5xx to the last retry; default 400207.
	RetriesExhaustedCode int
	// UnknownHubCode is the error for a hub that is not in linkedHubs; default 400207.
	UnknownHubCode int
	// BadAnswerCode is the error for a 200 whose body is not a JSON object; default 400207.
	BadAnswerCode int
	// HubRefusedCode is the error if the hub does not take the device or its twin; default 400004.
	HubRefusedCode int
	// SameHubSubstatus is the substatus of a device that registers again and
	// stays; default reprovisionedToInitialAssignment.
	SameHubSubstatus string
	// UnsetReprovision is what an enrollment without reprovisionPolicy means for
	// clients of an API version after 2018-04-01: migrate (default), reset or never.
	UnsetReprovision string
	// Concurrent is what a register call meets while another of that id is
	// pending: refuse (default, 409203) or join, the same operation again.
	Concurrent string
	// ExcludedHubsInLinkedHubs: whether a webhook sees hubs with
	// ExcludeFromAllocation among linkedHubs; default no.
	ExcludedHubsInLinkedHubs bool
}

// Quota is what DPS allows; 0 is no bound, the default. DPS's own are 1,000 a minute each.
type Quota struct {
	RegistrationsPerMinute int
	OperationsPerMinute    int // of the service API
}

// DefaultQuota is DPS's.
var DefaultQuota = Quota{RegistrationsPerMinute: 1000, OperationsPerMinute: 1000}

// HostName of the service.
func (c Config) HostName() string { return c.Name + ".azure-devices-provisioning.net" }

func (c Config) withDefaults() Config {
	c.IDScope = cmp.Or(c.IDScope, "0ne00000000")
	c.Name = cmp.Or(c.Name, "usher")
	c.AllocationPolicy = cmp.Or(c.AllocationPolicy, model.PolicyHashed)
	c.RetryAfter = cmp.Or(c.RetryAfter, 2*time.Second)
	c.TimeScale = cmp.Or(c.TimeScale, 1)
	c.JournalSize = cmp.Or(c.JournalSize, 10_000)
	if len(c.Policies) == 0 {
		c.Policies = []AccessPolicy{{"provisioningserviceowner", randomKey(), randomKey()}}
	}
	hubs := make([]LinkedHub, len(c.Hubs))
	for i, hub := range c.Hubs {
		hub.Weight = cmp.Or(hub.Weight, 1)
		hubs[i] = hub
	}
	c.Hubs = hubs
	w := &c.Webhook
	w.Timeout = cmp.Or(w.Timeout, 5*time.Second)
	w.Retries = max(cmp.Or(w.Retries, 10), 0)
	w.FirstInterval = cmp.Or(w.FirstInterval, time.Second)
	w.Increment = cmp.Or(w.Increment, 9*time.Second)
	w.MaxConcurrent = cmp.Or(w.MaxConcurrent, 100)
	w.MaxAnswer = cmp.Or(w.MaxAnswer, 1<<20)
	b := &c.Behaviour
	b.NoAnswer = cmp.Or(b.NoAnswer, NoAnswerRetries)
	b.RetriesExhaustedCode = cmp.Or(b.RetriesExhaustedCode, CodeAllocationFailed)
	b.UnknownHubCode = cmp.Or(b.UnknownHubCode, CodeAllocationFailed)
	b.BadAnswerCode = cmp.Or(b.BadAnswerCode, CodeAllocationFailed)
	b.HubRefusedCode = cmp.Or(b.HubRefusedCode, CodeInvalidArgument)
	b.SameHubSubstatus = cmp.Or(b.SameHubSubstatus, model.SubstatusReprovisionedInitialAssignment)
	b.UnsetReprovision = cmp.Or(b.UnsetReprovision, ReprovisionMigrate)
	b.Concurrent = cmp.Or(b.Concurrent, ConcurrentRefused)
	return c
}

// check names the setting that cannot be.
func (c Config) check() error {
	if len(c.Hubs) == 0 {
		return fmt.Errorf("hubs: link at least one IoT hub, such as contoso-hub.azure-devices.net")
	}
	seen := map[string]bool{}
	for i, hub := range c.Hubs {
		switch name := strings.ToLower(hub.HostName); {
		case name == "":
			return fmt.Errorf("hubs[%d]: the host name is empty", i)
		case seen[name]:
			return fmt.Errorf("hubs[%d]: %s is linked twice", i, hub.HostName)
		case hub.Weight < 0:
			return fmt.Errorf("hubs[%d]: the weight of %s is negative", i, hub.HostName)
		default:
			seen[name] = true
		}
	}
	names := map[string]bool{}
	for i, certificate := range c.Certificates {
		if certificate.Name == "" || certificate.Certificate == nil {
			return fmt.Errorf("certificates[%d]: name and certificate are needed", i)
		}
		if names[certificate.Name] {
			return fmt.Errorf("certificates[%d]: %s is there twice", i, certificate.Name)
		}
		names[certificate.Name] = true
	}
	if c.TimeScale < 0 {
		return fmt.Errorf("timeScale: %v is negative", c.TimeScale)
	}
	for _, setting := range []struct {
		name, value string
		allowed     []string
	}{
		{"allocationPolicy", c.AllocationPolicy, []string{model.PolicyHashed, model.PolicyGeoLatency}},
		{"behaviour.noAnswer", c.Behaviour.NoAnswer, []string{NoAnswerRetries, NoAnswerFails}},
		{"behaviour.concurrent", c.Behaviour.Concurrent, []string{ConcurrentRefused, ConcurrentJoins}},
		{"behaviour.unsetReprovision", c.Behaviour.UnsetReprovision, []string{ReprovisionMigrate, ReprovisionReset, ReprovisionNever}},
		{"behaviour.sameHubSubstatus", c.Behaviour.SameHubSubstatus, []string{model.SubstatusInitialAssignment, model.SubstatusReprovisionedInitialAssignment}},
	} {
		if err := oneOf(setting.name, setting.value, setting.allowed...); err != nil {
			return err
		}
	}
	return c.checkTrouble(c.Trouble)
}

func (c Config) checkTrouble(t Trouble) error {
	if err := t.check(); err != nil {
		return err
	}
	var names []string
	for _, hub := range c.Hubs {
		names = append(names, strings.ToLower(hub.HostName))
	}
	for name := range t.Hubs {
		if err := oneOf("trouble: hubs", strings.ToLower(name), names...); err != nil {
			return err
		}
	}
	return nil
}

func oneOf(name, value string, allowed ...string) error {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return fmt.Errorf("%s: %q is none of %s", name, value, strings.Join(allowed, ", "))
}

// randomKey returns a key as DPS makes them: 64 bytes in base64.
func randomKey() string {
	key := make([]byte, 64)
	_, _ = rand.Read(key)
	return base64.StdEncoding.EncodeToString(key)
}
