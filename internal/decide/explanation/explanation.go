// Package explanation shows which lines of a rule produced its answer to a request, and why the others did not.
package explanation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Explanation shows where a rule's answer comes from. Keys and certificates of the request are masked; all other values
// are shown, so it is for people who may see the request.
type Explanation struct {
	// Entries are the entry rules that the package defines, in the order in which they take precedence.
	Entries []Entry
	// BuiltinErrors say where a built-in function failed, and why in OPA's words.
	BuiltinErrors []string
	// CutShort is why the explanation is incomplete; nil if it is complete.
	CutShort error
}

// Entry is one entry rule of the package, such as hub.
type Entry struct {
	Name        string `json:"name"`
	Title       string `json:"title,omitempty"` // from its METADATA
	Description string `json:"description,omitempty"`
	// Asked is unset if the first entry of the explanation already decided, so that this one is not evaluated.
	Asked bool `json:"asked"`
	// Value is what the entry rule says; nil if it is undefined or null.
	Value       any          `json:"value"`
	Error       string       `json:"error,omitempty"` // why it has no value
	Definitions []Definition `json:"definitions"`
}

// State is what became of a definition.
type State string

// The states of a definition.
const (
	Gave      State = "gave"       // it holds, so its value is the rule's, or an element of the rule's set
	NotHeld   State = "not_held"   // one of its expressions is false or undefined
	Unreached State = "unreached"  // another definition or an earlier branch takes precedence
	NotTraced State = "not_traced" // the explanation was cut short
	Erred     State = "erred"      // it ends evaluation with an error
)

// Definition is one definition of a Rego rule, or one of its else branches.
type Definition struct {
	Place   string `json:"place"` // file:line
	Text    string `json:"text"`  // the source up to the body
	Else    bool   `json:"else,omitempty"`
	Default bool   `json:"default,omitempty"`
	State   State  `json:"state"`
	// Value is what the definition says. One that says several things, such as the elements of a set, is in the list
	// once for each of the first maxApart, and once for all others. If the state is not Gave, it is what the definition
	// would say if the expressions that do not hold did; nil if that is unknown.
	Value any `json:"value,omitempty"`
	// Failed is the first expression that does not hold; set for NotHeld, and for Unreached if it would not hold
	// either.
	Failed *Expression `json:"failed,omitempty"`
	// Uses are the rules and the parts of the request that it refers to; set only for Gave.
	Uses []Term `json:"uses,omitempty"`
	// Draws are the choices by weight that its value comes from.
	Draws []Draw `json:"draws,omitempty"`
	Error string `json:"error,omitempty"` // in OPA's words; set only for Erred
}

// Expression is an expression that is false or undefined.
type Expression struct {
	Place string `json:"place"`
	Text  string `json:"text"`
	// Tries is for how many values of its variables it was evaluated, at most maxTries.
	Tries int    `json:"tries,omitempty"`
	Terms []Term `json:"terms,omitempty"`
	// Why describes what the terms do not show.
	Why string `json:"why,omitempty"`
}

// Term is a part of an expression and what it stands for.
type Term struct {
	Text string `json:"text"`
	// Values are what it stands for, one for each try that has a different one; none if it is undefined.
	Values []any  `json:"values"`
	Why    string `json:"why,omitempty"` // why it is undefined
	// Definitions are those of the rule that it refers to.
	Definitions []Definition `json:"definitions,omitempty"`
	// Repeated is set if the definitions are elsewhere in the explanation.
	Repeated bool `json:"repeated,omitempty"`
}

// Draw is a choice of a hub by weight. The same key always gets the same hub.
type Draw struct {
	Place string   `json:"place"`
	Key   string   `json:"key"`
	Among []string `json:"among"` // the linked hubs that have a weight, in the spelling of linkedHubs
	Drawn string   `json:"drawn"`
}

const (
	// maxTries bounds for how many values of its variables an expression is shown.
	maxTries = 8
	// maxElements bounds how many elements of a set are collected.
	maxElements = 100
	// maxApart bounds how many elements of one definition are explained one by one; an answer has no more reasons.
	maxApart = 16
	// maxDefinitions bounds an explanation, so that people can read it.
	maxDefinitions = 400
)

var (
	errEnough  = errors.New("enough solutions")
	errTooLong = fmt.Errorf("more than %d definitions take part", maxDefinitions)
)

// Explain evaluates the rule for a request as [ruleset.Rule.Evaluate] does, and then its parts: for every definition it
// evaluates how much of the body holds. It does not trace the evaluation of the whole, because OPA skips what an index
// or an equal value makes superfluous, and authors want to see that too. Every error is a *ruleset.EvalError.
func Explain(ctx context.Context, rule *ruleset.Rule, input map[string]any, outside ruleset.Outside) (*Explanation, error) {
	syntax, err := rule.Syntax()
	if err != nil {
		return nil, &ruleset.EvalError{Problem: "the rule does not compile: " + err.Error(), Cause: err}
	}
	x := &explainer{
		Inspection: syntax.Inspect(ctx, input, outside),
		compiler:   syntax.Compiler,
		rule:       rule,
		document:   input,
		seen:       map[string]bool{},
		left:       maxDefinitions,
	}
	x.ctx = x.Context()

	explanation := &Explanation{Entries: x.entries()}
	for i := range explanation.Entries {
		x.explain(&explanation.Entries[i])
	}
	explanation.BuiltinErrors, explanation.CutShort = x.failures, x.cutShort
	explanation.mask(keymaterial.Of(input))
	return explanation, nil
}

type explainer struct {
	*ruleset.Inspection
	ctx      context.Context // of Explain
	compiler *ast.Compiler
	rule     *ruleset.Rule
	document map[string]any
	seen     map[string]bool // rules and calls whose definitions are already in the explanation
	left     int             // of maxDefinitions
	shallow  bool            // leaves out the definitions behind terms
	failures []string
	cutShort error
}

// solution binds the variables of a body.
type solution = topdown.QueryResult

// solve returns at most limit solutions of bodies that are evaluated as one.
func (x *explainer) solve(limit int, bodies ...ast.Body) ([]solution, error) {
	if x.cutShort != nil {
		return nil, x.cutShort
	}
	var solutions []solution
	err := x.Query(slices.Concat(bodies...)).Iter(x.ctx, func(bindings topdown.QueryResult) error {
		solutions = append(solutions, bindings)
		if len(solutions) == limit {
			return errEnough
		}
		return nil
	})
	x.collectFailures()
	if err != nil {
		x.Reset()
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err != nil {
		x.cutShort = x.ctx.Err()
	}
	return solutions, err
}

// holds reports whether bodies that are evaluated as one have a solution, and returns the first one.
func (x *explainer) holds(bodies ...ast.Body) (solution, bool) {
	solutions, err := x.solve(1, bodies...)
	if err != nil || len(solutions) == 0 {
		return nil, false
	}
	return solutions[0], true
}

// collectFailures keeps the errors of built-in functions, each once.
func (x *explainer) collectFailures() {
	for _, failure := range x.Failures() {
		text := fmt.Sprintf("%s: %s", ruleset.PlaceOf(failure.Location), failure.Message)
		if !slices.Contains(x.failures, text) {
			x.failures = append(x.failures, text)
		}
	}
}

// result is the variable that queries for a value bind.
const result = ast.Var("result")

// value evaluates a term; nil if it is undefined.
func (x *explainer) value(term *ast.Term, with []*ast.With) ast.Value {
	if ref, ok := term.Value.(ast.Ref); ok && ref.IsGround() && ref[0].IsGround() {
		// The head is the value of a variable, and OPA looks nothing up below a value.
		found, err := ref[0].Value.Find(ref[1:])
		if err != nil {
			return nil
		}
		return found
	}
	expr := ast.Equality.Expr(ast.NewTerm(result), term)
	expr.With = with
	solutions, err := x.solve(2, ast.NewBody(expr)) // there is one, and a limit of two makes OPA look for conflicts
	if err != nil || len(solutions) == 0 {
		return nil
	}
	return solutions[0][result].Value
}

// entries evaluates the entry rules. The one that decides comes first: authors look for it, and definitions are
// explained where they first take part.
func (x *explainer) entries() []Entry {
	var list []Entry
	rank := map[string]int{"hub": 1, "initial_twin": 2, "payload": 3, "reject": 4, "hold": 5}
	for _, e := range x.Entries(x.rule) {
		entry := Entry{Name: e.Name, Asked: e.Asked, Value: e.Value}
		if e.Err != nil {
			entry.Error = e.Err.Error()
		}
		if e.Decides {
			rank[e.Name] = 0
		}
		list = append(list, entry)
	}
	x.cutShort = x.ctx.Err()
	x.collectFailures()
	slices.SortStableFunc(list, func(a, b Entry) int { return rank[a.Name] - rank[b.Name] })
	return list
}

func (x *explainer) explain(e *Entry) {
	ref := x.rule.Entry(e.Name)
	rules := x.compiler.GetRulesWithPrefix(ref)
	e.Title, e.Description = x.describe(rules)
	// Even if another entry rule has referred to it: no one looks for the definitions of hub under hold.
	x.seen[ref.String()] = true
	e.Definitions = x.definitions(rules, nil, len(ref))
}

// describe reads the METADATA of a rule: that of the document, or of the first definition that has any.
func (x *explainer) describe(rules []*ast.Rule) (title, description string) {
	set := x.compiler.GetAnnotationSet()
	if set == nil {
		return "", ""
	}
	for _, rule := range byPlace(rules) {
		annotations := set.GetRuleScope(rule)
		if document := set.GetDocumentScope(rule.Ref().GroundPrefix()); document != nil {
			annotations = append([]*ast.Annotations{document}, annotations...)
		}
		for _, a := range annotations {
			if a.Title != "" || a.Description != "" {
				return a.Title, strings.TrimSpace(a.Description)
			}
		}
	}
	return "", ""
}

func byPlace(rules []*ast.Rule) []*ast.Rule {
	return slices.SortedStableFunc(slices.Values(rules), func(a, b *ast.Rule) int { return a.Location.Compare(b.Location) })
}

// definitions explains the definitions of one Rego rule, called with args if it is a function. The values are those
// below the first base elements of the rule's path.
func (x *explainer) definitions(rules []*ast.Rule, args []*ast.Term, base int) []Definition {
	var list []Definition
	fallbacks, settled := map[string]int{}, map[string]bool{} // by what they define: payload.a and payload.b are two
	unreached := func(d *Definition) { d.State, d.Uses, d.Draws = Unreached, nil, nil }
	for _, rule := range byPlace(rules) {
		held := false
		for branch := rule; branch != nil; branch = branch.Else {
			shallow := x.shallow
			x.shallow = shallow || held // nothing behind a branch that is not reached is of interest
			apart := x.definition(branch, args, base)
			x.shallow = shallow
			state := apart[0].State
			for i := range apart {
				apart[i].Else = branch != rule
				if held && state != NotTraced {
					unreached(&apart[i])
				}
			}
			held = held || state == Gave || state == Erred // an error ends everything
			if branch.Default {
				fallbacks[rule.Ref().String()] = len(list)
			}
			list = append(list, apart...)
		}
		if held && !rule.Default {
			settled[rule.Ref().String()] = true
		}
	}
	for ref, i := range fallbacks {
		if settled[ref] && list[i].State == Gave {
			unreached(&list[i])
		}
	}
	return list
}

// definition explains one definition: once, or once for each thing that it says.
func (x *explainer) definition(rule *ast.Rule, args []*ast.Term, base int) []Definition {
	definition := Definition{Place: ruleset.PlaceOf(rule.Location), Text: headText(rule), Default: rule.Default}
	if x.left--; x.left < 0 && x.cutShort == nil {
		x.cutShort = errTooLong
	}
	known := matching(rule.Head.Args, args)
	solutions, err := x.solve(maxElements, known, ruleset.Written(rule.Body))
	switch {
	case x.cutShort != nil:
		definition.State = NotTraced
	case err != nil:
		definition.State, definition.Error = Erred, errorText(err)
	case len(solutions) > 0:
		definition.State = Gave
		var list []Definition
		for _, same := range apart(rule, solutions, base) {
			definition.Value = headValue(rule, same, base)
			definition.Uses = x.uses(rule, same[0])
			definition.Draws = x.draws(rule, same[0], maxDrawDepth)
			list = append(list, definition)
		}
		return list
	default:
		definition.State = NotHeld
		var before []solution
		definition.Failed, before = x.failing(rule, known)
		definition.Value = x.would(rule, before, base)
	}
	return []Definition{definition}
}

// apart groups the solutions of a definition by what it says; those beyond maxApart are one group.
func apart(rule *ast.Rule, solutions []solution, base int) [][]solution {
	var values []any
	var groups [][]solution
	for _, s := range solutions {
		value := headValue(rule, []solution{s}, base)
		switch i := slices.IndexFunc(values, func(other any) bool { return equal(other, value) }); {
		case i >= 0:
			groups[i] = append(groups[i], s)
		case len(groups) > maxApart:
			groups[maxApart] = append(groups[maxApart], s)
		default:
			values, groups = append(values, value), append(groups, []solution{s})
		}
	}
	return groups
}

// matching is the part of a function's body that its arguments are.
func matching(parameters, args []*ast.Term) ast.Body {
	var body ast.Body
	for i, parameter := range parameters[:min(len(parameters), len(args))] {
		body.Append(ast.Equality.Expr(parameter, args[i]))
	}
	return body
}

// headValue is what a definition that holds says. The elements of a set are a list.
func headValue(rule *ast.Rule, solutions []solution, base int) any {
	isSet := rule.Head.RuleKind() == ast.MultiValue
	var values []any
	for _, s := range solutions {
		term := rule.Head.Value
		if isSet {
			term = rule.Head.Key
		}
		value, ok := toJSON(plug(term, s).Value)
		if !ok {
			return nil
		}
		for _, step := range slices.Backward(rule.Ref()[min(base, len(rule.Ref())):]) {
			key, known := toJSON(plug(step, s).Value)
			if !known {
				return nil
			}
			value = map[string]any{fmt.Sprint(key): value}
		}
		if !containsValue(values, value) {
			values = append(values, value)
		}
	}
	if isSet {
		return values
	}
	merged := values[0]
	for _, value := range values[1:] {
		merged = merge(merged, value)
	}
	return merged
}

// merge combines what the solutions of a partial object say.
func merge(a, b any) any {
	one, isObject := a.(map[string]any)
	two, alsoObject := b.(map[string]any)
	if !isObject || !alsoObject {
		return a
	}
	for key, value := range two {
		if existing, ok := one[key]; ok {
			value = merge(existing, value)
		}
		one[key] = value
	}
	return one
}

// would returns what a definition that does not hold would say, from what its head needs and the variables that were
// bound before it failed; nil if that depends on which of several values they have.
func (x *explainer) would(rule *ast.Rule, before []solution, base int) any {
	if rule.Head.RuleKind() == ast.MultiValue {
		return nil
	}
	var head ast.Body
	for _, expr := range ruleset.Written(rule.Body) {
		if whole := expr.BaseCogeneratedExpr(); whole.Generated && within(whole.Location, rule.Head.Location) {
			head = append(head, expr) // Body.Append would write into the compiled rule
		}
	}
	if len(before) == 0 {
		before = []solution{{}}
	}
	if len(before) == maxTries && (len(head) > 0 || !rule.Head.Value.IsGround() || !rule.Ref().IsGround()) {
		return nil // there may be other values
	}
	var values []any
	for _, bound := range before {
		value := x.wouldWith(rule, head, bound, base)
		if value == nil || len(values) > 0 && !containsValue(values, value) {
			return nil
		}
		values = append(values, value)
	}
	return values[0]
}

func (x *explainer) wouldWith(rule *ast.Rule, head ast.Body, bound solution, base int) any {
	s := bound
	if len(head) > 0 {
		var ok bool
		if s, ok = x.holds(equalities(bound), head); !ok {
			return nil
		}
		maps.Copy(s, bound)
	}
	if !plug(rule.Head.Value, s).IsGround() {
		return nil
	}
	return headValue(rule, []solution{s}, base)
}

// equalities binds variables for a query.
func equalities(s solution) ast.Body {
	var body ast.Body
	for variable, term := range s {
		if term.IsGround() {
			body.Append(ast.Equality.Expr(ast.NewTerm(variable), term))
		}
	}
	return body
}

func within(inner, outer *ast.Location) bool {
	return inner != nil && outer != nil && inner.Offset >= outer.Offset && inner.Offset < outer.Offset+len(outer.Text)
}

// failing finds the first expression of a rule that does not hold after those before it, and the solutions of those.
func (x *explainer) failing(rule *ast.Rule, known ast.Body) (*Expression, []solution) {
	before := []solution{{}}
	if len(known) > 0 {
		if before, _ = x.solve(1, known); len(before) == 0 {
			return &Expression{Place: ruleset.PlaceOf(rule.Location), Text: headText(rule), Tries: 1, Why: "it is for other arguments"}, nil
		}
	}
	return x.failingIn(ruleset.Written(rule.Body), known, before)
}

func (x *explainer) failingIn(body, known ast.Body, before []solution) (*Expression, []solution) {
	for i, expr := range body {
		solutions, err := x.solve(maxTries, known, body[:i+1])
		switch {
		case err != nil:
			return &Expression{Place: ruleset.PlaceOf(expr.Location), Text: exprText(expr.BaseCogeneratedExpr()), Why: errorText(err)}, before
		case len(solutions) == 0:
			return x.expression(body, i, before), before
		}
		before = solutions
	}
	return nil, before // it held the second time: a built-in function whose result is not always the same
}

// expression explains why body[failed] does not hold although all expressions before it do.
func (x *explainer) expression(body ast.Body, failed int, before []solution) *Expression {
	expr := body[failed]
	whole := expr.BaseCogeneratedExpr()
	if every, ok := expr.Terms.(*ast.Every); ok {
		if inner := x.every(every, expr, before[0]); inner != nil {
			if len(before) > 1 && inner.Why == "" {
				inner.Why = fmt.Sprintf("the first of %d tries", len(before))
			}
			return inner
		}
	}
	found := len(x.failures)
	t := terms{explainer: x, solutions: before}
	// OPA splits what the author wrote as one expression. The parts that hold show what the expression is about.
	for _, part := range body[:failed] {
		if part.BaseCogeneratedExpr() == whole {
			t.part(part)
		}
	}
	t.culprit(expr)
	t.origins(body[:failed], expr)
	e := &Expression{Place: ruleset.PlaceOf(whole.Location), Text: exprText(whole), Tries: len(before), Terms: t.list}
	switch failure := x.failureAt(expr); {
	case len(x.failures) > found:
		e.Why = x.failures[len(x.failures)-1]
	case failure != "":
		e.Why = failure
	case expr.Negated:
		e.Why = "what it negates holds"
	case len(e.Terms) == 0 && len(expr.With) > 0:
		e.Why = "false or undefined, with what is put in its place"
	}
	return e
}

// failureAt finds the error of a built-in function that the expression calls.
func (x *explainer) failureAt(expr *ast.Expr) string {
	if !expr.IsCall() || len(x.compiler.GetRulesForVirtualDocument(expr.Operator())) > 0 {
		return ""
	}
	prefix := ruleset.PlaceOf(expr.Location) + ": " + expr.Operator().String()
	if i := slices.IndexFunc(x.failures, func(failure string) bool { return strings.HasPrefix(failure, prefix) }); i >= 0 {
		return x.failures[i]
	}
	return ""
}

// every finds the first element for which the body of an every does not hold.
func (x *explainer) every(every *ast.Every, expr *ast.Expr, s solution) *Expression {
	key, value, domain := ast.Var("element_key"), ast.Var("element_value"), ast.NewTerm(ast.Var("domain"))
	elements, err := x.solve(maxElements, ast.NewBody(ast.Equality.Expr(domain, plug(every.Domain, s)),
		ast.Equality.Expr(ast.NewTerm(value), ast.NewTerm(ast.Ref{domain, ast.NewTerm(key)}))))
	if err != nil || len(expr.With) > 0 {
		return nil
	}
	for _, element := range elements {
		bound := equalities(s)
		bound.Append(ast.Equality.Expr(every.Value, element[value]))
		if every.Key != nil {
			bound.Append(ast.Equality.Expr(every.Key, element[key]))
		}
		if solutions, err := x.solve(1, bound, every.Body); err != nil || len(solutions) > 0 {
			continue
		}
		if before, ok := x.holds(bound); ok {
			inner, _ := x.failingIn(every.Body, bound, []solution{before})
			return inner
		}
	}
	return nil
}

// plug puts the values of variables into a term. It leaves the term itself unchanged, because that is part of the
// compiled rules; ast.TransformVars would write into it, and into what copies of it share.
func plug(term *ast.Term, s solution) *ast.Term {
	// OPA calls a reference ground if its head is a variable.
	if ref, isRef := term.Value.(ast.Ref); term.IsGround() && (!isRef || ast.RootDocumentNames.Contains(ref[0])) {
		return term
	}
	switch v := term.Value.(type) {
	case ast.Var:
		if value := s[v]; value != nil {
			return value
		}
	case ast.Ref:
		return ast.NewTerm(ast.Ref(plugAll(v, s)))
	case ast.Call:
		return ast.NewTerm(ast.Call(plugAll(v, s)))
	case *ast.Array:
		plugged := make([]*ast.Term, 0, v.Len())
		v.Foreach(func(element *ast.Term) { plugged = append(plugged, plug(element, s)) })
		return ast.ArrayTerm(plugged...)
	case ast.Object:
		var plugged [][2]*ast.Term
		v.Foreach(func(key, value *ast.Term) { plugged = append(plugged, ast.Item(plug(key, s), plug(value, s))) })
		return ast.ObjectTerm(plugged...)
	case ast.Set:
		return ast.SetTerm(plugAll(v.Slice(), s)...)
	}
	return term // a comprehension: the compiler has put those into expressions of their own
}

func plugAll(terms []*ast.Term, s solution) []*ast.Term {
	plugged := make([]*ast.Term, len(terms))
	for i, term := range terms {
		plugged[i] = plug(term, s)
	}
	return plugged
}

func toJSON(value ast.Value) (any, bool) {
	if value == nil || !value.IsGround() {
		return nil, false
	}
	converted, err := ast.JSON(value)
	return converted, err == nil
}

func containsValue(list []any, value any) bool {
	return slices.ContainsFunc(list, func(other any) bool { return equal(other, value) })
}

func equal(a, b any) bool {
	return ast.MustInterfaceToValue(a).Compare(ast.MustInterfaceToValue(b)) == 0
}

// errorText describes an error in OPA's words, values included.
func errorText(err error) string {
	te, ok := errors.AsType[*topdown.Error](err)
	if !ok {
		return err.Error()
	}
	if first, values, several := strings.Cut(te.Message, "\n"); several && te.Code == topdown.ConflictErr {
		var lines []string
		for line := range strings.Lines(values) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return ruleset.ConflictWords(first) + " " + strings.Join(lines, ", ")
	}
	return strings.Join(strings.Fields(ruleset.ConflictWords(te.Message)), " ")
}

// headText is the text in the file up to the body.
func headText(rule *ast.Rule) string {
	text := string(rule.Head.Location.Text)
	if rule.Default && !strings.HasPrefix(text, "default ") {
		text = "default " + text
	}
	return text
}

func exprText(expr *ast.Expr) string {
	if expr.Location == nil || len(expr.Location.Text) == 0 {
		return expr.String()
	}
	text := string(expr.Location.Text)
	if strings.HasPrefix(text, "else") { // OPA's parser takes the whole of else := x if y for the place of y
		return elseText(text, expr)
	}
	return text
}

// elseText finds an expression in the text of the whole branch.
func elseText(text string, expr *ast.Expr) string {
	if expr.Generated {
		if !expr.IsCall() {
			return ""
		}
		operands := expr.Operands()
		call := ast.CallTerm(slices.Concat([]*ast.Term{ast.NewTerm(expr.Operator())}, operands[:len(operands)-1])...).String()
		if isGenerated(call) {
			return ""
		}
		return call
	}
	for rest, found := text, true; found; {
		if _, rest, found = strings.Cut(rest, " if "); !found {
			break
		}
		if _, err := ast.ParseBody(rest); err == nil { // otherwise it was in a string
			return rest
		}
	}
	return text
}

func (x *explainer) sourceOf(term *ast.Term) string {
	text := ""
	if term.Location != nil {
		text = string(term.Location.Text)
	}
	if ref, ok := term.Value.(ast.Ref); ok && (text == "" || strings.HasPrefix(text, "else")) {
		return x.pathText(ref) // see exprText
	}
	return cmp.Or(text, term.String())
}

// isGenerated reports whether a text is not the author's: it shows a variable of the compiler's.
func isGenerated(text string) bool { return strings.Contains(text, "__local") }

// pathText writes a path as an author in the package would.
func (x *explainer) pathText(path ast.Ref) string {
	own := x.rule.Path()
	if !path.HasPrefix(own) || len(path) == len(own) {
		return path.String()
	}
	below := slices.Clone(path[len(own):])
	if name, ok := below[0].Value.(ast.String); ok {
		below[0] = ast.VarTerm(string(name))
	}
	return below.String()
}
