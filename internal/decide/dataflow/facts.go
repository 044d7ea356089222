package dataflow

import (
	"maps"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"
)

// fact is what a condition says of a part of the request.
type fact uint16

const (
	typeText fact = 1 << iota
	typeNumber
	typeBoolean
	aboveNumber // not less than some number: Rego orders null and booleans before numbers
	belowNumber // not greater than some number: Rego orders texts and whatever has elements after them
	aboveText
	belowText
	notEmpty // it has an element or a character
	limited  // as many elements or characters as the rule allows
	small    // whatever it is, its JSON is no longer than the rule allows
	allowed  // it is one of the values that the rule allows
)

// isTyped reports whether only a value of one type can have these facts.
func (k fact) isTyped() bool {
	const number, text = aboveNumber | belowNumber, aboveText | belowText
	return k&(typeText|typeNumber|typeBoolean|allowed) != 0 || k&number == number || k&text == text
}

// isBounded reports whether the size of a value that has these facts is bounded.
func (k fact) isBounded() bool {
	const text, number = typeText | limited, aboveNumber | belowNumber
	return k&(small|typeBoolean|allowed) != 0 || k&text == text || k&number == number
}

// facts are what is known of parts of the request, by the keys of their sources.
type facts map[string]fact

// add notes what is so of a value. It says nothing of what a rule wrote around parts of the request.
func (k facts) add(of Alternatives, is fact) {
	for _, v := range of {
		sources := v.Sources
		if v.Kind == List && v.ends == nil { // of elements of the request
			sources = sourcesOf(Alternatives{v})
		}
		for _, s := range sources {
			k.note(s.key(), is)
		}
	}
}

// note also says of a container what is said of its count.
func (k facts) note(key string, is fact) {
	if is == 0 {
		return
	}
	k[key] |= is
	if counted, ok := strings.CutSuffix(key, "|count"); ok {
		k[counted] |= is & notEmpty
		if is&belowNumber != 0 {
			k[counted] |= limited
			if marshaled, ok := strings.CutSuffix(counted, "|json.marshal"); ok {
				k[marshaled] |= small
			}
		}
	}
}

func (k facts) merge(other facts) {
	for key, is := range other {
		k[key] |= is
	}
}

func (k facts) except(not fact) facts {
	out := facts{}
	for key, is := range k {
		out[key] = is &^ not
	}
	return out
}

// common keeps what is in both; nil stands for everything.
func (k facts) common(other facts) facts {
	if k == nil {
		return maps.Clone(other)
	}
	for key := range k {
		k[key] &= other[key]
	}
	return k
}

// of is what is known of a source, also by what a rule that it came through has found out.
func (k facts) of(s Source) fact {
	is := k[s.key()] | s.known
	for i := range s.made { // something that a function made of a bounded value
		if s.made[i] == '|' && k[s.Pointer+s.made[:i]].isBounded() {
			is |= small
		}
	}
	return is
}

// withFacts marks the sources of values with what a body found out about them.
func withFacts(in Alternatives, known facts) Alternatives {
	if len(known) == 0 || len(sourcesOf(in)) == 0 {
		return in
	}
	return mapped(in, func(v Value) Value {
		v.Sources = slices.Clone(v.Sources)
		for i, s := range v.Sources {
			v.Sources[i].known = known.of(s)
		}
		return v
	})
}

// clamped is the greatest or the least of some values, which a number among them bounds.
func clamped(among Alternatives, bound fact) Alternatives {
	if !slices.ContainsFunc(among, Value.isNumber) {
		return among
	}
	return mapped(among, func(v Value) Value {
		v.Sources = slices.Clone(v.Sources)
		for i := range v.Sources {
			v.Sources[i].known |= bound
		}
		return v
	})
}

// opposites are the operators that are true where another is not.
var opposites = map[string]string{"gt": "lte", "gte": "lt", "lt": "gte", "lte": "gt", "equal": "neq", "neq": "equal"}

// ifTrue are the facts that follow if an operator or a function is true.
func ifTrue(name string, args []Alternatives) facts {
	known := facts{}
	switch name {
	case "is_string":
		known.add(args[0], typeText)
	case "is_number":
		known.add(args[0], typeNumber)
	case "is_boolean", "is_null":
		known.add(args[0], typeBoolean)
	case "lt", "lte":
		known.order(args[0], args[1], name == "lt")
	case "gt", "gte":
		known.order(args[1], args[0], name == "gt")
	case "equal":
		known.equal(args[0], args[1])
		known.equal(args[1], args[0])
	case "neq":
		for i, other := range args {
			if slices.ContainsFunc(other, Value.isEmpty) {
				known.add(args[1-i], notEmpty)
			}
		}
	case "internal.member_2":
		known.add(args[1], notEmpty)
	case "regex.match":
		if len(args[0]) > 0 && !slices.ContainsFunc(args[0], func(v Value) bool { text, ok := v.Text(); return !ok || !isBoundedPattern(text) }) {
			known.add(args[1], typeText|limited)
		}
	}
	return known
}

// ifFalse are the facts that follow if an operator is not true of defined values.
func ifFalse(name string, args []Alternatives) facts {
	if opposite, ok := opposites[name]; ok {
		return ifTrue(opposite, args)
	}
	return facts{}
}

// order is low <= high.
func (k facts) order(low, high Alternatives, strictly bool) {
	switch {
	case areAll(high, typeNumber):
		k.add(low, belowNumber)
	case areAll(high, typeText):
		k.add(low, belowText)
	}
	switch {
	case areAll(low, typeNumber):
		above := aboveNumber
		if !slices.ContainsFunc(low, func(v Value) bool {
			return !v.isNumber() || v.Constant.Compare(ast.Number("0")) < 0 || v.isZero() && !strictly
		}) {
			above |= notEmpty
		}
		k.add(high, above)
	case areAll(low, typeText):
		k.add(high, aboveText)
	}
}

func (k facts) equal(in, to Alternatives) {
	if len(to) == 0 {
		return
	}
	switch {
	case areAll(to, typeNumber):
		k.add(in, typeNumber|aboveNumber|belowNumber)
	case areAll(to, typeText):
		k.add(in, typeText)
		k.namedType(in, to)
	}
	if !slices.ContainsFunc(to, func(v Value) bool { return v.Kind == Unknown || v.isEmpty() }) {
		k.add(in, notEmpty)
	}
}

// namedType is type_name(x) == "number".
func (k facts) namedType(in, to Alternatives) {
	name, _ := to[0].Text()
	is := map[string]fact{"string": typeText, "number": typeNumber, "boolean": typeBoolean}[name]
	for _, s := range sourcesOf(in) {
		if of, ok := strings.CutSuffix(s.key(), "|type_name"); ok && len(to) == 1 {
			k.note(of, is)
		}
	}
}

// isEmpty reports whether v is zero or has no elements.
func (v Value) isEmpty() bool {
	if v.isZero() || v.Kind == List && len(v.Rest) == 0 {
		return true
	}
	switch c := v.Constant.(type) {
	case *ast.Array:
		return c.Len() == 0
	case ast.Set:
		return c.Len() == 0
	case ast.Object:
		return c.Len() == 0
	}
	return v.Kind == Object && !v.open && len(v.Members) == 0
}

func areAll(in Alternatives, kind fact) bool {
	return len(in) > 0 && !slices.ContainsFunc(in, func(v Value) bool { return v.scalar() != kind })
}

// scalar is typeText, typeNumber or typeBoolean if only a value of that type is possible, else 0.
func (v Value) scalar() fact {
	switch v.Constant.(type) {
	case ast.String:
		return typeText
	case ast.Number:
		return typeNumber
	case ast.Boolean, ast.Null:
		return typeBoolean
	}
	return scalarType(v.declared)
}

func scalarType(t types.Type) fact {
	switch t := t.(type) {
	case types.String:
		return typeText
	case types.Number:
		return typeNumber
	case types.Boolean, types.Null:
		return typeBoolean
	case *types.NamedType:
		return scalarType(t.Type)
	}
	return 0
}

// accepted are the facts that follow from calling a function: it has no result for an operand of another type.
func accepted(of *types.Function, args []Alternatives) facts {
	known := facts{}
	for i, arg := range args {
		if of != nil && i < len(of.FuncArgs().Args) {
			known.add(arg, scalarType(of.FuncArgs().Args[i]))
		}
	}
	return known
}

// declare gives an unknown the type that the function that made it declares.
func declare(in Alternatives, t types.Type) Alternatives {
	if t == nil {
		return in
	}
	out := make(Alternatives, len(in))
	for i, v := range in {
		if v.Kind == Unknown && v.declared == nil {
			v.declared = t
		}
		out[i] = v
	}
	return out
}

// memberType is the type of v[key], nil if it is unknown.
func memberType(v, key Value) types.Type {
	switch name, named := key.Text(); {
	case v.declared == nil:
		return nil
	case named:
		return types.Select(v.declared, name)
	default:
		return types.Values(v.declared)
	}
}

// IsText reports whether v can only be a text.
func (v Value) IsText() bool {
	switch {
	case v.scalar() != 0:
		return v.scalar() == typeText
	case v.Kind != Unknown:
		return false
	case v.traits&(linkedHub|anyCase|lowerCase) != 0:
		return true
	}
	return len(v.Sources) > 0 && !slices.ContainsFunc(v.Sources, func(s Source) bool { return s.known&typeText == 0 })
}

// isList reports whether it can be a list or an object with any number of elements, which the device or its
// certificate decides.
func (s Source) isList() bool {
	return s.isFree() || strings.Contains(s.made, "|usher.certificate/")
}

// isFree reports whether the schema of the request allows a value of any type at the place.
func (s Source) isFree() bool {
	return s.isWord() && !s.isPick() || strings.Contains(s.Pointer, "/initialTwin/") || strings.Contains(s.Pointer, "/registrationState/payload/")
}

// Unbounded are the device's words anywhere in what a term may be of which nothing bounds the size, one for each place
// in the payload.
func Unbounded(in Alternatives) []Source {
	var found []Source
	add := func(s Source) {
		if !slices.ContainsFunc(found, func(other Source) bool { return other.Pointer == s.Pointer }) {
			found = append(found, s)
		}
	}
	each(in, func(v Value) {
		if v.Kind == Unknown && v.scalar() == typeBoolean {
			return
		}
		for _, s := range v.Sources {
			if s.isWord() && !s.isPick() && !s.checked && !s.isCut() && !(s.known | v.scalar()).isBounded() {
				add(s)
			}
		}
		if v.Kind == Unknown && v.Request != nil && (len(v.Request) == 0 || len(v.Request) == 1 && v.Request[0] == "deviceRuntimeContext") {
			add(Source{Pointer: payloadPointer}) // the request as a whole contains the payload, too
		}
	})
	return found
}

// isCut reports whether a function made something of a bounded size of the source.
func (s Source) isCut() bool {
	for step := range strings.SplitSeq(s.made, "|") {
		name, _, _ := strings.Cut(step, "/")
		if strings.HasPrefix(name, "crypto.") || name == "substring" || name == "count" || name == "rem" {
			return true
		}
	}
	return false
}

// Anchors reports whether a regular expression says where a text begins and where it ends. A .* there says that anything
// may precede or follow.
func Anchors(pattern string) (start, end bool) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return true, true // it matches nothing
	}
	return isAnchored(parsed, true), isAnchored(parsed, false)
}

func isAnchored(re *syntax.Regexp, start bool) bool {
	switch re.Op {
	case syntax.OpBeginText:
		return start
	case syntax.OpEndText:
		return !start
	case syntax.OpCapture, syntax.OpPlus:
		return isAnchored(re.Sub[0], start) || isAnything(re)
	case syntax.OpStar:
		return isAnything(re)
	case syntax.OpRepeat:
		return re.Min > 0 && isAnchored(re.Sub[0], start)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !isAnchored(sub, start) })
	case syntax.OpConcat:
		at := 0
		if !start {
			at = len(re.Sub) - 1
		}
		return isAnchored(re.Sub[at], start)
	case syntax.OpNoMatch:
		return true
	}
	return false
}

func isAnything(re *syntax.Regexp) bool {
	return (re.Op == syntax.OpStar || re.Op == syntax.OpPlus) && (re.Sub[0].Op == syntax.OpAnyChar || re.Sub[0].Op == syntax.OpAnyCharNotNL)
}

// isBoundedPattern reports whether a regular expression only matches texts of a bounded length.
func isBoundedPattern(pattern string) bool {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	return err == nil && isAnchored(parsed, true) && isAnchored(parsed, false) && !repeatsWithoutEnd(parsed)
}

func repeatsWithoutEnd(re *syntax.Regexp) bool {
	return re.Op == syntax.OpStar || re.Op == syntax.OpPlus || re.Op == syntax.OpRepeat && re.Max < 0 ||
		slices.ContainsFunc(re.Sub, repeatsWithoutEnd)
}

// afterGuards notes what is known because reject and hold come before the other entry rules: a device that a condition
// of theirs concerns does not get there. Two of one entry rule's conditions can rely on each other, because either of
// them refuses the device.
func (f *flow) afterGuards(says map[string]outcome) {
	for name, outcome := range says {
		known := facts{}
		switch reject, hold := says["reject"].refuted, says["hold"].refuted; name {
		case "reject":
			known.merge(reject.settled())
		case "hold":
			known.merge(reject)
			known.merge(hold.settled())
		default:
			known.merge(reject)
			known.merge(hold)
		}
		f.Entries[name] = withFacts(f.Entries[name], known)
		outcome.uses.know(known)
		f.Uses[name] = outcome.uses.list()
	}
}

// settled leaves out the bounds that do not make up a type: a condition and its opposite would.
func (k facts) settled() facts {
	out := k.except(aboveNumber | belowNumber | aboveText | belowText)
	for key, is := range k {
		if is.isTyped() {
			out[key] |= typeNumber
		}
	}
	return out
}

// IsHostName reports whether v is the host name of a hub.
func (v Value) IsHostName() bool {
	return v.Kind == Unknown && (v.traits&linkedHub != 0 || v.isOfHosts(""))
}

// IsHostLabel reports whether v is a label of the host name of a hub, such as the first.
func (v Value) IsHostLabel() bool {
	return v.Kind == Unknown && v.scalar() == typeText && v.isOfHosts("|split")
}

// isOfHosts reports whether v is a host name of the request, or what functions made of one.
func (v Value) isOfHosts(made string) bool {
	return len(v.Sources) > 0 && !slices.ContainsFunc(v.Sources, func(s Source) bool {
		path := strings.TrimSuffix(s.Pointer, "/"+AnyMember)
		name := path[strings.LastIndexByte(path, '/')+1:]
		isHost := name == "currentIotHubHostName" || name == "iotHubHostName" || name == "assignedHub"
		isElement := s.Pointer == "/linkedHubs" && v.traits&linkedList == 0 || path != s.Pointer && name == "iotHubs"
		return strings.TrimPrefix(s.made, "|key") != made || !isHost && !isElement // the key to a hub is its name
	})
}
