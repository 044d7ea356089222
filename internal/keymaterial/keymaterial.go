// Package keymaterial hides the keys and certificates of an AllocationRequest in
// what is shown of it: by the names that DPS gives them, and wherever else a rule
// has put the same text.
package keymaterial

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Masked stands in place of what is hidden.
const Masked = "(masked)"

// members are the properties of DPS that hold keys or certificates, in lower case.
var members = []string{
	"primarykey", "secondarykey", // of symmetricKey
	"endorsementkey", "storagerootkey", // of tpm
	"certificate", "clientcertificate", "signingcertificate", "csr", "issuedcertificatechain",
	"sastoken", "sharedaccesskey", "sharedaccesssignature",
}

const (
	// minWithin is the shortest text that is hidden inside another one: a key
	// of a few letters would take parts out of words.
	minWithin = 8
	// minPart is the shortest part of a key that is hidden where it stands alone.
	minPart = 12
)

// Mask hides the key material of one request. The zero value hides what has a
// telling name only.
type Mask struct {
	texts  []string // as they are
	within *regexp.Regexp
}

// Of collects the key material of a request's document.
func Of(document map[string]any) Mask {
	var m Mask
	m.collect(document, false)
	// The longest first, lest a part be hidden before the whole.
	slices.SortFunc(m.texts, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	m.texts = slices.Compact(m.texts)
	var patterns []string
	for _, text := range m.texts {
		if len(text) >= minWithin && utf8.ValidString(text) { // JSON that was parsed holds nothing else
			patterns = append(patterns, regexp.QuoteMeta(text))
		}
	}
	if len(patterns) > 0 {
		m.within = regexp.MustCompile("(?i)" + strings.Join(patterns, "|"))
	}
	return m
}

func (m *Mask) collect(value any, secret bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			m.collect(member, secret || isMember(name))
		}
	case []any:
		for _, element := range v {
			m.collect(element, secret)
		}
	case string:
		if secret && v != "" {
			m.texts = append(m.texts, v)
		}
	}
}

func isMember(name string) bool { return slices.Contains(members, strings.ToLower(name)) }

// Text returns a text without the key material in it.
func (m Mask) Text(text string) string {
	lower := strings.ToLower(text)
	for _, secret := range m.texts {
		secret = strings.ToLower(secret)
		if lower == secret || len(lower) >= minPart && strings.Contains(secret, lower) {
			return Masked
		}
	}
	if m.within == nil {
		return text
	}
	return m.within.ReplaceAllLiteralString(text, Masked)
}

// Value returns a copy of a JSON value without the key material in it.
func (m Mask) Value(value any) any {
	switch v := value.(type) {
	case map[string]any:
		masked := make(map[string]any, len(v))
		for name, member := range v {
			if isMember(name) {
				masked[m.Text(name)] = hide(member)
			} else {
				masked[m.Text(name)] = m.Value(member)
			}
		}
		return masked
	case []any:
		masked := make([]any, len(v))
		for i, element := range v {
			masked[i] = m.Value(element)
		}
		return masked
	case string:
		return m.Text(v)
	default:
		return value
	}
}

// hide hides every text in a value, and keeps its shape.
func hide(value any) any {
	switch v := value.(type) {
	case map[string]any:
		hidden := make(map[string]any, len(v))
		for name, member := range v {
			hidden[name] = hide(member)
		}
		return hidden
	case []any:
		hidden := make([]any, len(v))
		for i, element := range v {
			hidden[i] = hide(element)
		}
		return hidden
	case string:
		return Masked
	default:
		return value
	}
}
