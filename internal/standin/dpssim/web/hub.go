package web

import (
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/hub"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const (
	maxHubBody     = 256 << 10 // a twin has at most 8 + 32 KiB by the hub's own count
	defaultHubPage = 100
	maxHubPage     = 1000
)

// HubAPI is the service API of hubs that have the same policy. The Host header says which hub is meant.
//
//	GET, PUT, DELETE /devices/{id}      GET, POST /devices      POST /devices/query
//	GET, PATCH, PUT  /twins/{id}        GET /statistics/devices, /statistics/service
func HubAPI(registry *hub.Registry, policy hub.Policy, hosts ...string) http.Handler {
	a := &hubAPI{registry, policy, hosts}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := a.call(w, r)
		if err != nil {
			refuseHub(w, err)
			return
		}
		switch value := value.(type) {
		case hub.Device:
			w.Header().Set("ETag", `"`+value.ETag+`"`)
		case hub.Twin:
			w.Header().Set("ETag", `"`+value.ETag+`"`)
		case hub.BulkResult:
			if !value.IsSuccessful {
				write(w, http.StatusBadRequest, value)
				return
			}
		}
		answer(w, http.StatusOK, value, nil)
	})
}

type hubAPI struct {
	registry *hub.Registry
	policy   hub.Policy
	hosts    []string
}

func (a *hubAPI) call(w http.ResponseWriter, r *http.Request) (any, error) {
	host := hostName(r)
	if !slices.ContainsFunc(a.hosts, func(linked string) bool { return strings.EqualFold(linked, host) }) {
		return nil, &hub.Error{Status: http.StatusNotFound, Code: "IotHubNotFound", Message: "this stand-in has no hub " + host}
	}
	path, err := pathSegments(r.URL)
	if err != nil {
		return nil, err
	}
	resource, last := strings.ToLower(path[0]), strings.ToLower(path[len(path)-1])
	// A device's own calls. Their token is not that of a policy, so they come before it is checked.
	if resource == "devices" && len(path) > 2 {
		return nil, &hub.Error{Status: http.StatusBadRequest, Code: "NotSupported", Message: r.Method + " " + r.URL.Path +
			" is not supported here: devices of this stand-in use MQTT; it has no modules, files and messages over HTTPS"}
	}
	if err := a.registry.Authorize(a.policy, host, r.URL.Path, r.Header.Get("Authorization")); err != nil {
		return nil, err
	}
	if r.URL.Query().Get("api-version") == "" {
		return nil, &hub.Error{Status: http.StatusBadRequest, Code: "InvalidProtocolVersion", Message: "the api-version is missing"}
	}
	switch {
	case resource == "devices" && len(path) == 1 && r.Method == http.MethodGet:
		limit, err := pageSize(r.URL.Query().Get("top"), maxHubPage)
		if err != nil {
			return nil, err
		}
		devices, _, err := a.registry.Devices(host, "", limit)
		return devices, err
	case resource == "devices" && len(path) == 1 && r.Method == http.MethodPost:
		body, err := readBody(w, r, maxBody)
		if err != nil {
			return nil, err
		}
		return a.registry.Bulk(host, body)
	case resource == "devices" && len(path) == 2 && r.Method == http.MethodPost && last == "query":
		return a.query(w, r, host)
	case resource == "devices" && len(path) == 2:
		return a.device(w, r, host, path[1])
	case resource == "twins" && len(path) == 2:
		return a.twin(w, r, host, path[1])
	case resource == "statistics" && len(path) == 2 && r.Method == http.MethodGet && last == "devices":
		return a.registry.Statistics(host)
	case resource == "statistics" && len(path) == 2 && r.Method == http.MethodGet && last == "service":
		return map[string]int{"connectedDeviceCount": a.registry.Connected(host)}, nil
	}
	return nil, &hub.Error{Status: http.StatusNotFound, Code: "NotFound", Message: r.Method + " " + r.URL.Path + " is not supported here: this stand-in for IoT Hub has devices, twins and statistics"}
}

func (a *hubAPI) device(w http.ResponseWriter, r *http.Request, host, id string) (any, error) {
	if err := allow(w, r, http.MethodGet, http.MethodPut, http.MethodDelete); err != nil {
		return nil, err
	}
	switch r.Method {
	case http.MethodGet:
		return a.registry.Device(host, id)
	case http.MethodDelete:
		return nil, a.registry.DeleteDevice(host, id, r.Header.Get("If-Match"))
	}
	body, err := readBody(w, r, maxHubBody)
	if err != nil {
		return nil, err
	}
	return a.registry.PutDevice(host, id, body, r.Header.Get("If-Match"))
}

func (a *hubAPI) twin(w http.ResponseWriter, r *http.Request, host, id string) (any, error) {
	if err := allow(w, r, http.MethodGet, http.MethodPatch, http.MethodPut); err != nil {
		return nil, err
	}
	if r.Method == http.MethodGet {
		return a.registry.Twin(host, id)
	}
	body, err := readBody(w, r, maxHubBody)
	if err != nil {
		return nil, err
	}
	return a.registry.UpdateTwin(host, id, body, r.Method == http.MethodPut, r.Header.Get("If-Match"))
}

// hubQueries are the supported queries; IoT Hub's language has many more.
var hubQueries = regexp.MustCompile(`(?i)^\s*select\s+\*\s+from\s+devices(?:\s+where\s+deviceId\s*=\s*(?:'([^']*)'|"([^"]*)"))?\s*;?\s*$`)

func (a *hubAPI) query(w http.ResponseWriter, r *http.Request, host string) (any, error) {
	var query model.Query
	if err := decode(w, r, maxHubBody, &query); err != nil {
		return nil, err
	}
	parts := hubQueries.FindStringSubmatch(query.Query)
	if parts == nil {
		return nil, invalid("this stand-in for IoT Hub supports only the queries SELECT * FROM devices and SELECT * FROM devices WHERE deviceId = '...'")
	}
	w.Header().Set(headerItemType, "Twin")
	if id := parts[1] + parts[2]; id != "" {
		twin, err := a.registry.Twin(host, id)
		if _, ok := errors.AsType[*hub.Error](err); ok {
			return []hub.Twin{}, nil
		}
		return []hub.Twin{twin}, err
	}
	limit, err := pageSize(r.Header.Get(headerMaxItems), defaultHubPage)
	if err != nil {
		return nil, err
	}
	after, err := base64.RawURLEncoding.DecodeString(r.Header.Get(headerContinuation))
	if err != nil {
		return nil, invalid(headerContinuation + " is not one that a query returned")
	}
	twins, next, err := a.registry.Twins(host, string(after), limit)
	if next != "" {
		w.Header().Set(headerContinuation, base64.RawURLEncoding.EncodeToString([]byte(next)))
	}
	return twins, err
}

func pageSize(text string, byDefault int) (int, error) {
	if text == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, invalid("the page size is not a number")
	}
	if n <= 0 {
		return byDefault, nil // some SDKs send -1 for the default
	}
	return min(n, maxHubPage), nil
}

// hubCodes are IoT Hub's names for refusals that both APIs have.
var hubCodes = map[int]string{
	http.StatusBadRequest: "ArgumentInvalid", http.StatusMethodNotAllowed: "MethodNotAllowed", http.StatusRequestEntityTooLarge: "RequestTooLarge",
}

// refuseHub writes an error in the two members that SDKs read; they cut the code out of Message.
func refuseHub(w http.ResponseWriter, err error) {
	refused := hub.AsError(err)
	if general, ok := errors.AsType[*dpssim.APIError](err); ok {
		refused = &hub.Error{Status: general.Status, Code: hubCodes[general.Status], Message: general.Message}
	}
	w.Header().Set("iothub-errorcode", refused.Code)
	write(w, refused.Status, map[string]string{
		"Message": "ErrorCode:" + refused.Code + ";" + refused.Message,
		"ExceptionMessage": "Tracking ID:" + strings.ReplaceAll(uuid.NewString(), "-", "") +
			"-TimeStamp:" + time.Now().UTC().Format("01/02/2006 15:04:05"),
	})
}
