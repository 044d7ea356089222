package hub

import (
	"maps"

	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// maxPending is how many changes may wait for a slow device. One more ends its session: the device then connects again
// and reads its twin, so that no change is lost silently.
const maxPending = 64

// Desired is a change of desired properties on its way to the device.
type Desired struct {
	Patch   []byte // JSON: the members that changed, null for those deleted, and $version as the last
	Version int64
	// PacketID is that of an earlier delivery that the device did not acknowledge; 0 for none.
	PacketID uint16
}

// Session is a device's connection to its hub. A lasting one, which MQTT asks for with CleanSession=0, leaves its
// subscriptions and the changes that the device did not acknowledge to the next lasting session of the device.
type Session struct {
	// Desired yields the changes of desired properties. It is closed when the hub ends the session: because the device
	// was removed, moved or disabled, got other keys, connected a second time, or was too slow.
	Desired <-chan Desired
	// Present is whether a lasting session continues an earlier one.
	Present bool
	// Subscriptions are those of the earlier session: the granted QoS by filter.
	Subscriptions map[string]byte

	desired  chan Desired
	registry *Registry
	place    place
	lasting  bool
	unacked  []Desired // guarded by the registry's mu
}

// Connect begins a session for a device that was authenticated. As at IoT Hub, it ends the session that the device had.
// The caller must Close the session.
func (r *Registry) Connect(hub, id string, lasting bool) (*Session, error) {
	s := &Session{registry: r, place: at(hub, id), lasting: lasting, Subscriptions: map[string]byte{}}
	err := r.store.Update(func(tx *store.Tx) error {
		d, err := load(tx, hub, id)
		if err != nil {
			return err
		}
		if lasting && d.Subscriptions != nil {
			s.Present, s.Subscriptions = true, maps.Clone(d.Subscriptions)
			return nil
		}
		if !lasting && d.Subscriptions == nil {
			return nil
		}
		if d.Subscriptions = nil; lasting {
			d.Subscriptions = map[string]byte{}
		}
		return tx.Put(bucket(hub), id, d)
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(s.place)
	var waiting []Desired
	if s.Present {
		waiting = r.waiting[s.place]
	}
	delete(r.waiting, s.place)
	s.desired = make(chan Desired, maxPending+len(waiting))
	s.Desired = s.desired
	for _, change := range waiting {
		s.desired <- change
	}
	r.sessions[s.place] = s
	return s, nil
}

// Subscribe keeps the subscriptions of a lasting session for the next one.
func (s *Session) Subscribe(granted map[string]byte) error {
	if !s.lasting {
		return nil
	}
	r, hub, id := s.registry, s.place.hub, s.place.device
	return r.store.Update(func(tx *store.Tx) error {
		d, err := load(tx, hub, id)
		if err != nil {
			return err
		}
		d.Subscriptions = maps.Clone(granted)
		return tx.Put(bucket(hub), id, d)
	})
}

// Sent notes a change that was sent and that the device must acknowledge.
func (s *Session) Sent(change Desired) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	s.unacked = append(s.unacked, change)
}

// Acknowledged notes that a change arrived.
func (s *Session) Acknowledged(packetID uint16) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	for i, change := range s.unacked {
		if change.PacketID == packetID {
			s.unacked = append(s.unacked[:i], s.unacked[i+1:]...)
			return
		}
	}
}

// Close ends the session, unless the hub already did.
func (s *Session) Close() {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if s.registry.sessions[s.place] == s {
		s.registry.endLocked(s.place)
	}
}

// Connected counts the sessions of a hub.
func (r *Registry) Connected(hub string) int {
	name := at(hub, "").hub
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for p := range r.sessions {
		if p.hub == name {
			n++
		}
	}
	return n
}

func (r *Registry) isConnected(hub, id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions[at(hub, id)] != nil
}

// end ends the session of a device, if it has one.
func (r *Registry) end(hub, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(at(hub, id))
}

// forget also drops what the session left to the next one, because the device is removed or replaced.
func (r *Registry) forget(hub, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(at(hub, id))
	delete(r.waiting, at(hub, id))
}

func (r *Registry) endLocked(p place) {
	s := r.sessions[p]
	if s == nil {
		return
	}
	delete(r.sessions, p)
	close(s.desired)
	if !s.lasting {
		return
	}
	waiting := s.unacked
	for change := range s.desired {
		waiting = append(waiting, change)
	}
	// What does not fit is lost: the device reads its twin, as after any change while it was not connected.
	r.waiting[p] = waiting[:min(len(waiting), maxPending)]
}

// notify sends a change to a device, if it is connected. IoT Hub keeps none for a device that is not.
func (r *Registry) notify(hub, id string, change Desired) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[at(hub, id)]
	if s == nil {
		return
	}
	select {
	case s.desired <- change:
	default:
		r.endLocked(s.place)
	}
}
