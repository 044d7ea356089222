// Package hub is the small part of IoT Hub that shows what DPS did: device identities and twins.
//
// One Registry holds the devices of all hubs. A hub is named by its host name, in any case; device IDs are
// case-sensitive, as IoT Hub's are.
//
// It has no modules, messages to devices, methods, jobs and files. It differs from IoT Hub in that any
// policy has all rights, and messages from devices are dropped.
package hub

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// Error is a refusal as the hub's service API gives it.
type Error struct {
	Status  int    // of HTTP
	Code    string // IoT Hub's name, such as "DeviceNotFound"
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// AsError returns the refusal for an error of a [Registry]. An error that is not an *[Error] is a failure of the store.
func AsError(err error) *Error {
	if refused, ok := errors.AsType[*Error](err); ok {
		return refused
	}
	return &Error{http.StatusInternalServerError, "ServerError", "the state cannot be read or written"}
}

func invalid(format string, args ...any) error {
	return &Error{http.StatusBadRequest, "ArgumentInvalid", fmt.Sprintf(format, args...)}
}

func stale(what string) error {
	return &Error{http.StatusPreconditionFailed, "PreconditionFailed",
		"Precondition failed: " + what + " changed since it was read, If-Match names an older ETag"}
}

func unauthorized() error {
	return &Error{http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized"}
}

// Registry is the devices of all hubs. It is safe for concurrent use.
type Registry struct {
	store *store.Store
	now   func() time.Time

	notifying sync.Mutex // held while a change is made and sent, so that changes are sent in order

	mu       sync.Mutex
	sessions map[place]*Session
	waiting  map[place][]Desired // what lasting sessions that ended leave to the next
}

type place struct{ hub, device string }

func at(hub, device string) place { return place{strings.ToLower(hub), device} }

// New makes a registry whose devices are in the store.
func New(s *store.Store, now func() time.Time) *Registry {
	return &Registry{store: s, now: now, sessions: map[place]*Session{}, waiting: map[place][]Desired{}}
}

// device is what the store holds of one.
type device struct {
	Identity     model.DeviceIdentity `json:"identity"`
	Type         string               `json:"type"` // sas, selfSigned
	GenerationID string               `json:"generationId"`
	Status       string               `json:"status"` // enabled, disabled
	StatusReason string               `json:"statusReason,omitempty"`
	StatusTime   model.Time           `json:"statusTime"`
	ETag         uint64               `json:"etag"` // of the identity

	Tags        Object     `json:"tags"`
	Desired     Properties `json:"desired"`
	Reported    Properties `json:"reported"`
	TwinETag    uint64     `json:"twinEtag"` // of tags and desired properties
	TwinVersion int64      `json:"twinVersion"`

	// Subscriptions of a lasting session, by filter; nil if the device has none.
	Subscriptions map[string]byte `json:"subscriptions,omitzero"`
}

const (
	enabled  = "enabled"
	disabled = "disabled"
)

// bucket holds the devices of a hub.
func bucket(hub string) string { return "hub devices of " + strings.ToLower(hub) }

func load(tx *store.Tx, hub, id string) (d device, err error) {
	found, err := tx.Get(bucket(hub), id, &d)
	if err == nil && !found {
		err = &Error{http.StatusNotFound, "DeviceNotFound", id}
	}
	return d, err
}

// read loads a device in a transaction of its own.
func (r *Registry) read(hub, id string) (d device, err error) {
	err = r.store.View(func(tx *store.Tx) (err error) {
		d, err = load(tx, hub, id)
		return err
	})
	return d, err
}

// Create writes a device to a hub with its keys or thumbprints and its initial twin, which may be nil. It replaces a
// device of that ID together with its twin; what DPS does in that case is not published.
func (r *Registry) Create(tx *store.Tx, hub string, identity model.DeviceIdentity, twin *model.InitialTwin) error {
	d, err := r.fresh(identity, twin)
	if err != nil {
		return err
	}
	r.forget(hub, identity.DeviceID)
	return tx.Put(bucket(hub), identity.DeviceID, d)
}

// Renew gives a device that stays on its hub the keys or thumbprints of its latest registration, and keeps its twin and
// its capabilities. It reports false if the device does not exist.
func (r *Registry) Renew(tx *store.Tx, hub string, identity model.DeviceIdentity) (found bool, err error) {
	var d device
	if found, err = tx.Get(bucket(hub), identity.DeviceID, &d); err != nil || !found {
		return false, err
	}
	identity.IoTEdge = d.Identity.IoTEdge
	if sameIdentity(d.Identity, identity) {
		return true, nil
	}
	d.setIdentity(identity)
	r.end(hub, identity.DeviceID)
	return true, tx.Put(bucket(hub), identity.DeviceID, d)
}

// Migrate moves a device with its capabilities and its whole twin, including versions, and ends its session at the old
// hub. It reports false and does nothing if the device does not exist.
func (r *Registry) Migrate(tx *store.Tx, fromHub, toHub string, identity model.DeviceIdentity) (found bool, err error) {
	var old device
	if found, err = tx.Get(bucket(fromHub), identity.DeviceID, &old); err != nil || !found {
		return false, err
	}
	identity.IoTEdge = old.Identity.IoTEdge
	d, err := r.fresh(identity, nil)
	if err != nil {
		return true, err
	}
	d.Tags, d.Desired, d.Reported = old.Tags, old.Desired, old.Reported
	d.TwinETag, d.TwinVersion = old.TwinETag, old.TwinVersion
	if err := r.Remove(tx, fromHub, identity.DeviceID); err != nil {
		return true, err
	}
	r.forget(toHub, identity.DeviceID)
	return true, tx.Put(bucket(toHub), identity.DeviceID, d)
}

// Remove deletes a device, if it exists, and ends its session.
func (r *Registry) Remove(tx *store.Tx, hub, id string) error {
	r.forget(hub, id)
	return tx.Delete(bucket(hub), id)
}

// section is what a twin or a patch of one says about its tags or its desired properties.
type section struct {
	values Object
	set    bool // false if it says nothing
	null   bool // if it empties the section
}

// parseTwin reads the two sections that the service side of a twin has.
func parseTwin(twin *model.InitialTwin) (tags, desired section, err error) {
	if twin == nil {
		return tags, desired, nil
	}
	if tags, err = parseSection("tags", twin.Tags); err == nil && twin.Properties != nil {
		desired, err = parseSection("properties.desired", twin.Properties.Desired)
	}
	return tags, desired, err
}

func parseSection(name string, raw json.RawMessage) (section, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return section{set: raw != nil, null: true}, nil
	}
	values, err := ParseObject(raw)
	if err != nil {
		return section{}, invalid("%s: %v", name, err)
	}
	values = withoutSystem(values)
	if err := checkValue(name, map[string]any(values), 0); err != nil {
		return section{}, invalid("%v", err)
	}
	return section{values: values, set: true}, nil
}

// patch applies the sections of a patch. With replace they replace those of the twin. The result is what a device must
// be sent; nil if its desired properties do not change.
func (d *device) patch(tags, desired section, replace bool, now time.Time) (sent json.RawMessage, err error) {
	if tags.set {
		if replace || tags.null {
			d.Tags = Object{}
		}
		merge(d.Tags, map[string]any{}, tags.values, func() map[string]any { return map[string]any{} })
		if err := check("tags", d.Tags, maxTagBytes); err != nil {
			return nil, invalid("%v", err)
		}
	}
	if desired.set {
		patch := desired.values
		if replace || desired.null {
			patch = replacing(d.Desired.Values, patch)
		}
		d.Desired.patch(patch, true, now)
		if err := check("properties.desired", d.Desired.Values, maxPropertyBytes); err != nil {
			return nil, invalid("%v", err)
		}
		return versioned(patch, d.Desired.Version)
	}
	return nil, nil
}

// fresh makes a device with its initial twin, which may be nil.
func (r *Registry) fresh(identity model.DeviceIdentity, twin *model.InitialTwin) (device, error) {
	if !deviceIDs.MatchString(identity.DeviceID) {
		return device{}, invalid("device ID %q: IoT Hub accepts 1 to 128 letters, digits and some other characters", identity.DeviceID)
	}
	tags, desired, err := parseTwin(twin)
	if err != nil {
		return device{}, err
	}
	now := r.now()
	d := device{
		GenerationID: fmt.Sprint(now.UnixNano()),
		Status:       enabled,
		Tags:         Object{},
		Desired:      newProperties(),
		Reported:     newProperties(),
		TwinETag:     1,
		TwinVersion:  1,
	}
	d.Reported.patch(nil, false, now)
	desired.set = true // its version is 1 from the start
	d.setIdentity(identity)
	_, err = d.patch(tags, desired, false, now)
	return d, err
}

// deviceIDs are the IDs that IoT Hub accepts.
var deviceIDs = regexp.MustCompile(`^[A-Za-z0-9\-.%_*?!(),:=@$'+#]{1,128}$`)

// setIdentity sets how the device proves who it is. Without keys and thumbprints it gets random keys, as at IoT Hub.
func (d *device) setIdentity(identity model.DeviceIdentity) {
	d.Type = "sas"
	if identity.PrimaryThumbprint != "" || identity.SecondaryThumbprint != "" {
		d.Type = "selfSigned"
		identity.SymmetricKey = nil
	} else {
		given := cmp.Or(identity.SymmetricKey, &model.SymmetricKey{})
		identity.SymmetricKey = &model.SymmetricKey{
			PrimaryKey: cmp.Or(given.PrimaryKey, randomKey()), SecondaryKey: cmp.Or(given.SecondaryKey, randomKey()),
		}
	}
	d.Identity = identity
	d.ETag++
}

// sameIdentity reports whether a registration changes nothing. An absent secondary key matches any, because the hub
// made a random one.
func sameIdentity(held, registered model.DeviceIdentity) bool {
	if held.IoTEdge != registered.IoTEdge ||
		!strings.EqualFold(held.PrimaryThumbprint, registered.PrimaryThumbprint) ||
		!strings.EqualFold(held.SecondaryThumbprint, registered.SecondaryThumbprint) {
		return false
	}
	if registered.SymmetricKey == nil || held.SymmetricKey == nil {
		return registered.SymmetricKey == held.SymmetricKey
	}
	return held.SymmetricKey.PrimaryKey == registered.SymmetricKey.PrimaryKey &&
		(registered.SymmetricKey.SecondaryKey == "" || held.SymmetricKey.SecondaryKey == registered.SymmetricKey.SecondaryKey)
}

func randomKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// AuthenticateDevice checks that a device may connect: with a SAS token for {hub}/devices/{id} made with one of its
// keys, or with a certificate whose thumbprint the hub knows. As at IoT Hub, the error does not say what is wrong.
func (r *Registry) AuthenticateDevice(hub, id, sas string, certificates []*x509.Certificate) error {
	d, err := r.read(hub, id)
	if err != nil || d.Status != enabled {
		return unauthorized()
	}
	if d.Type == "sas" {
		token, err := attest.ParseToken(sas)
		if err != nil || token.Check(hub+"/devices/"+id, r.now()) != nil ||
			!token.SignedWithEither(d.Identity.SymmetricKey.PrimaryKey, d.Identity.SymmetricKey.SecondaryKey) {
			return unauthorized()
		}
		return nil
	}
	if len(certificates) == 0 {
		return unauthorized()
	}
	leaf, now := certificates[0], r.now()
	for _, held := range []string{d.Identity.PrimaryThumbprint, d.Identity.SecondaryThumbprint} {
		if held != "" && matches(held, leaf) && !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter) {
			return nil
		}
	}
	return unauthorized()
}

func matches(thumbprint string, certificate *x509.Certificate) bool {
	return strings.EqualFold(thumbprint, attest.SHA1Thumbprint(certificate)) || strings.EqualFold(thumbprint, attest.SHA256Thumbprint(certificate))
}

// UpdateReported merges a device's patch of its reported properties and returns their new version. patch is a JSON
// object; null deletes.
func (r *Registry) UpdateReported(hub, id string, patch []byte) (version int64, err error) {
	parsed, err := ParseObject(patch)
	if err != nil {
		return 0, invalid("properties.reported: %v", err)
	}
	parsed = withoutSystem(parsed)
	if err := checkValue("properties.reported", map[string]any(parsed), 0); err != nil {
		return 0, invalid("%v", err)
	}
	err = r.store.Update(func(tx *store.Tx) error {
		d, err := load(tx, hub, id)
		if err != nil {
			return err
		}
		d.Reported.patch(parsed, false, r.now())
		if err := check("properties.reported", d.Reported.Values, maxPropertyBytes); err != nil {
			return invalid("%v", err)
		}
		d.TwinVersion++
		version = d.Reported.Version
		return tx.Put(bucket(hub), id, d)
	})
	return version, err
}

// DeviceTwin is the twin as its device reads it: {"desired": {...}, "reported": {...}}, each with $version.
func (r *Registry) DeviceTwin(hub, id string) ([]byte, error) {
	d, err := r.read(hub, id)
	if err != nil {
		return nil, err
	}
	desired, err := versioned(d.Desired.Values, d.Desired.Version)
	if err != nil {
		return nil, err
	}
	reported, err := versioned(d.Reported.Values, d.Reported.Version)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]json.RawMessage{"desired": desired, "reported": reported})
}

// UpdateTwin merges a patch {"tags": {...}, "properties": {"desired": {...}}}, or with replace puts its parts in place
// of the twin's, and sends a connected device the desired properties that changed. A part that is null is emptied, an
// absent one does not change. ifMatch is the header of that name, "" for none.
func (r *Registry) UpdateTwin(hub, id string, body []byte, replace bool, ifMatch string) (Twin, error) {
	if _, err := ParseObject(body); err != nil {
		return Twin{}, invalid("the twin: %v", err)
	}
	patch := new(model.InitialTwin) // a patch has the same shape
	if err := json.Unmarshal(body, patch); err != nil {
		return Twin{}, invalid("the twin: %v", err)
	}
	tags, desired, err := parseTwin(patch)
	if err != nil {
		return Twin{}, err
	}
	r.notifying.Lock()
	defer r.notifying.Unlock()
	var d device
	var sent json.RawMessage
	err = r.store.Update(func(tx *store.Tx) (err error) {
		if d, err = load(tx, hub, id); err != nil {
			return err
		}
		if !etagMatches(ifMatch, encodeETag(d.TwinETag)) {
			return stale("the twin")
		}
		if sent, err = d.patch(tags, desired, replace, r.now()); err != nil {
			return err
		}
		d.TwinETag++
		d.TwinVersion++
		return tx.Put(bucket(hub), id, d)
	})
	if err != nil {
		return Twin{}, err
	}
	if sent != nil {
		r.notify(hub, id, Desired{Patch: sent, Version: d.Desired.Version})
	}
	return r.twinOf(hub, d), nil
}

// replacing returns the patch that turns the old values into the new ones.
func replacing(old, values map[string]any) map[string]any {
	patch := map[string]any{}
	for key := range old {
		patch[key] = nil
	}
	for key, value := range values {
		oldObject, wasObject := old[key].(map[string]any)
		if newObject, isObject := value.(map[string]any); isObject && wasObject {
			value = replacing(oldObject, newObject)
		}
		patch[key] = value
	}
	return patch
}

// Statistics counts the devices of a hub.
func (r *Registry) Statistics(hub string) (Statistics, error) {
	var s Statistics
	err := r.store.View(func(tx *store.Tx) error {
		for d, err := range store.All[device](tx, bucket(hub), "") {
			if err != nil {
				return err
			}
			s.Total++
			if d.Value.Status == disabled {
				s.Disabled++
			} else {
				s.Enabled++
			}
		}
		return nil
	})
	return s, err
}

// Statistics is the answer to GET /statistics/devices.
type Statistics struct {
	Total    int `json:"totalDeviceCount"`
	Enabled  int `json:"enabledDeviceCount"`
	Disabled int `json:"disabledDeviceCount"`
}

// encodeETag writes a counter as the hub writes a twin's ETag, without quotes.
func encodeETag(n uint64) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, n))
}

// etagMatches reports whether an If-Match header (empty, *, or a list of tags with or without quotes) matches a tag.
func etagMatches(header, etag string) bool {
	if header == "" {
		return true
	}
	for tag := range strings.SplitSeq(header, ",") {
		// The registry SDKs quote whatever they are given: "*" also means *.
		tag = strings.Trim(strings.TrimSpace(tag), `"`)
		if tag == "*" || tag == etag {
			return true
		}
	}
	return false
}
