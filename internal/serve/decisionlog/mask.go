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

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
)

const (
	// maxMasked is how many pointers a record lists.
	maxMasked = 64
	// maxPointer bounds each of them, in bytes: names can be of any length.
	maxPointer = 256
	// maxText bounds a member that the schema lets be recorded, in bytes. DPS's
	// own have 253 at most, distinguished names a few hundred.
	maxText = 2048
	// minInside is the shortest identity that is hidden inside of words: the
	// device "eu" is not to take a part out of contoso-eu.
	minInside = 4
)

// MaskedID stands for an identity that is absent, where something has to stand: in
// the midst of a text, or for who replays the record.
const MaskedID = "masked-id"

// mask writes what may be recorded of one request, and of what was said about it.
type mask struct {
	mode IDMode
	mac  hash.Hash // under the key; nil without one
	// keys are hidden everywhere, whatever the mode.
	keys keymaterial.Mask
	// ids are what names the device, the longest first, and what stands for
	// each; none in the mode Plain.
	ids        []identityText
	recordable [][]string // by the rule's METADATA

	pointer []byte // of the member in hand
	masked  []string
	more    int
	sum     [sha256.Size]byte
}

type identityText struct{ plain, shown string }

// reset prepares for a request, whose document may be nil.
func (m *mask) reset(allowed *node, document map[string]any, recordable [][]string) {
	m.keys, m.recordable = keymaterial.Of(document), recordable
	m.pointer, m.masked, m.more, m.ids = m.pointer[:0], m.masked[:0], 0, m.ids[:0]
	if m.mode == Plain {
		return
	}
	m.collect(allowed, document)
	slices.SortFunc(m.ids, func(a, b identityText) int { return len(b.plain) - len(a.plain) })
}

// collect finds what names the device.
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

// identity is what stands for an identity. DPS compares these without case.
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

// hashedPrefix makes a hashed registration ID one that DPS would take, too, and
// tells it from a plain one.
const hashedPrefix = "hmac-"

// digest is in hexadecimal, under the key where there is one.
func (m *mask) digest(text []byte) string {
	if m.mac == nil {
		sum := sha256.Sum256(text)
		return hex.EncodeToString(sum[:])
	}
	m.mac.Reset()
	m.mac.Write(text)
	return hex.EncodeToString(m.mac.Sum(m.sum[:0]))
}

// text hides what must not be in a text, wherever it stands there.
func (m *mask) text(text string) string {
	text = m.keys.Text(text)
	for _, id := range m.ids {
		text = hideFold(text, id.plain, id.shown)
	}
	return text
}

// hideFold puts shown in place of a text, in any letter case. A short one is
// hidden where it stands alone.
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

// prefixFold returns how many bytes of text are prefix in some letter case, 0 if
// it does not start with it.
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

// standsAlone reports whether text[from:to] is not part of a longer word. A dot or
// a colon may end a sentence, unless a word goes on behind it, as in a host name.
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

// drop notes that the member in hand is left out or changed.
func (m *mask) drop() {
	if len(m.masked) >= maxMasked {
		m.more++
		return
	}
	m.masked = append(m.masked, m.shown(string(m.pointer)))
}

// shown is a pointer without what must not be seen of the names in it.
func (m *mask) shown(pointer string) string {
	pointer = m.text(pointer)
	if len(pointer) > maxPointer {
		pointer = strings.ToValidUTF8(pointer[:maxPointer], "") + "…"
	}
	return pointer
}

// enter moves the pointer to a member; leave moves it back.
func (m *mask) enter(name string) (length int) {
	length = len(m.pointer)
	m.pointer = append(m.pointer, '/')
	for i := range len(name) {
		switch name[i] {
		case '~':
			m.pointer = append(m.pointer, "~0"...)
		case '/':
			m.pointer = append(m.pointer, "~1"...)
		default:
			m.pointer = append(m.pointer, name[i])
		}
	}
	return length
}

func (m *mask) leave(length int) { m.pointer = m.pointer[:length] }

// request appends what may be recorded of a member of the request. If that is
// nothing, it appends nothing, and ok is false.
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
		length := m.enter(strconv.Itoa(i))
		var ok bool
		if b, ok = m.request(b, items, element); !ok {
			b = b[:at]
		}
		m.leave(length)
	}
	return append(b, ']')
}

// object appends an object of the members for which member appends something, in
// the order of their names.
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
		length := m.enter(name)
		var ok bool
		if b, ok = member(b, name, object[name]); !ok {
			b = b[:at]
		}
		m.leave(length)
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

// below selects the paths with this first element, without it.
func below(selected, paths [][]string, first string) [][]string {
	for _, path := range paths {
		if len(path) > 0 && path[0] == first {
			selected = append(selected, path[1:])
		}
	}
	return selected
}

// declared appends the parts of a value to which these paths lead.
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

// value appends a whole value, without what must not be seen of it.
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
			length := m.enter(strconv.Itoa(i))
			b = m.value(b, element)
			m.leave(length)
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

// HashID is what stands for a registration ID that is recorded [Hashed] under a key.
func HashID(key []byte, id string) string {
	m := mask{mode: Hashed, mac: newMAC(key)}
	return m.identity(id)
}
