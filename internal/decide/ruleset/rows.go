package ruleset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/plan"
)

// Rows are looked up by functions that the declarations in lookups.yaml add to Rego: lookup.device(key) for the look-up
// device. They differ from other functions in one way: a source that fails ends the evaluation, because Rego would take
// the error as undefined, and undefined means that there is no such row.

// lookupPrefix starts the names of these functions.
const lookupPrefix = "lookup."

// LookupBuiltin is the function that asks for rows of a look-up.
func LookupBuiltin(name string) string { return lookupPrefix + name }

// LookupName is the look-up that a function asks for rows of; ok is false for other functions.
func LookupName(builtin string) (name string, ok bool) {
	return strings.CutPrefix(builtin, lookupPrefix)
}

// maxKey bounds a key, in bytes. Nothing that names a device is longer.
const maxKey = 1024

// Lookups lists the look-ups that rules may use: those that they declare, in the order of their names, and then the one
// that is built in, lookup.hub.
func (rs *Ruleset) Lookups() []*lookups.Declaration { return rs.lookups }

// Fixtures answer look-ups from the files next to the rules.
func (rs *Ruleset) Fixtures() lookups.Fixtures { return rs.fixtures }

// FixturesDigest identifies what the fixtures contain, which is no part of what decides elsewhere.
func (rs *Ruleset) FixturesDigest() string { return rs.fixtures.Digest() }

// hubDeclaration is read once.
var hubDeclaration = sync.OnceValue(lookups.HubDeclaration)

// LooksUp reports whether what the rule says can depend on a look-up.
func (r *Rule) LooksUp() bool { return r.prepare().looksUp }

// looksUp reports whether one of these definitions looks up by this name; "" means any.
func looksUp(definitions map[*ast.Rule]bool, name string) bool {
	found := false
	for rule := range definitions {
		ast.WalkExprs(rule, func(expr *ast.Expr) bool {
			if expr.IsCall() {
				called, ok := LookupName(expr.Operator().String())
				found = found || ok && (name == "" || called == name)
			}
			return found
		})
	}
	return found
}

// UsesLookup reports whether some rule can look up by this name. Rules that are not compiled yet are taken to use what
// they declare.
func (rs *Ruleset) UsesLookup(name string) bool {
	all := rs.units.Load()
	if all == nil {
		return name != lookups.HubName
	}
	return slices.ContainsFunc(all.list, func(u *unit) bool { return u.lookups[name] })
}

// declareLookups reads the declarations of look-ups, and those fixtures that come with the rules.
func (rs *Ruleset) declareLookups(fsys fs.FS, files []file) error {
	declarations := make([]lookups.File, len(files))
	for i, f := range files {
		declarations[i] = lookups.File{Name: f.path, Text: f.text}
	}
	var found []lookups.Problem
	rs.lookups, found = lookups.Declare(rs.options.Name, declarations)
	rs.lookups = append(rs.lookups, hubDeclaration())
	if len(found) == 0 {
		rs.fixtures, found = lookups.LoadFixtures(fsys, rs.options.Name, rs.lookups)
	}
	if len(found) == 0 {
		return nil
	}
	problems := make([]Problem, len(found))
	for i, p := range found {
		problems[i] = Problem(p)
	}
	return NewLoadError(problems)
}

// declaredLookups names the look-ups there are, for one that there is not.
func (rs *Ruleset) declaredLookups(unknown string) string {
	if len(rs.lookups) == 1 {
		return "no look-up is declared: declare it in lookups.yaml"
	}
	names := make([]string, len(rs.lookups))
	for i, d := range rs.lookups {
		names[i] = d.Name
	}
	distance := func(name string) int { return levenshtein.ComputeDistance(name, unknown) }
	nearest := slices.MinFunc(names, func(a, b string) int { return distance(a) - distance(b) })
	if distance(nearest) <= max(1, len(nearest)/3) {
		return fmt.Sprintf("did you mean %s? The declared look-ups are %s", LookupBuiltin(nearest), strings.Join(names, ", "))
	}
	return "the declared look-ups are " + strings.Join(names, ", ")
}

// LookupError is why a look-up failed. Its text contains nothing of the key or of the row.
type LookupError struct {
	Lookup string // its name
	Place  string // file:line of the rule that asked
	Cause  error
}

func (e *LookupError) Error() string {
	text := fmt.Sprintf("look-up %s failed: %v", e.Lookup, e.Cause)
	if e.Place != "" {
		text += " at " + e.Place
	}
	return text
}

func (e *LookupError) Unwrap() error { return e.Cause }

// lookupFunction makes the function for a declaration.
func (e *environment) lookupFunction(d *lookups.Declaration) function {
	name := LookupBuiltin(d.Name)
	description := d.Description
	if description == "" {
		description = "Looks up a row by its key."
	}
	return custom(name, description+" Undefined if there is no such row. If the source cannot say, the decision is the fault lookup_failed, unless lookups.yaml says otherwise.",
		func(c *topdown.BuiltinContext, arguments []plan.Value) (plan.Value, error) {
			key, err := textOperand(arguments, 1)
			if err != nil {
				return nil, err
			}
			a, _ := c.Context.Value(askingKey{}).(*asking)
			if a == nil {
				a = &asking{set: &Ruleset{environment: e}} // a test
			}
			row, err := a.row(c.Context, d, key)
			if err != nil {
				return nil, topdown.Halt{Err: &LookupError{Lookup: d.Name, Place: PlaceOf(c.Location), Cause: err}}
			}
			return row, nil
		},
		types.Named("row", typeOf(d.RowSchema)).Description("with the members that lookups.yaml declares"),
		types.Named("key", types.S).Description("at most 1024 bytes"))
}

// asking answers the look-ups of one evaluation: each key is asked for once, so that all lines of a rule see the same
// row.
type asking struct {
	set     *Ruleset
	outside Outside
	asked   []asked
}

type asked struct {
	declaration *lookups.Declaration
	call        answer.Lookup
	row         plan.Value // nil if there is none
	err         error
}

type askingKey struct{}

// row returns the row of a key; nil if there is none.
func (a *asking) row(ctx context.Context, d *lookups.Declaration, key string) (plan.Value, error) {
	if !d.CaseSensitive {
		key = strings.ToLower(key)
	}
	for i := range a.asked {
		if a.asked[i].declaration == d && a.asked[i].call.Arguments[0] == key {
			return a.asked[i].row, a.asked[i].err
		}
	}
	one := a.ask(ctx, d, key)
	if one.err != nil && ctx.Err() == nil && d.OnFault == lookups.Absent {
		one.call.Undefined, one.err = true, nil
	}
	a.asked = append(a.asked, one)
	return one.row, one.err
}

func (a *asking) ask(ctx context.Context, d *lookups.Declaration, key string) asked {
	one := asked{declaration: d, call: answer.Lookup{Builtin: LookupBuiltin(d.Name), Arguments: []any{key}, Recordable: d.Recordable}}
	if call := a.known(one.call.Builtin, key); call != nil {
		one.call = *call
		one.call.Recordable = d.Recordable // other rules can have asked
		switch {
		case call.Undefined:
		case call.Result != nil:
			one.row, one.err = rowValue(call.Result)
		default:
			one.err = errors.New(call.Fault)
		}
		return one
	}
	if len(key) > maxKey || !utf8.ValidString(key) {
		one.call.Undefined = true // no source can have it
		return one
	}
	var found lookups.Found
	if one.err = ctx.Err(); one.err == nil {
		found, one.err = a.find(ctx, d, key)
	}
	one.call.Source, one.call.Version, one.call.AsOf = found.Source, found.Version, found.AsOf
	if found.Fault != nil {
		one.call.Fault = found.Fault.Error()
	}
	switch {
	case one.err != nil:
	case found.Row == nil:
		one.call.Undefined = true
	default:
		if violations := d.Row.Validate(found.Row); len(violations) > 0 {
			one.err = fmt.Errorf("a row of %s is not as %s declares: %s", found.Source, d.Place, violations[0])
			break
		}
		row := d.Declared(found.Row)
		one.call.Result = row
		one.row, one.err = rowValue(row)
	}
	if one.err != nil {
		one.call.Fault = one.err.Error()
	}
	return one
}

func rowValue(row any) (plan.Value, error) {
	value, err := ast.InterfaceToValue(row)
	if err != nil {
		return nil, fmt.Errorf("the row is not JSON: %w", err)
	}
	return value, nil
}

func (a *asking) find(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	if a.outside.Sources != nil {
		if found, err := a.outside.Sources.Find(ctx, d, key); !errors.Is(err, lookups.ErrUseFixture) {
			return found, err
		}
	}
	return a.set.fixtures.Find(ctx, d, key)
}

func (a *asking) known(builtin, key string) *answer.Lookup {
	for i, call := range a.outside.Known {
		if call.Builtin == builtin && len(call.Arguments) == 1 && call.Arguments[0] == key {
			return &a.outside.Known[i]
		}
	}
	return nil
}

// calls lists what was asked, in this order.
func (a *asking) calls() []answer.Lookup {
	if a == nil || len(a.asked) == 0 {
		return nil
	}
	list := make([]answer.Lookup, len(a.asked))
	for i := range a.asked {
		list[i] = a.asked[i].call
	}
	return list
}

// typeOf is the type of what a JSON Schema describes, so that OPA's compiler refuses a member that it does not. What it
// cannot express is any value.
func typeOf(s any) types.Type {
	described, ok := s.(map[string]any)
	if !ok {
		return types.A
	}
	if list, ok := described["type"].([]any); ok {
		var alternatives []types.Type
		for _, name := range list {
			alternatives = append(alternatives, typeNamed(name, described))
		}
		return types.NewAny(alternatives...)
	}
	return typeNamed(described["type"], described)
}

func typeNamed(name any, described map[string]any) types.Type {
	switch name {
	case "string":
		return types.S
	case "integer", "number":
		return types.N
	case "boolean":
		return types.B
	case "null":
		return types.Nl
	case "array":
		return types.NewArray(nil, typeOf(described["items"]))
	case "object":
		properties, _ := described["properties"].(map[string]any)
		if len(properties) == 0 {
			return types.NewObject(nil, types.NewDynamicProperty(types.S, typeOf(described["additionalProperties"])))
		}
		var static []*types.StaticProperty
		for name, member := range properties {
			static = append(static, types.NewStaticProperty(name, typeOf(member)))
		}
		return types.NewObject(static, nil)
	default:
		return types.A
	}
}
