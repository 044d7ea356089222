// Package keymaterial hides the keys and certificates of an AllocationRequest in what is shown of it: it finds them by
// the names that DPS gives them, and everywhere else where a rule has put the same text.
package keymaterial

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/usher-dps/usher/dps"
)

// Masked replaces what is hidden.
const Masked = "(masked)"

// members are the properties of DPS that contain keys or certificates, in lower case.
var members = []string{
	"primarykey", "secondarykey", // of symmetricKey
	"endorsementkey", "storagerootkey", // of tpm
	"certificate", "clientcertificate", "signingcertificate", "csr", "issuedcertificatechain",
	"sastoken", "sharedaccesskey", "sharedaccesssignature",
}

// lengths has a bit for the length of each of them: most names are told apart by that.
var lengths = func() (set uint64) {
	for _, member := range members {
		set |= 1 << len(member)
	}
	return set
}()

const (
	// minWithin is the shortest text that is hidden inside another one. A key of a few letters would hide parts of
	// words.
	minWithin = 8
	// minPart is the shortest part of a key that is hidden if it is a text of its own.
	minPart = 12
)

// Mask hides the key material of one request. The zero value only hides members by their names.
type Mask struct{ *keys }

// keys is the key material of a request.
type keys struct {
	texts []string  // the longest first
	has   [256]bool // the bytes in them; a letter counts in both cases
	ascii bool      // all of them are ASCII

	// Most masks need neither.
	lowering, compiling sync.Once
	lowered             []string       // the same in lower case
	within              *regexp.Regexp // finds them inside others; nil if all are too short for that
}

// Of returns a mask for the key material in a request, given as a [dps.Value] or made of map[string]any and what else
// encoding/json decodes to.
func Of(request any) Mask {
	var found collector
	found.collect(request, false)
	if len(found.texts) == 0 {
		return Mask{}
	}
	// The longest text comes first, so that it is hidden before a part of it.
	slices.SortFunc(found.texts, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	k := &keys{texts: slices.Compact(found.texts), ascii: true}
	for _, text := range k.texts {
		for i := range len(text) {
			k.has[text[i]] = true
		}
	}
	for c, has := range k.has {
		k.ascii = k.ascii && (!has || c < utf8.RuneSelf)
	}
	for upper := 'A'; upper <= 'Z'; upper++ {
		both := k.has[upper] || k.has[upper+'a'-'A']
		k.has[upper], k.has[upper+'a'-'A'] = both, both
	}
	return Mask{k}
}

func (k *keys) lower() []string {
	k.lowering.Do(func() {
		for _, text := range k.texts {
			k.lowered = append(k.lowered, strings.ToLower(text))
		}
	})
	return k.lowered
}

func (k *keys) pattern() *regexp.Regexp {
	k.compiling.Do(func() {
		var patterns []string
		for _, text := range k.texts {
			if len(text) >= minWithin && utf8.ValidString(text) { // always true for parsed JSON
				patterns = append(patterns, regexp.QuoteMeta(text))
			}
		}
		if len(patterns) > 0 {
			k.within = regexp.MustCompile("(?i)" + strings.Join(patterns, "|"))
		}
	})
	return k.within
}

// collector collects the key material of a request.
type collector struct{ texts []string }

func (c *collector) collect(value any, secret bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			c.collect(member, secret || IsName(name))
		}
	case []any:
		for _, element := range v {
			c.collect(element, secret)
		}
	case *dps.Value:
		if v.Kind() == dps.String {
			c.found(v.Text(), secret)
		}
		for i := range v.Len() {
			c.collect(v.At(i), secret || IsName(v.At(i).Name()))
		}
	case string:
		c.found(v, secret)
	}
}

// found collects a text, which is key material if secret is set.
func (c *collector) found(text string, secret bool) {
	if !secret {
		c.collectText(text)
		return
	}
	if text == "" {
		return
	}
	c.texts = append(c.texts, text)
	if strings.Contains(text, "\n") { // for example PEM, whose line ends can be escaped where it is shown
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); len(line) >= minWithin {
				c.texts = append(c.texts, line)
			}
		}
	}
}

// IsJSON reports whether a text looks like JSON that can have members, such as a payload that a device sends as a text.
func IsJSON(text string) bool {
	text = strings.TrimLeft(text, " \t\r\n")
	return text != "" && strings.IndexByte(`{["`, text[0]) >= 0
}

// collectText finds key material in JSON that is a text, up to where it is broken.
func (c *collector) collectText(text string) {
	if !IsJSON(text) {
		return
	}
	if inside, ok := unquoted(text); ok { // as each enrollment's etag is
		c.collectText(inside)
		return
	}
	decoder := jsontext.NewDecoder(strings.NewReader(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	secret, below := false, 0 // below is the depth of the object or array that is all secret
	for {
		token, err := decoder.ReadToken()
		if err != nil {
			return
		}
		depth := decoder.StackDepth()
		if depth < below {
			below = 0
		}
		kind, read := decoder.StackIndex(depth)
		switch {
		case token.Kind() == '{' || token.Kind() == '[':
			if secret && below == 0 {
				below = depth
			}
		case token.Kind() != '"':
		case kind == '{' && read%2 == 1: // a name
			secret = IsName(token.String())
			continue
		default:
			c.found(token.String(), secret || below > 0) // it ends: each is shorter than the text that it is in
		}
		secret = false
	}
}

// unquoted returns what is in a text that is one JSON string without escapes.
func unquoted(text string) (inside string, ok bool) {
	text = strings.Trim(text, " \t\r\n")
	end := len(text) - 1
	if end < 1 || text[0] != '"' || text[end] != '"' || strings.ContainsAny(text[1:end], "\"\\") {
		return "", false
	}
	return text[1:end], true
}

// IsName reports whether a member with this name contains key material. It ignores case.
func IsName(name string) bool {
	if isASCII(name) && (len(name) >= 64 || lengths&(1<<len(name)) == 0) {
		return false
	}
	return slices.ContainsFunc(members, func(member string) bool { return strings.EqualFold(member, name) })
}

// Text returns a text without the key material in it.
func (m Mask) Text(text string) string {
	if m.keys == nil || m.isClean(text) {
		return text
	}
	lower := strings.ToLower(text)
	found := !m.ascii || !isASCII(text) // the pattern folds letters that ToLower does not
	for _, secret := range m.lower() {
		if lower == secret || len(lower) >= minPart && strings.Contains(secret, lower) {
			return Masked
		}
		found = found || len(secret) >= minWithin && strings.Contains(lower, secret)
	}
	if !found {
		return text
	}
	if pattern := m.pattern(); pattern != nil {
		return pattern.ReplaceAllLiteralString(text, Masked)
	}
	return text
}

// isClean reports whether there can be no key material in a text, as in nearly every one: the text is too short for
// that, and has a character that no key has.
func (k *keys) isClean(text string) bool {
	if !k.ascii || len(text) >= len(k.texts[len(k.texts)-1]) {
		return false
	}
	foreign := len(text) < minPart // then it is no part either
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
		foreign = foreign || !k.has[text[i]]
	}
	return foreign
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Value returns a copy of a JSON value without the key material in it.
func (m Mask) Value(value any) any { return m.mask(value, false) }

// mask returns a copy of a value without the key material in it. If secret is set, it hides every text.
func (m Mask) mask(value any, secret bool) any {
	switch v := value.(type) {
	case map[string]any:
		masked := make(map[string]any, len(v))
		for name, member := range v {
			masked[m.Text(name)] = m.mask(member, secret || IsName(name))
		}
		return masked
	case []any:
		masked := make([]any, len(v))
		for i, element := range v {
			masked[i] = m.mask(element, secret)
		}
		return masked
	case string:
		if secret {
			return Masked
		}
		return m.Text(v)
	default:
		return value
	}
}
