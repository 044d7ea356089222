package project_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/author/project"
)

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := project.Parse(filepath.Join("..", "usher.yaml"), []byte(`# What everyone uses.
rules: policies/rules
hubs: [contoso-eu, "contoso-us.azure-devices.net"]
enrollments:
  - enrollments/groups.json
  - /srv/individuals.json
payload-schema: payload.schema.json
`))
	if err != nil {
		t.Fatal(err)
	}
	place := func(line string) string { return filepath.Join("..", "usher.yaml") + ":" + line }
	want := []project.Setting{
		{Flag: "rules", Values: []string{filepath.FromSlash("../policies/rules")}, IsPath: true, Place: place("2: rules")},
		{Flag: "hubs", Values: []string{"contoso-eu", "contoso-us.azure-devices.net"}, Place: place("3: hubs")},
		{Flag: "enrollments", Values: []string{filepath.FromSlash("../enrollments/groups.json"), filepath.FromSlash("/srv/individuals.json")}, IsPath: true, Place: place("4: enrollments")},
		{Flag: "payload-schema", Values: []string{filepath.FromSlash("../payload.schema.json")}, IsPath: true, Place: place("7: payload-schema")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, empty := range []string{"", "# nothing yet\n", "---\n"} {
		if got, err := project.Parse("usher.yaml", []byte(empty)); err != nil || len(got) > 0 {
			t.Errorf("%q: %v, %v", empty, got, err)
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	const known = ": the members are rules, hubs, enrollments, payload-schema"
	for text, want := range map[string]string{
		"rules: rules\nhub: [a]\n":         "usher.yaml:2: unknown member hub (did you mean hubs?)" + known,
		"payloadSchema: x.json\n":          "usher.yaml:1: unknown member payloadSchema (did you mean payload-schema?)" + known,
		"\nschema: x.json\n":               "usher.yaml:2: unknown member schema (did you mean payload-schema?)" + known,
		"groups: [a]\n":                    "usher.yaml:1: unknown member groups" + known,
		"x: 1\nrule: a\nhubs: b\n":         "usher.yaml:1: unknown member x" + known + "\nusher.yaml:2: unknown member rule (did you mean rules?)" + known + "\nusher.yaml:3: hubs: want a list, such as [one, two]",
		"rules: [a]\n":                     "usher.yaml:1: rules: want text, a number in quotes",
		"rules:\n":                         "usher.yaml:1: rules: want text, a number in quotes",
		"rules: ''\n":                      "usher.yaml:1: rules: want text, a number in quotes",
		"rules: a\nhubs: [b, 4711]\n":      "usher.yaml:2: hubs: want text, a number in quotes",
		"rules: a\nrules: b\n":             `usher.yaml:2: mapping key "rules" already defined at [1:1]`,
		"- rules\n":                        "usher.yaml:1: want members such as rules: rules",
		"rules: a\n---\nrules: b\n":        "usher.yaml:3: a second document: write one",
		"rules: a\nhubs: [b\n":             "usher.yaml:2: ",
		"rules: &a rules\nenrollments: *a": "usher.yaml:1: rules: want text, a number in quotes\nusher.yaml:2: enrollments: want a list",
	} {
		_, err := project.Parse("usher.yaml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
	}
}

// This test is not parallel, because it changes the current folder.
func TestFind(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "repository", "rules", "presses")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "repository", "usher.yaml")
	if err := os.WriteFile(file, []byte("rules: rules\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(root, "repository"))
	for folder, want := range map[string]string{".": "usher.yaml", "rules": "usher.yaml", "rules/presses": "usher.yaml", deep: file, root: ""} {
		if got, err := project.Find(filepath.FromSlash(folder)); err != nil || got != want {
			t.Errorf("from %s: %q, %v; want %q", folder, got, err, want)
		}
	}
	t.Chdir(deep)
	up := filepath.FromSlash("../../usher.yaml")
	if got, err := project.Find("."); err != nil || got != up {
		t.Errorf("from below: %q, %v", got, err)
	}
	settings, err := project.Load(up)
	if err != nil || len(settings) != 1 || settings[0].Values[0] != filepath.FromSlash("../../rules") {
		t.Errorf("%+v, %v", settings, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("rules: rules\nhubs: [a, b]\nenrollments: [x.json]\npayload-schema: y.json\n")
	f.Add("hubs: &a [b]\nrules: *a\n? x\n: y\n")
	f.Add("---\n- {<<: *x}\n...\n")
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := project.Parse("usher.yaml", []byte(text))
		if err != nil && !strings.HasPrefix(err.Error(), "usher.yaml:") {
			t.Errorf("the error has no place: %v", err)
		}
		for _, s := range settings {
			if s.Flag == "" || s.Place == "" {
				t.Errorf("%+v", s)
			}
		}
	})
}
