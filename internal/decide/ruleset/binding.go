package ruleset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
)

// defaultPackage serves the enrollments that no other package names.
const defaultPackage = "allocation.default"

// Members of custom in a rule's METADATA.
const (
	customGroups      = "enrollment_groups"
	customIndividuals = "individual_enrollments"
	customOnUndecided = "on_undecided"
	customRecordable  = "recordable"
)

// bind reads which package serves which enrollments and builds the index.
func (rs *Ruleset) bind() []Problem {
	var problems []Problem
	for _, name := range slices.Sorted(maps.Keys(rs.packages)) {
		rule, found := newRule(rs, rs.packages[name])
		problems = append(problems, found...)
		if rule != nil {
			rs.rules = append(rs.rules, rule)
		}
	}
	for _, rule := range rs.rules {
		if rule.IsDefault() {
			rs.index.fallback = rule
		}
		problems = append(problems, rs.index.individuals.add("individual enrollment", rule, rule.Individuals)...)
		problems = append(problems, rs.index.groups.add("enrollment group", rule, rule.Groups)...)
	}
	problems = append(problems, rs.index.individuals.seal("individual enrollments")...)
	return append(problems, rs.index.groups.seal("enrollment groups")...)
}

// newRule returns nil for a package that serves nobody, such as a library.
func newRule(rs *Ruleset, p *rulePackage) (*Rule, []Problem) {
	rule := &Rule{Rule: answer.Rule{Package: p.name, Place: p.files[0].path + ":1"}, OnUndecided: Hold, set: rs}
	var problems []Problem
	bound := ""
	for _, annotation := range p.header {
		place := PlaceOf(annotation.Location)
		wrong := func(format string, args ...any) {
			problems = append(problems, Problem{Place: place, Message: fmt.Sprintf(format, args...)})
		}
		rule.Title = cmp.Or(rule.Title, annotation.Title)
		rule.Description = cmp.Or(rule.Description, strings.TrimSpace(annotation.Description))
		binds := false
		for _, name := range slices.Sorted(maps.Keys(annotation.Custom)) {
			if looksLikeBinding(name) {
				// Passed over, it would leave the enrollment to the default rule.
				wrong("custom.%s is not known, only %s, %s, %s and %s", name, customGroups, customIndividuals, customOnUndecided, customRecordable)
			}
		}
		for _, name := range []string{customGroups, customIndividuals, customOnUndecided, customRecordable} {
			value, ok := annotation.Custom[name]
			if !ok {
				continue
			}
			binds = true
			if name == customOnUndecided {
				text, _ := value.(string)
				rule.OnUndecided = OnUndecided(text)
				if !slices.Contains([]OnUndecided{Hold, Reject, Stay}, rule.OnUndecided) {
					wrong("custom.on_undecided is none of hold, reject, stay")
				}
				continue
			}
			if name == customRecordable {
				var wrongs []Problem
				rule.Recordable, wrongs = readRecordable(value, place)
				problems = append(problems, wrongs...)
				continue
			}
			names, ok := stringList(value)
			if !ok {
				wrong("custom.%s is not a list of names", name)
			}
			if name == customGroups {
				rule.Groups = names
			} else {
				rule.Individuals = names
			}
		}
		if !binds {
			continue
		}
		if bound != "" {
			wrong("package %s is bound a second time, first at %s", p.name, bound)
		}
		bound, rule.Place = place, place
	}
	serves := len(rule.Groups)+len(rule.Individuals) > 0
	switch {
	case rule.IsDefault() && serves:
		problems = append(problems, Problem{Place: rule.Place,
			Message: "package " + defaultPackage + " names enrollments, but it serves those that nothing else does",
			Mend:    "give the rule another package name"})
	case rule.IsDefault():
	case bound != "" && !serves && len(problems) == 0:
		problems = append(problems, Problem{Place: rule.Place,
			Message: fmt.Sprintf("package %s has METADATA for a rule but serves no enrollment", p.name),
			Mend:    "name some under custom." + customGroups + " or custom." + customIndividuals})
	case !serves:
		return nil, problems
	}
	return rule, problems
}

// looksLikeBinding finds misspelt names. Others under custom are the author's own.
func looksLikeBinding(name string) bool {
	switch name {
	case customGroups, customIndividuals, customOnUndecided, customRecordable:
		return false
	}
	name = strings.ToLower(name)
	return strings.Contains(name, "enrollment") || strings.HasPrefix(name, "record") || strings.HasPrefix(name, "individual") || strings.Contains(name, "undecided")
}

func stringList(value any) ([]string, bool) {
	list, ok := value.([]any)
	if !ok {
		return nil, false
	}
	names := make([]string, 0, len(list))
	for _, element := range list {
		name, ok := element.(string)
		if !ok || name == "" {
			return nil, false
		}
		names = append(names, name)
	}
	return names, true
}

// index finds the rule of an enrollment in a time that does not grow with the
// number of rules.
type index struct {
	individuals, groups names
	fallback            *Rule
}

func (x *index) of(kind dps.EnrollmentKind) *names {
	if kind == dps.IndividualEnrollment {
		return &x.individuals
	}
	return &x.groups
}

// names maps the names and globs of one kind of enrollment to rules. DPS
// compares names without case, so all are held in lower case.
type names struct {
	exact map[string]*Rule
	globs []glob // in the order of their literal prefixes, until sealed
	// byPrefix holds the globs under the literal text before their first
	// wildcard, the most precise first; prefixLengths are the lengths of those.
	byPrefix      map[string][]glob
	prefixLengths []int
}

type glob struct {
	pattern   string // * is any text, ? one character
	prefix    string // before the first wildcard
	suffix    string // after the last one
	precision int    // characters that are not wildcards
	rule      *Rule
}

func (n *names) add(kind string, rule *Rule, patterns []string) []Problem {
	var problems []Problem
	for _, pattern := range patterns {
		pattern = strings.ToLower(pattern)
		if wildcard := strings.IndexAny(pattern, "*?"); wildcard >= 0 {
			literal := len(pattern) - strings.Count(pattern, "*") - strings.Count(pattern, "?")
			n.globs = append(n.globs, glob{pattern, pattern[:wildcard], pattern[strings.LastIndexAny(pattern, "*?")+1:], literal, rule})
			continue
		}
		if other := n.exact[pattern]; other != nil {
			problems = append(problems, conflict(kind+" "+pattern, other, rule))
			continue
		}
		if n.exact == nil {
			n.exact = map[string]*Rule{}
		}
		n.exact[pattern] = rule
	}
	return problems
}

func conflict(what string, a, b *Rule) Problem {
	if a == b {
		return Problem{Place: b.Place, Message: what + " is named twice"}
	}
	return Problem{Place: b.Place,
		Message: fmt.Sprintf("%s is served by %s and by %s (%s)", what, b.Package, a.Package, a.Place),
		Mend:    "name it in one of the two, or more precisely in one"}
}

// seal indexes the globs and finds those that claim the same name with the same
// precision.
func (n *names) seal(kind string) []Problem {
	var problems []Problem
	slices.SortStableFunc(n.globs, func(a, b glob) int { return strings.Compare(a.prefix, b.prefix) })
	for i, a := range n.globs {
		// Only where one prefix starts with the other can both match, and those stand together.
		for _, b := range n.globs[i+1:] {
			if !strings.HasPrefix(b.prefix, a.prefix) {
				break
			}
			if a.rule == b.rule && a.pattern != b.pattern {
				continue // whichever of the two matches, it is the same rule
			}
			if a.precision == b.precision && compatible(a.suffix, b.suffix) && overlap(a.pattern, b.pattern) {
				problems = append(problems, conflict(fmt.Sprintf("a name of %s that matches %q and %q", kind, a.pattern, b.pattern), a.rule, b.rule))
			}
		}
	}
	n.byPrefix = map[string][]glob{}
	for _, g := range n.globs {
		if len(n.byPrefix[g.prefix]) == 0 && !slices.Contains(n.prefixLengths, len(g.prefix)) {
			n.prefixLengths = append(n.prefixLengths, len(g.prefix))
		}
		n.byPrefix[g.prefix] = append(n.byPrefix[g.prefix], g)
	}
	for _, list := range n.byPrefix {
		slices.SortStableFunc(list, func(a, b glob) int { return b.precision - a.precision })
	}
	return problems
}

// compatible reports whether a text can end in both suffixes. It is quick, and
// keeps a thousand names that differ at their ends from being compared in full.
func compatible(a, b string) bool { return strings.HasSuffix(a, b) || strings.HasSuffix(b, a) }

func (n *names) find(name string, fallback *Rule) *Rule {
	name = strings.ToLower(name)
	if rule := n.exact[name]; rule != nil {
		return rule
	}
	best := glob{precision: -1, rule: fallback}
	for _, length := range n.prefixLengths {
		if length > len(name) {
			continue
		}
		for _, g := range n.byPrefix[name[:length]] {
			if g.precision <= best.precision {
				break
			}
			if matches(g.pattern, name) {
				best = g
				break
			}
		}
	}
	return best.rule
}

// MatchGlob reports whether a glob, or a name, as METADATA writes them matches a
// whole name, without regard to case.
func MatchGlob(pattern, name string) bool {
	return matches(strings.ToLower(pattern), strings.ToLower(name))
}

// matches reports whether a glob matches the whole name. Names of enrollments
// are ASCII, so bytes are characters.
func matches(pattern, name string) bool {
	star, resume := -1, 0
	p, i := 0, 0
	for i < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[i]):
			p++
			i++
		case star >= 0: // let the last * take one character more
			resume++
			p, i = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// overlap reports whether some name matches both globs.
func overlap(a, b string) bool {
	// reach[j] tells whether a[:i] and b[:j] can match the same text.
	reach := make([]bool, len(b)+1)
	reach[0] = true
	for j := 1; j <= len(b); j++ {
		reach[j] = reach[j-1] && b[j-1] == '*'
	}
	for i := 1; i <= len(a); i++ {
		diagonal := reach[0]
		reach[0] = reach[0] && a[i-1] == '*'
		for j := 1; j <= len(b); j++ {
			above := reach[j]
			switch x, y := a[i-1], b[j-1]; {
			case x == '*' || y == '*':
				reach[j] = above || reach[j-1] // the * takes nothing, or one character more
			default:
				reach[j] = diagonal && (x == y || x == '?' || y == '?')
			}
			diagonal = above
		}
	}
	return reach[len(b)]
}
