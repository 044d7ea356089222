// Package calljournal reads the journal of usher dps: of its entries those that are
// calls of a webhook, with what the webhook answered, whoever wrote the webhook.
package calljournal

import (
	"encoding/json"
	"slices"
)

// Relation says what a text is to the journal.
type Relation int

// What a text can be.
const (
	Foreign Relation = iota // no entry of the journal
	Aside                   // an entry that is no call of a webhook, or a call made again
	Asked                   // the first call of a webhook for a registration
)

// Outcomes of a call, as DPS takes them. They are spelt as Usher spells its own.
const (
	Assigned = "assigned"
	Rejected = "rejected" // the registration fails at once
	Held     = "held"     // DPS asks again
)

// Call is what DPS asked a webhook and how that answered.
type Call struct {
	Request json.RawMessage // the AllocationRequest
	Outcome string          // "" if there was no answer, or one that names no hub
	Hub     string          // if assigned
}

// kinds of entries.
var kinds = []string{"register", "operation", "connect", "webhook", "effect", "service", "hub", "trouble"}

// entry is what is read of one. All entries have time, id, kind and durationMs.
type entry struct {
	Time       *string         `json:"time"`
	ID         *uint64         `json:"id"`
	Kind       string          `json:"kind"`
	DurationMS *float64        `json:"durationMs"`
	Attempt    int             `json:"attempt"`
	Repeated   bool            `json:"repeated"`
	Request    json.RawMessage `json:"request"`
	Status     int             `json:"status"`
	Response   json.RawMessage `json:"response"`
}

// Read reads one entry. Call is set if it is [Asked].
//
// A webhook that answers 429 or above is called again with the same request; these
// calls, and those that trouble on purpose doubles, are [Aside]: what counts is one
// question for each registration.
func Read(text []byte) (Call, Relation) {
	var e entry
	if json.Unmarshal(text, &e) != nil || e.Time == nil || e.ID == nil || e.DurationMS == nil || !slices.Contains(kinds, e.Kind) {
		return Call{}, Foreign
	}
	if e.Kind != "webhook" || e.Attempt > 1 || e.Repeated || len(e.Request) == 0 || e.Request[0] != '{' {
		return Call{}, Aside
	}
	call := Call{Request: e.Request}
	switch {
	case e.Status == 200:
		var response struct {
			Hub string `json:"iotHubHostName"`
		}
		if json.Unmarshal(e.Response, &response) == nil && response.Hub != "" {
			call.Outcome, call.Hub = Assigned, response.Hub
		}
	case e.Status >= 429:
		call.Outcome = Held
	case e.Status >= 400:
		call.Outcome = Rejected
	}
	return call, Asked
}
