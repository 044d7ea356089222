package fleet_test

import (
	"testing"
	"testing/fstest"

	"github.com/usher-dps/usher/internal/decide/decider"
)

// rulesOf loads package allocation.default with these rules in it.
func rulesOf(t testing.TB, text string) *decider.Decider {
	t.Helper()
	files := fstest.MapFS{"rule.rego": {Data: []byte("package allocation.default\n\n" + text + "\n")}}
	rules, err := decider.LoadRules(t.Context(), files, decider.RulesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := decider.New(decider.Options{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
