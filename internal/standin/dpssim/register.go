package dpssim

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// registration is what the store holds of one.
type registration struct {
	// State is what devices and service clients see.
	State model.DeviceRegistrationState `json:"state"`
	// EnrollmentID or GroupID names the enrollment of the last register call.
	EnrollmentID string `json:"enrollmentId,omitempty"`
	GroupID      string `json:"groupId,omitempty"`
	OperationID  string `json:"operationId"`
	// Hub and DeviceID are where the device is; registrations that fail do not change them. They are "" before the
	// first assignment.
	Hub      string `json:"hub,omitempty"`
	DeviceID string `json:"deviceId,omitempty"`
	// Pending is set while the operation runs.
	Pending *pending `json:"pending,omitempty"`
}

// pending is what an operation has to know about the register call.
type pending struct {
	APIVersion  string               `json:"apiVersion"`
	Transport   string               `json:"transport"`
	Payload     json.RawMessage      `json:"payload,omitempty"`
	Identity    model.DeviceIdentity `json:"identity"`
	TPM         *model.TPM           `json:"tpm,omitempty"`
	CSR         string               `json:"csr,omitempty"`
	Certificate []byte               `json:"certificate,omitempty"` // DER
	Signing     []byte               `json:"signing,omitempty"`     // DER
}

// MaxMessage is DPS's limit for a device's message, in bytes. Source:
// https://learn.microsoft.com/azure/iot-dps/iot-dps-limits
const MaxMessage = 96 << 10

// Register begins a registration and returns at once, with status "assigning", or "disabled" if the enrollment is
// disabled. An error is an *[APIError]; [Answer] makes a body of it.
func (s *Service) Register(caller Caller, request model.RegistrationRequest) (model.RegistrationOperationStatus, error) {
	return deviceCall(s, KindRegister, caller, func(entry *Entry) (model.RegistrationOperationStatus, error) {
		entry.Request = maskedJSON(request)
		status, err := s.register(caller, request)
		entry.OperationID, entry.Status, entry.DPSEffect = status.OperationID, RegisterStatus(status), status.Status
		return status, err
	})
}

// ParseRequest reads the body of a register call, which may be empty. An error is an *[APIError].
func ParseRequest(body []byte) (request model.RegistrationRequest, err error) {
	if len(body) > MaxMessage {
		return request, TooLarge(MaxMessage)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return request, nil
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return request, invalidArgument("The body is not a registration request in JSON: %v", err)
	}
	return request, nil
}

// RegisterStatus is the HTTP status of the answer to a register call or a poll: 202 while the operation is pending,
// then 200.
func RegisterStatus(status model.RegistrationOperationStatus) int {
	if status.Status == model.StatusAssigning {
		return http.StatusAccepted
	}
	return http.StatusOK
}

func (s *Service) register(caller Caller, request model.RegistrationRequest) (status model.RegistrationOperationStatus, err error) {
	if err := s.checkCaller(caller); err != nil {
		return status, err
	}
	if request.RegistrationID != "" && !strings.EqualFold(request.RegistrationID, caller.RegistrationID) {
		return status, invalidArgument("registrationId: %q in the body, %q in the address", cut(request.RegistrationID), caller.RegistrationID)
	}
	if err := s.throttleRegistration(); err != nil {
		return status, err
	}
	proof, err := s.authenticate(caller)
	if errors.Is(err, errNeedsChallenge) {
		return status, s.challenge(proof.enrollment, request.TPM)
	}
	if err != nil {
		return status, err
	}
	e := proof.enrollment
	if s.disabled(e) {
		status.Status, status.RegistrationState = model.StatusDisabled, disabledState(caller)
		return status, nil
	}
	operation := &pending{APIVersion: caller.APIVersion, Transport: caller.Transport, Payload: request.Payload, Identity: proof.identity}
	if e.Attestation.Type == model.AttestationTPM {
		if request.TPM == nil {
			return status, invalidArgument("tpm: endorsementKey and storageRootKey are missing")
		}
		// The token proves the TPM of the challenge; these keys wrap the hub's key.
		if err := checkTPM(e, request.TPM); err != nil {
			return status, err
		}
		operation.TPM = request.TPM
	}
	if operation.CSR, err = s.signingRequest(caller, request, e); err != nil {
		return status, err
	}
	if proof.leaf != nil {
		operation.Certificate = proof.leaf.Raw
	}
	if proof.signing != nil {
		operation.Signing = proof.signing.Raw
	}
	return s.begin(caller.RegistrationID, e, operation)
}

// signingRequest returns the certificate signing request to answer, or "".
func (s *Service) signingRequest(caller Caller, request model.RegistrationRequest, e *enrollment) (string, error) {
	csr := caller.csr(request)
	if csr == "" {
		return "", nil
	}
	if _, err := attest.ParseRequest(csr, caller.RegistrationID); err != nil {
		return "", invalidArgument("csr: %v", err)
	}
	if cmp.Or(e.CertificatePolicyName, e.CertificatePolicyResourceID, e.CredentialPolicyName) == "" {
		switch s.config.Behaviour.CSRWithoutPolicy {
		case CSRRefused:
			return "", invalidArgument("csr: the enrollment names no certificate policy, so no authority issues a certificate: set its certificatePolicyName")
		case CSRIgnored:
			return "", nil
		}
	}
	if s.config.Certify == nil {
		return "", invalidArgument("csr: the stand-in has no authority that issues certificates")
	}
	return csr, nil
}

// csr is "" in a call of an API version that has no such member.
func (c Caller) csr(request model.RegistrationRequest) string {
	if c.APIVersion < model.FirstCSR {
		return ""
	}
	return request.CSR
}

func (s *Service) disabled(e *enrollment) bool {
	return e.ProvisioningStatus == model.ProvisioningDisabled || s.trouble.disabled(e)
}

// disabledState is all that a device of a disabled enrollment sees.
func disabledState(caller Caller) *model.DeviceRegistrationState {
	return &model.DeviceRegistrationState{RegistrationID: caller.RegistrationID, Status: model.StatusDisabled}
}

func (s *Service) throttleTrouble() error {
	if !s.trouble.hit(func(t *Trouble) float64 { return t.Throttle }) {
		return nil
	}
	wait := cmp.Or(time.Duration(s.trouble.get().ThrottleRetryAfter), 5*time.Second)
	return throttled(s.scaled(wait), "trouble: throttle")
}

// begin records the operation and starts it.
func (s *Service) begin(registrationID string, e *enrollment, operation *pending) (model.RegistrationOperationStatus, error) {
	var r registration
	joined := false
	err := s.store.Update(func(tx *store.Tx) error {
		if _, err := tx.Get(bucketRegistrations, fold(registrationID), &r); err != nil {
			return err
		}
		if r.Pending != nil {
			if s.config.Behaviour.Concurrent == ConcurrentJoins {
				joined = true
				return nil
			}
			return &APIError{Status: http.StatusConflict, Code: CodePrecondition, Message: "Precondition failed.",
				Detail: "a registration of this ID is pending: " + r.OperationID}
		}
		r.EnrollmentID, r.GroupID = e.id, ""
		if e.isGroup {
			r.EnrollmentID, r.GroupID = "", e.id
		}
		r.OperationID = newOperationID(s.config.IDScope, registrationID)
		r.Pending = operation
		r.State.RegistrationID = registrationID
		r.State.Status = model.StatusAssigning
		r.touch()
		return tx.Put(bucketRegistrations, fold(registrationID), r)
	})
	if err != nil {
		return model.RegistrationOperationStatus{}, err
	}
	if !joined {
		s.work.Go(func() { s.run(r) })
	}
	return r.status(), nil
}

// resume starts the operations that were pending.
func (s *Service) resume() error {
	return s.store.View(func(tx *store.Tx) error {
		for r, err := range store.All[registration](tx, bucketRegistrations, "") {
			if err != nil {
				return err
			}
			if r.Value.Pending != nil {
				s.work.Go(func() { s.run(r.Value) })
			}
		}
		return nil
	})
}

// newOperationID looks like DPS's: a version, a hash of the device, and a UUID.
func newOperationID(idScope, registrationID string) string {
	hash := fnv.New64a()
	hash.Write([]byte(fold(idScope + "/" + registrationID)))
	return fmt.Sprintf("4.%016x.%s", hash.Sum64(), uuid.NewString())
}

// newETag is an ETag as DPS's store makes them, with its quotes.
func newETag() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf(`"%08x-0000-0100-0000-%08x0000"`, binary.BigEndian.Uint32(b[:]), uint32(time.Now().Unix()))
}

// touch sets the times and the ETag of a registration that changes.
func (r *registration) touch() {
	now := model.Time{Time: time.Now()}
	r.State.CreatedDateTimeUTC, r.State.LastUpdatedDateTimeUTC = cmp.Or(r.State.CreatedDateTimeUTC, &now), &now
	r.State.ETag = base64.StdEncoding.EncodeToString([]byte(newETag()))
}

// status is what a device sees.
func (r *registration) status() model.RegistrationOperationStatus {
	if r.Pending != nil {
		return model.RegistrationOperationStatus{OperationID: r.OperationID, Status: model.StatusAssigning}
	}
	state := r.State
	return model.RegistrationOperationStatus{OperationID: r.OperationID, Status: state.Status, RegistrationState: &state}
}

// Operation returns the status of a registration. Once it ended, the status stays the same until the device registers
// again. An error is an *[APIError].
func (s *Service) Operation(caller Caller, operationID string) (model.RegistrationOperationStatus, error) {
	return deviceCall(s, KindOperation, caller, func(entry *Entry) (status model.RegistrationOperationStatus, err error) {
		_, r, err := s.lookUp(caller)
		if err == nil && (r == nil || r.OperationID != operationID) {
			err = &APIError{Status: http.StatusNotFound, Code: CodeOperationNotFound,
				Message: "Operation not found.", Detail: "the device's last operation is another"}
		}
		if err == nil {
			status = r.status()
		}
		if state := status.RegistrationState; state != nil && caller.APIVersion < model.FirstCSR {
			state.IssuedCertificateChain = nil
		}
		entry.OperationID, entry.Status, entry.DPSEffect = operationID, RegisterStatus(status), status.Status
		return status, err
	})
}

// LookUp returns the state of a device's registration: DPS's registration status look-up. An error is an *[APIError].
func (s *Service) LookUp(caller Caller, request model.RegistrationRequest) (model.DeviceRegistrationState, error) {
	return deviceCall(s, KindOperation, caller, func(entry *Entry) (state model.DeviceRegistrationState, err error) {
		e, r, err := s.lookUp(caller)
		switch {
		case err != nil:
		case caller.csr(request) != "":
			err = invalidArgument("csr: only a register call can have it")
		case s.disabled(e):
			state = *disabledState(caller)
		case r == nil:
			err = notEnrolled(caller.RegistrationID)
		default:
			state = r.State
			state.IssuedCertificateChain = nil
		}
		entry.DPSEffect = state.Status
		return state, err
	})
}

// lookUp returns a device's enrollment, and its registration, or nil if it has not registered.
func (s *Service) lookUp(caller Caller) (*enrollment, *registration, error) {
	if err := s.checkCaller(caller); err != nil {
		return nil, nil, err
	}
	if err := s.throttleTrouble(); err != nil {
		return nil, nil, err
	}
	proof, err := s.authenticate(caller)
	if errors.Is(err, errNeedsChallenge) {
		err = unauthorized("the device sent no SharedAccessSignature")
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := s.readRegistration(caller.RegistrationID)
	return proof.enrollment, r, err
}

// readRegistration returns nil if there is none.
func (s *Service) readRegistration(id string) (*registration, error) {
	var r registration
	found := false
	err := s.store.View(func(tx *store.Tx) (err error) {
		found, err = tx.Get(bucketRegistrations, fold(id), &r)
		return err
	})
	if err != nil || !found {
		return nil, err
	}
	return &r, nil
}

// describeProof fills in how the device proved who it is.
func (r *registration) describeProof(e *enrollment, operation *pending) {
	r.State.X509, r.State.TPM, r.State.SymmetricKey = nil, nil, nil
	switch e.Attestation.Type {
	case model.AttestationX509:
		r.State.X509 = &model.X509RegistrationResult{
			EnrollmentGroupID:      e.groupID(),
			CertificateInfo:        certificateInfo(operation.Certificate),
			SigningCertificateInfo: certificateInfo(operation.Signing),
		}
	case model.AttestationSymmetricKey:
		r.State.SymmetricKey = &model.SymmetricKeyRegistrationResult{EnrollmentGroupID: e.groupID()}
	}
}

// certificateInfo returns nil if there is no certificate.
func certificateInfo(der []byte) *model.X509CertificateInfo {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return attest.CertificateInfo(certificate)
}
