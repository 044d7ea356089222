package replay

import (
	"maps"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
)

// HubLimit is how many devices a hub may get, and how many it gets.
type HubLimit struct {
	// Hub is the host name of the hub, or its first label.
	Hub   string `json:"hub"`
	Limit int64  `json:"limit"`
	After int64  `json:"after"`
	// Linked is set if a registration links a hub of that name, or a device is on it. A limit of another hub limits
	// nothing.
	Linked bool `json:"linked"`
}

// TooMany counts the devices beyond the limit.
func (l HubLimit) TooMany() int64 { return max(0, l.After-l.Limit) }

// names reports whether the limit is that of a hub.
func (l HubLimit) names(host string) bool {
	label, _, _ := strings.Cut(host, ".")
	return dps.SameHub(l.Hub, host) || dps.SameHub(l.Hub, label)
}

// compareWith returns the limits with what the hubs get, and whether they are linked. A hub that is not in the report gets
// no device.
func compareWith(hubs []Hub, linked []string, limits []HubLimit) []HubLimit {
	list := []HubLimit{}
	for _, limit := range limits {
		limit.After, limit.Linked = 0, slices.ContainsFunc(linked, limit.names)
		for _, hub := range hubs {
			if limit.names(hub.Name) {
				limit.After, limit.Linked = limit.After+hub.After, true
			}
		}
		list = append(list, limit)
	}
	return list
}

// maxLinked bounds how many names of linked hubs are kept. A service has at most 50.
const maxLinked = 1000

// linked are the names of the hubs that registrations link.
type linked map[string]struct{}

func (l linked) add(hosts ...string) {
	for _, host := range hosts {
		if name := dps.HubName(host); len(l) < maxLinked {
			l[intern(name)] = struct{}{}
		}
	}
}

func (l linked) names() []string { return slices.Sorted(maps.Keys(l)) }
