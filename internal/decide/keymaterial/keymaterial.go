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

const (
	// minWithin is the shortest text that is hidden inside another one. A key of a few letters would hide parts of
	// words.
	minWithin = 8
	// minPart is the shortest part of a key that is hidden if it is a text of its own.
	minPart = 12
)

// Mask hides the key material of one request. The zero value only hides members by their names.
type Mask struct {
	texts  []string // the key material
	lower  []string // the same in lower case
	ascii  bool     // all texts are ASCII
	within func() *regexp.Regexp
}

// Of returns a mask for the key material in a request's document.
func Of(document map[string]any) Mask {
	var m Mask
	m.collect(document, false)
	// The longest text comes first, so that it is hidden before a part of it.
	slices.SortFunc(m.texts, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	m.texts = slices.Compact(m.texts)
	m.ascii = true
	for _, text := range m.texts {
		m.lower = append(m.lower, strings.ToLower(text))
		m.ascii = m.ascii && isASCII(text)
	}
	if len(m.texts) > 0 && len(m.texts[0]) >= minWithin {
		m.within = sync.OnceValue(m.pattern) // most masks do not need it
	}
	return m
}

func (m Mask) pattern() *regexp.Regexp {
	var patterns []string
	for _, text := range m.texts {
		if len(text) >= minWithin && utf8.ValidString(text) { // always true for parsed JSON
			patterns = append(patterns, regexp.QuoteMeta(text))
		}
	}
	if len(patterns) == 0 {
		return nil
	}
	return regexp.MustCompile("(?i)" + strings.Join(patterns, "|"))
}

func (m *Mask) collect(value any, secret bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			m.collect(member, secret || IsName(name))
		}
	case []any:
		for _, element := range v {
			m.collect(element, secret)
		}
	case string:
		if !secret {
			m.collectText(v)
			return
		}
		if v == "" {
			return
		}
		m.texts = append(m.texts, v)
		if strings.Contains(v, "\n") { // for example PEM, whose line ends can be escaped where it is shown
			for line := range strings.Lines(v) {
				if line = strings.TrimSpace(line); len(line) >= minWithin {
					m.texts = append(m.texts, line)
				}
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
func (m *Mask) collectText(text string) {
	if !IsJSON(text) {
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
			m.collect(token.String(), secret || below > 0) // it ends: each is shorter than the text that it is in
		}
		secret = false
	}
}

// IsName reports whether a member with this name contains key material. It ignores case.
func IsName(name string) bool {
	return slices.ContainsFunc(members, func(member string) bool { return strings.EqualFold(member, name) })
}

// Text returns a text without the key material in it.
func (m Mask) Text(text string) string {
	if len(m.texts) == 0 {
		return text
	}
	lower := strings.ToLower(text)
	found := !m.ascii || !isASCII(text) // the pattern folds letters that ToLower does not
	for _, secret := range m.lower {
		if lower == secret || len(lower) >= minPart && strings.Contains(secret, lower) {
			return Masked
		}
		found = found || len(secret) >= minWithin && strings.Contains(lower, secret)
	}
	if !found || m.within == nil {
		return text
	}
	if pattern := m.within(); pattern != nil {
		return pattern.ReplaceAllLiteralString(text, Masked)
	}
	return text
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
