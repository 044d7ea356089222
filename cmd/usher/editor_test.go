package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// editorCompiler returns a compiler that uses the files for editors, as OPA's tools do.
func editorCompiler(t *testing.T, dir string) (*ast.Compiler, ast.ParserOptions) {
	t.Helper()
	capabilities, err := ast.LoadCapabilitiesFile(filepath.Join(dir, capabilitiesFile))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, schemaFile))
	if err != nil {
		t.Fatal(err)
	}
	var schema any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, schema)
	return ast.NewCompiler().WithCapabilities(capabilities).WithSchemas(set).WithStrict(true).WithUseTypeCheckAnnotations(true),
		ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1, Capabilities: capabilities}
}

// With the files, OPA's own compiler accepts all shipped rules and their tests, and refuses what usher refuses.
func TestEditorFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	usher(t, exitOK, "editor", "--dir", dir, "--rules", "../../rules")
	modules := map[string]string{}
	err := fs.WalkDir(os.DirFS("../../rules"), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".rego") {
			return err
		}
		text, err := fs.ReadFile(os.DirFS("../../rules"), name)
		modules[name] = string(text)
		return err
	})
	if err != nil || len(modules) < 14 {
		t.Fatalf("%d modules (%v)", len(modules), err)
	}
	for _, c := range []struct{ name, module, want string }{
		{name: "shipped"},
		{"a built-in that is off", "package x\n\nhub := http.send({})", "undefined function http.send"},
		{"the clock", "package x\n\nlate if time.now_ns() > 1", "undefined function time.now_ns"},
		{"a misspelt property", "package x\n\nhub := input.linkedHub[0]", "undefined ref: input.linkedHub[0]"},
		{"Usher's function with a wrong argument", "package x\n\nhub := usher.choose(1, [], [])", "usher.choose: invalid argument(s)"},
		{"a misspelt property of a certificate", "package x\n\nimport data.dps\n\nname := dps.certificate.subject.comonName", "undefined ref: data.dps.certificate.subject.comonName"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			compiler, options := editorCompiler(t, dir)
			parsed := map[string]*ast.Module{}
			for name, text := range modules {
				parsed[name] = ast.MustParseModuleWithOpts(text, options)
			}
			if c.module != "" {
				parsed["x.rego"] = ast.MustParseModuleWithOpts(c.module, options)
			}
			compiler.Compile(parsed)
			got := ""
			if compiler.Failed() {
				got = compiler.Errors.Error()
			}
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("the compiler reports %q, want %q", got, c.want)
			}
		})
	}
}
