package dataflow

import (
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Alternatives are what a term may be, one for each way to get there. If there are none, it is undefined.
type Alternatives []Value

// Value is what is known without any request of something that a rule computes.
type Value struct {
	Kind     Kind
	Constant ast.Value               // of a constant
	Place    Place                   // of a constant: where it is written
	Members  map[string]Alternatives // of an object
	Names    map[string]Place        // of an object: where the names of its members are written
	Rest     Alternatives            // of an object: its members of unknown names; of a list: its elements
	// Request is the path of an unknown from the request, in which AnyMember stands for any name; nil if it is not a
	// part of the request itself.
	Request []string
	// Sources are the parts of the request that it is made of, besides those of its members.
	Sources []Source
	// ByPosition is set for a value that depends on a position in linkedHubs.
	ByPosition bool

	open   bool         // an object that may have members besides those in Members
	others Alternatives // of an object: unknowns, whose members it has as well
	ends   []int        // of a list that is written out: where in Rest the alternatives of each element end
	set    bool         // a list that is a set
	keys   traits       // of the names in an object that are unknown
	traits traits
	weight int // how many values are in it; 0 for itself only

	declared types.Type // of an unknown: what the function that made it says of its type; nil if it says nothing
}

// Kind says what is known of a value.
type Kind int

// The kinds of values.
const (
	Unknown  Kind = iota
	Constant      // a scalar, or what a data file contains
	Object
	List // an array or a set
)

// traits are facts about an unknown that follow from its origin.
type traits uint16

const (
	linkedHub      traits = 1 << iota // one of input.linkedHubs
	named                             // with linkedHub: one that the rule itself names
	linkedList                        // input.linkedHubs, or some of them
	linkedByName                      // the result of usher.linked: any name that is linked leads to a hub
	linkedPosition                    // a position in a list of linked hubs, at which the rule has found something
	inOrder                           // an element of a list that has the order of input.linkedHubs, or its position
	anyCase                           // an identifier, or a part of one, in whatever case the device or the operator wrote
	lowerCase                         // a text without capitals
	upperCase                         // a text without small letters

	letterCase = anyCase | lowerCase | upperCase
)

// AnyMember stands in a place of the request for an element of an array, at whatever position, or for a member of an
// object whose name is unknown.
const AnyMember = "*"

// Place is where a constant enters a rule.
type Place struct {
	Location *ast.Location
	Data     string // the path in a data file that a constant comes from, such as data.tenants.contoso
}

// Source is a part of the request that a value is made of.
type Source struct {
	Pointer  string // JSON pointer; AnyMember stands for any name
	Location *ast.Location

	// made is |NAME for each function that made something else of it, and /NAME for each member of the result, as far as
	// such a member is still a part of the source.
	made string
	// checked is set if a rule compared it with what is allowed.
	checked bool
	known   fact // what a rule that it came through found out about it
}

// place is the JSON pointer with the members of what was made of the source.
func (s Source) place() string {
	place := s.Pointer
	for step := range strings.SplitSeq(s.made, "|") {
		if _, below, found := strings.Cut(step, "/"); found {
			place += "/" + below
		}
	}
	return place
}

// Name is how an author knows the source, such as payload.model, payload.hubs[_] or lookup.device(_).hub.
func (s Source) Name() string {
	if name, below, ok := CutLookup(s.place()); ok {
		return ruleset.LookupBuiltin(name) + "(_)" + strings.ReplaceAll(strings.ReplaceAll(below, "/", "."), "."+AnyMember, "[_]")
	}
	name := strings.ReplaceAll(strings.TrimPrefix(s.place(), "/deviceRuntimeContext/"), "/", ".")
	return strings.ReplaceAll(name, "."+AnyMember, "[_]")
}

// Place is where the source is, with the members of what was made of it, in the form of Analysis.Reads.
func (s Source) Place() string { return s.place() }

func (s Source) key() string { return s.Pointer + s.made }

// coveredBy reports whether what is known of the source with that key is also known of s.
func (s Source) coveredBy(key string) bool {
	rest, found := strings.CutPrefix(s.key(), key)
	return found && (rest == "" || rest[0] == '|' || rest[0] == '/')
}

const payloadPointer = "/deviceRuntimeContext/payload"

// isWord reports whether the device can write whatever it likes there.
func (s Source) isWord() bool {
	return isWithin(s.Pointer, payloadPointer)
}

// isPart reports whether the members of an unknown are parts of the request.
func (v Value) isPart() bool {
	return v.Kind == Unknown && (v.Request != nil || len(v.Sources) == 1 && v.Sources[0].keepsMembers())
}

func unknownOf(sources []Source, t traits) Alternatives {
	return Alternatives{{Sources: sources, traits: t}}
}

func constantOf(v ast.Value, at Place) Value { return Value{Kind: Constant, Constant: v, Place: at} }

// Text returns the text of a constant string.
func (v Value) Text() (string, bool) {
	s, ok := v.Constant.(ast.String)
	return string(s), v.Kind == Constant && ok
}

// IsObject reports whether v can only be an object.
func (v Value) IsObject() bool {
	_, ok := v.Constant.(ast.Object)
	return v.Kind == Object || v.Kind == Constant && ok
}

// Member is what an object may have as a member; nil if it has none of this name.
func (v Value) Member(name string) Alternatives {
	if v.Kind == Constant {
		if inside, err := v.Constant.Find(ast.Ref{ast.StringTerm(name)}); err == nil {
			return Alternatives{constantOf(inside, v.Place)}
		}
		return nil
	}
	inside := slices.Clip(v.Members[name])
	for _, other := range append(v.others[:len(v.others):len(v.others)], v.Rest...) {
		inside = append(inside, Value{Sources: other.Sources})
	}
	return inside
}

// isFalse reports whether v can only be false.
func (v Value) isFalse() bool {
	return v.Kind == Constant && v.Constant.Compare(ast.Boolean(false)) == 0
}

func (v Value) isNumber() bool {
	_, ok := v.Constant.(ast.Number)
	return v.Kind == Constant && ok
}

// position is the position that a constant names.
func (v Value) position() (int, bool) {
	number, ok := v.Constant.(ast.Number)
	if !ok || v.Kind != Constant {
		return 0, false
	}
	return number.Int()
}

func (v Value) isZero() bool { return v.isNumber() && v.Constant.Compare(ast.Number("0")) == 0 }

// weighed counts what is in an object or a list. One that holds too much to be told apart becomes an unknown:
// otherwise, thirty lines of Rego can make a value of a billion.
func weighed(v Value) Value {
	weight := 1 + weightOf(v.Rest) + weightOf(v.others)
	for _, member := range v.Members {
		weight += weightOf(member)
	}
	if weight > maxAlternatives {
		return Value{Sources: sourcesOf(Alternatives{v})}
	}
	v.weight = weight
	return v
}

func weightOf(in Alternatives) int {
	weight := 0
	for _, v := range in {
		weight += max(v.weight, 1)
	}
	return weight
}

// bounded gives up telling alternatives apart if there are too many. It keeps some constants next to an unknown that
// stands for the others.
func bounded(in Alternatives) Alternatives {
	if weightOf(in) <= maxAlternatives {
		return in
	}
	constants := slices.DeleteFunc(slices.Clone(in), func(v Value) bool { return v.Kind != Constant })
	return append(spread(constants, maxSample), unknownOf(sourcesOf(in), 0)...)
}

// maxSample bounds how many constants are taken from a large table.
const maxSample = 300

// spread takes about n elements evenly.
func spread[T any](list []T, n int) []T {
	step := 1 + (len(list)-1)/n
	taken := make([]T, 0, min(len(list), n))
	for i := 0; i < len(list); i += step {
		taken = append(taken, list[i])
	}
	return taken
}

// sourcesOf collects the parts of the request anywhere in what a term may be.
func sourcesOf(in Alternatives) []Source {
	var all []Source
	for _, v := range in {
		all = addSources(all, v.Sources...)
		for _, name := range slices.Sorted(maps.Keys(v.Members)) {
			all = addSources(all, sourcesOf(v.Members[name])...)
		}
		all = addSources(all, sourcesOf(v.Rest)...)
	}
	return all
}

// Words are the device's own words anywhere in what a term may be: the parts of the payload that the rule did not
// compare with what it allows. There is one for each place in the payload.
func Words(in Alternatives) []Source {
	var words []Source
	add := func(word Source) {
		if !slices.ContainsFunc(words, func(other Source) bool { return word.Pointer == other.Pointer || word.coveredBy(other.Pointer) }) {
			words = append(words, word)
		}
	}
	for _, word := range unchecked(in, nil) {
		add(word)
	}
	each(in, func(v Value) {
		if v.Kind == Unknown && v.Request != nil && (len(v.Request) == 0 || len(v.Request) == 1 && v.Request[0] == "deviceRuntimeContext") {
			add(Source{Pointer: payloadPointer}) // the request as a whole contains the payload, too
		}
	})
	return words
}

// unchecked are the device's words that were not compared with what is allowed, and that are not among those checked.
func unchecked(in Alternatives, checked map[string]bool) []Source {
	return slices.DeleteFunc(slices.Clone(sourcesOf(in)), func(s Source) bool { return !s.isWord() || s.checked || s.isAmong(checked) })
}

// wordsIn are the device's words in what a term may be.
func wordsIn(in Alternatives) []Source {
	return slices.DeleteFunc(sourcesOf(in), func(s Source) bool { return !s.isWord() })
}

func (s Source) isAmong(keys map[string]bool) bool {
	for key := range keys {
		if s.coveredBy(key) {
			return true
		}
	}
	return false
}

// maxSources bounds how many parts of the request are told apart.
const maxSources = 64

func addSources(to []Source, more ...Source) []Source {
	for _, s := range more {
		i := slices.IndexFunc(to, func(other Source) bool { return other.Pointer == s.Pointer && other.made == s.made })
		switch {
		case i < 0 && len(to) < maxSources:
			to = append(slices.Clip(to), s)
		case i >= 0 && (to[i].checked && !s.checked || to[i].known&^s.known != 0):
			to = slices.Clone(to)
			s.checked, s.known = s.checked && to[i].checked, s.known&to[i].known
			to[i] = s
		}
	}
	return to
}

func withSources(in Alternatives, sources []Source) Alternatives {
	out := make(Alternatives, len(in))
	for i, v := range in {
		v.Sources = addSources(v.Sources, sources...)
		out[i] = v
	}
	return out
}

// made marks sources of which a function made something else.
func made(sources []Source, by string) []Source {
	out := slices.Clone(sources)
	for i := range out {
		out[i].made += "|" + by
		if out[i].known = 0; sources[i].known.isBounded() {
			out[i].known = small
		}
	}
	return out
}

// maxPlaceSteps bounds the length of a place, which a chain of functions could make grow without end.
const maxPlaceSteps = 10

// membersOf are the sources of a member of what functions made of them. Where a function keeps no members, that is all
// of the source: the hub in a row that a device's word led to is a part of the row, not of the word.
func membersOf(sources []Source, name string) []Source {
	out := slices.Clone(sources)
	for i, s := range out {
		if s.keepsMembers() && strings.Count(s.place(), "/") < maxPlaceSteps {
			out[i].made += pointerTo(name)
		}
	}
	return out
}

func (s Source) keepsMembers() bool {
	functions := strings.Split(s.made, "|")[1:]
	return len(functions) > 0 && !slices.ContainsFunc(functions, func(step string) bool {
		function, _, _ := strings.Cut(step, "/")
		return !keepsMembers(function)
	})
}

// keepsMembers reports whether the members of a function's result are members of its first operand.
func keepsMembers(function string) bool {
	switch function {
	case "json.filter", "json.remove", "json.patch", "object.filter", "object.remove",
		"usher.certificate": // as if the text had members: what is read of a certificate matters
		return true
	}
	_, isLookup := ruleset.LookupName(function)
	return isLookup
}

// mapped returns the alternatives with f applied to every value in them.
func mapped(in Alternatives, f func(Value) Value) Alternatives {
	if in == nil {
		return nil
	}
	out := make(Alternatives, len(in))
	for i, v := range in {
		v = f(v)
		if v.Members != nil {
			members := make(map[string]Alternatives, len(v.Members))
			for name, member := range v.Members {
				members[name] = mapped(member, f)
			}
			v.Members = members
		}
		v.Rest, v.others = mapped(v.Rest, f), mapped(v.others, f)
		out[i] = v
	}
	return out
}

// each calls f with every value in the alternatives.
func each(in Alternatives, f func(Value)) {
	for _, v := range in {
		f(v)
		for _, member := range v.Members {
			each(member, f)
		}
		each(v.Rest, f)
		each(v.others, f)
	}
}

// withChecked marks the sources that a body compared with what is allowed.
func withChecked(in Alternatives, checked map[string]bool) Alternatives {
	if len(checked) == 0 || len(unchecked(in, nil)) == 0 {
		return in
	}
	return mapped(in, func(v Value) Value {
		v.Sources = slices.Clone(v.Sources)
		for i, s := range v.Sources {
			v.Sources[i].checked = s.checked || s.isAmong(checked)
		}
		return v
	})
}

// elements are what is in the sets, arrays and objects among the alternatives.
func elements(in Alternatives) Alternatives {
	_, values := in.Inside()
	return values
}

// at is the element of an array at a position; known is false if the array is not written out.
func (v Value) at(position int) (element Alternatives, known bool) {
	switch {
	case v.ends == nil || v.set:
		return nil, false
	case position < 0 || position >= len(v.ends):
		return nil, true
	}
	return v.Items()[position], true
}

// Items are the elements of an array or a set that is written out, in order; nil if it is not.
func (v Value) Items() []Alternatives {
	if v.ends == nil {
		return nil
	}
	items, start := make([]Alternatives, len(v.ends)), 0
	for i, end := range v.ends {
		items[i], start = v.Rest[start:end], end
	}
	return items
}

// Inside lists the keys and values in what the alternatives may be.
func (in Alternatives) Inside() (keys, values Alternatives) {
	for _, v := range in {
		k, inside := v.Inside()
		keys, values = append(keys, k...), append(values, inside...)
	}
	return keys, values
}

// Inside lists the keys and values in an object, an array or a set. The keys of a set are its elements.
func (v Value) Inside() (keys, values Alternatives) {
	add := func(key, inside ast.Value, path string) {
		at := v.Place
		if at.Data != "" {
			at.Data += path
		}
		keys, values = append(keys, constantOf(key, at)), append(values, constantOf(inside, at))
	}
	switch v.Kind {
	case Object:
		for _, name := range slices.Sorted(maps.Keys(v.Members)) {
			keys, values = append(keys, constantOf(ast.String(name), v.Names[name])), append(values, v.Members[name]...)
		}
		if v.open {
			keys, values = append(keys, Value{Sources: v.Sources, traits: v.keys}), append(values, withSources(v.Rest, v.Sources)...)
			values = append(values, elements(v.others)...)
		}
		return keys, values
	case List:
		rest := withSources(v.Rest, v.Sources)
		if v.set {
			return rest, rest
		}
		for i, e := range rest {
			keys = append(keys, v.positionOf(i, e))
		}
		return keys, rest
	case Unknown:
		e := element(v)
		return Alternatives{{Sources: made(v.Sources, "key"), traits: positionsOf(e)}}, Alternatives{e}
	}
	switch c := v.Constant.(type) {
	case ast.Object:
		for _, key := range c.Keys() {
			add(key.Value, c.Get(key).Value, dataPath(key.Value))
		}
	case *ast.Array:
		for i := range c.Len() {
			add(ast.InternedTerm(i).Value, c.Elem(i).Value, "")
		}
	case ast.Set:
		for _, e := range c.Slice() {
			add(e.Value, e.Value, "")
		}
	}
	return keys, values
}

// positionOf is the position of one of the alternatives in Rest.
func (v Value) positionOf(i int, e Value) Value {
	if v.ends == nil {
		return Value{Sources: made(e.Sources, "key"), traits: positionsOf(e)}
	}
	position, _ := slices.BinarySearch(v.ends, i+1)
	return constantOf(ast.InternedTerm(position).Value, v.Place)
}

// positionsOf are the traits of the positions at which such elements are.
func positionsOf(e Value) traits {
	if !e.isAnyLinked() {
		return 0
	}
	return linkedPosition | e.traits&inOrder
}

func dataPath(key ast.Value) string {
	if text, ok := key.(ast.String); ok && ast.IsVarCompatibleString(string(text)) {
		return "." + string(text)
	}
	return "[" + key.String() + "]"
}

// below is a member of an unknown from the request.
func (v Value) below(name string) Value {
	var at *ast.Location
	if len(v.Sources) > 0 {
		at = v.Sources[0].Location
	}
	return requestValue(append(slices.Clip(v.Request), name), at)
}

// element is some element of an unknown.
func element(v Value) Value {
	if v.Request != nil {
		return v.below(AnyMember)
	}
	e := Value{Sources: membersOf(v.Sources, AnyMember), ByPosition: v.ByPosition, traits: v.traits & letterCase}
	switch {
	case v.traits&linkedList != 0:
		e.traits |= linkedHub | inOrder
	case v.traits&linkedByName != 0:
		e.traits |= linkedHub
	}
	if v.declared != nil {
		e.declared = types.Values(v.declared)
	}
	return e
}

// isAnyLinked reports whether v is a linked hub that the rule does not name.
func (v Value) isAnyLinked() bool { return v.traits&(linkedHub|named) == linkedHub }

// isWritten reports whether the rule or its data say which keys a collection has.
func (v Value) isWritten() bool { return v.Kind == Object && !v.open || v.ends != nil }

// requestValue is the value at a path of the request.
func requestValue(path []string, at *ast.Location) Value {
	v := Value{Request: path, Sources: []Source{{Pointer: pointerTo(path...), Location: at}}}
	switch {
	case len(path) == 0:
	case path[0] == "linkedHubs" && len(path) == 1:
		v.traits = linkedList
	case path[0] == "linkedHubs":
		v.traits = linkedHub | inOrder
		v.Request, v.Sources[0].Pointer = nil, "/linkedHubs" // a host name; there is nothing below it
	case len(path) == 2 && isIdentifier(path[1]):
		v.traits = anyCase
	}
	return v
}

func (v Value) isCurrentHub() bool {
	return v.traits&letterCase != 0 && slices.ContainsFunc(v.Sources, func(s Source) bool {
		return s.Pointer == "/deviceRuntimeContext/currentIotHubHostName"
	})
}

// isIdentifier reports whether DPS compares the member of this name without case.
func isIdentifier(name string) bool {
	switch name {
	case "registrationId", "enrollmentGroupId", "currentIotHubHostName", "currentDeviceId":
		return true
	}
	return false
}

// pointerTo writes a path as a JSON pointer.
func pointerTo(path ...string) string {
	var pointer jsontext.Pointer
	for _, step := range path {
		pointer = pointer.AppendToken(step)
	}
	return string(pointer)
}

// Sources are the parts of the request anywhere in what a term may be.
func Sources(in Alternatives) []Source { return sourcesOf(in) }
