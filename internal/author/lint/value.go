package lint

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// alternatives are what a term may be, one for each way to get there. None at all
// means that it is undefined.
type alternatives []value

// value is what is known, without any request, of something that a rule computes.
type value struct {
	kind     kind
	constant ast.Value               // of a constant
	place    place                   // of a constant: where it is written
	members  map[string]alternatives // of an object
	names    map[string]place        // where its members' names are written
	rest     alternatives            // of an object: its members of unknown name; of a list: its elements
	open     bool                    // an object that may have members beside those in members
	request  []string                // of an unknown out of the request: its path; anyMember stands for any name
	says     []source                // the device's own words in it
	traits   traits
	weight   int // how many values are in it; 0 for itself alone
}

// weighed counts what is in an object or a list. One that holds too much to be told apart
// becomes an unknown; without that, thirty lines of Rego can make a value of a billion.
func weighed(v value) value {
	weight := 1 + weightOf(v.rest)
	for _, member := range v.members {
		weight += weightOf(member)
	}
	if weight > maxAlternatives {
		return value{says: saysOf(alternatives{v})}
	}
	v.weight = weight
	return v
}

func weightOf(in alternatives) int {
	weight := 0
	for _, v := range in {
		weight += max(v.weight, 1)
	}
	return weight
}

type kind int

const (
	unknown  kind = iota
	constant      // a scalar, or what a data file holds
	object
	list // an array or a set
)

// traits are facts about an unknown that its origin tells.
type traits uint8

const (
	linkedHub    traits = 1 << iota // one of input.linkedHubs
	linkedList                      // input.linkedHubs, or some of them
	linkedByName                    // what usher.linked answers: any name that is linked leads to a hub
	byPosition                      // taken from linkedHubs by a number
	anyCase                         // an identifier in whatever case the device or the operator wrote
	lowerCase                       // a text that has no capitals
)

// anyMember stands in a path of the request for a member whose name is not known.
const anyMember = "*"

// place is where a constant or a device's word enters a rule.
type place struct {
	location *ast.Location
	data     string // the path in a data file that a constant comes from, such as data.tenants.contoso
}

// source is a word of the device's: something out of its payload.
type source struct {
	key      string // the path below payload, then |NAME for each function that made something else of it
	location *ast.Location
}

// name is how an author knows it.
func (s source) name() string {
	name, _, _ := strings.Cut(s.key, "|")
	return name
}

// covers reports whether what is known of the word named by key is known of s too.
func (s source) coveredBy(key string) bool {
	return s.key == key || strings.HasPrefix(s.key, key) && strings.ContainsAny(s.key[len(key):len(key)+1], "|.[")
}

func unknownOf(says []source, t traits) alternatives {
	return alternatives{{says: says, traits: t}}
}

func constantOf(v ast.Value, at place) value { return value{kind: constant, constant: v, place: at} }

// text returns the text of a constant string.
func (v value) text() (string, bool) {
	s, ok := v.constant.(ast.String)
	return string(s), v.kind == constant && ok
}

// isFalse reports whether v can only be false.
func (v value) isFalse() bool {
	b, ok := v.constant.(ast.Boolean)
	return v.kind == constant && ok && !bool(b)
}

// saysOf collects the device's words anywhere in what a term may be.
func saysOf(in alternatives) []source {
	var all []source
	for _, v := range in {
		all = addSays(all, v.says...)
		for _, name := range slices.Sorted(maps.Keys(v.members)) {
			all = addSays(all, saysOf(v.members[name])...)
		}
		all = addSays(all, saysOf(v.rest)...)
	}
	return all
}

// maxSays bounds how many words are told apart. One is enough for a finding.
const maxSays = 32

func addSays(to []source, more ...source) []source {
	for _, s := range more {
		if len(to) < maxSays && !slices.ContainsFunc(to, func(other source) bool { return other.key == s.key }) {
			to = append(slices.Clip(to), s)
		}
	}
	return to
}

func withSays(in alternatives, says []source) alternatives {
	out := make(alternatives, len(in))
	for i, v := range in {
		v.says = addSays(v.says, says...)
		out[i] = v
	}
	return out
}

// processed marks words of which a function made something else.
func processed(says []source, by string) []source {
	out := make([]source, len(says))
	for i, s := range says {
		out[i] = source{key: s.key + "|" + by, location: s.location}
	}
	return out
}

// mapped returns the alternatives with f applied to every value in them.
func mapped(in alternatives, f func(value) value) alternatives {
	if in == nil {
		return nil
	}
	out := make(alternatives, len(in))
	for i, v := range in {
		v = f(v)
		if v.members != nil {
			members := make(map[string]alternatives, len(v.members))
			for name, member := range v.members {
				members[name] = mapped(member, f)
			}
			v.members = members
		}
		v.rest = mapped(v.rest, f)
		out[i] = v
	}
	return out
}

// without leaves out the words that were held against what is allowed.
func without(in alternatives, cleared map[string]bool) alternatives {
	if len(cleared) == 0 || len(saysOf(in)) == 0 {
		return in
	}
	return mapped(in, func(v value) value {
		v.says = slices.DeleteFunc(slices.Clone(v.says), func(s source) bool {
			for key := range cleared {
				if s.coveredBy(key) {
					return true
				}
			}
			return false
		})
		return v
	})
}

// elements are what is in the sets and arrays among the alternatives.
func elements(in alternatives) alternatives {
	var out alternatives
	for _, v := range in {
		switch v.kind {
		case list:
			out = append(out, withSays(v.rest, v.says)...)
		case constant:
			_, inside := constantMembers(v)
			out = append(out, inside...)
		case object:
			for _, name := range slices.Sorted(maps.Keys(v.members)) {
				out = append(out, v.members[name]...)
			}
			out = append(out, v.rest...)
		default:
			out = append(out, element(v))
		}
	}
	return out
}

// below is a member of an unknown out of the request.
func (v value) below(name string) value {
	var at *ast.Location
	if len(v.says) > 0 {
		at = v.says[0].location
	}
	return requestValue(append(slices.Clip(v.request), name), at)
}

// element is some element of an unknown.
func element(v value) value {
	if v.request != nil {
		return v.below(anyMember)
	}
	e := value{says: v.says}
	if v.traits&(linkedList|linkedByName) != 0 {
		e.traits = linkedHub
	}
	return e
}

// constantMembers lists the keys and values in a constant; keys are the elements
// themselves for a set.
func constantMembers(v value) (keys, values alternatives) {
	add := func(key, inside ast.Value, path string) {
		at := v.place
		if at.data != "" {
			at.data += path
		}
		keys = append(keys, constantOf(key, at))
		values = append(values, constantOf(inside, at))
	}
	switch c := v.constant.(type) {
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

func dataPath(key ast.Value) string {
	if text, ok := key.(ast.String); ok && ast.IsVarCompatibleString(string(text)) {
		return "." + string(text)
	}
	return "[" + key.String() + "]"
}

// isIdentifier reports whether a path of the request leads to something that DPS
// compares without case.
func isIdentifier(path []string) bool {
	switch path[len(path)-1] {
	case "registrationId", "enrollmentGroupId", "currentIotHubHostName", "currentDeviceId":
		return len(path) == 2
	}
	return false
}

// requestValue is the value at a path of the request.
func requestValue(path []string, at *ast.Location) value {
	v := value{request: path}
	switch {
	case len(path) == 0:
	case len(path) >= 2 && path[0] == "deviceRuntimeContext" && path[1] == "payload":
		v.says = []source{{key: strings.Join(path[1:], "."), location: at}}
	case path[0] == "linkedHubs" && len(path) == 1:
		v.traits = linkedList
	case path[0] == "linkedHubs":
		v.traits = linkedHub
		if path[1] != anyMember {
			v.traits |= byPosition
		}
		v.request = nil // a host name; there is nothing below it
	case isIdentifier(path):
		v.traits = anyCase
	}
	return v
}
