package usher_test

import (
	"go/types"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// TestImportableAPI: nothing that the importable packages export mentions a type under internal/, which no importer
// could name.
func TestImportableAPI(t *testing.T) {
	t.Parallel()
	loaded, err := packages.Load(&packages.Config{Context: t.Context(), Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps | packages.NeedSyntax | packages.NeedTypesInfo},
		module+"dps", module+"answer", module+"lookup", module+"allocation", module+"handler")
	if err != nil {
		t.Fatal(err)
	}
	exported := 0
	for _, p := range loaded {
		for _, problem := range p.Errors {
			t.Error(problem)
		}
		scope := p.Types.Scope()
		for _, name := range scope.Names() {
			if object := scope.Lookup(name); object.Exported() {
				exported++
				for _, text := range api(object) {
					if strings.Contains(text, "/internal/") {
						t.Errorf("%s.%s shows an internal type: %s", p.Name, name, text)
					}
				}
			}
		}
	}
	if exported < 50 {
		t.Errorf("looked at %d exported names only", exported)
	}
}

// api renders what an importer sees of an object: its type, exported fields and methods, with full package paths.
func api(object types.Object) []string {
	named, ok := object.Type().(*types.Named)
	if _, isType := object.(*types.TypeName); !isType || !ok {
		return []string{object.Type().String()}
	}
	var texts []string
	if fields, ok := named.Underlying().(*types.Struct); ok {
		for field := range fields.Fields() {
			if field.Exported() {
				texts = append(texts, field.Type().String())
			}
		}
	} else {
		texts = append(texts, named.Underlying().String())
	}
	for method := range named.Methods() {
		if method.Exported() {
			texts = append(texts, method.Type().String())
		}
	}
	return texts
}
