package web

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// serviceRoots are the first segments of the service API's paths, in lower case:
// SDKs spell them in several ways.
var serviceRoots = map[string]bool{"enrollments": true, "enrollmentgroups": true, "registrations": true}

// serviceAPI is what service clients manage enrollments with.
func (s *server) serviceAPI(w http.ResponseWriter, r *http.Request) {
	segments, _ := pathSegments(r.URL) // read once before
	if err := s.admit(r); err != nil {
		s.refuse(w, err)
		return
	}
	root, rest := strings.ToLower(segments[0]), segments[1:]
	last := strings.ToLower(segments[len(segments)-1])
	switch {
	case root == "registrations" && len(rest) == 2 && last == "query":
		if allowed(s, w, r, http.MethodPost) {
			s.query(w, r, "deviceRegistration", func(query string, limit int, continuation string) (dpssim.Page, error) {
				return s.service.QueryRegistrations(rest[0], query, limit, continuation)
			})
		}
	case root == "registrations" && len(rest) == 1:
		s.registration(w, r, rest[0])
	case len(rest) == 0 && root == "enrollments":
		bulk(s, w, r, s.service.BulkEnrollments)
	case len(rest) == 0 && root == "enrollmentgroups":
		bulk(s, w, r, s.service.BulkGroups)
	case len(rest) == 1 && last == "query" && r.Method == http.MethodPost && root == "enrollments":
		s.query(w, r, "enrollment", s.service.QueryEnrollments)
	case len(rest) == 1 && last == "query" && r.Method == http.MethodPost && root == "enrollmentgroups":
		s.query(w, r, "enrollmentGroup", s.service.QueryGroups)
	case len(rest) == 1 && root == "enrollments":
		resource(s, w, r, rest[0], s.service.Enrollment, s.service.PutEnrollment, s.service.DeleteEnrollment)
	case len(rest) == 1 && root == "enrollmentgroups":
		resource(s, w, r, rest[0], s.service.Group, s.service.PutGroup, s.service.DeleteGroup)
	case len(rest) == 2 && last == "attestationmechanism" && root == "enrollments":
		s.attestation(w, r, rest[0], s.service.EnrollmentAttestation)
	case len(rest) == 2 && last == "attestationmechanism" && root == "enrollmentgroups":
		s.attestation(w, r, rest[0], s.service.GroupAttestation)
	default:
		s.refuse(w, notFound("There is nothing at this path."))
	}
}

// admit checks what all calls need.
func (s *server) admit(r *http.Request) error {
	if err := s.service.Authorize(r.Header.Get("Authorization")); err != nil {
		return err
	}
	if r.URL.Query().Get("api-version") == "" {
		return invalid("api-version: it is missing")
	}
	return s.service.ThrottleService()
}

func resource[T any](s *server, w http.ResponseWriter, r *http.Request, id string,
	get func(string) (T, error), put func(string, T, string) (T, error), remove func(string, string) error,
) {
	if !allowed(s, w, r, http.MethodGet, http.MethodPut, http.MethodDelete) {
		return
	}
	ifMatch := r.Header.Get("If-Match")
	switch r.Method {
	case http.MethodGet:
		value, err := get(id)
		s.answer(w, http.StatusOK, value, err)
	case http.MethodDelete:
		s.answerDelete(w, remove(id, ifMatch))
	case http.MethodPut:
		var value T
		if err := decode(w, r, &value); err != nil {
			s.refuse(w, err)
			return
		}
		saved, err := put(id, value, ifMatch)
		s.answer(w, http.StatusOK, saved, err)
	}
}

func (s *server) answerDelete(w http.ResponseWriter, err error) {
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) registration(w http.ResponseWriter, r *http.Request, id string) {
	if !allowed(s, w, r, http.MethodGet, http.MethodDelete) {
		return
	}
	if r.Method == http.MethodDelete {
		s.answerDelete(w, s.service.DeleteRegistration(id, r.Header.Get("If-Match")))
		return
	}
	state, err := s.service.Registration(id)
	s.answer(w, http.StatusOK, state, err)
}

func (s *server) attestation(w http.ResponseWriter, r *http.Request, id string, get func(string) (model.Attestation, error)) {
	if allowed(s, w, r, http.MethodPost) {
		attestation, err := get(id)
		s.answer(w, http.StatusOK, attestation, err)
	}
}

func bulk(s *server, w http.ResponseWriter, r *http.Request, apply func(model.BulkOperation) (model.BulkResult, error)) {
	if !allowed(s, w, r, http.MethodPost) {
		return
	}
	var operation model.BulkOperation
	if err := decode(w, r, &operation); err != nil {
		s.refuse(w, err)
		return
	}
	result, err := apply(operation)
	s.answer(w, http.StatusOK, result, err)
}

const (
	headerMaxItems     = "x-ms-max-item-count"
	headerContinuation = "x-ms-continuation"
	headerItemType     = "x-ms-item-type"
)

func (s *server) query(w http.ResponseWriter, r *http.Request, itemType string, run func(query string, limit int, continuation string) (dpssim.Page, error)) {
	var query model.Query
	if err := decode(w, r, &query); err != nil {
		s.refuse(w, err)
		return
	}
	limit := 0
	if text := r.Header.Get(headerMaxItems); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 && limit != -1 {
			s.refuse(w, invalid(headerMaxItems+": "+strconv.Quote(text)+" is not a number of items"))
			return
		}
	}
	page, err := run(query.Query, limit, r.Header.Get(headerContinuation))
	if err == nil {
		w.Header().Set(headerItemType, itemType)
		if page.Continuation != "" {
			w.Header().Set(headerContinuation, page.Continuation)
		}
	}
	s.answer(w, http.StatusOK, page.Items, err)
}

func decode(w http.ResponseWriter, r *http.Request, value any) error {
	body, err := readBody(w, r, maxServiceBody)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, value); err != nil {
		return badJSON(err)
	}
	return nil
}
