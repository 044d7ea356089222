package hub

import (
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

const (
	connected    = "Connected"
	disconnected = "Disconnected"
)

// Twin is a device's twin as the hub's service API returns it.
type Twin struct {
	DeviceID                  string             `json:"deviceId"`
	ETag                      string             `json:"etag"`
	DeviceETag                string             `json:"deviceEtag"`
	Status                    string             `json:"status"`
	StatusReason              string             `json:"statusReason,omitempty"`
	StatusUpdateTime          model.Time         `json:"statusUpdateTime"`
	ConnectionState           string             `json:"connectionState"`
	LastActivityTime          model.Time         `json:"lastActivityTime"`
	CloudToDeviceMessageCount int                `json:"cloudToDeviceMessageCount"`
	AuthenticationType        string             `json:"authenticationType"`
	X509Thumbprint            Thumbprints        `json:"x509Thumbprint"`
	ModelID                   string             `json:"modelId"`
	Version                   int64              `json:"version"`
	Tags                      Object             `json:"tags,omitempty"`
	Properties                TwinProperties     `json:"properties"`
	Capabilities              model.Capabilities `json:"capabilities"`
}

// TwinProperties are the two sections of properties, with $metadata and $version.
type TwinProperties struct {
	Desired  Object `json:"desired"`
	Reported Object `json:"reported"`
}

// Thumbprints of a device's certificates, null if it has none.
type Thumbprints struct {
	Primary   *string `json:"primaryThumbprint"`
	Secondary *string `json:"secondaryThumbprint"`
}

// Device is a device's identity as the hub's service API returns it, including keys.
type Device struct {
	DeviceID                   string             `json:"deviceId"`
	GenerationID               string             `json:"generationId"`
	ETag                       string             `json:"etag"`
	ConnectionState            string             `json:"connectionState"`
	Status                     string             `json:"status"`
	StatusReason               *string            `json:"statusReason"`
	ConnectionStateUpdatedTime model.Time         `json:"connectionStateUpdatedTime"`
	StatusUpdatedTime          model.Time         `json:"statusUpdatedTime"`
	LastActivityTime           model.Time         `json:"lastActivityTime"`
	CloudToDeviceMessageCount  int                `json:"cloudToDeviceMessageCount"`
	Capabilities               model.Capabilities `json:"capabilities"`
	Authentication             Authentication     `json:"authentication"`
}

// Authentication is how a device proves who it is to its hub.
type Authentication struct {
	SymmetricKey   Keys        `json:"symmetricKey"`
	X509Thumbprint Thumbprints `json:"x509Thumbprint"`
	Type           string      `json:"type"` // sas, selfSigned
}

// Keys of a device in base64, null if it has certificates.
type Keys struct {
	Primary   *string `json:"primaryKey"`
	Secondary *string `json:"secondaryKey"`
}

// Device returns the identity of a device.
func (r *Registry) Device(hub, id string) (Device, error) {
	d, err := r.read(hub, id)
	return r.deviceOf(hub, d), err
}

// Twin returns the twin of a device.
func (r *Registry) Twin(hub, id string) (Twin, error) {
	d, err := r.read(hub, id)
	return r.twinOf(hub, d), err
}

// Twins returns up to limit twins of a hub in the order of their device IDs, starting after an ID, "" for the first.
// next is the ID to continue after, "" at the end.
func (r *Registry) Twins(hub, after string, limit int) (twins []Twin, next string, err error) {
	twins = []Twin{}
	err = r.each(hub, after, limit, func(d device) { twins = append(twins, r.twinOf(hub, d)) }, &next)
	return twins, next, err
}

// Devices returns identities as Twins returns twins.
func (r *Registry) Devices(hub, after string, limit int) (devices []Device, next string, err error) {
	devices = []Device{}
	err = r.each(hub, after, limit, func(d device) { devices = append(devices, r.deviceOf(hub, d)) }, &next)
	return devices, next, err
}

func (r *Registry) each(hub, after string, limit int, f func(device), next *string) error {
	return r.store.View(func(tx *store.Tx) error {
		n, last := 0, ""
		for d, err := range store.All[device](tx, bucket(hub), after) {
			if err != nil {
				return err
			}
			if n == limit {
				*next = last
				break
			}
			f(d.Value)
			n, last = n+1, d.Key
		}
		return nil
	})
}

func (r *Registry) twinOf(hub string, d device) Twin {
	return Twin{
		DeviceID:           d.Identity.DeviceID,
		ETag:               encodeETag(d.TwinETag),
		DeviceETag:         encodeETag(d.ETag),
		Status:             d.Status,
		StatusReason:       d.StatusReason,
		StatusUpdateTime:   d.StatusTime,
		ConnectionState:    r.connectionState(hub, d),
		AuthenticationType: d.Type,
		X509Thumbprint:     thumbprints(d),
		Version:            d.TwinVersion,
		Tags:               d.Tags,
		Properties:         TwinProperties{Desired: d.Desired.document(), Reported: d.Reported.document()},
		Capabilities:       model.Capabilities{IoTEdge: d.Identity.IoTEdge},
	}
}

func (r *Registry) deviceOf(hub string, d device) Device {
	out := Device{
		DeviceID:          d.Identity.DeviceID,
		GenerationID:      d.GenerationID,
		ETag:              encodeETag(d.ETag),
		ConnectionState:   r.connectionState(hub, d),
		Status:            d.Status,
		StatusReason:      optional(d.StatusReason),
		StatusUpdatedTime: d.StatusTime,
		Capabilities:      model.Capabilities{IoTEdge: d.Identity.IoTEdge},
		Authentication:    Authentication{X509Thumbprint: thumbprints(d), Type: d.Type},
	}
	if keys := d.Identity.SymmetricKey; keys != nil {
		out.Authentication.SymmetricKey = Keys{optional(keys.PrimaryKey), optional(keys.SecondaryKey)}
	}
	return out
}

func (r *Registry) connectionState(hub string, d device) string {
	if r.isConnected(hub, d.Identity.DeviceID) {
		return connected
	}
	return disconnected
}

func thumbprints(d device) Thumbprints {
	return Thumbprints{optional(d.Identity.PrimaryThumbprint), optional(d.Identity.SecondaryThumbprint)}
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
