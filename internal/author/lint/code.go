package lint

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// entrySpellings maps the names that DPS or other systems use for an entry rule, in lower case and without underscores.
var entrySpellings = map[string]string{
	"hubs": "hub", "hubname": "hub", "iothub": "hub", "iothubname": "hub", "iothubhostname": "hub", "hostname": "hub",
	"initialtwin": "initial_twin", "twin": "initial_twin", "initialtwins": "initial_twin", "inittwin": "initial_twin",
	"payloads": "payload", "returndata": "payload", "response": "payload",
	"rejects": "reject", "rejected": "reject", "rejection": "reject", "deny": "reject", "denied": "reject", "refuse": "reject",
	"holds": "hold", "held": "hold", "onhold": "hold", "wait": "hold", "retry": "hold",
}

func misspeltEntry(_ context.Context, s *subject, add report) {
	for _, module := range s.modules {
		if !module.Package.Path.Equal(s.rule.Path()) {
			continue
		}
		for _, rule := range module.Rules {
			name := s.name(rule)
			entry := entryMeant(name)
			if entry == "" || len(rule.Head.Args) > 0 || s.used(name) {
				continue
			}
			add(rule.Location, fmt.Sprintf("%s is never evaluated", name), "did you mean "+entry+"? Otherwise rename the helper, or remove it")
		}
	}
}

// name is the rule's name within its package; for payload.greeting it is payload.
func (s *subject) name(rule *ast.Rule) string {
	ref := rule.Ref() // the compiler made it absolute
	if path := s.rule.Path(); len(ref) > len(path) && ref.HasPrefix(path) {
		name, _ := ref[len(path)].Value.(ast.String)
		return string(name)
	}
	return ref.String()
}

// entryMeant returns the entry rule whose name is almost this one, "" if there is none.
func entryMeant(name string) string {
	if slices.Contains(ruleset.EntryNames(), name) {
		return ""
	}
	plain := strings.ToLower(strings.ReplaceAll(name, "_", ""))
	if entry, ok := entrySpellings[plain]; ok {
		return entry
	}
	for _, entry := range ruleset.EntryNames() {
		if of := strings.ReplaceAll(entry, "_", ""); len(of) > 4 && near(plain, of) || plain == of {
			return entry
		}
	}
	return ""
}

// near reports whether a and b differ in one letter added, dropped or replaced, or in two that are swapped.
func near(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch len(b) - len(a) {
	case 0:
		return i < len(a) && (a[i+1:] == b[i+1:] || i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:])
	case 1:
		return a[i:] == b[i+1:]
	}
	return false
}

// used reports whether any rule refers to a rule of the package.
func (s *subject) used(name string) bool {
	ref := s.rule.Path().Append(ast.StringTerm(name))
	found := false
	for _, module := range s.compiler.Modules {
		for _, rule := range module.Rules {
			if rule.Ref().HasPrefix(ref) {
				continue // a rule cannot refer to itself
			}
			ast.WalkRefs(rule, func(r ast.Ref) bool {
				found = found || r.HasPrefix(ref)
				return found
			})
		}
	}
	return found
}

func impure(_ context.Context, s *subject, add report) {
	for _, call := range s.rule.RestrictedCalls() {
		at, by := call.Location, ""
		if !s.analysis.Home[at.File] {
			at, by = nil, " at "+ruleset.PlaceOf(at)
		}
		add(at, fmt.Sprintf("%s%s can return a different value the next time", call.Operator(), by), "use only the request")
	}
}

func unreachable(_ context.Context, s *subject, add report) {
	always := map[string]*ast.Rule{}
	for _, module := range s.modules {
		for _, rule := range module.Rules {
			for r := rule; r.Else != nil; r = r.Else {
				if holdsAlways(r) {
					add(r.Else.Location, fmt.Sprintf("this else is never used: %s is defined without a condition before it", s.name(rule)),
						"put the definition without a condition last")
					break
				}
			}
			if rule.Default || !holdsAlways(rule) {
				continue
			}
			if rule.Head.RuleKind() == ast.SingleValue && rule.Ref().IsGround() && len(rule.Head.Args) == 0 {
				always[rule.Ref().String()] = rule
			}
		}
	}
	for _, module := range s.modules {
		for _, rule := range module.Rules {
			if other := always[rule.Ref().String()]; rule.Default && other != nil {
				add(rule.Location, fmt.Sprintf("the default of %s is never used: line %d defines it without a condition", s.name(rule), other.Location.Row),
					"remove one of the two")
			}
		}
	}
}

// holdsAlways reports whether a definition has no condition and a value that cannot be undefined.
func holdsAlways(rule *ast.Rule) bool {
	body := ruleset.Written(rule.Body)
	if len(rule.Head.Args) > 0 || len(body) != 1 || body[0].Negated {
		return false
	}
	condition, ok := body[0].Terms.(*ast.Term)
	return ok && condition.Value.Compare(ast.Boolean(true)) == 0 && rule.Head.Value != nil && ast.IsConstant(rule.Head.Value.Value)
}

func noSuchEnrollment(_ context.Context, s *subject, add report) {
	find := func(kind dps.EnrollmentKind, what string, patterns []string) {
		for _, pattern := range patterns {
			if !slices.ContainsFunc(s.options.Enrollments, func(e Enrollment) bool {
				return e.Kind == kind && ruleset.MatchGlob(pattern, e.ID)
			}) {
				add(nil, fmt.Sprintf("there is no %s %s", what, pattern), "correct the name, or remove it")
			}
		}
	}
	find(dps.EnrollmentGroup, "enrollment group", s.rule.Groups)
	find(dps.IndividualEnrollment, "individual enrollment", s.rule.Individuals)
}

// testedPackages returns the packages that a _test.rego or an exchange covers.
func testedPackages(fsys fs.FS) map[string]bool {
	tested := map[string]bool{}
	_ = fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		isTest, isExchange := strings.HasSuffix(name, "_test.rego"), strings.HasSuffix(name, ".decision.json")
		if err != nil || entry.IsDir() || !isTest && !isExchange {
			return nil // if a folder were unreadable, the rules would not have loaded
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil
		}
		if isExchange {
			var decision struct{ Rule string }
			if json.Unmarshal(text, &decision) == nil && decision.Rule != "" {
				tested["data."+decision.Rule] = true
			}
			return nil
		}
		module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil // usher test reports it
		}
		ast.WalkRefs(module, func(ref ast.Ref) bool {
			if ref.HasPrefix(ast.DefaultRootRef) {
				constant := ref.ConstantPrefix()
				for i := 2; i <= len(constant); i++ {
					tested[constant[:i].String()] = true
				}
			}
			return false
		})
		return nil
	})
	return tested
}

func noTests(_ context.Context, s *subject, add report) {
	if !s.testedPackages[s.rule.Path().String()] {
		add(nil, fmt.Sprintf("no _test.rego and no exchange covers %s", s.rule.Package), "write a test, like those that `usher new` writes for a new rule")
	}
}

func noTitle(_ context.Context, s *subject, add report) {
	if strings.TrimSpace(s.rule.Title) == "" {
		add(nil, fmt.Sprintf("%s has no title", s.rule.Package), "add one to its METADATA: # title: What it is for")
	}
}
