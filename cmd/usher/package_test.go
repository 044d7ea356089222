package main

import (
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usher-dps/usher/internal/standin/functionshost"
)

// functionApp is a copy of the repository as it is after make build, and after a developer worked in it.
func functionApp(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"allocate", "rules", "examples"} {
		if err := os.CopyFS(filepath.Join(root, folder), os.DirFS(filepath.Join(repo, folder))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"host.json", ".funcignore", "go.mod", "README.md"} {
		text, err := os.ReadFile(filepath.Join(repo, name))
		if err != nil {
			t.Fatal(err)
		}
		put(t, root, name, string(text))
	}
	put(t, root, "local.settings.json", `{"Values":{"USHER_FUNCTION_KEYS":"canary-of-a-secret-key"}}`)
	put(t, root, "bin/usher", "canary-of-the-tool")
	put(t, root, "rules/.draft.rego.swp", "canary-of-an-editor")
	put(t, root, "rules/new/new_invariants.rego", "# canary-of-a-promise\npackage invariants.new\n")
	for _, extension := range []string{"csv", "ndjson", "jsonl", "yaml", "yml"} {
		put(t, root, "rules/new/rows_fixture."+extension, "canary-of-a-fixture")
	}
	put(t, root, "rules/new/new.request.json", `{"canary-of-a-request":1}`)
	return root
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	file := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// buildHandler is what `make build` does.
func buildHandler(t *testing.T, root string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "build", "-tags=grpcnotrace", "-trimpath", "-ldflags=-s -w -buildid=",
		"-o", filepath.Join(root, "bin", "handler"), "../../function-app")
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
}

func TestPackage(t *testing.T) {
	t.Parallel()
	root := functionApp(t)
	buildHandler(t, root)
	first, second := filepath.Join(t.TempDir(), "usher.zip"), filepath.Join(t.TempDir(), "usher.zip")
	stdout, _ := usher(t, exitOK, "package", "--root", root, "-o", first)
	if !regexp.MustCompile(`^.*usher\.zip: [0-9]+ files, [0-9]+ bytes\nsha256:[0-9a-f]{64}\nrules sha256:[0-9a-f]{64}\n$`).MatchString(stdout) {
		t.Errorf("it says %q", stdout)
	}
	// The same again from elsewhere, with other times and modes.
	other := functionApp(t)
	buildHandler(t, other)
	if err := os.Chmod(filepath.Join(other, "bin", "handler"), 0o644); err != nil {
		t.Fatal(err)
	}
	usher(t, exitOK, "package", "--root", other, "-o", second)
	// The same from a release of the handler, and from rules that have a repository of their own.
	third := filepath.Join(t.TempDir(), "usher.zip")
	released, rules := filepath.Join(t.TempDir(), "handler"), filepath.Join(t.TempDir(), "fleet")
	if err := errors.Join(os.Rename(filepath.Join(other, "bin", "handler"), released), os.Rename(filepath.Join(other, "rules"), rules)); err != nil {
		t.Fatal(err)
	}
	usher(t, exitOK, "package", "--root", other, "--handler", released, "--rules", rules, "-o", third)
	packed, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := os.ReadFile(third)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(packed, again) || !bytes.Equal(packed, elsewhere) {
		t.Error("the same content gave other bytes")
	}
	if err := functionshost.CheckPackage(first); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(first), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}

	archive, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range archive.File {
		names = append(names, f.Name)
		var content bytes.Buffer
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := content.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		if f.Name != "bin/handler" && strings.Contains(content.String(), "canary") {
			t.Errorf("%s holds what stays at home", f.Name)
		}
	}
	if diff := cmp.Diff(published(t, root), names); diff != "" {
		t.Errorf("`func azure functionapp publish` would send other files (-publish +package):\n%s", diff)
	}
}

// published is what the Functions tools send of a folder: all that .funcignore does not name. Git reads such a file in
// the same way.
func published(t *testing.T, root string) []string {
	t.Helper()
	git := func(args ...string) string {
		command := exec.CommandContext(t.Context(), "git", append([]string{"-C", root}, args...)...)
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, output)
		}
		return string(output)
	}
	git("init", "--quiet")
	names := strings.Fields(git("ls-files", "--others", "--exclude-from=.funcignore"))
	slices.Sort(names)
	return names
}

func TestPackageThatWouldNotRun(t *testing.T) {
	t.Parallel()
	root := functionApp(t)
	output := filepath.Join(t.TempDir(), "usher.zip")
	refused := func(code int, words string, args ...string) {
		t.Helper()
		_, stderr := usher(t, code, append([]string{"package", "--root", root, "-o", output}, args...)...)
		if !strings.Contains(stderr, words) {
			t.Errorf("it says %q, want %q", stderr, words)
		}
		if _, err := os.Stat(output); err == nil {
			t.Error("it wrote a package all the same")
		}
	}
	refused(exitFailure, filepath.Join("bin", "handler"))
	put(t, root, "bin/handler", "#!/bin/sh\n")
	refused(exitFailure, "CGO_ENABLED=0 GOOS=linux GOARCH=amd64")
	refused(exitFailure, "no-such-handler", "--handler", filepath.Join(root, "no-such-handler"))
	refused(exitUsage, "the folder of the rules is that of host.json", "--rules", root)
	put(t, root, "rules/broken/broken.rego", "package allocation.broken\nhub :=")
	refused(exitRules, "broken.rego:2")
}

// Rules may be one file, too.
func TestPackageOfBundle(t *testing.T) {
	t.Parallel()
	root := functionApp(t)
	buildHandler(t, root)
	usher(t, exitOK, "bundle", "--rules", filepath.Join(root, "rules"), "-o", filepath.Join(root, "rules.tar.gz"))
	output := filepath.Join(t.TempDir(), "usher.zip")
	usher(t, exitOK, "package", "--root", root, "--rules", filepath.Join(root, "rules.tar.gz"), "-o", output)
	archive, err := zip.OpenReader(output)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	var names []string
	for _, f := range archive.File {
		names = append(names, f.Name)
	}
	if want := []string{"allocate/function.json", "bin/handler", "host.json", "rules.tar.gz"}; !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
}
