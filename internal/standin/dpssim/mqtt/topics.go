package mqtt

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// user is what a CONNECT's user name means: a device of DPS or of a hub.
type user struct {
	hub            string // host name, "" for DPS
	deviceID       string
	idScope        string
	registrationID string
	apiVersion     string
}

// parseUsername reads the user name of DPS,
//
//	{idScope}/registrations/{registrationId}/api-version={v}&ClientVersion={v}
//
// or of a hub,
//
//	{host}/{deviceId}/?api-version={v}&DeviceClientType={v}
func parseUsername(name string) (user, error) {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) == 4 && strings.EqualFold(parts[1], "registrations") {
		u := user{idScope: parts[0], registrationID: parts[2]}
		query, err := parseQuery(parts[3])
		if err != nil {
			return user{}, err
		}
		u.apiVersion = query.get("api-version")
		if u.idScope == "" || u.registrationID == "" {
			return user{}, errors.New("the ID scope or the registration ID is missing in the user name")
		}
		return u, u.checkVersion()
	}
	host, rest, _ := strings.Cut(name, "/")
	// A device ID may contain a question mark, so the last /? counts.
	i := strings.LastIndex(rest, "/?")
	if host == "" || i <= 0 {
		return user{}, errors.New("the user name is neither {idScope}/registrations/{registrationId}/api-version={v} nor {hub}/{deviceId}/?api-version={v}")
	}
	u := user{hub: host, deviceID: rest[:i]}
	if strings.Contains(u.deviceID, "/") {
		return user{}, errors.New("the user name is that of a module; this stand-in supports only devices")
	}
	query, err := parseQuery(rest[i+1:])
	if err != nil {
		return user{}, err
	}
	u.apiVersion = query.get("api-version")
	return u, u.checkVersion()
}

func (u user) checkVersion() error {
	if u.apiVersion == "" {
		return errors.New("the user name has no api-version")
	}
	return nil
}

// kind is what a PUBLISH requests.
type kind int

const (
	unknown      kind = iota
	register          // of DPS
	operation         // of DPS
	twinGet           // of a hub, as are the rest
	twinReported      // a patch of the reported properties
	telemetry         // devices/{id}/messages/events/
	methodResult      // the answer to a direct method; none is ever called
)

// request is what a PUBLISH's topic means.
type request struct {
	kind        kind
	rid         string // $rid, as the device spelled it
	operationID string
}

const (
	registerTopic  = "$dps/registrations/PUT/iotdps-register/"
	operationTopic = "$dps/registrations/GET/iotdps-get-operationstatus/"
	dpsResponses   = "$dps/registrations/res/"

	twinGetTopic      = "$iothub/twin/GET/"
	twinReportedTopic = "$iothub/twin/PATCH/properties/reported/"
	twinDesiredTopic  = "$iothub/twin/PATCH/properties/desired/"
	twinResponses     = "$iothub/twin/res/"
	methodResultTopic = "$iothub/methods/res/"
	methodTopic       = "$iothub/methods/POST/"
)

// parseTopic reads the topic of a PUBLISH of this user. A request without $rid cannot be answered.
func (u user) parseTopic(topic string) (request, error) {
	path, rawQuery, _ := strings.Cut(topic, "?")
	if u.hub != "" {
		switch {
		case strings.HasPrefix(topic, "devices/"+u.deviceID+"/messages/events"):
			return request{kind: telemetry}, nil
		case strings.HasPrefix(topic, methodResultTopic):
			return request{kind: methodResult}, nil
		}
	}
	r := request{}
	switch {
	case u.hub == "" && path == registerTopic:
		r.kind = register
	case u.hub == "" && path == operationTopic:
		r.kind = operation
	case u.hub != "" && path == twinGetTopic:
		r.kind = twinGet
	case u.hub != "" && path == twinReportedTopic:
		r.kind = twinReported
	default:
		return request{}, errors.New("this device may not publish to the topic")
	}
	query, err := parseQuery(rawQuery)
	if err != nil {
		return request{}, err
	}
	if r.rid = query.raw("$rid"); r.rid == "" {
		return request{}, errors.New("the topic has no $rid")
	}
	r.operationID = query.get("operationId")
	if r.kind == operation && r.operationID == "" {
		return request{}, errors.New("the topic has no operationId")
	}
	return r, nil
}

// maySubscribe reports whether a filter is one that DPS or a hub has.
func (u user) maySubscribe(filter string) bool {
	if u.hub == "" {
		return filter == dpsResponses+"#"
	}
	switch filter {
	case twinResponses + "#", twinDesiredTopic + "#", methodTopic + "#", "devices/" + u.deviceID + "/messages/devicebound/#":
		return true
	}
	return false
}

// responseTopic is where a request is answered. $rid comes first because some clients look for it only there.
func (r request) responseTopic(status int, retryAfter time.Duration) string {
	topic := dpsResponses
	if r.kind == twinGet || r.kind == twinReported {
		topic = twinResponses
	}
	topic += strconv.Itoa(status) + "/?$rid=" + r.rid
	if retryAfter > 0 {
		seconds := (retryAfter + time.Second - 1) / time.Second
		topic += "&retry-after=" + strconv.FormatInt(int64(seconds), 10)
	}
	return topic
}

// query is what follows the question mark: names and values as they are spelled.
type query []struct{ name, value string }

func parseQuery(text string) (query, error) {
	var q query
	for field := range strings.SplitSeq(strings.TrimPrefix(text, "?"), "&") {
		if field == "" {
			continue
		}
		name, value, _ := strings.Cut(field, "=")
		if _, err := url.PathUnescape(value); err != nil {
			return nil, errors.New("a value after the question mark has an invalid escape")
		}
		q = append(q, struct{ name, value string }{name, value})
	}
	return q, nil
}

func (q query) raw(name string) string {
	for _, field := range q {
		if strings.EqualFold(field.name, name) {
			return field.value
		}
	}
	return ""
}

func (q query) get(name string) string {
	value, _ := url.PathUnescape(q.raw(name)) // parseQuery checked it
	return value
}
