package dpssim

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// Authenticate only checks a device's credentials, for the CONNECT of MQTT. An error is an *[APIError].
func (s *Service) Authenticate(caller Caller) error {
	_, err := deviceCall(s, KindConnect, caller, func(*Entry) (any, error) {
		err := s.checkCaller(caller)
		if err == nil {
			_, err = s.authenticate(caller)
		}
		if errors.Is(err, errNeedsChallenge) {
			err = unauthorized("the individual enrollment requires a TPM, which can register only over HTTP")
		}
		return nil, err
	})
	return err
}

// checkCaller checks what needs no enrollment.
func (s *Service) checkCaller(caller Caller) error {
	if !strings.EqualFold(caller.IDScope, s.config.IDScope) {
		return &APIError{Status: http.StatusNotFound, Code: CodeNotFound, Message: "IDScope not found",
			Detail: fmt.Sprintf("the device's ID scope is %q, the service's is %q", caller.IDScope, s.config.IDScope)}
	}
	if !ids.MatchString(caller.RegistrationID) {
		return invalidArgument("registrationId: %q %s", cut(caller.RegistrationID), idRule)
	}
	return CheckVersion(caller.APIVersion)
}

// authenticate finds a device's enrollment and checks that the device is who it says. An individual enrollment takes
// precedence over any group. Where the device has to answer a TPM's challenge first, the error is [errNeedsChallenge].
func (s *Service) authenticate(caller Caller) (proof, error) {
	individual, err := s.Enrollments.lookUp(caller.RegistrationID)
	if err != nil {
		return proof{}, err
	}
	if individual != nil {
		return s.proveIndividual(individual, caller)
	}
	groups, err := s.groups()
	if err != nil {
		return proof{}, err
	}
	switch {
	case caller.SAS != "":
		return s.proveGroupKey(groups, caller)
	case len(caller.Certificates) > 0:
		return s.proveGroupCertificate(groups, caller)
	}
	if len(groups) == 0 {
		return proof{}, notEnrolled(caller.RegistrationID)
	}
	return proof{}, unauthorized("the device sent neither a SharedAccessSignature nor a certificate")
}

func (s *Service) proveIndividual(e *enrollment, caller Caller) (proof, error) {
	switch e.Attestation.Type {
	case model.AttestationSymmetricKey:
		token, err := s.deviceToken(caller)
		if err != nil {
			return proof{}, err
		}
		keys := *e.Attestation.SymmetricKey
		if !token.SignedWithEither(keys.PrimaryKey, keys.SecondaryKey) {
			return proof{}, unauthorized("the SharedAccessSignature is signed with neither key of the individual enrollment")
		}
		return proof{enrollment: e, identity: model.DeviceIdentity{SymmetricKey: &keys}}, nil
	case model.AttestationX509:
		return proveIndividualCertificate(e, caller)
	case model.AttestationNone:
		return proof{}, unauthorized("the attestation of the individual enrollment is none, with which no device can register")
	default:
		return s.proveTPM(e, caller)
	}
}

func proveIndividualCertificate(e *enrollment, caller Caller) (proof, error) {
	if len(caller.Certificates) == 0 {
		return proof{}, unauthorized("the individual enrollment requires a certificate and the device presented none")
	}
	leaf := caller.Certificates[0]
	if err := attest.CheckLeaf(leaf, caller.RegistrationID, time.Now()); err != nil {
		return proof{}, badCertificate(err.Error())
	}
	p := proof{enrollment: e, leaf: leaf, identity: certificateIdentity(leaf)}
	switch {
	case e.isClientCertificate(leaf):
		return p, nil
	case len(e.signing) > 0:
		signing, err := attest.VerifyChain(caller.Certificates, e.signing, time.Now())
		if err != nil {
			return proof{}, badCertificate(err.Error())
		}
		p.signing = signing
		return p, nil
	}
	return proof{}, badCertificate("the device's certificate is neither of those of the individual enrollment")
}

// certificateIdentity lets the certificate that registered connect to the hub, and no other that the enrollment has: DPS
// writes its thumbprint in both places.
func certificateIdentity(leaf *x509.Certificate) model.DeviceIdentity {
	thumbprint := attest.SHA256Thumbprint(leaf)
	return model.DeviceIdentity{PrimaryThumbprint: thumbprint, SecondaryThumbprint: thumbprint}
}

// proveTPM checks the token that the device signed with the key of the challenge.
func (s *Service) proveTPM(e *enrollment, caller Caller) (proof, error) {
	p := proof{enrollment: e}
	if caller.SAS == "" {
		return p, errNeedsChallenge
	}
	token, err := s.deviceToken(caller)
	if err != nil {
		return p, err
	}
	var key []byte
	err = s.store.View(func(tx *store.Tx) error {
		_, err := tx.Get(bucketChallenges, fold(caller.RegistrationID), &key)
		return err
	})
	if err == nil && !token.SignedWith(key) {
		err = unauthorized("the SharedAccessSignature is not signed with the key of the last TPM challenge")
	}
	return p, err
}

var errNeedsChallenge = errors.New("the device has to answer a TPM challenge first")

// checkTPM compares the keys of a register call with those of the enrollment.
func checkTPM(e *enrollment, keys *model.TPM) error {
	enrolled := e.Attestation.TPM
	if enrolled.EndorsementKey != keys.EndorsementKey {
		return unauthorized("the endorsement key is not that of the individual enrollment")
	}
	if enrolled.StorageRootKey != "" && enrolled.StorageRootKey != keys.StorageRootKey {
		return unauthorized("the storage root key is not that of the individual enrollment")
	}
	return nil
}

// challenge returns the refusal that carries a new key for the device's TPM.
func (s *Service) challenge(e *enrollment, keys *model.TPM) error {
	if keys == nil {
		return unauthorized("the individual enrollment requires a TPM, and the register call has no tpm keys")
	}
	if err := checkTPM(e, keys); err != nil {
		return err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	blob, err := attest.WrapForTPM(*keys, key)
	if err != nil {
		return invalidArgument("tpm: %v", err)
	}
	if err := s.store.Update(func(tx *store.Tx) error { return tx.Put(bucketChallenges, fold(e.id), key) }); err != nil {
		return err
	}
	const message = "Authorization required"
	return &APIError{Status: http.StatusUnauthorized, Code: CodeInvalidCredentials, Message: message,
		Challenge: &model.TPMChallenge{
			Message:           message + ", sign with the key that the TPM activates.",
			AuthenticationKey: base64.StdEncoding.EncodeToString(blob),
			KeyName:           attest.KeyNameRegistration,
		}}
}

func (s *Service) proveGroupKey(groups []*enrollment, caller Caller) (proof, error) {
	token, err := s.deviceToken(caller)
	if err != nil {
		return proof{}, err
	}
	candidates, itself := 0, ""
	for _, e := range groups {
		keys := e.Attestation.SymmetricKey
		if keys == nil {
			continue
		}
		candidates++
		derived := model.SymmetricKey{
			PrimaryKey:   deriveKey(keys.PrimaryKey, caller.RegistrationID),
			SecondaryKey: deriveKey(keys.SecondaryKey, caller.RegistrationID),
		}
		if token.SignedWithEither(derived.PrimaryKey, derived.SecondaryKey) {
			return proof{enrollment: e, identity: model.DeviceIdentity{SymmetricKey: &derived}}, nil
		}
		if token.SignedWithEither(keys.PrimaryKey, keys.SecondaryKey) {
			itself = e.id
		}
	}
	if candidates == 0 {
		return proof{}, notEnrolled(caller.RegistrationID)
	}
	if itself != "" {
		return proof{}, unauthorized(fmt.Sprintf("the SharedAccessSignature is signed with the key of group %s itself: "+
			"derive the device's key from it and the registration ID, as usher dps key does", itself))
	}
	return proof{}, unauthorized("the SharedAccessSignature is signed with a key that none of the groups derives for this registration ID")
}

// deriveKey works on base64; it returns "" for "".
func deriveKey(groupKey, registrationID string) string {
	key, err := attest.DecodeKey(groupKey)
	if err != nil || len(key) == 0 {
		return ""
	}
	return base64.StdEncoding.EncodeToString(attest.DeriveKey(key, registrationID))
}

func (s *Service) proveGroupCertificate(groups []*enrollment, caller Caller) (proof, error) {
	leaf := caller.Certificates[0]
	if err := attest.CheckLeaf(leaf, caller.RegistrationID, time.Now()); err != nil {
		return proof{}, badCertificate(err.Error())
	}
	// Of several groups that match, DPS takes that of the certificate nearest to the leaf, disabled or not.
	var all []*x509.Certificate
	for _, e := range groups {
		all = append(all, e.signing...)
	}
	if len(all) == 0 {
		return proof{}, badCertificate("no group has certificates")
	}
	signing, err := attest.VerifyChain(caller.Certificates, all, time.Now())
	if err != nil {
		return proof{}, badCertificate("no group's certificate vouches for the device: " + err.Error())
	}
	vouches := func(e *enrollment) bool { return slices.ContainsFunc(e.signing, signing.Equal) }
	return proof{
		enrollment: groups[slices.IndexFunc(groups, vouches)],
		identity:   certificateIdentity(leaf),
		leaf:       leaf,
		signing:    signing,
	}, nil
}

func (s *Service) deviceToken(caller Caller) (attest.Token, error) {
	if caller.SAS == "" {
		return attest.Token{}, unauthorized("the device sent no SharedAccessSignature")
	}
	token, err := attest.ParseToken(caller.SAS)
	if err != nil {
		return attest.Token{}, unauthorized(err.Error())
	}
	if err := token.Check(attest.DeviceResource(s.config.IDScope, caller.RegistrationID), time.Now()); err != nil {
		return attest.Token{}, unauthorized(err.Error())
	}
	return token, nil
}
