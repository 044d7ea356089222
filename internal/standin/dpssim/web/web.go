// Package web serves a [dpssim.Service] and its hubs over HTTP: the device API and the service API of DPS, the service
// API of IoT Hub, and the stand-in's own endpoints, under /_/. One handler serves all host names.
package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// WebSocketPath is where devices use MQTT over a WebSocket. The SDK for Java uses the other one.
const (
	WebSocketPath     = "/$iothub/websocket"
	javaWebSocketPath = "/mqtt"
)

const (
	hubSuffix = ".azure-devices.net"
	dpsSuffix = ".azure-devices-provisioning.net"

	maxBody = 1 << 20 // of the service APIs
)

// Options are what a handler serves.
type Options struct {
	Service *dpssim.Service
	// Hubs serves hosts below azure-devices.net, see [HubAPI]; nil for none.
	Hubs http.Handler
	// WebSocket serves [WebSocketPath] and /mqtt on every host; nil for none.
	WebSocket http.Handler
}

// New makes the handler of everything.
func New(options Options) http.Handler {
	s := &server{service: options.Service}
	management := http.NewCrossOriginProtection().Handler(s.managementHandler())
	hubs := options.Hubs
	if hubs != nil {
		hubs = s.journalled(dpssim.KindHub, hubs)
	}
	serviceAPI := s.journalled(dpssim.KindService, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := s.serviceAPI(w, r)
		answer(w, http.StatusOK, value, err)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostName(r)
		segments, err := pathSegments(r.URL)
		switch {
		case err != nil:
			refuse(w, err)
		case options.WebSocket != nil && (strings.EqualFold(r.URL.Path, WebSocketPath) || strings.EqualFold(r.URL.Path, javaWebSocketPath)):
			options.WebSocket.ServeHTTP(w, r)
		case strings.HasSuffix(host, hubSuffix) && hubs != nil:
			hubs.ServeHTTP(w, r)
		default:
			w.Header().Set("x-ms-request-id", uuid.NewString())
			switch root := strings.ToLower(segments[0]); {
			case root == "_":
				management.ServeHTTP(w, r)
			case serviceRoots[root]:
				serviceAPI.ServeHTTP(w, r)
			default:
				s.deviceAPI(w, r, segments)
			}
		}
	})
}

type server struct{ service *dpssim.Service }

func hostName(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// pathSegments returns at least one segment. An ID in a path may contain an escaped slash.
func pathSegments(u *url.URL) ([]string, error) {
	segments := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for i, segment := range segments {
		var err error
		if segments[i], err = url.PathUnescape(segment); err != nil {
			return nil, invalid("The path has an invalid escape.")
		}
	}
	return segments, nil
}

func (s *server) deviceAPI(w http.ResponseWriter, r *http.Request, segments []string) {
	if len(segments) < 3 || !strings.EqualFold(segments[1], "registrations") {
		s.refuseDevice(w, r, "", notFound())
		return
	}
	caller := dpssim.Caller{
		IDScope:        segments[0],
		RegistrationID: segments[2],
		SAS:            r.Header.Get("Authorization"),
		APIVersion:     r.URL.Query().Get("api-version"),
		Transport:      dpssim.TransportHTTP,
	}
	if r.TLS != nil {
		caller.Certificates = r.TLS.PeerCertificates
	}
	rest, err := segments[3:], notFound()
	switch {
	case len(rest) == 1 && strings.EqualFold(rest[0], "register"):
		var request model.RegistrationRequest
		if request, err = readRegistration(w, r, http.MethodPut); err == nil {
			status, err := s.service.Register(caller, request)
			s.answerOperation(w, r, caller, status, err)
		}
	case len(rest) == 2 && strings.EqualFold(rest[0], "operations"):
		if err = allow(w, r, http.MethodGet); err == nil {
			status, err := s.service.Operation(caller, rest[1])
			s.answerOperation(w, r, caller, status, err)
		}
	case len(rest) == 0:
		var request model.RegistrationRequest
		if request, err = readRegistration(w, r, http.MethodPost); err == nil {
			state, err := s.service.LookUp(caller, request)
			answer(w, http.StatusOK, state, err)
		}
	}
	if err != nil {
		s.refuseDevice(w, r, caller.RegistrationID, err)
	}
}

func readRegistration(w http.ResponseWriter, r *http.Request, method string) (request model.RegistrationRequest, err error) {
	if err := allow(w, r, method); err != nil {
		return request, err
	}
	body, err := readBody(w, r, dpssim.MaxMessage)
	if err != nil {
		return request, err
	}
	return dpssim.ParseRequest(body)
}

// refuseDevice refuses and records a call that does not reach the service.
func (s *server) refuseDevice(w http.ResponseWriter, r *http.Request, registrationID string, err error) {
	refusal, body := dpssim.Answer(err)
	response, _ := json.Marshal(body) // never fails
	s.service.Record(dpssim.Entry{
		Kind: dpssim.KindRegister, Transport: dpssim.TransportHTTP, RegistrationID: registrationID,
		Method: r.Method, URL: r.URL.Path, Status: refusal.Status, Response: response, DPSEffect: refusal.Message,
	})
	refuse(w, err)
}

func (s *server) answerOperation(w http.ResponseWriter, r *http.Request, caller dpssim.Caller, status model.RegistrationOperationStatus, err error) {
	if err == nil && status.Status == model.StatusAssigning {
		w.Header().Set("Retry-After", seconds(s.service.RetryAfter()))
		location := url.URL{
			Scheme: "https", Host: r.Host,
			Path:     "/" + caller.IDScope + "/registrations/" + caller.RegistrationID + "/operations/" + status.OperationID,
			RawQuery: url.Values{"api-version": {caller.APIVersion}}.Encode(),
		}
		w.Header().Set("Location", location.String())
	}
	answer(w, dpssim.RegisterStatus(status), status, err)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

func notFound() error {
	return &dpssim.APIError{Status: http.StatusNotFound, Code: dpssim.CodeNotFound, Message: "There is nothing at this path."}
}

func invalid(message string) error {
	return &dpssim.APIError{Status: http.StatusBadRequest, Code: dpssim.CodeInvalidArgument, Message: message}
}

// allow refuses other methods than these.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) error {
	if slices.Contains(methods, r.Method) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return &dpssim.APIError{Status: http.StatusMethodNotAllowed, Code: dpssim.CodeMethodNotAllowed, Message: r.Method + " is not allowed here."}
}

func readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(limit)))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, dpssim.TooLarge(limit)
	}
	if err != nil {
		return nil, invalid("The body could not be read.")
	}
	return body, nil
}

// decode reads a body in JSON.
func decode(w http.ResponseWriter, r *http.Request, limit int, value any) error {
	body, err := readBody(w, r, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, value); err != nil {
		return invalid("The body is not the expected JSON: " + err.Error())
	}
	return nil
}

// answer writes a value, nothing if it is nil, or the refusal that err stands for.
func answer(w http.ResponseWriter, status int, value any, err error) {
	switch {
	case err != nil:
		refuse(w, err)
	case value == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		write(w, status, value)
	}
}

func refuse(w http.ResponseWriter, err error) {
	refusal, body := dpssim.Answer(err)
	if recorder, ok := w.(*recorder); ok {
		recorder.detail = refusal.Detail
	}
	w.Header().Set("x-ms-error-code", strconv.Itoa(refusal.Code))
	if refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", seconds(refusal.RetryAfter))
	}
	write(w, refusal.Status, body)
}

func write(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that is gone needs no answer
}

// journalled records each call of a handler.
func (s *server) journalled(kind string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		body, err := readBody(w, r, maxBody)
		recorder := &recorder{ResponseWriter: w, status: http.StatusOK}
		if err != nil {
			refuse(recorder, err)
		} else {
			r.Body = io.NopCloser(bytes.NewReader(body))
			next.ServeHTTP(recorder, r)
		}
		entry := dpssim.Entry{
			Time: model.Time{Time: start}, Kind: kind, Transport: dpssim.TransportHTTP,
			Method: r.Method, URL: r.URL.Path, Request: dpssim.Mask(body),
			Status: recorder.status, Response: dpssim.Mask(recorder.body.Bytes()), Error: recorder.detail,
			DurationMS: dpssim.Milliseconds(time.Since(start)),
		}
		if kind == dpssim.KindHub {
			entry.URL = "https://" + hostName(r) + r.URL.Path
		}
		s.service.Record(entry)
	})
}

type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
	detail string // of a refusal, which the answer does not say
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(data []byte) (int, error) {
	r.body.Write(data)
	return r.ResponseWriter.Write(data)
}
