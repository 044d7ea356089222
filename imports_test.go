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
	"internal/report":                     nil,
	"internal/ruletest":                   {"internal/ruleset", "schemas"},
	"internal/exchange":                   {"allocation", "dps"},
	"internal/rulebench":                  {"allocation"},
	"internal/lint":                       {"allocation", "dps", "internal/ruleset", "schemas"},
	"internal/verify":                     {"allocation", "dps", "internal/ruleset", "schemas"},
	"internal/decisionlog":                {"allocation", "dps", "handler", "schemas", "internal/keymaterial"},
	"internal/decisionlog/appender":       nil,
	"internal/decisionlog/spool":          {"internal/decisionlog/appender"},
	"internal/decisionlog/sink":           {"internal/decisionlog", "internal/decisionlog/appender", "internal/decisionlog/spool", "internal/telemetry/otlp"},
	"internal/calljournal":                nil,
	"internal/replay":                     {"allocation", "dps", "internal/calljournal", "internal/decisionlog"},
	"internal/replay/view":                {"dps", "internal/replay"},
	"allocation":                          {"dps", "schemas", "internal/keymaterial", "internal/rendezvous", "internal/ruleset", "internal/schema"},
	"internal/explain":                    {"allocation", "dps", "handler", "internal/calljournal", "internal/decisionlog", "internal/keymaterial"},
	"handler":                             {"allocation", "dps"},
	"internal/telemetry":                  {"allocation", "dps", "handler", "internal/telemetry/otlp"},
	"internal/telemetry/otlp":             nil,
	"internal/telemetry/collector":        nil, // a stand-in for tests
	"examples/requests":                   nil,
	"internal/azureauth":                  nil,
	"internal/rulesource":                 {"allocation", "examples/requests", "internal/exchange", "internal/rulebundle"},
	"internal/shadow":                     {"allocation", "dps", "handler"},
	"function-app":                        {"allocation", "handler", "internal/azureauth", "internal/decisionlog", "internal/decisionlog/appender", "internal/decisionlog/sink", "internal/decisionlog/spool", "internal/rulebundle", "internal/rulesource", "internal/shadow", "internal/telemetry"},
	"internal/funchost":                   nil, // shares no code with the product: it would share its bugs
	"internal/dpssim":                     {"internal/dpssim/attest", "internal/dpssim/hub", "internal/dpssim/model", "internal/dpssim/store"},
	"internal/dpssim/model":               nil,
	"internal/dpssim/attest":              {"internal/dpssim/model"},
	"internal/dpssim/attest/softtpm":      {"internal/dpssim/model"}, // for tests
	"internal/dpssim/store":               nil,
	"internal/dpssim/web":                 {"internal/dpssim", "internal/dpssim/model"},
	"internal/dpssim/pki":                 nil, // nothing below internal/dpssim shares code with the product either
	"internal/dpssim/hub":                 {"internal/dpssim/attest", "internal/dpssim/model", "internal/dpssim/store"},
	"internal/dpssim/mqtt":                {"internal/dpssim", "internal/dpssim/hub", "internal/dpssim/model"},
	"internal/dpssim/fleet":               {"internal/dpssim/attest"},
	"internal/dpssim/configfile":          {"internal/dpssim", "internal/dpssim/attest", "internal/dpssim/hub", "internal/dpssim/model"},
	"internal/funchost/conformance":       nil,
	"internal/funchost/conformance/probe": nil,
	"internal/deploypackage":              nil,
	"internal/enrollment":                 nil,
	"internal/doctor":                     {"allocation", "dps", "internal/enrollment", "internal/lint"},
	"cmd/usher":                           {"internal/azureauth", "internal/deploypackage", "internal/doctor", "internal/enrollment", "allocation", "dps", "internal/calljournal", "internal/decisionlog", "internal/dpssim", "internal/dpssim/attest", "internal/dpssim/configfile", "internal/dpssim/fleet", "internal/dpssim/hub", "internal/dpssim/model", "internal/dpssim/mqtt", "internal/dpssim/pki", "internal/dpssim/store", "internal/dpssim/web", "internal/exchange", "internal/explain", "internal/funchost", "internal/replay", "internal/replay/view", "internal/report", "internal/rulebench", "internal/rulebundle", "internal/ruleset", "internal/ruletest", "internal/verify", "internal/lint", "rules", "schemas"},
	"bench":                               {"allocation", "dps", "schemas", "internal/rendezvous", "internal/replay", "internal/rulebundle", "internal/ruleset"},
}

// mayUse are the packages that may import a library directly; nobody else may.
var mayUse = map[string][]string{
	"github.com/open-policy-agent/opa/v1/ast":          {"internal/ruleset", "internal/lint", "internal/rulebundle", "internal/ruletest", "bench", "cmd/usher"},
	"github.com/open-policy-agent/opa/v1/topdown":      {"internal/ruleset", "internal/ruletest"},
	"github.com/open-policy-agent/opa/v1/tester":       {"internal/ruletest"},
	"github.com/open-policy-agent/opa/v1/rego":         {"internal/ruletest", "bench"},
	"github.com/open-policy-agent/opa/v1/format":       {"cmd/usher"},
	"github.com/santhosh-tekuri/jsonschema/v5":         {"internal/schema", "bench"},
	"github.com/labstack/echo/v4":                      {"handler", "bench"},
	"github.com/go-json-experiment/json/jsontext":      {"dps", "internal/replay", "internal/funchost"},
	"github.com/spf13/cobra":                           {"cmd/usher"},
	"github.com/mochi-mqtt/server/v2/packets":          {"internal/dpssim/mqtt", "internal/dpssim/fleet"},
	"github.com/coder/websocket":                       {"internal/dpssim/mqtt"},
	"go.yaml.in/yaml/v3":                               {"internal/dpssim/configfile"},
	"go.etcd.io/bbolt":                                 {"internal/dpssim/store"},
	"github.com/google/go-tpm/tpm2":                    {"internal/dpssim/attest", "internal/dpssim/attest/softtpm"},
	"github.com/klauspost/compress/gzip":               {"internal/replay"},
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity": {"internal/azureauth"}, // one place says who we are
	"github.com/gofrs/flock":                           {"internal/decisionlog/sink", "internal/decisionlog/spool"},
	"github.com/klauspost/compress/zstd":               {"internal/replay"},
	"go.opentelemetry.io/otel":                         {"internal/telemetry"}, // its globals; whoever traces asks the span in the context
	"go.opentelemetry.io/otel/sdk/trace":               {"internal/telemetry", "internal/telemetry/otlp"},
	"go.opentelemetry.io/otel/sdk/metric":              {"internal/telemetry", "internal/telemetry/otlp"},
	"go.opentelemetry.io/otel/sdk/log":                 {"internal/telemetry", "internal/telemetry/otlp"},
}

// handlerNeverLinks are packages that must not be in the handler's binary, not
// even indirectly.
var handlerNeverLinks = []string{
	module + "internal/funchost",
	module + "internal/dpssim",
	module + "internal/telemetry/collector",
	"github.com/spf13/cobra",
	"github.com/open-policy-agent/opa/v1/rego",
	"github.com/open-policy-agent/opa/v1/server",
	"google.golang.org/grpc", // 6 MB and a millisecond at each start; docs/adr/0012-own-otlp-exporters.md
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
