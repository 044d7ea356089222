package ruleset_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/schemas"
)

// folder makes a file system of path and text by turns.
func folder(files ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		fsys[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return fsys
}

// serving returns a Rego package that serves enrollment groups, given as a YAML list, by rules.
func serving(packageName, groups, rules string) string {
	return fmt.Sprintf("# METADATA\n# custom:\n#   enrollment_groups: [%s]\npackage %s\n\n%s\n", groups, packageName, rules)
}

func forGroup(id string) dps.Enrollment { return dps.Enrollment{Kind: dps.EnrollmentGroup, ID: id} }

func forIndividual(id string) dps.Enrollment {
	return dps.Enrollment{Kind: dps.IndividualEnrollment, ID: id}
}

func mustLoad(t testing.TB, fsys fs.FS, options ruleset.Options) *ruleset.Ruleset {
	t.Helper()
	rs, err := ruleset.Load(context.Background(), fsys, options)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rs
}

// problemsOf returns the lines of a *LoadError.
func problemsOf(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	loadError, ok := errors.AsType[*ruleset.LoadError](err)
	if !ok {
		t.Fatalf("a %T, want a *LoadError: %v", err, err)
	}
	var lines []string
	for _, problem := range loadError.Problems {
		lines = append(lines, problem.String())
	}
	return lines
}

func inputSchema(t testing.TB) any {
	t.Helper()
	var schema any
	if err := json.Unmarshal(schemas.AllocationRequest(), &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

const hub = `hub := "h"`

// Whether rules are compiled at once or later, the same is wrong with them.
const members = "The known members are enrollment_groups, individual_enrollments, on_undecided, recordable, check, verify)"

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	const claims = " (rename one of them: the folder of a data file is part of the path of its data)"
	tests := []struct {
		name  string
		files fstest.MapFS
		want  []string
		lazy  bool // Load itself finds it, whether lazy or not
	}{
		{"empty folder", folder(), []string{
			"rules: no rule serves any enrollment (add a package whose METADATA names enrollments under custom.enrollment_groups or custom.individual_enrollments, or a package allocation.default)",
		}, true},
		{"libraries alone", folder("lib.rego", "package lib\nx := 1"), []string{
			"rules: no rule serves any enrollment (add a package whose METADATA names enrollments under custom.enrollment_groups or custom.individual_enrollments, or a package allocation.default)",
		}, true},
		{"no package clause", folder("a.rego", hub), []string{"rules/a.rego:1: rego_parse_error: package expected"}, true},
		{"two files that do not parse", folder("a.rego", "pakkage a", "sub/b.rego", "package"), []string{
			"rules/a.rego:1: rego_parse_error: package expected",
			"rules/a.rego:1: rego_parse_error: var cannot be used for rule name",
			"rules/sub/b.rego:1: rego_parse_error: unexpected eof token; package",
		}, true},
		{"METADATA is no YAML", folder("a.rego", "# METADATA\n# custom: [\npackage a\n"+hub), []string{
			"rules/a.rego:2: rego_parse_error: yaml: line 1: did not find expected node content; # custom: [ (METADATA is YAML: put names with special characters into quotes, such as \"*-line\")",
		}, true},

		{"groups no list", folder("a.rego", "# METADATA\n# custom:\n#   enrollment_groups: a\npackage allocation.a\n"+hub),
			[]string{"rules/a.rego:3: custom.enrollment_groups is not a list of names: write [\"a\"]"}, true},
		{"individuals no list of names", folder("a.rego", "# METADATA\n# custom:\n#   individual_enrollments: [a, 1]\npackage allocation.a\n"+hub),
			[]string{"rules/a.rego:3: custom.individual_enrollments is not a list of names: YAML reads one as 1, which is not text: put it into quotes"}, true},
		{"empty name", folder("a.rego", serving("allocation.a", `""`, hub)),
			[]string{"rules/a.rego:3: custom.enrollment_groups is not a list of names: one is empty"}, true},
		{"a glob that YAML takes for an alias", folder("a.rego", "# METADATA\n# title: x\n# custom:\n#   enrollment_groups: [a, *-line]\npackage allocation.a\n"+hub), []string{
			"rules/a.rego:4: rego_parse_error: yaml: unknown anchor '-line' referenced (METADATA is YAML: put names with special characters into quotes, such as \"*-line\")",
		}, true},
		{"METADATA that is cut off", folder("a.rego", "# METADATA\n# title: x\n\n# custom:\n#   enrollment_groups: [a]\npackage allocation.a\n"+hub, "default.rego", "package allocation.default\n"+hub), []string{
			"rules/a.rego:5: this enrollment_groups is not in the METADATA of package allocation.a, so the package serves no enrollment (write one block of comments without empty lines, from # METADATA to the package clause)",
		}, true},
		{"METADATA of a lone rule without its first line", folder("a.rego", "# custom:\n#   individual_enrollments: [a]\npackage allocation.a\n"+hub), []string{
			"rules/a.rego:2: this individual_enrollments is not in the METADATA of package allocation.a, so the package serves no enrollment (write one block of comments without empty lines, from # METADATA to the package clause)",
		}, true},
		{"METADATA below the package clause", folder("a.rego", "package allocation.a\n# METADATA\n# custom:\n#   enrollment_groups: [a]\n\n"+hub), []string{
			"rules/a.rego:4: this enrollment_groups is not in the METADATA of package allocation.a, so the package serves no enrollment (write one block of comments without empty lines, from # METADATA to the package clause)",
		}, true},
		{"unknown on_undecided", folder("a.rego", "# METADATA\n# custom:\n#   enrollment_groups: [a]\n#   on_undecided: maybe\npackage allocation.a\n"+hub),
			[]string{"rules/a.rego:4: custom.on_undecided is none of hold, reject, stay"}, true},
		{"on_undecided no text", folder("a.rego", "# METADATA\n# custom:\n#   enrollment_groups: [a]\n#   on_undecided: [hold]\npackage allocation.a\n"+hub),
			[]string{"rules/a.rego:4: custom.on_undecided is none of hold, reject, stay"}, true},
		{"empty list", folder("a.rego", serving("allocation.a", "", hub)), []string{
			"rules/a.rego:1: package allocation.a has METADATA for a rule but serves no enrollment (name enrollments under custom.enrollment_groups or custom.individual_enrollments)",
		}, true},
		{"custom without enrollments", folder("a.rego", "# METADATA\n# custom:\n#   on_undecided: hold\npackage allocation.a\n"+hub), []string{
			"rules/a.rego:1: package allocation.a has METADATA for a rule but serves no enrollment (name enrollments under custom.enrollment_groups or custom.individual_enrollments)",
		}, true},
		{"misspelt binding", folder("a.rego", "# METADATA\n# custom:\n#   enrollment_group: [a]\npackage allocation.a\n"+hub), []string{
			"rules/a.rego:3: unknown member custom.enrollment_group (did you mean enrollment_groups? The known members are enrollment_groups, individual_enrollments, on_undecided, recordable, check, verify)",
		}, true},
		{"misspelt beside a right one", folder("a.rego", "# METADATA\n# custom:\n#   enrollment_groups: [a]\n#   onUndecided: stay\npackage allocation.a\n"+hub), []string{
			"rules/a.rego:4: unknown member custom.onUndecided (did you mean on_undecided? The known members are enrollment_groups, individual_enrollments, on_undecided, recordable, check, verify)",
		}, true},
		{"several misspelt, and members of the author's own", folder("a.rego", "# METADATA\n# title: x\n# custom:\n#   enrolment_groups: [a]\n#   \"individual-enrollments\": [b]\n#   owner: groups\n"+
			"#   on_undecide: hold\n#   Recordable: []\n#   veriffy: {}\n#   chek: {}\n#   contact: x\npackage allocation.a\n"+hub,
			"b.rego", "# METADATA\n# custom: {enrollments: [c]}\npackage allocation.b\n"+hub), []string{
			"rules/a.rego:4: unknown member custom.enrolment_groups (did you mean enrollment_groups? " + members,
			"rules/a.rego:5: unknown member custom.individual-enrollments (did you mean individual_enrollments? " + members,
			"rules/a.rego:7: unknown member custom.on_undecide (did you mean on_undecided? " + members,
			"rules/a.rego:8: unknown member custom.Recordable (did you mean recordable? " + members,
			"rules/a.rego:9: unknown member custom.veriffy (did you mean verify? " + members,
			"rules/a.rego:10: unknown member custom.chek (did you mean check? " + members,
			"rules/b.rego:2: unknown member custom.enrollments (did you mean enrollment_groups? " + members,
		}, true},
		{"bound in two files", folder("a.rego", serving("allocation.a", "a", hub), "b.rego", "\n"+serving("allocation.a", "b", "")),
			[]string{"rules/b.rego:2: package allocation.a is bound a second time, first at rules/a.rego:1"}, true},
		{"default with enrollments", folder("a.rego", serving("allocation.default", "a", hub)), []string{
			"rules/a.rego:1: package allocation.default names enrollments, but it serves those that no other package names (give the rule another package name)",
		}, true},

		{"same group twice", folder("a.rego", serving("allocation.a", "x, Same", hub), "b.rego", "\n\n"+serving("allocation.b", "sAME", hub)), []string{
			"rules/b.rego:3: enrollment group same is served by allocation.b and by allocation.a (rules/a.rego:1) (name it in one of the two, or more precisely in one)",
		}, true},
		{"same name twice in one rule", folder("a.rego", serving("allocation.a", "x, X", hub)),
			[]string{"rules/a.rego:1: enrollment group x is named twice"}, true},
		{"same glob", folder("a.rego", serving("allocation.a", `"eu-*"`, hub), "b.rego", serving("allocation.b", `"EU-*"`, hub)), []string{
			`rules/b.rego:1: a name of enrollment groups that matches "eu-*" and "eu-*" is served by allocation.b and by allocation.a (rules/a.rego:1) (name it in one of the two, or more precisely in one)`,
		}, true},
		{"globs that overlap with the same precision", folder("a.rego", serving("allocation.a", `"ab*"`, hub), "b.rego", serving("allocation.b", `"*cd"`, hub)), []string{
			`rules/a.rego:1: a name of enrollment groups that matches "*cd" and "ab*" is served by allocation.a and by allocation.b (rules/b.rego:1) (name it in one of the two, or more precisely in one)`,
		}, true},
		{"? and * overlap", folder("a.rego", serving("allocation.a", `"a?"`, hub), "b.rego", serving("allocation.b", `"a*"`, hub)), []string{
			`rules/b.rego:1: a name of enrollment groups that matches "a?" and "a*" is served by allocation.b and by allocation.a (rules/a.rego:1) (name it in one of the two, or more precisely in one)`,
		}, true},
		{"same glob twice in one rule", folder("a.rego", serving("allocation.a", `"a*", "A*"`, hub)),
			[]string{`rules/a.rego:1: a name of enrollment groups that matches "a*" and "a*" is named twice`}, true},

		{"a twin alone", folder("a.rego", serving("allocation.a", "a", "initial_twin := {}\npayload := {}")),
			[]string{"rules/a.rego:1: package allocation.a serves enrollments but has none of the rules hub, reject, hold (define hub)"}, false},
		{"two packages that say nothing", folder("a.rego", serving("allocation.a", "a", "x := 1"), "b.rego", serving("allocation.b", "b", "x := 1")), []string{
			"rules/a.rego:1: package allocation.a serves enrollments but has none of the rules hub, reject, hold (define hub)",
			"rules/b.rego:1: package allocation.b serves enrollments but has none of the rules hub, reject, hold (define hub)",
		}, false},
		{"an entry rule that is a function", folder("a.rego", serving("allocation.a", "a", `hub(x) := x`)),
			[]string{"rules/a.rego:6: hub is a function, but hub is an entry rule of package allocation.a (give the function another name)"}, false},
		{"reject as an object", folder("a.rego", serving("allocation.a", "a", hub+"\n"+`reject["no such model"] if input.x`)),
			[]string{`rules/a.rego:7: reject["no such model"] makes an object of reject, which is a set of reasons (write reject contains "the reason" if ...)`}, false},
		{"hub as an object", folder("a.rego", serving("allocation.a", "a", `hub.name := "h"`)),
			[]string{`rules/a.rego:6: hub.name makes an object of hub, which is a host name (define hub itself)`}, false},

		{"unsafe variable", folder("a.rego", serving("allocation.a", "a", `hub := x`)),
			[]string{"rules/a.rego:6: rego_unsafe_var_error: var x is unsafe"}, false},
		{"strict: unused import", folder("a.rego", serving("allocation.a", "a", "import data.lib\n"+hub)),
			[]string{"rules/a.rego:6: rego_compile_error: import data.lib unused"}, false},
		{"strict: unused variable", folder("a.rego", serving("allocation.a", "a", "hub := \"h\" if x := input.y")),
			[]string{"rules/a.rego:6: rego_compile_error: assigned var x unused"}, false},
		{"errors in several files", folder("a.rego", serving("allocation.a", "a", "hub := x"), "b.rego", serving("allocation.b", "b", "hub := y")), []string{
			"rules/a.rego:6: rego_unsafe_var_error: var x is unsafe",
			"rules/b.rego:6: rego_unsafe_var_error: var y is unsafe",
		}, false},
		{"a name that a library does not have", folder("a.rego", serving("allocation.a", "a", "import data.lib\n"+hub+"\nreject contains \"x\" if lib.stoln[input.x]"), "lib.rego", "package lib\nstolen := {1}\nlost := {2}"),
			[]string{"rules/a.rego:8: rego_type_error: undefined ref: data.lib.stoln; data.lib has lost, stolen"}, false},
		{"a function that a library does not have", folder("a.rego", serving("allocation.a", "a", "import data.lib\nhub := lib.named(1)"), "lib.rego", "package lib\nhub_named(x) := x"),
			[]string{"rules/a.rego:7: rego_type_error: undefined ref: data.lib.named; data.lib has hub_named"}, false},
		{"a misspelt import", folder("a.rego", serving("allocation.a", "a", "import data.libs.stolen\n"+hub+"\nreject contains \"x\" if stolen[input.x]"), "lib.rego", "package lib\nstolen := {1}"),
			[]string{"rules/a.rego:8: rego_type_error: undefined ref: data.libs; data has allocation, lib"}, false},
		{"a folder of data of another name", folder("a.rego", serving("allocation.a", "a", hub+"\nreject contains \"x\" if data.lines.stolen[input.x]\nhold contains \"x\" if not data.line.hubs.eu"), "line/data.json", `{"stolen":{},"hubs":{"us":"h"}}`),
			[]string{"rules/a.rego:7: rego_type_error: undefined ref: data.lines; data has allocation, line", "rules/a.rego:8: rego_type_error: undefined ref: data.line.hubs.eu; data.line.hubs has us"}, false},
		{"a member of a value in data", folder("a.rego", serving("allocation.a", "a", "hub := data.line.hub.name"), "line/data.json", `{"hub":"h"}`),
			[]string{"rules/a.rego:6: rego_type_error: undefined ref: data.line.hub.name; data.line.hub has no members"}, false},
		{"a value of the package itself", folder("a.rego", serving("allocation.a", "a", "hubs := {}\nhub := data.allocation.a.hub_of_line")),
			[]string{"rules/a.rego:7: rego_type_error: undefined ref: data.allocation.a.hub_of_line; data.allocation.a has hub, hubs"}, false},
		{"a name in a value for with", folder("a.rego", serving("allocation.a", "a", "x := input\nhub := y if y := x with input as data.lin")),
			[]string{"rules/a.rego:7: rego_type_error: undefined ref: data.lin; data has allocation"}, false},
		{"data where a rule is", folder("a.rego", serving("allocation.a", "a", hub), "allocation/data.json", `{"a":{"hub":"other"}}`),
			[]string{"rules/a.rego:6: data.allocation.a.hub is a rule, but rules/allocation/data.json claims the same path" + claims}, false},
		{"data in the folder of a rule's path", folder("a.rego", serving("allocation.a", "a", hub), "data.json", "{}", "allocation/a/data.json", `{"hub":"other"}`),
			[]string{"rules/a.rego:6: data.allocation.a.hub is a rule, but rules/allocation/a/data.json claims the same path" + claims}, false},
		{"data above a package", folder("a.rego", serving("allocation.a", "a", hub), "fleet.rego", "package fleet.y\nz := 1", "fleet/data.json", `{"y":2}`),
			[]string{"rules/fleet.rego:2: data.fleet.y.z is a rule, but rules/fleet/data.json claims the same path" + claims}, false},

		{"two kinds of reject", folder("a.rego", serving("allocation.a", "a", "reject contains \"x\" if input.a\nreject := true if input.b")),
			[]string{"rules/a.rego:6: definitions of data.allocation.a.reject are of different kinds: a set (contains) at rules/a.rego:6, one value at rules/a.rego:7 (write all of them with contains, and no default)"}, false},
		{"a default of a set", folder("a.rego", serving("allocation.a", "a", "default hold := false\nhold contains \"x\" if input.a")),
			[]string{"rules/a.rego:6: definitions of data.allocation.a.hold are of different kinds: a default at rules/a.rego:6, a set (contains) at rules/a.rego:7 (write all of them with contains, and no default)"}, false},
		{"a value and a function", folder("a.rego", serving("allocation.a", "a", hub+"\nf := 1\nf(_) := 2")),
			[]string{"rules/a.rego:7: definitions of data.allocation.a.f are of different kinds: one value at rules/a.rego:7, a function of 1 at rules/a.rego:8 (write all of them in one form, or give one another name)"}, false},

		{"data that ends", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", "{\n  \"x\":"), []string{"rules/sub/data.json:2:7: not JSON: the file ends before the value does"}, true},
		{"data that is empty", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", "\n"), []string{"rules/sub/data.json:1:1: not JSON: the file ends before the value does"}, true},
		{"data with more", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", `{"x":1} x`), []string{"rules/sub/data.json:1:9: not JSON: something follows the JSON value"}, true},
		{"data with two values", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", "{\"x\":1}\n{}"), []string{"rules/sub/data.json:2:1: not JSON: something follows the JSON value"}, true},
		{"data with a mistake", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", "{\n  \"ä\": 1, \"b\": }"), []string{"rules/sub/data.json:2:16: not JSON: invalid character '}' at start of value"}, true},
		{"data with a comma too many", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", "{\"x\":1,\n}"),
			[]string{"rules/sub/data.json:2:1: not JSON: invalid character '}' at start of string (expecting '\"') (remove the comma before it)"}, true},
		{"data that is not UTF-8", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", "{\"x\":\"\xff\"}"), []string{"rules/sub/data.json:1:7: not JSON: invalid UTF-8"}, true},
		{"data with a name twice", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.json", "{\"x\":{\"y\":1,\n\"y\":2}}"),
			[]string{"rules/sub/data.json:2:1: the name of /x/y occurs twice in one object (remove one of them: only one would count)"}, true},
		{"two files of data with mistakes", folder("a.rego", serving("allocation.a", "a", hub), "data.json", "{", "sub/data.json", "["),
			[]string{"rules/data.json:1:2: not JSON: the file ends before the value does", "rules/sub/data.json:1:2: not JSON: the file ends before the value does"}, true},
		{"YAML with names twice", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.yaml", "x:\n  - {y: 1, z: 2}\n  - y: 1\n    \"y\": 2\n1: a\n'1': b\nx: 3\n"), []string{
			"rules/sub/data.yaml:4:5: the name of /x/1/y occurs twice in one object (remove one of them: only one would count)",
			"rules/sub/data.yaml:6:1: the name of /1 occurs twice in one object (remove one of them: only one would count)",
			"rules/sub/data.yaml:7:1: the name of /x occurs twice in one object (remove one of them: only one would count)",
		}, true},
		{"a name twice in data.yml", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.yml", "{\"a\": 1, \"a\": 2}"),
			[]string{"rules/sub/data.yml:1:10: the name of /a occurs twice in one object (remove one of them: only one would count)"}, true},
		{"data that is no YAML", folder("a.rego", serving("allocation.a", "a", hub), "sub/data.yaml", "a: 1\nb: [\n"), []string{"rules/sub/data.yaml:2: did not find expected node content"}, true},
	}
	for _, test := range tests {
		for _, lazy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/lazy=%v", test.name, lazy), func(t *testing.T) {
				t.Parallel()
				options := ruleset.Options{Name: "rules", Lazy: lazy, Strict: true}
				rs, err := ruleset.Load(t.Context(), test.files, options)
				if lazy && !test.lazy {
					if err != nil {
						t.Fatalf("Load: %v", err)
					}
					err = rs.CompileAll(t.Context())
				}
				got := problemsOf(t, err)
				for i := range got {
					got[i] = strings.ReplaceAll(got[i], "\n", " ")
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		}
	}
}

func TestLoadMissingFolder(t *testing.T) {
	t.Parallel()
	_, err := ruleset.Load(t.Context(), os.DirFS(t.TempDir()+"/absent"), ruleset.Options{Name: "rules"})
	got := problemsOf(t, err)
	if len(got) != 1 || !strings.HasPrefix(got[0], "rules: ") || !strings.HasSuffix(got[0], "(name a folder that contains Rego files)") {
		t.Errorf("got %q", got)
	}
}

// The same folder gives the same errors, whatever order maps are in.
func TestLoadErrorsAreDeterministic(t *testing.T) {
	t.Parallel()
	binding, compiling := fstest.MapFS{}, fstest.MapFS{}
	for i := range 12 {
		name := fmt.Sprintf("p%02d.rego", i)
		binding[name] = &fstest.MapFile{Data: []byte(serving(fmt.Sprintf("allocation.p%02d", i), `same, "a*", "?b", 'x*y'`, hub))}
		compiling[name] = &fstest.MapFile{Data: []byte(serving(fmt.Sprintf("allocation.p%02d", i), fmt.Sprint("g", i),
			"hub := http.send({})\na := x\nb := input.misspelt\nc := y\nd(x) := time.now_ns()\ne := f(1)\npayload := z"))}
	}
	for _, test := range []struct {
		name  string
		files fstest.MapFS
	}{{"binding", binding}, {"compiling", compiling}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			options := ruleset.Options{Name: "rules", InputSchema: inputSchema(t)}
			_, err := ruleset.Load(t.Context(), test.files, options)
			want := problemsOf(t, err)
			if len(want) < 20 {
				t.Fatalf("only %d problems: %v", len(want), err)
			}
			for range 20 {
				_, err := ruleset.Load(t.Context(), test.files, options)
				if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" {
					t.Fatalf("another Load says:\n%s", diff)
				}
			}
		})
	}
}

func TestInputSchemaFindsMisspeltProperties(t *testing.T) {
	t.Parallel()
	tests := []struct{ ref, right string }{
		{"input.enrollmentgroup", "enrollmentGroup"},
		{"input.enrollmentGroup.enrollmentGroupID", "enrollmentGroupId"},
		{"input.deviceRuntimeContext.currentIoTHubHostName", "currentIotHubHostName"},
		{"input.linkedHub[0]", "linkedHubs"},
		{"input.registrationId", "deviceRuntimeContext"},
	}
	for _, test := range tests {
		t.Run(test.ref, func(t *testing.T) {
			t.Parallel()
			_, err := ruleset.Load(t.Context(), folder("a.rego", serving("allocation.a", "a", "hub := "+test.ref)),
				ruleset.Options{Name: "rules", InputSchema: inputSchema(t)})
			got := problemsOf(t, err)
			if len(got) != 1 || !strings.HasPrefix(got[0], "rules/a.rego:6: rego_type_error: undefined ref: "+test.ref) || !strings.Contains(got[0], `"`+test.right+`"`) {
				t.Errorf("got %q, want the place and the right name %s", got, test.right)
			}
		})
	}
	// What the device sends is open.
	mustLoad(t, folder("a.rego", serving("allocation.a", "a", "hub := input.deviceRuntimeContext.payload.anything.at.all")),
		ruleset.Options{InputSchema: inputSchema(t)})
	// Without a schema, so is everything.
	mustLoad(t, folder("a.rego", serving("allocation.a", "a", "hub := input.misspelt")), ruleset.Options{})
}

func TestNotStrict(t *testing.T) {
	t.Parallel()
	mustLoad(t, folder("a.rego", serving("allocation.a", "a", "import data.lib\nhub := \"h\" if x := input.y")), ruleset.Options{})
}

// restricted has a call of each built-in function that is off by default.
var restricted = map[string]string{
	"bits.lsh": `bits.lsh(1, 2)`,
	"crypto.x509.parse_and_verify_certificates":              `crypto.x509.parse_and_verify_certificates("")`,
	"crypto.x509.parse_and_verify_certificates_with_options": `crypto.x509.parse_and_verify_certificates_with_options("", {})`,
	"http.send":              `http.send({"method": "get", "url": "http://localhost"})`,
	"io.jwt.decode_verify":   `io.jwt.decode_verify("", {})`,
	"io.jwt.encode_sign":     `io.jwt.encode_sign({}, {}, {})`,
	"io.jwt.encode_sign_raw": `io.jwt.encode_sign_raw("", "", "")`,
	"json.match_schema":      `json.match_schema({}, {})`,
	"json.verify_schema":     `json.verify_schema({})`,
	"net.lookup_ip_addr":     `net.lookup_ip_addr("localhost")`,
	"opa.runtime":            `opa.runtime()`,
	"rand.intn":              `rand.intn("", 2)`,
	"rego.parse_module":      `rego.parse_module("", "package a")`,
	"time.now_ns":            `time.now_ns()`,
	"uuid.rfc4122":           `uuid.rfc4122("")`,
}

func TestRestrictedBuiltins(t *testing.T) {
	t.Parallel()
	var names []string
	for _, builtin := range ast.CapabilitiesForThisVersion().Builtins {
		if ruleset.Restricted(builtin) {
			names = append(names, builtin.Name)
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call, ok := restricted[name]
			if !ok {
				t.Fatal("restricted, but has no call in this test")
			}
			files := folder("a.rego", serving("allocation.a", "a", "hub := "+call))
			want := []string{"rules/a.rego:6: rego_type_error: undefined function " + name +
				" (this built-in is off; the setting USHER_RULES_BUILTINS allows it by name)"}
			_, err := ruleset.Load(t.Context(), files, ruleset.Options{Name: "rules"})
			if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" {
				t.Errorf("not allowed: -want +got:\n%s", diff)
			}
			mustLoad(t, files, ruleset.Options{Name: "rules", AllowBuiltins: []string{name}})
			for other := range restricted {
				if other != name {
					_, err := ruleset.Load(t.Context(), files, ruleset.Options{Name: "rules", AllowBuiltins: []string{other}})
					if err == nil {
						t.Errorf("allowed by allowing %s", other)
					}
					break
				}
			}
		})
	}
	for name := range restricted {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not restricted", name)
		}
	}
}

// Mentioning a built-in by `with` or as a value does not get around the list.
func TestRestrictedBuiltinsHaveNoBackDoor(t *testing.T) {
	t.Parallel()
	for _, rules := range []string{
		"f(x) := opa.runtime()\nhub := f(1)",
		"hub := count([1]) with count as opa.runtime",
		"hub := f(1) with f as http.send\nf(x) := x",
	} {
		if _, err := ruleset.Load(t.Context(), folder("a.rego", serving("allocation.a", "a", rules)), ruleset.Options{}); err == nil {
			t.Errorf("loads: %s", rules)
		}
	}
}

func TestAllowUnknownBuiltin(t *testing.T) {
	t.Parallel()
	_, err := ruleset.Load(t.Context(), folder("a.rego", serving("allocation.a", "a", hub)),
		ruleset.Options{Name: "rules", AllowBuiltins: []string{"http.sent", "http.send", ""}})
	want := []string{`OPA has no built-in function "" to allow`, `OPA has no built-in function "http.sent" to allow`}
	if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	files := func(more ...string) fstest.MapFS {
		return folder(append([]string{"a.rego", serving("allocation.a", "a", hub), "data.json", `{"x":1}`, "sub/data.yaml", "y: 2"}, more...)...)
	}
	digest := func(fsys fs.FS) string { return mustLoad(t, fsys, ruleset.Options{}).Digest() }
	want := digest(files())
	if !strings.HasPrefix(want, "sha256:") || len(want) != len("sha256:")+64 {
		t.Errorf("digest %q", want)
	}
	for name, same := range map[string]fs.FS{
		"again":         files(),
		"a test":        files("a_test.rego", "package a_test"),
		"a readme":      files("README.md", "x"),
		"other JSON":    files("sub/other.json", "{"),
		"hidden file":   files(".b.rego", "broken"),
		"hidden folder": files(".git/b.rego", "broken", ".git/data.json", "broken"),
	} {
		if got := digest(same); got != want {
			t.Errorf("%s: another digest", name)
		}
	}
	if lazy := mustLoad(t, files(), ruleset.Options{Lazy: true, Name: "other"}).Digest(); lazy != want {
		t.Error("the digest depends on options")
	}
	seen := map[string]string{want: "the original"}
	for name, other := range map[string]fs.FS{
		"rule changed":   files("a.rego", serving("allocation.a", "a", hub+" # x")),
		"data changed":   files("data.json", `{"x":2}`),
		"YAML changed":   files("sub/data.yaml", "y: 3"),
		"library added":  files("lib.rego", "package lib"),
		"data added":     files("more/data.json", "{}"),
		"rule in folder": folder("sub/a.rego", serving("allocation.a", "a", hub), "data.json", `{"x":1}`, "sub/data.yaml", "y: 2"),
		"text moved":     folder("a.rego", serving("allocation.a", "a", hub), "data.json", `{"x":1} `, "sub/data.yaml", "y: 2"),
	} {
		got := digest(other)
		if seen[got] != "" {
			t.Errorf("%s: the digest of %s", name, seen[got])
		}
		seen[got] = name
	}
}

// Tests, hidden files and folders, and files of other names are no rules.
func TestFilesThatAreNoRules(t *testing.T) {
	t.Parallel()
	const broken = "{ this is neither Rego nor JSON"
	rs := mustLoad(t, folder(
		"a.rego", serving("allocation.a", "a", `hub := data.name`), "data.json", `{"name":"h"}`,
		"a_test.rego", broken, ".hidden.rego", broken, ".data.json", broken, ".git/x.rego", broken, ".vscode/data.json", broken,
		"sub/.x/y.rego", broken, "sub/settings.json", broken, "sub/mydata.json", broken, "a.rego.bak", broken, "REGO", broken, ".manifest", broken,
	), ruleset.Options{})
	if got := evaluate(t, rs.Serving(forGroup("a")), `{}`).Hub; got != "h" {
		t.Errorf("hub %v", got)
	}
}

// A message has the author's names and expressions, not the variables that the compiler makes of them.
func TestLoadErrorsAreInTheAuthorsWords(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ rego, want string }{
		{`reject[x] := 1 if some x in ["a"]`, "reject[x] makes an object of reject"},
		{`hold[x] if some x in ["a"]`, "hold[x] makes an object of hold"},
		{`reject[lower(x)] := 1 if some x in ["a"]`, "reject[lower(x)] makes an object of reject"},
		{`reject[input.linkedHubs[0]] := 1`, "reject[input.linkedHubs[0]] makes an object of reject"},
		{`reject[concat("", [lower(x), "b"])] := 1 if some x in ["a"]`, `reject[concat("", [lower(x), "b"])] makes an object of reject`},
		{`hub[x].y := 1 if some x in ["a"]`, "hub[x].y makes an object of hub"},
		{`hub[x] contains 1 if some x in ["a"]`, "hub[x] makes an object of hub"},
		{`hub := x if { x := input.deviceRuntimeContext; x.nowhere }`, "undefined ref: x.nowhere"},
		{`hub := [x | some x in input.linkedHubs; x.nowhere]`, "undefined ref: x.nowhere"},
		{`hub := x if { some y in [1]; x := y; x[y].z }`, "undefined ref: x[y].z"},
		{`hub := x if { x := 1; count(x) > 1 }`, "count: invalid argument(s)"},
		{`hub := x if { some x; input.linkedHubs[x] == y }`, "var y is unsafe"},
		{`hub := x if { x := 1; x := 2 }`, "var x assigned above"},
		{`hub := x if { x := y; y := 1 }`, "var y referenced above"},
		{`hub := "a" if { x := 1; hubs with data.allocation.a.hubs[x] as 1 }` + "\nhubs := {}", "with keyword cannot partially replace"},
	} {
		rego := test.rego
		if !strings.HasPrefix(rego, "hub") {
			rego = hub + "\n" + rego
		}
		_, err := ruleset.Load(t.Context(), folder("a.rego", serving("allocation.a", "a", rego)), ruleset.Options{Name: "rules", InputSchema: inputSchema(t)})
		text := strings.Join(problemsOf(t, err), "\n")
		if !strings.Contains(text, test.want) || strings.Contains(text, "__local") {
			t.Errorf("%s\ngot  %s\nwant %s", rego, text, test.want)
		}
	}
}

func TestSplitPlace(t *testing.T) {
	t.Parallel()
	for place, want := range map[string]struct {
		file string
		line int
	}{
		"rules/a.rego:7":      {"rules/a.rego", 7},
		"rules/data.json:3:8": {"rules/data.json", 3},
		"rules":               {"rules", 1},
		`C:\rules\a.rego:7`:   {`C:\rules\a.rego`, 7},
		"":                    {"", 1},
	} {
		if file, line := ruleset.SplitPlace(place); file != want.file || line != want.line {
			t.Errorf("%s: %s, %d", place, file, line)
		}
	}
}

// A member of YAML may override one that is merged in.
func TestMergedData(t *testing.T) {
	t.Parallel()
	_, err := ruleset.Load(t.Context(), folder("a.rego", serving("allocation.a", "a", "hub := data.sub.x.a"),
		"sub/data.yaml", "base: &base {a: one, b: two}\nx:\n  <<: *base\n  a: three\n"), ruleset.Options{Name: "rules"})
	if err != nil {
		t.Error(err)
	}
}
