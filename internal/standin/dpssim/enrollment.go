package dpssim

import (
	"cmp"
	"crypto/x509"
	"slices"
	"strings"
	"sync"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// Buckets of the store, besides those of the collections. Keys are IDs in lower case, because DPS treats IDs that
// differ only in case as one.
const (
	bucketRegistrations = "registrations"
	bucketChallenges    = "tpmChallenges"
)

func fold(id string) string { return strings.ToLower(id) }

// enrollment is an enrollment of either kind, with its certificates parsed.
type enrollment struct {
	*model.Enrollment
	record  model.Record
	id      string
	isGroup bool

	// client certificates are those of an individual enrollment; signing certificates are those of either kind,
	// including those behind caReferences.
	client, signing []*x509.Certificate
}

func (s *Service) newEnrollment(record model.Record) *enrollment {
	e := &enrollment{Enrollment: record.Common(), record: record, id: *record.ID()}
	_, e.isGroup = record.(*model.EnrollmentGroup)
	x := e.Attestation.X509
	if e.Attestation.Type != model.AttestationX509 || x == nil {
		return e
	}
	e.client = parseCertificates(x.ClientCertificates)
	e.signing = parseCertificates(x.SigningCertificates)
	if x.CAReferences != nil {
		for _, ca := range s.config.Certificates {
			if ca.Name == x.CAReferences.Primary || ca.Name == x.CAReferences.Secondary {
				e.signing = append(e.signing, ca.Certificate)
			}
		}
	}
	return e
}

func parseCertificates(pair *model.X509Certificates) (certificates []*x509.Certificate) {
	if pair == nil {
		return nil
	}
	for _, one := range []*model.X509Certificate{pair.Primary, pair.Secondary} {
		if one == nil {
			continue
		}
		if certificate, err := attest.ParseCertificate(one.Certificate); err == nil { // it was checked when it was put
			certificates = append(certificates, certificate)
		}
	}
	return certificates
}

// groupID is "" for an individual enrollment.
func (e *enrollment) groupID() string {
	if e.isGroup {
		return e.id
	}
	return ""
}

// deviceID is the device's ID on the hub, which an individual enrollment may name.
func (e *enrollment) deviceID(registrationID string) string {
	if individual, ok := e.record.(*model.IndividualEnrollment); ok {
		return cmp.Or(individual.DeviceID, registrationID)
	}
	return registrationID
}

// groupCache holds the parsed groups, because each register call looks at all of them.
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
		for group, err := range store.All[model.EnrollmentGroup](tx, s.Groups.bucket, "") {
			if err != nil {
				return err
			}
			groups = append(groups, s.newEnrollment(&group.Value))
		}
		return nil
	})
	if err == nil {
		c.valid, c.groups = true, groups
	}
	return groups, err
}

// proof is how a device proved who it is.
type proof struct {
	enrollment *enrollment
	// identity is what the hub is told, without DeviceID and capabilities.
	identity model.DeviceIdentity
	// leaf and signing are the device's certificate and, for a group, the one that vouched for it.
	leaf, signing *x509.Certificate
}

func (e *enrollment) isClientCertificate(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(e.client, leaf.Equal)
}
