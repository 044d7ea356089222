package enrollment

import (
	"maps"
	"net"
	"net/url"
	"strings"

	"github.com/usher-dps/usher/dps"
)

// Enrollment is an enrollment as DPS stores it. The document has all of its members, also those that Usher does not
// know, so writing it back loses nothing.
type Enrollment struct {
	Kind     Kind
	Document map[string]any
}

func (e Enrollment) text(member string) string {
	text, _ := e.Document[member].(string)
	return text
}

// ID returns the name of the enrollment group, or the registration ID of the individual enrollment.
func (e Enrollment) ID() string { return e.text(e.Kind.idMember()) }

// String returns the kind and the ID, for example "group breakroom".
func (e Enrollment) String() string { return string(e.Kind) + " " + e.ID() }

// ETag identifies the state that was read. It is empty if DPS does not have the enrollment yet.
func (e Enrollment) ETag() string { return e.text("etag") }

// AllocationPolicy returns hashed, geoLatency, static or custom.
func (e Enrollment) AllocationPolicy() string { return e.text("allocationPolicy") }

// Attestation returns the type of attestation: symmetricKey, x509 or tpm.
func (e Enrollment) Attestation() string {
	attestation, _ := e.Document["attestation"].(map[string]any)
	text, _ := attestation["type"].(string)
	return text
}

// Disabled reports whether DPS refuses the devices of the enrollment.
func (e Enrollment) Disabled() bool { return e.text("provisioningStatus") == "disabled" }

// Hubs returns the hubs that the enrollment selects. It is empty if all linked hubs apply.
func (e Enrollment) Hubs() []string {
	list, _ := e.Document["iotHubs"].([]any)
	var hubs []string
	for _, hub := range list {
		if name, ok := hub.(string); ok {
			hubs = append(hubs, name)
		}
	}
	return hubs
}

// Webhook returns the webhook of a custom allocation; the zero value if there is none.
func (e Enrollment) Webhook() Webhook {
	definition, _ := e.Document["customAllocationDefinition"].(map[string]any)
	link, _ := definition["webhookUrl"].(string)
	version, _ := definition["apiVersion"].(string)
	return Webhook{URL: link, APIVersion: version}
}

// Webhook is the URL to which DPS posts AllocationRequests, and the version of their shape.
type Webhook struct {
	URL        string // with the function key as ?code=
	APIVersion string
}

// keyParameter is the URL parameter in which Azure Functions expects a key.
const keyParameter = "code"

// Key returns the function key in the URL.
func (w Webhook) Key() string {
	link, err := url.Parse(w.URL)
	if err != nil {
		return ""
	}
	return link.Query().Get(keyParameter)
}

// Label returns the name of the DPS instance in the URL.
func (w Webhook) Label() string {
	link, err := url.Parse(w.URL)
	if err != nil {
		return ""
	}
	return link.Query().Get(dps.ServiceParameter)
}

// Shown returns the URL so that it may be printed: of the query it has only a valid label.
func (w Webhook) Shown() string {
	switch label := w.Label(); {
	case dps.ValidService(label):
		return w.Address() + "?" + dps.ServiceParameter + "=" + label + "&****"
	case strings.Contains(w.URL, "?"):
		return w.Address() + "?****"
	default:
		return w.Address()
	}
}

// Address returns the URL without its query, which contains the key, so that it may be printed.
func (w Webhook) Address() string {
	address, _, _ := strings.Cut(w.URL, "?")
	address, _, _ = strings.Cut(address, "#")
	if link, err := url.Parse(address); err != nil || link.User != nil {
		return "(not a URL)"
	}
	return address
}

// Exposed reports whether calls are readable on the way: they have no TLS, and leave this machine.
func (w Webhook) Exposed() bool {
	link, err := url.Parse(w.URL)
	if err != nil {
		return true
	}
	host := link.Hostname()
	return link.Scheme != "https" && host != "localhost" && !net.ParseIP(host).IsLoopback()
}

// WithKey returns the webhook with another key and the rest of its URL unchanged.
func (w Webhook) WithKey(key string) (Webhook, error) { return w.with(keyParameter, key) }

// WithLabel returns the webhook with another name for the DPS instance and the rest of its URL unchanged. An empty label,
// or one for something that is not a URL, changes nothing.
func (w Webhook) WithLabel(label string) Webhook {
	labelled, err := w.with(dps.ServiceParameter, label)
	if label == "" || err != nil {
		return w
	}
	return labelled
}

func (w Webhook) with(parameter, value string) (Webhook, error) {
	link, err := url.Parse(w.URL)
	if err != nil {
		return Webhook{}, errNoURL
	}
	query := link.Query()
	query.Set(parameter, value)
	link.RawQuery = query.Encode()
	return Webhook{URL: link.String(), APIVersion: w.APIVersion}, nil
}

// SameAddress reports whether two webhooks are the same apart from the queries of their URLs.
func (w Webhook) SameAddress(other Webhook) bool {
	a, errA := url.Parse(w.Address())
	b, errB := url.Parse(other.Address())
	return errA == nil && errB == nil && strings.EqualFold(a.Host, b.Host) &&
		strings.EqualFold(strings.TrimSuffix(a.Path, "/"), strings.TrimSuffix(b.Path, "/"))
}

// readOnly are the members that DPS sets.
var readOnly = []string{"createdDateTimeUtc", "lastUpdatedDateTimeUtc", "registrationState"}

// writable returns a copy of the document without the members that DPS sets.
func (e Enrollment) writable() map[string]any {
	document := maps.Clone(e.Document)
	for _, member := range readOnly {
		delete(document, member)
	}
	return document
}
