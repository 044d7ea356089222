package dpssim

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"strings"
	"sync"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// Buckets of the store. Keys are ids in lower case, for DPS takes ids that
// differ in case alone for one.
const (
	bucketEnrollments   = "enrollments"
	bucketGroups        = "enrollmentGroups"
	bucketRegistrations = "registrations"
	bucketChallenges    = "tpmChallenges"
)

func fold(id string) string { return strings.ToLower(id) }

// enrollment is either kind of enrollment, with its certificates parsed.
type enrollment struct {
	individual *model.IndividualEnrollment
	group      *model.EnrollmentGroup

	// client certificates of an individual enrollment, signing certificates of
	// either kind, those behind caReferences included.
	client, signing []*x509.Certificate
}

func (s *Service) individualEnrollment(record *model.IndividualEnrollment) *enrollment {
	e := &enrollment{individual: record}
	e.parseCertificates(s.config.Certificates)
	return e
}

func (s *Service) groupEnrollment(record *model.EnrollmentGroup) *enrollment {
	e := &enrollment{group: record}
	e.parseCertificates(s.config.Certificates)
	return e
}

func (e *enrollment) id() string {
	if e.individual != nil {
		return e.individual.RegistrationID
	}
	return e.group.EnrollmentGroupID
}

// groupID is "" for an individual enrollment.
func (e *enrollment) groupID() string {
	if e.group == nil {
		return ""
	}
	return e.group.EnrollmentGroupID
}

func (e *enrollment) attestation() *model.Attestation {
	if e.individual != nil {
		return &e.individual.Attestation
	}
	return &e.group.Attestation
}

func (e *enrollment) common() *model.Enrollment {
	if e.individual != nil {
		return &e.individual.Enrollment
	}
	return &e.group.Enrollment
}

// deviceID is the one on the hub: an individual enrollment may name it.
func (e *enrollment) deviceID(registrationID string) string {
	if e.individual != nil && e.individual.DeviceID != "" {
		return e.individual.DeviceID
	}
	return registrationID
}

func (e *enrollment) parseCertificates(uploaded []CACertificate) {
	x := e.attestation().X509
	if e.attestation().Type != model.AttestationX509 || x == nil {
		return
	}
	e.client = parsed(x.ClientCertificates)
	e.signing = parsed(x.SigningCertificates)
	if x.CAReferences != nil {
		for _, ca := range uploaded {
			if ca.Name == x.CAReferences.Primary || ca.Name == x.CAReferences.Secondary {
				e.signing = append(e.signing, ca.Certificate)
			}
		}
	}
}

func parsed(pair *model.X509Certificates) (certificates []*x509.Certificate) {
	if pair == nil {
		return nil
	}
	for _, one := range []*model.X509Certificate{pair.Primary, pair.Secondary} {
		if one == nil {
			continue
		}
		if certificate, err := attest.ParseCertificate(one.Certificate); err == nil { // checked when it was put
			certificates = append(certificates, certificate)
		}
	}
	return certificates
}

// groupCache holds the groups parsed; each register call looks at all of them.
type groupCache struct {
	mu     sync.Mutex
	valid  bool
	groups []*enrollment
}

func (c *groupCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.valid, c.groups = false, nil
}

func (s *Service) groups() ([]*enrollment, error) {
	c := &s.groupCache
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.valid {
		return c.groups, nil
	}
	var groups []*enrollment
	err := s.store.View(func(tx *store.Tx) error {
		return tx.Range(bucketGroups, "", func(_ string, data json.RawMessage) (bool, error) {
			record := new(model.EnrollmentGroup)
			if err := json.Unmarshal(data, record); err != nil {
				return false, err
			}
			groups = append(groups, s.groupEnrollment(record))
			return true, nil
		})
	})
	if err == nil {
		c.valid, c.groups = true, groups
	}
	return groups, err
}

// findIndividual returns nil if there is none.
func (s *Service) findIndividual(tx *store.Tx, registrationID string) (*enrollment, error) {
	record := new(model.IndividualEnrollment)
	found, err := tx.Get(bucketEnrollments, fold(registrationID), record)
	if err != nil || !found {
		return nil, err
	}
	return s.individualEnrollment(record), nil
}

// findGroup returns nil if there is none.
func (s *Service) findGroup(tx *store.Tx, groupID string) (*enrollment, error) {
	record := new(model.EnrollmentGroup)
	found, err := tx.Get(bucketGroups, fold(groupID), record)
	if err != nil || !found {
		return nil, err
	}
	return s.groupEnrollment(record), nil
}

// proof is how a device proved itself.
type proof struct {
	enrollment *enrollment
	// identity is what the hub gets to know; without DeviceID and capabilities.
	identity model.DeviceIdentity
	// leaf and signing are the device's certificate and, for a group, the one
	// that vouched for it.
	leaf, signing *x509.Certificate
}

// isClientCertificate compares with the certificates of an individual enrollment.
func (e *enrollment) isClientCertificate(leaf *x509.Certificate) bool {
	for _, certificate := range e.client {
		if bytes.Equal(certificate.Raw, leaf.Raw) {
			return true
		}
	}
	return false
}
