package hub

import (
	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// pending is how many desired patches may wait for a device that is slow to take
// them. One more ends its session: it will connect again and read its twin, so that
// nothing is lost in silence.
const pending = 64

// Desired is a change of desired properties on its way to the device.
type Desired struct {
	Patch   []byte // JSON: the members that changed, null for those deleted, and $version
	Version int64
}

// Session is a device's connection to its hub.
type Session struct {
	// Desired gives the changes of desired properties. It is closed when the hub ends
	// the session: the device was removed, moved or disabled, got other keys, connected
	// a second time, or was too slow.
	Desired <-chan Desired

	desired  chan Desired
	registry *Registry
	place    place
}

// Connect begins a session for a device that was authenticated. It ends the one that
// the device had, as a second connection of a device does at IoT Hub. The caller must
// Close it.
func (r *Registry) Connect(hub, id string) (*Session, error) {
	err := r.store.View(func(tx *store.Tx) error {
		_, err := load(tx, hub, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	desired := make(chan Desired, pending)
	s := &Session{Desired: desired, desired: desired, registry: r, place: at(hub, id)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.sessions[s.place]; old != nil {
		close(old.desired)
	}
	r.sessions[s.place] = s
	return s, nil
}

// Close ends the session, if the hub has not.
func (s *Session) Close() {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if s.registry.sessions[s.place] == s {
		delete(s.registry.sessions, s.place)
		close(s.desired)
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

// CountMessage counts a message that the device sent; nothing else is done with it.
func (s *Session) CountMessage() {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	s.registry.messages[s.place.hub]++
}

// Messages counts the device-to-cloud messages that a hub took since the start.
func (r *Registry) Messages(hub string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages[at(hub, "").hub]
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

func (r *Registry) endLocked(p place) {
	if s := r.sessions[p]; s != nil {
		delete(r.sessions, p)
		close(s.desired)
	}
}

// tell hands a change to a device that is connected.
func (r *Registry) tell(hub, id string, change Desired) {
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
