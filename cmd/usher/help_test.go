package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commands returns all commands except those that cobra adds.
func commands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

// Every command has a description, is in a group of the help, and has examples that it accepts: the command and the
// flags exist, and the values and arguments are valid.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, cmd := range commands(newCommand()) {
		if cmd.Short == "" || cmd.Long == "" {
			t.Errorf("%s has no description", cmd.CommandPath())
		}
		if cmd.HasParent() && !cmd.Parent().HasParent() && cmd.GroupID == "" { // only the commands of usher itself are grouped
			t.Errorf("%s is in no group of the help", cmd.CommandPath())
		}
		own := 0
		for line := range strings.Lines(cmd.Example) {
			for _, args := range calls(line) {
				root := newCommand()
				called, rest, err := root.Find(args)
				if err == nil {
					err = called.ParseFlags(rest)
				}
				if err == nil {
					err = called.ValidateArgs(called.Flags().Args())
				}
				if err != nil {
					t.Errorf("%s: the example %q fails: %v", cmd.CommandPath(), strings.TrimSpace(line), err)
				} else if called.Name() == cmd.Name() || !cmd.HasParent() {
					own++
				}
				tried++
			}
		}
		if own == 0 {
			t.Errorf("%s has no example of itself", cmd.CommandPath())
		}
	}
	if tried < 20 {
		t.Errorf("%d examples tried", tried)
	}
}

var (
	remark = regexp.MustCompile(`\S(   .*)$`)
	word   = regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)
)

// calls returns the arguments of each usher in a line of shell. Three spaces begin a remark.
func calls(line string) [][]string {
	line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
	if match := remark.FindStringSubmatchIndex(line); match != nil {
		line = line[:match[2]]
	}
	var all [][]string
	for _, part := range regexp.MustCompile(`&&|\||>`).Split(line, -1) {
		words := word.FindAllString(part, -1)
		if len(words) == 0 || words[0] != "usher" || strings.HasPrefix(line, "usher v") && len(words) == 2 && words[1] != "version" && words[1] != "verify" {
			continue // another command, or the output of usher version
		}
		for i := range words {
			words[i] = strings.Trim(words[i], `'"`)
		}
		all = append(all, words[1:])
	}
	return all
}

func TestCalls(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][][]string{
		"  make build && usher host --port 0":          {{"host", "--port", "0"}},
		"  tail -1 x | usher explain - -o json":        {{"explain", "-", "-o", "json"}},
		"  usher new a --group 'b c*'   a remark | no": {{"new", "a", "--group", "b c*"}},
		"  usher check -o sarif >x.sarif":              {{"check", "-o", "sarif"}},
		"  $ usher version":                            {{"version"}},
		"  usher v1.4.0":                               nil,
		"  opa v1.22.2":                                nil,
	} {
		got := calls(line)
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("calls of %q: %q, want %q", line, got, want)
		}
	}
}

// The help lists every exit code once.
func TestExitCodesAreListed(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []int
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "exit") {
			return true
		}
		if value, ok := spec.Values[0].(*ast.BasicLit); ok {
			code, err := strconv.Atoi(value.Value)
			if err != nil {
				t.Fatal(err)
			}
			declared = append(declared, code)
		}
		return true
	})
	var listed []int
	for code, meaning := range exitMeanings() {
		if meaning != "" {
			listed = append(listed, code)
		}
	}
	if len(declared) < 9 || !slices.Equal(declared, listed) {
		t.Errorf("main.go declares %v, the help lists %v", declared, listed)
	}
}
