package main

import (
	"bytes"
	"strings"
	"testing"
)

// Wherever hubs are named on the command line, the flag has the same name and takes the same names.
func TestHubsOnTheCommandLine(t *testing.T) {
	t.Parallel()
	found := 0
	for _, cmd := range newCommand().Commands() {
		flag := cmd.Flags().Lookup("hubs")
		if flag == nil {
			continue
		}
		found++
		for text, valid := range map[string]bool{
			"contoso-eu": true, "contoso-eu.azure-devices.net": true, "contoso-eu, contoso-us.azure-devices.cn": true,
			"not a hub": false, "contoso-eu.example.org": false, "contoso-eu,": false, "": false,
		} {
			if err := flag.Value.Set(text); (err == nil) != valid {
				t.Errorf("usher %s --hubs %q: %v", cmd.Name(), text, err)
			}
		}
		if cmd.Flags().Lookup("hub") != flag {
			t.Errorf("usher %s has no --hub, the other spelling of --hubs", cmd.Name())
		}
	}
	if found < 5 {
		t.Errorf("%d commands take hubs", found)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"check", "--hub", "not a hub"}, nil, &stdout, &stderr); code != exitUsage ||
		!strings.HasPrefix(stderr.String(), `usher: --hubs is "not a hub": name a hub by its host name`) {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}

// Commands about a folder of rules take it as their argument or as --rules, and refuse both.
func TestRulesAsArgument(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"check", "test", "verify", "bench", "bundle", "fmt"} {
		for _, args := range [][]string{{"nowhere"}, {"--rules", "nowhere"}} {
			stderr := runFailing(t, append([]string{name}, args...)...)
			if !strings.Contains(stderr, "nowhere") || strings.Contains(stderr, "See 'usher") {
				t.Errorf("usher %s %v: %s", name, args, stderr)
			}
		}
		if stderr := runFailing(t, name, "nowhere", "--rules", "elsewhere"); !strings.Contains(stderr, "the rules are given twice: nowhere and --rules elsewhere") {
			t.Errorf("usher %s: %s", name, stderr)
		}
		command, _, err := newCommand().Find([]string{name})
		if err != nil || command.Flags().Lookup("rules").DefValue != "rules" || !strings.Contains(command.Use, "[path") {
			t.Errorf("%s: the usage is %q", name, command.Use)
		}
	}
}

// runFailing returns what a command that must fail prints about it.
func runFailing(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, nil, &stdout, &stderr); code == exitOK {
		t.Errorf("usher %v did not fail", args)
	}
	return stderr.String()
}
