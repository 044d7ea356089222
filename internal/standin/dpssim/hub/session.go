package hub

// maxPending is how many changes may wait for a slow device. One more ends its session: the device then connects again
// and reads its twin, so that no change is lost silently.
const maxPending = 64

// Desired is a change of desired properties on its way to the device.
type Desired struct {
	Patch   []byte // JSON: the members that changed, null for those deleted, and $version
	Version int64
}

// Session is a device's connection to its hub.
type Session struct {
	// Desired yields the changes of desired properties. It is closed when the hub ends the session: because the device
	// was removed, moved or disabled, got other keys, connected a second time, or was too slow.
	Desired <-chan Desired

	desired  chan Desired
	registry *Registry
	place    place
}

// Connect begins a session for a device that was authenticated. As at IoT Hub, it ends the session that the device had.
// The caller must Close the session.
func (r *Registry) Connect(hub, id string) (*Session, error) {
	if _, err := r.read(hub, id); err != nil {
		return nil, err
	}
	desired := make(chan Desired, maxPending)
	s := &Session{Desired: desired, desired: desired, registry: r, place: at(hub, id)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(s.place)
	r.sessions[s.place] = s
	return s, nil
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

func (r *Registry) endLocked(p place) {
	if s := r.sessions[p]; s != nil {
		delete(r.sessions, p)
		close(s.desired)
	}
}

// notify sends a change to a device, if it is connected.
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
