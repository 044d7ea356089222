package requestlog

import (
	"encoding/json"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
)

// journalKinds are the kinds of entries in the journal of `usher dps`.
var journalKinds = []string{"register", "operation", "connect", "webhook", "effect", "service", "hub", "trouble"}

// entry is what is read of an entry of the journal. All entries have time, id, kind and durationMs.
type entry struct {
	Time       string          `json:"time"`
	ID         uint64          `json:"id"`
	DurationMS float64         `json:"durationMs"`
	Attempt    int             `json:"attempt"`
	Repeated   bool            `json:"repeated"`
	Request    json.RawMessage `json:"request"`
	Status     int             `json:"status"`
	Response   json.RawMessage `json:"response"`
}

// readEntry reads an entry of the journal, whoever wrote the webhook that was called. It reports whether the text is
// one.
//
// A webhook that answers 429 or above is called again with the same request. These calls, and those that the stand-in
// repeats on purpose, are an [OtherCall]: one request counts for each registration.
func (i *Item) readEntry(text []byte, kind jsontext.Value) bool {
	var name string
	var e entry
	if json.Unmarshal(kind, &name) != nil || !slices.Contains(journalKinds, name) || json.Unmarshal(text, &e) != nil {
		return false
	}
	i.Kind, i.Text, i.Body = OtherCall, text, nil
	if name != "webhook" || e.Attempt > 1 || e.Repeated || len(e.Request) == 0 || e.Request[0] != '{' {
		return true
	}
	i.Kind, i.Body = Call, e.Request
	switch {
	case e.Status == 200:
		var response struct {
			Hub string `json:"iotHubHostName"`
		}
		if json.Unmarshal(e.Response, &response) == nil && response.Hub != "" {
			i.Then = &answer.Answer{Result: answer.Assigned}
			i.Then.Response.IotHubHostName = response.Hub
		}
	case e.Status >= 429:
		i.Then = &answer.Answer{Result: answer.Held}
	case e.Status >= 400:
		i.Then = &answer.Answer{Result: answer.Rejected}
	}
	return true
}
