// Package usher_test holds the checks that concern the whole tree.
package usher_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/usher-dps/usher/"

// mayImport is the import table: which packages of this module each package may
// import (directly, tests aside). Arrows point one way; docs/architecture.md draws them.
var mayImport = map[string][]string{
	"dps":                                 nil,
	"schemas":                             nil,
	"rules":                               nil,
	"internal/rendezvous":                 nil,
	"internal/schema":                     nil,
	"internal/keymaterial":                nil,
	"internal/ruleset":                    {"dps", "internal/rendezvous"},
	"internal/rulebundle":                 nil,
	"internal/ruletest":                   {"internal/ruleset", "schemas"},
	"internal/exchange":                   {"allocation", "dps"},
	"internal/rulebench":                  {"allocation"},
	"internal/lint":                       {"allocation", "dps", "internal/ruleset", "schemas"},
	"internal/verify":                     {"allocation", "dps", "internal/ruleset", "schemas"},
	"internal/replay":                     {"allocation", "dps"},
	"internal/replay/view":                {"dps", "internal/replay"},
	"allocation":                          {"dps", "schemas", "internal/keymaterial", "internal/ruleset", "internal/schema"},
	"internal/explain":                    {"allocation", "dps", "handler", "internal/keymaterial"},
	"handler":                             {"allocation", "dps"},
	"function-app":                        {"allocation", "handler"},
	"internal/funchost":                   nil, // shares no code with the product: it would share its bugs
	"internal/funchost/conformance":       nil,
	"internal/funchost/conformance/probe": nil,
	"cmd/usher":                           {"allocation", "dps", "internal/exchange", "internal/explain", "internal/funchost", "internal/replay", "internal/replay/view", "internal/rulebench", "internal/rulebundle", "internal/ruleset", "internal/ruletest", "internal/verify", "internal/lint", "rules", "schemas"},
	"bench":                               {"allocation", "dps", "schemas", "internal/rendezvous", "internal/replay", "internal/ruleset"},
}

// mayUse are the packages that may import a library directly; nobody else may.
var mayUse = map[string][]string{
	"github.com/open-policy-agent/opa/v1/ast":     {"internal/ruleset", "internal/lint", "internal/rulebundle", "internal/ruletest", "bench", "cmd/usher"},
	"github.com/open-policy-agent/opa/v1/topdown": {"internal/ruleset", "internal/ruletest"},
	"github.com/open-policy-agent/opa/v1/tester":  {"internal/ruletest"},
	"github.com/open-policy-agent/opa/v1/rego":    {"internal/ruletest", "bench"},
	"github.com/open-policy-agent/opa/v1/format":  {"cmd/usher"},
	"github.com/santhosh-tekuri/jsonschema/v5":    {"internal/schema", "bench"},
	"github.com/labstack/echo/v4":                 {"handler", "bench"},
	"github.com/go-json-experiment/json/jsontext": {"dps", "internal/replay", "internal/funchost"},
	"github.com/spf13/cobra":                      {"cmd/usher"},
	"github.com/klauspost/compress/gzip":          {"internal/replay"},
	"github.com/klauspost/compress/zstd":          {"internal/replay"},
}

// handlerNeverLinks are packages that must not be in the handler's binary, not
// even indirectly.
var handlerNeverLinks = []string{
	module + "internal/funchost",
	"github.com/spf13/cobra",
	"github.com/open-policy-agent/opa/v1/rego",
	"github.com/open-policy-agent/opa/v1/server",
	"testing",
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImports(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	decoder := json.NewDecoder(strings.NewReader(string(output)))
	for {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours || len(p.Imports) == 0 && len(p.Deps) == 0 {
			continue // holds tests alone
		}
		seen[name] = true
		for _, problem := range importProblems(name, p) {
			t.Error(problem)
		}
	}
	for name := range mayImport {
		if !seen[name] {
			t.Errorf("the import table names %s, which does not exist", name)
		}
	}
}

func importProblems(name string, p goPackage) []string {
	allowed, listed := mayImport[name]
	if !listed {
		return []string{name + " is not in the import table: say there what it may import"}
	}
	var problems []string
	for _, imported := range p.Imports {
		if own, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(allowed, own) {
			problems = append(problems, name+" imports "+own+", which the import table does not allow")
		}
		if users, restricted := mayUse[imported]; restricted && !slices.Contains(users, name) {
			problems = append(problems, name+" imports "+imported+", which is for "+strings.Join(users, ", ")+" alone")
		}
	}
	if name == "function-app" {
		for _, never := range handlerNeverLinks {
			if slices.Contains(p.Deps, never) {
				problems = append(problems, "the handler links "+never)
			}
		}
	}
	return problems
}

// TestImportsFindsViolations plants violations: a check that cannot fail is none.
func TestImportsFindsViolations(t *testing.T) {
	t.Parallel()
	for _, planted := range []struct {
		name    string
		p       goPackage
		problem string
	}{
		{"dps", goPackage{Imports: []string{module + "allocation"}}, "dps imports allocation"},
		{"handler", goPackage{Imports: []string{"github.com/open-policy-agent/opa/v1/topdown"}}, "which is for internal/ruleset"},
		{"internal/funchost", goPackage{Imports: []string{module + "handler"}}, "funchost imports handler"},
		{"function-app", goPackage{Deps: []string{module + "internal/funchost"}}, "the handler links"},
		{"internal/util", goPackage{}, "not in the import table"},
	} {
		problems := strings.Join(importProblems(planted.name, planted.p), "\n")
		if !strings.Contains(problems, planted.problem) {
			t.Errorf("%+v: got %q, want %q", planted, problems, planted.problem)
		}
	}
}
