package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The members of JSON output are in camelCase, like those of DPS. The names in requests, rules and decisions are not
// ours.
func TestJSONMembersAreCamelCase(t *testing.T) {
	t.Parallel()
	foreign := []string{"value", "values", "request", "then", "initialTwin", "payload", "counts", "deltas"}
	folder := writeRules(t, map[string]string{"default.rego": firstLinked})
	request, err := os.ReadFile("../../examples/requests/default-new.json")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(strings.Fields(string(request)), " ") + "\n"
	folderOfLogs := t.TempDir()
	log, requests := filepath.Join(folderOfLogs, "log.ndjson"), filepath.Join(folderOfLogs, "requests.ndjson")
	for name, text := range map[string]string{log: line + "nothing\n", requests: line} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(t.TempDir(), "list.ndjson")
	baseline := filepath.Join(t.TempDir(), "baseline.json")
	camelCase := regexp.MustCompile(`^[a-z][a-zA-Z0-9]*$`)
	var walk func(t *testing.T, path string, value any)
	walk = func(t *testing.T, path string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for name, member := range v {
				if !camelCase.MatchString(name) {
					t.Errorf("member %s/%s", path, name)
				}
				if !slices.Contains(foreign, name) {
					walk(t, path+"/"+name, member)
				} else if counts, ok := member.(map[string]any); ok && (name == "counts" || name == "deltas") {
					for name := range counts {
						if !camelCase.MatchString(name) {
							t.Errorf("member %s/%s", path, name)
						}
					}
				}
			}
		case []any:
			for _, element := range v {
				walk(t, path, element)
			}
		}
	}
	for _, args := range [][]string{
		{"bench", "../../rules", "--duration", "5ms", "--warmup", "0s", "--save", baseline, "--requests", requests},
		{"check", "../../rules"},
		{"check", "../../rules", "--hubs", "contoso-eu-hub"},
		{"explain", "../../examples/requests/residency-moves-home.json", "--rules", "../../rules", "--why-not", "contoso-us-hub"},
		{"replay", log, "--rules", "../../rules", "--baseline", folder, "--list", list},
		{"replay", log, "--rules", "../../rules"},
		{"replay", log, "--rules", "../../rules", "--shard", "0/1"},
		{"test", "../../rules", "--coverage", "--run", "breakroom"},
		{"test", "../../rules", "--mutate", "--run", "breakroom_test.test_toaster"},
		{"verify", "--rules", folder},
		{"verify", "--rules", "../../rules", "--rule", "breakroom", "--budget", "200"},
		{"version"},
	} {
		t.Run(args[0], func(t *testing.T) {
			var stdout, stderr strings.Builder
			run(t.Context(), append(slices.Clone(args), "-o", "json"), strings.NewReader(""), &stdout, &stderr)
			var value any
			if err := json.Unmarshal([]byte(stdout.String()), &value); err != nil {
				t.Fatalf("%v: %s%s", err, stdout.String(), stderr.String())
			}
			walk(t, "", value)
		})
	}
	for _, name := range []string{list, baseline} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for decoder := json.NewDecoder(strings.NewReader(string(text))); decoder.More(); {
			var value any
			if err := decoder.Decode(&value); err != nil {
				t.Fatal(err)
			}
			walk(t, name, value)
		}
	}
}
