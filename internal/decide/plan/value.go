package plan

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/dps"
)

// Value is what a register holds, one of
//
//   - nil: undefined,
//   - a *[dps.Value]: a part of the request as it was parsed, unless that is null,
//   - what the plan makes: an array, an object or a string of its own,
//   - an [ast.Value]: data, sets, what built-in functions return, and null.
//
// So what a rule only looks at or passes on never becomes a term of OPA.
type Value = any

type value = Value

var null value = ast.Null{}

// array is an array that the plan made.
type array struct {
	elements []value
	term     ast.Value // the same for OPA, once it was needed
}

// object is an object that the plan made, all keys of which are strings. Others are an [ast.Object].
type object struct {
	members []Member
	index   map[string]int // of members by name, if there are many
	term    ast.Value
}

// Member is a member of an object.
type Member struct {
	Name  string
	Value Value
}

// NewArray returns an array.
func NewArray(elements ...Value) Value {
	if len(elements) == 0 {
		return ast.InternedEmptyArrayValue
	}
	return &array{elements: elements}
}

// NewObject returns an object of members with different names.
func NewObject(members ...Member) Value {
	o := &object{members: members}
	if len(members) >= many {
		o.reindex()
	}
	return o
}

// many is the number of members from which an index is faster than comparing names.
const many = 12

func (o *object) find(name string) int {
	if o.index != nil {
		if i, ok := o.index[name]; ok {
			return i
		}
		return -1
	}
	for i := range o.members {
		if o.members[i].Name == name {
			return i
		}
	}
	return -1
}

func (o *object) get(name string) value {
	if i := o.find(name); i >= 0 {
		return o.members[i].Value
	}
	return nil
}

func (o *object) set(name string, v value) {
	o.term = nil
	if i := o.find(name); i >= 0 {
		o.members[i].Value = v
		return
	}
	if o.members = append(o.members, Member{name, v}); o.index != nil {
		o.index[name] = len(o.members) - 1
	} else if len(o.members) == many {
		o.reindex()
	}
}

func (o *object) reindex() {
	o.index = make(map[string]int, 2*len(o.members))
	for i, m := range o.members {
		o.index[m.Name] = i
	}
}

// inOrder returns the members by name.
func (o *object) inOrder() []Member {
	byName := func(a, b Member) int { return strings.Compare(a.Name, b.Name) }
	if slices.IsSortedFunc(o.members, byName) {
		return o.members
	}
	return slices.SortedFunc(slices.Values(o.members), byName)
}

// Text returns a string.
func Text(v value) (string, bool) {
	switch v := v.(type) {
	case *dps.Value:
		return v.Text(), v.Kind() == dps.String
	case string:
		return v, true
	case ast.String:
		return string(v), true
	}
	return "", false
}

// Number returns a number as it is written.
func Number(v value) (ast.Number, bool) {
	switch v := v.(type) {
	case *dps.Value:
		return ast.Number(v.Number()), v.Kind() == dps.Number
	case ast.Number:
		return v, true
	}
	return "", false
}

func boolean(v value) (value, ok bool) {
	switch v := v.(type) {
	case *dps.Value:
		return v.Kind() == dps.True, v.Kind() == dps.True || v.Kind() == dps.False
	case ast.Boolean:
		return bool(v), true
	}
	return false, false
}

// parsed is a part of the request; nil if it is not there.
func parsed(v *dps.Value) value {
	switch {
	case v == nil:
		return nil
	case v.Kind() == dps.Null:
		return null
	}
	return v
}

// terms turns values into those of OPA. It keeps the terms of parts of the request for one evaluation, since rules pass
// the same ones to several functions.
type terms struct {
	request map[*dps.Value]ast.Value // objects and arrays
	key     ast.Term                 // of a look in an object
}

// Term returns a value as a term of OPA.
func Term(v Value) *ast.Term { return new(terms).term(v) }

func (t *terms) term(v value) *ast.Term { return &ast.Term{Value: t.value(v)} }

// value returns a value for OPA.
func (t *terms) value(v value) ast.Value {
	switch v := v.(type) {
	case ast.Value:
		return v
	case string:
		return ast.String(v)
	case *dps.Value:
		return t.parsed(v)
	case *array:
		if v.term == nil {
			v.term = t.array(v.elements)
		}
		return v.term
	case *object:
		if v.term == nil {
			pairs := make([][2]*ast.Term, 0, len(v.members))
			for _, m := range v.members {
				pairs = append(pairs, [2]*ast.Term{{Value: ast.String(m.Name)}, t.term(m.Value)})
			}
			v.term = ast.NewObject(pairs...)
		}
		return v.term
	}
	panic("plan: no value") // not reached: the list above is that of value
}

func (t *terms) array(elements []value) ast.Value {
	list := make([]*ast.Term, len(elements))
	for i, element := range elements {
		list[i] = t.term(element)
	}
	return ast.NewArray(list...)
}

func (t *terms) parsed(v *dps.Value) ast.Value {
	switch v.Kind() {
	case dps.Null:
		return null.(ast.Value)
	case dps.String:
		return ast.String(v.Text())
	case dps.Number:
		return ast.Number(v.Number())
	case dps.True, dps.False:
		return ast.Boolean(v.Kind() == dps.True)
	}
	if known, ok := t.request[v]; ok {
		return known
	}
	var made ast.Value
	if v.Kind() == dps.Array {
		list := make([]*ast.Term, v.Len())
		for i := range list {
			list[i] = t.term(v.At(i))
		}
		made = ast.NewArray(list...)
	} else {
		pairs := make([][2]*ast.Term, v.Len())
		for i := range pairs {
			pairs[i] = [2]*ast.Term{{Value: ast.String(v.At(i).Name())}, t.term(v.At(i))}
		}
		made = ast.NewObject(pairs...)
	}
	if t.request == nil {
		t.request = map[*dps.Value]ast.Value{}
	}
	t.request[v] = made
	return made
}

// equal compares two values that are defined.
func (t *terms) equal(a, b value) bool {
	if x, ok := Text(a); ok {
		y, ok := Text(b)
		return ok && x == y
	}
	if x, ok := boolean(a); ok {
		y, ok := boolean(b)
		return ok && x == y
	}
	if x, ok := Number(a); ok {
		y, ok := Number(b)
		return ok && (x == y || x.Compare(y) == 0)
	}
	switch x := a.(type) {
	case ast.Null:
		_, ok := b.(ast.Null)
		return ok
	case ast.Set:
		y, ok := b.(ast.Set)
		return ok && x.Compare(y) == 0
	}
	if IsArray(a) != IsArray(b) || IsObject(a) != IsObject(b) || length(a) != length(b) {
		return false
	}
	return t.value(a).Compare(t.value(b)) == 0
}

// IsArray reports whether a value is an array.
func IsArray(v value) bool {
	switch v := v.(type) {
	case *dps.Value:
		return v.Kind() == dps.Array
	case *array, *ast.Array:
		return true
	}
	return false
}

// IsObject reports whether a value is an object.
func IsObject(v value) bool {
	switch v := v.(type) {
	case *dps.Value:
		return v.Kind() == dps.Object
	case *object, ast.Object:
		return true
	}
	return false
}

// IsSet reports whether a value is a set.
func IsSet(v value) bool {
	_, ok := v.(ast.Set)
	return ok
}

// length is the number of elements of a collection and of characters of a string; -1 if a value has no length.
func length(v value) int {
	switch v := v.(type) {
	case *dps.Value:
		switch v.Kind() {
		case dps.Array, dps.Object:
			return v.Len()
		case dps.String:
			return utf8.RuneCountInString(v.Text())
		}
	case *array:
		return len(v.elements)
	case *object:
		return len(v.members)
	case *ast.Array:
		return v.Len()
	case ast.Object:
		return v.Len()
	case ast.Set:
		return v.Len()
	case string:
		return utf8.RuneCountInString(v)
	case ast.String:
		return utf8.RuneCountInString(string(v))
	}
	return -1
}

// member returns what a collection has at a key; nil if it has nothing there.
func (t *terms) member(of, key value) value {
	switch of := of.(type) {
	case *dps.Value:
		if of.Kind() == dps.Array {
			if i := index(key, of.Len()); i >= 0 {
				return parsed(of.At(i))
			}
		} else if name, ok := Text(key); ok {
			return parsed(of.Get(name))
		}
	case *object:
		if name, ok := Text(key); ok {
			return of.get(name)
		}
	case *array:
		if i := index(key, len(of.elements)); i >= 0 {
			return of.elements[i]
		}
	case ast.Object:
		t.key.Value = t.value(key)
		return valueOf(of.Get(&t.key))
	case *ast.Array:
		if i := index(key, of.Len()); i >= 0 {
			return of.Elem(i).Value
		}
	case ast.Set:
		if of.Contains(t.term(key)) {
			return key
		}
	}
	return nil
}

// named returns the member of an object that has a name; nil if there is none.
func (t *terms) named(of value, name string) value {
	switch of := of.(type) {
	case *dps.Value:
		return parsed(of.Get(name))
	case *object:
		return of.get(name)
	}
	return t.member(of, name)
}

func valueOf(term *ast.Term) value {
	if term == nil {
		return nil
	}
	return term.Value
}

// index is the index in an array that a key stands for; -1 if it is none.
func index(key value, size int) int {
	n, ok := Number(key)
	if !ok {
		return -1
	}
	i, err := strconv.Atoi(string(n))
	if err != nil {
		var isInt bool
		if i, isInt = n.Int(); !isInt { // such as 1.0
			return -1
		}
	}
	if i < 0 || i >= size {
		return -1
	}
	return i
}

// Each yields the keys and values of a collection in OPA's order, until visit returns false.
func Each(of value, visit func(key, value value) bool) {
	switch of := of.(type) {
	case *dps.Value:
		if of.Kind() == dps.Array {
			for i := range of.Len() {
				if !visit(integer(i), parsed(of.At(i))) {
					return
				}
			}
			return
		}
		for _, member := range byName(of) {
			if !visit(member.Name(), parsed(member)) {
				return
			}
		}
	case *object:
		for _, m := range of.inOrder() {
			if !visit(m.Name, m.Value) {
				return
			}
		}
	case *array:
		for i, element := range of.elements {
			if !visit(integer(i), element) {
				return
			}
		}
	case *ast.Array:
		for i := range of.Len() {
			if !visit(integer(i), of.Elem(i).Value) {
				return
			}
		}
	case ast.Object:
		of.Until(func(key, element *ast.Term) bool { return !visit(key.Value, element.Value) })
	case ast.Set:
		of.Until(func(element *ast.Term) bool { return !visit(element.Value, element.Value) })
	}
}

// fields yields the members of an object in no order. It stops and returns false at a key that is no string.
func fields(of value, visit func(name string, member value)) bool {
	switch of := of.(type) {
	case *dps.Value:
		for i := range of.Len() {
			visit(of.At(i).Name(), parsed(of.At(i)))
		}
	case *object:
		for _, m := range of.members {
			visit(m.Name, m.Value)
		}
	case ast.Object:
		return !of.Until(func(key, member *ast.Term) bool {
			name, ok := key.Value.(ast.String)
			if ok {
				visit(string(name), member.Value)
			}
			return !ok
		})
	}
	return true
}

// byName returns the members of an object in the order of their names.
func byName(object *dps.Value) []*dps.Value {
	members := make([]*dps.Value, object.Len())
	for i := range members {
		members[i] = object.At(i)
	}
	slices.SortFunc(members, func(a, b *dps.Value) int { return strings.Compare(a.Name(), b.Name()) })
	return members
}

func integer(i int) value { return ast.InternedTerm(i).Value }

// json returns a value as JSON, which shares nothing with the request but texts. A set is a sorted array.
func (m *machine) json(v value) (dps.Value, error) {
	if m.made(termBytes, &noPlace) != next { // a value can contain another one many times
		return dps.Value{}, m.err
	}
	if s, ok := Text(v); ok {
		return dps.StringValue(s), nil
	}
	if n, ok := Number(v); ok {
		return dps.NumberValue(json.Number(n)), nil
	}
	if b, ok := boolean(v); ok {
		return dps.BoolValue(b), nil
	}
	if _, ok := v.(ast.Null); ok {
		return dps.Value{}, nil
	}
	switch v := v.(type) {
	case *dps.Value:
		return m.jsonParsed(v)
	case *array:
		elements := make([]dps.Value, len(v.elements))
		for i, element := range v.elements {
			var err error
			if elements[i], err = m.json(element); err != nil {
				return dps.Value{}, err
			}
		}
		return dps.ArrayValue(elements), nil
	case *object:
		members := make([]dps.Value, len(v.members))
		for i := range v.members {
			member, err := m.json(v.members[i].Value)
			if err != nil {
				return dps.Value{}, err
			}
			members[i] = member.Named(v.members[i].Name)
		}
		return dps.ObjectValue(members), nil
	case ast.Object:
		members := make([]dps.Value, 0, v.Len())
		err := m.members(v, &members)
		return dps.ObjectValue(members), err
	}
	elements := make([]dps.Value, 0, length(v))
	var err error
	Each(v, func(_, element value) bool {
		var one dps.Value
		one, err = m.json(element)
		elements = append(elements, one)
		return err == nil
	})
	return dps.ArrayValue(elements), err
}

// jsonParsed copies an object or an array of the request, so that its members are in order.
func (m *machine) jsonParsed(v *dps.Value) (dps.Value, error) {
	below := make([]dps.Value, v.Len())
	for i := range below {
		element := v.At(i)
		one, err := m.json(parsed(element))
		if err != nil {
			return dps.Value{}, err
		}
		below[i] = one.Named(element.Name())
	}
	if v.Kind() == dps.Object {
		return dps.ObjectValue(below), nil
	}
	return dps.ArrayValue(below), nil
}

// members appends the members of an object of OPA, which can have keys that are no strings. Of two that become one name
// the last one counts, as with OPA.
func (m *machine) members(object ast.Object, into *[]dps.Value) error {
	at := make(map[string]int, object.Len())
	return object.Iter(func(key, member *ast.Term) error {
		name, ok := Text(key.Value)
		if !ok {
			var err error
			if name, err = nameOf(key.Value); err != nil {
				return err
			}
		}
		one, err := m.json(member.Value)
		if i, twice := at[name]; twice {
			(*into)[i] = one.Named(name)
			return err
		}
		at[name] = len(*into)
		*into = append(*into, one.Named(name))
		return err
	})
}

// nameOf is the name that OPA gives a member of which the key is no string: its JSON text.
func nameOf(key ast.Value) (string, error) {
	v, err := ast.JSON(key)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(v)
	return string(text), err
}
