package ruleset

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/open-policy-agent/opa/v1/ast"

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
	customCheck       = "check"  // for usher check
	customVerify      = "verify" // for usher verify
)

// bindingNames are the members that make a package a rule; customNames are all that have a meaning.
var (
	bindingNames = []string{customGroups, customIndividuals, customOnUndecided, customRecordable}
	customNames  = append(slices.Clone(bindingNames), customCheck, customVerify)
)

// bind reads which package serves which enrollments and builds the index.
func (rs *Ruleset) bind() []Problem {
	var problems []Problem
	rs.ruleOf = map[string]*Rule{}
	for _, name := range slices.Sorted(maps.Keys(rs.packages)) {
		rule, found := newRule(rs, rs.packages[name])
		problems = append(problems, found...)
		if rule != nil {
			rs.rules = append(rs.rules, rule)
			rs.ruleOf[name] = rule
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

// newRule returns nil for a package that serves no enrollment, such as a library.
func newRule(rs *Ruleset, p *rulePackage) (*Rule, []Problem) {
	rule := &Rule{Rule: answer.Rule{Package: p.name, Place: p.files[0].path + ":1"}, OnUndecided: Hold, set: rs}
	var problems []Problem
	bound := ""
	for _, annotation := range p.header {
		place := PlaceOf(annotation.Location)
		wrong := func(name, format string, args ...any) {
			problems = append(problems, Problem{Place: p.placeOfMember(annotation, name), Message: "custom." + name + " " + fmt.Sprintf(format, args...)})
		}
		rule.Title = cmp.Or(rule.Title, annotation.Title)
		rule.Description = cmp.Or(rule.Description, strings.TrimSpace(annotation.Description))
		binds := false
		for _, name := range slices.Sorted(maps.Keys(annotation.Custom)) {
			if nearest := misspelt(name); nearest != "" {
				// If it were ignored, the default rule would serve the enrollment.
				problems = append(problems, Problem{Place: p.placeOfMember(annotation, name), Message: "unknown member custom." + name,
					Fix: fmt.Sprintf("did you mean %s? The known members are %s", nearest, strings.Join(customNames, ", "))})
			}
		}
		for _, name := range bindingNames {
			value, ok := annotation.Custom[name]
			if !ok {
				continue
			}
			binds = true
			names, mistake := stringList(value)
			switch name {
			case customOnUndecided:
				text, _ := value.(string)
				if rule.OnUndecided = OnUndecided(text); !slices.Contains([]OnUndecided{Hold, Reject, Stay}, rule.OnUndecided) {
					wrong(name, "is none of hold, reject, stay")
				}
				continue
			case customRecordable:
				paths, found := readRecordable(value, p.placeOfMember(annotation, name))
				rule.Recordable, problems = paths, append(problems, found...)
				continue
			case customGroups:
				rule.Groups = names
			case customIndividuals:
				rule.Individuals = names
			}
			if mistake != "" {
				wrong(name, "is not a list of names: %s", mistake)
			}
		}
		if !binds {
			continue
		}
		if bound != "" {
			problems = append(problems, Problem{Place: place, Message: fmt.Sprintf("package %s is bound a second time, first at %s", p.name, bound)})
		}
		bound, rule.Place = place, place
	}
	serves := len(rule.Groups)+len(rule.Individuals) > 0
	switch {
	case rule.IsDefault() && serves:
		problems = append(problems, Problem{Place: rule.Place,
			Message: "package " + defaultPackage + " names enrollments, but it serves those that no other package names",
			Fix:     "give the rule another package name"})
	case rule.IsDefault():
	case bound != "" && !serves && len(problems) == 0:
		problems = append(problems, Problem{Place: rule.Place,
			Message: fmt.Sprintf("package %s has METADATA for a rule but serves no enrollment", p.name),
			Fix:     "name enrollments under custom." + customGroups + " or custom." + customIndividuals})
	case !serves && bound == "" && len(problems) == 0:
		return nil, detachedMetadata(p)
	case !serves:
		return nil, problems
	}
	return rule, problems
}

// detachedMetadata finds comments that name enrollments but are not the METADATA of a package, so that OPA ignores them.
func detachedMetadata(p *rulePackage) []Problem {
	var problems []Problem
	for _, f := range p.files {
		for i, line := range strings.Split(string(f.text), "\n") {
			comment, isComment := strings.CutPrefix(strings.TrimSpace(line), "#")
			name, _, isMember := strings.Cut(strings.TrimSpace(comment), ":")
			if isComment && isMember && (name == customGroups || name == customIndividuals) {
				problems = append(problems, Problem{Place: fmt.Sprintf("%s:%d", f.path, i+1),
					Message: fmt.Sprintf("this %s is not in the METADATA of package %s, so the package serves no enrollment", name, p.name),
					Fix:     "write one block of comments without empty lines, from # METADATA to the package clause"})
			}
		}
	}
	return problems
}

// placeOfMember returns the place of a member of custom, which is that of the METADATA if the line is not found.
func (p *rulePackage) placeOfMember(annotation *ast.Annotations, name string) string {
	at := annotation.Location
	member := regexp.MustCompile(`[^\w-]` + regexp.QuoteMeta(name) + `["']?\s*:`)
	for _, f := range p.files {
		if f.path != at.File {
			continue
		}
		lines := strings.Split(string(f.text), "\n")
		for i := at.Row; i < len(lines) && strings.HasPrefix(lines[i], "#"); i++ {
			if member.MatchString(lines[i]) {
				return fmt.Sprintf("%s:%d", f.path, i+1)
			}
		}
	}
	return PlaceOf(at)
}

// misspelt returns the member of custom that a name is probably meant to be; empty if it is one, or the author's own.
func misspelt(name string) string {
	if slices.Contains(customNames, name) {
		return ""
	}
	distance := func(known string) int { return levenshtein.ComputeDistance(letters(name), letters(known)) }
	nearest := slices.MinFunc(customNames, func(a, b string) int { return distance(a) - distance(b) })
	lower := letters(name)
	switch {
	case distance(nearest) <= max(1, len(nearest)/5):
		return nearest
	case strings.Contains(lower, "enrollment"), strings.HasPrefix(lower, "record"), strings.HasPrefix(lower, "individual"), strings.Contains(lower, "undecided"):
		return nearest
	}
	return ""
}

// letters writes a name in lower case and without what separates its words.
func letters(name string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(name))
}

// stringList reads a list of names. The mistake is empty if it is one.
func stringList(value any) (names []string, mistake string) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Sprintf("write [%q]", fmt.Sprint(value))
	}
	for _, element := range list {
		switch name, ok := element.(string); {
		case ok && name != "":
			names = append(names, name)
		case element == nil || ok:
			return nil, "one is empty"
		default:
			return nil, fmt.Sprintf("YAML reads one as %v, which is not text: put it into quotes", element)
		}
	}
	return names, ""
}

// index finds the rule of an enrollment in a time that does not grow with the number of rules.
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

// Serving returns the rule that serves an enrollment; nil if none does.
func (rs *Ruleset) Serving(enrollment dps.Enrollment) *Rule {
	return rs.index.of(enrollment.Kind).find(enrollment.ID, rs.index.fallback)
}

// Candidate is a rule that could serve an enrollment.
type Candidate struct {
	Rule *Rule
	// Pattern is the name or glob by which it does, in lower case; empty for the rule that serves what no other rule
	// does.
	Pattern string
	// Exact is set if the pattern is the name itself.
	Exact bool
}

// Candidates lists the rules that could serve an enrollment. The first one does.
func (rs *Ruleset) Candidates(enrollment dps.Enrollment) []Candidate {
	return rs.index.of(enrollment.Kind).candidates(enrollment.ID, rs.index.fallback)
}

// names maps the names and globs of one kind of enrollment to rules. DPS compares names without case, so all are in
// lower case.
type names struct {
	exact map[string]*Rule
	globs []glob // in the order of their literal prefixes, once sealed
	// byPrefix has the globs under the literal text before their first wildcard, the most precise first; prefixLengths
	// are the lengths of those texts.
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
		Fix:     "name it in one of the two, or more precisely in one"}
}

// seal indexes the globs and finds those that claim the same name with the same precision.
func (n *names) seal(kind string) []Problem {
	var problems []Problem
	slices.SortStableFunc(n.globs, func(a, b glob) int { return strings.Compare(a.prefix, b.prefix) })
	for i, a := range n.globs {
		// Two globs can match the same name only if one prefix starts with the other, and those are neighbors.
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

// compatible reports whether a text can end in both suffixes. It is quick, so that a thousand names that differ at
// their ends are not compared in full.
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

// candidates has the order of find: the name itself, then globs by precision, then the rule for all others.
func (n *names) candidates(name string, fallback *Rule) []Candidate {
	name = strings.ToLower(name)
	var list []Candidate
	if rule := n.exact[name]; rule != nil {
		list = append(list, Candidate{Rule: rule, Pattern: name, Exact: true})
	}
	for _, g := range slices.SortedStableFunc(slices.Values(n.globs), func(a, b glob) int { return b.precision - a.precision }) {
		if matches(g.pattern, name) {
			list = append(list, Candidate{Rule: g.rule, Pattern: g.pattern})
		}
	}
	if fallback != nil {
		list = append(list, Candidate{Rule: fallback})
	}
	return list
}

// MatchGlob reports whether a glob or a name in METADATA matches a whole name, without regard to case.
func MatchGlob(pattern, name string) bool {
	return matches(strings.ToLower(pattern), strings.ToLower(name))
}

// matches reports whether a glob matches the whole name. Names of enrollments are ASCII, so bytes are characters.
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
		case star >= 0: // let the last * match one more character
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
	// reach[j] is whether a[:i] and b[:j] can match the same text.
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
				reach[j] = above || reach[j-1] // the * matches nothing, or one more character
			default:
				reach[j] = diagonal && (x == y || x == '?' || y == '?')
			}
			diagonal = above
		}
	}
	return reach[len(b)]
}
