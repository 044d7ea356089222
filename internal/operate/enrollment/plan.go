package enrollment

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/dps"
)

var errNoURL = errors.New("the webhook is not a URL")

// DefaultAPIVersion is the version of AllocationRequests that enrollments get which have none. Newer versions only add
// members about Azure Device Registry.
const DefaultAPIVersion = "2021-10-01"

// Reprovision is the name of a reprovision policy.
type Reprovision string

// The reprovision policies of DPS.
const (
	Migrate Reprovision = "migrate" // the device moves to the new hub with its twin
	Reset   Reprovision = "reset"   // the device moves to the new hub and gets the initial twin
	Never   Reprovision = "never"   // the device stays on the hub of its first assignment
)

func (r Reprovision) document() map[string]any {
	return map[string]any{"updateHubAssignment": r != Never, "migrateDeviceData": r == Migrate}
}

// Target is the desired state of an enrollment.
type Target struct {
	// Webhook is the webhook to call. If its APIVersion is empty, an enrollment keeps the version that it has, or gets
	// DefaultAPIVersion. If its URL has no label, an enrollment that calls the same address keeps its own.
	Webhook Webhook
	// Hubs are the hubs to select; nil leaves them unchanged.
	Hubs []string
	// Reprovision is the reprovision policy; empty leaves it unchanged.
	Reprovision Reprovision
}

// Check finds mistakes that DPS would accept and that would make devices fail.
func (t Target) Check() error {
	link, err := url.Parse(t.Webhook.URL)
	switch {
	case err != nil || link.Hostname() == "":
		return errNoURL
	case t.Webhook.Exposed():
		return fmt.Errorf("the webhook %s is not https", t.Webhook.Address())
	case link.User != nil:
		return errors.New("the webhook has a user or a password in its URL; DPS only sends a key in ?code=")
	}
	if label := t.Webhook.Label(); label != "" && !dps.ValidService(label) {
		return errors.New("the label of the DPS instance has 1 to 64 letters, digits, dots, hyphens and underscores")
	}
	if t.Reprovision != "" && !slices.Contains([]Reprovision{Migrate, Reset, Never}, t.Reprovision) {
		return fmt.Errorf("%q is not a reprovision policy: use migrate, reset or never", t.Reprovision)
	}
	for _, hub := range t.Hubs {
		if !strings.Contains(hub, ".") {
			return fmt.Errorf("hub %s: give the host name, such as %s.azure-devices.net", hub, hub)
		}
	}
	return nil
}

// Apply returns the enrollment in the desired state. It does not change e.
func (t Target) Apply(e Enrollment) Enrollment {
	changed := Enrollment{Kind: e.Kind, Document: maps.Clone(e.Document)}
	changed.Document["allocationPolicy"] = "custom"
	webhook := t.Webhook
	if webhook.Label() == "" && e.Webhook().SameAddress(webhook) {
		webhook = webhook.WithLabel(e.Webhook().Label())
	}
	changed.Document["customAllocationDefinition"] = map[string]any{
		"webhookUrl": webhook.URL, "apiVersion": cmp.Or(t.Webhook.APIVersion, e.Webhook().APIVersion, DefaultAPIVersion)}
	// An enrollment may only name a hub if its allocation policy is static.
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

// ApplyKey returns the enrollment with the target's key in the URL that it calls, and everything else unchanged.
func (t Target) ApplyKey(e Enrollment) Enrollment {
	webhook, err := e.Webhook().WithKey(t.Webhook.Key())
	if err != nil {
		return e
	}
	changed := Enrollment{Kind: e.Kind, Document: maps.Clone(e.Document)}
	definition, _ := e.Document["customAllocationDefinition"].(map[string]any)
	definition = maps.Clone(definition)
	definition["webhookUrl"] = webhook.URL
	changed.Document["customAllocationDefinition"] = definition
	return changed
}

// Change is a member of an enrollment that changes.
type Change struct {
	Pointer string `json:"pointer"` // JSON pointer (RFC 6901)
	// Old and New are JSON, empty if the member is absent. Keys in URLs are masked, so equal texts can have different
	// keys.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Key is what happens to the function key; empty if it stays as it is.
	Key KeyChange `json:"key,omitempty"`
}

// KeyChange is what happens to the function key in the URL of a webhook.
type KeyChange string

// The changes of a key.
const (
	KeyAdded   KeyChange = "added"
	KeyChanged KeyChange = "changed"
	KeyRemoved KeyChange = "removed"
)

func keyChange(before, after string) KeyChange {
	switch {
	case before == after:
		return ""
	case before == "":
		return KeyAdded
	case after == "":
		return KeyRemoved
	}
	return KeyChanged
}

// Changes returns the members in which two states of an enrollment differ.
func Changes(before, after Enrollment) []Change {
	var changes []Change
	names := slices.Collect(maps.Keys(before.Document))
	names = slices.AppendSeq(names, maps.Keys(after.Document))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		old, was := before.Document[name]
		new, is := after.Document[name]
		if was == is && reflect.DeepEqual(old, new) {
			continue
		}
		change := Change{Pointer: string(jsontext.Pointer("").AppendToken(name)), Old: shown(old, was), New: shown(new, is)}
		if name == "customAllocationDefinition" {
			change.Key = keyChange(before.Webhook().Key(), after.Webhook().Key())
		}
		changes = append(changes, change)
	}
	return changes
}

// shown returns a value as JSON without the keys in it, empty if the value is absent.
func shown(value any, present bool) string {
	if !present {
		return ""
	}
	text, err := json.Marshal(masked(value), json.Deterministic(true))
	if err != nil {
		return "?" // impossible: it was decoded from JSON
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
				copied[name] = Webhook{URL: link}.Shown()
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
