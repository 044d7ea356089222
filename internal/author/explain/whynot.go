package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/explanation"
)

// WhyNot explains why a device does not go to a certain hub.
type WhyNot struct {
	Hub    string `json:"hub"` // as linkedHubs spells it, if it is linked
	Linked bool   `json:"linked"`
	// Answer is set if the device does go there.
	Answer bool `json:"answer,omitempty"`
	// Obstacles are what forbids the hub, or decides before the entry rule hub, the most important first.
	Obstacles []string `json:"obstacles,omitempty"`
	// lastWord are the entry rules among the obstacles.
	lastWord []explanation.Entry
	// Definitions are those of hub.
	Definitions []HubDefinition `json:"definitions"`
}

// HubDefinition shows how one definition of hub relates to the hub.
type HubDefinition struct {
	Place string            `json:"place"`
	Text  string            `json:"text"`
	State explanation.State `json:"state"`
	// Names is "yes" if the definition gives the hub, or would if it held; "no" if it gives another; "unknown" if that
	// depends on what does not hold.
	Names string `json:"names"`
	Note  string `json:"note"`
	// Failed is the expression that does not hold.
	Failed *explanation.Expression `json:"failed,omitempty"`
}

// ExplainWhyNot adds to the report why the device does not go to a hub, given by host name or first label.
func (r *Report) ExplainWhyNot(request *dps.AllocationRequest, name string) {
	w := &WhyNot{Hub: name, Definitions: []HubDefinition{}}
	r.WhyNot = w
	for _, hub := range request.LinkedHubs {
		if label, _, _ := strings.Cut(hub, "."); dps.SameHub(hub, name) || dps.SameHub(label, name) {
			w.Hub, w.Linked = hub, true
			break
		}
	}
	if w.Answer = w.Linked && r.Answer.Response.IotHubHostName == w.Hub; w.Answer {
		return
	}
	if !w.Linked {
		w.Obstacles = append(w.Obstacles, fmt.Sprintf("%s is not linked: the request links %s", name, strings.Join(request.LinkedHubs, ", ")))
	}
	if current := request.Device.CurrentIotHubHostName; request.Enrollment.Reprovision == dps.ReprovisionNever && current != "" && !dps.SameHub(current, w.Hub) {
		w.Obstacles = append(w.Obstacles, fmt.Sprintf("the enrollment's reprovision policy keeps the device on %s", current))
	}
	for _, name := range []string{"reject", "hold"} {
		entry := r.entry(name)
		if entry.Asked && isSet(entry.Value) {
			w.lastWord = append(w.lastWord, entry)
		}
		for _, d := range entry.Definitions {
			if entry.Asked && d.State == explanation.Gave && isSet(d.Value) {
				w.Obstacles = append(w.Obstacles, fmt.Sprintf("%s at %s decides: %s", name, d.Place, compact(d.Value)))
			}
		}
	}
	if a := &r.Answer; a.Detail != "" {
		w.Obstacles = append(w.Obstacles, fmt.Sprintf("no decision is reached (%s): %s", a.Result, a.Detail))
	}
	entry := r.entry("hub")
	if len(entry.Definitions) == 0 && len(r.Entries) > 0 {
		w.Obstacles = append(w.Obstacles, "the rule does not define hub")
	}
	for _, d := range entry.Definitions {
		w.Definitions = append(w.Definitions, w.definition(d, entry))
	}
}

// isSet reports whether a value of reject or hold rejects or holds.
func isSet(value any) bool {
	list, isList := value.([]any)
	return value != nil && value != false && (!isList || len(list) > 0)
}

func (w *WhyNot) definition(d explanation.Definition, hub explanation.Entry) HubDefinition {
	h := HubDefinition{Place: d.Place, Text: d.Text, State: d.State, Failed: d.Failed, Names: "unknown"}
	if name, ok := d.Value.(string); ok {
		h.Names = "no"
		if dps.SameHub(name, w.Hub) {
			h.Names = "yes"
		}
	}
	wouldGive := map[string]string{"yes": "it would give this hub", "no": "it would give " + compact(d.Value),
		"unknown": "what it would give depends on what does not hold"}[h.Names]
	switch d.State {
	case explanation.Gave:
		h.Note = w.gave(d, h.Names)
	case explanation.NotHeld:
		h.Note = wouldGive
	case explanation.Unreached:
		if d.Failed == nil && h.Names == "unknown" {
			wouldGive = "what it would give is unknown"
		}
		h.Note = wouldGive + ", but it is not reached: " + before(d, hub)
	case explanation.Erred:
		h.Note = "it fails: " + d.Error
	default:
		h.Note = "the explanation was cut short before it"
	}
	return h
}

func (w *WhyNot) gave(d explanation.Definition, names string) string {
	if names == "yes" {
		return "it gives this hub, but something else decides"
	}
	draw := slices.IndexFunc(d.Draws, func(draw explanation.Draw) bool { return draw.Drawn == d.Value })
	if draw < 0 {
		return "it gives " + compact(d.Value)
	}
	among, luck := d.Draws[draw].Among, "this hub is not among them"
	if slices.ContainsFunc(among, func(hub string) bool { return dps.SameHub(hub, w.Hub) }) {
		luck = fmt.Sprintf("this hub is among them, but %s draws another", compact(d.Draws[draw].Key))
	}
	return fmt.Sprintf("it gives %s, drawn from %s: %s", compact(d.Value), strings.Join(among, ", "), luck)
}

// before names what takes precedence over a definition that is not reached: the branch that holds, or for a default any
// other definition that holds.
func before(d explanation.Definition, hub explanation.Entry) string {
	place := ""
	for _, other := range hub.Definitions {
		if other.Place == d.Place && other.Text == d.Text && place != "" {
			break
		}
		if other.State == explanation.Gave {
			place = other.Place
		}
	}
	return place + " takes precedence"
}
