package web

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/usher-dps/usher/internal/standin/dpssim"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// serviceRoots are the first segments of the service API's paths, in lower case, because SDKs spell them in several
// ways.
var serviceRoots = map[string]bool{"enrollments": true, "enrollmentgroups": true, "registrations": true}

// serviceAPI is the API with which service clients manage enrollments and registrations. No value means 204.
func (s *server) serviceAPI(w http.ResponseWriter, r *http.Request) (any, error) {
	segments, err := pathSegments(r.URL)
	if err == nil {
		err = s.admit(r)
	}
	if err != nil {
		return nil, err
	}
	root, rest := strings.ToLower(segments[0]), segments[1:]
	last := strings.ToLower(segments[len(segments)-1])
	collection, itemType := &s.service.Enrollments, "enrollment"
	if root == "enrollmentgroups" {
		collection, itemType = &s.service.Groups, "enrollmentGroup"
	}
	switch {
	case root == "registrations" && len(rest) == 2 && last == "query":
		// The specification gives this query no body; SDKs send one, or none.
		return query(w, r, "deviceRegistration", func(limit int, continuation string) (dpssim.Page, error) {
			return s.service.QueryRegistrations(rest[0], limit, continuation)
		})
	case root == "registrations" && len(rest) == 1:
		return s.registration(w, r, rest[0])
	case root == "registrations":
		return nil, notFound()
	case len(rest) == 0:
		return bulk(w, r, collection)
	case len(rest) == 1 && last == "query" && r.Method == http.MethodPost:
		var specification model.Query
		if err := decode(w, r, maxBody, &specification); err != nil {
			return nil, err
		}
		return query(w, r, itemType, collection.Query)
	case len(rest) == 1:
		return enrollment(w, r, collection, rest[0])
	case len(rest) == 2 && last == "attestationmechanism":
		if err := allow(w, r, http.MethodPost); err != nil {
			return nil, err
		}
		return collection.Attestation(rest[0])
	}
	return nil, notFound()
}

// admit checks what every call needs.
func (s *server) admit(r *http.Request) error {
	if err := s.service.Authorize(r.Header.Get("Authorization")); err != nil {
		return err
	}
	if err := dpssim.CheckVersion(apiVersion(r)); err != nil {
		return err
	}
	return s.service.ThrottleService()
}

func apiVersion(r *http.Request) string { return r.URL.Query().Get("api-version") }

func enrollment(w http.ResponseWriter, r *http.Request, collection *dpssim.Collection, id string) (any, error) {
	if err := allow(w, r, http.MethodGet, http.MethodPut, http.MethodDelete); err != nil {
		return nil, err
	}
	ifMatch := r.Header.Get("If-Match")
	switch r.Method {
	case http.MethodGet:
		record, err := collection.Get(id)
		if err == nil {
			model.Shape(record, apiVersion(r))
		}
		return record, err
	case http.MethodDelete:
		return nil, collection.Delete(id, ifMatch)
	}
	record := collection.New()
	if err := decode(w, r, maxBody, record); err != nil {
		return nil, err
	}
	model.Shape(record, apiVersion(r))
	return record, collection.Put(id, record, ifMatch)
}

func bulk(w http.ResponseWriter, r *http.Request, collection *dpssim.Collection) (any, error) {
	if err := allow(w, r, http.MethodPost); err != nil {
		return nil, err
	}
	var operation model.BulkOperation
	if err := decode(w, r, maxBody, &operation); err != nil {
		return nil, err
	}
	for i := range operation.Enrollments {
		model.Shape(&operation.Enrollments[i], apiVersion(r))
	}
	for i := range operation.EnrollmentGroups {
		model.Shape(&operation.EnrollmentGroups[i], apiVersion(r))
	}
	return collection.Bulk(operation)
}

func (s *server) registration(w http.ResponseWriter, r *http.Request, id string) (any, error) {
	if err := allow(w, r, http.MethodGet, http.MethodDelete); err != nil {
		return nil, err
	}
	if r.Method == http.MethodDelete {
		return nil, s.service.DeleteRegistration(id, r.Header.Get("If-Match"))
	}
	return s.service.Registration(id)
}

const (
	headerMaxItems     = "x-ms-max-item-count"
	headerContinuation = "x-ms-continuation"
	headerItemType     = "x-ms-item-type"
)

func query(w http.ResponseWriter, r *http.Request, itemType string, run func(limit int, continuation string) (dpssim.Page, error)) (any, error) {
	if err := allow(w, r, http.MethodPost); err != nil {
		return nil, err
	}
	limit := 0
	if text := r.Header.Get(headerMaxItems); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 && limit != -1 {
			return nil, invalid(headerMaxItems + ": " + strconv.Quote(text) + " is not a number of items")
		}
	}
	page, err := run(limit, r.Header.Get(headerContinuation))
	if err != nil {
		return nil, err
	}
	for _, item := range page.Items {
		if record, ok := item.(model.Record); ok {
			model.Shape(record, apiVersion(r))
		}
	}
	w.Header().Set(headerItemType, itemType)
	w.Header().Set(headerMaxItems, strconv.Itoa(page.Limit))
	if page.Continuation != "" {
		w.Header().Set(headerContinuation, page.Continuation)
	}
	return page.Items, nil
}
