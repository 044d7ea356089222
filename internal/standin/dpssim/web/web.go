// Package web serves a [dpssim.Service] over HTTP: the device API and the service
// API of DPS, and what the stand-in has beside them, under /_/. One handler
// serves all host names; those of hubs go to a handler of their own.
package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// WebSocketPath is where devices speak MQTT over a WebSocket.
const WebSocketPath = "/$iothub/websocket"

const (
	hubSuffix = ".azure-devices.net"
	dpsSuffix = ".azure-devices-provisioning.net"

	maxServiceBody = 1 << 20
)

// Options are what a handler serves.
type Options struct {
	Service *dpssim.Service
	// Hubs serves hosts below azure-devices.net; nil for none.
	Hubs http.Handler
	// WebSocket serves [WebSocketPath] on every host; nil for none.
	WebSocket http.Handler
}

// New makes the handler of everything.
func New(options Options) http.Handler {
	s := &server{service: options.Service}
	protection := http.NewCrossOriginProtection()
	management := protection.Handler(s.managementHandler())
	hubs := options.Hubs
	if hubs != nil {
		hubs = s.journalled(dpssim.KindHub, hubs)
	}
	serviceAPI := s.journalled(dpssim.KindService, http.HandlerFunc(s.serviceAPI))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostName(r)
		segments, err := pathSegments(r.URL)
		switch {
		case err != nil:
			s.refuse(w, &dpssim.APIError{Status: http.StatusBadRequest, Code: dpssim.CodeInvalidArgument, Message: "The path is escaped wrongly."})
		case options.WebSocket != nil && strings.EqualFold(r.URL.Path, WebSocketPath):
			options.WebSocket.ServeHTTP(w, r)
		case strings.HasSuffix(host, hubSuffix) && hubs != nil:
			hubs.ServeHTTP(w, r)
		case segments[0] == "_":
			management.ServeHTTP(w, r)
		case serviceRoots[strings.ToLower(segments[0])]:
			serviceAPI.ServeHTTP(w, r)
		default:
			s.deviceAPI(w, r, segments)
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

// pathSegments are at least one.
func pathSegments(u *url.URL) ([]string, error) {
	segments := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	for i, segment := range segments {
		unescaped, err := url.PathUnescape(segment)
		if err != nil {
			return nil, err
		}
		segments[i] = unescaped
	}
	return segments, nil
}

func (s *server) deviceAPI(w http.ResponseWriter, r *http.Request, segments []string) {
	if len(segments) < 3 || !strings.EqualFold(segments[1], "registrations") {
		s.refuseDevice(w, r, dpssim.Caller{}, notFound("There is nothing at this path."))
		return
	}
	caller := dpssim.Caller{
		IDScope:           segments[0],
		RegistrationID:    segments[2],
		SAS:               r.Header.Get("Authorization"),
		APIVersion:        r.URL.Query().Get("api-version"),
		ClientVersion:     r.UserAgent(),
		Transport:         dpssim.TransportHTTP,
		ForceRegistration: strings.EqualFold(r.URL.Query().Get("forceRegistration"), "true"),
	}
	if r.TLS != nil {
		caller.Certificates = r.TLS.PeerCertificates
	}
	rest := segments[3:]
	switch {
	case len(rest) == 1 && strings.EqualFold(rest[0], "register"):
		if s.deviceMethod(w, r, caller, http.MethodPut) {
			s.register(w, r, caller)
		}
	case len(rest) == 2 && strings.EqualFold(rest[0], "operations"):
		if s.deviceMethod(w, r, caller, http.MethodGet) {
			status, err := s.service.Operation(r.Context(), caller, rest[1])
			s.answerOperation(w, r, caller, status, err)
		}
	case len(rest) == 0:
		if s.deviceMethod(w, r, caller, http.MethodPost) {
			state, err := s.service.LookUp(r.Context(), caller)
			s.answer(w, http.StatusOK, state, err)
		}
	default:
		s.refuseDevice(w, r, caller, notFound("There is nothing at this path."))
	}
}

func (s *server) deviceMethod(w http.ResponseWriter, r *http.Request, caller dpssim.Caller, method string) bool {
	if r.Method == method {
		return true
	}
	w.Header().Set("Allow", method)
	s.refuseDevice(w, r, caller, notAllowed(r.Method))
	return false
}

// refuseDevice refuses a call that the service never gets to see, and records it.
func (s *server) refuseDevice(w http.ResponseWriter, r *http.Request, caller dpssim.Caller, err error) {
	refusal, body := dpssim.Answer(err)
	answer, _ := json.Marshal(body)
	s.service.Record(dpssim.Entry{
		Kind: dpssim.KindRegister, Transport: dpssim.TransportHTTP, RegistrationID: caller.RegistrationID,
		Method: r.Method, URL: r.URL.Path, Status: refusal.Status, Response: answer, DPSEffect: refusal.Message,
	})
	s.refuse(w, err)
}

func notAllowed(method string) error {
	return &dpssim.APIError{Status: http.StatusMethodNotAllowed, Code: dpssim.CodeMethodNotAllowed,
		Message: method + " is not allowed here."}
}

func (s *server) register(w http.ResponseWriter, r *http.Request, caller dpssim.Caller) {
	body, err := readBody(w, r, dpssim.MaxMessage)
	if err != nil {
		s.refuseDevice(w, r, caller, err)
		return
	}
	var request model.RegistrationRequest
	if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, &request); err != nil {
			s.refuseDevice(w, r, caller, badJSON(err))
			return
		}
	}
	status, err := s.service.Register(r.Context(), caller, request)
	s.answerOperation(w, r, caller, status, err)
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
	s.answer(w, dpssim.RegisterStatus(status), status, err)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

func notFound(message string) error {
	return &dpssim.APIError{Status: http.StatusNotFound, Code: dpssim.CodeNotFound, Message: message}
}

func invalid(message string) error {
	return &dpssim.APIError{Status: http.StatusBadRequest, Code: dpssim.CodeInvalidArgument, Message: message}
}

func badJSON(err error) error {
	return invalid("The body is not the JSON that is asked for: " + err.Error())
}

func allowed(s *server, w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, method := range methods {
		if r.Method == method {
			return true
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	s.refuse(w, notAllowed(r.Method))
	return false
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &dpssim.APIError{Status: http.StatusRequestEntityTooLarge, Code: dpssim.CodeTooLarge,
			Message: "The body is longer than " + strconv.FormatInt(limit, 10) + " bytes."}
	case err != nil:
		return nil, invalid("The body could not be read.")
	}
	return body, nil
}

// answer writes a value, or the refusal that err stands for.
func (s *server) answer(w http.ResponseWriter, status int, value any, err error) {
	if err != nil {
		s.refuse(w, err)
		return
	}
	write(w, status, value)
}

func (s *server) refuse(w http.ResponseWriter, err error) {
	refusal, body := dpssim.Answer(err)
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
	w.Header().Set("x-ms-request-id", uuid.NewString())
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that is gone needs no answer
}

// journalled records each call of a handler.
func (s *server) journalled(kind string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		body, err := readBody(w, r, maxServiceBody)
		recorder := &recorder{ResponseWriter: w, status: http.StatusOK}
		if err != nil {
			s.refuse(recorder, err)
		} else {
			r.Body = io.NopCloser(bytes.NewReader(body))
			next.ServeHTTP(recorder, r)
		}
		entry := dpssim.Entry{
			Time: model.Time{Time: start}, Kind: kind, Transport: dpssim.TransportHTTP,
			Method: r.Method, URL: r.URL.Path, Request: dpssim.Mask(body),
			Status: recorder.status, Response: dpssim.Mask(recorder.body.Bytes()),
			DurationMS: float64(time.Since(start).Microseconds()) / 1000,
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
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(data []byte) (int, error) {
	r.body.Write(data)
	return r.ResponseWriter.Write(data)
}
