package main

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/author/lint"
)

func TestExitCodesOfCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	usher(t, exitOK, "new", "first", "--group", "a", "--dir", dir)
	usher(t, exitOK, "check", dir)
	usher(t, exitOK, "check", "--rules", dir, "--fail-on", "warning", "-o", "json")
	usher(t, exitOK, "check", "--list")
	usher(t, exitRules, "check", dir+"/nowhere")
	usher(t, exitRules, "check", "testdata") // contains no rules
	usher(t, exitRules, "check", "testdata", "-o", "sarif")
	usher(t, exitLint, "check", "../../rules", "--hubs", "contoso-eu-hub")
	usher(t, exitFailure, "check", dir, "--enrollments", dir+"/nowhere.json")
	usher(t, exitUsage, "check", dir, dir)
	usher(t, exitUsage, "check", "--explain", "nothing")
	usher(t, exitUsage, "check", dir, "-o", "tap")
}

// After Ctrl-C, check prints what it has found so far and fails.
func TestCheckIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	flags := checkFlags{rules: rulesFlags{path: "../../rules"}, format: "text", failOn: "error"}
	err := flags.runCheck(ctx, &stdout, &stderr)
	if err == nil || !strings.Contains(err.Error(), "stopped: 0 of 9 rules checked") {
		t.Errorf("error %v", err)
	}
	if !strings.HasPrefix(stdout.String(), "0 rules checked: 0 errors, 0 warnings\n") {
		t.Errorf("it prints %q", stdout.String())
	}
}

// In JUnit a lint fails if its level is that of --fail-on, and is skipped if it is silenced.
func TestLintSuites(t *testing.T) {
	t.Parallel()
	found := lint.Report{
		Rules: []string{"allocation.a", "allocation.b"},
		Findings: []lint.Finding{
			{Lint: "payload-decides", Level: lint.Error, Rule: "allocation.a", File: "rules/a.rego", Line: 7, Message: "it says so", Fix: "look"},
			{Lint: "payload-decides", Level: lint.Error, Rule: "allocation.a", File: "rules/a.rego", Line: 8, Message: "again", Fix: "look"},
			{Lint: "no-title", Level: lint.Warning, Rule: "allocation.b", File: "rules/b.rego", Line: 1, Message: "no title", Fix: "write one"},
		},
		Silenced: []lint.Silenced{{Finding: lint.Finding{Lint: "no-tests", Level: lint.Warning, Rule: "allocation.b"}, Reason: "tried in the lab"}},
		Skipped:  []string{"unlinked-hub"},
	}
	for failOn, want := range map[lint.Level]map[string]string{
		lint.Error: {"allocation.a payload-decides": "rules/a.rego:7: it says so (look)\nrules/a.rego:8: again (look)"},
		lint.Warning: {"allocation.a payload-decides": "rules/a.rego:7: it says so (look)\nrules/a.rego:8: again (look)",
			"allocation.b no-title": "rules/b.rego:1: no title (write one)"},
	} {
		failed, skipped, cases := map[string]string{}, map[string]string{}, 0
		flags := checkFlags{rules: rulesFlags{path: "../../rules"}, failOn: string(failOn)}
		for _, suite := range flags.lintSuites(found) {
			for _, c := range suite.Cases {
				cases++
				switch {
				case c.Failure != nil:
					failed[suite.Name+" "+c.Name] = c.Failure.Text
				case c.Skipped != nil:
					skipped[suite.Name+" "+c.Name] = c.Skipped.Message
				}
			}
		}
		if cases != 2*(len(lint.Lints())-1) { // one is about no rule
			t.Errorf("%d cases", cases)
		}
		if diff := cmp.Diff(want, failed); diff != "" {
			t.Errorf("--fail-on %s: failed (-want +got):\n%s", failOn, diff)
		}
		wantSkipped := map[string]string{"allocation.b no-tests": "tried in the lab",
			"allocation.a unlinked-hub": "not checked: give --hubs and --enrollments", "allocation.b unlinked-hub": "not checked: give --hubs and --enrollments"}
		if diff := cmp.Diff(wantSkipped, skipped); diff != "" {
			t.Errorf("skipped (-want +got):\n%s", diff)
		}
	}
	flags := checkFlags{failOn: string(lint.Error)}
	unloadable := flags.lintSuites(lint.Report{Findings: []lint.Finding{{Lint: lint.NotLoaded, Level: lint.Error, File: "a.rego", Line: 3, Message: "x is unsafe"}}})
	if len(unloadable) != 1 || len(unloadable[0].Cases) != 1 || unloadable[0].Cases[0].Failure == nil {
		t.Errorf("rules that do not load: %+v", unloadable)
	}
}
