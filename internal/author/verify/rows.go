package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/dataflow"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// What a rule looks up is free: any row that its declaration allows, or none, whatever the fixture says.

// Limits of rows.
const (
	maxFixtureRows = 8
	maxRowMembers  = 8
	maxRowHubs     = 4 // names of hubs for a member that becomes a hub
)

// rows are what sources answer: by look-up or, if a key has a row of its own, by look-up and key. A row is a
// map[string]any, and nil is none.
type rows map[string]any

// of is the name under which a key has a row of its own.
func rowOf(lookup, key string) string { return lookup + "\x00" + key }

func (r rows) find(lookup, key string) (map[string]any, bool) {
	found, own := r[rowOf(lookup, key)]
	if !own {
		found = r[lookup]
	}
	row, ok := found.(map[string]any)
	return row, ok
}

// name reports whether a text in a row is the name of a hub.
func (r rows) name(hub string) bool {
	for _, row := range r {
		object, _ := row.(map[string]any)
		for _, place := range placesOf(object) {
			text, _ := at(object, place).(string)
			if host, ok := hostOf(text); ok && dps.SameHub(host, hub) {
				return true
			}
		}
	}
	return false
}

// world is what is outside of one request.
type world struct {
	rows    rows
	failing string // the look-up whose source fails; "" if none does
	text    []byte // of both
}

// newWorld returns a world with rows that no one modifies.
func newWorld(rows rows, failing string) *world {
	w := &world{rows: rows, failing: failing}
	if len(rows) > 0 || failing != "" {
		w.text = append(dps.AppendValue(nil, map[string]any(rows)), failing...)
	}
	return w
}

// salt tells worlds apart.
func (w *world) salt() []byte {
	if w == nil {
		return nil
	}
	return w.text
}

type worldKey struct{}

// in puts a world into a context, in which [sources] find it.
func (w *world) in(ctx context.Context) context.Context {
	if w == nil {
		return ctx
	}
	return context.WithValue(ctx, worldKey{}, w)
}

// sources answer look-ups from the world of a context.
type sources struct{}

var errFails = errors.New("the source fails")

// Find implements [lookups.Sources].
func (sources) Find(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	found := lookups.Found{Source: "usher verify"}
	w, _ := ctx.Value(worldKey{}).(*world)
	if w == nil {
		return found, nil
	}
	if w.failing == d.Name {
		return found, errFails
	}
	row, ok := w.rows.find(d.Name, key)
	if !ok {
		return found, nil
	}
	if found.Row = row; d.Name == lookups.HubName {
		found.Row = maps.Clone(row)
		if found.Row["name"] = key; !strings.Contains(key, ".") {
			found.Row["name"] = key + ".azure-devices.net"
		}
	}
	return found, nil
}

// Row is what a look-up found in the decision of a finding.
type Row struct {
	Lookup string `json:"lookup"`
	Key    string `json:"key"`
	// Row is absent if there is none, or if the source fails.
	Row   map[string]any `json:"row,omitempty"`
	Fails bool           `json:"fails,omitempty"`
}

func (r Row) String() string {
	text := fmt.Sprintf("%s(%q)", ruleset.LookupBuiltin(r.Lookup), r.Key)
	switch {
	case r.Fails:
		return text + ": the source fails"
	case r.Row == nil:
		return text + ": no row"
	}
	return text + ": " + string(dps.AppendValue(nil, r.Row))
}

// rowsOf lists what an answer looked up.
func rowsOf(calls []answer.Lookup) []Row {
	var list []Row
	for _, call := range calls {
		name, ok := ruleset.LookupName(call.Builtin)
		if !ok || len(call.Arguments) != 1 {
			continue
		}
		one := Row{Lookup: name, Fails: call.Fault != ""}
		one.Key, _ = call.Arguments[0].(string)
		one.Row, _ = call.Result.(map[string]any)
		list = append(list, one)
	}
	return list
}

// table is a look-up that a rule uses, with what its rows can be.
type table struct {
	*lookups.Declaration
	bases   []any // rows, and nil for none
	members []member

	mu     sync.Mutex
	judged map[[16]byte]bool // whether rows fit, by their texts
}

func newTable(d *lookups.Declaration) *table {
	return &table{Declaration: d, judged: map[[16]byte]bool{}}
}

// member is a part of a row.
type member struct {
	pointer  jsontext.Pointer
	values   []any
	optional bool
}

// asIs as the value of a member leaves it as the row has it.
type asIs struct{}

// fits reports whether a row is as it is declared. It completes what the source of hubs guarantees beyond the schema. The
// same rows come again and again, on the way to others and when a request of the plan is made.
func (t *table) fits(row map[string]any) bool {
	if t.Name == lookups.HubName && row["state"] == "open" {
		for name, value := range map[string]any{"devices": json.Number("1"), "room": json.Number("999999"), "full": false} {
			if _, ok := row[name]; !ok {
				row[name] = value
			}
		}
	}
	key := memoKey(dps.AppendValue(nil, row))
	t.mu.Lock()
	defer t.mu.Unlock()
	fits, known := t.judged[key]
	if !known {
		fits = len(t.Row.Validate(row)) == 0
		t.judged[key] = fits
	}
	return fits
}

// tables are the look-ups that the rule and its invariants use.
func (e *explorer) tables() []*table {
	if e.looksUp != nil {
		return e.looksUp
	}
	e.looksUp = []*table{}
	for _, d := range e.set.Lookups() {
		if e.reads(dataflow.LookupPointer(d.Name)) && (!slices.Contains(e.analysis.Reads, "") || e.set.UsesLookup(d.Name)) {
			e.looksUp = append(e.looksUp, e.table(d))
		}
	}
	return e.looksUp
}

func (e *explorer) table(d *lookups.Declaration) *table {
	t := newTable(d)
	fixture := e.fixture(d)
	reader := schemaReader{root: d.RowSchema}
	if err := reader.object("", d.RowSchema, 0); err != nil {
		reader.fields = nil // a schema that refers elsewhere: its rows are those of the fixture
	}
	for _, field := range reader.fields {
		t.members = append(t.members, e.member(d, field, fixture))
	}
	// A row with all members, and one with only those that are required.
	full := map[string]any{}
	for _, m := range t.members {
		best := -1
		var chosen any
		for _, value := range m.values {
			put(full, m.pointer, value)
			if wrong := len(d.Row.Validate(full)); best < 0 || wrong < best {
				best, chosen = wrong, value
			}
		}
		if len(m.values) > 0 {
			put(full, m.pointer, clone(chosen))
		}
	}
	least := clone(full).(map[string]any)
	for _, place := range slices.Backward(placesOf(least)) {
		without := clone(least).(map[string]any)
		if _, inList := at(without, place[:len(place)-1]).([]any); !inList && replace(without, place, removed{}) && t.fits(without) {
			least = without
		}
	}
	for _, row := range append([]map[string]any{full, least}, spread(fixture, maxFixtureRows)...) {
		if t.fits(row) && !contains(t.bases, any(row)) {
			t.bases = append(t.bases, row)
		}
	}
	t.bases = append(t.bases, nil)
	for i := range t.members {
		m := &t.members[i]
		if full := clone(t.bases[0]); full != nil {
			row := full.(map[string]any)
			if _, ok := get(row, m.pointer); ok && replace(row, slices.Collect(m.pointer.Tokens()), removed{}) {
				m.optional = t.fits(row)
				_, back := get(row, m.pointer)
				m.optional = m.optional && !back
			}
		}
	}
	t.members = slices.DeleteFunc(t.members, func(m member) bool { return !e.reads(dataflow.LookupPointer(d.Name) + string(m.pointer)) })
	t.members = t.members[:min(len(t.members), maxRowMembers)]
	return t
}

// fixture are the rows of a fixture.
func (e *explorer) fixture(d *lookups.Declaration) []map[string]any {
	table := e.set.Fixtures()[d.Name]
	if table == nil {
		return nil
	}
	var list []map[string]any
	for _, key := range table.Keys() {
		if found, err := table.Find(context.Background(), key); err == nil && found.Row != nil {
			list = append(list, d.Declared(clone(found.Row).(map[string]any)))
		}
	}
	return list
}

// member returns values for a member of a row: of the fixture, of its schema, of the constants that it is compared with
// and, if it becomes a hub, names of hubs that are linked and of one that is not.
func (e *explorer) member(d *lookups.Declaration, field Field, fixture []map[string]any) member {
	m := member{pointer: jsontext.Pointer(field.Pointer)}
	add := func(list ...any) {
		for _, value := range list {
			if !contains(m.values, value) {
				m.values = append(m.values, value)
			}
		}
	}
	place := dataflow.LookupPointer(d.Name) + field.Pointer
	literals := e.analysis.At(place)
	if e.becomesHub(place) {
		hosts := e.rowHubs(d, field, fixture)
		for _, host := range append(hosts[:min(len(hosts), maxRowHubs)], unlinkedHub) {
			label, _, _ := strings.Cut(host, ".")
			add(label, host)
		}
	}
	var own []any
	for _, row := range fixture {
		if value, ok := get(row, m.pointer); ok && !contains(own, value) {
			own = append(own, value)
		}
	}
	add(spread(own, maxRecordValues)...)
	for _, text := range spread(texts(literals, separatorsOf(literals)), maxMined) {
		add(text, strings.ToUpper(text))
	}
	for _, literal := range literals {
		switch v := literal.Value.(type) {
		case json.Number:
			add(numbersAround(v)...)
		case bool:
			add(v, !v)
		}
	}
	described := schemaAt(d.RowSchema, m.pointer)
	for _, kind := range kindsOf(described) {
		switch kind {
		case "string":
			if described["enum"] == nil && described["pattern"] == nil {
				add("usher-" + strings.ReplaceAll(strings.TrimPrefix(field.Pointer, "/"), "/", "-"))
			}
		case "integer", "number":
			add(json.Number("1"), json.Number("0"))
		case "boolean":
			add(false, true)
		case "array":
			element := any("usher-element")
			if len(literals) > 0 {
				element = literals[0].Value
			}
			add([]any{element}, []any{}, []any{"usher-other", element})
		case "object":
			add(map[string]any{})
		case "null":
			add(nil)
		}
	}
	for _, value := range field.Values {
		if value != any("text") { // what the reader gives if it knows nothing
			add(value)
		}
	}
	return m
}

// becomesHub reports whether a member can be what hub says, or picks it by name.
func (e *explorer) becomesHub(place string) bool {
	return slices.ContainsFunc(dataflow.Sources(e.analysis.Entries["hub"]), func(s dataflow.Source) bool {
		return s.Place() == place
	})
}

// rowHubs are host names for a member that becomes a hub.
func (e *explorer) rowHubs(_ *lookups.Declaration, field Field, fixture []map[string]any) []string {
	var hosts []string
	add := func(value any) {
		text, _ := value.(string)
		if host, ok := hostOf(text); ok && !containsHub(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	for _, hub := range e.options.Hubs {
		add(hub)
	}
	for _, row := range fixture {
		value, _ := get(row, jsontext.Pointer(field.Pointer))
		add(value)
	}
	for _, value := range field.Values {
		if value != any("text") {
			add(value)
		}
	}
	for _, hub := range anyHubs {
		if len(hosts) < len(anyHubs) {
			add(hub)
		}
	}
	return hosts
}

// hubsInRows are the host names that rows of the look-ups can name.
func (e *explorer) hubsInRows() []string {
	var hosts []string
	for _, t := range e.tables() {
		for _, m := range t.members {
			if !e.becomesHub(dataflow.LookupPointer(t.Name) + string(m.pointer)) {
				continue
			}
			for _, value := range m.values {
				text, _ := value.(string)
				if host, ok := hostOf(text); ok && !dps.SameHub(host, unlinkedHub) && !containsHub(hosts, host) && len(hosts) < maxRowHubs {
					hosts = append(hosts, host)
				}
			}
		}
	}
	return hosts
}

func schemaAt(schema map[string]any, pointer jsontext.Pointer) map[string]any {
	for step := range pointer.Tokens() {
		properties, _ := schema["properties"].(map[string]any)
		schema, _ = properties[step].(map[string]any)
	}
	return schema
}

func kindsOf(described map[string]any) []string {
	switch kind := described["type"].(type) {
	case string:
		return []string{kind}
	case []any:
		return textsIn(kind)
	}
	return nil
}

// addRows adds the rows of the look-ups: whole ones, and values of their members.
func (e *explorer) addRows(s *space) {
	for _, t := range e.tables() {
		s.add(dimension{name: "rows of " + ruleset.LookupBuiltin(t.Name), values: slices.Clone(t.bases), fixed: len(t.bases), row: true,
			set: func(d *draft, value any) {
				if d.rows == nil {
					d.rows = rows{}
				}
				d.rows[t.Name] = clone(value)
			},
			get: func(d *draft) any { return d.rows[t.Name] },
		})
		for _, m := range t.members {
			values := []any{asIs{}}
			if m.optional {
				values = append(values, removed{})
			}
			fixed := len(values)
			if values = append(values, m.values...); len(values) <= maxValues {
				fixed = len(values)
			}
			s.add(dimension{name: "values of " + ruleset.LookupBuiltin(t.Name) + strings.ReplaceAll(string(m.pointer), "/", "."), values: values, fixed: fixed, words: len(values) - fixed, row: true,
				set: func(d *draft, value any) { t.change(d, t.Name, m.pointer, value) },
				get: func(d *draft) any {
					row, ok := d.rows[t.Name].(map[string]any)
					if !ok {
						return asIs{}
					}
					return memberOf(row, m.pointer)
				},
			})
		}
	}
}

// change sets a member of a row of a draft, if there is a row and it fits then.
func (t *table) change(d *draft, name string, pointer jsontext.Pointer, value any) bool {
	row, ok := d.rows[name].(map[string]any)
	if !ok || value == any(asIs{}) {
		return false
	}
	changed := clone(row).(map[string]any)
	if value == any(removed{}) {
		if _, has := get(changed, pointer); has {
			replace(changed, slices.Collect(pointer.Tokens()), removed{})
		}
	} else {
		put(changed, pointer, clone(value))
	}
	if !t.fits(changed) {
		return false
	}
	d.rows[name] = changed
	return true
}

// rowLeaves are the parts of a draft's rows. If several keys of a look-up were asked for, each can get a row of its own.
func (e *explorer) rowLeaves(d *draft, asked []Row) []leaf {
	var list []leaf
	for _, t := range e.tables() {
		names := []string{t.Name}
		for _, one := range asked {
			if name := rowOf(t.Name, one.Key); one.Lookup == t.Name && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		if len(names) == 2 {
			names = names[:1]
		}
		for _, name := range names {
			row, ok := d.rows[name].(map[string]any)
			if !ok {
				row, ok = d.rows[t.Name].(map[string]any)
			}
			if _, own := d.rows[name]; own && d.rows[name] == nil || !ok {
				continue
			}
			for _, place := range slices.Backward(placesOf(row)) {
				list = append(list, leaf{at(row, place), func(d *draft, value any) bool {
					changed := clone(row).(map[string]any)
					if !replace(changed, place, value) || !t.fits(changed) {
						return false
					}
					d.rows[name] = changed
					return true
				}})
			}
		}
	}
	return list
}

// tryRows tries a request with each whole row, and with none, for all keys of a look-up or for one of several.
func (p *paths) tryRows(from *draft, asked []Row) {
	for _, t := range p.tables() {
		keys := 0
		for _, one := range asked {
			if one.Lookup == t.Name {
				keys++
			}
		}
		for _, base := range t.bases {
			d := from.clone()
			d.rows[t.Name] = clone(base)
			p.try(d)
			for _, one := range asked {
				if one.Lookup == t.Name && keys > 1 {
					d := from.clone()
					d.rows[rowOf(t.Name, one.Key)] = clone(base)
					p.try(d)
				}
			}
		}
	}
}

// clone returns a copy that shares nothing.
func (r rows) clone() rows {
	if r == nil {
		return nil
	}
	copied := make(rows, len(r))
	for name, row := range r {
		copied[name] = clone(row)
	}
	return copied
}

// checkFaults decides the request again while one of the sources fails that it asked.
func (c *checker) checkFaults(ctx context.Context, a *decided) []broken {
	if !c.wanted[faultsPromise] || c.world == nil || c.world.failing != "" {
		return nil
	}
	// A share of the requests is enough to try each side of each expression.
	if !c.thorough && a.key[3]&3 != 0 {
		return nil
	}
	tried := map[string]bool{}
	for _, asked := range rowsOf(a.Lookups) {
		if tried[asked.Lookup] {
			continue
		}
		tried[asked.Lookup] = true
		i := slices.IndexFunc(c.set.Lookups(), func(d *lookups.Declaration) bool { return d.Name == asked.Lookup })
		failing := *c
		failing.world = newWorld(c.world.rows, asked.Lookup)
		then := failing.decide(ctx, a.body)
		c.memo.failing.Add(1)
		if ctx.Err() != nil || i < 0 || then.Result != answer.Assigned && then.Result != answer.LookupFailed && then.Result.IsOutcome() {
			continue // it is kept out by something else
		}
		now := briefOf(&a.Answer)
		find := func(format string, args ...any) []broken {
			return []broken{{promise: faultsPromise, kind: asked.Lookup, body: a.body, message: fmt.Sprintf(format, args...)}}
		}
		switch absent := c.set.Lookups()[i].OnFault == lookups.Absent; {
		case absent && then.Result == answer.Assigned && !now.assigned():
			return find("%s; while the source of look-up %s fails, it %s, because on_fault: absent takes that for no row", now, asked.Lookup, briefOf(&then.Answer))
		case !absent && then.Result != answer.LookupFailed:
			return find("%s; while the source of look-up %s fails, it %s instead of waiting", now, asked.Lookup, briefOf(&then.Answer))
		}
	}
	return nil
}

// shrinkRows removes members and whole rows as long as the same promise breaks.
func (c *checker) shrinkRows(ctx context.Context, found broken) broken {
	if found.world == nil {
		return found
	}
	try := func(changed rows) bool {
		again := *c
		again.world = newWorld(changed, "")
		_, list := again.check(ctx, found.body)
		i := slices.IndexFunc(list, func(b broken) bool { return b.key() == found.key() })
		if i >= 0 {
			found = list[i]
		}
		return i >= 0
	}
	for _, name := range slices.Sorted(maps.Keys(found.world.rows)) {
		if strings.Contains(name, "\x00") {
			without := found.world.rows.clone()
			delete(without, name)
			if try(without) {
				continue
			}
		}
		lookup, _, _ := strings.Cut(name, "\x00")
		row, ok := found.world.rows[name].(map[string]any)
		i := slices.IndexFunc(c.set.Lookups(), func(d *lookups.Declaration) bool { return d.Name == lookup })
		if !ok || i < 0 {
			continue
		}
		t := newTable(c.set.Lookups()[i])
		for _, place := range placesOf(row) {
			changed := found.world.rows.clone()
			now := changed[name].(map[string]any)
			if exists(now, place) && replace(now, place, removed{}) && t.fits(now) {
				try(changed)
			}
		}
	}
	return found
}

func exists(value any, place []string) bool {
	object, ok := value.(map[string]any)
	if !ok {
		return false
	}
	inside, ok := object[place[0]]
	return ok && (len(place) == 1 || exists(inside, place[1:]))
}
