package enrollment

import (
	"maps"
	"net/url"
	"strings"
)

// Enrollment is one enrollment as DPS keeps it. The document has all of its members,
// those that Usher does not know too: writing it back loses nothing.
type Enrollment struct {
	Kind     Kind
	Document map[string]any
}

func (e Enrollment) text(member string) string {
	text, _ := e.Document[member].(string)
	return text
}

// ID is the enrollment group's name or the individual's registration ID.
func (e Enrollment) ID() string { return e.text(e.Kind.idMember()) }

// String names the enrollment for people, as "group breakroom".
func (e Enrollment) String() string { return string(e.Kind) + " " + e.ID() }

// ETag is the state that the enrollment was read in; empty if DPS has not got it yet.
func (e Enrollment) ETag() string { return e.text("etag") }

// AllocationPolicy is hashed, geoLatency, static or custom.
func (e Enrollment) AllocationPolicy() string { return e.text("allocationPolicy") }

// Attestation is the type of attestation: symmetricKey, x509 or tpm.
func (e Enrollment) Attestation() string {
	attestation, _ := e.Document["attestation"].(map[string]any)
	text, _ := attestation["type"].(string)
	return text
}

// Disabled reports whether DPS refuses the devices of the enrollment.
func (e Enrollment) Disabled() bool { return e.text("provisioningStatus") == "disabled" }

// Hubs are the hubs that are selected; empty if all that are linked count.
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

// Webhook is what a custom allocation calls; the zero value if there is none.
func (e Enrollment) Webhook() Webhook {
	definition, _ := e.Document["customAllocationDefinition"].(map[string]any)
	link, _ := definition["webhookUrl"].(string)
	version, _ := definition["apiVersion"].(string)
	return Webhook{URL: link, APIVersion: version}
}

// Webhook is where DPS posts AllocationRequests, and in which shape.
type Webhook struct {
	URL        string // with the function key as ?code=
	APIVersion string
}

// keyParameter is the parameter of a URL that Azure Functions takes a key from.
const keyParameter = "code"

// Key is the function key in the URL.
func (w Webhook) Key() string {
	link, err := url.Parse(w.URL)
	if err != nil {
		return ""
	}
	return link.Query().Get(keyParameter)
}

// Address is the URL without its query, in which keys are: what may be printed.
func (w Webhook) Address() string {
	address, _, _ := strings.Cut(w.URL, "?")
	address, _, _ = strings.Cut(address, "#")
	if link, err := url.Parse(address); err != nil || link.User != nil {
		return "(not a URL)"
	}
	return address
}

// WithKey returns the webhook with another key and the rest of its URL as it is.
func (w Webhook) WithKey(key string) (Webhook, error) {
	link, err := url.Parse(w.URL)
	if err != nil {
		return Webhook{}, errNoURL
	}
	query := link.Query()
	query.Set(keyParameter, key)
	link.RawQuery = query.Encode()
	return Webhook{URL: link.String(), APIVersion: w.APIVersion}, nil
}

// SameAddress reports whether two webhooks are one, whatever the keys.
func (w Webhook) SameAddress(other Webhook) bool {
	a, errA := url.Parse(w.Address())
	b, errB := url.Parse(other.Address())
	return errA == nil && errB == nil && strings.EqualFold(a.Host, b.Host) &&
		strings.EqualFold(strings.TrimSuffix(a.Path, "/"), strings.TrimSuffix(b.Path, "/"))
}

// readOnly are members that DPS fills in.
var readOnly = []string{"createdDateTimeUtc", "lastUpdatedDateTimeUtc", "registrationState"}

// writable is a copy of the document without what DPS fills in.
func (e Enrollment) writable() map[string]any {
	document := maps.Clone(e.Document)
	for _, member := range readOnly {
		delete(document, member)
	}
	return document
}
