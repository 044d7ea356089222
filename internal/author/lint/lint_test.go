package lint_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/decide/decider"
)

const shipped = "../../../rules"

// run loads rules as usher check does and looks at them.
func run(t *testing.T, fsys fs.FS, options lint.Options, builtins ...string) lint.Report {
	t.Helper()
	rules, err := decider.LoadRules(t.Context(), fsys, decider.RulesOptions{Name: "rules", Strict: true, AllowBuiltins: builtins})
	if err != nil {
		t.Fatalf("the rules do not load: %v", err)
	}
	report, err := lint.Run(t.Context(), fsys, rules, options)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Rules) != len(rules.All()) {
		t.Errorf("looked at %v of %d rules", report.Rules, len(rules.All()))
	}
	return report
}

// The rules that ship are clean, also when the hubs are known.
func TestShippedRules(t *testing.T) {
	t.Parallel()
	for _, hubs := range [][]string{nil, {
		"contoso-toasters-hub-1098", "contoso-heatpumps-hub-1098", "contoso-quarantine-hub", "contoso-eu-hub", "contoso-eu-north-hub",
		"contoso-us-hub", "fabrikam-hub", "contoso-v1-hub", "contoso-v2-hub", "contoso-north-hub", "contoso-reserve-hub",
	}} {
		report := run(t, os.DirFS(shipped), lint.Options{Hubs: hubs})
		for _, finding := range report.Findings {
			t.Errorf("%+v", finding)
		}
	}
}

// The starter rules name hubs, most of them in their data, and every one is seen.
func TestShippedRulesNameHubs(t *testing.T) {
	t.Parallel()
	report := run(t, os.DirFS(shipped), lint.Options{Hubs: []string{"contoso-eu-hub", "fabrikam-hub"}})
	hub := regexp.MustCompile(`[\w*-]+-hub[\w*-]*`)
	var got []string
	for _, finding := range report.Findings {
		got = append(got, finding.Rule+" "+hub.FindString(finding.Message))
	}
	slices.Sort(got)
	want := []string{
		"allocation.breakroom *-heatpumps-hub*", "allocation.breakroom *-toasters-hub*",
		"allocation.failover contoso-north-hub",
		"allocation.fill contoso-reserve-hub", "allocation.fill contoso-us-hub",
		"allocation.quarantine contoso-quarantine-hub",
		"allocation.residency contoso-eu-north-hub", "allocation.residency contoso-us-hub",
		"allocation.staged contoso-v1-hub", "allocation.staged contoso-v2-hub",
		"allocation.tenants contoso-us-hub",
	}
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("hubs that are not linked (-want +got):\n%s", diff)
	}
}

var found = regexp.MustCompile(`# found(?: at (\d+))?(?: (".*"))?`)

// Each archive is about some lints. A line of it that ends in "# found" has a finding, "# found at 1" tells of one in
// line 1 of the file, # found "text" of one with this text in its message, and nothing else is found. A Rego file
// without a package clause is the body of a rule, which readArchive completes.
func TestLints(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	tried := map[string]int{}
	for _, name := range archives {
		archive := readArchive(t, name)
		lints := header(archive, "lints")
		for _, id := range lints {
			if _, ok := lint.Find(id); !ok {
				t.Fatalf("%s: there is no lint %q", name, id)
			}
			tried[id]++
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			testArchive(t, archive, lints)
		})
	}
	for _, l := range lint.Lints() {
		if tried[l.ID] == 0 {
			t.Errorf("no archive tries %s", l.ID)
		}
	}
}

// readArchive reads an archive, and makes rules of the files that are only bodies of rules.
func readArchive(t testing.TB, name string) *txtar.Archive {
	t.Helper()
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i, file := range archive.Files {
		id, isRego := strings.CutSuffix(file.Name, ".rego")
		body := string(file.Data)
		if !isRego || strings.Contains(body, "package ") {
			continue
		}
		module := fmt.Sprintf(bodyHeader, id)
		if !definesHub.MatchString(body) {
			body += "\nhub := dps.current_hub\n"
		}
		archive.Files[i].Data = []byte(module + body)
	}
	return archive
}

var definesHub = regexp.MustCompile(`(?m)^hub\b`)

const bodyHeader = `# METADATA
# title: %[1]s
# custom:
#   enrollment_groups: [%[1]s]
package allocation.%[1]s

import data.dps

uses_dps := dps.registration_id

`

func header(archive *txtar.Archive, name string) []string {
	for line := range strings.Lines(string(archive.Comment)) {
		if list, ok := strings.CutPrefix(line, name+":"); ok {
			parts := strings.Split(list, ",")
			for i := range parts {
				parts[i] = strings.TrimSpace(parts[i])
			}
			return parts
		}
	}
	return nil
}

func testArchive(t *testing.T, archive *txtar.Archive, lints []string) {
	library, err := os.ReadFile(filepath.Join(shipped, "lib", "dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	options := lint.Options{Hubs: header(archive, "hubs")}
	want := map[string]string{} // places and what the message contains
	for i, file := range archive.Files {
		if slices.Contains(header(archive, "enrollments"), file.Name) {
			if options.Enrollments, err = lint.ReadEnrollments(bytes.NewReader(file.Data)); err != nil {
				t.Fatal(err)
			}
			for j := range options.Enrollments {
				options.Enrollments[j].File = "rules/" + file.Name
			}
			archive.Files[i].Name = ".enrollments"
		}
		for number, line := range strings.Split(string(file.Data), "\n") {
			for _, match := range found.FindAllStringSubmatch(line, -1) {
				at := strconv.Itoa(number + 1)
				if match[1] != "" {
					at = match[1]
				}
				text, _ := strconv.Unquote(match[2])
				want[file.Name+":"+at] = text
			}
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: "lib/dps.rego", Data: library})
	fsys, err := txtar.FS(archive)
	if err != nil {
		t.Fatal(err)
	}
	report := run(t, fsys, options, header(archive, "builtins")...)
	got := map[string]string{}
	for _, finding := range report.Findings {
		if !slices.Contains(lints, finding.Lint) {
			continue
		}
		place := strings.TrimPrefix(finding.File, "rules/") + ":" + strconv.Itoa(finding.Line)
		if text := want[place]; got[place] == "" || !strings.Contains(got[place], text) {
			got[place] = finding.Message
		}
		t.Logf("%s:%d: %s: %s: %s (%s)", finding.File, finding.Line, finding.Level, finding.Lint, finding.Message, finding.Fix)
	}
	for place, message := range got {
		if text, ok := want[place]; !ok {
			t.Errorf("%s: %s\n%s", place, message, lineAt(archive, place))
		} else if !strings.Contains(message, text) {
			t.Errorf("%s: %s; want %s", place, message, text)
		}
	}
	for place := range want {
		if _, ok := got[place]; !ok {
			t.Errorf("%s: nothing found\n%s", place, lineAt(archive, place))
		}
	}
}

// lineAt is the line of an archive's file at a place.
func lineAt(archive *txtar.Archive, place string) string {
	name, number, _ := strings.Cut(place, ":")
	for _, file := range archive.Files {
		if row, _ := strconv.Atoi(number); file.Name == name && row > 0 {
			return strings.Split(string(file.Data), "\n")[row-1]
		}
	}
	return ""
}
