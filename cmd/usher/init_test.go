package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What usher init writes for Azure is what this repository has, and its parameters are those of the templates.
func TestInitWritesTheFunctionApp(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	usher(t, exitOK, "init", folder)
	read := func(folder, name string) string {
		text, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	root := filepath.Join("..", "..")
	for _, name := range []string{"host.json", "allocate/function.json"} {
		if read(folder, name) != read(root, name) {
			t.Errorf("cmd/usher/init.txtar has another %s", name)
		}
	}
	template := read(root, "infra/main.bicep")
	parameters := regexp.MustCompile(`"(\w+)": \{ "value"`).FindAllStringSubmatch(read(folder, "infra/parameters.json"), -1)
	if len(parameters) < 3 {
		t.Errorf("parameters: %v", parameters)
	}
	for _, p := range parameters {
		if !strings.Contains(template, "\nparam "+p[1]+" ") {
			t.Errorf("infra/main.bicep has no parameter %s", p[1])
		}
	}
}

// The workflow that usher init writes passes in the repository that usher init writes, and runs what make check and the
// page about a repository of one's own run.
func TestInitWritesAWorkflow(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	usher(t, exitOK, "init", folder)
	text, err := os.ReadFile(filepath.Join(folder, ".github", "workflows", "usher.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		Env  map[string]string
		Jobs map[string]struct {
			Needs string
			Steps []struct {
				Uses, Run string
			}
		}
	}
	if err := yaml.Unmarshal(text, &workflow); err != nil {
		t.Fatal(err)
	}
	if version := workflow.Env["USHER"]; !regexp.MustCompile(`^(v\d|main$|[0-9a-f]{40}$)`).MatchString(version) || strings.Contains(version, "+") {
		t.Errorf("go install cannot get the version %q", version)
	}
	if workflow.Jobs["deploy"].Needs != "rules" {
		t.Error("it deploys what it did not check")
	}
	var ran []string
	for _, step := range workflow.Jobs["rules"].Steps {
		for _, args := range calls(step.Run) {
			name := args[0]
			ran = append(ran, name)
			if name == "package" { // needs the handler, and TestOwnRepository runs it
				continue
			}
			args = append(args, "--rules", filepath.Join(folder, "rules"))
			usher(t, exitOK, args...)
		}
	}
	if want := []string{"fmt", "check", "test", "verify", "package"}; !slices.Equal(ran, want) {
		t.Errorf("it runs %v, want %v", ran, want)
	}
}
