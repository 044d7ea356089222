package dpssim

import (
	"cmp"
	"context"
	"crypto/rand"
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
	// State is what devices and service clients get to see.
	State model.DeviceRegistrationState `json:"state"`
	// EnrollmentID or GroupID names the enrollment of the last register call.
	EnrollmentID string `json:"enrollmentId,omitempty"`
	GroupID      string `json:"groupId,omitempty"`
	OperationID  string `json:"operationId"`
	// Hub and DeviceID are where the device is; they stay through registrations
	// that fail. "" before the first assignment.
	Hub      string `json:"hub,omitempty"`
	DeviceID string `json:"deviceId,omitempty"`
	// Pending is set while the operation goes on.
	Pending *pending `json:"pending,omitempty"`
}

// pending is what an operation has to know of the register call.
type pending struct {
	APIVersion  string               `json:"apiVersion"`
	Transport   string               `json:"transport"`
	Payload     json.RawMessage      `json:"payload,omitempty"`
	Identity    model.DeviceIdentity `json:"identity"`
	TPM         *model.TPM           `json:"tpm,omitempty"`
	Certificate []byte               `json:"certificate,omitempty"` // DER
	Signing     []byte               `json:"signing,omitempty"`     // DER
}

// MaxMessage is DPS's limit of a device's message, in bytes.
// Source: https://learn.microsoft.com/azure/iot-dps/iot-dps-limits
const MaxMessage = 96 << 10

// Register begins a registration and returns at once, with status "assigning",
// or "disabled" if the enrollment is. An error is an *[APIError]; [Answer] makes
// a body of it.
func (s *Service) Register(_ context.Context, caller Caller, request model.RegistrationRequest) (model.RegistrationOperationStatus, error) {
	start := time.Now()
	status, err := s.register(caller, request)
	entry := Entry{
		Kind: KindRegister, Transport: caller.Transport, RegistrationID: caller.RegistrationID,
		OperationID: status.OperationID, Status: RegisterStatus(status), DPSEffect: status.Status,
	}
	if body, err := json.Marshal(request); err == nil {
		entry.Request = Mask(body)
	}
	s.finishEntry(&entry, start, status, err)
	s.journal.add(entry)
	return status, err
}

// RegisterStatus is the HTTP status of the answer to a register call or a poll:
// 202 while there is something to poll for, else 200.
func RegisterStatus(status model.RegistrationOperationStatus) int {
	if status.Status == model.StatusAssigning {
		return http.StatusAccepted
	}
	return http.StatusOK
}

func (s *Service) register(caller Caller, request model.RegistrationRequest) (model.RegistrationOperationStatus, error) {
	var none model.RegistrationOperationStatus
	if err := s.checkCaller(caller); err != nil {
		return none, err
	}
	if request.RegistrationID != "" && !strings.EqualFold(request.RegistrationID, caller.RegistrationID) {
		return none, invalidArgument("registrationId: the body says %q, the address %q", cut(request.RegistrationID), caller.RegistrationID)
	}
	payload, err := objectOrNone("payload", request.Payload)
	if err != nil {
		return none, err
	}
	if err := s.throttle(); err != nil {
		return none, err
	}
	proof, err := s.authenticate(caller)
	if errors.Is(err, errNeedsChallenge) {
		return none, s.challengeCaller(caller, request.TPM)
	}
	if err != nil {
		return none, err
	}
	e := proof.enrollment
	if e.common().ProvisioningStatus == model.ProvisioningDisabled || s.trouble.disabled(e) {
		return model.RegistrationOperationStatus{
			Status: model.StatusDisabled,
			RegistrationState: &model.DeviceRegistrationState{
				RegistrationID: caller.RegistrationID,
				Status:         model.StatusDisabled,
			},
		}, nil
	}
	operation := &pending{
		APIVersion: caller.APIVersion, Transport: caller.Transport,
		Payload: payload, Identity: proof.identity,
	}
	if e.attestation().Type == model.AttestationTPM {
		if request.TPM == nil {
			return none, invalidArgument("tpm: endorsementKey and storageRootKey are missing")
		}
		// The token proves the TPM of the challenge; these keys get the hub's.
		if err := checkTPM(e, request.TPM); err != nil {
			return none, err
		}
		operation.TPM = request.TPM
	}
	if proof.leaf != nil {
		operation.Certificate = proof.leaf.Raw
	}
	if proof.signing != nil {
		operation.Signing = proof.signing.Raw
	}
	return s.begin(caller.RegistrationID, e, operation)
}

// objectOrNone refuses a payload that is not an object, as DPS's clients do;
// null is none.
func objectOrNone(name string, value json.RawMessage) (json.RawMessage, error) {
	switch {
	case len(value) == 0 || string(value) == "null":
		return nil, nil
	case value[0] != '{':
		return nil, invalidArgument("%s: it is not a JSON object", name)
	}
	return value, nil
}

func (s *Service) challengeCaller(caller Caller, keys *model.TPM) error {
	var e *enrollment
	if err := s.store.View(func(tx *store.Tx) (err error) {
		e, err = s.findIndividual(tx, caller.RegistrationID)
		return err
	}); err != nil {
		return err
	}
	if e == nil {
		return notEnrolled(caller.RegistrationID)
	}
	return s.challenge(e, keys, caller.RegistrationID)
}

func (s *Service) throttleTrouble() error {
	if !s.trouble.hit(func(t *Trouble) float64 { return t.Throttle }) {
		return nil
	}
	wait := cmp.Or(time.Duration(s.trouble.get().ThrottleRetryAfter), 5*time.Second)
	return throttled(s.scaled(wait), "trouble: throttle")
}

// throttle is for register calls.
func (s *Service) throttle() error {
	if err := s.throttleTrouble(); err != nil {
		return err
	}
	bound := s.config.Quota.RegistrationsPerMinute
	if wait := s.registrations.take(bound, s.scaled(time.Minute)); wait > 0 {
		return throttled(wait, fmt.Sprintf("the quota of %d registrations a minute is used up", bound))
	}
	return nil
}

// ThrottleService counts a call of the service API against the quota.
func (s *Service) ThrottleService() error {
	bound := s.config.Quota.OperationsPerMinute
	if wait := s.operations.take(bound, s.scaled(time.Minute)); wait > 0 {
		return throttled(wait, fmt.Sprintf("the quota of %d operations a minute is used up", bound))
	}
	return nil
}

func throttled(wait time.Duration, detail string) error {
	return &APIError{
		Status: http.StatusTooManyRequests, Code: CodeThrottled,
		Message:    "Operations are being throttled for this tenant.",
		Detail:     detail,
		RetryAfter: wholeSeconds(wait),
	}
}

// begin records the operation and starts it.
func (s *Service) begin(registrationID string, e *enrollment, operation *pending) (model.RegistrationOperationStatus, error) {
	var r registration
	joined := false
	err := s.store.Update(func(tx *store.Tx) error {
		joined = false
		r = registration{}
		if _, err := tx.Get(bucketRegistrations, fold(registrationID), &r); err != nil {
			return err
		}
		if r.Pending != nil {
			if s.config.Behaviour.Concurrent == ConcurrentJoins {
				joined = true
				return nil
			}
			return &APIError{Status: http.StatusConflict, Code: CodePrecondition, Message: "Precondition failed.",
				Detail: "a registration of this id is pending: " + r.OperationID}
		}
		now := model.Time{Time: time.Now()}
		if r.State.CreatedDateTimeUTC == nil {
			r.State.CreatedDateTimeUTC = &now
		}
		r.EnrollmentID, r.GroupID = "", e.groupID()
		if e.individual != nil {
			r.EnrollmentID = e.id()
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
	var found []registration
	err := s.store.View(func(tx *store.Tx) error {
		return tx.Range(bucketRegistrations, "", func(_ string, data json.RawMessage) (bool, error) {
			var r registration
			if err := json.Unmarshal(data, &r); err != nil {
				return false, err
			}
			if r.Pending != nil {
				found = append(found, r)
			}
			return true, nil
		})
	})
	for _, r := range found {
		s.work.Go(func() { s.run(r) })
	}
	return err
}

// newOperationID looks like DPS's: a version, a hash of whom it is for, and a UUID.
func newOperationID(idScope, registrationID string) string {
	hash := fnv.New64a()
	hash.Write([]byte(fold(idScope + "/" + registrationID)))
	return fmt.Sprintf("4.%016x.%s", hash.Sum64(), uuid.NewString())
}

// newETag is a tag as DPS's store makes them, with its quotes.
func newETag() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf(`"%08x-0000-0100-0000-%08x0000"`, binary.BigEndian.Uint32(b[:]), uint32(time.Now().Unix()))
}

func (r *registration) touch() {
	now := model.Time{Time: time.Now()}
	r.State.LastUpdatedDateTimeUTC = &now
	r.State.ETag = base64.StdEncoding.EncodeToString([]byte(newETag()))
}

// status is what a device gets to see.
func (r *registration) status() model.RegistrationOperationStatus {
	if r.Pending != nil {
		return model.RegistrationOperationStatus{OperationID: r.OperationID, Status: model.StatusAssigning}
	}
	state := r.State
	return model.RegistrationOperationStatus{OperationID: r.OperationID, Status: state.Status, RegistrationState: &state}
}

// Operation tells how a registration stands, and tells the same of an ended one
// until the device registers again. An error is an *[APIError].
func (s *Service) Operation(_ context.Context, caller Caller, operationID string) (model.RegistrationOperationStatus, error) {
	start := time.Now()
	status, err := s.operation(caller, operationID)
	entry := Entry{
		Kind: KindOperation, Transport: caller.Transport, RegistrationID: caller.RegistrationID,
		OperationID: operationID, Status: RegisterStatus(status), DPSEffect: status.Status,
	}
	s.finishEntry(&entry, start, status, err)
	s.journal.add(entry)
	return status, err
}

func (s *Service) operation(caller Caller, operationID string) (model.RegistrationOperationStatus, error) {
	r, err := s.lookUp(caller)
	if err != nil {
		return model.RegistrationOperationStatus{}, err
	}
	if r == nil || r.OperationID != operationID {
		return model.RegistrationOperationStatus{}, &APIError{Status: http.StatusNotFound, Code: CodeOperationNotFound,
			Message: "Operation not found.", Detail: "the device's last operation is another"}
	}
	return r.status(), nil
}

// LookUp tells a device the state of its registration: DPS's registration status
// look-up. An error is an *[APIError].
func (s *Service) LookUp(_ context.Context, caller Caller) (model.DeviceRegistrationState, error) {
	start := time.Now()
	var state model.DeviceRegistrationState
	r, err := s.lookUp(caller)
	if err == nil && r == nil {
		err = notEnrolled(caller.RegistrationID)
	}
	if err == nil {
		state = r.State
	}
	entry := Entry{Kind: KindOperation, Transport: caller.Transport, RegistrationID: caller.RegistrationID,
		Status: http.StatusOK, DPSEffect: state.Status}
	s.finishEntry(&entry, start, state, err)
	s.journal.add(entry)
	return state, err
}

// lookUp returns nil if the device has not registered.
func (s *Service) lookUp(caller Caller) (*registration, error) {
	if err := s.checkCaller(caller); err != nil {
		return nil, err
	}
	if err := s.throttleTrouble(); err != nil {
		return nil, err
	}
	if _, err := s.authenticate(caller); errors.Is(err, errNeedsChallenge) {
		return nil, unauthorized("the device sent no SharedAccessSignature")
	} else if err != nil {
		return nil, err
	}
	var r registration
	found := false
	err := s.store.View(func(tx *store.Tx) (err error) {
		found, err = tx.Get(bucketRegistrations, fold(caller.RegistrationID), &r)
		return err
	})
	if err != nil || !found {
		return nil, err
	}
	return &r, nil
}

// describeProof fills in what a registration tells of a device's proof.
func (r *registration) describeProof(e *enrollment, operation *pending) {
	r.State.X509, r.State.TPM, r.State.SymmetricKey = nil, nil, nil
	switch e.attestation().Type {
	case model.AttestationX509:
		result := &model.X509RegistrationResult{EnrollmentGroupID: e.groupID()}
		result.CertificateInfo = infoOf(operation.Certificate)
		result.SigningCertificateInfo = infoOf(operation.Signing)
		r.State.X509 = result
	case model.AttestationSymmetricKey:
		r.State.SymmetricKey = &model.SymmetricKeyRegistrationResult{EnrollmentGroupID: e.groupID()}
	}
}

func infoOf(der []byte) *model.X509CertificateInfo {
	if len(der) == 0 {
		return nil
	}
	certificate, err := attest.ParseCertificate(base64.StdEncoding.EncodeToString(der))
	if err != nil {
		return nil
	}
	return attest.CertificateInfo(certificate)
}
