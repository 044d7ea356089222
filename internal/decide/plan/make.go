package plan

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// making makes the closure of a statement that builds a collection; nil if it is another one.
func (l *linker) making(statement ir.Stmt) step {
	at := l.place(statement.GetLocation())
	switch s := statement.(type) {
	case *ir.MakeArrayStmt:
		target, capacity := l.use(s.Target), int(s.Capacity)
		return func(f *frame) jump {
			f.registers[target] = &array{elements: make([]value, 0, capacity)}
			return f.made(arrayBytes+valueBytes*capacity, at)
		}
	case *ir.MakeObjectStmt:
		target, members := l.use(s.Target), min(l.added[s.Target], many)
		return func(f *frame) jump {
			f.registers[target] = &object{members: make([]Member, 0, members)}
			return f.made(objectBytes, at)
		}
	case *ir.MakeSetStmt:
		target := l.use(s.Target)
		return func(f *frame) jump {
			f.registers[target] = ast.NewSet()
			return f.made(objectBytes, at)
		}
	case *ir.ArrayAppendStmt:
		element, target := l.operand(s.Value), l.use(s.Array)
		return func(f *frame) jump {
			v := element.of(f)
			a, ok := f.registers[target].(*array)
			if !ok || v == nil {
				return leave
			}
			a.elements, a.term = append(a.elements, v), nil
			return f.made(valueBytes, at)
		}
	case *ir.SetAddStmt:
		element, target := l.operand(s.Value), l.use(s.Set)
		return func(f *frame) jump {
			v := element.of(f)
			set, ok := f.registers[target].(ast.Set)
			if !ok || v == nil {
				return leave
			}
			set.Add(f.term(v))
			return f.made(elementBytes, at)
		}
	case *ir.ObjectInsertStmt:
		key, member, target := l.operand(s.Key), l.operand(s.Value), l.use(s.Object)
		return func(f *frame) jump {
			k, v := key.of(f), member.of(f)
			if k == nil || v == nil {
				return leave
			}
			f.registers[target] = f.insert(f.registers[target], k, v)
			return f.made(elementBytes, at)
		}
	case *ir.ObjectInsertOnceStmt:
		key, member, target := l.operand(s.Key), l.operand(s.Value), l.use(s.Object)
		return func(f *frame) jump {
			k, v := key.of(f), member.of(f)
			if k == nil || v == nil {
				return leave
			}
			if before := f.member(f.registers[target], k); before != nil && !f.equal(before, v) {
				return f.unclear() // one key gets different values
			}
			f.registers[target] = f.insert(f.registers[target], k, v)
			return f.made(elementBytes, at)
		}
	case *ir.ObjectMergeStmt:
		a, b, target := l.use(s.A), l.use(s.B), l.use(s.Target)
		return func(f *frame) jump {
			merged := f.merge(f.registers[a], f.registers[b])
			f.registers[target] = merged
			return f.made(size(merged), at)
		}
	}
	return nil
}

// insert adds a member to an object that the plan is making. A key that is no string makes it one of OPA's.
func (t *terms) insert(into, key, member value) value {
	switch into := into.(type) {
	case *object:
		if name, ok := Text(key); ok {
			into.set(name, member)
			return into
		}
		changed := ast.NewObject()
		for _, m := range into.members {
			changed.Insert(ast.StringTerm(m.Name), t.term(m.Value))
		}
		changed.Insert(t.term(key), t.term(member))
		return changed
	case ast.Object:
		into.Insert(t.term(key), t.term(member))
	}
	return into
}

// merge adds the members of two objects, and what is in both if these are objects themselves. The first one counts
// where they disagree.
func (t *terms) merge(a, b value) value {
	if !IsObject(a) || !IsObject(b) {
		return a
	}
	merged := &object{members: make([]Member, 0, length(a)+length(b))}
	if fields(a, func(name string, member value) {
		if other := t.named(b, name); other != nil {
			member = t.merge(member, other)
		}
		merged.set(name, member)
	}) && fields(b, func(name string, member value) {
		if t.named(a, name) == nil {
			merged.set(name, member)
		}
	}) {
		return merged
	}
	return t.mergeAny(a, b)
}

// mergeAny merges objects with any keys.
func (t *terms) mergeAny(a, b value) value {
	merged := ast.NewObject()
	Each(b, func(key, member value) bool {
		merged.Insert(t.term(key), t.term(member))
		return true
	})
	Each(a, func(key, member value) bool {
		if other := t.member(b, key); other != nil {
			member = t.merge(member, other)
		}
		merged.Insert(t.term(key), t.term(member))
		return true
	})
	return merged
}
