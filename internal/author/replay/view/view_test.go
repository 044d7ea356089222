package view_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/usher-dps/usher/internal/author/replay"
	"github.com/usher-dps/usher/internal/author/replay/view"
	"github.com/usher-dps/usher/internal/author/requestlog"
	"github.com/usher-dps/usher/internal/decide/decider"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const rules = `package allocation.default

id := input.deviceRuntimeContext.registrationId

hub := input.linkedHubs[1] if startswith(id, "move-")

else := input.deviceRuntimeContext.currentIotHubHostName if not startswith(id, "fault-")

initial_twin := {"tags": {"site": 1}}

reject contains "retired <b>&\u001b[31m" if startswith(id, "reject-")

hold contains "later" if startswith(id, "hold-")
`

// sample is a report with something of everything.
func sample(t testing.TB) view.Report {
	t.Helper()
	loaded, err := decider.LoadRules(t.Context(), fstest.MapFS{"rule.rego": {Data: []byte(rules)}}, decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allocator, err := decider.New(decider.Options{Rules: loaded})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	add := func(n int, prefix, hub, policy, decision string) {
		for i := range n {
			current := ""
			if hub != "" {
				current = fmt.Sprintf(`, "currentIotHubHostName": "contoso-%s.azure-devices.net"`, hub)
			}
			request := fmt.Sprintf(`{"enrollmentGroup": {"enrollmentGroupId": "line-%s", "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": %s}},`+
				` "deviceRuntimeContext": {"registrationId": "%s-%d"%s}, "linkedHubs": ["contoso-eu.azure-devices.net", "contoso-us.azure-devices.net"]}`,
				prefix, policy, prefix, i, current)
			fmt.Fprintf(&log, `{"decision": %s, "request": %s}`+"\n", decision, request)
		}
	}
	add(400, "stay", "eu", "true", "null")
	add(30, "move", "eu", "true", "null")
	add(3, "move", "eu", "false", `{"outcome": "rejected"}`)
	add(5, "reject", "us", "true", "null")
	add(4, "hold", "us", "true", "null")
	add(2, "fault", "us", "true", `{"fault": "timeout"}`)
	add(2, "reject", "", "true", `{"outcome": "rejected"}`)
	add(1, "move", "", "true", "null")
	log.WriteString("<script>alert(1)</script>\n")
	report, err := replay.Run(t.Context(), []requestlog.Log{requestlog.Stream("fleet.ndjson", strings.NewReader(log.String()))}, replay.Options{Rules: allocator, Examples: 2})
	if err != nil {
		t.Fatal(err)
	}
	report.Rules = "sha256:0" // the test is not about it
	return view.Report{Report: report, RulesName: "rules"}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), string(got)); diff != "" {
		t.Errorf("%s (-want +got; rewrite with -update):\n%s", name, diff)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := view.Text(&out, sample(t), nil); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", out.Bytes())
}

// Colours are the caller's: each line of the kinds is painted, and nothing else.
func TestTextIsPainted(t *testing.T) {
	t.Parallel()
	var painted []string
	err := view.Text(io.Discard, sample(t), func(kind replay.Kind, text string) string {
		painted = append(painted, string(kind))
		if joined := strings.ReplaceAll(text, " ", ""); !strings.Contains(joined, strings.ToLower(string(kind))) {
			t.Errorf("%s is painted as %s", text, kind)
		}
		return text
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"stayed", "moved", "newlyAccepted", "newlyRejected", "newlyHeld", "newlyFaulted", "stillRejected", "firstAssigned"}
	if diff := cmp.Diff(want, painted); diff != "" {
		t.Errorf("painted (-want +got):\n%s", diff)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	page := pageOf(t, sample(t))
	golden(t, "report.html", page)
	checkPage(t, page)
}

func pageOf(t testing.TB, r view.Report) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := view.Page(&out, r); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// void elements have no end tag.
var void = []string{"meta", "link", "br", "hr", "img", "input"}

// checkPage reads a page as a browser does: every element is closed in order, nothing runs, nothing is loaded from
// elsewhere, and who cannot see is told.
func checkPage(t *testing.T, page []byte) {
	t.Helper()
	var open []string
	described := 0
	tokenizer := html.NewTokenizer(bytes.NewReader(page))
	for {
		kind := tokenizer.Next()
		if kind == html.ErrorToken {
			if err := tokenizer.Err(); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		token := tokenizer.Token()
		switch kind {
		case html.StartTagToken:
			if !slices.Contains(void, token.Data) {
				open = append(open, token.Data)
			}
			attributes := map[string]string{}
			for _, a := range token.Attr {
				if _, twice := attributes[a.Key]; twice {
					t.Errorf("<%s> has %s twice", token.Data, a.Key)
				}
				attributes[a.Key] = a.Val
				if strings.HasPrefix(a.Key, "on") || slices.Contains([]string{"src", "href", "xlink:href", "action", "srcset"}, a.Key) {
					t.Errorf("<%s> has %s=%q", token.Data, a.Key, a.Val)
				}
			}
			switch token.Data {
			case "script", "iframe", "object", "embed", "link", "base", "form", "img", "foreignobject":
				t.Errorf("the page has <%s>", token.Data)
			case "svg":
				if attributes["role"] != "img" || attributes["aria-label"] == "" && attributes["aria-labelledby"] == "" {
					t.Errorf("a picture is not described: %v", token)
				}
				described++
			case "th":
				if attributes["scope"] == "" {
					t.Errorf("a heading of a table without scope: %v", token)
				}
			case "html":
				if attributes["lang"] != "en" {
					t.Error("the page has no language")
				}
			}
		case html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != token.Data {
				t.Fatalf("</%s> closes %v", token.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("not closed: %v", open)
	}
	if described < 2 {
		t.Errorf("%d pictures", described)
	}
	for _, external := range []string{"http://", "https://", "url(", "@import", "//cdn"} {
		if bytes.Contains(page, []byte(external)) {
			t.Errorf("the page holds %s", external)
		}
	}
	if !bytes.Contains(page, []byte("prefers-color-scheme: dark")) {
		t.Error("the page knows no dark")
	}
}

// hostile is what a log might hold where a name is expected.
const hostile = `</code></title><script>alert(1)</script>"' onload=alert(1) x="` + "\x1b[31m\x00\u202e"

// Whatever the names are, they are text on the page and do nothing to a terminal.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	report := sample(t)
	spoil(reflect.ValueOf(report.Report).Elem())
	report.RulesName, report.BaselineName = hostile, hostile
	page := pageOf(t, report)
	checkPage(t, page)
	if !bytes.Contains(page, []byte("&lt;script&gt;alert(1)")) {
		t.Error("the names are not on the page")
	}
	var text bytes.Buffer
	if err := view.Text(&text, report, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range text.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Fatalf("the text holds %q", r)
		}
	}
	if !strings.Contains(text.String(), "<script>") {
		t.Error("the names are not in the text")
	}
}

// spoil makes every string hostile but the words of this program.
func spoil(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.Type() == reflect.TypeFor[string]() {
			v.SetString(hostile)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type() == reflect.TypeFor[replay.State]() && v.Field(0).String() == "assigned" {
				v.FieldByName("Hub").SetString(hostile)
				continue
			}
			spoil(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			spoil(v.Index(i))
		}
	}
}

// A report on nothing, on one device and on a great many is a page, too.
func TestPageOfAnySize(t *testing.T) {
	t.Parallel()
	empty := view.Report{Report: &replay.Report{}, RulesName: "rules"}
	if page := pageOf(t, empty); !bytes.Contains(page, []byte("</html>")) {
		t.Error("no page")
	}
	var text bytes.Buffer
	if err := view.Text(&text, empty, nil); err != nil || !strings.Contains(text.String(), "Replayed 0 registrations") {
		t.Errorf("%v: %s", err, text.String())
	}
	large := sample(t)
	for i := range 300 {
		name := fmt.Sprintf("hub-%03d.azure-devices.net", i)
		large.Hubs = append(large.Hubs, replay.Hub{Name: name, Before: int64(i), After: 1 << 40})
		large.Flows = append(large.Flows, replay.Flow{Kind: replay.Moved, Count: 1 << 40,
			Before: replay.State{Result: "assigned", Hub: name}, After: replay.State{Result: "assigned", Hub: "hub-000.azure-devices.net"}})
		large.ByEnrollment = append(large.ByEnrollment, replay.Breakdown{EnrollmentKind: "enrollmentGroup", Name: fmt.Sprint("group-", i), Total: 1})
	}
	large.Counted += 300 << 40
	page := pageOf(t, large)
	checkPage(t, page)
	if len(page) > 300<<10 {
		t.Errorf("the page has %d KB", len(page)>>10)
	}
	text.Reset()
	if err := view.Text(&text, large, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"(others)", "and 282 more"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
	if lines := strings.Count(text.String(), "\n"); lines > 150 {
		t.Errorf("the text has %d lines", lines)
	}
}

// Times are told in two units at most, rounded down to the smaller.
func TestTimeNeeded(t *testing.T) {
	t.Parallel()
	report := sample(t)
	for seconds, want := range map[int64]string{
		1: "at least 1 s at", 59: "at least 59 s at", 60: "at least 1 min at", 61: "at least 1 min 1 s at", 3600: "at least 1 h at",
		3661: "at least 1 h 1 min at", 86400: "at least 1 d at", 90061: "at least 1 d 1 h at",
	} {
		report.Reprovision = replay.Reprovision{Registrations: 1234567, PerMinute: 1000, Seconds: seconds}
		var text bytes.Buffer
		if err := view.Text(&text, report, nil); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text.String(), want) || !strings.Contains(text.String(), "1,234,567 registrations") {
			t.Errorf("%d s: want %q in\n%s", seconds, want, text.String())
		}
	}
}

// What the figures do not cover comes before them, on the terminal and on the page.
func TestWhatIsNotCompared(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		report   replay.Report
		baseline string
		want     []string
	}{
		"masked, and the rest by the same rules": {replay.Report{Registrations: 682, SameRules: 682, Lacking: 2619}, "", []string{
			"Left out: 2,619 of 3,301 (79.3%): 2,619 records that lack what the rules look at.",
			"These same rules made all decisions that are compared, so the comparison says little about a change."}},
		"malformed": {replay.Report{Registrations: 1, Lacking: 1, Malformed: 2}, "", []string{
			"Left out: 3 of 4 (75.0%): 1 record that lacks what the rules look at and 2 malformed lines."}},
		"copies": {replay.Report{Registrations: 4, Duplicates: 1, SameRules: 1}, "", []string{
			"1 more record has the decision ID of an earlier one, and does not count.",
			"These same rules made 1 of the decisions that are compared (25.0%): of these, the comparison says little."}},
		"the same baseline": {replay.Report{Registrations: 4, SameRules: 4}, "old", []string{
			"Both are the same rules, so the comparison says nothing about a change."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := view.Report{Report: &test.report, RulesName: "rules", BaselineName: test.baseline}
			var text, page bytes.Buffer
			if err := errors.Join(view.Text(&text, report, nil), view.Page(&page, report)); err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(text.String(), want+"\n") || !strings.Contains(page.String(), want) {
					t.Errorf("%q is missing in:\n%s", want, text.String())
				}
			}
			if left := strings.Index(text.String(), "Left out"); left > 0 {
				t.Errorf("what is left out does not come first:\n%s", text.String())
			}
		})
	}
}

// A flow of anything is one picture, whatever its labels hold.
func TestFlow(t *testing.T) {
	t.Parallel()
	class := func(int, int) string { return "stay" }
	empty := view.Flow{Name: "f", Left: []view.Node{{Label: "a"}}, Right: []view.Node{{Label: "b"}}, Counts: [][]int64{{0}}, Class: class}
	if text, err := empty.SVG(); text != "" || err != nil {
		t.Errorf("of nothing: %q, %v", text, err)
	}
	hostile := "</svg><script>alert(1)</script>\u001b" + strings.Repeat("x", 300)
	flow := view.Flow{Name: "f", Title: "</title>", Left: []view.Node{{Label: hostile}}, Right: []view.Node{{Label: hostile, Nowhere: true}, {Label: "b"}},
		Counts: [][]int64{{1234, 1}}, Class: class}
	text, err := flow.SVG()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<svg viewBox="0 0 900 `, `id="f-title"`, `aria-labelledby="f-title f-text"`, "1,234", `class="node nowhere"`, `class="band stay"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the picture lacks %s", want)
		}
	}
	if strings.Count(text, "</svg>") != 1 || strings.Contains(text, "<script") || strings.Contains(text, "\u001b") {
		t.Errorf("a label is more than text: %s", text)
	}
}
