package decider_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/explanation"
)

var update = flag.Bool("update", false, "rewrite what the cases are explained by; look at what changes")

// Each case of testdata/explain is a rule, a payload, and how the entry rules are explained for it. In the rule, P
// stands for the payload. They are the constructs of Rego that are easily explained wrongly.
func TestExplainCases(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/explain/*.txtar")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, file := range archive.Files {
				parts[file.Name] = string(file.Data)
			}
			const payload = "input.deviceRuntimeContext.payload"
			allocator, err := decider.New(decider.Options{Rules: load(t, map[string]string{
				"a.rego":           "package allocation.default\n" + strings.ReplaceAll(parts["rule.rego"], "P.", payload+"."),
				"tables/data.json": `{"eu": {"hub": "h"}}`,
			})})
			if err != nil {
				t.Fatal(err)
			}
			request, err := dps.ParseAllocationRequest(fmt.Appendf(nil, `{"enrollmentGroup": {"enrollmentGroupId": "g"},
				"deviceRuntimeContext": {"registrationId": "d", "payload": %s},
				"linkedHubs": ["h.azure-devices.net"]}`, parts["payload.json"]))
			if err != nil {
				t.Fatal(err)
			}
			e := sameDecision(t, allocator, request)
			if e.CutShort != "" {
				t.Error(e.CutShort)
			}
			got := strings.ReplaceAll(strings.ReplaceAll(outline(e), payload, "P"), "/deviceRuntimeContext/payload", "P")
			if *update {
				parts["want.txt"] = got
				archive.Files = archive.Files[:2]
				archive.Files = append(archive.Files, txtar.File{Name: "want.txt", Data: []byte(got)})
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(parts["want.txt"], got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// outline writes an explanation in short: definitions by line, then what failed and what it was about. The first line
// of the case is line 1.
func outline(e decider.Explanation) string {
	var text strings.Builder
	row := func(place string) int {
		var n int
		_, _ = fmt.Sscan(place[strings.LastIndexByte(place, ':')+1:], &n) // 0 is in no case
		return n - 1
	}
	var definitions func(indent string, list []explanation.Definition)
	terms := func(indent string, list []explanation.Term) {
		for _, term := range list {
			text.WriteString(indent + term.Text)
			if len(term.Values) > 0 {
				text.WriteString(" = " + brief(term.Values...))
			}
			if term.Why != "" {
				text.WriteString(": " + term.Why)
			}
			if term.Repeated {
				text.WriteString(" (again)")
			}
			text.WriteString("\n")
			definitions(indent+"  ", term.Definitions)
		}
	}
	definitions = func(indent string, list []explanation.Definition) {
		for _, d := range list {
			fmt.Fprintf(&text, "%s%d %s", indent, row(d.Place), d.State)
			if d.Value != nil {
				text.WriteString(" " + brief(d.Value))
			}
			if d.Error != "" {
				text.WriteString(": " + d.Error)
			}
			text.WriteString("\n")
			if f := d.Failed; f != nil {
				fmt.Fprintf(&text, "%s  fails %d: %s", indent, row(f.Place), f.Text)
				if f.Tries > 1 {
					fmt.Fprintf(&text, " x%d", f.Tries)
				}
				if f.Why != "" {
					text.WriteString(": " + f.Why)
				}
				text.WriteString("\n")
				terms(indent+"    ", f.Terms)
			}
			terms(indent+"  ", d.Uses)
		}
	}
	for _, entry := range e.Entries {
		fmt.Fprintf(&text, "%s = %s", entry.Name, brief(entry.Value))
		if entry.Error != "" {
			text.WriteString(": it fails")
		}
		text.WriteString("\n")
		definitions("  ", entry.Definitions)
	}
	return text.String()
}

func brief(values ...any) string {
	var texts []string
	for _, value := range values {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(value); err != nil {
			return err.Error()
		}
		texts = append(texts, strings.TrimSpace(text.String()))
	}
	return strings.Join(texts, ", ")
}
