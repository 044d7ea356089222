package requestlog

import (
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
)

// journalKinds are the kinds of entries in the journal of `usher dps`.
var journalKinds = []string{"register", "operation", "connect", "webhook", "effect", "service", "hub", "trouble"}

// entry has the other members of an entry of the journal. All entries have time, id, kind and durationMs.
type entry struct {
	Kind       jsontext.Value `json:"kind"`
	Time       jsontext.Value `json:"time"`
	ID         jsontext.Value `json:"id"`
	DurationMS jsontext.Value `json:"durationMs"`
	Attempt    jsontext.Value `json:"attempt"`
	Repeated   jsontext.Value `json:"repeated"`
	Status     jsontext.Value `json:"status"`
	Response   jsontext.Value `json:"response"`
}

// readEntry reads an entry of the journal, whoever wrote the webhook that was called. It reports whether the object is
// one.
//
// A webhook that answers 429 or above is called again with the same request. These calls, and those that the stand-in
// repeats on purpose, are an [OtherCall]: one request counts for each registration.
func (i *Item) readEntry(o *object) bool {
	e := &o.entry
	kind, err := jsontext.AppendUnquote(nil, e.Kind)
	if err != nil || e.Time == nil || e.ID == nil || e.DurationMS == nil || !slices.Contains(journalKinds, string(kind)) {
		return false
	}
	i.Kind, i.Body = OtherCall, nil
	repeated := string(e.Repeated) == "true" || e.Attempt != nil && string(e.Attempt) != "0" && string(e.Attempt) != "1"
	if string(kind) != "webhook" || repeated || o.Request.Kind() != '{' {
		return true
	}
	i.Kind, i.Body = Call, o.Request
	status, _ := strconv.Atoi(string(e.Status))
	switch {
	case status == 200:
		var response struct {
			Hub string `json:"iotHubHostName"`
		}
		if json.Unmarshal(e.Response, &response) == nil && response.Hub != "" {
			i.Then = &answer.Answer{Result: answer.Assigned}
			i.Then.Response.IotHubHostName = response.Hub
		}
	case status >= 429:
		i.Then = &answer.Answer{Result: answer.Held}
	case status >= 400:
		i.Then = &answer.Answer{Result: answer.Rejected}
	}
	return true
}
