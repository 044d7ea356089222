package hub

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

const (
	maxBody     = 256 << 10 // a twin has at most 8 + 32 KiB by the hub's own count
	defaultPage = 100
	maxPage     = 1000
)

// Policy is a shared access policy of a hub. Which rights it has is not looked at.
type Policy struct {
	Name         string // "iothubowner"
	PrimaryKey   string // base64
	SecondaryKey string // base64, may be empty
}

// Policies gives the policies of a hub; ok is false if there is no hub of that host
// name, which is in lower case.
type Policies func(host string) (policies []Policy, ok bool)

// API is the service API of all hubs; which one is meant, the Host header says.
//
//	GET, PUT, DELETE /devices/{id}      GET /devices      POST /devices/query
//	GET, PATCH, PUT  /twins/{id}        GET /statistics/devices, /statistics/service
func API(registry *Registry, policies Policies) http.Handler {
	return &api{registry, policies}
}

type api struct {
	registry *Registry
	policies Policies
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := hostOf(r)
	if err := a.admit(host, r); err != nil {
		a.refuse(w, err)
		return
	}
	segments, err := segments(r.URL)
	if err != nil {
		a.refuse(w, err)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := a.route(w, r, host, segments); err != nil {
		a.refuse(w, err)
	}
}

func (a *api) route(w http.ResponseWriter, r *http.Request, host string, path []string) error {
	resource := strings.ToLower(path[0])
	switch {
	case resource == "devices" && len(path) == 1 && r.Method == http.MethodGet:
		return a.listDevices(w, r, host)
	case resource == "devices" && len(path) == 2 && r.Method == http.MethodPost && strings.EqualFold(path[1], "query"):
		return a.query(w, r, host)
	case resource == "devices" && len(path) == 2:
		return a.device(w, r, host, path[1])
	case resource == "twins" && len(path) == 2:
		return a.twin(w, r, host, path[1])
	case resource == "statistics" && len(path) == 2 && r.Method == http.MethodGet && strings.EqualFold(path[1], "devices"):
		statistics, err := a.registry.Statistics(host)
		if err != nil {
			return err
		}
		return answer(w, "", statistics)
	case resource == "statistics" && len(path) == 2 && r.Method == http.MethodGet && strings.EqualFold(path[1], "service"):
		return answer(w, "", map[string]int{"connectedDeviceCount": a.registry.Connected(host)})
	}
	return &Error{http.StatusNotFound, "NotFound", "this stand-in for IoT Hub has no " + r.Method + " " + r.URL.Path}
}

func (a *api) device(w http.ResponseWriter, r *http.Request, host, id string) error {
	switch r.Method {
	case http.MethodGet:
		d, err := a.registry.Device(host, id)
		if err != nil {
			return err
		}
		return answer(w, d.ETag, d)
	case http.MethodPut:
		body, err := readBody(r)
		if err != nil {
			return err
		}
		d, err := a.registry.putDevice(host, id, body, r.Header.Get("If-Match"))
		if err != nil {
			return err
		}
		return answer(w, d.ETag, d)
	case http.MethodDelete:
		if err := a.registry.deleteDevice(host, id, r.Header.Get("If-Match")); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return notAllowed(w, "GET, PUT, DELETE")
}

func (a *api) twin(w http.ResponseWriter, r *http.Request, host, id string) error {
	switch r.Method {
	case http.MethodGet:
		t, err := a.registry.Twin(host, id)
		if err != nil {
			return err
		}
		return answer(w, t.ETag, t)
	case http.MethodPatch, http.MethodPut:
		body, err := readBody(r)
		if err != nil {
			return err
		}
		t, err := a.registry.UpdateTwin(host, id, body, r.Method == http.MethodPut, r.Header.Get("If-Match"))
		if err != nil {
			return err
		}
		return answer(w, t.ETag, t)
	}
	return notAllowed(w, "GET, PATCH, PUT")
}

func (a *api) listDevices(w http.ResponseWriter, r *http.Request, host string) error {
	most, err := pageSize(r.URL.Query().Get("top"), maxPage)
	if err != nil {
		return err
	}
	devices, _, err := a.registry.Devices(host, "", most)
	if err != nil {
		return err
	}
	return answer(w, "", devices)
}

// The queries that are understood. IoT Hub's language has far more.
var queryForm = regexp.MustCompile(`(?i)^\s*select\s+\*\s+from\s+devices(?:\s+where\s+deviceId\s*=\s*(?:'([^']*)'|"([^"]*)"))?\s*;?\s*$`)

func (a *api) query(w http.ResponseWriter, r *http.Request, host string) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	var q model.Query
	if err := json.Unmarshal(body, &q); err != nil {
		return invalid("the query: %v", err)
	}
	parts := queryForm.FindStringSubmatch(q.Query)
	if parts == nil {
		return invalid("this stand-in for IoT Hub knows the queries SELECT * FROM devices and SELECT * FROM devices WHERE deviceId = '...'")
	}
	w.Header().Set("x-ms-item-type", "Twin")
	if id := parts[1] + parts[2]; id != "" {
		twins := []Twin{}
		t, err := a.registry.Twin(host, id)
		var refused *Error
		switch {
		case err == nil:
			twins = append(twins, t)
		case !errors.As(err, &refused):
			return err
		}
		return answer(w, "", twins)
	}
	most, err := pageSize(r.Header.Get("x-ms-max-item-count"), defaultPage)
	if err != nil {
		return err
	}
	after, err := base64.RawURLEncoding.DecodeString(r.Header.Get("x-ms-continuation"))
	if err != nil {
		return invalid("x-ms-continuation is not what a query gave")
	}
	twins, next, err := a.registry.Twins(host, string(after), most)
	if err != nil {
		return err
	}
	if next != "" {
		w.Header().Set("x-ms-continuation", base64.RawURLEncoding.EncodeToString([]byte(next)))
	}
	return answer(w, "", twins)
}

func pageSize(text string, usual int) (int, error) {
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, invalid("the page size is not a number")
	}
	if n <= 0 {
		return usual, nil // -1 stands for the default in some SDKs
	}
	return min(n, maxPage), nil
}

// admit checks the api-version and the token of a policy.
func (a *api) admit(host string, r *http.Request) error {
	policies, ok := a.policies(host)
	if !ok {
		return &Error{http.StatusNotFound, "IotHubNotFound", "there is no hub " + host + " in this stand-in"}
	}
	refused := &Error{http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized"}
	token, err := attest.ParseToken(r.Header.Get("Authorization"))
	if err != nil {
		return refused
	}
	// A token is good for its resource and all below it.
	resource := strings.ToLower(token.Resource)
	if path := strings.ToLower(host + r.URL.Path); path != resource && !strings.HasPrefix(path, resource+"/") {
		return refused
	}
	if token.Check(token.Resource, a.registry.now()) != nil {
		return refused
	}
	for _, policy := range policies {
		if (token.KeyName == "" || token.KeyName == policy.Name) && token.SignedWithEither(policy.PrimaryKey, policy.SecondaryKey) {
			if r.URL.Query().Get("api-version") == "" {
				return &Error{http.StatusBadRequest, "InvalidProtocolVersion", "the api-version is missing"}
			}
			return nil
		}
	}
	return refused
}

// identityUpdate is the part of PUT /devices/{id} that is obeyed.
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

// putDevice creates a device, or changes one if ifMatch is set.
func (r *Registry) putDevice(hub, id string, body []byte, ifMatch string) (Device, error) {
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
		case errors.As(err, &missing) && ifMatch != "":
			return err
		case errors.As(err, &missing):
			if d, err = r.fresh(model.DeviceIdentity{DeviceID: id}, nil); err != nil {
				return err
			}
		case err != nil:
			return err
		case ifMatch == "":
			return &Error{http.StatusConflict, "DeviceAlreadyExists", "the device " + id + " exists; send If-Match to change it"}
		case !etagMatches(ifMatch, encodeETag(held.ETag)):
			return stale("the device")
		default:
			d = held
		}
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
			return invalid("authentication.type is %q, want sas or selfSigned: this stand-in for IoT Hub knows no other", auth.Type)
		}
	}
	d.setIdentity(identity)
	if d.Status != update.Status {
		d.StatusTime = model.Time{Time: now}
	}
	d.Status, d.StatusReason = update.Status, update.StatusReason
	return nil
}

func (r *Registry) deleteDevice(hub, id, ifMatch string) error {
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

func hostOf(r *http.Request) string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host)
}

// segments splits a path; an ID in it may hold an escaped slash.
func segments(u *url.URL) ([]string, error) {
	parts := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for i, part := range parts {
		var err error
		if parts[i], err = url.PathUnescape(part); err != nil {
			return nil, invalid("the path is escaped wrongly")
		}
	}
	return parts, nil
}

func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &Error{http.StatusRequestEntityTooLarge, "RequestTooLarge", fmt.Sprintf("the body has more than %d bytes", maxBody)}
	}
	if err != nil {
		return nil, invalid("the body cannot be read")
	}
	return body, nil
}

func notAllowed(w http.ResponseWriter, allow string) error {
	w.Header().Set("Allow", allow)
	return &Error{http.StatusMethodNotAllowed, "MethodNotAllowed", "want one of " + allow}
}

func answer(w http.ResponseWriter, etag string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if etag != "" {
		w.Header().Set("ETag", `"`+etag+`"`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(data) // the client is gone then
	return nil
}

// refuse answers an error in the two members that SDKs look for: they cut the code
// out of Message.
func (a *api) refuse(w http.ResponseWriter, err error) {
	var refused *Error
	if !errors.As(err, &refused) {
		refused = &Error{http.StatusInternalServerError, "ServerError", "the state cannot be read or written"}
	}
	body, _ := json.Marshal(map[string]string{ // strings are always encoded
		"Message": "ErrorCode:" + refused.Code + ";" + refused.Message,
		"ExceptionMessage": "Tracking ID:" + strings.ReplaceAll(uuid.NewString(), "-", "") +
			"-TimeStamp:" + a.registry.now().UTC().Format("01/02/2006 15:04:05"),
	})
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("iothub-errorcode", refused.Code)
	w.WriteHeader(refused.Status)
	_, _ = w.Write(body) // the client is gone then
}
