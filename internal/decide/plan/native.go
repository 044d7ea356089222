package plan

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// native is a function of OPA that works on values as they are. It returns nil for arguments that are better left to
// OPA's own, such as those with which that fails.
type native func(t *terms, arguments []value) value

// natives are functions that rules call all the time. What they do is what package topdown does; the tests compare them.
var natives = map[string]native{
	"lower":      onText(strings.ToLower),
	"upper":      onText(strings.ToUpper),
	"startswith": onTexts(strings.HasPrefix),
	"endswith":   onTexts(strings.HasSuffix),
	"contains":   onTexts(strings.Contains),
	"concat":     concat,
	"count": func(_ *terms, a []value) value {
		if n := length(a[0]); n >= 0 {
			return integer(n)
		}
		return nil
	},
	"is_string":         isKind(func(v value) bool { _, ok := Text(v); return ok }),
	"is_number":         isKind(func(v value) bool { _, ok := Number(v); return ok }),
	"is_boolean":        isKind(func(v value) bool { _, ok := boolean(v); return ok }),
	"is_object":         isKind(IsObject),
	"is_array":          isKind(IsArray),
	"is_set":            isKind(IsSet),
	"neq":               func(t *terms, a []value) value { return truth(!t.equal(a[0], a[1])) },
	"equal":             func(t *terms, a []value) value { return truth(t.equal(a[0], a[1])) },
	"gt":                order(func(c int) bool { return c > 0 }),
	"gte":               order(func(c int) bool { return c >= 0 }),
	"lt":                order(func(c int) bool { return c < 0 }),
	"lte":               order(func(c int) bool { return c <= 0 }),
	"object.get":        objectGet,
	"object.union":      objectUnion,
	"json.remove":       jsonRemove,
	"internal.member_2": isMember,
}

var yes, no value = ast.Boolean(true), ast.Boolean(false)

func truth(b bool) value {
	if b {
		return yes
	}
	return no
}

func isKind(is func(value) bool) native {
	return func(_ *terms, a []value) value { return truth(is(a[0])) }
}

func onText(change func(string) string) native {
	return func(_ *terms, a []value) value {
		s, ok := Text(a[0])
		if !ok {
			return nil
		}
		changed := change(s)
		if changed == s {
			return a[0]
		}
		return changed
	}
}

func onTexts(is func(a, b string) bool) native {
	return func(_ *terms, a []value) value {
		x, ok := Text(a[0])
		y, also := Text(a[1])
		if !ok || !also {
			return nil
		}
		return truth(is(x, y))
	}
}

func order(is func(int) bool) native {
	return func(t *terms, a []value) value {
		x, ok := Text(a[0])
		y, also := Text(a[1])
		if ok && also {
			return truth(is(strings.Compare(x, y)))
		}
		return truth(is(t.value(a[0]).Compare(t.value(a[1]))))
	}
}

func concat(t *terms, a []value) value {
	between, ok := Text(a[0])
	if !ok || !IsArray(a[1]) {
		return nil
	}
	var joined strings.Builder
	fits, first := true, true
	Each(a[1], func(_, element value) bool {
		var s string
		if s, fits = Text(element); !fits {
			return false
		}
		if !first {
			joined.WriteString(between)
		}
		first = false
		joined.WriteString(s)
		return joined.Len() < maxConcat
	})
	if !fits || joined.Len() >= maxConcat {
		return nil
	}
	return joined.String()
}

// maxConcat bounds what is joined here. OPA's own function can be interrupted.
const maxConcat = 64 << 10

func objectGet(t *terms, a []value) value {
	if !IsObject(a[0]) {
		return nil
	}
	found := a[0]
	if !IsArray(a[1]) {
		found = t.member(found, a[1])
	} else {
		Each(a[1], func(_, step value) bool {
			found = t.member(found, step)
			return found != nil
		})
	}
	if found == nil {
		return a[2]
	}
	return found
}

func objectUnion(t *terms, a []value) value {
	if !IsObject(a[0]) || !IsObject(a[1]) {
		return nil
	}
	return t.merge(a[1], a[0])
}

// jsonRemove knows only when there is nothing to remove, as in the twins of most enrollments.
func jsonRemove(t *terms, a []value) value {
	if !IsObject(a[0]) || !IsArray(a[1]) && !IsSet(a[1]) {
		return nil
	}
	nothing := true
	Each(a[1], func(_, path value) bool {
		p, ok := Text(path)
		nothing = ok && !t.mayLead(a[0], p)
		return nothing
	})
	if !nothing {
		return nil
	}
	return a[0]
}

// mayLead reports whether a path, such as a/b, may lead to something in a value.
func (t *terms) mayLead(in value, path string) bool {
	path = strings.TrimLeft(path, "/")
	for {
		step, rest, goesOn := strings.Cut(path, "/")
		if strings.Contains(step, "~") || !IsObject(in) {
			return step != "" && length(in) >= 0 // escaped, or through an array
		}
		if in = t.named(in, step); in == nil || !goesOn {
			return in != nil
		}
		path = rest
	}
}

func isMember(t *terms, a []value) value {
	if set, ok := a[1].(ast.Set); ok {
		return truth(set.Contains(t.term(a[0])))
	}
	found := false
	Each(a[1], func(_, element value) bool {
		found = t.equal(a[0], element)
		return !found
	})
	return truth(found)
}

// callNative calls a native, and OPA's own function if that declines.
func callNative(native native, called *builtin, arguments []operand, target int, at *ast.Location) step {
	return func(f *frame) jump {
		values := f.values(arguments)
		if values == nil {
			return leave
		}
		result := native(&f.terms, values)
		if result == nil {
			return f.callTopdown(called, arguments, target, at)
		}
		f.registers[target] = result
		return f.made(size(result), at)
	}
}
