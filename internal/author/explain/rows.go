package explain

import (
	"time"

	"github.com/usher-dps/usher/answer"
	"github.com/usher-dps/usher/internal/decide/keymaterial"
)

// Row is what the rule looked up by one key.
type Row struct {
	Function string         `json:"function"` // such as lookup.device
	Key      string         `json:"key"`
	Row      map[string]any `json:"row,omitempty"` // the declared members; nil if there is none
	// Absent is set if there is no such row, or if the source failed and the rules take that as no row.
	Absent  bool      `json:"absent,omitempty"`
	Source  string    `json:"source,omitempty"`
	Version string    `json:"version,omitempty"`
	AsOf    time.Time `json:"asOf,omitzero"`
	Fault   string    `json:"fault,omitempty"`
}

func rowOf(lookup *answer.Lookup, mask keymaterial.Mask) Row {
	row := Row{
		Function: lookup.Builtin, Absent: lookup.Undefined, Source: lookup.Source, Version: lookup.Version,
		AsOf: lookup.AsOf, Fault: mask.Text(lookup.Fault),
	}
	if len(lookup.Arguments) == 1 {
		key, _ := lookup.Arguments[0].(string)
		row.Key = mask.Text(key)
	}
	if found, ok := lookup.Result.(map[string]any); ok {
		row.Row, _ = mask.Value(found).(map[string]any)
	}
	return row
}

// rows shows what was looked up.
func (p printer) rows(rows []Row) {
	if len(rows) == 0 {
		return
	}
	p.line("", "")
	p.line("", "Looked up:")
	for _, row := range rows {
		p.line(step, "%s(%s)%s", row.Function, compact(row.Key), p.style.Faint(row.origin()))
		switch {
		case row.Row != nil:
			p.line(step+step, "%s", short(compact(row.Row), maxValue))
		case row.Absent:
			p.line(step+step, "no such row")
		}
		if row.Fault != "" {
			p.line(step+step, "%s", p.style.Bad("the source failed: "+row.Fault))
		}
	}
}

// origin says where a row is from, and of when.
func (r *Row) origin() string {
	text := ""
	if r.Source != "" {
		text = " from " + r.Source
	}
	if !r.AsOf.IsZero() {
		text += " as of " + r.AsOf.UTC().Format(time.RFC3339)
	}
	return text
}
