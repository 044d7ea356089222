package telemetry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/serve/telemetry"
	"github.com/usher-dps/usher/internal/serve/telemetry/otlp"
)

const monitoring = "../../../infra/monitoring"

// exposed is everything that Prometheus can scrape: labels by name of the series.
func exposed(t *testing.T) map[string][]string {
	t.Helper()
	metrics := on(t, nil, telemetry.Options{Listen: "127.0.0.1:0"})
	if err := metrics.Watch(watched()); err != nil {
		t.Fatal(err)
	}
	metrics.Observer()(t.Context(), &answer.Call{
		Service: "eu", Request: &dps.AllocationRequest{Enrollment: dps.Enrollment{Kind: dps.EnrollmentGroup, ID: "g"}},
		Answer: answer.Answer{Result: answer.Assigned, Response: dps.AllocationResponse{IotHubHostName: "h"},
			Overrides: []answer.Override{answer.OnUndecided}},
	})
	metrics.LookedUp("device", "row", time.Millisecond)
	series := map[string][]string{}
	for name, family := range scrape(t, metrics) {
		if !strings.HasPrefix(name, "usher_") {
			continue
		}
		labels := map[string]bool{}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				labels[label.GetName()] = true
			}
		}
		names := slices.Sorted(maps.Keys(labels))
		if family.GetType().String() == "HISTOGRAM" {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				series[name+suffix] = append(slices.Clone(names), "le")
			}
			continue
		}
		series[name] = names
	}
	return series
}

// Exactly the metrics that are listed exist, with the attributes that are listed.
func TestMetricsAreListed(t *testing.T) {
	t.Parallel()
	series := exposed(t)
	listed := map[string]bool{}
	for _, m := range telemetry.Metrics() {
		var labels []string
		for _, attribute := range m.Attributes {
			labels = append(labels, strings.ReplaceAll(attribute, ".", "_"))
		}
		slices.Sort(labels)
		found := false
		for name, got := range series {
			if base := strings.ReplaceAll(m.Name, ".", "_"); name == base || strings.HasPrefix(name, base+"_") && slices.Contains([]string{"total", "seconds", "seconds_bucket", "seconds_count", "seconds_sum"}, name[len(base)+1:]) {
				found, listed[name] = true, true
				got = slices.DeleteFunc(slices.Clone(got), func(label string) bool { return label == "le" })
				if !slices.Equal(got, labels) {
					t.Errorf("%s has the labels %v, listed are %v", name, got, labels)
				}
			}
		}
		if !found {
			t.Errorf("%s is listed and not made", m.Name)
		}
	}
	for name := range series {
		if !listed[name] {
			t.Errorf("%s is made and not listed", name)
		}
	}
}

var (
	prometheusName = regexp.MustCompile(`\b(?:usher|dps)_[a-z0-9_]+`)
	labelValues    = regexp.MustCompile(`\bdps_result=~?"([^"]*)"|\bdps_override=~?"([^"]*)"`)
)

// Alert rules for Prometheus use names that exist.
func TestPrometheusAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(monitoring, "prometheus-alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	series := exposed(t)
	alerts := map[string]bool{}
	for _, rule := range file.Groups[0].Rules {
		alerts[rule.Alert] = true
		if rule.Annotations["summary"] == "" || rule.Labels["severity"] == "" {
			t.Errorf("%s says neither what is wrong nor how bad it is", rule.Alert)
		}
		if strings.Count(rule.Expr, "(") != strings.Count(rule.Expr, ")") || strings.Count(rule.Expr, "{") != strings.Count(rule.Expr, "}") {
			t.Errorf("%s: brackets do not match in %s", rule.Alert, rule.Expr)
		}
		if problems := prometheusProblems(series, rule.Expr); len(problems) > 0 {
			t.Errorf("%s: %v", rule.Alert, problems)
		}
		labels := map[string]bool{}
		for _, match := range prometheusName.FindAllString(rule.Expr, -1) {
			labels[match] = true
		}
		for _, match := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(rule.Annotations["summary"], -1) {
			if !labels[match[1]] {
				t.Errorf("%s: the summary names the label %s, which the expression does not keep", rule.Alert, match[1])
			}
		}
	}
	for _, want := range []string{"UsherRulesStale", "UsherUndecided", "UsherHubSkew", "UsherLookupFails", "UsherSlow", "UsherRecordsDropped"} {
		if !alerts[want] {
			t.Errorf("there is no alert %s", want)
		}
	}
	for _, planted := range []string{"usher_allocation_total > 0", `usher_overrides_total{dps_hub="x"}`, `usher_allocations_total{dps_result="undecidable"}`} {
		if len(prometheusProblems(series, planted)) == 0 {
			t.Errorf("nothing is found in %s", planted)
		}
	}
}

func prometheusProblems(series map[string][]string, expression string) []string {
	var problems []string
	var labels []string
	named := prometheusName.FindAllString(expression, -1)
	for _, name := range named {
		labels = append(labels, series[name]...)
	}
	for _, name := range named {
		if _, ok := series[name]; !ok && !slices.Contains(labels, name) {
			problems = append(problems, name+" is neither a metric nor a label of one")
		}
	}
	for _, match := range labelValues.FindAllStringSubmatch(expression, -1) {
		for value := range strings.SplitSeq(match[1]+match[2], "|") {
			if !slices.Contains(results(), value) {
				problems = append(problems, value+" is no outcome, fault or override")
			}
		}
	}
	return problems
}

// results are the values that dps.result and dps.override can have.
func results() []string {
	values := []string{string(answer.NeverReprovision), string(answer.CurrentHubNotLinked), string(answer.OnUndecided)}
	for _, result := range answer.Results() {
		values = append(values, string(result))
	}
	return values
}

// kql finds the queries in a JSON document.
func kql(value any) []string {
	var queries []string
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			if text, ok := member.(string); ok && name == "query" {
				queries = append(queries, text)
				continue
			}
			queries = append(queries, kql(member)...)
		}
	case []any:
		for _, element := range v {
			queries = append(queries, kql(element)...)
		}
	}
	return queries
}

// Queries for Azure, in the workbook, the alert rules and the documents, use members of records, metrics and attributes
// that exist.
func TestQueriesForAzure(t *testing.T) {
	t.Parallel()
	total := 0
	check := func(where string, queries []string, least int) {
		if len(queries) < least {
			t.Errorf("%s has %d queries", where, len(queries))
		}
		for _, query := range queries {
			total++
			for _, problem := range kqlProblems(t, query) {
				t.Errorf("%s: %s in\n%s", where, problem, query)
			}
		}
	}
	for name, least := range map[string]int{"workbook.json": 8, "azure-alerts.json": 6} {
		text, err := os.ReadFile(filepath.Join(monitoring, name))
		if err != nil {
			t.Fatal(err)
		}
		var document any
		if err := json.Unmarshal(text, &document); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		check(name, kql(document), least)
	}
	var blocks []string
	for _, match := range regexp.MustCompile("(?s)```kql\n(.*?)```").FindAllStringSubmatch(operations(t), -1) {
		blocks = append(blocks, match[1])
	}
	check("docs/operations.md", blocks, 5)
	if total < 19 {
		t.Errorf("%d queries", total)
	}
	for _, planted := range []string{
		`traces | extend record = parse_json(message) | where record.decision.hubs == "x"`,
		`traces | extend record = parse_json(message) | where record.rule["packages"] == "x"`,
		`customMetrics | where name == "usher.rules.old"`,
		`customMetrics | where name == "usher.rules.age" and customDimensions["dps.hub.name"] == "x"`,
		`traces | extend record = parse_json(message) | where result in ("assignd")`,
		`traces | where (message == "x"`,
		`traces | where message has "\"msg\":\"rules rotten\""`,
	} {
		if len(kqlProblems(t, planted)) == 0 {
			t.Errorf("nothing is found in %s", planted)
		}
	}
}

// logMessage is the message of a log line within a query.
var logMessage = regexp.MustCompile(`\\"msg\\":\\"([^"\\]+)\\"`)

// logged reports whether the code of the handler contains the message.
func logged(t *testing.T, message string) bool {
	t.Helper()
	for _, folder := range []string{filepath.Join("internal", "serve", "decisionlog", "sink"), filepath.Join("internal", "serve", "rulesource"), filepath.Join("internal", "serve", "lookupsource")} {
		files, err := filepath.Glob(filepath.Join("..", "..", "..", folder, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", folder, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(file, "_test.go") && strings.Contains(string(text), `"`+message+`"`) {
				return true
			}
		}
	}
	return false
}

var (
	recordMember = regexp.MustCompile(`(?:^|[^.\w])record((?:\.[A-Za-z]\w*|\["\w+"\])+)`)
	metricName   = regexp.MustCompile(`"(usher\.[a-z_.]+)"`)
	dimension    = regexp.MustCompile(`customDimensions\["([^"]+)"\]`)
	resultValues = regexp.MustCompile(`\bresult (?:==|in) \(?((?:"[a-z_]+"(?:, )?)+)`)
)

func kqlProblems(t *testing.T, query string) []string {
	t.Helper()
	var problems []string
	schema := recordSchema(t)
	for _, match := range recordMember.FindAllStringSubmatch(query, -1) {
		path := strings.Split(strings.NewReplacer(`["`, ".", `"]`, "").Replace(match[1])[1:], ".")
		if !schema.has(path) {
			problems = append(problems, "records have no "+strings.Join(path, "."))
		}
	}
	for _, match := range logMessage.FindAllStringSubmatch(query, -1) {
		if !logged(t, match[1]) {
			problems = append(problems, "no line of the log says "+match[1])
		}
	}
	attributes, metrics := map[string]bool{}, map[string]bool{}
	for _, m := range telemetry.Metrics() {
		metrics[m.Name] = true
		for _, attribute := range m.Attributes {
			attributes[attribute] = true
		}
	}
	dimensions := map[string]bool{}
	for _, match := range dimension.FindAllStringSubmatch(query, -1) {
		dimensions[match[1]] = true
		if !attributes[match[1]] {
			problems = append(problems, "no metric has the attribute "+match[1])
		}
	}
	for _, match := range metricName.FindAllStringSubmatch(query, -1) {
		if !metrics[match[1]] && !dimensions[match[1]] {
			problems = append(problems, "there is no metric "+match[1])
		}
	}
	for _, match := range resultValues.FindAllStringSubmatch(query, -1) {
		for value := range strings.SplitSeq(match[1], ", ") {
			if !slices.Contains(results(), strings.Trim(value, `"`)) {
				problems = append(problems, value+" is no outcome or fault")
			}
		}
	}
	if strings.Contains(logMessage.ReplaceAllString(query, ""), "record") && strings.Contains(query, "traces") && !strings.Contains(query, "parse_json(message)") {
		problems = append(problems, "records are not parsed")
	}
	for _, pair := range []string{"()", "[]", "{}"} {
		if strings.Count(query, pair[:1]) != strings.Count(query, pair[1:])+unclosed(query, pair[:1]) {
			problems = append(problems, "brackets do not match: "+pair)
		}
	}
	return problems
}

// unclosed counts the brace in the text by which queries recognize a record.
func unclosed(query, bracket string) int {
	if bracket != "{" {
		return 0
	}
	return strings.Count(query, `{"usherRecord":`)
}

// schema is the part of a JSON Schema that is needed to follow a path.
type schema struct {
	Ref        string `json:"$ref"`
	Properties map[string]*schema
	Items      *schema
	Defs       map[string]*schema `json:"$defs"`
	root       *schema
}

func recordSchema(t *testing.T) *schema {
	t.Helper()
	text, err := os.ReadFile("../../../schemas/decision-record.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	s.root = &s
	return &s
}

func (s *schema) has(path []string) bool {
	if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
		definition := *s.root.Defs[name]
		definition.root = s.root
		return definition.has(path)
	}
	if len(path) == 0 {
		return true
	}
	member, ok := s.Properties[path[0]]
	if !ok {
		return false
	}
	member.root = s.root
	return member.has(path[1:])
}

func operations(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rows returns the table under a header, cells without backquotes.
func rows(t *testing.T, document, header string) [][]string {
	t.Helper()
	_, after, found := strings.Cut(document, header+"\n")
	if !found {
		t.Fatalf("no table %s", header)
	}
	var out [][]string
	for line := range strings.Lines(after) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		if strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		out = append(out, cells)
	}
	return out
}

// The tables of metrics and attributes are complete and correct.
func TestTablesInTheDocuments(t *testing.T) {
	t.Parallel()
	document := operations(t)
	var want []string
	for _, m := range telemetry.Metrics() {
		var attributes []string
		for _, attribute := range m.Attributes {
			attributes = append(attributes, "`"+attribute+"`")
		}
		unit := strings.Trim(m.Unit, "{}")
		want = append(want, fmt.Sprintf("`%s` | %s | %s | %s | %s", m.Name, m.Kind, unit, m.What, strings.Join(attributes, ", ")))
	}
	var got []string
	for _, row := range rows(t, document, "| metric | kind | unit | what | attributes |") {
		got = append(got, strings.Join(row, " | "))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the table of metrics should be\n| %s |", strings.Join(want, " |\n| "))
	}
	// Attributes of spans: those of spans of each kind of allocation.
	var documented []string
	for _, row := range rows(t, document, "| attribute of the span | what |") {
		documented = append(documented, strings.Trim(row[0], "`"))
	}
	if got, want := sorted(documented), sorted(spanAttributes(t)); !slices.Equal(got, want) {
		t.Errorf("documented are %v, there are %v", got, want)
	}
	// Variables.
	documented = nil
	for _, row := range rows(t, document, "| variable | what | default |") {
		for name := range strings.SplitSeq(row[0], ", ") {
			documented = append(documented, strings.Trim(name, "`"))
		}
	}
	read := map[string]bool{}
	if _, err := telemetry.ReadSettings(func(name string) string {
		read[name] = true
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_SAMPLER_ARG": "0.5"}[name]
	}); err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(read, func(name string, _ bool) bool {
		// A sentence describes the variables of a single signal.
		return !strings.HasPrefix(name, "OTEL_") || name != otlp.VariableTemporality && regexp.MustCompile(`_OTLP_(TRACES|METRICS|LOGS)_`).MatchString(name)
	})
	if got, want := sorted(documented), slices.Sorted(maps.Keys(read)); !slices.Equal(got, want) {
		t.Errorf("documented are %v, read are %v", got, want)
	}
}

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}

// The folder contains exactly what the documents mention.
func TestMonitoringFiles(t *testing.T) {
	t.Parallel()
	entries, err := fs.ReadDir(os.DirFS(monitoring), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.Contains(operations(t), "infra/monitoring/"+entry.Name()) {
			err = errors.Join(err, fmt.Errorf("docs/operations.md does not speak of %s", entry.Name()))
		}
	}
	if err != nil || len(entries) < 3 {
		t.Error(err, len(entries))
	}
}
