package dpssim

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/entra"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// Config is what a [Service] is set up with. Zero fields take the defaults named here. docs/dps-behaviours.md lists
// those that stand for what no one has published about DPS. The names in tags are those of dps.yaml.
type Config struct {
	IDScope string `json:"idScope"` // default 0ne00000000
	// Name is the first label of the service's host name, Name.azure-devices-provisioning.net; default usher.
	Name string      `json:"name"`
	Hubs []LinkedHub `json:"hubs"`
	// AllocationPolicy is for enrollments that name none: hashed (default) or geoLatency.
	AllocationPolicy string `json:"allocationPolicy"`
	// Policies are the shared access policies of the service API. The default is one, provisioningserviceowner, with
	// random keys, which [Service.Config] returns.
	Policies []AccessPolicy `json:"-"`
	// Entra is whose access tokens the service API takes besides the policies' keys; by default no one's.
	Entra entra.Issuer `json:"entra"`
	// Certificates are the CA certificates that groups name in caReferences. They count as verified, where DPS requires
	// proof of possession.
	Certificates []CACertificate `json:"certificates"`
	// Certify issues the certificate that a device requests. It returns DER, from the leaf to the root.
	Certify func(*x509.CertificateRequest) ([][]byte, error) `json:"-"`

	Webhook   Webhook   `json:"webhook"`
	Behaviour Behaviour `json:"behaviour"`
	Quota     Quota     `json:"quotas"`
	Trouble   Trouble   `json:"trouble"`

	// RetryAfter is how long devices are told to wait between polls; default 2 s.
	RetryAfter time.Duration `json:"retryAfter"`
	// AnswerDelay is how long answers over MQTT take; default 0. Azure is not as fast as this machine, and the SDK for
	// Java loses an answer that arrives before it waits for it.
	AnswerDelay time.Duration `json:"answerDelay"`
	// TimeScale shortens the waits between calls of the webhook, the windows of quotas and RetryAfter: 60 makes a
	// minute last a second. Default 1. The webhook's time limit is not scaled, because the webhook does not get faster.
	TimeScale float64 `json:"timeScale"`
	// JournalSize is how many entries are kept in memory, up to 64 MiB; default 10,000.
	JournalSize int `json:"journalSize"`
	// OnEntry, if set, is called with each entry of the journal, one at a time.
	OnEntry func(Entry) `json:"-"`
}

// LinkedHub is an IoT hub that is linked to the service.
type LinkedHub struct {
	HostName string `json:"name"`
	// Weight is its share under the policy hashed; default 1.
	Weight int `json:"weight"`
	// ExcludeFromAllocation is applyAllocationPolicy=false: no policy chooses the hub.
	ExcludeFromAllocation bool `json:"-"`
	// Latency replaces the measurement of geoLatency: the lowest wins, and the hash decides between equals.
	Latency time.Duration `json:"latency"`
}

// AccessPolicy is a shared access policy; keys are base64.
type AccessPolicy struct {
	Name         string
	PrimaryKey   string
	SecondaryKey string
}

// CACertificate is an uploaded CA certificate.
type CACertificate struct {
	Name        string            `json:"name"`
	Certificate *x509.Certificate `json:"file"`
}

// Webhook says how custom-allocation webhooks are called.
type Webhook struct {
	// Timeout of one call; default 5 s. DPS's own is not published; a call of 4.3 s was seen to succeed.
	Timeout time.Duration `json:"timeout"`
	// Retries after the first call; default 10, negative for none.
	Retries int `json:"-"`
	// FirstInterval and Increment: waits are first, first+increment, and so on; defaults 1 s and 9 s.
	FirstInterval time.Duration `json:"firstInterval"`
	Increment     time.Duration `json:"increment"`
	// MaxConcurrent is how many calls may run at once; default 100. DPS's own limit is not published.
	MaxConcurrent int `json:"maxConcurrent"`
	// MaxAnswer is how many bytes of an answer are read; default 1 MiB. A longer answer counts as unreadable.
	MaxAnswer int `json:"maxAnswer"`
	// FollowRedirects: by default a 3xx is "any other status".
	FollowRedirects bool `json:"followRedirects"`
	// AcceptAny2xx: by default only 200 is success.
	AcceptAny2xx bool `json:"acceptAny2xx"`
	// RootCAs for https webhooks; default the system's.
	RootCAs *x509.CertPool `json:"caFile"`
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
	PayloadAsSent      = "asSent"
	PayloadParsed      = "parsed"
	CSRRefused         = "refuse"
	CSRIgnored         = "ignore"
	CSRIssued          = "issue"
)

// ReprovisionPolicies are the policies with short names.
var ReprovisionPolicies = map[string]model.ReprovisionPolicy{
	ReprovisionMigrate: {UpdateHubAssignment: true, MigrateDeviceData: true},
	ReprovisionReset:   {UpdateHubAssignment: true},
	ReprovisionNever:   {},
}

// Behaviour is what DPS does where nothing published says so.
type Behaviour struct {
	// NoAnswer is what a time-out or a broken connection leads to: retry (default), as 5xx, or fail.
	NoAnswer string `json:"noAnswer"`
	// RetriesExhaustedCode is the error of a registration whose webhook answered 429 or 5xx to the last retry; default
	// 400207.
	RetriesExhaustedCode int `json:"retriesExhaustedCode"`
	// UnknownHubCode is the error for a hub that is not in linkedHubs; default 400207.
	UnknownHubCode int `json:"unknownHubCode"`
	// BadAnswerCode is the error for a 200 whose body is not a JSON object; default 400207.
	BadAnswerCode int `json:"badAnswerCode"`
	// HubRefusedCode is the error if the hub refuses the device or its twin; default 400004.
	HubRefusedCode int `json:"hubRefusedCode"`
	// SameHubSubstatus is the substatus of a device that registers again and stays on its hub; default
	// reprovisionedToInitialAssignment.
	SameHubSubstatus string `json:"sameHubSubstatus"`
	// ResetOnSameHub: whether a policy that resets does so, too, if the device stays on its hub; default no, because a
	// twin that a webhook returns counts only where the hub changes.
	ResetOnSameHub bool `json:"resetOnSameHub"`
	// UnsetReprovision is what an enrollment without reprovisionPolicy means for clients of an API version after
	// 2018-04-01: migrate (default), reset or never.
	UnsetReprovision string `json:"unsetReprovision"`
	// Concurrent is the answer to a register call while another one of the same ID is pending: refuse (default, 409203)
	// or join, which returns the pending operation.
	Concurrent string `json:"concurrent"`
	// DevicePayload is what a webhook sees of a device's payload that is a text: the text (asSent, default), or the JSON
	// object that the text holds, if it does (parsed).
	DevicePayload string `json:"devicePayload"`
	// CSRWithoutPolicy is what a certificate signing request leads to if the enrollment names no certificate policy:
	// refuse (default, 400004), ignore, which registers without issuing a certificate, or issue.
	CSRWithoutPolicy string `json:"csrWithoutPolicy"`
	// CSRInWebhook: whether a webhook sees the certificate signing request, as csr in deviceRuntimeContext; default no.
	CSRInWebhook bool `json:"csrInWebhook"`
	// ExcludedHubsInLinkedHubs: whether a webhook sees hubs with ExcludeFromAllocation among linkedHubs; default no.
	ExcludedHubsInLinkedHubs bool `json:"excludedHubsInLinkedHubs"`
}

// Quota limits calls per minute; 0 is no limit, the default.
type Quota struct {
	RegistrationsPerMinute uint `json:"registrationsPerMinute"`
	OperationsPerMinute    uint `json:"operationsPerMinute"` // of the service API
}

// DefaultQuota is DPS's.
var DefaultQuota = Quota{RegistrationsPerMinute: 1000, OperationsPerMinute: 1000}

// HostName of the service.
func (c Config) HostName() string { return cmp.Or(c.Name, "usher") + ".azure-devices-provisioning.net" }

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
	c.Hubs = slices.Clone(c.Hubs)
	for i := range c.Hubs {
		c.Hubs[i].Weight = cmp.Or(c.Hubs[i].Weight, 1)
	}
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
	b.DevicePayload = cmp.Or(b.DevicePayload, PayloadAsSent)
	b.CSRWithoutPolicy = cmp.Or(b.CSRWithoutPolicy, CSRRefused)
	b.Concurrent = cmp.Or(b.Concurrent, ConcurrentRefused)
	return c
}

// SettingError says what is wrong with one setting.
type SettingError struct {
	Path    string // such as hubs[0] or behaviour.noAnswer
	Problem string
}

// SettingErrors is everything that is wrong with a configuration; empty if nothing is.
type SettingErrors []SettingError

func (e SettingErrors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Path + ": " + one.Problem
	}
	return strings.Join(lines, "\n")
}

func (e *SettingErrors) add(path, format string, args ...any) {
	*e = append(*e, SettingError{path, fmt.Sprintf(format, args...)})
}

// oneOf checks a setting that names one of some words; "" is the default.
func (e *SettingErrors) oneOf(path, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		e.add(path, "want %s, not %q", strings.Join(allowed, " or "), value)
	}
}

// code checks an error code of DPS; 0 is the default.
func (e *SettingErrors) code(path string, code int) {
	if code != 0 && code < 400_000 {
		e.add(path, "want a whole number from 400000, not %d", code)
	}
}

// Check reports settings that the service cannot run with.
func (c Config) Check() (problems SettingErrors) {
	if len(c.Hubs) == 0 {
		problems.add("hubs", "link at least one hub, as in hubs: [{name: contoso-hub}]")
	}
	seen := map[string]bool{}
	for i, hub := range c.Hubs {
		path, name := fmt.Sprintf("hubs[%d]", i), strings.ToLower(hub.HostName)
		switch {
		case name == "":
			problems.add(path, "the hub's name is missing, as in {name: contoso-hub}")
		case seen[name]:
			problems.add(path, "%s is linked twice", hub.HostName)
		case hub.Weight < 0:
			problems.add(path, "the weight of %s is negative", hub.HostName)
		}
		seen[name] = true
	}
	names := map[string]bool{}
	for i, certificate := range c.Certificates {
		path := fmt.Sprintf("certificates[%d]", i)
		switch {
		case certificate.Name == "" || certificate.Certificate == nil:
			problems.add(path, "a CA certificate needs a name and a file")
		case names[certificate.Name]:
			problems.add(path, "another certificate is also named %s", certificate.Name)
		}
		names[certificate.Name] = true
	}
	if (c.Entra.Name == "") != c.Entra.Keys.Empty() {
		problems.add("entra", "it needs both issuer, as in the claim iss of tokens, and keys, a file")
	}
	if c.TimeScale < 0 {
		problems.add("timeScale", "%v is negative", c.TimeScale)
	}
	problems.oneOf("allocationPolicy", c.AllocationPolicy, model.PolicyHashed, model.PolicyGeoLatency)
	b := c.Behaviour
	problems.oneOf("behaviour.noAnswer", b.NoAnswer, NoAnswerRetries, NoAnswerFails)
	problems.oneOf("behaviour.concurrent", b.Concurrent, ConcurrentRefused, ConcurrentJoins)
	problems.oneOf("behaviour.devicePayload", b.DevicePayload, PayloadAsSent, PayloadParsed)
	problems.oneOf("behaviour.csrWithoutPolicy", b.CSRWithoutPolicy, CSRRefused, CSRIgnored, CSRIssued)
	problems.oneOf("behaviour.unsetReprovision", b.UnsetReprovision, ReprovisionMigrate, ReprovisionReset, ReprovisionNever)
	problems.oneOf("behaviour.sameHubSubstatus", b.SameHubSubstatus,
		model.SubstatusInitialAssignment, model.SubstatusReprovisionedInitialAssignment)
	problems.code("behaviour.retriesExhaustedCode", b.RetriesExhaustedCode)
	problems.code("behaviour.unknownHubCode", b.UnknownHubCode)
	problems.code("behaviour.badAnswerCode", b.BadAnswerCode)
	problems.code("behaviour.hubRefusedCode", b.HubRefusedCode)
	return append(problems, c.checkTrouble(c.Trouble)...)
}

func (c Config) checkTrouble(t Trouble) SettingErrors {
	problems := t.check()
	var names []string
	for _, hub := range c.Hubs {
		names = append(names, strings.ToLower(hub.HostName))
	}
	for name := range t.Hubs {
		problems.oneOf("hubs", strings.ToLower(name), names...)
	}
	for i := range problems {
		problems[i].Path = "trouble." + problems[i].Path
	}
	return problems
}

// randomKey returns a key as DPS makes them: 64 bytes in base64.
func randomKey() string {
	key := make([]byte, 64)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}
