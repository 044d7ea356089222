package reproducer_test

import (
	"io/fs"
	"maps"
	"strings"
	"testing"

	"github.com/usher-dps/usher/internal/play/reproducer"
	"github.com/usher-dps/usher/internal/play/workspace"
)

// Whatever is opened, its paths are those of files in a workspace, and what is written again is the same.
func FuzzParse(f *testing.F) {
	f.Add("a comment\n-- rules/a/a.rego --\npackage a\n-- request.json --\n{}\n-- rows.json --\n[]\n-- answer.json --\n{}\n")
	f.Add("-- rules/../a.rego --\n\n-- rules/a.rego --\n-- rules/a.rego --\nx\n-- rules/.a.json --\n")
	f.Add("-- rules/a.rego --\r\n-- x -- \n--  --\n-- rules/a.json/b.json --\n1")
	f.Add("-- rules/a\\b.rego --\n-- rules/c:/a.rego --\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, _, err := reproducer.Parse(text)
		if err != nil {
			return
		}
		for name := range r.Files {
			if err := workspace.CheckPath(name); err != nil || !fs.ValidPath(name) || strings.Contains(name, "..") && !strings.Contains(strings.ReplaceAll(name, "/", ""), "..") {
				t.Fatalf("it has the path %q: %v", name, err)
			}
		}
		written, err := r.Format()
		if err != nil {
			return // a line in a comment can have the form of a file's name
		}
		again, problems, err := reproducer.Parse(written)
		if err != nil || len(problems) > 0 {
			t.Fatalf("%q: %v %v", written, problems, err)
		}
		if !maps.EqualFunc(r.Files, again.Files, sameText) || !sameText(r.Request, again.Request) || !sameText(r.Rows, again.Rows) || !sameText(r.Answer, again.Answer) {
			t.Errorf("%q became %q", r, again)
		}
	})
}

// sameText compares texts as the format keeps them: with a line break at the end.
func sameText(a, b string) bool { return strings.TrimSuffix(a, "\n") == strings.TrimSuffix(b, "\n") }
