package ruleset

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/schemas"
)

const shippedRules = "../../../rules"

// shippedBundle reads rules/ as OPA does, tests included.
func shippedBundle(t *testing.T) *bundle.Bundle {
	t.Helper()
	b, err := bundle.NewCustomReader(bundle.NewDirectoryLoader(shippedRules)).
		WithSkipBundleVerification(true).
		WithProcessAnnotations(true).
		WithRegoVersion(ast.RegoV1).
		Read()
	if err != nil {
		t.Fatalf("rules do not load: %v", err)
	}
	return &b
}

// shippedBuiltins are the functions that the rules may call, with those for their look-ups.
func shippedBuiltins(t *testing.T) []*topdown.Builtin {
	t.Helper()
	rs, err := Load(t.Context(), os.DirFS("../../../rules"), Options{Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	return rs.Builtins()
}

// shippedCompiler knows the built-ins and the schema that rules are served with.
func shippedCompiler(t *testing.T) *ast.Compiler {
	t.Helper()
	var schema any
	if err := json.Unmarshal(schemas.AllocationRequest(), &schema); err != nil {
		t.Fatal(err)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, schema)
	capabilities := ast.CapabilitiesForThisVersion()
	for _, custom := range shippedBuiltins(t) {
		capabilities.Builtins = append(capabilities.Builtins, custom.Decl)
	}
	return ast.NewCompiler().
		WithCapabilities(capabilities).
		WithSchemas(set).
		WithUseTypeCheckAnnotations(true).
		WithStrict(true).
		WithEnablePrintStatements(true)
}

// Every test_ rule under rules/ passes, each as a subtest of its own.
func TestShippedRules(t *testing.T) {
	t.Parallel()
	b := shippedBundle(t)
	modules := map[string]*ast.Module{}
	for _, file := range b.Modules {
		modules[file.Path] = file.Parsed
	}
	var custom []*tester.Builtin
	for _, c := range shippedBuiltins(t) {
		custom = append(custom, &tester.Builtin{
			Decl: c.Decl,
			Func: rego.FunctionDyn(&rego.Function{Name: c.Decl.Name, Decl: c.Decl.Decl}, rego.BuiltinDyn(
				func(bctx rego.BuiltinContext, terms []*ast.Term) (result *ast.Term, err error) {
					err = c.Func(bctx, terms, func(term *ast.Term) error { result = term; return nil })
					return result, err
				})),
		})
	}
	results, err := tester.NewRunner().
		SetCompiler(shippedCompiler(t)).
		SetStore(inmem.NewFromObject(b.Data)).
		SetModules(modules).
		AddCustomBuiltins(custom).
		SetTimeout(time.Minute). // what they say is tested here, not how fast
		RunTests(t.Context(), nil)
	if err != nil {
		t.Fatalf("rules do not compile: %v", err)
	}
	tested := map[string]int{}
	for result := range results {
		name := strings.TrimPrefix(result.Package, "data.") + "/" + result.Name
		tested[strings.TrimSuffix(strings.TrimPrefix(result.Package, "data."), "_test")]++
		t.Run(name, func(t *testing.T) {
			if len(result.Output) > 0 {
				t.Logf("%s", result.Output)
			}
			switch {
			case result.Error != nil:
				t.Errorf("%s: %v", result.Location, result.Error)
			case result.Fail:
				t.Errorf("%s: failed", result.Location)
			case result.Skip:
				t.Errorf("%s: todo_ rules do not ship", result.Location)
			}
		})
	}
	for _, module := range modules {
		var labels []string
		for _, term := range module.Package.Path[1:] {
			labels = append(labels, string(term.Value.(ast.String)))
		}
		name := strings.Join(labels, ".")
		if !strings.HasSuffix(name, "_test") && tested[name] == 0 {
			t.Errorf("package %s has no test in a package %s_test", name, name)
		}
	}
}

// `opa fmt` would change nothing.
func TestShippedRulesAreFormatted(t *testing.T) {
	t.Parallel()
	seen := 0
	err := filepath.WalkDir(shippedRules, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".rego" {
			return err
		}
		seen++
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		want, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			return err
		}
		if diff := cmp.Diff(string(want), string(text)); diff != "" {
			t.Errorf("%s is not formatted (-opa fmt +file):\n%s", name, diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Fatalf("no Rego under %s", shippedRules)
	}
}

const exampleRequests = "../../../examples/requests"

// served evaluates a request by the shipped rules, as the webhook does.
func served(t *testing.T, rules *Ruleset, name string) (*dps.AllocationRequest, *Rule, Verdict) {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(exampleRequests, name))
	if err != nil {
		t.Fatal(err)
	}
	request, err := dps.ParseAllocationRequest(body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	rule := rules.Serving(request.Enrollment)
	if rule == nil {
		t.Fatalf("%s: no rule serves %s", name, request.Enrollment.ID)
	}
	verdict, err := rule.Evaluate(t.Context(), request.Body(), Outside{})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return request, rule, verdict
}

func loadShipped(t *testing.T) *Ruleset {
	t.Helper()
	var schema any
	if err := json.Unmarshal(schemas.AllocationRequest(), &schema); err != nil {
		t.Fatal(err)
	}
	rules, err := Load(t.Context(), os.DirFS(shippedRules), Options{Name: "rules", InputSchema: schema, Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func reasons(t *testing.T, set *dps.Value) int {
	t.Helper()
	if set != nil && set.Kind() != dps.Array {
		t.Fatalf("not a set: %s", set.AppendJSON(nil))
	}
	return set.Len()
}

// What examples/requests/README.md says of each request is what the rules say.
func TestShippedRulesOnExampleRequests(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join(exampleRequests, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	rules := loadShipped(t)
	for line := range strings.Lines(string(readme)) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.HasSuffix(strings.TrimSpace(cells[1]), ".json") {
			continue
		}
		file, wantRule, want := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[4]), strings.TrimSpace(cells[5])
		listed[file] = true
		t.Run(file, func(t *testing.T) {
			_, rule, verdict := served(t, rules, file)
			if rule.Package != wantRule {
				t.Errorf("served by %s, README says %s", rule.Package, wantRule)
			}
			got := "nothing"
			switch {
			case reasons(t, verdict.Reject) > 0:
				got = "reject"
			case reasons(t, verdict.Hold) > 0:
				got = "hold"
			case verdict.Hub != nil:
				got, _, _ = strings.Cut(verdict.Hub.Text(), ".")
			}
			if got != want {
				t.Errorf("the rule says %s, README says %s (verdict %+v)", got, want, verdict)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(exampleRequests, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	for _, file := range files {
		if !listed[filepath.Base(file)] {
			t.Errorf("%s is not in README.md", file)
		}
	}
}

// Every starter rule says something to every example request, also to those meant for another one; a hub it names is
// linked; it says the same again; and no built-in function fails on the way.
func TestShippedRulesAlwaysSaySomething(t *testing.T) {
	t.Parallel()
	rules := loadShipped(t)
	files, err := filepath.Glob(filepath.Join(exampleRequests, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	seen := map[string]bool{}
	for _, rule := range rules.Rules() {
		seen[rule.Package] = true
		for _, file := range files {
			request, _, _ := served(t, rules, filepath.Base(file))
			verdict, err := rule.Evaluate(t.Context(), request.Body(), Outside{})
			if err != nil {
				t.Errorf("%s on %s: %v", rule.Package, file, err)
				continue
			}
			if len(verdict.BuiltinErrors) > 0 {
				t.Errorf("%s on %s: built-ins failed at %v", rule.Package, file, verdict.BuiltinErrors)
			}
			switch hub := verdict.Hub.Text(); {
			case reasons(t, verdict.Reject)+reasons(t, verdict.Hold) > 0:
			case hub == "":
				t.Errorf("%s on %s says nothing", rule.Package, file)
			case !slices.Contains(request.LinkedHubs, hub):
				t.Errorf("%s on %s: %s is not linked", rule.Package, file, hub)
			}
			again, err := rule.Evaluate(t.Context(), request.Body(), Outside{})
			if diff := cmp.Diff(verdict, again, cmp.AllowUnexported(dps.Value{})); diff != "" || err != nil {
				t.Errorf("%s on %s says something else the second time (%v):\n%s", rule.Package, file, err, diff)
			}
		}
	}
	if !seen["allocation.default"] {
		t.Errorf("no rule for everything else among %v", seen)
	}
}

// A request that has been carried out leads to the same hub again: DPS asks at every registration, and a device must
// not go back and forth.
func TestShippedRulesDoNotFlap(t *testing.T) {
	t.Parallel()
	rules := loadShipped(t)
	files, err := filepath.Glob(filepath.Join(exampleRequests, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no example requests (%v)", err)
	}
	settled := 0
	for _, file := range files {
		request, rule, verdict := served(t, rules, filepath.Base(file))
		if verdict.Hub == nil {
			continue
		}
		again, err := rule.Evaluate(t.Context(), request.RegisteredOn(verdict.Hub.Text(), request.Device.RegistrationID).Body(), Outside{})
		if err != nil || again.Hub.Text() != verdict.Hub.Text() {
			t.Errorf("%s: went to %v, and from there to %v (%v)", file, verdict.Hub.Text(), again.Hub.Text(), err)
		}
		settled++
	}
	if settled == 0 {
		t.Error("no example request leads to a hub")
	}
}

// What a starter rule costs for one request, all its entry rules together.
func BenchmarkShippedRules(b *testing.B) {
	rules, err := Load(b.Context(), os.DirFS(shippedRules), Options{Name: "rules"})
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{
		"req-verbatim-04-group-symkey-reprovision-payload-2021-10-01", "residency-by-country", "tenants-contoso",
		"staged-moved", "quarantine-in", "default-new",
	} {
		body, err := os.ReadFile(filepath.Join(exampleRequests, name+".json"))
		if err != nil {
			b.Fatal(err)
		}
		request, err := dps.ParseAllocationRequest(body)
		if err != nil {
			b.Fatal(err)
		}
		rule := rules.Serving(request.Enrollment)
		if rule == nil {
			b.Fatalf("no rule serves %s", request.Enrollment.ID)
		}
		b.Run(strings.TrimPrefix(rule.Package, "allocation."), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rule.Evaluate(b.Context(), request.Body(), Outside{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
