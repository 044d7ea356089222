package main

import (
	"context"
	"strings"
	"testing"
)

func TestExitCodesOfCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	usher(t, exitOK, "new", "first", "--group", "a", "--dir", dir)
	usher(t, exitOK, "check", dir)
	usher(t, exitOK, "check", "--rules", dir, "--fail-on", "warning", "-o", "json")
	usher(t, exitOK, "check", "--list")
	usher(t, exitRules, "check", dir+"/nowhere")
	usher(t, exitRules, "check", "testdata") // where there are no rules
	usher(t, exitRules, "check", "testdata", "-o", "sarif")
	usher(t, exitLint, "check", "../../rules", "--hubs", "contoso-eu-hub")
	usher(t, exitFailure, "check", dir, "--enrollments", dir+"/nowhere.json")
	usher(t, exitUsage, "check", dir, dir)
	usher(t, exitUsage, "check", "--explain", "nothing")
	usher(t, exitUsage, "check", dir, "-o", "tap")
}

// Whoever has enough gets what was found so far, and no good exit code.
func TestCheckIsCutShort(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	flags := checkFlags{rules: rulesFlags{path: "../../rules"}, format: "text", failOn: "error"}
	err := flags.runCheck(ctx, &stdout, &stderr)
	if err == nil || !strings.Contains(err.Error(), "stopped: 0 of 6 rules checked") {
		t.Errorf("error %v", err)
	}
	if !strings.HasPrefix(stdout.String(), "0 rules checked: 0 errors, 0 warnings\n") {
		t.Errorf("it prints %q", stdout.String())
	}
}
