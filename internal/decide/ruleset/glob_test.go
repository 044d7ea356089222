package ruleset

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/usher-dps/usher/answer"
)

// naiveMatches is the definition of a glob.
func naiveMatches(pattern, name string) bool {
	switch {
	case pattern == "":
		return name == ""
	case pattern[0] == '*':
		return naiveMatches(pattern[1:], name) || name != "" && naiveMatches(pattern, name[1:])
	case name == "":
		return false
	default:
		return (pattern[0] == '?' || pattern[0] == name[0]) && naiveMatches(pattern[1:], name[1:])
	}
}

// words returns all words over an alphabet up to a length.
func words(alphabet string, length int) []string {
	all := []string{""}
	for start, n := 0, 0; n < length; n++ {
		end := len(all)
		for _, word := range all[start:end] {
			for _, letter := range alphabet {
				all = append(all, word+string(letter))
			}
		}
		start = end
	}
	return all
}

// All pairs of globs up to four characters, over two letters and both wildcards. Where two of them overlap, some name
// of at most six letters matches both: with a * in each, three other characters in each are left.
func TestGlobsExhaustively(t *testing.T) {
	t.Parallel()
	patterns, names := words("ab*?", 4), words("ab", 6)
	matched := make([]map[string]bool, len(patterns))
	for i, pattern := range patterns {
		matched[i] = map[string]bool{}
		for _, name := range names {
			got, want := matches(pattern, name), naiveMatches(pattern, name)
			if got != want {
				t.Fatalf("matches(%q, %q) = %v", pattern, name, got)
			}
			if got {
				matched[i][name] = true
			}
		}
	}
	for i, a := range patterns {
		for j, b := range patterns {
			want := false
			for name := range matched[i] {
				if matched[j][name] {
					want = true
					break
				}
			}
			if got := overlap(a, b); got != want {
				t.Fatalf("overlap(%q, %q) = %v", a, b, got)
			}
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("*-factory", "eu-*", "eu-factory")
	f.Add("a?c*", "*?", "abc")
	f.Add("***", "", "")
	f.Add("a*b*c*d", "*d*c*b*a", "abcd")
	f.Fuzz(func(t *testing.T, a, b, name string) {
		// The references take exponential time.
		a, b, name = a[:min(len(a), 12)], b[:min(len(b), 12)], name[:min(len(name), 16)]
		inA, inB := matches(a, name), matches(b, name)
		if inA != naiveMatches(a, name) {
			t.Errorf("matches(%q, %q) = %v", a, name, inA)
		}
		if overlap(a, b) != overlap(b, a) {
			t.Errorf("overlap(%q, %q) depends on the order", a, b)
		}
		if inA && inB && !overlap(a, b) {
			t.Errorf("overlap(%q, %q) = false, but %q matches both", a, b, name)
		}
		if got := overlap(a, b); got != naiveOverlap(a, b) {
			t.Errorf("overlap(%q, %q) = %v", a, b, got)
		}
		if !overlap(a, a) {
			t.Errorf("overlap(%q, itself) = false", a)
		}
	})
}

func naiveOverlap(a, b string) bool {
	switch {
	case a == "" && b == "":
		return true
	case a != "" && a[0] == '*':
		return naiveOverlap(a[1:], b) || b != "" && naiveOverlap(a, b[1:])
	case b != "" && b[0] == '*':
		return naiveOverlap(a, b[1:]) || a != "" && naiveOverlap(a[1:], b)
	case a == "" || b == "":
		return false
	default:
		return (a[0] == b[0] || a[0] == '?' || b[0] == '?') && naiveOverlap(a[1:], b[1:])
	}
}

// The index finds what a look at every pattern finds.
func TestIndexAgreesWithLookingAtAll(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(alphabet string, most int) string {
		var b strings.Builder
		for range 1 + random.IntN(most) {
			b.WriteByte(alphabet[random.IntN(len(alphabet))])
		}
		return b.String()
	}
	all := words("ab", 6)
	found := 0
	for round := range 60 {
		var index names
		var rules []*Rule
		seen := map[string]bool{}
		for i := range 1 + random.IntN(12) {
			rule := &Rule{Rule: answer.Rule{Package: fmt.Sprint("p", i)}}
			for range 1 + random.IntN(3) {
				// No two patterns that conflict.
				pattern := pick("ab*?", 5)
				if seen[pattern] || conflicts(pattern, seen) {
					continue
				}
				seen[pattern] = true
				rule.Groups = append(rule.Groups, pattern)
			}
			rules = append(rules, rule)
		}
		for _, rule := range rules {
			if problems := index.add("group", rule, rule.Groups); len(problems) > 0 {
				t.Fatalf("round %d: %v", round, problems)
			}
		}
		if problems := index.seal("groups"); len(problems) > 0 {
			t.Fatalf("round %d: %v", round, problems)
		}
		fallback := &Rule{Rule: answer.Rule{Package: "default"}}
		for _, name := range all {
			want, best := fallback, -1
			for _, rule := range rules {
				for _, pattern := range rule.Groups {
					precision := len(strings.NewReplacer("*", "", "?", "").Replace(pattern))
					if pattern == name {
						precision = 1000 // exact before any glob
					}
					if naiveMatches(pattern, name) && precision > best {
						want, best = rule, precision
					}
				}
			}
			got := index.find(name, fallback)
			if got != want {
				t.Fatalf("round %d: find(%q) = %s, want %s, of %v", round, name, got.Package, want.Package, seen)
			}
			if got != fallback {
				found++
			}
		}
	}
	if found == 0 {
		t.Error("nothing was ever found")
	}
}

// conflicts reports whether a glob claims a name with the same precision as another.
func conflicts(pattern string, others map[string]bool) bool {
	literal := func(p string) int { return len(strings.NewReplacer("*", "", "?", "").Replace(p)) }
	for other := range others {
		if strings.ContainsAny(pattern, "*?") && strings.ContainsAny(other, "*?") &&
			literal(pattern) == literal(other) && naiveOverlap(pattern, other) {
			return true
		}
	}
	return false
}
