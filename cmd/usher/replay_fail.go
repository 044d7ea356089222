package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/verify"
)

// Names of --fail-on that are not about kinds of change.
const (
	failMalformed = "malformed"
	failLacking   = "lacking"
	failHubLimit  = "hub-limit"
)

// failNames are what --fail-on can name.
var failNames = []string{"moved", "diverted", "twin", "payload", "accepted", "rejected", "held", "faulted", failMalformed, failLacking, failHubLimit, "any"}

// kindsOf are the kinds of change that --fail-on counts under a name.
var kindsOf = map[string][]replay.Kind{
	"moved":    {replay.Moved},
	"diverted": {replay.Diverted},
	"twin":     {replay.TwinChanged, replay.TwinAndPayloadChanged},
	"payload":  {replay.PayloadChanged, replay.TwinAndPayloadChanged},
	"accepted": {replay.NewlyAccepted},
	"rejected": {replay.NewlyRejected},
	"held":     {replay.NewlyHeld},
	"faulted":  {replay.NewlyFaulted},
	"any": {replay.Moved, replay.Diverted, replay.TwinChanged, replay.PayloadChanged, replay.TwinAndPayloadChanged,
		replay.NewlyAccepted, replay.NewlyRejected, replay.NewlyHeld, replay.NewlyFaulted},
}

// failure is one value of --fail-on, such as moved, moved>10 or moved>5%.
type failure struct {
	name    string
	above   float64 // what is allowed
	percent bool    // above is a percentage of all that are counted
	limited bool    // above was given
}

func parseFailure(text string) (failure, error) {
	name, above, limited := strings.Cut(text, ">")
	f := failure{name: strings.TrimSpace(name), limited: limited}
	if !slices.Contains(failNames, f.name) {
		return f, fmt.Errorf("--fail-on has %q: use %s", text, alternatives(failNames))
	}
	if !limited {
		return f, nil
	}
	if f.name == failHubLimit {
		return f, fmt.Errorf("--fail-on has %q: the limits are those of --hub-limit, so write only %s", text, failHubLimit)
	}
	number, percent := strings.CutSuffix(strings.TrimSpace(above), "%")
	var err error
	f.percent = percent
	f.above, err = strconv.ParseFloat(number, 64)
	if err != nil || !(f.above >= 0) || percent && f.above > 100 || !percent && f.above != math.Trunc(f.above) {
		return f, fmt.Errorf("--fail-on has %q: write a number after >, such as %s>10, or a percentage, such as %[2]s>5%%", text, f.name)
	}
	return f, nil
}

// find returns what a report has of the failure; empty if that is allowed.
func (f failure) find(report *replay.Report) []string {
	var n int64
	all := report.Counted
	switch f.name {
	case failHubLimit:
		return hubsBeyond(report.HubLimits)
	case failMalformed, failLacking:
		n, all = report.Malformed, report.Registrations+report.Malformed+report.Lacking
		if f.name == failLacking {
			n = report.Lacking
		}
	default:
		for _, kind := range kindsOf[f.name] {
			n += report.Counts[kind]
		}
	}
	share := 100 * float64(n) / float64(max(all, 1))
	found := fmt.Sprintf("%d %s", n, f.words())
	switch {
	case !f.percent && float64(n) <= f.above, f.percent && share <= f.above:
		return nil
	case f.percent:
		found += fmt.Sprintf(" (%.1f%%, more than %v%%)", share, f.above)
	case f.limited:
		found += fmt.Sprintf(" (more than %.0f)", f.above)
	}
	return []string{found}
}

func (f failure) words() string {
	switch f.name {
	case "moved", "diverted", failMalformed, failLacking:
		return f.name
	case "twin", "payload":
		return f.name + " changed"
	case "any":
		return "changed"
	default:
		return "newly " + f.name
	}
}

func hubsBeyond(limits []replay.HubLimit) []string {
	var found []string
	for _, limit := range limits {
		if limit.TooMany() > 0 {
			found = append(found, fmt.Sprintf("%s with %d devices (more than %d)", limit.Hub, limit.After, limit.Limit))
		}
	}
	return found
}

// unlinked says that a limit is of no hub, and which one may be meant.
func unlinked(limit replay.HubLimit, hubs []string) error {
	var labels []string
	for _, hub := range hubs {
		label, _, _ := strings.Cut(hub, ".")
		labels = append(labels, label)
	}
	given, _, _ := strings.Cut(strings.ToLower(limit.Hub), ".")
	meant := ""
	if len(labels) > 0 {
		distance := func(label string) int { return levenshtein.ComputeDistance(given, label) }
		nearest := slices.MinFunc(labels, func(a, b string) int { return distance(a) - distance(b) })
		if distance(nearest) <= max(1, len(nearest)/4) {
			meant = fmt.Sprintf(" (did you mean %s?)", nearest)
		}
	}
	const few = 20
	names := strings.Join(hubs[:min(len(hubs), few)], ", ")
	if more := len(hubs) - few; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Errorf("--hub-limit %s=%d limits nothing: no registration links a hub of that name%s: linked are %s",
		limit.Hub, limit.Limit, meant, explain.Printable(names))
}

// hubLimits is the value of --hub-limit.
type hubLimits []replay.HubLimit

func (h *hubLimits) String() string { return "" }
func (h *hubLimits) Type() string   { return "HUB=N" }

func (h *hubLimits) Set(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		hub, number, _ := strings.Cut(one, "=")
		limit, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if hub = strings.TrimSpace(hub); err != nil || limit < 0 || !verify.IsHub(hub) {
			return errors.New("write a hub, by host name or first label, and how many devices it may get, such as contoso-eu=100000")
		}
		*h = append(*h, replay.HubLimit{Hub: hub, Limit: limit})
	}
	return nil
}
