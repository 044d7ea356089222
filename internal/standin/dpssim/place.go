package dpssim

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// placement is what an assignment did to the hubs.
type placement struct {
	hub, deviceID, substatus, twin string
}

// Twins, in Entry.Twin.
const (
	twinCreated  = "created"
	twinMigrated = "migrated"
	twinReset    = "reset"
	twinKept     = "kept"
)

// assign writes the outcome to the hub and to the record, or to neither.
func (s *Service) assign(a *attempt, chosen choice) error {
	operation := a.Pending
	hubKey, blob, err := tpmHubKey(operation.TPM)
	if err != nil {
		return err
	}
	if hubKey != nil {
		operation.Identity.SymmetricKey = hubKey
	}
	chain, err := s.certify(a)
	if err != nil {
		return err
	}
	var done placement
	err = s.finish(a, func(tx *store.Tx, next *registration) (err error) {
		if done, err = s.place(tx, a, chosen); err != nil {
			return err
		}
		next.Hub, next.DeviceID = done.hub, done.deviceID
		next.State.AssignedHub, next.State.DeviceID = done.hub, done.deviceID
		next.State.Status, next.State.Substatus = model.StatusAssigned, done.substatus
		next.State.ErrorCode, next.State.ErrorMessage = 0, ""
		next.State.Payload, next.State.IssuedCertificateChain = chosen.payload, chain
		next.describeProof(a.enrollment, operation)
		if blob != nil {
			next.State.TPM = &model.TPMRegistrationResult{AuthenticationKey: base64.StdEncoding.EncodeToString(blob)}
		}
		return nil
	})
	if errors.Is(err, errGone) {
		return &failure{CodeNotFound, err.Error()}
	}
	if err != nil {
		return &failure{s.config.Behaviour.HubRefusedCode, err.Error()}
	}
	text := fmt.Sprintf("assigned to %s as %s, %s, twin %s", done.hub, done.deviceID, done.substatus, done.twin)
	if chain != nil {
		text += ", certificate issued"
	}
	entry := a.effect(text)
	entry.Hub, entry.Substatus, entry.Twin = done.hub, done.substatus, done.twin
	s.journal.add(entry)
	return nil
}

// fail records the end of a registration that assigns nothing. The device stays where it was.
func (s *Service) fail(a *attempt, cause error) {
	var f *failure
	if !errors.As(cause, &f) {
		f = &failure{CodeInternal, "The stand-in failed: " + cause.Error()}
	}
	err := s.finish(a, func(_ *store.Tx, next *registration) error {
		state := &next.State
		state.Status, state.Substatus = model.StatusFailed, ""
		state.AssignedHub, state.DeviceID = "", ""
		state.X509, state.TPM, state.SymmetricKey = nil, nil, nil
		state.ErrorCode, state.ErrorMessage = f.code, f.message
		state.Payload, state.IssuedCertificateChain = nil, nil
		return nil
	})
	entry := a.effect(fmt.Sprintf("failed: %d %s", f.code, f.message))
	entry.Hub = a.Hub
	if err != nil {
		entry.Error = err.Error()
	}
	s.journal.add(entry)
}

var errGone = errors.New("the registration was deleted while it was pending")

// finish ends a pending registration: change sets its outcome.
func (s *Service) finish(a *attempt, change func(*store.Tx, *registration) error) error {
	key := fold(a.State.RegistrationID)
	return s.store.Update(func(tx *store.Tx) error {
		var now registration
		found, err := tx.Get(bucketRegistrations, key, &now)
		if err != nil {
			return err
		}
		if !found || now.OperationID != a.OperationID {
			return errGone
		}
		next := a.registration
		next.Pending = nil
		if err := change(tx, &next); err != nil {
			return err
		}
		next.touch()
		return tx.Put(bucketRegistrations, key, next)
	})
}

// effect is the journal's entry for the end of a registration.
func (a *attempt) effect(text string) Entry {
	return Entry{
		Time: model.Time{Time: a.start}, Kind: KindEffect, Transport: a.Pending.Transport,
		RegistrationID: a.State.RegistrationID, OperationID: a.OperationID,
		LinkedHubs: a.hubs, DurationMS: Milliseconds(time.Since(a.start)), DPSEffect: text,
	}
}

// certify issues the certificate that the device requested, if it did, which is then the one that the hub knows.
func (s *Service) certify(a *attempt) (chain [][]byte, err error) {
	if a.Pending.CSR == "" {
		return nil, nil
	}
	request, err := attest.ParseRequest(a.Pending.CSR, a.State.RegistrationID)
	if err != nil {
		return nil, err
	}
	if chain, err = s.config.Certify(request); err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	a.Pending.Identity = certificateIdentity(leaf)
	return chain, nil
}

// tpmHubKey makes a key for the hub and wraps it for the device's TPM.
func tpmHubKey(keys *model.TPM) (*model.SymmetricKey, []byte, error) {
	if keys == nil {
		return nil, nil, nil
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	blob, err := attest.WrapForTPM(*keys, key)
	return &model.SymmetricKey{PrimaryKey: base64.StdEncoding.EncodeToString(key), SecondaryKey: randomKey()}, blob, err
}

// place creates, keeps, moves or resets the device on the hubs. A device that keeps its data keeps its ID and its
// capabilities with it, whatever the enrollment or the spelling of the registration ID says since.
func (s *Service) place(tx *store.Tx, a *attempt, chosen choice) (placement, error) {
	identity := a.Pending.Identity
	identity.DeviceID = a.enrollment.deviceID(a.State.RegistrationID)
	if capabilities := a.enrollment.Capabilities; capabilities != nil {
		identity.IoTEdge = capabilities.IoTEdge
	}
	twin := chosen.twin
	if twin == nil {
		twin = a.enrollment.InitialTwin
	}
	create := func(hub, substatus, did string) (placement, error) {
		return placement{hub, identity.DeviceID, substatus, did}, s.hubs.Create(tx, hub, identity, twin)
	}
	if a.Hub == "" {
		return create(chosen.hub, model.SubstatusInitialAssignment, twinCreated)
	}
	kept := identity
	kept.DeviceID = a.DeviceID
	sameHub := strings.EqualFold(chosen.hub, a.Hub)
	if a.stays() || sameHub && (a.policy.MigrateDeviceData || !s.config.Behaviour.ResetOnSameHub) {
		substatus := model.SubstatusReprovisionedInitialAssignment
		if !a.stays() {
			substatus = s.config.Behaviour.SameHubSubstatus
		}
		found, err := s.hubs.Renew(tx, a.Hub, kept)
		if err == nil && !found { // someone deleted the device on the hub
			identity = kept
			return create(a.Hub, substatus, twinCreated)
		}
		return placement{a.Hub, kept.DeviceID, substatus, twinKept}, err
	}
	reachable := s.linkedHub(a.Hub) != nil && s.trouble.hub(a.Hub) != HubUnlinked
	if a.policy.MigrateDeviceData && reachable {
		found, err := s.hubs.Migrate(tx, a.Hub, chosen.hub, kept)
		if err != nil || found {
			return placement{chosen.hub, kept.DeviceID, model.SubstatusDeviceDataMigrated, twinMigrated}, err
		}
	}
	if reachable {
		if err := s.hubs.Remove(tx, a.Hub, a.DeviceID); err != nil {
			return placement{}, err
		}
	}
	return create(chosen.hub, model.SubstatusDeviceDataReset, twinReset)
}
