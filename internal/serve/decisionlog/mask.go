package decisionlog

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
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

	path   []step // to the current value
	masked []string
	more   int
	sum    [sha256.Size]byte
}

// step leads to a member, or to an element.
type step struct {
	name      string
	index     int
	isElement bool
}

type identityText struct{ plain, shown string }

// reset prepares the mask for a request, whose body may be nil.
func (m *mask) reset(allowed *node, body *dps.Value, recordable [][]string) {
	m.keys, m.recordable = keymaterial.Of(body), recordable
	m.path, m.masked, m.more, m.ids = m.path[:0], m.masked[:0], 0, m.ids[:0]
	if m.mode == Plain {
		return
	}
	m.collect(allowed, body)
	slices.SortFunc(m.ids, func(a, b identityText) int { return len(b.plain) - len(a.plain) })
}

// collect finds the names of the device.
func (m *mask) collect(n *node, value *dps.Value) {
	switch value.Kind() {
	case dps.Object:
		for i := range value.Len() {
			member := value.At(i)
			if child := n.members[member.Name()]; child != nil && child.allowance != never && child.allowance != declared {
				m.collect(child, member)
			}
		}
	case dps.Array:
		for i := range value.Len() {
			if n.items != nil {
				m.collect(n.items, value.At(i))
			}
		}
	case dps.String:
		text := value.Text()
		if n.allowance == identity && text != "" &&
			!slices.ContainsFunc(m.ids, func(other identityText) bool { return strings.EqualFold(other.plain, text) }) {
			m.ids = append(m.ids, identityText{text, m.identity(text)})
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
	return m.digest(hashedPrefix, []byte(strings.ToLower(text)))
}

// hashedPrefix marks a hashed registration ID, which DPS would still accept.
const hashedPrefix = "hmac-"

// digest is a hash in hexadecimal after a prefix, an HMAC if there is a key.
func (m *mask) digest(prefix string, text []byte) string {
	if m.mac == nil {
		m.sum = sha256.Sum256(text)
	} else {
		m.mac.Reset()
		m.mac.Write(text)
		m.mac.Sum(m.sum[:0])
	}
	var few [96]byte
	return string(hex.AppendEncode(append(few[:0], prefix...), m.sum[:]))
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
	for _, s := range m.path {
		if s.isElement {
			s.name = strconv.Itoa(s.index)
		}
		pointer = pointer.AppendToken(s.name)
	}
	m.masked = append(m.masked, m.shown(string(pointer)))
}

// dropKnown is drop for a member that the schema names: its pointer is known, and there is nothing to hide in it.
func (m *mask) dropKnown(n *node) {
	if n.pointer == "" || len(m.masked) >= maxMasked {
		m.drop()
		return
	}
	m.masked = append(m.masked, n.pointer)
}

// shown is a pointer in which names that must not be seen are hidden.
func (m *mask) shown(pointer string) string {
	pointer = m.text(pointer)
	if len(pointer) > maxPointer {
		pointer = strings.ToValidUTF8(pointer[:maxPointer], "") + "…"
	}
	return pointer
}

// enter goes down to a member, and appends its name and what stands before it; leave comes back.
func (m *mask) enter(b []byte, member *dps.Value) []byte {
	m.path = append(m.path, step{name: member.Name()})
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(dps.AppendString(b, member.Name()), ':')
}

func (m *mask) enterElement(b []byte, index int) []byte {
	m.path = append(m.path, step{index: index, isElement: true})
	if b[len(b)-1] != '[' {
		b = append(b, ',')
	}
	return b
}

func (m *mask) leave() { m.path = m.path[:len(m.path)-1] }

// request appends what may be recorded of a value in the request. If there is nothing, ok is false.
func (m *mask) request(b []byte, n *node, value *dps.Value) (_ []byte, ok bool) {
	if n == nil {
		m.drop()
		return b, false
	}
	switch n.allowance {
	case never:
		m.dropKnown(n)
		return b, false
	case declared:
		if keymaterial.IsJSON(value.Text()) {
			m.drop() // members with the names of keys cannot be left out of it
			return b, false
		}
		var few [8][]string
		paths := below(few[:0], m.recordable, n.root)
		if len(paths) == 0 {
			m.dropKnown(n)
			return b, false
		}
		return m.declared(b, value, paths)
	}
	switch kind := value.Kind(); {
	case kind == dps.Object && n.members != nil:
		b = append(b, '{')
		for i := range value.Len() {
			member := value.At(i)
			start := len(b)
			if b, ok = m.request(m.enter(b, member), n.members[member.Name()], member); !ok {
				b = b[:start]
			}
			m.leave()
		}
		return append(b, '}'), true
	case kind == dps.Array && n.items != nil:
		b = append(b, '[')
		for i := range value.Len() {
			start := len(b)
			if b, ok = m.request(m.enterElement(b, i), n.items, value.At(i)); !ok {
				b = b[:start]
			}
			m.leave()
		}
		return append(b, ']'), true
	case kind == dps.Object, kind == dps.Array, kind == dps.Null, n.members != nil, n.items != nil, len(value.Text()) > maxText:
		m.drop()
		return b, false
	case n.allowance == identity && m.mode != Plain:
		m.drop()
		if m.mode == Absent || kind != dps.String {
			return b, false
		}
		return dps.AppendString(b, m.identity(value.Text())), true
	}
	return m.value(b, value), true
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
func (m *mask) declared(b []byte, value *dps.Value, paths [][]string) (_ []byte, ok bool) {
	if slices.ContainsFunc(paths, func(path []string) bool { return len(path) == 0 }) {
		return m.value(b, value), true
	}
	if len(paths) == 0 || value.Kind() != dps.Object {
		m.drop()
		return b, false
	}
	b = append(b, '{')
	for i := range value.Len() {
		member := value.At(i)
		start := len(b)
		b = m.enter(b, member)
		if m.text(member.Name()) != member.Name() {
			m.drop()
			ok = false
		} else {
			var few [8][]string
			b, ok = m.declared(b, member, below(few[:0], paths, member.Name()))
		}
		if !ok {
			b = b[:start]
		}
		m.leave()
	}
	return append(b, '}'), true
}

// value appends a whole value in which what must not be seen is hidden.
func (m *mask) value(b []byte, value *dps.Value) []byte {
	switch value.Kind() {
	case dps.String:
		return dps.AppendString(b, m.hidden(value.Text()))
	case dps.Number:
		number := string(value.Number())
		if hidden := m.hidden(number); hidden != number {
			return dps.AppendString(b, hidden)
		}
	case dps.Array:
		b = append(b, '[')
		for i := range value.Len() {
			b = m.value(m.enterElement(b, i), value.At(i))
			m.leave()
		}
		return append(b, ']')
	case dps.Object:
		b = append(b, '{')
		for i := range value.Len() {
			member := value.At(i)
			start := len(b)
			b = m.enter(b, member)
			if keymaterial.IsName(member.Name()) || m.text(member.Name()) != member.Name() {
				m.drop()
				b = b[:start]
			} else {
				b = m.value(b, member)
			}
			m.leave()
		}
		return append(b, '}')
	}
	return value.AppendJSON(b)
}

// hidden is the text of the current member without what must not be seen.
func (m *mask) hidden(text string) string {
	hidden := m.text(text)
	if hidden != text {
		m.drop()
	}
	return hidden
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
