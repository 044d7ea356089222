package dpssim

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// ids are the registration and group IDs that DPS takes, and idRule says so.
var ids = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9:._-]{0,126}[A-Za-z0-9-])?$`)

const idRule = "is not up to 128 letters, digits, '-', '.', '_' and ':' that begins with a letter or digit and ends with one or '-'"

// Authenticate checks a device's credentials and does nothing else: for the
// CONNECT of MQTT. An error is an *[APIError].
func (s *Service) Authenticate(_ context.Context, caller Caller) error {
	start := time.Now()
	err := s.checkCaller(caller)
	if err == nil {
		_, err = s.authenticate(caller)
	}
	if errors.Is(err, errNeedsChallenge) {
		err = unauthorized("the individual enrollment wants a TPM, which registers over HTTP alone")
	}
	entry := Entry{Kind: KindConnect, Transport: caller.Transport, RegistrationID: caller.RegistrationID, Status: http.StatusOK}
	s.finishEntry(&entry, start, nil, err)
	s.journal.add(entry)
	return err
}

// checkCaller checks what needs no enrollment.
func (s *Service) checkCaller(caller Caller) error {
	if !strings.EqualFold(caller.IDScope, s.config.IDScope) {
		return &APIError{Status: http.StatusNotFound, Code: CodeNotFound, Message: "IDScope not found",
			Detail: fmt.Sprintf("the device's id scope is %q, the service's is %q", caller.IDScope, s.config.IDScope)}
	}
	if !ids.MatchString(caller.RegistrationID) {
		return invalidArgument("registrationId: %q %s", cut(caller.RegistrationID), idRule)
	}
	if caller.APIVersion == "" {
		return invalidArgument("api-version: it is missing")
	}
	return nil
}

func invalidArgument(format string, args ...any) *APIError {
	return &APIError{Status: http.StatusBadRequest, Code: CodeInvalidArgument, Message: fmt.Sprintf(format, args...)}
}

func cut(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// unauthorized is what a device gets; the detail is for the journal.
func unauthorized(detail string) *APIError {
	return &APIError{Status: http.StatusUnauthorized, Code: CodeInvalidCredentials, Message: "Unauthorized", Detail: detail}
}

func badCertificate(detail string) *APIError {
	return &APIError{Status: http.StatusUnauthorized, Code: CodeInvalidCredentials, Message: "Invalid certificate.", Detail: detail}
}

func notEnrolled(registrationID string) *APIError {
	return &APIError{Status: http.StatusNotFound, Code: CodeNotFound, Message: "Registration not found.",
		Detail: fmt.Sprintf("no enrollment is for %q", registrationID)}
}

// authenticate finds the enrollment of a device and checks that the device is
// what it says. An individual enrollment wins over any group.
func (s *Service) authenticate(caller Caller) (proof, error) {
	var individual *enrollment
	err := s.store.View(func(tx *store.Tx) (err error) {
		individual, err = s.findIndividual(tx, caller.RegistrationID)
		return err
	})
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
	switch a := e.attestation(); a.Type {
	case model.AttestationSymmetricKey:
		token, err := s.deviceToken(caller)
		if err != nil {
			return proof{}, err
		}
		if a.SymmetricKey == nil || !token.SignedWithEither(a.SymmetricKey.PrimaryKey, a.SymmetricKey.SecondaryKey) {
			return proof{}, unauthorized("the SharedAccessSignature is signed with neither key of the individual enrollment")
		}
		keys := *a.SymmetricKey
		return proof{enrollment: e, identity: model.DeviceIdentity{SymmetricKey: &keys}}, nil
	case model.AttestationX509:
		return proveIndividualCertificate(e, caller)
	case model.AttestationTPM:
		return s.proveTPM(e, caller)
	default:
		return proof{}, unauthorized("the individual enrollment's attestation is " + a.Type)
	}
}

func proveIndividualCertificate(e *enrollment, caller Caller) (proof, error) {
	if len(caller.Certificates) == 0 {
		return proof{}, unauthorized("the individual enrollment wants a certificate and the device showed none")
	}
	leaf := caller.Certificates[0]
	if err := attest.CheckLeaf(leaf, caller.RegistrationID, time.Now()); err != nil {
		return proof{}, badCertificate(err.Error())
	}
	p := proof{enrollment: e, leaf: leaf}
	switch {
	case e.isClientCertificate(leaf):
		for i, certificate := range e.client {
			if i == 0 {
				p.identity.PrimaryThumbprint = attest.SHA256Thumbprint(certificate)
			} else {
				p.identity.SecondaryThumbprint = attest.SHA256Thumbprint(certificate)
			}
		}
		return p, nil
	case len(e.signing) > 0:
		signing, err := attest.VerifyChain(caller.Certificates, e.signing, time.Now())
		if err != nil {
			return proof{}, badCertificate(err.Error())
		}
		p.signing = signing
		p.identity.PrimaryThumbprint = attest.SHA256Thumbprint(leaf)
		return p, nil
	}
	return proof{}, badCertificate("the device's certificate is neither of those of the individual enrollment")
}

// proveTPM checks the token that the device signed with the key of the
// challenge. Without a token the error is [errNeedsChallenge].
func (s *Service) proveTPM(e *enrollment, caller Caller) (proof, error) {
	if caller.SAS == "" {
		return proof{}, errNeedsChallenge
	}
	token, err := s.deviceToken(caller)
	if err != nil {
		return proof{}, err
	}
	var key []byte
	err = s.store.View(func(tx *store.Tx) error {
		_, err := tx.Get(bucketChallenges, fold(caller.RegistrationID), &key)
		return err
	})
	if err != nil {
		return proof{}, err
	}
	if !token.SignedWith(key) {
		return proof{}, unauthorized("the SharedAccessSignature is not signed with the key of the last TPM challenge")
	}
	return proof{enrollment: e}, nil
}

var errNeedsChallenge = errors.New("the device has to answer a TPM challenge first")

// checkTPM compares the keys of a register call with those of the enrollment.
func checkTPM(e *enrollment, keys *model.TPM) error {
	enrolled := e.attestation().TPM
	if enrolled == nil || enrolled.EndorsementKey != keys.EndorsementKey {
		return unauthorized("the endorsement key is not that of the individual enrollment")
	}
	if enrolled.StorageRootKey != "" && enrolled.StorageRootKey != keys.StorageRootKey {
		return unauthorized("the storage root key is not that of the individual enrollment")
	}
	return nil
}

// challenge makes the refusal that carries a new key for the device's TPM.
func (s *Service) challenge(e *enrollment, keys *model.TPM, registrationID string) error {
	if keys == nil {
		return unauthorized("the individual enrollment wants a TPM, and the register call has no tpm keys")
	}
	if err := checkTPM(e, keys); err != nil {
		return err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	blob, err := attest.WrapForTPM(*keys, key, "")
	if err != nil {
		return invalidArgument("tpm: %v", err)
	}
	if err := s.store.Update(func(tx *store.Tx) error {
		return tx.Put(bucketChallenges, fold(registrationID), key)
	}); err != nil {
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
	candidates := 0
	for _, e := range groups {
		keys := e.attestation().SymmetricKey
		if e.attestation().Type != model.AttestationSymmetricKey || keys == nil {
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
	}
	if candidates == 0 {
		return proof{}, notEnrolled(caller.RegistrationID)
	}
	return proof{}, unauthorized("the SharedAccessSignature is signed with a key that none of the groups gives this registration id")
}

// deriveKey works on base64; "" stays "".
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
	// Of several groups that would do, DPS takes that of the certificate nearest
	// to the leaf, disabled or not.
	var all []*x509.Certificate
	for _, e := range groups {
		all = append(all, e.signing...)
	}
	if len(all) == 0 {
		return proof{}, badCertificate("no group is for certificates")
	}
	signing, err := attest.VerifyChain(caller.Certificates, all, time.Now())
	if err != nil {
		return proof{}, badCertificate("no group's certificate vouches for the device: " + err.Error())
	}
	vouches := func(e *enrollment) bool { return slices.ContainsFunc(e.signing, signing.Equal) }
	return proof{
		enrollment: groups[slices.IndexFunc(groups, vouches)],
		identity:   model.DeviceIdentity{PrimaryThumbprint: attest.SHA256Thumbprint(leaf)},
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
