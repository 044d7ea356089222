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
	"dps":                                              nil,
	"schemas":                                          nil,
	"rules":                                            nil,
	"internal/decide/rendezvous":                       nil,
	"internal/decide/schema":                           nil,
	"internal/decide/keymaterial":                      nil,
	"internal/decide/ruleset":                          {"dps", "internal/decide/rendezvous"},
	"internal/serve/rulebundle":                        nil,
	"internal/author/report":                           nil,
	"internal/author/ruletest":                         {"internal/decide/ruleset", "schemas"},
	"internal/decide/exchange":                         {"allocation", "dps"},
	"internal/author/rulebench":                        {"allocation"},
	"internal/author/lint":                             {"allocation", "dps", "internal/decide/ruleset", "schemas"},
	"internal/author/verify":                           {"allocation", "dps", "internal/decide/ruleset", "schemas"},
	"internal/serve/decisionlog":                       {"allocation", "dps", "handler", "schemas", "internal/decide/keymaterial"},
	"internal/serve/decisionlog/appender":              nil,
	"internal/serve/decisionlog/spool":                 {"internal/serve/decisionlog/appender"},
	"internal/serve/decisionlog/sink":                  {"internal/serve/decisionlog", "internal/serve/decisionlog/appender", "internal/serve/decisionlog/spool", "internal/serve/telemetry/otlp"},
	"internal/author/calljournal":                      nil,
	"internal/author/replay":                           {"allocation", "dps", "internal/author/calljournal", "internal/serve/decisionlog"},
	"internal/author/replay/view":                      {"dps", "internal/author/replay"},
	"allocation":                                       {"dps", "schemas", "internal/decide/keymaterial", "internal/decide/rendezvous", "internal/decide/ruleset", "internal/decide/schema"},
	"internal/author/explain":                          {"allocation", "dps", "handler", "internal/author/calljournal", "internal/serve/decisionlog", "internal/decide/keymaterial"},
	"handler":                                          {"allocation", "dps"},
	"internal/serve/telemetry":                         {"allocation", "dps", "handler", "internal/serve/telemetry/otlp"},
	"internal/serve/telemetry/otlp":                    nil,
	"internal/standin/collector":                       nil, // a stand-in for tests
	"examples/requests":                                nil,
	"internal/operate/azureauth":                       nil,
	"internal/serve/rulesource":                        {"allocation", "examples/requests", "internal/decide/exchange", "internal/serve/rulebundle"},
	"internal/serve/shadow":                            {"allocation", "dps", "handler"},
	"function-app":                                     {"allocation", "handler", "internal/operate/azureauth", "internal/serve/decisionlog", "internal/serve/decisionlog/appender", "internal/serve/decisionlog/sink", "internal/serve/decisionlog/spool", "internal/serve/rulebundle", "internal/serve/rulesource", "internal/serve/shadow", "internal/serve/telemetry"},
	"internal/standin/functionshost":                   nil, // shares no code with the product: it would share its bugs
	"internal/standin/dpssim":                          {"internal/standin/dpssim/attest", "internal/standin/dpssim/hub", "internal/standin/dpssim/model", "internal/standin/dpssim/store"},
	"internal/standin/dpssim/model":                    nil,
	"internal/standin/dpssim/attest":                   {"internal/standin/dpssim/model"},
	"internal/standin/dpssim/attest/softtpm":           {"internal/standin/dpssim/model"}, // for tests
	"internal/standin/dpssim/store":                    nil,
	"internal/standin/dpssim/web":                      {"internal/standin/dpssim", "internal/standin/dpssim/model"},
	"internal/standin/dpssim/pki":                      nil, // nothing below internal/standin/dpssim shares code with the product either
	"internal/standin/dpssim/hub":                      {"internal/standin/dpssim/attest", "internal/standin/dpssim/model", "internal/standin/dpssim/store"},
	"internal/standin/dpssim/mqtt":                     {"internal/standin/dpssim", "internal/standin/dpssim/hub", "internal/standin/dpssim/model"},
	"internal/standin/dpssim/fleet":                    {"internal/standin/dpssim/attest"},
	"internal/standin/dpssim/configfile":               {"internal/standin/dpssim", "internal/standin/dpssim/attest", "internal/standin/dpssim/hub", "internal/standin/dpssim/model"},
	"internal/standin/functionshost/conformance":       nil,
	"internal/standin/functionshost/conformance/probe": nil,
	"internal/operate/deploypackage":                   nil,
	"internal/operate/enrollment":                      nil,
	"internal/operate/doctor":                          {"allocation", "dps", "internal/operate/enrollment", "internal/author/lint"},
	"cmd/usher":                                        {"internal/operate/azureauth", "internal/operate/deploypackage", "internal/operate/doctor", "internal/operate/enrollment", "allocation", "dps", "internal/author/calljournal", "internal/serve/decisionlog", "internal/standin/dpssim", "internal/standin/dpssim/attest", "internal/standin/dpssim/configfile", "internal/standin/dpssim/fleet", "internal/standin/dpssim/hub", "internal/standin/dpssim/model", "internal/standin/dpssim/mqtt", "internal/standin/dpssim/pki", "internal/standin/dpssim/store", "internal/standin/dpssim/web", "internal/decide/exchange", "internal/author/explain", "internal/standin/functionshost", "internal/author/replay", "internal/author/replay/view", "internal/author/report", "internal/author/rulebench", "internal/serve/rulebundle", "internal/decide/ruleset", "internal/author/ruletest", "internal/author/verify", "internal/author/lint", "rules", "schemas"},
	"bench":                                            {"allocation", "dps", "schemas", "internal/decide/rendezvous", "internal/author/replay", "internal/serve/rulebundle", "internal/decide/ruleset"},
}

// mayUse are the packages that may import a library directly; nobody else may.
var mayUse = map[string][]string{
	"github.com/open-policy-agent/opa/v1/ast":          {"internal/decide/ruleset", "internal/author/lint", "internal/serve/rulebundle", "internal/author/ruletest", "bench", "cmd/usher"},
	"github.com/open-policy-agent/opa/v1/topdown":      {"internal/decide/ruleset", "internal/author/ruletest"},
	"github.com/open-policy-agent/opa/v1/tester":       {"internal/author/ruletest"},
	"github.com/open-policy-agent/opa/v1/rego":         {"internal/author/ruletest", "bench"},
	"github.com/open-policy-agent/opa/v1/format":       {"cmd/usher"},
	"github.com/santhosh-tekuri/jsonschema/v5":         {"bench"},
	"github.com/labstack/echo/v4":                      {"handler", "bench"},
	"github.com/go-json-experiment/json/jsontext":      {"dps", "internal/author/replay", "internal/decide/schema", "internal/standin/functionshost"},
	"github.com/spf13/cobra":                           {"cmd/usher"},
	"github.com/mochi-mqtt/server/v2/packets":          {"internal/standin/dpssim/mqtt", "internal/standin/dpssim/fleet"},
	"github.com/coder/websocket":                       {"internal/standin/dpssim/mqtt"},
	"go.yaml.in/yaml/v3":                               {"internal/standin/dpssim/configfile"},
	"go.etcd.io/bbolt":                                 {"internal/standin/dpssim/store"},
	"github.com/google/go-tpm/tpm2":                    {"internal/standin/dpssim/attest", "internal/standin/dpssim/attest/softtpm"},
	"github.com/klauspost/compress/gzip":               {"internal/author/replay"},
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity": {"internal/operate/azureauth"}, // one place says who we are
	"github.com/gofrs/flock":                           {"internal/serve/decisionlog/sink", "internal/serve/decisionlog/spool"},
	"github.com/klauspost/compress/zstd":               {"internal/author/replay"},
	"go.opentelemetry.io/otel":                         {"internal/serve/telemetry"}, // its globals; whoever traces asks the span in the context
	"go.opentelemetry.io/otel/sdk/trace":               {"internal/serve/telemetry", "internal/serve/telemetry/otlp"},
	"go.opentelemetry.io/otel/sdk/metric":              {"internal/serve/telemetry", "internal/serve/telemetry/otlp"},
	"go.opentelemetry.io/otel/sdk/log":                 {"internal/serve/telemetry", "internal/serve/telemetry/otlp"},
}

// handlerNeverLinks are packages that must not be in the handler's binary, not
// even indirectly.
var handlerNeverLinks = []string{
	module + "internal/standin/functionshost",
	module + "internal/standin/dpssim",
	module + "internal/standin/collector",
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
		{"handler", goPackage{Imports: []string{"github.com/open-policy-agent/opa/v1/topdown"}}, "which is for internal/decide/ruleset"},
		{"internal/standin/functionshost", goPackage{Imports: []string{module + "handler"}}, "functionshost imports handler"},
		{"function-app", goPackage{Deps: []string{module + "internal/standin/functionshost"}}, "the handler links"},
		{"internal/util", goPackage{}, "not in the import table"},
	} {
		problems := strings.Join(importProblems(planted.name, planted.p), "\n")
		if !strings.Contains(problems, planted.problem) {
			t.Errorf("%+v: got %q, want %q", planted, problems, planted.problem)
		}
	}
}
