package ruleset

import (
	"slices"
	"strings"
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

// CandidatesForIndividual lists the rules that could serve an individual
// enrollment, the one that does first.
func (rs *Ruleset) CandidatesForIndividual(registrationID string) []Candidate {
	return rs.index.individuals.candidates(registrationID, rs.index.fallback)
}

// CandidatesForGroup does so for an enrollment group.
func (rs *Ruleset) CandidatesForGroup(enrollmentGroupID string) []Candidate {
	return rs.index.groups.candidates(enrollmentGroupID, rs.index.fallback)
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
