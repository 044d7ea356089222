package verify

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/usher-dps/usher/internal/decide/dataflow"
)

var (
	registrationID = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9:._-]{0,126}[A-Za-z0-9])?$`)
	hubLabel       = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{1,48}[A-Za-z0-9])?$`)
	hubHost        = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,48}[A-Za-z0-9])?(\.device)?\.azure-devices(-provisioning)?\.[a-z]{2,5}(\.[a-z]{2,3})?$`)
)

// texts returns texts that make a difference to a rule, given its constants and how it uses them: some that it looks
// for, and some that it does not.
func texts(literals []dataflow.Literal, separators []string) []string {
	var found []string
	add := func(list ...string) { found = addNew(found, list...) }
	var starts, middles, ends []string
	for _, literal := range literals {
		text, ok := literal.Value.(string)
		if !ok {
			continue
		}
		switch use := literal.Use; {
		case use == "startswith", use == "strings.any_prefix_match", use == "trim_prefix":
			starts = append(starts, text)
			add(text+"1", text)
		case use == "endswith", use == "strings.any_suffix_match", use == "trim_suffix":
			ends = append(ends, text)
			add("a"+text, text)
		case use == "contains", use == "indexof", use == "indexof_n", use == "strings.count", use == "replace":
			middles = append(middles, text)
			add("a" + text + "1")
		case strings.HasPrefix(use, "regex."):
			add(matchesOf(text)...)
		case use == "glob.match", strings.HasSuffix(use, "matching"):
			add(globExamples(text)...)
		case use == "split":
		default:
			add(text)
			for _, separator := range separators {
				add("a"+separator+text+separator+"1", text+separator+"1", "1"+separator+text)
			}
		}
	}
	// Texts for which two conditions hold at once.
	for _, start := range spread(starts, maxTogether) {
		for _, other := range spread(slices.Concat(middles, ends), maxTogether) {
			add(start + "1" + other)
		}
	}
	for _, middle := range spread(middles, maxTogether) {
		for _, end := range spread(ends, maxTogether) {
			add("a" + middle + end)
		}
	}
	return found
}

// maxTogether limits how many constants of one use are combined with those of another.
const maxTogether = 6

// separatorsOf lists the texts at which the rule splits others.
func separatorsOf(literals []dataflow.Literal) []string {
	var found []string
	for _, literal := range literals {
		if text, ok := literal.Value.(string); ok && literal.Use == "split" && text != "" {
			found = addNew(found, text)
		}
	}
	return found
}

// globExamples fills the wildcards of a glob in two ways.
func globExamples(glob string) []string {
	if !strings.ContainsAny(glob, "*?") {
		return []string{glob}
	}
	short := strings.NewReplacer("**", "a", "*", "", "?", "a").Replace(glob)
	short = strings.TrimSuffix(strings.TrimPrefix(short, "-"), "-")
	long := strings.NewReplacer("**", "a1", "*", "a1", "?", "b").Replace(glob)
	if short == "" {
		return []string{long}
	}
	return []string{short, long}
}

// moreExamples fills the wildcards of a glob in other ways, in case other rules serve the first examples.
func moreExamples(glob string) []string {
	var list []string
	for n := range 20 {
		fill := fmt.Sprint("usher-", n)
		list = append(list, strings.NewReplacer("*", fill, "?", string(rune('a'+n))).Replace(glob))
	}
	return list
}

// Limits of the texts that match a regular expression: how many are found, how many are tried for that, and their length.
const (
	maxMatches = 8
	maxChoices = 256
	maxMatch   = 300
)

// matchesOf returns texts that match a regular expression, if it is not too hard to find some.
func matchesOf(expression string) []string {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil
	}
	compiled, err := regexp.Compile(expression)
	if err != nil {
		return nil
	}
	parsed = parsed.Simplify()
	var found []string
	for choices := range maxChoices {
		m := matcher{choices: choices * 97 % maxChoices} // so that the first ones differ in many places
		if m.write(parsed); compiled.MatchString(m.String()) {
			found = addNew(found, m.String())
		}
		if len(found) == maxMatches || m.made == 0 {
			break
		}
	}
	return found
}

// matcher writes a text for a regular expression. Its bits choose among alternatives, one after the other.
type matcher struct {
	strings.Builder
	choices, made int
}

func (m *matcher) write(e *syntax.Regexp) {
	if m.Len() > maxMatch {
		return
	}
	switch e.Op {
	case syntax.OpLiteral:
		m.WriteString(string(e.Rune))
	case syntax.OpCharClass:
		m.WriteRune(runeOf(e.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		m.WriteByte('a')
	case syntax.OpAlternate:
		chosen := m.choices >> (m.made % 8) % len(e.Sub)
		m.made++
		m.write(e.Sub[chosen])
	case syntax.OpCapture, syntax.OpPlus, syntax.OpQuest:
		m.write(e.Sub[0])
	case syntax.OpRepeat:
		for range max(e.Min, 1) {
			m.write(e.Sub[0])
		}
	case syntax.OpConcat:
		for _, part := range e.Sub {
			m.write(part)
		}
	}
}

// runeOf returns a rune of a class, readable if possible. The class is given as pairs of bounds.
func runeOf(bounds []rune) rune {
	for _, readable := range "a1A-_" {
		for i := 0; i+1 < len(bounds); i += 2 {
			if bounds[i] <= readable && readable <= bounds[i+1] {
				return readable
			}
		}
	}
	for i := 0; i+1 < len(bounds); i += 2 {
		if bounds[i] > ' ' && bounds[i] < 0x7f {
			return bounds[i]
		}
	}
	if len(bounds) == 0 {
		return 'a'
	}
	return bounds[0]
}

// hostOf returns the host name of a hub that a constant may stand for, and false if there is none.
func hostOf(text string) (string, bool) {
	switch {
	case hubHost.MatchString(text):
		return text, true
	case hubLabel.MatchString(text) && len(text) > 2:
		return text + ".azure-devices.net", true
	}
	return "", false
}

// IsHub reports whether a text can be the host name of an IoT hub, or the first label of one.
func IsHub(text string) bool {
	_, ok := hostOf(text)
	return ok
}
