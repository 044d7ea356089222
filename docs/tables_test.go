package docs_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	opa "github.com/open-policy-agent/opa/v1/ast"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/handler"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// table is a table of a document.
type table struct {
	line   int // of its header, from 1
	header []string
	rows   [][]string
}

var cellBorder = regexp.MustCompile(`\s*\|\s*`)

func tablesOf(document string) []table {
	var tables []table
	inTable, inBlock := false, false
	for i, line := range strings.Split(document, "\n") {
		if strings.HasPrefix(line, "```") {
			inBlock = !inBlock
		}
		if inBlock || !strings.HasPrefix(line, "|") {
			inTable = false
			continue
		}
		cells := cellBorder.Split(strings.TrimSpace(line), -1)
		cells = cells[1 : len(cells)-1]
		switch {
		case !inTable:
			tables = append(tables, table{line: i + 1, header: cells})
			inTable = true
		case strings.HasPrefix(line, "|---"):
		default:
			last := &tables[len(tables)-1]
			last.rows = append(last.rows, cells)
		}
	}
	return tables
}

// tableUnder returns the first table with this header.
func tableUnder(t *testing.T, document string, header ...string) table {
	t.Helper()
	for _, candidate := range tablesOf(document) {
		if slices.Equal(candidate.header, header) {
			return candidate
		}
	}
	t.Fatalf("no table with the columns %v", header)
	return table{}
}

// column returns a column without the backquotes of code.
func (tb table) column(i int) []string {
	var cells []string
	for _, row := range tb.rows {
		cells = append(cells, strings.Trim(row[i], "`"))
	}
	return cells
}

// sameNames compares what a document lists with what there is.
func sameNames(t *testing.T, what string, documented, there []string) {
	t.Helper()
	slices.Sort(documented)
	slices.Sort(there)
	if diff := gocmp.Diff(there, documented); diff != "" {
		t.Errorf("%s (-there +documented):\n%s", what, diff)
	}
}

// requestLink names the request of the tables below it.
var requestLink = regexp.MustCompile(`for\s+\[this request\]\(\.\./(examples/requests/[\w.-]+\.json)\)`)

// Every example of the library gives the answer next to it.
func TestExampleTables(t *testing.T) {
	t.Parallel()
	const name = "docs/writing-rules.md"
	document := readDocument(t, name)
	requests := map[int]string{} // by the line where each begins to count
	for _, b := range blocksOf(t, document) {
		if b.kind == "json" && b.note == "request" {
			requests[b.line] = b.text
		}
	}
	for _, match := range requestLink.FindAllStringSubmatchIndex(document, -1) {
		line := 1 + strings.Count(document[:match[0]], "\n")
		requests[line] = readDocument(t, document[match[2]:match[3]])
	}
	var documented []string
	for _, tb := range tablesOf(document) {
		if !slices.Equal(tb.header, []string{"name", "meaning", "example", "answer"}) {
			continue
		}
		asked := 0
		for line := range requests {
			if line < tb.line {
				asked = max(asked, line)
			}
		}
		for i, answer := range answersTo(t, requests[asked], tb.column(2)) {
			want := strings.Trim(tb.rows[i][3], "`")
			if answer != want && !sameJSON(answer, want) {
				t.Errorf("%s:%d: %s is %s, want %s", name, tb.line+2+i, tb.rows[i][2], answer, want)
			}
		}
		for i, function := range tb.column(0) {
			if function == "" {
				continue
			}
			documented = append(documented, function)
			if !strings.Contains(tb.rows[i][2], "dps."+function) {
				t.Errorf("%s:%d: the example does not use %s", name, tb.line+2+i, function)
			}
		}
	}
	sameNames(t, "the library", documented, libraryNames(t))
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && gocmp.Equal(x, y)
}

// answersTo has a rule evaluate the expressions about a request.
func answersTo(t *testing.T, request string, expressions []string) []string {
	t.Helper()
	var module strings.Builder
	module.WriteString("package allocation.default\n\nimport data.dps\n\nhub := input.linkedHubs[0]\n\nlibrary := dps\n")
	for i, expression := range expressions {
		fmt.Fprintf(&module, "\npayload[\"%d\"] := %s\n", i, expression)
	}
	s := section{document: "docs"}
	s.add("examples.rego", module.String())
	rules, err := s.load(t, false)
	if err != nil {
		t.Fatal(err)
	}
	response, body := post(t, rules, request)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	var answer struct{ Payload map[string]json.RawMessage }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	answers := make([]string, len(expressions))
	for i := range expressions {
		value, ok := answer.Payload[strconv.Itoa(i)]
		if answers[i] = string(value); !ok {
			answers[i] = "undefined"
		}
	}
	return answers
}

// libraryNames are what rules/lib offers: what does not begin with "_".
func libraryNames(t *testing.T) []string {
	t.Helper()
	text := readDocument(t, "rules/lib/dps.rego")
	module, err := opa.ParseModule("dps.rego", text)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, rule := range module.Rules {
		if name := rule.Head.Name.String(); !strings.HasPrefix(name, "_") {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// The built-ins that are said to be off are those that are off.
func TestBuiltinsThatAreOff(t *testing.T) {
	t.Parallel()
	_, text, _ := strings.Cut(readDocument(t, "docs/writing-rules.md"), "\n## Built-in functions\n")
	text, _, _ = strings.Cut(text, "\nThe setting")
	_, text, _ = strings.Cut(text, "off:\n")
	var documented, off []string
	for _, match := range codeSpan.FindAllStringSubmatch(text, -1) {
		documented = append(documented, match[1])
	}
	for _, builtin := range opa.CapabilitiesForThisVersion().Builtins {
		if ruleset.Restricted(builtin) {
			off = append(off, builtin.Name)
		}
	}
	sameNames(t, "built-ins", documented, off)
}

// The functions that Usher adds to Rego are named, all of them.
func TestBuiltinsOfOurOwn(t *testing.T) {
	t.Parallel()
	var documented, declared []string
	for _, match := range regexp.MustCompile("`(usher\\.[a-z_]+)`").FindAllStringSubmatch(readDocument(t, "docs/writing-rules.md"), -1) {
		documented = append(documented, match[1])
	}
	for _, match := range regexp.MustCompile(`custom\("(usher\.\w+)"`).FindAllStringSubmatch(readDocument(t, "internal/decide/ruleset/builtins.go"), -1) {
		declared = append(declared, match[1])
	}
	sameNames(t, "functions that Usher adds", documented, declared)
}

// constantsOf reads the string constants that a file declares with this type, or with a name of this prefix.
func constantsOf(t *testing.T, file, typeName, prefix string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, filepath.FromSlash(file)), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, declaration := range parsed.Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok || general.Tok != token.CONST {
			continue
		}
		for _, spec := range general.Specs {
			spec := spec.(*ast.ValueSpec)
			declared, _ := spec.Type.(*ast.Ident)
			if typeName != "" && (declared == nil || declared.Name != typeName) {
				continue
			}
			for _, value := range spec.Values {
				literal, ok := value.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					continue
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(text, prefix) {
					values = append(values, text)
				}
			}
		}
	}
	if len(values) == 0 {
		t.Fatalf("%s declares no constants %s%s", file, typeName, prefix)
	}
	return values
}

// settingsOf lists the settings that the code reads.
func settingsOf(t *testing.T) []string {
	t.Helper()
	files, err := fs.Glob(os.DirFS(root), "function-app/settings*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var names []string
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") && strings.Contains(readDocument(t, file), `= "USHER_`) {
			names = append(names, constantsOf(t, file, "", "USHER_")...)
		}
	}
	return names
}

// The table of settings lists what the code reads, with the example's values, which a test of function-app holds to the
// defaults.
func TestSettingsTable(t *testing.T) {
	t.Parallel()
	documented := tableUnder(t, readDocument(t, "docs/operations.md"), "setting", "what", "default")
	sameNames(t, "settings", documented.column(0), settingsOf(t))

	var example struct{ Values map[string]string }
	if err := json.Unmarshal([]byte(readDocument(t, "local.settings.json.example")), &example); err != nil {
		t.Fatal(err)
	}
	sameNames(t, "settings of local.settings.json.example", slices.Sorted(maps.Keys(example.Values)),
		append(settingsOf(t), "FUNCTIONS_WORKER_RUNTIME"))
	values := documented.column(2)
	for i, row := range documented.rows {
		name := strings.Trim(row[0], "`")
		if values[i] != example.Values[name] {
			t.Errorf("%s: the default is %q, want %q", name, values[i], example.Values[name])
		}
	}
}

// exchangeCase brings about one outcome or fault.
type exchangeCase struct {
	rule    string        // the body of package allocation.default; empty: no rules at all
	lookups string        // declarations of look-ups, which have no source
	request string        // empty: one that is valid
	broken  bool          // the body ends in an error
	bare    bool          // the handler has no allocator
	stale   bool          // the rules are out of date
	canary  bool          // the rules are on trial, for everybody
	limit   time.Duration // of the rule's time; 0 means more than it takes
}

var exchangeCases = map[string]exchangeCase{
	"assigned":        {rule: "hub := input.linkedHubs[0]\n\ninitial_twin := {\"tags\": {}}", canary: true},
	"rejected":        {rule: "reject contains \"no\""},
	"held":            {rule: "hold contains \"later\""},
	"malformed":       {rule: "hub := input.linkedHubs[0]", request: "{"},
	"invalid_request": {rule: "hub := input.linkedHubs[0]", request: "{}"},
	"undecided":       {rule: "hub := input.linkedHubs[to_number(input.deviceRuntimeContext.registrationId)]"},
	"bad_verdict":     {rule: "hub := 1"},
	"lookup_failed": {rule: "hub := lookup.device(input.deviceRuntimeContext.registrationId).hub",
		lookups: "device: {row: {type: object, properties: {hub: {type: string}}}}"},
	"timeout": {rule: "hub := input.linkedHubs[0] if count([1 | some a in numbers.range(1, 9999); some b in numbers.range(1, 9999); " +
		"a * b == 0]) == 0", limit: 20 * time.Millisecond},
	"canceled":    {rule: "hub := input.linkedHubs[0]", broken: true},
	"not_ready":   {},
	"rules_stale": {rule: "hub := input.linkedHubs[0]", stale: true},
	"internal":    {bare: true},
}

// validRequest is of a device that the enrollment keeps on its hub, so that the constraint prevails over a rule that
// names the first.
const validRequest = `{"enrollmentGroup": {"enrollmentGroupId": "g", "reprovisionPolicy": {"updateHubAssignment": false}},
	"deviceRuntimeContext": {"registrationId": "d", "currentIotHubHostName": "b.azure-devices.net"},
	"linkedHubs": ["a.azure-devices.net", "b.azure-devices.net"]}`

const firstRequest = `{"enrollmentGroup": {"enrollmentGroupId": "g"}, "deviceRuntimeContext": {"registrationId": "d"},
	"linkedHubs": ["a.azure-devices.net"]}`

// exchange runs a case and returns the status, the code of the problem document and the log line.
func (c exchangeCase) exchange(t *testing.T, fallback string) (status int, code string, line map[string]any) {
	t.Helper()
	options := decider.Options{Timeout: cmp.Or(c.limit, time.Minute)}
	if c.rule != "" {
		rules, err := decider.LoadRules(t.Context(), fstest.MapFS{
			"lookups.yaml": {Data: []byte(c.lookups)},
			"rule.rego":    {Data: []byte("package allocation.default\n\n" + c.rule + "\n")}}, decider.RulesOptions{Revision: "v1"})
		if err != nil {
			t.Fatal(err)
		}
		options.Rules = rules
	}
	allocator, err := decider.New(options)
	if err != nil {
		t.Fatal(err)
	}
	if c.canary {
		allocator.Try(&decider.Trial{Rules: options.Rules, Canary: decider.Shares{{Pattern: "*", Percent: 100}}})
	}
	if c.stale {
		allocator.Stop("the source of the rules is silent")
	}
	if c.bare {
		allocator = nil
	}
	var log bytes.Buffer
	webhook := handler.New(handler.Options{Allocator: allocator, Log: slog.New(slog.NewJSONHandler(&log, nil))})
	if c.request != "" {
		fallback = c.request
	}
	body := io.Reader(strings.NewReader(fallback))
	if c.broken {
		body = io.MultiReader(strings.NewReader("{"), brokenReader{})
	}
	request := httptest.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodPost, handler.AllocatePath, body)
	request.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	request.Header.Set("X-Azure-Functions-InvocationId", "6f2a8a7e-8a5c-4a36-9d0e-2d1fb0c3a7a1")
	recorder := httptest.NewRecorder()
	webhook.ServeHTTP(recorder, request)
	var problem struct{ Code string }
	if err := json.Unmarshal(recorder.Body.Bytes(), &problem); err != nil {
		t.Fatalf("the answer is not JSON: %v", err)
	}
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("not one log line of JSON: %v\n%s", err, log.Bytes())
	}
	return recorder.Code, problem.Code, line
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the connection is gone") }

// The tables of outcomes and faults list all there are, with the status and the log level that each has.
func TestOutcomeTables(t *testing.T) {
	t.Parallel()
	operations := readDocument(t, "docs/operations.md")
	outcomes := tableUnder(t, operations, "outcome", "status", "level", "DPS")
	faults := tableUnder(t, operations, "fault", "status", "level", "what it means", "what to do")
	var wantOutcomes, wantFaults []string
	for _, result := range answer.Results() {
		if result.IsOutcome() {
			wantOutcomes = append(wantOutcomes, string(result))
		} else {
			wantFaults = append(wantFaults, string(result))
		}
	}
	sameNames(t, "outcomes", outcomes.column(0), wantOutcomes)
	sameNames(t, "faults", faults.column(0), wantFaults)
	for _, row := range slices.Concat(outcomes.rows, faults.rows) {
		name := strings.Trim(row[0], "`")
		t.Run(name, func(t *testing.T) {
			c, ok := exchangeCases[name]
			if !ok {
				t.Fatal("no case brings this about")
			}
			status, code, line := c.exchange(t, firstRequest)
			if name != "assigned" && code != name {
				t.Errorf("the answer's code is %s", code)
			}
			if got := fmt.Sprint(status); got != row[1] {
				t.Errorf("status %s, want %s", got, row[1])
			}
			if got := strings.ToLower(fmt.Sprint(line["level"])); got != strings.Trim(row[2], "`") {
				t.Errorf("level %s, want %s", got, row[2])
			}
			if line["result"] != name {
				t.Errorf("the log says %v", line["result"])
			}
		})
	}
}

// The table of log fields lists every field that occurs.
func TestLogFieldsTable(t *testing.T) {
	t.Parallel()
	fields := map[string]bool{}
	for name, c := range exchangeCases {
		for _, request := range []string{validRequest, firstRequest} {
			_, _, line := c.exchange(t, request)
			if line["msg"] != "allocation" {
				t.Errorf("%s: the message is %v", name, line["msg"])
			}
			for field := range line {
				fields[field] = true
			}
		}
	}
	documented := tableUnder(t, readDocument(t, "docs/operations.md"), "field", "what")
	sameNames(t, "log fields", documented.column(0), slices.Sorted(maps.Keys(fields)))
}

// What the webhook is asked besides leaves no line.
func TestAnswersThatAreNoAllocations(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	webhook := handler.New(handler.Options{Log: slog.New(slog.NewJSONHandler(&log, nil)), Keys: []string{"a-key-of-twenty-characters"}})
	refused := 0
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodPost, handler.AllocatePath, http.StatusUnauthorized},
		{http.MethodPost, handler.AllocatePath + "?code=another-key-of-that-length", http.StatusUnauthorized},
		{http.MethodPost, "/api/elsewhere", http.StatusNotFound},
		{http.MethodGet, handler.AllocatePath, http.StatusMethodNotAllowed},
		{http.MethodGet, handler.LivenessPath, http.StatusOK},
		{http.MethodGet, "/", http.StatusOK},
	} {
		recorder := httptest.NewRecorder()
		webhook.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), c.method, c.path, nil))
		if recorder.Code != c.want {
			t.Errorf("%s %s = %d, want %d", c.method, c.path, recorder.Code, c.want)
		}
		if c.want != http.StatusOK {
			refused++
		}
	}
	if lines := strings.Count(log.String(), `"msg":"refused"`); lines != refused || strings.Count(log.String(), "\n") != refused {
		t.Errorf("%d lines for %d refusals: %s", lines, refused, log.Bytes())
	}
	if strings.Contains(log.String(), "another-key") {
		t.Errorf("a key is in the log: %s", log.Bytes())
	}
}

// The table of on_undecided says what each value comes to.
func TestOnUndecidedTable(t *testing.T) {
	t.Parallel()
	documented := tableUnder(t, readDocument(t, "docs/writing-rules.md"), "value", "the webhook answers", "DPS")
	sameNames(t, "values of on_undecided", documented.column(0), constantsOf(t, "internal/decide/ruleset/ruleset.go", "OnUndecided", ""))
	for _, row := range documented.rows {
		value := strings.Trim(row[0], "`")
		rules, err := decider.LoadRules(t.Context(), fstest.MapFS{"rule.rego": {Data: []byte(
			"# METADATA\n# custom:\n#   enrollment_groups: [g]\n#   on_undecided: " + value + "\npackage allocation.g\n\nhub := input.linkedHubs[9]\n")}},
			decider.RulesOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// The first number is for a device on a linked hub, the second, if there is one, for a new device.
		numbers := regexp.MustCompile(`\d{3}`).FindAllString(row[1], -1)
		if len(numbers) == 1 {
			numbers = append(numbers, numbers[0])
		}
		for i, request := range []string{validRequest, firstRequest} {
			response, _ := post(t, rules, strings.Replace(request, `"updateHubAssignment": false`, `"updateHubAssignment": true`, 1))
			if got := strconv.Itoa(response.StatusCode); got != numbers[i] {
				t.Errorf("%s: status %s, want %s", value, got, numbers[i])
			}
		}
	}
}

// No line holds what a device or an enrollment keeps secret, or a key.
func TestLogHoldsNoSecrets(t *testing.T) {
	t.Parallel()
	const request = `{"enrollmentGroup": {"enrollmentGroupId": "g", "attestation": {"type": "tpm", "tpm": {"endorsementKey": "canary"},
		"symmetricKey": {"primaryKey": "canary"}}, "initialTwin": {"tags": {"canary": "canary"}}},
		"deviceRuntimeContext": {"registrationId": "d", "payload": {"canary": "canary"}, "symmetricKey": {"primaryKey": "canary"},
		"tpm": {"storageRootKey": "canary"}, "x509": {"clientCertificate": "canary"}}, "linkedHubs": ["a.azure-devices.net"]}`
	cases := map[string]exchangeCase{
		"echo":          {rule: "hub := input.linkedHubs[0]\n\npayload := input.deviceRuntimeContext.payload\n\ninitial_twin := input.enrollmentGroup.initialTwin"},
		"foreign hub":   {rule: "hub := input.deviceRuntimeContext.payload.canary"},
		"built-in":      {rule: "hub := input.linkedHubs[to_number(input.deviceRuntimeContext.payload.canary)]"},
		"bad payload":   {rule: "hub := input.linkedHubs[0]\n\npayload := input.deviceRuntimeContext.payload.canary"},
		"bad twin":      {rule: "hub := input.linkedHubs[0]\n\ninitial_twin := {\"tags\": {\"a b\": input.deviceRuntimeContext.payload}}"},
		"conflict":      {rule: "hub := input.linkedHubs[0]\n\nhub := input.deviceRuntimeContext.payload.canary"},
		"wrong type":    {rule: "hub := 1", request: strings.Replace(request, `"registrationId": "d"`, `"registrationId": {"canary": "canary"}`, 1)},
		"malformed":     {rule: "hub := 1", request: strings.TrimSuffix(request, "}")},
		"member twice":  {rule: "hub := 1", request: strings.Replace(request, `"payload": {`, `"payload": {"canary": 1, `, 1)},
		"wrong letters": {rule: "hub := 1", request: strings.Replace(request, `"registrationId": "d"`, `"registrationId": "canary/canary"`, 1)},
	}
	for name, c := range cases {
		status, _, line := c.exchange(t, request)
		// Where DPS or the caller names something in the log, it is no secret.
		delete(line, "registration_id")
		violations, _ := line["violations"].([]any)
		for _, violation := range violations {
			delete(violation.(map[string]any), "pointer")
		}
		text := mustJSON(t, line)
		if name == "member twice" {
			text = strings.ReplaceAll(text, "payload/canary", "")
		}
		if strings.Contains(text, "canary") {
			t.Errorf("%s (status %d): %s", name, status, text)
		}
	}
}

// The page on DPS gives the retry schedule that the code states.
func TestRetrySchedule(t *testing.T) {
	t.Parallel()
	const retries, initialSeconds, increaseSeconds = 10, 1, 9
	sum, wait := 0, initialSeconds
	for range retries {
		sum += wait
		wait += increaseSeconds
	}
	behaviours := readDocument(t, "docs/dps-behaviours.md")
	for _, want := range []string{
		fmt.Sprintf("%d times, first after %d s, then after %d s more each time", retries, initialSeconds, increaseSeconds),
		fmt.Sprintf("%d s, about 7 minutes", sum),
	} {
		if !strings.Contains(behaviours, want) {
			t.Errorf("docs/dps-behaviours.md does not say %q", want)
		}
	}
}

// Every constraint that can prevail over a rule is explained.
func TestOverridesAreExplained(t *testing.T) {
	t.Parallel()
	operations := readDocument(t, "docs/operations.md")
	for _, override := range constantsOf(t, "answer/answer.go", "Override", "") {
		if !strings.Contains(operations, "`"+override+"`") {
			t.Errorf("docs/operations.md does not say what %s is", override)
		}
	}
}

// Documents name files, targets and Go identifiers that exist.
var codeSpan = regexp.MustCompile("`([^`\n]+)`")

func exists(name string) bool {
	_, err := os.Stat(filepath.Join(root, filepath.FromSlash(name)))
	return err == nil
}
