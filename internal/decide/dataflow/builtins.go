package dataflow

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/dps"
)

// builtin is the call of a built-in function. What it makes of a device's word stays the device's word, unless there is
// a reason below why not. If asserted is set, the body goes on only if the result is true.
func (f *flow) builtin(name string, args []*ast.Term, values []Alternatives, asserted bool, s *scope) Alternatives {
	if slices.ContainsFunc(values, func(v Alternatives) bool { return len(v) == 0 }) {
		return nil // of something undefined
	}
	switch {
	case name == member, name == memberWithKey:
		within := elements(values[len(values)-1])
		f.read(within)
		f.meet(name, append(values[:len(values)-1:len(values)-1], within)...)
	case !builds(name):
		f.meet(name, values...)
	}
	switch name {
	case member, memberWithKey:
		f.member(args, values, asserted, s)
	case "neq", "equal", "lt", "lte", "gt", "gte":
		f.compareCase(values[0], values[1])
		if asserted {
			f.choosePosition(args[0], args[1], s)
			f.choosePosition(args[1], args[0], s)
		}
		if name == "neq" {
			s.exclude(args[0], values[1])
			s.exclude(args[1], values[0])
		}
	case "startswith", "endswith", "contains", "strings.any_prefix_match", "strings.any_suffix_match",
		"trim_prefix", "trim_suffix", "indexof", "indexof_n", "strings.count":
		f.compareCase(values[0], append(slices.Clip(values[1]), elements(values[1])...))
		f.compareCase(append(slices.Clip(values[0]), elements(values[0])...), values[1])
	case "glob.match":
		f.compareCase(values[0], values[2])
	case "lower", "upper", "trim_space", "usher.hub_name":
		return spelling(name, values[0])
	case "object.get":
		found := f.path(values[0], values[1], s)
		f.read(found)
		return append(found, values[2]...)
	case "object.keys":
		keys, _ := values[0].Inside()
		return Alternatives{weighed(Value{Kind: List, set: true, Rest: keys})}
	case "object.union":
		return union(values[0], values[1])
	case "object.union_n":
		if len(values[0]) == 1 && len(values[0][0].ends) > 0 {
			items := values[0][0].Items()
			merged := items[0]
			for _, next := range items[1:] {
				merged = union(merged, next)
			}
			return merged
		}
	case "and": // of sets
		switch {
		case trusted(values[1], s):
			return asSet(values[1])
		case trusted(values[0], s):
			return asSet(values[0])
		}
		return asSet(append(slices.Clip(values[0]), values[1]...))
	case "or":
		return asSet(append(slices.Clip(values[0]), values[1]...))
	case "array.concat":
		return asList(append(slices.Clip(values[0]), values[1]...))
	case "minus":
		if !slices.ContainsFunc(values[0], Value.isNumber) { // else it is of sets
			return picked(asSet(values[0]), unchecked(values[1], s.checked))
		}
	case "max", "min":
		among := elements(values[0])
		isPosition := func(v Value) bool { return v.traits&linkedPosition != 0 }
		if !slices.ContainsFunc(among, isPosition) { // else it is one that the order of the linked hubs decides
			return clamped(among, map[string]fact{"max": aboveNumber, "min": belowNumber}[name])
		}
	case "array.reverse":
		return asList(values[0])
	case "array.slice":
		slice := mapped(asList(values[0]), func(v Value) Value {
			v.ByPosition = v.ByPosition || v.traits&inOrder != 0
			return v
		})
		return picked(slice, unchecked(append(slices.Clip(values[1]), values[2]...), s.checked))
	case "sort":
		return unordered(asList(values[0]))
	case "usher.linked":
		return unknownOf(sourcesOf(values[0]), linkedByName)
	case "usher.matching":
		for _, pattern := range values[0] {
			f.nameHub(pattern, true)
		}
		return Alternatives{{Kind: List, set: true, Rest: unknownOf(addSources(sourcesOf(values[0]), sourcesOf(values[1])...), linkedHub)}}
	case "usher.choose":
		f.meet(name, values[1], values[2])
		return f.choose(values[0], values[1], values[2])
	case "usher.fraction":
		return unknownOf(nil, 0) // the device cannot choose where its key is
	}
	if pattern, text, ok := matching(name); ok {
		if name != "glob.match" {
			f.matchCase(values[pattern], values[text])
		}
		if asserted && allows(name, values[pattern]) {
			s.check(values[text])
		}
	}
	if asserted && compares(name) {
		for i := range args {
			for j := range args {
				if i != j {
					f.relate(args[i], args[j], s)
				}
			}
		}
	}
	result := Value{Sources: sourcesBy(name, values)}
	for _, value := range values {
		each(value, func(v Value) {
			result.ByPosition = result.ByPosition || v.ByPosition
			if keepsCase(name) {
				result.traits |= v.traits & letterCase
			}
		})
	}
	return Alternatives{result}
}

// compares reports whether a function compares its operands, so that a hub for which it holds may be picked by another
// operand.
func compares(function string) bool {
	switch function {
	case "startswith", "endswith", "contains", "strings.any_prefix_match", "strings.any_suffix_match", "glob.match", "regex.match",
		"equal", "neq", "lt", "lte", "gt", "gte":
		return true
	}
	return false
}

// keepsCase reports whether a function returns parts of texts.
func keepsCase(function string) bool {
	switch function {
	case "split", "substring", "trim", "trim_left", "trim_right", "trim_prefix", "trim_suffix", "replace", "concat", "sprintf",
		"regex.find_n", "regex.find_all_string_submatch_n", "regex.split", "regex.replace":
		return true
	}
	return false
}

// sourcesBy are the sources of a function's result.
func sourcesBy(function string, values []Alternatives) []Source {
	var sources []Source
	for i, value := range values {
		for _, v := range value {
			by := function
			if keepsMembers(function) && (i > 0 || !v.isPart()) {
				by += " with" // whose members are not those of the result
			}
			sources = addSources(sources, made(sourcesOf(Alternatives{v}), by)...)
		}
	}
	return sources
}

// builds reports whether a function makes something new of its operands, so that they are used together without being
// compared.
func builds(function string) bool {
	switch function {
	case "concat", "sprintf", "object.get", "object.union", "object.union_n", "object.remove", "json.remove", "json.patch",
		"json.filter", "array.concat", "count", "usher.choose":
		return true
	}
	return false
}

// What the compiler makes of x in xs, and of k, x in xs.
const (
	member        = "internal.member_2"
	memberWithKey = "internal.member_3"
)

// member is x in xs.
func (f *flow) member(args []*ast.Term, values []Alternatives, asserted bool, s *scope) {
	last := len(values) - 1
	collection := values[last]
	for i, v := range values[:last] {
		f.compareCase(v, elements(collection))
		if !asserted {
			continue
		}
		if trusted(collection, s) {
			s.check(v)
		}
		f.relate(args[i], args[last], s)
		f.choosePosition(args[i], args[last], s)
	}
}

// exclude takes from a variable what it is compared unequal to, as in text != "".
func (s *scope) exclude(t *ast.Term, what Alternatives) {
	v, ok := t.Value.(ast.Var)
	if !ok || s.negated || len(what) != 1 || what[0].Kind != Constant || s.vars[v] == nil {
		return
	}
	s.vars[v] = slices.DeleteFunc(slices.Clone(s.vars[v]), func(v Value) bool {
		return v.Kind == Constant && v.Constant.Compare(what[0].Constant) == 0
	})
}

// spelling is a function that only changes how a text is written: its case, the spaces around it, or which of a hub's
// names it is.
func spelling(name string, in Alternatives) Alternatives {
	change := map[string]func(string) string{"lower": strings.ToLower, "upper": strings.ToUpper, "trim_space": strings.TrimSpace, "usher.hub_name": dps.HubName}[name]
	return mapped(in, func(v Value) Value {
		if text, ok := v.Text(); ok {
			v.Constant = ast.String(change(text))
		}
		v.Request = nil
		if name != "trim_space" {
			v.traits &^= letterCase
		}
		switch {
		case v.Kind != Unknown:
		case name == "lower", name == "usher.hub_name":
			v.traits |= lowerCase
		case name == "upper":
			v.traits |= upperCase
		}
		return v
	})
}

// path is object.get, whose path is a name or an array of them.
func (f *flow) path(in, path Alternatives, s *scope) Alternatives {
	var out Alternatives
	for _, p := range path {
		now := in
		for _, keys := range steps(p) {
			if f.exhausted() || len(now)*len(keys) > maxAlternatives {
				return unknownOf(addSources(sourcesOf(in), sourcesOf(path)...), 0)
			}
			var next Alternatives
			for _, v := range now {
				for _, key := range keys {
					next = append(next, f.lookUp(v, key, s)...)
				}
			}
			now = bounded(next)
		}
		out = append(out, now...)
	}
	return bounded(out)
}

// steps are what each step of a path may be.
func steps(path Value) []Alternatives {
	if array, ok := path.Constant.(*ast.Array); ok {
		all := make([]Alternatives, array.Len())
		for i := range all {
			all[i] = Alternatives{constantOf(array.Elem(i).Value, path.Place)}
		}
		return all
	}
	if path.ends == nil && path.Kind == List {
		return []Alternatives{unknownOf(sourcesOf(Alternatives{path}), 0)} // some names, of which at least one is used
	}
	if path.ends == nil {
		return []Alternatives{{path}}
	}
	return path.Items()
}

// maxUnions bounds how many pairs of objects are merged.
const maxUnions = 64

// union is object.union, in which the right side prevails.
func union(left, right Alternatives) Alternatives {
	var out Alternatives
	for _, l := range asObjects(left) {
		for _, r := range asObjects(right) {
			if len(out) >= maxUnions {
				return unknownOf(addSources(sourcesOf(left), sourcesOf(right)...), 0)
			}
			merged := Value{Kind: Object, Members: maps.Clone(l.Members), open: l.open || r.open,
				Rest: append(slices.Clip(l.Rest), r.Rest...), others: append(slices.Clip(l.others), r.others...), Sources: addSources(l.Sources, r.Sources...), Place: r.Place}
			for name, member := range r.Members {
				merged.Members[name] = unionMember(l, merged.Members[name], member)
			}
			out = append(out, weighed(merged))
		}
	}
	return bounded(out)
}

func unionMember(of Value, left, right Alternatives) Alternatives {
	isOther := func(v Value) bool { return !v.IsObject() }
	switch {
	case slices.ContainsFunc(right, isOther), left == nil && !of.open:
		return right
	case left == nil: // there may be such a member, which then is merged
		return mapped(right, func(v Value) Value { v.open = v.open || v.Kind == Object; return v })
	case slices.ContainsFunc(left, isOther):
		return append(slices.Clip(left), right...)
	}
	return union(left, right)
}

// asObjects takes constants apart, and an unknown for an object of unknown members.
func asObjects(in Alternatives) Alternatives {
	out := make(Alternatives, 0, len(in))
	for _, v := range in {
		if v.Kind == Object {
			out = append(out, v)
			continue
		}
		o := Value{Kind: Object, Members: map[string]Alternatives{}, Names: map[string]Place{}, Sources: v.Sources, Place: v.Place}
		keys, values := v.Inside()
		for i, key := range keys {
			if name, ok := key.Text(); ok && v.Kind == Constant {
				o.Members[name], o.Names[name] = Alternatives{values[i]}, key.Place
			}
		}
		if v.Kind != Constant {
			o.open, o.others = true, Alternatives{v}
		}
		out = append(out, weighed(o))
	}
	return out
}

func asList(in Alternatives) Alternatives {
	out := Value{Kind: List, Rest: elements(in)}
	for _, v := range in {
		out.traits |= v.traits & linkedList
	}
	return Alternatives{weighed(out)}
}

// picked are linked hubs among which a device's words have picked.
func picked(in Alternatives, words []Source) Alternatives {
	if len(words) == 0 {
		return in
	}
	words = made(words, "picks")
	return mapped(in, func(v Value) Value {
		if v.isAnyLinked() {
			v.Sources = addSources(v.Sources, words...)
		}
		return v
	})
}

func asSet(in Alternatives) Alternatives {
	out := unordered(asList(in))
	out[0].set = out[0].Kind == List
	return out
}

// unordered are lists in an order that does not depend on that of linkedHubs.
func unordered(in Alternatives) Alternatives {
	return mapped(in, func(v Value) Value { v.traits &^= inOrder; return v })
}

// choose is usher.choose: one of the hubs that are named. The key settles which one: a device that can write the key
// can try keys until it gets the hub that it wants.
func (f *flow) choose(key, hubs, linked Alternatives) Alternatives {
	chosen := Value{Sources: addSources(made(sourcesOf(linked), "named"), made(wordsIn(key), "picks")...), traits: linkedHub | named}
	for _, v := range hubs {
		chosen.Sources = addSources(chosen.Sources, v.Sources...)
		names := elements(Alternatives{v})
		if v.IsObject() {
			names = nil
			o := asObjects(Alternatives{v})[0]
			for _, name := range slices.Sorted(maps.Keys(o.Members)) {
				// A hub with weight 0, which gets no devices, may well be unlinked.
				if slices.ContainsFunc(o.Members[name], func(weight Value) bool { return !weight.isZero() }) {
					names = append(names, constantOf(ast.String(name), o.Names[name]))
				}
			}
		}
		for _, name := range names {
			text, _ := name.Text()
			f.nameHub(name, strings.ContainsAny(text, "*?"))
			chosen.Sources = addSources(chosen.Sources, name.Sources...)
			chosen.ByPosition = chosen.ByPosition || name.ByPosition
			if name.Kind != Constant {
				chosen.traits &^= named
			}
		}
	}
	return Alternatives{chosen}
}

// nameHub notes a constant that is used as the name of a hub, or as a pattern for one.
func (f *flow) nameHub(v Value, pattern bool) {
	if name, ok := v.Text(); ok {
		if v.Place.Location == nil || !f.Home[v.Place.Location.File] {
			v.Place.Location = f.anchor
		}
		f.HubNames = append(f.HubNames, HubName{Name: name, Pattern: pattern, Place: v.Place})
	}
}
