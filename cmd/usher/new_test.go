package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/decide/decider"
)

// usher runs a command in this process and returns what it prints.
func usher(t *testing.T, wantCode int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != wantCode {
		t.Errorf("usher %s exits with %d, want %d\n%s%s", strings.Join(args, " "), code, wantCode, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// What `usher new` writes loads strictly, serves only the enrollments that it should, passes its own test and usher
// check, and is formatted. The rules of all scenarios go into one folder, one after the other.
func TestNewFromEveryScenario(t *testing.T) {
	t.Parallel()
	if len(scenarios()) < 6 {
		t.Fatalf("scenarios: %v", scenarios())
	}
	dir := filepath.Join(t.TempDir(), "rules")
	for _, from := range scenarios() {
		name := "x_" + from
		stdout, _ := usher(t, exitOK, "new", name, "--from", from, "--dir", dir,
			"--group", "Group-"+from, "--group", from+"-?*", "--individual", "4711-"+from)
		if !strings.Contains(stdout, "usher test "+dir+" --run "+name) {
			t.Errorf("%s: it does not print the next steps:\n%s", from, stdout)
		}
		text, err := os.ReadFile(filepath.Join(dir, name, name+".rego"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "no other rule names") {
			t.Errorf("%s: the METADATA of a rule with a name still describes the default rule:\n%s", from, text)
		}
		test, err := os.ReadFile(filepath.Join(dir, name, name+"_test.rego"))
		if err != nil {
			t.Fatal(err)
		}
		for _, left := range []string{"data." + from, "allocation." + from, `["` + from + `"]`, from + "-devices"} {
			if strings.Contains(string(text)+string(test), left) {
				t.Errorf("%s: %q is left in the new rule or its test", from, left)
			}
		}
	}
	rules, err := decider.LoadRules(t.Context(), os.DirFS(dir), decider.RulesOptions{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	bindings := rules.All()
	if len(bindings) != len(scenarios()) {
		t.Errorf("%d rules of %d scenarios", len(bindings), len(scenarios()))
	}
	for _, b := range bindings {
		from := strings.TrimPrefix(b.Package, "allocation.x_")
		if !slices.Equal(b.Groups, []string{"Group-" + from, from + "-?*"}) || !slices.Equal(b.Individuals, []string{"4711-" + from}) {
			t.Errorf("%s serves %v and %v", b.Package, b.Groups, b.Individuals)
		}
	}
	stdout, _ := usher(t, exitOK, "test", dir, "--require-tests", "-v")
	for _, from := range scenarios() {
		if !strings.Contains(stdout, "data.allocation.x_"+from+"_test.") {
			t.Errorf("no test of x_%s ran", from)
		}
	}
	usher(t, exitOK, "check", dir, "--fail-on", "warning")
	usher(t, exitOK, "fmt", "--check", dir)
}

// A scenario can keep its name, and can take the name of another.
func TestNewWithAScenariosName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	usher(t, exitOK, "new", "default", "--dir", dir)
	usher(t, exitOK, "new", "tenants", "--dir", dir, "--from", "staged", "--group", "a")
	usher(t, exitOK, "new", "staged", "--dir", dir, "--from", "tenants", "--group", "b")
	usher(t, exitOK, "test", dir, "--require-tests")
	usher(t, exitOK, "check", dir, "--fail-on", "warning")
	rules, err := decider.LoadRules(t.Context(), os.DirFS(dir), decider.RulesOptions{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	var titles []string
	for _, b := range rules.All() {
		titles = append(titles, b.Package+": "+b.Title)
	}
	want := []string{"allocation.default: Everything else", "allocation.staged: Tenants by certificate", "allocation.tenants: Staged solution change"}
	if !slices.Equal(titles, want) {
		t.Errorf("rules: %q, want %q", titles, want)
	}
}

// A command line that is refused writes and overwrites nothing.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		want int
		says string
	}{
		{"no enrollment", []string{"x"}, exitUsage, "name the enrollments that the rule serves"},
		{"no scenario", []string{"x", "--group", "g", "--from", "nothing"}, exitUsage, "breakroom, default, failover, fill, inventory, quarantine, residency, staged, tenants"},
		{"capital", []string{"Presses", "--group", "g"}, exitUsage, "lower-case letters"},
		{"path", []string{"../x", "--group", "g"}, exitUsage, "lower-case letters"},
		{"keyword", []string{"with", "--group", "g"}, exitUsage, "a keyword of Rego"},
		{"test", []string{"x_test", "--group", "g"}, exitUsage, "has another meaning"},
		{"library", []string{"dps", "--group", "g"}, exitUsage, "has another meaning"},
		{"word of the test", []string{"fleet", "--group", "g"}, exitUsage, "the test of the scenario default already uses the name fleet"},
		{"default with group", []string{"default", "--group", "g"}, exitUsage, "serves all other enrollments"},
		{"default from another", []string{"default", "--from", "tenants"}, exitUsage, "serves all other enrollments"},
		{"group with a space", []string{"x", "--group", "a b"}, exitUsage, "not a valid name of an enrollment"},
		{"group that breaks out", []string{"x", "--group", `a"]`}, exitUsage, "not a valid name of an enrollment"},
		{"no name", []string{"--group", "g"}, exitUsage, "give the rule a name"},
		{"two names", []string{"x", "y", "--group", "g"}, exitUsage, "one name, not 2"},
		{"list with a name", []string{"x", "--list"}, exitUsage, "--list takes no name"},
		{"there already", []string{"taken", "--group", "g"}, exitFailure, "taken already exists"},
		{"served already", []string{"x", "--group", "Line-A"}, exitRules, "enrollment group line-a is served by allocation.x and by allocation.taken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			usher(t, exitOK, "new", "taken", "--group", "line-a", "--dir", dir)
			before := tree(t, dir)
			_, stderr := usher(t, c.want, append(append([]string{"new"}, c.args...), "--dir", dir)...)
			if !strings.Contains(stderr, c.says) {
				t.Errorf("standard error is %q, want %q in it", stderr, c.says)
			}
			if after := tree(t, dir); !slices.Equal(before, after) {
				t.Errorf("files before %q, after %q", before, after)
			}
		})
	}
}

// An existing package dps is kept. A file in the place of the library that is not the library is an error.
func TestNewKeepsTheLibrary(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	usher(t, exitOK, "new", "first", "--group", "a", "--dir", dir)
	library := filepath.Join(dir, "lib", "dps.rego")
	text, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\n# Ours.\n"...)
	if err := os.WriteFile(library, text, 0o600); err != nil {
		t.Fatal(err)
	}
	usher(t, exitOK, "new", "second", "--group", "b", "--dir", dir)
	if kept, err := os.ReadFile(library); err != nil || !bytes.Equal(kept, text) {
		t.Errorf("the library was overwritten (%v)", err)
	}
	other := t.TempDir()
	if err := os.MkdirAll(filepath.Join(other, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "lib", "dps.rego"), []byte("package other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr := usher(t, exitFailure, "new", "first", "--group", "a", "--dir", other)
	if !strings.Contains(stderr, "is not the library of Usher") {
		t.Errorf("standard error is %q", stderr)
	}
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			text, err := os.ReadFile(name)
			names = append(names, name+"\n"+string(text))
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
