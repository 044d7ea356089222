package dpssim

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// maxBulk is how many enrollments one bulk operation may hold.
const maxBulk = 10

// maxGroups is how many groups of one kind of attestation DPS holds.
const maxGroups = 100

// Authorize checks the token of a service client. An error is an *[APIError].
func (s *Service) Authorize(sas string) error {
	refuse := func(detail string) error {
		return &APIError{Status: http.StatusUnauthorized, Code: CodeUnauthorized, Message: "Unauthorized", Detail: detail}
	}
	if sas == "" {
		return refuse("the call has no Authorization header")
	}
	token, err := attest.ParseToken(sas)
	if err != nil {
		return refuse(err.Error())
	}
	if err := token.Check(s.config.HostName(), time.Now()); err != nil {
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

func missing(what, id string) *APIError {
	return &APIError{Status: http.StatusNotFound, Code: CodeNotFound, Message: what + " not found.", Detail: cut(id)}
}

func stale(what string) *APIError {
	return &APIError{Status: http.StatusPreconditionFailed, Code: CodeETagMismatch,
		Message: "Precondition failed: the " + what + " is not the one that If-Match names."}
}

// matches compares an If-Match header with an ETag, quoted or not, or base64 of either.
// No header matches all.
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

// PutEnrollment creates or replaces an individual enrollment.
func (s *Service) PutEnrollment(id string, e model.IndividualEnrollment, ifMatch string) (out model.IndividualEnrollment, err error) {
	err = s.store.Update(func(tx *store.Tx) error {
		out, err = s.putEnrollment(tx, id, e, ifMatch)
		return err
	})
	return out, err
}

func (s *Service) putEnrollment(tx *store.Tx, id string, e model.IndividualEnrollment, ifMatch string) (model.IndividualEnrollment, error) {
	if e.RegistrationID == "" {
		e.RegistrationID = id
	}
	if !strings.EqualFold(e.RegistrationID, id) {
		return e, invalidArgument("registrationId: the body says %q, the address %q", cut(e.RegistrationID), cut(id))
	}
	var old model.IndividualEnrollment
	found, err := tx.Get(bucketEnrollments, fold(id), &old)
	if err != nil {
		return e, err
	}
	if !found && ifMatch != "" || found && !matches(ifMatch, old.ETag) {
		return e, stale("enrollment")
	}
	keepSecrets(&e.Attestation, old.Attestation)
	if err := s.checkIndividual(&e); err != nil {
		return e, err
	}
	e.RegistrationState = nil
	stamp(&e.Enrollment, old.Enrollment)
	if err := tx.Put(bucketEnrollments, fold(id), e); err != nil {
		return e, err
	}
	return s.shownEnrollment(tx, e)
}

// PutGroup creates or replaces an enrollment group.
func (s *Service) PutGroup(id string, g model.EnrollmentGroup, ifMatch string) (out model.EnrollmentGroup, err error) {
	err = s.store.Update(func(tx *store.Tx) error {
		out, err = s.putGroup(tx, id, g, ifMatch)
		return err
	})
	s.groupCache.drop()
	return out, err
}

func (s *Service) putGroup(tx *store.Tx, id string, g model.EnrollmentGroup, ifMatch string) (model.EnrollmentGroup, error) {
	if g.EnrollmentGroupID == "" {
		g.EnrollmentGroupID = id
	}
	if !strings.EqualFold(g.EnrollmentGroupID, id) {
		return g, invalidArgument("enrollmentGroupId: the body says %q, the address %q", cut(g.EnrollmentGroupID), cut(id))
	}
	var old model.EnrollmentGroup
	found, err := tx.Get(bucketGroups, fold(id), &old)
	if err != nil {
		return g, err
	}
	if !found && ifMatch != "" || found && !matches(ifMatch, old.ETag) {
		return g, stale("enrollment group")
	}
	keepSecrets(&g.Attestation, old.Attestation)
	if err := s.checkGroup(&g); err != nil {
		return g, err
	}
	if !found {
		if err := roomForGroup(tx, g.Attestation.Type); err != nil {
			return g, err
		}
	}
	stamp(&g.Enrollment, old.Enrollment)
	if err := tx.Put(bucketGroups, fold(id), g); err != nil {
		return g, err
	}
	return shownGroup(g), nil
}

func roomForGroup(tx *store.Tx, kind string) error {
	count := 0
	err := tx.Range(bucketGroups, "", func(_ string, data json.RawMessage) (bool, error) {
		var g model.EnrollmentGroup
		err := json.Unmarshal(data, &g)
		if g.Attestation.Type == kind {
			count++
		}
		return true, err
	})
	if err == nil && count >= maxGroups {
		return invalidArgument("enrollmentGroups: DPS holds %d groups with attestation %s at most", maxGroups, kind)
	}
	return err
}

// stamp sets what the service sets: tag, times, and the status that is meant by none.
func stamp(e *model.Enrollment, old model.Enrollment) {
	now := model.Time{Time: time.Now()}
	e.ETag = newETag()
	e.CreatedDateTimeUTC, e.LastUpdatedDateTimeUTC = old.CreatedDateTimeUTC, &now
	if e.CreatedDateTimeUTC == nil {
		e.CreatedDateTimeUTC = &now
	}
	e.ProvisioningStatus = cmp.Or(e.ProvisioningStatus, model.ProvisioningEnabled)
}

// keepSecrets fills in keys and certificates that a client leaves out because it
// never got to see them: it read the enrollment and puts it back. New symmetric
// keys are made where there were none.
func keepSecrets(a *model.Attestation, old model.Attestation) {
	switch a.Type {
	case model.AttestationSymmetricKey:
		var given, had model.SymmetricKey
		if a.SymmetricKey != nil {
			given = *a.SymmetricKey
		}
		if old.SymmetricKey != nil {
			had = *old.SymmetricKey
		}
		a.SymmetricKey = &model.SymmetricKey{
			PrimaryKey:   cmp.Or(given.PrimaryKey, had.PrimaryKey, randomKey()),
			SecondaryKey: cmp.Or(given.SecondaryKey, had.SecondaryKey, randomKey()),
		}
	case model.AttestationX509:
		if a.X509 != nil && old.X509 != nil {
			keepCertificates(a.X509.ClientCertificates, old.X509.ClientCertificates)
			keepCertificates(a.X509.SigningCertificates, old.X509.SigningCertificates)
		}
	}
}

func keepCertificates(pair, old *model.X509Certificates) {
	if pair == nil || old == nil {
		return
	}
	for _, c := range []struct{ now, before *model.X509Certificate }{{pair.Primary, old.Primary}, {pair.Secondary, old.Secondary}} {
		if c.now != nil && c.before != nil && c.now.Certificate == "" &&
			c.now.Info != nil && c.before.Info != nil && c.now.Info.SHA256Thumbprint == c.before.Info.SHA256Thumbprint {
			c.now.Certificate = c.before.Certificate
		}
	}
}

// shownEnrollment is an enrollment as clients get it: without secrets, with the
// state of the registration.
func (s *Service) shownEnrollment(tx *store.Tx, e model.IndividualEnrollment) (model.IndividualEnrollment, error) {
	e.Attestation = withoutSecrets(e.Attestation)
	var r registration
	found, err := tx.Get(bucketRegistrations, fold(e.RegistrationID), &r)
	if found && r.EnrollmentID != "" {
		state := serviceState(r)
		e.RegistrationState = &state
	}
	return e, err
}

func shownGroup(g model.EnrollmentGroup) model.EnrollmentGroup {
	g.Attestation = withoutSecrets(g.Attestation)
	return g
}

// serviceState is a registration's state as service clients get it: what proved
// the device is for the device.
func serviceState(r registration) model.DeviceRegistrationState {
	state := r.State
	state.X509, state.TPM, state.SymmetricKey = nil, nil, nil
	return state
}

// Enrollment returns an individual enrollment, without keys and certificates.
func (s *Service) Enrollment(id string) (e model.IndividualEnrollment, err error) {
	err = s.store.View(func(tx *store.Tx) error {
		found, err := tx.Get(bucketEnrollments, fold(id), &e)
		if err == nil && !found {
			err = missing("Enrollment", id)
		}
		if err == nil {
			e, err = s.shownEnrollment(tx, e)
		}
		return err
	})
	return e, err
}

// Group returns an enrollment group, without keys and certificates.
func (s *Service) Group(id string) (g model.EnrollmentGroup, err error) {
	err = s.store.View(func(tx *store.Tx) error {
		found, err := tx.Get(bucketGroups, fold(id), &g)
		if err == nil && !found {
			err = missing("Enrollment group", id)
		}
		return err
	})
	return shownGroup(g), err
}

// EnrollmentAttestation returns the attestation of an individual enrollment with its keys.
func (s *Service) EnrollmentAttestation(id string) (model.Attestation, error) {
	return s.attestationMechanism("Enrollment", id, s.findIndividual)
}

// GroupAttestation returns the attestation of a group with its keys.
func (s *Service) GroupAttestation(id string) (model.Attestation, error) {
	return s.attestationMechanism("Enrollment group", id, s.findGroup)
}

func (s *Service) attestationMechanism(what, id string, find func(*store.Tx, string) (*enrollment, error)) (a model.Attestation, err error) {
	err = s.store.View(func(tx *store.Tx) error {
		e, err := find(tx, id)
		if err != nil {
			return err
		}
		if e == nil {
			return missing(what, id)
		}
		a = withoutSecrets(*e.attestation()) // certificates never come back
		a.SymmetricKey = e.attestation().SymmetricKey
		return nil
	})
	return a, err
}

// DeleteEnrollment deletes an individual enrollment and its registration. The
// device stays on its hub.
func (s *Service) DeleteEnrollment(id, ifMatch string) error {
	return s.store.Update(func(tx *store.Tx) error { return s.deleteEnrollment(tx, id, ifMatch) })
}

func (s *Service) deleteEnrollment(tx *store.Tx, id, ifMatch string) error {
	var e model.IndividualEnrollment
	found, err := tx.Get(bucketEnrollments, fold(id), &e)
	switch {
	case err != nil:
		return err
	case !found:
		return missing("Enrollment", id)
	case !matches(ifMatch, e.ETag):
		return stale("enrollment")
	}
	var r registration
	if found, err := tx.Get(bucketRegistrations, fold(id), &r); err != nil {
		return err
	} else if found && r.EnrollmentID != "" {
		if err := tx.Delete(bucketRegistrations, fold(id)); err != nil {
			return err
		}
	}
	if err := tx.Delete(bucketChallenges, fold(id)); err != nil {
		return err
	}
	return tx.Delete(bucketEnrollments, fold(id))
}

// DeleteGroup deletes a group and its registrations. The devices stay on their hubs.
func (s *Service) DeleteGroup(id, ifMatch string) error {
	err := s.store.Update(func(tx *store.Tx) error { return s.deleteGroup(tx, id, ifMatch) })
	s.groupCache.drop()
	return err
}

func (s *Service) deleteGroup(tx *store.Tx, id, ifMatch string) error {
	var g model.EnrollmentGroup
	found, err := tx.Get(bucketGroups, fold(id), &g)
	switch {
	case err != nil:
		return err
	case !found:
		return missing("Enrollment group", id)
	case !matches(ifMatch, g.ETag):
		return stale("enrollment group")
	}
	var keys []string
	if err := tx.Range(bucketRegistrations, "", func(key string, data json.RawMessage) (bool, error) {
		var r registration
		err := json.Unmarshal(data, &r)
		if strings.EqualFold(r.GroupID, id) {
			keys = append(keys, key)
		}
		return true, err
	}); err != nil {
		return err
	}
	for _, key := range keys {
		if err := tx.Delete(bucketRegistrations, key); err != nil {
			return err
		}
	}
	return tx.Delete(bucketGroups, fold(id))
}

// Registration returns the state of a registration.
func (s *Service) Registration(id string) (state model.DeviceRegistrationState, err error) {
	err = s.store.View(func(tx *store.Tx) error {
		var r registration
		found, err := tx.Get(bucketRegistrations, fold(id), &r)
		if err == nil && !found {
			err = missing("Registration", id)
		}
		state = serviceState(r)
		return err
	})
	return state, err
}

// DeleteRegistration deletes the record of a registration: the device's next
// register call is its first again. The device stays on its hub.
func (s *Service) DeleteRegistration(id, ifMatch string) error {
	return s.store.Update(func(tx *store.Tx) error {
		var r registration
		found, err := tx.Get(bucketRegistrations, fold(id), &r)
		switch {
		case err != nil:
			return err
		case !found:
			return missing("Registration", id)
		case !matches(ifMatch, r.State.ETag):
			return stale("registration")
		}
		return tx.Delete(bucketRegistrations, fold(id))
	})
}

// BulkEnrollments makes up to ten changes of individual enrollments, each for itself.
func (s *Service) BulkEnrollments(operation model.BulkOperation) (model.BulkResult, error) {
	if operation.EnrollmentGroups != nil {
		return model.BulkResult{}, invalidArgument("enrollmentGroups: they go to /enrollmentGroups")
	}
	changes := make([]change, len(operation.Enrollments))
	for i, e := range operation.Enrollments {
		id := e.RegistrationID
		changes[i] = change{
			id: id, etag: e.ETag, bucket: bucketEnrollments,
			put: func(tx *store.Tx, ifMatch string) error {
				_, err := s.putEnrollment(tx, id, e, ifMatch)
				return err
			},
			remove: func(tx *store.Tx) error { return s.deleteEnrollment(tx, id, e.ETag) },
			failed: model.BulkError{RegistrationID: id},
		}
	}
	return s.bulk("enrollments", operation.Mode, changes)
}

// BulkGroups makes up to ten changes of groups, each for itself.
func (s *Service) BulkGroups(operation model.BulkOperation) (model.BulkResult, error) {
	if operation.Enrollments != nil {
		return model.BulkResult{}, invalidArgument("enrollments: they go to /enrollments")
	}
	defer s.groupCache.drop()
	changes := make([]change, len(operation.EnrollmentGroups))
	for i, g := range operation.EnrollmentGroups {
		id := g.EnrollmentGroupID
		changes[i] = change{
			id: id, etag: g.ETag, bucket: bucketGroups,
			put: func(tx *store.Tx, ifMatch string) error {
				_, err := s.putGroup(tx, id, g, ifMatch)
				return err
			},
			remove: func(tx *store.Tx) error { return s.deleteGroup(tx, id, g.ETag) },
			failed: model.BulkError{EnrollmentGroupID: id},
		}
	}
	return s.bulk("enrollmentGroups", operation.Mode, changes)
}

// change is one of a bulk operation.
type change struct {
	id, etag, bucket string
	put              func(tx *store.Tx, ifMatch string) error
	remove           func(*store.Tx) error
	failed           model.BulkError
}

func (s *Service) bulk(field, mode string, changes []change) (model.BulkResult, error) {
	if len(changes) == 0 || len(changes) > maxBulk {
		return model.BulkResult{}, invalidArgument("%s: a bulk operation holds from 1 to %d, not %d", field, maxBulk, len(changes))
	}
	var apply func(*store.Tx, change) error
	switch strings.ToLower(mode) {
	case "create":
		apply = func(tx *store.Tx, c change) error {
			var old json.RawMessage
			if found, err := tx.Get(c.bucket, fold(c.id), &old); err != nil {
				return err
			} else if found {
				return &APIError{Status: http.StatusConflict, Code: CodeConflict, Message: "The enrollment exists."}
			}
			return c.put(tx, "")
		}
	case "update":
		apply = func(tx *store.Tx, c change) error { return c.put(tx, "") }
	case "updateifmatchetag":
		apply = func(tx *store.Tx, c change) error {
			if c.etag == "" {
				return invalidArgument("etag: updateIfMatchETag needs it")
			}
			return c.put(tx, c.etag)
		}
	case "delete":
		apply = func(tx *store.Tx, c change) error { return c.remove(tx) }
	default:
		return model.BulkResult{}, invalidArgument("mode: %q is none of create, update, updateIfMatchETag, delete", cut(mode))
	}
	result := model.BulkResult{IsSuccessful: true, Errors: []model.BulkError{}}
	for _, c := range changes {
		err := s.store.Update(func(tx *store.Tx) error { return apply(tx, c) })
		if err != nil {
			refusal, _ := Answer(err)
			c.failed.ErrorCode, c.failed.ErrorStatus = refusal.Code, refusal.Message
			result.Errors = append(result.Errors, c.failed)
			result.IsSuccessful = false
		}
	}
	return result, nil
}

// Page is a part of a query's result.
type Page struct {
	Items        []any
	Continuation string // "" at the end
}

const maxPage = 1000

// queries are those that are understood: all of a kind. The name of the
// collection is not looked at closer, SDKs spell it in many ways.
var queries = regexp.MustCompile(`(?i)^\s*select\s+\*(\s+from\s+[a-z]+)?\s*;?\s*$`)

// QueryEnrollments returns individual enrollments.
func (s *Service) QueryEnrollments(query string, limit int, continuation string) (Page, error) {
	return s.query(query, bucketEnrollments, limit, continuation, func(tx *store.Tx, data json.RawMessage) (any, error) {
		var e model.IndividualEnrollment
		if err := json.Unmarshal(data, &e); err != nil {
			return nil, err
		}
		return s.shownEnrollment(tx, e)
	})
}

// QueryGroups returns enrollment groups.
func (s *Service) QueryGroups(query string, limit int, continuation string) (Page, error) {
	return s.query(query, bucketGroups, limit, continuation, func(_ *store.Tx, data json.RawMessage) (any, error) {
		var g model.EnrollmentGroup
		err := json.Unmarshal(data, &g)
		return shownGroup(g), err
	})
}

// QueryRegistrations returns the states of a group's registrations.
func (s *Service) QueryRegistrations(groupID, query string, limit int, continuation string) (Page, error) {
	if _, err := s.Group(groupID); err != nil {
		return Page{}, err
	}
	return s.query(cmp.Or(query, "select *"), bucketRegistrations, limit, continuation, func(_ *store.Tx, data json.RawMessage) (any, error) {
		var r registration
		err := json.Unmarshal(data, &r)
		if err != nil || !strings.EqualFold(r.GroupID, groupID) {
			return nil, err
		}
		return serviceState(r), nil
	})
}

// query pages through a bucket; show returns nil for what is not in the result.
func (s *Service) query(query, bucket string, limit int, continuation string, show func(*store.Tx, json.RawMessage) (any, error)) (Page, error) {
	if !queries.MatchString(query) {
		return Page{}, invalidArgument("query: %q: the stand-in knows SELECT * FROM enrollments and the like, without WHERE", cut(query))
	}
	after, err := base64.RawURLEncoding.DecodeString(continuation)
	if err != nil {
		return Page{}, invalidArgument("x-ms-continuation: it is not one that the service gave")
	}
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	page := Page{Items: []any{}}
	err = s.store.View(func(tx *store.Tx) error {
		last := ""
		return tx.Range(bucket, string(after), func(key string, data json.RawMessage) (bool, error) {
			item, err := show(tx, data)
			if err != nil || item == nil {
				return true, err
			}
			if len(page.Items) == limit {
				page.Continuation = base64.RawURLEncoding.EncodeToString([]byte(last))
				return false, nil
			}
			page.Items = append(page.Items, item)
			last = key
			return true, nil
		})
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
	JournalEntries   uint64         `json:"journalEntries"` // all that were made
}

// HubOverview is one linked hub.
type HubOverview struct {
	HostName string `json:"hostName"`
	Weight   int    `json:"weight"`
	Trouble  string `json:"trouble,omitempty"`
	Devices  int    `json:"devices"` // that the service has put there
}

// Overview counts.
func (s *Service) Overview() (Overview, error) {
	o := Overview{IDScope: s.config.IDScope, HostName: s.config.HostName(), Registrations: map[string]int{}}
	devices := map[string]int{}
	err := s.store.View(func(tx *store.Tx) error {
		o.Enrollments, o.EnrollmentGroups = tx.Count(bucketEnrollments), tx.Count(bucketGroups)
		return tx.Range(bucketRegistrations, "", func(_ string, data json.RawMessage) (bool, error) {
			var r registration
			if err := json.Unmarshal(data, &r); err != nil {
				return false, err
			}
			o.Registrations[r.State.Status]++
			if r.Hub != "" {
				devices[fold(r.Hub)]++
			}
			return true, nil
		})
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
