package ruleset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/usher-dps/usher/internal/decide/plan"
	"github.com/usher-dps/usher/internal/decide/rendezvous"
)

// call evaluates a Rego expression by the custom built-ins, by topdown and by a plan, which must agree. The value is nil
// if it is undefined; the errors are those of the compiler or of built-ins.
func call(t *testing.T, expression string) (any, error) {
	t.Helper()
	capabilities := ast.CapabilitiesForThisVersion()
	functions, added := map[string]*topdown.Builtin{}, map[string]plan.Function{}
	for _, custom := range customBuiltins() {
		capabilities.Builtins = append(capabilities.Builtins, custom.Decl)
		functions[custom.Decl.Name], added[custom.Decl.Name] = custom.Builtin, custom.call
	}
	module, err := ast.ParseModuleWithOpts("test.rego", "package test\nanswer := "+expression,
		ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities})
	if err != nil {
		t.Fatal(err)
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities)
	if compiler.Compile(map[string]*ast.Module{"test.rego": module}); compiler.Failed() {
		return nil, compiler.Errors
	}
	store := inmem.New()
	txn, err := store.NewTransaction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var value any
	err = topdown.NewQuery(ast.MustParseBody("x = data.test.answer")).
		WithCompiler(compiler).
		WithStore(store).
		WithTransaction(txn).
		WithBuiltins(functions).
		WithStrictBuiltinErrors(true).
		Iter(t.Context(), func(result topdown.QueryResult) error {
			var err error
			value, err = ast.JSON(result["x"].Value)
			return err
		})
	program, failed := plan.Compile(t.Context(), compiler, ast.MustParseBody("x = data.test.answer"), plan.Options{Functions: functions, Added: added, Data: ast.NewObject()})
	if failed != nil {
		t.Fatal(failed)
	}
	planned, failed := program.Run(plan.Evaluation{Context: topdown.BuiltinContext{Context: t.Context(), Metrics: metrics.NoOp(), Cancel: topdown.NewCancel()}})
	switch {
	case err != nil:
		if !errors.Is(failed, plan.ErrUnclear) {
			t.Errorf("%s: topdown fails (%v), and the plan says %v, %v", expression, err, planned, failed)
		}
	case failed != nil || len(planned.Bindings) > 1 || (len(planned.Bindings) == 1) != (value != nil):
		t.Errorf("%s: topdown says %v, the plan %v, %v", expression, value, planned, failed)
	case value != nil:
		if diff := cmp.Diff(value, planned.Bindings[0]["x"]); diff != "" {
			t.Errorf("%s: -topdown +plan:\n%s", expression, diff)
		}
	}
	return value, err
}

// The leaf of examples/requests/constructed-11, made with openssl.
const exampleCertificate = "MIIBgzCCASkCFGua5q1m3eXOGnz/XkRxXBvjLcYuMAoGCCqGSM49BAMCMEsxCzAJBgNVBAYTAlVTMRAwDgYDVQQKDAdDb250b3NvMSowKAYDVQQDDCFDb250b3NvIElvVCBJbnRlcm1lZGlhdGUgQ0EgRVUtMDEwHhcNMjYxMTIxMTkwNjE4WhcNMzYxMTE4MTkwNjE4WjA9MRAwDgYDVQQKDAdDb250b3NvMRMwEQYDVQQLDAptb2RlbC14MjAwMRQwEgYDVQQDDAtkZXZpY2UtMDA0MjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKstaYUTXGrNK1NW76NDhe3fJjWS0iSC7DBflPCwVqCYOu3jIL1sXstQNsA9iupmslGhnMgigvQechCJlQIzWP8wCgYIKoZIzj0EAwIDSAAwRQIgBGRBqx0FtaWowZZOLbzbnIQdh5Mk+qTxLOeEi+kai8UCIQDAvC6DDyIXoXiklM5oR1mgebG/lZfzAccdLtxHOeOSOA=="

func TestCertificateBuiltin(t *testing.T) {
	t.Parallel()
	got, err := call(t, fmt.Sprintf("usher.certificate(%q)", exampleCertificate))
	if err != nil {
		t.Fatal(err)
	}
	none := []any{}
	want := map[string]any{
		"subject": map[string]any{
			"commonName": "device-0042", "organization": []any{"Contoso"}, "organizationalUnit": []any{"model-x200"},
			"country": none, "locality": none, "province": none, "serialNumber": "",
		},
		"issuer": map[string]any{
			"commonName": "Contoso IoT Intermediate CA EU-01", "organization": []any{"Contoso"}, "organizationalUnit": none,
			"country": []any{"US"}, "locality": none, "province": none, "serialNumber": "",
		},
		"serialNumber":     "6B9AE6AD66DDE5CE1A7CFF5E44715C1BE32DC62E",
		"version":          "1",
		"notBeforeUtc":     "2026-11-21T19:06:18Z",
		"notAfterUtc":      "2036-11-18T19:06:18Z",
		"dnsNames":         none,
		"uris":             none,
		"sha1Thumbprint":   "5AD604AF587245E19F48C1FD5BFAA9F87229D4DF",
		"sha256Thumbprint": "DA907988FC54772DDF109CC0BA4F47B54072B31050A7A1BEF562E7615503419A",
	}
	object, ok := got.(map[string]any)
	if !ok {
		t.Fatalf("usher.certificate = %v", got)
	}
	object["version"] = fmt.Sprint(object["version"])
	if diff := cmp.Diff(want, object); diff != "" {
		t.Errorf("usher.certificate (-want +got):\n%s", diff)
	}
}

// The compiler must know exactly the properties that evaluation yields.
func TestCertificateBuiltinYieldsItsDeclaredType(t *testing.T) {
	t.Parallel()
	value, err := call(t, fmt.Sprintf("usher.certificate(%q)", exampleCertificate))
	if err != nil {
		t.Fatal(err)
	}
	var compare func(path string, declared types.Type, got any)
	compare = func(path string, declared types.Type, got any) {
		object, ok := declared.(*types.Object)
		if !ok {
			return
		}
		members := got.(map[string]any)
		var want []string
		for _, property := range object.StaticProperties() {
			name := property.Key.(string)
			want = append(want, name)
			compare(path+"."+name, property.Value, members[name])
		}
		var have []string
		for name := range members {
			have = append(have, name)
		}
		slices.Sort(want)
		slices.Sort(have)
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s: declared and yielded properties differ (-declared +yielded):\n%s", path, diff)
		}
	}
	compare("certificate", certificateType(), value)
}

func TestBuiltinsWhereUndefined(t *testing.T) {
	t.Parallel()
	for _, expression := range []string{
		`usher.certificate("")`,
		`usher.certificate("bm90IGEgY2VydGlmaWNhdGU=")`,
		fmt.Sprintf("usher.certificate(%q)", strings.Repeat("A", 17<<10)),
		`usher.choose("dev-1", {}, ["a"])`,
		`usher.choose("dev-1", {"a": 0, "b": 0}, ["a", "b"])`,
		`usher.choose("dev-1", {"a": 1}, [])`,
		`usher.choose("dev-1", {"a": 1}, ["b", "ab", "a-b", "b.a"])`,
		`usher.choose("dev-1", {"a.b": 1}, ["a.b.net"])`,
		`usher.linked(["a.net"])["net"]`,
	} {
		if got, err := call(t, expression); got != nil || err != nil {
			t.Errorf("%.60s = %v, %v; want undefined", expression, got, err)
		}
	}
}

func TestChooseBuiltin(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ expression, want string }{
		{`usher.choose("dev-1", {"only": 0.001}, ["only"])`, "only"},
		{`usher.choose("dev-1", {"Drained": 0, "Only": 1e3}, ["drained.net", "ONLY.net"])`, "ONLY.net"},
		{`usher.choose("dev-1", ["b", "unlinked"], ["a.net", "b.net"])`, "b.net"},
		{`usher.choose("dev-1", {"a.net", "c"}, ["a.net", "A.net", "b.net"])`, "a.net"},
		{`usher.choose("dev-1", {"a.net": 0, "a": 1}, ["a.net"])`, "a.net"}, // the higher weight
		{`usher.choose("dev-1", ["EU-*"], ["us-1.net", "eu-1.net"])`, "eu-1.net"},
		{`usher.choose("dev-1", {"us-?": 0, "*-2.net": 1}, ["us-1.net", "us-2.net"])`, "us-2.net"},
		{`concat(" ", usher.matching("*", ["B.net", "a.net", "b.NET"]))`, "B.net a.net"},
		{`concat(" ", usher.matching("EU-?", ["eu-1.net", "EU-2.net", "eu-10.net", "us-1.net"]))`, "EU-2.net eu-1.net"},
		{`concat(" ", usher.matching("*.org", ["a.net", "b.org"]))`, "b.org"},
		{`concat(" ", usher.matching("a", ["a.net", "ab.net"]))`, "a.net"},
		{`concat(" ", usher.matching("", ["a.net"]))`, ""},
		{`usher.linked(["A.net", "b.net", "a.NET", "A.org"])["a"]`, "A.net"},
		{`usher.linked(["A.net", "b.net", "a.NET", "A.org"])["a.net"]`, "A.net"},
		{`usher.linked(["A.net", "b.net", "a.NET", "A.org"])["a.org"]`, "A.org"},
		// The same as rendezvous.Choose pins.
		{`usher.choose("DEV-000005", {"contoso-hub-00.azure-devices.net": 0.5, "contoso-hub-01.azure-devices.net": 1,
			"contoso-hub-02.azure-devices.net": 2.5, "contoso-hub-03.azure-devices.net": 4, "contoso-hub-04.azure-devices.net": 0},
			[sprintf("contoso-hub-0%d.azure-devices.net", [i]) | some i in numbers.range(0, 4)])`,
			"contoso-hub-03.azure-devices.net"},
	} {
		if got, err := call(t, tc.expression); err != nil || got != tc.want {
			t.Errorf("%s = %v, %v; want %s", tc.expression, got, err, tc.want)
		}
	}
}

func TestFractionBuiltin(t *testing.T) {
	t.Parallel()
	// One key with all six decimals, and one each whose last zeros are left out.
	keys := map[int]string{}
	for i := 0; len(keys) < 3; i++ {
		key := fmt.Sprintf("dev-%06d", i)
		switch parts := rendezvous.Fraction(key); {
		case parts%1000 == 0:
			keys[1000] = key
		case parts%10 == 0:
			keys[10] = key
		case parts < 100_000:
			keys[1] = key
		}
	}
	for _, key := range keys {
		want := strings.TrimRight(fmt.Sprintf("%.6f", float64(rendezvous.Fraction(key))/1e6), "0")
		got, err := call(t, fmt.Sprintf("usher.fraction(%q)", key))
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("usher.fraction(%q) = %v, %v; want %s", key, got, err, want)
		}
	}
}

func TestBuiltinsNameWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ expression, want string }{
		// Found by the compiler.
		{`usher.certificate(7)`, "usher.certificate: invalid argument(s)"},
		{`usher.choose("dev-1", [1], ["a"])`, "usher.choose: invalid argument(s)"},
		{`usher.choose("dev-1", {"a": "1"}, ["a"])`, "usher.choose: invalid argument(s)"},
		{`usher.fraction(1)`, "usher.fraction: invalid argument(s)"},
		{`usher.certificate("x").subject.comonName`, "undefined ref"},
		// Known only when evaluated.
		{`usher.choose("dev-1", json.unmarshal("{\"a\": 1, \"b\": \"2\"}"), ["a"])`, `weight of "b" must be a number but is string`},
		{`usher.choose("dev-1", {"a": 1, "b": -0.5}, ["a"])`, `weight of "b" must be a number from 0 to 1e308 but is -0.5`},
		{`usher.choose("dev-1", {"a": 1e999}, ["a"])`, `weight of "a" must be a number from 0 to 1e308 but is 1e999`},
		{`usher.choose("dev-1", json.unmarshal("[1]"), ["a"])`, "names must be strings but one is number"},
		{`usher.choose("dev-1", json.unmarshal("1"), ["a"])`, "usher.choose: operand 2 must be one of {object, array, set} but got number"},
		{`usher.choose("dev-1", ["a"], json.unmarshal("[1]"))`, "host names must be strings but one is number"},
		{`usher.matching(json.unmarshal("1"), ["a"])`, "usher.matching: operand 1 must be string but got number"},
		{`usher.linked(json.unmarshal("{}"))`, "usher.linked: operand 1 must be array but got object"},
		{`usher.certificate(json.unmarshal("1"))`, "usher.certificate: operand 1 must be string but got number"},
		{`usher.fraction(json.unmarshal("null"))`, "usher.fraction: operand 1 must be string but got null"},
	} {
		got, err := call(t, tc.expression)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "test.rego:2: ") {
			t.Errorf("%s = %v, error %v; want an error with %q at test.rego:2", tc.expression, got, err, tc.want)
		}
	}
}

func TestBuiltinsAreDescribed(t *testing.T) {
	t.Parallel()
	for _, custom := range customBuiltins() {
		if !strings.HasPrefix(custom.Decl.Name, "usher.") || custom.Decl.Description == "" {
			t.Errorf("%s: outside the namespace usher or without a description", custom.Decl.Name)
		}
		for _, arg := range custom.Decl.Decl.NamedFuncArgs().Args {
			if named, ok := arg.(*types.NamedType); !ok || named.Descr == "" {
				t.Errorf("%s: argument %v is not described", custom.Decl.Name, arg)
			}
		}
		if custom.Decl.Nondeterministic {
			t.Errorf("%s: must depend on its arguments alone", custom.Decl.Name)
		}
	}
}
