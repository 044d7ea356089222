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
	case "neq":
		f.compareCase(values[0], values[1])
		s.exclude(args[0], values[1])
		s.exclude(args[1], values[0])
	case "equal":
		f.compareCase(values[0], values[1])
	case "startswith", "endswith", "contains", "glob.match", "regex.match", "strings.any_prefix_match", "strings.any_suffix_match":
		for i := range args {
			for j := range args {
				if i != j && name != "regex.match" { // whose pattern may say that case does not matter
					f.compareCase(values[i], append(slices.Clip(values[j]), elements(values[j])...))
				}
				if i != j && asserted {
					f.relate(args[i], args[j], s)
				}
			}
		}
	case "lower", "upper", "trim_space", "usher.hub_name":
		return spelling(name, values[0])
	case "object.get":
		found := f.path(values[0], values[1], s)
		f.read(found)
		return append(found, values[2]...)
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
			return asList(values[1])
		case trusted(values[0], s):
			return asList(values[0])
		}
		return asList(append(slices.Clip(values[0]), values[1]...))
	case "or", "array.concat":
		return asList(append(slices.Clip(values[0]), values[1]...))
	case "minus":
		if !slices.ContainsFunc(values[0], Value.isNumber) { // else it is of sets
			return asList(values[0])
		}
	case "max":
		return clamped(elements(values[0]), aboveNumber)
	case "min":
		return clamped(elements(values[0]), belowNumber)
	case "array.reverse", "sort", "array.slice":
		return asList(values[0])
	case "usher.linked":
		return unknownOf(sourcesOf(values[0]), linkedByName)
	case "usher.matching":
		for _, pattern := range values[0] {
			f.nameHub(pattern, true)
		}
		return Alternatives{{Kind: List, Rest: unknownOf(addSources(sourcesOf(values[0]), sourcesOf(values[1])...), linkedHub)}}
	case "usher.choose":
		f.meet(name, values[1], values[2])
		return f.choose(values[1], values[2])
	case "usher.fraction":
		return unknownOf(nil, 0) // the device cannot choose where its key is
	}
	return unknownOf(operands(name, values), 0)
}

// operands are the sources of a function's result.
func operands(function string, values []Alternatives) []Source {
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
	collection := values[len(values)-1]
	for i, v := range values[:len(values)-1] {
		f.compareCase(v, append(elements(collection), collection...))
		if asserted && trusted(collection, s) {
			s.check(v)
		}
		if asserted {
			f.relate(args[i], args[len(args)-1], s)
		}
	}
}

// exclude takes from a variable what it is compared unequal to, as in text != "".
func (s *scope) exclude(t *ast.Term, what Alternatives) {
	v, ok := t.Value.(ast.Var)
	if !ok || len(what) != 1 || what[0].Kind != Constant || s.vars[v] == nil {
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
			v.traits &^= anyCase | lowerCase
		}
		if (name == "lower" || name == "usher.hub_name") && v.Kind == Unknown {
			v.traits |= lowerCase
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

// choose is usher.choose: one of the hubs that are named. The key only settles which one, so a device's word in it is
// no choice of the device's.
func (f *flow) choose(hubs, linked Alternatives) Alternatives {
	chosen := Value{Sources: sourcesOf(linked), traits: linkedHub}
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
