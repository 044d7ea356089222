package dataflow

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// builtin is the call of a built-in function. What it makes of a device's word stays
// the device's word, unless there is a reason below why not. Asserted says that the
// body goes on only if the answer is true.
func (f *flow) builtin(name string, args []*ast.Term, values []Alternatives, asserted bool, s *scope) Alternatives {
	if slices.ContainsFunc(values, func(v Alternatives) bool { return len(v) == 0 }) {
		return nil // of something undefined
	}
	if !builds(name) {
		f.meet(name, values...)
	}
	switch name {
	case "internal.member_2", "internal.member_3":
		f.member(args, values, asserted, s)
		return unknownOf(nil, 0)
	case "neq":
		f.compareCase(values[0], values[1])
		f.compareCase(values[1], values[0])
		f.exclude(args[0], values[1], s)
		f.exclude(args[1], values[0], s)
		return unknownOf(nil, 0)
	case "startswith", "endswith", "contains", "glob.match", "regex.match", "strings.any_prefix_match", "strings.any_suffix_match":
		for i := range args {
			for j := range args {
				if i == j {
					continue
				}
				if name != "regex.match" { // whose pattern may say that case does not matter
					f.compareCase(values[i], append(slices.Clip(values[j]), elements(values[j])...))
				}
				if asserted {
					f.relate(args[i], args[j], s)
				}
			}
		}
		return unknownOf(nil, 0)
	case "equal":
		f.compareCase(values[0], values[1])
		f.compareCase(values[1], values[0])
		return unknownOf(nil, 0)
	case "lower", "upper", "trim_space":
		return f.spelling(name, values[0])
	case "object.get":
		found := f.path(values[0], values[1], s)
		f.read(found)
		return append(found, values[2]...)
	case "object.union":
		return union(values[0], values[1])
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
		if !isNumeric(values[0]) {
			return asList(values[0])
		}
	case "array.reverse", "sort", "array.slice":
		return asList(values[0])
	case "usher.linked":
		return unknownOf(sourcesOf(values[0]), linkedByName)
	case "usher.matching":
		for _, pattern := range values[0] {
			if text, ok := pattern.Text(); ok {
				f.HubNames = append(f.HubNames, HubName{Name: text, Pattern: true, Place: f.usable(pattern.Place)})
			}
		}
		return Alternatives{{Kind: List, Rest: unknownOf(addSources(sourcesOf(values[0]), sourcesOf(values[1])...), linkedHub)}}
	case "usher.choose":
		f.meet(name, values[1], values[2])
		return f.choose(values[1], values[2])
	case "usher.fraction":
		return unknownOf(nil, 0) // where a key comes to lie is nobody's choice
	}
	var says []Source
	for _, v := range values {
		says = addSources(says, sourcesOf(v)...)
	}
	return unknownOf(made(says, name), 0)
}

// builds reports whether a function makes something new of its operands, so that they meet without being compared.
func builds(function string) bool {
	switch function {
	case "concat", "sprintf", "object.get", "object.union", "object.union_n", "object.remove", "json.remove", "json.patch",
		"json.filter", "array.concat", "count", "usher.choose":
		return true
	}
	return false
}

// member is x in xs.
func (f *flow) member(args []*ast.Term, values []Alternatives, asserted bool, s *scope) {
	collection := values[len(values)-1]
	names := append(elements(collection), collection...)
	for i, v := range values[:len(values)-1] {
		f.compareCase(v, names)
		if !asserted {
			continue
		}
		if trusted(collection, s) {
			s.check(v)
		}
		f.relate(args[i], args[len(args)-1], s)
	}
}

// exclude takes from a variable what it is compared unequal to, as in text != "".
func (f *flow) exclude(t *ast.Term, what Alternatives, s *scope) {
	v, ok := t.Value.(ast.Var)
	if !ok || len(what) != 1 || what[0].Kind != Constant {
		return
	}
	if now, bound := s.vars[v]; bound {
		s.vars[v] = slices.DeleteFunc(slices.Clone(now), func(v Value) bool {
			return v.Kind == Constant && v.Constant.Compare(what[0].Constant) == 0
		})
	}
}

// spelling is a function that leaves a text the same but for case or spaces.
func (f *flow) spelling(name string, in Alternatives) Alternatives {
	return mapped(in, func(v Value) Value {
		text, ok := v.Text()
		switch {
		case ok && name == "lower":
			v.Constant = ast.String(strings.ToLower(text))
		case ok && name == "upper":
			v.Constant = ast.String(strings.ToUpper(text))
		case ok:
			v.Constant = ast.String(strings.TrimSpace(text))
		}
		v.Request = nil
		if name != "trim_space" {
			v.traits &^= anyCase | lowerCase
		}
		if name == "lower" && v.Kind == Unknown {
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
		for _, key := range pathKeys(p) {
			if f.exhausted() {
				return unknownOf(nil, 0)
			}
			var next Alternatives
			for _, v := range now {
				next = append(next, f.lookUp(v, key, s)...)
			}
			now = bounded(next)
		}
		out = append(out, now...)
	}
	return bounded(out)
}

func pathKeys(p Value) Alternatives {
	switch array, ok := p.Constant.(*ast.Array); {
	case p.Kind == Constant && ok:
		_, keys := ConstantMembers(constantOf(array, p.Place))
		return keys
	case p.Kind == List:
		return p.Rest
	}
	return Alternatives{p}
}

// union is object.union, in which the right side wins.
func union(left, right Alternatives) Alternatives {
	var out Alternatives
	for _, l := range asObjects(left) {
		for _, r := range asObjects(right) {
			if len(out) >= maxUnions {
				return unknownOf(addSources(sourcesOf(left), sourcesOf(right)...), 0)
			}
			merged := Value{Kind: Object, Members: maps.Clone(l.Members), open: l.open || r.open,
				Rest: append(slices.Clip(l.Rest), r.Rest...), Sources: addSources(l.Sources, r.Sources...), Place: r.Place}
			for name, member := range r.Members {
				merged.Members[name] = unionMember(l, merged.Members[name], member)
			}
			out = append(out, weighed(merged))
		}
	}
	return bounded(out)
}

// maxUnions bounds how many pairs of objects are merged.
const maxUnions = 64

func unionMember(of Value, left, right Alternatives) Alternatives {
	if slices.ContainsFunc(right, func(v Value) bool { return !v.IsObject() }) {
		return right
	}
	if left == nil {
		if of.open { // there may be such a member, which then is merged
			return mapped(right, func(v Value) Value { v.open = v.open || v.Kind == Object; return v })
		}
		return right
	}
	if slices.ContainsFunc(left, func(v Value) bool { return !v.IsObject() }) {
		return append(slices.Clip(left), right...)
	}
	return union(left, right)
}

func isObject(v Value) bool {
	_, ok := v.Constant.(ast.Object)
	return v.Kind == Object || v.Kind == Constant && ok
}

// asObjects spreads constants out, and takes an unknown for an object of unknown members.
func asObjects(in Alternatives) Alternatives {
	out := make(Alternatives, 0, len(in))
	for _, v := range in {
		if v.Kind == Object {
			out = append(out, v)
			continue
		}
		o := Value{Kind: Object, Members: map[string]Alternatives{}, Sources: v.Sources, Place: v.Place}
		if v.Kind == Constant {
			keys, values := ConstantMembers(v)
			for i, key := range keys {
				if name, ok := key.Text(); ok {
					o.Members[name] = Alternatives{values[i]}
				}
			}
		} else {
			o.open = true
			o.Rest = Alternatives{element(v)}
		}
		out = append(out, weighed(o))
	}
	return out
}

func asList(in Alternatives) Alternatives {
	out := Value{Kind: List, Rest: elements(in)}
	for _, v := range in {
		if v.traits&linkedList != 0 {
			out.traits |= linkedList
		}
	}
	return Alternatives{weighed(out)}
}

func isNumeric(in Alternatives) bool {
	return slices.ContainsFunc(in, func(v Value) bool {
		_, number := v.Constant.(ast.Number)
		return v.Kind == Constant && number
	})
}

// choose is usher.choose: one of the hubs that are named. The key only settles
// which, so a device's word in it is no choice of the device's.
func (f *flow) choose(hubs, linked Alternatives) Alternatives {
	says := sourcesOf(linked)
	byPosition := false
	name := func(v Value) {
		if text, ok := v.Text(); ok {
			f.HubNames = append(f.HubNames, HubName{Name: text, Pattern: strings.ContainsAny(text, "*?"), Place: f.usable(v.Place)})
		}
		says = addSources(says, v.Sources...)
		byPosition = byPosition || v.ByPosition
	}
	for _, v := range hubs {
		says = addSources(says, v.Sources...)
		switch {
		case v.Kind == Object:
			for _, member := range slices.Sorted(maps.Keys(v.Members)) {
				if !isZero(v.Members[member]) {
					name(constantOf(ast.String(member), v.Names[member]))
				}
			}
		case v.IsObject():
			keys, weights := ConstantMembers(v)
			for i, key := range keys {
				if !isZero(weights[i : i+1]) {
					name(key)
				}
			}
		default:
			for _, e := range elements(Alternatives{v}) {
				name(e)
			}
		}
	}
	return Alternatives{{Sources: says, ByPosition: byPosition, traits: linkedHub}}
}

// isZero tells a hub that gets no devices, which may well be unlinked.
func isZero(weight Alternatives) bool {
	for _, v := range weight {
		number, ok := v.Constant.(ast.Number)
		if v.Kind != Constant || !ok {
			return false
		}
		if f, ok := number.Float64(); !ok || f != 0 {
			return false
		}
	}
	return true
}
