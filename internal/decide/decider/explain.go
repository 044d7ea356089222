package decider

import (
	"context"
	"errors"
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Explanation is an answer and where it comes from. Keys and certificates of the request are masked, except in Answer;
// all other values are shown, so it is for people who may see the request.
type Explanation struct {
	// Answer is what [Decider.Allocate] returns.
	Answer answer.Answer
	// Candidates are the rules that could serve the enrollment. The first one does.
	Candidates []ruleset.Candidate
	// Entries show what the entry rules say, in the order in which they take precedence; none if no rule was evaluated.
	Entries []ExplainedEntry
	// BuiltinErrors say where a built-in function failed, and why.
	BuiltinErrors []string
	// CutShort says why the explanation is incomplete; empty if it is complete.
	CutShort string
}

// ExplainedEntry is one entry rule, such as hub.
type ExplainedEntry struct {
	Name        string `json:"name"`
	Title       string `json:"title,omitempty"` // from its METADATA
	Description string `json:"description,omitempty"`
	// Asked is unset where the first entry had the last word already.
	Asked bool `json:"asked"`
	// Value is what the rule says, nil if nothing.
	Value       any                   `json:"value"`
	Error       string                `json:"error,omitempty"` // set where the rule failed
	Definitions []ExplainedDefinition `json:"definitions"`
}

// DefinitionState is what became of one definition of a rule.
type DefinitionState string

// The states of a definition.
const (
	DefinitionGave      DefinitionState = "gave"       // it gave the value, or elements of it
	DefinitionNotHeld   DefinitionState = "not_held"   // an expression is false or undefined
	DefinitionUnreached DefinitionState = "unreached"  // another definition or branch goes before it
	DefinitionErred     DefinitionState = "erred"      // it ends evaluation with an error
	DefinitionNotTraced DefinitionState = "not_traced" // the explanation was cut short
)

// ExplainedDefinition is one definition of a Rego rule, or one of its else branches.
type ExplainedDefinition struct {
	Place   string          `json:"place"` // file:line
	Text    string          `json:"text"`  // what stands there, without the body
	Else    bool            `json:"else,omitempty"`
	Default bool            `json:"default,omitempty"`
	State   DefinitionState `json:"state"`
	// Value is what it says; or, where its state is another than
	// DefinitionGave, what it would say, nil if that cannot be told.
	Value any `json:"value,omitempty"`
	// Failed is the first expression that does not hold.
	Failed *ExplainedExpression `json:"failed,omitempty"`
	// Uses are what a definition that holds refers to.
	Uses []ExplainedTerm `json:"uses,omitempty"`
	// Draws are the choices by weight that its value comes from.
	Draws []Draw `json:"draws,omitempty"`
	Error string `json:"error,omitempty"`
}

// ExplainedExpression is an expression that is false or undefined.
type ExplainedExpression struct {
	Place string `json:"place"`
	Text  string `json:"text"`
	// Tries is for how many values of its variables it was tried, as far as counted.
	Tries int             `json:"tries,omitempty"`
	Terms []ExplainedTerm `json:"terms,omitempty"`
	Why   string          `json:"why,omitempty"`
}

// ExplainedTerm is a part of an expression.
type ExplainedTerm struct {
	Text string `json:"text"`
	// Values are what it stands for, several where it was tried with several;
	// none if it is undefined.
	Values      []any                 `json:"values"`
	Why         string                `json:"why,omitempty"` // it is undefined
	Definitions []ExplainedDefinition `json:"definitions,omitempty"`
	// Repeated is set where the definitions are explained elsewhere.
	Repeated bool `json:"repeated,omitempty"`
}

// Draw is a choice of a hub by weight, the same at each time for the same key.
type Draw struct {
	Place string   `json:"place"`
	Key   string   `json:"key"`
	Among []string `json:"among"` // the linked hubs that count
	Drawn string   `json:"drawn"`
}

// explainTimeout is for the explanation alone, which asks a rule many times.
const explainTimeout = 20 * time.Second

// Explain answers a request as [Decider.Repeat] does and shows where the answer comes from.
func (d *Decider) Explain(ctx context.Context, request *dps.AllocationRequest, known []answer.Lookup) Explanation {
	e := Explanation{Answer: d.Repeat(ctx, request, known)}
	rules, _, fault := d.state.Load().pick(request)
	if fault.Result != "" {
		return e
	}
	e.Candidates = rules.set.Candidates(request.Enrollment)
	if e.Answer.Rule == nil {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	explained, err := apart(ctx, &d.strays, func() (*ruleset.Explanation, error) {
		return e.Candidates[0].Rule.Explain(ctx, request.Document, known...)
	})
	if err != nil {
		e.CutShort = err.Error()
		return e
	}
	e.take(explained, keymaterial.Of(request.Document))
	return e
}

func (e *Explanation) take(explained *ruleset.Explanation, mask keymaterial.Mask) {
	m := masked{mask}
	for _, entry := range explained.Entries {
		shown := ExplainedEntry{Name: entry.Name, Title: entry.Title, Description: entry.Description,
			Asked: entry.Asked, Value: m.Value(entry.Value), Definitions: m.definitions(entry.Definitions)}
		if entry.Err != nil {
			shown.Error = entry.Err.Error()
		}
		e.Entries = append(e.Entries, shown)
	}
	for _, text := range explained.BuiltinErrors {
		e.BuiltinErrors = append(e.BuiltinErrors, m.Text(text))
	}
	switch err := explained.CutShort; {
	case errors.Is(err, context.DeadlineExceeded):
		e.CutShort = "it took longer than " + explainTimeout.String()
	case errors.Is(err, context.Canceled):
		e.CutShort = "interrupted"
	case err != nil:
		e.CutShort = err.Error()
	}
}

// masked turns what package ruleset tells into what may be shown.
type masked struct{ keymaterial.Mask }

func (m masked) values(values []any) []any {
	list := make([]any, len(values))
	for i, value := range values {
		list[i] = m.Value(value)
	}
	return list
}

func (m masked) definitions(definitions []ruleset.Definition) []ExplainedDefinition {
	list := make([]ExplainedDefinition, 0, len(definitions))
	for _, d := range definitions {
		shown := ExplainedDefinition{Place: d.Place, Text: d.Text, Else: d.Else, Default: d.Default,
			State: DefinitionState(d.State), Value: m.Value(d.Value), Uses: m.terms(d.Uses), Error: m.Text(d.Error)}
		if d.Failed != nil {
			shown.Failed = &ExplainedExpression{Place: d.Failed.Place, Text: d.Failed.Text, Tries: d.Failed.Tries,
				Terms: m.terms(d.Failed.Terms), Why: m.Text(d.Failed.Why)}
		}
		for _, draw := range d.Draws {
			shown.Draws = append(shown.Draws, Draw{Place: draw.Place, Key: m.Text(draw.Key), Among: draw.Among, Drawn: draw.Drawn})
		}
		list = append(list, shown)
	}
	return list
}

func (m masked) terms(terms []ruleset.Term) []ExplainedTerm {
	var list []ExplainedTerm
	for _, t := range terms {
		shown := ExplainedTerm{Text: t.Text, Values: m.values(t.Values), Why: m.Text(t.Why), Repeated: t.Repeated}
		if len(t.Definitions) > 0 {
			shown.Definitions = m.definitions(t.Definitions)
		}
		list = append(list, shown)
	}
	return list
}
