package dpssim

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/attest"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// lastStickyVersion is the last API version before DPS knew reprovisioning.
const lastStickyVersion = "2018-04-01"

// failure is a registration that ends as failed.
type failure struct {
	code    int
	message string
}

func (f *failure) Error() string { return fmt.Sprintf("%d: %s", f.code, f.message) }

// reprovisioning is a policy with what is unset decided.
type reprovisioning struct {
	updateHub, migrateData bool
}

func (s *Service) reprovisioning(e *enrollment, apiVersion string) reprovisioning {
	if policy := e.common().ReprovisionPolicy; policy != nil {
		return reprovisioning{policy.UpdateHubAssignment, policy.MigrateDeviceData}
	}
	if len(apiVersion) >= len(lastStickyVersion) && apiVersion[:len(lastStickyVersion)] <= lastStickyVersion {
		return reprovisioning{}
	}
	switch s.config.Behaviour.UnsetReprovision {
	case ReprovisionNever:
		return reprovisioning{}
	case ReprovisionReset:
		return reprovisioning{updateHub: true}
	default:
		return reprovisioning{updateHub: true, migrateData: true}
	}
}

// allocation is what a policy chose.
type allocation struct {
	hub     string
	twin    *model.InitialTwin // of a webhook; nil for the enrollment's
	payload json.RawMessage    // for the device
}

// run brings an operation to its end.
func (s *Service) run(r registration) {
	start := time.Now()
	e, err := s.enrollmentOf(r)
	if err != nil {
		s.fail(r, start, nil, err)
		return
	}
	if e == nil {
		s.fail(r, start, nil, &failure{CodeNotFound, "The enrollment was deleted while the device registered."})
		return
	}
	policy := s.reprovisioning(e, r.Pending.APIVersion)
	hubs := s.linkedHubs(e, r.Hub, policy)
	chosen, err := s.allocate(e, r, hubs, policy)
	if s.ctx.Err() != nil {
		return // the service was closed; what is pending stays so
	}
	if err != nil {
		s.fail(r, start, hubs, err)
		return
	}
	s.assign(r, start, e, policy, hubs, chosen)
}

func (s *Service) enrollmentOf(r registration) (e *enrollment, err error) {
	err = s.store.View(func(tx *store.Tx) (err error) {
		if r.GroupID != "" {
			e, err = s.findGroup(tx, r.GroupID)
		} else {
			e, err = s.findIndividual(tx, r.EnrollmentID)
		}
		return err
	})
	return e, err
}

// linkedHubs is what a policy may choose from: the enrollment's hubs, else all
// that are linked; for a device that must stay, the one that it is on.
func (s *Service) linkedHubs(e *enrollment, current string, policy reprovisioning) []string {
	if current != "" && !policy.updateHub {
		return []string{current}
	}
	selected := e.common().IotHubs
	all := len(selected) == 0
	if all {
		for _, hub := range s.config.Hubs {
			selected = append(selected, hub.HostName)
		}
	}
	custom := s.policyOf(e) == model.PolicyCustom
	hubs := []string{}
	for _, name := range selected {
		linked := s.linkedHub(name)
		excluded := linked != nil && linked.ExcludeFromAllocation && all &&
			!(custom && s.config.Behaviour.ExcludedHubsInLinkedHubs)
		if linked != nil && !excluded && s.trouble.hub(name) == "" {
			hubs = append(hubs, name)
		}
	}
	return hubs
}

// linkedHub returns nil for a hub that is not linked.
func (s *Service) linkedHub(name string) *LinkedHub {
	for i := range s.config.Hubs {
		if strings.EqualFold(s.config.Hubs[i].HostName, name) {
			return &s.config.Hubs[i]
		}
	}
	return nil
}

func (s *Service) policyOf(e *enrollment) string {
	common := e.common()
	if common.AllocationPolicy == "" && common.IotHubHostName != "" {
		return model.PolicyStatic
	}
	return cmp.Or(common.AllocationPolicy, s.config.AllocationPolicy)
}

func (s *Service) allocate(e *enrollment, r registration, hubs []string, policy reprovisioning) (allocation, error) {
	kind := s.policyOf(e)
	if kind == model.PolicyCustom {
		return s.askWebhook(e, r, hubs, policy)
	}
	if len(hubs) == 0 {
		return allocation{}, &failure{CodeInvalidArgument, "No linked IoT hub is available to the enrollment."}
	}
	switch {
	case r.Hub != "" && !policy.updateHub:
		return allocation{hub: r.Hub}, nil
	case kind == model.PolicyStatic && e.common().IotHubHostName != "":
		name := e.common().IotHubHostName
		if s.linkedHub(name) == nil || s.trouble.hub(name) != "" {
			return allocation{}, &failure{CodeInvalidArgument, "The IoT hub " + name + " of the enrollment is not available."}
		}
		return allocation{hub: s.linkedHub(name).HostName}, nil
	case kind == model.PolicyStatic:
		return allocation{hub: hubs[0]}, nil
	case kind == model.PolicyGeoLatency:
		return allocation{hub: s.byHash(s.nearest(hubs), r.State.RegistrationID)}, nil
	default:
		return allocation{hub: s.byHash(hubs, r.State.RegistrationID)}, nil
	}
}

// nearest keeps the hubs of the lowest latency.
func (s *Service) nearest(hubs []string) []string {
	lowest := time.Duration(math.MaxInt64)
	for _, name := range hubs {
		lowest = min(lowest, s.linkedHub(name).Latency)
	}
	return slices.DeleteFunc(slices.Clone(hubs), func(name string) bool { return s.linkedHub(name).Latency > lowest })
}

// byHash spreads registration ids over hubs by weight, the same id always to the
// same hub, and moves few ids when hubs come and go: each hub draws a number for
// the id, divided by its weight as in an exponential race, and the lowest wins.
func (s *Service) byHash(hubs []string, registrationID string) string {
	best, lowest := hubs[0], math.Inf(1)
	for _, name := range hubs {
		hash := fnv.New64a()
		hash.Write([]byte(fold(name) + "\x00" + fold(registrationID)))
		uniform := (float64(mix(hash.Sum64())>>11) + 0.5) / (1 << 53)
		if draw := -math.Log(uniform) / float64(s.linkedHub(name).Weight); draw < lowest {
			best, lowest = name, draw
		}
	}
	return best
}

// mix spreads the bits of a hash whose last bytes change little else.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// effect is what an assignment did to the hubs.
type effect struct {
	hub, deviceID, substatus, twin string
}

// Twins, in Entry.Twin.
const (
	twinCreated  = "created"
	twinMigrated = "migrated"
	twinReset    = "reset"
	twinKept     = "kept"
)

// assign writes the outcome to hub and record, both or neither.
func (s *Service) assign(r registration, start time.Time, e *enrollment, policy reprovisioning, linked []string, chosen allocation) {
	operation := r.Pending
	hubKey, blob, err := tpmHubKey(operation.TPM)
	if err != nil {
		s.fail(r, start, linked, err)
		return
	}
	if hubKey != nil {
		operation.Identity.SymmetricKey = hubKey
	}
	var done effect
	err = s.store.Update(func(tx *store.Tx) (err error) {
		if err := stillPending(tx, r); err != nil {
			return err
		}
		if done, err = s.place(tx, r, e, policy, chosen); err != nil {
			return err
		}
		next := r
		next.Pending = nil
		next.Hub, next.DeviceID = done.hub, done.deviceID
		next.State.AssignedHub, next.State.DeviceID = done.hub, done.deviceID
		next.State.Status, next.State.Substatus = model.StatusAssigned, done.substatus
		next.State.ErrorCode, next.State.ErrorMessage = 0, ""
		next.State.Payload = chosen.payload
		next.describeProof(e, operation)
		if blob != nil {
			next.State.TPM = &model.TPMRegistrationResult{AuthenticationKey: base64.StdEncoding.EncodeToString(blob)}
		}
		next.touch()
		return tx.Put(bucketRegistrations, fold(r.State.RegistrationID), next)
	})
	if errors.Is(err, errGone) {
		s.fail(r, start, linked, &failure{CodeNotFound, err.Error()})
		return
	}
	if err != nil {
		s.fail(r, start, linked, &failure{s.config.Behaviour.HubRefusedCode, err.Error()})
		return
	}
	s.journal.add(Entry{
		Time: model.Time{Time: start}, Kind: KindEffect, Transport: operation.Transport,
		RegistrationID: r.State.RegistrationID, OperationID: r.OperationID,
		Hub: done.hub, Substatus: done.substatus, Twin: done.twin, LinkedHubs: linked,
		DurationMS: milliseconds(time.Since(start)),
		DPSEffect:  fmt.Sprintf("assigned to %s as %s, %s, twin %s", done.hub, done.deviceID, done.substatus, done.twin),
	})
}

var errGone = errors.New("the registration was deleted while it was pending")

// stillPending guards what is written at the end of an operation.
func stillPending(tx *store.Tx, r registration) error {
	var now registration
	found, err := tx.Get(bucketRegistrations, fold(r.State.RegistrationID), &now)
	if err != nil {
		return err
	}
	if !found || now.OperationID != r.OperationID {
		return errGone
	}
	return nil
}

// tpmHubKey makes a key for the hub and wraps it for the device's TPM.
func tpmHubKey(keys *model.TPM) (*model.SymmetricKey, []byte, error) {
	if keys == nil {
		return nil, nil, nil
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	blob, err := attest.WrapForTPM(*keys, key, "")
	return &model.SymmetricKey{PrimaryKey: base64.StdEncoding.EncodeToString(key), SecondaryKey: randomKey()}, blob, err
}

// place puts the device where it belongs.
func (s *Service) place(tx *store.Tx, r registration, e *enrollment, policy reprovisioning, chosen allocation) (effect, error) {
	identity := r.Pending.Identity
	identity.DeviceID = e.deviceID(r.State.RegistrationID)
	if capabilities := e.common().Capabilities; capabilities != nil {
		identity.IoTEdge = capabilities.IoTEdge
	}
	twin := chosen.twin
	if twin == nil {
		twin = e.common().InitialTwin
	}
	stays := r.Hub != "" && (!policy.updateHub || strings.EqualFold(chosen.hub, r.Hub))
	if r.Hub != "" && !policy.updateHub {
		identity.DeviceID = r.DeviceID
	}
	switch {
	case r.Hub == "":
		err := s.hubs.Create(tx, chosen.hub, identity, twin)
		return effect{chosen.hub, identity.DeviceID, model.SubstatusInitialAssignment, twinCreated}, err
	case stays && identity.DeviceID == r.DeviceID:
		substatus := s.config.Behaviour.SameHubSubstatus
		if !policy.updateHub {
			substatus = model.SubstatusReprovisionedInitialAssignment
		}
		found, err := s.hubs.Renew(tx, r.Hub, identity)
		if err != nil || found {
			return effect{r.Hub, identity.DeviceID, substatus, twinKept}, err
		}
		// Somebody deleted the device on the hub.
		err = s.hubs.Create(tx, r.Hub, identity, twin)
		return effect{r.Hub, identity.DeviceID, substatus, twinCreated}, err
	}
	reachable := s.linkedHub(r.Hub) != nil && s.trouble.hub(r.Hub) != HubUnlinked
	if policy.migrateData && reachable && identity.DeviceID == r.DeviceID {
		found, err := s.hubs.Migrate(tx, r.Hub, chosen.hub, identity)
		if err != nil || found {
			return effect{chosen.hub, identity.DeviceID, model.SubstatusDeviceDataMigrated, twinMigrated}, err
		}
	}
	if reachable {
		if err := s.hubs.Remove(tx, r.Hub, r.DeviceID); err != nil {
			return effect{}, err
		}
	}
	err := s.hubs.Create(tx, chosen.hub, identity, twin)
	return effect{chosen.hub, identity.DeviceID, model.SubstatusDeviceDataReset, twinReset}, err
}

// fail records the end of an operation that assigns nothing. The device stays
// where it was.
func (s *Service) fail(r registration, start time.Time, linked []string, cause error) {
	var f *failure
	if !errors.As(cause, &f) {
		f = &failure{CodeInternal, "The stand-in failed: " + cause.Error()}
	}
	transport := r.Pending.Transport
	err := s.store.Update(func(tx *store.Tx) error {
		if err := stillPending(tx, r); err != nil {
			return err
		}
		next := r
		next.Pending = nil
		next.State.Status, next.State.Substatus = model.StatusFailed, ""
		next.State.AssignedHub, next.State.DeviceID = "", ""
		next.State.X509, next.State.TPM, next.State.SymmetricKey = nil, nil, nil
		next.State.ErrorCode, next.State.ErrorMessage = f.code, f.message
		next.State.Payload = nil
		next.touch()
		return tx.Put(bucketRegistrations, fold(r.State.RegistrationID), next)
	})
	entry := Entry{
		Time: model.Time{Time: start}, Kind: KindEffect, Transport: transport,
		RegistrationID: r.State.RegistrationID, OperationID: r.OperationID,
		Hub: r.Hub, LinkedHubs: linked, DurationMS: milliseconds(time.Since(start)),
		DPSEffect: fmt.Sprintf("failed: %d %s", f.code, f.message),
	}
	if err != nil {
		entry.Error = err.Error()
	}
	s.journal.add(entry)
}
