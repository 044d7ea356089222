package play_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/author/ruletest"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/exchange"
)

// run returns the names of the tests of the folder that pass, and fails for others and for exchanges that fail.
func (c *client) runTests() string {
	c.t.Helper()
	var passed []string
	suite, err := ruletest.Load(c.t.Context(), os.DirFS(c.folder), ruletest.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	for result, err := range suite.Run(c.t.Context()) {
		if err != nil || result.Outcome != ruletest.Pass {
			c.t.Fatalf("%+v (%v)", result, err)
		}
		passed = append(passed, result.Name())
	}
	rules, err := decider.LoadRules(c.t.Context(), os.DirFS(c.folder), decider.RulesOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		c.t.Fatal(err)
	}
	exchanges, err := exchange.Find(c.folder)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range exchanges {
		if result, err := e.Run(c.t.Context(), d, false); err != nil || len(result.Problems) > 0 {
			c.t.Fatalf("%+v (%v)", result, err)
		}
		name, _ := filepath.Rel(c.folder, e.Name)
		passed = append(passed, filepath.ToSlash(name))
	}
	slices.Sort(passed)
	return strings.Join(passed, " ")
}

func question(request string, more object) object {
	body := object{"edits": object{}, "request": request, "rows": []any{}}
	maps.Copy(body, more)
	return body
}

// What is kept passes, as long as the rules stay as they are.
func TestKeep(t *testing.T) {
	t.Parallel()
	c := start(t, lookupFiles, nil)
	keep := func(want int, request string, more object) savedFile {
		t.Helper()
		var kept savedFile
		c.call(want, "POST", "/api/keep", question(request, more), &kept)
		return kept
	}
	kept := keep(200, request("line", ""), object{"as": "exchange", "name": "press"})
	if kept.Path != "line/press.request.json" || kept.Text != request("line", "") || c.read(kept.Path) != kept.Text {
		t.Errorf("%+v", kept)
	}
	kept = keep(200, request("line", ""), object{"as": "test", "name": "first-hub"})
	if kept.Path != "line/line_test.rego" || c.read(kept.Path) != kept.Text || !strings.HasPrefix(kept.Text, "package allocation.line_test\n") {
		t.Errorf("%+v", kept)
	}
	row := func(row any) []any {
		return []any{object{"lookup": "inventory", "key": "Press-1", "row": row, "fails": false}}
	}
	keep(200, request("line", ""), object{"as": "test", "name": "second-hub", "rows": row(object{"hub": "second", "count": 3})})
	kept = keep(200, request("line", ""), object{"as": "test", "name": "no-row", "rows": row(nil)})
	if !strings.HasPrefix(kept.Text, "package allocation.line_test\n") || !strings.Contains(kept.Text, "\ntest_first_hub if {") {
		t.Errorf("a test is lost: %s", kept.Text)
	}
	keep(200, request("nothing", ""), object{"as": "exchange", "name": "unserved"})
	if got := c.runTests(); got != "data.allocation.line_test.test_first_hub data.allocation.line_test.test_no_row data.allocation.line_test.test_second_hub line/press unserved" {
		t.Errorf("passed: %s", got)
	}
	// They notice a change.
	write(t, filepath.Join(c.folder, "line/line.rego"), strings.ReplaceAll(lookupRule, "linkedHubs[1]", "linkedHubs[0]"))
	suite, err := ruletest.Load(t.Context(), os.DirFS(c.folder), ruletest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if failed, err := suite.FirstFailure(t.Context()); err != nil || failed == nil || failed.Test != "test_second_hub" {
		t.Errorf("%+v, %v", failed, err)
	}
	write(t, filepath.Join(c.folder, "line/line.rego"), lookupRule)

	before := c.read("line/line_test.rego")
	for name, test := range map[string]struct {
		status  int
		request string
		more    object
	}{
		"the exchange exists":    {409, request("line", ""), object{"as": "exchange", "name": "press"}},
		"the test exists":        {409, request("line", ""), object{"as": "test", "name": "first-hub"}},
		"other rows":             {409, request("line", ""), object{"as": "exchange", "name": "rows", "rows": row(object{"hub": "second"})}},
		"a source that fails":    {409, request("line", ""), object{"as": "test", "name": "fails", "rows": []any{object{"lookup": "inventory", "key": "press-1", "row": nil, "fails": true}}}},
		"unsaved tests":          {409, request("line", ""), object{"as": "test", "name": "unsaved", "edits": object{"line/line_test.rego": before}}},
		"no rule to test":        {409, request("nothing", ""), object{"as": "test", "name": "unserved"}},
		"a name with a path":     {400, request("line", ""), object{"as": "exchange", "name": "../up"}},
		"a name with a quote":    {400, request("line", ""), object{"as": "test", "name": `a"b`}},
		"no name":                {400, request("line", ""), object{"as": "test", "name": ""}},
		"neither":                {400, request("line", ""), object{"as": "note", "name": "a"}},
		"not a request":          {422, "{}", object{"as": "test", "name": "a"}},
		"rules that do not load": {422, request("line", ""), object{"as": "test", "name": "a", "edits": object{"line/line.rego": "nonsense"}}},
	} {
		var answer struct{ Error string }
		if c.call(test.status, "POST", "/api/keep", question(test.request, test.more), &answer); answer.Error == "" {
			t.Errorf("%s: no error", name)
		}
	}
	if c.read("line/line_test.rego") != before {
		t.Error("a refused test was written")
	}
}

// Kept is the decision of the edited rules, a set of reasons included.
func TestKeepEdited(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	edited := lineRule + `
reject contains "no \"press\"" if input.deviceRuntimeContext.payload.a

reject contains "other" if input.deviceRuntimeContext.payload.a

payload := {"null": null, "list": [1, "a"], "nested": {"b": true}}

initial_twin := {"tags": {"a": 1.5}}
`
	edits := object{"line/line.rego": edited}
	for name, more := range map[string]string{"rejected": `"payload": {"a": 1}, `, "assigned": ""} {
		c.call(200, "POST", "/api/keep", question(request("line", more), object{"as": "test", "name": name, "edits": edits}), nil)
	}
	write(t, filepath.Join(c.folder, "line/line.rego"), edited)
	if got := c.runTests(); got != "data.allocation.line_test.test_assigned data.allocation.line_test.test_rejected" {
		t.Errorf("passed: %s", got)
	}
}

// A key is not written to a file, unless the decision needs it, and then nothing is. A certificate is no secret.
func TestKeepHidesKeys(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule, "key/key.rego": strings.ReplaceAll(keyRule, "line", "key")}, nil)
	for _, as := range []string{"exchange", "test"} {
		var kept savedFile
		c.call(200, "POST", "/api/keep", question(keyRequest(""), object{"as": as, "name": "masked"}), &kept)
		if strings.Contains(kept.Text, canary) || !strings.Contains(kept.Text, "(masked)") {
			t.Errorf("%s: %s", as, kept.Text)
		}
		more := object{"as": as, "name": "needs-it"}
		needs := strings.Replace(keyRequest(""), `"line"`, `"key"`, 1)
		more["edits"] = object{"key/key.rego": strings.ReplaceAll(keyRule, "line", "key") + "\nreject contains \"no\" if key != \"" + canary + "\"\n"}
		c.call(409, "POST", "/api/keep", question(needs, more), nil)
	}
	shipped := startShipped(t, nil)
	tenant, err := os.ReadFile("../../examples/requests/tenants-contoso.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, as := range []string{"exchange", "test"} {
		shipped.call(200, "POST", "/api/keep", question(string(tenant), object{"as": as, "name": "of-the-certificate"}), nil)
	}
	if got := shipped.runTests(); !strings.Contains(got, "test_of_the_certificate") || !strings.Contains(got, "tenants/of-the-certificate") {
		t.Errorf("passed: %s", got)
	}
}

// Example requests can be kept as tests of their rules.
func TestKeepExamples(t *testing.T) {
	t.Parallel()
	c := startShipped(t, nil)
	examples, err := filepath.Glob("../../examples/requests/*.json")
	if err != nil || len(examples) == 0 {
		t.Fatal(err)
	}
	kept := 0
	for i := 0; i < len(examples); i += 6 { // each takes as long as usher test
		text, err := os.ReadFile(examples[i])
		if err != nil {
			t.Fatal(err)
		}
		c.call(200, "POST", "/api/keep", question(string(text), object{"as": "test", "name": fmt.Sprintf("example-%d", i)}), nil)
		kept++
	}
	if got := strings.Count(c.runTests(), ".test_example_"); got != kept {
		t.Errorf("%d of %d pass", got, kept)
	}
}

type opened struct {
	Files    map[string]*string
	Request  string
	Rows     []object
	Problems []string
}

// What is shared gives the same answer where it is opened.
func TestShareAndOpen(t *testing.T) {
	t.Parallel()
	c := startShipped(t, nil)
	rule := strings.Replace(c.read("inventory/inventory.rego"), "title:", "title: Edited", 1)
	example, err := os.ReadFile(filepath.Join(c.folder, "inventory/recorded.request.json"))
	if err != nil {
		t.Fatal(err)
	}
	q := question(string(example), object{"edits": object{"inventory/inventory.rego": rule},
		"rows": []any{object{"lookup": "inventory", "key": "press-0001", "row": object{"hub": "contoso-us-hub", "tenant": "t", "count": 1}, "fails": false}}})
	var shared struct{ Name, Text string }
	c.call(200, "POST", "/api/share", q, &shared)
	if shared.Name != "usher-inventory.txtar" || !strings.Contains(shared.Text, "title: Edited") || !strings.Contains(shared.Text, "-- answer.json --") {
		t.Errorf("%s:\n%s", shared.Name, shared.Text)
	}
	// Only what the decision can depend on.
	for name, want := range map[string]bool{
		"rules/inventory/inventory.rego": true, "rules/inventory/data.json": true, "rules/inventory/data.schema.json": true, "rules/lib/dps.rego": true,
		"rules/inventory/lookups.yaml": true, "rules/inventory/inventory_fixture.csv": true, "request.json": true, "rows.json": true,
		"rules/tenants/data.json": false, "rules/tenants/tenants.rego": false, "rules/inventory/inventory_test.rego": false, "rules/inventory/recorded.request.json": false,
	} {
		if strings.Contains(shared.Text, "-- "+name+" --\n") != want {
			t.Errorf("%s is in it: %t", name, !want)
		}
	}
	var original answers
	c.call(200, "POST", "/api/decide", q, &original)
	for name, other := range map[string]*client{"where it was made": c, "elsewhere": start(t, map[string]string{"line/line.rego": lineRule, "line/line_test.rego": "package a", "README.md": "read"}, nil)} {
		var got opened
		other.call(200, "POST", "/api/open", object{"text": shared.Text}, &got)
		if len(got.Problems) > 0 || len(got.Rows) != 1 {
			t.Errorf("%s: %v %v", name, got.Problems, got.Rows)
		}
		var a answers
		other.call(200, "POST", "/api/decide", object{"edits": got.Files, "request": got.Request, "rows": got.Rows}, &a)
		if a.Edited.Body != original.Edited.Body || a.Edited.Status != 200 {
			t.Errorf("%s: %+v, want %+v", name, a.Edited, original.Edited)
		}
		if _, touched := got.Files["README.md"]; touched {
			t.Errorf("%s: a file that is not of the rules is removed", name)
		}
	}
}

// No secret is in what is shared: not of the request, of the rows, of the files or in what the rule makes of them.
func TestShareHidesSecrets(t *testing.T) {
	t.Parallel()
	const other, third = "T1RIRVItT1RIRVItT1RIRVI=", "VEhJUkQtVEhJUkQtVEhJUkQ="
	const pem = "-----BEGIN PRIVATE KEY-----\nMIIBVAIBADANBgkqhkiG9w0BAQEFAASCAT4wggE6AgEA\n-----END PRIVATE KEY-----"
	c := start(t, map[string]string{
		"line/line.rego":             keyRule + "\n# " + canary + "\n\nconnection := \"HostName=a;SharedAccessKey=" + other + "\"\n\nwhere := data.line.a\n\nrow := lookup.inventory(\"a\")\n\nurl := \"https://a/?code=" + third + "\"\n",
		"line/data.json":             `{"a": {"primaryKey": "` + other + `"}, "pem": ` + quoted(pem) + `}`,
		"line/lookups.yaml":          lookupsYAML + "# " + canary + "\n",
		"line/inventory_fixture.csv": "key,hub\npress-1," + canary + "\n",
		"line/data.schema.json":      `{"$schema": "https://json-schema.org/draft/2020-12/schema", "description": "` + canary + `"}`,
	}, nil)
	text := strings.Replace(keyRequest(`"x509": {"clientCertificate": "`+third+`"}, `), `"linkedHubs"`, `"customAllocationDefinition": {"webhookUrl": "https://a/api?code=`+other+`"}, "linkedHubs"`, 1)
	for _, more := range []object{{}, {"rows": []any{object{"lookup": "inventory", "key": canary, "row": object{"hub": canary, "secondaryKey": other}, "fails": false}}}} {
		var shared struct{ Text string }
		c.call(200, "POST", "/api/share", question(text, more), &shared)
		for _, secret := range []string{canary, other, third, "MIIBVAIBADANBg"} {
			if strings.Contains(shared.Text, secret) {
				t.Errorf("%s is in it:\n%s", secret, shared.Text)
			}
		}
	}
}

func quoted(text string) string {
	written, _ := json.Marshal(text) // of a text
	return string(written)
}

// What cannot be shared, and what is no file that was shared.
func TestShareAndOpenProblems(t *testing.T) {
	t.Parallel()
	c := start(t, map[string]string{"line/line.rego": lineRule}, nil)
	c.call(422, "POST", "/api/share", question("{}", nil), nil)
	// A line of the format itself.
	c.call(422, "POST", "/api/share", question(request("line", ""), object{"edits": object{"line/line.rego": lineRule + "\nx := `\n-- a --\n`\n"}}), nil)
	for _, text := range []string{"", "nonsense", "-- request.json --\n{}\n", "-- rules/../a.rego --\nx\n"} {
		c.call(422, "POST", "/api/open", object{"text": text}, nil)
	}
	var got opened
	c.call(200, "POST", "/api/open", object{"text": "-- rules/line/line.rego --\n" + lineRule + "-- rules/../../a.rego --\nx\n-- /etc/passwd --\nx\n-- rows.json --\n{\n-- rules/.env.json --\n{}\n-- rules/line/line.rego --\nx\n"}, &got)
	if len(got.Problems) != 5 || len(got.Files) != 1 || *got.Files["line/line.rego"] != lineRule || got.Rows == nil {
		t.Errorf("%+v", got)
	}
	got = opened{}
	c.call(200, "POST", "/api/open", object{"text": "-- rules/line/line.rego --\nnonsense\n"}, &got)
	if len(got.Problems) == 0 {
		t.Error("rules that do not load are no problem")
	}
	c.call(422, "POST", "/api/open", object{"text": "-- rules/a.json --\n1\n-- rules/a.json/b.rego --\nx\n"}, nil)
}
