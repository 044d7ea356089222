package dpssim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/entra"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// Authorize checks the Authorization header of a service client: a SharedAccessSignature, or an access token of Entra. An
// error is an *[APIError].
func (s *Service) Authorize(authorization string) error {
	refuse := func(detail string) error {
		return &APIError{Status: http.StatusUnauthorized, Code: CodeUnauthorized, Message: "Unauthorized", Detail: detail}
	}
	if authorization == "" {
		return refuse("the call has no Authorization header")
	}
	if access, ok := entra.Token(authorization); ok {
		if err := s.config.Entra.Check(access, entra.AudienceDPS, time.Now()); err != nil {
			return refuse(err.Error())
		}
		return nil
	}
	token, err := attest.ParseToken(authorization)
	if err == nil {
		err = token.Check(s.config.HostName(), time.Now())
	}
	if err != nil {
		return refuse(err.Error())
	}
	for _, policy := range s.config.Policies {
		if policy.Name == token.KeyName {
			if token.SignedWithEither(policy.PrimaryKey, policy.SecondaryKey) {
				return nil
			}
			return refuse("the token is not signed with a key of policy " + policy.Name)
		}
	}
	return refuse(fmt.Sprintf("there is no shared access policy %q", cut(token.KeyName)))
}

// matches compares an If-Match header with an ETag; each may be quoted, and base64 of a quoted tag. No header matches
// every ETag: a deletion needs none.
func matches(ifMatch, etag string) bool {
	return ifMatch == "" || ifMatch == "*" || bareETag(ifMatch) == bareETag(etag)
}

func bareETag(tag string) string {
	tag = strings.Trim(tag, `"`)
	if decoded, err := base64.StdEncoding.DecodeString(tag); err == nil && strings.HasPrefix(string(decoded), `"`) {
		tag = string(decoded)
	}
	return strings.Trim(tag, `"`)
}

// Registration returns the state of a registration.
func (s *Service) Registration(id string) (*model.DeviceRegistrationState, error) {
	r, err := s.readRegistration(id)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, notFound("Registration", id)
	}
	return r.serviceState(), nil
}

// serviceState is a registration's state as service clients get it: without what proved the device and the certificate
// that was issued to it, which only the device gets.
func (r *registration) serviceState() *model.DeviceRegistrationState {
	state := r.State
	state.X509, state.TPM, state.SymmetricKey, state.IssuedCertificateChain = nil, nil, nil, nil
	return &state
}

// DeleteRegistration deletes the record of a registration: the device's next register call is its first again. The
// device stays on its hub.
func (s *Service) DeleteRegistration(id, ifMatch string) error {
	return s.store.Update(func(tx *store.Tx) error {
		var r registration
		found, err := tx.Get(bucketRegistrations, fold(id), &r)
		switch {
		case err != nil:
			return err
		case !found:
			return notFound("Registration", id)
		case !matches(ifMatch, r.State.ETag):
			return staleETag("registration")
		}
		return tx.Delete(bucketRegistrations, fold(id))
	})
}

// QueryRegistrations returns the states of a group's registrations.
func (s *Service) QueryRegistrations(groupID string, limit int, continuation string) (Page, error) {
	if _, err := s.Groups.Get(groupID); err != nil {
		return Page{}, err
	}
	return s.query(bucketRegistrations, limit, continuation, func(data json.RawMessage) (any, error) {
		var r registration
		err := json.Unmarshal(data, &r)
		if err != nil || !strings.EqualFold(r.GroupID, groupID) {
			return nil, err
		}
		return r.serviceState(), nil
	})
}

// Page is a part of a query's result.
type Page struct {
	Items        []any
	Limit        int    // how many items a page has at most
	Continuation string // "" at the end
}

const maxPage = 1000

// query pages through a bucket; what a client asks for makes no difference, as at DPS. present returns nil for what is
// not in the result.
func (s *Service) query(bucket string, limit int, continuation string, present func(json.RawMessage) (any, error)) (Page, error) {
	after, err := base64.RawURLEncoding.DecodeString(continuation)
	if err != nil {
		return Page{}, invalidArgument("x-ms-continuation: it is not one that the service returned")
	}
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	page := Page{Items: []any{}, Limit: limit}
	err = s.store.View(func(tx *store.Tx) error {
		last := ""
		for value, err := range store.All[json.RawMessage](tx, bucket, string(after)) {
			if err != nil {
				return err
			}
			item, err := present(value.Value)
			if err != nil {
				return err
			}
			if item == nil {
				continue
			}
			if len(page.Items) == limit {
				page.Continuation = base64.RawURLEncoding.EncodeToString([]byte(last))
				break
			}
			page.Items = append(page.Items, item)
			last = value.Key
		}
		return nil
	})
	return page, err
}

// Overview is the state of the service in numbers.
type Overview struct {
	IDScope          string         `json:"idScope"`
	HostName         string         `json:"hostName"`
	Enrollments      int            `json:"enrollments"`
	EnrollmentGroups int            `json:"enrollmentGroups"`
	Registrations    map[string]int `json:"registrations"` // by status
	Hubs             []HubOverview  `json:"hubs"`
	JournalEntries   uint64         `json:"journalEntries"` // all that were ever made
}

// HubOverview is one linked hub.
type HubOverview struct {
	HostName string `json:"hostName"`
	Weight   int    `json:"weight"`
	Trouble  string `json:"trouble,omitempty"`
	Devices  int    `json:"devices"` // that the service put there
}

// Overview counts what the service holds.
func (s *Service) Overview() (Overview, error) {
	o := Overview{IDScope: s.config.IDScope, HostName: s.config.HostName(), Registrations: map[string]int{}}
	devices := map[string]int{}
	err := s.store.View(func(tx *store.Tx) error {
		o.Enrollments, o.EnrollmentGroups = tx.Count(s.Enrollments.bucket), tx.Count(s.Groups.bucket)
		for r, err := range store.All[registration](tx, bucketRegistrations, "") {
			if err != nil {
				return err
			}
			o.Registrations[r.Value.State.Status]++
			if r.Value.Hub != "" {
				devices[fold(r.Value.Hub)]++
			}
		}
		return nil
	})
	for _, hub := range s.config.Hubs {
		o.Hubs = append(o.Hubs, HubOverview{
			HostName: hub.HostName, Weight: hub.Weight,
			Trouble: s.trouble.hub(hub.HostName), Devices: devices[fold(hub.HostName)],
		})
	}
	o.JournalEntries = s.Journal(0, 0, JournalFilter{}).Last
	return o, err
}
