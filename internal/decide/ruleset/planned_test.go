package ruleset_test

import (
	"os"
	"testing"

	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// A plan evaluates every rule that is shipped.
func TestShippedRulesArePlanned(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"../../../rules"} {
		set, err := ruleset.Load(t.Context(), os.DirFS(folder), ruleset.Options{Name: "rules"})
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range set.Rules() {
			if err := rule.Unplanned(); err != nil {
				t.Errorf("%s: %v", rule.Package, err)
			}
		}
	}
}
