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
			f.registers[target] = &object{members: make([]member, 0, members)}
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
			f.registers[target] = f.merge(f.registers[a], f.registers[b])
			return next
		}
	}
	return nil
}

// insert adds a member to an object that the plan is making. A key that is no string makes it one of OPA's.
func (t *terms) insert(into, key, member value) value {
	switch into := into.(type) {
	case *object:
		if name, ok := text(key); ok {
			into.set(name, member)
			return into
		}
		changed := ast.NewObject()
		for _, m := range into.members {
			changed.Insert(ast.StringTerm(m.name), t.term(m.value))
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
	if !isObject(a) || !isObject(b) {
		return a
	}
	var merged value = &object{}
	t.each(a, func(key, member value) bool {
		if other := t.member(b, key); other != nil {
			member = t.merge(member, other)
		}
		merged = t.insert(merged, key, member)
		return true
	})
	t.each(b, func(key, member value) bool {
		if t.member(a, key) == nil {
			merged = t.insert(merged, key, member)
		}
		return true
	})
	return merged
}
