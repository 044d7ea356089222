package ruleset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/usher-dps/usher/answer"
)

// Verdict is what a rule says to one request, as it says it. Values are built
// of map[string]any, []any, string, json.Number and bool; nil stands for what is
// undefined or null. A Rego set is a sorted []any.
type Verdict struct {
	Hub         any
	InitialTwin any
	Payload     any
	Reject      any
	Hold        any
	// BuiltinErrors are the places (file:line) where a built-in function
	// failed, which Rego takes as undefined. Why it failed is not told: the
	// reason could quote the request.
	BuiltinErrors []string
	// Lines are the definitions that gave what the entry rules say, in the order
	// in which these are asked. Of several that give the same value, OPA may have
	// looked at the first alone. Those of an entry rule that other rules evaluate
	// on a supposition, by with, are left out.
	Lines []answer.Line
	// Lookups are calls of built-in functions whose answers depend on more than
	// their arguments, with the answers; those of rules that were allowed any.
	Lookups []answer.Lookup
}

// EvalError says why a rule came to no verdict. Its text holds places and kinds
// of errors, no value of the request.
type EvalError struct {
	// Entry is the entry rule that failed, such as "hub"; empty where it was
	// not one of them. Those before it in the order reject, hold, hub,
	// initial_twin, payload have spoken.
	Entry string
	Place string // file:line, where known
	// Problem is the error in words.
	Problem string
	// Conflict is set where definitions give two different values for one request.
	Conflict bool
	// Cause is the context's error where evaluation was cut short, or the
	// *LoadError of a rule that does not compile.
	Cause error
}

func (e *EvalError) Error() string {
	text := e.Problem
	if e.Place != "" {
		text += " at " + e.Place
	}
	return text
}

func (e *EvalError) Unwrap() error { return e.Cause }

// entry is a rule of a package that the verdict is read from.
type entry string

const (
	entryHub         entry = "hub"
	entryInitialTwin entry = "initial_twin"
	entryPayload     entry = "payload"
	entryReject      entry = "reject"
	entryHold        entry = "hold"
)

// entries are in the order of evaluation: a device that is rejected needs no twin.
var entries = []entry{entryReject, entryHold, entryHub, entryInitialTwin, entryPayload}

func (r *Rule) entryRef(e entry) ast.Ref {
	return r.set.packages[r.Package].path.Append(ast.StringTerm(string(e)))
}

// preparedRule holds the queries for the entry rules that a package defines: one
// for each, and one for all of them together.
type preparedRule struct {
	compiler *ast.Compiler
	queries  []entryQuery
	together ast.Body // binds a variable of the name of each entry rule
	err      error    // *LoadError: the rule does not compile
	// replacesInput is set where a `with` replaces a part of the request: see inputOf.
	replacesInput bool
	// notable are the definitions of the entry rules; their numbers start with
	// firstNotable.
	notable      []notable
	firstNotable int
}

type entryQuery struct {
	entry entry
	body  ast.Body
}

const answerVar = ast.Var("answer")

func queryFor(e entry, ref ast.Ref) entryQuery {
	return entryQuery{e, ast.NewBody(ast.Equality.Expr(ast.NewTerm(answerVar), ast.NewTerm(ref)))}
}

// prepare compiles the rule the first time, if [Ruleset.CompileAll] has not.
func (r *Rule) prepare() *preparedRule {
	if prepared := r.prepared.Load(); prepared != nil {
		return prepared
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if prepared := r.prepared.Load(); prepared != nil {
		return prepared
	}
	u := r.set.whole.Load()
	if u == nil {
		alone := r.set.compileAlone(r)
		u = &alone
	}
	prepared := &preparedRule{compiler: u.compiler, err: u.err}
	if u.err == nil {
		for _, e := range entries {
			ref := r.entryRef(e)
			// With the prefix, because payload.greeting := "hello" is a rule below payload.
			if rules := u.compiler.GetRulesWithPrefix(ref); len(rules) > 0 {
				prepared.replacesInput = prepared.replacesInput || replacesInput(u.compiler, rules)
				prepared.queries = append(prepared.queries, queryFor(e, ref))
				prepared.together.Append(ast.Equality.Expr(ast.NewTerm(ast.Var(e)), ast.NewTerm(ref)))
			}
		}
		of := func(n notable) bool { return n.pkg == r.Package }
		if first := slices.IndexFunc(u.notable, of); first >= 0 {
			prepared.firstNotable, prepared.notable = first, u.notable[first:]
			if last := slices.IndexFunc(prepared.notable, func(n notable) bool { return !of(n) }); last >= 0 {
				prepared.notable = prepared.notable[:last]
			}
		}
	}
	r.prepared.Store(prepared)
	return prepared
}

// Evaluate asks the rule about one request, given as the types of [Verdict].
// The entry rules are independent of each other: an undefined twin is an absent
// twin and no undefined verdict. It ends when ctx does, at the latest after the built-in
// function that is running then. Every error is an *EvalError; the verdict then
// holds what the entry rules before the one that failed say.
//
// Evaluate keeps no part of input.
//
// To repeat an evaluation, hand it the lookups of the first one: a call that is
// among these gets the answer that it got then.
func (r *Rule) Evaluate(ctx context.Context, input map[string]any, known ...answer.Lookup) (Verdict, error) {
	prepared := r.prepare()
	if err := prepared.err; err != nil {
		return Verdict{}, &EvalError{Problem: "the rule does not compile: " + err.Error(), Cause: err}
	}
	if err := ctx.Err(); err != nil {
		return Verdict{}, interrupted(err)
	}
	evaluation := r.set.begin(ctx, input, prepared.replacesInput)
	notes := r.set.notes.Get().(*notes)
	defer r.set.notes.Put(notes)
	notes.held = notes.held[:0]
	evaluation.notes = notes
	evaluation.lookups = r.set.newLookups(known)
	defer context.AfterFunc(ctx, evaluation.cancel.Cancel)()
	verdict, ok, err := evaluation.askTogether(prepared)
	if !ok && err == nil {
		verdict, err = evaluation.askApart(prepared)
	}
	verdict.BuiltinErrors = evaluation.builtinErrorPlaces()
	verdict.Lines = notes.lines(prepared, verdict.said)
	verdict.Lookups = lookupsIn(evaluation.lookups)
	return verdict, err
}

// said reports whether an entry rule says anything.
func (v *Verdict) said(e entry) bool {
	switch e {
	case entryReject:
		return !isEmpty(v.Reject)
	case entryHold:
		return !isEmpty(v.Hold)
	case entryHub:
		return v.Hub != nil
	case entryInitialTwin:
		return v.InitialTwin != nil
	default:
		return v.Payload != nil
	}
}

// askTogether asks all entry rules by one query, which costs a fraction of one
// for each. Its answer counts only if every one of them is defined and nothing
// fails, not even a built-in function; else ok is false, and they must be asked
// apart to tell which.
func (e *evaluation) askTogether(prepared *preparedRule) (verdict Verdict, ok bool, err error) {
	var values topdown.QueryResult
	err = e.query(prepared.compiler, prepared.together).Iter(e.ctx, func(bindings topdown.QueryResult) error {
		values = bindings
		return nil
	})
	if err != nil {
		if cause := e.ctx.Err(); cause != nil && topdown.IsCancel(err) {
			return verdict, false, interrupted(cause)
		}
		e.startAnew()
		return verdict, false, nil
	}
	if len(e.builtinErrors) > 0 {
		e.startAnew()
		return verdict, false, nil
	}
	for _, query := range prepared.queries {
		term, defined := values[ast.Var(query.entry)]
		if !defined {
			return Verdict{}, false, nil
		}
		value, err := e.json(query.entry, term.Value)
		if err != nil {
			return Verdict{}, false, err
		}
		if verdict.set(query.entry, value) {
			break
		}
	}
	return verdict, true, nil
}

// startAnew forgets what failed together, in the cache too: an error leaves it
// wherever it was, and a built-in that failed is not called again.
func (e *evaluation) startAnew() {
	e.cache, e.builtinErrors = topdown.NewVirtualCache(), nil
	e.notes.held = e.notes.held[:0]
}

// askApart asks each entry rule by a query of its own. With an error it returns
// what the rules before said.
func (e *evaluation) askApart(prepared *preparedRule) (Verdict, error) {
	var verdict Verdict
	for _, query := range prepared.queries {
		_, final, err := e.askFor(prepared.compiler, query, &verdict)
		if err != nil {
			return verdict, err
		}
		if final {
			break
		}
	}
	return verdict, nil
}

// askFor asks one entry rule and notes in the verdict what it says. After what is
// final, nothing else is asked.
func (e *evaluation) askFor(compiler *ast.Compiler, query entryQuery, verdict *Verdict) (value any, final bool, err error) {
	value, err = e.ask(compiler, query)
	if err != nil {
		return nil, true, err
	}
	if verdict.set(query.entry, value) {
		return value, true, nil
	}
	// A built-in that fails in Rego is undefined, and what is undefined
	// refuses nobody: whoever can make it fail would get past the rule.
	if guards := query.entry == entryReject || query.entry == entryHold; guards && isEmpty(value) && len(e.builtinErrors) > 0 {
		verdict.set(query.entry, nil)
		return nil, true, &EvalError{Entry: string(query.entry), Place: PlaceOf(e.builtinErrors[0].Location),
			Problem: fmt.Sprintf("%s cannot be told: a built-in function failed", query.entry)}
	}
	return value, false, nil
}

// set notes what one entry rule says, and reports whether that is final: of a
// device that is rejected nothing else counts.
func (v *Verdict) set(e entry, value any) (final bool) {
	switch e {
	case entryReject:
		v.Reject = value
		return !isEmpty(value)
	case entryHold:
		v.Hold = value
	case entryHub:
		v.Hub = value
	case entryInitialTwin:
		v.InitialTwin = value
	case entryPayload:
		v.Payload = value
	}
	return false
}

// isEmpty reports whether a reject or hold concerns no device: undefined, an empty set, or false as in
// `default reject := false`.
func isEmpty(value any) bool {
	list, ok := value.([]any)
	return ok && len(list) == 0 || value == nil || value == false
}

type evaluation struct {
	set    *Ruleset
	ctx    context.Context
	cancel topdown.Cancel
	input  *ast.Term
	// cache is shared by the entry rules of one request, which often refer to
	// the same rules.
	cache         topdown.VirtualCache
	now           time.Time
	builtinErrors []topdown.Error
	// notes gather which definitions hold; nil where nobody asks for that.
	notes *notes
	// lookups are nil unless the rules may look anything up.
	lookups builtins.NDBCache
}

// begin prepares an evaluation for one request; inputOf says what replacesInput is for.
func (rs *Ruleset) begin(ctx context.Context, input map[string]any, replacesInput bool) evaluation {
	return evaluation{
		set:    rs,
		ctx:    ctx,
		cancel: topdown.NewCancel(),
		input:  inputOf(input, replacesInput),
		cache:  topdown.NewVirtualCache(),
		now:    time.Now(),
	}
}

// query is the one way in which this package asks OPA anything.
func (e *evaluation) query(compiler *ast.Compiler, body ast.Body) *topdown.Query {
	builtins := e.set.builtins
	if e.notes != nil {
		builtins = e.notes.builtins
	}
	return topdown.NewQuery(body).
		WithCompiler(compiler).
		WithStore(e.set.store).
		WithTransaction(e.set.txn).
		WithBuiltins(builtins).
		WithNDBuiltinCache(e.lookups).
		WithInput(e.input).
		WithCancel(e.cancel).
		WithVirtualCache(e.cache).
		WithTime(e.now).
		WithMetrics(metrics.NoOp()).
		WithBuiltinErrorList(&e.builtinErrors)
}

func (e *evaluation) ask(compiler *ast.Compiler, query entryQuery) (any, error) {
	var result ast.Value
	err := e.query(compiler, query.body).Iter(e.ctx, func(bindings topdown.QueryResult) error {
		result = bindings[answerVar].Value
		return nil
	})
	if err != nil {
		return nil, failed(e.ctx, query.entry, err)
	}
	if result == nil {
		return nil, nil
	}
	return e.json(query.entry, result)
}

func (e *evaluation) json(entry entry, value ast.Value) (any, error) {
	converted, err := ast.JSON(value)
	if err != nil {
		return nil, &EvalError{Entry: string(entry), Problem: fmt.Sprintf("what %s says is not JSON", entry)}
	}
	return converted, nil
}

func (e *evaluation) builtinErrorPlaces() []string {
	var places []string
	for _, err := range e.builtinErrors {
		if place := PlaceOf(err.Location); !slices.Contains(places, place) {
			places = append(places, place)
		}
	}
	return places
}

func interrupted(cause error) *EvalError {
	if errors.Is(cause, context.DeadlineExceeded) {
		return &EvalError{Problem: "the rule took longer than it may", Cause: cause}
	}
	return &EvalError{Problem: "the request was given up before the rule had an answer", Cause: cause}
}

func failed(ctx context.Context, e entry, err error) error {
	if cause := ctx.Err(); cause != nil && topdown.IsCancel(err) {
		return interrupted(cause)
	}
	failure := &EvalError{Entry: string(e), Problem: fmt.Sprintf("%s failed", e)}
	if te, ok := errors.AsType[*topdown.Error](err); ok {
		failure.Place, failure.Conflict = PlaceOf(te.Location), te.Code == topdown.ConflictErr
		failure.Problem = fmt.Sprintf("%s failed: %s", e, wordsOf(te))
	}
	return failure
}

// wordsOf says what kind of error it was. OPA's own message is left out where
// it can quote the request.
func wordsOf(err *topdown.Error) string {
	switch err.Code {
	case topdown.ConflictErr:
		return conflictWords(err.Message)
	case topdown.BuiltinErr:
		return "a built-in function failed"
	case topdown.TypeErr:
		return "a value has the wrong type"
	default:
		return err.Code
	}
}

// conflictWords takes from OPA's words on a conflict what does not quote the
// request: its first line, and of the lines that follow, which are of the form
// VALUE at FILE:LINE, the places.
func conflictWords(message string) string {
	first, rest, _ := strings.Cut(message, "\n")
	words := strings.TrimSuffix(first, ":")
	var places []string
	for line := range strings.Lines(rest) {
		if at := strings.LastIndex(line, " at "); at >= 0 {
			places = append(places, strings.TrimSpace(line[at+len(" at "):]))
		}
	}
	if len(places) > 0 {
		words += " (" + strings.Join(places, ", ") + ")"
	}
	return words
}
