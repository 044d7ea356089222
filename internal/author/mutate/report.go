package mutate

import (
	"encoding/json"
	"reflect"

	"github.com/usher-dps/usher/answer"
)

// Outcome is what became of a change.
type Outcome string

// The outcomes.
const (
	Noticed  Outcome = "noticed"
	Survived Outcome = "survived"
	SetAside Outcome = "setAside"
	Invalid  Outcome = "invalid" // the changed rules do not load
)

// What notices a change.
const (
	byTest      = "test"
	byExchange  = "exchange"
	byInvariant = "invariant"
	byTime      = "time limit"
)

// Change is a change of the rules in one place.
type Change struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Operator string `json:"operator"`
	// Before and After are the lines that it touches.
	Before  string  `json:"before"`
	After   string  `json:"after"`
	Outcome Outcome `json:"outcome"`
	// NoticedBy is the kind of thing that noticed it: test, exchange, invariant or time limit.
	NoticedBy string `json:"noticedBy,omitempty"`
	// Reason says why it was set aside, or why the changed rules do not load.
	Reason string `json:"reason,omitempty"`
	// Witness is a request by which a test would notice a change that survived.
	Witness *Witness `json:"witness,omitempty"`
}

// Witness is a request that the rules answer differently with a change.
type Witness struct {
	Rule    string          `json:"rule"` // the package that decides
	Request json.RawMessage `json:"request"`
	// Before and After are the answers: the outcome or fault, and what else differs.
	Before answer.Document `json:"before"`
	After  answer.Document `json:"after"`
}

// newWitness keeps of two answers the outcome or fault, and what differs.
func newWitness(rule string, body []byte, before, after *answer.Answer) *Witness {
	w := &Witness{Rule: rule, Request: body, Before: before.Document("outcome", "fault"), After: after.Document("outcome", "fault")}
	members := []string{"hub", "initialTwin", "payload", "reasons"}
	if before.Result == after.Result {
		members = append(members, "status") // otherwise it follows from the result
	}
	for _, name := range members {
		was, is := before.Document(name), after.Document(name)
		if !reflect.DeepEqual(was, is) {
			w.Before, w.After = append(w.Before, was...), append(w.After, is...)
		}
	}
	return w
}

// Report is what became of all changes.
type Report struct {
	// Score is the percentage of noticed changes among those that were noticed or survived. It is 100 if there are none,
	// and is never rounded up to 100.
	Score    float64 `json:"score"`
	Noticed  int     `json:"noticed"`
	Survived int     `json:"survived"`
	SetAside int     `json:"setAside"`
	Invalid  int     `json:"invalid"`
	// LeftOut is the number of changes that were not tried, because there are too many of their kind in a file or the run
	// was interrupted.
	LeftOut int      `json:"leftOut,omitempty"`
	Changes []Change `json:"changes"`
}

func newReport(changes []Change, leftOut int) *Report {
	r := &Report{Score: 100, LeftOut: leftOut, Changes: []Change{}}
	for _, c := range changes {
		switch c.Outcome {
		case Noticed:
			r.Noticed++
		case Survived:
			r.Survived++
		case SetAside:
			r.SetAside++
		case Invalid:
			r.Invalid++
		default:
			r.LeftOut++
			continue
		}
		r.Changes = append(r.Changes, c)
	}
	if r.Survived > 0 {
		r.Score = float64(1000*r.Noticed/(r.Noticed+r.Survived)) / 10
	}
	return r
}

// Title says in words what the change does.
func (c *Change) Title() string {
	for _, operator := range Operators() {
		if operator.Name == c.Operator {
			return operator.Title
		}
	}
	return c.Operator
}
