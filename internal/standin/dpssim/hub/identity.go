package hub

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/entra"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// Policy is a shared access policy of a hub, with all rights, and whose access tokens have the same rights.
type Policy struct {
	Name         string // "iothubowner"
	PrimaryKey   string // base64
	SecondaryKey string // base64, may be empty
	Entra        entra.Issuer
}

// Authorize checks the Authorization header of a service client for a path of a hub.
func (r *Registry) Authorize(policy Policy, host, path, authorization string) error {
	if access, ok := entra.Token(authorization); ok {
		if policy.Entra.Check(access, entra.AudienceHub, r.now()) != nil {
			return unauthorized()
		}
		return nil
	}
	token, err := attest.ParseToken(authorization)
	if err != nil || token.Check(token.Resource, r.now()) != nil {
		return unauthorized()
	}
	// A token is valid for its resource and everything below it.
	resource := strings.ToLower(token.Resource)
	if called := strings.ToLower(host + path); called != resource && !strings.HasPrefix(called, resource+"/") {
		return unauthorized()
	}
	if token.KeyName != "" && token.KeyName != policy.Name || !token.SignedWithEither(policy.PrimaryKey, policy.SecondaryKey) {
		return unauthorized()
	}
	return nil
}

// identityUpdate is the part of PUT /devices/{id} that the stand-in applies.
type identityUpdate struct {
	DeviceID       string              `json:"deviceId"`
	Status         string              `json:"status"`
	StatusReason   string              `json:"statusReason"`
	Capabilities   *model.Capabilities `json:"capabilities"`
	Authentication *struct {
		Type         string             `json:"type"`
		SymmetricKey model.SymmetricKey `json:"symmetricKey"`
		X509         struct {
			Primary   string `json:"primaryThumbprint"`
			Secondary string `json:"secondaryThumbprint"`
		} `json:"x509Thumbprint"`
	} `json:"authentication"`
}

// PutDevice creates a device, or changes one if ifMatch is set.
func (r *Registry) PutDevice(hub, id string, body []byte, ifMatch string) (Device, error) {
	var update identityUpdate
	if err := json.Unmarshal(body, &update); err != nil {
		return Device{}, invalid("the device: %v", err)
	}
	if update.DeviceID != id {
		return Device{}, invalid("deviceId %q is not the one of the path, %q", update.DeviceID, id)
	}
	if update.Status == "" {
		update.Status = enabled
	}
	if update.Status != enabled && update.Status != disabled {
		return Device{}, invalid("status is %q, want enabled or disabled", update.Status)
	}
	var d device
	err := r.store.Update(func(tx *store.Tx) error {
		held, err := load(tx, hub, id)
		var missing *Error
		switch {
		case errors.As(err, &missing) && ifMatch == "":
			held, err = r.fresh(model.DeviceIdentity{DeviceID: id}, nil)
		case err == nil && ifMatch == "":
			err = &Error{http.StatusConflict, "DeviceAlreadyExists", "the device " + id + " exists; send If-Match to change it"}
		case err == nil && !etagMatches(ifMatch, encodeETag(held.ETag)):
			err = stale("the device")
		}
		if err != nil {
			return err
		}
		d = held
		if err := d.apply(update, r.now()); err != nil {
			return err
		}
		r.end(hub, id)
		return tx.Put(bucket(hub), id, d)
	})
	if err != nil {
		return Device{}, err
	}
	return r.deviceOf(hub, d), nil
}

func (d *device) apply(update identityUpdate, now time.Time) error {
	identity := d.Identity
	if update.Capabilities != nil {
		identity.IoTEdge = update.Capabilities.IoTEdge
	}
	if auth := update.Authentication; auth != nil {
		if auth.Type == "" && auth.X509.Primary+auth.X509.Secondary != "" {
			auth.Type = "selfSigned"
		}
		switch auth.Type {
		case "", "sas":
			for name, key := range map[string]string{"primaryKey": auth.SymmetricKey.PrimaryKey, "secondaryKey": auth.SymmetricKey.SecondaryKey} {
				if _, err := attest.DecodeKey(key); err != nil {
					return invalid("authentication.symmetricKey.%s: %v", name, err)
				}
			}
			identity.SymmetricKey, identity.PrimaryThumbprint, identity.SecondaryThumbprint = &auth.SymmetricKey, "", ""
		case "selfSigned":
			if auth.X509.Primary+auth.X509.Secondary == "" {
				return invalid("authentication.x509Thumbprint: type selfSigned needs a thumbprint")
			}
			identity.PrimaryThumbprint, identity.SecondaryThumbprint = auth.X509.Primary, auth.X509.Secondary
		default:
			return invalid("authentication.type is %q; this stand-in for IoT Hub supports only sas and selfSigned", auth.Type)
		}
	}
	d.setIdentity(identity)
	if d.Status != update.Status {
		d.StatusTime = model.Time{Time: now}
	}
	d.Status, d.StatusReason = update.Status, update.StatusReason
	return nil
}

// DeleteDevice deletes a device and ends its session.
func (r *Registry) DeleteDevice(hub, id, ifMatch string) error {
	return r.store.Update(func(tx *store.Tx) error {
		d, err := load(tx, hub, id)
		if err != nil {
			return err
		}
		if !etagMatches(ifMatch, encodeETag(d.ETag)) {
			return stale("the device")
		}
		return r.Remove(tx, hub, id)
	})
}
