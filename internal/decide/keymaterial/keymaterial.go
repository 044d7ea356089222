// Package keymaterial hides the keys and certificates of an AllocationRequest in
// what is shown of it: by the names that DPS gives them, and wherever else a rule
// has put the same text.
package keymaterial

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"sync"
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
	lower  []string // the same in lower case
	ascii  bool     // all of them are
	within func() *regexp.Regexp
}

// Of collects the key material of a request's document.
func Of(document map[string]any) Mask {
	var m Mask
	m.collect(document, false)
	// The longest first, lest a part be hidden before the whole.
	slices.SortFunc(m.texts, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	m.texts = slices.Compact(m.texts)
	m.ascii = true
	for _, text := range m.texts {
		m.lower = append(m.lower, strings.ToLower(text))
		m.ascii = m.ascii && isASCII(text)
	}
	if len(m.texts) > 0 && len(m.texts[0]) >= minWithin {
		m.within = sync.OnceValue(m.pattern) // most masks never need it
	}
	return m
}

func (m Mask) pattern() *regexp.Regexp {
	var patterns []string
	for _, text := range m.texts {
		if len(text) >= minWithin && utf8.ValidString(text) { // JSON that was parsed holds nothing else
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
		if !secret || v == "" {
			return
		}
		m.texts = append(m.texts, v)
		if strings.Contains(v, "\n") { // PEM, say: what shows it can escape its line ends
			for line := range strings.Lines(v) {
				if line = strings.TrimSpace(line); len(line) >= minWithin {
					m.texts = append(m.texts, line)
				}
			}
		}
	}
}

// IsName reports whether a member of this name holds key material, whatever its
// value. Case does not count.
func IsName(name string) bool {
	return slices.ContainsFunc(members, func(member string) bool { return strings.EqualFold(member, name) })
}

// Text returns a text without the key material in it.
func (m Mask) Text(text string) string {
	if len(m.texts) == 0 {
		return text
	}
	lower := strings.ToLower(text)
	holds := !m.ascii || !isASCII(text) // the pattern folds letters that ToLower leaves
	for _, secret := range m.lower {
		if lower == secret || len(lower) >= minPart && strings.Contains(secret, lower) {
			return Masked
		}
		holds = holds || len(secret) >= minWithin && strings.Contains(lower, secret)
	}
	if !holds || m.within == nil {
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
func (m Mask) Value(value any) any {
	switch v := value.(type) {
	case map[string]any:
		masked := make(map[string]any, len(v))
		for name, member := range v {
			if IsName(name) {
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
