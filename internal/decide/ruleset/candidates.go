package ruleset

import (
	"slices"
	"strings"

	"github.com/usher-dps/usher/dps"
)

// Candidate is a rule that could serve an enrollment.
type Candidate struct {
	Rule *Rule
	// Pattern is the name or glob by which it does, in lower case; empty for
	// the rule that serves what no other does.
	Pattern string
	// Exact is set where the pattern is the name itself.
	Exact bool
}

// Candidates lists the rules that could serve an enrollment. The first one does.
func (rs *Ruleset) Candidates(enrollment dps.Enrollment) []Candidate {
	return rs.index.of(enrollment.Kind).candidates(enrollment.ID, rs.index.fallback)
}

// candidates has the order of find: the name itself, then globs by precision,
// then the rule for all others.
func (n *names) candidates(name string, fallback *Rule) []Candidate {
	name = strings.ToLower(name)
	var list []Candidate
	if rule := n.exact[name]; rule != nil {
		list = append(list, Candidate{Rule: rule, Pattern: name, Exact: true})
	}
	var matching []glob
	for _, g := range n.globs {
		if matches(g.pattern, name) {
			matching = append(matching, g)
		}
	}
	slices.SortStableFunc(matching, func(a, b glob) int { return b.precision - a.precision })
	for _, g := range matching {
		list = append(list, Candidate{Rule: g.rule, Pattern: g.pattern})
	}
	if fallback != nil {
		list = append(list, Candidate{Rule: fallback})
	}
	return list
}
