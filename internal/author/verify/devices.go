package verify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/internal/decide/dataflow"
)

func (e *explorer) addPayload(s *space) {
	set := func(d *draft, has bool) {
		if !has {
			d.payload = nil
		}
	}
	has := func(d *draft) bool { return d.payload != nil }
	if !e.reads(payloadPlace) {
		s.add(dimensionOf("payloads", []bool{false}, set, has).unread())
		return
	}
	s.add(dimensionOf(payloadOrNone, []bool{true, false}, set, has))
	keys := e.payloadKeys()
	if len(keys) > maxPayloadKeys {
		s.note("%d of %d members of the payload: %s", maxPayloadKeys, len(keys), strings.Join(keys[:maxPayloadKeys], " "))
		keys = keys[:maxPayloadKeys]
	}
	add := func(name string, key string, values []any, fixed int) {
		place := jsontext.Pointer(key)
		set := func(d *draft, value any) {
			if d.payload != nil && value != any(removed{}) {
				put(d.payload, place, clone(value))
			}
		}
		s.add(dimension{name: name, values: slices.Insert(values, 0, any(removed{})), fixed: 1 + fixed, words: len(values) - fixed, part: true,
			set: set, get: func(d *draft) any { return memberOf(d.payload, place) }})
	}
	if len(keys) == 0 {
		// The rule reads the payload as a whole, perhaps to choose a share of all devices.
		var values []any
		for n := range variants {
			values = append(values, fmt.Sprint("any ", n))
		}
		fixed := 0
		if e.inTwin("") {
			values = slices.Concat(hostile(), values)
			fixed = len(values)
			add("payloads with an unusual name", "/$usher", []any{true}, 1)
		}
		add("payloads", "/usherVerify", values, fixed)
	}
	for _, key := range keys {
		list, fixed := e.payloadValues(s, key)
		add("values of payload"+key, key, list, fixed)
	}
}

// inTwin reports whether a member of the payload can get into the initial twin.
func (e *explorer) inTwin(key string) bool {
	found := false
	var walk func(dataflow.Alternatives)
	walk = func(in dataflow.Alternatives) {
		for _, v := range in {
			places := []string{}
			if v.Request != nil {
				places = append(places, "/"+strings.Join(v.Request, "/"))
			}
			for _, source := range v.Sources {
				places = append(places, source.Pointer)
			}
			found = found || slices.ContainsFunc(places, func(place string) bool {
				return place == payloadPlace || place == payloadPlace+key || key != "" && strings.HasPrefix(place, payloadPlace+key+"/")
			})
			for _, member := range v.Members {
				walk(member)
			}
			walk(v.Rest)
		}
	}
	walk(e.analysis.Entries["initial_twin"])
	return found
}

// hostile are values that IoT Hub refuses in a twin, and an array, which it accepts.
func hostile() []any {
	deep := map[string]any{"usher": "deep"}
	for range 11 {
		deep = map[string]any{"usher": deep}
	}
	return []any{
		strings.Repeat("x", 4097), json.Number("9007199254740992"), deep,
		map[string]any{"$usher": "x"}, map[string]any{"usher.other": "x"}, map[string]any{"usher other": "x"}, []any{"usher"},
	}
}

// payloadKeys returns the members of the payload that the rule reads or the schema of the payload names, as JSON
// pointers relative to the payload. A member whose elements the rule reads is one key.
func (e *explorer) payloadKeys() []string {
	var keys []string
	for _, read := range e.analysis.Reads {
		if key, ok := strings.CutPrefix(read, payloadPlace); ok {
			key, _, _ = strings.Cut(key, "/"+dataflow.AnyMember)
			keys = addNew(keys, key)
		}
	}
	for _, field := range e.options.PayloadSchema {
		keys = addNew(keys, field.Pointer)
	}
	return slices.DeleteFunc(keys, func(key string) bool {
		// If the rule reads a member below another, the other is an object.
		return key == "" || key == "/" || slices.ContainsFunc(keys, func(other string) bool { return strings.HasPrefix(other, key+"/") })
	})
}

// payloadValues returns the values of a member of the payload, and how many of them must stay.
func (e *explorer) payloadValues(s *space, key string) (values []any, fixed int) {
	add := func(list ...any) {
		for _, value := range list {
			if !contains(values, value) {
				values = append(values, value)
			}
		}
	}
	// Values that no one expects. The text and the number are those of this member only, so that the search by paths
	// recognizes what a rule makes of them.
	number := json.Number(fmt.Sprint(1000 + len(s.dimensions)))
	add("usher-other"+strings.ReplaceAll(key, "/", "-"), "", number, nil, true, map[string]any{}, []any{})
	if e.inTwin(key) {
		add(hostile()...)
	}
	for _, field := range e.options.PayloadSchema {
		if field.Pointer == key {
			add(field.Values...)
		}
	}
	elements := e.elements(key)
	add(elements...)
	fixed = len(values)
	literals := append(e.analysis.At(payloadPlace+key), e.analysis.Compared[payloadPlace]...)
	words := texts(literals, separatorsOf(literals))
	if len(elements) > 0 {
		for _, text := range words[:min(len(words), maxRecordValues)] {
			add([]any{text}, []any{"usher-other", text})
		}
	}
	for _, text := range sample(s, words, maxMined, "texts for payload"+key) {
		add(text, strings.ToUpper(text), strings.ToLower(text))
	}
	for _, literal := range literals {
		switch v := literal.Value.(type) {
		case json.Number:
			if len(values) < 3*maxMined {
				add(numbersAround(v)...)
			}
		case bool:
			add(v, !v)
		}
	}
	return values, fixed
}

// elements returns arrays for a member of the payload whose elements the rule reads: with an element that has what it
// reads of them, with one that has other values, with both, and with one that lacks it.
func (e *explorer) elements(key string) []any {
	one, other := map[string]any{}, map[string]any{}
	read := false
	for _, place := range e.analysis.Reads {
		below, ok := strings.CutPrefix(place, payloadPlace+key+"/"+dataflow.AnyMember)
		if !ok {
			continue
		}
		read = true
		if below, _, _ = strings.Cut(below, "/"+dataflow.AnyMember); below != "" {
			var value any = "usher-element"
			if literals := e.analysis.At(place); len(literals) > 0 {
				value = literals[0].Value
			}
			put(one, jsontext.Pointer(below), value)
			put(other, jsontext.Pointer(below), others(value)[0])
		}
	}
	switch {
	case !read:
		return nil
	case len(one) > 0:
		return []any{[]any{one}, []any{one, other}, []any{other}, []any{one, map[string]any{}}, []any{"usher-element"}}
	default:
		return []any{[]any{"usher-element"}, []any{json.Number("7"), true}}
	}
}

func (e *explorer) addDevices(s *space) {
	ids := []string{"device-0001"}
	fixed, words := 1, 0
	if e.reads(registrationPlace, currentIDPlace) {
		ids = append(ids, "a", "0001", "a.b_c:d-E", strings.Repeat("x", 128))
		fixed = len(ids)
		mined := slices.DeleteFunc(e.texts(registrationPlace), func(id string) bool { return !registrationID.MatchString(id) })
		ids = addNew(ids, sample(s, mined, maxMined, "registration IDs from the rule's constants")...)
		words = len(ids) - fixed
		// Shares and weights send ordinary devices to different hubs.
		for n := range ordinaryDevices {
			ids = addNew(ids, fmt.Sprintf("device-%04d", n+2))
		}
	}
	d := dimensionOf("registration IDs", ids, func(d *draft, id string) { d.registration = id }, func(d *draft) string { return d.registration })
	d.fixed, d.words = fixed, words
	s.add(d.unread())
}

// addTimes adds times of the decision, if the rule can read it: some of each day of the week.
func (e *explorer) addTimes(s *space) {
	if !slices.ContainsFunc(e.rule.RestrictedCalls(), func(call *ast.Expr) bool { return call.Operator().String() == nowBuiltin }) {
		return
	}
	var times []int64
	start := time.Date(2026, 1, 1, 3, 30, 0, 0, time.UTC)
	for n := range 14 {
		times = append(times, start.Add(time.Duration(n)*33*time.Hour).UnixNano())
	}
	s.add(dimensionOf("times of the decision", times, func(d *draft, now int64) { d.now = now }, func(d *draft) int64 { return d.now }))
}
