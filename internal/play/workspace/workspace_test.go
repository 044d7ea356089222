package workspace_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/ruleset"
	"github.com/usher-dps/usher/internal/play/workspace"
)

const rule = "package allocation.default\n\nhub := input.linkedHubs[0]\n"

func open(t testing.TB, files map[string]string) (*workspace.Workspace, string) {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		name = filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w, err := workspace.Open(workspace.Options{Folder: folder, Rules: decider.RulesOptions{Name: "is ignored"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, folder
}

func text(text string) *string { return &text }

// The same files are loaded once, whether they are saved or edited.
func TestLoadIsMemoised(t *testing.T) {
	t.Parallel()
	w, folder := open(t, map[string]string{"default/default.rego": rule})
	load := func(edits workspace.Edits) *workspace.Loaded {
		t.Helper()
		loaded, err := w.Load(edits)
		if err != nil {
			t.Fatal(err)
		}
		return loaded
	}
	edited := workspace.Edits{"default/default.rego": text(rule + "# edited\n")}
	saved, first := load(nil), load(edited)
	if saved == first || load(nil) != saved || load(edited) != first || load(workspace.Edits{"default/default.rego": text(rule)}) != saved {
		t.Error("it is loaded again")
	}
	// Another program writes what is edited, and then something of the same size at the same time.
	name := filepath.Join(folder, "default/default.rego")
	now := time.Now()
	for _, comment := range []string{"# edited\n", "# edit-2\n"} {
		if err := errors.Join(os.WriteFile(name, []byte(rule+comment), 0o644), os.Chtimes(name, now, now)); err != nil {
			t.Fatal(err)
		}
		if loaded := load(nil); (loaded == first) != (comment == "# edited\n") {
			t.Errorf("with %q another program's change is missed", comment)
		}
	}
	for i := range 20 {
		load(workspace.Edits{"default/default.rego": text(rule + "#" + strings.Repeat("x", i) + "\n")})
	}
	if load(edited) == first {
		t.Error("everything is kept")
	}
}

// Places are those of the tree, and an error is not kept longer than the files that it is about.
func TestLoadErrors(t *testing.T) {
	t.Parallel()
	w, _ := open(t, map[string]string{"default/default.rego": rule})
	for range 2 {
		_, err := w.LoadAll(workspace.Edits{"default/default.rego": text(rule + "\npayload := nothing\n")})
		broken, ok := errors.AsType[*ruleset.LoadError](err)
		if !ok || broken.Problems[0].Place != "default/default.rego:5" {
			t.Errorf("%v", err)
		}
		if _, err := w.LoadAll(nil); err != nil {
			t.Error(err)
		}
	}
	for _, edits := range []workspace.Edits{{"../a.rego": text("")}, {"default/default.rego/a.rego": text("")}, {"a.rego": text(""), "a.rego/b.rego": text("")}} {
		_, err := w.Load(edits)
		if _, ok := errors.AsType[*workspace.PathError](err); !ok {
			t.Errorf("%v: %v", edits, err)
		}
	}
}

// Of two that save at once over the same text, one wins and the other one hears of it.
func TestSaveAtOnce(t *testing.T) {
	t.Parallel()
	w, folder := open(t, map[string]string{"default/default.rego": rule})
	_, digest, err := w.Read("default/default.rego")
	if err != nil {
		t.Fatal(err)
	}
	for name, began := range map[string]string{"default/default.rego": digest, "new/new.rego": ""} {
		var group sync.WaitGroup
		results := make([]error, 8)
		for i := range results {
			group.Go(func() { _, results[i] = w.Save(name, text(strings.Repeat("#", i+1)), began) })
		}
		group.Wait()
		won := -1
		for i, err := range results {
			changed, ok := errors.AsType[*workspace.ChangedError](err)
			switch {
			case err == nil && won < 0:
				won = i
			case err == nil:
				t.Errorf("%s: %d and %d won", name, won, i)
			case !ok || changed.Path != name || changed.Digest == "":
				t.Errorf("%s: %v", name, err)
			}
		}
		if got, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(got) != strings.Repeat("#", won+1) {
			t.Errorf("%s: %q (%v), and %d won", name, got, err, won)
		}
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	w, _ := open(t, map[string]string{"default/default.rego": rule})
	for _, test := range []struct {
		edits workspace.Edits
		want  bool
	}{
		{nil, false}, {workspace.Edits{"default/default.rego": text(rule)}, false}, {workspace.Edits{"default/default.rego": text("")}, true},
		{workspace.Edits{"default/default.rego": nil}, true}, {workspace.Edits{"a.rego": nil}, false}, {workspace.Edits{"a.rego": text("")}, true},
	} {
		if got, err := w.Changed(test.edits); err != nil || got != test.want {
			t.Errorf("%v: %t, %v", test.edits, got, err)
		}
	}
}

// No path that is allowed leads out of the folder or to what is hidden.
func FuzzCheckPath(f *testing.F) {
	for _, name := range []string{"line/line.rego", "../a.rego", "/etc/passwd", "a/../../b.json", `..\a.rego`, "a//b.rego", ".a/b.rego", "c:a.json", "a.rego\x00", "./a.rego"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := workspace.CheckPath(name)
		if err != nil {
			if _, ok := errors.AsType[*workspace.PathError](err); !ok {
				t.Errorf("%v", err)
			}
			return
		}
		local, err := filepath.Localize(name)
		if err != nil || !filepath.IsLocal(local) || !fs.ValidPath(name) || filepath.ToSlash(filepath.Clean(local)) != name {
			t.Errorf("%q is allowed (%v)", name, err)
		}
		for part := range strings.SplitSeq(name, "/") {
			if strings.HasPrefix(part, ".") || strings.ContainsAny(part, "\\:\x00\n") {
				t.Errorf("%q is allowed", name)
			}
		}
	})
}
