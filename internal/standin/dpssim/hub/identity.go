package hub

import (
	"cmp"
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
	return r.put(hub, id, update, nil, writing{create: ifMatch == "", update: ifMatch != "", ifMatch: ifMatch})
}

// writing says what a write of a device may do.
type writing struct {
	create, update bool
	ifMatch        string
}

// put writes a device. One that it creates has the twin.
func (r *Registry) put(hub, id string, update identityUpdate, twin *model.InitialTwin, may writing) (Device, error) {
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
		case errors.As(err, &missing) && may.create:
			held, err = r.fresh(model.DeviceIdentity{DeviceID: id}, twin)
		case err == nil && !may.update:
			err = &Error{http.StatusConflict, "DeviceAlreadyExists", "the device " + id + " exists; send If-Match to change it"}
		case err == nil && !etagMatches(may.ifMatch, encodeETag(held.ETag)):
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

// maxBulk is IoT Hub's limit.
const maxBulk = 100

// bulkItem is one device in POST /devices.
type bulkItem struct {
	identityUpdate
	ID         string          `json:"id"`
	ImportMode string          `json:"importMode"`
	ETag       string          `json:"eTag"`
	TwinETag   string          `json:"twinETag"`
	Tags       json.RawMessage `json:"tags"`
	Properties *struct {
		Desired json.RawMessage `json:"desired"`
	} `json:"properties"`
}

// BulkResult is the answer to POST /devices.
type BulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"`
	Errors       []BulkError `json:"errors"`
	Warnings     []BulkError `json:"warnings"`
}

// BulkError is why one device was not written.
type BulkError struct {
	DeviceID string `json:"deviceId"`
	Code     string `json:"errorCode"`
	Status   string `json:"errorStatus"`
}

// Bulk writes up to 100 devices, each on its own. body is an array.
func (r *Registry) Bulk(hub string, body []byte) (BulkResult, error) {
	var items []bulkItem
	if err := json.Unmarshal(body, &items); err != nil {
		return BulkResult{}, invalid("the devices: %v", err)
	}
	if len(items) == 0 || len(items) > maxBulk {
		return BulkResult{}, invalid("the request has %d devices, want 1 to %d", len(items), maxBulk)
	}
	result := BulkResult{IsSuccessful: true, Errors: []BulkError{}, Warnings: []BulkError{}}
	for _, item := range items {
		if err := r.bulkOne(hub, item); err != nil {
			refused := AsError(err)
			result.IsSuccessful = false
			result.Errors = append(result.Errors, BulkError{item.ID, refused.Code, refused.Message})
		}
	}
	return result, nil
}

func (r *Registry) bulkOne(hub string, item bulkItem) (err error) {
	twin := &model.InitialTwin{Tags: item.Tags}
	if item.Properties != nil {
		twin.Properties = &model.TwinProperties{Desired: item.Properties.Desired}
	}
	mode, conditional := strings.CutSuffix(strings.ToLower(cmp.Or(item.ImportMode, "createOrUpdate")), "ifmatchetag")
	etag := ""
	if conditional {
		if etag = item.ETag; mode == "updatetwin" {
			etag = item.TwinETag
		}
		if etag == "" {
			return invalid("importMode %s needs an ETag", item.ImportMode)
		}
	}
	switch mode {
	case "create":
		_, err = r.put(hub, item.ID, item.identityUpdate, twin, writing{create: true})
	case "update":
		_, err = r.put(hub, item.ID, item.identityUpdate, nil, writing{update: true, ifMatch: etag})
	case "createorupdate":
		_, err = r.put(hub, item.ID, item.identityUpdate, twin, writing{create: true, update: true, ifMatch: etag})
	case "updatetwin":
		var patch []byte
		if patch, err = json.Marshal(twin); err == nil {
			_, err = r.UpdateTwin(hub, item.ID, patch, false, etag)
		}
	case "delete":
		err = r.DeleteDevice(hub, item.ID, etag)
	default:
		err = invalid("importMode is %q, want create, update, createOrUpdate, delete or updateTwin, the last four also with IfMatchETag", item.ImportMode)
	}
	return err
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
