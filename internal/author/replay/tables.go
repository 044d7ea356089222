package replay

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/lookups"
	"github.com/usher-dps/usher/internal/decide/ruleset"
)

// Table is a table that a look-up is asked of, and the file that it was read from.
type Table struct {
	File string
	Rows *lookups.Table
}

// Tables are tables by the name of the look-up. They are the sources of a decider that shows what other rows would
// change.
type Tables map[string]Table

// Find implements [lookups.Sources].
func (t Tables) Find(ctx context.Context, d *lookups.Declaration, key string) (lookups.Found, error) {
	table, ok := t[d.Name]
	if !ok {
		return lookups.Found{}, lookups.ErrUseFixture
	}
	a, err := table.Rows.Find(ctx, key)
	return lookups.Found{Answer: a, Source: "table"}, err
}

// others are the recorded look-ups that no table is asked for.
func (t Tables) others(recorded []answer.Lookup) []answer.Lookup {
	if len(t) == 0 {
		return recorded
	}
	return slices.DeleteFunc(slices.Clone(recorded), func(call answer.Lookup) bool {
		name, isRow := ruleset.LookupName(call.Builtin)
		_, asked := t[name]
		return isRow && asked
	})
}

// unanswered leaves out of what is masked in a record the rows that a table is asked for.
func (t Tables) unanswered(masked []string) []string {
	if len(t) == 0 {
		return masked
	}
	return slices.DeleteFunc(slices.Clone(masked), func(pointer string) bool {
		below, isRow := strings.CutPrefix(pointer, "/lookups/")
		name, _, _ := strings.Cut(below, "/") // has no character that a pointer escapes
		_, asked := t[name]
		return isRow && asked
	})
}

func (t Tables) summaries() []TableSummary {
	list := []TableSummary{}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		list = append(list, TableSummary{Lookup: name, File: t[name].File, Rows: t[name].Rows.Len()})
	}
	return list
}
