package web

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/usher-dps/usher/internal/standin/dpssim"
)

// Pages of the journal.
const (
	defaultEntries = 100
	maxEntries     = 1000
)

// managementHandler serves what DPS does not have:
//
//	GET /_/journal?after=ID&limit=N&registrationId=&kind=
//	GET, PUT /_/trouble
//	GET /_/state
func (s *server) managementHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, call func(http.ResponseWriter, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			value, err := call(w, r)
			answer(w, http.StatusOK, value, err)
		})
	}
	handle("GET /_/journal", s.journal)
	handle("GET /_/trouble", func(http.ResponseWriter, *http.Request) (any, error) { return s.service.Trouble(), nil })
	handle("PUT /_/trouble", s.setTrouble)
	handle("GET /_/state", func(http.ResponseWriter, *http.Request) (any, error) { return s.service.Overview() })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLocal(hostName(r)) {
			// A page of another site whose name was pointed here must not read the journal.
			refuse(w, &dpssim.APIError{Status: http.StatusForbidden, Code: dpssim.CodeInvalidArgument,
				Message: "Use localhost, an IP address or a name without dots for /_/."})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func isLocal(host string) bool {
	return net.ParseIP(host) != nil || !strings.Contains(host, ".") || strings.HasSuffix(host, dpsSuffix)
}

func (s *server) journal(_ http.ResponseWriter, r *http.Request) (any, error) {
	query := r.URL.Query()
	after, err := number(query.Get("after"), 0)
	if err != nil {
		return nil, invalid("after: " + err.Error())
	}
	limit, err := number(query.Get("limit"), defaultEntries)
	if err != nil || limit == 0 {
		return nil, invalid("limit: it is not a number above 0")
	}
	return s.service.Journal(after, int(min(limit, maxEntries)), dpssim.JournalFilter{
		RegistrationID: query.Get("registrationId"),
		Kind:           query.Get("kind"),
	}), nil
}

func number(text string, byDefault uint64) (uint64, error) {
	if text == "" {
		return byDefault, nil
	}
	return strconv.ParseUint(text, 10, 63)
}

func (s *server) setTrouble(w http.ResponseWriter, r *http.Request) (any, error) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "application/json" {
		return nil, &dpssim.APIError{Status: http.StatusUnsupportedMediaType, Code: dpssim.CodeInvalidArgument,
			Message: "Content-Type must be application/json."}
	}
	body, err := readBody(w, r, maxBody)
	if err != nil {
		return nil, err
	}
	trouble, err := dpssim.ParseTrouble(body)
	if err == nil {
		err = s.service.SetTrouble(trouble)
	}
	if err != nil {
		return nil, invalid(err.Error())
	}
	return s.service.Trouble(), nil
}
