package dpssim

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// maxBulk is how many enrollments one bulk operation may hold.
const maxBulk = 10

// maxGroups is how many groups of one kind of attestation DPS holds.
const maxGroups = 100

// Collection manages the enrollments of one kind for service clients. Its errors are *[APIError].
type Collection struct {
	service   *Service
	bucket    string
	noun      string // in messages
	idField   string // in JSON
	newRecord func() model.Record
}

// New returns an empty enrollment of the kind.
func (c *Collection) New() model.Record { return c.newRecord() }

// find returns nil if there is no such enrollment.
func (c *Collection) find(tx *store.Tx, id string) (*enrollment, error) {
	record := c.newRecord()
	found, err := tx.Get(c.bucket, fold(id), record)
	if err != nil || !found {
		return nil, err
	}
	return c.service.newEnrollment(record), nil
}

// lookUp is find in a transaction of its own.
func (c *Collection) lookUp(id string) (e *enrollment, err error) {
	err = c.service.store.View(func(tx *store.Tx) (err error) {
		e, err = c.find(tx, id)
		return err
	})
	return e, err
}

func (c *Collection) mustFind(tx *store.Tx, id string) (*enrollment, error) {
	e, err := c.find(tx, id)
	if err == nil && e == nil {
		err = notFound(c.noun, id)
	}
	return e, err
}

// Get returns an enrollment without keys and certificates.
func (c *Collection) Get(id string) (record model.Record, err error) {
	err = c.service.store.View(func(tx *store.Tx) error {
		e, err := c.mustFind(tx, id)
		if err != nil {
			return err
		}
		record = e.record
		return c.present(tx, record)
	})
	return record, err
}

// present makes of an enrollment what clients get: without secrets, with the state of the registration.
func (c *Collection) present(tx *store.Tx, record model.Record) error {
	hideSecrets(record)
	individual, ok := record.(*model.IndividualEnrollment)
	if !ok {
		return nil
	}
	var r registration
	found, err := tx.Get(bucketRegistrations, fold(individual.RegistrationID), &r)
	if found && r.EnrollmentID != "" {
		individual.RegistrationState = r.serviceState()
	}
	return err
}

func hideSecrets(record model.Record) {
	common := record.Common()
	common.Attestation = withoutSecrets(common.Attestation)
}

// Attestation returns an enrollment's attestation with its keys. Certificates are never returned.
func (c *Collection) Attestation(id string) (a model.Attestation, err error) {
	err = c.service.store.View(func(tx *store.Tx) error {
		e, err := c.mustFind(tx, id)
		if err != nil {
			return err
		}
		a = withoutSecrets(e.Attestation)
		a.SymmetricKey = e.Attestation.SymmetricKey
		return nil
	})
	return a, err
}

// Put creates an enrollment or, with the old one's ETag or * in ifMatch, replaces it. It makes of record what
// [Collection.Get] would return.
func (c *Collection) Put(id string, record model.Record, ifMatch string) error {
	defer c.service.groupCache.drop()
	return c.service.store.Update(func(tx *store.Tx) error { return c.put(tx, id, record, ifMatch) })
}

func (c *Collection) put(tx *store.Tx, id string, record model.Record, ifMatch string) error {
	*record.ID() = cmp.Or(*record.ID(), id)
	if !strings.EqualFold(*record.ID(), id) {
		return invalidArgument("%s: %q in the body, %q in the path", c.idField, cut(*record.ID()), cut(id))
	}
	old := c.newRecord()
	found, err := tx.Get(c.bucket, fold(id), old)
	if err != nil {
		return err
	}
	switch {
	case found && ifMatch == "":
		return &APIError{Status: http.StatusConflict, Code: CodeConflict, Message: "Enrollment already exists.",
			Detail: "the call replaces it if If-Match has its ETag, or *"}
	case !found && ifMatch != "" || found && !matches(ifMatch, old.Common().ETag):
		return staleETag(strings.ToLower(c.noun))
	}
	common := record.Common()
	readNames(common)
	keepSecrets(&common.Attestation, old.Common().Attestation)
	if err := c.check(record); err != nil {
		return err
	}
	switch record := record.(type) {
	case *model.IndividualEnrollment:
		record.RegistrationState = nil
	case *model.EnrollmentGroup:
		if found {
			break
		}
		if err := c.checkRoom(tx, common.Attestation.Type); err != nil {
			return err
		}
	}
	now := model.Time{Time: time.Now()}
	common.ETag = newETag()
	common.CreatedDateTimeUTC, common.LastUpdatedDateTimeUTC = cmp.Or(old.Common().CreatedDateTimeUTC, &now), &now
	common.ProvisioningStatus = cmp.Or(common.ProvisioningStatus, model.ProvisioningEnabled)
	if err := tx.Put(c.bucket, fold(id), record); err != nil {
		return err
	}
	return c.present(tx, record)
}

// checkRoom refuses one group more than DPS holds.
func (c *Collection) checkRoom(tx *store.Tx, attestation string) error {
	count := 0
	for group, err := range store.All[model.EnrollmentGroup](tx, c.bucket, "") {
		if err != nil {
			return err
		}
		if group.Value.Attestation.Type == attestation {
			count++
		}
	}
	if count >= maxGroups {
		return invalidArgument("enrollmentGroups: DPS holds at most %d groups with attestation %s", maxGroups, attestation)
	}
	return nil
}

// keepSecrets fills in keys and certificates that a client leaves out because it never got them: it read the enrollment
// and puts it back. New symmetric keys are made where there were none.
func keepSecrets(a *model.Attestation, old model.Attestation) {
	switch a.Type {
	case model.AttestationSymmetricKey:
		given, had := cmp.Or(a.SymmetricKey, &model.SymmetricKey{}), cmp.Or(old.SymmetricKey, &model.SymmetricKey{})
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

// Delete deletes an enrollment and its registrations. The devices stay on their hubs.
func (c *Collection) Delete(id, ifMatch string) error {
	defer c.service.groupCache.drop()
	return c.service.store.Update(func(tx *store.Tx) error { return c.delete(tx, id, ifMatch) })
}

func (c *Collection) delete(tx *store.Tx, id, ifMatch string) error {
	e, err := c.mustFind(tx, id)
	if err != nil {
		return err
	}
	if !matches(ifMatch, e.ETag) {
		return staleETag(strings.ToLower(c.noun))
	}
	keys, err := registrationsOf(tx, e)
	if err != nil {
		return err
	}
	for _, key := range keys {
		err = errors.Join(err, tx.Delete(bucketRegistrations, key))
	}
	if !e.isGroup {
		err = errors.Join(err, tx.Delete(bucketChallenges, fold(id)))
	}
	return errors.Join(err, tx.Delete(c.bucket, fold(id)))
}

// registrationsOf returns the keys of an enrollment's registrations.
func registrationsOf(tx *store.Tx, e *enrollment) (keys []string, err error) {
	if !e.isGroup {
		var r registration
		if _, err = tx.Get(bucketRegistrations, fold(e.id), &r); r.EnrollmentID != "" {
			keys = append(keys, fold(e.id))
		}
		return keys, err
	}
	for r, err := range store.All[registration](tx, bucketRegistrations, "") {
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(r.Value.GroupID, e.id) {
			keys = append(keys, r.Key)
		}
	}
	return keys, nil
}

// Bulk makes up to ten changes, each of which succeeds or fails by itself.
func (c *Collection) Bulk(operation model.BulkOperation) (model.BulkResult, error) {
	var records, foreign []model.Record
	for i := range operation.Enrollments {
		records = append(records, &operation.Enrollments[i])
	}
	for i := range operation.EnrollmentGroups {
		foreign = append(foreign, &operation.EnrollmentGroups[i])
	}
	isGroups, other := c == &c.service.Groups, &c.service.Groups
	if isGroups {
		records, foreign, other = foreign, records, &c.service.Enrollments
	}
	if len(foreign) > 0 {
		return model.BulkResult{}, invalidArgument("%s: they go to /%[1]s", other.bucket)
	}
	if len(records) == 0 || len(records) > maxBulk {
		return model.BulkResult{}, invalidArgument("%s: a bulk operation has 1 to %d of them, not %d", c.bucket, maxBulk, len(records))
	}
	defer c.service.groupCache.drop()
	result := model.BulkResult{IsSuccessful: true, Errors: []model.BulkError{}}
	for _, record := range records {
		change, err := c.change(operation.Mode, record)
		if err != nil {
			return model.BulkResult{}, err
		}
		if err := c.service.store.Update(change); err != nil {
			refusal, _ := Answer(err)
			failed := model.BulkError{ErrorCode: refusal.Code, ErrorStatus: refusal.Message}
			if isGroups {
				failed.EnrollmentGroupID = *record.ID()
			} else {
				failed.RegistrationID = *record.ID()
			}
			result.Errors = append(result.Errors, failed)
			result.IsSuccessful = false
		}
	}
	return result, nil
}

// change is one change of a bulk operation.
func (c *Collection) change(mode string, record model.Record) (func(*store.Tx) error, error) {
	id, etag := *record.ID(), record.Common().ETag
	switch strings.ToLower(mode) {
	case "create":
		return func(tx *store.Tx) error { return c.put(tx, id, record, "") }, nil
	case "update":
		return func(tx *store.Tx) error {
			ifMatch := ""
			if found, err := tx.Get(c.bucket, fold(id), new(json.RawMessage)); err != nil {
				return err
			} else if found {
				ifMatch = "*"
			}
			return c.put(tx, id, record, ifMatch)
		}, nil
	case "updateifmatchetag":
		return func(tx *store.Tx) error {
			if etag == "" {
				return invalidArgument("etag is missing, and updateIfMatchETag needs it")
			}
			return c.put(tx, id, record, etag)
		}, nil
	case "delete":
		return func(tx *store.Tx) error { return c.delete(tx, id, etag) }, nil
	}
	return nil, invalidArgument("mode: %q is none of create, update, updateIfMatchETag, delete", cut(mode))
}

// Query returns a page of all enrollments. Unlike [Collection.Get], it leaves out the states of registrations.
func (c *Collection) Query(limit int, continuation string) (Page, error) {
	return c.service.query(c.bucket, limit, continuation, func(data json.RawMessage) (any, error) {
		record := c.newRecord()
		err := json.Unmarshal(data, record)
		hideSecrets(record)
		return record, err
	})
}
