package ruleset_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

func packageOf(rule *ruleset.Rule) string {
	if rule == nil {
		return ""
	}
	return rule.Package
}

func TestBinding(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, folder(
		"exact.rego", serving("allocation.exact", "Contoso-EU-Factory, device-1", hub),
		"individual.rego", "# METADATA\n# custom:\n#   individual_enrollments: [device-1, 'line-*', 'line-7-?']\npackage allocation.individual\n"+hub,
		"any_factory.rego", serving("allocation.any_factory", `"*-factory"`, hub),
		"eu.rego", serving("allocation.eu", `"contoso-eu-*"`, hub),
		"eu_numbered.rego", serving("allocation.eu_numbered", `"contoso-eu-0??"`, hub),
		"middle.rego", serving("allocation.middle", `"a*b*c"`, hub),
		"short.rego", serving("allocation.short", `"?"`, hub),
		"both.rego", "# METADATA\n# custom:\n#   enrollment_groups: [both]\n#   individual_enrollments: [both]\npackage allocation.both\n"+hub,
		"default.rego", "package allocation.default\n"+hub,
		"lib.rego", "# METADATA\n# title: A library\n# custom:\n#   owner: team\npackage lib\nx := 1",
	), ruleset.Options{Name: "rules"})
	tests := []struct{ kind, name, want string }{
		{"group", "Contoso-EU-Factory", "allocation.exact"},
		{"group", "contoso-eu-factory", "allocation.exact"},
		{"group", "CONTOSO-EU-FACTORY", "allocation.exact"},
		{"group", "contoso-eu-warehouse", "allocation.eu"},
		{"group", "Contoso-EU-x", "allocation.eu"},
		{"group", "contoso-eu-", "allocation.eu"},
		{"group", "contoso-eu-012", "allocation.eu_numbered"},
		{"group", "contoso-eu-0123", "allocation.eu"},
		{"group", "contoso-eu-01", "allocation.eu"},
		{"group", "contoso-eu-a-factory", "allocation.eu"}, // 11 literal characters against 8
		{"group", "contoso-us-factory", "allocation.any_factory"},
		{"group", "-factory", "allocation.any_factory"},
		{"group", "a-factory-2", "allocation.default"},
		{"group", "abc", "allocation.middle"},
		{"group", "aXbXc", "allocation.middle"},
		{"group", "abcd", "allocation.default"},
		{"group", "z", "allocation.short"},
		{"group", "zz", "allocation.default"},
		{"group", "", "allocation.default"},
		{"group", "device-1", "allocation.exact"},
		{"group", "line-1", "allocation.default"},
		{"group", "lib", "allocation.default"},
		{"group", "both", "allocation.both"},
		{"individual", "both", "allocation.both"},
		{"individual", "device-1", "allocation.individual"},
		{"individual", "Device-1", "allocation.individual"},
		{"individual", "LINE-1", "allocation.individual"},
		{"individual", "device-2", "allocation.default"},
		{"individual", "contoso-eu-factory", "allocation.default"},
		{"individual", "us-factory", "allocation.default"},
	}
	for _, test := range tests {
		enrollment := forGroup(test.name)
		if test.kind == "individual" {
			enrollment = forIndividual(test.name)
		}
		if got := packageOf(rs.Serving(enrollment)); got != test.want {
			t.Errorf("%s %q is served by %q, want %q", test.kind, test.name, got, test.want)
		}
	}
	var packages []string
	for _, rule := range rs.Rules() {
		packages = append(packages, rule.Package)
		if want := rule.Package == "allocation.default"; rule.IsDefault() != want {
			t.Errorf("%s: IsDefault() = %v", rule.Package, rule.IsDefault())
		}
	}
	want := strings.Fields("allocation.any_factory allocation.both allocation.default allocation.eu allocation.eu_numbered " +
		"allocation.exact allocation.individual allocation.middle allocation.short")
	if diff := cmp.Diff(want, packages); diff != "" {
		t.Errorf("Rules(): -want +got:\n%s", diff)
	}
}

func TestBindingWithoutDefault(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, folder("a.rego", serving("allocation.a", `a, "b-*"`, hub)), ruleset.Options{})
	for _, name := range []string{"c", "aa", "b", ""} {
		if rule := rs.Serving(forGroup(name)); rule != nil {
			t.Errorf("group %q is served by %s", name, rule.Package)
		}
	}
	if rule := rs.Serving(forIndividual("a")); rule != nil {
		t.Errorf("individual enrollment a is served by %s, which names a group", rule.Package)
	}
}

func TestAnyGlob(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, folder("a.rego", serving("allocation.a", `"*"`, hub), "default.rego", "package allocation.default\n"+hub), ruleset.Options{})
	for _, name := range []string{"c", "a-b", ""} {
		if got := packageOf(rs.Serving(forGroup(name))); got != "allocation.a" {
			t.Errorf("group %q is served by %q", name, got)
		}
	}
	if got := packageOf(rs.Serving(forIndividual("c"))); got != "allocation.default" {
		t.Errorf("individual enrollment c is served by %q", got)
	}
}

// Only what can match the same name with the same precision is a conflict.
func TestNoConflict(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, a, b string }{
		{"no name in common", `"eu-*"`, `"us-*"`},
		{"lengths that differ", `"a?"`, `"b??"`},
		{"same literals, other places", `"a*b"`, `"b*a"`},
		{"more precise", `"eu-*"`, `"*-factory"`},
		{"exact beside a glob", `"eu-*"`, `eu-factory`},
		{"same precision, ends differ", `"*-a"`, `"*-b"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			mustLoad(t, folder("a.rego", serving("allocation.a", test.a, hub), "b.rego", serving("allocation.b", test.b, hub)), ruleset.Options{})
		})
	}
	t.Run("group and individual enrollment", func(t *testing.T) {
		t.Parallel()
		mustLoad(t, folder("a.rego", serving("allocation.a", `same, "x*"`, hub),
			"b.rego", "# METADATA\n# custom:\n#   individual_enrollments: [same, 'x*']\npackage allocation.b\n"+hub), ruleset.Options{})
	})
	t.Run("globs of one rule", func(t *testing.T) {
		t.Parallel()
		rs := mustLoad(t, folder("a.rego", serving("allocation.a", `"eu-*", "*-eu"`, hub)), ruleset.Options{})
		if got := packageOf(rs.Serving(forGroup("eu-eu"))); got != "allocation.a" {
			t.Errorf("eu-eu is served by %q", got)
		}
	})
}

// METADATA as people write it.
func TestRuleFields(t *testing.T) {
	t.Parallel()
	type fields struct {
		Package, Title, Description, Place string
		Individuals, Groups                []string
		OnUndecided                        ruleset.OnUndecided
	}
	tests := []struct {
		name, text string
		want       fields
	}{
		{"everything", `# A licence, say.

# METADATA
# title: Breakroom
# description: |
#   Toasters and
#   heat pumps.
# custom:
#   enrollment_groups: [A, "b-*"]
#   individual_enrollments:
#     - C
#   on_undecided: stay
#   owner: team
package allocation.breakroom

hub := "h"
`, fields{"allocation.breakroom", "Breakroom", "Toasters and\nheat pumps.", "rules/x.rego:3", []string{"C"}, []string{"A", "b-*"}, ruleset.Stay}},
		{"little", serving("allocation.a", "a", hub), fields{Package: "allocation.a", Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Hold}},
		{"reject", "# METADATA\n# custom: {enrollment_groups: [a], on_undecided: reject}\npackage a\n" + hub,
			fields{Package: "a", Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Reject}},
		{"default", "package allocation.default\n" + hub, fields{Package: "allocation.default", Place: "rules/x.rego:1", OnUndecided: ruleset.Hold}},
		{"default with METADATA", "\n# METADATA\n# title: Rest\n# custom:\n#   on_undecided: reject\npackage allocation.default\n" + hub,
			fields{Package: "allocation.default", Title: "Rest", Place: "rules/x.rego:2", OnUndecided: ruleset.Reject}},
		{"default in brackets", "package allocation[\"default\"]\n" + hub, fields{Package: "allocation.default", Place: "rules/x.rego:1", OnUndecided: ruleset.Hold}},
		{"other words as names", serving(`allocation.in["eu west"].if["a\"b"]`, "a", hub),
			fields{Package: `allocation.in["eu west"].if["a\"b"]`, Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Hold}},
		{"CRLF", strings.ReplaceAll(serving("allocation.a", "a", hub), "\n", "\r\n"),
			fields{Package: "allocation.a", Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Hold}},
		{"byte order mark", "\ufeff" + serving("allocation.a", "a", hub),
			fields{Package: "allocation.a", Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Hold}},
		{"blank line before the package", "# METADATA\n# custom:\n#   enrollment_groups: [a]\n\npackage allocation.a\n" + hub,
			fields{Package: "allocation.a", Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Hold}},
		{"comment behind the package", "# METADATA\n# custom:\n#   enrollment_groups: [a]\n  package allocation.a # ours\n" + hub,
			fields{Package: "allocation.a", Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Hold}},
		{"package over two lines", "# METADATA\n# custom:\n#   enrollment_groups: [a]\npackage\n  allocation.a\n" + hub,
			fields{Package: "allocation.a", Place: "rules/x.rego:1", Groups: []string{"a"}, OnUndecided: ruleset.Hold}},
	}
	for _, test := range tests {
		for _, lazy := range []bool{false, true} {
			rs := mustLoad(t, folder("x.rego", test.text), ruleset.Options{Name: "rules", Lazy: lazy})
			if len(rs.Rules()) != 1 {
				t.Fatalf("%s: %d rules", test.name, len(rs.Rules()))
			}
			rule := rs.Rules()[0]
			got := fields{rule.Package, rule.Title, rule.Description, rule.Place, rule.Individuals, rule.Groups, rule.OnUndecided}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", test.name, diff)
			}
			if got := evaluate(t, rule, `{}`).Hub; got != "h" {
				t.Errorf("%s: hub %v", test.name, got)
			}
		}
	}
}

// Rules is a copy: who sorts it does not disturb the ruleset.
func TestRulesIsACopy(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, folder("a.rego", serving("allocation.a", "a", hub), "b.rego", serving("allocation.b", "b", hub)), ruleset.Options{})
	rs.Rules()[0] = nil
	if rs.Rules()[0] == nil {
		t.Error("the caller's change is seen")
	}
}

// A package with entry rules that serves nobody is METADATA gone wrong: its devices would be left to another rule, and
// nobody would see.
func TestUnboundRules(t *testing.T) {
	t.Parallel()
	const fallback = "package allocation.default\n\nhub := input.linkedHubs[0]\n"
	const body = "package allocation.a\n\nreject contains \"no\"\n"
	for name, text := range map[string]string{
		"METADATA below the package clause": "package allocation.a\n\n# METADATA\n# custom:\n#   enrollment_groups: [g]\n\nreject contains \"no\"\n",
		"names outside of custom":           "# METADATA\n# enrollment_groups: [g]\n" + body,
		"another scope":                     "# METADATA\n# scope: subpackages\n# custom:\n#   enrollment_groups: [g]\n" + body,
		"another name":                      "# METADATA\n# custom:\n#   groups: [g]\n" + body,
		"no METADATA":                       body,
	} {
		_, err := ruleset.Load(t.Context(), folder("a.rego", text, "default.rego", fallback), ruleset.Options{Name: "rules"})
		if err == nil || !strings.Contains(err.Error(), "allocation.a") && !strings.Contains(err.Error(), "rules/a.rego") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What others refer to is a library, whatever its rules are called.
	if _, err := ruleset.Load(t.Context(), folder("a.rego", "package a\n\nhub := input.linkedHubs[0]\n",
		"default.rego", "package allocation.default\n\nhub := data.a.hub\n"), ruleset.Options{}); err != nil {
		t.Errorf("a library: %v", err)
	}
}

// The first candidate is the rule that serves, whatever globs there are.
func TestCandidates(t *testing.T) {
	t.Parallel()
	rs := mustLoad(t, fstest.MapFS{
		"a.rego": {Data: []byte(serving("allocation.a", "line-a", `hub := "h"`))},
		"b.rego": {Data: []byte(serving("allocation.b", `"line-*"`, `hub := "h"`))},
		"c.rego": {Data: []byte(serving("allocation.c", `"line-a-*"`, `hub := "h"`))},
		"d.rego": {Data: []byte("package allocation.default\n\nhub := \"h\"\n")},
	}, ruleset.Options{})
	for _, test := range []struct{ group, want string }{
		{"Line-A", "allocation.a line-a exact, allocation.b line-*, allocation.default"},
		{"line-a-7", "allocation.c line-a-*, allocation.b line-*, allocation.default"},
		{"line-b", "allocation.b line-*, allocation.default"},
		{"other", "allocation.default"},
	} {
		var texts []string
		for _, c := range rs.Candidates(dps.Enrollment{Kind: dps.EnrollmentGroup, ID: test.group}) {
			text := c.Rule.Package
			if c.Pattern != "" {
				text += " " + c.Pattern
			}
			if c.Exact {
				text += " exact"
			}
			texts = append(texts, text)
		}
		if got := strings.Join(texts, ", "); got != test.want {
			t.Errorf("%s: got %s, want %s", test.group, got, test.want)
		}
		if rs.Serving(forGroup(test.group)) != rs.Candidates(dps.Enrollment{Kind: dps.EnrollmentGroup, ID: test.group})[0].Rule {
			t.Errorf("%s: the first candidate does not serve it", test.group)
		}
	}
	for range 2000 {
		name := strings.Repeat("line-", rand.IntN(2)) + strings.Repeat("a", rand.IntN(3)) + strings.Repeat("-", rand.IntN(2)) + fmt.Sprint(rand.IntN(20))
		if rs.Serving(forGroup(name)) != rs.Candidates(dps.Enrollment{Kind: dps.EnrollmentGroup, ID: name})[0].Rule || rs.Serving(forIndividual(name)) != rs.Candidates(dps.Enrollment{Kind: dps.IndividualEnrollment, ID: name})[0].Rule {
			t.Errorf("%s: the first candidate does not serve it", name)
		}
	}
}
