package mqtt

import (
	"errors"
	"net/url"
	"slices"
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
	var u user
	rawQuery := ""
	if parts := strings.SplitN(name, "/", 4); len(parts) == 4 && strings.EqualFold(parts[1], "registrations") {
		u, rawQuery = user{idScope: parts[0], registrationID: parts[2]}, parts[3]
		if u.idScope == "" || u.registrationID == "" {
			return user{}, errors.New("the ID scope or the registration ID is missing in the user name")
		}
	} else {
		host, rest, _ := strings.Cut(name, "/")
		i := strings.LastIndex(rest, "/?") // a device ID may contain a question mark
		if host == "" || i <= 0 {
			return user{}, errors.New("the user name is neither {idScope}/registrations/{registrationId}/api-version={v} nor {hub}/{deviceId}/?api-version={v}")
		}
		u, rawQuery = user{hub: host, deviceID: rest[:i]}, rest[i+1:]
		if strings.Contains(u.deviceID, "/") {
			return user{}, errors.New("the user name is that of a module; this stand-in supports only devices")
		}
	}
	query, err := parseQuery(rawQuery)
	if u.apiVersion = query.get("api-version"); err == nil && u.apiVersion == "" {
		err = errors.New("the user name has no api-version")
	}
	return u, err
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

// request is what a PUBLISH's topic means. The zero request is one that needs no answer: a message from the device, or
// the answer to a direct method, which is never called.
type request struct {
	topic       string // without parameters
	rid         string // $rid, as the device spelled it
	operationID string
}

// parseTopic reads the topic of a PUBLISH of this user. A request without $rid cannot be answered.
func (u user) parseTopic(topic string) (request, error) {
	topics := []string{registerTopic, operationTopic}
	if u.hub != "" {
		if strings.HasPrefix(topic, "devices/"+u.deviceID+"/messages/events") || strings.HasPrefix(topic, methodResultTopic) {
			return request{}, nil
		}
		topics = []string{twinGetTopic, twinReportedTopic}
	}
	path, rawQuery, _ := strings.Cut(topic, "?")
	if !slices.Contains(topics, path) {
		return request{}, errors.New("this device may not publish to the topic")
	}
	query, err := parseQuery(rawQuery)
	r := request{path, query["$rid"], query.get("operationid")}
	switch {
	case err != nil:
	case r.rid == "":
		err = errors.New("the topic has no $rid")
	case path == operationTopic && r.operationID == "":
		err = errors.New("the topic has no operationId")
	default:
		return r, nil
	}
	return request{}, err
}

// maySubscribe reports whether a filter is one that DPS or a hub has.
func (u user) maySubscribe(filter string) bool {
	if u.hub == "" {
		return filter == dpsResponses+"#"
	}
	return slices.Contains([]string{
		twinResponses + "#", twinDesiredTopic + "#", methodTopic + "#",
		"devices/" + u.deviceID + "/messages/devicebound/#", "devices/+/messages/devicebound/#",
	}, filter)
}

// responseTopic is where a request is answered. $rid comes first because some clients look for it only there.
func (r request) responseTopic(status int, retryAfter time.Duration) string {
	topic := twinResponses
	if r.topic == registerTopic || r.topic == operationTopic {
		topic = dpsResponses
	}
	topic += strconv.Itoa(status) + "/?$rid=" + r.rid
	if retryAfter > 0 {
		seconds := (retryAfter + time.Second - 1) / time.Second
		topic += "&retry-after=" + strconv.FormatInt(int64(seconds), 10)
	}
	return topic
}

// query is what follows the question mark: values as they are spelled, by name in lower case.
type query map[string]string

func parseQuery(text string) (query, error) {
	q := query{}
	for field := range strings.SplitSeq(strings.TrimPrefix(text, "?"), "&") {
		name, value, _ := strings.Cut(field, "=")
		if _, err := url.PathUnescape(value); err != nil {
			return nil, errors.New("a value after the question mark has an invalid escape")
		}
		if name = strings.ToLower(name); q[name] == "" {
			q[name] = value
		}
	}
	return q, nil
}

func (q query) get(name string) string {
	value, _ := url.PathUnescape(q[name]) // parseQuery checked it
	return value
}
