package replay

import (
	"strings"

	"github.com/usher-dps/usher/dps"
)

// HubLimit is how many devices a hub may get, and how many it gets.
type HubLimit struct {
	// Hub is the host name of the hub, or its first label.
	Hub   string `json:"hub"`
	Limit int64  `json:"limit"`
	After int64  `json:"after"`
}

// TooMany counts the devices beyond the limit.
func (l HubLimit) TooMany() int64 { return max(0, l.After-l.Limit) }

// compareWith returns the limits with what the hubs get. A hub that is not in the report gets no device.
func compareWith(hubs []Hub, limits []HubLimit) []HubLimit {
	list := []HubLimit{}
	for _, limit := range limits {
		limit.After = 0
		for _, hub := range hubs {
			label, _, _ := strings.Cut(hub.Name, ".")
			if dps.SameHub(limit.Hub, hub.Name) || dps.SameHub(limit.Hub, label) {
				limit.After += hub.After
			}
		}
		list = append(list, limit)
	}
	return list
}
