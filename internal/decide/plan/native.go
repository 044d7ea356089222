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
	"is_string":         isKind(func(v value) bool { _, ok := text(v); return ok }),
	"is_number":         isKind(func(v value) bool { _, ok := number(v); return ok }),
	"is_boolean":        isKind(func(v value) bool { _, ok := boolean(v); return ok }),
	"is_object":         isKind(isObject),
	"is_array":          isKind(isArray),
	"is_set":            isKind(isSet),
	"neq":               func(t *terms, a []value) value { return truth(!t.equal(a[0], a[1])) },
	"equal":             func(t *terms, a []value) value { return truth(t.equal(a[0], a[1])) },
	"gt":                order(func(c int) bool { return c > 0 }),
	"gte":               order(func(c int) bool { return c >= 0 }),
	"lt":                order(func(c int) bool { return c < 0 }),
	"lte":               order(func(c int) bool { return c <= 0 }),
	"object.get":        objectGet,
	"object.union":      objectUnion,
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
		s, ok := text(a[0])
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
		x, ok := text(a[0])
		y, also := text(a[1])
		if !ok || !also {
			return nil
		}
		return truth(is(x, y))
	}
}

func order(is func(int) bool) native {
	return func(t *terms, a []value) value {
		x, ok := text(a[0])
		y, also := text(a[1])
		if ok && also {
			return truth(is(strings.Compare(x, y)))
		}
		return truth(is(t.value(a[0]).Compare(t.value(a[1]))))
	}
}

func concat(t *terms, a []value) value {
	between, ok := text(a[0])
	if !ok || !isArray(a[1]) {
		return nil
	}
	var joined strings.Builder
	fits, first := true, true
	t.each(a[1], func(_, element value) bool {
		var s string
		if s, fits = text(element); !fits {
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
	if !isObject(a[0]) {
		return nil
	}
	found := a[0]
	if !isArray(a[1]) {
		found = t.member(found, a[1])
	} else {
		t.each(a[1], func(_, step value) bool {
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
	if !isObject(a[0]) || !isObject(a[1]) {
		return nil
	}
	return t.merge(a[1], a[0])
}

func isMember(t *terms, a []value) value {
	if set, ok := a[1].(ast.Set); ok {
		return truth(set.Contains(t.term(a[0])))
	}
	found := false
	t.each(a[1], func(_, element value) bool {
		found = t.equal(a[0], element)
		return !found
	})
	return truth(found)
}

// callNative calls a native, and OPA's own function if that declines.
func (l *linker) callNative(native native, called *builtin, arguments []operand, target int, at *ast.Location) step {
	return func(f *frame) jump {
		values := f.arguments[:len(arguments)]
		for i := range arguments {
			if values[i] = arguments[i].of(f); values[i] == nil {
				return leave
			}
		}
		result := native(&f.terms, values)
		if result == nil {
			return f.callTopdown(called, arguments, target, at)
		}
		f.registers[target] = result
		return f.made(size(result), at)
	}
}
