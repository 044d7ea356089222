package explanation_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/dps"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// endless runs for hours unless it is stopped.
const endless = `hub := "h" if count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j == -1]) == 0`

func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		t.Fatal(err)
	}
	return document
}

// folder makes a file system of path and text by turns.
func folder(files ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		fsys[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return fsys
}

// serving returns a Rego package that serves enrollment groups, given as a YAML list.
func serving(packageName, groups, rules string) string {
	return fmt.Sprintf("# METADATA\n# custom:\n#   enrollment_groups: [%s]\npackage %s\n\n%s\n", groups, packageName, rules)
}

func group(id string) dps.Enrollment { return dps.Enrollment{Kind: dps.EnrollmentGroup, ID: id} }

func mustLoad(t testing.TB, fsys fs.FS, options ruleset.Options) *ruleset.Ruleset {
	t.Helper()
	rs, err := ruleset.Load(t.Context(), fsys, options)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rs
}

// bothWays loads rules for the group g, compiled at once and when first needed.
func bothWays(t *testing.T, files fstest.MapFS, test func(t *testing.T, rule *ruleset.Rule)) {
	t.Helper()
	for _, lazy := range []bool{false, true} {
		t.Run(fmt.Sprintf("lazy=%v", lazy), func(t *testing.T) {
			test(t, mustLoad(t, files, ruleset.Options{Name: "rules", Lazy: lazy}).Serving(group("g")))
		})
	}
}
