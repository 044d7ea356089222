package decisionlog

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// row is what may be recorded of a row that was looked up: the members that its declaration names. It uses up what is
// masked.
func (s *scratch) row(lookup *answer.Lookup) Call {
	m := &s.mask
	call := Call{
		Builtin: lookup.Builtin, Undefined: lookup.Undefined, Source: m.text(lookup.Source), Version: m.text(lookup.Version),
		AsOf: lookup.AsOf, Fault: m.text(lookup.Fault),
	}
	if key, ok := m.key(lookup); ok {
		start := len(s.parts)
		s.parts = append(dps.AppendString(append(s.parts, '['), key), ']')
		call.Arguments = s.parts[start:len(s.parts):len(s.parts)]
	}
	row, ok := lookup.Result.(map[string]any)
	if !ok {
		return call
	}
	members := dps.ValueOf(row)
	s.whole = members.AppendJSON(s.whole[:0])
	call.Digest = m.digestOf(s.whole)
	start := len(s.parts)
	b := append(s.parts, '{')
	for i := range members.Len() {
		member := members.At(i)
		name := member.Name()
		if shown := m.text(name); shown != name || keymaterial.IsName(name) || !slices.Contains(lookup.Recordable, name) {
			call.Masked = append(call.Masked, shown)
			continue
		}
		m.masked, m.more = nil, 0
		if b = m.value(m.enter(b, member), member); len(m.masked) > 0 {
			call.Masked = append(call.Masked, name)
		}
		m.leave()
	}
	s.parts = append(b, '}')
	call.Result = s.parts[start:len(s.parts):len(s.parts)]
	return call
}

// key is what is recorded of the key of a row. It usually names the device, so it is recorded like registration IDs; only
// the names of hubs are known not to.
func (m *mask) key(lookup *answer.Lookup) (key string, ok bool) {
	if len(lookup.Arguments) != 1 {
		return "", false
	}
	key, ok = lookup.Arguments[0].(string)
	if !ok || len(key) > maxText || m.keys.Text(key) != key {
		return "", false
	}
	if m.mode == Plain || lookup.Builtin == ruleset.LookupBuiltin(lookups.HubName) {
		return key, m.text(key) == key
	}
	if m.mode == Absent {
		return "", false
	}
	return m.identity(key), true
}

// digestOf shows whether another value is the same.
func (m *mask) digestOf(value []byte) string {
	switch {
	case m.mac != nil:
		return m.digest("hmac-sha256:", value)
	case m.mode == Plain:
		return m.digest(plainDigest, value)
	}
	return "" // it would confirm a guess of the registration ID
}

// size is about how many bytes the call adds to a record.
func (c *Call) size() int {
	size := 100 + len(c.Builtin) + len(c.Arguments) + len(c.Result) + len(c.Source) + len(c.Version) + len(c.Digest) + len(c.Fault)
	for _, name := range c.Masked {
		size += len(name) + len(`"",`)
	}
	return size
}

// rowPointer is where Replay.Masked names what a record lacks of look-ups.
const rowPointer jsontext.Pointer = "/lookups"

// lackingRows are pointers to what the record lacks of the rows that were looked up: /lookups/NAME/MEMBER, or
// /lookups/NAME if it is not known which row that was.
func (r *Record) lackingRows() []string {
	var lacking []string
	if r.LookupsDropped > 0 {
		lacking = append(lacking, string(rowPointer))
	}
	for i := range r.Lookups {
		call := &r.Lookups[i]
		name, isRow := ruleset.LookupName(call.Builtin)
		if !isRow {
			continue
		}
		at := rowPointer.AppendToken(name)
		if !r.knowsKey(call) {
			lacking = append(lacking, string(at))
			continue
		}
		for _, member := range call.Masked {
			lacking = append(lacking, string(at.AppendToken(member)))
		}
	}
	slices.Sort(lacking)
	return slices.Compact(lacking)
}

// knowsKey reports whether a rule that decides the record's request again asks for the row by the key that is recorded.
// A hash that is not in the request is that of a text which a replay does not have.
func (r *Record) knowsKey(call *Call) bool {
	if call.Arguments == nil {
		return false
	}
	var arguments []string
	if json.Unmarshal(call.Arguments, &arguments) != nil || len(arguments) != 1 {
		return false
	}
	key := arguments[0]
	return !strings.HasPrefix(key, hashedPrefix) || bytes.Contains(bytes.ToLower(r.Request), []byte(key))
}
