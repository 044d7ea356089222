package lint

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// builtin is the call of a built-in function. What it makes of a device's word stays
// the device's word, unless there is a reason below why not. Asserted says that the
// body goes on only if the answer is true.
func (f *flow) builtin(name string, args []*ast.Term, values []alternatives, asserted bool, s *scope) alternatives {
	if slices.ContainsFunc(values, func(v alternatives) bool { return len(v) == 0 }) {
		return nil // of something undefined
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
		return append(f.path(values[0], values[1], s), values[2]...)
	case "object.union":
		return union(values[0], values[1])
	case "and": // of sets
		switch {
		case f.trusted(values[1], s):
			return asList(values[1])
		case f.trusted(values[0], s):
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
		return unknownOf(saysOf(values[0]), linkedByName)
	case "usher.matching":
		for _, pattern := range values[0] {
			if text, ok := pattern.text(); ok {
				f.met.hubs = append(f.met.hubs, hubName{name: text, pattern: true, place: f.usable(pattern.place)})
			}
		}
		return alternatives{{kind: list, rest: unknownOf(addSays(saysOf(values[0]), saysOf(values[1])...), linkedHub)}}
	case "usher.choose":
		return f.choose(values[1], values[2])
	case "usher.fraction":
		return unknownOf(nil, 0) // where a key comes to lie is nobody's choice
	}
	var says []source
	for _, v := range values {
		says = addSays(says, saysOf(v)...)
	}
	return unknownOf(processed(says, name), 0)
}

// member is x in xs.
func (f *flow) member(args []*ast.Term, values []alternatives, asserted bool, s *scope) {
	collection := values[len(values)-1]
	names := append(elements(collection), collection...)
	for i, v := range values[:len(values)-1] {
		f.compareCase(v, names)
		if !asserted {
			continue
		}
		if f.trusted(collection, s) {
			f.clear(v, s)
		}
		f.relate(args[i], args[len(args)-1], s)
	}
}

// exclude takes from a variable what it is compared unequal to, as in text != "".
func (f *flow) exclude(t *ast.Term, what alternatives, s *scope) {
	v, ok := t.Value.(ast.Var)
	if !ok || len(what) != 1 || what[0].kind != constant {
		return
	}
	if now, bound := s.vars[v]; bound {
		s.vars[v] = slices.DeleteFunc(slices.Clone(now), func(v value) bool {
			return v.kind == constant && v.constant.Compare(what[0].constant) == 0
		})
	}
}

// spelling is a function that leaves a text the same but for case or spaces.
func (f *flow) spelling(name string, in alternatives) alternatives {
	return mapped(in, func(v value) value {
		text, ok := v.text()
		switch {
		case ok && name == "lower":
			v.constant = ast.String(strings.ToLower(text))
		case ok && name == "upper":
			v.constant = ast.String(strings.ToUpper(text))
		case ok:
			v.constant = ast.String(strings.TrimSpace(text))
		}
		v.request = nil
		if name != "trim_space" {
			v.traits &^= anyCase | lowerCase
		}
		if name == "lower" && v.kind == unknown {
			v.traits |= lowerCase
		}
		return v
	})
}

// path is object.get, whose path is a name or an array of them.
func (f *flow) path(in, path alternatives, s *scope) alternatives {
	var out alternatives
	for _, p := range path {
		now := in
		for _, key := range pathKeys(p) {
			if f.exhausted() {
				return unknownOf(nil, 0)
			}
			var next alternatives
			for _, v := range now {
				next = append(next, f.lookUp(v, key, s)...)
			}
			now = bounded(next)
		}
		out = append(out, now...)
	}
	return bounded(out)
}

func pathKeys(p value) alternatives {
	switch array, ok := p.constant.(*ast.Array); {
	case p.kind == constant && ok:
		_, keys := constantMembers(constantOf(array, p.place))
		return keys
	case p.kind == list:
		return p.rest
	}
	return alternatives{p}
}

// union is object.union, in which the right side wins.
func union(left, right alternatives) alternatives {
	var out alternatives
	for _, l := range asObjects(left) {
		for _, r := range asObjects(right) {
			if len(out) >= maxUnions {
				return unknownOf(addSays(saysOf(left), saysOf(right)...), 0)
			}
			merged := value{kind: object, members: maps.Clone(l.members), open: l.open || r.open,
				rest: append(slices.Clip(l.rest), r.rest...), says: addSays(l.says, r.says...), place: r.place}
			for name, member := range r.members {
				merged.members[name] = unionMember(l, merged.members[name], member)
			}
			out = append(out, weighed(merged))
		}
	}
	return bounded(out)
}

// maxUnions bounds how many pairs of objects are merged.
const maxUnions = 64

func unionMember(of value, left, right alternatives) alternatives {
	if slices.ContainsFunc(right, func(v value) bool { return !isObject(v) }) {
		return right
	}
	if left == nil {
		if of.open { // there may be such a member, which then is merged
			return mapped(right, func(v value) value { v.open = v.open || v.kind == object; return v })
		}
		return right
	}
	if slices.ContainsFunc(left, func(v value) bool { return !isObject(v) }) {
		return append(slices.Clip(left), right...)
	}
	return union(left, right)
}

func isObject(v value) bool {
	_, ok := v.constant.(ast.Object)
	return v.kind == object || v.kind == constant && ok
}

// asObjects spreads constants out, and takes an unknown for an object of unknown members.
func asObjects(in alternatives) alternatives {
	out := make(alternatives, 0, len(in))
	for _, v := range in {
		if v.kind == object {
			out = append(out, v)
			continue
		}
		o := value{kind: object, members: map[string]alternatives{}, says: v.says, place: v.place}
		if v.kind == constant {
			keys, values := constantMembers(v)
			for i, key := range keys {
				if name, ok := key.text(); ok {
					o.members[name] = alternatives{values[i]}
				}
			}
		} else {
			o.open = true
			o.rest = alternatives{element(v)}
		}
		out = append(out, weighed(o))
	}
	return out
}

func asList(in alternatives) alternatives {
	out := value{kind: list, rest: elements(in)}
	for _, v := range in {
		if v.traits&linkedList != 0 {
			out.traits |= linkedList
		}
	}
	return alternatives{weighed(out)}
}

func isNumeric(in alternatives) bool {
	return slices.ContainsFunc(in, func(v value) bool {
		_, number := v.constant.(ast.Number)
		return v.kind == constant && number
	})
}

// choose is usher.choose: one of the hubs that are named. The key only settles
// which, so a device's word in it is no choice of the device's.
func (f *flow) choose(hubs, linked alternatives) alternatives {
	says := saysOf(linked)
	var t traits
	name := func(v value) {
		if text, ok := v.text(); ok {
			f.met.hubs = append(f.met.hubs, hubName{name: text, pattern: strings.ContainsAny(text, "*?"), place: f.usable(v.place)})
		}
		says = addSays(says, v.says...)
		t |= v.traits & byPosition
	}
	for _, v := range hubs {
		says = addSays(says, v.says...)
		switch {
		case v.kind == object:
			for _, member := range slices.Sorted(maps.Keys(v.members)) {
				if !isZero(v.members[member]) {
					name(constantOf(ast.String(member), v.names[member]))
				}
			}
		case isObject(v):
			keys, weights := constantMembers(v)
			for i, key := range keys {
				if !isZero(weights[i : i+1]) {
					name(key)
				}
			}
		default:
			for _, e := range elements(alternatives{v}) {
				name(e)
			}
		}
	}
	return unknownOf(says, linkedHub|t)
}

// isZero tells a hub that gets no devices, which may well be unlinked.
func isZero(weight alternatives) bool {
	for _, v := range weight {
		number, ok := v.constant.(ast.Number)
		if v.kind != constant || !ok {
			return false
		}
		if f, ok := number.Float64(); !ok || f != 0 {
			return false
		}
	}
	return true
}
