package dpssim

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

// lastStickyVersion is the last API version before DPS had reprovisioning.
const lastStickyVersion = "2018-04-01"

// failure is a registration that ends as failed.
type failure struct {
	code    int
	message string
}

func (f *failure) Error() string { return fmt.Sprintf("%d: %s", f.code, f.message) }

// reprovisioning returns an enrollment's policy, with a default for what is unset.
func (s *Service) reprovisioning(e *enrollment, apiVersion string) model.ReprovisionPolicy {
	if e.ReprovisionPolicy != nil {
		return *e.ReprovisionPolicy
	}
	if len(apiVersion) >= len(lastStickyVersion) && apiVersion[:len(lastStickyVersion)] <= lastStickyVersion {
		return model.ReprovisionPolicy{}
	}
	return ReprovisionPolicies[s.config.Behaviour.UnsetReprovision]
}

// choice is the hub that a policy chose for a device.
type choice struct {
	hub     string
	twin    *model.InitialTwin // from a webhook; nil for the enrollment's
	payload json.RawMessage    // for the device
}

// attempt is one registration with what is known about it when it runs.
type attempt struct {
	registration
	start      time.Time
	enrollment *enrollment
	policy     model.ReprovisionPolicy
	hubs       []string // what the allocation policy may choose from
}

// stays reports whether the device must stay on its hub.
func (a *attempt) stays() bool { return a.Hub != "" && !a.policy.UpdateHubAssignment }

// run brings a registration to its end.
func (s *Service) run(r registration) {
	a := &attempt{registration: r, start: time.Now()}
	chosen, err := s.choose(a)
	if s.ctx.Err() != nil {
		return // the service was closed; what is pending stays pending
	}
	if err == nil {
		err = s.assign(a, chosen)
	}
	if err != nil {
		s.fail(a, err)
	}
}

// choose finds the enrollment and lets its allocation policy choose a hub.
func (s *Service) choose(a *attempt) (choice, error) {
	collection, id := &s.Enrollments, a.EnrollmentID
	if a.GroupID != "" {
		collection, id = &s.Groups, a.GroupID
	}
	e, err := collection.lookUp(id)
	if err != nil {
		return choice{}, err
	}
	if e == nil {
		return choice{}, &failure{CodeNotFound, "The enrollment was deleted while the device registered."}
	}
	a.enrollment = e
	a.policy = s.reprovisioning(e, a.Pending.APIVersion)
	a.hubs = s.linkedHubs(a)
	kind := s.policyOf(e)
	if kind == model.PolicyCustom {
		return s.callWebhook(a)
	}
	switch {
	case len(a.hubs) == 0:
		return choice{}, &failure{CodeInvalidArgument, "No linked IoT hub is available to the enrollment."}
	case a.stays():
		return choice{hub: a.Hub}, nil
	case kind == model.PolicyStatic && e.IotHubHostName != "":
		if s.linkedHub(e.IotHubHostName) == nil || s.trouble.hub(e.IotHubHostName) != "" {
			return choice{}, &failure{CodeInvalidArgument, "The IoT hub " + e.IotHubHostName + " of the enrollment is not available."}
		}
		return choice{hub: s.linkedHub(e.IotHubHostName).HostName}, nil
	case kind == model.PolicyStatic:
		return choice{hub: a.hubs[0]}, nil
	case kind == model.PolicyGeoLatency:
		return choice{hub: s.byHash(s.nearest(a.hubs), a.State.RegistrationID)}, nil
	default:
		return choice{hub: s.byHash(a.hubs, a.State.RegistrationID)}, nil
	}
}

// linkedHubs is what a policy may choose from: the enrollment's hubs, or all linked hubs if it names none; for a device
// that must stay, only its own.
func (s *Service) linkedHubs(a *attempt) []string {
	if a.stays() {
		return []string{a.Hub}
	}
	selected := a.enrollment.IotHubs
	all := len(selected) == 0
	if all {
		for _, hub := range s.config.Hubs {
			selected = append(selected, hub.HostName)
		}
	}
	custom := s.policyOf(a.enrollment) == model.PolicyCustom
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
	i := slices.IndexFunc(s.config.Hubs, func(hub LinkedHub) bool { return strings.EqualFold(hub.HostName, name) })
	if i < 0 {
		return nil
	}
	return &s.config.Hubs[i]
}

func (s *Service) policyOf(e *enrollment) string {
	if e.AllocationPolicy == "" && e.IotHubHostName != "" {
		return model.PolicyStatic
	}
	return cmp.Or(e.AllocationPolicy, s.config.AllocationPolicy)
}

// nearest keeps the hubs of the lowest latency.
func (s *Service) nearest(hubs []string) []string {
	lowest := time.Duration(math.MaxInt64)
	for _, name := range hubs {
		lowest = min(lowest, s.linkedHub(name).Latency)
	}
	return slices.DeleteFunc(slices.Clone(hubs), func(name string) bool { return s.linkedHub(name).Latency > lowest })
}

// byHash spreads registration IDs over hubs by weight. The same ID always gets the same hub, and few IDs move when hubs
// come and go: each hub draws a number for the ID, divided by its weight as in an exponential race, and the lowest
// wins.
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

// mix spreads the bits of a hash, whose last input bytes change few of them.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
