package dps

import (
	"encoding/json"
	"slices"
	"strings"
)

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds of JSON.
const (
	Null Kind = iota
	False
	True
	Number
	String
	Array
	Object
)

// Value is a JSON value as it was parsed. It never changes, so a part of it can be kept and shared. A nil *Value is
// one that is not there: it is Null, and has neither text nor members.
//
// All values of one document lie in one piece of memory, of which a map[string]any would take several times as much.
type Value struct {
	name  string // of a member
	text  string // of a string, or of a number as it is written
	below []Value
	kind  Kind
}

// many is the number of members from which they are sorted, so that they can be searched in halves.
const many = 24

// Kind returns the kind of the value.
func (v *Value) Kind() Kind {
	if v == nil {
		return Null
	}
	return v.kind
}

// Text returns the text of a string; "" for any other value.
func (v *Value) Text() string {
	if v == nil || v.kind != String {
		return ""
	}
	return v.text
}

// Number returns a number as it is written; "" for any other value.
func (v *Value) Number() json.Number {
	if v == nil || v.kind != Number {
		return ""
	}
	return json.Number(v.text)
}

// Len returns the number of elements of an array or of members of an object; 0 for any other value.
func (v *Value) Len() int {
	if v == nil {
		return 0
	}
	return len(v.below)
}

// At returns the element or member with this index. Members are in no particular order.
func (v *Value) At(i int) *Value { return &v.below[i] }

// Name returns the name of a member of an object; "" for any other value.
func (v *Value) Name() string {
	if v == nil {
		return ""
	}
	return v.name
}

// Get returns the member of an object with this name; nil if there is none or the value is not an object.
func (v *Value) Get(name string) *Value {
	if v == nil || v.kind != Object {
		return nil
	}
	if len(v.below) > many {
		i, found := slices.BinarySearchFunc(v.below, name, func(member Value, name string) int { return strings.Compare(member.name, name) })
		if !found {
			return nil
		}
		return &v.below[i]
	}
	for i := range v.below {
		if v.below[i].name == name {
			return &v.below[i]
		}
	}
	return nil
}

// StringValue returns a string.
func StringValue(text string) Value { return Value{kind: String, text: text} }

// NumberValue returns a number as it is written.
func NumberValue(number json.Number) Value { return Value{kind: Number, text: string(number)} }

// BoolValue returns true or false.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: True}
	}
	return Value{kind: False}
}

// ArrayValue returns an array, which takes over the elements.
func ArrayValue(elements []Value) Value { return Value{kind: Array, below: elements} }

// ObjectValue returns an object, which takes over the members and puts them in the order of their names. No two may have
// one name.
func ObjectValue(members []Value) Value {
	slices.SortFunc(members, compareNames)
	return Value{kind: Object, below: members}
}

func compareNames(a, b Value) int { return strings.Compare(a.name, b.name) }

// Named returns the value as a member of an object.
func (v Value) Named(name string) Value {
	v.name = name
	return v
}

// ValueOf returns a copy of a value that is made of map[string]any, []any, string, json.Number, bool and nil. Members are
// in the order of their names.
func ValueOf(value any) *Value {
	v := valueOf(value)
	return &v
}

func valueOf(value any) Value {
	switch v := value.(type) {
	case nil:
		return Value{}
	case bool:
		return BoolValue(v)
	case string:
		return StringValue(v)
	case json.Number:
		return NumberValue(v)
	case []any:
		elements := make([]Value, len(v))
		for i, element := range v {
			elements[i] = valueOf(element)
		}
		return ArrayValue(elements)
	case map[string]any:
		members := make([]Value, 0, len(v))
		for name, member := range v {
			members = append(members, valueOf(member).Named(name))
		}
		return ObjectValue(members)
	}
	panic("dps: not a JSON value") // a bug in the caller
}

// Interface returns a copy of the value, made of map[string]any, []any, string, json.Number, bool and nil.
func (v *Value) Interface() any {
	switch v.Kind() {
	case Null:
		return nil
	case Number:
		return json.Number(v.text)
	case String:
		return v.text
	case Array:
		list := make([]any, len(v.below))
		for i := range v.below {
			list[i] = v.below[i].Interface()
		}
		return list
	case Object:
		members := make(map[string]any, len(v.below))
		for i := range v.below {
			members[v.below[i].name] = v.below[i].Interface()
		}
		return members
	default:
		return v.kind == True
	}
}

// AppendJSON appends the value to b.
func (v *Value) AppendJSON(b []byte) []byte {
	switch v.Kind() {
	case Null:
		return append(b, "null"...)
	case False:
		return append(b, "false"...)
	case True:
		return append(b, "true"...)
	case Number:
		return append(b, v.text...)
	case String:
		return AppendString(b, v.text)
	}
	first, last := byte('['), byte(']')
	if v.kind == Object {
		first, last = '{', '}'
	}
	b = append(b, first)
	for i := range v.below {
		if i > 0 {
			b = append(b, ',')
		}
		if v.kind == Object {
			b = append(AppendString(b, v.below[i].name), ':')
		}
		b = v.below[i].AppendJSON(b)
	}
	return append(b, last)
}

// With returns a copy of an object with a member set. A new one is put where the order of names wants it.
func (v *Value) With(name string, member Value) *Value {
	below := slices.Clone(v.below)
	at := slices.IndexFunc(below, func(other Value) bool { return other.name == name })
	if at < 0 {
		at, _ = slices.BinarySearchFunc(below, name, func(other Value, name string) int { return strings.Compare(other.name, name) })
		below = slices.Insert(below, at, Value{})
	}
	below[at] = member.Named(name)
	return &Value{name: v.name, kind: Object, below: ordered(below)}
}

// ordered puts members in the order that Get expects.
func ordered(members []Value) []Value {
	if len(members) > many {
		slices.SortFunc(members, compareNames)
	}
	return members
}
