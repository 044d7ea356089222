// Package explain prints why a device got its answer: a decider.Explanation, and what DPS does with the answer. It decides
// nothing.
package explain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/explanation"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Report explains the answer to one request. Keys and certificates are masked.
type Report struct {
	Source     string      `json:"source"` // where the request was read
	Device     Device      `json:"device"`
	Enrollment Enrollment  `json:"enrollment"`
	Candidates []Candidate `json:"rules"` // the first serves the enrollment
	// Answer has keys and certificates masked; Decision is what JSON shows of it.
	Answer    answer.Answer   `json:"-"`
	Decision  answer.Document `json:"decision"`
	Effect    Effect          `json:"effect"`
	Overrides []Constraint    `json:"overrides,omitempty"`
	// Then is what the record of the request says was answered; nil if there is none. Recorded is what JSON shows of
	// it.
	Then     *answer.Answer  `json:"-"`
	Recorded answer.Document `json:"recorded,omitempty"`
	// Lacks are JSON pointers to what is masked in the record although the rules look at it.
	Lacks         []string            `json:"-"`
	WhyNot        *WhyNot             `json:"whyNot,omitempty"`
	Rows          []Row               `json:"lookups,omitempty"`
	Entries       []explanation.Entry `json:"entries"`
	BuiltinErrors []string            `json:"builtinErrors,omitempty"`
	CutShort      string              `json:"cutShort,omitempty"` // why the explanation is incomplete
}

// Device is what the request says about the device.
type Device struct {
	RegistrationID  string `json:"registrationId"`
	FirstAssignment bool   `json:"firstAssignment"`
	CurrentHub      string `json:"currentHub,omitempty"`
	// CurrentHubLinked is set if the current hub is one of linkedHubs.
	CurrentHubLinked bool `json:"currentHubLinked,omitempty"`
}

// Enrollment is what the request says about the enrollment.
type Enrollment struct {
	Kind        dps.EnrollmentKind    `json:"kind"`
	ID          string                `json:"id"`
	Reprovision dps.ReprovisionPolicy `json:"reprovisionPolicy"`
}

// Candidate is a rule that could serve the enrollment, and why.
type Candidate struct {
	Package string `json:"package"`
	Title   string `json:"title,omitempty"`
	Place   string `json:"place"`
	Why     string `json:"why"`
}

// Effect is what DPS does with the answer.
type Effect struct {
	Result    dps.Result `json:"result"`
	ErrorCode int        `json:"errorCode,omitempty"`
	Message   string     `json:"message"`
	// InitialTwin says what happens to the twin; only for an assignment.
	InitialTwin string `json:"initialTwin,omitempty"`
}

// Constraint is one that prevailed over the rule.
type Constraint struct {
	Name answer.Override `json:"name"`
	Text string          `json:"text"`
}

// New reports on a request that was explained.
func New(source string, request *dps.AllocationRequest, e decider.Explanation) *Report {
	mask := keymaterial.Of(request.Body())
	_, linked := request.LinkedHub(request.Device.CurrentIotHubHostName)
	r := &Report{
		Source: source,
		Device: Device{
			RegistrationID: mask.Text(request.Device.RegistrationID), FirstAssignment: request.FirstAssignment(),
			CurrentHub: request.Device.CurrentIotHubHostName, CurrentHubLinked: linked,
		},
		Enrollment: Enrollment(request.Enrollment),
		Candidates: []Candidate{},
		Entries:    e.Entries,

		BuiltinErrors: e.BuiltinErrors,
		CutShort:      e.CutShort,
	}
	if r.Entries == nil {
		r.Entries = []explanation.Entry{}
	}
	for _, c := range e.Candidates {
		r.Candidates = append(r.Candidates, Candidate{Package: c.Rule.Package, Title: c.Rule.Title, Place: c.Rule.Place, Why: why(c)})
	}
	for i := range e.Answer.Lookups {
		if lookup := &e.Answer.Lookups[i]; strings.HasPrefix(lookup.Builtin, ruleset.LookupBuiltin("")) {
			r.Rows = append(r.Rows, rowOf(lookup, mask))
		}
	}
	r.decide(request, e.Answer, mask)
	return r
}

func (r *Report) decide(request *dps.AllocationRequest, a answer.Answer, mask keymaterial.Mask) {
	effect := a.Effect()
	r.Effect = Effect{Result: effect.Result, ErrorCode: effect.ErrorCode, Message: effect.Message}
	if a.Result == answer.Assigned {
		r.Effect.InitialTwin = describeTwin(request, &a)
	}
	a.Response.InitialTwin = maskObject(mask, a.Response.InitialTwin)
	a.Response.Payload = maskObject(mask, a.Response.Payload)
	a.Detail = mask.Text(a.Detail)
	a.Reasons = slices.Clone(a.Reasons)
	for i, reason := range a.Reasons {
		a.Reasons[i] = mask.Text(reason)
	}
	if a.Cause != nil {
		a.Cause = errors.New(mask.Text(a.Cause.Error()))
	}
	r.Answer = a
	r.Decision = a.Document("outcome", "fault", "status", "rules", "hub", "initialTwin", "payload", "reasons", "retryAfter",
		"alarm", "detail", "cause")
	for _, override := range a.Overrides {
		r.Overrides = append(r.Overrides, Constraint{override, r.constraint(override, request)})
	}
}

// SetRecorded adds what the record of the request says was answered, and what is masked in it although the rules look
// at it.
func (r *Report) SetRecorded(then *answer.Answer, lacks []string) {
	r.Then, r.Lacks = then, lacks
	r.Recorded = append(answer.Document{{Name: "outcome", Value: string(then.Result)}}, then.Document("hub", "rules")...)
	if len(lacks) > 0 {
		r.Recorded = append(r.Recorded, answer.Member{Name: "lacks", Value: lacks})
	}
}

func maskObject(mask keymaterial.Mask, object *dps.Value) *dps.Value {
	if object == nil {
		return nil
	}
	return dps.ValueOf(mask.Value(object.Interface()))
}

// why says by what a rule serves an enrollment.
func why(c ruleset.Candidate) string {
	switch {
	case c.Exact:
		return "names it"
	case c.Pattern != "":
		return "names " + c.Pattern
	default:
		return "serves what no other rule names"
	}
}

// describeTwin says what DPS does with the device's twin.
func describeTwin(request *dps.AllocationRequest, a *answer.Answer) string {
	if a.InitialTwin != dps.InitialTwinNone {
		return string(a.InitialTwin)
	}
	moves := !request.FirstAssignment() && !dps.SameHub(request.Device.CurrentIotHubHostName, a.Response.IotHubHostName)
	switch {
	case request.FirstAssignment(), moves && request.Enrollment.Reprovision == dps.ReprovisionReset:
		return "none: DPS applies that of the enrollment, if it has one"
	case moves:
		return "none: the device moves and its twin is migrated"
	default:
		return "none: the device stays on its hub"
	}
}

// constraint describes what prevailed over the rule.
func (r *Report) constraint(override answer.Override, request *dps.AllocationRequest) string {
	current := request.Device.CurrentIotHubHostName
	switch override {
	case answer.NeverReprovision:
		says := "names no hub"
		if hub := r.entry("hub").Value; hub != nil {
			says = "says " + compact(hub)
		}
		return fmt.Sprintf("the reprovision policy keeps the device on %s, though the rule %s", current, says)
	case answer.CurrentHubNotLinked:
		return fmt.Sprintf("the reprovision policy keeps the device on %s, which is not linked: no answer satisfies both", current)
	case answer.OnUndecided:
		return "the rule names no hub, and on_undecided in its METADATA says what happens then"
	default:
		return string(override)
	}
}

// entry finds an entry rule. The result is empty if the package does not define it.
func (r *Report) entry(name string) explanation.Entry {
	for _, entry := range r.Entries {
		if entry.Name == name {
			return entry
		}
	}
	return explanation.Entry{}
}

// WriteJSON prints the report as one JSON document.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}
