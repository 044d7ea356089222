package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/usher-dps/usher/internal/author/lint"
)

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rowsUnder returns the rows of the table below a heading.
func rowsUnder(t *testing.T, document, heading string) []string {
	t.Helper()
	_, below, ok := strings.Cut(document, heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	var rows []string
	for line := range strings.Lines(below) {
		if strings.HasPrefix(line, "|") {
			rows = append(rows, strings.TrimSpace(line))
		} else if len(rows) > 0 {
			return rows[2:] // without the heading of the table
		}
	}
	return rows[2:]
}

// The page of usher check lists all lints.
func TestPageOfCheck(t *testing.T) {
	t.Parallel()
	var want []string
	for _, l := range lint.Lints() {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", l.ID, l.Level, l.Title))
	}
	if diff := cmp.Diff(want, rowsUnder(t, page(t, "check.md"), "## Lints")); diff != "" {
		t.Errorf("lints (-code +page):\n%s", diff)
	}
	text := page(t, "check.md")
	for _, format := range checkFormats {
		if !strings.Contains(text, "| `"+format+"` |") {
			t.Errorf("the output %s is not in the page", format)
		}
	}
}

// The page of the tool lists every command with its page, and the exit codes.
func TestPageOfTheTool(t *testing.T) {
	t.Parallel()
	text := page(t, "README.md")
	rows := strings.Join(rowsUnder(t, text, "# The tool"), "\n")
	for _, cmd := range newCommand().Commands() {
		switch name := cmd.Name(); name {
		case "help", "completion", "version":
		default:
			if !strings.Contains(rows, "| ["+name+"](") {
				t.Errorf("%s is not in the page", name)
			}
		}
	}
	var want []string
	for code, meaning := range exitMeanings() {
		want = append(want, fmt.Sprintf("| %d | %s |", code, meaning))
	}
	if diff := cmp.Diff(want, rowsUnder(t, text, "## Exit codes")); diff != "" {
		t.Errorf("exit codes (-code +page):\n%s", diff)
	}
}

// The pages of usher host and usher dps list every option with its default.
func TestPagesOfOptions(t *testing.T) {
	t.Parallel()
	for name, cmd := range map[string]*cobra.Command{"host.md": newHostCommand(), "dps.md": newDPSCommand()} {
		options := map[string]string{}
		for _, row := range rowsUnder(t, page(t, name), "## Options") {
			cells := strings.Split(row, "|")
			options[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `")
		}
		listed := func(f *pflag.Flag) {
			want := map[string]string{"true": "on", "false": "off", "[]": ""}[f.DefValue]
			if _, word := map[string]bool{"true": true, "false": true, "[]": true}[f.DefValue]; !word {
				want = f.DefValue
			}
			if _, text, ok := strings.Cut(f.Usage, "(default: "); ok {
				want = strings.TrimSuffix(text, ")") // which depends
			}
			if got, listed := options["--"+f.Name]; !listed || got != want {
				t.Errorf("%s: --%s has the default %q, the page says %q", name, f.Name, want, got)
			}
			delete(options, "--"+f.Name)
		}
		cmd.LocalFlags().VisitAll(listed)
		for option := range options {
			t.Errorf("%s has %s, the command has not", name, option)
		}
	}
}

// The page of usher host shows the rules as the command prints them. This test is not parallel, because it changes the
// current folder.
func TestPageOfHostShowsTheRules(t *testing.T) {
	text := page(t, "host.md")
	t.Chdir(filepath.Join("..", ".."))
	var printed strings.Builder
	if err := describeRules(t.Context(), &printed, ".", "", "http://localhost:7071"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "```text\n"+strings.TrimSpace(printed.String())+"\n```") {
		t.Errorf("the page does not show this:\n%s", printed.String())
	}
}
