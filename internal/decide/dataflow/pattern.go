package dataflow

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// matching returns which operands of a function are a pattern and the text that it is matched with.
func matching(function string) (pattern, text int, ok bool) {
	switch function {
	case "regex.match", "regex.find_n", "regex.find_all_string_submatch_n", "regex.split", "regex.template_match":
		return 0, 1, true
	case "regex.replace":
		return 1, 0, true
	case "glob.match":
		return 0, 2, true
	}
	return 0, 0, false
}

// allows reports whether whatever matches is one of a few texts, so that the pattern is a list of what is allowed.
func allows(function string, patterns Alternatives) bool {
	return len(patterns) > 0 && !slices.ContainsFunc(patterns, func(v Value) bool {
		pattern, ok := v.Text()
		switch {
		case !ok:
			return true
		case function == "glob.match":
			return strings.ContainsAny(pattern, "*?[")
		case function != "regex.match":
			return true
		}
		return !isList(pattern)
	})
}

// maxAllowed bounds how many texts count as a list. A pattern for more of them says what a name looks like, not which
// names are allowed.
const maxAllowed = 100

// What the beginning and the end of a text are in the texts of textsOf.
const (
	beginning = "\x02"
	end       = "\x03"
)

// isList reports whether only a few texts match an expression as a whole.
func isList(expression string) bool {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return false
	}
	texts, ok := textsOf(parsed)
	return ok && !slices.ContainsFunc(texts, func(text string) bool {
		return !strings.HasPrefix(text, beginning) || !strings.HasSuffix(text, end)
	})
}

// textsOf lists what matches, without regard to case; ok is false if it is too much.
func textsOf(e *syntax.Regexp) (texts []string, ok bool) {
	switch e.Op {
	case syntax.OpEmptyMatch:
		return []string{""}, true
	case syntax.OpBeginText:
		return []string{beginning}, true
	case syntax.OpEndText:
		return []string{end}, true
	case syntax.OpLiteral:
		return []string{string(e.Rune)}, true
	case syntax.OpCharClass:
		for i := 0; i+1 < len(e.Rune); i += 2 {
			for r := e.Rune[i]; r <= e.Rune[i+1]; r++ {
				if texts = append(texts, string(r)); len(texts) > maxAllowed {
					return nil, false
				}
			}
		}
		return texts, true
	case syntax.OpCapture:
		return textsOf(e.Sub[0])
	case syntax.OpQuest:
		texts, ok = textsOf(e.Sub[0])
		return append(texts, ""), ok
	case syntax.OpConcat:
		return product(e.Sub)
	case syntax.OpRepeat:
		if e.Max != e.Min {
			return nil, false
		}
		return product(slices.Repeat(e.Sub, e.Min))
	case syntax.OpAlternate:
		for _, sub := range e.Sub {
			more, ok := textsOf(sub)
			if texts = append(texts, more...); !ok || len(texts) > maxAllowed {
				return nil, false
			}
		}
		return texts, true
	}
	return nil, false
}

// product lists what matches some expressions one after the other.
func product(parts []*syntax.Regexp) (texts []string, ok bool) {
	texts = []string{""}
	for _, part := range parts {
		more, ok := textsOf(part)
		if !ok || len(texts)*len(more) > maxAllowed {
			return nil, false
		}
		var longer []string
		for _, text := range texts {
			for _, next := range more {
				longer = append(longer, text+next)
			}
		}
		texts = longer
	}
	return texts, true
}

// matchCase notes if an identifier is matched with a regular expression to which letter case matters.
func (f *flow) matchCase(patterns, texts Alternatives) {
	t := traitsOf(texts) & letterCase
	if t == 0 || f.anchor == nil {
		return
	}
	for _, v := range patterns {
		expression, _ := v.Text()
		parsed, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			continue
		}
		if never := t&anyCase == 0; never && isNever(parsed, t) || !never && mindsCase(parsed) {
			f.Cases = append(f.Cases, Case{Constant: expression, Pattern: true, Never: never, Location: f.anchor})
		}
	}
}

// isNever reports whether part of an expression matches no text of the one case.
func isNever(e *syntax.Regexp, t traits) bool {
	if e.Op == syntax.OpLiteral && e.Flags&syntax.FoldCase == 0 {
		return hasOther(string(e.Rune), t)
	}
	return slices.ContainsFunc(e.Sub, func(sub *syntax.Regexp) bool { return isNever(sub, t) })
}

// mindsCase reports whether an expression matches a letter in one case only.
func mindsCase(e *syntax.Regexp) bool {
	switch e.Op {
	case syntax.OpLiteral:
		text := string(e.Rune)
		return e.Flags&syntax.FoldCase == 0 && strings.ToLower(text) != strings.ToUpper(text)
	case syntax.OpCharClass:
		in := func(r rune) bool {
			for i := 0; i+1 < len(e.Rune); i += 2 {
				if e.Rune[i] <= r && r <= e.Rune[i+1] {
					return true
				}
			}
			return false
		}
		for r := 'a'; r <= 'z'; r++ {
			if in(r) != in(unicode.ToUpper(r)) {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(e.Sub, mindsCase)
}
