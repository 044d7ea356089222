package ruleset

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/lookups"
)

// Verdict is what the entry rules say about one request; nil means undefined or null. A Rego set is a sorted array, and
// members of objects are in the order of their names.
type Verdict struct {
	Hub         *dps.Value
	InitialTwin *dps.Value
	Payload     *dps.Value
	Reject      *dps.Value
	Hold        *dps.Value
	// BuiltinErrors are the places (file:line) where a built-in function failed, which Rego takes as undefined. If it is
	// one that the library calls, the line that called the library comes before it. They do not include the reason,
	// which could quote the request.
	BuiltinErrors []string
	// Lines are the definitions that gave what the entry rules say, in the order of their evaluation, each followed by
	// those in an author's library that it refers to. If several give the same value, OPA may have evaluated only the
	// first. The lines of an entry rule that another rule evaluates on
	// a supposition, by with, are left out.
	Lines []answer.Line
	// Lookups are the rows that were looked up, and the calls of built-in functions whose results depend on more than
	// their arguments, which only rules have that are allowed such functions.
	Lookups []answer.Lookup
}

// EvalError is why evaluation failed. Its text contains places and kinds of errors, and no value of the request.
type EvalError struct {
	// Entry is the entry rule that failed, such as "hub"; empty if it was none of them. Those before it in the order
	// reject, hold, hub, initial_twin, payload are in the verdict.
	Entry   string
	Place   string // file:line, if known
	Problem string
	// Conflict is set if definitions give two different values for one request.
	Conflict bool
	// Cause is the context's error if evaluation was cut short, the *LoadError of a rule that does not compile, or a
	// *LookupError.
	Cause error
}

func (e *EvalError) Error() string {
	text := e.Problem
	if named := e.Conflict && strings.HasSuffix(text, ")"); e.Place != "" && !named { // it names all places already
		text += " at " + e.Place
	}
	return text
}

func (e *EvalError) Unwrap() error { return e.Cause }

// The entry rules of a package, from which the verdict is read.
const (
	entryHub         = "hub"
	entryInitialTwin = "initial_twin"
	entryPayload     = "payload"
	entryReject      = "reject"
	entryHold        = "hold"
)

// entries are in the order of evaluation: a device that is rejected needs no twin.
var entries = []string{entryReject, entryHold, entryHub, entryInitialTwin, entryPayload}

// of is the place of an entry rule in the verdict.
func (v *Verdict) of(entry string) **dps.Value {
	switch entry {
	case entryReject:
		return &v.Reject
	case entryHold:
		return &v.Hold
	case entryHub:
		return &v.Hub
	case entryInitialTwin:
		return &v.InitialTwin
	default:
		return &v.Payload
	}
}

// isGuard reports whether an entry rule keeps devices from their hubs.
func isGuard(entry string) bool { return entry == entryReject || entry == entryHold }

// says reports whether an entry rule says anything.
func (v *Verdict) has(entry string) bool {
	value := *v.of(entry)
	return value != nil && !(isGuard(entry) && isEmpty(value))
}

// isEmpty reports whether a reject or hold concerns no device: it is undefined, an empty set, or false as in `default
// reject := false`.
func isEmpty(value *dps.Value) bool {
	return value == nil || value.Kind() == dps.False || value.Kind() == dps.Array && value.Len() == 0
}

// preparedRule has the queries for the entry rules that a package defines: one for each, and one for all of them
// together.
type preparedRule struct {
	compiler *ast.Compiler
	queries  []entryQuery
	together ast.Body // binds a variable to a list of what the entry rules say in this order; empty if one is undefined
	err      error    // *LoadError: the rule does not compile
	// replacesInput is set if a `with` replaces a part of the request: see inputOf.
	replacesInput bool
	// looksUp is set if what the entry rules say can depend on a look-up.
	looksUp bool
	// notable are the definitions that note their numbers; those of the rule's own entry rules are first to end-1.
	notable    []notable
	first, end int
	planned    planned
}

type entryQuery struct {
	entry string
	body  ast.Body
	// bounded is the body with bounded functions.
	bounded ast.Body
}

const answerVar = ast.Var("answer")

func queryFor(entry string, ref ast.Ref) entryQuery {
	return entryQuery{entry: entry, body: ast.NewBody(ast.Equality.Expr(ast.NewTerm(answerVar), ast.NewTerm(ref)))}
}

// prepare compiles the rule the first time, unless [Ruleset.CompileAll] has.
func (r *Rule) prepare() *preparedRule {
	if prepared := r.prepared.Load(); prepared != nil {
		return prepared
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if prepared := r.prepared.Load(); prepared != nil {
		return prepared
	}
	u := r.set.unitOf(r)
	prepared := &preparedRule{compiler: u.compiler, err: u.err}
	if u.err == nil {
		var names []*ast.Term
		var all ast.Body
		for _, entry := range entries {
			ref := r.Entry(entry)
			// With the prefix, because payload.greeting := "hello" is a rule below payload.
			if rules := u.compiler.GetRulesWithPrefix(ref); len(rules) > 0 {
				query := queryFor(entry, ref)
				query.bounded = ast.NewBody(r.set.replacing(u.compiler, query.body[0]))
				prepared.queries = append(prepared.queries, query)
				names = append(names, ast.VarTerm(entry))
				all.Append(ast.Equality.Expr(ast.VarTerm(entry), ast.NewTerm(ref)))
			}
		}
		list := ast.ArrayComprehensionTerm(ast.ArrayTerm(names...), all)
		prepared.together = ast.NewBody(r.set.replacing(u.compiler, ast.Equality.Expr(ast.NewTerm(answerVar), list)))
		definitions := reachable(u.compiler, r.entryRules(u.compiler))
		prepared.replacesInput, prepared.looksUp = replacesInput(definitions), looksUp(definitions, "")
		prepared.notable = u.notable
		if first := slices.IndexFunc(u.notable, func(n notable) bool { return n.pkg == r.Package }); first >= 0 {
			prepared.first, prepared.end = first, len(u.notable)
			if others := slices.IndexFunc(u.notable[first:], func(n notable) bool { return n.pkg != r.Package }); others >= 0 {
				prepared.end = first + others
			}
		}
	}
	r.prepared.Store(prepared)
	return prepared
}

// Evaluate evaluates the entry rules for one request. They are independent of each other: an undefined twin is an absent
// twin, not an undefined verdict. Evaluation ends when ctx does, at the latest after the built-in function that is
// running then. Every error is an *EvalError; the verdict then contains what the entry rules before the one that failed
// say.
func (r *Rule) Evaluate(ctx context.Context, request *dps.Value, outside Outside) (Verdict, error) {
	prepared := r.prepare()
	if prepared.err != nil {
		return Verdict{}, doesNotCompile(prepared.err)
	}
	if err := ctx.Err(); err != nil {
		return Verdict{}, interrupted(err)
	}
	evaluation := r.set.begin(ctx, prepared.looksUp, outside)
	evaluation.request, evaluation.replacesInput = request, prepared.replacesInput
	notes := r.set.notes.Get().(*notes)
	defer r.set.notes.Put(notes)
	notes.held = notes.held[:0]
	evaluation.notes = notes
	defer evaluation.close()
	program := r.plan(prepared)
	var verdict Verdict
	var decided bool
	var err error
	if program != nil && r.set.options.Evaluator != Compare {
		verdict, decided, err = evaluation.planned(program, prepared)
	}
	if decided {
		r.set.options.Evaluations.ByPlan.Add(1)
	} else {
		r.set.options.Evaluations.ByTopdown.Add(1)
		evaluation.bound()
		verdict, decided, err = evaluation.together(prepared)
	}
	if !decided && err == nil {
		evaluation.bound()
		verdict, err = evaluation.separately(prepared)
	}
	var callers map[string][]string
	if len(evaluation.builtinErrors) > 0 && evaluation.bounds.exceeded == nil {
		callers = evaluation.callers(prepared.compiler, prepared.queries)
	}
	for _, failure := range evaluation.builtinErrors {
		place := PlaceOf(failure.Location)
		for _, place := range append(slices.Clone(callers[place]), place) {
			if !slices.Contains(verdict.BuiltinErrors, place) {
				verdict.BuiltinErrors = append(verdict.BuiltinErrors, place)
			}
		}
	}
	if failed, ok := errors.AsType[*EvalError](err); ok && len(callers[failed.Place]) > 0 {
		failed.Place = callers[failed.Place][0]
	}
	verdict.Lines = notes.lines(prepared, verdict.has)
	verdict.Lookups = append(evaluation.asking.calls(), lookupsIn(evaluation.lookups)...)
	if program != nil && err == nil && r.set.options.Evaluator == Compare {
		evaluation.compare(program, prepared, verdict)
	}
	return verdict, err
}

// evaluation is that of one request.
type evaluation struct {
	set    *Ruleset
	ctx    context.Context
	cancel topdown.Cancel
	shown  *dps.DeviceCertificate // may be nil
	// request is the input as it was parsed, or document the same made of maps, and input what OPA sees of it.
	request       *dps.Value
	document      map[string]any
	replacesInput bool
	input         *ast.Term // nil until it is needed
	// cache is shared by the entry rules of one request, which often refer to the same rules.
	cache         topdown.VirtualCache
	now           time.Time
	builtinErrors []topdown.Error
	// notes collect which definitions hold; may be nil.
	notes *notes
	// bounds are those of topdown; nil if it has none.
	bounds *bounds
	// asking is nil if the rule looks nothing up.
	asking *asking
	// lookups are nil unless the rules may call built-ins that depend on more than their arguments.
	lookups builtins.NDBCache
	// tracer sees every expression that is evaluated; nil if no one wants to.
	tracer topdown.QueryTracer
}

// Outside is what an evaluation can see besides the request and the rules.
type Outside struct {
	// Sources answer look-ups; nil means the fixtures next to the rules.
	Sources lookups.Sources
	// Known are the look-ups of an earlier evaluation, which is repeated: each gets the same result again.
	Known []answer.Lookup
	// Certificate is that of the request, so that it is parsed once; may be nil.
	Certificate *dps.DeviceCertificate
}

// begin prepares an evaluation for one request, which the caller sets.
func (rs *Ruleset) begin(ctx context.Context, looksUp bool, outside Outside) evaluation {
	e := evaluation{
		set:     rs,
		ctx:     ctx,
		shown:   outside.Certificate,
		cancel:  ends{ctx, outside.Certificate},
		now:     time.Now(),
		lookups: rs.newLookups(outside.Known),
	}
	if looksUp {
		e.asking = &asking{set: rs, outside: outside}
		e.ctx = context.WithValue(ctx, askingKey{}, e.asking)
	}
	return e
}

// ends tells OPA whether a context has ended, at less cost than a function that is called when it does.
type ends struct {
	context.Context
	certificate *dps.DeviceCertificate
}

func (e ends) Cancelled() bool { return e.Err() != nil }

func (ends) Cancel() {} // nobody else ends an evaluation

func (e ends) shown() *dps.DeviceCertificate { return e.certificate }

// query is the only way in which this package queries OPA.
func (e *evaluation) query(compiler *ast.Compiler, body ast.Body) *topdown.Query {
	cancel := e.cancel
	if e.bounds != nil {
		cancel = e.bounds
	}
	if e.input == nil {
		if e.document == nil {
			e.document, _ = e.request.Interface().(map[string]any)
		}
		e.input = inputOf(e.document, e.replacesInput)
	}
	if e.cache == nil {
		e.cache = e.newCache()
	}
	query := topdown.NewQuery(body).
		WithCompiler(compiler).
		WithStore(e.set.store).
		WithTransaction(e.set.txn).
		WithBuiltins(e.set.builtins).
		WithNDBuiltinCache(e.lookups).
		WithInput(e.input).
		WithCancel(cancel).
		WithVirtualCache(e.cache).
		WithTime(e.now).
		WithMetrics(metrics.NoOp()).
		WithBuiltinErrorList(&e.builtinErrors)
	if e.tracer != nil {
		// OPA's index and early exit would hide expressions from it.
		query.WithQueryTracer(e.tracer).WithIndexing(false).WithEarlyExit(false)
	}
	return query
}

// together evaluates all entry rules by one query, which costs a fraction of one query for each. Its result counts only
// if every one of them is defined and nothing fails, not even a built-in function. Otherwise ok is false, and only
// separate queries show which.
func (e *evaluation) together(prepared *preparedRule) (verdict Verdict, ok bool, err error) {
	var list *ast.Array
	err = e.query(prepared.compiler, prepared.together).Iter(e.ctx, func(bindings topdown.QueryResult) error {
		list, _ = bindings[answerVar].Value.(*ast.Array)
		return nil
	})
	if err != nil {
		if ended := e.ended(err); ended != nil {
			return verdict, false, ended
		}
	}
	if err != nil || len(e.builtinErrors) > 0 {
		// The error is in the cache too, and a built-in that failed is not called again.
		e.cache, e.builtinErrors = e.newCache(), nil
		e.notes.held = e.notes.held[:0]
		return verdict, false, nil
	}
	if list == nil || list.Len() == 0 {
		return Verdict{}, false, nil
	}
	values := list.Elem(0).Value.(*ast.Array)
	for i, query := range prepared.queries {
		value, err := e.toJSON(query.entry, values.Elem(i).Value)
		if err != nil {
			return Verdict{}, false, err
		}
		if verdict.set(query.entry, value) {
			break
		}
	}
	return verdict, true, nil
}

// separately evaluates each entry rule by a query of its own. With an error it returns what the rules before say.
func (e *evaluation) separately(prepared *preparedRule) (Verdict, error) {
	var verdict Verdict
	for _, query := range prepared.queries {
		if _, final, err := e.next(prepared.compiler, query, &verdict); final {
			return verdict, err
		}
	}
	return verdict, nil
}

// next evaluates one entry rule and adds what it says to the verdict. If that is final, no further entry rule matters.
func (e *evaluation) next(compiler *ast.Compiler, query entryQuery, verdict *Verdict) (value *dps.Value, final bool, err error) {
	value, err = e.value(compiler, query)
	if err != nil {
		return nil, true, err
	}
	if verdict.set(query.entry, value) {
		return value, true, nil
	}
	// A built-in that fails is undefined in Rego, and what is undefined rejects no device: if a device could make it
	// fail, it would get past the rule.
	if isGuard(query.entry) && isEmpty(value) && len(e.builtinErrors) > 0 {
		verdict.set(query.entry, nil)
		return nil, true, &EvalError{Entry: query.entry, Place: PlaceOf(e.builtinErrors[0].Location),
			Problem: query.entry + " is unknown: a built-in function failed"}
	}
	return value, false, nil
}

// set adds what one entry rule says, and reports whether that is final: for a device that is rejected nothing else
// counts.
func (v *Verdict) set(entry string, value *dps.Value) (final bool) {
	*v.of(entry) = value
	return entry == entryReject && !isEmpty(value)
}

// value evaluates one entry rule; nil if it is undefined.
func (e *evaluation) value(compiler *ast.Compiler, query entryQuery) (*dps.Value, error) {
	var result ast.Value
	err := e.query(compiler, e.body(query)).Iter(e.ctx, func(bindings topdown.QueryResult) error {
		result = bindings[answerVar].Value
		return nil
	})
	if err != nil {
		return nil, e.failed(query.entry, err)
	}
	if result == nil {
		return nil, nil
	}
	return e.toJSON(query.entry, result)
}

func (e *evaluation) toJSON(entry string, value ast.Value) (*dps.Value, error) {
	if e.bounds != nil {
		if err := e.bounds.account.AllowsText(value); err != nil {
			e.bounds.exceeded = err
			return nil, exceeded(err)
		}
	}
	converted, err := ast.JSON(value)
	if err != nil {
		return nil, &EvalError{Entry: entry, Problem: fmt.Sprintf("what %s says is not JSON", entry)}
	}
	if converted == nil {
		return nil, nil
	}
	return dps.ValueOf(converted), nil
}

func doesNotCompile(err error) *EvalError {
	return &EvalError{Problem: "the rule does not compile: " + err.Error(), Cause: err}
}

func interrupted(cause error) *EvalError {
	if errors.Is(cause, context.DeadlineExceeded) {
		return &EvalError{Problem: "the rule exceeded its time limit", Cause: cause}
	}
	return &EvalError{Problem: "the request was canceled before the rule had an answer", Cause: cause}
}

// ended is why an evaluation by topdown ended before its time; nil if it did not.
func (e *evaluation) ended(err error) error {
	if !topdown.IsCancel(err) {
		return nil
	}
	if e.bounds != nil && e.bounds.exceeded != nil {
		return exceeded(e.bounds.exceeded)
	}
	if cause := e.ctx.Err(); cause != nil {
		return interrupted(cause)
	}
	return nil
}

func (e *evaluation) failed(entry string, err error) error {
	if ended := e.ended(err); ended != nil {
		return ended
	}
	if failed, ok := errors.AsType[*LookupError](err); ok {
		if cause := e.ctx.Err(); cause != nil {
			return interrupted(cause)
		}
		return &EvalError{Entry: entry, Place: failed.Place, Problem: fmt.Sprintf("look-up %s failed: %v", failed.Lookup, failed.Cause), Cause: failed}
	}
	failure := &EvalError{Entry: entry, Problem: entry + " failed"}
	if te, ok := errors.AsType[*topdown.Error](err); ok {
		failure.Place, failure.Conflict = PlaceOf(te.Location), te.Code == topdown.ConflictErr
		failure.Problem += ": " + describe(te)
	}
	return failure
}

// describe names the kind of an error. It leaves out OPA's own message if that can quote the request.
func describe(err *topdown.Error) string {
	switch err.Code {
	case topdown.ConflictErr:
		return describeConflict(err.Message)
	case topdown.BuiltinErr:
		return "a built-in function failed"
	case topdown.TypeErr:
		return "a value has the wrong type"
	default:
		return err.Code
	}
}

// describeConflict takes from OPA's message about a conflict what does not quote the request: its first line, and the
// places in the following lines, which have the form VALUE at FILE:LINE.
func describeConflict(message string) string {
	first, rest, _ := strings.Cut(message, "\n")
	var places []string
	for line := range strings.Lines(rest) {
		if at := strings.LastIndex(line, " at "); at >= 0 {
			places = append(places, strings.TrimSpace(line[at+len(" at "):]))
		}
	}
	text := strings.TrimSuffix(ConflictWords(first), ":")
	if len(places) > 0 {
		text += " (" + strings.Join(places, ", ") + ")"
	}
	return text
}

// conflicting matches the first line of OPA's message about a conflict.
var conflicting = regexp.MustCompile(`^(?:rule|function) (.+) produced conflicting values( for the same inputs)?`)

// ConflictWords puts OPA's message about a conflict into the words of rule authors. The lines that follow the first one
// name each value and its place.
func ConflictWords(message string) string {
	if message == "object keys must be unique" {
		return "one key of an object gets different values"
	}
	parts := conflicting.FindStringSubmatch(message)
	if parts == nil {
		return message
	}
	text := "definitions of " + parts[1] + " give different values"
	if parts[2] != "" {
		text += " for the same arguments"
	}
	return text + message[len(parts[0]):]
}
