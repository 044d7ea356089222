package lint_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/author/lint"
	"github.com/usher-dps/usher/internal/decide/decider"
)

func loadError(t *testing.T) error {
	t.Helper()
	_, err := decider.LoadRules(t.Context(), fstest.MapFS{"a.rego": {Data: []byte("package allocation[\"default\"]\n\nhub := x")}},
		decider.RulesOptions{Name: "rules"})
	if err == nil {
		t.Fatal("the rules load")
	}
	return err
}

func TestProblems(t *testing.T) {
	t.Parallel()
	got := lint.Problems(loadError(t))
	want := []lint.Finding{{Lint: lint.NotLoaded, Level: lint.Error, File: "rules/a.rego", Line: 3, Message: "rego_unsafe_var_error: var x is unsafe"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if got := lint.Problems(errors.New("disk on fire")); got != nil {
		t.Errorf("an error that is none of the rules' gives %+v", got)
	}
}

// What a lint says of itself is complete, and its Rego parses.
func TestLintsExplainThemselves(t *testing.T) {
	t.Parallel()
	id := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	var ids []string
	for _, l := range lint.Lints() {
		if !id.MatchString(l.ID) || slices.Contains(ids, l.ID) {
			t.Errorf("ID %q", l.ID)
		}
		ids = append(ids, l.ID)
		if l.Title == "" || len(l.Explanation) < 100 || !slices.Contains([]lint.Level{lint.Error, lint.Warning, lint.Note}, l.Level) {
			t.Errorf("%s does not explain itself", l.ID)
		}
		for line := range strings.Lines(l.Explanation) {
			if !strings.HasPrefix(line, "\t") && len(line) > 90 {
				t.Errorf("%s: a line of %d bytes: %s", l.ID, len(line), line)
			}
		}
	}
	if _, ok := lint.Find("no-such-lint"); ok {
		t.Error("found a lint that there is not")
	}
}

// What an explanation shows as found is found, and what it shows as not found is not.
func TestExplanationsAreTrue(t *testing.T) {
	t.Parallel()
	library, err := os.ReadFile(filepath.Join(shipped, "lib", "dps.rego"))
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, l := range lint.Lints() {
		for _, example := range examplesOf(l.Explanation) {
			if strings.HasPrefix(example, "# METADATA") {
				continue
			}
			shown++
			module := "# METADATA\n# title: x\npackage allocation[\"default\"]\n\nimport data.dps\n\nuses_it := dps.registration_id\n\n" + example
			if !strings.Contains(example, "hub :=") {
				module += "\nhub := dps.spread(input.linkedHubs)\n"
			}
			report := run(t, fstest.MapFS{"default.rego": {Data: []byte(module)}, "lib/dps.rego": {Data: library}, "lookups.yaml": {Data: []byte(exampleLookups)}}, lint.Options{})
			found := slices.ContainsFunc(report.Findings, func(f lint.Finding) bool { return f.Lint == l.ID })
			if found != strings.HasPrefix(example, "# found") {
				t.Errorf("%s: found is %v in\n%s", l.ID, found, example)
			}
		}
	}
	if shown < 8 {
		t.Errorf("%d examples tried", shown)
	}
}

const exampleLookups = "device: {row: {type: object, required: [hub, registration_id], properties: {hub: {type: string}, registration_id: {type: string}, model: {type: string}}}}"

// examplesOf returns the blocks of indented lines, each up to a blank line.
func examplesOf(explanation string) []string {
	var examples []string
	now := ""
	for line := range strings.Lines(explanation + "\n\n") {
		if code, indented := strings.CutPrefix(line, "\t"); indented {
			now += code
			continue
		}
		if now != "" {
			examples = append(examples, now)
			now = ""
		}
	}
	return examples
}

func group(id string) dps.Enrollment { return dps.Enrollment{Kind: dps.EnrollmentGroup, ID: id} }

func individual(id string) dps.Enrollment {
	return dps.Enrollment{Kind: dps.IndividualEnrollment, ID: id}
}

func TestReadEnrollments(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text, problem string
		want                []lint.Enrollment
	}{
		{name: "list", text: `[{"enrollmentGroupId": "a", "iotHubs": ["h"], "attestation": {"type": "x509", "x509": {}}, "etag": "1"}, {"registrationId": "b", "iotHubs": null}]`,
			want: []lint.Enrollment{{Enrollment: group("a"), Hubs: []string{"h"}, Attestation: "x509"}, {Enrollment: individual("b")}}},
		{name: "one", text: ` {"registrationId": "b"}`, want: []lint.Enrollment{{Enrollment: individual("b")}}},
		{name: "initial twin", text: `{"enrollmentGroupId": "a", "initialTwin": {"tags": {"site": "Ulm"}}}`,
			want: []lint.Enrollment{{Enrollment: group("a"), InitialTwin: map[string]any{"tags": map[string]any{"site": "Ulm"}}}}},
		{name: "none", text: `[]`, want: []lint.Enrollment{}},
		{name: "nothing", text: ``, problem: io.EOF.Error()},
		{name: "neither", text: `[{"etag": "x"}]`, problem: "/0: an enrollment has either"},
		{name: "both", text: `{"enrollmentGroupId": "a", "registrationId": "b"}`, problem: "/0: an enrollment has either"},
		{name: "text", text: `"a"`, problem: "cannot unmarshal string"},
		{name: "more", text: `[] []`, problem: "there is more after"},
		{name: "wrong type", text: `[{"enrollmentGroupId": 1}]`, problem: "enrollmentGroupId"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := lint.ReadEnrollments(strings.NewReader(c.text))
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("error %v, want %q", err, c.problem)
				}
				return
			}
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(lint.Enrollment{}, "Line")); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
