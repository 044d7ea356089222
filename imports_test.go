// Package usher_test holds the checks that concern the whole tree.
package usher_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const module = "github.com/usher-dps/usher/"

// mayImport is the import table: what of this module each group of packages may import (tests aside), besides the group
// itself. A name stands for a package, or with a slash at its end for a group. Arrows point one way;
// docs/architecture.md draws them.
var mayImport = map[string][]string{
	"dps":               nil,
	"schemas":           nil,
	"rules":             nil,
	"examples/requests": nil,
	"lookup":            nil,
	"answer":            {"dps"},
	"internal/decide/":  {"answer", "dps", "lookup", "schemas"},
	"allocation":        {"answer", "dps", "lookup", "internal/decide/decider", "internal/decide/lookups"},
	"handler":           {"answer", "dps"},
	"internal/serve/":   {"answer", "dps", "lookup", "schemas", "examples/requests", "internal/decide/", "internal/sharedaccess"},
	"internal/author/":  {"answer", "dps", "schemas", "internal/decide/", "internal/serve/decisionlog"},
	"internal/play/":    {"answer", "dps", "schemas", "handler", "internal/decide/", "internal/author/"},
	"internal/operate/": {"answer", "dps", "internal/decide/", "internal/sharedaccess"},
	// Signs requests to DPS and to hubs.
	"internal/sharedaccess": nil,
	// A stand-in that shared code with the product would share its bugs.
	"internal/standin/dpssim/":        nil,
	"internal/standin/functionshost/": nil,
	"internal/standin/collector":      nil,
	"function-app":                    {"answer", "handler", "internal/decide/decider", "internal/serve/", "internal/operate/azureauth", "internal/operate/scriptroot"},
	"cmd/usher":                       {"answer", "dps", "rules", "schemas", "examples/requests", "internal/"},
	"bench":                           {"answer", "dps", "schemas", "internal/"},
}

// groupOf is the name in the import table that covers a package; empty if none does.
func groupOf(name string) string {
	for group := range mayImport {
		if covers(group, name) {
			return group
		}
	}
	return ""
}

// covers reports whether a name of the import table stands for a package.
func covers(listed, name string) bool {
	folder, isGroup := strings.CutSuffix(listed, "/")
	return name == folder || isGroup && strings.HasPrefix(name, listed)
}

// mayUse are the packages that may import a library directly; nobody else may.
var mayUse = map[string][]string{
	"github.com/open-policy-agent/opa/v1/ast":          {"internal/decide/ruleset", "internal/decide/plan", "internal/decide/explanation", "internal/decide/dataflow", "internal/author/invariants", "internal/author/lint", "internal/author/mutate", "internal/author/verify", "internal/serve/rulebundle", "internal/author/ruletest", "internal/play/workspace", "internal/play/vocabulary", "bench", "cmd/usher"},
	"github.com/open-policy-agent/opa/v1/topdown":      {"internal/decide/ruleset", "internal/decide/plan", "internal/decide/explanation", "internal/author/invariants", "internal/author/ruletest", "internal/author/verify"},
	"github.com/open-policy-agent/opa/v1/tester":       {"internal/author/ruletest"},
	"github.com/open-policy-agent/opa/v1/rego":         {"internal/decide/plan", "internal/author/ruletest", "bench"}, // its planner
	"github.com/open-policy-agent/opa/v1/ir":           {"internal/decide/plan"},
	"github.com/open-policy-agent/opa/v1/format":       {"cmd/usher", "internal/play/workspace"},
	"github.com/santhosh-tekuri/jsonschema/v5":         {"internal/decide/schema", "bench"},
	"github.com/labstack/echo/v4":                      {"handler", "internal/play", "bench"},
	"github.com/spf13/cobra":                           {"cmd/usher"},
	"github.com/pkg/browser":                           {"cmd/usher"},
	"github.com/mochi-mqtt/server/v2/packets":          {"internal/standin/dpssim/mqtt"},
	"github.com/eclipse/paho.mqtt.golang":              {"internal/standin/dpssim/fleet"},
	"github.com/coder/websocket":                       {"internal/standin/dpssim/mqtt"},
	"github.com/goccy/go-yaml":                         {"internal/standin/dpssim/configfile", "internal/author/project"},
	"github.com/google/btree":                          {"internal/standin/dpssim/store"},
	"go.etcd.io/bbolt":                                 {"internal/standin/dpssim/store"},
	"github.com/google/go-tpm/tpm2":                    {"internal/standin/dpssim/attest", "internal/standin/dpssim/softtpm"},
	"github.com/lestrrat-go/jwx/v3/jwt":                {"internal/standin/dpssim/entra"},
	"github.com/klauspost/compress/gzip":               {"internal/author/requestlog"},
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity": {"internal/operate/azureauth"}, // one place says who we are
	"github.com/fsnotify/fsnotify":                     {"internal/author/folderwatch"},
	"github.com/gofrs/flock":                           {"internal/serve/decisionlog/appender"},
	"modernc.org/sqlite":                               {"internal/serve/lookupsource/snapshot"},
	"github.com/jackc/pgx/v5":                          {"internal/serve/lookupsource/postgres", "bench"},
	"github.com/klauspost/compress/zstd":               {"internal/author/requestlog", "internal/play/fleet"},
	"go.opentelemetry.io/otel":                         {"internal/serve/telemetry"}, // its globals; whoever traces asks the span in the context
	"go.opentelemetry.io/otel/sdk/trace":               {"internal/serve/telemetry", "internal/serve/telemetry/otlp"},
	"go.opentelemetry.io/otel/sdk/metric":              {"internal/serve/telemetry", "internal/serve/telemetry/otlp"},
	"go.opentelemetry.io/otel/sdk/log":                 {"internal/serve/telemetry", "internal/serve/telemetry/otlp", "internal/serve/decisionlog/sink"},

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp":   {"internal/serve/telemetry/otlp"},
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp": {"internal/serve/telemetry/otlp"},
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp":       {"internal/serve/telemetry/otlp"},

	"github.com/Azure/azure-sdk-for-go/sdk/data/aztables":             {"internal/serve/lookupsource/table"},
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/appendblob": {"internal/serve/decisionlog/sink"},
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container":  {"internal/author/requestlog/blobs"},
	"github.com/maypok86/otter/v2":                                    {"internal/serve/lookupsource"},
	"github.com/sony/gobreaker/v2":                                    {"internal/serve/lookupsource"},
}

// handlerNeverLinks are packages that must not be in the handler's binary, not even indirectly.
var handlerNeverLinks = []string{
	module + "internal/standin/functionshost",
	module + "internal/standin/dpssim",
	module + "internal/standin/collector",
	module + "internal/play",
	module + "internal/author/requestlog/blobs",
	"github.com/spf13/cobra",
	"github.com/open-policy-agent/opa/v1/server",
	// gRPC is linked by the exporters of OpenTelemetry and never called. With these packages of its own for debugging
	// it would add 6 MB more; the build tag leaves them out. See docs/adr/0012-otlp-exporters.md.
	"golang.org/x/net/trace",
	"html/template",
	"testing",
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImports(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), "go", "list", "-tags=grpcnotrace", "-json=ImportPath,Imports,Deps", "./...")
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
		seen[groupOf(name)] = true
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
	group := groupOf(name)
	if group == "" {
		return []string{name + " is not in the import table: say there what it may import"}
	}
	var problems []string
	for _, imported := range p.Imports {
		own, ok := strings.CutPrefix(imported, module)
		if ok && !slices.ContainsFunc(slices.Concat(mayImport[group], []string{group}), func(listed string) bool { return covers(listed, own) }) {
			problems = append(problems, name+" imports "+own+", which the import table does not allow")
		}
		if users, restricted := mayUse[imported]; restricted && !slices.Contains(users, name) {
			problems = append(problems, name+" imports "+imported+", which only "+strings.Join(users, ", ")+" may use")
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

// The import table in docs/architecture.md is the one that is tested.
func TestImportTableIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	span := regexp.MustCompile("`([^`]+)`")
	documented := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`.+) \\| (.+) \\|$").FindAllStringSubmatch(string(text), -1) {
		var allowed []string
		for _, name := range span.FindAllStringSubmatch(row[2], -1) {
			allowed = append(allowed, name[1])
		}
		for _, name := range span.FindAllStringSubmatch(row[1], -1) {
			documented[name[1]] = allowed
		}
	}
	if diff := cmp.Diff(mayImport, documented, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("-tested +documented:\n%s", diff)
	}
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
		{"handler", goPackage{Imports: []string{"github.com/open-policy-agent/opa/v1/topdown"}}, "which only internal/decide/ruleset"},
		{"internal/standin/functionshost", goPackage{Imports: []string{module + "handler"}}, "functionshost imports handler"},
		{"function-app", goPackage{Deps: []string{module + "internal/standin/functionshost"}}, "the handler links"},
		{"internal/util", goPackage{}, "not in the import table"},
		{"internal/standin/dpssim/web", goPackage{Imports: []string{module + "internal/standin/functionshost"}}, "dpssim/web imports internal/standin/functionshost"},
		{"internal/author/lint", goPackage{Imports: []string{module + "internal/serve/telemetry"}}, "lint imports internal/serve/telemetry"},
		{"internal/serve/shadow", goPackage{Imports: []string{module + "internal/author/lint"}}, "shadow imports internal/author/lint"},
	} {
		problems := strings.Join(importProblems(planted.name, planted.p), "\n")
		if !strings.Contains(problems, planted.problem) {
			t.Errorf("%+v: got %q, want %q", planted, problems, planted.problem)
		}
	}
}
