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
	usualEntries = 100
	mostEntries  = 1000
)

// managementHandler serves what DPS has not:
//
//	GET /_/journal?after=ID&limit=N&registrationId=&kind=
//	GET, PUT /_/trouble
//	GET /_/state
func (s *server) managementHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_/journal", s.journal)
	mux.HandleFunc("GET /_/trouble", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, s.service.Trouble())
	})
	mux.HandleFunc("PUT /_/trouble", s.setTrouble)
	mux.HandleFunc("GET /_/state", func(w http.ResponseWriter, _ *http.Request) {
		overview, err := s.service.Overview()
		s.answer(w, http.StatusOK, overview, err)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !near(hostName(r)) {
			// A page of some other site whose name was pointed here must not read the journal.
			s.refuse(w, &dpssim.APIError{Status: http.StatusForbidden, Code: dpssim.CodeInvalidArgument,
				Message: "Ask for /_/ by localhost, an IP address or a name without dots."})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func near(host string) bool {
	return net.ParseIP(host) != nil || !strings.Contains(host, ".") || strings.HasSuffix(host, dpsSuffix)
}

func (s *server) journal(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	after, err := number(query.Get("after"), 0)
	if err != nil {
		s.refuse(w, invalid("after: "+err.Error()))
		return
	}
	limit, err := number(query.Get("limit"), usualEntries)
	if err != nil || limit == 0 {
		s.refuse(w, invalid("limit: it is not a number above 0"))
		return
	}
	write(w, http.StatusOK, s.service.Journal(after, int(min(limit, mostEntries)), dpssim.JournalFilter{
		RegistrationID: query.Get("registrationId"),
		Kind:           query.Get("kind"),
	}))
}

func number(text string, usual uint64) (uint64, error) {
	if text == "" {
		return usual, nil
	}
	return strconv.ParseUint(text, 10, 63)
}

func (s *server) setTrouble(w http.ResponseWriter, r *http.Request) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "application/json" {
		s.refuse(w, &dpssim.APIError{Status: http.StatusUnsupportedMediaType, Code: dpssim.CodeInvalidArgument,
			Message: "Content-Type: it must be application/json."})
		return
	}
	body, err := readBody(w, r, maxServiceBody)
	if err != nil {
		s.refuse(w, err)
		return
	}
	trouble, err := dpssim.ParseTrouble(body)
	if err == nil {
		err = s.service.SetTrouble(trouble)
	}
	if err != nil {
		s.refuse(w, invalid(err.Error()))
		return
	}
	write(w, http.StatusOK, s.service.Trouble())
}
