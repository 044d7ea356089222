package explain_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/usher-dps/usher/internal/author/explain"
	"github.com/usher-dps/usher/internal/decide/decider"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/lookup"
)

type rowSource struct {
	found lookups.Found
	err   error
}

func (s rowSource) Find(context.Context, *lookups.Declaration, string) (lookups.Found, error) {
	return s.found, s.err
}

// An explanation shows each row with its key and source, and says if there is none.
func TestRows(t *testing.T) {
	t.Parallel()
	rules, err := decider.LoadRules(t.Context(), fstest.MapFS{
		"lookups.yaml": {Data: []byte("device: {row: {type: object, properties: {hub: {type: string}}}}\n")},
		"a.rego": {Data: []byte("package allocation[\"default\"]\n\nhub := input.linkedHubs[0]\n\n" +
			"reject contains \"unknown\" if not lookup.device(input.deviceRuntimeContext.registrationId)\n")}}, decider.RulesOptions{Name: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	asOf := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, test := range map[string]struct {
		source     rowSource
		text, json string
	}{
		"a row": {rowSource{found: lookups.Found{Source: "postgres", Answer: lookup.Answer{Row: map[string]any{"hub": "h"}, AsOf: asOf}}},
			"  lookup.device(\"dev-1\") from postgres as of 2026-01-02T03:04:05Z\n    {\"hub\":\"h\"}\n",
			`[{"function":"lookup.device","key":"dev-1","row":{"hub":"h"},"source":"postgres","asOf":"2026-01-02T03:04:05Z"}]`},
		"no row": {rowSource{found: lookups.Found{Source: "snapshot"}}, "  lookup.device(\"dev-1\") from snapshot\n    no such row\n",
			`[{"function":"lookup.device","key":"dev-1","absent":true,"source":"snapshot"}]`},
		"a fault": {rowSource{err: errors.New("connection refused")}, "  lookup.device(\"dev-1\")\n    the source failed: connection refused\n",
			`[{"function":"lookup.device","key":"dev-1","fault":"connection refused"}]`},
	} {
		d, err := decider.New(decider.Options{Rules: rules, Lookups: test.source})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := report(t, d, asking("", ""))
		var text, document bytes.Buffer
		if err := errors.Join(r.WriteText(&text, explain.Plain()), r.WriteJSON(&document)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text.String(), "Looked up:\n"+test.text) {
			t.Errorf("%s: got\n%s", name, text.String())
		}
		var got struct{ Lookups json.RawMessage }
		var compact bytes.Buffer
		if err := errors.Join(json.Unmarshal(document.Bytes(), &got), json.Compact(&compact, got.Lookups)); err != nil || compact.String() != test.json {
			t.Errorf("%s: %v: got %s", name, err, compact.String())
		}
	}
}
