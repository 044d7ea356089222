package enrollment

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

var errNoURL = errors.New("the webhook is not a URL")

// DefaultAPIVersion is the shape of AllocationRequests that enrollments ask for unless
// told otherwise: the newest that is generally available.
const DefaultAPIVersion = "2021-10-01"

// Reprovision is a reprovision policy by its name.
type Reprovision string

// The reprovision policies of DPS.
const (
	Migrate Reprovision = "migrate" // to the new hub, with the device's twin
	Reset   Reprovision = "reset"   // to the new hub, with the initial twin
	Never   Reprovision = "never"   // stays on the hub of the first assignment
)

// Reprovisions lists the names.
func Reprovisions() []Reprovision { return []Reprovision{Migrate, Reset, Never} }

func (r Reprovision) document() map[string]any {
	return map[string]any{"updateHubAssignment": r != Never, "migrateDeviceData": r == Migrate}
}

// Target is what an enrollment shall be.
type Target struct {
	Webhook Webhook
	// Hubs are those that are selected; nil leaves them as they are.
	Hubs []string
	// Reprovision is the policy; empty leaves it as it is.
	Reprovision Reprovision
}

// Check finds what DPS would take and devices would suffer from.
func (t Target) Check() error {
	link, err := url.Parse(t.Webhook.URL)
	switch {
	case err != nil || link.Host == "":
		return errNoURL
	case link.Scheme != "https" && !loopback(link.Hostname()):
		return fmt.Errorf("the webhook %s is not https", t.Webhook.Address())
	case link.User != nil:
		return errors.New("the webhook has a user or a password in its URL; only a key in ?code= is sent on")
	}
	if t.Reprovision != "" && !slices.Contains(Reprovisions(), t.Reprovision) {
		return fmt.Errorf("%q is no reprovision policy: use migrate, reset or never", t.Reprovision)
	}
	for _, hub := range t.Hubs {
		if !strings.Contains(hub, ".") {
			return fmt.Errorf("hub %s: give the host name, such as %s.azure-devices.net", hub, hub)
		}
	}
	return nil
}

func loopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// Apply returns the enrollment as the target asks. The one that it is given stays as it is.
func (t Target) Apply(e Enrollment) Enrollment {
	changed := Enrollment{Kind: e.Kind, Document: maps.Clone(e.Document)}
	changed.Document["allocationPolicy"] = "custom"
	changed.Document["customAllocationDefinition"] = map[string]any{"webhookUrl": t.Webhook.URL, "apiVersion": t.Webhook.APIVersion}
	// Only with the policy static may an enrollment name a hub.
	delete(changed.Document, "iotHubHostName")
	if t.Hubs != nil {
		hubs := make([]any, len(t.Hubs))
		for i, hub := range t.Hubs {
			hubs[i] = hub
		}
		changed.Document["iotHubs"] = hubs
	}
	if t.Reprovision != "" {
		changed.Document["reprovisionPolicy"] = t.Reprovision.document()
	}
	return changed
}

// Change is one member of an enrollment that becomes another.
type Change struct {
	Pointer string `json:"pointer"` // JSON pointer (RFC 6901)
	// Old and New are JSON; empty where the member is absent. Keys in URLs are
	// masked, so two that look the same can differ in the key.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Key is set where the function key is what changes.
	Key bool `json:"key,omitempty"`
}

// Changes lists the members in which two states of an enrollment differ.
func Changes(before, after Enrollment) []Change {
	names := map[string]bool{}
	for name := range before.Document {
		names[name] = true
	}
	for name := range after.Document {
		names[name] = true
	}
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old, was := before.Document[name]
		new, is := after.Document[name]
		if was == is && reflect.DeepEqual(old, new) {
			continue
		}
		change := Change{Pointer: "/" + name, Old: shown(old, was), New: shown(new, is)}
		change.Key = name == "customAllocationDefinition" && before.Webhook().Key() != after.Webhook().Key()
		changes = append(changes, change)
	}
	return changes
}

// shown is a value as JSON without the keys in it.
func shown(value any, there bool) string {
	if !there {
		return ""
	}
	text, err := json.Marshal(masked(value))
	if err != nil {
		return "?" // it came from JSON
	}
	return string(text)
}

func masked(value any) any {
	switch v := value.(type) {
	case map[string]any:
		copied := map[string]any{}
		for name, member := range v {
			switch link, isText := member.(string); {
			case name == "webhookUrl" && isText && strings.Contains(link, "?"):
				copied[name] = Webhook{URL: link}.Address() + "?****"
			case name == "primaryKey" || name == "secondaryKey" || name == "certificate":
				copied[name] = "****"
			default:
				copied[name] = masked(member)
			}
		}
		return copied
	case []any:
		copied := make([]any, len(v))
		for i := range v {
			copied[i] = masked(v[i])
		}
		return copied
	default:
		return value
	}
}
