package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/calljournal"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// members of DPS's own in an AllocationRequest, in lower case. A line that begins
// with one of them is a bare request, which spares it a second reading.
var requestMembers = map[string]bool{
	"enrollmentgroup": true, "individualenrollment": true, "deviceruntimecontext": true, "linkedhubs": true,
}

// line is what a line of a log holds.
type line struct {
	body []byte // an AllocationRequest
	// recorded is what was decided; nil where the line does not say.
	recorded *State
	// The rest is of decision records alone.
	decisionID string
	rules      string // the digest of the rules that decided
	passed     bool   // the record of a decision that no device was answered with
	aside      bool   // of the journal of usher dps an entry that asks for no allocation
	masked     []string
	lookups    []answer.Lookup
}

// maskedBeyond stands for the places that a record counts and does not name.
const maskedBeyond = ""

// split tells a record from a bare request. A record is an object with a member
// request, and perhaps decision; anything else, broken JSON too, is returned as it
// is. Of a decision record of Usher's own it reads what a replay needs besides.
func split(text []byte) (line, error) {
	bare := line{body: text}
	if isBare(text) {
		return bare, nil
	}
	decoder := jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true))
	if decoder.PeekKind() != '{' {
		return bare, nil
	}
	if _, err := decoder.ReadToken(); err != nil {
		return bare, nil
	}
	members := recordMembers{}
	for decoder.PeekKind() == '"' {
		name, err := decoder.ReadToken()
		if err != nil {
			return bare, nil
		}
		member := name.String()
		if members.kind == nil && requestMembers[strings.ToLower(member)] {
			return bare, nil // not an effect in a journal, which has linkedHubs too
		}
		value, err := decoder.ReadValue()
		if err != nil {
			return bare, nil // the decider says what is wrong with it
		}
		target := members.find(member)
		if target == nil {
			continue
		}
		if *target != nil {
			return line{}, fmt.Errorf("the record has the member %s twice", member)
		}
		*target = text[int(decoder.InputOffset())-len(value) : decoder.InputOffset()]
	}
	if members.version == nil && members.kind != nil {
		call, relation := calljournal.Read(text)
		switch relation {
		case calljournal.Aside:
			return line{aside: true}, nil
		case calljournal.Asked:
			return line{body: call.Request, recorded: callState(call)}, nil
		}
	}
	if members.request == nil && members.version == nil {
		return bare, nil
	}
	if _, err := decoder.ReadToken(); err != nil {
		return line{}, errors.New("the record is not valid JSON")
	}
	if len(bytes.TrimSpace(text[decoder.InputOffset():])) > 0 {
		return line{}, errors.New("there is data after the record")
	}
	return members.line()
}

// isBare reports whether a line begins with a member of DPS's own, as those of most
// logs do: that takes no decoder to see.
func isBare(text []byte) bool {
	text, isObject := bytes.CutPrefix(text, []byte{'{'})
	text, isName := bytes.CutPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte{'"'})
	end := bytes.IndexByte(text, '"')
	var name [len("individualEnrollment")]byte
	return isObject && isName && end >= 0 && end <= len(name) &&
		requestMembers[string(bytes.ToLower(append(name[:0], text[:end]...)))]
}

// recordMembers are the members of a record that a replay reads.
type recordMembers struct {
	version, decisionID, source, probe, rules, request, decision, masked, maskedMore, lookups jsontext.Value
	kind                                                                                      jsontext.Value // of an entry of a journal
}

func (m *recordMembers) find(name string) *jsontext.Value {
	switch name {
	case "usherRecord":
		return &m.version
	case "decisionId":
		return &m.decisionID
	case "source":
		return &m.source
	case "probe":
		return &m.probe
	case "rules":
		return &m.rules
	case "request":
		return &m.request
	case "decision":
		return &m.decision
	case "masked":
		return &m.masked
	case "maskedMore":
		return &m.maskedMore
	case "lookups":
		return &m.lookups
	case "kind":
		return &m.kind
	}
	return nil
}

func (m *recordMembers) line() (line, error) {
	recorded, err := recordedState(m.decision)
	if err != nil || m.version == nil {
		return line{body: m.request, recorded: recorded}, err
	}
	switch {
	case string(m.version) != strconv.Itoa(decisionlog.Version):
		return line{}, fmt.Errorf("a decision record of version %.20s, and this program reads version %d", m.version, decisionlog.Version)
	case m.request == nil:
		return line{}, errors.New("the record has no request: the body could not be read")
	}
	l := line{recorded: recorded, passed: string(m.source) == `"`+string(answer.SourceShadow)+`"` || string(m.probe) == "true"}
	var rules decisionlog.Rules
	var calls []decisionlog.Call
	for _, member := range []struct {
		name string
		text jsontext.Value
		into any
	}{{"decisionId", m.decisionID, &l.decisionID}, {"rules", m.rules, &rules}, {"masked", m.masked, &l.masked}, {"lookups", m.lookups, &calls}} {
		if member.text == nil {
			continue
		}
		if err := json.Unmarshal(member.text, member.into); err != nil {
			return line{}, fmt.Errorf("the record's %s is not what it should be: %w", member.name, err)
		}
	}
	l.rules = rules.Digest
	if l.lookups, err = decisionlog.KnownLookups(calls); err != nil {
		return line{}, err
	}
	if l.body, err = decisionlog.Replayable(json.RawMessage(m.request), l.masked); err != nil {
		return line{}, err
	}
	if m.maskedMore != nil {
		l.masked = append(l.masked, maskedBeyond)
	}
	return l, nil
}

// stateOf is what a journal tells of before; nil where it does not.
func callState(call calljournal.Call) *State {
	if call.Outcome == "" {
		return nil
	}
	return &State{Result: call.Outcome, Hub: call.Hub}
}

// recordedState reads {"outcome": ..., "hub": ...} or {"fault": ...}, where fault
// is a kind or an object with one. It returns nil for no decision.
func recordedState(decision jsontext.Value) (*State, error) {
	if decision == nil || decision.Kind() == 'n' {
		return nil, nil
	}
	var d struct {
		Outcome string          `json:"outcome"`
		Hub     string          `json:"hub"`
		Fault   json.RawMessage `json:"fault"`
	}
	if err := json.Unmarshal(decision, &d); err != nil {
		return nil, errors.New(`the record's decision is not an object such as {"outcome": "assigned", "hub": "..."}`)
	}
	result := d.Outcome
	if result == "" && d.Fault != nil {
		var fault struct {
			Kind string `json:"kind"`
		}
		if json.Unmarshal(d.Fault, &result) != nil && json.Unmarshal(d.Fault, &fault) == nil {
			result = fault.Kind
		}
	}
	switch {
	case result == string(answer.Assigned):
		if d.Hub == "" {
			return nil, errors.New("the record's decision is assigned, and names no hub")
		}
		return &State{Result: result, Hub: d.Hub}, nil
	case isResult(result):
		return &State{Result: result}, nil
	default:
		return nil, errors.New("the record's decision has no outcome that is known: it is assigned, rejected or held, or the kind of a fault")
	}
}

func isResult(result string) bool {
	switch answer.Result(result) {
	case answer.Rejected, answer.Held:
		return true
	}
	switch answer.Result(result) {
	case answer.Malformed, answer.InvalidRequest, answer.Undecided, answer.BadVerdict,
		answer.Timeout, answer.Canceled, answer.NotReady, answer.RulesStale, answer.Internal:
		return true
	}
	return false
}
