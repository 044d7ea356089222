package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocs runs the pages of docs/cli that are listed here. Each "## " heading starts in a new folder with the rules
// and the examples of the repository:
//
//	sh              is run by a shell, with this usher
//	sh exit=4       must exit with 4
//	text, json      after it is what it must print; a line ... stands for any lines
//	text shape      is compared without numbers and the width of columns
func TestDocs(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no shell")
	}
	env := plainUsher(t)
	for _, page := range []string{"../editor", "../lookups", "bench", "bundle", "check", "dps", "explain", "fmt", "log", "new", "replay", "test", "verify"} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join("..", "..", "docs", "cli", page+".md")
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			ran := 0
			for _, section := range strings.Split(string(text), "\n## ") {
				ran += runSection(t, section, env)
			}
			if ran < 3 {
				t.Errorf("%s shows %d commands with their output", name, ran)
			}
		})
	}
}

// TestFromZero follows the walk-through as a newcomer would: it starts in an empty folder, and each block continues
// from the one before.
func TestFromZero(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no shell")
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "from-zero.md"))
	if err != nil {
		t.Fatal(err)
	}
	if ran := (shell{folder: t.TempDir(), env: plainUsher(t)}).run(t, string(text)); ran < 10 {
		t.Errorf("it shows %d commands with their output", ran)
	}
}

// TestOwnRepository follows the page as someone would who lays out a repository and has the handler of a release.
func TestOwnRepository(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no shell")
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "own-repository.md"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	buildHandler(t, folder)
	if err := os.Rename(filepath.Join(folder, "bin", "handler"), filepath.Join(folder, "handler")); err != nil {
		t.Fatal(err)
	}
	if ran := (shell{folder: folder, env: plainUsher(t)}).run(t, string(text)); ran < 7 {
		t.Errorf("it shows %d commands with their output", ran)
	}
}

var fence = regexp.MustCompile("(?ms)^```(\\w*) ?([^\\n]*)\\n(.*?)^```$")

// runSection returns how many outputs it compared.
func runSection(t *testing.T, section string, env []string) int {
	folder := t.TempDir()
	for _, name := range []string{"rules", "examples"} {
		if err := os.CopyFS(filepath.Join(folder, name), os.DirFS(filepath.Join("..", "..", name))); err != nil {
			t.Fatal(err)
		}
	}
	return shell{folder: folder, env: env}.run(t, section)
}

// plainUsher puts a normal build of usher at the front of the PATH, because the test binary is several times slower
// with the race detector.
func plainUsher(t *testing.T) []string {
	t.Helper()
	folder := t.TempDir()
	command := exec.CommandContext(t.Context(), "go", "build", "-o", folder, ".") // a folder, because go adds .exe on Windows
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return []string{"PATH=" + folder + string(os.PathListSeparator) + os.Getenv("PATH")}
}

// shell is where the blocks of a document run.
type shell struct {
	folder string
	env    []string
	// rewrite replaces what was printed by names that a document can show.
	rewrite *strings.Replacer
}

// run runs the blocks one after the other and returns how many outputs it compared.
func (s shell) run(t *testing.T, document string) int {
	t.Helper()
	compared, script, printed := 0, "", ""
	for _, block := range fence.FindAllStringSubmatch(document, -1) {
		kind, note, text := block[1], block[2], block[3]
		switch {
		case kind == "sh":
			script = text
			command := exec.CommandContext(t.Context(), "sh", "-c", "set -e\n"+script)
			command.Dir = s.folder
			command.Env = append(append(os.Environ(), "NO_COLOR=1"), s.env...)
			output, err := command.CombinedOutput()
			printed = string(output)
			if s.rewrite != nil {
				printed = s.rewrite.Replace(printed)
			}
			code := exitOK
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			want := exitOK
			if note != "" {
				want = int(note[len(note)-1] - '0')
				if note != "exit="+note[len(note)-1:] {
					t.Fatalf("a sh block cannot be %q", note)
				}
			}
			if code != want {
				t.Errorf("%s exits with %d, want %d:\n%s", script, code, want, printed)
			}
		case script != "" && (kind == "text" || kind == "json"):
			compared++
			want, got := text, printed
			if note == "shape" {
				want, got = shapeOf(want), shapeOf(got)
			}
			if !shows(want, got) {
				t.Errorf("%s prints something else (-document +usher):\n%s", script, cmp.Diff(want, got))
			}
			script = ""
		}
	}
	return compared
}

var (
	number = regexp.MustCompile(`[+-]?\d+(\.\d+)?`)
	spaces = regexp.MustCompile(` +`)
)

func shapeOf(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(spaces.ReplaceAllString(number.ReplaceAllString(line, "0"), " ")))
	}
	return strings.Join(lines, "\n") + "\n"
}

// shows reports whether a document shows a text; a line ... stands for any lines.
func shows(document, text string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for line := range strings.Lines(document) {
		if line == "...\n" {
			pattern.WriteString(`(.*\n)*?`)
		} else {
			pattern.WriteString(regexp.QuoteMeta(line))
		}
	}
	return regexp.MustCompile(pattern.String() + `\z`).MatchString(text)
}
