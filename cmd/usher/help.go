package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// exitCode is a line of the list of exit codes.
type exitCode struct {
	code    int
	meaning string
}

// exitCodes is what `usher help` says of them.
func exitCodes() []exitCode {
	return []exitCode{
		{exitOK, "all is well"},
		{exitFailure, "something failed, such as a file that cannot be read; or fmt --check or editor --check found something"},
		{exitUsage, "the command line is wrong"},
		{exitRules, "the rules do not load"},
		{exitTests, "test: a test failed, or the tests cover too little"},
		{exitInvariant, "verify: a promise is broken"},
		{exitChanges, "replay: a change that --fail-on names was found"},
		{exitLint, "check: a lint found something"},
		{exitBench, "bench: slower than the threshold allows"},
		{exitDoctor, "doctor: devices fail, or will"},
	}
}

// arrange puts the commands into the groups in which `usher help` shows them, and the
// exit codes below.
func arrange(root *cobra.Command) {
	groups := []struct {
		id, title string
		commands  []string
	}{
		{"write", "Write rules:", []string{"new", "check", "fmt", "editor"}},
		{"prove", "Prove them:", []string{"test", "explain", "verify", "replay", "bench"}},
		{"ship", "Ship them:", []string{"bundle", "package", "enroll", "doctor"}},
		{"run", "Run them:", []string{"host", "dps", "log"}},
		{"about", "About usher:", []string{"version"}},
	}
	for _, group := range groups {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, cmd := range root.Commands() {
			for _, name := range group.commands {
				if cmd.Name() == name {
					cmd.GroupID = group.id
				}
			}
		}
	}
	root.SetHelpCommandGroupID("about")
	root.SetCompletionCommandGroupID("about")
	var codes strings.Builder
	for _, c := range exitCodes() {
		fmt.Fprintf(&codes, "  %d  %s\n", c.code, c.meaning)
	}
	// Subcommands take the template of the root.
	root.SetUsageTemplate(root.UsageTemplate() + "{{if not .HasParent}}\nExit codes:\n" + codes.String() + "{{end}}")
}
