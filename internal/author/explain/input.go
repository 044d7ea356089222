package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/author/calljournal"
	"github.com/usher-dps/usher/internal/serve/decisionlog"
)

// Input is a request to explain.
type Input struct {
	Body []byte // an AllocationRequest
	// Recorded is what was decided then, if the request comes from a record
	// that says so.
	Recorded *Recorded
	// Masked are JSON pointers to what a decision record leaves out of the request.
	Masked []string
	// Lookups are what the decision depended on besides, by the record.
	Lookups []answer.Lookup
}

// Recorded is a decision as a record holds it.
type Recorded struct {
	Outcome string `json:"outcome"` // or the kind of the fault
	Hub     string `json:"hub,omitempty"`
	Rules   string `json:"rules,omitempty"` // the digest of the rules that decided
	// Lacks are JSON pointers to what is masked in the record although the rules
	// of now look at it.
	Lacks []string `json:"lacks,omitempty"`
}

// SeveralError says that there is more than one request, of which the caller has
// to choose.
type SeveralError struct{ Requests int }

func (e *SeveralError) Error() string { return fmt.Sprintf("it holds %d requests", e.Requests) }

// Read finds a request in a text: an AllocationRequest, a decision record, or the
// nth of several of them, as in NDJSON. With n 0 there must be one alone.
//
// A record is an object with a member request, and perhaps decision; whatever
// else it holds does not matter. Of the journal of usher dps the first call of a
// webhook for each registration counts.
func Read(text []byte, n int) (Input, error) {
	var documents []json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		var document json.RawMessage
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if n > len(documents) {
				return Input{}, fmt.Errorf("number %d cannot be read, because number %d is not valid JSON: %w", n, len(documents)+1, err)
			}
			if n == 0 {
				return Input{Body: text}, nil // whoever parses it says what is wrong with it
			}
			break
		}
		documents = append(documents, document)
	}
	read := len(documents)
	documents = slices.DeleteFunc(documents, func(document json.RawMessage) bool {
		_, relation := calljournal.Read(document)
		return relation == calljournal.Aside
	})
	switch {
	case read == 0:
		return Input{}, errors.New("it is empty")
	case len(documents) == 0:
		return Input{}, errors.New("it is of the journal of usher dps, and holds no first call of a webhook")
	case n == 0 && len(documents) > 1:
		return Input{}, &SeveralError{len(documents)}
	case n > len(documents):
		return Input{}, fmt.Errorf("there is no number %d: %w", n, &SeveralError{len(documents)})
	}
	return open(documents[max(n, 1)-1])
}

// open takes the request out of a record.
func open(document json.RawMessage) (Input, error) {
	record, err := decisionlog.Decode(document)
	switch {
	case err == nil:
		return openRecord(&record)
	case !errors.Is(err, decisionlog.ErrNotRecord) && bytes.Contains(document, []byte(`"usherRecord"`)):
		return Input{}, err
	}
	if call, relation := calljournal.Read(document); relation == calljournal.Asked {
		input := Input{Body: call.Request}
		if call.Outcome != "" {
			input.Recorded = &Recorded{Outcome: call.Outcome, Hub: call.Hub}
		}
		return input, nil
	}
	var other struct {
		Request  json.RawMessage `json:"request"`
		Decision json.RawMessage `json:"decision"`
	}
	if json.Unmarshal(document, &other) != nil || len(other.Request) == 0 || other.Request[0] != '{' {
		return Input{Body: document}, nil
	}
	return Input{Body: other.Request, Recorded: readRecorded(other.Decision)}, nil
}

// openRecord takes the request out of a decision record.
func openRecord(record *decisionlog.Record) (Input, error) {
	if record.Request == nil {
		return Input{}, errors.New("the record has no request: the body could not be read")
	}
	input := Input{Masked: record.Masked,
		Recorded: &Recorded{Outcome: record.Decision.Result(), Hub: record.Decision.Hub}}
	if record.Rules != nil {
		input.Recorded.Rules = record.Rules.Digest
	}
	if record.MaskedMore > 0 {
		input.Masked = append(input.Masked, "") // which can be anything
	}
	var err error
	if input.Body, err = decisionlog.Replayable(record.Request, record.Masked); err != nil {
		return Input{}, err
	}
	input.Lookups, err = decisionlog.KnownLookups(record.Lookups)
	return input, err
}

func readRecorded(text json.RawMessage) *Recorded {
	var decision struct {
		Outcome string          `json:"outcome"`
		Hub     string          `json:"hub"`
		Rules   string          `json:"rules"`
		Fault   json.RawMessage `json:"fault"`
	}
	if len(text) == 0 || json.Unmarshal(text, &decision) != nil {
		return nil
	}
	recorded := &Recorded{Outcome: decision.Outcome, Hub: decision.Hub, Rules: decision.Rules}
	if recorded.Outcome == "" && json.Unmarshal(decision.Fault, &recorded.Outcome) != nil {
		var fault struct {
			Kind string `json:"kind"`
		}
		if json.Unmarshal(decision.Fault, &fault) == nil {
			recorded.Outcome = fault.Kind
		}
	}
	if recorded.Outcome == "" {
		return nil
	}
	return recorded
}

// text says how the record compares with the decision of now.
func (r *Recorded) text(now *answer.Answer) string {
	then := r.Outcome
	if r.Hub != "" {
		then += " " + r.Hub
	}
	by := ""
	switch {
	case r.Rules == now.Rules && r.Rules != "":
		by = ", by the same rules"
	case r.Rules != "":
		by = ", by other rules"
	}
	outcome := string(now.Result)
	lacks := ""
	if len(r.Lacks) > 0 {
		lacks = "; the rules look at what is masked in the record: " + strings.Join(r.Lacks, ", ")
	}
	if r.Outcome == outcome && (outcome != string(answer.Assigned) || r.Hub == now.Response.IotHubHostName) {
		return then + by + ": the same as now" + lacks
	}
	return then + by + ": not what it is now" + lacks
}
