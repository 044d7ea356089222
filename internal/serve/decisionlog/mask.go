package decisionlog

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
)

const (
	// maxMasked bounds how many pointers a record lists.
	maxMasked = 64
	// maxPointer bounds each of them, in bytes: names can have any length.
	maxPointer = 256
	// maxText bounds a member that the schema allows to be recorded, in bytes. DPS's own have at most 253,
	// distinguished names a few hundred.
	maxText = 2048
	// minInside is the length of the shortest identity that is hidden inside words: the device "eu" must not hide a
	// part of contoso-eu.
	minInside = 4
)

// MaskedID stands for an identity that is absent where something is needed: inside a text, or to replay the record.
const MaskedID = "masked-id"

// mask writes what may be recorded of one request and its answer.
type mask struct {
	mode IDMode
	mac  hash.Hash // under the key; nil without one
	// keys are hidden everywhere, in every mode.
	keys keymaterial.Mask
	// ids are the names of the device, the longest first, and what replaces each; none in the mode Plain.
	ids        []identityText
	recordable [][]string // from the rule's METADATA

	path   []string // of the current member
	masked []string
	more   int
	sum    [sha256.Size]byte
}

type identityText struct{ plain, shown string }

// reset prepares the mask for a request, whose document may be nil.
func (m *mask) reset(allowed *node, document map[string]any, recordable [][]string) {
	m.keys, m.recordable = keymaterial.Of(document), recordable
	m.path, m.masked, m.more, m.ids = m.path[:0], m.masked[:0], 0, m.ids[:0]
	if m.mode == Plain {
		return
	}
	m.collect(allowed, document)
	slices.SortFunc(m.ids, func(a, b identityText) int { return len(b.plain) - len(a.plain) })
}

// collect finds the names of the device.
func (m *mask) collect(n *node, value any) {
	switch v := value.(type) {
	case map[string]any:
		for name, child := range n.members {
			if member, ok := v[name]; ok && child.allowance != never && child.allowance != declared {
				m.collect(child, member)
			}
		}
	case []any:
		for _, element := range v {
			if n.items != nil {
				m.collect(n.items, element)
			}
		}
	case string:
		if n.allowance == identity && v != "" &&
			!slices.ContainsFunc(m.ids, func(other identityText) bool { return strings.EqualFold(other.plain, v) }) {
			m.ids = append(m.ids, identityText{v, m.identity(v)})
		}
	}
}

// identity is what replaces an identity. DPS compares identities without case.
func (m *mask) identity(text string) string {
	for _, id := range m.ids {
		if strings.EqualFold(id.plain, text) {
			return id.shown
		}
	}
	if m.mode != Hashed {
		return MaskedID
	}
	return hashedPrefix + m.digest([]byte(strings.ToLower(text)))
}

// hashedPrefix marks a hashed registration ID, which DPS would still accept.
const hashedPrefix = "hmac-"

// digest is a hash in hexadecimal, an HMAC if there is a key.
func (m *mask) digest(text []byte) string {
	if m.mac == nil {
		sum := sha256.Sum256(text)
		return hex.EncodeToString(sum[:])
	}
	m.mac.Reset()
	m.mac.Write(text)
	return hex.EncodeToString(m.mac.Sum(m.sum[:0]))
}

// text hides everything in a text that must not be seen.
func (m *mask) text(text string) string {
	text = m.keys.Text(text)
	for _, id := range m.ids {
		text = hideFold(text, id.plain, id.shown)
	}
	return text
}

// hideFold replaces plain, in any letter case, by shown. A short one is replaced only where it is a word of its own.
func hideFold(text, plain, shown string) string {
	start := 0
	var hidden strings.Builder
	for i := 0; i < len(text); {
		size := prefixFold(text[i:], plain)
		if size > 0 && (len(plain) >= minInside || standsAlone(text, i, i+size)) {
			hidden.WriteString(text[start:i])
			hidden.WriteString(shown)
			i += size
			start = i
			continue
		}
		_, step := utf8.DecodeRuneInString(text[i:])
		i += step
	}
	if start == 0 {
		return text
	}
	return hidden.String() + text[start:]
}

// prefixFold returns how many bytes at the start of text are prefix in some letter case; 0 if it does not start with
// it.
func prefixFold(text, prefix string) int {
	size := 0
	for _, want := range prefix {
		got, n := utf8.DecodeRuneInString(text[size:])
		if n == 0 || !equalFold(got, want) {
			return 0
		}
		size += n
	}
	return size
}

func equalFold(a, b rune) bool {
	if a == b {
		return true
	}
	if a < utf8.RuneSelf && b < utf8.RuneSelf {
		return a|0x20 == b|0x20 && 'a' <= a|0x20 && a|0x20 <= 'z'
	}
	for folded := unicode.SimpleFold(a); folded != a; folded = unicode.SimpleFold(folded) {
		if folded == b {
			return true
		}
	}
	return false
}

// standsAlone reports whether text[from:to] is not part of a longer word. A dot or a colon ends a word, unless another
// word follows directly, as in a host name.
func standsAlone(text string, from, to int) bool {
	before, size := utf8.DecodeLastRuneInString(text[:from])
	if before == '.' || before == ':' {
		before, _ = utf8.DecodeLastRuneInString(text[:from-size])
	}
	after, size := utf8.DecodeRuneInString(text[to:])
	if after == '.' || after == ':' {
		after, _ = utf8.DecodeRuneInString(text[to+size:])
	}
	return !inWord(before) && !inWord(after)
}

func inWord(r rune) bool {
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_')
}

// drop notes that the current member is left out or changed.
func (m *mask) drop() {
	if len(m.masked) >= maxMasked {
		m.more++
		return
	}
	var pointer jsontext.Pointer
	for _, name := range m.path {
		pointer = pointer.AppendToken(name)
	}
	m.masked = append(m.masked, m.shown(string(pointer)))
}

// shown is a pointer in which names that must not be seen are hidden.
func (m *mask) shown(pointer string) string {
	pointer = m.text(pointer)
	if len(pointer) > maxPointer {
		pointer = strings.ToValidUTF8(pointer[:maxPointer], "") + "…"
	}
	return pointer
}

// enter goes down to a member; leave comes back.
func (m *mask) enter(name string) { m.path = append(m.path, name) }

func (m *mask) leave() { m.path = m.path[:len(m.path)-1] }

// request appends what may be recorded of a member of the request. If there is nothing, ok is false.
func (m *mask) request(b []byte, n *node, value any) (_ []byte, ok bool) {
	if n == nil {
		m.drop()
		return b, false
	}
	switch n.allowance {
	case never:
		m.drop()
		return b, false
	case declared:
		if text, ok := value.(string); ok && keymaterial.IsJSON(text) {
			m.drop() // members with the names of keys cannot be left out of it
			return b, false
		}
		var few [8][]string
		return m.declared(b, value, below(few[:0], m.recordable, n.root))
	}
	switch v := value.(type) {
	case map[string]any:
		if n.members == nil {
			m.drop()
			return b, false
		}
		return m.object(b, v, func(b []byte, name string, member any) ([]byte, bool) {
			return m.request(b, n.members[name], member)
		}), true
	case []any:
		if n.items == nil {
			m.drop()
			return b, false
		}
		return m.array(b, v, n.items), true
	case string:
		return m.leaf(b, n, v)
	case bool, json.Number:
		if n.members != nil || n.items != nil || n.allowance == identity && m.mode != Plain {
			m.drop()
			return b, false
		}
		return m.value(b, value), true
	default:
		m.drop()
		return b, false
	}
}

func (m *mask) leaf(b []byte, n *node, text string) ([]byte, bool) {
	if len(text) > maxText || n.members != nil || n.items != nil {
		m.drop()
		return b, false
	}
	if n.allowance == identity && m.mode != Plain {
		m.drop()
		if m.mode == Absent {
			return b, false
		}
		return dps.AppendString(b, m.identity(text)), true
	}
	return m.value(b, text), true
}

func (m *mask) array(b []byte, list []any, items *node) []byte {
	b = append(b, '[')
	start := len(b)
	for i, element := range list {
		at := len(b)
		if at > start {
			b = append(b, ',')
		}
		m.enter(strconv.Itoa(i))
		var ok bool
		if b, ok = m.request(b, items, element); !ok {
			b = b[:at]
		}
		m.leave()
	}
	return append(b, ']')
}

// object appends an object with the members for which member reports true, in the order of their names.
func (m *mask) object(b []byte, object map[string]any, member func(b []byte, name string, value any) ([]byte, bool)) []byte {
	b = append(b, '{')
	start := len(b)
	var few [32]string
	for _, name := range sortedNames(few[:0], object) {
		at := len(b)
		if at > start {
			b = append(b, ',')
		}
		b = dps.AppendString(b, name)
		b = append(b, ':')
		m.enter(name)
		var ok bool
		if b, ok = member(b, name, object[name]); !ok {
			b = b[:at]
		}
		m.leave()
	}
	return append(b, '}')
}

func sortedNames(names []string, object map[string]any) []string {
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// below selects the paths that start with this element, and removes it from them.
func below(selected, paths [][]string, first string) [][]string {
	for _, path := range paths {
		if len(path) > 0 && path[0] == first {
			selected = append(selected, path[1:])
		}
	}
	return selected
}

// declared appends the parts of a value that these paths lead to.
func (m *mask) declared(b []byte, value any, paths [][]string) ([]byte, bool) {
	if slices.ContainsFunc(paths, func(path []string) bool { return len(path) == 0 }) {
		return m.value(b, value), true
	}
	object, isObject := value.(map[string]any)
	if len(paths) == 0 || !isObject {
		m.drop()
		return b, false
	}
	return m.object(b, object, func(b []byte, name string, member any) ([]byte, bool) {
		if m.text(name) != name {
			m.drop()
			return b, false
		}
		var few [8][]string
		return m.declared(b, member, below(few[:0], paths, name))
	}), true
}

// value appends a whole value in which what must not be seen is hidden.
func (m *mask) value(b []byte, value any) []byte {
	switch v := value.(type) {
	case string:
		hidden := m.text(v)
		if hidden != v {
			m.drop()
		}
		return dps.AppendString(b, hidden)
	case json.Number:
		if hidden := m.text(string(v)); hidden != string(v) {
			m.drop()
			return dps.AppendString(b, hidden)
		}
		return append(b, v...)
	case []any:
		b = append(b, '[')
		for i, element := range v {
			if i > 0 {
				b = append(b, ',')
			}
			m.enter(strconv.Itoa(i))
			b = m.value(b, element)
			m.leave()
		}
		return append(b, ']')
	case map[string]any:
		return m.object(b, v, func(b []byte, name string, member any) ([]byte, bool) {
			if keymaterial.IsName(name) || m.text(name) != name {
				m.drop()
				return b, false
			}
			return m.value(b, member), true
		})
	default:
		return dps.AppendValue(b, value)
	}
}

// newMAC returns nil without a key.
func newMAC(key []byte) hash.Hash {
	if len(key) == 0 {
		return nil
	}
	return hmac.New(sha256.New, key)
}

// HashID is what replaces a registration ID that is recorded [Hashed] under a key.
func HashID(key []byte, id string) string {
	m := mask{mode: Hashed, mac: newMAC(key)}
	return m.identity(id)
}
